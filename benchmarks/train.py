"""
Env steps per second of ``learn()`` on Pong, acting, playing, storing and learning: RainbowDQN, DQN and QR-DQN.

    python benchmarks/train.py --n-envs 1 8
    python benchmarks/train.py --n-envs 2 4 16 32 64 --learners "RainbowDQN, ALE" "RainbowDQN, ALE, overlap"

All make one gradient step of a batch of 32, with the Nature convolutions, for every four env steps, on all threads.
They learn in turn, in rounds, each in a process of its own; minimum, median and maximum of the rounds go to
``benchmarks/results/train.csv``. The ratio is to the first learner with the same number of envs. "ALE" is
``make_ale_vec_env``, otherwise games are SB3's ``make_atari_env`` and ``VecFrameStack``.
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch as th
from machine import measure_in_turn, write_table
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_rainbow import RainbowDQN
from sb3_rainbow.envs import make_ale_vec_env

ENV_STEPS_PER_GRADIENT_STEP = 4
CLASSES = {"DQN": DQN, "QRDQN": QRDQN, "RainbowDQN": RainbowDQN}
LEARNERS = (
    "DQN",
    "QRDQN",
    "RainbowDQN",
    "RainbowDQN, ALE",
    "RainbowDQN, ALE, overlap",
    "RainbowDQN, ALE, overlap, amp, compile",
)


def make(learner: str, n_envs: int, device: str) -> Any:
    """
    :param learner: class, and switches that are on
    :param n_envs: number of games
    :param device: of the networks
    :return: a model that has learned for a while
    """
    name, *switches = learner.split(", ")
    if "ALE" in switches:
        switches.remove("ALE")
        env: Any = make_ale_vec_env("PongNoFrameskip-v4", n_envs, seed=0)
    else:
        env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs, seed=0), 4)
    model = CLASSES[name](
        "CnnPolicy",
        env,
        buffer_size=10_000,
        learning_starts=500,
        batch_size=32,
        train_freq=max(ENV_STEPS_PER_GRADIENT_STEP // n_envs, 1),
        gradient_steps=max(n_envs // ENV_STEPS_PER_GRADIENT_STEP, 1),
        # Actions are the network's: random ones would cost nothing
        exploration_fraction=1e-6,
        exploration_final_eps=0.0,
        seed=0,
        device=device,
        **dict.fromkeys(switches, True),
    )
    return model.learn(750)


def serve(learner: str, n_envs: int, device: str) -> None:
    """Learn for as many env steps as each line of the input says, and answer with env steps per second."""
    model = None
    for line in sys.stdin:
        model = model or make(learner, n_envs, device)  # now, not while another learns
        before, start = model.num_timesteps, time.perf_counter()
        model.learn(int(line), reset_num_timesteps=False)
        if device == "cuda":
            th.cuda.synchronize()
        print(json.dumps((model.num_timesteps - before) / (time.perf_counter() - start)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), help="a class, and any switches")
    parser.add_argument("--steps", type=int, default=512, help="env steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", default="train.csv", help="file in benchmarks/results")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.n_envs[0], args.device)
        return
    table: list[dict[str, Any]] = []
    for n_envs in args.n_envs:
        command = [sys.executable, __file__, "--device", args.device, "--n-envs", str(n_envs), "--serve"]
        speeds = measure_in_turn({each: [*command, each] for each in args.learners}, args.steps, args.rounds)
        base = float(np.median(speeds[args.learners[0]]))
        for learner, values in speeds.items():
            median = float(np.median(values))
            row = {"n_envs": n_envs, "learner": learner, "device": args.device, "threads": th.get_num_threads()}
            row |= {"min": round(min(values), 1), "median": round(median, 1), "max": round(max(values), 1)}
            table.append(row | {"ratio": round(median / base, 2)})
            print(*table[-1].values(), flush=True)
    write_table(args.output, table)


if __name__ == "__main__":
    main()
