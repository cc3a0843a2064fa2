"""The archive: settled messages, each in a file of its own with its outcome.

    <id>.json                     the first message of that id
    <id>-<digest>.json, .2.json   others that used it again

A record's file time is the time of its settlement, by which the archive is ordered. When a message
is settled, and what of it still waits, is the spool's business.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import evolve

from agenthub_adapters import codec, files
from agenthub_adapters.identity_key import IdentityKey
from agenthub_core import Message, Query, Settlement
from agenthub_core.model import is_identifier


class Archive:
    """The records in a directory."""

    def __init__(self, directory: Path, durable: files.DurableFiles, key: IdentityKey) -> None:
        self.directory = directory
        self._durable = durable
        self._key = key

    def settled(self, message_id: str) -> Sequence[Settlement]:
        if not is_identifier(message_id):
            return ()
        with files.reading(self.directory):
            paths = [self.directory / f"{message_id}.json"]
            paths += self.directory.glob(f"{message_id}-*.json")
            found = [record for path in paths if (record := self._record(path)) is not None]
        found = [record for record in found if record.message.id == message_id]
        return sorted(found, key=lambda record: record.at)

    def history(self, *queries: Query) -> Iterator[Settlement]:
        screens = [(query, codec.screen(query)) for query in queries]
        with files.reading(self.directory):
            key = self._key.read()
        for name in self._latest_first():
            try:
                data = files.content(f"{self.directory}/{name}")
            except OSError as error:
                raise files.unreadable(error, self.directory) from error
            if data is None:
                continue
            likely = [query for query, may_be_accepted in screens if may_be_accepted(data)]
            record = codec.decode_settlement(data, name=name, key=key) if likely else None
            if isinstance(record, Settlement) and any(
                query.accepts(record.message, record.outcome) for query in likely
            ):
                yield record

    def _latest_first(self) -> list[str]:
        """The names of the records."""
        dated = []
        with files.reading(self.directory), os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    if files.is_visible_json(entry.name):
                        dated.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        dated.sort(reverse=True)
        return [name for _, name in dated]

    def add(self, settlement: Settlement) -> None:
        """Keep a record, unless there is one of that message; then note if it was read by now."""
        data = codec.encode_settlement(settlement, self._key.read())
        for path in self._places(settlement.message):
            if self._durable.publish(path, data, at=files.nanoseconds(settlement.at)):
                return
            known = self._record(path)
            if known is not None and known.message.digest == settlement.message.digest:
                if settlement.message.read and not known.message.read:
                    self._mark(path, known)  # it was read while it was being settled
                return

    def _places(self, message: Message) -> Iterator[Path]:
        """The message's place, and others should its id have been used before."""
        yield self.directory / f"{message.id}.json"
        name = f"{message.id}-{message.digest[:12]}"
        yield self.directory / f"{name}.json"
        for number in itertools.count(2):
            yield self.directory / f"{name}.{number}.json"

    def mark_read(self, message: Message) -> None:
        """Note on its record, where it has one, that a message was read."""
        for path in self._places(message):
            record = self._record(path)
            if record is not None and record.message.digest == message.digest:
                self._mark(path, record)
                return
            if not os.path.lexists(path):
                return

    def _mark(self, path: Path, record: Settlement) -> None:
        read = evolve(record, message=evolve(record.message, read=True))
        data = codec.encode_settlement(read, self._key.read())
        self._durable.replace(path, data, at=path.stat().st_mtime_ns)

    def _record(self, path: Path) -> Settlement | None:
        data = files.content(path)
        if data is None:
            return None
        decoded = codec.decode_settlement(data, name=path.name, key=self._key.read())
        return decoded if isinstance(decoded, Settlement) else None
