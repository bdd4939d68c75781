"""The losses of adaptation are the formulas of their papers, written out in numpy a second time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.adaptation.adversary import reverse_gradient
from models.adaptation.classes import class_entropy, entropy_weights, two_class_logits
from models.adaptation.conditional import MultilinearMap, conditional_domain_loss
from models.adaptation.confusion import bnm_loss, mcc_loss
from models.adaptation.coral import coral_loss

SEEDS = range(10)


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def tensor(values: np.ndarray, *, learns: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=learns)


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_reversed_gradient_is_exactly_minus_lambda_times_the_gradient(strength, seed):
    rng = np.random.default_rng(seed)
    factors = tensor(rng.normal(size=(6, 4)))
    plain, reversed_ = (tensor(rng.normal(size=(6, 4)), learns=True) for _ in range(2))
    (plain * factors).sum().backward()
    (reverse_gradient(reversed_, strength) * factors).sum().backward()
    assert torch.equal(reversed_.grad, -strength * plain.grad)


@pytest.mark.parametrize("seed", SEEDS)
def test_coral_is_the_squared_distance_of_covariances_over_four_d_squared(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 40))
    source, target = (
        rng.normal(size=(int(rng.integers(3, 50)), d)),
        rng.normal(1, 3, size=(int(rng.integers(3, 50)), d)),
    )
    distance = np.cov(source, rowvar=False) - np.cov(target, rowvar=False)
    expected = np.linalg.norm(distance, "fro") ** 2 / (4 * d**2)
    assert float(coral_loss(tensor(source), tensor(target))) == pytest.approx(expected, rel=1e-6)


def test_coral_sees_neither_the_order_nor_the_mean_of_a_site():
    values = tensor(np.random.default_rng(0).normal(size=(20, 5)))
    assert float(coral_loss(values, values.flip(0) + 7)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_classes", [2, 3, 12])
def test_mcc_is_the_mean_confusion_off_the_diagonal(seed, n_classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, size=(int(rng.integers(4, 40)), n_classes))
    p = softmax(logits / 2.5)
    weights = 1 + np.exp((p * np.log(p)).sum(axis=1))
    weights = len(p) * weights / weights.sum()
    confusion = np.zeros((n_classes, n_classes))
    for row, weight in zip(p, weights, strict=True):
        confusion += weight * np.outer(row, row)
    confusion /= confusion.sum(axis=1, keepdims=True)
    expected = (confusion.sum() - np.trace(confusion)) / n_classes
    assert float(mcc_loss(tensor(logits))) == pytest.approx(expected, rel=1e-6)


def test_mcc_runs_from_nothing_said_to_everything_sure():
    sure = two_class_logits(tensor(np.array([-200.0, 200.0, 200.0])))
    assert float(mcc_loss(sure)) == pytest.approx(0, abs=1e-12)
    assert float(mcc_loss(two_class_logits(torch.zeros(6)))) == pytest.approx(1 / 2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_bnm_is_minus_the_mean_singular_value_of_the_probabilities(seed, n_classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, size=(int(rng.integers(6, 40)), n_classes))
    probabilities = softmax(logits)
    assert float(bnm_loss(tensor(logits))) == pytest.approx(
        -np.linalg.svd(probabilities, compute_uv=False).mean(), rel=1e-6
    )
    nuclear_norm = np.sqrt(np.linalg.eigvalsh(probabilities.T @ probabilities)).sum()  # as Cui et al. define it
    assert float(bnm_loss(tensor(logits))) * n_classes == pytest.approx(-nuclear_norm, rel=1e-6)


def test_two_classes_of_a_logit_have_its_probabilities_and_entropy():
    logit = tensor(np.array([-3.0, 0.0, 1.5, 40.0]))
    p = torch.sigmoid(logit)
    classes = two_class_logits(logit)
    torch.testing.assert_close(classes.softmax(1), torch.stack([1 - p, p], 1))
    entropy = -(p[:3] * p[:3].log() + (1 - p[:3]) * (1 - p[:3]).log())
    torch.testing.assert_close(class_entropy(classes)[:3], entropy)
    assert float(class_entropy(classes)[1]) == pytest.approx(np.log(2)) and float(class_entropy(classes)[3]) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_cdan_sees_the_outer_product_with_predictions_that_no_gradient_passes(seed):
    rng = np.random.default_rng(seed)
    representation, logits = tensor(rng.normal(size=(7, 5)), learns=True), tensor(rng.normal(size=(7, 3)), learns=True)
    product = MultilinearMap(5, 3)(representation, logits)
    p = softmax(logits.detach().numpy())
    expected = np.einsum("nf,nc->nfc", representation.detach().numpy(), p).reshape(7, 15)
    np.testing.assert_allclose(product.detach().numpy(), expected, rtol=1e-6)
    product.square().sum().backward()
    assert logits.grad is None and representation.grad is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_cdan_with_entropy_weights_each_site_by_how_sure_its_predictions_are(seed):
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=(n, 6)) for n in (9, 4)]
    logits = [rng.normal(0, 3, size=(n, 2)) for n in (9, 4)]
    direction = rng.normal(size=6)
    expected = 0.0
    for site, (one, classes) in enumerate(zip(values, logits, strict=True)):
        p = softmax(classes)
        weights = 1 + np.exp((p * np.log(p)).sum(axis=1))
        weights /= weights.sum()
        is_target = 1 / (1 + np.exp(-one @ direction))
        expected -= (weights * np.log(is_target if site else 1 - is_target)).sum() / 2
    weights = tuple(entropy_weights(tensor(classes)) for classes in logits)
    loss, _ = conditional_domain_loss(lambda x: x @ tensor(direction), tensor(values[0]), tensor(values[1]), weights, 1)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_cdan_reverses_the_product_and_not_the_discriminators_own_gradient():
    rng = np.random.default_rng(0)
    gradients = []
    for strength in (1.0, 3.0):
        source, direction = tensor(rng.normal(size=(8, 4)) * 0 + 1, learns=True), tensor(np.full(4, 0.3), learns=True)
        loss, _ = conditional_domain_loss(lambda x, w=direction: x @ w, source, -source, None, strength)
        loss.backward()
        gradients.append((source.grad, direction.grad))
    torch.testing.assert_close(gradients[1][0], 3 * gradients[0][0])
    assert torch.equal(gradients[1][1], gradients[0][1])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_randomised_map_keeps_inner_products_of_the_outer_products(seed):
    """Long et al. 2018, theorem 2: <T(f, g), T(f', g')> has the mean <f, f'> <g, g'>."""
    torch.manual_seed(seed)
    wide = MultilinearMap(2049, 2).double()
    assert wide.randomised and wide.width == 1024 and not MultilinearMap(2048, 2).randomised
    assert list(wide.parameters()) == [] and set(wide.state_dict()) == {"random_features", "random_classes"}
    f, logits = torch.rand(2, 2049, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    g = logits.softmax(1)
    mapped = wide(f, logits)
    assert mapped.shape == (2, 1024)
    assert float(mapped[0] @ mapped[1]) == pytest.approx(float((f[0] @ f[1]) * (g[0] @ g[1])), rel=0.35)
