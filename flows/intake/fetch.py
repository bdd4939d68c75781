"""Fetch public studies into a folder that `ingest` and `annotate` read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_contracts.errors import ExchangeError, NothingUsableError, UsageError, WorkspaceError
from flows.progress import say
from pipeline.exchange.public_bucket import open_bucket
from pipeline.exchange.public_data import fetch_series, source_text, write_attribution
from pipeline.exchange.public_index import citations, index_files, lidc_series

_LOCK_TIMEOUT_S = 5


def fetch_lidc(
    out: Path,
    n_patients: int,
    endpoint: str,
    *,
    annotations: bool = False,
    exclude: Path | None = None,
    index: Path | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """The CT series of the first patients of LIDC-IDRI, with the readers' SEG and SR objects where asked for.

    Raises
    ------
    UsageError: no index, or a file of excluded patients that cannot be read.
    NothingUsableError: the index has no such patient.
    ExchangeError: a bucket that cannot be reached, or series that could not be had whole; the same call goes on.
    """
    from filelock import FileLock, Timeout

    files = index_files() if index is None else {"series": index}
    series = lidc_series(files["series"], n_patients, annotations=annotations, exclude=_patients(exclude))
    if not series:
        raise NothingUsableError("the index has no patient of LIDC-IDRI beyond the excluded ones")
    patients = sorted({item.patient_id for item in series})
    sources = citations(files, series)
    say(f"fetch: {len(series)} series of {len(patients)} patients, {sum(s.size_bytes for s in series) / 1e6:.0f} MB")
    for source in sources:
        say("fetch: " + "; ".join(source_text(source).splitlines()))
    bucket = open_bucket(endpoint)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".fetch.lock", timeout=_LOCK_TIMEOUT_S):
            write_attribution(series, sources, out)
            result = fetch_series(series, bucket, out, say, verify=verify)
    except Timeout:
        raise WorkspaceError("another fetch writes here", where=str(out), todo="Wait for it, or end it.") from None
    except OSError as error:
        raise WorkspaceError(f"the folder cannot be written ({error.strerror})", where=str(out)) from None
    if result.failed:
        raise ExchangeError(
            f"{len(result.failed)} of {len(series)} series could not be had whole",
            where=result.failed[0],
            todo="Run the same command again to go on.",
        )
    return {
        "out": str(out),
        "patients": patients,
        "n_series": len(series),
        "n_files": result.n_files,
        "n_there": result.n_there,
        "n_bytes": result.n_bytes,
        "sources": [{"doi": source.doi, "licence": source.licence} for source in sources],
    }


def _patients(exclude: Path | None) -> set[str]:
    """Patient ids of a file: one a line, # begins a remark."""
    if exclude is None:
        return set()
    try:
        lines = exclude.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError("the file of excluded patients cannot be read", where=exclude.name) from None
    return {line.partition("#")[0].strip() for line in lines} - {""}
