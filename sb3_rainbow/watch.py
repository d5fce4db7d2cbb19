"""Second floor: what one watches while it trains."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rainbow.returns import discounted_range

# A distribution is judged by the mean over so many gradient steps,
_JUDGED_STEPS = 500
# by this share of its targets' probability in the two end atoms, beyond what a uniform distribution has there,
_EDGE_SHARE = 0.05
# and by the returns in this many of the newest slots of the replay buffer.
_JUDGED_ROWS = 10_000


def require_finite(env_step: int, **values: Any) -> None:
    """
    :param env_step: when
    :param values: numbers and tensors, by name
    :raises ValueError: on the first of them that is not finite
    """
    for name, value in values.items():
        tensor = th.as_tensor(value)
        if math.isfinite(tensor.sum().item()):  # one look instead of one at each
            continue
        bad = tensor[~th.isfinite(tensor)]
        if len(bad):
            raise ValueError(
                f"{name}={bad[0].item()} is not finite, at env step {env_step}; it has changed no weight and no "
                "priority. Look for huge rewards and observations, also in the statistics of VecNormalize, or lower "
                "the learning_rate"
            )


def require_finite_step(
    new_obs: np.ndarray | dict[str, np.ndarray], rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
) -> None:
    """
    What a ``VecEnv`` returns. Of dicts only the keys of the space are looked at, and infos may lack last observations.

    :param new_obs: (n_envs, *obs_shape), or a dict of such arrays
    :param rewards: (n_envs,)
    :param dones: (n_envs,)
    :param infos: of each env, with its episode's last observation where that has ended
    :raises ValueError: on a number that is not finite
    """
    last_obs = [info.get("terminal_observation") for info, done in zip(infos, dones, strict=True) if done]
    named = [("reward", rewards)]
    for obs in [new_obs, *(obs for obs in last_obs if obs is not None)]:
        named += [(key, obs[key]) for key in new_obs] if isinstance(new_obs, dict) else [("observation", obs)]
    for name, array in named:
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite: {array}")


class TrainingLog:
    """Means of tensors over gradient steps, brought from the device only when they are recorded."""

    def __init__(self) -> None:
        self._sums: dict[str, th.Tensor] = {}
        self._steps = 0

    def add(self, values: dict[str, th.Tensor], steps: int = 1) -> None:
        """
        :param values: scalars of one gradient step, or their sums over several, by log key
        :param steps: how many
        """
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value.detach() if name in self._sums else value.detach()
        self._steps += steps

    def record(self, logger: Logger) -> tuple[dict[str, float], int]:
        """
        Record the means under "train/", and begin anew. The logger goes on averaging until it writes.

        :param logger: SB3's logger
        :return: the means, and the number of gradient steps they are of
        """
        means = {name: total.item() / self._steps for name, total in self._sums.items()}
        for name, mean in means.items():
            logger.record_mean(f"train/{name}", mean)
        steps, self._sums, self._steps = self._steps, {}, 0
        return means, steps


class SupportWatch:
    """
    Warns, once, when the support of the return distribution cuts returns off.

    :param v_min: lower end of the support, reward units
    :param v_max: upper end of the support, reward units
    :param n_atoms: number of atoms
    """

    def __init__(self, v_min: float, v_max: float, n_atoms: int) -> None:
        self.v_min, self.v_max, self.n_atoms = v_min, v_max, n_atoms
        self._share, self._steps, self._warned = 0.0, 0, False

    def add(
        self, share: float, steps: int, buffer: ReplayBuffer, gamma: float, env: VecNormalize | None = None
    ) -> None:
        """
        :param share: mean share of target probability in the end atoms
        :param steps: number of gradient steps that it is the mean of
        :param buffer: the transitions learned from
        :param gamma: discount of one step
        :param env: normalises rewards
        """
        self._share += share * steps
        self._steps += steps
        if self._warned or self._steps < _JUDGED_STEPS:
            return
        share = self._share / self._steps
        self._share, self._steps = 0.0, 0
        uniform = 2 / self.n_atoms
        if share < uniform + _EDGE_SHARE * (1 - uniform):
            return
        # Much probability at an end is right where returns end there too: ask the rewards
        low, high = observed_returns(buffer, gamma, env)
        spacing = (self.v_max - self.v_min) / (self.n_atoms - 1)
        if low >= self.v_min - spacing and high <= self.v_max + spacing:
            return
        self._warned = True
        v_min, v_max = min(self.v_min, _rounded(low, np.floor)), max(self.v_max, _rounded(high, np.ceil))
        warnings.warn(
            f"train/support_edge is {share:.2f}: that share of the target probability lies in the two end atoms. The "
            f"rewards add up to returns of about {low:.3g} to {high:.3g}, or would in longer episodes, which v_min="
            f"{self.v_min:g} and v_max={self.v_max:g} cut off: write v_min={v_min:g} and v_max={v_max:g} among "
            "your policy_kwargs, or a narrower range where episodes cannot get longer",
            stacklevel=2,
        )


def shows_returns(buffer: ReplayBuffer) -> bool:
    """
    :param buffer: SB3's, ours, or one of the user's that keeps what it likes
    :return: whether ``observed_returns`` finds what it reads, arrays of shape (buffer_size, n_envs)
    """
    arrays = (getattr(buffer, name, None) for name in ("rewards", "dones", "timeouts"))
    return all(isinstance(array, np.ndarray) and array.shape[1:] == (buffer.n_envs,) for array in arrays)


def observed_returns(buffer: ReplayBuffer, gamma: float, env: VecNormalize | None = None) -> tuple[float, float]:
    """
    The range of discounted returns that the newest rewards in a buffer show, or would show in endless episodes (not
    where all end terminally after equally many steps). Only our buffers and SB3's n-step one mark where ``learn()``
    broke one off.

    :param buffer: one for which ``shows_returns`` holds
    :param gamma: discount of one step
    :param env: normalises rewards
    :return: lowest and highest return, in reward units
    """
    size = buffer.size()
    rows = np.arange(buffer.pos - min(size, _JUDGED_ROWS), buffer.pos) % buffer.buffer_size
    rewards = buffer._normalize_reward(buffer.rewards[rows], env)
    dones, stops = buffer.dones[rows] > 0, buffer.timeouts[rows] > 0
    low, high = discounted_range(rewards, dones | stops, gamma)
    goes_on = stops | ~dones  # the reward of a terminal step comes once in an episode, however long that gets
    timeouts, seams = dones & stops, stops & ~dones  # at a seam learn() stopped: no limit of the env
    # Episodes are short before the agent has learned, unless all of them have to end after so many steps
    if gamma < 1 and goes_on.any() and (timeouts.any() or not _have_one_length(dones, seams)):
        for_ever = float(rewards[goes_on].mean()) / (1 - gamma)
        low, high = min(low, for_ever), max(high, for_ever)
    return low, high


def _have_one_length(dones: np.ndarray, seams: np.ndarray) -> bool:
    """
    :param dones: (rows, n_envs) in the order of time
    :param seams: (rows, n_envs) after which another episode goes on
    :return: whether all whole episodes, of which there are some, are equally long
    """
    lengths = np.zeros(0, dtype=int)
    for done, seam in zip(dones.T, seams.T, strict=True):
        ends = np.flatnonzero(done | seam)
        is_whole = done[ends[1:]] & done[ends[:-1]]
        lengths = np.append(lengths, np.diff(ends)[is_whole])
    return len(lengths) > 0 and bool((lengths == lengths[0]).all())


def _rounded(value: float, direction: Callable[[float], float]) -> float:
    """To two digits, by ``np.floor`` or ``np.ceil``: -36.2 -> -37, or 99.99 -> 100."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (np.floor(np.log10(abs(value))) - 1)
    return float(direction(round(value / unit, 6)) * unit)
