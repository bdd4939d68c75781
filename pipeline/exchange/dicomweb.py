"""Pulling studies by DICOMweb: what is new on a server, brought to disk series by series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from data_contracts.errors import UsageError
from data_contracts.records import digest_of
from pipeline.exchange.instance_file import is_uid
from pipeline.exchange.pull_state import KnownSeries
from pipeline.exchange.qido import FoundSeries, find_instances, find_series
from pipeline.exchange.wado import RetrievedSeries, retrieve_series
from pipeline.exchange.web_client import RefusedError, WebClient


@dataclass(frozen=True)
class PulledSeries:
    """A series that is on disk now. key: of its UID. listing: digest of the instances that the server listed.

    gap: why it is not whole, "" where it is; such a series must not become a volume.
    """

    key: str
    uid: str = field(repr=False)
    n_listed: int
    listing: str
    retrieved: RetrievedSeries
    gap: str = ""


def pull_study(
    client: WebClient,
    study_uid: str,
    folder: Path,
    *,
    modality: str,
    key_of: Callable[[str], str],
    is_known: Callable[[str, int | None, str | None], bool],
) -> Iterator[PulledSeries | None]:
    """Bring the new series of a study below `folder`, one folder a series; None for each that is known.

    key_of: keyed digest of a UID. is_known: by key of the series, number of instances as the server counts them, and
    digest of their UIDs; either of the last two is None while it is not known.

    Raises
    ------
    ExchangeError: the server stopped answering; what is on disk stays for the next run.
    OSError: the disk is full or cannot be written.
    """
    for series in find_series(client, study_uid, modality=modality):
        key = key_of(series.uid)
        if series.n_instances is not None and is_known(key, series.n_instances, None):
            yield None
            continue
        uids = _listed(client, series)
        listing = digest_of(sorted(key_of(uid) for uid in uids))
        if series.n_instances is None and uids and is_known(key, None, listing):
            yield None
            continue
        retrieved = retrieve_series(client, series, uids, folder / key, lambda uid: f"{key_of(uid)}.dcm")
        n_listed = len(uids) if series.n_instances is None else series.n_instances
        yield PulledSeries(key, series.uid, n_listed, listing, retrieved, _gap(retrieved, n_listed))


def _listed(client: WebClient, series: FoundSeries) -> list[str]:
    """The instances of a series; none where the server cannot list them, which its answer to WADO-RS makes up for."""
    try:
        return find_instances(client, series)
    except RefusedError as refusal:
        if refusal.status in (401, 403):
            raise
        return []


def _gap(retrieved: RetrievedSeries, n_listed: int) -> str:
    n_there = sum(1 for _ in retrieved.folder.iterdir())
    if retrieved.missing:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in sorted(Counter(retrieved.missing.values()).items()))
        return f"{len(retrieved.missing)} of {n_listed} instances cannot be had: {reasons}"
    if n_there < n_listed:
        return f"the server counts {n_listed} instances and gives {n_there}"
    return "" if n_there else "the server gives no instance"


def is_same(known: KnownSeries | None, n_listed: int | None, listing: str | None) -> bool:
    """Whether the server still lists what is known of a series."""
    if known is None:
        return False
    return (n_listed is None or n_listed == known.n_listed) and (listing is None or listing == known.listing)


def checked_study_uids(uids: tuple[str, ...]) -> tuple[str, ...]:
    """The UIDs without repetition; raises UsageError for what is none, without showing it."""
    for number, uid in enumerate(uids, start=1):
        if not is_uid(uid):
            raise UsageError(f"--study {number} is no UID", todo="Give the StudyInstanceUID: digits and dots.")
    return tuple(dict.fromkeys(uids))


def parse_moment(text: str) -> str:
    """YYYYMMDD or YYYYMMDDHHMMSS of a date or an ISO date and time; raises UsageError for anything else."""
    digits = re.sub(r"[-:T ]", "", text.strip())
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits), "%Y%m%d")
    try:
        moment = datetime.strptime(digits, form)
    except ValueError:
        raise UsageError("--since takes a day, a day and time, or auto", todo="E.g. 2026-11-20.") from None
    return f"{moment:%Y%m%d}" if len(digits) == 8 else f"{moment:%Y%m%d%H%M%S}"


def days_before(day: str, n_days: int) -> str:
    """The day `n_days` before a YYYYMMDD day."""
    return f"{datetime.strptime(day, '%Y%m%d') - timedelta(days=n_days):%Y%m%d}"
