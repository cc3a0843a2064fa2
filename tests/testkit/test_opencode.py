"""Real OpenCode with a scripted model: its turns, its projects, its restarts and its windows."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from testkit.opencode import OpenCode, find_opencode
from testkit.scripted_model import (
    Failure,
    Held,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    after_tool,
    in_directory,
    in_session,
    last_user,
)
from testkit.waiting import eventually
from testkit.window import Window

Project = Callable[[str], Path]

# The command ends when the test creates the file: a tool that runs exactly as long as needed.
UNTIL_GO = "while [ ! -e go ]; do sleep 0.05; done; echo went"


def runs_a_tool(messages: list[dict[str, Any]]) -> bool:
    return any(
        part["type"] == "tool" and part["state"]["status"] == "running"
        for message in messages
        for part in message["parts"]
    )


def test_a_prompt_is_answered_by_the_script(
    opencode: OpenCode, scripted_model: ScriptedModel, project: Project
) -> None:
    scripted_model.add(Rule(last_user("ping"), Text("pong")))
    session = opencode.create_session(project("api"), title="Mine")

    assert opencode.ask(session["id"], "ping") == "pong"

    (request,) = scripted_model.requests
    assert request.session == session["id"]
    assert request.directory == Path(session["directory"])
    assert "bash" in request.tools
    assert opencode.session(session["id"])["title"] == "Mine"


def test_a_tool_call_is_really_run(
    opencode: OpenCode, scripted_model: ScriptedModel, project: Project
) -> None:
    scripted_model.add(Rule(last_user("run"), [ToolCall("bash", command=UNTIL_GO), Text("done")]))
    api = project("api")
    session = opencode.create_session(api)["id"]

    opencode.prompt(session, "run")
    eventually(lambda: opencode.messages(session), when=runs_a_tool)
    assert opencode.status(api) == {session: {"type": "busy"}}

    (api / "go").touch()
    opencode.wait_for_idle(session)
    assert "went" in scripted_model.wait_for(after_tool("bash")).conversation
    assert len(scripted_model.requests) == 2


def test_two_projects_get_different_answers(
    opencode: OpenCode, scripted_model: ScriptedModel, project: Project
) -> None:
    api, web = project("api"), project("web")
    scripted_model.add(
        Rule(in_directory(api), Text("I am the API")),
        Rule(in_directory(web), Text("I am the website")),
    )
    first, second = (opencode.create_session(directory)["id"] for directory in (api, web))

    assert opencode.ask(first, "who?") == "I am the API"
    assert opencode.ask(second, "who?") == "I am the website"
    assert {session["id"] for session in opencode.sessions()} >= {first, second}


def test_a_held_answer_keeps_the_turn_in_progress(
    opencode: OpenCode, scripted_model: ScriptedModel, project: Project
) -> None:
    held = Held(Text("at last"))
    session = opencode.create_session(api := project("api"))["id"]
    scripted_model.add(Rule(in_session(session), held))

    opencode.prompt(session, "think")
    scripted_model.wait_for(in_session(session))
    assert opencode.status(api) == {session: {"type": "busy"}}
    held.release()

    *_, answer = opencode.wait_for_idle(session)
    assert answer["info"]["finish"] == "stop"


def test_opencode_gives_up_at_401_and_repeats_at_503(
    opencode: OpenCode, scripted_model: ScriptedModel, project: Project
) -> None:
    at_once = {"retry-after-ms": "1"}
    scripted_model.add(
        Rule(last_user("key"), Failure(401, "bad key")),
        Rule(last_user("load"), Failure(503, "overloaded", at_once), times=2),
    )
    session = opencode.create_session(project("api"))["id"]

    opencode.prompt(session, "key")
    *_, refused = opencode.wait_for_idle(session)
    assert refused["info"]["error"]["data"]["message"] == "bad key"

    assert opencode.ask(session, "load") == "ok"
    scripted_model.wait_for(last_user("load"), count=3)


def test_a_killed_server_takes_its_tools_along_and_comes_back_with_its_sessions(
    opencode: OpenCode, scripted_model: ScriptedModel, project: Project
) -> None:
    command = f"echo $$ > pid; {UNTIL_GO}"
    scripted_model.add(Rule(last_user("run"), ToolCall("bash", command=command)))
    session = opencode.create_session(api := project("api"))
    opencode.prompt(session["id"], "run")
    shell = int(eventually(lambda: "".join(path.read_text() for path in api.glob("pid"))))
    url = opencode.url

    opencode.kill()
    eventually(lambda: not lives(shell))
    with pytest.raises(httpx.ConnectError):
        opencode.session(session["id"])

    opencode.start()
    assert opencode.url == url
    assert opencode.session(session["id"])["slug"] == session["slug"]
    assert opencode.ask(session["id"], "after") == "ok"


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_password_is_asked_for(
    opencode_binary: Path, scripted_model: ScriptedModel, tmp_path: Path, project: Project
) -> None:
    password = secrets.token_urlsafe()
    home = tmp_path / "home"
    with OpenCode(opencode_binary, home, scripted_model.url, password=password) as opencode:
        assert httpx.get(f"{opencode.url}/session").status_code == 401
        assert opencode.create_session(project("api"))["id"].startswith("ses_")


def test_nothing_of_the_caller_leaks(
    opencode_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENCODE_CONFIG", "XDG_DATA_HOME", "AGENT_HUB_DIR", "HTTP_PROXY"):
        monkeypatch.setenv(name, "the caller's own")
    opencode = OpenCode(opencode_binary, tmp_path / "home", "http://127.0.0.1:1/v1")
    assert "the caller's own" not in opencode.env.values()
    assert opencode.env["HOME"] == str(tmp_path / "home")


def test_a_window_runs_turns_and_tools(
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    project: Project,
    open_window: Callable[..., Window],
) -> None:
    scripted_model.add(
        Rule(last_user("ping"), Text("pong")),
        Rule(last_user("run"), [ToolCall("bash", command=UNTIL_GO), Text("all done")]),
    )
    window = open_window(api := project("api"))
    window.wait_for_text("Ask anything")

    window.type("ping")
    window.press("Enter")
    window.wait_for_text("pong")
    session = window.session()["id"]
    opencode.wait_for_idle(session)

    window.type("run")
    window.press("Enter")
    eventually(lambda: opencode.messages(session), when=runs_a_tool)
    # The turn runs in the window's process, of which the server's status does not speak.
    assert opencode.status(api) == {}
    (api / "go").touch()
    window.wait_for_text("all done")
    opencode.wait_for_idle(session)


def test_a_port_that_is_taken_is_told(opencode_binary: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        opencode = OpenCode(opencode_binary, tmp_path / "home", "http://127.0.0.1:1/v1", port)
        with pytest.raises(RuntimeError, match=f"did not start on .*{port}"):
            opencode.start()
    assert not opencode.running


def test_a_start_that_is_interrupted_leaves_no_process(
    opencode_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def interrupted(**_: object) -> httpx.Client:
        started.append(opencode.pid)
        raise KeyboardInterrupt

    opencode = OpenCode(opencode_binary, tmp_path / "home", "http://127.0.0.1:1/v1")
    monkeypatch.setattr(httpx, "Client", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opencode.start()
    assert not opencode.running
    assert not lives(*started)


def test_the_environment_names_the_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTHUB_OPENCODE", "somewhere/opencode")
    assert find_opencode() == Path("somewhere/opencode")
