"""What is counted in env steps, vectorised steps and gradient steps: warm-up, targets, schedules, beta."""

import csv

import numpy as np
import pytest
import torch as th
from models import Record, corridors, make
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from sb3_rainbow import RainbowDQN


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
    [(1, 4, 1, 25), (8, 4, 1, 4), (4, 1, -1, 100), (1, 1, 2, 200)],  # 8 envs make 128 steps
)
def test_train_freq_counts_vectorised_steps_and_minus_one_is_one_update_per_env_step(
    n_envs, train_freq, gradient_steps, expected
):
    model = make(corridors(n_envs), learning_starts=0, train_freq=train_freq, gradient_steps=gradient_steps)
    model.learn(100)
    assert model._n_updates == expected


def test_a_float_of_timesteps_as_users_write_it():
    assert make().learn(1e2).num_timesteps == 100


@pytest.mark.parametrize(
    "schedule",
    [lambda progress: 1e-3 * progress, LinearSchedule(1e-3, 0.0, 1.0), lambda progress: np.asarray(1e-3 * progress)],
)
def test_a_learning_rate_schedule_is_followed(schedule):
    model = make(learning_rate=schedule, train_freq=1)
    rates = Record(lambda _: model.policy.optimizer.param_groups[0]["lr"])
    model.learn(200, callback=rates)
    # Each is that of the gradient step after the env step before
    np.testing.assert_allclose(rates.values[51:], 1e-3 * (1 - np.arange(51, 200) / 200))


def test_training_mode_while_learning_evaluation_mode_while_acting():
    modes = {}

    class Watched(FlattenExtractor):
        def forward(self, observations):
            modes.setdefault(th.is_grad_enabled(), set()).add(self.training)
            return super().forward(observations)

    make(policy_kwargs={"features_extractor_class": Watched}, double_q=False).learn(100)
    assert modes == {True: {True}, False: {False}}


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
