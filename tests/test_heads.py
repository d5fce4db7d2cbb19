"""Heads: Q-values, targets, losses and priorities by hand."""

import math

import pytest
import torch as th
from torch.nn import functional as F

from sb3_rainbow.heads import CategoricalHead, ScalarHead


def test_scalar_target_and_loss_by_hand():
    head = ScalarHead()
    next_outputs = th.tensor([[[1.0], [5.0]], [[2.0], [-3.0]]])
    target = head.target(next_outputs, th.tensor([[1], [0]]), th.tensor([[0.5], [1.0]]), th.tensor([[0.9], [0.0]]))
    th.testing.assert_close(target, th.tensor([[0.5 + 0.9 * 5], [1.0]]))
    outputs = th.tensor([[[4.5], [0.0]], [[9.0], [4.0]]], requires_grad=True)
    losses, priorities = head.loss(outputs, th.tensor([[0], [1]]), target)
    th.testing.assert_close(priorities, th.tensor([[0.5], [3.0]]))
    th.testing.assert_close(losses, th.tensor([[0.125], [2.5]]))  # Huber: quadratic to 1, then linear
    assert not priorities.requires_grad


def test_categorical_q_values_by_hand():
    head = CategoricalHead(3, v_min=-1, v_max=3)
    logits = th.tensor([[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]]).log()
    th.testing.assert_close(head.q_values(logits), th.tensor([[-0.2 + 0.3 + 1.5, -1.0]]))


def test_categorical_loss_is_the_cross_entropy_and_the_priority_the_divergence():
    head = CategoricalHead(2, 0, 1)
    outputs = th.tensor([[[0.5, 0.5]]]).log().requires_grad_()
    losses, priorities = head.loss(outputs, th.tensor([[0]]), th.tensor([[0.25, 0.75]]))
    assert losses.item() == pytest.approx(math.log(2))
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert priorities.item() == pytest.approx(divergence)
    assert not priorities.requires_grad


def test_categorical_loss_is_that_of_the_action_taken():
    head = CategoricalHead(2, 0, 1)
    outputs = th.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]]]).log()
    losses, _ = head.loss(outputs, th.tensor([[1], [0]]), th.tensor([[1.0, 0.0], [0.0, 1.0]]))
    th.testing.assert_close(losses, -th.tensor([[0.9], [0.8]]).log())


def test_a_perfect_prediction_has_priority_zero_never_below():
    head = CategoricalHead(51, -10, 10)
    outputs = th.randn(500, 1, 51) * 5
    _, priorities = head.loss(outputs, th.zeros(500, 1), outputs[:, 0].softmax(1))
    assert priorities.min() >= 0
    assert priorities.max() < 1e-5


def test_the_gradient_does_not_vanish_where_the_prediction_is_certain_and_wrong():
    """A probability clamped before its logarithm has no gradient just where it is needed."""
    head = CategoricalHead(2, 0, 1)
    outputs = th.tensor([[[60.0, -60.0]]], requires_grad=True)
    losses, _ = head.loss(outputs, th.tensor([[0]]), th.tensor([[0.0, 1.0]]))
    losses.sum().backward()
    th.testing.assert_close(outputs.grad, th.tensor([[[1.0, -1.0]]]))
    assert losses.item() == pytest.approx(120.0)


def test_a_support_that_starts_at_zero_does():
    support = CategoricalHead(3, v_min=0, v_max=4).support
    assert support.tolist() == [0, 2, 4]


def test_the_share_of_the_end_atoms():
    target = th.tensor([[0.1, 0.2, 0.7], [0.0, 1.0, 0.0]])
    watched = CategoricalHead(3, 0, 1).watch(target)
    assert watched["support_edge"].item() == pytest.approx(0.4)
    assert ScalarHead().watch(target) == {}


@pytest.mark.parametrize("head", [ScalarHead(), CategoricalHead(5, -1, 1)], ids=["scalar", "categorical"])
def test_no_gradient_flows_into_the_target(head):
    next_outputs = th.randn(4, 3, head.size, requires_grad=True)
    target = head.target(next_outputs, th.zeros(4, 1, dtype=th.long), th.zeros(4, 1), th.ones(4, 1))
    assert target.shape == (4, head.size)
    assert not target.requires_grad


@pytest.mark.parametrize("head", [ScalarHead(), CategoricalHead(5, -1, 1)], ids=["scalar", "categorical"])
def test_losses_have_the_shape_of_weights(head):
    """(batch,) times (batch, 1) would be a silent (batch, batch)."""
    target = F.softmax(th.randn(4, head.size), dim=1)
    losses, priorities = head.loss(th.randn(4, 3, head.size), th.zeros(4, 1, dtype=th.long), target)
    assert losses.shape == priorities.shape == (4, 1)
    with pytest.raises(ValueError, match=r"actions has shape \(4,\), expected \(4, 1\)"):
        head.loss(th.randn(4, 3, head.size), th.zeros(4, dtype=th.long), target)
    with pytest.raises(ValueError, match=r"target.* has shape \(4,\)"):
        head.loss(th.randn(4, 3, head.size), th.zeros(4, 1, dtype=th.long), target[:, 0])
    outputs, actions, column = th.randn(4, 3, head.size), th.zeros(4, 1, dtype=th.long), th.zeros(4, 1)
    for returns, discounts in ((column[:, 0], column), (column, column[:, 0]), (column[:1], column)):
        with pytest.raises(ValueError, match=r"(returns|discounts) has shape \(\d,( 1)?\), expected \(4, 1\)"):
            head.target(outputs, actions, returns, discounts)
