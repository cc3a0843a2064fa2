"""Telling each session once who it is: its name, who else is here, and which tools there are.

It costs nothing: the text goes in while the session is idle and nothing waits for it, and does not
wake its model, which reads it with its next turn. A session that is given a message first has
learnt from that how it is called and how to answer, and is told no more.

What is said is the business of `prompts`; how often it is tried, of `policies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from attrs import define

from agenthub_core import notices, prompts
from agenthub_core.channels import Channels
from agenthub_core.errors import SessionBusy, SessionUnknown
from agenthub_core.model import COORDINATOR, Agent, Session
from agenthub_core.policies import Policy
from agenthub_core.protocol import Action, Orient, Oriented, OrientFailed, SaveOriented
from agenthub_core.roster import Roster

_SOON = timedelta(seconds=1)
"""Before a session that was busy is tried again although nothing new was done in it: its turn may
have ended in the very moment."""


@define
class _Untold:
    """A session that is yet to be told."""

    created: datetime
    updated: datetime
    again: bool = False
    """It was told before, and what it was told was cut out."""
    telling: bool = False
    """Whether that is under way."""
    failures: int = 0
    busy_at: datetime | None = None
    """When it was tried last, and could not be told."""


class Orientations:
    """Who is yet to be told, and what came of it.

    `appoint` asks for a call of `due` at a time, `act` for an action; `gone` is told of an agent
    whose session is no more. `done` are the sessions that were told in earlier runs.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        done: Iterable[str],
        roster: Roster,
        channels: Channels,
        appoint: Callable[[str, datetime], None],
        act: Callable[[Action], None],
        gone: Callable[[str], None],
    ) -> None:
        self._policy = policy
        self._done = set(done)
        self._untold: dict[str, _Untold] = {}
        self._roster = roster
        self._channels = channels
        self._appoint = appoint
        self._act = act
        self._gone = gone

    def seen(self, session: Session, now: datetime) -> None:
        """Something was done in the session: if nobody has told it yet, now may be the time."""
        orientation = self._policy.orientation
        untold = self._untold.get(session.id)
        if orientation is None or (untold is None and session.id in self._done):
            return
        if untold is None:
            untold = _Untold(created=session.created, updated=session.updated)
            self._untold[session.id] = untold
        elif untold.busy_at is None:
            return  # it has its appointment
        elif session.updated <= untold.updated and now - untold.busy_at < _SOON:
            return  # it is listed again, and nothing was done in it
        untold.busy_at, untold.updated = None, session.updated
        self._appoint(session.id, max(now, session.created + orientation.after))

    def compacted(self, session_id: str, now: datetime) -> None:
        """What the session was told may be gone: it is told again."""
        orientation, untold = self._policy.orientation, self._untold.get(session_id)
        told = session_id in self._done or (untold is not None and untold.telling)
        if orientation is not None and told:
            self._untold[session_id] = _Untold(created=now, updated=now, again=True)
            self._appoint(session_id, now + orientation.after)

    def freed(self, session_id: str, now: datetime) -> None:
        """Its turn has ended: whoever waited for that may be told at once."""
        untold = self._untold.get(session_id)
        if untold is not None and untold.busy_at is not None:
            untold.busy_at = None
            self._appoint(session_id, now)

    def delivered(self, session_id: str, now: datetime) -> None:
        """The session holds a message: now it knows as much."""
        if self._untold.pop(session_id, None) is not None:
            self._finish(session_id, now)

    def due(self, session_id: str, now: datetime, *, relay_up: bool) -> None:
        """Tell the session, if now is the time."""
        agent = self._roster.of_session(session_id)
        untold = self._untold.get(session_id)
        if agent is None or untold is None:
            self._untold.pop(session_id, None)
            return
        if (
            not relay_up
            or not self._channels.is_idle(agent.id)
            or self._channels.is_engaged(session_id)
        ):
            self._appoint(session_id, now + self._policy.session_poll)
            return
        untold.telling = True
        self._channels.occupy(agent.id, _under_way(session_id))
        wakes = self._policy.orientation is not None and self._policy.orientation.wakes
        prompt = prompts.orientation(
            agent,
            session_id=session_id,
            others=self._others(agent, now),
            wakes=wakes,
            created=untold.created,
            again=untold.again,
        )
        self._act(Orient(recipient=agent.id, prompt=prompt))

    def oriented(self, event: Oriented, now: datetime) -> None:
        """The session holds it."""
        session_id = event.receipt.session_id
        self._channels.arrived(event.recipient, _under_way(session_id))
        untold = self._untold.get(session_id)
        if untold is not None and untold.telling:  # else it may be cut out already
            del self._untold[session_id]
            self._finish(session_id, now)
            self._act(notices.agent_oriented(event.recipient))

    def failed(self, event: OrientFailed, now: datetime) -> None:
        """The session does not hold it."""
        session_id, error = event.session_id, event.error
        channel = self._channels.arrived(event.recipient, _under_way(session_id))
        orientation, untold = self._policy.orientation, self._untold.get(session_id)
        if untold is None or orientation is None:
            return
        tried, untold.telling = untold.telling, False
        if isinstance(error, SessionUnknown):
            del self._untold[session_id]
            self._gone(event.recipient)
        elif not tried:
            pass  # it has its appointment, for what is to be told again
        elif isinstance(error, SessionBusy) and channel.freed:
            self._appoint(session_id, now)
        elif isinstance(error, SessionBusy):
            untold.busy_at = now
            if now - untold.updated < self._policy.agent_stale:
                self._appoint(session_id, now + orientation.delay)
            # else nothing is done in it; should that change, it will be seen
        else:
            untold.failures += 1
            if untold.failures <= orientation.retries:
                self._appoint(session_id, now + orientation.delay)
            else:
                self._act(notices.agent_not_oriented(event.recipient, error))

    def _finish(self, session_id: str, now: datetime) -> None:
        self._done.add(session_id)
        self._act(SaveOriented(session_id=session_id, at=now))

    def _others(self, agent: Agent, now: datetime) -> list[Agent]:
        """Who else is here, the latest first."""
        here = [
            other
            for other in self._roster
            if other.id not in (agent.id, COORDINATOR)
            and other.session_id is not None
            and now - other.last_seen <= self._policy.agent_stale
        ]
        return sorted(here, key=lambda other: other.last_seen, reverse=True)


def _under_way(session_id: str) -> str:
    """Stands for a message's key while the session is told."""
    return f"orientation of {session_id}"
