"""The daemon, with a point at which it kills itself: `python crashing.py POINT daemon …`.

SIGKILL from within, at an exact place between reading a message and settling it: what an outsider's
kill hits only by luck. Nothing of the daemon is replaced; at one call the process ends.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from agenthub_adapters import files
from agenthub_adapters.archive import Archive
from agenthub_adapters.files import DurableFiles
from agenthub_adapters.opencode import OpenCodeRelay
from agenthub_adapters.opencode_api import OpenCodeApi
from agenthub_adapters.spool import FileSpool
from agenthub_cli.main import app
from agenthub_core import Broker, Message
from agenthub_core.protocol import Injected, MessageArrived

Condition = Callable[[tuple[Any, ...], Any], bool]


def _always(_: tuple[Any, ...], __: Any) -> bool:
    return True


def _a_message(_: tuple[Any, ...], result: Any) -> bool:
    return isinstance(result, Message)


def _of(kind: type) -> Condition:
    return lambda arguments, _: isinstance(arguments[1], kind)


def _in_archive(arguments: tuple[Any, ...], _: Any) -> bool:
    return bool(arguments[0].name == "archive")


BEFORE, AFTER = "before", "after"

POINTS: dict[str, tuple[Any, str, str, Condition]] = {
    "the message is read": (FileSpool, "read", AFTER, _a_message),
    "the broker knows it": (Broker, "handle", AFTER, _of(MessageArrived)),
    "its recipient is half saved": (DurableFiles, "replace", AFTER, _always),
    "the session was looked at": (OpenCodeApi, "prompt", BEFORE, _always),
    "the prompt is accepted": (OpenCodeApi, "prompt", AFTER, _always),
    "the receipt is here": (OpenCodeRelay, "inject", AFTER, _always),
    "the broker knows that it is held": (Broker, "handle", AFTER, _of(Injected)),
    "it is about to be settled": (FileSpool, "settle", BEFORE, _always),
    "the archive's file is about to be written": (Archive, "add", BEFORE, _always),
    "the archive's file is there": (Archive, "add", AFTER, _always),
    "the archive is synced": (files, "sync_directory", AFTER, _in_archive),
    "it is settled": (FileSpool, "settle", AFTER, _always),
}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Let the process end at this point."""
    owner, name, when, condition = POINTS[point]
    original = getattr(owner, name)

    @functools.wraps(original)
    def armed(*arguments: Any, **keywords: Any) -> Any:
        if when == BEFORE and condition(arguments, None):
            _die()
        result = original(*arguments, **keywords)
        if when == AFTER and condition(arguments, result):
            _die()
        return result

    setattr(owner, name, armed)


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    app()
