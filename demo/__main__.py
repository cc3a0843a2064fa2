"""Two agents in two projects: one asks, the hub wakes the other, and its model answers.

On the real OpenCode with a scripted model, so that it costs nothing; without OpenCode the same
scene is played in memory. All of it lies in a temporary folder and ends with the scene.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
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
from testkit.scripted_model import Rule, ScriptedModel, Text, in_directory
from testkit.waiting import eventually

QUESTION = "What does POST /api/login expect, and what does it answer?"
ANSWER = "It takes {email, password} and answers 200 {token}, or 401 {error}."
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
    rules = [Rule(in_directory(api), Text(ANSWER))]
    tell("OpenCode", "starting, with a scripted model")
    with (
        ScriptedModel(rules) as model,
        OpenCode(binary, folder / "home", model.url) as opencode,
    ):
        asking, answering = (opencode.create_session(project) for project in (web, api))
        hub_folder = folder / "home" / ".agent-hub"
        daemon = subprocess.Popen(
            [sys.executable, "-m", "agenthub_cli", "daemon"],
            env=opencode.env | {"OPENCODE_PORT": str(opencode.port)},
            stderr=subprocess.PIPE,
            text=True,
        )
        echo = threading.Thread(target=_echo, args=(daemon,))
        echo.start()
        try:
            eventually((hub_folder / "agents" / f"{answering['slug']}.json").exists)
            message = {
                "from": asking["slug"],
                "to": answering["slug"],
                "type": "question",
                "content": QUESTION,
            }
            tell(asking["slug"], f"(in web) {QUESTION}")
            (hub_folder / "messages" / "login.json").write_text(json.dumps(message))
            request = model.wait_for(in_directory(api))
            tell(answering["slug"], "(in api) is awake; its model reads:")
            _quote(request.last_user)
            opencode.wait_for_idle(answering["id"])
            tell(answering["slug"], said(opencode.messages(answering["id"])[-1]))
            eventually((hub_folder / "messages" / "archive" / "login.json").exists)
        finally:
            daemon.terminate()
            daemon.wait(STOP_SECONDS)
            echo.join()
        return _exported(hub_folder / "metrics.prom")


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


def _echo(daemon: subprocess.Popen[str]) -> None:
    assert daemon.stderr is not None
    with daemon.stderr:
        for line in daemon.stderr:
            tell("agenthub", line.rstrip())


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
