"""Memory that is used again."""

import ctypes
import mmap
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch as th
from models import make
from stable_baselines3.common.envs import FakeImageEnv

from sb3_rainbow.memory import ReusedArrays

# Four large arrays are made and freed at once, again and again, as the activations of a gradient step are
COUNT_PAGE_FAULTS = """
import resource
import numpy as np
from sb3_rainbow.memory import keep_freed_memory
{call}
def step():
    arrays = [np.ones(2**19) for _ in range(4)]  # 4 MiB each
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_MANY = 10_000 * 4096 // mmap.PAGESIZE  # of 40,000 in pages of 4 KiB
needs_glibc = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="this malloc is not glibc's"
)


def page_faults(call="keep_freed_memory()", **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    # Without huge pages, of which one fault maps 512
    environment = kept | {"NUMPY_MADVISE_HUGEPAGE": "0"} | environment
    command = [sys.executable, "-c", COUNT_PAGE_FAULTS.format(call=call)]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@needs_glibc
def test_freed_memory_is_mapped_once():
    assert page_faults() < 100
    assert page_faults(call="") > _MANY


@pytest.mark.parametrize(
    ("policy", "env", "expected"),
    [("CnnPolicy", FakeImageEnv(screen_height=40, screen_width=40), True), ("MlpPolicy", "CartPole-v1", False)],
)
def test_only_training_with_convolutions_changes_what_malloc_does(policy, env, expected, monkeypatch):
    calls = []
    monkeypatch.setattr("sb3_rainbow.rainbow.keep_freed_memory", lambda: calls.append(True))
    model = make(env, policy, learning_starts=5)
    assert not calls
    model.learn(10)
    assert bool(calls) == expected


@needs_glibc
def test_what_the_environment_says_of_malloc_is_left_alone():
    assert page_faults(MALLOC_TRIM_THRESHOLD_="1000000") > _MANY


def test_memory_is_used_again_only_when_nobody_holds_it():
    """An array, a view of it and a tensor made of it are all held by whoever has them."""
    arrays = ReusedArrays()
    shape = (300, 300)
    first = arrays.empty(shape, np.uint8)
    first_at = first.ctypes.data
    view = arrays.empty(shape, np.uint8)[1:]
    tensor = th.from_numpy(arrays.empty(shape, np.uint8).reshape(-1))
    held = {first_at, view.base.ctypes.data, tensor.data_ptr()}
    assert len(held) == 3
    assert arrays.empty(shape, np.uint8).ctypes.data not in held
    del first
    again = arrays.empty(shape, np.uint8)
    assert again.ctypes.data == first_at
    assert arrays.empty(shape, np.float32).dtype == np.float32
    assert pickle.loads(pickle.dumps(arrays)).empty(shape, np.uint8).shape == shape


def test_two_threads_are_not_handed_the_same_memory(monkeypatch):
    arrays = ReusedArrays()
    arrays.empty((2**16,), np.uint8)  # nobody holds it: its memory is handed out again
    frombuffer = np.frombuffer

    def slowly(*args, **kwargs):
        time.sleep(0.2)  # the other thread looks for memory meanwhile
        return frombuffer(*args, **kwargs)

    monkeypatch.setattr(np, "frombuffer", slowly)
    with ThreadPoolExecutor(2) as pool:
        handed_out = list(pool.map(lambda _: arrays.empty((2**16,), np.uint8), range(2)))
    assert not np.shares_memory(*handed_out)


def test_memory_of_another_size_is_let_go():
    """Batches have one size: what larger ones had, such as all that is stored, is not kept for the next of them."""
    arrays = ReusedArrays()
    tracemalloc.start()
    try:
        held = arrays.empty((10**6,), np.uint8)
        for n_bytes in (4 * 10**7, 3 * 10**7, 2 * 10**7):
            arrays.empty((n_bytes,), np.uint8)
        assert tracemalloc.get_traced_memory()[0] > 2 * 10**7
        again = arrays.empty((10**6,), np.uint8)
        assert 2 * 10**6 < tracemalloc.get_traced_memory()[0] < 3 * 10**6
    finally:
        tracemalloc.stop()
    assert not np.shares_memory(held, again)
