"""The commands with which people and scripts write: send, send again, discard."""

from __future__ import annotations

import enum
import math
import sys
import time
from typing import Annotated

import typer

from agenthub_cli.person import Json, as_person, is_verified, prospect
from agenthub_cli.reporting import reporting
from agenthub_cli.settings import read_settings
from agenthub_core import (
    HUMAN,
    Entry,
    Gateway,
    InvalidSettings,
    Message,
    MessageType,
    Priority,
    Query,
    RequestRefused,
    Sent,
)
from agenthub_core.records import DEAD

app = typer.Typer(rich_markup_mode="markdown")

_LOOK = 1.0  # seconds between two looks at the store while nothing tells of a change


class Until(enum.Enum):
    """What `send --wait` waits for."""

    DELIVERED = "delivered"
    ANSWERED = "answered"


_SEND_EXAMPLES = """
Examples:

  agenthub send cosmic-panda "What does POST /login expect?" --wait answered

  git diff | agenthub send cosmic-panda - --type context

  agenthub send all "The API is frozen until noon" --priority urgent
"""


@app.command(epilog=_SEND_EXAMPLES)
def send(
    to: Annotated[str, typer.Argument(help="An agent's name, or all.", metavar="TO")],
    text: Annotated[
        str, typer.Argument(help="What to say; - reads it from a pipe.", metavar="TEXT")
    ],
    *,
    sender: Annotated[str, typer.Option("--from", help="In whose name.")] = HUMAN,
    kind: Annotated[MessageType, typer.Option("--type", help="What it is.")] = MessageType.TASK,
    priority: Annotated[Priority, typer.Option(help="How soon it goes out.")] = Priority.NORMAL,
    thread: Annotated[
        str | None, typer.Option(help="The thread that it belongs to; else it begins one.")
    ] = None,
    wait: Annotated[
        Until | None, typer.Option(help="Return when it was delivered, or answered.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait at most.", metavar="SECONDS")
    ] = 600,
    json: Json = False,
) -> None:
    """Write to an agent."""
    from agenthub_cli import display

    with reporting(recipient="TO", content="TEXT", sender="--from", thread_id="--thread"):
        if math.isnan(timeout):
            raise InvalidSettings("--timeout: found nan, expected a number of seconds")
        gateway = as_person(sender)
        known = thread is None or _is_known(gateway, thread)
        sent = gateway.send(
            sender=sender,
            recipient=to,
            type=kind,
            content=_piped() if text == "-" else text,
            priority=priority,
            thread_id=thread,
            verified=is_verified(sender),
        )
        answer = None
        try:
            if not json:
                said = f"Sent {sent.message.id} to {to}. {prospect(sent)}"
                display.say(said, err=wait is not None)
            if not json and not known:
                display.say(f"No thread {thread} is known: it begins with this message.", err=True)
            if wait is not None:
                answer = _wait(gateway, sent.message, wait, timeout, quietly=json)
        except KeyboardInterrupt:
            if wait is not None:
                _say_why(gateway, sent.message, wait)
            raise
        finally:  # who waits in vain needs the id all the more
            if json:
                display.as_json(_sent_object(sent, answer))
        if answer is not None and not json:
            display.message(answer)


def _is_known(gateway: Gateway, thread_id: str) -> bool:
    return next(gateway.records.find(Query(thread_id=thread_id)), None) is not None


def _piped() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise RequestRefused("what comes from the pipe is no text in UTF-8") from error


def _sent_object(sent: Sent, answer: Message | None = None) -> dict[str, object]:
    from agenthub_adapters import codec

    return {
        "messageId": sent.message.id,
        "threadId": sent.message.thread_id,
        "presence": sent.presence.value,
        "hubRunning": sent.attended,
        "didYouMean": list(sent.nearest),
    } | ({} if answer is None else {"answer": codec.message_object(answer)})


def _wait(
    gateway: Gateway, message: Message, until: Until, timeout: float, *, quietly: bool
) -> Message | None:
    """Wait for the message's end, or for the answer. Raises `RequestRefused` where none comes."""
    from agenthub_cli import display
    from agenthub_cli.compose import changes

    began = time.monotonic()
    deadline = began + timeout
    told = quietly
    with changes(read_settings()) as change:
        while True:
            entry = _first_life(gateway, message)
            if entry is None:
                raise RequestRefused(_REMOVED)
            if entry.outcome in DEAD and entry.settlement is not None:
                raise RequestRefused(f"it was not delivered ({entry.state}): {_reason(entry)}")
            if until is Until.DELIVERED and entry.settlement is not None:
                if not quietly:
                    display.say("Delivered.", err=True)
                return None
            if until is Until.ANSWERED and (answer := _answer(gateway, message)) is not None:
                return answer
            left = deadline - time.monotonic()
            if left <= 0:
                raise RequestRefused(
                    f"it was not {until.value} within {timeout:g} s: {_why(entry)}"
                )
            if entry.settlement is not None and not told:
                told = True
                display.say("Delivered. Waiting for the answer; Ctrl-C ends only that.", err=True)
            if until is Until.DELIVERED and time.monotonic() - began >= _LOOK and not told:
                told = True
                display.say("Waiting until it is delivered; Ctrl-C ends only that.", err=True)
            change(min(left, _LOOK))


_REMOVED = "somebody has removed it from the spool"


def _first_life(gateway: Gateway, message: Message) -> Entry | None:
    """What was sent, and not what came after: somebody may have sent a dead letter again."""
    return next(iter(gateway.records.trace(message.id)), None)


def _say_why(gateway: Gateway, message: Message, until: Until) -> None:
    """Tell somebody who waits no longer what has become of it."""
    from agenthub_cli import display

    entry = _first_life(gateway, message)
    why = _REMOVED if entry is None else _why(entry)
    if sys.stderr.isatty():
        display.say(err=True)  # below the terminal's own ^C
    display.say(f"agenthub: it was not {until.value} yet: {why}", err=True)


def _why(entry: Entry) -> str:
    """Where a message is of which no more is known."""
    if entry.waits:
        return f"it still waits; agenthub discard {entry.message.id} takes it back"
    holders = _holders(entry)
    if not holders:
        return "nobody was here to receive it"
    if len(holders) == 1:
        its = "may have answered in its own session instead of with its tool"
        return f"{holders[0]} holds it, and {its}"
    *others, last = holders
    theirs = "may have answered in their own sessions instead of with their tools"
    return f"{', '.join(others)} and {last} hold it, and {theirs}"


def _holders(entry: Entry) -> list[str]:
    """Who holds a message that does not wait any more."""
    if not entry.message.is_broadcast:
        return [entry.message.recipient]
    deliveries = entry.settlement.deliveries if entry.settlement else ()
    return [each.recipient for each in deliveries if each.held_at is not None]


def _answer(gateway: Gateway, message: Message) -> Message | None:
    """The first answer, which counts as read now."""
    query = Query(recipient=message.sender, since=message.timestamp)
    found = [each for each in gateway.records.find(query) if each.message.id != message.id]
    answers = [each for each in found if each.message.thread_id == message.thread_id] or [
        each for each in found if _answers_elsewhere(each.message, message)
    ]
    if not answers:
        return None
    answer = min(answers, key=lambda entry: entry.message.timestamp)
    gateway.records.mark_read([answer])
    return answer.message


def _answers_elsewhere(written: Message, asked: Message) -> bool:
    """Whether it is from the very agent that was asked, in a thread of its own.

    A model may leave out the thread when it answers; what it says in a thread that others began is
    theirs. After a broadcast nobody can tell.
    """
    return written.sender == asked.recipient and written.thread_id == written.id


def _reason(entry: Entry) -> str:
    return "" if entry.settlement is None else entry.settlement.reason


@app.command()
def retry(
    message: Annotated[
        str, typer.Argument(help="A dead letter's id, or its beginning.", metavar="ID")
    ],
    json: Json = False,
) -> None:
    """Send a dead letter again, as if it were written now."""
    from agenthub_cli import display

    with reporting():
        again = as_person().retry(message)
        if json:
            display.as_json([_sent_object(sent) for sent in again])
            return
        for sent in again:
            again_to = f"{sent.message.id} again to {sent.message.recipient}"
            display.say(f"Sent {again_to}. {prospect(sent)}")


@app.command()
def discard(
    message: Annotated[str, typer.Argument(help="A message's id, or its beginning.", metavar="ID")],
    json: Json = False,
) -> None:
    """Take back a message that waits, or have done with a dead letter.

    A dead letter stays in the archive, but is counted no more. What is being delivered at this
    moment still arrives.
    """
    from agenthub_cli import display

    with reporting():
        ended = as_person().discard(message)
        if json:
            display.as_json([display.entry_object(entry) for entry in ended])
            return
        for entry in ended:
            which = f"{entry.message.id} to {entry.message.recipient}"
            if entry.settlement is None:
                display.say(f"Took back {which}; it counts as read.")
            else:
                display.say(f"Done with {which}.")
