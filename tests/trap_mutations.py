"""Mutations of DICOM files: of bytes blindly, and of elements and code streams by their structure."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pydicom

_VRS = (
    b"DS",
    b"IS",
    b"US",
    b"SS",
    b"UL",
    b"SQ",
    b"UN",
    b"OB",
    b"OW",
    b"UI",
    b"CS",
    b"FD",
    b"AT",
    b"ZZ",
    b"\0\0",
    b"PN",
)
_LENGTHS = (0, 1, 2, 7, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0xFFFFFFFE, 1 << 20)
#: hostile values by tag, as the header would hold them
_VALUES: dict[int, tuple[bytes, ...]] = {
    0x00280010: tuple(struct.pack("<H", n) for n in (0, 1, 15, 17, 32768, 65535)),
    0x00280011: tuple(struct.pack("<H", n) for n in (0, 1, 15, 17, 32768, 65535)),
    0x00280002: tuple(struct.pack("<H", n) for n in (0, 2, 3, 4, 65535)),
    0x00280100: tuple(struct.pack("<H", n) for n in (0, 1, 8, 12, 24, 32, 64, 65535)),
    0x00280101: tuple(struct.pack("<H", n) for n in (0, 1, 8, 12, 15, 17, 32, 65535)),
    0x00280102: tuple(struct.pack("<H", n) for n in (0, 1, 7, 11, 14, 16, 65535)),
    0x00280103: tuple(struct.pack("<H", n) for n in (0, 1, 2, 65535)),
    0x00280008: (b"0 ", b"2 ", b"-1", b"2147483647", b"99999999999999", b"abc ", b"1\\2 ", b"1e3 "),
    0x00281053: (b"0 ", b"-1", b"1e308 ", b"nan ", b"inf ", b"1,5 ", b"1e-300", b"2 ", b"1\\2 ", b"", b"0x10"),
    0x00281052: (b"0 ", b"-1024 ", b"1e308 ", b"nan ", b"-inf", b"99999 ", b"--5 ", b"", b"-1024\\0 "),
    0x00280030: (b"0\\0 ", b"-1\\1", b"1e-30\\1e-30 ", b"1e30\\1e30 ", b"nan\\1 ", b"0.7 ", b"0.7\\0.7\\0.7 ", b""),
    0x00200032: (b"0\\0\\0 ", b"nan\\0\\0 ", b"1e308\\1e308\\1e308", b"1\\2 ", b"-0\\-0\\-0", b"\\\\ ", b"a\\b\\c "),
    0x00200037: (b"0\\0\\0\\0\\0\\0 ", b"1\\0\\0\\1\\0\\0 ", b"2\\0\\0\\0\\2\\0 ", b"nan\\0\\0\\0\\1\\0 "),
    0x00080005: (b"ISO_IR 999", b"ISO 2022 IR 87", b"\\\\\\\\", b"\xff\xff", b"GB18030 "),
    0x00080016: (b"1.2.3 ", b"", b"\0\0", b"1.2.840.10008.5.1.4.1.1.2.1 ", b"../../etc/passwd"),
    0x00080018: (b"", b"1 ", b"../../../x", b"\xff" * 64, b"1" * 200),
    0x0020000E: (b"", b"1 ", b"a/b\0", b"1" * 2000),
    0x00080060: (b"MR", b"", b"CT\\MR ", b"ct"),
    0x00100010: (b"", b"\x1b$B" * 20, b"^" * 500, b"\0" * 64, b"=" * 30),
    0x00280120: (b"\x00\x00", b"\xff\xff", b"\x00\x80", b"\x00\x04", b""),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where an element of the top level lies in a file: its head, and its value."""

    tag: int
    head: int
    start: int
    stop: int
    explicit: bool


def places_of(data: bytes) -> list[Place]:
    """Elements of the top level of a sound file in little endian that is not deflated; [] for others."""
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    syntax = str(ds.file_meta.get("TransferSyntaxUID", "")) if hasattr(ds, "file_meta") else ""
    implicit, little = ds.original_encoding
    if not little or syntax.endswith("1.99"):
        return []
    found = []
    for tag in sorted(ds.keys()):
        item = ds.get_item(tag)
        # a tag can also stand in a sequence or in the pixels: the head is the last one that ends where the value starts
        tell = item.value_tell if hasattr(item, "value_tell") else item.file_tell
        code = struct.pack("<HH", int(tag) >> 16, int(tag) & 0xFFFF)
        for size in (8,) if implicit else (8, 12):
            head = tell - size
            if head >= 0 and data[head : head + 4] == code:
                length = (
                    struct.unpack_from("<I", data, tell - 4)[0]
                    if size == 12 or implicit
                    else struct.unpack_from("<H", data, tell - 2)[0]
                )
                stop = tell + length if length != 0xFFFFFFFF else len(data)
                found.append(Place(int(tag), head, tell, min(stop, len(data)), not implicit))
                break
    return found


Mutation = Callable[[bytes, list[Place], random.Random], bytes]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Register a mutation by its name."""
    MUTATIONS[function.__name__] = function
    return function


def _edge(data: bytes, places: list[Place], rng: random.Random) -> int:
    if places and rng.random() < 0.7:
        place = rng.choice(places)
        return min(
            len(data), max(0, rng.choice([place.head, place.start, place.stop]) + rng.choice([-1, 0, 0, 1, 2, 4]))
        )
    return rng.randrange(len(data) + 1)


@mutation
def flip_bits(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    out = bytearray(data)
    end = len(out) if rng.random() < 0.4 else min(len(out), 1600)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        out[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(out)


@mutation
def set_bytes(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    at = _edge(data, places, rng)
    chunk = rng.choice([b"\xff", b"\0", b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", rng.randbytes(rng.randint(1, 9))])
    return data[:at] + chunk + data[at + len(chunk) :]


@mutation
def delete_chunk(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    at = _edge(data, places, rng)
    return data[:at] + data[at + rng.choice([1, 2, 4, 8, 13, 64, 300]) :]


@mutation
def double_chunk(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    at, size = _edge(data, places, rng), rng.choice([1, 2, 8, 24, 100, 700])
    return data[:at] + data[at : at + size] * rng.choice([2, 2, 3, 40]) + data[at + size :]


@mutation
def insert_chunk(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    at = _edge(data, places, rng)
    return data[:at] + rng.choice([bytes(rng.randint(1, 40)), rng.randbytes(rng.randint(1, 40)), b"DICM"]) + data[at:]


@mutation
def truncate(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    return data[: _edge(data, places, rng)]


@mutation
def swap_vr(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    explicit = [place for place in places if place.explicit]
    if not explicit:
        return flip_bits(data, places, rng)
    place = rng.choice(explicit)
    return data[: place.head + 4] + rng.choice(_VRS) + data[place.head + 6 :]


@mutation
def edit_length(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    if not places:
        return set_bytes(data, places, rng)
    place = rng.choice(places)
    wide = place.start - place.head == 12 or not place.explicit
    width = 4 if wide else 2
    true = place.stop - place.start
    length = rng.choice(
        [*_LENGTHS, true + 1, true + 2, max(true - 2, 0), max(true - 1, 0), len(data) - place.start + 1, true * 2]
    )
    return data[: place.start - width] + (length % (1 << 8 * width)).to_bytes(width, "little") + data[place.start :]


@mutation
def edit_tag(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    if not places:
        return set_bytes(data, places, rng)
    place = rng.choice(places)
    tag = rng.choice([rng.choice(places).tag, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFEE000, 0x7FE00010, 0, rng.getrandbits(32)])
    return data[: place.head] + struct.pack("<HH", tag >> 16, tag & 0xFFFF) + data[place.head + 4 :]


@mutation
def edit_value(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    known = [place for place in places if place.tag in _VALUES]
    if not known:
        return set_bytes(data, places, rng)
    place = rng.choice(known)
    return _with_value(data, place, rng.choice(_VALUES[place.tag]))


def _with_value(data: bytes, place: Place, value: bytes) -> bytes:
    wide = place.start - place.head == 12 or not place.explicit
    length = len(value).to_bytes(4 if wide else 2, "little")
    return data[: place.start - len(length)] + length + value + data[place.stop :]


@mutation
def drop_element(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    if not places:
        return delete_chunk(data, places, rng)
    place = rng.choice(places)
    return data[: place.head] + data[place.stop :]


@mutation
def move_element(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    if len(places) < 2:
        return double_chunk(data, places, rng)
    one, other = rng.sample(places, 2)
    element = data[one.head : one.stop]
    if rng.random() < 0.5:  # again, elsewhere
        return data[: other.head] + element + data[other.head :]
    rest = data[: one.head] + data[one.stop :]
    at = other.head if other.head < one.head else other.head - len(element)
    return rest[:at] + element + rest[at:]


@mutation
def drop_delimiter(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    delimiter = rng.choice([b"\xfe\xff\xdd\xe0\0\0\0\0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\x00\xe0"])
    if delimiter not in data:
        return delete_chunk(data, places, rng)
    return data.replace(delimiter, b"", rng.choice([1, 1, -1]))


@mutation
def nest_deeply(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    fitting = [place for place in places if 0x00080008 < place.tag < 0x7FE00010]
    if not fitting:
        return insert_chunk(data, places, rng)
    place, depth = rng.choice(fitting), rng.choice([30, 400, 3000, 10_000])
    explicit = place.explicit
    code = struct.pack("<HH", 0x0008, 0x1140)
    head = code + (b"SQ\0\0" if explicit else b"") + b"\xff\xff\xff\xff"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    tail = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    closed = rng.random() < 0.7
    return data[: place.head] + (head + item) * depth + (tail * depth if closed else b"") + data[place.head :]


@mutation
def bomb(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    """A deflated dataset that grows a thousandfold."""
    meta_end = 144 + struct.unpack_from("<I", data, 140)[0] if data[128:132] == b"DICM" and len(data) > 144 else 0
    if not meta_end or b"1.2.840.10008.1.2.1.99" not in data[:meta_end]:
        return insert_chunk(data, places, rng)
    try:
        inner = zlib.decompressobj(-15).decompress(data[meta_end:], 1 << 20)
    except zlib.error:  # another mutation was here before
        return insert_chunk(data, places, rng)
    size = rng.choice([60, 200]) << 20
    fill = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, size)
    cut = inner.find(b"\x10\x00\x10\x00")
    # blocks that end on a whole byte can be strung together
    return data[:meta_end] + _deflated(inner[:cut] + fill) + _ZEROS * (size >> 20) + _deflated(inner[cut:], last=True)


def _deflated(data: bytes, *, last: bool = False) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(data) + deflater.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


_ZEROS = _deflated(bytes(1 << 20))


@mutation
def lie_in_code_stream(data: bytes, places: list[Place], rng: random.Random) -> bytes:
    """Absurd sizes in the headers of JPEG, JPEG-LS, JPEG 2000 and RLE streams."""
    out = bytearray(data)
    for marker in (b"\xff\xc3\x00", b"\xff\xf7\x00"):  # frame headers: precision, height, width, components
        if (at := data.find(marker)) >= 0:
            where, value = rng.choice([(4, rng.choice([0, 1, 8, 17, 255])), (9, rng.choice([0, 2, 4, 255]))])
            if rng.random() < 0.7:
                size = rng.choice([(65535, 65535), (0, 0), (1, 65535), (16, 17), (32768, 32768)])
                struct.pack_into(">HH", out, at + 5, *size)
            else:
                out[at + where] = value
            return bytes(out)
    if (at := data.find(b"\xff\x4f\xff\x51")) >= 0:  # SIZ: sizes, offsets, tiles
        field = rng.randrange(8)
        struct.pack_into(">I", out, at + 8 + 4 * field, rng.choice([0, 1, 17, 65535, 0x7FFFFFFF, 0xFFFFFFFF]))
        return bytes(out)
    if (at := data.find(b"\xfe\xff\x00\xe0", max((p.start for p in places if p.tag == 0x7FE00010), default=0))) >= 0:
        at = data.find(b"\xfe\xff\x00\xe0", at + 4)
        if at >= 0 and at + 40 < len(data):  # RLE: number of segments and their offsets; or the fragment's length
            where = rng.choice([at + 4, at + 8, at + 12, at + 16])
            struct.pack_into("<I", out, where, rng.choice([0, 1, 2, 3, 15, 16, 255, 0x7FFFFFFF, 0xFFFFFFFF, 64]))
            return bytes(out)
    return set_bytes(data, places, rng)
