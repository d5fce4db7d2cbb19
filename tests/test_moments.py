"""Moments of Adam that are too small to be felt: without them it makes the same weights."""

import pytest
import torch as th
from torch import nn

from sb3_rainbow import RainbowDQN
from sb3_rainbow.moments import forget_subnormal_moments
from tests.envs import Corridor


def subnormal(optimizer):
    """How many numbers among the first and the second moments are"""
    numbers = [
        th.cat([state[name].flatten() for state in optimizer.state.values()]) for name in ("exp_avg", "exp_avg_sq")
    ]
    return [int(((x != 0) & (x.abs() < th.finfo(x.dtype).tiny)).sum()) for x in numbers]


@pytest.mark.parametrize(
    ("kind", "more"), [(th.optim.Adam, {"fused": True}), (th.optim.Adam, {}), (th.optim.AdamW, {})]
)
@pytest.mark.parametrize("eps", [1.5e-4, 1e-8, 1e-10])
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
    seen = [0, 0]
    for gradient in gradients:
        for w, optimizer in zip(weights, optimizers, strict=True):
            w.grad = gradient.clone()
            optimizer.step()
        seen = [a + b for a, b in zip(seen, subnormal(optimizers[0]), strict=True)]
        forget_subnormal_moments(optimizers[1])
        assert subnormal(optimizers[1]) == [0, 0]
        assert th.equal(*weights)
    assert min(seen) > 0, "nothing was forgotten"


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        (lambda w: th.optim.Adam(w, eps=1e-12), th.float32),  # beside which the root of a subnormal is felt
        (lambda w: th.optim.Adam(w, eps=1e-4), th.float16),  # whose subnormal numbers are as large as gradients
        (lambda w: th.optim.Adam(w, eps=1e-4), th.complex64),
        (lambda w: th.optim.RMSprop(w, momentum=0.5), th.float32),
        (lambda w: th.optim.Adafactor(w), th.float32),  # its eps is a pair
        (lambda w: th.optim.Adamax(w), th.float32),
    ],
)
def test_what_may_be_felt_is_kept(optimizer, dtype):
    weight = nn.Parameter(th.ones(4, 4, dtype=dtype))
    optimizer = optimizer([weight])
    forget_subnormal_moments(optimizer)  # which has no moments yet
    weight.grad = th.full_like(weight, 1e-40 if dtype != th.float16 else 1e-6)
    optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state[weight].items() if th.is_tensor(value)}
    assert before
    forget_subnormal_moments(optimizer)
    assert all(th.equal(value, optimizer.state[weight][name]) for name, value in before.items())


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("n_updates", "gradient_steps", "forgotten"), [(98, 1, False), (99, 1, True), (40, 230, True)])
def test_every_hundredth_gradient_step_forgets(overlap, n_updates, gradient_steps, forgotten):
    model = RainbowDQN("MlpPolicy", Corridor(), learning_starts=20, buffer_size=100, overlap=overlap, seed=0)
    model.learn(60)
    layer = model.q_net.streams[0][0]
    with th.no_grad():
        layer.bias_mu[0] = -1e6  # its ReLU does not open any more, so that its gradient is 0
    moments = model.policy.optimizer.state[layer.weight_mu]["exp_avg"]
    moments[0] = 1e-40
    weights = layer.weight_mu.detach().clone()
    model._n_updates = n_updates
    model.train(gradient_steps, batch_size=8)
    assert model._n_updates == n_updates + gradient_steps
    assert (subnormal(model.policy.optimizer)[0] == 0) == forgotten
    assert th.equal(layer.weight_mu[0], weights[0])
    assert not th.equal(layer.weight_mu[1:], weights[1:])
