"""A review names what it left open: the series that nobody read, and what is not known of the version."""

from __future__ import annotations

import numpy as np
import pandas as pd
from answers_factory import reviewed_workspace

from data_contracts.volume import CTVolume
from flows.reviewing.previous import Previous
from flows.reviewing.reading import StudyReading, off_lung
from flows.reviewing.review import not_examined
from pipeline.imaging.lungs import LungMask
from pipeline.review.registration import Scan


def test_a_series_of_the_study_that_was_not_read_is_among_what_was_not_looked_at(tmp_path):
    read, other = reviewed_workspace(tmp_path / "w", 2, pictures=False).series_records()
    reading = StudyReading(pd.DataFrame(), None)
    lungs = LungMask(np.ones((4, 4, 4), np.uint8), np.eye(4), 2000.0, 2000.0, ())
    reading.scans[read.series_key] = Scan(CTVolume(np.zeros((4, 4, 4), np.int16), np.eye(4)), lungs)
    told = not_examined(reading, Previous(), [read, other])
    assert [line for line in told if "not read" in line] == [
        f"Series 2 of the study ({other.kernel or 'no kernel stated'}, {other.n_slices} slices): not read."
    ]
    reading.scans[other.series_key] = reading.scans[read.series_key]
    assert not any("not read" in line for line in not_examined(reading, Previous(), [read, other]))


def test_a_mark_far_from_the_lungs_is_said_to_be_so_and_one_that_may_touch_them_is_not():
    lungs = LungMask(np.ones((4, 4, 4), np.uint8), np.eye(4), 2000.0, 2000.0, ())
    beside = np.array([1.0, 1.0, 15.0])
    assert "12 mm outside of the lungs" in off_lung(lungs, beside, 3.0)
    assert off_lung(lungs, beside, 6.0) == off_lung(lungs, np.ones(3), 3.0) == ""
    unsure = LungMask(lungs.sides, lungs.affine, 2000.0, 2000.0, ("too small",))
    assert off_lung(unsure, beside, 3.0) == ""
