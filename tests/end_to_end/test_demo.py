"""`make demo` plays its scene to the end, with OpenCode and without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.__main__ import ANSWER, QUESTION, play_in_memory

CHECKOUT = Path(__file__).parents[2]


def test_on_opencode_one_agent_asks_and_the_other_answers_and_nothing_is_left(
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
        timeout=60,  # it takes 8 s; a minute is what a person would wait
        check=True,
    )
    assert scene.stdout.count(QUESTION) == 2  # as it was asked, and as the other's model reads it
    assert f"calls agent-hub_send_message: {ANSWER}" in scene.stdout
    assert f"Understood: {ANSWER}" in scene.stdout  # it has come back to who asked
    assert "agent_hub_messages_total                  2" in scene.stdout
    assert scene.stderr == ""
    assert [*temporary.iterdir(), *home.iterdir()] == []


def test_without_opencode_the_same_scene_is_played_in_memory(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counted = play_in_memory()
    assert capsys.readouterr().out.count(QUESTION) == 2
    assert counted["agent_hub_messages_total"] == 1
