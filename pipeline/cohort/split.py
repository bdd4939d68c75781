"""Which patient is in which split, and the check that nobody is in two.

A patient's split follows from a hash of salt and patient key alone: it stays the same whoever else is in the cohort,
on every machine, for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pandas as pd

from data_contracts.errors import ContractError, LeakError, UsageError
from data_contracts.manifest import Manifest, Split
from data_contracts.params import SplitParams


def split_of(patient_key: str, params: SplitParams) -> Split:
    """The split of one patient: sha256(salt, NUL, key) as a fraction of 1, compared with the wanted fractions."""
    digest = hashlib.sha256(f"{params.salt}\0{patient_key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < params.train:
        return Split.TRAIN
    return Split.VALIDATION if position < params.train + params.validation else Split.TEST


def split_patients(patient_keys: Iterable[str], params: SplitParams) -> Manifest:
    """The manifest of these patients; repeated keys count once.

    Raises
    ------
    UsageError: the fractions leave nothing for test.
    ContractError: an empty patient key, which would put unknown patients together or apart by chance.
    """
    rest = 1.0 - params.train - params.validation
    if rest <= 0:
        raise UsageError(
            f"train {params.train:g} and validation {params.validation:g} leave no patients for test",
            todo="Their sum must be below 1.",
        )
    keys = sorted(set(patient_keys))
    if "" in keys:
        raise ContractError("a patient without a key cannot be split")
    return Manifest(
        salt=params.salt,
        fractions={Split.TRAIN: params.train, Split.VALIDATION: params.validation, Split.TEST: round(rest, 12)},
        patients={key: split_of(key, params) for key in keys},
    )


def check_no_leak(index: pd.DataFrame) -> None:
    """Refuse a table (patient_key, split; series_key and nodule_id where there) with anyone in two splits.

    Raises
    ------
    LeakError: a patient, series or nodule is in more than one split, or a row has no patient.
    """
    if bool(index["patient_key"].isna().any()) or bool((index["patient_key"] == "").any()):
        raise LeakError("rows without a patient key: nobody can say that their patient is in one split only")
    for column in ("patient_key", "series_key", "nodule_id"):
        if column not in index:
            continue
        named = index[index[column] != ""]
        splits = named.groupby(column, sort=True)["split"].nunique()
        leaked = splits[splits > 1]
        if len(leaked):
            raise LeakError(
                f"{len(leaked)} values of {column} are in more than one split",
                where=str(leaked.index[0]),
                todo="Split by patient with one manifest; never by nodule or series.",
            )
