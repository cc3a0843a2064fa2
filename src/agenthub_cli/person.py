"""The hub as a person meets it at a terminal: what all commands about messages share."""

from __future__ import annotations

from typing import Annotated

import typer

from agenthub_cli.settings import read_settings
from agenthub_core import HUMAN, Gateway
from agenthub_core.model import RESERVED

Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


def as_person(sender: str = HUMAN) -> Gateway:
    """The hub as a person meets it: under any name that is not the hub's own."""
    from agenthub_cli.compose import gateway  # --help needs none of it

    return gateway(read_settings(), acting_as={sender} - (RESERVED - {HUMAN}))
