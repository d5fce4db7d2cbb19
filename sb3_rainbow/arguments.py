"""Ground floor: checks of what a user passes. Each names the argument, its value and what is allowed."""

import math
from typing import Any

import numpy as np


def whole_number(name: str, value: Any, at_least: int) -> int:
    """
    :param name: of the argument
    :param value: an integer, or a float without a fraction such as 1e6
    :param at_least: smallest allowed value
    :return: the value as an int
    :raises ValueError: on anything else
    """
    if _is_finite_number(value) and value == int(value) and value >= at_least:
        return int(value)
    raise ValueError(f"{name}={value!r} must be a whole number of at least {at_least}")


def number(name: str, value: Any, low: float, high: float = math.inf, above: bool = False, hint: str = "") -> float:
    """
    :param name: of the argument
    :param value: a finite number
    :param low: smallest allowed value
    :param high: largest allowed value
    :param above: ``low`` itself is not allowed
    :param hint: what to write instead
    :return: the value as a float
    :raises ValueError: on anything else
    """
    if _is_finite_number(value) and low <= value <= high and not (above and value == low):
        return float(value)
    start = f"above {low}" if above else f"at least {low}"
    end = "" if high == math.inf else f" and at most {high}"
    raise ValueError(f"{name}={value!r} must be a number of {start}{end}{hint and '; '}{hint}")


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


def _is_finite_number(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
