"""Splits by patient: for ever, and never two at once."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.errors import ContractError, LeakError, UsageError
from data_contracts.manifest import Split
from data_contracts.params import SplitParams
from pipeline.cohort.split import check_no_leak, split_of, split_patients

KEYS = st.sets(st.text(min_size=1, max_size=12), max_size=30)


@settings(max_examples=30, deadline=None)
@given(known=KEYS, newcomers=KEYS)
def test_newcomers_never_move_a_patient(known, newcomers):
    before = split_patients(known, SplitParams()).patients
    after = split_patients(known | newcomers, SplitParams()).patients
    assert {key: after[key] for key in before} == before


def test_a_patient_is_in_this_split_for_ever():
    """Written down once; a change here moves patients of every workspace between train and test."""
    frozen = {"5f1d0e7a00c1b2aa": "test", "patient-1": "train", "patient-2": "validation", "patient-7": "train"}
    assert {key: split_of(key, SplitParams()).value for key in frozen} == frozen


def test_the_order_and_repetition_of_keys_do_not_matter():
    assert split_patients(["b", "a", "b"], SplitParams()) == split_patients(["a", "b"], SplitParams())


def test_fractions_are_kept_and_another_salt_splits_otherwise():
    keys = [f"patient-{number}" for number in range(5000)]
    manifest = split_patients(keys, SplitParams(train=0.6, validation=0.1))
    counts = manifest.counts()
    assert counts["train"] / 5000 == pytest.approx(0.6, abs=0.03)
    assert counts["validation"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert manifest.fractions[Split.TEST] == pytest.approx(0.3)
    other = split_patients(keys, SplitParams(train=0.6, validation=0.1, salt="other"))
    assert sum(other.patients[key] != manifest.patients[key] for key in keys) > 1000


def test_fractions_that_leave_no_test_and_empty_keys_are_refused():
    with pytest.raises(UsageError, match="no patients for test"):
        split_patients(["a"], SplitParams(train=0.8, validation=0.2))
    with pytest.raises(ContractError):
        split_patients(["a", ""], SplitParams())


@pytest.mark.parametrize("column", ["patient_key", "series_key", "nodule_id"])
def test_anyone_in_two_splits_is_refused_and_named(column):
    rows = {"patient_key": ["p1", "p2"], "series_key": ["s1", "s2"], "nodule_id": ["n1", "n2"]}
    index = pd.DataFrame({**rows, "split": ["train", "test"]})
    check_no_leak(index)
    index[column] = "twice"
    with pytest.raises(LeakError, match=column) as refused:
        check_no_leak(index)
    assert refused.value.where == "twice"


def test_rows_without_a_patient_are_refused():
    with pytest.raises(LeakError, match="without a patient"):
        check_no_leak(pd.DataFrame({"patient_key": ["p1", ""], "split": ["train", "test"]}))
