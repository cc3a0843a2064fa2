"""Which session calls a tool: asked of the OpenCode process that has started this one.

A tool call does not say. Its process knows, and tells it once for each call, where the hub's plugin
runs in it (docs/endpoint.md). Where it does not, or answers oddly, nobody knows who calls, and that
is all: the call itself goes on. What follows from the answer is the core's business.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenthub_core import Clock, InvalidValue, Session

_PROTOCOL = 1
_PATIENCE = 2.0  # seconds; it takes milliseconds, and a model waits meanwhile
_SIZE = 1024 * 1024  # bytes, which no answer needs


class Caller:
    """The sessions of the OpenCode process in whose `environment` this one runs.

    `run` is where the endpoints of such processes lie.
    """

    def __init__(self, run: Path, environment: Mapping[str, str], *, clock: Clock) -> None:
        process = environment.get("OPENCODE_PID", "")
        self._path = run / f"{process}.sock" if process.isdecimal() else None
        self._clock = clock
        self._speaks_it = False

    def claim(self, tool: str, name: str) -> Session | None:
        """The session that calls this tool under this name; None where nobody can tell."""
        if self._path is None:
            return None
        endpoint = _Endpoint(self._path)
        try:
            if not self._speaks_it:
                self._speaks_it = _ask(endpoint, "GET", "/").get("protocol") == _PROTOCOL
            if not self._speaks_it:
                return None
            return self._session(_ask(endpoint, "POST", "/claim", {"tool": tool, "name": name}))
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            return None
        finally:
            endpoint.close()

    def _session(self, answer: Mapping[str, Any]) -> Session | None:
        texts = [answer.get(key, "") for key in ("session", "slug", "directory")]
        if not all(isinstance(text, str) for text in texts):
            return None
        session_id, slug, directory = texts
        now = self._clock.now()
        try:
            return Session(id=session_id, slug=slug, directory=directory, created=now, updated=now)
        except InvalidValue:
            return None


class _Endpoint(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(str(self._path))


def _ask(
    endpoint: _Endpoint, method: str, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the endpoint answers; nothing where it refuses. Raises as `http.client` and `json`."""
    data = None if body is None else json.dumps(body)
    endpoint.request(method, path, data, {"Content-Type": "application/json"})
    response = endpoint.getresponse()
    answer = json.loads(response.read(_SIZE))
    return answer if response.status == http.client.OK and isinstance(answer, dict) else {}
