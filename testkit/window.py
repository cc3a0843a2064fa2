"""A standalone OpenCode window on a terminal nobody sees.

    with Window(opencode, project) as window:
        window.wait_for_text("Ask anything")
        window.type("ping")
        window.press("Enter")
        window.wait_for_text("pong")

The window is a process of its own beside the server, with the same HOME and so the same sessions.
The terminal is a tmux server of its own, which `close` ends. What the model answers is left to
`scripted_model`, an image of the screen to `picture`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from testkit.opencode import OpenCode, descendants, kill_each
from testkit.waiting import PATIENCE, eventually

# Wide enough for the sidebar to stay closed and for a short path to stay on one line.
COLUMNS, ROWS = 120, 36


class Window:
    """`opencode` in a directory, opened by `open` or `with`."""

    def __init__(
        self,
        opencode: OpenCode,
        directory: Path,
        *arguments: str,
        program: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        size: tuple[int, int] = (COLUMNS, ROWS),
    ) -> None:
        """`arguments` are OpenCode's own, such as `"--session", session_id`, or the `program`'s."""
        self._opencode = opencode
        self._program = list(map(str, program or [opencode.binary]))
        self._env = dict(opencode.env if env is None else env)
        self.directory = directory
        self._arguments = arguments
        self._columns, self._rows = map(str, size)
        self._pid: int | None = None
        self._socket: Path | None = None

    def open(self) -> None:
        # A socket's path may have no more than 104 bytes, which a test's own directory exceeds.
        self._socket = Path(tempfile.mkdtemp(prefix="testkit-")) / "socket"
        self._tmux(
            *("-f", "/dev/null"),  # not the user's own configuration
            *("new-session", "-d", "-x", self._columns, "-y", self._rows),
            *("-c", str(self.directory)),
            *self._program,
            *self._arguments,
            *(";", "set-option", "remain-on-exit", "on"),  # the last screen tells why it ended
        )
        self._pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))

    @property
    def pid(self) -> int:
        if self._pid is None:
            raise RuntimeError("the window is not open")
        return self._pid

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", "--", text)

    def press(self, key: str) -> None:
        """Press a key by tmux's name for it: `Enter`, `Escape`, `C-c`."""
        self._tmux("send-keys", key)

    def screen(self, *, coloured: bool = False) -> str:
        """What it shows; `coloured` keeps the escape sequences of its colours."""
        return self._tmux("capture-pane", "-p", *(["-e"] if coloured else []))

    def wait_for_text(self, text: str, *, timeout: float = PATIENCE) -> str:
        """Wait until the screen shows the text, and return the screen."""
        return eventually(self.screen, timeout=timeout, when=lambda screen: text in screen)

    def session(self) -> dict[str, Any]:
        """The window's session: it exists from the first prompt on."""

        def newest() -> dict[str, Any] | None:
            here = str(self.directory.resolve())
            listed = self._opencode.sessions()
            return next((session for session in listed if session["directory"] == here), None)

        session = eventually(newest)
        assert session is not None
        return session

    def kill(self) -> None:
        """End the window's process and its tools by SIGKILL; the last screen stays readable."""
        kill_each([self.pid, *descendants(self.pid)])

    def close(self) -> None:
        """End the terminal and everything in it."""
        if self._pid is not None:
            self.kill()
            self._tmux("kill-server")
            self._pid = None
        if self._socket is not None:
            shutil.rmtree(self._socket.parent)
            self._socket = None

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments],
            env=self._env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
