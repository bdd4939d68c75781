"""What a compressed code stream says of itself, whatever transfer syntax the header names.

Markers of ISO/IEC 10918-1 (JPEG), 14495-1 (JPEG-LS), 15444-1 and -15 (JPEG 2000, HTJ2K); RLE of PS3.5 annex G.
"""

from __future__ import annotations

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
J2K_LOSSLESS = "1.2.840.10008.1.2.4.90"
J2K = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K = "1.2.840.10008.1.2.4.203"
RLE = "1.2.840.10008.1.2.5"

#: a stream that says the key may stand under the others: they allow it, or their decoders do not care
_ALSO = {
    JPEG_BASELINE: (JPEG_EXTENDED,),
    JPEG_LOSSLESS_SV1: (JPEG_LOSSLESS,),
    JPEG_LOSSLESS: (JPEG_LOSSLESS_SV1,),
    JPEG_LS_LOSSLESS: (JPEG_LS_NEAR,),
    J2K_LOSSLESS: (J2K, "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.4.93"),
    J2K: ("1.2.840.10008.1.2.4.93",),
    HTJ2K_LOSSLESS: ("1.2.840.10008.1.2.4.202", HTJ2K),
}
_JP2_BOX = b"\0\0\0\x0cjP  "


def syntax_of(stream: bytes) -> str:
    """The transfer syntax that fits the beginning of a code stream best, "" where it is none of those known here."""
    if stream[:4] == b"\xff\x4f\xff\x51":
        return _jpeg2000(stream)
    if stream[:8] == _JP2_BOX:
        start = stream.find(b"\xff\x4f\xff\x51")
        return _jpeg2000(stream[start:]) if start > 0 else J2K
    if stream[:3] == b"\xff\xd8\xff":
        return _jpeg(stream)
    if len(stream) >= 64 and 1 <= stream[0] <= 15 and stream[1:8] == b"\0\0\0\x40\0\0\0":
        return RLE
    return ""


def agrees(declared: str, found: str) -> bool:
    """Whether a stream of the syntax `found` may stand under the one that the header declares."""
    return not found or declared == found or declared in _ALSO.get(found, ())


def _jpeg(stream: bytes) -> str:
    position, frame = 2, 0
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        if marker in (0xC0, 0xC1):
            return JPEG_BASELINE if marker == 0xC0 else JPEG_EXTENDED
        if marker in (0xC3, 0xF7):
            frame = marker
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return ""
        elif marker == 0xDA and frame:
            # Ss of the scan: the predictor of lossless JPEG, NEAR of JPEG-LS
            components = stream[position + 4] if position + 4 < len(stream) else 0
            parameter = stream[position + 5 + 2 * components : position + 6 + 2 * components]
            if frame == 0xC3:
                return JPEG_LOSSLESS_SV1 if parameter == b"\1" else JPEG_LOSSLESS
            return JPEG_LS_NEAR if parameter not in (b"", b"\0") else JPEG_LS_LOSSLESS
        position += 2 + length
    return {0xC3: JPEG_LOSSLESS, 0xF7: JPEG_LS_LOSSLESS}.get(frame, "")


def _jpeg2000(stream: bytes) -> str:
    position, high_throughput = 2, False
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0x50:
            high_throughput = True
        if marker == 0x52 and position + 14 <= len(stream):
            # SPcod of the coding style: 0 is the irreversible 9-7 wavelet, 1 the reversible 5-3
            reversible = stream[position + 13] == 1
            if high_throughput:
                return HTJ2K_LOSSLESS if reversible else HTJ2K
            return J2K_LOSSLESS if reversible else J2K
        if marker in (0x90, 0xD9):
            break
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
    return J2K
