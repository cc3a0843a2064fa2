"""A stand-in for the endpoint of an OpenCode process (docs/endpoint.md), as far as calls go.

    with StubClaims(run / "4711.sock") as endpoint:
        endpoint.calls["send_message", "lucky-tiger"] = {"session": "ses_1", …}

Its socket's path must be short: 104 bytes are the most on macOS.
"""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self


class StubClaims:
    """Each call can be claimed once, as from the plugin."""

    def __init__(self, path: Path) -> None:
        self.calls: dict[tuple[str, str], object] = {}
        self.hello: object = {"protocol": 1, "plugin": 1, "pid": 4711, "sessions": []}
        self.asked: list[str] = []
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = type("Handler", (_Handler,), {"endpoint": self})
        self._server = _Server(str(path), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, object]:
        self.asked.append(f"{method} {path}")
        if (method, path) == ("GET", "/"):
            return 200, self.hello
        if (method, path) != ("POST", "/claim"):
            return 501, {"error": "no such request"}
        session = self.calls.pop((body["tool"], body["name"]), None)
        return (404, {"error": "no such call"}) if session is None else (200, session)


class _Server(socketserver.ThreadingUnixStreamServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asks may have hung up."""


class _Handler(BaseHTTPRequestHandler):
    endpoint: StubClaims
    protocol_version = "HTTP/1.1"
    timeout = 10

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size)) if size else {}
        status, answer = self.endpoint.answer(self.command, self.path, body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        pass
