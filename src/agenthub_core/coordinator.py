"""The coordinator: a session of the hub's own, which introduces the agents to one another.

It is an agent under a reserved name, and told of each new agent by a message like any other. What
it makes of that is its model's business and its instructions'. Here is decided when there is to be
one, and whom it is told of: everybody who is here, each once for each session that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime

from agenthub_core import notices, prompts
from agenthub_core.channels import Channels
from agenthub_core.errors import ModelUnknown
from agenthub_core.model import COORDINATOR, Agent, Session, SessionSpec
from agenthub_core.policies import Policy
from agenthub_core.protocol import (
    Action,
    Introduce,
    IntroduceFailed,
    OpenFailed,
    OpenSession,
    SaveAgent,
    SessionOpened,
)
from agenthub_core.roster import Roster

TITLE = "agent-hub-coordinator"
"""Of the coordinator's sessions, those of earlier days too: none of them is another agent."""

TOOLS = "agent-hub_*"
"""All that it may use."""


class Coordinator:
    """Whether there is one, and who it is yet to be told of.

    `introduced` are the agents that each of its sessions was told of in earlier runs. `waits` says
    whether a message with that id waits for it, `appoint` asks for a call of `want` at a time,
    `act` for an action.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        introduced: Mapping[str, Collection[str]],
        roster: Roster,
        channels: Channels,
        waits: Callable[[str], bool],
        appoint: Callable[[datetime], None],
        act: Callable[[Action], None],
    ) -> None:
        self._policy = policy
        self._introduced = {session: set(agents) for session, agents in introduced.items()}
        self._roster = roster
        self._channels = channels
        self._waits = waits
        self._appoint = appoint
        self._act = act
        self._session_id: str | None = None
        self._asked = False
        self._told = ""

    # ------------------------------------------------------------------------- whether it is here

    def want(self) -> None:
        """See to it that there is one: its session of an earlier run, or a new one."""
        coordination = self._policy.coordination
        if coordination is None:
            self._leave()
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
        is_news, self._session_id = self._session_id is None, session.id
        agent = self._roster.enrol(COORDINATOR, session)
        self._channels.connect(COORDINATOR, session.id)
        if is_news:
            self._act(notices.coordinator_here(agent))
        for other in self._everybody(now):
            self._introduce(other, session.id, now)
        self._act(SaveAgent(agent=agent))

    def failed(self, event: OpenFailed, now: datetime) -> None:
        """There is none; it is tried again, and said once for each reason."""
        self._asked = False
        self._appoint(now + self._policy.coordination_retry)
        if self._session_id is None or isinstance(event.error, ModelUnknown):
            self._leave()
        if self._told != str(event.error):
            self._told = str(event.error)
            self._act(notices.coordinator_missing(event.error))

    def gone(self) -> None:
        """Its session is no more: another one takes its place."""
        self._session_id = None
        self.want()

    def _leave(self) -> None:
        """Nobody shall think that it is here."""
        self._session_id = None
        known = self._roster.get(COORDINATOR)
        if known is not None and known.session_id is not None:
            self._channels.connect(COORDINATOR, None)
            self._act(SaveAgent(agent=self._roster.disconnect(COORDINATOR)))

    def sift(self, sessions: Iterable[Session]) -> list[Session]:
        """The sessions that may be other agents: all but its own, whose activity is noted."""
        rest = []
        for session in sessions:
            if session.id == self._session_id:
                self._see(session)
            elif session.title != TITLE and session.id not in self._introduced:
                rest.append(session)
        return rest

    def _see(self, session: Session) -> None:
        agent = self._roster.of_session(session.id)
        if (
            agent is not None
            and self._roster.seen(agent, session.updated)
            and (news := self._roster.to_save(agent.id)) is not None
        ):
            self._act(SaveAgent(agent=news))

    # ------------------------------------------------------------------------------ introductions

    def registered(self, agent: Agent, now: datetime) -> None:
        """An agent has come."""
        if self._session_id is not None:
            self._introduce(agent, self._session_id, now)

    def not_introduced(self, event: IntroduceFailed, now: datetime) -> None:
        """It could not be told of an agent, and will be."""
        self._introduced[event.session_id].discard(event.agent_id)
        self._appoint(now + self._policy.settle_retry)

    def _introduce(self, agent: Agent, session_id: str, now: datetime) -> None:
        told = self._introduced.setdefault(session_id, set())
        if agent.id in told:
            return
        told.add(agent.id)
        notice = prompts.new_agent(agent, now)
        message = None if self._waits(notice.id) else notice
        self._act(Introduce(session_id=session_id, agent_id=agent.id, message=message))

    def _everybody(self, now: datetime) -> list[Agent]:
        return [
            agent
            for agent in self._roster
            if agent.id != COORDINATOR
            and agent.session_id is not None
            and now - agent.last_seen <= self._policy.agent_stale
        ]
