"""How a server is found, started, taken over and stopped; and whom that never harms.

What matters about OpenCode itself is shown on the real one. How a server may misbehave is played by
a small program of the same name, first on PATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from agenthub_adapters.opencode_server import OpenCodeServer, Server
from agenthub_adapters.supervisor import Supervisor
from agenthub_core import Backoff, ServerError
from testkit.opencode import OpenCode, free_port
from testkit.program import watched
from testkit.waiting import eventually

SOON = timedelta(seconds=0.4)
"""For a server that will not come up, so that a test need not wait for long."""

AT_ONCE, BOUNDED = 3.0, 5.0  # seconds; generous, for a loaded machine

MINE, YOURS, LEFT = "mine", "yours", "left"
"""Passwords: of the user, of nobody, and of the server of an earlier hub."""

NOW = "1.18.33"

HEALTHY = b'{"healthy": true, "version": "%s"}' % NOW.encode()

PROGRAM = f"""#!{sys.executable} -IS
import base64, os, signal, socketserver, sys, time
from pathlib import Path

if sys.argv[1:] == ["--version"]:
    print("{NOW}")
    sys.exit()
here = Path(__file__).parent
secret = b"opencode:" + os.environ["OPENCODE_SERVER_PASSWORD"].encode()
wanted = b"authorization: basic " + base64.b64encode(secret).lower()
if (here / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while (here / "slow").exists():
    time.sleep(0.01)

class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        known = wanted in self.request.recv(65536).lower()
        body = b'{HEALTHY.decode()}' if known else b""
        head = b"HTTP/1.1 200 OK" if known else b"HTTP/1.1 401 Unauthorized"
        self.request.sendall(head + b"\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)

socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", int(sys.argv[3])), Answer).serve_forever()
"""
"""All that the hub wants of a server: its health, for those who know the password."""

OLD = {
    "1.1.11": "list the sessions of all projects",
    "1.2.6": "list the sessions of all projects",
    "1.3.2": "tell a session's own agent and model",
    "1.15.3": "work in a session's own directory",
}
"""What the real ones of these versions were seen to lack."""


@pytest.fixture
def port() -> Iterator[int]:
    """A free port; no server for it may be left when the test ends."""
    port = free_port()
    yield port
    left = servers(port)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    root.mkdir()
    return root


@pytest.fixture
def real(opencode_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real OpenCode on PATH, with a HOME of its own."""
    env = OpenCode(opencode_binary, tmp_path / "home", "http://127.0.0.1:1/v1").env
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{opencode_binary.parent}{os.pathsep}{env['PATH']}")
    return opencode_binary


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`opencode` on PATH is a program of ours, which a test may write anew."""
    path = tmp_path / "bin" / "opencode"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    path.chmod(0o700)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def servers(port: int) -> list[int]:
    """The processes that were started to serve the port, whoever their parent is by now."""
    table = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,args="],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = [line.split(maxsplit=1) for line in table.splitlines()]
    return [int(pid) for pid, *args in lines if f"serve --port {port} " in f"{args} "]


def lives(pid: int) -> bool:
    """Whether a process has not ended; it may wait for long until it is reaped."""
    told = subprocess.run(  # noqa: S603
        ["ps", "-o", "stat=", "-p", str(pid)],  # noqa: S607
        check=False,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip()[:1] not in ("", "Z")


def health(server: Server, password: str | None = None) -> int:
    auth = None if password is None else ("opencode", password)
    return httpx.get(f"{server.url}/global/health", auth=auth, trust_env=False).status_code


def nobody_answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def record(root: Path) -> Any:
    return json.loads((root / "server.json").read_text())


def left_behind(root: Path, port: int, pid: int, password: str = LEFT) -> dict[str, Any]:
    """What a hub that was killed has written down."""
    written = {"url": f"http://127.0.0.1:{port}", "password": password, "pid": pid}
    (root / "server.json").write_text(json.dumps(written))
    return written


@contextlib.contextmanager
def started_by_an_earlier_hub(
    program: Path, root: Path, port: int, password: str = LEFT
) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["serve", "--port", str(port), "--hostname", "127.0.0.1"]
    with subprocess.Popen(  # noqa: S603
        [program, *arguments],
        env=os.environ | {"OPENCODE_SERVER_PASSWORD": password},
        start_new_session=True,
    ) as process:
        left_behind(root, port, process.pid, password)
        try:
            eventually(lambda: servers(port) == [process.pid])  # it is the program, not yet a fork
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def an_innocent_process() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:  # noqa: S607
        try:
            yield process.pid
            assert process.poll() is None, "it was harmed"
        finally:
            process.kill()


@contextlib.contextmanager
def held_by(port: int, answer: bytes, *, silent_for: int = 0) -> Iterator[None]:
    """Something else holds the port; to its first requests it says nothing at all."""
    silent = iter(range(silent_for))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            if next(silent, None) is None:
                self.request.sendall(answer)
            else:
                self.request.recv(1)  # until whoever asked has given up

    class Holder(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            pass  # whoever asked may hang up

    with Holder(("127.0.0.1", port), Handler) as holder:
        thread = threading.Thread(target=holder.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            holder.shutdown()
            thread.join()


def http(status: str, body: bytes = b"", **headers: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{head}{lines}\r\n".encode() + body


# ------------------------------------------------------------------------------- the real OpenCode


def test_where_none_answers_one_is_started_that_only_this_user_can_use(
    real: Path, root: Path, port: int
) -> None:
    del real
    opencode = OpenCodeServer(port, root=root)
    old = os.umask(0)
    try:
        server = opencode.ensure()
    finally:
        os.umask(old)

    try:
        assert server.pid is not None
        assert server.password is not None
        assert len(server.password) >= 32
        assert record(root) == {
            "url": server.url,
            "password": server.password,
            "pid": server.pid,
        }
        assert mode(root / "server.json") == mode(root / "opencode.log") == 0o600
        assert health(server) == health(server, "guessed") == 401
        assert health(server, server.password) == 200
        assert servers(port) == [server.pid]
        assert server.password not in repr(server)
        assert server.password not in (root / "opencode.log").read_text()
    finally:
        opencode.stop()

    assert nobody_answers(port)
    assert servers(port) == []
    assert not (root / "server.json").exists()


def test_one_that_answers_is_used_and_left_running(opencode: OpenCode, root: Path) -> None:
    hub = OpenCodeServer(opencode.port, root=root, password=MINE)

    server = hub.ensure()
    hub.stop()

    assert server.url == opencode.url
    assert server.pid is None
    assert list(root.iterdir()) == []
    assert opencode.running
    assert health(server) == 200


@pytest.fixture(scope="module")
def guarded(opencode_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenCode]:
    """A server that its user has started with a password."""
    home = tmp_path_factory.mktemp("home")
    with OpenCode(opencode_binary, home, "http://127.0.0.1:1/v1", password=MINE) as opencode:
        yield opencode


def test_one_with_the_users_password_is_used_and_left_running(
    guarded: OpenCode, root: Path
) -> None:
    hub = OpenCodeServer(guarded.port, root=root, password=MINE)

    server = hub.ensure()
    hub.stop()

    assert server == Server(url=guarded.url, password=MINE)
    assert list(root.iterdir()) == []
    assert health(server, MINE) == 200


@pytest.mark.parametrize("password", [None, YOURS])
def test_without_its_password_one_is_not_used_and_the_user_is_told_what_to_set(
    guarded: OpenCode, root: Path, password: str | None
) -> None:
    hub = OpenCodeServer(guarded.port, root=root, password=password)

    with pytest.raises(ServerError) as told:
        hub.ensure()
    hub.stop()

    for part in (str(guarded.port), "OPENCODE_SERVER_PASSWORD", "OPENCODE_PORT"):
        assert part in str(told.value)
    assert YOURS not in str(told.value)
    assert guarded.running


def test_one_whose_hub_was_killed_is_taken_over_and_stopped_by_the_next(
    real: Path, root: Path, port: int
) -> None:
    del real
    hub = """
import os, signal, sys
from pathlib import Path
from agenthub_adapters.opencode_server import OpenCodeServer

OpenCodeServer(int(sys.argv[1]), root=Path(sys.argv[2])).ensure()
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", hub, str(port), str(root)]
    killed = subprocess.run(command, check=False)  # noqa: S603
    assert killed.returncode == -signal.SIGKILL
    left = record(root)

    following = OpenCodeServer(port, root=root)
    server = following.ensure()

    try:
        assert {"url": server.url, "password": server.password, "pid": server.pid} == left
        assert servers(port) == [left["pid"]]
    finally:
        following.stop()
    assert nobody_answers(port)
    eventually(lambda: servers(port) == [])
    assert not (root / "server.json").exists()


def test_so_is_one_whose_hub_was_killed_in_the_instant_that_it_had_started_it(
    program: Path, root: Path, port: int
) -> None:
    del program
    hub = """
import os, signal, subprocess, sys
from pathlib import Path
from agenthub_adapters.opencode_server import OpenCodeServer

class Started(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

subprocess.Popen = Started
OpenCodeServer(int(sys.argv[1]), root=Path(sys.argv[2])).ensure()
"""
    command = [sys.executable, "-c", hub, str(port), str(root)]
    killed = subprocess.run(command, check=False)  # noqa: S603
    assert killed.returncode == -signal.SIGKILL
    # what it starts to put its record in place looks like itself for a moment
    (pid,) = eventually(lambda: servers(port), when=lambda found: len(found) == 1)
    eventually((root / "server.json").exists)  # the next hub takes longer to begin

    following = OpenCodeServer(port, root=root)
    server = following.ensure()

    assert server.pid == pid
    assert health(server, server.password) == 200
    assert mode(root / "server.json") == 0o600
    following.stop()
    eventually(lambda: servers(port) == [])
    assert list(root.iterdir()) == [root / "opencode.log"]


# ---------------------------------------------------------------------------------------- starting


def test_the_password_of_the_user_is_the_one_that_a_started_server_asks_for(
    program: Path, root: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    del program
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # not for what is on this machine
    hub = OpenCodeServer(port, root=root, password=MINE)

    server = hub.ensure()
    hub.stop()

    assert server.password == MINE
    assert server.pid is not None


def test_ctrl_c_at_the_terminal_does_not_reach_a_started_server(
    program: Path, root: Path, port: int
) -> None:
    del program
    hub = OpenCodeServer(port, root=root)
    pid = hub.ensure().pid
    assert pid is not None
    assert os.getsid(pid) == pid
    hub.stop()


def test_without_opencode_the_user_is_told_how_to_get_it(
    root: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(ServerError, match=f"port {port}.*npm install -g opencode-ai"):
        OpenCodeServer(port, root=root).ensure()


def test_one_that_ends_at_once_is_told_with_its_last_words(
    program: Path, root: Path, port: int
) -> None:
    program.write_text("#!/bin/sh\necho starting\necho 'bad config: line 7' >&2\nexit 3\n")
    with pytest.raises(ServerError, match=r"status 3: starting bad config: line 7"):
        OpenCodeServer(port, root=root).ensure()
    assert not (root / "server.json").exists()


def test_the_words_of_an_earlier_server_are_not_taken_for_its_own(
    program: Path, root: Path, port: int
) -> None:
    program.write_text("#!/bin/sh\nexit 3\n")
    log = root / "opencode.log"
    log.write_text("what an earlier one said\n")
    with pytest.raises(ServerError, match=f"said nothing in {log}"):
        OpenCodeServer(port, root=root).ensure()
    assert log.read_text() == "what an earlier one said\n"
    assert mode(log) == 0o600


def test_its_files_are_private_from_their_first_byte_on(
    program: Path, root: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    del program
    modes: list[int] = []
    monkeypatch.setattr(os, "fchmod", lambda file, _: modes.append(os.fstat(file).st_mode & 0o777))
    hub = OpenCodeServer(port, root=root)
    hub.ensure()
    hub.stop()
    assert modes == [0o600, 0o600]


def test_one_that_cannot_be_run_is_told_by_its_path(program: Path, root: Path, port: int) -> None:
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(ServerError, match=f"ended at once.*{program}"):
        OpenCodeServer(port, root=root).ensure()


A_WRAPPER = """#!/bin/sh
sleep 60 &
echo $! > "$0.child"
wait
"""
"""As npm may put before the program, which then is a child of what was started."""


def child_of(program: Path) -> int:
    path = program.with_name("opencode.child")
    return int(eventually(lambda: path.read_text() if path.exists() else ""))


def test_one_that_never_answers_is_given_up_and_nothing_is_left_of_it(
    program: Path, root: Path, port: int
) -> None:
    program.write_text(A_WRAPPER)
    began = time.monotonic()

    with pytest.raises(ServerError, match=rf"within 0.4 s.*{root / 'opencode.log'}"):
        OpenCodeServer(port, root=root, start_timeout=SOON).ensure()

    assert time.monotonic() - began < BOUNDED
    assert servers(port) == []
    child = child_of(program)
    eventually(lambda: not lives(child))
    assert not (root / "server.json").exists()


def test_a_hub_that_is_told_to_stop_waits_no_longer(program: Path, root: Path, port: int) -> None:
    program.write_text(A_WRAPPER)
    began = time.monotonic()

    with pytest.raises(ServerError, match="told to stop"):
        OpenCodeServer(port, root=root).ensure(given_up=lambda: bool(child_of(program)))

    assert time.monotonic() - began < BOUNDED
    assert servers(port) == []


def test_a_daemon_that_is_told_to_stop_while_it_waits_ends_well(
    program: Path, root: Path, port: int
) -> None:
    program.write_text(A_WRAPPER)
    settings = {
        "HOME": str(root),
        "AGENT_HUB_DIR": str(root),
        "AGENT_HUB_PREFLIGHT": "false",
        "OPENCODE_PORT": str(port),
    }
    begun = subprocess.Popen(
        [sys.executable, "-m", "agenthub_cli", "daemon"],
        env=os.environ | settings,
        stderr=subprocess.PIPE,
        text=True,
    )
    with watched(begun) as daemon:
        child_of(program)
        daemon.terminate()
        _, said = daemon.communicate(timeout=BOUNDED)

    assert daemon.returncode == 0
    assert said.splitlines()[1:] == []
    assert said.endswith(f" starting OpenCode on port {port}\n")
    assert servers(port) == []


def test_a_bug_while_it_starts_leaves_nothing_running(program: Path, root: Path, port: int) -> None:
    del program

    def fails() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        OpenCodeServer(port, root=root).ensure(given_up=fails)
    assert servers(port) == []


@pytest.mark.parametrize("name", ["server.json", "opencode.log"])
def test_a_file_that_cannot_be_written_is_told_and_nothing_is_left_running(
    program: Path, root: Path, port: int, name: str
) -> None:
    del program
    (root / name).mkdir()
    hub = OpenCodeServer(port, root=root)
    with pytest.raises(ServerError, match=f"{root / name} cannot be written"):
        hub.ensure()
    hub.stop()
    assert servers(port) == []


# -------------------------------------------------------------------- the port is somebody else's


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b"<html>It works!</html>"),
        http("200 OK", b"\xff\xfe"),
        http("200 OK", b"[]"),
        http("200 OK", b"null"),
        http("200 OK", b'{"status": "up"}'),
        http("302 Found", location="/login"),
        http("404 Not Found", b"not here"),
        http("500 Internal Server Error"),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
    ids=lambda answer: ascii(answer[:30]),
)
def test_a_port_that_something_else_holds_is_named(
    program: Path, root: Path, port: int, answer: bytes
) -> None:
    del program
    hub = OpenCodeServer(port, root=root)
    with held_by(port, answer), pytest.raises(ServerError, match=f"port {port}.* not OpenCode.*"):
        hub.ensure()
    hub.stop()
    assert list(root.iterdir()) == []


def test_a_port_that_is_held_without_a_word_is_named(root: Path, port: int) -> None:
    hub = OpenCodeServer(port, root=root, start_timeout=SOON)
    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ServerError, match=f"port {port} .*does not answer"),
    ):
        hub.ensure()
    assert time.monotonic() - began < BOUNDED


def test_that_the_hub_waits_for_a_word_is_told_once(
    root: Path, port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agenthub_adapters.opencode_server._SILENT_SECONDS", 0.1)
    monkeypatch.setattr("agenthub_adapters.opencode_server._PROBE_SECONDS", 0.05)
    hub = OpenCodeServer(port, root=root, start_timeout=SOON)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ServerError):
        hub.ensure()
    assert [record.getMessage() for record in caplog.records] == [
        f"what holds port {port} does not answer; waiting for it, for 0.4 s at most"
    ]


def test_a_hub_that_is_told_to_stop_does_not_wait_for_a_word_either(root: Path, port: int) -> None:
    hub = OpenCodeServer(port, root=root)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ServerError):
        hub.ensure(given_up=lambda: True)
    assert time.monotonic() - began < BOUNDED


def test_a_server_that_has_much_to_do_is_asked_again(root: Path, port: int) -> None:
    """While it starts, too, OpenCode may leave a request without an answer."""
    with held_by(port, http("200 OK", HEALTHY), silent_for=2):
        server = OpenCodeServer(port, root=root).ensure()
    assert server == Server(url=f"http://127.0.0.1:{port}")


# ----------------------------------------------------------------------------- an OpenCode of old


@pytest.mark.parametrize(("version", "lack"), OLD.items())
def test_one_that_is_too_old_is_named_with_what_it_lacks_and_left_running(
    root: Path, port: int, version: str, lack: str
) -> None:
    hub = OpenCodeServer(port, root=root)
    healthy = HEALTHY.replace(NOW.encode(), version.encode())
    with held_by(port, http("200 OK", healthy)):
        for asked in (hub.ensure, hub.look):
            with pytest.raises(ServerError) as told:
                asked()
            for part in (f"OpenCode {version} on port {port}", f"cannot {lack}", "upgrade"):
                assert part in str(told.value)
        hub.stop()
        assert not nobody_answers(port)


@pytest.mark.parametrize(
    "version", ["1.15.13", "1.18.3", NOW, "1.100.0", "2.0.0", "0.0.0-dev-202611241200", "local", ""]
)
def test_one_that_lacks_nothing_or_of_which_nothing_is_known_is_used(
    root: Path, port: int, version: str
) -> None:
    healthy = HEALTHY.replace(NOW.encode(), version.encode())
    with held_by(port, http("200 OK", healthy)):
        assert OpenCodeServer(port, root=root).ensure() == Server(url=f"http://127.0.0.1:{port}")


def test_one_that_is_too_old_to_tell_its_health_may_be_what_holds_the_port(
    root: Path, port: int
) -> None:
    hub = OpenCodeServer(port, root=root)
    with (
        held_by(port, http("404 Not Found", b"404 Not Found")),
        pytest.raises(ServerError, match=r"OpenCode from before 1\.1"),
    ):
        hub.ensure()


@pytest.mark.parametrize("version", ["1.0.185", "1.2.6"])
def test_the_users_own_that_is_too_old_is_named_and_nothing_is_left_of_it(
    program: Path, root: Path, port: int, version: str
) -> None:
    told_health = HEALTHY.decode() if version > "1.1" else "404 Not Found"
    old = PROGRAM.replace(HEALTHY.decode(), told_health).replace(NOW, version)
    program.write_text(old)
    hub = OpenCodeServer(port, root=root, start_timeout=timedelta(seconds=2))
    with pytest.raises(ServerError, match=f"OpenCode {version} .*cannot list the sessions of all"):
        hub.ensure()
    assert servers(port) == []
    assert not (root / "server.json").exists()


# ------------------------------------------------------------------- what an earlier hub has left


def test_one_that_still_starts_when_its_hub_is_killed_is_waited_for(
    program: Path, root: Path, port: int
) -> None:
    slow = program.with_name("slow")
    slow.touch()
    with started_by_an_earlier_hub(program, root, port) as process:
        hub = OpenCodeServer(port, root=root)

        def it_goes_on() -> bool:
            slow.unlink(missing_ok=True)
            return False

        server = hub.ensure(it_goes_on)

        assert (server.pid, server.password) == (process.pid, LEFT)
        assert servers(port) == [process.pid]
        began = time.monotonic()
        hub.stop()
        assert time.monotonic() - began < AT_ONCE  # though nobody has reaped it yet
        assert process.wait(BOUNDED) == -signal.SIGTERM


def test_one_that_does_not_answer_any_more_is_replaced(
    program: Path, root: Path, port: int
) -> None:
    slow = program.with_name("slow")
    slow.touch()
    with started_by_an_earlier_hub(program, root, port) as process:

        def the_new_one_may_begin() -> bool:
            if process.poll() is not None:
                slow.unlink(missing_ok=True)
            return False

        hub = OpenCodeServer(port, root=root, start_timeout=timedelta(seconds=2))
        server = hub.ensure(the_new_one_may_begin)

        assert process.poll() is not None
        assert server.pid != process.pid
        assert server.password != LEFT
        assert record(root)["pid"] == server.pid
        hub.stop()


def test_a_server_that_outlived_its_process_is_used_by_its_password(
    program: Path, root: Path, port: int
) -> None:
    """The process that was written down may have been npm's script before the program."""
    with started_by_an_earlier_hub(program, root, port), an_innocent_process() as pid:
        eventually(lambda: not nobody_answers(port))
        left_behind(root, port, pid)
        hub = OpenCodeServer(port, root=root)

        server = hub.ensure()
        hub.stop()

        assert server == Server(url=f"http://127.0.0.1:{port}", password=LEFT)
        assert not nobody_answers(port)


def test_a_record_of_a_process_that_has_ended_is_replaced(
    program: Path, root: Path, port: int
) -> None:
    del program
    with subprocess.Popen(["true"]) as ended:  # noqa: S607
        pass
    left_behind(root, port, ended.pid)
    hub = OpenCodeServer(port, root=root)

    server = hub.ensure()

    assert server.pid not in (None, ended.pid)
    assert record(root)["pid"] == server.pid
    hub.stop()


@pytest.mark.parametrize(
    "written", [b"", b"{", b"[]", b"null", b"\xff", b'{"url": 1}', b'{"pid": "x", "url": ""}']
)
def test_a_record_that_cannot_be_read_is_replaced(
    program: Path, root: Path, port: int, written: bytes
) -> None:
    del program
    (root / "server.json").write_bytes(written)
    hub = OpenCodeServer(port, root=root)
    server = hub.ensure()
    assert record(root)["pid"] == server.pid
    hub.stop()


def test_a_process_that_has_got_the_number_of_a_server_is_never_ended(
    program: Path, root: Path, port: int
) -> None:
    del program
    with an_innocent_process() as pid:
        left_behind(root, port, pid)
        hub = OpenCodeServer(port, root=root)

        server = hub.ensure()
        hub.stop()

        assert server.pid not in (None, pid)


def test_nor_when_the_user_runs_a_server_with_the_same_password(root: Path, port: int) -> None:
    with an_innocent_process() as pid, held_by(port, http("200 OK", HEALTHY)):
        left_behind(root, port, pid, password=MINE)
        hub = OpenCodeServer(port, root=root, password=MINE)

        server = hub.ensure()
        hub.stop()

        assert server == Server(url=f"http://127.0.0.1:{port}", password=MINE)


def test_a_server_of_the_users_that_has_got_the_port_is_not_taken_for_it(
    program: Path, root: Path, port: int
) -> None:
    program.with_name("slow").touch()
    with (
        started_by_an_earlier_hub(program, root, port) as process,
        held_by(port, http("200 OK", HEALTHY)),
    ):
        hub = OpenCodeServer(port, root=root)

        server = hub.ensure()
        hub.stop()

        assert server == Server(url=f"http://127.0.0.1:{port}")
        assert process.poll() is None


def test_a_server_on_another_port_is_another_server(program: Path, root: Path, port: int) -> None:
    with started_by_an_earlier_hub(program, root, port) as process:
        other = OpenCodeServer(free_port(), root=root)
        server = other.ensure()
        other.stop()

        assert server.pid != process.pid
        assert process.poll() is None


# ---------------------------------------------------------------------------------------- stopping


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agenthub_adapters.opencode_server._END_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_one_that_does_not_listen_to_sigterm_is_ended_too(
    program: Path, root: Path, port: int
) -> None:
    program.with_name("stubborn").touch()
    hub = OpenCodeServer(port, root=root)
    hub.ensure()

    hub.stop()

    assert servers(port) == []
    assert nobody_answers(port)
    assert not (root / "server.json").exists()


@pytest.mark.usefixtures("impatient")
def test_nor_does_it_help_one_that_was_taken_over(program: Path, root: Path, port: int) -> None:
    program.with_name("stubborn").touch()
    with started_by_an_earlier_hub(program, root, port) as process:
        hub = OpenCodeServer(port, root=root)
        assert hub.ensure().pid == process.pid

        hub.stop()

        assert process.wait(BOUNDED) == -signal.SIGKILL


def end_by_itself(pid: int, port: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: nobody_answers(port))


@pytest.mark.parametrize("times", [0, 1, 2])
def test_stopping_what_has_ended_or_never_began_sends_no_signal(
    program: Path, root: Path, port: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be that of an innocent process by now."""
    del program
    signals: list[int] = []
    hub = OpenCodeServer(port, root=root)
    if times:
        pid = hub.ensure().pid
        assert pid is not None
        end_by_itself(pid, port)

    monkeypatch.setattr(os, "killpg", lambda _, number: signals.append(number))
    for _ in range(times + 1):
        hub.stop()

    assert signals == []
    assert list(root.glob("server.json")) == []


def test_what_was_stopped_can_be_started_again(program: Path, root: Path, port: int) -> None:
    del program
    hub = OpenCodeServer(port, root=root)
    first = hub.ensure()
    hub.stop()

    second = hub.ensure()

    assert second.pid != first.pid
    assert second.password != first.password
    hub.stop()


def test_one_that_crashed_is_replaced(program: Path, root: Path, port: int) -> None:
    del program
    hub = OpenCodeServer(port, root=root)
    first = hub.ensure()
    assert first.pid is not None
    end_by_itself(first.pid, port)

    second = hub.ensure()

    assert second.pid != first.pid
    hub.stop()


# ----------------------------------------------------------------------------------- supervised

HASTY = Backoff(quick=9, first=timedelta(milliseconds=1))


def killed(server: Server) -> None:
    assert server.pid is not None
    os.killpg(server.pid, signal.SIGKILL)


def back(server: OpenCodeServer, *, not_as: int | None) -> Server:
    """The server, once it answers under another process."""

    def others() -> Server | None:
        with contextlib.suppress(ServerError):  # it is just coming up
            found = server.look()
            if found is not None and found.pid not in (None, not_as):
                return found
        return None

    return eventually(others) or pytest.fail("nobody answers")


def test_a_server_of_the_hubs_own_that_dies_comes_back_as_the_same(
    program: Path, root: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    del program
    caplog.set_level("INFO")
    server = OpenCodeServer(port, root=root)
    first = server.ensure()
    with Supervisor(server, backoff=HASTY):
        for times in (1, 2):
            before = server.look()
            assert before is not None
            killed(before)
            after = back(server, not_as=before.pid)
            assert (after.url, after.password) == (first.url, first.password)
            assert record(root)["pid"] == after.pid
            eventually(
                partial(said, caplog, f"OpenCode is at {first.url} again"), when=times.__eq__
            )
    server.stop()
    assert servers(port) == []
    assert said(caplog, "OpenCode has ended; it is started again") == 2


def said(log: pytest.LogCaptureFixture, text: str) -> int:
    return log.messages.count(text)


def test_what_dies_while_the_hub_stops_stays_dead(program: Path, root: Path, port: int) -> None:
    del program
    server = OpenCodeServer(port, root=root)
    with Supervisor(server):
        killed(server.ensure())
    server.stop()
    assert servers(port) == []


def test_a_server_of_somebody_elses_is_not_replaced_when_it_dies(
    program: Path, root: Path, port: int
) -> None:
    with started_by_an_earlier_hub(program, root, port) as process:
        (root / "server.json").unlink()
        eventually(lambda: not nobody_answers(port))
        server = OpenCodeServer(port, root=root, password=LEFT)
        assert server.ensure().pid is None
        process.kill()
        process.wait()
    assert not server.has_ended()


def test_what_cannot_come_back_is_tried_again_and_told_once(
    program: Path, root: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = OpenCodeServer(port, root=root)
    first = server.ensure()
    well = program.read_text()
    tries = root / "tries"
    program.write_text(f"#!/bin/sh\necho . >> {tries}\necho no room >&2\nexit 3\n")
    with Supervisor(server, backoff=HASTY):
        killed(first)
        eventually(lambda: tries.exists() and tries.read_text().count(".") >= 3)
        replace(program, well)
        after = back(server, not_as=first.pid)
    assert after.password == first.password
    told = [each for each in caplog.messages if "no room" in each]
    assert len(told) == 1, caplog.messages
    assert "ended at once with status 3" in told[0]
    server.stop()
    assert servers(port) == []


def test_who_takes_the_port_of_a_server_that_died_is_used_instead(
    program: Path, root: Path, port: int
) -> None:
    server = OpenCodeServer(port, root=root, password=MINE)
    first = server.ensure()
    killed(first)
    eventually(server.has_ended)
    (root / "server.json").unlink()
    with started_by_an_earlier_hub(program, root, port, password=MINE):
        (root / "server.json").unlink()
        eventually(lambda: not nobody_answers(port))
        assert server.restart().pid is None
    assert not server.has_ended()


def replace(program: Path, text: str) -> None:
    """Whole at once: somebody may be about to run it."""
    new = program.with_name("new")
    new.write_text(text)
    new.chmod(0o700)
    new.replace(program)
