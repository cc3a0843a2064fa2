"""Windows of their own, each an endpoint: what their users see, and what becomes of each message.

Real OpenCode with the plugin, windows in tmux, the real daemon. The directories here have short
names, for a socket's path may have no more than 103 bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.daemon import Daemon
from testkit.opencode import OpenCode, make_project, said
from testkit.scripted_model import (
    Held,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    in_session,
    last_user,
)
from testkit.waiting import eventually
from testkit.window import Window

BURST = 100
TRIES = int(os.environ.get("AGENTHUB_TRIES", "8"))
"""How often a busy window is written to; 50 were seen to go well."""
WINDOWS = int(os.environ.get("AGENTHUB_WINDOWS", "3"))
"""How many are open at once; 20 were seen to go well, and want 15 GB."""

HUB_TOOLS = {
    "agent-hub": {"type": "local", "command": [sys.executable, "-m", "agenthub_cli", "mcp"]}
}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w-") as home:
        yield Path(home).resolve()


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture(scope="module")
def server(opencode_binary: Path, home: Path, model: ScriptedModel) -> Iterator[OpenCode]:
    settings = {"mcp": HUB_TOOLS, "permission": {"bash": "allow"}}
    opencode = OpenCode(opencode_binary, home, model.url, settings=settings, plugin=True)
    with opencode:
        yield opencode


@pytest.fixture
def opencode(server: OpenCode, model: ScriptedModel) -> Iterator[OpenCode]:
    """The server that the hub uses, beside the windows."""
    yield server
    model.reset()


@pytest.fixture
def hub(opencode: OpenCode) -> Iterator[Daemon]:
    with Daemon(opencode.env | {"OPENCODE_PORT": str(opencode.port)}) as hub:
        yield hub


@pytest.fixture
def directory(home: Path) -> Iterator[Callable[[], Path]]:
    """A new project each time."""
    count = len([*home.glob("p*")])

    def make() -> Path:
        nonlocal count
        count += 1
        return make_project(home / f"p{count}")

    yield make


def open_at(window: Window, hub: Daemon) -> dict[str, Any]:
    """The window's session, once it is an agent that was told so, and its window idle."""
    window.wait_for_text("Ask anything")
    say(window, "hello")
    session = window.session()
    hub.wait_for(
        "agent.oriented", agent=hub.wait_for("agent.registered", session=session["id"])["agent"]
    )
    return session


def say(window: Window, text: str) -> None:
    window.type(text)
    eventually(lambda: text in window.screen())
    window.press("Enter")


def name_of(hub: Daemon, session: dict[str, Any]) -> str:
    return str(hub.wait_for("agent.registered", session=session["id"])["agent"])


def texts(opencode: OpenCode, session_id: str, pattern: str = ".") -> list[str]:
    """What was said in a session that fits, by whomever, in order."""
    found = (re.search(pattern, said(message)) for message in opencode.messages(session_id))
    return [match.group() for match in found if match]


def held_once(opencode: OpenCode, session_id: str, content: str) -> bool:
    """Whether the session holds the message, and no second time."""
    users = [each for each in opencode.messages(session_id) if each["info"]["role"] == "user"]
    return sum(content in said(each) for each in users) == 1


def endpoints(hub: Daemon) -> list[Path]:
    return [*(hub.directory / "run").glob("*.sock")]


# ----------------------------------------------------------------------------- what is shown


def test_a_message_shows_in_the_window_as_it_arrives_and_a_draft_is_kept(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        window.type("half a thought")
        window.wait_for_text("half a thought")

        hub.send("shown", sender="writer", to=name_of(hub, session), content="Look at me.")

        window.wait_for_text("Look at me.")
        hub.outcome("shown")
        assert "half a thought" in window.screen()
        window.press("Enter")
        eventually(lambda: texts(opencode, session["id"], "half a thought"))


def test_a_burst_arrives_whole_once_and_in_order(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        name = name_of(hub, session)
        began = time.monotonic()
        for number in range(BURST):
            hub.send(f"burst-{number:03}", sender="writer", to=name, content=f"burst {number:03}")
        hub.wait_for("message.delivered", count=BURST)
        print(f"{BURST / (time.monotonic() - began):.0f} a second")  # pytest -s shows it
        expected = [f"burst {number:03}" for number in range(BURST)]
        assert texts(opencode, session["id"], r"burst \d+") == expected


def test_after_new_a_message_still_reaches_its_agent_and_the_window_says_so(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        say(window, "/new")
        window.wait_for_text("Ask anything")

        hub.send("behind", sender="writer", to=name_of(hub, session), content="Behind the scenes.")

        window.wait_for_text("A message came to")
        hub.outcome("behind")
        assert held_once(opencode, session["id"], "Behind the scenes.")
        assert "Behind the scenes." not in window.screen()


def test_a_busy_window_goes_on_with_its_turn_and_answers_the_message_next(
    opencode: OpenCode,
    hub: Daemon,
    model: ScriptedModel,
    directory: Callable[[], Path],
    tmux: None,
) -> None:
    del tmux
    busy = [ToolCall("bash", command="sleep 0.3", description="wait"), Text("the work is done")]
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        name = name_of(hub, session)
        for number in range(TRIES):
            model.add(Rule(last_user(f"work {number}"), busy))
            model.add(Rule(last_user(f"news {number}"), Text(f"heard {number}")))
            say(window, f"work {number}")
            model.wait_for(last_user(f"work {number}"))

            hub.send(f"n{number}", sender="writer", to=name, content=f"news {number}")

            hub.outcome(f"n{number}")
            eventually(lambda n=number: texts(opencode, session["id"], f"heard {n}"))
        said_there = texts(opencode, session["id"], r"work \d+|the work is done|news \d+|heard \d+")
        for number in range(TRIES):
            assert said_there[4 * number : 4 * number + 4] in (
                [f"work {number}", "the work is done", f"news {number}", f"heard {number}"],
                [f"work {number}", f"news {number}", "the work is done", f"heard {number}"],
            )
        assert hub.said("turn.resumed") == []


# ------------------------------------------------------------------------------------ manners


def test_while_a_session_asks_its_user_messages_wait_and_come_right_after(
    opencode: OpenCode,
    hub: Daemon,
    model: ScriptedModel,
    directory: Callable[[], Path],
    tmux: None,
) -> None:
    del tmux
    question = {
        "question": "Which one?",
        "header": "Choice",
        "options": [{"label": "left", "description": "L"}, {"label": "right", "description": "R"}],
    }
    model.add(
        Rule(last_user("choose"), [ToolCall("question", questions=[question]), Text("chosen")])
    )
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        say(window, "choose")
        window.wait_for_text("Which one?")

        hub.send("later", sender="writer", to=name_of(hub, session), content="Not in between.")
        trouble = hub.wait_for("session.trouble")

        assert "waiting" in trouble["text"]
        assert not texts(opencode, session["id"], "Not in between")
        assert "Not in between." not in window.screen()
        window.press("Enter")
        window.wait_for_text("Not in between.")
        hub.outcome("later")
        assert held_once(opencode, session["id"], "Not in between.")


def test_esc_neither_loses_nor_repeats_a_queued_message(
    opencode: OpenCode,
    hub: Daemon,
    model: ScriptedModel,
    directory: Callable[[], Path],
    tmux: None,
) -> None:
    del tmux
    held = Held(Text("too late"))
    model.add(
        Rule(last_user("long work"), held, times=1),
        Rule(last_user("Are you there"), Text("I am here")),
    )
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        say(window, "long work")
        model.wait_for(last_user("long work"))
        hub.send("queued", sender="writer", to=name_of(hub, session), content="Are you there?")
        hub.outcome("queued")
        window.wait_for_text("QUEUED")

        window.press("Escape")
        window.press("Escape")
        held.release()

        eventually(lambda: texts(opencode, session["id"], "I am here"))
        assert held_once(opencode, session["id"], "Are you there?")
        opencode.wait_for_idle(session["id"])
        assert texts(opencode, session["id"], "I am here") == ["I am here"]


def test_after_a_compaction_the_agent_is_told_again_who_it_is(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        name = name_of(hub, session)
        say(window, "/compact")
        hub.wait_for("agent.oriented", agent=name, count=2)
        told = texts(opencode, session["id"], f'known to the other agents.*\n.*"{name}"')
        assert len(told) == 2


# ------------------------------------------------------------------------------------- owners


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_message_for_a_window_that_was_killed_arrives_once(
    when: str,
    opencode: OpenCode,
    hub: Daemon,
    model: ScriptedModel,
    directory: Callable[[], Path],
    tmux: None,
) -> None:
    del tmux
    held = Held(Text("nobody reads this"))
    model.add(Rule(last_user("work until"), held, times=1))
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        if when == "busy":
            say(window, "work until you are killed")
            model.wait_for(last_user("work until"))
        window.kill()
    held.release()

    hub.send("after", sender="writer", to=name_of(hub, session), content="After the end.")

    assert hub.outcome("after")["agenthub"]["outcome"] == "delivered"
    opencode.wait_for_idle(session["id"])
    assert held_once(opencode, session["id"], "After the end.")
    assert len(endpoints(hub)) == 1  # the server's own: the other was swept


def test_a_window_that_is_killed_with_a_message_in_its_hands_loses_none(
    opencode: OpenCode,
    hub: Daemon,
    model: ScriptedModel,
    directory: Callable[[], Path],
    tmux: None,
) -> None:
    del tmux
    held = Held(Text("nobody reads this"))
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        model.add(Rule(last_user("Take this"), held, times=1))
        hub.send("taken", sender="writer", to=name_of(hub, session), content="Take this.")
        hub.outcome("taken")
        model.wait_for(last_user("Take this"))
        window.kill()
    held.release()
    hub.wait_for("turn.resumed")
    opencode.wait_for_idle(session["id"])
    assert held_once(opencode, session["id"], "Take this.")


def test_a_session_in_two_windows_belongs_to_the_one_that_used_it_last(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    project = directory()
    with Window(opencode, project) as first:
        session = open_at(first, hub)
        name = name_of(hub, session)
        with Window(opencode, project, "--session", session["id"]) as second:
            second.wait_for_text("hello")
            say(second, "I am here now")
            opencode.wait_for_idle(session["id"])
            hub.send("two", sender="writer", to=name, content="To the second.")
            second.wait_for_text("To the second.")
            opencode.wait_for_idle(session["id"])

            say(first, "and now I am here")
            opencode.wait_for_idle(session["id"])
            hub.send("one", sender="writer", to=name, content="To the first.")
            first.wait_for_text("To the first.")
            assert "To the first." not in second.screen()
        hub.send("left", sender="writer", to=name, content="Still here.")
        first.wait_for_text("Still here.")
    for content in ("To the second.", "To the first.", "Still here."):
        assert held_once(opencode, session["id"], content)


def test_a_window_that_is_closed_hands_its_session_to_the_server(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        socket = next(path for path in endpoints(hub) if path.stem == str(window.pid))
        window.press("C-c")
        eventually(lambda: not socket.exists())
    hub.send("on", sender="writer", to=name_of(hub, session), content="Go on without it.")
    hub.outcome("on")
    opencode.wait_for_idle(session["id"])
    assert held_once(opencode, session["id"], "Go on without it.")


def test_every_one_of_many_windows_shows_its_own_messages_also_after_the_hub_was_restarted(
    opencode: OpenCode, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    env = opencode.env | {"OPENCODE_PORT": str(opencode.port)}
    with contextlib.ExitStack() as stack:
        with Daemon(env) as hub:
            windows = {}
            for _ in range(WINDOWS):
                window = stack.enter_context(Window(opencode, directory()))
                windows[name_of(hub, open_at(window, hub))] = window
            for name, window in windows.items():
                hub.send(f"a-{name}", sender="writer", to=name, content=f"first for {name}")
            for name, window in windows.items():
                window.wait_for_text(f"first for {name}")
            for name in windows:
                opencode.wait_for_idle(hub.wait_for("agent.registered", agent=name)["session"])
            hub.stop()
        with Daemon(env) as again:
            for name in windows:
                again.send(f"b-{name}", sender="writer", to=name, content=f"second for {name}")
            for name, window in windows.items():
                window.wait_for_text(f"second for {name}")
                again.outcome(f"b-{name}")
            assert again.said("agent.oriented") == []
            assert {line["to"] for line in again.said("message.delivered")} == set(windows)


# ----------------------------------------------------------------------------------- identity


def test_a_model_that_forges_its_name_writes_under_its_own(
    opencode: OpenCode,
    hub: Daemon,
    model: ScriptedModel,
    directory: Callable[[], Path],
    tmux: None,
) -> None:
    del tmux
    with Window(opencode, directory()) as window, Window(opencode, directory()) as other:
        session = open_at(window, hub)
        reader = open_at(other, hub)
        forged = {"from": name_of(hub, reader), "to": "human", "type": "context"}
        model.add(
            Rule(
                last_user("pretend"),
                [
                    ToolCall("agent-hub_send_message", **forged, content="I am somebody else."),
                    Text("ok"),
                ],
            ),
            Rule(
                last_user("write to the other"),
                [
                    ToolCall(
                        "agent-hub_send_message",
                        **{"from": "nobody", "to": name_of(hub, reader), "type": "context"},
                        content="It is me.",
                    ),
                    Text("ok"),
                ],
            ),
        )
        say(window, "pretend to be somebody else")
        line = hub.wait_for("message.delivered", to="human")
        assert line["from"] == name_of(hub, session)

        say(window, "write to the other window")
        other.wait_for_text("It is me.")
        shown = other.screen()
        assert f'agent "{name_of(hub, session)}" wrote to you' in shown
        assert "unverified" not in shown

        hub.send("file", sender=name_of(hub, session), to=name_of(hub, reader), content="By file.")
        other.wait_for_text("By file.")
        assert "(unverified)" in other.screen()


# ------------------------------------------------------------------------------------ metering


def test_what_an_agent_works_is_told_by_what_caused_it(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path], tmux: None
) -> None:
    del tmux
    with Window(opencode, directory()) as window:
        session = open_at(window, hub)
        name = name_of(hub, session)
        hub.send("why", sender="writer", to=name, content="Work, please.")
        ended = hub.wait_for("turn.ended", agent=name, cause="message")
        assert ended["input"] > 0
        assert 0 < ended["seconds"] < 30
        assert len([each for each in hub.said("turn.ended") if each["cause"] == "user"]) == 1
        assert hub.stop() == 0
    figures = (hub.directory / "metrics.prom").read_text()
    assert f'agent_hub_agent_turns_total{{agent="{name}",cause="message"}} 1.0' in figures


def test_sessions_of_the_server_are_told_of_by_its_own_endpoint(
    opencode: OpenCode, hub: Daemon, directory: Callable[[], Path]
) -> None:
    session = opencode.create_session(directory())
    hub.wait_for("agent.registered", session=session["id"])
    hub.send("s", sender="writer", to=session["slug"], content="In the server.")
    ended = hub.wait_for("turn.ended", agent=session["slug"])
    assert ended["cause"] == "message"
    assert held_once(opencode, session["id"], "In the server.")
    assert in_session(session["id"])
