"""First floor: what a network's outputs mean. A head owns its distribution; a new kind of head is a new class."""

from abc import ABC, abstractmethod

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_rainbow.categorical import cross_entropy, entropy, project_onto_support, require_columns


class Head(nn.Module, ABC):
    """
    Answers three questions: Q-values, the target, loss and priority. It has no weights.

    Network outputs have the shape (batch, n_actions, ``size``).
    """

    size: int  # outputs per action
    priority_name: str  # what the priorities are, for the log
    full_precision: bool = True  # the layer that makes the outputs computes in float32, also with ``amp``

    @abstractmethod
    def q_values(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: (batch, n_actions, size)
        :return: (batch, n_actions), reward units
        """

    @abstractmethod
    def target(
        self, next_outputs: th.Tensor, next_actions: th.Tensor, returns: th.Tensor, discounts: th.Tensor
    ) -> th.Tensor:
        """
        :param next_outputs: (batch, n_actions, size), of the target network after the window
        :param next_actions: (batch, 1), with which to bootstrap
        :param returns: (batch, 1), no bootstrap
        :param discounts: (batch, 1), of the bootstrap, 0 at a true terminal
        :return: (batch, size), no gradient
        :raises ValueError: on a shape that would broadcast silently
        """

    @abstractmethod
    def loss(self, outputs: th.Tensor, actions: th.Tensor, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param outputs: (batch, n_actions, size), of the online network
        :param actions: (batch, 1), those taken
        :param target: (batch, size)
        :return: losses (batch, 1), and priorities (batch, 1), which are not negative and have no gradient
        :raises ValueError: on a shape that would broadcast silently
        """

    def watch(self, target: th.Tensor) -> dict[str, th.Tensor]:
        """
        :param target: (batch, size)
        :return: further values for the log, by name
        """
        return {}


def loss_of_batch(
    head: Head,
    outputs: th.Tensor,
    actions: th.Tensor,
    next_outputs: th.Tensor,
    selecting: th.Tensor,
    returns: th.Tensor,
    discounts: th.Tensor,
    weights: th.Tensor | None,
) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
    """
    :param head: of the networks
    :param outputs: (batch, n_actions, size), of the online network
    :param actions: (batch, 1), those taken
    :param next_outputs: (batch, n_actions, size), of the target network after the window
    :param selecting: (batch, n_actions, size), of the network that chooses the action with which to bootstrap
    :param returns: (batch, 1), of the window, reward units
    :param discounts: (batch, 1), of the bootstrap, 0 at a true terminal
    :param weights: of importance, one for each row; None: all 1
    :return: loss, priorities (batch, 1) without a gradient, and what is logged, by name
    """
    next_actions = head.q_values(selecting).argmax(dim=1, keepdim=True)
    target = head.target(next_outputs, next_actions, returns, discounts)
    losses, priorities = head.loss(outputs, actions, target)  # (batch, 1) each
    loss = (losses if weights is None else losses * weights.reshape(losses.shape)).mean()
    q_values = head.q_values(outputs.detach()).gather(1, actions.long())
    log = {"q_mean": q_values.mean(), head.priority_name: priorities.mean(), **head.watch(target)}
    return loss, priorities, log


class ScalarHead(Head):
    """
    One Q-value per action, Huber loss, priority |TD error|: the head of DQN.

    The values of actions often differ by less than the 8 bits of bfloat16 can tell: its outputs have full precision.
    """

    size = 1
    priority_name = "td_error"

    def q_values(self, outputs: th.Tensor) -> th.Tensor:
        return outputs.squeeze(2)

    def target(
        self, next_outputs: th.Tensor, next_actions: th.Tensor, returns: th.Tensor, discounts: th.Tensor
    ) -> th.Tensor:
        require_columns(len(next_outputs), returns=returns, discounts=discounts)
        with th.no_grad():
            return returns + discounts * _of_actions(next_outputs, next_actions)

    def loss(self, outputs: th.Tensor, actions: th.Tensor, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        values = _of_actions(outputs, actions)
        require_columns(len(values), target=target)
        return F.smooth_l1_loss(values, target, reduction="none"), (target - values).detach().abs()


class CategoricalHead(Head):
    """
    Logits of a distribution over fixed atoms (C51), cross-entropy loss, priority KL(target || prediction).

    Papers: https://arxiv.org/abs/1707.06887, priorities https://arxiv.org/abs/1710.02298

    :param n_atoms: number of atoms
    :param v_min: the lowest return, reward units
    :param v_max: the highest return, reward units
    """

    priority_name = "kl"
    full_precision = False  # what rounding does to each logit hardly moves the mean over all atoms
    support: th.Tensor

    def __init__(self, n_atoms: int, v_min: float, v_max: float) -> None:
        super().__init__()
        self.size = n_atoms
        self.register_buffer("support", th.linspace(v_min, v_max, n_atoms), persistent=False)

    def q_values(self, outputs: th.Tensor) -> th.Tensor:
        return outputs.softmax(dim=2) @ self.support

    def target(
        self, next_outputs: th.Tensor, next_actions: th.Tensor, returns: th.Tensor, discounts: th.Tensor
    ) -> th.Tensor:
        next_probs = _of_actions(next_outputs, next_actions).softmax(dim=1)
        return project_onto_support(next_probs, returns, discounts, self.support)

    def loss(self, outputs: th.Tensor, actions: th.Tensor, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        losses = cross_entropy(target, _of_actions(outputs, actions).log_softmax(dim=1))
        # Rounding may take the divergence of two equal distributions below zero
        divergences = (losses.detach() - entropy(target)).clamp(min=0)
        return losses.unsqueeze(1), divergences.unsqueeze(1)

    def watch(self, target: th.Tensor) -> dict[str, th.Tensor]:
        return {"support_edge": (target[:, 0] + target[:, -1]).mean()}


def _of_actions(outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """(batch, n_actions, size) and (batch, 1) -> (batch, size)"""
    require_columns(len(outputs), actions=actions)
    return outputs[th.arange(len(outputs), device=outputs.device), actions.squeeze(1).long()]
