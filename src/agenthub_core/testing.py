"""The ports in memory: for tests, for orchestrators without files or OpenCode, and for the demo.

Each passes the same contract as the real adapter (`tests/contract`), so what holds on these holds
there. Faults are scripted: `relay.fail_with(...)`, `store.fail_with(...)`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from attrs import define, evolve, field

from agenthub_core.errors import (
    ModelUnknown,
    RelayError,
    SessionBusy,
    SessionUnknown,
    StoreError,
    StoreUnreadable,
    StoreUnwritable,
    TurnFailed,
)
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
    TurnState,
    shown,
)
from agenthub_core.ports import Malformed, Reading
from agenthub_core.query import Query

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""Where a manual clock starts: any time will do, as long as it is always the same."""


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime = NOON) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> datetime:
        """Move on; the time it is then. Raises ValueError for a step back."""
        if by < timedelta(0):
            raise ValueError("time does not run backwards")
        self._now += by
        return self._now


class MemoryStore:
    """A `MessageStore` that lasts as long as the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Message | Malformed] = {}
        self._archive: list[Settlement] = []
        self._agents: dict[str, Agent] = {}
        self._began: datetime | None = None
        self._oriented: set[str] = set()
        self._introduced: dict[str, set[str]] = {}
        self.quarantined: dict[str, Fault] = {}
        self._faults: deque[StoreError] = deque()
        self.broken = False
        """While it is set, every call fails as a store that is out of order."""
        self.attended = False
        """What `claimed` says."""

    def fail_with(self, *errors: StoreError) -> None:
        """Raise these, one a call, before anything else is done."""
        self._faults.extend(errors)

    def put_malformed(self, key: str, fault: Fault) -> None:
        """Let something wait that is no message."""
        self._waiting[key] = Malformed(fault=fault)

    def overwrite(self, key: str, message: Message) -> None:
        """Let another message wait under the key, as a sender writes a file anew."""
        self._waiting[key] = evolve(message, verified=False)

    def withdraw(self, key: str) -> None:
        """Take a message out, as a person deletes a file."""
        del self._waiting[key]

    @property
    def archive(self) -> tuple[Settlement, ...]:
        """What was settled, in order."""
        return tuple(self._archive)

    def keys(self) -> Sequence[str]:
        self._fail(StoreUnreadable)
        with self._lock:
            return tuple(self._waiting)

    def read(self, key: str) -> Reading:
        self._fail(StoreUnreadable)
        with self._lock:
            return self._waiting.get(key)

    def put(self, message: Message) -> str:
        self._fail(StoreUnwritable)
        message = evolve(message, timestamp=_to_the_millisecond(message.timestamp))
        with self._lock:
            for key, waiting in self._waiting.items():
                if isinstance(waiting, Message) and waiting.digest == message.digest:
                    if message.verified:
                        self._waiting[key] = evolve(waiting, verified=True)
                    return key
            key = message.id
            if key in self._waiting:
                key = f"{message.id}-{message.digest[:8]}"
            self._waiting[key] = message
            return key

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self._fail(StoreUnwritable)
        with self._lock:
            for settlement in settlements:
                digests = {known.message.digest for known in self._archive}
                if settlement.message.digest not in digests:
                    self._archive.append(settlement)
                elif settlement.message.read:
                    self._mark_archived(settlement.message)
                if self._waiting.get(settlement.key) == settlement.message:
                    del self._waiting[settlement.key]

    def quarantine(self, key: str, fault: Fault) -> None:
        self._fail(StoreUnwritable)
        with self._lock:
            if isinstance(self._waiting.get(key), Malformed):
                del self._waiting[key]
                self.quarantined[key] = fault

    def settled(self, message_id: str) -> Sequence[Settlement]:
        self._fail(StoreUnreadable)
        with self._lock:
            found = [known for known in self._archive if known.message.id == message_id]
        return sorted(found, key=lambda settlement: settlement.at)

    def history(self, *queries: Query) -> Iterator[Settlement]:
        self._fail(StoreUnreadable)
        with self._lock:
            found = sorted(self._archive, key=lambda settlement: settlement.at, reverse=True)
        return (
            known
            for known in found
            if any(query.accepts(known.message, known.outcome) for query in queries)
        )

    def mark_read(self, key: str, message: Message) -> None:
        self._fail(StoreUnwritable)
        with self._lock:
            waiting = self._waiting.get(key)
            if isinstance(waiting, Message) and waiting.digest == message.digest:
                self._waiting[key] = evolve(waiting, read=True)
            self._mark_archived(message)

    def _mark_archived(self, message: Message) -> None:
        self._archive = [
            evolve(known, message=evolve(known.message, read=True))
            if known.message.digest == message.digest
            else known
            for known in self._archive
        ]

    def claimed(self) -> bool:
        self._fail(StoreUnreadable)
        return self.attended

    def began(self, now: datetime) -> datetime:
        self._fail(StoreUnwritable)
        with self._lock:
            self._began = self._began or _to_the_millisecond(now)
            return self._began

    def oriented(self) -> Collection[str]:
        self._fail(StoreUnreadable)
        with self._lock:
            return frozenset(self._oriented)

    def save_oriented(self, session_id: str, at: datetime) -> None:
        del at  # nobody asks when
        self._fail(StoreUnwritable)
        with self._lock:
            self._oriented.add(session_id)

    def introduced(self) -> Mapping[str, Collection[str]]:
        self._fail(StoreUnreadable)
        with self._lock:
            return {session: frozenset(told) for session, told in self._introduced.items()}

    def save_introduced(self, session_id: str, agent_id: str) -> None:
        self._fail(StoreUnwritable)
        with self._lock:
            self._introduced.setdefault(session_id, set()).add(agent_id)

    def begin_anew(self, now: datetime) -> None:
        self._fail(StoreUnwritable)
        with self._lock:
            self._oriented.clear()
            self._introduced.clear()
            self._began = _to_the_millisecond(now)
            for name, agent in self._agents.items():
                self._agents[name] = evolve(agent, session_id=None, slug="")

    def agents(self) -> Sequence[Agent]:
        self._fail(StoreUnreadable)
        with self._lock:
            return tuple(self._agents.values())

    def agent(self, agent_id: str) -> Agent | None:
        self._fail(StoreUnreadable)
        with self._lock:
            return self._agents.get(agent_id)

    def save_agent(self, agent: Agent) -> None:
        self._fail(StoreUnwritable)
        with self._lock:
            known = self._agents.get(agent.id, agent)
            self._agents[agent.id] = evolve(
                agent,
                role=known.role,
                capabilities=known.capabilities,
                collaborates_with=known.collaborates_with,
                program=known.program,
                named_by_session=True,
            )

    def register_agent(self, agent: Agent) -> None:
        self._fail(StoreUnwritable)
        with self._lock:
            known = self._agents.get(agent.id, evolve(agent, session_id=None, slug=""))
            self._agents[agent.id] = evolve(
                agent,
                session_id=known.session_id,
                slug=known.slug,
                directory=known.directory if known.session_id else agent.directory,
                named_by_session=known.named_by_session,
            )

    def _fail(self, kind: type[StoreUnreadable | StoreUnwritable]) -> None:
        if self._faults and (isinstance(self._faults[0], kind) or kind is StoreUnwritable):
            raise self._faults.popleft()
        if self.broken:
            raise kind("the store is out of order")


def _to_the_millisecond(when: datetime) -> datetime:
    """As the files have it."""
    return when.astimezone(UTC).replace(microsecond=when.microsecond // 1000 * 1000)


@define
class _Conversation:
    session: Session
    prompts: list[Prompt] = field(factory=list)
    state: TurnState = TurnState.NONE
    error: TurnFailed | None = None
    busy: bool = False
    turns: int = 0


class MemoryRelay:
    """A `SessionRelay` whose sessions answer at once.

    It records what each session holds. `answering=False` leaves every turn running until the test
    says how it ends.
    """

    def __init__(self, sessions: Iterable[Session] = (), *, clock: ManualClock | None = None):
        self._lock = threading.Lock()
        self._clock = clock
        self._conversations: dict[str, _Conversation] = {}
        self._faults: deque[RelayError] = deque()
        self._provided: dict[str, SessionSpec] = {}
        self.models: Collection[str] | None = None
        """Those that `provide` knows; None for any."""
        self.answering = True
        self.down: RelayError | None = None
        """Raised by every call while it is set."""
        for session in sessions:
            self.open(session)

    def open(self, session: Session) -> None:
        """A session begins, or changes."""
        conversation = self._conversations.setdefault(session.id, _Conversation(session))
        conversation.session = session

    def close(self, session_id: str) -> None:
        """A session is deleted."""
        del self._conversations[session_id]

    def fail_with(self, *errors: RelayError) -> None:
        """Let the next injections fail with these, one each; nothing is held then."""
        self._faults.extend(errors)

    def work_elsewhere(self, session_id: str, *, busy: bool) -> None:
        """Another process begins, or ends, a turn on the session."""
        self._conversations[session_id].busy = busy

    def end_turn(self, session_id: str, state: TurnState, error: TurnFailed | None = None) -> None:
        """Say what became of the newest prompt's turn."""
        conversation = self._conversations[session_id]
        conversation.state, conversation.error = state, error

    def held(self, session_id: str) -> tuple[Prompt, ...]:
        """What the session holds, in order."""
        return tuple(self._conversations[session_id].prompts)

    def turns(self, session_id: str) -> int:
        """How many turns were run in the session."""
        return self._conversations[session_id].turns

    def sessions(self, active: timedelta) -> Sequence[Session]:
        with self._lock:
            self._answer()
            sessions = [conversation.session for conversation in self._conversations.values()]
        if self._clock is not None:
            since = self._clock.now() - active
            sessions = [session for session in sessions if session.updated >= since]
        return sorted(sessions, key=lambda session: session.updated, reverse=True)

    def provide(self, spec: SessionSpec) -> Session:
        with self._lock:
            self._answer()
            if self.models is not None and spec.model not in self.models:
                raise ModelUnknown(f"there is no model {shown(spec.model)}")
            for session in reversed([each.session for each in self._conversations.values()]):
                if self._provided.get(session.id) == spec:
                    return session
            now = NOON if self._clock is None else self._clock.now()
            number = len(self._provided) + 1
            session = Session(
                id=f"ses_{spec.title}_{number}",
                title=spec.title,
                directory=spec.directory,
                created=now,
                updated=now,
            )
            self._provided[session.id] = spec
            self._conversations[session.id] = _Conversation(session)
            return session

    def inject(self, prompt: Prompt) -> Receipt:
        with self._lock:
            self._answer()
            if self._faults:
                raise self._faults.popleft()
            conversation = self._find(prompt.session_id)
            if prompt.id in {held.id for held in conversation.prompts}:
                self._resume(conversation, prompt.id)
            elif conversation.busy:
                raise SessionBusy(f"session {prompt.session_id} is at work in another process")
            elif not prompt.wakes and conversation.state is TurnState.RUNNING:
                raise SessionBusy(f"session {prompt.session_id} is at work")
            else:
                conversation.prompts.append(evolve(prompt, repeated=False))
                if prompt.wakes:
                    self._run(conversation)
            return Receipt(prompt_id=prompt.id, session_id=prompt.session_id)

    def inject_all(self, prompts: Sequence[Prompt]) -> tuple[Sequence[Receipt], RelayError | None]:
        receipts: list[Receipt] = []
        for prompt in prompts:
            try:
                receipts.append(self.inject(prompt))
            except RelayError as error:
                return receipts, error
        return receipts, None

    def turn(self, session_id: str) -> Turn:
        with self._lock:
            self._answer()
            conversation = self._find(session_id)
            newest = _newest(conversation)
            return Turn(
                session_id=session_id,
                state=conversation.state,
                prompt_id=newest,
                error=conversation.error,
            )

    def resume(self, session_id: str, prompt_id: str) -> None:
        with self._lock:
            self._answer()
            self._resume(self._find(session_id), prompt_id)

    def _resume(self, conversation: _Conversation, prompt_id: str) -> None:
        newest = _newest(conversation)
        if conversation.state is TurnState.ABANDONED and newest == prompt_id:
            self._run(conversation)

    def _run(self, conversation: _Conversation) -> None:
        conversation.turns += 1
        conversation.error = None
        conversation.state = TurnState.ANSWERED if self.answering else TurnState.RUNNING

    def _answer(self) -> None:
        if self.down is not None:
            raise self.down

    def _find(self, session_id: str) -> _Conversation:
        conversation = self._conversations.get(session_id)
        if conversation is None:
            raise SessionUnknown(f"there is no session {shown(session_id)}")
        return conversation


def _newest(conversation: _Conversation) -> str:
    """The id of the newest prompt that has a turn."""
    waking = [prompt.id for prompt in conversation.prompts if prompt.wakes]
    return waking[-1] if waking else ""
