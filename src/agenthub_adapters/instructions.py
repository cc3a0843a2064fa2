"""The coordinator's instructions, put where OpenCode reads them: AGENTS.md in its directory.

They are the user's, where they have written some, else those that come with agenthub. A file that
the hub has not put there itself is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agenthub_core import Misconfigured

FILE = "AGENTS.md"

_OWN = Path(__file__).parent / "coordinator" / FILE

_MARK = "<!-- agenthub puts this file here at each start, from "
_MARK_END = ". Without this line it is yours and stays as it is. -->"

_NEW = f".{FILE}.new"

_BELONGS = (FILE, "opencode.json", ".opencode", ".DS_Store")
"""What the names contain that are no sign of a project: an editor adds to them, for its backups."""


def place(
    directory: Path, *, wanted: Path | None, user_directory: Path, is_hubs: bool = False
) -> None:
    """See to it that there are instructions in the directory, which is made if it is missing.

    `wanted` is the file that the user has named. Else it is looked for in the order of
    opencode-agent-hub: AGENTS.md or COORDINATOR.md in `user_directory`, then agenthub's own.
    Raises `Misconfigured` where they cannot be read or written, or the directory, unless it
    `is_hubs`, is a project of the user's, all of whose agents would read them.
    """
    source, text = _instructions(wanted, user_directory)
    target = directory / FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_hubs:
            _check_is_no_project(directory)
        if not _is_users(target, source):
            _put(target, f"{_MARK}{source}{_MARK_END}\n{text}")
    except OSError as error:
        raise Misconfigured(
            f"the coordinator's instructions cannot be put into {directory}: {error.strerror}. "
            "AGENT_HUB_COORDINATOR_DIR names another directory, AGENT_HUB_COORDINATOR=false does "
            "without a coordinator"
        ) from error


def _check_is_no_project(directory: Path) -> None:
    for name in sorted(path.name for path in directory.iterdir()):
        if not any(each in name for each in _BELONGS):
            raise Misconfigured(
                f"there is {name} in {directory}, and every agent that works there would be told "
                "that it is the coordinator: set AGENT_HUB_COORDINATOR_DIR to a directory of the "
                "coordinator's own, which is made if it is missing"
            )


def _is_users(target: Path, source: Path) -> bool:
    if target.is_symlink():
        return True
    if not target.exists():
        return False
    if target.samefile(source):
        return True
    beginning = target.read_text("utf-8", "replace").strip()[: len(_MARK)]
    return not _MARK.startswith(beginning)  # an empty file is nobody's, nor half of the mark


def _put(target: Path, text: str) -> None:
    """Whole or not at all: the half of a file would count as its user's ever after."""
    new = target.with_name(_NEW)
    new.unlink(missing_ok=True)  # a crash may have left it, and a link must not be followed
    try:
        with new.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _instructions(wanted: Path | None, user_directory: Path) -> tuple[Path, str]:
    for source in _sources(wanted, user_directory):
        try:
            return source, _unmarked(source.read_text("utf-8"))
        except FileNotFoundError:
            if source == wanted:
                raise Misconfigured(
                    f"there are no instructions for the coordinator at {source}: "
                    "AGENT_HUB_COORDINATOR_AGENTS_MD names them"
                ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(
                f"the coordinator's instructions at {source} cannot be read: {error}"
            ) from error
    raise Misconfigured(f"{_OWN} is missing: install agenthub again")


def _sources(wanted: Path | None, user_directory: Path) -> Iterator[Path]:
    if wanted is not None:
        yield wanted
    yield user_directory / FILE
    yield user_directory / "COORDINATOR.md"
    yield _OWN


def _unmarked(text: str) -> str:
    """The user's own may have begun as a copy of what the hub has put there."""
    while text.startswith(_MARK):
        text = text.partition("\n")[2]
    return text
