"""What waits for one session goes there together: in which order, and what becomes of each."""

from __future__ import annotations

from typing import Any

import pytest

from agenthub_core import (
    Outcome,
    Policy,
    Priority,
    PromptInvalid,
    PromptNotHeld,
    RelayError,
    RelayUnreachable,
    SessionBusy,
    SessionUnknown,
    TurnState,
)
from agenthub_core.protocol import Inject, MessageWithdrawn, ResumeTurn, Settle
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

UNREACHABLE = RelayUnreachable("timed out")


def keys(actions: Actions) -> list[str]:
    """What goes now, in this order."""
    return [inject.key for inject in of(Inject, actions)]


def under_way(*names: str, policy: Policy | None = None, **fields: Any) -> Story:
    """Messages to bob, of one age, that waited for his session and go there together."""
    story = Story(policy=policy, listed=True)
    story.arrives(*(message(id=name, **fields) for name in names))
    assert keys(story.lists(session("bob"))) == list(names)
    return story


# --------------------------------------------------------------------------------- together


def test_what_waits_for_a_session_goes_there_together_and_in_order() -> None:
    story = Story(listed=True)
    story.arrives(
        message(id="second"),
        message(id="third", timestamp=NOON + seconds(1)),
        message(id="first", priority=Priority.URGENT),
    )
    actions = story.lists(session("bob"))
    assert keys(actions) == ["first", "second", "third"]
    assert {inject.prompt.session_id for inject in of(Inject, actions)} == {"ses_bob"}


def test_no_more_go_together_than_the_policy_says_and_the_others_follow_when_all_are_held() -> None:
    story = Story(policy=Policy(batch=2), listed=True)
    story.arrives(*(message(id=f"m{number}") for number in range(5)))
    assert keys(story.lists(session("bob"))) == ["m0", "m1"]
    assert keys(story.holds("m0")) == []
    assert keys(story.holds("m1")) == ["m2", "m3"]
    assert keys(story.holds("m2")) == []
    assert keys(story.holds("m3")) == ["m4"]


def test_a_message_that_is_alone_does_not_wait_for_others() -> None:
    story = Story("bob")
    assert keys(story.arrives(message(id="m1"), message(id="m2"), message(id="m3"))) == ["m1"]
    assert keys(story.holds("m1")) == ["m2", "m3"]


def test_each_is_settled_as_soon_as_its_session_holds_it() -> None:
    story = under_way("m1", "m2")
    assert outcomes(story.holds("m1")) == [("m1", Outcome.DELIVERED)]
    assert outcomes(story.holds("m2")) == [("m2", Outcome.DELIVERED)]


def test_what_is_urgent_waits_for_the_end_of_what_is_under_way_and_goes_next() -> None:
    story = under_way("m1", "m2", policy=Policy(batch=2))
    story.arrives(message(id="m3"), message(id="urgent", priority=Priority.URGENT))
    assert keys(story.holds("m1")) == []
    assert keys(story.holds("m2")) == ["urgent", "m3"]


def test_what_is_urgent_goes_before_what_was_not_tried() -> None:
    story = under_way("m1", "m2")
    assert keys(story.arrives(message(id="urgent", priority=Priority.URGENT))) == []
    story.fails(UNREACHABLE, "m1")
    assert keys(story.is_not_tried("m2")) == []
    assert keys(story.wait(seconds(0.2))) == ["urgent", "m1", "m2"]


def test_what_goes_together_takes_one_worker_until_the_last_of_it_has_ended() -> None:
    story = Story(policy=Policy(workers=2), listed=True)
    story.arrives(
        message(id="b1"),
        message(id="b2"),
        message(id="c1", recipient="carol"),
        message(id="d1", recipient="dora"),
    )
    assert keys(story.lists(*map(session, ("bob", "carol", "dora")))) == ["b1", "b2", "c1"]
    assert keys(story.holds("b1")) == []
    assert keys(story.holds("b2")) == ["d1"]


@pytest.mark.parametrize("error", [UNREACHABLE, SessionBusy("at work"), SessionUnknown("deleted")])
def test_a_worker_is_free_again_however_it_ended(error: RelayError) -> None:
    story = Story("carol", policy=Policy(workers=1))
    story.arrives(message(id="b1"), message(id="b2"), message(id="b3"))
    story.lists(session("bob"))
    story.holds("b1")
    story.arrives(message(id="c1", recipient="carol"))
    assert keys(story.fails(error, "b2")) == []
    assert keys(story.is_not_tried("b3")) == ["c1"]


# ----------------------------------------------------------------------------- one that fails


def test_one_that_fails_holds_back_those_after_it_and_all_keep_their_places() -> None:
    story = under_way("m1", "m2", "m3")
    story.holds("m1")
    assert keys(story.fails(UNREACHABLE, "m2")) == []
    assert keys(story.is_not_tried("m3")) == []
    story.arrives(message(id="m4"))
    assert keys(story.wait(seconds(0.2))) == ["m2", "m3", "m4"]


def test_what_was_not_tried_is_no_repetition_and_counts_as_no_attempt() -> None:
    story = under_way("m1", "m2")
    story.fails(UNREACHABLE, "m1")
    story.is_not_tried("m2")
    again = of(Inject, story.wait(seconds(0.2)))
    assert [(inject.key, inject.prompt.repeated) for inject in again] == [
        ("m1", True),
        ("m2", False),
    ]
    attempts = [
        delivery.attempts
        for settle in of(Settle, story.holds("m1") + story.holds("m2"))
        for delivery in settle.settlement.deliveries
    ]
    assert attempts == [2, 1]


def test_what_failed_before_stays_a_repetition_though_it_is_not_tried_now() -> None:
    story = Story("bob")
    story.arrives(message(id="late"))
    story.fails(UNREACHABLE, "late")
    story.arrives(message(id="urgent", priority=Priority.URGENT))
    assert keys(story.wait(seconds(0.2))) == ["urgent", "late"]
    story.fails(SessionBusy("at work"), "urgent")
    story.is_not_tried("late")
    again = of(Inject, story.wait(seconds(1)))
    assert [(inject.key, inject.prompt.repeated) for inject in again] == [
        ("urgent", False),
        ("late", True),
    ]


def test_a_busy_session_is_asked_again_with_all_of_it() -> None:
    story = under_way("m1", "m2")
    story.fails(SessionBusy("at work"), "m1")
    assert keys(story.is_not_tried("m2")) == []
    assert keys(story.wait(seconds(0.9))) == []
    assert keys(story.wait(seconds(0.1))) == ["m1", "m2"]


def test_an_invalid_one_is_rejected_by_itself_and_the_others_follow_at_once() -> None:
    story = under_way("m1", "m2", "m3")
    story.holds("m1")
    actions = story.fails(PromptInvalid("too long"), "m2")
    assert (outcomes(actions), keys(actions)) == ([("m2", Outcome.REJECTED)], [])
    assert keys(story.is_not_tried("m3")) == ["m3"]


def test_an_invalid_one_at_the_end_holds_up_nothing() -> None:
    story = under_way("m1", "m2")
    story.arrives(message(id="m3"))
    story.holds("m1")
    assert keys(story.fails(PromptInvalid("too long"), "m2")) == ["m3"]


def test_where_the_session_is_gone_all_wait_for_it_to_come_back() -> None:
    story = under_way("m1", "m2", "m3")
    story.holds("m1")
    assert topics(story.fails(SessionUnknown("deleted"), "m2")) == ["session.gone"]
    assert topics(story.is_not_tried("m3")) == []
    assert keys(story.wait(seconds(1))) == []
    assert keys(story.lists(session("bob"))) == ["m2", "m3"]


def test_a_listing_that_comes_before_the_last_has_ended_puts_nothing_beside_it() -> None:
    story = under_way("m1", "m2")
    story.fails(SessionUnknown("deleted"), "m1")
    assert keys(story.lists(session("bob"))) == []
    assert keys(story.is_not_tried("m2")) == ["m1", "m2"]


def test_one_that_is_never_held_is_reported_once_and_the_others_go_when_it_has_expired() -> None:
    story = Story(listed=True)
    story.arrives(message(id="bad", timestamp=NOON - seconds(3000)), message(id="good"))
    actions, told, ended = story.lists(session("bob")), [], []
    while keys(actions) == ["bad", "good"]:
        failed = story.fails(PromptNotHeld("it never appeared"), "bad")
        story.is_not_tried("good")
        told += topics(failed)
        ended += outcomes(failed)
        actions = story.wait(seconds(60))
    assert told == ["session.trouble", "message.expired"]
    assert (ended, keys(actions)) == ([("bad", Outcome.EXPIRED)], ["good"])


# ----------------------------------------------------------------- time, and second thoughts


def test_what_was_not_tried_in_time_expires_as_one_that_others_went_before() -> None:
    story = under_way("m1", "m2")
    assert outcomes(story.wait(story.policy.message_ttl)) == []
    assert outcomes(story.fails(UNREACHABLE, "m1")) == [("m1", Outcome.EXPIRED)]
    (settle,) = of(Settle, story.is_not_tried("m2"))
    assert settle.settlement.outcome is Outcome.EXPIRED
    assert settle.settlement.reason == "other messages went before it"
    assert keys(story.wait(story.policy.message_ttl)) == []


def test_what_expires_because_the_session_went_says_so() -> None:
    story = under_way("m1", "m2")
    story.wait(story.policy.message_ttl)
    story.fails(SessionUnknown("deleted"), "m1")
    (settle,) = of(Settle, story.is_not_tried("m2"))
    assert settle.settlement.reason == "the agent bob has no session"


def test_what_is_under_way_together_at_its_deadline_may_still_be_delivered() -> None:
    story = under_way("m1", "m2")
    story.wait(story.policy.message_ttl)
    assert outcomes(story.holds("m1") + story.holds("m2")) == [
        ("m1", Outcome.DELIVERED),
        ("m2", Outcome.DELIVERED),
    ]


def test_what_was_withdrawn_meanwhile_is_taken_back_once_it_was_not_tried() -> None:
    story = under_way("m1", "m2", "m3")
    withdrawn = MessageWithdrawn(key="m2")
    assert topics(story.tell(withdrawn)) == []
    story.fails(UNREACHABLE, "m1")
    story.is_not_tried("m2")
    story.is_not_tried("m3")
    assert topics(story.tell(withdrawn)) == ["message.withdrawn"]
    assert keys(story.wait(seconds(0.2))) == ["m1", "m3"]


def test_what_is_rewritten_meanwhile_is_left_for_later() -> None:
    story = under_way("m1", "m2", content="first")
    assert keys(story.arrives(message(id="m2", content="second"))) == []
    story.holds("m1")
    (settle,) = of(Settle, story.holds("m2"))
    assert settle.settlement.message.content == "first"


def test_what_was_not_tried_may_be_rewritten_and_was_never_held() -> None:
    story = under_way("m1", "m2", content="first")
    story.fails(UNREACHABLE, "m1")
    story.is_not_tried("m2")
    story.arrives(message(id="m2", content="second"))
    again = of(Inject, story.wait(seconds(0.2)))
    assert [inject.key for inject in again] == ["m1", "m2"]
    assert "second" in again[1].prompt.text
    assert not again[1].prompt.repeated


# -------------------------------------------------------------- two names, and the hub's own


def polly() -> Story:
    """Bob's session has another name, and messages wait under both."""
    known = agent("polly", session_id=None, slug="", role="reviewer", directory="/projects/bob")
    story = Story(agents=[known], listed=True)
    story.arrives(
        message(id="b1", timestamp=NOON),
        message(id="b2", timestamp=NOON + seconds(2)),
        message(id="p1", recipient="polly", timestamp=NOON + seconds(1)),
        message(id="p2", recipient="polly", timestamp=NOON + seconds(3)),
    )
    assert injected(story.lists(session("bob"))) == [("b1", "bob"), ("b2", "bob")]
    return story


def test_a_session_of_two_names_is_given_what_waits_for_one_of_them_at_a_time() -> None:
    story = polly()
    assert injected(story.holds("b1")) == []
    assert injected(story.holds("b2")) == [("p1", "polly"), ("p2", "polly")]


def test_what_failed_under_one_name_does_not_go_beside_what_goes_under_the_other() -> None:
    story = polly()
    story.fails(UNREACHABLE, "b1")
    assert injected(story.is_not_tried("b2")) == [("p1", "polly"), ("p2", "polly")]
    assert injected(story.wait(seconds(0.2))) == []
    story.holds("p1", "polly")
    assert injected(story.holds("p2", "polly")) == [("b1", "bob"), ("b2", "bob")]


def test_a_turn_is_not_run_again_while_something_goes_there_under_another_name() -> None:
    story = polly()
    story.holds("b1")
    story.holds("b2")
    for _ in range(3):
        assert of(ResumeTurn, story.turn(TurnState.ABANDONED)) == []
    story.fails(SessionBusy("at work"), "p1", "polly")
    story.is_not_tried("p2", "polly")
    assert len(of(ResumeTurn, story.turn(TurnState.ABANDONED))) == 1
