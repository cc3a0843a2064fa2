"""The plugin in OpenCode's configuration directory: what setup puts there is told apart from what
the user has there, and goes without a trace. What OpenCode installs beside it the real one shows.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import socketserver
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agenthub_adapters import jsonc, opencode_plugin
from agenthub_adapters.opencode_config import OpenCodeConfig
from agenthub_adapters.opencode_plugin import (
    PACKAGE,
    SOURCE,
    Endpoint,
    Package,
    Plugin,
    endpoints,
)
from agenthub_core import Misconfigured

NOW = datetime(2026, 1, 31, 12, 30, 5, tzinfo=UTC)
TEXT = SOURCE.read_text(encoding="utf-8")
OLD = re.sub(r"^const VERSION = \d+$", "const VERSION = 0", TEXT, flags=re.MULTILINE)
COPIES = ("plugin/agenthub.js", "agenthub/window.js")
NAMED = "./agenthub/window.js"

TUI = """// mine
{
  "theme": "system", // dark at night
  "plugin": [
    "./mine.js", // and this
  ],
}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


def install(plugin: Plugin) -> list[Path]:
    return plugin.apply(plugin.installation(), now=NOW)


def remove(plugin: Plugin) -> None:
    plugin.apply(plugin.removal(), now=NOW)


def tree(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


# --------------------------------------------------------------------------------------- its files


def test_both_halves_are_the_same_file_and_the_second_is_named(plugin: Plugin) -> None:
    assert plugin.lack() == "OpenCode has not the hub's plugin"

    assert install(plugin) == []

    assert [(plugin.directory / copy).read_text() for copy in COPIES] == [TEXT, TEXT]
    assert jsonc.loads((plugin.directory / "tui.jsonc").read_text()) == {
        "$schema": "https://opencode.ai/tui.json",
        "plugin": [NAMED],
    }
    assert plugin.lack() is None
    assert plugin.installation() == []


def test_it_goes_without_a_trace(plugin: Plugin) -> None:
    install(plugin)
    plugin.provide_package(lambda: None)
    remove(plugin)
    assert tree(plugin.directory) == {}
    assert plugin.removal() == []


@pytest.mark.parametrize("name", ["tui.json", "tui.jsonc"])
def test_what_the_user_has_stays_to_the_byte_and_is_kept_beside(plugin: Plugin, name: str) -> None:
    (plugin.directory / "plugin").mkdir()
    (plugin.directory / "plugin" / "mine.js").write_text("mine")
    (plugin.directory / name).write_text(TUI)
    before = tree(plugin.directory)

    (copy,) = install(plugin)

    text = (plugin.directory / name).read_text()
    assert jsonc.loads(text) == {"theme": "system", "plugin": ["./mine.js", NAMED]}
    assert all(comment in text for comment in ("// mine", "// dark at night", "// and this"))
    assert copy.read_text() == TUI
    copy.unlink()
    remove(plugin)
    (copy,) = plugin.directory.glob("*.bak")
    copy.unlink()
    assert tree(plugin.directory) == before


def test_of_two_files_the_one_that_names_it_is_the_one_to_edit(plugin: Plugin) -> None:
    (plugin.directory / "tui.json").write_text("{}")
    (plugin.directory / "tui.jsonc").write_text(json.dumps({"plugin": [NAMED]}))
    install(plugin)
    assert (plugin.directory / "tui.json").read_text() == "{}"
    remove(plugin)
    assert (plugin.directory / "tui.jsonc").read_text() == "{}"


def test_a_file_that_cannot_be_edited_is_told_with_what_to_add(plugin: Plugin) -> None:
    path = plugin.directory / "tui.json"
    path.write_text('{"plugin": ')
    with pytest.raises(Misconfigured, match="cannot be edited") as raised:
        plugin.installation()
    assert str(path) in str(raised.value)
    assert NAMED in str(raised.value)
    assert plugin.lack() == str(raised.value)
    assert tree(plugin.directory) == {"tui.json": b'{"plugin": '}


@pytest.mark.parametrize(
    ("copy", "text", "lack"),
    [
        (COPIES[0], OLD, "OpenCode has version 0 of the hub's plugin, not "),
        (COPIES[1], OLD, "OpenCode has version 0 of the hub's plugin, not "),
        (COPIES[0], TEXT + "// changed\n", "OpenCode has not this agenthub's plugin"),
    ],
)
def test_another_version_is_told_and_renewed(
    plugin: Plugin, copy: str, text: str, lack: str
) -> None:
    install(plugin)
    (plugin.directory / copy).write_text(text)

    assert (plugin.lack() or "").startswith(lack)
    assert [change.path for change in plugin.installation()] == [plugin.directory / copy]
    assert install(plugin) == []  # no copy of what was ours
    assert plugin.lack() is None


@pytest.mark.parametrize("name", [*COPIES, "tui.jsonc"])
def test_half_of_it_is_not_enough(plugin: Plugin, name: str) -> None:
    install(plugin)
    (plugin.directory / name).unlink()
    assert plugin.lack() == (
        f"OpenCode has not this agenthub's plugin: {plugin.directory / name} is missing"
    )
    install(plugin)
    assert plugin.lack() is None


def test_a_file_of_that_name_that_is_not_ours_is_kept_and_not_removed(plugin: Plugin) -> None:
    path = plugin.directory / COPIES[0]
    path.parent.mkdir()
    path.write_text("export const Mine = 1\n")
    before = tree(plugin.directory)

    assert plugin.removal() == []
    (change,) = [each for each in plugin.installation() if each.path == path]
    assert change.is_of_user

    (copy,) = install(plugin)
    assert copy.read_text() == "export const Mine = 1\n"
    assert copy.suffix == ".bak"  # which OpenCode does not load
    remove(plugin)
    assert tree(plugin.directory) == {
        "plugin": None,
        str(copy.relative_to(plugin.directory)): before["plugin/agenthub.js"],
    }


def test_another_directory_of_the_hubs_is_told_to_opencode_whose_environment_goes_first(
    tmp_path: Path,
) -> None:
    hub = 'my "hub"'
    plugin = Plugin(tmp_path, Path(hub))
    install(plugin)
    assert plugin.lack() is None
    assert Plugin(tmp_path).lack() is not None

    program = tmp_path / "said.mjs"
    program.write_text(plugin.text() + "\nconsole.log(process.env.AGENT_HUB_DIR)\n")
    node = shutil.which("node")
    assert node is not None
    for named, expected in ((None, hub), ("/another", "/another")):
        env = {"PATH": os.environ["PATH"]} | ({"AGENT_HUB_DIR": named} if named else {})
        said = subprocess.run(  # noqa: S603  # our own text
            [node, str(program)], env=env, capture_output=True, text=True, check=True
        )
        assert said.stdout == f"{expected}\n"


# -------------------------------------------------------------------------------------- its package

INSTALLED = json.dumps({"packages": {"": {"dependencies": {PACKAGE: "1", "zod": "4"}}}})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Package.MISSING),
        ({"package-lock.json": INSTALLED}, Package.MISSING),
        ({"node_modules/x": "", "package-lock.json": INSTALLED}, Package.INSTALLED),
        ({"node_modules/x": "", "package-lock.json": "{"}, Package.MISSING),
        (
            {
                "node_modules/x": "",
                "package-lock.json": INSTALLED,
                "package.json": '{"devDependencies": {"zod": "4"}}',
            },
            Package.INSTALLED,
        ),
        (
            {
                "node_modules/x": "",
                "package-lock.json": INSTALLED,
                "package.json": '{"dependencies": {"left-pad": "1"}}',
            },
            Package.MISSING,
        ),
    ],
)
def test_what_opencode_would_wait_for_is_told_from_what_is_there(
    plugin: Plugin, files: dict[str, str], expected: Package
) -> None:
    for name, text in files.items():
        (plugin.directory / name).parent.mkdir(exist_ok=True)
        (plugin.directory / name).write_text(text)
    before = tree(plugin.directory)
    asked: list[bool] = []

    assert plugin.package() is expected
    provided = plugin.provide_package(lambda: asked.append(True))

    assert asked == [True] * (expected is Package.MISSING)
    if files:  # what is the user's is left alone
        assert provided is expected
        assert tree(plugin.directory) == before
    else:
        assert provided is Package.STAND_IN


def test_an_attempt_that_ends_in_the_middle_leaves_a_stand_in_again(plugin: Plugin) -> None:
    plugin.provide_package(lambda: None)

    def interrupted() -> None:
        assert plugin.package() is Package.MISSING
        (plugin.directory / "node_modules").mkdir()
        (plugin.directory / "node_modules" / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugin.provide_package(interrupted)
    assert plugin.package() is Package.STAND_IN
    assert plugin.provide_package(lambda: None) is Package.STAND_IN


@contextmanager
def registry() -> Iterator[str]:
    """An npm registry that has the one package, in every version that is asked for."""
    packed = io.BytesIO()
    manifest = {"name": PACKAGE, "version": "1.18.33"}
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        data = json.dumps(manifest).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    tarball = packed.getvalue()
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = f"http://127.0.0.1:{server.server_port}/plugin.tgz"
            dist = {"tarball": url, "integrity": f"sha512-{digest}"}
            document = {
                "name": PACKAGE,
                "dist-tags": {"latest": manifest["version"]},
                "versions": {manifest["version"]: manifest | {"dist": dist}},
            }
            body = tarball if self.path.endswith(".tgz") else json.dumps(document).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_opencode_takes_a_stand_in_for_the_package_and_a_later_setup_replaces_it(
    opencode_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in os.environ if each.startswith(("OPENCODE", "XDG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{opencode_binary.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OPENCODE_DISABLE_MODELS_FETCH", "1")
    monkeypatch.setenv("OPENCODE_DISABLE_AUTOUPDATE", "1")
    opencode = OpenCodeConfig(tmp_path)
    plugin = Plugin(opencode.config_directory)
    install(plugin)

    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # where nobody is
    assert plugin.provide_package(opencode.merged) is Package.STAND_IN
    stand_in = tree(plugin.directory / "node_modules")
    with registry() as url:
        monkeypatch.setenv("npm_config_registry", url)
        opencode.merged()
        assert tree(plugin.directory / "node_modules") == stand_in == {}

        assert plugin.provide_package(opencode.merged) is Package.INSTALLED

    installed = plugin.directory / "node_modules" / PACKAGE / "package.json"
    assert json.loads(installed.read_text())["name"] == PACKAGE
    remove(plugin)
    assert installed.exists()
    assert plugin.package() is Package.INSTALLED  # OpenCode's own, which is not ours to remove


# ---------------------------------------------------------------------------------- plugins at work


@pytest.fixture
def hub() -> Iterator[Path]:
    """A directory with a name short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="hub-", dir="/tmp"))
    (directory / "run").mkdir()
    yield directory
    shutil.rmtree(directory)


@contextmanager
def listening(path: Path, answer: bytes) -> Iterator[None]:
    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with socketserver.UnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def said(document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def test_where_there_is_no_directory_there_is_no_endpoint(tmp_path: Path) -> None:
    assert list(endpoints(tmp_path / "nowhere")) == []


def test_those_that_answer_are_endpoints_and_what_a_killed_process_left_is_not(hub: Path) -> None:
    (version,) = re.findall(r"^const VERSION = (\d+)$", TEXT, re.MULTILINE)
    (protocol,) = re.findall(r"^const PROTOCOL = (\d+)$", TEXT, re.MULTILINE)
    hello = {"protocol": int(protocol), "plugin": int(version), "sessions": [{}, {}]}
    run = hub / "run"
    with listening(run / "9.sock", b""):
        pass  # nobody listens there any more
    with (
        listening(run / "1.sock", said(hello)),
        listening(run / "2.sock", said(hello | {"plugin": 0})),
        listening(run / "3.sock", said({"protocol": 7})),
        listening(run / "4.sock", b"no HTTP\r\n\r\n"),
    ):
        found = list(endpoints(hub))

    assert found == [
        Endpoint(pid=1, protocol=int(protocol), version=int(version), sessions=2),
        Endpoint(pid=2, protocol=int(protocol), version=0, sessions=2),
        Endpoint(pid=3, protocol=7, version=None, sessions=0),
    ]
    assert [each.is_current for each in found] == [True, False, False]


def test_one_that_says_nothing_is_not_waited_for(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencode_plugin, "_PATIENCE", 0.05)
    with socketserver.UnixStreamServer(
        str(hub / "run" / "1.sock"), socketserver.StreamRequestHandler
    ):
        assert list(endpoints(hub)) == []
