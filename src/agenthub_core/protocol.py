"""What the broker is told (events) and what it asks for (actions): frozen facts, no behaviour.

An action is performed by whoever drives the broker, and its outcome comes back as an event:

    Inject        -> Injected | InjectFailed | NotInjected
    Orient        -> Oriented | OrientFailed
    OpenSession   -> SessionOpened | OpenFailed
    ListSessions  -> SessionsListed | ListingFailed
    FindAgents    -> AgentFound of each that there is | StoreFailed
    CheckTurn     -> TurnSeen | TurnUnseen
    ResumeTurn    -> (nothing: the next CheckTurn sees what became of it)
    Settle        -> Settled | SettleFailed
    Quarantine    -> Quarantined | StoreFailed
    SaveAgent     -> (nothing) | StoreFailed
    SaveOriented  -> (nothing) | StoreFailed
    Introduce     -> (nothing: the message arrives) | IntroduceFailed
    Notify        -> (nothing)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta

from attrs import field, frozen

from agenthub_core.errors import RelayError, StoreError
from agenthub_core.model import (
    Agent,
    Fault,
    Message,
    Prompt,
    Receipt,
    Session,
    SessionSpec,
    Settlement,
    Turn,
    Usage,
)

# ------------------------------------------------------------------------------------- events


@frozen(kw_only=True)
class MessageArrived:
    """A message waits in the store under `key`.

    `recovered`: an earlier run of the hub may have delivered it already.
    """

    key: str
    message: Message
    recovered: bool = False


@frozen(kw_only=True)
class MalformedArrived:
    """What lies in the store under `key` is no message and will never be one."""

    key: str
    fault: Fault


@frozen(kw_only=True)
class UnreadableFound:
    """What lies in the store under `key` is left where it is: a link, a directory, no rights."""

    key: str
    reason: str


@frozen(kw_only=True)
class MessageWithdrawn:
    """Somebody took the message out of the store before it was settled."""

    key: str


@frozen(kw_only=True)
class SessionsListed:
    """The relay answers, and these sessions were active since it was last asked."""

    sessions: tuple[Session, ...]


@frozen(kw_only=True)
class ListingFailed:
    """The relay does not answer."""

    error: RelayError


@frozen(kw_only=True)
class SessionsChanged:
    """Something may have been done in a session: a hint, wrong or late as hints are."""


@frozen(kw_only=True)
class SessionFreed:
    """A session that was at work, or waited for its user, may take prompts again."""

    session_id: str


@frozen(kw_only=True)
class SessionCompacted:
    """What was said in a session was replaced by a summary, which may leave anything out."""

    session_id: str


@frozen(kw_only=True)
class TurnEnded:
    """A session's model has worked, and come to an end."""

    session_id: str
    began: datetime
    ended: datetime
    usage: Usage
    caused: bool
    """Whether it was a prompt of the hub's that began it."""


@frozen(kw_only=True)
class AgentChanged:
    """Something may be new about an agent in the store: a hint."""

    name: str


@frozen(kw_only=True)
class AgentFound:
    """What the store knows of an agent."""

    agent: Agent


@frozen(kw_only=True)
class Injected:
    """The session holds the prompt: there is a receipt."""

    key: str
    recipient: str
    receipt: Receipt


@frozen(kw_only=True)
class InjectFailed:
    """There is no receipt, and why."""

    key: str
    recipient: str
    error: RelayError


@frozen(kw_only=True)
class NotInjected:
    """It was not tried, for one before it, into the same session, had failed."""

    key: str
    recipient: str


@frozen(kw_only=True)
class Oriented:
    """The session holds what it is told of itself."""

    recipient: str
    receipt: Receipt


@frozen(kw_only=True)
class OrientFailed:
    """It does not, and why."""

    recipient: str
    session_id: str
    error: RelayError


@frozen(kw_only=True)
class SessionOpened:
    """The session that the hub wanted for itself is there, as new or as it was."""

    session: Session


@frozen(kw_only=True)
class OpenFailed:
    """It is not, and why."""

    error: RelayError


@frozen(kw_only=True)
class IntroduceFailed:
    """The store could not keep what the coordinator is to be told."""

    session_id: str
    agent_id: str
    error: StoreError


@frozen(kw_only=True)
class TurnSeen:
    """What became of the newest prompt in a session."""

    turn: Turn


@frozen(kw_only=True)
class TurnUnseen:
    """The relay could not be asked about a session's turn."""

    session_id: str
    error: RelayError


@frozen(kw_only=True)
class Settled:
    """The store has settled the message."""

    key: str


@frozen(kw_only=True)
class SettleFailed:
    """The store could not settle the message; it still waits there."""

    key: str
    error: StoreError


@frozen(kw_only=True)
class Quarantined:
    """The store has put aside what was no message."""

    key: str


@frozen(kw_only=True)
class StoreRead:
    """The store could be read as a whole."""


@frozen(kw_only=True)
class StoreFailed:
    """The store could not do something; what waits there goes on waiting."""

    error: StoreError


@frozen(kw_only=True)
class Tick:
    """Time has passed."""


Event = (
    MessageArrived
    | MalformedArrived
    | UnreadableFound
    | MessageWithdrawn
    | SessionsListed
    | ListingFailed
    | SessionsChanged
    | SessionFreed
    | SessionCompacted
    | TurnEnded
    | AgentChanged
    | AgentFound
    | Injected
    | InjectFailed
    | NotInjected
    | Oriented
    | OrientFailed
    | SessionOpened
    | OpenFailed
    | IntroduceFailed
    | TurnSeen
    | TurnUnseen
    | Settled
    | SettleFailed
    | Quarantined
    | StoreRead
    | StoreFailed
    | Tick
)

# ------------------------------------------------------------------------------------ actions


@frozen(kw_only=True)
class Inject:
    """Hand the prompt to its session and see that it is held.

    Several for one session follow one another among the actions, and go there in that order.
    """

    key: str
    recipient: str
    prompt: Prompt


@frozen(kw_only=True)
class Orient:
    """Tell a session who it is, and see that it is held."""

    recipient: str
    prompt: Prompt


@frozen(kw_only=True)
class OpenSession:
    """Have the relay provide a session for the hub itself."""

    spec: SessionSpec


@frozen(kw_only=True)
class Introduce:
    """Let a message wait for the coordinator in this session, and keep that it was told.

    Without a message where one waits already.
    """

    session_id: str
    agent_id: str
    message: Message | None


@frozen(kw_only=True)
class ListSessions:
    """Ask the relay for the sessions that were active within a while."""

    active: timedelta


@frozen(kw_only=True)
class FindAgents:
    """Ask the store for agents that may have registered themselves."""

    names: tuple[str, ...]


@frozen(kw_only=True)
class CheckTurn:
    """Ask the relay what became of the newest prompt in a session."""

    session_id: str


@frozen(kw_only=True)
class ResumeTurn:
    """Let the relay run the turn that was abandoned."""

    session_id: str
    prompt_id: str


@frozen(kw_only=True)
class Settle:
    """End the message's life in the store."""

    settlement: Settlement


@frozen(kw_only=True)
class Quarantine:
    """Put aside what is no message."""

    key: str
    fault: Fault


@frozen(kw_only=True)
class SaveAgent:
    """Keep what is known of an agent beyond the hub's own life."""

    agent: Agent


@frozen(kw_only=True)
class SaveOriented:
    """Keep that the session was told who it is, beyond the hub's own life."""

    session_id: str
    at: datetime


class Severity(enum.Enum):
    """How much a notice matters to the person who runs the hub."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@frozen(kw_only=True)
class Notify:
    """Tell the person who runs the hub. `topic` is a stable name, `fields` are for machines."""

    severity: Severity
    topic: str
    text: str
    fields: Mapping[str, str | int | float] = field(factory=dict)


Action = (
    Inject
    | Orient
    | OpenSession
    | Introduce
    | ListSessions
    | FindAgents
    | CheckTurn
    | ResumeTurn
    | Settle
    | Quarantine
    | SaveAgent
    | SaveOriented
    | Notify
)
