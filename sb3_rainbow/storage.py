"""First floor: where observations live. Storages know nothing of rewards and probabilities."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from sb3_rainbow.arguments import whole_number
from sb3_rainbow.frames import FrameStorage, Stacking, frame_storage_bytes, possible_stackings
from sb3_rainbow.memory import ReusedArrays
from sb3_rainbow.returns import ids_of

Observation = np.ndarray | dict[str, np.ndarray]

# Bytes that are asked for at once. Large, so that most buffers of vectors are one array; small beside an Atari buffer.
_CHUNK_BYTES = 2**26
# Stacks of frames are looked for until so many observations have moved,
_JUDGED_ROWS = 100
# but in no more slots than this, nor than the first chunks have. What has not moved by then is judged when it does,
# if it is large enough to be a frame.
_JUDGED_SLOTS, _JUDGED_CHUNKS = 1000, 4
# From this size on, an image that is no stack is a frame by itself: a row's next one is the next row's. Smaller ones
# are drawn faster when they are kept twice
_FRAME_BYTES = 2**12
_SINGLE_FRAME = Stacking(axis=0, n_frames=1, newest_first=False)
_REMEDY = 'write the number of frames, which divides an axis, "auto", or None for no frame stacks'


class Storage(Protocol):
    """Observations of a ring of slots, in each slot one of every env."""

    def put(self, slot: int, obs: Any, next_obs: Any, done: np.ndarray) -> None:
        """
        :param slot: row of the ring to write
        :param obs: (n_envs, *shape) or a dict of such arrays
        :param next_obs: the same, after the step; where an episode ended its true last observation
        :param done: (n_envs,) an episode ended with this step, for storages that do not see it by the observations
        """

    def get(self, slots: np.ndarray, envs: np.ndarray) -> Observation:
        """
        :param slots: (batch,)
        :param envs: (batch,)
        :return: a copy of the observations (batch, *shape), or a dict of such arrays
        :raises IndexError: on a transition that is beyond the ends of the ring
        """

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> Observation:
        """As ``get``, for the next observations."""

    @property
    def full_bytes(self) -> int | None:
        """Memory that it will have taken when every slot has been written, in bytes; None while that is open."""


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
        self._reused = ReusedArrays()

    def put(self, slot: int, row: np.ndarray) -> None:
        chunk, offset = divmod(slot, self.chunk_slots)
        while len(self.chunks) <= chunk:
            slots = min(self.chunk_slots, self.n_slots - len(self.chunks) * self.chunk_slots)
            self.chunks.append(np.zeros((slots, *self.row_shape), dtype=self.dtype))
        self.chunks[chunk][offset] = row

    def get(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        n_envs, *shape = self.row_shape
        ids = ids_of(slots, envs, (sum(map(len, self.chunks)), n_envs))
        batch = self._reused.empty((len(slots), *shape), self.dtype)
        if len(self.chunks) == 1:
            rows = self.chunks[0].reshape(len(self.chunks[0]) * n_envs, *shape)
            return rows.take(ids, axis=0, out=batch, mode="clip")  # "raise" would copy
        columns = (*np.divmod(slots, self.chunk_slots), envs)
        for row, (chunk, offset, env) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
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

    def get(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self.observations.get(slots, envs)

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self.next_observations.get(slots, envs)

    @property
    def full_bytes(self) -> int:
        return self.observations.full_bytes + self.next_observations.full_bytes


class AutoStorage:
    """
    Finds out from the first observations whether they are stacks of frames, or single ones, and keeps each frame once.

    Wrappers need not be known for that: what an env stacks by itself, or in another process, is found as well.

    :param n_slots: length of the ring
    :param n_envs: number of envs
    :param shape: of one observation
    :param dtype: of one observation
    """

    _guess: Stacking | None = None  # chosen last; what was chosen before anything moved is judged again
    _newest_slot = _n_slots = 0  # written last; number written since the ring was last emptied

    def __init__(self, n_slots: int, n_envs: int, shape: tuple[int, ...], dtype: Any) -> None:
        self._ring = n_slots, n_envs, shape, dtype
        self.chosen: ArrayStorage | FrameStorage = ArrayStorage(*self._ring)
        observation_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._is_frame = len(shape) > 1 and observation_bytes >= _FRAME_BYTES
        # How many observations each stacking explains, of those that save at least half of the memory
        self._explained = {
            stacking: 0
            for stacking in possible_stackings(shape)
            if frame_storage_bytes(observation_bytes, n_envs, stacking.n_frames) <= observation_bytes
        }
        self._n_judged = 0
        self._is_open = bool(self._explained)

    def put(self, slot: int, obs: np.ndarray, next_obs: np.ndarray, done: np.ndarray) -> None:
        self.chosen.put(slot, obs, next_obs, done)
        if self._is_open:
            self._judge(obs, next_obs)
            is_open = self._n_judged < _JUDGED_ROWS
            if isinstance(self.chosen, ArrayStorage):
                most_slots = min(_JUDGED_CHUNKS * self.chosen.observations.chunk_slots, _JUDGED_SLOTS, self._ring[0])
                is_open &= slot + 1 < most_slots
            self._count(slot)
            if not is_open:
                self._choose(obs, next_obs)
            # Last: an interruption leaves the choice for the next row
            self._is_open = is_open or (isinstance(self.chosen, FrameStorage) and not self._n_judged)

    def _count(self, slot: int) -> None:
        """Nobody tells a storage that the ring was emptied: then frames of older rows may be gone."""
        if self._n_slots and slot == (self._newest_slot + 1) % self._ring[0]:
            self._n_slots = min(self._n_slots + 1, self._ring[0])
        elif not self._n_slots or slot != self._newest_slot:  # equal: a row that is put again, after an interruption
            self._n_slots = slot + 1
        self._newest_slot = slot

    def _judge(self, obs: np.ndarray, next_obs: np.ndarray) -> None:
        telling = (obs != next_obs).any(axis=tuple(range(1, obs.ndim)))
        if telling.any():
            self._n_judged += int(telling.sum())
            for stacking in self._explained:
                self._explained[stacking] += int((stacking.explains(obs, next_obs) & telling).sum())

    def _choose(self, obs: np.ndarray, next_obs: np.ndarray) -> None:
        explained, n_judged = self._explained, self._n_judged
        if not n_judged and self._is_frame:  # frames that stand still are alike
            explained = {each: int(each.explains(obs, next_obs).sum()) for each in explained}
            n_judged = len(obs)
        stacking = max(explained, key=explained.__getitem__)
        if 2 * explained[stacking] <= n_judged:  # it does not explain most
            if not self._is_frame:
                return
            stacking = _SINGLE_FRAME
        if isinstance(self.chosen, FrameStorage) and stacking == self._guess:
            return
        frames = FrameStorage(*self._ring, *stacking)
        envs = np.arange(frames.n_envs)
        for slot in (np.arange(self._newest_slot + 1 - self._n_slots, self._newest_slot + 1) % self._ring[0]).tolist():
            at = np.full_like(envs, slot), envs
            frames.put(slot, self.chosen.get(*at), self.chosen.get_next(*at), np.zeros(len(envs), dtype=bool))
        self.chosen, self._guess = frames, stacking

    def get(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self.chosen.get(slots, envs)

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self.chosen.get_next(slots, envs)

    @property
    def full_bytes(self) -> int | None:
        return None if self._is_open and isinstance(self.chosen, ArrayStorage) else self.chosen.full_bytes


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

    def get(self, slots: np.ndarray, envs: np.ndarray) -> dict[str, Any]:
        return {key: storage.get(slots, envs) for key, storage in self.storages.items()}

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> dict[str, Any]:
        return {key: storage.get_next(slots, envs) for key, storage in self.storages.items()}

    @property
    def full_bytes(self) -> int | None:
        sizes = [storage.full_bytes for storage in self.storages.values()]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def make_storage(
    space: spaces.Space, shape: Any, n_slots: int, n_envs: int, frame_stack: int | str | None = "auto"
) -> Storage:
    """
    The storage that suits a space.

    :param space: observation space
    :param shape: of one stored observation, as SB3's ``get_obs_shape`` gives it; a dict of shapes for a Dict space
    :param n_slots: length of the ring
    :param n_envs: number of envs
    :param frame_stack: "auto", the number of frames in a stack, or None to keep every observation whole
    :return: an empty storage, which has taken no memory yet
    :raises ValueError: when no observation can be a stack of that number of frames
    """
    if isinstance(space, spaces.Dict):
        storages = {
            key: make_storage(space[key], shape[key], n_slots, n_envs, _for_key(shape[key], frame_stack))
            for key in space.spaces
        }
        if frame_stack not in (None, "auto") and not any(isinstance(s, FrameStorage) for s in storages.values()):
            raise ValueError(f"frame_stack={frame_stack!r} fits no image of the observation space {space}: {_REMEDY}")
        return DictStorage(storages)
    ring = n_slots, n_envs, shape, space.dtype
    if frame_stack is None:
        return ArrayStorage(*ring)
    if frame_stack == "auto":
        return AutoStorage(*ring)
    stacking = _stacking_of(shape, frame_stack)
    if stacking is None:
        raise ValueError(f"frame_stack={frame_stack!r} does not fit observations of shape {shape}: {_REMEDY}")
    return FrameStorage(*ring, *stacking)


def _stacking_of(shape: tuple[int, ...], frame_stack: Any) -> Stacking | None:
    n_frames = whole_number("frame_stack", frame_stack, 1, hint=_REMEDY)
    if n_frames == 1:
        return _SINGLE_FRAME
    return next((stacking for stacking in possible_stackings(shape) if stacking.n_frames == n_frames), None)


def _for_key(shape: tuple[int, ...], frame_stack: int | str | None) -> int | str | None:
    """A number is that of the images; vectors may be stacks by chance alone."""
    if frame_stack in (None, "auto") or (len(shape) > 1 and _stacking_of(shape, frame_stack)):
        return frame_stack
    return None
