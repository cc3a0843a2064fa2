"""Two agents in two projects: one asks with its tool, the hub wakes the other, which answers.

On the real OpenCode with a scripted model, so that it costs nothing; without OpenCode the same
scene is played in memory. All of it lies in a temporary folder and ends with the scene.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agenthub_adapters.clock import SystemClock
from agenthub_adapters.metrics import Metrics
from agenthub_core import (
    Action,
    Broker,
    Event,
    Hub,
    Message,
    MessageType,
    Notify,
    Session,
    Severity,
)
from agenthub_core.testing import MemoryRelay, MemoryStore
from testkit.opencode import OpenCode, find_opencode, make_project, said
from testkit.scripted_model import (
    Request,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    after_tool,
    in_directory,
    last_user,
)
from testkit.waiting import eventually

SEND = "agent-hub_send_message"
TASK = "Build the login form."
QUESTION = "What does POST /api/login expect, and what does it answer?"
ANSWER = "It takes {email, password} and answers 200 {token}, or 401 {error}."
START_SECONDS = 30  # 2 s on a machine that does nothing else
STOP_SECONDS = 10  # twice what the daemon promises


def tell(who: str, text: str) -> None:
    """One line of the scene."""
    print(f"  {who:>14} │ {text}", flush=True)


def _quote(prompt: str) -> None:
    for line in prompt.splitlines():
        tell("", f"  {line}")


def play_on_opencode(binary: Path, folder: Path) -> dict[str, float]:
    """The scene on the real OpenCode; what the hub counted."""
    web, api = make_project(folder / "web"), make_project(folder / "api")
    home = folder / "home"
    with ScriptedModel() as model:
        opencode = OpenCode(binary, home, model.url)
        tell("agenthub", "setup gives the agents in OpenCode their tools")
        run_agenthub(opencode, "setup", "--yes")
        tell("OpenCode", "starting, with a scripted model")
        with opencode, _daemon(opencode):
            asking, answering = (opencode.create_session(project) for project in (web, api))
            for session in (asking, answering):
                eventually((home / f".agent-hub/agents/{session['slug']}.json").exists)
            asks = ToolCall(
                SEND,
                **{
                    "from": asking["slug"],
                    "to": answering["slug"],
                    "type": "question",
                    "content": QUESTION,
                },
            )
            model.add(
                Rule(in_directory(api), [answer_by_tool(ANSWER), Text("Answered.")]),
                Rule(in_directory(web) & last_user(TASK), [asks, Text("I have asked.")]),
                Rule(in_directory(web), Text(f"Understood: {ANSWER}")),
            )
            tell("you", f"(to {asking['slug']}, in web) {TASK}")
            opencode.prompt(asking["id"], TASK)
            request = model.wait_for(in_directory(api))
            tell(asking["slug"], f"calls {SEND}: {QUESTION}")
            tell(answering["slug"], "(in api) is awake; its model reads:")
            _quote(request.last_user)
            model.wait_for(in_directory(api) & after_tool(SEND))
            tell(answering["slug"], f"calls {SEND}: {ANSWER}")
            model.wait_for(in_directory(web) & last_user(re.escape(ANSWER)))
            opencode.wait_for_idle(asking["id"])
            tell(asking["slug"], said(opencode.messages(asking["id"])[-1]))
            eventually(lambda: _settled(home) == 2)
            for line in run_agenthub(opencode, "status").splitlines():
                tell("agenthub", line)
        return _exported(home / ".agent-hub" / "metrics.prom")


def answer_by_tool(content: str) -> Callable[[Request], ToolCall]:
    """The answering agent does what the message says is the way to answer."""

    def reply(request: Request) -> ToolCall:
        own, other, thread = re.findall(
            r'from "([\w-]+)", to "([\w-]+)",\s+threadId "([\w-]+)"', request.last_user
        )[0]
        told = {"type": "context", "threadId": thread, "content": content}
        return ToolCall(SEND, **{"from": own, "to": other, **told})

    return reply


def _settled(home: Path) -> int:
    return len(list((home / ".agent-hub/messages/archive").iterdir()))


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
def _daemon(opencode: OpenCode) -> Iterator[None]:
    """The hub at work, and what it says on the screen."""
    daemon = subprocess.Popen(
        [sys.executable, "-m", "agenthub_cli", "daemon"],
        env=environment(opencode) | {"OPENCODE_PORT": str(opencode.port)},
        cwd=opencode.home,
        stderr=subprocess.PIPE,
        text=True,
    )
    watching = threading.Event()
    echo = threading.Thread(target=_echo, args=(daemon, watching))
    echo.start()
    try:
        assert watching.wait(START_SECONDS), "the hub has not begun"
        yield
    finally:
        daemon.terminate()
        daemon.wait(STOP_SECONDS)
        echo.join()


def environment(opencode: OpenCode) -> dict[str, str]:
    """That of everything which the person of this HOME starts."""
    path = f"{opencode.binary.parent}{os.pathsep}{opencode.env['PATH']}"
    return opencode.env | {"PATH": path, "AGENT_HUB_SESSION_POLL": "1"}


def play_in_memory() -> dict[str, float]:
    """The same scene without OpenCode; what the hub counted."""
    clock, store, relay, metrics = SystemClock(), MemoryStore(), MemoryRelay(), Metrics()
    now = clock.now()
    for slug in ("web-agent", "api-agent"):
        relay.open(Session(id=f"ses_{slug}", slug=slug, directory=slug, created=now, updated=now))
    hub = Hub(broker=Broker(), store=store, relay=relay, clock=clock, observers=(_notices, metrics))
    hub.step()
    tell("web-agent", QUESTION)
    message = Message(
        id="login",
        sender="web-agent",
        recipient="api-agent",
        type=MessageType.QUESTION,
        content=QUESTION,
        thread_id="login",
        timestamp=clock.now(),
    )
    hub.hint(store.put(message))
    hub.step()
    (prompt,) = relay.held("ses_api-agent")
    tell("api-agent", "is awake; its model reads:")
    _quote(prompt.text)
    return metrics.totals()


def _echo(daemon: subprocess.Popen[str], watching: threading.Event) -> None:
    assert daemon.stderr is not None
    with daemon.stderr:
        for line in daemon.stderr:
            tell("agenthub", line.rstrip())
            if "watching" in line:
                watching.set()


def _notices(_: Event, actions: Sequence[Action]) -> None:
    for action in actions:
        if isinstance(action, Notify) and action.severity is not Severity.DEBUG:
            tell("agenthub", action.text)


def _exported(path: Path) -> dict[str, float]:
    lines = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines if not name.endswith("_created")}


def main() -> None:
    binary = find_opencode()
    print("\nTwo agents, one hub\n")
    with tempfile.TemporaryDirectory(prefix="agenthub-demo-") as name:
        if binary is None:
            print("  There is no OpenCode here (get npm and call make again): in memory, then.\n")
            counted = play_in_memory()
        else:
            counted = play_on_opencode(binary, Path(name))
    print("\nWhat the hub counted\n")
    for metric, value in counted.items():
        print(f"  {metric:<42}{value:g}")
    print()


if __name__ == "__main__":
    os.umask(0o077)
    main()
