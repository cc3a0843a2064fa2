"""What agents and people may do at the hub, and what it tells them when they may not.

In the store there are alice and bob, whose sessions are known, and polly, who has none: she was
registered through a tool and reads her mail when she asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest

from agenthub_core import (
    EVERYONE,
    HUMAN,
    Agent,
    Delivery,
    Entry,
    Gateway,
    InvalidValue,
    Message,
    MessageType,
    Outcome,
    Policy,
    Presence,
    Priority,
    Query,
    RateLimit,
    RequestRefused,
    Sent,
    Settlement,
    StoreUnwritable,
    ThreadStatus,
)
from agenthub_core.model import CONTENT_LENGTH, COORDINATOR, HUB, RESERVED
from agenthub_core.records import DEAD
from agenthub_core.roster import Roster
from agenthub_core.testing import NOON, ManualClock, MemoryStore
from tests.unit.builders import FAULT, agent, message, seconds, session

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.save_agent(agent("alice"))
    store.save_agent(agent("bob"))
    store.register_agent(Agent(id="polly", last_seen=NOON))
    return store


@pytest.fixture
def gateway(store: MemoryStore, clock: ManualClock) -> Gateway:
    """For agents: nobody may use a reserved name."""
    return opened(store, clock)


@pytest.fixture
def person(store: MemoryStore, clock: ManualClock) -> Gateway:
    """For the person who runs the hub."""
    return opened(store, clock, acting_as=[HUMAN], ids="p")


def opened(
    store: MemoryStore,
    clock: ManualClock,
    *,
    acting_as: Iterable[str] = (),
    policy: Policy | None = None,
    ids: str = "n",
) -> Gateway:
    """A gateway whose messages are n1, n2, …"""
    numbers = count(1)
    return Gateway(
        store,
        clock=clock,
        new_id=lambda: f"{ids}{next(numbers)}",
        acting_as=tuple(acting_as),
        policy=policy,
    )


def ask(gateway: Gateway, **fields: Any) -> Sent:
    """alice asks bob something."""
    defaults: dict[str, Any] = {
        "sender": "alice",
        "recipient": "bob",
        "type": MessageType.QUESTION,
        "content": "Which port?",
    }
    return gateway.send(**(defaults | fields))


def end(
    store: MemoryStore,
    ended: Message,
    outcome: Outcome = Outcome.DELIVERED,
    *,
    held: Mapping[str, bool] | None = None,
    after: timedelta = timedelta(0),
) -> None:
    """The hub settles a message, some time after it was written."""
    at = ended.timestamp + after
    deliveries = tuple(
        Delivery(recipient=name, held_at=at if holds else None)
        for name, holds in (held or {}).items()
    )
    settlement = Settlement(
        key=store.put(ended), message=ended, outcome=outcome, at=at, deliveries=deliveries
    )
    store.settle([settlement])


def waiting(store: MemoryStore) -> list[Message]:
    readings = map(store.read, store.keys())
    return [reading for reading in readings if isinstance(reading, Message)]


def ids(entries: Iterable[Entry]) -> list[str]:
    return [entry.message.id for entry in entries]


def refusal(refused: pytest.ExceptionInfo[RequestRefused]) -> str:
    return str(refused.value)


# ---------------------------------------------------------------------------------------- sending


def test_what_is_sent_waits_for_its_recipient(gateway: Gateway, store: MemoryStore) -> None:
    sent = ask(gateway)

    assert sent.message == Message(
        id="n1",
        sender="alice",
        recipient="bob",
        type=MessageType.QUESTION,
        content="Which port?",
        priority=Priority.NORMAL,
        thread_id="n1",
        timestamp=NOON,
    )
    assert waiting(store) == [sent.message]


def test_a_message_says_its_priority_and_what_else_its_sender_wrote(
    gateway: Gateway, store: MemoryStore
) -> None:
    ask(gateway, priority=Priority.URGENT, extra={"metadata": {"ticket": 7}})
    (written,) = waiting(store)
    assert written.priority is Priority.URGENT
    assert written.extra == {"metadata": {"ticket": 7}}


def test_a_message_without_a_thread_begins_one_and_an_answer_stays_in_it(gateway: Gateway) -> None:
    asked = ask(gateway).message
    answered = ask(gateway, sender="bob", recipient="alice", thread_id=asked.thread_id).message
    assert (asked.id, asked.thread_id) == ("n1", "n1")
    assert (answered.id, answered.thread_id) == ("n2", "n1")


def test_a_message_is_written_at_the_time_it_is_sent(gateway: Gateway, clock: ManualClock) -> None:
    clock.advance(MINUTE)
    assert ask(gateway).message.timestamp == NOON + MINUTE


def test_what_is_told_of_a_message_is_what_waits(store: MemoryStore) -> None:
    clock = ManualClock(NOON + 1500 * MOMENT)  # finer than a store keeps it
    gateway = opened(store, clock)
    told = [ask(gateway).message]
    end(store, message(recipient="polly"), Outcome.EXPIRED)
    clock.advance(MINUTE)
    told += [sent.message for sent in gateway.retry("m1")]
    told += [sent.message for sent in gateway.resolve("n1", sender="alice")[1]]
    assert [each.recipient for each in told] == ["bob", "polly", "bob"]
    assert waiting(store) == told


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("alcie", " (did you mean alice?)"),
        ("bo", " (did you mean bob?)"),
        ("zzz", ""),
        ("", ""),
        ("Grüße\n", ""),
    ],
)
def test_who_is_not_registered_may_not_send_and_is_offered_names_like_its_own(
    gateway: Gateway, store: MemoryStore, name: str, offered: str
) -> None:
    with pytest.raises(RequestRefused) as refused:
        ask(gateway, sender=name)
    assert f"no agent is registered as {name!a}{offered}:" in refusal(refused)
    assert "register_agent" in refusal(refused)
    assert waiting(store) == []


def test_no_more_than_three_names_are_offered_the_nearest_first(
    gateway: Gateway, store: MemoryStore
) -> None:
    for name in ("worker-11", "worker-12", "worker-13", "worker-1"):
        store.save_agent(agent(name))
    with pytest.raises(RequestRefused) as refused:
        ask(gateway, sender="worker1")
    assert "did you mean worker-1 or worker-1" in refusal(refused)
    assert refusal(refused).count("worker-") == 3


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_nobody_may_speak_under_a_name_of_the_hubs_own(
    gateway: Gateway, store: MemoryStore, name: str
) -> None:
    store.save_agent(agent(name))
    with pytest.raises(RequestRefused, match=f'"{name}" is not yours to speak as'):
        ask(gateway, sender=name)
    assert waiting(store) == []


def test_who_acts_for_a_name_may_speak_under_it_and_under_no_other(
    person: Gateway, store: MemoryStore
) -> None:
    ask(person, sender=HUMAN)
    assert [each.sender for each in waiting(store)] == [HUMAN]
    with pytest.raises(RequestRefused, match=COORDINATOR):
        ask(person, sender=COORDINATOR)


def test_a_name_of_nobody_may_be_acted_for(store: MemoryStore, clock: ManualClock) -> None:
    ask(opened(store, clock, acting_as=["dashboard"]), sender="dashboard")
    assert [each.sender for each in waiting(store)] == ["dashboard"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recipient": HUB}, '"hub" reads no messages: write to an agent, or to "human"'),
        ({"recipient": "alice"}, '"alice" is the sender itself'),
        (
            {"content": "x" * (CONTENT_LENGTH + 1)},
            "the content has 10001 characters, 10000 are the most: put the long part into a file",
        ),
    ],
    ids=["to the hub", "to oneself", "too long"],
)
def test_what_makes_no_sense_is_refused_with_what_to_do_instead(
    gateway: Gateway, store: MemoryStore, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestRefused) as refused:
        ask(gateway, **fields)
    assert said in refusal(refused)
    assert waiting(store) == []


def test_the_longest_content_is_taken(gateway: Gateway, store: MemoryStore) -> None:
    ask(gateway, content="ü" * CONTENT_LENGTH)
    assert len(waiting(store)) == 1


@pytest.mark.parametrize(
    "fields", [{"recipient": "../bob"}, {"thread_id": ""}, {"content": " \n"}], ids=repr
)
def test_a_value_that_breaks_a_rule_is_no_message(
    gateway: Gateway, store: MemoryStore, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue):
        ask(gateway, **fields)
    assert waiting(store) == []


# --------------------------------------------------------------------- what will become of it


def test_a_recipient_at_work_is_here(gateway: Gateway) -> None:
    sent = ask(gateway, recipient="bob")
    assert (sent.presence, sent.reached, sent.nearest) == (Presence.HERE, ("bob",), ())


def test_a_recipient_without_a_session_is_away(gateway: Gateway) -> None:
    sent = ask(gateway, recipient="polly")
    assert (sent.presence, sent.reached, sent.nearest) == (Presence.AWAY, (), ())


def test_a_recipient_that_is_reached_through_a_session_in_its_directory_is_here(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    store.save_agent(agent("dora", directory="/projects/shop"))
    store.register_agent(agent("reviewer", role="reviews", directory="/projects/shop/"))
    store.register_agent(
        agent("elsewhere", role="reviews", directory="/projects/shop", program="claude-code")
    )
    assert ask(gateway, recipient="reviewer").presence is Presence.HERE
    assert ask(gateway, recipient="elsewhere").presence is Presence.AWAY
    clock.advance(HOUR + MOMENT)
    assert ask(gateway, recipient="reviewer").presence is Presence.AWAY


def test_a_recipient_that_was_silent_for_long_is_away(gateway: Gateway, clock: ManualClock) -> None:
    clock.advance(HOUR)
    assert ask(gateway, recipient="bob").presence is Presence.HERE
    clock.advance(MOMENT)
    sent = ask(gateway, recipient="bob")
    assert (sent.presence, sent.reached) == (Presence.AWAY, ())


def test_how_long_is_long_is_the_policys_business(store: MemoryStore, clock: ManualClock) -> None:
    gateway = opened(store, clock, policy=Policy(agent_stale=seconds(5)))
    clock.advance(seconds(6))
    assert ask(gateway, recipient="bob").presence is Presence.AWAY


def test_a_recipient_that_nobody_knows_is_unknown_and_names_like_it_are_told(
    gateway: Gateway, store: MemoryStore
) -> None:
    sent = ask(gateway, recipient="pollly")
    assert (sent.presence, sent.reached, sent.nearest) == (Presence.UNKNOWN, (), ("polly",))
    assert ask(gateway, recipient="zzz").nearest == ()
    assert [each.recipient for each in waiting(store)] == ["pollly", "zzz"], "they may appear yet"


def test_a_broadcast_reaches_all_that_are_here_but_its_sender(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.save_agent(agent("carol"))
    store.save_agent(agent("stale", last_seen=NOON - HOUR - MOMENT))
    sent = ask(gateway, recipient=EVERYONE)
    assert (sent.presence, sent.reached, sent.nearest) == (Presence.HERE, ("bob", "carol"), ())


def test_the_coordinator_is_here_however_long_it_was_silent(
    store: MemoryStore, clock: ManualClock
) -> None:
    store.save_agent(agent("coordinator", last_seen=NOON - HOUR - MOMENT))
    store.save_agent(agent("alice"))
    gateway = opened(store, clock)
    assert ask(gateway, recipient="coordinator").presence is Presence.HERE


def test_a_broadcast_when_nobody_is_here_reaches_nobody(
    gateway: Gateway, clock: ManualClock
) -> None:
    clock.advance(2 * HOUR)
    sent = ask(gateway, recipient=EVERYONE)
    assert (sent.presence, sent.reached, sent.nearest) == (Presence.AWAY, (), ())


def test_a_person_looks_when_they_look(gateway: Gateway) -> None:
    sent = ask(gateway, recipient=HUMAN)
    assert (sent.presence, sent.reached, sent.nearest) == (Presence.AWAY, (), ())


@pytest.mark.parametrize("attended", [True, False])
def test_the_sender_is_told_whether_a_hub_is_at_work(
    gateway: Gateway, store: MemoryStore, *, attended: bool
) -> None:
    store.attended = attended
    assert ask(gateway).attended is attended
    assert gateway.status().attended is attended


@pytest.mark.parametrize(
    ("sender", "woken"), [("alice", True), ("polly", False), ("dashboard", False)]
)
def test_the_sender_is_told_whether_an_answer_comes_by_itself(
    store: MemoryStore, clock: ManualClock, sender: str, *, woken: bool
) -> None:
    gateway = opened(store, clock, acting_as=["dashboard"])
    assert ask(gateway, sender=sender).woken is woken


# -------------------------------------------------------------------------------------- agents


def test_agents_are_told_those_who_are_here_first_then_by_name(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.save_agent(agent("aaron", last_seen=NOON - 2 * HOUR))
    assert [(each.agent.id, each.presence) for each in gateway.agents()] == [
        ("alice", Presence.HERE),
        ("bob", Presence.HERE),
        ("aaron", Presence.AWAY),
        ("polly", Presence.AWAY),
    ]


def test_who_registers_is_known_and_may_send(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    clock.advance(MINUTE)
    registered = gateway.register(
        "carol",
        directory="/projects/carol",
        role="Writes the API",
        capabilities=["python", "sql"],
        collaborates_with=["bob"],
    )
    assert registered == Agent(
        id="carol",
        directory="/projects/carol",
        last_seen=NOON + MINUTE,
        role="Writes the API",
        capabilities=("python", "sql"),
        collaborates_with=("bob",),
    )
    assert registered in store.agents()
    ask(gateway, sender="carol")


def test_who_registers_keeps_the_session_it_has(gateway: Gateway, store: MemoryStore) -> None:
    gateway.register("bob", directory="/elsewhere", role="Reviews")
    (bob,) = [each for each in store.agents() if each.id == "bob"]
    assert (bob.session_id, bob.slug, bob.role) == ("ses_bob", "bob", "Reviews")
    assert ask(gateway, recipient="bob").presence is Presence.HERE


def test_who_gives_no_name_is_the_agent_whose_session_works_there(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.save_agent(agent("panda", directory="/projects/api"))
    registered = gateway.register(None, directory="/projects/api", role="Owns the API")
    assert registered.id == "panda"


def test_who_gives_no_name_where_nobody_works_is_named_after_the_project(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.save_agent(agent("gone", directory="/projects/api", session_id=None))
    assert gateway.register(None, directory="/projects/api", role="").id == "api"


def test_who_gives_no_name_where_several_work_has_to(gateway: Gateway, store: MemoryStore) -> None:
    for name in ("panda", "tiger"):
        store.save_agent(agent(name, directory="/projects/api"))
    with pytest.raises(RequestRefused, match="several agents work in /projects/api: panda, tiger"):
        gateway.register(None, directory="/projects/api", role="")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_nobody_registers_under_a_name_of_the_hubs_own(
    gateway: Gateway, store: MemoryStore, name: str
) -> None:
    before = store.agents()
    with pytest.raises(RequestRefused, match=f'"{name}" is a name of the hub\'s own'):
        gateway.register(name, directory="/", role="")
    assert store.agents() == before


def test_who_acts_for_a_name_of_the_hubs_own_may_register_it(
    store: MemoryStore, clock: ManualClock
) -> None:
    coordinator = opened(store, clock, acting_as=[COORDINATOR])
    coordinator.register(COORDINATOR, directory="/hub", role="Introduces")
    assert COORDINATOR in {each.id for each in store.agents()}


def test_a_name_that_can_be_no_agents_is_not_registered(gateway: Gateway) -> None:
    with pytest.raises(InvalidValue):
        gateway.register("../polly", directory="/", role="")


@pytest.mark.parametrize(
    "act",
    [lambda gateway: gateway.mail("polly"), lambda gateway: ask(gateway, sender="polly")],
    ids=["mail", "send"],
)
def test_an_agent_without_a_session_is_seen_when_it_asks_at_most_once_a_minute(
    gateway: Gateway, store: MemoryStore, clock: ManualClock, act: Any
) -> None:
    def seen() -> datetime:
        return next(each.last_seen for each in store.agents() if each.id == "polly")

    clock.advance(MINUTE)
    act(gateway)
    assert seen() == NOON
    moved = clock.advance(MOMENT)
    act(gateway)
    assert seen() == moved
    clock.advance(MINUTE)
    act(gateway)
    assert seen() == moved


def test_being_seen_changes_nothing_else_of_an_agent(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    carol = gateway.register("carol", directory="/c", role="API", capabilities=["sql"])
    now = clock.advance(HOUR)
    gateway.mail("carol")
    expected = Agent(id="carol", directory="/c", last_seen=now, role="API", capabilities=("sql",))
    assert expected in store.agents()
    assert carol not in store.agents()


def test_an_agent_with_a_session_is_seen_by_the_hub_alone(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    clock.advance(HOUR)
    gateway.mail("bob")
    assert agent("bob") in store.agents()


# ------------------------------------------------------------------------------------ identity


class Pauses:
    """Waits for nothing, and lets the hub do something meanwhile."""

    def __init__(self, *work: Callable[[], object]) -> None:
        self._work = list(work)
        self.total = timedelta(0)

    def __call__(self, duration: timedelta) -> None:
        self.total += duration
        if self._work:
            self._work.pop(0)()


def test_a_session_is_the_agent_that_the_store_has_for_it(gateway: Gateway) -> None:
    pauses = Pauses()
    assert gateway.identify(session("somebody", id="ses_bob"), pause=pauses) == agent("bob")
    assert pauses.total == timedelta(0)


def test_a_session_that_the_hub_is_about_to_see_is_waited_for(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.attended = True
    nothing = lambda: None  # noqa: E731  # it is yet to look
    pauses = Pauses(nothing, nothing, lambda: store.save_agent(agent("carol-123")))
    session_id = "ses_carol-123"
    named = gateway.identify(session("carol", id=session_id), pause=pauses)
    assert (named.id, named.session_id) == ("carol-123", session_id)
    assert pauses.total < seconds(1)


@pytest.mark.parametrize(("attended", "longest"), [(False, 0), (True, 3)])
def test_a_session_that_no_hub_sees_is_named_as_the_hub_would(
    gateway: Gateway, store: MemoryStore, attended: bool, longest: float
) -> None:
    store.attended = attended
    pauses = Pauses()
    carol = gateway.identify(session("carol"), pause=pauses)
    other = gateway.identify(session("carol", id="ses_abcdef"), pause=pauses)
    assert (carol.id, other.id) == ("carol", "carol-abcdef")
    assert (carol.session_id, carol.directory, carol.slug) == (
        "ses_carol",
        "/projects/carol",
        "carol",
    )
    assert store.agent("carol") == carol
    assert store.agent("carol-abcdef") == other
    assert gateway.identify(session("carol"), pause=pauses) == carol
    assert pauses.total == 2 * seconds(longest)
    assert Roster(store.agents()).register(session("carol")).id == "carol"


def test_what_is_verified_is_kept_so_and_what_is_not_is_not(
    gateway: Gateway, store: MemoryStore
) -> None:
    assert ask(gateway, verified=True).message.verified
    assert not ask(gateway, content="Really?").message.verified
    assert [each.verified for each in waiting(store)] == [True, False]


@pytest.mark.parametrize("name", ["coordinator", "human", "nobody-yet"])
def test_whoever_is_verified_speaks_under_their_name(
    gateway: Gateway, store: MemoryStore, name: str
) -> None:
    assert ask(gateway, sender=name, verified=True).message.sender == name
    assert gateway.mail(name, verified=True) == []
    assert gateway.register(name, directory="/x", role="Leads", verified=True).id == name
    known = store.agent(name)
    assert known is not None
    assert known.role == "Leads"


def test_a_closing_note_is_as_verified_as_who_closes(gateway: Gateway) -> None:
    thread_id = ask(gateway).message.thread_id
    _, (note,) = gateway.resolve(thread_id, sender="alice", verified=True)
    assert note.message.verified
    other = ask(gateway).message.thread_id
    _, (note,) = gateway.resolve(other, sender="alice")
    assert not note.message.verified


@pytest.mark.parametrize("verified", [True, False])
def test_a_dead_letter_is_as_verified_as_it_was_when_it_is_sent_again(
    person: Gateway, store: MemoryStore, clock: ManualClock, verified: bool
) -> None:
    end(store, message(verified=verified), Outcome.EXPIRED)
    clock.advance(MINUTE)
    (again,) = person.retry("m1")
    assert again.message.verified is verified
    assert [each.verified for each in waiting(store)] == [verified]


STRICT = Policy(require_verified=True)


def test_where_only_the_verified_are_heard_nobody_else_may_write(
    store: MemoryStore, clock: ManualClock
) -> None:
    gateway = opened(store, clock, policy=STRICT)
    thread_id = ask(gateway, verified=True).message.thread_id
    end(store, message(id="dead"), Outcome.EXPIRED)
    clock.advance(MINUTE)
    for attempt in (
        lambda: ask(gateway),
        lambda: gateway.resolve(thread_id, sender="alice"),
        lambda: gateway.retry("dead"),
    ):
        with pytest.raises(RequestRefused) as refused:
            attempt()
        assert refusal(refused) == (
            "the hub does not know that it is alice who writes, and AGENT_HUB_REQUIRE_VERIFIED is "
            "set: write with the hub's tools in an OpenCode that has the hub's plugin (agenthub "
            "setup puts it there), or with agenthub send in a terminal of your own"
        )
    assert len(store.keys()) == 1


def test_where_only_the_verified_are_heard_an_agent_reads_nobody_else(
    store: MemoryStore, clock: ManualClock
) -> None:
    for name in "bob", HUMAN:
        for verified in True, False:
            store.put(message(id=f"{name}-{verified}", recipient=name, verified=verified))
    gateway = opened(store, clock, policy=STRICT, acting_as=[HUMAN])
    assert [each.id for each in gateway.mail("bob")] == ["bob-True"]
    assert [each.id for each in gateway.mail(HUMAN)] == ["human-True", "human-False"]


# ---------------------------------------------------------------------------------------- mail


def test_mail_is_what_waits_for_an_agent_oldest_first(gateway: Gateway, store: MemoryStore) -> None:
    store.put(message(id="late", timestamp=NOON + MINUTE))
    store.put(message(id="early", timestamp=NOON))
    store.put(message(id="other", recipient="polly"))
    store.put_malformed("bad", FAULT)
    assert [each.id for each in gateway.mail("bob")] == ["early", "late"]


def test_mail_is_shown_once(gateway: Gateway, store: MemoryStore) -> None:
    ask(gateway)
    assert [each.id for each in gateway.mail("bob")] == ["n1"]
    assert gateway.mail("bob") == []
    assert [each.read for each in waiting(store)] == [True]


def test_mail_that_is_only_looked_at_stays_unread(gateway: Gateway, store: MemoryStore) -> None:
    ask(gateway, recipient="polly")
    ask(gateway, recipient=EVERYONE)
    for _ in range(2):
        shown = gateway.mail("polly", mark_read=False)
        assert [each.id for each in shown] == ["n1", "n2"]
    assert [each.read for each in waiting(store)] == [False, False]


def test_mail_can_be_of_one_type_and_of_late_and_the_rest_stays_unread(
    gateway: Gateway, clock: ManualClock
) -> None:
    ask(gateway, recipient="polly", type=MessageType.ERROR)
    ask(gateway, recipient="polly", type=MessageType.TASK)
    ask(gateway, recipient=EVERYONE, type=MessageType.TASK)
    later = clock.advance(MINUTE)
    ask(gateway, recipient="polly", type=MessageType.ERROR)
    ask(gateway, recipient=EVERYONE, type=MessageType.ERROR)

    shown = gateway.mail("polly", type=MessageType.ERROR, since=later)

    assert [each.id for each in shown] == ["n4", "n5"]
    assert [each.id for each in gateway.mail("polly")] == ["n1", "n2", "n3"]


def test_what_an_agent_holds_already_is_no_mail(gateway: Gateway, store: MemoryStore) -> None:
    end(store, message(recipient="polly"))
    end(store, message(recipient="bob"))
    assert gateway.mail("polly") == gateway.mail("bob") == []


def test_an_agent_without_a_session_is_shown_broadcasts_once(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    end(store, message(id="held", recipient=EVERYONE, read=True))
    store.put(message(id="waits", recipient=EVERYONE, timestamp=NOON + MINUTE))
    clock.advance(2 * MINUTE)

    assert [each.id for each in gateway.mail("polly")] == ["held", "waits"]
    assert gateway.mail("polly") == []
    ask(gateway, recipient=EVERYONE)
    assert [each.id for each in gateway.mail("polly")] == ["n1"]


def test_a_broadcast_that_one_has_read_is_still_news_to_others(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    gateway.register("carol", directory="/c", role="")
    ask(gateway, recipient=EVERYONE)
    assert [each.id for each in gateway.mail("polly")] == ["n1"]
    assert [each.read for each in waiting(store)] == [False]
    assert [each.id for each in gateway.mail("carol")] == ["n1"]
    assert [each.id for each in opened(store, clock).mail("polly")] == ["n1"], "after a restart"


def test_an_agent_is_not_shown_its_own_broadcasts(gateway: Gateway) -> None:
    ask(gateway, sender="polly", recipient=EVERYONE)
    assert gateway.mail("polly") == []


def test_broadcasts_of_long_ago_are_no_news(gateway: Gateway, clock: ManualClock) -> None:
    ask(gateway, recipient=EVERYONE)
    clock.advance(HOUR)
    assert [each.id for each in gateway.mail("polly", mark_read=False)] == ["n1"]
    clock.advance(MOMENT)
    assert gateway.mail("polly") == []
    assert gateway.mail("polly", since=NOON) == [], "however far back one asks"


def test_an_agent_with_a_session_is_shown_no_broadcasts(gateway: Gateway) -> None:
    ask(gateway, recipient=EVERYONE)
    assert gateway.mail("bob") == [], "its session gets them"


def test_a_person_is_shown_what_waits_and_what_their_inbox_holds(
    person: Gateway, store: MemoryStore
) -> None:
    store.put(message(id="waits", recipient=HUMAN, timestamp=NOON + MINUTE))
    end(store, message(id="held", recipient=HUMAN))
    end(store, message(id="old", recipient=HUMAN, read=True))
    end(store, message(id="other", recipient=EVERYONE))

    assert [each.id for each in person.mail(HUMAN)] == ["held", "waits"]

    assert person.mail(HUMAN) == []
    assert [each.message.read for each in store.archive if each.message.id == "held"] == [True]
    assert [each.read for each in waiting(store)] == [True]


def test_what_a_person_read_before_it_was_settled_is_not_shown_again(
    person: Gateway, store: MemoryStore
) -> None:
    asked = message(recipient=HUMAN)
    key = store.put(asked)
    assert [each.id for each in person.mail(HUMAN)] == ["m1"], "when the hub had read it"
    store.settle([Settlement(key=key, message=asked, outcome=Outcome.DELIVERED, at=NOON)])
    (again,) = waiting(store)
    store.settle([Settlement(key=key, message=again, outcome=Outcome.READ, at=NOON)])

    assert person.mail(HUMAN) == []
    assert person.status().unread == 0


@pytest.mark.parametrize("settled", [False, True], ids=["waiting", "settled"])
def test_what_was_read_elsewhere_can_be_marked_and_is_no_mail_then(
    person: Gateway, store: MemoryStore, *, settled: bool
) -> None:
    read = message(recipient=HUMAN)
    if settled:
        end(store, read)
    else:
        store.put(read)
    store.put(message(id="m2", recipient=HUMAN))

    person.records.mark_read(person.records.trace("m1"))

    assert person.status().unread == 1
    assert [each.id for each in person.mail(HUMAN)] == ["m2"]


def test_nobody_reads_mail_that_is_not_theirs(gateway: Gateway) -> None:
    with pytest.raises(RequestRefused, match=r"as 'pollly' \(did you mean polly\?\)"):
        gateway.mail("pollly")
    with pytest.raises(RequestRefused, match='"human" is not yours'):
        gateway.mail(HUMAN)


def test_who_acts_for_a_name_of_nobody_has_mail_too(store: MemoryStore, clock: ManualClock) -> None:
    store.put(message(recipient=COORDINATOR))
    store.put(message(id="m2", recipient=EVERYONE))
    coordinator = opened(store, clock, acting_as=[COORDINATOR])
    assert [each.id for each in coordinator.mail(COORDINATOR)] == ["m1"]


# ------------------------------------------------------------------------------- looking things up


def test_what_waits_is_found_before_what_is_settled_the_latest_first(
    gateway: Gateway, store: MemoryStore
) -> None:
    end(store, message(id="ended-first"), after=seconds(1))
    end(store, message(id="ended-last"), after=seconds(2))
    store.put(message(id="old"))
    store.put(message(id="new", timestamp=NOON + seconds(9)))
    found = list(gateway.records.find(Query()))
    assert ids(found) == ["new", "old", "ended-last", "ended-first"]
    assert [(entry.state, entry.outcome) for entry in found[1:3]] == [
        ("waiting", None),
        ("delivered", Outcome.DELIVERED),
    ]


def test_only_what_the_query_accepts_is_found(gateway: Gateway, store: MemoryStore) -> None:
    for name in ("bob", "carol"):
        store.put(message(id=f"waits-{name}", recipient=name))
        end(store, message(id=f"ended-{name}", recipient=name), Outcome.EXPIRED)
    assert ids(gateway.records.find(Query(recipient="bob"))) == ["waits-bob", "ended-bob"]
    dead = Query(recipient="bob", outcomes=frozenset({Outcome.EXPIRED}))
    assert ids(gateway.records.find(dead)) == ["ended-bob"]


def test_a_message_that_was_written_again_has_several_lives(
    gateway: Gateway, store: MemoryStore
) -> None:
    end(store, message(content="second", timestamp=NOON + MINUTE))
    end(store, message(content="first"), Outcome.EXPIRED)
    store.put(message(content="third"))
    store.put(message(id="m2"))
    lives = gateway.records.trace("m1")
    assert [(life.message.content, life.state) for life in lives] == [
        ("first", "expired"),
        ("second", "delivered"),
        ("third", "waiting"),
    ]
    assert gateway.records.trace("m3") == []


def test_a_message_that_is_settled_while_it_is_looked_for_is_found(clock: ManualClock) -> None:
    class Busy(MemoryStore):
        """Its hub settles everything as soon as the keys were asked for, or the past."""

        def keys(self) -> tuple[str, ...]:
            keys = tuple(super().keys())
            self.settle_all()
            return keys

        def settled(self, message_id: str) -> list[Settlement]:
            found = list(super().settled(message_id))
            self.settle_all()
            return found

        def settle_all(self) -> None:
            for key in tuple(super().keys()):
                reading = self.read(key)
                assert isinstance(reading, Message)
                outcome = Outcome.DELIVERED
                self.settle([Settlement(key=key, message=reading, outcome=outcome, at=NOON)])

    store = Busy()
    store.put(message())
    assert ids(opened(store, clock).records.trace("m1"))[:1] == ["m1"]


@pytest.mark.parametrize(
    "told",
    [
        lambda person: len(person.mail(HUMAN)),
        lambda person: len(list(person.records.find(Query()))),
        lambda person: len(person.records.thread("t1")[1]),
        lambda person: person.records.thread("t1")[0].messages,
        lambda person: person.status().unread,
    ],
    ids=["mail", "find", "thread", "messages", "status"],
)
def test_a_message_that_is_settled_while_it_is_looked_for_is_told_once(
    clock: ManualClock, told: Callable[[Gateway], int]
) -> None:
    class Busy(MemoryStore):
        """Its hub settles everything as soon as the past is asked for."""

        def history(self, *queries: Query) -> Iterator[Settlement]:
            for each in waiting(self):
                end(self, each)
            return super().history(*queries)

    store = Busy()
    store.put(message(recipient=HUMAN))
    person = opened(store, clock, acting_as=[HUMAN])
    assert [told(person), len(store.archive)] == [1, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda gateway: gateway.records.thread("\udcff"),
        lambda gateway: gateway.resolve("\udcff", sender="alice"),
        lambda gateway: gateway.retry("\udcff"),
        lambda gateway: gateway.mail("\udcff"),
        lambda gateway: ask(gateway, sender="\udcff"),
    ],
    ids=["thread", "resolve", "retry", "mail", "send"],
)
def test_what_can_be_no_name_is_refused_in_words_that_can_be_printed(
    gateway: Gateway, call: Callable[[Gateway], object]
) -> None:
    with pytest.raises(RequestRefused) as refused:  # a shell passes so what is no UTF-8
        call(gateway)
    assert r"'\udcff'" in refusal(refused)


def test_a_thread_is_told_with_its_messages_oldest_first(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.put(message(id="m3", sender="bob", recipient="alice", timestamp=NOON + seconds(2)))
    end(store, message(id="m1"), after=MINUTE)
    end(store, message(id="m2", recipient="carol", timestamp=NOON + seconds(1)))
    store.put(message(id="m4", thread_id="t2"))
    thread, entries = gateway.records.thread("t1")
    assert (thread.id, thread.creator, thread.messages) == ("t1", "alice", 3)
    assert thread.participants == ("alice", "bob", "carol")
    assert ids(entries) == ["m1", "m2", "m3"]


@pytest.mark.parametrize(
    "call",
    [
        lambda gateway: gateway.records.thread("t9"),
        lambda gateway: gateway.resolve("t9", sender="alice"),
    ],
    ids=["thread", "resolve"],
)
def test_a_thread_that_is_not_there_is_told(gateway: Gateway, call: Any) -> None:
    with pytest.raises(RequestRefused, match="there is no thread 't9': look for its messages"):
        call(gateway)


def test_threads_are_those_of_the_latest_messages_the_latest_first(
    gateway: Gateway, store: MemoryStore
) -> None:
    for second, thread_id in enumerate(["t1", "t2", "t3", "t2"]):
        when = NOON + seconds(second)
        end(store, message(id=f"m{second}", thread_id=thread_id, timestamp=when))

    told = [(thread.id, thread.messages) for thread in gateway.records.threads(Query(), among=99)]
    assert told == [("t2", 2), ("t3", 1), ("t1", 1)]
    assert [thread.id for thread in gateway.records.threads(Query(), among=3)] == ["t2", "t3"]
    assert gateway.records.threads(Query(), among=0) == []


def test_a_thread_of_which_a_message_is_looked_for_is_told_as_a_whole(
    gateway: Gateway, store: MemoryStore
) -> None:
    said = [("carol", "alice", "Do it"), ("alice", "bob", "Do it"), ("carol", "bob", "RESOLVED")]
    for second, (sender, recipient, content) in enumerate(said):
        when = NOON + seconds(second)
        fields = {"sender": sender, "recipient": recipient, "content": content}
        kind = MessageType.COMPLETION if content == "RESOLVED" else MessageType.TASK
        end(store, message(id=f"m{second}", timestamp=when, type=kind, **fields))
    store.put(message(id="other", thread_id="t2", recipient="dora"))

    everything = gateway.records.threads(Query(thread_id="t1"), among=99)
    assert [(thread.status, thread.messages) for thread in everything] == [
        (ThreadStatus.RESOLVED, 3)
    ]
    assert gateway.records.threads(Query(agent="bob"), among=99) == everything


def test_threads_are_found_by_what_became_of_a_message(
    gateway: Gateway, store: MemoryStore
) -> None:
    end(store, message(id="m1", thread_id="held"))
    end(store, message(id="m2", thread_id="lost"), Outcome.EXPIRED)
    store.put(message(id="m3", thread_id="lost", timestamp=NOON + seconds(1)))
    (lost,) = gateway.records.threads(Query(outcomes=DEAD), among=9)
    assert (lost.id, lost.messages) == ("lost", 2)


def test_threads_are_ordered_by_their_latest_message_whether_or_not_it_waits(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.put(message(id="m1", thread_id="waits"))
    end(store, message(id="m2", thread_id="ended", timestamp=NOON + MINUTE))
    assert [thread.id for thread in gateway.records.threads(Query(), among=9)] == ["ended", "waits"]


def test_the_status_is_the_hub_at_a_glance(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    store.put(message(timestamp=NOON + seconds(2)))
    store.put(message(id="oldest", timestamp=NOON + seconds(1)))
    store.put_malformed("bad", FAULT)
    end(store, message(id="held"))
    end(store, message(id="expired"), Outcome.EXPIRED)
    end(store, message(id="rejected"), Outcome.REJECTED)
    end(store, message(id="long-ago", timestamp=NOON - seconds(0.001)), Outcome.EXPIRED)
    clock.advance(24 * HOUR)

    status = gateway.status()

    assert (status.waiting, status.oldest) == (2, NOON + seconds(1))
    assert (status.dead, status.unread, status.attended) == (2, 0, False)
    assert [each.agent.id for each in status.agents] == ["alice", "bob", "polly"]


def test_the_status_counts_what_the_person_has_not_read_wherever_it_is(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.put(message(id="waits", recipient=HUMAN))
    store.put(message(id="waits-read", recipient=HUMAN, read=True))
    end(store, message(id="held", recipient=HUMAN))
    end(store, message(id="dead", recipient=HUMAN), Outcome.EXPIRED)
    end(store, message(id="read", recipient=HUMAN, read=True))
    end(store, message(id="other", recipient="bob"))
    status = gateway.status()
    assert (status.unread, status.dead, status.waiting) == (3, 1, 1)


def test_the_status_of_an_empty_hub_is_nothing(clock: ManualClock) -> None:
    status = opened(MemoryStore(), clock).status()
    assert (status.agents, status.waiting, status.oldest) == ((), 0, None)
    assert (status.dead, status.unread) == (0, 0)


# ---------------------------------------------------------------------------------- resolving


def test_who_began_a_thread_closes_it_with_a_note_to_each_other_in_it(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    asked = ask(gateway).message
    clock.advance(MINUTE)
    ask(gateway, sender="bob", recipient="polly", thread_id=asked.id)
    now = clock.advance(MINUTE)

    thread, sent = gateway.resolve(asked.id, sender="alice", note="the port is 8080")

    assert (thread.status, thread.messages) == (ThreadStatus.RESOLVED, 4)
    assert [each.message for each in sent] == waiting(store)[-2:]
    assert [(each.message.recipient, each.presence) for each in sent] == [
        ("bob", Presence.HERE),
        ("polly", Presence.AWAY),
    ]
    for each in sent:
        assert each.message.content == "RESOLVED: the port is 8080"
        assert (each.message.sender, each.message.thread_id) == ("alice", asked.id)
        assert (each.message.type, each.message.priority) == (MessageType.COMPLETION, Priority.LOW)
        assert each.message.timestamp == now


def test_a_thread_is_closed_without_a_note_too(gateway: Gateway, clock: ManualClock) -> None:
    asked = ask(gateway).message
    clock.advance(MINUTE)
    _, (sent,) = gateway.resolve(asked.id, sender="alice")
    assert sent.message.content == "RESOLVED"


def test_the_person_may_close_a_thread_of_others(
    gateway: Gateway, person: Gateway, clock: ManualClock
) -> None:
    asked = ask(gateway).message
    clock.advance(MINUTE)
    thread, sent = person.resolve(asked.id, sender=HUMAN)
    assert thread.status is ThreadStatus.RESOLVED
    assert [each.message.recipient for each in sent] == ["alice", "bob"]


def test_a_stranger_may_not_close_a_thread_and_is_told_what_to_do(
    gateway: Gateway, store: MemoryStore
) -> None:
    asked = ask(gateway).message
    with pytest.raises(RequestRefused) as refused:
        gateway.resolve(asked.id, sender="bob")
    assert f'the thread {asked.id} belongs to "alice", who began it' in refusal(refused)
    assert "a message of type completion" in refusal(refused)
    assert waiting(store) == [asked]


def test_who_may_not_speak_may_not_close(gateway: Gateway) -> None:
    asked = ask(gateway).message
    with pytest.raises(RequestRefused, match="no agent is registered as 'zzz'"):
        gateway.resolve(asked.id, sender="zzz")
    with pytest.raises(RequestRefused, match='"human" is not yours'):
        gateway.resolve(asked.id, sender=HUMAN)


def test_a_thread_is_closed_once_until_somebody_opens_it_again(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    asked = ask(gateway).message
    clock.advance(MINUTE)
    gateway.resolve(asked.id, sender="alice")
    with pytest.raises(RequestRefused, match=f"the thread {asked.id} is resolved already"):
        gateway.resolve(asked.id, sender="alice")
    assert len(waiting(store)) == 2

    clock.advance(MINUTE)
    ask(gateway, sender="bob", recipient="alice", thread_id=asked.id)
    clock.advance(MINUTE)
    thread, _ = gateway.resolve(asked.id, sender="alice")
    assert thread.status is ThreadStatus.RESOLVED


def test_a_thread_that_its_creator_closed_is_closed_for_the_person_too(
    gateway: Gateway, person: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    asked = ask(gateway).message
    clock.advance(MINUTE)
    gateway.resolve(asked.id, sender="alice")
    clock.advance(MINUTE)
    with pytest.raises(RequestRefused, match=f"the thread {asked.id} is resolved already"):
        person.resolve(asked.id, sender=HUMAN)
    assert len(waiting(store)) == 2


def test_who_closes_its_own_thread_may_do_so_although_another_said_resolved(
    gateway: Gateway, clock: ManualClock
) -> None:
    asked = ask(gateway).message
    clock.advance(MINUTE)
    reply = {"type": MessageType.COMPLETION, "content": "RESOLVED", "thread_id": asked.id}
    ask(gateway, sender="bob", recipient="alice", **reply)
    clock.advance(MINUTE)
    thread, _ = gateway.resolve(asked.id, sender="alice")
    assert thread.status is ThreadStatus.RESOLVED


def test_a_thread_that_nobody_joined_is_closed_to_everyone(
    gateway: Gateway, clock: ManualClock
) -> None:
    told = ask(gateway, recipient=EVERYONE).message
    clock.advance(MINUTE)
    thread, (sent,) = gateway.resolve(told.id, sender="alice")
    assert sent.message.recipient == EVERYONE
    assert thread.status is ThreadStatus.RESOLVED


def test_a_thread_with_nobody_but_the_hub_is_not_closed_in_front_of_everyone(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    alone = message(recipient=HUB)
    store.put(alone)
    clock.advance(MINUTE)
    with pytest.raises(RequestRefused, match="nobody else is in the thread t1"):
        gateway.resolve("t1", sender="alice")
    assert waiting(store) == [alone]


def test_anybody_may_close_what_everyone_was_told(gateway: Gateway, clock: ManualClock) -> None:
    told = ask(gateway, recipient=EVERYONE).message
    clock.advance(MINUTE)
    thread, (sent,) = gateway.resolve(told.id, sender="bob")
    assert sent.message.recipient == "alice"
    assert thread.status is ThreadStatus.RESOLVED


@pytest.mark.parametrize("maximum", [4, 3])
def test_a_thread_is_closed_to_all_in_it_or_to_none(
    store: MemoryStore, clock: ManualClock, maximum: int
) -> None:
    gateway = opened(store, clock, policy=Policy(rate_limit=RateLimit(maximum=maximum)))
    asked = ask(gateway).message
    ask(gateway, recipient="polly", thread_id=asked.id)
    clock.advance(MINUTE)
    if maximum == 4:
        _, sent = gateway.resolve(asked.id, sender="alice")
        assert [(each.message.recipient, each.left) for each in sent] == [("bob", 1), ("polly", 0)]
    else:
        with pytest.raises(RequestRefused, match="it may write again in 240 s"):
            gateway.resolve(asked.id, sender="alice")
        assert len(waiting(store)) == 2


def test_the_hub_gets_no_closing_note(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    store.put(message())
    store.put(message(id="m2", sender=HUB, recipient="alice", timestamp=NOON + seconds(1)))
    clock.advance(MINUTE)
    _, sent = gateway.resolve("t1", sender="alice")
    assert [each.message.recipient for each in sent] == ["bob"]


# ----------------------------------------------------------------------------------- retrying


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.REJECTED])
def test_a_dead_letter_comes_back_as_if_it_were_written_now(
    gateway: Gateway, store: MemoryStore, clock: ManualClock, outcome: Outcome
) -> None:
    dead = message(priority=Priority.HIGH, read=True, extra={"x": 1})
    end(store, dead, outcome, held={"bob": False}, after=HOUR)
    now = clock.advance(2 * HOUR)

    (sent,) = gateway.retry("m1")

    again = message(priority=Priority.HIGH, extra={"x": 1}, timestamp=now)
    assert sent.message == again
    assert waiting(store) == [again]
    assert sent.presence is Presence.AWAY, "bob was silent for two hours"


def test_a_dead_letter_that_nobody_could_be_given_comes_back_to_its_recipient(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    end(store, message(recipient=EVERYONE), Outcome.EXPIRED, after=HOUR)
    clock.advance(HOUR)
    (sent,) = gateway.retry("m1")
    assert (sent.message.recipient, sent.reached) == (EVERYONE, ("bob",))


def test_a_dead_broadcast_comes_back_to_those_who_missed_it_only(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    held = {"bob": False, "carol": True, "polly": False}
    end(store, message(recipient=EVERYONE), Outcome.EXPIRED, held=held, after=HOUR)
    clock.advance(HOUR)

    sent = gateway.retry("m1")

    assert [(each.message.recipient, each.presence) for each in sent] == [
        ("bob", Presence.HERE),
        ("polly", Presence.AWAY),
    ]
    assert [(each.id, each.recipient) for each in waiting(store)] == [
        ("m1", "bob"),
        ("m1", "polly"),
    ]


def test_a_message_that_died_again_comes_back_again(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    end(store, message(), Outcome.EXPIRED, after=HOUR)
    clock.advance(HOUR)
    (sent,) = gateway.retry("m1")
    end(store, sent.message, Outcome.EXPIRED, after=HOUR)
    clock.advance(HOUR)
    gateway.retry("m1")
    assert [life.state for life in gateway.records.trace("m1")] == ["expired", "expired", "waiting"]


@pytest.fixture
def again(gateway: Gateway, store: MemoryStore, clock: ManualClock) -> dict[str, Message]:
    """A broadcast that bob and polly missed, as it waits anew for each of them."""
    end(store, message(recipient=EVERYONE), Outcome.EXPIRED, held={"bob": False, "polly": False})
    clock.advance(HOUR)
    return {sent.message.recipient: sent.message for sent in gateway.retry("m1")}


def test_a_broadcast_that_died_again_for_several_comes_back_to_each(
    gateway: Gateway, store: MemoryStore, clock: ManualClock, again: dict[str, Message]
) -> None:
    for name, dead in again.items():
        end(store, dead, Outcome.EXPIRED, held={name: False}, after=HOUR)
    clock.advance(2 * HOUR)
    assert [sent.message.recipient for sent in gateway.retry("m1")] == ["bob", "polly"]


@pytest.mark.parametrize("last", [MOMENT, -MOMENT], ids=["held last", "held first"])
def test_a_broadcast_that_one_holds_at_last_comes_back_to_who_missed_it_again(
    gateway: Gateway, store: MemoryStore, again: dict[str, Message], last: timedelta
) -> None:
    end(store, again["bob"], Outcome.REJECTED, held={"bob": False}, after=HOUR)
    end(store, again["polly"], held={"polly": True}, after=HOUR + last)
    assert [sent.message.recipient for sent in gateway.retry("m1")] == ["bob"]


def test_a_broadcast_that_waits_for_one_comes_back_to_who_missed_it_again(
    gateway: Gateway, store: MemoryStore, clock: ManualClock, again: dict[str, Message]
) -> None:
    end(store, again["polly"], Outcome.EXPIRED, after=HOUR)
    clock.advance(HOUR)
    assert [sent.message.recipient for sent in gateway.retry("m1")] == ["polly"]
    assert [each.recipient for each in waiting(store)] == ["bob", "polly"]


def test_a_broadcast_that_all_hold_at_last_is_no_dead_letter(
    gateway: Gateway, store: MemoryStore, again: dict[str, Message]
) -> None:
    for name, held in again.items():
        end(store, held, held={name: True})
    with pytest.raises(RequestRefused, match="m1 is no dead letter: it was delivered"):
        gateway.retry("m1")


def unread_dead_letters(gateway: Gateway) -> tuple[set[str], int]:
    """Those that still need somebody, and how many the status counts."""
    return {*ids(gateway.records.find(Query(outcomes=DEAD, unread=True)))}, gateway.status().dead


def test_a_dead_letter_that_was_sent_again_is_dealt_with_until_it_dies_again(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    end(store, message(), Outcome.EXPIRED)
    end(store, message(id="m2"), Outcome.REJECTED)
    assert unread_dead_letters(gateway) == ({"m1", "m2"}, 2)

    clock.advance(HOUR)
    (sent,) = gateway.retry("m1")
    assert unread_dead_letters(gateway) == ({"m2"}, 1)
    assert [life.message.read for life in gateway.records.trace("m1")] == [True, False]

    end(store, sent.message, Outcome.EXPIRED, after=HOUR)
    assert unread_dead_letters(gateway) == ({"m1", "m2"}, 2)
    clock.advance(2 * HOUR)
    gateway.retry("m1")
    assert unread_dead_letters(gateway) == ({"m2"}, 1)


def test_a_dead_letter_that_could_not_be_sent_again_is_not_dealt_with(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    end(store, message(), Outcome.EXPIRED)
    clock.advance(HOUR)
    store.fail_with(StoreUnwritable("the disk is full"))
    with pytest.raises(StoreUnwritable):
        gateway.retry("m1")
    assert unread_dead_letters(gateway) == ({"m1"}, 1)


def test_what_is_not_there_cannot_be_retried(gateway: Gateway) -> None:
    with pytest.raises(RequestRefused, match="there is no message 'm1'"):
        gateway.retry("m1")


def test_what_waits_needs_no_retry(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    end(store, message(), Outcome.EXPIRED)
    clock.advance(HOUR)
    gateway.retry("m1")
    with pytest.raises(RequestRefused, match="the message m1 waits"):
        gateway.retry("m1")
    assert len(waiting(store)) == 1


@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.READ])
def test_what_is_held_or_read_is_no_dead_letter(
    gateway: Gateway, store: MemoryStore, outcome: Outcome
) -> None:
    end(store, message(), outcome)
    with pytest.raises(RequestRefused, match=f"m1 is no dead letter: it was {outcome.value}"):
        gateway.retry("m1")
    assert waiting(store) == []


# ------------------------------------------------------------------- what is not to be mixed up


def test_two_projects_of_one_name_are_not_one_agent(gateway: Gateway) -> None:
    gateway.register(None, directory="/shop/api", role="")
    with pytest.raises(RequestRefused, match='another agent, in /shop/api, is called "api"'):
        gateway.register(None, directory="/bank/api", role="")
    assert gateway.register(None, directory="/shop/api", role="Again").id == "api"


def test_what_was_sent_too_often_is_in_no_inbox(
    gateway: Gateway, person: Gateway, store: MemoryStore
) -> None:
    end(store, message(id="m1", recipient=HUMAN), Outcome.RATE_LIMITED)
    end(store, message(id="m2", recipient=EVERYONE), Outcome.RATE_LIMITED)
    assert person.mail(HUMAN) == []
    assert gateway.mail("polly") == []
    assert (person.status().unread, person.status().dead) == (0, 2)


def test_an_id_that_was_used_for_two_things_is_retried_for_both(
    gateway: Gateway, store: MemoryStore
) -> None:
    end(store, message(content="first"), Outcome.EXPIRED)
    end(store, message(content="second", timestamp=NOON + MINUTE), Outcome.EXPIRED)
    end(store, message(content="third", timestamp=NOON + 2 * MINUTE))
    assert len(gateway.retry("m1")) == 2
    assert sorted(each.content for each in waiting(store)) == ["first", "second"]


# --------------------------------------------------------------------------------- discarding


def test_what_waits_is_not_delivered_once_it_was_discarded(
    gateway: Gateway, store: MemoryStore
) -> None:
    store.put(message())
    (entry,) = gateway.discard("m1")
    assert (entry.message, entry.state) == (message(read=True), "read")
    assert waiting(store) == [message(read=True)], "the hub settles it as read"
    assert [each.state for each in gateway.records.trace("m1")] == ["read"]
    assert gateway.status().waiting == 0


def test_a_dead_letter_that_was_discarded_is_counted_no_more(
    gateway: Gateway, store: MemoryStore
) -> None:
    end(store, message(), Outcome.EXPIRED)
    (entry,) = gateway.discard("m1")
    assert (entry.state, entry.dead) == ("expired", False)
    assert gateway.status().dead == 0
    assert list(gateway.records.trace("m1")) == [entry]


def test_a_dead_letter_that_was_discarded_may_still_be_sent_again(
    gateway: Gateway, store: MemoryStore
) -> None:
    end(store, message(), Outcome.EXPIRED)
    gateway.discard("m1")
    gateway.retry("m1")
    assert [each.read for each in waiting(store)] == [False]


def test_all_that_is_left_of_a_message_is_discarded_at_once(
    gateway: Gateway, store: MemoryStore, clock: ManualClock
) -> None:
    end(store, message(), Outcome.EXPIRED)
    clock.advance(MINUTE)
    store.put(message(timestamp=clock.now()))
    assert [entry.state for entry in gateway.discard("m1")] == ["expired", "read"]
    with pytest.raises(RequestRefused, match="nothing to discard of the message m1: it was read"):
        gateway.discard("m1")


# ---------------------------------------------------------------------------------- prospects


def test_what_will_happen_to_a_message_that_waits_can_be_asked_later(
    gateway: Gateway,
) -> None:
    prospects = {
        name: gateway.prospect(message(recipient=name)).presence for name in ("bob", "polly", "bb")
    }
    assert prospects == {
        "bob": Presence.HERE,
        "polly": Presence.AWAY,
        "bb": Presence.UNKNOWN,
    }


def test_a_hub_is_at_work_or_not(gateway: Gateway, store: MemoryStore) -> None:
    assert not gateway.attended()
    store.attended = True
    assert gateway.attended()


def test_names_that_look_alike_are_found(gateway: Gateway) -> None:
    assert gateway.alike("boob") == ("bob",)
    assert gateway.alike("zzz") == ()


def test_an_agent_is_found_by_its_name(gateway: Gateway) -> None:
    assert gateway.agent("bob").session_id == "ses_bob"
    with pytest.raises(RequestRefused, match=r"known as 'boob' \(did you mean bob\?\): agenthub"):
        gateway.agent("boob")
