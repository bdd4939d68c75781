"""What was pulled from a server already, and since which day to ask: small records that a kill cannot tear.

Days are dates of studies, which are identity: they are sealed (AES-256-GCM, a key derived from the secret).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

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
    """The series of one study by the key of their UID.

    whole: by modality, how many instances the server counted in the study when all of it was stored.
    n_seen, seen_s: how many it counted at the last look, and when (seconds since 1970) it first counted so many.
    """

    series: dict[str, KnownSeries] = {}
    whole: dict[str, int] = {}
    n_seen: int = -1
    seen_s: float = 0.0


class _Mark(Record):
    """sealed: day and floor. day: as an earlier program wrote it, in the open."""

    day: str = ""
    sealed: str = ""
    listed_s: float = 0.0


@dataclass(frozen=True)
class Mark:
    """Since when to ask.

    day: the day (YYYYMMDD) before which every study is stored, "" where none is. floor: the day before which nothing
    was ever asked for, "" where all was. listed_s: when all since the floor was last listed (seconds since 1970).
    """

    day: str = ""
    floor: str = ""
    listed_s: float = 0.0


_NONCE_BYTES = 12


class PullState:
    """Records below `folder`, which belongs to one server; `secret` seals what is identity."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._folder = folder
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"noduleflow pull mark 1").derive(secret)
        self._cipher = AESGCM(derived)

    def study(self, study_key: str) -> PulledStudy:
        """What is known of a study; nothing where its record is missing or broken, so that it is pulled again."""
        try:
            return PulledStudy.read(self._folder / f"{study_key}.json")
        except ContractError:
            return PulledStudy()

    def note(self, study_key: str, known: dict[str, KnownSeries]) -> None:
        """Add series to a study."""
        study = self.study(study_key)
        self._keep(study_key, study.model_copy(update={"series": {**study.series, **known}}))

    def note_whole(self, study_key: str, modality: str, n_instances: int) -> None:
        """All of a study is stored, as the server counts it now."""
        study = self.study(study_key)
        if study.whole.get(modality) != n_instances:
            self._keep(study_key, study.model_copy(update={"whole": {**study.whole, modality: n_instances}}))

    def quiet_s(self, study_key: str, n_instances: int, now_s: float) -> float:
        """For how long a study has had so many instances, as far as we looked; remembers this look."""
        study = self.study(study_key)
        if study.n_seen == n_instances and study.seen_s <= now_s:
            return now_s - study.seen_s
        self._keep(study_key, study.model_copy(update={"n_seen": n_instances, "seen_s": now_s}))
        return 0.0

    def _keep(self, study_key: str, study: PulledStudy) -> None:
        study.write(self._folder / f"{study_key}.json")

    def mark(self, name: str) -> Mark:
        """Since when to ask; nothing where the record is missing, broken, or of another secret."""
        try:
            record = _Mark.read(self._mark_file(name))
        except ContractError:
            return Mark()
        if record.day:  # of an earlier program
            mark = Mark(day=record.day, floor=f"{int(record.day[:4]) - 1}0101")
            self._keep_mark(name, mark)
            return mark
        try:
            sealed = bytes.fromhex(record.sealed)
            text = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            return Mark()
        day, _, floor = text.decode().partition(" ")
        return Mark(day, floor, record.listed_s)

    def begin(self, name: str, since: str) -> None:
        """Studies since a day are asked for, "" for all: the floor goes down to it, and never up."""
        mark = self.mark(name)
        if mark == Mark() and since:
            self._keep_mark(name, Mark(floor=since))
        elif since < mark.floor:
            self._keep_mark(name, replace(mark, floor=since))

    def advance(self, name: str, day: str) -> None:
        """Move the mark forward, never back."""
        mark = self.mark(name)
        if day > mark.day:
            self._keep_mark(name, replace(mark, day=day))

    def note_listed(self, name: str, now_s: float) -> None:
        """All since the floor was listed."""
        self._keep_mark(name, replace(self.mark(name), listed_s=now_s))

    def _keep_mark(self, name: str, mark: Mark) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, f"{mark.day} {mark.floor}".encode(), name.encode())
        _Mark(sealed=sealed.hex(), listed_s=mark.listed_s).write(self._mark_file(name))

    def _mark_file(self, name: str) -> Path:
        return self._folder / f"mark-{digest_of(name)}.json"
