"""The algorithm: exploration, counting, targets, schedules, logs."""

import copy
import csv
import threading
import warnings
from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor
from gymnasium import spaces
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from sb3_rainbow import RainbowDQN, RainbowReplayBuffer
from sb3_rainbow.noisy import noisy_layers
from sb3_rainbow.watch import SupportWatch, observed_returns

SMALL = {"buffer_size": 500, "learning_starts": 50, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}, "seed": 0}
OFF = {"double_q": False, "dueling": False, "noisy": False, "distributional": False, "prioritized_replay": False}


def make(env="CartPole-v1", policy="MlpPolicy", **kwargs):
    return RainbowDQN(policy, env, **{**copy.deepcopy(SMALL), **kwargs})


def corridors(n_envs, **kwargs):
    return DummyVecEnv([lambda: Corridor(**kwargs)] * n_envs)


class Record(BaseCallback):
    """Calls a function at every step, and keeps what it returns."""

    def __init__(self, function):
        super().__init__()
        self.function, self.values = function, []

    def _on_step(self):
        self.values.append(self.function(self))
        return True


def let_noise_decide(model):
    for layer in noisy_layers(model.q_net):
        nn.init.zeros_(layer.weight_mu)
        nn.init.zeros_(layer.bias_mu)
        nn.init.constant_(layer.weight_sigma, 5.0)
        nn.init.constant_(layer.bias_sigma, 5.0)


# Exploration


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


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_values_of_a_dict_may_be_lists_and_numbers(deterministic):
    space = spaces.Dict({"a": spaces.Box(0, 1, (2,)), "d": spaces.Discrete(3)})
    env = gym.make("CartPole-v1")
    env = gym.wrappers.TransformObservation(env, lambda _: {"a": np.zeros(2, np.float32), "d": 0}, space)
    model = make(env, "MultiInputPolicy")
    action, _ = model.predict({"a": [0.1, 0.2], "d": 1}, deterministic=deterministic)
    assert action.shape == ()
    assert action in (0, 1)


@pytest.mark.parametrize("work", ["predict", "train"])
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
        else:
            model.train(1, batch_size=16)
        second.join()
    assert not any(results)
    assert second_is_inside.is_set()


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


# Counting


@pytest.mark.parametrize("n_envs", [1, 4])
def test_learning_starts_and_target_updates_count_env_steps(n_envs):
    model = make(corridors(n_envs), learning_starts=100, target_update_interval=40, train_freq=1)
    first_update, target_updates = [], []

    def look(callback):
        if model._n_updates and not first_update:
            first_update.append(model.num_timesteps)
        target_updates.append(nn.utils.parameters_to_vector(model.q_net_target.parameters()).detach().numpy().copy())

    model.learn(400, callback=Record(look))
    # The update follows the first step beyond 100, and is seen in the step after that
    assert first_update == [100 + 2 * n_envs]
    changes = [i for i in range(1, len(target_updates)) if not np.array_equal(target_updates[i - 1], target_updates[i])]
    steps = np.array(changes) * n_envs  # env steps made when the change took place
    assert (steps % 40 == 0).all()
    assert len(steps) == (400 - 100) // 40


@pytest.mark.parametrize(
    ("n_envs", "train_freq", "gradient_steps", "expected"),
    [(1, 4, 1, 25), (8, 4, 1, 100 // 32), (4, 1, -1, 100), (1, 1, 2, 200)],
)
def test_train_freq_counts_vectorised_steps_and_minus_one_is_one_update_per_env_step(
    n_envs, train_freq, gradient_steps, expected
):
    model = make(corridors(n_envs), learning_starts=0, train_freq=train_freq, gradient_steps=gradient_steps)
    model.learn(100)
    assert model._n_updates == pytest.approx(expected, abs=1)


def test_a_float_of_timesteps_as_users_write_it():
    assert make().learn(1e2).num_timesteps == 100


@pytest.mark.parametrize(
    "schedule",
    [lambda progress: 1e-3 * progress, LinearSchedule(1e-3, 0.0, 1.0), lambda progress: np.asarray(1e-3 * progress)],
)
def test_a_learning_rate_schedule_is_followed(schedule):
    model = make(learning_rate=schedule, train_freq=1).learn(200)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 1 / 200, abs=1e-5)


def test_training_mode_while_learning_evaluation_mode_while_acting():
    modes = {}

    class Watched(FlattenExtractor):
        def forward(self, observations):
            modes.setdefault(th.is_grad_enabled(), set()).add(self.training)
            return super().forward(observations)

    make(policy_kwargs={"features_extractor_class": Watched}, double_q=False).learn(100)
    assert modes == {True: {True}, False: {False}}


# Targets


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
    model.set_logger(configure(None, []))
    model.train(1, batch_size=1)
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
    model.train(1)
    model.q_net.predict(model.observation_space.sample())
    assert not model.q_net.training
    model.train(1)
    assert model.q_net.training


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
        {"dueling": False, "noisy": False, "distributional": False, "double_q": False, "prioritized_replay": False},
    ],
)
def test_compiled_gradient_steps_are_equal_but_for_rounding(kwargs, tmp_path):
    """Another batch size too, which is compiled anew."""
    noise = {"noise": kwargs.pop("noise")} if "noise" in kwargs else {}
    models = []
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
        models.append((model, model.policy.parameters_to_vector() - before))
    (_, step), (model, compiled_step) = models
    assert np.linalg.norm(compiled_step - step) < (0.05 if "amp" in kwargs else 1e-4) * np.linalg.norm(step)
    model.save(tmp_path / "compiled")
    loaded = RainbowDQN.load(tmp_path / "compiled", gym.make("CartPole-v1"), learning_starts=50)
    assert loaded.compile is True
    loaded.learn(60)
    assert loaded._n_updates == 2 + 3


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


def test_copies_learn_on_their_own(monkeypatch):
    monkeypatch.setattr(th, "compile", partial(th.compile, backend="eager"))  # the tracing, without the C++
    for kwargs in ({"compile": True}, {"overlap": True}):
        model = make(Corridor(length=20), **kwargs).learn(80)
        weights = model.policy.parameters_to_vector()
        other = copy.deepcopy(model).learn(40, reset_num_timesteps=False)
        assert not np.array_equal(other.policy.parameters_to_vector(), weights)
        np.testing.assert_array_equal(model.policy.parameters_to_vector(), weights)


def test_each_of_many_models_is_compiled(monkeypatch):
    """torch gives up on a function after 8 versions of it."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(th, "compile", partial(th.compile, backend=count))
    for width in range(1, 11):
        model = make(Corridor(length=20), compile=True, policy_kwargs={"net_arch": [width]}).learn(60)
        assert len(graphs) == width
        assert model._n_updates > 1


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


def test_overlap_owes_nothing_after_an_error(tmp_path):
    model = make(corridors(2), overlap=True)

    def stop(callback):
        if callback.num_timesteps == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(240, Record(stop))
    updates = model._n_updates
    model.train(1, 16)
    assert model._n_updates == updates + 1
    model.save(tmp_path / "overlap")
    loaded = RainbowDQN.load(tmp_path / "overlap", corridors(2))
    assert loaded.overlap is True
    loaded.learn(60)
    assert loaded._n_updates > model._n_updates


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


# Beta


def test_beta_rises_linearly_in_env_steps_to_one():
    """Whatever the number of envs and of gradient steps."""
    for n_envs in (1, 4):
        model = make(corridors(n_envs), prioritized_replay_beta0=0.2, learning_starts=0, train_freq=1)
        seen = Record(lambda callback: (callback.model.num_timesteps, callback.model.replay_buffer.beta))
        model.learn(400, callback=seen)
        for steps, beta in seen.values[2:]:
            assert beta == pytest.approx(0.2 + 0.8 * (steps - n_envs) / 400, abs=1e-6)
        assert model.prioritized_replay_beta == 1.0


def test_beta_fraction_is_the_share_of_training_over_which_it_rises():
    model = make(prioritized_replay_beta_fraction=0.5)
    beta = Record(lambda callback: callback.model.replay_buffer.beta)
    model.learn(200, callback=beta)
    assert beta.values[99] == pytest.approx(0.4 + 0.6 * 96 / 100, abs=1e-6)
    assert beta.values[150] == 1.0


@pytest.mark.parametrize("reset_num_timesteps", [True, False])
def test_beta_never_falls_when_training_is_continued(reset_num_timesteps, tmp_path):
    model = make().learn(200)
    assert model.prioritized_replay_beta == 1.0
    model.save(tmp_path / "model")
    model = RainbowDQN.load(tmp_path / "model", env=model.get_env())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    beta = Record(lambda callback: callback.model.prioritized_replay_beta)
    model.learn(200, callback=beta, reset_num_timesteps=reset_num_timesteps, log_interval=1)
    assert set(beta.values) == {1.0}
    with (tmp_path / "progress.csv").open() as file:
        assert {float(row["train/beta"]) for row in csv.DictReader(file)} == {1.0}
    assert model.replay_buffer.beta == 1.0


# Seams

ends_early = pytest.mark.filterwarnings("ignore:learn.* ends at env step .*, before learning starts")


@ends_early
@pytest.mark.parametrize("n_envs", [1, 2])
def test_no_window_runs_across_a_second_learn(n_envs):
    """Episode 1 is cut after 3 of its 100 steps by the reset of the second learn."""
    model = make(corridors(n_envs, length=100), n_steps=5, gamma=1.0, train_freq=1)
    model.learn(3 * n_envs)
    model.learn(6 * n_envs)
    sample = model.replay_buffer._get_samples(np.array([0, 2 * n_envs, 3 * n_envs]))
    assert sample.rewards.ravel().tolist() == [1 + 2 + 3, 3, 1 + 2 + 3 + 4 + 5]
    assert sample.next_observations[:, 1].tolist() == [3, 3, 5]


@ends_early
def test_a_window_goes_on_where_the_env_is_not_reset():
    model = make(corridors(1, length=100), n_steps=5, gamma=1.0, train_freq=1)
    model.learn(3).learn(6, reset_num_timesteps=False)
    assert model.replay_buffer._get_samples(np.array([0])).rewards.item() == 1 + 2 + 3 + 4 + 5


@ends_early
def test_no_window_runs_from_a_loaded_buffer_into_a_new_env(tmp_path):
    model = make(corridors(1, length=100), n_steps=5, gamma=1.0, train_freq=1)
    model.learn(3)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model = RainbowDQN.load(tmp_path / "model", env=corridors(1, length=100))
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(6, reset_num_timesteps=False)
    assert model.replay_buffer._get_samples(np.array([0])).rewards.item() == 1 + 2 + 3


@ends_early
@pytest.mark.parametrize("n_envs", [1, 2])
def test_no_window_runs_across_the_step_at_which_a_callback_stops(n_envs):
    """SB3 does not store that step: here the one in which the second episode ends."""
    model = make(corridors(n_envs, length=5), n_steps=3, gamma=1.0, train_freq=1)
    model.learn(100, StopTrainingOnMaxEpisodes(2 * n_envs))
    last = model.replay_buffer.pos - 1
    model.learn(6 * n_envs, reset_num_timesteps=False)
    sample = model.replay_buffer._get_samples(np.arange((last - 2) * n_envs, (last + 1) * n_envs))
    assert sample.rewards.reshape(3, n_envs).T.tolist() == [[2 + 3 + 4, 3 + 4, 4]] * n_envs
    assert sample.next_observations[:, 1].tolist() == [4] * 3 * n_envs


@ends_early
def test_no_window_runs_across_a_step_that_is_refused():
    env = Corridor(length=100)
    model = make(env, n_steps=5, gamma=1.0, train_freq=1).learn(3)
    step = env.step
    env.step = lambda action: (*step(action)[:1], np.nan, False, False, {})
    with pytest.raises(ValueError, match="reward=nan"):
        model.learn(3, reset_num_timesteps=False)
    env.step = step
    model.learn(6, reset_num_timesteps=False)
    assert model.replay_buffer._get_samples(np.array([0])).rewards.item() == 1 + 2 + 3


@ends_early
@pytest.mark.parametrize("how", ["set_env", "load"])
def test_no_window_runs_into_an_env_that_was_set(how, tmp_path):
    """The env is reset although the counter goes on."""
    model = make(corridors(1, length=100), n_steps=5, gamma=1.0, train_freq=1).learn(3)
    if how == "set_env":
        model.set_env(corridors(1, length=100))
    else:
        buffer = model.replay_buffer
        model.save(tmp_path / "model")
        model = RainbowDQN.load(tmp_path / "model", env=corridors(1, length=100))
        model.replay_buffer = buffer
    model.learn(6, reset_num_timesteps=False)
    assert model.replay_buffer._get_samples(np.array([0])).rewards.item() == 1 + 2 + 3


@ends_early
@pytest.mark.parametrize("truncate_last_traj", [True, False])
def test_a_buffer_loaded_beside_a_running_env_is_cut_unless_told_otherwise(truncate_last_traj, tmp_path):
    model = make(corridors(1, length=100), n_steps=5, gamma=1.0, train_freq=1)
    model.learn(3)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj)
    model.learn(6, reset_num_timesteps=False)
    expected = 1 + 2 + 3 if truncate_last_traj else 15
    assert model.replay_buffer._get_samples(np.array([0])).rewards.item() == expected


# Buffers of other classes


def test_hindsight_replay_still_trains():
    env = BitFlippingEnv(n_bits=4, continuous=False)
    with pytest.warns(UserWarning, match="n_steps=3 and prioritized_replay=True will have no effect"):
        model = make(env, "MultiInputPolicy", replay_buffer_class=HerReplayBuffer,
                     replay_buffer_kwargs={"n_sampled_goal": 2})  # fmt: skip
    before = model.policy.parameters_to_vector()
    model.learn(200)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)


def test_a_buffer_without_discounts_bootstraps_with_gamma():
    """SB3's own ReplayBuffer gives None, a user's samples may not have the field at all."""

    class Sample(NamedTuple):
        observations: th.Tensor
        actions: th.Tensor
        next_observations: th.Tensor
        dones: th.Tensor
        rewards: th.Tensor

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


def test_a_buffer_that_keeps_its_rewards_in_its_own_way_trains_on():
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
            self.rewards = Rows(self.rewards)

    model = make(replay_buffer_class=Mine, n_steps=1, prioritized_replay=False, learning_rate=1e-3, train_freq=1)
    model.learn(700)
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


# What one watches


@pytest.mark.parametrize("distributional", [True, False])
def test_logged_values(tmp_path, distributional):
    model = make(distributional=distributional)
    model.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    model.learn(400, log_interval=1)
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    header = rows[0].keys()
    ours = {"train/loss", "train/q_mean", "train/beta", "train/max_priority", "train/grad_norm"}
    ours |= {"train/kl", "train/support_edge"} if distributional else {"train/td_error"}
    ours |= {f"train/snr_{i}" for i in range(4)}  # two layers in each of two streams
    assert ours <= header
    assert not {"train/td_error" if distributional else "train/kl"} & header
    assert {"rollout/ep_rew_mean", "rollout/exploration_rate", "train/learning_rate", "train/n_updates"} <= header
    logged = [{name: float(row[name]) for name in ours} for row in rows if all(row[name] for name in ours)]
    assert len(logged) > 3
    assert all(np.isfinite(list(row.values())).all() for row in logged)
    assert all(row["train/grad_norm"] > 0 and row["train/max_priority"] >= 1 for row in logged)
    betas = [row["train/beta"] for row in logged]
    assert betas == sorted(betas)
    assert betas[0] < betas[-1]
    board = EventAccumulator(str(tmp_path)).Reload()
    assert ours <= set(board.Tags()["scalars"])


def test_the_signal_to_noise_ratio_is_that_of_each_layer():
    model = make(learning_rate=1e-2).learn(200, log_interval=10**6)
    model.dump_logs = RainbowDQN.dump_logs.__get__(model)
    logged = {}
    model.logger.dump = lambda step: logged.update(model.logger.name_to_value)
    model.dump_logs()
    ratios = [logged[f"train/snr_{i}"] for i in range(4)]
    assert ratios == [layer.signal_to_noise() for layer in noisy_layers(model.q_net)]
    assert len(set(ratios)) == 4


def test_the_log_has_means_over_all_gradient_steps_since_it_was_written():
    model = make(train_freq=1).learn(100, log_interval=10**6)
    losses = []
    gradient_step = model._gradient_step
    model._gradient_step = lambda batch: losses.append(gradient_step(batch)) or losses[-1]
    model.logger.dump(0)
    model.learn(50, reset_num_timesteps=False, log_interval=10**6)
    mean = np.mean([values["loss"].item() for values in losses])
    assert model.logger.name_to_value["train/loss"] == pytest.approx(mean, rel=1e-5)


def test_logged_values_are_floats_right_after_training():
    model = make().learn(100, log_interval=10**6)
    values = {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}
    assert {"train/loss", "train/q_mean", "train/kl", "train/grad_norm", "train/support_edge"} <= values.keys()
    assert {"train/beta", "train/max_priority"} <= values.keys()
    assert all(isinstance(value, float | int) for value in values.values())


def test_without_noise_and_priorities_there_is_nothing_to_log_of_them(tmp_path):
    model = make(**OFF, n_steps=1)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(300, log_interval=1)
    header = (tmp_path / "progress.csv").read_text()
    assert "train/loss" in header
    assert not any(name in header for name in ("snr", "beta", "max_priority", "support_edge"))


def test_a_support_that_cuts_returns_off_is_warned_of_once():
    """CartPole with the published -10 to 10: its returns reach 100."""
    model = make(train_freq=1)  # as published, but for the warm-up
    expected = r"support_edge is 0\.\d\d.*write policy_kwargs=dict\(v_min=-10, v_max=100\)"
    with pytest.warns(UserWarning, match=expected) as caught:
        model.learn(1700)
    assert ["support_edge" in str(warning.message) for warning in caught].count(True) == 1


@pytest.mark.parametrize(
    ("env", "policy_kwargs"),
    [
        ("CartPole-v1", {"v_min": 0, "v_max": 100}),
        # Nearly all returns are 0, the lowest atom, and the others 1, the highest: nothing is cut off
        ("FrozenLake-v1", {"v_min": 0, "v_max": 1}),
    ],
)
def test_a_support_that_fits_is_not(env, policy_kwargs):
    model = make(env, learning_rate=1e-3, target_update_interval=50, train_freq=1,
                 policy_kwargs={"net_arch": [16], **policy_kwargs})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(1500)
    assert model._n_updates > 500  # it has been judged


def test_few_atoms_have_much_at_their_ends_without_being_cut_off():
    model = make(policy_kwargs={"net_arch": [16], "n_atoms": 2, "v_min": 0, "v_max": 100}, train_freq=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(700)
    assert model._n_updates > 500


def test_observed_returns_by_hand():
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for reward, done in [(1, False), (1, True), (-3, False)]:
        buffer.add(obs, obs, np.array([0]), np.array([reward]), np.array([done]), [{}])
    # Episode returns 1.5 and -3; for ever: the mean reward of -1 of steps that go on, twice
    assert observed_returns(buffer, gamma=0.5) == (-3.0, 1.5)
    for _ in range(20):  # wraps
        buffer.add(obs, obs, np.array([0]), np.array([2.0]), np.array([False]), [{}])
    low, high = observed_returns(buffer, gamma=0.99)
    assert (low, high) == (0.0, pytest.approx(200.0))


def test_a_reward_for_the_end_of_an_episode_comes_once():
    """Games won in six steps, one after the other: for ever would be a sixth of 100."""
    buffer = ReplayBuffer(100, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for step in range(60):
        won = step % 6 == 5
        buffer.add(obs, obs, np.array([0]), np.array([float(won)]), np.array([won]), [{}])
    assert observed_returns(buffer, gamma=0.99) == (0.0, 1.0)


def test_a_reward_goes_on_after_a_truncation():
    buffer = ReplayBuffer(100, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for _ in range(60):
        buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([True]), [{"TimeLimit.truncated": True}])
    assert observed_returns(buffer, gamma=0.99) == (0.0, pytest.approx(100.0))


def test_episodes_that_all_end_after_as_many_steps_do_not_go_on_for_ever():
    buffer = ReplayBuffer(100, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for step in range(65):
        buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([step % 4 == 3]), [{}])
    assert observed_returns(buffer, gamma=0.5) == (0.0, 1.875)
    buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([True]), [{}])  # after two steps
    assert observed_returns(buffer, gamma=0.5) == (0.0, 2.0)


def test_the_range_that_is_proposed_holds_both_ends():
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    buffer.add(obs, obs, np.array([0]), np.array([-36.25]), np.array([True]), [{}])
    watch = SupportWatch(-10, 10, 51)
    with pytest.warns(UserWarning, match=r"v_min=-37, v_max=10\)"):
        watch.add(0.9, 500, buffer, gamma=1.0)


# Habits of SB3


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


def test_learning_that_ends_before_it_starts_is_warned_of():
    model = RainbowDQN("MlpPolicy", "CartPole-v1")
    with pytest.warns(UserWarning, match="more than learning_starts=20000 env steps"):
        model.learn(50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().learn(51)
