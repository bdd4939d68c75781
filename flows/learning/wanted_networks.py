"""Which networks a run fits, and the sites that they need."""

from __future__ import annotations

from data_contracts.errors import UsageError
from data_contracts.params import TrainParams

SOURCE_ONLY = "source-only"
#: J = J_source + beta J_target, with labels of both sites
JOINT = "joint"


def network_names(params: TrainParams) -> list[str]:
    """The networks of a run, in the order in which they are fitted.

    Raises
    ------
    UsageError: an adaptation or a joint training without the sites it needs, or both at once; style twice.
    """
    if params.adaptation and not params.target_site:
        raise UsageError("adaptation needs a target site", where="target_site", todo="Add --set target_site=NAME.")
    if params.adaptation and params.source_site in ("", None, params.target_site):
        # Without a source site every site is one to learn from, and the labels of the target would be read.
        raise UsageError(
            "adaptation needs a source site that is not the target",
            where="source_site",
            todo="Add --set source_site=NAME.",
        )
    if params.style and "style" in params.adaptation:
        raise UsageError(
            "style=true augments every network, so the one called style would be source-only again",
            where=f"style=true, adaptation={','.join(params.adaptation)}",
            todo="Choose one: style=false, or an adaptation without style.",
        )
    if params.target_label_weight == 0:
        return [SOURCE_ONLY, *params.adaptation]
    if not params.target_site or not params.source_site or params.source_site == params.target_site:
        raise UsageError(
            "joint training needs two sites",
            where="target_label_weight",
            todo="Add --set source_site=NAME --set target_site=OTHER.",
        )
    if params.adaptation:
        raise UsageError(
            "joint training learns the target's labels, an adaptation does without them",
            where=f"target_label_weight={params.target_label_weight:g}, adaptation={','.join(params.adaptation)}",
            todo="Choose one: target_label_weight=0 or adaptation=none.",
        )
    return [SOURCE_ONLY, JOINT]
