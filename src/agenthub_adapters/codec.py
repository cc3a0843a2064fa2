"""JSON bytes to the model and back, in the formats of agent-hub-mcp 0.3.0 and opencode-agent-hub.

Reads with tolerance: unknown keys are kept, missing ones filled in where the format allows it.
Whatever cannot be a message comes back as a `Fault` that names the field, what was found and what
was expected. Milliseconds since 1970 exist here and nowhere else. Knows nothing of files.
"""

from __future__ import annotations

import enum
import hmac
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from attrs import evolve
from cattrs import Converter, transform_error
from cattrs.errors import AttributeValidationNote, ClassValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from agenthub_core import (
    EVERYONE,
    Agent,
    Delivery,
    Fault,
    InvalidValue,
    Message,
    Outcome,
    Query,
    Settlement,
)
from agenthub_core.model import fingerprint, is_identifier, shown

MESSAGE_SIZE = 1024 * 1024
"""Largest message, in bytes: a hundred times what agent-hub-mcp's 10,000 characters can take."""

DEPTH = 64
"""Deepest nesting of a message: more than metadata needs, far from any parser's own limit."""

OUTCOME_KEY = "agenthub"
"""The one key that only an archived message has, and that is not its sender's."""

VERIFIED_KEY = "verified"
"""Where a file has the hub's mark: what others write there counts for nothing, and is not kept."""

RATE_LIMITED_KEY = "rateLimited"
"""Stands in an archived message that its sender should not have written (opencode-agent-hub)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LOOKS_LIKE_SECONDS = 100_000_000_000  # as milliseconds this is 1973, as seconds the year 5138

_WIRE_NAMES = {"sender": "from", "recipient": "to", "thread_id": "threadId"}
_FIELDS = ("id", "from", "to", "type", "content", "priority", "threadId", "timestamp", "read")
_OPTIONAL = ("id", "priority", "threadId", "timestamp", "read")

T = TypeVar("T")


class _Unfit(Exception):  # never leaves this module
    """A value does not fit its field; which field that is, the converter knows."""

    def __init__(self, value: object, expected: str, hint: str = "") -> None:
        super().__init__(f"{shown(value)}{hint}", expected)
        self.found, self.expected = self.args


def to_milliseconds(when: datetime) -> int:
    """A time as the formats have it."""
    return (when - _EPOCH) // _MILLISECOND


def time_given(milliseconds: object) -> datetime:
    """A time that somebody has given. Raises ValueError with what was found and expected."""
    try:
        return _time(milliseconds, datetime)
    except _Unfit as unfit:
        raise ValueError(f"found {unfit.found}, expected {unfit.expected}") from unfit


def decode_time(value: object) -> datetime:
    """A time from a file; 1970 where there is none that can be used."""
    try:
        return _time(value, datetime)
    except _Unfit:
        return _EPOCH


def _time(value: object, _: object) -> datetime:
    expected = "milliseconds since 1970, a number such as 1767225600000"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unfit(value, expected)
    if abs(value) < _LOOKS_LIKE_SECONDS:
        raise _Unfit(value, expected, " (are these seconds?)")
    try:
        return _EPOCH + int(value) * _MILLISECOND
    except OverflowError:
        raise _Unfit(value, expected) from None


def _exactly(kind: type[T], name: str) -> Callable[[object, object], T]:
    def structure(value: object, _: object) -> T:
        if type(value) is not kind:
            raise _Unfit(value, name)
        return value

    return structure


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise _Unfit(value, "a list of objects")
    return value


def _member(value: object, kind: type[enum.Enum]) -> enum.Enum:
    for member in kind:
        if member.value == value:
            return member
    raise _Unfit(value, "one of " + ", ".join(str(member.value) for member in kind))


def _converter() -> Converter:
    converter = Converter()
    converter.register_structure_hook(str, _exactly(str, "a string"))
    converter.register_structure_hook(bool, _exactly(bool, "a boolean"))
    converter.register_structure_hook(datetime, _time)
    converter.register_structure_hook_func(
        lambda kind: isinstance(kind, type) and issubclass(kind, enum.Enum), _member
    )
    converter.register_unstructure_hook(datetime, to_milliseconds)
    converter.register_structure_hook(
        Message,
        make_dict_structure_fn(
            Message,
            converter,
            sender=override(rename="from"),
            recipient=override(rename="to"),
            thread_id=override(rename="threadId"),
        ),
    )
    converter.register_unstructure_hook(
        Message,
        make_dict_unstructure_fn(
            Message,
            converter,
            sender=override(rename="from"),
            recipient=override(rename="to"),
            thread_id=override(rename="threadId"),
            extra=override(omit=True),
        ),
    )
    converter.register_structure_hook(
        Delivery,
        make_dict_structure_fn(
            Delivery,
            converter,
            session_id=override(rename="session"),
            held_at=override(rename="heldAt"),
        ),
    )
    converter.register_unstructure_hook(
        Delivery,
        make_dict_unstructure_fn(
            Delivery,
            converter,
            session_id=override(rename="session", omit_if_default=True),
            held_at=override(rename="heldAt", omit_if_default=True),
            reason=override(omit_if_default=True),
        ),
    )
    return converter


_CONVERTER = _converter()


def decode_message(
    data: bytes, *, stem: str, written: datetime, key: bytes = b""
) -> Message | Fault:
    """The message in a file, or what is wrong with it.

    From `stem` (the file's name without its ending) comes the id of a message without one, and
    `written` (the file's time) is its timestamp, so that they are the same at each reading. A
    message without a thread begins one, under its own id. It is verified if it bears the mark that
    is made with the hub's `key`; without one, nothing is.
    """
    if len(data) > MESSAGE_SIZE:
        return _whole(f"more than {MESSAGE_SIZE} bytes", f"at most {MESSAGE_SIZE}")
    document = _parse(data)
    if isinstance(document, Fault):
        return document
    for name in (OUTCOME_KEY, RATE_LIMITED_KEY):  # a dead letter that somebody moved back
        document.pop(name, None)
    return _message(document, _id_from(stem), written, key)


def _id_from(stem: str) -> str:
    """A file may have any name, an id may not: then it is one that only that name leads to."""
    # in ASCII, for a name need not be UTF-8
    return stem if is_identifier(stem) else fingerprint(ascii(stem))[:_ID_LENGTH]


_ID_LENGTH = 24  # characters, as agent-hub-mcp has it


def as_read(message: Message) -> Message:
    """The message as its file will give it back: its time in UTC, to the millisecond."""
    when = _EPOCH + to_milliseconds(message.timestamp) * _MILLISECOND
    return evolve(message, timestamp=when)


def encode_message(message: Message, key: bytes = b"") -> bytes:
    """A message as others expect it in the spool; a verified one marked with the hub's `key`."""
    return _dump(_marked(message_object(message), message, key))


def _marked(document: dict[str, Any], message: Message, key: bytes) -> dict[str, Any]:
    """With the mark, or with nothing, in place of what only says that a message is verified."""
    del document[VERIFIED_KEY]
    if message.verified and key:
        document[VERIFIED_KEY] = _mark(as_read(message), key)
    return document


def _mark(message: Message, key: bytes) -> str:
    return hmac.digest(key, message.digest.encode(), "sha256").hex()


def decode_settlement(data: bytes, *, name: str, key: bytes = b"") -> Settlement | Fault:
    """A settled message and its outcome. `name` is where it lies, `key` the hub's."""
    document = _parse(data)
    if isinstance(document, Fault):
        return document
    record = document.pop(OUTCOME_KEY, None)
    document.pop(RATE_LIMITED_KEY, None)
    if not isinstance(record, dict):
        return Fault(field=OUTCOME_KEY, found=shown(record), expected="the outcome, an object")
    message = _message(document, name, _EPOCH, key)
    if isinstance(message, Fault):
        return message
    try:
        return Settlement(
            key=name,
            message=message,
            outcome=_CONVERTER.structure(record.get("outcome"), Outcome),
            at=_CONVERTER.structure(record.get("at"), datetime),
            deliveries=tuple(
                _CONVERTER.structure(delivery, Delivery)
                for delivery in _objects(record.get("deliveries", []))
            ),
            reason=_CONVERTER.structure(record.get("reason", ""), str),
        )
    except (_Unfit, ClassValidationError) as unfit:
        return Fault(field=OUTCOME_KEY, found=shown(record), expected=f"an outcome ({unfit})")


def message_object(message: Message) -> dict[str, Any]:
    """A message as a JSON object, as others expect it; without the mark, which nobody may see."""
    known: dict[str, Any] = _CONVERTER.unstructure(message)
    return known | {key: value for key, value in message.extra.items() if key not in known}


def settlement_object(settlement: Settlement) -> dict[str, Any]:
    """A settled message as a JSON object: all that its sender wrote, and the outcome."""
    record: dict[str, Any] = {
        "outcome": settlement.outcome.value,
        "at": to_milliseconds(settlement.at),
        "deliveries": [_CONVERTER.unstructure(delivery) for delivery in settlement.deliveries],
    }
    if settlement.reason:
        record["reason"] = settlement.reason
    limited = settlement.outcome is Outcome.RATE_LIMITED
    return (
        message_object(settlement.message)
        | ({RATE_LIMITED_KEY: True} if limited else {})
        | {OUTCOME_KEY: record}
    )


def screen(query: Query) -> Callable[[bytes], bool]:
    """A quick look at an encoded settlement: False only where the query does not accept it.

    It spares the decoding of thousands of records when few are looked for.
    """
    alternatives = [
        (query.agent, EVERYONE) if query.agent is not None else (),
        *((name,) for name in (query.sender, query.recipient, query.thread_id) if name is not None),
        (query.type.value,) if query.type is not None else (),
        tuple(outcome.value for outcome in query.outcomes or ()),
    ]
    needles = [
        tuple(f'"{value}"'.encode(errors="replace") for value in values)
        for values in alternatives
        if values
    ]
    if query.unread:
        needles.append((b'"read": false',))
    if query.id_prefix:
        needles.append((f'"id": "{query.id_prefix}'.encode(errors="replace"),))
    # what JSON escapes, and letters that have several small forms, only the decoder tells
    plain = query.text.isascii() and query.text.isprintable()
    text = json.dumps(query.text.lower())[1:-1].encode() if plain else b""

    def may_be_accepted(data: bytes) -> bool:
        for values in needles:
            if not any(value in data for value in values):
                return False
        return not text or text in data.lower() or not data.isascii() or rb"\u" in data

    return may_be_accepted


def encode_settlement(settlement: Settlement, key: bytes = b"") -> bytes:
    """A settled message as it stands in the archive: all that its sender wrote, and the outcome.

    A verified one is marked with the hub's `key`.
    """
    return _dump(_marked(settlement_object(settlement), settlement.message, key))


def encode_agent(agent: Agent, known: Mapping[str, Any]) -> bytes:
    """An agent's file: its session, over what others wrote into it."""
    own = {
        "id": agent.id,
        "sessionId": agent.session_id,
        "projectPath": agent.directory,
        "lastSeen": to_milliseconds(agent.last_seen),
    }
    return _dump(_said_of_itself(agent) | dict(known) | own)


def encode_registration(agent: Agent, known: Mapping[str, Any]) -> bytes:
    """An agent's file: what it says of itself, over what others wrote into it."""
    own = {
        "id": agent.id,
        "projectPath": agent.directory,
        "lastSeen": to_milliseconds(agent.last_seen),
    }
    rest = {key: value for key, value in known.items() if key != "program"}
    return _dump(rest | own | _said_of_itself(agent))


def _said_of_itself(agent: Agent) -> dict[str, Any]:
    return {
        "role": agent.role,
        "capabilities": list(agent.capabilities),
        "status": "active",
        "collaboratesWith": list(agent.collaborates_with),
    } | ({"program": agent.program} if agent.program else {})


def decode_words(value: object) -> tuple[str, ...]:
    """The strings of a list in a file that others write too; none where it is no list."""
    if not isinstance(value, list):
        return ()
    return tuple(word for word in value if isinstance(word, str))


def decode_object(data: bytes) -> dict[str, Any] | Fault:
    """Any JSON object that others may have written."""
    return _parse(data)


def encode_object(document: Mapping[str, Any]) -> bytes:
    """Any JSON object."""
    return _dump(document)


def _message(document: dict[str, Any], stem: str, written: datetime, key: bytes) -> Message | Fault:
    mark = document.pop(VERIFIED_KEY, None)
    for name in _OPTIONAL:
        if name in document and document[name] is None:
            del document[name]
    extra = {name: value for name, value in document.items() if name not in _FIELDS}
    known = {name: document[name] for name in _FIELDS if name in document}
    known.setdefault("id", stem)
    known.setdefault("threadId", known["id"])
    try:
        known.setdefault("timestamp", to_milliseconds(written))
        message = _CONVERTER.structure(known | {"extra": extra}, Message)
    except ClassValidationError as error:
        return _fault(error)
    if not key or not isinstance(mark, str) or not mark.isascii():
        return message
    verified = hmac.compare_digest(mark, _mark(message, key))
    return evolve(message, verified=True) if verified else message


def _fault(error: ClassValidationError) -> Fault:
    """The first thing that is wrong, in the words of the format."""
    first = error.exceptions[0]
    if isinstance(first, InvalidValue):
        name = _WIRE_NAMES.get(first.field, first.field)
        return Fault(field=name, found=first.found, expected=first.expected)
    notes = [note for note in first.__notes__ if isinstance(note, AttributeValidationNote)]
    name = _WIRE_NAMES.get(notes[0].name, notes[0].name)
    if isinstance(first, _Unfit):
        return Fault(field=name, found=first.found, expected=first.expected)
    if isinstance(first, KeyError):
        return Fault(field=name, found="nothing", expected="a value: this field is required")
    return Fault(field=name, found="; ".join(transform_error(error)), expected="another value")


def _parse(data: bytes) -> dict[str, Any] | Fault:
    try:
        text = data.decode("utf-8-sig")  # Windows editors put a mark in front
    except UnicodeDecodeError as error:
        return _whole(f"the byte 0x{data[error.start]:02x} at offset {error.start}", "UTF-8")
    if not text.strip():
        return _whole("nothing", "a JSON object")
    document = _load(text)
    if _too_deep(document):
        return _TOO_DEEP
    if isinstance(document, dict | Fault):
        return document
    return _whole(shown(document), "a JSON object")


def _load(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")  # of a string json says where it begins
        return _whole(f"{what} at line {error.lineno} column {error.colno}", "a JSON object")
    except ValueError as error:  # not finite, or an integer of thousands of digits
        return _whole(str(error), "numbers that JSON can hold")
    except RecursionError:
        return _TOO_DEEP


def _whole(found: str, expected: str) -> Fault:
    return Fault(field="the file", found=found, expected=expected)


_TOO_DEEP = _whole("deeper nesting", f"at most {DEPTH} levels")


def _too_deep(document: object) -> bool:
    level = [document]
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is beyond what a number can hold")
    return value


def _dump(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only JSON's own escapes can spell
        return json.dumps(document, indent=2, allow_nan=False).encode()
