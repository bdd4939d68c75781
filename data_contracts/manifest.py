"""Which patient is in which split: decided once, by a hash of the patient key."""

from __future__ import annotations

from enum import StrEnum

from data_contracts.records import Record


class Split(StrEnum):
    """TRAIN fits parameters, VALIDATION chooses and calibrates, TEST is looked at once."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Manifest(Record):
    """Patient key -> split, for every patient of a dataset, and how it was decided."""

    salt: str
    fractions: dict[Split, float]
    patients: dict[str, Split]

    def counts(self) -> dict[str, int]:
        """Number of patients in each split."""
        return {split.value: sum(value == split for value in self.patients.values()) for split in Split}
