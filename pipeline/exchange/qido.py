"""QIDO-RS (PS3.18 section 10.6): what a DICOMweb server holds, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import requests

from data_contracts.errors import DecodeError, ExchangeError
from pipeline.exchange.instance_file import is_uid
from pipeline.exchange.web_client import RefusedError, WebClient

_PAGE = 200
_ACCEPT = "application/dicom+json, application/json;q=0.9"
#: a page of 200 instances is some 100 KB; beyond this it is no answer to our question
_MAX_ANSWER_BYTES = 256 * 2**20
_UIDS = {"StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E", "SOPInstanceUID": "00080018"}
_INCLUDED = {
    "StudyInstanceUID": ("StudyDate", "StudyTime", "NumberOfStudyRelatedInstances"),
    "SeriesInstanceUID": ("Modality", "NumberOfSeriesRelatedInstances"),
    "SOPInstanceUID": (),
}

JsonDataset = dict[str, Any]


@dataclass(frozen=True)
class FoundStudy:
    """A study of the server. moment: StudyDate and StudyTime as YYYYMMDDHHMMSS, "" unknown; both are identity.

    n_instances: of all modalities, as the server counts them, None where it does not say.
    """

    uid: str = field(repr=False)
    moment: str = field(repr=False)
    n_instances: int | None = None


@dataclass(frozen=True)
class FoundSeries:
    """A series of the server. n_instances: as the server counts them, None where it does not say."""

    study_uid: str = field(repr=False)
    uid: str = field(repr=False)
    modality: str = ""
    n_instances: int | None = None


def find_studies(client: WebClient, *, since: str = "", modality: str = "") -> Iterator[FoundStudy]:
    """Studies since a moment (YYYYMMDD or YYYYMMDDHHMMSS) that hold the modality, oldest first.

    Servers match whole days; the time of the day is compared here. A study without a date is not found by a range.

    Raises
    ------
    ExchangeError: the server does not answer, or not with JSON of PS3.18 annex F.
    """
    query = {"StudyDate": f"{since[:8]}-"} if since else {}
    if modality:
        query["ModalitiesInStudy"] = modality
    found = []
    for item in _search(client, "/studies", "StudyInstanceUID", query):
        modalities = item.get("00080061", {}).get("Value")
        if modality and modalities and modality not in modalities:
            continue
        moment = _moment(_text(item, "00080020"), _text(item, "00080030"))
        if not since or not moment or moment >= since[: len(moment)]:
            found.append(FoundStudy(_text(item, "0020000D"), moment, _count(item, "00201208")))
    yield from sorted(found, key=lambda study: (study.moment, study.uid))


def find_series(client: WebClient, study_uid: str, *, modality: str = "") -> list[FoundSeries]:
    """The series of a study, of one modality or all."""
    query = {"Modality": modality} if modality else {}
    found = []
    for item in _search(client, f"/studies/{study_uid}/series", "SeriesInstanceUID", query):
        kind = _text(item, "00080060")
        if not modality or not kind or kind == modality:
            found.append(FoundSeries(study_uid, _text(item, "0020000E"), kind, _count(item, "00201209")))
    return found


def find_instances(client: WebClient, series: FoundSeries) -> list[str]:
    """SOP Instance UIDs of a series."""
    path = f"/studies/{series.study_uid}/series/{series.uid}/instances"
    return [_text(item, "00080018") for item in _search(client, path, "SOPInstanceUID", {})]


def _search(client: WebClient, path: str, level: str, query: dict[str, str]) -> Iterator[JsonDataset]:
    """Every match once, whatever the server makes of limit and offset.

    A page shorter than asked for is no end (servers cap it); an empty page, or one with nothing new, is. An empty page
    after a full one is not believed.

    Raises
    ------
    ExchangeError: the server gives the same first page again and says, or shows, that there is more.
    """
    seen: set[str] = set()
    offset = n_last = 0
    while True:
        page, is_cut = _page(client, path, {**query, "limit": str(_PAGE), "offset": str(offset)}, level)
        fresh = _fresh(page, level, seen)
        yield from fresh
        offset += len(page)
        if page and not fresh:
            yield from _whole_answer(client, path, query, level, seen, is_cut)
        if not page and n_last >= _PAGE:
            yield from _behind_the_offset(client, path, query, level, seen)
        if not fresh:
            return
        n_last = len(page)


def _fresh(page: list[JsonDataset], level: str, seen: set[str]) -> list[JsonDataset]:
    """The matches of a page that are not in `seen`, which then holds them."""
    found = {_text(item, _UIDS[level]): item for item in page}
    fresh = {uid: item for uid, item in found.items() if is_uid(uid) and uid not in seen}
    seen |= set(fresh)
    return list(fresh.values())


def _behind_the_offset(
    client: WebClient, path: str, query: dict[str, str], level: str, seen: set[str]
) -> Iterator[JsonDataset]:
    """Matches beyond the last full page, asked for by ever larger limits and no offset.

    Where Orthanc filters for itself (ModalitiesInStudy) it takes the offset off the first `limit` matches, so that
    every page but the first is empty, and nothing says that there is more.
    """
    limit = len(seen)
    while True:
        limit *= 2
        page, _ = _page(client, path, {**query, "limit": str(limit)}, level)
        fresh = _fresh(page, level, seen)
        yield from fresh
        if not fresh or len(page) < limit:
            return


def _whole_answer(
    client: WebClient, path: str, query: dict[str, str], level: str, seen: set[str], was_cut: bool
) -> list[JsonDataset]:
    """What a server that gave the same page twice still holds when it is asked without a limit."""
    page, is_cut = _page(client, path, query, level)
    fresh = _fresh(page, level, seen)
    if is_cut or (not fresh and (was_cut or len(page) == _PAGE)):
        raise ExchangeError(
            "the server cannot page and holds more than it lists",
            where=client.server.name,
            todo="Ask for less: a later --since, or one --study.",
        )
    return fresh


def _page(client: WebClient, path: str, query: dict[str, str], level: str) -> tuple[list[JsonDataset], bool]:
    """One answer, and whether the server says that it is cut short (Warning 299, PS3.18 section 10.6.3)."""
    included = [("includefield", name) for name in _INCLUDED[level]]
    try:
        return _ask(client, path, [*query.items(), *included])
    except RefusedError as answer:
        if answer.status == 404 and level != "StudyInstanceUID":
            return [], False  # the study or series is not there
        if answer.status != 400 or not included:
            raise
    return _ask(client, path, list(query.items()))  # some servers know no includefield


def _ask(client: WebClient, path: str, query: list[tuple[str, str]]) -> tuple[list[JsonDataset], bool]:
    answers: list[tuple[list[JsonDataset], bool]] = []

    def take(response: requests.Response, pieces: Iterator[bytes]) -> None:
        is_cut = response.headers.get("Warning", "").startswith("299")
        body = bytearray()
        for piece in pieces:
            body += piece
            if len(body) > _MAX_ANSWER_BYTES:
                raise DecodeError("a list beyond all bounds")
        answers.append(([] if response.status_code == 204 or not body else _datasets(response, bytes(body)), is_cut))

    client.fetch(f"{path}?{urlencode(query)}", _ACCEPT, take)
    return answers[-1]


def _datasets(response: requests.Response, body: bytes) -> list[JsonDataset]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        kind = response.headers.get("Content-Type", "").lower()
        what = "an HTML page" if "html" in kind else "XML" if "xml" in kind else "no valid JSON"
        raise DecodeError(f"{what} in place of DICOM JSON") from None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DecodeError("JSON that is no list of data sets")
    return found


def _text(item: JsonDataset, tag: str) -> str:
    """The first value of an attribute of the DICOM JSON model (PS3.18 annex F), "" where there is none."""
    element = item.get(tag)
    value = element.get("Value") if isinstance(element, dict) else None
    first = value[0] if isinstance(value, list) and value else None
    return str(first).strip().strip("\0") if isinstance(first, str | int) else ""


def _count(item: JsonDataset, tag: str) -> int | None:
    text = _text(item, tag)
    return int(text) if text.isdecimal() else None


def _moment(date: str, time: str) -> str:
    """YYYYMMDDHHMMSS of a DA and a TM value; without a time the end of the day, so that nothing is passed over."""
    day = date.replace("-", "").replace(".", "")
    if len(day) != 8 or not day.isdecimal():
        return ""
    clock = time.replace(":", "").partition(".")[0]
    return day + (clock.ljust(6, "0")[:6] if clock.isdecimal() and len(clock) >= 2 else "235959")
