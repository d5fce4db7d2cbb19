"""Gradient steps that are made while environments step."""

import copy
import time

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor
from gymnasium import spaces
from models import SMALL, corridors, interrupt_at, make
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_rainbow import RainbowDQN


def train_while_stepping(model, env, total_timesteps):
    """What overlap=True does, step by step."""
    model._setup_learn(total_timesteps)
    owed = 0
    while model.num_timesteps < total_timesteps:
        model.policy.set_training_mode(False)
        for _ in range(model.train_freq.frequency):
            actions, buffer_actions = model._sample_action(model.learning_starts, n_envs=env.num_envs)
            env.step_async(actions)
            model.train(owed, model.batch_size)
            owed = 0
            new_obs, rewards, dones, infos = env.step_wait()
            model.num_timesteps += env.num_envs
            model._store_transition(model.replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
            model._update_current_progress_remaining(model.num_timesteps, total_timesteps)
            model._on_step()
        if model.num_timesteps > model.learning_starts:
            owed = model.gradient_steps
    model.train(owed, model.batch_size)


def test_overlap_learns_while_envs_step():
    kwargs = {"train_freq": 3, "gradient_steps": 2, "target_update_interval": 8}
    model = make(corridors(2), overlap=True, **kwargs).learn(240)
    env = corridors(2)
    expected = make(env, **kwargs)
    train_while_stepping(expected, env, 240)
    assert model._n_updates == expected._n_updates == 2 * (40 - 8)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), expected.policy.parameters_to_vector())
    target, expected_target = (list(learner.q_net_target.parameters()) for learner in (model, expected))
    assert all(th.equal(left, right) for left, right in zip(target, expected_target, strict=True))
    model.train(1, 16)  # outside of learn() nothing is put off
    assert model._n_updates == expected._n_updates + 1


def test_gradient_steps_are_made_between_sending_actions_and_receiving_what_became_of_them(monkeypatch):
    env, order = corridors(2), []
    model = make(env, overlap=True)

    def note(owner, name):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: (order.append(name), call(*args))[1])

    note(env, "step_async")
    note(env, "step_wait")
    note(model, "_gradient_step")
    model.learn(60)
    first = order.index("_gradient_step")
    assert order[first - 1 : first + 2] == ["step_async", "_gradient_step", "step_wait"]


class Copy(BaseCallback):
    """Copies the model in the middle of training."""

    def _on_step(self):
        if self.num_timesteps == 120:
            self.copy = copy.deepcopy(self.model)
        return True


def test_a_copy_made_while_it_learns_is_a_model_that_learns():
    model, callback = make(corridors(2), overlap=True), Copy()
    model.learn(240, callback=callback)
    before = callback.copy.policy.parameters_to_vector()
    callback.copy.train(1, 16)
    assert (before != callback.copy.policy.parameters_to_vector()).any()


class Echo(gym.Env):
    """The reward is the action."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action), False, False, {}


@pytest.mark.parametrize("reset_num_timesteps", [True, False])
def test_an_interrupted_gradient_step_loses_no_answer_of_an_env(reset_num_timesteps):
    env = SubprocVecEnv([Echo] * 2)
    model = make(env, overlap=True, noisy=False, exploration_initial_eps=1.0, exploration_final_eps=1.0).learn(100)
    step, calls = model.policy.optimizer.step, []

    def interrupted():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        step()

    model.policy.optimizer.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.learn(200, reset_num_timesteps=False)
    before = model.replay_buffer.pos
    model.learn(200, reset_num_timesteps=reset_num_timesteps)
    assert model.replay_buffer.pos == before + 100
    rows = slice(0, model.replay_buffer.pos)
    np.testing.assert_array_equal(model.replay_buffer.rewards[rows], model.replay_buffer.actions[rows, :, 0])
    env.close()


class Stuck(Echo):
    n_steps = 0

    def step(self, action):
        self.n_steps += 1
        time.sleep(60 if self.n_steps > 1 else 0)
        return super().step(action)


def test_an_interruption_of_all_processes_is_told_as_one():
    """Ctrl-C reaches those of the envs as well. RL Zoo saves the model when learn() raises KeyboardInterrupt."""
    env = SubprocVecEnv([Stuck] * 2)
    model = make(env, overlap=True, learning_starts=1, batch_size=2, train_freq=1)

    def interrupted():
        for process in env.processes:
            process.terminate()
            process.join()
        raise KeyboardInterrupt

    model.policy.optimizer.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.learn(50)


def test_callbacks_see_the_last_gradient_steps_and_train_at_once_with_overlap():
    model = make(Corridor(length=20), overlap=True, train_freq=(1, "episode"), gradient_steps=-1)
    updates = []

    class Watch(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 60:
                before = self.model._n_updates
                self.model.train(5, 16)
                updates.append(self.model._n_updates - before)
            return True

        def _on_training_end(self):
            updates.append(self.model._n_updates)

    model.learn(100, [Watch()])
    assert updates == [5, model._n_updates]
    plain = make(Corridor(length=20), train_freq=(1, "episode"), gradient_steps=-1).learn(100, Watch())
    assert plain._n_updates == model._n_updates
    assert make(corridors(2), overlap=True).learn(100, lambda *_: True)._n_updates > 0


def test_what_a_callback_trains_before_the_first_rollout_is_not_put_off():
    class Pretraining(BaseCallback):
        def _on_training_start(self):
            before = self.model._n_updates
            self.model.train(5, 16)
            self.made = self.model._n_updates - before

        def _on_step(self):
            return True

    callback = Pretraining()
    make(corridors(2), overlap=True).learn(100).learn(10, callback, reset_num_timesteps=False)
    assert callback.made == 5


def test_a_subclass_trains_as_often_with_overlap():
    class Counting(RainbowDQN):
        calls = 0

        def train(self, gradient_steps, batch_size=100):
            self.calls += 1
            super().train(gradient_steps, batch_size)

    counts = []
    for overlap in (False, True):
        model = Counting("MlpPolicy", corridors(2), **SMALL, overlap=overlap).learn(240)
        counts.append((model.calls, model._n_updates))
    assert counts[0] == counts[1]
    assert counts[0][0] > 0


def test_overlap_owes_nothing_after_an_error(tmp_path):
    model = make(corridors(2), overlap=True)

    with pytest.raises(KeyboardInterrupt):
        model.learn(240, interrupt_at(100))
    updates = model._n_updates
    model.train(1, 16)
    assert model._n_updates == updates + 1
    model.save(tmp_path / "overlap")
    loaded = RainbowDQN.load(tmp_path / "overlap", corridors(2))
    assert loaded.overlap is True
    loaded.learn(60)
    assert loaded._n_updates > model._n_updates
