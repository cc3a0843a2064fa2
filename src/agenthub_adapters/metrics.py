"""What the hub counts, by prometheus-client, under the names of opencode-agent-hub.

Observes events and actions; decides nothing. The registry is the caller's own: nothing is counted
globally, and nothing happens at import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, write_to_textfile

from agenthub_core import Action, Event, Prompt, Settlement, StoreUnwritable
from agenthub_core.protocol import (
    Inject,
    Injected,
    MalformedArrived,
    MessageArrived,
    MessageWithdrawn,
    Notify,
    Oriented,
    Quarantined,
    Settle,
    Settled,
)


class Metrics:
    """An `Observer` of the hub that counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str) -> Counter:
            return Counter(f"agent_hub_{name}", text, registry=self.registry)

        self._messages = counter("messages", "Messages that arrived")
        self._failed = counter("messages_failed", "Messages that became dead letters")
        self._injections = counter("injections", "Prompts that a session holds")
        self._retried = counter("injections_retried", "Injections that were tried again")
        self._refused = counter("injections_failed", "Injections that failed after retries")
        self._agents = counter("agents_auto_created", "Sessions that became agents")
        self._oriented = counter("sessions_oriented", "Sessions that were told who they are")
        self._waiting: set[str] = set()
        # what was counted as ended and still lies in the store: it may be told of again
        self._ending: set[str] = set()
        self._malformed: set[str] = set()
        size = Gauge("agent_hub_message_queue_size", "Messages that wait", registry=self.registry)
        size.set_function(lambda: len(self._waiting))

    def __call__(self, event: Event, actions: Sequence[Action]) -> None:
        self._count_event(event)
        for action in actions:
            self._count_action(action)

    def _count_event(self, event: Event) -> None:
        match event:
            case MessageArrived(key=key) if key not in self._waiting:
                # only the first time: it is told of again whenever its file is touched
                self._messages.inc()
                self._waiting.add(key)
                self._malformed.discard(key)
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
            case _:
                pass

    def _count_end(self, settlement: Settlement) -> None:
        if settlement.outcome.is_dead_letter:
            self._failed.inc()
        for delivery in settlement.deliveries:
            if delivery.attempts and delivery.held_at is None:
                self._refused.inc()

    def totals(self) -> dict[str, float]:
        """Every figure by its exported name."""
        return {
            sample.name: sample.value
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
