"""One picture of a dataset: a square of patches to look at before anything is trained on them."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from data_contracts.model_card import LUNG_WINDOW
from data_contracts.patch_kind import PatchKind
from pipeline.imaging.window import apply_window_uint8

_TILE_PX = 96
_FRAME_PX = 3
#: Frame by label: 0 green, 1 red, none grey.
_COLOURS = {0: (40, 160, 80), 1: (210, 50, 50)}
_NO_LABEL = (130, 130, 130)


def contact_sheet_png(
    patches: NDArray[np.int16] | NDArray[np.uint8], labels: pd.Series, kind: PatchKind, value_unit: str
) -> bytes:
    """PNG bytes of up to 64 patches (n, *patch_shape), framed by label; HU in the lung window.

    Shown of each: the axial plane (2.5d) or the middle slice or channel (2d, 3d).
    """
    side = math.ceil(math.sqrt(len(patches)))
    step = _TILE_PX + 2 * _FRAME_PX
    sheet = Image.new("RGB", (side * step, math.ceil(len(patches) / side) * step))
    for number, (patch, label) in enumerate(zip(patches, labels, strict=True)):
        plane = patch[0] if kind == "2.5d" else patch[len(patch) // 2]
        grey = apply_window_uint8(plane, LUNG_WINDOW) if value_unit == "HU" else plane.astype(np.uint8)
        tile = Image.fromarray(grey).resize((_TILE_PX, _TILE_PX), Image.Resampling.BILINEAR).convert("RGB")
        left, top = number % side * step, number // side * step
        colour = _NO_LABEL if pd.isna(label) else _COLOURS[int(label)]
        sheet.paste(colour, (left, top, left + step, top + step))
        sheet.paste(tile, (left + _FRAME_PX, top + _FRAME_PX))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    return stream.getvalue()
