"""From nothing to agents that have their tools: `agenthub setup`, what the daemon checks before it
begins, and what `agenthub doctor` finds. The OpenCode that they ask is the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from agenthub_adapters import jsonc, opencode_plugin
from agenthub_adapters.clock import SystemClock
from agenthub_adapters.spool import FileSpool
from agenthub_core import Malformed, Message, MessageType, Outcome, Settlement
from testkit.daemon import Daemon
from testkit.opencode import OpenCode, free_port, make_project
from testkit.waiting import eventually
from testkit.window import Window

AGENTHUB = [sys.executable, "-m", "agenthub_cli"]
PATIENCE = 60.0  # seconds: setup asks OpenCode three times

WANTED = {
    "type": "local",
    "command": [str(Path(sys.executable).with_name("agenthub")), "mcp"],
    "enabled": True,
    "timeout": 20000,
}

PLAIN = """{
  "$schema": "https://opencode.ai/config.json",
  "share": "disabled"
}
"""

COMMENTED = """// mine
{
  "share": "disabled", // nobody's business
  /* servers */
  "mcp": {
    "other": {"type": "local", "command": ["/nowhere"], "enabled": false},
  },
  "permission": {
    "bash": "ask", // it may
  },
}
"""

VANISHED = """{
  "$schema": "https://opencode.ai/config.json",
  "mcp": {
    "agent-hub": {
      "type": "local",
      "command": ["npx", "-y", "agent-hub-mcp@latest"],
      "enabled": true
    }
  },
  "share": "disabled"
}
"""

BROKEN = '{\n  "username": "secret"\n  "mcp": {}\n}\n'


class User:
    """A person with a HOME of their own, where OpenCode and agenthub are installed."""

    def __init__(self, home: Path, binary: Path) -> None:
        self.home = home
        self.config = home / ".config" / "opencode"
        self.hub = home / ".agent-hub"
        self.port = free_port()
        (home / "tmp").mkdir(parents=True)
        (home / "models.json").write_text("{}")
        self.env = {
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PATH": f"{binary.parent}{os.pathsep}{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_MODELS_PATH": str(home / "models.json"),
            "OPENCODE_PORT": str(self.port),
            "npm_config_registry": "http://127.0.0.1:9",  # where nobody is
            "AGENT_HUB_COORDINATOR": "false",  # there is no model, and a second goes into that
        }

    def has(self, name: str, text: str) -> Path:
        """A configuration file of this name, which says that."""
        self.config.mkdir(parents=True, exist_ok=True)
        (self.config / name).write_text(text)
        return self.config / name

    def types(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run agenthub with nobody at the terminal."""
        return self.runs(*AGENTHUB, *arguments, variables=variables)

    def runs(
        self,
        *command: str,
        directory: Path | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=directory or self.home,
            env=self.env | dict(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def answers(
        self, answer: str, *arguments: str, first: Callable[[], object] = lambda: None
    ) -> tuple[int, str]:
        """Run agenthub on a terminal, and answer; its status, and what was seen but for colours."""
        terminal, its_end = pty.openpty()
        process = subprocess.Popen(
            [*AGENTHUB, *arguments],
            cwd=self.home,
            env=self.env | {"TERM": "dumb"},
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,
        )
        os.close(its_end)
        seen = b""
        try:
            with contextlib.suppress(OSError):  # the end of a terminal, on Linux
                while part := os.read(terminal, 4096):
                    seen += part
                    if answer and b"[Y/n]" in seen:
                        first()
                        os.write(terminal, answer.encode() + b"\n")
                        answer = ""
            return process.wait(PATIENCE), re.sub(r"\x1b\[[0-9;]*m", "", seen.decode())
        finally:
            process.kill()
            process.wait()
            os.close(terminal)

    def merged(self, directory: Path | None = None) -> dict[str, Any]:
        """The configuration as OpenCode has it, in a directory."""
        said = self.runs("opencode", "debug", "config", directory=directory)
        assert said.returncode == 0, said.stderr
        document: dict[str, Any] = json.loads(said.stdout)
        return document

    def files(self) -> dict[str, bytes]:
        """OpenCode's configuration and copies of it; it installs things of its own beside them."""
        return {path.name: path.read_bytes() for path in self.config.glob("opencode.json*")}


SCHEMA = {"$schema": "https://opencode.ai/config.json"}  # OpenCode adds it where it is missing
PREPARED = SCHEMA | {"mcp": {"agent-hub": WANTED}, "permission": {"agent-hub_*": "allow"}}


def quick(user: User, *, plugin: bool = True) -> User:
    """Another OpenCode that answers at once, for what is not about OpenCode.

    It takes the user's opencode.json as it is, or one that setup has made where there is none; and
    it has the `plugin`.
    """
    if plugin:
        opencode_plugin.install(user.config)
    (user.home / "bin").mkdir()
    program = user.home / "bin" / "opencode"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "--version) echo 1.18.33 ;;\n"
        f"'debug paths') echo 'config     {user.config}' ;;\n"
        f"'debug config') cat {user.config}/opencode.json || echo '{json.dumps(PREPARED)}' ;;\n"
        "'mcp list') echo '●  ✓ agent-hub connected' ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    user.env["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return user


@pytest.fixture
def user(opencode_binary: Path, tmp_path: Path) -> User:
    return User(tmp_path / "home", opencode_binary)


def copies(user: User) -> list[str]:
    return [name for name in user.files() if name.endswith(".bak")]


# ------------------------------------------------------------------------------------------ setup


def test_where_there_is_no_configuration_one_is_made_and_a_second_time_changes_nothing(
    user: User,
) -> None:
    done = user.types("setup", "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{user.config}/opencode.json (new):" in done.stdout
    assert "✓ agent-hub connected" in done.stdout
    assert "Restart the OpenCode windows" in done.stdout
    assert done.stdout.splitlines()[-1] == "Start the hub with: agenthub daemon"
    merged = user.merged()
    assert merged["mcp"] == {"agent-hub": WANTED}
    assert merged["permission"] == {"agent-hub_*": "allow"}

    files = user.files()
    again = quick(user).types("setup")  # nothing to ask about, so nobody is needed

    assert again.returncode == 0
    assert f"{user.config}/opencode.json needs no change." in again.stdout
    assert "✓ agent-hub connected" in again.stdout
    assert user.files() == files


@pytest.mark.parametrize(
    ("name", "text"), [("opencode.json", PLAIN), ("opencode.jsonc", COMMENTED)]
)
def test_all_else_in_a_configuration_stays_and_removing_brings_it_back_to_the_byte(
    user: User, name: str, text: str
) -> None:
    path = user.has(name, text)

    done = user.types("setup", "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert "✓ agent-hub connected" in done.stdout
    expected: Any = jsonc.loads(text)
    expected.setdefault("mcp", {})["agent-hub"] = WANTED
    expected.setdefault("permission", {})["agent-hub_*"] = "allow"
    merged = user.merged()
    assert {key: merged[key] for key in expected} == expected
    comments = re.findall("//.*|/[*].*[*]/", text)
    assert all(comment in path.read_text() for comment in comments)
    (copy,) = copies(user)
    assert f"Changed {path}; the old text is in {user.config / copy}\n" in done.stdout
    assert user.files()[copy] == text.encode()

    removed = user.types("setup", "--remove", "--yes")

    assert (removed.returncode, removed.stderr) == (0, "")
    assert "Restart the OpenCode windows" in removed.stdout
    assert path.read_text() == text
    assert len(copies(user)) == 2


def test_an_entry_of_the_old_hub_is_replaced_in_the_file_that_a_link_points_to(
    user: User,
) -> None:
    dotfiles = user.home / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "opencode.json").write_text(VANISHED)
    link = user.has("opencode.json", "")
    link.unlink()
    link.symlink_to(dotfiles / "opencode.json")

    done = user.types("setup", "--yes", AGENT_HUB_DIR=str(user.home / "hub"))

    assert done.returncode == 0, done.stderr
    assert "✓ agent-hub connected" in done.stdout
    moved = WANTED | {"environment": {"AGENT_HUB_DIR": str(user.home / "hub")}}
    assert json.loads(link.read_text()) == PREPARED | {
        "mcp": {"agent-hub": moved},
        "share": "disabled",
    }
    assert user.merged()["mcp"] == {"agent-hub": moved}
    assert link.is_symlink()
    (copy,) = dotfiles.glob("*.bak")
    assert copy.read_text() == VANISHED


def test_a_file_that_is_read_only_is_left_alone_unless_root_asks(user: User) -> None:
    path = user.has("opencode.json", PLAIN)
    path.chmod(0o444)

    done = user.types("setup", "--yes")

    merged = user.merged()
    if os.geteuid() == 0:  # who may write anything
        assert done.returncode == 0
        assert merged["mcp"] == {"agent-hub": WANTED}
        assert path.stat().st_mode & 0o777 == 0o444
        assert json.loads(path.read_text())["mcp"] == {"agent-hub": WANTED}
    else:
        assert done.returncode == 1
        assert f"{path} is read-only: nothing was changed" in done.stderr
        assert user.files() == {"opencode.json": PLAIN.encode()}
        assert "mcp" not in merged


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        pytest.param(["--print"], 0, id="only shown"),
        pytest.param([], 2, id="nobody to ask"),
        pytest.param(["--remove"], 0, id="nothing to remove"),
    ],
)
def test_what_nobody_agreed_to_is_not_done(user: User, arguments: list[str], status: int) -> None:
    path = user.has("opencode.json", PLAIN)

    done = quick(user, plugin=False).types("setup", *arguments)

    assert done.returncode == status
    assert str(path) in done.stdout
    if "--remove" not in arguments:
        assert '+    "agent-hub": {' in done.stdout
    if status == 2:
        assert done.stderr == ("agenthub: there is nobody to ask: add --yes to make this change\n")
    assert user.files() == {"opencode.json": PLAIN.encode()}


def test_the_keys_that_stand_beside_the_change_are_not_shown_and_stay_in_the_file(
    user: User,
) -> None:
    provider = {"provider": {"mine": {"apiKey": "s3cret"}}}
    path = user.has("opencode.json", json.dumps(provider, indent=2))

    done = quick(user).types("setup", "--yes")

    assert done.returncode == 0
    assert '"apiKey": "…"' in done.stdout
    assert "s3cret" not in done.stdout
    assert json.loads(path.read_text())["provider"] == provider["provider"]


def test_at_a_terminal_it_asks_and_takes_no_for_an_answer(user: User) -> None:
    user.has("opencode.json", PLAIN)

    status, seen = quick(user).answers("n", "setup")

    assert status == 1
    assert seen.index("agent-hub_*") < seen.index("Make this change? [Y/n]")
    assert "Traceback" not in seen
    assert user.files() == {"opencode.json": PLAIN.encode()}


def test_a_project_is_given_the_hub_for_itself_and_it_is_taken_back(
    user: User, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    path = project / "opencode.json"
    path.write_text(PLAIN)

    status, seen = user.answers("y", "setup", "--file", str(path))

    assert status == 0, seen
    assert "✓ agent-hub connected" in seen  # in the project, not where it was typed
    assert json.loads(path.read_text()) == PREPARED | {"share": "disabled"}
    assert f"\n  cd {project} && agenthub daemon\n" in seen.replace("\r", "")
    assert b"agent-hub" not in b"".join(user.files().values())

    status, seen = user.answers("y", "setup", "--file", str(path), "--remove")

    assert status == 0, seen
    assert path.read_text() == PLAIN
    merged = user.merged(project)
    assert "mcp" not in merged
    assert "permission" not in merged


def test_a_file_that_opencode_does_not_read_is_not_made_though_it_has_the_hub_from_another(
    user: User, tmp_path: Path
) -> None:
    user.has("opencode.json", prepared())
    path = tmp_path / "config.json"

    done = quick(user).types("setup", "--yes", "--file", str(path))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"agenthub: OpenCode does not read {path}: it reads opencode.json"
    )
    assert f"{user.config}, there config.json too" in done.stderr
    assert not path.exists()


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("my project/opencode.json", "  cd '{home}/my project' && agenthub daemon"),
        ("web/.opencode/opencode.json", "  cd {home}/web && agenthub daemon"),
        (".config/opencode/opencode.json", "Start the hub with: agenthub daemon"),
        ("named.json", "Start the hub with: agenthub daemon"),
    ],
)
def test_where_the_hub_is_to_be_started_is_where_the_file_holds(
    user: User, file: str, start: str
) -> None:
    path = user.home / file
    path.parent.mkdir(parents=True, exist_ok=True)

    named = str(user.home / "named.json")
    done = quick(user).types("setup", "--yes", "--file", str(path), OPENCODE_CONFIG=named)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == start.format(home=user.home)


@pytest.mark.parametrize("name", ["x.json", "opencode.json"])
def test_a_file_in_no_directory_is_told_and_nothing_is_made(user: User, name: str) -> None:
    done = quick(user).types("setup", "--yes", "--file", f"nodir/{name}")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"agenthub: --file: there is no directory {user.home}/nodir\n"
    assert not (user.home / "nodir").exists()


def test_what_another_program_wrote_while_the_user_was_asked_is_not_lost(user: User) -> None:
    path = user.has("opencode.json", PLAIN)

    status, seen = quick(user).answers("y", "setup", first=lambda: path.write_text("{}"))

    assert status == 1
    assert "was changed by another program: run it again" in seen
    assert user.files() == {"opencode.json": b"{}"}


def test_a_file_that_is_not_there_has_no_hub_to_remove(user: User) -> None:
    done = user.types("setup", "--remove")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{user.config}/opencode.json needs no change.\n"
        f"The plugin in {user.config} needs no change.\n"
    )


@pytest.mark.parametrize(
    "name",
    [".config/opencode/opencode.json", "named.json", "my project/.opencode/opencode.json"],
    ids=["the user's", "OPENCODE_CONFIG", "the project's"],
)
def test_which_file_still_has_the_hub_and_how_it_goes_from_there_is_told_when_it_is_removed(
    user: User, name: str
) -> None:
    user.env["OPENCODE_CONFIG"] = str(user.home / "named.json")
    still = user.home / name
    still.parent.mkdir(parents=True, exist_ok=True)
    still.write_text(json.dumps(PREPARED))
    path = user.home / "my project" / "src" / "opencode.json"
    path.parent.mkdir(parents=True)

    done = user.types("setup", "--remove", "--yes", "--file", str(path))

    assert done.returncode == 1
    sentence, _, command = done.stderr.strip().partition(". Run: ")
    assert sentence == f"agenthub: OpenCode still has agent-hub, from {still}"

    program, *asked = shlex.split(command)
    assert program == "agenthub"
    assert user.types(*asked, "--yes").returncode == 0
    assert "mcp" not in user.merged(path.parent)


def test_that_the_hub_is_from_a_file_of_which_nobody_knows_is_told_when_it_is_removed(
    user: User,
) -> None:
    user.env["OPENCODE_CONFIG_CONTENT"] = json.dumps(PREPARED)

    done = user.types("setup", "--remove", "--yes")

    assert done.returncode == 1
    assert "still has agent-hub, from another configuration file: name it" in done.stderr


def test_a_file_that_cannot_be_parsed_is_left_alone_and_the_lines_to_add_are_shown(
    user: User,
) -> None:
    path = user.has("opencode.json", BROKEN)

    done = quick(user).types("setup", "--yes")

    assert done.returncode == 1
    sentence, _, rest = done.stderr.partition("\n")
    assert sentence.startswith(f"agenthub: {path} cannot be edited (line 3, column 3: ")
    assert json.loads(rest) == {
        "mcp": {"agent-hub": WANTED},
        "permission": {"agent-hub_*": "allow"},
    }
    assert user.files() == {"opencode.json": BROKEN.encode()}


@pytest.mark.parametrize("command", ["setup", "daemon"])
def test_without_opencode_it_says_how_to_get_it(user: User, command: str) -> None:
    done = user.types(command, PATH="/nonexistent")

    assert done.returncode == 1
    assert done.stderr == (
        "agenthub: there is no opencode on PATH: install it with `npm install -g opencode-ai`\n"
    )
    assert not user.hub.exists()


# ------------------------------------------------------------------------------------- the plugin


@pytest.fixture
def near(opencode_binary: Path) -> Iterator[User]:
    """A user whose HOME has a name short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="hub-", dir="/tmp"))
    yield User(home, opencode_binary)
    shutil.rmtree(home)


def plugins_files(user: User) -> set[str]:
    """What is in the configuration directory, but for its own files, OpenCode's, and copies."""
    names = {str(path.relative_to(user.config)) for path in user.config.rglob("*")}
    return {name for name in names if not re.search(r"[.]bak$|^opencode[.]json|[.]gitignore", name)}


def test_after_it_a_window_does_not_wait_for_the_registry_and_is_an_endpoint_until_it_is_removed(
    near: User, opencode_binary: Path
) -> None:
    model = "http://127.0.0.1:9/v1"  # it need not answer
    opencode = OpenCode(opencode_binary, near.home, model)
    before = plugins_files(near)

    done = near.types("setup", "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"+ {near.config}/plugin/agenthub.js" in done.stdout
    assert "a stand-in takes its place" in done.stdout
    run = near.hub / "run"
    assert run.stat().st_mode & 0o777 == 0o700
    with Window(opencode, make_project(near.home / "web"), env=near.env) as window:
        window.wait_for_text("Ask anything")  # less long than the registry would be waited for
        window.type("hello")
        window.press("Enter")
        (path,) = eventually(lambda: list(run.glob("*.sock")))
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://window") as client:
            # only the half that looks at the screen can tell
            eventually(lambda: [one for one in client.get("/").json()["sessions"] if one["shown"]])

        removed = near.types("setup", "--remove", "--yes")
        windows = [each.sessions for each in opencode_plugin.endpoints(near.hub)]

    assert (removed.returncode, removed.stderr) == (0, "")
    assert plugins_files(near) == before
    assert windows == [1]


def test_it_is_shown_before_it_is_done_and_not_done_if_only_shown(user: User) -> None:
    user.has("tui.json", '{"theme": "system"}')

    shown = user.types("setup", "--print").stdout

    assert f"+ {user.config}/plugin/agenthub.js" in shown
    assert f"+ {user.config}/agenthub/window.js" in shown
    assert '+  "plugin": [' in shown
    assert plugins_files(user) == {"tui.json"}
    assert not user.hub.exists()


def test_an_old_version_is_told_and_renewed(user: User) -> None:
    user.has("opencode.json", prepared())
    path = quick(user).config / "plugin" / "agenthub.js"
    current = path.read_text()
    path.write_text(re.sub(r"VERSION = \d+", "VERSION = 0", current))
    mark, text = report(user.types("doctor").stdout)["plugin"]
    assert (mark, text.startswith("OpenCode has version 0 of the hub's plugin")) == ("✗", True)
    assert text.endswith("senders are not verified → agenthub setup")

    done = user.types("setup", "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"~ {path}\n" in done.stdout
    assert path.read_text() == current
    assert report(user.types("doctor").stdout)["plugin"][0] == "✓"


def test_a_hub_elsewhere_is_told_to_opencode(user: User) -> None:
    elsewhere = {"AGENT_HUB_DIR": str(user.home / "elsewhere")}

    done = quick(user).types("setup", "--yes", **elsewhere)

    assert f"It tells OpenCode where the hub is: {user.home}/elsewhere" in done.stdout
    assert f'"{user.home}/elsewhere"' in (user.config / "agenthub" / "window.js").read_text()
    assert (user.home / "elsewhere" / "run").is_dir()
    assert report(user.types("doctor", **elsewhere).stdout)["plugin"][0] == "✓"
    assert report(user.types("doctor").stdout)["plugin"][0] == "✗"


def test_it_is_for_all_projects_and_stays_when_one_has_enough(user: User) -> None:
    path = user.home / "web" / "opencode.json"
    path.parent.mkdir()
    user.has("opencode.json", PLAIN)
    (quick(user).config / "plugin" / "agenthub.js").unlink()

    done = user.types("setup", "--print", "--file", str(path))
    assert "known to the hub, for all projects:" in done.stdout

    opencode_plugin.install(user.config)
    before = plugins_files(user)
    done = user.types("setup", "--remove", "--yes", "--file", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "The plugin stays, for other projects: agenthub setup --remove removes it." in done.stdout
    )
    assert plugins_files(user) == before


def test_a_daemon_without_it_says_what_is_missed_and_begins(user: User) -> None:
    user.has("opencode.json", prepared())
    with Daemon(user.env | {"AGENT_HUB_PREFLIGHT": "true"}) as hub:
        warning = hub.wait_for("daemon.plugin")
        hub.wait_for("relay.up")
        assert hub.stop() == 0
    assert "busy windows wait for the turn's end" in str(warning)
    assert "run `agenthub setup`" in str(warning)


def test_the_doctor_tells_which_window_is_to_be_restarted(near: User) -> None:
    (near.hub / "run").mkdir(parents=True)
    answer = b'HTTP/1.1 200 OK\r\n\r\n{"protocol": 0, "plugin": 0, "sessions": []}'

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with socketserver.UnixStreamServer(str(near.hub / "run" / "7.sock"), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        found = report(quick(near).types("doctor").stdout)
        server.shutdown()
        thread.join()

    assert found["windows"] == (
        "✗",
        "the plugin of another agenthub is at work in process 7 → restart that window",
    )


# -------------------------------------------------------------------- before the daemon begins


def prepared(*rules: str, **keys: object) -> str:
    """A configuration that setup would have made, but for these keys of the server and rules."""
    last = dict.fromkeys(rules, "deny")
    servers = {"mcp": {"agent-hub": WANTED | keys}}
    return json.dumps(PREPARED | servers | {"permission": {"agent-hub_*": "allow"} | last})


UNFIT = {
    "absent": (PLAIN, "OpenCode has no MCP server named agent-hub"),
    "disabled": (prepared(enabled=False), "OpenCode's MCP server agent-hub is disabled"),
    "vanished": (VANISHED, "agent-hub-mcp, which is gone from the npm registry"),
    "denied": (prepared("*"), "OpenCode's permissions deny agents the tools of agent-hub"),
    "gone": (
        prepared(command=["/nowhere/agenthub", "mcp"]),
        "OpenCode is to start /nowhere/agenthub, which is not there",
    ),
    "broken": (BROKEN, "CommaExpected at line 3, column 3"),
}


PLAIN_TO_SEE = {"disabled", "vanished", "gone"}  # in the file: OpenCode makes nothing else of it


@pytest.fixture(scope="module")
def refused(
    opencode_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[User, subprocess.CompletedProcess[str]]]:
    """The daemon's last words on each of these configurations; it takes seconds each."""

    def start(name: str) -> tuple[User, subprocess.CompletedProcess[str]]:
        user = User(tmp_path_factory.mktemp(name) / "home", opencode_binary)
        user.has("opencode.json", UNFIT[name][0])
        return (quick(user) if name in PLAIN_TO_SEE else user), user.types("daemon")

    with ThreadPoolExecutor() as pool:
        return dict(zip(UNFIT, pool.map(start, UNFIT), strict=True))


@pytest.mark.parametrize("name", UNFIT)
def test_the_daemon_does_not_begin_where_agents_would_have_no_tools(
    name: str, refused: Mapping[str, tuple[User, subprocess.CompletedProcess[str]]]
) -> None:
    user, done = refused[name]

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("agenthub: ")
    assert "Traceback" not in done.stderr
    assert UNFIT[name][1] in done.stderr
    assert f"{user.config}/opencode.json" in done.stderr
    assert "`agenthub setup`" in done.stderr


@pytest.mark.parametrize("name", [name for name in UNFIT if name != "broken"])
def test_the_daemon_shows_the_lines_that_are_missing(
    name: str, refused: Mapping[str, tuple[User, subprocess.CompletedProcess[str]]]
) -> None:
    _, done = refused[name]
    assert SCHEMA | json.loads(done.stderr.partition("\n")[2]) == PREPARED


@pytest.mark.parametrize("name", UNFIT)
def test_a_daemon_that_does_not_begin_has_started_and_made_nothing(
    name: str, refused: Mapping[str, tuple[User, subprocess.CompletedProcess[str]]]
) -> None:
    user, _ = refused[name]

    assert not user.hub.exists()
    assert user.files() == {"opencode.json": UNFIT[name][0].encode()}
    assert processes_with(f"HOME={user.home}") == []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", user.port))


def processes_with(variable: str) -> list[str]:
    """The processes in whose environment this stands."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if variable.encode() in environment.read_bytes().split(b"\0"):
                found.append(environment.parent.name)
    return found


def test_who_needs_no_tools_can_have_the_daemon_without(user: User) -> None:
    user.has("opencode.json", PLAIN)
    command = ("-m", "agenthub_cli", "daemon", "--no-preflight")
    with Daemon(user.env | {"AGENT_HUB_PREFLIGHT": "true"}, command=command) as hub:
        hub.wait_for("relay.up")
        assert hub.stop() == 0


# ------------------------------------------------------------------------------------------ doctor


def report(said: str) -> dict[str, tuple[str, str]]:
    """What a person reads: by name, the mark and the text with what to do."""
    found: dict[str, tuple[str, str]] = {}
    name = ""
    for line in said.splitlines():
        if line[0] in "✓✗":
            name = line[2:16].strip()
            found[name] = (line[0], line[16:])
        else:
            mark, text = found[name]
            found[name] = (mark, f"{text} {line.strip()}")
    return found


def wrong(said: str) -> set[str]:
    return {name for name, (mark, _) in report(said).items() if mark == "✗"}


def test_the_doctor_tells_a_newcomer_what_to_do(user: User) -> None:
    done = user.types("doctor")

    assert (done.returncode, done.stderr) == (1, "")
    found = report(done.stdout)
    assert wrong(done.stdout) == {"configuration", "mcp server", "plugin", "daemon"}
    assert found["configuration"][1].endswith("→ agenthub setup")
    assert found["mcp server"][1] == (
        "OpenCode says: no MCP server is named agent-hub → agenthub setup"
    )
    assert found["daemon"][1].endswith("→ agenthub daemon")


def test_the_doctor_tells_what_an_opencode_of_old_cannot_do(user: User) -> None:
    program = quick(user).home / "bin" / "opencode"
    program.write_text(program.read_text().replace("1.18.33", "1.3.2"))

    done = user.types("doctor")

    assert done.returncode == 1
    assert f"1.3.2 at {program}, which cannot tell a session's own agent and model" in done.stdout
    assert "→ opencode upgrade" in done.stdout


def test_the_doctor_tells_that_the_program_is_not_there(user: User) -> None:
    user.has("opencode.json", prepared(command=["/nowhere/agenthub", "mcp"]))

    done = quick(user).types("doctor")

    assert report(done.stdout)["configuration"] == (
        "✗",
        "OpenCode is to start /nowhere/agenthub, which is not there → agenthub setup",
    )


@pytest.fixture
def at_work(user: User) -> Iterator[User]:
    """A user who did what setup does, and whose daemon has found it so."""
    user.has("opencode.json", prepared())
    opencode_plugin.install(user.config)
    with Daemon(user.env | {"AGENT_HUB_PREFLIGHT": "true"}) as hub:
        hub.wait_for("relay.up")
        yield user
        assert hub.stop() == 0


def test_where_all_is_well_the_doctor_says_so_to_people_and_to_scripts(at_work: User) -> None:
    told = at_work.types("doctor")

    assert (told.returncode, told.stderr) == (0, "")
    assert wrong(told.stdout) == set()
    assert "→" not in told.stdout

    as_json = quick(at_work).types("doctor", "--json")

    assert as_json.returncode == 0
    findings = json.loads(as_json.stdout)
    assert [finding["name"] for finding in findings] == list(report(told.stdout))
    assert all(finding["well"] and not finding["mend"] for finding in findings)


FAKE_PROVIDER = {
    "npm": "@ai-sdk/openai-compatible",
    "options": {"baseURL": "http://127.0.0.1:9", "apiKey": "none"},
    "models": {"echo": {}},
}


def test_the_doctor_tells_whether_opencode_knows_the_coordinators_model(user: User) -> None:
    user.has("opencode.json", json.dumps(PREPARED | {"provider": {"fake": FAKE_PROVIDER}}))
    wanted = {"AGENT_HUB_COORDINATOR": "true", "AGENT_HUB_COORDINATOR_MODEL": "fake/echo"}

    known = user.types("doctor", **wanted).stdout
    unknown = user.types("doctor", **wanted | {"AGENT_HUB_COORDINATOR_MODEL": "fake/other"}).stdout

    assert report(known)["coordinator"] == (
        "✓",
        "introduces agents to one another, with fake/echo",
    )
    mark, text = report(unknown)["coordinator"]
    assert (mark, "no model fake/other" in text) == ("✗", True)
    assert "→ set AGENT_HUB_COORDINATOR_MODEL to one that `opencode models` lists" in text


def test_the_doctor_asks_for_the_coordinators_model_where_the_coordinator_works(
    user: User,
) -> None:
    user.has("opencode.json", json.dumps(PREPARED))
    settings = json.dumps({"provider": {"fake": FAKE_PROVIDER}})
    wanted = {"AGENT_HUB_COORDINATOR": "true", "AGENT_HUB_COORDINATOR_MODEL": "fake/echo"}
    project, coordinator = user.home / "api", user.hub / "coordinator"

    def mark_in_the_project() -> str:
        done = user.runs(*AGENTHUB, "doctor", directory=project, variables=wanted)
        return report(done.stdout)["coordinator"][0]

    project.mkdir()
    (project / "opencode.json").write_text(settings)
    assert mark_in_the_project() == "✗", "the coordinator has not what one project has"
    coordinator.mkdir()
    (coordinator / "opencode.json").write_text(settings)
    assert mark_in_the_project() == "✓"


def test_the_doctor_tells_that_another_program_holds_the_port(user: User) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", user.port))
        other.listen()

        done = quick(user).types("doctor")

    assert done.returncode == 1
    assert wrong(done.stdout) == {"port", "daemon"}
    assert report(done.stdout)["port"][1].endswith(
        "is not OpenCode → end it, or set OPENCODE_PORT to a free port"
    )


def test_the_doctor_tells_that_a_hub_at_work_has_no_opencode(user: User) -> None:
    spool = FileSpool(user.hub, clock=SystemClock())
    spool.prepare()
    with spool.claim():
        done = quick(user).types("doctor")

    assert done.returncode == 1
    assert wrong(done.stdout) == {"port"}
    assert report(done.stdout)["port"][1] == (
        f"the hub is running, but no OpenCode server answers on {user.port} "
        "→ a server of the hub's own comes back by itself; start any other again"
    )


def test_the_doctor_tells_scripts_what_it_tells_people(user: User) -> None:
    told, as_json = quick(user).types("doctor"), user.types("doctor", "--json")

    assert (told.returncode, as_json.returncode) == (1, 1)
    findings = json.loads(as_json.stdout)
    found = report(told.stdout)
    assert [finding["name"] for finding in findings] == list(found)
    assert {finding["name"] for finding in findings if not finding["well"]} == wrong(told.stdout)
    (daemon,) = [finding for finding in findings if finding["name"] == "daemon"]
    assert f"{daemon['text']} → {daemon['mend']}" == found["daemon"][1]


def test_the_doctor_tells_that_the_server_wants_another_password(
    user: User, opencode_binary: Path, tmp_path: Path
) -> None:
    secret = "known to others"  # noqa: S105
    model = "http://127.0.0.1:1/v1"  # nobody asks it
    with OpenCode(opencode_binary, tmp_path / "server", model, password=secret) as server:
        done = quick(user).types("doctor", OPENCODE_PORT=str(server.port))

    assert wrong(done.stdout) == {"port", "daemon"}
    text = report(done.stdout)["port"][1]
    assert "wants another password → set OPENCODE_SERVER_PASSWORD" in text


def test_the_doctor_tells_of_dead_letters_and_how_to_send_them_again(user: User) -> None:
    spool = FileSpool(user.hub, clock=SystemClock())
    spool.prepare()
    now = datetime.now(UTC)
    message = Message(
        id="m1",
        sender="writer",
        recipient="reader",
        type=MessageType.CONTEXT,
        content="hello",
        thread_id="m1",
        timestamp=now,
    )
    settlement = Settlement(
        key="m1.json", message=message, outcome=Outcome.EXPIRED, at=now, reason="too late"
    )
    spool.settle([settlement])

    done = quick(user).types("doctor")

    assert done.returncode == 1
    assert wrong(done.stdout) == {"dead letters", "daemon"}
    text = report(done.stdout)["dead letters"][1]
    assert text.startswith("1 in the last day")
    assert "agenthub messages --dead" in text
    assert "agenthub retry" in text


@pytest.mark.parametrize("days", [0, 2])
def test_the_doctor_tells_of_what_was_no_message_and_for_a_day_that_it_is_to_be_mended(
    user: User, days: int
) -> None:
    spool = FileSpool(user.hub, clock=SystemClock())
    spool.prepare()
    long_ago = datetime.now(UTC).timestamp() - 3600  # for one that is still being written
    for name, text in (("older.json", "[]"), ("newer.json", '{"from": "writer"}')):
        (spool.messages / name).write_text(text)
        os.utime(spool.messages / name, (long_ago, long_ago))
        reading = spool.read(name)
        assert isinstance(reading, Malformed)
        spool.quarantine(name, reading.fault)
    for name, age in (("older.json", days + 1), ("newer.json", days)):
        then = datetime.now(UTC).timestamp() - age * 86400
        os.utime(spool.messages / "malformed" / f"{name}.reason", (then, then))

    done = quick(user).types("doctor")

    assert wrong(done.stdout) == ({"daemon"} if days else {"malformed", "daemon"})
    text = report(done.stdout)["malformed"][1]
    assert text.startswith(f"2 in {spool.messages}/malformed, the newest is newer.json: to: found")
    assert text.endswith(
        f"→ mend it and move it back to {spool.messages}, or delete it and its .reason"
    ) == (days == 0)


def test_the_doctor_reads_a_broken_configuration_to_the_user_but_not_the_keys_in_it(
    user: User,
) -> None:
    path = user.has("opencode.json", BROKEN)

    done = user.types("doctor")

    assert wrong(done.stdout) == {"configuration", "plugin", "daemon"}
    text = report(done.stdout)["configuration"][1]
    assert str(path) in text
    assert "CommaExpected at line 3, column 3" in text
    assert "secret" not in done.stdout


def test_the_doctor_tells_that_the_directory_is_no_hubs_and_leaves_it_alone(user: User) -> None:
    user.home.chmod(0o755)

    done = quick(user).types("doctor", AGENT_HUB_DIR=str(user.home))

    assert (done.returncode, done.stderr) == (1, "")
    assert wrong(done.stdout) == {"directory", "plugin"}  # which is to listen there
    assert report(done.stdout)["directory"][1] == (
        f"{user.home} holds other things, and no hub "
        "→ set AGENT_HUB_DIR to a directory of the hub's own"
    )
    assert user.home.stat().st_mode & 0o777 == 0o755
    assert not (user.home / "messages").exists()


def test_the_doctor_tells_of_settings_that_cannot_be_and_of_what_needs_none(user: User) -> None:
    file = user.home / ".config" / "agent-hub-daemon" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"opencode_port": 0, "injection": {"retries": -1}}')

    done = quick(user).types("doctor", OPENCODE_PORT="many", AGENT_HUB_PREFLIGHT="perhaps")

    assert (done.returncode, done.stderr) == (1, "")
    assert wrong(done.stdout) == {"settings"}
    text = report(done.stdout)["settings"][1]
    assert "OPENCODE_PORT: found 'many', expected a number" in text
    assert "AGENT_HUB_PREFLIGHT: found 'perhaps', expected true or false" in text
    assert f"injection.retries in {file}: found -1, expected a whole number of 0 or more" in text
    assert text.endswith("→ set what is expected there, or remove it")
    assert {"python", "opencode", "mcp server"} <= report(done.stdout).keys()


def test_the_doctor_tells_that_the_settings_are_no_json(user: User) -> None:
    file = user.home / ".config" / "agent-hub-daemon" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")

    done = quick(user).types("doctor", "--json")

    assert (done.returncode, done.stderr) == (1, "")
    (fault,) = [each for each in json.loads(done.stdout) if not each["well"]]
    assert fault["name"] == "settings"
    assert fault["text"].startswith(f"{file} is not JSON: ")


def test_the_doctor_tells_that_there_is_no_opencode(user: User) -> None:
    done = user.types("doctor", PATH="/nonexistent")

    assert done.returncode == 1
    assert wrong(done.stdout) == {"opencode", "daemon"}
    assert report(done.stdout)["opencode"][1].endswith(
        "→ install it with `npm install -g opencode-ai`"
    )


# ------------------------------------------------------------------------------- terminals of old

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, C_LOCALE],
    ids=["ascii", "latin-1", "C"],
)
def test_a_terminal_that_lacks_our_letters_is_told_the_same_in_others(
    user: User, variables: dict[str, str]
) -> None:
    done = quick(user).types("setup", "--yes", **variables)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Checking with OpenCode ...\nok agent-hub connected\n" in done.stdout

    told = user.types("doctor", **variables)

    assert (told.returncode, told.stderr) == (1, "")
    assert "ok mcp server    OpenCode says: connected\n" in told.stdout
    assert "no daemon        not running: messages wait\n" in told.stdout
    assert "-> agenthub daemon\n" in told.stdout


# -------------------------------------------------------------------------------------- completion


def test_the_shell_can_complete_the_commands(user: User) -> None:
    agenthub = str(Path(sys.executable).with_name("agenthub"))
    script = user.runs(
        agenthub,
        "--show-completion",
        "bash",
        variables={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert script.returncode == 0
    assert "_AGENTHUB_COMPLETE=complete_bash" in script.stdout

    completion = {"_AGENTHUB_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    completed = user.runs(agenthub, variables=completion | {"COMP_WORDS": "agenthub se"})
    assert completed.stdout.split() == ["setup", "send"]
