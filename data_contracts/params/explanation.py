"""Parameters of maps and of the tests they must pass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_contracts.params.base import Params


class ExplainParams(Params):
    """Testing whether the maps of a version may be shown.

    method: grad-cam, or occlusion (covers one place after the other; slow).
    nodules: how many held-out nodules the tests look at, at most.
    shift: how far a nodule is moved off the centre of its patch, as a share of the patch's side.
    retrain: train the version twice more, from another seed and with shuffled labels; without it two of the tests
        cannot be made and no map is shown.
    epochs: of these trainings; 0 takes as many as the version had.
    seed: of the choice of nodules, of their places and of the shuffled weights and labels.
    """

    method: Literal["grad-cam", "occlusion"] = "grad-cam"
    nodules: int = Field(60, ge=8)
    shift: float = Field(0.25, gt=0.1, lt=0.4)
    retrain: bool = True
    epochs: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
