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
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import field, frozen

from testkit.daemon import Daemon
from testkit.opencode import OpenCode, make_project, said
from testkit.scripted_model import (
    Held,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    conversation,
    last_user,
)
from testkit.waiting import eventually
from testkit.window import Window

BURST = 100
TRIES = int(os.environ.get("AGENTHUB_TRIES", "5"))
"""How often a busy window is written to; 50 were seen to go well."""
WINDOWS = int(os.environ.get("AGENTHUB_WINDOWS", "2"))
"""How many are open at once; 20 were seen to go well, and want 15 GB."""

COMMAND = [sys.executable, "-m", "agenthub_cli", "mcp"]
SETTINGS = {
    "mcp": {"agent-hub": {"type": "local", "command": COMMAND}},
    "permission": {"bash": "allow"},
}


@frozen(kw_only=True)
class Agent:
    """A window whose session is an agent."""

    window: Window
    session_id: str
    name: str

    def says(self, text: str) -> None:
        """Its user does."""
        self.window.type(text)
        eventually(lambda: text in self.window.screen())
        self.window.press("Enter")


@frozen(kw_only=True)
class Place:
    """A machine with OpenCode, a hub, and windows that close with the test."""

    home: Path
    opencode: OpenCode
    model: ScriptedModel
    hub: Daemon
    _stack: contextlib.ExitStack = field(alias="stack")

    def project(self) -> Path:
        return make_project(Path(tempfile.mkdtemp(dir=self.home, prefix="p")) / "p")

    def window(self, directory: Path | None = None, *arguments: str) -> Window:
        return self._stack.enter_context(
            Window(self.opencode, directory or self.project(), *arguments)
        )

    def agent(self, hub: Daemon | None = None) -> Agent:
        """One who was told who it is, and whose window is idle by then."""
        hub = hub or self.hub
        window = self.window()
        window.wait_for_text("Ask anything")
        window.type("hello")
        window.press("Enter")
        session_id = window.session()["id"]
        name = hub.wait_for("agent.registered", session=session_id)["agent"]
        hub.wait_for("agent.oriented", agent=name)
        return Agent(window=window, session_id=session_id, name=name)

    def write(self, message: str, agent: Agent, content: str) -> None:
        self.hub.send(message, sender="writer", to=agent.name, content=content)

    def texts(self, agent: Agent, pattern: str) -> list[str]:
        """What was said in a session that fits, by whomever, in order."""
        messages = self.opencode.messages(agent.session_id)
        found = (re.search(pattern, said(message)) for message in messages)
        return [match.group() for match in found if match]

    def times_held(self, agent: Agent, content: str) -> int:
        messages = self.opencode.messages(agent.session_id)
        return sum(each["info"]["role"] == "user" and content in said(each) for each in messages)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w-") as home:
        yield Path(home).resolve()


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture(scope="module")
def opencode(opencode_binary: Path, home: Path, model: ScriptedModel) -> Iterator[OpenCode]:
    with OpenCode(opencode_binary, home, model.url, settings=SETTINGS, plugin=True) as opencode:
        yield opencode


@pytest.fixture
def env(opencode: OpenCode) -> dict[str, str]:
    return opencode.env | {"OPENCODE_PORT": str(opencode.port)}


@pytest.fixture
def place(
    home: Path, opencode: OpenCode, model: ScriptedModel, env: dict[str, str], tmux: None
) -> Iterator[Place]:
    del tmux
    with Daemon(env) as hub, contextlib.ExitStack() as stack:
        yield Place(home=home, opencode=opencode, model=model, hub=hub, stack=stack)
    model.reset()


# ------------------------------------------------------------------------------ what is shown


def test_a_message_shows_in_the_window_as_it_arrives_and_a_draft_is_kept(place: Place) -> None:
    agent = place.agent()
    agent.window.type("half a thought")
    agent.window.wait_for_text("half a thought")

    place.write("shown", agent, "Look at me.")

    agent.window.wait_for_text("Look at me.")
    place.hub.outcome("shown")
    assert "half a thought" in agent.window.screen()
    agent.window.press("Enter")
    eventually(lambda: place.texts(agent, "half a thought"))


def test_a_burst_arrives_whole_once_and_in_order(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = place.agent()
    began = time.monotonic()
    for number in range(BURST):
        place.write(f"burst-{number:03}", agent, f"burst {number:03}")
    place.hub.wait_for("message.delivered", count=BURST)
    with capsys.disabled():
        print(f" {BURST / (time.monotonic() - began):.0f} messages a second ", end="")
    assert place.texts(agent, r"burst \d+") == [f"burst {number:03}" for number in range(BURST)]


def test_after_new_a_message_still_reaches_its_agent_and_the_window_says_so(place: Place) -> None:
    agent = place.agent()
    agent.says("/new")
    agent.window.wait_for_text("Ask anything")

    place.write("behind", agent, "Behind the scenes.")

    agent.window.wait_for_text("A message came to")
    place.hub.outcome("behind")
    assert place.times_held(agent, "Behind the scenes.") == 1
    assert "Behind the scenes." not in agent.window.screen()


def test_a_busy_window_goes_on_with_its_turn_and_answers_the_message_next(place: Place) -> None:
    agent = place.agent()
    for number in range(TRIES):
        work = ToolCall("bash", command=f"sleep 0.3; echo worked {number}", description="work")
        place.model.add(
            Rule(last_user(rf"work {number}\b"), [work, Text(f"did {number}")]),
            Rule(last_user(rf"news {number}\b"), Text(f"heard {number}")),
        )
        agent.says(f"work {number}")
        place.model.wait_for(last_user(rf"work {number}\b"))

        place.write(f"n{number}", agent, f"news {number}")

        place.hub.outcome(f"n{number}")
        # its tool has come to its end, and the model reads both
        place.model.wait_for(last_user(rf"news {number}\b") & conversation(rf"worked {number}\b"))
        place.opencode.wait_for_idle(agent.session_id)
    heard = place.texts(agent, r"heard \d+")
    assert heard == [f"heard {number}" for number in range(TRIES)]
    resumed = [line["agent"] for line in place.hub.said("turn.resumed")]
    assert agent.name not in resumed


# ------------------------------------------------------------------------------------ manners


def test_while_a_session_asks_its_user_messages_wait_and_come_right_after(place: Place) -> None:
    options = [{"label": "left", "description": "L"}, {"label": "right", "description": "R"}]
    question = {"question": "Which one?", "header": "Choice", "options": options}
    asks = ToolCall("question", questions=[question])
    place.model.add(Rule(last_user("choose"), [asks, Text("chosen")]))
    agent = place.agent()
    agent.says("choose")
    agent.window.wait_for_text("Which one?")

    place.write("later", agent, "Not in between.")

    assert "waiting" in place.hub.wait_for("session.trouble")["text"]
    assert place.times_held(agent, "Not in between.") == 0
    assert "Not in between." not in agent.window.screen()
    agent.window.press("Enter")
    agent.window.wait_for_text("Not in between.")
    place.hub.outcome("later")
    assert place.times_held(agent, "Not in between.") == 1


def test_esc_neither_loses_nor_repeats_a_queued_message(place: Place) -> None:
    held = Held(Text("too late"))
    place.model.add(
        Rule(last_user("long work"), held, times=1),
        Rule(last_user("Are you there"), Text("I am here")),
    )
    agent = place.agent()
    agent.says("long work")
    place.model.wait_for(last_user("long work"))
    place.write("queued", agent, "Are you there?")
    place.hub.outcome("queued")
    agent.window.wait_for_text("QUEUED")

    agent.window.press("Escape")
    agent.window.press("Escape")
    held.release()

    agent.window.wait_for_text("I am here")
    place.opencode.wait_for_idle(agent.session_id)
    assert place.times_held(agent, "Are you there?") == 1
    assert place.texts(agent, "I am here") == ["I am here"]


def test_after_a_compaction_the_agent_is_told_again_who_it_is(place: Place) -> None:
    agent = place.agent()
    agent.says("/compact")
    place.hub.wait_for("agent.oriented", agent=agent.name, count=2)
    assert len(place.texts(agent, f'known to the other agents.*\n.*"{agent.name}"')) == 2


# ------------------------------------------------------------------------------------- owners


@pytest.mark.parametrize("busy", [False, True])
def test_a_message_for_a_window_that_was_killed_arrives_once(place: Place, busy: bool) -> None:
    held = Held(Text("nobody reads this"))
    place.model.add(Rule(last_user("work until"), held, times=1))
    agent = place.agent()
    if busy:
        agent.says("work until you are killed")
        place.model.wait_for(last_user("work until"))
    agent.window.kill()
    held.release()

    place.write("after", agent, "After the end.")

    assert place.hub.outcome("after")["agenthub"]["outcome"] == "delivered"
    place.opencode.wait_for_idle(agent.session_id)
    assert place.times_held(agent, "After the end.") == 1
    socket = place.hub.directory / "run" / f"{agent.window.pid}.sock"
    eventually(lambda: not socket.exists())


def test_a_window_that_is_killed_with_a_message_in_its_hands_loses_none(place: Place) -> None:
    held = Held(Text("nobody reads this"))
    agent = place.agent()
    place.model.add(Rule(last_user("Take this"), held, times=1))
    place.write("taken", agent, "Take this.")
    place.hub.outcome("taken")
    place.model.wait_for(last_user("Take this"))

    agent.window.kill()
    held.release()

    place.hub.wait_for("turn.resumed")
    place.opencode.wait_for_idle(agent.session_id)
    assert place.times_held(agent, "Take this.") == 1


def test_a_session_in_two_windows_belongs_to_the_one_that_used_it_last(place: Place) -> None:
    first = place.agent()
    second = place.window(first.window.directory, "--session", first.session_id)
    second.wait_for_text("hello")
    second.type("I am here now")
    second.press("Enter")
    eventually(lambda: place.texts(first, "I am here now"))
    place.opencode.wait_for_idle(first.session_id)
    place.write("two", first, "To the second.")
    second.wait_for_text("To the second.")
    place.opencode.wait_for_idle(first.session_id)

    first.says("and now I am here")
    eventually(lambda: place.texts(first, "and now I am here"))
    place.opencode.wait_for_idle(first.session_id)
    place.write("one", first, "To the first.")
    first.window.wait_for_text("To the first.")
    assert "To the first." not in second.screen()

    second.close()
    place.write("left", first, "Still here.")
    first.window.wait_for_text("Still here.")
    for content in ("To the second.", "To the first.", "Still here."):
        assert place.times_held(first, content) == 1


def test_a_window_that_is_closed_hands_its_session_to_the_server(place: Place) -> None:
    agent = place.agent()
    socket = place.hub.directory / "run" / f"{agent.window.pid}.sock"
    assert socket.exists()
    agent.says("/exit")
    eventually(lambda: not socket.exists())

    place.write("on", agent, "Go on without it.")

    place.hub.outcome("on")
    place.opencode.wait_for_idle(agent.session_id)
    assert place.times_held(agent, "Go on without it.") == 1


def test_many_windows_show_each_its_own_messages_also_after_the_hub_was_restarted(
    place: Place, env: dict[str, str]
) -> None:
    agents = [place.agent() for _ in range(WINDOWS)]
    for agent in agents:
        place.write(f"a-{agent.name}", agent, f"first for {agent.name}")
    for agent in agents:
        agent.window.wait_for_text(f"first for {agent.name}")
        place.opencode.wait_for_idle(agent.session_id)
    place.hub.stop()

    with Daemon(env) as again:
        for agent in agents:
            content = f"second for {agent.name}"
            again.send(f"b-{agent.name}", sender="writer", to=agent.name, content=content)
        for agent in agents:
            agent.window.wait_for_text(f"second for {agent.name}")
            again.outcome(f"b-{agent.name}")
        assert again.said("agent.oriented") == []
    for agent in agents:
        assert place.texts(agent, r"(first|second) for [\w-]+") == [
            f"first for {agent.name}",
            f"second for {agent.name}",
        ]


# ----------------------------------------------------------------------------------- identity


def send(sender: str, recipient: str, content: str) -> list[ToolCall | Text]:
    given = {"from": sender, "to": recipient, "type": "context", "content": content}
    return [ToolCall("agent-hub_send_message", **given), Text("sent")]


def test_a_model_that_forges_its_name_writes_under_its_own(place: Place) -> None:
    forger, reader = place.agent(), place.agent()
    place.model.add(
        Rule(last_user("pretend"), send(reader.name, "human", "I am somebody else.")),
        Rule(last_user("tell the other"), send("nobody", reader.name, "It is me.")),
    )
    forger.says("pretend to be the other")
    assert place.hub.wait_for("message.delivered", to="human")["from"] == forger.name

    forger.says("tell the other")
    reader.window.wait_for_text("It is me.")
    shown = reader.window.screen()
    assert f'agent "{forger.name}" wrote to you' in shown
    assert "unverified" not in shown

    place.hub.send("file", sender=forger.name, to=reader.name, content="By file.")
    reader.window.wait_for_text("By file.")
    assert f'"{forger.name}" (unverified) wrote to you' in reader.window.screen()


def test_a_session_has_its_name_from_its_first_turn_on(place: Place) -> None:
    place.model.add(Rule(last_user("at once"), send("somebody", "human", "My first words.")))
    window = place.window()
    window.wait_for_text("Ask anything")
    window.type("write at once")
    window.press("Enter")

    line = place.hub.wait_for("message.delivered", to="human")

    known = place.hub.wait_for("agent.registered", session=window.session()["id"])
    assert line["from"] == known["agent"]
    assert place.hub.outcome(line["message"])["from"] == known["agent"]


# ----------------------------------------------------------------------------------- metering


def test_what_an_agent_works_is_told_by_what_caused_it(place: Place) -> None:
    agent = place.agent()
    place.write("why", agent, "Work, please.")
    ended = place.hub.wait_for("turn.ended", agent=agent.name, cause="message")
    assert ended["input"] > 0
    assert 0 < ended["seconds"] < 30
    assert [line["cause"] for line in place.hub.said("turn.ended")] == ["user", "message"]
    assert place.hub.stop() == 0
    figures = (place.hub.directory / "metrics.prom").read_text()
    assert f'agent_hub_agent_turns_total{{agent="{agent.name}",cause="message"}} 1.0' in figures


def test_the_server_is_an_endpoint_of_its_own_sessions(place: Place) -> None:
    session = place.opencode.create_session(place.project())
    place.hub.wait_for("agent.registered", session=session["id"])
    place.hub.send("s", sender="writer", to=session["slug"], content="In the server.")
    ended = place.hub.wait_for("turn.ended", agent=session["slug"])
    assert ended["cause"] == "message"
