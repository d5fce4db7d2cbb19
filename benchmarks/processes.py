"""Processes that run side by side, or are measured in turn."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from sb3_rainbow.arguments import whole_number


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


@contextmanager
def made_by_one(checkpoint: Path) -> Iterator[None]:
    """
    Keep other processes from this run: one goes on, and writes, when the benchmark that began it was killed.

    :param checkpoint: folder
    :raises ValueError: when another process makes it
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    folder = os.open(checkpoint, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"results={checkpoint} is being made by another process: wait for it, or stop it"
            ) from error
        yield
    finally:
        os.close(folder)


def measure_in_turn(
    commands: dict[str, list[str]], steps: int, rounds: int, environment: dict[str, str] | None = None
) -> dict[str, list[float]]:
    """
    Ask processes for measurements, one after the other, in rounds; a first round warms up and is not kept.

    :param commands: of processes that answer each line of their input with a number, by name
    :param steps: what each line says: how many to measure
    :param rounds: number of rounds
    :param environment: variables of the processes. Default: those of this one
    :return: what each answered
    :raises ValueError: when nothing would be measured
    """
    steps, rounds = whole_number("steps", steps, 1), whole_number("rounds", rounds, 1)
    children = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for name, command in commands.items()
    }
    answers: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            print(steps, file=child.stdin, flush=True)
            answer = child.stdout.readline()
            if not answer:
                sys.exit(f"{name} has ended without an answer: see what it said above")
            answers[name].append(json.loads(answer))
    for child in children.values():
        child.communicate()
    return {name: values[1:] for name, values in answers.items()}
