"""The coordinator on the real OpenCode: what it may do, and that there is always one.

How it introduces agents is played by `make demo`, which `test_demo` watches.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agenthub_core.coordinator import TITLE
from testkit.daemon import Daemon
from testkit.opencode import OpenCode, said
from testkit.scripted_model import (
    Request,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    in_session,
    last_user,
)
from testkit.waiting import eventually

SEND = "agent-hub_send_message"

CAUTIOUS = {"permission": {"*": "ask", "agent-hub_*": "deny"}}
"""Settings of a user who lets no agent do anything unasked."""


@pytest.fixture
def careful(
    opencode_binary: Path, scripted_model: ScriptedModel, tmp_path: Path
) -> Iterator[OpenCode]:
    """An OpenCode with the hub's tools, all of which its user has denied to everybody."""
    command = [sys.executable, "-m", "agenthub_cli", "mcp"]
    mcp = {"agent-hub": {"type": "local", "command": command, "enabled": True}}
    settings = {"mcp": mcp, **CAUTIOUS}
    home = tmp_path / "home"
    with OpenCode(opencode_binary, home, scripted_model.url, settings=settings) as opencode:
        yield opencode


@pytest.fixture
def env(hub_env: dict[str, str]) -> dict[str, str]:
    return coordinated(hub_env)


def coordinated(env: dict[str, str]) -> dict[str, str]:
    return env | {
        "AGENT_HUB_COORDINATOR": "true",
        "AGENT_HUB_COORDINATOR_MODEL": "fake/echo",
        "AGENT_HUB_SESSION_POLL": "1",
    }


def session_of(hub: Daemon) -> str:
    """The coordinator's session, once it has one."""
    session: str = hub.wait_for("coordinator.here")["session"]
    return session


def heard(opencode: OpenCode, session_id: str) -> list[str]:
    """What the coordinator was told."""
    return [
        said(message)
        for message in opencode.messages(session_id)
        if message["info"]["role"] == "user"
    ]


def titled(opencode: OpenCode) -> list[str]:
    return [each["id"] for each in opencode.sessions() if each["title"] == TITLE]


def test_it_may_use_the_hubs_tools_unasked_and_nothing_else(
    careful: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    own = coordinated(careful.env | {"OPENCODE_PORT": str(careful.port)})

    def ask(request: Request) -> ToolCall:
        (name,) = (word for word in request.last_user.split() if word == session["slug"])
        message = {"from": "coordinator", "to": name, "type": "question", "content": "And you?"}
        return ToolCall(SEND, **message)

    with Daemon(own) as hub:
        coordinator = session_of(hub)
        session = careful.create_session(project("api"))
        shell = ToolCall("bash", command="touch /tmp/never", description="never")
        is_its = in_session(coordinator)
        scripted_model.add(Rule(is_its & last_user("NEW_AGENT"), [ask, shell, Text("Asked.")]))

        careful.prompt(session["id"], "Build it.")

        hub.wait_for("message.delivered", count=2)
        assert [line["to"] for line in hub.said("message.delivered")] == [
            "coordinator",
            session["slug"],
        ]
        careful.wait_for_idle(coordinator)
        request = scripted_model.wait_for(is_its)
        assert request.tools
        assert all(tool.startswith("agent-hub_") for tool in request.tools)
        assert "NEW_AGENT" in request.last_user
        assert "You are the coordinator of agent-hub" in request.system
        tools = [part for part in _parts(careful, coordinator) if part["type"] == "tool"]
        assert [tool["state"]["status"] for tool in tools] == ["completed", "error"]
        assert "unavailable tool" in tools[1]["state"]["error"]


def _parts(opencode: OpenCode, session_id: str) -> list[dict[str, Any]]:
    return [part for message in opencode.messages(session_id) for part in message["parts"]]


def test_it_is_found_again_after_a_restart_and_told_nothing_twice(
    env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    first = opencode.create_session(project("api"))
    with Daemon(env) as hub:
        coordinator = session_of(hub)
        hub.wait_for("message.delivered", to="coordinator")
        assert hub.stop() == 0
        hub.start()
        hub.wait_for("coordinator.here", count=2, session=coordinator)

        second = opencode.create_session(project("web"))
        hub.wait_for("message.delivered", count=2, to="coordinator")

        told = heard(opencode, coordinator)
        assert [first["slug"] in told[0], second["slug"] in told[1]] == [True, True]
        assert len(told) == 2
        assert titled(opencode).count(coordinator) == 1
        assert not any(line["session"] == coordinator for line in hub.said("agent.registered"))


def test_its_tokens_and_their_cost_are_counted_as_opencode_has_them(
    env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    opencode.create_session(project("api"))
    with Daemon(env | {"AGENT_HUB_PRICING_INPUT": "1", "AGENT_HUB_PRICING_OUTPUT": "10"}) as hub:
        coordinator = session_of(hub)
        hub.wait_for("message.delivered", to="coordinator")
        opencode.wait_for_idle(coordinator)
        later = opencode.create_session(project("web"))
        hub.wait_for("agent.registered", session=later["id"])  # the sessions were listed anew
        assert hub.stop() == 0

    told = re.findall(
        r"^agent_hub_coordinator_(\w+) (\S+)$",
        (hub.directory / "metrics.prom").read_text(),
        re.MULTILINE,
    )
    figures = {name: float(figure) for name, figure in told}
    tokens = figures["tokens_input"], figures["tokens_output"]
    assert min(tokens) > 0
    assert tokens[0] == 10 * tokens[1], "as in each answer of the scripted model"
    cost = (tokens[0] * 1 + tokens[1] * 10) / 1_000_000
    assert figures["estimated_cost_usd"] == pytest.approx(cost)


def test_one_that_was_deleted_is_replaced_and_told_of_who_is_here(
    env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    first = opencode.create_session(project("api"))
    with Daemon(env) as hub:
        coordinator = session_of(hub)
        hub.wait_for("message.delivered", to="coordinator")
        opencode.wait_for_idle(coordinator)
        assert opencode.request("DELETE", f"/session/{coordinator}").is_success

        second = opencode.create_session(project("web"))

        replaced = hub.wait_for("coordinator.here", count=2)["session"]
        assert replaced != coordinator
        third = opencode.create_session(project("more"))
        told = eventually(
            lambda: "".join(heard(opencode, replaced)), when=lambda told: third["slug"] in told
        )
        named = re.findall(r"NEW_AGENT: (\S+) at", told)
        assert [named.count(each["slug"]) for each in (first, second, third)] == [1, 1, 1]


def test_without_its_model_the_hub_goes_on_and_says_what_to_do(
    env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(env | {"AGENT_HUB_COORDINATOR_MODEL": "nobody/knows"}) as hub:
        said = hub.wait_for("coordinator.missing")["text"]
        assert "nobody/knows" in said
        assert "AGENT_HUB_COORDINATOR_MODEL" in said
        hub.send("m", sender="writer", to=session["slug"], content="Hello")
        assert hub.outcome("m")["agenthub"]["outcome"] == "delivered"


def test_once_opencode_knows_its_model_it_is_there(env: dict[str, str], opencode: OpenCode) -> None:
    with Daemon(env | {"AGENT_HUB_COORDINATOR_MODEL": "fake/later"}) as hub:
        hub.wait_for("coordinator.missing")

        settings = opencode.config_directory / "opencode.json"
        document = json.loads(settings.read_text())
        document["provider"]["fake"]["models"]["later"] = {}
        settings.write_text(json.dumps(document))
        opencode.kill()
        opencode.start()

        session_of(hub)
