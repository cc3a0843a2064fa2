"""The commands: each parses, builds, makes one call, and translates the result."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from agenthub_cli import log, reading, writing
from agenthub_cli.reporting import FAILED, reporting
from agenthub_cli.settings import read_settings
from agenthub_core import InvalidSettings

_log = logging.getLogger("agenthub")

app = typer.Typer(
    name="agenthub",
    help="Message broker between AI coding agents that run in separate OpenCode sessions.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they may hold a password
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def version() -> str:
    import importlib.metadata  # 20 ms that no other command needs

    return importlib.metadata.version("agenthub")


def _show_version(wanted: bool) -> None:
    if wanted:
        from agenthub_cli import display

        with reporting():
            display.say(f"agenthub {version()}")
        raise typer.Exit


@app.callback(epilog="Start with: agenthub setup, then agenthub daemon")
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which version this is.", callback=_show_version),
    ] = False,
) -> None:
    pass


_DAEMON_EXAMPLES = """
Examples:

  agenthub daemon                        deliver messages until Ctrl-C

  agenthub daemon --opencode-port 5000   use the OpenCode server on that port

  agenthub daemon --log-level DEBUG      say more

  agenthub daemon --json-logs            one JSON object a line, for machines
"""


@app.command(epilog=_DAEMON_EXAMPLES)
def daemon(
    *,
    directory: Annotated[
        str | None,  # a Path would take "" for the current directory
        typer.Option(
            help="The hub's directory [AGENT_HUB_DIR, ~/.agent-hub].",
            metavar="<path>",
            show_default=False,
        ),
    ] = None,
    opencode_port: Annotated[
        int | None,
        typer.Option(help="Port of the OpenCode server [OPENCODE_PORT, 4096].", show_default=False),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            help="DEBUG, INFO, WARNING or ERROR [AGENT_HUB_DAEMON_LOG_LEVEL, INFO].",
            show_default=False,
        ),
    ] = None,
    preflight: Annotated[
        bool | None,
        typer.Option(
            help="Begin only if OpenCode's configuration has the tools [AGENT_HUB_PREFLIGHT, on].",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the sessions of earlier runs.")
    ] = False,
    json_logs: Annotated[
        bool,
        typer.Option("--json-logs", help="Log for machines on standard error, an object a line."),
    ] = False,
) -> None:
    """Deliver messages between agents until it is stopped.

    Watches ~/.agent-hub/messages, finds each recipient's OpenCode session and puts the message
    there, which wakes the agent. Uses the OpenCode server on port 4096, or starts one.
    """
    with reporting():
        settings = read_settings(
            directory=directory,
            opencode_port=opencode_port,
            preflight=preflight,
            log_level=log_level,
        )
        log.configure(settings.level, machines=json_logs)
        if directory is not None and not _agrees(settings.directory):
            extra = {"topic": "daemon.directory"}
            _log.warning(_ASTRAY, settings.directory, extra=extra)
        from agenthub_cli.compose import run_daemon  # --help needs none of it

        run_daemon(settings, fresh=fresh)


_ASTRAY = (
    "only this daemon works in %s: other commands and the agents' tools go by AGENT_HUB_DIR; set "
    "it to that directory, too"
)


def _agrees(directory: Path) -> bool:
    """Whether who is given no --directory works in the same one."""
    try:
        return read_settings().directory == directory
    except InvalidSettings:
        return False


_OPEN_EXAMPLES = """
Examples:

  agenthub open                       in this directory

  agenthub open ~/web

  agenthub open --agent jolly-comet   on that agent's session
"""


@app.command("open", epilog=_OPEN_EXAMPLES)
def open_window(
    directory: Annotated[
        Path,
        typer.Argument(
            help="Where to work.", metavar="DIR", exists=True, file_okay=False, show_default=False
        ),
    ] = Path(),
    agent: Annotated[
        str | None, typer.Option(help="Go on with this agent's session, in its directory.")
    ] = None,
) -> None:
    """Open OpenCode on the hub's server, where messages show as they arrive."""
    with reporting():
        from agenthub_cli import compose  # --help needs none of it

        compose.open_window(read_settings(), directory.resolve(), agent)


_MCP_EPILOG = """
An MCP client starts it by itself. OpenCode: agenthub setup

Claude Code:

  claude mcp add agent-hub -- agenthub mcp
"""


@app.command(epilog=_MCP_EPILOG)
def mcp() -> None:
    """Serve the agents' tools to an MCP client, on standard input and output.

    Agents register, write, read their messages and look around with them.
    """
    with reporting():
        settings = read_settings()
        log.configure(settings.level, machines=False)
        if sys.stdin.isatty():
            from agenthub_cli import display

            display.say("agenthub mcp waits for an MCP client to speak; Ctrl-C ends it", err=True)
        from agenthub_cli.compose import run_mcp  # --help needs none of it

        run_mcp(settings, version())


_SETUP_EXAMPLES = """
Examples:

  agenthub setup             show the change, ask, make it, and check it

  agenthub setup --print     only show it

  agenthub setup --remove    take it back
"""


@app.command(epilog=_SETUP_EXAMPLES)
def setup(
    remove: Annotated[bool, typer.Option("--remove", help="Take the hub out again.")] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Show the change and make none.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            help="The configuration file to change, such as a project's opencode.json.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Give the agents in OpenCode their tools, and OpenCode the hub's plugin.

    Adds the hub's MCP server, and the permission to use it, to OpenCode's configuration. Comments
    and formatting stay as they are, and a copy of each file is kept. The plugin, with which windows
    show messages as they come, is for all projects.
    """
    with reporting():
        from agenthub_cli.setup import Wish, set_up  # --help needs none of it

        wish = Wish(remove=remove, only_print=only_print, yes=yes, file=file)
        set_up(wish, read_settings())


_DOCTOR_EXAMPLES = """
Examples:

  agenthub doctor           look at everything

  agenthub doctor --json    the same for scripts; exit status 1 if something is wrong
"""


@app.command(epilog=_DOCTOR_EXAMPLES)
def doctor(json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Find out what is wrong, and what to do about it."""
    with reporting():
        from agenthub_cli.doctor import examine  # --help needs none of it

        if not examine(machines=json):
            sys.exit(FAILED)


app.add_typer(writing.app)
app.add_typer(reading.app)
