"""HU windows."""

from __future__ import annotations

import numpy as np
import pytest

from data_contracts.errors import UsageError
from data_contracts.model_card import LUNG_WINDOW, Window
from pipeline.imaging.window import apply_window, apply_window_uint8, named_window, windows_as_channels


def test_a_window_is_linear_between_its_ends_and_clipped_beyond():
    hu = np.array([-3024, -1350, -975, -600, 150, 3071], np.int16)
    assert apply_window(hu, LUNG_WINDOW).tolist() == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert apply_window_uint8(hu, LUNG_WINDOW).tolist() == [0, 0, 64, 128, 255, 255]


def test_windows_become_channels_before_the_plane():
    planes = np.zeros((5, 3, 8, 9), np.int16)
    channels = windows_as_channels(planes, (LUNG_WINDOW, named_window("bone")))
    assert channels.shape == (5, 3, 2, 8, 9)
    assert channels.dtype == np.float32


def test_an_unknown_window_and_a_window_without_width_are_refused():
    with pytest.raises(UsageError, match="lung, mediastinum, bone"):
        named_window("liver")
    with pytest.raises(UsageError, match="positive"):
        apply_window(np.zeros(1, np.int16), Window(center_hu=0, width_hu=0))
