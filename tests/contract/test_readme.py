"""What the README says is so: its library example, its tables, its picture; and the Makefile.

Its shell blocks are executed on the real OpenCode, in `tests/end_to_end/test_readme.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from agenthub_cli import main, reading, writing
from agenthub_cli.settings import Settings
from demo.pictures import ANSWER, ANSWERED, QUESTION
from testkit.picture import words

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("target", ["setup", "test", "demo", "unit"])
def test_make_tells_who_sets_up_and_nobody_else_what_to_do_next(target: str) -> None:
    command = ["make", "--dry-run", target]
    said = subprocess.run(  # noqa: S603  # the Makefile is ours
        command, cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    assert ("Then: agenthub setup" in said) == ("export PATH=" in said) == (target == "setup")


def test_the_library_example_runs_and_delivers() -> None:
    (example,) = code_blocks("python")
    command = [sys.executable, "-W", "error", "-c", example]
    said = subprocess.run(  # noqa: S603  # the README is ours
        command, capture_output=True, text=True, check=True
    ).stdout
    assert "\nHungry?\n" in said
    assert said.endswith("Outcome.DELIVERED\n")


def test_the_table_of_settings_is_what_the_settings_say_of_themselves() -> None:
    """Where this fails, the rows that it expects are the ones to put into the README."""
    expected = []
    for setting in attrs.fields(Settings):
        meta = setting.metadata
        key = f"`{meta['key']}`" if meta["key"] else ""
        default = f"`{meta['default']}`" if meta["default"] != "" else ""
        expected.append(f"| `{meta['variable']}` | {key} | {default} | {meta['text']} |")
    rows = README.partition("| environment | configuration file |")[2].partition("\n\n")[0]
    assert rows.splitlines()[2:] == expected


def test_every_command_is_in_the_table_of_commands() -> None:
    apps = (main.app, writing.app, reading.app)
    commands = [command for app in apps for command in app.registered_commands]
    named = {each.name or each.callback.__name__ for each in commands if each.callback}
    assert named == set(re.findall(r"^\| `agenthub ([a-z]+)", README, re.MULTILINE))


def test_its_picture_shows_the_message_that_has_arrived_and_the_answer() -> None:
    """Where this fails, `make pictures` makes it anew."""
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    seen = words((CHECKOUT / picture).read_text(encoding="utf-8"))
    order = [seen.index(text) for text in (QUESTION, ANSWER, ANSWERED)]
    assert order == sorted(order)
    assert "/home/you/api" in seen
