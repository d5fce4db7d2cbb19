"""
Env steps per second of Atari: SB3's wrappers of single games in one process and in several, ALE's vector environment.

    python benchmarks/envs.py --rounds 5

All play random actions in turn, in rounds of the same number of env steps; minimum, median and maximum of the rounds
go to ``benchmarks/results/envs.csv``. The ratio is to ``VecFrameStack(make_atari_env(game, n_envs), 4)``.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from machine import write_table
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack

from sb3_rainbow.envs import make_ale_vec_env


def sb3(game: str, n_envs: int, kind: type[DummyVecEnv] | type[SubprocVecEnv] = DummyVecEnv) -> VecEnv:
    return VecFrameStack(make_atari_env(game, n_envs, seed=0, vec_env_cls=kind), 4)


MAKERS: dict[str, Callable[[str, int], VecEnv]] = {
    "make_atari_env, DummyVecEnv": sb3,
    "make_atari_env, SubprocVecEnv": partial(sb3, kind=SubprocVecEnv),
    "make_ale_vec_env": partial(make_ale_vec_env, seed=0),
}


def measure(env: VecEnv, env_steps: int) -> float:
    """
    :param env: that has been reset
    :param env_steps: summed over envs
    :return: env steps per second
    """
    actions = np.random.default_rng(0).integers(0, env.action_space.n, (env_steps // env.num_envs, env.num_envs))  # type: ignore[attr-defined]
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    return actions.size / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="PongNoFrameskip-v4")
    parser.add_argument("--n-envs", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--most-processes", type=int, default=16, help="SubprocVecEnv is left out beyond")
    parser.add_argument("--steps", type=int, default=4000, help="env steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default="envs.csv", help="file in benchmarks/results")
    args = parser.parse_args()
    table = []
    for n_envs in args.n_envs:
        makers = {name: make for name, make in MAKERS.items() if n_envs <= args.most_processes or "Subproc" not in name}
        envs = {name: make(args.game, n_envs) for name, make in makers.items()}
        for env in envs.values():
            env.reset()
        speeds: dict[str, list[float]] = {name: [] for name in envs}
        for _ in range(args.rounds):
            for name, env in envs.items():
                speeds[name].append(measure(env, args.steps))
        for env in envs.values():
            env.close()
        base = np.median(speeds["make_atari_env, DummyVecEnv"])
        for name, values in speeds.items():
            low, median, high = min(values), float(np.median(values)), max(values)
            row = {"game": args.game, "n_envs": n_envs, "env": name, "min": round(low), "median": round(median)}
            table.append(row | {"max": round(high), "ratio": round(median / base, 2)})
            print(*table[-1].values(), flush=True)
    write_table(args.output, table)


if __name__ == "__main__":
    main()
