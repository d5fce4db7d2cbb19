"""
How soon the shipped Pong entry wins on a GPU, with more games at a time.

    python benchmarks/pong_on_a_gpu.py

The entry of ``hyperparams/rainbow.yml`` with ``amp``, ``compile`` and ``overlap``, and as many gradient steps for each
env step, in ``make_ale_vec_env``. It ends when the mean of the last 100 training games reaches 18, writes one row per
game to ``benchmarks/results/pong/h200_16_games_SEED.csv``, or ``--output``, and plays as many games as there are envs.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_rainbow import RainbowDQN
from sb3_rainbow.envs import make_ale_vec_env

GAME, GOAL = "PongNoFrameskip-v4", 18
FIELDS = ("env_steps", "gradient_steps", "minutes", "return", "mean_of_100")


class Games(BaseCallback):
    """Keeps a row for each game, and stops at the goal."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, int, float, float, float]] = []

    def _on_training_start(self) -> None:
        self.start = time.perf_counter()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                score = info["episode"]["r"]
                mean = float(np.mean([row[3] for row in self.rows[-99:]] + [score]))
                minutes = (time.perf_counter() - self.start) / 60
                self.rows.append((self.num_timesteps, self.model._n_updates, round(minutes, 3), score, round(mean, 3)))
        return not (len(self.rows) >= 100 and self.rows[-1][4] >= GOAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    entry: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "hyperparams" / "rainbow.yml").read_text())[
        GAME
    ]
    for name in ("env_wrapper", "frame_stack", "policy"):
        del entry[name]
    entry["gradient_steps"] = entry["gradient_steps"] * args.n_envs // entry.pop("n_envs")
    entry["policy_kwargs"] = eval(entry["policy_kwargs"])  # as RL Zoo does
    n_timesteps = entry.pop("n_timesteps")
    env = make_ale_vec_env(GAME, n_envs=args.n_envs, seed=args.seed)
    model = RainbowDQN("CnnPolicy", env, seed=args.seed, device="cuda", amp=True, compile=True, overlap=True, **entry)
    games = Games()
    model.learn(n_timesteps, callback=games)
    output = args.output or Path(__file__).parent / "results" / "pong" / f"h200_16_games_{args.seed}.csv"
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows(games.rows)
    print(dict(zip(FIELDS, games.rows[-1], strict=True)), len(games.rows), "games")
    env = make_ale_vec_env(GAME, n_envs=args.n_envs, seed=args.seed + 100)
    returns, _ = evaluate_policy(model, env, args.n_envs, deterministic=True, return_episode_rewards=True)
    print("evaluation:", returns)


if __name__ == "__main__":
    main()
