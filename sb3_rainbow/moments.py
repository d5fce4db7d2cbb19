"""Ground floor: an optimizer's moments that no weight feels any more."""

import torch as th
from torch.nn import functional as F

_SMALLEST_EPS = 1e-8  # torch's own. The square root of what is forgotten is less than half a unit in its last place


def forget_subnormal_moments(optimizer: th.optim.Optimizer) -> None:
    """
    Set to zero what is subnormal among Adam's moments.

    The first moment of a weight whose gradient has become 0, as behind a ReLU that never opens any more, shrinks until
    it is subnormal and stays there, as 0.9 times the smallest few numbers is rounded to themselves. Many processors
    take many times as long for each. No weight feels it but one that is below 1e-29 times the learning rate over eps.

    :param optimizer: of any class: one that is not Adam or AdamW, or has an ``eps`` below 1e-8, is left as it is
    """
    if type(optimizer) not in (th.optim.Adam, th.optim.AdamW):
        return
    weights = [w for group in optimizer.param_groups if group["eps"] >= _SMALLEST_EPS for w in group["params"]]
    for state in (optimizer.state.get(weight, {}) for weight in weights):
        for moments in (state[name] for name in ("exp_avg", "exp_avg_sq") if name in state):
            if moments.dtype in (th.float32, th.float64):
                moments.copy_(F.hardshrink(moments, th.finfo(moments.dtype).tiny))
