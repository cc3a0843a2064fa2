"""Which messages somebody looks for: a value that every store understands in its own way."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from agenthub_core.model import Message, MessageType, Outcome


@frozen(kw_only=True)
class Query:
    """Accepts the messages for which all that is set here holds; set nothing, and it is all."""

    id_prefix: str = ""
    """Its id begins so."""
    agent: str | None = None
    """Wrote it or was written to, among others too."""
    sender: str | None = None
    recipient: str | None = None
    thread_id: str | None = None
    type: MessageType | None = None
    outcomes: frozenset[Outcome] | None = None
    """How its life in the store ended; a message that still waits has no outcome."""
    unread: bool = False
    """Its recipient has not marked it `read`."""
    text: str = ""
    """Stands in its content, in small letters or capitals."""
    since: datetime | None = None
    """It was written then, or later."""

    def accepts(self, message: Message, outcome: Outcome | None = None) -> bool:
        """`outcome` is None for a message that waits."""
        return (
            (
                self.agent is None
                or self.agent in (message.sender, message.recipient)
                or message.is_broadcast
            )
            and message.id.startswith(self.id_prefix)
            and self.sender in (None, message.sender)
            and self.recipient in (None, message.recipient)
            and self.thread_id in (None, message.thread_id)
            and self.type in (None, message.type)
            and (self.outcomes is None or outcome in self.outcomes)
            and not (self.unread and message.read)
            and self.text.lower() in message.content.lower()
            and (self.since is None or message.timestamp >= self.since)
        )
