"""Extractors, streams and policies."""

import copy

import numpy as np
import pytest
import torch as th
from envs import Corridor
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.dqn.policies import MlpPolicy as DQNMlpPolicy
from torch import nn

from sb3_rainbow import CnnPolicy, MlpPolicy, MultiInputPolicy, NoisyLinear, RainbowDQN
from sb3_rainbow.networks import DataEfficientConv, NatureConv
from sb3_rainbow.noisy import noisy_layers, reset_noise

ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)
VECTOR = spaces.Box(-1, 1, (6,), np.float32)
ACTIONS = spaces.Discrete(3)
OFF = {"dueling": False, "noisy": False, "distributional": False}


def make(space=VECTOR, policy_class=MlpPolicy, **kwargs):
    return policy_class(space, ACTIONS, lambda _: 1e-3, **kwargs)


def test_policies_take_their_arguments_in_the_order_of_sb3s():
    space = spaces.Box(0, 255, (3, 40, 40), np.uint8)
    arguments = space, ACTIONS, lambda _: 1e-3, [8], nn.Tanh, NatureCNN
    ours, theirs = CnnPolicy(*arguments), DQNCnnPolicy(*arguments)
    assert type(ours.q_net.features_extractor) is type(theirs.q_net.features_extractor) is NatureCNN
    assert isinstance(ours.q_net.q_net[1], nn.Tanh)


def test_nature_convolutions_have_the_published_shapes():
    extractor = NatureConv(ATARI)
    assert [tuple(p.shape) for p in extractor.parameters() if p.dim() == 4] == [
        (32, 4, 8, 8),
        (64, 32, 4, 4),
        (64, 64, 3, 3),
    ]
    assert extractor.features_dim == 3136
    assert extractor(th.zeros(2, 4, 84, 84)).shape == (2, 3136)


def test_data_efficient_convolutions_have_the_published_shapes():
    extractor = DataEfficientConv(ATARI)
    assert [tuple(p.shape) for p in extractor.parameters() if p.dim() == 4] == [(32, 4, 5, 5), (64, 32, 5, 5)]
    assert extractor.features_dim == 576
    assert extractor(th.zeros(2, 4, 84, 84)).shape == (2, 576)


def normalized(values):
    """Each row by itself, as the definition says."""
    rows = values.flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    return rows.reshape(values.shape)


@pytest.mark.parametrize("extractor_class", [NatureConv, DataEfficientConv])
@pytest.mark.parametrize(("layer_norm", "input_norm"), [(True, False), (False, True), (True, True)])
def test_normalization_is_of_each_observation_by_itself(extractor_class, layer_norm, input_norm):
    set_random_seed(0)
    extractor = extractor_class(ATARI, layer_norm=layer_norm, input_norm=input_norm)
    assert extractor.features_dim == extractor_class(ATARI).features_dim
    obs = th.rand(3, *ATARI.shape)
    expected = normalized(obs) if input_norm else obs
    for weight, bias in ((p.weight, p.bias) for p in extractor.cnn if isinstance(p, nn.Conv2d)):
        stride = next(s for filters, k, s in extractor.layers if (filters, k) == (len(weight), weight.shape[2]))
        expected = nn.functional.conv2d(expected, weight, bias, stride)
        expected = (normalized(expected) if layer_norm else expected).clamp(min=0)
    th.testing.assert_close(extractor(obs), expected.flatten(1), rtol=0, atol=1e-5)
    # Bytes, and an image of hardly any contrast, to which the small number in the denominator matters
    exact = copy.deepcopy(extractor).double()
    for image in (obs * 255).round(), obs.round() + 100:
        features = extractor.forward_scaled(image, 1 / 255).double()
        th.testing.assert_close(features, exact(image.double() / 255), rtol=0, atol=1e-4)
    # Two numbers for each filter are learned
    plain = sum(p.numel() for p in extractor_class(ATARI).parameters())
    learned = 2 * sum(layer[0] for layer in extractor.layers) if layer_norm else 0
    assert sum(p.numel() for p in extractor.parameters()) - plain == learned


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("mean", "std"), [(0.4, 1), (0.4, 0.2), (0, 0.2)])
def test_scaled_pixels_less_a_mean_and_divided_by_a_standard_deviation(layer_norm, mean, std):
    set_random_seed(0)
    extractor = DataEfficientConv(ATARI, layer_norm=layer_norm, input_mean=mean, input_std=std)
    bare = DataEfficientConv(ATARI, layer_norm=layer_norm)
    bare.load_state_dict(extractor.state_dict())
    pixels = th.randint(0, 256, (3, *ATARI.shape), dtype=th.uint8).float()
    expected = bare((pixels / 255 - mean) / std)
    th.testing.assert_close(extractor(pixels / 255), expected, rtol=0, atol=1e-5)
    th.testing.assert_close(extractor.forward_scaled(pixels, 1 / 255), expected, rtol=0, atol=1e-5)
    weights = extractor.cnn[0].weight, bare.cnn[0].weight
    gradients = [th.autograd.grad(outputs.square().sum(), weight)[0] for outputs, weight in
                 ((extractor.forward_scaled(pixels, 1 / 255), weights[0]), (expected, weights[1]))]  # fmt: skip
    th.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("input_mean", [0, 0.4])
@pytest.mark.parametrize("convolution", [nn.Conv2d(4, 8, 5, 5, bias=False), nn.Conv2d(4, 8, 5, 5, padding=2)])
def test_a_mean_and_a_standard_deviation_of_the_input_of_a_convolution_of_a_users(convolution, input_mean):
    extractor = DataEfficientConv(ATARI, input_mean=input_mean, input_std=0.2)
    extractor.cnn = nn.Sequential(convolution, nn.Flatten())
    pixels = th.randint(0, 256, (3, *ATARI.shape), dtype=th.uint8).float()
    th.testing.assert_close(extractor.forward_scaled(pixels, 1 / 255), extractor(pixels / 255), rtol=0, atol=1e-5)


def test_only_bytes_are_prepared_in_bfloat16():
    """They are exact in it. Of floats what input_norm is for would be lost: beside 0.9 its numbers are 0.004 apart."""
    space = spaces.Box(0, 1, (1, 40, 40), np.float32)
    kwargs = {"normalize_images": False, "features_extractor_kwargs": {"input_norm": True}}
    network = make(space, CnnPolicy, **kwargs).q_net
    faint = th.full((2, 1, 40, 40), 0.9)
    faint[0, :, :, :20] += 2e-4
    faint[1, :, :, 20:] += 2e-4
    prepared = network.prepared(faint, th.bfloat16)
    assert th.equal(prepared, faint)
    with th.autocast("cpu", dtype=th.bfloat16):
        first, second = network.features_extractor(prepared)
    assert (first - second).abs().max() > 1e-3
    pixels = th.arange(256, dtype=th.uint8).expand(2, 4, 84, 256)
    images = make(ATARI, CnnPolicy).q_net.prepared(pixels, th.bfloat16)
    assert images.dtype == th.bfloat16
    assert th.equal(images.to(th.uint8), pixels)


def test_an_image_of_one_colour_has_no_input_to_normalize():
    extractor = DataEfficientConv(ATARI, input_norm=True)
    flat = th.full((2, *ATARI.shape), 0.7)
    th.testing.assert_close(extractor(flat), extractor(th.zeros(2, *ATARI.shape)), rtol=0, atol=1e-3)


def test_cnn_policy_with_everything_off_is_that_of_dqn():
    """Same weights from the same seed, same Q-values."""
    set_random_seed(3)
    theirs = DQNCnnPolicy(ATARI, ACTIONS, lambda _: 1e-3)
    set_random_seed(3)
    ours = make(ATARI, CnnPolicy, **OFF)
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    assert len(pairs) == 20
    assert all(th.equal(a, b) for a, b in pairs)
    obs = th.randint(0, 256, (5, 4, 84, 84), dtype=th.uint8)
    assert th.equal(ours.q_net(obs), theirs.q_net(obs))


def test_mlp_policy_with_everything_off_is_that_of_dqn():
    set_random_seed(3)
    theirs = DQNMlpPolicy(VECTOR, ACTIONS, lambda _: 1e-3)
    set_random_seed(3)
    ours = make(**OFF)
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    assert all(th.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("space", "policy_class", "kwargs", "widths"),
    [
        (ATARI, CnnPolicy, {}, [512]),
        (ATARI, CnnPolicy, {"features_extractor_class": "sb3_rainbow.networks.DataEfficientConv"}, [256]),
        (ATARI, CnnPolicy, {"features_extractor_class": NatureCNN}, []),
        (VECTOR, MlpPolicy, {}, [64, 64]),
        (VECTOR, MlpPolicy, {"net_arch": [8]}, [8]),
    ],
)
def test_hidden_layers_of_each_stream(space, policy_class, kwargs, widths):
    policy = make(space, policy_class, **kwargs)
    for stream, n_outputs in ((policy.q_net.q_net, 3 * 51), (policy.q_net.value, 51)):
        layers = [layer for layer in stream if isinstance(layer, NoisyLinear)]
        assert [layer.out_features for layer in layers] == [*widths, n_outputs]


@pytest.mark.parametrize("distributional", [True, False])
@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_advantages_are_centred_over_actions_for_each_state_and_atom(distributional, aggregation):
    """Centred over atoms, a constant added to all advantages of an action would change its distribution, or nothing."""
    policy = make(distributional=distributional, dueling_aggregation=aggregation, noisy=False, n_atoms=7)
    network = policy.q_net
    obs = th.randn(5, 6)
    with th.no_grad():
        outputs = network.outputs(obs)  # (5, 3, size)
        size = network.head.size
        assert outputs.shape == (5, 3, size) == (5, 3, 7 if distributional else 1)
        advantages = network.q_net(obs).reshape(5, 3, size)
        values = network.value(obs).reshape(5, 1, size)
        for state in range(5):  # one by one: nothing is averaged over the batch
            for atom in range(size):
                a = advantages[state, :, atom]
                expected = values[state, 0, atom] + a - (a.mean() if aggregation == "mean" else a.max())
                th.testing.assert_close(outputs[state, :, atom], expected)
        # Identifiable: a constant on the advantages of all actions has no effect, one on a single action has
        network.q_net[-1].bias += 1.0
        th.testing.assert_close(network.outputs(obs), outputs)
        network.q_net[-1].bias[:size] += 1.0
        assert not th.allclose(network.outputs(obs), outputs, atol=0.1)


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_small_advantages_are_not_lost_beside_a_large_value_in_bfloat16(aggregation):
    """Beside 100 the numbers of bfloat16 are 0.5 apart."""
    network = make(noisy=False, dueling_aggregation=aggregation).q_net
    with th.no_grad():
        network.value[-1].bias += 100.0
        obs = th.randn(8, 6)
        exact = network.outputs(obs)
        with th.autocast("cpu", dtype=th.bfloat16):
            rough = network.outputs(obs)
    advantages, rough_advantages = exact[:, 1] - exact[:, 0], rough[:, 1] - rough[:, 0]
    assert (rough_advantages - advantages).norm() < 0.05 * advantages.norm()


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("noisy", [True, False])
def test_scalar_q_values_that_hardly_differ_are_told_apart_in_bfloat16(dueling, noisy):
    """Beside 2 the numbers of bfloat16 are 0.016 apart, the values of two actions often less."""
    network = make(dueling=dueling, noisy=noisy, distributional=False).q_net
    reset_noise(network)
    last_layers = [network.q_net[-1], network.value[-1]] if dueling else [network.q_net[-1]]
    with th.no_grad():
        for layer in last_layers:
            for name, parameter in layer.named_parameters():
                parameter *= 0.01 if "weight" in name else 0
        (layer.bias_mu if noisy else layer.bias).add_(2.0)
        obs = th.randn(64, 6)
        exact = network(obs)
        with th.autocast("cpu", dtype=th.bfloat16):
            rough = network(obs)
    assert rough.dtype == th.float32
    assert (rough - exact).abs().max() < 1e-4
    values, rough_values = (q - q.mean(dim=1, keepdim=True) for q in (exact, rough))
    assert 0 < values.std() < 0.01
    assert (rough_values - values).norm() < 0.02 * values.norm()


def test_means_of_distributions_are_told_apart_in_bfloat16():
    """Beside 50 the numbers of bfloat16 are 0.25 apart."""
    network = make(noisy=False, v_min=0, v_max=100).q_net
    obs = th.randn(64, 6)
    with th.no_grad(), th.autocast("cpu", dtype=th.bfloat16):
        outputs, q_values = network.outputs(obs), network(obs)
        actions = network._predict(obs)
    expected = network.head.q_values(outputs.float())
    assert q_values.dtype == th.float32
    assert th.equal(q_values, expected)
    assert th.equal(actions, expected.argmax(dim=1))


def test_a_policy_may_change_modes_in_a_way_of_its_own():
    """SB3's constructor does not ask for it before that of the subclass has ended."""

    class Mine(MlpPolicy):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.extra = nn.Dropout()

        def set_training_mode(self, mode):
            super().set_training_mode(mode)
            self.extra.train(mode)

    policy = make(policy_class=Mine)
    assert [policy.training, policy.q_net.training, policy.q_net_target.training] == [False] * 3


@pytest.mark.parametrize("mode", [True, False])
def test_all_layers_are_in_the_mode_that_was_set(mode):
    """As with DQN, whose layers are all set each time."""
    policy = make()
    policy.q_net.features_extractor.extra = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    policy.q_net.features_extractor.register_module("none", None)
    modules = [policy, *policy.q_net.modules()]
    for module in modules:  # each switched by hand, alone
        policy.set_training_mode(mode)
        module.training = not mode
        policy.set_training_mode(mode)
        assert {each.training for each in modules} == {mode}
    assert not policy.q_net_target.training


class MonteCarloDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout, self.always = nn.Dropout(), False

    def train(self, mode=True):
        super().train(mode)
        self.dropout.train(mode or self.always)
        return self


class Hiding(nn.Module):
    """Keeps layers where parameters() does not find them."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Dropout()]

    def train(self, mode=True):
        for layer in self.hidden:
            layer.train(mode)
        return super().train(mode)


def test_modules_may_set_their_mode_in_a_way_of_their_own():
    """As with DQN, which tells them before each action."""
    policy = make()
    extractor = policy.q_net.features_extractor
    extractor.one, extractor.two = MonteCarloDropout(), Hiding()
    policy.set_training_mode(False)
    extractor.one.always = True
    extractor.two.hidden = [nn.Dropout()]
    policy.predict(np.zeros(6, dtype=np.float32))
    assert extractor.one.dropout.training
    assert not extractor.two.hidden[0].training


def test_a_frozen_module_has_no_mode_before_one_is_set():
    policy = make()
    policy.q_net.features_extractor.frozen = th.jit.freeze(th.jit.script(nn.Linear(2, 2).eval()))
    policy.predict(np.zeros(6, dtype=np.float32))
    assert not policy.training
    assert not policy.q_net.features_extractor.training


def test_a_module_that_is_a_part_of_itself_is_refused_as_by_torch():
    policy = make()
    policy.q_net.features_extractor.network = policy.q_net
    with pytest.raises(RecursionError):
        policy.predict(np.zeros(6, dtype=np.float32))


def test_a_mode_that_all_have_is_not_set_again(monkeypatch):
    policy, modes = make(), []
    set_mode = DQNPolicy.set_training_mode
    monkeypatch.setattr(DQNPolicy, "set_training_mode", lambda *args: modes.append(args[1]) or set_mode(*args))
    for mode in (False, True, True, False, False):
        policy.set_training_mode(mode)
    assert modes == [True, False]
    with pytest.raises(ValueError, match="boolean"):
        policy.set_training_mode(0)


@pytest.mark.parametrize("distributional", [True, False])
def test_a_stream_is_called_as_the_module_that_it_is(distributional):
    network = make(distributional=distributional, noisy=False).q_net
    obs, calls = th.randn(4, 6), []
    expected = network(obs)
    network.q_net.register_forward_hook(lambda *_: calls.append(1))
    network.q_net = Whole(network.q_net)
    assert th.equal(network(obs), expected)
    assert calls == [1]
    with th.autocast("cpu", dtype=th.bfloat16):
        th.testing.assert_close(network(obs), expected, rtol=0.02, atol=0.02)


def test_a_network_in_training_mode_is_compiled_as_a_whole_and_has_shapes_without_numbers():
    network, obs = make().q_net.train(), th.randn(4, 6)
    th.testing.assert_close(th.compile(network, backend="eager", fullgraph=True)(obs), network(obs))
    assert network.to("meta")(obs.to("meta")).shape == (4, 3)


class Whole(nn.Module):
    """Can neither be unpacked nor indexed."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, inputs):
        return self.layers(inputs)


@pytest.mark.parametrize("normalize_images", [True, False])
@pytest.mark.parametrize(
    ("space", "policy_class", "kwargs"),
    [
        (ATARI, CnnPolicy, {}),
        (ATARI, CnnPolicy, {"features_extractor_class": DataEfficientConv}),
        (ATARI, CnnPolicy, {"features_extractor_kwargs": {"layer_norm": True}}),
        (ATARI, CnnPolicy, {"features_extractor_kwargs": {"layer_norm": True, "input_norm": True}}),
        (ATARI, CnnPolicy, {"features_extractor_class": NatureCNN}),
        (VECTOR, MlpPolicy, {}),
        (spaces.Dict({"image": ATARI, "vector": VECTOR}), MultiInputPolicy, {}),
    ],
)
def test_prepared_observations_give_the_same_outputs(space, policy_class, kwargs, normalize_images):
    if not normalize_images and kwargs.get("features_extractor_class") is NatureCNN:
        kwargs = {**kwargs, "features_extractor_kwargs": {"normalized_image": True}}
    set_random_seed(0)
    network = make(space, policy_class, normalize_images=normalize_images, **kwargs).q_net
    space.seed(1)
    rows = [space.sample() for _ in range(8)]
    if isinstance(space, spaces.Dict):
        obs = {key: th.as_tensor(np.stack([row[key] for row in rows])) for key in rows[0]}
    else:
        obs = th.as_tensor(np.stack(rows))
    plain, prepared = network.outputs(obs), network.outputs(network.prepared(obs), is_prepared=True)
    gradients = [th.autograd.grad(outputs.square().sum(), list(network.parameters())) for outputs in (plain, prepared)]
    # Sums in another order: rounding, beside the largest of each tensor
    for left, right in zip((plain, *gradients[0]), (prepared, *gradients[1]), strict=True):
        th.testing.assert_close(left, right, rtol=0, atol=1e-5 * left.abs().max().item())


class Padded(NatureConv):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.cnn[0] = nn.Conv2d(4, 32, 8, 4, padding=2, dilation=1, padding_mode="reflect")


class Brighter(NatureConv):
    def forward(self, observations):
        return super().forward(observations + 0.1)


class Normed(NatureConv):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.cnn.insert(0, nn.InstanceNorm2d(4))


class Hooked(NatureConv):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.cnn[0].register_forward_hook(lambda layer, inputs, outputs: outputs + 0.3)


class InOne(NatureConv):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.cnn = Whole(self.cnn)


@pytest.mark.parametrize("extractor", [Padded, Brighter, Normed, Hooked, InOne])
def test_changed_convolutions_act_and_learn_alike(extractor):
    network = make(ATARI, CnnPolicy, features_extractor_class=extractor).q_net
    obs = th.as_tensor(np.random.default_rng(0).integers(0, 256, (8, *ATARI.shape), dtype=np.uint8))
    plain, prepared = network.outputs(obs), network.outputs(network.prepared(obs), is_prepared=True)
    th.testing.assert_close(plain, prepared, rtol=0, atol=1e-5)


def test_the_answer_for_a_state_does_not_depend_on_the_batch():
    policy = make(noisy=False)
    obs = th.randn(8, 6)
    th.testing.assert_close(policy.q_net(obs)[2:3], policy.q_net(obs[2:3]))


@pytest.mark.parametrize("noisy", [True, False])
def test_the_noisy_switch_reaches_every_layer_behind_the_extractor(noisy):
    policy = make(ATARI, CnnPolicy, noisy=noisy)
    for network in (policy.q_net, policy.q_net_target):
        assert len(noisy_layers(network)) == (4 if noisy else 0)
        plain = [layer for layer in network.modules() if type(layer) is nn.Linear]
        assert len(plain) == (0 if noisy else 4)


def test_network_arguments_reach_the_network():
    policy = make(sigma_init=0.3, noise="independent", n_atoms=11, v_min=0, v_max=5)
    layer = noisy_layers(policy.q_net)[0]
    assert layer.weight_sigma[0, 0].item() == pytest.approx(0.3 / 6**0.5)
    assert not layer.factorised
    assert policy.q_net.head.support.tolist() == pytest.approx([i / 2 for i in range(11)])


def test_online_and_target_network_draw_their_own_noise():
    """Also while the target network is in evaluation mode, as SB3 has it."""
    policy = make()
    obs = th.randn(4, 6)
    assert not policy.q_net_target.training
    reset_noise(policy.q_net)
    reset_noise(policy.q_net_target)
    before = policy.q_net_target.outputs(obs)
    assert not th.allclose(policy.q_net.outputs(obs), before)  # the same weights
    reset_noise(policy.q_net_target)
    assert not th.allclose(policy.q_net_target.outputs(obs), before)


@pytest.mark.parametrize("net_arch", [None, [], [16]])
def test_the_features_dim_of_sb3s_convolutions_is_that_of_the_first_linear_layer(net_arch):
    """With everything off, the same weights from the same seed, wherever the layer belongs."""
    kwargs = {"features_extractor_kwargs": {"features_dim": 128}, "net_arch": net_arch}
    policies = []
    for policy_class, switches in ((CnnPolicy, OFF), (DQNCnnPolicy, {})):
        set_random_seed(3)
        policies.append(policy_class(ATARI, ACTIONS, lambda _: 1e-3, **kwargs, **switches))
    ours, theirs = (list(policy.q_net.parameters()) for policy in policies)
    assert all(th.equal(left, right) for left, right in zip(ours, theirs, strict=True))
    assert kwargs["features_extractor_kwargs"] == {"features_dim": 128}
    assert [layer.in_features for layer in noisy_layers(make(ATARI, CnnPolicy, **kwargs).q_net)].count(3136) == 2
    assert make(ATARI, CnnPolicy, features_extractor_class=NatureCNN, **kwargs).q_net.features_dim == 128


def test_a_features_dim_of_nothing():
    with pytest.raises(ValueError, match="features_dim=0 must be"):
        make(ATARI, CnnPolicy, features_extractor_kwargs={"features_dim": 0})


def test_a_users_own_extractor():
    class Double(BaseFeaturesExtractor):
        def __init__(self, observation_space, factor):
            super().__init__(observation_space, observation_space.shape[0])
            self.factor = factor

        def forward(self, observations):
            return self.factor * observations

    kwargs = {"features_extractor_class": Double, "features_extractor_kwargs": {"factor": 2.0}}
    policy = make(noisy=False, **kwargs)
    assert policy.q_net.features_extractor.factor == 2.0
    assert kwargs["features_extractor_kwargs"] == {"factor": 2.0}


def test_a_users_own_kind_of_our_convolutions():
    class Mine(NatureConv):
        def __init__(self, observation_space):
            super().__init__(observation_space)

    assert make(ATARI, CnnPolicy, features_extractor_class=Mine).q_net.features_dim == 3136


def test_adams_epsilon_is_defaulted_for_adam_only():
    assert make().optimizer.defaults["eps"] == 1.5e-4
    assert make(optimizer_kwargs={"eps": 1e-3}).optimizer.defaults["eps"] == 1e-3
    assert make(optimizer_kwargs={}).optimizer.defaults["eps"] == 1e-8
    assert "eps" not in make(optimizer_class=th.optim.SGD).optimizer.defaults


def test_images_that_are_already_scaled():
    space = spaces.Box(0, 1, (3, 36, 36), np.float32)
    policy = make(space, CnnPolicy, normalize_images=False)
    assert policy.predict(space.sample())[0] in range(3)


@pytest.mark.parametrize("policy_kwargs", [{}, {"features_extractor_class": "sb3_rainbow.networks.DataEfficientConv"}])
def test_policy_alone_saves_and_loads(tmp_path, policy_kwargs):
    policy = make(ATARI, CnnPolicy, v_max=7.0, dueling=False, **policy_kwargs)
    policy.save(tmp_path / "policy")
    loaded = CnnPolicy.load(tmp_path / "policy", device="cpu")
    obs = np.stack([ATARI.sample() for _ in range(6)])
    np.testing.assert_array_equal(
        policy.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )
    assert loaded.q_net.head.support[-1] == 7.0
    assert loaded.q_net.dueling is None


# Acting


def spread_policy():
    """A policy whose noise decides its actions: no means, large sigmas."""
    policy = make(sigma_init=5.0, distributional=False)
    for network in (policy.q_net, policy.q_net_target):
        for layer in noisy_layers(network):
            nn.init.zeros_(layer.weight_mu)
            nn.init.zeros_(layer.bias_mu)
    return policy


def test_deterministic_actions_are_those_of_the_mean_weights():
    policy = make()
    obs = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    first, _ = policy.predict(obs, deterministic=True)
    for _ in range(5):
        reset_noise(policy.q_net)
        np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], first)
    reset_noise(policy.q_net, None)
    np.testing.assert_array_equal(first, policy.q_net(th.as_tensor(obs)).argmax(1).numpy())


def test_actions_follow_a_mask_that_a_user_puts_into_forward():
    """As with SB3's DQN; its hooks are called, too. With noise the other two actions are chosen in turn."""
    policy = make(sigma_init=5.0)
    obs = np.random.default_rng(0).standard_normal((1, 6)).astype(np.float32).repeat(64, axis=0)
    masked = policy.predict(obs, deterministic=True)[0][0]
    forward, calls = policy.q_net.forward, []
    policy.q_net.forward = lambda obs: forward(obs).index_fill(1, th.tensor([masked]), -th.inf)
    policy.q_net.register_forward_hook(lambda _, inputs, q_values: calls.append(q_values.shape))
    others = {0, 1, 2} - {masked}
    (greedy,) = {*policy.predict(obs, deterministic=True)[0]}
    assert greedy in others
    assert {*policy.predict(obs, deterministic=False)[0]} == others
    assert calls == [(64, 3)] * 2


@pytest.mark.parametrize("distributional", [True, False])
def test_q_values_outside_of_training_are_those_of_the_mean_weights(distributional):
    """As users of DQN get them, ``model.q_net(obs)``, also of a network that torch has traced."""
    policy = make(sigma_init=5.0, distributional=distributional)
    obs = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    rows = th.as_tensor(obs)
    q_values = policy.q_net(rows)  # of one that is new
    policy.set_training_mode(True)
    in_training = policy.q_net(rows)
    policy.set_training_mode(False)
    th.testing.assert_close(policy.q_net(rows), q_values, rtol=0, atol=0)
    np.testing.assert_array_equal(q_values.argmax(1).numpy(), policy.predict(obs, deterministic=True)[0])
    assert not th.allclose(in_training, q_values)
    reset_noise(policy.q_net)
    th.testing.assert_close(policy.q_net(rows), q_values, rtol=0, atol=0)
    th.testing.assert_close(th.jit.trace(policy.q_net, rows[:2])(rows), q_values)
    policy.set_training_mode(True)
    reset_noise(policy.q_net, None)
    th.testing.assert_close(policy.q_net(rows), q_values, rtol=0, atol=0)


def test_each_row_of_a_batch_explores_with_noise_of_its_own_fresh_at_each_call():
    """With one sample for all, 64 equal observations would get one action; with a frozen one, the same every time."""
    policy = spread_policy()
    obs = np.ones((64, 6), dtype=np.float32)
    first, _ = policy.predict(obs, deterministic=False)
    second, _ = policy.predict(obs, deterministic=False)
    assert len(set(first)) > 1
    assert (first != second).any()
    singles = [int(policy.predict(obs[0], deterministic=False)[0]) for _ in range(64)]
    assert len(set(singles)) > 1


def test_acting_leaves_the_networks_noise_alone():
    policy = make()
    obs = th.randn(5, 6)
    before = policy.q_net.outputs(obs)
    policy.predict(obs[:3].numpy(), deterministic=False)
    policy.predict(obs[:3].numpy(), deterministic=True)
    assert th.equal(policy.q_net.outputs(obs), before)


@pytest.mark.parametrize("observation", ["vector", "image", "dict", "discrete"])
def test_single_observations_and_batches(observation):
    env = Corridor(observation=observation)
    policy = {"vector": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy", "discrete": "MlpPolicy"}
    model = RainbowDQN(policy[observation], env, buffer_size=100, batch_size=8)
    obs, _ = env.reset()
    for deterministic in (True, False):
        action, state = model.predict(obs, deterministic=deterministic)
        assert action.shape == ()
        assert state is None
        batch = (
            {key: np.stack([value] * 3) for key, value in obs.items()} if observation == "dict" else np.array([obs] * 3)
        )
        actions, _ = model.predict(batch, deterministic=deterministic)
        assert actions.shape == (3,)


def test_lists_and_tuples_of_numbers_are_observations_and_what_reset_returns_is_a_mistake():
    model = RainbowDQN("MlpPolicy", "CartPole-v1", buffer_size=100)
    for deterministic in (True, False):
        for observation in ([0.0, 0.1, 0.2, 0.3], (0.0, 0.1, 0.2, 0.3)):
            assert model.predict(observation, deterministic=deterministic)[0].shape == ()
        with pytest.raises(ValueError, match="You have passed a tuple to the predict"):
            model.predict((np.zeros(4), {}), deterministic=deterministic)
    model = RainbowDQN("CnnPolicy", FakeImageEnv(discrete=True), buffer_size=100)
    image = model.observation_space.sample().tolist()
    for deterministic in (True, False):
        assert model.predict(image, deterministic=deterministic)[0].shape == ()


def test_channels_last_images_work_as_in_stable_baselines3():
    env = FakeImageEnv(discrete=True, screen_height=40, screen_width=40, channel_first=False)
    model = RainbowDQN("CnnPolicy", env, buffer_size=100, batch_size=8, learning_starts=10)
    theirs = DQN("CnnPolicy", env, buffer_size=100)
    assert model.observation_space == theirs.observation_space
    model.learn(20)
    assert model.predict(env.observation_space.sample())[0].shape == ()
