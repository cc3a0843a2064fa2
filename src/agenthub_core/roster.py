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
        name = self._by_session.get(session_id)
        return None if name is None else self._agents[name]

    def register(self, session: Session) -> Agent:
        """The new agent that an unknown session becomes."""
        agent = Agent(
            id=agent_id(session, self._agents),
            session_id=session.id,
            directory=session.directory,
            slug=session.slug,
            last_seen=session.updated,
        )
        self._keep(agent)
        return agent

    def seen(self, agent: Agent, when: datetime) -> bool:
        """The agent's session was active; whether that is news."""
        if when <= agent.last_seen:
            return False
        self._keep(evolve(agent, last_seen=when))
        return True

    def disconnect(self, name: str) -> Agent:
        """The agent's session is gone; the agent stays, without one."""
        agent = self._agents[name]
        if agent.session_id is not None:
            self._by_session.pop(agent.session_id, None)
        agent = evolve(agent, session_id=None)
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
