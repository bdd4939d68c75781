"""nightly-review: the results of its reports on their way to the PACS."""

from __future__ import annotations

from data_contracts.errors import ExchangeError
from flows.intake.pacs import PrivateTarget
from flows.progress import say
from flows.remote.opening import fetched
from flows.reviewing.outgoing_notes import note, waiting
from flows.reviewing.results_push import push_results_flow
from flows.whole.nightly_config import PushPlan
from flows.workspace import Workspace


def outgoing(workspace: Workspace) -> list[str]:
    """Keys of reviewed studies whose results wait for the PACS, sorted."""
    return [key for key in waiting(workspace) if (workspace.reviews_root / key / "review.json").is_file()]


def send_outgoing(workspace: Workspace, plan: PushPlan) -> str:
    """Store what waits, a study at a time, so that one that fails holds up no other; returns what came of it.

    Raises
    ------
    ExchangeError: the receiver cannot be reached, or objects of some study were not stored; those studies wait on.
    """
    target = PrivateTarget(url=plan.dicomweb, node=plan.dicom, called_aet=plan.called, calling_aet=plan.calling)
    keys = outgoing(workspace)
    n_stored = n_empty = 0
    reasons: dict[str, int] = {}
    for key in keys:
        folder = workspace.reviews_root / key
        fetched(workspace, folder)
        told = push_results_flow(str(workspace.root), [key], target, plan.pseudonymous)
        if told["failed"]:
            for reason, count in told["reasons"].items():
                reasons[reason] = reasons.get(reason, 0) + count
            say(f"study {key}: {told['failed']} of {told['files']} objects were not stored")
            continue
        if told["studies"][0]["identity"] != "original" and not plan.pseudonymous:
            say(f"study {key}: stored under pseudonyms, {told['studies'][0]['why']}")
        note(folder, "stored" if told["files"] else "nothing to store")
        n_stored, n_empty = n_stored + bool(told["files"]), n_empty + (not told["files"])
    if reasons:
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        raise ExchangeError(
            f"the results of {len(keys) - n_stored - n_empty} of {len(keys)} studies were not stored whole ({why})",
            todo="They wait; the next nightly-review sends them again.",
        )
    said = f"{n_stored} sent to the PACS"
    return f"{said}, {n_empty} without results in DICOM" if n_empty else said
