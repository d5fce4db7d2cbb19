"""
Second floor: a replay buffer's copy in the memory of a GPU, from which batches are drawn without the host.

Rows are the ids of ``sampling``: ``slot * n_envs + env``.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_rainbow.buffers import RainbowReplayBuffer
from sb3_rainbow.frames import FrameStorage
from sb3_rainbow.sampling import PrioritizedSampler, UniformSampler
from sb3_rainbow.storage import AutoStorage

_BLOCK = 1024  # leaves of which there is one sum
_COPIED_ROWS, _COPIED_BYTES = 2**14, 2**27  # at most these are on their way to the device at a time
_SPARE_BYTES = 2**30  # of the device's memory, left to networks and gradients
# What can be indexed on every device
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_SPARE_SHARE = 0.05  # of frames, more than expected, because episodes may become shorter


class DeviceBatch(NamedTuple):
    """As ``RainbowSamples``, but its discounts are 0 at a true terminal."""

    observations: th.Tensor  # (batch, *obs_shape)
    actions: th.Tensor  # (batch, 1)
    next_observations: th.Tensor  # after the window's last step
    returns: th.Tensor  # (batch, 1), of the window, without bootstrap
    discounts: th.Tensor  # (batch, 1), of the bootstrap
    weights: th.Tensor  # (batch, 1), importance weights, the largest is 1
    indices: th.Tensor  # (batch,), slot * n_envs + env


class DeviceReplay:
    """
    What is in a replay buffer, copied to a device and drawn there, with priorities of its own.

    The buffer goes on to hold everything: ``follow`` copies what came since, ``write_back`` hands it the priorities.

    :param buffer: one that ``suits`` accepts
    :param device: where the copy is
    """

    def __init__(self, buffer: RainbowReplayBuffer, device: th.device) -> None:
        self.buffer, self.device = buffer, device
        self.n_slots, self.n_envs = buffer.buffer_size, buffer.n_envs
        self.n_steps = buffer.n_steps
        n_rows = self.n_slots * self.n_envs
        kind = _StackedFrames if isinstance(_storage(buffer), FrameStorage) else _WholeObservations
        self.frames = kind(buffer, device)
        self.actions = self._zeros((n_rows, buffer.action_dim), _torch_type(buffer.actions.dtype))
        self.rewards = self._zeros((n_rows,), th.float32)
        self.ends, self.terminals = self._zeros((n_rows,), th.bool), self._zeros((n_rows,), th.bool)
        # Tensors, because a captured graph reads them again each time
        self.n_stored, self.newest = self._zeros((), th.int64), self._zeros((), th.int64)  # rows; a slot
        self.gamma, self.beta, self.max_priority = (self._zeros((), th.float64) for _ in range(3))
        self._last_gamma = self._last_beta = 0.0
        self._n_updates = buffer.sampler.n_updates
        self._copy(np.arange(buffer.pos - buffer.size(), buffer.pos) % self.n_slots)
        self._mark()
        self._follow_numbers()

        self.is_prioritized, self.alpha = isinstance(buffer.sampler, PrioritizedSampler), 0.0
        n_blocks = -(-n_rows // _BLOCK) if self.is_prioritized else 0
        self.leaves = self._zeros((n_blocks, _BLOCK), th.float64)  # priorities ** alpha; 0 where nothing is stored
        if isinstance(buffer.sampler, PrioritizedSampler):
            self.alpha = buffer.sampler.alpha
            self.max_priority.fill_(buffer.sampler.max_priority)
            self.leaves.view(-1)[:n_rows] = self._tensor(buffer.sampler.tree[np.arange(n_rows)])

    @staticmethod
    def suits(buffer: object) -> bool:
        """
        :param buffer: any replay buffer
        :return: whether it can be copied: something is stored in it, in a way that is known, and drawn in one, too
        """
        if type(buffer) is not RainbowReplayBuffer or buffer.size() == 0 or buffer.storage.full_bytes is None:
            return False
        is_known = type(buffer.sampler) in (UniformSampler, PrioritizedSampler)
        return is_known and str(buffer.observation_space.dtype) in _DTYPES

    @staticmethod
    def fits(buffer: RainbowReplayBuffer, device: th.device) -> bool:
        """
        :param buffer: one that ``suits`` accepts
        :param device: where its copy would be
        :return: whether there is room for it there; if not, the user is told
        """
        assert buffer.storage.full_bytes is not None
        n_rows = buffer.buffer_size * buffer.n_envs
        row_bytes = buffer.actions.itemsize * buffer.action_dim + 4 + 2  # the reward, and two flags of the end
        needed = int((1 + _SPARE_SHARE) * buffer.storage.full_bytes) + n_rows * row_bytes + buffer.sampler.full_bytes
        free = max(_free_bytes(device) - _SPARE_BYTES, 0)
        if needed < free:
            return True
        warnings.warn(
            f"buffer_size={n_rows}: a copy of the full replay buffer, {needed / 1e9:.1f} GB, does not fit into the "
            f"memory of {device}, of which {free / 1e9:.1f} GB are free: gradient steps are ordinary ones, which take "
            f"longer. About {int(n_rows * free / needed)} transitions would fit",
            stacklevel=6,
        )
        return False

    @property
    def is_current(self) -> bool:
        """Whether ``follow`` can copy what came since; otherwise another copy has to be made."""
        is_alike = self.n_steps == self.buffer.n_steps and not self._was_updated
        return self._goes_on and is_alike and self.frames.can_follow(self.buffer)

    @property
    def _was_updated(self) -> bool:
        """Whether the buffer was given priorities that are not known here"""
        return self.buffer.sampler.n_updates != self._n_updates

    @property
    def _goes_on(self) -> bool:
        """Whether transitions were added and nothing else was done to the buffer"""
        buffer, n_new = self.buffer, self._n_new
        is_whole = buffer.size() == min(self._size + n_new, self.n_slots)  # it was not emptied meanwhile
        return n_new <= self.n_slots and is_whole and buffer.pos == (self._pos + n_new) % self.n_slots

    @property
    def _n_new(self) -> int:
        return self.buffer.n_added - self._n_added

    def follow(self) -> None:
        """Copy what was added since, which enters at the highest priority so far, and the buffer's beta and gamma."""
        self._follow_numbers()
        n_new = self._n_new
        if not n_new:
            return
        slots = np.arange(self.buffer.pos - n_new, self.buffer.pos) % self.n_slots
        if self.is_prioritized:
            self.leaves.view(-1)[self._tensor(self._rows(slots))] = self.max_priority**self.alpha
        # Once more what was the newest one: since then it may have been truncated
        self._copy(np.append((slots[0] - 1) % self.n_slots, slots) if self.buffer.size() > n_new else slots)
        self._mark()  # last: whoever is interrupted copies them again

    def _follow_numbers(self) -> None:
        if self.buffer.beta != self._last_beta:
            self._last_beta = self.buffer.beta
            self.beta.fill_(self._last_beta)
        if self.buffer.gamma != self._last_gamma:
            self._last_gamma = self.buffer.gamma
            self.gamma.fill_(self._last_gamma)

    def write_back(self) -> None:
        """Give the buffer's sampler the priorities, but the highest alone where others were set there meanwhile."""
        buffer, sampler = self.buffer, self.buffer.sampler
        self.write_back_highest()
        if not isinstance(sampler, PrioritizedSampler) or self._was_updated:
            return
        new = np.arange(buffer.size())  # slots: all of them, where the buffer was emptied or has gone round
        if self._goes_on:
            new = np.arange(buffer.pos - self._n_new, buffer.pos) % self.n_slots
            kept = self._rows(np.arange(buffer.pos - buffer.size(), buffer.pos - self._n_new) % self.n_slots)
            sampler.tree.update(kept, self.leaves.view(-1)[self._tensor(kept)].cpu().numpy())
        if len(new):
            sampler.add(self._rows(new))

    def write_back_highest(self) -> None:
        """Give the buffer's sampler the highest priority seen."""
        sampler = self.buffer.sampler
        if isinstance(sampler, PrioritizedSampler):
            sampler.max_priority = max(sampler.max_priority, float(self.max_priority))

    def draw(self, batch_size: int) -> tuple[th.Tensor, ...]:
        """
        Draw a batch, with replacement, as ``RainbowReplayBuffer.sample`` does. Tensors only: it can be captured.

        :param batch_size: number of transitions
        :return: the fields of ``DeviceBatch``; a tuple, as compilers do not know all that named ones can do
        """
        rows, weights = self._draw_rows(batch_size)
        last, returns, discounts = self._windows(rows)
        discounts = th.where(self.terminals[last], 0.0, discounts)
        obs, next_obs = self.frames.observations(rows, 0), self.frames.observations(last, 1)
        return obs, self.actions[rows], next_obs, returns[:, None], discounts[:, None], weights[:, None], rows

    def _draw_rows(self, batch_size: int) -> tuple[th.Tensor, th.Tensor]:
        if not self.is_prioritized:
            rows = th.randint(2**62, (batch_size,), device=self.device) % self.n_stored
            return rows, th.ones(batch_size, device=self.device)
        # As the sum tree: one from each of batch_size equal shares of the total. First the block, then the leaf in it
        sums = self.leaves.sum(dim=1).cumsum(dim=0)
        # In 64 bits before they are added: in 32, the later shares of many rows would be too coarse to hit each row
        shares = th.arange(batch_size, device=self.device) + th.rand(batch_size, device=self.device).double()
        masses = (shares * (sums[-1] / batch_size)).unsqueeze(1)  # (batch, 1)
        blocks = (sums <= masses).sum(dim=1).clamp(max=len(sums) - 1)
        before = th.where(blocks > 0, sums[(blocks - 1).clamp(min=0)], 0.0)
        sums = self.leaves[blocks].cumsum(dim=1)  # (batch, 1024)
        leaves = (before.unsqueeze(1) + sums <= masses).sum(dim=1).clamp(max=_BLOCK - 1)
        # Rounding may lead a mass beyond its block's end; all rows up to the last one stored have priorities
        rows = (blocks * _BLOCK + leaves).minimum(self.n_stored - 1)
        drawn = self.leaves.view(-1)[rows]
        return rows, ((drawn / drawn.min()) ** -self.beta).float()

    def _windows(self, rows: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        :param rows: (batch,) where the windows start
        :return: the last row of each, its return, and its discount gamma**k; (batch,) each
        """
        last, returns, discounts = rows, self.rewards[rows], self.gamma.float().expand(len(rows))
        for step in range(1, self.n_steps):
            is_open = ~self.ends[last] & (last // self.n_envs != self.newest)
            # What was open once and is not any more stays at its last row, which ends it again
            last = th.where(is_open, (last + self.n_envs) % len(self.rewards), last)
            returns = th.where(is_open, returns + (self.gamma**step).float() * self.rewards[last], returns)
            discounts = th.where(is_open, (self.gamma ** (step + 1)).float(), discounts)
        return last, returns, discounts

    def set_priorities(self, rows: th.Tensor, priorities: th.Tensor, allowed: th.Tensor) -> None:
        """
        :param rows: (batch,) as drawn
        :param priorities: (batch,) above 0, before the exponent
        :param allowed: whether anything is changed, a scalar tensor
        """
        if self.is_prioritized:
            leaves = self.leaves.view(-1)
            leaves[rows] = th.where(allowed, priorities.double() ** self.alpha, leaves[rows])
            highest = th.where(allowed, priorities.max().double(), 0.0)
            self.max_priority.copy_(self.max_priority.maximum(highest))

    def _copy(self, slots: np.ndarray) -> None:
        buffer = self.buffer
        row_bytes = (buffer.storage.full_bytes or 0) // len(self.rewards)
        n_at_once = max(min(_COPIED_ROWS, _COPIED_BYTES // max(row_bytes, 1)) // self.n_envs, 1)
        for start in range(0, len(slots), n_at_once):
            some = slots[start : start + n_at_once]
            rows = self._rows(some)
            self.frames.copy(rows)
            at = self._tensor(rows)
            self.actions[at] = self._tensor(buffer.actions[some].reshape(len(rows), -1))
            self.rewards[at] = self._tensor(buffer.rewards[some].reshape(-1))
            dones, timeouts = buffer.dones[some].reshape(-1) != 0, buffer.timeouts[some].reshape(-1) != 0
            self.ends[at] = self._tensor(dones | timeouts)
            self.terminals[at] = self._tensor(dones & ~timeouts)
        self.n_stored.fill_(buffer.size() * self.n_envs)
        self.newest.fill_((buffer.pos - 1) % self.n_slots)

    def _mark(self) -> None:
        """Note what of the buffer is here."""
        self._pos, self._size, self._n_added = self.buffer.pos, self.buffer.size(), self.buffer.n_added

    def _rows(self, slots: np.ndarray) -> np.ndarray:
        return (slots[:, None] * self.n_envs + np.arange(self.n_envs)).reshape(-1)

    def _zeros(self, shape: tuple[int, ...], dtype: th.dtype) -> th.Tensor:
        return th.zeros(shape, dtype=dtype, device=self.device)

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.from_numpy(array).to(self.device)


class _WholeObservations:
    """
    Both observations of every row.

    :param buffer: whose storage has them
    :param device: where the copy is
    """

    def __init__(self, buffer: RainbowReplayBuffer, device: th.device) -> None:
        self.storage = _storage(buffer)
        self.n_envs = buffer.n_envs
        one = self.storage.get(*np.zeros((2, 1), dtype=np.int64))
        n_rows = buffer.buffer_size * buffer.n_envs
        self.rows = th.zeros((2, n_rows, *one.shape[1:]), dtype=_torch_type(one.dtype), device=device)

    def can_follow(self, buffer: RainbowReplayBuffer) -> bool:
        return self.storage is _storage(buffer)

    def copy(self, rows: np.ndarray) -> None:
        """
        :param rows: (n,) ``slot * n_envs + env``, in the order in which they were stored
        """
        at = np.divmod(rows, self.n_envs)
        for which, get in enumerate((self.storage.get, self.storage.get_next)):
            self.rows[which, th.from_numpy(rows)] = th.from_numpy(get(*at)).to(self.rows.device)

    def observations(self, rows: th.Tensor, which: int) -> th.Tensor:
        """
        :param rows: (batch,)
        :param which: 0: the observations, 1: the next ones
        :return: (batch, *obs_shape)
        """
        return self.rows[which, rows]


class _StackedFrames:
    """
    Frames in a ring, and which of them are stacked in each row's observations.

    :param buffer: whose storage has them
    :param device: where the copy is
    """

    def __init__(self, buffer: RainbowReplayBuffer, device: th.device) -> None:
        self.storage: Any = _storage(buffer)
        self.n_envs = buffer.n_envs
        pool = self.storage.pool
        self._next_id = self.storage.oldest_frame(_oldest_slot(buffer))  # of the frame to be copied
        n_expected = max(self.storage.full_bytes / pool.frame_bytes, pool.next_id - self._next_id)
        self.n_frames = int((1 + _SPARE_SHARE) * n_expected) + 1
        # The last one is the frame of zeros
        self.frames = th.zeros((self.n_frames + 1, *pool.frame_shape), dtype=_torch_type(pool.dtype), device=device)
        n_rows = buffer.buffer_size * buffer.n_envs
        self.places = th.zeros((2, n_rows, self.storage.n_frames), dtype=th.int32, device=device)

    def can_follow(self, buffer: RainbowReplayBuffer) -> bool:
        n_needed = self.storage.pool.next_id - self.storage.oldest_frame(_oldest_slot(buffer))
        return self.storage is _storage(buffer) and n_needed <= self.n_frames

    def copy(self, rows: np.ndarray) -> None:
        ids = self.storage.frame_ids(*np.divmod(rows, self.n_envs))  # (n, 2, n_stacked)
        # Ids rise from row to row: those up to the highest came with these rows
        fresh = np.arange(self._next_id, max(self._next_id, int(ids.max()) + 1))
        if len(fresh):
            frames = self.storage.pool.gather(fresh.reshape(-1, 1)).squeeze(1)
            self._put(self.frames, fresh % self.n_frames, frames)
            self._next_id += len(fresh)
        places = np.where(ids < 0, self.n_frames, ids % self.n_frames).astype(np.int32)
        for which in (0, 1):
            self._put(self.places[which], rows, places[:, which])

    @staticmethod
    def _put(target: th.Tensor, at: np.ndarray, values: np.ndarray) -> None:
        target[th.from_numpy(at).to(target.device)] = th.from_numpy(values).to(target.device)

    def observations(self, rows: th.Tensor, which: int) -> th.Tensor:
        # In 64 bits: compiled code multiplies by the size of a frame before it widens
        return self.storage.stacked(self.frames[self.places[which, rows].long()])


def _storage(buffer: RainbowReplayBuffer) -> Any:
    return buffer.storage.chosen if isinstance(buffer.storage, AutoStorage) else buffer.storage


def _free_bytes(device: th.device) -> float:
    if device.type != "cuda":
        return np.inf
    kept = th.cuda.memory_reserved(device) - th.cuda.memory_allocated(device)  # by torch, of what is free
    return th.cuda.mem_get_info(device)[0] + kept


def _oldest_slot(buffer: RainbowReplayBuffer) -> int:
    return buffer.pos if buffer.full else 0


def _torch_type(dtype: np.dtype) -> th.dtype:
    return th.from_numpy(np.empty(0, dtype=dtype)).dtype
