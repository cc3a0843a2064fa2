"""How sessions become agents, and what is kept of them."""

from __future__ import annotations

import pytest
from attrs import evolve

from agenthub_core import Notify, RelayUnreachable, SessionUnknown
from agenthub_core.model import RESERVED
from agenthub_core.protocol import SaveAgent
from agenthub_core.testing import NOON
from tests.unit.builders import Story, agent, injected, message, of, seconds, session, topics


def names(story: Story) -> list[str]:
    return [each.id for each in story.broker.agents]


def test_a_session_becomes_an_agent_under_its_slug_and_is_saved() -> None:
    story = Story(listed=True)
    actions = story.lists(session("bob"))
    assert topics(actions) == ["agent.registered"]
    assert [each.agent for each in of(SaveAgent, actions)] == [
        agent("bob", directory="/projects/bob")
    ]


def test_a_session_is_registered_once() -> None:
    story = Story("bob")
    assert topics(story.lists(session("bob"))) == []
    assert names(story) == ["bob"]


def test_two_sessions_with_one_slug_are_two_agents() -> None:
    story = Story(listed=True)
    story.lists(session("bob", id="ses_111111"), session("bob", id="ses_222222"))
    assert names(story) == ["bob", "bob-222222"]


@pytest.mark.parametrize("slug", sorted(RESERVED))
def test_no_agent_gets_an_address_of_the_hubs_own(slug: str) -> None:
    story = Story(slug)
    assert names(story) == [f"{slug}-{slug[-6:]}"]


def test_a_session_keeps_the_name_it_had_in_an_earlier_run() -> None:
    story = Story("bob", agents=[agent("robert", session_id="ses_bob")])
    assert names(story) == ["robert"]
    assert injected(story.arrives(message(recipient="robert"))) == [("m1", "robert")]


def test_an_agents_activity_is_saved_at_most_once_a_minute() -> None:
    story = Story("bob")
    saved = []
    for second in range(5, 200, 5):
        actions = story.lists(session("bob", updated=NOON + seconds(second)))
        saved += [each.agent.last_seen for each in of(SaveAgent, actions)]
    assert saved == [NOON + seconds(60), NOON + seconds(120), NOON + seconds(180)]


def test_a_listing_that_is_answered_late_does_not_make_another_agent_of_a_session_that_went() -> (
    None
):
    story = Story("alice", "bob")
    story.arrives(message())
    story.fails(SessionUnknown("deleted"))
    story.lists(session("alice"), session("bob"))
    assert names(story) == ["alice", "bob"]


def test_agents_are_known_while_the_relay_is_down() -> None:
    story = Story(agents=[agent("bob")])
    story.lists_nothing(RelayUnreachable("connection refused"))
    assert topics(story.arrives(message())) == []


def test_sessions_from_before_the_hub_are_left_alone_which_is_told_once() -> None:
    story = Story(began=NOON)
    old = session("bob", created=NOON - seconds(1))
    story.lists(old, session("alice"))
    assert names(story) == ["alice"]
    assert topics(story.lists(evolve(old, updated=NOON + seconds(9)))) == []
    left_alone = [each for each in of(Notify, story.log) if each.topic == "sessions.left_alone"]
    assert [each.text for each in left_alone] == [
        "1 session is older than the hub and left alone: new ones become agents"
    ]


def test_a_session_that_an_agent_has_is_never_too_old() -> None:
    old = session("bob", created=NOON - seconds(1), updated=NOON + seconds(9))
    story = Story(agents=[agent("bob")], began=NOON)
    story.lists(old)
    assert [each.last_seen for each in story.broker.agents] == [NOON + seconds(9)]


def test_a_session_that_went_and_comes_back_is_not_too_old_either() -> None:
    old = session("bob", created=NOON - seconds(1))
    story = Story(agents=[agent("bob")], began=NOON)
    story.lists(old)
    story.arrives(message())
    story.fails(SessionUnknown("deleted"))
    assert topics(story.lists(old)) == ["agent.registered"]
