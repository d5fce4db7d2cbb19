"""What acts: noise and epsilon, fresh for each env and each step, and the network as users call it."""

import os
import signal
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor
from gymnasium import spaces
from models import Record, corridors, make
from stable_baselines3 import DQN
from torch import nn

from sb3_rainbow.noisy import noisy_layers


def let_noise_decide(model):
    for layer in noisy_layers(model.q_net):
        nn.init.zeros_(layer.weight_mu)
        nn.init.zeros_(layer.bias_mu)
        nn.init.constant_(layer.weight_sigma, 5.0)
        nn.init.constant_(layer.bias_sigma, 5.0)


def test_every_environment_step_has_fresh_noise_also_between_updates():
    """No update takes place here: one frozen sample would repeat one action for ever."""
    model = make(Corridor(length=200), learning_starts=0, train_freq=100)
    let_noise_decide(model)
    record = Record(lambda callback: int(callback.locals["actions"][0]))
    model.learn(100, callback=record)
    assert model._n_updates == 1  # after the last step
    assert 10 < sum(record.values) < 90  # otherwise by chance less than 1e-12


def test_all_envs_explore_with_noise_of_their_own():
    model = make(corridors(8, length=200), learning_starts=0, train_freq=1000)
    let_noise_decide(model)
    record = Record(lambda callback: callback.locals["actions"].copy())
    model.learn(400, callback=record)
    actions = np.array(record.values)  # (50, 8)
    # With one sample for all, the envs would act alike in nearly every step
    assert np.mean(actions.min(axis=1) != actions.max(axis=1)) > 0.5


def test_all_envs_explore_with_noise_of_their_own_where_observations_are_dicts_too():
    kwargs = {"net_arch": [16], "features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = make(corridors(8, length=200, observation="dict"), "MultiInputPolicy", policy_kwargs=kwargs)
    let_noise_decide(model)
    obs = model.env.reset()
    actions = np.array([model.predict(obs)[0] for _ in range(50)])
    assert np.mean(actions.min(axis=1) != actions.max(axis=1)) > 0.5


def test_epsilon_is_drawn_for_each_env():
    model = make(corridors(64), noisy=False)
    model.exploration_rate = 0.5
    greedy = model.predict(np.zeros((64, 2), np.float32), deterministic=True)[0][0]
    n_greedy = []
    for _ in range(20):
        actions, _ = model.predict(np.zeros((64, 2), np.float32))
        n_greedy.append((actions == greedy).sum())
    # 3 of 4 are greedy on average. One draw for all: either 64, or 32 on average
    assert 33 < min(n_greedy) <= max(n_greedy) < 63  # 4 standard deviations are 14


def test_epsilon_of_zero_and_one():
    model = make(corridors(64, n_actions=5), noisy=False)
    obs = np.zeros((64, 2), np.float32)
    model.exploration_rate = 0.0
    np.testing.assert_array_equal(model.predict(obs)[0], model.predict(obs, deterministic=True)[0])
    model.exploration_rate = 1.0
    model.action_space.seed(0)
    actions = model.predict(obs)[0]
    assert len(set(actions)) == 5
    model.action_space.seed(0)
    np.testing.assert_array_equal(actions, [model.action_space.sample() for _ in range(64)])
    assert {model.predict((0.0, 0.0))[0].item() for _ in range(64)} == set(range(5))  # of a tuple, too


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("observation", [3, 2.5, None, np.float32(1), [1.0, 2.0]])
def test_what_is_no_observation_is_refused_as_by_sb3(observation, deterministic):
    messages = []
    for model in (DQN("MlpPolicy", "CartPole-v1", buffer_size=1), make()):
        with pytest.raises(ValueError, match="Unexpected observation shape") as error:
            model.predict(observation, deterministic=deterministic)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_values_of_a_dict_may_be_lists_and_numbers(deterministic):
    space = spaces.Dict({"a": spaces.Box(0, 1, (2,)), "d": spaces.Discrete(3)})
    env = gym.make("CartPole-v1")
    env = gym.wrappers.TransformObservation(env, lambda _: {"a": np.zeros(2, np.float32), "d": 0}, space)
    model = make(env, "MultiInputPolicy")
    action, _ = model.predict({"a": [0.1, 0.2], "d": 1}, deterministic=deterministic)
    assert action.shape == ()
    assert action in (0, 1)


@pytest.mark.parametrize("work", ["predict", "train", "q_net"])
def test_another_thread_may_act_meanwhile(work):
    """What one thread does with a network waits until the other has its outputs, or they would share their noise."""
    model = make(learning_starts=20).learn(30)
    let_noise_decide(model)
    observations = np.random.default_rng(0).normal(size=(40, 4))
    expected, _ = model.predict(observations, deterministic=True)
    first_is_inside, second_is_inside, results = threading.Event(), threading.Event(), []

    def wait_inside(*_):
        if threading.current_thread() is second:
            second_is_inside.set()
        else:
            first_is_inside.set()
            results.append(second_is_inside.wait(0.5))

    second = threading.Thread(target=lambda: first_is_inside.wait() and model.predict(observations))
    with model.q_net.features_extractor.register_forward_pre_hook(wait_inside):
        second.start()
        if work == "predict":
            np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], expected)
        elif work == "train":
            model.train(1, batch_size=16)
        else:
            model.q_net.train()(th.zeros(2, 4))
        second.join()
    assert not any(results)
    assert second_is_inside.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # that is what is tried
def test_a_process_forked_while_another_thread_trains_may_act():
    """As SubprocVecEnv(start_method="fork") makes them: that thread does not go on there."""
    model = make()
    is_inside, has_forked = threading.Event(), threading.Event()

    def hold(*_):
        is_inside.set()
        has_forked.wait(60)

    handle = model.q_net.features_extractor.register_forward_pre_hook(hold)
    acting = threading.Thread(target=model.predict, args=(np.zeros(4), None, None, True))
    acting.start()
    assert is_inside.wait(60)
    handle.remove()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends it if it waits for ever
        try:
            model.predict(np.zeros(4), deterministic=True)
            os._exit(0)
        finally:
            os._exit(1)
    has_forked.set()
    acting.join()
    assert os.waitpid(child, 0)[1] == 0


def test_the_network_itself_predicts_as_the_model_does():
    model = make()
    let_noise_decide(model)
    observations = np.random.default_rng(0).normal(size=(40, 4))
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(model.q_net.predict(observations, deterministic=True)[0], expected)
    assert not np.array_equal(model.q_net.predict(observations)[0], expected)


@pytest.mark.parametrize("noisy", [True, False])
def test_the_policy_can_be_exported_for_batches_of_any_size(noisy):
    class Deployed(nn.Module):
        def __init__(self, policy):
            super().__init__()
            self.policy = policy

        def forward(self, obs):
            return self.policy(obs, deterministic=True)

    model = make(noisy=noisy)
    batch = th.export.Dim("batch", min=1, max=64)
    exported = th.export.export(Deployed(model.policy).eval(), (th.randn(3, 4),), dynamic_shapes={"obs": {0: batch}})
    observations = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    actions = exported.module()(th.from_numpy(observations)).numpy()
    np.testing.assert_array_equal(actions, model.predict(observations, deterministic=True)[0])


def test_actions_before_learning_starts_are_uniform():
    model = make(Corridor(length=200, n_actions=4), learning_starts=400, learning_rate=1.0)
    record = Record(lambda callback: int(callback.locals["actions"][0]))
    model.learn(401, callback=record)
    counts = np.bincount(record.values[:400], minlength=4)
    assert (counts > 40).all()  # of 100 expected each: 7 standard deviations
