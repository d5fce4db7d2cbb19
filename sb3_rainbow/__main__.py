"""
Run any script of rl_zoo3 with ``--algo rainbow`` registered.

    python -m sb3_rainbow record_video --algo rainbow --env CartPole-v1 -f logs
    python -m sb3_rainbow plot_train --algo rainbow --env CartPole-v1 -f logs

Some others are train, enjoy, benchmark, record_training and all_plots; each knows --help.
"""

import importlib
import importlib.util
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from sb3_rainbow.zoo import register


def main() -> None:
    """
    :raises SystemExit: without the name of a script, or with one that rl_zoo3 does not have
    """
    usage = f"{__doc__}\nusage: python -m sb3_rainbow SCRIPT [arguments of rl_zoo3's SCRIPT]"
    if sys.argv[1:2] in (["--help"], ["-h"]):
        print(usage)
        return
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(usage)
    script = sys.argv.pop(1)
    module = _find(script)
    if module is None:
        sys.exit(f"rl_zoo3 has no script {script!r}: try train, enjoy, record_video, benchmark or plot_train")
    register()
    # Some scripts start others, which would not know of Rainbow
    subprocess.call = _to_ourselves(subprocess.call)
    if script == "push_to_hub":
        _mend_push_to_hub()
    # The package of the plots has imported the module already, which makes no difference here
    warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _find(script: str) -> str | None:
    for package in ("rl_zoo3", "rl_zoo3.plots"):
        spec = importlib.util.find_spec(f"{package}.{script}") if script.isidentifier() else None
        if spec and spec.origin and "ArgumentParser(" in Path(spec.origin).read_text():  # not one of its other modules
            return f"{package}.{script}"
    return None


def _to_ourselves(call: Any) -> Any:
    def wrapper(command: Any, *args: Any, **kwargs: Any) -> int:
        match command:
            case ["python", "-m", module, *rest] if module.startswith("rl_zoo3."):
                command = [sys.executable, "-m", "sb3_rainbow", module.rpartition(".")[2], *rest]
            case ["python", "enjoy.py", *rest]:
                command = [sys.executable, "-m", "sb3_rainbow", "enjoy", *rest]
        return call(command, *args, **kwargs)

    return wrapper


def _mend_push_to_hub() -> None:
    """rl_zoo3 2.9 imports a function that huggingface_sb3 3.2 has made private, and its card names its own scripts."""
    hub: Any = importlib.import_module("huggingface_sb3.push_to_hub")
    if not hasattr(hub, "generate_metadata"):
        hub.generate_metadata = lambda *args: hub._generate_metadata(*args).to_dict()
    repocard: Any = importlib.import_module("huggingface_hub.repocard")
    metadata_save = repocard.metadata_save

    def save(card: Path, metadata: dict[str, Any]) -> None:
        text = card.read_text(encoding="utf-8")
        if "--algo rainbow" in text:
            text = text.replace("pip install rl_zoo3", "pip install rl_zoo3 PATH_OF_A_CLONE_OF_SB3_RAINBOW")
            card.write_text(text.replace("python -m rl_zoo3.", "python -m sb3_rainbow "), encoding="utf-8")
        metadata_save(card, metadata)

    repocard.metadata_save = save


if __name__ == "__main__":
    main()
