"""
What it costs to draw a batch from replay and to update its priorities, beside other replay buffers.

    pip install numba cpprb tianshou
    python benchmarks/replay.py --sizes 10000 100000 1000000

Each buffer is filled with stacks of four 84x84 frames, in episodes of 900 steps, in a process of its own, and is then
drawn from in rounds; the median round counts. Buffers whose observations would not fit into memory are left out at that
size, as is Tianshou's above 100,000, which is slow to fill. "draw" is choosing what is sampled (for
cpprb: sampling a buffer without observations), "gather" bringing it together as tensors or arrays, "update" setting its
priorities. The rows of size 10,000,000 are of the trees alone. Peers that are not installed are left out. "ratio"
compares the time of all with that of SB3's uniform ReplayBuffer for a batch of that size, at the largest size at which
its observations fit into memory.

With ``--adding N``: what it costs to store a vectorised step of N envs, where the buffer is first filled, and where
older rows are written over.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from machine import peak_memory, write_table
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from sb3_rainbow import RainbowReplayBuffer, SumTree, loops

BATCHES = (32, 256, 1024)
ALPHA, BETA = 0.5, 0.4
STACK = spaces.Box(0, 255, (4, 84, 84), np.uint8)
ACTIONS = spaces.Discrete(6)
Functions = dict[str, Callable[[int], Any]]  # of a batch size: "draw", "sample" (draw and gather), "update"


def rows(size: int) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """
    :param size: number of transitions
    :return: observation and next observation (4, 84, 84), and whether the episode ends
    """
    frames = np.random.default_rng(0).integers(0, 256, (1000, 84, 84), dtype=np.uint8)
    for step in range(size):
        if step % 900 == 0:
            stack = np.zeros((4, 84, 84), dtype=np.uint8)
            stack[-1] = frames[step % 1000]
        next_stack = np.concatenate((stack[1:], frames[[(step * 7 + 1) % 1000]]))
        yield stack, next_stack, step % 900 == 899
        stack = next_stack


def priorities(batch: int) -> np.ndarray:
    return np.random.random_sample(batch) + 0.1


def fill(buffer: ReplayBuffer, size: int) -> None:
    for obs, next_obs, done in rows(size):
        buffer.add(obs[None], next_obs[None], np.zeros(1), np.zeros(1), np.array([done]), [{}])


def ours(size: int) -> Functions:
    buffer = RainbowReplayBuffer(size, STACK, ACTIONS, device="cpu", n_steps=3)
    fill(buffer, size)
    return {
        "draw": lambda batch: buffer.sampler.draw(batch, np.random),
        "sample": buffer.sample,
        "update": lambda batch: buffer.update_priorities(buffer._drawn, priorities(batch)),
    }


def without_numba(size: int) -> Functions:
    loops.IS_COMPILED = False
    return ours(size)


def sb3(size: int, kind: type[ReplayBuffer] = ReplayBuffer) -> Functions:
    buffer = kind(size, STACK, ACTIONS, device="cpu")
    fill(buffer, size)
    return {
        "draw": lambda batch: (np.random.randint(0, size, size=batch), np.random.randint(0, 1, size=batch)),
        "sample": buffer.sample,
    }


def sb3_n_step(size: int) -> Functions:
    return sb3(size, NStepReplayBuffer)


def cpprb(size: int) -> Functions:
    import cpprb as package

    fields = {"obs": {"shape": (4, 84, 84), "dtype": np.uint8}, "act": {}, "rew": {}, "done": {}}
    buffer = package.PrioritizedReplayBuffer(size, fields, alpha=ALPHA, next_of="obs", stack_compress="obs")
    for obs, next_obs, done in rows(size):
        buffer.add(obs=obs, act=0, rew=0, next_obs=next_obs, done=done)
        if done:
            buffer.on_episode_end()
    bare = package.PrioritizedReplayBuffer(size, {"done": {}}, alpha=ALPHA)
    for start in range(0, size, 1000):
        bare.add(done=np.zeros(min(1000, size - start)))
    indexes = {batch: np.random.randint(0, size, batch) for batch in BATCHES}
    return {
        "draw": lambda batch: bare.sample(batch, beta=BETA),
        "sample": lambda batch: buffer.sample(batch, beta=BETA),
        "update": lambda batch: buffer.update_priorities(indexes[batch], priorities(batch)),
    }


def tianshou(size: int) -> Functions:
    from tianshou.data import Batch, PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(
        size, ALPHA, BETA, stack_num=4, save_only_last_obs=True, ignore_obs_next=True, weight_norm=True
    )
    for obs, next_obs, done in rows(size):
        buffer.add(Batch(obs=obs, obs_next=next_obs, act=0, rew=0.0, terminated=done, truncated=False, info={}))
    indices = {batch: np.random.randint(0, size, batch) for batch in BATCHES}
    return {
        "draw": buffer.sample_indices,
        "sample": buffer.sample,
        "update": lambda batch: buffer.update_weight(indices[batch], priorities(batch)),
    }


def tianshou_tree(size: int) -> Functions:
    from tianshou.data import SegmentTree

    tree = SegmentTree(size)
    tree[np.arange(size)] = np.ones(size)
    indices = {batch: np.random.randint(0, size, batch) for batch in BATCHES}

    def update(batch: int) -> None:
        tree[indices[batch]] = priorities(batch) ** ALPHA

    return {
        "draw": lambda batch: tree.get_prefix_sum_idx(np.random.random_sample(batch) * tree.reduce()),
        "update": update,
    }


def our_tree(size: int) -> Functions:
    tree = SumTree(size)
    for start in range(0, size, 100_000):
        tree.update(np.arange(start, min(start + 100_000, size)), 1.0)
    indices = {batch: np.random.randint(0, size, batch) for batch in BATCHES}
    return {
        "draw": lambda batch: tree.draw(batch, np.random),
        "update": lambda batch: tree.update(indices[batch], priorities(batch) ** ALPHA),
    }


def our_tree_without_numba(size: int) -> Functions:
    loops.IS_COMPILED = False
    return our_tree(size)


def python_tree(size: int) -> Functions:
    n_leaves = 1 << (size - 1).bit_length()
    nodes = [0.0] * (2 * n_leaves)

    def update(batch: int) -> None:
        for index, priority in zip(np.random.randint(0, size, batch).tolist(), priorities(batch).tolist(), strict=True):
            node = index + n_leaves
            nodes[node] = priority**ALPHA
            while node > 1:
                node //= 2
                nodes[node] = nodes[2 * node] + nodes[2 * node + 1]

    def draw(batch: int) -> list[int]:
        indices = []
        for part in range(batch):
            mass = (part + np.random.random_sample()) / batch * nodes[1]
            node = 1
            while node < n_leaves:
                node *= 2
                if mass >= nodes[node]:
                    mass -= nodes[node]
                    node += 1
            indices.append(node - n_leaves)
        return indices

    for leaf in range(size):
        nodes[n_leaves + leaf] = 1.0
    for node in range(n_leaves - 1, 0, -1):
        nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
    return {"draw": draw, "update": update}


PACKAGES = {
    "RainbowReplayBuffer": "numba",
    "SumTree alone": "numba",
    "cpprb": "cpprb",
    "Tianshou": "tianshou",
    "Tianshou SegmentTree alone": "tianshou",
}
# name: what makes it, bytes for each transition, largest size
BUFFERS: dict[str, tuple[Callable[[int], Functions], int, int]] = {
    "RainbowReplayBuffer": (ours, 7_200, 1_000_000),
    "RainbowReplayBuffer without Numba": (without_numba, 7_200, 1_000_000),
    "SB3 ReplayBuffer, uniform": (sb3, 56_500, 1_000_000),
    "SB3 NStepReplayBuffer, uniform": (sb3_n_step, 56_500, 1_000_000),
    "cpprb": (cpprb, 7_300, 1_000_000),
    "Tianshou": (tianshou, 15_000, 100_000),
    "SumTree alone": (our_tree, 9, 10_000_000),
    "SumTree alone, without Numba": (our_tree_without_numba, 9, 10_000_000),
    "Tianshou SegmentTree alone": (tianshou_tree, 30, 10_000_000),
    "binary tree in Python alone": (python_tree, 80, 10_000_000),
}


def measure(name: str, size: int, rounds: int) -> list[dict[str, Any]]:
    """
    :param name: of a buffer
    :param size: number of transitions in it
    :param rounds: number of rounds
    :return: a row for each batch size, times in microseconds
    """
    th.set_num_threads(1)
    before = peak_memory()
    start = time.perf_counter()
    functions = BUFFERS[name][0](size)
    fill = (time.perf_counter() - start) / size * 1e6
    memory = peak_memory() - before
    table = []
    for batch in BATCHES:
        calls = max(6400 // batch, 10)
        times: dict[str, list[float]] = {operation: [] for operation in functions}
        for _ in range(rounds):
            for operation, function in functions.items():
                start = time.perf_counter()
                for _ in range(calls):
                    function(batch)
                times[operation].append((time.perf_counter() - start) / calls * 1e6)
        median = {operation: float(np.median(values)) for operation, values in times.items()}
        row: dict[str, Any] = {"buffer": name, "size": size, "batch": batch, "draw": median["draw"]}
        row["gather"] = median["sample"] - median["draw"] if "sample" in median else None
        row["update"] = median.get("update")
        row["all"] = median.get("sample", median["draw"]) + median.get("update", 0)
        table.append(row | {"add": fill, "bytes_per_transition": memory / size})
    return table


def measure_adding(name: str, n_envs: int) -> dict[str, Any]:
    """
    :param name: of a kind of buffer
    :param n_envs: number of envs
    :return: a row, median times in microseconds for a vectorised step
    """
    size = 20_000
    buffer = ADDING[name](size, STACK, ACTIONS, device="cpu", n_envs=n_envs)
    frames = np.random.default_rng(0).integers(0, 256, (1000, 84, 84), dtype=np.uint8)
    stacks = np.zeros((n_envs, 4, 84, 84), dtype=np.uint8)
    zeros, times = np.zeros(n_envs), []
    infos: list[dict[str, Any]] = [{} for _ in range(n_envs)]
    for step in range(2 * (size // n_envs)):
        newest = frames[(7 * step + 13 * np.arange(n_envs)) % 1000]
        next_stacks = np.concatenate((stacks[:, 1:], newest[:, None]), axis=1)
        dones = (step + np.arange(n_envs)) % 900 == 899
        start = time.perf_counter()
        buffer.add(stacks, next_stacks, zeros, zeros, dones, infos)
        times.append((time.perf_counter() - start) * 1e6)
        stacks = next_stacks
    half = len(times) // 2
    first, again = float(np.median(times[:half])), float(np.median(times[half:]))
    return {"buffer": name, "n_envs": n_envs, "first": first, "again": again, "again, of a transition": again / n_envs}


ADDING: dict[str, type[ReplayBuffer]] = {
    "RainbowReplayBuffer": RainbowReplayBuffer,
    "SB3 ReplayBuffer": ReplayBuffer,
    "SB3 NStepReplayBuffer": NStepReplayBuffer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--buffers", nargs="+", default=list(BUFFERS), choices=BUFFERS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--adding", type=int, nargs="+", metavar="N", help="numbers of envs")
    args = parser.parse_args()
    if args.adding:
        adding = [measure_adding(name, n_envs) for n_envs in args.adding for name in ADDING]
        for row in adding:
            print(*(round(value, 1) if isinstance(value, float) else value for value in row.values()))
        write_table("replay_adding.csv", adding)
        return
    if args.child:
        print(json.dumps(measure(args.child[0], int(args.child[1]), args.rounds)))
        return
    table: list[dict[str, Any]] = []
    for size in [*args.sizes, 10_000_000]:
        for name in args.buffers:
            _, row_bytes, largest = BUFFERS[name]
            if size > largest or row_bytes * size > 0.9 * psutil.virtual_memory().available:
                continue
            if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
                print(f"{name} is left out: {PACKAGES[name]} is not installed", flush=True)
                continue
            command = [sys.executable, __file__, "--child", name, str(size), "--rounds", str(args.rounds)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
            for row in json.loads(done.stdout.splitlines()[-1]):
                table.append(row)
                print(*(f"{value:.1f}" if isinstance(value, float) else value for value in row.values()), flush=True)
    uniform = {row["batch"]: row["all"] for row in table if row["buffer"] == "SB3 ReplayBuffer, uniform"}
    for row in table:
        has_both = row["gather"] is not None and row["batch"] in uniform
        row["ratio"] = row["all"] / uniform[row["batch"]] if has_both else None
        if has_both:
            print(f"{row['buffer']} of {row['size']}, batch of {row['batch']}: ratio {row['ratio']:.2f}")
    write_table("replay.csv", table)


if __name__ == "__main__":
    main()
