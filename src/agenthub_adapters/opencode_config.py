"""What OpenCode's configuration must say so that its agents have the hub's tools.

Reads the merged configuration as OpenCode itself sees it (`opencode debug config`), and edits the
text of one of the user's files, in which comments and formatting stay. Whether to edit, and what to
tell the user, is the command's business. Facts as measured on 1.18.33.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from agenthub_adapters import jsonc
from agenthub_adapters.user_files import read
from agenthub_core import Misconfigured

SERVER = "agent-hub"
"""The server's name, and so the prefix of its tools in OpenCode."""

PERMISSION = f"{SERVER}_*"
"""The tools of that server, as OpenCode's permissions name them."""

_TOOL = f"{SERVER}_send_message"  # without this one agents could not speak
_VANISHED = "agent-hub-mcp"  # the package that was the server once, gone from the npm registry
_SCHEMA = "https://opencode.ai/config.json"
_ANYWHERE = ("opencode.jsonc", "opencode.json")  # also above a project, and in a .opencode there
_FILES = (*_ANYWHERE, "config.json")  # in OpenCode's own directory

_START_MILLISECONDS = 20_000
"""How long OpenCode waits for the server: it needs 1 s, but several windows may start at once on a
machine that is busy, and OpenCode's own 5 s would leave them without tools."""

_COMMAND_SECONDS = 60  # OpenCode's slowest, `mcp list`, takes 3 s, and longer for dead servers

_NPM = {"npm_config_fetch_retries": "0", "npm_config_fetch_timeout": "10000"}
"""What OpenCode would install from the npm registry for plugins, it tries once: it would wait 70 s
for a registry that cannot be reached, and for ever for one that says nothing."""

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_INPUT = re.compile(r"^--- JSONC Input ---$.*?(?=^--- Errors ---$)", re.DOTALL | re.MULTILINE)
"""The whole file, which OpenCode repeats where it cannot parse it; it may hold keys."""

_QUOTED = re.compile(r"^ +Line \d+:.*\n?(?:^ *\^ *$\n?)?", re.MULTILINE)
"""The line that it stumbled over, and a mark below; where it is stands in the line before."""

_NAME = r"[\w-]*(?:key|token|secret|passw|credential|authorization)[\w-]*"
_SECRETS = (
    # "apiKey": "…", and in a command "--api-key", "…"
    re.compile(rf'({_NAME}"\s*[:,]\s*")(?:[^"\\]|\\.)*(?="(?!\s*:))', re.IGNORECASE),
    # in a word, an address or a comment: --api-key=…, ?token=…, Authorization: Bearer …
    re.compile(rf'({_NAME}[ \t]*[=:][ \t]*(?:(?:bearer|basic) )?)[^"&,\s]+', re.IGNORECASE),
    # https://me:…@host
    re.compile(r'(://[^/:@\s"]*:)[^/@\s"]+(?=@)'),
)

_LISTED = re.compile(rf"([✓✗○⚠])\s+{re.escape(SERVER)}\s+(\S.*)")


@frozen
class Lack:
    """Why agents would not have the hub's tools; the text says so to the user."""

    text: str


ABSENT = Lack(f"OpenCode has no MCP server named {SERVER}")
DISABLED = Lack(f"OpenCode's MCP server {SERVER} is disabled")
VANISHED = Lack(f"OpenCode is to use {_VANISHED}, which is gone from the npm registry")
DENIED = Lack(f"OpenCode's permissions deny agents the tools of {SERVER}")


def gone(program: str) -> Lack:
    """A clone was moved or deleted: OpenCode would start without a word, and without the tools."""
    return Lack(f"OpenCode is to start {program}, which is not there")


@frozen(kw_only=True)
class Connection:
    """What OpenCode says of the hub's MCP server after it has tried it."""

    connected: bool
    text: str


class OpenCodeConfig:
    """The configuration as it holds in a directory. Every method raises `Misconfigured`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        binary = shutil.which("opencode")
        if binary is None:
            raise Misconfigured(
                "there is no opencode on PATH: install it with `npm install -g opencode-ai`"
            )
        self.binary = binary

    def version(self) -> str:
        return self._run("--version").strip()

    def merged(self, *, patience: float = _COMMAND_SECONDS) -> Mapping[str, Any]:
        """All configuration files in one, as OpenCode reads them. Takes a second.

        Where there are plugins, and the packages that they may need are not there, OpenCode
        installs them first; but for less than `patience` seconds.
        """
        said = self._run("debug", "config", patience=patience)
        try:
            document = json.loads(said)
        except ValueError as error:
            raise Misconfigured(f"`opencode debug config` said what is no JSON: {error}") from error
        if not isinstance(document, dict):
            raise Misconfigured("`opencode debug config` said what is no JSON object")
        return document

    def connection(self) -> Connection:
        """Let OpenCode start the hub's MCP server and ask it for its tools. Takes seconds."""
        said = _ESCAPES.sub("", self._run("mcp", "list"))
        found = _LISTED.search(said)
        if found is None:
            return Connection(connected=False, text=f"no MCP server is named {SERVER}")
        mark, state = found.groups()
        following = said[found.end() :].split("\n")[1:2]
        reason = following[0].strip("│ ") if following and mark != "✓" else ""
        return Connection(connected=mark == "✓", text=f"{state.strip()} {reason}".strip())

    def models(self) -> Collection[str]:
        """The models that OpenCode knows, each with its provider's name and a slash before it."""
        return self._run("models").split()

    def file(self) -> Path:
        """The user's file to edit: the one that speaks of the hub, else the one there is."""
        directory = self.config_directory
        present = [path for name in _FILES if (path := directory / name).exists()]
        ours = [path for path in present if _speaks_of_hub(path)]
        return next(iter(ours + present), directory / "opencode.json")

    def check_reads(self, path: Path) -> None:
        """Raise `Misconfigured` where OpenCode would never look at a file of that name."""
        if path.name in _ANYWHERE or _is_named(path):
            return
        own = self.config_directory
        if path.name in _FILES and _lies_in(own, path):
            return
        raise Misconfigured(
            f"OpenCode does not read {path}: it reads opencode.json and opencode.jsonc of a "
            f"project, its .opencode and {own}, there config.json too, and the file that "
            "OPENCODE_CONFIG names"
        )

    def project_of(self, path: Path) -> Path | None:
        """The directory in which alone a file holds; None for one that holds everywhere."""
        if _is_named(path) or _lies_in(self.config_directory, path):
            return None
        directory = path.absolute().parent
        return directory.parent if directory.name == ".opencode" else directory

    def speaking_of_hub(self) -> Sequence[Path]:
        """The files with the hub's server, of those that are easily found; OpenCode names none."""
        own = self.config_directory
        places = [own / name for name in _FILES]
        if named := os.environ.get("OPENCODE_CONFIG"):
            places.append(self._directory / named)
        for directory in self._project():
            for below in (directory, directory / ".opencode"):
                places += [below / name for name in _ANYWHERE]
        return [path for path in places if _speaks_of_hub(path)]

    def _project(self) -> Iterator[Path]:
        """Where OpenCode looks for a project's files: up to the root of the repository."""
        for directory in (self._directory, *self._directory.parents):
            yield directory
            if (directory / ".git").exists():
                return

    @functools.cached_property
    def config_directory(self) -> Path:
        """OpenCode's own, whose files hold in every project."""
        for line in self._run("debug", "paths").splitlines():
            name, _, path = line.partition(" ")
            if name == "config":
                return Path(path.strip())
        raise Misconfigured("`opencode debug paths` names no config directory")

    def _run(self, *arguments: str, patience: float = _COMMAND_SECONDS) -> str:
        command = f"`opencode {' '.join(arguments)}`"
        try:
            done = subprocess.run(  # noqa: S603  # found on the user's own PATH
                [self.binary, *arguments],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",  # whatever this terminal's is
                errors="replace",
                env=os.environ | _NPM,
                timeout=patience,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Misconfigured(f"{command} failed: {error}") from error
        if done.returncode != 0:
            said = _QUOTED.sub("", _INPUT.sub("", _ESCAPES.sub("", done.stderr))).splitlines()
            raise Misconfigured(f"{command} failed", *(line for line in said if line.strip()))
        return done.stdout


def _is_named(path: Path) -> bool:
    named = os.environ.get("OPENCODE_CONFIG")
    return bool(named) and Path(str(named)).resolve() == path.resolve()


def _lies_in(directory: Path, path: Path) -> bool:
    return path.absolute().parent.resolve() == directory.resolve()


def lack(merged: Mapping[str, Any]) -> Lack | None:
    """Why agents would not have the hub's tools under this configuration; None if they will."""
    servers = _object(merged.get("mcp"))
    entry = servers.get(SERVER)
    if entry is None:
        old = any(_is_vanished(server) for server in servers.values())
        return VANISHED if old else ABSENT
    if _is_vanished(entry):
        return VANISHED
    if _object(entry).get("enabled") is False:
        return DISABLED
    program = _program(_object(entry))
    if program is not None and not _is_there(program, _object(entry)):
        return gone(program)
    return DENIED if permission(merged) == "deny" else None


def permission(merged: Mapping[str, Any]) -> str:
    """What holds for the hub's tools: `allow`, `ask` or `deny`. The last rule that fits decides."""
    action = "allow"
    for pattern, rule in _object(merged.get("permission")).items():
        if _fits(pattern, _TOOL):
            rules = rule if isinstance(rule, dict) else {"*": rule}
            fitting = [value for name, value in rules.items() if name == "*"]
            action = str(fitting[-1]) if fitting else action
    return action


def entry(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The hub's MCP server as OpenCode's configuration has it."""
    return {
        "type": "local",
        "command": list(command),
        **({"environment": dict(environment)} if environment else {}),
        "enabled": True,
        "timeout": _START_MILLISECONDS,
    }


def with_hub(text: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """A configuration file's text with the hub's server and the permission for its tools.

    Raises `Misconfigured` where the text is no configuration.
    """
    wanted = entry(command, environment)
    try:
        document = _object(jsonc.loads(text)) if text.strip() else {}
        if not text.strip():
            text = json.dumps({"$schema": _SCHEMA}, indent=2) + "\n"
        if _object(document.get("mcp")).get(SERVER) != wanted:
            text = jsonc.put(text, ("mcp", SERVER), wanted)
        rules = document.get("permission")
        if isinstance(rules, str):
            return jsonc.put(text, ("permission",), {"*": rules, PERMISSION: "allow"})
        if rules is None or list(_object(rules).items())[-1:] != [(PERMISSION, "allow")]:
            # the last rule that fits decides
            text = jsonc.remove(text, ("permission", PERMISSION))
            text = jsonc.put(text, ("permission", PERMISSION), "allow")
    except jsonc.JsoncError as error:
        raise Misconfigured(str(error)) from error
    return text


def without_hub(text: str) -> str:
    """A configuration file's text without what `with_hub` has added. Raises `Misconfigured`."""
    if not text.strip():
        return text
    try:
        for section, name in (("mcp", SERVER), ("permission", PERMISSION)):
            found = _object(_object(jsonc.loads(text)).get(section))
            if name in found:
                text = jsonc.remove(text, (section, name) if len(found) > 1 else (section,))
    except jsonc.JsoncError as error:
        raise Misconfigured(str(error)) from error
    return text


def without_secrets(text: str) -> str:
    """A configuration file's text for others' eyes, line by line: keys and passwords left out."""
    for secret in _SECRETS:
        text = secret.sub(r"\1…", text)
    return text


def _speaks_of_hub(path: Path) -> bool:
    try:
        document = _object(jsonc.loads(read(path)))
    except jsonc.JsoncError:
        return False
    return SERVER in _object(document.get("mcp"))


def _is_vanished(server: object) -> bool:
    command = _object(server).get("command")
    words = command if isinstance(command, list) else [command]
    return any(_VANISHED in str(word) for word in words)


def _program(server: Mapping[str, Any]) -> str | None:
    """What is started on this machine, if that can be known."""
    command = server.get("command")
    if not isinstance(command, list) or not command:
        return None  # a remote one; what else it is OpenCode would have refused
    program = str(command[0])
    relative = os.sep in program and not program.startswith(os.sep)
    return None if relative else program  # to where OpenCode will run


def _is_there(program: str, server: Mapping[str, Any]) -> bool:
    paths = (None, _object(server.get("environment")).get("PATH"))
    return any(shutil.which(program, path=path) for path in paths)


def _fits(pattern: str, name: str) -> bool:
    """OpenCode's wildcards: * for any characters, ? for one."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name, re.DOTALL) is not None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
