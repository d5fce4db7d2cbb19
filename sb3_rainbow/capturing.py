"""Second floor: when a GPU makes gradient steps by itself, and when the model hears of what it has learned there."""

from typing import Any, Self

from stable_baselines3.dqn.dqn import DQN

from sb3_rainbow.captured import CapturedSteps
from sb3_rainbow.compiled import Compiled
from sb3_rainbow.device_replay import DeviceReplay
from sb3_rainbow.policies import RainbowPolicy
from sb3_rainbow.watch import require_finite

_OF_A_GRADIENT_STEP = ("_gradient_step", "_loss", "_clip_gradient")


class CapturingDQN(DQN):
    """DQN that leaves gradient steps to ``CapturedSteps`` where it can, with ``compile``."""

    compile: bool
    policy: RainbowPolicy

    def _setup_model(self) -> None:
        super()._setup_model()
        self._captured: CapturedSteps | None = None
        self._has_room = True  # for a copy of the replay buffer, as long as nothing else is known

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        self._has_room = True  # or so it may be by now
        captured = self._captured
        if captured is not None:
            is_same = captured.has_same_parts()  # the head may be another one, or some weights frozen by now
            if not (is_same and captured.has_copy_of(self.replay_buffer) and CapturedSteps.suits(self.policy)):
                captured.give_up_copy()
            if not is_same:
                self._forget()
        try:
            super().learn(*args, **kwargs)
            if self._captured is not None:
                require_finite(self.num_timesteps, **self._captured.failure(wait=True))
        finally:
            self._write_back()
        return self

    def _captured_steps(self, known: type[DQN]) -> CapturedSteps | None:
        """
        :param known: the class whose gradient steps ``CapturedSteps`` makes; a subclass may have others
        :return: what makes them without the host; None where something does not suit
        """
        is_meant = self.compile and self.device.type in CapturedSteps.DEVICES
        is_known = all(getattr(type(self), name) is getattr(known, name) for name in _OF_A_GRADIENT_STEP)
        is_possible = is_meant and is_known and self._vec_normalize_env is None
        buffer: Any = self.replay_buffer
        captured = self._captured
        if captured is not None:
            is_same = captured.has_copy_of(buffer) and captured.still_suits(self.policy)
            if is_possible and is_same and (captured.has_same_state() or CapturedSteps.suits(self.policy)):
                return captured
            captured.give_up_copy()  # there must be room for the next one
        is_possible = is_possible and self._has_room and DeviceReplay.suits(buffer) and CapturedSteps.suits(self.policy)
        if not is_possible:
            return None
        self._has_room = DeviceReplay.fits(buffer, self.device)
        if not self._has_room:
            return None
        if captured is None or not captured.still_suits(self.policy):
            self._forget()
            self._captured = captured = CapturedSteps(self.policy, Compiled)
        return captured

    def _forget(self) -> None:
        captured, self._captured = self._captured, None
        if captured is not None:  # and a failure that was not told yet
            require_finite(self.num_timesteps, **captured.failure(wait=True))

    def _write_back(self) -> None:  # SavingDQN calls it too, which comes after this class among RainbowDQN's
        if self._captured is not None:
            self._captured.write_back()

    def __getstate__(self) -> dict[str, Any]:  # for copies
        self._write_back()
        state: Any = super().__getstate__()
        return state

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_captured", "_has_room"]
