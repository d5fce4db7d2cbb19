"""
What runs of pong.py have written: a row for each game, from which come the table of goals and the picture of curves.
"""

import ast
import csv
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

FIELDS = ("env_steps", "gradient_steps", "minutes", "episode", "return", "mean_of_100")
GOALS = (0, 10, 17, 18)
# Of M. Lapan's book (pong_variants.md): env steps to a mean of 0 and of 18, and games to 18
PUBLISHED = {
    "dqn": (467_912, 827_369, 376),
    "2-step": (252_429, 368_059, 199),
    "double": (481_103, 917_752, 465),
    "noisy": (326_141, 571_357, 292),
    "prioritized": (357_703, 521_932, 258),
    "dueling": (327_402, 455_240, 224),
    "categorical": (635_531, 1_756_830, 809),
    "rainbow": (612_807, 815_567, 511),
}


def write(table: Path, rows: list[dict[str, Any]]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    beside = table.with_suffix(".part")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(table)


def read(table: Path) -> list[dict[str, Any]]:
    if not table.exists():  # no game has ended yet
        return []
    with table.open() as file:
        return [{name: ast.literal_eval(value) for name, value in row.items()} for row in csv.DictReader(file)]


def print_table(results: list[Path], variants: Iterable[str]) -> None:
    """
    Print when each variant first reached each goal, from all runs there are: a seed that was run twice counts twice.

    :param results: folders
    :param variants: names, in the order of the rows
    """
    print("| variant | runs | " + " | ".join(f"steps to {goal} | games | minutes" for goal in GOALS) + " | published |")
    print("|" + "---|" * (3 + 3 * len(GOALS)))
    for variant, is_gpu in itertools.product(variants, (False, True)):
        folders = [folder for folder in results if on_gpu(folder) == is_gpu]
        runs = [read(table) for folder in folders for table in sorted(folder.glob(f"{variant}_*.csv"))]
        if not runs:
            continue
        cells = []
        for goal in GOALS:
            reached = [next((row for row in run[99:] if row["mean_of_100"] >= goal), None) for run in runs]
            for name in ("env_steps", "episode", "minutes"):
                cells.append(spread([row[name] for row in reached if row], len(runs)))
        published = "{:,} to 0, {:,} to 18, {} games".format(*PUBLISHED[variant]) if variant in PUBLISHED else ""
        print(f"| {variant}{', on a GPU' * is_gpu} | {len(runs)} | {' | '.join(cells)} | {published} |")


def on_gpu(results: Path) -> bool:
    """
    :param results: folder, whose name ends with the device where that is a GPU
    :return: whether its runs were made there
    """
    return re.search(r"(^|_)cuda(:\d+)?$", results.name) is not None


def draw_curves(results: list[Path], variants: Iterable[str]) -> None:
    """
    Draw the mean of 100 games of each run, variants in colours, and those on a GPU dashed.

    :param results: folders; the picture goes to the first
    :param variants: names, each with a colour of its own
    """
    figure, axes = plt.subplots(figsize=(9, 5))
    for number, variant in enumerate(variants):
        for run, table in enumerate(table for folder in results for table in sorted(folder.glob(f"{variant}_*.csv"))):
            rows = read(table)
            steps, means = [row["env_steps"] for row in rows], [row["mean_of_100"] for row in rows]
            style = "--" if on_gpu(table.parent) else "-"
            axes.plot(steps, means, style, color=f"C{number}", label=None if run else variant)
    axes.axhline(GOALS[-1], color="gray", linewidth=0.8)
    axes.set(
        xlabel="env steps",
        ylabel="mean return of the last 100 games, or of all so far",
        title="PongNoFrameskip-v4, each run a line",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(results[0] / "variants.png", dpi=110)
    plt.close(figure)


def spread(values: list[float], n_runs: int) -> str:
    """
    :param values: of the runs that got there
    :param n_runs: of all
    :return: median, with the runs that did not get there as later than all, and range of those that did
    """
    if not values:
        return f"none of {n_runs}"
    median = np.median([*values, *[np.inf] * (n_runs - len(values))])
    text = f"{median:,.0f}" if np.isfinite(median) else f"over {max(values):,.0f}"
    if len(values) > 1:
        text += f" ({min(values):,.0f} to {max(values):,.0f})"
    return text if len(values) == n_runs else f"{text}, {len(values)} of {n_runs}"
