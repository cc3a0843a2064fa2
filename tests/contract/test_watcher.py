"""What the watcher tells of a directory, how soon, and that it leaves no thread behind.

Hints come from another thread, so the tests wait for what they expect and for no longer. That
something is *not* told is known when a later file has been: hints keep the order of the files.
"""

from __future__ import annotations

import errno
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agenthub_adapters.watcher import Watcher
from agenthub_core import StoreUnreadable
from testkit.waiting import PATIENCE, eventually

FAST = 0.3  # seconds; a delayed hint takes 0.5 s, a hint some milliseconds


class Hints:
    """What was hinted, in order, and what a reader of the file would have found then."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._queue: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
        self._last = 0

    def __call__(self, name: str) -> None:
        path = self.directory / name
        self._queue.put((name, path.read_text() if path.is_file() else None))

    def until(self, name: str, text: str) -> list[tuple[str, str | None]]:
        """All hints up to the one at which the file has that text."""
        seen: list[tuple[str, str | None]] = []
        while not seen or seen[-1] != (name, text):
            try:
                seen.append(self._queue.get(timeout=PATIENCE))
            except queue.Empty:
                raise AssertionError(f"{name} was never {text!r}; hints: {seen}") from None
        return seen

    def names_until_the_last(self) -> list[str]:
        """All names up to that of a file that is written now."""
        self._last += 1
        (self.directory / "last").write_text(f"{self._last}")
        return [name for name, _ in self.until("last", f"{self._last}") if name != "last"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "messages"
    directory.mkdir()
    return directory


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    eventually(lambda: set(threading.enumerate()) - before, when=lambda left: not left)


@pytest.fixture
def hints(directory: Path, no_thread_is_left: None) -> Iterator[Hints]:
    del no_thread_is_left
    hints = Hints(directory)
    with Watcher(directory, hints):
        yield hints


def test_a_file_written_in_place_is_told_of_when_its_last_byte_is_there(
    directory: Path, hints: Hints
) -> None:
    with (directory / "m1.json").open("w") as file:
        hints.until("m1.json", "")  # it has appeared
        for part in ("{", '"to"', ":", '"bob"', "}"):
            file.write(part)
            file.flush()

    hints.until("m1.json", '{"to":"bob"}')


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a writer is done")
def test_each_single_write_is_not_told_of(directory: Path, hints: Hints) -> None:
    with (directory / "m1.json").open("w") as file:
        for _ in range(100):
            file.write("x")
            file.flush()

    assert hints.names_until_the_last() == ["m1.json", "m1.json"]  # it appeared; it was closed


def test_a_file_that_is_written_anew_is_told_of_again(directory: Path, hints: Hints) -> None:
    for text in ("first", "second", "third"):
        (directory / "m1.json").write_text(text)
        hints.until("m1.json", text)


def test_a_file_renamed_into_place_is_told_of_by_its_new_name(
    directory: Path, hints: Hints, tmp_path: Path
) -> None:
    outside = tmp_path / "temporary"
    outside.write_text("from outside")
    outside.rename(directory / "m1.json")
    hints.until("m1.json", "from outside")

    inside = directory / ".m2.json.tmp"
    inside.write_text("from inside")
    inside.rename(directory / "m2.json")
    hints.until("m2.json", "from inside")


def test_a_file_linked_into_place_is_told_of(directory: Path, hints: Hints, tmp_path: Path) -> None:
    (tmp_path / "temporary").write_text("whole")
    os.link(tmp_path / "temporary", directory / "m1.json")
    assert hints.until("m1.json", "whole") == [("m1.json", "whole")]


def test_a_hint_is_the_name_only(directory: Path, hints: Hints) -> None:
    for name in ("Grüße 🐼.json", "with space.json", ".hidden"):
        (directory / name).write_text(name)
        hints.until(name, name)
    assert set(hints.names_until_the_last()) <= {".hidden"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_name_that_is_no_text_is_told_as_the_system_has_it(directory: Path, hints: Hints) -> None:
    name = os.fsdecode(b"caf\xe9.json")
    (directory / name).write_text("?")
    hints.until(name, "?")


def test_subdirectories_and_what_is_in_them_are_not_told_of(directory: Path, hints: Hints) -> None:
    archive = directory / "archive"
    archive.mkdir()
    (archive / "m1.json").write_text("settled")
    (archive / "m2.json").write_text("settled")
    (archive / "m2.json").rename(archive / "m3.json")
    archive.rename(directory / "archives")

    assert hints.names_until_the_last() == []


def test_reading_and_removing_are_not_told_of(directory: Path, hints: Hints) -> None:
    (directory / "m1.json").write_text("x")
    hints.until("m1.json", "x")
    hints.names_until_the_last()

    (directory / "m1.json").read_text()
    (directory / "m1.json").unlink()

    assert hints.names_until_the_last() == []


def test_hints_are_not_held_up_by_files_that_are_removed(directory: Path, hints: Hints) -> None:
    """Which is how the spool takes out what is settled; a rename would cost half a second."""

    def delay(name: str) -> float:
        (directory / "settled.json").write_text("x")
        hints.until("settled.json", "x")
        (directory / "settled.json").unlink()
        began = time.monotonic()
        (directory / name).write_text(name)
        hints.until(name, name)
        return time.monotonic() - began

    delays = sorted(delay(f"m{number}.json") for number in range(7))
    assert delays[3] < FAST  # the median: a loaded machine may delay a single one


def test_many_files_at_once_are_all_told_of(directory: Path, hints: Hints) -> None:
    names = {f"m{number}.json" for number in range(500)}
    for name in names:
        (directory / name).write_text("x")
    assert set(hints.names_until_the_last()) == names


# ----------------------------------------------------------------------------- beginning and ending


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(StoreUnreadable, match=f"{missing} cannot be watched") as told:
        Watcher(missing, Hints(missing)).__enter__()
    assert "sysctl" not in str(told.value)


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE], ids=["watches", "instances"])
@pytest.mark.parametrize("method", ["__init__", "start"])
def test_a_limit_that_is_reached_is_told_with_what_raises_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, "limit reached")

    monkeypatch.setattr(f"agenthub_adapters.watcher.Observer.{method}", refused)
    with pytest.raises(StoreUnreadable, match=r"inotify.max_user_instances.*max_user_watches"):
        Watcher(directory, Hints(directory)).__enter__()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these limits")
@pytest.mark.usefixtures("no_thread_is_left")
def test_a_limit_that_is_really_reached_is_told_too(directory: Path) -> None:
    script = """
import os, resource, sys
from pathlib import Path
from agenthub_adapters.watcher import Watcher
from agenthub_core import StoreUnreadable

opened = len(os.listdir("/proc/self/fd")) - 1  # one was open for the listing
resource.setrlimit(resource.RLIMIT_NOFILE, (opened, opened))
try:
    Watcher(Path(sys.argv[1]), print).__enter__()
except StoreUnreadable as error:
    print(error)
"""
    told = subprocess.run(  # noqa: S603  # this very Python
        [sys.executable, "-c", script, str(directory)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert str(directory) in told
    assert "max_user_instances" in told


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_its_threads_and_files_end_with_it(directory: Path) -> None:
    with Watcher(directory, Hints(directory)):
        pass  # whatever the library keeps for the next time is kept from now on
    before, files = set(threading.enumerate()), open_files()

    for _ in range(3):
        with Watcher(directory, Hints(directory)):
            assert set(threading.enumerate()) > before

    assert set(threading.enumerate()) == before
    assert open_files() == files


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("ending", [fail, lambda: sys.exit(1)], ids=["error", "exit"])
def test_its_threads_end_after_an_error_too(directory: Path, ending: Callable[[], None]) -> None:
    before = set(threading.enumerate())
    with (
        pytest.raises((ZeroDivisionError, SystemExit)),
        Watcher(directory, Hints(directory)),
    ):
        ending()
    assert set(threading.enumerate()) == before


def test_nothing_is_told_after_its_end(directory: Path) -> None:
    told: list[str] = []
    with Watcher(directory, told.append):
        pass
    (directory / "m1.json").write_text("x")
    assert told == []


def test_it_does_not_mind_that_its_directory_is_removed(directory: Path) -> None:
    with Watcher(directory, Hints(directory)):
        directory.rmdir()
