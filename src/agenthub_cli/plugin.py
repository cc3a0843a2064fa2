"""The plugin as the commands deal with it: setup installs and removes it, the daemon warns where it
is missing, the doctor examines it. What it is made of is the adapter's business.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import typer

from agenthub_adapters.clock import SystemClock
from agenthub_adapters.opencode_config import OpenCodeConfig
from agenthub_adapters.opencode_plugin import PACKAGE, Change, Package, Plugin
from agenthub_cli import display
from agenthub_cli.settings import Settings
from agenthub_core import Misconfigured

_log = logging.getLogger("agenthub")

MISSED = (
    "messages do not show in windows of their own until the session is opened again, busy windows "
    "wait for the turn's end, and senders are not verified"
)
"""What is missed without it."""

_INSTALLING = 30.0  # seconds; it takes 5 where the registry is near


def of(opencode: OpenCodeConfig, settings: Settings) -> Plugin:
    """The plugin as this user's OpenCode is to have it, for all projects."""
    usual = settings.directory == Settings().directory
    return Plugin(opencode.config_directory, None if usual else settings.directory)


def warn(opencode: OpenCodeConfig, settings: Settings) -> None:
    """Tell who starts the hub what is missed. Never an error: messages arrive all the same."""
    lack = of(opencode, settings).lack()
    if lack is not None:
        extra = {"topic": "daemon.plugin"}
        _log.warning("%s, so %s: run `agenthub setup`", lack, MISSED, extra=extra)


class Step:
    """The part of a setup that is about the plugin. Raises `Misconfigured`.

    The plugin holds in all projects; so it stays where it is removed from one, `in_project`.
    """

    def __init__(self, plugin: Plugin, *, remove: bool, in_project: bool) -> None:
        self._plugin = plugin
        self._remove = remove
        self._in_project = in_project
        self.changes = self._changes()

    def show(self, show: Callable[[Path, str, str], None]) -> None:
        """Say what will be done: of its own files their names, of the user's what `show` shows."""
        where = self._plugin.directory
        if self._remove and self._in_project:
            display.say("The plugin stays, for other projects: agenthub setup --remove removes it.")
            return
        if not self.changes:
            display.say(f"The plugin in {where} needs no change.")
            return
        holds = ", for all projects" * self._in_project
        display.say(f"The plugin that makes OpenCode's windows known to the hub{holds}:")
        display.say()
        for change in self.changes:
            if line := _line(change):
                display.say(f"  {line}", colour=_COLOURS[line[0]])
        if self._plugin.hub is not None and not self._remove:
            display.say(f"  It tells OpenCode where the hub is: {self._plugin.hub}")
        display.say()
        for change in self.changes:
            if change.new is not None and not _line(change):
                show(change.path, change.old or "", change.new)

    def make(self) -> None:
        if not self.changes:
            return
        where = self._plugin.directory
        if self._changes() != self.changes:
            raise Misconfigured(f"{where} was changed by another program: run it again")
        copies = self._plugin.apply(self.changes, now=SystemClock().now())
        display.say(f"{'Removed' if self._remove else 'Installed'} the plugin in {where}")
        for copy in copies:
            display.say(f"The old text is in {copy}")

    def _changes(self) -> list[Change]:
        if not self._remove:
            return self._plugin.installation()
        return [] if self._in_project else self._plugin.removal()


_COLOURS = {"+": typer.colors.GREEN, "~": typer.colors.YELLOW, "-": typer.colors.RED}


def _line(change: Change) -> str:
    """What is done with a whole file; empty for one that is edited."""
    if change.new is None:
        return f"- {change.path}"
    if change.path.suffix != ".js":
        return ""
    if change.old is None:
        return f"+ {change.path}"
    foreign = " is not agenthub's: it is replaced, and a copy kept" * change.is_of_user
    return f"~ {change.path}{foreign}"


def provide_package(opencode: OpenCodeConfig, plugin: Plugin) -> None:
    """See that OpenCode's next start waits for no download."""
    if plugin.package() is Package.INSTALLED:
        return
    display.say(f"OpenCode installs {PACKAGE}, which it wants beside any plugin …")

    def install() -> None:
        with contextlib.suppress(Misconfigured):  # what is wrong setup's own check tells
            opencode.merged(patience=_INSTALLING)

    provided = plugin.provide_package(install)
    if provided is Package.STAND_IN:
        display.say(
            "It could not, and would wait for it at each start, so a stand-in takes its place: "
            f"{plugin.directory}/package-lock.json. Plugins that import it need it: run `agenthub "
            "setup` again when the npm registry answers."
        )
    elif provided is Package.MISSING:
        display.say(
            f"It could not. It tries again at each start, as {plugin.directory}/package.json is "
            "yours, and waits a minute where the npm registry does not answer."
        )
