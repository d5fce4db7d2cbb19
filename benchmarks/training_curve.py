"""
Turn the Monitor files of training runs into curves: a CSV for each, with one row per episode, and a picture of all.

    python train.py --algo rainbow --env PongNoFrameskip-v4 --seed 1 -f logs
    python benchmarks/training_curve.py logs/rainbow/PongNoFrameskip-v4_1 --output benchmarks/results/pong

Env steps are Monitor's lengths over 4, as on Atari Monitor counts emulator frames, summed over games that have ended:
fewer than SB3's ``num_timesteps`` by those of the games that have not, more by the no-ops and FIRE of each reset.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from stable_baselines3.common.monitor import load_results

WINDOW = 100


def read_curve(folder: Path, frames_per_step: int) -> pd.DataFrame:
    """
    :param folder: of a run, with a Monitor file for each env
    :param frames_per_step: what Monitor counts in an env step
    :return: episodes in the order in which they ended: env_steps, minutes, return, length, mean_return of the last 100
    :raises ValueError: when none has ended
    """
    episodes = load_results(str(folder)).sort_values("t")
    if episodes.empty:
        raise ValueError(f"folder={folder} has a run of which no episode has ended: train for more env steps")
    curve = pd.DataFrame()
    curve["episode"] = range(1, len(episodes) + 1)
    curve["env_steps"] = (episodes["l"].cumsum() / frames_per_step).round().astype(int).to_numpy()
    curve["minutes"] = (episodes["t"] / 60).round(2).to_numpy()
    curve["return"] = episodes["r"].to_numpy()
    curve["length"] = (episodes["l"] / frames_per_step).round().astype(int).to_numpy()
    curve["mean_return"] = curve["return"].rolling(WINDOW, min_periods=1).mean().round(3)
    return curve


def plot_curves(curves: dict[str, pd.DataFrame], title: str, file: Path) -> None:
    """
    :param curves: from ``read_curve``, by name
    :param title: above the picture
    :param file: PNG to write
    """
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for color, (name, curve) in zip(plt.rcParams["axes.prop_cycle"].by_key()["color"], curves.items(), strict=False):
        axes.scatter(curve["env_steps"], curve["return"], s=9, alpha=0.35, color=color)
        recent = curve["return"].rolling(10, min_periods=1).mean()
        axes.plot(curve["env_steps"], recent, color=color, linewidth=1, label=f"{name}: mean of 10 episodes")
        full = curve[curve["episode"] >= WINDOW]
        label = f"{name}: mean of {WINDOW} episodes"
        axes.plot(full["env_steps"], full["mean_return"], color=color, linewidth=2.5, label=label)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="env steps", ylabel="return of an episode", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of the runs")
    parser.add_argument("--output", type=Path, required=True, help="where to write a CSV for each run, and curve.png")
    parser.add_argument("--names", nargs="+", help="of the runs. Default: those of their folders")
    parser.add_argument("--frames-per-step", type=int, default=4, help="1 for all but Atari")
    parser.add_argument("--title", default="RainbowDQN on PongNoFrameskip-v4")
    args = parser.parse_args()
    names = args.names or [run.name for run in args.runs]
    if len({name.replace(" ", "_") for name in names}) < len(names):
        raise ValueError(f"names={names} must differ, or runs would be written over: write --names")
    args.output.mkdir(parents=True, exist_ok=True)
    curves = {}
    for name, run in zip(names, args.runs, strict=True):
        curves[name] = curve = read_curve(run, args.frames_per_step)
        curve.to_csv(args.output / f"{name.replace(' ', '_')}.csv", index=False)
        for level in (0, 10, 17, 18):
            reached = curve[(curve["episode"] >= WINDOW) & (curve["mean_return"] >= level)]
            where = "not reached"
            if len(reached):
                where = "env step {env_steps:.0f}, episode {episode:.0f}, minute {minutes}".format(**reached.iloc[0])
            print(f"{name}: mean of {WINDOW} >= {level}: {where}")
    plot_curves(curves, args.title, args.output / "curve.png")


if __name__ == "__main__":
    main()
