"""What a registered version consists of, and who is champion: the records that the registry signs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_contracts.records import Record


class VersionManifest(Record):
    """manifest.json of a run folder: the sha256 of every file that makes a version.

    files: path below the run folder -> sha256; manifest.json itself is not among them.
    model_files: path below the artifacts of the logged MLflow model -> sha256.
    trained_by: who registered it, as the audit names people.
    """

    run_id: str
    files: dict[str, str]
    model_files: dict[str, str] = {}
    trained_by: str = ""


class GoldenAnswer(Record):
    """What a version said when it was loaded and asked its golden cases.

    n: cases; 0 where none were kept, and the network was only asked for finite numbers.
    difference: largest difference of a logit from the kept one, in units of what is allowed (above 1 is a fault).
    files: sha256 of what was loaded, by path below the run folder.
    """

    n: int
    difference: float
    files: dict[str, str]


class Named(Record):
    """A version as an alias names it."""

    version: str
    run_id: str
    manifest_sha256: str = ""


class ChainEnd(Record):
    """How far an audit was written: its number of lines, the digest of the last one, and its bytes."""

    length: int = Field(default=0, ge=0)
    head: str = ""
    size_bytes: int = Field(default=0, ge=0)


class RegistryState(Record):
    """Who is champion, as the last move left it; signed, as a tag of the registered model in MLflow.

    move: counts promotions, rollbacks and mends; phase: "intent" from before the aliases move until both did.
    champion, previous: as they are after the move. before, previous_before: as they were, for a move that is undone.
    action: "promote", "rollback" or "mend". workspace: which one moved last.
    audits: per workspace that moved, how far its audit was written.
    """

    move: int = Field(0, ge=0)
    phase: Literal["intent", "done"] = "done"
    action: str = ""
    champion: Named | None = None
    previous: Named | None = None
    before: Named | None = None
    previous_before: Named | None = None
    workspace: str = ""
    audits: dict[str, ChainEnd] = {}


class LastMove(Record):
    """The last line of an audit that speaks of a move of the champion.

    move: its number, None for lines of program versions that did not count.
    """

    action: str
    subject: str
    sequence: int
    move: int | None = None
    before: str | None = None


class KnownMoves(Record):
    """What a workspace knows of one model name: the last move of its champion in the audit, and the account then."""

    last_move: LastMove | None = None
    state: RegistryState | None = None


class AuditAnchor(Record):
    """registry/anchor.json: how far this workspace's audit was written, and its last moves; signed.

    models: by model name; the audit is one for all of them.
    """

    end: ChainEnd = ChainEnd()
    models: dict[str, KnownMoves] = {}
    mac: str = ""

    def of(self, model_name: str) -> KnownMoves:
        """What is known of one model name; nothing where it never moved."""
        return self.models.get(model_name, KnownMoves())

    def with_moves(self, model_name: str, known: KnownMoves) -> AuditAnchor:
        """The anchor that knows this of one model name."""
        return self.model_copy(update={"models": {**self.models, model_name: known}})


class SignOff(Record):
    """A person's word for one version, bound to the bytes it had then; signed, as a tag of the version."""

    version: str
    manifest_sha256: str
    name: str = Field(min_length=1, max_length=80)
    comment: str = Field("", max_length=500)
    actor: str
    time_utc: str
    mac: str = ""
