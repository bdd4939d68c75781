"""What is known of a network without a label of the target: its outputs on both sites, and figures from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from pipeline.scoring.delong import Z_95, delong, delong_paired
from pipeline.scoring.fusion import fit_platt
from pipeline.scoring.shift.certainty import (
    agreement_at_prevalence,
    batch_nuclear_norm,
    infomax,
    soft_neighbourhood_density,
)
from pipeline.scoring.shift.domains import (
    deep_embedded_validation,
    domain_probabilities,
    importance_weights,
    proxy_a_distance,
)
from pipeline.scoring.shift.prevalence import bbse_prevalence, fit_mixture

Floats = NDArray[np.float64]

#: fewer nodules of a site than this, and no domain classifier is fitted
_FEWEST_FOR_DOMAINS = 10


@dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """Outputs of one network on labelled validation nodules of the source and unlabelled nodules of the target.

    Attributes
    ----------
    source_logits, target_logits: (n,) and (m,).
    source_vectors, target_vectors: representations (n, F) and (m, F), None where they were not kept.
    """

    source_logits: ArrayLike
    target_logits: ArrayLike
    source_vectors: ArrayLike | None = None
    target_vectors: ArrayLike | None = None


def shift_figures(labels: Floats, network: NetworkOutputs, source_only: NetworkOutputs) -> dict[str, float]:
    """Every label-free figure of a network.

    labels: (n,) 0 or 1 of the source's validation nodules, both present. The network is calibrated on them first
    (Platt), so that the scale of its logits does not pass for certainty.

    source_auc, source_auc_drop (below source-only) with its paired DeLong interval source_auc_drop_low .. _high;
    infomax, bnm, and at hand of representations snd, proxy_a_distance and dev (risk as log loss, lower is better);
    predicted_prevalence, source_prevalence, bbse_prevalence, mixture_prevalence and mixture_excess; agreement with
    source-only at the prevalence that the network itself finds; n_source, n_target.
    """
    source, target = (np.asarray(values, dtype=np.float64) for values in (network.source_logits, network.target_logits))
    bias, slope = fit_platt(source, labels)
    at_source, at_target = expit(bias + slope * source), expit(bias + slope * target)
    paired = delong_paired(labels, np.asarray(source_only.source_logits, dtype=np.float64), source)
    half = Z_95 * float(np.sqrt(paired.variance))
    mixture = fit_mixture(labels, source, target)
    figures = {
        "source_auc": float(delong(labels, source)[0][0]),
        "source_auc_drop": paired.difference,
        "source_auc_drop_low": paired.difference - half,
        "source_auc_drop_high": paired.difference + half,
        "infomax": infomax(at_target),
        "bnm": batch_nuclear_norm(at_target),
        "predicted_prevalence": float(at_target.mean()),
        "source_prevalence": float(labels.mean()),
        "bbse_prevalence": bbse_prevalence(labels, at_source, at_target),
        "mixture_prevalence": mixture.prevalence,
        "mixture_excess": mixture.excess,
        "agreement": agreement_at_prevalence(source_only.target_logits, target, float(at_target.mean())),
        "n_source": float(labels.size),
        "n_target": float(target.size),
    }
    if network.source_vectors is not None and network.target_vectors is not None:
        figures |= _from_vectors(labels, at_source, network.source_vectors, network.target_vectors)
    return figures


def _from_vectors(
    labels: Floats, at_source: Floats, source_vectors: ArrayLike, target_vectors: ArrayLike
) -> dict[str, float]:
    source, target = (np.asarray(rows, dtype=np.float64) for rows in (source_vectors, target_vectors))
    if min(len(source), len(target)) < _FEWEST_FOR_DOMAINS:
        return {}
    from_source, from_target = domain_probabilities(source, target)
    p = np.clip(at_source, 1e-6, 1 - 1e-6)
    losses = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    return {
        "snd": soft_neighbourhood_density(target),
        "proxy_a_distance": proxy_a_distance(from_source, from_target),
        "dev": deep_embedded_validation(importance_weights(from_source), losses),
    }
