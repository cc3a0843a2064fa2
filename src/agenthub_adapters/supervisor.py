"""Brings the hub's own OpenCode server back when it has died.

A server that somebody else started is left to them: the relay finds it again by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Self

from agenthub_adapters.opencode_server import OpenCodeServer
from agenthub_core import Backoff, ServerError

_LOOK_SECONDS = 0.5  # between two looks at the process: each takes microseconds

_log = logging.getLogger(__name__)


class Supervisor:
    """Watches the server from a thread of its own: `with Supervisor(server): …`."""

    def __init__(self, server: OpenCodeServer, *, backoff: Backoff | None = None) -> None:
        """`backoff` tells when to start it again after it has died so often in a row."""
        self._server = server
        self._backoff = backoff or Backoff()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._failures = 0
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Return when nothing is being started any more, so that it can be stopped for good."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        since = time.monotonic()
        while not self._done.wait(_LOOK_SECONDS):
            if not self._server.has_ended():
                if time.monotonic() - since > self._backoff.ceiling.total_seconds():
                    self._failures = 0  # it is well again
                continue
            self._failures += 1
            delay = self._backoff.delay(self._failures, "opencode")
            self._tell("opencode.ended", "OpenCode has ended; it is started again")
            if self._done.wait(delay.total_seconds()):
                return
            self._restart()
            since = time.monotonic()

    def _restart(self) -> None:
        try:
            server = self._server.restart(self._done.is_set)
        except ServerError as error:
            if not self._done.is_set():
                self._tell("opencode.failed", f"{error}. It is tried again, ever more slowly")
            return
        self._told.clear()
        _log.info("OpenCode is at %s again", server.url, extra={"topic": "opencode.back"})

    def _tell(self, topic: str, text: str) -> None:
        """Once, however often it goes wrong in the same way."""
        if text not in self._told:
            self._told.add(text)
            _log.warning("%s", text, extra={"topic": topic})
