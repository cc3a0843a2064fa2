"""Who calls a tool, as the OpenCode process tells it over its socket, or why nobody can tell."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenthub_adapters import caller
from agenthub_adapters.caller import Caller
from agenthub_core import Session
from agenthub_core.testing import NOON, ManualClock
from testkit.stub_endpoint import StubEndpoint

TIGER = {"session": "ses_1", "slug": "lucky-tiger", "directory": "/projects/api"}
CALL = ("send_message", "lucky-tiger")


@pytest.fixture
def run() -> Iterator[Path]:
    """A directory with a short name, for a socket's must be short."""
    directory = Path(tempfile.mkdtemp(prefix="ah-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def endpoint(run: Path) -> Iterator[StubEndpoint]:
    with StubEndpoint(run / "4711.sock") as endpoint:
        endpoint.calls[CALL] = TIGER
        yield endpoint


def claimed(run: Path, process: str = "4711") -> Session | None:
    return Caller(run, {"OPENCODE_PID": process}, clock=ManualClock()).claim(*CALL)


def test_the_session_that_calls_is_the_one_that_its_process_names(
    run: Path, endpoint: StubEndpoint
) -> None:
    assert claimed(run) == Session(
        id="ses_1", slug="lucky-tiger", directory="/projects/api", created=NOON, updated=NOON
    )
    assert endpoint.requests == ["GET /", "POST /claim"]


def test_a_process_is_asked_once_which_protocol_it_speaks(
    run: Path, endpoint: StubEndpoint
) -> None:
    calls = Caller(run, {"OPENCODE_PID": "4711"}, clock=ManualClock())
    assert calls.claim(*CALL) is not None
    assert calls.claim(*CALL) is None, "each call can be claimed once"
    endpoint.calls[CALL] = TIGER
    assert calls.claim(*CALL) is not None
    assert endpoint.requests.count("GET /") == 1


def test_a_process_that_does_not_tell_slug_and_directory_tells_the_session(
    run: Path, endpoint: StubEndpoint
) -> None:
    endpoint.calls[CALL] = {"session": "ses_1"}
    session = claimed(run)
    assert session is not None
    assert (session.id, session.slug, session.directory) == ("ses_1", "", "")


@pytest.mark.parametrize("process", ["", "4712", "../4711", "-1", "x"])
def test_without_an_endpoint_of_its_process_nobody_can_tell(
    run: Path, endpoint: StubEndpoint, process: str
) -> None:
    assert claimed(run, process) is None
    assert endpoint.requests == []


def test_outside_opencode_nobody_can_tell(run: Path, endpoint: StubEndpoint) -> None:
    assert Caller(run, {}, clock=ManualClock()).claim(*CALL) is None
    assert endpoint.requests == []


@pytest.mark.parametrize("hello", [{"protocol": 2}, {"protocol": "1"}, {}, [], b"", b"hello"])
def test_an_endpoint_of_another_protocol_is_left_alone(
    run: Path, endpoint: StubEndpoint, hello: object
) -> None:
    endpoint.hello = hello
    assert claimed(run) is None
    assert endpoint.requests == ["GET /"]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        [],
        {"session": ""},
        {"session": 1},
        {"session": None},
        TIGER | {"slug": 1},
        TIGER | {"directory": None},
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b" " * 2_000_000 + b"{}",
    ],
)
def test_an_odd_answer_names_nobody(run: Path, endpoint: StubEndpoint, odd: object) -> None:
    endpoint.calls[CALL] = odd
    assert claimed(run) is None


def test_a_socket_that_a_killed_process_has_left_names_nobody(run: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(run / "4711.sock"))
    assert claimed(run) is None


def test_a_name_that_is_too_long_for_a_socket_names_nobody(run: Path) -> None:
    assert claimed(run / ("x" * 120)) is None


@pytest.mark.parametrize("said", [b"", b"\x00\n\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_who_speaks_no_http_names_nobody(run: Path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(run / "4711.sock"))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        assert claimed(run) is None
        thread.join()


def test_a_process_that_hangs_is_not_waited_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "_PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(run / "4711.sock"))
        listening.listen()
        assert claimed(run) is None
