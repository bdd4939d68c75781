"""ExplanationReport: whether the maps of a version may be shown, and why."""

from __future__ import annotations

from data_contracts.records import Record

EXPLANATION_FILE = "explanation.json"
NO_EXPLANATION = "No reliable explanation"
#: purpose of the signature, so that one made for another record does not fit
SIGNED_AS = "explanation"


class SanityTest(Record):
    """One test of the maps.

    passed: None where it could not be made; a map is shown only where every test was made and passed.
    rule: what had to hold. note: why it was not made, or how.
    """

    name: str
    passed: bool | None
    rule: str
    figures: dict[str, float | None] = {}
    note: str = ""


class ExplanationReport(Record):
    """explanation.json of a run. It speaks of the weights `checkpoint_sha256` and of one method alone.

    stage: of the backbone whose feature maps Grad-CAM weighed; None for occlusion.
    n_nodules, n_patients: held-out ones, each moved off the centre of its patch. mac: signature with the key of the
    audit, because the file is younger than the seal of its version.
    """

    run_id: str
    checkpoint_sha256: str
    dataset_id: str
    method: str
    stage: int | None = None
    n_nodules: int
    n_patients: int
    reliable: bool
    reason: str
    tests: tuple[SanityTest, ...]
    parameters: dict[str, object] = {}
    mac: str = ""
