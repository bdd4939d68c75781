"""Identity at the door of a workspace: sealed for the way back, and its policy audited when it changes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydicom

from data_contracts.params import DeidentifyParams, IngestParams
from data_contracts.series import Rejection, SeriesRecord
from flows.registry.audit import append_audit, read_audit
from flows.settings import Settings, actor_name
from flows.workspace import Workspace
from pipeline.deidentify.identity import HeaderIdentity, header_identity
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.vault import StudyIdentity, Vault
from pipeline.headers.values import silence_pydicom
from pipeline.intake.discover import RawSeries

#: subject of the audit's lines, by command
INGEST, EXPORT = "de-identification of ingest", "de-identification of export"
_HEADER_TAGS = ["SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "AccessionNumber", "PatientName", "PatientID"]
_HEADER_TAGS += ["IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID"]
#: what the objects of a study share beside its identifiers
_STUDY_TAGS = ["PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName"]


def ingest_policy(params: IngestParams, keep_identity: bool) -> dict[str, Any]:
    """What an ingest does with identity."""
    return {"keep_identity": keep_identity, "keep_vault": params.keep_vault, "burned_in": params.burned_in}


def export_policy(params: DeidentifyParams, keep_vault: bool) -> dict[str, Any]:
    """What an export as DICOM does with identity."""
    return {**params.model_dump(mode="json"), "keep_vault": keep_vault}


_FIRST = {INGEST: ingest_policy(IngestParams(), False), EXPORT: export_policy(DeidentifyParams(), True)}


def last_policy(workspace: Workspace) -> tuple[IngestParams, bool]:
    """How the last ingest treated identity, as parameters and keep_identity; the defaults where none said otherwise."""
    policy = {**_FIRST[INGEST], **_noted(workspace, INGEST)}
    keep_identity = bool(policy.pop("keep_identity"))
    return IngestParams.from_mapping(policy, where="the policy in the audit"), keep_identity


def note_policy(workspace: Workspace, subject: str, policy: dict[str, Any]) -> None:
    """Add a line to the audit where the policy is not that of the last time; the first time counts as the defaults."""
    with workspace.lock("identity-policy"):
        before = _noted(workspace, subject) or _FIRST[subject]
        if before == policy:
            return
        changed = sorted(name for name in {*before, *policy} if before.get(name) != policy.get(name))
        detail = {"event": "de-identification policy change", "changed": changed, "policy": policy, "before": before}
        append_audit(workspace, actor=actor_name(Settings()), action="policy", subject=subject, detail=detail)


def _noted(workspace: Workspace, subject: str) -> dict[str, Any]:
    """The policy that the audit's last line of a subject has; empty where it has none."""
    earlier = [record for record in read_audit(workspace) if record.subject == subject]
    return dict(earlier[-1].detail.get("policy", {})) if earlier else {}  # type: ignore[call-overload]


def seal_accepted(
    items: Iterable[SeriesRecord | Rejection],
    raw: RawSeries,
    pseudonymizer: Pseudonymizer,
    params: IngestParams,
    folder: Path,
) -> None:
    """Seal whose series this is below `folder`, where one of its parts was accepted.

    Raises
    ------
    UsageError: the study was sealed with another secret.
    """
    accepted = {key for item in items if isinstance(item, SeriesRecord) for key in item.sop_uid_keys}
    if not accepted or not params.keep_vault:
        return
    uids = [
        header.sop_instance_uid for header in raw.slices if pseudonymizer.uid_key(header.sop_instance_uid) in accepted
    ]
    frames = {header.frame_of_reference_uid for header in raw.slices if header.frame_of_reference_uid}
    dataset = _dataset_of(raw)
    identity = StudyIdentity.of(_header_of(raw, dataset), pseudonymizer, uids).model_copy(
        update={
            "frames": {pseudonymizer.uid_key(uid): uid for uid in sorted(frames)},
            "header": {keyword: text for keyword in _STUDY_TAGS if (text := _text_of(dataset, keyword)[:1024])},
        }
    )
    Vault(folder, pseudonymizer.secret).seal(identity.study_key, identity)


def _dataset_of(raw: RawSeries) -> pydicom.Dataset:
    """The first header of a series, as far as its identity goes."""
    silence_pydicom()
    tags: list[Any] = [*_HEADER_TAGS, *_STUDY_TAGS]
    try:
        return pydicom.dcmread(raw.slices[0].path, stop_before_pixels=True, force=True, specific_tags=tags)
    except Exception:  # the scan read it once; a header that breaks pydicom still has its keys
        return pydicom.Dataset()


def _text_of(dataset: pydicom.Dataset, keyword: str) -> str:
    """A value as text, "" where there is none or where it breaks the parser."""
    try:
        return str(dataset.get(keyword, "") or "")
    except Exception:  # headers are hostile
        return ""


def _header_of(raw: RawSeries, dataset: pydicom.Dataset) -> HeaderIdentity:
    """Identity of a series by its first header; what the scan knows counts."""
    first = raw.slices[0]
    header = header_identity(dataset)
    return HeaderIdentity(
        patient_id=first.patient_id,
        patient_name=header.patient_name,
        issuer=first.issuer,
        accession_number=header.accession_number,
        study_instance_uid=first.study_instance_uid,
        series_instance_uid=first.series_instance_uid,
        sop_instance_uid=first.sop_instance_uid,
        sop_class_uid=first.sop_class_uid,
        charset=header.charset,
        names=header.names,
        others=header.others,
    )
