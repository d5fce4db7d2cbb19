"""Gradient steps of a GPU. All but the last tests make them on the CPU, where they are the same but for the graph."""

import copy
import pickle
import warnings
from collections import defaultdict
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor
from models import OFF
from needs import needs_compiler, needs_gpu
from scipy import stats
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rainbow import RainbowDQN, capturing, device_replay, rainbow
from sb3_rainbow.captured import CapturedSteps, Settings
from sb3_rainbow.compiled import Compiled
from sb3_rainbow.device_replay import DeviceReplay
from sb3_rainbow.heads import CategoricalHead


def make(observation="vector", n_rows=120, env=None, **kwargs):
    """A model with a filled buffer, which has learned nothing yet."""
    defaults = {
        "policy_kwargs": {"net_arch": [16]},
        "buffer_size": 100,
        "learning_starts": 10**6,
        "learning_rate": 0.01,
    }
    policy = "MlpPolicy" if observation == "vector" else "CnnPolicy"
    if observation == "image":
        defaults["policy_kwargs"]["features_extractor_class"] = "sb3_rainbow.networks.DataEfficientConv"
    env = Corridor(observation=observation) if env is None else env
    model = RainbowDQN(policy, env, seed=0, **({"device": "cpu"} | defaults | kwargs))
    with pytest.warns(UserWarning, match="before learning starts"):
        model.learn(n_rows)
    return model


def not_compiled(function, **options):
    return function


def settings(model, batch_size=32):
    return Settings(batch_size, model.double_q, model.amp, model.max_grad_norm, model.prioritized_replay_eps)


@pytest.fixture
def on_the_cpu(monkeypatch):
    """RainbowDQN does on the CPU what it does on a GPU, but does not wait for a compiler."""
    monkeypatch.setattr(CapturedSteps, "DEVICES", ("cpu",))
    for module in (rainbow, capturing):
        monkeypatch.setattr(module, "Compiled", not_compiled)


@pytest.mark.parametrize(
    ("observation", "kwargs"),
    [
        ("vector", {}),
        ("vector", {"prioritized_replay_eps": 0.5}),
        ("image", {"max_grad_norm": 0.01}),
        ("vector", {"double_q": False, "distributional": False, "max_grad_norm": None}),
        ("vector", OFF | {"n_steps": 1}),
    ],
)
def test_weights_and_priorities_are_those_of_ordinary_gradient_steps(observation, kwargs, monkeypatch):
    """The same rows and the same noise, for five steps. The largest weights are changed apart from the others."""
    monkeypatch.setattr("sb3_rainbow.captured._LARGE", 500)
    model = make(observation, **kwargs)
    other = copy.deepcopy(model)
    seen = defaultdict(list)

    def watched(function, **options):
        def call(*args):
            seen[function.__name__].append(function(*args))
            return seen[function.__name__][-1]

        return call

    captured = CapturedSteps(model.policy, watched)
    captured.make(model.replay_buffer, 5, settings(model))
    captured.write_back()
    assert captured._adam.small
    assert captured._adam.large or not model.distributional  # which alone has as many here
    logs = defaultdict(float)
    for step in range(5):
        noise = {
            id(net): seen["_make_weights"][2 * step + which][0]
            for which, net in enumerate((other.q_net, other.q_net_target))
        }

        def set_noise(network):
            layers = [
                layer for pair in zip(*network.streams, strict=True) for layer in pair if hasattr(layer, "set_noise")
            ]
            for layer, (of_weights, of_biases) in zip(layers, noise[id(network)], strict=True):  # noqa: B023
                layer.set_noise(of_weights.unsqueeze(0), of_biases.unsqueeze(0))

        monkeypatch.setattr(rainbow, "reset_noise", set_noise)
        *_, weights, rows = seen["_draw"][step]
        batch = other.replay_buffer._get_samples(rows.numpy())._replace(weights=weights)
        for name, value in other._gradient_step(batch).items():
            logs[name] += float(value.detach())
    for left, right in zip(model.q_net.parameters(), other.q_net.parameters(), strict=True):
        th.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)
    states = [each.policy.optimizer.state_dict()["state"] for each in (model, other)]
    assert all(state["step"] == 5 for state in states[0].values())
    for left, right in zip(*(state.values() for state in states), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert (left[name] - right[name]).norm() <= 1e-3 * right[name].norm() + 1e-9
    if model.prioritized_replay:
        trees = [each.replay_buffer.sampler.tree[np.arange(100)] for each in (model, other)]
        np.testing.assert_allclose(*trees, rtol=1e-3)
        assert model.replay_buffer.sampler.max_priority == pytest.approx(other.replay_buffer.sampler.max_priority, 1e-3)
    sums, n_steps = captured.take_log()
    assert n_steps == 5
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(logs, rel=1e-3, abs=1e-5)
    assert captured.take_log() == ({}, 0)
    assert captured.failure(wait=True) == {}


def test_a_model_trains_logs_and_saves_as_ever(on_the_cpu, tmp_path):
    common = {"learning_starts": 40, "n_rows": 30, "train_freq": 4, "gradient_steps": 2}
    logged = []
    for is_captured in (True, False):
        model = make(compile=is_captured, **common) if is_captured else make(**common)
        model.set_logger(configure(str(tmp_path / str(is_captured)), ["csv"]))
        model.learn(90, log_interval=10**6)
        assert (model._captured is not None) == is_captured
        model.dump_logs()
        logged.append((tmp_path / str(is_captured) / "progress.csv").read_text().splitlines()[0].split(","))
        if is_captured:
            trained = model
    assert sorted(logged[0]) == sorted(logged[1])
    assert trained._n_updates == 2 * 13
    assert trained.replay_buffer.sampler.max_priority == float(trained._captured.replay.max_priority)
    tree = trained.replay_buffer.sampler.tree[np.arange(100)]
    assert np.unique(tree[:60]).size > 20  # priorities have come back
    trained.set_logger(Logger(folder=None, output_formats=[]))  # files cannot be copied
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "buffer")
    copied = copy.deepcopy(trained)
    loaded = RainbowDQN.load(tmp_path / "model", Corridor(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    np.testing.assert_array_equal(loaded.replay_buffer.sampler.tree[np.arange(100)], tree)
    for model in (trained, copied, loaded):
        model.learn(20, reset_num_timesteps=False)
        assert model._n_updates > 26
        steps = {int(state["step"]) for state in model.policy.optimizer.state.values()}
        assert steps == {model._n_updates}
        assert model._captured.replay.buffer is model.replay_buffer


def test_what_changes_between_steps_counts(on_the_cpu):
    """The learning rate, beta, gamma and another state of the optimizer."""
    model = make(compile=True, n_rows=60)
    model._current_progress_remaining = 1.0
    model.train(1, 32)
    captured = model._captured
    first = captured.replay
    model.lr_schedule = lambda _: 0.0
    before = model.policy.parameters_to_vector()
    model._current_progress_remaining = 0.5
    model.train(2, 32)
    assert (model.policy.parameters_to_vector() == before).all()
    assert float(first.beta) == pytest.approx(0.7)
    assert captured.replay is first
    model.gamma = 0.5
    model.train(1, 16)
    assert captured.replay is first
    assert float(first.gamma) == 0.5
    model.n_steps = 2
    model.train(1, 16)
    assert captured.replay is not first
    assert captured.replay.n_steps == 2
    model.lr_schedule = lambda _: 0.01
    saved = copy.deepcopy(model.get_parameters())
    model.train(3, 32)
    model.set_parameters(saved)
    model.train(1, 32)
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {6}


def test_nothing_changes_after_a_loss_that_is_not_finite(on_the_cpu):
    model = make(compile=True, n_rows=60)
    model.train(3, 32)
    vector, leaves = model.policy.parameters_to_vector(), model._captured.replay.leaves.clone()
    state = copy.deepcopy(model.policy.optimizer.state_dict()["state"])
    rewards = model._captured.replay.rewards.clone()
    model._captured.replay.rewards.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"rewards=nan is not finite, at env step 60; it has changed no weight"):
        model.train(4, 32)
    assert (model.policy.parameters_to_vector() == vector).all()
    assert (model._captured.replay.leaves == leaves).all()
    th.testing.assert_close(model.policy.optimizer.state_dict()["state"], state, rtol=0, atol=0)
    model._captured.replay.rewards.copy_(rewards)
    model.q_net_target.value[0].bias_mu.data.fill_(float("inf"))
    with pytest.raises(ValueError, match="loss=nan is not finite"):
        model.train(1, 32)
    assert (model._captured.replay.leaves == leaves).all()
    model.q_net_target.load_state_dict(model.q_net.state_dict())
    model.train(1, 32)  # whoever has mended it may go on
    assert (model.policy.parameters_to_vector() != vector).any()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"compile": False},
        {"policy_kwargs": {"optimizer_class": th.optim.SGD}},
        {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}},
        {"observation": "discrete"},
    ],
)
def test_where_gradient_steps_are_ordinary_ones(kwargs, on_the_cpu):
    kwargs = {"compile": True} | kwargs
    env = Corridor(observation=kwargs.pop("observation", "vector"))
    model = make(env=env, n_rows=60, **kwargs)
    model.train(1, 32)
    assert model._captured is None
    assert model._n_updates == 1


@pytest.mark.parametrize("name", ["_gradient_step", "_loss", "_clip_gradient"])
def test_a_subclass_makes_its_own_gradient_steps(name, on_the_cpu):
    model, calls = make(compile=True, n_rows=60), []
    inherited = getattr(RainbowDQN, name)
    own = {name: lambda *args: (calls.append(name), inherited(*args))[1]}
    model.__class__ = type("Own", (RainbowDQN,), own)
    model._loss_function = model.__class__._loss
    model.train(2, 32)
    assert calls == [name] * 2
    assert model._captured is None


def test_they_get_the_models_own_numbers(on_the_cpu, monkeypatch):
    given = []
    monkeypatch.setattr(CapturedSteps, "make", lambda self, *args: given.append(args))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of processors that are slow in bfloat16
        model = make(compile=True, n_rows=60, double_q=False, amp=True, max_grad_norm=0.5, prioritized_replay_eps=0.25)
    model.train(3, 16)
    assert given == [(model.replay_buffer, 3, Settings(16, False, True, 0.5, 0.25))]


def test_an_interruption_before_the_first_step(on_the_cpu, monkeypatch):
    model = make(compile=True, n_rows=60)
    with monkeypatch.context() as interrupted:
        interrupted.setattr("sb3_rainbow.captured._adam_of", lambda policy: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.train(1, 32)
    model.train(1, 32)
    assert model._n_updates == 1


def test_files_have_the_priorities_between_two_steps(on_the_cpu, tmp_path):
    model = make(compile=True, n_rows=60)
    model.train(8, 32)
    leaves = model._captured.replay.leaves.view(-1)[:60].clone()
    assert len(leaves.unique()) > 30
    model.save_replay_buffer(tmp_path / "buffer")
    saved = pickle.loads((tmp_path / "buffer.pkl").read_bytes())
    np.testing.assert_array_equal(saved.sampler.tree[np.arange(60)], leaves)
    model.train(8, 32)
    leaves = model._captured.replay.leaves.view(-1)[:60].clone()
    model.save(tmp_path / "model", include=["replay_buffer"])
    loaded = RainbowDQN.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.replay_buffer.sampler.tree[np.arange(60)], leaves)


def test_a_buffer_that_does_not_fit_is_told(on_the_cpu, monkeypatch):
    model = make(compile=True, n_rows=60)
    replay = DeviceReplay(model.replay_buffer, th.device("cpu"))
    rows = (replay.actions, replay.rewards, replay.ends, replay.terminals)
    replay_bytes = sum(tensor.nbytes for tensor in rows) + model.replay_buffer.sampler.full_bytes
    replay_bytes += 1.05 * model.replay_buffer.storage.full_bytes
    monkeypatch.setattr(device_replay, "_free_bytes", lambda device: 2**30 + replay_bytes / 2)
    with pytest.warns(UserWarning, match=r"buffer_size=100: .* does not fit into the memory of cpu, .* About 50 tran"):
        model.train(1, 32)
    monkeypatch.setattr(device_replay, "_free_bytes", lambda device: 2**30 + replay_bytes / 3)
    with warnings.catch_warnings(action="error"):  # once is enough
        model.train(1, 32)
    assert model._captured is None
    monkeypatch.setattr(device_replay, "_free_bytes", lambda device: 2**30 + replay_bytes + 1)
    model.learning_starts = 0
    model.learn(4)
    assert model._captured is not None


def freeze(model):
    model.q_net.value[0].weight_mu.requires_grad_(False)


def decay(model):
    model.policy.optimizer.param_groups[0]["weight_decay"] = 0.1


def watch(model):
    model.q_net.q_net[0].register_forward_hook(lambda *_: None)


def watch_weights(model):
    model.q_net.q_net[0].weight_mu.register_hook(lambda gradient: gradient)


def replace_policy(model):
    model.policy = copy.deepcopy(model.policy)
    model._create_aliases()
    replace_optimizer(model)


def replace_optimizer(model):
    model.policy.optimizer = th.optim.SGD(model.q_net.parameters(), lr=0.01)


def normalize(model):
    model.set_env(VecNormalize(model.get_env()))


def do_not_compile(model):
    model.compile = False


@pytest.mark.parametrize(
    "change", [freeze, decay, watch, watch_weights, replace_policy, replace_optimizer, normalize, do_not_compile]
)
@pytest.mark.parametrize("n_before", [0, 3])
def test_what_stops_to_suit(change, n_before, on_the_cpu, monkeypatch):
    model = make(compile=True, n_rows=60)
    if n_before:
        model.train(n_before, 32)
        assert model._captured is not None
    change(model)
    ordinary = []
    monkeypatch.setattr(CapturedSteps, "make", lambda *_: pytest.fail("it does not suit"))
    monkeypatch.setattr(model.replay_buffer, "update_priorities", lambda *args: ordinary.append(args))
    model.train(2, 32)
    assert len(ordinary) == 2


def test_frozen_weights_are_not_changed_until_they_may_be(on_the_cpu):
    model = make(compile=True, n_rows=60)
    weight = model.q_net.value[0].weight_mu
    for may_change in (True, False, True):
        weight.requires_grad_(may_change)
        before = weight.clone()
        model.train(2, 32)
        assert bool((weight != before).any()) == may_change
    # Adam corrects the bias of each weight's averages by its own number of steps
    assert int(model.policy.optimizer.state[weight]["step"]) == 4
    assert int(model.policy.optimizer.state[model.q_net.value[0].bias_mu]["step"]) == 6


@pytest.mark.parametrize("is_loaded", [False, True])
def test_weights_that_were_frozen_from_the_start_have_made_fewer_steps_than_others(is_loaded, on_the_cpu, tmp_path):
    """Adam has no state of them, also in a file, which does not say that they are frozen."""
    model = make(compile=True, n_rows=60)
    model.q_net.value[0].weight_mu.requires_grad_(False)
    model.train(2, 32)
    if is_loaded:
        buffer = model.replay_buffer
        model.save(tmp_path / "model")
        model = RainbowDQN.load(tmp_path / "model", device="cpu")
        model.replay_buffer = buffer
        model.set_logger(Logger(folder=None, output_formats=[]))
    model.q_net.value[0].weight_mu.requires_grad_(True)
    model.train(2, 32)
    steps = [int(model.policy.optimizer.state[weight]["step"]) for weight in model.q_net.parameters()]
    assert sorted(steps) == [2, *[4] * (len(steps) - 1)]
    assert int(model.policy.optimizer.state[model.q_net.value[0].weight_mu]["step"]) == 2
    assert model._captured is None


def test_unequal_numbers_of_steps_that_were_loaded_between_two_calls(on_the_cpu):
    model = make(compile=True, n_rows=60)
    model.train(2, 32)
    parameters = copy.deepcopy(model.get_parameters())
    captured = model._captured
    model.set_parameters(copy.deepcopy(parameters))
    replay = captured.replay
    model.train(2, 32)
    assert model._captured is captured  # all have made as many
    assert captured.replay is replay
    parameters["policy.optimizer"]["state"][0]["step"] += 5
    model.set_parameters(parameters)
    model.train(2, 32)
    steps = [int(model.policy.optimizer.state[weight]["step"]) for weight in model.q_net.parameters()]
    assert steps == [9, *[4] * (len(steps) - 1)]
    assert captured.replay is None  # these steps were ordinary ones: the captured have one number for all weights


def test_another_head_is_learned_from(on_the_cpu):
    """Its support is that of what is drawn on, not of what the graph was captured with."""
    model = make(compile=True, n_rows=60)
    model.train(2, 32)
    captured = model._captured
    model.learning_starts = 0
    model.learn(4)
    assert model._captured is captured
    for network in (model.q_net, model.q_net_target):
        network.head = CategoricalHead(51, -20.0, 20.0)
    model.learn(4)
    assert model._captured._chain.head is model.q_net.head
    replay = model._captured.replay
    model.learn(4)
    assert model._captured.replay is replay  # not copied once more
    for network in (model.q_net, model.q_net_target):
        network.dueling = "max"
    model.learn(4)
    assert model._captured._chain.dueling == "max"


@pytest.mark.parametrize("change", ["head", "optimizer"])
def test_a_failure_is_told_before_its_steps_are_forgotten(on_the_cpu, change):
    """On a GPU it is told late: the host does not wait for it."""
    model = make(compile=True, n_rows=60)
    model.train(2, 32)
    captured = model._captured
    captured._failure[0] = th.nan
    if change == "head":
        for network in (model.q_net, model.q_net_target):
            network.head = CategoricalHead(51, -20.0, 20.0)
    else:
        model.policy.optimizer = th.optim.Adam(model.q_net.parameters(), lr=1e-3)
    go_on = model.learn if change == "head" else partial(model.train, batch_size=32)
    with pytest.raises(ValueError, match="is not finite"):
        go_on(4)
    go_on(4)
    assert model._captured is not captured


def test_weights_that_have_moved_in_memory(on_the_cpu):
    """SB3's load_from_vector gives each parameter other memory, which a graph would not know."""
    model = make(compile=True, n_rows=60)
    model.train(1, 32)
    before = model._captured._made_for
    model.train(1, 32)
    assert model._captured._made_for == before
    model.policy.load_from_vector(model.policy.parameters_to_vector())
    model.train(1, 32)
    assert model._captured._made_for != before


def test_copies_have_the_priorities(on_the_cpu):
    model = make(compile=True, n_rows=60)
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.train(8, 32)
    copied = copy.deepcopy(model)
    leaves = model._captured.replay.leaves.view(-1)[:60]
    np.testing.assert_array_equal(copied.replay_buffer.sampler.tree[np.arange(60)], leaves)
    assert len(leaves.unique()) > 30


@needs_compiler
def test_compiled(on_the_cpu):
    model = make(n_rows=60, policy_kwargs={"net_arch": [8], "n_atoms": 5})
    captured = CapturedSteps(model.policy, Compiled)
    before = model.policy.parameters_to_vector()
    captured.make(model.replay_buffer, 3, settings(model))
    assert captured.failure(wait=True) == {}
    sums, n_steps = captured.take_log()
    assert n_steps == 3
    assert all(value.isfinite() for value in sums.values())
    assert (model.policy.parameters_to_vector() != before).any()


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=needs_compiler), pytest.param("cuda", marks=needs_gpu)])
def test_noise_of_compiled_steps(device):
    """In each step each network has fresh noise, and the gradients know that of its weights; KS p above 1e-6 each."""
    model = make(n_rows=60, policy_kwargs={"net_arch": [256]}, device=device, **OFF | {"noisy": True})
    captured = CapturedSteps(model.policy, Compiled)
    kept = []
    captured._make_weights = lambda *args, weigh=captured._make_weights: kept.append(weigh(*args)) or kept[-1]
    seen = {"q_net": [], "q_net_target": []}
    for _ in range(12):
        parameters = {name: dict(copy.deepcopy(getattr(model, name)).named_parameters()) for name in seen}
        captured.make(model.replay_buffer, 1, settings(model))
        # A graph computes them again in the same place
        for (name, samples), (noise, weights) in zip(seen.items(), kept[-2:], strict=True):
            for left, right in zip(weights, captured._chain.weights(parameters[name], noise), strict=True):
                th.testing.assert_close(left, right)
            samples.append(th.cat([each for pair in noise for each in pair]).cpu())
    assert (captured._graph is not None) == (device == "cuda")
    for samples in seen.values():
        joined = th.cat(samples)
        assert stats.kstest((joined.sign() * joined**2).numpy(), "norm").pvalue > 1e-6
    # Single numbers of 32 bits coincide by chance, two neighbours do not
    rows = th.stack([row for samples in seen.values() for row in samples])
    neighbours = th.stack([rows[:, :-1], rows[:, 1:]], dim=2).reshape(-1, 2)
    assert len(neighbours.unique(dim=0)) == len(neighbours)


class Numbered(Corridor):
    """Observations that tell the step and not the episode."""

    def _observe(self):
        return np.array([0, self.steps], dtype=np.float32)


@needs_gpu
@pytest.mark.parametrize("kwargs", [{"amp": True}, OFF])
def test_graph_learns(kwargs):
    """The values of a corridor, whose rewards are 1 to 5, from 1,000 gradient steps."""
    model = RainbowDQN("MlpPolicy", Numbered(), learning_starts=100, learning_rate=3e-3, gamma=1.0, seed=0,
        target_update_interval=100, train_freq=1, policy_kwargs={"v_min": 0, "v_max": 20, "optimizer_kwargs": {}},
        device="cuda", compile=True, **kwargs)  # fmt: skip
    model.learn(1100)
    assert model._captured._graph is not None
    obs = th.tensor([[0.0, step] for step in range(5)], device="cuda")
    assert model.q_net(obs).mean(dim=1).tolist() == pytest.approx([15, 14, 12, 9, 5], abs=1)


@needs_gpu
def test_graph_draws_afresh_and_tells_of_failures_later():
    model = RainbowDQN("MlpPolicy", gym.make("CartPole-v1"), learning_starts=150, seed=0, device="cuda", compile=True)
    model.learn(600)
    captured = model._captured
    leaves = captured.replay.leaves.clone()
    drawn = []
    for _ in range(3):
        model.train(1, 32)
        drawn.append(set((captured.replay.leaves != leaves).flatten().nonzero().flatten().tolist()))
        leaves = captured.replay.leaves.clone()
    assert drawn[0] != drawn[1] != drawn[2]
    vector = model.policy.parameters_to_vector()
    captured.replay.rewards.fill_(float("nan"))

    def train_on():
        for _ in range(1000):
            model.train(1, 32)

    with pytest.raises(ValueError, match="rewards=nan is not finite"):
        train_on()
    assert (model.policy.parameters_to_vector() == vector).all()


@needs_gpu
def test_graph_follows_numbers_and_rows():
    model = make(n_rows=60, device="cuda", compile=True)
    model.train(6, 32)
    captured, graph = model._captured, model._captured._graph
    assert graph is not None
    before = model.policy.parameters_to_vector()
    model.lr_schedule = lambda _: 0.0
    model.train(2, 32)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)
    for i in range(20):
        obs = np.full((1, 2), i, np.float32)
        model.replay_buffer.add(obs, obs + 1, np.array([0]), np.array([1.0]), np.array([False]), [{}])
    model.train(20, 32)
    assert captured._graph is graph  # not captured again
    assert len(captured.replay.leaves.view(-1)[60:80].unique()) > 10  # new rows are drawn


@pytest.mark.filterwarnings("ignore:learn.* asks only for env steps before learning starts")
def test_the_copy_of_a_buffer_that_was_replaced_is_given_up(on_the_cpu):
    model = make(compile=True)
    model.train(2, 16)
    assert model._captured.replay.buffer is model.replay_buffer
    model.learn(4, reset_num_timesteps=False)
    assert model._captured.replay is not None
    model.replay_buffer = copy.deepcopy(model.replay_buffer)
    model.learn(4, reset_num_timesteps=False)  # no gradient step comes before learning starts
    assert model._captured.replay is None
