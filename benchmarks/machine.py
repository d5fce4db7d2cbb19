"""Tables of measurements, and what they were made on."""

import csv
import importlib.util
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch as th

from sb3_rainbow.arguments import known_device


def describe_machine() -> str:
    """
    :return: number of cores, processor, system and GPU, in words
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor()
    gpu = f", {th.cuda.get_device_name()}" if th.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {processor}, {platform.system()} {platform.machine()}{gpu}"


def peak_memory() -> int:
    """
    :return: highest resident memory of this process so far, in bytes
    """
    status = Path("/proc/self/status")
    high_water = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if high_water is not None:  # what getrusage has here is that of the parent, if it is higher
        return int(high_water[1]) * 1024
    import resource  # not on Windows, where the rest of this file is of use too

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> str:
    """
    :return: versions of Python and of the packages that results depend on
    """
    packages = ["sb3_rainbow", "stable_baselines3", "torch", "gymnasium", "numpy"]
    packages += [name for name in ("ale_py", "numba", "cpprb", "tianshou") if importlib.util.find_spec(name)]
    return " ".join([f"python={platform.python_version()}", *(f"{name}={version(name)}" for name in packages)])


def write_table(name: str, rows: list[dict[str, Any]]) -> None:
    """
    :param name: of a CSV file in benchmarks/results
    :param rows: its rows, by column; machine and versions are added to each
    """
    folder = Path(__file__).parent / "results"
    folder.mkdir(parents=True, exist_ok=True)
    made_on = {"machine": describe_machine(), "versions": versions()}
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *made_on])
        writer.writeheader()
        writer.writerows(row | made_on for row in rows)


def check_device(device: str) -> None:
    """
    :param device: such as "cpu" or "cuda"
    :raises ValueError: when it is not there, where SB3 would take the CPU, for hours
    """
    if known_device(device).type != th.device(device).type:
        raise ValueError(f"device={device!r} is not there: write --device cpu")
