"""Every message that the store knows, whether it waits or was settled.

A message is for an instant in both places, and a retried one has several lives: here each is one
entry, once. Who may see what is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from attrs import evolve, frozen

from agenthub_core.errors import RequestRefused
from agenthub_core.model import Message, Outcome, Settlement, shown
from agenthub_core.ports import MessageStore
from agenthub_core.query import Query
from agenthub_core.threads import Thread, thread_of

DEAD = frozenset(outcome for outcome in Outcome if outcome.is_dead_letter)

_BEGINNING = 4
"""Characters that a message is found by: with fewer, a slip of the pen would find another one."""

_FEW = 5  # ids that a refusal names: enough to see which letters are missing


@frozen(kw_only=True)
class Entry:
    """A message and what became of it; without a settlement it waits."""

    key: str
    message: Message
    settlement: Settlement | None = None

    @property
    def outcome(self) -> Outcome | None:
        return None if self.settlement is None else self.settlement.outcome

    @property
    def waits(self) -> bool:
        """Whether it is yet to be delivered: what was read before it was settled is not."""
        return self.settlement is None and not self.message.read

    @property
    def state(self) -> str:
        """One word: `waiting`, or the name of the outcome that it has or will have."""
        return "waiting" if self.waits else (self.outcome or Outcome.READ).value

    @property
    def dead(self) -> bool:
        """Whether it did not reach everybody, and nobody has dealt with that."""
        return self.outcome in DEAD and not self.message.read

    def marked_read(self) -> Entry:
        """The same, once it is marked `read`."""
        read = evolve(self.message, read=True)
        settlement = self.settlement and evolve(self.settlement, message=read)
        return evolve(self, message=read, settlement=settlement)


class Records:
    """The messages of a store. One may be used from several threads."""

    def __init__(self, store: MessageStore) -> None:
        self._store = store

    def waiting(self) -> Iterator[Entry]:
        """What waits, in no order."""
        for key in self._store.keys():  # noqa: SIM118  # a port, no dictionary
            reading = self._store.read(key)
            if isinstance(reading, Message):
                yield Entry(key=key, message=reading)

    def settled(self, *queries: Query, but: Iterable[Entry]) -> Iterator[Entry]:
        """What any of the queries accepts, the last settled first.

        Without those that were found waiting just before.
        """
        found = {entry.message.digest for entry in but}
        for settlement in self._store.history(*queries):
            if not found or settlement.message.digest not in found:
                yield Entry(key=settlement.key, message=settlement.message, settlement=settlement)

    def find(self, query: Query) -> Iterator[Entry]:
        """The messages that the query accepts: those that wait, latest first, then the settled."""
        waiting = [entry for entry in self.waiting() if query.accepts(entry.message, entry.outcome)]
        yield from sorted(waiting, key=lambda entry: entry.message.timestamp, reverse=True)
        yield from self.settled(query, but=waiting)

    def trace(self, message_id: str) -> Sequence[Entry]:
        """All messages with this id, oldest first: a retried one has several lives."""
        waiting = [entry for entry in self.waiting() if entry.message.id == message_id]
        settled = [
            Entry(key=settlement.key, message=settlement.message, settlement=settlement)
            for settlement in self._store.settled(message_id)
        ]
        ended = {entry.message.digest for entry in settled}
        return settled + [entry for entry in waiting if entry.message.digest not in ended]

    def look_up(self, name: str) -> Sequence[Entry]:
        """The lives of the message with this id, or of the only one whose id begins so.

        A beginning has four characters or more. Oldest first. Raises `RequestRefused` where there
        is none, or there are several.
        """
        entries = self.trace(name)
        if entries:
            return entries
        if len(name) < _BEGINNING:
            raise RequestRefused(
                f"there is no message {shown(name)}, and a beginning of an id has {_BEGINNING} "
                "characters or more: agenthub messages lists them"
            )
        ids = sorted({entry.message.id for entry in self.find(Query(id_prefix=name))})
        if not ids:
            raise RequestRefused(f"there is no message {shown(name)}: agenthub messages lists them")
        if len(ids) > 1:
            raise RequestRefused(
                f"{len(ids)} messages begin with {shown(name)}: {', '.join(ids[:_FEW])}"
                + ", …" * (len(ids) > _FEW)
            )
        return self.trace(ids[0])

    def thread(self, thread_id: str) -> tuple[Thread, Sequence[Entry]]:
        """A conversation, oldest message first. Raises `RequestRefused` where there is none."""
        found = sorted(
            self.find(Query(thread_id=thread_id)), key=lambda entry: entry.message.timestamp
        )
        thread = thread_of(entry.message for entry in found)
        if thread is None:
            raise RequestRefused(f"there is no thread {shown(thread_id)}: look for its messages")
        return thread, found

    def threads(self, query: Query, *, among: int) -> Sequence[Thread]:
        """The conversations, latest first, of which the query accepts a message.

        Only the latest so many messages are looked at, and counted: a long thread may seem to
        begin later.
        """
        by_id: dict[str, list[Message]] = {}
        wanted: set[str] = set()
        for entry in islice(self.find(Query()), among):
            by_id.setdefault(entry.message.thread_id, []).append(entry.message)
            if query.accepts(entry.message, entry.outcome):
                wanted.add(entry.message.thread_id)
        threads = [thread for name in wanted if (thread := thread_of(by_id[name]))]
        return sorted(threads, key=lambda thread: thread.updated, reverse=True)

    def mark_read(self, entries: Iterable[Entry]) -> None:
        """Note that messages were read, so that they are not shown as new any more."""
        for entry in entries:
            self._store.mark_read(entry.key, entry.message)
