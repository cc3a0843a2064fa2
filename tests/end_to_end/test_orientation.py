"""A session that begins while the hub runs is told its name, on the real OpenCode, at no cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.daemon import Daemon
from testkit.opencode import OpenCode, said
from testkit.scripted_model import Held, Rule, ScriptedModel, Text, in_session
from testkit.waiting import eventually
from testkit.window import Window

AT_ONCE = 1000
"""Milliseconds until a session of the hub's own server is told; half of them are its user's."""

TRIES = 3
"""The best of them counts: a loaded machine may be late."""

NO_POLL = {"AGENT_HUB_SESSION_POLL": "300"}
"""Seconds: so many that nothing is seen in time but for a hint."""


@pytest.fixture
def quick_env(hub_env: dict[str, str]) -> dict[str, str]:
    return hub_env | {"AGENT_HUB_SESSION_POLL": "1"}


def said_by_user(opencode: OpenCode, session_id: str) -> list[str]:
    return [
        part["text"]
        for message in opencode.messages(session_id)
        if message["info"]["role"] == "user"
        for part in message["parts"]
    ]


def asked(model: ScriptedModel, session_id: str) -> int:
    """How often the model was asked in a session."""
    return sum(request.session == session_id for request in model.requests)


def test_a_session_in_plan_mode_is_told_its_name_and_stays_in_plan_mode(
    quick_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    other = opencode.create_session(project("web"))
    with Daemon(quick_env) as hub:
        hub.wait_for("agent.registered", count=2)
        opencode.ask(session["id"], "Make a plan.", agent="plan")
        before = asked(scripted_model, session["id"])

        hub.wait_for("agent.oriented", agent=session["slug"])

        first, told = said_by_user(opencode, session["id"])
        assert (first, f'"{session["slug"]}"' in told) == ("Make a plan.", True)
        assert f"- {other['slug']}, in {other['directory']}" in told
        assert opencode.session(session["id"])["agent"] == "plan"
        assert asked(scripted_model, session["id"]) == before

        hub.send("m", sender="writer", to=session["slug"], content="And now?")
        hub.outcome("m")
        opencode.wait_for_idle(session["id"])
        assert asked(scripted_model, session["id"]) == before + 1
        (*_, last) = (each for each in scripted_model.requests if each.session == session["id"])
        assert told in last.conversation, "the model reads it with its next turn"
        assert opencode.session(session["id"])["agent"] == "plan"
        assert hub.said("turn.resumed") == []


def test_a_session_that_is_created_in_the_server_is_told_within_a_second(
    hub_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    model = {"providerID": "fake", "id": "echo"}
    directory = project("api")
    opencode.create_session(directory)  # OpenCode takes its time with each new project
    no_database = {"XDG_DATA_HOME": str(tmp_path / "none")}  # the server's events alone are hints
    with Daemon(hub_env | NO_POLL | no_database) as hub:
        hub.wait_for("relay.up")
        took = []
        for _ in range(TRIES):
            session = opencode.create_session(directory, agent="plan", model=model)
            hub.wait_for("agent.oriented", agent=session["slug"])
            (told,) = opencode.messages(session["id"])
            assert f'"{session["slug"]}"' in said(told)
            took.append(told["info"]["time"]["created"] - session["time"]["created"])
            assert opencode.session(session["id"])["agent"] == "plan"

        assert min(took) < AT_ONCE, took
        assert scripted_model.requests == []


def test_who_wants_it_answered_has_it_answered(
    quick_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(quick_env | {"AGENT_HUB_ORIENTATION_WAKE": "true"}) as hub:
        hub.wait_for("agent.oriented", agent=session["slug"])
        request = scripted_model.wait_for(in_session(session["id"]))
        assert f'"{session["slug"]}"' in request.last_user
        opencode.wait_for_idle(session["id"])


def test_a_subagents_session_stays_untouched(
    quick_env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    model = {"providerID": "fake", "id": "echo"}
    session = opencode.create_session(project("api"), agent="build", model=model)
    with Daemon(quick_env) as hub:
        child = opencode.create_session(
            project("web"), agent="build", model=model, parentID=session["id"]
        )
        hub.send("m", sender="writer", to=child["slug"], content="Are you there?")
        hub.wait_for("agent.oriented", agent=session["slug"])
        later = opencode.create_session(project("more"), agent="build", model=model)
        hub.wait_for("agent.oriented", agent=later["slug"])

        assert opencode.messages(child["id"]) == []
        assert hub.waiting() == ["m.json"]


def test_a_session_is_told_when_its_turn_has_ended_and_once_in_all_runs(
    quick_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    held = Held(Text("done"))
    scripted_model.add(Rule(in_session(session["id"]), held, times=1))
    with Daemon(quick_env) as hub:
        opencode.prompt(session["id"], "Build it.")
        scripted_model.wait_for(in_session(session["id"]))
        hub.wait_for("agent.registered", session=session["id"])
        seen = opencode.create_session(project("web"))
        hub.wait_for("agent.registered", session=seen["id"])  # a look of the hub later
        assert said_by_user(opencode, session["id"]) == ["Build it."]

        held.release()

        hub.wait_for("agent.oriented", agent=session["slug"])
        eventually(lambda: session["id"] in (hub.directory / "oriented_sessions.json").read_text())
        hub.kill()
    with Daemon(quick_env) as hub:
        hub.wait_for("relay.up")
        again = opencode.create_session(project("more"))
        hub.wait_for("agent.registered", session=again["id"])
        assert hub.said("agent.oriented") == []
        hub.kill()
        (hub.directory / "oriented_sessions.json").unlink()  # as if it had been killed before
    with Daemon(quick_env) as hub:
        hub.wait_for("agent.oriented", agent=session["slug"])
    assert len(said_by_user(opencode, session["id"])) == 2
    assert asked(scripted_model, session["id"]) == 1


def test_a_window_of_its_own_is_told_soon_and_nothing_else_changes(
    hub_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
    open_window: Callable[..., Window],
) -> None:
    with Daemon(hub_env | NO_POLL, new=True) as hub:
        window = open_window(project("api"))
        window.wait_for_text("Ask anything")
        window.type("hello")
        window.press("Enter")
        session = window.session()
        opencode.wait_for_idle(session["id"])
        before = asked(scripted_model, session["id"])
        agent = opencode.session(session["id"])["agent"]

        told = eventually(lambda: said_by_user(opencode, session["id"])[1:])

        name = hub.wait_for("agent.registered", session=session["id"])["agent"]
        assert f'"{name}"' in told[0]
        hub.wait_for("agent.oriented", agent=name)
        assert opencode.session(session["id"])["agent"] == agent
        assert asked(scripted_model, session["id"]) == before
