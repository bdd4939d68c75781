"""Subgroups: every nodule in one level of each variable, by facts that are joined where predictions are written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_contracts.params import EvaluateParams
from data_contracts.predictions import PREDICTION_TABLE
from pipeline.scoring.facts import FACTS, nodule_facts
from pipeline.scoring.subgroups import subgroup_figures, subgroup_masks

EDGES = {
    "diameter_mm": (
        "diameter",
        {
            5.99: "<6 mm",
            6.0: "6-8 mm",
            7.99: "6-8 mm",
            8.0: "8-15 mm",
            15.0: ">=15 mm",
            np.nan: "unknown",
            0: "unknown",
        },
    ),
    "texture": ("texture", {1.0: "GGO", 2.49: "GGO", 2.5: "part-solid", 4.49: "part-solid", 4.5: "solid", 5: "solid"}),
    "slice_thickness_mm": (
        "thickness",
        {0.6: "<=1.25 mm", 1.25: "<=1.25 mm", 1.3: "1.25-2.5 mm", 2.5: "1.25-2.5 mm", 3.0: ">2.5 mm"},
    ),
    "age_years": ("age", {54.9: "<55 years", 55: "55-64 years", 65: "65-74 years", 75: ">=75 years"}),
    "sex": ("sex", {"F": "female", "m": "male", "O": "other", "": "unknown", None: "unknown"}),
    "kernel": ("kernel", {"B30f": "soft", "LUNG": "sharp", "B46f": "medium", "my own": "unknown", None: "unknown"}),
    "manufacturer": ("manufacturer", {"Siemens": "SIEMENS", "SIEMENS ": "SIEMENS", None: "unknown"}),
}


def table(n=120, seed=0, **facts):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    return pd.DataFrame(
        {
            "label": pd.array(label, dtype="Int8"),
            "score": np.clip(0.3 + 0.3 * label + 0.2 * rng.normal(size=n), 0.01, 0.99),
            "score_size": np.clip(0.4 + 0.2 * label + 0.2 * rng.normal(size=n), 0.01, 0.99),
            "patient_key": [f"patient{i // 2}" for i in range(n)],
            "site": "a",
            "diameter_mm": rng.uniform(4, 20, n),
            **facts,
        }
    )


def level_of(rows, variable):
    levels = np.full(len(rows), None, dtype=object)
    for name, level, mask in subgroup_masks(rows):
        if name == variable:
            levels[mask] = level
    return list(levels)


@pytest.mark.parametrize("column", EDGES)
def test_edges_belong_to_the_level_that_names_them(column):
    variable, levels = EDGES[column]
    rows = table(len(levels)).assign(**{column: list(levels)})
    assert level_of(rows, variable) == list(levels.values())


def test_every_nodule_is_in_one_level_of_each_variable():
    masks = subgroup_masks(table(texture=[np.nan, 5.0, 3.0] * 40))
    for variable in {name for name, _, _ in masks}:
        assert (sum(mask.astype(int) for name, _, mask in masks if name == variable) == 1).all()
    assert [level for name, level, _ in masks if name == "texture"] == ["part-solid", "solid", "unknown"]


def test_facts_that_nobody_has_make_a_level_of_their_own():
    levels = {variable: level for variable, level, _ in subgroup_masks(table())}
    assert {levels[name] for name in ("texture", "thickness", "kernel", "manufacturer", "sex", "age")} == {"unknown"}


def test_few_nodules_are_shown_and_flagged():
    rows = table(sex=["F"] * 20 + ["M"] * 100)
    found = {row.level: row for row in subgroup_figures(rows, EvaluateParams(), 0.5) if row.variable == "sex"}
    assert (found["female"].n, found["female"].flagged, found["female"].n_patients) == (20, True, 10)
    assert found["female"].auc.value is not None and found["female"].auc.low is not None
    assert (found["male"].n, found["male"].flagged) == (100, False)


def test_a_level_of_one_class_has_notes_and_no_exception():
    rows = table(sex=np.where(np.arange(120) % 2 == 0, "F", "M"))
    found = {row.level: row for row in subgroup_figures(rows, EvaluateParams(), None) if row.variable == "sex"}
    assert found["female"].auc.note == "no malignant nodule" and found["male"].auc.note == "no benign nodule"
    assert found["male"].sensitivity.note == "no threshold was frozen on validation"
    assert found["male"].ece.value is not None


def test_facts_are_joined_by_series_and_nodule_and_the_index_comes_first():
    rows = pd.DataFrame(
        {
            "nodule_id": ["n1", "n2", "n3"],
            "series_key": ["s1", "s2", "nowhere"],
            "site": "a",
            "texture": [3.0, np.nan, np.nan],
        }
    )
    series = pd.DataFrame(
        {
            "series_key": ["s2", "s1"],
            "kernel": ["", "B30f"],
            "manufacturer": ["SIEMENS", "GE"],
            "slice_thickness_mm": [None, 1.0],
            "patient_sex": ["", "F"],
            "patient_age_years": [None, 60],
        }
    )
    nodules = pd.DataFrame({"nodule_id": ["n1", "n2", "n2"], "texture": [1.0, 4.0, 5.0]})
    facts = nodule_facts(rows, series, nodules)
    assert tuple(facts.columns) == FACTS
    assert facts["texture"].tolist()[:2] == [3.0, 4.5] and np.isnan(facts["texture"][2])
    assert facts["kernel"].tolist() == ["B30f", None, None]
    assert facts["manufacturer"].tolist() == ["GE", "SIEMENS", None]
    assert (facts["age_years"][0], facts["slice_thickness_mm"][0], facts["sex"][0]) == (60, 1, "F")


def test_a_file_of_crops_names_the_maker_by_its_site():
    rows = pd.DataFrame({"nodule_id": ["a", "b"], "series_key": ["", ""], "site": ["GE MEDICAL SYSTEMS", "unknown"]})
    assert nodule_facts(rows, site_is_manufacturer=True)["manufacturer"].tolist() == ["GE MEDICAL SYSTEMS", None]
    assert nodule_facts(rows)["manufacturer"].isna().all()


def test_facts_survive_the_prediction_table(tmp_path):
    rows = table(4).assign(
        patch_id=list("abcd"),
        nodule_id=list("abcd"),
        split="test",
        fold=0,
        score_image=0.5,
        sex=["F", None, "M", None],
        kernel=None,
        age_years=np.nan,
        conformal=["benign", "malignant", "uncertain", None],
    )
    PREDICTION_TABLE.write(tmp_path / "predictions.parquet", rows)
    found = PREDICTION_TABLE.read(tmp_path / "predictions.parquet")
    assert level_of(found, "sex") == ["female", "unknown", "male", "unknown"]
    assert found["conformal"].tolist()[:3] == ["benign", "malignant", "uncertain"]
