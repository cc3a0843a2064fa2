"""The hub's side of an OpenCode process that is an endpoint (docs/endpoint.md), for tests.

    endpoint = Endpoint(opencode.home, window.pid)
    with endpoint.listening() as events:
        endpoint.prompt(session["id"], "hello")
        events.wait_for_turn(session["id"])

It is nobody's adapter: it says and shows what goes over the socket, and judges nothing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from testkit.waiting import PATIENCE, eventually

SOME_DAY = 1 << 52  # ms since 1970


class Events:
    """What a process tells, in order."""

    def __init__(self) -> None:
        self._told: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self.ended = False
        """Whether the process has hung up."""

    def add(self, event: str, data: dict[str, Any]) -> None:
        with self._changed:
            self._told.append((event, data))
            self._changed.notify_all()

    def of(self, event: str, **expected: Any) -> list[dict[str, Any]]:
        """All of this kind so far that say what is expected."""
        with self._changed:
            return [
                data
                for kind, data in self._told
                if kind == event and expected.items() <= data.items()
            ]

    def wait_for(self, event: str, *, count: int = 1, **expected: Any) -> dict[str, Any]:
        """Block until the `count`-th of this kind that says what is expected, and return it."""
        with self._changed:
            if self._changed.wait_for(lambda: len(self.of(event, **expected)) >= count, PATIENCE):
                return self.of(event, **expected)[count - 1]
            raise AssertionError(f"no {event} {expected} in {PATIENCE} s; told: {self._told}")

    def wait_for_turn(self, session: str, *, count: int = 1) -> None:
        """Block until the `count`-th turn of the session has ended."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._turns(session) >= count, PATIENCE):
                raise AssertionError(f"no turn {count} in {PATIENCE} s; told: {self._told}")

    def _turns(self, session: str) -> int:
        return self.states(session)[1:].count("idle")

    def states(self, session: str) -> list[str]:
        """Through which states it went, from idle on."""
        states = ["idle"]
        for told in self.of("session", id=session):
            if told["state"] not in states[-1:]:
                states.append(told["state"])
        return states


class Endpoint:
    """One process, by the hub's directory in its HOME and its id."""

    def __init__(self, home: Path, pid: int, directory: str = ".agent-hub") -> None:
        self.socket = home / directory / "run" / f"{pid}.sock"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, without judging the status."""
        with self._client() as client:
            return client.request(method, path, **options)

    def hello(self) -> dict[str, Any]:
        hello: dict[str, Any] = self.request("GET", "/").raise_for_status().json()
        return hello

    def sessions(self) -> dict[str, dict[str, Any]]:
        return {session["id"]: session for session in self.hello()["sessions"]}

    def prompt(self, session: str, text: str, **body: Any) -> dict[str, Any]:
        """Hand over one prompt; what became of it."""
        return self.burst(session, {"parts": [{"type": "text", "text": text}], **body})

    def burst(
        self, session: str, *prompts: Mapping[str, Any], before: int = SOME_DAY
    ) -> dict[str, Any]:
        """Hand over prompts in order, no later than `before`; what became of them."""
        said = {"prompts": prompts, "before": before}
        response = self.request("POST", f"/sessions/{session}/prompts", json=said)
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer

    def wait_until_it_listens(self) -> None:
        eventually(self.socket.exists)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Events]:
        """Its events, from `hello` on."""
        events = Events()
        with (
            self._client() as client,
            client.stream("GET", "/events", timeout=None) as response,
        ):
            reading = threading.Thread(target=_read, args=(response, events), daemon=True)
            reading.start()
            try:
                events.wait_for("hello")
                yield events
            finally:
                # Whoever reads a socket does not notice that this side has closed it.
                connection = response.extensions["network_stream"].get_extra_info("socket")
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                reading.join(PATIENCE)

    def _client(self) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)),
            base_url="http://endpoint",
            timeout=PATIENCE,
        )


def _read(response: httpx.Response, events: Events) -> None:
    said: dict[str, str] = {}
    with contextlib.suppress(httpx.TransportError):
        for line in response.iter_lines():
            if line:
                key, _, value = line.partition(": ")
                said[key] = value
            else:
                if "event" in said:
                    events.add(said["event"], _object(said["data"]))
                said = {}
    events.ended = True


def _object(text: str) -> dict[str, Any]:
    value: Mapping[str, Any] = json.loads(text)
    return dict(value)
