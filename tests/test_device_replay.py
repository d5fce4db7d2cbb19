"""A replay buffer's copy on a device, against the buffer. On the CPU here: it makes no difference to what is copied."""

import numpy as np
import pytest
import torch as th
from envs import random_transitions
from gymnasium import spaces
from needs import needs_gpu
from scipy import stats

from sb3_rainbow import RainbowDictReplayBuffer, RainbowReplayBuffer, device_replay
from sb3_rainbow.device_replay import DeviceReplay
from sb3_rainbow.sampling import UniformSampler

CPU = th.device("cpu")
VECTORS = spaces.Box(-1, 1, (3,), np.float32)
IMAGES = spaces.Box(0, 255, (4, 12, 12), np.uint8)
LAST = spaces.Box(0, 255, (12, 12, 4), np.uint8)


def stacked_transitions(rng, n_steps, n_envs, axis, end=0.1):
    """Stacks of 4 frames along an axis, padded with zeros where an episode starts."""

    def started():
        frames = np.zeros((4, 12, 12), dtype=np.uint8)
        frames[3] = rng.integers(1, 256, (12, 12))
        return frames

    stacks, rows = [started() for _ in range(n_envs)], []
    for _ in range(n_steps):
        following = [np.concatenate((s[1:], rng.integers(1, 256, (1, 12, 12), dtype=np.uint8))) for s in stacks]
        dones = rng.random(n_envs) < end
        truncated = dones & (rng.random(n_envs) < 0.5)
        obs, next_obs = (np.stack([np.moveaxis(s, 0, axis) for s in each]) for each in (stacks, following))
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in truncated]
        actions, rewards = rng.integers(0, 2, (n_envs, 1)), rng.standard_normal(n_envs).astype(np.float32)
        rows.append((obs, next_obs, actions, rewards, dones, infos))
        stacks = [started() if done else s for done, s in zip(dones, following, strict=True)]
    return rows


def make(rows, n_rows=None, buffer_size=40, n_envs=2, space=VECTORS, **kwargs):
    buffer = RainbowReplayBuffer(buffer_size, space, spaces.Discrete(2), CPU, n_envs=n_envs, **kwargs)
    for row in rows[:n_rows]:
        buffer.add(*row)
    return buffer


def assert_equal_batches(replay, buffer):
    """Of every transition that is stored."""
    rows = np.arange(buffer.size() * buffer.n_envs)
    expected = buffer._get_samples(rows)
    tensors = th.from_numpy(rows)
    last, returns, discounts = replay._windows(tensors)
    th.testing.assert_close(replay.frames.observations(tensors, 0), expected.observations, rtol=0, atol=0)
    th.testing.assert_close(replay.frames.observations(last, 1), expected.next_observations, rtol=0, atol=0)
    th.testing.assert_close(replay.actions[tensors], expected.actions, rtol=0, atol=0)
    th.testing.assert_close(returns, expected.rewards.squeeze(1))
    th.testing.assert_close(discounts, expected.discounts.squeeze(1))
    th.testing.assert_close(replay.terminals[last].float(), expected.dones.squeeze(1))


CASES = [
    (VECTORS, random_transitions, {}),
    (IMAGES, lambda rng, n_steps, n_envs, space: stacked_transitions(rng, n_steps, n_envs, 0), {"frame_stack": 4}),
    (LAST, lambda rng, n_steps, n_envs, space: stacked_transitions(rng, n_steps, n_envs, 2), {"frame_stack": 4}),
    (IMAGES, random_transitions, {"frame_stack": None}),
]


@pytest.mark.parametrize(("space", "transitions", "kwargs"), CASES)
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_it_has_what_the_buffer_has(space, transitions, kwargs, n_envs, n_steps):
    """Copied at once, and followed, in small and large portions, over the seam of the ring."""
    rows = transitions(np.random.default_rng(0), 75, n_envs, space)
    buffer = make(rows, 11, 20 * n_envs, n_envs, space, n_steps=n_steps, **kwargs)
    replay = DeviceReplay(buffer, CPU)
    assert_equal_batches(replay, buffer)
    done = 11
    for portion in (1, 1, 6, 1, 20, 3, 15, 1):
        for row in rows[done : done + portion]:
            buffer.add(*row)
        done += portion
        if not replay.is_current:  # no room for more frames
            replay.write_back()
            replay = DeviceReplay(buffer, CPU)
        replay.follow()
        assert_equal_batches(replay, buffer)


def test_a_ring_of_frames_follows_for_long():
    """Once it has been full, no other copy is needed as long as episodes do not become shorter."""
    rows = stacked_transitions(np.random.default_rng(0), 3000, 1, 0, end=0.02)
    buffer = make(rows, 1200, 400, 1, IMAGES, frame_stack=4)
    replay = DeviceReplay(buffer, CPU)
    for row in rows[1200:]:
        buffer.add(*row)
        assert replay.is_current
        replay.follow()
    assert_equal_batches(replay, buffer)


def test_a_truncation_that_was_not_announced():
    rows = random_transitions(np.random.default_rng(0), 12, 2, VECTORS, end=0.0)
    buffer = make(rows, 8)
    replay = DeviceReplay(buffer, CPU)
    buffer.truncate_last_trajectory()
    buffer.add(*rows[8])
    replay.follow()
    assert replay.ends[14:16].all()
    assert_equal_batches(replay, buffer)


def test_what_cannot_be_followed():
    rows = random_transitions(np.random.default_rng(0), 60, 2, VECTORS)
    buffer = make(rows, 15)
    replay = DeviceReplay(buffer, CPU)
    buffer.n_steps = 2
    assert not replay.is_current
    buffer.n_steps = 3
    assert replay.is_current
    for row in rows[15:36]:  # more than the ring holds
        buffer.add(*row)
    assert not replay.is_current
    replay = DeviceReplay(buffer, CPU)
    buffer.reset()
    assert not replay.is_current
    replay.write_back()
    assert buffer.sampler.tree.total == 0
    for row in rows[:16]:
        buffer.add(*row)
    assert not replay.is_current
    for row in rows[:20]:  # all is new, and where the ring was
        buffer.add(*row)
    assert replay.buffer.pos == 16
    assert not replay.is_current
    assert_equal_batches(DeviceReplay(buffer, CPU), buffer)


def test_which_buffers_suit():
    buffer = make(random_transitions(np.random.default_rng(0), 5, 2, VECTORS), frame_stack=None)
    assert DeviceReplay.suits(buffer)
    buffer.sampler = type("Recent", (UniformSampler,), {})(buffer.n_envs)
    assert not DeviceReplay.suits(buffer)  # drawn in a way of its own
    assert not DeviceReplay.suits(make([]))  # nothing is stored
    undecided = make(random_transitions(np.random.default_rng(0), 1, 2, IMAGES), space=IMAGES)
    assert not DeviceReplay.suits(undecided)  # stacks, or not?
    space = spaces.Dict({"vector": VECTORS})
    odd = spaces.Box(0, 60_000, (3,), np.uint16)  # torch cannot index these
    assert not DeviceReplay.suits(make(random_transitions(np.random.default_rng(0), 5, 2, odd), space=odd))
    mixed = RainbowDictReplayBuffer(40, space, spaces.Discrete(2), CPU, n_envs=2)
    mixed.add(*random_transitions(np.random.default_rng(0), 1, 2, space)[0])
    assert not DeviceReplay.suits(mixed)


def test_each_of_a_million_rows_can_be_drawn(monkeypatch):
    """The last of 32 shares is all of them but for a few: neighbours in it are drawn by neighbouring random numbers."""
    replay = DeviceReplay(make(random_transitions(np.random.default_rng(0), 5, 2, VECTORS)), CPU)
    replay.leaves = th.ones(1025, 1024, dtype=replay.leaves.dtype)
    replay.leaves[0] = 31 * 1024
    replay.n_stored.fill_(replay.leaves.numel())
    drawn = set()
    for step in range(64):  # 16 for each row
        monkeypatch.setattr(th, "rand", lambda size, device, step=step: th.full((size,), 0.5 + step / 2**24))
        drawn.add(int(replay._draw_rows(32)[0][-1]))
    assert drawn in (set(range(min(drawn), min(drawn) + 4)), set(range(min(drawn), min(drawn) + 5)))


def test_large_observations_are_copied_in_small_portions(monkeypatch):
    rows = random_transitions(np.random.default_rng(0), 30, 2, VECTORS)
    portions = []
    monkeypatch.setattr(device_replay, "_COPIED_BYTES", 10 * 24)  # two observations of three float32
    copy = device_replay._WholeObservations.copy
    monkeypatch.setattr(
        device_replay._WholeObservations, "copy", lambda self, rows: (portions.append(len(rows)), copy(self, rows))
    )
    buffer = make(rows)
    assert_equal_batches(DeviceReplay(buffer, CPU), buffer)
    assert portions == [10] * 4


@pytest.mark.parametrize(("place", "method"), [("frames", "copy"), ("n_stored", "fill_"), ("newest", "fill_")])
def test_an_interrupted_copy_is_made_again(place, method, monkeypatch):
    """And what was learned of priorities is kept."""
    rows = random_transitions(np.random.default_rng(0), 20, 2, VECTORS)
    buffer = make(rows, 15)
    replay = DeviceReplay(buffer, CPU)
    replay.set_priorities(th.arange(30), th.arange(1, 31), th.tensor(True))
    buffer.add(*rows[15])
    with monkeypatch.context() as interrupted:
        interrupted.setattr(getattr(replay, place), method, lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            replay.follow()
    replay.write_back()
    np.testing.assert_allclose(buffer.sampler.tree[np.arange(30)], np.arange(1, 31) ** buffer.sampler.alpha)
    replay.follow()
    assert_equal_batches(replay, buffer)


def test_rows_are_drawn_in_proportion_to_their_priorities():
    """Chi-squared, with 3,000 leaves in several blocks; it fails by chance once in a thousand times. Seeded."""
    rows = random_transitions(np.random.default_rng(0), 1500, 2, VECTORS)
    buffer = make(rows, buffer_size=4000, prioritized_replay_alpha=1.0)
    priorities = np.random.default_rng(1).integers(1, 30, 3000).astype(float)
    buffer.update_priorities(np.arange(3000), priorities)
    replay = DeviceReplay(buffer, CPU)
    th.manual_seed(0)
    counts = np.zeros(3000)
    for _ in range(1000):
        drawn, weights = replay._draw_rows(300)
        np.add.at(counts, drawn.numpy(), 1)
    assert weights.max() == 1
    expected = priorities / priorities.sum() * counts.sum()
    # One from each share of the total: counts vary less than independent draws would, so the lower tail is no failure
    assert stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), 2999) > 1e-3
    assert abs(counts[-500:].sum() / expected[-500:].sum() - 1) < 0.02


def test_uniform_rows():
    buffer = make(random_transitions(np.random.default_rng(0), 15, 2, VECTORS), prioritized_replay=False)
    replay = DeviceReplay(buffer, CPU)
    th.manual_seed(0)
    drawn, weights = replay._draw_rows(30_000)
    assert (weights == 1).all()
    assert stats.chisquare(np.bincount(drawn.numpy(), minlength=30)).pvalue > 1e-3
    replay.set_priorities(drawn, th.ones(30_000), th.tensor(True))  # makes no difference


def test_weights_are_those_of_the_buffer():
    buffer = make(random_transitions(np.random.default_rng(0), 15, 2, VECTORS))
    buffer.update_priorities(np.arange(30), np.arange(1.0, 31.0))
    buffer.beta = 0.7
    replay = DeviceReplay(buffer, CPU)
    replay.follow()
    th.manual_seed(0)
    rows, weights = replay._draw_rows(16)
    probabilities = buffer.sampler.tree[rows.numpy()]
    np.testing.assert_allclose(weights, (probabilities / probabilities.min()) ** -0.7, rtol=1e-6)


def test_priorities_there_and_back():
    rows = random_transitions(np.random.default_rng(0), 30, 2, VECTORS)
    buffer, other = make(rows, 15), make(rows, 15)
    for each in (buffer, other):
        each.update_priorities(np.array([5]), np.array([4.0]))  # before the copy is made
    replay = DeviceReplay(buffer, CPU)
    assert float(replay.max_priority) == 4
    drawn, priorities = th.tensor([3, 29, 3, 0]), th.tensor([0.5, 9.0, 0.5, 2.0])
    replay.set_priorities(drawn, priorities, th.tensor(False))
    replay.set_priorities(drawn[:1], th.tensor([th.nan]), th.tensor(False))
    replay.write_back()
    np.testing.assert_array_equal(buffer.sampler.tree[np.arange(40)], other.sampler.tree[np.arange(40)])
    replay.set_priorities(drawn, priorities, th.tensor(True))
    other.update_priorities(drawn.numpy(), priorities.numpy())
    for row in rows[15:]:  # these enter at 9; the first rows are overwritten
        buffer.add(*row)
        other.add(*row)
        if buffer.pos % 4 == 0:
            replay.follow()
    replay.write_back()
    np.testing.assert_allclose(buffer.sampler.tree[np.arange(40)], other.sampler.tree[np.arange(40)])
    assert buffer.sampler.max_priority == other.sampler.max_priority == 9
    replay.follow()
    leaves = replay.leaves.view(-1)
    np.testing.assert_allclose(leaves[:40], other.sampler.tree[np.arange(40)])
    assert not leaves[40:].any()


@pytest.mark.parametrize("n_rows", [5, 25])
def test_the_highest_priority_outlives_what_it_was_of(n_rows):
    """Also where the buffer was emptied, or has gone round, since it was copied."""
    rows = random_transitions(np.random.default_rng(0), 40, 2, VECTORS)
    buffer = make(rows, 15, prioritized_replay_alpha=1.0)
    replay = DeviceReplay(buffer, CPU)
    replay.set_priorities(th.tensor([3]), th.tensor([9.0]), th.tensor(True))
    if n_rows == 5:
        buffer.reset()
    for row in rows[15 : 15 + n_rows]:
        buffer.add(*row)
    assert not replay.is_current
    replay.write_back()
    assert buffer.sampler.max_priority == 9
    assert (buffer.sampler.tree[np.arange(buffer.size() * 2)] == 9).all()
    assert buffer.sampler.tree.total == 9 * buffer.size() * 2


def test_priorities_that_were_set_in_the_buffer_stay():
    buffer = make(random_transitions(np.random.default_rng(0), 15, 2, VECTORS), prioritized_replay_alpha=1.0)
    replay = DeviceReplay(buffer, CPU)
    replay.set_priorities(th.tensor([3]), th.tensor([9.0]), th.tensor(True))
    replay.write_back()
    buffer.update_priorities(np.array([3, 4]), np.array([7.0, 8.0]))
    assert not replay.is_current
    replay.set_priorities(th.tensor([5]), th.tensor([11.0]), th.tensor(True))
    replay.write_back()
    assert buffer.sampler.tree[[3, 4]].tolist() == [7, 8]
    assert buffer.sampler.max_priority == 11  # new ones enter with it, as ever
    assert DeviceReplay(buffer, CPU).leaves.view(-1)[3:5].tolist() == [7, 8]


def test_frames_are_looked_up_in_64_bits():
    """As the next test, which needs a GPU to see what goes wrong otherwise."""
    replay = DeviceReplay(
        make(stacked_transitions(np.random.default_rng(0), 20, 2, 0), space=IMAGES, frame_stack=4), CPU
    )
    frames, looked_up = replay.frames.frames, []

    class Watched:
        def __getitem__(self, places):
            looked_up.append(places.dtype)
            return frames[places]

    replay.frames.frames = Watched()
    replay.draw(8)
    assert looked_up == [th.int64] * 2


@needs_gpu
def test_compiled_frames_beyond_two_gigabytes():
    """That many frames can be counted in 32 bits, but not their bytes; the frame of zeros is the last."""
    rows = stacked_transitions(np.random.default_rng(0), 20, 1, 0)
    large = [(*(np.kron(stack, np.ones((7, 7), np.uint8)) for stack in row[:2]), *row[2:]) for row in rows]
    buffer = make(large, None, 400_000, 1, spaces.Box(0, 255, (4, 84, 84), np.uint8), frame_stack=4)
    frames = DeviceReplay(buffer, th.device("cuda")).frames
    expected = buffer._get_samples(np.arange(20))
    drawn = th.compile(lambda at: frames.observations(at, 0), fullgraph=True)(th.arange(20, device="cuda"))
    assert frames.frames.nbytes > 2**31
    th.testing.assert_close(drawn.cpu(), expected.observations, rtol=0, atol=0)
