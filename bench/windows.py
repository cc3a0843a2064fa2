"""What a message takes into a window of its own: real OpenCode, in tmux, with the plugin.

    python -m bench.windows

From the last byte of the message's file to its text in OpenCode's database, which every process
reads; then how many of a burst arrive in a second, in one session. The model answers at once, so
the window works all the while: one that has to wait for its model has more time for messages.
"""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from testkit.daemon import Daemon
from testkit.opencode import OpenCode, find_opencode, make_project
from testkit.scripted_model import ScriptedModel
from testkit.window import Window

SPACED = 40
PAUSE = 0.3  # seconds: a turn has ended by then
BURST = 100
BURSTS = 3


def main() -> int:
    binary = find_opencode()
    if binary is None or shutil.which("tmux") is None:
        print("OpenCode or tmux is missing: no windows are measured", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ScriptedModel() as model:
        home = Path(name).resolve()
        opencode = OpenCode(binary, home, model.url, plugin=True)
        with (
            opencode,
            Window(opencode, make_project(home / "project")) as window,
            Daemon(opencode.env | {"OPENCODE_PORT": str(opencode.port)}) as hub,
        ):
            measure(hub, window, home / ".local/share/opencode/opencode.db")
            hub.stop()
            hub.lines.clear()  # which it would print
    return 0


def measure(hub: Daemon, window: Window, database: Path) -> None:
    window.wait_for_text("Ask anything")
    window.type("hello")
    window.press("Enter")
    name = hub.wait_for("agent.registered")["agent"]
    hub.wait_for("agent.oriented", agent=name)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:

        def held() -> int:
            """The hub's prompts that have their text."""
            query = "SELECT count(*) FROM part WHERE message_id LIKE 'msg_%AgHub%'"
            count: int = connection.execute(query).fetchone()[0]
            return count

        took = []
        for number in range(SPACED):
            time.sleep(PAUSE)
            before = held()
            hub.send(f"s{number}", sender="bench", to=name, content=f"message {number}")
            written = time.perf_counter()
            while held() == before:
                time.sleep(0.0005)
            took.append((time.perf_counter() - written) * 1000)
        took.sort()
        print(f"into a window: p50 {statistics.median(took):.1f} ms, p95 {took[-3]:.1f} ms")
        for burst in range(BURSTS):
            before = held()
            began = time.perf_counter()
            for number in range(BURST):
                content = f"burst {number}"
                hub.send(f"b{burst}-{number:03}", sender="bench", to=name, content=content)
            # looking often would take a core from what is measured
            while held() < before + BURST:
                time.sleep(0.03)
            print(f"a burst of {BURST}: {BURST / (time.perf_counter() - began):.0f} a second")
            hub.wait_for("message.delivered", count=SPACED + BURST * (burst + 1))


if __name__ == "__main__":
    sys.exit(main())
