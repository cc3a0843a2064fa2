"""Hints that something was done in a session of OpenCode.

A server's stream of events tells of the sessions that are at work in its own process; windows of
their own tell nobody, but all write into one database. A hint is only a hint: what is true is in
the listing. One is given at each connection to the stream, too, so that nothing is missed that was
done while there was none.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
from httpx_sse import EventSource, SSEError, connect_sse

_TELLING = ("server.connected", "session.created", "session.deleted", "session.idle")
"""The events that a hint is given of: a session begins, is gone, has come to the end of a turn."""

_LOOK_SECONDS = 0.25
"""Between two looks at the database's files: as often as anybody could want a listing. To be told
of each write would cost 5 % of a core while one agent works, which writes 400 times a turn; a look
costs a hundredth of a thousandth."""

_PAUSE_SECONDS = 1.0  # before the next try: as often as the hub asks a relay that is down
_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 15.0  # a heart beats every 10 s: who says nothing for longer hangs
_END_SECONDS = 1.0

_log = logging.getLogger(__name__)


class OpenCodeEvents:
    """Calls `hint`, from a thread of its own: `with OpenCodeEvents(url, hint): …`."""

    def __init__(
        self,
        url: str,
        hint: Callable[[], None],
        *,
        user: str = "opencode",
        password: str | None = None,
    ) -> None:
        self._url = f"{url.rstrip('/')}/global/event"
        self._hint = hint
        self._auth = None if password is None else (user, password)
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._keep_listening, name="events", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._done.set()
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    self._socket.shutdown(socket.SHUT_RDWR)  # ends the reading from it
        self._thread.join(_END_SECONDS)

    def _keep_listening(self) -> None:
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        with httpx.Client(auth=self._auth, timeout=timeout, trust_env=False) as client:
            while not self._done.is_set():
                try:
                    with connect_sse(client, "GET", self._url) as source:
                        self._listen(source)
                except (httpx.HTTPError, SSEError) as error:  # the listing tells the person of it
                    _log.debug("no events: %s", error, extra={"topic": "events.none"})
                self._done.wait(_PAUSE_SECONDS)

    def _listen(self, source: EventSource) -> None:
        stream = source.response.extensions["network_stream"]
        with self._lock:
            if self._done.is_set():
                return
            self._socket = stream.get_extra_info("socket")
        try:
            for event in source.iter_sse():
                # most of them are the words of a model: not worth the reading of their JSON
                if any(f'"{kind}"' in event.data for kind in _TELLING):
                    self._hint()
        finally:
            with self._lock:
                self._socket = None


class OpenCodeDatabase:
    """Calls `hint`, from a thread of its own, after any OpenCode has written into the database."""

    def __init__(self, directory: Path, hint: Callable[[], None]) -> None:
        """`directory` is where OpenCode keeps it; it may be missing yet."""
        self._files = [directory / name for name in ("opencode.db-wal", "opencode.db")]
        self._hint = hint
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="database", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        seen = [*map(_written, self._files)]
        while not self._done.wait(_LOOK_SECONDS):
            before, seen = seen, [*map(_written, self._files)]
            if seen != before:
                self._hint()


def _written(path: Path) -> tuple[int, int] | None:
    """What changes when something is written into a file; None where it cannot be looked at."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
