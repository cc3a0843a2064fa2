"""`agenthub setup`: gives the agents in OpenCode their tools, or takes them away again; with them
goes the plugin, which is in `plugin`.
"""

from __future__ import annotations

import difflib
import shlex
import sys
from pathlib import Path

import typer
from attrs import frozen

from agenthub_adapters import opencode_config, user_files
from agenthub_adapters.clock import SystemClock
from agenthub_adapters.opencode_config import OpenCodeConfig
from agenthub_cli import display, plugin
from agenthub_cli.compose import gateway
from agenthub_cli.settings import Settings
from agenthub_core import InvalidSettings, Misconfigured


@frozen(kw_only=True)
class Wish:
    """What the user asked of `agenthub setup`."""

    remove: bool = False
    only_print: bool = False
    yes: bool = False
    file: Path | None = None


def command() -> list[str]:
    """This installation's `agenthub mcp`, so that OpenCode finds it whatever its PATH is."""
    script = Path(sys.argv[0])
    if script.name == "agenthub" and script.exists():
        return [str(script.absolute()), "mcp"]
    beside = Path(sys.executable).with_name("agenthub")
    if beside.exists():
        return [str(beside), "mcp"]
    return [sys.executable, "-m", "agenthub_cli", "mcp"]


def environment(settings: Settings) -> dict[str, str]:
    """What the server must be told to work in the same directory as the daemon."""
    if settings.directory == Settings().directory:
        return {}
    return {"AGENT_HUB_DIR": str(settings.directory)}


def set_up(wish: Wish, settings: Settings) -> None:
    """Show the change, ask, make it, and let OpenCode check it. Raises `AgentHubError`."""
    if wish.file and not wish.file.absolute().parent.is_dir():
        raise InvalidSettings(f"--file: there is no directory {wish.file.absolute().parent}")
    # where a project's own file holds
    opencode = OpenCodeConfig(wish.file.absolute().parent if wish.file else Path.cwd())
    if wish.file and not wish.remove:
        opencode.check_reads(wish.file)
    path = wish.file or opencode.file()
    old = user_files.read(path)
    new = _edited(wish, path, old, settings)
    in_project = wish.file is not None and opencode.project_of(wish.file) is not None
    hubs = plugin.of(opencode, settings)
    step = plugin.Step(hubs, remove=wish.remove, in_project=in_project)
    _show(path, old, new)
    step.show(_show)
    if wish.only_print:
        return
    changed = old != new or bool(step.changes)
    if changed:
        _confirm(wish)
        _change(path, old, new)
        step.make()
    if wish.remove:
        _check_gone(opencode)
    else:
        _make_hub(settings)
        plugin.provide_package(opencode, hubs)
        _check(opencode, path)
    if changed:
        display.say()
        display.say("Restart the OpenCode windows that are open: they keep what they started with.")
    if not wish.remove:
        _say_how_to_start(opencode, wish.file)


def _edited(wish: Wish, path: Path, old: str, settings: Settings) -> str:
    try:
        if wish.remove:
            return opencode_config.without_hub(old)
        return opencode_config.with_hub(old, command(), environment(settings))
    except Misconfigured as error:
        raise Misconfigured(
            f"{path} cannot be edited ({error}): mend it, or "
            f"{'remove' if wish.remove else 'add'} the lines yourself",
            *lines_to_add(settings),
        ) from error


def _make_hub(settings: Settings) -> None:
    """The plugin listens only where there is a hub's directory."""
    gateway(settings)
    (settings.directory / "run").mkdir(mode=0o700, exist_ok=True)


def _say_how_to_start(opencode: OpenCodeConfig, file: Path | None) -> None:
    """The hub begins only where it finds the tools configured."""
    project = opencode.project_of(file) if file else None
    if project is None:
        display.say("Start the hub with: agenthub daemon")
        return
    display.say("The configuration holds only in that directory, so start the hub there:")
    display.say(f"  cd {shlex.quote(str(project))} && agenthub daemon")


def _change(path: Path, old: str, new: str) -> None:
    if old == new:
        return
    if user_files.read(path) != old:
        raise Misconfigured(f"{path} was changed by another program: run it again")
    copy = user_files.write(path, new, now=SystemClock().now())
    display.say(f"Changed {path}" + (f"; the old text is in {copy}" if copy else ""))


def preflight(settings: Settings) -> None:
    """See that agents will have their tools. Raises `Misconfigured`, which says what to do.

    Without the plugin agents have them all the same, so of that it only warns.
    """
    opencode = OpenCodeConfig(Path.cwd())
    try:
        lack = opencode_config.lack(opencode.merged())
    except Misconfigured as error:
        raise Misconfigured(
            f"{error}: mend what OpenCode complains of, then run `agenthub setup`", *error.details
        ) from error
    if lack is not None:
        raise Misconfigured(
            f"{lack.text}, so agents could not write to each other. Run `agenthub setup`, or see "
            f"that {opencode.file()} says:",
            *lines_to_add(settings),
        )
    plugin.warn(opencode, settings)


def lines_to_add(settings: Settings) -> list[str]:
    """What OpenCode's configuration needs, for people who would rather write it themselves."""
    return opencode_config.with_hub("{}", command(), environment(settings)).splitlines()


def _show(path: Path, old: str, new: str) -> None:
    if old == new:
        display.say(f"{path} needs no change.")
        return
    display.say(f"{path}:" if old else f"{path} (new):")
    display.say()
    # who shows this to others, or asks them for help, need not give his keys away
    before, after = (opencode_config.without_secrets(text).splitlines() for text in (old, new))
    for line in list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]:
        if line.startswith("@@"):
            continue
        colour = {"+": typer.colors.GREEN, "-": typer.colors.RED}.get(line[:1])
        display.say(f"  {line}", colour=colour)
    display.say()


def _confirm(wish: Wish) -> None:
    if wish.yes:
        return
    if not sys.stdin.isatty():
        raise InvalidSettings("there is nobody to ask: add --yes to make this change")
    typer.confirm("Make this change?", default=True, abort=True)


def _check(opencode: OpenCodeConfig, path: Path) -> None:
    display.say("Checking with OpenCode …")
    lack = opencode_config.lack(opencode.merged())
    if lack is not None:
        raise Misconfigured(
            f"{lack.text}, although {path} says otherwise: another configuration file "
            "overrides it (OPENCODE_CONFIG, or an opencode.json of this project)"
        )
    connection = opencode.connection()
    if not connection.connected:
        raise Misconfigured(
            f"OpenCode cannot use the server: {connection.text}. Try it by hand: "
            f"{' '.join(command())}"
        )
    display.verdict(True, f"{opencode_config.SERVER} {connection.text}")


def _check_gone(opencode: OpenCodeConfig) -> None:
    if opencode_config.SERVER not in opencode.merged().get("mcp", {}):
        return
    still = f"OpenCode still has {opencode_config.SERVER}, from"
    for path in opencode.speaking_of_hub():
        where = shlex.quote(str(path))
        raise Misconfigured(f"{still} {path}. Run: agenthub setup --remove --file {where}")
    raise Misconfigured(f"{still} another configuration file: name it with --file")
