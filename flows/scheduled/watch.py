"""ingest-watch: what came to the sources since the last look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_contracts.errors import ExchangeError, NoduleflowError, NothingUsableError, UsageError
from flows.intake.known_sources import nothing_new
from flows.intake.peers import dicomweb_server
from flows.intake.plan_intake import annotate_all, ingest_source, pull_request
from flows.intake.pulling import Pull
from flows.intake.sources import existing_sources
from flows.progress import say
from flows.scheduled.jobs import Outcome
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan, SourcePlan
from flows.workspace import Workspace


def watch(workspace: Workspace, settings: Settings, plan: RunPlan) -> Outcome:
    """Ingest what is new in every source; the others go on where one is away or has nothing usable.

    Raises
    ------
    NoduleflowError: sources could not be read or asked; said at the end, when the others are ingested.
    """
    n_new = n_refused = n_arriving = 0
    failures: list[tuple[str, NoduleflowError]] = []
    for source in plan.sources:
        try:
            found = _new_in(workspace, settings, plan, source)
        except NothingUsableError as error:
            say(f"ingest {source.site}: {error.what}")
            n_refused += 1
            continue
        except NoduleflowError as error:
            say(f"ingest {source.site}: {error.line()}")
            failures.append((source.site, error))
            continue
        if found is not None:
            n_new += found["new"]
            n_refused += sum(found["refused"].values())
            n_arriving += found.get("studies_arriving", 0)
    if n_new:
        annotate_all(workspace, plan)
    if failures:
        raise _all_of(failures, len(plan.sources))
    arriving = f", {n_arriving} studies still arriving" if n_arriving else ""
    if not n_new:
        return Outcome(f"nothing new{arriving}", is_new=False)
    return Outcome(f"{n_new} new series, {n_refused} refused{arriving}")


def _all_of(failures: list[tuple[str, NoduleflowError]], n_sources: int) -> NoduleflowError:
    """One error for all; of a kind that another attempt may mend, where one of them is."""
    errors = [error for _, error in failures]
    chief = next((error for error in errors if not isinstance(error, UsageError)), errors[0])
    told = "; ".join(f"{site}: {error.what}" for site, error in failures)
    where = ", ".join(dict.fromkeys(error.where for error in errors if error.where))
    what = f"{len(failures)} of {n_sources} sources failed, the others were looked at ({told})"
    return type(chief)(what, where=where, todo=chief.todo)


def _is_empty(folder: Path) -> bool:
    try:
        return folder.is_dir() and not any(folder.iterdir())
    except OSError as error:
        raise ExchangeError(
            f"the folder cannot be read ({error.strerror})", where=str(folder), todo="Mend its mount or permissions."
        ) from None


def _new_in(workspace: Workspace, settings: Settings, plan: RunPlan, source: SourcePlan) -> dict[str, Any] | None:
    """The record of an ingest of one source; None where nothing came."""
    if source.path is None:
        server = dicomweb_server(source.dicomweb)
        pull = Pull(
            workspace, pull_request(source, settings.settle_s), server, source.site, plan.ingest, plan.keep_identity
        )
        known = pull.nothing_new()
    else:
        if _is_empty(source.path):
            return None
        paths = existing_sources((source.path,))
        known = nothing_new(workspace, paths, source.site, plan.ingest, plan.keep_identity)
    if known is not None:
        return known if known.get("studies_arriving") else None
    return ingest_source(workspace, plan, source, settle_s=settings.settle_s)
