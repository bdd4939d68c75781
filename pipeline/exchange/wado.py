"""WADO-RS (PS3.18 section 10.4): instances as they are stored, straight to disk, resumed where a run broke off."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import requests
import urllib3

from data_contracts.errors import DecodeError
from data_contracts.records import sha256_file
from pipeline.exchange.instance_file import InstanceFacts, examine
from pipeline.exchange.multipart import CutShortError, MultipartReader, boundary_of
from pipeline.exchange.qido import FoundSeries
from pipeline.exchange.web_client import RefusedError, UnreadableAnswerError, WebClient

#: from the stored transfer syntax to whatever an old server gives; Orthanc transcodes unless it is asked for `*`
_ACCEPTS = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
    "application/dicom; transfer-syntax=*, application/dicom",
)
_FORBIDDEN_FORMS = {400, 406, 415}
_GONE = {404, 410}
#: refusals that say nothing about an instance: no permission, or a gateway whose server is gone
_ABOUT_THE_SERVER = {401, 403, 502, 503, 504}
_HOPELESS = 8


@dataclass
class RetrievedSeries:
    """What is on disk of a series after a retrieval.

    folder: one file an instance, named by digest. n_fetched: files of this run; n_kept: files that were there.
    missing: UIDs that the server lists and does not give whole, with the reason; identity.
    """

    folder: Path
    n_fetched: int = 0
    n_kept: int = 0
    missing: dict[str, str] = field(default_factory=dict, repr=False)


def retrieve_series(
    client: WebClient,
    series: FoundSeries,
    instance_uids: Sequence[str],
    folder: Path,
    name_of: Callable[[str], str],
) -> RetrievedSeries:
    """Bring the instances of a series into `folder`, each whole or not at all; those that are there are not fetched.

    The series is asked for in one answer first; whatever that leaves out is asked for instance by instance,
    `connections` at a time. Beside the folder a manifest holds each file's sha256, so that a file which a power cut
    tore is fetched again.

    name_of: SOP Instance UID to a file name without identity.

    Raises
    ------
    ExchangeError: the server stopped answering; what is on disk stays for the next run.
    OSError: the disk is full or cannot be written.
    """
    shelf = _Shelf(series, folder, name_of)
    kept = shelf.verified()
    result = RetrievedSeries(folder, n_kept=len(kept))
    wanted = [uid for uid in instance_uids if name_of(uid) not in kept]
    if not wanted and instance_uids:
        return result
    if not kept or not instance_uids:
        try:
            _retrieve_together(client, f"/studies/{series.study_uid}/series/{series.uid}", shelf)
        except (RefusedError, UnreadableAnswerError) as error:
            if not instance_uids or getattr(error, "status", 0) in _ABOUT_THE_SERVER:
                raise
    left = [uid for uid in wanted if not shelf.holds(uid)]
    with ThreadPoolExecutor(max_workers=max(1, min(client.server.connections, len(left)))) as pool:
        for uid, reason in pool.map(lambda uid: (uid, _retrieve_alone(client, series, uid, shelf)), left):
            if reason:
                result.missing[uid] = reason
    result.n_fetched = shelf.n_added
    return result


def manifest_of(folder: Path) -> Path:
    """The manifest of a series folder; it stands beside it, as everything in the folder is taken for an instance."""
    return folder.with_name(f"{folder.name}.manifest.jsonl")


class _Shelf:
    """The files of one series, and their manifest."""

    def __init__(self, series: FoundSeries, folder: Path, name_of: Callable[[str], str]) -> None:
        self.n_added = 0
        self.n_refused = 0
        self._series = series
        self._folder = folder
        self._name_of = name_of
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def verified(self) -> set[str]:
        """Names of the files that are as the manifest says; all else in the folder is removed."""
        noted = {}
        with contextlib.suppress(OSError):
            for line in manifest_of(self._folder).read_text().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the last line may be torn
                    entry = json.loads(line)
                    noted[entry["file"]] = entry["sha256"]
        names = set()
        for file in self._folder.iterdir():
            if noted.get(file.name) == sha256_file(file):
                names.add(file.name)
            else:
                file.unlink()
        return names

    @property
    def is_hopeless(self) -> bool:
        """Many instances were asked for and none was given: the server does not answer for this series at all."""
        return self.n_added == 0 and self.n_refused >= _HOPELESS

    def holds(self, uid: str) -> bool:
        return (self._folder / self._name_of(uid)).is_file()

    def add(self, pieces: Iterator[bytes]) -> InstanceFacts | None:
        """Write one instance under its name; None where it is of another series.

        Raises
        ------
        DecodeError: it is not a whole DICOM file; nothing of it stays.
        """
        temporary = self._folder.with_name(f".{self._folder.name}.{secrets.token_hex(6)}.tmp")
        digest = hashlib.sha256()
        try:
            with temporary.open("xb") as stream:
                for piece in pieces:
                    digest.update(piece)
                    stream.write(piece)
            facts = examine(temporary)
            if facts.series_instance_uid != self._series.uid:
                return None
            name = self._name_of(facts.sop_instance_uid)
            temporary.replace(self._folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        line = json.dumps({"file": name, "sha256": digest.hexdigest()}) + "\n"
        with self._lock:
            with manifest_of(self._folder).open("ab", buffering=0) as manifest:
                manifest.write(line.encode())
            self.n_added += 1
        return facts


def _retrieve_together(client: WebClient, path: str, shelf: _Shelf) -> None:
    """Every whole part of one multipart answer. Where it breaks off after a part, the rest is left to single requests.

    Raises
    ------
    ExchangeError: nothing came.
    """

    def take(response: requests.Response, pieces: Iterator[bytes]) -> None:
        try:
            for part in _parts(response, pieces):
                try:
                    shelf.add(part)
                except CutShortError:
                    raise
                except DecodeError:
                    continue  # this one is asked for again, alone
        except (DecodeError, requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError):
            if not shelf.n_added:
                raise

    _fetch_stored(client, path, take)


def _retrieve_alone(client: WebClient, series: FoundSeries, uid: str, shelf: _Shelf) -> str:
    """One instance; returns why it cannot be had, "" where it is there now."""

    def take(response: requests.Response, pieces: Iterator[bytes]) -> None:
        found = [shelf.add(part) for part in _parts(response, pieces)]
        if not any(facts is not None and facts.sop_instance_uid == uid for facts in found):
            raise DecodeError("another instance than the one asked for")

    if shelf.is_hopeless:
        return "not asked for, as no other instance could be had"
    try:
        _fetch_stored(client, f"/studies/{series.study_uid}/series/{series.uid}/instances/{uid}", take)
    except RefusedError as refusal:
        if refusal.status in _ABOUT_THE_SERVER:
            raise
        shelf.n_refused += 1
        return "the server no longer has it" if refusal.status in _GONE else refusal.what
    except UnreadableAnswerError as error:
        shelf.n_refused += 1
        return error.what
    return ""


def _fetch_stored(client: WebClient, path: str, take: Callable[[requests.Response, Iterator[bytes]], None]) -> None:
    for number, accept in enumerate(_ACCEPTS, start=1):
        try:
            client.fetch(path, accept, take)
            return
        except RefusedError as refusal:
            if refusal.status not in _FORBIDDEN_FORMS or number == len(_ACCEPTS):
                raise


def _parts(response: requests.Response, pieces: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """The instances of an answer: parts of a multipart one, or the whole of a single one."""
    kind = response.headers.get("Content-Type", "")
    if kind.lower().startswith("multipart/"):
        yield from MultipartReader(pieces, boundary_of(kind))
    elif kind.lower().startswith(("application/dicom", "application/octet-stream")) and "json" not in kind.lower():
        yield pieces
    else:
        name = "an HTML page" if "html" in kind.lower() else "XML" if "xml" in kind.lower() else "something else"
        raise DecodeError(f"{name} in place of DICOM")


def remove_series(folder: Path) -> None:
    """Remove a retrieved series and its manifest."""
    with contextlib.suppress(FileNotFoundError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    manifest_of(folder).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
