"""Who receives a message, and which name a session gets."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenthub_core import EVERYONE
from agenthub_core.model import RESERVED, is_identifier
from agenthub_core.routing import agent_id, directory_name, recipients
from agenthub_core.testing import NOON
from tests.unit.builders import agent, message, session

HOUR = timedelta(hours=1)


def test_a_message_to_one_agent_goes_to_it_known_or_not() -> None:
    assert recipients(message(recipient="bob"), [], now=NOON, active=HOUR) == ("bob",)


def test_a_broadcast_goes_to_all_who_are_here_and_active_but_the_sender() -> None:
    agents = [
        agent("dora"),
        agent("alice"),
        agent("bob", last_seen=NOON - HOUR),
        agent("stale", last_seen=NOON - HOUR - timedelta(microseconds=1)),
        agent("gone", session_id=None),
    ]
    news = message(sender="alice", recipient=EVERYONE)
    assert recipients(news, agents, now=NOON, active=HOUR) == ("bob", "dora")


@pytest.mark.parametrize(
    ("slug", "session_id", "taken", "name"),
    [
        ("panda", "ses_0123456789abcdef", (), "panda"),
        ("panda", "ses_0123456789abcdef", ("panda",), "panda-abcdef"),
        ("panda", "ses_0123456789abcdef", ("panda", "panda-abcdef"), "session-0123456789ab"),
        (
            "panda",
            "ses_0123456789abcdef",
            ("panda", "panda-abcdef", "session-0123456789ab", "session-0123456789ab-2"),
            "session-0123456789ab-3",
        ),
        ("all", "ses_0123456789abcdef", (), "all-abcdef"),
        ("", "ses_0123456789abcdef", (), "session-0123456789ab"),
        ("../panda", "ses_0123456789abcdef", (), "session-0123456789ab"),
        ("a" * 100, "ses_0123456789abcdef", ("a" * 100,), "session-0123456789ab"),
        ("", "ses_../../x", (), "session-x"),
        ("", "ses_", (), "session-"),
        ("", "ses_", ("session-",), "session--2"),
    ],
)
def test_a_session_is_named_after_its_slug_where_that_is_free(
    slug: str, session_id: str, taken: tuple[str, ...], name: str
) -> None:
    assert agent_id(session(slug, id=session_id), taken) == name


@given(
    slug=st.one_of(st.text(), st.sampled_from(sorted(RESERVED))),
    session_id=st.text(min_size=1),
    taken=st.sets(st.sampled_from(["a", "session-", "session--2", "session-a"])),
)
def test_every_session_gets_a_name_that_is_valid_free_and_not_the_hubs_own(
    slug: str, session_id: str, taken: set[str]
) -> None:
    name = agent_id(session(slug, id=session_id), taken)
    assert is_identifier(name)
    assert name not in taken | RESERVED


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/home/you/api", "api"),
        ("/home/you/api/", "api"),
        ("/home/you/my api.v2", "my-api-v2"),
        ("/home/you/.dotfiles", "dotfiles"),
        ("/home/you/Büro", "B-ro"),
        ("/", "agent"),
        ("", "agent"),
        ("/srv/" + "x" * 200, "x" * 100),
    ],
)
def test_an_agent_without_a_name_is_named_after_its_project(directory: str, name: str) -> None:
    assert directory_name(directory) == name
