"""Which ids are drawn, how often, and with what weights."""

import numpy as np
import pytest
from scipy import stats

from sb3_rainbow.sampling import PrioritizedSampler, UniformSampler, importance_weights


@pytest.mark.parametrize("capacity", [6, 100, 777])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_drawn_ids_fit_priority_to_the_power_of_alpha(capacity, alpha):
    """
    Chi-square test at an error rate of 1e-6 for each of nine cases, at capacities that are no power of two.

    Batches of one: within a larger batch, strata fit better than chance would.
    """
    rng = np.random.default_rng(capacity)
    priorities = 10.0 ** rng.uniform(-1, 1, capacity)
    sampler = PrioritizedSampler(capacity, alpha)
    sampler.add(np.arange(capacity))
    sampler.update(np.arange(capacity), priorities)
    random = np.random.RandomState(0)
    drawn, probabilities = zip(*(sampler.draw(1, random) for _ in range(30_000)), strict=True)
    drawn = np.concatenate(drawn)
    expected = priorities**alpha / (priorities**alpha).sum()
    assert stats.chisquare(np.bincount(drawn, minlength=capacity), expected * len(drawn)).pvalue > 1e-6
    np.testing.assert_allclose(np.concatenate(probabilities), expected[drawn])


def test_batches_fit_too():
    """
    The mean count of each id over batches of 32 against its probability, at an error rate below 1e-6.

    A count's variance is at most that of independent draws, so 6 standard errors bound it for all 50 ids together.
    """
    priorities = np.linspace(0.1, 3, 50)
    sampler = PrioritizedSampler(50, 1.0)
    sampler.add(np.arange(50))
    sampler.update(np.arange(50), priorities)
    random = np.random.RandomState(0)
    n_batches = 3000
    counts = sum(np.bincount(sampler.draw(32, random)[0], minlength=50) for _ in range(n_batches))
    expected = priorities / priorities.sum() * 32 * n_batches
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()


def test_new_ids_enter_at_the_highest_priority_seen_so_far_with_alpha_applied_once():
    sampler = PrioritizedSampler(10, 0.5)
    sampler.add(np.array([0, 1]))
    assert sampler.tree[0] == 1.0
    sampler.update(np.array([0]), np.array([16.0]))
    assert sampler.tree[0] == 4.0  # 16 ** 0.5
    sampler.add(np.array([2]))
    assert sampler.tree[2] == 4.0  # not (16 ** 0.5) ** 0.5, nor 16
    assert sampler.max_priority == 16.0


def test_the_highest_priority_is_that_of_all_time():
    """Neither the highest still stored, nor 1 for ever."""
    sampler = PrioritizedSampler(10, 1.0)
    sampler.add(np.array([0]))
    sampler.update(np.array([0]), np.array([5.0]))
    sampler.update(np.array([0]), np.array([0.1]))
    sampler.add(np.array([1]))
    assert sampler.tree[1] == 5.0


def test_the_last_id_of_a_capacity_that_is_no_power_of_two_is_drawn():
    sampler = PrioritizedSampler(5, 0.5)
    sampler.add(np.arange(5))
    random = np.random.RandomState(0)
    assert set(sampler.draw(500, random)[0]) == set(range(5))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_priorities_are_refused_before_the_tree_is_touched(bad):
    sampler = PrioritizedSampler(10, 0.5)
    sampler.add(np.arange(10))
    with pytest.raises(ValueError, match="finite and above 0"):
        sampler.update(np.array([0, 1]), np.array([3.0, bad]))
    assert sampler.tree.total == 10.0
    assert sampler.max_priority == 1.0


def test_weights_are_divided_by_the_maximum_of_the_batch():
    """By hand: probabilities 0.1 and 0.4, beta 0.5: (N * p) ** -0.5 is in the ratio 2 to 1 for any N."""
    np.testing.assert_allclose(importance_weights(np.array([0.1, 0.4]), 0.5), [1.0, 0.5])
    np.testing.assert_allclose(importance_weights(np.array([0.1, 0.4]), 1.0), [1.0, 0.25])
    np.testing.assert_allclose(importance_weights(np.array([0.1, 0.4]), 0.0), [1.0, 1.0])


def test_uniform_draws_are_those_of_stable_baselines3():
    sampler = UniformSampler(n_envs=3)
    sampler.add(np.arange(30))
    ids, probabilities = sampler.draw(8, np.random.RandomState(4))
    random = np.random.RandomState(4)
    slots, envs = random.randint(0, 10, size=8), random.randint(0, 3, size=8)
    np.testing.assert_array_equal(ids, slots * 3 + envs)
    np.testing.assert_allclose(probabilities, 1 / 30)
