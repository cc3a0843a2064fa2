"""The user's own files, which setup changes: links and permissions stay, and a copy is kept.

What is in them is for others.
"""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
from datetime import datetime
from pathlib import Path

from agenthub_core import Misconfigured


def read(path: Path) -> str:
    """A file's text; empty where there is no file. Raises `Misconfigured`."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{path} is not UTF-8: {error}") from error


def write(path: Path, text: str, *, now: datetime, keep: bool = True) -> Path | None:
    """Replace a file's text as a whole, and keep a copy of what was there; the copy's path.

    A link stays a link. Raises `Misconfigured`, and then the file is as it was.
    """
    target = path.resolve()
    there = target.exists()
    copy = _unused(target, f".{now:%Y%m%d-%H%M%S}") if there and keep else None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if there and not os.access(target, os.W_OK):
            raise Misconfigured(f"{target} is read-only: nothing was changed")
        if copy is not None:
            _copy(target, copy)
        _replace(target, text)
    except OSError as error:
        where = error.filename or target
        raise Misconfigured(f"{where} cannot be written: {error.strerror}") from error
    return copy


def _unused(target: Path, stamp: str) -> Path:
    """A name for the copy: one of the same second must stay, too."""
    stamps = itertools.chain([stamp], (f"{stamp}.{number}" for number in itertools.count(2)))
    names = (target.with_name(f"{target.name}{each}.bak") for each in stamps)
    return next(name for name in names if not name.exists())


def _copy(target: Path, copy: Path) -> None:
    """Keep what is there. It may hold keys, so at no instant may others read more than before."""
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(target.read_bytes())
    status = target.stat()
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    _entrust(copy, target)


def _replace(target: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            _entrust(Path(temporary), target)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink()
        raise


def _entrust(path: Path, target: Path) -> None:
    """Give a file the owner, group and mode of another: who runs this may be root, by sudo.

    Where that is not permitted the group is one that had no rights, and gets none.
    """
    new, old = path.stat(), target.stat()
    mode = stat.S_IMODE(old.st_mode)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.chown(path, old.st_uid, old.st_gid)
        except PermissionError:
            mode &= ~stat.S_IRWXG
    path.chmod(mode)
