"""Hints that something changed in a directory, by watchdog.

A hint is only a hint: it may name a file that is half-written, or gone, and some may be missed (a
full queue, a network file system). What is true is in the directory, which the hub reads as a whole
now and then.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from agenthub_core import StoreUnreadable

_EVENTS: list[type[FileSystemEvent]] = [FileCreatedEvent, FileMovedEvent]
# Linux tells when a writer is done, so each single write need not be told; others do not tell
_EVENTS += [FileClosedEvent] if sys.platform == "linux" else [FileModifiedEvent]

_LIMIT_REACHED = ". Raise fs.inotify.max_user_instances and fs.inotify.max_user_watches with sysctl"

_STOP_SECONDS = 1  # its threads wake up at least that often


class Watcher(FileSystemEventHandler):
    """Calls `hint` with the name of each file that appears or changes in `directory`.

    From a thread of its own, between `with` and its end.
    """

    def __init__(self, directory: Path, hint: Callable[[str], None]) -> None:
        self._directory = directory
        self._hint = hint
        self._observer: BaseObserver | None = None

    def __enter__(self) -> Self:
        try:
            self._observer = Observer()  # has a thread and an inotify instance from now on
            self._observer.schedule(self, str(self._directory), event_filter=_EVENTS)
            self._observer.start()
        except OSError as error:
            if self._observer is not None:
                self._observer.stop()
            advice = _LIMIT_REACHED if error.errno in (errno.EMFILE, errno.ENOSPC) else ""
            raise StoreUnreadable(
                f"{self._directory} cannot be watched: {error.strerror}{advice}"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(_STOP_SECONDS)

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = event.dest_path or event.src_path
        self._hint(os.path.basename(os.fsdecode(path)))  # noqa: PTH119  # a Path costs 5 times that
