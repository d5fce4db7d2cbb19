"""
RainbowDQN beside SB3's DQN on other Atari games, both with the same small network and as many gradient steps.

    OMP_NUM_THREADS=1 python benchmarks/games.py Breakout Boxing --jobs 2
    python benchmarks/games.py Breakout Boxing --table --results benchmarks/results/games
    python benchmarks/games.py Boxing --learners rainbow --device cuda

Settings are those of the ``atari`` entries, ours and the zoo's for DQN, scaled to fewer env steps (``SCALED`` below).
Each run writes its training games to ``GAME_LEARNER_SEED.csv`` in ``--results`` at its end, with Monitor's returns: of
whole games, unclipped. Results that are there when a run begins are not written over. The table has the mean of the
last 100 games after several numbers of env steps; with it ``games.png``, a panel for each named game, is drawn there.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch as th
import yaml
from machine import check_device
from processes import run_side_by_side
from stable_baselines3 import DQN
from training_curve import read_curve

from sb3_rainbow import RainbowDQN
from sb3_rainbow.available import bfloat16_is_faster
from sb3_rainbow.envs import make_ale_vec_env
from sb3_rainbow.networks import DataEfficientConv

FRAMES_PER_STEP, N_ENVS = 4, 8
ZOO = Path(importlib.util.find_spec("rl_zoo3").origin).parent  # type: ignore[union-attr, arg-type]
OF_ZOO = ("env_wrapper", "frame_stack", "n_timesteps", "policy")  # not arguments of the model
NETWORK = {"features_extractor_class": DataEfficientConv, "features_extractor_kwargs": {"layer_norm": True}}
# One gradient step for every four env steps, as in both entries
STEPS = {"train_freq": 1, "gradient_steps": N_ENVS // 4, "learning_starts": 20_000}
SCALED: dict[str, dict[str, Any]] = {
    "rainbow": {"learning_rate": 2e-4, "target_update_interval": 2_000, "compile": True},
    "dqn": {},
}
POLICY: dict[str, dict[str, Any]] = {
    "rainbow": {"v_min": -10, "v_max": 10, "n_atoms": 51, "sigma_init": 0.1},
    "dqn": {"net_arch": DataEfficientConv.default_net_arch},
}
ENTRIES = {
    "rainbow": Path(__file__).parents[1] / "hyperparams" / "rainbow.yml",
    "dqn": ZOO / "hyperparams" / "dqn.yml",
}


def make(learner: str, game: str, seed: int, device: str, folder: str) -> DQN:
    """
    :param learner: "rainbow" or "dqn"
    :param game: such as "Breakout"
    :param seed: of everything
    :param device: "cpu" or "cuda"
    :param folder: of the Monitor file
    :return: the model
    """
    entry = yaml.safe_load(ENTRIES[learner].read_text())["atari"]
    arguments = {name: value for name, value in entry.items() if name not in OF_ZOO}
    arguments |= STEPS | SCALED[learner] | {"policy_kwargs": NETWORK | POLICY[learner], "seed": seed, "device": device}
    if learner == "rainbow":
        arguments["amp"] = bfloat16_is_faster(th.device(device).type)
    env = make_ale_vec_env(f"{game}NoFrameskip-v4", N_ENVS, seed, monitor_dir=folder)
    return {"rainbow": RainbowDQN, "dqn": DQN}[learner]("CnnPolicy", env, **arguments)


def train(learner: str, game: str, seed: int, device: str, steps: int, results: Path) -> None:
    """
    :param learner: "rainbow" or "dqn"
    :param game: such as "Breakout"
    :param seed: of everything
    :param device: "cpu" or "cuda"
    :param steps: env steps
    :param results: folder
    :raises ValueError: when there are games of such a run already
    """
    table = results / f"{game}_{learner}_{seed}.csv"
    if table.exists():
        raise ValueError(f"results={table} is there already: write --results with another folder, or remove it")
    th.set_num_threads(1)
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        make(learner, game, seed, device, folder).learn(steps)
        read_curve(Path(folder), FRAMES_PER_STEP).to_csv(table, index=False)


def runs(game: str, results: Path) -> dict[str, pd.DataFrame]:
    return {table.stem: pd.read_csv(table) for table in sorted(results.glob(f"{game}_*.csv"))}


def print_table(games: list[str], results: Path) -> None:
    marks = (100_000, 250_000, 500_000)
    print(
        "| run | " + " | ".join(f"at {mark:,}" for mark in marks) + " | at the end | best game | env steps | minutes |"
    )
    print("|" + "---|" * (len(marks) + 5))
    for game in games:
        for name, curve in runs(game, results).items():
            last, steps = curve.iloc[-1], curve["env_steps"]
            means = [curve[steps <= mark].iloc[-1]["mean_return"] for mark in marks if mark <= last["env_steps"]]
            cells = [f"{mean:.1f}" for mean in means] + ["-"] * (len(marks) - len(means))
            cells += [f"{last['mean_return']:.1f}", f"{curve['return'].max():.0f}", f"{last['env_steps']:,.0f}"]
            print(f"| {name} | {' | '.join(cells)} | {last['minutes']:.0f} |")


def draw(games: list[str], results: Path) -> None:
    figure, axes = plt.subplots(1, len(games), figsize=(5 * len(games), 4), squeeze=False)
    for game, plot in zip(games, axes[0], strict=True):
        for name, curve in runs(game, results).items():
            plot.plot(curve["env_steps"], curve["mean_return"], label=name)
        plot.set(xlabel="env steps", ylabel="mean return of the last 100 games", title=f"{game}NoFrameskip-v4")
        plot.grid(alpha=0.3)
        plot.legend()
    figure.tight_layout()
    figure.savefig(results / "games.png", dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", nargs="+", help="such as Breakout")
    parser.add_argument("--learners", nargs="+", default=["rainbow", "dqn"], choices=SCALED)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--results", type=Path, default=Path("logs/games"), help="folder of tables and picture")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--table", action="store_true", help="print the table and run nothing")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        train(args.learners[0], args.games[0], args.seeds[0], args.device, args.steps, args.results)
        return
    if not args.table:
        check_device(args.device)
        command = [sys.executable, __file__, "--child", "--steps", str(args.steps)]
        command += ["--device", args.device, "--results", str(args.results)]
        runs_of_games = [
            [*command, game, "--learners", learner, "--seeds", str(seed)]
            for game in dict.fromkeys(args.games)
            for seed in dict.fromkeys(args.seeds)
            for learner in dict.fromkeys(args.learners)
        ]
        run_side_by_side(runs_of_games, args.jobs)
    for game in args.games:
        if not runs(game, args.results):
            raise ValueError(
                f"games={game} has no results in {args.results}: make a run first, or write another folder"
            )
    print_table(args.games, args.results)
    draw(args.games, args.results)


if __name__ == "__main__":
    main()
