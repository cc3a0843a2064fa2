"""What the core needs from the world. Whoever writes an adapter needs no more than this page.

Each clause below has a test in `tests/contract`, which every adapter runs: subclass the contract of
your port, override its one fixture, and it runs on yours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from attrs import frozen

from agenthub_core.errors import RelayError
from agenthub_core.model import (
    Agent,
    Fault,
    Message,
    Prompt,
    Receipt,
    Session,
    SessionSpec,
    Settlement,
    Turn,
)
from agenthub_core.query import Query


@frozen(kw_only=True)
class Malformed:
    """What lies under a key will never be a message."""

    fault: Fault


@frozen(kw_only=True)
class Unreadable:
    """What lies under a key is not for the hub to touch; `reason` is a sentence's end."""

    reason: str


@frozen(kw_only=True)
class Unfinished:
    """Something lies under a key that may yet become a message: its writer is at work."""


Reading = Message | Malformed | Unreadable | Unfinished | None
"""What reading a key can bring; None where nothing lies there (any more)."""


class Clock(Protocol):
    """What time it is."""

    def now(self) -> datetime:
        """The present: aware, in UTC. Never earlier than what it said before, within a second."""
        ...


class MessageStore(Protocol):
    """Where messages wait until they are settled, and where settled ones can be found.

    A message that waits has a key, unique among those that wait and meaningless to the caller.
    All methods may be called from any thread; `settle` only from one at a time.
    Where the store itself fails, reading raises `StoreUnreadable` and writing `StoreUnwritable`.
    """

    def keys(self) -> Sequence[str]:
        """The keys of everything that waits, in no order; of what was settled, none."""
        ...

    def read(self, key: str) -> Reading:
        """What waits under a key. Reading changes nothing, and may be repeated.

        Missing `threadId`, `timestamp`, `priority` and `id` are filled in, the same way each time.
        Bad input is a value, never an exception. What did not come through `put` is not `verified`,
        whatever it says of itself; what was is so once settled, too, and to whoever reads it.
        """
        ...

    def put(self, message: Message) -> str:
        """Let a message wait; its key. When this returns it survives a crash and a power loss.

        Its time is kept to the millisecond. Putting the same message twice leaves one, which is
        `verified` if either was. Raises `InvalidValue` for one that could not be read again: what
        its sender added is too much.
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """End the lives of messages that wait, in order.

        Each is in the archive, with its outcome and all that its sender wrote, before it stops
        waiting: whatever happens in between, it is never in neither. Settling again what is in the
        archive keeps the first outcome, and notes if it was read by now. What was written under
        the key since it was read is another message, and goes on waiting.
        """
        ...

    def quarantine(self, key: str, fault: Fault) -> None:
        """Put aside, byte for byte and with the fault beside it, what will never be a message.

        Nothing happens where nothing waits under the key, or by now a message does.
        """
        ...

    def settled(self, message_id: str) -> Sequence[Settlement]:
        """The settled messages with this id, oldest first; empty where there are none."""
        ...

    def history(self, *queries: Query) -> Iterator[Settlement]:
        """The settled messages that any of the queries accepts, one by one, last settled first.

        What cannot be read is left out; what is settled meanwhile may be.
        """
        ...

    def mark_read(self, key: str, message: Message) -> None:
        """Note that its recipient has read the message that waits under the key, or was settled.

        All else that is kept of it stays. Nothing happens where it is neither.
        """
        ...

    def claimed(self) -> bool:
        """Whether a hub is at work on this store, so that what waits will be delivered."""
        ...

    def began(self, now: datetime) -> datetime:
        """When a hub first began on this store: `now`, to the millisecond, if none has yet.

        The answer stays the same ever after, until `begin_anew`.
        """
        ...

    def oriented(self) -> Collection[str]:
        """The sessions that were told who they are, in no order."""
        ...

    def save_oriented(self, session_id: str, at: datetime) -> None:
        """Keep that a session was told who it is; twice is once."""
        ...

    def introduced(self) -> Mapping[str, Collection[str]]:
        """The agents that each session of the coordinator was told of."""
        ...

    def save_introduced(self, session_id: str, agent_id: str) -> None:
        """Keep that the coordinator in this session was told of an agent; twice is once."""
        ...

    def begin_anew(self, now: datetime) -> None:
        """Let it be as if a hub began `now`: agents are without sessions, none was told anything.

        The agents themselves, and all messages, stay.
        """
        ...

    def agents(self) -> Sequence[Agent]:
        """Every agent that was saved, as it was last saved, in no order.

        One is `named_by_session` from when it was saved, and not only registered.
        """
        ...

    def agent(self, agent_id: str) -> Agent | None:
        """One agent, as `agents` has it; None where there is none of that id."""
        ...

    def save_agent(self, agent: Agent) -> None:
        """Keep an agent's session and when it was seen, in place of what was saved under its id.

        What it says of itself, and what others added, is kept.
        """
        ...

    def register_agent(self, agent: Agent) -> None:
        """Keep what an agent says of itself: directory, role, capabilities, collaborators, program.

        And when it was seen. A session that it has stays its own, with its directory; what others
        added is kept.
        """
        ...


class SessionRelay(Protocol):
    """What can put a prompt into a session. All methods may be called from several threads.

    A method that fails raises one of `RelayError`'s children and nothing else; after
    `RelayUnreachable` it is unknown whether the relay did what it was asked.
    """

    def sessions(self, active: timedelta) -> Sequence[Session]:
        """The sessions of every project that were active within a while, latest first.

        Without subagents' and archived sessions.
        """
        ...

    def provide(self, spec: SessionSpec) -> Session:
        """A session that is as the hub wants it: the latest such there is, else a new one.

        It can use no tools but those named, and uses them unasked. Raises `ModelUnknown`; then
        nothing was done.
        """
        ...

    def inject(self, prompt: Prompt) -> Receipt:
        """See to it that the session holds the prompt, which wakes it.

        However often it is called with the same prompt id, the session holds the prompt once. For
        a `repeated` prompt that is held already, nothing is done if the session has moved on from
        it, or is busy; a turn that was abandoned is run again. The session keeps its own agent and
        model.

        A prompt that does not wake goes in only while the session is idle in every process and has
        an agent and a model of its own. No turn is run on it, now or later.

        Raises `SessionUnknown`; `SessionBusy` where another process is at work on the session, or a
        prompt that does not wake cannot go in, and then nothing was done; `PromptInvalid`;
        `PromptNotHeld`.
        """
        ...

    def inject_all(self, prompts: Sequence[Prompt]) -> tuple[Sequence[Receipt], RelayError | None]:
        """The same for several prompts to one session, in this order.

        The receipts of those that it holds, and what kept it from holding the next one, if
        anything did: those after it were not tried.
        """
        ...

    def turn(self, session_id: str) -> Turn:
        """What became of the newest prompt that the hub put into the session. Changes nothing.

        A turn that is just starting may look abandoned for a moment.
        """
        ...

    def resume(self, session_id: str, prompt_id: str) -> None:
        """Run the turn of a prompt that `turn` called abandoned. Does nothing to any other."""
        ...
