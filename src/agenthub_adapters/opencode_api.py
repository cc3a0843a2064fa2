"""OpenCode's HTTP API as far as the hub uses it, as measured on OpenCode 1.18.33.

One method for each request, one class for each thing that is answered. Whatever else happens, a
refusal, a page of somebody's web UI, JSON of another shape, leaves as one of the core's errors.
What is to be asked when, and what the answers mean, is the relay's business (`opencode`).
"""

from __future__ import annotations

import base64
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NewType, TypeVar, get_origin
from urllib.parse import urlencode

import httpx
from attrs import asdict, field, frozen, validators
from cattrs import BaseValidationError, Converter, transform_error
from cattrs.gen import make_dict_structure_fn

from agenthub_core import PromptInvalid, RelayRefused, RelayUnreachable, SessionUnknown, Usage
from agenthub_core.model import IDENTIFIER_LENGTH, shown

_log = logging.getLogger(__name__)

USER = "opencode"
"""The user name that OpenCode's basic authentication expects by default."""

_SESSION_ID = re.compile(rf"ses[A-Za-z0-9_-]{{,{IDENTIFIER_LENGTH - 3}}}")
"""Other ids than these OpenCode answers with an error of its own, and some mean another path."""

OWN = "AgHub"
"""Stands in the ids of the hub's messages where OpenCode's own are random (one in 62**5 is so by
chance): thus they are known, in any process and after any restart. The plugin knows them, too."""

OWN_PROMPT = re.compile(rf"msg_[0-9a-f]{{12}}{OWN}[0-9A-Za-z]+")

_LISTED = 10_000
"""Sessions asked for at once: more than anybody has active in an hour; 5,000 take 45 ms."""

_TOLD = 1000
"""Odd sessions that are told of: who has read of so many need not hear of the others."""

Unicode = NewType("Unicode", str)
"""A string as it is, and without the lone surrogates that JSON can spell and UTF-8 cannot."""


@frozen(kw_only=True)
class Times:
    created: datetime
    updated: datetime | None = None
    completed: datetime | None = None
    archived: datetime | None = None


@frozen(kw_only=True)
class Model:
    id: Unicode
    provider: Unicode = field(alias="providerID")
    variant: Unicode | None = None


@frozen(kw_only=True)
class Rule:
    """What a session may do; of those that fit, the last one holds."""

    permission: str
    action: str
    pattern: str = "*"


@frozen(kw_only=True)
class Cache:
    read: int = 0
    write: int = 0


@frozen(kw_only=True)
class Tokens:
    """Sums over the session; `input` without what was cached, `output` without the reasoning."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache: Cache = field(factory=Cache)


@frozen(kw_only=True)
class Setting:
    """A session, and what it works with: each prompt must name that, for it to stay so."""

    id: str = field(validator=validators.matches_re(_SESSION_ID))
    agent: Unicode | None = None
    model: Model | None = None


@frozen(kw_only=True)
class SessionRow(Setting):
    time: Times
    slug: Unicode = Unicode("")
    title: Unicode = Unicode("")
    directory: Unicode = Unicode("")
    cost: float = 0.0
    tokens: Tokens = field(factory=Tokens)


@frozen(kw_only=True)
class RuledRow(SessionRow):
    """A session with the rules of its own, which may be of another shape in those of others."""

    permission: list[Rule] | None = None


@frozen(kw_only=True)
class Failure:
    name: str
    data: dict[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Info:
    """What a message is, without its parts."""

    id: str
    role: str
    time: Times
    parent: str = field(default="", alias="parentID")
    finish: str | None = None
    error: Failure | None = None


@frozen(kw_only=True)
class Part:
    id: str
    type: str
    text: str = ""
    synthetic: bool = False
    """Said by a program: OpenCode shows it to the model alone, and makes no title of it."""


@frozen(kw_only=True)
class StoredMessage:
    info: Info
    parts: list[Part]


@frozen(kw_only=True)
class Status:
    type: str


@frozen(kw_only=True)
class Provider:
    id: str
    models: dict[str, Any]


@frozen(kw_only=True)
class _Providers:
    providers: list[Provider]


T = TypeVar("T")
Row = TypeVar("Row", bound=SessionRow)


def _unicode(value: object, _: type) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, found {type(value).__name__}")
    if not value.isascii():
        value.encode()
    return value


def _figure(value: object, kind: Callable[..., float]) -> float:
    """None where nobody can read it: a session is more than what it has cost."""
    try:
        figure = kind(value)
        return figure if math.isfinite(figure) else kind()
    except (TypeError, ValueError, OverflowError):
        return kind()


def _figures(kind: type[T]) -> Callable[[object, type], T]:
    structure = make_dict_structure_fn(kind, _CONVERTER)
    return lambda value, _: structure(value, kind) if isinstance(value, dict) else kind()


_CONVERTER = Converter(use_alias=True)
_CONVERTER.register_structure_hook(
    datetime, lambda milliseconds, _: datetime.fromtimestamp(milliseconds / 1000, UTC)
)
_CONVERTER.register_structure_hook(Unicode, _unicode)
for _number in (int, float):
    _CONVERTER.register_structure_hook(_number, _figure)
for _sums in (Cache, Tokens):
    _CONVERTER.register_structure_hook(_sums, _figures(_sums))


class OpenCodeApi:
    """One server. Close it when done. May be called from several threads.

    Every method raises `RelayUnreachable` or `RelayRefused`, and `SessionUnknown` for an id that no
    session can have. `timeout` bounds each request.
    """

    def __init__(self, url: str, *, user: str, password: str | None, timeout: timedelta) -> None:
        self._url = url.rstrip("/")
        # Not a Client: cookies, redirects, proxies and the merging of URLs have no business between
        # two programs of one machine, and take half of the time that a request costs. Nor has the
        # world's list of authorities, which takes 20 ms to read, where nothing is encrypted.
        self._transport = httpx.HTTPTransport(verify=self._url.startswith("https:"))
        self._headers = [("host", httpx.URL(self._url).netloc.decode())]
        if password is not None:
            credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers.append(("authorization", f"Basic {credentials}"))
        self._seconds = timeout.total_seconds()
        phases = ("connect", "read", "write", "pool")
        self._limits = {"timeout": dict.fromkeys(phases, self._seconds)}
        self._told: set[str] = set()

    def close(self) -> None:
        """Give back the connections."""
        self._transport.close()

    def sessions(self, since: datetime) -> list[SessionRow]:
        """The sessions of all projects that were active since then, latest first.

        Subagents and archived ones are not among them.
        """
        start = int(since.timestamp() * 1000)
        parameters = {"roots": "true", "start": start, "limit": _LISTED}
        response = self._request("GET", "/experimental/session", parameters=parameters)
        return self._rows(response, SessionRow)

    def sessions_titled(self, title: str, directory: str) -> list[RuledRow]:
        """The sessions of a directory whose title contains this, latest first."""
        parameters = {"roots": "true", "directory": directory, "search": title}
        response = self._request("GET", "/experimental/session", parameters=parameters)
        return self._rows(response, RuledRow)

    def create(
        self, *, title: str, directory: str, agent: str, model: Model, rules: Sequence[Rule]
    ) -> SessionRow:
        """A new session, with rules of its own that go before those of its user."""
        body = {
            "title": title,
            "agent": agent,
            "model": {"providerID": model.provider, "id": model.id},
            "permission": list(map(asdict, rules)),
        }
        parameters = {"directory": directory}
        response = self._request("POST", "/session", parameters=parameters, body=body)
        return self._decode(response, SessionRow)

    def session(self, session_id: str) -> SessionRow | None:
        return self._get(_path(session_id), SessionRow)

    def last_messages(self, session_id: str, count: int) -> list[StoredMessage] | None:
        """The newest messages of a session, oldest first; None where there is no such session."""
        return self._get(f"{_path(session_id)}/message", list[StoredMessage], {"limit": count})

    def message(self, session_id: str, message_id: str) -> StoredMessage | None:
        return self._get(f"{_path(session_id)}/message/{message_id}", StoredMessage)

    def statuses(self, directory: str) -> Mapping[str, Status]:
        """The directory's sessions that are at work in the server's own process."""
        return self._get("/session/status", dict[str, Status], {"directory": directory}) or {}

    def providers(self, directory: str) -> Sequence[Provider] | None:
        """Who offers models there; None where the server does not tell."""
        known = self._get("/config/providers", _Providers, {"directory": directory})
        return None if known is None else known.providers

    def prompt(self, session_id: str, body: Mapping[str, Any]) -> None:
        """Hand a prompt to a session. It is accepted, not held.

        Raises `SessionUnknown` and `PromptInvalid`.
        """
        response = self._request("POST", f"{_path(session_id)}/prompt_async", body=body)
        if "content-type" in response.headers and not _is_json(response):
            raise self._strange(response)  # a page, of the web UI or of another program
        if response.status_code == httpx.codes.NOT_FOUND:
            raise gone(session_id)
        if response.is_client_error:
            raise PromptInvalid(f"OpenCode will not take the prompt: {_explanation(response)}")

    # ------------------------------------------------------------------------------- beneath

    def _get(self, path: str, kind: type[T], parameters: dict[str, Any] | None = None) -> T | None:
        """What lies there; None for a 404."""
        response = self._request("GET", path, parameters=parameters)
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

    def _rows(self, response: httpx.Response, kind: type[Row]) -> list[Row]:
        """One by one: all messages would wait for the one session that is of another shape."""
        rows = []
        for said in self._decode(response, list[Any]):
            try:
                rows.append(_CONVERTER.structure(said, kind))
            except (BaseValidationError, TypeError) as error:
                self._tell_odd(said, error)
        return rows

    def _tell_odd(self, said: object, error: Exception) -> None:
        session_id = shown(said.get("id") if isinstance(said, dict) else said)
        if session_id in self._told or len(self._told) >= _TOLD:
            return
        self._told.add(session_id)
        _log.warning(
            "OpenCode's session %s is left out, for what OpenCode says of it cannot be read (%s). "
            "If you need it no more, `opencode session delete` removes it",
            session_id,
            "; ".join(transform_error(error)),
            extra={"topic": "session.odd"},
        )

    def _strange(self, response: httpx.Response) -> RelayUnreachable:
        path = response.request.url.path
        return RelayUnreachable(
            f"{self._url} answered {response.status_code} to {path}, but not as OpenCode does: is "
            "it another program, or an OpenCode of another age?"
        )

    def _request(
        self,
        method: str,
        path: str,
        *,
        parameters: dict[str, Any] | None = None,
        body: Any = None,
    ) -> httpx.Response:
        query = f"?{urlencode(parameters)}" if parameters else ""
        request = httpx.Request(
            method,
            httpx.URL(f"{self._url}{path}{query}"),
            headers=self._headers,
            json=body,
            extensions=self._limits,
        )
        try:
            response = self._transport.handle_request(request)
            response.request = request
            response.read()
        except httpx.TimeoutException as error:
            raise RelayUnreachable(
                f"{self._url} did not answer within {self._seconds:g} s: restart OpenCode if that "
                "goes on"
            ) from error
        except httpx.HTTPError as error:
            raise RelayUnreachable(
                f"{self._url} cannot be reached ({error}): is OpenCode running there?"
            ) from error
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise RelayRefused(
                f"{self._url} wants another password: set OPENCODE_SERVER_PASSWORD to the one it "
                "was started with"
            )
        if response.is_server_error:
            raise RelayUnreachable(
                f"{self._url} answered {response.status_code} ({_explanation(response)}): "
                "OpenCode's log tells why"
            )
        return response


def prompt_body(
    session: Setting, message_id: str, parts: Sequence[Part], *, wakes: bool = True
) -> Mapping[str, Any]:
    """A prompt for a session, with its own agent and model.

    One that does not wake is stored, and no turn is run on it.
    """
    body: dict[str, Any] = {"messageID": message_id, "parts": list(map(asdict, parts))}
    if not wakes:
        body["noReply"] = True
    if session.agent is not None:
        body["agent"] = session.agent
    if session.model is not None:
        body["model"] = {"providerID": session.model.provider, "modelID": session.model.id}
        if session.model.variant is not None:
            body["variant"] = session.model.variant
    return body


def usage(tokens: Tokens, cost: float) -> Usage:
    return Usage(
        input=tokens.input,
        output=tokens.output + tokens.reasoning,
        cache_read=tokens.cache.read,
        cache_write=tokens.cache.write,
        cost=cost,
    )


def summed(usages: Iterable[Usage]) -> Usage:
    every = [*usages]
    return Usage(
        input=sum(each.input for each in every),
        output=sum(each.output for each in every),
        cache_read=sum(each.cache_read for each in every),
        cache_write=sum(each.cache_write for each in every),
        cost=sum(each.cost for each in every),
    )


def gone(session_id: str) -> SessionUnknown:
    return SessionUnknown(f"OpenCode has no session {session_id} any more")


def _path(session_id: str) -> str:
    """Where a session lies, if its id can be one."""
    if not _SESSION_ID.fullmatch(session_id):
        raise SessionUnknown(f"{shown(session_id)} is no session of OpenCode")
    return f"/session/{session_id}"


def _structured(content: bytes, kind: type[T]) -> T:
    """Raises TypeError, ValueError, RecursionError or BaseValidationError for anything else."""
    said = json.loads(content)
    if not isinstance(said, get_origin(kind) or dict):  # cattrs takes {} for an empty list
        raise TypeError(f"expected {kind}, found {type(said)}")
    return _CONVERTER.structure(said, kind)


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
