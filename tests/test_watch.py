"""What one watches: logged values, and warnings of a support that is too narrow."""

import csv
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from models import OFF, corridors, make
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_rainbow import RainbowDQN, RainbowReplayBuffer
from sb3_rainbow.noisy import noisy_layers
from sb3_rainbow.watch import SupportWatch, observed_returns, require_finite, shows_returns


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


def test_a_run_does_not_begin_with_the_means_of_the_run_before():
    """On a GPU those of the steps since the log was written are not brought from it before it is written again."""
    model = make().learn(100, log_interval=10**6)
    model._training_log.add({"loss": th.tensor(7.0)})
    with pytest.warns(UserWarning, match="before learning starts"):
        model.learn(10, log_interval=10**6)
    model.dump_logs = RainbowDQN.dump_logs.__get__(model)
    logged = {}
    model.logger.dump = lambda step: logged.update(model.logger.name_to_value)
    model.dump_logs()
    assert "train/beta" in logged
    assert "train/loss" not in logged


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
    expected = r"support_edge is 0\.\d\d.*write v_min=-10 and v_max=100 among"
    with pytest.warns(UserWarning, match=expected) as caught:
        model.learn(1700)
    assert ["support_edge" in str(warning.message) for warning in caught].count(True) == 1


def test_a_distribution_is_judged_by_its_latest_gradient_steps():
    """0.05 over 5,000 of them is no more than 51 atoms bear (0.088), 0.2 over the 500 after that is."""
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    buffer.add(obs, obs, np.array([0]), np.array([20.0]), np.array([True]), [{}])
    watch = SupportWatch(-10, 10, 51)
    with warnings.catch_warnings(action="error"):
        watch.add(0.05, 5000, buffer, gamma=0.9)
    with pytest.warns(UserWarning, match=r"support_edge is 0\.20"):
        watch.add(0.2, 500, buffer, gamma=0.9)


def test_returns_of_long_ago_do_not_count():
    buffer = ReplayBuffer(20_000, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    buffer.dones[:12_000], buffer.rewards[:12_000], buffer.pos = 1, 1, 12_000
    buffer.rewards[1_999] = 50  # the last row before the newest 10,000
    assert observed_returns(buffer, gamma=0.9) == (1.0, 1.0)
    buffer.rewards[2_000] = 50
    assert observed_returns(buffer, gamma=0.9) == (1.0, 50.0)


def test_a_sum_that_overflows_is_not_taken_for_a_number_that_does():
    require_finite(1, rewards=th.full((4,), 2e38))
    with pytest.raises(ValueError, match="rewards=inf is not finite, at env step 1"):
        require_finite(1, rewards=th.tensor([2e38, 2e38, float("inf")]))


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
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for _ in range(10):  # returns of 20, beyond the support
        buffer.add(obs, obs, np.array([0]), np.array([2.0]), np.array([False]), [{}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SupportWatch(-10, 10, 5).add(0.41, 500, buffer, 0.9)  # two of five: hardly more than their part
    with pytest.warns(UserWarning, match="support_edge is 0.41"):
        SupportWatch(-10, 10, 51).add(0.41, 500, buffer, 0.9)


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
    assert (low, high) == (2.0, pytest.approx(200.0))


def test_a_reward_for_the_end_of_an_episode_comes_once():
    """Games won in six steps, one after the other: for ever would be a sixth of 100."""
    buffer = ReplayBuffer(100, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for step in range(60):
        won = step % 6 == 5
        buffer.add(obs, obs, np.array([0]), np.array([float(won)]), np.array([won]), [{}])
    assert observed_returns(buffer, gamma=0.99) == (pytest.approx(0.99**5), 1.0)


def test_a_reward_goes_on_after_a_truncation():
    buffer = ReplayBuffer(100, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for _ in range(60):
        buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([True]), [{"TimeLimit.truncated": True}])
    assert observed_returns(buffer, gamma=0.99) == (1.0, pytest.approx(100.0))


def test_episodes_that_all_end_after_as_many_steps_do_not_go_on_for_ever():
    buffer = ReplayBuffer(100, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for step in range(65):
        buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([step % 4 == 3]), [{}])
    assert observed_returns(buffer, gamma=0.5) == (1.0, 1.875)
    buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([True]), [{}])  # after two steps
    assert observed_returns(buffer, gamma=0.5) == (1.0, 2.0)


def test_a_seam_is_no_limit_of_the_env():
    """Episodes of three steps, one of which learn() left after two and one of which it began in its second."""
    buffer = RainbowReplayBuffer(100, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for step, is_last in enumerate("001001" + "00" + "01" + "001"):
        if step in (8, 10):
            buffer.truncate_last_trajectory()
        buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([is_last == "1"]), [{}])
    assert buffer.timeouts.sum() == 1  # there is nothing to cut after a step that ends its episode
    assert observed_returns(buffer, gamma=0.5) == (1.0, 1.75)
    buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([True]), [{}])  # a whole one of one step
    assert observed_returns(buffer, gamma=0.5) == (1.0, 2.0)


def test_the_range_that_is_proposed_holds_both_ends():
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    buffer.add(obs, obs, np.array([0]), np.array([-36.25]), np.array([True]), [{}])
    watch = SupportWatch(-10, 10, 51)
    with pytest.warns(UserWarning, match=r"v_min=-37 and v_max=10 among"):
        watch.add(0.9, 500, buffer, gamma=1.0)


def test_a_support_below_all_returns_is_not_called_too_high():
    """No return is below 10: 36.2, then 10 + 0.9 * 36.2."""
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    for reward, done in [(10.0, False), (36.2, True)]:
        buffer.add(obs, obs, np.array([0]), np.array([reward]), np.array([done]), [{}])
    assert observed_returns(buffer, gamma=0.9) == pytest.approx((36.2, 100.0))
    with warnings.catch_warnings(action="error"):
        SupportWatch(10, 100, 51).add(0.9, 500, buffer, gamma=0.9)
    with pytest.warns(UserWarning, match=r"v_min=36 and v_max=100 among"):
        SupportWatch(50, 100, 51).add(0.9, 500, buffer, gamma=0.9)


def test_returns_are_judged_in_the_units_that_are_learned_from():
    venv = VecNormalize(corridors(1))
    venv.ret_rms.var = np.float64(100.0)  # rewards are divided by 10
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu")
    obs = np.zeros((1, 1), np.float32)
    buffer.add(obs, obs, np.array([0]), np.array([20.0]), np.array([True]), [{}])
    assert observed_returns(buffer, 0.9, venv) == pytest.approx((2.0, 2.0), rel=1e-4)
    model, seen = make(VecNormalize(corridors(1))), []
    model._support_watch.add = lambda *args: seen.append(args)
    model.learn(60)
    assert seen
    assert all(args[-1] is model.get_vec_normalize_env() for args in seen)


def test_returns_of_several_envs():
    buffer = RainbowReplayBuffer(20, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", n_envs=2)
    obs = np.zeros((2, 1), np.float32)
    for rewards, dones in [((1, 10), (False, False)), ((1, 20), (True, False)), ((4, 0), (True, True))]:
        buffer.add(obs, obs, np.zeros(2), np.array(rewards), np.array(dones), [{}, {}])
    assert shows_returns(buffer)
    assert observed_returns(buffer, gamma=1.0) == (0.0, 30.0)  # 2, 1, 4 and 30, 20, 0
