"""Cross-validation folds that never part a patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from data_contracts.errors import UsageError


def patient_folds(
    patient_keys: Sequence[str] | pd.Series, labels: Sequence[object] | pd.Series, n_folds: int, seed: int
) -> NDArray[np.int64]:
    """Fold number (0 .. n_folds - 1) of each row; all rows of a patient share it, labels are spread evenly.

    Parameters
    ----------
    labels: 0, 1 or NA; indeterminate rows are spread like a third class.

    Raises
    ------
    UsageError: fewer patients than folds.
    """
    patients = np.asarray(patient_keys, dtype=object).astype(str)
    strata = pd.Series(labels).astype("Int8").fillna(2).to_numpy(dtype=np.int64)
    n_patients = len(set(patients.tolist()))
    if n_folds < 2 or n_patients < n_folds:
        raise UsageError(
            f"{n_patients} patients cannot be parted into {n_folds} folds",
            where="cross-validation",
            todo="Use at least two folds and at least as many patients.",
        )
    folds = np.empty(len(patients), dtype=np.int64)
    # The common class of a stratum may be rarer than n_folds; StratifiedGroupKFold needs one class that is not.
    _, counts = np.unique(strata, return_counts=True)
    if counts.max() < n_folds:
        strata = np.zeros_like(strata)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(patients, strata, groups=patients)):
        folds[held_out] = fold
    return folds
