"""What only `OpenCodeRelay` has to show, besides what `test_session_relay.py` asks of each relay.

First over real OpenCode: passwords, plan mode, models, kills, windows. Then over a stand-in, for
what real OpenCode does not do on demand: every fault is one of the core's errors and says what to
do about it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from attrs import evolve, frozen

from agenthub_adapters.opencode import OpenCodeRelay
from agenthub_adapters.opencode_api import Setting, Unicode
from agenthub_core import (
    PromptInvalid,
    PromptNotHeld,
    RelayError,
    RelayRefused,
    RelayUnreachable,
    SessionBusy,
    SessionSpec,
    SessionUnknown,
    TurnState,
    Usage,
)
from agenthub_core.testing import NOON, ManualClock
from testkit.opencode import OpenCode, free_port, make_project
from testkit.outage import Behaviour, Door
from testkit.scripted_model import (
    Failure,
    Held,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    in_session,
    last_user,
)
from testkit.waiting import eventually
from testkit.window import Window
from tests.contract.test_session_relay import ended, prompt, repeated

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

# The command ends when the test creates the file: a tool that runs exactly as long as needed.
UNTIL_GO = "touch begun; until [ -e go ]; do sleep 0.05; done; echo went"


Call = Callable[[OpenCodeRelay, str, str], object]

EVERY: dict[str, Call] = {
    "sessions": lambda relay, *_: relay.sessions(HOUR),
    "inject": lambda relay, session_id, _: relay.inject(prompt(session_id, "something new")),
    "repeat": lambda relay, session_id, _: relay.inject(prompt(session_id, repeated=True)),
    "turn": lambda relay, session_id, _: relay.turn(session_id),
    "resume": lambda relay, session_id, prompt_id: relay.resume(session_id, prompt_id),
}


# ---------------------------------------------------------------------------------- real OpenCode


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project for all tests that need no other: OpenCode takes its time with each new one."""
    return make_project(tmp_path_factory.mktemp("work") / "api")


@pytest.fixture
def relay(opencode: OpenCode) -> Iterator[OpenCodeRelay]:
    with closing(OpenCodeRelay(opencode.url, clock=ManualClock(datetime.now(UTC)))) as relay:
        yield relay


@pytest.fixture
def session_id(opencode: OpenCode, directory: Path) -> str:
    session_id: str = opencode.create_session(directory)["id"]
    return session_id


def texts(opencode: OpenCode, session_id: str) -> list[str]:
    """What was said to the model in a session, in order."""
    return [
        part["text"]
        for message in opencode.messages(session_id)
        if message["info"]["role"] == "user"
        for part in message["parts"]
    ]


def test_a_wrong_password_is_told_with_the_way_to_set_it(
    opencode_binary: Path, scripted_model: ScriptedModel, tmp_path: Path
) -> None:
    right = secrets.token_urlsafe()
    home, clock = tmp_path / "home", ManualClock()
    with OpenCode(opencode_binary, home, scripted_model.url, password=right) as opencode:
        for wrong in (None, "", "wrong", "wröng\r\nx-injected: y"):
            with closing(OpenCodeRelay(opencode.url, clock=clock, password=wrong)) as relay:
                for call in EVERY.values():
                    with pytest.raises(RelayRefused, match="OPENCODE_SERVER_PASSWORD"):
                        call(relay, "ses_any", "")

        with closing(OpenCodeRelay(opencode.url, clock=clock, password=right)) as relay:
            assert relay.sessions(HOUR) == []


def test_subagents_and_archived_sessions_are_not_listed(
    opencode: OpenCode, relay: OpenCodeRelay, directory: Path, session_id: str
) -> None:
    archived = opencode.create_session(directory)["id"]
    subagent = opencode.create_session(directory, parentID=session_id)["id"]
    body = {"time": {"archived": 1000 * int(datetime.now(UTC).timestamp())}}
    assert opencode.request("PATCH", f"/session/{archived}", json=body).is_success

    listed = {each.id for each in relay.sessions(HOUR)}

    assert listed & {session_id, archived, subagent} == {session_id}


def test_a_session_that_its_user_has_archived_is_left_alone(
    opencode: OpenCode, relay: OpenCodeRelay, session_id: str
) -> None:
    body = {"time": {"archived": 1000 * int(datetime.now(UTC).timestamp())}}
    assert opencode.request("PATCH", f"/session/{session_id}", json=body).is_success

    with pytest.raises(SessionUnknown):
        relay.inject(prompt(session_id))

    assert texts(opencode, session_id) == []


def test_what_a_new_session_is_told_before_its_first_prompt_changes_nothing_about_it(
    opencode: OpenCode, relay: OpenCodeRelay, scripted_model: ScriptedModel, directory: Path
) -> None:
    model = {"providerID": "fake", "id": "echo"}
    created = opencode.create_session(directory, agent="plan", model=model)
    session_id = created["id"]

    relay.inject(prompt(session_id, "You are bob.", wakes=False))

    told = opencode.session(session_id)
    assert (told["agent"], told["model"]["id"]) == ("plan", "echo")
    assert scripted_model.requests == scripted_model.title_requests == []

    opencode.ask(session_id, "Make a plan.", agent="plan", model={**model, "modelID": "echo"})
    (asked,) = scripted_model.requests
    assert "You are bob." in asked.conversation
    assert asked.last_user.startswith("Make a plan.")
    named = eventually(lambda: opencode.session(session_id)["title"], when="Scripted title".__eq__)
    assert named, "the user's words still make one"


def test_a_session_that_has_no_model_of_its_own_yet_is_told_nothing(
    opencode: OpenCode, relay: OpenCodeRelay, session_id: str
) -> None:
    with pytest.raises(SessionBusy):
        relay.inject(prompt(session_id, wakes=False))
    assert "model" not in opencode.session(session_id)


def test_a_session_in_plan_mode_stays_in_plan_mode_with_its_own_model(
    opencode: OpenCode, relay: OpenCodeRelay, scripted_model: ScriptedModel, directory: Path
) -> None:
    model = {"providerID": "fake", "id": "echo", "variant": "high"}
    planning = opencode.create_session(directory, agent="plan", model=model)["id"]

    relay.inject(prompt(planning))

    assert "READ-ONLY" in scripted_model.wait_for(in_session(planning)).last_user
    opencode.wait_for_idle(planning)
    stored = opencode.messages(planning)[0]["info"]
    assert stored["agent"] == "plan"
    assert stored["model"] == {"providerID": "fake", "modelID": "echo", "variant": "high"}
    session = opencode.session(planning)
    assert (session["agent"], session["model"]) == ("plan", model)


def test_a_mode_that_its_user_has_chosen_since_is_kept(
    opencode: OpenCode, relay: OpenCodeRelay, session_id: str
) -> None:
    relay.inject(prompt(session_id, "first"))
    ended(relay, session_id)
    opencode.ask(session_id, "let us plan", agent="plan")

    relay.turn(session_id)  # for a look at the session holds a quarter of a second
    relay.inject(prompt(session_id, "second"))

    ended(relay, session_id)
    asked = [each["info"] for each in opencode.messages(session_id)]
    assert [each["agent"] for each in asked if each["role"] == "user"] == ["build", "plan", "plan"]


def test_an_unknown_model_fails_the_turn_and_is_named(
    opencode: OpenCode, relay: OpenCodeRelay, scripted_model: ScriptedModel, directory: Path
) -> None:
    gone = {"providerID": "fake", "id": "gone"}
    session_id = opencode.create_session(directory, model=gone)["id"]

    relay.inject(prompt(session_id))

    turn = ended(relay, session_id)
    assert turn.state is TurnState.FAILED
    assert "fake/gone" in str(turn.error)
    assert "choose another one" in str(turn.error)
    assert scripted_model.requests == []


def test_an_agent_that_is_gone_is_named_where_the_prompt_is_not_held(
    opencode: OpenCode, directory: Path
) -> None:
    session_id = opencode.create_session(directory, agent="reviewer")["id"]
    soon = timedelta(seconds=1)
    with (
        closing(OpenCodeRelay(opencode.url, clock=ManualClock(), timeout=soon)) as relay,
        pytest.raises(PromptNotHeld, match="is there still an agent reviewer"),
    ):
        relay.inject(prompt(session_id))


def test_a_provider_that_refuses_fails_the_turn_in_its_own_words(
    relay: OpenCodeRelay, scripted_model: ScriptedModel, session_id: str
) -> None:
    scripted_model.add(Rule(in_session(session_id), Failure(401, "bad key")))

    relay.inject(prompt(session_id))

    turn = ended(relay, session_id)
    assert turn.state is TurnState.FAILED
    assert str(turn.error) == "APIError: bad key"


def test_a_turn_that_opencode_tries_again_by_itself_is_running(
    opencode: OpenCode,
    relay: OpenCodeRelay,
    scripted_model: ScriptedModel,
    directory: Path,
    session_id: str,
) -> None:
    in_a_minute = {"retry-after": "60"}
    scripted_model.add(Rule(in_session(session_id), Failure(503, "overloaded", in_a_minute)))
    relay.inject(prompt(session_id))
    eventually(
        lambda: opencode.status(directory).get(session_id, {}),
        when=lambda status: status.get("type") == "retry",
    )

    assert relay.turn(session_id).state is TurnState.RUNNING

    opencode.abort(session_id)


def test_a_turn_that_its_user_stopped_counts_as_answered(
    opencode: OpenCode, relay: OpenCodeRelay, scripted_model: ScriptedModel, session_id: str
) -> None:
    scripted_model.add(Rule(in_session(session_id), Held(Text("never said"))))
    relay.inject(prompt(session_id))
    scripted_model.wait_for(in_session(session_id))

    opencode.abort(session_id)

    turn = ended(relay, session_id)
    assert (turn.state, turn.error) == (TurnState.ANSWERED, None)
    relay.resume(session_id, turn.prompt_id)
    relay.inject(repeated(prompt(session_id)))
    assert relay.turn(session_id) == turn
    assert len(scripted_model.requests) == 1


def test_a_turn_that_was_killed_in_a_tool_is_answered_exactly_once_after_the_restart(
    opencode: OpenCode, relay: OpenCodeRelay, scripted_model: ScriptedModel, directory: Path
) -> None:
    session_id = opencode.create_session(directory, agent="plan")["id"]
    call = ToolCall("bash", command=UNTIL_GO, description="wait")
    scripted_model.add(Rule(in_session(session_id), call, times=1))
    relay.inject(prompt(session_id))
    eventually((directory / "begun").exists)
    running = relay.turn(session_id)
    assert running.state is TurnState.RUNNING

    opencode.kill()
    with pytest.raises(RelayUnreachable, match="is OpenCode running there"):
        relay.turn(session_id)
    opencode.start()

    assert relay.turn(session_id) == evolve(running, state=TurnState.ABANDONED)
    relay.resume(session_id, running.prompt_id)
    assert ended(relay, session_id).state is TurnState.ANSWERED
    relay.resume(session_id, running.prompt_id)
    relay.inject(repeated(prompt(session_id)))
    assert texts(opencode, session_id) == ["Hello"]
    asked = [request for request in scripted_model.requests if request.session == session_id]
    assert len(asked) == 2  # and the first was never answered
    assert "READ-ONLY" in asked[1].conversation


def test_a_window_at_work_is_busy_until_its_turn_ends(
    opencode: OpenCode,
    relay: OpenCodeRelay,
    scripted_model: ScriptedModel,
    project: Callable[[str], Path],
    open_window: Callable[..., Window],
) -> None:
    directory = project("web")
    call = ToolCall("bash", command=UNTIL_GO, description="wait")
    scripted_model.add(Rule(last_user("build it"), [call, Text("built")]))
    window = open_window(directory)
    window.wait_for_text("Ask anything")
    window.type("build it")
    window.press("Enter")
    session_id = window.session()["id"]
    eventually((directory / "begun").exists)

    for waiting in (prompt(session_id), repeated(prompt(session_id))):
        with pytest.raises(SessionBusy, match="they go in when its turn ends"):
            relay.inject(waiting)
    assert relay.turn(session_id).state is TurnState.NONE
    assert texts(opencode, session_id) == ["build it"]

    (directory / "go").touch()
    opencode.wait_for_idle(session_id)
    relay.inject(repeated(prompt(session_id)))
    assert ended(relay, session_id).state is TurnState.ANSWERED
    assert texts(opencode, session_id) == ["build it", "Hello"]
    assert (
        "went" in scripted_model.wait_for(in_session(session_id) & last_user("Hello")).conversation
    )


def test_prompts_for_a_session_at_work_in_this_server_are_queued(
    opencode: OpenCode, relay: OpenCodeRelay, scripted_model: ScriptedModel, session_id: str
) -> None:
    held = Held(Text("done"))
    scripted_model.add(Rule(in_session(session_id), held, times=1))
    opencode.prompt(session_id, "its user's own")
    scripted_model.wait_for(in_session(session_id))

    for text in ("one", "two", "three"):
        relay.inject(prompt(session_id, text))
    newest = relay.turn(session_id)
    relay.resume(session_id, newest.prompt_id)
    held.release()

    assert newest.state is TurnState.RUNNING
    assert ended(relay, session_id) == evolve(newest, state=TurnState.ANSWERED)
    assert texts(opencode, session_id) == ["its user's own", "one", "two", "three"]
    assert len(scripted_model.requests) == 2  # what was queued is answered in one turn


def test_a_relay_knows_what_another_one_has_injected_before_it(
    opencode: OpenCode, relay: OpenCodeRelay, session_id: str
) -> None:
    relay.inject(prompt(session_id))
    turn = ended(relay, session_id)

    with closing(OpenCodeRelay(opencode.url, clock=ManualClock())) as restarted:
        assert restarted.turn(session_id) == turn
        restarted.inject(prompt(session_id))
        restarted.inject(repeated(prompt(session_id)))

    assert texts(opencode, session_id) == ["Hello"]
    assert turn.prompt_id in {each["info"]["id"] for each in opencode.messages(session_id)}


def test_what_goes_to_two_recipients_or_says_two_things_is_two_messages(
    opencode: OpenCode, relay: OpenCodeRelay, directory: Path
) -> None:
    first, second = (opencode.create_session(directory)["id"] for _ in range(2))
    names = []
    for each in (
        prompt(first),
        prompt(second),
        prompt(first, id="another of the same text"),
        prompt(first, id="a later one", written=NOON + MINUTE),
    ):
        relay.inject(each)
        names.append(ended(relay, each.session_id).prompt_id)

    assert len(set(names)) == 4


@pytest.mark.parametrize("written", [datetime.min, datetime(1969, 7, 20), datetime.max])  # noqa: DTZ001, DTZ901  # its zone is added below
def test_a_message_may_be_of_any_time(
    opencode: OpenCode, relay: OpenCodeRelay, session_id: str, written: datetime
) -> None:
    original = prompt(session_id, written=written.replace(tzinfo=UTC))

    relay.inject(original)
    relay.inject(repeated(original))

    assert ended(relay, session_id).state is TurnState.ANSWERED
    assert texts(opencode, session_id) == ["Hello"]


def test_an_opencode_that_comes_back_is_used_again(opencode: OpenCode, session_id: str) -> None:
    with Door(opencode.url) as door:
        url = f"http://127.0.0.1:{door.port}"
        with closing(OpenCodeRelay(url, clock=ManualClock(datetime.now(UTC)))) as relay:
            relay.inject(prompt(session_id))
            ended(relay, session_id)
            door.behave(Behaviour.CLOSED)
            for call in EVERY.values():
                with pytest.raises(RelayUnreachable, match=url):
                    call(relay, session_id, "")
            door.behave(Behaviour.OPEN)
            sent = door.prompts

            relay.inject(repeated(prompt(session_id)))

            assert session_id in {each.id for each in relay.sessions(HOUR)}
            assert door.prompts == sent
    assert texts(opencode, session_id) == ["Hello"]


# ---------------------------------------------------------------------------- a stand-in for it

ONE = "ses_one"
ROW: dict[str, Any] = {
    "id": ONE,
    "slug": "calm-otter",
    "title": "One",
    "directory": "/projects/one",
    "time": {"created": 1000 * NOON.timestamp(), "updated": 1000 * NOON.timestamp()},
}
MESSAGE: dict[str, Any] = {"id": "msg_by_its_user", "role": "user", "time": ROW["time"]}


@frozen
class Answer:
    """What the stand-in says to a request."""

    status: int = 200
    content: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = {}
    withheld: int = 0
    """So many bytes are promised and never sent."""
    in_time: bool = True
    """Otherwise it comes only when the test is over."""

    @classmethod
    def of(cls, value: object, status: int = 200) -> Self:
        return cls(status, json.dumps(value).encode())


PAGE = Answer(content=b"<!doctype html><title>Hello</title>", kind="text/html")
NOT_FOUND = Answer.of({"name": "NotFoundError", "data": {"message": "not found"}}, 404)


class StandIn:
    """OpenCode as the relay sees it, with one session, which never answers its prompts.

    `answers` is what it says instead, by the name of what is asked for; `anything` goes for all.
    """

    def __init__(self) -> None:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # or the kernel waits 40 ms between an answer's head and its body

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                stand_in._handle(self)

            def do_POST(self) -> None:
                stand_in._handle(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # the relay has gone away, as it does when it has waited long enough

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.reset()

    def reset(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.anything: Answer | None = None
        self.prompts: list[dict[str, Any]] = []
        """The prompts that came, held or not."""
        self.row = ROW
        self.last: dict[str, Any] | None = None
        """The session's last message."""
        self.over = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        name, usual = self._usual(urlsplit(request.path).path, body)
        answer = self.anything or self.answers.get(name) or usual
        if not answer.in_time:
            self.over.wait()
        request.send_response(answer.status)
        if answer.status != 204:
            request.send_header("content-type", answer.kind)
            request.send_header("content-length", str(len(answer.content) + answer.withheld))
        for header, value in answer.headers.items():
            request.send_header(header, value)
        request.end_headers()
        request.wfile.write(answer.content)
        request.close_connection = bool(answer.withheld)

    def _usual(self, path: str, body: bytes) -> tuple[str, Answer]:
        fixed: dict[str, tuple[str, object]] = {
            "/experimental/session": ("listing", [ROW]),
            "/session": ("one project's", [ROW]),
            "/session/status": ("status", {}),
            "/config/providers": ("providers", {"providers": [{"id": "fake", "models": {}}]}),
            f"/session/{ONE}": ("session", self.row),
            f"/session/{ONE}/message": ("messages", [said(self.last)] if self.last else []),
        }
        if path in fixed:
            name, value = fixed[path]
            return name, Answer.of(value)
        if path == f"/session/{ONE}/prompt_async":
            self.hold(json.loads(body))
            return "prompt", Answer(204)
        held = [
            each for each in self.prompts if path == f"/session/{ONE}/message/{each['messageID']}"
        ]
        return "message", Answer.of(said(own(held[0]), held[0]["parts"])) if held else NOT_FOUND

    def hold(self, body: dict[str, Any]) -> None:
        self.prompts.append(body)
        self.last = own(body)


def said(info: Mapping[str, Any], parts: Sequence[object] = ()) -> dict[str, Any]:
    return {"info": info, "parts": parts}


def own(body: Mapping[str, Any]) -> dict[str, Any]:
    """The message that a prompt becomes."""
    return MESSAGE | {"id": body["messageID"]}


@pytest.fixture(scope="module")
def shared_stand_in() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def stand_in(shared_stand_in: StandIn) -> Iterator[StandIn]:
    shared_stand_in.reset()
    yield shared_stand_in
    shared_stand_in.over.set()


@pytest.fixture
def near(stand_in: StandIn) -> Iterator[OpenCodeRelay]:
    """A relay to the stand-in. It is noon there."""
    with closing(OpenCodeRelay(stand_in.url, clock=ManualClock())) as relay:
        yield relay


@pytest.fixture
def abandoned(near: OpenCodeRelay) -> str:
    """The stand-in holds the prompt "Hello", and nobody is at work on it; its own name there."""
    near.inject(prompt(ONE))
    return near.turn(ONE).prompt_id


@frozen
class Fault:
    """What may be answered to any request, and what is to be told then."""

    answer: Answer
    error: type[RelayError]
    words: str


SEE_LOG = r"answered 50\d .*OpenCode's log tells why"
OTHER = "is it another program"
GONE = "is OpenCode running there"
ANOTHER_ONE = "set OPENCODE_SERVER_PASSWORD"

FAULTS = {
    "error": Fault(
        Answer.of({"name": "UnknownError", "data": {"message": "database\nis locked"}}, 500),
        RelayUnreachable,
        r"answered 500 \(database is locked\): OpenCode's log tells why",
    ),
    "error without a word": Fault(Answer(503), RelayUnreachable, SEE_LOG),
    "error in another shape": Fault(Answer.of(["data"], 500), RelayUnreachable, SEE_LOG),
    "nested error": Fault(Answer(500, 100_000 * b"["), RelayUnreachable, SEE_LOG),
    "no password": Fault(Answer(401), RelayRefused, ANOTHER_ONE),
    "no access": Fault(Answer(403), RelayRefused, ANOTHER_ONE),
    "page": Fault(PAGE, RelayUnreachable, OTHER),
    "page of what is missing": Fault(evolve(PAGE, status=404), RelayUnreachable, OTHER),
    "redirection": Fault(Answer(302, headers={"location": "/"}), RelayUnreachable, OTHER),
    "nothing": Fault(Answer(), RelayUnreachable, OTHER),
    "half of it": Fault(Answer(content=b'{"id": "ses_'), RelayUnreachable, OTHER),
    "no Unicode": Fault(Answer(content=b'["\xff\xfe"]'), RelayUnreachable, OTHER),
    "nested": Fault(Answer(content=100_000 * b"["), RelayUnreachable, OTHER),
    "not compressed": Fault(
        Answer(content=b"[]", headers={"content-encoding": "gzip"}), RelayUnreachable, GONE
    ),
    "closed half-way": Fault(Answer(content=b'[{"id":', withheld=100), RelayUnreachable, GONE),
}


@pytest.mark.parametrize("call", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_is_one_of_the_cores_errors_and_says_what_to_do(
    stand_in: StandIn, near: OpenCodeRelay, abandoned: str, call: Call, fault: Fault
) -> None:
    stand_in.anything = fault.answer

    with pytest.raises(fault.error, match=fault.words) as caught:
        call(near, ONE, abandoned)

    assert type(caught.value) is fault.error
    assert stand_in.url in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("call", EVERY.values(), ids=EVERY)
def test_an_answer_that_takes_too_long_is_not_waited_for(
    stand_in: StandIn, abandoned: str, call: Call
) -> None:
    stand_in.anything = Answer(in_time=False)
    soon = timedelta(milliseconds=50)
    with (
        closing(OpenCodeRelay(stand_in.url, clock=ManualClock(), timeout=soon)) as relay,
        pytest.raises(RelayUnreachable, match=r"did not answer within 0\.05 s: restart OpenCode"),
    ):
        call(relay, ONE, abandoned)


@pytest.mark.parametrize("call", EVERY.values(), ids=EVERY)
def test_where_nobody_listens_it_is_asked_whether_opencode_runs(call: Call) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with (
        closing(OpenCodeRelay(url, clock=ManualClock())) as relay,
        pytest.raises(RelayUnreachable, match=rf"{url} .*refused.*is OpenCode running there"),
    ):
        call(relay, ONE, "")


SHAPES: Sequence[object] = (
    None,
    7,
    "text",
    True,
    {},
    [],
    [None],
    [[]],
    [{}],
    {"id": ONE},
    {"data": None},
    ROW | {"id": ""},
    ROW | {"id": "../../x\x00"},
    ROW | {"id": None},
    ROW | {"time": None},
    ROW | {"time": {"created": "yesterday"}},
    ROW | {"time": {"created": 1e300}},
    ROW | {"time": {"created": float("nan")}},
    ROW | {"model": "gpt"},
    [ROW | {"id": ""}],
    [ROW | {"time": {"created": float("inf"), "updated": -1e30}}],
    {ONE: None},
    {ONE: {"type": []}},
    {"providers": None},
    {"providers": {"fake": {}}},
    {"providers": [{"id": "fake", "models": []}]},
    {"info": None, "parts": None},
    {"info": MESSAGE, "parts": {}},
    {"info": MESSAGE, "parts": [{"type": "text"}]},
    {"info": MESSAGE | {"role": None}, "parts": []},
    [{"info": MESSAGE}],
    [{"info": MESSAGE | {"time": {}}, "parts": []}],
    [{"info": MESSAGE | {"id": "msg_000000000000AgHub\x00"}, "parts": []}],
    [{"info": MESSAGE | {"role": "assistant", "error": 7}, "parts": []}],
    [{"info": MESSAGE | {"role": "assistant", "error": {"name": "E", "data": []}}, "parts": []}],
)


@pytest.mark.parametrize(
    "asked", ["session", "messages", "message", "status", "providers", "prompt"]
)
def test_whatever_the_shape_of_an_answer_nothing_but_the_cores_errors_leaves(
    stand_in: StandIn, abandoned: str, asked: str
) -> None:
    soon = timedelta(seconds=0.1)  # some shapes are a message without its text, which may yet come
    with closing(OpenCodeRelay(stand_in.url, clock=ManualClock(), timeout=soon)) as relay:
        for shape in SHAPES:
            stand_in.answers = {asked: Answer.of(shape)}
            for name in ("inject", "repeat", "turn"):
                with contextlib.suppress(RelayError):
                    EVERY[name](relay, ONE, abandoned)


def test_a_listing_in_another_shape_is_not_taken_for_an_empty_one(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    for shape in SHAPES:
        stand_in.answers["listing"] = Answer.of(shape)
        if not isinstance(shape, list):
            with pytest.raises(RelayUnreachable, match=OTHER):
                near.sessions(HOUR)


def test_what_opencode_will_not_take_is_invalid_in_its_own_words(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    said = {"name": "BadRequest", "data": {"message": 'Missing key\n  at ["parts"]'}}
    stand_in.answers["prompt"] = Answer.of(said, 400)

    with pytest.raises(
        PromptInvalid, match=r'will not take the prompt: Missing key at \["parts"\]'
    ):
        near.inject(prompt(ONE))


def test_what_is_too_much_for_opencode_is_invalid_though_it_says_nothing(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    stand_in.answers["prompt"] = Answer(413)

    with pytest.raises(PromptInvalid, match="Too Large"):
        near.inject(prompt(ONE))


def test_a_session_that_is_deleted_between_look_and_prompt_is_unknown(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    stand_in.answers["prompt"] = NOT_FOUND

    with pytest.raises(SessionUnknown, match=ONE):
        near.inject(prompt(ONE))


def test_a_prompt_whose_acceptance_was_lost_is_found_by_its_receipt(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    stand_in.answers["prompt"] = Answer(withheld=1)
    with pytest.raises(RelayUnreachable):
        near.inject(prompt(ONE))
    stand_in.last = ANSWERED | {"parentID": stand_in.prompts[0]["messageID"]}

    near.inject(repeated(prompt(ONE)))

    assert len(stand_in.prompts) == 1


def test_a_prompt_that_is_accepted_and_dropped_is_not_held_until_it_is_repeated(
    stand_in: StandIn,
) -> None:
    stand_in.answers["message"] = NOT_FOUND
    soon = timedelta(seconds=0.5)
    with closing(OpenCodeRelay(stand_in.url, clock=ManualClock(), timeout=soon)) as relay:
        with pytest.raises(PromptNotHeld, match="OpenCode accepted the prompt, but it never"):
            relay.inject(prompt(ONE))
        stand_in.reset()

        receipt = relay.inject(repeated(prompt(ONE)))

    assert receipt.prompt_id == prompt(ONE).id
    assert len(stand_in.prompts) == 1


def test_a_message_without_its_text_is_no_receipt(stand_in: StandIn) -> None:
    stand_in.answers["message"] = Answer.of(said(MESSAGE))
    soon = timedelta(seconds=0.5)
    with closing(OpenCodeRelay(stand_in.url, clock=ManualClock(), timeout=soon)) as relay:
        for each in (prompt(ONE), repeated(prompt(ONE))):
            with pytest.raises(PromptNotHeld):
                relay.inject(each)
        relay.resume(ONE, relay.turn(ONE).prompt_id)

    first, second = stand_in.prompts
    assert first == second


def test_a_prompt_carries_the_sessions_agent_model_and_variant(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    model = {"providerID": "fake", "id": "echo", "variant": "high"}
    stand_in.row = ROW | {"agent": "plan", "model": model}

    near.inject(prompt(ONE))

    (body,) = stand_in.prompts
    assert body["agent"] == "plan"
    assert body["model"] == {"providerID": "fake", "modelID": "echo"}
    assert body["variant"] == "high"


def test_a_new_session_without_agent_and_model_is_left_to_opencodes_choice(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    near.inject(prompt(ONE))

    (body,) = stand_in.prompts
    assert set(body) == {"messageID", "parts"}


# ------------------------------------------------------------------------- who is at work where

ANSWERED = {
    "id": "msg_an_answer",
    "role": "assistant",
    "time": ROW["time"] | {"completed": 1000 * NOON.timestamp()},
    "finish": "stop",
    "parentID": MESSAGE["id"],
}
AT_WORK = {
    "a prompt": MESSAGE,
    "half an answer": ANSWERED | {"time": ROW["time"], "finish": None},
    "a tool call": ANSWERED | {"finish": "tool-calls"},
}


@pytest.mark.parametrize("last", AT_WORK.values(), ids=AT_WORK)
def test_a_turn_in_another_process_makes_a_session_busy_and_nothing_is_sent(
    stand_in: StandIn, near: OpenCodeRelay, last: dict[str, Any]
) -> None:
    stand_in.last = last

    with pytest.raises(SessionBusy, match="another OpenCode process is at work"):
        near.inject(prompt(ONE))
    assert stand_in.prompts == []

    stand_in.last = ANSWERED
    near.inject(prompt(ONE))
    assert len(stand_in.prompts) == 1


@pytest.mark.parametrize("last", AT_WORK.values(), ids=AT_WORK)
@pytest.mark.parametrize("status", ["busy", "retry"])
def test_a_turn_in_this_server_does_not(
    stand_in: StandIn, near: OpenCodeRelay, last: dict[str, Any], status: str
) -> None:
    stand_in.last = last
    stand_in.answers["status"] = Answer.of({ONE: {"type": status}, "ses_two": {"type": "idle"}})

    near.inject(prompt(ONE))

    assert len(stand_in.prompts) == 1


def test_a_turn_in_this_server_that_has_just_ended_does_not_either(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    stand_in.last = MESSAGE
    stand_in.answers["status"] = Answer.of({ONE: {"type": "busy"}})
    near.inject(prompt(ONE, "one"))

    stand_in.last, stand_in.answers = ANSWERED, {}
    near.inject(prompt(ONE, "two"))

    assert len(stand_in.prompts) == 2


@pytest.mark.parametrize("last", AT_WORK.values(), ids=AT_WORK)
def test_a_turn_of_which_nothing_was_heard_for_too_long_was_killed(
    stand_in: StandIn, last: dict[str, Any]
) -> None:
    stand_in.last = last
    clock, limit = ManualClock(), timedelta(minutes=10)
    with closing(OpenCodeRelay(stand_in.url, clock=clock, busy_limit=limit)) as relay:
        clock.advance(limit)
        with pytest.raises(SessionBusy):
            relay.inject(prompt(ONE))

        clock.advance(timedelta(milliseconds=1))
        relay.inject(prompt(ONE))

    assert len(stand_in.prompts) == 1


class Elsewhere:
    """A process in which the session lives, and of which the relay knows; the stand-in holds what
    it accepts."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self.requests: list[int] = []
        """How many prompts came together, each time."""
        self.known: Setting | None = None
        self.accepts: int | None = None
        self.refuses = SessionBusy("it asks its user")
        self.works = False
        self.ended: datetime | None = None

    def owner(self, session_id: str) -> Elsewhere | None:
        return self if session_id == ONE and self.ended is None else None

    def at_work(self, _: str) -> bool:
        return self.works

    def lost(self, _: str) -> datetime | None:
        return self.ended

    def setting(self, _: str) -> Setting | None:
        return self.known

    def prompt(
        self, session_id: str, bodies: Sequence[Mapping[str, Any]]
    ) -> tuple[int, RelayError | None]:
        assert session_id == ONE
        self.requests.append(len(bodies))
        taken = bodies[: self.accepts]
        for body in taken:
            self._stand_in.hold(dict(body))
        return len(taken), self.refuses if len(taken) < len(bodies) else None


@pytest.fixture
def elsewhere(stand_in: StandIn) -> Elsewhere:
    return Elsewhere(stand_in)


@pytest.fixture
def informed(stand_in: StandIn, elsewhere: Elsewhere) -> Iterator[OpenCodeRelay]:
    """A relay that knows of the process."""
    clock = ManualClock()
    with closing(OpenCodeRelay(stand_in.url, clock=clock, owners=elsewhere)) as relay:
        yield relay


def test_what_waits_for_a_session_goes_through_its_process_in_one_request_and_in_order(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay
) -> None:
    stand_in.last = AT_WORK["half an answer"]  # in that process, so nothing is disturbed
    stand_in.row = ROW | {"agent": "plan", "model": {"providerID": "fake", "id": "echo"}}
    prompts = [prompt(ONE, f"text {number}") for number in range(5)]

    receipts, error = informed.inject_all(prompts)

    assert (elsewhere.requests, error) == ([5], None)
    assert [receipt.prompt_id for receipt in receipts] == [each.id for each in prompts]
    assert [body["parts"][0]["text"] for body in stand_in.prompts] == [
        each.text for each in prompts
    ]
    assert {body["agent"] for body in stand_in.prompts} == {"plan"}


def test_what_a_process_knows_of_its_session_need_not_be_asked(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay
) -> None:
    stand_in.row = ROW | {"agent": "build"}
    elsewhere.known = Setting(id=ONE, agent=Unicode("plan"))

    informed.inject(prompt(ONE))

    assert stand_in.prompts[0]["agent"] == "plan"


def test_of_those_that_a_process_does_not_all_take_the_receipts_are_there(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay
) -> None:
    elsewhere.accepts = 2

    receipts, error = informed.inject_all([prompt(ONE, f"text {number}") for number in range(4)])

    assert len(receipts) == len(stand_in.prompts) == 2
    assert error is elsewhere.refuses


def test_what_may_be_held_already_goes_through_the_process_one_by_one(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay
) -> None:
    informed.inject(prompt(ONE, "held"))
    elsewhere.works = True

    receipts, error = informed.inject_all(
        [repeated(prompt(ONE, "held")), repeated(prompt(ONE, "lost")), prompt(ONE, "new")]
    )

    assert (len(receipts), error) == (3, None)
    assert elsewhere.requests == [1, 1, 1]  # the one that was held is not sent again
    assert [body["parts"][0]["text"] for body in stand_in.prompts] == ["held", "lost", "new"]


def test_a_note_that_the_process_does_not_take_now_is_not_sent_to_the_server(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay
) -> None:
    stand_in.row = ROW | {"agent": "build", "model": {"providerID": "fake", "id": "echo"}}
    elsewhere.accepts = 0

    with pytest.raises(SessionBusy, match="asks its user"):
        informed.inject(evolve(prompt(ONE), wakes=False))

    assert stand_in.prompts == []


def test_a_turn_in_a_known_process_is_running(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay
) -> None:
    informed.inject(prompt(ONE))
    elsewhere.works = True
    assert informed.turn(ONE).state is TurnState.RUNNING

    elsewhere.works = False
    assert informed.turn(ONE).state is TurnState.ABANDONED
    informed.resume(ONE, informed.turn(ONE).prompt_id)
    assert elsewhere.requests == [1, 1]
    assert stand_in.prompts[0] == stand_in.prompts[1]


@pytest.mark.parametrize("last", AT_WORK.values(), ids=AT_WORK)
def test_a_turn_that_ended_with_its_process_keeps_nothing_waiting(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay, last: dict[str, Any]
) -> None:
    stand_in.last = last
    elsewhere.ended = NOON

    informed.inject(prompt(ONE))

    assert (elsewhere.requests, len(stand_in.prompts)) == ([], 1)


def test_a_turn_that_began_since_in_an_unknown_process_does(
    stand_in: StandIn, elsewhere: Elsewhere, informed: OpenCodeRelay
) -> None:
    stand_in.last = MESSAGE
    elsewhere.ended = NOON - timedelta(seconds=1)
    with pytest.raises(SessionBusy, match="another OpenCode process"):
        informed.inject(prompt(ONE))


def test_the_hubs_own_prompts_never_make_a_session_busy(
    stand_in: StandIn, near: OpenCodeRelay, abandoned: str
) -> None:
    stand_in.last = AT_WORK["half an answer"] | {"parentID": abandoned}

    near.inject(prompt(ONE, "and another"))

    assert len(stand_in.prompts) == 2


def test_an_abandoned_turn_is_run_again_with_the_same_ids_and_text(
    stand_in: StandIn, near: OpenCodeRelay, abandoned: str
) -> None:
    near.resume(ONE, abandoned)
    near.inject(repeated(prompt(ONE)))

    assert len(stand_in.prompts) == 3
    assert stand_in.prompts[0] == stand_in.prompts[1] == stand_in.prompts[2]


MOVED_ON = {
    "its user said something": MESSAGE,
    "its user was answered": ANSWERED,
    "the hub said something": MESSAGE | {"id": "msg_000000000000AgHubNewerOne0"},
}


@pytest.mark.parametrize("last", MOVED_ON.values(), ids=MOVED_ON)
def test_once_the_session_has_moved_on_nothing_is_sent_again(
    stand_in: StandIn, near: OpenCodeRelay, abandoned: str, last: dict[str, Any]
) -> None:
    stand_in.last = last

    near.resume(ONE, abandoned)
    near.inject(repeated(prompt(ONE)))

    assert len(stand_in.prompts) == 1


def test_a_prompt_that_its_user_has_undone_is_not_run_again(
    stand_in: StandIn, near: OpenCodeRelay, abandoned: str
) -> None:
    stand_in.answers["message"] = NOT_FOUND

    near.resume(ONE, abandoned)

    assert len(stand_in.prompts) == 1


def test_looking_sends_nothing(stand_in: StandIn, near: OpenCodeRelay, abandoned: str) -> None:
    assert near.turn(ONE).state is TurnState.ABANDONED
    assert near.turn(ONE).prompt_id == abandoned
    assert len(stand_in.prompts) == 1


def test_a_turn_on_an_unknown_model_is_not_run_again_until_there_is_such_a_model(
    stand_in: StandIn, near: OpenCodeRelay, abandoned: str
) -> None:
    stand_in.row = ROW | {"model": {"providerID": "fake", "id": "new"}}
    assert near.turn(ONE).state is TurnState.FAILED
    near.resume(ONE, abandoned)
    assert len(stand_in.prompts) == 1

    providers = {"providers": [{"id": "fake", "models": {"new": {}}}]}
    stand_in.answers["providers"] = Answer.of(providers)
    assert near.turn(ONE).state is TurnState.ABANDONED
    near.resume(ONE, abandoned)
    assert len(stand_in.prompts) == 2


def test_an_error_without_a_reason_fails_the_turn_all_the_same(
    stand_in: StandIn, near: OpenCodeRelay, abandoned: str
) -> None:
    stand_in.last = ANSWERED | {"parentID": abandoned, "error": {"name": "UnknownError"}}

    turn = near.turn(ONE)

    assert turn.state is TurnState.FAILED
    assert str(turn.error) == "UnknownError: no reason given"


# -------------------------------------------------------------------------- an OpenCode of old


@pytest.mark.parametrize("nothing", [PAGE, NOT_FOUND], ids=["page", "not found"])
def test_one_that_lists_one_project_only_is_told_of_until_it_is_upgraded(
    stand_in: StandIn, near: OpenCodeRelay, nothing: Answer
) -> None:
    stand_in.answers["listing"] = nothing
    with pytest.raises(RelayUnreachable, match=f"/experimental/session.*{OTHER}"):
        near.sessions(HOUR)

    stand_in.answers["listing"] = Answer.of([ROW, ROW | {"id": "ses_of_another_project"}])
    assert [each.id for each in near.sessions(HOUR)] == [ONE, "ses_of_another_project"]


def test_what_the_hub_need_not_know_of_a_session_may_look_as_it_likes(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    bare = {"permission": {"bash": "ask"}, "cost": None, "tokens": None, "version": 2}
    stand_in.answers["listing"] = Answer.of([ROW | bare])
    (listed,) = near.sessions(HOUR)
    assert (listed.id, listed.usage) == (ONE, Usage())


# ------------------------------------------------------------------- one odd session among them

ODD: dict[str, object] = {
    "no object": None,
    "a list": [],
    "no id": {key: value for key, value in ROW.items() if key != "id"},
    **{
        f"{key} {json.dumps(value)}": ROW | {key: value}
        for key, value in (
            ("id", None),
            ("id", ["ses_odd"]),
            ("id", "an_id_of_another_shape"),
            ("time", None),
            ("time", {"created": None}),
            ("time", {"created": "yesterday"}),
            ("time", {"created": 1e300}),
            ("time", {"created": float("nan")}),
            ("slug", None),
            ("slug", 7),
            ("slug", "\ud800"),
            ("title", None),
            ("title", "\udfff of the wave"),
            ("directory", None),
            ("directory", "/projects/\ud83d"),
            ("agent", "\ud800"),
            ("model", {}),
            ("model", "gpt"),
            ("model", {"id": "\ud800", "providerID": "fake"}),
        )
    },
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_session_that_cannot_be_one_is_left_out_and_the_others_are_listed(
    stand_in: StandIn, near: OpenCodeRelay, odd: object, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.answers["listing"] = Answer.of([odd, ROW])

    for _ in range(3):
        assert [each.id for each in near.sessions(HOUR)] == [ONE]

    (said_once,) = caplog.records
    assert (said_once.levelname, vars(said_once)["topic"]) == ("WARNING", "session.odd")
    assert said_once.getMessage().isprintable()


def test_who_is_left_out_and_why_is_said_once_for_each_session(
    stand_in: StandIn, near: OpenCodeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [ROW | {"id": f"ses_{name}", "time": {"created": None}} for name in ("a", "b")]
    stand_in.answers["listing"] = Answer.of([*odd, ROW])

    near.sessions(HOUR)
    near.sessions(HOUR)

    first, second = (record.getMessage() for record in caplog.records)
    assert "'ses_a' is left out" in first
    assert "$.time.created" in first
    assert "'ses_b' is left out" in second


def test_a_listing_full_of_odd_sessions_does_not_fill_log_and_memory(
    stand_in: StandIn, near: OpenCodeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    for turn in range(2):
        odd = [{"id": f"ses_{turn}_{number}"} for number in range(1000)]
        stand_in.answers["listing"] = Answer.of([*odd, ROW])
        assert [each.id for each in near.sessions(HOUR)] == [ONE]

    assert len(caplog.records) == 1000


FIGURES: dict[str, tuple[object, Usage]] = {
    json.dumps(figures): (figures, usage)
    for figures, usage in (
        ({"cost": "x"}, Usage()),
        ({"cost": float("nan")}, Usage()),
        ({"tokens": "many"}, Usage()),
        ({"tokens": {"input": None, "output": 7}, "cost": 0.5}, Usage(output=7, cost=0.5)),
        ({"tokens": {"input": 7, "output": float("inf")}}, Usage(input=7)),
        ({"tokens": {"input": 7, "cache": None}}, Usage(input=7)),
        ({"tokens": {"cache": {"read": [], "write": 7}}}, Usage(cache_write=7)),
    )
}


@pytest.mark.parametrize(("figures", "usage"), FIGURES.values(), ids=FIGURES)
def test_figures_that_nobody_can_read_count_as_none_and_cost_no_session(
    stand_in: StandIn, near: OpenCodeRelay, figures: dict[str, object], usage: Usage
) -> None:
    stand_in.answers["listing"] = Answer.of([ROW | figures])
    stand_in.row = ROW | figures

    (listed,) = near.sessions(HOUR)

    assert (listed.id, listed.usage) == (ONE, usage)
    near.inject(prompt(ONE))
    assert len(stand_in.prompts) == 1


def test_an_odd_session_in_the_coordinators_directory_does_not_keep_it_from_its_own(
    stand_in: StandIn, near: OpenCodeRelay
) -> None:
    spec = SessionSpec(title="One", directory="/projects/one", model="fake/echo", tools="own_*")
    rules = [
        {"permission": "*", "action": "deny", "pattern": "*"},
        {"permission": "own_*", "action": "allow", "pattern": "*"},
    ]
    own_row = ROW | {"model": {"providerID": "fake", "id": "echo"}, "permission": rules}
    providers = {"providers": [{"id": "fake", "models": {"echo": {}}}]}
    stand_in.answers["providers"] = Answer.of(providers)
    odd = [own_row | {"id": "ses_a", "slug": None}, own_row | {"id": "ses_b", "permission": {}}]
    stand_in.answers["listing"] = Answer.of([*odd, own_row])

    assert near.provide(spec).id == ONE
