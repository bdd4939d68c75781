"""First weights for the recipe beyond ImageNet's: pictures without labels, or phantoms; never a held-out patient.

Both start from the ImageNet weights and see, of a fold, only what its training patients gave: their crops, or phantoms
with the shapes and ratings of their nodules. Reserved patients are in neither. Rates and batches are the
recipe's where it has them, the rest is that of the paper; docs/figures.md says what was changed after a first run.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from phantom_crops import PER_PATIENT, phantom_crops
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from data_contracts.params import LabelParams, SplitParams, TrainParams
from data_contracts.records import atomic_path
from flows.datasets.backbone import initial_backbone
from flows.datasets.labelled import labelled_patches, learned_concepts, patches_of
from flows.learning.crossval import fold_rows
from flows.presets import train_params
from models.augmentation.augment import augment, draw_variant
from models.fitting.data import FitData
from models.fitting.fit import fit_classifier
from models.networks.backbones import Backbone
from models.networks.inputs import as_batch, input_spec, to_images
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.importers import import_npz
from pipeline.cohort.lidc_database import LidcDatabase
from pipeline.cohort.phantom_plan import builtin_reserved_patients

#: values of `weights` in a row of the ablation that stand for what `first_weights` makes
SELF_SUPERVISED, PHANTOM = "self-supervised", "phantom"
SSL_EPOCHS, SSL_BATCH, SSL_WIDTH = 10, 64, 512
#: matrix of each phantom cohort: 0.85, 0.71 and 0.61 mm a pixel
MATRICES = (400, 480, 560)
#: share of a fold's nodules that a cohort is sure to find, although a LIDC patient's go to one phantom patient
_USABLE = 0.6


def first_weights(kind: str, dataset: Path, params: TrainParams, imagenet: Path, fold: int, n_folds: int) -> Path:
    """The file of weights for one fold beside the dataset's folder, made where it is not there."""
    path = dataset.parent.parent / f"{kind}-{dataset.name}-{fold}-of-{n_folds}.safetensors"
    if not path.exists():
        reader = PatchReader(dataset)
        rows = fold_rows(reader.index, fold, n_folds, 0)["train"]
        params = params.model_copy(update={"weights": str(imagenet)})
        if kind == SELF_SUPERVISED:
            backbone = simsiam(reader, rows, params)
        else:
            backbone = on_phantoms(rows, imagenet, path.with_suffix(""))
        with atomic_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in backbone.state_dict().items()}, temporary)
    return path


def simsiam(reader: PatchReader, rows: pd.DataFrame, params: TrainParams) -> Backbone:
    """The backbone after SimSiam (Chen and He 2021, arXiv 2011.10566) on the pictures of `rows`, no label looked at.

    The views are those of the recipe's augmentation, without more noise than it has: the recipe keeps the BatchNorm
    statistics that its first weights come with, so they must be of pictures like its own.
    """
    spec = input_spec(reader.card, params)
    patches = patches_of(reader, rows, params)
    backbone, _ = initial_backbone(params.backbone, params.weights, "", params.seed, patches[:32], spec)
    images = to_images(patches, spec)
    torch.manual_seed(params.seed)
    width, narrow = SSL_WIDTH, SSL_WIDTH // 4
    project = nn.Sequential(
        *(nn.Linear(backbone.n_features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
        *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False)),
    )
    predict = nn.Sequential(
        nn.Linear(width, narrow, bias=False), nn.BatchNorm1d(narrow), nn.ReLU(), nn.Linear(narrow, width)
    )
    heads = [*project.parameters(), *predict.parameters()]
    groups = [{"params": backbone.parameters(), "lr": params.lr_backbone}, {"params": heads, "lr": params.lr_head}]
    optimizer = torch.optim.AdamW(groups, weight_decay=params.weight_decay)
    steps = len(images) // SSL_BATCH * SSL_EPOCHS
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    backbone.train()
    for epoch in range(SSL_EPOCHS):
        draws = [draw_variant(len(images), 1, seed=params.seed, variant=2 * epoch + view) for view in (1, 2)]
        losses, spread = [], 0.0
        for index in torch.randperm(len(images)).split(SSL_BATCH)[: len(images) // SSL_BATCH]:
            views = [as_batch(augment(images[index], drawn.rows(index), params.noise)) for drawn in draws]
            one, other = (project(backbone(view)) for view in views)
            loss = -(_alike(predict(one), other) + _alike(predict(other), one)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            # 1 / sqrt(width) where the projections fill the sphere, 0 where they have collapsed to one point
            spread = float(functional.normalize(one.detach(), dim=1).std(dim=0).mean()) * math.sqrt(width)
        print(f"self-supervised: epoch {epoch}, loss {np.mean(losses):.3f}, spread {spread:.2f}", flush=True)
    return backbone.eval()


def _alike(predicted: Tensor, projected: Tensor) -> Tensor:
    return functional.cosine_similarity(predicted, projected.detach(), dim=1).mean()


def on_phantoms(rows: pd.DataFrame, imagenet: Path, folder: Path) -> Backbone:
    """The backbone of `lidc-crops-mobilenet` after a fit on phantoms with the nodules of the patients in `rows`."""
    with (imagenet.parents[1] / "lidc-nodules" / "nodules.csv").open() as file:
        patients = [row["patient_id"] for row in csv.DictReader(file)]
    allowed = {patients[int(patch)] for patch in rows["patch_id"]} - set(builtin_reserved_patients())
    database = LidcDatabase()
    count = sum(4 <= nodule.diameter_mm <= 30 for patient in allowed for nodule in database.nodules(patient))
    excluded = tuple(patient for patient in database.patients() if patient not in allowed)
    crops = [
        crop
        for seed, matrix in enumerate(MATRICES)
        for crop in phantom_crops(seed, matrix, int(_USABLE * count) // PER_PATIENT, excluded)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "crops.npz", image=np.stack([image for image, _ in crops]))
    pd.DataFrame([facts for _, facts in crops]).to_csv(folder / "nodules.csv", index=False)
    card = import_npz(
        folder / "crops.npz",
        name="phantom-crops",
        table=folder / "nodules.csv",
        datasets_root=folder,
        split=SplitParams(),
        label=LabelParams(min_readers=3),
    )
    print(f"phantom: {len(crops)} crops of {count} nodules", flush=True)
    reader = PatchReader(folder / card.dataset_id)
    params = train_params("lidc-crops-mobilenet", {"threads": 1, "weights": str(imagenet)})
    train, spec = labelled_patches(reader, reader.index, params), input_spec(card, params)
    nobody = train.rows(np.zeros(len(train), dtype=bool))
    backbone, _ = initial_backbone(params.backbone, params.weights, "", params.seed, train.patches[:32], spec)
    data = FitData(train, nobody, concepts=learned_concepts(reader.index, params))
    return fit_classifier(data, params, spec, backbone, state_dir=folder / "state").network.backbone
