"""Which accepted findings return for a blind second reading: chosen by a keyed hash, not by any reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.review.answers.cases import Case

#: (kind, value, hex digits) -> keyed digest, as Pseudonymizer.key
KeyedDigest = Callable[[str, str, int], str]
_DIGITS = 12


def is_chosen(case: Case, share: float, key: KeyedDigest) -> bool:
    """Whether the nodule is one of the share; the same for ever, for any reader, and not to be told without the key."""
    chosen: bool = int(key("second-read", f"{case.study_key} {case.nodule_id}", _DIGITS), 16) < share * 16**_DIGITS
    return chosen


def due_second_reads(cases: Iterable[Case], share: float, key: KeyedDigest) -> list[Case]:
    """Cases that a reader accepted, that are chosen, and that nobody has read blind since."""
    return [
        case
        for case in cases
        if any(item.said == "accept" and item.role == "reader" and not item.second_read for item in case.opinions)
        and not any(item.second_read for item in case.opinions)
        and is_chosen(case, share, key)
    ]


def companions(case_ids: Iterable[str], all_ids: Iterable[str], key: KeyedDigest) -> list[str]:
    """Findings to show in a blind reading: those due and, so that these do not stand out, as many others and one.

    Sorted by the keyed hash: neither the order nor the choice tells which are due.
    """
    due = set(case_ids)
    rank = {name: key("second-read-order", name, _DIGITS) for name in {*all_ids, *due}}
    others = sorted((name for name in rank if name not in due), key=rank.__getitem__)[: len(due) + 1]
    return sorted([*due, *others], key=rank.__getitem__)
