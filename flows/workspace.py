"""The workspace: its secret, its locks, and tables rebuilt whole from their parts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.errors import ContractError, SchemaVersionError, UsageError, WorkspaceError
from data_contracts.records import digest_of, write_bytes_atomic
from flows.progress import say
from flows.workspace_key import is_taken_up, key_fault, own_secret, take_up
from flows.workspace_paths import WorkspacePaths

if TYPE_CHECKING:
    import pandas as pd

    from data_contracts.reasons import ReasonCode
    from data_contracts.series import Rejection, SeriesRecord

_LOCK_TIMEOUT_S = 600
#: stands in a workspace while a restore is at work on it
UNRESTORED = ".restore.json"


class Workspace(WorkspacePaths):
    """Secret, locks and tables of one workspace folder."""

    def create(self) -> Workspace:
        """Make the folder; raises WorkspaceError where that cannot be."""
        self._check_restored()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise WorkspaceError(
                f"the workspace cannot be written ({error.strerror})",
                where=str(self.root),
                todo="Choose another folder with --workspace, or mend its permissions or disk.",
            ) from None
        return self

    def require(self) -> Workspace:
        """This workspace, which must exist already; raises UsageError where it does not."""
        self._check_restored()
        if not self.root.is_dir():
            raise UsageError(
                "there is no workspace", where=str(self.root), todo="Run `noduleflow ingest` first, or name another."
            )
        if not os.access(self.root, os.R_OK | os.X_OK):
            raise self._closed()
        return self

    def _check_restored(self) -> None:
        """Raises WorkspaceError where a restore was killed half-way, or the folder is closed to us."""
        try:
            is_unrestored = (self.root / UNRESTORED).exists()
        except PermissionError:
            raise self._closed() from None
        if is_unrestored:
            raise WorkspaceError(
                "a restore of this workspace is at work or was killed",
                where=str(self.root),
                todo="Wait for it, or run the same `noduleflow restore` again, which begins anew.",
            )

    def _closed(self) -> WorkspaceError:
        return WorkspaceError(
            "the workspace cannot be read (Permission denied)",
            where=str(self.root),
            todo="Run as the user it belongs to, or name another with --workspace.",
        )

    def secret(self, given: str | None = None) -> bytes:
        """Key of the keyed digests: the one given, or this workspace's own file (mode 600), made once.

        Raises
        ------
        UsageError: the studies that are there were named with another one.
        """
        secret = given.encode() if given else own_secret(self)
        if secret is None or not is_taken_up(self, secret):
            with self.lock("secret"):
                if secret is None and (secret := own_secret(self)) is None:
                    if fault := key_fault(self, None):
                        raise fault
                    secret = own_secret(self, make=True)
                assert secret is not None, "a secret that is not there is made"
                take_up(self, secret)
        if not given:
            self.secret_file.chmod(0o600)
        return secret

    @contextmanager
    def lock(self, name: str, timeout_s: float = _LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold a lock among the processes that see this folder, on this machine and on others.

        Raises
        ------
        WorkspaceError: another holds it for too long.
        """
        from filelock import FileLock, Timeout

        from flows.running.lease import lease

        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(FileLock(folder / f"{name}.lock", timeout=timeout_s))
                held.enter_context(lease(folder / f"{name}.held", timeout_s))
            except (Timeout, TimeoutError):
                raise WorkspaceError(
                    f"another run holds the lock {name!r}", where=str(folder), todo="Wait for it, or end it."
                ) from None
            yield

    def series_records(self) -> list[SeriesRecord]:
        """Every accepted series, by series key; unfinished folders and torn records are passed over.

        A torn one is written again when its source is ingested again.
        """
        from data_contracts.series import SeriesRecord

        records = []
        for key in sorted(self.series_keys()):
            try:
                records.append(SeriesRecord.read(self.series_root / key / "series.json"))
            except SchemaVersionError:
                raise
            except ContractError:
                say(f"series {key}: its record cannot be read; ingest its source again")
        return records

    def series_keys(self) -> set[str]:
        """Keys of the accepted series, by the names of their folders."""
        try:
            with os.scandir(self.series_root) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except FileNotFoundError:
            return set()
        return {name for name in names if (self.series_root / name / "series.json").is_file()}

    def has_series_tables(self) -> bool:
        """Whether series.parquet and rejected.parquet are there, and neither was cut."""
        return is_table(self.series_table) and is_table(self.rejected_table)

    def add_rejections(self, source_digest: str, rejections: Iterable[Rejection]) -> bool:
        """Keep the refusals of one ingest as a part of rejected.parquet; whether they are others than before.

        The newest part of a source replaces the one before.
        """
        kept = list(rejections)
        if self.has_rejections(source_digest, kept):
            return False
        write_bytes_atomic(self.rejected_parts / f"{source_digest}.jsonl", _lines(kept))
        return True

    def has_rejections(self, source_digest: str, rejections: Iterable[Rejection]) -> bool:
        """Whether these are the refusals that are kept of one ingest."""
        part = self.rejected_parts / f"{source_digest}.jsonl"
        return part.is_file() and part.read_bytes() == _lines(rejections)

    def forget_source(self, source_digest: str) -> None:
        """Drop what is known of the files of a source that is no more; its refusals stay."""
        (self.known_root / f"{source_digest}.npz").unlink(missing_ok=True)

    def rejection_reasons(self, source_digest: str) -> list[ReasonCode]:
        """Why items of a source were refused when it was last ingested."""
        from data_contracts.series import Rejection

        part = self.rejected_parts / f"{source_digest}.jsonl"
        lines = part.read_text().splitlines() if part.exists() else []
        return [Rejection.from_json(line, where=part.name).reason for line in lines]

    def rebuild_series_tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Write series.parquet and rejected.parquet whole from their parts, and return both."""
        import pandas as pd

        from data_contracts.series import REJECTED_TABLE, SERIES_TABLE, Rejection
        from flows.intake.series_choice import choices, remembered_preference

        with self.lock("tables"):
            records = self.series_records()
            chosen = choices(records, remembered_preference(self.preference_file))
            rows = [
                {**record.row(), **dict(zip(("chosen", "choice"), chosen[record.series_key], strict=True))}
                for record in records
            ]
            series = pd.DataFrame(rows) if rows else SERIES_TABLE.empty()
            SERIES_TABLE.write(self.series_table, series)
            refused: dict[str, dict[str, object]] = {}
            for part in sorted(self.rejected_parts.glob("*.jsonl")):
                for line in part.read_text().splitlines():
                    row = Rejection.from_json(line, where=part.name).row()
                    refused[digest_of(row)] = row
            rejected = pd.DataFrame(list(refused.values())) if refused else REJECTED_TABLE.empty()
            REJECTED_TABLE.write(self.rejected_table, rejected)
        return series, rejected

    def rebuild_nodule_table(self) -> pd.DataFrame:
        """Write nodules.parquet whole from the annotation parts, and return it."""
        from data_contracts.nodules import NODULE_TABLE
        from pipeline.annotations.merge import merge_tables

        with self.lock("tables"):
            files = sorted(self.annotation_parts.glob("*.parquet"), key=lambda part: (part.stat().st_mtime_ns, part))
            parts = [_with_batch(NODULE_TABLE.read(part)) for part in files]
            table = merge_tables(parts)
            NODULE_TABLE.write(self.nodule_table, table)
        return table

    def nodules(self) -> pd.DataFrame:
        """nodules.parquet, or an empty table; a torn one is written again from its parts."""
        from data_contracts.nodules import NODULE_TABLE

        if not self.nodule_table.exists():
            return NODULE_TABLE.empty()
        try:
            return NODULE_TABLE.read(self.nodule_table)
        except ContractError:
            if not any(self.annotation_parts.glob("*.parquet")):
                raise
        say("nodules.parquet cannot be read; it is written again from annotations/")
        return self.rebuild_nodule_table()

    def dataset(self, dataset: str) -> Path:
        """The folder of a dataset by its id, the beginning of it, or its name; "" is the only or newest one."""
        finished = sorted(self.datasets_root.glob("*/dataset.json"), key=lambda file: file.stat().st_mtime)
        if not dataset and finished:
            return self._here(finished[-1].parent)
        matches = [file.parent for file in finished if dataset and file.parent.name.startswith(dataset)]
        matches = matches or [file.parent for file in finished if dataset and _dataset_name(file) == dataset][-1:]
        if len(matches) == 1:
            return self._here(matches[0])
        known = ", ".join(file.parent.name for file in finished) or "none"
        what = f"no dataset {dataset!r}" if not matches else f"dataset {dataset!r} is ambiguous"
        raise UsageError(what, where=str(self.datasets_root), todo=f"Known: {known}. `noduleflow prepare` makes one.")

    def _here(self, folder: Path) -> Path:
        """A folder with all its files, which a working copy of a bucket may not have taken yet."""
        from flows.remote.opening import fetched

        fetched(self, folder)
        return folder


def is_table(path: Path) -> bool:
    """Whether a file is a Parquet table as far as its two ends tell."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        pq.read_metadata(path)
    except (ArrowException, OSError):
        return False
    return True


def _lines(rejections: Iterable[Rejection]) -> bytes:
    return "".join(sorted(rejection.model_dump_json() + "\n" for rejection in rejections)).encode()


def _with_batch(part: pd.DataFrame) -> pd.DataFrame:
    """A part with `batch`, the beginning of the digest of the file that each row came from, instead of all of them."""
    if "file_keys" not in part:
        return part
    keys = [str(keys[0])[:8] if keys is not None and len(keys) else "" for keys in part["file_keys"]]
    return part.drop(columns="file_keys").assign(batch=keys)


def _dataset_name(card_file: Path) -> str:
    from data_contracts.patches import DatasetCard

    try:
        return DatasetCard.read(card_file).name
    except ContractError:
        return ""
