"""No n-step window runs across a reset that no env reported."""

from unittest.mock import Mock

import numpy as np
import pytest
from envs import Corridor
from gymnasium import Env, spaces
from models import corridors, interrupt_at, make
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from sb3_rainbow import RainbowDQN

SB3S_OWN = {"replay_buffer_class": NStepReplayBuffer, "prioritized_replay": False}
ends_early = pytest.mark.filterwarnings("ignore:learn.* asks only for env steps before learning starts")


@ends_early
@pytest.mark.parametrize(("n_envs", "other"), [(1, {}), (2, {}), (1, SB3S_OWN)])
def test_no_window_runs_across_a_second_learn(n_envs, other):
    """Episode 1 is cut after 3 of its 100 steps by the reset of the second learn."""
    model = make(corridors(n_envs, length=100), n_steps=5, gamma=1.0, train_freq=1, **other)
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
@pytest.mark.parametrize("other", [{}, SB3S_OWN])
def test_no_window_runs_from_a_loaded_buffer_into_a_new_env(other, tmp_path):
    model = make(corridors(1, length=100), n_steps=5, gamma=1.0, train_freq=1, **other)
    model.learn(3)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model = RainbowDQN.load(tmp_path / "model", env=corridors(1, length=100))
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(6, reset_num_timesteps=False)
    assert model.replay_buffer._get_samples(np.array([0])).rewards.item() == 1 + 2 + 3


@ends_early
@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_step_at_which_a_callback_stops_is_stored(n_envs):
    """SB3 drops it: here the one in which the second episode ends, with the greatest reward."""
    env = VecMonitor(corridors(n_envs, length=5))
    model = make(env, n_steps=3, gamma=1.0, train_freq=1).learn(100, StopTrainingOnMaxEpisodes(2))
    assert model.num_timesteps == 10 * n_envs
    assert [episode["r"] for episode in model.ep_info_buffer] == [1 + 2 + 3 + 4 + 5] * 2 * n_envs
    assert model.replay_buffer.pos == 10
    model.learn(6 * n_envs, reset_num_timesteps=False)
    sample = model.replay_buffer._get_samples(np.arange(7 * n_envs, 10 * n_envs))
    assert sample.rewards.reshape(3, n_envs).T.tolist() == [[3 + 4 + 5, 4 + 5, 5]] * n_envs
    assert sample.dones.ravel().tolist() == [1] * 3 * n_envs
    assert sample.next_observations[:, 1].tolist() == [5] * 3 * n_envs


@ends_early
@pytest.mark.parametrize("buffer_class", [None, NStepReplayBuffer])
@pytest.mark.parametrize(("bad", "ends"), [("reward", False), ("observation", False), ("observation", True)])
def test_a_callback_may_stop_at_numbers_that_cannot_be_stored(buffer_class, bad, ends):
    env = Corridor(length=100)
    kwargs = {"replay_buffer_class": buffer_class, "prioritized_replay": buffer_class is None}
    model, step = make(env, n_steps=5, gamma=1.0, train_freq=1, **kwargs), env.step

    def third_is_bad(action):
        factors = {"reward": 1.0, "observation": 1.0} | ({bad: np.nan} if env.steps == 2 else {})
        obs = step(action)[0] * np.float32(factors["observation"])
        return obs, factors["reward"], ends and env.steps == 3, False, {}

    env.step = third_is_bad
    with pytest.warns(UserWarning, match=f"the last step was not stored, .* will reset the env: {bad} is not finite"):
        model.learn(100, lambda *_: model.num_timesteps < 3)
    assert (model.num_timesteps, model.replay_buffer.pos) == (3, 2)
    env.step = step
    model.learn(6, reset_num_timesteps=False)  # the env is reset
    assert model.replay_buffer._get_samples(np.array([0, 2])).rewards.ravel().tolist() == [2, 1 + 2 + 3 + 4 + 5]


class Named(Env):
    """Its observations say more than their space, which SB3 leaves out."""

    observation_space = spaces.Dict({"x": spaces.Box(-10, 10, (1,))})
    action_space = spaces.Discrete(2)
    bad_step: int | None = None

    def _observation(self):
        x = np.nan if self.steps == self.bad_step else self.steps
        return {"x": np.full(1, x, np.float32), "name": "a", "missing": None}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), float(self.steps), self.steps == 3, False, {}


@ends_early
@pytest.mark.parametrize("buffer_class", [None, DictReplayBuffer])
@pytest.mark.parametrize("stop", [2, 3])
def test_a_callback_may_stop_where_observations_say_more_than_their_space(buffer_class, stop):
    kwargs = {"replay_buffer_class": buffer_class, "prioritized_replay": buffer_class is None}
    model = make(Named(), "MultiInputPolicy", train_freq=1, n_steps=1, **kwargs)
    model.learn(100, lambda *_: model.num_timesteps < stop)
    assert model.replay_buffer.pos == stop
    sample = model.replay_buffer._get_samples(np.arange(stop))
    assert sample.next_observations["x"].ravel().tolist() == [1, 2, 3][:stop]


@ends_early
@pytest.mark.parametrize("bad_step", [2, 3])
def test_a_callback_may_stop_at_a_dict_that_cannot_be_stored(bad_step):
    env = Named()
    env.bad_step = bad_step
    kwargs = {"replay_buffer_class": DictReplayBuffer, "prioritized_replay": False}
    model = make(env, "MultiInputPolicy", train_freq=1, n_steps=1, **kwargs)
    with pytest.warns(UserWarning, match="the last step was not stored, .* will reset the env: x is not finite"):
        model.learn(100, lambda *_: model.num_timesteps < bad_step)
    assert model.replay_buffer.pos == bad_step - 1


class WithoutLastObservations(VecEnvWrapper):
    """Its infos always have the key, with None where no episode has ended."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, rewards, dones, [{"terminal_observation": None} | info for info in infos]


@ends_early
def test_a_callback_may_stop_where_infos_have_no_last_observation_yet():
    env = WithoutLastObservations(DummyVecEnv([lambda: Corridor(length=3), lambda: Corridor(length=7)]))
    model = make(env, n_steps=1, train_freq=1).learn(100, lambda local, _: local["self"].num_timesteps < 6)
    assert model.replay_buffer._get_samples(np.array([4, 5])).next_observations[:, 1].tolist() == [3, 3]


@ends_early
@pytest.mark.parametrize("normalized", [False, True])
def test_training_goes_on_from_where_the_env_stands_after_a_callback_stops(normalized):
    """SB3 would take the observation before the step at which the callback stopped for the one of the next action."""
    env = DummyVecEnv([lambda: Corridor(length=5), lambda: Corridor(length=7)])
    if normalized:
        env = VecNormalize(env, norm_reward=False)
    model = make(env, n_steps=3, gamma=1.0, train_freq=1).learn(100, StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == 14  # one env is within its second episode, the other begins its own
    model.learn(40, reset_num_timesteps=False)
    sample = model.replay_buffer._get_samples(np.arange(2 * model.replay_buffer.pos))
    (episode, step), (next_episode, next_step) = sample.observations.T, sample.next_observations.T
    assert (episode == next_episode).all()
    assert (next_step > step).all()
    returns = [sum(range(int(first) + 1, int(last) + 1)) for first, last in zip(step, next_step, strict=True)]
    assert sample.rewards.ravel().tolist() == returns
    assert step[12:16].tolist() == [1, 6, 2, 0]  # the step at which the callback stopped, and the next


@ends_early
def test_the_env_is_reset_after_an_error_as_nobody_knows_where_it_stands():
    model = make(corridors(1, length=100), n_steps=3, gamma=1.0, train_freq=1)
    with pytest.raises(KeyboardInterrupt):
        model.learn(10, interrupt_at(4))
    model.learn(6, reset_num_timesteps=False)
    sample = model.replay_buffer._get_samples(np.arange(model.replay_buffer.pos))
    assert sample.observations.tolist() == [[1, 0], [1, 1], [1, 2], *([2, step] for step in range(6))]
    assert sample.next_observations[:3].tolist() == [[1, 3]] * 3


@ends_early
def test_the_env_is_reset_after_a_reset_that_was_interrupted():
    """The first of two envs has begun its second episode then, the other has not."""
    model = make(corridors(2, length=100), n_steps=1, train_freq=1).learn(6)
    second = model.get_env().envs[1].unwrapped
    second.reset = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        model.learn(6)
    del second.reset
    model.learn(6, reset_num_timesteps=False)
    sample = model.replay_buffer._get_samples(np.arange(2 * model.replay_buffer.pos))
    assert (sample.next_observations - sample.observations).tolist() == [[0, 1]] * 12
    assert sample.observations[::2].tolist() == [[1, 0], [1, 1], [1, 2], [3, 0], [3, 1], [3, 2]]


@ends_early
def test_an_episode_goes_on_after_a_learn_that_was_refused():
    model = make(corridors(1, length=100), n_steps=5, gamma=1.0, train_freq=1).learn(3)
    model.gamma = 2
    with pytest.raises(ValueError, match="gamma=2"):
        model.learn(3)
    model.gamma = 1.0
    model.learn(3, reset_num_timesteps=False)
    assert model.replay_buffer._get_samples(np.array([0])).rewards.item() == 1 + 2 + 3 + 4 + 5


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
@pytest.mark.parametrize("how", ["error", "callback", "second learn", "set_env"])
def test_no_goal_of_hindsight_comes_from_beyond_a_reset(how):
    """Episodes have 10 steps. That SB3's learn() resets the env is no news to its HerReplayBuffer."""

    other = {"replay_buffer_class": HerReplayBuffer, "n_steps": 1, "prioritized_replay": False}
    env = BitFlippingEnv(10, continuous=False)
    model = make(env, "MultiInputPolicy", **other, train_freq=1, learning_starts=1000)
    if how == "error":
        with pytest.raises(KeyboardInterrupt):
            model.learn(30, interrupt_at(14))
    elif how == "callback":
        model.learn(30, StopTrainingOnMaxEpisodes(1))
    else:
        model.learn(14)
    if how == "set_env":
        model.set_env(env)
    model.learn(20, reset_num_timesteps=how == "second learn")
    buffer = model.replay_buffer
    seen, following = buffer.observations["observation"][:, 0], buffer.next_observations["observation"][:, 0]
    starts, lengths = buffer.ep_start[:, 0], buffer.ep_length[:, 0]
    for row in np.flatnonzero(lengths):
        assert starts[row] <= row < starts[row] + lengths[row] <= starts[row] + 10
        if row > starts[row]:
            np.testing.assert_array_equal(seen[row], following[row - 1])
    assert lengths[0] > 0
    assert lengths[buffer.pos - 20] == lengths[buffer.pos - 10] == 10  # the two whole episodes since


@ends_early
def test_no_next_observation_comes_from_beyond_a_reset_where_rows_share_it():
    other = {"replay_buffer_class": ReplayBuffer, "optimize_memory_usage": True, "n_steps": 1}
    other["replay_buffer_kwargs"] = {"handle_timeout_termination": False}
    model = make(corridors(1, length=100), **other, prioritized_replay=False, train_freq=1)
    with pytest.raises(KeyboardInterrupt):
        model.learn(10, interrupt_at(4))
    model.learn(3, reset_num_timesteps=False)
    assert model.replay_buffer.observations[:5, 0].tolist() == [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert model.replay_buffer.dones[:6, 0].tolist() == [0, 0, 1, 0, 0, 0]


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
