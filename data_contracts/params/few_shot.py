"""Parameters of few-shot episodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data_contracts.params.base import Params


class FewShotParams(Params):
    """Episodes of k labelled nodules a class on frozen features.

    shots: every k.
    episodes: random draws of the support for each k.
    l2_normalise: features are brought to length 1 first.
    probe_c: inverse strength of the L2 penalty of the linear probe.
    nodules: from which nodules support and query are drawn: "all" labelled ones, or those of "test" patients only, as
        weights that were trained on this dataset's own training patients ask for.
    """

    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 5, 10, 20), min_length=1)
    episodes: int = Field(200, ge=1)
    l2_normalise: bool = True
    probe_c: float = Field(1.0, gt=0)
    nodules: Literal["all", "test"] = "all"
    seed: int = Field(0, ge=0)
