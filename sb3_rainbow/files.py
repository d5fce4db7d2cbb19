"""Ground floor: files that are whole or not there."""

import errno
import io
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

PathOrFile = str | pathlib.Path | io.BufferedIOBase

# So often, with so many seconds between, a file is to be replaced before it is written into
_TRIES, _WAIT = 10, 0.1


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
    is_alone = path.exists() and not os.access(path.parent, os.W_OK)  # it may be written, but nothing beside it
    if is_alone or path.is_dir():  # of a folder SB3 warns, and chooses another name
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, as there are names of up to 255 bytes, and new each time: one that could not be moved may be there
    beside = path.with_name(f".{path.name[:50]}.{os.urandom(8).hex()}.tmp")
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
    for _ in range(_TRIES):
        try:
            os.replace(source, target)
            return
        except PermissionError:  # on Windows while somebody reads the file, or of another user in a folder such as /tmp
            time.sleep(_WAIT)
        except OSError as error:
            if error.errno != errno.EBUSY:  # as of a single file that is mounted into a container
                raise
            break
    # It is written into: a crash here leaves ``source`` alone
    shutil.copyfile(source, target)
    source.unlink()
