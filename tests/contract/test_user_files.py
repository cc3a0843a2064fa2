"""A user's file is replaced as a whole, kept beside, and belongs to whom it belonged."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agenthub_adapters.user_files import read, write
from agenthub_core import Misconfigured

NOW = datetime(2026, 1, 31, 12, 30, 5, tzinfo=UTC)
NOBODY = 65534


@contextlib.contextmanager
def as_a_common_user() -> Iterator[Path]:
    """A directory of a user to whom permissions mean something, and that user.

    To root they mean nothing; so root becomes nobody for a while, this whole process.
    """
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, NOBODY)
        groups = os.getgroups()
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, 0)
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield Path(name)
        finally:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups(groups)


def test_what_is_written_is_read_and_the_old_bytes_are_kept_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"
    path.write_bytes(b"// gr\xc3\xbc\xc3\x9fe\r\n{}")

    copy = write(path, "// 你好\r\n{}", now=NOW)

    assert read(path) == "// 你好\r\n{}"
    assert copy == tmp_path / "opencode.json.20260131-123005.bak"
    assert copy.read_bytes() == b"// gr\xc3\xbc\xc3\x9fe\r\n{}"
    assert sorted(tmp_path.iterdir()) == [path, copy]


def test_two_changes_within_a_second_keep_a_copy_each(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"
    path.write_text("first")

    copies = [write(path, text, now=NOW) for text in ("second", "third")]

    assert [copy.read_text() for copy in copies if copy is not None] == ["first", "second"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_who_might_read_the_file_may_read_it_and_its_copy_and_nobody_else(
    mode: int, tmp_path: Path
) -> None:
    path = tmp_path / "opencode.json"
    path.write_text("{}")
    path.chmod(mode)

    copy = write(path, "{ }", now=NOW)

    assert copy is not None
    assert [each.stat().st_mode & 0o777 for each in (path, copy)] == [mode, mode]


def test_a_copy_is_private_before_it_is_given_the_mode_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "opencode.json"
    path.write_text("{}")
    path.chmod(0o600)
    born: list[int] = []

    def chmod(of: Path, mode: int, **options: Any) -> None:
        born.append(Path(of).stat().st_mode & 0o777)
        original(of, mode, **options)

    original = os.chmod
    monkeypatch.setattr(os, "chmod", chmod)
    before = os.umask(0)
    try:
        write(path, "{ }", now=NOW)
    finally:
        os.umask(before)

    assert born == [0o600, 0o600]  # of the file that replaces it, too


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that are another user's")
def test_root_leaves_a_file_to_whom_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"
    path.write_text("{}")
    path.chmod(0o640)
    os.chown(path, NOBODY, NOBODY)

    copy = write(path, "{ }", now=NOW)

    assert copy is not None
    for each in (path, copy):
        status = each.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (NOBODY, NOBODY, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that are another user's")
def test_a_group_that_cannot_be_kept_is_not_replaced_by_one_that_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "opencode.json"
    path.write_text("{}")
    path.chmod(0o640)
    os.chown(path, os.geteuid(), NOBODY)

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", forbidden)
    copy = write(path, "{ }", now=NOW)

    assert copy is not None
    assert [each.stat().st_mode & 0o777 for each in (path, copy)] == [0o600, 0o600]


def test_a_link_stays_a_link_and_what_it_points_to_is_changed(tmp_path: Path) -> None:
    dotfiles, config = tmp_path / "dotfiles", tmp_path / "config"
    dotfiles.mkdir()
    config.mkdir()
    (dotfiles / "oc.json").write_text("{}")
    link = config / "opencode.json"
    link.symlink_to("../dotfiles/oc.json")

    copy = write(link, "{ }", now=NOW)

    assert link.readlink() == Path("../dotfiles/oc.json")
    assert (dotfiles / "oc.json").read_text() == "{ }"
    assert copy is not None
    assert copy.parent == dotfiles
    assert list(config.iterdir()) == [link]


def test_where_there_is_no_file_it_is_made_with_its_directory_and_nothing_is_copied(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config" / "opencode" / "opencode.json"
    assert read(path) == ""
    assert write(path, "{}", now=NOW) is None
    assert read(path) == "{}"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_read_only_is_refused_and_stays_as_it_was() -> None:
    with as_a_common_user() as directory:
        path = directory / "opencode.json"
        path.write_text("{}")
        path.chmod(0o400)

        with pytest.raises(Misconfigured, match="is read-only: nothing was changed"):
            write(path, "{ }", now=NOW)

        assert path.read_text() == "{}"
        assert list(directory.iterdir()) == [path]


def test_a_directory_that_is_read_only_is_refused_and_stays_as_it_was() -> None:
    with as_a_common_user() as directory:
        path = directory / "opencode.json"
        path.write_text("{}")
        directory.chmod(0o500)

        with pytest.raises(Misconfigured, match=r"cannot be written: Permission denied"):
            write(path, "{ }", now=NOW)

        assert path.read_text() == "{}"
        assert list(directory.iterdir()) == [path]
        directory.chmod(0o700)


def test_a_text_that_cannot_be_written_leaves_the_file_and_no_other_of_it(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"

    with pytest.raises(UnicodeEncodeError):
        write(path, "\ud800", now=NOW)

    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_the_way_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    with pytest.raises(Misconfigured, match=f"{tmp_path}/config.* cannot be written"):
        write(tmp_path / "config" / "opencode.json", "{}", now=NOW)


def test_a_disk_that_is_full_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "opencode.json"
    path.write_text("{}")

    def full(_: int) -> None:  # a real full disk would need a file system of its own, and root
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Misconfigured, match="No space left on device"):
        write(path, "{ }", now=NOW)

    assert path.read_text() == "{}"
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b"// gr\xfc\xdfe\n{}")
    with pytest.raises(Misconfigured, match=r"latin\.json is not UTF-8"):
        read(tmp_path / "latin.json")
    with pytest.raises(Misconfigured, match="cannot be read: Is a directory"):
        read(tmp_path)
