"""What the hub counts, by prometheus-client, under the names of opencode-agent-hub.

Observes events and actions; decides nothing. The registry is the caller's own: nothing is counted
globally, and nothing happens at import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, write_to_textfile

from agenthub_core import Action, Event, Prompt, Settlement, StoreUnwritable, Usage
from agenthub_core.model import COORDINATOR
from agenthub_core.protocol import (
    Inject,
    Injected,
    MalformedArrived,
    MessageArrived,
    MessageWithdrawn,
    Notify,
    Oriented,
    Quarantined,
    SessionOpened,
    SessionsListed,
    Settle,
    Settled,
)


@frozen(kw_only=True)
class Prices:
    """US dollars for a million tokens, of a model for which OpenCode knows no price."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float = 0.0
    cache_write: float = 0.0

    def cost(self, usage: Usage) -> float:
        """What the tokens cost: as OpenCode has it, else by these prices."""
        return (
            usage.cost
            or (
                usage.input * self.input
                + usage.output * self.output
                + usage.cache_read * self.cache_read
                + usage.cache_write * self.cache_write
            )
            / 1_000_000
        )


def named(name: str, labels: Mapping[str, str]) -> str:
    """A figure's name as it stands in the exported file."""
    told = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{told}}}" if told else name


class Metrics:
    """An `Observer` of the hub that counts. `prices` are for the coordinator's model."""

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = prices or Prices()
        self.registry = CollectorRegistry()

        def counter(name: str, text: str) -> Counter:
            return Counter(f"agent_hub_{name}", text, registry=self.registry)

        def labelled(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"agent_hub_{name}", text, ["agent", *labels], registry=self.registry)

        self._messages = counter("messages", "Messages that arrived")
        self._failed = counter("messages_failed", "Messages that became dead letters")
        self._injections = counter("injections", "Prompts that a session holds")
        self._retried = counter("injections_retried", "Injections that were tried again")
        self._refused = counter("injections_failed", "Injections that failed after retries")
        self._agents = counter("agents_auto_created", "Sessions that became agents")
        self._oriented = counter("sessions_oriented", "Sessions that were told who they are")
        self._turns = labelled("agent_turns", "Turns that it has worked", "cause")
        self._busy = labelled("agent_busy_seconds", "How long it has worked")
        self._idle = labelled("agent_idle_seconds", "How long it has not, between two turns")
        self._tokens = labelled("agent_tokens", "Tokens that its turns have used", "kind")
        self._cost = labelled("agent_cost_usd", "What its turns have cost, in US dollars")
        self._rested: dict[str, datetime] = {}
        self._waiting: set[str] = set()
        # what was counted as ended and still lies in the store: it may be told of again
        self._ending: set[str] = set()
        self._malformed: set[str] = set()
        self._coordinator = ""
        self._usage = Usage()

        def gauge(name: str, text: str, figure: Callable[[], float]) -> None:
            Gauge(f"agent_hub_{name}", text, registry=self.registry).set_function(figure)

        gauge("message_queue_size", "Messages that wait", lambda: len(self._waiting))
        self._introductions = counter("coordinator_messages", "Messages that it has written")
        # of its session as OpenCode counts them: they begin anew with another session
        of_its = "Tokens of the coordinator's session: "
        gauge("coordinator_tokens_input", f"{of_its}read", lambda: self._usage.input)
        gauge("coordinator_tokens_output", f"{of_its}written", lambda: self._usage.output)
        gauge(
            "coordinator_tokens_cache_read",
            f"{of_its}read from its provider's cache",
            lambda: self._usage.cache_read,
        )
        gauge(
            "coordinator_tokens_cache_write",
            f"{of_its}written into it",
            lambda: self._usage.cache_write,
        )
        gauge(
            "coordinator_estimated_cost_usd",
            "What the coordinator's session has cost, in US dollars",
            lambda: self._prices.cost(self._usage),
        )

    def __call__(self, event: Event, actions: Sequence[Action]) -> None:
        self._count_event(event)
        for action in actions:
            self._count_action(action)

    def _count_event(self, event: Event) -> None:
        match event:
            case MessageArrived(key=key, message=message) if key not in self._waiting:
                # only the first time: it is told of again whenever its file is touched
                self._messages.inc()
                self._waiting.add(key)
                self._malformed.discard(key)
                if message.sender == COORDINATOR:
                    self._introductions.inc()
            case MessageWithdrawn(key=key) | Settled(key=key):
                self._waiting.discard(key)
                self._ending.discard(key)
            case MalformedArrived(key=key) if key not in self._malformed:
                self._failed.inc()
                self._malformed.add(key)
            case Quarantined(key=key):
                self._malformed.discard(key)
            case Injected():
                self._injections.inc()
            case Oriented():
                self._oriented.inc()
            case SessionOpened(session=session):
                self._coordinator, self._usage = session.id, session.usage
            case SessionsListed(sessions=sessions):
                self._usage = next(
                    (each.usage for each in sessions if each.id == self._coordinator), self._usage
                )
            case _:
                pass

    def _count_action(self, action: Action) -> None:
        match action:
            case Settle(settlement=settlement) if settlement.key not in self._ending:
                self._ending.add(settlement.key)
                self._count_end(settlement)
            case Inject(prompt=Prompt(repeated=True)):
                self._retried.inc()
            case Notify(topic="agent.registered"):
                self._agents.inc()
            case Notify(topic="turn.ended", fields=fields):
                self._count_turn(fields)
            case _:
                pass

    def _count_turn(self, fields: Mapping[str, str | int | float]) -> None:
        agent, seconds = str(fields["agent"]), float(fields["seconds"])
        began = datetime.fromisoformat(str(fields["began"]))
        rested = self._rested.get(agent)
        if rested is not None:
            self._idle.labels(agent).inc(max((began - rested).total_seconds(), 0))
        self._rested[agent] = began + timedelta(seconds=seconds)
        self._turns.labels(agent, fields["cause"]).inc()
        self._busy.labels(agent).inc(seconds)
        for kind in ("input", "output", "cache_read", "cache_write"):
            self._tokens.labels(agent, kind).inc(float(fields[kind]))
        self._cost.labels(agent).inc(float(fields["cost"]))

    def _count_end(self, settlement: Settlement) -> None:
        if settlement.outcome.is_dead_letter:
            self._failed.inc()
        for delivery in settlement.deliveries:
            if delivery.attempts and delivery.held_at is None:
                self._refused.inc()

    def totals(self) -> dict[str, float]:
        """Every figure by its exported name, with its labels."""
        return {
            named(sample.name, sample.labels): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }

    def write(self, path: Path) -> None:
        """Export all figures; a reader never sees half a file. Raises `StoreUnwritable`."""
        try:
            write_to_textfile(str(path), self.registry)
        except OSError as error:
            raise StoreUnwritable(f"{path} cannot be written: {error.strerror}") from error
