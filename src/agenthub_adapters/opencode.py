"""The `SessionRelay` over OpenCode's HTTP API, as measured on OpenCode 1.18.33.

What it must know of OpenCode, and the core need not:

- 204 means accepted, not held: the receipt is the message itself, asked for by its id. OpenCode
  stores it first and its text after it, so without the text it is no receipt.
- A prompt runs as the agent `build` unless it names the session's own agent and model.
- Two processes at work on one session lose turns, and a server knows only of its own. A session's
  last message tells whether a turn is under way in any of them; of the hub's own prompts we know
  that their turn runs in this server.
- The same message id and part id are one message, and repeating an old one makes the model speak.
- An unknown path is answered with 200 and a web page.

Every answer and every failure leaves here as a value or an error of the core. Finding, starting and
stopping the server is `opencode_server`'s business.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, get_origin
from urllib.parse import urlencode

import httpx
from attrs import asdict, field, frozen, validators
from cattrs import BaseValidationError, Converter

from agenthub_core import (
    Clock,
    Prompt,
    PromptInvalid,
    PromptNotHeld,
    Receipt,
    RelayRefused,
    RelayUnreachable,
    Session,
    SessionBusy,
    SessionUnknown,
    Turn,
    TurnFailed,
    TurnState,
)
from agenthub_core.model import IDENTIFIER_LENGTH, shown

USER = "opencode"
"""The user name that OpenCode's basic authentication expects by default."""

_OWN = "AgHub"
"""Stands in the ids of the hub's messages where OpenCode's own are random (one in 62**5 is so by
chance): thus they are known, in any process and after any restart."""

_OWN_MESSAGE = re.compile(rf"msg_[0-9a-f]{{12}}{_OWN}[0-9A-Za-z]+")

_SESSION = re.compile(rf"ses[A-Za-z0-9_-]{{,{IDENTIFIER_LENGTH - 3}}}")
"""Other ids than these OpenCode answers with an error of its own, and some mean another path."""

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_LISTED = 10_000
"""Sessions asked for at once: more than anybody has active in an hour; 5,000 take 45 ms."""

_FRESH = 0.25
"""Seconds for which a look at a session holds: shorter than a person needs to start something."""

_FIRST_LOOK = 0.002  # seconds before the receipt is asked for again; doubles each time
_LONGEST_WAIT = 0.25  # seconds between two askings: 20 in the 5 s of the default timeout


@frozen(kw_only=True)
class _Times:
    created: datetime
    updated: datetime | None = None
    completed: datetime | None = None
    archived: datetime | None = None


@frozen(kw_only=True)
class _Model:
    id: str
    provider: str = field(alias="providerID")
    variant: str | None = None


@frozen(kw_only=True)
class _SessionRow:
    id: str = field(validator=validators.matches_re(_SESSION))
    time: _Times
    slug: str = ""
    title: str = ""
    directory: str = ""
    parent: str | None = field(default=None, alias="parentID")
    agent: str | None = None
    model: _Model | None = None

    def session(self) -> Session:
        return Session(
            id=self.id,
            slug=self.slug,
            title=self.title,
            directory=self.directory,
            created=self.time.created,
            updated=self.time.updated or self.time.created,
        )


@frozen(kw_only=True)
class _Failure:
    name: str
    data: dict[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class _Info:
    """What a message is, without its parts."""

    id: str
    role: str
    time: _Times
    parent: str = field(default="", alias="parentID")
    finish: str | None = None
    error: _Failure | None = None

    @property
    def is_over(self) -> bool:
        """Whether, with this as the last message, no turn is under way in any process."""
        return (
            self.role == "assistant"
            and self.time.completed is not None
            and self.finish != "tool-calls"
        )

    @property
    def own_prompt(self) -> str | None:
        """The id of the hub's own prompt that this is, or answers."""
        prompt = self.id if self.role == "user" else self.parent
        return prompt if _OWN_MESSAGE.fullmatch(prompt) else None


@frozen(kw_only=True)
class _Part:
    id: str
    type: str
    text: str = ""


@frozen(kw_only=True)
class _Message:
    info: _Info
    parts: list[_Part]


@frozen(kw_only=True)
class _Status:
    type: str


@frozen(kw_only=True)
class _Provider:
    id: str
    models: dict[str, Any]


@frozen(kw_only=True)
class _Providers:
    providers: list[_Provider]


@frozen(kw_only=True)
class _Look:
    """A session as it is now, and its last message, if any."""

    session: _SessionRow
    last: _Info | None


_CONVERTER = Converter(use_alias=True)
_CONVERTER.register_structure_hook(
    datetime, lambda milliseconds, _: datetime.fromtimestamp(milliseconds / 1000, UTC)
)

T = TypeVar("T")


class OpenCodeRelay:
    """Puts prompts into the sessions of one OpenCode server. Close it when done.

    `timeout` bounds each request, and the wait for a receipt. `busy_limit`: a turn under way in
    another process that has said nothing for so long is taken for one that was killed.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        password: str | None = None,
        user: str = USER,
        timeout: timedelta = timedelta(seconds=5),
        busy_limit: timedelta = timedelta(minutes=30),
    ) -> None:
        self.url = url.rstrip("/")
        self._clock = clock
        self._timeout = timeout
        self._busy_limit = busy_limit
        # Not a Client: cookies, redirects, proxies and the merging of URLs have no business between
        # two programs of one machine, and take half of the time that a request costs.
        self._transport = httpx.HTTPTransport()
        self._headers = [("host", httpx.URL(self.url).netloc.decode())]
        if password is not None:
            credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers.append(("authorization", f"Basic {credentials}"))
        seconds = timeout.total_seconds()
        self._limits = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), seconds)}
        self._lock = threading.Lock()
        self._looks: dict[str, tuple[float, _Look]] = {}

    def close(self) -> None:
        """Give back the connections."""
        self._transport.close()

    # ------------------------------------------------------------------------------ the port

    def sessions(self, active: timedelta) -> Sequence[Session]:
        since = self._clock.now() - active
        sessions = [
            row.session()
            for row in self._list(since)
            if row.parent is None and row.time.archived is None
        ]
        # an OpenCode that cannot filter lists them all
        sessions = [session for session in sessions if session.updated >= since]
        return sorted(sessions, key=lambda session: session.updated, reverse=True)

    def inject(self, prompt: Prompt) -> Receipt:
        receipt = Receipt(prompt_id=prompt.id, session_id=prompt.session_id)
        message_id, part_id = _ids(prompt)
        if prompt.repeated and self._texts(prompt.session_id, message_id):
            self.resume(prompt.session_id, message_id)
            return receipt
        look = self._look(prompt.session_id)
        if self._at_work_elsewhere(look):
            look = self._look(prompt.session_id, fresh=True)  # its turn may have ended since
        if self._at_work_elsewhere(look):
            raise SessionBusy(
                "another OpenCode process is at work on the session; they go in when its turn ends"
            )
        self._post(message_id, [_Part(id=part_id, type="text", text=prompt.text)], look)
        self._await_receipt(message_id, look)
        return receipt

    def turn(self, session_id: str) -> Turn:
        return self._turn(self._look(session_id, fresh=True))

    def resume(self, session_id: str, prompt_id: str) -> None:
        look = self._look(session_id, fresh=True)
        turn = self._turn(look)
        if turn.state is not TurnState.ABANDONED or turn.prompt_id != prompt_id:
            return
        if texts := self._texts(session_id, prompt_id):
            # the same ids and the same text: OpenCode adds nothing and runs the turn
            self._post(prompt_id, texts, look)

    # ------------------------------------------------------------------------------- prompts

    def _turn(self, look: _Look) -> Turn:
        session_id = look.session.id
        message_id = None if look.last is None else look.last.own_prompt
        if look.last is None or message_id is None:
            return Turn(session_id=session_id, state=TurnState.NONE)
        error = _turn_error(look.last)
        if error is not None:
            state = TurnState.FAILED
        elif look.last.is_over:
            state = TurnState.ANSWERED
        elif self._at_work_here(look):
            state = TurnState.RUNNING
        else:
            error = self._unknown_model(look)
            state = TurnState.ABANDONED if error is None else TurnState.FAILED
        return Turn(session_id=session_id, state=state, prompt_id=message_id, error=error)

    def _post(self, message_id: str, parts: list[_Part], look: _Look) -> None:
        session = look.session
        body: dict[str, Any] = {"messageID": message_id, "parts": list(map(asdict, parts))}
        if session.agent is not None:
            body["agent"] = session.agent
        if session.model is not None:
            body["model"] = {"providerID": session.model.provider, "modelID": session.model.id}
            if session.model.variant is not None:
                body["variant"] = session.model.variant
        response = self._request("POST", f"{_path(session.id)}/prompt_async", body=body)
        if "content-type" in response.headers and not _is_json(response):
            raise self._strange(response)  # a page, of the web UI or of another program
        if response.status_code == httpx.codes.NOT_FOUND:
            raise _gone(session.id)
        if response.is_client_error:
            raise PromptInvalid(f"OpenCode will not take the prompt: {_explanation(response)}")

    def _await_receipt(self, message_id: str, look: _Look) -> None:
        give_up = time.monotonic() + self._timeout.total_seconds()
        wait = _FIRST_LOOK
        while not self._texts(look.session.id, message_id):
            if time.monotonic() + wait > give_up:
                agent = look.session.agent
                cause = f": is there still an agent {agent}?" if agent else ""
                raise PromptNotHeld(f"OpenCode accepted the prompt, but it never appeared{cause}")
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _texts(self, session_id: str, message_id: str) -> list[_Part]:
        """What the session holds of a message: none while it is not there, or not yet whole."""
        held = self._get(f"{_path(session_id)}/message/{message_id}", _Message)
        return [] if held is None else [part for part in held.parts if part.type == "text"]

    # ------------------------------------------------------------------------------ sessions

    def _list(self, since: datetime) -> list[_SessionRow]:
        parameters = {"roots": "true", "start": _milliseconds(since), "limit": _LISTED}
        response = self._request("GET", "/experimental/session", params=parameters)
        if not response.is_success or not _is_json(response):
            # an OpenCode from before this listing; it may be a newer one that answers next
            response = self._request("GET", "/session", params=parameters)
        return self._decode(response, list[_SessionRow])

    def _look(self, session_id: str, *, fresh: bool = False) -> _Look:
        now = time.monotonic()
        with self._lock:
            known = self._looks.get(session_id)
        if not fresh and known is not None and now - known[0] < _FRESH:
            return known[1]
        path = _path(session_id)
        session = self._get(path, _SessionRow)
        messages = self._get(f"{path}/message", list[_Message], {"limit": 1})
        if session is None or messages is None:
            raise _gone(session_id)
        look = _Look(session=session, last=messages[-1].info if messages else None)
        with self._lock:
            if len(self._looks) >= _LISTED:
                self._looks.clear()
            self._looks[session_id] = (now, look)
        return look

    def _at_work_elsewhere(self, look: _Look) -> bool:
        last = look.last
        if last is None or last.is_over or last.own_prompt is not None:
            return False
        if self._clock.now() - last.time.created > self._busy_limit:
            return False  # a turn that was killed looks like this, for ever
        return not self._at_work_here(look)

    def _at_work_here(self, look: _Look) -> bool:
        """Whether this server itself runs, or is about to repeat, a turn of the session."""
        parameters = {"directory": look.session.directory}
        status = self._get("/session/status", dict[str, _Status], parameters) or {}
        return look.session.id in status and status[look.session.id].type != "idle"

    def _unknown_model(self, look: _Look) -> TurnFailed | None:
        """OpenCode says nothing at all when it does not know a session's model."""
        model = look.session.model
        if model is None:
            return None
        parameters = {"directory": look.session.directory}
        known = self._get("/config/providers", _Providers, parameters)
        if known is None or any(
            provider.id == model.provider and model.id in provider.models
            for provider in known.providers
        ):
            return None
        name = f"{model.provider}/{model.id}"
        return TurnFailed(f"OpenCode knows no model {name}: choose another one in that session")

    # ---------------------------------------------------------------------------------- HTTP

    def _get(self, path: str, kind: type[T], parameters: dict[str, Any] | None = None) -> T | None:
        """What lies there; None for a 404."""
        response = self._request("GET", path, params=parameters)
        if response.status_code == httpx.codes.NOT_FOUND and _is_json(response):
            return None
        return self._decode(response, kind)

    def _decode(self, response: httpx.Response, kind: type[T]) -> T:
        if not response.is_success or not _is_json(response):
            raise self._strange(response)
        try:
            return _structured(response.content, kind)
        except (BaseValidationError, ValueError, TypeError, RecursionError) as error:
            raise self._strange(response) from error

    def _strange(self, response: httpx.Response) -> RelayUnreachable:
        path = response.request.url.path
        return RelayUnreachable(
            f"{self.url} answered {response.status_code} to {path}, but not as OpenCode does: is "
            "it another program, or an OpenCode of another age?"
        )

    def _request(
        self, method: str, path: str, *, params: dict[str, Any] | None = None, body: Any = None
    ) -> httpx.Response:
        query = f"?{urlencode(params)}" if params else ""
        request = httpx.Request(
            method,
            httpx.URL(f"{self.url}{path}{query}"),
            headers=self._headers,
            json=body,
            extensions=self._limits,
        )
        try:
            response = self._transport.handle_request(request)
            response.request = request
            response.read()
        except httpx.TimeoutException as error:
            seconds = f"{self._timeout.total_seconds():g} s"
            raise RelayUnreachable(
                f"{self.url} did not answer within {seconds}: restart OpenCode if that goes on"
            ) from error
        except httpx.HTTPError as error:
            raise RelayUnreachable(
                f"{self.url} cannot be reached ({error}): is OpenCode running there?"
            ) from error
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise RelayRefused(
                f"{self.url} wants another password: set OPENCODE_SERVER_PASSWORD to the one it "
                "was started with"
            )
        if response.is_server_error:
            status = response.status_code
            raise RelayUnreachable(
                f"{self.url} answered {status} ({_explanation(response)}): OpenCode's log tells why"
            )
        return response


def _ids(prompt: Prompt) -> tuple[str, str]:
    """OpenCode's names of a prompt's message and part: the same for the same prompt.

    Laid out as OpenCode's own are: 12 hex digits of the time, then 14 of base 62.
    """
    moment = (_milliseconds(prompt.written) * 0x1000) % 2**48
    digest = hashlib.sha256(f"{prompt.id} {prompt.session_id}".encode()).digest()
    tail = "".join(_BASE62[byte % len(_BASE62)] for byte in digest)[: 14 - len(_OWN)]
    return f"msg_{moment:012x}{_OWN}{tail}", f"prt_{moment:012x}{_OWN}{tail}"


def _turn_error(last: _Info) -> TurnFailed | None:
    if last.error is None or last.error.name == "MessageAbortedError":  # its user stopped it
        return None
    return TurnFailed(f"{last.error.name}: {last.error.data.get('message', 'no reason given')}")


def _gone(session_id: str) -> SessionUnknown:
    return SessionUnknown(f"OpenCode has no session {session_id} any more")


def _path(session_id: str) -> str:
    """Where a session lies, if its id can be one."""
    if not _SESSION.fullmatch(session_id):
        raise SessionUnknown(f"{shown(session_id)} is no session of OpenCode")
    return f"/session/{session_id}"


def _structured(content: bytes, kind: type[T]) -> T:
    """Raises TypeError, ValueError, RecursionError or BaseValidationError for anything else."""
    said = json.loads(content)
    if not isinstance(said, get_origin(kind) or dict):  # cattrs takes {} for an empty list
        raise TypeError(f"expected {kind}, found {type(said)}")
    return _CONVERTER.structure(said, kind)


def _milliseconds(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def _is_json(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("application/json")


def _explanation(response: httpx.Response) -> str:
    """What OpenCode says is wrong, on one line."""
    try:
        said = str(response.json()["data"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = response.text[:200] or response.reason_phrase
    return " ".join(said.split())
