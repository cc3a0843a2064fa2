"""What every `SessionRelay` promises (`agenthub_core.ports`), shown on each of them.

A relay of your own runs this too: subclass `SessionRelayContract` and override `surroundings`.

Left to `test_opencode.py`, for a relay in memory knows nothing of them: subagents, archived
sessions, a session's own agent and model, and a prompt that the relay finds invalid.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from agenthub_adapters.opencode import OpenCodeRelay
from agenthub_core import (
    ModelUnknown,
    Prompt,
    PromptNotHeld,
    Receipt,
    RelayUnreachable,
    Session,
    SessionBusy,
    SessionRelay,
    SessionSpec,
    SessionUnknown,
    Turn,
    TurnFailed,
    TurnState,
)
from agenthub_core.testing import NOON, ManualClock, MemoryRelay
from testkit.opencode import OpenCode, free_port, make_project
from testkit.scripted_model import (
    Failure,
    Held,
    Rule,
    ScriptedModel,
    Text,
    in_session,
    last_user,
)
from testkit.waiting import eventually
from tests.unit.builders import session

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

NO_SESSIONS = {
    "never was": "ses_never_was",
    "no session's id": "bogus",
    "path upwards": "../../x",
    "path to another": "ses_x/../y",
    "query": "ses_x?directory=/",
    "escape": "ses_%2e%2e",
    "letter": "ses_é",
    "header": "ses_x\r\nx-injected: y",
    "NUL": "ses_\x00",
    "long": "ses_" + 300 * "x",
}


@frozen
class CutOff:
    """A session's two prompts: one was answered, and then the newest one's turn was killed."""

    answered: Prompt
    answered_turn: str
    """The relay's own name of it."""
    newest: Prompt

    @property
    def session_id(self) -> str:
        return self.newest.session_id


class Surroundings(ABC):
    """A relay, and what happens around it that its port does not tell of."""

    relay: SessionRelay

    @abstractmethod
    def open(self, project: str = "api") -> Session:
        """A user begins a session in a project."""

    @abstractmethod
    def delete(self, session_id: str) -> None:
        """Its user deletes a session."""

    @abstractmethod
    def say(self, session_id: str) -> None:
        """Its user says something in a session, and the model answers."""

    @abstractmethod
    def hold_turn(self, session_id: str, *, failure: str = "") -> None:
        """The session's next turn goes on until `end_turn`, and fails if there is a failure."""

    @abstractmethod
    def end_turn(self, session_id: str) -> None:
        """The turn that was held ends."""

    @abstractmethod
    def cut_off(self) -> CutOff:
        """A session whose newest turn was abandoned: the process that ran it was killed."""

    @abstractmethod
    def work_elsewhere(self, session_id: str) -> None:
        """Its user says something in another process, which works on it until `end_turn`."""

    @abstractmethod
    def spoil(self) -> Session:
        """A session that takes no prompts, though the relay believes so."""

    @abstractmethod
    def pass_time(self, duration: timedelta) -> None:
        """It is later now."""

    @abstractmethod
    def go_away(self) -> None:
        """From now on nobody answers the relay."""

    @abstractmethod
    def texts(self, session_id: str) -> Sequence[str]:
        """What was said to the model in a session, by the hub and by its user, in order."""

    @abstractmethod
    def turns(self, session_id: str) -> int:
        """How many turns were begun in a session, once no turn is under way."""


def prompt(session_id: str, text: str = "Hello", **fields: Any) -> Prompt:
    """Its id derives from its text."""
    defaults: dict[str, Any] = {"id": text, "text": text, "written": NOON}
    return Prompt(session_id=session_id, **(defaults | fields))


def wanted(surroundings: Surroundings) -> SessionSpec:
    """A session in a project that is there."""
    directory = surroundings.open().directory
    return SessionSpec(title="Mine", directory=directory, model="fake/echo", tools="hub_*")


def silent(session_id: str) -> Prompt:
    return prompt(session_id, wakes=False)


def two(session_id: str) -> list[Prompt]:
    return [prompt(session_id, "first"), prompt(session_id, "second")]


def repeated(original: Prompt) -> Prompt:
    return evolve(original, repeated=True)


def ended(relay: SessionRelay, session_id: str) -> Turn:
    """The turn when it is over. One that is just starting may look abandoned."""
    under_way = (TurnState.RUNNING, TurnState.ABANDONED)
    return eventually(lambda: relay.turn(session_id), when=lambda turn: turn.state not in under_way)


def running(relay: SessionRelay, session_id: str) -> Turn:
    return eventually(
        lambda: relay.turn(session_id), when=lambda turn: turn.state is TurnState.RUNNING
    )


def at_once(tasks: Sequence[Callable[[], object]]) -> None:
    """Run each on a thread of its own; raises the first error of any."""
    errors: list[BaseException] = []
    gate = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> None:
        gate.wait()
        try:
            task()
        except BaseException as error:  # noqa: BLE001  # raised where the test sees it
            errors.append(error)

    threads = [threading.Thread(target=run, args=[task]) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def all_of(relay: SessionRelay, *prompts: Prompt) -> list[Receipt]:
    """Inject them together; raises what kept the first from being held that is not."""
    receipts, error = relay.inject_all(prompts)
    if error is not None:
        raise error
    return list(receipts)


Call = Callable[[SessionRelay, str], object]

TO_A_SESSION: dict[str, Call] = {
    "inject": lambda relay, session_id: relay.inject(prompt(session_id)),
    "inject all": lambda relay, session_id: all_of(
        relay, prompt(session_id, "1"), prompt(session_id, "2")
    ),
    "repeat": lambda relay, session_id: relay.inject(prompt(session_id, repeated=True)),
    "turn": lambda relay, session_id: relay.turn(session_id),
    "resume": lambda relay, session_id: relay.resume(session_id, "p1"),
}
EVERY: dict[str, Call] = {
    "sessions": lambda relay, _: relay.sessions(HOUR),
    "provide": lambda relay, _: relay.provide(
        SessionSpec(title="Mine", directory="/", model="fake/echo", tools="hub_*")
    ),
    **TO_A_SESSION,
}


class SessionRelayContract:
    @pytest.fixture
    def surroundings(self) -> Surroundings:
        raise NotImplementedError

    @pytest.fixture
    def relay(self, surroundings: Surroundings) -> SessionRelay:
        return surroundings.relay

    # ------------------------------------------------------------------------------ sessions

    def test_the_sessions_of_every_project_are_listed_as_they_are(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        api, web = surroundings.open("api"), surroundings.open("web")

        listed = relay.sessions(HOUR)

        assert api.directory != web.directory
        assert api in listed
        assert web in listed

    def test_sessions_are_listed_latest_first(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        mine = [surroundings.open().id for _ in range(3)]
        surroundings.say(mine[1])

        listed = relay.sessions(HOUR)

        assert [each.id for each in listed if each.id in mine] == [mine[1], mine[2], mine[0]]
        updates = [each.updated for each in listed]
        assert updates == sorted(updates, reverse=True)

    def test_only_sessions_that_were_active_within_the_while_are_listed(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        opened = surroundings.open()
        surroundings.pass_time(HOUR)

        assert opened not in relay.sessions(HOUR - MINUTE)
        assert opened in relay.sessions(HOUR + MINUTE)

    # --------------------------------------------------------------- sessions of the hub's own

    def test_a_session_that_the_hub_wants_is_made_and_found_again(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        spec = wanted(surroundings)

        made = relay.provide(spec)

        assert (made.title, made.directory) == (spec.title, spec.directory)
        assert made.id in {each.id for each in relay.sessions(HOUR)}
        assert relay.provide(spec).id == made.id
        relay.inject(prompt(made.id))
        assert ended(relay, made.id).state is TurnState.ANSWERED
        assert relay.provide(spec).id == made.id, "a session that was used is the same one"

    def test_what_is_not_as_the_hub_wants_it_is_not_taken(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        spec = wanted(surroundings)
        user = surroundings.open(Path(spec.directory).name)

        made = [
            relay.provide(each)
            for each in (
                spec,
                evolve(spec, title=f"{spec.title} 2"),
                evolve(spec, tools="other_*"),
                evolve(spec, directory=surroundings.open("web").directory),
            )
        ]

        assert len({user.id, *(each.id for each in made)}) == 5
        assert relay.provide(spec).id == made[0].id

    def test_a_session_of_the_hubs_own_that_is_gone_is_replaced(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        spec = wanted(surroundings)
        first = relay.provide(spec)

        surroundings.delete(first.id)

        assert relay.provide(spec).id != first.id

    def test_a_model_that_there_is_not_makes_no_session(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        spec = evolve(wanted(surroundings), model="nobody/knows")
        before = relay.sessions(HOUR)

        with pytest.raises(ModelUnknown, match="nobody/knows"):
            relay.provide(spec)

        assert relay.sessions(HOUR) == before

    # ---------------------------------------------------------------------------- injections

    def test_a_receipt_proves_that_the_session_holds_the_prompt(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id

        receipt = relay.inject(prompt(session_id, id="p1"))

        assert surroundings.texts(session_id) == ["Hello"]
        assert receipt == Receipt(prompt_id="p1", session_id=session_id)

    def test_a_prompt_wakes_the_session(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id

        relay.inject(prompt(session_id))

        assert ended(relay, session_id).state is TurnState.ANSWERED
        assert surroundings.turns(session_id) == 1

    def test_a_text_is_held_as_it_was_written(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        text = "  Grüße\r\n\t{\"a\": '$HOME'} </system> \x00 \U0001f43c\n"

        relay.inject(prompt(session_id, text))

        assert surroundings.texts(session_id) == [text]

    def test_prompts_are_held_in_the_order_in_which_they_were_injected(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        moments = [NOON + n * HOUR for n in (2, 0, 1)]

        for n, written in enumerate(moments):
            relay.inject(prompt(session_id, f"number {n}", written=written))

        assert surroundings.texts(session_id) == ["number 0", "number 1", "number 2"]

    def test_a_prompt_is_held_by_its_own_session_only(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        first, second, third = (surroundings.open().id for _ in range(3))

        for session_id in (first, second):
            relay.inject(prompt(session_id, id="for all"))

        assert [list(surroundings.texts(each)) for each in (first, second, third)] == [
            ["Hello"],
            ["Hello"],
            [],
        ]

    def test_a_prompt_injected_again_and_again_is_held_once(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        original = prompt(session_id)

        receipts = {
            relay.inject(each) for each in (original, original, repeated(original), original)
        }

        assert receipts == {Receipt(prompt_id=original.id, session_id=session_id)}
        ended(relay, session_id)
        assert surroundings.texts(session_id) == ["Hello"]

    def test_a_prompt_injected_by_many_threads_at_once_is_held_once(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        original = prompt(session_id)

        at_once([lambda: relay.inject(original), lambda: relay.inject(repeated(original))] * 4)

        ended(relay, session_id)
        assert surroundings.texts(session_id) == ["Hello"]

    def test_what_many_threads_ask_at_once_does_not_get_mixed_up(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        mine = [surroundings.open() for _ in range(3)]
        turns: dict[str, Turn] = {}

        def visit(visited: Session) -> None:
            relay.inject(prompt(visited.id, f"to {visited.slug}"))
            turns[visited.id] = ended(relay, visited.id)
            relay.resume(visited.id, turns[visited.id].prompt_id)
            assert visited.id in {each.id for each in relay.sessions(HOUR)}

        at_once([lambda visited=visited: visit(visited) for visited in mine])  # type: ignore[misc]

        for each in mine:
            assert surroundings.texts(each.id) == [f"to {each.slug}"]
            assert turns[each.id].session_id == each.id
            assert turns[each.id].state is TurnState.ANSWERED

    # ------------------------------------------------------------------- injections together

    def test_prompts_that_are_injected_together_are_held_in_this_order(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        texts = [f"number {n}" for n in range(12)]
        moments = [NOON + n % 3 * HOUR for n in range(12)]
        prompts = [
            prompt(session_id, text, written=written)
            for text, written in zip(texts, moments, strict=True)
        ]

        receipts, error = relay.inject_all(prompts)

        assert error is None
        assert list(receipts) == [Receipt(prompt_id=t, session_id=session_id) for t in texts]
        assert surroundings.texts(session_id) == texts
        assert ended(relay, session_id).state is TurnState.ANSWERED

    def test_one_prompt_may_be_injected_as_several_are_and_none_at_all(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id

        receipts = all_of(relay, prompt(session_id, "alone")) + all_of(relay)

        assert receipts == [Receipt(prompt_id="alone", session_id=session_id)]
        assert surroundings.texts(session_id) == ["alone"]

    def test_prompts_that_are_injected_together_again_are_held_once(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        first, second, third = (prompt(session_id, f"number {n}") for n in range(3))
        before = all_of(relay, first, second)
        ended(relay, session_id)

        after = all_of(relay, repeated(first), repeated(second), third)

        assert after[:2] == before
        assert surroundings.texts(session_id) == ["number 0", "number 1", "number 2"]

    def test_prompts_of_which_the_first_is_held_already_follow_it(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        """An answer was lost, and what came after it was not tried."""
        session_id = surroundings.open().id
        first, second = prompt(session_id, "first"), prompt(session_id, "second")
        relay.inject(first)

        assert len(all_of(relay, repeated(first), second)) == 2

        assert surroundings.texts(session_id) == ["first", "second"]

    def test_where_the_first_of_several_fails_none_is_tried(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.work_elsewhere(session_id)
        texts = surroundings.texts(session_id)

        receipts, error = relay.inject_all([prompt(session_id, text) for text in "abc"])

        assert (list(receipts), type(error)) == ([], SessionBusy)
        assert surroundings.texts(session_id) == texts
        surroundings.end_turn(session_id)
        assert len(all_of(relay, *(prompt(session_id, text) for text in "abc"))) == 3
        assert surroundings.texts(session_id)[-3:] == ["a", "b", "c"]

    def test_where_one_in_the_middle_fails_those_before_it_are_held_and_none_after_it_is_tried(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        held = prompt(session_id, "held before")
        relay.inject(held)
        ended(relay, session_id)
        surroundings.work_elsewhere(session_id)
        together = [repeated(held), prompt(session_id, "busy"), prompt(session_id, "after")]

        receipts, error = relay.inject_all(together)

        assert list(receipts) == [Receipt(prompt_id=held.id, session_id=session_id)]
        assert isinstance(error, SessionBusy)
        surroundings.end_turn(session_id)
        assert not {"busy", "after"} & set(surroundings.texts(session_id))

    def test_of_several_that_are_not_held_there_is_no_receipt(
        self, surroundings: Surroundings
    ) -> None:
        session_id = surroundings.spoil().id

        receipts, error = surroundings.relay.inject_all([prompt(session_id, "a")])

        assert (list(receipts), type(error)) == ([], PromptNotHeld)

    def test_what_is_injected_together_into_several_sessions_at_once_does_not_get_mixed_up(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        mine = [surroundings.open().id for _ in range(3)]

        at_once(
            [
                lambda each=each: all_of(  # type: ignore[misc]
                    relay, *(prompt(each, f"{each} {n}") for n in range(4))
                )
                for each in mine
            ]
        )

        for each in mine:
            assert surroundings.texts(each) == [f"{each} {n}" for n in range(4)]

    # ------------------------------------------------------------------------------- refusals

    def test_a_session_at_work_in_another_process_is_busy_until_its_turn_ends(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.work_elsewhere(session_id)

        for busy in (prompt(session_id), repeated(prompt(session_id))):
            with pytest.raises(SessionBusy):
                relay.inject(busy)
        assert "Hello" not in surroundings.texts(session_id)

        surroundings.end_turn(session_id)
        turns = surroundings.turns(session_id)
        relay.inject(repeated(prompt(session_id)))
        assert ended(relay, session_id).state is TurnState.ANSWERED
        assert surroundings.texts(session_id)[-1] == "Hello"
        assert surroundings.turns(session_id) == turns + 1

    def test_what_a_busy_session_holds_already_has_its_receipt(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        receipt = relay.inject(prompt(session_id))
        ended(relay, session_id)
        surroundings.work_elsewhere(session_id)

        assert relay.inject(repeated(prompt(session_id))) == receipt

        surroundings.end_turn(session_id)
        assert surroundings.texts(session_id).count("Hello") == 1

    @pytest.mark.parametrize("call", TO_A_SESSION.values(), ids=TO_A_SESSION)
    @pytest.mark.parametrize("session_id", NO_SESSIONS.values(), ids=NO_SESSIONS)
    def test_what_is_no_session_is_unknown(
        self, relay: SessionRelay, session_id: str, call: Call
    ) -> None:
        with pytest.raises(SessionUnknown) as caught:
            call(relay, session_id)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("call", TO_A_SESSION.values(), ids=TO_A_SESSION)
    def test_a_session_that_was_deleted_is_unknown(
        self, surroundings: Surroundings, relay: SessionRelay, call: Call
    ) -> None:
        session_id = surroundings.open().id
        relay.inject(prompt(session_id))
        ended(relay, session_id)
        surroundings.delete(session_id)

        with pytest.raises(SessionUnknown):
            call(relay, session_id)

    def test_a_prompt_that_is_not_held_has_no_receipt(self, surroundings: Surroundings) -> None:
        session_id = surroundings.spoil().id

        with pytest.raises(PromptNotHeld):
            surroundings.relay.inject(prompt(session_id))

        assert list(surroundings.texts(session_id)) == []

    @pytest.mark.parametrize("call", EVERY.values(), ids=EVERY)
    def test_a_relay_that_nobody_answers_says_so(
        self, surroundings: Surroundings, call: Call
    ) -> None:
        session_id = surroundings.open().id
        surroundings.go_away()
        with pytest.raises(RelayUnreachable):
            call(surroundings.relay, session_id)

    # ------------------------------------------------------------------- what wakes nobody

    def test_what_does_not_wake_is_held_and_no_turn_is_run_on_it(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.say(session_id)
        turns = surroundings.turns(session_id)

        receipt = relay.inject(silent(session_id))

        assert receipt == Receipt(prompt_id="Hello", session_id=session_id)
        assert surroundings.texts(session_id)[-1:] == ["Hello"]
        assert relay.turn(session_id).state is TurnState.NONE
        assert surroundings.turns(session_id) == turns

    def test_what_does_not_wake_is_held_once_however_often_it_is_repeated(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.say(session_id)
        turns = surroundings.turns(session_id)

        for _ in range(3):
            relay.inject(repeated(silent(session_id)))
            relay.resume(session_id, "Hello")

        assert surroundings.texts(session_id).count("Hello") == 1
        assert surroundings.turns(session_id) == turns

    def test_what_does_not_wake_waits_for_the_end_of_a_turn(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.hold_turn(session_id)
        relay.inject(prompt(session_id, "Build it"))
        running(relay, session_id)

        with pytest.raises(SessionBusy):
            relay.inject(silent(session_id))

        assert surroundings.texts(session_id) == ["Build it"]
        surroundings.end_turn(session_id)
        ended(relay, session_id)
        relay.inject(silent(session_id))
        assert surroundings.texts(session_id) == ["Build it", "Hello"]
        assert surroundings.turns(session_id) == 1

    def test_what_does_not_wake_waits_for_another_process_too(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.work_elsewhere(session_id)
        with pytest.raises(SessionBusy):
            relay.inject(silent(session_id))
        surroundings.end_turn(session_id)
        assert "Hello" not in surroundings.texts(session_id)

    def test_a_session_that_was_told_something_is_woken_as_ever(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.say(session_id)
        relay.inject(silent(session_id))
        turns = surroundings.turns(session_id)
        relay.turn(session_id)  # a look at what it holds now

        relay.inject(prompt(session_id, "Build it"))

        assert ended(relay, session_id).state is TurnState.ANSWERED
        assert surroundings.turns(session_id) == turns + 1

    # --------------------------------------------------------------------------- repetitions

    def test_a_repeated_prompt_that_is_not_held_is_injected(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id

        relay.inject(repeated(prompt(session_id)))

        assert surroundings.texts(session_id) == ["Hello"]
        assert ended(relay, session_id).state is TurnState.ANSWERED

    def test_a_repeated_prompt_that_was_answered_is_left_alone(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        original = prompt(session_id)
        receipt = relay.inject(original)
        ended(relay, session_id)

        assert relay.inject(repeated(original)) == receipt

        assert surroundings.turns(session_id) == 1
        assert surroundings.texts(session_id) == ["Hello"]

    def test_a_repeated_prompt_that_is_being_answered_is_left_alone(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.hold_turn(session_id)
        relay.inject(prompt(session_id))
        running(relay, session_id)

        relay.inject(repeated(prompt(session_id)))
        surroundings.end_turn(session_id)

        assert ended(relay, session_id).state is TurnState.ANSWERED
        assert surroundings.turns(session_id) == 1
        assert surroundings.texts(session_id) == ["Hello"]

    def test_a_repeated_prompt_is_left_alone_once_the_hub_has_said_more(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        for text in ("older", "newer"):
            relay.inject(prompt(session_id, text))
            ended(relay, session_id)

        relay.inject(repeated(prompt(session_id, "older")))

        assert surroundings.turns(session_id) == 2
        assert surroundings.texts(session_id) == ["older", "newer"]

    def test_a_repeated_prompt_is_left_alone_once_the_user_has_said_more(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        relay.inject(prompt(session_id))
        ended(relay, session_id)
        surroundings.say(session_id)
        turns = surroundings.turns(session_id)

        relay.inject(repeated(prompt(session_id)))

        assert surroundings.turns(session_id) == turns
        assert surroundings.texts(session_id).count("Hello") == 1

    def test_a_repeated_prompt_whose_turn_was_abandoned_is_run_again(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        cut_off = surroundings.cut_off()
        texts, turns = (
            surroundings.texts(cut_off.session_id),
            surroundings.turns(cut_off.session_id),
        )

        relay.inject(repeated(cut_off.newest))

        assert ended(relay, cut_off.session_id).state is TurnState.ANSWERED
        assert surroundings.turns(cut_off.session_id) == turns + 1
        assert surroundings.texts(cut_off.session_id) == texts

    def test_a_repeated_prompt_that_was_answered_does_not_run_a_newer_one_again(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        cut_off = surroundings.cut_off()
        turns = surroundings.turns(cut_off.session_id)

        relay.inject(repeated(cut_off.answered))

        assert surroundings.turns(cut_off.session_id) == turns
        assert relay.turn(cut_off.session_id).state is TurnState.ABANDONED

    # --------------------------------------------------------------------------------- turns

    def test_a_session_without_prompts_has_no_turn(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id

        assert relay.turn(session_id) == Turn(session_id=session_id, state=TurnState.NONE)

    def test_a_turn_of_which_the_user_has_moved_on_is_none(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        relay.inject(prompt(session_id))
        ended(relay, session_id)

        surroundings.say(session_id)

        assert relay.turn(session_id).state is TurnState.NONE

    def test_a_turn_runs_until_it_is_answered(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.hold_turn(session_id)
        relay.inject(prompt(session_id))

        assert running(relay, session_id).error is None
        surroundings.end_turn(session_id)

        turn = ended(relay, session_id)
        assert (turn.session_id, turn.state) == (session_id, TurnState.ANSWERED)
        assert turn.error is None
        assert turn.prompt_id

    def test_a_turn_that_fails_says_why(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.hold_turn(session_id, failure="your credit is used up")
        relay.inject(prompt(session_id))
        surroundings.end_turn(session_id)

        turn = ended(relay, session_id)

        assert turn.state is TurnState.FAILED
        assert isinstance(turn.error, TurnFailed)
        assert "your credit is used up" in str(turn.error)

    def test_a_turn_is_that_of_the_newest_prompt(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        relay.inject(prompt(session_id, "older"))
        older = ended(relay, session_id)
        surroundings.hold_turn(session_id)

        relay.inject(prompt(session_id, "newer"))

        newer = running(relay, session_id)
        assert newer.prompt_id != older.prompt_id
        surroundings.end_turn(session_id)
        assert ended(relay, session_id).prompt_id == newer.prompt_id

    def test_looking_at_an_abandoned_turn_does_not_run_it(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        cut_off = surroundings.cut_off()
        texts = surroundings.texts(cut_off.session_id)
        turns = surroundings.turns(cut_off.session_id)

        looks = [relay.turn(cut_off.session_id) for _ in range(3)]

        assert [look.state for look in looks] == [TurnState.ABANDONED] * 3
        assert len({look.prompt_id for look in looks} - {cut_off.answered_turn}) == 1
        assert surroundings.turns(cut_off.session_id) == turns
        assert surroundings.texts(cut_off.session_id) == texts

    # ------------------------------------------------------------------------------ resuming

    def test_an_abandoned_turn_is_resumed_once(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        cut_off = surroundings.cut_off()
        texts = surroundings.texts(cut_off.session_id)
        turns = surroundings.turns(cut_off.session_id)
        abandoned = relay.turn(cut_off.session_id)

        relay.resume(cut_off.session_id, abandoned.prompt_id)

        answered = ended(relay, cut_off.session_id)
        assert answered.state is TurnState.ANSWERED
        assert answered.prompt_id == abandoned.prompt_id
        relay.resume(cut_off.session_id, abandoned.prompt_id)
        assert surroundings.turns(cut_off.session_id) == turns + 1
        assert surroundings.texts(cut_off.session_id) == texts

    def test_only_the_abandoned_turn_itself_is_resumed(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        cut_off = surroundings.cut_off()
        turns = surroundings.turns(cut_off.session_id)

        for other in (cut_off.answered_turn, "", "made up", "../../x", "\x00"):
            relay.resume(cut_off.session_id, other)

        assert surroundings.turns(cut_off.session_id) == turns
        assert relay.turn(cut_off.session_id).state is TurnState.ABANDONED

    def test_a_running_turn_is_not_resumed(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id
        surroundings.hold_turn(session_id)
        relay.inject(prompt(session_id))

        relay.resume(session_id, running(relay, session_id).prompt_id)
        surroundings.end_turn(session_id)

        assert ended(relay, session_id).state is TurnState.ANSWERED
        assert surroundings.turns(session_id) == 1

    @pytest.mark.parametrize("failure", ["", "your credit is used up"], ids=["answered", "failed"])
    def test_a_turn_that_ended_is_not_resumed(
        self, surroundings: Surroundings, relay: SessionRelay, failure: str
    ) -> None:
        session_id = surroundings.open().id
        surroundings.hold_turn(session_id, failure=failure)
        relay.inject(prompt(session_id))
        surroundings.end_turn(session_id)
        turn = ended(relay, session_id)

        relay.resume(session_id, turn.prompt_id)

        assert surroundings.turns(session_id) == 1
        assert relay.turn(session_id).state is turn.state

    def test_where_the_hub_has_said_nothing_nothing_is_resumed(
        self, surroundings: Surroundings, relay: SessionRelay
    ) -> None:
        session_id = surroundings.open().id

        relay.resume(session_id, "p1")

        assert surroundings.turns(session_id) == 0
        assert list(surroundings.texts(session_id)) == []


# ------------------------------------------------------------------------------------ in memory


class _InMemory(Surroundings):
    def __init__(self) -> None:
        self._clock = ManualClock()
        self.relay: MemoryRelay = MemoryRelay(clock=self._clock)
        self.relay.models = {"fake/echo"}
        self._opened: dict[str, Session] = {}
        self._failures: dict[str, str] = {}
        self._said: dict[str, list[str]] = {}

    def open(self, project: str = "api") -> Session:
        now = self._clock.advance(timedelta(milliseconds=1))
        slug = f"{project}-{len(self._opened)}"
        opened = session(slug, directory=f"/projects/{project}", created=now, updated=now)
        self._opened[opened.id] = opened
        self.relay.open(opened)
        return opened

    def delete(self, session_id: str) -> None:
        self.relay.close(session_id)

    def say(self, session_id: str) -> None:
        now = self._clock.advance(timedelta(milliseconds=1))
        self.relay.open(evolve(self._opened[session_id], updated=now))
        self.relay.end_turn(session_id, TurnState.NONE)

    def hold_turn(self, session_id: str, *, failure: str = "") -> None:
        self.relay.answering = False
        self._failures[session_id] = failure

    def end_turn(self, session_id: str) -> None:
        self.relay.answering = True
        self.relay.work_elsewhere(session_id, busy=False)
        if failure := self._failures.get(session_id):
            self.relay.end_turn(session_id, TurnState.FAILED, TurnFailed(failure))
        else:
            self.relay.end_turn(session_id, TurnState.ANSWERED)

    def cut_off(self) -> CutOff:
        session_id = self.open().id
        answered, newest = prompt(session_id, "answered"), prompt(session_id, "newest")
        self.relay.inject(answered)
        self.relay.inject(newest)
        self.relay.end_turn(session_id, TurnState.ABANDONED)
        return CutOff(answered, answered.id, newest)

    def work_elsewhere(self, session_id: str) -> None:
        self.relay.end_turn(session_id, TurnState.NONE)
        self.relay.work_elsewhere(session_id, busy=True)

    def spoil(self) -> Session:
        self.relay.fail_with(PromptNotHeld("it never appeared"))
        return self.open()

    def pass_time(self, duration: timedelta) -> None:
        self._clock.advance(duration)

    def go_away(self) -> None:
        self.relay.down = RelayUnreachable("connection refused")

    def texts(self, session_id: str) -> Sequence[str]:
        return [held.text for held in self.relay.held(session_id)]

    def turns(self, session_id: str) -> int:
        return self.relay.turns(session_id)


class TestMemoryRelay(SessionRelayContract):
    @pytest.fixture
    def surroundings(self) -> Surroundings:
        return _InMemory()


# --------------------------------------------------------------------------- over real OpenCode


class _Elsewhere:
    """What the tests of this file share: two projects, and another process on their sessions.

    Starting and killing that process is what costs time, so several turns are cut off at once, each
    test takes one, and the tests that want the process alive go first.
    """

    CUT_OFF = 5

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: OpenCode | None = None
        self._cut_off: list[CutOff] = []

    def project(self, name: str) -> Path:
        directory = self._root / name
        return directory if directory.exists() else make_project(directory)

    def process(self, opencode: OpenCode, model: ScriptedModel) -> OpenCode:
        if self._process is None:
            self._process = OpenCode(opencode.binary, opencode.home, model.url)
        if not self._process.running:
            self._process.start()
        return self._process

    def cut_off(self, opencode: OpenCode, model: ScriptedModel) -> CutOff:
        if not self._cut_off:
            self._cut_some_off(self.process(opencode, model), model)
        return self._cut_off.pop()

    def _cut_some_off(self, process: OpenCode, model: ScriptedModel) -> None:
        held = Held(Text("too late"))
        model.add(Rule(last_user("newest"), held, times=self.CUT_OFF))
        clock = ManualClock(datetime.now(UTC))
        with closing(OpenCodeRelay(process.url, clock=clock)) as relay:
            directory = self.project("api")
            opened = [process.create_session(directory)["id"] for _ in range(self.CUT_OFF)]
            for session_id in opened:
                relay.inject(answered := prompt(session_id, "answered"))
                name = ended(relay, session_id).prompt_id
                relay.inject(newest := prompt(session_id, "newest"))
                self._cut_off.append(CutOff(answered, name, newest))
            model.wait_for(last_user("newest"), count=self.CUT_OFF)
            process.kill()
        held.release()

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()


_SOON = timedelta(seconds=1)


class _OverOpenCode(Surroundings):
    """A session is made in real OpenCode, and the model says "ok" unless it is held."""

    def __init__(self, opencode: OpenCode, model: ScriptedModel, elsewhere: _Elsewhere) -> None:
        self._opencode = opencode
        self._model = model
        self._elsewhere = elsewhere
        self._clock = ManualClock(datetime.now(UTC))
        self._held: dict[str, Held] = {}
        self._relays = ExitStack()
        self.relay: OpenCodeRelay = self._relay_to(opencode.url)

    def _relay_to(self, url: str) -> OpenCodeRelay:
        relay = OpenCodeRelay(url, clock=self._clock, timeout=timedelta(seconds=5))
        return self._relays.enter_context(closing(relay))

    def close(self) -> None:
        self._relays.close()

    def open(self, project: str = "api", **fields: Any) -> Session:
        row = self._opencode.create_session(self._elsewhere.project(project), **fields)
        return Session(
            id=row["id"],
            slug=row["slug"],
            title=row["title"],
            directory=row["directory"],
            created=datetime.fromtimestamp(row["time"]["created"] / 1000, UTC),
            updated=datetime.fromtimestamp(row["time"]["updated"] / 1000, UTC),
        )

    def delete(self, session_id: str) -> None:
        assert self._opencode.request("DELETE", f"/session/{session_id}").is_success

    def say(self, session_id: str) -> None:
        self._opencode.ask(session_id, "I have a word to say, too")

    def hold_turn(self, session_id: str, *, failure: str = "") -> None:
        held = Held(Failure(401, failure) if failure else Text("at last"))
        self._held[session_id] = held
        self._model.add(Rule(in_session(session_id), held, times=1))

    def end_turn(self, session_id: str) -> None:
        self._held[session_id].release()
        self._opencode.wait_for_idle(session_id)

    def cut_off(self) -> CutOff:
        return self._elsewhere.cut_off(self._opencode, self._model)

    def work_elsewhere(self, session_id: str) -> None:
        self.hold_turn(session_id)
        process = self._elsewhere.process(self._opencode, self._model)
        process.prompt(session_id, "My own work")
        self._model.wait_for(in_session(session_id) & last_user("My own work"))

    def spoil(self) -> Session:
        self.relay = self._relays.enter_context(
            closing(OpenCodeRelay(self._opencode.url, clock=self._clock, timeout=_SOON))
        )
        return self.open(agent="an agent that was deleted since")

    def pass_time(self, duration: timedelta) -> None:
        self._clock.advance(duration)

    def go_away(self) -> None:
        self.relay = self._relay_to(f"http://127.0.0.1:{free_port()}")

    def texts(self, session_id: str) -> Sequence[str]:
        return [
            part["text"]
            for message in self._opencode.messages(session_id)
            if message["info"]["role"] == "user"
            for part in message["parts"]
        ]

    def turns(self, session_id: str) -> int:
        directory = Path(self._opencode.session(session_id)["directory"])
        eventually(lambda: session_id not in self._opencode.status(directory))
        roles = [message["info"]["role"] for message in self._opencode.messages(session_id)]
        return roles.count("assistant")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Elsewhere]:
    elsewhere = _Elsewhere(tmp_path_factory.mktemp("work"))
    yield elsewhere
    elsewhere.close()


class TestOpenCodeRelay(SessionRelayContract):
    @pytest.fixture
    def surroundings(
        self, opencode: OpenCode, scripted_model: ScriptedModel, elsewhere: _Elsewhere
    ) -> Iterator[Surroundings]:
        surroundings = _OverOpenCode(opencode, scripted_model, elsewhere)
        yield surroundings
        surroundings.close()
