"""Two studies of one phantom patient: the same nodules elsewhere, grown, gone, new, outside; and the geometry alone."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.params import PhantomParams
from data_contracts.review import Finding
from data_contracts.volume import CTVolume
from pipeline.cohort.phantom_patient import PhantomPatient
from pipeline.cohort.phantom_plan import plan_cohort
from pipeline.imaging.lungs import segment_lungs
from pipeline.review.measure import measure
from pipeline.review.new_nodules import NEW, OF_A_SEARCH, OUTSIDE_BEFORE
from pipeline.review.priors import NOT_SEEN, OUTSIDE, DatedScan, assign, guideline_nodule, match_priors
from pipeline.review.registration import Scan, align, correlation_map

_PARAMS = PhantomParams(
    seed=5, n_patients=2, nodules_per_patient=1, matrix=176, length_mm=180.0, spacing_a_mm=2.0, spacing_b_mm=3.0
)
#: Breath and position of the study before: scale and shift of each axis (x, y, z).
_SCALE, _SHIFT = np.array([1.02, 1.03, 1.08]), np.array([31.0, -22.0, -140.0])
_DAYS = (date(2024, 1, 10), date(2025, 1, 10))


@pytest.fixture(scope="module")
def patient() -> tuple[np.ndarray, tuple[float, float, float]]:
    """HU of a chest (k, j, i) and its spacing."""
    drawn = PhantomPatient(_PARAMS, plan_cohort(_PARAMS)[0])
    hu = drawn.object_hu().reshape(drawn.slices, -1, _PARAMS.matrix, _PARAMS.matrix).mean(axis=1)
    return hu, (drawn.scanner.spacing_mm, drawn.grid.pixel_mm, drawn.grid.pixel_mm)


def _study(patient, balls, *, before: bool, slices: slice = slice(None), noise_hu: float = 20.0) -> CTVolume:
    """The chest with balls at voxel places (k, j, i) of a diameter in mm, in the frame of either study."""
    hu, spacing = patient
    scale = _SCALE if before else np.ones(3)
    steps = np.array(spacing) * scale[::-1]
    drawn = hu.copy()
    places = np.indices(hu.shape)
    for (k, j, i), diameter_mm in balls:
        away = np.sqrt(sum(((places[a] - c) * steps[a]) ** 2 for a, c in enumerate((k, j, i))))
        drawn += np.clip((diameter_mm / 2 - away) / 1.5 + 0.5, 0, 1) * (30 - drawn)
    drawn += np.random.default_rng(int(before)).normal(0, noise_hu, hu.shape)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *steps, 1.0
    affine[:3, 3] = _SHIFT if before else 0.0
    affine[:3, 3] += affine[:3, 0] * (slices.start or 0)
    return CTVolume(np.clip(drawn[slices], -1024, 3071).astype(np.int16), affine)


def _lps(patient, kji, *, before: bool) -> np.ndarray:
    steps = np.array(patient[1])[::-1] * (_SCALE if before else 1.0)
    return np.array(kji, dtype=float)[::-1] * steps + (_SHIFT if before else 0.0)


def _finding(volume: CTVolume, lps_mm: np.ndarray, diameter_mm: float, name: str) -> Finding:
    x, y, z = (float(value) for value in lps_mm)
    k, j, i = (float(value) for value in volume.to_kji(lps_mm))
    return Finding(
        finding_id=name,
        nodule_id=name,
        series_key="0123456789abcdef",
        lps_mm=(x, y, z),
        kji=(k, j, i),
        slice_number=round(k) + 1,
        measurement=measure(volume, lps_mm, diameter_mm),
        probability=None,
        source="test",
    )


@pytest.fixture(scope="module")
def places(patient) -> list[tuple[int, int, int]]:
    """Places in the lungs, far from each other and from other tissue."""
    lungs = segment_lungs(_study(patient, [], before=False))
    hu = patient[0]
    rng = np.random.default_rng(3)
    found: list[tuple[int, int, int]] = []
    mask = lungs.on_grid_of(_study(patient, [], before=False)) & (hu < -700)
    for k, j, i in rng.permutation(np.argwhere(mask)):
        box = hu[max(k - 5, 0) : k + 6, max(j - 6, 0) : j + 7, max(i - 6, 0) : i + 7]
        apart = all(np.linalg.norm((np.array([k, j, i]) - other) * patient[1]) > 30 for other in found)
        if 18 < k < len(hu) - 18 and apart and box.max() < -600:
            found.append((int(k), int(j), int(i)))
        if len(found) == 4:
            break
    assert len(found) == 4
    return found


@pytest.fixture(scope="module")
def studies(patient, places) -> tuple[CTVolume, CTVolume]:
    """Nodules 0 (grown from 8 to 10 mm) and 1 (unchanged, 9 mm) in both, 2 only before, 3 only now."""
    before = _study(patient, [(places[0], 8.0), (places[1], 9.0), (places[2], 9.0)], before=True)
    now = _study(patient, [(places[0], 10.0), (places[1], 9.0), (places[3], 9.0)], before=False)
    return now, before


def _scans(now: CTVolume, before: CTVolume) -> tuple[DatedScan, DatedScan]:
    return (
        DatedScan("now", Scan(now, segment_lungs(now)), _DAYS[1], 2.0),
        DatedScan("before", Scan(before, segment_lungs(before)), _DAYS[0], 2.0),
    )


def test_nodules_are_found_again_grown_unchanged_new_and_gone(patient, places, studies):
    now, before = studies
    scan, prior = _scans(now, before)
    mine = [_finding(now, _lps(patient, places[n], before=False) + 1.0, 9.0, f"now{n}") for n in (3, 1, 0)]
    theirs = [_finding(before, _lps(patient, places[n], before=True) - 1.0, 9.0, f"before{n}") for n in (0, 1, 2)]
    match = match_priors(mine, scan, theirs, prior)
    assert match.problem == ""
    found = {each.finding_id: each.prior for each in match.findings}
    assert [each.finding_id for each in match.findings] == ["now3", "now1", "now0"]
    assert found["now3"] is None
    assert [each.is_new for each in match.findings] == [True, False, False]
    assert [each.without_prior for each in match.findings] == [NEW, "", ""]
    assert found["now1"].finding_id == "before1" and found["now0"].finding_id == "before0"
    assert all(found[name].distance_mm < 5 and found[name].study_date == "2024-01-10" for name in ("now0", "now1"))
    grown, same = found["now0"].growth, found["now1"].growth
    truth_days = 366 * np.log(2) / (3 * np.log(10 / 8))
    assert grown.days == 366 and grown.covers(truth_days) and not grown.covers(float("inf"))
    assert grown.grew_by_diameter and not same.grew_by_diameter
    assert same.covers(float("inf"))
    assert [each.finding_id for each in match.missed] == ["before2"]
    assert match.missed[0].reason == NOT_SEEN
    assert np.linalg.norm(np.array(match.missed[0].lps_mm) - _lps(patient, places[2], before=False)) < 6
    asked = guideline_nodule(match.findings[2], 2.0)
    assert asked.prior.nodule_id == "before0" and asked.prior.study_date == _DAYS[0]


def test_a_nodule_that_a_search_did_not_propose_before_is_not_called_new(patient, places, studies):
    now, before = studies
    scan, prior = _scans(now, before)
    mine = [_finding(now, _lps(patient, places[3], before=False), 9.0, "now3")]
    theirs = [_finding(before, _lps(patient, places[0], before=True), 9.0, "before0")]
    searched = [each.model_copy(update={"detection_score": 0.8}) for each in theirs]
    (found,) = match_priors(mine, scan, searched, prior).findings
    assert (found.is_new, found.without_prior) == (False, OF_A_SEARCH)
    (found,) = match_priors(mine, scan, theirs, prior).findings
    assert (found.is_new, found.without_prior) == (True, NEW)


def test_a_nodule_that_readers_overlooked_before_or_that_lay_outside_is_not_called_new(patient, places, studies):
    now, before = studies
    scan, prior = _scans(now, before)
    mine = [_finding(now, _lps(patient, places[1], before=False), 9.0, "now1")]
    theirs = [_finding(before, _lps(patient, places[0], before=True), 9.0, "before0")]
    (found,) = match_priors(mine, scan, theirs, prior).findings
    assert not found.is_new
    assert "a structure of" in found.without_prior and "readers marked" in found.without_prior
    low, high = sorted((places[1], places[3]), key=lambda place: place[0])
    short = _study(patient, [(high, 9.0)], before=True, slices=slice(low[0] + 4, None))
    scan, prior = _scans(now, short)
    mine = [_finding(now, _lps(patient, low, before=False), 9.0, "low")]
    theirs = [_finding(short, _lps(patient, high, before=True), 9.0, "high")]
    match = match_priors(mine, scan, theirs, prior)
    assert match.problem == ""
    assert (match.findings[0].is_new, match.findings[0].without_prior) == (False, OUTSIDE_BEFORE)


def test_a_nodule_outside_of_a_shorter_scan_is_missed_for_that_reason(patient, places, studies):
    _, before = studies
    order = sorted(places[:3], key=lambda place: place[0])
    low, high = order[0], order[-1]
    now = _study(patient, [(high, 9.0)], before=False, slices=slice((low[0] + high[0]) // 2 - 8, None))
    if now.contains(_lps(patient, low, before=False)):
        now = _study(patient, [(high, 9.0)], before=False, slices=slice(low[0] + 4, None))
    scan, prior = _scans(now, before)
    theirs = [_finding(before, _lps(patient, place, before=True), 9.0, f"before{place[0]}") for place in (low, high)]
    mine = [_finding(now, _lps(patient, high, before=False), 9.0, "now")]
    match = match_priors(mine, scan, theirs, prior)
    assert match.findings[0].prior.finding_id == f"before{high[0]}"
    assert [(each.finding_id, each.reason) for each in match.missed] == [(f"before{low[0]}", OUTSIDE)]


def test_scans_of_other_places_are_not_compared_and_say_so(studies):
    now, _ = studies
    noise = np.random.default_rng(0).normal(-600, 200, (60, 80, 80)).astype(np.int16)
    empty = CTVolume(noise, np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]])
    scan, prior = _scans(now, empty)
    match = match_priors([_finding(now, now.to_lps_mm(np.array([40, 80, 50])), 8.0, "a")], scan, [], prior)
    assert match.problem.startswith("no comparison with the study before: ")
    assert match.findings[0].prior is None and match.missed == ()


def test_an_empty_list_on_either_side_is_no_error(patient, places, studies):
    now, before = studies
    scan, prior = _scans(now, before)
    assert match_priors([], scan, [], prior).findings == ()
    theirs = [_finding(before, _lps(patient, places[0], before=True), 8.0, "b")]
    assert len(match_priors([], scan, theirs, prior).missed) == 1


def test_the_map_is_right_everywhere_in_the_lungs(studies):
    now, before = studies
    alignment = align(Scan(now, segment_lungs(now)), Scan(before, segment_lungs(before)))
    lungs = alignment.now.lungs
    points = (np.argwhere(lungs.sides)[::3000]) @ lungs.affine[:3, :3].T + lungs.affine[:3, 3]
    truth = points * _SCALE + _SHIFT
    found = points @ alignment.matrix[:3, :3].T + alignment.matrix[:3, 3]
    assert np.percentile(np.linalg.norm(found - truth, axis=1), 95) < 3.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-80, 80)] * 3), min_size=0, max_size=9),
    st.integers(0, 1000),
)
def test_pairs_are_one_to_one_and_do_not_depend_on_the_order(points, seed):
    rng = np.random.default_rng(seed)
    here = np.array(points, dtype=float).reshape(-1, 3)
    there = here[rng.random(len(here)) < 0.7] + rng.normal(0, 0.5, 3)
    order = rng.permutation(len(there))
    sizes, others = rng.uniform(4, 20, len(here)), rng.uniform(4, 20, len(there))
    distances = np.linalg.norm(here[:, None] - there[None], axis=-1)
    pairs = assign(distances, sizes, others)
    assert len(set(pairs.values())) == len(pairs)
    again = assign(distances[:, order], sizes, others[order])
    assert sum(distances[a, b] for a, b in pairs.items()) == pytest.approx(
        sum(distances[a, order[b]] for a, b in again.items()), abs=1e-6
    )


def test_two_neighbours_are_not_swapped_and_a_far_one_has_no_pair():
    distances = np.array([[1.0, 6.0, 60.0], [5.0, 2.0, 55.0]])
    assert assign(distances, np.array([6.0, 6.0]), np.array([6.0, 6.0, 6.0])) == {0: 0, 1: 1}
    assert assign(np.array([[25.0]]), np.array([6.0]), np.array([6.0])) == {}
    assert assign(np.array([[1.0]]), np.array([4.0]), np.array([40.0])) == {}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.floats(0.5, 3.0), st.floats(-200, 200))
def test_a_template_is_found_where_it_was_cut_whatever_brightness_and_contrast(k, j, i, gain, offset):
    region = np.random.default_rng(k * 49 + j * 7 + i).normal(-700, 100, (13, 13, 13))
    template = region[k : k + 7, j : j + 7, i : i + 7] * gain + offset
    everything = np.ones(template.shape, dtype=bool)
    found = correlation_map(template, everything, region, np.ones(region.shape, dtype=bool), 0.9)
    assert np.unravel_index(found.argmax(), found.shape) == (k, j, i)
    assert found.max() == pytest.approx(1.0, abs=1e-4)
