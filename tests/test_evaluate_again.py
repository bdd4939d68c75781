"""A registered version that is evaluated again keeps what was frozen and decided when it was trained."""

from __future__ import annotations

import pytest
from registry_factory import log_run, make_workspace, write_folder

from data_contracts.evaluation import AdaptationDecision, EvaluationReport
from data_contracts.params import EvaluateParams
from data_contracts.predictions import PREDICTION_TABLE
from flows.registry import Registry
from flows.versions.evaluation import evaluate_version
from pipeline.scoring.evaluation import build_report

FROZEN = {"specificity_0.80": 0.4, "specificity_0.90": 0.6}
DECISION = AdaptationDecision(
    method="dann", chosen="source-only", adapted=False, reasons=("dann is refused: its source AUC drops",), figures={}
)


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Reports of a version that refused dann: as registered, and as evaluated again; and the page of the second."""
    workspace, settings = make_workspace(tmp_path_factory.mktemp("again"), versions=0)
    run_id = write_folder(workspace, 1)
    folder = workspace.runs_root / run_id
    table = PREDICTION_TABLE.read(folder / "predictions.parquet")
    registered = build_report(
        table,
        run_id=run_id,
        dataset_id=next(workspace.datasets_root.glob("*/dataset.json")).parent.name,
        backbone="small_cnn",
        weights="none",
        pretrained=False,
        protocol="held out",
        thresholds=FROZEN,
        params=EvaluateParams(bootstrap=100),
        alternatives={"dann": table},
        adaptation=DECISION,
        baseline_thresholds={"score_image": FROZEN, "score_size": {"specificity_0.90": 0.55}},
    )
    registered.write(folder / "evaluation.json")
    registry = Registry(workspace, settings.model_name)
    version = registry.register(run_id, log_run(registry, workspace, run_id))
    out = evaluate_version.fn(workspace, settings.model_name, version, "")
    return registered, EvaluationReport.read(out / "evaluation.json"), out


@pytest.mark.parametrize("score", ["score_size", "score_image"])
def test_the_baselines_keep_their_operating_points(again, score):
    registered, evaluated, _out = again
    points = [
        [(point.name, point.threshold) for point in report.find(score).operating_points]
        for report in (registered, evaluated)
    ]
    assert points[0] and points[0] == points[1]
    assert evaluated.find(score).sensitivity is not None and evaluated.find(score).specificity is not None


def test_an_adaptation_that_was_offered_and_refused_is_told_with_the_figures_of_what_was_offered(again):
    registered, evaluated, out = again
    assert evaluated.adaptation == DECISION
    assert evaluated.alternatives == registered.alternatives
    for page in ("report.html", "disclosure.html"):
        assert "o adaptation to another site was asked for" not in (out / page).read_text()
