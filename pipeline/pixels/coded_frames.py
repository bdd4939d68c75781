"""Size, depth, sign and completeness that a compressed code stream states, read before a decoder sees it.

ISO/IEC 10918-1 annex B (JPEG), 14495-1 annex C (JPEG-LS), 15444-1 annex A (JPEG 2000, HTJ2K). A decoder takes memory
for what the stream claims, and some fill a torn one with grey: both are found here at the cost of a few markers.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, error

from data_contracts.errors import DecodeError
from pipeline.headers.code_streams import syntax_of

JPEG_PROGRESSIVE = "1.2.840.10008.1.2.4.55"
#: SOF markers that the decoders here know: sequential, extended, progressive, lossless, JPEG-LS
_FRAMES = {0xC0: True, 0xC1: True, 0xC2: True, 0xC3: False, 0xF7: False}
_JPEG_FRAME = Struct(">BHHB").unpack_from
_SIZE = Struct(">IIII").unpack_from
_TILE_PART = Struct(">HHI").unpack_from
_END = b"\xff\xd9"
#: padding behind the end of a stream is looked for in this many bytes
_TAIL = 1024


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """What a code stream says of its image.

    syntax: transfer syntax UID that fits the stream. precision: bits of a sample. signed: only JPEG 2000 says so.
    lossy: the coding is not reversible. restarts_or_shift: a lossless JPEG of a rarer kind.
    """

    syntax: str
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    lossy: bool
    restarts_or_shift: bool = False


def read_coded_frame(stream: bytes) -> CodedFrame | None:
    """Facts of a JPEG, JPEG-LS or JPEG 2000 code stream; None where it is neither (RLE has none).

    Raises
    ------
    DecodeError: the stream is one of these and is torn, or of a kind without a decoder.
    """
    head = bytes(stream[:4])
    try:
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg(stream)
        if head == b"\xff\x4f\xff\x51":
            return _jpeg2000(stream, 0)
        if bytes(stream[4:8]) == b"jP  ":
            return _jpeg2000(stream, bytes(stream[:65536]).find(b"\xff\x4f\xff\x51"))
    except (error, IndexError):
        raise DecodeError("the compressed image ends in its header") from None
    return None


def _jpeg(stream: bytes) -> CodedFrame:
    position, frame, marker_of_frame, restarts = 2, None, 0, False
    while True:
        if stream[position] != 0xFF:
            raise DecodeError("the compressed image has no frame header")
        marker = stream[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in _FRAMES:
            if frame is not None:
                raise DecodeError("the compressed image has two frame headers")
            frame, marker_of_frame = _JPEG_FRAME(stream, position + 4), marker
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise DecodeError("the compressed image is of a JPEG process without a decoder")
        elif marker == 0xDA:
            break
        elif marker == 0xDD:
            restarts = stream[position + 4] | stream[position + 5] > 0
        elif marker in (0xD8, 0xD9):
            raise DecodeError("the compressed image has no frame header")
        position += 2 + int.from_bytes(bytes(stream[position + 2 : position + 4]), "big")
    if frame is None:
        raise DecodeError("the compressed image has no frame header")
    if not bytes(stream[-_TAIL:]).rstrip(b"\0\xff").endswith(_END):
        raise DecodeError("the compressed image is cut short")
    precision, rows, columns, components = frame
    # behind the components of the scan: start of the spectral selection (NEAR of JPEG-LS), its end, point transform
    scan = position + 5 + 2 * stream[position + 4]
    lossy = _FRAMES[marker_of_frame]
    if marker_of_frame == 0xF7:
        lossy = stream[scan] > 0
    elif marker_of_frame == 0xC3:
        lossy = stream[scan + 2] & 15 > 0
    syntax = JPEG_PROGRESSIVE if marker_of_frame == 0xC2 else syntax_of(bytes(stream[: scan + 3]))
    return CodedFrame(syntax, rows, columns, components, precision, False, lossy, restarts or lossy)


def _jpeg2000(stream: bytes, start: int) -> CodedFrame:
    if start < 0:
        raise DecodeError("the compressed image has no code stream")
    x_end, y_end, x_start, y_start = _SIZE(stream, start + 8)
    tile_columns, tile_rows, x_tiles, y_tiles = _SIZE(stream, start + 24)
    components = int.from_bytes(bytes(stream[start + 40 : start + 42]), "big")
    depth, x_step, y_step = stream[start + 42], stream[start + 43], stream[start + 44]
    rows, columns = y_end - y_start, x_end - x_start
    if (x_step, y_step) != (1, 1) or min(rows, columns, tile_rows, tile_columns) <= 0:
        raise DecodeError("the compressed image has a grid that no CT image has")
    if -(-(y_end - y_tiles) // tile_rows) * -(-(x_end - x_tiles) // tile_columns) > 65535:
        raise DecodeError("the compressed image has more tiles than allowed")
    position = start + 2
    while (marker := bytes(stream[position : position + 2])) != b"\xff\x90":
        if len(marker) < 2 or marker[0] != 0xFF or marker == _END:
            raise DecodeError("the compressed image ends in its header")
        position += 2 + int.from_bytes(bytes(stream[position + 2 : position + 4]), "big")
    syntax = syntax_of(bytes(stream[start:position]))
    _check_tile_parts(stream, position)
    lossy = syntax not in ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201")
    return CodedFrame(syntax, rows, columns, components, (depth & 127) + 1, depth > 127, lossy)


def _check_tile_parts(stream: bytes, position: int) -> None:
    """Every tile part has the length that it states, and the end marker follows the last one."""
    while (marker := bytes(stream[position : position + 2])) == b"\xff\x90":
        _, _, length = _TILE_PART(stream, position + 2)
        if length == 0:  # the last one, up to the end marker
            if bytes(stream[-_TAIL:]).rstrip(b"\0\xff").endswith(_END):
                return
            break
        if length < 12:
            break
        position += length
    if marker != _END:
        raise DecodeError("the compressed image is cut short")
