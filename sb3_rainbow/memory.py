"""Ground floor: memory that is used again."""

import ctypes
import math
import os
import threading
import weakref
from typing import Any

import numpy as np

# Smaller arrays come from memory that the allocator keeps; larger ones would be held for too long
_SMALLEST_BYTES, _LARGEST_BYTES = 2**16, 2**27
# Observations and next observations, of the batch that is being learned from and of the one being made
_KEPT = 4

# Two threads that draw at a time must not be handed the same memory
_LOCK = threading.Lock()

# Of glibc's malloc.h; what is smaller than the second is kept when it is freed, up to the first in all
_M_TRIM_THRESHOLD, _TRIM_BYTES = -1, 2**28
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 2**24  # below the chunks of a large replay, which go back to the system


def keep_freed_memory() -> None:
    """
    Have the allocator keep memory that is freed for the next gradient step: up to 256 MiB at the end of each heap of
    this process, and what lies below memory that is still held.

    Left alone, glibc gives it back to the system after each step and then has it mapped page by page again, which takes
    a sixth of a gradient step of small convolutions. Does nothing where malloc is not glibc's, or where one of its
    environment variables says what it should do.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ) or os.name != "posix":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


class ReusedArrays:
    """
    Hands out uninitialised arrays, in memory that nobody holds any more.

    The system maps a large new array page by page as it is written, which costs several times what writing it does.
    Whoever holds an array, a view of it or a tensor made of it keeps it: its memory is not handed out again then.
    """

    def __init__(self) -> None:
        # Blocks of memory, and what was handed out of each: views and tensors of it hold it, never the block
        self._blocks: list[tuple[np.ndarray, weakref.ref]] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """
        :param shape: of the array
        :param dtype: of the array
        :return: an array of any content
        """
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if not _SMALLEST_BYTES <= n_bytes <= _LARGEST_BYTES:
            return np.empty(shape, dtype=dtype)
        with _LOCK:
            free = [block for block, held in self._blocks if held() is None and block.nbytes == n_bytes]
            block = free[0] if free else np.empty(n_bytes, dtype=np.uint8)
            # Of a memoryview, because a view of a view of an array holds just that array
            array = np.frombuffer(block.data, dtype=dtype)
            # Free ones of another size are let go: the next batches will be as large as this one
            others = [entry for entry in self._blocks if entry[0] is not block]
            others = [(other, held) for other, held in others if other.nbytes == n_bytes or held() is not None]
            self._blocks = [*others[1 - _KEPT :], (block, weakref.ref(array))]
        return array.reshape(shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"_blocks": []}
