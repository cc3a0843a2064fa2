"""What agenthub talks about: messages, agents, sessions, prompts, receipts and outcomes.

Frozen values, valid by construction: whoever holds one need not check it again. Times are aware,
durations are timedeltas; how any of it looks in a file is the codec's business. The names and
limits are those of agent-hub-mcp 0.3.0, which other programs on the user's machine may still speak.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from attrs import Attribute, field, frozen

from agenthub_core.errors import InvalidValue, TurnFailed

IDENTIFIER_LENGTH = 100
"""Longest identifier, in characters (agent-hub-mcp 0.3.0)."""

CONTENT_LENGTH = 10_000
"""Longest content that an agent's tool takes, in characters (agent-hub-mcp 0.3.0)."""

EVERYONE = "all"
"""The recipient that means every agent but the sender."""

HUB = "hub"
HUMAN = "human"
"""The person who runs the hub; what is written to them is held by their inbox."""
COORDINATOR = "coordinator"

RESERVED = frozenset({EVERYONE, HUB, HUMAN, COORDINATOR})
"""Names that no session is registered under: they are addresses of the hub's own."""

_IDENTIFIER = re.compile(rf"[A-Za-z0-9_-]{{1,{IDENTIFIER_LENGTH}}}")
_SHOWN = 60  # characters of a faulty value that an error shows: enough to recognise it


class MessageType(enum.Enum):
    """What a message is for."""

    TASK = "task"
    QUESTION = "question"
    CONTEXT = "context"
    COMPLETION = "completion"
    ERROR = "error"


class Priority(enum.Enum):
    """How soon a message goes out; members stand in order of delivery."""

    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 goes first."""
        return _RANKS[self]


_RANKS = {priority: rank for rank, priority in enumerate(Priority)}


class Outcome(enum.Enum):
    """How a message's life in the spool ended. Each but DELIVERED and READ makes a dead letter."""

    DELIVERED = "delivered"
    """Every recipient holds it: its session, or the person's inbox."""
    READ = "read"
    """Its recipient had fetched it and marked it `read` before the hub delivered it."""
    EXPIRED = "expired"
    """Its time to live ended before every recipient held it."""
    REJECTED = "rejected"
    """The relay will never accept it, or it is not verified where only verified ones are taken."""
    RATE_LIMITED = "rate-limited"
    """Its sender wrote too often."""

    @property
    def is_dead_letter(self) -> bool:
        return self not in (Outcome.DELIVERED, Outcome.READ)


def shown(value: object) -> str:
    """A faulty value as an error shows it: one line, plain characters, not too long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def is_identifier(value: object) -> bool:
    """Whether a value may name an agent, a thread or a message, and so a file."""
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None


def fingerprint(*parts: str) -> str:
    """The SHA-256 of the parts as 64 hex digits; no two different lists of parts collide."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()


_Validator = Callable[[Any, "Attribute[Any]", Any], None]


def _rule(check: Callable[[Any], bool], expected: str) -> _Validator:
    def validate(_: object, attribute: Attribute[Any], value: Any) -> None:
        if not check(value):
            raise InvalidValue(attribute.name, shown(value), expected)

    return validate


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
        return False
    return True


_identifier = _rule(is_identifier, f"1 to {IDENTIFIER_LENGTH} characters of A-Z a-z 0-9 _ -")
_text = _rule(_is_text, "text that is not blank and is valid Unicode")
_filled = _rule(lambda value: isinstance(value, str) and value != "", "a string that is not empty")
_aware = _rule(
    lambda value: isinstance(value, datetime) and value.tzinfo is not None,
    "a time with a time zone",
)


def _frozen_mapping(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value))


@frozen(kw_only=True)
class Message:
    """What one agent writes to another."""

    id: str = field(validator=_identifier)
    sender: str = field(validator=_identifier)
    recipient: str = field(validator=_identifier)
    """An agent's id, or `EVERYONE`."""
    type: MessageType = field(validator=_rule(lambda v: isinstance(v, MessageType), "a type"))
    content: str = field(validator=_text)
    priority: Priority = field(
        default=Priority.NORMAL, validator=_rule(lambda v: isinstance(v, Priority), "a priority")
    )
    thread_id: str = field(validator=_identifier)
    timestamp: datetime = field(validator=_aware)
    """When it was written."""
    read: bool = field(default=False, validator=_rule(lambda v: isinstance(v, bool), "a boolean"))
    """Its recipient has fetched it without the hub, and said so."""
    verified: bool = field(
        default=False, validator=_rule(lambda v: isinstance(v, bool), "a boolean"), eq=False
    )
    """The hub, and not who wrote it, says who its sender is."""
    extra: Mapping[str, Any] = field(factory=dict, converter=_frozen_mapping, hash=False)
    """What else its sender wrote: keys that the hub does not know, with JSON values."""

    @property
    def is_broadcast(self) -> bool:
        return self.recipient == EVERYONE

    @property
    def digest(self) -> str:
        """Identifies what was said, 64 hex digits: the same whether or not it was `read`
        or is `verified`.

        An `id` alone does not: a script that writes `hello.json` twice has said two things.
        """
        return fingerprint(
            self.id,
            self.sender,
            self.recipient,
            self.type.value,
            self.content,
            self.thread_id,
            self.timestamp.isoformat(),
        )


@frozen(kw_only=True)
class Usage:
    """What a session's model has read and written, in tokens, and what that costs in US dollars.

    `input` is what was not read from the provider's cache; `cost` is 0 where it has no price.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: float = 0.0


@frozen(kw_only=True)
class Session:
    """A conversation in OpenCode. Subagents' and archived sessions are never shown to the core."""

    id: str = field(validator=_filled)
    slug: str = ""
    title: str = ""
    directory: str = ""
    created: datetime = field(validator=_aware)
    updated: datetime = field(validator=_aware)
    usage: Usage = field(factory=Usage)


@frozen(kw_only=True)
class SessionSpec:
    """A session that the hub wants for itself."""

    title: str = field(validator=_filled)
    directory: str = field(validator=_filled)
    model: str = field(validator=_filled)
    """The provider's name, a slash, and the provider's name of the model."""
    tools: str = field(validator=_filled)
    """All tools that it may use, and unasked; one name, in which * is anything."""


@frozen(kw_only=True)
class Agent:
    """An identity that can send and receive. It keeps its id when its session is gone.

    One without a session cannot be woken: it reads its messages when it asks for them.
    """

    id: str = field(validator=_identifier)
    session_id: str | None = None
    directory: str = ""
    slug: str = ""
    last_seen: datetime = field(validator=_aware)
    role: str = ""
    """What it says that it does, as all that follows."""
    capabilities: tuple[str, ...] = ()
    collaborates_with: tuple[str, ...] = ()
    program: str = ""
    """What it works in, as that says of itself; empty where nobody has told."""
    named_by_session: bool = field(default=False, eq=False)
    """It has, or had, a session, which gave it its name: in another it would be somebody else."""

    @property
    def is_known_by_directory(self) -> bool:
        """Whether it is reached through the latest session in its directory.

        It has registered itself, is no session's, and works in OpenCode as far as is known: who
        works in another program reads its mail by itself.
        """
        return (
            self.session_id is None
            and not self.named_by_session
            and bool(self.role and self.directory)
            and self.program in ("", "opencode")
        )


@frozen(kw_only=True)
class Prompt:
    """A text for one session.

    `id` derives from what was said and to whom, 64 hex digits, so that any repetition is
    recognised. `written` is the message's time, and so the same at each repetition, too. `repeated`
    says that the session may hold it already: the relay then asks for the receipt first. One that
    does not wake is read by the session's model with its next turn.
    """

    id: str = field(validator=_filled)
    session_id: str = field(validator=_filled)
    text: str = field(validator=_text)
    written: datetime = field(validator=_aware)
    repeated: bool = False
    wakes: bool = True


@frozen(kw_only=True)
class Receipt:
    """Proof that the session holds the prompt."""

    prompt_id: str
    session_id: str


class TurnState(enum.Enum):
    """What became of the newest prompt that the hub put into a session."""

    NONE = "none"
    """There is no such prompt, or something newer was said by others."""
    RUNNING = "running"
    """A turn is at work."""
    ANSWERED = "answered"
    """The model has spoken, or its user stopped it."""
    FAILED = "failed"
    """The turn ended in an error; `error` says which."""
    ABANDONED = "abandoned"
    """Nobody is at work on it and nobody answered: the process that ran the turn was killed."""


@frozen(kw_only=True)
class Turn:
    """The state of a session's newest prompt from the hub. `prompt_id` is the relay's own name."""

    session_id: str
    state: TurnState
    prompt_id: str = ""
    error: TurnFailed | None = None


@frozen(kw_only=True)
class Delivery:
    """What became of a message for one recipient. Without `held_at` the recipient never held it."""

    recipient: str
    session_id: str | None = None
    held_at: datetime | None = None
    attempts: int = 0
    reason: str = ""
    """Why it is not held; empty when it is."""


@frozen(kw_only=True)
class Settlement:
    """The end of a message's life in the spool: what is kept of it in the archive."""

    key: str
    message: Message
    outcome: Outcome
    at: datetime = field(validator=_aware)
    deliveries: tuple[Delivery, ...] = ()
    reason: str = ""


@frozen(kw_only=True)
class Fault:
    """What is wrong with a file that is no message: the field, what was there, and the rule."""

    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}, expected {self.expected}"
