"""The message commands as a person and a script use them, on real files.

Most run in this process; a process of its own has what needs a real pipe, a terminal, a signal or
a stopwatch. A hub at work is the claim on the spool, held by the test.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from agenthub_adapters import codec
from agenthub_adapters.clock import SystemClock
from agenthub_adapters.spool import FileSpool
from agenthub_adapters.watcher import Watcher
from agenthub_cli import main, reading, writing
from agenthub_core import (
    EVERYONE,
    HUMAN,
    Agent,
    Delivery,
    Message,
    MessageType,
    Outcome,
    Priority,
    Query,
    Settlement,
)
from agenthub_core.model import CONTENT_LENGTH
from testkit.opencode import free_port
from testkit.program import watched
from tests.unit import builders

NOW = datetime.now(UTC).replace(microsecond=0)
HOSTILE = "\x1b[31mred\x1b[0m [bold red]loud[/] :smile: a\tb " + "long " * 100
SHOWN = r"\x1b[31mred\x1b[0m [bold red]loud[/] :smile: a        b " + "long " * 99 + "long"

Written = Callable[[Message], None]


def ago(**passed: float) -> datetime:
    return NOW - timedelta(**passed)


def message(name: str = "m1", **fields: Any) -> Message:
    """alice told bob something three hours ago, from her own session."""
    defaults = {"id": name, "thread_id": "t1", "timestamp": ago(hours=3), "verified": True}
    return builders.message(**(defaults | fields))


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who has not set anything but the hub's directory."""
    for name in [name for name in os.environ if name.startswith(("AGENT_HUB_", "OPENCODE_"))]:
        monkeypatch.delenv(name)
    for name in "NO_COLOR", "OPENCODE":  # whoever runs this may be in an agent's shell
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGENT_HUB_DIR", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "200")  # for usage and help; in 80 a sentence is broken up


@pytest.fixture
def spool(tmp_path: Path) -> FileSpool:
    spool = FileSpool(tmp_path / "hub", clock=SystemClock())
    spool.prepare()
    return spool


@pytest.fixture
def team(spool: FileSpool) -> FileSpool:
    """alice and bob are here, carol is away."""
    for name, seen in (("alice", ago(minutes=5)), ("bob", NOW), ("carol", ago(days=2))):
        spool.save_agent(builders.agent(name, directory=f"/projects/{name}", last_seen=seen))
    return spool


def end(
    spool: FileSpool, ended: Message, outcome: Outcome = Outcome.DELIVERED, **fields: Any
) -> None:
    """The hub settles a message, a second after it was written."""
    at = ended.timestamp + timedelta(seconds=1)
    key = spool.put(ended)
    spool.settle([Settlement(key=key, message=ended, outcome=outcome, at=at, **fields)])


def waiting(spool: FileSpool) -> list[Message]:
    readings = map(spool.read, spool.keys())
    return [reading for reading in readings if isinstance(reading, Message)]


def agenthub(*arguments: str, piped: str | bytes | None = None) -> Result:
    done = CliRunner().invoke(main.app, arguments, input=piped)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception  # a bug shows
    return done


def said(*arguments: str, piped: str | None = None) -> str:
    """What a command that succeeds says on standard output."""
    done = agenthub(*arguments, piped=piped)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def told(*arguments: str) -> Any:
    """What a command that succeeds tells a script."""
    return json.loads(said(*arguments, "--json"))


def refused(*arguments: str, piped: str | bytes | None = None, status: int = 1) -> str:
    """The sentence with which a command fails."""
    done = agenthub(*arguments, piped=piped)
    assert (done.exit_code, done.stdout) == (status, "")
    return unframed(done.stderr)


def unframed(text: str) -> str:
    """Without the boxes around it and the line breaks in it."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def first_column(table: str) -> list[str]:
    """The names in a table, without the heading."""
    return [line.split()[0] for line in table.splitlines()[1:]]


# ------------------------------------------------------------------------------------------ send


def test_what_is_sent_waits_in_the_spool(team: FileSpool) -> None:
    with team.claim():
        line = said("send", "bob", "Which port?")

    (sent,) = waiting(team)
    assert (sent.sender, sent.recipient, sent.content) == (HUMAN, "bob", "Which port?")
    assert (sent.type, sent.priority, sent.thread_id) == (
        MessageType.TASK,
        Priority.NORMAL,
        sent.id,
    )
    assert line == f"Sent {sent.id} to bob. bob is here.\n"


@pytest.mark.parametrize(
    ("to", "prospect"),
    [
        ("carol", "carol is away; it waits."),
        ("boob", "No boob is known yet; it waits. Did you mean bob?"),
        ("zoe", "No zoe is known yet; it waits."),
        ("all", "It goes to: alice, bob."),
    ],
)
def test_whether_a_message_reaches_anybody_now_is_told(
    team: FileSpool, to: str, prospect: str
) -> None:
    with team.claim():
        assert said("send", to, "hi").endswith(f" to {to}. {prospect}\n")


def test_a_message_to_all_says_so_when_nobody_is_here(spool: FileSpool) -> None:
    with spool.claim():
        assert said("send", "all", "hi").endswith(" to all. Nobody is here.\n")


def test_who_writes_to_the_person_learns_where_that_is_read(team: FileSpool) -> None:
    with team.claim():
        line = said("send", "human", "hi", "--from", "ci")
    assert line.endswith(" to human. It is read with: agenthub inbox\n")
    assert "  hi\n" in said("inbox")


@pytest.mark.parametrize(
    ("to", "prospect"),
    [
        ("bob", "It waits."),
        ("all", "It waits."),
        ("boob", "No boob is known yet; it waits. Did you mean bob?"),
    ],
)
def test_without_a_hub_the_sender_learns_how_to_start_one_and_of_a_slip_of_the_pen(
    team: FileSpool, to: str, prospect: str
) -> None:
    line = said("send", to, "hi")
    assert line.endswith(f" to {to}. {prospect} No hub is running: agenthub daemon\n")
    assert len(waiting(team)) == 1


def test_the_text_may_come_from_a_pipe(team: FileSpool) -> None:
    said("send", "bob", "-", piped="Grüße\n\tfrom a pipe\n")
    assert [sent.content for sent in waiting(team)] == ["Grüße\n\tfrom a pipe\n"]


def test_what_is_no_text_is_not_sent(team: FileSpool) -> None:
    sentence = refused("send", "bob", "-", piped=b"\xff\xfe")
    assert sentence == "agenthub: what comes from the pipe is no text in UTF-8"
    assert waiting(team) == []


def test_the_options_are_in_the_message(team: FileSpool) -> None:
    options = ["--from", "ci", "--type", "question", "--priority", "urgent", "--thread", "t7"]
    assert agenthub("send", "bob", "hi", *options).exit_code == 0
    (sent,) = waiting(team)
    assert (sent.sender, sent.type, sent.priority, sent.thread_id) == (
        "ci",
        MessageType.QUESTION,
        Priority.URGENT,
        "t7",
    )


def test_a_slip_of_the_pen_in_a_thread_does_not_begin_one_silently(team: FileSpool) -> None:
    done = agenthub("send", "bob", "hi", "--thread", "t7")
    assert done.stderr == "No thread t7 is known: it begins with this message.\n"
    said("send", "bob", "and then", "--thread", "t7")
    end(team, message(thread_id="t8"))
    said("send", "bob", "hi", "--thread", "t8")


@pytest.mark.parametrize("name", ["hub", "all", "coordinator"])
def test_nobody_writes_in_the_name_of_the_hub(team: FileSpool, name: str) -> None:
    assert refused("send", "bob", "hi", "--from", name) == (
        f'agenthub: "{name}" is not yours to speak as: --from takes any name but the hub\'s own '
        "(all, coordinator, hub)"
    )
    assert waiting(team) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--type", "shout"], "'task', 'question', 'context', 'completion', 'error'"),
        (["--priority", "now"], "'urgent', 'high', 'normal', 'low'"),
        (["--wait", "read"], "'delivered', 'answered'"),
        (["--timeout", "soon"], "Invalid value for '--timeout'"),
        (["--timeout", "-1"], "Invalid value for '--timeout'"),
        (["--timeout", "nan"], "--timeout: found nan, expected a number of seconds"),
        (["--tread", "t1"], "No such option: --tread"),
    ],
)
def test_an_option_that_cannot_be_is_status_2_and_says_what_can(
    team: FileSpool, arguments: list[str], sentence: str
) -> None:
    assert sentence in refused("send", "bob", "hi", *arguments, status=2)
    assert waiting(team) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bob", " \n"], "TEXT: found ' \\n', expected text that is not blank"),
        (["../bob", "hi"], "TO: found '../bob', expected 1 to 100 characters of A-Z"),
        (["bob", "hi", "--from", "a b"], "--from: found 'a b', expected 1 to 100 characters"),
        (["bob", "hi", "--thread", ""], "--thread: found '', expected 1 to 100 characters of A-Z"),
    ],
    ids=["blank", "recipient", "sender", "thread"],
)
def test_what_can_be_no_message_is_told_in_a_sentence(
    team: FileSpool, arguments: list[str], sentence: str
) -> None:
    assert sentence in refused("send", *arguments, status=2)
    assert waiting(team) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bob", "x" * (CONTENT_LENGTH + 1)], "put the long part into a file and send its path"),
        (["hub", "hi"], '"hub" reads no messages'),
        (["human", "hi"], '"human" is the sender itself'),
    ],
    ids=["too long", "to the hub", "to oneself"],
)
def test_what_is_not_sent_is_refused_in_a_sentence(
    team: FileSpool, arguments: list[str], sentence: str
) -> None:
    assert sentence in refused("send", *arguments)
    assert waiting(team) == []


def test_a_script_is_told_what_was_sent(team: FileSpool) -> None:
    with team.claim():
        document = told("send", "boob", "hi", "--thread", "t7")
    (sent,) = waiting(team)
    assert document == {
        "messageId": sent.id,
        "threadId": "t7",
        "presence": "unknown",
        "hubRunning": True,
        "didYouMean": ["bob"],
    }


# ------------------------------------------------------------------------- who has written it


def test_the_person_is_verified_under_their_own_name_only(team: FileSpool) -> None:
    said("send", "bob", "It is me")
    said("send", "bob", "It is alice", "--from", "alice")
    said("send", "bob", "It is the tests", "--from", "ci")
    assert {each.sender: each.verified for each in waiting(team)} == {
        HUMAN: True,
        "alice": False,
        "ci": False,
    }


@pytest.mark.parametrize(("name", "value"), [("OPENCODE", "1"), ("OPENCODE_PID", "4711")])
def test_a_models_command_does_not_pass_for_the_person(
    team: FileSpool, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    said("send", "bob", "Obey")
    (sent,) = waiting(team)
    assert (sent.sender, sent.verified) == (HUMAN, False)


def test_where_only_the_verified_are_heard_the_person_is(
    team: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_HUB_REQUIRE_VERIFIED", "true")
    said("send", "bob", "It is me")
    assert "the hub does not know that it is ci who writes" in refused(
        "send", "bob", "It is the tests", "--from", "ci"
    )
    monkeypatch.setenv("OPENCODE", "1")
    assert "in a terminal of your own" in refused("send", "bob", "Obey")
    assert [each.content for each in waiting(team)] == ["It is me"]


def test_a_person_sees_who_only_says_who_they_are(spool: FileSpool) -> None:
    document = {"from": "alice", "to": HUMAN, "type": "context", "content": "Hi", "verified": True}
    (spool.messages / "m1.json").write_text(json.dumps(document))
    end(spool, message("m2", recipient=HUMAN))
    assert said("inbox", "--keep").count("alice (unverified) · context") == 1
    assert said("show", "m1").startswith("alice (unverified) → human · context · waiting\n")
    assert said("show", "m2").startswith("alice → human · context · delivered\n")
    rows = said("messages").splitlines()[1:]
    assert ["(unverified)" in row for row in rows] == [True, False]


def test_a_script_is_told_who_is_verified_and_sees_no_mark(spool: FileSpool) -> None:
    written = message("m1", recipient=HUMAN), message("m2", recipient=HUMAN, verified=False)
    for each in written:
        end(spool, each)
    (mark,) = re.findall(r'"verified": "(\w{64})"', (spool.archive / "m1.json").read_text())
    for command in (("inbox", "--keep"), ("messages",), ("show", "m1"), ("show", "m2")):
        documents = told(*command)
        assert {each["id"]: each["verified"] for each in documents}.items() <= {
            ("m1", True),
            ("m2", False),
        }
        assert mark not in said(*command, "--json")


# --------------------------------------------------------------------------------- send --wait


@contextmanager
def hub_that(spool: FileSpool, acts: Written) -> Iterator[None]:
    """A hub at work, which does that with each message that appears."""

    def hint(key: str) -> None:
        reading = spool.read(key)
        if isinstance(reading, Message) and reading.sender == HUMAN:
            acts(reading)

    with spool.claim(), Watcher(spool.messages, hint):
        yield


def answer(spool: FileSpool, asked: Message) -> None:
    end(spool, asked)
    end(spool, answer_to(asked))


def answer_to(asked: Message) -> Message:
    return Message(
        id="answer",
        sender=asked.recipient,
        recipient=asked.sender,
        type=MessageType.CONTEXT,
        content="4096",
        thread_id=asked.thread_id,
        timestamp=asked.timestamp + timedelta(minutes=1),  # just now, however slow the machine
    )


def test_waiting_for_the_delivery_returns_when_the_hub_has_delivered(team: FileSpool) -> None:
    with hub_that(team, lambda sent: end(team, sent)):
        done = agenthub("send", "bob", "hi", "--wait", "delivered")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "bob is here.\n" in done.stderr
    assert done.stderr.endswith("Delivered.\n")


def test_who_waits_for_a_delivery_that_takes_its_time_is_told_so_once(
    team: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agenthub_cli.writing._LOOK", 0.01)
    sent = agenthub("send", "bob", "hi", "--wait", "delivered", "--timeout", "0.2")
    assert sent.stderr.count("Waiting until it is delivered; Ctrl-C ends only that.\n") == 1
    silent = agenthub("send", "bob", "hi", "--wait", "delivered", "--timeout", "0.2", "--json")
    assert "Waiting" not in silent.stderr
    assert len(waiting(team)) == 2


def test_a_message_that_is_just_being_settled_counts_as_delivered(team: FileSpool) -> None:
    """It is in the archive, and not yet gone from where it waited."""

    def settle_half(sent: Message) -> None:
        delivered = Settlement(
            key=f"{sent.id}.json", message=sent, outcome=Outcome.DELIVERED, at=NOW
        )
        (team.archive / f"{sent.id}.json").write_bytes(codec.encode_settlement(delivered))

    with hub_that(team, settle_half):
        done = agenthub("send", "bob", "hi", "--wait", "delivered")
    assert (done.exit_code, len(waiting(team))) == (0, 1)


@pytest.mark.parametrize("until", ["delivered", "answered"])
def test_waiting_ends_with_the_reason_when_the_message_becomes_a_dead_letter(
    team: FileSpool, until: str
) -> None:
    def reject(sent: Message) -> None:
        end(team, sent, Outcome.REJECTED, reason="OpenCode does not know the model")

    with hub_that(team, reject):
        done = agenthub("send", "bob", "hi", "--wait", until)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "agenthub: it was not delivered (rejected): OpenCode does not know the model\n"
    )


def test_waiting_ends_when_somebody_removes_the_message(team: FileSpool) -> None:
    with hub_that(team, lambda sent: (team.messages / f"{sent.id}.json").unlink()):
        done = agenthub("send", "bob", "hi", "--wait", "delivered")
    assert done.exit_code == 1
    assert done.stderr.endswith("agenthub: somebody has removed it from the spool\n")


@pytest.mark.parametrize("held_by", ["the archive", "the spool"])
def test_waiting_for_the_answer_prints_it_and_nothing_else_on_standard_output(
    team: FileSpool, held_by: str
) -> None:
    def deliver_and_answer(asked: Message) -> None:
        end(team, asked)
        if held_by == "the archive":
            end(team, answer_to(asked))
        else:
            team.put(answer_to(asked))

    with hub_that(team, deliver_and_answer):
        done = agenthub("send", "bob", "Which port?", "--wait", "answered")
    assert done.exit_code == 0
    heading, *text = done.stdout.splitlines()
    assert heading.startswith("bob (unverified) · context · just now · thread ")
    assert text == ["  4096", ""]


def test_an_answer_of_an_earlier_question_in_the_thread_is_not_this_ones(team: FileSpool) -> None:
    asked = message("asked", sender=HUMAN)
    end(team, asked)
    end(team, evolve(answer_to(asked), content="an old answer"))

    def deliver_and_answer(sent: Message) -> None:
        end(team, sent)
        team.put(evolve(answer_to(sent), id="second"))

    with hub_that(team, deliver_and_answer):
        done = agenthub("send", "bob", "And now?", "--thread", "t1", "--wait", "answered")
    assert "  4096\n" in done.stdout
    assert "old" not in done.stdout


def aside(asked: Message, **fields: Any) -> Message:
    """An answer in a thread of its own: its writer has left out the one it was asked in."""
    return evolve(answer_to(asked), id="aside", thread_id="aside", **fields)


def test_an_answer_without_the_thread_is_one_if_it_is_from_who_was_asked(team: FileSpool) -> None:
    def deliver_and_answer(asked: Message) -> None:
        end(team, asked)
        team.put(aside(asked))

    with hub_that(team, deliver_and_answer):
        done = agenthub("send", "bob", "Which port?", "--wait", "answered")
    assert "bob (unverified) · context · just now · thread aside\n  4096\n" in done.stdout
    assert said("inbox").startswith("Nothing new.")


@pytest.mark.usefixtures("team")
def test_an_answer_in_the_thread_is_the_better_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = FileSpool.put

    def put_and_answer(spool: FileSpool, sent: Message) -> str:
        put(spool, aside(sent, content="By the way", timestamp=sent.timestamp))
        put(spool, answer_to(sent))
        return put(spool, sent)

    monkeypatch.setattr(FileSpool, "put", put_and_answer)
    done = agenthub("send", "bob", "Which port?", "--wait", "answered")
    assert "  4096\n" in done.stdout
    assert [each["id"] for each in told("inbox")] == ["aside"]


@pytest.mark.parametrize(
    ("to", "fields"),
    [
        ("bob", {"sender": "alice"}),
        ("bob", {"thread_id": "of-others"}),
        ("bob", {"recipient": "alice"}),
        ("bob", {"timestamp": ago(minutes=1)}),
        ("all", {"sender": "bob"}),
    ],
    ids=["another agent's", "in another thread", "to another", "from before", "of a broadcast"],
)
def test_what_else_is_written_without_the_thread_is_no_answer(
    team: FileSpool, to: str, fields: dict[str, Any]
) -> None:
    def deliver_and_write(asked: Message) -> None:
        team.put(evolve(aside(evolve(asked, recipient="bob")), **fields))
        end(team, asked)

    with hub_that(team, deliver_and_write):
        done = agenthub("send", to, "Which port?", "--wait", "answered", "--timeout", "0.5")
    assert (done.exit_code, done.stdout) == (1, "")


def test_an_answer_that_was_waited_for_is_not_new_in_the_inbox(team: FileSpool) -> None:
    with hub_that(team, lambda sent: answer(team, sent)):
        agenthub("send", "bob", "Which port?", "--wait", "answered")
    assert said("inbox").startswith("Nothing new.")


def test_what_else_was_written_is_still_new_although_it_does_not_wait_long(
    team: FileSpool,
) -> None:
    team.put(message("other", recipient=HUMAN, content="Mind the cache."))

    def deliver_and_let_answer(asked: Message) -> None:
        end(team, asked)
        team.put(answer_to(asked))  # the hub has not seen it yet

    with hub_that(team, deliver_and_let_answer):
        agenthub("send", "bob", "Which port?", "--wait", "answered")
    assert [each["id"] for each in told("inbox")] == ["other"]


def test_a_script_is_told_the_answer(team: FileSpool) -> None:
    with hub_that(team, lambda sent: answer(team, sent)):
        document = told("send", "bob", "Which port?", "--wait", "answered")
    assert document["answer"]["content"] == "4096"
    assert document["answer"]["threadId"] == document["threadId"]


@pytest.mark.parametrize("until", ["delivered", "answered"])
def test_who_waits_too_long_learns_that_the_message_still_waits(
    team: FileSpool, until: str
) -> None:
    done = agenthub("send", "bob", "hi", "--wait", until, "--timeout", "0.2")
    assert done.exit_code == 1
    (sent,) = waiting(team)
    assert done.stderr.endswith(
        f"agenthub: it was not {until} within 0.2 s: it still waits; "
        f"agenthub discard {sent.id} takes it back\n"
    )


def test_a_script_that_waits_in_vain_learns_what_was_sent_all_the_same(team: FileSpool) -> None:
    done = agenthub("send", "bob", "hi", "--wait", "answered", "--timeout", "0", "--json")
    (sent,) = waiting(team)
    assert (done.exit_code, json.loads(done.stdout)["messageId"]) == (1, sent.id)
    assert done.stderr.startswith("agenthub: it was not answered within 0 s")


ELSEWHERE = "may have answered in its own session instead of with its tool"
ELSEWHERES = "may have answered in their own sessions instead of with their tools"


@pytest.mark.parametrize(
    ("to", "holders", "fate"),
    [
        ("bob", ["bob"], f"bob holds it, and {ELSEWHERE}"),
        ("all", ["bob"], f"bob holds it, and {ELSEWHERE}"),
        ("all", ["alice", "bob", "carol"], f"alice, bob and carol hold it, and {ELSEWHERES}"),
        ("all", [], "nobody was here to receive it"),
    ],
)
@pytest.mark.usefixtures("team")
def test_who_waits_too_long_for_the_answer_learns_who_holds_the_message(
    monkeypatch: pytest.MonkeyPatch, to: str, holders: list[str], fate: str
) -> None:
    put = FileSpool.put

    def put_and_deliver(spool: FileSpool, sent: Message) -> str:
        key = put(spool, sent)
        deliveries = (
            *(Delivery(recipient=name, held_at=NOW) for name in holders),
            Delivery(recipient="zoe", reason="its window was closed"),
        )
        delivered = Outcome.DELIVERED
        spool.settle(
            [Settlement(key=key, message=sent, outcome=delivered, at=NOW, deliveries=deliveries)]
        )
        return key

    monkeypatch.setattr(FileSpool, "put", put_and_deliver)
    done = agenthub("send", to, "hi", "--wait", "answered", "--timeout", "0")
    assert done.exit_code == 1
    assert done.stderr.endswith(f"it was not answered within 0 s: {fate}\n")


def test_who_waits_for_the_answer_learns_when_the_message_has_arrived(team: FileSpool) -> None:
    def deliver(sent: Message) -> None:
        end(team, sent)

    with (
        hub_that(team, deliver),
        process("send", "bob", "hi", "--wait", "answered") as waits,
    ):
        assert waits.stderr is not None
        assert waits.stderr.readline().startswith(b"Sent ")
        assert waits.stderr.readline().startswith(b"Delivered. Waiting for the answer")
        (asked,) = [record.message for record in team.history(Query())]
        end(team, answer_to(asked))
        output, errors = waits.communicate()
    assert (waits.returncode, errors) == (0, b"")
    assert b"  4096\n" in output


def test_ctrl_c_ends_the_waiting_and_nothing_else_and_says_that_the_message_waits(
    team: FileSpool,
) -> None:
    with process("send", "bob", "hi", "--wait", "answered") as waits:
        assert waits.stderr is not None
        assert waits.stderr.readline().startswith(b"Sent ")
        waits.send_signal(signal.SIGINT)
        output, errors = waits.communicate()
    assert (waits.returncode, output) == (130, b"")
    (sent,) = waiting(team)
    assert errors.decode() == (
        "agenthub: it was not answered yet: it still waits; "
        f"agenthub discard {sent.id} takes it back\n"
    )


def test_ctrl_c_says_who_holds_the_message(team: FileSpool) -> None:
    with (
        hub_that(team, lambda sent: end(team, sent)),
        process("send", "bob", "hi", "--wait", "answered") as waits,
    ):
        assert waits.stderr is not None
        assert waits.stderr.readline().startswith(b"Sent ")
        assert waits.stderr.readline().startswith(b"Delivered. Waiting for the answer")
        waits.send_signal(signal.SIGINT)
        _, errors = waits.communicate()
    assert waits.returncode == 130
    assert errors.decode() == (
        f"agenthub: it was not answered yet: bob holds it, and {ELSEWHERE}\n"
    )


# ----------------------------------------------------------------------------------------- inbox


@pytest.fixture
def mail(spool: FileSpool) -> FileSpool:
    """bob's letter lies in the inbox, alice's later one was not delivered yet."""
    end(spool, message("m1", sender="bob", recipient=HUMAN, content="First.\n\nMore."))
    spool.put(message("m2", recipient=HUMAN, content="Then.", timestamp=ago(hours=2)))
    spool.put(message("m3", recipient="bob", content="Not for you."))
    return spool


@pytest.mark.usefixtures("mail")
def test_the_inbox_shows_what_is_new_the_oldest_first() -> None:
    assert said("inbox") == (
        "bob · context · 3 h ago · thread t1\n  First.\n\n  More.\n\n"
        "alice · context · 2 h ago · thread t1\n  Then.\n\n"
    )


def test_what_was_shown_is_read(mail: FileSpool) -> None:
    said("inbox")
    assert said("inbox") == "Nothing new. agenthub inbox --all shows what you have read.\n"
    assert {each.id: each.read for each in waiting(mail)} == {"m2": True, "m3": False}


@pytest.mark.usefixtures("mail")
def test_what_was_kept_is_shown_again() -> None:
    assert said("inbox", "--keep") == said("inbox", "--keep") == said("inbox")


def test_all_shows_what_was_read_too(mail: FileSpool) -> None:
    first = said("inbox")
    assert said("inbox", "--all") == first
    mail.put(message("m4", recipient=HUMAN, content="New.", timestamp=NOW))
    both = said("inbox", "--all")
    assert both.startswith(first)
    assert both.endswith(" · thread t1\n  New.\n\n")
    assert said("inbox").startswith("Nothing new.")


def test_the_limit_is_for_what_was_read_so_nothing_new_is_lost(mail: FileSpool) -> None:
    said("inbox")
    for minutes, name in ((20, "m4"), (10, "m5")):
        mail.put(message(name, recipient=HUMAN, timestamp=ago(minutes=minutes)))
    shown = [each["id"] for each in told("inbox", "--all", "--limit", "1")]
    assert shown == ["m2", "m4", "m5"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Nothing new. agenthub inbox --all shows what you have read.\n"),
        (("--all",), "Nobody has written to you yet.\n"),
    ],
)
@pytest.mark.usefixtures("spool")
def test_an_empty_inbox_says_so(arguments: tuple[str, ...], sentence: str) -> None:
    assert said("inbox", *arguments) == sentence
    assert told("inbox", *arguments) == []


@pytest.mark.usefixtures("mail")
def test_a_script_reads_the_inbox_as_the_messages_are_stored() -> None:
    assert [(each["id"], each["from"], each["content"]) for each in told("inbox")] == [
        ("m1", "bob", "First.\n\nMore."),
        ("m2", "alice", "Then."),
    ]
    assert told("inbox") == []


def test_a_hostile_message_is_shown_and_not_obeyed(spool: FileSpool) -> None:
    spool.put(message("m1", recipient=HUMAN, content=HOSTILE))
    expected = [f"  {SHOWN}"]
    for command in (("inbox", "--keep"), ("inbox", "--all"), ("show", "m1")):
        assert said(*command).splitlines()[1:2] == expected


def test_not_on_a_terminal_either(spool: FileSpool) -> None:
    spool.put(message("m1", recipient=HUMAN, content=HOSTILE))
    (row,) = on_terminal(80, "messages").splitlines()[1:]
    assert r"\x1b[31m" in row
    assert SHOWN[:40] in on_terminal(80, "inbox")


@pytest.mark.parametrize("place", ["reason", "recipient", "delivery"])
def test_nor_is_what_others_said_when_it_failed(spool: FileSpool, place: str) -> None:
    delivery = Delivery(
        recipient="\x1b[2J" if place == "recipient" else "bob",
        reason="\x1b[2J" if place == "delivery" else "",
    )
    reason = "\x1b[2J" if place == "reason" else ""
    end(spool, message(), Outcome.REJECTED, reason=reason, deliveries=(delivery,))
    shown = said("show", "m1")
    assert r"\x1b[2J" in shown
    assert "\x1b" not in shown


@pytest.mark.usefixtures("spool")
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("if x:\n\treturn\ty", ["if x:", "        return  y"]),
        ("10\u00a0000 €", ["10\u00a0000 €"]),
        ("👩\u200d💻 works", ["👩\u200d💻 works"]),
        ("left\u202eright\u200b", [r"left\u202eright\u200b"]),
    ],
    ids=["tabs", "no-break space", "joined emoji", "turned and hidden"],
)
def test_what_texts_are_made_with_is_shown_as_it_is(
    spool: FileSpool, content: str, lines: list[str]
) -> None:
    spool.put(message("m1", recipient=HUMAN, content=content))
    for command in (("inbox", "--keep"), ("show", "m1")):
        shown = said(*command).split("\n")
        assert shown[1 : 1 + len(lines)] == [f"  {line}" for line in lines]


def test_a_terminal_that_lacks_a_letter_shows_a_question_mark(spool: FileSpool) -> None:
    spool.put(message("m1", recipient=HUMAN, content="Grüße 🐼"))
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for command, shown in (
        (("inbox", "--keep"), b"\n  Gr??e ?\n"),
        (("show", "m1"), b"alice -> human"),
        (("messages",), b"Gr??e ?\n"),
        (("messages", "--json"), rb'"content": "Gr\u00fc\u00dfe \ud83d\udc3c"'),
    ):
        with process(*command, env=environment) as shows:
            output, errors = shows.communicate()
        assert (shows.returncode, errors) == (0, b"")
        assert shown in output


def test_who_wants_no_colour_gets_none(spool: FileSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    end(spool, message())
    assert "\x1b[32m" in coloured("messages")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in coloured("messages")


# ---------------------------------------------------------------------------------------- agents


def test_agents_shows_who_is_here_first(team: FileSpool) -> None:
    said_of_itself = Agent(id="bob", role="Writes the API", last_seen=NOW, directory="/projects")
    team.register_agent(said_of_itself)
    with team.claim():
        heading, *rows = said("agents").splitlines()
    assert heading.split() == ["AGENT", "STATE", "SEEN", "DIRECTORY", "ROLE"]
    assert [row.split()[:2] for row in rows] == [
        ["alice", "here"],
        ["bob", "here"],
        ["carol", "away"],
    ]
    assert rows[2].split() == ["carol", "away", "2", "days", "/projects/carol"]
    assert rows[1].endswith("Writes the API")


def test_agents_here_leaves_out_who_is_away(team: FileSpool) -> None:
    with team.claim():
        assert first_column(said("agents", "--here")) == ["alice", "bob"]


def test_a_script_is_told_all_of_an_agent(team: FileSpool) -> None:
    team.register_agent(
        Agent(
            id="bob",
            directory="/projects/bob",
            last_seen=NOW,
            role="Writes",
            capabilities=("SQL",),
            collaborates_with=("alice",),
        )
    )
    assert told("agents", "--here")[1] == {
        "id": "bob",
        "presence": "here",
        "projectPath": "/projects/bob",
        "role": "Writes",
        "capabilities": ["SQL"],
        "collaboratesWith": ["alice"],
        "sessionId": "ses_bob",
        "lastSeen": codec.to_milliseconds(NOW),
    }


def test_without_a_hub_it_is_told_that_nobody_is_woken(team: FileSpool) -> None:
    with team.claim():
        assert agenthub("agents").stderr == ""
    assert agenthub("agents").stderr == "No hub is running, so nobody is woken: agenthub daemon\n"
    assert agenthub("agents", "--json").stderr == ""


@pytest.mark.usefixtures("spool")
def test_where_nobody_is_known_the_way_to_agents_is_told() -> None:
    assert said("agents").startswith("No agents yet. Each OpenCode session becomes one ")
    assert told("agents") == []


def test_where_nobody_is_here_who_is_known_is_not_denied(spool: FileSpool) -> None:
    spool.save_agent(builders.agent("carol", last_seen=ago(days=2)))
    assert said("agents", "--here") == "Nobody is here. agenthub agents shows who is known.\n"
    assert told("agents", "--here") == []


# --------------------------------------------------------------------------------------- threads


@pytest.fixture
def conversations(spool: FileSpool) -> FileSpool:
    """t1 between alice and bob was resolved 4 hours ago; in t2 carol waits for alice."""
    end(spool, message("m1", timestamp=ago(hours=8)))
    end(spool, message("m2", sender="bob", recipient="alice", timestamp=ago(hours=6)))
    closing = message("m3", type=MessageType.COMPLETION, content="RESOLVED")
    end(spool, evolve(closing, timestamp=ago(hours=4)))
    opening = message("m4", sender="carol", recipient="alice", thread_id="t2")
    spool.put(evolve(opening, timestamp=ago(days=2)))
    return spool


@pytest.mark.usefixtures("conversations")
def test_threads_shows_the_conversations_the_latest_first() -> None:
    heading, *rows = said("threads").splitlines()
    assert heading.split() == ["THREAD", "STATE", "MESSAGES", "AGE", "WHO"]
    assert [row.split() for row in rows] == [
        ["t1", "resolved", "3", "4", "h", "alice,", "bob"],
        ["t2", "open", "1", "2", "days", "carol,", "alice"],
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--agent", "carol"], ["t2"]),
        (["--agent", "alice"], ["t1", "t2"]),
        (["--since", "5h"], ["t1"]),
        (["--since", "3h"], []),
        (["--limit", "1"], ["t1"]),
        (["-n", "5", "--since", "9d"], ["t1", "t2"]),
    ],
)
@pytest.mark.usefixtures("conversations")
def test_threads_are_found(arguments: list[str], names: list[str]) -> None:
    assert first_column(agenthub("threads", *arguments).stdout) == names


@pytest.mark.usefixtures("conversations")
def test_a_thread_is_told_as_a_whole_though_it_began_before_the_time_asked_for() -> None:
    (thread,) = told("threads", "--since", "7h")  # from bob's answer on
    assert (thread["status"], thread["creator"], thread["messages"]) == ("resolved", "alice", 3)


def test_a_thread_is_told_the_same_whoever_of_it_one_asks_for(spool: FileSpool) -> None:
    end(spool, message("m1", sender="carol", recipient="alice", timestamp=ago(hours=8)))
    end(spool, message("m2", sender="alice", recipient="bob", timestamp=ago(hours=6)))
    closing = message("m3", sender="carol", recipient="bob", content="RESOLVED")
    end(spool, evolve(closing, type=MessageType.COMPLETION))
    (thread,) = told("threads")
    assert (thread["status"], thread["messages"]) == ("resolved", 3)
    for name in ("alice", "bob", "carol"):
        assert told("threads", "--agent", name) == [thread]


@pytest.mark.usefixtures("conversations")
def test_a_script_is_told_all_of_a_thread() -> None:
    assert told("threads")[0] == {
        "threadId": "t1",
        "status": "resolved",
        "creator": "alice",
        "participants": ["alice", "bob"],
        "messages": 3,
        "started": codec.to_milliseconds(ago(hours=8)),
        "updated": codec.to_milliseconds(ago(hours=4)),
    }


@pytest.mark.usefixtures("spool")
def test_without_conversations_it_says_so() -> None:
    assert said("threads") == "No conversations.\n"
    assert told("threads") == []


# -------------------------------------------------------------------------------------- messages


@pytest.fixture
def history(spool: FileSpool) -> FileSpool:
    """old and new were delivered, late and bad are dead, red was read, w1 and w2 wait."""
    end(spool, message("old", content="The login answers 401", timestamp=ago(days=9)))
    end(spool, message("new", sender="bob", recipient="carol", timestamp=ago(hours=6)))
    end(spool, message("late", type=MessageType.TASK, timestamp=ago(hours=20)), Outcome.EXPIRED)
    end(spool, message("bad", thread_id="t2", timestamp=ago(hours=16)), Outcome.REJECTED)
    end(spool, message("red", recipient="dave", timestamp=ago(hours=10)), Outcome.READ)
    spool.put(message("w1", timestamp=ago(hours=22)))
    spool.put(message("w2", sender="dave", recipient=EVERYONE, timestamp=ago(hours=2)))
    return spool


@pytest.mark.usefixtures("history")
def test_messages_shows_those_that_wait_and_then_the_settled_ones_the_latest_first() -> None:
    heading, *rows = said("messages").splitlines()
    assert heading.split() == ["MESSAGE", "AGE", "FROM", "TO", "STATE", "TEXT"]
    assert [row.split()[0] for row in rows] == ["w2", "w1", "new", "red", "bad", "late", "old"]
    assert rows[-1].split() == (
        ["old", "9", "days", "alice", "bob", "delivered", "The", "login", "answers", "401"]
    )


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--agent", "carol"], ["w2", "new"]),
        (["--agent", "dave"], ["w2", "red"]),
        (["--from", "bob"], ["new"]),
        (["--to", "bob"], ["w1", "bad", "late", "old"]),
        (["--to", "all"], ["w2"]),
        (["--thread", "t2"], ["bad"]),
        (["--type", "task"], ["late"]),
        (["--state", "waiting"], ["w2", "w1"]),
        (["--state", "delivered"], ["new", "old"]),
        (["--state", "read"], ["red"]),
        (["--state", "expired"], ["late"]),
        (["--state", "rejected"], ["bad"]),
        (["--dead"], ["bad", "late"]),
        (["--text", "LOGIN answers"], ["old"]),
        (["--since", "240m"], ["w2"]),
        (["--since", "8h"], ["w2", "new"]),
        (["--since", "5d", "--to", "bob"], ["w1", "bad", "late"]),
        (["--since", ago(hours=4).isoformat()], ["w2"]),
        (["--since", f"{ago(days=4):%Y-%m-%d}", "--from", "alice"], ["w1", "red", "bad", "late"]),
        (["--limit", "3"], ["w2", "w1", "new"]),
        (["--state", "delivered", "-n", "1"], ["new"]),
        (["--from", "alice", "--to", "bob", "--dead", "--since", "18h"], ["bad"]),
    ],
)
@pytest.mark.usefixtures("history")
def test_messages_are_found(arguments: list[str], names: list[str]) -> None:
    assert first_column(agenthub("messages", *arguments).stdout) == names
    assert [each["id"] for each in told("messages", *arguments)] == names


@pytest.mark.parametrize(
    "text", ["nonsense", "", "2", "2w", "-2h", "999999d", "0001-01-01", "2026-13-01"]
)
@pytest.mark.parametrize("command", ["messages", "threads"])
def test_what_is_no_time_is_status_2_and_says_what_is(command: str, text: str) -> None:
    sentence = refused(command, "--since", text, status=2)
    assert sentence.endswith("expected a time such as 30m, 2h, 7d or 2026-01-31T12:00")


def test_dead_and_a_state_exclude_each_other() -> None:
    sentence = refused("messages", "--dead", "--state", "waiting", status=2)
    assert sentence == "agenthub: --dead and --state exclude each other"


@pytest.mark.parametrize(
    "arguments",
    [["--type", "shout"], ["--state", "lost"], ["--limit", "0"], ["--limit", "many"]],
    ids=" ".join,
)
def test_a_filter_that_cannot_be_is_status_2(arguments: list[str]) -> None:
    assert f"Invalid value for '{arguments[0]}'" in refused("messages", *arguments, status=2)


@pytest.mark.parametrize("option", ["--agent", "--from", "--to"])
@pytest.mark.parametrize("command", ["messages", "threads"])
def test_a_name_that_nobody_has_is_doubted(team: FileSpool, command: str, option: str) -> None:
    end(team, message(recipient=EVERYONE))
    if command == "threads" and option != "--agent":
        return
    done = agenthub(command, option, "boob")
    assert done.stderr == "No agent boob is known. Did you mean bob?\n"
    assert agenthub(command, option, "carol").stderr == ""


@pytest.mark.parametrize("name", ["gone", HUMAN])
def test_a_name_that_wrote_is_not_doubted(team: FileSpool, name: str) -> None:
    end(team, message(sender="gone"))
    assert agenthub("messages", "--agent", name).stderr == ""


@pytest.mark.usefixtures("history")
def test_a_script_is_told_all_of_a_message_and_what_became_of_it() -> None:
    (waits,) = told("messages", "--from", "dave")
    assert waits == {
        "id": "w2",
        "from": "dave",
        "to": "all",
        "type": "context",
        "content": "Hello",
        "priority": "normal",
        "threadId": "t1",
        "timestamp": codec.to_milliseconds(ago(hours=2)),
        "read": False,
        "verified": True,
        "state": "waiting",
    }
    (dead,) = told("messages", "--state", "rejected")
    assert (dead["state"], dead["agenthub"]["outcome"]) == ("rejected", "rejected")


def test_a_script_is_told_what_no_text_can_hold(spool: FileSpool) -> None:
    document = json.loads(codec.encode_message(message(content="Grüße 🐼"))) | {"note": "\ud800"}
    (spool.messages / "m1.json").write_text(json.dumps(document))
    assert told("messages")[0]["note"] == "\ud800"


def test_a_script_reads_any_language_as_it_was_written(spool: FileSpool) -> None:
    spool.put(message(content="Grüße 🐼"))
    assert '"content": "Grüße 🐼"' in said("messages", "--json")


@pytest.mark.usefixtures("history")
def test_without_such_messages_it_says_so() -> None:
    assert said("messages", "--text", "nowhere") == "No such messages.\n"
    assert told("messages", "--text", "nowhere") == []


@pytest.mark.usefixtures("spool")
def test_an_empty_hub_has_no_messages_yet() -> None:
    assert said("messages") == "No messages yet.\n"
    assert said("messages", "--state", "waiting") == "No such messages.\n"
    assert said("messages", "--dead") == "No such messages.\n"


@pytest.mark.parametrize("command", ["messages", "threads"])
def test_that_a_list_ends_before_all_was_shown_is_told(spool: FileSpool, command: str) -> None:
    for number in range(3):
        spool.put(message(f"m{number}", thread_id=f"t{number}"))
    cut = agenthub(command, "-n", "2")
    assert (cut.exit_code, len(first_column(cut.stdout))) == (0, 2)
    assert cut.stderr == "There are more than these 2: see more with -n 20\n"
    assert len(first_column(said(command, "-n", "3"))) == 3
    assert len(told(command, "-n", "2")) == 2


# ------------------------------------------------------------------------------------------ show


def facts(shown: str) -> list[list[str]]:
    """The names and values below a message."""
    return [line.split(maxsplit=1) for line in shown.splitlines() if re.match(r"  \S+  ", line)]


def local(when: datetime) -> str:
    return when.astimezone().isoformat(" ", "milliseconds")


def test_show_tells_of_a_message_that_waits(spool: FileSpool) -> None:
    spool.put(message(content="Hello\nbob", priority=Priority.HIGH))
    shown = said("show", "m1")
    assert shown.startswith("alice → bob · context · waiting\n  Hello\n  bob\n\n")
    assert facts(shown) == [
        ["message", "m1"],
        ["thread", "t1"],
        ["priority", "high"],
        ["written", local(ago(hours=3))],
        ["waits", "No bob is known yet; it waits. No hub is running: agenthub daemon"],
    ]


def test_show_tells_whether_the_recipient_of_a_message_that_waits_is_here(team: FileSpool) -> None:
    team.put(message("for-bob"))
    team.put(message("for-carol", recipient="carol"))
    with team.claim():
        fates = {name: facts(said("show", name))[-1] for name in ("for-bob", "for-carol")}
    assert fates == {
        "for-bob": ["waits", "bob is here."],
        "for-carol": ["waits", "carol is away; it waits."],
    }


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "waiting"])
def test_the_beginning_of_an_id_is_enough(spool: FileSpool, *, settled: bool) -> None:
    for name in ("k3v9x0q2", "k3v9y", "other"):
        each = message(name, content=name)
        if settled:
            end(spool, each)
        else:
            spool.put(each)
    assert "  k3v9x0q2\n" in said("show", "k3v9x")
    assert refused("show", "k3v9") == "agenthub: 2 messages begin with 'k3v9': k3v9x0q2, k3v9y"


def test_an_id_that_is_the_beginning_of_another_is_itself(spool: FileSpool) -> None:
    end(spool, message("m1"))
    end(spool, message("m10", content="The other."))
    assert "The other." not in said("show", "m1")


def test_show_tells_who_holds_a_message_and_who_does_not(spool: FileSpool) -> None:
    deliveries = (
        Delivery(recipient="bob", session_id="ses_bob", held_at=ago(hours=2)),
        Delivery(recipient="a-recipient-of-a-long-name", held_at=ago(hours=1)),
        Delivery(recipient="reason", reason="its window was closed"),
    )
    expired = message(recipient=EVERYONE)
    end(spool, expired, Outcome.EXPIRED, reason="its time is up", deliveries=deliveries)
    shown = said("show", "m1")
    assert shown.startswith("alice → all · context · expired\n")
    assert facts(shown)[4:] == [
        ["settled", local(ago(hours=3) + timedelta(seconds=1))],
        ["reason", "its time is up"],
        ["bob", f"held {local(ago(hours=2))} by session ses_bob"],
        ["a-recipient-of-a-long-name", f"held {local(ago(hours=1))}"],
        ["reason", "not held: its window was closed"],
    ]


def test_show_tells_of_each_life_of_a_message_the_first_one_first(spool: FileSpool) -> None:
    end(spool, message(), Outcome.EXPIRED)
    said("retry", "m1")
    headings = [line for line in said("show", "m1").splitlines() if line.startswith("alice")]
    assert headings == ["alice → bob · context · expired", "alice → bob · context · waiting"]
    assert [each["state"] for each in told("show", "m1")] == ["expired", "waiting"]


def test_a_script_is_told_all_that_is_known_of_a_message(spool: FileSpool) -> None:
    deliveries = (Delivery(recipient="bob", session_id="ses_bob", held_at=NOW, attempts=2),)
    end(spool, message(), deliveries=deliveries)
    (document,) = told("show", "m1")
    assert document["agenthub"] == {
        "outcome": "delivered",
        "at": codec.to_milliseconds(ago(hours=3) + timedelta(seconds=1)),
        "deliveries": [
            {
                "recipient": "bob",
                "attempts": 2,
                "session": "ses_bob",
                "heldAt": codec.to_milliseconds(NOW),
            }
        ],
    }


def test_show_finds_what_lies_under_a_name_that_is_no_id(spool: FileSpool) -> None:
    document = {"from": "human", "to": "bob", "type": "task", "content": "By hand."}
    (spool.messages / "name with space ü.json").write_text(json.dumps(document))
    ((name, state),) = [(each["id"], each["state"]) for each in told("messages")]
    assert state == "waiting"
    assert "  By hand.\n" in said("show", name)


@pytest.mark.parametrize("name", ["m2", "../m1", "m*", "", "x" * 5000])
def test_show_of_what_is_not_there_says_where_to_look(spool: FileSpool, name: str) -> None:
    end(spool, message())
    assert refused("show", name).endswith("agenthub messages lists them")


# ----------------------------------------------------------------------------------------- retry


def test_a_dead_letter_waits_again_under_its_name(team: FileSpool) -> None:
    end(team, message(content="Again", priority=Priority.HIGH), Outcome.EXPIRED)
    with team.claim():
        assert said("retry", "m1") == "Sent m1 again to bob. bob is here.\n"
    (again,) = waiting(team)
    assert (again.id, again.content, again.priority) == ("m1", "Again", Priority.HIGH)
    assert again.timestamp >= NOW


def test_of_a_broadcast_only_those_get_it_again_who_missed_it(team: FileSpool) -> None:
    deliveries = (
        Delivery(recipient="alice", held_at=NOW),
        Delivery(recipient="bob", reason="its window was closed"),
        Delivery(recipient="carol", reason="nobody knows"),
    )
    end(team, message(recipient=EVERYONE), Outcome.EXPIRED, deliveries=deliveries)
    with team.claim():
        assert said("retry", "m1").splitlines() == [
            "Sent m1 again to bob. bob is here.",
            "Sent m1 again to carol. carol is away; it waits.",
        ]
    assert sorted(each.recipient for each in waiting(team)) == ["bob", "carol"]


@pytest.mark.usefixtures("history")
def test_of_the_dead_letters_only_those_are_shown_that_were_not_sent_again() -> None:
    said("retry", "late")
    assert first_column(said("messages", "--dead")) == ["bad"]
    assert first_column(said("messages", "--state", "expired")) == ["late"]


def test_a_dead_letter_that_was_sent_again_is_counted_no_more(team: FileSpool) -> None:
    end(team, message(), Outcome.EXPIRED)
    assert told("status")["deadLettersLastDay"] == len(told("messages", "--dead")) == 1
    said("retry", "m1")
    assert told("status")["deadLettersLastDay"] == len(told("messages", "--dead")) == 0


def test_a_script_is_told_of_each_one_that_gets_it_again(team: FileSpool) -> None:
    deliveries = (Delivery(recipient="bob"), Delivery(recipient="carol"))
    end(team, message(recipient=EVERYONE), Outcome.EXPIRED, deliveries=deliveries)
    assert [(each["messageId"], each["presence"]) for each in told("retry", "m1")] == [
        ("m1", "here"),
        ("m1", "away"),
    ]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("arrived", "the message arrived is no dead letter: it was delivered"),
        ("waits", "the message waits waits: it is delivered as soon as may be"),
        ("m123", "there is no message 'm123': agenthub messages lists them"),
        ("../m1", "there is no message '../m1': agenthub messages lists them"),
    ],
)
def test_what_is_no_dead_letter_is_not_sent_again(
    team: FileSpool, name: str, sentence: str
) -> None:
    end(team, message("arrived"))
    team.put(message("waits"))
    assert refused("retry", name) == f"agenthub: {sentence}"
    assert [each.id for each in waiting(team)] == ["waits"]


# --------------------------------------------------------------------------------------- discard


def test_what_waits_is_taken_back(team: FileSpool) -> None:
    team.put(message("slip-of-the-pen", recipient="boob"))
    assert said("discard", "slip") == "Took back slip-of-the-pen to boob; it counts as read.\n"
    assert said("messages", "--state", "waiting") == "No such messages.\n"
    assert told("status")["messagesWaiting"] == 0


def test_a_dead_letter_that_was_discarded_is_counted_no_more(team: FileSpool) -> None:
    end(team, message(), Outcome.EXPIRED)
    assert said("discard", "m1") == "Done with m1 to bob.\n"
    assert told("status")["deadLettersLastDay"] == len(told("messages", "--dead")) == 0
    assert first_column(said("messages", "--state", "expired")) == ["m1"]


def test_a_script_is_told_what_was_discarded(team: FileSpool) -> None:
    end(team, message(), Outcome.EXPIRED)
    team.put(message("slip-of-the-pen"))
    discarded = [*told("discard", "m1"), *told("discard", "slip-of-the-pen")]
    assert [(each["id"], each["state"], each["read"]) for each in discarded] == [
        ("m1", "expired", True),
        ("slip-of-the-pen", "read", True),
    ]


def test_a_letter_takes_nothing_back(team: FileSpool) -> None:
    team.put(message("slip-of-the-pen"))
    assert "a beginning of an id has 4 characters or more" in refused("discard", "s")
    assert [each.read for each in waiting(team)] == [False]


def test_what_has_arrived_cannot_be_taken_back(team: FileSpool) -> None:
    end(team, message())
    assert refused("discard", "m1") == (
        "agenthub: there is nothing to discard of the message m1: it was delivered"
    )


# ---------------------------------------------------------------------------------------- status


def test_status_of_a_new_hub_is_nothing_at_all() -> None:
    assert said("status").splitlines() == [
        "hub       not running: agenthub daemon",
        "agents    0 here, 0 away",
        "waiting   0",
        "dead      0 in the last day",
        "inbox     0 new",
    ]


@pytest.fixture
def busy(team: FileSpool) -> FileSpool:
    """2 agents here, 1 away; 2 messages wait; 2 dead letters of the last day; 2 in the inbox."""
    team.put(message("w1"))
    team.put(message("w2", recipient=HUMAN, timestamp=ago(minutes=5)))
    team.put(message("w3", recipient=HUMAN, read=True))
    end(team, message("expired"), Outcome.EXPIRED)
    end(team, message("rejected"), Outcome.REJECTED)
    end(team, message("ancient", timestamp=ago(days=2)), Outcome.EXPIRED)
    end(team, message("letter", recipient=HUMAN))
    end(team, message("known", recipient=HUMAN, read=True))
    return team


def test_status_counts_what_matters_and_names_the_command_for_it(busy: FileSpool) -> None:
    with busy.claim():
        assert said("status").splitlines() == [
            "hub       running",
            "agents    2 here, 1 away",
            "waiting   2, the oldest written 3 h ago",
            "dead      2 in the last day: agenthub messages --dead",
            "inbox     2 new: agenthub inbox",
        ]


def test_a_script_is_told_the_same(busy: FileSpool) -> None:
    with busy.claim():
        running = told("status")
    assert running == {
        "running": True,
        "agentsHere": ["alice", "bob"],
        "agentsKnown": 3,
        "messagesWaiting": 2,
        "deadLettersLastDay": 2,
        "inboxUnread": 2,
    }
    assert told("status") == running | {"running": False}


# --------------------------------------------------------------------- tables, pipes, terminals


@contextmanager
def process(
    *arguments: str,
    stdin: int | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process of its own."""
    begun = subprocess.Popen(  # noqa: S603  # the program under test
        [sys.executable, "-m", "agenthub_cli", *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
    )
    with watched(begun):
        yield begun


def on_terminal(columns: int, *arguments: str) -> str:
    """What the command shows on a terminal so wide; without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", coloured(*arguments, columns=columns))


def coloured(*arguments: str, columns: int = 120) -> str:
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["TERM"] = "xterm-256color"
    with process(*arguments, stdin=its, stdout=its, stderr=its, env=environment) as shows:
        os.close(its)
        shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
    assert shows.returncode == 0
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other end was closed
        return b""


LONG = "a-very-long-name-of-an-agent-indeed"


@pytest.fixture
def wide(team: FileSpool) -> FileSpool:
    """Names, texts and roles that are longer than any terminal is wide."""
    end(team, message("m" * 23, sender=LONG, content="word " * 60 + "你好" * 60))
    long_ago = ago(days=2)  # so that it is as long ago when one looks again
    role = Agent(id="alice", role="Does " + "much " * 60, directory="/far" * 40, last_seen=long_ago)
    team.register_agent(role)
    team.save_agent(builders.agent("bob", directory="/projects/bob", last_seen=long_ago))
    return team


TABLES = [("agents",), ("threads",), ("messages",)]


@pytest.mark.parametrize("command", TABLES, ids=" ".join)
@pytest.mark.parametrize("columns", [80, 120, 40])
@pytest.mark.usefixtures("wide")
def test_on_a_terminal_each_row_is_a_line_and_its_name_is_whole(
    command: tuple[str, ...], columns: int
) -> None:
    rows = 3 if command == ("agents",) else 1
    lines = on_terminal(columns, *command).splitlines()
    assert len(lines) == 1 + rows
    assert all(0 < cell_len(line) <= columns for line in lines)
    assert lines[1].split()[0] in {"alice", "t1", "m" * 23}


@pytest.mark.parametrize("command", TABLES, ids=" ".join)
@pytest.mark.usefixtures("wide")
def test_on_a_terminal_of_old_too_each_row_is_a_line(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    lines = on_terminal(40, *command).splitlines()
    assert all(0 < cell_len(line) <= 40 for line in lines)


def test_on_a_usual_terminal_no_column_is_squeezed_out(team: FileSpool) -> None:
    end(
        team,
        message("m" * 24, sender="cosmic-panda", recipient="brave-otter", content="word " * 60),
    )
    heading, row = on_terminal(80, "messages").splitlines()
    assert heading.split() == ["MESSAGE", "AGE", "FROM", "TO", "STATE", "TEXT"]
    assert row.split()[:3] == ["m" * 8, "3", "h"]
    assert "delivered" in row
    assert "word" in row


def test_on_a_terminal_an_id_that_nobody_chose_is_cut_to_what_finds_it(team: FileSpool) -> None:
    end(team, message("1u2qhs7hgwpe1fcpcmii1527"))
    end(team, message("frozen-api-2026-01-31-in-full"))
    names = [row.split()[0] for row in on_terminal(80, "messages").splitlines()[1:]]
    assert sorted(names) == ["1u2qhs7h", "frozen-api-2026-01-31-in-full"]
    assert "1u2qhs7hgwpe1fcpcmii1527" in said("messages")
    assert "1u2qhs7hgwpe1fcpcmii1527" in said("show", "1u2qhs7h")


@pytest.mark.parametrize("command", TABLES, ids=" ".join)
@pytest.mark.usefixtures("wide")
def test_in_a_pipe_nothing_is_cut_off_and_nothing_filled_up(command: tuple[str, ...]) -> None:
    with process(*command, env=os.environ | {"COLUMNS": "40"}) as shows:
        shown = shows.communicate()[0].decode()
    assert shown == said(*command)
    assert "…" not in shown
    assert not re.search(" $", shown, re.MULTILINE)
    whole = {
        "agents": "Does " + "much " * 59,
        "threads": LONG,
        "messages": "word " * 60 + "你好" * 60,
    }
    assert whole[command[0]] in shown


@pytest.mark.usefixtures("history")
def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with process("messages", "--json") as shows:
        assert shows.stdout is not None
        shows.stdout.close()
        assert shows.stderr is not None
        assert shows.stderr.read() == b""


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    "command", [("messages",), ("messages", "--json"), ("--version",)], ids=" ".join
)
def test_an_output_that_cannot_be_written_is_a_sentence(command: tuple[str, ...]) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        process(*command, stdout=full.fileno()) as shows,
    ):
        _, errors = shows.communicate()
    assert shows.returncode == 1
    assert errors == b"agenthub: the output cannot be written: No space left on device\n"


# ------------------------------------------------------------------------------- what is broken

READING = [
    ("status",),
    ("inbox", "--all"),
    ("agents",),
    ("threads",),
    ("messages",),
    ("messages", "--text", "hello"),
    ("messages", "--dead"),
    ("messages", "--thread", "t1"),
    ("show", "old"),
]


def spoil(directory: Path) -> None:
    """All that may lie there and is no message."""
    for name, data in {
        "empty": b"",
        "half": b'{"id": "half", "from": "al',
        "binary": bytes(range(256)),
        "list": b"[1, 2]",
        "deep": b"[" * 100_000,
        "fields": b'{"id": 7, "agenthub": {"outcome": []}}',
        "outcome": codec.encode_message(message("outcome"))[:-2] + b', "agenthub": {}}',
    }.items():
        if directory.name == "archive" or name != "outcome":  # a sender may write that
            (directory / f"{name}.json").write_bytes(data)
    (directory / "directory.json").mkdir()
    (directory / "dangling.json").symlink_to("nowhere")
    os.mkfifo(directory / "pipe.json")


@pytest.mark.parametrize("place", ["messages", "messages/archive"])
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_broken_file_changes_nothing(
    history: FileSpool, command: tuple[str, ...], place: str
) -> None:
    before = said(*command)
    spoil(history.root / place)
    assert said(*command) == before


@pytest.mark.parametrize(
    "command", [*READING, ("send", "bob", "hi"), ("retry", "m1")], ids=" ".join
)
def test_a_directory_that_cannot_be_used_is_a_sentence(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "messages").write_text("in the way")
    done = agenthub(*command)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"agenthub: {tmp_path}/hub/messages cannot be written: File exists\n"


# ------------------------------------------------------------------------------------------ open


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no OpenCode server answers on port {port}: start the hub, which has one"),
        (["--agent", "bob"], "no OpenCode server answers on port {port}"),
        (["--agent", "boob"], "no agent is known as 'boob' (did you mean bob?)"),
        (["--agent", "polly"], "the agent polly has no session to open"),
    ],
)
def test_what_cannot_be_opened_is_a_sentence(
    team: FileSpool, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    port = free_port()
    monkeypatch.setenv("OPENCODE_PORT", str(port))
    team.register_agent(Agent(id="polly", last_seen=NOW))
    assert sentence.format(port=port) in refused("open", *arguments)


# ------------------------------------------------------------------------------------------ help

COMMANDS = [
    command
    for app in (main.app, writing.app, reading.app)
    for command in app.registered_commands
    if command.callback is not None
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.callback.__name__)
def test_every_command_is_listed_and_has_a_sentence_and_its_examples(command: Any) -> None:
    name = command.name or command.callback.__name__
    sentence = command.callback.__doc__.split("\n\n")[0]
    help_of_all = unframed(said("--help"))
    assert f" {name} {sentence}" in help_of_all

    help_of_one = unframed(said(name, "--help"))
    assert sentence in help_of_one
    assert unframed(command.epilog or "") in help_of_one


def examples(of: str) -> list[list[str]]:
    (epilog,) = [
        command.epilog
        for command in COMMANDS
        if command.callback is not None and command.callback.__name__ == of
    ]
    typed = re.findall(rf"agenthub ({of} .+?)(?: {{4}}| \| |\n)", epilog or "")
    return [shlex.split(arguments) for arguments in typed]


@pytest.mark.parametrize("example", [*examples("send"), *examples("messages")], ids=" ".join)
def test_the_examples_can_be_typed_as_they_stand(team: FileSpool, example: list[str]) -> None:
    with hub_that(team, lambda asked: answer(team, asked)):
        assert agenthub(*example, piped="a difference").exit_code == 0


# ----------------------------------------------------------------------------------------- speed

PATIENCE = 0.5  # seconds; 0.3 is meant, and the machines of tests are busy
TRIES = 5
ARCHIVED = 10_000


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A hub at work, with ten thousand messages in its archive."""
    root = tmp_path_factory.mktemp("years")
    spool = FileSpool(root, clock=SystemClock())
    spool.prepare()
    for number in range(20):
        spool.save_agent(builders.agent(f"agent-{number}", last_seen=NOW))
    for number in range(ARCHIVED):
        at = ago(seconds=30 * number)
        archived = message(
            f"message-{number}",
            sender=f"agent-{number % 20}",
            recipient=f"agent-{number % 19}" if number % 50 else HUMAN,
            content="The endpoint answers 401 on a wrong password, and 200 otherwise. " * 4,
            thread_id=f"thread-{number // 10}",
            timestamp=at,
            read=number > 100,
        )
        path = spool.archive / f"{archived.id}.json"
        outcome = Outcome.DELIVERED if number % 1000 else Outcome.EXPIRED
        settled = Settlement(key=path.name, message=archived, outcome=outcome, at=at)
        path.write_bytes(codec.encode_settlement(settled))
        os.utime(path, (at.timestamp(), at.timestamp()))
    with spool.claim():
        yield root


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("inbox", "--keep"),
        ("agents",),
        ("threads",),
        ("messages",),
        ("messages", "--text", "nowhere"),
        ("messages", "--dead"),
        ("messages", "--thread", "thread-500"),
        ("show", "message-5000"),
    ],
    ids=" ".join,
)
def test_with_ten_thousand_messages_every_look_is_a_glance(
    years: Path, command: Sequence[str]
) -> None:
    environment = os.environ | {"AGENT_HUB_DIR": str(years)}
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=PATIENCE) >= PATIENCE:
        begun = time.perf_counter()
        with process(*command, stdout=subprocess.DEVNULL, env=environment) as shows:
            assert b"agenthub:" not in shows.communicate()[1]
        assert shows.returncode == 0
        taken.append(time.perf_counter() - begun)
    assert min(taken) < PATIENCE
