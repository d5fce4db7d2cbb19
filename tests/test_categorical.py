"""The projection against hand-computed numbers and against the loop of the paper."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_rainbow.categorical import cross_entropy, entropy, project_onto_support


def loop_projection(probs, returns, discounts, support):
    """Algorithm 1 of https://arxiv.org/abs/1707.06887, atom by atom, in Python floats."""
    n = len(support)
    low, spacing = support[0], (support[-1] - support[0]) / (n - 1)
    rows = []
    for row, (ret,), (discount,) in zip(probs, returns, discounts, strict=True):
        out = [0.0] * n
        for p, z in zip(row, support, strict=True):
            place = min((min(max(ret + discount * z, low), support[-1]) - low) / spacing, n - 1)
            lower = math.floor(place)
            share = place - lower
            out[lower] += p * (1 - share)
            if share > 0:
                out[lower + 1] += p * share
        rows.append(out)
    return rows


def test_hand_computed():
    support = th.tensor([0.0, 1.0, 2.0, 3.0])
    probs = th.tensor([[0.1, 0.2, 0.3, 0.4]])
    # 0.5 + 0.5 * z lies at 0.5, 1, 1.5, 2
    projected = project_onto_support(probs, th.tensor([[0.5]]), th.tensor([[0.5]]), support)
    expected = [[0.05, 0.05 + 0.2 + 0.15, 0.15 + 0.4, 0.0]]
    th.testing.assert_close(projected, th.tensor(expected))


@pytest.mark.parametrize("at", range(5))
def test_a_target_exactly_on_an_atom_keeps_all_its_mass_there(at):
    """The first and the last atom, and those between: a terminal return on each."""
    support = th.linspace(-2, 2, 5)
    projected = project_onto_support(th.full((1, 5), 0.2), support[at].reshape(1, 1), th.zeros(1, 1), support)
    th.testing.assert_close(projected, th.eye(5)[[at]])


@pytest.mark.parametrize(("far", "atom"), [(100.0, 4), (-100.0, 0)])
def test_mass_beyond_an_end_goes_to_the_end_atom(far, atom):
    support = th.linspace(-2, 2, 5)
    projected = project_onto_support(th.full((1, 5), 0.2), th.tensor([[far]]), th.ones(1, 1), support)
    assert projected[0, atom].item() == pytest.approx(1.0)


@given(
    n_atoms=st.integers(2, 60),
    low=st.floats(-100, 100),
    width=st.floats(0.1, 500),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=200, deadline=None)
def test_equals_the_loop_of_the_paper_and_loses_no_mass(n_atoms, low, width, seed):
    generator = th.Generator().manual_seed(seed)
    probs = th.rand(4, n_atoms, generator=generator, dtype=th.float64).softmax(1)
    returns = (th.rand(4, 1, generator=generator, dtype=th.float64) - 0.5) * 2 * width
    discounts = th.tensor([[0.0], [0.99], [0.9], [1.0]], dtype=th.float64)
    support = th.linspace(low, low + width, n_atoms, dtype=th.float64)
    projected = project_onto_support(probs, returns, discounts, support)
    th.testing.assert_close(projected.sum(1), th.ones(4, dtype=th.float64))
    assert (projected >= 0).all()
    expected = loop_projection(probs.tolist(), returns.tolist(), discounts.tolist(), support.tolist())
    # Where rounding moves a place across an atom the share on both sides is next to nothing
    th.testing.assert_close(projected, th.tensor(expected, dtype=th.float64), atol=1e-9, rtol=0)


def test_the_mean_is_kept_where_nothing_is_cut_off():
    support = th.linspace(-10, 10, 51)
    probs = th.rand(8, 51).softmax(1)
    projected = project_onto_support(probs, th.full((8, 1), 0.3), th.full((8, 1), 0.5), support)
    th.testing.assert_close(projected @ support, 0.3 + 0.5 * (probs @ support))


def test_shapes_that_would_broadcast_are_refused():
    support, probs = th.linspace(0, 1, 5), th.full((3, 5), 0.2)
    column = th.zeros(3, 1)
    with pytest.raises(ValueError, match=r"returns has shape \(3,\), expected \(3, 1\)"):
        project_onto_support(probs, th.zeros(3), column, support)
    with pytest.raises(ValueError, match=r"discounts has shape \(1, 1\)"):
        project_onto_support(probs, column, th.zeros(1, 1), support)
    with pytest.raises(ValueError, match=r"support has shape \(4,\), next_probs \(3, 5\)"):
        project_onto_support(probs, column, column, support[:4])
    with pytest.raises(ValueError, match=r"target_probs has shape \(3, 5\), log_probs \(3, 1\)"):
        cross_entropy(probs, column)


def test_cross_entropy_and_entropy_by_hand():
    target = th.tensor([[0.5, 0.5, 0.0]])
    log_probs = th.tensor([[0.25, 0.25, 0.5]]).log()
    th.testing.assert_close(cross_entropy(target, log_probs), th.tensor([math.log(4)]))
    th.testing.assert_close(entropy(target), th.tensor([math.log(2)]))


def test_no_gradient_flows_through_the_projection():
    logits = th.randn(2, 5, requires_grad=True)
    projected = project_onto_support(logits.softmax(1), th.zeros(2, 1), th.ones(2, 1), th.linspace(0, 1, 5))
    assert not projected.requires_grad
