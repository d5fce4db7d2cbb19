"""Compiled loops and what stands in for them without Numba: the same results to the last bit."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rainbow import SumTree, loops
from sb3_rainbow.returns import n_step_windows


def trees_after(updates, capacity, masses):
    """What a tree holds after the updates, level by level, and what it finds, compiled and not."""
    for is_compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loops, "IS_COMPILED", is_compiled)
            tree = SumTree(capacity)
            for indices, priorities in updates:
                tree.update(indices, priorities)
            yield *tree._levels, tree.find(masses * tree.total)


@given(
    capacity=st.sampled_from([1, 31, 33, 1000, 5000, 70_000, 2_500_000]),  # up to three levels
    batch=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_trees_are_the_same(capacity, batch, seed):
    rng = np.random.default_rng(seed)
    updates = [(rng.integers(0, capacity, batch), 10.0 ** rng.uniform(-9, 9, batch)) for _ in range(3)]
    updates.append((updates[0][0], 0.0))
    updates.append((rng.integers(0, capacity, batch), 2.0))
    masses = np.concatenate([rng.random(batch), [0.0, 1.0]])
    for compiled, plain in zip(*trees_after(updates, capacity, masses), strict=True):
        np.testing.assert_array_equal(compiled, plain)


@pytest.mark.parametrize(("slot", "env"), [(3, 0), (-1, 0), (10**9, 0), (0, 2), (0, -1)])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_what_is_beyond_the_ring_is_not_read(slot, env, is_compiled, monkeypatch):
    monkeypatch.setattr(loops, "IS_COMPILED", is_compiled)
    ring = np.zeros((3, 2), dtype=np.float32)
    slots, envs = np.array([0, slot]), np.array([0, env])
    with pytest.raises(IndexError):
        n_step_windows(slots, envs, 2, ring, ring, 0)
    with pytest.raises(IndexError):
        loops.find_frames(np.zeros(3, dtype=np.int64), np.zeros((3, 2, 2, 4), dtype=np.uint8), slots, envs, 1)


SCRIPT = """
import numpy as np
from gymnasium import spaces
from sb3_rainbow import RainbowReplayBuffer, loops
assert not loops.IS_COMPILED
buffer = RainbowReplayBuffer(50, spaces.Box(0, 255, (4, 9, 9), np.uint8), spaces.Discrete(2), frame_stack=4)
stacks = np.random.randint(0, 256, (8, 9, 9), dtype=np.uint8)[np.arange(5)[:, None] + np.arange(4)]
for obs, next_obs in zip(stacks[:, None], stacks[1:, None]):
    buffer.add(obs, next_obs, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
batch = buffer.sample(8)
np.testing.assert_array_equal(batch.observations, stacks[batch.indices])
buffer.update_priorities(batch.indices, np.ones(8))
"""


@pytest.mark.parametrize(
    ("numba", "variables"),
    [
        ("raise ModuleNotFoundError('No module named numba', name='numba')", {}),
        ("raise ModuleNotFoundError('no libllvmlite', name='llvmlite')", {}),
        ("raise OSError('no libllvmlite')", {}),
        (None, {"NUMBA_DISABLE_JIT": "1"}),
    ],
    ids=["missing", "half missing", "broken", "switched off"],
)
def test_without_numba_everything_is_there(numba, variables, tmp_path):
    if numba:
        (tmp_path / "numba.py").write_text(numba)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)} | variables
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    is_said = "Numba is installed, but cannot be used: no libllvmlite" in run.stderr
    assert is_said is (numba is not None and "no libllvmlite" in numba)


def test_a_thread_that_asks_for_the_total_meanwhile_leaves_no_old_sum_behind():
    """Compiled code lets other threads run: what one of them reads in the middle of an update must not be kept."""
    tree = SumTree(2_000_000)
    tree.update(np.arange(2_000_000), 1.0)
    stop, asked = threading.Event(), [tree.total]

    def ask():
        while not stop.is_set():
            total = tree.total
            asked[:] = min(asked[0], total), max(asked[-1], total)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for size in (1.0, 3.0, 2.0):
            tree.update(np.arange(1_000_000), size)
            assert tree.total == 1_000_000 * (1 + size)
    finally:
        stop.set()
        asking.join()
    assert 2_000_000 <= asked[0] <= asked[-1] <= 4_000_000  # also in the middle of an update
