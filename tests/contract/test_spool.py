"""What only the spool on files can show: what others write there, and what a crash leaves behind.

What every store promises is in `test_message_store`. Nothing here sleeps: the files' times are set,
and the clock is moved by hand.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agenthub_adapters.codec import DEPTH, MESSAGE_SIZE, encode_message, encode_settlement
from agenthub_adapters.spool import FileSpool
from agenthub_core import (
    Agent,
    Fault,
    InvalidSettings,
    InvalidValue,
    Malformed,
    Message,
    MessageType,
    Outcome,
    Priority,
    Query,
    Reading,
    Settlement,
    StoreClaimed,
    StoreUnreadable,
    StoreUnwritable,
    Unfinished,
    Unreadable,
)
from agenthub_core.testing import NOON, ManualClock
from tests.unit.builders import agent, message

GRACE = timedelta(seconds=2)
HOUR = timedelta(hours=1)

REFERENCE: dict[str, Any] = {
    "id": "k3v9x0q2m8d1z7c5b4n6a1s2",
    "from": "alice",
    "to": "bob",
    "type": "question",
    "content": "Which port does the API use?",
    "metadata": {"file": "api/main.py", "lines": [1, 2]},
    "timestamp": 1767268800000,
    "read": False,
    "threadId": "thread-1",
    "priority": "urgent",
}
"""A message as agent-hub-mcp 0.3.0 writes it; its time is noon."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def spool(tmp_path: Path, clock: ManualClock) -> FileSpool:
    spool = FileSpool(tmp_path / "hub", clock=clock)
    spool.prepare()
    return spool


def document(**changes: Any) -> bytes:
    """The reference's message with other values; `...` leaves a key out."""
    changed = REFERENCE | {name.rstrip("_"): value for name, value in changes.items()}
    kept = {name: value for name, value in changed.items() if value is not ...}
    return json.dumps(kept, indent=2).encode()


def write(path: Path, data: bytes, *, at: datetime) -> Path:
    """Write a file in place, as if at that time."""
    path.write_bytes(data)
    os.utime(path, ns=(0, int(at.timestamp() * 1000) * 1_000_000))
    return path


def settlement(key: str, settled: Message, **fields: Any) -> Settlement:
    defaults: dict[str, Any] = {"outcome": Outcome.DELIVERED, "at": NOON}
    return Settlement(key=key, message=settled, **(defaults | fields))


def waiting_in(spool: FileSpool) -> list[Reading]:
    return list(map(spool.read, spool.keys()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ------------------------------------------------------------------------------- how others write


def test_a_message_of_the_reference_is_read(spool: FileSpool) -> None:
    write(spool.messages / "k3v9.json", document(), at=NOON)

    assert spool.read("k3v9.json") == Message(
        id="k3v9x0q2m8d1z7c5b4n6a1s2",
        sender="alice",
        recipient="bob",
        type=MessageType.QUESTION,
        content="Which port does the API use?",
        priority=Priority.URGENT,
        thread_id="thread-1",
        timestamp=NOON,
        extra={"metadata": {"file": "api/main.py", "lines": [1, 2]}},
    )


def test_what_is_written_in_place_is_unfinished_until_it_is_a_message(
    spool: FileSpool, clock: ManualClock
) -> None:
    whole = document(content="größer")
    path = spool.messages / "m1.json"

    for length in range(len(whole)):
        write(path, whole[:length], at=clock.now())
        assert spool.read("m1.json") == Unfinished(), whole[:length]

    write(path, whole, at=clock.now())
    assert isinstance(spool.read("m1.json"), Message)


def test_a_slow_writer_is_waited_for_as_long_as_it_writes(
    spool: FileSpool, clock: ManualClock
) -> None:
    whole = document()
    for length in range(0, len(whole), 10):
        write(spool.messages / "m1.json", whole[:length], at=clock.now())
        clock.advance(GRACE - timedelta(milliseconds=1))
        assert spool.read("m1.json") == Unfinished()


def test_what_stays_half_written_is_malformed_after_the_grace(
    spool: FileSpool, clock: ManualClock
) -> None:
    write(spool.messages / "m1.json", document()[:50], at=NOON)
    clock.advance(GRACE)
    assert isinstance(spool.read("m1.json"), Malformed)


def test_a_file_from_the_future_was_not_written_just_now(spool: FileSpool) -> None:
    write(spool.messages / "m1.json", b"{", at=NOON + HOUR)
    assert isinstance(spool.read("m1.json"), Malformed)


def test_a_file_whose_time_is_absurd_is_read_all_the_same(spool: FileSpool) -> None:
    path = spool.messages / "m1.json"
    path.write_bytes(document(timestamp=...))
    os.utime(path, (0, -(2**33)))
    assert isinstance(spool.read("m1.json"), Message)


@pytest.mark.parametrize("place", [os.rename, os.link], ids=["renamed", "linked"])
def test_what_is_put_into_place_as_a_whole_is_seen_under_its_last_name_only(
    spool: FileSpool, place: Callable[[Path, Path], None]
) -> None:
    for hidden in (".m1.json", "m1.json.tmp", "m1.tmp"):
        write(spool.messages / hidden, document(), at=NOON)
        assert spool.keys() == []
        assert spool.read(hidden) is None

        place(spool.messages / hidden, spool.messages / "m1.json")
        assert spool.keys() == ["m1.json"]
        assert isinstance(spool.read("m1.json"), Message)
        for name in (hidden, "m1.json"):
            (spool.messages / name).unlink(missing_ok=True)


@pytest.mark.parametrize("missing", [..., None], ids=["missing", "null"])
def test_what_the_sender_left_out_is_filled_in_the_same_way_each_time(
    spool: FileSpool, missing: object
) -> None:
    left_out = dict.fromkeys(("id", "threadId", "timestamp", "priority", "read"), missing)
    written = NOON - HOUR + timedelta(milliseconds=7)
    write(spool.messages / "my-note.json", document(**left_out), at=written)

    reading = spool.read("my-note.json")

    assert isinstance(reading, Message)
    assert (reading.id, reading.thread_id) == ("my-note", "my-note")
    assert reading.timestamp == written
    assert reading.priority is Priority.NORMAL
    assert not reading.read
    assert spool.read("my-note.json") == reading


def test_a_message_without_a_thread_begins_one_under_its_own_id(spool: FileSpool) -> None:
    write(spool.messages / "note.json", document(id="m7", threadId=...), at=NOON)
    reading = spool.read("note.json")
    assert isinstance(reading, Message)
    assert reading.thread_id == "m7"


def test_all_that_the_sender_wrote_is_kept_in_the_archive(spool: FileSpool) -> None:
    path = write(spool.messages / "m1.json", document(id="m1", **{"x-team": ["blue"]}), at=NOON)
    sent = json.loads(path.read_bytes())
    reading = spool.read("m1.json")
    assert isinstance(reading, Message)

    spool.settle([settlement("m1.json", reading, outcome=Outcome.EXPIRED, reason="too late")])

    (archived,) = (spool.messages / "archive").iterdir()
    assert archived.name == "m1.json"
    kept = json.loads(archived.read_bytes())
    outcome = kept.pop("agenthub")
    assert kept == sent
    assert outcome == {
        "outcome": "expired",
        "at": 1767268800000,
        "deliveries": [],
        "reason": "too late",
    }


def test_a_dead_letter_that_is_moved_back_is_a_message_again(spool: FileSpool) -> None:
    data = encode_settlement(settlement("m1.json", message(), outcome=Outcome.EXPIRED))
    write(spool.messages / "m1.json", data, at=NOON)
    assert spool.read("m1.json") == message()


def test_what_grows_beyond_a_message_in_the_archive_is_found_there(spool: FileSpool) -> None:
    numbers = [[n] for n in range(100_000)]  # indented, each takes twice as much
    data = json.dumps(REFERENCE | {"id": "m1", "metadata": numbers}).encode()
    assert len(data) < MESSAGE_SIZE
    write(spool.messages / "m1.json", data, at=NOON)
    reading = spool.read("m1.json")
    assert isinstance(reading, Message)

    spool.settle([settlement("m1.json", reading)])

    assert (spool.messages / "archive" / "m1.json").stat().st_size > MESSAGE_SIZE
    assert [found.message for found in spool.settled("m1")] == [reading]


def test_a_message_finds_its_place_in_the_archive_whatever_lies_in_its_way(
    spool: FileSpool,
) -> None:
    archive = spool.messages / "archive"
    other = message(id=f"m1-{message().digest[:12]}")
    spool.settle([settlement(spool.put(other), other)])
    (archive / "m1.json").write_text("no record")

    spool.settle([settlement(spool.put(message()), message())])

    assert [found.message for found in spool.settled("m1")] == [message()]
    assert [found.message for found in spool.settled(other.id)] == [other]
    assert spool.keys() == []


# ---------------------------------------------------------------------------------------- archive


def test_a_file_in_the_archive_bears_the_time_of_its_settlement(spool: FileSpool) -> None:
    late, early = message(id="late"), message(id="early")
    fine = timedelta(hours=1, microseconds=123_456)
    spool.settle(
        [
            settlement(spool.put(late), late, at=NOON + fine),
            settlement(spool.put(early), early, at=NOON - fine),
        ]
    )

    times = {path.name: path.stat().st_mtime_ns for path in (spool.messages / "archive").iterdir()}
    noon = 1767268800 * 10**9
    assert times == {"late.json": noon + 3600_123_456_000, "early.json": noon - 3600_123_456_000}


def test_a_message_that_is_marked_read_keeps_its_place_in_the_archive(spool: FileSpool) -> None:
    spool.settle([settlement(spool.put(message()), message(), at=NOON + HOUR)])
    path = spool.messages / "archive" / "m1.json"
    before = path.stat().st_mtime_ns

    spool.mark_read("m1.json", message())

    assert (path.stat().st_mtime_ns, mode(path)) == (before, 0o600)
    assert list((spool.messages / "archive").iterdir()) == [path]


def test_history_leaves_out_what_is_no_settlement(spool: FileSpool) -> None:
    archive = spool.messages / "archive"
    spool.settle([settlement(spool.put(message()), message())])
    record = (archive / "m1.json").read_bytes()
    (archive / "empty.json").touch()
    (archive / "half.json").write_bytes(record[:80])
    (archive / "bytes.json").write_bytes(b"\xff\xfe")
    (archive / "list.json").write_bytes(b"[]")
    (archive / "unsettled.json").write_bytes(encode_message(message(id="unsettled")))
    (archive / "notes.txt").write_text("see m1.json")
    (archive / "directory.json").mkdir()
    (archive / "link.json").symlink_to("m1.json")
    a_dangling_link(archive / "dangling.json")
    os.mkfifo(archive / "pipe.json")
    a_socket(archive / "socket.json")

    assert [found.key for found in spool.history(Query())] == ["m1.json"]


@pytest.mark.parametrize("name", ["m1.json~", ".m1.json", ".m1.json.swp", "m1.json.bak"])
def test_a_copy_that_an_editor_left_beside_a_record_is_none(spool: FileSpool, name: str) -> None:
    archive = spool.messages / "archive"
    spool.settle([settlement(spool.put(message()), message())])
    (archive / name).write_bytes((archive / "m1.json").read_bytes())

    assert [found.key for found in spool.history(Query())] == ["m1.json"]
    assert [found.key for found in spool.settled("m1")] == ["m1.json"]


def test_history_leaves_out_what_is_taken_away_meanwhile(spool: FileSpool) -> None:
    messages = [message(id=name) for name in ("a", "b", "c")]
    for n, each in enumerate(messages):
        spool.settle([settlement(spool.put(each), each, at=NOON + n * HOUR)])

    history = spool.history(Query())
    assert next(history).message.id == "c"
    (spool.messages / "archive" / "b.json").unlink()

    assert [found.message.id for found in history] == ["a"]


@pytest.mark.parametrize("settled", [False, True], ids=["waiting", "settled"])
def test_marking_read_keeps_all_that_the_sender_wrote(spool: FileSpool, *, settled: bool) -> None:
    theirs = {"id": "m1", "x-team": ["blue"], "metadata": {"n": [1, None]}}
    path = write(spool.messages / "m1.json", document(**theirs), at=NOON)
    reading = spool.read("m1.json")
    assert isinstance(reading, Message)
    if settled:
        spool.settle([settlement("m1.json", reading, reason="too late")])
        path = spool.messages / "archive" / "m1.json"
    before = json.loads(path.read_bytes())

    spool.mark_read("m1.json", reading)

    assert json.loads(path.read_bytes()) == before | {"read": True}
    assert list((spool.root / "tmp").iterdir()) == []


def test_marking_read_writes_down_what_the_sender_left_out(spool: FileSpool) -> None:
    # its time and its id come from the file, which is another one then
    left_out = dict.fromkeys(("id", "threadId", "timestamp", "priority", "read"), ...)
    write(spool.messages / "my-note.json", document(**left_out), at=NOON - HOUR)
    reading = spool.read("my-note.json")
    assert isinstance(reading, Message)

    spool.mark_read("my-note.json", reading)

    marked = spool.read("my-note.json")
    assert isinstance(marked, Message)
    assert marked.read
    assert (marked.digest, marked.timestamp) == (reading.digest, NOON - HOUR)


def test_a_settled_message_is_marked_read_whatever_lies_in_its_way(spool: FileSpool) -> None:
    archive = spool.messages / "archive"
    other = message(id=f"m1-{message().digest[:12]}")
    spool.settle([settlement(spool.put(other), other)])
    (archive / "m1.json").write_text("no record")
    spool.settle([settlement(spool.put(message()), message())])

    spool.mark_read("m1.json", message())

    assert [found.message.read for found in spool.settled("m1")] == [True]
    assert [found.message.read for found in spool.settled(other.id)] == [False]
    assert (archive / "m1.json").read_text() == "no record"


def test_a_message_that_is_read_while_it_is_settled_keeps_its_place_in_the_archive(
    spool: FileSpool,
) -> None:
    key = spool.put(message())
    spool.mark_read(key, message())
    spool.settle([settlement(key, message(), at=NOON + HOUR)])
    path = spool.messages / "archive" / "m1.json"
    before = path.stat().st_mtime_ns, json.loads(path.read_bytes())

    spool.settle([settlement(key, message(read=True), outcome=Outcome.READ, at=NOON + 2 * HOUR)])

    time_then, written = before
    after = path.stat().st_mtime_ns, json.loads(path.read_bytes())
    assert after == (time_then, written | {"read": True})
    assert list((spool.messages / "archive").iterdir()) == [path]


# ------------------------------------------------------------------------------------ hostile input

NAMES = "1 to 100 characters of A-Z a-z 0-9 _ -"
NO_NAMES = ["../../x", "a/b", "a\0b", "", " ", ".", "..", "x" * 101, "x" * 300, "ü", "a\n", "~root"]
NO_STRINGS: list[object] = [5, 1.5, True, [], {}, ["bob"]]


def faulty(field: str, value: object, found: str, expected: str) -> Any:
    shortened = repr(value)[:20]
    return pytest.param(
        document(**{field: value}),
        Fault(field=field, found=found, expected=expected),
        id=f"{field}={shortened}",
    )


HOSTILE = [
    *(
        faulty(field, value, repr(value)[:60], NAMES)
        for field in ("to", "from", "threadId", "id")
        for value in NO_NAMES
        if value not in ("x" * 300, "ü")
    ),
    *(
        faulty(field, value, repr(value), "a string")
        for field in ("to", "from", "threadId", "id", "content")
        for value in NO_STRINGS
    ),
    faulty("to", "x" * 300, "x… (302 characters)", NAMES),
    faulty("to", "ü", r"'\xfc'", NAMES),
    faulty("to", None, "None", "a string"),
    faulty("to", ..., "nothing", "a value: this field is required"),
    faulty("from", ..., "nothing", "a value: this field is required"),
    faulty("type", ..., "nothing", "a value: this field is required"),
    faulty("content", ..., "nothing", "a value: this field is required"),
    faulty("content", "", "''", "text that is not blank and is valid Unicode"),
    faulty("content", " \n", r"' \n'", "text that is not blank and is valid Unicode"),
    faulty("content", "\ud800", r"'\ud800'", "text that is not blank and is valid Unicode"),
    faulty("type", "gossip", "'gossip'", "one of task, question, context, completion, error"),
    faulty("type", ["task"], "['task']", "one of task, question, context, completion, error"),
    faulty("priority", "now", "'now'", "one of urgent, high, normal, low"),
    faulty("priority", 1, "1", "one of urgent, high, normal, low"),
    faulty("read", "yes", "'yes'", "a boolean"),
    faulty("read", 0, "0", "a boolean"),
    faulty("timestamp", 1767268800, "1767268800 (are these seconds?)", "milliseconds since 1970"),
    faulty("timestamp", -1, "-1 (are these seconds?)", "milliseconds since 1970"),
    faulty("timestamp", 0, "0 (are these seconds?)", "milliseconds since 1970"),
    faulty("timestamp", 10**18, str(10**18), "milliseconds since 1970"),
    faulty("timestamp", -(10**18), str(-(10**18)), "milliseconds since 1970"),
    faulty("timestamp", 10**400, "1000000000", "milliseconds since 1970"),
    faulty("timestamp", 1e300, "1e+300", "milliseconds since 1970"),
    faulty("timestamp", True, "True", "milliseconds since 1970"),
    faulty("timestamp", "2026-01-01", "'2026-01-01'", "milliseconds since 1970"),
]


def garbage(name: str, data: bytes, found: str, expected: str) -> Any:
    return pytest.param(data, Fault(field="the file", found=found, expected=expected), id=name)


GARBAGE = [
    garbage("empty", b"", "nothing", "a JSON object"),
    garbage("blank", b" \n\t ", "nothing", "a JSON object"),
    garbage("half", b'{"from": "alice"', "Expecting ',' delimiter at line 1", "a JSON object"),
    garbage("open string", b'{"from": "al', "string starting at line 1 column 10", "a JSON object"),
    garbage("two objects", b"{}{}", "Extra data at line 1 column 3", "a JSON object"),
    garbage("not an object", b"[]", "[]", "a JSON object"),
    garbage("a string", b'"hello"', "'hello'", "a JSON object"),
    garbage("null", b"null", "None", "a JSON object"),
    garbage("not UTF-8", b'{"from": "\xff"}', "the byte 0xff at offset 10", "UTF-8"),
    garbage("UTF-16", document().decode().encode("utf-16"), "the byte 0xff at offset 0", "UTF-8"),
    garbage("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf{}", "", "a JSON object"),
    garbage("NaN", document(metadata=float("nan")), "NaN is not JSON", "numbers"),
    garbage("-Infinity", document(metadata=-float("inf")), "-Infinity is not JSON", "numbers"),
    garbage("1e999", b'{"metadata": 1e999}', "1e999", "numbers that JSON can hold"),
    garbage("5000 digits", b'{"metadata": %s}' % (b"9" * 5000), "limit", "numbers"),
    garbage(
        "a long number", b'{"metadata": %s.0}' % (b"9" * 500_000), "(500004 characters)", "numbers"
    ),
    *(
        garbage(f"{name} nested {depth}", opening * depth + b"1" + closing * depth, "deeper", "64")
        for depth in (1000, 100_000)
        for name, opening, closing in (("lists", b"[", b"]"), ("objects", b'{"a":', b"}"))
        if depth == 1000 or name == "lists"
    ),
    garbage("unclosed nested 100000", b'{"a":' * 100_000, "deeper nesting", "64"),
    garbage("65 levels", b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "deeper nesting", "64"),
    garbage("over 1 MiB", document(content="x" * MESSAGE_SIZE), "more than 1048576 bytes", "at mo"),
]


@pytest.mark.parametrize(("data", "fault"), [*HOSTILE, *GARBAGE])
def test_what_is_no_message_is_put_aside_byte_for_byte_with_the_reason(
    spool: FileSpool, clock: ManualClock, data: bytes, fault: Fault
) -> None:
    write(spool.messages / "m1.json", data, at=clock.now())
    assert spool.read("m1.json") == Unfinished()
    clock.advance(GRACE)

    reading = spool.read("m1.json")
    assert isinstance(reading, Malformed)
    spool.quarantine("m1.json", reading.fault)

    aside = spool.messages / "malformed"
    assert {path.name for path in aside.iterdir()} == {"m1.json", "m1.json.reason"}
    assert (aside / "m1.json").read_bytes() == data
    reason = (aside / "m1.json.reason").read_text()
    assert reason.startswith(f"{fault.field}: found ")
    assert reason.count("\n") == 1
    assert reason.isascii() or "…" in reason
    assert len(reason) < 300
    told_found, told_expected = reason.split(", expected ", 1)
    assert fault.found in told_found
    assert fault.expected in told_expected
    assert spool.keys() == []


def test_a_message_of_exactly_the_greatest_size_is_read(spool: FileSpool) -> None:
    padding = MESSAGE_SIZE - len(document(content="x"))
    path = write(spool.messages / "m1.json", document(content="x" * (padding + 1)), at=NOON)
    assert path.stat().st_size == MESSAGE_SIZE
    assert isinstance(spool.read("m1.json"), Message)


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"\xef\xbb\xbf" + document(content="marked"), "marked"),
        (document(content="x").replace(b"\n", b"\r\n"), "x"),
        (document(content="a\0b"), "a\0b"),
        (document(content="\U0001f43c"), "\U0001f43c"),
        (document(content="two", timestamp=1767268800000.5), "two"),
        (document(content="first").replace(b"}", b', "content": "last"}', 1), "first"),
    ],
    ids=["byte order mark", "CRLF", "NUL", "surrogate pair", "half a millisecond", "metadata"],
)
def test_what_is_odd_but_right_is_read(spool: FileSpool, data: bytes, content: str) -> None:
    write(spool.messages / "m1.json", data, at=NOON)
    reading = spool.read("m1.json")
    assert isinstance(reading, Message)
    assert reading.content == content


# ---------------------------------------------------------------------------------- names and kinds

ODD_NAMES = [
    "with space.json",
    "a\nb.json",
    "ünïcode.json",
    "'; rm -rf ~ #.json",
    os.fsdecode(b"caf\xe9.json"),
    "n" * 250 + ".json",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_message_may_lie_under_any_name(spool: FileSpool, name: str) -> None:
    write(spool.messages / name, document(id="m1"), at=NOON)
    assert spool.keys() == [name]
    reading = spool.read(name)
    assert isinstance(reading, Message)

    spool.settle([settlement(name, reading)])

    assert spool.keys() == []
    assert [found.message for found in spool.settled("m1")] == [reading]


@pytest.mark.parametrize("name", [*ODD_NAMES, "x.json.json", "-.json.reason.json"], ids=ascii)
def test_what_is_no_message_can_be_put_aside_under_any_name(
    spool: FileSpool, clock: ManualClock, name: str
) -> None:
    write(spool.messages / name, document(id=..., to="../../x"), at=NOON)
    clock.advance(GRACE)
    reading = spool.read(name)
    assert isinstance(reading, Malformed)

    spool.quarantine(name, reading.fault)

    assert spool.keys() == []
    copy, reason = sorted((spool.messages / "malformed").iterdir(), key=lambda path: path.name)
    assert reason.name == f"{copy.name}.reason"
    assert copy.read_bytes() == document(id=..., to="../../x")


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_message_without_an_id_may_have_any_name_and_is_found_by_the_id_it_gets(
    spool: FileSpool, name: str
) -> None:
    write(spool.messages / name, document(id=..., threadId=...), at=NOON)
    reading = spool.read(name)
    assert isinstance(reading, Message)
    spool.mark_read(name, reading)
    read = spool.read(name)
    assert isinstance(read, Message)
    assert (read.id, read.thread_id, read.read) == (reading.id, reading.id, True)
    spool.settle([settlement(name, read)])

    assert spool.keys() == []
    assert [found.message for found in spool.settled(reading.id)] == [read]
    assert (spool.messages / "archive" / f"{reading.id}.json").exists()


def test_names_that_are_no_ids_give_different_ones(spool: FileSpool) -> None:
    ids = set()
    for name in ODD_NAMES:
        write(spool.messages / name, document(id=...), at=NOON)
        reading = spool.read(name)
        assert isinstance(reading, Message)
        ids.add(reading.id)
    assert len(ids) == len(ODD_NAMES)


def test_an_id_that_its_sender_wrote_is_no_other_though_the_name_could_be_one(
    spool: FileSpool, clock: ManualClock
) -> None:
    write(spool.messages / "m1.json", document(id="with space"), at=NOON)
    clock.advance(GRACE)
    reading = spool.read("m1.json")
    assert isinstance(reading, Malformed)
    assert reading.fault.field == "id"


@pytest.mark.parametrize("name", [".json", ".hidden.json", "m1.json~", "m1.txt", "json", "m1.JSON"])
def test_a_file_of_another_name_is_left_alone(
    spool: FileSpool, clock: ManualClock, name: str
) -> None:
    path = write(spool.messages / name, b"no message", at=NOON)
    clock.advance(HOUR)
    assert spool.keys() == []
    assert spool.read(name) is None
    assert path.read_bytes() == b"no message"


def test_what_was_put_aside_is_never_overwritten(spool: FileSpool, clock: ManualClock) -> None:
    for data in (b"[1]", b"[2]", b"[3]"):
        write(spool.messages / "m1.json", data, at=clock.now())
        clock.advance(GRACE)
        reading = spool.read("m1.json")
        assert isinstance(reading, Malformed)
        spool.quarantine("m1.json", reading.fault)

    aside = spool.messages / "malformed"
    names = ("m1.json", "m1.2.json", "m1.3.json")
    assert [(aside / name).read_bytes() for name in names] == [b"[1]", b"[2]", b"[3]"]
    assert all((aside / f"{name}.reason").exists() for name in names)


def put_aside(spool: FileSpool, clock: ManualClock, name: str, data: bytes) -> None:
    write(spool.messages / name, data, at=clock.now())
    clock.advance(GRACE)
    reading = spool.read(name)
    assert isinstance(reading, Malformed)
    spool.quarantine(name, reading.fault)


def test_what_was_put_aside_is_told_the_latest_first(spool: FileSpool, clock: ManualClock) -> None:
    aside = spool.messages / "malformed"
    for age, name in enumerate(("new.json", "old.json")):
        put_aside(spool, clock, name, b"[]")
        then = NOON.timestamp() - age
        os.utime(aside / f"{name}.reason", (then, then))
    write(aside / "mine.json", b"[]", at=NOON - HOUR)  # without a reason
    a_dangling_link(aside / "mine.json.reason")

    found = [(each.name, each.at, each.reason) for each in spool.malformed.held()]

    reason = (aside / "new.json.reason").read_text().strip()
    assert found == [
        ("new.json", NOON, reason),
        ("old.json", NOON - timedelta(seconds=1), reason),
        ("mine.json", NOON - HOUR, "nobody knows why"),
    ]


def test_the_reason_is_the_new_one_of_a_file_that_was_moved_back_and_is_still_no_message(
    spool: FileSpool, clock: ManualClock
) -> None:
    put_aside(spool, clock, "m1.json", b"[]")
    (spool.messages / "malformed" / "m1.json").rename(spool.messages / "m1.json")

    put_aside(spool, clock, "m1.json", b'{"from": "alice"}')

    (found,) = spool.malformed.held()
    assert found.reason.startswith("to: found")


def a_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.json"
    elsewhere.write_bytes(document())
    path.symlink_to(elsewhere)


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_link_to_a_directory(path: Path) -> None:
    path.symlink_to(path.parent)


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path.name)  # relative: a socket's whole path may have no more than 104 bytes


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_link, "it is a symbolic link"),
        (a_dangling_link, "it is a symbolic link"),
        (a_link_to_a_directory, "it is a symbolic link"),
        (a_link_to_itself, "it is a symbolic link"),
        (os.mkfifo, "it is a pipe"),
        (os.mkdir, "it is a directory"),
        (a_socket, "it is a socket"),
    ],
)
def test_what_is_no_file_is_told_and_left_untouched(
    spool: FileSpool, clock: ManualClock, make: Callable[[Path], None], reason: str
) -> None:
    path = spool.messages / "m1.json"
    make(path)
    before = path.lstat()
    clock.advance(HOUR)

    assert spool.keys() == ["m1.json"]
    assert spool.read("m1.json") == Unreadable(reason=reason)
    spool.settle([settlement("m1.json", message())])
    assert path.lstat().st_ino == before.st_ino
    assert spool.read("m1.json") == Unreadable(reason=reason)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_this_user_may_not_read_is_told_and_left_untouched(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # root may read everything, so the system's answer is played
    path = write(spool.messages / "m1.json", document(), at=NOON)
    with monkeypatch.context() as system:
        system.setattr(os, "open", failing(os.open, number, named="m1.json"))
        assert spool.read("m1.json") == Unreadable(reason="this user may not read it")
    assert path.read_bytes() == document()


def test_a_disk_that_cannot_be_read_is_no_property_of_the_message(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(spool.messages / "m1.json", document(), at=NOON)
    monkeypatch.setattr(os, "open", failing(os.open, errno.EIO, named="m1.json"))
    with pytest.raises(StoreUnreadable, match=str(path)):
        spool.read("m1.json")


@pytest.mark.parametrize(
    "work",
    [
        lambda spool: spool.mark_read("m1.json", message()),
        lambda spool: spool.quarantine("m1.json", Fault(field="to", found="5", expected="a name")),
    ],
    ids=["mark_read", "quarantine"],
)
def test_what_cannot_be_read_before_it_is_written_is_told_as_what_cannot_be_written(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch, work: Callable[[FileSpool], object]
) -> None:
    path = spool.messages / spool.put(message())
    with monkeypatch.context() as system:
        system.setattr(os, "open", failing(os.open, errno.EIO, named="m1.json"))
        with pytest.raises(StoreUnwritable, match=str(path)):
            work(spool)
    assert waiting_in(spool) == [message()]


def failing(call: Callable[..., Any], number: int, named: str = "") -> Callable[..., Any]:
    """A system call that fails, for files of that name if one is given."""

    def fail(path: Any, *arguments: Any, **options: Any) -> Any:
        if not named or os.fspath(path).endswith(named):
            raise OSError(number, os.strerror(number), path if named else None)
        return call(path, *arguments, **options)

    return fail


# -------------------------------------------------------------------------------------- permissions


def test_directories_are_private_even_if_they_were_not(tmp_path: Path, clock: ManualClock) -> None:
    root = tmp_path / "hub"
    for name in ("messages/archive", "messages/malformed", "agents", "tmp"):
        (root / name).mkdir(parents=True)
    for directory in (root, *(path for path in root.rglob("*"))):
        directory.chmod(0o777)

    FileSpool(root, clock=clock).prepare()

    assert {mode(path) for path in (root, *root.rglob("*"))} == {0o700}


@pytest.mark.parametrize("name", ["notes.txt", "tmp", ".bashrc"])
def test_a_directory_of_somebody_elses_is_left_as_it_is(
    name: str, tmp_path: Path, clock: ManualClock
) -> None:
    root = tmp_path / "home"
    (root / name).mkdir(parents=True)
    root.chmod(0o755)

    with pytest.raises(InvalidSettings, match="home holds other things, and no hub: set AGENT_HUB"):
        FileSpool(root, clock=clock).prepare()

    assert mode(root) == 0o755
    assert [path.name for path in root.iterdir()] == [name]


@pytest.mark.parametrize("name", [None, "threads", "coordinator", "server.json", "daemon.lock"])
def test_a_directory_is_a_hubs_if_it_is_empty_or_has_what_only_hubs_have(
    name: str | None, tmp_path: Path, clock: ManualClock
) -> None:
    if name is not None:
        (tmp_path / "notes.txt").touch()
        (tmp_path / name).touch()

    spool = FileSpool(tmp_path, clock=clock)
    spool.prepare()

    assert spool.keys() == []


def test_preparing_again_keeps_what_is_there(spool: FileSpool) -> None:
    key = spool.put(message())
    spool.prepare()
    assert spool.read(key) == message()


def test_files_are_private_whatever_the_umask(spool: FileSpool, clock: ManualClock) -> None:
    before = os.umask(0)
    try:
        with spool.claim():
            spool.put(message(id="waiting"))
            spool.settle([settlement(spool.put(message()), message())])
            spool.save_agent(agent())
            write(spool.messages / "bad.json", b"[]", at=NOON).chmod(0o600)
            clock.advance(GRACE)
            reading = spool.read("bad.json")
            assert isinstance(reading, Malformed)
            spool.quarantine("bad.json", reading.fault)
    finally:
        os.umask(before)

    files = {path.name: mode(path) for path in spool.root.rglob("*") if path.is_file()}
    assert files == dict.fromkeys(
        (
            "waiting.json",
            "m1.json",
            "bob.json",
            "session_agents.json",
            "bad.json",
            "bad.json.reason",
            "daemon.lock",
        ),
        0o600,
    )


# ------------------------------------------------------------------------------------- the key


def verified(spool: FileSpool) -> bool:
    """Whether the only message that waits is so."""
    (reading,) = waiting_in(spool)
    assert isinstance(reading, Message)
    return reading.verified


def test_the_key_is_made_when_it_is_needed_and_nobody_elses(spool: FileSpool) -> None:
    path = spool.root / "identity.key"
    spool.put(message(id="unverified"))
    assert not path.exists()
    spool.put(message(verified=True))
    assert (mode(path), len(path.read_bytes())) == (0o600, 32)
    key = path.read_bytes()
    spool.put(message(id="m2", verified=True))
    assert path.read_bytes() == key


def test_the_key_is_the_same_for_every_process(spool: FileSpool, clock: ManualClock) -> None:
    spool.put(message(verified=True))
    assert verified(FileSpool(spool.root, clock=clock))


def test_who_needs_the_key_at_the_same_time_has_one(spool: FileSpool, clock: ManualClock) -> None:
    def put(number: int) -> str:
        other = FileSpool(spool.root, clock=clock)
        return other.put(message(id=f"m{number}", verified=True))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(16)))
    assert [each.verified for each in waiting_in(spool) if isinstance(each, Message)] == [True] * 16


@pytest.mark.parametrize("spoilt", [None, b"", b"short", b"x" * 33, "link"])
def test_a_key_that_is_no_use_is_made_anew_and_old_marks_count_no_more(
    spool: FileSpool, spoilt: bytes | str | None, tmp_path: Path
) -> None:
    path = spool.root / "identity.key"
    spool.put(message(verified=True))
    old = path.read_bytes()
    path.unlink()
    if spoilt == "link":
        (tmp_path / "elsewhere").write_bytes(old)
        path.symlink_to(tmp_path / "elsewhere")
    elif isinstance(spoilt, bytes):
        path.write_bytes(spoilt)
    assert not verified(spool)

    spool.put(message(verified=True))  # once more, as a hub does that was cut off

    assert verified(spool)
    assert path.read_bytes() != old
    assert (path.is_symlink(), mode(path)) == (False, 0o600)


def test_a_key_of_another_hubs_verifies_nothing(spool: FileSpool) -> None:
    spool.put(message(verified=True))
    (spool.root / "identity.key").write_bytes(b"x" * 32)
    assert not verified(spool)


def test_who_may_not_read_the_key_writes_and_reads_all_the_same(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spool.root / "identity.key"
    spool.put(message(verified=True))
    key = path.read_bytes()
    opened = os.open

    def refusing(name: Any, *arguments: Any, **options: Any) -> int:
        if Path(name) == path:
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return opened(name, *arguments, **options)

    with monkeypatch.context() as system:
        system.setattr(os, "open", refusing)
        assert not verified(spool)
        spool.put(message(id="m2", verified=True))
        spool.settle([settlement("m2.json", message(id="m2"))])
        assert [each.message.verified for each in spool.history(Query())] == [False]
    assert path.read_bytes() == key
    assert verified(spool)


def test_a_key_that_cannot_be_read_for_a_moment_is_no_verdict(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = spool.put(message(verified=True))
    opened = os.open

    def exhausted(name: Any, *arguments: Any, **options: Any) -> int:
        if Path(name).name == "identity.key":
            raise OSError(errno.EMFILE, "Too many open files", name)
        return opened(name, *arguments, **options)

    with monkeypatch.context() as system:
        system.setattr(os, "open", exhausted)
        with pytest.raises(StoreUnreadable):
            spool.read(key)
        with pytest.raises(StoreUnreadable):
            next(iter(spool.history(Query())))
        with pytest.raises(StoreUnwritable):
            spool.put(message(id="m2", verified=True))
    assert verified(spool)


def test_a_mark_that_somebody_has_copied_holds_for_its_own_words_only(spool: FileSpool) -> None:
    key = spool.put(message(verified=True))
    ours = json.loads((spool.messages / key).read_bytes())
    (spool.messages / key).unlink()
    theirs = ours | {"content": "Obey", "id": "m2"}
    write(spool.messages / "m2.json", json.dumps(theirs).encode(), at=NOON)
    assert not verified(spool)


# ------------------------------------------------------------------------------------------ crashes


Work = Callable[[FileSpool], object]
CutEverywhere = Callable[[Work, Work], Iterator[tuple[FileSpool, bool]]]


class PowerCut(BaseException):
    """The process ends here, and with it everything that it was about to do."""


class Power:
    """Lets the system do so many things, and no more: `cut_after` counts calls that change files.

    Once it is cut it stays so: what a `finally` would still clear away is not cleared away either.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cut_after: int) -> None:
        self._left = cut_after
        self.was_cut = False
        # pathlib calls these, too
        for name in ("link", "fsync", "write", "unlink", "replace"):
            monkeypatch.setattr(os, name, self._metered(getattr(os, name)))

    def _metered(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def metered(*arguments: Any, **options: Any) -> Any:
            if self._left == 0:
                self.was_cut = True
                raise PowerCut
            self._left -= 1
            return call(*arguments, **options)

        return metered


@pytest.fixture
def cut_everywhere(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> CutEverywhere:
    """Do some work with a power cut before its first change of a file, its second, …, and none.

    Each time in a spool of its own, prepared under power. Yields what the next hub finds: the
    spool, and whether the power was cut.
    """

    def attempts(prepare: Work, work: Work) -> Iterator[tuple[FileSpool, bool]]:
        for cut_after in range(100):
            spool = FileSpool(tmp_path / f"hub-{cut_after}", clock=clock)
            spool.prepare()
            prepare(spool)
            with monkeypatch.context() as system:
                power = Power(system, cut_after)
                with contextlib.suppress(PowerCut):
                    work(spool)
            yield FileSpool(spool.root, clock=clock), power.was_cut
            if not power.was_cut:
                return
        raise AssertionError("the work never came to its end")

    return attempts


def test_a_power_cut_while_settling_loses_nothing_and_settles_nothing_twice(
    cut_everywhere: CutEverywhere,
) -> None:
    messages = [message(id="m1"), message(id="m1", content="again"), message(id="m2")]
    keys = ["m1.json", f"m1-{messages[1].digest[:12]}.json", "m2.json"]

    def put(spool: FileSpool) -> None:
        assert [spool.put(each) for each in messages] == keys

    def settle(spool: FileSpool) -> None:
        spool.settle([settlement(key, each) for key, each in zip(keys, messages, strict=True)])

    attempts = 0
    for spool, was_cut in cut_everywhere(put, settle):
        attempts += 1
        waiting = waiting_in(spool)
        archived = [found.message for name in ("m1", "m2") for found in spool.settled(name)]
        for each in messages:
            assert each in waiting or each in archived
        assert was_cut == bool(waiting)

        # the next hub settles what waits, later and with another outcome
        for key, each in zip(keys, messages, strict=True):
            if spool.read(key) is not None:
                spool.settle([settlement(key, each, outcome=Outcome.READ, at=NOON + HOUR)])
        assert spool.keys() == []
        assert [found.message for found in spool.settled("m1")] == messages[:2]
        assert [found.message for found in spool.settled("m2")] == messages[2:]
        assert len(list((spool.messages / "archive").iterdir())) == 3
    assert attempts > 12  # 3 messages: each written, synced, linked, unlinked


def test_nothing_stops_waiting_before_the_archive_is_on_the_disk(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = spool.put(message())
    archive = (spool.messages / "archive").stat()
    history: list[str] = []

    def note(name: str, told: Callable[[Any], str]) -> None:
        call = getattr(os, name)

        def noted(first: Any, *arguments: Any, **options: Any) -> Any:
            history.append(f"{name} {told(first)}")
            return call(first, *arguments, **options)

        monkeypatch.setattr(os, name, noted)

    def archive_or_file(descriptor: int) -> str:
        return "archive" if os.path.samestat(os.fstat(descriptor), archive) else "file"

    def parent(path: str | Path) -> str:
        return Path(path).parent.name

    note("fsync", archive_or_file)
    note("link", parent)
    note("unlink", parent)

    spool.settle([settlement(key, message())])

    assert history == [
        "fsync file",
        "link tmp",
        "unlink tmp",
        "fsync archive",
        "unlink messages",
    ]


def test_a_power_cut_while_putting_leaves_the_whole_message_or_none(
    cut_everywhere: CutEverywhere,
) -> None:
    for spool, was_cut in cut_everywhere(lambda _: None, lambda spool: spool.put(message())):
        readings = waiting_in(spool)
        assert readings in ([], [message()])
        assert was_cut or readings == [message()]

        assert spool.read(spool.put(message())) == message()
        assert len(spool.keys()) == 1


def test_a_power_cut_while_putting_aside_keeps_the_bytes(cut_everywhere: CutEverywhere) -> None:
    def put_aside(spool: FileSpool) -> None:
        reading = spool.read("m1.json")
        assert isinstance(reading, Malformed)
        spool.quarantine("m1.json", reading.fault)

    for spool, was_cut in cut_everywhere(
        lambda spool: write(spool.messages / "m1.json", b"[]", at=NOON - HOUR), put_aside
    ):
        assert bool(spool.keys()) == was_cut
        if was_cut:
            put_aside(spool)
        aside = sorted((spool.messages / "malformed").iterdir())
        assert [path.name for path in aside] == ["m1.json", "m1.json.reason"]
        assert aside[0].read_bytes() == b"[]"
        assert aside[1].read_text() == "the file: found [], expected a JSON object\n"


def test_a_power_cut_while_saving_an_agent_leaves_the_old_or_the_new(
    cut_everywhere: CutEverywhere,
) -> None:
    old, new = agent("bob"), agent("bob", last_seen=NOON + HOUR, slug="panda")
    between = agent("bob", slug="panda")  # the mapping is new, the agent's file not yet

    for spool, was_cut in cut_everywhere(
        lambda spool: spool.save_agent(old), lambda spool: spool.save_agent(new)
    ):
        assert spool.agents() in ([old], [between], [new])
        assert was_cut or spool.agents() == [new]


def test_a_power_cut_while_a_new_agent_is_saved_never_parts_it_from_its_session(
    cut_everywhere: CutEverywhere,
) -> None:
    # else its session would come back under another name, and its messages wait for nobody
    for spool, _ in cut_everywhere(lambda _: None, lambda spool: spool.save_agent(agent("bob"))):
        assert [(each.id, each.session_id) for each in spool.agents()] in (
            [],
            [("bob", agent("bob").session_id)],
        )


@pytest.mark.parametrize("settled", [False, True], ids=["waiting", "settled"])
def test_a_power_cut_while_marking_read_leaves_the_whole_message(
    cut_everywhere: CutEverywhere, *, settled: bool
) -> None:
    def prepare(spool: FileSpool) -> None:
        key = spool.put(message())
        if settled:
            spool.settle([settlement(key, message())])

    work: Work = lambda spool: spool.mark_read("m1.json", message())  # noqa: E731
    for spool, was_cut in cut_everywhere(prepare, work):
        found = waiting_in(spool) + [record.message for record in spool.settled("m1")]
        assert found in ([message()], [message(read=True)])
        assert was_cut or found == [message(read=True)]


def test_a_power_cut_while_an_agent_registers_leaves_the_old_or_the_new(
    cut_everywhere: CutEverywhere,
) -> None:
    old, new = agent("bob", directory="/bob"), agent("bob", directory="/bob", role="Reviews")
    for spool, was_cut in cut_everywhere(
        lambda spool: spool.save_agent(old), lambda spool: spool.register_agent(new)
    ):
        assert spool.agents() in ([old], [new])
        assert was_cut or spool.agents() == [new]


def test_what_a_crash_left_in_the_way_does_not_stop_the_next_hub(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in a container the hub has the same process id each time
    with monkeypatch.context() as system:
        Power(system, cut_after=0)
        with pytest.raises(PowerCut):
            spool.put(message())
    assert len(list((spool.root / "tmp").iterdir())) == 1

    again = FileSpool(spool.root, clock=ManualClock())
    again.put(message())
    assert again.keys() == ["m1.json"]


def test_leftovers_are_swept_when_they_are_old_and_only_then(spool: FileSpool) -> None:
    tmp = spool.root / "tmp"
    write(tmp / "old", b"half", at=NOON - HOUR - timedelta(seconds=1))
    write(tmp / "young", b"half", at=NOON - HOUR)

    with spool.claim():
        assert [path.name for path in tmp.iterdir()] == ["young"]


# ------------------------------------------------------------------------------------------- claims

HOLDER = """
import sys
from pathlib import Path
from agenthub_adapters.clock import SystemClock
from agenthub_adapters.spool import FileSpool

with FileSpool(Path(sys.argv[1]), clock=SystemClock()).claim():
    print("claimed", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_daemon(spool: FileSpool) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the spool."""
    command = [sys.executable, "-c", HOLDER, str(spool.root)]
    with subprocess.Popen(  # noqa: S603  # this very Python
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "claimed\n"
            yield process
        finally:
            process.kill()


def test_a_spool_that_another_process_owns_cannot_be_claimed(spool: FileSpool) -> None:
    with another_daemon(spool) as daemon:
        with pytest.raises(StoreClaimed) as refused, spool.claim():
            pytest.fail("two daemons own the spool")
        assert f"process {daemon.pid}" in str(refused.value)
        assert str(spool.root) in str(refused.value)
        assert "AGENT_HUB_DIR" in str(refused.value)


def test_a_claim_ends_with_its_process_however_that_ends(spool: FileSpool) -> None:
    with another_daemon(spool) as daemon:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        with spool.claim():
            assert (spool.root / "daemon.lock").read_text() == f"{os.getpid()}\n"


def test_a_claim_can_be_given_back(spool: FileSpool, clock: ManualClock) -> None:
    with spool.claim(), pytest.raises(StoreClaimed), FileSpool(spool.root, clock=clock).claim():
        pytest.fail("two daemons own the spool")
    with another_daemon(spool):
        pass


def test_a_spool_that_is_claimed_can_still_be_written_by_others(
    spool: FileSpool, clock: ManualClock
) -> None:
    with another_daemon(spool):
        key = spool.put(message())
        assert FileSpool(spool.root, clock=clock).read(key) == message()


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_claim_waits_for_those_who_only_look_whether_there_is_one(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    path = spool.root / "daemon.lock"
    path.touch()
    pauses: list[float] = []

    with path.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == looks:
                fcntl.flock(looker, fcntl.LOCK_UN)

        monkeypatch.setattr(time, "sleep", pause)
        with spool.claim():
            assert spool.claimed()

    assert len(pauses) == looks
    assert sum(pauses) < 0.1, "nobody notices"


def test_a_claim_succeeds_although_others_look_whether_there_is_one(
    spool: FileSpool, clock: ManualClock
) -> None:
    # each look begins together with the claim; over and over, for they meet by chance
    rounds, lookers = 50, 2
    begin = threading.Barrier(lookers + 1, timeout=60)

    def look() -> None:
        own = FileSpool(spool.root, clock=clock)
        for _ in range(rounds):
            begin.wait()
            own.claimed()

    with ThreadPoolExecutor(lookers) as pool:
        looking = [pool.submit(look) for _ in range(lookers)]
        for _ in range(rounds):
            begin.wait()
            with spool.claim():
                assert spool.claimed()
        for each in looking:
            each.result()
    assert not spool.claimed()


def test_those_who_look_do_not_take_one_another_for_a_hub(
    spool: FileSpool, clock: ManualClock
) -> None:
    with spool.claim():
        pass
    begin = threading.Barrier(4, timeout=60)

    def look() -> set[bool]:
        own = FileSpool(spool.root, clock=clock)
        begin.wait()
        return {own.claimed() for _ in range(500)}

    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(look) for _ in range(4)]
    assert [each.result() for each in looks] == [{False}] * 4


def test_looking_whether_there_is_a_hub_leaves_no_trace(spool: FileSpool) -> None:
    assert not spool.claimed()
    assert not (spool.root / "daemon.lock").exists()
    with another_daemon(spool) as daemon:
        assert spool.claimed()
        assert (spool.root / "daemon.lock").read_text() == f"{daemon.pid}\n"
        daemon.kill()
        daemon.wait()
        assert not spool.claimed(), "the file is there, but nobody holds it"


# --------------------------------------------------------------------------- the disk does not help


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize(
    "work",
    [
        lambda spool: spool.put(message(id="m2")),
        lambda spool: spool.settle([settlement("m1.json", message())]),
        lambda spool: spool.quarantine("bad.json", spool.read("bad.json").fault),
        lambda spool: spool.mark_read("m1.json", message()),
        lambda spool: spool.save_agent(agent()),
        lambda spool: spool.register_agent(agent()),
        lambda spool: spool.began(NOON),
        lambda spool: spool.begin_anew(NOON),
        lambda spool: spool.save_oriented("ses_bob", NOON),
    ],
    ids=[
        "put",
        "settle",
        "quarantine",
        "mark_read",
        "save_agent",
        "register_agent",
        "began",
        "begin_anew",
        "save_oriented",
    ],
)
def test_a_disk_that_takes_no_more_is_told_and_nothing_is_lost(
    spool: FileSpool,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[FileSpool], object],
    number: int,
) -> None:
    spool.put(message())
    write(spool.messages / "bad.json", b"[]", at=NOON - HOUR)

    with monkeypatch.context() as system:
        system.setattr(os, "fsync", failing(os.fsync, number))
        with pytest.raises(StoreUnwritable) as told:
            work(spool)

    assert str(spool.root) in str(told.value)
    assert os.strerror(number) in str(told.value)
    assert set(spool.keys()) == {"m1.json", "bad.json"}
    assert list((spool.root / "tmp").iterdir()) == []
    assert spool.agents() == []
    work(spool)  # there is space again


def test_a_full_disk_is_met_while_writing_too(spool: FileSpool) -> None:
    """RLIMIT_FSIZE is the nearest thing to a full disk that a test can have."""
    script = """
import resource, signal, sys
from pathlib import Path
from agenthub_adapters.clock import SystemClock
from agenthub_adapters.spool import FileSpool
from agenthub_core import StoreUnwritable
from tests.unit.builders import message

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    FileSpool(Path(sys.argv[1]), clock=SystemClock()).put(message(content="x" * 1000))
except StoreUnwritable as error:
    sys.stdout.write(str(error))
"""
    checkout = Path(__file__).parents[2]
    told = subprocess.run(  # noqa: S603  # this very Python
        [sys.executable, "-c", script, str(spool.root)],
        cwd=checkout,
        capture_output=True,
        check=True,
        text=True,
    )
    assert "File too large" in told.stdout
    assert str(spool.root) in told.stdout
    assert spool.keys() == []
    assert list((spool.root / "tmp").iterdir()) == []


def test_a_spool_that_cannot_be_made_is_told_by_its_path(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "hub"
    with pytest.raises(StoreUnwritable, match=str(root)):
        FileSpool(root, clock=clock).prepare()
    with pytest.raises(StoreUnwritable, match=str(root)), FileSpool(root, clock=clock).claim():
        pytest.fail("nothing can be claimed there")


def test_a_file_in_the_way_of_a_message_is_told_and_kept(spool: FileSpool) -> None:
    (spool.messages / "m1.json").mkdir()
    again = spool.messages / spool.put(message())
    again.unlink()
    again.mkdir()
    with pytest.raises(StoreUnwritable, match=f"{again.name} is in the way"):
        spool.put(message())
    assert again.is_dir()


# ------------------------------------------------------------------------------------------- agents


def test_what_others_wrote_about_an_agent_is_kept(spool: FileSpool) -> None:
    path = spool.root / "agents" / "bob.json"
    theirs = {
        "id": "bob",
        "projectPath": "/old",
        "role": "Writes the API",
        "capabilities": ["python"],
        "status": "idle",
        "lastSeen": 1700000000000,
        "collaboratesWith": ["alice"],
        "metadata": {"x": 1},
    }
    path.write_text(json.dumps(theirs))

    spool.save_agent(agent("bob", directory="/projects/bob"))

    assert json.loads(path.read_text()) == theirs | {
        "projectPath": "/projects/bob",
        "lastSeen": 1767268800000,
        "sessionId": "ses_bob",
    }


def test_a_new_agent_has_all_that_others_expect(spool: FileSpool) -> None:
    spool.save_agent(agent("bob", directory="/projects/bob"))
    assert json.loads((spool.root / "agents" / "bob.json").read_text()) == {
        "id": "bob",
        "projectPath": "/projects/bob",
        "role": "",
        "capabilities": [],
        "status": "active",
        "collaboratesWith": [],
        "lastSeen": 1767268800000,
        "sessionId": "ses_bob",
    }


def test_what_others_wrote_about_an_agent_survives_its_registration(spool: FileSpool) -> None:
    path = spool.root / "agents" / "bob.json"
    theirs = {"metadata": {"x": 1}, "x-team": ["blue"], "sessionId": "ses_bob", "role": "old"}
    path.write_text(json.dumps(theirs))

    spool.register_agent(
        Agent(
            id="bob",
            directory="/projects/bob",
            last_seen=NOON,
            role="Writes the API",
            capabilities=("python",),
            collaborates_with=("alice",),
        )
    )

    assert json.loads(path.read_text()) == {
        "id": "bob",
        "metadata": {"x": 1},
        "x-team": ["blue"],
        "sessionId": "ses_bob",
        "projectPath": "/projects/bob",
        "role": "Writes the API",
        "capabilities": ["python"],
        "status": "active",
        "collaboratesWith": ["alice"],
        "lastSeen": 1767268800000,
    }
    assert mode(path) == 0o600


def test_an_agent_that_registers_has_all_that_others_expect(spool: FileSpool) -> None:
    spool.register_agent(Agent(id="polly", directory="/polly", last_seen=NOON, role="Reviews"))
    assert json.loads((spool.root / "agents" / "polly.json").read_text()) == {
        "id": "polly",
        "projectPath": "/polly",
        "role": "Reviews",
        "capabilities": [],
        "status": "active",
        "collaboratesWith": [],
        "lastSeen": 1767268800000,
    }
    assert not (spool.root / "session_agents.json").exists()


@pytest.mark.parametrize(
    ("theirs", "known"),
    [
        ({"role": None, "capabilities": None, "collaboratesWith": 5}, ("", (), ())),
        ({"role": "R", "capabilities": ["a", 1, None]}, ("R", ("a",), ())),
        ({"capabilities": "python", "collaboratesWith": {"bob": 1}}, ("", (), ())),
    ],
)
def test_what_an_agent_says_of_itself_may_be_sloppy(
    spool: FileSpool, theirs: dict[str, Any], known: tuple[Any, ...]
) -> None:
    (spool.root / "agents" / "bob.json").write_text(json.dumps(theirs))
    (bob,) = spool.agents()
    assert (bob.role, bob.capabilities, bob.collaborates_with) == known


def test_an_agent_that_is_saved_and_registers_at_once_loses_nothing(
    spool: FileSpool, clock: ManualClock
) -> None:
    names = [f"agent-{n}" for n in range(50)]
    begin = threading.Barrier(2, timeout=60)

    def save() -> None:
        hub = FileSpool(spool.root, clock=clock)
        for name in names:
            begin.wait()
            hub.save_agent(agent(name, directory="/session"))

    def register() -> None:
        tool = FileSpool(spool.root, clock=clock)
        for name in names:
            begin.wait()
            tool.register_agent(agent(name, directory="/own", role="Reviews"))

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(save), pool.submit(register)]:
            each.result()

    expected = [agent(name, directory="/session", role="Reviews") for name in names]
    assert spool.agents() == sorted(expected, key=lambda each: each.id)
    for name in names:
        file = json.loads((spool.root / "agents" / f"{name}.json").read_text())
        assert (file["sessionId"], file["role"]) == (f"ses_{name}", "Reviews")


def test_agents_that_are_saved_at_once_all_keep_their_sessions(
    spool: FileSpool, clock: ManualClock
) -> None:
    begin = threading.Barrier(4, timeout=60)

    def save(group: str) -> None:
        hub = FileSpool(spool.root, clock=clock)
        for n in range(20):
            begin.wait()
            hub.save_agent(agent(f"{group}-{n}"))

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(save, group) for group in "abcd"]:
            each.result()

    names = sorted(f"{group}-{n}" for group in "abcd" for n in range(20))
    assert [(each.id, each.session_id) for each in spool.agents()] == [
        (name, f"ses_{name}") for name in names
    ]


def test_sessions_are_mapped_to_agents_as_the_reference_does(spool: FileSpool) -> None:
    mapping = spool.root / "session_agents.json"
    mapping.write_text(
        '{"ses_other": {"agentId": "carol", "directory": "/c", "slug": "s", "x": 1}}'
    )

    spool.save_agent(agent("bob", directory="/projects/bob", slug="cosmic-panda"))

    assert json.loads(mapping.read_text()) == {
        "ses_other": {"agentId": "carol", "directory": "/c", "slug": "s", "x": 1},
        "ses_bob": {"agentId": "bob", "directory": "/projects/bob", "slug": "cosmic-panda"},
    }


def test_an_agent_known_by_its_session_only_is_known(spool: FileSpool) -> None:
    (spool.root / "session_agents.json").write_text(
        '{"ses_c": {"agentId": "carol", "directory": "/c", "slug": "panda"}}'
    )
    (known,) = spool.agents()
    assert (known.id, known.session_id, known.directory, known.slug) == (
        "carol",
        "ses_c",
        "/c",
        "panda",
    )


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"ses_bob": null}',
        b'{"ses_bob": {"agentId": "../../x"}}',
        b'{"ses_bob": {"agentId": ["bob"]}}',
        b"[" * 100_000,
    ],
    ids=lambda data: ascii(data[:30]),
)
def test_a_broken_map_of_sessions_stops_nobody(spool: FileSpool, broken: bytes) -> None:
    spool.save_agent(agent("bob", session_id=None, slug=""))
    (spool.root / "session_agents.json").write_bytes(broken)

    assert spool.agents() == [agent("bob", session_id=None, slug="")]
    spool.save_agent(agent("bob"))
    assert spool.agents() == [agent("bob")]


@pytest.mark.parametrize(
    "name", ["bob.json", "../session_agents.json"], ids=["agent", "session_agents"]
)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, a_dangling_link, a_socket])
def test_an_agents_file_that_is_no_file_stops_nobody(
    spool: FileSpool, make: Callable[[Path], None], name: str
) -> None:
    make(spool.root / "agents" / name)
    assert {known.session_id for known in spool.agents()} <= {None}


@pytest.mark.parametrize(
    ("theirs", "directory"),
    [
        ({"projectPath": "/p"}, "/p"),
        ({"projectPath": None, "lastSeen": "yesterday"}, ""),
        ({"lastSeen": -1}, ""),
        ({"lastSeen": 10**30}, ""),
    ],
)
def test_an_agents_file_may_be_sloppy(
    spool: FileSpool, theirs: dict[str, Any], directory: str
) -> None:
    (spool.root / "agents" / "bob.json").write_text(json.dumps(theirs))
    (known,) = spool.agents()
    assert known == Agent(id="bob", directory=directory, last_seen=known.last_seen)


def test_a_map_of_very_many_sessions_is_read(spool: FileSpool) -> None:
    many = {
        f"ses_{n}": {"agentId": f"agent-{n}", "directory": f"/projects/{n}" * 10, "slug": "slug"}
        for n in range(10_000)
    }
    data = json.dumps(many).encode()
    assert len(data) > MESSAGE_SIZE
    (spool.root / "session_agents.json").write_bytes(data)
    assert len(spool.agents()) == 10_000


def test_a_name_that_is_no_identifier_is_no_agent(spool: FileSpool) -> None:
    for name in ("with space.json", ".hidden.json", "notes.txt", "ü.json"):
        (spool.root / "agents" / name).write_text("{}")
    assert spool.agents() == []


def test_what_the_spool_writes_is_what_others_read(spool: FileSpool) -> None:
    key = spool.put(message())
    assert (spool.messages / key).read_bytes() == encode_message(message())
    assert json.loads(encode_message(message())) == {
        "id": "m1",
        "from": "alice",
        "to": "bob",
        "type": "context",
        "content": "Hello",
        "priority": "normal",
        "threadId": "t1",
        "timestamp": 1767268800000,
        "read": False,
    }


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels > 1 else []


def padded(size: int) -> dict[str, str]:
    """What makes the message so large, in bytes."""
    return {"long": "x" * (size - len(encode_message(message(extra={"long": ""}))))}


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ({"deep": nested(DEPTH)}, "deeper nesting, expected at most 64 levels"),
        (padded(MESSAGE_SIZE + 1), "more than 1048576 bytes"),
        ({"number": float("nan")}, "expected what JSON can hold"),
        ({"deep": nested(900)}, "expected"),
    ],
    ids=["deep", "long", "no number", "far too deep"],
)
def test_what_could_not_be_read_again_is_not_written(
    spool: FileSpool, extra: dict[str, Any], what: str
) -> None:
    def files() -> list[Path]:
        return [path for path in spool.root.rglob("*") if path.is_file()]

    before = files()
    with pytest.raises(InvalidValue, match=what):
        spool.put(message(extra=extra))
    assert files() == before


@pytest.mark.parametrize(
    "extra", [{"deep": nested(DEPTH - 1)}, padded(MESSAGE_SIZE)], ids=["deep", "long"]
)
def test_what_can_just_be_read_again_is_written(spool: FileSpool, extra: dict[str, Any]) -> None:
    assert spool.read(spool.put(message(extra=extra))) == message(extra=extra)


def test_what_is_written_anew_while_it_is_marked_is_not_lost(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = spool.put(message(content="old"))
    sync = os.fsync

    def write_anew(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)  # once: before the mark is put in its place
        (spool.messages / key).write_bytes(encode_message(message(content="new")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", write_anew)
    spool.mark_read(key, message(content="old"))

    waiting = spool.read(key)
    assert isinstance(waiting, Message)
    assert (waiting.content, waiting.read) == ("new", False)


@contextlib.contextmanager
def at_instant(instant: int, happens: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Let something happen just before that call that changes or opens a file; whether it did."""
    calls = itertools.count()

    def interrupting(call: Callable[..., Any]) -> Callable[..., Any]:
        def interrupted(*arguments: Any, **options: Any) -> Any:
            if next(calls) == instant:
                happens()
            return call(*arguments, **options)

        return interrupted

    with pytest.MonkeyPatch.context() as patched:
        for name in ("open", "link", "replace", "unlink"):
            patched.setattr(os, name, interrupting(getattr(os, name)))
        yield lambda: next(calls) > instant


@pytest.mark.parametrize("settling_is_interrupted", [False, True])
def test_a_mark_is_kept_at_whatever_instant_the_message_is_settled(
    spool: FileSpool, *, settling_is_interrupted: bool
) -> None:
    # the hub has read it before it was marked
    settle = partial(spool.settle, [settlement("m1.json", message())])
    mark = partial(spool.mark_read, "m1.json", message())
    slow, quick = (settle, mark) if settling_is_interrupted else (mark, settle)
    for instant in itertools.count():
        spool.put(message())
        with at_instant(instant, quick) as happened:
            slow()
            if not happened():
                break
        waits = spool.read("m1.json")
        if isinstance(waits, Message):  # the hub comes upon it again
            spool.settle([settlement("m1.json", waits, outcome=Outcome.READ)])
        (record,) = spool.settled("m1")
        assert (record.outcome, record.message.read) == (Outcome.DELIVERED, True), instant
        assert spool.keys() == []
        (spool.archive / record.key).unlink()
    assert instant > 5


@pytest.mark.parametrize("content", ["", "[]", '{"began": "long ago"}', '{"began": 7}'])
def test_a_record_of_the_beginning_that_is_of_no_use_is_written_anew(
    spool: FileSpool, content: str
) -> None:
    """Better to leave alone what is there than to wake it."""
    (spool.root / "hub.json").write_text(content)
    assert spool.began(NOON) == NOON
    assert spool.began(NOON + HOUR) == NOON


@pytest.mark.parametrize("content", ["", "[]", '["ses_bob"]', "{"])
def test_a_record_of_who_was_told_that_is_of_no_use_is_written_anew(
    spool: FileSpool, content: str
) -> None:
    (spool.root / "oriented_sessions.json").write_text(content)
    assert set(spool.oriented()) == set()
    spool.save_oriented("ses_bob", NOON)
    assert set(spool.oriented()) == {"ses_bob"}


def test_who_was_told_is_kept_with_the_first_time(spool: FileSpool) -> None:
    spool.save_oriented("ses_bob", NOON)
    spool.save_oriented("ses_bob", NOON + HOUR)
    path = spool.root / "oriented_sessions.json"
    assert json.loads(path.read_text()) == {"ses_bob": {"orientedAt": 1767268800000}}
    assert path.stat().st_mode & 0o077 == 0
