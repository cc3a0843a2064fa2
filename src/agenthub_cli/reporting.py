"""How a command ends that cannot do what it was asked: a sentence, and an exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from agenthub_core import AgentHubError, InvalidSettings, InvalidValue

FAILED = 1
UNUSABLE = 2  # the usual status for a command that was called wrongly


@contextlib.contextmanager
def reporting(**arguments: str) -> Iterator[None]:
    """Translate every error that agenthub raises on purpose; any other is a bug, and shows.

    `arguments` are what the command calls the fields of the model.
    """
    try:
        yield
    except AgentHubError as raised:
        error = raised
        if isinstance(raised, InvalidValue) and raised.field in arguments:
            error = InvalidValue(arguments[raised.field], raised.found, raised.expected)
        from agenthub_cli import display  # who succeeds may need none of it

        for line in (f"agenthub: {error}", *error.details):
            display.say(line, err=True)
        sys.exit(UNUSABLE if isinstance(error, InvalidSettings | InvalidValue) else FAILED)
