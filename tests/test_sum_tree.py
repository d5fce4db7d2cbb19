"""The tree against a naive twin, and the statistics of its draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sb3_rainbow import SumTree

pytestmark = pytest.mark.usefixtures("with_and_without_numba")
CAPACITIES = [1, 2, 3, 31, 32, 33, 100, 1000, 1023, 1025, 5000]


def naive_find(priorities, mass):
    """The first leaf whose running sum exceeds the mass, in exact integer arithmetic."""
    running = 0
    for index, priority in enumerate(priorities):
        running += priority
        if running > mass:
            return index
    raise AssertionError("mass beyond the total")


@given(
    st.integers(1, 3000).flatmap(
        lambda capacity: st.tuples(
            st.just(capacity),
            st.lists(st.tuples(st.integers(0, capacity - 1), st.integers(0, 1000)), min_size=1, max_size=60),
        )
    )
)
@settings(max_examples=200, deadline=None)
def test_finds_what_a_naive_running_sum_finds(case):
    capacity, updates = case
    tree, twin = SumTree(capacity), [0] * capacity
    for index, priority in updates:
        tree.update(np.array([index]), np.array([priority]))
        twin[index] = priority
    assert tree.total == sum(twin)
    np.testing.assert_array_equal(tree[np.arange(capacity)], twin)
    if sum(twin):
        masses = np.unique(np.linspace(0, sum(twin) - 1, 40).astype(int))
        expected = [naive_find(twin, mass) for mass in masses]
        np.testing.assert_array_equal(tree.find(masses.astype(float)), expected)


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_every_leaf_can_be_found_in_order_at_any_capacity(capacity):
    tree = SumTree(capacity)
    tree.update(np.arange(capacity), np.ones(capacity))
    np.testing.assert_array_equal(tree.find(np.arange(capacity) + 0.5), np.arange(capacity))


def test_the_same_index_twice_in_one_update_counts_once():
    tree = SumTree(100)
    tree.update(np.array([7, 50, 7]), np.array([5.0, 2.0, 3.0]))
    assert tree.total == 5.0
    assert tree[7] == 3.0


def test_a_million_random_updates_leave_sums_as_exact_as_fresh_ones():
    """Sizes from 1e-9 to 1e9 come and go: what is added and subtracted would lose the small ones for ever."""
    rng = np.random.default_rng(0)
    capacity, batch = 1000, 500
    tree, twin = SumTree(capacity), np.zeros(capacity)
    for step in range(2000):  # 2,000 x 500 = a million
        indices = rng.integers(0, capacity, batch)
        priorities = 10.0 ** rng.uniform(-9, 9, batch)
        priorities[rng.random(batch) < 0.3] = 0
        tree.update(indices, priorities)
        twin[indices] = priorities  # numpy, too, keeps the last of equal indices
        if step % 20 == 0:
            np.testing.assert_array_equal(tree[np.arange(capacity)], twin)
            drawn = tree.draw(64, np.random)
            assert (twin[drawn] > 0).all()
    fresh = SumTree(capacity)
    fresh.update(np.arange(capacity), twin)
    assert tree.total == fresh.total
    tree.update(np.arange(capacity), np.zeros(capacity))
    assert tree.total == 0.0


def test_no_draw_has_zero_priority_even_where_rounding_oversteps():
    """A single float32-sized sum or a mass at the very end of a node would fall into one of the empty leaves."""
    capacity = 4096
    for seed in range(50):
        rng = np.random.default_rng(seed)
        priorities = np.where(rng.random(capacity) < 0.9, 0, 10.0 ** rng.uniform(-12, 3, capacity))
        tree = SumTree(capacity)
        tree.update(np.arange(capacity), priorities)
        edges = np.cumsum(priorities)
        masses = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf), [0, tree.total]])
        masses = np.minimum(masses, tree.total)
        assert (priorities[tree.find(masses)] > 0).all()


@pytest.mark.parametrize("capacity", [5, 100, 1000])
def test_draws_are_proportional_to_priority(capacity):
    """Chi-square test at an error rate of 1e-6 for each of the three capacities, none a power of two."""
    rng = np.random.default_rng(capacity)
    priorities = rng.random(capacity) + 0.05
    tree = SumTree(capacity)
    tree.update(np.arange(capacity), priorities)
    # One at a time: within a batch draws come from strata, which fit better than chance would have it
    random = np.random.RandomState(1)
    drawn = np.concatenate([tree.find(random.random_sample(500) * tree.total) for _ in range(400)])
    counts = np.bincount(drawn, minlength=capacity)
    expected = priorities / priorities.sum() * len(drawn)
    assert stats.chisquare(counts, expected).pvalue > 1e-6


def test_a_batch_takes_one_from_each_share_of_the_total():
    tree = SumTree(64)
    tree.update(np.arange(64), np.ones(64))
    for seed in range(20):
        np.testing.assert_array_equal(tree.draw(64, np.random.RandomState(seed)), np.arange(64))


@pytest.mark.parametrize(
    ("indices", "priorities", "named"),
    [
        ([0], [np.nan], "nan"),
        ([0], [np.inf], "inf"),
        ([0], [-1.0], "-1"),
        ([10], [1.0], "10"),
        ([-1], [1.0], "-1"),
        ([0, 9], [1e308, 1e308], r"1\.e\+308"),
        (0, 5.0, r"shape \(\)"),
        ([[0]], [[2.0]], r"shape \(1, 1\)"),
        ([0, 1], [2.0], r"shape \(2,\)"),
        ([0.9], [2.0], r"indices=\[0.9\] must be integers"),
        ([True, False], [2.0, 3.0], "must be integers"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_written(indices, priorities, named):
    tree = SumTree(10)
    tree.update(np.arange(10), np.ones(10))
    with pytest.raises(ValueError, match=named):
        tree.update(np.array(indices), np.array(priorities))
    assert tree.total == tree[np.arange(10)].sum() == 10


def test_priorities_may_be_a_view_of_the_tree():
    tree = SumTree(10)
    tree.update(np.arange(10), np.arange(1.0, 11.0))
    tree.update(np.arange(1, 5), tree[0:4])
    assert tree[np.arange(10)].tolist() == [1, 1, 2, 3, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("capacity", [3, 7, 1000])
def test_the_largest_priorities_have_a_finite_sum(capacity):
    tree = SumTree(capacity)
    with pytest.raises(ValueError, match="priorities must be 0 to") as error:
        tree.update(np.arange(capacity), np.inf)
    largest = float(str(error.value).split("0 to ")[1].split(",")[0])
    tree.update(np.arange(capacity), 0.99 * largest)
    assert np.isfinite(tree.total)
    assert set(tree.draw(1000 * capacity, np.random)) == set(range(capacity))


def test_an_empty_tree_cannot_be_drawn_from():
    with pytest.raises(ValueError, match="all priorities are zero"):
        SumTree(10).draw(1, np.random)
    for capacity in (0, 2.5, "5", None):
        with pytest.raises(ValueError, match=f"capacity={capacity!r}"):
            SumTree(capacity)


@pytest.mark.parametrize("mass", [np.nan, -1.0, 10.1, np.inf])
def test_masses_out_of_range_are_refused(mass):
    tree = SumTree(10)
    tree.update(np.arange(10), np.ones(10))
    with pytest.raises(ValueError, match="masses must be in 0 to the total of 10"):
        tree.find(np.array([1.0, mass]))
    with pytest.raises(ValueError, match=r"shape \(1, 1\)"):
        tree.find(np.array([[1.0]]))
    assert tree.find([0.5, 9.5]).tolist() == [0, 9]
    with pytest.raises(ValueError, match="batch_size=0"):
        tree.draw(0, np.random)
