"""What became of each file of a push."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data_contracts.errors import ExchangeError

#: Failure Reason of an instance that the receiver holds already (PS3.7 annex C.4, "Duplicate SOP Instance")
IS_THERE_ALREADY = 0x0111
_REASONS = {
    0x0110: "processing failure",
    0x0117: "invalid SOP Instance UID",
    0x0122: "SOP Class not supported",
    0x0124: "not authorised",
    0xA770: "SOP Class not supported",
    0xC122: "transfer syntax not supported",
}
#: (from, to, meaning) of the C-STORE statuses of PS3.4 table B.2-1
_RANGES = (
    (0xA700, 0xA7FF, "out of resources"),
    (0xA900, 0xA9FF, "the data set does not match its SOP Class"),
    (0xC000, 0xCFFF, "cannot be understood"),
)


@dataclass
class PushResult:
    """Files that the receiver holds now, and the others with the reason. Paths are identity."""

    stored: list[Path] = field(default_factory=list, repr=False)
    failed: dict[Path, str] = field(default_factory=dict, repr=False)

    def enter(self, path: Path, reason: str) -> None:
        """Note the fate of a file: stored where the reason is empty."""
        if reason:
            self.failed[path] = reason
        else:
            self.stored.append(path)

    def reasons(self) -> dict[str, int]:
        """How many files failed for each reason."""
        return dict(sorted(Counter(self.failed.values()).items()))


class PushBrokenError(ExchangeError):
    """The receiver stopped answering. result: the fate of the files up to then; the others were not answered for."""

    def __init__(self, what: str, *, where: str = "", todo: str = "", result: PushResult | None = None) -> None:
        super().__init__(what, where=where, todo=todo)
        self.result = result or PushResult()


def failure_of(status: int) -> str:
    """Words for a failure reason or C-STORE status; "" where the receiver holds the instance already."""
    if status == IS_THERE_ALREADY:
        return ""
    ranges = (meaning for low, high, meaning in _RANGES if low <= status <= high)
    return f"{_REASONS.get(status) or next(ranges, 'refused')} ({status:04X}H)"
