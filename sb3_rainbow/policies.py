"""Second floor: policies, which build the online and the target network and act with the online one."""

import importlib
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from sb3_rainbow.arguments import instance_of, number, one_of, subclass_of, switch, whole_number
from sb3_rainbow.heads import CategoricalHead, ScalarHead
from sb3_rainbow.networks import DUELING_AGGREGATIONS, ConvExtractor, NatureConv, RainbowNetwork
from sb3_rainbow.noisy import NOISE_KINDS, NoisyLinear

# Beyond this float32 loses its footing
_LARGEST = 1e30
# Published with Rainbow (https://arxiv.org/abs/1710.02298) for batches of 32
_ADAM_EPS = 1.5e-4


class RainbowPolicy(DQNPolicy):
    """
    Policy of RainbowDQN: every variant of its network. For observations in a Dict: ``MultiInputPolicy``.

    ``RainbowDQN`` sets ``dueling``, ``noisy`` and ``distributional``; the rest goes into ``policy_kwargs``.

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate, by remaining progress
    :param net_arch: hidden layers of each stream (of the only one when not dueling). Default: [512] behind
        ``NatureConv``, [256] behind ``DataEfficientConv``, elsewhere as SB3's DQN. For these two, ``features_dim`` in
        ``features_extractor_kwargs`` puts one hidden layer of that width first, by default the only one, in place of
        the linear layer that ends SB3's ``NatureCNN``
    :param activation_fn: between linear layers
    :param features_extractor_class: a class, or its dotted name, which hyperparameter files can hold. Default: that of
        the class of the policy
    :param features_extractor_kwargs: its arguments, such as ``dict(layer_norm=True, input_mean=0.4)`` for ours
    :param normalize_images: divide images by 255
    :param optimizer_class: optimizer, Adam by default
    :param optimizer_kwargs: its arguments without the learning rate; Adam's default is
        ``dict(eps=1.5e-4, fused=True)``
    :param dueling: value and advantage streams
    :param noisy: noisy linear layers behind the features extractor
    :param distributional: categorical return distribution; False: scalar Q-values
    :param n_atoms: number of atoms of the distribution, at least 2
    :param v_min: lowest return that it can hold, in reward units
    :param v_max: highest return that it can hold, in reward units
    :param sigma_init: sigma starts at ``sigma_init`` divided by the square root of the number of a layer's inputs
    :param noise: "factorised" or "independent"
    :param dueling_aggregation: "mean" or "max" of the advantages is subtracted from them
    :raises ValueError: on an argument out of range
    """

    default_features_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    q_net: RainbowNetwork
    q_net_target: RainbowNetwork

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | str | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        dueling: bool = True,
        noisy: bool = True,
        distributional: bool = True,
        n_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        sigma_init: float = 0.5,
        noise: str = "factorised",
        dueling_aggregation: str = "mean",
    ) -> None:
        if features_extractor_class is None:
            features_extractor_class = self.default_features_extractor
        features_extractor_class = _extractor(features_extractor_class)
        _check_observations(features_extractor_class, observation_space)
        try:
            makes_modules = isinstance(activation_fn(), nn.Module)
        except TypeError:  # a function of tensors, or a module
            makes_modules = False
        if not makes_modules:
            raise ValueError(
                f"activation_fn={activation_fn!r} must be a class of modules without arguments, such as torch.nn.ReLU"
            )
        made = optimizer_class.func if isinstance(optimizer_class, partial) else optimizer_class
        subclass_of("optimizer_class", made, th.optim.Optimizer, "torch.optim.Adam")
        for name, kwargs in (("optimizer", optimizer_kwargs), ("features_extractor", features_extractor_kwargs)):
            instance_of(f"{name}_kwargs", kwargs, dict | None, "a dict of its arguments")
        features_extractor_kwargs = dict(features_extractor_kwargs or {})
        first_widths = []
        if issubclass(features_extractor_class, ConvExtractor):
            if not normalize_images:  # as SB3 does for NatureCNN
                features_extractor_kwargs.setdefault("normalized_image", True)
            is_ours = features_extractor_class.__init__ is ConvExtractor.__init__
            if is_ours and "features_dim" in features_extractor_kwargs:  # of the linear layer with which NatureCNN ends
                first_widths = [whole_number("features_dim", features_extractor_kwargs.pop("features_dim"), 1)]
            if net_arch is None:
                net_arch = [] if first_widths else features_extractor_class.default_net_arch
        elif net_arch is None:
            net_arch = [] if features_extractor_class is NatureCNN else [64, 64]
        if not isinstance(net_arch, list | tuple | range | np.ndarray) or getattr(net_arch, "ndim", 1) == 0:
            raise ValueError(f"net_arch={net_arch!r} must be a list of layer widths, such as [512]")
        net_arch = first_widths + [whole_number(f"net_arch={net_arch}: a width", width, 1) for width in net_arch]
        if optimizer_kwargs is None and optimizer_class is th.optim.Adam:
            optimizer_kwargs = {"eps": _ADAM_EPS, "fused": True}  # the same arithmetic in one pass over the weights
        # Read by make_q_net, which the constructor of DQNPolicy calls
        self.rainbow_kwargs: dict[str, Any] = {
            "dueling": switch("dueling", dueling),
            "noisy": switch("noisy", noisy),
            "distributional": switch("distributional", distributional),
            "n_atoms": whole_number("n_atoms", n_atoms, 2, 10**6),
            "v_min": number("v_min", v_min, -_LARGEST, _LARGEST),
            "v_max": number("v_max", v_max, -_LARGEST, _LARGEST),
            "sigma_init": number("sigma_init", sigma_init, 0, _LARGEST, above=True, hint="published: 0.5, or 0.1"),
            "noise": one_of("noise", noise, NOISE_KINDS),
            "dueling_aggregation": one_of("dueling_aggregation", dueling_aggregation, DUELING_AGGREGATIONS),
        }
        _check_support(*(self.rainbow_kwargs[name] for name in ("n_atoms", "v_min", "v_max")))
        super().__init__(
            observation_space=observation_space,
            action_space=action_space,
            lr_schedule=lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=switch("normalize_images", normalize_images),
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        DQNPolicy.set_training_mode(self, False)  # q_net(obs) has the mean weights then. A subclass is not ready yet

    def set_training_mode(self, mode: bool) -> None:
        """
        :param mode: whether the policy is to be in training mode, in which ``q_net(obs)`` has the noise of the last
            gradient step and not the mean weights; the noise of actions does not depend on it
        """
        if self.training is not mode or not _has_mode(self.q_net, mode):  # SB3 sets it before every action
            super().set_training_mode(mode)

    def make_q_net(self) -> RainbowNetwork:
        """
        :return: an online or a target network, with features extractor and head of its own
        """
        kwargs = self.rainbow_kwargs
        net_args = self._update_features_extractor(self.net_args, features_extractor=None)
        linear = partial(NoisyLinear, sigma_init=kwargs["sigma_init"], noise=kwargs["noise"])
        return RainbowNetwork(
            **net_args,
            head=(
                CategoricalHead(kwargs["n_atoms"], kwargs["v_min"], kwargs["v_max"])
                if kwargs["distributional"]
                else ScalarHead()
            ),
            dueling=kwargs["dueling_aggregation"] if kwargs["dueling"] else None,
            linear=linear if kwargs["noisy"] else nn.Linear,
        ).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.rainbow_kwargs


class CnnPolicy(RainbowPolicy):
    """``RainbowPolicy`` for images: the Nature convolutions unless another features extractor is named."""

    default_features_extractor = NatureConv


class MultiInputPolicy(RainbowPolicy):
    """``RainbowPolicy`` for Dict observations."""

    default_features_extractor = CombinedExtractor


MlpPolicy = RainbowPolicy


def _has_mode(network: RainbowNetwork, mode: bool) -> bool:
    """
    :param network: any
    :param mode: whether it is to be in training mode
    :return: whether setting it changes nothing, which takes a fifth of the time or less to find out: all modules have
        it, and none sets it in a way of its own, as those do that hide others, or that torch has compiled
    """
    modules: list[nn.Module | None] = [network]
    for module in modules:  # which grows
        if module is not None:
            if vars(module).get("training") is not mode or getattr(module.train, "__func__", 0) is not nn.Module.train:
                return False
            modules += module._modules.values()
        if len(modules) > 10_000:  # one may be a part of itself, for which torch raises an error
            return False
    return getattr(network.set_training_mode, "__func__", 0) is RainbowNetwork.set_training_mode


def _extractor(given: Any) -> type[BaseFeaturesExtractor]:
    extractor, problem = given, ""
    if isinstance(given, str):
        module, _, attribute = given.rpartition(".")
        try:
            extractor = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            problem = f" ({error})"
    if isinstance(extractor, type) and issubclass(extractor, BaseFeaturesExtractor):
        return extractor
    raise ValueError(
        f"features_extractor_class={given!r} is no features extractor{problem}: write a subclass of SB3's "
        "BaseFeaturesExtractor, or the dotted name of one, such as 'sb3_rainbow.networks.DataEfficientConv'"
    )


def _check_observations(extractor: type[BaseFeaturesExtractor], space: spaces.Space) -> None:
    is_dict = isinstance(space, spaces.Dict)
    if is_dict and (extractor in (FlattenExtractor, NatureCNN) or issubclass(extractor, ConvExtractor)):
        raise ValueError(f"policy: {extractor.__name__} does not take {space}: write 'MultiInputPolicy' for a Dict")
    if not is_dict and extractor is CombinedExtractor:
        raise ValueError(
            f"policy: {extractor.__name__} takes a Dict, not {space}: write 'MlpPolicy' for vectors or 'CnnPolicy' for "
            "images"
        )


def _check_support(n_atoms: int, v_min: float, v_max: float) -> None:
    if not (np.diff(np.linspace(v_min, v_max, n_atoms, dtype=np.float32)) > 0).all():
        raise ValueError(
            f"v_min={v_min} must be below v_max={v_max}, by enough for n_atoms={n_atoms} to differ: choose them so "
            "that all discounted returns lie between"
        )
