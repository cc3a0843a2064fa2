"""What the hub tells the person who runs it: a line each, for people or for machines."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from agenthub_core import Action, Event, Notify

_log = logging.getLogger("agenthub")


class _ForPeople(logging.Formatter):
    """Time, level and text. An exception follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        record.message = one_line(record.message)
        return super().formatMessage(record)


class _ForMachines(logging.Formatter):
    """One JSON object a line: time, level, topic, text, and the notice's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "topic": getattr(record, "topic", record.name),
            "text": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: int, *, machines: bool, stream: TextIO | None = None) -> None:
    """Send the log to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_ForMachines() if machines else _ForPeople())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "watchdog"):  # a line per request is no news to anybody
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


def one_line(text: str) -> str:
    """Without what would break the line or move the cursor: others' words may be in the text."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in _HARMLESS else ascii(character)[1:-1]
        for character in text
    )


_HARMLESS = "\N{NO-BREAK SPACE}\N{ZERO WIDTH JOINER}"  # what texts and emoji are made with


def observe(_: Event, actions: Sequence[Action]) -> None:
    """An `Observer` of the hub that logs its notices."""
    for action in actions:
        if isinstance(action, Notify):
            level = logging.getLevelNamesMapping()[action.severity.name]
            extra = {"topic": action.topic, "fields": dict(action.fields)}
            _log.log(level, "%s", action.text, extra=extra)
