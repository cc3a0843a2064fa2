"""How often, how long, how soon: pure functions of what happened and when.

A policy is a frozen value whose fields come from the settings; the broker asks it and obeys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from attrs import Attribute, field, frozen

from agenthub_core.errors import InvalidValue
from agenthub_core.model import fingerprint


def _positive(_: object, attribute: Attribute[timedelta], value: timedelta) -> None:
    if value <= timedelta(0):
        raise InvalidValue(attribute.name, str(value), "a duration longer than zero")


def _not_negative(_: object, attribute: Attribute[timedelta], value: timedelta) -> None:
    if value < timedelta(0):
        raise InvalidValue(attribute.name, str(value), "a duration of zero or longer")


def _at_least(minimum: int) -> Callable[[object, Attribute[int], int], None]:
    def validate(_: object, attribute: Attribute[int], value: int) -> None:
        if value < minimum:
            raise InvalidValue(attribute.name, str(value), f"a number of {minimum} or more")

    return validate


@frozen(kw_only=True)
class Backoff:
    """When to try again: `quick` tries close together, then ever slower ones up to `ceiling`.

    The quick ones bridge a hiccup; the slow ones keep a broken session from costing anything.
    """

    quick: int = field(default=3, validator=_at_least(0))
    """Quick tries after the first (AGENT_HUB_INJECTION_RETRIES)."""
    first: timedelta = field(default=timedelta(milliseconds=200), validator=_positive)
    """Before the first quick retry; each further one waits twice as long."""
    slow: timedelta = field(default=timedelta(seconds=10), validator=_positive)
    """Before the first slow retry; each further one waits twice as long."""
    ceiling: timedelta = field(default=timedelta(seconds=60), validator=_positive)

    def exhausted(self, failures: int) -> bool:
        """Whether the quick tries are used up after so many failures in a row."""
        return failures > self.quick

    def delay(self, failures: int, seed: str) -> timedelta:
        """How long to wait after so many failures (1 or more) in a row.

        Up to a quarter is taken off, by the seed: neighbours that failed together do not come back
        together, and the same history gives the same delay.
        """
        base, doublings = (
            (self.slow, failures - self.quick - 1)
            if self.exhausted(failures)
            else (self.first, failures - 1)
        )
        # 2**16 times any base is beyond every ceiling; more would overflow a timedelta in a year
        whole: timedelta = min(base * (1 << min(doublings, 16)), self.ceiling)
        share = int(fingerprint(seed, str(failures))[:4], 16) / 0xFFFF
        return whole * (1 - share / 4)


@frozen(kw_only=True)
class RateLimit:
    """How often one agent may write (AGENT_HUB_RATE_LIMIT_*)."""

    maximum: int = field(default=10, validator=_at_least(1))
    """Messages within a window."""
    window: timedelta = field(default=timedelta(seconds=300), validator=_positive)
    cooldown: timedelta = field(default=timedelta(0), validator=_not_negative)
    """Between two messages."""

    @property
    def horizon(self) -> timedelta:
        """What was written longer ago than this counts no more."""
        return max(self.window, self.cooldown)

    def wait(self, written: Iterable[datetime], when: datetime) -> timedelta:
        """How long after `when` the next message may follow those; zero if it may at once."""
        times = sorted(each for each in written if each <= when)
        waits = [timedelta(0)]
        if len(times) >= self.maximum:
            waits.append(times[-self.maximum] + self.window - when)
        if times:
            waits.append(times[-1] + self.cooldown - when)
        return max(waits)

    def left(self, written: Iterable[datetime], when: datetime) -> int:
        """How many messages may follow those within the window."""
        used = sum(when - self.window < each <= when for each in written)
        return max(self.maximum - used, 0)


@frozen(kw_only=True)
class Orientation:
    """How a session is told who it is."""

    after: timedelta = field(default=timedelta(milliseconds=500), validator=_positive)
    """How long after the session began: a window's first prompt is there in 0.2 s, and what does
    not wake must not meet it on the way."""
    retries: int = field(default=2, validator=_at_least(0))
    """Further tries for one that did not take it in (AGENT_HUB_ORIENTATION_RETRY_MAX)."""
    delay: timedelta = field(default=timedelta(seconds=60), validator=_positive)
    """Before each of them (AGENT_HUB_ORIENTATION_RETRY_DELAY)."""
    wakes: bool = False
    """Whether its model answers it, which costs a turn in every session (orientation.wake)."""


@frozen(kw_only=True)
class Coordination:
    """The session of the hub's own that introduces the agents to one another."""

    directory: str
    """Where it works (AGENT_HUB_COORDINATOR_DIR)."""
    model: str
    """Provider and model, as in `SessionSpec` (AGENT_HUB_COORDINATOR_MODEL)."""


@frozen(kw_only=True)
class Policy:
    """Every number that the broker obeys."""

    message_ttl: timedelta = field(default=timedelta(seconds=3600), validator=_positive)
    """How long a message waits for its recipient (AGENT_HUB_MESSAGE_TTL)."""
    agent_stale: timedelta = field(default=timedelta(seconds=3600), validator=_positive)
    """How long after its last activity an agent still receives broadcasts."""
    session_poll: timedelta = field(default=timedelta(seconds=5), validator=_positive)
    """Between two listings of the sessions (AGENT_HUB_SESSION_POLL)."""
    listing_overlap: timedelta = field(default=timedelta(seconds=10), validator=_positive)
    """How far a listing looks back beyond the last one: a session's time of update is set in
    another process, a little before it can be seen here."""
    session_cache: timedelta = field(default=timedelta(seconds=10), validator=_positive)
    """How long a listing holds for whoever looks for a recipient, and what the store said of those
    that wait for one (AGENT_HUB_SESSION_CACHE_TTL)."""
    listing_gap: timedelta = field(default=timedelta(milliseconds=250), validator=_positive)
    """Between two listings at least, however much is done: one costs OpenCode 3 ms, and a turn
    writes into its database 400 times."""
    relay_probe: timedelta = field(default=timedelta(seconds=1), validator=_positive)
    """Between two listings while the relay does not answer: its return is felt at once."""
    relay_rest: timedelta = field(default=timedelta(seconds=2), validator=_positive)
    """After the relay was away, before it is given messages: the windows on an OpenCode server that
    has come back are on it again in 1.3 s, and never show what arrived before."""
    busy_wait: timedelta = field(default=timedelta(seconds=1), validator=_positive)
    """Before a session that is at work in another process is looked at again."""
    turn_check: timedelta = field(default=timedelta(seconds=1), validator=_positive)
    """After a delivery, before its turn is looked at: an unknown model has failed by then."""
    settle_retry: timedelta = field(default=timedelta(seconds=5), validator=_positive)
    """Before the store is asked again to settle what it could not (a full disk)."""
    workers: int = field(default=4, validator=_at_least(1))
    """Injections under way at once (AGENT_HUB_INJECTION_WORKERS)."""
    batch: int = field(default=100, validator=_at_least(1))
    """Messages that are handed to one session at once: OpenCode needs some 8 ms for each, but 30
    for each request while it is at work."""
    backoff: Backoff = field(factory=Backoff)
    orientation: Orientation | None = None
    """None where nobody is told who they are."""
    coordination: Coordination | None = None
    """None where nobody introduces them."""
    coordination_retry: timedelta = field(default=timedelta(seconds=60), validator=_positive)
    """Before it is tried again to have a coordinator: a person has to do something meanwhile."""
    rate_limit: RateLimit | None = None
    """None where everybody may write as often as they like."""
    require_verified: bool = False
    """Deliver only what is from who it says it is from (AGENT_HUB_REQUIRE_VERIFIED)."""
