"""How sessions become agents, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from attrs import evolve

from agenthub_core import (
    EVERYONE,
    Action,
    Agent,
    Notify,
    Policy,
    RelayUnreachable,
    SessionUnknown,
)
from agenthub_core.model import RESERVED
from agenthub_core.protocol import (
    AgentChanged,
    AgentFound,
    FindAgents,
    Inject,
    ListSessions,
    SaveAgent,
    SessionsChanged,
)
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


# ------------------------------------------------- agents that are known by their directory alone


def polly(**fields: Any) -> Agent:
    """She has registered herself, through a tool that cannot say which session it is in."""
    said = {"session_id": None, "slug": "", "role": "reviewer", "directory": "/projects/bob"}
    return agent("polly", **(said | fields))


def test_who_has_registered_itself_is_reached_through_the_latest_session_in_its_directory() -> None:
    story = Story(agents=[polly()], listed=True)
    older = session("ann", directory="/projects/bob", updated=NOON)
    latest = session("bob", updated=NOON + seconds(5))
    story.lists(latest, older, session("carol"))

    (inject,) = of(Inject, story.arrives(message(recipient="polly")))

    assert (inject.recipient, inject.prompt.session_id) == ("polly", "ses_bob")
    assert 'you, "polly"' in inject.prompt.text


def test_who_works_in_another_program_is_not_reached_through_somebody_elses_session() -> None:
    story = Story("bob", agents=[polly(program="claude-code")])
    assert injected(story.arrives(message(recipient="polly"))) == []
    story = Story("bob", agents=[polly(program="opencode")])
    assert injected(story.arrives(message(recipient="polly"))) == [("m1", "polly")]


def test_it_follows_the_session_that_is_used() -> None:
    story = Story(agents=[polly(directory="/projects/bob/")], listed=True)
    story.lists(session("ann", directory="/projects/bob"), session("bob"))
    story.lists(session("ann", directory="/projects/bob", updated=NOON + seconds(5)))

    (inject,) = of(Inject, story.arrives(message(recipient="polly")))

    assert inject.prompt.session_id == "ses_ann"


def test_a_session_that_is_older_than_the_hub_serves_who_registered_itself_there() -> None:
    story = Story(agents=[polly()], began=NOON, listed=True)
    story.lists(session("bob", created=NOON - seconds(1)))
    assert names(story) == ["polly"]
    assert injected(story.arrives(message(recipient="polly"))) == [("m1", "polly")]


def test_where_that_session_is_gone_the_message_waits_for_another() -> None:
    story = Story("bob", agents=[polly()])
    story.arrives(message(recipient="polly"))
    story.fails(SessionUnknown("deleted"), recipient="polly")
    assert injected(story.lists()) == []
    assert injected(story.lists(session("ann", directory="/projects/bob"))) == [("m1", "polly")]


def test_an_agent_that_had_its_name_from_a_session_is_not_reached_through_another() -> None:
    known = agent("bob", session_id=None, directory="/projects/bob", role="writes the API")
    story = Story(agents=[evolve(known, named_by_session=True)], listed=True)
    story.lists(session("ann", directory="/projects/bob"))
    assert injected(story.arrives(message())) == []


def asked_for(actions: Iterable[Action]) -> list[str]:
    """Whom the store is asked for."""
    return [name for each in of(FindAgents, actions) for name in each.names]


def test_a_recipient_that_registers_itself_while_the_hub_runs_is_found() -> None:
    story = Story("bob")
    assert asked_for(story.arrives(message(recipient="polly"))) == ["polly"]
    story.wait(story.policy.session_cache)
    assert asked_for(story.lists()) == ["polly"], "a hint may have been missed"
    assert asked_for(story.lists()) == [], "which is not looked for at every listing"

    actions = story.tell(AgentFound(agent=polly()))

    assert injected(actions) == [("m1", "polly")]


def test_who_registers_anew_is_reached_where_it_works_now() -> None:
    story = Story("bob", "ann", agents=[polly()])
    assert asked_for(story.tell(AgentChanged(name="polly"))) == ["polly"]
    story.tell(AgentFound(agent=polly(directory="/projects/ann")))
    (inject,) = of(Inject, story.arrives(message(recipient="polly")))
    assert inject.prompt.session_id == "ses_ann"


def test_who_registers_anew_where_no_session_is_waits_for_one() -> None:
    story = Story("bob", agents=[polly()])
    story.tell(AgentFound(agent=polly(directory="/elsewhere")))
    assert injected(story.arrives(message(recipient="polly"))) == []
    assert injected(story.tell(AgentFound(agent=polly(directory="/elsewhere")))) == []


def test_the_store_is_not_asked_for_who_has_a_session() -> None:
    story = Story("bob")
    assert asked_for(story.tell(AgentChanged(name="bob"))) == []
    story.tell(AgentFound(agent=polly(id="bob", directory="/elsewhere")))
    assert injected(story.arrives(message())) == [("m1", "bob")]


def test_a_message_that_may_be_in_one_session_is_never_put_into_another() -> None:
    story = Story("bob", agents=[polly()])
    story.arrives(message(recipient="polly"))
    story.fails(RelayUnreachable("timed out"), recipient="polly")
    story.lists(session("ann", directory="/projects/bob", updated=NOON + seconds(5)))
    (again,) = of(Inject, story.wait(seconds(1)))
    assert again.prompt.session_id == "ses_bob"


def test_a_session_is_not_woken_by_its_own_words_under_another_name() -> None:
    story = Story("bob", "carol", agents=[polly()])
    assert injected(story.arrives(message(sender="bob", recipient="polly"))) == []
    everybody = message(id="m2", sender="polly", recipient=EVERYONE)
    assert injected(story.arrives(everybody)) == [("m2", "carol")]


# --------------------------------------------------------------------- hints of what is done there


def listings(story: Story, until: float) -> list[float]:
    """The seconds after noon at which the sessions are listed; each answer comes at once."""
    asked = []
    while (due := story.broker.next_deadline()) is not None and due <= NOON + seconds(until):
        if of(ListSessions, story.goes_on()):
            asked.append((story.now - NOON).total_seconds())
            story.lists()
    return asked


def test_a_hint_brings_the_next_listing_forward() -> None:
    story = Story("bob")
    story.wait(seconds(2))
    story.tell(SessionsChanged())
    assert listings(story, 8) == [2, 7]


def test_many_hints_bring_few_listings() -> None:
    story = Story("bob")
    story.tell(SessionsChanged())
    assert listings(story, 1) == [0.25]
    for _ in range(100):
        story.tell(SessionsChanged())
    assert listings(story, 1) == [0.5]


def test_what_is_done_during_a_listing_is_seen_by_the_next() -> None:
    story = Story("bob")
    story.wait(seconds(5))
    story.tell(SessionsChanged())
    story.lists()
    assert listings(story, 8) == [5.25]


def test_a_listing_that_is_old_is_renewed_for_a_recipient_that_is_missing() -> None:
    story = Story("bob", policy=Policy(session_poll=seconds(60), session_cache=seconds(10)))
    story.wait(seconds(9))
    story.arrives(message(id="early", recipient="carol"))
    assert of(ListSessions, story.wait(seconds(1))) == []
    story.arrives(message(id="late", recipient="carol"))
    story.arrives(message(id="known"))
    assert len(of(ListSessions, story.goes_on())) == 1
    assert injected(story.lists(session("carol"))) == [("early", "carol"), ("late", "carol")]


def test_a_hint_does_not_make_a_dead_relay_be_asked_more_often() -> None:
    story = Story("bob")
    story.wait(seconds(5))
    story.lists_nothing(RelayUnreachable("connection refused"))
    story.tell(SessionsChanged())
    assert of(ListSessions, story.wait(seconds(0.9))) == []


# ------------------------------------------------------------------- named before they were seen


def test_a_session_that_spoke_before_it_was_seen_keeps_the_name_that_it_was_given() -> None:
    story = Story("alice")
    actions = story.tell(AgentFound(agent=agent("carol")))
    assert topics(actions) == ["agent.registered"]
    assert topics(story.lists(session("carol"))) == []
    assert names(story) == ["alice", "carol"]
    assert injected(story.arrives(message(recipient="carol"))) == [("m1", "carol")]


def test_a_session_is_one_agent_whatever_is_found_of_it_later() -> None:
    story = Story("bob")
    for found in (agent("bob", session_id="ses_2"), agent("bobby", session_id="ses_bob")):
        assert topics(story.tell(AgentFound(agent=found))) == []
    assert {each.id: each.session_id for each in story.broker.agents} == {
        "bob": "ses_bob",
        "bobby": None,
    }


def test_a_session_of_the_hubs_own_is_not_found_but_made() -> None:
    story = Story("bob")
    assert topics(story.tell(AgentFound(agent=agent("coordinator")))) == []
    assert [each.session_id for each in story.broker.agents] == ["ses_bob", None]
