"""Drives the broker through the ports.

One thread calls `run` (or `step`) and owns the broker with all its state. Everybody else only puts
something into the inbox: the watcher a hint, a worker the outcome of what it did. So nothing here
needs a lock. Where the work is done, and on how many threads, is decided by the `Executor` that the
hub is given; with `Inline` all of it happens at once, on the caller's thread, as tests like it.

The hub leaves every decision to the broker, and every word about the outside to the adapters.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, Protocol

from attrs import frozen

from agenthub_core.broker import Broker
from agenthub_core.errors import RelayError, StoreError
from agenthub_core.model import Message, Settlement
from agenthub_core.ports import (
    Clock,
    Malformed,
    MessageStore,
    Reading,
    SessionRelay,
    Unfinished,
    Unreadable,
)
from agenthub_core.protocol import (
    Action,
    AgentChanged,
    AgentFound,
    CheckTurn,
    Event,
    FindAgents,
    Inject,
    Injected,
    InjectFailed,
    Introduce,
    IntroduceFailed,
    ListingFailed,
    ListSessions,
    MalformedArrived,
    MessageArrived,
    MessageWithdrawn,
    NotInjected,
    OpenFailed,
    OpenSession,
    Orient,
    Oriented,
    OrientFailed,
    Quarantine,
    Quarantined,
    ResumeTurn,
    SaveAgent,
    SaveOriented,
    SessionCompacted,
    SessionFreed,
    SessionOpened,
    SessionsChanged,
    SessionsListed,
    Settle,
    Settled,
    SettleFailed,
    StoreFailed,
    StoreRead,
    Tick,
    TurnEnded,
    TurnSeen,
    TurnUnseen,
    UnreadableFound,
)

Task = Callable[[], None]
Work = Callable[[], tuple[Event, ...]]
Observer = Callable[[Event, Sequence[Action]], None]
"""Told, on the hub's thread, of each event and the actions it led to. It must not raise."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)


def _session_injected(action: Action) -> str | None:
    return action.prompt.session_id if isinstance(action, Inject) else None


class Executor(Protocol):
    """Runs tasks: each exactly once, in any order, on any thread, soon."""

    def submit(self, task: Task) -> None: ...


class Inline:
    """Runs each task at once, on the caller's thread."""

    def submit(self, task: Task) -> None:
        task()


@frozen(kw_only=True)
class Rhythm:
    """When the hub looks by itself."""

    rescan: timedelta = timedelta(seconds=5)
    """Between two readings of the whole store: what a missed hint costs at most."""
    unfinished: timedelta = timedelta(milliseconds=500)
    """The same while something half-written lies there."""
    drain: timedelta = timedelta(seconds=2)
    """How long a stop waits for what is under way; a daemon has 5 s to stop, all in all."""
    nap: timedelta = timedelta(seconds=1)
    """Longest wait: a signal that comes in the instant before it does not end it."""


@frozen
class _Hint:
    key: str
    recovered: bool = False


@frozen
class _Outcome:
    """A task has ended, with something to tell. `settled`: it was the settling of a batch."""

    events: tuple[Event, ...]
    settled: bool


@frozen
class _Crash:
    """A task has raised what it never should: a bug, which ends the hub."""

    error: BaseException


class _Look:
    """A hint that something was done in a session."""


Told = SessionFreed | SessionCompacted | TurnEnded
"""What the processes in which sessions live tell by themselves."""


@frozen
class _LookUp:
    """A hint that something is new about an agent."""

    name: str


class _Wake:
    """Something to look up from the inbox for."""


_Item = _Hint | _Look | _LookUp | Told | _Outcome | _Crash | _Wake


class Hub:
    """A running agenthub: `run` it in one thread; all else may be called from any."""

    def __init__(
        self,
        *,
        broker: Broker,
        store: MessageStore,
        relay: SessionRelay,
        clock: Clock,
        executor: Executor | None = None,
        writer: Executor | None = None,
        observers: Sequence[Observer] = (),
        rhythm: Rhythm | None = None,
    ) -> None:
        """`executor` talks to the relay, on several threads; `writer` to the store, on one."""
        self._broker = broker
        self._store = store
        self._relay = relay
        self._clock = clock
        self._executor = executor or Inline()
        self._writer = writer or Inline()
        self._observers = tuple(observers)
        self._rhythm = rhythm or Rhythm()
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._to_settle: list[Settlement] = []
        self._hinted: set[str] = set()
        self._looking = False
        self._reported: set[str] = set()
        self._settling = False
        self._tasks = 0
        self._next_scan = _BEGINNING
        self._scanned = False
        self._stopping = False
        self._asks: dict[type[Action], Callable[[Any], tuple[Event, ...]]] = {
            Orient: self._orient,
            OpenSession: self._open,
            ListSessions: self._list,
            CheckTurn: self._check,
            ResumeTurn: self._resume,
        }
        """What the relay is asked for, on the executor's threads."""
        self._keeps: dict[type[Action], Callable[[Any], tuple[Event, ...]]] = {
            FindAgents: self._find,
            Quarantine: self._quarantine,
            SaveAgent: self._save,
            SaveOriented: self._save_oriented,
            Introduce: self._introduce,
        }
        """What the store is asked for, or to keep, on the writer's thread, one after the other.

        Settlements go there in batches."""

    # ------------------------------------------------------------------------- from any thread

    def hint(self, key: str) -> None:
        """Something may have changed under this key. Hints may be wrong, late, or missing."""
        if key not in self._hinted:  # else it will yet be read, and what changed with it
            self._hinted.add(key)
            self._inbox.put(_Hint(key))

    def look(self) -> None:
        """Something may have been done in a session; as with `hint`, or may not."""
        if not self._looking:
            self._looking = True
            self._inbox.put(_Look())

    def look_up(self, name: str) -> None:
        """An agent may have registered itself, or anew; as with `hint`, or may not."""
        self._inbox.put(_LookUp(name))

    def tell(self, told: Told) -> None:
        """Something has happened in a session."""
        self._inbox.put(told)

    def stop(self) -> None:
        """Let `run` return soon: what is under way is finished, or left waiting in the store.

        May be called from a signal handler.
        """
        self._stopping = True
        self._inbox.put(_Wake())

    # ------------------------------------------------------------------------ the hub's thread

    def run(self) -> None:
        """Work until `stop` is called. Raises what a task raised that is no `AgentHubError`."""
        while True:
            self.step()
            if self._stopping:
                break
            deadline = self._broker.next_deadline()
            until = self._next_scan if deadline is None else min(deadline, self._next_scan)
            if (item := self._await(until)) is not None:
                self._take(item)
        self._drain()

    def step(self) -> None:
        """Do all that is to be done now, and return."""
        busy = True
        while busy and not self._stopping:
            busy = self._keep_time()
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                continue
            self._take(item)
            busy = True

    def _keep_time(self) -> bool:
        """Do what the time asks for; whether that was anything."""
        now = self._clock.now()
        deadline = self._broker.next_deadline()
        if deadline is not None and deadline <= now:
            self._tell(Tick())
        elif self._next_scan <= now:
            self._scan(now)
        else:
            return False
        return True

    def _await(self, until: datetime) -> _Item | None:
        wait = min(until - self._clock.now(), self._rhythm.nap)
        try:
            return self._inbox.get(timeout=max(wait.total_seconds(), 0))
        except queue.Empty:
            return None

    def _drain(self) -> None:
        """Let what is under way come to its end, and begin nothing new but its settling."""
        deadline = self._clock.now() + self._rhythm.drain
        while self._tasks and self._clock.now() < deadline:
            item = self._await(deadline)
            if isinstance(item, _Outcome | _Crash):
                self._take(item)

    def _take(self, item: _Item) -> None:
        match item:
            case _Hint(key, recovered):
                self._hinted.discard(key)  # before the reading: what comes later is news
                self._read(key, recovered=recovered)
            case _Look():
                self._looking = False
                self._tell(SessionsChanged())
            case _LookUp(name):
                self._tell(AgentChanged(name=name))
            case SessionFreed() | SessionCompacted() | TurnEnded():
                self._tell(item)
            case _Outcome(events, settled):
                self._tasks -= 1
                for event in events:
                    self._tell(event)
                if settled:
                    self._settling = False
                    self._settle()
            case _Crash(error):
                raise error
            case _:  # a wake
                pass

    def _tell(self, event: Event) -> None:
        actions = self._broker.handle(event, self._clock.now())
        for observe in self._observers:
            observe(event, actions)
        for session_id, together in groupby(actions, _session_injected):
            if session_id is None:
                for action in together:
                    self._perform(action)
            elif not self._stopping:  # nothing new is begun: what waits is found again
                batch = [action for action in together if isinstance(action, Inject)]
                self._start(self._executor, partial(self._inject, batch))
        if isinstance(event, Settled):
            # whoever wrote under this key since it was read has said something new
            self._inbox.put(_Hint(event.key, recovered=True))

    # ------------------------------------------------------------------------------- reading

    def _scan(self, now: datetime) -> None:
        """Read all that waits: what hints told wrongly, or not at all, comes right here."""
        self._next_scan = now + self._rhythm.rescan
        try:
            keys = set(self._store.keys())
        except StoreError as error:
            self._tell(StoreFailed(error=error))
            return
        self._reported &= keys
        for key in sorted(self._broker.pending - keys):
            self._tell(MessageWithdrawn(key=key))
        readable = [self._read(key) for key in sorted(keys - self._broker.pending)]
        if all(readable):
            self._scanned = True
            self._tell(StoreRead())

    def _read(self, key: str, *, recovered: bool = False) -> bool:
        """Tell the broker what lies under a key; whether the store could be asked.

        Until all that lay there at the start was read, anything may stem from an earlier run.
        """
        recovered = recovered or not self._scanned
        try:
            reading: Reading = self._store.read(key)
        except StoreError as error:
            self._tell(StoreFailed(error=error))
            return False
        match reading:
            case Message() as message:
                self._tell(MessageArrived(key=key, message=message, recovered=recovered))
            case Malformed(fault=fault):
                self._tell(MalformedArrived(key=key, fault=fault))
            case Unreadable(reason=reason):
                if key not in self._reported:
                    self._reported.add(key)
                    self._tell(UnreadableFound(key=key, reason=reason))
            case Unfinished():
                soon = self._clock.now() + self._rhythm.unfinished
                self._next_scan = min(self._next_scan, soon)
            case _:  # nothing lies there any more
                pass
        return True

    # ---------------------------------------------------------------------------- performing

    def _perform(self, action: Action) -> None:
        kind = type(action)
        if kind in self._asks:
            if not self._stopping:
                self._start(self._executor, partial(self._asks[kind], action))
        elif kind in self._keeps:
            self._start(self._writer, partial(self._keeps[kind], action))
        elif isinstance(action, Settle):
            self._to_settle.append(action.settlement)
            self._settle()
        # else a notice, for the observers

    def _start(self, executor: Executor, work: Work, *, settling: bool = False) -> None:
        def task() -> None:
            try:
                outcome: _Item = _Outcome(work(), settling)
            except BaseException as error:  # noqa: BLE001  # not handled: raised where it is seen
                outcome = _Crash(error)
            self._inbox.put(outcome)

        self._tasks += 1
        executor.submit(task)

    def _settle(self) -> None:
        """Settle what there is in one go; while that is under way the next lot gathers."""
        if self._settling or not self._to_settle:
            return
        self._settling = True
        batch, self._to_settle = self._to_settle, []
        self._start(self._writer, lambda: self._settle_batch(batch), settling=True)

    # ------------------------------------------------- tasks, on whatever thread the executor has

    def _inject(self, batch: Sequence[Inject]) -> tuple[Event, ...]:
        receipts, error = self._relay.inject_all([action.prompt for action in batch])
        events: list[Event] = [
            Injected(key=action.key, recipient=action.recipient, receipt=receipt)
            for action, receipt in zip(batch, receipts, strict=error is None)
        ]
        if error is not None:
            failed, *others = batch[len(receipts) :]
            events.append(InjectFailed(key=failed.key, recipient=failed.recipient, error=error))
            events += [NotInjected(key=each.key, recipient=each.recipient) for each in others]
        return tuple(events)

    def _orient(self, action: Orient) -> tuple[Event, ...]:
        recipient, prompt = action.recipient, action.prompt
        try:
            receipt = self._relay.inject(prompt)
        except RelayError as error:
            failed = OrientFailed(recipient=recipient, session_id=prompt.session_id, error=error)
            return (failed,)
        return (Oriented(recipient=recipient, receipt=receipt),)

    def _open(self, action: OpenSession) -> tuple[Event, ...]:
        try:
            return (SessionOpened(session=self._relay.provide(action.spec)),)
        except RelayError as error:
            return (OpenFailed(error=error),)

    def _list(self, action: ListSessions) -> tuple[Event, ...]:
        try:
            return (SessionsListed(sessions=tuple(self._relay.sessions(action.active))),)
        except RelayError as error:
            return (ListingFailed(error=error),)

    def _check(self, action: CheckTurn) -> tuple[Event, ...]:
        try:
            return (TurnSeen(turn=self._relay.turn(action.session_id)),)
        except RelayError as error:
            return (TurnUnseen(session_id=action.session_id, error=error),)

    def _resume(self, action: ResumeTurn) -> tuple[Event, ...]:
        try:
            self._relay.resume(action.session_id, action.prompt_id)
        except RelayError as error:
            return (TurnUnseen(session_id=action.session_id, error=error),)
        return ()

    def _settle_batch(self, batch: Sequence[Settlement]) -> tuple[Event, ...]:
        try:
            self._store.settle(batch)
        except StoreError as error:
            return tuple(SettleFailed(key=settlement.key, error=error) for settlement in batch)
        return tuple(Settled(key=settlement.key) for settlement in batch)

    def _find(self, action: FindAgents) -> tuple[Event, ...]:
        try:
            known = [self._store.agent(name) for name in action.names]
        except StoreError as error:
            return (StoreFailed(error=error),)
        return tuple(AgentFound(agent=agent) for agent in known if agent is not None)

    def _quarantine(self, action: Quarantine) -> tuple[Event, ...]:
        try:
            self._store.quarantine(action.key, action.fault)
        except StoreError as error:
            return (StoreFailed(error=error),)
        return (Quarantined(key=action.key),)

    def _save(self, action: SaveAgent) -> tuple[Event, ...]:
        try:
            self._store.save_agent(action.agent)
        except StoreError as error:
            return (StoreFailed(error=error),)
        return ()

    def _introduce(self, action: Introduce) -> tuple[Event, ...]:
        session_id, agent_id = action.session_id, action.agent_id
        try:
            if action.message is not None:
                self.hint(self._store.put(action.message))
            self._store.save_introduced(session_id, agent_id)
        except StoreError as error:
            return (IntroduceFailed(session_id=session_id, agent_id=agent_id, error=error),)
        return ()

    def _save_oriented(self, action: SaveOriented) -> tuple[Event, ...]:
        try:
            self._store.save_oriented(action.session_id, action.at)
        except StoreError as error:
            return (StoreFailed(error=error),)
        return ()
