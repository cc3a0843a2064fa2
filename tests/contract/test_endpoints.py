"""The hub's side of the endpoints, on processes that behave as no OpenCode would, or soon would.

That the plugin is such an endpoint, and that messages show in windows, is shown on the real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agenthub_adapters.clock import SystemClock
from agenthub_adapters.endpoints import Endpoints
from agenthub_adapters.watcher import Watcher
from agenthub_core import PromptInvalid, RelayUnreachable, SessionBusy, SessionUnknown, Usage
from agenthub_core.hub import Told
from agenthub_core.protocol import SessionCompacted, SessionFreed, TurnEnded
from testkit.stub_endpoint import StubEndpoint
from testkit.waiting import eventually

NOBODY = 2**22 + 1
"""No process has this id: Linux gives none above 2**22, macOS none above 99999."""


@pytest.fixture
def run() -> Iterator[Path]:
    """A directory for sockets, whose paths may have 104 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="run-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def own(run: Path) -> Path:
    """The socket of a process that lives: this one."""
    return run / f"{os.getpid()}.sock"


class Heard:
    """The hub's side, and what it was told."""

    def __init__(self, run: Path, timeout: timedelta = timedelta(seconds=5)) -> None:
        self.hints = 0
        self.told: list[Told] = []
        self.clock = SystemClock()
        self.endpoints = Endpoints(run, clock=self.clock, timeout=timeout)
        self._run = run

    @contextlib.contextmanager
    def listening(self) -> Iterator[Endpoints]:
        with (
            Watcher(self._run, self.endpoints.found),
            self.endpoints.listening(self._hint, self.told.append),
        ):
            yield self.endpoints

    def _hint(self) -> None:
        self.hints += 1


def session(name: str = "ses_a", state: str = "idle", **more: Any) -> Mapping[str, Any]:
    return {"id": name, "state": state, "used": 0, "opened": 0, "shown": None, **more}


def test_who_is_there_at_the_start_is_known_when_listening_begins(run: Path, own: Path) -> None:
    with StubEndpoint(own, session()), Heard(run).listening() as endpoints:
        assert endpoints.owner("ses_a") is not None
        assert endpoints.owner("ses_b") is None


def test_who_comes_later_is_found_by_its_socket(run: Path, own: Path) -> None:
    heard = Heard(run)
    with heard.listening() as endpoints, StubEndpoint(own, session()):
        eventually(lambda: endpoints.owner("ses_a"))
        assert heard.hints


def test_a_session_that_comes_into_a_process_is_hinted_at(run: Path, own: Path) -> None:
    heard = Heard(run)
    with StubEndpoint(own) as stub, heard.listening() as endpoints:
        before = heard.hints
        stub.tell("session", session("ses_new", "busy"))
        eventually(lambda: endpoints.at_work("ses_new"))
        eventually(lambda: heard.hints > before)


def test_a_session_that_was_deleted_lives_nowhere(run: Path, own: Path) -> None:
    with StubEndpoint(own, session()) as stub, Heard(run).listening() as endpoints:
        stub.tell("gone", {"id": "ses_a"})
        eventually(lambda: endpoints.owner("ses_a") is None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"used": 9, "state": "busy"}, {"used": 10, "shown": True}, id="at work"),
        pytest.param({"used": 9, "state": "waiting"}, {"used": 10}, id="waits for its user"),
        pytest.param({"used": 9, "shown": True}, {"used": 10, "shown": False}, id="on screen"),
        pytest.param({"used": 10, "opened": 1}, {"used": 9, "opened": 2}, id="used last"),
        pytest.param({"opened": 2}, {"opened": 1}, id="opened last"),
    ],
)
def test_a_session_in_two_processes_belongs_to_the_one_where_it_is(
    run: Path, own: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    second = run / f"{os.getppid()}.sock"
    for first, last in ((one, other), (other, one)):
        with (
            StubEndpoint(own, session(**first)),
            StubEndpoint(second, session(**last)),
            Heard(run).listening() as endpoints,
        ):
            owner = endpoints.owner("ses_a")
            assert owner is not None
            assert owner.path == (own if first == one else second)


@pytest.mark.parametrize("state", ["busy", "waiting"])
def test_it_is_told_when_a_session_takes_prompts_again(run: Path, own: Path, state: str) -> None:
    heard = Heard(run)
    with StubEndpoint(own, session(state=state)) as stub, heard.listening() as endpoints:
        stub.tell("session", session())
        eventually(lambda: not endpoints.at_work("ses_a"))
        eventually(lambda: heard.told == [SessionFreed(session_id="ses_a")])


def step(message: str, parent: str | None, cost: float) -> Mapping[str, Any]:
    tokens = {"input": 1, "output": 2, "reasoning": 3, "cache": {"read": 4, "write": 5}}
    return {"id": "ses_a", "message": message, "parent": parent, "tokens": tokens, "cost": cost}


@pytest.mark.parametrize(
    ("parents", "caused"),
    [
        (["msg_0123456789abAgHubx", "msg_of_its_user"], True),
        ([None, "msg_0123456789abAgHubx"], True),
        (["msg_of_its_user", "msg_0123456789abAgHubx"], False),
        ([None, None], False),
    ],
)
def test_a_turn_is_told_with_what_it_took_and_what_caused_it(
    run: Path, own: Path, parents: list[str | None], caused: bool
) -> None:
    heard = Heard(run)
    first, last = parents
    with StubEndpoint(own) as stub, heard.listening():
        began = heard.clock.now()
        stub.tell("session", session(state="busy"))
        stub.tell("step", step("msg_1", first, 7.0))
        stub.tell("session", session(state="waiting"))
        stub.tell("step", step("msg_1", first, 0.5))  # told again, and better
        stub.tell("step", step("msg_2", last, 0.25))
        stub.tell("session", session())
        eventually(lambda: [each for each in heard.told if isinstance(each, TurnEnded)])
    (ended,) = (each for each in heard.told if isinstance(each, TurnEnded))
    assert ended.usage == Usage(input=2, output=10, cache_read=8, cache_write=10, cost=0.75)
    assert (ended.session_id, ended.caused) == ("ses_a", caused)
    assert began <= ended.began <= ended.ended <= heard.clock.now()


def test_who_was_busy_without_a_model_has_had_no_turn(run: Path, own: Path) -> None:
    heard = Heard(run)
    nothing = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}
    with StubEndpoint(own) as stub, heard.listening():
        stub.tell("session", session(state="busy"))
        stub.tell("step", {**step("msg_shell", "msg_user", 0.0), "tokens": nothing})
        stub.tell("session", session())
        stub.tell("step", step("msg_late", None, 1.0))  # nobody is at it any more
        stub.tell("compacted", {"id": "ses_a"})
        eventually(lambda: SessionCompacted(session_id="ses_a") in heard.told)
    assert not [each for each in heard.told if isinstance(each, TurnEnded)]


def test_a_compaction_is_told(run: Path, own: Path) -> None:
    heard = Heard(run)
    with StubEndpoint(own) as stub, heard.listening():
        stub.tell("compacted", {"id": "ses_a"})
        eventually(lambda: heard.told == [SessionCompacted(session_id="ses_a")])


# ------------------------------------------------------------------------------ what goes wrong


def test_the_socket_of_a_process_that_was_killed_is_swept(run: Path) -> None:
    stale = run / f"{NOBODY}.sock"
    stub = StubEndpoint(stale)
    stub.open()
    stub.close(leave_socket=True)
    with Heard(run).listening():
        eventually(lambda: not stale.exists())


def test_the_socket_of_a_process_that_is_about_to_listen_is_left(run: Path, own: Path) -> None:
    stub = StubEndpoint(own, session())
    stub.open()
    stub.close(leave_socket=True)
    with Heard(run).listening() as endpoints:
        assert own.exists()
        own.unlink()
        with stub:
            eventually(lambda: endpoints.owner("ses_a"))


def test_what_else_lies_there_is_left_alone(run: Path) -> None:
    other = run / "notes.txt"
    other.write_text("mine")
    with Heard(run).listening():
        pass
    assert other.read_text() == "mine"


def test_a_process_that_ends_hands_its_sessions_back(run: Path, own: Path) -> None:
    heard = Heard(run)
    with StubEndpoint(own, session()) as stub, heard.listening() as endpoints:
        stub.close()
        eventually(lambda: endpoints.owner("ses_a") is None)
        eventually(lambda: SessionFreed(session_id="ses_a") in heard.told)
        assert endpoints.lost("ses_a") is None  # nothing was under way


def test_the_turn_of_a_process_that_was_killed_counts_as_lost(run: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stub = StubEndpoint(run / f"{process.pid}.sock", session(state="busy"))
    try:
        with stub, Heard(run).listening() as endpoints:
            assert endpoints.lost("ses_a") is None
            process.kill()
            process.wait()
            stub.close(leave_socket=True)
            eventually(lambda: endpoints.lost("ses_a"))
            assert not endpoints.at_work("ses_a")
    finally:
        process.kill()
        process.communicate()


def test_a_plugin_of_another_protocol_is_left_alone_and_told_of(
    run: Path, own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard(run)
    with StubEndpoint(own, session(), protocol=2) as stub, heard.listening() as endpoints:
        stub.tell("session", session(state="busy"))
        stub.tell("compacted", {"id": "ses_a"})
        eventually(lambda: "restart that window" in caplog.text)
        assert endpoints.owner("ses_a") is None
    assert not endpoints.at_work("ses_a")
    assert heard.told == []


@pytest.mark.parametrize(
    "said",
    [
        "event: session\ndata: {\n\n",
        "event: session\ndata: []\n\n",
        'event: session\ndata: {"id": "ses_a", "state": "asleep"}\n\n',
        "event: step\ndata: {}\n\n",
        "event: news\ndata: 1\n\n",
        "\x00\n\n",
    ],
)
def test_what_cannot_be_read_is_passed_over(run: Path, own: Path, said: str) -> None:
    heard = Heard(run)
    with StubEndpoint(own) as stub, heard.listening() as endpoints:
        stub.write(said)
        stub.tell("session", session("ses_next"))
        eventually(lambda: endpoints.owner("ses_next"))


def test_who_breaks_off_is_listened_to_again(run: Path, own: Path) -> None:
    with StubEndpoint(own, session()) as stub, Heard(run).listening() as endpoints:
        stub.close(leave_socket=True)
        own.unlink()
        stub.hello["sessions"] = [session("ses_b")]
        with stub:
            eventually(lambda: endpoints.owner("ses_b"))


def test_the_end_does_not_wait_for_who_says_nothing_and_nobody_listens_any_more(
    run: Path, own: Path
) -> None:
    with StubEndpoint(own) as stub:
        with Heard(run).listening():
            assert stub.listeners == 1
        stub.tell("session", session())  # which shows who has gone
        eventually(lambda: stub.listeners == 0)
        assert stub.requests == ["GET /events"]
        assert not [each for each in threading.enumerate() if each.name == "endpoint"]


# ------------------------------------------------------------------------------------- prompts


def test_prompts_are_handed_over_in_one_request_which_says_how_long_they_are_wanted(
    run: Path, own: Path
) -> None:
    with StubEndpoint(own, session()) as stub, Heard(run).listening() as endpoints:
        owner = endpoints.owner("ses_a")
        assert owner is not None
        assert owner.prompt("ses_a", [{"messageID": "a"}, {"messageID": "b"}]) == (2, None)
    (request,) = stub.asked
    assert request["path"] == "/sessions/ses_a/prompts"
    assert request["prompts"] == [{"messageID": "a"}, {"messageID": "b"}]
    wanted = datetime.fromtimestamp(request["before"] / 1000, UTC) - datetime.now(UTC)
    assert timedelta(seconds=1) < wanted < timedelta(seconds=7)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (409, SessionBusy),
        (404, SessionUnknown),
        (400, PromptInvalid),
        (408, RelayUnreachable),
        (500, RelayUnreachable),
    ],
)
def test_why_a_prompt_was_not_taken_is_told(
    run: Path, own: Path, status: int, error: type[Exception]
) -> None:
    refused = {"status": status, "error": "because"}
    with StubEndpoint(own, session()) as stub, Heard(run).listening() as endpoints:
        stub.answer = lambda _: {"accepted": 1, "refused": refused}
        owner = endpoints.owner("ses_a")
        assert owner is not None
        accepted, why = owner.prompt("ses_a", [{}, {}])
    assert accepted == 1
    assert isinstance(why, error)


def test_a_process_that_does_not_answer_may_be_suspended(run: Path, own: Path) -> None:
    heard = Heard(run, timeout=timedelta(milliseconds=50))
    hangs = threading.Event()
    with StubEndpoint(own, session()) as stub, heard.listening() as endpoints:
        stub.answer = lambda _: {"hangs": hangs.wait()}
        owner = endpoints.owner("ses_a")
        assert owner is not None
        with pytest.raises(RelayUnreachable, match="suspended"):
            owner.prompt("ses_a", [{}])
        hangs.set()


def test_a_process_that_ends_meanwhile_has_ended(run: Path, own: Path) -> None:
    with StubEndpoint(own, session()) as stub, Heard(run).listening() as endpoints:
        owner = endpoints.owner("ses_a")
        assert owner is not None
        stub.close()
        with pytest.raises(RelayUnreachable, match="has ended"):
            owner.prompt("ses_a", [{}])


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": True},
        {"accepted": "all"},
        {"accepted": 0},
        {"accepted": 2},
        {"accepted": 1, "refused": {"status": 409}},
        {"accepted": -1, "refused": {"status": 409}},
        b"<html>",
        b"[]",
        b"",
    ],
)
def test_an_answer_that_is_not_the_plugins_asks_for_a_restart(
    run: Path, own: Path, answer: Any
) -> None:
    with StubEndpoint(own, session()) as stub, Heard(run).listening() as endpoints:
        stub.answer = lambda _: answer
        owner = endpoints.owner("ses_a")
        assert owner is not None
        with pytest.raises(RelayUnreachable, match="restart that window"):
            owner.prompt("ses_a", [{}])


def test_what_a_session_works_with_is_known_as_far_as_its_process_tells(
    run: Path, own: Path
) -> None:
    model = {"id": "echo", "providerID": "fake", "variant": "high"}
    told = session("ses_told", agent="plan", model=model)
    with StubEndpoint(own, session(), told), Heard(run).listening() as endpoints:
        owner = endpoints.owner("ses_a")
        assert owner is not None
        assert owner.setting("ses_a") is None
        assert owner.setting("ses_of_nobody") is None
        setting = owner.setting("ses_told")
    assert setting is not None
    assert setting.model is not None
    assert (setting.agent, setting.model.provider, setting.model.id, setting.model.variant) == (
        "plan",
        "fake",
        "echo",
        "high",
    )
