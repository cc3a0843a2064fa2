"""The real `agenthub daemon`, as a process of its own, and what it says.

    with Daemon(opencode.env | {"OPENCODE_PORT": str(opencode.port)}) as hub:
        hub.send("hello", sender="a", to="b", content="hi")
        hub.wait_for("message.delivered")

What it is connected to, and what it should do, is left to the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from testkit.waiting import PATIENCE, eventually

# The daemon promises 5 s; a loaded machine may need some more to reap it.
STOP_TIMEOUT = 10.0

LONG_AGO = 1_500_000_000_000
"""Milliseconds since 1970: before there was OpenCode."""


class Daemon:
    """One hub directory, and the daemon on it: `start`, `stop`, `kill`, as often as you like."""

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        command: Sequence[str] = ("-m", "agenthub_cli", "daemon"),
        new: bool = False,
    ) -> None:
        """`new`: no hub was here before, so that it leaves alone the sessions there are."""
        # most tests are about what the daemon does once it runs, and with the agents alone: the
        # preflight would take a second each, the coordinator ask every agent a question
        unless_wanted = {"AGENT_HUB_PREFLIGHT": "false", "AGENT_HUB_COORDINATOR": "false"}
        self.env = unless_wanted | dict(env)
        self.directory = Path(env.get("AGENT_HUB_DIR", f"{env['HOME']}/.agent-hub"))
        self.messages = self.directory / "messages"
        self.archive = self.messages / "archive"
        self.lines: list[dict[str, Any]] = []
        if not new:
            self._has_been_here_for_long()
        self._command = command
        self._said = threading.Condition()
        self._ended = False
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def _has_been_here_for_long(self) -> None:
        path = self.directory / "hub.json"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"began": LONG_AGO}))

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the daemon does not run")
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it watches its directory."""
        before = len(self.lines)
        self._ended = False
        self._process = subprocess.Popen(
            [sys.executable, *self._command, "--json-logs", "--log-level", "DEBUG"],
            env=self.env,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,))
        self._reader.start()
        self.wait_for("daemon.watching", after=before)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        assert self._process is not None
        assert self._reader is not None
        status = self._process.wait(STOP_TIMEOUT)
        self._reader.join()
        return status

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.lines:
            print("the daemon said:", *self.lines, sep="\n")  # pytest shows it beside a failure
        if self._process is not None and self._process.poll() is None:
            self.kill()
            self._end_its_server()

    def _end_its_server(self) -> None:
        """The OpenCode server that it has started, and which the next hub would have taken over."""
        record = self.directory / "server.json"
        if record.exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(json.loads(record.read_text())["pid"], signal.SIGKILL)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for text in process.stderr:
                try:
                    line = json.loads(text)
                except ValueError:
                    line = {"topic": "no log line", "text": text.rstrip()}
                with self._said:
                    self.lines.append(line)
                    self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()

    # --- what it says -----------------------------------------------------------------------------

    def said(self, topic: str) -> list[dict[str, Any]]:
        """Its log lines on a topic, in order."""
        return [line for line in self.lines if line["topic"] == topic]

    def wait_for(
        self, topic: str, count: int = 1, *, after: int = 0, **fields: object
    ) -> dict[str, Any]:
        """Its log line number `count` on a topic with these fields, once it has said that."""

        def matching() -> list[dict[str, Any]]:
            return [
                line
                for line in self.lines[after:]
                if line["topic"] == topic and fields.items() <= line.items()
            ]

        with self._said:
            self._said.wait_for(lambda: len(matching()) >= count or self._ended, PATIENCE)
            found = matching()
        if len(found) < count:
            log = "\n".join(str(line) for line in self.lines)
            raise AssertionError(f"the daemon did not say {topic} {count} times:\n{log}")
        return found[count - 1]

    # --- its directory ----------------------------------------------------------------------------

    def send(self, name: str, *, sender: str, to: str, content: str, **keys: object) -> None:
        """Write a message as agents do: in place."""
        message = {"from": sender, "to": to, "type": "context", "content": content, **keys}
        (self.messages / f"{name}.json").write_text(json.dumps(message))

    def outcome(self, name: str) -> dict[str, Any]:
        """The archived message, once it is there."""
        path = self.archive / f"{name}.json"
        eventually(path.exists)
        document: dict[str, Any] = json.loads(path.read_text())
        return document

    def waiting(self) -> list[str]:
        """The files that are not settled."""
        return sorted(path.name for path in self.messages.glob("*.json"))
