"""Explanation: may the maps of a version be shown? The sanity tests on held-out nodules, and the record of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from prefect import flow
from torch import Tensor

from data_contracts.errors import NoduleflowError, NothingUsableError
from data_contracts.explanation import EXPLANATION_FILE, SIGNED_AS, ExplanationReport, SanityTest
from data_contracts.manifest import Split
from data_contracts.model_card import ModelCard
from data_contracts.params import ExplainParams, TrainParams
from flows.datasets.labelled import floats, patches_of
from flows.datasets.retraining import retrained
from flows.engine import step
from flows.progress import say
from flows.registry import Registry
from flows.registry.keys import audit_key, sign_record
from flows.workspace import Workspace
from models.explanation.faithfulness import deletion_insertion
from models.explanation.maps import grad_cam_stage, saliency_maps
from models.explanation.randomised import cascade
from models.networks.inputs import patches_a_pass, to_images
from models.networks.network import NoduleNetwork
from models.predict import Predictor
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring import explanation as tests
from pipeline.scoring.off_centre import displaced, displacements, movable, nodule_masks

#: fewer nodules than this say nothing of a map
_LEAST_NODULES = 8
#: patches of which shuffled weights take their BatchNorm statistics
_CALIBRATION = 32
#: of occlusion, which is slow, only these steps of the cascade
_FEW_STEPS = ("head", "stage 0")


@dataclass(frozen=True, eq=False)
class OffCentre:
    """Held-out nodules moved off the centre of their images.

    images: (n, P, C, *plane). masks: (n, P, *plane). labels: (n,) 0 or 1. patients: (n,) keys.
    """

    images: Tensor
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    patients: NDArray[np.object_]

    @property
    def dims(self) -> int:
        """2 for planes, 3 for volumes."""
        return self.images.ndim - 3


def off_centre(reader: PatchReader, card: ModelCard, params: ExplainParams) -> OffCentre:
    """Labelled held-out nodules of known size, as many of either label as can be had, moved each its own way.

    Raises
    ------
    NothingUsableError: too few that are small enough to be moved, or without a known size.
    """
    rows, spec = reader.index, card.input
    rows = rows[(rows["split"] == Split.TEST.value) & rows["label"].notna() & rows["diameter_mm"].notna()]
    spacing = np.full(len(rows), np.nan if spec.spacing_mm is None else spec.spacing_mm)
    if spec.spacing_mm is None and "pixel_spacing_mm" in rows:
        spacing = floats(rows["pixel_spacing_mm"])
    side = spec.input_size_px
    radius_px = floats(rows["diameter_mm"]) / 2 / spacing * side / spec.patch_shape[-1]
    rows = rows.assign(radius_px=radius_px)[movable(radius_px, side, params.shift)]
    rows = _of_either_label(rows, params)
    if len(rows) < _LEAST_NODULES or rows["patient_key"].nunique() < _LEAST_NODULES // 2:
        raise NothingUsableError(
            f"{len(rows)} held-out nodules can be moved off the centre of their patches, {_LEAST_NODULES} are needed",
            where=reader.card.dataset_id,
            todo="They need a label, a diameter, a pixel spacing, and to be smaller than a third of the patch.",
        )
    cut = TrainParams(common_spacing_mm=card.training.get("common_spacing_mm", 0.0))
    centred = to_images(patches_of(reader, rows, cut), spec)
    dims = centred.ndim - 3
    moves = displacements(len(rows), dims, side, params.shift, seed=params.seed)
    images = torch.from_numpy(displaced(centred.numpy(), moves))
    shape = (images.shape[1], *images.shape[3:])
    return OffCentre(
        images=images,
        masks=nodule_masks(shape, rows["radius_px"].to_numpy(dtype=np.float64), moves),
        labels=rows["label"].to_numpy(dtype=np.int64),
        patients=rows["patient_key"].to_numpy(dtype=object),
    )


def _of_either_label(rows: pd.DataFrame, params: ExplainParams) -> pd.DataFrame:
    parts = [rows[rows["label"] == label] for label in (1, 0)]
    half = params.nodules // 2
    return pd.concat([part.sample(min(len(part), half), random_state=params.seed) for part in parts])


class _Mapper:
    """Maps of a set of images by one method, at one stage, whatever the network."""

    def __init__(self, network: NoduleNetwork, nodules: OffCentre, card: ModelCard, params: ExplainParams) -> None:
        self.images = nodules.images
        self.method = params.method
        self.step = patches_a_pass(card.input)
        self.stage = grad_cam_stage(network, self.images) if self.method == "grad-cam" else None

    def __call__(self, network: NoduleNetwork) -> NDArray[np.float32]:
        parts = self.images.split(self.step)
        return np.concatenate([saliency_maps(network, part, self.method, stage=self.stage) for part in parts])

    def logits(self, network: NoduleNetwork) -> NDArray[np.float64]:
        with torch.inference_mode():
            return np.concatenate([network(part).double().numpy() for part in self.images.split(self.step)])


def sanity_tests(
    workspace: Workspace,
    network: NoduleNetwork,
    card: ModelCard,
    nodules: OffCentre,
    params: ExplainParams,
    weights: str,
) -> tuple[list[SanityTest], int | None]:
    """Every test of the maps of a version, and the stage that Grad-CAM weighs."""
    mapper = _Mapper(network, nodules, card, params)
    dims, patients = nodules.dims, nodules.patients
    maps = mapper(network)
    say(f"explain: {len(maps)} maps by {params.method}")
    found = [
        tests.skill(nodules.labels, mapper.logits(network)),
        tests.localisation(maps, nodules.masks, patients, dims=dims),
    ]
    # The map of the next nodule, which was moved another way, has the same grain and another place.
    orders = (maps, np.roll(maps, 1, axis=0))
    own, other = (deletion_insertion(network, nodules.images, order) for order in orders)
    found.append(tests.faithfulness(own, other, patients))
    randomised = {
        name: mapper(forgetful)
        for name, forgetful in cascade(network, nodules.images[:_CALIBRATION], seed=params.seed)
        if params.method == "grad-cam" or name in _FEW_STEPS
    }
    say("explain: weights randomised")
    found.append(tests.weight_randomisation(maps, randomised, patients, dims=dims, seed=params.seed))
    for name, score, shuffled in (
        ("repeatability", tests.repeatability, False),
        ("label randomisation", tests.label_randomisation, True),
    ):
        if not params.retrain:
            found.append(tests.not_made(name, "no second training, retrain=off"))
            continue
        try:
            again = retrained(workspace, card, params, weights, shuffled=shuffled)
        except NoduleflowError as error:
            found.append(tests.not_made(name, error.line()))
            continue
        found.append(score(maps, mapper(again), patients, dims=dims, seed=params.seed))
    return found, mapper.stage


@step("explain-version")
def explain_version(
    workspace: Workspace, model_name: str, version: str, dataset: str, params: ExplainParams, weights: str
) -> Path:
    """Test the maps of a version, write explanation.json beside its run, log it, and return the file."""
    registry = Registry(workspace, model_name)
    run_folder, card = registry.verified_folder(version)
    dataset_dir = workspace.dataset(dataset or card.dataset_id)
    reader = PatchReader(dataset_dir)
    reader.verify()
    nodules = off_centre(reader, card, params)
    network = Predictor.load(run_folder).network
    with workspace.lock(f"run-{card.run_id}"):
        found, stage = sanity_tests(workspace, network, card, nodules, params, weights)
        reliable, reason = tests.verdict(found)
        report = ExplanationReport(
            run_id=card.run_id,
            checkpoint_sha256=card.checkpoint_sha256,
            dataset_id=dataset_dir.name,
            method=params.method,
            stage=stage,
            n_nodules=len(nodules.labels),
            n_patients=len(set(nodules.patients)),
            reliable=reliable,
            reason=reason,
            tests=tuple(found),
            parameters=params.model_dump(mode="json"),
        )
        file = run_folder / EXPLANATION_FILE
        signed = report.model_copy(update={"mac": sign_record(audit_key(workspace), SIGNED_AS, report)})
        signed.write(file)
        registry.attach(card.run_id, file)
    return file


@flow(name="explain", log_prints=False)
def explain_flow(
    workspace_root: str, version: str, dataset: str, model_name: str, params: ExplainParams, weights: str
) -> dict[str, Any]:
    """Whether the maps of a version may be shown."""
    file = explain_version(Workspace(Path(workspace_root)), model_name, version, dataset, params, weights)
    report = ExplanationReport.read(file)
    return {"version": version, "file": str(file), **report.model_dump(mode="json")}


def explanation_text(record: dict[str, Any]) -> str:
    """The tests as aligned lines, and the verdict below them."""
    marks = {True: "passed", False: "FAILED", None: "not made"}
    lines = [f"maps of version {record['version']} by {record['method']}, {record['n_nodules']} nodules off the centre"]
    for test in record["tests"]:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in test["figures"].items() if value is not None)
        lines.append(f"  {marks[test['passed']]:<8}  {test['name']:<22}  {shown or test['note']}".rstrip())
    end = "maps may be shown" if record["reliable"] else "no reliable explanation"
    return "\n".join([*lines, f"{end}: {record['reason']}"])
