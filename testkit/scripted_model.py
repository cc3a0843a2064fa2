"""A language model that follows a script, so that real OpenCode runs real turns at no cost.

An OpenAI-compatible server on the loopback. A test states what the model answers to what, and
afterwards asserts on what the model was shown:

    with ScriptedModel([
        Rule(when=last_user("ping"), reply=Text("pong")),
        Rule(when=in_directory(api), reply=[ToolCall("bash", command="make"), Text("built")]),
    ]) as model:
        ...
        assert "make: done" in model.wait_for(after_tool("bash")).conversation

It knows nothing of OpenCode's processes (see `opencode`); it only speaks the protocol that OpenCode
expects of a provider. Requests for a session's title are answered apart and are no turns.

By hand, as an echo: python -m testkit.scripted_model --port 8000
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from attrs import field, frozen

from testkit.waiting import PATIENCE

# Round, so that a test which sums up tokens can do it in the head.
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


# --- what the model was asked ---------------------------------------------------------------------


@frozen
class Request:
    """One request as the model saw it."""

    index: int
    """The place in the order of arrival, titles included."""
    session: str | None
    """The OpenCode session, which 1.18 names in a header; None for any other client."""
    messages: tuple[Mapping[str, Any], ...] = field(repr=False)
    tools: tuple[str, ...] = field(repr=False)

    @property
    def system(self) -> str:
        return "\n".join(_text(m) for m in self.messages if m["role"] == "system")

    @property
    def last_user(self) -> str:
        return next((_text(m) for m in reversed(self.messages) if m["role"] == "user"), "")

    @property
    def conversation(self) -> str:
        """All that was said, tool calls and their results included; without the system prompt."""
        return "\n".join(_text(m) for m in self.messages if m["role"] != "system")

    @property
    def directory(self) -> Path | None:
        """Where the agent works, as OpenCode tells the model in the system prompt."""
        found = re.search(r"^\s*Working directory: (.+)$", self.system, re.MULTILINE)
        return Path(found[1]) if found else None

    @property
    def step(self) -> int:
        """How many answers this turn has had already: 0 for a new prompt, 1 after one tool call."""
        roles = [m["role"] for m in self.messages]
        since_user = roles[::-1].index("user") if "user" in roles else len(roles)
        return roles[len(roles) - since_user :].count("assistant")

    @property
    def is_title(self) -> bool:
        return not self.tools and "title generator" in self.system

    def __str__(self) -> str:
        where = self.session or "no session"
        return f"#{self.index} {where} in {self.directory}, step {self.step}: {self.last_user!r}"


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        said = content
    else:
        said = "\n".join(part.get("text", "") for part in content)
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return "\n".join([said, *(f"{call['name']}({call['arguments']})" for call in calls)]).strip()


# --- when to answer -------------------------------------------------------------------------------


@frozen
class Condition:
    """A predicate on a request that can be joined with `&`, `|`, `~` and tells what it asks for."""

    text: str
    holds: Callable[[Request], bool] = field(repr=False)

    def __call__(self, request: Request) -> bool:
        return self.holds(request)

    def __and__(self, other: Condition) -> Condition:
        return Condition(f"({self} & {other})", lambda r: self(r) and other(r))

    def __or__(self, other: Condition) -> Condition:
        return Condition(f"({self} | {other})", lambda r: self(r) or other(r))

    def __invert__(self) -> Condition:
        return Condition(f"~{self}", lambda r: not self(r))

    def __str__(self) -> str:
        return self.text


anything = Condition("anything", lambda _: True)


def last_user(pattern: str) -> Condition:
    """The newest user message contains the regular expression."""
    return Condition(f"last_user({pattern!r})", lambda r: bool(re.search(pattern, r.last_user)))


def conversation(pattern: str) -> Condition:
    """Anything said so far, tool results included, contains the regular expression."""
    return Condition(
        f"conversation({pattern!r})", lambda r: bool(re.search(pattern, r.conversation))
    )


def system(pattern: str) -> Condition:
    """The system prompt contains the regular expression."""
    return Condition(f"system({pattern!r})", lambda r: bool(re.search(pattern, r.system)))


def in_directory(directory: Path) -> Condition:
    """The agent works in exactly this directory."""
    # OpenCode resolves symbolic links before it tells the directory.
    return Condition(
        f"in_directory({str(directory)!r})", lambda r: r.directory == directory.resolve()
    )


def in_session(session: str) -> Condition:
    """The request comes from this OpenCode session."""
    return Condition(f"in_session({session!r})", lambda r: r.session == session)


def after_tool(name: str) -> Condition:
    """The model is being told the result of this tool."""

    def holds(request: Request) -> bool:
        last, *before = reversed(request.messages)
        return last["role"] == "tool" and any(
            call["id"] == last["tool_call_id"] and call["function"]["name"] == name
            for message in before
            for call in message.get("tool_calls", ())
        )

    return Condition(f"after_tool({name!r})", holds)


# --- what to answer -------------------------------------------------------------------------------


@frozen
class Text:
    """The model says this and ends the turn."""

    text: str


@frozen(init=False)
class ToolCall:
    """The model calls a tool; an MCP server's tool is named `<server>_<tool>`."""

    name: str
    arguments: Mapping[str, Any]

    def __init__(self, name: str, /, **arguments: Any) -> None:
        self.__attrs_init__(name, arguments)


@frozen
class Failure:
    """The provider refuses. OpenCode gives up at 401 and repeats by itself at 429 and 5xx."""

    status: int
    message: str = "scripted failure"
    headers: Mapping[str, str] = field(factory=dict)
    """`{"retry-after-ms": "50"}` shortens the pause that OpenCode makes before it repeats."""


@frozen(eq=False)
class Held:
    """The answer comes only when the test releases it: until then the turn is in progress."""

    answer: Text | ToolCall | Failure
    _released: threading.Event = field(factory=threading.Event, init=False, repr=False)

    def release(self) -> None:
        self._released.set()

    def wait(self) -> Text | ToolCall | Failure:
        self._released.wait()
        return self.answer


Answer = Text | ToolCall | Failure | Held
Reply = Answer | Callable[[Request], Answer]


def _replies(reply: Reply | Sequence[Reply]) -> tuple[Reply, ...]:
    return tuple(reply) if isinstance(reply, Sequence) else (reply,)


@frozen
class Rule:
    """What to answer when. The first rule that applies is used.

    Several replies are the steps of one turn: the first answers the prompt, the second the result
    of the first's tool call, and so on. A rule that has no reply for a step does not apply to it.
    A reply may be a function of the request, for an agent that quotes what it was told.
    """

    when: Callable[[Request], bool]
    reply: Sequence[Reply] = field(converter=_replies)
    times: int | None = field(default=None, kw_only=True)
    """How many prompts the rule answers before it is used up; None for all."""


# --- the server -----------------------------------------------------------------------------------


class ScriptedModel:
    """The server: answers by the rules and records every request. Start and stop it by `with`."""

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        otherwise: Reply = Text("ok"),
        title: str = "Scripted title",
        port: int = 0,
    ) -> None:
        self._rules = list(rules)
        self._otherwise = otherwise
        self._title = title
        self._recorded: list[Request] = []
        self._begun: dict[int, int] = {}
        self._held: list[Held] = []
        self._dismissed: set[str | None] = set()
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", port), self)
        # The default of 0.5 s is how long stop() would wait.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """The base URL that a provider is configured with."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Release what is held and close the port."""
        self._release_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, *rules: Rule) -> None:
        """Append rules to the script; those already there go first."""
        with self._changed:
            self._rules.extend(rules)

    def reset(self) -> None:
        """Forget script and record, for the next test on the same server.

        Turns that a test left running still get an answer, but are not recorded any more: the
        sessions seen so far are dismissed.
        """
        self._release_all()
        with self._changed:
            self._dismissed |= {request.session for request in self._recorded} - {None}
            self._rules.clear()
            self._recorded.clear()
            self._begun.clear()

    @property
    def requests(self) -> list[Request]:
        """The requests of turns, in order of arrival."""
        with self._changed:
            return [request for request in self._recorded if not request.is_title]

    @property
    def title_requests(self) -> list[Request]:
        with self._changed:
            return [request for request in self._recorded if request.is_title]

    def wait_for(
        self, when: Callable[[Request], bool], *, count: int = 1, timeout: float = PATIENCE
    ) -> Request:
        """Block until the `count`-th request of a turn matches, and return that one."""

        def matching() -> list[Request]:
            return [request for request in self.requests if when(request)]

        with self._changed:
            if self._changed.wait_for(lambda: len(matching()) >= count, timeout):
                return matching()[count - 1]
            seen = "\n  ".join(map(str, self.requests)) or "nothing"
            raise AssertionError(
                f"{when}: {len(matching())} of {count} requests in {timeout} s; seen:\n  {seen}"
            )

    def answer(self, session: str | None, body: Mapping[str, Any]) -> Text | ToolCall | Failure:
        """Record a request and say what to answer; blocks while the answer is held."""
        with self._changed:
            request = Request(
                index=len(self._recorded),
                session=session,
                messages=tuple(body["messages"]),
                tools=tuple(tool["function"]["name"] for tool in body.get("tools", ())),
            )
            if session not in self._dismissed:
                self._recorded.append(request)
                self._changed.notify_all()
            reply = Text(self._title) if request.is_title else self._choose(request)
            answer = reply(request) if callable(reply) else reply
            if not isinstance(answer, Held):
                return answer
            self._held.append(answer)
        return answer.wait()

    def _choose(self, request: Request) -> Reply:
        for number, rule in enumerate(self._rules):
            if request.step >= len(rule.reply) or not rule.when(request):
                continue
            if request.step == 0:
                begun = self._begun.get(number, 0)
                if rule.times is not None and begun >= rule.times:
                    continue
                self._begun[number] = begun + 1
            return rule.reply[request.step]
        return self._otherwise

    def _release_all(self) -> None:
        with self._changed:
            for held in self._held:
                held.release()
            self._held.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Connections waiting to be accepted; the default of 5 refuses some when many sessions start.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], model: ScriptedModel) -> None:
        super().__init__(address, _Handler)
        self.model = model

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle (an aborted turn, a killed OpenCode) is no error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        answer = self.server.model.answer(self.headers["x-session-id"], json.loads(body))
        if isinstance(answer, Failure):
            self._refuse(answer)
        else:
            self._stream(answer)

    def _refuse(self, failure: Failure) -> None:
        body = json.dumps({"error": {"message": failure.message, "type": "scripted"}}).encode()
        self.send_response(failure.status)
        for name, value in failure.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: Text | ToolCall) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for chunk in _chunks(answer):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Silent: a test asks `requests`."""


def _chunks(answer: Text | ToolCall) -> list[dict[str, Any]]:
    if isinstance(answer, Text):
        delta: dict[str, Any] = {"content": answer.text}
        finish = "stop"
    else:
        function = {"name": answer.name, "arguments": json.dumps(answer.arguments)}
        # OpenCode keeps tool calls apart by their ids, over the whole session.
        call = {"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function"}
        delta = {"tool_calls": [call | {"function": function}]}
        finish = "tool_calls"

    def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    head = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "scripted",
    }
    return [
        head | choice({"role": "assistant", "content": ""}),
        head | choice(delta),
        head | choice({}, finish),
        head | {"choices": [], "usage": USAGE},
    ]


def _echo(request: Request) -> Text:
    print(request, flush=True)
    return Text(request.last_user)


def main() -> None:
    parser = argparse.ArgumentParser(description="A model that echoes what it is told.")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    model = ScriptedModel(otherwise=_echo, port=parser.parse_args().port)
    print(model.url, flush=True)
    with model:
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
