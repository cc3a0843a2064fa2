"""Puts the plugin into OpenCode's configuration directory, and takes it out again.

OpenCode wants the plugin's two halves as two modules: one lies where it looks for plugins, and the
other is named in `tui.json` or `tui.jsonc`. Also sees to it that OpenCode, which with any plugin
waits at its start for a package of its own, has no reason to wait, and asks the plugins at work who
they are. What they do is in `plugin/agenthub.js`, what they say in docs/endpoint.md; whether to
install, and what to tell the user, is the command's business. Facts as measured on 1.18.33.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from enum import Enum
from http.client import HTTPException
from pathlib import Path
from typing import Any

from attrs import frozen

from agenthub_adapters import jsonc
from agenthub_adapters.clock import SystemClock
from agenthub_adapters.unix_http import ask
from agenthub_adapters.user_files import read, write
from agenthub_core import Misconfigured

SOURCE = Path(__file__).with_name("plugin") / "agenthub.js"

_OURS = re.compile(r"^// The agenthub plugin\b", re.MULTILINE)

_WINDOW = "./agenthub/window.js"
_SCHEMA = "https://opencode.ai/tui.json"
_NEW_TUI = json.dumps({"$schema": _SCHEMA, "plugin": [_WINDOW]}, indent=2) + "\n"


@frozen
class Change:
    """A file that becomes another one."""

    path: Path
    old: str | None
    """None where there is no file."""
    new: str | None
    """None where it is to go."""

    @property
    def is_of_user(self) -> bool:
        """Whether what is there is somebody else's, and so worth a copy."""
        return self.old is not None and not (_OURS.search(self.old) or self.old == _STAND_IN)


@frozen
class Plugin:
    """The plugin in a configuration directory of OpenCode's.

    `hub` is the hub's directory where it is not the usual one. Every method raises `Misconfigured`.
    """

    directory: Path
    hub: Path | None = None

    def text(self) -> str:
        """Both copies. One that knows a hub tells OpenCode, unless its environment names another.

        A replaced line would have to be found in every version; this one stands before all others.
        """
        text = SOURCE.read_text(encoding="utf-8")
        if self.hub is None:
            return text
        hub = json.dumps(str(self.hub))
        return f"process.env.AGENT_HUB_DIR ||= {hub} // by agenthub setup\n{text}"

    def lack(self) -> str | None:
        """Why OpenCode's processes would not be endpoints of this hub; None if they will."""
        try:
            changes = self.installation()
        except Misconfigured as error:
            return str(error)
        if not changes:
            return None
        found = [text for copy in self._copies() if (text := read(copy))]
        if not found:
            return "OpenCode has not the hub's plugin"
        wanted = _number("VERSION", self.text())
        for text in found:
            if (version := _number("VERSION", text)) != wanted:
                return f"OpenCode has version {version} of the hub's plugin, not {wanted}"
        fault = "is missing" if changes[0].old is None else "is another"
        return f"OpenCode has not this agenthub's plugin: {changes[0].path} {fault}"

    def installation(self) -> list[Change]:
        """What is to be changed so that the plugin is there, and is this one."""
        text = self.text()
        tui = self._tui()
        wanted = [(copy, _found(copy), text) for copy in self._copies()]
        wanted.append((tui, old := _found(tui), _with_window(tui, old or "")))
        return [Change(path, old, new) for path, old, new in wanted if old != new]

    def removal(self) -> list[Change]:
        """What is to be changed so that nothing of it is there."""
        changes = [Change(path, _found(path), None) for path in (*self._copies(), self._lock())]
        changes = [each for each in changes if each.old is not None and not each.is_of_user]
        for tui in self._tuis():
            old = read(tui)
            if _names_window(old):
                changes.append(Change(tui, old, _without_window(old)))
        return changes

    def apply(self, changes: Sequence[Change], *, now: datetime) -> list[Path]:
        """Make the changes; the copies that were kept of the user's files."""
        copies = [
            write(each.path, each.new, now=now, keep=each.is_of_user)
            for each in changes
            if each.new is not None
        ]
        gone = [each.path for each in changes if each.new is None]
        for path in gone:
            _unlink(path)
        emptied = {path.parent for path in gone} - {self.directory}
        if self._lock() in gone:
            emptied.add(self.directory / "node_modules")
        for directory in emptied:
            with contextlib.suppress(OSError):  # something else is in it
                directory.rmdir()
        return [copy for copy in copies if copy is not None]

    def _copies(self) -> tuple[Path, Path]:
        return self.directory / "plugin" / "agenthub.js", self.directory / "agenthub" / "window.js"

    def _tuis(self) -> list[Path]:
        """OpenCode reads both, and loads what either names."""
        names = ("tui.json", "tui.jsonc")
        return [path for name in names if (path := self.directory / name).exists()]

    def _tui(self) -> Path:
        """The one to edit: that which names the plugin, else the one there is.

        A new one must not be called tui.json: OpenCode moves the theme and the keys out of an old
        opencode.json, but only while there is no file of that name.
        """
        present = self._tuis()
        naming = [path for path in present if _names_window(read(path))]
        return next(iter(naming + present), self.directory / "tui.jsonc")

    # ------------------------------------------------------------------------------- its package

    def package(self) -> Package:
        """Whether OpenCode finds the package that it wants beside plugins, by its own rule."""
        lock = _document(self._lock())
        root = _object(_object(lock.get("packages")).get(""))
        wanted = {PACKAGE, *_dependencies(_document(self.directory / "package.json"))}
        if not (self.directory / "node_modules").exists() or wanted - set(_dependencies(root)):
            return Package.MISSING
        return Package.STAND_IN if read(self._lock()) == _STAND_IN else Package.INSTALLED

    def provide_package(self, install: Callable[[], object]) -> Package:
        """Have the package installed, or else a stand-in, where nothing of the user's is there.

        `install` lets OpenCode try, which leaves nothing where it fails.
        """
        found = self.package()
        if found is Package.INSTALLED:
            return found
        npms = ("node_modules", "package.json", "package-lock.json")
        free = found is Package.STAND_IN or not any((self.directory / n).exists() for n in npms)
        if found is Package.STAND_IN:
            _unlink(self._lock())
            with contextlib.suppress(OSError):  # what an attempt has left is of use to the next
                (self.directory / "node_modules").rmdir()
        try:
            install()
        finally:
            if free and self.package() is Package.MISSING:
                (self.directory / "node_modules").mkdir(parents=True, exist_ok=True)
                self._lock().write_text(_STAND_IN)
        return self.package()

    def _lock(self) -> Path:
        return self.directory / "package-lock.json"


PACKAGE = "@opencode-ai/plugin"
"""OpenCode installs it from the npm registry. Ours needs it not, other plugins may."""

_STAND_IN = json.dumps(
    {
        "name": "agenthub-stand-in",
        "lockfileVersion": 3,
        "requires": True,
        "packages": {"": {"dependencies": {PACKAGE: "*"}}},
    },
    indent=2,
)
"""A package-lock.json that has OpenCode believe that all is there."""


class Package(Enum):
    """Whether OpenCode has its own package beside the plugin."""

    INSTALLED = "installed"
    STAND_IN = "stand-in"
    MISSING = "missing"


def install(directory: Path) -> None:
    """Put the plugin into a configuration directory at once, without a network or a question."""
    plugin = Plugin(directory)
    plugin.apply(plugin.installation(), now=SystemClock().now())
    plugin.provide_package(lambda: None)


# ------------------------------------------------------------------------------ plugins at work


@frozen(kw_only=True)
class Endpoint:
    """A process of OpenCode's in which the plugin is at work."""

    pid: int
    protocol: object
    version: object
    sessions: int

    @property
    def is_current(self) -> bool:
        text = SOURCE.read_text(encoding="utf-8")
        wanted = _number("PROTOCOL", text), _number("VERSION", text)
        return (self.protocol, self.version) == wanted


_LONGEST_PATH = 103  # bytes, as in the plugin
_PATIENCE = 1.0  # seconds: an answer takes milliseconds, but the process may be busy


def can_listen(hub: Path) -> bool:
    """Whether a socket's path there is short enough for every system."""
    return len(os.fsencode(hub / "run" / "4194304.sock")) <= _LONGEST_PATH  # the highest process id


def endpoints(hub: Path) -> Iterator[Endpoint]:
    """Those that answer. A process that was killed has left its socket, and is none."""
    for path in sorted((hub / "run").glob("*.sock")):
        with contextlib.suppress(OSError, HTTPException, ValueError):
            said = _object(ask(path, "GET", "/", seconds=_PATIENCE)[1])
            sessions = said.get("sessions")
            yield Endpoint(
                pid=int(path.stem),
                protocol=said.get("protocol"),
                version=said.get("plugin"),
                sessions=len(sessions) if isinstance(sessions, list) else 0,
            )


# --------------------------------------------------------------------------------------- texts


def _number(name: str, text: str) -> int | None:
    found = re.search(rf"^const {name} = (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _found(path: Path) -> str | None:
    return read(path) if path.exists() else None


def _names_window(text: str) -> bool:
    try:
        named = _object(jsonc.loads(text)).get("plugin")
    except jsonc.JsoncError:
        return False
    return isinstance(named, list) and _WINDOW in named


def _with_window(path: Path, text: str) -> str:
    if not text.strip():
        return _NEW_TUI
    try:
        return jsonc.append(text, ["plugin"], _WINDOW)
    except jsonc.JsoncError as error:
        raise Misconfigured(
            f'{path} cannot be edited ({error}): mend it, or add "{_WINDOW}" to its "plugin"'
        ) from error


def _without_window(text: str) -> str | None:
    if text == _NEW_TUI:
        return None
    text = jsonc.discard(text, ["plugin"], _WINDOW)
    return text if _object(jsonc.loads(text)).get("plugin") else jsonc.remove(text, ["plugin"])


def _dependencies(package: dict[str, Any]) -> Iterator[str]:
    for kind in ("dependencies", "devDependencies", "peerDependencies", "optionalDependencies"):
        yield from _object(package.get(kind))


def _document(path: Path) -> dict[str, Any]:
    try:
        return _object(json.loads(read(path) or "{}"))
    except ValueError:
        return {}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise Misconfigured(f"{path} cannot be removed: {error.strerror}") from error
