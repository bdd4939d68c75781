"""Folds keep a patient's nodules together and share the classes out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import UsageError
from pipeline.scoring.folds import patient_folds


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
@settings(max_examples=80, deadline=None)
@given(st.integers(2, 6), st.integers(0, 12), st.integers(0, 30), st.integers(0, 2**20))
def test_no_patient_stands_in_two_folds_and_no_fold_is_empty(n_folds, more_patients, more_nodules, seed):
    rng = np.random.default_rng(seed)
    n_patients = n_folds + more_patients
    patients = np.r_[np.arange(n_patients), rng.integers(0, n_patients, more_nodules)].astype(str)
    labels = rng.choice([0, 1, np.nan], patients.size)
    folds = patient_folds(patients, labels, n_folds, seed % 1000)
    assert set(folds) == set(range(n_folds))
    assert (pd.Series(folds).groupby(patients).nunique() == 1).all()


def test_malignant_nodules_are_shared_out_evenly():
    rng = np.random.default_rng(0)
    patients = pd.Series([f"p{i}" for i in rng.integers(0, 100, 300)])
    labels = pd.Series((rng.random(300) < 0.3).astype(int), dtype="Int8")
    folds = patient_folds(patients, labels, 5, seed=0)
    malignant = [int((labels[folds == fold] == 1).sum()) for fold in range(5)]
    assert max(malignant) - min(malignant) <= 3


def test_the_same_seed_gives_the_same_folds_and_another_seed_others():
    patients = [f"p{i // 2}" for i in range(60)]
    labels = [i % 2 for i in range(60)]
    first, again, other = (patient_folds(patients, labels, 3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_every_nodule_indeterminate_still_makes_folds():
    folds = patient_folds([f"p{i}" for i in range(9)], pd.Series([pd.NA] * 9, dtype="Int8"), 3, 0)
    assert np.bincount(folds).tolist() == [3, 3, 3]


@pytest.mark.parametrize(("patients", "n_folds"), [(["a", "a", "b"], 3), ([], 2), (["a", "b"], 1)])
def test_more_folds_than_patients_are_refused(patients, n_folds):
    with pytest.raises(UsageError, match=f"{len(set(patients))} patients cannot be parted into {n_folds} folds"):
        patient_folds(patients, [0] * len(patients), n_folds, 0)
