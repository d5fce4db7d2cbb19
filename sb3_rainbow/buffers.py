"""Second floor: SB3 replay buffers made of a storage and a sampler."""

import gc
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_rainbow.arguments import number, switch, whole_number
from sb3_rainbow.available import available_memory
from sb3_rainbow.returns import n_step_returns, n_step_windows
from sb3_rainbow.sampling import PrioritizedSampler, Sampler, UniformSampler, importance_weights
from sb3_rainbow.storage import Observation, Storage, make_storage


class RainbowSamples(NamedTuple):
    """A batch: SB3's six fields in SB3's order, then ``weights`` and ``indices``."""

    observations: th.Tensor | TensorDict  # (batch, *obs_shape), or a dict of such tensors
    actions: th.Tensor  # (batch, 1)
    next_observations: th.Tensor | TensorDict  # after the window's last step
    dones: th.Tensor  # (batch, 1), 1 where that step ended the episode, by truncation: 0, if handle_timeout_termination
    rewards: th.Tensor  # (batch, 1), n-step returns without bootstrap
    discounts: th.Tensor  # (batch, 1), gamma**k for the k steps of the window
    weights: th.Tensor  # (batch, 1), importance weights, the largest is 1
    indices: np.ndarray  # (batch,), slot * n_envs + env, for update_priorities


class RainbowReplayBuffer(ReplayBuffer):
    """
    Replay buffer with n-step returns and prioritized or uniform sampling.

    It takes memory as transitions arrive, none when it is made. With ``prioritized_replay=False`` it draws the same
    transitions from the same seed as SB3's ``ReplayBuffer`` (``n_steps=1``) and ``NStepReplayBuffer``.

    :param buffer_size: capacity in transitions, summed over envs
    :param observation_space: observation space
    :param action_space: action space
    :param device: where the samples are put
    :param n_envs: number of envs
    :param optimize_memory_usage: must be False: SB3's variant loses the observations that end an episode
    :param handle_timeout_termination: bootstrap where an episode was truncated (``TimeLimit.truncated``)
    :param n_steps: longest window of rewards that are summed, in env steps of one env
    :param gamma: discount of one step
    :param prioritized_replay: draw in proportion to priorities; False: uniformly
    :param prioritized_replay_alpha: exponent of the priorities, 0 to 1
    :param prioritized_replay_beta0: exponent of the importance weights, 0 to 1. ``beta`` may be set later; RainbowDQN
        sets it before it draws
    :param frame_stack: keep each frame of frame stacks once: "auto" finds out from the first observations whether they
        are stacks; the number of frames in a stack; None keeps every observation whole
    :raises ValueError: on an argument out of range
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 3,
        gamma: float = 0.99,
        prioritized_replay: bool = True,
        prioritized_replay_alpha: float = 0.5,
        prioritized_replay_beta0: float = 0.4,
        frame_stack: int | str | None = "auto",
    ) -> None:
        # ReplayBuffer's own constructor would allocate all of its arrays
        n_envs, buffer_size = whole_number("n_envs", n_envs, 1), whole_number("buffer_size", buffer_size, 1)
        super(ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if switch("optimize_memory_usage", optimize_memory_usage):
            raise ValueError(
                "optimize_memory_usage=True would lose the observations that end an episode; leave it False: frames "
                "are kept once without it"
            )
        self.buffer_size = max(buffer_size // n_envs, 1)  # slots, as in SB3
        self.optimize_memory_usage = False
        self.handle_timeout_termination = switch("handle_timeout_termination", handle_timeout_termination)
        self.n_steps = whole_number("n_steps", n_steps, 1)
        self.gamma = number("gamma", gamma, 0, 1)
        self.prioritized_replay = switch("prioritized_replay", prioritized_replay)
        self.beta = number("prioritized_replay_beta0", prioritized_replay_beta0, 0, 1)
        alpha = number("prioritized_replay_alpha", prioritized_replay_alpha, 0, 1)

        rows = (self.buffer_size, n_envs)
        self.sampler: Sampler = UniformSampler(n_envs)
        try:
            # np.zeros maps a page of memory when it is first written to
            self.actions = np.zeros((*rows, self.action_dim), dtype=self._maybe_cast_dtype(action_space.dtype))
            self.rewards = np.zeros(rows, dtype=np.float32)
            self.dones = np.zeros(rows, dtype=np.float32)
            self.timeouts = np.zeros(rows, dtype=np.float32)
            self.storage: Storage = make_storage(observation_space, self.obs_shape, *rows, frame_stack)
            if prioritized_replay:
                self.sampler = PrioritizedSampler(self.buffer_size * n_envs, alpha)
        except MemoryError as error:
            raise ValueError(
                f"buffer_size={buffer_size} must be smaller: not even actions, rewards and priorities of so many "
                f"transitions fit into the {available_memory() / 1e9:.3g} GB of memory that are free ({error})"
            ) from error
        self._next_size_check = 0.0  # slots; the first, and whenever twice as many have been written
        self._drawn = np.empty(0, dtype=np.int64)
        self._slots_since_drawn = 0
        self.n_added = 0  # slots that were written, in all
        self._is_seam_ahead = False  # the next transition does not follow the newest: a reset comes between

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of every env.

        :param obs: (n_envs, *obs_shape), or a dict of such arrays; with one env the first axis may be missing
        :param next_obs: the same, after the step; where an episode ended its true last observation
        :param action: (n_envs,) or (n_envs, 1)
        :param reward: (n_envs,)
        :param done: (n_envs,) the episode ended, whether terminal or truncated
        :param infos: one for each env; ``TimeLimit.truncated`` tells a truncation from a terminal state
        :raises ValueError: on a reward or an observation that is NaN or infinite, an observation that the dtype of its
            space cannot hold, or an array of another shape; nothing has been stored then
        """
        obs = self._checked(obs, "observation")
        next_obs = self._checked(next_obs, "next observation")
        reward = self._rows(np.asarray(reward, dtype=np.float32), "reward", self.n_envs)
        self._require_finite(reward, "reward")
        action = self._rows(np.asarray(action), "action", self.n_envs, self.action_dim)
        done = self._rows(np.asarray(done, dtype=bool), "done", self.n_envs)
        timeouts = np.zeros(self.n_envs, dtype=bool)
        if self.handle_timeout_termination:
            timeouts = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
            timeouts = self._rows(timeouts, "infos", self.n_envs)

        if self._is_seam_ahead:
            self._cut()
        self.storage.put(self.pos, obs, next_obs, done)
        self.actions[self.pos] = action
        self.rewards[self.pos] = reward
        self.dones[self.pos] = done
        self.timeouts[self.pos] = timeouts
        self.sampler.add(self.pos * self.n_envs + np.arange(self.n_envs))

        if self.pos >= self._next_size_check and not self.full and self.storage.full_bytes is not None:
            self._next_size_check = 2 * max(self.pos, 1)
            self._warn_if_it_will_not_fit(self.storage.full_bytes + self.sampler.full_bytes)
        self._slots_since_drawn += 1
        self.n_added += 1
        # An interruption may come between any two lines, and must not leave a position beyond the ring
        self.full = self.full or self.pos + 1 == self.buffer_size
        self.pos = (self.pos + 1) % self.buffer_size

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> RainbowSamples:  # type: ignore[override]
        """
        Draw a batch, with replacement.

        :param batch_size: number of transitions
        :param env: normalises observations and the reward of each step, before the rewards are summed
        :return: the batch
        :raises ValueError: when the buffer is empty, on a batch size below 1, or a beta that is not 0 to 1
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        if self.size() == 0:
            raise ValueError("the replay buffer is empty: add transitions before drawing from it")
        beta = number("beta", self.beta, 0, 1)
        ids, probabilities = self.sampler.draw(batch_size, np.random)
        self._drawn, self._slots_since_drawn = ids, 0
        weights = importance_weights(probabilities, beta).astype(np.float32)
        return self._get_samples(ids, env)._replace(weights=self._tensor(weights.reshape(-1, 1)))

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RainbowSamples:  # type: ignore[override]
        """
        :param batch_inds: (batch,) ids, ``slot * n_envs + env``
        :param env: as for ``sample``
        :return: these transitions, with weights of 1
        """
        slots, envs = np.divmod(np.asarray(batch_inds, dtype=np.int64), self.n_envs)
        newest = (self.pos - 1) % self.buffer_size
        rows, mask, last = n_step_windows(slots, envs, self.n_steps, self.dones, self.timeouts, newest)
        rewards = self._normalize_reward(self.rewards[rows, envs[:, None]], env)
        returns, discounts = n_step_returns(rewards, mask, self.gamma)
        terminals = self.dones[last, envs] * (1 - self.timeouts[last, envs])
        return RainbowSamples(
            observations=self._tensors(self._normalize_obs(self.storage.get(slots, envs), env)),
            actions=self._tensor(self.actions[slots, envs]),
            next_observations=self._tensors(self._normalize_obs(self.storage.get_next(last, envs), env)),
            dones=self._tensor(terminals.reshape(-1, 1)),
            rewards=self._tensor(returns),
            discounts=self._tensor(discounts),
            weights=self._tensor(np.ones_like(returns)),
            indices=batch_inds,
        )

    def update_priorities(self, indices: np.ndarray, priorities: np.ndarray) -> None:
        """
        Set the priorities of transitions. Without prioritized replay nothing changes.

        Where all are of the batch drawn last, those overwritten since keep the priority that the new row entered with.

        :param indices: (batch,) ``slot * n_envs + env``, as ``sample`` returned them
        :param priorities: (batch,) finite, above 0, before the exponent alpha
        :raises ValueError: on another priority, on other shapes, or an index where nothing is stored; nothing has been
            changed then
        """
        indices, priorities = np.asarray(indices), np.asarray(priorities)
        if indices.ndim != 1 or indices.shape != priorities.shape:
            raise ValueError(
                f"indices of shape {indices.shape} and priorities of shape {priorities.shape} must be (batch,) each"
            )
        if indices.size and not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"indices={indices} must be integers: use those that sample() returned")
        indices = indices.astype(np.int64)  # in a type without a sign, ages would wrap
        if indices.size and not 0 <= indices.min() <= indices.max() < self.size() * self.n_envs:
            raise ValueError(
                f"indices {indices.min()} to {indices.max()} are not all of the {self.size() * self.n_envs} "
                "transitions stored: use those that sample() returned"
            )
        if self._slots_since_drawn and np.isin(indices, self._drawn).all():
            age = (self.pos - 1 - indices // self.n_envs) % self.buffer_size  # slots written after it
            kept = age >= self._slots_since_drawn
            indices, priorities = indices[kept], priorities[kept]
        self.sampler.update(indices, priorities)

    @property
    def fixed_arguments(self) -> dict[str, Any]:
        """What its priorities depend on, by the name of the argument; later changes to a model do not reach it."""
        fixed: dict[str, Any] = {"prioritized_replay": self.prioritized_replay}
        if isinstance(self.sampler, PrioritizedSampler):
            fixed["prioritized_replay_alpha"] = self.sampler.alpha
        return fixed

    def truncate_last_trajectory(self) -> None:
        """End all windows at the newest transition: what comes next starts from a reset that no done announced."""
        # For the next add() to see to: until then no window could run on, and what is stored is what was saved
        self._is_seam_ahead = self.size() > 0

    def _cut(self) -> None:
        newest = (self.pos - 1) % self.buffer_size
        # Storages need not be told: an observation that does not follow from the one before shows itself
        self.timeouts[newest] = np.where(self.dones[newest] != 0, self.timeouts[newest], 1)
        self._is_seam_ahead = False

    def reset(self) -> None:
        """Forget all transitions, but not the highest priority seen."""
        super().reset()
        self.sampler.clear()
        self._is_seam_ahead = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_next_size_check": 0.0}  # where it is loaded, less may be free

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """A copy, not to be written to, of those stored so far, (size, n_envs, *obs_shape), or a dict of them."""
        return self._all_rows(self.storage.get)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """As ``observations``, of the next observations."""
        return self._all_rows(self.storage.get_next)

    def _all_rows(self, get: Callable[[np.ndarray, np.ndarray], Observation]) -> Observation:
        def read_only(rows: np.ndarray) -> np.ndarray:
            rows = rows.reshape(self.size(), self.n_envs, *rows.shape[1:])
            rows.flags.writeable = False  # in SB3's buffer writing to them changes what is stored
            return rows

        rows = get(*np.divmod(np.arange(self.size() * self.n_envs), self.n_envs))
        return {key: read_only(array) for key, array in rows.items()} if isinstance(rows, dict) else read_only(rows)

    def _warn_if_it_will_not_fit(self, size: int) -> None:
        size += sum(array.nbytes for array in (self.actions, self.rewards, self.dones, self.timeouts))
        held = size * self.pos // self.buffer_size
        free = available_memory() + held
        if size > free:
            gc.collect()  # a finished learn() leaves its model, and with it an earlier replay buffer, in a cycle
            free = available_memory() + held
        if size > free:
            self._next_size_check = np.inf
            capacity = self.buffer_size * self.n_envs
            fitting = max(int(0.99 * capacity * free / size), 1)  # the tree and the chunks of frames grow in steps
            warnings.warn(
                f"the replay buffer of {capacity} transitions will need {size / 1e9:.3g} GB when it is full, but only "
                f"{free / 1e9:.3g} GB of memory are free for it: write buffer_size={fitting} or less",
                stacklevel=3,
            )

    def _checked(self, obs: Any, name: str) -> Observation:
        if isinstance(self.observation_space, spaces.Dict):
            keys = self.observation_space.spaces.keys()
            if not (isinstance(obs, dict) and keys <= obs.keys()):
                given = list(obs) if isinstance(obs, dict) else type(obs).__name__
                raise ValueError(f"{name}={given} must be a dict with the keys {list(keys)} of the observation space")
            return {
                key: self._checked_array(obs[key], space, self.obs_shape[key], f"{name}[{key!r}]")  # type: ignore[call-overload]
                for key, space in self.observation_space.spaces.items()
            }
        return self._checked_array(obs, self.observation_space, self.obs_shape, name)

    def _checked_array(self, obs: Any, space: spaces.Space, shape: tuple[int, ...], name: str) -> np.ndarray:
        array = np.asarray(obs)
        is_row = self.n_envs == 1 and array.shape == shape
        if is_row or (isinstance(space, spaces.Discrete) and array.size == self.n_envs):  # stored as (n_envs, 1)
            array = array.reshape(self.n_envs, *shape)
        if array.shape != (self.n_envs, *shape):
            raise ValueError(
                f"{name} has shape {array.shape}, expected {(self.n_envs, *shape)}: put VecTransposeImage and "
                "VecFrameStack below VecNormalize, not above it (in RL Zoo's files VecFrameStack into vec_env_wrapper, "
                "in place of frame_stack), or give the env's observation_space the shape of its observations"
            )
        if array.dtype.kind == "f":  # before it is made an integer, and after it is made smaller
            self._require_finite(array, name)
        cast = array.astype(space.dtype, copy=False)
        if cast is array:
            return array
        if cast.dtype.kind == "f":
            self._require_finite(cast, name)
        elif cast.dtype != bool and (cast != array).any():  # a mask's 255 is meant to be True
            raise ValueError(
                f"{name} has {array[cast != array][0]}, which {cast.dtype}, the dtype of its space, cannot hold: give "
                "the env, or the wrapper that changes observations, an observation_space of the dtype it returns"
            )
        return cast

    @staticmethod
    def _rows(array: np.ndarray, name: str, *shape: int) -> np.ndarray:
        if array.size != math.prod(shape) or (shape[0] > 1 and len(array) != shape[0]):
            raise ValueError(f"{name} of shape {array.shape} must be {shape}: a row for each env")
        return array.reshape(shape)

    def _require_finite(self, array: np.ndarray, name: str) -> None:
        if not np.isfinite(array).all():
            env = int(np.argwhere(~np.isfinite(array))[0, 0])
            raise ValueError(
                f"{name}={array[env]} of env {env} is not finite, at row {self.pos} of the replay buffer; it has not "
                "been stored, and nothing was learned from it. Have the environment return finite numbers"
            )

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.from_numpy(array).to(self.device)  # every array here is already a copy

    def _tensors(self, obs: Observation) -> th.Tensor | TensorDict:
        if isinstance(obs, dict):
            return {key: self._tensor(array) for key, array in obs.items()}
        return self._tensor(obs)


class RainbowDictReplayBuffer(RainbowReplayBuffer, DictReplayBuffer):  # type: ignore[misc, override]
    """``RainbowReplayBuffer`` for Dict observations."""


def end_trajectories(buffer: ReplayBuffer | None) -> None:
    """
    Let no window and no episode run on from what is stored: a reset follows that no done announced.

    :param buffer: ours, or another; those of SB3 that look at more than single transitions are told as well
    """
    if isinstance(buffer, RainbowReplayBuffer):
        buffer.truncate_last_trajectory()
    elif isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # HerReplayBuffer asks whether it should have been called
            buffer.truncate_last_trajectory()
    elif isinstance(buffer, NStepReplayBuffer) and buffer.size():
        newest = buffer.pos - 1
        marks = buffer.timeouts if buffer.handle_timeout_termination else buffer.dones  # add() clears no others
        marks[newest] = np.where(buffer.dones[newest] != 0, marks[newest], 1)
    elif buffer is not None and getattr(buffer, "optimize_memory_usage", False) and buffer.size():
        buffer.dones[buffer.pos - 1] = 1  # its next observation is that of the next row. SB3 does so in some cases
