"""Ground floor: functions that torch compiles."""

import types
from functools import partial
from typing import Any

import torch as th


class Compiled:
    """
    A function of tensors and modules, the same but for rounding, which is compiled when it is first called. Copies and
    pickles of it are compiled anew.

    :param function: not a bound method: whoever copies its owner would go on with the owner itself
    :param dynamic: whether other sizes of tensors can be handled without compiling again. Default: from the second on
    :param options: of torch's Inductor
    :raises ValueError: when it is called, where there is no working compiler
    """

    def __init__(self, function: Any, dynamic: bool | None = None, **options: Any) -> None:
        self._made_of = function, dynamic, options
        # Of code of its own: torch keeps no more than 8 versions of one, whichever models they are of
        surroundings = function.__globals__, function.__name__, function.__defaults__, function.__closure__
        own = types.FunctionType(function.__code__.replace(), *surroundings)
        own.__kwdefaults__ = function.__kwdefaults__
        self._refusal: RuntimeError | None = None
        try:
            self._fast = th.compile(own, dynamic=dynamic, options=options)
        except RuntimeError as error:  # of a Python that is too new for this torch: a saved model may still play there
            self._refusal = error.with_traceback(None)  # its frames hold whatever is loaded

    def __call__(self, *args: Any) -> Any:
        if self._refusal is not None:
            raise ValueError(
                f"compile=True does not work on this machine: {self._refusal}. Write compile=False (a saved model may "
                "have been made with True)"
            ) from self._refusal
        try:
            return self._fast(*args)
        except th._dynamo.exc.ShortenTraceback as error:  # of a compiler that failed, or of one that is not there
            cause = getattr(error, "inner_exception", error)
            raise ValueError(
                f"compile=True does not work on this machine: {cause}. Install a C++ compiler, such as g++, and the "
                "headers of Python, on a GPU Triton too, or write compile=False (a saved model may have been made with "
                "True)"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        function, dynamic, options = self._made_of
        return partial(Compiled, **options), (function, dynamic)
