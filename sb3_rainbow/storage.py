"""First floor: where observations live. Storages know nothing of rewards and probabilities."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

Observation = np.ndarray | dict[str, np.ndarray]

# Bytes that are asked for at once. Large, so that most buffers of vectors are one array; small beside an Atari buffer.
_CHUNK_BYTES = 2**26


class Storage(Protocol):
    """Observations of a ring of slots, in each slot one of every env."""

    def put(self, slot: int, obs: Any, next_obs: Any, done: np.ndarray) -> None:
        """
        :param slot: row of the ring to write
        :param obs: (n_envs, *shape) or a dict of such arrays
        :param next_obs: the same, after the step; where an episode ended its true last observation
        :param done: (n_envs,) an episode ended with this step
        """

    def cut(self, envs: np.ndarray) -> None:
        """
        :param envs: these were reset without a done: what is put next does not follow what was put last
        """

    def get(self, slots: np.ndarray, envs: np.ndarray) -> Observation:
        """
        :param slots: (batch,)
        :param envs: (batch,)
        :return: a copy of the observations (batch, *shape), or a dict of such arrays
        """

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> Observation:
        """As ``get``, for the next observations."""

    @property
    def full_bytes(self) -> int:
        """Memory that it will have taken when every slot has been written, in bytes."""


class _ChunkedArray:
    """
    Rows of a ring, whose memory is taken chunk by chunk as rows are first written.

    :param n_slots: number of rows
    :param row_shape: shape of a row
    :param dtype: of the numbers
    """

    def __init__(self, n_slots: int, row_shape: tuple[int, ...], dtype: Any) -> None:
        self.row_shape, self.dtype = row_shape, np.dtype(dtype)
        row_bytes = int(np.prod(row_shape)) * self.dtype.itemsize
        self.n_slots = n_slots
        self.full_bytes = n_slots * row_bytes
        self.chunk_slots = min(max(_CHUNK_BYTES // max(row_bytes, 1), 1), n_slots)
        self.chunks: list[np.ndarray] = []

    def put(self, slot: int, row: np.ndarray) -> None:
        chunk, offset = divmod(slot, self.chunk_slots)
        while len(self.chunks) <= chunk:
            slots = min(self.chunk_slots, self.n_slots - len(self.chunks) * self.chunk_slots)
            self.chunks.append(np.zeros((slots, *self.row_shape), dtype=self.dtype))
        self.chunks[chunk][offset] = row

    def get(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        if len(self.chunks) == 1:
            return self.chunks[0][slots, envs]
        batch = np.empty((len(slots), *self.row_shape[1:]), dtype=self.dtype)
        chunks, offsets = np.divmod(slots, self.chunk_slots)
        for row, (chunk, offset, env) in enumerate(zip(chunks, offsets, envs, strict=True)):
            batch[row] = self.chunks[chunk][offset, env]
        return batch


class ArrayStorage:
    """
    Both observations of every transition, whole.

    :param n_slots: length of the ring
    :param n_envs: number of envs
    :param shape: of one observation
    :param dtype: of one observation
    """

    def __init__(self, n_slots: int, n_envs: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.observations = _ChunkedArray(n_slots, (n_envs, *shape), dtype)
        self.next_observations = _ChunkedArray(n_slots, (n_envs, *shape), dtype)

    def put(self, slot: int, obs: np.ndarray, next_obs: np.ndarray, done: np.ndarray) -> None:
        self.observations.put(slot, obs)
        self.next_observations.put(slot, next_obs)

    def cut(self, envs: np.ndarray) -> None:
        pass  # each row is whole: none depends on the one before

    def get(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self.observations.get(slots, envs)

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self.next_observations.get(slots, envs)

    @property
    def full_bytes(self) -> int:
        return self.observations.full_bytes + self.next_observations.full_bytes


class DictStorage:
    """
    A storage for each key of a Dict observation.

    :param storages: by key
    """

    def __init__(self, storages: Mapping[str, Storage]) -> None:
        self.storages = dict(storages)

    def put(self, slot: int, obs: dict[str, Any], next_obs: dict[str, Any], done: np.ndarray) -> None:
        for key, storage in self.storages.items():
            storage.put(slot, obs[key], next_obs[key], done)

    def cut(self, envs: np.ndarray) -> None:
        for storage in self.storages.values():
            storage.cut(envs)

    def get(self, slots: np.ndarray, envs: np.ndarray) -> dict[str, Any]:
        return {key: storage.get(slots, envs) for key, storage in self.storages.items()}

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> dict[str, Any]:
        return {key: storage.get_next(slots, envs) for key, storage in self.storages.items()}

    @property
    def full_bytes(self) -> int:
        return sum(storage.full_bytes for storage in self.storages.values())


def make_storage(space: spaces.Space, shape: Any, n_slots: int, n_envs: int) -> Storage:
    """
    The storage that suits a space. A storage of another kind (frame stacks, say) is chosen here.

    :param space: observation space
    :param shape: of one stored observation, as SB3's ``get_obs_shape`` gives it; a dict of shapes for a Dict space
    :param n_slots: length of the ring
    :param n_envs: number of envs
    :return: an empty storage, which has taken no memory yet
    """
    if isinstance(space, spaces.Dict):
        return DictStorage({key: make_storage(space[key], shape[key], n_slots, n_envs) for key in space.spaces})
    return ArrayStorage(n_slots, n_envs, shape, space.dtype)
