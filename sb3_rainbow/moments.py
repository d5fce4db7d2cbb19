"""Ground floor: an optimizer's moments that no weight feels any more."""

import torch as th
from torch.nn import functional as F

_SMALLEST_EPS = 1e-10  # beside it the square root of what is forgotten is below half a unit in the last place


def forget_subnormal_moments(optimizer: th.optim.Optimizer) -> None:
    """
    Set subnormal numbers among Adam's moments to zero.

    The moments of a weight whose gradient has become 0, as behind a ReLU that never opens any more, shrink until they
    are subnormal and stay there, as 0.9 times the smallest few are rounded to themselves. Processors take many times
    as long for each, and no weight but one of less than 1e-30 feels it.

    :param optimizer: of any class; where it is not Adam, or its ``eps`` is below 1e-10, nothing is done
    """
    for group in optimizer.param_groups if isinstance(optimizer, th.optim.Adam) else ():
        for weight in group["params"] if group["eps"] >= _SMALLEST_EPS else ():
            state = optimizer.state.get(weight, {})
            for moments in (state[name] for name in ("exp_avg", "exp_avg_sq") if name in state):
                if moments.dtype in (th.float32, th.float64):
                    moments.copy_(F.hardshrink(moments, th.finfo(moments.dtype).tiny))
