"""One open source file: bounded reads that a header's claims cannot make larger."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from data_contracts.errors import DecodeError
from pipeline.headers.elements import UNDEFINED_LENGTH, Element, Encoding
from pipeline.headers.file_front import DEFLATED_SYNTAX, Front, declared_encoding, is_native, true_syntax
from pipeline.headers.slice_header import FileFacts

#: markers of a code stream before its first pixel
_CODE_STREAM_BYTES = 2048
_CHUNK_BYTES = 1 << 16
_ITEM = b"\xfe\xff\x00\xe0"


@dataclass(slots=True)
class OpenFile:
    """A regular file open for reading: its size and time of change when it was opened, both as os.fstat gives them."""

    path: Path
    relative: str
    descriptor: int
    n_bytes: int
    modified_ns: int

    def beginning(self, n_bytes: int) -> bytes:
        """At most the first `n_bytes`."""
        return os.pread(self.descriptor, min(n_bytes, self.n_bytes), 0)

    def inflated(self, start: int, limit_bytes: int) -> tuple[bytes, bool]:
        """The beginning of the raw deflate stream at `start`, at most `limit_bytes`, and whether that is all of it.

        Raises
        ------
        DecodeError: the bytes are no deflate stream.
        """
        return inflate(self.descriptor, start, limit_bytes)

    def fragment(self, data: bytes, pixels: Element) -> bytes:
        """The beginning of the first fragment of encapsulated pixel data, b"" where it cannot be found.

        data: the beginning of the file.
        """
        head = self._at(data, pixels.value, 8)
        if head[:4] != _ITEM or len(head) < 8:
            return b""
        first = pixels.value + 8 + int.from_bytes(head[4:], "little")
        head = self._at(data, first, 8)
        return self._at(data, first + 8, _CODE_STREAM_BYTES) if head[:4] == _ITEM else b""

    def _at(self, data: bytes, offset: int, n_bytes: int) -> bytes:
        if offset + n_bytes <= len(data):
            return data[offset : offset + n_bytes]
        return os.pread(self.descriptor, n_bytes, offset) if offset < self.n_bytes else b""

    def facts(self, data: bytes, front: Front, encoding: Encoding, pixels: Element | None, deflated: bool) -> FileFacts:
        """Where the pixels are and which transfer syntax the file truly has.

        data: the beginning of the file, or of its inflated dataset where it is deflated.
        """
        if deflated:
            offset, syntax = (None if pixels is None else -1), DEFLATED_SYNTAX
        else:
            fragment = value = b""
            if pixels is not None and (pixels.length == UNDEFINED_LENGTH or not is_native(front.declared)):
                fragment, value = self.fragment(data, pixels), self._at(data, pixels.value, 4)
            offset = None if pixels is None else pixels.value
            syntax = true_syntax(front.declared, encoding, pixels, fragment, value)
        right = syntax == front.declared and encoding == declared_encoding(front.declared)
        return FileFacts(
            path=self.path,
            relative=self.relative,
            transfer_syntax=syntax,
            declared_syntax="" if right else front.declared,
            pixel_offset=offset,
            pixel_length=0 if pixels is None else pixels.length,
            inflated_offset=pixels.value if deflated and pixels is not None else 0,
            file_bytes=self.n_bytes,
            modified_ns=self.modified_ns,
        )


def inflate(descriptor: int, start: int, limit_bytes: int) -> tuple[bytes, bool]:
    """The beginning of a raw deflate stream (PS3.5 section A.5), at most `limit_bytes`, and whether that is all of it.

    Raises
    ------
    DecodeError: the bytes are no deflate stream.
    """
    engine, parts, total, position = zlib.decompressobj(-zlib.MAX_WBITS), [], 0, start
    try:
        while total < limit_bytes and not engine.eof:
            packed = engine.unconsumed_tail
            if not packed:
                packed = os.pread(descriptor, _CHUNK_BYTES, position)
                position += len(packed)
                if not packed:
                    break
            parts.append(engine.decompress(packed, limit_bytes - total))
            total += len(parts[-1])
    except zlib.error:
        raise DecodeError("the deflated data are broken") from None
    return b"".join(parts), engine.eof
