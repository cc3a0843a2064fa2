"""The `MessageStore` on files, under `~/.agent-hub`.

    agents/<id>.json           registered agents; others write here too
    messages/<name>.json       what waits; others write here, in place or by renaming
    messages/archive/<id>.json what was settled, with its outcome
    messages/malformed/<name>  what was no message, byte for byte, and <name>.reason
    session_agents.json        session -> agent
    tmp/                       files that are being written
    daemon.lock                held by the daemon that owns the spool

A message's key is the name of its file. Nothing that others wrote becomes a path but after it was
found to be an identifier. A file becomes visible by `link`, or by a rename where it takes the place
of what it changes, never half-written; and it is durable before anything that depends on it:
written, flushed, synced, put in its place, and the directory synced. A record's file time is the
time of its settlement, by which the archive is ordered. A file leaves `messages/` by `unlink` only:
whoever watches that directory with watchdog is held up for half a second by a file that is renamed
out of it.

How the files look is the codec's business, who is told about changes the watcher's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from agenthub_adapters import codec
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
from agenthub_core.model import fingerprint, is_identifier

_GRACE = timedelta(seconds=2)
"""How long after its last change a file that is no message may yet become one: writers of a few
kilobytes take milliseconds, so 2 s is patient, and a person who looks for a fault finds it soon."""

_STALE = timedelta(hours=1)
"""After this a file in `tmp/` was left behind by a crash; no writer takes that long."""

_LOCK_PAUSES = (0.01,) * 20  # seconds; looking at the lock takes microseconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_REASON = ".reason"

_NAME_LENGTH = 240  # bytes of a file's name: below the usual limit of 255, with room for .reason

_OF_A_HUB = frozenset(
    (
        "messages",
        "agents",
        "threads",
        "features",
        "coordinator",
        "session_agents.json",
        "oriented_sessions.json",
        "server.json",
        "opencode.log",
        "daemon.lock",
        "metrics.prom",
    )
)
"""What tells a hub's directory, an older hub's too, from any other; `tmp` is in too many."""

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Quarantined:
    """A file that was no message, why, and since when it lies where it does no harm."""

    name: str
    reason: str
    at: datetime


class FileSpool:
    """The spool in a directory. Several processes may use one at the same time."""

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self.root = root
        self.messages = root / "messages"
        self._clock = clock
        self.archive = self.messages / "archive"
        self._malformed = self.messages / "malformed"
        self._agents = root / "agents"
        self._tmp = root / "tmp"
        self._sessions = root / "session_agents.json"

    def prepare(self) -> None:
        """Make the directories that are not there, for this user only.

        Raises `InvalidSettings` where the root is somebody else's: a home would be closed to all
        others, and `/tmp` to everybody.
        """
        with _writing(self.root):
            if not self._may_be_a_hub():
                raise InvalidSettings(
                    f"{self.root} holds other things, and no hub: set AGENT_HUB_DIR to a directory "
                    "of the hub's own"
                )
            below = (self.messages, self.archive, self._malformed, self._agents, self._tmp)
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
        with _writing(path):
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
            self._sweep()
            yield
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------------------- reading

    def keys(self) -> Sequence[str]:
        with _reading(self.messages), os.scandir(self.messages) as entries:
            return [entry.name for entry in entries if is_message_name(entry.name)]

    def read(self, key: str) -> Reading:
        if not is_message_name(key):  # a hint may name a file that its writer will yet rename
            return None
        try:
            with _reading(self.messages / key):
                opened = _open_regular(self.messages / key, codec.MESSAGE_SIZE + 1)
        except _NotRegular as error:
            return Unreadable(reason=str(error))
        if opened is None:
            return None
        data, status = opened
        written = _file_time(status)
        decoded = codec.decode_message(data, stem=key.removesuffix(".json"), written=written)
        if isinstance(decoded, Message):
            return decoded
        # a file from the future was not written just now
        if timedelta(0) <= self._clock.now() - written < _GRACE:
            return Unfinished()
        return Malformed(fault=decoded)

    def settled(self, message_id: str) -> Sequence[Settlement]:
        if not is_identifier(message_id):
            return ()
        with _reading(self.archive):
            paths = [self.archive / f"{message_id}.json"]
            paths += self.archive.glob(f"{message_id}-*.json")
            found = [record for path in paths if (record := self._record(path)) is not None]
        found = [record for record in found if record.message.id == message_id]
        return sorted(found, key=lambda record: record.at)

    def history(self, *queries: Query) -> Iterator[Settlement]:
        screens = [(query, codec.screen(query)) for query in queries]
        for name in self._latest_first():
            try:
                data = _content(f"{self.archive}/{name}")
            except OSError as error:
                raise _unreadable(error, self.archive) from error
            if data is None:
                continue
            likely = [query for query, may_be_accepted in screens if may_be_accepted(data)]
            record = codec.decode_settlement(data, key=name) if likely else None
            if isinstance(record, Settlement) and any(
                query.accepts(record.message, record.outcome) for query in likely
            ):
                yield record

    def _latest_first(self) -> list[str]:
        """The names of the records."""
        dated = []
        with _reading(self.archive), os.scandir(self.archive) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    if is_message_name(entry.name):
                        dated.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        dated.sort(reverse=True)
        return [name for _, name in dated]

    def claimed(self) -> bool:
        path = self.root / "daemon.lock"
        try:
            with _reading(path):
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

    def _record(self, path: Path) -> Settlement | None:
        data = _content(path)
        decoded = None if data is None else codec.decode_settlement(data, key=path.name)
        return decoded if isinstance(decoded, Settlement) else None

    # ------------------------------------------------------------------------------- writing

    def put(self, message: Message) -> str:
        message = codec.as_read(message)
        try:
            data = codec.encode_message(message)
        except (ValueError, RecursionError) as error:
            raise InvalidValue("extra", str(error), "what JSON can hold") from error
        read = codec.decode_message(data, stem=message.id, written=message.timestamp)
        if isinstance(read, Fault):  # what its sender added may be too much, or no JSON
            raise InvalidValue(read.field, read.found, read.expected)
        with _writing(self.messages):
            names = (f"{message.id}.json", f"{message.id}-{message.digest[:12]}.json")
            for name in names:
                if self._publish(self.messages / name, data):
                    _sync_directory(self.messages)
                    return name
                waiting = self.read(name)
                if isinstance(waiting, Message) and waiting.digest == message.digest:
                    return name
        raise StoreUnwritable(f"{self.messages / names[-1]} is in the way of a message: move it")

    def settle(self, settlements: Sequence[Settlement]) -> None:
        with _writing(self.archive):
            for settlement in settlements:
                self._archive_one(settlement)
            _sync_directory(self.archive)
            for settlement in settlements:
                if self.read(settlement.key) == settlement.message:
                    (self.messages / settlement.key).unlink(missing_ok=True)

    def _archive_one(self, settlement: Settlement) -> None:
        data = codec.encode_settlement(settlement)
        for path in self._archive_places(settlement.message):
            if self._publish(path, data, at=_nanoseconds(settlement.at)):
                return
            known = self._record(path)
            if known is not None and known.message.digest == settlement.message.digest:
                if settlement.message.read and not known.message.read:
                    self._mark_record(path, known)  # it was read while it was being settled
                return

    def _archive_places(self, message: Message) -> Iterator[Path]:
        """The message's place, and others should its id have been used before."""
        yield self.archive / f"{message.id}.json"
        name = f"{message.id}-{message.digest[:12]}"
        yield self.archive / f"{name}.json"
        for number in itertools.count(2):
            yield self.archive / f"{name}.{number}.json"

    def mark_read(self, key: str, message: Message) -> None:
        with _writing(self.messages):
            # First where it waits, then the archive, as a settling goes the other way round: one
            # that is under way either comes upon the mark, and does not remove it, or is found.
            waiting = self.read(key)
            if isinstance(waiting, Message) and waiting.digest == message.digest:
                self._mark_waiting(key, waiting)
            for path in self._archive_places(message):
                record = self._record(path)
                if record is not None and record.message.digest == message.digest:
                    self._mark_record(path, record)
                    return
                if not os.path.lexists(path):
                    return

    def _mark_waiting(self, key: str, waiting: Message) -> None:
        def place(temporary: str) -> None:
            if self.read(key) != waiting:  # its sender has written anew: that is another message
                raise FileExistsError(key)
            os.replace(temporary, self.messages / key)  # noqa: PTH105  # as below

        self._write(codec.encode_message(evolve(waiting, read=True)), place, None)
        _sync_directory(self.messages)

    def _mark_record(self, path: Path, record: Settlement) -> None:
        read = evolve(record, message=evolve(record.message, read=True))
        self._replace(path, codec.encode_settlement(read), at=path.stat().st_mtime_ns)

    def quarantine(self, key: str, fault: Fault) -> None:
        source = self.messages / key
        with _writing(self._malformed):
            if not isinstance(self.read(key), Malformed):
                return
            for target in self._quarantine_places(key):
                try:
                    os.link(source, target, follow_symlinks=False)
                except FileExistsError:
                    if not os.path.samestat(source.stat(), target.stat()):
                        continue
                except FileNotFoundError:
                    return
                break
            # it may take the place of one: who moved the file back left that behind
            self._replace(_reason_of(target), f"{fault}\n".encode())
            source.unlink(missing_ok=True)

    def quarantined(self) -> Sequence[Quarantined]:
        """What was no message, the latest first."""
        with _reading(self._malformed):
            paths = [path for path in self._malformed.iterdir() if path.suffix != _REASON]
            found = [each for path in paths if (each := _quarantined(path)) is not None]
        return sorted(found, key=lambda each: each.at, reverse=True)

    def _quarantine_places(self, key: str) -> Iterator[Path]:
        name = key
        if len(os.fsencode(key)) > _NAME_LENGTH:
            name = f"{fingerprint(ascii(key))}.json"
        yield self._malformed / name
        for number in itertools.count(2):
            yield self._malformed / f"{name.removesuffix('.json')}.{number}.json"

    # -------------------------------------------------------------------------------- agents

    def agents(self) -> Sequence[Agent]:
        with _reading(self._agents):
            sessions = self._session_agents()
            by_agent = {
                entry["agentId"]: session_id
                for session_id, entry in sessions.items()
                if isinstance(entry, dict) and is_identifier(entry.get("agentId"))
            }
            names = {path.stem for path in self._agents.glob("*.json") if is_identifier(path.stem)}
            return [
                self._agent(name, by_agent.get(name), sessions)
                for name in sorted(names | set(by_agent))
            ]

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
            self._replace(self._sessions, codec.encode_object(sessions))
            path = self._agents / f"{agent.id}.json"
            self._replace(path, codec.encode_agent(agent, _object(path)))

    def register_agent(self, agent: Agent) -> None:
        with self._changing_agents():
            path = self._agents / f"{agent.id}.json"
            self._replace(path, codec.encode_registration(agent, _object(path)))

    @contextlib.contextmanager
    def _changing_agents(self) -> Iterator[None]:
        """Alone, for what is written depends on what was read: others write here too."""
        with _writing(self._agents):
            descriptor = os.open(self._agents, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def _session_agents(self) -> dict[str, Any]:
        return _object(self._sessions)

    def _agent(self, name: str, session_id: str | None, sessions: dict[str, Any]) -> Agent:
        path = self._agents / f"{name}.json"
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
        )

    # ---------------------------------------------------------------------------------- files

    def _publish(self, path: Path, data: bytes, *, at: int | None = None) -> bool:
        """Let a file appear as a whole, if there is none of that name; whether it did."""
        return self._write(data, lambda temporary: os.link(temporary, path), at)

    def _replace(self, path: Path, data: bytes, *, at: int | None = None) -> None:
        place = lambda temporary: os.replace(temporary, path)  # noqa: E731, PTH105  # as below
        self._write(data, place, at)
        _sync_directory(path.parent)

    def _write(self, data: bytes, place: Callable[[str], object], at: int | None) -> bool:
        """`at`, in nanoseconds, becomes the file's time, by which the archive is ordered."""
        # for this user only; a name of its own, whatever crashes have left there
        descriptor, temporary = tempfile.mkstemp(dir=self._tmp)
        try:
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                if at is not None:
                    os.utime(descriptor, ns=(at, at))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            place(temporary)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108  # a Path costs as much as the call itself
        return True

    def _sweep(self) -> None:
        """Remove what crashes left behind."""
        with _writing(self._tmp):
            for path in self._tmp.iterdir():
                if self._clock.now() - _file_time(path.lstat()) > _STALE:
                    path.unlink(missing_ok=True)


def _reason_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{_REASON}")


def _quarantined(path: Path) -> Quarantined | None:
    """None where somebody has removed it just now."""
    try:
        opened = _open_regular(_reason_of(path))
    except _NotRegular:  # none of ours
        opened = None
    if opened is not None:
        data, status = opened
        reason = data.decode("utf-8", "replace").strip()
        return Quarantined(name=path.name, reason=reason, at=_file_time(status))
    try:
        return Quarantined(name=path.name, reason="nobody knows why", at=_file_time(path.lstat()))
    except FileNotFoundError:
        return None


def is_message_name(name: str) -> bool:
    """Whether a file of that name, in `messages/`, may be a message."""
    return name.endswith(".json") and not name.startswith(".")


class _NotRegular(Exception):  # never leaves this module
    """What lies there is not for the hub to read; the text says why."""


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}

# neither follow a link out of the spool nor wait for a pipe's other end
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_CHUNK = 16384  # bytes: one reading for nearly every message

_REFUSALS = {
    errno.ELOOP: "it is a symbolic link",
    errno.EACCES: "this user may not read it",
    errno.EPERM: "this user may not read it",
    errno.ENXIO: "it is a socket",
}


def _open_regular(path: Path, size: int = sys.maxsize) -> tuple[bytes, os.stat_result] | None:
    """A file's first `size` bytes, or all; None if there is none."""
    try:
        descriptor = os.open(path, _READING)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _REFUSALS:
            raise _NotRegular(_REFUSALS[error.errno]) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
            raise _NotRegular(f"it is {kind}")
        return os.read(descriptor, min(size, status.st_size)), status
    finally:
        os.close(descriptor)


def _content(path: str | Path) -> bytes | None:
    """All that is in a file of the hub's own; None where there is none to read.

    As few calls as may be: whoever looks something up reads ten thousand of them.
    """
    try:
        descriptor = os.open(path, _READING)
    except OSError as error:
        if error.errno == errno.ENOENT or error.errno in _REFUSALS:
            return None
        raise
    try:
        data = os.read(descriptor, _CHUNK)
        while len(data) % _CHUNK == 0 and (more := os.read(descriptor, _CHUNK)):
            data += more
    except IsADirectoryError:
        return None
    finally:
        os.close(descriptor)
    return data


def _lock_patiently(descriptor: int) -> None:
    """Take the lock. Who only looks whether it is held, holds it for an instant itself."""
    for pause in _LOCK_PAUSES:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _nanoseconds(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000


def _file_time(status: os.stat_result) -> datetime:
    """When a file was last changed; the oldest time there is if that cannot be a time."""
    try:
        return datetime.fromtimestamp(status.st_mtime_ns // 1_000_000 / 1000, UTC)
    except (OverflowError, ValueError):
        return datetime.min.replace(tzinfo=UTC)


def _object(path: Path) -> dict[str, Any]:
    """A JSON object that others may write too; empty where there is none that can be used."""
    try:
        opened = _open_regular(path)
    except _NotRegular as error:
        _log.warning("%s is not used: %s", path, error)
        return {}
    if opened is None:
        return {}
    decoded = codec.decode_object(opened[0])
    if isinstance(decoded, Fault):
        _log.warning("%s is not used: %s", path, decoded)
        return {}
    return decoded


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unreadable(error, path) from error


def _unreadable(error: OSError, path: Path) -> StoreUnreadable:
    return StoreUnreadable(f"{error.filename or path} cannot be read: {error.strerror}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreUnreadable as error:  # what is written depends on it
        raise StoreUnwritable(str(error)) from error
    except OSError as error:
        where = error.filename or path
        raise StoreUnwritable(f"{where} cannot be written: {error.strerror}") from error
