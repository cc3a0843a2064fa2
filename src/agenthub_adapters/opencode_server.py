"""Finds an OpenCode server on a port, or starts one and stops it again.

A server that somebody else started is used and left running. One that the hub starts asks for a
password that only this user can read (`server.json`), writes its output to `opencode.log`, and ends
with the hub; if the hub is killed, at whatever instant, the next one finds it by `server.json` and
takes it over. When to bring back one that has died is `supervisor`'s business.

An OpenCode that is too old for the hub is not used. Speaks no more of its API than its health;
sessions and prompts are `opencode`'s business.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

import httpx
from attrs import evolve, field, frozen
from cattrs import BaseValidationError, structure

from agenthub_adapters.opencode_version import UPGRADE, lack
from agenthub_core import ServerError

_PROBE_SECONDS = 0.3
"""How long one probe waits: a request that is accepted during start-up may never be answered."""

_PAUSE_SECONDS = 0.05  # between two probes; OpenCode needs some 1.5 s to start
_LOOK_SECONDS = 5.0  # for who only looks: as long as the hub gives OpenCode for an answer
_SILENT_SECONDS = 1  # before somebody at a terminal wonders what the hub does
_END_SECONDS = 1.5  # for a server to end when asked to (0.13 s): the hub itself has 5 s

T = TypeVar("T")

_HOST = "127.0.0.1"

_BEGIN = 'echo "$$}" >> "$1.new" && mv "$1.new" "$1" && shift && exec "$@"'
"""What the server's process does before it becomes OpenCode, with the record's name before the
command: it completes the record with its own number. So none ever runs that no record tells of,
whenever the hub is killed."""

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Server:
    """An OpenCode server that answers."""

    url: str
    password: str | None = field(default=None, repr=False)
    pid: int | None = None
    """The process, where it is the hub's own to stop."""


@frozen(kw_only=True)
class _Health:
    healthy: bool
    version: str = ""


class OpenCodeServer:
    """The server on a port of this machine: `ensure` it, and `stop` it in the end."""

    def __init__(
        self,
        port: int,
        *,
        root: Path,
        password: str | None = None,
        start_timeout: timedelta = timedelta(seconds=20),
    ) -> None:
        """`root` is the hub's directory. `password` is what the user says the server wants."""
        self._url = f"http://{_HOST}:{port}"
        self._port = port
        self._password = password
        self._record = root / "server.json"
        self._log = root / "opencode.log"
        self._cwd = root
        self._start_timeout = start_timeout
        self._arguments = ["serve", "--port", str(port), "--hostname", _HOST]
        self._process: subprocess.Popen[bytes] | None = None
        self._server: Server | None = None

    def ensure(self, given_up: Callable[[], bool] = lambda: False) -> Server:
        """The server that answers on the port, started if there is none.

        Raises `ServerError` where the port is held by something else, the password is wrong, there
        is no OpenCode to start, it is too old, or it does not come up before `given_up` says that
        nobody waits.
        """
        self._server = self._find(given_up) or self._start(given_up)
        return self._server

    def has_ended(self) -> bool:
        """Whether the server is the hub's own, and its process is no more."""
        server = self._server
        return server is not None and server.pid is not None and not self._runs(server.pid)

    def restart(self, given_up: Callable[[], bool] = lambda: False) -> Server:
        """The server in place of one that has ended: who knew its password need learn no other.

        Raises `ServerError` as `ensure` does; then it may be tried again.
        """
        ended = self._server
        password = None if ended is None else ended.password
        try:
            self._server = self._find(given_up) or self._start(given_up, password)
        except ServerError:
            self._server = ended
            raise
        return self._server

    def look(self) -> Server | None:
        """Who answers on the port; None where it is free. Starts and changes nothing.

        Raises `ServerError` where the port is held by something else, the password is wrong, or
        OpenCode is too old.
        """
        deadline = time.monotonic() + _LOOK_SECONDS
        while True:
            try:
                return self._ask(self._recorded())
            except httpx.ConnectError:
                return None
            except httpx.TimeoutException as error:  # it may have much to do
                if time.monotonic() > deadline:
                    raise self._held_by_something_else("does not answer") from error
            except httpx.HTTPError as error:
                raise self._held_by_something_else(f"answers with no HTTP ({error})") from error
            time.sleep(_PAUSE_SECONDS)

    def stop(self) -> None:
        """End the server if it is the hub's own."""
        server, self._server = self._server, None
        if server is None or server.pid is None:
            return
        if self._runs(server.pid):
            self._end(server.pid)
        with contextlib.suppress(OSError):  # a record that stays harms nobody
            self._record.unlink()

    # ------------------------------------------------------------------------------- finding

    def _find(self, given_up: Callable[[], bool]) -> Server | None:
        recorded = self._recorded()
        began = time.monotonic()
        patience = self._start_timeout.total_seconds()
        told = False
        while True:
            try:
                return self._ask(recorded)
            except httpx.ConnectError:
                if recorded is None or recorded.pid is None:
                    return None
            except httpx.TimeoutException:
                pass  # it may be starting, or have much to do
            except httpx.HTTPError as error:
                raise self._held_by_something_else(f"answers with no HTTP ({error})") from error
            passed = time.monotonic() - began
            if passed > _SILENT_SECONDS and not told:
                told = True
                text = "what holds port %d does not answer; waiting for it, for %g s at most"
                waiting = {"topic": "opencode.waiting"}
                _log.warning(text, self._port, patience, extra=waiting)
            if given_up() or passed > patience:
                break
            time.sleep(_PAUSE_SECONDS)
        if recorded is None or recorded.pid is None:
            raise self._held_by_something_else("does not answer")
        self._server = recorded  # an earlier hub's that is of no use: another takes its place
        self.stop()
        return None

    def _ask(self, recorded: Server | None) -> Server:
        """Who answers on the port. Raises what httpx does where nobody answers."""
        passwords = [self._password] + ([recorded.password] if recorded else [])
        for password in passwords:
            response = self._probe(password)
            if response.status_code != httpx.codes.UNAUTHORIZED:
                self._check(response)
                if recorded is not None and recorded.password == password:
                    return recorded
                return Server(url=self._url, password=password)
        raise ServerError(
            f"the OpenCode server on port {self._port} wants another password: set "
            "OPENCODE_SERVER_PASSWORD to the one it was started with, or OPENCODE_PORT to "
            "another port"
        )

    def _probe(self, password: str | None) -> httpx.Response:
        auth = None if password is None else ("opencode", password)
        return httpx.get(
            f"{self._url}/global/health", auth=auth, timeout=_PROBE_SECONDS, trust_env=False
        )

    def _check(self, response: httpx.Response) -> None:
        try:
            health = _structure(response.content, _Health)
        except ValueError as error:
            how, also = f"answers {response.status_code}", ", or an OpenCode from before 1.1"
            raise self._held_by_something_else(how, also) from error
        self._check_version(health.version)

    def _held_by_something_else(self, how: str, also: str = "") -> ServerError:
        return ServerError(
            f"port {self._port} is held by a program that {how} and is not OpenCode{also}: end it, "
            "or set OPENCODE_PORT to a free port"
        )

    def _check_version(self, version: str) -> None:
        lacking = lack(version)
        if lacking is not None:
            raise ServerError(
                f"OpenCode {version} on port {self._port} cannot {lacking}, as the hub must: "
                f"update it with `{UPGRADE}`, and end what runs of the old one"
            )

    def _recorded(self) -> Server | None:
        """The server that an earlier hub started; with its process only if that still runs."""
        try:
            server = _structure(self._record.read_bytes(), Server)
        except (OSError, ValueError):
            return None  # none was left behind, or not by us
        if server.url != self._url:
            return None
        runs = server.pid is not None and self._runs(server.pid)
        return server if runs else evolve(server, pid=None)

    def _runs(self, pid: int) -> bool:
        """Whether the server's process has not ended. Its number may be another's by now."""
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        return _command(pid).endswith(" ".join(self._arguments))

    # ------------------------------------------------------------------------------ starting

    def _start(self, given_up: Callable[[], bool], password: str | None = None) -> Server:
        binary = shutil.which("opencode")
        if binary is None:
            raise ServerError(
                f"no OpenCode server answers on port {self._port}, and there is no opencode on "
                "PATH to start one: install it with `npm install -g opencode-ai`"
            )
        starting = {"topic": "opencode.starting"}
        _log.info("starting OpenCode on port %d", self._port, extra=starting)
        password = password or self._password or secrets.token_urlsafe(24)
        self._prepare_record(password)
        command = ["/bin/sh", "-c", _BEGIN, "sh", str(self._record), binary, *self._arguments]
        with _private(self._log, append=True) as log:
            said_before = os.fstat(log.fileno()).st_size
            try:
                self._process = subprocess.Popen(  # noqa: S603  # found on the user's own PATH
                    command,
                    cwd=self._cwd,
                    env=os.environ | {"OPENCODE_SERVER_PASSWORD": password},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the hub, which stops it in order
                )
            except OSError as error:
                raise ServerError(f"{binary} cannot be started: {error.strerror}") from error
        self._server = Server(url=self._url, password=password, pid=self._process.pid)
        try:
            self._await_health(binary, self._process, password, given_up, said_before)
        except BaseException:  # whatever it was, nobody will stop it later
            self.stop()
            raise
        return self._server

    def _prepare_record(self, password: str) -> None:
        """Write what is known before there is a process, beside the record.

        Others look there whom to ask, and with which password: so it appears whole at once.
        """
        with _private(self._record.with_name(f"{self._record.name}.new")) as record:
            told = {"url": self._url, "password": password}
            record.write(f'{json.dumps(told)[:-1]}, "pid": '.encode())
        try:
            self._record.unlink(missing_ok=True)  # of one that is no more
        except OSError as error:
            raise ServerError(f"{self._record} cannot be written: {error.strerror}") from error

    def _await_health(
        self,
        binary: str,
        process: subprocess.Popen[bytes],
        password: str,
        given_up: Callable[[], bool],
        said_before: int,
    ) -> None:
        deadline = time.monotonic() + self._start_timeout.total_seconds()
        answered = False
        while time.monotonic() < deadline:
            if given_up():
                raise ServerError("OpenCode was starting when the hub was told to stop")
            if process.poll() is not None:
                raise ServerError(
                    f"OpenCode ended at once with status {process.returncode}: "
                    f"{self._last_words(said_before)}"
                )
            with contextlib.suppress(httpx.HTTPError, ValueError):
                response = self._probe(password)
                answered = True
                self._check_version(_structure(response.content, _Health).version)
                return
            time.sleep(_PAUSE_SECONDS)
        if answered:  # but tells nothing of its health: one from before 1.1 does so
            self._check_version(_version(binary))
        seconds = f"{self._start_timeout.total_seconds():g} s"
        raise ServerError(f"OpenCode did not answer within {seconds}; its output is in {self._log}")

    def _last_words(self, said_before: int) -> str:
        """The end of its output; what stood in the log before it began is another server's."""
        lines = self._log.read_bytes()[said_before:].decode(errors="replace").split("\n")
        said = " ".join(line.strip() for line in lines[-5:] if line.strip())
        return said or f"it said nothing in {self._log}"

    def _has_ended(self, pid: int) -> bool:
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is not None
        return not _lives(pid)

    def _end(self, pid: int) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)  # npm may have put a script before the program
            deadline = time.monotonic() + _END_SECONDS
            while time.monotonic() < deadline:
                if self._has_ended(pid):
                    return
                time.sleep(_PAUSE_SECONDS)


def attach(server: Server, directory: Path, session_id: str | None = None) -> NoReturn:
    """Become a window on the server, in a directory or on a session: this process is no more.

    The password goes through the environment: a command line is for everybody to see. Raises
    `ServerError`.
    """
    binary = shutil.which("opencode")
    if binary is None:
        raise ServerError(
            "there is no opencode on PATH: install it with `npm install -g opencode-ai`"
        )
    words = [binary, "attach", server.url, "--dir", str(directory)]
    if session_id is not None:
        words += ["--session", session_id]
    secret = {} if server.password is None else {"OPENCODE_SERVER_PASSWORD": server.password}
    try:
        os.execve(binary, words, os.environ | secret)  # noqa: S606  # found on the user's own PATH
    except OSError as error:
        raise ServerError(f"{binary} cannot be started: {error.strerror}") from error


def _structure(data: bytes, kind: type[T]) -> T:
    """What others wrote as JSON. Raises ValueError where that is something else."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  # as json itself says of bad input
    try:
        return structure(document, kind)
    except BaseValidationError as error:
        raise ValueError(str(error)) from error


def _version(binary: str) -> str:
    """As the program itself says; empty where it does not."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(  # noqa: S603  # found on the user's own PATH
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_LOOK_SECONDS,
        ).stdout.strip()
    return ""


def _command(pid: int) -> str:
    """A process's program and arguments; empty where there is none."""
    if Path("/proc/self/cmdline").exists():  # a small container has no ps
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return ""
        return words.decode(errors="replace").replace("\0", " ").rstrip()
    said = subprocess.run(  # noqa: S603  # a number
        ["ps", "-ww", "-o", "args=", "-p", str(pid)],  # noqa: S607  # the system's own
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return said.stdout.rstrip()


def _lives(pid: int) -> bool:
    """Whether a process has not ended. One that only waits for its parent to notice has."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except ProcessLookupError:
        return False
    except OSError:
        return True  # only Linux tells more
    state, *fields = status.rpartition(")")[2].split()
    threads = int(fields[16])  # see proc(5)
    return state not in "ZX" or threads > 1  # the first of them may end before the others


@contextlib.contextmanager
def _private(path: Path, *, append: bool = False) -> Iterator[BinaryIO]:
    """A file that only this user may read, from its first byte on."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    try:
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            yield file
    except OSError as error:
        raise ServerError(f"{path} cannot be written: {error.strerror}") from error
