"""Read a public S3 bucket over HTTPS, or a folder that stands for one. Only GET is ever sent.

Objects are listed with ListObjectsV2 and fetched with Range, so a file goes on where it broke off. An object is whole
when its size is the listed one and, where its ETag is an MD5 (no multipart upload), its MD5 is that.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from data_contracts.errors import AnnotationError, ExchangeError
from pipeline.annotations.xml_files import parse_xml_bytes

T = TypeVar("T")

_CHUNK_BYTES = 2**18
_TIMEOUT_S = (10, 60)
_LONGEST_WAIT_S = 30.0
_MAX_PAGES = 1000
_LIST = "the list of files"
_MD5 = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
#: answers that may be another one a little later
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class UnreachableError(ExchangeError):
    """Nothing answers, so there is no use in asking for more."""


@dataclass(frozen=True)
class BucketObject:
    """One object. name: its key without the prefix; md5: "" where the bucket does not tell."""

    bucket: str
    key: str
    name: str
    size_bytes: int
    md5: str


class Bucket(Protocol):
    """Where public objects come from."""

    def objects(self, bucket: str, prefix: str) -> list[BucketObject]:
        """The objects below a prefix, by key."""

    def fetch(self, item: BucketObject, target: Path) -> None:
        """The object as the file `target`, whole or not at all."""


def open_bucket(endpoint: str, *, attempts: int = 6, wait_s: float = 0.5) -> Bucket:
    """A bucket behind an http(s) URL, or in a folder (FOLDER/BUCKET/PREFIX/NAME or FOLDER/PREFIX/NAME)."""
    if urlsplit(endpoint).scheme in ("http", "https"):
        return HttpBucket(endpoint, attempts=attempts, wait_s=wait_s)
    return FolderBucket(Path(endpoint))


def md5_of(path: Path) -> str:
    """Hex MD5 of a file; a checksum against damage, no secret."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _name_of(key: str, prefix: str) -> str:
    name = key.removeprefix(prefix)
    if not key.startswith(prefix) or not _NAME.fullmatch(name):
        raise ExchangeError("the bucket lists a name that is no plain file name")
    return name


def part_of(target: Path) -> Path:
    """Where a file is gathered before it is whole."""
    return target.with_name(f".{target.name}.part")


def _accept(part: Path, item: BucketObject, target: Path) -> bool:
    """Make the gathered file the target if it is whole; else remove it."""
    if part.stat().st_size == item.size_bytes and (not item.md5 or md5_of(part) == item.md5):
        part.replace(target)
        return True
    part.unlink(missing_ok=True)
    return False


class FolderBucket:
    """A folder with the objects of a bucket, such as a mirror on a disk."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ExchangeError(
                "the bucket is neither a URL nor a folder", todo="Give --bucket URL or --bucket FOLDER."
            )
        self._root = root

    def objects(self, bucket: str, prefix: str) -> list[BucketObject]:
        folders = [folder for folder in (self._root / bucket / prefix, self._root / prefix) if folder.is_dir()]
        files = sorted(item for item in folders[0].iterdir() if item.is_file()) if folders else []
        named = [(item, _name_of(item.name, "")) for item in files if not item.name.startswith(".")]
        return [BucketObject(bucket, str(item), name, item.stat().st_size, "") for item, name in named]

    def fetch(self, item: BucketObject, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)
        shutil.copyfile(item.key, part)
        if not _accept(part, item, target):
            raise ExchangeError("a file of the folder changed while it was copied")


class HttpBucket:
    """A bucket by path-style URLs below an endpoint, ENDPOINT/BUCKET/KEY, or an endpoint that is the bucket's own.

    attempts: how often a request is tried; wait_s: before the second time, doubled from then on.
    """

    def __init__(self, endpoint: str, *, attempts: int = 6, wait_s: float = 0.5) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._host = urlsplit(endpoint).hostname or ""
        self._attempts, self._wait_s = attempts, wait_s
        self._local = threading.local()
        self._answered = False

    def objects(self, bucket: str, prefix: str) -> list[BucketObject]:
        """All pages; raises ExchangeError where the bucket cannot be reached, refuses, or answers something else."""
        folder = f"{prefix.rstrip('/')}/"
        found: dict[str, BucketObject] = {}
        token = ""
        for _ in range(_MAX_PAGES):
            query = {"list-type": "2", "prefix": folder} | ({"continuation-token": token} if token else {})
            objects, token = self._retried(partial(self._page, bucket, folder, query), _LIST)
            found |= {item.key: item for item in objects}
            if not token:
                return [found[key] for key in sorted(found)]
        raise ExchangeError("the bucket's list of files does not end", where=self._host)

    def _base(self, bucket: str) -> str:
        """Where the bucket's keys begin; the endpoint may name it already, in its path or its host."""
        named = self._endpoint.endswith(f"/{bucket}") or self._host.startswith(f"{bucket}.")
        return self._endpoint if named else f"{self._endpoint}/{bucket}"

    def _page(self, bucket: str, folder: str, query: dict[str, str]) -> tuple[list[BucketObject], str]:
        with self._session().get(f"{self._base(bucket)}/", params=query, timeout=_TIMEOUT_S) as answer:
            self._check(answer)
            try:
                root = parse_xml_bytes(answer.content)
            except AnnotationError:
                raise _PassingError("it answers with no list of files") from None
        if root.tag != "ListBucketResult":
            raise _PassingError("it answers with no list of files")
        objects = []
        for entry in root.findall("Contents"):
            key, size = entry.findtext("Key") or "", entry.findtext("Size") or ""
            if key == folder:
                continue  # some tools leave an empty object for a folder
            if not size.isdigit():
                raise _PassingError("its list of files has no sizes")
            etag = (entry.findtext("ETag") or "").strip('"').lower()
            md5 = etag if _MD5.fullmatch(etag) else ""
            objects.append(BucketObject(bucket, key, _name_of(key, folder), int(size), md5))
        more = (root.findtext("IsTruncated") or "").lower() == "true"
        token = root.findtext("NextContinuationToken") or ""
        if more and not token:
            raise _PassingError("its list of files is cut")
        return objects, token if more else ""

    def fetch(self, item: BucketObject, target: Path) -> None:
        """Gather the object beside `target`, going on where an earlier attempt stopped, and check it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)

        def gathered() -> int:
            return part.stat().st_size if part.exists() else 0

        self._retried(lambda: self._gather(item, target), "a file", gathered)

    def _gather(self, item: BucketObject, target: Path) -> None:
        part = part_of(target)
        have = part.stat().st_size if part.exists() else 0
        if have > item.size_bytes:
            part.unlink()
            have = 0
        if have < item.size_bytes or not have:
            self._append(item, part, have)
        if part.stat().st_size < item.size_bytes:
            raise _PassingError("it ends files early")
        if not _accept(part, item, target):
            raise _PassingError("its files differ from their size or MD5")

    def _append(self, item: BucketObject, part: Path, have: int) -> None:
        url = f"{self._base(item.bucket)}/{quote(item.key)}"
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._session().get(url, headers=headers, timeout=_TIMEOUT_S, stream=True) as answer:
            if answer.status_code == 416:
                part.unlink(missing_ok=True)
                raise _PassingError("it refuses to go on with a file")
            self._check(answer)
            begins = answer.headers.get("Content-Range", "")
            resumes = answer.status_code == 206 and begins.startswith(f"bytes {have}-")
            if answer.status_code == 206 and not resumes:
                part.unlink(missing_ok=True)
                raise _PassingError("it goes on at another place than asked")
            size = have if resumes else 0
            with part.open("ab" if resumes else "wb") as stream:
                # read1 gives what has come: of a connection that breaks, nothing that came is lost
                while chunk := answer.raw.read1(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > item.size_bytes:
                        break
                    stream.write(chunk)
        if size > item.size_bytes:
            part.unlink(missing_ok=True)
            raise _PassingError("its files are longer than listed")

    def _check(self, answer: requests.Response) -> None:
        self._answered = True
        if answer.status_code in (200, 206):
            return
        if answer.status_code in _PASSING:
            after = answer.headers.get("Retry-After", "")
            raise _PassingError(f"it answers {answer.status_code}", float(after) if after.isdigit() else 0.0)
        raise ExchangeError(
            f"the bucket answers {answer.status_code}", where=self._host, todo="Check the endpoint and the index."
        )

    def _retried(self, action: Callable[[], T], what: str, progress: Callable[[], int] = lambda: 0) -> T:
        """The result of the action, tried again with a growing wait; progress starts the count anew."""
        failures, reached = 0, progress()
        while True:
            try:
                return action()
            except (_PassingError, requests.RequestException, HTTPError) as error:
                failures = 1 if progress() > reached else failures + 1
                reached = progress()
                silent = not self._answered and isinstance(error, requests.RequestException)
                if failures >= (min(self._attempts, 3) if silent else self._attempts):
                    gone = silent or (what == _LIST and isinstance(error, requests.ConnectionError | requests.Timeout))
                    raise self._given_up(error, what, gone) from None
                asked_s = error.wait_s if isinstance(error, _PassingError) else 0.0
                time.sleep(min(max(asked_s, self._wait_s * 2 ** (failures - 1)), _LONGEST_WAIT_S))

    def _given_up(self, error: Exception, what: str, gone: bool) -> ExchangeError:
        todo = "What is here stays, and the same command goes on"
        if gone:
            return UnreachableError(
                "the public bucket cannot be reached",
                where=f"{self._host}, {type(error).__name__}",
                todo=f"Check the network and its proxy, or name a mirror with --bucket. {todo}",
            )
        reason = str(error) if isinstance(error, _PassingError) else type(error).__name__
        return ExchangeError(f"{what} cannot be had from the public bucket: {reason}", where=self._host)

    def _session(self) -> requests.Session:
        """One session a thread. A proxy of the environment is not asked for this machine itself."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.headers["User-Agent"] = "noduleflow"
            session.trust_env = self._host not in ("localhost", "127.0.0.1", "::1")
            self._local.session = session
        return session


class _PassingError(Exception):
    """An answer that may be right the next time. wait_s: how long the server asked to wait."""

    def __init__(self, words: str, wait_s: float = 0.0) -> None:
        super().__init__(words)
        self.wait_s = wait_s
