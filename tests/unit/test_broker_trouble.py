"""What the broker does when the relay, or one session, does not do what it was asked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agenthub_core import (
    Backoff,
    Outcome,
    Policy,
    PromptInvalid,
    PromptNotHeld,
    RelayError,
    RelayRefused,
    RelayUnreachable,
    SessionBusy,
    SessionUnknown,
    TurnFailed,
)
from agenthub_core.protocol import Inject, ListSessions, Notify, SaveAgent, Settle
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

UNREACHABLE = RelayUnreachable("connection refused")
REFUSED = RelayRefused("it wants a password")
BUSY = SessionBusy("at work in another process")
UNKNOWN = SessionUnknown("no such session")
TRANSIENT = [
    UNREACHABLE,
    REFUSED,
    PromptNotHeld("never stored"),
    TurnFailed("no such model"),
    RelayError("something else"),
]
RELAY_TROUBLE = [UNREACHABLE, REFUSED]

BACKOFF = Backoff(quick=3)


def next_attempt(story: Story) -> timedelta:
    """How long it takes until something is injected again."""
    began = story.now
    while not of(Inject, story.goes_on()):
        pass
    return story.now - began


# -------------------------------------------------------------------------------- one session


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_a_failed_injection_is_repeated_quickly_then_ever_more_slowly(error: RelayError) -> None:
    story = Story("bob", policy=Policy(backoff=BACKOFF))
    story.arrives(message())
    for failures in range(1, 9):
        story.fails(error)
        assert next_attempt(story) == BACKOFF.delay(failures, "bob")
    (settle,) = of(Settle, story.holds())
    assert settle.settlement.deliveries[0].attempts == 9


def test_what_was_tried_before_is_injected_as_repeated() -> None:
    story = Story("bob")
    (first,) = of(Inject, story.arrives(message()))
    story.fails(UNREACHABLE)
    (second,) = of(Inject, story.wait(seconds(0.2)))
    assert (first.prompt.repeated, second.prompt.repeated) == (False, True)
    assert first.prompt.id == second.prompt.id


def test_a_delivery_begins_the_count_of_failures_anew() -> None:
    story = Story("bob")
    story.arrives(message(id="m1"), message(id="m2"))
    story.fails(UNREACHABLE)
    next_attempt(story)
    story.holds()
    story.fails(UNREACHABLE, "m2")
    assert next_attempt(story) == BACKOFF.delay(1, "bob")


def test_a_session_that_is_at_work_elsewhere_is_looked_at_again_and_again() -> None:
    story = Story("bob")
    story.arrives(message())
    for _ in range(9):
        story.fails(BUSY)
        assert next_attempt(story) == story.policy.busy_wait
    (inject,) = of(Inject, story.log)[-1:]
    assert not inject.prompt.repeated, "a busy session was never asked to hold it"
    (settle,) = of(Settle, story.holds())
    assert settle.settlement.deliveries[0].attempts == 1


def test_an_agent_whose_session_is_gone_keeps_its_name_and_its_messages() -> None:
    story = Story("bob")
    story.arrives(message())
    actions = story.fails(UNKNOWN)
    assert topics(actions) == ["session.gone"]
    assert [each.agent for each in of(SaveAgent, actions)] == [
        agent("bob", session_id=None, directory="/projects/bob")
    ]
    assert injected(story.wait(seconds(60))) == []
    assert story.broker.knows("m1")


def test_a_session_that_comes_back_gets_the_messages_of_its_agent() -> None:
    story = Story("bob")
    story.arrives(message())
    story.fails(UNKNOWN)
    (inject,) = of(Inject, story.lists(session("bob")))
    assert (inject.recipient, inject.prompt.session_id) == ("bob", "ses_bob")
    assert [each.id for each in story.broker.agents] == ["bob"]


def test_what_the_relay_will_never_accept_is_a_dead_letter_and_blocks_nobody() -> None:
    story = Story("bob")
    story.arrives(message(id="m1"), message(id="m2"))
    actions = story.fails(PromptInvalid("text is too long"))
    assert outcomes(actions) == [("m1", Outcome.REJECTED)]
    assert of(Settle, actions)[0].settlement.reason == "text is too long"
    assert injected(actions) == [("m2", "bob")]
    assert topics(actions) == ["message.rejected"]


def test_the_trouble_of_a_session_is_told_when_quick_retries_did_not_help_and_when_it_is_over() -> (
    None
):
    story = Story("bob")
    story.arrives(message())
    told = []
    for _ in range(8):
        told.append(topics(story.fails(PromptNotHeld("never stored"))))
        next_attempt(story)
    assert told == [[], [], [], ["session.trouble"], [], [], [], []]
    assert topics(story.holds()) == ["session.recovered", "message.delivered"]


def test_other_trouble_of_a_session_is_told_again() -> None:
    story = Story("bob")
    story.arrives(message())
    assert topics(story.fails(BUSY)) == ["session.trouble"]
    next_attempt(story)
    assert topics(story.fails(BUSY)) == []
    for _ in range(3):
        next_attempt(story)
        assert topics(story.fails(PromptNotHeld("never stored"))) == []
    next_attempt(story)
    assert topics(story.fails(PromptNotHeld("never stored"))) == ["session.trouble"]


def test_a_sign_of_life_from_a_troubled_session_ends_its_wait() -> None:
    story = Story("bob")
    story.arrives(message())
    for _ in range(3):
        story.fails(PromptNotHeld("never stored"))
        next_attempt(story)
    story.fails(PromptNotHeld("never stored"))
    assert injected(story.lists(session("bob"))) == [], "it was listed, but nothing changed"
    active = session("bob", updated=story.now)
    assert injected(story.lists(active)) == [("m1", "bob")]


def test_a_sign_of_life_does_not_shorten_a_quick_retry() -> None:
    story = Story("bob")
    story.arrives(message())
    story.fails(UNREACHABLE)
    story.wait(seconds(0.1))
    assert injected(story.lists(session("bob", updated=story.now))) == []


def test_the_trouble_of_one_session_does_not_hold_up_another() -> None:
    story = Story("bob", "carol", policy=Policy(workers=1))
    story.arrives(message(id="m1", recipient="bob"), message(id="m2", recipient="carol"))
    assert injected(story.fails(BUSY)) == [("m2", "carol")]


# ---------------------------------------------------------------------------- the whole relay


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_only_when_the_relay_may_be_down_quick_failures_end_in_a_listing(error: RelayError) -> None:
    story = Story("bob", policy=Policy(session_poll=timedelta(days=1)))
    story.arrives(message())
    for _ in range(3):
        story.fails(error)
        next_attempt(story)
    assert len(of(ListSessions, story.log)) == 1
    story.fails(error)
    asked = error in RELAY_TROUBLE
    assert len(of(ListSessions, story.wait(timedelta(0)))) == asked


def went_down(story: Story, error: RelayError = UNREACHABLE) -> Actions:
    """The next listing is asked for, and fails."""
    while not of(ListSessions, story.goes_on()):
        pass
    return story.lists_nothing(error)


@pytest.mark.parametrize("error", RELAY_TROUBLE, ids=lambda error: type(error).__name__)
def test_while_the_relay_is_down_it_is_said_once_and_nothing_is_injected(error: RelayError) -> None:
    story = Story("bob")
    assert topics(went_down(story, error)) == ["relay.down"]
    assert injected(story.arrives(message())) == []
    for _ in range(5):
        actions = went_down(story, error)
        assert (topics(actions), injected(actions)) == ([], [])


def test_a_relay_that_was_never_up_is_said_to_be_down_once() -> None:
    story = Story()
    assert [topics(went_down(story)) for _ in range(3)] == [["relay.down"], [], []]


def test_another_trouble_of_the_relay_is_told_again() -> None:
    story = Story("bob")
    told = [topics(went_down(story, error)) for error in (UNREACHABLE, REFUSED, REFUSED)]
    assert told == [["relay.down"], ["relay.down"], []]


def test_a_relay_that_is_down_is_asked_more_often() -> None:
    story = Story("bob")
    went_down(story)
    assert of(ListSessions, story.wait(story.policy.relay_probe - timedelta(microseconds=1))) == []
    assert len(of(ListSessions, story.wait(timedelta(microseconds=1)))) == 1


def test_when_the_relay_is_back_it_is_said_once_and_everything_goes_on_together() -> None:
    story = Story("bob", "carol")
    story.arrives(message(id="m1", recipient="bob"))
    story.fails(BUSY, "m1", "bob")
    story.lists_nothing(UNREACHABLE)
    story.wait(seconds(0.5))
    story.arrives(message(id="m2", recipient="carol"))
    actions = story.lists()
    assert injected(actions) == []
    rest = story.policy.relay_rest
    assert injected(story.wait(rest - seconds(0.01))) == [], "windows are yet to come back to it"
    assert injected(story.wait(seconds(0.01))) == [("m1", "bob"), ("m2", "carol")]
    (told,) = [notice for notice in of(Notify, actions) if notice.topic == "relay.up"]
    assert told.text == "the relay answers again after 500 ms; messages waiting: 2"
    assert topics(story.lists()) == []


def test_the_first_answer_of_the_relay_is_told_too() -> None:
    (told,) = of(Notify, Story(listed=True).log)
    assert (told.topic, told.text) == ("relay.up", "the relay answers; messages waiting: 0")


def test_what_was_under_way_when_the_relay_went_down_is_tried_again_when_it_is_back() -> None:
    story = Story("bob")
    story.arrives(message())
    went_down(story)
    story.fails(UNREACHABLE)
    assert injected(story.wait(seconds(0.9))) == []
    story.lists()
    assert injected(story.wait(story.policy.relay_rest)) == [("m1", "bob")]


# ----------------------------------------------------------------------------------- listings


def listings(actions: Actions) -> list[timedelta]:
    return [each.active for each in of(ListSessions, actions)]


def test_the_first_listing_looks_back_as_far_as_agents_count_as_active() -> None:
    story = Story()
    assert listings(story.goes_on()) == [story.policy.agent_stale]


def test_a_further_listing_looks_back_to_when_the_last_one_was_asked_for_and_a_little_beyond() -> (
    None
):
    story = Story()
    story.goes_on()
    story.wait(seconds(3))
    story.lists()
    assert listings(story.wait(seconds(5))) == [seconds(8) + story.policy.listing_overlap]


def test_the_listing_after_a_failed_one_looks_back_to_the_last_that_was_answered() -> None:
    story = Story(listed=True)
    story.wait(seconds(5))
    story.lists_nothing(UNREACHABLE)
    assert listings(story.wait(seconds(1))) == [seconds(6) + story.policy.listing_overlap]


def test_after_a_long_outage_a_listing_does_not_look_back_further_than_the_first() -> None:
    story = Story(listed=True)
    story.wait(seconds(5))
    story.wait(timedelta(days=3))
    story.lists_nothing(UNREACHABLE)
    assert listings(story.wait(seconds(1))) == [story.policy.agent_stale]


def test_there_are_never_two_listings_under_way() -> None:
    story = Story("bob")
    story.arrives(message())
    assert len(listings(story.wait(seconds(5)))) == 1
    for _ in range(9):
        story.fails(UNREACHABLE)
        next_attempt(story)
    assert len(listings(tuple(story.log))) == 2
    story.lists()
    assert len(listings(story.wait(seconds(5)))) == 1
