"""What a report says of a search: how many places, of how many, by what, and why nothing was searched."""

from __future__ import annotations

import numpy as np
import pytest

from data_contracts.errors import UsageError, WeightsError
from data_contracts.params import DetectionParams, ReviewParams
from data_contracts.volume import CTVolume
from flows.reviewing.finding import NoduleFinder, candidates_of, finder_of, search_series
from flows.workspace import Workspace
from pipeline.detection.candidates import Candidate
from pipeline.imaging.lungs import LungMask

VOLUME = CTVolume(np.full((4, 4, 4), -850, np.int16), np.eye(4))
LUNGS = LungMask(np.ones((4, 4, 4), np.uint8), np.eye(4), 2000.0, 2000.0, ())
HEAD_CT = LungMask(np.zeros((4, 4, 4), np.uint8), np.eye(4), 0.0, 0.0, ("no lung was found",))
KEY = "s" * 16


def finder(count: int) -> NoduleFinder:
    def find(volume, lungs, params):
        found = [Candidate((float(n), 0.04, -0.04), 5.0 + n / 100, 1.0 - n / 1000) for n in range(count)]
        return found[: params.max_candidates]

    return NoduleFinder(find, "a finder", "It found 9 of 10.", 0.3)


def test_candidates_have_the_columns_that_marks_have_and_the_best_is_first():
    table = candidates_of(VOLUME, LUNGS, DetectionParams(), series_key=KEY, find=finder(3).find)
    assert list(table.columns) == [
        *("nodule_id", "x_mm", "y_mm", "z_mm", "diameter_mm", "source", "n_readers", "detection_score")
    ]
    assert table["source"].tolist() == ["candidate"] * 3
    assert table["n_readers"].tolist() == [0] * 3
    assert table["detection_score"].is_monotonic_decreasing
    assert table["x_mm"].tolist() == [0.0, 1.0, 2.0]


def test_an_id_comes_from_the_series_and_the_place_and_stays():
    table = candidates_of(VOLUME, LUNGS, DetectionParams(), series_key=KEY, find=finder(5).find)
    again = candidates_of(VOLUME, LUNGS, DetectionParams(), series_key=KEY, find=finder(3).find)
    other = candidates_of(VOLUME, LUNGS, DetectionParams(), series_key="t" * 16, find=finder(3).find)
    assert table["nodule_id"].is_unique
    assert again["nodule_id"].tolist() == table["nodule_id"].tolist()[:3]
    assert not set(other["nodule_id"]) & set(table["nodule_id"])


def test_of_200_candidates_the_cap_shows_the_best_and_the_report_says_of_how_many():
    search = search_series(finder(200), VOLUME, LUNGS, DetectionParams(max_candidates=20), KEY)
    assert len(search.candidates) == 20
    assert search.candidates["detection_score"].min() == pytest.approx(1.0 - 19 / 1000)
    assert "200 places" in search.origin
    assert "the 20 with the highest score" in search.origin
    every = search_series(finder(200), VOLUME, LUNGS, DetectionParams(max_candidates=200), KEY)
    assert len(every.candidates) == 200


def test_a_search_that_found_nothing_says_that_it_was_made_and_how_well_it_finds():
    search = search_series(finder(0), VOLUME, LUNGS, DetectionParams(), KEY)
    assert search.candidates.empty
    assert "The lungs were searched by a finder: no place was found" in search.origin
    assert "It found 9 of 10." in search.origin
    assert "may have been missed" in search.origin
    assert any("below 3 mm and above 40 mm" in item for item in search.not_examined)


def test_without_plausible_lungs_nothing_is_searched_and_the_reason_is_given():
    def never(volume, lungs, params):
        raise AssertionError("it was searched")

    search = search_series(NoduleFinder(never, "", "", 0.5), VOLUME, HEAD_CT, DetectionParams(), KEY)
    assert search.candidates.empty
    assert "no search for nodules was made" in search.origin
    assert "no lung was found" in search.origin
    assert any("no search for nodules was made (no lung was found)" in item for item in search.not_examined)


def test_the_search_can_be_turned_off_and_the_report_says_so(tmp_path):
    off = finder_of(Workspace(tmp_path), DetectionParams(detector="none"))
    search = search_series(off, VOLUME, LUNGS, DetectionParams(detector="none"), KEY)
    assert search.candidates.empty
    assert "turned off (detector=none)" in search.origin


@pytest.mark.parametrize("name", ["", "classic"])
def test_the_classical_search_names_its_head_and_what_it_found_elsewhere(tmp_path, name):
    found = finder_of(Workspace(tmp_path), ReviewParams(detector=name))
    assert "learned head" in found.words
    assert "false marks a scan (phantom patients of another seed)" in found.sensitivity
    assert found.threshold == finder_of(Workspace(tmp_path), ReviewParams()).threshold
    assert finder_of(Workspace(tmp_path), ReviewParams(detection_threshold=0.9)).threshold == 0.9


def test_a_bundle_that_is_not_there_and_an_empty_range_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no detector 'luna16'"):
        finder_of(Workspace(tmp_path), DetectionParams(detector="bundle:luna16"))
    with pytest.raises(UsageError, match="smallest_mm"):
        finder_of(Workspace(tmp_path), DetectionParams(smallest_mm=20, largest_mm=10))
