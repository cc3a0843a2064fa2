"""How messages, threads and agents look on a terminal and as JSON.

Others' words are shown, never obeyed: no control character and no markup of theirs takes effect.
All that a command prints goes through here, for a terminal of old lacks letters, our own too.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import typer
from rich.cells import cell_len, set_cell_size

from agenthub_adapters import codec
from agenthub_cli.log import one_line
from agenthub_core import AgentHubError, Entry, Message, Present, Thread

_COLOURS = {
    "waiting": typer.colors.YELLOW,
    "delivered": typer.colors.GREEN,
    "read": typer.colors.GREEN,
    "expired": typer.colors.RED,
    "rejected": typer.colors.RED,
    "rate-limited": typer.colors.RED,
    "here": typer.colors.GREEN,
    "away": typer.colors.BRIGHT_BLACK,
    "open": typer.colors.YELLOW,
    "resolved": typer.colors.GREEN,
}

JsonObject = dict[str, Any]


class OutputUnwritable(AgentHubError):
    """What was to be printed cannot be: the disk is full."""


def say(text: str = "", *, colour: str | None = None, err: bool = False) -> None:
    """A line for the person at the terminal; `err` keeps it out of what a script reads."""
    _print(_coloured(_shown(text, sys.stderr if err else sys.stdout), colour), err=err)


def verdict(well: bool, text: str) -> None:
    """A line that begins with whether it is well."""
    mark, colour = ("✓", typer.colors.GREEN) if well else ("✗", typer.colors.RED)
    _print(f"{_coloured(_shown(mark), colour)} {_shown(text)}")


def as_json(value: object) -> None:
    """One JSON document on standard output, for scripts."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # a terminal of old, or a lone surrogate in what a sender added
        text = json.dumps(value, indent=2)
    _write(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under their headings, a line each; on a terminal they are cut off to fit."""
    lines = [list(columns), *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        widths = _fitted(widths, shutil.get_terminal_size().columns - _GAP * (len(widths) - 1))
    for number, line in enumerate(lines):
        fitted = [_fit(cell, width) for cell, width in zip(line, widths, strict=True)]
        while not fitted[-1].strip():
            fitted.pop()
        fitted[-1] = fitted[-1].rstrip()
        styled = [
            typer.style(cell, fg=_COLOURS.get(cell.rstrip()), bold=not number or None)
            for cell in fitted
        ]
        _print((" " * _GAP).join(styled))


def _fitted(widths: Sequence[int], room: int) -> list[int]:
    """The first column is whole, for its names are what one copies; the widest other gives way."""
    first, *others = (min(width, room) for width in widths)
    while sum(others) > max(room - first, len(others)):
        others[others.index(max(others))] -= 1
    return [first, *others]


def _fit(text: str, width: int) -> str:
    if cell_len(text) > width:
        mark = _shown("…")
        text = set_cell_size(text, width - cell_len(mark)) + mark
    return set_cell_size(text, width)


_GAP = 2  # blanks between two columns


def message_id(text: str) -> str:
    """On a terminal the beginning of an id that nobody chose: enough to find the message by."""
    return text[:_ENOUGH] if sys.stdout.isatty() and _GENERATED.fullmatch(text) else text


_GENERATED = re.compile("[a-z0-9]{24}")
_ENOUGH = 8  # of 36 letters each: no two messages begin alike


def block(heading: str, content: str) -> None:
    """A message as it is read: who wrote when, and below it the words."""
    _print(typer.style(_shown(heading), bold=True))
    for line in content.splitlines():
        _print(f"  {_shown(line)}".rstrip())
    _print("")


def message(received: Message) -> None:
    """A message to the person at the terminal."""
    when = ago(received.timestamp, datetime.now(UTC))
    block(
        f"{sender(received)} · {received.type.value} · {when} · thread {received.thread_id}",
        received.content,
    )


def sender(written: Message) -> str:
    """Who wrote a message, or only says so."""
    return written.sender if written.verified else f"{written.sender} (unverified)"


def ago(when: datetime, now: datetime) -> str:
    """How long ago something was, as people say it."""
    passed = age(when, now)
    return "just now" if passed == _NOW else f"{passed} ago"


def age(when: datetime, now: datetime) -> str:
    """How long ago something was, as a column under AGE shows it."""
    passed = now - when
    for size, unit in _UNITS:
        if passed >= 2 * size:
            return f"{passed // size} {unit}"
    return _NOW


_NOW = "now"
_UNITS = (
    (timedelta(days=1), "days"),
    (timedelta(hours=1), "h"),
    (timedelta(minutes=1), "min"),
    (timedelta(seconds=1), "s"),
)


def entry_object(entry: Entry) -> JsonObject:
    """A message as it lies in the store, with its state."""
    if entry.settlement is None:
        return codec.message_object(entry.message) | {"state": entry.state}
    return codec.settlement_object(entry.settlement) | {"state": entry.state}


def agent_object(each: Present) -> JsonObject:
    agent = each.agent
    return {
        "id": agent.id,
        "presence": each.presence.value,
        "projectPath": agent.directory,
        "role": agent.role,
        "capabilities": list(agent.capabilities),
        "collaboratesWith": list(agent.collaborates_with),
        "sessionId": agent.session_id,
        "lastSeen": codec.to_milliseconds(agent.last_seen),
    }


def thread_object(thread: Thread) -> JsonObject:
    return {
        "threadId": thread.id,
        "status": thread.status.value,
        "creator": thread.creator,
        "participants": list(thread.participants),
        "messages": thread.messages,
        "started": codec.to_milliseconds(thread.started),
        "updated": codec.to_milliseconds(thread.updated),
    }


def _shown(text: str, stream: TextIO | None = None) -> str:
    """On one line, in letters that the stream has."""
    encoding = (stream or sys.stdout).encoding or "utf-8"
    return one_line(text.expandtabs()).encode(encoding, _PLAINLY).decode(encoding)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in lacking), error.end


_PLAIN = {"✓": "ok", "✗": "no", "→": "->", "…": "...", "·": "-"}  # what the hub itself says
_PLAINLY = "agenthub.plainly"
codecs.register_error(_PLAINLY, _plainly)


def _coloured(text: str, colour: str | None) -> str:
    return typer.style(text, fg=colour) if colour else text


def _print(line: str, *, err: bool = False) -> None:
    _write(line, err=err)


def _write(text: str, *, err: bool = False) -> None:
    """Raises `OutputUnwritable`."""
    try:
        typer.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)
    except BrokenPipeError:  # nobody reads any more, at which typer ends without a word
        raise
    except OSError as error:
        _drop_what_is_left(sys.stderr if err else sys.stdout)
        raise OutputUnwritable(f"the output cannot be written: {error.strerror}") from error


def _drop_what_is_left(stream: TextIO) -> None:
    """Python would try to write it again at its end, and fail with a status of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
