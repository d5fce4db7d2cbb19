"""Ground floor: n-step windows over a ring of transitions. Pure functions."""

import numpy as np

from sb3_rainbow import loops


def ids_of(slots: np.ndarray, envs: np.ndarray, ring: tuple[int, ...]) -> np.ndarray:
    """
    :param slots: (batch,) rows of the ring
    :param envs: (batch,) the env of each
    :param ring: (size, n_envs)
    :return: (batch,) ``slot * n_envs + env``
    :raises IndexError: on a transition that is beyond the ends of the ring
    """
    try:
        return np.ravel_multi_index((slots, envs), ring)
    except ValueError as error:
        raise IndexError("this transition is beyond the ends of the ring") from error


def n_step_windows(
    slots: np.ndarray,
    envs: np.ndarray,
    n_steps: int,
    dones: np.ndarray,
    timeouts: np.ndarray,
    newest: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Follow each transition for up to ``n_steps`` transitions of the same env.

    A window ends with the first one that is done or truncated and with the newest row of the ring, inclusive.
    Nothing is written: a sample leaves the buffer as it was.

    :param slots: (batch,) rows of the ring where the windows start
    :param envs: (batch,) the env of each
    :param n_steps: longest window
    :param dones: (size, n_envs) an episode ended here, for whatever reason
    :param timeouts: (size, n_envs) the trajectory stops here without a terminal state
    :param newest: row written last
    :return: rows of each window (batch, n_steps), wrapped around the ring; which of them count (batch, n_steps);
        the last row that counts (batch,)
    :raises IndexError: on a transition that is beyond the ends of the ring
    """
    if loops.IS_COMPILED:
        return loops.follow_windows(slots, envs, n_steps, dones, timeouts, newest)
    ids_of(slots, envs, dones.shape)
    n_slots, n_envs = dones.shape
    steps = np.arange(n_steps)
    rows = (slots[:, None] + steps) % n_slots  # (batch, n_steps)
    ids = rows * n_envs + envs[:, None]
    ends = (dones.take(ids) != 0) | (timeouts.take(ids) != 0) | (rows == newest)
    ends[:, -1] = True
    last = ends.argmax(axis=1)  # (batch,)
    return rows, steps <= last[:, None], (slots + last) % n_slots


def n_step_returns(rewards: np.ndarray, mask: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Sum the discounted rewards of each window.

    :param rewards: (batch, n_steps) float32, reward units
    :param mask: (batch, n_steps) which of them count
    :param gamma: discount of one step
    :return: returns without bootstrap (batch, 1) and the bootstrap's discount gamma**k for the k rewards that were
        summed (batch, 1), both float32
    """
    # The same float32 operations in the same order as SB3's NStepReplayBuffer: the results are equal to the last bit.
    powers = gamma ** np.arange(mask.shape[1], dtype=np.float32).reshape(1, -1)
    returns = (rewards * powers * mask).sum(axis=1, keepdims=True)
    discounts = gamma ** mask.sum(axis=1, keepdims=True).astype(np.float32)
    return returns, discounts


def discounted_range(rewards: np.ndarray, ends: np.ndarray, gamma: float) -> tuple[float, float]:
    """
    The lowest and the highest discounted return from any row to the end of its episode or of the rows.

    :param rewards: (rows, n_envs) in the order of time, one at least
    :param ends: (rows, n_envs) the trajectory stops after this row
    :param gamma: discount of one step
    :return: lowest and highest return, in reward units
    """
    lowest, highest = np.inf, -np.inf
    returns = np.zeros(rewards.shape[1])
    for reward, end in zip(rewards[::-1], ends[::-1], strict=True):
        returns = reward + gamma * np.where(end, 0.0, returns)
        lowest, highest = min(lowest, returns.min()), max(highest, returns.max())
    return float(lowest), float(highest)
