"""DICOM objects that hold every attribute of the confidentiality profile, each with a fresh random sentinel.

Elements are written as raw bytes, so that representations can be wrong and values hostile.
"""

from __future__ import annotations

import csv
import random
import re
import string
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VR

PROFILE = Path(__file__).resolve().parent.parent / "pipeline" / "deidentify" / "profile.csv"
LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
TEXT = ("LO", "SH", "ST", "LT", "UT", "UC", "PN", "AE", "CS", "UR")
#: sequences of the standard that the profile does not name
UNLISTED = (0x00089215, 0x00081250, 0x00400260, 0x0040A168, 0x00189346, 0x00409096)
SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "SV": 8, "UV": 8, "AT": 4}
EXPLICIT, IMPLICIT, BIG, DEFLATED = (
    *("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
)


@dataclass
class Sentinels:
    """Makes values, and knows all that it made. times: of TM attributes, which may stay where dates are retained."""

    rng: random.Random
    texts: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    binaries: list[bytes] = field(default_factory=list)

    def word(self, length: int = 11) -> str:
        text = "".join(self.rng.choices(string.ascii_uppercase, k=length))
        self.texts.append(text)
        return text

    def digits(self, length: int) -> str:
        text = self.rng.choice("123456789") + "".join(self.rng.choices(string.digits, k=length - 1))
        self.texts.append(text)
        return text

    def uid(self) -> str:
        return f"1.2.826.0.1.3680043.8.498.{self.digits(17)}"

    def day(self) -> str:
        # all within one year, so that shifted by more than a year none becomes another
        text = f"1951{self.rng.randint(1, 12):02d}{self.rng.randint(1, 28):02d}"
        self.texts.append(text)
        return text

    def time(self) -> str:
        text = f"{self.rng.randint(0, 23):02d}{self.rng.randint(0, 59):02d}{self.rng.randint(0, 59):02d}"
        text += f".{self.rng.randint(100000, 999999)}"
        self.times.append(text)
        return text

    def value(self, vr: str) -> bytes:
        """A value of the representation, hostile only in what it says."""
        if vr in ("SH", "CS", "AE"):
            return self.word().encode()
        if vr == "PN":
            return f"{self.word(9)}^{self.word(8)}".encode()
        if vr == "UR":
            return f"http://{self.word()}.example/".encode()
        if vr in TEXT:
            return f"{self.word()} {self.digits(9)}".encode()
        if vr == "UI":
            return self.uid().encode()
        if vr == "DA":
            return self.day().encode()
        if vr == "DT":
            return f"{self.day()}{self.rng.randint(0, 23):02d}1500.5+0100".encode()
        if vr == "TM":
            return self.time().encode()
        if vr == "AS":
            return b"093Y"
        if vr == "DS":
            return f"{self.digits(9)}.5".encode()
        if vr == "IS":
            return self.digits(9).encode()
        blob = self.rng.randbytes(SIZES.get(vr, 16))
        if len(blob) >= 8:
            self.binaries.append(blob)
        return blob


def element(tag: int, vr: str, value: bytes, *, implicit: bool = False, order: str = "<") -> bytes:
    """One element as a file holds it."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack(order + "L", len(value)) + value
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "L", len(value)) + value
    return head + vr.encode() + struct.pack(order + "H", len(value)) + value


def item(content: bytes, *, order: str = "<") -> bytes:
    """One item of a sequence."""
    return struct.pack(order + "HHL", 0xFFFE, 0xE000, len(content)) + content


def profile_tags() -> list[tuple[int, str]]:
    """(tag, representation) of every row; repeating groups at three of their places, unknown tags as UN."""
    lines = (line for line in PROFILE.read_text().splitlines() if not line.startswith("#"))
    found = []
    for row in csv.DictReader(lines):
        if row["tag"] == "odd" or row["tag"].startswith("0002"):
            continue
        if row["tag"] == "50xxxxxx":
            found += [(0x50003000, "OW"), (0x50023000, "OB"), (0x50080022, "LO")]
        elif "x" in row["tag"]:
            low = int(row["tag"][4:], 16)
            vr = "OW" if low == 0x3000 else "LT"
            found += [(group << 16 | low, vr) for group in (0x6000, 0x6002, 0x601E)]
        else:
            tag = int(row["tag"], 16)
            found.append((tag, dictionary_VR(tag).split(" or ")[0] if dictionary_has_tag(tag) else "UN"))
    return sorted(found)


class Writer:
    """Puts sentinels into elements of one encoding. wrong: representations are chosen at random."""

    def __init__(self, sentinels: Sentinels, syntax: str = EXPLICIT, *, wrong: bool = False) -> None:
        self.sentinels = sentinels
        self.implicit = syntax == IMPLICIT
        self.order = ">" if syntax == BIG else "<"
        self.wrong = wrong

    def element(self, tag: int, vr: str, value: bytes) -> bytes:
        return element(tag, vr, value, implicit=self.implicit, order=self.order)

    def every_attribute(self) -> list[tuple[int, bytes]]:
        """(tag, element) of every row of the profile, and of private groups with and without their creators."""
        found = []
        for tag, vr in profile_tags():
            if tag < 0x00010000 and self.order == ">":
                continue  # pydicom takes a command in front for the other byte order
            if vr == "SQ":
                name = self.element(0x00100010, "PN", self.sentinels.value("PN"))
                inner = self.element(0x00081155, "UI", self.sentinels.value("UI")) + name
                text = self.element(0x00081090, "LO", f"{self.sentinels.word()}^{self.sentinels.word()}".encode())
                content = item(inner[: -len(name)] + text + name, order=self.order)
                found.append((tag, self.element(tag, "SQ", content)))
                continue
            value = self.sentinels.value(vr)
            if self.wrong:
                vr = self.sentinels.rng.choice(("UN", "OB", "UT", "LO", "PN", "DT", "TM", "UI", "ST", "SH"))
            found.append((tag, self.element(tag, vr, value)))
        for group in (0x0009, 0x0029, 0x0051):
            creator = self.sentinels.word()
            found.append((group << 16 | 0x10, self.element(group << 16 | 0x10, "LO", creator.encode())))
            for low, vr in ((0x1001, "PN"), (0x1002, "UN"), (0x1003, "OB"), (0x1104, "LO"), (0x1005, "DA")):
                tag = group << 16 | low
                found.append((tag, self.element(tag, vr, self.sentinels.value("UN" if vr in ("UN", "OB") else vr))))
            nested = item(self.element(0x00100010, "PN", self.sentinels.value("PN")), order=self.order)
            found.append((group << 16 | 0x1006, self.element(group << 16 | 0x1006, "SQ", nested)))
        found.append((0x00190023, self.element(0x00190023, "LO", self.sentinels.word().encode())))
        return found

    def nested(self, sequences: tuple[int, ...], depth: int = 3) -> list[tuple[int, bytes]]:
        """Every attribute again, `depth` levels deep in each of the sequences."""
        found = []
        for sequence in sequences:
            content = b"".join(part for _, part in sorted(self.every_attribute()))
            for level in range(depth):
                tag = sequence if level == depth - 1 else UNLISTED[level]
                content = self.element(tag, "SQ", item(content, order=self.order))
            found.append((sequence, content))
        return found


def ct_image(writer: Writer, rows: int = 16, columns: int = 16) -> list[tuple[int, bytes]]:
    """The technical part of a CT image."""
    texts = [
        (0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"),
        (0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.2"),
        (0x00080060, "CS", "CT"),
        (0x00080070, "LO", "FACTORY"),
        (0x00180050, "DS", "2.5"),
        (0x00180060, "DS", "120"),
        (0x00181210, "SH", "B30f"),
        (0x00200011, "IS", "3"),
        (0x00200013, "IS", "7"),
        (0x00200032, "DS", "-120.5\\-98.25\\33"),
        (0x00200037, "DS", "1\\0\\0\\0\\1\\0"),
        (0x00280004, "CS", "MONOCHROME2"),
        (0x00280030, "DS", "0.7\\0.7"),
        (0x00281052, "DS", "-1024"),
        (0x00281053, "DS", "1"),
    ]
    numbers = [(0x00280002, 1), (0x00280010, rows), (0x00280011, columns), (0x00280100, 16), (0x00280101, 12)]
    numbers += [(0x00280102, 11), (0x00280103, 0)]
    found = [(tag, writer.element(tag, vr, text.encode())) for tag, vr, text in texts]
    found += [(tag, writer.element(tag, "US", struct.pack(writer.order + "H", number))) for tag, number in numbers]
    return [*found, (0x7FE00010, writer.element(0x7FE00010, "OW", b"\1\0" * rows * columns))]


def file_of(
    elements: list[tuple[int, bytes]], sentinels: Sentinels, syntax: str = EXPLICIT, tail: bytes = b""
) -> bytes:
    """A file with a hostile preamble, hostile meta information and bytes behind its end."""
    body = b"".join(part for _, part in sorted(dict(elements).items()))
    body += element(
        0xFFFCFFFC, "OB", sentinels.word().encode(), implicit=syntax == IMPLICIT, order=">" if syntax == BIG else "<"
    )
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
        body += b"\0" * (len(body) % 2)
    meta = element(0x00020001, "OB", b"\0\1")
    meta += element(0x00020002, "UI", b"1.2.840.10008.5.1.4.1.1.2") + element(
        0x00020003, "UI", sentinels.uid().encode()
    )
    meta += element(0x00020010, "UI", syntax.encode()) + element(0x00020012, "UI", sentinels.uid().encode())
    meta += element(0x00020013, "SH", sentinels.word().encode()) + element(0x00020016, "AE", sentinels.word().encode())
    meta += element(0x00020100, "UI", sentinels.uid().encode()) + element(0x00020102, "OB", sentinels.word(20).encode())
    preamble = (b"II*\0" + sentinels.word(40).encode()).ljust(128, b"\0")
    return preamble + b"DICM" + element(0x00020000, "UL", struct.pack("<L", len(meta))) + meta + body + tail


def traces(content: bytes, sentinels: Sentinels, *, times: bool = True) -> list[str]:
    """Sentinels that are found in the bytes, as they are, in other letters, other encodings or in part."""
    haystack = content.lower()
    # a short number is a part of many a long one
    numbers = set(re.findall(rb"(?<!\d)\d{8,}", haystack))
    starts = {number[:length] for number in numbers for length in (8, 9, 10, 11)}
    found = []
    for text in [*sentinels.texts, *(sentinels.times if times else [])]:
        small = text.lower()
        forms = [small.encode("utf-16-le"), small.encode("utf-16-be")]
        if text.isdigit() and len(text) < 12:
            seen = small.encode() in starts
        else:
            forms += [small[:-2].encode(), small[2:].encode()]
            seen = False
        if seen or any(form in haystack for form in forms):
            found.append(text)
    return found + [blob.hex() for blob in sentinels.binaries if blob in content or blob[::-1] in content]
