"""Ground floor: a sum tree. Priorities in, to the power of alpha, indices out."""

from typing import Protocol

import numpy as np

from sb3_rainbow import loops
from sb3_rainbow.arguments import whole_number
from sb3_rainbow.loops import WIDTH

# Children of the top node, at most: it is read once for a whole batch, and searched by bisection.
_TOP_WIDTH = 2048
_LARGEST = float(np.finfo(np.float64).max) / 2  # of the sum of all leaves, however it is rounded


class RandomSource(Protocol):
    """What drawing needs: ``numpy.random`` itself (SB3 seeds it) or a ``numpy.random.RandomState``."""

    def randint(self, low: int, high: int, size: int) -> np.ndarray: ...

    def random_sample(self, size: int) -> np.ndarray: ...


class SumTree:
    """
    Non-negative numbers of which one is drawn with probability proportional to its size.

    Every node is the sum of its 32 children, the top node of up to 2048, in float64. An update writes leaves and sums
    their parents afresh, so no rounding error is carried from one update to the next. All methods work on batches.

    Paper: https://arxiv.org/abs/1511.05952, appendix B.2.1

    :param capacity: number of leaves, at least 1; need not be a power of two. 8.3 bytes each.
    :raises ValueError: on a capacity below 1
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity = whole_number("capacity", capacity, 1)
        # _levels[0] holds the leaves, each later level the sums of the one before, the last is the top node.
        # Rows are nodes, columns their children. np.zeros maps pages as they are written to.
        self._levels: list[np.ndarray] = [np.zeros((-(-capacity // WIDTH), WIDTH))]
        while len(self._levels[-1]) > _TOP_WIDTH:
            self._levels.append(np.zeros((-(-len(self._levels[-1]) // WIDTH), WIDTH)))
        self._levels.append(np.zeros(len(self._levels[-1])))
        self._top_sums: np.ndarray | None = None  # running sums of the top node; None as long as it is empty

    def __len__(self) -> int:
        return self.capacity

    def __getitem__(self, indices: np.ndarray | int) -> np.ndarray:
        """
        :param indices: (batch,) or a single index, 0 to capacity - 1
        :return: (batch,) or a single number, float64, what was stored there; 0 where nothing was
        :raises IndexError: on an index of capacity or more
        """
        return self._levels[0].reshape(-1)[: self.capacity][indices]

    @property
    def nbytes(self) -> int:
        """Memory of all nodes, in bytes, once all of it has been written to."""
        return sum(level.nbytes for level in self._levels)

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self._running_sums()[-1])

    def _running_sums(self) -> np.ndarray:
        if self._top_sums is None:
            self._top_sums = self._levels[-1].cumsum()
        return self._top_sums

    def update(self, indices: np.ndarray, priorities: np.ndarray | float) -> None:
        """
        Store priorities, as they are: of their exponent the tree knows nothing. Where an index comes twice, the last
        one counts.

        :param indices: (batch,) integers, 0 to capacity - 1
        :param priorities: (batch,) or a scalar, not negative, so small that ``capacity`` of them have a finite sum
        :raises ValueError: on an index or a priority out of range, or other shapes; nothing has been written then
        """
        given, priorities = np.asarray(indices), np.array(priorities, dtype=np.float64)
        if given.ndim != 1 or priorities.shape not in ((), given.shape):
            raise ValueError(
                f"indices of shape {given.shape} and priorities of shape {priorities.shape} must be (batch,) each: "
                "flatten them"
            )
        if given.size == 0:
            return
        if not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"indices={given} must be integers, 0 to {self.capacity - 1}")
        indices = np.ascontiguousarray(given, dtype=np.int64)
        if priorities.ndim == 0:
            priorities = np.full(indices.shape, priorities)
        largest = _LARGEST / self.capacity
        write = loops.write_to_tree if loops.IS_COMPILED else _write
        if not write(tuple(self._levels[:-1]), self._levels[-1], indices, priorities, self.capacity, largest):
            if indices.min() < 0 or indices.max() >= self.capacity:
                raise ValueError(f"indices must be in 0 to {self.capacity - 1}, got {indices.min()} to {indices.max()}")
            raise ValueError(f"priorities must be 0 to {largest:.3g}, so that their sum is finite, got {priorities}")
        self._top_sums = self._levels[-1].cumsum()  # here, so that no other thread keeps what it saw of an update

    def find(self, masses: np.ndarray) -> np.ndarray:
        """
        Find the leaf in which the running sum of all leaves, in order, first exceeds ``masses``.

        :param masses: (batch,) in [0, total]
        :return: (batch,) int64 indices, never one of zero priority
        :raises ValueError: when the tree is empty, or on a mass out of range
        """
        masses = np.asarray(masses, dtype=np.float64)
        if masses.ndim != 1:
            raise ValueError(f"masses of shape {masses.shape} must be (batch,): flatten them")
        if not ((masses >= 0) & (masses <= self.total)).all():
            raise ValueError(f"masses must be in 0 to the total of {self.total}, got {masses}")
        return self._descend(masses)

    def _descend(self, masses: np.ndarray) -> np.ndarray:
        sums = self._running_sums()
        if not sums[-1] > 0:
            raise ValueError("nothing can be drawn: all priorities are zero")
        # Rounding may leave a mass at or beyond its node's end: kept below it, the child that is found is the first
        # whose running sum exceeds the mass, so its own priority is above zero.
        masses = np.minimum(masses, np.nextafter(sums[-1], 0))
        find = loops.find_in_tree if loops.IS_COMPILED else _find
        return find(tuple(self._levels[:-1]), sums, masses)

    def draw(self, batch_size: int, random: RandomSource) -> np.ndarray:
        """
        Draw leaves in proportion to their priority, one from each of ``batch_size`` equal shares of the total.

        :param batch_size: number of leaves
        :param random: ``numpy.random``, which SB3 seeds, or a ``RandomState``; newer generators have other methods
        :return: (batch_size,) int64 indices
        :raises ValueError: when the tree is empty, or on a batch size below 1
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        masses = (np.arange(batch_size) + random.random_sample(batch_size)) * (self.total / batch_size)
        return self._descend(masses)


# What ``loops`` has compiled, in NumPy


def _write(
    levels: tuple[np.ndarray, ...],
    top: np.ndarray,
    indices: np.ndarray,
    priorities: np.ndarray,
    capacity: int,
    largest: float,
) -> bool:
    if not (indices.min() >= 0 and indices.max() < capacity):
        return False
    if not (priorities.min() >= 0 and priorities.max() <= largest):  # NaN is neither
        return False
    levels[0].reshape(-1)[indices] = priorities
    for children, sums in zip(levels, (*levels[1:], top), strict=True):
        indices = indices // WIDTH
        sums.reshape(-1)[indices] = children.take(indices, axis=0).sum(axis=1)
    return True


def _find(levels: tuple[np.ndarray, ...], sums: np.ndarray, masses: np.ndarray) -> np.ndarray:
    nodes = sums.searchsorted(masses, side="right")
    masses = masses - np.where(nodes > 0, sums[nodes - 1], 0)
    rows = np.arange(len(masses))
    for level in reversed(levels):
        sums = level.take(nodes, axis=0).cumsum(axis=1)  # (batch, 32)
        masses = np.minimum(masses, np.nextafter(sums[:, -1], 0))
        children = (sums > masses[:, None]).argmax(axis=1)
        masses = masses - np.where(children > 0, sums[rows, children - 1], 0)
        nodes = nodes * WIDTH + children
    return nodes
