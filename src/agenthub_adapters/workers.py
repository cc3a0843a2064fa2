"""Threads for the hub's tasks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """An `Executor` on a few threads of its own, which start with the first task.

    They are daemon threads, unlike those of `concurrent.futures`: a request that hangs must not
    keep a stopped hub from exiting. What it may leave undone is what the hub can do again.
    """

    def __init__(self, count: int, name: str) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        self._started = False

    def submit(self, task: Callable[[], None]) -> None:
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        self._tasks.put(task)

    def _work(self) -> None:
        while True:
            self._tasks.get()()
