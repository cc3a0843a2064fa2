"""Who is here: agents, and which session each has.

Says what changed and what is worth saving; nothing of messages, nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from attrs import evolve

from agenthub_core.model import Agent, Session
from agenthub_core.routing import agent_id

_APART = timedelta(seconds=60)
"""How far `last_seen` moves before it is saved again: a file a minute, not one at every poll."""


class Roster:
    """The agents by name and by session."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents: dict[str, Agent] = {}
        self._by_session: dict[str, str] = {}
        self._saved: dict[str, datetime] = {}
        for agent in agents:
            self._keep(agent)
            self._saved[agent.id] = agent.last_seen

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def get(self, name: str) -> Agent | None:
        return self._agents.get(name)

    def of_session(self, session_id: str) -> Agent | None:
        agent = self._agents.get(self._by_session.get(session_id, ""))
        return None if agent is None or agent.session_id is None else agent

    def knows(self, session_id: str) -> bool:
        """Whether an agent has, or had, this session."""
        return session_id in self._by_session

    def register(self, session: Session) -> Agent:
        """The agent that an unknown session becomes: a new one, or the one it was till it went."""
        name = self._by_session.get(session.id) or agent_id(session, self._agents)
        agent = self.enrol(name, session)
        self._saved.pop(name, None)  # it is yet to be
        return agent

    def enrol(self, name: str, session: Session) -> Agent:
        """The agent of that very name, which has this session from now on."""
        known = self._agents.get(name, Agent(id=name, last_seen=session.updated))
        agent = evolve(
            known,
            session_id=session.id,
            directory=session.directory,
            slug=session.slug,
            last_seen=session.updated,
            named_by_session=True,
        )
        self._keep(agent)
        self._saved[name] = agent.last_seen
        return agent

    def seen(self, agent: Agent, when: datetime) -> bool:
        """The agent's session was active; whether that is news."""
        if when <= agent.last_seen:
            return False
        self._keep(evolve(agent, last_seen=when))
        return True

    def found(self, agent: Agent) -> bool:
        """What an agent without a session says of itself; whether it is news."""
        agent = evolve(agent, session_id=None)
        if self.has_session(agent.id) or self._agents.get(agent.id) == agent:
            return False
        self._keep(agent)
        self._saved[agent.id] = agent.last_seen
        return True

    def adopt(self, agent: Agent) -> bool:
        """One that was given its name where it first spoke; whether its session is news."""
        if agent.session_id is None or self.knows(agent.session_id) or self.has_session(agent.id):
            return False
        self._keep(agent)
        self._saved[agent.id] = agent.last_seen
        return True

    def has_session(self, name: str) -> bool:
        """Whether there is such an agent, in a session of its own."""
        agent = self._agents.get(name)
        return agent is not None and agent.session_id is not None

    def known_by_directory(self) -> Iterator[Agent]:
        """Those that are reached through the latest session in their directory."""
        return (agent for agent in self._agents.values() if agent.is_known_by_directory)

    def disconnect(self, name: str) -> Agent:
        """The agent's session is gone; the agent stays, without one."""
        agent = evolve(self._agents[name], session_id=None)
        self._keep(agent)
        self._saved.pop(name, None)
        return agent

    def to_save(self, name: str) -> Agent | None:
        """The agent, if it differs enough from what was saved last; it counts as saved now."""
        agent = self._agents[name]
        saved = self._saved.get(name)
        if saved is not None and agent.last_seen - saved < _APART:
            return None
        self._saved[name] = agent.last_seen
        return agent

    def _keep(self, agent: Agent) -> None:
        self._agents[agent.id] = agent
        if agent.session_id is not None:
            self._by_session[agent.session_id] = agent.id
