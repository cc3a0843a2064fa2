"""Which instructions the coordinator gets, and that nothing of the user's own is overwritten."""

from __future__ import annotations

import resource
import signal
import stat
from pathlib import Path

import pytest

from agenthub_adapters.instructions import place
from agenthub_core import Misconfigured


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "coordinator"


@pytest.fixture
def user_directory(tmp_path: Path) -> Path:
    user_directory = tmp_path / "config"
    user_directory.mkdir()
    return user_directory


def placed(directory: Path, user_directory: Path, wanted: Path | None = None) -> str:
    place(directory, wanted=wanted, user_directory=user_directory)
    return (directory / "AGENTS.md").read_text()


def test_without_the_users_own_they_are_agenthubs(directory: Path, user_directory: Path) -> None:
    assert "NEW_AGENT: <id> at <directory>" in placed(directory, user_directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_users_go_before_them_in_the_order_of_the_reference(
    directory: Path, user_directory: Path, tmp_path: Path
) -> None:
    for where in ("config/COORDINATOR.md", "config/AGENTS.md", "named.md"):
        (tmp_path / where).write_text(f"from {where}")
        wanted = tmp_path / where if where == "named.md" else None
        text = placed(directory, user_directory, wanted)
        assert text.endswith(f"from {where}")
        assert str(tmp_path / where) in text.splitlines()[0], "it says where they come from"


def test_what_was_changed_there_is_taken_over_at_the_next_start(
    directory: Path, user_directory: Path
) -> None:
    own = user_directory / "AGENTS.md"
    own.write_text("one")
    placed(directory, user_directory)
    own.write_text("two")
    assert placed(directory, user_directory).endswith("two")


def test_a_file_that_the_hub_has_not_put_there_is_left_as_it_is(
    directory: Path, user_directory: Path
) -> None:
    directory.mkdir(parents=True)
    (directory / "AGENTS.md").write_text("mine")
    assert placed(directory, user_directory) == "mine"


def test_a_named_file_that_is_missing_is_told_with_the_setting(
    directory: Path, user_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match="AGENT_HUB_COORDINATOR_AGENTS_MD"):
        placed(directory, user_directory, tmp_path / "missing.md")


def test_what_cannot_be_read_or_written_is_told(
    directory: Path, user_directory: Path, tmp_path: Path
) -> None:
    (user_directory / "AGENTS.md").mkdir()
    with pytest.raises(Misconfigured, match="cannot be read"):
        placed(directory, user_directory)
    (user_directory / "AGENTS.md").rmdir()
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(Misconfigured, match="AGENT_HUB_COORDINATOR_DIR"):
        placed(directory, user_directory)


def test_copied_as_a_beginning_of_the_users_own_it_takes_no_mark_along(
    directory: Path, user_directory: Path
) -> None:
    own = user_directory / "AGENTS.md"
    for _ in range(2):
        own.write_text(placed(directory, user_directory))
    text = placed(directory, user_directory)
    mark, rest = text.split("\n", 1)
    assert str(own) in mark
    assert "agenthub puts this file here" not in rest
    assert "NEW_AGENT: <id> at <directory>" in rest


@pytest.mark.parametrize("how", ["itself", "link"])
def test_the_placed_file_named_as_the_users_own_stays_as_it_is(
    directory: Path, user_directory: Path, tmp_path: Path, how: str
) -> None:
    first = placed(directory, user_directory)
    named = directory / "AGENTS.md"
    if how == "link":
        named = tmp_path / "named.md"
        named.symlink_to(directory / "AGENTS.md")
    assert placed(directory, user_directory, named) == first


@pytest.mark.parametrize("found", ["", "\n", "<!-- agenthub puts this"])
def test_what_a_crash_has_left_of_the_hubs_own_file_is_nobodys(
    directory: Path, user_directory: Path, found: str
) -> None:
    directory.mkdir(parents=True)
    (directory / "AGENTS.md").write_text(found)
    assert "NEW_AGENT: <id> at <directory>" in placed(directory, user_directory)


def test_it_is_there_whole_or_as_it_was(directory: Path, user_directory: Path) -> None:
    before = placed(directory, user_directory)
    (user_directory / "AGENTS.md").write_text("x" * 100_000)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))  # as a disk that is full
    try:
        with pytest.raises(Misconfigured, match="cannot be put"):
            placed(directory, user_directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, handler)
    assert (directory / "AGENTS.md").read_text() == before
    assert "x" * 100_000 in placed(directory, user_directory), "what was left is in nobody's way"
    assert [path.name for path in directory.iterdir()] == ["AGENTS.md"]


def test_a_link_is_its_users_wherever_it_leads(
    directory: Path, user_directory: Path, tmp_path: Path
) -> None:
    directory.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere.md"
    (directory / "AGENTS.md").symlink_to(elsewhere)
    place(directory, wanted=None, user_directory=user_directory)
    assert not elsewhere.exists()
    elsewhere.write_text("")
    assert placed(directory, user_directory) == ""


@pytest.mark.parametrize("other", ["main.py", ".git", "README.md"])
@pytest.mark.parametrize("own", [True, False])
def test_in_a_project_nobody_is_made_the_coordinator(
    directory: Path, user_directory: Path, other: str, own: bool
) -> None:
    (directory / other).mkdir(parents=True)
    if own:
        (directory / "AGENTS.md").write_text("mine")
    with pytest.raises(Misconfigured, match=rf"{other}.*AGENT_HUB_COORDINATOR_DIR"):
        place(directory, wanted=None, user_directory=user_directory)
    assert (directory / "AGENTS.md").exists() == own


def test_what_opencode_and_an_editor_leave_there_is_no_project(
    directory: Path, user_directory: Path
) -> None:
    (directory / ".opencode" / "plugin").mkdir(parents=True)
    for name in ("opencode.json", "opencode.jsonc", ".AGENTS.md.swp", "AGENTS.md~", ".DS_Store"):
        (directory / name).touch()
    assert "NEW_AGENT: <id> at <directory>" in placed(directory, user_directory)


def test_in_the_hubs_own_directory_whatever_an_older_hub_has_left_is_no_project(
    directory: Path, user_directory: Path
) -> None:
    (directory / "logs").mkdir(parents=True)
    place(directory, wanted=None, user_directory=user_directory, is_hubs=True)
    assert "NEW_AGENT: <id> at <directory>" in (directory / "AGENTS.md").read_text()
