"""The commands: each parses, builds, makes one call, and translates the result."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from agenthub_cli import log
from agenthub_cli.settings import read_settings
from agenthub_core import AgentHubError, InvalidSettings

FAILED = 1
UNUSABLE = 2  # the usual status for a command that was called wrongly

app = typer.Typer(
    name="agenthub",
    help="Message broker between AI coding agents that run in separate OpenCode sessions.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they may hold a password
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agenthub {importlib.metadata.version('agenthub')}")
        raise typer.Exit


@app.callback(epilog="Start with: agenthub daemon")
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
        typer.Option(help="DEBUG, INFO, WARNING or ERROR [INFO].", show_default=False),
    ] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log for machines.")] = False,
) -> None:
    """Deliver messages between agents until it is stopped.

    Watches ~/.agent-hub/messages, finds each recipient's OpenCode session and puts the message
    there, which wakes the agent. Uses the OpenCode server on port 4096, or starts one.
    """
    try:
        settings = read_settings(
            directory=directory,
            opencode_port=opencode_port,
            log_level=log_level,
        )
        log.configure(settings.level, machines=json_logs)
        from agenthub_cli.compose import run_daemon  # noqa: PLC0415  # --help needs none of it

        run_daemon(settings)
    except AgentHubError as error:
        typer.echo(f"agenthub: {log.one_line(str(error))}", err=True)
        sys.exit(UNUSABLE if isinstance(error, InvalidSettings) else FAILED)
