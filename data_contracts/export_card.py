"""ExportCard: what stands in a folder that a network was exported to, and what each form of it costs."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self, get_args

from data_contracts.evaluation import Figure
from data_contracts.model_card import Calibration, InputSpec
from data_contracts.records import Record

#: safetensors: this program's own checkpoint with its card; pt2: torch.export; the rest for other runtimes
ExportForm = Literal["safetensors", "pt2", "onnx", "openvino-fp32", "openvino-bf16", "openvino-int8"]
EXPORT_FORMS: tuple[str, ...] = get_args(ExportForm)
#: forms in float32, whose logits must be those of the network
EXACT_FORMS = ("safetensors", "pt2", "onnx", "openvino-fp32")


class SpeedRatio(Record):
    """How many times as fast as the float32 network of torch, both measured in turns in one run.

    batch: patches a pass. ratio: median over `rounds` of both times' ratio in a round; low, high: 95 % bootstrap.
    """

    batch: int
    ratio: float
    low: float
    high: float
    rounds: int


class ExportedForm(Record):
    """One form of the network.

    files: path below the folder -> sha256.
    properties: what the runtime has to be told (OpenVINO's compile_model).
    speed: empty for safetensors, which is the network of torch itself.
    largest_logit_difference: to the float32 network of torch, over the test patches; tolerance: what it may be, None
        where the form was asked for with its cost.
    auc, auc_difference: image only, on labelled test nodules; the difference (form minus float32) by paired patient
        bootstrap. auc_difference_fused: of image + size.
    notes: what a user of this form should know.
    """

    form: ExportForm
    runtime: str
    files: dict[str, str]
    properties: dict[str, str] = {}
    size_bytes: int
    speed: tuple[SpeedRatio, ...] = ()
    largest_logit_difference: float
    tolerance: float | None
    auc: float | None
    auc_difference: Figure
    auc_difference_fused: Figure
    notes: tuple[str, ...] = ()


class CalibrationData(Record):
    """Whose patches set the int8 scales: training patients, never those of validation or test."""

    dataset_id: str
    split: Literal["train"] = "train"
    n_patches: int
    n_patients: int
    patch_ids_sha256: str


class ExportCard(Record):
    """card.json of an export.

    request: digest of what was asked for; the same request on the same folder does nothing.
    version: of the registered model; checkpoint_sha256: of the weights that were exported.
    dataset_id, n_test, n_test_patients: on whose held-out patients the forms were compared.
    takes, gives: the tensor that every form but safetensors takes and gives.
    digest: sha256 over everything else in this card, so that a changed figure is noticed like a changed file.
    """

    request: str
    model_name: str
    version: str
    run_id: str
    checkpoint_sha256: str
    backbone: str
    input: InputSpec
    takes: str
    gives: str
    calibration: Calibration
    intended_use: str
    warnings: tuple[str, ...]
    dataset_id: str
    n_test: int
    n_test_patients: int
    int8_calibration: CalibrationData | None
    machine: str
    forms: tuple[ExportedForm, ...]
    digest: str = ""

    def sealed(self) -> Self:
        """The card with its digest."""
        return self.model_copy(update={"digest": self.content_digest()})

    def content_digest(self) -> str:
        """sha256 over the card without `digest`."""
        body = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).hexdigest()
