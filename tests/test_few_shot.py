"""Few-shot: no patient in support and query, known classifiers, and figures that follow from the seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from data_contracts.errors import NothingUsableError, UsageError
from data_contracts.params import FeatureParams, FewShotParams, LabelParams, SplitParams
from flows.datasets.features import feature_table
from flows.learning.few_shot import few_shot_text, log_few_shot, run_episodes
from flows.versions.tracking import connect, find_run
from flows.workspace import Workspace
from pipeline.cohort.importers import import_npz
from pipeline.scoring.few_shot import (
    draw_episode,
    few_shot_episodes,
    few_shot_figures,
    normalised,
    probe_scores,
    prototype_scores,
)


def cohort(n: int = 120, per_patient: int = 2, separation: float = 1.0, width: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    features = rng.normal(0, 1, (n, width)) + separation * labels[:, None]
    patients = np.array([f"p{row // per_patient}" for row in range(n)], dtype=object)
    return features.astype(np.float32), labels, patients


@settings(max_examples=60, deadline=None)
@given(k=st.integers(1, 8), per_patient=st.integers(1, 5), seed=st.integers(0, 999))
def test_no_patient_of_the_support_is_in_the_query_nor_twice_in_the_support(k, per_patient, seed):
    _, labels, patients = cohort(80, per_patient, seed=seed)
    drawn = draw_episode(labels, patients, k, np.random.default_rng(seed))
    if drawn is None:
        return
    support, query = drawn
    assert len(support) == 2 * k and labels[support].sum() == k
    assert len(set(patients[support])) == 2 * k
    assert not set(patients[support]) & set(patients[query])
    rest = ~np.isin(patients, patients[support])
    assert np.array_equal(query, np.flatnonzero(rest))


def test_too_few_patients_give_no_episode_and_a_figure_that_says_so():
    features, labels, patients = cohort(12, per_patient=1)
    params = FewShotParams(shots=(1, 20), episodes=5)
    figures = few_shot_figures(few_shot_episodes(features, labels, patients, params), params)
    by_k = {(row.k, row.method, row.metric): row for row in figures}
    assert by_k[1, "probe", "auc"].n_episodes == 5
    refused = by_k[20, "prototypes", "accuracy"]
    assert refused.value is None and "fewer than 20 patients" in refused.note


def test_prototypes_are_the_nearest_centroid_of_scikit_learn():
    features, labels, _ = cohort()
    values = normalised(features)
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1)
    scores = prototype_scores(values[:40], labels[:40], values[40:])
    theirs = NearestCentroid().fit(values[:40], labels[:40]).predict(values[40:])
    assert np.array_equal(scores > 0, theirs == 1)
    # Snell et al. 2017, eq. 2: softmax over negative squared distances
    centres = [values[:40][labels[:40] == label].mean(axis=0) for label in (0, 1)]
    distances = np.array([[np.sum((row - centre) ** 2) for centre in centres] for row in values[40:]])
    probability = np.exp(-distances) / np.exp(-distances).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), probability[:, 1], atol=1e-12)


@pytest.mark.parametrize("width", [6, 300])
def test_the_probe_in_the_span_of_the_support_is_logistic_regression_on_all_features(width):
    features, labels, _ = cohort(width=width, separation=0.3)
    values = normalised(features)
    whole = LogisticRegression(C=1.0, tol=1e-6, max_iter=1000).fit(values[:20], labels[:20])
    ours = probe_scores(values[:20], labels[:20], values[20:], c=1.0)
    np.testing.assert_allclose(ours, whole.decision_function(values[20:]), atol=1e-4)


def test_separated_classes_are_told_apart_and_noise_is_not():
    params = FewShotParams(shots=(5,), episodes=60)
    for separation, low, high in ((4.0, 0.99, 1.0), (0.0, 0.45, 0.55)):
        episodes = few_shot_episodes(*cohort(200, separation=separation), params)
        for row in few_shot_figures(episodes, params):
            if row.metric == "auc":
                assert low <= row.value <= high, row


def test_episodes_of_one_k_follow_from_seed_and_k_alone():
    data = cohort()
    one = few_shot_episodes(*data, FewShotParams(shots=(1, 2, 5), episodes=6))
    other = few_shot_episodes(*data, FewShotParams(shots=(5,), episodes=9))
    shared = other[other["episode"] < 6].reset_index(drop=True)
    pd.testing.assert_frame_equal(one[one["k"] == 5].reset_index(drop=True), shared)
    again = few_shot_episodes(*data, FewShotParams(shots=(5,), episodes=9, seed=1))
    assert not again["auc"].equals(other["auc"])


def test_the_interval_is_that_of_the_mean_over_episodes():
    params = FewShotParams(shots=(3,), episodes=50)
    episodes = few_shot_episodes(*cohort(separation=0.5), params)
    values = episodes[episodes["method"] == "probe"]["auc"].to_numpy()
    figure = next(row for row in few_shot_figures(episodes, params) if (row.method, row.metric) == ("probe", "auc"))
    half = 2.0096 * values.std(ddof=1) / np.sqrt(50)
    assert figure.value == pytest.approx(values.mean())
    assert (figure.low, figure.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-4)
    assert figure.episode_low < figure.low < figure.high < figure.episode_high


def test_what_cannot_be_scored_is_refused():
    features, labels, patients = cohort()
    with pytest.raises(NothingUsableError, match="both classes"):
        few_shot_episodes(features, np.ones_like(labels), patients, FewShotParams())
    with pytest.raises(UsageError, match="labels"):
        few_shot_episodes(features, labels[:-1], patients, FewShotParams())
    for values in ({"shots": []}, {"shots": [0]}, {"episodes": 0}, {"nodules": "train"}):
        with pytest.raises(UsageError):
            FewShotParams.from_mapping(values)


@pytest.fixture(scope="module")
def lidc(shared_data, tmp_path_factory):
    """A workspace with 240 of the LIDC crops and their MobileNetV2 features."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("few-shot")
    source = shared_data / "lidc-nodules"
    table = pd.read_csv(source / "nodules.csv")
    rows = np.flatnonzero((table["n_readers"] >= 3) & (table["mal_mean"] != 3))[:240]
    with np.load(source / "crops_3x64x64_uint8.npz") as arrays:
        np.savez(root / "crops.npz", image=arrays["image"][rows])
    table.iloc[rows].drop(columns="row", errors="ignore").to_csv(root / "nodules.csv", index=False)
    workspace = Workspace(root / "workspace").create()
    card = import_npz(
        root / "crops.npz",
        name="lidc",
        table=root / "nodules.csv",
        datasets_root=workspace.datasets_root,
        split=SplitParams(),
        label=LabelParams(min_readers=3),
    )
    weights = str(shared_data / "weights" / "mobilenet_v2_imagenet_features.pt")
    params = FeatureParams(backbone="mobilenet_v2", weights=weights, input_size_px=64, engine="torch")
    folder = workspace.datasets_root / card.dataset_id
    return workspace, folder, feature_table.fn(workspace, folder, params)


@pytest.mark.realdata
def test_real_features_beat_chance_and_more_nodules_help(lidc):
    workspace, folder, table = lidc
    params = FewShotParams(shots=(1, 20), episodes=60)
    place, report = run_episodes.fn(workspace, folder, table, params)
    assert report.pretrained and report.n_nodules == 240
    one, twenty = (report.find(k, "probe", "auc") for k in (1, 20))
    assert twenty.low > 0.5 and twenty.value > one.value
    assert len(pd.read_parquet(place / "episodes.parquet")) == 240
    assert run_episodes.fn(workspace, folder, table, params) == (place, report)
    text = few_shot_text(report)
    assert "prototypes" in text and f"{twenty.value:.3f}" in text


@pytest.mark.realdata
def test_a_run_is_logged_once_with_k_as_its_steps(lidc):
    workspace, folder, table = lidc
    place, report = run_episodes.fn(workspace, folder, table, FewShotParams(shots=(1, 5), episodes=5, nodules="test"))
    for _ in range(2):
        log_few_shot.fn(workspace, place, report)
    client = connect(workspace)
    run = find_run(client, f"few-shot-{report.run_id}")
    history = client.get_metric_history(run.info.run_id, "few_shot/prototypes/auc")
    assert sorted((item.step, item.value) for item in history) == [
        (k, pytest.approx(report.find(k, "prototypes", "auc").value)) for k in (1, 5)
    ]
    assert run.data.params["nodules"] == "test"
