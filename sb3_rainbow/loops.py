"""
Ground floor: loops that Numba compiles, where it is installed (the extra ``numba``).

Where it is not, ``sum_tree``, ``returns`` and ``frames`` do the same in NumPy, with the same results to the last bit. A
batch of 32 takes so few operations that NumPy spends most of the time on being called.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import numba
    from numba.core import cgutils
    from numba.extending import intrinsic
except Exception as error:
    # It is not there; or a NumPy that it does not know yet, or a library of the system is missing
    IS_COMPILED = False
    if getattr(error, "name", None) != "numba":
        warnings.warn(f"Numba is installed, but cannot be used: {error}. Replay will be slower", stacklevel=2)
else:
    IS_COMPILED = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]

# Children of a sum tree's node. 32 was the fastest of 16 to 256 in NumPy at one million leaves: fewer levels cost less
# Python, wider nodes cost more arithmetic.
WIDTH = 32


def _compiled(function: Callable) -> Callable:
    """
    Compile a function when it is first called.

    What is compiled is not kept in files, which may be cut short or have no room: that would save a second or two.
    """
    return numba.njit(function, nogil=True) if IS_COMPILED else function


if IS_COMPILED:

    @intrinsic
    def _copy_bytes(typing_context: Any, target: Any, source: Any, n_bytes: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointers = [builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2]]
            cgutils.raw_memcpy(builder, pointers[0], pointers[1], arguments[2], 1)
            return context.get_dummy_value()

        return numba.types.void(numba.intp, numba.intp, numba.intp), generate


@_compiled
def _sum_of_node(numbers: np.ndarray) -> float:
    """In the order in which NumPy adds, so that both round alike."""
    a = b = c = d = e = f = g = h = 0.0
    for start in range(0, WIDTH, 8):
        a += numbers[start]
        b += numbers[start + 1]
        c += numbers[start + 2]
        d += numbers[start + 3]
        e += numbers[start + 4]
        f += numbers[start + 5]
        g += numbers[start + 6]
        h += numbers[start + 7]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@_compiled
def write_to_tree(
    levels: tuple[np.ndarray, ...],
    top: np.ndarray,
    indices: np.ndarray,
    priorities: np.ndarray,
    capacity: int,
    largest: float,
) -> bool:
    """
    :param levels: of a sum tree, leaves first, (n_nodes, 32) each
    :param top: sums of the last level's nodes
    :param indices: (batch,) of leaves
    :param priorities: (batch,) what becomes of them
    :param capacity: indices are below this
    :param largest: priorities are 0 to this
    :return: whether they are; otherwise nothing has been written
    """
    for i in range(len(indices)):
        if not (0 <= indices[i] < capacity and 0 <= priorities[i] <= largest):  # NaN is neither
            return False
    leaves = levels[0].reshape(-1)
    for i in range(len(indices)):
        leaves[indices[i]] = priorities[i]
    width = 1
    for depth in range(len(levels)):
        width *= WIDTH
        sums = levels[depth + 1].reshape(-1) if depth + 1 < len(levels) else top
        for index in indices:
            sums[index // width] = _sum_of_node(levels[depth][index // width])
    return True


@_compiled
def _first_beyond(numbers: np.ndarray, mass: float) -> tuple[int, float, float]:
    """Where the running sum first exceeds a mass, or the last place; the sum before it, and with it"""
    index, before, running = 0, 0.0, numbers[0]
    while running <= mass and index + 1 < len(numbers):
        index += 1
        before = running
        running += numbers[index]
    return index, before, running


@_compiled
def find_in_tree(levels: tuple[np.ndarray, ...], sums: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """
    :param levels: of a sum tree, leaves first, (n_nodes, 32) each
    :param sums: running sums of the top node
    :param masses: (batch,) below the last of these
    :return: (batch,) indices of leaves
    """
    nodes = np.searchsorted(sums, masses, side="right")
    rest = masses.copy()
    for i in range(len(nodes)):
        if nodes[i] > 0:
            rest[i] -= sums[nodes[i] - 1]
    touched = 0.0
    for depth in range(len(levels) - 1, -1, -1):
        level = levels[depth]
        # Reads of every cache line, without branches between: the processor waits for many of them at a time
        for node in nodes:
            for child in range(0, WIDTH, 8):
                touched += level[node, child]
        for i in range(len(nodes)):
            child, before, running = _first_beyond(level[nodes[i]], rest[i])
            if running <= rest[i]:  # rounding left a mass at or beyond the node's end
                rest[i] = np.nextafter(running, 0.0)
                child, before, running = _first_beyond(level[nodes[i]], rest[i])
            rest[i] -= before
            nodes[i] = nodes[i] * WIDTH + child
    if touched < 0:  # it never is, but what nothing depends on would not be read
        raise AssertionError
    return nodes


@_compiled
def _require_row(slot: int, env: int, shape: tuple[int, ...]) -> None:
    if not (0 <= slot < shape[0] and 0 <= env < shape[1]):  # compiled code would read whatever is there
        raise IndexError("this transition is beyond the ends of the ring")


@_compiled
def follow_windows(
    slots: np.ndarray, envs: np.ndarray, n_steps: int, dones: np.ndarray, timeouts: np.ndarray, newest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    As ``returns.n_step_windows``.

    :raises IndexError: on a transition that is beyond the ends of the ring
    """
    rows = np.empty((len(slots), n_steps), dtype=np.int64)
    counts = np.empty((len(slots), n_steps), dtype=np.bool_)
    last = np.empty(len(slots), dtype=np.int64)
    for i in range(len(slots)):
        _require_row(slots[i], envs[i], dones.shape)
        row, env, is_open = slots[i], envs[i], True
        for step in range(n_steps):
            rows[i, step], counts[i, step] = row, is_open
            if is_open:
                last[i] = row
                is_open = dones[row, env] == 0 and timeouts[row, env] == 0 and row != newest
            row = row + 1 if row + 1 < len(dones) else 0
    return rows, counts, last


@_compiled
def find_frames(ends: np.ndarray, ages: np.ndarray, slots: np.ndarray, envs: np.ndarray, which: int) -> np.ndarray:
    """
    :param ends: (n_slots,) ids that came after those of a slot
    :param ages: (n_slots, n_envs, 2, n_frames) how far before that an id is; 0 for a frame of zeros
    :param slots: (batch,)
    :param envs: (batch,)
    :param which: 0: of the observation, 1: of the next one
    :return: (batch, n_frames) ids; -1 for a frame of zeros
    :raises IndexError: on a transition that is beyond the ends of the ring
    """
    n_frames = ages.shape[3]
    ids = np.empty((len(slots), n_frames), dtype=np.int64)
    for i in range(len(slots)):
        _require_row(slots[i], envs[i], ages.shape)
        for frame in range(n_frames):
            age = ages[slots[i], envs[i], which, frame]
            ids[i, frame] = ends[slots[i]] - age if age else -1
    return ids


@_compiled
def copy_frames(
    first_number: int, chunks: np.ndarray, chunk_frames: int, frame_bytes: int, ids: np.ndarray, out: np.ndarray
) -> None:
    """
    :param first_number: of the first chunk; chunk k has the frames k * chunk_frames and following
    :param chunks: (n_chunks,) where they are in memory
    :param chunk_frames: number of frames in each
    :param frame_bytes: bytes of a frame
    :param ids: (n,) of frames; a negative one is a frame of zeros
    :param out: (n * frame_bytes,) uint8, into which they are copied
    :raises IndexError: on a frame that is in no chunk
    """
    for i in range(len(ids)):
        target = out[i * frame_bytes : (i + 1) * frame_bytes]
        if ids[i] < 0:
            target[:] = 0
            continue
        number = ids[i] // chunk_frames - first_number
        if not 0 <= number < len(chunks):
            raise IndexError("this frame is not kept any more")
        source = chunks[number] + ids[i] % chunk_frames * frame_bytes
        _copy_bytes(target.ctypes.data, source, frame_bytes)  # type: ignore[call-arg]  # an intrinsic's first is its context
