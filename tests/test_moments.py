"""Moments of Adam that are too small to be felt: without them it makes the same weights."""

import pytest
import torch as th
from envs import Corridor
from torch import nn

from sb3_rainbow import RainbowDQN
from sb3_rainbow.moments import forget_subnormal_moments

NAMES = ("exp_avg", "exp_avg_sq")


class MyAdam(th.optim.Adam):
    """What it makes of its moments is its own affair."""


def n_subnormal(optimizer, name):
    numbers = th.cat([state[name].flatten() for state in optimizer.state.values()])
    return int(((numbers != 0) & (numbers.abs() < th.finfo(numbers.dtype).tiny)).sum())


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (th.optim.Adam, {"fused": True}),
        (th.optim.Adam, {"foreach": True}),
        (th.optim.Adam, {"amsgrad": True}),
        (th.optim.AdamW, {"maximize": True}),
    ],
)
@pytest.mark.parametrize("eps", [1.5e-4, 1e-8])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_weights_are_the_same_without(kind, more, eps, dtype):
    th.manual_seed(0)
    start = th.randn(20, dtype=dtype)
    gradients = th.randn(60, 20, dtype=dtype) * 1e-3
    gradients[10:45, :15] = 0  # of ReLUs that are closed for a while, and of five of them for good
    gradients[45:, :5] = 0
    weights = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    beta = 1e-3 if dtype == th.float32 else 1e-9  # subnormal after a few steps, not after hundreds
    optimizers = [kind([w], lr=1e-3, eps=eps, betas=(beta, beta), **more) for w in weights]
    n_forgotten = dict.fromkeys(NAMES, 0)
    for gradient in gradients:
        for w, optimizer in zip(weights, optimizers, strict=True):
            w.grad = gradient.clone()
            optimizer.step()
        forget_subnormal_moments(optimizers[1])
        for name in NAMES:
            n_forgotten[name] += n_subnormal(optimizers[0], name)
            assert n_subnormal(optimizers[1], name) == 0
        assert th.equal(*weights)
    assert min(n_forgotten.values()) > 0


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-3])
def test_weights_are_the_same_with_the_usual_betas(size):
    """Of subnormal moments that are set by hand, as it takes 760 and 60,000 steps to come to them."""
    th.manual_seed(0)
    start = th.randn(1000)
    weights = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [th.optim.Adam([w], lr=1e-3) for w in weights]
    for step, gradient in enumerate(th.randn(50, 1000) * th.tensor([1e-3, *[size] * 49])[:, None]):
        for w, optimizer in zip(weights, optimizers, strict=True):
            w.grad = gradient.clone()
            optimizer.step()
            if step == 0:
                for name in NAMES:
                    optimizer.state[w][name][:500] = th.rand(500, generator=th.Generator().manual_seed(1)) * 1e-38
        forget_subnormal_moments(optimizers[1])
        assert th.equal(*weights)


def test_only_what_is_subnormal_is_forgotten():
    tiny = th.finfo(th.float32).tiny
    weights = [nn.Parameter(th.ones(5)) for _ in range(4)]
    groups = [{"params": weights[:2]}, {"params": weights[2:3]}, {"params": weights[3:], "eps": 1e-9}]
    optimizer = th.optim.Adam(groups, eps=1e-8)
    forget_subnormal_moments(optimizer)  # which has no moments yet
    numbers = th.tensor([2 * tiny, -2 * tiny, tiny / 2, -tiny / 2, 1.0])
    for weight in weights:
        weight.grad = th.zeros(5)
    optimizer.step()
    for state in optimizer.state.values():
        for name in NAMES:
            state[name][:] = numbers
    forget_subnormal_moments(optimizer)
    for name in NAMES:
        for weight in weights[:3]:
            assert optimizer.state[weight][name].tolist() == [2 * tiny, -2 * tiny, 0, 0, 1]
        assert th.equal(optimizer.state[weights[3]][name], numbers)  # beside a smaller eps its root would be felt


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        (lambda weights: th.optim.Adam(weights, eps=1e-4), th.float16),  # whose subnormal numbers are not small
        (lambda weights: th.optim.Adam(weights, eps=1e-4), th.bfloat16),
        (lambda weights: th.optim.Adam(weights, eps=1e-4), th.complex64),
        (MyAdam, th.float32),
        (th.optim.Adamax, th.float32),
        (th.optim.Adafactor, th.float32),  # its eps is a pair
    ],
)
def test_what_may_be_felt_is_kept(optimizer, dtype):
    weight = nn.Parameter(th.ones(4, 4, dtype=dtype))
    optimizer = optimizer([weight])
    weight.grad = th.full_like(weight, 1e-6 if dtype == th.float16 else 1e-38)
    optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state[weight].items() if th.is_tensor(value)}
    forget_subnormal_moments(optimizer)
    assert before
    assert all(th.equal(value, optimizer.state[weight][name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("n_updates", "gradient_steps", "forgotten"),
    [(98, 1, False), (99, 1, True), (100, 1, False), (100, 99, False), (199, 1, True), (40, 230, True)],
)
def test_every_hundredth_gradient_step_forgets(n_updates, gradient_steps, forgotten):
    model = RainbowDQN("MlpPolicy", Corridor(), learning_starts=20, buffer_size=100, device="cpu", seed=0)
    model.learn(60)
    layers = [stream[0] for stream in model.q_net.streams]
    before = [layer.weight_mu.detach().clone() for layer in layers]
    for layer in layers:
        with th.no_grad():
            layer.bias_mu[0] = -1e6  # its ReLU does not open any more, so that its gradient is 0
        model.policy.optimizer.state[layer.weight_mu]["exp_avg"][0] = 1e-40
    model._n_updates = n_updates
    model.train(gradient_steps, batch_size=8)
    assert model._n_updates == n_updates + gradient_steps
    for layer, weights in zip(layers, before, strict=True):
        left = model.policy.optimizer.state[layer.weight_mu]["exp_avg"][0]
        assert bool((left == 0).all()) == forgotten
        assert th.equal(layer.weight_mu[0], weights[0])
        assert not th.equal(layer.weight_mu[1:], weights[1:])
