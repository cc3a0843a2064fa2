"""A terminal's screen as a picture: one SVG that needs no other file, not even a font.

    screen = window.screen(coloured=True)
    Path("window.svg").write_text(picture(screen, title="opencode", columns=120))
    assert "Ask anything" in words(Path("window.svg").read_text())

What is on the screen is left to `window` and whoever plays there.
"""

from __future__ import annotations

import html
import io
import re

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME, TerminalTheme
from rich.text import Text

# rich's own template loads a font from the network, and leaves space between lines, which would cut
# through what is drawn with box characters: rich reckons with letters of 20 pixels.
_TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
text {{ font-family: monospace; font-size: 21px }}
.{unique_id}-title {{ font-size: 18px }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
{matrix}
</g>
</svg>
"""

_ASPECT = 0.6 * 21 / 20  # a letter of nearly every monospaced font is 0.6 as wide as it is high

_DARK = TerminalTheme(
    background=(10, 10, 10),  # OpenCode's own, which the frame then continues
    foreground=(238, 238, 238),
    normal=[SVG_EXPORT_THEME.ansi_colors[number] for number in range(8)],
    bright=[SVG_EXPORT_THEME.ansi_colors[number] for number in range(8, 16)],
)


def picture(screen: str, *, title: str, columns: int) -> str:
    """The SVG of a screen with its escape sequences, framed as a window."""
    console = Console(record=True, width=columns, file=io.StringIO())
    console.print(Text.from_ansi(screen.rstrip("\n"), no_wrap=True))
    return console.export_svg(
        title=title,
        theme=_DARK,
        code_format=_TEMPLATE,
        font_aspect_ratio=_ASPECT,
        unique_id="screen",
    )


def words(svg: str) -> str:
    """What a picture says, in one line: without colours, frames and line ends."""
    said = " ".join(re.findall(r"<text[^>]*>(.*?)</text>", svg))
    return re.sub(r"[\s─-▟]+", " ", html.unescape(said)).strip()
