"""multipart/related (RFC 2387) in both directions, a piece at a time: no part is ever held in memory."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from data_contracts.errors import DecodeError

#: bound of the lines before a part; a peer that never ends them is not speaking multipart
_MAX_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 1 << 20


class CutShortError(DecodeError):
    """The message ends before its closing boundary: the part being read is not whole."""


def boundary_of(content_type: str) -> str:
    """The boundary parameter of a Content-Type; raises DecodeError where there is none."""
    found = re.search(r'boundary\s*=\s*(?:"([^"]{1,200})"|([^\s;,]{1,200}))', content_type, re.IGNORECASE)
    if found is None:
        raise DecodeError("a multipart answer without a boundary")
    return found[1] or found[2]


class MultipartReader:
    """Splits the pieces of a body into parts. Iterate over it; read each part to its end before the next one.

    A part is an iterator of byte pieces.

    Raises, while it is read
    ------------------------
    CutShortError: the body ends inside a part.
    DecodeError: the body is not multipart.
    """

    def __init__(self, pieces: Iterable[bytes], boundary: str) -> None:
        self._pieces = iter(pieces)
        self._mark = b"\r\n--" + boundary.encode("latin-1", "replace")
        # the first boundary may stand at the very beginning, without a line break before it
        self._buffer = bytearray(b"\r\n")
        self._is_over = False

    def __iter__(self) -> Iterator[Iterator[bytes]]:
        for _ in self._until_mark():
            pass  # the preamble says nothing
        while not self._is_last():
            self._skip_head()
            yield self._until_mark()

    def _more(self) -> None:
        for piece in self._pieces:
            if piece:
                self._buffer += piece
                return
        raise CutShortError("the answer ends before its last boundary")

    def _until_mark(self) -> Iterator[bytes]:
        """Pieces up to the next boundary, which is taken off the buffer."""
        searched = 0
        while (place := self._buffer.find(self._mark, searched)) < 0:
            safe = len(self._buffer) - len(self._mark) + 1
            if safe >= _PIECE_BYTES:
                yield bytes(self._buffer[:safe])
                del self._buffer[:safe]
            searched = max(0, len(self._buffer) - len(self._mark) + 1)
            self._more()
        if place:
            yield bytes(self._buffer[:place])
        del self._buffer[: place + len(self._mark)]

    def _is_last(self) -> bool:
        while len(self._buffer) < 2:
            self._more()
        return self._buffer[:2] == b"--"

    def _skip_head(self) -> None:
        """Drop the header lines of a part: what it holds is read out of the part itself."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise DecodeError("a part of the answer has no end of its header lines")
            self._more()
        del self._buffer[: end + 4]


class MultipartFiles:
    """A body of DICOM files for one request, with a known length; read like a file, once.

    Requests sends an object with `__len__` and `read` as it is, with a Content-Length.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.boundary = secrets.token_hex(16)
        self._files = list(files)
        self._head = f"\r\n--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{self.boundary}--\r\n".encode()
        self._length = sum(len(self._head) + path.stat().st_size for path in self._files) + len(self._tail)
        self._source = self._pieces()
        self._rest = b""

    @property
    def content_type(self) -> str:
        """Value of the request's Content-Type."""
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    def __len__(self) -> int:
        return self._length

    def _pieces(self) -> Iterator[bytes]:
        for path in self._files:
            yield self._head
            with path.open("rb") as stream:
                yield from _pieces_of(stream)
        yield self._tail

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, b"" at the end."""
        if not self._rest:
            self._rest = next(self._source, b"")
        if size < 0:
            taken, self._rest = self._rest + b"".join(self._source), b""
            return taken
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _pieces_of(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_PIECE_BYTES):
        yield piece
