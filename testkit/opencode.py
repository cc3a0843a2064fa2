"""A real OpenCode server in a HOME of its own, whose model is scripted.

    with OpenCode(find_opencode(), tmp_path / "home", model.url) as opencode:
        session = opencode.create_session(make_project(tmp_path / "api"))
        assert opencode.ask(session["id"], "ping") == "pong"

`kill`, `stop` and `start` keep the port and the HOME, as a restart on a user's machine does. What
the model answers is left to `scripted_model`, a window on a terminal to `window`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from agenthub_adapters import opencode_plugin
from testkit.waiting import PATIENCE, POLL, eventually

# A request that OpenCode accepts during start-up may never be answered.
PROBE_TIMEOUT = 0.3
# A stop takes 0.13 s; the dispose hook of a plugin may take longer.
STOP_TIMEOUT = 5.0
# Another program may take a port between our finding and OpenCode's binding it; hardly thrice.
START_ATTEMPTS = 3

# All that is inherited: nothing that could point at the caller's own OpenCode, hub or repository
# (git sets GIT_DIR in the hooks that run tests).
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")


def find_opencode() -> Path | None:
    """The real binary: $AGENTHUB_OPENCODE, else the checkout's own, else the one on PATH."""
    if named := os.environ.get("AGENTHUB_OPENCODE"):
        return Path(named)
    checkout = Path(__file__).resolve().parent.parent
    installed = checkout / ".opencode" / "node_modules" / ".bin" / "opencode"
    if installed.exists():
        return installed
    on_path = shutil.which("opencode")
    return Path(on_path) if on_path else None


def make_project(directory: Path) -> Path:
    """Create a git repository with one commit: without one, OpenCode sees no project of its own."""
    directory.mkdir(parents=True)
    identity = ["-c", "user.name=testkit", "-c", "user.email=testkit@localhost"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "start"]):
        subprocess.run(
            ["git", *identity, *command],
            cwd=directory,
            # The user's own hooks and signing stay out of it.
            env={**_inherited(), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
            check=True,
        )
    return directory


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


class OpenCode:
    """`opencode serve`, started by `start` or `with`, and the HTTP calls that tests make of it."""

    def __init__(
        self,
        binary: Path,
        home: Path,
        model_url: str,
        port: int | None = None,
        password: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        plugin: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are further keys of opencode.json, such as `mcp` or `permission`.

        With the `plugin` each process is an endpoint of the hub in `home`, or where `env` says.
        """
        self._slugs: set[str] = set()
        self.binary = binary
        self.home = home
        self.password = password
        self._env = dict(env or {})
        self.log = home / "serve.log"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._write_settings(model_url, settings or {})
        if plugin:
            (home / ".agent-hub").mkdir(mode=0o700, exist_ok=True)
            opencode_plugin.install(self.config_directory)

    def _write_settings(self, model_url: str, settings: Mapping[str, Any]) -> None:
        self.config_directory.mkdir(parents=True, exist_ok=True)
        self.temporary_directory.mkdir(exist_ok=True)
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "testkit",
            "options": {"baseURL": model_url, "apiKey": "none"},
            "models": {"echo": {"name": "scripted model"}},
        }
        merged = {
            "model": "fake/echo",
            "small_model": "fake/echo",
            "provider": {"fake": provider},
            # OpenCode brings a provider of its own, with free models on the network.
            "enabled_providers": ["fake"],
            # Snapshots are for undoing the edits of files; without them a turn takes half the time.
            "snapshot": False,
            **settings,
        }
        (self.config_directory / "opencode.json").write_text(json.dumps(merged, indent=2))
        self._catalogue.write_text("{}")

    @property
    def config_directory(self) -> Path:
        return self.home / ".config" / "opencode"

    @property
    def temporary_directory(self) -> Path:
        """OpenCode unpacks libraries into the temporary directory and leaves them there."""
        return self.home / "tmp"

    @property
    def _catalogue(self) -> Path:
        """An empty list of the world's models: reading the built-in one costs 1 s a project."""
        return self.home / "models.json"

    @property
    def env(self) -> dict[str, str]:
        """The environment of everything that shall share this HOME: server, window, daemon."""
        password = {"OPENCODE_SERVER_PASSWORD": self.password} if self.password else {}
        return {
            **_inherited(),
            **password,
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary_directory),
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_MODELS_PATH": str(self._catalogue),
            **self._env,
        }

    # --- the process ------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        if self._port is None:
            raise RuntimeError("OpenCode has no port before its first start")
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def auth(self) -> tuple[str, str] | None:
        return ("opencode", self.password) if self.password else None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("OpenCode does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. A port once found is kept."""
        candidates = [self._port] if self._port else [free_port() for _ in range(START_ATTEMPTS)]
        for port in candidates:
            if self._start_on(port):
                self._port = port
                return
        raise RuntimeError(f"OpenCode did not start on {candidates}:\n{self.log.read_text()}")

    def _start_on(self, port: int) -> bool:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary, "serve", "--port", str(port), "--hostname", "127.0.0.1"],
                cwd=self.home,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C at the terminal is for the test runner, which then stops us in order.
                start_new_session=True,
            )
        try:
            healthy = self._becomes_healthy(f"http://127.0.0.1:{port}/global/health")
        except BaseException:
            # No `with` has been entered yet that would end it.
            self.kill()
            raise
        if not healthy:
            self.kill()
        return healthy

    def _becomes_healthy(self, url: str) -> bool:
        deadline = time.monotonic() + PATIENCE
        with httpx.Client(auth=self.auth, timeout=PROBE_TIMEOUT, trust_env=False) as client:
            while self.running and time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    response = client.get(url)
                    # Another program may have answered, and ours be about to give up.
                    if response.status_code == httpx.codes.OK and self.running:
                        return True
                time.sleep(POLL)
        return False

    def stop(self) -> None:
        """Ask the server to end, as a logout does, and insist if it does not."""
        if self._process is None:
            return
        # Once the server is gone nothing tells any more which commands of its tools were its own.
        started = descendants(self._process.pid)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        self._end(started)

    def kill(self) -> None:
        """End the server and whatever its tools have started at once, by SIGKILL."""
        if self._process is not None:
            self._end(descendants(self._process.pid))

    def _end(self, started: Iterable[int]) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None
        kill_each(started)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- its API ----------------------------------------------------------------------------------

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, without judging the status."""
        options.setdefault("timeout", PATIENCE)
        with httpx.Client(
            base_url=self.url,
            auth=self.auth,
            trust_env=False,
            verify=False,  # noqa: S501  # no TLS here; the authorities take 20 ms
        ) as client:
            return client.request(method, path, **options)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self.request(method, path, **options)
        if not response.is_success:
            raise AssertionError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None

    def create_session(
        self, directory: Path, title: str | None = None, **body: Any
    ) -> dict[str, Any]:
        """A session, under a slug that this server has not given to another one.

        OpenCode draws it out of 899: two alike are one agent with its slug for a name, and one with
        a longer name.
        """
        if title is not None:
            body["title"] = title
        while True:
            session: dict[str, Any] = self._json(
                "POST", "/session", params={"directory": str(directory)}, json=body
            )
            if session["slug"] not in self._slugs:
                self._slugs.add(session["slug"])
                return session
            self._json("DELETE", f"/session/{session['id']}")

    def session(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = self._json("GET", f"/session/{session_id}")
        return session

    def sessions(self) -> list[dict[str, Any]]:
        """All sessions of all projects, newest update first; no subagents."""
        listed: list[dict[str, Any]] = self._json(
            "GET", "/experimental/session", params={"roots": "true"}
        )
        return listed

    def messages(self, session_id: str) -> list[dict[str, Any]]:
        """The session's messages, oldest first, each with `info` and `parts`."""
        listed: list[dict[str, Any]] = self._json("GET", f"/session/{session_id}/message")
        return listed

    def status(self, directory: Path) -> dict[str, dict[str, Any]]:
        """The sessions of the directory that are busy in this process."""
        listed: dict[str, dict[str, Any]] = self._json(
            "GET", "/session/status", params={"directory": str(directory)}
        )
        return listed

    def prompt(self, session_id: str, text: str, **body: Any) -> None:
        """Send a prompt and do not wait: OpenCode may not even have stored it yet."""
        body = {"parts": [{"type": "text", "text": text}], **body}
        self._json("POST", f"/session/{session_id}/prompt_async", json=body)

    def ask(self, session_id: str, text: str, **body: Any) -> str:
        """Send a prompt, wait for the end of its turn, and return what the model said last."""
        body = {"parts": [{"type": "text", "text": text}], **body}
        return said(self._json("POST", f"/session/{session_id}/message", json=body))

    def abort(self, session_id: str) -> None:
        self._json("POST", f"/session/{session_id}/abort")

    def wait_for_idle(self, session_id: str, *, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait until the session's newest message is an answer, whichever process gives it."""
        return eventually(lambda: self.messages(session_id), timeout=timeout, when=_answered)


def said(message: Mapping[str, Any]) -> str:
    """The text of a message as `OpenCode.messages` lists it."""
    return "\n".join(part["text"] for part in message["parts"] if part["type"] == "text")


def _answered(messages: list[dict[str, Any]]) -> bool:
    if not messages:
        return False
    last = messages[-1]["info"]
    return (
        last["role"] == "assistant"
        and "completed" in last["time"]
        and last.get("finish") != "tool-calls"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def descendants(pid: int) -> list[int]:
    """All that a process has started, directly or not.

    Its process group would not tell: OpenCode gives each command of its bash tool one of its own.
    """
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True
    ).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)

    def below(parent: int) -> Iterable[int]:
        for child in children.get(parent, []):
            yield child
            yield from below(child)

    return list(below(pid))


def kill_each(processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
