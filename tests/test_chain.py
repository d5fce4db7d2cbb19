"""The arithmetic of a network apart from its weights, against the network."""

from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_rainbow.chain import Chain
from sb3_rainbow.networks import ConvExtractor, DataEfficientConv, NatureConv
from sb3_rainbow.noisy import NoisyLinear, noisy_layers
from sb3_rainbow.policies import CnnPolicy, MlpPolicy

IMAGES = spaces.Box(0, 255, (3, 44, 52), np.uint8)
VECTORS = spaces.Box(-1, 1, (5,), np.float32)


class Uneven(ConvExtractor):
    """A kernel that is no multiple of its stride, and images that do not fill the last block."""

    layers = ((8, 6, 3), (8, 3, 2), (16, 2, 1))
    default_net_arch = (24,)


def network_of(space, **kwargs):
    th.manual_seed(0)
    kind = CnnPolicy if len(space.shape) > 1 else MlpPolicy
    return kind(space, spaces.Discrete(5), lambda _: 1e-3, **kwargs).q_net


CASES = [
    (IMAGES, {}),
    (IMAGES, {"features_extractor_class": DataEfficientConv, "net_arch": [24, 16]}),
    (IMAGES, {"features_extractor_class": Uneven, "dueling": False}),
    (IMAGES, {"features_extractor_class": Uneven, "features_extractor_kwargs": {"layer_norm": True}}),
    (IMAGES, {"features_extractor_class": DataEfficientConv, "features_extractor_kwargs": {"input_norm": True}}),
    (IMAGES, {"features_extractor_class": Uneven, "features_extractor_kwargs": {"input_mean": 0.4}}),
    (IMAGES, {"normalize_images": False, "features_extractor_kwargs": {"input_mean": -90}}),
    (IMAGES, {"features_extractor_class": Uneven, "features_extractor_kwargs": {"input_std": 0.3}}),
    (IMAGES, {"normalize_images": False, "features_extractor_kwargs": {"input_mean": 100, "input_std": 50}}),
    (IMAGES, {"distributional": False, "dueling_aggregation": "max", "noise": "independent", "net_arch": [12]}),
    (IMAGES, {"noisy": False, "normalize_images": False, "net_arch": []}),
    (VECTORS, {}),
    (VECTORS, {"dueling": False, "distributional": False, "noisy": False, "activation_fn": nn.Tanh}),
    (VECTORS, {"net_arch": [], "noise": "independent"}),
    (VECTORS, {"net_arch": [10, 3, 7], "n_atoms": 11}),
    (VECTORS, {"net_arch": [50], "dueling": False, "activation_fn": nn.ELU}),
]


@pytest.mark.parametrize(("space", "kwargs"), CASES)
def test_outputs_and_gradients_are_those_of_the_network(space, kwargs):
    network = network_of(space, **kwargs)
    assert Chain.suits(network)
    chain = Chain(network, th.float32)
    space.seed(0)  # of other observations one batch in some hundred has a unit that rounding switches off
    obs = th.from_numpy(np.stack([space.sample() for _ in range(7)]))
    noise = chain.noise()
    parameters = dict(network.named_parameters())
    outputs = chain.outputs(chain.weights(parameters, noise), chain.prepared(obs))
    # The network's streams are registered one after the other, the chain's layers side by side
    layers = [layer for pair in zip(*network.streams, strict=True) for layer in pair if layer in noisy_layers(network)]
    assert len(layers) == len(noise)
    for layer, (of_weights, of_biases) in zip(layers, noise, strict=True):
        one_row = (lambda given: given.unsqueeze(0)) if layer.factorised else (lambda given: given)
        layer.set_noise(one_row(of_weights), one_row(of_biases))
    expected = network.outputs(obs)
    th.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    direction = th.randn_like(outputs)
    gradients, right = (th.autograd.grad(each, list(parameters.values()), direction) for each in (outputs, expected))
    for gradient, right_one in zip(gradients, right, strict=True):
        # Relative to the whole of each: rounding may switch single units off
        assert (gradient - right_one).norm() <= 1e-3 * right_one.norm() + 1e-6


def test_images_without_convolutions_are_scaled():
    space = spaces.Box(0, 255, (3, 6, 5), np.uint8)
    th.manual_seed(0)
    network = MlpPolicy(space, spaces.Discrete(5), lambda _: 1e-3, noisy=False).q_net
    assert Chain.suits(network)
    chain = Chain(network, th.float32)
    space.seed(0)
    obs = th.from_numpy(np.stack([space.sample() for _ in range(7)]))
    outputs = chain.outputs(chain.weights(dict(network.named_parameters()), []), chain.prepared(obs))
    th.testing.assert_close(outputs, network.outputs(obs), rtol=1e-4, atol=1e-5)


def test_noise_is_fresh_and_gaussian():
    """Each of the layers has its own; the signed square is standard Gaussian, its mean and variance to 4 errors."""
    chain = Chain(network_of(IMAGES, net_arch=[512]), th.float32)
    first, second = chain.noise(), chain.noise()
    samples = th.cat([noise for pair in first for noise in pair])
    # Single numbers of 32 bits coincide by chance, two neighbours do not
    neighbours = th.stack([samples[:-1], samples[1:]], dim=1)
    assert len(neighbours.unique(dim=0)) == len(neighbours)
    later = th.cat([noise for pair in second for noise in pair])
    both = th.cat([neighbours, th.stack([later[:-1], later[1:]], dim=1)])
    assert len(both.unique(dim=0)) == len(both)
    gaussian = samples.sign() * samples**2
    assert gaussian.mean().abs() < 4 / len(gaussian) ** 0.5
    assert (gaussian.var() - 1).abs() < 4 * (2 / len(gaussian)) ** 0.5


@pytest.mark.parametrize("distributional", [True, False])
def test_bfloat16(distributional):
    """All layers compute in it, but the last one where Q-values are its outputs."""
    network = network_of(IMAGES, distributional=distributional)
    exact, rough = Chain(network, th.float32), Chain(network, th.bfloat16)
    IMAGES.seed(0)
    obs = th.from_numpy(np.stack([IMAGES.sample() for _ in range(7)]))
    parameters, noise = dict(network.named_parameters()), exact.noise()
    weights = rough.weights(parameters, noise)
    *others, last_weight, last_bias = [weight.dtype for weight in weights]
    assert set(others) == {th.bfloat16}
    assert last_weight == last_bias == (th.bfloat16 if distributional else th.float32)
    outputs = rough.outputs(weights, rough.prepared(obs))
    expected = exact.outputs(exact.weights(parameters, noise), exact.prepared(obs))
    assert outputs.dtype == th.float32
    assert 0 < (outputs - expected).norm() < 0.02 * expected.norm()


def test_a_first_module_without_weights_leaves_bfloat16_to_those_that_follow():
    network = network_of(IMAGES, features_extractor_class=DataEfficientConv, noisy=False)
    network.features_extractor.cnn = nn.Sequential(nn.Identity(), *network.features_extractor.cnn)
    assert Chain.suits(network)
    obs = th.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *IMAGES.shape), dtype=np.uint8))
    outputs = []
    for dtype in (th.float32, th.bfloat16):
        chain = Chain(network, dtype)
        weights = chain.weights(dict(network.named_parameters()), [])
        outputs.append(chain.outputs(weights, chain.prepared(obs)).detach().float())
    assert 0 < (outputs[0] - outputs[1]).norm() < 0.02 * outputs[0].norm()


def test_what_a_mean_leaves_of_floats_is_not_lost_in_bfloat16():
    space = spaces.Box(-np.inf, np.inf, IMAGES.shape, np.float32)
    extractor_kwargs = {"input_mean": 1000, "normalized_image": True}
    network = network_of(space, normalize_images=False, features_extractor_kwargs=extractor_kwargs, noisy=False)
    chains = Chain(network, th.float32), Chain(network, th.bfloat16)
    obs = 1000 + th.randn(7, *space.shape)
    parameters = dict(network.named_parameters())
    expected, outputs = (chain.outputs(chain.weights(parameters, []), chain.prepared(obs)) for chain in chains)
    assert 0 < (outputs - expected).norm() < 0.02 * expected.norm()


class OwnForward(NatureConv):
    def forward(self, observations):
        return super().forward(observations) * 2


class OwnForwardOfScaledImages(NatureConv):
    def forward_scaled(self, observations, scale):
        return super().forward_scaled(observations, scale) * 2


class Shifted(DataEfficientConv):
    def __init__(self, observation_space, **kwargs):
        super().__init__(observation_space, **kwargs)
        self.cnn = nn.Sequential(nn.ReLU(), *self.cnn)


class Padded(ConvExtractor):
    layers = ((8, 5, 5), (8, 5, 5))

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.cnn[2] = nn.Conv2d(8, 8, 5, 5, padding=1)


class Pooled(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 3 * 44)

    def forward(self, observations):
        return observations.mean(dim=3).flatten(1)


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (IMAGES, {"features_extractor_class": OwnForward}),
        (IMAGES, {"features_extractor_class": OwnForwardOfScaledImages}),
        (IMAGES, {"features_extractor_class": Padded}),
        (IMAGES, {"features_extractor_class": Pooled}),
        (IMAGES, {"features_extractor_class": Shifted, "features_extractor_kwargs": {"input_norm": True}}),
        (IMAGES, {"features_extractor_class": Shifted, "features_extractor_kwargs": {"input_mean": 0.4}}),
        (IMAGES, {"features_extractor_class": Shifted, "features_extractor_kwargs": {"input_std": 0.2}}),
        (VECTORS, {"activation_fn": nn.PReLU}),
        (VECTORS, {"activation_fn": partial(nn.Softmax, dim=1)}),  # of both streams together it would be another
        (VECTORS, {"activation_fn": nn.RReLU}),  # depends on the mode, which target networks have of their own
        (spaces.Discrete(5), {}),
    ],
)
def test_what_does_not_suit(space, kwargs):
    kind = CnnPolicy if space is IMAGES else MlpPolicy
    assert not Chain.suits(kind(space, spaces.Discrete(5), lambda _: 1e-3, **kwargs).q_net)


@pytest.mark.parametrize(
    "watch",
    [
        lambda network: network.q_net[0].register_forward_hook(lambda *_: None),
        lambda network: network.value.register_full_backward_pre_hook(lambda *_: None),
        lambda network: network.q_net[0].weight_mu.register_hook(lambda gradient: gradient.clamp(-1, 1)),
        lambda network: setattr(network.value[0], "weight_mu", network.q_net[0].weight_mu),
        lambda network: network.value.__setitem__(1, nn.Tanh()),
        lambda network: network.value.append(nn.Tanh()),
        lambda network: [stream.append(nn.Tanh()) for stream in network.streams],
        lambda network: setattr(network, "value", nn.ModuleList(network.value)),
        lambda network: [s.__setitem__(0, NoisyLinear(5, 64, noise="independent")) for s in network.streams],
    ],
)
def test_what_does_not_suit_any_more(watch):
    network = network_of(VECTORS)
    assert Chain.suits(network)
    watch(network)
    assert not Chain.suits(network)


def test_convolutions_that_are_no_sequence_do_not_suit():
    network = network_of(IMAGES)
    assert Chain.suits(network)
    network.features_extractor.cnn = nn.ModuleList(network.features_extractor.cnn)
    assert not Chain.suits(network)
