"""First floor: which transitions are drawn. Samplers know ids and priorities; they see no observation."""

from typing import Protocol

import numpy as np

from sb3_rainbow.sum_tree import RandomSource, SumTree


class Sampler(Protocol):
    """Draws ids of stored transitions, ``id = slot * n_envs + env``."""

    n_updates: int  # how often priorities were set: by it a copy on a GPU knows that somebody else did

    def add(self, ids: np.ndarray) -> None:
        """
        :param ids: (n,) transitions that were just written, over older ones where the ring has wrapped
        """

    def draw(self, batch_size: int, random: RandomSource) -> tuple[np.ndarray, np.ndarray]:
        """
        :param batch_size: number of ids, drawn with replacement
        :param random: random numbers, ``numpy.random`` for SB3's seed
        :return: ids (batch,) and the probability of each (batch,)
        """

    def update(self, ids: np.ndarray, priorities: np.ndarray) -> None:
        """
        :param ids: (batch,)
        :param priorities: (batch,) finite, above 0, before the exponent
        :raises ValueError: on others, if they make a difference; nothing has been changed then
        """

    def clear(self) -> None:
        """Forget all ids."""

    @property
    def full_bytes(self) -> int:
        """Memory that it will have taken when every id has been added, in bytes."""


class UniformSampler:
    """
    Every transition is as likely as any other.

    :param n_envs: number of envs that share a slot
    """

    n_updates = 0

    def __init__(self, n_envs: int) -> None:
        self.n_envs = n_envs
        self.n_slots = 0

    def add(self, ids: np.ndarray) -> None:
        self.n_slots = max(self.n_slots, int(ids.max()) // self.n_envs + 1)

    def draw(self, batch_size: int, random: RandomSource) -> tuple[np.ndarray, np.ndarray]:
        # SB3 draws the slots first, then the envs: the same seed draws the same transitions
        slots = random.randint(0, self.n_slots, size=batch_size)
        envs = random.randint(0, self.n_envs, size=batch_size)
        return slots * self.n_envs + envs, np.full(batch_size, 1 / (self.n_slots * self.n_envs))

    def update(self, ids: np.ndarray, priorities: np.ndarray) -> None:
        pass  # priorities make no difference here

    def clear(self) -> None:
        self.n_slots = 0

    @property
    def full_bytes(self) -> int:
        return 0


class PrioritizedSampler:
    """
    A transition is drawn with probability proportional to ``priority ** alpha``.

    New ones enter at the highest priority seen so far, 1 at first, so that each is likely to be drawn soon.
    Paper: https://arxiv.org/abs/1511.05952

    :param capacity: number of ids
    :param alpha: exponent, 0 (uniform) to 1
    """

    n_updates = 0

    def __init__(self, capacity: int, alpha: float) -> None:
        self.alpha = alpha
        self.tree = SumTree(capacity)
        self.max_priority = 1.0

    def add(self, ids: np.ndarray) -> None:
        self.tree.update(ids, self.max_priority**self.alpha)

    def draw(self, batch_size: int, random: RandomSource) -> tuple[np.ndarray, np.ndarray]:
        ids = self.tree.draw(batch_size, random)
        return ids, self.tree[ids] / self.tree.total

    def update(self, ids: np.ndarray, priorities: np.ndarray) -> None:
        priorities = np.asarray(priorities, dtype=np.float64)
        if len(priorities):
            highest = float(priorities.max())
            if not (priorities.min() > 0 and highest < np.inf):  # NaN is neither
                raise ValueError(f"priorities must be finite and above 0, got {priorities}")
            self.tree.update(ids, priorities**self.alpha)
            self.max_priority = max(self.max_priority, highest)
            self.n_updates += 1

    def clear(self) -> None:
        self.tree = SumTree(self.tree.capacity)

    @property
    def full_bytes(self) -> int:
        return self.tree.nbytes


def importance_weights(probabilities: np.ndarray, beta: float) -> np.ndarray:
    """
    Weights that undo, to the degree beta, the bias of drawing some transitions more often, at most 1.

    The number of transitions that the paper's formula has cancels out in the division by the batch's maximum.
    Paper: https://arxiv.org/abs/1511.05952, section 3.4

    :param probabilities: (batch,) above 0
    :param beta: exponent, 0 (no correction) to 1 (full)
    :return: (batch,) float64 weights, the largest is 1
    """
    return (probabilities / probabilities.min()) ** -beta
