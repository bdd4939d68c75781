"""A batch of series on its way through a task: held in this process, or sealed for a worker elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from data_contracts.errors import NoduleflowError, UsageError, WorkspaceError
from data_contracts.params import IngestParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection
from flows.engine import scrubbed
from flows.intake.identity import seal_accepted
from flows.intake.known_sources import Outcome
from flows.log_filter import register_identifiers
from flows.running.elsewhere import Terms
from flows.settings import configured_secret
from pipeline.deidentify.pseudonyms import Pseudonymizer
from pipeline.headers.multiframe import FrameFacts
from pipeline.headers.slice_header import SliceHeader
from pipeline.intake.discover import RawSeries
from pipeline.intake.ingest_series import ingest_series
from pipeline.intake.verify import discard_damaged

#: by group key: the outcome of a series, and the keys of its stored volumes that were damaged
Outcomes = dict[str, tuple[Outcome, list[str]]]


@dataclass(frozen=True)
class Order:
    """What is wanted of each series."""

    params: IngestParams
    site: str
    keep_identity: bool
    verify: bool


class HeldBatch:
    """A batch in this process."""

    def __init__(
        self, series: tuple[RawSeries, ...], pseudonymizer: Pseudonymizer, series_root: Path, threads: int = 1
    ) -> None:
        self.series = series
        self._pseudonymizer = pseudonymizer
        self._series_root = series_root
        self._threads = threads

    def ingest(self, order: Order, told: Callable[..., None]) -> Outcomes:
        """Ingest each series; `told` hears of each."""

        def one(raw: RawSeries) -> tuple[str, tuple[Outcome, list[str]]]:
            outcome = _ingest_one(raw, self._pseudonymizer, order, self._series_root)
            told(raw.group_key, *outcome)
            return raw.group_key, outcome

        if self._threads == 1 or len(self.series) == 1:
            return dict(map(one, self.series))
        with ThreadPoolExecutor(self._threads) as pool:
            return dict(pool.map(one, self.series))


class SealedBatch:
    """A batch that lies sealed in the workspace; only its name travels."""

    def __init__(self, terms: Terms, name: str) -> None:
        self._terms = terms
        self._name = name

    @classmethod
    def of(cls, terms: Terms, name: str, sources: Sequence[Path], series: tuple[RawSeries, ...]) -> SealedBatch:
        places = [str(source.resolve()) for source in sources]
        terms.seal(name, {"sources": places, "series": [_series_as_json(raw) for raw in series]})
        return cls(terms, name)

    def ingest(self, order: Order, told: Callable[..., None]) -> Outcomes:
        """Ingest each series on a worker.

        Raises
        ------
        UsageError: the worker does not share workspace, key, program or source with the flow.
        """
        workspace = self._terms.enter()
        content = self._terms.unseal(self._name)
        if not all(Path(source).exists() for source in content["sources"]):
            raise UsageError(
                "a worker does not see the source", todo="Put it on a file system that every worker has at one path."
            )
        series = tuple(_series_from_json(body) for body in content["series"])
        register_identifiers(text for raw in series if raw.slices for text in raw.slices[0].identifiers)
        pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), order.keep_identity)
        return HeldBatch(series, pseudonymizer, workspace.series_root).ingest(order, told)


def _ingest_one(
    raw: RawSeries, pseudonymizer: Pseudonymizer, order: Order, series_root: Path
) -> tuple[Outcome, list[str]]:
    """Outcome of a series, and the keys of its stored volumes that were damaged.

    An error nobody foresaw refuses its series and leaves the others alone.
    """
    damaged: list[str] = []
    params, site = order.params, order.site
    try:
        items = scrubbed(ingest_series)(raw, pseudonymizer, params, series_root, site)
        if order.verify and (damaged := scrubbed(discard_damaged)(items, series_root)):
            items = scrubbed(ingest_series)(raw, pseudonymizer, params, series_root, site)
        scrubbed(seal_accepted)(items, raw, pseudonymizer, params, series_root.parent / "identity")
    except (WorkspaceError, UsageError):
        raise
    except NoduleflowError as error:
        path = pseudonymizer.path(raw.relative)
        items = [Rejection(path=path, reason=ReasonCode.INTERNAL_ERROR, detail=error.line())]
    return items, damaged


def _as_json(value: Any) -> dict[str, Any]:
    """Fields of a header by name: text, numbers and sequences of them."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _series_as_json(raw: RawSeries) -> dict[str, Any]:
    slices = []
    for header in raw.slices:
        frames = [_as_json(frame) for frame in header.frames]
        slices.append({**_as_json(header), "path": str(header.path.absolute()), "frames": frames})
    return {**_as_json(raw), "slices": slices}


def _series_from_json(body: dict[str, Any]) -> RawSeries:
    slices = []
    for header in body["slices"]:
        frames = tuple(FrameFacts(**_with_tuples(frame)) for frame in header["frames"])
        slices.append(SliceHeader(**{**_with_tuples(header), "path": Path(header["path"]), "frames": frames}))
    return RawSeries(**{**body, "slices": tuple(slices)})


def _with_tuples(body: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
