"""What the scenes need: the real hub, its commands, and agents that read and write messages.

An agent here is a script that acts as a model would: it knows what stands in the prompts, and
nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

from attrs import frozen

from testkit.opencode import OpenCode
from testkit.scripted_model import Condition, Request, ToolCall

SEND = "agent-hub_send_message"
START_SECONDS = 30  # 2 s on a machine that does nothing else
STOP_SECONDS = 10  # twice what the daemon promises

_MESSAGE = re.compile(
    r'agent-hub: (?:(?:agent )?"(?P<writer>[\w-]+)"(?: \(unverified\))?|the hub) wrote to you, '
    r'"(?P<reader>[\w-]+)"\.\n'
    r"type: \w+ · thread: (?P<thread>[\w-]+).*?"
    r"----- message \w+ -----\n(?P<content>.*?)\n----- end of message",
    re.DOTALL,
)


def tell(who: str, text: str) -> None:
    """One line of the scene."""
    print(f"  {who:>16} │ {text}", flush=True)


def quote(prompt: str) -> None:
    """A prompt as its session reads it."""
    for line in prompt.splitlines():
        tell("", f"  {line}")


@frozen(kw_only=True)
class Heard:
    """The message that an agent has to answer now."""

    writer: str
    """Empty where it is the hub itself."""
    reader: str
    thread: str
    content: str

    @classmethod
    def by(cls, request: Request) -> Self | None:
        found = _MESSAGE.search(request.last_user)
        if found is None:
            return None
        return cls(**{name: text or "" for name, text in found.groupdict().items()})

    def answer(self, content: str, type: str = "context") -> ToolCall:  # noqa: A002
        """Say something to who wrote, in the same thread."""
        return write(self.reader, self.writer, content, type=type, threadId=self.thread)


def hears(content: str, *, writer: str = "") -> Condition:
    """The agent is told something like that, by somebody like that."""

    def holds(request: Request) -> bool:
        heard = Heard.by(request)
        return (
            heard is not None
            and re.search(content, heard.content) is not None
            and re.search(writer, heard.writer) is not None
        )

    return Condition(f"hears({content!r}, writer={writer!r})", holds)


def write(sender: str, recipient: str, content: str, **more: str) -> ToolCall:
    """Say something to another agent, which the audience hears too."""
    tell(sender, f"→ {recipient}: {content}")
    message = {"type": "context", **more, "from": sender, "to": recipient, "content": content}
    return ToolCall(SEND, **message)


def answers(content: str, type: str = "context") -> Callable[[Request], ToolCall]:  # noqa: A002
    """Whoever wrote is told this."""

    def reply(request: Request) -> ToolCall:
        heard = Heard.by(request)
        assert heard is not None, request
        return heard.answer(content, type)

    return reply


def environment(opencode: OpenCode) -> Mapping[str, str]:
    """That of a person whose OpenCode it is."""
    path = f"{opencode.binary.parent}{os.pathsep}{opencode.env['PATH']}"
    return opencode.env | {"PATH": path}


def run_agenthub(opencode: OpenCode, *arguments: str) -> str:
    """Run a command as the person of this HOME; what it says."""
    return subprocess.run(
        [sys.executable, "-m", "agenthub_cli", *arguments],
        env=environment(opencode),
        cwd=opencode.home,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@contextlib.contextmanager
def daemon(opencode: OpenCode, **variables: str) -> Iterator[None]:
    """The hub at work, and what it says on the screen."""
    own = {"OPENCODE_PORT": str(opencode.port), **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "agenthub_cli", "daemon"],
        env={**environment(opencode), **own},
        cwd=opencode.home,
        stderr=subprocess.PIPE,
        text=True,
    )
    watching = threading.Event()
    echo = threading.Thread(target=_echo, args=(process, watching))
    echo.start()
    try:
        assert watching.wait(START_SECONDS), "the hub has not begun"
        yield
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
        echo.join()


def exported(opencode: OpenCode) -> dict[str, float]:
    """What the hub has counted, once it has ended."""
    text = (opencode.home / ".agent-hub" / "metrics.prom").read_text()
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines if not name.endswith("_created")}


def archive(opencode: OpenCode) -> Path:
    return opencode.home / ".agent-hub" / "messages" / "archive"


def _echo(process: subprocess.Popen[str], watching: threading.Event) -> None:
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            tell("agenthub", line.rstrip())
            if "watching" in line:
                watching.set()
