"""`make demo`: agents that a coordinator introduces, on the real OpenCode with a scripted model.

It costs nothing, and all of it lies in a temporary folder and ends with the scene. Without OpenCode
two agents are played in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agenthub_adapters.clock import SystemClock
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
from demo.coordination import Count, play
from demo.stage import quote, tell
from testkit.opencode import find_opencode

QUESTION = "What does POST /api/login expect, and what does it answer?"


def play_in_memory() -> None:
    """One agent asks another, without OpenCode."""
    clock, store, relay = SystemClock(), MemoryStore(), MemoryRelay()
    now = clock.now()
    for slug in ("web-agent", "api-agent"):
        relay.open(Session(id=f"ses_{slug}", slug=slug, directory=slug, created=now, updated=now))
    hub = Hub(broker=Broker(), store=store, relay=relay, clock=clock, observers=(_notices,))
    hub.step()
    tell("web-agent", f"→ api-agent: {QUESTION}")
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
    quote(prompt.text)


def _notices(_: Event, actions: Sequence[Action]) -> None:
    for action in actions:
        if isinstance(action, Notify) and action.severity is not Severity.DEBUG:
            tell("agenthub", action.text)


def report(count: Count) -> None:
    """What the scene took, beside what opencode-agent-hub tells of the same one."""
    rows = (
        ("", "here", "opencode-agent-hub"),
        ("messages for the contract, after one introduction", count.contract, "3"),
        ("injections between the agents, in all", count.between_agents, "5-7"),
        ("the coordinator's questions", count.questions, "not told"),
        ("its introductions", count.introductions, "not told"),
        ("what it wrote after them", count.after_introductions, "0"),
        ("injections with the coordinator's, in all", count.injections, "not told"),
        ("model turns, of three agents and the coordinator", count.turns, "not told"),
    )
    print("\nWhat it took\n")
    for name, here, there in rows:
        print(f"  {name:<50}{here:>6}{there:>22}")
    print()


def main() -> None:
    binary = find_opencode()
    print("\nThree agents, and a coordinator that introduces them\n")
    with tempfile.TemporaryDirectory(prefix="agenthub-demo-") as name:
        if binary is None:
            print("  There is no OpenCode here (get npm and call make again): in memory, then.\n")
            play_in_memory()
        else:
            report(play(binary, Path(name)))


if __name__ == "__main__":
    os.umask(0o077)
    main()
