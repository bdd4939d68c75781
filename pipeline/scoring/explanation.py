"""Sanity tests of maps: figures and a verdict each, and what follows from all of them.

After Adebayo et al. (NeurIPS 2018), Arun et al. (Radiol AI 2021, doi 10.1148/ryai.2021200267) and Petsiuk et al.
(BMVC 2018). Intervals are 95 %, by resampling patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_contracts.explanation import SanityTest
from pipeline.scoring.bootstrap import cluster_draws, percentile_interval
from pipeline.scoring.delong import auc_figure
from pipeline.scoring.off_centre import centred_maps
from pipeline.scoring.similarity import is_empty, pair_baseline, ssim

Floats = NDArray[np.float64]
Maps = NDArray[np.floating]
Patients = NDArray[np.object_]

_DRAWS = 2000
#: the energy of a map in the nodule, as a multiple of what an even map has there
LEAST_ENRICHMENT = 1.5
#: the share of nodules in which the strongest place must lie: a map that is elsewhere in most of them misleads
LEAST_HITS = 0.5
#: how far beside the nodule it may lie, as a share of the side: 15 of 224 pixels, as published
TOLERANCE = 15 / 224


def skill(labels: NDArray[np.int64], logits: Floats) -> SanityTest:
    """Whether the network tells malignant from benign here at all; where it does not, there is nothing to explain."""
    figure = auc_figure(labels, logits)
    return SanityTest(
        name="skill",
        passed=None if figure.value is None or figure.low is None else figure.low > 0.5,
        rule="the AUC on these nodules lies above 0.5 with its interval",
        figures={"auc": figure.value, "low": figure.low, "high": figure.high},
        note=figure.note,
    )


def weight_randomisation(
    maps: Maps, randomised: Mapping[str, Maps], patients: Patients, *, dims: int, seed: int = 0
) -> SanityTest:
    """Whether the map changes when the network forgets: cascading randomisation, from the head to the first stage.

    Parameters
    ----------
    maps: (n, P, *plane) of the network; dims: 2 for planes, 3 for volumes.
    randomised: the same of its randomised copies, by what was randomised last; the last one knows nothing.
    """
    baseline = pair_baseline(maps, patients, dims=dims, seed=seed)
    likeness = {name: ssim(maps, other, dims=dims) for name, other in randomised.items()}
    figures: dict[str, float | None] = {f"ssim after {name}": float(values.mean()) for name, values in likeness.items()}
    last = list(likeness.values())[-1]
    return SanityTest(
        name="weight randomisation",
        passed=bool(last.mean() < baseline.mean()),
        rule="with all weights random, the map is less like itself (SSIM) than maps of two different nodules are",
        figures={
            **figures,
            "ssim of random pairs": float(baseline.mean()),
            **_interval(last - baseline, patients),
            "empty maps": float(is_empty(list(randomised.values())[-1]).mean()),
        },
    )


def label_randomisation(maps: Maps, shuffled: Maps, patients: Patients, *, dims: int, seed: int = 0) -> SanityTest:
    """Whether the map depends on what was learned: against maps of the network trained on shuffled labels."""
    baseline = pair_baseline(maps, patients, dims=dims, seed=seed)
    values = ssim(maps, shuffled, dims=dims)
    return SanityTest(
        name="label randomisation",
        passed=bool(values.mean() < baseline.mean()),
        rule="trained on shuffled labels, the map is less like itself (SSIM) than maps of two different nodules are",
        figures={
            "ssim": float(values.mean()),
            "ssim of random pairs": float(baseline.mean()),
            **_interval(values - baseline, patients),
            "empty maps": float(is_empty(shuffled).mean()),
        },
    )


def repeatability(maps: Maps, again: Maps, patients: Patients, *, dims: int, seed: int = 0) -> SanityTest:
    """Whether a second training, from another seed, shows the same places."""
    baseline = pair_baseline(maps, patients, dims=dims, seed=seed)
    values = ssim(maps, again, dims=dims)
    interval = _interval(values - baseline, patients)
    low = interval["low"]
    return SanityTest(
        name="repeatability",
        passed=low is not None and low > 0,
        rule="the map of a second training is more like it (SSIM, interval above 0) than that of another nodule",
        figures={"ssim": float(values.mean()), "ssim of random pairs": float(baseline.mean()), **interval},
    )


def localisation(maps: Maps, masks: NDArray[np.bool_], patients: Patients, *, dims: int) -> SanityTest:
    """Energy in mask and pointing game on nodules that were moved off the centre of their patch.

    A Gaussian in the middle of the patch, which looks right on every centred nodule, is what the map must beat.
    """
    centred = centred_maps(masks.shape[1:], len(masks), dims)
    energy, area = energy_in_mask(maps, masks), masks.reshape(len(masks), -1).mean(axis=1)
    wider = _widened(masks, dims)
    hits, hits_centred = pointing_game(maps, wider), pointing_game(centred, wider)
    ahead = _interval(energy - np.maximum(energy_in_mask(centred, masks), LEAST_ENRICHMENT * area), patients)
    pointing = _interval(hits - np.maximum(hits_centred, wider.reshape(len(masks), -1).mean(axis=1)), patients)
    lows = (ahead["low"], pointing["low"])
    return SanityTest(
        name="localisation",
        passed=all(low is not None and low > 0 for low in lows) and bool(hits.mean() >= LEAST_HITS),
        rule=(
            f"energy in the nodule above that of a map of the middle and {LEAST_ENRICHMENT:g} times an even map's, the "
            "strongest place at it more often than those have it (intervals above 0), and in at least half of them"
        ),
        figures={
            "energy in mask": float(energy.mean()),
            "energy of a map of the middle": float(energy_in_mask(centred, masks).mean()),
            "energy of an even map": float(area.mean()),
            "energy ahead, low": ahead["low"],
            "pointing game": float(hits.mean()),
            "pointing game of a map of the middle": float(hits_centred.mean()),
            "pointing ahead, low": pointing["low"],
            "empty maps": float(is_empty(maps).mean()),
        },
    )


def faithfulness(own: tuple[Floats, Floats], other: tuple[Floats, Floats], patients: Patients) -> SanityTest:
    """Whether the network needs what its map shows.

    Parameters
    ----------
    own, other: (deletion, insertion), mean logits (n,), in the order of the patch's own map and of another nodule's.
    """
    deletion, insertion = other[0] - own[0], own[1] - other[1]
    low_deletion, low_insertion = _interval(deletion, patients)["low"], _interval(insertion, patients)["low"]
    return SanityTest(
        name="deletion and insertion",
        passed=all(low is not None and low > 0 for low in (low_deletion, low_insertion)),
        rule="the logit falls and comes back faster in the map's order than in another nodule's (intervals above 0)",
        figures={
            "deletion ahead": float(deletion.mean()),
            "deletion ahead, low": low_deletion,
            "insertion ahead": float(insertion.mean()),
            "insertion ahead, low": low_insertion,
        },
    )


def not_made(name: str, why: str) -> SanityTest:
    """A test that could not be made."""
    return SanityTest(name=name, passed=None, rule="", note=why)


def verdict(tests: Sequence[SanityTest]) -> tuple[bool, str]:
    """(whether maps may be shown, why): every test must have been made and passed."""
    failed = [test.name for test in tests if test.passed is False]
    missing = [f"{test.name} ({test.note})" if test.note else test.name for test in tests if test.passed is None]
    if not failed and not missing and tests:
        return True, f"the maps passed all {len(tests)} tests: {', '.join(test.name for test in tests)}"
    parts = [f"failed: {', '.join(failed)}"] if failed else []
    parts += [f"not tested: {', '.join(missing)}"] if missing else []
    return False, "; ".join(parts) or "no test was made"


def energy_in_mask(maps: Maps, masks: NDArray[np.bool_]) -> Floats:
    """(n,) share of a map's sum that lies in the mask; 0 of an empty map."""
    inside = np.where(masks, maps, 0).reshape(len(maps), -1).sum(axis=1, dtype=np.float64)
    total = maps.reshape(len(maps), -1).sum(axis=1, dtype=np.float64)
    return np.asarray(np.where(total > 0, inside / np.maximum(total, 1e-12), 0.0), dtype=np.float64)


def pointing_game(maps: Maps, masks: NDArray[np.bool_]) -> Floats:
    """(n,) share of a map's strongest places that lie in the mask; 0 of an empty map (Zhang et al., ECCV 2016)."""
    flat, inside = maps.reshape(len(maps), -1), masks.reshape(len(masks), -1)
    strongest = flat >= flat.max(axis=1, keepdims=True)
    share = (strongest & inside).sum(axis=1) / strongest.sum(axis=1)
    return np.asarray(np.where(is_empty(maps), 0.0, share), dtype=np.float64)


def _widened(masks: NDArray[np.bool_], dims: int) -> NDArray[np.bool_]:
    """Masks with what lies no farther than TOLERANCE of the side beside them, in every plane or volume."""
    planes = masks.reshape(-1, *masks.shape[masks.ndim - dims :])
    reach = TOLERANCE * masks.shape[-1]
    wider = [ndimage.distance_transform_edt(~plane) <= reach for plane in planes]
    return np.asarray(wider, dtype=np.bool_).reshape(masks.shape)


def _interval(values: Floats, patients: NDArray[Any]) -> dict[str, float | None]:
    """The mean of values (n,) as `difference`, with the `low` and `high` of its interval by patients."""

    def mean(weights: Floats) -> Floats:
        return np.asarray(weights @ values / weights.sum(axis=1), dtype=np.float64)

    point = float(values.mean())
    interval = percentile_interval(cluster_draws(patients, mean, draws=_DRAWS, seed=0), point)
    low, high = interval if interval is not None else (None, None)
    return {"difference": point, "low": low, "high": high}
