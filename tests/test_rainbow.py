"""The algorithm as an SB3 user knows it: defaults, arguments, callbacks, copies."""

import copy
import warnings
from functools import partial
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor
from models import make
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_rainbow import RainbowDQN


def test_published_defaults():
    model = RainbowDQN("MlpPolicy", "CartPole-v1")
    assert model.learning_rate == 6.25e-5
    assert model.policy.optimizer.defaults["eps"] == 1.5e-4
    assert (model.buffer_size, model.learning_starts, model.batch_size) == (1_000_000, 20_000, 32)
    assert (model.gamma, model.n_steps, model.target_update_interval) == (0.99, 3, 8_000)
    assert (model.train_freq.frequency, model.gradient_steps, model.max_grad_norm) == (4, 1, 10)
    assert (model.exploration_initial_eps, model.exploration_final_eps) == (0, 0)
    head = model.q_net.head
    assert (head.size, head.support[0], head.support[-1]) == (51, -10, 10)
    without_noise = RainbowDQN("MlpPolicy", "CartPole-v1", noisy=False)
    assert (without_noise.exploration_initial_eps, without_noise.exploration_final_eps) == (1.0, 0.05)
    assert without_noise.exploration_fraction == 0.1


def test_copies_learn_on_their_own(monkeypatch):
    monkeypatch.setattr(th, "compile", partial(th.compile, backend="eager"))  # the tracing, without the C++
    for kwargs in ({"compile": True}, {"overlap": True}):
        model = make(Corridor(length=20), **kwargs).learn(80)
        weights = model.policy.parameters_to_vector()
        other = copy.deepcopy(model).learn(40, reset_num_timesteps=False)
        assert not np.array_equal(other.policy.parameters_to_vector(), weights)
        np.testing.assert_array_equal(model.policy.parameters_to_vector(), weights)


def test_a_new_gamma_or_n_steps_takes_effect():
    model = make().learn(60)
    model.gamma, model.n_steps = 0.5, 1
    model.train(1)
    assert set(model.replay_buffer.sample(8).discounts.ravel().tolist()) == {0.5}


def test_switches_are_not_written_into_policy_kwargs():
    policy_kwargs = {"net_arch": [16], "n_atoms": 11}
    model = make(policy_kwargs=policy_kwargs, dueling=False)
    assert model.policy_kwargs == policy_kwargs == {"net_arch": [16], "n_atoms": 11}
    assert model.q_net.dueling is None
    assert make(policy_kwargs={"dueling": False}, dueling=False).q_net.dueling is None


def test_callbacks_and_evaluation(tmp_path):
    model = make()
    model.learn(300, callback=EvalCallback(gym.make("CartPole-v1"), eval_freq=100, n_eval_episodes=2,
                                           best_model_save_path=str(tmp_path), verbose=0))  # fmt: skip
    assert (tmp_path / "best_model.zip").exists()
    mean, _ = evaluate_policy(RainbowDQN.load(tmp_path / "best_model"), gym.make("CartPole-v1"), 3)
    assert mean >= 8


def test_arguments_that_sb3_takes_are_taken():
    model = make(verbose=True, policy_kwargs={"optimizer_class": partial(th.optim.SGD, momentum=0.9)}).learn(100)
    assert model.verbose == 1
    assert model.policy.optimizer.param_groups[0]["momentum"] == 0.9


def test_set_env_and_get_parameters():
    model = make(make_vec_env("CartPole-v1", 2)).learn(100)
    model.set_env(make_vec_env("CartPole-v1", 2))
    model.learn(100, reset_num_timesteps=False)
    assert set(model.get_parameters()) == {"policy", "policy.optimizer"}


def test_q_values_are_those_that_deterministic_actions_follow(tmp_path):
    """``model.q_net(obs)``, whether it is new, has learned or was loaded."""
    model = make(policy_kwargs={"net_arch": [16], "sigma_init": 20.0})
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    for change in (lambda: model, lambda: model.learn(100), lambda: RainbowDQN.load(tmp_path / "model")):
        changed = change()
        actions = changed.q_net(th.as_tensor(obs)).argmax(1).numpy()
        np.testing.assert_array_equal(actions, changed.predict(obs, deterministic=True)[0])
        assert (changed.predict(obs)[0] != actions).any()
        model.save(tmp_path / "model")


def test_q_values_are_those_of_the_mean_weights_after_a_gradient_step_was_interrupted():
    model = make(train_freq=1)
    model.replay_buffer.update_priorities = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        model.learn(60)
    obs = np.random.default_rng(0).standard_normal((256, 4)).astype(np.float32)
    q_values = model.q_net(th.as_tensor(obs))
    model.predict(obs[0], deterministic=True)  # SB3's, after which they are
    th.testing.assert_close(model.q_net(th.as_tensor(obs)), q_values, rtol=0, atol=0)


def test_q_values_are_those_of_the_mean_weights_whenever_a_user_asks():
    """Also after ``train()`` alone, and where training ends."""

    class Ended(BaseCallback):
        def _on_step(self):
            return True

        def _on_training_end(self):
            values.append(self.model.q_net(obs))

    obs, values = th.zeros(8, 4), []
    model = make(train_freq=1, policy_kwargs={"net_arch": [16], "sigma_init": 5.0}).learn(60, Ended())
    model.predict(obs[0].numpy(), deterministic=True)
    th.testing.assert_close(model.q_net(obs), values[0], rtol=0, atol=0)
    model.train(1)
    values.append(model.q_net(obs))
    model.predict(obs[0].numpy(), deterministic=True)
    th.testing.assert_close(model.q_net(obs), values[1], rtol=0, atol=0)
    assert not th.equal(*values)


def test_a_train_frequency_that_is_set_later_takes_effect():
    model = make()
    model.train_freq = 8
    model.learn(64)
    assert model._n_updates == 2  # after the 56th and the 64th


def test_an_environment_of_gyms_is_wrapped_as_sb3_does(monkeypatch):
    legacy, env = object(), gym.make("CartPole-v1")
    patched = {legacy: env}
    monkeypatch.setattr("sb3_rainbow.arguments._patch_env", patched.__getitem__)
    assert make(legacy).get_env().envs[0].unwrapped is env.unwrapped


def test_learning_that_ends_before_it_starts_is_warned_of():
    model = RainbowDQN("MlpPolicy", "CartPole-v1")
    with pytest.warns(UserWarning, match="more than learning_starts=20000 env steps"):
        model.learn(50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().learn(51)
    for reset in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(3):
                model.learn(2, reset_num_timesteps=reset)
        assert len(caught) == 1  # once, as Python shows each text once


def test_going_on_without_transitions_is_warned_of(tmp_path):
    make().learn(60).save(tmp_path / "model")
    model = RainbowDQN.load(tmp_path / "model", gym.make("CartPole-v1"))
    expected = r"load_replay_buffer\(\) before, or load\(..., learning_starts=N\) with N above 60: up to there"
    with pytest.warns(UserWarning, match=expected):
        model.learn(4, reset_num_timesteps=False)
    model = RainbowDQN.load(tmp_path / "model", gym.make("CartPole-v1"), learning_starts=110)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(52, reset_num_timesteps=False).learn(4, reset_num_timesteps=False)
