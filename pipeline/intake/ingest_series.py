"""One series from its headers to a stored HU volume, or to the reason why not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from data_contracts.errors import GeometryError, NoduleflowError, WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import QualityFinding, Rejection, SeriesRecord, SourceIdentity
from data_contracts.volume import CTVolume
from pipeline.deidentify.pseudonyms import Pseudonymizer, clean_age_years, clean_label
from pipeline.intake.check import Part, make_parts
from pipeline.intake.decode import DecodedVolume, decode_volume
from pipeline.intake.discover import RawSeries
from pipeline.intake.geometry import Refusal
from pipeline.intake.headers import SliceHeader
from pipeline.intake.hounsfield import implausibility
from pipeline.intake.store import store_series, volume_name
from pipeline.intake.triage import is_derived, is_lossy, triage

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def ingest_series(
    raw: RawSeries, pseudonymizer: Pseudonymizer, params: IngestParams, series_root: Path, site: str
) -> list[SeriesRecord | Rejection]:
    """Check, decode and store one series; several records where several acquisitions shared its UID.

    Every object of the series ends in a record or in a rejection. The record names its volume relative to the
    parent of `series_root`.

    Raises
    ------
    WorkspaceError: `series_root` cannot be written for another reason than a full disk.
    """
    try:
        return _ingest(raw, pseudonymizer, params, series_root, site)
    except NoduleflowError:
        raise
    except Exception as error:  # headers are hostile: one series must not end the ingest of the others
        refusal = Refusal(ReasonCode.INTERNAL_ERROR, type(error).__name__, raw.slices)
        return [_rejection(raw, refusal, pseudonymizer)]


def _ingest(
    raw: RawSeries, pseudonymizer: Pseudonymizer, params: IngestParams, series_root: Path, site: str
) -> list[SeriesRecord | Rejection]:
    planes, refusals = triage(raw.slices, params)
    outcome: list[SeriesRecord | Rejection] = [_rejection(raw, refusal, pseudonymizer) for refusal in refusals]
    if not planes:
        return outcome
    for part in make_parts(planes, params):
        stored = (
            part if isinstance(part, Refusal) else _ingest_part(raw, part, pseudonymizer, params, series_root, site)
        )
        outcome.append(_rejection(raw, stored, pseudonymizer) if isinstance(stored, Refusal) else stored)
    return outcome


def _ingest_part(
    raw: RawSeries, part: Part, pseudonymizer: Pseudonymizer, params: IngestParams, series_root: Path, site: str
) -> SeriesRecord | Refusal:
    pixels = decode_volume(part.slices, params)
    if isinstance(pixels, Refusal):
        return pixels
    if why := implausibility(pixels.hu, params.padding_hu, pixels.noisy_voxels):
        return Refusal(ReasonCode.IMPLAUSIBLE_HU, why, part.slices)
    frame = part.slices[0].frame_of_reference_uid
    try:
        volume = CTVolume(pixels.hu, part.grid.affine, pseudonymizer.uid_key(frame) if frame else "")
    except GeometryError as error:
        return Refusal(ReasonCode.MISSING_GEOMETRY, error.what, part.slices)
    record = _record(raw, part, pixels, volume, pseudonymizer, params, series_root, site)
    try:
        return store_series(series_root, record, volume)
    except OSError as error:
        if error.errno in _NO_ROOM:
            need = volume.hu.nbytes >> 20
            return Refusal(ReasonCode.LOW_DISK_SPACE, f"{need} MiB for the volume", part.slices)
        raise WorkspaceError(
            f"the workspace cannot be written ({os.strerror(error.errno or 0)})", todo="Check its permissions."
        ) from None


def _findings(
    part: Part, pixels: DecodedVolume, params: IngestParams, pseudonymizer: Pseudonymizer
) -> tuple[QualityFinding, ...]:
    found = [
        QualityFinding(
            code=note.reason,
            detail=note.detail,
            sop_instance_uids=pseudonymizer.uids(dict.fromkeys(header.sop_instance_uid for header in note.slices)),
        )
        for note in part.notes
    ]
    first = part.slices[0]
    if pixels.padding_voxels:
        detail = f"{pixels.padding_voxels} voxels set to {params.padding_hu} HU"
        found.append(QualityFinding(code=ReasonCode.PADDING_REPLACED, detail=detail))
    if pixels.clipped:
        found.append(QualityFinding(code=ReasonCode.HU_OUT_OF_RANGE, detail=f"{pixels.clipped} voxels clipped"))
    if lossy := sum(is_lossy(header) for header in part.slices):
        found.append(QualityFinding(code=ReasonCode.LOSSY_COMPRESSION, detail=f"{lossy} slices"))
    if is_derived(first):
        found.append(QualityFinding(code=ReasonCode.DERIVED_IMAGE, detail="computed from other images; values are HU"))
    if first.rescale_type not in ("", "HU"):
        found.append(QualityFinding(code=ReasonCode.RESCALE_TYPE_NOT_HU, detail="unspecified; values look like HU"))
    return tuple(found)


def _record(
    raw: RawSeries,
    part: Part,
    pixels: DecodedVolume,
    volume: CTVolume,
    pseudonymizer: Pseudonymizer,
    params: IngestParams,
    series_root: Path,
    site: str,
) -> SeriesRecord:
    first = part.slices[0]
    # nobody's id is no id: such patients are told apart by their study
    patient = pseudonymizer.patient_key(first.patient_id or f"study {first.study_instance_uid}", first.issuer)
    digest = hashlib.sha256(volume.hu.data.cast("B")).hexdigest()
    uids = [header.sop_instance_uid for header in part.slices]
    facts = [patient, sorted(uids), digest, np.round(volume.affine, 6).tolist(), params.compress]
    series_key = pseudonymizer.key("series", json.dumps(facts))

    def label(text: str) -> str:
        return clean_label(text, first.identifiers)

    return SeriesRecord(
        series_key=series_key,
        study_key=pseudonymizer.uid_key(first.study_instance_uid),
        patient_key=patient,
        site=site,
        volume_path=f"{series_root.name}/{series_key}/{volume_name(params.compress)}",
        n_slices=len(part.slices),
        shape_kji=volume.shape_kji,
        spacing_kji_mm=volume.spacing_kji_mm,
        affine_lps=tuple(tuple(line) for line in volume.affine.tolist()),
        series_uid_key=raw.series_uid_key,
        frame_of_reference_key=volume.frame_of_reference_key,
        sop_uid_keys=tuple(pseudonymizer.uid_key(uid) for uid in uids),
        pixel_sha256=digest,
        source_path=pseudonymizer.path(raw.relative),
        transfer_syntax=clean_uid(first.transfer_syntax),
        kernel=label(first.kernel),
        manufacturer=label(first.manufacturer),
        model_name=label(first.model_name),
        slice_thickness_mm=first.slice_thickness_mm,
        kvp=first.kvp,
        exposure_mas=first.exposure_mas,
        contrast=first.contrast,
        patient_sex=first.patient_sex if first.patient_sex in ("M", "F", "O") else "",
        patient_age_years=clean_age_years(first.patient_age),
        study_date_shifted=pseudonymizer.shift_date(patient, first.study_date),
        padding_hu=params.padding_hu if pixels.padding_voxels else None,
        padding_voxels=pixels.padding_voxels,
        findings=_findings(part, pixels, params, pseudonymizer),
        identity=_identity(first) if pseudonymizer.keep_identity else None,
    )


def clean_uid(uid: str) -> str:
    """A standard DICOM UID as it is; anything else could be someone's."""
    return uid if uid.startswith("1.2.840.10008.") and len(uid) <= 32 else ""


def _identity(header: SliceHeader) -> SourceIdentity:
    return SourceIdentity(
        patient_id=header.patient_id,
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
    )


def _rejection(raw: RawSeries, refusal: Refusal, pseudonymizer: Pseudonymizer) -> Rejection:
    first = raw.slices[0]
    uids = dict.fromkeys(header.sop_instance_uid for header in refusal.slices)
    return Rejection(
        path=pseudonymizer.path(raw.relative),
        reason=refusal.reason,
        detail=refusal.detail,
        sop_instance_uids=pseudonymizer.uids(uids),
        patient_id=first.patient_id if pseudonymizer.keep_identity else None,
        series_instance_uid=first.series_instance_uid if pseudonymizer.keep_identity else None,
    )
