"""Finds an OpenCode server on a port, or starts one and stops it again.

A server that somebody else started is used and left running. One that the hub starts asks for a
password that only this user can read (`server.json`), writes its output to `opencode.log`, and ends
with the hub; if the hub is killed, the next one finds it by `server.json` and takes it over.

Speaks no more of OpenCode's API than its health; sessions and prompts are `opencode`'s business.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import httpx
from attrs import field, frozen
from cattrs import BaseValidationError, structure, unstructure

from agenthub_core import ServerError

_PROBE_SECONDS = 0.3
"""How long one probe waits: a request that is accepted during start-up may never be answered."""

_PAUSE_SECONDS = 0.05  # between two probes; OpenCode needs some 1.5 s to start
_END_SECONDS = 2.0  # for a server to end when asked to: within the 5 s that the hub itself has

_HOST = "127.0.0.1"


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
        self._process: subprocess.Popen[bytes] | None = None
        self._server: Server | None = None

    def ensure(self, given_up: Callable[[], bool] = lambda: False) -> Server:
        """The server that answers on the port, started if there is none.

        Raises `ServerError` where the port is held by something else, the password is wrong, there
        is no OpenCode to start, or it does not come up before `given_up` says that nobody waits.
        """
        self._server = self._find() or self._start(given_up)
        return self._server

    def stop(self) -> None:
        """End the server if it is the hub's own."""
        server, self._server = self._server, None
        if server is None or server.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)
            if not self._ended(server.pid, _END_SECONDS):
                os.kill(server.pid, signal.SIGKILL)
                self._ended(server.pid, _END_SECONDS)
        self._record.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------- finding

    def _find(self) -> Server | None:
        recorded = self._recorded()
        passwords = [self._password] + ([recorded.password] if recorded else [])
        try:
            for password in passwords:
                response = self._probe(password)
                if response.status_code != httpx.codes.UNAUTHORIZED:
                    self._check(response)
                    if recorded is not None and recorded.password == password:
                        return recorded
                    return Server(url=self._url, password=password)
        except httpx.ConnectError:
            return None
        except httpx.HTTPError as error:
            raise self._held_by_something_else(f"does not answer ({error})") from error
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
            structure(response.json(), _Health)
        except (ValueError, BaseValidationError) as error:
            raise self._held_by_something_else(f"answers {response.status_code}") from error

    def _held_by_something_else(self, how: str) -> ServerError:
        return ServerError(
            f"port {self._port} is held by a program that {how} and is not OpenCode: end it, or "
            "set OPENCODE_PORT to a free port"
        )

    def _recorded(self) -> Server | None:
        """The server that an earlier hub started, if it still runs."""
        try:
            server = structure(json.loads(self._record.read_text()), Server)
        except (OSError, ValueError, BaseValidationError):
            return None  # none was left behind, or not by us
        if server.url != self._url or server.pid is None or not _runs(server.pid):
            return None
        return server

    # ------------------------------------------------------------------------------ starting

    def _start(self, given_up: Callable[[], bool]) -> Server:
        binary = shutil.which("opencode")
        if binary is None:
            raise ServerError(
                f"no OpenCode server answers on port {self._port}, and there is no opencode on "
                "PATH to start one: install it with `npm install -g opencode-ai`"
            )
        password = self._password or secrets.token_urlsafe(24)
        with _private(self._log, append=True) as log:
            self._process = subprocess.Popen(  # noqa: S603  # found on the user's own PATH
                [binary, "serve", "--port", str(self._port), "--hostname", _HOST],
                cwd=self._cwd,
                env=os.environ | {"OPENCODE_SERVER_PASSWORD": password},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the hub, which stops it in order
            )
        server = Server(url=self._url, password=password, pid=self._process.pid)
        with _private(self._record) as record:
            record.write(json.dumps(unstructure(server)).encode())
        self._server = server
        try:
            self._await_health(server, given_up)
        except ServerError:
            self.stop()
            raise
        return server

    def _await_health(self, server: Server, given_up: Callable[[], bool]) -> None:
        assert self._process is not None  # noqa: S101  # started just now
        deadline = time.monotonic() + self._start_timeout.total_seconds()
        while time.monotonic() < deadline and not given_up():
            if self._process.poll() is not None:
                raise ServerError(
                    f"OpenCode ended at once with status {self._process.returncode}: {self._last()}"
                )
            with contextlib.suppress(httpx.HTTPError):
                if self._probe(server.password).is_success:
                    return
            time.sleep(_PAUSE_SECONDS)
        seconds = f"{self._start_timeout.total_seconds():g} s"
        raise ServerError(f"OpenCode did not answer within {seconds}; its output is in {self._log}")

    def _last(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        said = " ".join(line.strip() for line in lines[-5:] if line.strip())
        return said or f"it said nothing in {self._log}"

    def _ended(self, pid: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process is not None and self._process.pid == pid:
                if self._process.poll() is not None:
                    return True
            elif not _runs(pid):
                return True
            time.sleep(_PAUSE_SECONDS)
        return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # another user's process has that number now
    return True


def _private(path: Path, *, append: bool = False) -> BinaryIO:
    """A file that only this user may read, from its first byte on."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    try:
        descriptor = os.open(path, flags, 0o600)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise ServerError(f"{path} cannot be written: {error.strerror}") from error
    return os.fdopen(descriptor, "wb")
