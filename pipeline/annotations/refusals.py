"""Refused marks, worded alike: where the mark stands in its file, and why it was not taken."""

from __future__ import annotations

from collections.abc import Sequence

from data_contracts.nodules import NoduleAnnotation
from data_contracts.reasons import ReasonCode
from data_contracts.series import Rejection, SeriesRecord
from pipeline.deidentify.pseudonyms import Pseudonymizer


class Refusals:
    """Collects refusals. file_names: how file 1, 2, ... is called in them."""

    def __init__(self, pseudonymizer: Pseudonymizer, file_names: Sequence[str]) -> None:
        self._pseudonymizer = pseudonymizer
        self._names = dict(enumerate(file_names, start=1))
        self.items: list[Rejection] = []

    def add(self, mark: NoduleAnnotation, reason: ReasonCode, found: Sequence[SeriesRecord], detail: str = "") -> None:
        self.items.append(
            Rejection(
                path=self._names.get(mark.file_number, f"annotation {mark.source}"),
                series_key=found[0].series_key if found else "",
                reason=reason,
                detail=": ".join(part for part in (mark.place, detail) if part),
                sop_instance_uids=self._pseudonymizer.uids(uid for uid in (mark.sop_instance_uid,) if uid),
            )
        )
