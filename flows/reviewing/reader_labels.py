"""Answers as rows of nodules.parquet: one a nodule a reader, source "reader", with what became of it.

The rows are made anew out of all answers every time; the rows of annotations are left as they are, so that nothing of
what was annotated is lost, and answers that are taken back leave no trace.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from data_contracts.errors import ContractError
from data_contracts.nodules import NODULE_TABLE
from flows.reviewing.answers import answers_of, feedback_params, keyed
from flows.workspace import Workspace
from pipeline.annotations.merge import merge_tables
from pipeline.cohort.settled import SETTLED, is_answer
from pipeline.review.answers.labels import label_rows

PART = "reader-answers.parquet"
#: a reader's name need not be anyone's name, but may be; only plain words stand in a table
_PLAIN = re.compile(r"[\w.-]{1,40}", re.ASCII)


def refresh_labels(workspace: Workspace) -> dict[str, Any]:
    """Bring nodules.parquet to what the answers say now, and count them.

    Returns
    -------
    answered: nodules that readers answered. settled, rejected (of the settled), waiting (for another reader or an
    adjudicator): of them. changed: the table is another one than before.
    """
    part = workspace.annotation_parts / PART
    if not part.is_file() and not any(workspace.reviews_root.glob("*/answers/*.json")):
        return {"answered": 0, "settled": 0, "rejected": 0, "waiting": 0, "changed": False}
    with workspace.lock("annotations"):
        table = _rows(workspace)
        changed = not table.equals(_read(workspace, part.name))
        if table.empty:
            part.unlink(missing_ok=True)
        elif changed:
            NODULE_TABLE.write(part, table)
        changed = _lay_in(workspace, table) or changed
    return {**_counts(table), "changed": changed}


def _rows(workspace: Workspace) -> pd.DataFrame:
    secret = keyed(workspace)

    def name(reader_key: str) -> str:
        plain = reader_key if _PLAIN.fullmatch(reader_key) else secret.key("reader", reader_key, 6)
        return f"answer-{plain}"

    return label_rows(answers_of(workspace).cases(feedback_params()), name)


def _read(workspace: Workspace, name: str) -> pd.DataFrame:
    try:
        return NODULE_TABLE.read(workspace.annotation_parts / name)
    except ContractError:
        return NODULE_TABLE.empty()


def _lay_in(workspace: Workspace, table: pd.DataFrame) -> bool:
    """Put the rows into nodules.parquet in the place of the earlier ones; whether that changed it."""
    with workspace.lock("tables"):
        before = workspace.nodules()
        after = NODULE_TABLE.validate(merge_tables([before[~is_answer(before)], table]))
        if after.equals(NODULE_TABLE.validate(merge_tables([before]))):
            return False
        NODULE_TABLE.write(workspace.nodule_table, after)
    return True


def _counts(table: pd.DataFrame) -> dict[str, int]:
    if table.empty:
        return {"answered": 0, "settled": 0, "rejected": 0, "waiting": 0}
    settled = table[table["standing"].isin(SETTLED)]
    every, done = set(table["nodule_id"]), set(settled["nodule_id"])
    rejected = set(settled.loc[settled["answer"] == "reject", "nodule_id"])
    return {"answered": len(every), "settled": len(done), "rejected": len(rejected), "waiting": len(every - done)}
