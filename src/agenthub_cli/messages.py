"""The commands for people and scripts: write, read, look up, send again."""

from __future__ import annotations

import enum
import math
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer

from agenthub_cli.reporting import reporting
from agenthub_cli.settings import read_settings
from agenthub_core import (
    HUMAN,
    Entry,
    Gateway,
    InvalidSettings,
    Message,
    MessageType,
    Outcome,
    Presence,
    Priority,
    Query,
    RequestRefused,
    Sent,
)
from agenthub_core.gateway import DEAD
from agenthub_core.model import RESERVED, shown

app = typer.Typer(rich_markup_mode="markdown")

_SCANNED = 1000
"""Messages that a list of threads is made of: the newest; more would take longer than a glance."""

_LOOK = 1.0  # seconds between two looks at the store while nothing tells of a change


class Until(enum.Enum):
    """What `send --wait` waits for."""

    DELIVERED = "delivered"
    ANSWERED = "answered"


class State(enum.Enum):
    """Where a message stands, as a filter."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    READ = "read"
    EXPIRED = "expired"
    REJECTED = "rejected"
    RATE_LIMITED = "rate-limited"


def _open(sender: str = HUMAN) -> Gateway:
    """The hub as a person meets it: under any name that is not the hub's own."""
    from agenthub_cli.compose import gateway  # --help needs none of it

    return gateway(read_settings(), acting_as={sender} - (RESERVED - {HUMAN}))


Json = Annotated[bool, typer.Option("--json", help="For scripts.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")]


def _span(text: str) -> datetime:
    """`30m`, `2h`, `7d`, or a time such as 2026-01-31T12:00."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if found:
        units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
        passed = timedelta(**{units[found[2]]: int(found[1])})
    try:
        when = datetime.now(UTC) - passed if found else datetime.fromisoformat(text)
        return when if when.tzinfo else when.astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"found {shown(text)}, expected a time such as 30m, 2h, 7d or 2026-01-31T12:00"
        ) from None


Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=_span, metavar="<time>", help="30m, 2h, 7d, or a date."),
]

# ---------------------------------------------------------------------------------------- send

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

    with reporting():
        if math.isnan(timeout):
            raise InvalidSettings("--timeout: found nan, expected a number of seconds")
        gateway = _open(sender)
        sent = gateway.send(
            sender=sender,
            recipient=to,
            type=kind,
            content=_piped() if text == "-" else text,
            priority=priority,
            thread_id=thread,
        )
        answer = None
        if not json:
            display.say(f"Sent {sent.message.id} to {to}. {_prospect(sent)}", err=wait is not None)
        if wait is not None:
            answer = _wait(gateway, sent.message, wait, timeout)
        if json:
            display.as_json(_sent_object(sent, answer))
        elif answer is not None:
            _read_out(answer)


def _piped() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise RequestRefused("what comes from the pipe is no text in UTF-8") from error


def _prospect(sent: Sent) -> str:
    """What will happen to the message, in a sentence for a person."""
    to = sent.message.recipient
    perhaps = f" Did you mean {' or '.join(sent.nearest)}?" if sent.nearest else ""
    unknown = f"No {to} is known yet; it waits.{perhaps}"
    if to == HUMAN:
        return "It is read with: agenthub inbox"
    if not sent.attended:
        waits = unknown if sent.presence is Presence.UNKNOWN else "It waits."
        return f"{waits} No hub is running: agenthub daemon"
    if sent.message.is_broadcast:
        return f"It goes to: {', '.join(sent.reached)}." if sent.reached else "Nobody is here."
    match sent.presence:
        case Presence.HERE:
            return f"{to} is here."
        case Presence.AWAY:
            return f"{to} is away; it waits."
        case Presence.UNKNOWN:
            return unknown


def _sent_object(sent: Sent, answer: Message | None = None) -> dict[str, object]:
    from agenthub_adapters import codec

    return {
        "messageId": sent.message.id,
        "threadId": sent.message.thread_id,
        "presence": sent.presence.value,
        "hubRunning": sent.attended,
        "didYouMean": list(sent.nearest),
    } | ({} if answer is None else {"answer": codec.message_object(answer)})


def _wait(gateway: Gateway, message: Message, until: Until, timeout: float) -> Message | None:
    """Wait for the message's end, or for the answer. Raises `RequestRefused` where none comes."""
    from agenthub_cli import display
    from agenthub_cli.compose import changes

    deadline = time.monotonic() + timeout
    with changes(read_settings()) as change:
        while True:
            # the first of its lives: somebody may have sent a dead letter again already
            entry = next(iter(gateway.trace(message.id)), None)
            if entry is None:
                raise RequestRefused("somebody has removed it from the spool")
            if entry.outcome in DEAD and entry.settlement is not None:
                raise RequestRefused(f"it was not delivered ({entry.state}): {_reason(entry)}")
            if until is Until.DELIVERED and entry.settlement is not None:
                display.say("Delivered.", err=True)
                return None
            if until is Until.ANSWERED and (answer := _answer(gateway, message)) is not None:
                return answer
            left = deadline - time.monotonic()
            if left <= 0:
                raise RequestRefused(
                    f"it was not {until.value} within {timeout:g} s; it stands at: {entry.state}"
                )
            change(min(left, _LOOK))


def _answer(gateway: Gateway, message: Message) -> Message | None:
    """The first answer, which counts as read now."""
    query = Query(thread_id=message.thread_id, recipient=message.sender, since=message.timestamp)
    answers = [entry for entry in gateway.find(query) if entry.message.id != message.id]
    if not answers:
        return None
    answer = min(answers, key=lambda entry: entry.message.timestamp)
    gateway.mark_read([answer])
    return answer.message


def _reason(entry: Entry) -> str:
    return "" if entry.settlement is None else entry.settlement.reason


# --------------------------------------------------------------------------------------- inbox


@app.command()
def inbox(
    everything: Annotated[bool, typer.Option("--all", help="Also what was read before.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave them unread.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="With --all: so many read before.")
    ] = 20,
    json: Json = False,
) -> None:
    """Read what agents wrote to you, the human."""
    from agenthub_adapters import codec
    from agenthub_cli import display

    with reporting():
        gateway = _open()
        messages = gateway.mail(HUMAN, mark_read=not keep)
        if everything:
            new = {message.digest for message in messages}
            found = (entry.message for entry in gateway.find(Query(recipient=HUMAN)))
            before = islice((message for message in found if message.digest not in new), limit)
            messages = sorted([*before, *messages], key=lambda message: message.timestamp)
        if json:
            display.as_json([codec.message_object(message) for message in messages])
            return
        for message in messages:
            _read_out(message)
        if not messages and everything:
            display.say("Nobody has written to you yet.")
        elif not messages:
            display.say("Nothing new. agenthub inbox --all shows what you have read.")


def _read_out(message: Message) -> None:
    from agenthub_cli import display

    when = display.ago(message.timestamp, datetime.now(UTC))
    display.block(
        f"{message.sender} · {message.type.value} · {when} · thread {message.thread_id}",
        message.content,
    )


# --------------------------------------------------------------------------------------- lists


@app.command()
def agents(
    here: Annotated[bool, typer.Option("--here", help="Only those that a message wakes.")] = False,
    json: Json = False,
) -> None:
    """See who is known, and who is here."""
    from agenthub_cli import display

    with reporting():
        present = [each for each in _open().agents() if not here or each.presence is Presence.HERE]
        if json:
            display.as_json([display.agent_object(each) for each in present])
        elif not present and here:
            display.say("Nobody is here. agenthub agents shows who is known.")
        elif not present:
            display.say("No agents yet. Each OpenCode session becomes one while the hub runs.")
        else:
            now = datetime.now(UTC)
            rows = (
                (
                    each.agent.id,
                    each.presence.value,
                    display.age(each.agent.last_seen, now),
                    each.agent.directory,
                    each.agent.role,
                )
                for each in present
            )
            display.table(("AGENT", "STATE", "SEEN", "DIRECTORY", "ROLE"), rows)


@app.command()
def threads(
    agent: Annotated[str | None, typer.Option(help="With this agent in them.")] = None,
    since: Since = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """See the conversations, the latest first."""
    from agenthub_cli import display

    with reporting():
        every = _open().threads(Query(agent=agent), among=_SCANNED)
        # not by the query: half a thread does not tell whether it is resolved
        found = [each for each in every if since is None or each.updated >= since][:limit]
        if json:
            display.as_json([display.thread_object(thread) for thread in found])
        elif not found:
            display.say("No conversations.")
        else:
            now = datetime.now(UTC)
            rows = (
                (
                    thread.id,
                    thread.status.value,
                    str(thread.messages),
                    display.age(thread.updated, now),
                    ", ".join(thread.participants),
                )
                for thread in found
            )
            display.table(("THREAD", "STATE", "MESSAGES", "AGE", "WHO"), rows)


_MESSAGES_EXAMPLES = """
Examples:

  agenthub messages --agent cosmic-panda --since 2h

  agenthub messages --text login --json | jq -r '.[].content'

  agenthub messages --dead    what did not arrive: agenthub retry ID
"""


@app.command(epilog=_MESSAGES_EXAMPLES)
def messages(
    *,
    agent: Annotated[str | None, typer.Option(help="It wrote them or was written to.")] = None,
    sender: Annotated[str | None, typer.Option("--from", help="It wrote them.")] = None,
    to: Annotated[str | None, typer.Option(help="It was written to.")] = None,
    thread: Annotated[str | None, typer.Option(help="They belong to this thread.")] = None,
    kind: Annotated[MessageType | None, typer.Option("--type", help="What they are.")] = None,
    state: Annotated[State | None, typer.Option(help="Where they stand.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Those that did not arrive.")] = False,
    text: Annotated[str, typer.Option(help="It stands in them.")] = "",
    since: Since = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """See the messages: those that wait, then the settled ones, the latest first."""
    from agenthub_cli import display

    with reporting():
        if dead and state is not None:
            raise InvalidSettings("--dead and --state exclude each other")
        query = Query(
            agent=agent,
            sender=sender,
            recipient=to,
            thread_id=thread,
            type=kind,
            outcomes=DEAD if dead else _outcomes(state),
            unread=dead,  # one that was sent again is of no interest any more
            text=text,
            since=since,
        )
        found = list(islice(_in_state(_open().find(query), state), limit))
        if json:
            display.as_json([display.entry_object(entry) for entry in found])
        elif not found:
            display.say("No such messages.")
        else:
            display.table(("MESSAGE", "AGE", "FROM", "TO", "STATE", "TEXT"), map(_row, found))


def _outcomes(state: State | None) -> frozenset[Outcome] | None:
    if state is None or state is State.WAITING:
        return None
    return frozenset({Outcome(state.value)})


def _in_state(entries: Iterator[Entry], state: State | None) -> Iterator[Entry]:
    for entry in entries:
        if state is State.WAITING and entry.settlement is not None:
            return  # those that wait come first
        yield entry


def _row(entry: Entry) -> tuple[str, ...]:
    from agenthub_cli import display

    message = entry.message
    return (
        message.id,
        display.age(message.timestamp, datetime.now(UTC)),
        message.sender,
        message.recipient,
        entry.state,
        message.content,
    )


# ------------------------------------------------------------------------------- one message


@app.command()
def show(
    message: Annotated[str, typer.Argument(help="Its id.", metavar="ID")], json: Json = False
) -> None:
    """See all that is known of a message."""
    from agenthub_cli import display

    with reporting():
        entries = _open().trace(message)
        if not entries:
            raise RequestRefused(f"there is no message {message}: agenthub messages lists them")
        if json:
            display.as_json([display.entry_object(entry) for entry in entries])
            return
        for entry in entries:
            _show(entry)


def _show(entry: Entry) -> None:
    from agenthub_cli import display

    message = entry.message
    display.block(
        f"{message.sender} → {message.recipient} · {message.type.value} · {entry.state}",
        message.content,
    )
    facts = [
        ("message", message.id),
        ("thread", message.thread_id),
        ("priority", message.priority.value),
        ("written", _exactly(message.timestamp)),
    ]
    if entry.settlement is not None:
        facts.append(("settled", _exactly(entry.settlement.at)))
        if entry.settlement.reason:
            facts.append(("reason", entry.settlement.reason))
        for delivery in entry.settlement.deliveries:
            held = f"not held: {delivery.reason}"
            if delivery.held_at is not None:
                by = f" by session {delivery.session_id}" if delivery.session_id else ""
                held = f"held {_exactly(delivery.held_at)}{by}"
            facts.append((delivery.recipient, held))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        display.say(f"  {name:<{width}}  {value}")
    display.say()


def _exactly(when: datetime) -> str:
    return when.astimezone().isoformat(" ", "milliseconds")


@app.command()
def retry(
    message: Annotated[str, typer.Argument(help="A dead letter's id.", metavar="ID")],
    json: Json = False,
) -> None:
    """Send a dead letter again, as if it were written now."""
    from agenthub_cli import display

    with reporting():
        again = _open().retry(message)
        if json:
            display.as_json([_sent_object(sent) for sent in again])
            return
        for sent in again:
            display.say(f"Sent {message} again to {sent.message.recipient}. {_prospect(sent)}")


# -------------------------------------------------------------------------------------- status


def _oldest(when: datetime | None) -> str:
    from agenthub_cli import display

    return "" if when is None else f", the oldest written {display.ago(when, datetime.now(UTC))}"


@app.command()
def status(json: Json = False) -> None:
    """See the hub at a glance."""
    from agenthub_cli import display

    with reporting():
        at_a_glance = _open().status()
        dead, unread = at_a_glance.dead, at_a_glance.unread
        here = [each.agent.id for each in at_a_glance.agents if each.presence is Presence.HERE]
        if json:
            display.as_json(
                {
                    "running": at_a_glance.attended,
                    "agentsHere": here,
                    "agentsKnown": len(at_a_glance.agents),
                    "messagesWaiting": at_a_glance.waiting,
                    "deadLettersLastDay": dead,
                    "inboxUnread": unread,
                }
            )
            return
        known = len(at_a_glance.agents)
        for name, value in {
            "hub": "running" if at_a_glance.attended else "not running: agenthub daemon",
            "agents": f"{len(here)} here, {known - len(here)} away",
            "waiting": f"{at_a_glance.waiting}{_oldest(at_a_glance.oldest)}",
            "dead": f"{dead} in the last day" + ": agenthub messages --dead" * bool(dead),
            "inbox": f"{unread} new" + ": agenthub inbox" * bool(unread),
        }.items():
            display.say(f"{name:<10}{value}")
