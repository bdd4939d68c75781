"""HU windows: what a reader or a network sees of the Hounsfield scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import UsageError
from data_contracts.model_card import Window


def apply_window(hu: NDArray[np.integer] | NDArray[np.floating], window: Window) -> NDArray[np.float32]:
    """HU of any shape to float32 0..1: linear from centre - width/2 (0) to centre + width/2 (1), clipped.

    Raises
    ------
    UsageError: the width of the window is not positive.
    """
    if not window.width_hu > 0:
        raise UsageError(f"the width of a window is positive, not {window.width_hu} HU")
    scaled = (hu.astype(np.float32) - np.float32(window.center_hu)) / np.float32(window.width_hu) + np.float32(0.5)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def apply_window_uint8(hu: NDArray[np.integer] | NDArray[np.floating], window: Window) -> NDArray[np.uint8]:
    """HU of any shape to grey 0..255, rounded: for pictures."""
    return np.asarray(np.rint(apply_window(hu, window) * 255.0), dtype=np.uint8)


def windows_as_channels(hu: NDArray[np.int16], windows: tuple[Window, ...]) -> NDArray[np.float32]:
    """(..., H, W) HU to (..., C, H, W) float32 0..1, one channel a window."""
    return np.stack([apply_window(hu, window) for window in windows], axis=-3)
