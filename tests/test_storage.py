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
