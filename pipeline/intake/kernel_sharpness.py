"""Whether a reconstruction kernel is soft or sharp, by the schemes in which vendors name them.

A name of no known scheme is unknown: it is never guessed. Names are trademarks of their makers.
"""

from __future__ import annotations

import re
from typing import Literal

Sharpness = Literal["soft", "medium", "sharp", ""]

#: words of GE, United Imaging, Neusoft and others, the first that is found decides
_WORDS: tuple[tuple[str, Sharpness], ...] = (
    ("LUNG", "sharp"),
    ("BONE", "sharp"),
    ("EDGE", "sharp"),
    ("ULTRA", "sharp"),
    ("SHARP", "sharp"),
    ("DETAIL", "medium"),
    ("CHST", "medium"),
    ("CHEST", "medium"),
    ("SOFT", "soft"),
    ("SMOOTH", "soft"),
    ("STANDARD", "soft"),
    ("STND", "soft"),
    ("MEDIAST", "soft"),
)
#: Siemens: B30f, B70f, Br40d, Bl57, I31f, Qr40, D45f, T20s; the number is the sharpness
_SIEMENS = re.compile(r"[A-Z][A-Z]?([0-9]{2})[A-Z]?")
_SIEMENS_SHARP, _SIEMENS_MEDIUM = 50, 44
#: Canon (Toshiba): FC01 to FC09 and the 10s body, 20s and 40s head, 30s bone, 50s lung, 80s high resolution; FL lung
_CANON = re.compile(r"F[CL]([0-9])[0-9](-H)?")
_CANON_TENS: dict[str, Sharpness] = {"0": "soft", "1": "soft", "2": "soft", "4": "soft"}
_PHILIPS: dict[str, Sharpness] = {
    **dict.fromkeys(("A", "B", "EB", "UA", "UB", "XCA", "XCB", "CB"), "soft"),
    **dict.fromkeys(("C", "CC", "EC", "UC", "XCC", "SA", "SB"), "medium"),
    **dict.fromkeys(("D", "E", "F", "L", "YA", "YB", "YC", "YD", "YE"), "sharp"),
}


def sharpness_of(kernel: str, manufacturer: str = "") -> Sharpness:
    """Class of a kernel's name; "" where it is not known. The manufacturer decides on names that two vendors use."""
    name = " ".join(kernel.upper().split())
    if not name:
        return ""
    first, maker = name.split()[0], manufacturer.upper()
    if (found := _CANON.fullmatch(first)) is not None:
        return "sharp" if first.startswith("FL") else _CANON_TENS.get(found[1], "sharp")
    if first in _PHILIPS and (not maker or "PHILIPS" in maker):
        return _PHILIPS[first]
    if (found := _SIEMENS.fullmatch(first)) is not None:
        number = int(found[1])
        return "sharp" if number >= _SIEMENS_SHARP else "medium" if number > _SIEMENS_MEDIUM else "soft"
    return next((kind for word, kind in _WORDS if word in name), "")
