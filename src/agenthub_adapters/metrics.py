"""What the hub counts, by prometheus-client, under the names of opencode-agent-hub.

Observes events and actions; decides nothing. The registry is the caller's own: nothing is counted
globally, and nothing happens at import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, write_to_textfile

from agenthub_core import Action, Event, Outcome, Prompt
from agenthub_core.protocol import (
    Inject,
    Injected,
    InjectFailed,
    MalformedArrived,
    MessageArrived,
    MessageWithdrawn,
    Notify,
    Settle,
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
        self._refused = counter("injections_failed", "Injections that failed")
        self._agents = counter("agents_auto_created", "Sessions that became agents")
        self._waiting: set[str] = set()
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
            case MessageWithdrawn(key=key):
                self._waiting.discard(key)
            case MalformedArrived():
                self._failed.inc()
            case Injected():
                self._injections.inc()
            case InjectFailed():
                self._refused.inc()
            case _:
                pass

    def _count_action(self, action: Action) -> None:
        match action:
            case Settle(settlement=settlement) if settlement.key in self._waiting:
                self._waiting.discard(settlement.key)
                if settlement.outcome not in (Outcome.DELIVERED, Outcome.READ):
                    self._failed.inc()
            case Inject(prompt=Prompt(repeated=True)):
                self._retried.inc()
            case Notify(topic="agent.registered"):
                self._agents.inc()
            case _:
                pass

    def totals(self) -> dict[str, float]:
        """Every figure by its exported name."""
        return {
            sample.name: sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }

    def write(self, path: Path) -> None:
        """Export all figures; a reader never sees half a file."""
        write_to_textfile(str(path), self.registry)
