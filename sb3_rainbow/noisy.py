"""Ground floor: noisy linear layers and the switch of their noise, which has nothing to do with train and eval mode."""

import contextlib
import math
import os
import threading
from collections.abc import Iterator

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_rainbow.arguments import number, one_of, whole_number

NOISE_KINDS = ("factorised", "independent")
_lock = threading.RLock()


def noise_lock() -> contextlib.AbstractContextManager:
    """
    :return: to be held while layers have the noise of one forward pass: another thread may act with the same network
        meanwhile. All models of a process share it
    """
    return _lock


def _begin_anew() -> None:
    global _lock
    _lock = threading.RLock()


# Forked while another thread held it, a process would wait for that thread for ever. To fork only when none holds it
# is no remedy: its holder may wait for what else is done before a fork, as in the compiler's own files
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class NoisyLinear(nn.Module):
    """
    Linear layer whose weights are ``mu + sigma * noise``, with learned ``mu`` and ``sigma``.

    The noise stays the same until ``reset_noise`` is called, in training and in evaluation mode alike; it is not saved.
    Weights start uniform in ``+-1/sqrt(in_features)`` (``+-sqrt(3/in_features)`` for independent noise).

    Paper: https://arxiv.org/abs/1706.10295

    :param in_features: size of an input row
    :param out_features: size of an output row
    :param sigma_init: sigma starts at ``sigma_init / sqrt(in_features)``
    :param noise: "factorised": an outer product of one Gaussian per input and one per output (through
        ``sign(x) sqrt(|x|)``); "independent": one Gaussian per weight
    :raises ValueError: on a size below 1, an unknown kind of noise or a ``sigma_init`` that is not above 0
    """

    def __init__(self, in_features: int, out_features: int, sigma_init: float = 0.5, noise: str = "factorised") -> None:
        super().__init__()
        self.in_features = in_features = whole_number("in_features", in_features, 1)
        self.out_features = out_features = whole_number("out_features", out_features, 1)
        self.factorised = one_of("noise", noise, NOISE_KINDS) == "factorised"
        sigma_init = number("sigma_init", sigma_init, 0, above=True, hint="published: 0.5, or 0.1")
        bound = 1 / math.sqrt(in_features) if self.factorised else math.sqrt(3 / in_features)
        sigma = sigma_init / math.sqrt(in_features)
        self.weight_mu = nn.Parameter(th.empty(out_features, in_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(th.full((out_features, in_features), sigma))
        self.bias_mu = nn.Parameter(th.empty(out_features).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(th.full((out_features,), sigma))
        # Buffers, so that they follow the layer to another device; not persistent, so that they are not saved.
        self._noise_in: th.Tensor | None
        self._noise_out: th.Tensor | None
        self.register_buffer("_noise_in", None, persistent=False)
        self.register_buffer("_noise_out", None, persistent=False)
        self.reset_noise()

    def reset_noise(self, n_samples: int | None = 1) -> None:
        """
        Draw fresh noise.

        :param n_samples: 1: one sample, shared by all rows of a batch; the size of the batch: each row its own;
            None: no noise, mean weights
        """
        noise_in = noise_out = None
        if n_samples is None:
            pass
        elif self.factorised:
            noise_in = factorised_noise(n_samples, self.in_features, device=self.weight_sigma.device)
            noise_out = factorised_noise(n_samples, self.out_features, device=self.weight_sigma.device)
        elif n_samples == 1:
            noise_in = self._gaussian(self.out_features, self.in_features)
            noise_out = self._gaussian(self.out_features)
        else:
            # A matrix of noise for each row would cost more than the layer. Given its input, the output of a row is
            # Gaussian with a known variance (https://arxiv.org/abs/1506.02557): its noise is drawn instead.
            noise_out = self._gaussian(n_samples, self.out_features)
        self.set_noise(noise_in, noise_out)

    def set_noise(self, noise_in: th.Tensor | None, noise_out: th.Tensor | None) -> None:
        """
        :param noise_in: (n_samples, in_features); where it is independent that of the weights, (out_features,
            in_features), or None if each row has its own
        :param noise_out: (n_samples, out_features), or (out_features,) beside that of the weights; None: no noise
        """
        dtype = self.weight_mu.dtype
        # Past __setattr__ of modules, which costs as much as a small layer
        self._buffers["_noise_in"] = None if noise_in is None else noise_in.to(dtype)
        self._buffers["_noise_out"] = None if noise_out is None else noise_out.to(dtype)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: (batch, in_features); where the noise has a sample for each row, their number is the batch size
        :return: (batch, out_features)
        :raises ValueError: when it is not
        """
        noise_in, noise_out = self._noise_in, self._noise_out
        if noise_out is None:
            return F.linear(inputs, self.weight_mu, self.bias_mu)
        has_noise_for_each_row = noise_in is None or (self.factorised and len(noise_out) > 1)
        if has_noise_for_each_row and inputs.shape[:-1] != noise_out.shape[:1]:
            raise ValueError(
                f"inputs of shape {tuple(inputs.shape)} must be (batch, in_features), a row for each of the "
                f"{len(noise_out)} samples of the noise: give the layer one row for each observation"
            )
        if noise_in is not None and len(noise_out) == 1 and self.factorised and th.compiler.is_compiling():
            # Made in one pass over the weights there: cheaper than a second product
            weight = self.weight_mu + self.weight_sigma * noise_out.T * noise_in
            return F.linear(inputs, weight, self.bias_mu + self.bias_sigma * noise_out.squeeze(0))
        outputs = F.linear(inputs, self.weight_mu, self.bias_mu)
        if noise_in is None:
            variances = F.linear(inputs**2, self.weight_sigma**2, self.bias_sigma**2)
            return outputs + noise_out * variances.sqrt()
        if self.factorised:
            # (sigma * outer(noise_out, noise_in)) @ inputs, without ever making that matrix
            return outputs + noise_out * F.linear(inputs * noise_in, self.weight_sigma, self.bias_sigma)
        return outputs + F.linear(inputs, self.weight_sigma * noise_in, self.bias_sigma * noise_out)

    def signal_to_noise(self) -> float:
        """
        :return: RMS(mu) / RMS(sigma) of the weights
        """
        return (self.weight_mu.norm() / self.weight_sigma.norm()).item()

    def extra_repr(self) -> str:
        kind = "factorised" if self.factorised else "independent"
        return f"in_features={self.in_features}, out_features={self.out_features}, noise={kind}"

    def _gaussian(self, *shape: int) -> th.Tensor:
        return th.randn(shape, device=self.weight_sigma.device)


def factorised_noise(*shape: int, device: th.device) -> th.Tensor:
    """
    :param shape: any
    :param device: where it is
    :return: ``sign(x) sqrt(|x|)`` of Gaussians
    """
    gaussian = th.randn(shape, device=device)
    return gaussian.sign() * gaussian.abs().sqrt()


def noisy_layers(module: nn.Module) -> list[NoisyLinear]:
    """
    :param module: any module
    :return: its noisy layers, in the order in which they were registered
    """
    return [layer for layer in module.modules() if isinstance(layer, NoisyLinear)]


def reset_noise(module: nn.Module, n_samples: int | None = 1) -> None:
    """
    Draw fresh noise for every noisy layer of a module, each its own.

    :param module: any module, on one device
    :param n_samples: as for ``NoisyLinear.reset_noise``
    """
    _reset_noise(noisy_layers(module), n_samples)


def _reset_noise(layers: list[NoisyLinear], n_samples: int | None) -> None:
    is_ours = all(type(layer).reset_noise is NoisyLinear.reset_noise for layer in layers)
    if n_samples is None or not (is_ours and all(layer.factorised for layer in layers)):
        for layer in layers:
            layer.reset_noise(n_samples)
    elif layers:
        # Drawn in one call for all layers, which costs less than one for each
        widths = [width for layer in layers for width in (layer.in_features, layer.out_features)]
        noise = factorised_noise(n_samples, sum(widths), device=layers[0].weight_sigma.device).split(widths, dim=1)
        for layer, noise_in, noise_out in zip(layers, noise[::2], noise[1::2], strict=True):
            layer.set_noise(noise_in, noise_out)


@contextlib.contextmanager
def fresh_noise(module: nn.Module, n_samples: int | None) -> Iterator[None]:
    """
    Use other noise for a while; afterwards the layers have the noise they had before. Other threads wait for that.

    :param module: any module
    :param n_samples: as for ``NoisyLinear.reset_noise``
    """
    layers = noisy_layers(module)
    with noise_lock():
        before = [(layer._noise_in, layer._noise_out) for layer in layers]
        try:
            _reset_noise(layers, n_samples)
            yield
        finally:
            for layer, noise in zip(layers, before, strict=True):
                layer.set_noise(*noise)
