"""Whether a turn is answered: what is done after a series of looks."""

from __future__ import annotations

import pytest

from agenthub_core import Turn, TurnFailed, TurnState
from agenthub_core.turns import Next, Turns

LOOKS = {
    "none": Turn(session_id="s", state=TurnState.NONE),
    "running": Turn(session_id="s", state=TurnState.RUNNING),
    "answered": Turn(session_id="s", state=TurnState.ANSWERED),
    "failed": Turn(session_id="s", state=TurnState.FAILED, error=TurnFailed("no such model")),
    "abandoned": Turn(session_id="s", state=TurnState.ABANDONED),
}
SOON, LATER, RESUME = Next.LOOK_SOON, Next.LOOK_LATER, Next.RESUME


@pytest.mark.parametrize(
    ("looks", "steps"),
    [
        ("none", [Next.NOTHING]),
        ("answered", [Next.NOTHING]),
        ("running running answered", [LATER, LATER, Next.NOTHING]),
        ("running failed", [LATER, Next.REPORT_FAILURE]),
        ("abandoned answered", [SOON, Next.NOTHING]),
        ("abandoned running abandoned abandoned", [SOON, LATER, SOON, RESUME]),
        (
            "abandoned abandoned abandoned abandoned abandoned abandoned",
            [SOON, RESUME, SOON, RESUME, SOON, Next.REPORT_LOSS],
        ),
        ("abandoned abandoned answered abandoned", [SOON, RESUME, Next.NOTHING, SOON]),
    ],
)
def test_an_abandoned_turn_is_run_again_twice_seen_and_twice_at_most(
    looks: str, steps: list[Next]
) -> None:
    turns = Turns(resumes=2)
    turns.watch("s")
    assert [turns.seen(LOOKS[look], delivering=False) for look in looks.split()] == steps


def test_a_turn_is_not_run_again_while_something_else_is_delivered_there() -> None:
    turns = Turns(resumes=2)
    assert [turns.seen(LOOKS["abandoned"], delivering=True) for _ in range(5)] == [SOON] * 5
    assert turns.seen(LOOKS["abandoned"], delivering=False) is RESUME


def test_sessions_do_not_share_their_looks() -> None:
    turns = Turns(resumes=2)
    other = Turn(session_id="other", state=TurnState.ABANDONED)
    assert turns.seen(LOOKS["abandoned"], delivering=False) is SOON
    assert turns.seen(other, delivering=False) is SOON


@pytest.mark.parametrize("begin", ["forget", "watch"])
def test_forgetting_a_session_forgets_its_looks_and_watching_it_again_does_not(begin: str) -> None:
    turns = Turns(resumes=2)
    turns.seen(LOOKS["abandoned"], delivering=False)
    {"forget": turns.forget, "watch": turns.watch}[begin]("s")
    expected = {"forget": SOON, "watch": RESUME}[begin]
    assert turns.seen(LOOKS["abandoned"], delivering=False) is expected
