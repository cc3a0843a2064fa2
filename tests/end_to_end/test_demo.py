"""`make demo` plays its scene to the end, with OpenCode and without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.__main__ import QUESTION, play_in_memory

CONTRACT, BETWEEN_AGENTS = 3, 7  # as opencode-agent-hub tells of it: 3, and 5 to 7
QUESTIONS, INTRODUCTIONS, AFTER_THEM = 3, 2, 0

CHECKOUT = Path(__file__).parents[2]


def test_agents_that_are_introduced_settle_a_contract_in_three_messages_and_nothing_is_left(
    opencode_binary: Path, tmp_path: Path
) -> None:
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    scene = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=CHECKOUT,
        env=os.environ
        | {"AGENTHUB_OPENCODE": str(opencode_binary), "HOME": str(home), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=100,  # it takes 15 s; more than a minute nobody would wait
        check=True,
    )
    took = scene.stdout.partition("What it took")[2]
    figures = [int(figure) for figure in re.findall(r"  (\d+)   ", took)]
    assert figures[:5] == [CONTRACT, BETWEEN_AGENTS, QUESTIONS, INTRODUCTIONS, AFTER_THEM]
    assert figures[5] == BETWEEN_AGENTS + INTRODUCTIONS + 3 * QUESTIONS, "and nothing else"
    assert scene.stderr == ""
    assert [*temporary.iterdir(), *home.iterdir()] == []


def test_without_opencode_two_agents_are_played_in_memory(
    capsys: pytest.CaptureFixture[str],
) -> None:
    play_in_memory()
    assert capsys.readouterr().out.count(QUESTION) == 2
