"""The daemon is killed at every point of a message's way: each arrives once all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.daemon import Daemon
from testkit.opencode import OpenCode
from testkit.scripted_model import ScriptedModel
from testkit.waiting import eventually
from tests.end_to_end import crashing


def crashing_daemon(env: dict[str, str], point: str) -> Daemon:
    return Daemon(env, command=(crashing.__file__, point, "daemon"))


def texts(opencode: OpenCode, session_id: str) -> list[str]:
    """What was said to the session, message by message."""
    return [
        "".join(part.get("text", "") for part in message["parts"])
        for message in opencode.messages(session_id)
        if message["info"]["role"] == "user"
    ]


@pytest.mark.parametrize("point", crashing.POINTS)
def test_a_message_survives_a_kill_when(
    point: str,
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
    hub_env: dict[str, str],
) -> None:
    session = opencode.create_session(project("api"))
    doomed = crashing_daemon(hub_env, point)
    doomed.start()
    doomed.send("m", sender="writer", to=session["slug"], content="survive this")

    assert doomed.wait() == -9
    with Daemon(hub_env) as hub:
        outcome = hub.outcome("m")["agenthub"]
        opencode.wait_for_idle(session["id"])

        assert outcome["outcome"] == "delivered"
        eventually(hub.waiting, when=lambda names: names == [])
        (text,) = texts(opencode, session["id"])
        assert "survive this" in text
        turns = [request for request in scripted_model.requests if request.session == session["id"]]
        assert len(turns) == 1


def test_a_broadcast_that_was_cut_off_half_way_repeats_nobody_and_forgets_nobody(
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
    hub_env: dict[str, str],
) -> None:
    sender, *others = (opencode.create_session(project(name))["id"] for name in "abcd")
    doomed = crashing_daemon(
        hub_env | {"AGENT_HUB_INJECTION_WORKERS": "1"}, "the broker knows that it is held"
    )
    doomed.start()
    doomed.send("m", sender=opencode.session(sender)["slug"], to="all", content="to each of you")

    def heard(session_id: str) -> int:
        return sum("to each of you" in text for text in texts(opencode, session_id))

    everybody = [session["id"] for session in opencode.sessions()]
    assert doomed.wait() == -9
    assert sum(map(heard, everybody)) == 1
    with Daemon(hub_env) as hub:
        reached = {row["session"] for row in hub.outcome("m")["agenthub"]["deliveries"]}

        assert set(others) <= reached
        assert sender not in reached
        assert [heard(session) for session in others] == [1, 1, 1]
        assert heard(sender) == 0
        for session in others:
            opencode.wait_for_idle(session)
        asked = [request.session for request in scripted_model.requests]
        assert all(asked.count(session) == 1 for session in others)
