"""The README's picture of a window, from the real OpenCode: `python -m demo.pictures`.

One agent asks another with its tool, and the other's window shows what arrives and how its model,
which is scripted, answers. How a screen becomes a picture is left to `testkit.picture`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from demo.stage import SEND, answers, environment, run_agenthub
from testkit.daemon import Daemon
from testkit.opencode import OpenCode, find_opencode, free_port, make_project
from testkit.picture import picture, words
from testkit.scripted_model import Rule, ScriptedModel, Text, ToolCall, in_directory, last_user
from testkit.waiting import eventually
from testkit.window import Window

WINDOW = Path(__file__).parents[1] / "docs" / "window.svg"

TASK = "Build the login form."
QUESTION = (
    "What does POST /api/auth/login return? I need the fields of the answer and the error codes."
)
ANSWER = (
    "200 {token, expiresAt, user: {id, name}}. Errors are {code, message}: "
    "401 bad_credentials, 422 missing_field, 429 too_many_attempts."
)
ANSWERED = "I have told them the fields of the answer and the error codes."

# The lines that the hub writes stay whole, and all that is said has room.
COLUMNS, ROWS = 104, 37

SHOWN_HOME = "/home/you"


def play(binary: Path) -> str:
    """The picture of a window that shows what has arrived, and the answer."""
    # OpenCode breaks lines at hyphens, too, and the path of this HOME has to stay whole.
    with tempfile.TemporaryDirectory(prefix="agenthub") as name, ScriptedModel() as model:
        home = Path(name).resolve()
        web, api = make_project(home / "web"), make_project(home / "api")
        opencode = OpenCode(binary, home, model.url, port=free_port(), plugin=True)
        run_agenthub(opencode, "setup", "--yes")
        own = {"OPENCODE_PORT": str(opencode.port), "COLORTERM": "truecolor"}
        env = {**environment(opencode), **own}
        with Daemon(env) as hub:
            opencode.password = json.loads((hub.directory / "server.json").read_text())["password"]
            asking, answering = (opencode.create_session(project) for project in (web, api))
            for session in (asking, answering):
                # Who it is, a session is told after its first turn: not in the midst of the scene.
                opencode.ask(session["id"], "Read the plan.")
                hub.wait_for("agent.oriented", agent=session["slug"])
            asks = {"from": asking["slug"], "to": answering["slug"], "type": "question"}
            model.add(
                Rule(last_user(TASK), [ToolCall(SEND, **asks, content=QUESTION), Text("Asked.")]),
                Rule(in_directory(api), [answers(ANSWER), Text(ANSWERED)]),
            )
            program = [sys.executable, "-m", "agenthub_cli", "open", "--agent", answering["slug"]]
            with Window(opencode, home, program=program, env=env, size=(COLUMNS, ROWS)) as window:
                window.wait_for_text("ctrl+p commands")
                opencode.prompt(asking["id"], TASK)
                screen = eventually(lambda: window.screen(coloured=True), when=_is_complete)
            hub.stop()
    return picture(_at_home(screen, home), title="agenthub open", columns=COLUMNS)


def _is_complete(screen: str) -> bool:
    """The message from its first line on, and the end of the turn that it made."""
    seen = words(picture(screen, title="", columns=COLUMNS))
    told = all(text in seen for text in ("agent-hub: ", QUESTION, ANSWER, ANSWERED))
    return told and "▣" in seen and "interrupt" not in seen


def _at_home(screen: str, home: Path) -> str:
    """The screen as it is in a user's HOME: what follows on the line keeps its place."""
    shown = re.sub(
        rf"{re.escape(str(home))}([^\x1b\n]*)",
        lambda found: f"{SHOWN_HOME}{found[1]}".ljust(len(found[0])),
        screen,
    )
    assert home.name not in shown, "a path of this machine would be in the picture"
    return shown


def main() -> None:
    binary = find_opencode()
    if binary is None or shutil.which("tmux") is None:
        sys.exit("The pictures need OpenCode, which npm installs, and tmux.")
    svg = play(binary)
    WINDOW.parent.mkdir(exist_ok=True)
    WINDOW.write_text(svg, encoding="utf-8")
    print(WINDOW)


if __name__ == "__main__":
    main()
