"""First floor: the arithmetic of a network apart from its weights, in few large products, for GPUs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.nn import functional as F

from sb3_rainbow.networks import ConvExtractor, RainbowNetwork, dueling_outputs, has_hooks, normalized, standardized
from sb3_rainbow.noisy import NoisyLinear, factorised_noise, noisy_layers

# One sample for each noisy layer: factorised (in_features,) and (out_features,), independent (out, in) and (out,)
Noise = list[tuple[th.Tensor, th.Tensor]]

# Those that see one number at a time, so that it makes no difference that both streams are in one row
_ACTIVATIONS = {
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.Softsign, nn.Hardswish, nn.Hardtanh, nn.ReLU6, nn.Identity),
}


class _Layer(NamedTuple):
    module: Any  # nn.Module
    name: str  # of the module in the network
    has_weights: bool


class Chain:
    """
    What ``RainbowNetwork.outputs`` computes, but for rounding, as a function of weights and observations.

    ``weights`` applies to the parameters what does not depend on observations: noise, the scale of images, precision,
    the order in memory. Convolutions work on blocks of pixels, which are more channels, and both streams are one chain
    of products: half as many, twice as large.

    :param network: one that ``suits`` accepts
    :param dtype: in which layers compute, but for the last one where its head wants full precision
    """

    def __init__(self, network: RainbowNetwork, dtype: th.dtype) -> None:
        names = {module: name for name, module in network.named_modules()}
        self.head, self.dueling, self.dtype = network.head, network.dueling, dtype
        self.scale = network.image_scale
        extractor = network.features_extractor
        self.input_norm, self.input_mean, self.input_std = False, 0.0, 1.0
        if isinstance(extractor, ConvExtractor):
            self.input_norm = extractor.input_norm
            self.input_mean, self.input_std = extractor.input_mean, extractor.input_std
        images = list(extractor.cnn) if isinstance(extractor, ConvExtractor) else [extractor]

        def layer(module: nn.Module) -> _Layer:
            return _Layer(module, names[module], bool(list(module.parameters())))

        self.images = [layer(module) for module in images]
        # Of each layer one module, or the two of both streams
        self.streams = [tuple(map(layer, modules)) for modules in zip(*network.streams, strict=True)]

    @staticmethod
    def suits(network: RainbowNetwork) -> bool:
        """
        :param network: any
        :return: whether it is made of what is known here, and of nothing else
        """
        extractor = network.features_extractor
        if type(network) is not RainbowNetwork or not isinstance(network.observation_space, spaces.Box):
            return False
        if isinstance(extractor, ConvExtractor):
            own = type(extractor)
            is_ours = own.forward is ConvExtractor.forward and own.forward_scaled is ConvExtractor.forward_scaled
            is_known = is_ours and type(extractor.cnn) is nn.Sequential and all(map(_is_known_of_images, extractor.cnn))
            is_changed = extractor.input_norm or (extractor.input_mean, extractor.input_std) != (0.0, 1.0)
            is_known = is_known and (not is_changed or type(extractor.cnn[0]) is nn.Conv2d)
        else:
            is_known = type(extractor) is FlattenExtractor
        if not all(type(stream) is nn.Sequential for stream in network.streams):
            return False
        are_alike = len({len(stream) for stream in network.streams}) == 1
        n_weights = sum(len(module._parameters) for module in network.modules())  # shared ones are counted twice
        return (
            is_known
            and are_alike
            and all(_is_known_of_streams(modules) for modules in zip(*network.streams, strict=True))
            and type(network.q_net[-1]) not in _ACTIVATIONS
            and len({layer.factorised for layer in noisy_layers(network)}) < 2  # ``noise`` draws one kind
            and n_weights == len(list(network.parameters()))
            and not any(_has_any_hooks(module) for module in network.modules())
        )

    def prepared(self, obs: th.Tensor) -> th.Tensor:
        """
        :param obs: (batch, *obs_shape)
        :return: for ``outputs``
        """
        first = self.images[0].module
        if not isinstance(first, nn.Conv2d):
            return obs.float() if self.scale is None else obs.float() * self.scale
        if self.input_norm:
            obs = normalized(obs.float(), self.scale or 1.0)
        elif self.scale is None and (self.input_mean, self.input_std) != (0.0, 1.0):
            obs = (obs.float() - self.input_mean) / self.input_std  # what a mean leaves of floats may be little
        return _blocks_of_images(obs, first).to(self.dtype)

    def noise(self) -> Noise:
        """
        :return: fresh noise for each noisy layer, one sample for all rows
        """
        layers = [layer.module for pair in self.streams for layer in pair if isinstance(layer.module, NoisyLinear)]
        if not layers:
            return []
        device = layers[0].weight_mu.device
        if not layers[0].factorised:
            shapes = [(m.weight_mu.shape, m.bias_mu.shape) for m in layers]
            return [(th.randn(weight, device=device), th.randn(bias, device=device)) for weight, bias in shapes]
        widths = [width for m in layers for width in (m.in_features, m.out_features)]
        noise = factorised_noise(sum(widths), device=device).split(widths)
        return list(zip(noise[::2], noise[1::2], strict=True))

    def weights(self, parameters: Mapping[str, th.Tensor], noise: Noise) -> list[th.Tensor]:
        """
        :param parameters: of the network, by name
        :param noise: of ``noise``
        :return: of each layer weights and biases, for ``outputs``
        """
        weights: list[th.Tensor] = []
        for index, (module, name, has_weights) in enumerate(self.images):
            if has_weights:
                weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
                if isinstance(module, nn.Conv2d):
                    if index == 0 and not self.input_norm and self.scale is not None:
                        weight, bias = standardized(weight, bias, self.input_mean, self.input_std)
                        weight = weight * self.scale
                    weight, bias = _blocks_of_weights(weight, module).to(self.dtype), bias.to(self.dtype)
                weights += [weight, bias]
        remaining_noise = iter(noise)
        for index, layers in enumerate(self.streams):
            if not layers[0].has_weights:
                continue
            pairs = [_plain(layer, parameters, remaining_noise) for layer in layers]
            dtype = th.float32 if index == len(self.streams) - 1 and self.head.full_precision else self.dtype
            joined = _side_by_side(pairs, has_own_inputs=index > 0, is_last=index == len(self.streams) - 1)
            weights += [each.to(dtype) for each in joined]
        return weights

    def outputs(self, weights: list[th.Tensor], obs: th.Tensor) -> th.Tensor:
        """
        :param weights: of ``weights``
        :param obs: of ``prepared``
        :return: (batch, n_actions, head.size), for the head
        """
        remaining = zip(weights[::2], weights[1::2], strict=True)
        x = obs
        for index, (module, _, _) in enumerate(self.images):
            if isinstance(module, nn.Conv2d):
                blocks = x if index == 0 else _blocks_of_images(x, module)
                x = _convolved(blocks.to(self.dtype), *next(remaining), module)
            elif isinstance(module, nn.GroupNorm):
                x = F.group_norm(x.float(), module.num_groups, *next(remaining), module.eps).to(self.dtype)
            else:
                x = module(x)
        for layers in self.streams:
            if layers[0].has_weights:
                weight, bias = next(remaining)
                x = F.linear(x.to(weight.dtype), weight, bias)
            else:
                x = layers[0].module(x)
        size, n_outputs = self.head.size, self.streams[-1][0].module.out_features
        outputs = x[:, :n_outputs].float().unflatten(1, (-1, size))
        if self.dueling is None:
            return outputs
        return dueling_outputs(x[:, n_outputs : n_outputs + size].float(), outputs, self.dueling)


def _is_known_of_images(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        sizes = [*module.kernel_size, *module.stride]
        is_square = sizes[::2] == sizes[1::2]
        is_plain = (module.padding, module.dilation, module.groups) == ((0, 0), (1, 1), 1)
        return is_square and is_plain and module.bias is not None
    if type(module) is nn.GroupNorm:
        return module.affine
    return type(module) in _ACTIVATIONS or type(module) is nn.Flatten


def _is_known_of_streams(modules: tuple[nn.Module, ...]) -> bool:
    """Whether these can be one layer: of each stream the one in the same place"""
    if len({(type(module), getattr(module, "factorised", None)) for module in modules}) > 1:
        return False
    if type(modules[0]) is nn.Linear:
        return all(module.bias is not None for module in modules)
    is_activation = type(modules[0]) in _ACTIVATIONS and len({repr(module) for module in modules}) == 1
    return is_activation or type(modules[0]) is NoisyLinear


def _has_any_hooks(module: nn.Module) -> bool:
    return has_hooks(module) or any(
        weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in module.parameters(recurse=False)
    )


def _plain(layer: _Layer, parameters: Mapping[str, th.Tensor], noise: Any) -> tuple[th.Tensor, th.Tensor]:
    """Weights and biases of a linear layer, with its noise"""
    module, name, _ = layer
    if not isinstance(module, NoisyLinear):
        return parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    of_weight, of_bias = next(noise)
    if module.factorised:
        of_weight = of_bias.unsqueeze(1) * of_weight
    mus, sigmas = ([parameters[f"{name}.{part}_{kind}"] for part in ("weight", "bias")] for kind in ("mu", "sigma"))
    return mus[0] + sigmas[0] * of_weight, mus[1] + sigmas[1] * of_bias


def _side_by_side(
    pairs: list[tuple[th.Tensor, th.Tensor]], has_own_inputs: bool, is_last: bool
) -> tuple[th.Tensor, th.Tensor]:
    """
    One layer that is all of the given ones.

    :param pairs: weights and biases of each
    :param has_own_inputs: of each layer, one after the other; otherwise they share them
    :param is_last: there may be outputs that nobody reads
    """
    weights, biases = [list(each) for each in zip(*pairs, strict=True)]
    if has_own_inputs and len(weights) == 2:
        left, right = weights
        weights = [F.pad(left, (0, right.shape[1])), F.pad(right, (left.shape[1], 0))]
    n_spare = -sum(map(len, biases)) % 8
    if n_spare and is_last:  # rows of zeros, because products of a multiple of 8 columns are faster
        weights[-1], biases[-1] = F.pad(weights[-1], (0, 0, 0, n_spare)), F.pad(biases[-1], (0, n_spare))
    return (th.cat(weights), th.cat(biases)) if len(weights) > 1 else (weights[0], biases[0])


def _block_size(module: nn.Conv2d) -> int:
    """Where a kernel is so many strides wide, it has stride 1 over blocks of stride x stride pixels."""
    kernel, stride = module.kernel_size[0], module.stride[0]
    return stride if stride > 1 and kernel % stride == 0 else 1


def _blocks_of_images(images: th.Tensor, module: nn.Conv2d) -> th.Tensor:
    size = _block_size(module)
    if size > 1:
        kernel = module.kernel_size[0]
        height, width = ((length - kernel) // size * size + kernel for length in images.shape[2:])
        images = F.pixel_unshuffle(images[:, :, :height, :width], size)
    return images.contiguous(memory_format=th.channels_last)


def _blocks_of_weights(weight: th.Tensor, module: nn.Conv2d) -> th.Tensor:
    size = _block_size(module)
    weight = F.pixel_unshuffle(weight, size) if size > 1 else weight
    return weight.contiguous(memory_format=th.channels_last)


def _convolved(images: th.Tensor, weight: th.Tensor, bias: th.Tensor, module: nn.Conv2d) -> th.Tensor:
    return F.conv2d(images, weight, bias, module.stride[0] // _block_size(module))
