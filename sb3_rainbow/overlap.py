"""Ground floor: something to do while environments step."""

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


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
