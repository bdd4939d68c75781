"""STOW-RS (PS3.18 section 10.5): files to a DICOMweb server, with the fate of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from data_contracts.errors import DecodeError, ExchangeError
from pipeline.exchange.instance_file import examine
from pipeline.exchange.multipart import MultipartFiles
from pipeline.exchange.push_result import PushBrokenError, PushResult, failure_of
from pipeline.exchange.web_client import RefusedError, UnreadableAnswerError, WebClient
from pipeline.exchange.web_server import WebServer

_STORED, _FAILED, _REASON, _UID = "00081199", "00081198", "00081197", "00081155"
#: answers of a batch that say nothing about a single instance of it
_TOGETHER_REFUSED = frozenset({400, 409, 413, 415, 422})


@dataclass(frozen=True)
class _File:
    path: Path
    uid: str


def push_dicomweb(
    files: Sequence[Path],
    server: WebServer,
    *,
    study_uid: str = "",
    batch_files: int = 20,
    batch_bytes: int = 64 * 2**20,
) -> PushResult:
    """Store DICOM files on a server as they are, in batches; to send them again changes nothing there.

    A batch that is refused whole is sent file by file, so that one bad file stops no other.

    study_uid: store below this study only; the server refuses others.

    Raises
    ------
    PushBrokenError: the server cannot be reached or stops answering; what was stored stays there.
    """
    result = PushResult()
    ready: list[_File] = []
    for path in files:
        try:
            ready.append(_File(path, examine(path).sop_instance_uid))
        except DecodeError as error:
            result.failed[path] = error.what
        except OSError as error:
            result.failed[path] = error.strerror or "cannot be read"
    path_of_service = f"/studies/{study_uid}" if study_uid else "/studies"
    with WebClient(server) as client:
        for batch in _batches(ready, batch_files, batch_bytes):
            try:
                if not _store(client, path_of_service, batch, result):
                    for file in batch:
                        _store(client, path_of_service, [file], result)
            except ExchangeError as error:
                raise PushBrokenError(error.what, where=error.where, todo=error.todo, result=result) from None
    return result


def _batches(files: Sequence[_File], n_files: int, n_bytes: int) -> Iterator[list[_File]]:
    batch: list[_File] = []
    size = 0
    for file in files:
        length = file.path.stat().st_size
        # one UID twice in one batch could not be told apart in the answer
        if batch and (len(batch) >= n_files or size + length > n_bytes or file.uid in {other.uid for other in batch}):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += length
    if batch:
        yield batch


def _store(client: WebClient, path: str, batch: list[_File], result: PushResult) -> bool:
    """Send one batch and enter each file's fate; False where the server refused several files as a whole."""
    answers: list[tuple[int, bytes]] = []
    fates: dict[str, str] | None

    def body() -> MultipartFiles:
        return MultipartFiles([file.path for file in batch])

    def take(response: requests.Response, pieces: Iterator[bytes]) -> None:
        answers.append((response.status_code, b"".join(pieces)))

    try:
        client.send("POST", path, "application/dicom+json", take, body, accepted=_TOGETHER_REFUSED)
        fates = _fates(*answers[-1])
    except RefusedError as refusal:
        if refusal.status in (401, 403, 404):
            raise
        fates = None if len(batch) > 1 else {batch[0].uid: refusal.what}
    except UnreadableAnswerError as error:
        fates = {file.uid: error.what for file in batch}
    except DecodeError as error:
        fates = None if len(batch) > 1 else {batch[0].uid: error.what}
    if fates is None:
        return False
    for file in batch:
        reason = fates.get(file.uid, "the server does not say what became of it")
        result.enter(file.path, reason)
    return True


def _fates(status: int, body: bytes) -> dict[str, str]:
    """SOP Instance UID to "" (stored) or why not (PS3.18 table 10.5.3-1 and annex I.2).

    Raises
    ------
    DecodeError: the answer names no instance.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    answer = answer[0] if isinstance(answer, list) and answer else answer
    if not isinstance(answer, dict):
        raise DecodeError(f"the server answers {status} without saying what it stored")
    fates: dict[str, str] = {}
    for item in _items(answer, _FAILED):
        code = _first(item, _REASON)
        fates[str(_first(item, _UID))] = failure_of(code) if isinstance(code, int) else "refused without a reason"
    for item in _items(answer, _STORED):
        fates[str(_first(item, _UID))] = ""
    if not fates:
        raise DecodeError(f"the server answers {status} without saying what it stored")
    return fates


def _items(answer: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = answer.get(tag)
    value = element.get("Value") if isinstance(element, dict) else None
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _first(item: dict[str, Any], tag: str) -> object:
    element = item.get(tag)
    value = element.get("Value") if isinstance(element, dict) else None
    return value[0] if isinstance(value, list) and value else None
