"""Reproduction: a version that was trained once more, beside what it was registered with, figure by figure."""

from __future__ import annotations

from data_contracts.records import Record

#: how far a figure may be from the registered one
TOLERANCE = 1e-6


class ChangedFact(Record):
    """What is not as it was when the version was trained: a commit, a package, the number of threads.

    effect: what it may do to the figures, and what brings it back.
    """

    what: str
    then: str
    now: str
    effect: str


class ReproducedFigure(Record):
    """One figure of the registered version and of the repetition; None where there is none, which then must agree.

    difference: absolute; None where either is None.
    """

    name: str
    then: float | None
    now: float | None
    difference: float | None
    same: bool


class Reproduction(Record):
    """What `train --reproduce` found; nothing of it is registered.

    changed: what was not as then, named before the repetition began.
    missing: figures that the registered version has and the repetition has not; new: the other way round, which is no
        fault of the version: a later program computes more.
    same: every registered figure within `tolerance`. same_checkpoint: the weights, byte for byte.
    """

    model_name: str
    version: str
    run_id: str
    changed: tuple[ChangedFact, ...]
    tolerance: float = TOLERANCE
    figures: tuple[ReproducedFigure, ...]
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    same: bool
    same_checkpoint: bool
    checkpoint_sha256_then: str
    checkpoint_sha256_now: str
