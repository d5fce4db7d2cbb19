"""Ground floor: memory that is used again."""

import sys
from typing import Any

import numpy as np

# Smaller arrays come from memory that the allocator keeps; larger ones would be held for too long
_SMALLEST_BYTES, _LARGEST_BYTES = 2**16, 2**27
# Observations and next observations, of the batch that is being learned from and of the one being made
_KEPT = 4


class ReusedArrays:
    """
    Hands out uninitialised arrays, again those that nobody holds any more.

    The system maps a large new array page by page as it is written, which costs several times what writing it does.
    Whoever holds an array, a view of it or a tensor made of it keeps it: it is not handed out again then.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """
        :param shape: of the array
        :param dtype: of the array
        :return: an array of any content
        """
        for index in range(len(self._arrays)):
            if self._arrays[index].shape == shape and self._arrays[index].dtype == dtype:
                array = self._arrays[index]
                if sys.getrefcount(array) == 3:  # in the list, here, and as an argument
                    return array
        array = np.empty(shape, dtype=dtype)
        if _SMALLEST_BYTES <= array.nbytes <= _LARGEST_BYTES:
            self._arrays = [*self._arrays[1 - _KEPT :], array]
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {"_arrays": []}
