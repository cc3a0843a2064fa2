"""A message's life is a table; every stage meets every step here."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from agenthub_core import Outcome
from agenthub_core.lifecycle import LIFE, Course, Pending, Stage, Step
from agenthub_core.testing import NOON
from tests.unit.builders import message

ENDED = {Stage.HELD, Stage.DEAD}


def pending(*courses: Course) -> Pending:
    return Pending(
        key="m1",
        message=message(),
        arrival=1,
        deadline=NOON + timedelta(hours=1),
        recovered=False,
        courses={course.recipient: course for course in courses},
    )


@pytest.mark.parametrize(("stage", "step"), [*product(Stage, Step)])
def test_every_stage_takes_the_steps_of_the_table_and_no_other(stage: Stage, step: Step) -> None:
    course = Course("bob", stage=stage)
    if (stage, step) in LIFE:
        course.step(step)
        assert course.stage is LIFE[stage, step]
    else:
        with pytest.raises(KeyError):
            course.step(step)
        assert course.stage is stage


@pytest.mark.parametrize("stage", [*Stage])
def test_an_ended_course_has_no_further_step_and_any_other_has(stage: Stage) -> None:
    steps = [step for step in Step if (stage, step) in LIFE]
    assert bool(steps) == (stage not in ENDED) == (not Course("bob", stage=stage).ended)


def test_every_stage_can_be_reached_and_can_end() -> None:
    reached = {Stage.WAITING}
    for _ in Stage:
        reached |= {LIFE[stage, step] for stage, step in LIFE if stage in reached}
    assert reached == set(Stage)
    assert all((stage, Step.GIVE_UP) in LIFE for stage in reached - ENDED)


@pytest.mark.parametrize(
    ("stages", "end"),
    [
        ("", None),
        ("waiting", None),
        ("held injecting", None),
        ("dead waiting", None),
        ("held", (Outcome.DELIVERED, "")),
        ("held held", (Outcome.DELIVERED, "")),
        ("dead", (Outcome.EXPIRED, "why 0")),
        ("held dead", (Outcome.EXPIRED, "why 1")),
        ("rejected", (Outcome.REJECTED, "why 0")),
        ("dead rejected", (Outcome.REJECTED, "why 0")),
        ("held rejected held", (Outcome.REJECTED, "why 1")),
    ],
)
def test_a_message_ends_when_all_its_courses_have(
    stages: str, end: tuple[Outcome, str] | None
) -> None:
    courses = [
        Course(
            f"agent{number}",
            stage=Stage.DEAD if stage == "rejected" else Stage(stage),
            rejected=stage == "rejected",
            reason=f"why {number}",
        )
        for number, stage in enumerate(stages.split())
    ]
    assert pending(*courses).end() == end


@pytest.mark.parametrize("stage", [*Stage])
def test_a_message_can_be_taken_back_while_it_waits_everywhere(stage: Stage) -> None:
    waits = stage is Stage.WAITING
    assert pending(Course("bob"), Course("carol", stage=stage)).untouched is waits


def test_a_delivery_tells_how_the_course_went() -> None:
    course = Course("bob", Stage.HELD, session_id="ses_bob", held_at=NOON, attempts=2)
    result = course.result()
    assert (result.recipient, result.session_id, result.held_at, result.attempts) == (
        "bob",
        "ses_bob",
        NOON,
        2,
    )
