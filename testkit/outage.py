"""A door before OpenCode that a test can shut in different ways.

    with Door(opencode.url) as door:
        door.behave(Behaviour.ERRORS)

Passes everything on while it is open. Says nothing of what the hub should make of it.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

import httpx

from testkit.opencode import free_port
from testkit.waiting import PATIENCE

# Longer than any test runs: what is held back is released by the test, or never answered.
_LONG = 300.0
_SKIPPED = {"connection", "content-encoding", "content-length", "date", "server", "host"}


class Behaviour(enum.Enum):
    """How the door treats a request."""

    OPEN = "passed on"
    ERRORS = "answered 500"
    SILENT = "accepted and never answered"
    SWALLOWING = "passed on, but prompts are accepted and dropped"
    CLOSED = "refused"


class Door:
    """A reverse proxy on a port of its own, which it keeps while it is closed."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.port = free_port()
        self._behaviour = Behaviour.OPEN
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._released = threading.Event()
        self._asked: Counter[str] = Counter()

    def behave(self, behaviour: Behaviour) -> None:
        """Treat requests like this from now on; those that are held back are dropped."""
        self._behaviour = behaviour
        self._released.set()
        self._released = threading.Event()
        if behaviour is Behaviour.CLOSED:
            self._close()
        elif self._server is None:
            self._open()

    def prompts(self, session_id: str) -> int:
        """How many prompts came for a session, passed on or not."""
        return self._asked[f"POST /session/{session_id}/prompt_async"]

    @property
    def asked(self) -> Counter[str]:
        """How often each thing was asked for so far, such as `GET /session/status`."""
        return self._asked.copy()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._close()

    def _open(self) -> None:
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # a connection that the hub keeps for later must not outlive a closed door
            timeout = 0.5
            # an answer in one packet: of two, the second may wait 40 ms for an acknowledgement
            wbufsize = -1

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                door._handle(self)

            def do_POST(self) -> None:
                door._handle(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                pass  # whoever asked has gone away, as this kit makes them do

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def _close(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        is_prompt = request.path.endswith("/prompt_async")
        self._asked[f"{request.command} {urlsplit(request.path).path}"] += 1
        match self._behaviour:
            case Behaviour.ERRORS | Behaviour.CLOSED:
                self._answer(request, 500, b'{"data": {"message": "out of order"}}')
            case Behaviour.SILENT:
                self._released.wait(_LONG)
                request.close_connection = True
            case Behaviour.SWALLOWING if is_prompt:
                self._answer(request, 204, b"")
            case _:
                self._pass_on(request, body)

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _SKIPPED
        }
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream(
                request.command,
                self._target + request.path,
                content=body,
                headers=headers,
                timeout=PATIENCE,
                trust_env=False,
                verify=False,  # noqa: S501  # no TLS here; the authorities take 20 ms
            ) as answer,
        ):
            kind = answer.headers.get("content-type", "")
            if kind.startswith("text/event-stream"):
                self._pass_on_events(request, answer)
            else:
                self._answer(request, answer.status_code, answer.read(), kind)
                return
        request.close_connection = True

    def _pass_on_events(self, request: BaseHTTPRequestHandler, answer: httpx.Response) -> None:
        """One by one, as they come, until the door behaves otherwise."""
        released = self._released
        request.send_response(answer.status_code)
        request.send_header("content-type", answer.headers["content-type"])
        request.send_header("connection", "close")  # which is their end
        request.end_headers()
        for some in answer.iter_bytes():
            if released.is_set():
                return
            request.wfile.write(some)
            request.wfile.flush()

    def _answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        kind: str = "application/json",
    ) -> None:
        request.send_response(status)
        if content:
            request.send_header("content-type", kind)
        if status != httpx.codes.NO_CONTENT:
            request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
