"""HTTP over a unix socket: one request and its answer in JSON, or a stream.

With the standard library: httpx takes longer to load than `agenthub mcp` may take to start, and
leaves sockets open that it could not connect. A connection of its own for each request costs less
than a tenth of a millisecond, and nobody can close it meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any


class _Connection(HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("endpoint", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path, method: str, target: str, said: object = None, *, seconds: float
) -> tuple[int, Any]:
    """The status and what was answered. `seconds` bounds each step of it.

    Raises `TimeoutError`, another `OSError` or `HTTPException` where no answer came, `ValueError`
    where it was not JSON.
    """
    connection = _Connection(path, seconds)
    try:
        body = None if said is None else json.dumps(said)
        connection.request(method, target, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@contextlib.contextmanager
def stream(
    path: Path, target: str, *, seconds: float
) -> Iterator[tuple[socket.socket, Iterator[bytes]]]:
    """What is answered bit by bit, until its end; shutting down the socket ends it from elsewhere.

    `seconds` bounds each silence. Raises as `ask`, also in the middle.
    """
    connection = _Connection(path, seconds)
    try:
        connection.request("GET", target)
        line = connection.sock
        response = connection.getresponse()
        with response:
            yield line, iter(response.read1, b"")
    finally:
        connection.close()
