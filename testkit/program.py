"""A program under test, as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import AnyStr


@contextmanager
def watched(program: Popen[AnyStr]) -> Iterator[Popen[AnyStr]]:
    """Wait for its end, as Popen itself does; but not if the test has failed: then it is killed."""
    with program:
        try:
            yield program
        except BaseException:
            program.kill()
            raise
