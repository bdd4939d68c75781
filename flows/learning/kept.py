"""The network that a run keeps where its gate joins several, or aligns logits on the target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data_contracts.evaluation import AdaptationDecision
from data_contracts.params import TrainParams
from data_contracts.records import atomic_path
from flows.datasets.training_cohort import TrainingCohort
from flows.learning.network_fits import plan_of, restored, write_facts
from models.checkpoint import save_network
from models.networks.inputs import input_spec
from models.networks.joined import join_networks

#: its folder beside those of the fitted networks
KEPT = "kept"


def joinable(cohort: TrainingCohort, params: TrainParams) -> bool:
    """Whether the mean of this run's networks is a network: linear heads, planes joined by their mean."""
    by_planes = input_spec(cohort.reader.card, params).volumetric == "planes"
    return params.head == "linear" and params.pooling == "mean" and by_planes


def keep_network(networks: Path, cohort: TrainingCohort, params: TrainParams, decision: AdaptationDecision) -> str:
    """Name of the folder below `networks` that holds what the gate decided for, made first where none was fitted so.

    Its logits of source validation are those of its members as they see the source: there nothing is aligned.
    """
    if len(decision.members) < 2 and (decision.scale, decision.offset) == (1.0, 0.0):
        return decision.chosen
    folder = networks / KEPT
    if (folder / "logits.parquet").exists():
        return KEPT
    members = [restored(networks / name, cohort, params) for name in decision.members]
    network = members[0] if len(members) == 1 else join_networks(members, plan_of(cohort, params), decision.weights)
    with torch.no_grad():
        network.head.logit.weight.mul_(decision.scale)
        network.head.logit.bias.mul_(decision.scale).add_(decision.offset)
    folder.mkdir(exist_ok=True)
    write_facts(folder, {"sha256": save_network(folder, network)})
    tables = [pd.read_parquet(networks / name / "logits.parquet") for name in decision.members]
    logits = tables[0].assign(
        logit=np.average([table["logit"].to_numpy() for table in tables], axis=0, weights=decision.weights)
    )
    away = logits["part"] != "validation"
    logits.loc[away, "logit"] = decision.scale * logits.loc[away, "logit"] + decision.offset
    with atomic_path(folder / "logits.parquet") as temporary:  # last: with it the network is there
        logits.to_parquet(temporary, index=False)
    return KEPT
