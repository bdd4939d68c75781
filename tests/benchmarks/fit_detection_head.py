"""Learn the head of the nodule search anew and write pipeline/detection/head.json with its card.

    .venv/bin/python tests/benchmarks/fit_detection_head.py

Teaches: phantom patients, LIDC-IDRI-0001 and both kernels of Lung_Dx-A0002 with nodules of LIDC's shapes put in.
Judges: phantom patients of another seed with shapes of other LIDC patients; each real chest by a head that has not seen
it, with such shapes put in; and an NLST chest that teaches no head. The threshold is that of 2 false marks a scan among
what taught, each study judged by a head that was taught without it. Describing the studies takes about ten minutes of
one core the first time, learning a few more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from detection_examples import Examples, phantom_examples, real_examples  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: E402

from data_contracts.detection import DetectionHead, DetectionTree, SensitivityFigure  # noqa: E402
from data_contracts.params import DetectionParams  # noqa: E402
from pipeline.detection.features import FEATURES  # noqa: E402
from pipeline.detection.froc import ScanMarks, at_threshold, count_marks, froc, froc_interval  # noqa: E402
from pipeline.detection.head import HEAD_FILE, score  # noqa: E402

OUT = Path(__file__).resolve().parents[2] / "pipeline" / "detection" / HEAD_FILE
_FALSE_MARKS = 2.0
_FOLDS = 2
_PARAMS = DetectionParams()
#: a real chest's vessels weigh more than drawn ones
_REAL_WEIGHT = 3.0
#: of a study's other places so many teach; copies of one chest share most of them
_OTHERS, _OTHERS_IN_COPY = 1600, 250
_BLIND: dict[tuple[tuple[str, ...], tuple[str, ...]], DetectionHead] = {}
_COMMAND = "tests/benchmarks/fit_detection_head.py"


def learn(examples: Sequence[Examples], seed: int = 0) -> DetectionHead:
    """A head without a threshold, from the studies given."""
    kept = [_chosen(one, seed) for one in examples]
    features = np.concatenate([one.features[rows] for one, rows in zip(examples, kept, strict=True)])
    label = np.concatenate([one.label[rows] for one, rows in zip(examples, kept, strict=True)])
    weight = np.concatenate([_weights(one)[rows] for one, rows in zip(examples, kept, strict=True)])
    weight[label == 1] *= 0.25 * weight[label == 0].sum() / max(weight[label == 1].sum(), 1e-9)
    booster = HistGradientBoostingClassifier(
        max_iter=160,
        learning_rate=0.09,
        max_leaf_nodes=14,
        min_samples_leaf=25,
        l2_regularization=2.0,
        max_features=0.4,
        early_stopping=False,
        random_state=seed,
    )
    booster.fit(features, label, sample_weight=weight)
    head = _as_numbers(booster)
    theirs = booster.predict_proba(features[:2000])[:, 1]
    if np.abs(score(head, features[:2000]) - theirs).max() > 1e-6:
        raise SystemExit("the written trees do not give what scikit-learn gives")
    return head


def _chosen(one: Examples, seed: int) -> np.ndarray:
    """Which places teach: every nodule's, and of the others as many as are worth the time; fewer where they repeat."""
    label = one.label
    rng = np.random.default_rng([seed, len(label), int(1000 * one.features[0, 1])])
    others = np.flatnonzero(label == 0)
    chosen = label == 1
    chosen[rng.permutation(others)[: _OTHERS_IN_COPY if "nodules (" in one.name else _OTHERS]] = True
    return chosen


def _weights(one: Examples) -> np.ndarray:
    """Every nodule as much as every other, whatever the number of its blobs; what is real more than what is drawn."""
    label = one.label
    weight = np.ones(len(label))
    is_real = not one.group.startswith("phantom")
    if is_real:
        weight *= _REAL_WEIGHT
    for ball in one.nodules_mm:
        away = np.linalg.norm(one.blobs.lps_mm - ball[:3], axis=1)
        own = (label == 1) & (away < ball[3] / 2)
        weight[own] /= max(1, own.sum())
    return weight


def _as_numbers(booster: HistGradientBoostingClassifier) -> DetectionHead:
    trees = []
    for (predictor,) in booster._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            DetectionTree(
                feature=tuple(int(v) for v in np.where(leaf, -1, nodes["feature_idx"])),
                threshold=tuple(float(v) for v in np.where(leaf, 0.0, nodes["num_threshold"])),
                left=tuple(int(v) for v in np.where(leaf, 0, nodes["left"])),
                right=tuple(int(v) for v in np.where(leaf, 0, nodes["right"])),
                value=tuple(float(v) for v in np.where(leaf, nodes["value"], 0.0)),
            )
        )
    return DetectionHead(
        name="trees-1",
        features=FEATURES,
        baseline=float(booster._baseline_prediction.ravel()[0]),
        trees=tuple(trees),
        threshold=0.5,
        learned_from=(),
        how="",
        made_by=_COMMAND,
        held_out=(),
    )


def marks_of(head: DetectionHead, examples: Sequence[Examples]) -> list[ScanMarks]:
    """What the search would mark in some studies with this head."""
    return [one.marks(score(head, one.features), _PARAMS) for one in examples]


def figure(what: str, scans: Sequence[ScanMarks], threshold: float, *, interval: bool) -> SensitivityFigure:
    """FROC and the figures at the threshold."""
    curve = froc(scans)
    sensitivity, false_marks = at_threshold(scans, threshold)
    return SensitivityFigure(
        what=what,
        n_scans=curve.n_scans,
        n_nodules=curve.n_nodules,
        sensitivities=tuple(round(value, 3) for value in curve.seven),  # type: ignore[arg-type]
        mean_sensitivity=round(curve.mean_sensitivity, 3),
        interval=tuple(round(value, 3) for value in froc_interval(scans)) if interval else None,  # type: ignore[arg-type]
        sensitivity_at_threshold=round(sensitivity, 3),
        false_marks_at_threshold=round(false_marks, 2),
    )


def threshold_of(scans: Sequence[ScanMarks]) -> float:
    """The lowest score that leaves at most so many false marks a scan."""
    false = np.sort(np.concatenate([count_marks(scan).false_scores for scan in scans]))[::-1]
    allowed = int(_FALSE_MARKS * len(scans))
    return float(np.ceil(false[allowed] * 1000) / 1000) if allowed < len(false) else 0.0


def blind_head(examples: Sequence[Examples], without: Sequence[str]) -> DetectionHead:
    """A head taught by all but these groups; learned once for the same examples and groups."""
    key = (tuple(one.name for one in examples), tuple(sorted(without)))
    if key not in _BLIND:
        _BLIND[key] = learn([one for one in examples if one.group not in without])
        print(f"learned without {', '.join(sorted(without))[:60]}", file=sys.stderr, flush=True)
    return _BLIND[key]


def out_of_fold(examples: Sequence[Examples]) -> list[ScanMarks]:
    """Marks of each study by a head that was taught without its group."""
    groups = sorted({one.group for one in examples})
    phantoms = [group for group in groups if group.startswith("phantom")]
    folds = [phantoms[number::_FOLDS] for number in range(_FOLDS)]
    folds += [[group] for group in groups if group not in phantoms]
    scans = []
    for fold in folds:
        head = blind_head(examples, fold)
        scans += marks_of(head, [one for one in examples if one.group in fold])
    return scans


def held_out(
    head: DetectionHead, teach: Sequence[Examples], phantoms: Sequence[Examples], real: Sequence[Examples]
) -> list[SensitivityFigure]:
    """Figures on studies that did not teach; each real chest by a head of its own, that was taught without it."""
    threshold = head.threshold
    figures = [figure("phantom patients of another seed", marks_of(head, phantoms), threshold, interval=True)]
    own: list[ScanMarks] = []
    for group in sorted({one.group for one in real if one.is_read}):
        blind = blind_head(teach, [group])
        those = [one for one in real if one.group == group]
        own += marks_of(blind, [one for one in those if _is_as_it_came(one)])
        put_in = marks_of(blind, [one for one in those if not _is_as_it_came(one)])
        what = f"{group} with nodules put in, by a head taught without it"
        figures.append(figure(what, put_in, threshold, interval=False))
    if not real:
        return figures
    what = "LIDC-IDRI-0001 and Lung_Dx-A0002 as they are, each left out"
    figures.append(figure(what, own, threshold, interval=False))
    unread = [one for one in real if not one.is_read and not _is_as_it_came(one)]
    figures.append(figure("an NLST chest with nodules put in", marks_of(head, unread), threshold, interval=False))
    return figures


def _is_as_it_came(one: Examples) -> bool:
    return "nodules (" not in one.name


def fitted(teach: Sequence[Examples], phantoms: Sequence[Examples], real: Sequence[Examples]) -> DetectionHead:
    """The head with its threshold and its card."""
    head = learn(teach)
    head = head.model_copy(update={"threshold": threshold_of(out_of_fold(teach))})
    n_phantoms = sum(one.group.startswith("phantom") for one in teach)
    n_nodules = sum(len(one.nodules_mm) for one in teach)
    copies = sum("nodules (" in one.name for one in teach)
    card: dict[str, Any] = {
        "learned_from": (
            f"{n_phantoms} phantom patients with shapes of LIDC nodules, two scanners",
            f"LIDC-IDRI-0001 and both kernels of Lung_Dx-A0002, as they are and in {copies} copies with shapes of LIDC "
            f"nodules put in; {n_nodules} nodules in all",
            "no nodule of a reserved LIDC patient, of LIDC-IDRI-0001 outside its own scan, or of a patient that judges",
        ),
        "how": (
            f"{len(head.trees)} boosted trees of scikit-learn over {len(FEATURES)} features of blobs; the threshold is "
            f"that of {_FALSE_MARKS:g} false marks a scan in studies that taught, each by a head taught without it"
        ),
        "held_out": tuple(held_out(head, teach, phantoms, real)),
    }
    return head.model_copy(update=card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    teach = [*phantom_examples("teach"), *real_examples("teach")]
    head = fitted(teach, phantom_examples("judge"), real_examples("judge"))
    head.write(out)
    print(f"threshold {head.threshold:.3f}, {len(head.trees)} trees, {out.stat().st_size / 1e3:.0f} kB")
    for found in head.held_out:
        seven = " ".join(f"{value:.2f}" for value in found.sensitivities)
        print(f"{found.what}: {seven} mean {found.mean_sensitivity:.3f} {found.interval or ''}", end="; ")
        print(
            f"{found.sensitivity_at_threshold:.2f} at {found.false_marks_at_threshold:.2f} false, n {found.n_nodules}"
        )


if __name__ == "__main__":
    main()
