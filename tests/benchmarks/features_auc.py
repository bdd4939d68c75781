"""What bfloat16 and int8 cost on real nodules: cosines and AUC of MobileNetV2's ImageNet features of LIDC crops."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from paired import REPOSITORY, Row, value_row

from data_contracts.model_card import InputSpec
from data_contracts.params import EvaluateParams, LabelParams, SplitParams, TrainParams

DATA = REPOSITORY.parent / "shared" / "data"
WEIGHTS = DATA / "weights" / "mobilenet_v2_imagenet_features.pt"
SIZE_PX = 64
_FOLDS = 5
#: engines that are held against float32 of torch
VARIANTS = {"bf16": ("torch", "bf16"), "int8": ("int8", "auto"), "openvino fp32": ("openvino", "fp32")}


def lidc_dataset(root: Path) -> Path:
    """The crops as a dataset below `root`."""
    from pipeline.cohort.importers import import_npz

    crops = DATA / "lidc-nodules" / "crops_3x64x64_uint8.npz"
    card = import_npz(
        crops,
        name="lidc-crops",
        table=crops.with_name("nodules.csv"),
        datasets_root=root,
        split=SplitParams(),
        label=LabelParams(min_readers=3),
    )
    return root / card.dataset_id


def labelled_features(dataset: Path) -> tuple[pd.DataFrame, dict[str, NDArray[np.float32]]]:
    """Rows of the labelled nodules, and their pooled features by each variant."""
    from models.engines.open_engine import open_engine
    from models.engines.plan import plan_engine
    from models.engines.torch_engine import TorchEngine
    from models.networks.backbones import build_backbone
    from models.networks.inputs import as_batch, input_spec, to_images
    from models.predict import extract_features
    from models.weights.zoo import load_weights
    from pipeline.cohort.dataset import PatchReader

    reader = PatchReader(dataset)
    rows = reader.index[reader.index["label"].notna()].reset_index(drop=True)
    patches = np.asarray(reader.load(rows["patch_id"]))
    spec: InputSpec = input_spec(reader.card, TrainParams(input_size_px=SIZE_PX))
    backbone = build_backbone("mobilenet_v2", seed=0)
    load_weights(backbone, WEIGHTS)
    sample = as_batch(to_images(patches[:64], spec))
    made = {}
    for name, wish in {"fp32": ("torch", "fp32"), **VARIANTS}.items():
        # Not through the check of the first batch, which would put float32 in the place of what is measured here.
        engine = TorchEngine(backbone, wish[1]) if wish[0] == "torch" else None
        engine = engine or open_engine(backbone, plan_engine("cpu", *wish), sample).engine
        features = extract_features(engine, lambda part: patches[part], len(patches), spec)
        made[name] = features.mean(axis=1)
    return rows, made


def probe_scores(rows: pd.DataFrame, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Out-of-fold scores of a linear probe; a patient is in one fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = rows["label"].to_numpy(dtype=int)
    scores = np.zeros(len(rows))
    for train, test in GroupKFold(_FOLDS).split(features, labels, rows["patient_key"]):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=2000))
        probe.fit(features[train], labels[train])
        scores[test] = probe.decision_function(features[test])
    return scores


def cost_interval(
    rows: pd.DataFrame, exact: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[float, float, float]:
    """AUC of `exact` minus AUC of `other`, and its 95 % interval over resampled patients."""
    from sklearn.metrics import roc_auc_score

    labels = rows["label"].to_numpy(dtype=int)
    members = [np.asarray(index) for index in rows.groupby("patient_key").indices.values()]
    random = np.random.default_rng(0)
    differences = []
    for _ in range(EvaluateParams().bootstrap):
        drawn = np.concatenate([members[n] for n in random.integers(0, len(members), len(members))])
        both = (roc_auc_score(labels[drawn], scores[drawn]) for scores in (exact, other))
        differences.append(float(np.subtract(*both)))
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(roc_auc_score(labels, exact) - roc_auc_score(labels, other)), float(low), float(high)


def numerical_rows() -> list[Row]:
    """Cosines to float32 as they are and about the mean image, and the AUC each variant costs."""
    from sklearn.metrics import roc_auc_score

    from models.engines.open_engine import smallest_cosine

    with tempfile.TemporaryDirectory(prefix="bench-features-") as scratch:
        rows, made = labelled_features(lidc_dataset(Path(scratch)))
    what = f"MobileNetV2 ImageNet, LIDC crops at {SIZE_PX} px"
    exact = made.pop("fp32")
    scores = probe_scores(rows, exact)
    count = len(rows)
    auc = roc_auc_score(rows["label"].to_numpy(dtype=int), scores)
    table: list[Row] = [value_row(f"{what}: AUC of a linear probe, fp32", auc, "", n=count)]
    mean = exact.mean(axis=0)
    for name, features in made.items():
        bar: dict[str, Any] = {} if name == "int8" else {"at_least": 0.998}
        table.append(
            value_row(f"{what}: smallest cosine, {name}", smallest_cosine(features, exact), "", n=count, **bar)
        )
        centred = smallest_cosine(features - mean, exact - mean)
        table.append(value_row(f"{what}: smallest cosine about the mean, {name}", centred, "", n=count))
        cost, low, high = cost_interval(rows, scores, probe_scores(rows, features))
        bar = {} if name == "int8" else {"at_most": 0.005}
        table.append(value_row(f"{what}: AUC that {name} costs", cost, "", n=count, interval=(low, high), **bar))
    return table


def fine_tuning_rows() -> list[Row]:
    """AUC on one held-out fold after fine-tuning in bfloat16 minus that in float32."""
    import torch

    from flows.learning.crossval import fold_predictions
    from flows.presets import train_params
    from pipeline.scoring.compare import compare_paired

    settings = {"weights": str(WEIGHTS), "unfreeze": 3, "epochs": 6, "augmentations": 2, "views": 1}
    tables = {}
    with tempfile.TemporaryDirectory(prefix="bench-features-") as scratch:
        dataset = lidc_dataset(Path(scratch))
        for precision in ("fp32", "bf16"):
            params = train_params("lidc-crops-mobilenet", {**settings, "precision": precision})
            params = params.model_copy(update={"threads": torch.get_num_threads()})
            tables[precision] = fold_predictions(dataset, params, 0, n_folds=_FOLDS)
    paired = compare_paired(tables["bf16"], tables["fp32"], score="score_image").difference
    work = "MobileNetV2, LIDC crops, three stages learn, 6 epochs, one held-out fold: AUC in bf16 minus fp32"
    return [value_row(work, paired.value, "", n=paired.n, interval=(paired.low, paired.high), at_least=-0.02)]
