"""Late fusion of a network's logit with the nodule's diameter, calibration, and the size-only baseline.

    score        sigmoid(bias + image_weight * logit + size_weight * ln(d / 10 mm))
    score_image  sigmoid(image_only_bias + image_only_weight * logit)       Platt scaling, slope above 0
    score_size   sigmoid(size_only_bias + size_only_weight * ln(d / 10 mm))

Size alone is a strong classifier and can be learned from every training diameter; a validation set of
twenty to thirty nodules can easily mislead about what the image adds. So the fusion starts at the
size-only coefficients and at an image weight of zero, and moves away only as far as validation pays for it.

On a cohort where the label is mostly size the best log loss leans on the size far more than the order of nodules of one
size can bear. `balance` gives a share of the fit to a sample in which size says nothing (`size_balance`): the image
gets more of the score, the AUC over all sizes hardly changes, and the score is calibrated again on the cohort itself.

Calibration on validation is by temperature, p = sigmoid(logit / T) (Guo et al. 2017), with or without an offset:

    logistic     sigmoid(bias + logit / T): the temperature and the prevalence, each with a weak prior
    temperature  sigmoid(logit / T) alone: image only has no offset, and the fused logit is divided by a T of its own

The offset is the default because a network that is fitted with balanced classes speaks of a cohort that is half
malignant: its logits are shifted, which no temperature mends. With a shift of 0.75 on 80 validation nodules the log
loss on others is 0.47 with the offset and 0.51 without; where there is no shift the offset costs 0.005.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from data_contracts.model_card import Calibration
from pipeline.scoring.penalised_logistic import fit_towards
from pipeline.scoring.size_balance import size_balance

Floats = NDArray[np.float64]

#: diameter at which ln(d / d0) is zero, as in the Brock model (McWilliams 2013)
REFERENCE_DIAMETER_MM = 10.0

#: Precisions (1 / variance) of the priors, for coefficients of standardised columns.
_SIZE_ONLY_PRECISION = 0.1
_FUSION_BIAS_PRECISION = 1.0
_FUSION_IMAGE_PRECISION = 1.0
_FUSION_SIZE_PRECISION = 1.0
_PLATT_BIAS_PRECISION = 0.25
_PLATT_LOG_SLOPE_PRECISION = 1.0

#: bounds of ln(slope) of the image-only calibration: the slope stays above zero, so the order of nodules is kept
_LOG_SLOPE_BOUNDS = (-5.0, 4.0)


def log_size(diameter_mm: ArrayLike) -> Floats:
    """ln(d / 10 mm); NaN where the diameter is unknown or not above zero."""
    diameters = np.asarray(diameter_mm, dtype=np.float64)
    return np.log(np.where(diameters > 0, diameters, np.nan) / REFERENCE_DIAMETER_MM)


def fit_calibration(
    logit_val: ArrayLike,
    diameter_val: ArrayLike,
    label_val: ArrayLike,
    diameter_train: ArrayLike,
    label_train: ArrayLike,
    *,
    balance: float = 0.0,
    method: Literal["logistic", "temperature"] = "logistic",
) -> Calibration:
    """Coefficients of the three scores.

    Parameters
    ----------
    logit_val, diameter_val, label_val: (n,) validation nodules the network was not fitted on; diameters in mm.
    diameter_train, label_train: (m,) training nodules; only their diameters are used, because the
        network's logits on them are overfitted.
    balance: 0..1, share of the fusion's fit in which both classes count alike at each diameter.
    method: "logistic" or "temperature", as above.

    Labels are 0 or 1; rows with NaN (NA) labels are left out, and so are unknown diameters where size is needed.
    """
    logits, labels = np.asarray(logit_val, dtype=np.float64), _labels(label_val)
    sizes = log_size(diameter_val)
    all_labels = np.concatenate([labels, _labels(label_train)])
    size_only = _fit_size_only(np.concatenate([sizes, log_size(diameter_train)]), all_labels)
    usable = np.isfinite(logits) & np.isfinite(labels)
    if method == "temperature":
        image_only = (0.0, 1 / fit_temperature(logits[usable], labels[usable]))
    else:
        image_only = fit_platt(logits[usable], labels[usable])
    fused, temperature = usable & np.isfinite(sizes), 1.0
    if fused.any():
        fusion = _fit_fusion(logits[fused], sizes[fused], labels[fused], size_only, balance)
        if method == "temperature":
            joined = fusion[0] + fusion[1] * logits[fused] + fusion[2] * sizes[fused]
            temperature = fit_temperature(joined, labels[fused])
            fusion = (fusion[0] / temperature, fusion[1] / temperature, fusion[2] / temperature)
    else:
        fusion = (image_only[0], image_only[1], 0.0)
    return Calibration(
        temperature=temperature,
        image_only_temperature=1 / image_only[1],
        bias=fusion[0],
        image_weight=fusion[1],
        size_weight=fusion[2],
        image_only_bias=image_only[0],
        image_only_weight=image_only[1],
        size_only_bias=size_only[0],
        size_only_weight=size_only[1],
    )


def apply_calibration(calibration: Calibration, logit: ArrayLike, diameter_mm: ArrayLike) -> dict[str, Floats]:
    """Columns score, score_image, score_size (n,) of a prediction table.

    Where the diameter is unknown, score is score_image and score_size is NaN.
    """
    logits, sizes = np.asarray(logit, dtype=np.float64), log_size(diameter_mm)
    image = expit(calibration.image_only_bias + calibration.image_only_weight * logits)
    fused = expit(calibration.bias + calibration.image_weight * logits + calibration.size_weight * sizes)
    return {
        "score": np.where(np.isfinite(sizes), fused, image),
        "score_image": image,
        "score_size": expit(calibration.size_only_bias + calibration.size_only_weight * sizes),
    }


def fit_platt(logits: Floats, labels: Floats) -> tuple[float, float]:
    """Bias and slope of sigmoid(bias + slope * logit): Platt scaling with priors bias ~ N(0, 2^2), ln slope ~ N(0, 1).

    The slope cannot become negative, so a network is never turned round; without rows it is the identity.
    """

    def objective(parameters: Floats) -> tuple[float, Floats]:
        bias, slope = parameters[0], np.exp(parameters[1])
        linear = bias + slope * logits
        residual = expit(linear) - labels
        penalty = (_PLATT_BIAS_PRECISION * bias**2 + _PLATT_LOG_SLOPE_PRECISION * parameters[1] ** 2) / 2
        gradient = np.array(
            [
                residual.sum() + _PLATT_BIAS_PRECISION * bias,
                slope * (residual @ logits) + _PLATT_LOG_SLOPE_PRECISION * parameters[1],
            ]
        )
        return float(np.sum(np.logaddexp(0.0, linear) - labels * linear) + penalty), gradient

    found = minimize(objective, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(None, None), _LOG_SLOPE_BOUNDS])
    return float(found.x[0]), float(np.exp(found.x[1]))


def fit_temperature(logits: Floats, labels: Floats) -> float:
    """T above 0 of sigmoid(logit / T) that makes the labels likeliest, with the prior ln T ~ N(0, 1).

    Scikit-learn's `CalibratedClassifierCV(method="temperature")` has no prior, and runs away to 0 where few validation
    nodules happen to be separated; on some hundred nodules both agree. Without rows T is 1.
    """

    def loss(log_slope: float) -> float:
        linear = logits * np.exp(log_slope)
        return float(np.sum(np.logaddexp(0.0, linear) - labels * linear) + log_slope**2 / 2)

    found = minimize_scalar(loss, bounds=_LOG_SLOPE_BOUNDS, method="bounded", options={"xatol": 1e-9})
    return float(np.exp(-found.x))


def _labels(labels: ArrayLike) -> Floats:
    """Labels as floats, NaN where NA."""
    return np.asarray(pd.array(np.asarray(labels), dtype="Float64").to_numpy(dtype=np.float64, na_value=np.nan))


def _fit_size_only(sizes: Floats, labels: Floats) -> tuple[float, float]:
    """Bias and weight of ln(d / 10 mm); without any known diameter the weight is 0 and the bias the prevalence's."""
    labelled = np.isfinite(labels)
    # Half a case of each class keeps the prevalence off 0 and 1.
    prevalence = (float(labels[labelled].sum()) + 0.5) / (int(labelled.sum()) + 1)
    known = labelled & np.isfinite(sizes)
    if not known.any():
        return float(logit(prevalence)), 0.0
    center, spread = float(sizes[known].mean()), float(sizes[known].std()) or 1.0
    design = np.column_stack([np.ones(known.sum()), (sizes[known] - center) / spread])
    bias, weight = fit_towards(
        design,
        labels[known],
        anchor=np.array([float(logit(prevalence)), 0.0]),
        precision=np.full(2, _SIZE_ONLY_PRECISION),
    )
    return float(bias - weight * center / spread), float(weight / spread)


def _fit_fusion(
    logits: Floats, sizes: Floats, labels: Floats, size_only: tuple[float, float], balance: float
) -> tuple[float, float, float]:
    """Bias, image weight (not below 0) and size weight, pulled towards the size-only coefficients.

    The size weight may shrink to zero and not turn round: twenty validation nodules in which the small ones
    happen to be malignant are no evidence against every training diameter.
    """
    image_center, image_spread = float(logits.mean()), float(logits.std()) or 1.0
    size_center, size_spread = float(sizes.mean()), float(sizes.std()) or 1.0
    design = np.column_stack(
        [np.ones(labels.size), (logits - image_center) / image_spread, (sizes - size_center) / size_spread]
    )
    # The same size-only model, written for the standardised columns.
    anchor = np.array([size_only[0] + size_only[1] * size_center, 0.0, size_only[1] * size_spread])
    bias, image, size = fit_towards(
        design,
        labels,
        anchor=anchor,
        precision=np.array([_FUSION_BIAS_PRECISION, _FUSION_IMAGE_PRECISION, _FUSION_SIZE_PRECISION]),
        lower=np.array([-np.inf, 0.0, min(anchor[2], 0.0)]),
        weights=None
        if balance == 0
        else (1 - balance) + balance * size_balance(labels, np.exp(sizes), np.ones(labels.size)),
    )
    if balance > 0:  # the order of nodules is settled, its probabilities are those of the cohort
        shift, slope = fit_platt(design @ np.array([bias, image, size]), labels)
        bias, image, size = shift + slope * bias, slope * image, slope * size
    image_weight, size_weight = float(image / image_spread), float(size / size_spread)
    return float(bias) - image_weight * image_center - size_weight * size_center, image_weight, size_weight
