"""A stand-in for OpenCode that answers at once: what remains is the hub's own time.

Speaks as much of OpenCode's HTTP API as the hub uses, from one thread and with nothing stored but
each session's newest prompt. Every prompt's arrival is a line on standard output: the nanosecond of
the machine's monotonic clock, which all processes share, and the mark `bench-N` that the message
carries.

    python -m bench.stand_in PORT SESSIONS
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

_PATH = re.compile(r"/session/(?P<session>[^/?]+)(?:/(?P<rest>[^?]*))?")
_MARK = re.compile(rb"bench-\d+")


class StandIn:
    """Sessions that hold whatever they are given, and have answered it already."""

    def __init__(self, sessions: int) -> None:
        self._held: dict[str, dict[str, object]] = {f"ses_{n:04}": {} for n in range(sessions)}

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self._converse, "127.0.0.1", port)
        print("ready", flush=True)
        async with server:
            await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                arrived = time.monotonic_ns()
                method, target, _ = head.decode().split(" ", 2)
                length = re.search(rb"content-length: (\d+)", head.lower())
                body = await reader.readexactly(int(length[1])) if length else b""
                status, answer = self._answer(method, target, body, arrived)
                content = b"" if answer is None else json.dumps(answer).encode()
                kind = b"content-type: application/json\r\n" if content else b""
                writer.write(
                    b"HTTP/1.1 %d OK\r\n%scontent-length: %d\r\n\r\n%s"
                    % (status, kind, len(content), content)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(
        self, method: str, target: str, body: bytes, arrived: int
    ) -> tuple[int, object | None]:
        path = _PATH.match(target)
        if path is not None and path["session"] in self._held:
            held = self._held[path["session"]]
            if method == "POST":
                return self._take(held, body, arrived)
            return self._look(path["session"], path["rest"], held)
        if target.startswith("/global/health"):
            return 200, {"healthy": True, "version": "stand-in"}
        if target.startswith("/experimental/session"):
            return 200, [self._row(session) for session in self._held]
        return (200, {}) if target.startswith("/session/status") else (404, {})

    def _take(self, held: dict[str, object], body: bytes, arrived: int) -> tuple[int, None]:
        prompt = json.loads(body)
        held.clear()
        held[prompt["messageID"]] = prompt["parts"]
        mark = _MARK.search(body)
        print(arrived, mark[0].decode() if mark else "?", flush=True)
        return 204, None

    def _look(self, session: str, rest: str | None, held: dict[str, object]) -> tuple[int, object]:
        if rest is None:
            return 200, self._row(session)
        if rest == "message":
            return 200, [self._message(message, parts) for message, parts in held.items()]
        message = rest.removeprefix("message/")
        return (200, self._message(message, held[message])) if message in held else (404, {})

    def _row(self, session: str) -> dict[str, object]:
        now = int(time.time() * 1000)
        return {
            "id": session,
            "slug": session.replace("ses_", "agent-"),
            "directory": "/bench",
            "agent": "build",
            "model": {"id": "echo", "providerID": "fake"},
            "time": {"created": now, "updated": now},
        }

    def _message(self, message: str, parts: object) -> dict[str, object]:
        """The model's answer to it, as if it had come at once."""
        now = int(time.time() * 1000)
        answered = {
            "id": f"{message}a",
            "role": "assistant",
            "parentID": message,
            "finish": "stop",
            "time": {"created": now, "completed": now},
        }
        return {"info": answered, "parts": parts}


if __name__ == "__main__":
    asyncio.run(StandIn(int(sys.argv[2])).serve(int(sys.argv[1])))
