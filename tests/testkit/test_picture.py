"""A picture says and shows what the screen does, and needs nothing else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from testkit.picture import picture, words

RED, ON_BLUE, PLAIN = "\x1b[38;2;250;20;30m", "\x1b[48;2;1;2;200m", "\x1b[0m"


def drawn(screen: str) -> str:
    return picture(screen, title="title", columns=20)


def test_it_says_what_the_screen_says_as_one_text() -> None:
    screen = f'┃ one & {RED}<two>{PLAIN}   \n┃ "three"\n╹▀▀▀▀\n'
    assert words(drawn(screen)) == 'title one & <two> "three"'


def test_an_empty_screen_says_nothing() -> None:
    assert words(drawn("\n" * 5)) == "title"


def test_it_has_the_colours_of_the_screen() -> None:
    svg = drawn(f"{RED}word{PLAIN} {ON_BLUE}   {PLAIN}")
    assert "#fa141e" in svg
    assert '<rect fill="#0102c8"' in svg


def test_a_colour_goes_on_until_it_is_changed_over_the_ends_of_lines() -> None:
    svg = drawn(f"{RED}one\ntwo{PLAIN}")
    first, second = (re.search(rf'<text class="([^"]+)"[^>]*>{n}<', svg) for n in ("one", "two"))
    assert first
    assert second
    assert first[1] == second[1]


@pytest.mark.parametrize("line", ["x" * 20, "┃ " + "─" * 18, f"{ON_BLUE}{' ' * 20}"])
def test_a_full_line_stays_one_line(line: str) -> None:
    def height(screen: str) -> str:
        return ET.fromstring(drawn(screen)).attrib["viewBox"]  # noqa: S314  # it is ours

    assert height(f"{line}\nend") == height("short\nend")


def test_it_loads_nothing() -> None:
    svg = drawn("word").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search("://|@import|@font-face|href|<script", svg)
