"""Replay buffers of other classes: hindsight, SB3's own, users'."""

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium.envs.classic_control import CartPoleEnv
from models import make
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_rainbow import RainbowDQN, RainbowReplayBuffer


class Sample(NamedTuple):
    """What every batch has."""

    observations: th.Tensor
    actions: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    rewards: th.Tensor


def test_hindsight_replay_still_trains():
    env = BitFlippingEnv(n_bits=4, continuous=False)
    idle = "^n_steps=3 and prioritized_replay=True will have no effect"
    with pytest.warns(UserWarning, match=f"{idle} .*, or write n_steps=1 and prioritized_replay=False$"):
        model = make(env, "MultiInputPolicy", replay_buffer_class=HerReplayBuffer,
                     replay_buffer_kwargs={"n_sampled_goal": 2})  # fmt: skip
    before = model.policy.parameters_to_vector()
    model.learn(200)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)


def test_another_buffer_named_on_load_is_told_of_as_well(tmp_path):
    make().save(tmp_path / "model")
    for arguments in ({"replay_buffer_class": ReplayBuffer}, {"custom_objects": {"replay_buffer_class": ReplayBuffer}}):
        with pytest.warns(UserWarning, match="^n_steps=3 and prioritized_replay=True will have no effect"):
            RainbowDQN.load(tmp_path / "model", CartPoleEnv(), **arguments)
    with warnings.catch_warnings(action="error"):
        RainbowDQN.load(tmp_path / "model", CartPoleEnv())


def test_a_buffer_without_discounts_bootstraps_with_gamma():
    """SB3's own ReplayBuffer gives None, a user's samples may not have the field at all."""

    class Mine(ReplayBuffer):
        def sample(self, *args, **kwargs):
            return Sample(*super().sample(*args, **kwargs)[:5])

    weights = []
    for buffer_class, gamma in ((RainbowReplayBuffer, 0.9), (ReplayBuffer, 0.9), (Mine, 0.9), (ReplayBuffer, 0.8)):
        model = make(replay_buffer_class=buffer_class, n_steps=1, prioritized_replay=False, gamma=gamma).learn(200)
        weights.append(model.policy.parameters_to_vector())
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[0], weights[3])


@pytest.mark.parametrize("distributional", [True, False])
@pytest.mark.parametrize("name", ["rewards", "discounts"])
def test_a_buffer_may_have_numbers_of_double_precision(name, distributional):
    class Mine(RainbowReplayBuffer):
        def sample(self, *args, **kwargs):
            batch = super().sample(*args, **kwargs)
            return batch._replace(**{name: getattr(batch, name).double()})

    weights = [
        make(replay_buffer_class=kind, distributional=distributional, noisy=False)
        .learn(100)
        .policy.parameters_to_vector()
        for kind in (RainbowReplayBuffer, Mine)
    ]
    np.testing.assert_allclose(*weights, rtol=0, atol=1e-5)


def test_a_prioritized_buffer_with_other_names_trains():
    class Mine(ReplayBuffer):
        def sample(self, *args, **kwargs):
            return Sample(*super().sample(*args, **kwargs)[:5])

        def update_priorities(self, leaves, td_errors, progress):
            raise AssertionError("it was called in a way that it does not know")

    model = make(replay_buffer_class=Mine, n_steps=1)
    with pytest.warns(UserWarning, match="prioritized_replay=True has no effect with this Mine"):
        model.learn(100)
    assert model._n_updates > 0


@pytest.mark.parametrize("name", ["rewards", "dones", "timeouts"])
def test_a_buffer_that_keeps_its_rows_in_its_own_way_trains_on(name):
    """Whether the support fits cannot be judged then."""

    class Rows:
        def __init__(self, rows):
            self.rows = rows

        def __getitem__(self, key):
            return self.rows[key]

        def __setitem__(self, key, value):
            self.rows[key] = value

    class Mine(ReplayBuffer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            setattr(self, name, Rows(getattr(self, name)))

    narrow = {"net_arch": [16], "v_min": 0, "v_max": 1}  # of what is judged after 500 gradient steps
    kwargs = {"n_steps": 1, "prioritized_replay": False, "learning_rate": 1e-3, "train_freq": 1}
    model = make(replay_buffer_class=Mine, **kwargs, policy_kwargs=narrow).learn(700)
    assert model._n_updates > 600


def test_one_warning_names_just_the_switches_without_effect():
    with pytest.warns(UserWarning, match=r"^n_steps=3 and prioritized_replay=True will") as caught:
        make(replay_buffer_class=ReplayBuffer).learn(100)
    assert ["have no effect" in str(warning.message) for warning in caught].count(True) == 1
    with pytest.warns(UserWarning, match=r"^prioritized_replay=True will have no effect"):
        make(replay_buffer_class=NStepReplayBuffer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(replay_buffer_class=ReplayBuffer, n_steps=1, prioritized_replay=False)
        make(replay_buffer_class=NStepReplayBuffer, prioritized_replay=False)
        make(replay_buffer_class=RainbowReplayBuffer)


def test_a_buffer_derived_from_ours_may_have_the_signature_of_sb3s():
    class Mine(RainbowReplayBuffer):
        def __init__(self, buffer_size, observation_space, action_space, device="auto", n_envs=1,
                     optimize_memory_usage=False):  # fmt: skip
            super().__init__(buffer_size, observation_space, action_space, device, n_envs)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(replay_buffer_class=Mine, n_steps=5, gamma=0.9, train_freq=1)
    model.learn(60)
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (5, 0.9)
    lost = r"^prioritized_replay=False and prioritized_replay_alpha=0.7 will have no effect"
    with pytest.warns(UserWarning, match=lost):
        make(replay_buffer_class=Mine, prioritized_replay=False, prioritized_replay_alpha=0.7)


def test_n_steps_and_gamma_reach_a_users_buffer_through_keyword_arguments():
    class Mine(NStepReplayBuffer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    model = make(replay_buffer_class=Mine, prioritized_replay=False, n_steps=7, gamma=0.5)
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (7, 0.5)
    assert model.n_steps == 7
    assert model.replay_buffer_kwargs == {}


def test_a_users_prioritized_buffer_gets_its_priorities():
    class Mine(RainbowReplayBuffer):
        updates = 0

        def update_priorities(self, indices, priorities):
            Mine.updates += 1
            super().update_priorities(indices, priorities)

    model = make(replay_buffer_class=Mine, n_steps=2, prioritized_replay_alpha=0.7)
    model.learn(100)
    assert Mine.updates == model._n_updates > 0
    assert model.replay_buffer.n_steps == 2
    assert model.replay_buffer.sampler.alpha == 0.7


def test_loading_a_buffer_of_another_class_names_the_switches_without_effect(tmp_path):
    DQN("MlpPolicy", "CartPole-v1", buffer_size=500).learn(60).save_replay_buffer(tmp_path / "buffer")
    model = make()
    with pytest.warns(UserWarning, match="n_steps=3 and prioritized_replay=True will have no effect"):
        model.load_replay_buffer(tmp_path / "buffer")
