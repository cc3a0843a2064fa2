"""Waiting for what another program will do, with a deadline.

Within one process an event or a condition variable is the way; looking again and again is for
what cannot notify us: a real OpenCode, a terminal's screen, a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# A turn takes 0.3 s, a start 1.5 s; a first turn with both cores busy was seen to take 6 s.
PATIENCE = 30.0
# Often enough that a test waits hardly longer than OpenCode does, and costs OpenCode little.
POLL = 0.03


def eventually(
    look: Callable[[], T], *, when: Callable[[T], object] = bool, timeout: float = PATIENCE
) -> T:
    """Look until `when` holds of what is seen (by default: until it is true), and return that."""
    deadline = time.monotonic() + timeout
    while not when(seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s; last seen: {seen}")
        time.sleep(POLL)
    return seen
