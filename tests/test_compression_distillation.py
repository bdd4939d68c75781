"""A student learns from its teacher's logits on the images it sees itself; a teacher who knows the test is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from compression_cohort import FolderRegistry, discs, write_run
from torch.nn import functional

from data_contracts.errors import LeakError, UsageError
from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from flows.datasets.labelled import labelled_patches
from flows.datasets.training_cohort import TrainingCohort
from flows.learning import teaching
from flows.registry.evidence import FITTED_FILE
from flows.workspace import Workspace
from models.augmentation.augment import augment, draw_variant
from models.compression.distillation import distillation_loss
from models.compression.teacher import Teacher, TeacherInputs
from models.fitting.data import FitData, LabelledPatches
from models.fitting.fit import fit_classifier
from models.fitting.frozen_prefix import PatchInputs
from models.networks.backbones import build_backbone
from models.networks.inputs import to_images
from models.networks.network import NetworkPlan, build_network
from models.predict import predict_logits
from pipeline.cohort.dataset import PatchReader

PARAMS = TrainParams(
    backbone="small_cnn", weights="none", head="linear", unfreeze=4, input_size_px=32, epochs=2, batchnorm="adaptive",
    dropout=0.0, batch_size=16, lr_head=1e-2, lr_backbone=1e-3, threads=1,
)  # fmt: skip


def spec_of(size: int = 32) -> InputSpec:
    return InputSpec(kind="2d", patch_shape=(3, 40, 40), value_unit="grey", spacing_mm=None, input_size_px=size)


def teacher_of(size: int = 32, seed: int = 5) -> Teacher:
    network = build_network(build_backbone("small_cnn", seed=seed), NetworkPlan("linear"), seed=seed)
    network.head.logit.weight.data *= 20
    return Teacher(network, spec_of(size))


def crops(n: int = 48) -> LabelledPatches:
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    patches = random.normal(100 + 40 * labels[:, None, None, None], 30, (n, 3, 40, 40)).clip(0, 255)
    return LabelledPatches(patches.astype(np.uint8), labels.astype(np.float64))


def test_the_loss_is_that_of_hinton_and_its_gradient_becomes_the_difference_of_logits_at_high_temperature():
    logit = torch.tensor([0.5, -2.0, 3.0], requires_grad=True)
    teacher, weight = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, 2.0, 1.0])
    p, q = torch.sigmoid(teacher / 3), torch.sigmoid(logit / 3)
    by_hand = 9 * (weight * -(p * q.log() + (1 - p) * (1 - q).log())).sum() / 4
    torch.testing.assert_close(distillation_loss(logit, teacher, 3.0, weight, 4.0), by_hand)
    distillation_loss(logit, teacher, 1e3, weight, 1.0).backward()
    torch.testing.assert_close(logit.grad, weight * (logit.detach() - teacher) / 4, rtol=1e-3, atol=1e-2)
    plain = functional.binary_cross_entropy_with_logits(logit, torch.sigmoid(teacher))
    torch.testing.assert_close(distillation_loss(logit, teacher, 1.0, torch.ones(3), 3.0), plain)


def test_the_teacher_sees_the_augmentation_that_its_student_sees_at_its_own_size():
    data, teacher = crops(6), teacher_of(size=48)
    inputs = TeacherInputs(teacher, data.patches, PARAMS, frozen=False).epoch(3, torch.Generator())
    draws = draw_variant(6, 1, seed=PARAMS.seed, variant=4)
    with torch.no_grad():
        expected = teacher.network(augment(to_images(data.patches, teacher.spec), draws))
    torch.testing.assert_close(inputs.batch(torch.arange(6)), expected, rtol=1e-4, atol=1e-4)


def test_the_teacher_sees_the_style_that_its_student_sees():
    data, teacher = crops(6), teacher_of()
    index = torch.arange(6)
    logits = {}
    for style in (False, True):
        params = PARAMS.model_copy(update={"style": style})
        taught = TeacherInputs(teacher, data.patches, params, frozen=False).epoch(3, torch.Generator())
        logits[style] = taught.batch(index)
    seen = PatchInputs(data.patches, spec_of(), None, pooled=False, variants=4, seed=PARAMS.seed, styled=True)
    with torch.no_grad():
        expected = teacher.network(seen.epoch(3, torch.Generator()).batch(index).unflatten(0, (6, 1)))
    torch.testing.assert_close(logits[True], expected, rtol=1e-4, atol=1e-4)
    assert float((logits[True] - logits[False]).abs().max()) > 1e-3


def test_with_frozen_stages_the_teacher_sees_the_variant_that_was_drawn_for_its_student():
    data, teacher = crops(6), teacher_of()
    params = PARAMS.model_copy(update={"augmentations": 3})
    taught = TeacherInputs(teacher, data.patches, params, frozen=True).epoch(0, torch.Generator().manual_seed(9))
    variant = torch.randint(0, 3, (6,), generator=torch.Generator().manual_seed(9))
    images = to_images(data.patches, teacher.spec)
    for row, number in enumerate(variant.tolist()):
        draws = draw_variant(6, 1, seed=PARAMS.seed, variant=number)
        seen = augment(images, draws)[row : row + 1] if number else images[row : row + 1]
        with torch.no_grad():
            expected = teacher.network(seen)
        torch.testing.assert_close(taught.batch(torch.tensor([row])), expected, rtol=1e-3, atol=1e-3)


def fitted(share: float, teacher: Teacher | None, epochs: int = 12) -> np.ndarray:
    params = PARAMS.model_copy(update={"distillation_weight": share, "epochs": epochs, "patience": epochs})
    data = FitData(crops(), crops(0), teacher=teacher)
    result = fit_classifier(data, params, spec_of(), build_backbone("small_cnn", seed=1))
    return predict_logits(result.network, crops().patches, spec_of())


def test_a_student_that_learns_from_its_teacher_alone_comes_to_its_logits_and_not_to_the_labels():
    teacher = teacher_of()
    wanted = predict_logits(teacher.network, crops().patches, teacher.spec)
    apart = {share: np.abs(fitted(share, teacher) - wanted).mean() for share in (0.0, 1.0)}
    assert apart[1.0] < 0.6 * apart[0.0]


def test_without_a_share_the_teacher_changes_nothing():
    np.testing.assert_array_equal(fitted(0.0, teacher_of(), epochs=2), fitted(0.0, None, epochs=2))


def test_the_teacher_is_not_changed_and_another_teacher_makes_another_fit():
    teacher = teacher_of()
    before = teacher.digest()
    fitted(0.5, teacher, epochs=1)
    assert teacher.digest() == before
    assert FitData(crops(), crops(), teacher=teacher).digest() != FitData(crops(), crops()).digest()
    assert teacher.digest() != teacher_of(seed=6).digest()


def test_a_teacher_of_another_kind_of_patch_and_one_beside_an_adaptation_are_refused():
    teacher = teacher_of()
    with pytest.raises(UsageError, match="patches of another kind"):
        teacher.check(spec_of().model_copy(update={"patch_shape": (3, 32, 32)}), PARAMS)
    with pytest.raises(UsageError, match="not both"):
        teacher.check(spec_of(), PARAMS.model_copy(update={"adaptation": ("coral",)}))
    with pytest.raises(UsageError, match="not at hand"):
        fit_classifier(
            FitData(crops(), crops()),
            PARAMS.model_copy(update={"teacher": "3"}),
            spec_of(),
            build_backbone("small_cnn", seed=1),
        )


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path / "workspace").create()
    card = discs(workspace, tmp_path)
    write_run(workspace, card)
    monkeypatch.setattr(teaching, "Registry", FolderRegistry)
    return workspace, TrainingCohort(workspace.dataset("discs"), PARAMS)


def test_a_version_or_a_run_becomes_the_run_that_teaches(cohort):
    workspace, student = cohort
    for name in ("1", "champion", "run"):
        params = teaching.with_teacher(workspace, "m", PARAMS.model_copy(update={"teacher": name}), student)
        assert params.teacher == "run"
    teacher = teaching.load_teacher(workspace.runs_root, params)
    assert teacher is not None
    reader = PatchReader(workspace.dataset("discs"))
    data = labelled_patches(reader, student.train(), PARAMS)
    assert np.isfinite(predict_logits(teacher.network, data.patches, teacher.spec)).all()
    assert teaching.with_teacher(workspace, "m", PARAMS, student) == PARAMS


def test_a_teacher_that_knows_the_students_test_patients_is_refused(cohort):
    workspace, student = cohort
    student.index["split"] = student.index["split"].replace({"train": "test", "test": "train"})
    with pytest.raises(LeakError, match="knows"):
        teaching.with_teacher(workspace, "m", PARAMS.model_copy(update={"teacher": "1"}), student)


def test_whom_a_teacher_knows_is_read_from_its_run_also_where_its_dataset_was_made_again_or_is_gone(cohort):
    workspace, student = cohort
    params = PARAMS.model_copy(update={"teacher": "1"})
    index = student.index
    by_split = {
        split: sorted(set(index.loc[index["split"] == split, "patient_key"])) for split in index["split"].unique()
    }
    listed = workspace.runs_root / "run" / FITTED_FILE
    listed.write_text(json.dumps({"patients": by_split["train"] + by_split["validation"]}))
    assert teaching.with_teacher(workspace, "m", params, student).teacher == "run"
    listed.write_text(json.dumps({"patients": by_split["test"][:1]}))
    with pytest.raises(LeakError, match="knows 1 patients"):
        teaching.with_teacher(workspace, "m", params, student)
    (workspace.dataset("discs") / "dataset.json").rename(workspace.root / "gone.json")
    listed.write_text(json.dumps({"patients": by_split["train"]}))
    assert teaching.with_teacher(workspace, "m", params, student).teacher == "run"
    listed.write_text(json.dumps({"patients": by_split["validation"][:2]}))  # perhaps learned: nobody can tell
    with pytest.raises(LeakError, match="knows 2 patients"):
        teaching.with_teacher(workspace, "m", params, student)
    listed.unlink()
    with pytest.raises(LeakError, match="nobody knows any more whom"):
        teaching.with_teacher(workspace, "m", params, student)


def test_a_teacher_on_another_grid_is_refused(cohort):
    workspace, student = cohort
    params = PARAMS.model_copy(update={"teacher": "1", "common_spacing_mm": 0.6})
    with pytest.raises(UsageError, match="another grid"):
        teaching.with_teacher(workspace, "m", params, student)
