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

# So often, with so many seconds between, replacing a file is tried before it is written into
_TRIES, _WAIT = 30, 0.1


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
    # A file may be written in a folder that may not
    folder = path.parent if os.access(path.parent, os.W_OK) or not path.exists() else tempfile.gettempdir()
    # Cut, as there are names of up to 255 bytes, and new each time: one that could not be moved may be there
    beside = pathlib.Path(folder, f".{path.name[:50]}.{os.urandom(8).hex()}.tmp")
    try:
        own_mode = partial(os.open, mode=0o600) if path.exists() else None  # it may be for some eyes only
        with open(beside, "xb", opener=own_mode) as file:
            yield file
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
    if source.parent == target.parent and _is_replaced(source, target):
        return
    shutil.copyfile(source, target)  # a crash here leaves ``source`` alone
    with suppress(OSError):  # a copy too many is no reason to end training
        source.unlink()


def _is_replaced(source: pathlib.Path, target: pathlib.Path) -> bool:
    """
    :return: False where the target can only be written into
    """
    for _ in range(_TRIES):
        try:
            os.replace(source, target)
            return True
        except PermissionError:  # Windows, while somebody reads the target
            time.sleep(_WAIT)
        except OSError as error:
            if error.errno != errno.EBUSY:  # as of a single file that is mounted into a container
                raise
            break
    return False
