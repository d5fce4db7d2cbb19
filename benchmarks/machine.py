"""Tables of measurements, and what they were made on."""

import csv
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_rainbow.arguments import whole_number


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


def versions() -> str:
    """
    :return: versions of Python and of the packages that results depend on
    """
    packages = ["sb3_rainbow", "stable_baselines3", "torch", "gymnasium", "ale-py", "numpy"]
    packages += [name for name in ("numba", "cpprb", "tianshou") if importlib.util.find_spec(name)]
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


def check_device(device: str) -> None:
    """
    :param device: such as "cpu" or "cuda"
    :raises ValueError: when it is not there, where SB3 would take the CPU, for hours
    """
    if get_device(device).type != th.device(device).type:
        raise ValueError(f"device={device!r} is not there: write --device cpu")


def run_side_by_side(commands: list[list[str]], jobs: int) -> None:
    """
    :param commands: of processes
    :param jobs: so many run at a time
    :raises ValueError: when no process may run
    :raises SystemExit: when some have failed, after all have ended; they have said why
    """
    jobs = whole_number("jobs", jobs, 1)
    children = []
    is_stopped = Event()

    def run(command: list[str]) -> int:
        with subprocess.Popen(command) as child:
            children.append(child)
            if is_stopped.is_set():  # begun while others were stopped
                child.terminate()
            return child.wait()

    def stop(number: int, _: Any) -> None:  # or the processes would go on, and the next ones begin
        is_stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        sys.exit(128 + number)

    with ThreadPoolExecutor(jobs) as pool:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        started = [pool.submit(run, command) for command in commands]
    failed = [" ".join(command) for command, each in zip(commands, started, strict=True) if each.result()]
    if failed:
        sys.exit("\n".join(["these have failed:", *failed]))


def measure_in_turn(
    commands: dict[str, list[str]], question: int, rounds: int, environment: dict[str, str] | None = None
) -> dict[str, list[float]]:
    """
    Ask processes for measurements, one after the other, in rounds; a first round warms up and is not kept.

    :param commands: of processes that answer each line of their input with a number, by name
    :param question: what each line says
    :param rounds: number of rounds
    :param environment: variables of the processes. Default: those of this one
    :return: what each answered
    """
    children = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for name, command in commands.items()
    }
    answers: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            print(question, file=child.stdin, flush=True)
            answers[name].append(json.loads(child.stdout.readline()))
    for child in children.values():
        child.communicate()
    return {name: values[1:] for name, values in answers.items()}
