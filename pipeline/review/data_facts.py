"""What a run knows of itself, for the items of a disclosure: its data, their labels, and how they were divided."""

from __future__ import annotations

from typing import Any

from data_contracts.patches import DatasetCard
from pipeline.review.facts import Fact, foreign, listed, missing

_NAMES = (
    "data",
    "preprocessing",
    "selection_rules",
    "reference",
    "identity",
    "partition",
    "disjoint",
    "partition_counts",
)


def data_facts(dataset: DatasetCard | None) -> dict[str, Fact]:
    """Facts of a dataset, by name; all of them missing where its card is."""
    if dataset is None:
        return dict.fromkeys(_NAMES, missing("the card of its dataset is gone"))
    counts, told = dataset.counts, dataset.parameters
    sites = ", ".join(f"{foreign(key[5:])} ({n})" for key, n in counts.items() if key.startswith("site:"))
    patients = f"{counts.get('patients', 0)} patients" if patients_known(dataset) else "patients that nobody has named"
    parts = "; ".join(
        f"{part}: {counts.get(f'split:{part}', 0)} ({counts.get(f'split:{part} label:1', 0)} malignant, "
        f"{counts.get(f'split:{part} label:0', 0)} benign, {counts.get(f'split:{part} label:none', 0)} without a label)"
        for part in ("train", "validation", "test")
    )
    return {
        "data": Fact(
            f"Dataset {dataset.dataset_id}{f' ({foreign(dataset.name)})' if dataset.name else ''}: "
            f"{counts.get('patches', 0)} patches of {patients}; sites {sites or 'not named'}."
        ),
        "partition_counts": Fact(f"{parts}."),
        **_making(dataset),
        **_division(dataset, parts),
        "reference": _reference(told),
    }


def patients_known(dataset: DatasetCard) -> bool:
    """Whether the data say which patches are of one patient."""
    return dataset.parameters.get("importer") != "medmnist" and dataset.parameters.get("patients_known") is not False


def labels_are_ratings(dataset: DatasetCard) -> bool:
    """Whether labels were made from readers' ratings by a rule of the program."""
    return bool(_table(dataset.parameters.get("label")))


def _making(dataset: DatasetCard) -> dict[str, Fact]:
    told = dataset.parameters
    importer = told.get("importer")
    unlabelled = (
        f"Nodules without a label (readers undecided, or too few: {dataset.counts.get('label:none', 0)}) are in no "
        "figure, and are learned from only through mean ratings, where the training asks for them."
    )
    if importer:
        excluded = " Patients on a list of the site were left out." if told.get("excluded_patients") else ""
        return {
            "preprocessing": Fact(
                f"Imported as finished images ({foreign(importer)}); what was done to the pixels before is not known "
                "here."
            ),
            "selection_rules": Fact(f"All images that the import could read.{excluded} {unlabelled}"),
            "identity": Fact("Images without DICOM headers were imported; what was removed before is not known here."),
        }
    return {
        "preprocessing": Fact(
            "DICOM series were checked (geometry, missing slices, rescale, duplicates) and decoded to HU, and patches "
            f"were cut: {listed(_table(told.get('patch'))) or 'parameters not recorded'}."
        ),
        "selection_rules": Fact(
            f"Series that fail the checks of the intake are left out, each with its reason in rejected.parquet. "
            f"{unlabelled}"
        ),
        "identity": Fact(
            "Identifiers stop at the intake: UIDs and patient keys are keyed digests, dates are shifted "
            "(docs/identity.md), unless the site has set keep_identity."
        ),
    }


def _division(dataset: DatasetCard, parts: str) -> dict[str, Fact]:
    split = _table(dataset.parameters.get("split"))
    if not patients_known(dataset):
        how = f"By a hash of the image ({listed(split)}; the rest is held out)" if split else "As the dataset came"
        return {
            "partition": Fact(f"{how}. {parts}."),
            "disjoint": Fact(
                "Images only: the data name no patients, so one may be in two parts, held-out figures may be too good "
                "and their intervals too narrow."
            ),
        }
    how = f"By a hash of the patient key ({listed(split)}; the rest is held out), for ever" if split else "As it came"
    return {
        "partition": Fact(f"{how}. {parts}."),
        "disjoint": Fact(
            "Patients: all nodules of a patient are in one part, and a fit is refused where one is in two."
        ),
    }


def _reference(told: dict[str, object]) -> Fact:
    label, classes = _table(told.get("label")), _table(told.get("classes"))
    if label:
        return Fact(
            f"Malignancy as rated by readers, from at least {label.get('min_readers', 1)} reader(s), mean rating "
            f"against {label.get('threshold', 3)} on the scale of 1 to 5; a mean of exactly that is indeterminate. It "
            "is an opinion on one scan, neither pathology nor follow-up, and there is no time horizon."
        )
    named = f" (1 is {foreign(classes.get('1'))}, 0 is {foreign(classes.get('0'))})" if classes else ""
    return Fact(f"The label that the imported data bring{named}; what stands behind it is not known here.")


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
