"""What was pulled from a server already, and since which day to ask: small records that a kill cannot tear."""

from __future__ import annotations

from pathlib import Path

from data_contracts.errors import ContractError
from data_contracts.records import Record, digest_of


class KnownSeries(Record):
    """A series whose outcome is stored.

    n_listed: instances that the server counted; listing: digest of their UIDs' keys. accepted: series keys of the
    volumes it gave. policy: digest of the parameters it was refused under, "" where nothing of it was refused.
    """

    n_listed: int
    listing: str
    accepted: tuple[str, ...] = ()
    policy: str = ""


class PulledStudy(Record):
    """The series of one study by the key of their UID."""

    series: dict[str, KnownSeries] = {}


class _Mark(Record):
    day: str


class PullState:
    """Records below `folder`, which belongs to one server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def study(self, study_key: str) -> PulledStudy:
        """What is known of a study; nothing where its record is missing or broken, so that it is pulled again."""
        try:
            return PulledStudy.read(self._folder / f"{study_key}.json")
        except ContractError:
            return PulledStudy()

    def note(self, study_key: str, known: dict[str, KnownSeries]) -> None:
        """Add series to a study."""
        study = PulledStudy(series={**self.study(study_key).series, **known})
        study.write(self._folder / f"{study_key}.json")

    def mark(self, name: str) -> str:
        """The day (YYYYMMDD) before which every study is stored; "" where none is."""
        try:
            return _Mark.read(self._mark_file(name)).day
        except ContractError:
            return ""

    def advance(self, name: str, day: str) -> None:
        """Move the mark forward, never back."""
        if day > self.mark(name):
            _Mark(day=day).write(self._mark_file(name))

    def _mark_file(self, name: str) -> Path:
        return self._folder / f"mark-{digest_of(name)}.json"
