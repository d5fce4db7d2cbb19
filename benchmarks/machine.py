"""What a measurement was made on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


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
