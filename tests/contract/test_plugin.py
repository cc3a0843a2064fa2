"""docs/endpoint.md, held to by the plugin in the real OpenCode: server, windows, `opencode run`."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit import claiming
from testkit.endpoint import Endpoint, Events
from testkit.opencode import OpenCode, make_project, said
from testkit.scripted_model import (
    USAGE,
    Failure,
    Held,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    in_session,
    last_user,
)
from testkit.waiting import PATIENCE, eventually
from testkit.window import Window

MODEL = {"providerID": "fake", "modelID": "echo"}
QUESTION = ToolCall(
    "question",
    questions=[
        {
            "question": "Which colour?",
            "header": "Colour",
            "options": [{"label": "red", "description": "as a rose"}],
        }
    ],
)
ASK = ToolCall("bash", command="true", description="needs a permission")
SEND = ToolCall("agent-hub_send_message", content="hello")


numbers = itertools.count()


def message_id() -> str:
    """As the hub makes it for a message; no two of a database's sessions have one in common."""
    return f"msg_0123456789abAgHub{next(numbers):09}"


def prompt(text: str, **more: Any) -> dict[str, Any]:
    return {"messageID": message_id(), "parts": [{"type": "text", "text": text}], **more}


def note_id() -> str:
    return f"msg_0123456789abAgTld{next(numbers):09}"


@pytest.fixture(scope="module")
def _shared_opencode(
    opencode_binary: Path, _shared_model: ScriptedModel, short_home: Path
) -> Iterator[OpenCode]:
    """A server with the plugin, and with tools that claim each call; no command runs unasked."""
    claims = [sys.executable, claiming.__file__, str(short_home / ".agent-hub" / "run")]
    settings = {
        "mcp": {"agent-hub": {"type": "local", "command": claims}},
        "permission": {"bash": "ask"},
    }
    with OpenCode(
        opencode_binary, short_home, _shared_model.url, settings=settings, plugin=True
    ) as opencode:
        yield opencode


@pytest.fixture
def endpoint(opencode: OpenCode, api: dict[str, Any]) -> Endpoint:
    """That of the server, which begins with the first session."""
    del api
    endpoint = Endpoint(opencode.home, opencode.pid)
    endpoint.wait_until_it_listens()
    return endpoint


@pytest.fixture
def api(opencode: OpenCode, project: Callable[[str], Path]) -> dict[str, Any]:
    """A session on the server."""
    return opencode.create_session(project("api"))


@pytest.fixture
def events(endpoint: Endpoint) -> Iterator[Events]:
    with endpoint.listening() as events:
        yield events


# --------------------------------------------------------------------------------------- sessions


def test_a_process_says_who_it_is_and_which_sessions_live_there(
    opencode: OpenCode, endpoint: Endpoint, api: dict[str, Any]
) -> None:
    hello = endpoint.hello()
    sessions = hello.pop("sessions")
    assert hello == {"protocol": 1, "plugin": 1, "pid": opencode.pid}
    assert sessions[-1] == {
        "id": api["id"],
        "state": "idle",
        "used": 0,
        "opened": pytest.approx(api["time"]["created"], abs=5000),
        "shown": None,
    }
    assert endpoint.socket.stat().st_mode & 0o777 <= 0o755
    assert endpoint.socket.parent.stat().st_mode & 0o777 == 0o700


def test_a_session_is_told_of_when_it_begins_and_when_it_is_deleted(
    opencode: OpenCode, events: Events, project: Callable[[str], Path]
) -> None:
    session = opencode.create_session(project("web"))["id"]
    events.wait_for("session", id=session, state="idle")
    opencode.request("DELETE", f"/session/{session}")
    events.wait_for("gone", id=session)


def test_a_session_is_used_by_its_user_and_not_by_the_hub(
    opencode: OpenCode, endpoint: Endpoint, events: Events, api: dict[str, Any]
) -> None:
    endpoint.prompt(api["id"], "a message", messageID=message_id())
    events.wait_for_turn(api["id"])
    endpoint.prompt(api["id"], "a note", messageID=note_id(), noReply=True)
    assert endpoint.sessions()[api["id"]]["used"] == 0
    opencode.ask(api["id"], "from the user")
    assert endpoint.sessions()[api["id"]]["used"] > 0


# ----------------------------------------------------------------------------------------- states


def test_a_turn_is_busy_until_its_end_also_while_the_model_is_out_of_reach(
    opencode: OpenCode, scripted_model: ScriptedModel, events: Events, api: dict[str, Any]
) -> None:
    late = Failure(503, headers={"retry-after-ms": "50"})
    scripted_model.add(Rule(in_session(api["id"]), late, times=1))
    opencode.prompt(api["id"], "work on it")
    events.wait_for_turn(api["id"])
    assert events.states(api["id"]) == ["idle", "busy", "idle"]


def pending(opencode: OpenCode, kind: str, session: dict[str, Any]) -> str:
    """The request to the user that OpenCode shows: `permission` or `question`."""
    here = {"directory": session["directory"]}
    [request] = eventually(lambda: opencode.request("GET", f"/{kind}", params=here).json())
    return f"/{kind}/{request['id']}"


@pytest.mark.parametrize(
    ("asks", "kind", "answer"),
    [
        (ASK, "permission", ("reply", {"reply": "once"})),
        (ASK, "permission", ("reply", {"reply": "reject"})),
        (ASK, "permission", None),
        (QUESTION, "question", ("reply", {"answers": [["red"]]})),
        (QUESTION, "question", ("reject", {})),
        (QUESTION, "question", None),
    ],
)
def test_a_session_waits_for_its_user_until_the_answer_or_an_abort(
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    events: Events,
    api: dict[str, Any],
    *,
    asks: ToolCall,
    kind: str,
    answer: tuple[str, dict[str, Any]] | None,
) -> None:
    scripted_model.add(Rule(in_session(api["id"]), [asks, Text("done")]))
    opencode.prompt(api["id"], "work on it")
    events.wait_for("session", id=api["id"], state="waiting")
    if answer is None:
        opencode.abort(api["id"])
    else:
        how, body = answer
        path = f"{pending(opencode, kind, api)}/{how}"
        opencode.request("POST", path, params={"directory": api["directory"]}, json=body)
    events.wait_for_turn(api["id"])
    states = events.states(api["id"])
    assert (states[:3], states[-1]) == (["idle", "busy", "waiting"], "idle")


def test_a_session_waits_when_its_subagent_asks(
    opencode: OpenCode, scripted_model: ScriptedModel, events: Events, api: dict[str, Any]
) -> None:
    task = ToolCall("task", description="d", prompt="try it", subagent_type="general")
    scripted_model.add(
        Rule(in_session(api["id"]), [task, Text("done")]),
        Rule(last_user("try it"), [ASK, Text("tried")]),
    )
    opencode.prompt(api["id"], "let another do it")
    events.wait_for("session", id=api["id"], state="waiting")
    opencode.abort(api["id"])
    events.wait_for_turn(api["id"])
    eventually(lambda: events.states(api["id"])[-1], when=lambda state: state == "idle")
    assert {told["id"] for told in events.of("session")} == {api["id"]}


# ---------------------------------------------------------------------------------------- prompts


def test_a_prompt_goes_to_its_session_in_whatever_directory_and_keeps_its_agent(
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    endpoint: Endpoint,
    api: dict[str, Any],
    project: Callable[[str], Path],
) -> None:
    web = opencode.create_session(project("web"))
    for session in (api, web):
        message = message_id()
        body = {"messageID": message, "agent": "plan", "model": MODEL}
        assert endpoint.prompt(session["id"], "hello", **body) == {"accepted": 1}
        request = scripted_model.wait_for(in_session(session["id"]))
        assert request.directory == Path(session["directory"])
        assert "Plan" in request.conversation
        held = opencode.request("GET", f"/session/{session['id']}/message/{message}").json()
        assert held["info"]["agent"] == "plan"


def test_a_prompt_is_refused_that_would_disturb(
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    endpoint: Endpoint,
    events: Events,
    api: dict[str, Any],
) -> None:
    held = Held(ASK)
    scripted_model.add(Rule(in_session(api["id"]), [held, Text("done")]))
    opencode.prompt(api["id"], "work on it")
    scripted_model.wait_for(in_session(api["id"]))
    note = endpoint.prompt(api["id"], "a note", noReply=True)
    assert note == {"accepted": 0, "refused": {"status": 409, "error": "it is busy"}}
    held.release()
    events.wait_for("session", id=api["id"], state="waiting")
    message = endpoint.prompt(api["id"], "a message")
    assert message == {"accepted": 0, "refused": {"status": 409, "error": "it is waiting"}}
    opencode.abort(api["id"])
    events.wait_for_turn(api["id"])
    assert len([m for m in opencode.messages(api["id"]) if m["info"]["role"] == "user"]) == 1


def test_what_opencode_does_not_take_it_says_itself(
    endpoint: Endpoint, api: dict[str, Any]
) -> None:
    unknown = endpoint.prompt("ses_nobody", "hello")
    error = "Session not found: ses_nobody"
    assert unknown == {"accepted": 0, "refused": {"status": 404, "error": error}}
    malformed = endpoint.prompt(api["id"], "", parts="hello")
    assert malformed["refused"]["status"] == 400
    assert "parts" in malformed["refused"]["error"]


def texts(opencode: OpenCode, session: str) -> list[str]:
    """What was said to it, in the order in which it is held."""
    messages = opencode.messages(session)
    return [said(message) for message in messages if message["info"]["role"] == "user"]


def test_what_comes_after_a_prompt_that_is_refused_is_not_tried(
    opencode: OpenCode, endpoint: Endpoint, events: Events, api: dict[str, Any]
) -> None:
    first, second = prompt("first"), prompt("second")
    answer = endpoint.burst(api["id"], first, {"messageID": message_id(), "parts": "no"}, second)
    assert (answer["accepted"], answer["refused"]["status"]) == (1, 400)
    events.wait_for_turn(api["id"])
    late = {"status": 408, "error": "it is too late"}
    assert endpoint.burst(api["id"], second, before=1) == {"accepted": 0, "refused": late}
    assert texts(opencode, api["id"]) == ["first"]


# ------------------------------------------------------------------------------------------ steps


def step(message: str, parent: str | None, session: str) -> dict[str, Any]:
    """What is told of a step on the scripted model."""
    spent = {"input": USAGE["prompt_tokens"], "output": USAGE["completion_tokens"]}
    tokens = {"total": USAGE["total_tokens"], **spent, "reasoning": 0}
    tokens["cache"] = {"read": 0, "write": 0}  # type: ignore[assignment]
    return {"id": session, "message": message, "parent": parent, "tokens": tokens, "cost": 0}


def last_words(events: Events) -> list[dict[str, Any]]:
    """What was told last of each step, in the order in which they came to their ends."""
    return list({told["message"]: told for told in events.of("step")}.values())


def answers(opencode: OpenCode, session: str) -> list[str]:
    """The ids of what the model said, in order."""
    infos = [message["info"] for message in opencode.messages(session)]
    return [info["id"] for info in infos if info["role"] == "assistant"]


def test_each_step_tells_what_it_has_answered_and_what_it_has_cost(
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    endpoint: Endpoint,
    events: Events,
    api: dict[str, Any],
) -> None:
    held = Held(SEND)
    scripted_model.add(Rule(last_user("first"), held), Rule(last_user("second"), Text("done")))
    first, second = message_id(), message_id()
    endpoint.prompt(api["id"], "first", messageID=first)
    scripted_model.wait_for(last_user("first"))
    endpoint.prompt(api["id"], "second", messageID=second)
    held.release()
    events.wait_for("step", parent=second)
    events.wait_for_turn(api["id"])
    one, two = answers(opencode, api["id"])
    assert last_words(events) == [step(one, first, api["id"]), step(two, second, api["id"])]


def test_a_step_that_failed_or_was_aborted_is_told_of_too(
    opencode: OpenCode, scripted_model: ScriptedModel, events: Events, api: dict[str, Any]
) -> None:
    scripted_model.add(
        Rule(last_user("refuse"), Failure(401)), Rule(last_user("abort"), Held(Text("never")))
    )
    opencode.prompt(api["id"], "refuse", messageID="msg_refuse")
    events.wait_for("step", parent="msg_refuse")
    opencode.prompt(api["id"], "abort", messageID="msg_abort")
    scripted_model.wait_for(last_user("abort"))
    opencode.abort(api["id"])
    events.wait_for("step", parent="msg_abort")
    opencode.prompt(api["id"], "go on", messageID="msg_on")
    events.wait_for("step", parent="msg_on")
    told = last_words(events)
    assert [each["parent"] for each in told] == ["msg_refuse", "msg_abort", "msg_on"]
    assert [each["tokens"]["input"] for each in told] == [0, 0, USAGE["prompt_tokens"]]


def test_a_subagents_steps_are_its_sessions(
    opencode: OpenCode, scripted_model: ScriptedModel, events: Events, api: dict[str, Any]
) -> None:
    task = ToolCall("task", description="d", prompt="try it", subagent_type="general")
    scripted_model.add(
        Rule(in_session(api["id"]), [task, Text("done")]), Rule(last_user("try it"), Text("tried"))
    )
    opencode.ask(api["id"], "let another do it", messageID="msg_another")
    events.wait_for_turn(api["id"])
    [child] = opencode.request("GET", f"/session/{api['id']}/children").json()
    [tried] = answers(opencode, child["id"])
    told = last_words(events)
    assert {each["id"] for each in told} == {api["id"]}
    assert step(tried, None, api["id"]) in told
    assert [each["parent"] for each in told].count("msg_another") == 2


def test_a_compaction_is_told_of_once_and_is_a_step(
    opencode: OpenCode, events: Events, api: dict[str, Any]
) -> None:
    opencode.ask(api["id"], "something to sum up")
    opencode.request("POST", f"/session/{api['id']}/summarize", json=MODEL)
    events.wait_for_turn(api["id"], count=2)
    [_, summary] = answers(opencode, api["id"])
    [_, told] = last_words(events)
    assert told == step(summary, told["parent"], api["id"])
    assert events.of("compacted") == [{"id": api["id"]}]


def test_what_a_fork_has_copied_are_no_steps(
    opencode: OpenCode, events: Events, api: dict[str, Any]
) -> None:
    opencode.ask(api["id"], "hello")
    fork = opencode.request("POST", f"/session/{api['id']}/fork", json={}).json()["id"]
    opencode.ask(fork, "hello again")
    events.wait_for_turn(fork)
    assert [each["message"] for each in last_words(events) if each["id"] == fork] == [
        answers(opencode, fork)[-1]
    ]


# --------------------------------------------------------------------------------------- who calls


def result(opencode: OpenCode, session: str) -> dict[str, Any]:
    """What the tool server answered last."""
    parts = [part for message in opencode.messages(session) for part in message["parts"]]
    state = [part["state"] for part in parts if part["type"] == "tool"][-1]
    answer: dict[str, Any] = json.loads(state["output" if "output" in state else "error"])
    return answer


def claimed(answer: dict[str, Any]) -> dict[str, Any]:
    status, _, body = answer["claim"].partition(" ")
    assert status == "200", answer
    claim: dict[str, Any] = json.loads(body)
    return claim


def claim(endpoint: Endpoint, tool: str, name: str) -> int:
    return endpoint.request("POST", "/claim", json={"tool": tool, "name": name}).status_code


def test_a_call_bears_the_name_of_its_session_and_is_claimed_once(
    opencode: OpenCode, scripted_model: ScriptedModel, endpoint: Endpoint, api: dict[str, Any]
) -> None:
    made_up = ToolCall("agent-hub_send_message", content="hello", **{"from": "the-boss"})
    scripted_model.add(Rule(in_session(api["id"]), [made_up, Text("done")]))
    opencode.ask(api["id"], "say hello")
    assert result(opencode, api["id"])["given"]["from"] == api["id"]

    names = {api["id"]: {"agentId": "lucky-tiger"}}
    (opencode.home / ".agent-hub" / "session_agents.json").write_text(json.dumps(names))
    opencode.ask(api["id"], "say hello again")
    answer = result(opencode, api["id"])
    assert answer["given"]["from"] == "lucky-tiger"
    assert claimed(answer) == {
        "session": api["id"],
        "slug": api["slug"],
        "directory": api["directory"],
    }
    assert claim(endpoint, "send_message", "lucky-tiger") == 404


def test_a_call_that_is_over_cannot_be_claimed(
    opencode: OpenCode, scripted_model: ScriptedModel, endpoint: Endpoint, api: dict[str, Any]
) -> None:
    for content in ("unclaimed", "fail unclaimed"):
        send = ToolCall("agent-hub_send_message", content=content)
        scripted_model.add(Rule(last_user(f"^{content}"), [send, Text("done")]))
        opencode.ask(api["id"], content)
        assert result(opencode, api["id"])["claim"] == ""
        assert claim(endpoint, "send_message", api["id"]) == 404


def test_a_subagent_calls_as_its_session(
    opencode: OpenCode, scripted_model: ScriptedModel, api: dict[str, Any]
) -> None:
    task = ToolCall("task", description="d", prompt="say hello", subagent_type="general")
    scripted_model.add(
        Rule(in_session(api["id"]), [task, Text("done")]),
        Rule(last_user("say hello"), [SEND, Text("said")]),
    )
    opencode.ask(api["id"], "let another do it")
    [child] = opencode.request("GET", f"/session/{api['id']}/children").json()
    assert claimed(result(opencode, child["id"]))["session"] == api["id"]


# --------------------------------------------------------------------------------- the processes


def test_a_run_is_an_endpoint_without_a_screen_as_long_as_it_lasts(
    opencode: OpenCode, scripted_model: ScriptedModel, project: Callable[[str], Path]
) -> None:
    held = Held(Text("done"))
    scripted_model.add(Rule(last_user("work on it"), held))
    running = subprocess.Popen(  # noqa: S603
        [opencode.binary, "run", "work on it"],
        cwd=project("run"),
        env=opencode.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with running:
        request = scripted_model.wait_for(last_user("work on it"))
        endpoint = Endpoint(opencode.home, running.pid)
        [session] = endpoint.hello()["sessions"]
        assert (session["id"], session["state"], session["shown"]) == (
            request.session,
            "busy",
            None,
        )
        held.release()
    assert not endpoint.socket.exists()


def test_a_process_that_was_killed_refuses_the_connection(
    opencode: OpenCode, endpoint: Endpoint, api: dict[str, Any]
) -> None:
    with endpoint.listening() as events:
        opencode.kill()
        eventually(lambda: events.ended)
    with socket.socket(socket.AF_UNIX) as refused, pytest.raises(ConnectionRefusedError):
        refused.connect(str(endpoint.socket))
    opencode.start()
    opencode.ask(api["id"], "go on")
    again = Endpoint(opencode.home, opencode.pid)
    assert list(again.sessions()) == [api["id"]], "it has been prompted there"


def test_a_hub_that_comes_after_opencode_is_found(
    opencode_binary: Path, scripted_model: ScriptedModel, short_home: Path
) -> None:
    later = OpenCode(
        opencode_binary,
        short_home / "later",
        scripted_model.url,
        plugin=True,
        env={"AGENT_HUB_DIR": str(short_home / "elsewhere")},
    )
    with later:
        endpoint = Endpoint(short_home, later.pid, "elsewhere")
        session = later.create_session(make_project(short_home / "project"))
        assert later.ask(session["id"], "hello") == "ok"
        endpoint.socket.parent.parent.mkdir()
        endpoint.socket.parent.write_text("where a directory should be")
        assert later.ask(session["id"], "hello") == "ok"
        endpoint.socket.parent.unlink()

        def listens() -> bool:
            later.ask(session["id"], "hello")
            return endpoint.socket.exists()

        eventually(listens)
        assert list(endpoint.sessions()) == [session["id"]]
        assert not (later.home / ".agent-hub" / "run").exists()


# ------------------------------------------------------------------------------------ the screen


@pytest.fixture(scope="module")
def _shared_window(_shared_opencode: OpenCode, short_home: Path) -> Iterator[Window]:
    with Window(_shared_opencode, make_project(short_home / "window")) as window:
        window.wait_for_text("Ask anything")
        yield window


@pytest.fixture
def window(tmux: None, _shared_window: Window, opencode: OpenCode) -> Window:
    """A window at its start, in which earlier tests may have had sessions."""
    del tmux, opencode
    enter(_shared_window, "/new")
    _shared_window.wait_for_text("Ask anything")
    return _shared_window


@pytest.fixture
def in_window(window: Window, short_home: Path) -> Endpoint:
    return Endpoint(short_home, window.pid)


def enter(window: Window, text: str) -> None:
    window.type(text)
    # What begins with a slash is looked up first, and only then to be entered.
    window.wait_for_text(text)
    window.press("Enter")


def begin(window: Window, events: Events, text: str) -> str:
    """A new session in the window, after its first turn; its id."""
    known = {told["id"] for told in events.of("session")}
    enter(window, text)

    def new() -> list[str]:
        shown = [told["id"] for told in events.of("session", shown=True)]
        return [session for session in shown if session not in known]

    session = eventually(new)[0]
    events.wait_for_turn(session)
    return session


def test_a_window_tells_which_session_is_on_screen(window: Window, in_window: Endpoint) -> None:
    with in_window.listening() as events:
        assert not any(told["shown"] for told in events.of("hello")[0]["sessions"])
        session = begin(window, events, "hello")
        told = in_window.sessions()[session]
        assert (told["state"], told["shown"]) == ("idle", True)
        assert told["used"] > 0
        enter(window, "/new")
        eventually(lambda: not in_window.sessions()[session]["shown"])
        window.press("C-x")
        window.type("l")
        window.wait_for_text("Scripted title")
        window.press("Enter")
        again = eventually(lambda: in_window.sessions()[session], when=lambda now: now["shown"])
        assert again["opened"] > told["opened"]
        assert again["used"] == told["used"]


def test_a_message_to_a_session_that_is_not_on_screen_any_more_is_announced(
    opencode: OpenCode, window: Window, in_window: Endpoint
) -> None:
    unseen = opencode.create_session(window.directory, "Never on this screen")["id"]
    with in_window.listening() as events:
        session = begin(window, events, "hello")
        in_window.prompt(unseen, "to one never shown", messageID=message_id(), model=MODEL)
        events.wait_for_turn(unseen)
        in_window.prompt(session, "to the one on screen", messageID=message_id(), model=MODEL)
        events.wait_for_turn(session, count=2)
        assert "A message came" not in window.wait_for_text("to the one on screen")
        enter(window, "/new")
        eventually(lambda: not in_window.sessions()[session]["shown"])
        in_window.prompt(session, "a note", messageID=note_id(), noReply=True)
        in_window.prompt(session, "to one left", messageID=message_id(), model=MODEL)
        window.wait_for_text('A message came to "Scripted title".')
        assert "ctrl+x l opens the list of sessions." in " ".join(
            window.screen().replace("┃", " ").split()
        )
        assert window.screen().count("A message came") == 1


def test_a_burst_is_in_a_window_in_its_order(
    opencode: OpenCode, window: Window, in_window: Endpoint
) -> None:
    with in_window.listening() as events:
        session = begin(window, events, "hello")
        burst = [f"message {number:02}" for number in range(50)]
        prompts = [prompt(text, model=MODEL) for text in burst]
        assert in_window.burst(session, *prompts) == {"accepted": 50}
        assert texts(opencode, session) == ["hello", *burst]
        events.wait_for("step", parent=prompts[-1]["messageID"])
        told = in_window.sessions()[session]
        assert (told["agent"], told["model"]["id"]) == ("build", "echo")


def test_escape_ends_the_waiting_and_the_turn(
    scripted_model: ScriptedModel, window: Window, in_window: Endpoint
) -> None:
    scripted_model.add(
        Rule(last_user("try it"), [ASK, Text("done")]),
        Rule(last_user("take your time"), Held(Text("never"))),
    )
    with in_window.listening() as events:
        enter(window, "try it")
        session = events.wait_for("session", state="waiting")["id"]
        window.wait_for_text("Permission required")
        window.press("Escape")
        events.wait_for_turn(session)
        assert in_window.sessions()[session]["state"] == "idle"
        enter(window, "take your time")
        scripted_model.wait_for(last_user("take your time"))
        window.wait_for_text("esc interrupt")
        window.press("Escape")
        window.wait_for_text("again to interrupt")
        window.press("Escape")
        events.wait_for_turn(session, count=2)


def test_a_session_that_is_resumed_lives_in_its_new_window_until_that_is_closed(
    opencode: OpenCode, api: dict[str, Any], open_window: Callable[..., Window]
) -> None:
    opencode.ask(api["id"], "hello")
    window = open_window(Path(api["directory"]), "--session", api["id"])
    endpoint = Endpoint(opencode.home, window.pid)
    endpoint.wait_until_it_listens()
    told = eventually(endpoint.sessions)[api["id"]]
    assert (told["state"], told["used"], told["shown"]) == ("idle", 0, True)
    assert told["opened"] > 0
    window.wait_for_text("Build ·")
    enter(window, "here I am")
    eventually(lambda: endpoint.sessions()[api["id"]]["used"])
    with endpoint.listening() as events:
        window.press("C-c")
        eventually(lambda: events.ended)
    eventually(lambda: not endpoint.socket.exists())


# ----------------------------------------------------------------------- what it costs and survives


@pytest.fixture
def alone(opencode_binary: Path, short_home: Path) -> Iterator[Callable[[str], Any]]:
    """The plugin in OpenCode's own Bun, which does things without OpenCode as it is told."""
    script = Path(__file__).parent.parent / "plugin" / "alone.mjs"
    env = {"BUN_BE_BUN": "1", "AGENT_HUB_DIR": str(short_home), "PATH": os.defpath}
    with subprocess.Popen(  # noqa: S603
        [opencode_binary, "run", script],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def do(task: str) -> Any:
            stdin.write(task + "\n")
            stdin.flush()
            return json.loads(stdout.readline())

        do.pid = process.pid  # type: ignore[attr-defined]
        yield do


def test_neither_a_start_nor_a_call_is_held_up(
    alone: Callable[[str], Any], short_home: Path
) -> None:
    names = {f"ses_{number}": {"agentId": f"agent-{number}"} for number in range(1000)}
    (short_home / "session_agents.json").write_text(json.dumps(names))
    assert 0 < alone("start") < 200
    assert 0 < alone("calls") < 1


def test_who_does_not_read_what_it_is_told_is_hung_up_on(
    alone: Callable[[str], Any], short_home: Path
) -> None:
    alone("start")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.settimeout(PATIENCE)
        deaf.connect(str(short_home / "run" / f"{alone.pid}.sock"))  # type: ignore[attr-defined]
        deaf.sendall(b"GET /events HTTP/1.1\r\nhost: endpoint\r\n\r\n")
        assert deaf.recv(15) == b"HTTP/1.1 200 OK"
        assert alone("crowd") == "done"
        received = 0
        while some := deaf.recv(1 << 16):
            received += len(some)
        assert received < 1_000_000


def test_what_speaks_no_http_is_hung_up_on(endpoint: Endpoint) -> None:
    with socket.socket(socket.AF_UNIX) as garbage, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(endpoint.socket))
        garbage.connect(str(endpoint.socket))
        garbage.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert garbage.recv(1000).startswith(b"HTTP/1.1 400")
        assert endpoint.hello()["protocol"] == 1


def test_opencode_has_nothing_to_complain_of(opencode: OpenCode, endpoint: Endpoint) -> None:
    endpoint.hello()
    log = opencode.home / ".local" / "share" / "opencode" / "log" / "opencode.log"
    lines = log.read_text().splitlines()
    assert lines
    assert not [line for line in lines if "plugin" in line and "level=ERROR" in line]


def test_it_passes_its_own_tests_in_opencodes_bun_too(opencode_binary: Path) -> None:
    tests = Path(__file__).parent.parent / "plugin"
    run = subprocess.run(  # noqa: S603
        [opencode_binary, "test", tests],
        env={"BUN_BE_BUN": "1", "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert " 0 fail" in run.stderr
