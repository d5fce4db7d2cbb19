"""First floor: convolutions, and a Q-network of noisy dueling streams that ends in a head."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import QNetwork
from torch import nn
from torch.nn import functional as F

from sb3_rainbow.arguments import number, switch
from sb3_rainbow.heads import Head
from sb3_rainbow.noisy import fresh_noise, noise_lock

DUELING_AGGREGATIONS = ("mean", "max")
_NORM_EPS = 1e-5  # torch's


class ConvExtractor(BaseFeaturesExtractor):
    """
    Convolutions and nothing else: all linear layers belong to the streams, where they can be noisy.

    :param observation_space: image space, channels first
    :param normalized_image: the image is already scaled: skip the checks of dtype and bounds
    :param layer_norm: after each convolution, normalize the whole of its output for each observation, with a learned
        scale and shift for each filter (https://arxiv.org/abs/1607.06450)
    :param input_norm: normalize each observation as a whole before the first convolution, so that what is small on a
        bright ground counts for as much as the ground
    :param input_mean: subtract this from the scaled pixels, to the same end where screens have one brightness: in
        gradient steps it takes no time
    :param input_std: divide them by this then, as ``input_norm`` does where screens have one contrast, too. With
        ``amp``, much below 0.1 it makes what bfloat16 rounds count
    :raises ValueError: when the space is no image, or one too small for the convolutions, or on what is no switch or
        number
    """

    layers: ClassVar[tuple[tuple[int, int, int], ...]]  # (filters, kernel size, stride)
    default_net_arch: ClassVar[list[int]] = [512]  # of each stream behind it
    input_norm, input_mean, input_std = False, 0.0, 1.0  # of users' subclasses that do not call this constructor

    def __init__(
        self,
        observation_space: spaces.Box,
        normalized_image: bool = False,
        layer_norm: bool = False,
        input_norm: bool = False,
        input_mean: float = 0.0,
        input_std: float = 1.0,
    ) -> None:
        name = type(self).__name__
        normalized_image = switch("normalized_image", normalized_image)
        layer_norm, input_norm = switch("layer_norm", layer_norm), switch("input_norm", input_norm)
        if not is_image_space(observation_space, normalized_image=normalized_image):
            raise ValueError(
                f"{name} needs an image, a Box of shape (channels, height, width) with uint8 values of 0 to 255, not "
                f"{observation_space}. Use 'MlpPolicy' for vectors, 'MultiInputPolicy' for a Dict; for images that are "
                "already scaled and channels first pass policy_kwargs=dict(normalize_images=False)"
            )
        channels, height, width = observation_space.shape
        modules: list[nn.Module] = []
        for filters, kernel, stride in self.layers:
            if min(height, width) < kernel:
                raise ValueError(
                    f"observations of shape {observation_space.shape} are too small for the convolutions of {name}: "
                    "use larger images or another features_extractor_class"
                )
            modules.append(nn.Conv2d(channels, filters, kernel, stride))
            if layer_norm:
                modules.append(nn.GroupNorm(1, filters))
            modules.append(nn.ReLU())
            channels, height, width = filters, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        super().__init__(observation_space, channels * height * width)
        self.input_norm, self.input_mean = input_norm, number("input_mean", input_mean, -math.inf)
        self.input_std = number("input_std", input_std, 0, above=True)
        self.cnn = nn.Sequential(*modules, nn.Flatten())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (batch, channels, height, width)
        :return: (batch, features_dim)
        """
        if self.input_norm:
            return self.cnn(normalized(observations))
        if (self.input_mean, self.input_std) == (0.0, 1.0):
            return self.cnn(observations)
        return self.cnn((observations - self.input_mean) / self.input_std)

    def forward_scaled(self, observations: Any, scale: float) -> th.Tensor:
        """
        Scale the first weights, of which there are fewer, where that is the same as to scale the observations.
        Normalized ones need no scale.

        :param observations: (batch, channels, height, width)
        :param scale: factor
        :return: (batch, features_dim), ``forward(observations * scale)`` but for rounding
        """
        first: Any = self.cnn[0] if type(self.cnn) is nn.Sequential else None
        is_ours = type(self).forward is ConvExtractor.forward and type(first) is nn.Conv2d
        if not is_ours or any(has_hooks(module) for module in (self, self.cnn, first)):
            return self(observations * scale)
        if self.input_norm:
            return self.cnn(normalized(observations, scale))
        if self.input_mean and (first.padding != (0, 0) or first.bias is None):
            return self(observations * scale)
        weight, bias = standardized(first.weight, first.bias, self.input_mean, self.input_std)
        return self.cnn[1:](first._conv_forward(observations, weight * scale, bias))


class NatureConv(ConvExtractor):
    """The convolutions of https://www.nature.com/articles/nature14236, without its linear layer."""

    layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


class DataEfficientConv(ConvExtractor):
    """The convolutions of data-efficient Rainbow, https://arxiv.org/abs/1906.05243: a sixth of the arithmetic."""

    layers = ((32, 5, 5), (64, 5, 5))
    default_net_arch: ClassVar[list[int]] = [256]


def dueling_outputs(value: th.Tensor, advantages: th.Tensor, aggregation: str) -> th.Tensor:
    """
    :param value: (batch, head.size)
    :param advantages: (batch, n_actions, head.size)
    :param aggregation: "mean" or "max": what is subtracted from the advantages
    :return: (batch, n_actions, head.size)
    """
    advantages = advantages.float()  # or they would be lost beside the value, where it has 8 bits of precision
    # Over actions, for each atom: centred over atoms it would be constant along the softmax, without effect
    centre = advantages.mean(dim=1, keepdim=True) if aggregation == "mean" else advantages.amax(dim=1, keepdim=True)
    return value.unsqueeze(1) + advantages - centre


def normalized(observations: th.Tensor, scale: float = 1.0) -> th.Tensor:
    """
    :param observations: (batch, channels, height, width)
    :param scale: factor
    :return: ``observations * scale``, each less its mean and divided by its standard deviation
    """
    channels_last = observations.movedim(1, -1)  # as ``prepared`` ones lie in memory: nothing is copied
    # eps is that of scaled observations
    rows = F.layer_norm(channels_last, channels_last.shape[1:], eps=_NORM_EPS / scale**2)
    return rows.movedim(-1, 1)


def standardized(weight: th.Tensor, bias: th.Tensor, mean: float, std: float) -> tuple[th.Tensor, th.Tensor]:
    """
    :param weight: (filters, channels, height, width) of a convolution that pads nothing, if there is a mean
    :param bias: (filters,)
    :param mean: of its input
    :param std: of its input
    :return: weight and bias with which it puts out what it would of its input less the mean and divided by the standard
        deviation
    """
    weight = weight if std == 1 else weight / std
    return weight, bias - mean * weight.sum(dim=(1, 2, 3)) if mean else bias


def copied(observations: PyTorchObs) -> PyTorchObs:
    """
    :param observations: (batch, ...), or a dict of such tensors
    :return: the same, in memory of their own
    """
    if isinstance(observations, dict):
        return {key: rows.clone() for key, rows in observations.items()}
    return observations.clone()


def _is_autocast(tensor: th.Tensor) -> bool:
    kind = tensor.device.type
    return kind != "meta" and th.is_autocast_enabled(kind)


def has_modes(module: nn.Module) -> bool:
    """
    :param module: any
    :return: whether a layer in it may behave differently in evaluation mode: torch's known ones, and any of a user's,
        which may read ``self.training``
    """
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase, nn.MultiheadAttention)
    known = ("torch.", "stable_baselines3.", "sb3_rainbow.")
    return any(isinstance(layer, kinds) or not type(layer).__module__.startswith(known) for layer in module.modules())


def has_hooks(module: nn.Module) -> bool:
    """
    :param module: any
    :return: whether hooks of its forward or backward passes are registered
    """
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class RainbowNetwork(QNetwork):
    """
    Features, then one stream (Q) or two (value and advantage), then a head.

    Acting goes through ``forward``, as in SB3, and that, like learning, through ``outputs``: a subclass that computes
    something else overrides that; one that only has some actions never chosen, ``forward``.

    Dueling paper: https://arxiv.org/abs/1511.06581

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: makes (batch, features_dim) of observations
    :param features_dim: its size
    :param net_arch: hidden layers of each stream
    :param activation_fn: between linear layers
    :param normalize_images: divide images by 255
    :param head: gives the outputs their meaning
    :param dueling: None: one stream; "mean" or "max": what is subtracted from the advantages, over actions
    :param linear: makes a linear layer of (in_features, out_features)
    """

    _is_acting = False  # the layers have the noise to act with. Read and written under the lock

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        normalize_images: bool,
        head: Head,
        dueling: str | None,
        linear: Callable[[int, int], nn.Module],
    ) -> None:
        # QNetwork's own constructor would make a stream of its own
        super(QNetwork, self).__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.net_arch, self.activation_fn, self.features_dim = net_arch, activation_fn, features_dim
        self.head, self.dueling, self.linear = head, dueling, linear
        self.image_scale = 1 / 255 if normalize_images and is_image_space(observation_space) else None
        n_actions = int(action_space.n)
        # One stream has the name and the order of SB3's layers: with all switches off the weights are interchangeable
        self.q_net = self._stream(n_actions * head.size)
        if dueling is not None:
            self.value = self._stream(head.size)

    @property
    def streams(self) -> list[nn.Sequential]:
        """Of the advantages, or Q-values, and of the value, if there is one."""
        return [self.q_net] if self.dueling is None else [self.q_net, self.value]

    def _stream(self, n_outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        n_inputs = self.features_dim
        for width in self.net_arch:
            layers += [self.linear(n_inputs, width), self.activation_fn()]
            n_inputs = width
        return nn.Sequential(*layers, self.linear(n_inputs, n_outputs))

    def prepared(self, obs: PyTorchObs, image_dtype: th.dtype = th.float32) -> PyTorchObs:
        """
        What several networks learn from, made once: floats, in the order in memory that is the fastest to learn from.

        :param obs: (batch, *obs_shape), or a dict of such tensors
        :param image_dtype: of bytes for our own convolutions; they are exact in bfloat16, as they are not yet scaled
        :return: for ``outputs(..., is_prepared=True)``
        """
        if not isinstance(self.features_extractor, ConvExtractor):
            return preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        # Channels last. Bytes are moved, not floats, and by channel, which costs half of what contiguous() does
        obs = th.stack(obs.unbind(1), dim=-1).permute(0, 3, 1, 2)  # type: ignore[union-attr]
        return obs.to(image_dtype if obs.dtype == th.uint8 else th.float32)

    def outputs(self, obs: PyTorchObs, is_prepared: bool = False) -> th.Tensor:
        """
        :param obs: (batch, *obs_shape), or a dict of such tensors
        :param is_prepared: they come from ``prepared``
        :return: (batch, n_actions, head.size), for the head
        """
        if not is_prepared:
            obs = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        if is_prepared and self.image_scale is not None and isinstance(self.features_extractor, ConvExtractor):
            features = self.features_extractor.forward_scaled(obs, self.image_scale)
        else:
            features = self.features_extractor(obs)
        outputs = self._outputs_of(self.q_net, features).unflatten(1, (-1, self.head.size))
        if self.dueling is None:
            return outputs
        return dueling_outputs(self._outputs_of(self.value, features), outputs, self.dueling)

    def _outputs_of(self, stream: nn.Sequential, features: th.Tensor) -> th.Tensor:
        if not (self.head.full_precision and _is_autocast(features)):
            return stream(features)
        *layers, last = stream if type(stream) is nn.Sequential else [stream]
        for layer in layers:
            features = layer(features)
        with th.autocast(features.device.type, enabled=False):
            return last(features.float())

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: (batch, *obs_shape), or a dict of such tensors
        :return: Q-values (batch, n_actions): in evaluation mode those of the mean weights, which deterministic actions
            follow, in training mode with the noise of the last gradient step
        """
        # Held, so that no other thread changes the noise meanwhile; torch.compile cannot trace a lock
        lock = nullcontext() if th.compiler.is_compiling() else noise_lock()
        with lock, nullcontext() if self.training or self._is_acting else fresh_noise(self, None):
            return self._q_values(obs)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        """
        :param observation: (batch, *obs_shape), or a dict of such tensors
        :param deterministic: use the mean weights; otherwise each row gets noise of its own
        :return: (batch,) greedy actions
        """
        n_samples = None
        if not deterministic:
            n_samples = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        with fresh_noise(self, n_samples):
            self._is_acting = True
            try:
                return self(observation).argmax(dim=1)
            finally:
                self._is_acting = False

    def _q_values(self, obs: PyTorchObs) -> th.Tensor:
        outputs = self.outputs(obs)
        if not _is_autocast(outputs):
            return self.head.q_values(outputs)
        with th.autocast(outputs.device.type, enabled=False):  # what the head makes of them is not for 8 bits
            return self.head.q_values(outputs.float())

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        return parameters | {"head": self.head, "dueling": self.dueling, "linear": self.linear}
