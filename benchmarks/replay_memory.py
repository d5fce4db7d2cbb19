"""
The memory that a million transitions of Pong take, while they arrive, when they are saved and when they are loaded.

    python benchmarks/replay_memory.py

``RainbowDQN("CnnPolicy", env)`` with its default arguments, but for ``learning_starts``: the buffer fills with random
play, a hundred gradient steps follow. Writes the resident memory to ``benchmarks/results/replay_memory.csv`` and
``.png``, and prints what saving and loading took.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ale_py
import gymnasium as gym
import matplotlib.pyplot as plt
import psutil
import torch as th
from machine import describe_machine, peak_memory, versions
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_rainbow import RainbowDQN

gym.register_envs(ale_py)
RESULTS = Path(__file__).parent / "results"


def resident() -> float:
    """
    :return: resident memory of this process now, in GB
    """
    return psutil.Process().memory_info().rss / 1e9


def peak() -> float:
    """
    :return: highest resident memory of this process so far, in GB
    """
    return peak_memory() / 1e9


class MemoryCurve(BaseCallback):
    """Writes down env steps, resident memory and minutes as training goes on."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.start, self.before = time.time(), resident()
        self.rows: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            minutes = (time.time() - self.start) / 60
            self.rows.append({"env_steps": self.num_timesteps, "resident_GB": resident(), "minutes": minutes})
        return True


def load(file: str) -> None:
    before, start = resident(), time.time()
    buffer = load_from_pkl(file)
    share = (peak() - before) / (resident() - before)
    print(f"loading {buffer.size()} transitions: {time.time() - start:.0f} s, peak {share:.3f} of the buffer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(args.load)
        return
    th.set_num_threads(1)
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", seed=0), n_stack=4)
    model = RainbowDQN("CnnPolicy", env, learning_starts=args.steps, seed=0)
    curve = MemoryCurve(every=args.steps // 100)
    model.learn(args.steps + 400, callback=curve)
    held = resident() - curve.before
    print(f"{describe_machine()}\n{versions()}")
    print(f"{args.steps} transitions and training: {held:.2f} GB, {held / args.steps * 1e9:.0f} bytes for each")

    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "replay_memory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, curve.rows[0].keys())
        writer.writeheader()
        writer.writerows({name: round(value, 3) for name, value in row.items()} for row in curve.rows)
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot([row["env_steps"] for row in curve.rows], [row["resident_GB"] for row in curve.rows], linewidth=2)
    axes.set(xlabel="env steps", ylabel="resident memory of the process, GB", title="RainbowDQN on Pong")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(RESULTS / "replay_memory.png", dpi=110)

    with tempfile.TemporaryDirectory() as folder:
        file_name = os.path.join(folder, "buffer.pkl")
        before, start = resident(), time.time()
        model.save_replay_buffer(file_name)
        size = os.path.getsize(file_name) / 1e9
        print(
            f"saving: {time.time() - start:.0f} s, {size:.2f} GB, peak {1 + (peak() - before) / size:.3f} of the buffer"
        )
        del model, env
        subprocess.run([sys.executable, __file__, "--load", file_name], check=True)


if __name__ == "__main__":
    main()
