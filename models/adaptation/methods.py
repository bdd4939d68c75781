"""Adaptations by name."""

from __future__ import annotations

from data_contracts.errors import UsageError
from data_contracts.params import TrainParams
from models.adaptation.adversary import DomainAdversarial
from models.adaptation.base import Adaptation
from models.adaptation.conditional import ConditionalAdversarial
from models.adaptation.confusion import MinimumClassConfusion
from models.adaptation.coral import DeepCoral
from models.adaptation.mutual import MutualTraining
from models.networks.network import Head, Trunk

#: methods that are no loss: another set of statistics, another augmentation
WITHOUT_LOSS = ("adabn", "style")
#: methods whose loss looks at representations; that of the others (mcc, mutual) at logits, which every head can change
ALIGNING = ("coral", "dann", "cdan", "cdan-e")


def check_reach(params: TrainParams) -> None:
    """Raises UsageError where the loss of a method in `params.adaptation` reaches nothing that learns."""
    learned = params.unfreeze > 0 or params.head != "linear" or params.pooling != "mean"
    stuck = [] if learned else [method for method in params.adaptation if method in ALIGNING]
    if stuck:
        raise UsageError(
            "nothing can adapt: a linear head on frozen features",
            where=f"adaptation={','.join(stuck)}",
            todo="Set unfreeze=1 or head=mlp.",
        )


def build_adaptation(trunk: Trunk, head: Head, n_patches: int, params: TrainParams) -> Adaptation | None:
    """The loss of the one method in `params.adaptation`; None where there is none, or it is none of a loss.

    trunk, head: what learns, for methods that need a second network like it; they are not changed.
    n_patches: of source and target together; small sets get small discriminators.

    Raises
    ------
    UsageError: several methods at once.
    """
    if len(params.adaptation) > 1:
        raise UsageError("one network learns one adaptation", where=", ".join(params.adaptation))
    if not params.adaptation or params.adaptation[0] in WITHOUT_LOSS:
        return None
    method, gamma = params.adaptation[0], params.adaptation_gamma
    if method == "coral":
        return DeepCoral()
    if method == "dann":
        return DomainAdversarial(head.width, n_patches, gamma)
    if method in ("cdan", "cdan-e"):
        return ConditionalAdversarial(head.width, n_patches, gamma, entropy=method == "cdan-e")
    if method == "mcc":
        return MinimumClassConfusion()
    if method == "mutual":
        frozen = params.batchnorm == "frozen"
        return MutualTraining(trunk, head, gamma, frozen=frozen, statistics_from=params.batchnorm_domain)
    raise UsageError(f"unknown adaptation {method!r}")
