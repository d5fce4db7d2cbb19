"""The house: a file imports only from files on lower floors, or from those above it on its own."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sb3_rainbow"
# Ground floor first. Each file, and what of other packages it may import besides the standard library
FLOORS = [
    {
        "arguments": {"numpy", "torch", "gymnasium", "stable_baselines3"},
        "loops": {"numpy", "numba"},
        "sum_tree": {"numpy"},
        "returns": {"numpy"},
        "categorical": {"torch"},
        "noisy": {"torch"},
        "files": set(),
        "moments": {"torch"},
        "memory": {"numpy"},
        "available": {"psutil", "torch"},
        "compiled": {"torch"},
        "frames": {"numpy"},
    },
    {
        "sampling": {"numpy"},
        "storage": {"numpy", "gymnasium"},
        "envs": {"numpy", "gymnasium", "stable_baselines3", "ale_py", "cv2"},
        "heads": {"torch"},
        "networks": {"torch", "gymnasium", "stable_baselines3"},
        "chain": {"torch", "gymnasium", "stable_baselines3"},
    },
    {
        "buffers": {"numpy", "torch", "gymnasium", "stable_baselines3"},
        "policies": {"numpy", "torch", "gymnasium", "stable_baselines3"},
        "device_replay": {"numpy", "torch"},
        "captured": {"torch"},
        "checking": {"numpy", "torch", "gymnasium", "stable_baselines3"},
        "saving": {"torch", "stable_baselines3"},
        "overlap": {"numpy", "stable_baselines3"},
        "watch": {"numpy", "torch", "stable_baselines3"},
        "capturing": {"stable_baselines3"},
    },
    {"rainbow": {"numpy", "torch", "gymnasium", "stable_baselines3"}},
    {"zoo": {"optuna", "rl_zoo3"}, "__main__": set(), "__init__": set()},
]
RANKS = {name: rank for rank, name in enumerate(name for floor in FLOORS for name in floor)}
ALLOWED = {name: packages for floor in FLOORS for name, packages in floor.items()}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "sb3_rainbow"
                else [node.module]
            )


def test_every_file_has_a_floor():
    assert {path.stem for path in PACKAGE.glob("*.py")} == RANKS.keys()


@pytest.mark.parametrize("name", RANKS)
def test_imports_come_from_above_in_the_list(name):
    for module in imports(PACKAGE / f"{name}.py"):
        package, _, rest = module.partition(".")
        if package == "sb3_rainbow":
            assert RANKS[rest] < RANKS[name], f"{name} imports {rest}, which stands on a higher floor"
        else:
            assert package in ALLOWED[name] | sys.stdlib_module_names, f"{name} imports {package}"
