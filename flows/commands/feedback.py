"""feedback: readers' answers in; labels, structured reports, what waits and how readers agree out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import app, session


@app.command()
def feedback(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="feedback.json, or a DICOM SR of answers.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Write the labels that all answers give to this CSV.")] = None,
    sr: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the answers of FILE as a DICOM SR, and store nothing.")
    ] = None,
    is_open: Annotated[bool, typer.Option("--open", help="List what waits for a reader or an adjudicator.")] = False,
    agreement: Annotated[bool, typer.Option("--agreement", help="How well readers agree.")] = False,
) -> None:
    """Take in readers' answers; list what waits; say how readers agree; export labels or a structured report."""
    from data_contracts.errors import UsageError

    given = files or []
    if not (given or export or is_open or agreement):
        raise UsageError(
            "feedback takes FILEs, --export, --open or --agreement", todo="See `noduleflow feedback --help`."
        )
    if sr is not None and (len(given) != 1 or export or is_open or agreement):
        raise UsageError("--sr takes exactly one FILE and nothing else")
    _, workspace = session.open()
    workspace.require()
    if sr is not None:
        from flows.reviewing.feedback import answers_in
        from flows.reviewing.feedback_reports import write_report

        written = write_report(workspace, answers_in(workspace, given[0]), sr)
        session.emit(written, f"answers written to {sr}, {written['identity']} identity")
        return
    from flows.reviewing.feedback import agreement_of, export_labels, open_cases, open_lines, take_in

    record: dict[str, Any] = {}
    lines: list[str] = []
    if given:
        record |= take_in(workspace, given)
        lines += _taken(record)
    if export is not None:
        record |= export_labels(workspace, export)
        lines.append(f"{record['labels']} labels written to {export}")
    if is_open:
        record["open"] = open_cases(workspace)
        lines += open_lines(record["open"])
    if agreement:
        found, words = agreement_of(workspace)
        record |= found
        lines += words
    session.emit(record, "\n".join(lines))
    if record.get("refused"):
        raise typer.Exit(3)


def _taken(record: dict[str, Any]) -> list[str]:
    """What taking in answers did."""
    lines = []
    if len(record["files"]) == 1:
        added = f" and {record['missed']} missed nodules" if record["missed"] else ""
        word = "kept" if record["files"][0]["is_new"] else "were kept before"
        given = f"{record['answers']} answers{added}"
        if not record["answers"] and not record["missed"]:
            given = "read without findings, nothing missed: the word"
        lines.append(f"{given} of one reader {word} in {record['stored']}")
    else:
        new = sum(item["is_new"] for item in record["files"])
        lines.append(
            f"{record['answers']} answers and {record['missed']} missed nodules of {len(record['files'])} files"
        )
        lines.append(f"{new} files are new")
    lines += [f"refused {item['file']}: {item['reason']}" for item in record["refused"]]
    now = record["labels_now"]
    lines.append(
        f"labels: {now['settled']} of {now['answered']} answered nodules are settled, {now['rejected']} of them "
        f"rejected; {now['waiting']} wait for another reader"
    )
    return lines
