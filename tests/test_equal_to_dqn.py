"""With switches off, SB3's DQN: the same weights, bit for bit."""

import copy
import math

import numpy as np
import pytest
from envs import random_transitions
from models import OFF, equal_weights
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rainbow import RainbowDQN

ALIKE = {
    "learning_rate": 1e-3,
    "buffer_size": 700,  # the ring wraps
    "learning_starts": 100,
    "target_update_interval": 300,
    "exploration_fraction": 0.3,
    "exploration_initial_eps": 0.9,
    "exploration_final_eps": 0.07,
    "seed": 5,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [32], "optimizer_kwargs": {"eps": 1e-5}},
}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"n_steps": 3},
        {"n_steps": 3, "gamma": 0.9, "batch_size": 50, "tau": 0.3, "train_freq": 2, "gradient_steps": 3},
        {"train_freq": (1, "episode"), "gradient_steps": -1, "max_grad_norm": 0.1},
    ],
)
@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1"])  # the latter has Discrete observations
def test_all_switches_off_equals_dqn_after_2000_steps(env, kwargs):
    """MlpPolicy, one env; truncated and terminal episodes."""
    kwargs = {"n_steps": 1, **ALIKE, **kwargs}
    ours = RainbowDQN("MlpPolicy", env, **OFF, **copy.deepcopy(kwargs)).learn(2000)
    theirs = DQN("MlpPolicy", env, **copy.deepcopy(kwargs)).learn(2000)
    assert equal_weights(ours, theirs)
    assert ours.num_timesteps == theirs.num_timesteps
    assert ours._n_updates == theirs._n_updates > 100
    assert ours.exploration_rate == theirs.exploration_rate


def test_a_fraction_of_an_env_step():
    """Of a share of a budget; DQN stops at the first step that is not below it, and epsilon follows the fraction."""
    kwargs = {**copy.deepcopy(ALIKE), "train_freq": 1}
    ours = RainbowDQN("MlpPolicy", "CartPole-v1", **OFF, n_steps=1, **copy.deepcopy(kwargs)).learn(1000 / 3)
    theirs = DQN("MlpPolicy", "CartPole-v1", **kwargs).learn(1000 / 3)
    assert ours.num_timesteps == theirs.num_timesteps == 334
    assert ours.exploration_rate == theirs.exploration_rate
    assert equal_weights(ours, theirs)
    assert isinstance(ours.learn(2e2)._total_timesteps, int)  # which messages and progress bars show


@pytest.mark.parametrize("train_freq", [8, (1, "episode")])
def test_a_rate_that_falls_to_zero_and_below_where_the_last_rollout_oversteps(train_freq):
    """RL Zoo's ``lin_1e-3`` is such a one."""
    kwargs = {**ALIKE, "learning_rate": lambda progress: 1e-3 * progress, "train_freq": train_freq}
    ours = RainbowDQN("MlpPolicy", "CartPole-v1", **OFF, n_steps=1, **copy.deepcopy(kwargs)).learn(500)
    theirs = DQN("MlpPolicy", "CartPole-v1", **copy.deepcopy(kwargs)).learn(500)
    assert ours.num_timesteps > 500
    assert theirs.policy.optimizer.param_groups[0]["lr"] < 0
    assert equal_weights(ours, theirs)


def from_a_table(progress):
    return np.linspace(1, 0, 501)[round(500 * (1 - progress))]


@pytest.mark.parametrize("rate", [np.sqrt, math.sqrt, lambda progress: progress**0.5, from_a_table])
def test_a_rate_that_is_not_defined_where_the_last_rollout_oversteps_stays_at_its_end(rate):
    """DQN would learn from a rate that is not a number, or raise an error."""
    kwargs = {**OFF, **ALIKE, "train_freq": 8, "learning_rate": lambda progress: 1e-3 * rate(progress)}
    with np.errstate(invalid="ignore"):
        model = RainbowDQN("MlpPolicy", "CartPole-v1", **kwargs).learn(500)
    assert model.num_timesteps == 504
    assert model.policy.optimizer.param_groups[0]["lr"] == 0
    assert np.isfinite(model.policy.parameters_to_vector()).all()


def test_a_rate_that_is_zero_but_for_rounding():
    """SB3's own schedule is -5e-20 after 950 env steps of 1,000."""
    schedule = LinearSchedule(3e-4, 0, 0.95)
    assert -1e-18 < schedule(1 - 0.95) < 0
    kwargs = {**OFF, **ALIKE, "train_freq": 1, "learning_rate": schedule}
    RainbowDQN("MlpPolicy", "CartPole-v1", **kwargs).learn(1000)


@pytest.mark.parametrize("switch", ["double_q", "dueling", "noisy", "distributional", "prioritized_replay"])
def test_each_switch_makes_a_difference(switch):
    kwargs = {"n_steps": 1, **ALIKE}
    weights = [
        RainbowDQN("MlpPolicy", "CartPole-v1", **{**OFF, switch: on}, **copy.deepcopy(kwargs))
        .learn(1000)
        .policy.parameters_to_vector()
        for on in (False, True)
    ]
    assert weights[0].shape != weights[1].shape or not np.array_equal(*weights)


def test_a_schedule_is_asked_as_often_as_by_dqn():
    """It may count."""

    def asked(algorithm, **kwargs):
        progress = []
        model = algorithm(
            "MlpPolicy", "CartPole-v1", learning_rate=lambda remaining: progress.append(remaining) or 1e-3,
            learning_starts=100, **kwargs,
        )  # fmt: skip
        progress.clear()  # the constructor tries it out
        model.learn(200)
        return progress

    ours = asked(RainbowDQN, n_steps=1, **OFF)
    assert ours == asked(DQN)
    assert len(ours) >= 25


def test_training_goes_on_equally_after_a_second_learn():
    kwargs = {"n_steps": 3, **ALIKE}
    ours = RainbowDQN("MlpPolicy", "CartPole-v1", **OFF, **copy.deepcopy(kwargs))
    ours.learn(700).learn(900, reset_num_timesteps=False)
    theirs = DQN("MlpPolicy", "CartPole-v1", **copy.deepcopy(kwargs))
    theirs.learn(700).learn(900, reset_num_timesteps=False)
    assert equal_weights(ours, theirs)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_200_gradient_steps_on_the_same_buffer_of_4_envs_are_equal(n_steps):
    kwargs = {"n_steps": n_steps, **ALIKE}
    models = []
    rows = random_transitions(np.random.default_rng(0), 250, 4, make_vec_env("CartPole-v1").observation_space, end=0.1)
    rows = [(np.clip(obs, -1, 1), np.clip(next_obs, -1, 1), *rest) for obs, next_obs, *rest in rows]
    for model_class, switches in ((RainbowDQN, OFF), (DQN, {})):
        model = model_class("MlpPolicy", make_vec_env("CartPole-v1", 4), **switches, **copy.deepcopy(kwargs))
        model.set_logger(configure(None, []))
        for row in rows:
            model.replay_buffer.add(*row)
        np.random.seed(1)
        model.train(200, batch_size=32)
        models.append(model)
    assert equal_weights(*models)


def test_equal_with_normalised_observations_and_rewards():
    kwargs = {"n_steps": 3, **ALIKE}
    models = []
    for model_class, switches in ((RainbowDQN, OFF), (DQN, {})):
        env = VecNormalize(make_vec_env("CartPole-v1", seed=0), gamma=0.99)
        models.append(model_class("MlpPolicy", env, **switches, **copy.deepcopy(kwargs)).learn(800))
    assert equal_weights(*models)


def test_the_same_seed_gives_the_same_weights_with_everything_on():
    vectors = [
        RainbowDQN("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=3), learning_starts=100, buffer_size=500, seed=seed)
        .learn(600)
        .policy.parameters_to_vector()
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_sb3s_own_n_step_buffer_trains_alike():
    """Given as a class it gets n_steps and gamma, and the result is that of ours."""
    kwargs = {"n_steps": 3, "gamma": 0.9, **ALIKE}
    ours = RainbowDQN("MlpPolicy", "CartPole-v1", **OFF, **copy.deepcopy(kwargs)).learn(1000)
    with_theirs = RainbowDQN(
        "MlpPolicy", "CartPole-v1", **OFF, replay_buffer_class=NStepReplayBuffer, **copy.deepcopy(kwargs)
    ).learn(1000)
    assert with_theirs.replay_buffer.n_steps == 3
    assert with_theirs.replay_buffer.gamma == 0.9
    assert equal_weights(ours, with_theirs)
