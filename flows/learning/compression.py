"""Export: a version written for other runtimes, each form beside the float32 network on held-out patients."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_contracts.errors import NothingUsableError, UsageError, WeightsError
from data_contracts.export_card import (
    EXACT_FORMS,
    EXPORT_FORMS,
    CalibrationData,
    ExportCard,
    ExportedForm,
    SpeedRatio,
)
from data_contracts.manifest import Split
from data_contracts.model_card import ModelCard
from data_contracts.params import TrainParams
from data_contracts.place import check_place
from data_contracts.records import digest_of
from flows.datasets.labelled import patches_of
from flows.progress import say
from flows.registry import Registry
from flows.versions.evaluation import predictions_of
from flows.versions.tracking import tracking_uri
from flows.workspace import Workspace
from models.compression.forms import PROPERTIES, Exporter, check_forms, runtime_of
from models.compression.package import CARD_FILE, listed_files, read_export
from models.compression.runners import Floats, Run, batch_of, open_form, run_all, torch_run
from models.compression.speed import speed_ratio, take_turns
from models.engines.processor import has_bf16_units, has_int8_units, processor_name
from models.export import takes
from models.predict import Predictor
from pipeline.cohort.dataset import PatchReader
from pipeline.scoring.compare import compare_paired

#: part of what a request is; a change of what is written makes another
EXPORT_VERSION = 1
#: how far a logit of a float32 form may be from torch's, in units of the largest logit or 1
EXACT_TOLERANCE = 1e-3
#: what is written where no form is named; those that cost accuracy are asked for by name
DEFAULT_FORMS = EXACT_FORMS
_CALIBRATION_PATCHES = 256
_SPEED_BATCHES = (1, 16)
_ROUNDS = 15


def version_named(workspace: Workspace, model_name: str, name: str) -> str | None:
    """The number of the version that `name` is the number or alias of, or None."""
    local = tracking_uri(workspace).startswith("sqlite")
    if local and not workspace.mlflow_database.is_file():
        return None
    try:
        return Registry(workspace, model_name).resolve(name)
    except UsageError:
        return None


def export_forms(names: str) -> tuple[str, ...]:
    """Forms from a list with commas; "" is DEFAULT_FORMS, "all" every one. Raises UsageError for an unknown one."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    chosen = set(DEFAULT_FORMS if not wanted else EXPORT_FORMS if wanted == ["all"] else wanted)
    check_forms(tuple(sorted(chosen)))
    return tuple(form for form in EXPORT_FORMS if form in chosen)


def export_version(
    workspace: Workspace,
    model_name: str,
    version: str,
    out: Path,
    *,
    forms: tuple[str, ...] = DEFAULT_FORMS,
    dataset: str = "",
    rounds: int = _ROUNDS,
) -> tuple[ExportCard, bool]:
    """Write a registered version as `export_run` does, after its files were compared with what was registered."""
    registry = Registry(workspace, model_name)
    number = registry.resolve(version)
    run_folder, _ = registry.verified_folder(number)
    name = (model_name, number)
    return export_run(workspace, run_folder, name, out, forms=forms, dataset=dataset, rounds=rounds)


def export_run(
    workspace: Workspace,
    run_folder: Path,
    name: tuple[str, str],
    out: Path,
    *,
    forms: tuple[str, ...] = DEFAULT_FORMS,
    dataset: str = "",
    rounds: int = _ROUNDS,
) -> tuple[ExportCard, bool]:
    """Write `out`, a new folder, whole or not at all; returns its card and whether it was made.

    name: of the model, and its version.
    dataset: on whose held-out patients the forms are compared; that of the training by default.

    Raises
    ------
    UsageError: `out` holds something else or cannot be written, or what a form needs is not installed.
    WeightsDigestError: the version, or an export that is there already, is not what was written.
    WeightsError: a form whose logits are not finite, or, of the float32 forms, not those of the network.
    NothingUsableError: the dataset has no held-out patients.
    """
    check_forms(forms)
    check_place(out)
    card = ModelCard.read(run_folder / "model_card.json")
    dataset_dir = workspace.dataset(dataset or card.dataset_id)
    request = digest_of([EXPORT_VERSION, *name, card.checkpoint_sha256, list(forms), dataset_dir.name])
    if (there := _there_already(out, request)) is not None:
        return there, False
    subject = _Subject(workspace, run_folder, card, dataset_dir, forms)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made = scratch / "made"
        made.mkdir()
        written = tuple(subject.exported(form, made, rounds) for form in forms)
        export = subject.card_of(request, name, written).sealed()
        export.write(made / CARD_FILE)
        read_export(made)
        made.replace(out)
    except OSError as error:
        raise UsageError(f"the export cannot be written ({error.strerror})", where=out.name) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return export, True


def _there_already(out: Path, request: str) -> ExportCard | None:
    """The card of the same export, whole; None where `out` is not there or empty."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if (out / CARD_FILE).is_file():
        card = read_export(out)
        if card.request == request:
            return card
    raise UsageError("the folder holds something else", where=str(out), todo="Name another; nothing is overwritten.")


class _Subject:
    """One network, the patches it is compared on, and what float32 of torch says of them."""

    def __init__(
        self, workspace: Workspace, run_folder: Path, card: ModelCard, dataset_dir: Path, forms: tuple[str, ...]
    ) -> None:
        self.card = card
        self.dataset_id = dataset_dir.name
        self.cut = TrainParams(common_spacing_mm=card.training.get("common_spacing_mm", 0.0))
        reader = PatchReader(dataset_dir)
        reader.verify()
        self.rows = reader.index[reader.index["split"] == Split.TEST.value]
        if self.rows.empty:
            raise NothingUsableError("the dataset has no held-out patients", where=dataset_dir.name)
        self.patches = patches_of(reader, self.rows, self.cut)
        self.calibration: CalibrationData | None = None
        calibration = self._calibration_patches(workspace) if "openvino-int8" in forms else None
        self.exporter = Exporter(Predictor.load(run_folder).network, card, calibration)
        self.reference_run = torch_run(self.exporter.serving)
        self.batch = batch_of(card.input)
        self.reference = run_all(self.reference_run, self.patches, self.batch)
        self.table = self._predictions(self.reference)

    def _calibration_patches(self, workspace: Workspace) -> NDArray[np.generic]:
        """Patches of training patients of the dataset that the network was trained on."""
        reader = PatchReader(workspace.dataset(self.card.dataset_id))
        rows = reader.index[reader.index["split"] == Split.TRAIN.value]
        rows = rows.sample(min(len(rows), _CALIBRATION_PATCHES), random_state=0).sort_index()
        if set(rows["patient_key"]) & set(self.rows["patient_key"]):
            raise UsageError("patients of the training are among those the forms would be compared on")
        names = "\n".join(sorted(rows["patch_id"]))
        self.calibration = CalibrationData(
            dataset_id=self.card.dataset_id,
            n_patches=len(rows),
            n_patients=int(rows["patient_key"].nunique()),
            patch_ids_sha256=hashlib.sha256(names.encode()).hexdigest(),
        )
        return patches_of(reader, rows, self.cut)

    def _predictions(self, outputs: Floats) -> pd.DataFrame:
        return predictions_of(self.rows, outputs[:, 0].astype(np.float64), self.card.calibration)

    def exported(self, form: str, made: Path, rounds: int) -> ExportedForm:
        """Write one form below `made`, read it back, compare and time it."""
        self.exporter.write(form, made / form)
        properties = PROPERTIES.get(form, {})
        outputs = run_all(self._open(form, made, self.batch), self.patches, self.batch)
        difference, tolerance = self._checked(form, outputs)
        image, fused = (
            compare_paired(self._predictions(outputs), self.table, score=score) for score in ("score_image", "score")
        )
        speed = () if form == "safetensors" else tuple(self._speed(form, made, size, rounds) for size in _SPEED_BATCHES)
        files, size_bytes = listed_files(made, form)
        say(f"export {form}: {size_bytes / 1e6:.1f} MB")
        return ExportedForm(
            form=form,  # type: ignore[arg-type]
            runtime=runtime_of(form),
            files=files,
            properties=properties,
            size_bytes=size_bytes,
            speed=speed,
            largest_logit_difference=difference,
            tolerance=tolerance,
            auc=image.auc_a,
            auc_difference=image.difference_bootstrap,
            auc_difference_fused=fused.difference_bootstrap,
            notes=_notes(form),
        )

    def _open(self, form: str, made: Path, batch: int) -> Run:
        return open_form(form, made / form, batch, self.card.input.patch_shape, PROPERTIES.get(form, {}))

    def _checked(self, form: str, outputs: Floats) -> tuple[float, float | None]:
        """(largest difference of a logit to torch's, what it may be)."""
        if not np.isfinite(outputs).all():
            raise WeightsError(f"{form} gives logits that are not finite", todo="It was not written.")
        difference = float(np.abs(outputs[:, 0] - self.reference[:, 0]).max())
        if form not in EXACT_FORMS:
            return difference, None
        tolerance = EXACT_TOLERANCE * max(1.0, float(np.abs(self.reference[:, 0]).max()))
        of_probability = float(np.abs(outputs[:, 1] - self.reference[:, 1]).max())
        if max(difference, of_probability) > tolerance:
            raise WeightsError(
                f"{form} differs from the network by up to {difference:.2g} of a logit, {tolerance:.2g} is allowed",
                todo="It was not written; leave this form out with --format.",
            )
        return difference, tolerance

    def _speed(self, form: str, made: Path, batch: int, rounds: int) -> SpeedRatio:
        patches = np.resize(self.patches, (batch, *self.patches.shape[1:])).astype(np.float32)
        run = self._open(form, made, batch)
        seconds = take_turns({"torch": lambda: self.reference_run(patches), form: lambda: run(patches)}, rounds)
        return speed_ratio(batch, seconds["torch"], seconds[form])

    def card_of(self, request: str, name: tuple[str, str], forms: tuple[ExportedForm, ...]) -> ExportCard:
        """The card, not yet sealed."""
        return ExportCard(
            request=request,
            model_name=name[0],
            version=name[1],
            run_id=self.card.run_id,
            checkpoint_sha256=self.card.checkpoint_sha256,
            backbone=self.card.backbone,
            input=self.card.input,
            takes=takes(self.card.input),
            gives="float32 (N, 2): logit of malignancy, image-only probability",
            calibration=self.card.calibration,
            intended_use=self.card.intended_use,
            warnings=self.card.warnings,
            dataset_id=self.dataset_id,
            n_test=len(self.rows),
            n_test_patients=int(self.rows["patient_key"].nunique()),
            int8_calibration=self.calibration,
            machine=f"{processor_name()}, {_threads()} threads",
            forms=forms,
        )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _notes(form: str) -> tuple[str, ...]:
    if form == "openvino-bf16" and not has_bf16_units():
        return ("the processor it was timed on has no bf16 units and emulates them; use INFERENCE_PRECISION_HINT=f32",)
    if form == "openvino-int8" and not has_int8_units():
        return ("the processor it was timed on has no int8 units",)
    return ()


def export_text(card: ExportCard, out: Path, made: bool) -> str:
    """A line a form, for a person."""
    head = (
        f"version {card.version} of {card.model_name} {'exported to' if made else 'is there already, whole, in'} {out}"
    )
    return "\n".join([head, *(_form_line(form) for form in card.forms)])


def _form_line(form: ExportedForm) -> str:
    figure = form.auc_difference
    cost = f"AUC difference {figure.text()}" if figure.value is not None else f"no AUC difference: {figure.text()}"
    line = (
        f"  {form.form:14} {form.size_bytes / 1e6:7.2f} MB  {cost}, logits within {form.largest_logit_difference:.2g}"
    )
    if form.speed:
        shown = ", ".join(f"{ratio.ratio:.2f}x at batch {ratio.batch}" for ratio in form.speed)
        line += f"; speed to torch float32 {shown}"
    return line + "".join(f"\n    {note}" for note in form.notes)
