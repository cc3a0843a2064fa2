"""The quarantine: what will never be a message, byte for byte, and beside each file why.

    <name>           as its writer left it
    <name>.reason    the fault, in a line for a person

A person mends a file and moves it back, or deletes both.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from attrs import frozen

from agenthub_adapters import files
from agenthub_core import Fault
from agenthub_core.model import fingerprint

_REASON = ".reason"

_NAME_LENGTH = 240  # bytes of a file's name: below the usual limit of 255, with room for .reason


@frozen(kw_only=True)
class Quarantined:
    """A file that was no message, why, and since when it lies where it does no harm."""

    name: str
    reason: str
    at: datetime


class Quarantine:
    """The files in a directory, on the disk of those that it takes."""

    def __init__(self, directory: Path, durable: files.DurableFiles) -> None:
        self.directory = directory
        self._durable = durable

    def take(self, source: Path, fault: Fault) -> None:
        """Move a file here, if it is still there."""
        for target in self._places(source.name):
            try:
                os.link(source, target, follow_symlinks=False)
            except FileExistsError:
                if not os.path.samestat(source.stat(), target.stat()):
                    continue
            except FileNotFoundError:
                return
            break
        # it may take the place of one: who moved the file back left that behind
        self._durable.replace(_reason_of(target), f"{fault}\n".encode())
        source.unlink(missing_ok=True)

    def held(self) -> Sequence[Quarantined]:
        """What lies here, the latest first."""
        with files.reading(self.directory):
            paths = [path for path in self.directory.iterdir() if path.suffix != _REASON]
            found = [each for path in paths if (each := _quarantined(path)) is not None]
        return sorted(found, key=lambda each: each.at, reverse=True)

    def _places(self, name: str) -> Iterator[Path]:
        if len(os.fsencode(name)) > _NAME_LENGTH:
            name = f"{fingerprint(ascii(name))}.json"
        yield self.directory / name
        for number in itertools.count(2):
            yield self.directory / f"{name.removesuffix('.json')}.{number}.json"


def _reason_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{_REASON}")


def _quarantined(path: Path) -> Quarantined | None:
    """None where somebody has removed it just now."""
    try:
        opened = files.read_regular(_reason_of(path))
    except files.NotRegular:  # none of ours
        opened = None
    if opened is not None:
        data, status = opened
        reason = data.decode("utf-8", "replace").strip()
        return Quarantined(name=path.name, reason=reason, at=files.file_time(status))
    try:
        at = files.file_time(path.lstat())
    except FileNotFoundError:
        return None
    return Quarantined(name=path.name, reason="nobody knows why", at=at)
