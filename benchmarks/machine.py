"""Tables of measurements, and what they were made on."""

import csv
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_machine() -> str:
    """
    :return: number of cores, processor and system, in words
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor()
    return f"{os.cpu_count()} cores of {processor}, {platform.system()} {platform.machine()}"


def versions() -> str:
    """
    :return: versions of Python and of the packages that results depend on
    """
    packages = ("sb3_rainbow", "stable_baselines3", "torch", "gymnasium", "ale-py", "numpy")
    return " ".join([f"python={platform.python_version()}", *(f"{name}={version(name)}" for name in packages)])


def write_table(name: str, rows: list[dict[str, Any]]) -> None:
    """
    :param name: of a CSV file in benchmarks/results
    :param rows: its rows, by column; machine and versions are added to each
    """
    folder = Path(__file__).parent / "results"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine", "versions"])
        writer.writeheader()
        writer.writerows(row | {"machine": describe_machine(), "versions": versions()} for row in rows)
