"""What waits for a person, and how often readers overrode the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.oncall.findings import Findings
from flows.reviewing.outgoing_notes import waiting

if TYPE_CHECKING:
    from flows.workspace import Workspace

_NOTHING: dict[str, Any] = {
    "adjudications": 0,
    "second_reads": 0,
    "second_readers": 0,
    "unanswered_reports": 0,
    "reports_for_the_pacs": 0,
}


def waiting_for_readers(workspace: Workspace, found: Findings) -> tuple[dict[str, Any], dict[str, Any]]:
    """(counts of what waits for readers, overrides by model version)."""
    folders = {path.parent.name for path in workspace.reviews_root.glob("*/review.json")}
    answered = {path.parent.parent.name for path in workspace.reviews_root.glob("*/answers/*.json")}
    waits = {
        **_NOTHING,
        "unanswered_reports": len(folders - answered),
        "reports_for_the_pacs": len(waiting(workspace)),
    }
    if not answered:
        return waits, {}

    def read() -> tuple[dict[str, Any], dict[str, Any]]:
        from flows.reviewing.answers import answers_of, feedback_params, second_reads
        from pipeline.review.answers.overrides import overrides_by_version

        known, params = answers_of(workspace), feedback_params()
        cases = known.cases(params)
        for name in known.unreadable:
            found.add(
                f"reviews/{name} holds no answers that can be read", "restore it from a backup, or ask the reader"
            )
        overrides = {
            version: {
                "overridden": one.overridden,
                "answered": one.answered,
                "rate": one.rate.value,
                "low": one.rate.low,
                "high": one.rate.high,
                "words": one.words,
            }
            for version, one in overrides_by_version(known.opinions(), params).items()
        }
        counts = {
            "adjudications": sum(case.standing == "differs" for case in cases),
            "second_reads": len(second_reads(workspace, cases, params)),
            "second_readers": sum(case.standing == "single" for case in cases),
        }
        return {**waits, **counts}, overrides

    return found.section("answers of readers", read, (waits, {}))
