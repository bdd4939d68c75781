"""HU windows."""

from __future__ import annotations

import numpy as np
import pytest

from data_contracts.errors import UsageError
from data_contracts.model_card import LUNG_WINDOW, Window, named_window
from data_contracts.params import TrainParams
from pipeline.imaging.window import apply_window, apply_window_uint8, windows_as_channels


def test_a_window_is_linear_between_its_ends_and_clipped_beyond():
    hu = np.array([-3024, -1350, -975, -600, 150, 3071], np.int16)
    assert apply_window(hu, LUNG_WINDOW).tolist() == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert apply_window_uint8(hu, LUNG_WINDOW).tolist() == [0, 0, 64, 128, 255, 255]


def test_windows_become_channels_before_the_plane():
    planes = np.zeros((5, 3, 8, 9), np.int16)
    channels = windows_as_channels(planes, (LUNG_WINDOW, named_window("bone")))
    assert channels.shape == (5, 3, 2, 8, 9)
    assert channels.dtype == np.float32


def test_a_window_of_ones_own_is_written_as_centre_and_width():
    assert named_window("-500:1400") == Window(center_hu=-500, width_hu=1400)
    params = TrainParams.from_mapping({"windows": ["lung", "-500:1400", "bone"]})
    assert [named_window(name).width_hu for name in params.windows] == [1500, 1400, 1500]


@pytest.mark.parametrize("windows", [["lung", "liver", "bone"], ["lung", "bone"], ["lung", "0:-5", "bone"]])
def test_windows_that_are_none_are_refused_before_anything_runs(windows):
    with pytest.raises(UsageError):
        TrainParams.from_mapping({"windows": windows})


def test_an_unknown_window_and_a_window_without_width_are_refused():
    with pytest.raises(UsageError, match="lung, mediastinum, bone"):
        named_window("liver")
    with pytest.raises(UsageError, match="positive"):
        apply_window(np.zeros(1, np.int16), Window(center_hu=0, width_hu=0))
