"""A message written to the spool reaches the right session of the real OpenCode, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.daemon import Daemon
from testkit.opencode import OpenCode
from testkit.scripted_model import Held, Rule, ScriptedModel, Text, in_session, last_user
from testkit.waiting import eventually


@pytest.fixture
def hub(hub_env: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(hub_env) as daemon:
        yield daemon


def test_a_message_written_in_place_wakes_the_agent_of_another_project(
    hub: Daemon,
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    asking, answering = (opencode.create_session(project(name)) for name in ("web", "api"))
    scripted_model.add(Rule(in_session(answering["id"]), Text("It returns a token.")))
    hub.wait_for("agent.registered", agent=answering["slug"])

    hub.send(
        "login",
        sender=asking["slug"],
        to=answering["slug"],
        content="What does /login return?",
        type="question",
        threadId="login-contract",
        ticket=[17],
    )

    request = scripted_model.wait_for(in_session(answering["id"]))
    assert "What does /login return?" in request.last_user
    assert f'"{asking["slug"]}" (unverified) wrote to' in request.last_user
    assert "login-contract" in request.last_user
    assert "question" in request.last_user
    archived = hub.outcome("login")
    assert archived["ticket"] == [17]
    (delivery,) = archived["agenthub"]["deliveries"]
    assert delivery["recipient"] == answering["slug"]
    assert delivery["session"] == answering["id"]
    assert delivery["attempts"] == 1
    assert delivery["heldAt"] <= archived["agenthub"]["at"]
    opencode.wait_for_idle(answering["id"])
    assert opencode.messages(asking["id"]) == []


def test_a_message_renamed_into_place_arrives(
    hub: Daemon,
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    hub.wait_for("agent.registered", agent=session["slug"])
    message = {"from": "writer", "to": session["slug"], "type": "task", "content": "rename me"}

    hub.messages.joinpath("draft.tmp").write_text(json.dumps(message))
    hub.messages.joinpath("draft.tmp").rename(hub.messages / "final.json")

    scripted_model.wait_for(last_user("rename me"))
    assert hub.outcome("final")["agenthub"]["outcome"] == "delivered"


def test_what_waits_when_the_daemon_starts_is_delivered_in_order(
    hub_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    hub = Daemon(hub_env)
    hub.messages.mkdir(parents=True)
    for name, priority in (("later", "low"), ("usual", "normal"), ("first", "urgent")):
        hub.send(name, sender="writer", to=session["slug"], content=name, priority=priority)

    with hub:
        eventually(hub.waiting, when=lambda names: names == [])

    delivered = [line["message"] for line in hub.said("message.delivered")]
    assert delivered == ["first", "usual", "later"]
    scripted_model.wait_for(last_user("later"))
    roles = [message["info"]["role"] for message in opencode.messages(session["id"])]
    assert roles.count("user") == 3


def test_a_recipient_that_is_not_here_holds_up_nobody_else(
    hub: Daemon,
    opencode: OpenCode,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    hub.wait_for("agent.registered", agent=session["slug"])

    hub.send("early", sender="writer", to="nobody-yet", content="hello")
    hub.wait_for("recipient.unknown", message="early")
    hub.send("known", sender="writer", to=session["slug"], content="hello")

    hub.outcome("known")
    eventually(hub.waiting, when=lambda names: names == ["early.json"])


def test_what_is_no_message_is_put_aside_and_stops_nothing(
    hub: Daemon, opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    session = opencode.create_session(project("api"))
    hub.wait_for("agent.registered", agent=session["slug"])

    hub.send("escape", sender="writer", to="../../x", content="hello")
    (hub.messages / "half.json").write_text('{"from": "wri')
    (hub.messages / "link.json").symlink_to(hub.directory / "daemon.lock")
    hub.send("good", sender="writer", to=session["slug"], content="hello")

    assert hub.outcome("good")["agenthub"]["outcome"] == "delivered"
    malformed = hub.messages / "malformed"
    eventually((malformed / "half.json.reason").exists)
    eventually((malformed / "escape.json.reason").exists)
    assert "to: found '../../x'" in (malformed / "escape.json.reason").read_text()
    assert (malformed / "half.json").read_text() == '{"from": "wri'
    eventually(hub.waiting, when=lambda names: names == ["link.json"])
    assert len(hub.said("message.unreadable")) == 1


def test_messages_for_a_session_at_work_in_the_servers_own_process_are_queued_in_order(
    hub: Daemon,
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    held = Held(Text("done"))
    scripted_model.add(Rule(last_user("work on it"), held))
    opencode.prompt(session["id"], "work on it")
    scripted_model.wait_for(last_user("work on it"))
    hub.wait_for("agent.registered", agent=session["slug"])

    for name in ("one", "two", "three"):
        hub.send(name, sender="writer", to=session["slug"], content=f"message {name}")
        (delivery,) = hub.outcome(name)["agenthub"]["deliveries"]
        assert delivery["session"] == session["id"]
    held.release()
    opencode.wait_for_idle(session["id"])

    said = [
        message["parts"][0]["text"]
        for message in opencode.messages(session["id"])
        if message["info"]["role"] == "user"
    ]
    assert said[0] == "work on it"
    for text, name in zip(said[1:], ("one", "two", "three"), strict=True):
        assert f"message {name}" in text
