"""The promises, against whatever can go wrong, in any order.

A whole hub works in memory, on workers that take their tasks in any order. Hypothesis writes,
rewrites and withdraws messages, opens and closes sessions, lets the relay and the store fail in all
their ways, lets time pass, and kills the hub. After each of these steps the promises hold, and when
everything is whole again, everything comes to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agenthub_core import (
    EVERYONE,
    Action,
    Agent,
    Broker,
    Event,
    Fault,
    Hub,
    Message,
    Orientation,
    Outcome,
    Policy,
    Priority,
    Prompt,
    PromptInvalid,
    PromptNotHeld,
    Reading,
    Receipt,
    RelayError,
    RelayRefused,
    RelayUnreachable,
    SessionBusy,
    SessionUnknown,
    Settlement,
    StoreUnreadable,
    StoreUnwritable,
    TurnFailed,
    TurnState,
)
from agenthub_core.model import Usage
from agenthub_core.prompts import prompt_id
from agenthub_core.protocol import (
    Inject,
    Injected,
    InjectFailed,
    MessageArrived,
    MessageWithdrawn,
    NotInjected,
    Orient,
    Oriented,
    OrientFailed,
    SessionCompacted,
    SessionFreed,
    Settle,
    Settled,
    TurnEnded,
)
from agenthub_core.testing import ManualClock, MemoryRelay, MemoryStore
from tests.unit.builders import FAULT, Later, agent, message, of, seconds, session

PEOPLE = ["alice", "bob", "carol"]
SENDERS = st.sampled_from(PEOPLE)
SLUGS = st.sampled_from(PEOPLE)
STRANGERS = st.sampled_from([*PEOPLE, "nobody"])
RECIPIENTS = st.sampled_from([*PEOPLE, *PEOPLE, "polly", EVERYONE, "nobody"])
ERRORS = st.sampled_from(
    [
        RelayError("something else"),
        RelayUnreachable("connection refused"),
        RelayRefused("it wants a password"),
        SessionUnknown("deleted"),
        SessionBusy("at work"),
        PromptInvalid("too long"),
        PromptNotHeld("never stored"),
        TurnFailed("no such model"),
    ]
)
AGES = st.sampled_from([0, 0, 1, 60, 3000, -60])
PICKS = st.integers(0, 20)

POLICY = Policy(workers=2, batch=3, orientation=Orientation())
LONG_ENOUGH = timedelta(minutes=3)  # for the slowest retry to come round, and what it holds up


class FlakyStore(MemoryStore):
    """Some calls fail, a settling perhaps in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0

    def waiting(self) -> list[str]:
        return sorted(super().keys())

    def lies_under(self, key: str) -> Reading:
        return super().read(key)

    def _unlucky(self) -> bool:
        unlucky = self.failures > 0
        self.failures -= unlucky
        return unlucky

    def keys(self) -> Sequence[str]:
        if self._unlucky():
            raise StoreUnreadable("gone")
        return super().keys()

    def read(self, key: str) -> Reading:
        if self._unlucky():
            raise StoreUnreadable("gone")
        return super().read(key)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if self._unlucky():
            super().settle(settlements[: len(settlements) // 2])
            raise StoreUnwritable("full")
        super().settle(settlements)

    def quarantine(self, key: str, fault: Fault) -> None:
        if self._unlucky():
            raise StoreUnwritable("full")
        super().quarantine(key, fault)

    def save_agent(self, agent: Agent) -> None:
        if self._unlucky():
            raise StoreUnwritable("full")
        super().save_agent(agent)


class FlakyRelay(MemoryRelay):
    """Some answers are lost after all was done. It remembers what it was given, and when."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.time = clock
        self.lost_answers = 0
        self.given: dict[tuple[str, str], datetime] = {}
        self.asked: dict[str, list[Prompt]] = {}
        """What the hub said that it would give to a session, in this order."""

    def inject_all(self, prompts: Sequence[Prompt]) -> tuple[Sequence[Receipt], RelayError | None]:
        (session_id,) = {prompt.session_id for prompt in prompts}
        assert list(prompts) == self.asked.pop(session_id), "in another order, or twice"
        return super().inject_all(prompts)

    def inject(self, prompt: Prompt) -> Receipt:
        asks_first = prompt.repeated or (prompt.session_id, prompt.id) not in self.given
        assert asks_first, "the session may hold it already"
        receipt = super().inject(prompt)
        self.given.setdefault((prompt.session_id, prompt.id), self.time.now())
        if self.lost_answers:
            self.lost_answers -= 1
            raise RelayUnreachable("timed out")
        return receipt

    def heal(self) -> None:
        self.down = None
        self.lost_answers = 0
        self._faults.clear()


class Promises(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = FlakyStore()
        self.relay = FlakyRelay(self.clock)
        self.open: set[str] = set()
        self.written: dict[str, Message] = {}  # by key: what must not be lost
        self.malformed: set[str] = set()
        self.count = 0
        self.checked = 0
        self.begin()

    def begin(self) -> None:
        self.worker, self.writer = Later(), Later()
        self.injecting: dict[str, list[str]] = {}
        self.telling: set[str] = set()
        self.leads_to: dict[str, str] = {}
        self.relay.asked.clear()
        self.waiting: dict[str, tuple[str, int, datetime]] = {}
        self.settling: dict[str, Message] = {}
        self.settled: Counter[Message] = Counter()
        self.broker = Broker(POLICY, agents=self.store.agents(), oriented=self.store.oriented())
        self.hub = Hub(
            broker=self.broker,
            store=self.store,
            relay=self.relay,
            clock=self.clock,
            executor=self.worker,
            writer=self.writer,
            observers=[self.observe],
        )

    # ------------------------------------------------------------- what the hub says it does

    def observe(self, event: Event, actions: Sequence[Action]) -> None:
        match event:
            case MessageArrived(key=key, message=written) if key not in self.settling:
                self.waiting[key] = written.recipient, written.priority.rank, written.timestamp
            case MessageWithdrawn(key=key) if not self.broker.knows(key):
                self.waiting.pop(key, None)
            case Injected() | InjectFailed() | NotInjected():
                self.one_has_ended(event.key, event.recipient)
            case Oriented() | OrientFailed():
                self.telling.remove(event.recipient)
            case Settled(key=key):
                assert key not in {each for keys in self.injecting.values() for each in keys}
                self.settled[self.settling.pop(key)] += 1
        for settle in of(Settle, actions):
            self.waiting.pop(settle.settlement.key, None)
            self.settling[settle.settlement.key] = settle.settlement.message
        for orient in of(Orient, actions):
            session_id = orient.prompt.session_id
            assert session_id not in self.busy_sessions(), "not idle"
            self.leads_to[orient.recipient] = session_id
            self.telling.add(orient.recipient)
        for recipient, together in groupby(of(Inject, actions), attrgetter("recipient")):
            self.check_injections(recipient, list(together))

    def one_has_ended(self, key: str, recipient: str) -> None:
        under_way = self.injecting[recipient]
        assert under_way.pop(0) == key, "told of in another order"
        if not under_way:
            del self.injecting[recipient]

    def busy_sessions(self) -> set[str]:
        """Where something is on its way to, under whichever name."""
        return {self.leads_to[recipient] for recipient in {*self.injecting, *self.telling}}

    def check_injections(self, recipient: str, injects: Sequence[Inject]) -> None:
        assert recipient not in {*self.injecting, *self.telling}, "two at once for one recipient"
        (session_id,) = {inject.prompt.session_id for inject in injects}
        assert session_id not in self.busy_sessions(), "two at once for one session"
        keys = [inject.key for inject in injects]
        assert len(set(keys)) == len(keys) <= POLICY.batch
        self.leads_to[recipient] = session_id
        self.injecting[recipient] = keys
        self.relay.asked[session_id] = [inject.prompt for inject in injects]
        assert len(self.injecting) <= POLICY.workers
        others = {key: place for key, (name, *place) in self.waiting.items() if name == recipient}
        for key in keys:
            _, *place = self.waiting[key]
            others.pop(key, None)
            assert place <= min(others.values(), default=place), "another one was to go first"

    # -------------------------------------------------------------------------------- senders

    @initialize(ages=st.lists(st.tuples(RECIPIENTS, AGES, st.sampled_from(Priority)), max_size=6))
    def some_wait_already(self, ages: list[tuple[str, int, Priority]]) -> None:
        for recipient, age, priority in ages:
            self.write("alice", recipient, priority, age, hint=False)
        for slug in PEOPLE:
            self.is_active(slug)

    @rule(
        sender=SENDERS,
        recipient=RECIPIENTS,
        priority=st.sampled_from(Priority),
        age=AGES,
        hint=st.booleans(),
    )
    def write(self, sender: str, recipient: str, priority: Priority, age: int, hint: bool) -> None:
        self.count += 1
        if recipient == "polly" and sender == "bob":
            sender = "alice"  # for they are one, and nobody is woken by their own words
        written = message(
            id=f"m{self.count}",
            sender=sender,
            recipient=recipient,
            priority=priority,
            content=f"<{self.count}>",
            timestamp=self.clock.now() - seconds(age),
        )
        key = self.store.put(written)
        self.written[key] = written
        if hint:
            self.hub.hint(key)

    @rule(
        recipient=RECIPIENTS,
        priorities=st.lists(st.sampled_from(Priority), min_size=2, max_size=5),
        hint=st.booleans(),
    )
    def write_several(self, recipient: str, priorities: list[Priority], hint: bool) -> None:
        for priority in priorities:
            self.write("alice", recipient, priority, 0, hint)

    @rule()
    def write_what_is_no_message(self) -> None:
        self.count += 1
        key = f"bad{self.count}"
        self.store.put_malformed(key, FAULT)
        self.malformed.add(key)
        self.hub.hint(key)

    @precondition(lambda self: self.store.waiting())
    @rule(pick=PICKS, how=st.sampled_from(["words", "extra", "read"]), hint=st.booleans())
    def rewrite(self, pick: int, how: str, hint: bool) -> None:
        self.count += 1
        key = self.pick(pick)
        if key in self.malformed:
            self.malformed.remove(key)
            written = message(id=key, content=f"<{self.count}>", timestamp=self.clock.now())
        elif how == "words":
            written = evolve(self.written[key], content=f"<{self.count}>")
        elif how == "extra":
            written = evolve(self.written[key], extra={"version": self.count})
        else:
            written = evolve(self.written[key], read=True, extra={"version": self.count})
        self.store.overwrite(key, written)
        self.written[key] = written
        if hint:
            self.hub.hint(key)

    @precondition(lambda self: self.store.waiting())
    @rule(pick=PICKS)
    def withdraw(self, pick: int) -> None:
        key = self.pick(pick)
        self.store.withdraw(key)
        self.written.pop(key, None)
        self.malformed.discard(key)

    def pick(self, number: int) -> str:
        keys = self.store.waiting()
        return keys[number % len(keys)]

    # ------------------------------------------------------------------------------- sessions

    @rule(slug=SLUGS)
    def is_active(self, slug: str) -> None:
        self.relay.open(session(slug, updated=self.clock.now()))
        self.open.add(slug)

    @rule()
    def bob_goes_by_another_name(self) -> None:
        self.store.register_agent(
            agent("polly", session_id=None, slug="", role="reviewer", directory="/projects/bob")
        )
        self.hub.look_up("polly")

    @precondition(lambda self: self.open)
    @rule(slug=SLUGS)
    def closes(self, slug: str) -> None:
        if slug in self.open:
            self.open.remove(slug)
            self.relay.close(f"ses_{slug}")

    @rule(slug=SLUGS, busy=st.booleans())
    def works_elsewhere(self, slug: str, busy: bool) -> None:
        if slug in self.open:
            self.relay.work_elsewhere(f"ses_{slug}", busy=busy)

    @rule(slug=SLUGS)
    def becomes_free_and_tells(self, slug: str) -> None:
        self.works_elsewhere(slug, busy=False)
        self.tells_of_freedom(slug)

    @rule(slug=STRANGERS)
    def tells_of_freedom(self, slug: str) -> None:
        self.hub.tell(SessionFreed(session_id=f"ses_{slug}"))

    @rule(slug=STRANGERS)
    def tells_of_a_compaction(self, slug: str) -> None:
        self.hub.tell(SessionCompacted(session_id=f"ses_{slug}"))

    @rule(slug=STRANGERS, caused=st.booleans())
    def tells_of_a_turn(self, slug: str, caused: bool) -> None:
        now, session_id = self.clock.now(), f"ses_{slug}"
        ended = TurnEnded(
            session_id=session_id, began=now, ended=now, usage=Usage(output=1), caused=caused
        )
        self.hub.tell(ended)

    @rule(slug=SLUGS, state=st.sampled_from(TurnState))
    def turn_ends(self, slug: str, state: TurnState) -> None:
        if slug in self.open:
            error = TurnFailed("no such model") if state is TurnState.FAILED else None
            self.relay.end_turn(f"ses_{slug}", state, error)

    # --------------------------------------------------------------------------------- faults

    @rule(errors=st.lists(ERRORS, min_size=1, max_size=5))
    def injections_fail(self, errors: list[RelayError]) -> None:
        self.relay.fail_with(*errors)

    @rule()
    def an_answer_gets_lost(self) -> None:
        self.relay.lost_answers += 1

    @rule(error=st.one_of(st.none(), st.none(), ERRORS))
    def the_relay_goes_down_or_comes_up(self, error: RelayError | None) -> None:
        self.relay.down = error

    @rule(times=st.integers(1, 5))
    def the_store_fails(self, times: int) -> None:
        self.store.failures = times

    @rule()
    def the_hub_is_killed(self) -> None:
        self.begin()

    # --------------------------------------------------------------------- time, and the work

    @rule(passed=st.sampled_from([0, 0.2, 0.2, 1, 1, 5, 5, 60, 1800]))
    def the_hub_steps(self, passed: float) -> None:
        self.clock.advance(seconds(passed))
        self.hub.step()

    @precondition(lambda self: self.worker.tasks)
    @rule(picks=st.lists(PICKS, min_size=1, max_size=3), heard=st.booleans())
    def the_workers_work(self, picks: list[int], heard: bool) -> None:
        for pick in picks[: len(self.worker.tasks)]:
            self.worker.run(pick % len(self.worker.tasks))
        if heard:
            self.hub.step()

    @precondition(lambda self: self.writer.tasks)
    @rule(heard=st.booleans())
    def the_writer_works(self, heard: bool) -> None:
        self.writer.run()
        if heard:
            self.hub.step()

    @rule(passed=st.sampled_from([0, 1, 5]))
    def all_work(self, passed: float) -> None:
        self.clock.advance(seconds(passed))
        self.hub.step()
        while self.worker.tasks or self.writer.tasks:
            for each in (self.worker, self.writer):
                if each.tasks:
                    each.run()
            self.hub.step()

    @rule()
    def all_go_on_working(self) -> None:
        for _ in range(3):
            self.all_work(1)

    # --------------------------------------------------------------------------- the promises

    @invariant()
    def nothing_is_lost(self) -> None:
        archived = {each.message.digest for each in self.store.archive}
        for key, written in self.written.items():
            assert self.store.lies_under(key) == written or written.digest in archived
        for key in self.malformed:
            assert key in self.store.waiting() or key in self.store.quarantined

    @invariant()
    def nothing_is_settled_twice(self) -> None:
        assert all(times == 1 for times in self.settled.values())
        archived = Counter(each.message.digest for each in self.store.archive)
        assert all(times == 1 for times in archived.values())

    @invariant()
    def no_session_holds_anything_twice(self) -> None:
        for slug in self.open:
            held = [prompt.id for prompt in self.relay.held(f"ses_{slug}")]
            assert len(set(held)) == len(held)

    @invariant()
    def what_is_settled_ended_as_the_archive_says(self) -> None:
        for settlement in self.store.archive[self.checked :]:
            written = settlement.message
            if settlement.outcome is Outcome.DELIVERED:
                assert settlement.deliveries
                for delivery in settlement.deliveries:
                    assert delivery.session_id is not None
                    assert delivery.held_at is not None
                    identity = prompt_id(written, delivery.recipient)
                    assert self.relay.given[delivery.session_id, identity] <= delivery.held_at
            elif settlement.outcome is Outcome.EXPIRED:
                assert settlement.at >= written.timestamp - seconds(60) + POLICY.message_ttl
        self.checked = len(self.store.archive)

    @invariant()
    def every_session_is_one_agent(self) -> None:
        sessions = Counter(each.session_id for each in self.broker.agents if each.session_id)
        assert all(times == 1 for times in sessions.values())

    def teardown(self) -> None:
        """When all is whole again, all is delivered that can be, and in the end all is settled."""
        self.relay.heal()
        self.store.failures = 0
        ends = self.clock.now() + LONG_ENOUGH
        while self.clock.now() < ends:
            for slug in PEOPLE:
                self.is_active(slug)
                self.works_elsewhere(slug, busy=False)
            self.all_work(1)
        here = {each.id for each in self.broker.agents if each.session_id} | {EVERYONE}
        waiting = [self.store.lies_under(key) for key in self.store.waiting()]
        assert not [
            each for each in waiting if isinstance(each, Message) and each.recipient in here
        ]
        assert [*self.injecting, *self.telling, *self.relay.asked] == []
        self.clock.advance(POLICY.message_ttl)
        for _ in range(3):
            self.all_work(5)
        assert self.store.waiting() == []
        assert not self.broker.pending
        self.nothing_is_lost()
        self.what_is_settled_ended_as_the_archive_says()


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=80, stateful_step_count=50)
