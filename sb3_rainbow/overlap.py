"""Second floor: gradient steps that are made while environments step."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from stable_baselines3.dqn.dqn import DQN
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer


class BusyWhileStepping(VecEnvWrapper):
    """
    Does something between sending actions and receiving what became of them.

    It saves time where environments step on their own meanwhile: in other processes (``SubprocVecEnv``) or threads
    (``AleVecEnv``).

    :param venv: the environments
    :param work: what to do in each vectorised step
    """

    def __init__(self, venv: VecEnv, work: Callable[[], None]) -> None:
        super().__init__(venv)
        self.work = work

    def reset(self) -> np.ndarray:
        return self.venv.reset()  # type: ignore[return-value]

    def step_wait(self) -> VecEnvStepReturn:
        try:
            self.work()
        except BaseException:
            with suppress(EOFError, OSError):  # what interrupts training may have ended the processes of the envs, too
                self.venv.step_wait()  # or its answer would be taken for that of a later step
            raise
        return self.venv.step_wait()


class BeforeTrainingEnds(BaseCallback):
    """
    Does something when training has ended, before the callbacks behind it hear of that.

    :param work: what to do
    """

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.work()


_OUTSIDE_LEARN: dict[str, Any] = {"_busy_env": None, "_overlaps": False, "_puts_off": False, "_owed": ()}


class OverlappingDQN(DQN):
    """DQN that can put the gradient steps after a rollout off, until the envs are in the first step of the next one."""

    overlap: bool
    _busy_env: BusyWhileStepping | None
    _overlaps: bool  # within learn(), with overlap=True
    _puts_off: bool  # train() is put off then: learn() has called it, between two rollouts
    _owed: tuple[Callable[[], None], ...]  # calls that make gradient steps

    def _setup_model(self) -> None:
        super()._setup_model()
        self._require_envs_that_nothing_else_is_asked_of()
        self.__dict__ |= _OUTSIDE_LEARN

    def _require_envs_that_nothing_else_is_asked_of(self) -> None:
        if self.overlap and isinstance(self.replay_buffer, HerReplayBuffer):
            raise ValueError(
                "overlap=True does not go with HerReplayBuffer, which asks the envs for rewards while they would be "
                "stepping: leave overlap out"
            )

    def learn(self, total_timesteps: int, callback: MaybeCallback = None, *args: Any, **kwargs: Any) -> Self:
        self._require_envs_that_nothing_else_is_asked_of()  # both may have been set since the model was made
        if self.overlap:
            given = callback if isinstance(callback, list) else [callback] if callback is not None else []
            callbacks = [each if isinstance(each, BaseCallback) else ConvertCallback(each) for each in given]
            callback = [BeforeTrainingEnds(self._make_owed_gradient_steps), *callbacks]
        try:
            self._overlaps = self.overlap
            return super().learn(total_timesteps, callback, *args, **kwargs)
        finally:
            self.__dict__ |= _OUTSIDE_LEARN

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's; where gradient steps are owed they are made during the first step."""
        self._puts_off = False  # train() called by a callback is not put off
        if self._overlaps:
            if self._busy_env is None or self._busy_env.venv is not env:
                self._busy_env = BusyWhileStepping(env, self._make_owed_gradient_steps)
            env = self._busy_env
        rollout = super().collect_rollouts(env, *args, **kwargs)
        self._puts_off = self._overlaps
        return rollout

    def _now_or_later(self, work: Callable[[], None]) -> None:
        """
        :param work: what ``train`` has to do: it is done now, or where that is put off during the first step to come
        """
        if self._puts_off:
            self._owed += (work,)
        else:
            work()

    def _make_owed_gradient_steps(self) -> None:
        self._puts_off = False
        owed, self._owed = self._owed, ()
        for work in owed:
            work()

    def __getstate__(self) -> dict[str, Any]:  # for copies, which are not within learn()
        return self.__dict__ | _OUTSIDE_LEARN

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OUTSIDE_LEARN]
