"""Ground floor: categorical return distributions (C51). Pure functions of tensors."""

import torch as th


def project_onto_support(
    next_probs: th.Tensor, returns: th.Tensor, discounts: th.Tensor, support: th.Tensor
) -> th.Tensor:
    """
    Project the distribution of ``returns + discounts * support`` onto ``support``.

    Mass between two atoms is shared by closeness; mass beyond an end goes to the end atom.
    Paper: https://arxiv.org/abs/1707.06887, Algorithm 1

    :param next_probs: (batch, n_atoms), rows sum to 1
    :param returns: (batch, 1), reward units, no bootstrap
    :param discounts: (batch, 1), gamma**k, 0 at a true terminal
    :param support: (n_atoms,), increasing, equally spaced, reward units
    :return: (batch, n_atoms), rows sum to 1, no gradient
    :raises ValueError: on a shape mismatch, quoting both shapes
    """
    batch_size, n_atoms = next_probs.shape
    if support.shape != (n_atoms,):
        raise ValueError(f"support has shape {tuple(support.shape)}, next_probs {tuple(next_probs.shape)}")
    require_columns(batch_size, returns=returns, discounts=discounts)
    with th.no_grad():
        spacing = (support[-1] - support[0]) / (n_atoms - 1)
        # Where each atom lands, in atoms from the first. Clamped here, not before: rounding may overstep the end.
        places = ((returns + discounts * support - support[0]) / spacing).clamp(0, n_atoms - 1)  # (batch, n_atoms)
        lower = places.floor()
        upper_share = (places - lower).to(next_probs.dtype)  # 0 on an atom: all of the mass stays there
        lower_index = lower.long()
        upper_index = (lower_index + 1).clamp(max=n_atoms - 1)
        projected = th.zeros_like(next_probs)
        projected.scatter_add_(1, lower_index, next_probs * (1 - upper_share))
        projected.scatter_add_(1, upper_index, next_probs * upper_share)
        return projected


def require_columns(batch_size: int, **columns: th.Tensor) -> None:
    """
    :param batch_size: number of rows
    :param columns: tensors that must have the shape (batch_size, 1), by name
    :raises ValueError: on another shape, which would broadcast silently
    """
    for name, column in columns.items():
        if column.shape != (batch_size, 1):
            raise ValueError(f"{name} has shape {tuple(column.shape)}, expected {(batch_size, 1)}")


def cross_entropy(target_probs: th.Tensor, log_probs: th.Tensor) -> th.Tensor:
    """
    Cross-entropy of each row. Its gradient is that of the KL divergence.

    :param target_probs: (batch, n_atoms), rows sum to 1
    :param log_probs: (batch, n_atoms), from ``log_softmax``: no probability is clamped, so no gradient vanishes
    :return: (batch,) nats
    :raises ValueError: on a shape mismatch, quoting both shapes
    """
    if target_probs.shape != log_probs.shape:
        raise ValueError(f"target_probs has shape {tuple(target_probs.shape)}, log_probs {tuple(log_probs.shape)}")
    return -(target_probs * log_probs).sum(dim=1)


def entropy(probs: th.Tensor) -> th.Tensor:
    """
    Entropy of each row; the KL divergence of target and prediction is their cross-entropy less this of the target.

    :param probs: (batch, n_atoms), rows sum to 1, zeros allowed
    :return: (batch,) nats
    """
    return -th.xlogy(probs, probs).sum(dim=1)
