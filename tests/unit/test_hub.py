"""The hub drives the broker through the ports: whole stories, in memory, without a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import pytest
from attrs import evolve

from agenthub_core import (
    EVERYONE,
    Action,
    Agent,
    Broker,
    Coordination,
    Event,
    Executor,
    Hub,
    Message,
    Notify,
    Orientation,
    Outcome,
    Policy,
    Prompt,
    PromptInvalid,
    Reading,
    Receipt,
    RelayError,
    RelayUnreachable,
    Rhythm,
    Session,
    SessionBusy,
    SessionUnknown,
    Settlement,
    StoreError,
    StoreUnreadable,
    StoreUnwritable,
    TurnState,
    Unfinished,
    Unreadable,
)
from agenthub_core.model import Usage
from agenthub_core.protocol import Inject, SessionCompacted, SessionFreed, TurnEnded
from agenthub_core.testing import NOON, ManualClock, MemoryRelay, MemoryStore
from tests.unit.builders import FAULT, Later, agent, message, of, seconds, session, topics

FULL = StoreUnwritable("no space left on the disk")
AWAY = StoreUnreadable("the directory is gone")
TURN_ENDED = TurnEnded(
    session_id="ses_bob", began=NOON, ended=NOON + seconds(1), usage=Usage(), caused=True
)


class Store(MemoryStore):
    """One in which some keys cannot be read as they should; it counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: dict[str, Unfinished | Unreadable | StoreError] = {}
        self.agent_fails: StoreError | None = None
        self.reads: list[str] = []
        self.batches: list[int] = []

    def keys(self) -> Sequence[str]:
        return sorted({*super().keys(), *self.instead})

    def agent(self, agent_id: str) -> Agent | None:
        if self.agent_fails is not None:
            error, self.agent_fails = self.agent_fails, None
            raise error
        return super().agent(agent_id)

    def read(self, key: str) -> Reading:
        self.reads.append(key)
        instead = self.instead.get(key)
        if isinstance(instead, StoreError):
            raise instead
        return instead or super().read(key)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self.batches.append(len(settlements))
        super().settle(settlements)


class LivelyClock(ManualClock):
    """A clock at whose every look something happens: `run` meets a world that goes on by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: Callable[[], object] = lambda: None

    def now(self) -> datetime:
        self.happens()
        return super().now()


class World:
    """A hub, and all that it works with."""

    def __init__(
        self,
        *here: str,
        executor: Executor | None = None,
        writer: Executor | None = None,
        rhythm: Rhythm | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.policy = policy
        self.clock = LivelyClock()
        self.store = Store()
        self.relay = MemoryRelay(map(session, here))
        self.actions: list[Action] = []
        self.executor = executor
        self.writer = writer
        self.rhythm = rhythm
        self.begin()

    def begin(self) -> None:
        """Start the hub; another one, if there was one: that was killed then."""
        self.hub = Hub(
            broker=Broker(self.policy, agents=self.store.agents(), oriented=self.store.oriented()),
            store=self.store,
            relay=self.relay,
            clock=self.clock,
            executor=self.executor,
            writer=self.writer,
            observers=[self.watch],
            rhythm=self.rhythm,
        )

    def watch(self, _: Event, actions: Sequence[Action]) -> None:
        self.actions += actions

    def write(self, *messages: Message, hint: bool = True) -> None:
        for each in messages:
            key = self.store.put(each)
            if hint:
                self.hub.hint(key)

    def steps(self, passed: float = 0) -> None:
        self.clock.advance(seconds(passed))
        self.hub.step()

    def held(self, slug: str = "bob") -> list[str]:
        """What the session holds: the content of each message."""
        texts = [prompt.text for prompt in self.relay.held(f"ses_{slug}")]
        return [text.split(" -----\n")[1].split("\n-----")[0] for text in texts]

    @property
    def repeated(self) -> list[bool]:
        return [inject.prompt.repeated for inject in of(Inject, self.actions)]

    @property
    def archived(self) -> list[tuple[str, Outcome]]:
        return [(each.message.id, each.outcome) for each in self.store.archive]


# -------------------------------------------------------------------------- from end to end


def test_what_waited_before_the_start_is_delivered_and_archived() -> None:
    world = World("bob")
    world.write(message(content="Hello"), hint=False)
    world.steps()
    assert world.held() == ["Hello"]
    assert world.archived == [("m1", Outcome.DELIVERED)]
    assert world.store.keys() == []


def test_what_is_written_later_is_delivered_on_a_hint() -> None:
    world = World("bob")
    world.steps()
    world.write(message())
    world.steps()
    assert world.archived == [("m1", Outcome.DELIVERED)]


def test_a_hint_reads_nothing_but_what_it_names() -> None:
    world = World()
    world.write(*(message(id=f"m{number}") for number in range(5)), hint=False)
    world.steps()
    world.store.reads.clear()
    world.hub.hint("m3")
    world.steps()
    assert world.store.reads == ["m3"]


def test_hints_at_one_key_are_read_together_until_it_was_read() -> None:
    world = World()
    world.write(message(), hint=False)
    world.steps()
    world.store.reads.clear()
    for _ in range(3):
        world.hub.hint("m1")
    world.steps()
    assert world.store.reads == ["m1"]
    world.hub.hint("m1")
    world.steps()
    assert world.store.reads == ["m1", "m1"]


def test_a_missed_hint_is_made_up_for_by_the_next_scan() -> None:
    world = World("bob")
    world.steps()
    world.write(message(), hint=False)
    world.steps(4.9)
    assert world.archived == []
    world.steps(0.1)
    assert world.archived == [("m1", Outcome.DELIVERED)]


def test_a_wrong_hint_does_no_harm() -> None:
    world = World("bob")
    world.steps()
    world.actions.clear()
    world.hub.hint("nothing")
    world.steps()
    assert world.actions == []


def test_agents_are_saved_in_the_store() -> None:
    world = World("bob")
    world.steps()
    assert list(world.store.agents()) == [agent("bob", directory="/projects/bob")]


def test_a_session_that_is_told_of_is_an_agent_at_once() -> None:
    world = World()
    world.steps()
    world.relay.open(session("bob"))
    world.hub.look()
    world.hub.look()
    world.steps(0.25)
    assert [each.id for each in world.store.agents()] == ["bob"]


def test_a_recipient_that_has_registered_itself_is_looked_up_in_the_store() -> None:
    world = World("bob")
    world.steps()
    world.store.register_agent(agent("polly", role="reviewer", directory="/projects/bob"))
    world.write(message(recipient="polly"))
    world.steps()
    assert (world.held(), world.archived) == (["Hello"], [("m1", Outcome.DELIVERED)])


def test_an_agent_that_registers_anew_is_looked_up_on_a_hint() -> None:
    world = World("bob", "ann")
    world.steps()
    world.store.register_agent(agent("polly", role="reviewer", directory="/projects/bob"))
    world.hub.look_up("polly")
    world.steps()
    world.store.register_agent(agent("polly", role="reviewer", directory="/projects/ann"))
    world.hub.look_up("polly")
    world.steps()
    world.write(message(recipient="polly"))
    world.steps()
    assert (world.held("bob"), world.held("ann")) == ([], ["Hello"])


def test_where_the_store_cannot_be_asked_for_a_recipient_it_is_asked_again() -> None:
    world = World("bob")
    world.steps()
    world.store.register_agent(agent("polly", role="reviewer", directory="/projects/bob"))
    world.write(message(recipient="polly"), hint=False)
    world.store.agent_fails = AWAY
    world.steps(5)
    assert "store.failed" in topics(world.actions)
    world.steps(5)
    assert world.archived == [("m1", Outcome.DELIVERED)]


COORDINATED = Policy(coordination=Coordination(directory="/hub", model="fake/echo"))


def test_the_coordinator_is_told_of_a_new_agent_as_others_are_of_a_message() -> None:
    world = World(policy=COORDINATED)
    world.steps()
    world.relay.open(session("bob"))
    world.steps(5)
    (own,) = [each.session_id for each in world.store.agents() if each.id == "coordinator"]
    (told,) = world.relay.held(str(own))
    assert "NEW_AGENT: bob at /projects/bob" in told.text
    assert world.archived == [("new-agent-bob", Outcome.DELIVERED)]


def test_a_coordinator_that_is_replaced_is_told_once_of_who_was_not_yet_introduced() -> None:
    world = World(policy=COORDINATED)
    world.steps()
    (first,) = [each.session_id for each in world.store.agents() if each.id == "coordinator"]
    world.relay.close(str(first))
    world.relay.open(session("bob"))
    world.steps(5)
    (second,) = [each.session_id for each in world.store.agents() if each.id == "coordinator"]
    (told,) = world.relay.held(str(second))
    assert "NEW_AGENT: bob" in told.text
    assert world.store.introduced() == {str(first): {"bob"}, str(second): {"bob"}}


def test_where_the_coordinators_model_is_unknown_the_rest_goes_on() -> None:
    world = World("bob", policy=COORDINATED)
    world.relay.models = set()
    world.write(message())
    world.steps()
    assert "coordinator.missing" in topics(world.actions)
    assert world.archived == [("m1", Outcome.DELIVERED)]
    world.relay.models = None
    world.steps(60)
    assert "coordinator.here" in topics(world.actions)


def test_where_an_introduction_cannot_be_written_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise FULL

    world = World("bob", policy=COORDINATED)
    monkeypatch.setattr(world.store, "put", fail)
    world.steps()
    assert "store.failed" in topics(world.actions)


TELLING = Policy(orientation=Orientation(after=timedelta(microseconds=1)))


def test_a_new_session_is_told_who_it_is_once_in_all_runs() -> None:
    world = World("bob", policy=TELLING)
    world.steps()
    world.steps(1)
    (told,) = world.relay.held("ses_bob")
    assert ('"bob"' in told.text, told.wakes, world.relay.turns("ses_bob")) == (True, False, 0)
    assert world.store.oriented() == {"ses_bob"}
    world.begin()
    world.steps()
    assert len(world.relay.held("ses_bob")) == 1


def test_who_cannot_be_told_now_is_told_later() -> None:
    world = World("bob", policy=TELLING)
    world.relay.work_elsewhere("ses_bob", busy=True)
    world.steps()
    assert world.relay.held("ses_bob") == ()
    world.relay.work_elsewhere("ses_bob", busy=False)
    world.steps(5)
    assert len(world.relay.held("ses_bob")) == 1


def test_where_the_store_could_not_keep_who_was_told_they_still_hold_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise FULL

    world = World("bob", policy=TELLING)
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "save_oriented", fail)
        world.steps()
        world.steps(1)
    assert "store.failed" in topics(world.actions)
    world.begin()
    world.steps()
    assert len(world.relay.held("ses_bob")) == 1
    assert world.store.oriented() == {"ses_bob"}


def test_a_broadcast_reaches_all_but_its_sender() -> None:
    world = World("alice", "bob", "carol")
    world.write(message(recipient=EVERYONE, content="News"))
    world.steps()
    assert [world.held(slug) for slug in ("alice", "bob", "carol")] == [[], ["News"], ["News"]]
    assert world.archived == [("m1", Outcome.DELIVERED)]


def test_what_is_no_message_is_put_aside() -> None:
    world = World()
    world.store.put_malformed("bad", FAULT)
    world.steps()
    assert world.store.quarantined == {"bad": FAULT}
    assert world.store.keys() == []


def test_a_message_that_is_withdrawn_while_it_waits_is_never_delivered() -> None:
    world = World("alice")
    world.write(message())
    world.steps()
    world.store.withdraw("m1")
    world.steps(5)
    world.relay.open(session("bob"))
    world.steps(5)
    assert (world.held(), world.archived) == ([], [])
    assert "message.withdrawn" in topics(world.actions)


def test_while_the_relay_is_down_messages_wait_and_then_all_go_out() -> None:
    world = World("bob")
    world.relay.down = RelayUnreachable("connection refused")
    world.write(message(id="m1", content="first"), message(id="m2", content="second"))
    world.steps()
    world.relay.down = None
    world.steps(1)
    world.steps(2)
    assert world.held() == ["first", "second"]


def test_a_turn_that_was_cut_off_is_run_again() -> None:
    world = World("bob")
    world.relay.answering = False
    world.write(message())
    world.steps()
    world.relay.end_turn("ses_bob", TurnState.ABANDONED)
    for _ in range(3):
        world.steps(1)
    assert world.relay.turns("ses_bob") == 2


@pytest.mark.parametrize("unlucky", range(10))
def test_whichever_call_to_the_relay_fails_the_message_is_held_and_answered(unlucky: int) -> None:
    later, calls = Later(), 0
    world = World("bob", executor=later)
    world.relay.answering = False
    world.write(message())
    for _ in range(30):
        world.steps(1)
        while later.tasks:
            world.relay.down = RelayUnreachable("timed out") if calls == unlucky else None
            later.run()
            calls += 1
            world.steps()
        if world.relay.turns("ses_bob") == 1:
            world.relay.end_turn("ses_bob", TurnState.ABANDONED)
    assert calls > unlucky
    assert world.held() == ["Hello"]
    assert world.archived == [("m1", Outcome.DELIVERED)]
    assert world.relay.turns("ses_bob") == 2


# --------------------------------------------------------------------------------- recovery


def test_what_an_earlier_run_may_have_delivered_is_repeated_and_held_once() -> None:
    writer = Later()
    world = World("bob", writer=writer)
    world.write(message())
    world.steps()
    assert (world.held(), world.archived) == (["Hello"], [])

    world.writer = None
    world.begin()
    world.steps()
    assert world.held() == ["Hello"]
    assert world.archived == [("m1", Outcome.DELIVERED)]
    assert world.repeated[-1]


def test_only_what_was_there_at_the_start_may_have_been_delivered() -> None:
    world = World("bob")
    world.write(message(id="m1"), hint=False)
    world.steps()
    world.write(message(id="m2"))
    world.steps()
    world.write(message(id="m3"), hint=False)
    world.steps(5)
    assert world.repeated == [True, False, False]


def test_a_hint_that_outruns_the_first_scan_does_not_hide_that() -> None:
    world = World("bob")
    world.write(message())
    world.steps()
    assert world.repeated == [True]


@pytest.mark.parametrize("fails", ["all", "m1"])
def test_what_could_not_be_read_at_the_start_may_have_been_delivered_too(fails: str) -> None:
    world = World("bob")
    world.write(message(), hint=False)
    world.store.broken = fails == "all"
    world.store.instead = {fails: AWAY}
    world.steps()
    assert world.repeated == []
    world.store.broken = False
    world.store.instead = {}
    world.steps(5)
    assert world.repeated == [True]


# ----------------------------------------------------------------------- what cannot be read


def test_what_is_half_written_is_read_again_soon() -> None:
    world = World("bob")
    world.store.instead = {"m1": Unfinished()}
    world.steps()
    world.store.instead = {}
    world.write(message(), hint=False)
    world.steps(0.4)
    assert world.archived == []
    world.steps(0.1)
    assert world.archived == [("m1", Outcome.DELIVERED)]


def test_what_is_left_unread_is_told_once_and_again_when_it_came_back() -> None:
    world = World()
    unreadable = {"link": Unreadable(reason="it is a link")}
    told = []
    for lies_there in (unreadable, unreadable, {}, unreadable):
        world.store.instead.clear()
        world.store.instead.update(lies_there)
        world.steps(5)
        told.append(topics(world.actions).count("message.unreadable"))
    assert told == [1, 1, 1, 2]


def test_a_key_that_the_store_never_reads_is_told_once_and_holds_up_nothing() -> None:
    world = World("bob")
    world.store.instead = {"m0": AWAY}
    world.write(message())
    for _ in range(4):
        world.steps(5)
    assert topics(world.actions).count("store.failed") == 1
    assert world.archived == [("m1", Outcome.DELIVERED)]
    world.store.instead = {}
    world.steps(5)
    assert topics(world.actions).count("store.recovered") == 1


# -------------------------------------------------------------------------- when it fails


@pytest.mark.parametrize("error", [AWAY, FULL], ids=["reading", "writing"])
@pytest.mark.parametrize("times", range(1, 7))
def test_however_often_the_store_fails_everything_comes_right_in_the_end(
    error: StoreError, times: int
) -> None:
    world = World("bob")
    world.write(message())
    world.store.put_malformed("bad", FAULT)
    world.store.fail_with(*[error] * times)
    world.steps()
    assert topics(world.actions).count("store.failed") == 1
    for _ in range(2 * times):
        world.steps(5)
    assert world.held() == ["Hello"]
    assert world.archived == [("m1", Outcome.DELIVERED)]
    assert world.store.quarantined == {"bad": FAULT}
    assert topics(world.actions).count("store.recovered") == 1


def test_an_agent_that_could_not_be_saved_gets_its_messages_all_the_same() -> None:
    world = World("bob")
    world.write(message())
    world.store.fail_with(FULL)
    world.steps()
    assert list(world.store.agents()) == []
    assert world.held() == ["Hello"]
    world.relay.open(session("bob", updated=world.clock.advance(seconds(60))))
    world.steps(5)
    assert [each.id for each in world.store.agents()] == ["bob"]


class BrokenRelay(MemoryRelay):
    """One with a bug."""

    def sessions(self, active: object) -> Sequence[Session]:  # noqa: ARG002  # as in the port
        raise ZeroDivisionError


@pytest.mark.parametrize("method", ["step", "run"])
def test_a_bug_in_an_adapter_ends_the_hub(method: str) -> None:
    hub = Hub(broker=Broker(), store=Store(), relay=BrokenRelay(), clock=ManualClock())
    with pytest.raises(ZeroDivisionError):
        getattr(hub, method)()


# -------------------------------------------------------------------------- what goes together


class Counting(MemoryRelay):
    """It remembers what it was given together."""

    def __init__(self, sessions: Iterable[Session]) -> None:
        super().__init__(sessions)
        self.batches: list[list[str]] = []
        self.unlucky: dict[int, RelayError] = {}

    def fail_at(self, number: int, error: RelayError) -> None:
        """Let the injection fail that comes after so many others."""
        self.unlucky = {number: error}

    def inject(self, prompt: Prompt) -> Receipt:
        self.unlucky = {number - 1: error for number, error in self.unlucky.items()}
        if (error := self.unlucky.get(-1)) is not None:
            raise error
        return super().inject(prompt)

    def inject_all(self, prompts: Sequence[Prompt]) -> tuple[Sequence[Receipt], RelayError | None]:
        self.batches.append([prompt.session_id for prompt in prompts])
        return super().inject_all(prompts)


def together(*messages: Message, policy: Policy | None = None) -> tuple[World, Counting, Later]:
    """Messages that waited for bob and carol, and are about to go there."""
    later = Later()
    world = World(executor=later, policy=policy)
    world.relay = relay = Counting(map(session, ("bob", "carol")))
    world.begin()
    world.write(*messages, hint=False)
    world.steps()
    later.run()  # lists the sessions
    world.hub.step()
    return world, relay, later


def work(world: World, later: Later) -> None:
    """Do what there is to be done now, and what follows from it."""
    while later.tasks:
        later.run()
        world.steps()


FIVE = [message(id=f"m{number}", content=f"number {number}") for number in range(5)]
TO_CAROL = [evolve(each, id=f"c-{each.id}", recipient="carol") for each in FIVE]
TEXTS = [each.content for each in FIVE]


def test_what_waits_for_one_session_goes_there_at_once_and_in_order() -> None:
    world, relay, later = together(*FIVE, *TO_CAROL)
    work(world, later)
    assert sorted(relay.batches) == [["ses_bob"] * 5, ["ses_carol"] * 5]
    assert world.held("bob") == world.held("carol") == TEXTS
    assert len(world.archived) == 10


def test_what_is_too_much_for_once_goes_one_after_the_other() -> None:
    world, relay, later = together(*FIVE, policy=Policy(batch=2))
    work(world, later)
    assert relay.batches == [["ses_bob"] * 2, ["ses_bob"] * 2, ["ses_bob"]]
    assert world.held() == TEXTS


@pytest.mark.parametrize("unlucky", range(5))
@pytest.mark.parametrize(
    "error", [RelayUnreachable("timed out"), SessionBusy("at work"), SessionUnknown("not yet")]
)
def test_whichever_fails_those_after_it_follow_it_later(error: RelayError, unlucky: int) -> None:
    world, relay, later = together(*FIVE)
    relay.fail_at(unlucky, error)
    work(world, later)
    assert world.held() == TEXTS[:unlucky]
    for _ in range(10):
        world.relay.open(session("bob", updated=world.clock.now()))
        world.steps(1)
        work(world, later)
    assert relay.batches == [["ses_bob"] * 5, ["ses_bob"] * (5 - unlucky)]
    assert world.held() == TEXTS
    assert len(world.archived) == 5


def test_one_that_is_invalid_is_rejected_and_the_others_are_held() -> None:
    world, relay, later = together(*FIVE)
    relay.fail_at(2, PromptInvalid("too long"))
    work(world, later)
    assert world.held() == [*TEXTS[:2], *TEXTS[3:]]
    assert dict(world.archived)["m2"] is Outcome.REJECTED
    assert relay.batches == [["ses_bob"] * 5, ["ses_bob"] * 2]


def test_what_was_killed_in_the_middle_is_held_once_and_in_order() -> None:
    world, relay, later = together(*FIVE)
    relay.fail_at(3, RelayUnreachable("timed out"))
    while later.tasks:
        later.run()  # and nobody hears of it
    world.begin()
    world.steps()
    work(world, later)
    assert world.held() == TEXTS
    assert len(world.archived) == 5


class Forgetful(MemoryRelay):
    """One with a bug: it does not say what became of the prompts."""

    def inject_all(self, prompts: Sequence[Prompt]) -> tuple[Sequence[Receipt], RelayError | None]:
        super().inject_all(prompts)
        return [], None


def test_a_relay_that_does_not_say_what_became_of_a_prompt_ends_the_hub() -> None:
    world = World()
    world.relay = Forgetful([session("bob")])
    world.begin()
    world.write(message())
    with pytest.raises(ValueError, match="zip"):
        world.steps()


# ----------------------------------------------------------------- what sessions tell themselves


def test_a_session_that_says_it_is_free_is_given_what_it_did_not_take_at_once() -> None:
    world = World("bob")
    world.relay.work_elsewhere("ses_bob", busy=True)
    world.write(message())
    world.steps()
    world.relay.work_elsewhere("ses_bob", busy=False)
    world.steps()
    assert world.held() == []
    world.hub.tell(SessionFreed(session_id="ses_bob"))
    world.steps()
    assert world.held() == ["Hello"]


def test_a_session_that_says_it_was_compacted_is_told_again_who_it_is() -> None:
    world = World("bob", policy=TELLING)
    world.steps()
    world.steps(1)
    world.hub.tell(SessionCompacted(session_id="ses_bob"))
    world.steps()
    world.steps(1)
    first, again = world.relay.held("ses_bob")
    assert first.text == again.text
    assert world.relay.turns("ses_bob") == 0


def test_a_turn_that_ended_is_told_to_the_observers() -> None:
    world = World("bob")
    world.steps()
    world.hub.tell(TURN_ENDED)
    world.steps()
    assert [each.topic for each in of(Notify, world.actions)][-1] == "turn.ended"


def test_what_is_told_after_the_end_begins_nothing_new() -> None:
    worker = Later()
    world = World("bob", executor=worker)
    world.write(message())
    world.steps()
    worker.run()  # lists the sessions
    world.steps()
    world.relay.work_elsewhere("ses_bob", busy=True)

    def happens() -> None:
        if worker.tasks:
            world.hub.tell(SessionFreed(session_id="ses_bob"))
            worker.run()

    world.clock.happens = happens
    world.hub.stop()
    world.hub.run()
    assert worker.tasks == []
    assert (world.held(), world.store.keys()) == ([], ["m1"])


# -------------------------------------------------------------------------------- settling


def test_while_one_batch_is_settled_the_next_one_gathers() -> None:
    writer = Later()
    world = World("bob", writer=writer)
    world.steps()
    writer.run()  # saves the agent
    world.write(*(message(id=f"m{number}") for number in range(5)))
    world.steps()
    assert len(world.held()) == 5
    while writer.tasks:
        writer.run()
        world.steps()
    assert world.store.batches == [1, 4]
    assert len(world.archived) == 5


def test_a_batch_that_could_not_be_settled_is_settled_later_as_a_whole() -> None:
    world = World("bob")
    world.steps()
    world.write(message())
    world.store.fail_with(FULL)
    world.steps()
    assert world.archived == []
    world.steps(5)
    assert world.archived == [("m1", Outcome.DELIVERED)]
    assert world.held() == ["Hello"]


def test_what_is_written_under_a_key_that_is_being_settled_is_another_message() -> None:
    writer = Later()
    world = World("bob", writer=writer)
    world.write(message(content="first"))
    world.steps()
    world.store.overwrite("m1", message(content="second"))
    world.hub.hint("m1")
    world.steps()
    assert world.held() == ["first"]
    while writer.tasks:
        writer.run()
        world.steps()
    assert world.held() == ["first", "second"]
    assert [each.message.content for each in world.store.archive] == ["first", "second"]


# -------------------------------------------------------------------------------- stopping


MOMENT = timedelta(microseconds=1)
BRISK = Rhythm(rescan=3 * MOMENT)  # so that `run` has nothing to wait for, and does not


def test_run_works_until_it_is_stopped() -> None:
    world = World("bob", rhythm=BRISK)
    world.write(message())

    def happens() -> None:
        world.clock.advance(MOMENT)
        if world.archived:
            world.hub.stop()

    world.clock.happens = happens
    world.hub.run()
    assert world.archived == [("m1", Outcome.DELIVERED)]


@pytest.mark.parametrize("moment", range(1, 60))
def test_a_signal_may_stop_the_hub_at_any_moment_and_nothing_is_lost(moment: int) -> None:
    looks = 0
    world = World("bob", rhythm=BRISK)
    world.write(message())

    def happens() -> None:
        nonlocal looks
        looks += 1
        world.clock.advance(MOMENT)
        if looks == moment:
            world.hub.stop()

    world.clock.happens = happens
    world.hub.run()
    delivered = [("m1", Outcome.DELIVERED)]
    assert (world.store.keys(), world.archived) in ((["m1"], []), ([], delivered))


def test_what_is_under_way_is_finished_before_the_end_and_nothing_new_is_begun() -> None:
    worker, writer = Later(), Later()
    policy = Policy(batch=1)
    world = World("bob", "carol", executor=worker, writer=writer, policy=policy)
    world.write(message(id="m1"), message(id="m2"), message(id="m3", recipient="carol"))
    world.steps()
    worker.run()  # lists the sessions
    world.steps()

    def happens() -> None:
        for each in (worker, writer):
            if each.tasks:
                each.run()

    world.clock.happens = happens
    world.hub.stop()
    world.hub.run()
    assert (len(world.held("bob")), len(world.held("carol"))) == (1, 1)
    assert sorted(world.archived) == [("m1", Outcome.DELIVERED), ("m3", Outcome.DELIVERED)]
    assert world.store.keys() == ["m2"]
    assert worker.tasks == writer.tasks == []


def test_a_stop_does_not_wait_for_long() -> None:
    worker = Later()
    world = World("bob", executor=worker)
    world.write(message())
    world.steps()
    stopped = world.clock.now()
    world.clock.happens = lambda: world.clock.advance(seconds(1))
    world.hub.stop()
    world.hub.run()
    assert world.store.keys() == ["m1"]
    assert world.clock.now() - stopped <= Rhythm().drain + seconds(3)


def test_a_wait_ends_soon_though_nothing_wakes_the_hub() -> None:
    world = World(rhythm=Rhythm(nap=timedelta(milliseconds=1)))  # its clock stands still
    looks = iter(range(50))

    def happens() -> None:
        if next(looks, None) is None:
            world.hub.stop()

    world.clock.happens = happens
    world.hub.run()
    assert next(looks, None) is None


def test_a_hub_that_was_stopped_takes_no_further_step() -> None:
    world = World("bob")
    world.hub.stop()
    world.steps()
    assert world.actions == []
