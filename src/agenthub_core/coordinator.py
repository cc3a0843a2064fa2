"""The coordinator: a session of the hub's own, which introduces the agents to one another.

It is an agent under a reserved name, and told of each new agent by a message like any other. What
it makes of that is its model's business and its instructions'. Here is decided when there is to be
one, and whom it is told of: each agent once, and all who are here where it is a new session that
knows nobody yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from agenthub_core import notices, prompts
from agenthub_core.channels import Channels
from agenthub_core.model import COORDINATOR, Agent, Session, SessionSpec
from agenthub_core.policies import Policy
from agenthub_core.protocol import (
    Action,
    OpenFailed,
    OpenSession,
    SaveAgent,
    SessionOpened,
    WriteMessage,
)
from agenthub_core.roster import Roster

TITLE = "agent-hub-coordinator"
"""Of the coordinator's sessions, those of earlier days too: none of them is another agent."""

TOOLS = "agent-hub_*"
"""All that it may use."""


class Coordinator:
    """Whether there is one, and who it is yet to be told of.

    `appoint` asks for a call of `want` at a time, `act` for an action.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        roster: Roster,
        channels: Channels,
        appoint: Callable[[datetime], None],
        act: Callable[[Action], None],
    ) -> None:
        self._policy = policy
        self._roster = roster
        self._channels = channels
        self._appoint = appoint
        self._act = act
        known = roster.get(COORDINATOR)
        self._last = None if known is None else known.session_id
        self._here = False
        self._asked = False
        self._newcomers: list[Agent] = []
        self._told = ""

    def want(self) -> None:
        """See to it that there is one: its session of an earlier run, or a new one."""
        coordination = self._policy.coordination
        if coordination is None:
            self._dismiss()
            return
        if self._asked:
            return
        self._asked = True
        spec = SessionSpec(
            title=TITLE, directory=coordination.directory, model=coordination.model, tools=TOOLS
        )
        self._act(OpenSession(spec=spec))

    def opened(self, event: SessionOpened, now: datetime) -> None:
        """There is one."""
        session = event.session
        self._asked, self._told = False, ""
        is_news = not self._here
        if session.id != self._last:
            self._newcomers = self._everybody(now)  # it knows nobody
        self._here, self._last = True, session.id
        agent = self._roster.enrol(COORDINATOR, session)
        self._channels.connect(COORDINATOR, session.id)
        self._act(SaveAgent(agent=agent))
        if is_news:
            self._act(notices.coordinator_here(agent))
        for newcomer in self._newcomers:
            self._introduce(newcomer, now)
        self._newcomers = []

    def failed(self, event: OpenFailed, now: datetime) -> None:
        """There is none; it is tried again, and said once for each reason."""
        self._asked = False
        self._appoint(now + self._policy.coordination_retry)
        if self._told != str(event.error):
            self._told = str(event.error)
            self._act(notices.coordinator_missing(event.error))

    def registered(self, agent: Agent, now: datetime) -> None:
        """An agent has come."""
        if self._policy.coordination is None:
            return
        if self._here:
            self._introduce(agent, now)
        else:
            self._newcomers.append(agent)

    def gone(self) -> None:
        """Its session is no more: another one takes its place."""
        self._here, self._last = False, None
        self.want()

    def sift(self, sessions: Iterable[Session]) -> list[Session]:
        """The sessions that may be other agents: all but its own, whose activity is noted."""
        rest = []
        for session in sessions:
            if session.title != TITLE:
                rest.append(session)
            elif self._here and session.id == self._last:
                self._see(session)
        return rest

    def _see(self, session: Session) -> None:
        agent = self._roster.of_session(session.id)
        if (
            agent is not None
            and self._roster.seen(agent, session.updated)
            and (news := self._roster.to_save(agent.id)) is not None
        ):
            self._act(SaveAgent(agent=news))

    def _dismiss(self) -> None:
        """Of one that an earlier run has left nobody shall think that it is here."""
        if self._last is not None:
            self._last = None
            self._act(SaveAgent(agent=self._roster.disconnect(COORDINATOR)))

    def _introduce(self, agent: Agent, now: datetime) -> None:
        self._act(WriteMessage(message=prompts.new_agent(agent, now)))

    def _everybody(self, now: datetime) -> list[Agent]:
        return [
            agent
            for agent in self._roster
            if agent.id != COORDINATOR
            and agent.session_id is not None
            and now - agent.last_seen <= self._policy.agent_stale
        ]
