"""The OpenCode processes in which sessions live, through the plugin's endpoints (docs/endpoint.md).

Finds them by their sockets, listens to what they tell, says to which of them a session belongs, and
hands prompts to it. What is handed over when is the relay's business (`opencode`); what follows
from what they tell, the core's.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field, frozen
from cattrs import BaseValidationError, Converter
from httpx_sse import EventSource, ServerSentEvent, SSEError

from agenthub_adapters.opencode_api import (
    OWN_PROMPT,
    Model,
    Setting,
    Tokens,
    Unicode,
    gone,
    summed,
    usage,
)
from agenthub_adapters.unix_http import ask, stream
from agenthub_core import Clock, PromptInvalid, RelayError, RelayUnreachable, SessionBusy, Usage
from agenthub_core.hub import Told
from agenthub_core.protocol import SessionCompacted, SessionFreed, TurnEnded

PROTOCOL = 1

_SUFFIX = ".sock"

_SILENCE_SECONDS = 25.0
"""A heart beats every 10 s: who says nothing for longer is suspended, or hangs."""

_EACH_SECONDS = 0.1  # for each prompt of a burst: OpenCode needs a tenth of that
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Before a socket that refuses is tried again, whose process lives: it may be about to listen."""

_AGAIN_SECONDS = 1.0  # before an endpoint that has ended its stream is listened to again
_BEGIN_SECONDS = 1.0  # for those that are there at the start to say who lives in them
_END_SECONDS = 1.0

_log = logging.getLogger(__name__)


class State(enum.Enum):
    """What a session does in its process."""

    IDLE = "idle"
    BUSY = "busy"
    WAITING = "waiting"
    """It asks its user for something, and takes nothing else meanwhile."""


@frozen(kw_only=True)
class Resident:
    """A session that lives in a process, as that tells."""

    id: str
    state: State
    used: float = 0
    opened: float = 0
    shown: bool | None = None
    agent: Unicode | None = None
    model: Model | None = None

    @property
    def claim(self) -> tuple[bool, bool, float, float]:
        """Of several processes the session belongs to the one with the highest."""
        return self.state is not State.IDLE, self.shown is not False, self.used, self.opened


@frozen(kw_only=True)
class _Hello:
    protocol: int
    pid: int = 0
    plugin: int = 0
    sessions: list[Resident] = field(factory=list)


@frozen(kw_only=True)
class _Named:
    id: str


@frozen(kw_only=True)
class _Step:
    """What a model has done at once; several make a turn."""

    id: str
    message: str
    tokens: Tokens
    cost: float = 0.0
    parent: str | None = None


@define
class _Turn:
    """What a session is at."""

    began: datetime
    steps: dict[str, _Step] = field(factory=dict)
    """By the message; each may be told again, and better."""

    def ended(self, session_id: str, now: datetime) -> TurnEnded:
        parents = [step.parent for step in self.steps.values() if step.parent is not None]
        return TurnEnded(
            session_id=session_id,
            began=self.began,
            ended=now,
            usage=summed(usage(step.tokens, step.cost) for step in self.steps.values()),
            caused=bool(parents) and OWN_PROMPT.fullmatch(parents[0]) is not None,
        )


@frozen(kw_only=True)
class _Refusal:
    status: int
    error: str = ""


@frozen(kw_only=True)
class _Taken:
    accepted: int
    refused: _Refusal | None = None


_CONVERTER = Converter(use_alias=True)
_CONVERTER.register_structure_hook(bool | None, lambda value, _: value)


class Endpoint:
    """One OpenCode process. May be called from several threads."""

    def __init__(self, path: Path, timeout: timedelta) -> None:
        self.path = path
        self.residents: dict[str, Resident] = {}
        self.turns: dict[str, _Turn] = {}
        self._timeout = timeout

    @property
    def process(self) -> str:
        return self.path.stem

    def setting(self, session_id: str) -> Setting | None:
        """What the session works with now; None where its process has not heard."""
        resident = self.residents.get(session_id)
        if resident is None or resident.agent is None or resident.model is None:
            return None
        return Setting(id=session_id, agent=resident.agent, model=resident.model)

    def prompt(
        self, session_id: str, bodies: Sequence[Mapping[str, Any]]
    ) -> tuple[int, RelayError | None]:
        """Hand prompts to a session, in order; how many were accepted, and why no more were.

        They are accepted, not held. Raises `RelayUnreachable` where nobody knows what was done.
        """
        seconds = self._timeout.total_seconds() + len(bodies) * _EACH_SECONDS
        # what lies in a socket of a suspended process is answered when nobody wants it any more
        said = {"before": int((time.time() + seconds) * 1000), "prompts": bodies}
        path = f"/sessions/{session_id}/prompts"
        try:
            _, answer = ask(self.path, "POST", path, said, seconds=seconds)
            taken = _taken(answer, len(bodies))
        except TimeoutError as error:
            raise RelayUnreachable(
                f"the OpenCode process {self.process}, in which the session is open, did not "
                f"answer within {seconds:.0f} s: is that window suspended?"
            ) from error
        except (OSError, HTTPException) as error:
            raise RelayUnreachable(f"the OpenCode process {self.process} has ended") from error
        except (BaseValidationError, ValueError, TypeError) as error:
            raise RelayUnreachable(
                f"the OpenCode process {self.process} answered, but not as the hub's plugin "
                "does: restart that window"
            ) from error
        refused = taken.refused
        return taken.accepted, None if refused is None else _error(session_id, refused)


class Endpoints:
    """All of them, between the beginning and the end of `listening`.

    `directory` is where their sockets lie: tell `found` what appears there. `timeout` bounds each
    request.
    """

    def __init__(
        self, directory: Path, *, clock: Clock, timeout: timedelta = timedelta(seconds=5)
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._timeout = timeout
        self._lock = threading.Lock()
        self._followers: dict[str, _Follower] = {}
        self._here: dict[str, Endpoint] = {}
        self._lost: dict[str, datetime] = {}
        self._hint: Callable[[], None] = lambda: None
        self._tell: Callable[[Told], None] = lambda _: None

    @contextlib.contextmanager
    def listening(self, hint: Callable[[], None], tell: Callable[[Told], None]) -> Iterator[None]:
        """Call `hint` where a session may be new, and `tell` what happens, from other threads.

        When it begins, those that were there before are known.
        """
        self._hint, self._tell = hint, tell
        try:
            for path in self._directory.glob(f"*{_SUFFIX}"):
                self.found(path.name)
            with self._lock:
                at_start = list(self._followers.values())
            deadline = time.monotonic() + _BEGIN_SECONDS
            for follower in at_start:
                follower.begun.wait(max(deadline - time.monotonic(), 0))
            yield
        finally:
            with self._lock:
                followers = list(self._followers.values())
            for follower in followers:
                follower.stop()
            for follower in followers:
                follower.thread.join(_END_SECONDS)

    def found(self, name: str) -> None:
        """A file of this name has appeared in the directory."""
        if not name.endswith(_SUFFIX):
            return
        with self._lock:
            if name not in self._followers:
                follower = _Follower(self, self._directory / name, self._timeout)
                self._followers[name] = follower
                follower.thread.start()

    def owner(self, session_id: str) -> Endpoint | None:
        """The process to which a session belongs; None where it lives in none of them."""
        with self._lock:
            living = [
                (resident.claim, name)
                for name, endpoint in self._here.items()
                if (resident := endpoint.residents.get(session_id)) is not None
            ]
            return self._here[max(living)[1]] if living else None

    def at_work(self, session_id: str) -> bool:
        """Whether one of them is in the middle of a turn of the session."""
        with self._lock:
            return any(
                session_id in endpoint.residents
                and endpoint.residents[session_id].state is not State.IDLE
                for endpoint in self._here.values()
            )

    def lost(self, session_id: str) -> datetime | None:
        """When a process ended in the middle of a turn of the session, if one did."""
        return self._lost.get(session_id)

    # ------------------------------------------------------------------- on the followers' threads

    def come(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._here[endpoint.path.name] = endpoint
        self._hint()

    def changed(self, endpoint: Endpoint, resident: Resident) -> None:
        """A session is another than it was."""
        with self._lock:
            before = endpoint.residents.get(resident.id)
            endpoint.residents[resident.id] = resident
        self._meter(endpoint, resident)
        if before is None:
            self._hint()
        elif before.state is not resident.state and before.state is not State.IDLE:
            if resident.state is State.IDLE:
                self._hint()  # what its turn has cost, and when
            self._tell(SessionFreed(session_id=resident.id))

    def _meter(self, endpoint: Endpoint, resident: Resident) -> None:
        now = self._clock.now()
        if resident.state is not State.IDLE:
            endpoint.turns.setdefault(resident.id, _Turn(now))
        elif (turn := endpoint.turns.pop(resident.id, None)) is not None:
            ended = turn.ended(resident.id, now)
            if ended.usage != Usage():  # a command of the user's shell asks no model
                self._tell(ended)

    def removed(self, endpoint: Endpoint, session_id: str) -> None:
        with self._lock:
            endpoint.residents.pop(session_id, None)
        self._hint()

    def tell(self, told: Told) -> None:
        self._tell(told)

    def left(self, endpoint: Endpoint) -> None:
        """A process tells nothing any more: it has ended, or hangs."""
        with self._lock:
            self._here.pop(endpoint.path.name, None)
            residents = list(endpoint.residents.values())
        for resident in residents:
            self._tell(SessionFreed(session_id=resident.id))
        self._hint()

    def done(self, follower: _Follower, endpoint: Endpoint | None) -> None:
        """Its socket is gone, or nobody will ever listen there; its turns have ended with it."""
        now = self._clock.now()
        residents = [] if endpoint is None else list(endpoint.residents.values())
        lost = [each.id for each in residents if each.state is not State.IDLE]
        with self._lock:
            self._followers.pop(follower.path.name, None)
            self._lost |= dict.fromkeys(lost, now)
        for session_id in lost:
            self._tell(SessionFreed(session_id=session_id))
        if not (follower.gave_up or follower.stopped) and follower.path.exists():
            self.found(follower.path.name)  # it has come back in this very moment


class _Follower:
    """Listens to one endpoint, from a thread of its own, as long as there is its socket."""

    def __init__(self, endpoints: Endpoints, path: Path, timeout: timedelta) -> None:
        self._endpoints = endpoints
        self.path = path
        self._timeout = timeout
        self.begun = threading.Event()
        """It has said who lives there, or will not."""
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._foreign = False
        self._heard: tuple[int, int] | None = None
        self._endpoint: Endpoint | None = None
        self.gave_up = False
        """It refused each time."""
        self.thread = threading.Thread(target=self._follow, name="endpoint", daemon=True)

    @property
    def stopped(self) -> bool:
        return self._done.is_set()

    def stop(self) -> None:
        with self._lock:
            self._done.set()
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _follow(self) -> None:
        refused = 0
        while not self._done.is_set() and (socket_file := _identity(self.path)):
            try:
                with stream(self.path, "/events", seconds=_SILENCE_SECONDS) as (line, chunks):
                    refused, self._heard = 0, socket_file
                    self._listen(line, chunks)
            except ConnectionRefusedError:
                if self._heard == socket_file or not _lives(self.path.stem):
                    self.path.unlink(missing_ok=True)  # it was killed
                    break
                if self.gave_up:
                    break
                self._done.wait(_PAUSES[refused])
                refused += 1
                self.gave_up = refused == len(_PAUSES)
            except (OSError, HTTPException, httpx.HTTPError, SSEError) as error:
                _log.debug("%s: %s", self.path, error, extra={"topic": "endpoint.none"})
                self.begun.set()
                self._done.wait(_AGAIN_SECONDS)
        self.begun.set()
        self._endpoints.done(self, self._endpoint)

    def _listen(self, line: socket.socket, chunks: Iterator[bytes]) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._socket = line
        endpoint = self._endpoint = Endpoint(self.path, self._timeout)
        kind = {"content-type": "text/event-stream"}
        try:
            for event in EventSource(httpx.Response(200, headers=kind, content=chunks)).iter_sse():
                self._take(endpoint, event)
        finally:
            with self._lock:
                self._socket = None
            if not self._done.is_set():
                self._endpoints.left(endpoint)

    def _take(self, endpoint: Endpoint, event: ServerSentEvent) -> None:
        try:
            said = event.json()
            match event.event:
                case "hello":
                    self._greet(endpoint, _CONVERTER.structure(said, _Hello))
                case _ if self._foreign:
                    pass
                case "session":
                    self._endpoints.changed(endpoint, _CONVERTER.structure(said, Resident))
                case "gone":
                    named = _CONVERTER.structure(said, _Named)
                    self._endpoints.removed(endpoint, named.id)
                case "compacted":
                    named = _CONVERTER.structure(said, _Named)
                    self._endpoints.tell(SessionCompacted(session_id=named.id))
                case "step":
                    step = _CONVERTER.structure(said, _Step)
                    if (turn := endpoint.turns.get(step.id)) is not None:
                        turn.steps[step.message] = step
                case _:  # of a later plugin
                    pass
        except (BaseValidationError, ValueError, TypeError) as error:
            _log.warning(
                "the OpenCode process %s said what cannot be read (%s): restart that window",
                self.path.stem,
                error,
                extra={"topic": "endpoint.odd"},
            )

    def _greet(self, endpoint: Endpoint, hello: _Hello) -> None:
        self._foreign = hello.protocol != PROTOCOL
        if self._foreign:
            _log.warning(
                "the OpenCode process %s has another version of the hub's plugin: restart that "
                "window, or run `agenthub setup`",
                self.path.stem,
                extra={"topic": "endpoint.foreign"},
            )
        else:
            endpoint.residents = {each.id: each for each in hello.sessions}
            self._endpoints.come(endpoint)
        self.begun.set()


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from another one of the same name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lives(process: str) -> bool:
    """Whether there is that process, be it one that has ended and was not yet fetched."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _taken(answer: object, count: int) -> _Taken:
    """What became of so many prompts. Raises as the converter, and `ValueError`."""
    taken = _CONVERTER.structure(answer, _Taken)
    if taken.accepted != count if taken.refused is None else not 0 <= taken.accepted < count:
        raise ValueError(f"{taken} says not what became of each of {count}")
    return taken


def _error(session_id: str, refusal: _Refusal) -> RelayError:
    if refusal.status == httpx.codes.CONFLICT:
        return SessionBusy(
            f"the session cannot take them now ({refusal.error}); they go in as soon as it can"
        )
    if refusal.status == httpx.codes.NOT_FOUND:
        return gone(session_id)
    if refusal.status == httpx.codes.REQUEST_TIMEOUT:
        return RelayUnreachable("the OpenCode process was too late to take the prompt")
    if httpx.codes.is_client_error(refusal.status):
        return PromptInvalid(f"OpenCode will not take the prompt: {refusal.error}")
    return RelayUnreachable(f"OpenCode could not take the prompt ({refusal.error})")
