"""The replay buffers against SB3's, and the traps that others fell into."""

import copy
import gc
import pickle
import sys
import weakref
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from envs import Corridor, random_transitions
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rainbow import RainbowDictReplayBuffer, RainbowReplayBuffer
from sb3_rainbow.buffers import end_trajectories

# Its warning names the caller, a test, so that the filter for those of the package does not make it an error
pytestmark = pytest.mark.filterwarnings("error:the replay buffer of .* will need")
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
DICT = spaces.Dict({"vector": VECTOR, "image": spaces.Box(0, 255, (1, 4, 4), np.uint8), "place": spaces.Discrete(5)})
ACTIONS = spaces.Discrete(2)
SB3_FIELDS = ("observations", "actions", "next_observations", "dones", "rewards")


def make(buffer_size=10, n_envs=1, space=VECTOR, **kwargs):
    buffer_class = RainbowDictReplayBuffer if isinstance(space, spaces.Dict) else RainbowReplayBuffer
    return buffer_class(buffer_size * n_envs, space, ACTIONS, device="cpu", n_envs=n_envs, **kwargs)


def fill(buffer, rewards, dones=None, truncated=None):
    """A single env whose observation at step t is t, everywhere."""
    for t, reward in enumerate(rewards):
        done = (dones is not None and t in dones) or (truncated is not None and t in truncated)
        info = {"TimeLimit.truncated": truncated is not None and t in truncated}
        obs, next_obs = np.full((1, 3), t / 100, np.float32), np.full((1, 3), (t + 1) / 100, np.float32)
        buffer.add(obs, next_obs, np.array([0]), np.array([reward]), np.array([done]), [info])


def at(buffer, *ids):
    return buffer._get_samples(np.array(ids))


def equal(ours, theirs):
    if isinstance(theirs, dict):
        return set(ours) == set(theirs) and all(equal(ours[key], theirs[key]) for key in theirs)
    return ours.dtype == theirs.dtype and th.equal(ours, theirs)


@pytest.mark.parametrize("n_before", [2, 3])  # rows of four: the ring goes round after the fourth
def test_a_buffer_goes_on_after_an_interruption_at_any_line_of_add(n_before):
    code = RainbowReplayBuffer.add.__code__
    lines = sorted({line for _, _, line in code.co_lines() if line and line > code.co_firstlineno})
    was_interrupted = []
    for interrupted in lines:
        buffer = make(4)
        fill(buffer, [1.0] * n_before)

        def trace(frame, event, _, interrupted=interrupted):
            if event == "line" and frame.f_lineno == interrupted:
                raise KeyboardInterrupt
            return trace if frame.f_code is code else None

        before = sys.gettrace()
        try:
            sys.settrace(trace)
            fill(buffer, [2.0])
        except KeyboardInterrupt:
            was_interrupted.append(interrupted)
        finally:
            sys.settrace(before)
        assert n_before <= buffer.size() <= n_before + 1
        fill(buffer, [3.0, 4.0])
        assert buffer.rewards[[buffer.pos - 2, buffer.pos - 1]].ravel().tolist() == [3, 4]
    assert was_interrupted[-1] == lines[-1]  # up to the position's own


# Equal to SB3's buffers, for the same random draws


@given(
    n_slots=st.integers(3, 20),
    n_envs=st.integers(1, 4),
    n_steps=st.integers(1, 10),
    n_adds=st.integers(1, 60),
    is_dict=st.booleans(),
    handle_timeouts=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_uniform_samples_equal_those_of_stable_baselines3(
    n_slots, n_envs, n_steps, n_adds, is_dict, handle_timeouts, seed
):
    """Also after the ring has wrapped, with truncations, bit for bit."""
    space = DICT if is_dict else VECTOR
    kwargs = {"device": "cpu", "n_envs": n_envs, "handle_timeout_termination": handle_timeouts}
    if is_dict:
        n_steps, theirs = 1, DictReplayBuffer(n_slots * n_envs, space, ACTIONS, **kwargs)
    elif n_steps == 1:
        theirs = ReplayBuffer(n_slots * n_envs, space, ACTIONS, **kwargs)
    else:
        theirs = NStepReplayBuffer(n_slots * n_envs, space, ACTIONS, n_steps=n_steps, gamma=0.97, **kwargs)
    ours = make(n_slots, n_envs, space, n_steps=n_steps, gamma=0.97, prioritized_replay=False,
                handle_timeout_termination=handle_timeouts)  # fmt: skip
    for row in random_transitions(np.random.default_rng(seed), n_adds, n_envs, space):
        ours.add(*copy.deepcopy(row))
        theirs.add(*copy.deepcopy(row))
    assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
    for batch_size in (1, 8, 33):
        np.random.seed(seed)
        expected = theirs.sample(batch_size)
        np.random.seed(seed)
        sample = ours.sample(batch_size)
        assert sample._fields[:5] == expected._fields[:5] == SB3_FIELDS
        for field in SB3_FIELDS:
            assert equal(getattr(sample, field), getattr(expected, field)), field
        if expected.discounts is not None:
            assert equal(sample.discounts, expected.discounts)
        else:
            assert (sample.discounts == np.float32(0.97)).all()
        assert equal(sample.weights, th.ones(batch_size, 1))
        assert np.random.randint(10**9) == _next_random_number(theirs, batch_size, seed)


def _next_random_number(buffer, batch_size, seed):
    np.random.seed(seed)
    buffer.sample(batch_size)
    return np.random.randint(10**9)


def test_dict_observations_are_normalised():
    space = spaces.Dict({"vector": VECTOR, "other": VECTOR})
    venv = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    venv.observation_space = space
    venv = VecNormalize(venv, norm_obs_keys=["vector"])
    venv.obs_rms["vector"].mean = np.full(3, 0.5)
    ours = make(20, 1, space, n_steps=1, prioritized_replay=False)
    theirs = DictReplayBuffer(20, space, ACTIONS, "cpu")
    for row in random_transitions(np.random.default_rng(0), 10, 1, space):
        ours.add(*copy.deepcopy(row))
        theirs.add(*row)
    np.random.seed(0)
    expected = theirs.sample(16, env=venv)
    np.random.seed(0)
    sample = ours.sample(16, env=venv)
    for field in SB3_FIELDS:
        assert equal(getattr(sample, field), getattr(expected, field)), field
    raw = ours._get_samples(sample.indices)
    assert not th.equal(raw.next_observations["vector"], sample.next_observations["vector"])


@pytest.mark.parametrize("is_dict", [True, False])
def test_observations_can_be_looked_at(is_dict):
    space = DICT if is_dict else VECTOR
    ours, theirs = make(5, 2, space), (DictReplayBuffer if is_dict else ReplayBuffer)(10, space, ACTIONS, n_envs=2)
    for row in random_transitions(np.random.default_rng(0), 8, 2, space):
        ours.add(*copy.deepcopy(row))
        theirs.add(*row)
    for name in ("observations", "next_observations"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        for key in other if is_dict else [...]:
            np.testing.assert_array_equal(mine[key], other[key])
    assert len(make(5, 2).observations) == 0


@pytest.mark.parametrize("n_steps", [1, 3])
def test_rewards_are_normalised_per_step_before_they_are_summed(n_steps):
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), gamma=0.9)
    venv.ret_rms.var, venv.obs_rms.mean, venv.clip_reward = 4.0, np.full(4, 0.3), 0.8
    space = spaces.Box(-1, 1, (4,), np.float32)
    ours = make(20, 2, space, n_steps=n_steps, prioritized_replay=False)
    theirs = NStepReplayBuffer(40, space, ACTIONS, "cpu", n_envs=2, n_steps=n_steps)
    for row in random_transitions(np.random.default_rng(0), 30, 2, space):
        ours.add(*row)
        theirs.add(*row)
    np.random.seed(0)
    expected = theirs.sample(64, env=venv)
    np.random.seed(0)
    sample = ours.sample(64, env=venv)
    for field in (*SB3_FIELDS, "discounts"):
        assert equal(getattr(sample, field), getattr(expected, field)), field


def test_prioritized_samples_are_the_transitions_that_their_indices_name():
    buffer = make(16, 3, n_steps=3, gamma=0.9)
    for row in random_transitions(np.random.default_rng(1), 40, 3, VECTOR):
        buffer.add(*row)
    buffer.update_priorities(np.arange(48), np.linspace(0.1, 5, 48))
    buffer.beta = 0.7
    sample = buffer.sample(32)
    assert sample.indices.shape == (32,)
    again = buffer._get_samples(sample.indices)
    for field in (*SB3_FIELDS, "discounts"):
        assert equal(getattr(sample, field), getattr(again, field)), field
    probabilities = np.linspace(0.1, 5, 48)[sample.indices] ** 0.5
    expected = (probabilities / probabilities.min()) ** -0.7
    np.testing.assert_allclose(sample.weights.numpy(), expected.reshape(-1, 1), rtol=1e-5)
    assert sample.weights.max() == 1


# n-step returns and episode ends


def test_last_n_start_states_of_an_episode_are_learned_from():
    buffer = make(n_steps=3, gamma=0.5)
    fill(buffer, [1, 2, 3, 4, 5], dones={4})
    sample = at(buffer, 2, 3, 4)
    assert sample.rewards.ravel().tolist() == [3 + 2 + 1.25, 4 + 2.5, 5]
    assert sample.dones.ravel().tolist() == [1, 1, 1]
    drawn = {int(i) for _ in range(50) for i in buffer.sample(8).indices}
    assert drawn == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("ends", ["dones", "truncated"])
def test_a_return_stops_where_its_episode_stops(ends):
    buffer = make(n_steps=3, gamma=0.5)
    fill(buffer, [1, 2, 100, 100], **{ends: {1}})
    sample = at(buffer, 0, 1)
    assert sample.rewards.ravel().tolist() == [2, 2]
    assert sample.next_observations[:, 0].tolist() == pytest.approx([0.02, 0.02])
    assert sample.discounts.ravel().tolist() == [0.25, 0.5]


def test_a_terminal_reward_is_stored_and_nothing_before_it_is_terminal():
    for n_steps, terminals in ((1, [0, 0, 0, 1]), (3, [0, 1, 1, 1])):
        buffer = make(n_steps=n_steps, gamma=1.0)
        fill(buffer, [0, 0, 0, 7], dones={3})
        sample = at(buffer, 0, 1, 2, 3)
        assert sample.dones.ravel().tolist() == terminals
        assert sample.rewards.ravel().tolist() == [7 * flag for flag in terminals]


def test_the_end_of_a_window_is_not_read_one_step_too_far():
    buffer = make(n_steps=2, gamma=1.0)
    fill(buffer, [1, 1, 1, 1], dones={2})
    assert at(buffer, 0).dones.item() == 0  # steps 0 and 1; step 2 is terminal
    assert at(buffer, 1).dones.item() == 1


def test_a_truncated_episode_bootstraps_from_its_true_last_observation():
    """Neither treated as terminal, nor continued into the next episode, nor bootstrapped from its own start."""
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Corridor(length=100), 3)])
    buffer = RainbowReplayBuffer(20, env.observation_space, ACTIONS, "cpu", n_steps=3, gamma=0.5)
    obs = env.reset()
    for _ in range(5):
        next_obs, reward, done, infos = env.step([0])
        stored = np.array([infos[0]["terminal_observation"]]) if done[0] else next_obs
        buffer.add(obs, stored, np.array([0]), reward, done, infos)
        obs = next_obs
    sample = at(buffer, 0, 1, 2)
    assert sample.dones.ravel().tolist() == [0, 0, 0]
    assert sample.next_observations.tolist() == [[1, 3]] * 3  # episode 1, step 3
    assert sample.rewards.ravel().tolist() == [1 + 1 + 0.75, 2 + 1.5, 3]
    assert sample.discounts.ravel().tolist() == [0.125, 0.25, 0.5]


def test_the_bootstrap_state_is_n_steps_on():
    buffer = make(n_steps=3)
    fill(buffer, [0] * 6)
    assert at(buffer, 1).next_observations[0, 0].item() == pytest.approx(0.04)
    assert at(buffer, 1).discounts.item() == pytest.approx(0.99**3)


def test_the_tail_of_the_ring_is_drawn_too():
    """The newest transitions have short windows, not none; no row is left with its first priority for ever."""
    buffer = make(10, n_steps=5)
    fill(buffer, [1] * 14)
    drawn = {int(i) for _ in range(100) for i in buffer.sample(8).indices}
    assert drawn == set(range(10))
    newest = at(buffer, 3)
    assert newest.rewards.item() == 1
    assert newest.discounts.item() == pytest.approx(0.99)


def test_a_window_does_not_run_across_the_write_position():
    buffer = make(5, n_steps=4, gamma=1.0)
    fill(buffer, [1, 2, 3, 4, 5, 6, 7])  # slots hold 6, 7, 3, 4, 5; the newest is in slot 1
    assert at(buffer, 0, 1, 2, 3, 4).rewards.ravel().tolist() == [13, 7, 18, 22, 18]


@given(n_steps=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_sampling_leaves_the_buffer_as_it_was(n_steps, seed):
    buffer = make(12, 2, n_steps=n_steps)
    for row in random_transitions(np.random.default_rng(seed), 20, 2, VECTOR):
        buffer.add(*row)
    arrays = (buffer.rewards, buffer.dones, buffer.timeouts, buffer.actions)
    before = [array.copy() for array in (*arrays, buffer.observations, buffer.next_observations)]
    for array in arrays:
        array.flags.writeable = False  # not even for a moment
    buffer.sample(16)
    for earlier, array in zip(before, (*arrays, buffer.observations, buffer.next_observations), strict=True):
        np.testing.assert_array_equal(earlier, array)


@pytest.mark.parametrize("space", [VECTOR, DICT], ids=["vector", "dict"])
def test_a_reset_without_a_done_ends_all_windows(space):
    buffer = make(20, 2, space, n_steps=5, gamma=1.0)
    rows = random_transitions(np.random.default_rng(0), 8, 2, space, end=0)
    for index, row in enumerate(rows):
        buffer.add(*row[:3], np.ones(2), *row[4:])
        if index == 3:
            buffer.truncate_last_trajectory()
    sample = at(buffer, 2 * 2, 3 * 2 + 1, 4 * 2)
    assert sample.rewards.ravel().tolist() == [2, 1, 4]
    assert sample.dones.ravel().tolist() == [0, 0, 0]  # it goes on somewhere: bootstrap


def test_a_reset_after_a_terminal_state_leaves_it_terminal():
    buffer = make(n_steps=3)
    fill(buffer, [1, 1], dones={1})
    buffer.truncate_last_trajectory()
    fill(buffer, [1])  # cut by now
    assert at(buffer, 1).dones.item() == 1


def test_a_reset_after_a_terminal_state_leaves_it_terminal_in_sb3s_buffer_too():
    buffer = NStepReplayBuffer(10, VECTOR, ACTIONS, "cpu", n_steps=3)
    fill(buffer, [1, 1], dones={1})
    end_trajectories(buffer)
    fill(buffer, [1])
    end_trajectories(buffer)
    assert buffer.timeouts[:3].ravel().tolist() == [0, 0, 1]


def test_nothing_of_a_seam_in_sb3s_buffer_stays_when_the_ring_goes_round():
    for handles_timeouts in (True, False):
        buffer = NStepReplayBuffer(
            3, VECTOR, ACTIONS, "cpu", n_steps=2, gamma=1.0, handle_timeout_termination=handles_timeouts
        )
        fill(buffer, [1, 1])
        end_trajectories(buffer)
        fill(buffer, [2])
        assert buffer._get_samples(np.array([1])).rewards.item() == 1
        fill(buffer, [1, 1, 1], dones={1})
        assert buffer._get_samples(np.array([1])).dones.item() == 1


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_reset_of_an_empty_buffer_is_nothing(is_ours):
    buffer = make() if is_ours else NStepReplayBuffer(10, VECTOR, ACTIONS, "cpu")
    end_trajectories(buffer)
    fill(buffer, [1])
    assert not buffer.timeouts.any()


def test_a_row_written_over_a_seam_has_none():
    buffer = make(3, n_steps=2, gamma=1.0)
    fill(buffer, [1, 1, 1])
    buffer.truncate_last_trajectory()
    fill(buffer, [1, 1, 1, 1])
    assert at(buffer, 2).rewards.item() == 2


# Priorities


def test_new_transitions_enter_at_the_highest_priority_of_all_time():
    buffer = make(4, prioritized_replay_alpha=0.5)
    fill(buffer, [0, 0])
    buffer.update_priorities(np.array([0, 1]), np.array([9.0, 0.1]))
    fill(buffer, [0] * 4)  # overwrites the row that had it
    assert buffer.sampler.tree[np.arange(4)].tolist() == [3.0] * 4
    assert buffer.sampler.max_priority == 9.0


@pytest.mark.parametrize("reload", [lambda buffer: pickle.loads(pickle.dumps(buffer)), lambda buffer: buffer])
def test_the_highest_priority_survives_save_and_load_and_reset(reload):
    buffer = make(4)
    fill(buffer, [0, 0])
    buffer.update_priorities(np.array([0]), np.array([25.0]))
    buffer = reload(buffer)
    buffer.reset()
    assert buffer.size() == 0
    assert buffer.sampler.tree.total == 0
    fill(buffer, [0])
    assert buffer.sampler.tree[0] == 5.0


def test_an_entry_that_was_not_drawn_has_no_say_in_the_weights():
    """Normalised over the whole tree, one entry of tiny priority would make all weights next to nothing."""
    buffer = make(1000)
    fill(buffer, [0] * 1000)
    buffer.update_priorities(np.array([999]), np.array([1e-9]))
    sample = buffer.sample(32)
    assert 999 not in sample.indices
    assert sample.weights.tolist() == [[1.0]] * 32


def test_rows_overwritten_since_they_were_sampled_keep_the_priority_of_the_new_row():
    buffer = make(4, prioritized_replay_alpha=1.0)
    fill(buffer, [0] * 4)
    sample = buffer.sample(64)
    fill(buffer, [0, 0])  # slots 0 and 1
    buffer.update_priorities(sample.indices, np.full(64, 0.25))
    assert buffer.sampler.tree[np.arange(4)].tolist() == [1.0, 1.0, 0.25, 0.25]


def test_rows_of_several_envs_overwritten_since_keep_the_priority_of_the_new_row():
    buffer = make(4, n_envs=3, prioritized_replay_alpha=1.0)
    rows = random_transitions(np.random.default_rng(0), 6, 3, VECTOR)
    for row in rows[:4]:
        buffer.add(*row)
    drawn = buffer.sample(12).indices  # one from each of 12 equal shares: all
    assert sorted(drawn) == list(range(12))
    for row in rows[4:]:  # slots 0 and 1
        buffer.add(*row)
    buffer.update_priorities(drawn, np.full(12, 0.25))
    assert buffer.sampler.tree[np.arange(12)].tolist() == [1.0] * 6 + [0.25] * 6


def test_a_uniform_buffer_that_was_emptied_draws_nothing_of_before():
    buffer = make(10, prioritized_replay=False)
    fill(buffer, [1] * 10)
    buffer.reset()
    fill(buffer, [2, 3])
    assert set(buffer.sample(64).indices) == {0, 1}  # by chance less than once in 1e18


def test_all_rows_overwritten_since():
    buffer = make(4, prioritized_replay_alpha=1.0)
    fill(buffer, [0] * 4)
    sample = buffer.sample(8)
    fill(buffer, [0] * 9)
    buffer.update_priorities(sample.indices, np.full(8, 0.25))
    assert buffer.sampler.tree[np.arange(4)].tolist() == [1.0] * 4


def test_rows_drawn_before_a_reset_give_no_priorities_to_those_that_came_since():
    buffer = make(4, prioritized_replay_alpha=1.0)
    fill(buffer, [0] * 4)
    drawn = buffer.sample(8).indices
    buffer.reset()
    fill(buffer, [0] * 4)
    buffer.update_priorities(drawn, np.full(8, 0.25))
    assert buffer.sampler.tree[np.arange(4)].tolist() == [1.0] * 4


@pytest.mark.parametrize("truncated", [None, True, np.bool_(True)])
def test_a_truncation_may_be_told_by_anything_that_is_true_or_false(truncated):
    buffer = make()
    obs = np.zeros((1, 3), np.float32)
    buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([True]), [{"TimeLimit.truncated": truncated}])
    assert at(buffer, 0).dones.item() == (not truncated)


def test_a_part_of_the_batch_may_be_updated_on_its_own():
    buffer = make(4, prioritized_replay_alpha=1.0)
    fill(buffer, [0] * 4)
    drawn = np.unique(buffer.sample(64).indices)
    fill(buffer, [0, 0])  # slots 0 and 1
    for part in (drawn[:2], drawn[1:3]):
        buffer.update_priorities(part, np.full(2, 0.25))
    assert buffer.sampler.tree[np.arange(4)].tolist() == [1.0, 1.0, 0.25, 1.0]


@pytest.mark.parametrize("obs", [{"a": np.zeros((1, 3))}, np.zeros((1, 3))], ids=["a key is missing", "it is no dict"])
def test_an_observation_that_lacks_a_key_is_named(obs):
    space = spaces.Dict(a=spaces.Box(-1, 1, (3,)), b=spaces.Discrete(2))
    whole = {"a": np.zeros((1, 3)), "b": np.zeros(1)}
    with pytest.raises(ValueError, match=r"observation=.* must be a dict with the keys \['a', 'b'\]"):
        make(space=space).add(obs, whole, np.zeros(1), np.zeros(1), np.zeros(1), [{}])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int16, ">i8"])
def test_indices_of_any_integer_type_are_understood(dtype):
    buffer = make(200, prioritized_replay_alpha=1.0)
    fill(buffer, [0] * 200)
    drawn = buffer.sample(8).indices
    fill(buffer, [0] * 150)
    buffer.update_priorities(drawn.astype(dtype), np.full(8, 5.0))
    expected = np.ones(200)
    expected[drawn[drawn >= 150]] = 5
    np.testing.assert_array_equal(buffer.sampler.tree[np.arange(200)], expected)
    assert buffer._get_samples(drawn.astype(dtype)).rewards.shape == (8, 1)
    with pytest.raises(IndexError):
        buffer._get_samples(np.array([-1]))


def test_priorities_may_be_set_for_rows_that_were_not_drawn():
    buffer = make(4, prioritized_replay_alpha=1.0)
    fill(buffer, [0] * 4)
    buffer.update_priorities(np.arange(4), np.array([1.0, 2.0, 3.0, 4.0]))
    assert buffer.sampler.tree[np.arange(4)].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("prioritized_replay", [True, False])
@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "3"])
def test_a_batch_size_that_is_no_number_of_transitions_is_refused(batch_size, prioritized_replay):
    buffer = make(4, prioritized_replay=prioritized_replay)
    fill(buffer, [0] * 4)
    with pytest.raises(ValueError, match=f"^batch_size={batch_size!r} must be a whole number of at least 1"):
        buffer.sample(batch_size)


@pytest.mark.parametrize("indices", [[0.9, 0.2], [True, False]])
def test_indices_that_are_no_integers_are_refused(indices):
    buffer = make(4)
    fill(buffer, [0] * 4)
    with pytest.raises(ValueError, match="must be integers: use those that sample"):
        buffer.update_priorities(np.array(indices), np.array([5.0, 7.0]))
    assert buffer.sampler.tree[np.arange(4)].tolist() == [1] * 4


@pytest.mark.parametrize("indices", [[2], [0, 9], [-1], [10**6]])
def test_priorities_of_rows_that_hold_nothing_are_refused(indices):
    buffer = make(10)
    fill(buffer, [0, 0])
    with pytest.raises(ValueError, match="are not all of the 2 transitions stored"):
        buffer.update_priorities(np.array(indices), np.ones(len(indices)))
    assert set(buffer.sample(64).indices) == {0, 1}


def test_priorities_of_another_shape_are_refused():
    buffer = make(4)
    fill(buffer, [0] * 4)
    with pytest.raises(ValueError, match=r"shape \(4,\) and priorities of shape \(4, 1\) must be \(batch,\)"):
        buffer.update_priorities(np.arange(4), np.ones((4, 1)))


def test_uniform_replay_knows_no_priorities():
    buffer = make(4, prioritized_replay=False)
    fill(buffer, [0] * 4)
    buffer.update_priorities(np.arange(4), np.array([1e-9, 1e9, 1, 1]))
    counts = np.bincount(np.concatenate([buffer.sample(64).indices for _ in range(50)]), minlength=4)
    assert (counts > 600).all()  # of 800 expected each: 8 standard deviations


# Bad input


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["reward", "observation", "next observation"])
def test_numbers_that_are_not_finite_are_refused_before_anything_is_stored(bad, where):
    buffer = make(4, n_envs=2)
    obs, next_obs, rewards = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2)
    {"reward": rewards, "observation": obs, "next observation": next_obs}[where][1] = bad
    with pytest.raises(ValueError, match=f"{where}=.*of env 1 is not finite"):
        buffer.add(obs, next_obs, np.zeros(2), rewards, np.zeros(2), [{}, {}])
    assert buffer.size() == 0
    assert buffer.sampler.tree.total == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_is_refused_before_it_is_made_an_integer(bad):
    buffer = make(4, space=spaces.Box(0, 255, (3,), np.uint8))
    good, obs = np.zeros((1, 3), np.uint8), np.full((1, 3), bad)
    with pytest.raises(ValueError, match=r"observation=.* is not finite"):
        buffer.add(obs, good, np.zeros(1), np.zeros(1), np.zeros(1), [{}])


@pytest.mark.parametrize("bad", [0.4, 256, -1])
def test_a_number_that_an_integer_space_cannot_hold_is_refused(bad):
    """Such as a pixel that a wrapper of vectorised envs has scaled, of which only 0 would be left."""
    buffer = make(4, space=spaces.Box(0, 255, (3,), np.uint8))
    whole, other = np.array([[0.0, 7.0, 255.0]]), np.array([[0, 7, bad]])
    with pytest.raises(ValueError, match=rf"next observation has {bad}.*, which uint8.*observation_space of the dtype"):
        buffer.add(whole, other, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    buffer.add(whole, whole, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    assert buffer.observations.ravel().tolist() == [0, 7, 255]


def test_a_number_too_large_for_the_space_is_refused():
    buffer = make(4)
    zeros = np.zeros((1, 3))
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(ValueError, match=r"observation=.*inf"):
        buffer.add(zeros + 1e300, zeros, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(ValueError, match="reward=inf"):
        buffer.add(zeros, zeros, np.zeros(1), np.array([1e300]), np.zeros(1), [{}])


@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (4, 4, 3), (1, 48), (2, 3, 4, 4)])
def test_observations_of_another_shape_are_refused(shape):
    """A reshape would scramble an image with channels last."""
    buffer = make(4, space=spaces.Box(0, 255, (3, 4, 4), np.uint8))
    right, wrong = np.zeros((1, 3, 4, 4), np.uint8), np.zeros(shape, np.uint8)
    for obs, next_obs, name in ((wrong, right, "observation"), (right, wrong, "next observation")):
        with pytest.raises(ValueError, match=f"{name} has shape .* expected .1, 3, 4, 4"):
            buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    assert buffer.size() == 0


def test_a_bad_number_in_a_dict_is_named():
    buffer = make(4, space=DICT)
    obs = {"vector": np.full((1, 3), np.nan), "image": np.zeros((1, 1, 4, 4)), "place": np.zeros(1)}
    with pytest.raises(ValueError, match=r"observation\['vector'\]="):
        buffer.add(obs, obs, np.zeros(1), np.zeros(1), np.zeros(1), [{}])


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"n_steps": 0}, "n_steps=0"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"prioritized_replay_alpha": -0.1}, "prioritized_replay_alpha=-0.1"),
        ({"prioritized_replay_beta0": 2}, "prioritized_replay_beta0=2"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True"),
        ({"optimize_memory_usage": "x"}, "optimize_memory_usage='x'"),
        ({"prioritized_replay": "no"}, "prioritized_replay='no'"),
        ({"prioritized_replay": False, "prioritized_replay_alpha": 7}, "prioritized_replay_alpha=7"),
        ({"n_envs": 0}, "n_envs=0"),
    ],
)
def test_bad_arguments(kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(**kwargs)


@pytest.mark.parametrize("beta", [-1, 2, np.nan])
def test_a_beta_that_is_set_later_is_in_its_range(beta):
    buffer = make()
    fill(buffer, [1, 2, 3])
    drawn = buffer.sample(2).indices
    buffer.beta = beta
    with pytest.raises(ValueError, match=f"beta={beta} must be a number of at least 0 and at most 1"):
        buffer.sample(2)
    assert np.array_equal(buffer._drawn, drawn)  # of which priorities may still come


def test_an_empty_buffer_cannot_be_sampled():
    for prioritized_replay in (True, False):
        with pytest.raises(ValueError, match="empty"):
            make(prioritized_replay=prioritized_replay).sample(1)


def test_a_million_frame_stacks_can_be_made_anywhere(monkeypatch):
    """SB3 would ask for 56 GB here. What will not fit is said when the first transition arrives."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    rows = np.zeros((1, 4, 84, 84), np.uint8)
    add = (rows, rows, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    memory = SimpleNamespace(available=5 * 10**9)
    monkeypatch.setattr("sb3_rainbow.buffers.available_memory", lambda: memory.available)
    sizes = {4: r"will need 7\.14 GB .* only 5 GB .* write buffer_size=693472 or less", None: r"will need 56\.5 GB "}
    for frame_stack, said in sizes.items():
        buffer = make(1_000_000, space=space, frame_stack=frame_stack)
        with pytest.warns(UserWarning, match=said):
            buffer.add(*add)
        for _ in range(3):
            buffer.add(*add)  # once is enough
        assert buffer.sample(2).observations.shape == (2, 4, 84, 84)
    memory.available = 10**11
    make(1_000_000, space=space, frame_stack=None).add(*add)  # does not warn


def test_the_largest_buffer_that_fits_is_named_with_all_that_a_transition_takes(monkeypatch):
    """Two observations of 16 bytes, action 8, reward, done and timeout 4 each, 8.26 in the tree: 60.26 bytes.

    99 % of what fits is named.
    """
    monkeypatch.setattr("sb3_rainbow.buffers.available_memory", lambda: 20 * 10**6)
    space = spaces.Box(-1, 1, (4,), np.float32)
    rows = np.zeros((1, 4), np.float32)
    add = (rows, rows, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    with pytest.warns(UserWarning, match=r"need 0\.0603 GB .* only 0\.02 GB .* buffer_size=328587 or less"):
        make(1_000_000, space=space).add(*add)
    for fitting in (328_587, 331_000):
        make(fitting, space=space).add(*add)  # does not warn
    monkeypatch.setattr("sb3_rainbow.buffers.available_memory", lambda: 20)
    with pytest.warns(UserWarning, match="buffer_size=1 or less"):
        make(1_000_000, space=space).add(*add)


def test_memory_of_an_earlier_model_is_freed_before_a_buffer_is_called_too_large(monkeypatch):
    """A finished learn() leaves its model in a cycle: callbacks keep its local variables."""
    earlier = Corridor()
    earlier.itself = earlier
    is_there = weakref.ref(earlier)
    monkeypatch.setattr("sb3_rainbow.buffers.available_memory", lambda: 20 if is_there() else 10**9)
    gc.disable()
    try:
        del earlier
        rows = np.zeros((1, 3), np.float32)
        make(1000).add(rows, rows, np.zeros(1), np.zeros(1), np.zeros(1), [{}])  # does not warn
    finally:
        gc.enable()
    assert is_there() is None


def test_memory_is_looked_at_again_when_twice_as_much_is_stored(monkeypatch):
    memory = SimpleNamespace(available=10**11)
    monkeypatch.setattr("sb3_rainbow.buffers.available_memory", lambda: memory.available)
    rows = np.zeros((1, 50), np.float32)
    add = (rows, rows, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    buffer = make(10_000, space=spaces.Box(-1, 1, (50,), np.float32), frame_stack=None)
    for _ in range(10):
        buffer.add(*add)
    memory.available = 10**5
    with pytest.warns(UserWarning, match="will need"):
        buffer.extend(*([array] * 30 for array in add))


def test_a_loaded_buffer_is_compared_with_the_memory_that_is_free_then(monkeypatch):
    """10,000 of 100,000 rows of 56,476 bytes are held already: 0.56 GB and the 2 GB hold 45,413.

    99 % of them are named.
    """
    memory = SimpleNamespace(available=10**11)
    monkeypatch.setattr("sb3_rainbow.buffers.available_memory", lambda: memory.available)
    rows = np.zeros((1, 4, 84, 84), np.uint8)
    add = (rows, rows, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    buffer = make(100_000, space=spaces.Box(0, 255, (4, 84, 84), np.uint8), frame_stack=None)
    buffer.add(*add)
    buffer.pos = 10_000
    loaded = pickle.loads(pickle.dumps(buffer))
    memory.available = 2 * 10**9
    with pytest.warns(UserWarning, match=r"need 5\.65 GB .* only 2\.56 GB .* buffer_size=44958 or less"):
        loaded.add(*add)
    for _ in range(3):
        loaded.add(*add)  # once is enough
    memory.available = 6 * 10**9
    pickle.loads(pickle.dumps(buffer)).add(*add)  # does not warn


def test_an_empty_key_is_stored():
    space = spaces.Dict({"none": spaces.Box(0, 1, (0,), np.float32), "some": spaces.Box(0, 1, (2,), np.float32)})
    buffer = RainbowDictReplayBuffer(10, space, spaces.Discrete(2), device="cpu")
    obs = {"none": np.zeros((1, 0), np.float32), "some": np.ones((1, 2), np.float32)}
    buffer.add(obs, obs, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    assert {key: tuple(rows.shape) for key, rows in buffer.sample(3).observations.items()} == {
        "none": (3, 0),
        "some": (3, 2),
    }
    assert {key: rows.shape for key, rows in buffer.next_observations.items()} == {"none": (1, 1, 0), "some": (1, 1, 2)}


def test_a_row_of_a_single_env_needs_no_axis_for_it():
    """SB3's buffer takes such rows as well."""
    row, next_row = np.array([0.1, 0.2, 0.3], np.float32), np.array([0.4, 0.5, 0.6], np.float32)
    buffer = make()
    buffer.add(row, next_row, np.int64(1), 1.0, False, [{}])
    assert equal(at(buffer, 0).observations, th.from_numpy(row[None]))
    assert equal(at(buffer, 0).next_observations, th.from_numpy(next_row[None]))
    with pytest.raises(ValueError, match=r"observation has shape \(3,\), expected \(2, 3\)"):
        make(n_envs=2).add(row, next_row, np.zeros(2), np.zeros(2), np.zeros(2), [{}, {}])


def test_rows_that_lie_across_are_refused():
    """Reshaped, they would give envs the actions of others."""
    obs = np.ones((3, 3), np.float32)
    arrays = {"reward": np.zeros(3), "done": np.zeros(3), "infos": [{}] * 3}
    buffer = RainbowReplayBuffer(30, VECTOR, spaces.MultiDiscrete([9, 9]), n_envs=3)
    with pytest.raises(ValueError, match=r"action of shape \(2, 3\) must be \(3, 2\)"):
        buffer.add(obs, obs, action=np.arange(6).reshape(2, 3), **arrays)
    buffer.add(obs, obs, action=np.arange(6).reshape(3, 2), **arrays)
    with pytest.raises(ValueError, match=r"reward of shape \(1, 3\) must be \(3,\)"):
        buffer.add(obs, obs, action=np.arange(6).reshape(3, 2), **(arrays | {"reward": np.zeros((1, 3))}))
    with pytest.raises(ValueError, match=r"observation has shape \(3,\), expected \(2, 1\)"):
        make(n_envs=2, space=spaces.Discrete(4)).add(np.arange(3), np.arange(3), *[np.zeros(2)] * 3, [{}, {}])


@pytest.mark.parametrize(
    ("name", "value"),
    [("action", np.zeros(2)), ("reward", np.zeros(2)), ("done", np.zeros((1, 2))), ("infos", [{}, {}])],
)
def test_of_a_row_that_is_refused_nothing_is_stored(name, value):
    buffer = make(2)
    fill(buffer, [1, 2])
    before = [array.copy() for array in (buffer.observations, buffer.rewards, buffer.dones, buffer.timeouts)]
    obs = np.ones((1, 3), np.float32)
    row = {"action": np.zeros(1), "reward": np.zeros(1), "done": np.zeros(1), "infos": [{}]} | {name: value}
    with pytest.raises(
        ValueError, match=rf"{name} of shape .*2,?\) must be \(1,{' 1' * (name == 'action')}\): a row for each env"
    ):
        buffer.add(obs, obs, **row)
    for earlier, array in zip(
        before, (buffer.observations, buffer.rewards, buffer.dones, buffer.timeouts), strict=True
    ):
        np.testing.assert_array_equal(earlier, array)
    assert buffer.pos == 0


def test_infos_may_be_missing_where_truncation_is_not_handled():
    obs = np.ones((2, 3), np.float32)
    buffer = make(n_envs=2, handle_timeout_termination=False)
    buffer.add(obs, obs, np.zeros(2), np.zeros(2), np.ones(2), [])
    assert equal(at(buffer, 0, 1).dones, th.ones(2, 1))


def test_copies_of_observations_are_not_written_to_in_vain():
    for space in (VECTOR, DICT):
        buffer = make(space=space)
        buffer.add(*random_transitions(np.random.default_rng(0), 1, 1, space)[0])
        for rows in (buffer.observations, buffer.next_observations):
            for array in rows.values() if isinstance(rows, dict) else [rows]:
                with pytest.raises(ValueError, match="read-only"):
                    array[:] = 0
