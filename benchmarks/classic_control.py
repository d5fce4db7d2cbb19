"""
Train the shipped entry of an environment with several seeds, and evaluate what comes out of it.

    python benchmarks/classic_control.py CartPole-v1 --seeds 0 1 2 3 4 --jobs 2

Each run is the command line's own, ``train.py --algo rainbow --env ENV --seed SEED``. The model at the end of training
then plays 20 episodes with its mean weights. Each seed appends a row to ``benchmarks/results/classic_control.csv``
as soon as it is done.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import gymnasium as gym
from machine import describe_machine, versions
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_rainbow import RainbowDQN

HERE = Path(__file__).parent


def run(env_id: str, seed: int) -> dict[str, object]:
    """
    :param env_id: a name in hyperparams/rainbow.yml
    :param seed: seed of training; evaluation uses another one
    :return: one row of the table
    """
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE.parent / "train.py"), "--algo", "rainbow", "--env", env_id]
        command += ["--seed", str(seed), "--num-threads", "1", "--eval-freq", "-1", "--verbose", "0", "-f", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.time() - start) / 60
        model = RainbowDQN.load(Path(folder) / "rainbow" / f"{env_id}_1" / f"{env_id}.zip", device="cpu")
    env = Monitor(gym.make(env_id))
    env.reset(seed=10_000 + seed)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=20, return_episode_rewards=True)
    assert isinstance(returns, list)
    row = {
        "env": env_id,
        "seed": seed,
        "env_steps": model.num_timesteps,
        "gradient_steps": model._n_updates,
        "minutes": f"{minutes:.1f}",
        "mean_of_20": f"{sum(returns) / 20:.2f}",
        "minimum": f"{min(returns):.2f}",
        "maximum": f"{max(returns):.2f}",
        "machine": describe_machine(),
        "versions": versions(),
    }
    print(*(f"{name}={value}" for name, value in list(row.items())[:8]), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", help="a name in hyperparams/rainbow.yml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args()
    table = HERE / "results" / "classic_control.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool, table.open("a", newline="") as file:
        runs = [pool.submit(run, args.env, seed) for seed in args.seeds]
        for finished in as_completed(runs):
            if finished.exception() is not None:
                continue  # the others go on, and are written
            row = finished.result()
            writer = csv.DictWriter(file, row.keys())
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
    failed = [
        f"seed {seed}: {each.exception()}" for seed, each in zip(args.seeds, runs, strict=True) if each.exception()
    ]
    if failed:
        sys.exit("\n".join(["these have failed:", *failed]))


if __name__ == "__main__":
    main()
