"""Simulated held-out nodules of patients who have several: tables of which the truth is known.

A patient's nodules share part of what makes them malignant, part of their size and part of what the image shows, so
labels and scores of one patient resemble each other (intra-patient correlation of the label about 0.4, as in the 450
patients of the LIDC crops with a label; nodules a patient and the distribution of diameters are theirs, too).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

#: share of patients with 1, 2, ... nodules
_NODULES_A_PATIENT = np.array([221, 125, 46, 29, 11, 11, 2, 1, 3, 1]) / 450


@dataclass(frozen=True)
class World:
    """From which held-out sets are drawn.

    patients: of a set. clustered: False gives each patient one nodule. image: what the image knows of the class.
    slope, bias: of the score's logit against that of the true probability given what the score sees; 1 and 0 are
    calibrated. target_noise: what the score's logit loses on patients of the site "target".
    """

    patients: int = 130
    clustered: bool = True
    image: float = 1.6
    target_noise: float = 0.6
    slope: float = 1.3
    bias: float = -0.3


def held_out_set(world: World, rng: np.random.Generator, patients: int | None = None) -> pd.DataFrame:
    """A PredictionTable with facts for subgroups; `patients` other than the world's for the truth."""
    number = patients or world.patients
    counts = (
        rng.choice(np.arange(1, len(_NODULES_A_PATIENT) + 1), p=_NODULES_A_PATIENT, size=number)
        if world.clustered
        else np.ones(number, dtype=np.int64)
    )
    patient = np.repeat(np.arange(number), counts)
    n = len(patient)

    def shared(share: float) -> np.ndarray:
        """(n,) standard normal, correlated by `share` within a patient."""
        return np.sqrt(share) * rng.normal(size=number)[patient] + np.sqrt(1 - share) * rng.normal(size=n)

    size, image, unseen = shared(0.4), shared(0.4), 2.0 * shared(1.0)
    ln_size = 2.20 + 0.55 * size
    seen = -1.6 + 2.8 * size + world.image * image
    label = (rng.random(n) < expit(seen + unseen)).astype(np.int64)
    # Without what nobody sees the logit is nearer to zero (Zeger 1988: by sqrt(1 + 0.346 var)).
    marginal = seen / np.sqrt(1 + 0.346 * 4)
    size_only = (-1.6 + 2.8 * size) / np.sqrt(1 + 0.346 * (4 + world.image**2))
    scanner = rng.random(number)[patient]
    target = scanner >= 0.55
    score = expit(world.bias + world.slope * (marginal + world.target_noise * target * rng.normal(size=n)))
    return pd.DataFrame(
        {
            "patch_id": np.arange(n).astype(str),
            "nodule_id": np.arange(n).astype(str),
            "patient_key": patient.astype(str),
            "split": "test",
            "fold": 0,
            "site": np.where(target, "target", "source"),
            "label": pd.array(label, dtype="Int8"),
            "score": score,
            "score_image": expit(image),
            "score_size": expit(size_only),
            "diameter_mm": np.exp(ln_size),
            "texture": np.select([rng.random(n) < 0.75], [5.0], 3.0),
            "slice_thickness_mm": np.where(scanner < 0.3, 1.0, np.where(scanner < 0.8, 2.5, 3.0)),
            "sex": np.where(rng.random(number)[patient] < 0.5, "F", "M"),
        }
    )
