"""Maps of what a network looked at, over the planes it saw, as PNG."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_contracts.model_card import LUNG_WINDOW
from data_contracts.patch_kind import PatchKind
from data_contracts.volume import CTVolume
from pipeline.review.key_images import KEY_IMAGE_PX, MAP_VIEWS, framed_pen, to_grey
from pipeline.review.planes import LpsPoint, sample_plane

#: weak and strong places; a place of value 0 stays as it is
_WEAK, _STRONG = np.array((250, 204, 21)), np.array((220, 38, 38))
_OPACITY = 0.55


def render_map_images(
    volume: CTVolume,
    center_lps_mm: LpsPoint,
    maps: NDArray[np.float32],
    kind: PatchKind,
    spacing_mm: float,
) -> dict[str, bytes]:
    """PNG of the views of MAP_VIEWS that the network saw, each as wide as its patch, by name of the view.

    Parameters
    ----------
    maps: (P, H, W) or, of a volume, (D, H, W), in 0..1, on the grid of the patch (`pipeline.imaging.patches`).
    """
    images = {}
    for view, plane_map in map_planes(maps, kind).items():
        plane = MAP_VIEWS[view].plane
        size_mm = plane_map.shape[0] * spacing_mm
        side_px = (KEY_IMAGE_PX, KEY_IMAGE_PX)
        hu = sample_plane(volume, center_lps_mm, plane, size_mm=(size_mm, size_mm), shape_px=side_px)
        pen = framed_pen(plane, LUNG_WINDOW, size_mm, KEY_IMAGE_PX, bar_mm=10, where=f"map, {plane}")
        images[view] = pen.png_over(_blended(to_grey(hu, LUNG_WINDOW), plane_map))
    return images


def map_planes(maps: NDArray[np.float32], kind: PatchKind) -> dict[str, NDArray[np.float32]]:
    """The planes through the nodule, (H, W) each, seen as pictures are: the head or the front at the top.

    Of a cube that the network saw as three planes, and of a volume, coronal and sagittal rows grow towards the head;
    pictures have it at the top.
    """
    if kind == "2d":
        return {"map-axial": maps[len(maps) // 2]}
    if kind == "2.5d":
        return dict(zip(MAP_VIEWS, maps[: len(MAP_VIEWS)], strict=True))
    if len(maps) == len(MAP_VIEWS):
        axial, coronal, sagittal = maps
    else:
        depth, height, width = maps.shape
        axial, coronal, sagittal = maps[depth // 2], maps[:, height // 2], maps[:, :, width // 2]
    return dict(zip(MAP_VIEWS, (axial, coronal[::-1], sagittal[::-1]), strict=True))


def _blended(grey: NDArray[np.uint8], plane_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A grey picture with the map over it in colour, (rows, columns, 3)."""
    fine = Image.fromarray(np.ascontiguousarray(plane_map, dtype=np.float32)).resize(
        (grey.shape[1], grey.shape[0]), Image.Resampling.BILINEAR
    )
    value = np.clip(np.asarray(fine, dtype=np.float64), 0, 1)[..., None]
    colour = _WEAK + (_STRONG - _WEAK) * value
    opacity = _OPACITY * value
    return np.asarray(np.rint(grey[..., None] * (1 - opacity) + colour * opacity), dtype=np.uint8)
