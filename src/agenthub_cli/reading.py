"""The commands with which people and scripts read and look things up."""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer

from agenthub_cli.person import Json, as_person, prospect
from agenthub_cli.reporting import reporting
from agenthub_core import (
    HUMAN,
    Entry,
    Gateway,
    InvalidSettings,
    MessageType,
    Outcome,
    Presence,
    Query,
)
from agenthub_core.model import RESERVED, shown
from agenthub_core.records import DEAD

app = typer.Typer(rich_markup_mode="markdown")

_SCANNED = 1000
"""Messages that a list of threads is made of: the newest; more would take longer than a glance."""


class State(enum.Enum):
    """Where a message stands, as a filter."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    READ = "read"
    EXPIRED = "expired"
    REJECTED = "rejected"
    RATE_LIMITED = "rate-limited"


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
        gateway = as_person()
        messages = gateway.mail(HUMAN, mark_read=not keep)
        if everything:
            new = {message.digest for message in messages}
            found = (entry.message for entry in gateway.records.find(Query(recipient=HUMAN)))
            before = islice((message for message in found if message.digest not in new), limit)
            messages = sorted([*before, *messages], key=lambda message: message.timestamp)
        if json:
            display.as_json([codec.message_object(message) for message in messages])
            return
        for message in messages:
            display.message(message)
        if not messages and everything:
            display.say("Nobody has written to you yet.")
        elif not messages:
            display.say("Nothing new. agenthub inbox --all shows what you have read.")


# --------------------------------------------------------------------------------------- lists


@app.command()
def agents(
    here: Annotated[bool, typer.Option("--here", help="Only those that a message wakes.")] = False,
    json: Json = False,
) -> None:
    """See who is known, and who is here."""
    from agenthub_cli import display

    with reporting():
        gateway = as_person()
        present = [each for each in gateway.agents() if not here or each.presence is Presence.HERE]
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
            if any(each.presence is Presence.HERE for each in present) and not gateway.attended():
                display.say("No hub is running, so nobody is woken: agenthub daemon", err=True)


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
        gateway = as_person()
        every = gateway.records.threads(Query(agent=agent), among=_SCANNED)
        # not by the query: half a thread does not tell whether it is resolved
        found = [each for each in every if since is None or each.updated >= since]
        more, found = len(found) > limit, found[:limit]
        _doubt(gateway, [agent], {name for each in every for name in each.participants})
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
            _say_if_there_is(more, limit)


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
        gateway = as_person()
        found = list(islice(_in_state(gateway.records.find(query), state), limit + 1))
        more, found = len(found) > limit, found[:limit]
        names = {name for each in found for name in (each.message.sender, each.message.recipient)}
        _doubt(gateway, [agent, sender, to], names)
        if json:
            display.as_json([display.entry_object(entry) for entry in found])
        elif not found and query == Query() and state is None:
            display.say("No messages yet.")
        elif not found:
            display.say("No such messages.")
        else:
            display.table(("MESSAGE", "AGE", "FROM", "TO", "STATE", "TEXT"), map(_row, found))
            _say_if_there_is(more, limit)


def _say_if_there_is(more: bool, limit: int) -> None:
    from agenthub_cli import display

    if more:
        display.say(f"There are more than these {limit}: see more with -n {10 * limit}", err=True)


def _outcomes(state: State | None) -> frozenset[Outcome] | None:
    if state is None or state is State.WAITING:
        return None
    return frozenset({Outcome(state.value)})


def _in_state(entries: Iterator[Entry], state: State | None) -> Iterator[Entry]:
    for entry in entries:
        if state is State.WAITING and entry.settlement is not None:
            return  # those that wait come first
        if state is not State.WAITING or entry.waits:
            yield entry


def _doubt(gateway: Gateway, names: Iterable[str | None], found: Collection[str]) -> None:
    """Tell of a name that nobody has: what was written to everyone is found under it, too."""
    from agenthub_cli import display

    for name in names:
        if name is None or name in found or name in RESERVED:
            continue
        if name not in {each.agent.id for each in gateway.agents()}:
            alike = gateway.alike(name)
            perhaps = f" Did you mean {' or '.join(alike)}?" if alike else ""
            display.say(f"No agent {name} is known.{perhaps}", err=True)


def _row(entry: Entry) -> tuple[str, ...]:
    from agenthub_cli import display

    message = entry.message
    return (
        display.message_id(message.id),
        display.age(message.timestamp, datetime.now(UTC)),
        display.sender(message),
        message.recipient,
        entry.state,
        message.content,
    )


# ------------------------------------------------------------------------------- one message


@app.command()
def show(
    message: Annotated[str, typer.Argument(help="Its id, or its beginning.", metavar="ID")],
    json: Json = False,
) -> None:
    """See all that is known of a message."""
    from agenthub_cli import display

    with reporting():
        gateway = as_person()
        entries = gateway.records.look_up(message)
        if json:
            display.as_json([display.entry_object(entry) for entry in entries])
            return
        for entry in entries:
            _show(entry, prospect(gateway.prospect(entry.message)) if entry.waits else "")


def _show(entry: Entry, fate: str) -> None:
    from agenthub_cli import display

    message = entry.message
    display.block(
        f"{display.sender(message)} → {message.recipient} · {message.type.value} · {entry.state}",
        message.content,
    )
    facts = [
        ("message", message.id),
        ("thread", message.thread_id),
        ("priority", message.priority.value),
        ("written", _exactly(message.timestamp)),
    ]
    if fate:
        facts.append(("waits", fate))
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


# -------------------------------------------------------------------------------------- status


def _oldest(when: datetime | None) -> str:
    from agenthub_cli import display

    return "" if when is None else f", the oldest written {display.ago(when, datetime.now(UTC))}"


@app.command()
def status(json: Json = False) -> None:
    """See the hub at a glance."""
    from agenthub_cli import display

    with reporting():
        at_a_glance = as_person().status()
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
