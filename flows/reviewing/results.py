"""Results of a review as DICOM, written beside its report, and whose they are."""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from data_contracts.errors import ContractError, NothingUsableError, UsageError
from data_contracts.params import ReviewParams
from data_contracts.records import write_bytes_atomic
from data_contracts.review import StudyReview
from data_contracts.series import SeriesRecord
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.deidentify.vault import PatientIdentity, StudyIdentity, Vault
from pipeline.headers.values import silence_pydicom
from pipeline.review.dicom.home import with_identity
from pipeline.review.dicom.objects import study_objects
from pipeline.review.dicom.source import pseudonymous_study
from pipeline.review.measure import Outline

#: the list of a study's objects, and what could not be said with them
LIST_NAME = "dicom.json"

NO_KEY = "no key (secret.key of the ingest, or NODULEFLOW_SECRET): the images cannot be referred to"
_OTHER_KEY = "the key is not that of the ingest: its sealed identity does not open with it"
_NOT_SEALED = "no identity is kept for it (ingested with keep_vault=false and without keep_identity, or elsewhere)"


@dataclass
class Drawn:
    """What of the findings is drawn, by finding id. sides_mm: what the close-ups cover."""

    outlines: dict[str, Outline] = field(default_factory=dict)
    sides_mm: dict[str, float] = field(default_factory=dict)

    def add(self, finding_id: str, outline: Outline | None, side_mm: float) -> None:
        """Note a finding."""
        self.sides_mm[finding_id] = side_mm
        if outline is not None:
            self.outlines[finding_id] = outline


def with_kept_time(folder: Path, review: StudyReview) -> StudyReview:
    """The review with the time of the one in `folder` where both say the same: then every file stays as it is."""
    try:
        before = StudyReview.read(folder / "review.json")
    except (ContractError, OSError):
        return review
    same = review.model_copy(update={"created_utc": before.created_utc})
    return same if same == before else review


def write_results(
    workspace: Workspace,
    review: StudyReview,
    records: Sequence[SeriesRecord],
    drawn: Drawn,
    images: Mapping[str, bytes],
    pdf: bytes | None,
    params: ReviewParams,
) -> None:
    """Write the DICOM objects of a review and their list into its folder; those of an earlier review go.

    They carry the identity of the study where its ingest kept it, else its pseudonyms.
    """
    folder = workspace.reviews_root / review.study_key
    objects: dict[str, Dataset] = {}
    problems: tuple[str, ...] = ()
    identity = "pseudonymous"
    pseudonymizer = pseudonymizer_of(workspace)
    if params.dicom:
        if pseudonymizer is None:
            problems = (f"no results in DICOM: {NO_KEY}",)
        elif (known := identity_of(workspace, review.study_key, records, pseudonymizer)) == _OTHER_KEY:
            problems = (f"no results in DICOM: {_OTHER_KEY}",)
        else:
            silence_pydicom()
            study = pseudonymous_study(records, pseudonymizer)
            version = importlib.metadata.version("noduleflow")
            made = study_objects(review, drawn.outlines, images, drawn.sides_mm, pdf, study, version, params)
            objects, problems = made.objects, made.problems
            if all(record.identity for record in records) and isinstance(known, StudyIdentity):
                objects, identity = with_identity(objects, known, pseudonymizer), "original"
    for name, made_of in objects.items():
        write_bytes_atomic(folder / name, file_bytes(made_of))
    listed = {"objects": sorted(objects), "problems": list(problems), "identity": identity}
    write_bytes_atomic(folder / LIST_NAME, (json.dumps(listed, indent=2) + "\n").encode())
    for stale in folder.glob("*.dcm"):
        if stale.name not in objects:
            stale.unlink(missing_ok=True)


def results_of(folder: Path) -> dict[str, Any]:
    """The list of a study's objects; an empty one where it was reviewed without."""
    try:
        return dict(json.loads((folder / LIST_NAME).read_text()))
    except (OSError, ValueError):
        return {"objects": [], "problems": ["reviewed without results in DICOM"], "identity": "pseudonymous"}


def pseudonymizer_of(workspace: Workspace) -> Pseudonymizer | None:
    """With the key of the workspace; None where there is none, which is no reason to make one."""
    secret = configured_secret()
    if secret is None and not workspace.secret_file.is_file():
        return None
    return Pseudonymizer(workspace.secret(secret))


def identity_of(
    workspace: Workspace, study_key: str, records: Sequence[SeriesRecord], pseudonymizer: Pseudonymizer
) -> StudyIdentity | str:
    """Whose the study is, sealed or kept in its records; or why that is not known."""
    try:
        return Vault(workspace.identity_root, pseudonymizer.secret).open(study_key)
    except NothingUsableError:
        return _kept_identity(study_key, records, pseudonymizer) or _NOT_SEALED
    except UsageError:
        return _OTHER_KEY


def _kept_identity(
    study_key: str, records: Sequence[SeriesRecord], pseudonymizer: Pseudonymizer
) -> StudyIdentity | None:
    """The identity that an ingest with keep_identity left in every record of the study."""
    whole: StudyIdentity | None = None
    for record in records:
        kept = record.identity
        if kept is None or len(kept.sop_instance_uids) != len(record.sop_uid_keys):
            return None
        patient = PatientIdentity(
            patient_id=kept.patient_id,
            patient_name="",
            issuer="",
            shift_days=pseudonymizer.shift_days(record.patient_key),
        )
        own = StudyIdentity(
            study_key=study_key,
            study_instance_uid=kept.study_instance_uid,
            patients={record.patient_key: patient},
            series={record.series_uid_key: kept.series_instance_uid},
            instances={
                key: uid for key, uid in zip(record.sop_uid_keys, kept.sop_instance_uids, strict=True) if key and uid
            },
            frames={record.frame_of_reference_key: kept.frame_of_reference_uid} if kept.frame_of_reference_uid else {},
        )
        whole = own if whole is None else whole.merged(own)
    return whole


def file_bytes(made: Dataset) -> bytes:
    """The object as a DICOM file."""
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
