"""Ground floor: functions that torch compiles."""

import types
from collections.abc import Callable
from typing import Any

import torch as th


def compiled(function: Any, dynamic: bool | None = None, **options: Any) -> Callable:
    """
    Compile a function of tensors and modules, when it is first called.

    :param function: not a bound method: whoever copies its owner would go on with the owner itself
    :param dynamic: whether other sizes of tensors can be handled without compiling again. Default: from the second on
    :param options: of torch's Inductor
    :return: the same function but for rounding
    :raises ValueError: when it is called, where there is no working compiler
    """
    # Of code of its own: torch keeps no more than 8 versions of one, whichever models they are of
    code = function.__code__.replace()
    own = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    fast = th.compile(own, dynamic=dynamic, options=options)

    def call(*args: Any) -> Any:
        try:
            return fast(*args)
        except th._dynamo.exc.BackendCompilerFailed as error:
            raise ValueError(
                f"compile=True does not work on this machine: {error.inner_exception}. Install a C++ compiler, such as "
                "g++, and the headers of Python, or write compile=False (a saved model may have been made with True)"
            ) from error

    return call
