"""Which instructions the coordinator gets, and that a user's own file is never overwritten."""

from __future__ import annotations

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
