"""Nodules and series that resemble none of those a version was judged on are named; the others are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_contracts.drift import NAMES, NUMBERS
from pipeline.scoring.familiarity import Familiarity


def held_out(n: int = 240, per_patient: int = 2, *, seed: int = 0, width: int = 16) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)) * 0.3 + np.eye(width)[0]
    numbers = {name: np.full(n, np.nan) for name in NUMBERS} | {"slice_thickness_mm": rng.uniform(1.0, 2.5, n)}
    names = {name: [""] * n for name in NAMES} | {"kernel_family": ["soft"] * n, "manufacturer": ["MAKER"] * n}
    order = np.arange(n)
    keys = {"patient": order // per_patient, "series": order // per_patient, "embedding": list(vectors)}
    return pd.DataFrame({**keys, **numbers, **names})


def test_about_one_of_a_hundred_nodules_of_the_same_kind_is_called_unfamiliar() -> None:
    familiarity = Familiarity.of(held_out())
    assert familiarity.why_unknown == ""
    same = np.array(held_out(2000, seed=1)["embedding"].tolist())
    flagged = np.mean([bool(words) for words in familiarity.of_nodules(same)])
    assert 0.0 < flagged < 0.03


def test_a_nodule_unlike_all_others_is_called_unfamiliar_whatever_the_length_of_its_vector() -> None:
    familiarity = Familiarity.of(held_out())
    strange = np.eye(16)[5]
    for vector in (strange, 1000 * strange, 0.001 * strange):
        (words,) = familiarity.of_nodules(vector[None])
        assert words.startswith("It resembles none of the 240 nodules")


def test_nodules_of_one_patient_do_not_make_each_other_familiar() -> None:
    table = held_out()
    twins = table.assign(embedding=[table["embedding"][number - number % 2] for number in range(len(table))])
    alone = Familiarity.of(twins).distances
    assert alone.min() > 0


@pytest.mark.parametrize(("n", "per_patient"), [(99, 1), (240, 12)])
def test_with_few_nodules_or_patients_nothing_is_said_of_a_nodule(n: int, per_patient: int) -> None:
    familiarity = Familiarity.of(held_out(n, per_patient))
    assert not familiarity.is_known
    assert "is not known" in familiarity.why_unknown and f"{n} held-out nodules" in familiarity.why_unknown
    assert familiarity.of_nodules(np.eye(16)[5:7]) == ["", ""]


def test_embeddings_of_another_width_are_not_compared() -> None:
    assert Familiarity.of(held_out()).of_nodules(np.ones((1, 3))) == [""]


def test_thickness_voltage_kernel_and_manufacturer_that_no_held_out_series_had_are_named() -> None:
    familiarity = Familiarity.of(held_out())
    seen = {"slice_thickness_mm": 2.7, "kvp": 120.0, "kernel_family": "soft", "manufacturer": "MAKER"}
    assert familiarity.of_acquisition(seen) == []
    other = {"slice_thickness_mm": 5.0, "kvp": 120.0, "kernel_family": "sharp", "manufacturer": "<b>OTHER"}
    thickness, kernel, manufacturer = familiarity.of_acquisition(other)
    assert thickness.startswith("The slice thickness is 5 mm; the version was judged on 1")
    assert "kernel" in kernel and "manufacturer" in manufacturer
    assert "<b>" not in manufacturer


def test_a_header_that_states_nothing_is_not_unfamiliar() -> None:
    stated = {"slice_thickness_mm": float("nan"), "kvp": float("nan"), "kernel_family": "", "manufacturer": ""}
    assert Familiarity.of(held_out()).of_acquisition(stated) == []


def test_a_version_without_held_out_nodules_says_nothing() -> None:
    familiarity = Familiarity.of(held_out(0))
    assert familiarity.of_nodules(np.ones((2, 4))) == ["", ""]
    assert familiarity.of_acquisition({"slice_thickness_mm": 5.0}) == []
