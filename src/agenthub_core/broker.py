"""The state machine: what happens, and what is to be done about it.

`handle(event, now)` returns actions and performs nothing; their outcomes are further events. So the
broker can be driven by `agenthub_core.hub`, by an event loop, or by a test, and needs no lock:
whoever drives it calls from one thread. Everything that changes the hub's state lives here and in
the eight books that it keeps: `lifecycle` (what became of a message), `channels` (who goes next),
`sessions` (which there are, if the relay answers) and `roster` (whose they are), `senders` (who
wrote how often), `turns` (who owes an answer), `orientations` (who is yet to be told its name) and
`coordinator` (who introduces them).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from agenthub_core import notices, prompts
from agenthub_core.agenda import Agenda
from agenthub_core.channels import Channel, Channels
from agenthub_core.coordinator import Coordinator
from agenthub_core.errors import (
    PromptInvalid,
    RelayError,
    RelayRefused,
    RelayUnreachable,
    SessionBusy,
    SessionUnknown,
    StoreError,
    StoreUnreadable,
    StoreUnwritable,
)
from agenthub_core.lifecycle import Course, Pending, Stage, Step
from agenthub_core.model import COORDINATOR, HUMAN, Agent, Outcome, Session, Settlement
from agenthub_core.orientations import Orientations
from agenthub_core.policies import Policy
from agenthub_core.protocol import (
    Action,
    AgentChanged,
    AgentFound,
    CheckTurn,
    Event,
    Inject,
    Injected,
    InjectFailed,
    IntroduceFailed,
    ListingFailed,
    MalformedArrived,
    MessageArrived,
    MessageWithdrawn,
    NotInjected,
    OpenFailed,
    Oriented,
    OrientFailed,
    Quarantine,
    Quarantined,
    ResumeTurn,
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
from agenthub_core.roster import Roster
from agenthub_core.routing import recipients
from agenthub_core.senders import TRANSIT, Senders
from agenthub_core.sessions import Sessions
from agenthub_core.turns import Next, Turns

_BEGINNING = datetime.min.replace(tzinfo=UTC)


class _Due(enum.Enum):
    LISTING = "listing"
    EXPIRY = "expiry"
    CHANNEL = "channel"
    RELAY = "relay"
    TURN = "turn"
    SETTLING = "settling"
    ORIENTATION = "orientation"
    COORDINATOR = "coordinator"


class Broker:
    """Brings every message to its recipients, once, and settles it.

    `agents` are those of earlier runs, `written` who wrote when before this one, as far as the rate
    limit looks back; sessions from before `began` that no agent has are left alone, `oriented`
    were told who they are, and the coordinator's sessions of the `introduced`; `spool` names, to
    the agents, the place where they may write messages themselves.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        agents: Iterable[Agent] = (),
        written: Iterable[tuple[str, datetime]] = (),
        began: datetime = _BEGINNING,
        oriented: Iterable[str] = (),
        introduced: Mapping[str, Collection[str]] | None = None,
        spool: str = "~/.agent-hub/messages",
    ) -> None:
        self._policy = policy or Policy()
        self._spool = spool
        self._roster = Roster(agents)
        self._senders = Senders(self._policy.rate_limit, written)
        self._turns = Turns(self._policy.backoff.quick)
        self._channels = Channels()
        self._pending: dict[str, Pending] = {}
        self._unrouted: set[str] = set()
        self._agenda: Agenda[tuple[_Due, str]] = Agenda()
        self._arrivals = 0
        self._under_way: set[str] = set()
        self._resting_until = _BEGINNING
        self._malformed: set[str] = set()
        self._store_failing: set[type[StoreError]] = set()
        self._actions: list[Action] = []
        self._orientations = Orientations(
            self._policy,
            done=oriented,
            roster=self._roster,
            channels=self._channels,
            appoint=lambda session_id, when: self._agenda.set((_Due.ORIENTATION, session_id), when),
            act=self._act,
            gone=self._gone,
        )
        self._coordinator = Coordinator(
            self._policy,
            introduced=introduced or {},
            roster=self._roster,
            channels=self._channels,
            waits=lambda name: any(each.message.id == name for each in self._pending.values()),
            appoint=lambda when: self._agenda.set((_Due.COORDINATOR, ""), when),
            act=self._act,
        )
        self._sessions = Sessions(
            self._policy,
            began=began,
            roster=self._roster,
            channels=self._channels,
            orientations=self._orientations,
            coordinator=self._coordinator,
            appoint=lambda when: self._agenda.set((_Due.LISTING, ""), when),
            act=self._act,
            came_up=self._came_up,
        )
        self._handlers: dict[type, Callable[[Any, datetime], None]] = {
            MessageArrived: self._message_arrived,
            MalformedArrived: self._malformed_arrived,
            UnreadableFound: self._unreadable_found,
            MessageWithdrawn: self._message_withdrawn,
            SessionsListed: self._sessions_listed,
            ListingFailed: self._sessions.failed,
            SessionsChanged: self._sessions.changed,
            SessionFreed: self._session_freed,
            SessionCompacted: self._session_compacted,
            TurnEnded: self._turn_ended,
            AgentChanged: self._sessions.told_of,
            AgentFound: self._sessions.found,
            Injected: self._injected,
            InjectFailed: self._inject_failed,
            NotInjected: self._not_injected,
            Oriented: self._orientations.oriented,
            OrientFailed: self._orientations.failed,
            SessionOpened: self._coordinator.opened,
            OpenFailed: self._coordinator.failed,
            IntroduceFailed: self._introduce_failed,
            TurnSeen: self._turn_seen,
            TurnUnseen: self._turn_unseen,
            Settled: self._settled,
            SettleFailed: self._settle_failed,
            Quarantined: self._quarantined,
            StoreRead: self._store_read,
            StoreFailed: self._store_failed,
            Tick: self._tick,
        }
        for agent in self._roster:
            if agent.id != COORDINATOR:  # whose session is yet to be looked at
                self._channels.connect(agent.id, agent.session_id)
        self._agenda.set((_Due.LISTING, ""), _BEGINNING)

    def handle(self, event: Event, now: datetime) -> tuple[Action, ...]:
        """What is to be done about an event, in this order. `now` must not run backwards."""
        self._handlers[type(event)](event, now)
        self._dispatch(now)
        actions, self._actions = tuple(self._actions), []
        return actions

    def _act(self, action: Action) -> None:
        self._actions.append(action)

    def next_deadline(self) -> datetime | None:
        """When the broker wants a `Tick`, if nothing happens before. It may lie in the past."""
        return self._agenda.next()

    @property
    def pending(self) -> frozenset[str]:
        """The keys of the messages that are not settled."""
        return frozenset(self._pending)

    def knows(self, key: str) -> bool:
        """Whether a message with this key is not settled."""
        return key in self._pending

    @property
    def agents(self) -> tuple[Agent, ...]:
        return tuple(self._roster)

    # ------------------------------------------------------------------------------- messages

    def _message_arrived(self, event: MessageArrived, now: datetime) -> None:
        message = event.message
        known = self._pending.get(event.key)
        recovered = event.recovered
        if known is not None:
            if message == known.message or not known.untouched:
                return  # what was rewritten too late is found again once this one is settled
            recovered = recovered or known.tried
            self._forget(known)
        self._arrivals += 1
        pending = Pending(
            key=event.key,
            message=message,
            arrival=self._arrivals,
            deadline=min(message.timestamp, now) + self._policy.message_ttl,
            recovered=recovered,
        )
        self._pending[event.key] = pending
        self._actions.append(notices.message_arrived(message))
        if message.read:
            self._settle(pending, Outcome.READ, now)
            return
        if self._policy.require_verified and not message.verified:
            self._settle(pending, Outcome.REJECTED, now, notices.unverified(message.sender))
            return
        written = min(message.timestamp, now)
        if not event.recovered and now - written > TRANSIT:
            written = now  # nobody gets round the limit by writing into the past
        if known is None and (wait := self._senders.admit(message.sender, written)):
            self._settle(pending, Outcome.RATE_LIMITED, now, notices.rate_limited(message, wait))
            return
        if message.recipient == HUMAN:
            pending.courses[HUMAN] = Course(HUMAN, Stage.HELD, held_at=now)
            self._actions.append(notices.message_for_human(message))
            self._settle(pending, Outcome.DELIVERED, now)
            return
        self._agenda.set((_Due.EXPIRY, event.key), pending.deadline)
        self._route(pending, now)
        if pending.deadline <= now:
            self._expire(pending, now)

    def _route(self, pending: Pending, now: datetime) -> None:
        message = pending.message
        # before the first listing nobody knows yet who is here
        names = (
            recipients(message, self._roster, now=now, active=self._policy.agent_stale)
            if self._sessions.relay_up or not message.is_broadcast
            else ()
        )
        names = tuple(name for name in names if not self._is_itself(message.sender, name))
        if not names:
            self._unrouted.add(pending.key)
            return
        self._unrouted.discard(pending.key)
        for recipient in names:
            pending.courses[recipient] = Course(recipient)
            self._channels.put(recipient, pending.place)
            if not self._roster.has_session(recipient):
                self._sessions.miss(recipient, now)
            if self._roster.get(recipient) is None:
                self._actions.append(notices.recipient_unknown(message, recipient))

    def _is_itself(self, sender: str, recipient: str) -> bool:
        """Whether both are one session, under two names: nobody is woken by their own words."""
        session_id = self._channels.session_of(sender)
        return (
            sender != recipient
            and session_id is not None
            and session_id == self._channels.session_of(recipient)
        )

    def _message_withdrawn(self, event: MessageWithdrawn, now: datetime) -> None:
        pending = self._pending.get(event.key)
        if pending is None or pending.settlement:
            return
        if any(course.stage is Stage.INJECTING for course in pending.courses.values()):
            return  # its end is near, and tells more
        self._forget(pending)
        self._actions.append(notices.message_withdrawn(pending.message))

    def _malformed_arrived(self, event: MalformedArrived, now: datetime) -> None:
        self._actions.append(Quarantine(key=event.key, fault=event.fault))
        if event.key in self._malformed:
            return
        self._malformed.add(event.key)
        self._actions.append(notices.message_malformed(event.key, event.fault))

    def _unreadable_found(self, event: UnreadableFound, now: datetime) -> None:
        self._actions.append(notices.message_unreadable(event.key, event.reason))

    def _expire(self, pending: Pending, now: datetime) -> None:
        for course in pending.courses.values():
            if course.stage is Stage.WAITING:
                self._give_up(pending, course, course.reason or self._why_waiting(course.recipient))
        if not pending.courses:
            self._settle(pending, Outcome.EXPIRED, now, "no agent was here to receive it")
        else:
            self._settle_if_ended(pending, now)

    def _why_waiting(self, recipient: str) -> str:
        agent = self._roster.get(recipient)
        if agent is None:
            return f"no session of {recipient} appeared"
        if self._channels[recipient].session_id is None:
            return f"the agent {recipient} has no session"
        if not self._sessions.relay_up:
            return "the relay did not answer"
        return "other messages went before it"

    def _give_up(self, pending: Pending, course: Course, reason: str) -> None:
        course.step(Step.GIVE_UP)
        course.reason = reason
        self._channels.drop(course.recipient, pending.key)

    def _forget(self, pending: Pending) -> None:
        for course in pending.courses.values():
            self._channels.drop(course.recipient, pending.key)
        self._unrouted.discard(pending.key)
        self._agenda.cancel((_Due.EXPIRY, pending.key))
        del self._pending[pending.key]

    # ------------------------------------------------------------------------------- settling

    def _settle_if_ended(self, pending: Pending, now: datetime) -> None:
        end = pending.end()
        if end is not None:
            outcome, reason = end
            self._settle(pending, outcome, now, reason)

    def _settle(self, pending: Pending, outcome: Outcome, now: datetime, reason: str = "") -> None:
        self._unrouted.discard(pending.key)
        self._agenda.cancel((_Due.EXPIRY, pending.key))
        pending.settlement = Settlement(
            key=pending.key,
            message=pending.message,
            outcome=outcome,
            at=now,
            deliveries=tuple(course.result() for course in pending.courses.values()),
            reason=reason,
        )
        self._actions.append(Settle(settlement=pending.settlement))
        if outcome.is_dead_letter:
            self._actions.append(notices.message_dead(pending.message, outcome, reason))

    def _settled(self, event: Settled, now: datetime) -> None:
        self._agenda.cancel((_Due.SETTLING, event.key))
        self._pending.pop(event.key, None)
        self._store_recovered(StoreUnwritable)

    def _settle_failed(self, event: SettleFailed, now: datetime) -> None:
        self._agenda.set((_Due.SETTLING, event.key), now + self._policy.settle_retry)
        self._store_trouble(event.error)

    def _quarantined(self, event: Quarantined, now: datetime) -> None:
        self._malformed.discard(event.key)
        self._store_recovered(StoreUnwritable)

    def _store_read(self, event: StoreRead, now: datetime) -> None:
        self._store_recovered(StoreUnreadable)

    def _store_failed(self, event: StoreFailed, now: datetime) -> None:
        self._store_trouble(event.error)

    def _store_trouble(self, error: StoreError) -> None:
        if type(error) in self._store_failing:
            return
        self._store_failing.add(type(error))
        self._actions.append(notices.store_failed(error))

    def _store_recovered(self, failing: type[StoreError]) -> None:
        if failing in self._store_failing:
            self._store_failing.discard(failing)
            self._actions.append(notices.store_recovered())

    # ------------------------------------------------------------------------------- delivery

    def _dispatch(self, now: datetime) -> None:
        if now < self._resting_until:
            return
        while self._sessions.relay_up and len(self._under_way) < self._policy.workers:
            taken = self._channels.take(now, self._policy.batch)
            if taken is None:
                return
            channel, keys = taken
            self._under_way.add(channel.recipient)
            for key in keys:
                self._inject(self._pending[key], channel)

    def _inject(self, pending: Pending, channel: Channel) -> None:
        course = pending.courses[channel.recipient]
        course.step(Step.DISPATCH)
        course.session_id = channel.session_id
        repeated = pending.recovered or course.attempts > 0
        course.attempts += 1
        assert channel.session_id is not None  # noqa: S101  # only an open channel is taken
        self._actions.append(
            Inject(
                key=pending.key,
                recipient=channel.recipient,
                prompt=prompts.delivery(
                    pending.message,
                    recipient=channel.recipient,
                    session_id=channel.session_id,
                    repeated=repeated,
                    spool=None if self._policy.require_verified else self._spool,
                ),
            )
        )

    def _arrived(self, key: str, recipient: str) -> tuple[Pending, Course, Channel]:
        pending = self._pending[key]
        channel = self._channels.arrived(recipient, key)
        if not channel.under_way:
            self._under_way.discard(recipient)
        return pending, pending.courses[recipient], channel

    def _injected(self, event: Injected, now: datetime) -> None:
        pending, course, channel = self._arrived(event.key, event.recipient)
        course.step(Step.RECEIPT)
        course.reason = ""
        course.held_at = now
        message = pending.message
        if channel.trouble is not None:
            self._actions.append(notices.session_recovered(channel.recipient))
        channel.recovered()
        after = now - message.timestamp
        self._actions.append(notices.message_delivered(message, course.recipient, after))
        session_id = event.receipt.session_id
        self._agenda.cancel((_Due.TURN, session_id))  # a burst wants one look, after its last
        self._watch(session_id, now + self._policy.turn_check)
        self._orientations.delivered(session_id, now)
        self._settle_if_ended(pending, now)

    def _inject_failed(self, event: InjectFailed, now: datetime) -> None:
        pending, course, channel = self._arrived(event.key, event.recipient)
        error = event.error
        course.reason = str(error)
        if isinstance(error, PromptInvalid):
            course.rejected = True
            self._give_up(pending, course, str(error))
            self._settle_if_ended(pending, now)
            return
        course.step(Step.FAILURE)
        if isinstance(error, SessionBusy):
            course.attempts -= 1  # nothing was tried
            if not channel.freed:  # else its turn has ended since it was asked
                self._hold(channel, now + self._policy.busy_wait)
            self._tell_trouble(channel, error)
        elif isinstance(error, SessionUnknown):
            self._sessions.disconnect(channel.recipient)
        else:
            self._back_off(channel, error, now)
        self._wait_again(pending, channel, now)

    def _not_injected(self, event: NotInjected, now: datetime) -> None:
        pending, course, channel = self._arrived(event.key, event.recipient)
        course.step(Step.FAILURE)
        course.attempts -= 1  # nothing was tried
        self._wait_again(pending, channel, now)

    def _wait_again(self, pending: Pending, channel: Channel, now: datetime) -> None:
        if pending.deadline <= now:
            self._expire(pending, now)
        else:
            self._channels.put(channel.recipient, pending.place)

    def _back_off(self, channel: Channel, error: RelayError, now: datetime) -> None:
        backoff = self._policy.backoff
        channel.failures += 1
        self._hold(channel, now + backoff.delay(channel.failures, channel.recipient))
        if not backoff.exhausted(channel.failures):
            return
        if isinstance(error, RelayUnreachable | RelayRefused):
            self._agenda.set((_Due.LISTING, ""), now)  # is it this session, or the whole relay?
        self._tell_trouble(channel, error)

    def _hold(self, channel: Channel, until: datetime) -> None:
        channel.held_until = until
        self._agenda.set((_Due.CHANNEL, channel.recipient), until)

    def _tell_trouble(self, channel: Channel, error: RelayError) -> None:
        if channel.trouble is type(error):
            return
        channel.trouble = type(error)
        self._actions.append(notices.session_trouble(channel.recipient, error))

    # ------------------------------------------------------------------------------- sessions

    def _sessions_listed(self, event: SessionsListed, now: datetime) -> None:
        self._sessions.listed(event, now)
        for key in tuple(self._unrouted):
            self._route(self._pending[key], now)

    def _session_freed(self, event: SessionFreed, now: datetime) -> None:
        for channel in self._channels.into(event.session_id):
            channel.freed = True
            if channel.trouble is SessionBusy:
                channel.held_until = None
        self._orientations.freed(event.session_id, now)

    def _session_compacted(self, event: SessionCompacted, now: datetime) -> None:
        self._orientations.compacted(event.session_id, now)

    def _introduce_failed(self, event: IntroduceFailed, now: datetime) -> None:
        self._coordinator.not_introduced(event, now)
        self._store_trouble(event.error)

    def _gone(self, name: str) -> None:
        self._sessions.disconnect(name)

    def _came_up(self, sessions: Iterable[Session], away: timedelta | None, now: datetime) -> None:
        """The relay answers: nobody is held back any more, and what was cut off is looked at."""
        for channel in self._channels.release():
            self._agenda.cancel((_Due.CHANNEL, channel.recipient))
        if away is not None:
            self._resting_until = now + self._policy.relay_rest
            self._agenda.set((_Due.RELAY, ""), self._resting_until)
        self._actions.append(notices.relay_up(len(self._pending), away))
        self._coordinator.want()
        for session in sessions:
            self._watch(session.id, now)

    # ---------------------------------------------------------------------------------- turns

    def _watch(self, session_id: str, when: datetime) -> None:
        self._turns.watch(session_id)
        if (_Due.TURN, session_id) not in self._agenda:
            self._agenda.set((_Due.TURN, session_id), when)

    def _turn_seen(self, event: TurnSeen, now: datetime) -> None:
        turn = event.turn
        agent = self._roster.of_session(turn.session_id)
        if agent is None:
            self._turns.forget(turn.session_id)
            return
        delivering = self._channels.is_engaged(turn.session_id)
        match self._turns.seen(turn, delivering=delivering):
            case Next.LOOK_LATER:
                self._watch(turn.session_id, now + self._policy.session_poll)
            case Next.LOOK_SOON:
                self._watch(turn.session_id, now + self._policy.turn_check)
            case Next.RESUME:
                self._actions.append(
                    ResumeTurn(session_id=turn.session_id, prompt_id=turn.prompt_id)
                )
                self._watch(turn.session_id, now + self._policy.turn_check)
                self._actions.append(notices.turn_resumed(agent.id))
            case Next.REPORT_FAILURE:
                self._actions.append(notices.turn_failed(agent.id, turn.error))
            case Next.REPORT_LOSS:
                self._actions.append(notices.turn_abandoned(agent.id))
            case _:  # it was answered
                pass

    def _turn_unseen(self, event: TurnUnseen, now: datetime) -> None:
        if isinstance(event.error, SessionUnknown):
            self._turns.forget(event.session_id)
        else:
            self._watch(event.session_id, now + self._policy.session_poll)

    def _turn_ended(self, event: TurnEnded, now: datetime) -> None:
        del now
        agent = self._roster.of_session(event.session_id)
        if agent is not None:
            self._actions.append(notices.turn_ended(agent.id, event))

    # ----------------------------------------------------------------------------------- time

    def _tick(self, event: Tick, now: datetime) -> None:
        while (due := self._agenda.pop_due(now)) is not None:
            match due:
                case (_Due.LISTING, _):
                    self._sessions.list(now)
                case (_Due.EXPIRY, key):
                    self._expire(self._pending[key], now)
                case (_Due.ORIENTATION, session_id):
                    self._orientations.due(session_id, now, relay_up=self._sessions.relay_up)
                case (_Due.COORDINATOR, _):
                    self._coordinator.want()
                case (_Due.TURN, session_id):
                    self._actions.append(CheckTurn(session_id=session_id))
                case (_Due.SETTLING, key):
                    settlement = self._pending[key].settlement
                    assert settlement is not None  # noqa: S101  # set before it could fail
                    self._actions.append(Settle(settlement=settlement))
                case _:  # a channel, the relay: the dispatch that follows looks at them itself
                    pass
