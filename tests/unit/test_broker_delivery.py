"""How the broker brings a message to its recipients: to whom, when, and in which order."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from agenthub_core import (
    EVERYONE,
    HUMAN,
    Delivery,
    Outcome,
    Policy,
    Priority,
    RelayUnreachable,
    StoreUnwritable,
)
from agenthub_core.protocol import Inject, Settle
from agenthub_core.testing import NOON
from tests.unit.builders import (
    Actions,
    Story,
    agent,
    injected,
    message,
    of,
    outcomes,
    seconds,
    session,
    topics,
)

HOUR = timedelta(hours=1)
MOMENT = timedelta(microseconds=1)


def order_of_delivery(story: Story, actions: Actions) -> list[str]:
    """The keys in the order in which bob gets them, each held at once."""
    order = []
    while keys := [inject.key for inject in of(Inject, actions)]:
        order += keys
        actions = tuple(action for key in keys for action in story.holds(key))
    return order


# ------------------------------------------------------------------------------ to one agent


def test_a_message_goes_to_its_recipients_session() -> None:
    story = Story("bob")
    (inject,) = of(Inject, story.arrives(message(content="Which port?")))
    assert (inject.key, inject.recipient, inject.prompt.session_id) == ("m1", "bob", "ses_bob")
    assert "Which port?" in inject.prompt.text
    assert not inject.prompt.repeated


def test_a_message_that_came_before_the_first_listing_goes_out_after_it() -> None:
    story = Story()
    assert injected(story.arrives(message())) == []
    assert injected(story.lists(session("bob"))) == [("m1", "bob")]


def test_an_agent_of_an_earlier_run_gets_its_message_as_soon_as_the_relay_answers() -> None:
    story = Story(agents=[agent("bob")])
    assert injected(story.arrives(message())) == []
    assert injected(story.lists()) == [("m1", "bob")]


def test_a_recipient_that_is_not_here_yet_gets_its_message_when_it_appears() -> None:
    story = Story("alice")
    actions = story.arrives(message())
    assert (injected(actions), topics(actions)) == ([], ["recipient.unknown"])
    assert injected(story.lists(session("carol"))) == []
    assert injected(story.lists(session("bob"))) == [("m1", "bob")]


def test_a_message_is_settled_as_delivered_when_its_session_holds_it() -> None:
    story = Story("bob")
    story.arrives(message())
    story.wait(seconds(2))
    actions = story.holds()
    (settle,) = of(Settle, actions)
    assert settle.settlement.message == message()
    assert (settle.settlement.outcome, settle.settlement.at) == (Outcome.DELIVERED, story.now)
    assert settle.settlement.deliveries == (
        Delivery(recipient="bob", session_id="ses_bob", held_at=story.now, attempts=1),
    )
    assert topics(actions) == ["message.delivered"]


def test_a_settled_message_is_forgotten() -> None:
    story = Story("bob")
    story.arrives(message())
    assert story.broker.knows("m1")
    story.holds()
    assert story.broker.pending == {"m1"}
    story.settled()
    assert not story.broker.knows("m1")
    assert outcomes(story.wait(2 * HOUR)) == []


def test_a_message_that_an_earlier_run_may_have_delivered_is_injected_as_repeated() -> None:
    story = Story("bob")
    (inject,) = of(Inject, story.arrives(message(), recovered=True))
    assert inject.prompt.repeated


def test_a_message_that_its_recipient_has_read_already_is_settled_and_never_injected() -> None:
    story = Story("bob")
    actions = story.arrives(message(read=True))
    assert outcomes(actions) == [("m1", Outcome.READ)]
    assert (injected(actions), topics(actions)) == ([], [])
    assert outcomes(story.wait(2 * HOUR)) == []


@pytest.mark.parametrize(
    ("duration", "shown"), [(0.25, "(250 ms after"), (9.999, "(9999 ms after"), (75, "(75 s after")]
)
def test_a_delivery_tells_how_long_it_took(duration: float, shown: str) -> None:
    story = Story("bob")
    story.arrives(message())
    story.wait(seconds(duration))
    assert any(shown in str(action) for action in story.holds())


# ---------------------------------------------------------------------------------- to the person


def test_a_message_to_the_person_is_delivered_as_soon_as_the_inbox_holds_it() -> None:
    story = Story("alice")
    story.wait(seconds(2))
    actions = story.arrives(message(recipient=HUMAN))
    (settle,) = of(Settle, actions)
    assert (settle.settlement.outcome, settle.settlement.at) == (Outcome.DELIVERED, story.now)
    assert settle.settlement.deliveries == (Delivery(recipient=HUMAN, held_at=story.now),)
    assert settle.settlement.reason == ""
    assert injected(actions) == []
    assert topics(actions) == ["message.delivered"]
    assert any("agenthub inbox" in str(action) for action in actions)


def test_a_message_to_the_person_needs_no_relay_and_no_listing() -> None:
    story = Story()
    assert outcomes(story.arrives(message(recipient=HUMAN))) == [("m1", Outcome.DELIVERED)]


def test_a_message_to_the_person_never_comes_too_late() -> None:
    story = Story("alice")
    actions = story.arrives(message(recipient=HUMAN, timestamp=NOON - 2 * HOUR))
    assert outcomes(actions) == [("m1", Outcome.DELIVERED)]


def test_a_message_that_the_person_has_read_already_is_settled_as_read() -> None:
    story = Story("alice")
    actions = story.arrives(message(recipient=HUMAN, read=True))
    assert outcomes(actions) == [("m1", Outcome.READ)]
    assert topics(actions) == []


def test_a_message_to_the_person_is_forgotten_once_it_is_settled() -> None:
    story = Story("alice")
    story.arrives(message(recipient=HUMAN))
    assert story.broker.knows("m1")
    story.settled()
    assert not story.broker.knows("m1")
    assert outcomes(story.wait(2 * HOUR)) == []


def test_a_message_to_the_person_is_settled_again_where_the_store_could_not() -> None:
    story = Story("alice")
    (first,) = of(Settle, story.arrives(message(recipient=HUMAN)))
    story.settle_fails(StoreUnwritable("full"))
    (again,) = of(Settle, story.wait(story.policy.settle_retry))
    assert again == first


# ------------------------------------------------------------------------------------ expiry


@pytest.mark.parametrize(
    ("written", "deadline"),
    [
        (NOON, NOON + HOUR),
        (NOON - timedelta(minutes=20), NOON + timedelta(minutes=40)),
        (NOON + timedelta(days=365), NOON + HOUR),
    ],
    ids=["written now", "written before", "written by a clock that is ahead"],
)
@pytest.mark.parametrize("recipient", ["bob", EVERYONE])
def test_a_message_expires_at_its_deadline_and_not_before(
    recipient: str, written: datetime, deadline: datetime
) -> None:
    story = Story("alice")
    story.arrives(message(recipient=recipient, timestamp=written))
    assert outcomes(story.wait_until(deadline - MOMENT)) == []
    actions = story.wait_until(deadline)
    assert outcomes(actions) == [("m1", Outcome.EXPIRED)]
    assert topics(actions) == ["message.expired"]


def test_a_message_found_too_late_is_settled_at_once() -> None:
    story = Story("bob")
    actions = story.arrives(message(timestamp=NOON - HOUR))
    assert (injected(actions), outcomes(actions)) == ([], [("m1", Outcome.EXPIRED)])
    assert outcomes(story.wait(2 * HOUR)) == []


def reason(actions: Actions) -> str:
    (settle,) = of(Settle, actions)
    assert settle.settlement.reason
    return settle.settlement.reason


def test_a_dead_letter_says_that_nobody_appeared() -> None:
    story = Story("alice")
    story.arrives(message())
    assert reason(story.wait(HOUR)) == "no session of bob appeared"


def test_a_dead_broadcast_says_that_nobody_was_here() -> None:
    story = Story("alice")
    story.arrives(message(recipient=EVERYONE))
    assert reason(story.wait(HOUR)) == "no agent was here to receive it"


def test_a_dead_letter_says_that_its_recipient_has_no_session() -> None:
    story = Story("alice", agents=[agent("bob", session_id=None)])
    story.arrives(message())
    assert reason(story.wait(HOUR)) == "the agent bob has no session"


def test_a_dead_letter_says_that_opencode_did_not_answer() -> None:
    story = Story(agents=[agent("bob")])
    story.arrives(message())
    assert reason(story.wait(HOUR)) == "the relay did not answer"


def test_a_dead_letter_says_that_others_went_before_it() -> None:
    story = Story("bob")
    story.arrives(message(id="m1", timestamp=NOON), message(id="m2", timestamp=NOON - seconds(1)))
    assert reason(story.wait(HOUR)) == "other messages went before it"


def test_a_dead_letter_says_what_its_last_attempt_failed_with() -> None:
    story = Story("bob")
    story.arrives(message())
    story.fails(RelayUnreachable("connection refused"))
    story.lists_nothing(RelayUnreachable("connection refused"))
    actions = story.wait(HOUR)
    assert reason(actions) == "connection refused"
    (delivery,) = of(Settle, actions)[0].settlement.deliveries
    assert (delivery.held_at, delivery.attempts, delivery.reason) == (None, 1, "connection refused")


def test_what_is_under_way_at_its_deadline_may_still_be_delivered() -> None:
    story = Story("bob")
    story.arrives(message())
    assert outcomes(story.wait(HOUR)) == []
    assert outcomes(story.holds()) == [("m1", Outcome.DELIVERED)]


def test_what_is_under_way_at_its_deadline_and_fails_is_not_tried_again() -> None:
    story = Story("bob")
    story.arrives(message())
    story.wait(HOUR)
    actions = story.fails(RelayUnreachable("timed out"))
    assert (outcomes(actions), reason(actions)) == ([("m1", Outcome.EXPIRED)], "timed out")
    assert injected(story.wait(HOUR)) == []


# ------------------------------------------------------------------------------------- order


def test_urgent_goes_first_then_the_older_then_what_arrived_first() -> None:
    story = Story()
    story.arrives(
        message(id="low", priority=Priority.LOW, timestamp=NOON - seconds(9)),
        message(id="normal-2", timestamp=NOON),
        message(id="normal-3", timestamp=NOON),
        message(id="normal-1", timestamp=NOON - seconds(1)),
        message(id="high", priority=Priority.HIGH),
        message(id="urgent", priority=Priority.URGENT, timestamp=NOON + seconds(9)),
    )
    assert order_of_delivery(story, story.lists(session("bob"))) == [
        "urgent",
        "high",
        "normal-1",
        "normal-2",
        "normal-3",
        "low",
    ]


def test_a_failed_attempt_does_not_cost_a_message_its_place() -> None:
    story = Story("bob")
    story.arrives(message(id="first"))
    story.arrives(message(id="second", timestamp=NOON + seconds(1)))
    story.fails(RelayUnreachable("timed out"), "first")
    assert order_of_delivery(story, story.wait(seconds(0.2))) == ["first", "second"]


def test_what_is_urgent_overtakes_what_waits_for_its_next_attempt() -> None:
    story = Story("bob")
    story.arrives(message(id="first"))
    story.fails(RelayUnreachable("timed out"), "first")
    story.arrives(message(id="urgent", priority=Priority.URGENT))
    assert order_of_delivery(story, story.wait(seconds(0.2))) == ["urgent", "first"]


def test_sessions_get_their_messages_side_by_side_up_to_the_number_of_workers() -> None:
    story = Story("bob", "carol", "dora", policy=Policy(workers=2))
    actions = story.arrives(
        message(id="m1", recipient="bob"),
        message(id="m2", recipient="carol"),
        message(id="m3", recipient="dora"),
    )
    assert injected(actions) == [("m1", "bob"), ("m2", "carol")]
    assert injected(story.fails(RelayUnreachable("timed out"), "m1", "bob")) == [("m3", "dora")]


# -------------------------------------------------------------------------------- broadcasts


def test_a_broadcast_goes_to_every_agent_but_its_sender() -> None:
    story = Story("alice", "bob", "carol")
    actions = story.arrives(message(sender="alice", recipient=EVERYONE))
    assert injected(actions) == [("m1", "bob"), ("m1", "carol")]


def test_a_broadcast_is_settled_when_each_has_confirmed_it() -> None:
    story = Story("alice", "bob", "carol")
    story.arrives(message(recipient=EVERYONE))
    assert outcomes(story.holds(recipient="carol")) == []
    story.wait(seconds(1))
    (settle,) = of(Settle, story.holds(recipient="bob"))
    assert settle.settlement.outcome is Outcome.DELIVERED
    assert {each.recipient: each.held_at for each in settle.settlement.deliveries} == {
        "bob": NOON + seconds(1),
        "carol": NOON,
    }


def test_a_broadcast_that_failed_for_one_is_repeated_for_that_one_only() -> None:
    story = Story("alice", "bob", "carol")
    story.arrives(message(recipient=EVERYONE))
    story.holds(recipient="carol")
    story.fails(RelayUnreachable("timed out"), recipient="bob")
    (inject,) = of(Inject, story.wait(seconds(0.2)))
    assert (inject.recipient, inject.prompt.repeated) == ("bob", True)


def test_a_broadcast_that_not_all_could_be_given_expires_and_tells_who_holds_it() -> None:
    story = Story("alice", "bob", "carol")
    story.arrives(message(recipient=EVERYONE))
    story.holds(recipient="carol")
    story.fails(RelayUnreachable("timed out"), recipient="bob")
    story.lists_nothing(RelayUnreachable("timed out"))
    (settle,) = of(Settle, story.wait(HOUR))
    assert settle.settlement.outcome is Outcome.EXPIRED
    held = {each.recipient: each.held_at is not None for each in settle.settlement.deliveries}
    assert held == {"bob": False, "carol": True}


def test_a_broadcast_does_not_wake_who_has_been_silent_for_long() -> None:
    stale = agent("stale", last_seen=NOON - HOUR - MOMENT)
    story = Story("alice", "bob", agents=[stale])
    assert injected(story.arrives(message(recipient=EVERYONE))) == [("m1", "bob")]


def test_a_broadcast_waits_until_somebody_is_there() -> None:
    story = Story("alice")
    assert injected(story.arrives(message(recipient=EVERYONE))) == []
    assert injected(story.lists(session("alice"))) == []
    assert injected(story.lists(session("bob"))) == [("m1", "bob")]
    assert injected(story.lists(session("carol"))) == []


def test_a_broadcast_waits_for_the_first_listing_even_where_agents_are_known() -> None:
    story = Story(agents=[agent("bob")])
    assert injected(story.arrives(message(recipient=EVERYONE))) == []
    assert injected(story.lists(session("carol"))) == [("m1", "bob"), ("m1", "carol")]


# --------------------------------------------------------------------------------- verified only


def test_where_only_the_verified_are_heard_others_are_dead_letters() -> None:
    story = Story("bob", policy=Policy(require_verified=True))
    actions = story.arrives(message())
    assert injected(actions) == []
    assert outcomes(actions) == [("m1", Outcome.REJECTED)]
    assert topics(actions) == ["message.rejected"]
    (settle,) = of(Settle, actions)
    assert "the hub does not know that it is alice who writes" in settle.settlement.reason
    assert "agenthub setup" in settle.settlement.reason


def test_where_only_the_verified_are_heard_they_are_and_nobody_is_told_to_write_files() -> None:
    story = Story("bob", policy=Policy(require_verified=True))
    (inject,) = of(Inject, story.arrives(message(verified=True)))
    assert "(unverified)" not in inject.prompt.text
    assert ".json" not in inject.prompt.text


def test_what_was_read_elsewhere_is_no_dead_letter_although_nobody_is_verified() -> None:
    story = Story("bob", policy=Policy(require_verified=True))
    assert outcomes(story.arrives(message(read=True))) == [("m1", Outcome.READ)]
