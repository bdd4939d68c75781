"""Several networks joined into one say what their mean says, and come back from a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_contracts.errors import UsageError
from models.networks.backbones import build_backbone
from models.networks.joined import blend_concepts, build_backbones, join_networks
from models.networks.network import NetworkPlan, build_network

PLAN = NetworkPlan("linear", "mean", ("texture", "subtlety"))


@pytest.fixture(scope="module")
def networks():
    return [build_network(build_backbone("mobilenet_v2", seed=seed), PLAN, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_joined_network_says_the_mean_of_its_members(networks, images):
    joined = join_networks(networks, PLAN)
    with torch.inference_mode():
        members = [network.with_concepts(images) for network in networks]
        logit, concepts = joined.with_concepts(images)
    assert torch.allclose(logit, torch.stack([member[0] for member in members]).mean(0), atol=1e-5)
    assert torch.allclose(concepts, torch.stack([member[1] for member in members]).mean(0), atol=1e-5)


def test_a_joined_network_is_loaded_by_its_name_and_count(networks, images):
    joined = join_networks(networks, PLAN)
    again = build_network(build_backbones("mobilenet_v2", 3, seed=9), PLAN, seed=9)
    again.load_state_dict(joined.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(images), joined(images))


def test_the_stages_of_a_joined_backbone_can_be_split(networks):
    backbone = join_networks(networks, PLAN).backbone
    prefix, suffix = backbone.split(2)
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(suffix(prefix(images)).mean((-2, -1)), backbone(images))


def test_blending_concepts_changes_the_logit_by_exactly_their_weighted_logits(images):
    network = build_network(build_backbone("mobilenet_v2", seed=0), PLAN, seed=0)
    with torch.inference_mode():
        logit, concepts = network.with_concepts(images)
    blend_concepts(network, [0.5, 2.0, -1.0])
    with torch.inference_mode():
        blended, after = network.with_concepts(images)
    expected = 0.5 * logit + concepts @ torch.tensor([2.0, -1.0])
    np.testing.assert_allclose(blended.numpy(), expected.numpy(), atol=1e-5)
    assert torch.equal(concepts, after)


def test_a_head_that_is_not_linear_is_not_joined(networks):
    with pytest.raises(UsageError, match="not one network"):
        join_networks(networks, NetworkPlan("mlp"))
