"""`make pictures` still has a scene to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.pictures import ANSWER, ANSWERED, QUESTION, play
from testkit.picture import words


@pytest.mark.usefixtures("tmux")
def test_the_window_shows_the_question_and_the_answer_and_nothing_of_this_machine(
    opencode_binary: Path,
) -> None:
    seen = words(play(opencode_binary))
    order = [seen.index(text) for text in (QUESTION, ANSWER, ANSWERED)]
    assert order == sorted(order)
    assert "into /home/you/.agent-hub/messages" in seen
