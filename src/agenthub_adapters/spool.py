"""The `MessageStore` on files, under `~/.agent-hub`.

    agents/<id>.json           registered agents; others write here too
    messages/<name>.json       what waits; others write here, in place or by renaming
    messages/archive/<id>.json what was settled, with its outcome
    messages/malformed/<name>  what was no message, byte for byte, and <name>.reason
    session_agents.json        session -> agent
    oriented_sessions.json     sessions that were told who they are, and when
    introductions.json         the agents that each session of the coordinator was told of
    hub.json                   when a hub first began here
    identity.key               what the hub marks a message with whose sender it knows
    run/                       the sockets of the OpenCode processes in which sessions live
    tmp/                       files that are being written
    daemon.lock                held by the daemon that owns the spool

A message's key is the name of its file. Nothing that others wrote becomes a path but after it was
found to be an identifier. A file leaves `messages/` by `unlink` only: whoever watches that
directory with watchdog is held up for half a second by a file that is renamed out of it.

How the files look is the codec's business, how they are written that of `files`; what lies in the
archive and in quarantine has rooms of its own. Who is told about changes is the watcher's business.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import evolve

from agenthub_adapters import codec, files
from agenthub_adapters.archive import Archive
from agenthub_adapters.identity_key import IdentityKey
from agenthub_adapters.quarantine import Quarantine
from agenthub_core import (
    Agent,
    Clock,
    Fault,
    InvalidSettings,
    InvalidValue,
    Malformed,
    Message,
    Query,
    Reading,
    Settlement,
    StoreClaimed,
    StoreUnreadable,
    StoreUnwritable,
    Unfinished,
    Unreadable,
)
from agenthub_core.model import is_identifier

_GRACE = timedelta(seconds=2)
"""How long after its last change a file that is no message may yet become one: writers of a few
kilobytes take milliseconds, so 2 s is patient, and a person who looks for a fault finds it soon."""

_STALE = timedelta(hours=1)
"""After this a file in `tmp/` was left behind by a crash; no writer takes that long."""

_LOCK_PAUSES = (0.01,) * 20  # seconds; looking at the lock takes microseconds

_OF_A_HUB = frozenset(
    (
        "messages",
        "agents",
        "threads",
        "features",
        "coordinator",
        "session_agents.json",
        "run",
        "hub.json",
        "identity.key",
        "oriented_sessions.json",
        "introductions.json",
        "server.json",
        "opencode.log",
        "daemon.lock",
        "metrics.prom",
    )
)
"""What tells a hub's directory, an older hub's too, from any other; `tmp` is in too many."""

_log = logging.getLogger(__name__)


class FileSpool:
    """The spool in a directory. Several processes may use one at the same time."""

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self.root = root
        self.messages = root / "messages"
        self._clock = clock
        self.archive = self.messages / "archive"
        self.registry = root / "agents"
        self._sessions = root / "session_agents.json"
        self._oriented = root / "oriented_sessions.json"
        self._introductions = root / "introductions.json"
        self._hub = root / "hub.json"
        self._files = files.DurableFiles(root / "tmp")
        self._key = IdentityKey(root / "identity.key", self._files)
        self._archive = Archive(self.archive, self._files, self._key)
        self.malformed = Quarantine(self.messages / "malformed", self._files)

    def prepare(self) -> None:
        """Make the directories that are not there, for this user only.

        Raises `InvalidSettings` where the root is somebody else's: a home would be closed to all
        others, and `/tmp` to everybody.
        """
        with files.writing(self.root):
            if not self._may_be_a_hub():
                raise InvalidSettings(
                    f"{self.root} holds other things, and no hub: set AGENT_HUB_DIR to a directory "
                    "of the hub's own"
                )
            below = (
                self.messages,
                self.archive,
                self.malformed.directory,
                self.registry,
                self._files.tmp,
                self.root / "run",
            )
            for directory in (self.root, *below):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                directory.chmod(0o700)  # an older hub may have let others in

    def _may_be_a_hub(self) -> bool:
        try:
            names = os.listdir(self.root)  # noqa: PTH208  # names are all that is wanted
        except FileNotFoundError:
            return True
        return not names or not _OF_A_HUB.isdisjoint(names)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Own the spool: the one daemon that settles what is in it. Ends with the process.

        Raises `StoreClaimed` where another process owns it.
        """
        path = self.root / "daemon.lock"
        with files.writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                _lock_patiently(descriptor)
            except BlockingIOError as error:
                owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
                raise StoreClaimed(
                    f"another agenthub daemon (process {owner}) works on {self.root}: stop it "
                    "first, or set AGENT_HUB_DIR to another directory"
                ) from error
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            with files.writing(self._files.tmp):
                self._files.sweep(before=self._clock.now() - _STALE)
            yield
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------------------- reading

    def keys(self) -> Sequence[str]:
        with files.reading(self.messages), os.scandir(self.messages) as entries:
            return [entry.name for entry in entries if files.is_visible_json(entry.name)]

    def read(self, key: str) -> Reading:
        if not files.is_visible_json(key):  # a hint may name a file that its writer will yet rename
            return None
        try:
            with files.reading(self.messages / key):
                opened = files.read_regular(self.messages / key, codec.MESSAGE_SIZE + 1)
                marking = self._key.read()
        except files.NotRegular as error:
            return Unreadable(reason=str(error))
        if opened is None:
            return None
        data, status = opened
        written = files.file_time(status)
        stem = key.removesuffix(".json")
        decoded = codec.decode_message(data, stem=stem, written=written, key=marking)
        if isinstance(decoded, Message):
            return decoded
        # a file from the future was not written just now
        if timedelta(0) <= self._clock.now() - written < _GRACE:
            return Unfinished()
        return Malformed(fault=decoded)

    def settled(self, message_id: str) -> Sequence[Settlement]:
        return self._archive.settled(message_id)

    def history(self, *queries: Query) -> Iterator[Settlement]:
        return self._archive.history(*queries)

    def claimed(self) -> bool:
        path = self.root / "daemon.lock"
        try:
            with files.reading(path):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except StoreUnreadable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    # ------------------------------------------------------------------------------- writing

    def put(self, message: Message) -> str:
        message = codec.as_read(message)
        with files.writing(self.root):
            key = self._key.ensure() if message.verified else b""
        try:
            data = codec.encode_message(message, key)
        except (ValueError, RecursionError) as error:
            raise InvalidValue("extra", str(error), "what JSON can hold") from error
        read = codec.decode_message(data, stem=message.id, written=message.timestamp)
        if isinstance(read, Fault):  # what its sender added may be too much, or no JSON
            raise InvalidValue(read.field, read.found, read.expected)
        with files.writing(self.messages):
            names = (f"{message.id}.json", f"{message.id}-{message.digest[:12]}.json")
            for name in names:
                if self._files.publish(self.messages / name, data):
                    files.sync_directory(self.messages)
                    return name
                waiting = self.read(name)
                if isinstance(waiting, Message) and waiting.digest == message.digest:
                    if message.verified and not waiting.verified:
                        self._files.replace(self.messages / name, data)
                    return name
        raise StoreUnwritable(f"{self.messages / names[-1]} is in the way of a message: move it")

    def settle(self, settlements: Sequence[Settlement]) -> None:
        with files.writing(self.archive):
            for settlement in settlements:
                self._archive.add(settlement)
            files.sync_directory(self.archive)
            for settlement in settlements:
                if self.read(settlement.key) == settlement.message:
                    (self.messages / settlement.key).unlink(missing_ok=True)

    def mark_read(self, key: str, message: Message) -> None:
        with files.writing(self.messages):
            # First where it waits, then the archive, as a settling goes the other way round: one
            # that is under way either comes upon the mark, and does not remove it, or is found.
            waiting = self.read(key)
            if isinstance(waiting, Message) and waiting.digest == message.digest:
                self._mark_waiting(key, waiting)
            self._archive.mark_read(message)

    def _mark_waiting(self, key: str, waiting: Message) -> None:
        def place(temporary: str) -> None:
            if self.read(key) != waiting:  # its sender has written anew: that is another message
                raise FileExistsError(key)
            os.replace(temporary, self.messages / key)  # noqa: PTH105  # a Path costs as much again

        self._files.write(codec.encode_message(evolve(waiting, read=True), self._key.read()), place)
        files.sync_directory(self.messages)

    def quarantine(self, key: str, fault: Fault) -> None:
        source = self.messages / key
        with files.writing(self.malformed.directory):
            if isinstance(self.read(key), Malformed):
                self.malformed.take(source, fault)

    # -------------------------------------------------------------------------------- agents

    def began(self, now: datetime) -> datetime:
        with files.writing(self._hub):
            try:
                return codec.time_given(_object(self._hub).get("began"))
            except ValueError:  # none has, or what is there is of no use
                return self._begin(now)

    def begin_anew(self, now: datetime) -> None:
        with self._changing_agents():
            self._files.replace(self._sessions, codec.encode_object({}))
            self._files.replace(self._oriented, codec.encode_object({}))
            self._files.replace(self._introductions, codec.encode_object({}))
            self._begin(now)

    def oriented(self) -> Collection[str]:
        with files.reading(self._oriented):
            return _object(self._oriented).keys()

    def save_oriented(self, session_id: str, at: datetime) -> None:
        with self._changing_agents():
            known = _object(self._oriented)
            if session_id not in known:
                known[session_id] = {"orientedAt": codec.to_milliseconds(at)}
                self._files.replace(self._oriented, codec.encode_object(known))

    def introduced(self) -> Mapping[str, Collection[str]]:
        with files.reading(self._introductions):
            known = _object(self._introductions)
            return {session: codec.decode_words(told) for session, told in known.items()}

    def save_introduced(self, session_id: str, agent_id: str) -> None:
        with self._changing_agents():
            known = _object(self._introductions)
            told = codec.decode_words(known.get(session_id))
            if agent_id not in told:
                known[session_id] = [*told, agent_id]
                self._files.replace(self._introductions, codec.encode_object(known))

    def _begin(self, now: datetime) -> datetime:
        milliseconds = codec.to_milliseconds(now)
        self._files.replace(self._hub, codec.encode_object({"began": milliseconds}))
        return codec.time_given(milliseconds)

    def agents(self) -> Sequence[Agent]:
        with files.reading(self.registry):
            sessions = self._session_agents()
            by_agent = _by_agent(sessions)
            names = {path.stem for path in self.registry.glob("*.json") if is_identifier(path.stem)}
            return [
                self._agent(name, by_agent.get(name), sessions)
                for name in sorted(names | set(by_agent))
            ]

    def agent(self, agent_id: str) -> Agent | None:
        with files.reading(self.registry):
            sessions = self._session_agents()
            session_id = _by_agent(sessions).get(agent_id)
            if session_id is None and not (self.registry / f"{agent_id}.json").exists():
                return None
            return self._agent(agent_id, session_id, sessions)

    def save_agent(self, agent: Agent) -> None:
        with self._changing_agents():
            # first whose session it is: an agent that a crash has parted from its session would
            # keep its name from it
            sessions = {
                session_id: entry
                for session_id, entry in self._session_agents().items()
                if not (isinstance(entry, dict) and entry.get("agentId") == agent.id)
            }
            if agent.session_id is not None:
                sessions[agent.session_id] = {
                    "agentId": agent.id,
                    "directory": agent.directory,
                    "slug": agent.slug,
                }
            self._files.replace(self._sessions, codec.encode_object(sessions))
            path = self.registry / f"{agent.id}.json"
            self._files.replace(path, codec.encode_agent(agent, _object(path)))

    def register_agent(self, agent: Agent) -> None:
        with self._changing_agents():
            path = self.registry / f"{agent.id}.json"
            self._files.replace(path, codec.encode_registration(agent, _object(path)))

    @contextlib.contextmanager
    def _changing_agents(self) -> Iterator[None]:
        """Alone, for what is written depends on what was read: others write here too."""
        with files.writing(self.registry), files.alone(self.registry):
            yield

    def _session_agents(self) -> dict[str, Any]:
        return _object(self._sessions)

    def _agent(self, name: str, session_id: str | None, sessions: dict[str, Any]) -> Agent:
        path = self.registry / f"{name}.json"
        known = _object(path)
        entry = sessions.get(session_id, {}) if session_id is not None else {}
        return Agent(
            id=name,
            session_id=session_id,
            directory=str(entry.get("directory") or known.get("projectPath") or ""),
            slug=str(entry.get("slug") or ""),
            last_seen=codec.decode_time(known.get("lastSeen")),
            role=str(known.get("role") or ""),
            capabilities=codec.decode_words(known.get("capabilities")),
            collaborates_with=codec.decode_words(known.get("collaboratesWith")),
            program=str(known.get("program") or ""),
            named_by_session=session_id is not None or "sessionId" in known,
        )


def _lock_patiently(descriptor: int) -> None:
    """Take the lock. Who only looks whether it is held, holds it for an instant itself."""
    for pause in _LOCK_PAUSES:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _by_agent(sessions: dict[str, Any]) -> dict[str, str]:
    """Whose session is which."""
    return {
        entry["agentId"]: session_id
        for session_id, entry in sessions.items()
        if isinstance(entry, dict) and is_identifier(entry.get("agentId"))
    }


def _object(path: Path) -> dict[str, Any]:
    """A JSON object that others may write too; empty where there is none that can be used."""
    try:
        opened = files.read_regular(path)
    except files.NotRegular as error:
        _log.warning("%s is not used: %s", path, error)
        return {}
    if opened is None:
        return {}
    decoded = codec.decode_object(opened[0])
    if isinstance(decoded, Fault):
        _log.warning("%s is not used: %s", path, decoded)
        return {}
    return decoded
