"""What a run knows of itself, for the items of a disclosure: its model, and how that was trained.

Each fact is a few sentences that follow from the run's own records; none of them guesses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_contracts.model_card import Calibration, ModelCard

#: parameters that are told in words, or are nobody's business outside
_NOT_LISTED = ("dataset_sha256", "population", "n_train", "n_validation", "threads", "preset")
#: of environment.json: what it ran on, and what names the code exactly
_PLATFORM = ("python", "system", "machine", "device", "cuda")
_TRACES = ("git_commit", "git_dirty", "code_sha256", "lock_sha256", "lock_differs")
_LONGEST_NAME = 80
_WITHOUT_MARKUP = str.maketrans("[]`|", "()'/")
#: `<6 mm` is no tag
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


@dataclass(frozen=True)
class Fact:
    """A fact; "not_applicable" and "missing" say why there is none."""

    text: str
    status: Literal["answered", "not_applicable", "missing"] = "answered"


def missing(why: str) -> Fact:
    """What the run should hold and does not."""
    return Fact(why, "missing")


def not_applicable(why: str) -> Fact:
    """`why` follows "not applicable, because"."""
    return Fact(f"Not applicable, because {why}.", "not_applicable")


def foreign(text: object) -> str:
    """A name out of a header or a file as it may stand in Markdown, XML and HTML: short, printable, without markup."""
    shown = foreign_sentence(str(text))
    return shown if len(shown) <= _LONGEST_NAME else shown[:_LONGEST_NAME] + "..."


def foreign_sentence(text: str) -> str:
    """The same for a sentence that may quote such a name, whole."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return _TAG.sub("(", shown).translate(_WITHOUT_MARKUP).strip()


def model_facts(card: ModelCard, environment: Mapping[str, Any]) -> dict[str, Fact]:
    """Facts of model and training, by name; `environment` is what environment.json holds."""
    return {**_model(card), **_training(card, environment)}


def _model(card: ModelCard) -> dict[str, Fact]:
    entry = card.input
    shape = " x ".join(str(side) for side in entry.patch_shape)
    grid = "pixels of unknown size" if entry.spacing_mm is None else f"a grid of {entry.spacing_mm:g} mm"
    size = entry.input_size_px
    windows = ", ".join(f"{window.center_hu:g}/{window.width_hu:g}" for window in entry.windows)
    values = f"HU windows (centre/width) {windows} as channels" if entry.value_unit == "HU" else "grey values of 0-255"
    volume = "" if entry.volumetric == "planes" else f", as a volume ({entry.volumetric})"
    fit = card.calibration
    start = "from random numbers, not from pretrained weights"
    if card.pretrained:
        start = f"from the weights {foreign(card.weights)}, sha256 {card.weights_sha256 or 'not recorded'}"
    members = not_applicable("the model is one network")
    if card.members > 1:
        members = Fact(
            f"{card.members} networks of the same kind, each fitted without another part of the patients; the logit is "
            "their mean."
        )
    return {
        "technology": Fact(
            f"Deep learning: a {foreign(card.backbone)} convolutional network on CT patches, joined with the nodule's "
            "diameter by logistic regression."
        ),
        "architecture": Fact(
            f"Backbone {foreign(card.backbone)}, {card.head} head, planes joined by {card.pooling} pooling. Output: "
            "one logit"
            + (f", and {len(card.concepts)} concepts beside it ({', '.join(card.concepts)})." if card.concepts else ".")
        ),
        "input": Fact(
            f"A {entry.kind} patch of {shape} around a nodule on {grid}{volume}, resized to {size} pixels a side; "
            f"{values}, then mean and standard deviation per channel. {entry.views} view(s) are averaged. The other "
            "predictor is the largest diameter in mm, as its logarithm."
        ),
        "initialisation": Fact(f"The backbone started {start}. The head started from random numbers."),
        "ensembling": members,
        "output": Fact(
            "A probability of malignancy between 0 and 1, image + size, image only and size only. Thresholds were "
            f"frozen on validation: {listed(card.thresholds) or 'none could be'}."
        ),
        "formula": Fact(
            f"p = sigmoid({fit.bias:.4g} + {fit.image_weight:.4g} logit + {fit.size_weight:.4g} ln(d / 10 mm)), the "
            f"logit being the network's{_temperature(fit)}. Without a diameter: "
            f"p = sigmoid({fit.image_only_bias:.4g} + {fit.image_only_weight:.4g} logit)."
        ),
        "specification": Fact(
            f"checkpoint.safetensors (sha256 {card.checkpoint_sha256}) and model_card.json hold the whole model; "
            "`noduleflow review` and the MLflow version compute it for new studies."
        ),
        "predictors": Fact(
            "Two predictors, chosen beforehand: the pixels around the nodule and its diameter. No other patient data "
            "enter, and none were selected by looking at results."
        ),
        "predictor_reading": Fact(
            "The pixels need no interpretation. The diameter comes from the annotation, or from the measurement of "
            "`review`, and so from a reader's or a program's outline."
        ),
        "intended_use": Fact(card.intended_use),
    }


def _temperature(fit: Calibration) -> str:
    return "" if fit.temperature == 1.0 else f" and the weights holding the temperature {fit.temperature:.3g}"


def _training(card: ModelCard, environment: Mapping[str, Any]) -> dict[str, Fact]:
    told = card.training
    listed = ", ".join(
        f"{name}={foreign(value)}"
        for name, value in told.items()
        if name not in _NOT_LISTED and value not in ("", None)
    )
    weights = {
        "balanced": "Both classes count alike in the loss (balanced class weights)",
        "size": "Both classes count alike in the loss at each diameter",
        "none": "No method against class imbalance was used",
    }.get(str(told.get("class_weights", "")))
    versions = ", ".join(
        f"{foreign(name.removeprefix('version_')).replace('_', ' ')} {foreign(value)}"
        for name, value in environment.items()
        if name in _PLATFORM or (name.startswith("version_") and name != "version_noduleflow")
    )
    program = environment.get("version_noduleflow", "of unknown version")
    traces = ", ".join(
        f"{name.replace('_', ' ')} {foreign(environment[name])}" for name in _TRACES if environment.get(name)
    )
    return {
        "training": Fact(f"Parameters of the fit: {listed}.")
        if listed
        else missing("the model card has no parameters"),
        "selection": Fact(
            "The epoch with the best figure on patients it did not learn from (validation) was kept, with early "
            "stopping; the held-out patients took no part."
        ),
        "population": Fact(f"Learned from {foreign(told.get('population', 'an unknown number of nodules'))}."),
        "class_imbalance": Fact(
            f"{weights}. Afterwards the probabilities were calibrated on patients that the network did not learn from, "
            "at their own prevalence."
        )
        if weights
        else missing("the model card does not say which class weights were used"),
        "software": Fact(f"noduleflow {foreign(program)} with {versions}.")
        if versions
        else missing("the run has no environment.json"),
        "code": Fact(
            f"The program is noduleflow {foreign(program)}"
            + (f" ({traces})" if traces else "")
            + "; presets, parameters and the digest of the dataset are recorded with the run, so that it can be fitted "
            "again."
        ),
    }


def listed(values: Mapping[str, Any]) -> str:
    """`name 0.61, other 0.7` of a mapping."""
    return ", ".join(
        f"{foreign(name)} {f'{value:.4g}' if isinstance(value, float) else foreign(value)}"
        for name, value in values.items()
    )
