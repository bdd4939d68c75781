"""A small drawing of lines, bands and marks as inline SVG: sharp at any size, in the colours of the page, no script.

Colours and line styles are classes of the page's style sheet, so that a drawing follows dark mode and print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: (value, text) of a tick
Ticks = Sequence[tuple[float, str]]


@dataclass
class Drawing:
    """Axes of data coordinates with what was drawn in them; `render` gives the SVG.

    x_range, y_range: data at the edges of the frame; lines and bands are held inside it.
    width, height: of the whole, in SVG units, which are pixels at full size.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int = 400
    height: int = 360
    left: int = 54
    right: int = 20
    top: int = 12
    bottom: int = 46
    _drawn: list[Markup] = field(default_factory=list)

    def x(self, value: float) -> float:
        """SVG x of a data value."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """SVG y of a data value."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def line(self, across: ArrayLike, up: ArrayLike, css: str) -> None:
        """A line through points; where it leaves the frame above or below, it is cut."""
        across, up = self._cut(np.asarray(across, dtype=np.float64), np.asarray(up, dtype=np.float64))
        self._drawn.append(Markup('<polyline class="{}" points="{}"/>').format(css, self._points(across, up)))

    def band(self, across: ArrayLike, low: ArrayLike, high: ArrayLike, css: str) -> None:
        """The area between two lines over the same places."""
        there = np.asarray(across, dtype=np.float64)
        edges = np.clip(np.concatenate([np.asarray(low), np.asarray(high)[::-1]]), *self.y_range)
        ends = np.concatenate([there, there[::-1]]), edges
        self._drawn.append(Markup('<polygon class="{}" points="{}"/>').format(css, self._points(*ends)))

    def bar(self, at: float, low: float, high: float, css: str) -> None:
        """An interval, upright, with short ends."""
        x, bottom, top = self.x(at), self.y(low), self.y(high)
        path = f"M{x - 3:.1f} {bottom:.1f}h6m-3 0V{top:.1f}m-3 0h6"
        self._drawn.append(Markup('<path class="{}" d="{}"/>').format(css, path))

    def dot(self, x: float, y: float, radius: float, css: str) -> None:
        """A round mark; it may lie over the frame."""
        at = f"{self.x(x):.1f}", f"{self.y(y):.1f}", f"{radius:.1f}"
        self._drawn.append(Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(css, *at))

    def dots(self, points: Iterable[tuple[float, float]], css: str, *, cross: bool = False) -> None:
        """Many small marks in one path: round (the style gives their size), or crosses."""
        mark = "m-2.6 0h5.2m-2.6-2.6v5.2" if cross else "h0"
        path = "".join(f"M{self.x(x):.1f} {self.y(y):.1f}{mark}" for x, y in points)
        self._drawn.append(Markup('<path class="{}" d="{}"/>').format(css, path))

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", css: str = "", shift: float = 0) -> None:
        """Words at a place; `shift` moves them down by SVG units."""
        at = f"{self.x(x):.1f}", f"{self.y(y) + shift:.1f}"
        self._drawn.append(
            Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(css, *at, anchor, text)
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]], *, step: float = 17) -> None:
        """Line samples (css, words), one below the other from a place in data coordinates on, on a light ground."""
        longest = max((len(words) for _, words in entries), default=0)
        ground = f"{self.x(x) - 6:.1f}", f"{self.y(y) - 11:.1f}", 44 + 6 * longest, step * len(entries) + 5
        self._drawn.append(Markup('<rect class="ground" x="{}" y="{}" width="{}" height="{}" rx="4"/>').format(*ground))
        for row, (css, words) in enumerate(entries):
            left, height = self.x(x), self.y(y) + row * step
            sample = f"{left:.1f},{height:.1f} {left + 26:.1f},{height:.1f}"
            self._drawn.append(Markup('<polyline class="{}" points="{}"/>').format(css, sample))
            self._drawn.append(
                Markup('<text x="{}" y="{}">{}</text>').format(f"{left + 32:.1f}", f"{height + 4:.1f}", words)
            )

    def render(self, across: str, up: str, x_ticks: Ticks, y_ticks: Ticks, *, alt: str) -> Markup:
        """The SVG; `across` and `up` are the titles of the axes, `alt` tells what is to be seen in it."""
        left, right, bottom, top = self.left, self.width - self.right, self.height - self.bottom, self.top
        grid = Markup("")
        for value, words in x_ticks:
            at = f"{self.x(value):.1f}"
            grid += Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(at, bottom, top)
            grid += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(at, bottom + 16, words)
        for value, words in y_ticks:
            at, beside = f"{self.y(value):.1f}", f"{self.y(value) + 4:.1f}"
            grid += Markup('<line class="grid" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(at, left, right)
            grid += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 6, beside, words)
        frame = Markup('<rect class="frame" x="{}" y="{}" width="{}" height="{}"/>').format(
            left, top, right - left, bottom - top
        )
        middle = (left + right) / 2, (top + bottom) / 2
        titles = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle[0], self.height - 8, across)
        titles += Markup('<text x="13" y="{0}" text-anchor="middle" transform="rotate(-90 13 {0})">{1}</text>').format(
            middle[1], up
        )
        size = Markup('viewBox="0 0 {} {}"').format(self.width, self.height)
        return Markup('<svg class="plot" {} role="img" aria-label="{}">{}{}{}{}</svg>').format(
            size, alt, grid, frame, Markup("").join(self._drawn), titles
        )

    def _cut(self, across: Floats, up: Floats) -> tuple[Floats, Floats]:
        """Points of a line with the places where it crosses the upper or lower edge; without those outside."""
        places = [across[:1]]
        for edge in self.y_range:
            crosses = np.flatnonzero((up[:-1] - edge) * (up[1:] - edge) < 0)
            share = (edge - up[crosses]) / (up[crosses + 1] - up[crosses])
            places.append(across[crosses] + share * (across[crosses + 1] - across[crosses]))
        if sum(map(len, places)) == 1:
            return across, np.clip(up, *self.y_range)
        every = np.union1d(across, np.concatenate(places))
        height = np.interp(every, across, up)
        low, high = self.y_range
        inside = (height >= low - 1e-9) & (height <= high + 1e-9)
        return every[inside], height[inside]

    def _points(self, across: ArrayLike, up: ArrayLike) -> str:
        pairs = zip(np.asarray(across, dtype=np.float64), np.asarray(up, dtype=np.float64), strict=True)
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in pairs)
