"""Ground floor: what this machine has: memory that the process can still take, and fast bfloat16."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch as th

# Of a control group's memory, by version: its limit, what it uses, and how memory.stat names the part of that which
# only keeps files, and which the system takes back
_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
_VERSION_2 = "memory.max", "memory.current", ("active_file", "inactive_file")


def available_memory(root: Path = Path("/")) -> int:
    """
    The machine's, or what its control groups leave: a container or a batch job may have far less than its machine.

    :param root: the folder that proc and sys are in
    :return: bytes
    """
    available = psutil.virtual_memory().available
    for line in _text(root / "proc/self/cgroup").split("\n")[:-1]:  # names may have any other separator
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, version = root / "sys/fs/cgroup", _VERSION_2
        elif "memory" in controllers.split(","):
            mount, version = root / "sys/fs/cgroup/memory", _VERSION_1
        else:
            continue
        group = mount / path.lstrip("/")  # in a container it may have the machine's name, where only the mount is seen
        for folder in (group, *group.parents[: len(group.parts) - len(mount.parts)]):  # each is limited by those above
            available = min(available, _room(folder, *version))
    return available


def _room(group: Path, limit: str, used: str, files: tuple[str, str]) -> int:
    allowed, taken = (_text(group / name).strip() for name in (limit, used))
    if not (allowed.isdigit() and taken.isdigit()):  # "max", or there is no such limit
        return sys.maxsize
    kept = dict(line.split() for line in _text(group / "memory.stat").splitlines())
    return max(int(allowed) - int(taken) + sum(int(kept.get(name, 0)) for name in files), 0)


def _text(file: Path) -> str:
    """What Linux says there: other systems have no such files, nor has every container, and a group may end"""
    with suppress(OSError):
        return os.fsdecode(file.read_bytes())  # a group may be named in any encoding
    return ""


def bfloat16_is_faster(device_type: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """
    :param device_type: such as "cpu" or "cuda"
    :param cpuinfo: what Linux says of the processor
    :return: False where a device is known to be slower in bfloat16 than in float32, as without instructions for it
    """
    if device_type == "cuda":
        return th.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu" or not cpuinfo.exists():
        return True
    flags = set(cpuinfo.read_text().split())
    if {"GenuineIntel", "avx512_fp16"} <= flags:  # since these have AMX, which a virtual machine may hide, their
        return "amx_bf16" in flags  # AVX-512 multiplies half as fast in bfloat16 as in float32 (benchmarks/speed.md)
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
