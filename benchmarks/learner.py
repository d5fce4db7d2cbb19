"""
What a gradient step costs, beside SB3's DQN, sb3-contrib's QR-DQN and a plain Rainbow in one file.

    python benchmarks/learner.py --threads 1 2
    python benchmarks/learner.py --device cuda --threads 8 --steps 200 --output learner_cuda.csv
    python benchmarks/learner.py --profile --threads 2

All learn from batches of 32 Atari frame stacks with the Nature convolutions, each from a buffer of its own with the
same transitions, in turn, in rounds: minimum, median and maximum over the rounds go to
``benchmarks/results/learner.csv``, or ``--output``, with the ratio to DQN of the same run. For RainbowDQN, DQN and
QR-DQN a step is ``train(1)``: the batch is drawn, learned from and, where priorities are kept, they are updated. The
plain Rainbow is written as most are: noise as a dense matrix for each noisy layer, a pass for each use of a network,
the projection in a loop over atoms; it learns from RainbowDQN's buffer. Without ``--device`` all of it is done on the
CPU, and then on the GPU if there is one. ``--profile`` measures instead what torch.profiler sees in a gradient step:
calls and milliseconds of each operation that takes 1 % of it or more.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from machine import write_table
from processes import measure_in_turn
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from sb3_rainbow import RainbowDQN

BATCH, ROWS, N_ACTIONS = 32, 2_000, 6
OFF: dict[str, Any] = {
    "double_q": False,
    "dueling": False,
    "noisy": False,
    "distributional": False,
    "prioritized_replay": False,
    "n_steps": 1,
}
SMALL = {"features_extractor_class": "sb3_rainbow.networks.DataEfficientConv"}


class Frames(gym.Env):
    """Stacks of four frames of noise, in episodes of 900 steps."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(N_ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.stack = 0, self._frames(4)
        return self.stack, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        self.stack = np.concatenate((self.stack[1:], self._frames(1)))
        return self.stack, float(self.np_random.integers(-1, 2)), self.steps == 900, False, {}

    def _frames(self, count: int) -> np.ndarray:
        return self.np_random.integers(0, 256, (count, 84, 84), dtype=np.uint8)


class PlainNoisyLinear(nn.Module):
    weight_noise: th.Tensor
    bias_noise: th.Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(th.empty(n_out, n_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(th.full((n_out, n_in), 0.5 * bound))
        self.bias_sigma = nn.Parameter(th.full((n_out,), 0.5 * bound))
        self.register_buffer("weight_noise", th.zeros(n_out, n_in))
        self.register_buffer("bias_noise", th.zeros(n_out))

    def reset_noise(self) -> None:
        shape, device = self.weight.shape, self.weight.device
        left, right = (noise.sign() * noise.abs().sqrt() for noise in (th.randn(n, device=device) for n in shape))
        self.weight_noise.copy_(left.outer(right))
        self.bias_noise.copy_(left)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        weight = self.weight + self.weight_sigma * self.weight_noise
        return F.linear(inputs, weight, self.bias + self.bias_sigma * self.bias_noise)


class PlainNetwork(nn.Module):
    def __init__(self, support: th.Tensor) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.n_atoms, self.support = len(support), support
        self.value = nn.Sequential(PlainNoisyLinear(3136, 512), nn.ReLU(), PlainNoisyLinear(512, self.n_atoms))
        n_outputs = N_ACTIONS * self.n_atoms
        self.advantage = nn.Sequential(PlainNoisyLinear(3136, 512), nn.ReLU(), PlainNoisyLinear(512, n_outputs))

    def reset_noise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, PlainNoisyLinear):
                layer.reset_noise()

    def forward(self, obs: th.Tensor) -> th.Tensor:
        features = self.convolutions(obs.float() / 255)
        value = self.value(features).view(-1, 1, self.n_atoms)
        advantage = self.advantage(features).view(-1, N_ACTIONS, self.n_atoms)
        return (value + advantage - advantage.mean(1, keepdim=True)).softmax(-1)


class PlainRainbow:
    """A gradient step as most single files have it."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self.support = th.linspace(-10, 10, 51, device=buffer.device)
        self.online, self.target = (PlainNetwork(self.support).to(buffer.device) for _ in range(2))
        self.optimizer = th.optim.Adam(self.online.parameters(), lr=6.25e-5, eps=1.5e-4)

    def step(self) -> None:
        batch = self.buffer.sample(BATCH)
        self.online.reset_noise()
        self.target.reset_noise()
        rows = th.arange(BATCH, device=self.support.device)
        with th.no_grad():
            actions = (self.online(batch.next_observations) * self.support).sum(-1).argmax(1)
            probabilities = self.target(batch.next_observations)[rows, actions]
            projected = self.project(probabilities, batch.rewards, (1 - batch.dones) * batch.discounts)
        log_probabilities = self.online(batch.observations)[rows, batch.actions.squeeze(1)].clamp(min=1e-8).log()
        losses = -(projected * log_probabilities).sum(1)
        self.optimizer.zero_grad()
        (losses * batch.weights.squeeze(1)).mean().backward()
        nn.utils.clip_grad_norm_(self.online.parameters(), 10)
        self.optimizer.step()
        self.buffer.update_priorities(batch.indices, losses.detach().cpu().numpy() + 1e-6)

    def project(self, probabilities: th.Tensor, rewards: th.Tensor, discounts: th.Tensor) -> th.Tensor:
        projected = th.zeros_like(probabilities)
        rows = th.arange(BATCH, device=self.support.device)
        for atom in range(len(self.support)):
            value = (rewards + discounts * self.support[atom]).clamp(-10, 10).squeeze(1)
            place = ((value + 10) / 0.4).clamp(0, 50)
            low, high = place.floor().long(), place.ceil().long()
            both = (low == high).float()
            projected[rows, low] += probabilities[:, atom] * (high - place + both)
            projected[rows, high] += probabilities[:, atom] * (place - low)
        return projected


def filled(model: Any) -> Any:
    model.learning_starts = 10**9  # nothing is learned before the measurement
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(ROWS)
    return model


def training(model: Any) -> Callable[[], None]:
    filled(model)
    return lambda: model.train(1, BATCH)


RAINBOWS: dict[str, dict[str, Any]] = {
    "RainbowDQN": {},
    "RainbowDQN, amp": {"amp": True},
    "RainbowDQN, compile": {"compile": True},
    "RainbowDQN, amp and compile": {"amp": True, "compile": True},
    "RainbowDQN, all switches off": OFF,
    "RainbowDQN, all switches off, amp and compile": {**OFF, "amp": True, "compile": True},
    "RainbowDQN, data-efficient convolutions": {"policy_kwargs": SMALL},
    "RainbowDQN, data-efficient convolutions, amp": {"policy_kwargs": SMALL, "amp": True},
    "RainbowDQN, data-efficient convolutions, compile": {"policy_kwargs": SMALL, "compile": True},
    "RainbowDQN, data-efficient convolutions, amp and compile": {"policy_kwargs": SMALL, "amp": True, "compile": True},
}
LEARNERS = ("DQN", "QRDQN", "plain Rainbow", *RAINBOWS)


def make(name: str, device: str) -> Callable[[], None]:
    """
    :param name: of a learner
    :param device: for the networks
    :return: a function that does one gradient step
    """
    common: dict[str, Any] = {"env": Frames(), "buffer_size": ROWS, "seed": 0, "device": device}
    if name in RAINBOWS:
        return training(RainbowDQN("CnnPolicy", **common, **RAINBOWS[name]))
    if name == "plain Rainbow":
        return PlainRainbow(filled(RainbowDQN("CnnPolicy", **common)).replay_buffer).step
    return training({"DQN": DQN, "QRDQN": QRDQN}[name]("CnnPolicy", **common))


def serve(name: str, threads: int, device: str) -> None:
    """Make gradient steps, as many as each line of the input says, and answer with milliseconds per step."""
    th.set_num_threads(threads)
    step = make(name, device)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        if device == "cuda":
            th.cuda.synchronize()
        print(json.dumps((time.perf_counter() - start) / int(line) * 1e3), flush=True)


def operations(name: str, threads: int, device: str, steps: int) -> list[dict[str, Any]]:
    """
    :param name: of a learner
    :param threads: of torch
    :param device: of the networks
    :param steps: so many are looked at, after as many to warm up
    :return: for each operation its calls in a gradient step, and its own milliseconds: the CPU's, or the GPU's
    """
    th.set_num_threads(threads)
    step = make(name, device)
    for _ in range(steps):
        step()
    with profile(activities=[ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            step()
        if device == "cuda":
            th.cuda.synchronize()
    times = {
        event.key: (event.count / steps, getattr(event, f"self_{'cpu' if device == 'cpu' else 'device'}_time_total"))
        for event in profiler.key_averages()
    }
    total = sum(time for _, time in times.values())
    row = {"learner": name, "device": device, "threads": threads}
    return [
        row | {"operation": key, "calls": calls, "ms": round(time / steps / 1e3, 3), "share": round(time / total, 3)}
        for key, (calls, time) in sorted(times.items(), key=lambda item: -item[1][1])
        if time >= 0.01 * total
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS)
    parser.add_argument("--steps", type=int, default=20, help="gradient steps of a round")
    parser.add_argument("--rounds", type=int, default=7)
    devices = ["cpu", "cuda"] if th.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", nargs="+", default=devices, choices=("cpu", "cuda"))
    parser.add_argument("--output", help="file in benchmarks/results. Default: learner.csv, or learner_profile.csv")
    parser.add_argument("--profile", action="store_true", help="where the time of a gradient step goes")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.threads[0], args.device[0])
        return
    runs = [(device, threads) for device in args.device for threads in args.threads]
    table: list[dict[str, Any]] = []
    if args.profile:
        # Each in a process of its own, here and below, so that none finds the memory or the threads of another
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for device, threads in runs:
                for name in args.learners:
                    rows = pool.apply(operations, (name, threads, device, args.steps))
                    print(*(" ".join(map(str, row.values())) for row in rows), sep="\n", flush=True)
                    table += rows
        write_table(args.output or "learner_profile.csv", table)
        return
    for device, threads in runs:
        command = [sys.executable, __file__, "--device", device, "--threads", str(threads), "--serve"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        times = measure_in_turn(
            {name: [*command, name] for name in args.learners}, args.steps, args.rounds, environment
        )
        dqn = float(np.median(times["DQN"])) if "DQN" in times else math.nan
        for name, values in times.items():
            low, median, high = min(values), float(np.median(values)), max(values)
            row = {"learner": name, "device": device, "threads": threads, "ms_min": round(low, 2)}
            row |= {"ms_median": round(median, 2), "ms_max": round(high, 2), "ratio": round(median / dqn, 2)}
            table.append(row | {"steps_per_second": round(1e3 / median, 1)})
            print(*table[-1].values(), flush=True)
    write_table(args.output or "learner.csv", table)


if __name__ == "__main__":
    main()
