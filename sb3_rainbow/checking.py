"""Second floor: whether the arguments of a model lie in their ranges, and fit together and to its environment."""

import inspect
import math
import os
import warnings
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.dqn.dqn import DQN

from sb3_rainbow.arguments import (
    agreement,
    instance_of,
    learning_rate_or_schedule,
    number,
    subclass_of,
    switch,
    train_frequency,
    whole_number,
)
from sb3_rainbow.available import bfloat16_is_faster
from sb3_rainbow.buffers import RainbowReplayBuffer

NETWORK_SWITCHES = ("dueling", "noisy", "distributional")
_OF_BUFFER = ("n_steps", "gamma", "prioritized_replay", "prioritized_replay_alpha", "prioritized_replay_beta0")
_ROUNDING = 1e-12  # so far below 0 a learning rate may be that is meant to be 0
_OTHER_SWITCHES = ("double_q", "prioritized_replay", "amp", "compile", "overlap", "optimize_memory_usage")
_FRACTIONS = ("tau", "gamma", "prioritized_replay_alpha", "prioritized_replay_beta0")
_EPSILON = ("exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
# What the network and the replay buffer are made with, and do not ask for again
_FIXED = (*NETWORK_SWITCHES, "prioritized_replay", "prioritized_replay_alpha")
_AT_LEAST = {"learning_starts": 0, "batch_size": 1, "gradient_steps": -1, "n_steps": 1, "target_update_interval": 1}
_ABOVE = {
    "prioritized_replay_beta_fraction": (0, 1, ""),
    # Priorities are float32
    "prioritized_replay_eps": (1e-30, 1e30, "a transition of priority 0 would never be drawn again"),
}


class CheckingDQN(DQN):
    """DQN that knows the ranges of RainbowDQN's arguments: its constructor's, and those that load() sets later."""

    noisy: bool
    prioritized_replay: bool
    prioritized_replay_alpha: float
    amp: bool

    def _clean_arguments(self) -> None:
        """
        Replace numbers by Python's own, and None by the defaults: also what ``load(path, tau=0.5)`` sets unseen. Note
        in ``_fixed`` what network and replay buffer will be made with.

        :raises ValueError: naming the first argument that is out of its range, or given twice with two values
        """
        if self.replay_buffer_kwargs is None:
            self.replay_buffer_kwargs = {}
        instance_of("policy_kwargs", self.policy_kwargs, dict, "a dict of the policy's arguments")
        instance_of("replay_buffer_kwargs", self.replay_buffer_kwargs, dict, "a dict of the buffer's arguments")
        instance_of("tensorboard_log", self.tensorboard_log, str | os.PathLike | None, "the path of a folder")
        if self.replay_buffer_class is not None:
            subclass_of("replay_buffer_class", self.replay_buffer_class, ReplayBuffer, "None for the default")
        self._clean_what_may_change()
        if self.seed is not None:
            self.seed = whole_number("seed", self.seed, 0, 2**32 - 1)
        self.buffer_size = whole_number("buffer_size", self.buffer_size, 1, 10**12)
        self.learning_rate = learning_rate_or_schedule(self.learning_rate)
        self.train_freq = train_frequency(self.train_freq)
        eps = (0.0, 0.0) if self.noisy else (1.0, 0.05)
        for name, default in zip(_EPSILON, (0.1, *eps), strict=True):
            value = getattr(self, name)
            setattr(self, name, number(name, default if value is None else value, 0, 1))
        agreement("policy_kwargs", self.policy_kwargs, self._network_switches())
        self._require_agreement({name: value for name, value in self._buffer_arguments().items() if name in _FIXED})
        self._fixed = {name: getattr(self, name) for name in _FIXED}

    def _clean_what_may_change(self) -> None:
        """
        Check, and make Python's own, what may also be set on a finished model: ``learn`` checks it anew.

        :raises ValueError: naming the first that is out of its range
        """
        for name in (*NETWORK_SWITCHES, *_OTHER_SWITCHES):
            setattr(self, name, switch(name, getattr(self, name)))
        for name in _FRACTIONS:
            setattr(self, name, number(name, getattr(self, name), 0, 1))
        for name, least in _AT_LEAST.items():
            setattr(self, name, whole_number(name, getattr(self, name), least))
        if self.max_grad_norm is None:
            self.max_grad_norm = np.inf
        elif not (isinstance(self.max_grad_norm, float) and self.max_grad_norm == np.inf):
            self.max_grad_norm = number("max_grad_norm", self.max_grad_norm, 0, above=True)
        for name, (low, high, hint) in _ABOVE.items():
            setattr(self, name, number(name, getattr(self, name), low, high, above=True, hint=hint))

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        self._require_one_env_for_episodes()
        self.train_freq = train_frequency(self.train_freq)
        self._convert_train_freq()
        if self.amp and not bfloat16_is_faster(self.device.type):
            warnings.warn(
                f"amp=True makes gradient steps slower here: the {self.device.type} has no fast instructions for "
                "bfloat16. Write amp=False",
                stacklevel=6,
            )
        return super().learn(*args, **kwargs)

    def _require_one_env_for_episodes(self) -> None:
        """
        Not asked for where a model is loaded, which may be there to play.

        :raises ValueError: when gradient steps are to follow episodes, of several envs
        """
        train_freq = train_frequency(self.train_freq)
        if self.n_envs > 1 and "episode" in train_freq:
            raise ValueError(
                f"train_freq={train_freq!r} counts episodes, which needs a single env, not {self.n_envs}: count steps, "
                'such as (4, "step")'
            )

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """
        As SB3's. The last rollout may go beyond ``total_timesteps``: schedules that fall to 0 go on below it there, as
        in DQN, and those that have no number there stay where they end.

        :raises ValueError: when the rate is below 0 before that, or not finite
        """
        is_beyond = self._current_progress_remaining < 0
        try:
            super()._update_learning_rate(optimizers)
            rate = self.policy.optimizer.param_groups[0]["lr"]
            rate = 0.0 if -_ROUNDING < rate < 0 else rate
            number("learning_rate", rate, -math.inf if is_beyond else 0, hint=f"at env step {self.num_timesteps}")
        except Exception:
            if not is_beyond:
                raise
            self._current_progress_remaining = 0.0
            self._update_learning_rate(optimizers)

    def _require_agreement(self, buffer_arguments: dict[str, Any]) -> None:
        if self.replay_buffer_class is None or issubclass(self.replay_buffer_class, RainbowReplayBuffer):
            agreement("replay_buffer_kwargs", self.replay_buffer_kwargs, buffer_arguments)

    def _require_unchanged(self) -> None:
        """
        :raises ValueError: naming the first attribute that was changed although network or replay buffer do not follow
        """
        kept, buffer = {name: self._fixed[name] for name in NETWORK_SWITCHES}, self.replay_buffer
        if isinstance(buffer, RainbowReplayBuffer):
            kept |= buffer.fixed_arguments
        for name, value in kept.items():
            given = getattr(self, name)
            if given not in (value, self._fixed[name]):  # a user's buffer may have had its own value from the start
                raise ValueError(
                    f"{name}={given!r} was set on a model whose network or replay buffer keeps {value!r}: pass it "
                    "to RainbowDQN() or load()"
                )

    def _check_arguments(self) -> None:
        """
        Check what needs the env, and sizes. Not on load: ``load(path, buffer_size=1)`` is allowed.

        :raises ValueError: naming the first argument that does not fit
        """
        self._require_agreement(self._buffer_arguments())
        self._require_one_env_for_episodes()
        if self.buffer_size < self.batch_size:
            raise ValueError(f"buffer_size={self.buffer_size} must be at least batch_size={self.batch_size}")
        if self.buffer_size < self.n_steps * self.n_envs:
            raise ValueError(
                f"buffer_size={self.buffer_size} cannot hold a window of n_steps={self.n_steps} for each of "
                f"{self.n_envs} envs: make it at least {self.n_steps * self.n_envs}"
            )
        chosen = self.replay_buffer_class
        if chosen is not None and not issubclass(chosen, RainbowReplayBuffer):  # those take both
            is_dict = isinstance(self.observation_space, spaces.Dict)
            is_for_dicts = issubclass(chosen, DictReplayBuffer)
            is_for_arrays = chosen in (ReplayBuffer, NStepReplayBuffer)  # a user's own may take what it likes
            if (is_for_dicts and not is_dict) or (is_for_arrays and is_dict):
                raise ValueError(
                    f"replay_buffer_class={chosen.__name__} does not take observations of {self.observation_space}: "
                    "leave it out"
                )

    def _network_switches(self) -> dict[str, bool]:
        return {name: getattr(self, name) for name in NETWORK_SWITCHES}

    def _buffer_arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OF_BUFFER}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_fixed"]

    def _warn_of_learning_starts(self, total_timesteps: int, reset_num_timesteps: bool) -> None:
        steps = 0 if reset_num_timesteps else self.num_timesteps
        if 0 < steps + total_timesteps <= self.learning_starts:
            # The same text each time, so that a loop of short learn() shows it once
            warnings.warn(
                f"learn({total_timesteps}) asks only for env steps before learning starts: little or nothing will be "
                f"learned. Train for more than learning_starts={self.learning_starts} env steps, or lower it",
                stacklevel=3,
            )
            return
        is_empty = self.replay_buffer is not None and self.replay_buffer.size() == 0
        if is_empty and total_timesteps and steps >= self.learning_starts > 0:
            warnings.warn(
                "The replay buffer is empty, and learning goes on at once, from few transitions: call "
                f"load_replay_buffer() before, or load(..., learning_starts=N) with N above {steps}: up to there "
                "actions are random, and nothing is learned",
                stacklevel=3,
            )

    def _warn_of_idle_switches(self) -> None:
        buffer: Any = self.replay_buffer
        idle, off = [], []
        if isinstance(buffer, RainbowReplayBuffer):  # gradient steps hand it the rest
            if buffer.prioritized_replay != self.prioritized_replay:
                idle.append(f"prioritized_replay={self.prioritized_replay}")
            alpha = self.prioritized_replay_alpha
            is_given = alpha != inspect.signature(RainbowReplayBuffer).parameters["prioritized_replay_alpha"].default
            if is_given and buffer.fixed_arguments.get("prioritized_replay_alpha", alpha) != alpha:
                idle.append(f"prioritized_replay_alpha={alpha}")
        else:
            if self.n_steps > 1 and "n_steps" not in constructor_arguments(type(buffer)):
                idle.append(f"n_steps={self.n_steps}")
                off.append("n_steps=1")
            if self.prioritized_replay and not hasattr(buffer, "update_priorities"):
                idle.append("prioritized_replay=True")
                off.append("prioritized_replay=False")
        if idle:
            warnings.warn(
                f"{' and '.join(idle)} will have no effect with this {type(buffer).__name__}: leave "
                "replay_buffer_class out, and load no replay buffer of another class, to use one that supports it"
                + (f", or write {' and '.join(off)}" if off else ""),
                stacklevel=3,
            )


def constructor_arguments(of: type) -> set[str]:
    """The arguments that reach some constructor of a class, through those that pass on ``**kwargs``."""
    names: set[str] = set()
    for base in of.__mro__:
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__dict__["__init__"]).parameters
            names |= parameters.keys()
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return names
