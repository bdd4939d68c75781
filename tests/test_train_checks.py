"""Labels that contradict each other are said out loud; pictures and parameters of a run say what they are about."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_contracts.errors import UsageError
from data_contracts.params import ADAPTATION_METHODS, TrainParams
from flows.datasets.labelled import learned_concepts
from flows.learning.wanted_networks import JOINT, SOURCE_ONLY, network_names
from pipeline.review.training_pictures import confusion, confusion_png, curves_png
from pipeline.scoring.label_check import label_warnings


def nodules(n: int, seed: int, *, swapped: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels and diameters; malignant nodules are larger, unless the labels are swapped."""
    random = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(float)
    return (1 - labels if swapped else labels), random.normal(10, 3, n) + 5 * labels


def test_labels_that_agree_give_no_warning_however_few_they_are() -> None:
    assert label_warnings(*nodules(60, 0), *nodules(20, 1), [0.7, 0.9, None]) == ()
    assert label_warnings(*nodules(60, 0), np.array([1.0, 0.0]), np.array([3.0, 20.0]), [0.0]) == ()
    chance = np.random.default_rng(0).uniform(5, 20, 60)
    assert label_warnings(nodules(60, 0)[0], chance, nodules(20, 1)[0], np.full(20, np.nan), [0.4, 0.6]) == ()


def test_a_validation_whose_labels_are_swapped_is_noticed_by_the_curve_and_by_the_diameters() -> None:
    found = label_warnings(*nodules(60, 0), *nodules(40, 1, swapped=True), [0.52, 0.08])
    assert len(found) == 2
    assert "AUC on validation was as low as 0.08" in found[0] and "swapped" in found[0]
    assert "in training" in found[1] and "in validation" in found[1]


def test_labels_swapped_everywhere_are_noticed_by_the_diameters() -> None:
    (found,) = label_warnings(*nodules(60, 0, swapped=True), *nodules(40, 1, swapped=True), [0.9])
    assert "smaller ones" in found


def test_a_run_has_source_only_and_each_method_that_was_asked_for() -> None:
    sites = {"source_site": "A", "target_site": "B"}
    assert network_names(TrainParams()) == [SOURCE_ONLY]
    several = TrainParams.from_mapping({**sites, "adaptation": "coral,dann,adabn"})
    assert network_names(several) == [SOURCE_ONLY, "coral", "dann", "adabn"]
    every = TrainParams.from_mapping({**sites, "adaptation": "all"})
    assert network_names(every) == [SOURCE_ONLY, *ADAPTATION_METHODS]
    assert network_names(TrainParams.from_mapping({**sites, "target_label_weight": 1.0})) == [SOURCE_ONLY, JOINT]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"adaptation": "dann"}, "needs a target site"),
        ({"adaptation": "dann", "target_site": "B"}, "needs a source site that is not the target"),
        ({"adaptation": "dann", "target_site": "B", "source_site": "B"}, "needs a source site that is not the target"),
        ({"target_label_weight": 1.0, "target_site": "B"}, "needs two sites"),
        ({"target_label_weight": 1.0, "target_site": "B", "source_site": "B"}, "needs two sites"),
        (
            {"target_label_weight": 1.0, "target_site": "B", "source_site": "A", "adaptation": "mcc"},
            "learns the target's labels",
        ),
        ({"style": True, "adaptation": "style", "target_site": "B", "source_site": "A"}, "would be source-only again"),
    ],
)
def test_sites_that_a_method_lacks_are_asked_for_in_one_line(values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        network_names(TrainParams.from_mapping(values))


def test_a_weight_for_a_concept_that_the_dataset_lacks_names_those_it_has() -> None:
    rows = pd.DataFrame({"diameter_mm": [5.0], "spiculation": [2.0]})
    weighed = TrainParams(auxiliary_weight=0.5, auxiliary_weights={"spiculation": 2.0})
    assert set(learned_concepts(rows, weighed)) == {"log_diameter", "spiculation"}
    assert learned_concepts(rows, TrainParams()) == ()
    with pytest.raises(UsageError, match=r"no concept 'spikes': auxiliary_weights\. Known: .*spiculation"):
        learned_concepts(rows, TrainParams(auxiliary_weight=0.5, auxiliary_weights={"spikes": 1.0}))
    with pytest.raises(UsageError, match="weigh nothing"):
        learned_concepts(rows, TrainParams(auxiliary_weights={"spiculation": 1.0}))


def test_a_nodule_at_the_threshold_is_called_malignant() -> None:
    counts = confusion(np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.5, 0.5, 0.9, 0.2]), 0.5)
    np.testing.assert_array_equal(counts, [[1, 1], [1, 2]])


def test_pictures_have_a_panel_for_each_site_and_each_fitted_network() -> None:
    predictions = pd.DataFrame({"label": [0, 1, None, 1], "score": [0.2, 0.8, 0.4, 0.6], "site": ["A", "A", "A", "B"]})
    predictions["label"] = predictions["label"].astype("Int8")
    widths = [
        Image.open(io.BytesIO(confusion_png(predictions, threshold, sites))).width
        for threshold, sites in ((0.5, ["A"]), (0.5, ["A", "B"]), (None, ["A", "C"]))
    ]
    assert widths[1] == widths[2] == 2 * widths[0]
    epoch = {"epoch": 0, "classification_loss": 0.6, "validation_loss": None, "validation_auc": None, "figures": {}}
    one, two = (
        Image.open(io.BytesIO(curves_png(histories))).width
        for histories in ({"source-only": [epoch], "adabn": []}, {"source-only": [epoch], "dann": [epoch]})
    )
    assert two == 2 * one
