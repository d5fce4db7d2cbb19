"""What a gradient step learns from and changes: targets, weights, priorities, noise, precision."""

import copy
import pickle
import weakref
from functools import partial
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor
from gymnasium import spaces
from models import OFF, make
from needs import needs_compiler
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from torch import nn

from sb3_rainbow import RainbowDQN
from sb3_rainbow.compiled import Compiled
from sb3_rainbow.networks import has_modes
from sb3_rainbow.noisy import noisy_layers


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("distributional", [True, False])
def test_double_q_selects_with_the_online_and_evaluates_with_the_target_network(double_q, distributional):
    """Hand-computed: online values (0, 1), target values (5, 2), reward 1, gamma 0.5."""
    model = make(Corridor(length=1000), double_q=double_q, dueling=False, noisy=False, distributional=distributional,
                 prioritized_replay=False, n_steps=1, gamma=0.5, learning_rate=0.0, batch_size=1,
                 policy_kwargs={"net_arch": [], "n_atoms": 15, "v_min": 0, "v_max": 7})  # fmt: skip
    for network, values in ((model.q_net, [0.0, 1.0]), (model.q_net_target, [5.0, 2.0])):
        nn.init.zeros_(network.q_net[0].weight)
        if distributional:  # all on the atom of that value
            logits = [100 * (network.head.support == value).float() for value in values]
            network.q_net[0].bias.data[:] = th.cat(logits)
        else:
            network.q_net[0].bias.data[:] = th.tensor(values)
    obs = np.zeros((1, 2), np.float32)
    model.replay_buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([False]), [{}])
    targets = []
    head_loss = model.q_net.head.loss
    model.q_net.head.loss = lambda outputs, actions, target: (
        targets.append(target) or head_loss(outputs, actions, target)
    )
    model.set_logger(configure(None, []))
    model.train(1, batch_size=1)
    target = (targets[0] @ model.q_net.head.support).item() if distributional else targets[0].item()
    assert target == pytest.approx(1 + 0.5 * (2.0 if double_q else 5.0))
    assert model.logger.name_to_value["train/q_mean"] == pytest.approx(0.0, abs=1e-6)
    if not distributional:
        assert model.logger.name_to_value["train/td_error"] == pytest.approx(target)
        assert model.logger.name_to_value["train/loss"] == pytest.approx(target - 0.5)


@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize("distributional", [True, False])
def test_the_target_bootstraps_n_steps_on_unless_the_state_is_terminal(truncated, distributional, monkeypatch):
    """Two steps of reward 1, then a truncation or a terminal state; gamma is 0.5."""
    model = make(distributional=distributional, n_steps=3, gamma=0.5)
    for step in (1, 2):
        obs = np.full((1, 4), step, np.float32)
        infos = [{"TimeLimit.truncated": truncated and step == 2}]
        model.replay_buffer.add(obs, obs + 1, np.array([0]), np.array([1.0]), np.array([step == 2]), infos)
    batch = model.replay_buffer._get_samples(np.array([0]))
    model.replay_buffer.sample = lambda *args, **kwargs: batch
    seen = {}

    def watched(function, name):
        def call(*args, **kwargs):
            seen[name] = args
            return function(*args, **kwargs)

        return call

    head = model.q_net.head
    monkeypatch.setattr(head, "target", watched(head.target, "target"))
    monkeypatch.setattr(model.q_net_target, "outputs", watched(model.q_net_target.outputs, "next"))
    online, outputs = [], model.q_net.outputs
    monkeypatch.setattr(model.q_net, "outputs", lambda obs, **kwargs: online.append(obs) or outputs(obs, **kwargs))
    model.set_logger(configure(None, []))
    model.train(1, batch_size=1)
    assert [obs.tolist() for obs in online] == [[[1.0] * 4], [[3.0] * 4]]  # learned from, and selected with
    assert seen["next"][0].tolist() == [[3.0] * 4]  # after the second step
    assert [value.item() for value in seen["target"][2:]] == [1.5, 0.25 if truncated else 0.0]


@pytest.mark.parametrize("distributional", [True, False])
def test_weights_multiply_losses_one_by_one(distributional):
    """The gradient of a weighted batch is the weighted mean of the gradients, not that of a (batch, batch) matrix."""
    model = make(**{**OFF, "prioritized_replay": True, "distributional": distributional}, n_steps=1, learning_rate=1.0,
                 policy_kwargs={"net_arch": [], "optimizer_class": th.optim.SGD}, max_grad_norm=None)  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(8):
        obs = rng.standard_normal((1, 4)).astype(np.float32)
        model.replay_buffer.add(obs, obs, np.array([0]), rng.standard_normal(1) * 3, np.array([True]), [{}])
    model.replay_buffer.update_priorities(np.arange(8), np.linspace(0.1, 3, 8))
    model.set_logger(configure(None, []))
    batch = model.replay_buffer.sample(4)
    assert batch.weights.min() < 0.9
    model.replay_buffer.sample = lambda *args, **kwargs: batch
    layer = copy.deepcopy(model.q_net.q_net[0])
    outputs = layer(batch.observations)
    if distributional:  # the gradient of the cross-entropy with the return's projection
        head = model.q_net.head
        target = head.target(outputs.reshape(4, 2, -1), th.zeros(4, 1), batch.rewards, th.zeros(4, 1))
        errors = (outputs.reshape(4, 2, -1)[:, 0].softmax(1) - target)[:, 7]  # of one of the atoms
        row = 7
    else:  # the gradient of Huber's loss; the states are terminal, so nothing is bootstrapped
        errors, row = (outputs[:, 0] - batch.rewards[:, 0]).clamp(-1, 1), 0
    expected = (batch.weights * errors[:, None] * batch.observations).mean(0)
    model.train(1, batch_size=4)
    th.testing.assert_close(layer.weight[row] - model.q_net.q_net[0].weight[row], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("distributional", [True, False])
def test_each_row_drawn_gets_its_own_priority_plus_epsilon_to_the_power_of_alpha(distributional):
    model = make(noisy=False, distributional=distributional, learning_rate=0.0, learning_starts=10**6,
                 prioritized_replay_eps=0.5, prioritized_replay_alpha=0.7)  # fmt: skip
    with pytest.warns(UserWarning, match="before learning starts"):
        model.learn(100)
    before = model.replay_buffer.sampler.tree[np.arange(100)].copy()
    model.train(1, batch_size=16)
    drawn = np.unique(model.replay_buffer._drawn)
    batch = model.replay_buffer._get_samples(drawn)
    head = model.q_net.head
    with th.no_grad():
        next_actions = model.q_net(batch.next_observations).argmax(1, keepdim=True)
        target = head.target(model.q_net_target.outputs(batch.next_observations), next_actions, batch.rewards,
                             (1 - batch.dones) * batch.discounts)  # fmt: skip
        _, priorities = head.loss(model.q_net.outputs(batch.observations), batch.actions, target)
    after = model.replay_buffer.sampler.tree[np.arange(100)]
    np.testing.assert_allclose(after[drawn], (priorities.squeeze(1).numpy() + 0.5) ** 0.7, rtol=1e-4)
    others = np.setdiff1d(np.arange(100), drawn)
    np.testing.assert_array_equal(after[others], before[others])


def test_learning_is_in_training_mode_after_the_network_has_played():
    model = make()
    model.learn(100)
    gradient_step, modes = model._gradient_step, []
    model._gradient_step = lambda batch: modes.append(model.q_net.training) or gradient_step(batch)
    model.train(1)
    model.q_net.predict(model.observation_space.sample())
    assert not model.q_net.training
    model.train(2)
    assert modes == [True] * 3


class Normalized(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 2)
        self.norm, self.dropout = nn.BatchNorm1d(2), nn.Dropout(0.5)

    def forward(self, observations):
        return self.dropout(self.norm(observations))


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
def test_batch_normalization_counts_observations_alone(compile):
    """As in SB3's DQN, where the online network never sees the next ones; what selects among them has no dropout."""
    norms = []
    for double_q, compiled in ((False, False), (False, compile), (True, compile)):
        model = make(Corridor(length=1000), double_q=double_q, compile=compiled,
                     policy_kwargs={"net_arch": [8], "features_extractor_class": Normalized})  # fmt: skip
        obs = np.random.default_rng(0).normal(size=(40, 1, 2)).astype(np.float32)
        for row in obs:
            model.replay_buffer.add(row, row + 10, np.array([0]), np.array([1.0]), np.array([False]), [{}])
        modes = []
        model.q_net.features_extractor.register_forward_hook(
            lambda module, *_, modes=modes: modes.append(module.training)
        )
        model.set_logger(configure(None, []))
        np.random.seed(0)
        norm, clip_gradient = model.q_net.features_extractor.norm, model._clip_gradient
        norms.append(norm)
        after_loss = []
        model._clip_gradient = lambda norm=norm, clip=clip_gradient, seen=after_loss: (
            seen.append(norm.training) or clip()
        )
        model.train(1, batch_size=16)
        assert compiled or modes == ([True, False] if double_q else [True])
        assert after_loss == [True]
    assert all(norm.num_batches_tracked == 1 for norm in norms)
    assert norms[0].running_mean.abs().max() > 0
    for norm in norms[1:]:
        for name in ("running_mean", "running_var"):
            th.testing.assert_close(getattr(norms[0], name), getattr(norm, name), rtol=1e-6, atol=1e-7)


class Functional(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 2)

    def forward(self, observations):
        return nn.functional.dropout(observations, 0.5, self.training)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm2d(3), True),
        (nn.Dropout2d(), True),
        (nn.RReLU(), True),
        (nn.LSTM(4, 4, 2, dropout=0.5), True),
        (nn.MultiheadAttention(4, 2, dropout=0.5), True),
        (Functional(spaces.Box(0, 1, (2,))), True),
        (nn.Sequential(nn.Conv2d(4, 4, 2), nn.ReLU(), nn.LayerNorm(3)), False),
        (NatureCNN(spaces.Box(0, 255, (4, 84, 84), np.uint8)), False),
        (make().q_net, False),
    ],
)
def test_what_may_be_another_in_evaluation_mode(layer, expected):
    assert has_modes(nn.Sequential(nn.Flatten(), layer)) == expected


@pytest.mark.parametrize("distributional", [True, False])
def test_amp_takes_nearly_the_same_gradient_step(distributional, tmp_path):
    """bfloat16 has 8 bits: each product is off by up to 0.4 %, weights and what the head computes are not."""
    models = []
    for amp in (False, True):
        model = make(amp=amp, distributional=distributional, learning_starts=10**6, policy_kwargs={
            "net_arch": [64], "optimizer_class": th.optim.SGD}, learning_rate=1.0)  # fmt: skip
        with pytest.warns(UserWarning, match="before learning starts"):
            model.learn(100)
        before = model.policy.parameters_to_vector()
        np.random.seed(1)
        th.manual_seed(1)
        model.train(1, batch_size=64)
        models.append((model, model.policy.parameters_to_vector() - before))
    (exact, step), (rough, rough_step) = models
    assert np.linalg.norm(rough_step - step) < 0.05 * np.linalg.norm(step)
    assert (rough_step != step).any()
    tree, rough_tree = (model.replay_buffer.sampler.tree[np.arange(100)] for model in (exact, rough))
    np.testing.assert_allclose(rough_tree, tree, rtol=0.1)
    assert all(parameter.dtype == th.float32 for parameter in rough.policy.parameters())
    rough.save(tmp_path / "amp")
    assert RainbowDQN.load(tmp_path / "amp").amp is True


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"amp": True, "noise": "independent"},
        OFF,
    ],
)
@needs_compiler
def test_compiled_gradient_steps_are_equal_but_for_rounding(kwargs, tmp_path):
    """Another batch size too, which is compiled anew."""
    noise = {"noise": kwargs.pop("noise")} if "noise" in kwargs else {}
    steps = []
    for compiled in (False, True):
        model = make(compile=compiled, learning_starts=10**6, learning_rate=1.0, **kwargs, policy_kwargs={
            "net_arch": [16], "optimizer_class": th.optim.SGD, **noise})  # fmt: skip
        with pytest.warns(UserWarning, match="before learning starts"):
            model.learn(100)
        np.random.seed(1)
        th.manual_seed(1)
        before = model.policy.parameters_to_vector()
        model.train(1, batch_size=64)
        model.train(1, batch_size=32)
        steps.append(model.policy.parameters_to_vector() - before)
    step, compiled_step = steps
    assert np.linalg.norm(compiled_step - step) < (0.05 if "amp" in kwargs else 1e-4) * np.linalg.norm(step)
    model.save(tmp_path / "compiled")
    loaded = RainbowDQN.load(tmp_path / "compiled", gym.make("CartPole-v1"), learning_starts=50)
    assert loaded.compile is True
    loaded.learn(60)
    assert loaded._n_updates == 2 + 3


@pytest.fixture
def graphs(monkeypatch):
    """What is compiled, which is run as it is written."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(th, "compile", partial(th.compile, backend=keep))
    return graphs


def test_a_compiled_model_is_sent_to_another_process(graphs):
    model = make(compile=True).learn(60)
    for n, sent in enumerate((pickle.loads(pickle.dumps(model)), copy.deepcopy(model)), 1):
        assert sent._loss_function is not model._loss_function
        before = sent.policy.parameters_to_vector()
        np.testing.assert_array_equal(before, model.policy.parameters_to_vector())
        assert len(graphs) == n
        sent.learn(60)
        assert len(graphs) == n + 1
        assert not np.array_equal(sent.policy.parameters_to_vector(), before)


@th._dynamo.config.patch(recompile_limit=2)
def test_each_of_many_models_is_compiled(graphs):
    """torch gives up on a function after ``recompile_limit`` versions of it: 2 here, 8 by default."""
    for width in range(1, 4):
        model = make(Corridor(length=20), compile=True, policy_kwargs={"net_arch": [width]}).learn(60)
        assert len(graphs) == width
        assert model._n_updates > 1


class Scaling(FlattenExtractor):
    """As a user may write it: what it is given is its own."""

    writes: bool

    def forward(self, observations):
        if self.writes:
            observations /= 10
        else:
            observations = observations / 10
        return super().forward(observations)


def test_a_features_extractor_may_write_into_what_it_is_given():
    """Each network's gets the observations, not what another one has left of them."""
    weights = []
    for writes in (False, True):
        kwargs = {"net_arch": [16], "features_extractor_class": type("Own", (Scaling,), {"writes": writes})}
        model = make(Corridor(length=20), policy_kwargs=kwargs, train_freq=1, learning_rate=0.01).learn(150)
        assert model._n_updates > 90
        weights.append(model.policy.parameters_to_vector())
    np.testing.assert_array_equal(*weights)


def test_a_compiled_function_keeps_its_defaults(graphs):
    def scaled(values, shift=1.0, *, scale=2.0):
        return values * scale + shift

    assert Compiled(scaled)(th.ones(3)).tolist() == [3, 3, 3]
    assert len(graphs) == 1


def test_a_compiler_that_is_not_there_is_told_of():
    """Triton on a GPU: no backend failed then."""
    compiled = Compiled(abs_of)
    compiled._fast = Mock(side_effect=th._dynamo.exc.ShortenTraceback("cannot find Triton", first_useful_frame=None))
    with pytest.raises(ValueError, match=r"cannot find Triton\. Install .* Triton too, or write compile=False"):
        compiled(th.ones(3))


def test_a_model_may_be_made_where_torch_does_not_compile_for_this_python(monkeypatch):
    monkeypatch.setattr(th, "compile", Mock(side_effect=RuntimeError("torch.compile is not supported on Python 3.99+")))
    model = make(compile=True, learning_starts=20)
    model.predict(np.zeros(4))
    with pytest.raises(ValueError, match=r"compile=True does not work .* on Python 3\.99\+\. Write compile=False"):
        model.learn(40)


def test_what_torch_refuses_to_compile_leaves_the_callers_alone(monkeypatch):
    """Their frames hold what a model is loaded from."""
    monkeypatch.setattr(th, "compile", Mock(side_effect=RuntimeError("not supported")))

    def load():
        large = th.zeros(3)
        return Compiled(abs_of), weakref.ref(large)

    compiled, large = load()
    assert large() is None
    with pytest.raises(ValueError, match="not supported"):
        compiled(th.ones(3))


def abs_of(values):
    return values.abs()


@pytest.mark.parametrize("max_grad_norm", [1e-6, 1e-4, 0.3, 0.9, 10.0, None])
@pytest.mark.parametrize("scale", [0.0, 0.5, 0.9985, 1.0, 3.0, 1e20, float("inf"), float("nan")])
def test_the_gradient_is_clipped_as_torch_does(max_grad_norm, scale):
    model = make(max_grad_norm=max_grad_norm)
    weights = list(model.q_net.parameters())
    unit = th.randn(sum(weight.numel() for weight in weights), generator=th.Generator().manual_seed(0))
    limit = 1.0 if max_grad_norm is None else max_grad_norm
    gradients = (unit / unit.norm() * limit * scale).split([weight.numel() for weight in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.view_as(weight).clone()
    norm = model._clip_gradient()
    clipped = [weight.grad.clone() for weight in weights]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.view_as(weight).clone()
    expected = th.nn.utils.clip_grad_norm_(weights, np.inf if max_grad_norm is None else max_grad_norm)
    th.testing.assert_close(norm, expected, equal_nan=True)
    for weight, gradient in zip(weights, clipped, strict=True):
        th.testing.assert_close(gradient, weight.grad, rtol=0, atol=0, equal_nan=True)


def test_online_and_target_network_get_fresh_noise_in_every_gradient_step():
    """Also within one call of train()."""
    model = make().learn(60)
    seen = []
    for network in (model.q_net, model.q_net_target):
        noisy_layers(network)[0].register_forward_hook(lambda layer, *_: seen.append(layer._noise_out[0, 0].item()))
    model.train(3, batch_size=16)
    # In each step: the target network, the online network for the loss, and again to select actions
    assert len(seen) == 9
    assert len(set(seen)) == 6
    assert all(seen[i + 1] == seen[i + 2] for i in (0, 3, 6))


def test_sigmas_are_learned_and_the_target_network_is_not():
    model = make(target_update_interval=10**6)
    sigma = noisy_layers(model.q_net)[0].weight_sigma.clone()
    target = model.q_net_target.state_dict()
    target = {name: value.clone() for name, value in target.items()}
    model.learn(200)
    assert not th.equal(noisy_layers(model.q_net)[0].weight_sigma, sigma)
    assert all(th.equal(value, target[name]) for name, value in model.q_net_target.state_dict().items())
