"""Objects of a bucket below one prefix, through fsspec: list, read, and writes that overwrite nobody's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.errors import ExchangeError, UsageError

#: metadata of an object: when its file was changed, in ns, as the machine that made it says
_CHANGED = "changed-ns"
#: what S3 says where a condition of a write is not met, or another write is under way
_CHANGED_CODES = ("PreconditionFailed", "412", "ConditionalRequestConflict")
_SECONDS = 20
_ATTEMPTS = 3


class ChangedError(Exception):
    """The object is not the one that was expected, or is there already."""


@dataclass(frozen=True)
class Entry:
    """What a bucket says of an object; etag is another for other content."""

    etag: str
    size_bytes: int


class Store:
    """The objects below a URL.

    Raises, in every method
    ------
    ExchangeError: the server does not answer, or refuses. ChangedError: where `expect` was not met.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._root = url.removeprefix("s3://")
        try:
            import s3fs
            from botocore.config import Config  # noqa: F401 - part of the extra
        except ImportError:
            raise UsageError(
                "a workspace in a bucket needs s3fs, which is not installed",
                todo='Install it, in the checkout: pip install ".[s3]".',
            ) from None
        client = {"endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None}
        patience = {"connect_timeout": _SECONDS, "read_timeout": 60, "retries": {"max_attempts": _ATTEMPTS}}
        s3fs.S3FileSystem.retries = _ATTEMPTS
        self._files: Any = s3fs.S3FileSystem(
            client_kwargs={key: value for key, value in client.items() if value},
            config_kwargs=patience,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def entries(self, below: str = "") -> dict[str, Entry]:
        """Every object whose name begins with `below`."""
        with self._said("list"):
            folder = f"{self._root}/{below}".rstrip("/")
            found = self._files.find(folder, detail=True)
        start = len(self._root) + 1
        return {
            path[start:]: Entry(str(facts["ETag"]).strip('"'), int(facts["size"]))
            for path, facts in found.items()
            if path.startswith(self._root + "/") and facts["type"] == "file" and path[start:].startswith(below)
        }

    def entry(self, name: str) -> Entry | None:
        """What the bucket says of one object; None where there is none."""
        with self._said("look at"):
            try:
                facts = self._files.info(self._path(name), refresh=True)
            except FileNotFoundError:
                return None
        return Entry(str(facts["ETag"]).strip('"'), int(facts["size"])) if facts["type"] == "file" else None

    def fetch(self, name: str, target: Path, *, keep_time: bool = False) -> None:
        """Write an object to a file, whole or not at all. keep_time: with its time of change."""
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        try:
            with self._said("read"):
                self._files.get_file(self._path(name), temporary)
                changed_ns = int(self._files.metadata(self._path(name)).get(_CHANGED, 0)) if keep_time else 0
            if changed_ns:
                os.utime(temporary, ns=(changed_ns, changed_ns))
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """The content of an object."""
        with self._said("read"):
            return bytes(self._files.cat_file(self._path(name)))

    def put(self, name: str, source: Path, *, expect: Entry | None) -> Entry:
        """Write a file as an object; expect: the object that it takes the place of, None where there must be none."""
        content = source.read_bytes()
        metadata = {_CHANGED: str(source.stat().st_mtime_ns)}
        terms: dict[str, Any] = {"mode": "create"} if expect is None else {"IfMatch": f'"{expect.etag}"'}
        with self._said("write"):
            # In one piece, because only then it can be made to depend on what is there.
            made = self._files.pipe_file(
                self._path(name), content, chunksize=max(len(content), 1), Metadata=metadata, **terms
            )
        return Entry(str(made["ETag"]).strip('"'), len(content))

    def remove(self, name: str) -> None:
        """Delete an object."""
        with self._said("remove"):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Turn what boto says into one line."""
        try:
            yield
        except (ChangedError, ExchangeError):
            raise
        except Exception as error:
            code = _code(error)
            if isinstance(error, FileExistsError) or code in (
                "PreconditionFailed",
                "412",
                "ConditionalRequestConflict",
            ):
                raise ChangedError from None
            if isinstance(error, FileNotFoundError) and code != "NoSuchBucket" and what in ("look at", "read"):
                raise
            raise ExchangeError(
                f"cannot {what} the workspace's bucket ({code or type(error).__name__})",
                where=self.url,
                todo="Check that its server is up, AWS_ENDPOINT_URL, the credentials and that the bucket is there; "
                "the working copy keeps what was done, and the next command hands it on.",
            ) from None


def _code(error: BaseException) -> str:
    """S3's word for an error, where it has one."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen.__cause__
    return ""
