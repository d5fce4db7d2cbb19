"""Second floor: gradient steps that a GPU makes by itself, in one CUDA graph: drawn, learned from, and prioritized."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch as th

from sb3_rainbow.buffers import RainbowReplayBuffer
from sb3_rainbow.chain import Chain, Noise
from sb3_rainbow.device_replay import DeviceBatch, DeviceReplay
from sb3_rainbow.heads import Head, loss_of_batch
from sb3_rainbow.networks import has_hooks
from sb3_rainbow.policies import RainbowPolicy

_JUDGED = ("rewards", "loss", "gradient_norm")
_LARGE = 2**17  # numbers in a tensor
_WARM_UP_STEPS = 3  # before a step is captured: they compile, and libraries set up what they need


class Settings(NamedTuple):
    """Numbers that a graph is captured with: with others it has to be captured again."""

    batch_size: int
    double_q: bool
    amp: bool
    max_grad_norm: float
    prioritized_replay_eps: float


class _Adam(NamedTuple):
    """The optimizer's state, which is changed in place."""

    parameters: dict[str, th.nn.Parameter]  # by name in the network
    small: dict[str, tuple[th.Tensor, th.Tensor]]  # averages of the gradient and of its square
    large: dict[str, tuple[th.Tensor, th.Tensor]]
    steps: list[th.Tensor]  # of each parameter, all the same
    betas: tuple[float, float]
    eps: float


class CapturedSteps:
    """
    Gradient steps that do not wait for the host.

    A copy of the replay buffer is drawn from on the device. The first steps compile; then one is captured as a CUDA
    graph, which later ones replay. Elsewhere than on a GPU the same is computed without a graph.

    :param policy: networks and optimizer, which ``suits`` accepts
    :param compile: compiles a function, with options
    """

    DEVICES: ClassVar[tuple[str, ...]] = ("cuda",)  # where it pays
    _settings: Settings
    _adam: _Adam
    _chain: Chain

    def __init__(self, policy: RainbowPolicy, compile: Callable[..., Callable]) -> None:
        self.policy, self.device = policy, policy.device
        self._optimizer, self._networks = policy.optimizer, (policy.q_net, policy.q_net_target)
        self._parts = self._parts_now()
        self._weights = [weight for network in self._networks for weight in network.parameters()]
        self.replay: DeviceReplay | None = None
        self._is_gpu = self.device.type == "cuda"
        # Kernels for many small tensors at a time; large ones they make slower
        many = {"combo_kernels": True} if self._is_gpu else {}
        functions = _make_weights, _draw, _outputs, _loss, _judge, _change, _prioritize
        self._make_weights, self._draw, self._outputs, self._loss, self._judge, self._change_small, self._prioritize = (
            compile(function, dynamic=False, **many) for function in functions
        )
        self._change_large = compile(_change, dynamic=False)
        # What is captured, and two asides of it
        streams: list[Any] = [th.cuda.Stream(self.device) if self._is_gpu else None for _ in range(3)]
        self._stream, *self._asides = streams
        self._graph: th.cuda.CUDAGraph | None = None
        self._n_warm = 0
        self._made_for: Any = None  # what the graph, and the steps that lead to it, depend on besides tensors' contents
        self._rate, self._last_rate = th.zeros((), device=self.device), 0.0  # of learning
        self._log_names: list[str] = []
        self._log = th.zeros(0, device=self.device)  # sums over gradient steps
        self._n_logged = 0
        # What was judged when not all of it was finite: nothing is changed any more then
        self._failure = th.zeros(len(_JUDGED), device=self.device)
        self._failure_seen = th.zeros(len(_JUDGED), pin_memory=self._is_gpu)

    @staticmethod
    def suits(policy: RainbowPolicy) -> bool:
        """
        :param policy: networks and optimizer
        :return: whether gradient steps of it can be made here
        """
        optimizer, weights = policy.optimizer, list(policy.q_net.parameters())
        first, *others = optimizer.param_groups
        return (
            type(optimizer) is th.optim.Adam
            and not others
            and not any(first[name] for name in ("weight_decay", "amsgrad", "maximize", "differentiable"))
            and not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
            and list(map(id, first["params"])) == list(map(id, weights))
            and all(weight.requires_grad and weight.dtype == th.float32 for weight in weights)
            and Chain.suits(policy.q_net)
            and Chain.suits(policy.q_net_target)
            and repr(policy.q_net) == repr(policy.q_net_target)
            # Last, because a GPU has to be waited for to tell. Those that were frozen have no state
            and len({float(optimizer.state.get(weight, {}).get("step", 0)) for weight in weights}) == 1
        )

    def make(self, buffer: RainbowReplayBuffer, n_steps: int, settings: Settings) -> None:
        """
        Make gradient steps. What becomes of them is not known yet when this returns: see ``failure``.

        :param buffer: one that ``DeviceReplay.suits`` accepts
        :param n_steps: how many
        :param settings: numbers
        """
        if not self.has_copy_of(buffer):
            self.give_up_copy()
            self.replay = DeviceReplay(buffer, self.device)
        assert self.replay is not None
        with th.cuda.device(self.device) if self._is_gpu else nullcontext():
            self.replay.follow()
            if self._made_for is None or (settings, *self._state()) != self._made_for:
                self._graph, self._n_warm, self._settings = None, 0, settings
                self._adam = _adam_of(self.policy)
                self._chain = Chain(self.policy.q_net, th.bfloat16 if settings.amp else th.float32)
                self._made_for = settings, *self._state()
            rate = self.policy.optimizer.param_groups[0]["lr"]
            if rate != self._last_rate:
                self._last_rate = rate
                self._rate.fill_(rate)
            for _ in range(n_steps):
                self._make_one()
                self._n_logged += 1
            self._failure_seen.copy_(self._failure, non_blocking=True)

    def has_same_parts(self) -> bool:
        """
        :return: whether the networks are made of the modules that they were made of at first
        """
        return self._parts == self._parts_now()

    def _parts_now(self) -> list[Any]:
        """All modules, and what networks do beside them"""
        return [part for network in self._networks for part in (network.dueling, *network.modules())]

    def _state(self) -> tuple[Any, ...]:
        """Where all tensors of the networks and of Adam are, and its numbers: the graph was captured with these"""
        group = self.policy.optimizer.param_groups[0]
        tensors = list(self._weights)
        for weight in group["params"]:
            tensors += self.policy.optimizer.state[weight].values()
        return group["betas"], group["eps"], id(self.replay), *(tensor.data_ptr() for tensor in tensors)

    def has_copy_of(self, buffer: object) -> bool:
        """
        :param buffer: any replay buffer
        :return: whether it is drawn from already, and what was added since can be copied
        """
        return self.replay is not None and self.replay.buffer is buffer and self.replay.is_current

    def has_same_state(self) -> bool:
        """
        :return: whether Adam's state is the one that was last changed here, and not one that was loaded since: of that
            ``suits`` has to be asked
        """
        if self._made_for is None:
            return False
        state, weights = self._optimizer.state, self._adam.parameters.values()
        return all(
            step is state.get(weight, {}).get("step") for weight, step in zip(weights, self._adam.steps, strict=True)
        )

    def still_suits(self, policy: RainbowPolicy) -> bool:
        """
        :param policy: that of the model now
        :return: whether ``suits`` would accept it still: what of that is cheap enough to be asked before every call
        """
        optimizer = self.policy.optimizer
        options = [optimizer.param_groups[0].get(name) for name in ("weight_decay", "amsgrad", "maximize")]
        return (
            policy is self.policy
            and optimizer is self._optimizer
            and self.policy.q_net is self._networks[0]
            and self.policy.q_net_target is self._networks[1]
            and not any(options)
            and all(weight.requires_grad for weight in optimizer.param_groups[0]["params"])
            and not any(weight._backward_hooks or weight._post_accumulate_grad_hooks for weight in self._weights)
            and not any(has_hooks(part) for part in self._parts if isinstance(part, th.nn.Module))
        )

    def write_back(self) -> None:
        """Give the replay buffer the priorities that are kept on the device."""
        if self.replay is not None:
            self.replay.write_back()

    def write_back_highest(self) -> None:
        """Give the replay buffer the highest priority alone, for the log."""
        if self.replay is not None:
            self.replay.write_back_highest()

    def give_up_copy(self) -> None:
        """Free the memory of the copy, after its priorities were written back."""
        self.write_back()
        self._graph = self.replay = self._made_for = None

    def failure(self, wait: bool) -> dict[str, float]:
        """
        Tell, once, that not all was finite. Since then nothing has been changed.

        :param wait: for all steps that are under way; otherwise it may be told later
        :return: what was judged, by name; empty if all was finite
        """
        if not wait and not self._failure_seen.any():
            return {}
        judged = self._failure.tolist()
        if not any(judged):
            return {}
        self._failure.zero_()
        self._failure_seen.zero_()
        self.take_log()  # its sums are of fewer steps than were counted
        return dict(zip(_JUDGED, judged, strict=True))

    def take_log(self) -> tuple[dict[str, th.Tensor], int]:
        """
        :return: sums over gradient steps, by name, and the number of steps; they begin anew
        """
        n_steps, self._n_logged = self._n_logged, 0
        sums = dict(zip(self._log_names, self._log.clone(), strict=True)) if n_steps else {}
        self._log.zero_()
        return sums, n_steps

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of the model captures a graph of its own

    def _make_one(self) -> None:
        if not self._is_gpu:
            self._step()
            return
        if self._graph is None and self._n_warm < _WARM_UP_STEPS:
            self._n_warm += 1
            now = th.cuda.current_stream()
            self._stream.wait_stream(now)
            with th.cuda.stream(self._stream):
                self._step()
            now.wait_stream(self._stream)
            return
        if self._graph is None:
            graph = th.cuda.CUDAGraph()
            with th.cuda.graph(graph, stream=self._stream):  # nothing is computed here
                self._step()
            self._graph = graph
        self._graph.replay()

    def _step(self) -> None:
        # What is made on one stream and read on another lives to the end of this function, so that its memory is not
        # taken for something else meanwhile
        chain, adam, settings, replay = self._chain, self._adam, self._settings, self.replay
        assert replay is not None
        with self._aside(0):
            noise, weights = self._make_weights(chain, adam.parameters)
        with self._aside(1):
            _, target_weights = self._make_weights(chain, dict(self.policy.q_net_target.named_parameters()))
        batch = DeviceBatch(*self._draw(replay, chain, settings.batch_size))
        self._join()
        with th.no_grad(), self._aside(0):
            next_outputs = self._outputs(chain, target_weights, batch.next_observations)
        selecting = next_outputs
        if settings.double_q:
            with th.no_grad(), self._aside(1):
                selecting = self._outputs(chain, weights, batch.next_observations)
        leaves = [tensor.detach().requires_grad_() for tensor in weights]
        outputs = self._outputs(chain, leaves, batch.observations)
        self._join()
        of_batch = batch.actions, next_outputs, selecting, batch.returns, batch.discounts, batch.weights
        gradient, priorities, largest, log = self._loss(chain.head, outputs.detach(), *of_batch)
        gradients = th.autograd.grad(outputs, leaves, gradient)
        if not self._log_names:
            self._log_names = [*log, "grad_norm"]
            self._log = th.zeros(len(self._log_names), device=self.device)
        with th.no_grad():
            of_gradients = chain, noise, gradients, adam.parameters
            sizes = self._rate, adam.steps[0], *adam.betas, settings.max_grad_norm
            allowed, *factors = self._judge(
                *of_gradients, largest, list(log.values()), self._log, self._failure, *sizes
            )
            with self._aside(0):
                self._prioritize(replay, batch.indices, priorities, settings.prioritized_replay_eps, allowed)
                th._foreach_add_(adam.steps, [allowed.float()] * len(adam.steps))
            with self._aside(1):
                self._change_small(*of_gradients, adam.small, allowed, *factors, adam.eps, *adam.betas)
            if adam.large:
                self._change_large(*of_gradients, adam.large, allowed, *factors, adam.eps, *adam.betas)
        self._join()

    @contextmanager
    def _aside(self, index: int) -> Iterator[None]:
        """What is within runs beside what follows, until ``_join``."""
        if not self._is_gpu:
            yield
            return
        self._asides[index].wait_stream(th.cuda.current_stream())
        with th.cuda.stream(self._asides[index]):
            yield

    def _join(self) -> None:
        if self._is_gpu:
            for stream in self._asides:
                th.cuda.current_stream().wait_stream(stream)


def _adam_of(policy: RainbowPolicy) -> _Adam:
    group = policy.optimizer.param_groups[0]
    adam = _Adam(dict(policy.q_net.named_parameters()), {}, {}, [], group["betas"], group["eps"])
    for name, parameter in adam.parameters.items():
        state = policy.optimizer.state[parameter]
        if not state:  # before its first step, as Adam does
            state["step"] = th.zeros(())
            state["exp_avg"] = th.zeros_like(parameter, memory_format=th.preserve_format)
            state["exp_avg_sq"] = th.zeros_like(parameter, memory_format=th.preserve_format)
        state["step"] = state["step"].to(parameter.device)
        averages = adam.large if parameter.numel() > _LARGE else adam.small
        averages[name] = state["exp_avg"], state["exp_avg_sq"]
        adam.steps.append(state["step"])
    return adam


# What is compiled: functions of tensors, and of objects whose tensors stay where they are


def _make_weights(chain: Chain, parameters: Mapping[str, th.Tensor]) -> tuple[Noise, list[th.Tensor]]:
    with th.no_grad():
        noise = chain.noise()
        return noise, chain.weights(parameters, noise)


def _draw(replay: DeviceReplay, chain: Chain, batch_size: int) -> tuple[th.Tensor, ...]:
    obs, actions, next_obs, *others = replay.draw(batch_size)
    return chain.prepared(obs), actions, chain.prepared(next_obs), *others


def _outputs(chain: Chain, weights: list[th.Tensor], obs: th.Tensor) -> th.Tensor:
    return chain.outputs(weights, obs)


def _loss(
    head: Head,
    outputs: th.Tensor,
    actions: th.Tensor,
    next_outputs: th.Tensor,
    selecting: th.Tensor,
    returns: th.Tensor,
    discounts: th.Tensor,
    weights: th.Tensor,
) -> tuple[th.Tensor, th.Tensor, th.Tensor, dict[str, th.Tensor]]:
    """
    :return: the gradient of the loss by the outputs, priorities (batch,), the largest return, and the log, by name
    """
    # An index that is made of what is not finite would end the process
    finite_returns = th.where(returns.isfinite(), returns, 0.0)

    def loss_of(outputs: th.Tensor) -> tuple[th.Tensor, Any]:
        of_batch = actions, next_outputs, selecting, finite_returns, discounts, weights
        loss, priorities, log = loss_of_batch(head, outputs, *of_batch)
        return loss, (priorities, log)

    gradient, (loss, (priorities, log)) = th.func.grad_and_value(loss_of, has_aux=True)(outputs)
    return gradient, priorities.squeeze(1), returns.abs().max(), {"loss": loss, **log}


def _gradients(
    chain: Chain, noise: Noise, gradients: tuple[th.Tensor, ...], parameters: Mapping[str, th.Tensor]
) -> dict[str, th.Tensor]:
    """
    :param gradients: of what ``_make_weights`` made
    :return: of the parameters, by name. They are not kept: each function that reads them makes them on the fly
    """
    pull_back = th.func.vjp(lambda given: chain.weights(given, noise), dict(parameters))[1]
    return pull_back(list(gradients))[0]


def _judge(
    chain: Chain,
    noise: Noise,
    gradients: tuple[th.Tensor, ...],
    parameters: Mapping[str, th.Tensor],
    largest_return: th.Tensor,
    log: list[th.Tensor],
    log_sums: th.Tensor,
    failure: th.Tensor,
    rate: th.Tensor,
    step: th.Tensor,
    beta1: float,
    beta2: float,
    max_grad_norm: float,
) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
    """
    Adds to ``log_sums`` if all is finite so far. If it is not for the first time, ``failure`` gets what was found.

    :return: whether all is finite; the factor that clips the gradient; the learning rate and the root of the squares'
        factor, without the bias that Adam's averages have at first. Scalars
    """
    of_parameters = _gradients(chain, noise, gradients, parameters)
    norm = th.stack([gradient.square().sum() for gradient in of_parameters.values()]).sum().sqrt()
    values = th.stack([*log, norm])
    is_first = (failure == 0).all()
    judged = th.stack((largest_return, values[0], norm))
    allowed = is_first & judged.isfinite().all()
    failure.copy_(th.where(is_first & ~allowed, judged, failure))
    log_sums.add_(th.where(allowed, values, 0.0))
    clip = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_
    return allowed, clip, rate / (1 - beta1 ** (step + 1)), (1 - beta2 ** (step + 1)).sqrt()


def _change(
    chain: Chain,
    noise: Noise,
    gradients: tuple[th.Tensor, ...],
    parameters: Mapping[str, th.Tensor],
    state: dict[str, tuple[th.Tensor, th.Tensor]],
    allowed: th.Tensor,
    clip: th.Tensor,
    rate: th.Tensor,
    scale: th.Tensor,
    eps: float,
    beta1: float,
    beta2: float,
) -> None:
    """
    Adam (https://arxiv.org/abs/1412.6980), where it is allowed.

    :param state: of the parameters that are changed, the averages of their gradients and of the squares, by name
    """
    of_parameters = _gradients(chain, noise, gradients, parameters)
    for name, (mean, square) in state.items():
        parameter, gradient = parameters[name], of_parameters[name] * clip
        new_mean = mean + (gradient - mean) * (1 - beta1)
        new_square = square * beta2 + gradient.square() * (1 - beta2)
        change = rate * new_mean / (new_square.sqrt() / scale + eps)
        parameter.copy_(th.where(allowed, parameter - change, parameter))
        mean.copy_(th.where(allowed, new_mean, mean))
        square.copy_(th.where(allowed, new_square, square))


def _prioritize(replay: DeviceReplay, rows: th.Tensor, priorities: th.Tensor, eps: float, allowed: th.Tensor) -> None:
    replay.set_priorities(rows, priorities + eps, allowed)
