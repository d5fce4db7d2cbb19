"""
Games of pong.py's runs, block by block of env steps, and whether groups of runs differ by more than chance.

    cd benchmarks/results/pong
    python ../../pong_compare.py --runs amp_False/rainbow_*.csv --runs input_norm_True_amp_False/rainbow_*.csv

prints the mean return of the games that ended in each block, from its first env step up to that of the next, and the
env steps to the first mean of 18 over 100 games, a run a row. With more than one ``--runs`` the last row has exact
two-sided p values of the Jonckheere-Terpstra test (Biometrika 41, 1954), which for two groups is that of Mann and
Whitney: how often groups that do not differ would be as far apart, in the order in which they are written or in the
other. Runs of the same seed, the number at the end of a file's name, are one value, their mean. A run that has not got
to 18 may do so at any time after its end, or never: the range of p is that of all times at which such runs may, and is
left out where there are too many. The block that a run ends in has its number of games beside it, and no part in p, so
that late blocks lack the soonest runs.
"""

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pong_results import GOALS, read

_MOST_ORDERS = 100_000
_MOST_SPLITS = 3_000_000  # of all orders together: about a minute


def blocks_of(rows: list[dict[str, Any]], size: int) -> list[list[float]]:
    """
    :param rows: games, as pong.py writes them
    :param size: env steps of a block
    :return: returns of the games that ended in each block; the last one is not over
    """
    blocks: list[list[float]] = [[] for _ in range(int(rows[-1]["env_steps"] // size) + 1)]
    for row in rows:
        blocks[int(row["env_steps"] // size)].append(row["return"])
    return blocks


def steps_to_goal(rows: list[dict[str, Any]]) -> tuple[float, bool]:
    """
    :param rows: games, as pong.py writes them
    :return: env steps to a mean of 18 over 100 games, True; or those of the last game, False
    """
    reached = (row["env_steps"] for row in rows[99:] if row["mean_of_100"] >= GOALS[-1])
    steps = next(reached, None)
    return (rows[-1]["env_steps"], False) if steps is None else (steps, True)


def trend_p(groups: Sequence[Sequence[float]]) -> float:
    """
    :param groups: independent values
    :return: exact two-sided p of the Jonckheere-Terpstra test, nan where a group is empty, or there are too many ways
        to make such groups
    """
    if not all(groups):
        return math.nan
    values = [value for group in groups for value in group]
    sizes = [len(group) for group in groups]
    if n_splits(sizes) > _MOST_SPLITS:
        return math.nan
    middle = sum(a * b for a, b in itertools.combinations(sizes, 2)) / 2
    seen = abs(ordered_pairs(groups) - middle)
    extreme = [abs(ordered_pairs(split) - middle) >= seen for split in splits(values, sizes)]  # halves are exact
    return sum(extreme) / len(extreme)


def ordered_pairs(groups: Sequence[Sequence[float]]) -> float:
    """
    :param groups: values
    :return: pairs of values of two groups of which that of the later group is larger, and half of those that are equal
    """
    pairs = (pair for a, b in itertools.combinations(groups, 2) for pair in itertools.product(a, b))
    return sum((x < y) + (x == y) / 2 for x, y in pairs)


def n_splits(sizes: list[int]) -> int:
    """
    :param sizes: of groups
    :return: how many ways there are to make such groups
    """
    return math.factorial(sum(sizes)) // math.prod(map(math.factorial, sizes))


def splits(values: list[float], sizes: list[int]) -> Iterator[list[list[float]]]:
    """
    :param values: of all groups
    :param sizes: of the groups
    :return: every way to make such groups of the values
    """
    if len(sizes) == 1:
        yield [values]
        return
    for chosen in itertools.combinations(range(len(values)), sizes[0]):
        rest = [value for index, value in enumerate(values) if index not in chosen]
        for others in splits(rest, sizes[1:]):
            yield [[values[index] for index in chosen], *others]


def of_seeds(tables: list[Path], values: list[float]) -> list[float]:
    """
    :param tables: files of the runs, whose names end with the seed
    :param values: one for each, nan where there is none
    :return: the mean of the values of each seed
    """
    seeds: dict[str, list[float]] = defaultdict(list)
    for table, value in zip(tables, values, strict=True):
        if not math.isnan(value):
            seeds[table.stem.split("_")[-1]].append(value)
    return [sum(runs) / len(runs) for runs in seeds.values()]


def compare(groups: list[list[Path]], size: int) -> list[list[str]]:
    """
    :param groups: files of runs
    :param size: env steps of a block
    :return: cells of a table: its head, a row for each run, and p values where there is more than one group
    :raises ValueError: when a file is not there, or has no games
    """
    runs = {table: read(table) for group in groups for table in group}
    for table, rows in runs.items():
        if not rows:
            raise ValueError(f"runs={table} has no games: write a file of pong.py")
    blocks = {table: blocks_of(rows, size) for table, rows in runs.items()}
    goals = {table: steps_to_goal(rows) for table, rows in runs.items()}
    n_blocks = max(map(len, blocks.values()))
    table_rows = [["run", *(f"from {number * size:,}" for number in range(n_blocks)), f"to {GOALS[-1]}"]]
    for table in runs:
        steps, is_there = goals[table]
        cells = [f"{sum(games) / len(games):.1f}" if games else "-" for games in blocks[table]]
        cells[-1] += f" ({len(blocks[table][-1])} games)"
        cells += [""] * (n_blocks - len(cells))
        table_rows.append([f"{table.parent.name}/{table.stem}", *cells, f"{'' if is_there else '> '}{steps:,.0f}"])
    if len(groups) > 1:
        table_rows.append(
            ["p", *(block_p(groups, blocks, number) for number in range(n_blocks)), goal_p(groups, goals)]
        )
    return table_rows


def block_p(groups: list[list[Path]], blocks: dict[Path, list[list[float]]], number: int) -> str:
    """
    :param groups: files of runs
    :param blocks: their games
    :param number: of the block
    :return: p of its means, of runs that went on after it; nothing where a group has none
    """
    over = [[table for table in group if number < len(blocks[table]) - 1] for group in groups]
    returns = [[blocks[table][number] for table in group] for group in over]
    means = [[sum(games) / len(games) if games else math.nan for games in group] for group in returns]
    p = trend_p([of_seeds(*pair) for pair in zip(over, means, strict=True)])
    return "" if math.isnan(p) else f"{p:.2g}"


def goal_p(groups: list[list[Path]], goals: dict[Path, tuple[float, bool]]) -> str:
    """
    :param groups: files of runs
    :param goals: what ``steps_to_goal`` returned for each
    :return: p of the env steps to 18, from the least to the most that it can be; nothing where there are too many
        orders in which the runs that were stopped may win, or ways to make such groups
    """
    least = [of_seeds(group, [goals[table][0] for table in group]) for group in groups]
    stopped = [of_seeds(group, [float(not goals[table][1]) for table in group]) for group in groups]
    n_open = sum(share > 0 for shares in stopped for share in shares)
    places = places_between(sorted({steps for group in least for steps in group}), n_open)
    times = [
        [steps, *(place for place in places if place > steps)] if share > 0 else [steps]
        for group, shares in zip(least, stopped, strict=True)
        for steps, share in zip(group, shares, strict=True)
    ]
    if math.prod(map(len, times)) > _MOST_ORDERS:
        return ""
    # Many of these times come in the same order, of which alone p depends
    orders = {tuple(map(sorted(values).index, values)) for values in itertools.product(*times)}
    if len(orders) * n_splits(list(map(len, least))) > _MOST_SPLITS:
        return ""
    ps = [trend_p([list(itertools.islice(ranks, len(group))) for group in least]) for ranks in map(iter, orders)]
    return " to ".join(dict.fromkeys(f"{p:.2g}" for p in (min(ps), max(ps))))


def places_between(values: list[float], n: int) -> list[float]:
    """
    :param values: ascending
    :param n: so many may lie between two of them, in any order
    :return: places for these, after each value, and never
    """
    gaps = zip(values, [*values[1:], values[-1] + 1], strict=True)
    return [low + (high - low) * number / (n + 1) for low, high in gaps for number in range(1, n + 1)] + [math.inf]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, action="append", required=True, metavar="CSV")
    parser.add_argument("--size", type=int, default=50_000, help="env steps of a block")
    arguments = parser.parse_args()
    for row in compare(arguments.runs, arguments.size):
        print("|", " | ".join(row), "|")
