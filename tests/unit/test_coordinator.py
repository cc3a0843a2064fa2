"""When there is a coordinator, and whom it is told of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import evolve

from agenthub_core import (
    EVERYONE,
    Action,
    Coordination,
    Message,
    ModelUnknown,
    Notify,
    Orientation,
    Policy,
    RelayUnreachable,
    Session,
    SessionBusy,
    SessionUnknown,
    StoreUnwritable,
)
from agenthub_core.coordinator import TITLE
from agenthub_core.model import COORDINATOR
from agenthub_core.protocol import (
    Inject,
    Introduce,
    IntroduceFailed,
    OpenFailed,
    OpenSession,
    Orient,
    SaveAgent,
    SessionCompacted,
    SessionFreed,
    SessionOpened,
)
from agenthub_core.testing import NOON
from tests.unit.builders import Story, agent, injected, message, of, seconds, session, topics

COORDINATION = Coordination(directory="/hub/coordinator", model="fake/echo")
POLICY = Policy(coordination=COORDINATION, orientation=Orientation())


def own(number: int = 1, **fields: Any) -> Session:
    """A session of the coordinator's."""
    directory = "/hub/coordinator"
    return session(f"odd-{number}", title=TITLE, directory=directory, **fields)


def story(*here: str, **more: Any) -> Story:
    """The sessions are there; the coordinator has been asked for."""
    return Story(*here, policy=POLICY, listed=True, **more)


def opens(told: Story, opened: Session | None = None) -> tuple[Action, ...]:
    return told.tell(SessionOpened(session=opened or own()))


def written(actions: Iterable[Action]) -> list[Message]:
    return [each.message for each in of(Introduce, actions) if each.message is not None]


def introduced(actions: Iterable[Action]) -> list[str]:
    return [each.content for each in written(actions)]


def names(told: Story) -> list[str]:
    return [each.id for each in told.broker.agents]


# --------------------------------------------------------------------------- whether there is one


def test_it_is_asked_for_when_the_relay_answers() -> None:
    told = story()
    (asked,) = of(OpenSession, told.log)
    assert (asked.spec.title, asked.spec.directory) == (TITLE, "/hub/coordinator")
    assert (asked.spec.model, asked.spec.tools) == ("fake/echo", "agent-hub_*")


def test_it_is_an_agent_that_messages_reach() -> None:
    told = story("bob")
    actions = opens(told)
    assert topics(actions) == ["coordinator.here"]
    (saved,) = of(SaveAgent, actions)
    assert (saved.agent.id, saved.agent.session_id) == (COORDINATOR, "ses_odd-1")
    arrived = told.arrives(message(sender="bob", recipient=COORDINATOR))
    assert injected(arrived) == [("m1", COORDINATOR)]


def test_without_a_policy_there_is_none_and_the_old_one_is_dismissed() -> None:
    told = Story(agents=[agent(COORDINATOR, session_id="ses_odd-1")])
    (saved,) = of(SaveAgent, told.lists(own()))
    assert (saved.agent.id, saved.agent.session_id) == (COORDINATOR, None)
    assert of(SaveAgent, told.lists(own())) == []
    assert (of(OpenSession, told.log), written(told.log)) == ([], [])
    assert injected(told.arrives(message(recipient=COORDINATOR))) == []


def test_where_there_can_be_none_that_is_said_once_and_tried_again() -> None:
    told = story("bob")
    assert injected(told.arrives(message())) == [("m1", "bob")]
    unknown = ModelUnknown("OpenCode knows no model fake/echo")
    assert topics(told.tell(OpenFailed(error=unknown))) == ["coordinator.missing"]
    assert len(of(OpenSession, told.wait(POLICY.coordination_retry))) == 1
    assert topics(told.tell(OpenFailed(error=unknown))) == []
    assert topics(told.tell(OpenFailed(error=RelayUnreachable("no answer")))) == [
        "coordinator.missing"
    ]


def test_one_whose_session_is_gone_is_replaced() -> None:
    told = story("bob")
    opens(told)
    told.arrives(message(recipient=COORDINATOR))
    gone = told.fails(SessionUnknown("deleted"), recipient=COORDINATOR)
    assert len(of(OpenSession, gone)) == 1
    assert injected(opens(told, own(2))) == [("m1", COORDINATOR)]
    assert sorted(names(told)) == ["bob", COORDINATOR]


def test_what_was_on_its_way_to_the_one_that_is_gone_goes_to_the_new_one() -> None:
    told = story()
    told.arrives(*(message(id=key, recipient=COORDINATOR) for key in ("m1", "m2", "m3")))
    assert len(injected(opens(told))) == 3
    told.holds("m1", COORDINATOR)
    assert len(of(OpenSession, told.fails(SessionUnknown("gone"), "m2", COORDINATOR))) == 1
    assert injected(opens(told, own(2))) == [], "of what was under way something is yet to end"
    actions = told.is_not_tried("m3", COORDINATOR)
    assert [(each.key, each.prompt.session_id) for each in of(Inject, actions)] == [
        ("m2", "ses_odd-2"),
        ("m3", "ses_odd-2"),
    ]


def test_it_may_be_busy_like_any_other_and_is_told_nothing_of_itself_once_it_was_compacted() -> (
    None
):
    told = story()
    opens(told)
    told.arrives(message(recipient=COORDINATOR))
    told.fails(SessionBusy("at work"), recipient=COORDINATOR)
    freed = told.tell(SessionFreed(session_id="ses_odd-1"))
    assert injected(freed) == [("m1", COORDINATOR)]
    told.holds(recipient=COORDINATOR)
    told.tell(SessionCompacted(session_id="ses_odd-1"))
    assert of(Orient, told.wait(seconds(60))) == []


def test_it_is_looked_at_again_when_the_relay_comes_back_which_is_no_news() -> None:
    told = story("bob")
    opens(told)
    told.lists_nothing(RelayUnreachable("connection refused"))
    assert len(of(OpenSession, told.lists())) == 1
    assert topics(opens(told)) == []


def test_it_is_not_asked_for_while_the_answer_is_under_way() -> None:
    told = story()
    told.lists_nothing(RelayUnreachable("connection refused"))
    assert of(OpenSession, told.lists()) == []


# ----------------------------------------------------------------------------- what it is told


def test_it_is_told_of_each_new_agent_once() -> None:
    told = story()
    opens(told)
    actions = told.lists(session("bob"))
    assert introduced(actions) == ["NEW_AGENT: bob at /projects/bob"]
    (notice,) = written(actions)
    assert (notice.sender, notice.recipient, notice.timestamp) == ("hub", COORDINATOR, NOON)
    assert introduced(told.lists(session("bob", updated=NOON + seconds(5)))) == []


def test_that_is_written_before_the_agent_is_saved_so_that_a_crash_repeats_it() -> None:
    told = story()
    opens(told)
    kinds = [type(each) for each in told.lists(session("bob")) if not isinstance(each, Notify)]
    assert kinds == [Introduce, SaveAgent]


def test_who_came_before_it_is_introduced_when_it_is_there() -> None:
    told = story()
    told.lists(session("bob"))
    assert introduced(told.log) == []
    assert introduced(opens(told)) == ["NEW_AGENT: bob at /projects/bob"]


def test_one_that_is_found_again_is_told_only_of_who_is_new_to_it() -> None:
    told = story(
        agents=[agent(COORDINATOR, session_id="ses_odd-1"), agent("bob"), agent("dora")],
        introduced={"ses_odd-1": ["bob"], "ses_odd-2": ["dora"]},
    )
    told.lists(session("bob"), session("carol"))
    assert introduced(opens(told)) == [
        "NEW_AGENT: dora at ",
        "NEW_AGENT: carol at /projects/carol",
    ]
    assert introduced(opens(told)) == []


def test_a_new_one_is_told_of_everybody_who_is_here() -> None:
    told = story(
        agents=[
            agent(COORDINATOR, session_id="ses_odd-1"),
            agent("bob", directory="/projects/bob"),
            agent("away", last_seen=NOON - seconds(4000)),
            agent("gone", session_id=None),
        ],
        introduced={"ses_odd-1": ["bob"]},
    )
    assert introduced(opens(told, own(2))) == ["NEW_AGENT: bob at /projects/bob"]


def test_what_waits_for_the_one_before_reaches_the_new_one_once() -> None:
    told = story()
    opens(told)
    (notice,) = written(told.lists(session("bob")))
    told.arrives(notice)
    told.wait(seconds(1))
    told.fails(SessionUnknown("deleted"), notice.id, COORDINATOR)

    actions = opens(told, own(2))

    assert injected(actions) == [(notice.id, COORDINATOR)]
    (kept,) = of(Introduce, actions)
    assert (kept.session_id, kept.agent_id, kept.message) == ("ses_odd-2", "bob", None)


def test_an_introduction_that_could_not_be_kept_is_made_again() -> None:
    told = story()
    opens(told)
    told.lists(session("bob"))
    full = StoreUnwritable("no space left")
    failed = IntroduceFailed(session_id="ses_odd-1", agent_id="bob", error=full)
    assert topics(told.tell(failed)) == ["store.failed"]
    assert len(of(OpenSession, told.wait(POLICY.settle_retry))) == 1
    assert introduced(opens(told)) == ["NEW_AGENT: bob at /projects/bob"]


def test_a_session_that_comes_back_is_not_introduced_again() -> None:
    told = story("bob")
    opens(told)
    told.arrives(message())
    told.fails(SessionUnknown("deleted"))
    assert introduced(told.lists(session("bob"))) == []


# ------------------------------------------------------------------------------ what it is not


def test_its_sessions_are_no_other_agents_and_are_told_nothing_of_themselves() -> None:
    told = story()
    told.lists(own(), own(2))
    assert names(told) == []
    opens(told)
    told.lists(own(updated=NOON + seconds(60)), own(2))
    assert names(told) == [COORDINATOR]
    assert of(Orient, told.wait(seconds(60))) == []


def test_what_it_does_is_seen() -> None:
    told = story()
    opens(told)
    saved = [
        of(SaveAgent, told.lists(own(updated=NOON + seconds(passed)))) for passed in (30, 30, 60)
    ]
    assert [len(each) for each in saved] == [0, 0, 1]
    assert [each.last_seen for each in told.broker.agents] == [NOON + seconds(60)]


def test_a_session_of_its_that_was_renamed_is_no_agent_either() -> None:
    told = story(introduced={"ses_odd-1": ["bob"]})
    told.lists(evolve(own(), title="My coordinator"))
    assert names(told) == []
    opens(told, own(2))
    told.lists(evolve(own(2), title="Another"))
    assert names(told) == [COORDINATOR]


def test_one_that_is_missing_is_not_said_to_be_here() -> None:
    told = story(agents=[agent(COORDINATOR, session_id="ses_odd-1")])
    actions = told.tell(OpenFailed(error=ModelUnknown("no model fake/echo")))
    assert [each.agent.session_id for each in of(SaveAgent, actions)] == [None]
    opens(told)
    assert of(SaveAgent, told.tell(OpenFailed(error=RelayUnreachable("timed out")))) == []


def test_it_gets_no_broadcasts_and_nobody_is_told_of_it() -> None:
    told = story("alice", "bob")
    opens(told)
    assert injected(told.arrives(message(recipient=EVERYONE))) == [("m1", "bob")]
    told.lists(session("carol"))
    texts = [each.prompt.text for each in of(Orient, told.wait(seconds(1)))]
    assert texts
    assert not any(COORDINATOR in text for text in texts)


def test_its_sessions_are_not_among_those_that_are_left_alone() -> None:
    told = story(began=NOON)
    told.lists(own(created=NOON - seconds(60)))
    assert "sessions.left_alone" not in topics(told.log)
