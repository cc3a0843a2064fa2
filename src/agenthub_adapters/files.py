"""Files as the hub writes and reads them: seen whole or not at all, durable, for this user only.

A file becomes visible by `link`, or by a rename where it takes the place of what it changes, never
half-written; and it is durable before anything that depends on it: written, flushed, synced, put in
its place, and the directory synced. What others wrote is read without trusting it: no link is
followed, no pipe waited for. What is in the files, and where they lie, is for others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agenthub_core import StoreUnreadable, StoreUnwritable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DurableFiles:
    """Writes files, by way of a directory of its own on the same disk.

    Every method raises OSError; `writing` translates it.
    """

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp

    def publish(self, path: Path, data: bytes, *, at: int | None = None) -> bool:
        """Let a file appear as a whole, if there is none of that name; whether it did."""
        return self.write(data, lambda temporary: os.link(temporary, path), at)

    def replace(self, path: Path, data: bytes, *, at: int | None = None) -> None:
        place = lambda temporary: os.replace(temporary, path)  # noqa: E731, PTH105  # as below
        self.write(data, place, at)
        sync_directory(path.parent)

    def write(self, data: bytes, place: Callable[[str], object], at: int | None = None) -> bool:
        """Put a file in its place by a call of one's own; False where that finds one there.

        `at`, in nanoseconds since 1970, becomes the file's time.
        """
        # for this user only; a name of its own, whatever crashes have left there
        descriptor, temporary = tempfile.mkstemp(dir=self.tmp)
        try:
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                if at is not None:
                    os.utime(descriptor, ns=(at, at))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            place(temporary)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108  # a Path costs as much as the call itself
        return True

    def sweep(self, before: datetime) -> None:
        """Remove what crashes left behind."""
        for path in self.tmp.iterdir():
            if file_time(path.lstat()) < before:
                path.unlink(missing_ok=True)


class NotRegular(Exception):  # never leaves the adapter
    """What lies there is not for the hub to read; the text says why."""


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}

# neither follow a link out of the spool nor wait for a pipe's other end
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_CHUNK = 16384  # bytes: one reading for nearly every message

_REFUSALS = {
    errno.ELOOP: "it is a symbolic link",
    errno.EACCES: "this user may not read it",
    errno.EPERM: "this user may not read it",
    errno.ENXIO: "it is a socket",
}


def read_regular(path: Path, size: int = sys.maxsize) -> tuple[bytes, os.stat_result] | None:
    """A file's first `size` bytes, or all; None if there is none."""
    try:
        descriptor = os.open(path, _READING)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _REFUSALS:
            raise NotRegular(_REFUSALS[error.errno]) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
            raise NotRegular(f"it is {kind}")
        return os.read(descriptor, min(size, status.st_size)), status
    finally:
        os.close(descriptor)


def content(path: str | Path) -> bytes | None:
    """All that is in a file of the hub's own; None where there is none to read.

    As few calls as may be: whoever looks something up reads ten thousand of them.
    """
    try:
        descriptor = os.open(path, _READING)
    except OSError as error:
        if error.errno == errno.ENOENT or error.errno in _REFUSALS:
            return None
        raise
    try:
        data = os.read(descriptor, _CHUNK)
        while len(data) % _CHUNK == 0 and (more := os.read(descriptor, _CHUNK)):
            data += more
    except IsADirectoryError:
        return None
    finally:
        os.close(descriptor)
    return data


def is_visible_json(name: str) -> bool:
    """Whether a file of that name is one that the hub looks at: writers hide what is not ready."""
    return name.endswith(".json") and not name.startswith(".")


def nanoseconds(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000


def file_time(status: os.stat_result) -> datetime:
    """When a file was last changed; the oldest time there is if that cannot be a time."""
    try:
        return datetime.fromtimestamp(status.st_mtime_ns // 1_000_000 / 1000, UTC)
    except (OverflowError, ValueError):
        return datetime.min.replace(tzinfo=UTC)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Alone among those that ask for it, threads and processes. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unreadable(error, path) from error


def unreadable(error: OSError, path: Path) -> StoreUnreadable:
    return StoreUnreadable(f"{error.filename or path} cannot be read: {error.strerror}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreUnreadable as error:  # what is written depends on it
        raise StoreUnwritable(str(error)) from error
    except OSError as error:
        where = error.filename or path
        raise StoreUnwritable(f"{where} cannot be written: {error.strerror}") from error
