"""Frame storage returns what plain storage returns, byte for byte, and holds each frame once."""

import pickle
import warnings
from collections import deque

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rainbow import RainbowDictReplayBuffer, RainbowReplayBuffer, frames, storage
from sb3_rainbow.frames import FramePool, FrameStorage

FRAME = {"gray": (5, 6), "colour first": (3, 5, 4), "colour last": (5, 4, 3), "float": (2, 3)}


class StackedEnvs:
    """
    Rows of transitions as a vectorised env of frame stacks makes them.

    :param kind: of frames
    :param padding: of a stack after a reset: "zero", "repeat", or "kept" (a lost life goes on with the frames it has)
    :param sometimes: probability that an observation is no stack but random numbers
    """

    def __init__(self, rng, kind, n_frames, n_envs, padding, end=0.2, sometimes=0.0):
        self.rng, self.n_frames, self.n_envs, self.padding = rng, n_frames, n_envs, padding
        self.end, self.sometimes = end, sometimes
        self.axis = 2 if kind == "colour last" else 0
        self.frame_shape = FRAME[kind] if kind.startswith("colour") else (1, *FRAME[kind])
        self.dtype = np.float32 if kind == "float" else np.uint8
        shape = list(self.frame_shape)
        shape[self.axis] *= n_frames
        self.space = spaces.Box(0, 255, tuple(shape), self.dtype)
        self.stacks = [None] * n_envs
        self.reset()

    def frame(self):
        # Few different frames: some are zero, some repeat by chance
        if self.rng.random() < 0.1:
            return np.full(self.frame_shape, self.rng.integers(0, 2), self.dtype)
        return self.rng.integers(0, 256, self.frame_shape).astype(self.dtype)

    def start(self, env):
        frame, padding = self.frame(), self.padding
        if padding == "kept" and self.stacks[env] is not None:
            return [*self.stacks[env][1:], frame]
        first = frame if padding == "repeat" else np.zeros_like(frame)
        return [first] * (self.n_frames - 1) + [frame]

    def reset(self):
        self.stacks = [self.start(env) for env in range(self.n_envs)]
        self.obs = self.joined()

    def joined(self):
        return np.stack([np.concatenate(stack, axis=self.axis) for stack in self.stacks])

    def step(self):
        """One row, as ``ReplayBuffer.add`` takes it."""
        obs = self.obs
        self.stacks = [[*stack[1:], self.frame()] for stack in self.stacks]
        if self.rng.random() < self.sometimes:
            self.stacks = [[self.frame() for _ in stack] for stack in self.stacks]
        next_obs = self.joined()
        done = self.rng.random(self.n_envs) < self.end
        infos = [{"TimeLimit.truncated": bool(d and self.rng.random() < 0.5)} for d in done]
        for env in np.flatnonzero(done):
            self.stacks[env] = self.start(env)
        self.obs = self.joined()
        actions, rewards = self.rng.integers(0, 3, self.n_envs), self.rng.normal(size=self.n_envs)
        return obs, next_obs, actions, rewards, done, infos


def assert_same_batch(batch, other):
    for name, left, right in zip(batch._fields, batch, other, strict=True):
        pairs = [(left[key], right[key]) for key in left] if isinstance(left, dict) else [(left, right)]
        for ours, theirs in pairs:
            ours, theirs = np.asarray(ours), np.asarray(theirs)
            assert ours.dtype == theirs.dtype, name
            assert ours.tobytes() == theirs.tobytes(), name


@pytest.mark.usefixtures("with_and_without_numba")
@given(
    kind=st.sampled_from(sorted(FRAME)),
    padding=st.sampled_from(["zero", "repeat", "kept"]),
    n_frames=st.integers(1, 5),
    n_envs=st.sampled_from([1, 2, 4, 9]),  # with 9 the ages of frames take two bytes, not one
    n_slots=st.integers(1, 30),
    n_puts=st.integers(1, 90),
    n_steps=st.integers(1, 10),
    sometimes=st.sampled_from([0.0, 0.3, 1.0]),
    chunk_frames=st.integers(1, 20),
    event_at=st.integers(0, 90),
    event=st.sampled_from(["reset", "save and load", "forget"]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore:most of the last")
def test_equal_to_plain_storage_byte_for_byte(
    kind, padding, n_frames, n_envs, n_slots, n_puts, n_steps, sometimes, chunk_frames, event_at, event, seed
):
    envs = StackedEnvs(np.random.default_rng(seed), kind, n_frames, n_envs, padding, sometimes=sometimes)
    frame_bytes = int(np.prod(envs.frame_shape)) * np.dtype(envs.dtype).itemsize
    original, frames._CHUNK_BYTES = frames._CHUNK_BYTES, chunk_frames * frame_bytes
    try:
        buffers = [
            RainbowReplayBuffer(
                n_slots * n_envs,
                envs.space,
                spaces.Discrete(3),
                device="cpu",
                n_envs=n_envs,
                n_steps=n_steps,
                frame_stack=frame_stack,
            )
            for frame_stack in (n_frames, None)
        ]
        assert isinstance(buffers[0].storage, FrameStorage)
        buffers[0].storage = FrameStorage(n_slots, n_envs, envs.space.shape, envs.dtype, envs.axis, n_frames)
    finally:
        frames._CHUNK_BYTES = original
    for step in range(n_puts):
        row = envs.step()
        for buffer in buffers:
            buffer.add(*row)
        if step == event_at and event == "reset":
            envs.reset()
            for buffer in buffers:
                buffer.truncate_last_trajectory()
        elif step == event_at and event == "save and load":
            buffers = [pickle.loads(pickle.dumps(buffer)) for buffer in buffers]
        elif step == event_at:
            for buffer in buffers:
                buffer.reset()
    if not buffers[0].size():
        return
    ids = np.arange(buffers[0].size() * n_envs)
    assert_same_batch(buffers[0]._get_samples(ids), buffers[1]._get_samples(ids))
    batches = []
    for buffer in buffers:
        np.random.seed(seed)
        batches.append(buffer.sample(8))
    assert_same_batch(*batches)


@pytest.mark.usefixtures("with_and_without_numba")
@pytest.mark.parametrize("n_left", [10, 300, 70_000])
def test_frames_that_an_interrupted_row_left_behind_do_no_harm(n_left):
    frames = np.random.default_rng(0).integers(1, 256, (8, 1, 3, 3), dtype=np.uint8)
    stacks = frames[np.arange(7)[:, None] + np.arange(2), 0]  # (7, 2, 3, 3)
    kept = FrameStorage(10, 1, (2, 3, 3), np.uint8, 0, 2)
    for slot in range(6):
        if slot == 3:
            kept.pool.append(np.ones((n_left, 1, 3, 3), dtype=np.uint8))
        kept.put(slot, stacks[[slot]], stacks[[slot + 1]], np.array([False]))
    slots, envs = np.arange(6), np.zeros(6, dtype=int)
    np.testing.assert_array_equal(kept.get(slots, envs), stacks[:6])
    np.testing.assert_array_equal(kept.get_next(slots, envs), stacks[1:])


@pytest.mark.parametrize("padding", ["zero", "repeat"])
def test_each_frame_is_held_once_and_one_more_for_each_episode(padding):
    """100 slots of a ring that has wrapped, a chunk of 10 frames: what is held is as little as can be."""
    envs = StackedEnvs(np.random.default_rng(0), "gray", 4, 2, padding, end=0.05)
    buffer = RainbowReplayBuffer(200, envs.space, spaces.Discrete(3), n_envs=2, frame_stack=4)
    kept = buffer.storage
    kept.pool.chunk_frames = 10
    ends = []
    for _ in range(450):
        row = envs.step()
        ends.append(row[4].sum())
        buffer.add(*row)
    # Padding with a frame is that frame; the frames before the oldest slot's newest ones are in its stacks
    n_frames = 200 + sum(ends[-101:]) + 2 * 4
    held = sum(len(chunk) for chunk in kept.pool._chunks.values())
    assert 200 <= held <= n_frames + 2 * 10
    assert len(kept.pool._spare) <= 1


@pytest.mark.parametrize("size", [1_000, 20_000])
def test_a_ring_that_goes_round_holds_little_more_than_its_frames(size):
    buffer = RainbowReplayBuffer(size, spaces.Box(0, 255, (4, 2, 1), np.uint8), spaces.Discrete(2), frame_stack=4)
    pool = buffer.storage.pool
    obs = np.zeros((1, 4, 2, 1), np.uint8)
    most = 0
    for step in range(int(1.1 * size)):
        next_obs = np.concatenate([obs[:, 1:], np.full((1, 1, 2, 1), step % 251 + 1, np.uint8)], axis=1)
        buffer.storage.put(step % size, obs, next_obs, np.zeros(1, dtype=bool))
        obs = next_obs
        most = max(most, len(pool._chunks) + len(pool._spare))
    index = 8 + 8 * 1  # bytes for each row: where its frames end, and for one env a byte for each frame of both stacks
    assert most * pool.chunk_frames * pool.frame_bytes + index * size <= buffer.storage.full_bytes
    assert pool.chunk_frames <= max(size // 100, 256)


@pytest.mark.parametrize("kind", ["gray", "colour first", "colour last"])
@pytest.mark.parametrize("n_frames", [2, 4, 7])
def test_stacks_are_found_by_themselves(kind, n_frames, monkeypatch):
    monkeypatch.setattr(storage, "frame_storage_bytes", lambda observation, n_envs, n_frames: 0)  # small frames too
    envs = StackedEnvs(np.random.default_rng(1), kind, n_frames, 3, "zero", end=0.05)
    buffers = [
        RainbowReplayBuffer(300, envs.space, spaces.Discrete(3), n_envs=3, frame_stack=given)
        for given in ("auto", None)
    ]
    for _ in range(70):
        row = envs.step()
        for buffer in buffers:
            buffer.add(*row)
    found = buffers[0].storage.chosen
    assert isinstance(found, FrameStorage)
    assert (found.axis, found.n_frames) == (envs.axis, n_frames)
    ids = np.arange(210)
    assert_same_batch(buffers[0]._get_samples(ids), buffers[1]._get_samples(ids))


@pytest.mark.parametrize("way", ["newest first", "middle axis", "large", "few rows"])
def test_stacks_of_other_ways_are_found(way):
    """An env may stack by itself as it likes; of large frames, and in small buffers, there are few rows to judge by."""
    size = {"large": 420, "few rows": 20}.get(way, 42)
    n_slots = {"large": 150, "few rows": 30}.get(way, 300)
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (n_slots + 4, 3, size, size), dtype=np.uint8))

    def observe(step):
        stack = frames[step : step + 4]
        if way == "middle axis":
            return np.stack(stack, axis=1)[None]
        return np.concatenate(stack[::-1] if way == "newest first" else stack)[None]

    space = spaces.Box(0, 255, observe(0).shape[1:], np.uint8)
    buffers = [
        RainbowReplayBuffer(n_slots, space, spaces.Discrete(2), device="cpu", frame_stack=given)
        for given in ("auto", None)
    ]
    for step in range(n_slots):
        for buffer in buffers:
            buffer.add(observe(step), observe(step + 1), np.zeros(1), np.zeros(1), np.zeros(1, dtype=bool), [{}])
    assert isinstance(buffers[0].storage.chosen, FrameStorage)
    ids = np.arange(0, n_slots, 7)
    assert_same_batch(buffers[0]._get_samples(ids), buffers[1]._get_samples(ids))


def test_stacks_inside_a_dict_are_found_and_the_rest_is_kept_as_it_is():
    rng = np.random.default_rng(0)
    space = spaces.Dict({"image": spaces.Box(0, 255, (4, 20, 20), np.uint8), "place": spaces.Box(-1, 1, (8,))})
    buffers = [
        RainbowDictReplayBuffer(500, space, spaces.Discrete(2), frame_stack=given, device="cpu")
        for given in ("auto", 4, None)
    ]
    image = np.zeros((1, 4, 20, 20), dtype=np.uint8)
    for _ in range(250):
        obs = {"image": image, "place": rng.uniform(-1, 1, (1, 8)).astype(np.float32)}
        image = np.concatenate([image[:, 1:], rng.integers(0, 256, (1, 1, 20, 20), dtype=np.uint8)], axis=1)
        next_obs = {"image": image, "place": rng.uniform(-1, 1, (1, 8)).astype(np.float32)}
        for buffer in buffers:
            buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.zeros(1, dtype=bool), [{}])
    assert isinstance(buffers[0].storage.storages["image"].chosen, FrameStorage)
    assert isinstance(buffers[0].storage.storages["place"].chosen, storage.ArrayStorage)
    assert isinstance(buffers[1].storage.storages["image"], FrameStorage)
    assert isinstance(buffers[1].storage.storages["place"], storage.ArrayStorage)  # although 4 divides its length
    batches = [buffer._get_samples(np.arange(250)) for buffer in buffers]
    assert_same_batch(batches[0], batches[2])
    assert_same_batch(batches[1], batches[2])


@pytest.mark.parametrize("motion", ["random", "none"])
def test_what_is_no_stack_stays_plain(motion):
    space = spaces.Box(0, 255, (3, 30, 30), np.uint8)
    rng = np.random.default_rng(0)
    buffer = RainbowReplayBuffer(20_000, space, spaces.Discrete(2))
    obs = rng.integers(0, 256, (1, 3, 30, 30), dtype=np.uint8)
    for _ in range(150):
        next_obs = rng.integers(0, 256, (1, 3, 30, 30), dtype=np.uint8) if motion == "random" else obs
        buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.zeros(1, dtype=bool), [{}])
        obs = next_obs
    assert isinstance(buffer.storage.chosen, storage.ArrayStorage)
    assert (buffer.storage.full_bytes is None) == (motion == "none")  # what does not move may yet be a stack
    for _ in range(850):
        buffer.add(obs, obs, np.zeros(1), np.zeros(1), np.zeros(1, dtype=bool), [{}])
    assert buffer.storage.full_bytes == 20_000 * 2 * 2700


@pytest.mark.parametrize("frame_stack", ["auto", 1])
def test_a_large_image_that_is_no_stack_is_held_once(frame_stack):
    """A row's next observation is the next row's observation, but for an episode's last."""
    space = spaces.Box(0, 255, (3, 42, 42), np.uint8)
    rng = np.random.default_rng(0)
    buffers = [
        RainbowReplayBuffer(2_000, space, spaces.Discrete(2), device="cpu", frame_stack=given)
        for given in (frame_stack, None)
    ]
    obs = rng.integers(0, 256, (1, 3, 42, 42), dtype=np.uint8)
    for step in range(2_500):
        next_obs = rng.integers(0, 256, (1, 3, 42, 42), dtype=np.uint8)
        is_end = step % 50 == 49
        for buffer in buffers:
            buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.array([is_end]), [{}])
        obs = rng.integers(0, 256, (1, 3, 42, 42), dtype=np.uint8) if is_end else next_obs
    ids = np.arange(0, 2_000, 7)
    assert_same_batch(buffers[0]._get_samples(ids), buffers[1]._get_samples(ids))
    assert buffers[0].storage.full_bytes < 0.75 * buffers[1].storage.full_bytes  # half, and chunks that are many here


def test_stacks_are_found_where_every_episode_has_one_step():
    envs = StackedEnvs(np.random.default_rng(0), "gray", 4, 2, "zero", end=1.0)
    buffer = RainbowReplayBuffer(400, envs.space, spaces.Discrete(3), n_envs=2)
    for _ in range(60):
        buffer.add(*envs.step())
    assert isinstance(buffer.storage.chosen, FrameStorage)


def test_large_images_that_did_not_move_while_they_were_judged_are_taken_for_the_likeliest_stacks():
    buffer = RainbowReplayBuffer(3_000, spaces.Box(0, 255, (4, 42, 42), np.uint8), spaces.Discrete(2), device="cpu")
    rng = np.random.default_rng(0)
    obs = np.zeros((1, 4, 42, 42), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(2_500):
            newest = rng.integers(0, 256, (1, 1, 42, 42), dtype=np.uint8) if step > 1_000 else obs[:, -1:]
            next_obs = np.concatenate([obs[:, 1:], newest], axis=1)
            buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.zeros(1, dtype=bool), [{}])
            obs = next_obs
    assert buffer.storage.chosen.n_frames == 4
    np.testing.assert_array_equal(buffer.next_observations[-1], obs)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("colour", ["black", "gray", "any"])
@pytest.mark.parametrize("way", ["stacked", "single"])
@pytest.mark.parametrize("n_still", [90, 250, 1300])  # the ring is full by then, or not; frames are judged, too
def test_what_moves_late_is_judged_by_how_it_moves(n_still, way, colour, monkeypatch):
    """What stands still may be a stack of single channels, of colours, or none."""
    monkeypatch.setattr(storage, "_JUDGED_SLOTS", 60)
    rng = np.random.default_rng(0)
    title = {"black": np.zeros((3, 40, 40)), "gray": np.full((3, 40, 40), 9), "any": rng.integers(0, 256, (3, 40, 40))}
    frames = deque([title[colour].astype(np.uint8)] * 4, maxlen=4 if way == "stacked" else 1)
    space = spaces.Box(0, 255, (3 * len(frames), 40, 40), np.uint8)
    buffers = [
        RainbowReplayBuffer(400, space, spaces.Discrete(2), device="cpu", n_envs=2, frame_stack=given)
        for given in ("auto", None)
    ]
    n_frames = []
    for step in range(n_still + 230):
        obs = np.concatenate(frames)
        frames.append(rng.integers(0, 256, (3, 40, 40), dtype=np.uint8) if step >= n_still else frames[-1])
        for buffer in buffers:
            buffer.add(*([row, row] for row in (obs, np.concatenate(frames))), *np.zeros((3, 2)), [{}, {}])
        n_frames.append(getattr(getattr(buffers[0].storage.chosen, "pool", None), "next_id", 0))
    found = buffers[0].storage.chosen
    assert (found.axis, found.n_frames) == (0, 4 if way == "stacked" else 1)
    assert np.diff(n_frames[-100:]).tolist() == [2] * 99  # one for each env
    ids = np.arange(400)
    assert_same_batch(buffers[0]._get_samples(ids), buffers[1]._get_samples(ids))
    assert pickle.loads(pickle.dumps(buffers[0])).storage.chosen.n_frames == found.n_frames


@pytest.mark.parametrize("what", ["emptied", "interrupted"])
def test_what_moves_late_in_a_buffer_that_was(what, monkeypatch):
    """Of what was emptied the frames are gone; what was interrupted is chosen with the next row."""
    monkeypatch.setattr(storage, "_JUDGED_SLOTS", 60)
    rng, frames = np.random.default_rng(0), deque([np.zeros((3, 40, 40), np.uint8)] * 4, maxlen=4)
    space = spaces.Box(0, 255, (12, 40, 40), np.uint8)
    buffers = [
        RainbowReplayBuffer(1_000, space, spaces.Discrete(2), device="cpu", frame_stack=given)
        for given in ("auto", None)
    ]
    n_left = {"emptied": 0, "interrupted": 30}[what]
    put = FrameStorage.put

    def interrupted(*args):
        nonlocal n_left
        n_left -= 1
        if n_left == 0:
            raise KeyboardInterrupt
        put(*args)

    monkeypatch.setattr(FrameStorage, "put", interrupted)
    for step in range(1_730):
        if step == 1_450 and what == "emptied":
            for buffer in buffers:
                buffer.reset()
        obs = np.concatenate(frames)
        frames.append(frames[-1] if step < 1_600 else rng.integers(0, 256, (3, 40, 40), dtype=np.uint8))
        for buffer in buffers:
            row = [obs], [np.concatenate(frames)], *np.zeros((3, 1)), [{}]
            try:
                buffer.add(*row)
            except KeyboardInterrupt:
                buffer.add(*row)
    assert n_left < 0
    assert buffers[0].storage.chosen.n_frames == 4
    ids = np.arange(buffers[0].size())
    assert len(ids) == (280 if what == "emptied" else 1_000)
    assert_same_batch(buffers[0]._get_samples(ids), buffers[1]._get_samples(ids))


def test_a_warning_that_is_an_error_leaves_the_buffer_as_it_should_be():
    """Of many envs one makes stacks: two rows' worth of the others' frames must not make its own too old to find."""
    rng, n_envs = np.random.default_rng(0), 21
    image = spaces.Box(0, 255, (2, 3, 3), np.uint8)
    buffers = [RainbowReplayBuffer(2_100, image, spaces.Discrete(3), n_envs=n_envs, frame_stack=k) for k in (2, None)]
    stack, n_refused, nothing = rng.integers(1, 256, (2, 3, 3), dtype=np.uint8), 0, np.zeros(n_envs)
    for _ in range(60):
        obs, next_obs = rng.integers(1, 256, (2, n_envs, 2, 3, 3), dtype=np.uint8)
        obs[0], next_obs[0, 0] = stack, stack[1]
        stack = next_obs[0].copy()
        for buffer in buffers:
            row = obs, next_obs, nothing, nothing, nothing, [{}] * n_envs
            try:
                with warnings.catch_warnings(action="error"):
                    buffer.add(*row)
            except UserWarning:
                n_refused += 1
                buffer.add(*row)
    assert n_refused == 1
    assert_same_batch(*(buffer._get_samples(np.arange(60 * n_envs)) for buffer in buffers))


def test_it_is_said_once_that_most_observations_are_no_stacks():
    envs = StackedEnvs(np.random.default_rng(0), "gray", 4, 2, "zero", sometimes=1.0)
    buffer = RainbowReplayBuffer(5_000, envs.space, spaces.Discrete(3), n_envs=2, frame_stack=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(1_200):
            buffer.add(*envs.step())
    assert ["frame_stack=None" in str(warning.message) for warning in caught] == [True]


def test_nothing_is_said_of_short_episodes():
    """Their first observations do not follow from the one before, but take a frame each: all before it are zeros."""
    envs = StackedEnvs(np.random.default_rng(0), "gray", 4, 2, "zero", end=0.6)
    buffer = RainbowReplayBuffer(5_000, envs.space, spaces.Discrete(3), n_envs=2, frame_stack=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(1_200):
            buffer.add(*envs.step())
    assert buffer.storage.pool.next_id < 2 * 2_400


def test_it_is_said_later_too_that_most_observations_are_no_stacks():
    envs = StackedEnvs(np.random.default_rng(0), "gray", 4, 2, "zero")
    buffer = RainbowReplayBuffer(9_000, envs.space, spaces.Discrete(3), n_envs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(800):
            buffer.add(*envs.step())
    envs.sometimes = 1.0
    rows = [envs.step() for _ in range(1_000)]
    with pytest.warns(UserWarning, match=r"most of the last 1000 observations .*frame_stack=None"):
        deque((buffer.add(*row) for row in rows), maxlen=0)


@pytest.mark.parametrize("sometimes", [0.0, 0.3])
def test_rows_that_are_kept_whole_count_in_the_size(sometimes):
    """What is predicted after a tenth is what is held in the end, give or take a tenth; a few rows say nothing."""
    envs = StackedEnvs(np.random.default_rng(0), "gray", 4, 2, "zero", sometimes=sometimes)
    buffer = RainbowReplayBuffer(10_000, envs.space, spaces.Discrete(3), n_envs=2, frame_stack=4)
    promised = buffer.storage.full_bytes
    for _ in range(20):
        buffer.add(*envs.step())
    pool = buffer.storage.pool
    index = 5_000 * (8 + 2 * 8 * 1)  # for each slot where its frames end, for both envs a byte for each frame
    assert buffer.storage.full_bytes == promised == 10_000 * pool.frame_bytes + index + 2 * 256 * pool.frame_bytes
    for _ in range(500):
        buffer.add(*envs.step())
    predicted = buffer.storage.full_bytes - 2 * buffer.storage.pool.chunk_frames * buffer.storage.pool.frame_bytes
    for _ in range(4_480):
        buffer.add(*envs.step())
    held = buffer.storage.pool.next_id * buffer.storage.pool.frame_bytes + index  # nothing was released
    assert held == pytest.approx(predicted, rel=0.1)
    assert held > 1.3 * promised or not sometimes


def test_stacks_are_found_although_nothing_moves_at_first(monkeypatch):
    """A chunk has no more than 2 slots here."""
    monkeypatch.setattr(storage, "_CHUNK_BYTES", 2 * 4 * 120)
    envs = StackedEnvs(np.random.default_rng(0), "gray", 4, 4, "zero")
    buffer = RainbowReplayBuffer(4_000, envs.space, spaces.Discrete(3), n_envs=4)
    obs, _, *rest = envs.step()
    for _ in range(4):
        buffer.add(obs, obs, *rest)
    for _ in range(60):
        buffer.add(*envs.step())
    assert isinstance(buffer.storage.chosen, FrameStorage)


@pytest.mark.parametrize("n_envs", [2, 700])
def test_nothing_is_said_of_stacks(n_envs):
    envs = StackedEnvs(np.random.default_rng(0), "float", 4, n_envs, "zero")
    buffer = RainbowReplayBuffer(5_000, envs.space, spaces.Discrete(3), n_envs=n_envs, frame_stack=np.int64(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2_000 // n_envs + 2):
            buffer.add(*envs.step())
    assert buffer.storage._n_rows >= frames._JUDGED_ROWS


@pytest.mark.parametrize("frame_stack", [3, 0, -4, "four", 2.5])
def test_a_number_that_does_not_fit_is_refused(frame_stack):
    image = spaces.Box(0, 255, (4, 20, 20), np.uint8)
    with pytest.raises(ValueError, match=r'frame_stack=.*"auto", or None'):
        RainbowReplayBuffer(100, image, spaces.Discrete(2), frame_stack=frame_stack)
    with pytest.raises(ValueError, match=r'frame_stack=.*"auto", or None'):
        RainbowDictReplayBuffer(100, spaces.Dict({"image": image}), spaces.Discrete(2), frame_stack=frame_stack)


@pytest.mark.usefixtures("with_and_without_numba")
@given(
    n_frames=st.integers(1, 40),
    chunk_frames=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_a_pool_returns_what_was_appended(n_frames, chunk_frames, seed):
    rng = np.random.default_rng(seed)
    pool = FramePool((2, 3), np.uint8, chunk_frames)
    expected = rng.integers(0, 256, (n_frames, 2, 3), dtype=np.uint8)
    ids = np.concatenate([pool.append(some) for some in np.array_split(expected, rng.integers(1, 6))])
    np.testing.assert_array_equal(ids, np.arange(n_frames))
    chosen = rng.integers(-1, n_frames, (7, 3))
    twin = np.concatenate([expected, np.zeros((1, 2, 3), np.uint8)])
    np.testing.assert_array_equal(pool.gather(chosen), twin[chosen])
    pool.release_before(n_frames - 1)
    np.testing.assert_array_equal(pool.gather(np.array([[-1, n_frames - 1]]))[0, 1], expected[-1])
    assert len(pool._chunks) == 1
    if (n_frames - 1) // chunk_frames:
        with pytest.raises(LookupError):
            pool.gather(np.array([[0]]))
