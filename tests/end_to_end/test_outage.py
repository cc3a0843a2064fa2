"""OpenCode goes away in every way it can, comes back, and nothing is lost or said twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.daemon import Daemon
from testkit.opencode import OpenCode
from testkit.outage import Behaviour, Door
from testkit.scripted_model import Held, Rule, ScriptedModel, Text, ToolCall, in_session, last_user
from testkit.waiting import eventually
from testkit.window import Window


@pytest.fixture
def door(opencode: OpenCode) -> Iterator[Door]:
    with Door(opencode.url) as door:
        yield door


@pytest.fixture
def impatient_env(hub_env: dict[str, str], door: Door) -> dict[str, str]:
    """A daemon behind the door that waits no longer than 1 s, so that the test does not either."""
    return hub_env | {
        "OPENCODE_PORT": str(door.port),
        "AGENT_HUB_INJECTION_TIMEOUT": "1",
        "AGENT_HUB_INJECTION_RETRIES": "1",
        "AGENT_HUB_SESSION_POLL": "1",
    }


def heard(opencode: OpenCode, session_id: str, text: str) -> int:
    return sum(
        text in part.get("text", "")
        for message in opencode.messages(session_id)
        if message["info"]["role"] == "user"
        for part in message["parts"]
    )


@pytest.mark.parametrize("behaviour", [Behaviour.CLOSED, Behaviour.ERRORS, Behaviour.SILENT])
def test_while_opencode_is_away_messages_wait_and_the_log_says_so_once(
    behaviour: Behaviour,
    door: Door,
    impatient_env: dict[str, str],
    opencode: OpenCode,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(impatient_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        door.behave(behaviour)
        hub.send("m", sender="writer", to=session["slug"], content="hold on")
        hub.wait_for("relay.down")
        hub.wait_for("message.arrived")
        hub.wait_for("relay.still_down", count=2)
        assert hub.waiting() == ["m.json"]

        door.behave(Behaviour.OPEN)

        assert hub.outcome("m")["agenthub"]["outcome"] == "delivered"
        assert heard(opencode, session["id"], "hold on") == 1
        assert len(hub.said("relay.down")) == 1
        assert len(hub.said("relay.up")) == 2  # at the start, and now


def test_an_accepted_prompt_that_never_appears_is_tried_again_until_it_does(
    door: Door,
    impatient_env: dict[str, str],
    opencode: OpenCode,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(impatient_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        door.behave(Behaviour.SWALLOWING)
        hub.send("m", sender="writer", to=session["slug"], content="into the void")
        trouble = hub.wait_for("session.trouble")
        assert "never appeared" in trouble["text"]
        assert door.prompts(session["id"]) == 2

        door.behave(Behaviour.OPEN)

        archived = hub.outcome("m")["agenthub"]
        assert archived["outcome"] == "delivered"
        assert archived["deliveries"][0]["attempts"] == 3
        assert heard(opencode, session["id"], "into the void") == 1
        assert len(hub.said("session.trouble")) == 1
        hub.wait_for("session.recovered")


def test_a_prompt_whose_answer_was_cut_off_by_a_kill_is_answered_once_after_the_restart(
    hub_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    answered, cut_off = (opencode.create_session(project(name)) for name in ("api", "web"))
    held = Held(Text("too late"))
    scripted_model.add(Rule(in_session(cut_off["id"]), held, times=1))
    with Daemon(hub_env | {"AGENT_HUB_SESSION_POLL": "1"}) as hub:
        hub.send("a", sender="writer", to=answered["slug"], content="answer this")
        hub.send("b", sender="writer", to=cut_off["slug"], content="and this")
        hub.wait_for("message.delivered", count=2)
        opencode.wait_for_idle(answered["id"])
        scripted_model.wait_for(in_session(cut_off["id"]))

        opencode.kill()
        held.release()
        hub.wait_for("relay.down")
        opencode.start()
        hub.wait_for("turn.resumed", agent=cut_off["slug"])
        scripted_model.wait_for(in_session(cut_off["id"]), count=2)
        opencode.wait_for_idle(cut_off["id"])

        asked = [request.session for request in scripted_model.requests]
        assert asked.count(cut_off["id"]) == 2
        assert asked.count(answered["id"]) == 1
        assert heard(opencode, cut_off["id"], "and this") == 1
        assert len(hub.said("turn.resumed")) == 1


def test_a_window_at_work_is_not_disturbed_and_gets_its_message_after_the_turn(
    hub_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
    open_window: Callable[..., Window],
) -> None:
    directory = project("api")
    command = "touch begun; until [ -e go ]; do sleep 0.05; done; echo went"
    at_work = ToolCall("bash", command=command, description="wait")
    scripted_model.add(Rule(last_user("build it"), [at_work, Text("built")]))
    window = open_window(directory)
    window.wait_for_text("Ask anything")
    window.type("build it")
    window.press("Enter")
    session = window.session()
    eventually((directory / "begun").exists)
    with Daemon(hub_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        hub.send("m", sender="writer", to=session["slug"], content="when you have time")
        hub.wait_for("session.trouble")
        assert heard(opencode, session["id"], "when you have time") == 0

        (directory / "go").touch()

        assert hub.outcome("m")["agenthub"]["outcome"] == "delivered"
        opencode.wait_for_idle(session["id"])
    said = [
        part.get("text", "") or str(part.get("state", {}).get("output", ""))
        for message in opencode.messages(session["id"])
        for part in message["parts"]
        if part["type"] in ("text", "tool")
    ]
    assert said[:3] == ["build it", "went\n", "built"]
    assert "when you have time" in said[3]
    assert len(said) == 5  # and the answer to it
    asked = [request for request in scripted_model.requests if request.session == session["id"]]
    assert len(asked) == 3  # the tool call, what followed it, and the message
