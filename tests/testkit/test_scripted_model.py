"""The scripted model as any client of an OpenAI-compatible provider sees it."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from testkit.scripted_model import (
    Failure,
    Held,
    Request,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    after_tool,
    in_directory,
    in_session,
    last_user,
)

TOOLS = [{"type": "function", "function": {"name": "bash"}}]


def complete(
    model: ScriptedModel, *messages: dict[str, Any], session: str = "ses_1", tools: Any = TOOLS
) -> httpx.Response:
    return httpx.post(
        f"{model.url}/chat/completions",
        json={"model": "echo", "stream": True, "messages": messages, "tools": tools},
        headers={"x-session-id": session},
        trust_env=False,
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def said(response: httpx.Response) -> str:
    deltas = [choice["delta"] for chunk in chunks(response) for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


def test_streams_role_content_finish_and_usage() -> None:
    with ScriptedModel([Rule(last_user("ping"), Text("pong"))]) as model:
        role, content, finish, usage = chunks(complete(model, user("ping")))

    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert content["choices"][0]["delta"] == {"content": "pong"}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["total_tokens"] == 110


def test_the_first_rule_that_applies_answers() -> None:
    api = {"role": "system", "content": "<env>\n  Working directory: /src/api\n</env>"}
    rules = [
        Rule(in_directory(Path("/src/api")) & last_user("ping"), Text("api")),
        Rule(in_session("ses_2"), Text("second")),
        Rule(~last_user("ping"), lambda request: Text(f"you said {request.last_user}")),
    ]
    with ScriptedModel(rules, otherwise=Text("otherwise")) as model:
        assert said(complete(model, api, user("ping"))) == "api"
        assert said(complete(model, user("ping"), session="ses_2")) == "second"
        assert said(complete(model, user("hello"))) == "you said hello"
        assert said(complete(model, user("ping"))) == "otherwise"


def test_several_replies_are_the_steps_of_one_turn() -> None:
    rule = Rule(last_user("build"), [ToolCall("bash", command="make"), Text("built")])
    with ScriptedModel([rule]) as model:
        delta = chunks(complete(model, user("build")))[1]["choices"][0]["delta"]
        (call,) = delta["tool_calls"]
        assert call["function"] == {"name": "bash", "arguments": '{"command": "make"}'}

        asked = {"role": "assistant", "content": None, "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "make: done"}
        assert said(complete(model, user("build"), asked, result)) == "built"

        told = model.wait_for(after_tool("bash"))
        assert told.step == 1
        assert "make: done" in told.conversation

        beyond = complete(model, user("build"), asked, result, asked, result)
        assert said(beyond) == "ok"


def test_a_rule_can_be_used_up() -> None:
    rules = [
        Rule(last_user("ping"), Failure(500, "overloaded", {"retry-after-ms": "1"}), times=1),
        Rule(last_user("ping"), Text("pong")),
    ]
    with ScriptedModel(rules) as model:
        refused = complete(model, user("ping"))
        assert refused.status_code == 500
        assert refused.headers["retry-after-ms"] == "1"
        assert refused.json()["error"]["message"] == "overloaded"
        assert said(complete(model, user("ping"))) == "pong"


def test_a_held_answer_waits_for_its_release() -> None:
    held = Held(Text("at last"))
    answers: list[str] = []
    with ScriptedModel([Rule(last_user("wait"), held)]) as model:
        client = threading.Thread(
            target=lambda: answers.append(said(complete(model, user("wait"))))
        )
        client.start()
        model.wait_for(last_user("wait"))
        assert said(complete(model, user("others are served meanwhile"))) == "ok"
        assert answers == []
        held.release()
        client.join(timeout=5)
    assert answers == ["at last"]


def test_titles_are_answered_apart_and_are_no_turns() -> None:
    prompt = {"role": "system", "content": "You are a title generator."}
    with ScriptedModel(title="My title") as model:
        assert said(complete(model, prompt, user("ping"), tools=[])) == "My title"
        assert said(complete(model, user("ping"))) == "ok"

        (turn,) = model.requests
        assert (turn.index, turn.session, turn.tools) == (1, "ses_1", ("bash",))
        assert [request.index for request in model.title_requests] == [0]


def test_waiting_in_vain_shows_what_was_seen() -> None:
    with ScriptedModel() as model:
        complete(model, user("something else"))
        with pytest.raises(AssertionError, match=r"last_user\('ping'\)(.|\n)*something else"):
            model.wait_for(last_user("ping"), timeout=0)


def test_a_reset_dismisses_the_sessions_seen_so_far() -> None:
    with ScriptedModel([Rule(last_user("ping"), Text("pong"))]) as model:
        complete(model, user("ping"), session="ses_old")
        model.reset()
        assert said(complete(model, user("ping"), session="ses_old")) == "ok"
        assert said(complete(model, user("ping"), session="ses_new")) == "ok"
        assert [request.session for request in model.requests] == ["ses_new"]


def test_a_client_may_hang_up(capfd: pytest.CaptureFixture[str]) -> None:
    held = Held(Text("nobody listens" * 100_000))  # more than a socket's buffers take
    with ScriptedModel([Rule(last_user("wait"), held)]) as model:
        body = json.dumps({"messages": [user("wait")]}).encode()
        address = httpx.URL(model.url)
        with socket.create_connection((address.host, address.port or 0)) as client:
            head = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            model.wait_for(last_user("wait"))
        held.release()
        assert said(complete(model, user("still there?"))) == "ok"
    assert capfd.readouterr().err == ""


def test_a_request_shows_what_the_model_was_told() -> None:
    request = Request(
        index=0,
        session="ses_1",
        messages=(
            {"role": "system", "content": "  Working directory: /src/api\n"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"text": "two"}]},
        ),
        tools=("bash",),
    )
    assert request.directory == Path("/src/api")
    assert request.last_user == "one\ntwo"
    assert str(request) == "#0 ses_1 in /src/api, step 0: 'one\\ntwo'"
