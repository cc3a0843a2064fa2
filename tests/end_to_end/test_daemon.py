"""The daemon as a program: it starts, says what it does, ends when asked, and guards its spool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from testkit.daemon import Daemon
from testkit.opencode import OpenCode, free_port
from testkit.program import watched
from testkit.scripted_model import ScriptedModel, in_session
from testkit.waiting import eventually

STOPS_WITHIN = 5  # seconds, as promised


def agenthub(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agenthub_cli", *arguments],
        env=dict(os.environ) if env is None else env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_within_five_seconds_and_leaves_the_rest_waiting(
    hub_env: dict[str, str], number: int
) -> None:
    with Daemon(hub_env) as hub:
        hub.send("later", sender="writer", to="nobody-yet", content="hello")
        hub.wait_for("recipient.unknown")

        began = time.monotonic()
        status = hub.stop(number)

    assert status == 0
    assert time.monotonic() - began < STOPS_WITHIN
    assert hub.waiting() == ["later.json"]


def test_a_second_daemon_on_the_same_directory_says_which_process_holds_it(
    hub_env: dict[str, str],
) -> None:
    with Daemon(hub_env) as hub:
        second = agenthub("daemon", env=hub_env)

        assert second.returncode == 1
        assert str(hub.pid) in second.stderr
        assert str(hub.directory) in second.stderr
        assert hub.stop() == 0


def test_a_second_daemon_leaves_the_coordinators_instructions_as_they_are(
    hub_env: dict[str, str],
) -> None:
    with Daemon(hub_env) as hub:
        second = agenthub("daemon", env=hub_env | {"AGENT_HUB_COORDINATOR": "true"})

        assert second.returncode == 1
        assert str(hub.pid) in second.stderr
        assert not (hub.directory / "coordinator").exists()


def test_where_the_coordinator_is_given_a_project_the_daemon_ends_before_it_has_begun(
    hub_env: dict[str, str], project: Callable[[str], Path], tmp_path: Path
) -> None:
    home = project("api")
    (home / "main.py").touch()
    port = free_port()
    env = hub_env | {
        "AGENT_HUB_COORDINATOR": "true",
        "AGENT_HUB_COORDINATOR_DIR": str(home),
        "OPENCODE_PORT": str(port),
    }

    done = agenthub("daemon", env=env)

    assert done.returncode == 1
    assert "set AGENT_HUB_COORDINATOR_DIR to a directory of the coordinator's own" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "hub" / "server.json").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}")


def test_agents_keep_their_names_when_the_daemon_restarts(
    hub_env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(hub_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        known = hub.directory / "session_agents.json"
        eventually(lambda: known.exists() and session["id"] in known.read_text())
        first = json.loads(known.read_text())
        hub.kill()
    with Daemon(hub_env) as hub:
        hub.wait_for("relay.up")
        hub.send("m", sender="writer", to=session["slug"], content="hello")
        hub.outcome("m")

        assert hub.said("agent.registered") == []
        assert json.loads(known.read_text()) == first


def test_sessions_from_before_the_hub_are_left_alone_and_those_that_it_knew_are_not(
    hub_env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    old = opencode.create_session(project("old"))
    with Daemon(hub_env, new=True) as hub:
        hub.wait_for("sessions.left_alone")
        new = opencode.create_session(project("new"))
        eventually(lambda: known_sessions(hub) == [new["id"]])
        hub.kill()
    with Daemon(hub_env) as hub:
        hub.wait_for("sessions.left_alone")
        hub.send("m", sender="writer", to=new["slug"], content="still here?")
        hub.outcome("m")
        hub.stop()
        assert hub.said("agent.registered") == []
    assert opencode.messages(old["id"]) == []


def test_a_fresh_start_forgets_the_sessions_of_earlier_runs(
    hub_env: dict[str, str], opencode: OpenCode, project: Callable[[str], Path]
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(hub_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        hub.stop()
    with Daemon(hub_env, command=("-m", "agenthub_cli", "daemon", "--fresh")) as hub:
        hub.wait_for("sessions.left_alone")
        later = opencode.create_session(project("web"))
        hub.wait_for("agent.registered", session=later["id"])
        assert len(hub.said("agent.registered")) == 1
        eventually(lambda: known_sessions(hub) == [later["id"]])


def known_sessions(hub: Daemon) -> list[str]:
    path = hub.directory / "session_agents.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def test_without_a_server_it_starts_one_with_a_password_and_stops_it_again(
    opencode: OpenCode, scripted_model: ScriptedModel, tmp_path: Path
) -> None:
    del scripted_model
    port = free_port()
    env = opencode.env | {
        "AGENT_HUB_DIR": str(tmp_path / "hub"),
        "OPENCODE_PORT": str(port),
        "PATH": f"{opencode.binary.parent}:{opencode.env['PATH']}",
    }
    with Daemon(env) as hub:
        record = hub.directory / "server.json"
        server = json.loads(record.read_text())
        health = f"http://127.0.0.1:{port}/global/health"

        assert record.stat().st_mode & 0o777 == 0o600
        assert httpx.get(health).status_code == 401
        assert httpx.get(health, auth=("opencode", server["password"])).status_code == 200
        assert server["password"] not in str(hub.lines)
        assert hub.stop() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(health)
        assert not record.exists()
        assert not Path(f"/proc/{server['pid']}").exists()


def test_a_killed_daemons_server_is_taken_over_by_the_next(
    opencode: OpenCode, scripted_model: ScriptedModel, tmp_path: Path
) -> None:
    del scripted_model
    env = opencode.env | {
        "AGENT_HUB_DIR": str(tmp_path / "hub"),
        "OPENCODE_PORT": str(free_port()),
        "PATH": f"{opencode.binary.parent}:{opencode.env['PATH']}",
    }
    with Daemon(env) as hub:
        first = json.loads((hub.directory / "server.json").read_text())
        hub.kill()
    with Daemon(env) as hub:
        assert json.loads((hub.directory / "server.json").read_text()) == first
        hub.wait_for("relay.up")
        hub.stop()
    eventually(lambda: not Path(f"/proc/{first['pid']}").exists())


def test_without_opencode_it_says_how_to_get_it(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": "/nonexistent", "OPENCODE_PORT": str(free_port())}

    done = agenthub("daemon", env=env)

    assert done.returncode == 1
    assert "npm install -g opencode-ai" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_that_is_wrong_with_the_settings_is_said_at_once(tmp_path: Path) -> None:
    config = tmp_path / ".config" / "agent-hub-daemon" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"injection": {"workers": 0}, "log_level": "LOUD"}))

    done = agenthub("daemon", env={"HOME": str(tmp_path), "OPENCODE_PORT": "many"})

    assert done.returncode == 2
    for part in ("OPENCODE_PORT", "'many'", "injection.workers", str(config), "'LOUD'", "DEBUG"):
        assert part in done.stderr


def test_the_version_and_the_help_come_at_once_and_show_examples() -> None:
    assert agenthub("--version").stdout.startswith("agenthub ")
    assert "daemon" in agenthub("--help").stdout
    assert "agenthub daemon --log-level DEBUG" in agenthub("daemon", "--help").stdout


def test_its_log_can_be_followed_by_a_person(hub_env: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stream:
        begun = subprocess.Popen(
            [sys.executable, "-m", "agenthub_cli", "daemon"], env=hub_env, stderr=stream
        )
        with watched(begun) as daemon:
            eventually(lambda: "the relay answers" in log.read_text())
            daemon.terminate()
            assert daemon.wait(STOPS_WITHIN) == 0

    lines = log.read_text().splitlines()
    assert all(line[2] == ":" and line[9:13] == "INFO" for line in lines), lines
    assert hub_env["AGENT_HUB_DIR"] in lines[-1]


def test_an_agent_of_the_old_kind_is_reached_through_the_session_in_its_directory(
    hub_env: dict[str, str],
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    with Daemon(hub_env) as hub:
        hub.wait_for("agent.registered", session=session["id"])
        # as agent-hub-mcp writes it: of sessions it knows nothing
        old = {"id": "reviewer", "projectPath": session["directory"], "role": "reviews"}
        (hub.directory / "agents" / "reviewer.json").write_text(json.dumps(old))

        hub.send("m", sender="writer", to="reviewer", content="Have a look.")

        request = scripted_model.wait_for(in_session(session["id"]))
        assert 'wrote to you, "reviewer"' in request.last_user
        (delivery,) = hub.outcome("m")["agenthub"]["deliveries"]
        assert (delivery["recipient"], delivery["session"]) == ("reviewer", session["id"])
        opencode.wait_for_idle(session["id"])
