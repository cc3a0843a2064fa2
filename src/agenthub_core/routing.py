"""Who receives a message, and under which name a session is an agent. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from itertools import chain, count

from agenthub_core.model import (
    COORDINATOR,
    IDENTIFIER_LENGTH,
    RESERVED,
    Agent,
    Message,
    Session,
    is_identifier,
)

_SUFFIX = 6  # characters of a session's id behind a slug that is taken: 62**6 is unlikely enough
_SHORT = 12  # characters of a session's id in a name without a slug, as opencode-agent-hub has it


def recipients(
    message: Message, agents: Iterable[Agent], *, now: datetime, active: timedelta
) -> tuple[str, ...]:
    """The ids of the agents that receive the message, sorted.

    A message to one agent has that recipient, known or not: it may appear later. A broadcast
    reaches every agent but its sender whose session is known and was active lately: it must not
    wake, and bill, conversations that ended long ago, nor the coordinator.
    """
    if not message.is_broadcast:
        return (message.recipient,)
    return tuple(
        sorted(
            agent.id
            for agent in agents
            if agent.id not in (message.sender, COORDINATOR)
            and agent.session_id is not None
            and now - agent.last_seen <= active
        )
    )


def directory_name(directory: str) -> str:
    """A name for an agent that is known by nothing but where it works: the project's."""
    project = directory.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", project).strip("-")[:IDENTIFIER_LENGTH]
    return name or "agent"


def agent_id(session: Session, taken: Collection[str]) -> str:
    """The name of a session that is not registered yet: one that is not taken.

    Its slug; with the end of the session's id behind it where the slug is taken or reserved for
    the hub's own; made from the session's id where the slug cannot be a name.
    """
    own = "".join(filter(is_identifier, session.id.removeprefix("ses_")))
    candidates = chain(
        (session.slug, f"{session.slug}-{own[-_SUFFIX:]}") if is_identifier(session.slug) else (),
        (f"session-{own[:_SHORT]}",),
        (f"session-{own[:_SHORT]}-{number}" for number in count(2)),
    )
    return next(
        name
        for name in candidates
        if is_identifier(name) and name not in taken and name not in RESERVED
    )
