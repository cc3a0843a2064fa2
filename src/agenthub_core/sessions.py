"""Which sessions there are, whose they are, and whether the relay answers at all.

Sessions are listed now and then, and soon after a hint; each that may be an agent is one from then
on. An agent without a session of its own, which has registered itself, is reached through the
latest in its directory. One that spoke before its session was listed has its name from the gateway.
What is told to whom, and what becomes of messages, is left to other books.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from agenthub_core import notices
from agenthub_core.channels import Channels
from agenthub_core.coordinator import Coordinator
from agenthub_core.errors import RelayError
from agenthub_core.model import COORDINATOR, Agent, Session
from agenthub_core.orientations import Orientations
from agenthub_core.policies import Policy
from agenthub_core.protocol import (
    Action,
    AgentChanged,
    AgentFound,
    FindAgents,
    ListingFailed,
    ListSessions,
    SaveAgent,
    SessionsChanged,
    SessionsListed,
)
from agenthub_core.roster import Roster


class Sessions:
    """The sessions as they were listed last.

    `appoint` asks for a call of `list` at a time, `act` for an action. `came_up` is called with the
    sessions, and how long it was away, when the relay answers for the first time, or again.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        began: datetime,
        roster: Roster,
        channels: Channels,
        orientations: Orientations,
        coordinator: Coordinator,
        appoint: Callable[[datetime], None],
        act: Callable[[Action], None],
        came_up: Callable[[Iterable[Session], timedelta | None, datetime], None],
    ) -> None:
        self._policy = policy
        self._began = began
        self._roster = roster
        self._channels = channels
        self._orientations = orientations
        self._coordinator = coordinator
        self._appoint = appoint
        self._act = act
        self._came_up = came_up
        self.relay_up = False
        self._trouble: type[RelayError] | None = None
        self._lost: datetime | None = None
        self._asked: datetime | None = None
        self._listed: datetime | None = None
        self._changed = False
        self._latest: dict[str, Session] = {}
        self._told_of_old = False
        self._looked_up: datetime | None = None

    # ------------------------------------------------------------------------------- listing

    def list(self, now: datetime) -> None:
        """Ask for those that were active since they were last asked for."""
        if self._asked is not None:
            return  # its answer is under way
        self._asked = now
        active = self._policy.agent_stale
        if self._listed is not None:
            active = min(active, now - self._listed + self._policy.listing_overlap)
        self._act(ListSessions(active=active))

    def changed(self, event: SessionsChanged, now: datetime) -> None:
        """A hint: look soon."""
        del event
        if self._asked is not None:
            self._changed = True  # the listing that is under way may have missed it
        elif self._listed is not None and self.relay_up:
            self._appoint(max(now, self._listed + self._gap))

    def miss(self, recipient: str, now: datetime) -> None:
        """Somebody has no session: they may have come since the last listing, if that is old."""
        self._find(recipient)
        listed = self._listed
        if self._asked is not None:
            self._changed = True
        elif listed is not None and self.relay_up and now - listed >= self._policy.session_cache:
            self._appoint(now)

    def listed(self, event: SessionsListed, now: datetime) -> None:
        """The relay answers, and these were active."""
        came_up, self.relay_up = not self.relay_up, True
        self._listed, self._asked = self._asked, None
        sessions = self._coordinator.sift(event.sessions)
        seen = [session for session in sessions if self._may_see(session)]
        for session in seen:
            self._see(session, now)
            self._orientations.seen(session, now)
        old = len(sessions) - len(seen)
        if old and not self._told_of_old:
            self._told_of_old = True
            self._act(notices.sessions_left_alone(old))
        if came_up:
            away = None if self._lost is None else now - self._lost
            self._trouble = self._lost = None
            self._came_up(event.sessions, away, now)
        self._connect_by_directory(sessions)
        if self._looked_up is None or now - self._looked_up >= self._policy.session_cache:
            self._looked_up = now
            self._find(*self._channels.waiting())
        again = self._gap if self._changed else self._policy.session_poll
        self._changed = False
        self._appoint(now + again)

    def failed(self, event: ListingFailed, now: datetime) -> None:
        """It does not; said once for each kind of reason."""
        self.relay_up = False
        self._asked = None
        self._lost = self._lost or now
        self._appoint(now + self._policy.relay_probe)
        if self._trouble is type(event.error):
            self._act(notices.relay_still_down(event.error))
            return
        self._trouble = type(event.error)
        self._act(notices.relay_down(event.error))

    @property
    def _gap(self) -> timedelta:
        return min(self._policy.listing_gap, self._policy.session_poll)

    # -------------------------------------------------------------------------------- agents

    def _may_see(self, session: Session) -> bool:
        """Who was at work before there was a hub has not asked for one."""
        return session.created >= self._began or self._roster.knows(session.id)

    def _see(self, session: Session, now: datetime) -> None:
        agent = self._roster.of_session(session.id)
        if agent is None:
            is_new = not self._roster.knows(session.id)
            agent = self._roster.register(session)
            self._come(agent, now, is_new=is_new)
        elif not self._roster.seen(agent, session.updated):
            return
        elif (channel := self._channels[agent.id]).trouble is not None:
            channel.held_until = None  # something changed there: worth another try at once
        self._save(agent.id)

    def _come(self, agent: Agent, now: datetime, *, is_new: bool = True) -> None:
        self._channels.connect(agent.id, agent.session_id)
        self._act(notices.agent_registered(agent, str(agent.session_id)))
        if is_new:
            self._coordinator.registered(agent, now)

    def _save(self, name: str) -> None:
        agent = self._roster.to_save(name)
        if agent is not None:
            self._act(SaveAgent(agent=agent))

    def disconnect(self, name: str) -> None:
        """The session through which an agent was reached is no more."""
        gone = self._channels[name].session_id
        self._latest = {
            directory: session for directory, session in self._latest.items() if session.id != gone
        }
        self._channels.connect(name, None)
        if self._roster.has_session(name):
            self._roster.disconnect(name)
            self._save(name)
        self._act(notices.session_gone(name))
        if name == COORDINATOR:
            self._coordinator.gone()

    def _connect_by_directory(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            known = self._latest.get(session.directory)
            if known is None or known.updated <= session.updated:
                self._latest[session.directory] = session
        for agent in self._roster.known_by_directory():
            latest = self._latest.get(agent.directory.rstrip("/"))
            # what may have gone into one session must not go into another
            free = self._channels.is_idle(agent.id) or not self._channels.session_of(agent.id)
            if latest is not None and free:
                self._channels.connect(agent.id, latest.id)

    def told_of(self, event: AgentChanged, now: datetime) -> None:
        """A hint: somebody may have registered itself, or anew."""
        del now
        self._find(event.name)

    def _find(self, *recipients: str) -> None:
        """They may have registered themselves by now, unless their sessions are known."""
        names = tuple(name for name in recipients if not self._roster.has_session(name))
        if names:
            self._act(FindAgents(names=names))

    def found(self, event: AgentFound, now: datetime) -> None:
        """The store knows somebody."""
        agent = event.agent
        if agent.id != COORDINATOR and self._roster.adopt(agent):
            self._come(agent, now)
        elif self._roster.found(agent):
            if self._channels.session_of(agent.id) is not None and self._channels.is_idle(agent.id):
                self._channels.connect(agent.id, None)  # it may have moved
            self._connect_by_directory(())
