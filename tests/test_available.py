"""How much memory the process can still take."""

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sb3_rainbow.available import available_memory

V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
NO_LIMIT_V1 = "9223372036854771712"


def control_group(root, folder, limit, used, files):
    """``files``: how many of the bytes used keep files, a third of them of late."""
    folder = root / folder
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    limit_name, used_name, prefix = names if "memory" in folder.parts else ("memory.max", "memory.current", "")
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    stat = "active_file 1\ninactive_file 1\n" if prefix else "anon 7\n"
    (folder / "memory.stat").write_text(
        stat + f"{prefix}active_file {files // 3}\n{prefix}inactive_file {files - files // 3}\n"
    )


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The root of a machine with 1000 bytes available."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    return tmp_path


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file has such a name")


def process_in(root, line):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_bytes(f"9:name=systemd:/\n{line}\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("line", "groups", "expected"),
    [
        # In a container: version 2, and version 1, which names the machine's group
        ("0::/", {V2: (600, 100, 0)}, 500),
        ("0::/", {V2: (600, 300, 120)}, 420),
        ("5:memory:/docker/f00", {V1: (600, 300, 120)}, 420),
        ("5:memory,cpu:/", {V1: (600, 300, 120)}, 420),
        # A batch job, limited by itself or from above
        ("0::/slurm/job_1/step_0", {f"{V2}/slurm/job_1": (300, 100, 0), f"{V2}/slurm": ("max", 900, 0)}, 200),
        ("0::/slurm/job_1", {f"{V2}/slurm/job_1": ("max", 100, 0), f"{V2}/slurm": (400, 380, 10)}, 30),
        ("4:memory:/slurm/job_1", {f"{V1}/slurm/job_1": (300, 100, 0), V1: (NO_LIMIT_V1, 900, 0)}, 200),
        # It may use more than it is allowed now, where the limit was lowered
        ("0::/", {V2: (100, 300, 0)}, 0),
        # In the encoding of whoever made it, with all that a name may have
        pytest.param("0::/caf\u00e9", {f"{V2}/caf\udce9": (300, 100, 0)}, 200, marks=needs_linux),
        pytest.param("0::/a\fb", {f"{V2}/a\fb": (300, 100, 0)}, 200, marks=needs_linux),
        # No limit, or one above what the machine has
        ("0::/", {V2: ("max", 100, 0)}, 1000),
        ("0::/", {V2: (10**12, 100, 0)}, 1000),
        ("4:memory:/", {V1: (NO_LIMIT_V1, 900, 0)}, 1000),
        # Other groups say nothing of memory, and those of others nothing of ours
        ("3:cpu:/x", {V1: (600, 100, 0), V2: (600, 100, 0)}, 1000),
        ("0::/a", {f"{V2}/a": ("max", 1, 0), f"{V2}/b": (10, 9, 0)}, 1000),
    ],
)
def test_a_control_group_may_leave_less_than_the_machine(root, line, groups, expected):
    """Computed by hand: limit - used + what keeps files, the least of all groups above and of the machine's 1000."""
    process_in(root, line)
    for folder, (limit, used, files) in groups.items():
        control_group(root, folder, limit, used, files)
    assert available_memory(root) == expected


@pytest.mark.parametrize(("missing", "expected"), [("memory.stat", 300), ("memory.current", 1000)])
def test_a_container_may_show_less(root, missing, expected):
    """Without its statistics all that is used counts as taken; without its use nothing is known."""
    process_in(root, "0::/")
    control_group(root, V2, 600, 300, 120)
    (root / V2 / missing).unlink()
    assert available_memory(root) == expected


def test_a_control_group_may_end_meanwhile(root, monkeypatch):
    def read_bytes(file):
        if file.name == "memory.max":
            raise OSError(19, "No such device")
        return read(file)

    process_in(root, "0::/")
    control_group(root, V2, 600, 300, 120)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert available_memory(root) == 1000


def test_where_there_are_no_control_groups(root):
    assert available_memory(root) == 1000


def test_this_process():
    assert 0 < available_memory() <= psutil.virtual_memory().total
