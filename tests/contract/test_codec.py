"""The codec: what is written is read back, and whatever else is read gives a value or a fault.

How each fault reaches the user, beside a file, is shown in `test_spool`.
"""

from __future__ import annotations

import json
import os
import string
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenthub_adapters import codec
from agenthub_core import (
    EVERYONE,
    Agent,
    Delivery,
    Fault,
    Message,
    MessageType,
    Outcome,
    Priority,
    Query,
    Settlement,
)
from agenthub_core.testing import NOON
from tests.unit.builders import agent, message

# a file system or a loaded machine may make a single example slow, which is no fault of the codec
quick = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    max_examples=100,
    derandomize=bool(os.environ.get("CI")),
)

FIELDS = {"id", "from", "to", "type", "content", "priority", "threadId", "timestamp", "read"}
OWN = {codec.OUTCOME_KEY, codec.VERIFIED_KEY}
KEY = b"\x00\xff" * 16

identifiers = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=100)
texts = st.text(st.characters(exclude_categories=["Cs"]))
said = texts.filter(str.strip)
times = st.integers(100_000_000_000, 253_402_300_799_999).map(
    lambda milliseconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
)
any_text = st.text(st.characters(exclude_categories=[]))  # lone surrogates too: JSON can spell them
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
AZORES = timezone(-timedelta(hours=1))
keys = any_text.filter(lambda key: key not in FIELDS | OWN)

messages = st.builds(
    Message,
    id=identifiers,
    sender=identifiers,
    recipient=identifiers,
    type=st.sampled_from(MessageType),
    content=said,
    priority=st.sampled_from(Priority),
    thread_id=identifiers,
    timestamp=times,
    read=st.booleans(),
    extra=st.dictionaries(keys, json_values, max_size=4),
)
deliveries = st.builds(
    Delivery,
    recipient=identifiers,
    session_id=st.none() | texts,
    held_at=st.none() | times,
    attempts=st.integers(0, 1000),
    reason=texts,
)
settlements = st.builds(
    Settlement,
    key=texts,
    message=messages,
    outcome=st.sampled_from(Outcome),
    at=times,
    deliveries=st.lists(deliveries, max_size=3).map(tuple),
    reason=texts,
)


def decode(data: bytes) -> Message | Fault:
    return codec.decode_message(data, stem="stem", written=NOON)


# ---------------------------------------------------------------------------------- there and back


@quick
@given(messages)
def test_any_message_is_read_as_it_was_written(written: Message) -> None:
    assert decode(codec.encode_message(written)) == written


@quick
@given(settlements)
def test_any_settlement_is_read_as_it_was_written(written: Settlement) -> None:
    data = codec.encode_settlement(written)
    assert codec.decode_settlement(data, name=written.key) == written


@quick
@given(settlements)
def test_any_settled_message_can_be_put_back_as_it_was(settled: Settlement) -> None:
    assert decode(codec.encode_settlement(settled)) == settled.message


@quick
@given(messages, st.timezones(), st.integers(0, 999))
def test_a_message_as_read_is_what_its_file_gives_back(
    written: Message, zone: Any, microseconds: int
) -> None:
    fine = written.timestamp + timedelta(microseconds=microseconds)
    try:
        elsewhere = fine.astimezone(zone)
    except OverflowError:  # the last hours of the year 9999
        elsewhere = fine
    assert codec.as_read(message(timestamp=elsewhere)) == decode(
        codec.encode_message(message(timestamp=elsewhere))
    )


@quick
@given(st.dictionaries(any_text, json_values, max_size=4))
def test_what_others_added_to_an_agent_is_kept(theirs: dict[str, Any]) -> None:
    written = codec.decode_object(codec.encode_agent(agent("bob", directory="/work"), theirs))
    assert isinstance(written, dict)
    own = {"id", "sessionId", "projectPath", "lastSeen"}
    assert {key: written[key] for key in theirs if key not in own} == {
        key: value for key, value in theirs.items() if key not in own
    }
    assert written["id"] == "bob"
    assert codec.decode_time(written["lastSeen"]) == agent().last_seen


def test_a_message_looks_as_others_expect_it() -> None:
    data = codec.encode_message(message(content="Grüße", extra={"metadata": {"n": 1}}))
    assert json.loads(data) == {
        "id": "m1",
        "from": "alice",
        "to": "bob",
        "type": "context",
        "content": "Grüße",
        "priority": "normal",
        "threadId": "t1",
        "timestamp": 1767268800000,
        "read": False,
        "metadata": {"n": 1},
    }
    assert "Grüße".encode() in data, "a person can read it"


def test_what_is_kept_beside_a_message_takes_the_place_of_nothing_it_says() -> None:
    taken = dict.fromkeys(FIELDS | {codec.OUTCOME_KEY}, "human")
    written = message(extra=taken | {"metadata": 1})
    settled = Settlement(key="k", message=written, outcome=Outcome.DELIVERED, at=NOON)

    plainly = message(extra={"metadata": 1})
    assert decode(codec.encode_message(written)) == plainly
    assert codec.decode_settlement(codec.encode_settlement(settled), name="k") == Settlement(
        key="k", message=plainly, outcome=Outcome.DELIVERED, at=NOON
    )


def test_an_outcome_looks_as_the_readme_tells() -> None:
    delivered = Delivery(recipient="bob", session_id="ses_1", held_at=NOON, attempts=1)
    failed = Delivery(recipient="carol", attempts=3, reason="no such session")
    settled = Settlement(
        key="m1.json",
        message=message(),
        outcome=Outcome.EXPIRED,
        at=NOON,
        deliveries=(delivered, failed),
        reason="its time to live ended",
    )
    assert json.loads(codec.encode_settlement(settled))["agenthub"] == {
        "outcome": "expired",
        "at": 1767268800000,
        "deliveries": [
            {"recipient": "bob", "session": "ses_1", "heldAt": 1767268800000, "attempts": 1},
            {"recipient": "carol", "attempts": 3, "reason": "no such session"},
        ],
        "reason": "its time to live ended",
    }


# ------------------------------------------------------------------------------- a quick look

# letters whose case is odd, and what JSON writes otherwise than it is
ODD = 'kK\u212aiI\u0130\u0131ßẞ\u03c3ςΣüÜ"\\/bnu \n\t\0\x1f\x7f\u2028\U0001f43c'
odd = st.text(st.sampled_from(ODD)) | st.text(st.characters(max_codepoint=0x7F))
plain = st.text(st.characters(max_codepoint=0x7F))
oddest = st.text(st.sampled_from("\u212ak\u0130\x7f"), min_size=1, max_size=3)
broken = st.text(st.sampled_from("a\udcff\ud800"), min_size=1)  # so that all is spelt in ASCII
names = st.sampled_from(["alice", "bob", "content", "false", EVERYONE])

odd_settlements = st.builds(
    Settlement,
    key=st.just("m1.json"),
    message=st.builds(
        message,
        sender=names,
        recipient=names,
        type=st.sampled_from(MessageType),
        content=(odd | plain | oddest).filter(str.strip),
        thread_id=names,
        timestamp=st.sampled_from([NOON, NOON + timedelta(hours=1)]),
        read=st.booleans(),
        extra=st.dictionaries(st.sampled_from(["metadata", "x"]), odd | plain)
        | st.builds(lambda text: {"x": text}, broken),
    ),
    outcome=st.sampled_from(Outcome),
    at=st.just(NOON),
    deliveries=st.lists(deliveries, max_size=1).map(tuple),
    reason=plain,
)
odd_words = st.builds(  # with nothing beside them in which their letters could stand by chance
    Settlement,
    key=st.just("m1.json"),
    message=st.builds(
        message,
        content=(odd | plain | oddest).filter(str.strip),
        extra=st.just({}) | st.builds(lambda text: {"x": text}, broken),
    ),
    outcome=st.just(Outcome.DELIVERED),
    at=st.just(NOON),
)


@st.composite
def other_letters(draw: st.DrawFn, content: str) -> str:
    """A piece of what was said, in small letters, capitals, or what comes close to them."""
    begin = draw(st.integers(0, len(content)))
    piece = content[begin : draw(st.integers(begin, len(content)))]
    cases = [piece, piece.lower(), piece.upper(), piece.swapcase(), piece.casefold()]
    return draw(st.sampled_from(cases))


@st.composite
def queries_that_may_meet(draw: st.DrawFn, settled: Settlement) -> Query:
    asked = settled.message
    return Query(
        id_prefix=draw(st.just("") | st.sampled_from([asked.id[:1], asked.id]) | names),
        agent=draw(st.none() | st.sampled_from([asked.sender, asked.recipient]) | names),
        sender=draw(st.none() | st.just(asked.sender) | names),
        recipient=draw(st.none() | st.just(asked.recipient) | names),
        thread_id=draw(st.none() | st.just(asked.thread_id) | names),
        type=draw(st.none() | st.just(asked.type) | st.sampled_from(MessageType)),
        outcomes=draw(
            st.none()
            | st.just(frozenset({settled.outcome}))
            | st.frozensets(st.sampled_from(Outcome))
        ),
        unread=draw(st.booleans()),
        text=draw(st.just("") | other_letters(asked.content) | odd | broken),
        since=draw(st.none() | st.just(asked.timestamp)),
    )


@quick
@given(st.data())
def test_a_quick_look_never_passes_over_what_the_query_accepts(data: st.DataObject) -> None:
    settled = data.draw(odd_settlements)
    query = data.draw(queries_that_may_meet(settled))
    if query.accepts(settled.message, settled.outcome):
        assert codec.screen(query)(codec.encode_settlement(settled))


@settings(quick, max_examples=300)
@given(st.data())
def test_a_quick_look_never_passes_over_what_was_said_in_other_letters(data: st.DataObject) -> None:
    settled = data.draw(odd_words)
    query = Query(text=data.draw(other_letters(settled.message.content)))
    if query.accepts(settled.message):
        assert codec.screen(query)(codec.encode_settlement(settled))


@pytest.mark.parametrize("extra", [{}, {"x": "\ud800"}], ids=["as it is", "in ASCII"])
@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("kelvin", "\u212aelvin"),
        ("KELVIN", "\u212aelvin"),
        ("i", "\u0130"),
        ("\u0130", "i\u0307"),
        ("grüße", "GRÜßE"),
        ("\x7f", "a\x7fb"),
        ("\0", "a\0b"),
        ('"a\\', 'say "A\\'),
        ("\U0001f43c", "a \U0001f43c"),
    ],
    ids=ascii,
)
def test_a_quick_look_does_not_pass_over_what_json_spells_otherwise(
    text: str, content: str, extra: dict[str, str]
) -> None:
    settled = Settlement(
        key="m1.json",
        message=message(content=content, extra=extra),
        outcome=Outcome.DELIVERED,
        at=NOON,
    )
    assert Query(text=text).accepts(settled.message)
    assert codec.screen(Query(text=text))(codec.encode_settlement(settled))


@pytest.mark.parametrize(
    "query",
    [
        Query(id_prefix="m2"),
        Query(agent="carol"),
        Query(sender="carol"),
        Query(recipient="carol"),
        Query(recipient="ali"),
        Query(thread_id="t2"),
        Query(type=MessageType.ERROR),
        Query(outcomes=frozenset({Outcome.EXPIRED, Outcome.REJECTED})),
        Query(unread=True),
        Query(text="harbour"),
        Query(text='"port"'),
        Query(sender="alice", text="harbour"),
        Query(sender="carol", text="port"),
    ],
)
def test_a_quick_look_passes_over_what_is_plainly_another(query: Query) -> None:
    data = codec.encode_settlement(
        Settlement(
            key="m1.json",
            message=message(content="Which port?", read=True),
            outcome=Outcome.DELIVERED,
            at=NOON,
        )
    )
    assert codec.screen(Query())(data)
    assert codec.screen(Query(agent="bob", text="WHICH PORT", thread_id="t1"))(data)
    assert not codec.screen(query)(data)


def test_a_quick_look_at_an_agents_records_does_not_pass_over_broadcasts() -> None:
    told = Settlement(
        key="m1.json", message=message(recipient=EVERYONE), outcome=Outcome.DELIVERED, at=NOON
    )
    assert codec.screen(Query(agent="carol"))(codec.encode_settlement(told))


# ------------------------------------------------------------------------------------- the mark


def settled_(written: Message) -> Settlement:
    return Settlement(key="k", message=written, outcome=Outcome.DELIVERED, at=NOON)


def verified(data: bytes, key: bytes = KEY) -> bool:
    read = codec.decode_message(data, stem="stem", written=NOON, key=key)
    assert isinstance(read, Message)
    assert codec.VERIFIED_KEY not in read.extra
    return read.verified


@quick
@given(messages, st.booleans(), st.timedeltas(timedelta(0), timedelta(microseconds=999)))
def test_who_has_the_key_reads_of_any_message_whether_it_is_verified(
    written: Message, mark: bool, more: timedelta
) -> None:
    written = evolve(written, verified=mark)
    late = evolve(written, timestamp=written.timestamp + more)
    for each in written, evolve(late, timestamp=late.timestamp.astimezone(AZORES)):
        assert verified(codec.encode_message(each, KEY)) is mark
        assert verified(codec.encode_settlement(settled_(each), KEY)) is mark
        again = codec.decode_settlement(
            codec.encode_settlement(settled_(each), KEY), name="k", key=KEY
        )
        assert isinstance(again, Settlement)
        assert again.message.verified is mark


def test_without_the_key_nothing_is_verified() -> None:
    ours = codec.encode_message(message(verified=True), KEY)
    assert not verified(ours, b"")
    assert not verified(ours, KEY[::-1])
    assert b"verified" not in codec.encode_message(message(verified=True))


@pytest.mark.parametrize("theirs", [True, False, 1, "", "é", "\ud800", "f" * 64, None, [], {}])
def test_who_only_says_that_it_is_verified_is_not(theirs: object) -> None:
    document = json.loads(codec.encode_message(message())) | {"verified": theirs}
    assert not verified(json.dumps(document).encode())
    assert not verified(json.dumps(document).encode(), b"")


@pytest.mark.parametrize("name", ["id", "from", "to", "content", "threadId"])
def test_a_mark_holds_for_its_own_message_only(name: str) -> None:
    document = json.loads(codec.encode_message(message(verified=True), KEY))
    assert verified(json.dumps(document).encode())
    assert verified(json.dumps(document | {"read": True}).encode())
    assert not verified(json.dumps(document | {name: "another"}).encode())


def test_nobody_is_shown_a_mark() -> None:
    written = message(verified=True, extra={"verified": "f" * 64})
    assert codec.message_object(written)["verified"] is True
    assert codec.settlement_object(settled_(written))["verified"] is True


# ------------------------------------------------------------------------------ what an agent says


@quick
@given(st.dictionaries(any_text, json_values, max_size=4))
def test_what_others_added_to_an_agent_survives_its_registration(theirs: dict[str, Any]) -> None:
    bob = agent("bob", directory="/work", role="Reviews", capabilities=("sql",))
    written = codec.decode_object(codec.encode_registration(bob, theirs))
    assert isinstance(written, dict)
    own = {
        "id": "bob",
        "projectPath": "/work",
        "lastSeen": 1767268800000,
        "role": "Reviews",
        "capabilities": ["sql"],
        "status": "active",
        "collaboratesWith": [],
    }
    assert written == theirs | own


@quick
@given(json_values)
def test_the_words_of_any_json_are_its_strings(value: object) -> None:
    words = codec.decode_words(value)
    assert (
        list(words) == [each for each in value if isinstance(each, str)]
        if isinstance(value, list)
        else words == ()
    )


def test_a_message_is_an_object_and_a_settlement_one_with_its_outcome() -> None:
    written = message(extra={"metadata": {"n": 1}})
    settled = Settlement(key="k", message=written, outcome=Outcome.DELIVERED, at=NOON)
    unverified = {"verified": False}
    assert codec.message_object(written) == json.loads(codec.encode_message(written)) | unverified
    assert codec.settlement_object(settled) == codec.message_object(written) | {
        "agenthub": {"outcome": "delivered", "at": 1767268800000, "deliveries": []}
    }
    filed = json.loads(codec.encode_settlement(settled))
    assert codec.settlement_object(settled) == filed | unverified


# ---------------------------------------------------------------------------- whatever others write


@quick
@given(st.binary())
def test_any_bytes_give_a_value_or_a_fault(data: bytes) -> None:
    assert isinstance(decode(data), Message | Fault)
    assert isinstance(codec.decode_settlement(data, name="k"), Settlement | Fault)
    assert isinstance(codec.decode_object(data), dict | Fault)


@quick
@given(json_values)
def test_any_json_gives_a_value_or_a_fault(value: object) -> None:
    data = json.dumps(value).encode()
    assert isinstance(decode(data), Message | Fault)
    assert isinstance(codec.decode_settlement(data, name="k"), Settlement | Fault)
    assert isinstance(codec.decode_time(value), datetime)


def mutated(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The document, where the values of some of its keys are anything, or gone."""
    changes = st.dictionaries(st.sampled_from(sorted(document)), json_values, max_size=3)
    gone = st.sets(st.sampled_from(sorted(document)), max_size=2)
    return st.builds(
        lambda new, left_out: {
            key: value for key, value in (document | new).items() if key not in left_out
        },
        changes,
        gone,
    )


WHOLE = json.loads(codec.encode_message(message()))
DELIVERY = {"recipient": "bob", "session": "s", "heldAt": 1767268800000, "attempts": 1}
RECORD: dict[str, Any] = {
    "outcome": "delivered",
    "at": 1767268800000,
    "deliveries": [DELIVERY],
    "reason": "",
}


@quick
@given(mutated(WHOLE))
def test_a_message_with_any_values_gives_a_message_or_names_one_of_its_fields(
    document: dict[str, Any],
) -> None:
    reading = decode(json.dumps(document).encode())
    if isinstance(reading, Fault):
        assert reading.field in FIELDS
        assert reading.found.isascii() or "…" in reading.found
        assert len(reading.found) < 200
    else:
        assert decode(codec.encode_message(reading)) == reading


@quick
@given(mutated(RECORD) | st.builds(lambda one: RECORD | {"deliveries": [one]}, mutated(DELIVERY)))
def test_a_settlement_with_any_values_gives_a_settlement_or_a_fault(record: dict[str, Any]) -> None:
    data = json.dumps(WHOLE | {"agenthub": record}).encode()
    assert isinstance(codec.decode_settlement(data, name="k"), Settlement | Fault)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        "delivered",
        RECORD | {"outcome": "lost"},
        RECORD | {"outcome": None},
        RECORD | {"at": None},
        RECORD | {"at": 1767268800},
        RECORD | {"deliveries": None},
        RECORD | {"deliveries": 5},
        RECORD | {"deliveries": "bob"},
        RECORD | {"deliveries": {"recipient": "bob"}},
        RECORD | {"deliveries": [None]},
        RECORD | {"deliveries": [{}]},
        RECORD | {"deliveries": [DELIVERY | {"recipient": 5}]},
        RECORD | {"deliveries": [DELIVERY | {"attempts": "many"}]},
        RECORD | {"reason": None},
    ],
    ids=repr,
)
def test_a_record_that_cannot_be_an_outcome_is_a_fault(record: object) -> None:
    data = json.dumps(WHOLE | {"agenthub": record}).encode()
    fault = codec.decode_settlement(data, name="k")
    assert isinstance(fault, Fault)
    assert fault.field == "agenthub"


def test_a_message_that_was_not_settled_is_no_settlement() -> None:
    fault = codec.decode_settlement(codec.encode_message(message()), name="k")
    assert fault == Fault(field="agenthub", found="None", expected="the outcome, an object")


@pytest.mark.parametrize("depth", [100, 330, 500, 900, 990, 1000, 3000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":[', "]}")])
def test_nesting_of_any_depth_is_a_fault(depth: int, opening: str, closing: str) -> None:
    fault = decode((opening * depth + closing * depth).encode())
    assert fault == Fault(field="the file", found="deeper nesting", expected="at most 64 levels")


def test_nesting_up_to_the_limit_is_kept() -> None:
    nested: list[Any] = []
    for _ in range(codec.DEPTH - 2):  # the message itself is a level, and so is the innermost list
        nested = [nested]
    reading = decode(json.dumps(WHOLE | {"metadata": nested}).encode())
    assert isinstance(reading, Message)
    assert reading.extra == {"metadata": nested}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"from": "a b"}, ("from", "'a b'", "1 to 100 characters of A-Z a-z 0-9 _ -")),
        ({"to": 5}, ("to", "5", "a string")),
        ({"threadId": "../x"}, ("threadId", "'../x'", "1 to 100 characters of A-Z a-z 0-9 _ -")),
        ({"id": []}, ("id", "[]", "a string")),
        ({"type": "x"}, ("type", "'x'", "one of task, question, context, completion, error")),
        ({"priority": "x"}, ("priority", "'x'", "one of urgent, high, normal, low")),
        ({"content": " "}, ("content", "' '", "text that is not blank and is valid Unicode")),
        ({"read": 1}, ("read", "1", "a boolean")),
        (
            {"timestamp": 1},
            (
                "timestamp",
                "1 (are these seconds?)",
                "milliseconds since 1970, a number such as 1767225600000",
            ),
        ),
    ],
    ids=repr,
)
def test_a_fault_names_the_field_as_the_format_does(
    changes: dict[str, Any], fault: tuple[str, str, str]
) -> None:
    field, found, expected = fault
    assert decode(json.dumps(WHOLE | changes).encode()) == Fault(
        field=field, found=found, expected=expected
    )


def test_an_agent_is_written_over_what_was_known() -> None:
    written = codec.decode_object(
        codec.encode_agent(Agent(id="bob", last_seen=NOON), {"role": "x"})
    )
    assert written == {
        "id": "bob",
        "projectPath": "",
        "role": "x",
        "capabilities": [],
        "status": "active",
        "collaboratesWith": [],
        "lastSeen": 1767268800000,
        "sessionId": None,
    }
