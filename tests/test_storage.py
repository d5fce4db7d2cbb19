"""Observations come back as they were put, and memory is taken as they arrive."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rainbow import storage as module
from sb3_rainbow.frames import FrameStorage
from sb3_rainbow.storage import ArrayStorage, make_storage


@given(
    n_slots=st.integers(1, 20),
    n_envs=st.integers(1, 3),
    chunk_bytes=st.sampled_from([1, 64, 200, 10**6]),
    n_puts=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_equal_to_plain_arrays_whatever_the_chunks(n_slots, n_envs, chunk_bytes, n_puts, seed):
    rng = np.random.default_rng(seed)
    original, module._CHUNK_BYTES = module._CHUNK_BYTES, chunk_bytes
    try:
        storage = ArrayStorage(n_slots, n_envs, (2, 3), np.float32)
    finally:
        module._CHUNK_BYTES = original
    plain = np.zeros((2, n_slots, n_envs, 2, 3), dtype=np.float32)
    for step in range(n_puts):
        slot = step % n_slots
        plain[:, slot] = rng.standard_normal((2, n_envs, 2, 3))
        storage.put(slot, plain[0, slot], plain[1, slot], np.zeros(n_envs, dtype=bool))
    slots, envs = rng.integers(0, min(n_puts, n_slots), 16), rng.integers(0, n_envs, 16)
    np.testing.assert_array_equal(storage.get(slots, envs), plain[0, slots, envs])
    np.testing.assert_array_equal(storage.get_next(slots, envs), plain[1, slots, envs])


def test_memory_is_taken_in_chunks_as_rows_arrive():
    """A million frame stacks, 56 GB in two arrays: nothing at first, then a chunk of each."""
    storage = ArrayStorage(1_000_000, 1, (4, 84, 84), np.uint8)

    def taken():
        return sum(chunk.nbytes for array in vars(storage).values() for chunk in array.chunks)

    assert taken() == 0
    frames = np.zeros((1, 4, 84, 84), dtype=np.uint8)
    for slot in range(3000):
        storage.put(slot, frames, frames, np.zeros(1, dtype=bool))
    held = 3000 * 2 * 4 * 84 * 84
    assert held <= taken() <= held + 2 * module._CHUNK_BYTES


@pytest.mark.usefixtures("with_and_without_numba")
@pytest.mark.parametrize(("slot", "env"), [(-1, 0), (5, 0), (0, 2), (0, -1)])
@pytest.mark.parametrize("frame_stack", [None, 1])
def test_a_row_beyond_the_ring_is_not_another_one(slot, env, frame_stack):
    storage = make_storage(spaces.Box(0, 1, (3, 2)), (3, 2), 5, 2, frame_stack)
    for step in range(5):
        obs = np.full((2, 3, 2), step, np.float32)
        storage.put(step, obs, obs + 1, np.zeros(2, dtype=bool))
    for get in (storage.get, storage.get_next):
        with pytest.raises(IndexError, match="beyond the ends of the ring"):
            get(np.array([slot]), np.array([env]))
        assert get(np.array([4]), np.array([1])).shape == (1, 3, 2)


def test_a_row_that_was_not_written_is_not_another_one(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 24)
    storage = ArrayStorage(6, 1, (2,), np.float32)  # chunks of three
    for step in range(2):
        storage.put(step, np.ones((1, 2)), np.ones((1, 2)), np.zeros(1, dtype=bool))
    with pytest.raises(IndexError, match="beyond the ends of the ring"):
        storage.get(np.array([3]), np.array([0]))


def test_a_choice_that_was_interrupted_is_made_with_the_next_row(monkeypatch):
    space = spaces.Box(0, 255, (4, 12, 12), np.uint8)
    frames = np.random.default_rng(0).integers(0, 256, (200, 12, 12), dtype=np.uint8)
    storage, plain = (make_storage(space, space.shape, 150, 1, frame_stack) for frame_stack in ("auto", None))
    put, n_left = FrameStorage.put, [3]

    def interrupted(self, *args):
        n_left[0] -= 1
        if n_left[0] == 0:
            raise KeyboardInterrupt
        put(self, *args)

    monkeypatch.setattr(FrameStorage, "put", interrupted)
    for slot in range(150):
        row = frames[None, slot : slot + 4], frames[None, slot + 1 : slot + 5], np.zeros(1, dtype=bool)
        plain.put(slot, *row)
        try:
            storage.put(slot, *row)
        except KeyboardInterrupt:
            storage.put(slot, *row)  # as whoever goes on
    assert n_left[0] < 0
    assert isinstance(storage.chosen, FrameStorage)
    at = np.arange(150), np.zeros(150, dtype=int)
    np.testing.assert_array_equal(storage.get(*at), plain.get(*at))
    np.testing.assert_array_equal(storage.get_next(*at), plain.get_next(*at))


def test_what_is_returned_is_a_copy():
    storage = ArrayStorage(4, 1, (2,), np.float32)
    storage.put(0, np.ones((1, 2)), np.ones((1, 2)), np.zeros(1, dtype=bool))
    at = np.array([0]), np.array([0])
    storage.get(*at)[:] = 7
    np.testing.assert_array_equal(storage.get(*at), np.ones((1, 2)))


def test_dicts_are_stored_key_by_key():
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 8, 8), np.uint8), "place": spaces.Discrete(5)})
    storage = make_storage(space, {"image": (1, 8, 8), "place": (1,)}, n_slots=3, n_envs=2)
    obs = {"image": np.full((2, 1, 8, 8), 9, np.uint8), "place": np.array([[1], [4]])}
    next_obs = {"image": np.full((2, 1, 8, 8), 10, np.uint8), "place": np.array([[2], [0]])}
    storage.put(0, obs, next_obs, np.zeros(2, dtype=bool))
    got = storage.get_next(np.array([0, 0]), np.array([1, 0]))
    assert isinstance(got, dict)
    assert got["image"].dtype == np.uint8
    np.testing.assert_array_equal(got["place"], [[0], [2]])
    assert storage.get(np.array([0]), np.array([1]))["image"][0, 0, 0, 0] == 9


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_numbers_keep_their_type(dtype):
    storage = ArrayStorage(2, 1, (3,), dtype)
    storage.put(0, np.array([[1, 2, 3]]), np.array([[4, 5, 6]]), np.zeros(1, dtype=bool))
    assert storage.get(np.array([0]), np.array([0])).dtype == dtype


def test_batches_that_are_kept_are_not_written_over():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 1, 4, 40, 40), dtype=np.uint8)
    for make in (
        lambda: ArrayStorage(60, 1, (4, 40, 40), np.uint8),
        lambda: FrameStorage(60, 1, (4, 40, 40), np.uint8, 0, 4),
    ):
        storage = make()
        for slot, image in enumerate(images):
            storage.put(slot, image, image, np.zeros(1, dtype=bool))
        batches = []
        for _ in range(20):
            slots = rng.integers(0, 50, 32)
            batches.append((slots, storage.get(slots, np.zeros(32, dtype=int))))
        for slots, batch in batches:
            np.testing.assert_array_equal(batch, images[slots, 0])
