"""Every argument outside its range: a ValueError that names the argument and the value."""

import os
import re
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor
from gymnasium import spaces
from models import OFF, Record
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.dqn import MlpPolicy as DQNMlpPolicy
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import nn

from sb3_rainbow import CnnPolicy, MlpPolicy, RainbowDQN
from sb3_rainbow.available import bfloat16_is_faster
from sb3_rainbow.buffers import RainbowDictReplayBuffer, RainbowReplayBuffer
from sb3_rainbow.networks import NatureConv

BAD_ARGUMENTS = [
    ("learning_rate", -1e-3),
    ("learning_rate", float("nan")),
    ("learning_rate", "fast"),
    ("buffer_size", 0),
    ("buffer_size", 1.5),
    ("buffer_size", 1e30),
    ("buffer_size", 31),  # less than a batch
    ("learning_starts", -1),
    ("batch_size", 0),
    ("tau", 1.1),
    ("tau", -0.1),
    ("gamma", 1.01),
    ("gamma", float("nan")),
    ("train_freq", 0),
    ("train_freq", (0, "step")),
    ("train_freq", (1, "minute")),
    ("train_freq", "4"),
    ("gradient_steps", -2),
    ("n_steps", 0),
    ("n_steps", 2.5),
    ("n_steps", None),
    ("target_update_interval", 0),
    ("exploration_fraction", 1.5),
    ("exploration_initial_eps", -0.5),
    ("exploration_final_eps", 2),
    ("max_grad_norm", 0),
    ("max_grad_norm", -1),
    ("stats_window_size", 0),
    ("double_q", "False"),
    ("dueling", 1),
    ("noisy", None),
    ("distributional", "yes"),
    ("prioritized_replay", 0.5),
    ("prioritized_replay_alpha", 1.5),
    ("prioritized_replay_alpha", -0.1),
    ("prioritized_replay_beta0", -0.1),
    ("prioritized_replay_beta0", float("inf")),
    ("prioritized_replay_beta_fraction", 0),
    ("prioritized_replay_beta_fraction", 1.1),
    ("prioritized_replay_eps", 0),
    ("prioritized_replay_eps", 1e-50),
    ("prioritized_replay_eps", 1e39),
    ("amp", "bfloat16"),
    ("compile", "reduce-overhead"),
    ("overlap", 2),
    ("optimize_memory_usage", True),
    ("policy", "LstmPolicy"),
    ("policy", DQNMlpPolicy),
    ("policy", 5),
    ("policy", None),
    ("env", None),
    ("env", 5),
    ("train_freq", True),
    ("replay_buffer_class", "HerReplayBuffer"),
    ("replay_buffer_class", dict),
    ("replay_buffer_class", 5),
    ("replay_buffer_kwargs", 5),
    ("policy_kwargs", [1]),
    ("tensorboard_log", 5),
    ("optimize_memory_usage", "x"),
    ("seed", -1),
    ("seed", 2**32),
    ("seed", "a"),
    ("device", "foo"),
    ("verbose", "x"),
    ("stats_window_size", 2**63),
    ("learning_rate", max),  # wants two numbers
]
BAD_NETWORKS = [
    ("n_atoms", 1),
    ("n_atoms", 2.5),
    ("n_atoms", 10**11),
    ("n_atoms", 1e300),
    ("v_min", 10),
    ("v_min", 11),
    ("v_max", float("inf")),
    ("v_max", 1e300),
    ("v_max", -10 + 1e-6),  # no difference between the atoms in float32
    ("v_min", "low"),
    ("v_min", None),
    ("sigma_init", "x"),
    ("sigma_init", 1e60),
    ("net_arch", [True]),
    ("features_extractor_class", "os.path.join"),
    ("features_extractor_class", 5),
    ("features_extractor_class", "sb3_rainbow.networks.RainbowNetwork"),
    ("sigma_init", 0),
    ("sigma_init", -0.1),
    ("noise", "pink"),
    ("dueling_aggregation", "median"),
    ("net_arch", [0]),
    ("net_arch", [64.5]),
    ("net_arch", 64),
    ("net_arch", np.array(64)),
    ("features_extractor_class", "NatureConv"),
    ("features_extractor_class", "sb3_rainbow.networks.Nothing"),
    ("features_extractor_class", "no.such.module"),
    ("features_extractor_class", ""),
    ("noise", ["pink"]),
    ("normalize_images", "no"),
    ("activation_fn", "tanh"),
    ("activation_fn", nn.ReLU()),
    ("activation_fn", nn.functional.relu),
    ("activation_fn", int),
    ("optimizer_class", "Adam"),
    ("optimizer_kwargs", [1e-5]),
    ("features_extractor_kwargs", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS)
def test_constructor_arguments(name, value):
    arguments = {"policy": "MlpPolicy", "env": "CartPole-v1", name: value}
    with pytest.raises(ValueError, match=f"^{name}=") as error:
        RainbowDQN(**arguments)
    message = str(error.value)
    assert repr(value) in message
    assert any(remedy in message for remedy in ("must be", "write", "leave it False")), message


@pytest.mark.parametrize(("name", "value"), BAD_NETWORKS)
def test_network_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name}=") as error:
        RainbowDQN("MlpPolicy", "CartPole-v1", policy_kwargs={name: value})
    assert str(value) in str(error.value)
    assert any(remedy in str(error.value) for remedy in ("must be", "write"))


@pytest.mark.parametrize("name", ["dueling", "noisy", "distributional"])
def test_a_switch_given_twice_with_two_values(name):
    with pytest.raises(ValueError, match=rf"policy_kwargs has {name}=False, .* write RainbowDQN\(..., {name}=False\)"):
        RainbowDQN("MlpPolicy", "CartPole-v1", policy_kwargs={name: False})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy_kwargs", {"vmin": 1}),
        ("policy_kwargs", {"double_q": False}),
        ("replay_buffer_kwargs", {"framestack": 4}),
        ("replay_buffer_kwargs", {"buffer_size": 5}),
        ("replay_buffer_kwargs", {"optimize_memory_usage": True}),
        ("replay_buffer_kwargs", {"handle_timeout_termination": "no"}),
    ],
)
def test_what_neither_policy_nor_buffer_takes(name, value):
    with pytest.raises(ValueError, match=next(iter(value))):
        RainbowDQN("MlpPolicy", "CartPole-v1", **{name: value})


@pytest.mark.parametrize(
    ("policy", "observation", "remedy"),
    [
        (MlpPolicy, "dict", "MultiInputPolicy"),
        (CnnPolicy, "dict", "MultiInputPolicy"),
        ("MultiInputPolicy", "vector", "MlpPolicy"),
        ("MultiInputPolicy", "image", "CnnPolicy"),
    ],
)
def test_a_policy_that_does_not_fit_the_observations(policy, observation, remedy):
    with pytest.raises(ValueError, match=f"^policy.*{remedy}"):
        RainbowDQN(policy, Corridor(observation=observation))


def test_numpy_integers_are_integers():
    assert RainbowDQN("MlpPolicy", "CartPole-v1", train_freq=np.int64(4)).train_freq.frequency == 4


@pytest.mark.parametrize(("name", "value"), [("n_steps", 5), ("gamma", 0.9), ("prioritized_replay", False)])
def test_an_argument_given_twice_with_two_values(name, value):
    with pytest.raises(ValueError, match=rf"replay_buffer_kwargs has {name}={value}, .* write RainbowDQN\("):
        RainbowDQN("MlpPolicy", "CartPole-v1", replay_buffer_kwargs={name: value})
    model = RainbowDQN("MlpPolicy", "CartPole-v1", replay_buffer_kwargs={"n_steps": 3, "gamma": 0.99})
    assert model.replay_buffer.n_steps == 3


@pytest.mark.parametrize(
    ("holder", "name", "made", "loaded"),
    [
        ("policy_kwargs", "noisy", True, False),
        ("policy_kwargs", "dueling", True, False),
        ("replay_buffer_kwargs", "prioritized_replay", True, False),
        ("replay_buffer_kwargs", "prioritized_replay_alpha", 0.7, 0.2),
    ],
)
def test_what_load_is_given_and_the_file_has_twice(holder, name, made, loaded, tmp_path):
    """Else the one in the file would win in silence. What can be changed later, such as n_steps, may differ."""
    arguments = {holder: {name: made}} | ({name: made} if made == 0.7 else {})
    RainbowDQN("MlpPolicy", "CartPole-v1", **arguments).save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"{holder} has {name}={made}, but RainbowDQN itself {name}={loaded}"):
        RainbowDQN.load(tmp_path / "model", **{name: loaded})
    model = RainbowDQN("MlpPolicy", "CartPole-v1", replay_buffer_kwargs={"n_steps": 3})
    model.n_steps = 5
    model.save(tmp_path / "later")
    assert RainbowDQN.load(tmp_path / "later").n_steps == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prioritized_replay", False),
        ("prioritized_replay_alpha", 0.0),
        ("dueling", False),
        ("noisy", False),
        ("distributional", False),
    ],
)
def test_what_is_set_too_late_is_not_ignored(name, value):
    model = RainbowDQN("MlpPolicy", "CartPole-v1", learning_starts=10, batch_size=4, policy_kwargs={"net_arch": [8]})
    model.learn(20)
    setattr(model, name, value)
    before = model.policy.parameters_to_vector()
    with pytest.raises(ValueError, match=f"^{name}={value} was set on a model whose network or replay buffer keeps"):
        model.learn(20, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", 0),
        ("prioritized_replay_beta0", 7),
        ("prioritized_replay_beta_fraction", 0),
        ("prioritized_replay_eps", 0),
        ("batch_size", 0),
        ("tau", 1.5),
        ("learning_starts", "x"),
        ("double_q", "False"),
        ("amp", 0),
    ],
)
def test_what_is_set_later_is_in_its_range(name, value):
    model = RainbowDQN("MlpPolicy", "CartPole-v1", learning_starts=10, batch_size=4, policy_kwargs={"net_arch": [8]})
    model.learn(20)
    model.max_grad_norm = None  # as for the constructor: no clipping
    model.learn(20, reset_num_timesteps=False)
    setattr(model, name, value)
    with pytest.raises(ValueError, match=f"^{name}={value!r} must be"):
        model.learn(20, reset_num_timesteps=False)


def test_what_is_set_later_and_changes_nothing_or_is_followed():
    arguments = {"learning_starts": 10, "batch_size": 4, "policy_kwargs": {"net_arch": [8]}}
    theirs = {"replay_buffer_class": ReplayBuffer, "n_steps": 1, "prioritized_replay": False}
    model = RainbowDQN("MlpPolicy", "CartPole-v1", **arguments, **theirs)
    model.prioritized_replay, model.prioritized_replay_alpha = True, 0.7  # that buffer has neither
    model.learn(20)
    model = RainbowDQN("MlpPolicy", "CartPole-v1", **arguments, prioritized_replay=False)
    model.prioritized_replay_alpha = 0.7
    model.learn(20)
    model = RainbowDQN("MlpPolicy", "CartPole-v1", **arguments)
    spaces_and_size = 100, model.observation_space, model.action_space
    model.replay_buffer = RainbowReplayBuffer(*spaces_and_size, prioritized_replay=False)
    model.prioritized_replay = False
    model.learn(20)
    assert model._n_updates > 0


def test_switches_given_to_load(tmp_path):
    RainbowDQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}).save(tmp_path / "model")
    with pytest.raises(ValueError, match="double_q='x' must be True or False"):
        RainbowDQN.load(tmp_path / "model", double_q="x")


@pytest.mark.parametrize("rate", [float("nan"), -1.0, None, np.array(float("nan"))])
def test_a_schedule_that_starts_badly(rate):
    with pytest.raises(ValueError, match="learning_rate="):
        RainbowDQN("MlpPolicy", "CartPole-v1", learning_rate=lambda _: rate)


@pytest.mark.parametrize("rate", [float("nan"), -1e-3])
def test_a_schedule_that_ends_badly_changes_no_weight(rate):
    model = RainbowDQN("MlpPolicy", "CartPole-v1", buffer_size=100, batch_size=8, learning_starts=20, train_freq=1,
                       learning_rate=lambda progress: 1e-3 if progress > 0.5 else rate)  # fmt: skip
    weights = Record(lambda record: record.model.policy.parameters_to_vector())
    with pytest.raises(ValueError, match=f"learning_rate={rate} must be .* at env step 50"):
        model.learn(100, weights)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), weights.values[-1])


def test_a_buffer_of_which_nothing_fits(monkeypatch):
    """Not even what is made at once: Linux may refuse it, where it is larger than all memory."""

    def refuse(*_):
        raise MemoryError("Unable to allocate 7.28 TiB")

    monkeypatch.setattr("sb3_rainbow.buffers.PrioritizedSampler", refuse)
    with pytest.raises(ValueError, match=r"^buffer_size=5000000 must be smaller: .*Unable to allocate 7.28 TiB"):
        RainbowDQN("MlpPolicy", "CartPole-v1", buffer_size=5e6)


def test_whole_numbers_without_bounds_of_python_are_numbers():
    model = RainbowDQN("MlpPolicy", "CartPole-v1", buffer_size=10**4, policy_kwargs={"v_min": 0, "v_max": 10**20})
    assert model.q_net.head.support[-1] == 1e20


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Discrete(3, start=1)],
    ids=repr,
)
def test_action_spaces(space):
    env = Corridor()
    env.action_space = space
    with pytest.raises(ValueError, match="action_space="):
        RainbowDQN("MlpPolicy", env)


def test_a_buffer_that_cannot_hold_a_window_for_each_env():
    with pytest.raises(ValueError, match=r"buffer_size=40 cannot hold a window of n_steps=6 for each of 8 envs"):
        RainbowDQN("MlpPolicy", make_vec_env("CartPole-v1", 8), buffer_size=40, batch_size=32, n_steps=6)


def test_episodes_of_several_envs(tmp_path):
    env, message = make_vec_env("CartPole-v1", 2), r"train_freq=.*counts episodes, which needs a single env, not 2"
    with pytest.raises(ValueError, match=message):
        RainbowDQN("MlpPolicy", env, train_freq=(1, "episode"))
    RainbowDQN("MlpPolicy", env).save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        RainbowDQN.load(tmp_path / "model", env, train_freq=(1, "episode"))
    RainbowDQN("MlpPolicy", "CartPole-v1", train_freq=(1, "episode")).save(tmp_path / "model")
    model = RainbowDQN.load(tmp_path / "model", env)  # to play
    with pytest.raises(ValueError, match=message):
        model.learn(100)


def test_policies_that_do_not_suit_the_observations():
    with pytest.raises(ValueError, match="NatureConv needs an image"):
        RainbowDQN("CnnPolicy", "CartPole-v1")
    env = Corridor(observation="image")
    env.observation_space = spaces.Box(0, 255, (3, 20, 20), np.uint8)
    with pytest.raises(ValueError, match=r"\(3, 20, 20\) are too small for the convolutions of NatureConv"):
        RainbowDQN("CnnPolicy", env)


@pytest.mark.parametrize("mean", [float("nan"), float("-inf"), "0.4"])
def test_a_mean_of_the_input_is_a_number(mean):
    kwargs = {"features_extractor_kwargs": {"input_mean": mean}}
    with pytest.raises(ValueError, match=f"input_mean={mean!r} must be a finite number$"):
        RainbowDQN("CnnPolicy", Corridor(observation="image"), policy_kwargs=kwargs)


@pytest.mark.parametrize("std", [0, -0.2, float("inf"), "0.2"])
def test_a_standard_deviation_of_the_input_is_above_zero(std):
    kwargs = {"features_extractor_kwargs": {"input_std": std}}
    with pytest.raises(ValueError, match=f"input_std={std!r} must be a finite number above 0$"):
        RainbowDQN("CnnPolicy", Corridor(observation="image"), policy_kwargs=kwargs)


@pytest.mark.parametrize("name", ["layer_norm", "input_norm", "normalized_image"])
def test_switches_of_convolutions(name):
    with pytest.raises(ValueError, match=f"{name}='False' must be True or False"):
        NatureConv(spaces.Box(0, 255, (4, 84, 84), np.uint8), **{name: "False"})


@pytest.mark.parametrize("timesteps", [-1, -0.5, float("nan"), float("inf"), "1e6"])
def test_timesteps(timesteps):
    with pytest.raises(ValueError, match=f"total_timesteps={timesteps!r} must be a finite number of at least 0$"):
        RainbowDQN("MlpPolicy", "CartPole-v1").learn(timesteps)


@pytest.mark.parametrize("log_interval", [0, -1, 1.5])
def test_log_interval(log_interval):
    with pytest.raises(ValueError, match=f"log_interval={log_interval} must be .*; write None for never"):
        RainbowDQN("MlpPolicy", "CartPole-v1").learn(10, log_interval=log_interval)


@pytest.mark.parametrize("name", ["buffer_size", "max_grad_norm"])
def test_a_number_that_no_float_can_hold(name):
    with pytest.raises(ValueError, match=f"^{name}=1000"):
        RainbowDQN("MlpPolicy", "CartPole-v1", **{name: 10**400})


@pytest.mark.parametrize("value", [np.int64(64), 64.0, np.float32(64)])
def test_whole_numbers_of_any_type_are_taken(value):
    model = RainbowDQN("MlpPolicy", "CartPole-v1", batch_size=value, buffer_size=1e5, learning_starts=1e4)
    assert (model.batch_size, model.buffer_size, model.learning_starts) == (64, 100_000, 10_000)
    assert type(model.batch_size) is int
    network = {"net_arch": [value], "n_atoms": value}
    assert RainbowDQN("MlpPolicy", "CartPole-v1", policy_kwargs=network).q_net.head.size == 64


@pytest.mark.parametrize("value", [None, np.inf])
def test_no_gradient_clipping(value):
    assert RainbowDQN("MlpPolicy", "CartPole-v1", max_grad_norm=value).max_grad_norm == np.inf


@pytest.mark.parametrize(("noisy", "initial", "final"), [(True, 0.0, 0.0), (False, 1.0, 0.05)])
def test_none_stands_for_the_default_on_load_too(noisy, initial, final, tmp_path):
    names = ("max_grad_norm", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
    RainbowDQN("MlpPolicy", "CartPole-v1", noisy=noisy, **dict.fromkeys(names, 0.5)).save(tmp_path / "model")
    model = RainbowDQN.load(tmp_path / "model", **dict.fromkeys(names))
    assert [getattr(model, name) for name in names] == [np.inf, 0.1, initial, final]
    assert (model.exploration_schedule(1.0), model.exploration_schedule(0.0)) == (initial, final)
    with pytest.raises(ValueError, match="exploration_final_eps=2"):
        RainbowDQN.load(tmp_path / "model", exploration_final_eps=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 5),
        ("gamma", 1.01),
        ("gradient_steps", -3),
        ("n_steps", 2.5),
        ("train_freq", 0),
        ("learning_rate", "fast"),
        ("learning_rate", np.array([1e-3, 1e-4])),
        ("max_grad_norm", np.array([1.0, 2.0])),
        ("replay_buffer_kwargs", 3),
        ("replay_buffer_class", "HerReplayBuffer"),
        ("tensorboard_log", 3),
        ("prioritized_replay_eps", 0),
        ("prioritized_replay_beta_fraction", 0),
        ("device", "foo"),
    ],
)
def test_arguments_of_load_are_those_of_the_constructor(name, value, tmp_path):
    """SB3 sets them after the constructor has seen its own."""
    RainbowDQN("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"^{name}={re.escape(repr(value))}"):
        RainbowDQN.load(tmp_path / "model", **{name: value})


@pytest.mark.parametrize("arguments", [{"gama": 0.9}, {"v_min": -5, "learning_rat": 1e-2}])
def test_arguments_that_load_would_not_heed(arguments, tmp_path):
    RainbowDQN("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    named = " and ".join(f"{name}={value}" for name, value in arguments.items())
    with pytest.warns(UserWarning, match=rf"load\(\) sets {named}, which nothing of RainbowDQN is called"):
        RainbowDQN.load(tmp_path / "model", **arguments)
    RainbowDQN("MlpPolicy", "CartPole-v1").save(tmp_path / "model", exclude=["exploration_rate"])
    heeded = {"exploration_rate": 0.5, "stats_window_size": 7, "replay_buffer": None, "seed": np.int64(3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RainbowDQN.load(tmp_path / "model", gym.make("CartPole-v1"), force_reset=True, **heeded)
    assert (model.seed, model.exploration_rate) == (3, 0.5)
    with pytest.warns(UserWarning, match="before learning starts"):
        assert model.learn(1).ep_info_buffer.maxlen == 7


def test_a_window_of_statistics_given_to_load_is_that_of_a_model_that_goes_on(tmp_path):
    model = RainbowDQN("MlpPolicy", Corridor(length=5), learning_starts=50).learn(120)
    model.save(tmp_path / "model")
    kept = list(model.ep_info_buffer)
    assert len(kept) > 3
    loaded = RainbowDQN.load(tmp_path / "model", model.get_env(), stats_window_size=3)
    assert list(loaded.ep_info_buffer) == kept[-3:]
    assert loaded.ep_success_buffer.maxlen == 3
    with pytest.warns(UserWarning, match="replay buffer is empty"):
        assert loaded.learn(1, reset_num_timesteps=False).ep_info_buffer.maxlen == 3
    assert RainbowDQN.load(tmp_path / "model", stats_window_size=200).ep_info_buffer.maxlen == 200


def test_numbers_given_to_load_may_be_of_any_type(tmp_path):
    """Windows of Numba are of whole numbers, and discounts of another type would not go with the support's."""
    arguments = {"n_steps": 5.0, "gamma": np.float64(0.9), "train_freq": (np.int64(2), "step"), "batch_size": 8.0}
    arguments |= {"learning_rate": th.tensor(1e-3), "tau": np.array(0.5), "learning_starts": th.tensor(10)}
    RainbowDQN("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    for model in (
        RainbowDQN("MlpPolicy", "CartPole-v1", buffer_size=100, **arguments),
        RainbowDQN.load(tmp_path / "model", gym.make("CartPole-v1"), buffer_size=100, **arguments),
    ):
        model.learn(20)
        assert model._n_updates == 5
        assert model.learning_rate == pytest.approx(1e-3)
        model.gamma = np.float64(0.8)
        model.learn(20)
        assert model.replay_buffer.gamma == 0.8


def test_a_buffer_for_dicts_needs_dicts():
    with pytest.raises(ValueError, match="replay_buffer_class=HerReplayBuffer does not take observations of Box"):
        RainbowDQN("MlpPolicy", "CartPole-v1", replay_buffer_class=HerReplayBuffer)
    env = BitFlippingEnv(n_bits=4, continuous=False)
    for chosen in (ReplayBuffer, NStepReplayBuffer):
        with pytest.raises(
            ValueError, match=f"replay_buffer_class={chosen.__name__} does not take observations of Dict"
        ):
            RainbowDQN("MultiInputPolicy", env, replay_buffer_class=chosen)
    model = RainbowDQN("MlpPolicy", "CartPole-v1", replay_buffer_class=RainbowDictReplayBuffer)  # which takes both
    assert type(model.replay_buffer) is RainbowDictReplayBuffer


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Discrete(4, start=2), r"observation_space=Discrete\(4, start=2\) must start at 0"),
        (spaces.MultiDiscrete([3, 3], start=[0, 1]), r"observation_space=MultiDiscrete.* must start at 0"),
        (
            spaces.Dict(a=spaces.Discrete(4, start=2)),
            r"observation_space\['a'\]=Discrete\(4, start=2\) must start at 0",
        ),
        (spaces.Dict(), r"observation_space=Dict\(\) is empty"),
        (spaces.Box(0, 1, ()), r"observation_space=Box\(0.0, 1.0, \(\), float32\) has no dimension"),
        (spaces.MultiDiscrete([[3, 4], [3, 4]]), r"(?s)observation_space=MultiDiscrete.* has 2 dimensions: flatten"),
        (spaces.Dict(a=spaces.Box(0, 1, ())), r"observation_space\['a'\]=Box.* has no dimension"),
        (spaces.Text(3), r"observation_space=Text.* is not supported"),
        (spaces.Tuple([spaces.Discrete(2)]), r"observation_space=Tuple.* is not supported"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))), r"observation_space\['a'\]=Dict.* is not supported"),
    ],
)
def test_observations_that_no_network_takes(space, named):
    env = Corridor()
    env.observation_space = space
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    with pytest.raises(ValueError, match=named):
        RainbowDQN(policy, env)


def test_train_freq_as_sb3_stores_it():
    model = RainbowDQN("MlpPolicy", "CartPole-v1", train_freq=(2, "episode"))
    assert RainbowDQN("MlpPolicy", "CartPole-v1", train_freq=model.train_freq).train_freq == model.train_freq


# Numbers from the environment


class Broken(gym.Wrapper):
    """Returns a bad number at one step of its second episode."""

    def __init__(self, env, where, value):
        super().__init__(env)
        self.where, self.value = where, value
        self.steps = 0

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps == 77:
            if self.where == "reward":
                reward = self.value
            else:
                obs = obs + np.float32(self.value)
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["reward", "observation"])
def test_bad_numbers_stop_training_before_they_reach_weights_and_priorities(where, value):
    env = DummyVecEnv([lambda: Corridor(length=50), lambda: Broken(Corridor(length=50), where, value)])
    model = RainbowDQN("MlpPolicy", env, buffer_size=500, batch_size=8, learning_starts=20, train_freq=1, seed=0,
                       policy_kwargs={"v_min": 0, "v_max": 1000})  # fmt: skip
    with pytest.raises(ValueError, match=rf"{where}=.* of env 1 is not finite, at row 76"):
        model.learn(400)
    assert model.num_timesteps == 2 * 77
    assert np.isfinite(model.policy.parameters_to_vector()).all()
    assert model.replay_buffer.size() == 76
    tree = model.replay_buffer.sampler.tree
    assert np.isfinite(tree[np.arange(500)]).all()
    assert (tree[np.arange(152, 500)] == 0).all()
    model.policy.optimizer.zero_grad()
    model.train(1)  # what it has is sound


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("distributional", [True, False])
def test_bad_rewards_in_a_buffer_of_another_class_stop_training_too(value, distributional):
    """Clamped to the support, an infinite return would look like any other."""
    env = Broken(Corridor(length=50), "reward", value)
    model = RainbowDQN("MlpPolicy", env, buffer_size=500, batch_size=32, learning_starts=20, train_freq=1, seed=0,
                       replay_buffer_class=ReplayBuffer, n_steps=1, prioritized_replay=False,
                       distributional=distributional, policy_kwargs={"v_min": 0, "v_max": 1000})  # fmt: skip
    with pytest.raises(ValueError, match=r"rewards=(nan|inf) is not finite, at env step"):
        model.learn(400)
    assert np.isfinite(model.policy.parameters_to_vector()).all()


@pytest.mark.parametrize("distributional", [True, False])
def test_a_loss_that_is_not_finite_changes_no_weight_and_no_priority(distributional):
    """Observations that are finite, but not for float32 arithmetic."""
    env = Corridor(length=50)
    model = RainbowDQN("MlpPolicy", env, buffer_size=100, batch_size=8, learning_starts=20, seed=0,
                       distributional=distributional)  # fmt: skip
    model.learn(21)
    obs = np.full((1, 2), 3e38, np.float32)
    for _ in range(100):
        model.replay_buffer.add(obs, obs, np.array([0]), np.array([0.0]), np.array([False]), [{}])
    weights, priorities = model.policy.parameters_to_vector(), model.replay_buffer.sampler.tree[np.arange(100)].copy()
    with pytest.raises(ValueError, match=r"(loss|gradient_norm)=.* is not finite, at env step 24"):
        model.train(1, batch_size=8)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), weights)
    np.testing.assert_array_equal(model.replay_buffer.sampler.tree[np.arange(100)], priorities)


@pytest.mark.parametrize(
    ("vendor", "flags", "is_there"),
    [
        ("AuthenticAMD", "fpu avx512f avx512_bf16", True),  # Zen 4
        ("AuthenticAMD", "avx512f avx512_bf16 avx512_fp16", True),
        ("GenuineIntel", "fpu avx512f avx512_bf16", True),  # Cooper Lake
        ("GenuineIntel", "avx512_bf16 avx512_fp16 amx_bf16 amx_tile", True),  # Sapphire Rapids
        ("GenuineIntel", "avx512_bf16 avx512_fp16", False),  # the same, in a virtual machine without AMX
        ("", "asimd bf16", True),
        ("GenuineIntel", "avx2 avx512f", False),
    ],
)
def test_amp_warns_where_the_processor_has_no_fast_bfloat16(vendor, flags, is_there, tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("".join(f"processor\t: {i}\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n\n" for i in (0, 1)))
    assert bfloat16_is_faster("cpu", cpuinfo) is is_there
    assert bfloat16_is_faster("cpu", tmp_path / "of another system") is True
    assert bfloat16_is_faster("mps", cpuinfo) is True
    monkeypatch.setattr(th.cuda, "is_bf16_supported", lambda including_emulation: is_there)
    assert bfloat16_is_faster("cuda", tmp_path) is is_there
    monkeypatch.setattr("sb3_rainbow.checking.bfloat16_is_faster", lambda device_type: is_there)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RainbowDQN("MlpPolicy", "CartPole-v1", amp=True, device="cpu").save(tmp_path / "model")
        RainbowDQN("MlpPolicy", "CartPole-v1", device="cpu").learn(1)
        # The file may have been made elsewhere
        RainbowDQN.load(tmp_path / "model", gym.make("CartPole-v1"), device="cpu").learn(1)
    slower = [warning.filename for warning in caught if "amp=True" in str(warning.message)]
    assert slower == ([] if is_there else [__file__])


def test_compile_says_that_it_needs_a_compiler(tmp_path):
    """In a process of its own: torch looks for compilers once, and keeps what it has compiled."""
    script = (
        "from sb3_rainbow import RainbowDQN\n"
        f"RainbowDQN('MlpPolicy', 'CartPole-v1', **{OFF}, compile=True, learning_starts=40, buffer_size=100).learn(60)"
    )
    environment = os.environ | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    environment["NUMBA_DISABLE_JIT"] = "1"  # it is not needed, and would take seconds
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 1
    assert "ValueError: compile=True does not work on this machine: " in run.stderr
    assert "or write compile=False" in run.stderr


def test_overlap_does_not_go_with_a_buffer_that_asks_the_envs():
    kwargs = {"replay_buffer_class": HerReplayBuffer, "n_steps": 1, "prioritized_replay": False, "learning_starts": 5}
    words = r"overlap=True does not go with HerReplayBuffer.*leave overlap out"
    with pytest.raises(ValueError, match=words):
        RainbowDQN("MultiInputPolicy", BitFlippingEnv(), overlap=True, **kwargs)
    model = RainbowDQN("MultiInputPolicy", BitFlippingEnv(), **kwargs)
    model.overlap = True
    with pytest.raises(ValueError, match=words):
        model.learn(10)
