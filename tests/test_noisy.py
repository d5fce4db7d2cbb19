"""Noisy layers: what the noise is, when it changes, and what it has nothing to do with."""

import re

import numpy as np
import pytest
import torch as th
from scipy import stats
from torch import nn

from sb3_rainbow import NoisyLinear
from sb3_rainbow.noisy import fresh_noise, noisy_layers, reset_noise

KINDS = ["factorised", "independent"]


def noise_matrix(layer):
    """The noise of every weight, read off the layer's outputs: rows are outputs, columns inputs."""
    with th.no_grad():
        bias = layer(th.zeros(1, layer.in_features))
        columns = layer(th.eye(layer.in_features)) - bias
    return (columns.T - layer.weight_mu.detach()) / layer.weight_sigma.detach()


def test_factorised_noise_is_an_outer_product():
    """Independent draws per weight would have full rank."""
    layer = NoisyLinear(6, 5)
    assert th.linalg.matrix_rank(noise_matrix(layer), atol=1e-4) == 1


def test_independent_noise_is_not():
    layer = NoisyLinear(6, 5, noise="independent")
    assert th.linalg.matrix_rank(noise_matrix(layer), atol=1e-4) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_a_weight_has_the_published_distribution(kind):
    """Kolmogorov-Smirnov tests at an error rate of 1e-6 each, on the noise of a single weight."""
    th.manual_seed(0)
    layer = NoisyLinear(1, 1, noise=kind)
    samples = []
    for _ in range(4000):
        layer.reset_noise()
        samples.append(noise_matrix(layer).item())
    if kind == "independent":
        assert stats.kstest(samples, "norm").pvalue > 1e-6
    else:
        rng = np.random.default_rng(0)
        first, second = rng.standard_normal((2, 200_000))
        reference = np.sign(first * second) * np.sqrt(np.abs(first * second))
        assert stats.ks_2samp(samples, reference).pvalue > 1e-6


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_noise_of_their_own_have_its_distribution(kind, scale):
    """
    Mean and variance of an output under noise per row against the same under 20,000 samples of shared noise.

    Where inputs are small, it is mostly that of the bias. Error rate below 1e-6 each: the bounds are 5 standard errors
    (of a variance of heavy tails, at most 6% here).
    """
    th.manual_seed(1)
    layer = NoisyLinear(4, 2, noise=kind)
    inputs = scale * th.tensor([[0.5, -1.0, 2.0, 0.1]])
    n = 20_000
    with th.no_grad():
        shared = []
        for _ in range(n):
            layer.reset_noise()
            shared.append(layer(inputs))
        shared = th.cat(shared)
        layer.reset_noise(n)
        own = layer(inputs.expand(n, -1))
    spread = shared.std(0)
    assert ((own.mean(0) - shared.mean(0)).abs() < 5 * 2**0.5 * spread / n**0.5).all()
    assert ((own.var(0) / shared.var(0)).log().abs() < 0.3).all()
    # and no two rows share it
    assert len(own.unique(dim=0)) > n * 0.99


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 2, 4), (6, 4), (1, 4)])
def test_rows_are_not_given_the_noise_of_others(kind, shape):
    layer = NoisyLinear(4, 2, noise=kind)
    layer.reset_noise(3)
    with pytest.raises(ValueError, match=re.escape(f"inputs of shape {shape} must be (batch, in_features)")):
        layer(th.ones(shape))
    layer.reset_noise()  # which all rows share
    assert layer(th.ones(shape)).shape == (*shape[:-1], 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [th.bfloat16, th.float16, th.float64])
@pytest.mark.parametrize("n_samples", [1, 5])
def test_noise_has_the_precision_of_the_weights(kind, dtype, n_samples):
    layer = nn.Sequential(NoisyLinear(3, 4, noise=kind)).to(dtype)
    for reset in (layer[0].reset_noise, lambda n: reset_noise(layer, n)):
        reset(n_samples)
        assert layer(th.ones(5, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_noise_does_not_depend_on_train_and_eval_mode(kind):
    """SB3 switches to eval mode to collect transitions: that must neither stop the noise nor change it."""
    layer = NoisyLinear(4, 3, noise=kind)
    inputs = th.randn(2, 4)
    with_train = layer.train()(inputs)
    with_eval = layer.eval()(inputs)
    assert th.equal(with_train, with_eval)
    layer.reset_noise()
    assert not th.equal(layer(inputs), with_eval)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_sigma_gets_a_gradient_in_both_modes(kind, training):
    layer = NoisyLinear(4, 3, noise=kind).train(training)
    layer(th.randn(2, 4)).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_the_mean_weights_answer(kind):
    layer = NoisyLinear(4, 3, noise=kind)
    inputs = th.randn(2, 4)
    layer.reset_noise(None)
    assert th.equal(layer(inputs), nn.functional.linear(inputs, layer.weight_mu, layer.bias_mu))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_draws_its_own_noise(kind):
    layers = nn.ModuleList([NoisyLinear(4, 4, noise=kind) for _ in range(3)])
    reset_noise(layers)
    first, second, third = (noise_matrix(layer) for layer in layers)
    assert not th.allclose(first, second)
    assert not th.allclose(second, third)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_samples", [None, 1, 7])
def test_other_noise_for_a_while_then_the_noise_from_before(kind, n_samples):
    layer = NoisyLinear(4, 3, noise=kind)
    inputs = th.randn(7, 4)
    before = layer(inputs)
    with fresh_noise(layer, n_samples):
        assert not th.allclose(layer(inputs), before)
    assert th.equal(layer(inputs), before)


def test_noise_that_cannot_be_drawn_leaves_what_was_there():
    class Interrupted(NoisyLinear):
        def reset_noise(self, n_samples=1):
            if n_samples == 3:
                raise KeyboardInterrupt
            super().reset_noise(n_samples)

    module = nn.Sequential(NoisyLinear(4, 3), Interrupted(3, 2))
    inputs = th.ones(5, 4)
    before = module(inputs)
    with pytest.raises(KeyboardInterrupt), fresh_noise(module, 3):
        pass
    assert th.equal(module(inputs), before)


def test_a_layer_that_draws_its_noise_in_a_way_of_its_own_is_asked():
    class Silent(NoisyLinear):
        def reset_noise(self, n_samples=1):
            self.set_noise(None, None)

    module = nn.Sequential(NoisyLinear(4, 3), Silent(3, 2))
    reset_noise(module)
    assert [layer._noise_out is None for layer in module] == [False, True]


def test_noise_is_not_saved():
    assert set(NoisyLinear(2, 2).state_dict()) == {"weight_mu", "weight_sigma", "bias_mu", "bias_sigma"}


def test_initial_values():
    th.manual_seed(0)
    layer = NoisyLinear(100, 50, sigma_init=0.4)
    assert layer.weight_sigma.unique().item() == pytest.approx(0.04)
    assert layer.bias_sigma.unique().item() == pytest.approx(0.04)
    for mu in (layer.weight_mu, layer.bias_mu):  # the largest of 50 is below 0.08 once in 70,000 times
        assert 0.08 < mu.abs().max() <= 0.1
    independent = NoisyLinear(100, 50, noise="independent")
    assert independent.weight_mu.abs().max() <= (3 / 100) ** 0.5
    assert independent.weight_mu.abs().max() > 0.1


def test_signal_to_noise_is_the_ratio_of_root_mean_squares():
    layer = NoisyLinear(2, 1)
    with th.no_grad():
        layer.weight_mu[:] = th.tensor([[3.0, 4.0]])
        layer.weight_sigma[:] = th.tensor([[0.5, -0.5]])
    assert layer.signal_to_noise() == pytest.approx((12.5**0.5) / 0.5)


def test_layers_are_found_in_order():
    module = nn.Sequential(NoisyLinear(3, 4), nn.ReLU(), nn.Linear(4, 4), NoisyLinear(4, 5))
    assert [layer.out_features for layer in noisy_layers(module)] == [4, 5]


@pytest.mark.parametrize(
    ("name", "value"), [("noise", "pink"), ("sigma_init", -1.0), ("in_features", 0), ("out_features", None)]
)
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        NoisyLinear(**{"in_features": 2, "out_features": 2, name: value})
