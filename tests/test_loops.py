"""Compiled loops and what stands in for them without Numba: the same results to the last bit."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rainbow import SumTree, loops


def trees_after(updates, capacity, masses):
    """What a tree holds after the updates, level by level, and what it finds, compiled and not."""
    for is_compiled in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loops, "IS_COMPILED", is_compiled)
            tree = SumTree(capacity)
            for indices, priorities in updates:
                tree.update(indices, priorities)
            yield *tree._levels, tree._top, tree.find(masses * tree.total)


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


def test_without_numba_everything_is_there():
    """In a process in which Numba cannot be imported, as it is not installed or refuses this NumPy."""
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from sb3_rainbow import SumTree, loops
assert not loops.IS_COMPILED
tree = SumTree(100)
tree.update(np.array([3, 7]), np.array([1.0, 2.0]))
assert set(tree.draw(30, np.random)) == {3, 7}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loops_are_compiled_where_nothing_can_be_written():
    """As in a container that runs as a user without a home."""
    code = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
import numpy as np
from sb3_rainbow import SumTree, loops
assert loops.IS_COMPILED
tree = SumTree(100)
tree.update(np.array([3, 7]), np.array([1.0, 2.0]))
assert set(tree.draw(30, np.random)) == {3, 7}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
