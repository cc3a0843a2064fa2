"""Hints that something was done in a session, as OpenCode's stream of events tells it.

A server tells only of the sessions that are at work in its own process; windows of their own tell
nobody. A hint is only a hint: what is true is in the listing. One is given at each connection, too,
so that nothing is missed that was done while there was none.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Self

import httpx
from httpx_sse import EventSource, SSEError, connect_sse

_TELLING = ("server.connected", "session.created", "session.deleted", "session.idle")
"""The events that a hint is given of: a session begins, is gone, has come to the end of a turn."""

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
