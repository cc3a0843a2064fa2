"""Which session calls a tool: asked of the OpenCode process that has started this one.

A tool call does not say. Its process knows, and tells it once for each call, where the hub's plugin
runs in it (docs/endpoint.md). Where it does not, or answers oddly, nobody knows who calls, and that
is all: the call itself goes on. What follows from the answer is the core's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any

from agenthub_adapters.unix_http import ask
from agenthub_core import Clock, InvalidValue, Session

_PROTOCOL = 1
_PATIENCE = 2.0  # seconds; it takes milliseconds, and a model waits meanwhile


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
        call = {"tool": tool, "name": name}
        try:
            if not self._speaks_it:
                hello = _object(ask(self._path, "GET", "/", seconds=_PATIENCE))
                self._speaks_it = hello.get("protocol") == _PROTOCOL
            if not self._speaks_it:
                return None
            return self._session(
                _object(ask(self._path, "POST", "/claim", call, seconds=_PATIENCE))
            )
        except (OSError, HTTPException, ValueError, RecursionError):
            return None

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


def _object(answer: tuple[int, Any]) -> dict[str, Any]:
    """What the endpoint has answered; nothing where it refused."""
    status, said = answer
    return said if status == HTTPStatus.OK and isinstance(said, dict) else {}
