"""Ground floor: files that are whole or not there."""

import errno
import io
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

PathOrFile = str | pathlib.Path | io.BufferedIOBase

# So often, with so many seconds between, replacing a file is tried before it is written into: on Windows it cannot be
# while somebody reads it. A single file that is mounted into a container, or that of another user, never can
_TRIES, _WAIT = (30, 0.1) if os.name == "nt" else (1, 0)
_NOT_REPLACED = errno.EACCES, errno.EPERM, errno.EBUSY


@contextmanager
def written_beside(path: PathOrFile, suffix: str) -> Iterator[PathOrFile]:
    """
    Have a file written under another name, and give it its own only when it is complete.

    :param path: the file to write, with SB3's rules for a missing suffix and missing folders; or a file object
    :param suffix: to append where ``path`` has none, such as "zip"
    :return: what to write to
    :raises OSError: when it cannot have its name; the message says where the complete file is then
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
    folder = path.parent
    if path.exists() and not os.access(folder, os.W_OK):  # a file may be written in a folder that may not
        try:
            folder = pathlib.Path(tempfile.gettempdir())
        except FileNotFoundError:  # there is nowhere else
            yield path
            return
    # Cut, as there are names of up to 255 bytes, and new each time: one that could not be moved may be there
    beside = folder / f".{path.name[:50]}.{os.urandom(8).hex()}.tmp"
    try:
        own_mode = partial(os.open, mode=0o600) if path.exists() else None  # it may be for some eyes only
        with open(beside, "xb", opener=own_mode) as file:
            yield file
        if folder == path.parent:  # elsewhere it is for our eyes only
            with suppress(OSError):  # there may be none yet, and not every file system has permissions
                shutil.copymode(path, beside)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    try:
        _move(beside, path)
    except BaseException as error:
        if beside.exists():
            error.add_note(f"What was to be saved is complete in {beside}: move it away")
        raise


def _move(source: pathlib.Path, target: pathlib.Path) -> None:
    for _ in range(_TRIES if source.parent == target.parent else 0):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if error.errno not in _NOT_REPLACED:
                raise
        time.sleep(_WAIT)
    shutil.copyfile(source, target)  # a crash here leaves ``source`` alone
    with suppress(OSError):  # a copy too many is no reason to end training
        source.unlink()
