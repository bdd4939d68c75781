"""Bring series of a public collection into a folder: what is whole is passed over, the rest goes on where it stopped.

OUT/<patient>/<study>/<modality>_<series>/<instance>.dcm    whole files only; .<instance>.dcm.part is being gathered
OUT/attribution.json, OUT/LICENSE.txt                       whose data it is, and under which licence
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_contracts.errors import ExchangeError, WorkspaceError
from data_contracts.records import write_bytes_atomic
from pipeline.exchange.public_bucket import Bucket, BucketObject, UnreachableError, md5_of
from pipeline.exchange.public_index import Citation, PublicSeries

#: kept free beside what is fetched
_SPARE_BYTES = 256 * 2**20
#: by which, and by a hundredth, a series may differ from the size in the index, which is rounded
_SIZE_SLACK_BYTES = 10**6


@dataclass
class FetchResult:
    """What a fetch brought: files and bytes that came, files that were there, and what could not be had."""

    n_files: int = 0
    n_there: int = 0
    n_bytes: int = 0
    failed: list[str] = field(default_factory=list)


def fetch_series(
    series: Sequence[PublicSeries],
    bucket: Bucket,
    out: Path,
    say: Callable[[str], None],
    *,
    workers: int = 8,
    verify: bool = False,
) -> FetchResult:
    """Fetch every file of the series.

    A series that cannot be had whole is named in `failed`, and the others go on. Whatever is in `out` under a final
    name has the size, and where the bucket tells it the MD5, of its object.

    Parameters
    ----------
    say: gets a line a series.
    verify: read the files that are there too and compare their MD5, not their size alone.

    Raises
    ------
    UnreachableError: the bucket does not answer at all.
    WorkspaceError: the disk has no room, or cannot be written.
    """
    result = FetchResult()
    _check_room(out, sum(item.size_bytes for item in series) - _held_bytes(series, out))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for number, item in enumerate(series, start=1):
            try:
                line = _fetch_one(item, bucket, out, result, pool, verify)
            except UnreachableError:
                raise
            except ExchangeError as error:
                line = error.line()
                result.failed.append(f"{item.patient_id} {item.modality}: {line}")
            except OSError as error:
                raise WorkspaceError(
                    f"the files cannot be written ({error.strerror})",
                    where=str(out),
                    todo="Free disk space or mend permissions; the same command goes on.",
                ) from None
            say(f"fetch {number}/{len(series)}: {item.patient_id} {item.modality}, {line}")
    return result


def _fetch_one(
    item: PublicSeries, bucket: Bucket, out: Path, result: FetchResult, pool: ThreadPoolExecutor, verify: bool
) -> str:
    objects = bucket.objects(item.bucket, item.prefix)
    folder = out / item.folder
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [each for each in objects if not _is_there(folder / each.name, each, verify)]
    result.n_there += len(objects) - len(wanted)
    futures = [(each, pool.submit(bucket.fetch, each, folder / each.name)) for each in wanted]
    errors = []
    try:
        for each, future in futures:
            try:
                future.result()
            except ExchangeError as error:
                errors.append(error)
                continue
            result.n_files += 1
            result.n_bytes += each.size_bytes
    except BaseException:
        # an interrupt or a full disk: what is not begun is not begun any more
        for _, future in futures:
            future.cancel()
        raise
    if errors:
        raise errors[0]
    if len(objects) != item.n_instances:
        raise ExchangeError(
            f"incomplete: the bucket lists {len(objects)} files where the index says {item.n_instances}"
        )
    size_bytes = sum(each.size_bytes for each in objects)
    if abs(size_bytes - item.size_bytes) > 0.01 * item.size_bytes + _SIZE_SLACK_BYTES:
        said = f"{size_bytes / 1e6:.1f} MB where the index says {item.size_bytes / 1e6:.1f} MB"
        raise ExchangeError(f"another series than the index means: the bucket lists {said}")
    return f"{len(objects)} files" + ("" if wanted else ", all there already")


def _is_there(path: Path, item: BucketObject, verify: bool) -> bool:
    if not path.is_file() or path.stat().st_size != item.size_bytes:
        return False
    return not verify or not item.md5 or md5_of(path) == item.md5


def _held_bytes(series: Sequence[PublicSeries], out: Path) -> int:
    """Bytes that are here already, whole files and begun ones."""
    folders = [out / item.folder for item in series]
    return sum(file.stat().st_size for folder in folders if folder.is_dir() for file in folder.iterdir())


def _check_room(out: Path, needed_bytes: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if needed_bytes > 0 and needed_bytes + _SPARE_BYTES > free:
        raise WorkspaceError(
            f"{needed_bytes / 1e9:.1f} GB are to come and {free / 1e9:.1f} GB are free",
            where=str(out),
            todo="Free disk space, ask for fewer patients, or choose another folder with --out.",
        )


def write_attribution(series: Sequence[PublicSeries], sources: Sequence[Citation], out: Path) -> None:
    """LICENSE.txt for people and attribution.json for programs; what earlier runs fetched stays named in it."""
    path = out / "attribution.json"
    listed = {item.series_uid: {**asdict(item), "folder": item.folder.as_posix()} for item in series}
    named = {source.doi.lower(): asdict(source) for source in sources}
    try:
        earlier = json.loads(path.read_text()) if path.exists() else {}
        listed = {entry["series_uid"]: entry for entry in earlier.get("series", [])} | listed
        named = {entry["doi"].lower(): entry for entry in earlier.get("sources", [])} | named
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not ours, or torn: it is written anew
    body = {"sources": list(named.values()), "series": [listed[uid] for uid in sorted(listed)]}
    write_bytes_atomic(path, (json.dumps(body, indent=2) + "\n").encode())
    text = "\n\n".join(source_text(Citation(**source)) for source in named.values())
    write_bytes_atomic(out / "LICENSE.txt", f"Data of others; name them when you use it.\n\n{text}\n".encode())


def source_text(source: Citation) -> str:
    """A source in four lines: title, licence, DOI and citation."""
    lines = [
        source.title,
        f"Licence: {source.licence} {source.licence_url}".strip(),
        f"DOI: {source.doi}",
        source.citation,
    ]
    return "\n".join(line for line in lines if line)
