"""Windows and returns against a walk in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rainbow.returns import discounted_range, n_step_returns, n_step_windows

pytestmark = pytest.mark.usefixtures("with_and_without_numba")


def walk(slot, env, n_steps, dones, timeouts, newest, size):
    """The rows of a window, one after the other."""
    rows = [slot]
    while len(rows) < n_steps and not dones[rows[-1], env] and not timeouts[rows[-1], env] and rows[-1] != newest:
        rows.append((rows[-1] + 1) % size)
    return rows


@given(
    size=st.integers(1, 12),
    n_envs=st.integers(1, 3),
    n_steps=st.integers(1, 10),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=300, deadline=None)
def test_equal_to_a_walk(size, n_envs, n_steps, seed):
    rng = np.random.default_rng(seed)
    dones = (rng.random((size, n_envs)) < 0.2).astype(np.float32)
    timeouts = ((rng.random((size, n_envs)) < 0.5) * dones + (rng.random((size, n_envs)) < 0.1)).astype(np.float32)
    rewards = rng.standard_normal((size, n_envs)).astype(np.float32)
    newest = int(rng.integers(size))
    slots, envs = (grid.ravel() for grid in np.meshgrid(np.arange(size), np.arange(n_envs)))
    rows, mask, last = n_step_windows(slots, envs, n_steps, dones, timeouts, newest)
    returns, discounts = n_step_returns(rewards[rows, envs[:, None]], mask, 0.9)
    assert returns.shape == discounts.shape == (size * n_envs, 1)
    for i, (slot, env) in enumerate(zip(slots, envs, strict=True)):
        expected = walk(slot, env, n_steps, dones, timeouts, newest, size)
        assert rows[i][mask[i]].tolist() == expected
        assert last[i] == expected[-1]
        assert returns[i, 0] == pytest.approx(
            sum(0.9**k * rewards[row, env] for k, row in enumerate(expected)), abs=1e-4
        )
        assert discounts[i, 0] == pytest.approx(0.9 ** len(expected), rel=1e-5)


def test_hand_computed():
    """Three steps from row 1: rewards 2, 3, then the episode ends. Row 4 is the newest: one step."""
    rewards = np.array([[1], [2], [3], [4], [5]], dtype=np.float32)
    dones = np.array([[0], [0], [1], [0], [0]], dtype=np.float32)
    slots, envs = np.array([1, 4, 3]), np.zeros(3, dtype=int)
    rows, mask, last = n_step_windows(slots, envs, 3, dones, np.zeros_like(dones), newest=4)
    returns, discounts = n_step_returns(rewards[rows, envs[:, None]], mask, 0.5)
    assert last.tolist() == [2, 4, 4]
    assert returns.ravel().tolist() == [2 + 0.5 * 3, 5, 4 + 0.5 * 5]
    assert discounts.ravel().tolist() == [0.25, 0.5, 0.25]


def test_the_range_of_discounted_returns():
    rewards = np.array([[1.0], [1.0], [-3.0], [1.0]])
    ends = np.array([[False], [True], [False], [False]])
    # From the end: 1; -3 + 0.5; then an episode of 1 and 1 + 0.5
    assert discounted_range(rewards, ends, 0.5) == (-2.5, 1.5)
