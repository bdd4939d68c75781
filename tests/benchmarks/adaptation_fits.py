"""The networks of one scenario: source-only and adapted ones, narrow and quick, with what they say of each group."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from adaptation_scenarios import PATCH_SHAPE, PIXEL_MM, PIXELS, Cohort, Patches
from numpy.typing import NDArray
from torch import nn

from data_contracts.model_card import InputSpec
from data_contracts.params import TrainParams
from data_contracts.records import atomic_path
from models.adaptation.statistics import adapt_to_patches
from models.fitting.data import FitData, LabelledPatches
from models.fitting.fit import fit_classifier
from models.networks.backbones import Backbone
from models.networks.inputs import to_images
from models.networks.network import NoduleNetwork
from pipeline.scoring.shift.evidence import NetworkOutputs

SOURCE_ONLY = "source-only"
SPEC = InputSpec(kind="2.5d", patch_shape=PATCH_SHAPE, value_unit="HU", spacing_mm=PIXEL_MM, input_size_px=PIXELS)
_WIDTHS = (3, 8, 16, 32)
#: from random numbers on the source alone; then, from that backbone, of source-only and of each adaptation alike
_EPOCHS_FIRST, _EPOCHS = 12, 6


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one network says: logits of each group, representations of source validation and target."""

    validation: NDArray[np.float64]
    validation_vectors: NDArray[np.float32]
    target: NDArray[np.float64]
    target_vectors: NDArray[np.float32]
    test: NDArray[np.float64]

    def without_labels(self) -> NetworkOutputs:
        """What the gate may see."""
        return NetworkOutputs(self.validation, self.target, self.validation_vectors, self.target_vectors)


@dataclass(frozen=True, eq=False)
class Fitted:
    """The networks of a scenario by name, and the labels: of validation for the gate, of the test to judge it."""

    networks: Mapping[str, Outputs]
    validation_labels: NDArray[np.float64]
    test_labels: NDArray[np.float64]

    def write(self, path: Path) -> None:
        """As one npz file."""
        arrays = {"validation_labels": self.validation_labels, "test_labels": self.test_labels}
        for name, outputs in self.networks.items():
            arrays |= {f"{name}/{field.name}": getattr(outputs, field.name) for field in fields(outputs)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> Fitted:
        """What `write` wrote."""
        with np.load(path) as stored:
            names = list(dict.fromkeys(key.split("/")[0] for key in stored.files if "/" in key))
            parts = [field.name for field in fields(Outputs)]
            networks = {name: Outputs(**{part: stored[f"{name}/{part}"] for part in parts}) for name in names}
            return cls(networks, stored["validation_labels"], stored["test_labels"])


def fit_networks(cohort: Cohort, methods: tuple[str, ...], seed: int) -> Fitted:
    """Fit a backbone on the source, and from it source-only and each method for as many epochs.

    Every adapted network judges a site by that site's own BatchNorm statistics, so that a threshold frozen on source
    validation belongs to the network as the source sees it; source-only and style, which know one site, by those of
    the source everywhere. All are statistics of every patch of a site, none a running average: from a few dozen steps
    that differs enough to give any adaptation a gain over source-only that is none. Statistics of the target come from
    its unlabelled group, never from the test.
    """
    first = _backbone(seed)
    fit_classifier(_data(cohort, None), _params(SOURCE_ONLY, seed, _EPOCHS_FIRST), SPEC, first)
    source = fit_classifier(_data(cohort, None), _params(SOURCE_ONLY, seed), SPEC, copy.deepcopy(first)).network
    adapt_to_patches(source, cohort.train.patches, SPEC)
    networks = {SOURCE_ONLY: _outputs(source, source, cohort)}
    for method in methods:
        if method == "adabn":
            at_target = copy.deepcopy(source)
            adapt_to_patches(at_target, cohort.target.patches, SPEC)
            networks[method] = _outputs(source, at_target, cohort)
            continue
        data = _data(cohort, cohort.target.patches)
        at_target = fit_classifier(data, _params(method, seed), SPEC, copy.deepcopy(first)).network
        at_source = copy.deepcopy(at_target)
        adapt_to_patches(at_source, cohort.train.patches, SPEC)
        adapt_to_patches(at_target, (cohort.train if method == "style" else cohort.target).patches, SPEC)
        networks[method] = _outputs(at_source, at_target, cohort)
    return Fitted(networks, cohort.validation.labels, cohort.test.labels)


def _data(cohort: Cohort, target: NDArray[np.int16] | None) -> FitData:
    train, validation = (LabelledPatches(group.patches, group.labels) for group in (cohort.train, cohort.validation))
    return FitData(train, validation, target)


def _params(network: str, seed: int, epochs: int = _EPOCHS) -> TrainParams:
    adapted = network != SOURCE_ONLY
    return TrainParams(
        weights="none",
        input_size_px=PIXELS,
        head="linear",
        unfreeze=len(_WIDTHS) - 1,
        epochs=epochs,
        patience=epochs,
        batch_size=64,
        lr_head=5e-3,
        lr_backbone=5e-3,
        dropout=0.0,
        batchnorm="adaptive",
        batchnorm_domain="target" if adapted else "joint",
        augmentations=2,
        adaptation=(network,) if adapted else (),
        seed=seed,
        threads=1,
    )


def _backbone(seed: int) -> Backbone:
    """Three convolutions with BatchNorm, each halving the plane."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages: list[list[tuple[str, nn.Module]]] = [
            [
                (f"conv{number}", nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)),
                (f"bn{number}", nn.BatchNorm2d(after)),
                (f"relu{number}", nn.ReLU()),
            ]
            for number, (before, after) in enumerate(itertools.pairwise(_WIDTHS))
        ]
        return Backbone("narrow", stages, _WIDTHS[-1]).to(memory_format=torch.channels_last)


def _outputs(at_source: NoduleNetwork, at_target: NoduleNetwork, cohort: Cohort) -> Outputs:
    validation, validation_vectors = _predict(at_source, cohort.validation)
    target, target_vectors = _predict(at_target, cohort.target)
    return Outputs(validation, validation_vectors, target, target_vectors, _predict(at_target, cohort.test)[0])


def _predict(network: NoduleNetwork, group: Patches) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Logits (n,) and representations (n, F)."""
    network.eval()
    with torch.inference_mode():
        vectors = network.head.represent(network.features(to_images(group.patches, SPEC)))
        return network.head.classify(vectors).double().numpy(), vectors.numpy()
