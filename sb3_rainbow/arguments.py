"""Ground floor: checks of what a user passes. Each names the argument, its value and what is allowed."""

import math
from sys import float_info
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, TrainFrequencyUnit
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.patch_gym import _patch_env


def whole_number(name: str, value: Any, at_least: int, at_most: float = math.inf, hint: str = "") -> int:
    """
    :param name: of the argument
    :param value: an integer, or a float without a fraction such as 1e6, also of NumPy or PyTorch
    :param at_least: smallest allowed value
    :param at_most: largest allowed value
    :param hint: what to write instead
    :return: the value as an int
    :raises ValueError: on anything else
    """
    value = _unwrapped(value)
    if _is_finite_number(value) and value == int(value) and at_least <= value <= at_most:
        return int(value)
    end = "" if at_most == math.inf else f" and at most {at_most}"
    raise ValueError(f"{name}={value!r} must be a whole number of at least {at_least}{end}{hint and '; '}{hint}")


def number(name: str, value: Any, low: float, high: float = math.inf, above: bool = False, hint: str = "") -> float:
    """
    :param name: of the argument
    :param value: a finite number, also of NumPy or PyTorch
    :param low: smallest allowed value
    :param high: largest allowed value
    :param above: ``low`` itself is not allowed
    :param hint: what to write instead
    :return: the value as a float
    :raises ValueError: on anything else
    """
    value = _unwrapped(value)
    if _is_finite_number(value) and low <= value <= high and not (above and value == low):
        return float(value)
    kind = "a finite number" if high == math.inf else "a number"
    start = kind if low == -math.inf else f"{kind} above {low}" if above else f"{kind} of at least {low}"
    end = "" if high == math.inf else f" and at most {high}"
    raise ValueError(f"{name}={value!r} must be {start}{end}{hint and '; '}{hint}")


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """
    :param name: of the argument
    :param value: one of the allowed values
    :param allowed: these
    :return: the value
    :raises ValueError: on anything else
    """
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{name}={value!r} must be one of {allowed}")


def switch(name: str, value: Any) -> bool:
    """
    :param name: of the argument
    :param value: True or False
    :return: the value as a bool
    :raises ValueError: on anything else, such as the string "False"
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{name}={value!r} must be True or False")


def instance_of(name: str, value: Any, kinds: Any, remedy: str) -> None:
    """
    :param name: of the argument
    :param value: an instance of one of the kinds
    :param kinds: a type, or a union of types
    :param remedy: what to write instead
    :raises ValueError: on anything else
    """
    if not isinstance(value, kinds):
        raise ValueError(f"{name}={value!r} is not supported: write {remedy}")


def environment(env: Any) -> GymEnv | str:
    """
    :param env: an environment, or its name
    :return: the same; an env of old Gym as SB3 wraps it for Gymnasium
    :raises ValueError: on anything else
    """
    if not isinstance(env, str | gym.Env | VecEnv):
        try:
            env = _patch_env(env)
        except ValueError as error:
            raise ValueError(f"env={env!r} is not supported: write an environment, or its name") from error
    return env


def subclass_of(name: str, value: Any, base: type, otherwise: str) -> None:
    """
    :param name: of the argument
    :param value: a subclass of ``base``
    :param base: a class
    :param otherwise: what else may be written
    :raises ValueError: on anything else
    """
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ValueError(f"{name}={value!r} must be {otherwise}, or a subclass of {base.__module__}.{base.__name__}")


def agreement(name: str, given: dict[str, Any], ours: dict[str, Any]) -> None:
    """
    :param name: of an argument that holds other arguments
    :param given: these
    :param ours: those of them that RainbowDQN itself has, and their values
    :raises ValueError: when an argument is given twice with two values
    """
    for key in given.keys() & ours.keys():
        if given[key] != ours[key]:
            raise ValueError(
                f"{name} has {key}={given[key]!r}, but RainbowDQN itself {key}={ours[key]!r}: write "
                f"RainbowDQN(..., {key}={given[key]!r}), or leave it out of {name}"
            )


def train_frequency(train_freq: Any) -> tuple[int, str]:
    """
    :param train_freq: a number of vectorised steps, or a tuple of a number and "step" or "episode"
    :return: such a tuple
    :raises ValueError: on anything else
    """
    frequency, unit = train_freq if isinstance(train_freq, tuple) and len(train_freq) == 2 else (train_freq, "step")
    unit = unit.value if isinstance(unit, TrainFrequencyUnit) else unit
    is_whole = isinstance(frequency, int | np.integer) and not isinstance(frequency, bool)
    if not is_whole or frequency < 1 or unit not in ("step", "episode"):
        raise ValueError(
            f"train_freq={train_freq!r} must be an integer of at least 1, or a tuple such as "
            '(4, "step") or (1, "episode")'
        )
    return int(frequency), unit


def learning_rate_or_schedule(learning_rate: Any) -> Any:
    """
    :param learning_rate: a number, also of NumPy or PyTorch, or a function of the progress remaining
    :return: a float, or the function
    :raises ValueError: on anything else, and on a function that starts with anything else
    """
    try:
        rate = learning_rate(1.0) if callable(learning_rate) else learning_rate
    except TypeError as error:
        raise ValueError(
            f"learning_rate={learning_rate!r} must be a number, or a function of the progress remaining, from 1 to 0: "
            f"{error}"
        ) from error
    is_scalar = isinstance(rate, np.ndarray | th.Tensor) and len(rate.reshape(-1)) == 1
    first = number("learning_rate", rate.item() if is_scalar else rate, 0)
    return learning_rate if callable(learning_rate) else first


def known_spaces(env: GymEnv) -> None:
    """
    :param env: an env
    :raises ValueError: when its actions are not Discrete, when SB3 cannot make tensors of its observations, or when
        the numbers of either do not start at 0
    """
    _discrete_actions(env.action_space)
    _known_observations(env.observation_space)


def _discrete_actions(space: spaces.Space) -> None:
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"action_space={space} is not supported: RainbowDQN chooses among Discrete actions. Wrap the env so that "
            "each number stands for an action"
        )
    if space.start != 0:
        raise ValueError(f"action_space={space} must start at 0: shift the actions in a wrapper of the env")


def _known_observations(space: spaces.Space) -> None:
    parts = {"observation_space": space}
    if isinstance(space, spaces.Dict):
        parts = {f"observation_space[{key!r}]": part for key, part in space.spaces.items()}
    if not parts:
        raise ValueError(f"observation_space={space} is empty: put a space into it")
    for name, part in parts.items():
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise ValueError(
                f"{name}={part} is not supported: wrap the env so that observations are Box, Discrete, MultiDiscrete "
                "or MultiBinary, or a Dict of these"
            )
        if isinstance(part, spaces.Box) and part.shape == ():
            raise ValueError(f"{name}={part} has no dimension: give the observations the shape (1,)")
        if isinstance(part, spaces.MultiDiscrete) and len(part.shape) != 1:
            raise ValueError(f"{name}={part} has {len(part.shape)} dimensions: flatten the observations to one")
        if np.any(getattr(part, "start", 0)):
            raise ValueError(f"{name}={part} must start at 0: shift the observations in a wrapper of the env")


def known_device(device: Any) -> th.device:
    """
    :param device: "auto", or what PyTorch calls a device
    :return: the device
    :raises ValueError: when PyTorch does not know it
    """
    try:
        return get_device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is unknown: write 'auto', 'cpu' or 'cuda' ({error})") from error


def _unwrapped(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | th.Tensor) and value.ndim == 0 else value


def _is_finite_number(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and (abs(value) <= float_info.max if isinstance(value, int) else math.isfinite(value))
