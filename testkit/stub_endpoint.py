"""An endpoint that says what the test wants: what the plugin of an OpenCode process never would.

    with StubEndpoint(run / "123.sock") as endpoint:
        endpoint.tell("session", {"id": "ses_a", "state": "busy"})

It speaks the protocol of docs/endpoint.md as far as it is told to. What the plugin does is shown on
the real OpenCode.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socketserver
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class StubEndpoint:
    """One process's endpoint. `hello` is what it says first; `answer` what it does with prompts.

    `calls` are the answers to claims, by tool and name; each can be claimed once.
    """

    def __init__(self, path: Path, *sessions: Mapping[str, Any], protocol: int = 1) -> None:
        self.path = path
        self.hello: Any = {
            "protocol": protocol,
            "plugin": 1,
            "pid": 1,
            "sessions": list(sessions),
        }
        self.calls: dict[tuple[str, str], Any] = {}
        self.requests: list[str] = []
        """Each method and path, in order."""
        self.asked: list[Mapping[str, Any]] = []
        """The bodies of the requests for prompts."""
        self.answer: Answer = lambda body: {"accepted": len(body["prompts"])}
        self._streams: list[queue.SimpleQueue[str | None]] = []
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def tell(self, event: str, said: object) -> None:
        """Send an event to everybody who listens."""
        self.write(f"event: {event}\ndata: {json.dumps(said)}\n\n")

    def write(self, text: str) -> None:
        with self._lock:
            for stream in self._streams:
                stream.put(text)

    @property
    def listeners(self) -> int:
        with self._lock:
            return len(self._streams)

    def open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._server = _Server(str(self.path), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self, *, leave_socket: bool = False) -> None:
        """End it; `leave_socket`: as a process that was killed."""
        if self._server is None or self._thread is None:
            return
        with self._lock:
            for stream in self._streams:
                stream.put(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = None
        if not leave_socket:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def listener(self) -> Any:
        stream: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with self._lock:
            self._streams.append(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._streams.remove(stream)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, endpoint: StubEndpoint) -> None:
        self.endpoint = endpoint
        super().__init__(path, _Handler)

    def handle_error(self, *_: object) -> None:
        """Who listened is gone: no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        endpoint = self.server.endpoint
        endpoint.requests.append(f"GET {self.path}")
        if self.path == "/":
            self._reply(endpoint.hello)
            return
        with endpoint.listener() as stream:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self._write(f"event: hello\ndata: {json.dumps(endpoint.hello)}\n\n")
            while (text := stream.get()) is not None:
                self._write(text)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        endpoint = self.server.endpoint
        endpoint.requests.append(f"POST {self.path}")
        if self.path == "/claim":
            claimed = endpoint.calls.pop((body["tool"], body["name"]), None)
            self._reply({"error": "no such call"} if claimed is None else claimed, claimed)
            return
        endpoint.asked.append({"path": self.path, **body})
        self._reply(endpoint.answer(body))

    def _write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def _reply(self, said: Any, found: Any = True) -> None:
        text = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """pytest has enough to say."""
