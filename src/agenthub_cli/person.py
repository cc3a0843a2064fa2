"""The hub as a person meets it at a terminal: what all commands about messages share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from agenthub_cli.settings import read_settings
from agenthub_core import HUMAN, Gateway, Presence, RequestRefused, Sent
from agenthub_core.model import RESERVED

Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


def as_person(sender: str = HUMAN) -> Gateway:
    """The hub as a person meets it: under any name that is not the hub's own.

    Raises `RequestRefused` for one that is.
    """
    from agenthub_cli.compose import gateway  # --help needs none of it

    if sender in _OF_THE_HUB:
        names = ", ".join(sorted(_OF_THE_HUB))
        raise RequestRefused(
            f'"{sender}" is not yours to speak as: --from takes any name but the hub\'s own '
            f"({names})"
        )
    return gateway(read_settings(), acting_as={sender})


_OF_THE_HUB = RESERVED - {HUMAN}


def is_verified(sender: str) -> bool:
    """Whether it is the person who writes: under no other name, and not from an agent's shell.

    OpenCode gives its variables to all that it starts, a model's commands too.
    """
    in_opencode = "OPENCODE_PID" in os.environ or os.environ.get("OPENCODE") == "1"
    return sender == HUMAN and not in_opencode


def prospect(sent: Sent) -> str:
    """What will happen to the message, in a sentence for a person."""
    to = sent.message.recipient
    perhaps = f" Did you mean {' or '.join(sent.nearest)}?" if sent.nearest else ""
    unknown = f"No {to} is known yet; it waits.{perhaps}"
    if to == HUMAN:
        return "It is read with: agenthub inbox"
    if not sent.attended:
        waits = unknown if sent.presence is Presence.UNKNOWN else "It waits."
        return f"{waits} No hub is running: agenthub daemon"
    if sent.message.is_broadcast:
        return f"It goes to: {', '.join(sent.reached)}." if sent.reached else "Nobody is here."
    match sent.presence:
        case Presence.HERE:
            return f"{to} is here."
        case Presence.AWAY:
            return f"{to} is away; it waits."
        case Presence.UNKNOWN:
            return unknown
