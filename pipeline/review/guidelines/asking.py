"""What a refusal asks for, by name, and how a person states what no picture tells."""

from __future__ import annotations

from collections.abc import Sequence

#: Inputs that the list of findings never answers: nobody said that it is complete.
COUNT = "nodule count"
SUBSOLID_COUNT = "subsolid count"

_HOW = {
    COUNT: "state nodule_count, the nodules that a person counted in both lungs; the findings of a report are no count",
    SUBSOLID_COUNT: "state subsolid_count, the ground-glass and part-solid ones among the counted nodules",
}


def needs(guideline: str, missing: Sequence[str]) -> str:
    """The reason of a refusal for want of inputs: "Brock needs: age, nodule count (state nodule_count, ...)"."""
    how = [words for name, words in _HOW.items() if any(each.startswith(name) for each in missing)]
    return f"{guideline} needs: {', '.join(missing)}" + (f" ({'; '.join(how)})" if how else "")
