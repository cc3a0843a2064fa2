"""The OpenCode server that the hub has started: killed, it comes back; windows on it show all."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.daemon import Daemon
from testkit.opencode import OpenCode, free_port
from testkit.scripted_model import Held, Rule, ScriptedModel, Text, in_session
from testkit.window import Window

AT_ONCE = 2.0
"""Seconds from the message's file to the window's screen: 0.3 at most, 0.6 on a busy machine."""


@pytest.fixture
def own_env(opencode: OpenCode, tmp_path: Path) -> dict[str, str]:
    """A daemon that has to start a server; it shares its sessions with `opencode`."""
    return opencode.env | {
        "AGENT_HUB_DIR": str(tmp_path / "hub"),
        "AGENT_HUB_SESSION_POLL": "1",
        "OPENCODE_PORT": str(free_port()),
        "PATH": f"{opencode.binary.parent}:{opencode.env['PATH']}",
    }


def kill_server(hub: Daemon) -> int:
    """SIGKILL, and all that it has started; which process that was."""
    pid: int = json.loads((hub.directory / "server.json").read_text())["pid"]
    os.killpg(pid, signal.SIGKILL)
    return pid


def test_a_server_that_is_killed_in_mid_turn_comes_back_and_nothing_is_lost(
    own_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    held = Held(Text("too late"))
    scripted_model.add(Rule(in_session(session["id"]), held, times=1))
    with Daemon(own_env) as hub:
        hub.send("m", sender="writer", to=session["slug"], content="answer this")
        hub.wait_for("message.delivered")
        scripted_model.wait_for(in_session(session["id"]))

        first = kill_server(hub)
        held.release()
        hub.wait_for("opencode.back")
        hub.send("n", sender="writer", to=session["slug"], content="and this")

        assert hub.outcome("n")["agenthub"]["outcome"] == "delivered"
        opencode.wait_for_idle(session["id"])
        heard = [
            part["text"]
            for message in opencode.messages(session["id"])
            if message["info"]["role"] == "user"
            for part in message["parts"]
        ]
        assert [text.count("this") > 0 for text in heard] == [True, True]
        assert "answer this" in heard[0]
        assert "and this" in heard[1]
        assert hub.said("agent.registered")[0]["agent"] == session["slug"]
        assert len(hub.said("agent.registered")) == 1
        second = json.loads((hub.directory / "server.json").read_text())["pid"]
        assert second != first
        assert hub.stop() == 0
    assert not Path(f"/proc/{second}").exists()


def test_a_window_on_the_hubs_server_shows_what_arrives(
    own_env: dict[str, str],
    opencode: OpenCode,
    project: Callable[[str], Path],
    open_window: Callable[..., Window],
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(own_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        program = [sys.executable, "-m", "agenthub_cli", "open", "--agent", session["slug"]]
        window = open_window(Path(own_env["HOME"]), program=program, env=own_env)
        window.wait_for_text("ctrl+p commands")
        password = json.loads((hub.directory / "server.json").read_text())["password"]
        assert password not in command_line(window.pid)

        hub.send("m", sender="writer", to=session["slug"], content="Mind the gap.")
        window.wait_for_text("Mind the gap.", timeout=AT_ONCE)

        assert hub.outcome("m")["agenthub"]["outcome"] == "delivered"


def test_a_window_shows_messages_again_after_the_server_was_killed(
    own_env: dict[str, str],
    opencode: OpenCode,
    project: Callable[[str], Path],
    open_window: Callable[..., Window],
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(own_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        program = [sys.executable, "-m", "agenthub_cli", "open", "--agent", session["slug"]]
        window = open_window(Path(own_env["HOME"]), program=program, env=own_env)
        window.wait_for_text("ctrl+p commands")
        hub.send("m", sender="writer", to=session["slug"], content="Written before.")
        window.wait_for_text("Written before.")
        opencode.wait_for_idle(session["id"])

        kill_server(hub)
        hub.send("n", sender="writer", to=session["slug"], content="Written meanwhile.")
        hub.wait_for("opencode.back")

        window.wait_for_text("Written meanwhile.")


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
