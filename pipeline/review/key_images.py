"""Key images of a nodule as PNG: planes through its centre in radiological convention, with marks and scale."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_contracts.model_card import LUNG_WINDOW, MEDIASTINAL_WINDOW, Window
from data_contracts.params import ReviewParams
from data_contracts.volume import CTVolume
from pipeline.review.planes import PLANE_LETTERS, LpsPoint, sample_plane

#: Side of a key image, and of a small one; marks are drawn OVERSAMPLING times as fine and reduced, for smooth edges.
KEY_IMAGE_PX = 360
SMALL_IMAGE_PX = 240
OVERSAMPLING = 2

#: zlib's default takes some three times as long for pictures that are hardly smaller
_PNG_LEVEL = 1

_MARK = (255, 193, 61)
_TEXT = (236, 240, 244)
_HALO = (0, 0, 0)


@dataclass(frozen=True)
class KeyView:
    """A kind of key image: its plane, its window and its caption."""

    plane: str
    window: Window
    caption: str


#: Every key image of a finding, in the order of the page.
KEY_VIEWS: dict[str, KeyView] = {
    "axial-lung": KeyView("axial", LUNG_WINDOW, "Axial, lung window"),
    "axial-mediastinal": KeyView("axial", MEDIASTINAL_WINDOW, "Axial, mediastinal window"),
    "coronal-lung": KeyView("coronal", LUNG_WINDOW, "Coronal, lung window"),
    "sagittal-lung": KeyView("sagittal", LUNG_WINDOW, "Sagittal, lung window"),
    "overview": KeyView("axial", LUNG_WINDOW, "Whole slice, lung window"),
}

#: Maps of what the network looked at, where they are shown: the planes of a patch in its order.
MAP_VIEWS: dict[str, KeyView] = {
    f"map-{plane}": KeyView(plane, LUNG_WINDOW, f"Where the network looked, {plane}")
    for plane in ("axial", "coronal", "sagittal")
}

#: Every picture of a finding, in the order of the page.
VIEWS = {**KEY_VIEWS, **MAP_VIEWS}
#: the files of every finding, as `key_image_name` names them
KEY_IMAGES = "key-*.png"


def key_image_name(finding_id: str, view: str) -> str:
    """File name of a key image; the report finds its caption again from the end of the name."""
    return f"key-{finding_id}-{view}.png"


def view_of(file_name: str) -> str | None:
    """The view (a key of VIEWS) that a file name was made for."""
    return next((view for view in VIEWS if file_name.endswith(f"-{view}.png")), None)


def render_key_images(
    volume: CTVolume,
    center_lps_mm: LpsPoint,
    diameter_mm: float,
    params: ReviewParams,
    side_px: int = KEY_IMAGE_PX,
) -> dict[str, bytes]:
    """PNG of every view of KEY_VIEWS, each `side_px` a side, RGB.

    The planes lie along the patient's axes whatever the affine of the volume. Close-ups show
    `params.key_image_size_mm`, more where the nodule would not fit with its surroundings.
    """
    side_mm = close_up_mm(diameter_mm, params)
    overview_center, overview_mm = _whole_slice(volume, center_lps_mm)
    slice_number = round(float(volume.to_kji(np.asarray(center_lps_mm))[0])) + 1
    planes: dict[str, NDArray[np.float32]] = {}
    images = {}
    for name, view in KEY_VIEWS.items():
        is_overview = name == "overview"
        center = overview_center if is_overview else np.asarray(center_lps_mm)
        size_mm = overview_mm if is_overview else side_mm
        key = name if is_overview else view.plane
        if key not in planes:
            planes[key] = _sampled(volume, center, view.plane, size_mm, side_px, shrinks=is_overview)
        bar_mm = 50 if is_overview else 10 if size_mm <= 80 else 20
        where = f"slice {slice_number}/{volume.shape_kji[0]}" if view.plane == "axial" else ""
        pen = framed_pen(view.plane, view.window, size_mm, side_px, bar_mm, where)
        across_mm, down_mm = (float(value) for value in (np.asarray(center_lps_mm) - center)[:2])
        pen.mark(across_mm, down_mm, diameter_mm / 2, ring=is_overview)
        images[name] = pen.png_over(to_grey(planes[key], view.window))
    return images


def _sampled(
    volume: CTVolume, center: LpsPoint, plane: str, size_mm: float, side_px: int, *, shrinks: bool
) -> NDArray[np.float32]:
    """A square plane in HU; one that shrinks is sampled finer, to be averaged, or its fine texture would alias."""
    if shrinks:
        shape = (side_px * OVERSAMPLING, side_px * OVERSAMPLING)
        return sample_plane(volume, center, plane, size_mm=(size_mm, size_mm), shape_px=shape, order=1)
    # Half as many points are still finer than a scanner's pixels; between them a cheaper cubic does as well.
    half = sample_plane(volume, center, plane, size_mm=(size_mm, size_mm), shape_px=(side_px // 2, side_px // 2))
    return np.asarray(Image.fromarray(half).resize((side_px, side_px), Image.Resampling.BICUBIC), dtype=np.float32)


def close_up_mm(diameter_mm: float, params: ReviewParams) -> float:
    """Side of a close-up of a nodule of this diameter."""
    return max(params.key_image_size_mm, 2 * diameter_mm)


def to_grey(hu: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    """HU through a window to 0..255."""
    low = window.center_hu - window.width_hu / 2
    return np.asarray(np.clip((hu - low) / window.width_hu * 255 + 0.5, 0, 255), dtype=np.uint8)


def _whole_slice(volume: CTVolume, center_lps_mm: LpsPoint) -> tuple[NDArray[np.float64], float]:
    """Centre and side in mm of the square that holds the volume's whole axial extent at the nodule's height."""
    last = np.array(volume.shape_kji) - 1
    corners = np.array([[k, j, i] for k in (0, last[0]) for j in (0, last[1]) for i in (0, last[2])])
    lps_mm = volume.to_lps_mm(corners)[:, :2]
    low, high = lps_mm.min(axis=0), lps_mm.max(axis=0)
    middle = (low + high) / 2
    return np.array([*middle, center_lps_mm[2]], dtype=np.float64), float((high - low).max())


def framed_pen(plane: str, window: Window, size_mm: float, side_px: int, bar_mm: int, where: str = "") -> Pen:
    """A pen on a layer with directions, window, scale bar, and where the picture lies, which is its plane if empty."""
    window_note = f"W {window.width_hu:.0f}  L {window.center_hu:.0f}"
    pen = Pen(size_mm, side_px, _frame(plane, window_note, size_mm, side_px, bar_mm, not where).copy())
    if where:
        pen.note(where)
    return pen


@lru_cache(maxsize=32)
def _frame(plane: str, window_note: str, size_mm: float, side_px: int, bar_mm: int, names_plane: bool) -> Image.Image:
    """What all pictures of a kind share, drawn once: text takes longer than all else that is drawn on a picture."""
    pen = Pen(size_mm, side_px)
    pen.letters(PLANE_LETTERS[plane])
    pen.note(window_note, at_top=False)
    if names_plane:
        pen.note(plane)
    pen.scale_bar(bar_mm)
    return pen.layer


class Pen:
    """Draws marks on a layer of its own, OVERSAMPLING times as fine; sizes in mm or in pixels of the final image."""

    def __init__(self, size_mm: float, side_px: int = KEY_IMAGE_PX, layer: Image.Image | None = None) -> None:
        self.side_px = side_px
        self.n_px = side_px * OVERSAMPLING
        self.layer = layer or Image.new("RGBA", (self.n_px, self.n_px))
        self.draw = ImageDraw.Draw(self.layer)
        self.px_per_mm = self.n_px / size_mm

    def png_over(self, grey: NDArray[np.uint8]) -> bytes:
        """The marks laid over a picture, as PNG."""
        side = (self.side_px, self.side_px)
        picture = Image.fromarray(grey).resize(side, Image.Resampling.BOX).convert("RGBA")
        # Colours of clear pixels must not bleed into the marks' edges: reduce with premultiplied alpha.
        marks = self.layer.convert("RGBa").resize(side, Image.Resampling.BOX).convert("RGBA")
        buffer = io.BytesIO()
        Image.alpha_composite(picture, marks).convert("RGB").save(buffer, "PNG", compress_level=_PNG_LEVEL)
        return buffer.getvalue()

    def mark(self, across_mm: float, down_mm: float, radius_mm: float, *, ring: bool) -> None:
        """A crosshair open in the middle, so that neither the nodule nor its margin is covered; or a ring."""
        x, y = self.n_px / 2 + across_mm * self.px_per_mm, self.n_px / 2 + down_mm * self.px_per_mm
        gap = radius_mm * self.px_per_mm + (6 if ring else 16) * OVERSAMPLING
        arm = 14 * OVERSAMPLING
        width = max(1, round(1.5 * OVERSAMPLING))
        if ring:
            self.draw.ellipse((x - gap, y - gap, x + gap, y + gap), outline=_MARK, width=width)
            return
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            start = (x + dx * gap, y + dy * gap)
            self.draw.line((*start, x + dx * (gap + arm), y + dy * (gap + arm)), fill=_MARK, width=width)

    def letters(self, letters: tuple[str, str, str, str]) -> None:
        """Directions in the patient at the left, right, top and bottom rim."""
        edge, middle = 12 * OVERSAMPLING, self.n_px / 2
        places = ((edge, middle), (self.n_px - edge, middle), (middle, edge), (middle, self.n_px - edge))
        for letter, place in zip(letters, places, strict=True):
            self._text(place, letter, size=15, anchor="mm")

    def note(self, text: str, *, at_top: bool = True) -> None:
        """A line in the upper left corner, or in the lower left one."""
        edge = 7 * OVERSAMPLING
        self._text((edge, edge if at_top else self.n_px - edge), text, size=12, anchor="la" if at_top else "ls")

    def scale_bar(self, length_mm: int) -> None:
        """A bar with its length in the lower right corner."""
        right, y = self.n_px - 10 * OVERSAMPLING, self.n_px - 12 * OVERSAMPLING
        left, tick = right - length_mm * self.px_per_mm, 4 * OVERSAMPLING
        for colour, width in ((_HALO, 4), (_TEXT, 2)):
            wide = width * OVERSAMPLING
            for line in ((left, y, right, y), (left, y - tick, left, y + tick), (right, y - tick, right, y + tick)):
                self.draw.line(line, fill=colour, width=wide if line[1] == line[3] else wide // 2)
        self._text(((left + right) / 2, y - 7 * OVERSAMPLING), f"{length_mm} mm", size=12, anchor="mb")

    def _text(self, at_px: tuple[float, float], text: str, *, size: int, anchor: str) -> None:
        font = ImageFont.load_default(size * OVERSAMPLING)
        self.draw.text(
            at_px, text, font=font, fill=_TEXT, anchor=anchor, stroke_width=2 * OVERSAMPLING, stroke_fill=_HALO
        )
