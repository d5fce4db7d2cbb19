"""
How fast a network learns what a Pong screen is worth: no agent, so minutes tell what a run takes hours for.

    python benchmarks/pong.py --variants rainbow --seeds 1
    python benchmarks/pong_values.py logs/pong/checkpoints/rainbow_1/replay_buffer_*.pkl

Takes all transitions of a replay buffer that a run has left, and fits the discounted return that came after each of
them, as a categorical distribution, with one hidden layer behind the convolutions. Prints the share of the returns'
variance that is explained where it did not learn, in blocks of 500 steps, after some numbers of gradient steps.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.save_util import load_from_pkl
from torch import nn

from sb3_rainbow.heads import CategoricalHead
from sb3_rainbow.networks import DataEfficientConv, NatureConv

CONVOLUTIONS = {"data-efficient": DataEfficientConv, "nature": NatureConv}
GAMMA, BLOCK, MARGIN, BATCH, TEST_ROWS = 0.99, 500, 60, 64, 3_000
REPORTED = (500, 1_000, 1_500, 2_000, 4_000, 8_000)


def returns(rewards: np.ndarray, dones: np.ndarray) -> np.ndarray:
    """
    :param rewards: (n_steps, n_envs), the oldest first
    :param dones: (n_steps, n_envs)
    :return: (n_steps, n_envs) discounted sums up to the end of the game, NaN where that is not in the buffer
    """
    sums, after = np.empty(rewards.shape, np.float32), np.full(rewards.shape[1], np.nan, np.float32)
    for step in reversed(range(len(rewards))):
        after = rewards[step] + GAMMA * np.where(dones[step] > 0, 0, after)
        sums[step] = after
    return sums


def split(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    :param known: (n_steps, n_envs) whether the return is known
    :return: rows (n, 2) of (step, env) to learn from, and to test with: blocks of steps, at some distance
    """
    steps = np.arange(len(known))
    is_test = steps // BLOCK % 5 == 4
    is_near = np.convolve(is_test, np.ones(2 * MARGIN + 1), "same") > 0
    return np.argwhere(known & ~is_near[:, None]), np.argwhere(known & is_test[:, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replay_buffer", type=Path)
    parser.add_argument("--convolutions", nargs="+", choices=CONVOLUTIONS, default=["data-efficient"])
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--updates", type=int, default=2_000)
    args = parser.parse_args()
    th.set_num_threads(1)
    buffer: Any = load_from_pkl(args.replay_buffer)
    order = np.roll(np.arange(buffer.size()), -buffer.pos if buffer.full else 0)
    values = returns(buffer.rewards[order], buffer.dones[order])
    train, test = split(~np.isnan(values))
    test = test[np.random.default_rng(0).choice(len(test), min(TEST_ROWS, len(test)), replace=False)]

    def batch(rows: np.ndarray) -> tuple[th.Tensor, th.Tensor]:
        observations = buffer.storage.get(order[rows[:, 0]], rows[:, 1])
        return th.as_tensor(observations).clone(), th.as_tensor(values[rows[:, 0], rows[:, 1]])

    test_images, test_values = batch(test)
    for name in args.convolutions:
        for layer_norm, input_norm in product((False, True), repeat=2):
            th.manual_seed(0)
            random = np.random.default_rng(1)
            head = CategoricalHead(51, -3, 3)
            extractor = CONVOLUTIONS[name](buffer.observation_space, layer_norm=layer_norm, input_norm=input_norm)
            linear = nn.Sequential(nn.Linear(extractor.features_dim, 256), nn.ReLU(), nn.Linear(256, head.size))
            network = nn.Sequential(extractor, linear)
            optimizer = th.optim.Adam(network.parameters(), args.learning_rate, eps=1e-5)
            print(f"{name}, layer_norm={layer_norm}, input_norm={input_norm}:", end="", flush=True)
            for update in range(1, args.updates + 1):
                images, batch_values = batch(train[random.integers(0, len(train), BATCH)])
                outputs = network(images / 255).unsqueeze(1)
                only_action = th.zeros(BATCH, 1)
                target = head.target(outputs, only_action, batch_values.unsqueeze(1), th.zeros(BATCH, 1))
                optimizer.zero_grad()
                head.loss(outputs, only_action, target)[0].mean().backward()
                optimizer.step()
                if update in REPORTED:
                    with th.no_grad():
                        outputs = th.cat([network(images / 255) for images in test_images.split(500)])
                        errors = head.q_values(outputs.unsqueeze(1))[:, 0] - test_values
                    print(f" {update}: {1 - errors.square().mean() / test_values.var():.3f}", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
