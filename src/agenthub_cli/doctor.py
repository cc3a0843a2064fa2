"""`agenthub doctor`: what can be wrong, a line each, and what to do about it.

Each check is a generator of findings in `_tracks`; a later part of agenthub adds its own there.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import attrs
from attrs import frozen

from agenthub_adapters import opencode_config, opencode_plugin, opencode_version
from agenthub_adapters.clock import SystemClock
from agenthub_adapters.opencode_config import OpenCodeConfig
from agenthub_adapters.opencode_plugin import PACKAGE, Package
from agenthub_adapters.opencode_server import OpenCodeServer
from agenthub_adapters.spool import FileSpool
from agenthub_adapters.watcher import Watcher
from agenthub_cli import display, plugin
from agenthub_cli.compose import gateway
from agenthub_cli.settings import Settings, read_settings
from agenthub_core import AgentHubError, InvalidSettings, Misconfigured, ServerError

_ROOM = 100 * 1024 * 1024  # bytes: some 100,000 messages
_SKEW = timedelta(seconds=5)  # what separates a clock that is set from one that is not


@frozen(kw_only=True)
class Finding:
    """One line of the report: what was looked at, whether it is well, and what to do if not."""

    name: str
    well: bool
    text: str
    mend: str = ""


Check = Callable[[], Iterator[Finding]]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(name="python", well=True, text=f"{version} at {sys.executable}")


def _opencode() -> Iterator[Finding]:
    opencode = OpenCodeConfig(Path.cwd())
    version = opencode.version()
    lacking = opencode_version.lack(version)
    yield Finding(
        name="opencode",
        well=lacking is None,
        text=f"{version} at {opencode.binary}"
        + ("" if lacking is None else f", which cannot {lacking}, as the hub must"),
        mend=opencode_version.UPGRADE,
    )
    # one after the other: several OpenCodes that start for the first time get in each other's way
    try:
        merged = opencode.merged()
    except Misconfigured as error:
        text = " ".join((f"{error}:", *error.details))
        yield Finding(name="configuration", well=False, text=text, mend="mend that file")
        return
    lack = opencode_config.lack(merged)
    action = opencode_config.permission(merged)
    told = lack is None or lack == opencode_config.DENIED
    yield Finding(
        name="configuration",
        well=told,
        text="OpenCode is told of the hub's tools" if told or lack is None else lack.text,
        mend="agenthub setup",
    )
    yield Finding(
        name="permission",
        well=action == "allow",
        text={
            "allow": "agents may use the hub's tools",
            "ask": "OpenCode asks its user at each use of the hub's tools",
        }.get(action, opencode_config.DENIED.text),
        mend="agenthub setup",
    )
    connection = opencode.connection()
    yield Finding(
        name="mcp server",
        well=connection.connected,
        text=f"OpenCode says: {connection.text}",
        mend="agenthub setup",
    )


def _plugin(settings: Settings) -> Iterator[Finding]:
    installed = plugin.of(OpenCodeConfig(Path.cwd()), settings)
    lack = installed.lack()
    stand_in = f", and a stand-in for {PACKAGE}" * (installed.package() is Package.STAND_IN)
    yield Finding(
        name="plugin",
        well=lack is None,
        text=f"{lack}, so {plugin.MISSED}" if lack else f"OpenCode has the hub's plugin{stand_in}",
        mend="agenthub setup",
    )


def _windows(settings: Settings) -> Iterator[Finding]:
    if not opencode_plugin.can_listen(settings.directory):
        yield Finding(
            name="windows",
            well=True,  # all is delivered, as without the plugin
            text=f"none shows messages as they arrive: the path of {settings.directory} is too "
            "long for sockets. Set AGENT_HUB_DIR to a shorter one, and run agenthub setup",
        )
        return
    found = list(opencode_plugin.endpoints(settings.directory))
    old = " and ".join(str(each.pid) for each in found if not each.is_current)
    sessions = sum(each.sessions for each in found)
    yield Finding(
        name="windows",
        well=not old,
        text=f"the plugin of another agenthub is at work in process {old}"
        if old
        else f"the plugin is at work in {_counted(len(found), 'OpenCode process')}, with "
        f"{_counted(sessions, 'session')}",
        mend="restart that window",
    )


def _counted(number: int, thing: str) -> str:
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing}{'es' if thing.endswith('s') else 's'}"


def _coordinator(settings: Settings) -> Iterator[Finding]:
    model = settings.coordinator_model
    # a project's own opencode.json adds providers for those alone who work in it
    places = (settings.coordinator_home, settings.directory)
    home = next((place for place in places if place.is_dir()), Path.home())
    known = settings.coordinator and model in OpenCodeConfig(home).models()
    if not settings.coordinator:
        text = "none is wanted: agents are not introduced to one another"
    elif known:
        text = f"introduces agents to one another, with {model}"
    else:
        text = f"OpenCode knows no model {model}, so nobody introduces the agents to one another"
    yield Finding(
        name="coordinator",
        well=known or not settings.coordinator,
        text=text,
        mend="set AGENT_HUB_COORDINATOR_MODEL to one that `opencode models` lists, or "
        "AGENT_HUB_COORDINATOR to false",
    )


def _server(settings: Settings) -> Iterator[Finding]:
    found = OpenCodeServer(
        settings.opencode_port, root=settings.directory, password=settings.opencode_password or None
    ).look()
    port = settings.opencode_port
    running = FileSpool(settings.directory, clock=SystemClock()).claimed()
    if found is not None:
        text = f"an OpenCode server answers on {port}"
    elif running:
        text = f"the hub is running, but no OpenCode server answers on {port}"
    else:
        text = f"{port} is free: the daemon starts an OpenCode server there"
    yield Finding(
        name="port",
        well=found is not None or not running,
        text=text,
        mend="a server of the hub's own comes back by itself; start any other again",
    )
    if found is not None:
        asks = "asks for a password" if found.password else "asks for no password"
        yield Finding(name="password", well=True, text=f"the server {asks}, and lets the hub in")


def _directory(settings: Settings) -> Iterator[Finding]:
    directory = settings.directory
    gateway(settings)  # makes what is not there, and closes to others what is
    yield Finding(name="directory", well=True, text=f"{directory} is yours alone")
    free = shutil.disk_usage(directory).free
    yield Finding(
        name="disk",
        well=free >= _ROOM,
        text=f"{free / 2**30:.1f} GiB are free",
        mend=f"make room on the disk of {directory}",
    )


def _file_events(settings: Settings) -> Iterator[Finding]:
    with Watcher(settings.directory / "messages", lambda _: None):
        yield Finding(name="file events", well=True, text="new messages are noticed at once")


def _clock(settings: Settings) -> Iterator[Finding]:
    probe = settings.directory / "tmp" / f"clock-{os.getpid()}"
    probe.touch()
    written = datetime.fromtimestamp(probe.stat().st_mtime, UTC)
    probe.unlink()
    skew = abs(datetime.now(UTC) - written)
    yield Finding(
        name="clock",
        well=skew < _SKEW,
        text="agrees with the disk's"
        if skew < _SKEW
        else f"differs from the disk's by {skew.total_seconds():.0f} s: messages expire wrongly",
        mend="set the clocks of this machine and of the file server",
    )


def _daemon(settings: Settings) -> Iterator[Finding]:
    status = gateway(settings).status()
    yield Finding(
        name="daemon",
        well=status.attended,
        text="running" if status.attended else "not running: messages wait",
        mend="agenthub daemon",
    )
    late = status.oldest is not None and datetime.now(UTC) - status.oldest > timedelta(minutes=5)
    yield Finding(
        name="pending",
        well=not late,
        text=f"{status.waiting} waiting" + ", some for more than 5 minutes" * late,
        mend="agenthub messages --state waiting shows for whom",
    )
    yield Finding(
        name="dead letters",
        well=status.dead == 0,
        text=f"{status.dead} in the last day",
        mend="agenthub messages --dead shows them; agenthub retry ID, or agenthub discard ID",
    )


def _malformed(settings: Settings) -> Iterator[Finding]:
    spool = FileSpool(settings.directory, clock=SystemClock())
    found = spool.malformed.held()
    recent = found and datetime.now(UTC) - found[0].at < timedelta(days=1)
    newest = f", the newest is {found[0].name}: {found[0].reason}" if found else ""
    yield Finding(
        name="malformed",
        well=not recent,
        text=f"{len(found)} in {spool.messages}/malformed{newest}",
        mend=f"mend it and move it back to {spool.messages}, or delete it and its .reason",
    )


def _unusable(error: InvalidSettings) -> Iterator[Finding]:
    mend = "set what is expected there, or remove it"
    yield Finding(name="settings", well=False, text=str(error), mend=mend)


def _tracks(settings: Settings | InvalidSettings) -> tuple[dict[str, Check], ...]:
    """Checks by name. Those of one track go in order, the tracks side by side.

    OpenCode takes seconds for each of its answers, so it comes last. Without settings only those
    are left that need none.
    """
    if isinstance(settings, InvalidSettings):
        return {"python": _python, "settings": partial(_unusable, settings)}, {
            "opencode": _opencode
        }
    return (
        {"python": _python, "port": partial(_server, settings)},
        {
            "directory": partial(_directory, settings),
            "file events": partial(_file_events, settings),
            "clock": partial(_clock, settings),
            "daemon": partial(_daemon, settings),
            "malformed": partial(_malformed, settings),
        },
        {
            "opencode": _opencode,
            "plugin": partial(_plugin, settings),
            "windows": partial(_windows, settings),
            "coordinator": partial(_coordinator, settings),
        },
    )


def examine(*, machines: bool) -> bool:
    """Report on everything, in order; whether all is well."""
    findings: list[Finding] = []
    with ThreadPoolExecutor() as pool:
        under_way = [pool.submit(_look, track) for track in _tracks(_settings())]
        for future in under_way:
            for finding in future.result():
                findings.append(finding)
                if not machines:
                    _show(finding)
    if machines:
        display.as_json([attrs.asdict(finding) for finding in findings])
    return all(finding.well for finding in findings)


def _settings() -> Settings | InvalidSettings:
    try:
        return read_settings()
    except InvalidSettings as error:
        return error


def _look(track: dict[str, Check]) -> list[Finding]:
    return [attrs.evolve(each, mend="" if each.well else each.mend) for each in _found(track)]


def _found(track: dict[str, Check]) -> Iterator[Finding]:
    """A check that cannot be made ends its track: the others would stumble over the same."""
    name = ""
    try:
        for name, check in track.items():  # noqa: B007  # of use to who catches
            yield from check()
    except (Misconfigured, ServerError, InvalidSettings) as error:
        text, _, mend = str(error).partition(": ")  # after the colon they say what to do
        yield Finding(name=name, well=False, text=text, mend=mend or " ".join(error.details))
    except AgentHubError as error:
        yield Finding(name=name, well=False, text=str(error))
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        yield Finding(name=name, well=False, text=text)


def _show(finding: Finding) -> None:
    display.verdict(finding.well, f"{finding.name:<14}{finding.text}")
    if finding.mend:
        display.say(f"  {'':<14}→ {finding.mend}")
