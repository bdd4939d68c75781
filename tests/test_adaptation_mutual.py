"""Two networks learn from each other on the target, from labels only where both are sure of the same class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from narrow_fit import SPEC, fresh_backbone, narrow_data, params
from torch import nn

from models.adaptation.base import DomainOutputs
from models.adaptation.mutual import MutualTraining, agreed_labels, kl_from
from models.fitting.fit import fit_classifier
from models.fitting.learner import Learner
from models.fitting.optimizer import parameter_groups
from models.networks.network import NetworkPlan, build_network


def logit_of(*probabilities: float) -> torch.Tensor:
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64))


def learner(**changes) -> Learner:
    chosen = params(adaptation="mutual", **changes)
    network = build_network(fresh_backbone(narrow_data()), NetworkPlan("mlp"), seed=chosen.seed)
    return Learner(network, chosen, n_planes=1, n_patches=80)


def outputs(of: Learner, inputs: torch.Tensor) -> DomainOutputs:
    representation = of.head.represent(of.features(inputs))
    return DomainOutputs(inputs, representation, of.head.classify(representation))


def test_the_divergence_is_that_of_the_two_bernoulli_distributions():
    teacher, other = (0.2, 0.9, 0.5), (0.4, 0.5, 0.5)
    expected = np.mean(
        [p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in zip(teacher, other, strict=True)]
    )
    assert float(kl_from(logit_of(*teacher), logit_of(*other))) == pytest.approx(expected, rel=1e-9)
    assert float(kl_from(logit_of(*other), logit_of(*other))) == 0


def test_the_teacher_learns_nothing_from_its_pupil():
    teacher, pupil = (logit_of(0.2).requires_grad_() for _ in range(2))
    kl_from(teacher, pupil * 2).backward()
    assert teacher.grad is None and float(pupil.grad.abs()) > 0


def test_the_gate_opens_only_where_both_are_sure_of_the_same_class():
    one, other = logit_of(0.95, 0.95, 0.97, 0.02, 0.5), logit_of(0.99, 0.89, 0.01, 0.03, 0.5)
    labels, gate = agreed_labels(one, other)
    assert gate.tolist() == [1, 0, 0, 1, 0]
    assert labels[gate == 1].tolist() == [1, 0]


def test_the_peer_has_the_same_stages_another_head_and_no_tensor_of_the_first():
    built = learner(unfreeze=2)
    peer = built.adaptation
    assert isinstance(peer, MutualTraining)
    for name, value in built.trunk.state_dict().items():
        assert torch.equal(peer.trunk.state_dict()[name], value)
    assert not torch.equal(peer.head.logit.weight, built.head.logit.weight)
    own = {value.data_ptr() for part in (built.trunk, built.head) for value in part.parameters()}
    assert own.isdisjoint(value.data_ptr() for value in peer.parameters())


def test_the_stages_of_the_peer_learn_as_slowly_as_those_of_the_first():
    built = learner(unfreeze=2, lr_backbone=1e-5, lr_decay=0.5)
    rates = {id(member): group["lr"] for group in parameter_groups(built, params()) for member in group["params"]}
    stages = list(built.trunk.stages.parameters()), list(built.adaptation.trunk.stages.parameters())
    assert [rates[id(one)] for one in stages[0]] == [rates[id(other)] for other in stages[1]]
    assert {rates[id(one)] for one in stages[1]} != {rates[id(built.adaptation.head.logit.weight)]}


def test_at_the_start_the_peer_learns_the_source_and_the_first_is_left_alone():
    built = learner(unfreeze=1).eval()
    images = torch.randn(8, 16, 4, 4)
    source, target = outputs(built, images), outputs(built, images + 1)
    labels = torch.tensor([0.0, 1.0] * 4)
    loss, figures = built.adaptation(source, target, labels, 0.0)
    expected = nn.functional.binary_cross_entropy_with_logits(
        built.adaptation.head(built.adaptation.trunk(images)), labels
    )
    assert loss.item() == pytest.approx(expected.item()) and set(figures) == {"agreed_share", "peer_divergence"}
    loss.backward()
    assert all(
        value.grad is None or not value.grad.any() for value in (*built.trunk.parameters(), *built.head.parameters())
    )
    assert built.adaptation.head.logit.weight.grad.any()
    later, _ = built.adaptation(source, outputs(built, images + 1), labels, 0.5)
    later.backward()
    assert built.head.logit.weight.grad.any()


def test_rare_labels_of_the_source_count_as_they_do_for_the_first():
    built = learner(unfreeze=0).eval()
    features = torch.randn(4, 32)
    labels, weights = torch.tensor([1.0, 0, 0, 0]), torch.tensor([3.0, 1, 1, 1])
    plain = outputs(built, features)
    source = DomainOutputs(plain.inputs, plain.representation, plain.logit, weights)
    loss, _ = built.adaptation(source, plain, labels, 0.0)
    each = nn.functional.binary_cross_entropy_with_logits(built.adaptation.head(features), labels, reduction="none")
    assert loss.item() == pytest.approx((each * weights).sum().item() / 6)


@pytest.mark.parametrize(("policy", "moves"), [("frozen", False), ("adaptive", True)])
def test_the_peers_statistics_follow_the_policy_of_the_fit(policy, moves):
    built = learner(unfreeze=1, batchnorm=policy).train()
    layer = built.adaptation.trunk.stages[0][1]
    before = layer.running_mean.clone()
    source, target = outputs(built, torch.randn(8, 16, 4, 4)), outputs(built, torch.randn(8, 16, 4, 4))
    built.adaptation(source, target, torch.zeros(8), 0.5)
    assert torch.equal(before, layer.running_mean) != moves


def test_a_fit_keeps_the_first_network_and_writes_how_far_the_two_agree():
    data = narrow_data()
    result = fit_classifier(data, params(unfreeze=1, adaptation="mutual", epochs=2), SPEC, fresh_backbone(data))
    assert result.best_epoch == 1
    assert not any(name.startswith("adaptation") for name in result.network.state_dict())
    for record in result.history:
        assert 0 <= record.figures["agreed_share"] <= 1 and record.figures["peer_divergence"] >= 0
