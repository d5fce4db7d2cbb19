"""Ground floor: files that are whole or not there, and what is wrong with those that are neither."""

import io
import json
import os
import pathlib
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3.common.save_util import open_path

Path = str | pathlib.Path | io.BufferedIOBase


@contextmanager
def written_beside(path: Path, suffix: str) -> Iterator[Path]:
    """
    Have a file written under another name, and give it its own only when it is complete.

    :param path: the file to write, with SB3's rules for a missing suffix and missing folders; or a file object
    :param suffix: to append where ``path`` has none, such as "zip"
    :return: what to write to
    """
    if not isinstance(path, str | pathlib.Path):
        yield path
        return
    path = pathlib.Path(path)
    if not path.suffix:
        path = path.with_name(f"{path.name}.{suffix}")
    path = path.resolve()  # a link stays a link, to the new file
    if path.is_dir():  # SB3 warns and chooses another name
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield beside
        if path.exists():
            shutil.copymode(path, beside)  # it may be for some eyes only
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_saved_model(path: Path, attribute: str) -> None:
    """
    :param path: what ``load`` was given
    :param attribute: one that every saved model of this algorithm has
    :raises ValueError: when it is no zip file, a truncated one, or one that another algorithm or program wrote
    """
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{path} is damaged: {damaged} in it cannot be read; use another copy of the file")
            names = archive.namelist()
            data = json.loads(archive.read("data")) if "data" in names and "policy.pth" in names else {}
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated, or no saved model at all ({error}); use another file") from error
    finally:
        if isinstance(path, str | pathlib.Path):
            file.close()
        else:
            file.seek(0)
    if "policy_class" in data and attribute not in data:
        policy = data["policy_class"].get("__module__", "elsewhere")
        raise ValueError(
            f"{path} was not saved by RainbowDQN but by an algorithm with a policy from {policy}: load it with that one"
        )
    if attribute not in data:
        raise ValueError(f"{path} is truncated, or was not saved by RainbowDQN; use another file")
