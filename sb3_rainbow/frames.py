"""Ground floor: stacks of frames, of which each frame is kept once."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from sb3_rainbow import loops
from sb3_rainbow.memory import ReusedArrays
from sb3_rainbow.returns import ids_of

# Memory is asked for in chunks: up to two more than it needs are held. So a chunk is at most so many bytes, and a small
# part of the buffer, but of so many frames at least: a stack of one of many envs is quickly read within a chunk. More
# bytes than memory.py has malloc keep, so that a large replay goes back to the system
_CHUNK_BYTES, _CHUNK_PART, _CHUNK_FRAMES = 2**24 + 2**21, 128, 256
_ZERO = -1  # the id of the frame of zeros, which is not kept at all
# Over so many rows it is judged how many frames they take, and said, once, when most had to be kept whole
_JUDGED_ROWS = 1_000


class FramePool:
    """
    Frames in the order in which they came. Memory is taken and used again chunk by chunk.

    :param frame_shape: shape of a frame
    :param dtype: of its numbers
    :param capacity: about so many frames are alive at a time
    """

    # The number of the first chunk, and where each is in memory, as far as was asked for
    _addresses: tuple[int, np.ndarray] = (0, np.empty(0, dtype=np.int64))

    def __init__(self, frame_shape: tuple[int, ...], dtype: Any, capacity: int) -> None:
        self.frame_shape, self.dtype = frame_shape, np.dtype(dtype)
        self.frame_bytes = int(np.prod(frame_shape)) * self.dtype.itemsize
        largest = min(_CHUNK_BYTES // max(self.frame_bytes, 1), max(capacity // _CHUNK_PART, _CHUNK_FRAMES), capacity)
        self.chunk_frames = max(largest, 1)
        self.next_id = 0
        self._chunks: dict[int, np.ndarray] = {}  # by number, id // chunk_frames, in ascending order
        self._spare: list[np.ndarray] = []
        self._reused = ReusedArrays()

    def append(self, frames: np.ndarray) -> np.ndarray:
        """
        :param frames: (n, *frame_shape)
        :return: (n,) int64 ids, ascending
        """
        ids = np.arange(self.next_id, self.next_id + len(frames))
        done = 0
        while done < len(frames):
            number, offset = divmod(self.next_id, self.chunk_frames)
            if number not in self._chunks:
                shape = (self.chunk_frames, *self.frame_shape)
                self._chunks[number] = self._spare.pop() if self._spare else np.zeros(shape, dtype=self.dtype)
            some = frames[done : done + self.chunk_frames - offset]
            self._chunks[number][offset : offset + len(some)] = some
            self.next_id += len(some)
            done += len(some)
        return ids

    def release_before(self, first_id: int) -> None:
        """
        :param first_id: the frames before this one will not be read any more
        """
        while (oldest := next(iter(self._chunks), first_id)) < first_id // self.chunk_frames:
            self._spare.append(self._chunks.pop(oldest))

    def gather(self, ids: np.ndarray) -> np.ndarray:
        """
        :param ids: (n, k) ids of stacks of k frames
        :return: (n, k, *frame_shape), a copy
        """
        stacks = self._reused.empty((*ids.shape, *self.frame_shape), self.dtype)
        if loops.IS_COMPILED:
            out = stacks.reshape(-1).view(np.uint8)
            loops.copy_frames(*self._chunk_addresses(), self.chunk_frames, self.frame_bytes, ids.reshape(-1), out)
            return stacks
        # Most stacks are evenly spaced frames of one chunk, which one slice copies
        steps = ids[:, 1:] - ids[:, :-1]
        is_slice = ((steps == steps[:, :1]) & (steps > 0)).all(axis=1) & (ids[:, 0] != _ZERO)
        for row, (stack, sliced) in enumerate(zip(ids.tolist(), is_slice.tolist(), strict=True)):
            number, first = divmod(stack[0], self.chunk_frames)
            end = first + stack[-1] - stack[0] + 1
            if sliced and end <= self.chunk_frames:
                step = stack[1] - stack[0] if len(stack) > 1 else 1
                stacks[row] = self._chunks[number][first:end:step]
                continue
            for column, frame in enumerate(stack):
                number, offset = divmod(frame, self.chunk_frames)
                stacks[row, column] = 0 if frame == _ZERO else self._chunks[number][offset]
        return stacks

    def _chunk_addresses(self) -> tuple[int, np.ndarray]:
        # Another thread may add chunks meanwhile: what is kept says which chunks it is of
        first = next(iter(self._chunks), 0)
        if self._addresses[0] != first or len(self._addresses[1]) != len(self._chunks):
            addresses = [chunk.ctypes.data for chunk in list(self._chunks.values())]
            self._addresses = first, np.array(addresses, dtype=np.int64)
        return self._addresses

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_addresses"}  # a copy's are elsewhere


class FrameStorage:
    """
    Observations that are stacks of the last frames, of which each frame is kept once.

    Nothing is taken on trust: an observation that is not the one before it moved on by a frame (after a reset, or where
    an env stacks only sometimes) is kept whole, but for frames of zeros and repeated ones. So what is read equals what
    was put, byte for byte.

    :param n_slots: length of the ring
    :param n_envs: number of envs
    :param shape: of one observation
    :param dtype: of one observation
    :param axis: along which frames are stacked
    :param n_frames: number of frames in a stack; with 1 a row shares its next observation with the row that follows
    :param newest_first: the newest frame is the first of a stack, not the last
    """

    def __init__(
        self,
        n_slots: int,
        n_envs: int,
        shape: tuple[int, ...],
        dtype: Any,
        axis: int,
        n_frames: int,
        newest_first: bool = False,
    ) -> None:
        self.n_slots, self.n_envs, self.shape, self.axis, self.n_frames = n_slots, n_envs, shape, axis, n_frames
        self._order = -1 if newest_first else 1  # of the frames, oldest first
        # A stack of k frames of c channels each is (..., k, c, ...)
        self._split = (*shape[:axis], n_frames, shape[axis] // n_frames, *shape[axis + 1 :])
        self.pool = FramePool(self._split[:axis] + self._split[axis + 1 :], dtype, n_slots * n_envs)
        # For each row the ids of its observation's frames and of its next observation's: in each slot the first id
        # that came later, for each frame how far before that it is; 0 for a frame of zeros.
        self._ends = np.zeros(n_slots, dtype=np.int64)
        self._ages = np.zeros((n_slots, n_envs, 2, n_frames), dtype=_age_type(n_envs, n_frames))
        self._newest: np.ndarray | None = None  # (n_envs, n_frames, *frame_shape), what was put as next observation
        self._newest_ids = np.full((n_envs, n_frames), _ZERO)
        self._first_frames = self._n_rows = 0  # frames of the first rows; rows put since then
        self._watched_frames = self._n_watched = 0  # frames before the rows that are looked at; number of these rows
        self._has_warned = False

    def put(self, slot: int, obs: np.ndarray, next_obs: np.ndarray, done: np.ndarray) -> None:
        stacks, next_stacks = self._stacks(obs), self._stacks(next_obs)
        ids = self._newest_ids.copy()
        continues = np.zeros(self.n_envs, dtype=bool) if self._newest is None else _equal(stacks, self._newest, 1)
        if not continues.all():
            ids[~continues] = self._append_whole(stacks[~continues])
        moves_on = _equal(next_stacks[:, :-1], stacks[:, 1:], 1)
        next_ids = np.empty_like(ids)
        next_ids[:, :-1] = ids[:, 1:]
        if moves_on.all():
            next_ids[:, -1] = self.pool.append(next_stacks[:, -1])
        else:
            next_ids[moves_on, -1] = self.pool.append(next_stacks[moves_on, -1])
            next_ids[~moves_on] = self._append_whole(next_stacks[~moves_on])
        is_first, self._newest, self._newest_ids = self._newest is None, next_stacks.copy(order="K"), next_ids

        both = np.stack((ids, next_ids), axis=1)  # (n_envs, 2, n_frames)
        ages = np.where(both == _ZERO, 0, self.pool.next_id - both)
        if ages.max() > np.iinfo(self._ages.dtype).max:  # rows that were interrupted have brought frames, too
            self._ages = self._ages.astype(np.uint32)
        self._ends[slot], self._ages[slot] = self.pool.next_id, ages
        # Ids rise along the ring, so that no later row needs what is older than the oldest row's oldest frame
        oldest = (slot + 1) % self.n_slots
        self.pool.release_before(self.oldest_frame(oldest))
        if is_first:
            self._first_frames = self._watched_frames = self.pool.next_id
        else:
            self._n_rows += self.n_envs
            self._watch()

    def get(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self._gather(slots, envs, 0)

    def get_next(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self._gather(slots, envs, 1)

    def oldest_frame(self, slot: int) -> int:
        """
        :param slot: the oldest one of the ring
        :return: frames before this one are not needed any more
        """
        return int(self._ends[slot] - self._ages[slot].max())

    def frame_ids(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """
        :param slots: (n,) that were written
        :param envs: (n,)
        :return: (n, 2, n_frames) the frames of ``pool`` that make up each observation and its next one, in the order in
            which they are stacked; -1 for a frame of zeros
        """
        ages = self._ages[slots, envs].astype(np.int64)
        return np.where(ages == 0, _ZERO, self._ends[slots][:, None, None] - ages)[..., :: self._order]

    def stacked(self, frames: Any) -> Any:
        """
        :param frames: (batch, n_frames, *frame_shape) in the order of ``frame_ids``, an array or a tensor
        :return: observations (batch, *shape)
        """
        axes = list(range(frames.ndim))
        axes.insert(self.axis + 1, axes.pop(1))
        frames = frames.transpose(axes) if isinstance(frames, np.ndarray) else frames.permute(axes)
        return frames.reshape(-1, *self.shape)

    @property
    def full_bytes(self) -> int:
        n_frames = 1.0
        if self._n_rows >= _JUDGED_ROWS:  # if rows are kept whole, and episodes end, as often as so far
            n_frames = max((self.pool.next_id - self._first_frames) / self._n_rows, 1)
        n_frames = n_frames * self.n_slots * self.n_envs + 2 * self.pool.chunk_frames
        return int(n_frames * self.pool.frame_bytes) + self._ends.nbytes + self._ages.nbytes

    def _gather(self, slots: np.ndarray, envs: np.ndarray, which: int) -> np.ndarray:
        if loops.IS_COMPILED:
            ids = loops.find_frames(self._ends, self._ages, slots, envs, which)[:, :: self._order]
        else:
            ids_of(slots, envs, self._ages.shape[:2])
            ids = self.frame_ids(slots, envs)[:, which]
        return self.stacked(self.pool.gather(ids))

    def _stacks(self, obs: np.ndarray) -> np.ndarray:
        """(n_envs, *shape) -> (n_envs, n_frames, *frame_shape), oldest first"""
        return np.moveaxis(obs.reshape(-1, *self._split), self.axis + 1, 1)[:, :: self._order]

    def _watch(self) -> None:
        self._n_watched += self.n_envs
        if self._n_watched < _JUDGED_ROWS:
            return
        frames_per_row = (self.pool.next_id - self._watched_frames) / self._n_watched
        # A row takes one frame, or up to all of both observations where neither follows from the one before
        if not self._has_warned and frames_per_row > (self.n_frames + 2) / 2:
            self._has_warned = True
            warnings.warn(
                f"most of the last {self._n_watched} observations of shape {self.shape} did not follow from the one "
                f"before by a new frame, as stacks of {self.n_frames} frames do, and are kept whole: "
                f"{frames_per_row:.1f} frames for each. If that goes on, write "
                f"replay_buffer_kwargs=dict(frame_stack=None), which keeps {2 * self.n_frames} for each and takes "
                'less time; or, where it is a number now, frame_stack="auto", which finds stacks of any order',
                stacklevel=2,
            )
        self._watched_frames, self._n_watched = self.pool.next_id, 0

    def _append_whole(self, stacks: np.ndarray) -> np.ndarray:
        """
        :param stacks: (n, n_frames, *frame_shape)
        :return: (n, n_frames) ids. Padding, zeros or a frame that is repeated, takes no memory.
        """
        is_zero = _equal(stacks, np.zeros((), dtype=stacks.dtype), 2)
        repeats = np.zeros_like(is_zero)
        repeats[:, 1:] = _equal(stacks[:, 1:], stacks[:, :-1], 2)
        is_new = ~is_zero & ~repeats
        ids = np.full(is_zero.shape, _ZERO)
        ids[is_new] = self.pool.append(stacks[is_new])
        for column in range(1, self.n_frames):
            ids[:, column] = np.where(repeats[:, column], ids[:, column - 1], ids[:, column])
        return ids


def frame_storage_bytes(observation_bytes: int, n_envs: int, n_frames: int) -> int:
    """
    :param observation_bytes: of one observation
    :param n_envs: number of envs
    :param n_frames: number of frames in an observation
    :return: bytes that ``FrameStorage`` needs for a transition: a frame, and what finds it. One that does not follow
        from the one before needs up to ``2 * n_frames`` frames
    """
    return observation_bytes // n_frames + 2 * n_frames * _age_type(n_envs, n_frames).itemsize + 8


def _age_type(n_envs: int, n_frames: int) -> np.dtype:
    # A row's frames came with its own put or with one of as many before it as a stack has frames, each of which has
    # brought both stacks of every env at most
    return np.min_scalar_type(min((n_frames + 1) * 2 * n_frames * n_envs, 2**32 - 1))


class Stacking(NamedTuple):
    """How frames may be stacked in an observation."""

    axis: int
    n_frames: int
    newest_first: bool

    def explains(self, obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
        """
        :param obs: (n_envs, *shape)
        :param next_obs: (n_envs, *shape)
        :return: (n_envs,) whether all frames but the newest were there before
        """
        width = obs.shape[self.axis + 1] // self.n_frames
        old, new = np.moveaxis(obs, self.axis + 1, 1), np.moveaxis(next_obs, self.axis + 1, 1)
        if self.newest_first:
            old, new = new, old
        return _equal(new[:, :-width], old[:, width:], 1)


def possible_stackings(shape: tuple[int, ...]) -> list[Stacking]:
    """
    :param shape: of an observation
    :return: what it may be a stack of, likelier ones first: short axes, single channels, the newest frame last
    """
    return [
        Stacking(axis, n_frames, newest_first)
        for axis in sorted(range(len(shape)), key=shape.__getitem__)
        for n_frames in range(shape[axis], 1, -1)
        if shape[axis] % n_frames == 0
        for newest_first in (False, True)
    ]


def _equal(left: np.ndarray, right: np.ndarray, n_axes: int) -> np.ndarray:
    """Equality byte for byte (0.0 is not -0.0, NaN is NaN), over all axes but the first ``n_axes``."""
    if np.issubdtype(left.dtype, np.floating):
        bits = np.dtype(f"u{left.dtype.itemsize}")
        left, right = left.view(bits), right.view(bits)
    return (left == right).all(axis=tuple(range(n_axes, left.ndim)))
