"""The README tells the truth: its example runs, and its table of settings is complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs

from agenthub_cli.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_library_example_runs_and_delivers() -> None:
    (example,) = code_blocks("python")
    command = [sys.executable, "-W", "error", "-c", example]
    said = subprocess.run(  # noqa: S603  # the README is ours
        command, capture_output=True, text=True, check=True
    ).stdout
    assert "\nHungry?\n" in said
    assert said.endswith("Outcome.DELIVERED\n")


def test_every_setting_is_in_the_table_under_all_its_names_and_with_its_default() -> None:
    rows = [[cell.strip() for cell in row.split("|")] for row in README.splitlines()]
    told = {
        row[1].strip("`"): (row[2].strip("`") or None, row[3].strip("`"))
        for row in rows
        if len(row) == 6 and re.fullmatch(r"`[A-Z_]+`", row[1])
    }
    assert told == {
        setting.metadata["variable"]: (setting.metadata["key"], str(setting.metadata["default"]))
        for setting in attrs.fields(Settings)
    }
