"""What OpenCode's events and its database tell of, in spite of what, and what is left behind."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agenthub_adapters.opencode_events import OpenCodeDatabase, OpenCodeEvents
from testkit.opencode import OpenCode
from testkit.scripted_model import Held, Rule, ScriptedModel, Text, in_session
from testkit.waiting import PATIENCE, eventually
from testkit.window import Window

MINE = "mine"
QUIET = 0.5  # seconds without a hint, after which nothing more is on its way


class Hints:
    """Counts them, and waits for the next."""

    def __init__(self) -> None:
        self._given = threading.Semaphore(0)

    def __call__(self) -> None:
        self._given.release()

    def one(self) -> bool:
        return self._given.acquire(timeout=PATIENCE)

    @property
    def none_came(self) -> bool:
        return not self._given.acquire(blocking=False)

    def settle(self) -> None:
        """Until no more come."""
        while self._given.acquire(timeout=QUIET):
            pass


@pytest.fixture
def hints() -> Iterator[Hints]:
    before = set(threading.enumerate())
    yield Hints()
    eventually(lambda: set(threading.enumerate()) - before, when=lambda left: not left)


@contextlib.contextmanager
def listening(opencode: OpenCode, hints: Hints) -> Iterator[None]:
    """Connected, and the hint that comes with that is taken."""
    with OpenCodeEvents(opencode.url, hints, password=opencode.password):
        assert hints.one()
        hints.settle()
        yield


def test_a_new_session_is_told_of(
    opencode: OpenCode, hints: Hints, project: Callable[[str], Path]
) -> None:
    with listening(opencode, hints):
        opencode.create_session(project("api"))
        assert hints.one()


def test_the_end_of_a_turn_is_told_of(
    opencode: OpenCode,
    scripted_model: ScriptedModel,
    hints: Hints,
    project: Callable[[str], Path],
) -> None:
    session = opencode.create_session(project("api"))
    held = Held(Text("done"))
    scripted_model.add(Rule(in_session(session["id"]), held))
    with listening(opencode, hints):
        opencode.prompt(session["id"], "work on it")
        scripted_model.wait_for(in_session(session["id"]))
        hints.settle()
        held.release()
        assert hints.one()
        opencode.wait_for_idle(session["id"])


def test_after_a_restart_of_the_server_it_listens_again(
    opencode: OpenCode, hints: Hints, project: Callable[[str], Path]
) -> None:
    with listening(opencode, hints):
        opencode.kill()
        opencode.start()
        assert hints.one(), "what was done in between is to be looked for"
        hints.settle()
        opencode.create_session(project("api"))
        assert hints.one()


def test_it_gives_the_servers_password(
    opencode_binary: Path, scripted_model: ScriptedModel, tmp_path: Path, hints: Hints
) -> None:
    guarded = OpenCode(opencode_binary, tmp_path / "home", scripted_model.url, password=MINE)
    with guarded, listening(guarded, hints):
        pass


class Page(http.server.BaseHTTPRequestHandler):
    """Another program's web page, whatever is asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b'<p>"session.created"</p>')
        asked.set()

    def log_message(self, *_: object) -> None:
        pass


asked = threading.Event()


def test_who_sends_no_events_is_not_listened_to(hints: Hints) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        with OpenCodeEvents(f"http://127.0.0.1:{server.server_port}", hints):
            assert asked.wait(PATIENCE)
        server.shutdown()
        serving.join()
    assert hints.none_came


def test_where_nobody_answers_it_ends_at_once_all_the_same(hints: Hints) -> None:
    with OpenCodeEvents("http://127.0.0.1:9", hints):
        pass


# ---------------------------------------------------------------------------------- the database


def test_what_a_window_of_its_own_writes_is_told_of(
    opencode: OpenCode,
    hints: Hints,
    project: Callable[[str], Path],
    open_window: Callable[..., Window],
) -> None:
    window = open_window(project("api"))
    window.wait_for_text("Ask anything")
    with OpenCodeDatabase(opencode.home / ".local/share/opencode", hints):
        hints.settle()
        window.type("hello")
        window.press("Enter")
        assert hints.one()
        opencode.wait_for_idle(window.session()["id"])


def test_a_database_that_is_made_later_is_told_of_and_silence_is_not(
    tmp_path: Path, hints: Hints
) -> None:
    with OpenCodeDatabase(tmp_path / "later", hints):
        (tmp_path / "later").mkdir()
        hints.settle()
        assert hints.none_came
        (tmp_path / "later" / "opencode.db").write_text("a session")
        assert hints.one()
