"""One series from its headers to a stored HU volume, or to the reason why not."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import GeometryError, NoduleflowError, WorkspaceError, is_full_disk
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import QualityFinding, Rejection, SeriesRecord, SourceIdentity
from data_contracts.volume import CTVolume
from pipeline.deidentify.pseudonyms import Pseudonymizer, clean_age_years, clean_label
from pipeline.headers.slice_header import SliceHeader
from pipeline.headers.verdict import Refusal
from pipeline.intake.assemble import AssembledVolume, assemble
from pipeline.intake.check import Part, is_tilted, make_parts
from pipeline.intake.discover import RawSeries
from pipeline.intake.findings import findings_of
from pipeline.intake.store import store_series, volume_name
from pipeline.intake.triage import triage
from pipeline.pixels.decode import decode_volume
from pipeline.pixels.volume_memory import VolumeMemory


class _OfThread(threading.local):
    """Each thread's memory for the volume it is at; a volume is stored before the next one takes its place."""

    def __init__(self) -> None:
        self.memory = VolumeMemory()


_OWN = _OfThread()


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
    records: list[SeriesRecord] = []
    for part in make_parts(planes, params) if planes else ():
        stored = (
            part if isinstance(part, Refusal) else _ingest_part(raw, part, pseudonymizer, params, series_root, site)
        )
        if isinstance(stored, Refusal):
            refusals.append(stored)
        else:
            records.append(stored)
    # what lay beside one accepted volume is told apart from what made none
    key = records[0].series_key if len(records) == 1 else ""
    return [*(_rejection(raw, refusal, pseudonymizer, key) for refusal in refusals), *records]


def _ingest_part(
    raw: RawSeries, part: Part, pseudonymizer: Pseudonymizer, params: IngestParams, series_root: Path, site: str
) -> SeriesRecord | Refusal:
    pixels = decode_volume(part.slices, params, _OWN.memory)
    if isinstance(pixels, Refusal):
        return pixels
    frame = part.slices[0].frame_of_reference_uid
    try:
        assembled = assemble(part, pixels, params)
        volume = CTVolume(assembled.hu, assembled.affine, pseudonymizer.uid_key(frame) if frame else "")
    except GeometryError as error:
        reason = ReasonCode.GANTRY_TILT if is_tilted(part.grid) else ReasonCode.MISSING_GEOMETRY
        return Refusal(reason, error.what, part.slices)
    findings = findings_of(raw, part, pixels, assembled, params, pseudonymizer)
    record = _record(raw, part, assembled, findings, volume, pseudonymizer, params, series_root, site)
    try:
        return store_series(series_root, record, volume, assembled.padding)
    except OSError as error:
        if is_full_disk(error):
            need = volume.hu.nbytes >> 20
            return Refusal(ReasonCode.LOW_DISK_SPACE, f"{need} MiB for the volume", part.slices)
        raise WorkspaceError(
            f"the workspace cannot be written ({error.strerror or type(error).__name__})", todo="Check its permissions."
        ) from None


def _record(
    raw: RawSeries,
    part: Part,
    assembled: AssembledVolume,
    findings: tuple[QualityFinding, ...],
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
    uid_keys, uids_of_slices = [""] * len(volume.hu), [""] * len(volume.hu)
    frames, numbers = [0] * len(volume.hu), [0] * len(volume.hu)
    for place, header in zip(assembled.places, part.slices, strict=True):
        uids_of_slices[place], frames[place] = header.sop_instance_uid, header.frame + 1
        numbers[place] = clean_number(header.instance_number) or 0
        uid_keys[place] = pseudonymizer.uid_key(header.sop_instance_uid)
    is_resampled = volume.affine is not part.grid.affine

    def label(text: str) -> str:
        return clean_label(text, first.identifiers)

    return SeriesRecord(
        series_key=series_key,
        study_key=pseudonymizer.uid_key(first.study_instance_uid),
        patient_key=patient,
        site=site,
        volume_path=f"{series_root.name}/{series_key}/{volume_name(params.compress)}",
        n_slices=len(volume.hu),
        shape_kji=volume.shape_kji,
        spacing_kji_mm=volume.spacing_kji_mm,
        affine_lps=_lines(volume.affine),
        slice_affine_lps=_lines(part.grid.affine) if is_resampled else None,
        slice_shape=(first.rows, first.columns) if is_resampled else None,
        sop_class_uid=clean_uid(first.sop_class_uid),
        frame_numbers=tuple(frames) if first.n_frames > 1 else (),
        series_number=clean_number(first.series_number),
        instance_numbers=tuple(numbers) if any(numbers) else (),
        series_uid_key=raw.series_uid_key,
        frame_of_reference_key=volume.frame_of_reference_key,
        sop_uid_keys=tuple(uid_keys),
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
        padding_hu=params.padding_hu if assembled.padding_voxels else None,
        padding_voxels=assembled.padding_voxels,
        findings=findings,
        identity=_identity(first, uids_of_slices) if pseudonymizer.keep_identity else None,
    )


def clean_number(number: int | None) -> int | None:
    """A number that a scanner counts up to; a longer one could be someone's."""
    return number if number is not None and 0 < number < 100_000 else None


def clean_uid(uid: str) -> str:
    """A standard DICOM UID as it is; anything else could be someone's."""
    return uid if uid.startswith("1.2.840.10008.") and len(uid) <= 32 else ""


def _lines(affine: NDArray[np.float64]) -> tuple[tuple[float, float, float, float], ...]:
    return tuple((line[0], line[1], line[2], line[3]) for line in affine.tolist())


def _identity(header: SliceHeader, uids_of_slices: list[str]) -> SourceIdentity:
    return SourceIdentity(
        patient_id=header.patient_id,
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        frame_of_reference_uid=header.frame_of_reference_uid,
        sop_instance_uids=tuple(uids_of_slices),
    )


def _rejection(raw: RawSeries, refusal: Refusal, pseudonymizer: Pseudonymizer, series_key: str = "") -> Rejection:
    first = raw.slices[0]
    uids = dict.fromkeys(header.sop_instance_uid for header in refusal.slices)
    return Rejection(
        path=pseudonymizer.path(raw.relative),
        series_key=series_key,
        reason=refusal.reason,
        detail=refusal.detail,
        sop_instance_uids=pseudonymizer.uids(uids),
        patient_id=first.patient_id if pseudonymizer.keep_identity else None,
        series_instance_uid=first.series_instance_uid if pseudonymizer.keep_identity else None,
    )
