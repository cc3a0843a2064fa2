"""What agents and people may do at the hub: register, write, read their mail.

The one way in for `agenthub mcp`, the commands and a dashboard. It works on the store alone, so it
needs no running hub: what it lets wait there is delivered when one is at work. Who may speak under
which name is decided here; how a request looks, and how the answer is shown, is the caller's. What
was ever said is in its `records`, which everybody may look through.
"""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve, frozen

from agenthub_core import notices
from agenthub_core.errors import RequestRefused
from agenthub_core.model import (
    CONTENT_LENGTH,
    COORDINATOR,
    EVERYONE,
    HUB,
    HUMAN,
    RESERVED,
    Agent,
    Message,
    MessageType,
    Outcome,
    Priority,
    Session,
    shown,
)
from agenthub_core.policies import Policy
from agenthub_core.ports import Clock, MessageStore
from agenthub_core.query import Query
from agenthub_core.records import DEAD, Entry, Records
from agenthub_core.roster import Roster
from agenthub_core.routing import directory_name, recipients
from agenthub_core.senders import UNLIMITED
from agenthub_core.threads import RESOLVED, Thread, ThreadStatus

_RECEIVED = frozenset(Outcome) - {Outcome.RATE_LIMITED}
"""The outcomes of what an inbox may show: an expired message was meant for it all the same."""

_DAY = timedelta(days=1)
_NEAREST = 3  # names that a refusal offers: enough to find a slip of the pen
_LOOK = timedelta(milliseconds=250)
_LOOKS = 12  # 3 s: the hub sees a new session in a fraction of one, and a model waits no longer
_APART = timedelta(seconds=60)
"""How far `last_seen` of an agent without a session moves before it is saved again."""


class Presence(enum.Enum):
    """Whether a message reaches its recipient now."""

    HERE = "here"
    """It is woken: its session is known, or the one through which it is reached, and was active
    lately."""
    AWAY = "away"
    """It has a name, but no session that was active lately."""
    UNKNOWN = "unknown"
    """No agent has that name yet."""


@frozen(kw_only=True)
class Sent:
    """What was written, and what will happen to it."""

    message: Message
    presence: Presence
    reached: tuple[str, ...]
    """The agents that are woken; of a broadcast, all that are here."""
    attended: bool
    """A hub is at work. Without one the message waits."""
    woken: bool
    """Its sender has a session, into which an answer comes by itself."""
    left: int | None = None
    """How many more its sender may write soon; None where nothing limits it."""
    nearest: tuple[str, ...] = ()
    """For an unknown recipient: the names of agents that look like it."""


@frozen(kw_only=True)
class Present:
    """An agent, and whether a message reaches it now."""

    agent: Agent
    presence: Presence


@frozen(kw_only=True)
class Status:
    """The hub at a glance."""

    attended: bool
    """A hub is at work."""
    agents: tuple[Present, ...]
    waiting: int
    """Messages that are not settled."""
    oldest: datetime | None
    """When the one that has waited longest was written."""
    dead: int
    """Messages of the last day that did not reach everybody, and were not sent again."""
    unread: int
    """Messages in the person's inbox."""


class Gateway:
    """The hub as an agent or a person meets it. One may be used from several threads.

    `acting_as` are reserved names, or names of nobody, that this caller may use: the coordinator
    its own, a person `human`. `new_id` makes an id that no message has, of `[A-Za-z0-9_-]`.

    Whoever speaks may say any other agent's name, unless it is `verified`: then the caller knows
    whose name it is (`identify`), it may be any, and so is what is written under it.
    """

    def __init__(
        self,
        store: MessageStore,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        acting_as: Collection[str] = (),
        policy: Policy | None = None,
    ) -> None:
        self.records = Records(store)
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._acting_as = frozenset(acting_as)
        self._policy = policy or Policy()
        self._shown: set[tuple[str, str]] = set()

    # --------------------------------------------------------------------------------- agents

    def attended(self) -> bool:
        """Whether a hub is at work: without one nobody is woken."""
        return self._store.claimed()

    def alike(self, name: str) -> tuple[str, ...]:
        """The names of agents that look like one that nobody has."""
        return _nearest(name, (agent.id for agent in self._store.agents()))

    def agents(self) -> Sequence[Present]:
        """Everybody who is known, those who are here first, then by name."""
        now = self._clock.now()
        agents = self._store.agents()
        known = [
            Present(agent=agent, presence=self._presence(agent, agents, now)) for agent in agents
        ]
        return sorted(known, key=lambda each: (each.presence is Presence.AWAY, each.agent.id))

    def agent(self, name: str) -> Agent:
        """Who has that name. Raises `RequestRefused` where nobody has."""
        known = {agent.id: agent for agent in self._store.agents()}
        if name not in known:
            raise RequestRefused(
                f"no agent is known as {shown(name)}{_perhaps(_nearest(name, known))}: agenthub "
                "agents shows who is"
            )
        return known[name]

    def identify(self, session: Session, *, pause: Callable[[timedelta], None]) -> Agent:
        """The agent that a session is. `pause` waits so long.

        One that nobody knows is given its name by the hub, or here if that takes too long, or no
        hub is at work: the one that the hub would have given it, which keeps it.
        """
        for _ in range(_LOOKS):
            agent = Roster(self._store.agents()).of_session(session.id)
            if agent is not None:
                return agent
            if not self._store.claimed():
                break
            pause(_LOOK)
        agent = Roster(self._store.agents()).register(session)
        self._store.save_agent(agent)
        return agent

    def register(
        self,
        name: str | None,
        *,
        verified: bool = False,
        directory: str,
        role: str,
        capabilities: Iterable[str] = (),
        collaborates_with: Iterable[str] = (),
        program: str = "",
    ) -> Agent:
        """Keep who an agent is, and the program that it works in, if that is known.

        One without a name is the agent whose session is at work in the directory, or is named
        after it. Raises `RequestRefused` where those are several, and for the hub's own names.
        """
        if name is None:
            name = self._name_in(directory)
        if name in RESERVED - self._acting_as and not verified:
            raise RequestRefused(f'"{name}" is a name of the hub\'s own: choose another id')
        agent = Agent(
            id=name,
            directory=directory,
            last_seen=self._clock.now(),
            role=role,
            capabilities=tuple(capabilities),
            collaborates_with=tuple(collaborates_with),
            program=program,
        )
        self._store.register_agent(agent)
        return agent

    def _name_in(self, directory: str) -> str:
        names = [
            each.agent.id
            for each in self.agents()
            if each.presence is Presence.HERE
            and each.agent.session_id is not None
            and each.agent.directory == directory
        ]
        if len(names) > 1:
            raise RequestRefused(
                f"several agents work in {directory}: {', '.join(names)}. Pass as id the one that "
                "the hub told you, or a new one of your own"
            )
        if names:
            return names[0]
        name = directory_name(directory)
        for agent in self._store.agents():
            if agent.id == name and agent.directory != directory:
                raise RequestRefused(
                    f'another agent, in {agent.directory}, is called "{name}": pass an id of your '
                    "own"
                )
        return name

    # -------------------------------------------------------------------------------- writing

    def send(
        self,
        *,
        sender: str,
        recipient: str,
        type: MessageType,  # noqa: A002  # the format's own name
        content: str,
        priority: Priority = Priority.NORMAL,
        thread_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
        verified: bool = False,
    ) -> Sent:
        """Let a message wait for its recipient. When this returns it survives crash and power loss.

        Without a thread it begins one, under its own id. Raises `RequestRefused` where the sender
        may not write so, and `InvalidValue`.
        """
        known = {agent.id: agent for agent in self._store.agents()}
        self._check_identity(sender, known, verified)
        self._check_verified(sender, verified)
        if recipient == HUB:
            raise RequestRefused(f'"{HUB}" reads no messages: write to an agent, or to "{HUMAN}"')
        if recipient == sender:
            raise RequestRefused(f'"{sender}" is the sender itself: write to another agent')
        if len(content) > CONTENT_LENGTH:
            raise RequestRefused(
                f"the content has {len(content)} characters, {CONTENT_LENGTH} are the most: put "
                "the long part into a file and send its path"
            )
        left = self._allowance(sender, 1)
        identity = self._new_id()
        message = Message(
            id=identity,
            sender=sender,
            recipient=recipient,
            type=type,
            content=content,
            priority=priority,
            thread_id=identity if thread_id is None else thread_id,
            timestamp=self._now(),
            extra=extra or {},
            verified=verified,
        )
        self._store.put(message)
        return evolve(self._prospect(message, known), left=left)

    def resolve(
        self, thread_id: str, *, sender: str, note: str = "", verified: bool = False
    ) -> tuple[Thread, Sequence[Sent]]:
        """Close a thread: a closing note to everybody else in it. Raises `RequestRefused`."""
        known = {agent.id: agent for agent in self._store.agents()}
        self._check_identity(sender, known, verified)
        thread, _ = self.records.thread(thread_id)
        if not thread.may_be_resolved_by(sender):
            raise RequestRefused(
                f'the thread {thread_id} belongs to "{thread.creator}", who began it: tell them '
                "that it is done with a message of type completion"
            )
        if thread.status is ThreadStatus.RESOLVED:
            raise RequestRefused(f"the thread {thread_id} is resolved already")
        others = [name for name in thread.participants if name not in (sender, HUB)]
        if not others and thread.broadcast:
            others = [EVERYONE]
        if not others:
            raise RequestRefused(f"nobody else is in the thread {thread_id}")
        self._check_closing(sender, len(others))
        closing = f"{RESOLVED}: {note}" if note else RESOLVED
        sent = [
            self.send(
                sender=sender,
                recipient=other,
                type=MessageType.COMPLETION,
                content=closing,
                priority=Priority.LOW,
                thread_id=thread_id,
                verified=verified,
            )
            for other in others
        ]
        return self.records.thread(thread_id)[0], sent

    def retry(self, name: str) -> Sequence[Sent]:
        """Let a dead letter wait anew, for those who do not hold it; as if it were written now.

        `name` is its id, or the beginning of it. The dead letter itself counts as read from then
        on: somebody has dealt with it. Its sender is as verified as it was. Raises `RequestRefused`
        where there is no such dead letter, or it may not be sent.
        """
        entries = self.records.look_up(name)
        said: dict[tuple[object, ...], list[Entry]] = {}
        for entry in entries:  # who uses an id twice has said two things
            message = entry.message
            same = (message.sender, message.type, message.content, message.thread_id)
            said.setdefault(same, []).append(entry)
        missed = [each for lives in said.values() for each in _missed(lives).items()]
        last = entries[-1]
        if not missed and last.waits:
            raise RequestRefused(
                f"the message {last.message.id} waits: it is delivered as soon as may be"
            )
        if not missed:
            raise RequestRefused(
                f"the message {last.message.id} is no dead letter: it was {last.state}"
            )
        for _, message in missed:
            self._check_verified(message.sender, message.verified)
        known = {agent.id: agent for agent in self._store.agents()}
        sent = []
        for recipient, message in missed:
            again = evolve(message, recipient=recipient, timestamp=self._now(), read=False)
            self._store.put(again)
            sent.append(self._prospect(again, known))
        self.records.mark_read(entry for entry in entries if entry.dead)
        return sent

    def discard(self, name: str) -> Sequence[Entry]:
        """Have done with a message: what waits is not delivered, a dead letter is counted no more.

        `name` is its id, or the beginning of it; the answer is what was ended, as it is now. What
        the hub is handing out at this moment still arrives. Raises `RequestRefused` where nothing
        is left.
        """
        entries = self.records.look_up(name)
        left = [entry for entry in entries if entry.waits or entry.dead]
        if not left:
            last = entries[-1]
            raise RequestRefused(
                f"there is nothing to discard of the message {last.message.id}: it was {last.state}"
            )
        self.records.mark_read(left)
        return [entry.marked_read() for entry in left]

    def prospect(self, message: Message) -> Sent:
        """What will happen to a message that waits."""
        return self._prospect(message, {agent.id: agent for agent in self._store.agents()})

    # -------------------------------------------------------------------------------- reading

    def mail(
        self,
        name: str,
        *,
        mark_read: bool = True,
        type: MessageType | None = None,  # noqa: A002  # the format's own name
        since: datetime | None = None,
        verified: bool = False,
    ) -> Sequence[Message]:
        """What somebody has not read yet, oldest first.

        Messages to them that wait; of a person, also what their inbox holds; of an agent without a
        session, also broadcasts of late. An agent does not see what may not be delivered to it.
        Raises `RequestRefused`.
        """
        known = {agent.id: agent for agent in self._store.agents()}
        agent = self._check_identity(name, known, verified)
        query = Query(recipient=name, unread=True, type=type, since=since)
        waiting = [*self.records.waiting()]
        entries = [entry for entry in waiting if query.accepts(entry.message)]
        if name == HUMAN:
            entries += self.records.settled(evolve(query, outcomes=_RECEIVED), but=waiting)
        elif agent is not None and agent.session_id is None:
            entries += self._broadcasts(evolve(query, recipient=EVERYONE), agent)
        if self._policy.require_verified and name != HUMAN:
            entries = [entry for entry in entries if entry.message.verified]
        if mark_read:
            for entry in entries:
                if entry.message.is_broadcast:  # others may yet have to read it
                    self._shown.add((name, entry.message.digest))
            self.records.mark_read(entry for entry in entries if not entry.message.is_broadcast)
        return sorted((entry.message for entry in entries), key=lambda message: message.timestamp)

    def status(self) -> Status:
        dead = Query(outcomes=DEAD, unread=True, since=self._clock.now() - _DAY)
        unread = Query(recipient=HUMAN, unread=True)
        received = evolve(unread, outcomes=_RECEIVED)
        entries = [*self.records.waiting()]
        waiting = [entry.message for entry in entries if entry.waits]
        settled = [*self.records.settled(dead, received, but=entries)]
        return Status(
            attended=self._store.claimed(),
            agents=tuple(self.agents()),
            waiting=len(waiting),
            oldest=min((message.timestamp for message in waiting), default=None),
            dead=sum(dead.accepts(each.message, each.outcome) for each in settled),
            unread=sum(unread.accepts(message) for message in waiting)
            + sum(received.accepts(each.message, each.outcome) for each in settled),
        )

    # -------------------------------------------------------------------------------- beneath

    def _now(self) -> datetime:
        """As a store keeps it: what was sent is then what is found."""
        now = self._clock.now()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def _broadcasts(self, query: Query, agent: Agent) -> Iterator[Entry]:
        """What everybody was told lately, but this agent could not be: it has no session."""
        lately = self._clock.now() - self._policy.message_ttl
        since = lately if query.since is None else max(lately, query.since)
        for entry in self.records.find(evolve(query, since=since, unread=False)):
            message = entry.message
            known = message.sender == agent.id or (agent.id, message.digest) in self._shown
            if not known and entry.outcome is not Outcome.RATE_LIMITED:
                yield entry

    def _check_verified(self, sender: str, verified: bool) -> None:
        """Raises `RequestRefused` for what would not be delivered."""
        if self._policy.require_verified and not verified:
            raise RequestRefused(notices.unverified(sender))

    def _check_identity(
        self, name: str, known: Mapping[str, Agent], verified: bool
    ) -> Agent | None:
        """Who speaks under this name. Raises `RequestRefused` if the caller may not."""
        if verified or name in self._acting_as:
            return known.get(name)
        if name in RESERVED:
            raise RequestRefused(f'"{name}" is not yours to speak as: use the id of your agent')
        agent = known.get(name)
        if agent is None:
            raise RequestRefused(
                f"no agent is registered as {shown(name)}{_perhaps(_nearest(name, known))}: use "
                "the id that the hub told you, or call register_agent first"
            )
        now = self._clock.now()
        if agent.session_id is None and now - agent.last_seen > _APART:
            self._store.register_agent(evolve(agent, last_seen=now))  # nobody else sees it
        return agent

    def _check_closing(self, sender: str, others: int) -> None:
        """A closing note goes to all or none. Raises `RequestRefused` for more than may be."""
        limit = self._policy.rate_limit
        if limit and others > 1 and (limit.cooldown or others > limit.maximum):
            raise RequestRefused(
                f"{others} others are in the thread, more than you may write to at once: tell them "
                f"one after the other, in messages of type completion that say {RESOLVED}"
            )
        self._allowance(sender, others)

    def _allowance(self, sender: str, count: int) -> int | None:
        """How many messages are left to somebody who writes so many. Raises `RequestRefused`."""
        limit = self._policy.rate_limit
        if limit is None or sender in UNLIMITED:
            return None
        now = self._now()
        written = [
            entry.message.timestamp
            for entry in self.records.find(Query(sender=sender, since=now - limit.horizon))
            if entry.outcome is not Outcome.RATE_LIMITED
        ]
        for _ in range(count):
            if wait := limit.wait(written, now):
                raise RequestRefused(
                    f'"{sender}" has written too often: it may write again in '
                    f"{math.ceil(wait.total_seconds())} s. Say then in one message what is to be "
                    "said"
                )
            written.append(now)
        return limit.left(written, now)

    def _presence(self, agent: Agent, known: Iterable[Agent], now: datetime) -> Presence:
        if agent.is_known_by_directory:
            directory = agent.directory.rstrip("/")
            reached = [each for each in known if each.directory == directory]
        else:
            reached = [agent]
        return Presence.HERE if any(self._is_here(each, now) for each in reached) else Presence.AWAY

    def _is_here(self, agent: Agent, now: datetime) -> bool:
        # the coordinator's session is kept for as long as there is a hub
        lately = now - agent.last_seen <= self._policy.agent_stale or agent.id == COORDINATOR
        return agent.session_id is not None and lately

    def _prospect(self, message: Message, known: Mapping[str, Agent]) -> Sent:
        now = self._clock.now()
        names = recipients(message, known.values(), now=now, active=self._policy.agent_stale)
        here = tuple(
            name
            for name in names
            if name in known and self._presence(known[name], known.values(), now) is Presence.HERE
        )
        presence = Presence.HERE if here else Presence.AWAY
        nearest: tuple[str, ...] = ()
        if message.recipient == HUMAN:
            presence = Presence.AWAY  # a person looks when they look
        elif not message.is_broadcast and message.recipient not in known:
            presence, nearest = Presence.UNKNOWN, _nearest(message.recipient, known)
        return Sent(
            message=message,
            presence=presence,
            reached=here,
            attended=self._store.claimed(),
            woken=message.sender in known and known[message.sender].session_id is not None,
            nearest=nearest,
        )


def _missed(lives: Iterable[Entry]) -> dict[str, Message]:
    """Who does not hold a message after all its lives, and which one was to reach them."""
    missed: dict[str, Message] = {}
    for entry in lives:
        missed.pop(entry.message.recipient, None)
        if entry.settlement is None:
            continue
        for delivery in entry.settlement.deliveries:
            missed.pop(delivery.recipient, None)
            if delivery.held_at is None and entry.outcome in DEAD:
                missed[delivery.recipient] = entry.message
        if not entry.settlement.deliveries and entry.outcome in DEAD:
            missed[entry.message.recipient] = entry.message
    return missed


def _nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(name, list(known), n=_NEAREST, cutoff=0.6))


def _perhaps(names: Sequence[str]) -> str:
    return f" (did you mean {' or '.join(names)}?)" if names else ""
