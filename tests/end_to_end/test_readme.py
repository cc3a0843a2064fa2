"""A new user with a new HOME does what the README says, and two agents exchange messages.

Every shell block of the README is executed, in order and as written; only the agents' names, which
OpenCode chooses, are put in their places.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.opencode import OpenCode, free_port, make_project
from testkit.scripted_model import (
    Request,
    Rule,
    ScriptedModel,
    Text,
    ToolCall,
    in_directory,
    last_user,
)
from testkit.waiting import eventually
from testkit.window import Window

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

SEND = "agent-hub_send_message"
ANSWER = "It takes an email and a password."
ASKED, ASKING = "misty-wizard", "jolly-comet"
"""What the README calls the two agents: the one in ~/api, and the one in ~/web."""

STOP_SECONDS = 10  # twice what the daemon promises


def pass_on(request: Request) -> ToolCall:
    """The agent in ~/web asks the other one, as the person told it."""
    own, other, thread = re.findall(
        r'wrote to you, "([\w-]+)".*Ask ([\w-]+) what.*threadId "([\w-]+)"',
        request.last_user,
        re.DOTALL,
    )[0]
    del thread  # it begins one of its own
    question = {"type": "question", "content": "What does POST /login expect?"}
    return ToolCall(SEND, **{"from": own, "to": other, **question})


def answer(request: Request) -> ToolCall:
    """The agent in ~/api answers whoever asks, as the message says that it can."""
    own, other, thread = re.findall(
        r'from "([\w-]+)", to "([\w-]+)",\s+threadId "([\w-]+)"', request.last_user
    )[0]
    told = {"type": "context", "content": ANSWER, "threadId": thread}
    return ToolCall(SEND, **{"from": own, "to": other, **told})


def report(request: Request) -> ToolCall:
    """The agent in ~/web tells the person, in the thread that the person began."""
    own, thread = re.findall(
        r'from "([\w-]+)", to "human",\s+threadId "([\w-]+)"', request.conversation
    )[0]
    told = {"type": "completion", "content": ANSWER, "threadId": thread}
    return ToolCall(SEND, **{"from": own, "to": "human", **told})


@pytest.fixture
def opencode(opencode_binary: Path, tmp_path: Path) -> Iterator[OpenCode]:
    """A HOME with the user's own model; no server, for the hub starts one."""
    home = tmp_path / "home"
    web, api = home / "web", home / "api"
    rules = [
        Rule(in_directory(web) & last_user("Ask "), [pass_on, Text("I have asked.")]),
        Rule(in_directory(web) & last_user(ANSWER), [report, Text("I have told you.")]),
        Rule(in_directory(api) & last_user("POST /login"), [answer, Text("I have answered.")]),
    ]
    with ScriptedModel(rules) as model:
        home.mkdir()
        for project in (web, api):
            make_project(project)
        yield OpenCode(opencode_binary, home, model.url, port=free_port())


class Reader:
    """Somebody at a shell who does what is written."""

    def __init__(self, opencode: OpenCode, stack: contextlib.ExitStack) -> None:
        self._opencode = opencode
        self._stack = stack
        self._names: dict[str, str] = {}
        self.env = opencode.env | {
            "PATH": f"{opencode.binary.parent}{os.pathsep}{opencode.env['PATH']}",
            "OPENCODE_PORT": str(opencode.port),
            "AGENT_HUB_SESSION_POLL": "1",
            "npm_config_registry": "http://127.0.0.1:9",  # where nobody is
            "AGENT_HUB_COORDINATOR": "false",  # a scripted model does not know how to be one
        }

    def follow(self, block: str) -> str:
        """Do what a block says; what it printed, where it comes to an end."""
        for name, real in self._names.items():
            block = block.replace(name, real)
        window = re.fullmatch(r"cd ~/(\w+) && opencode\n", block)
        if window:
            self._open_window(self._opencode.home / window[1])
        elif block == "agenthub daemon\n":
            self._stack.enter_context(self._daemon(block))
        elif "export PATH" in block:
            said = self._run(f"{block}\nenv -0")
            self.env |= dict(re.findall(r"(PATH)=([^\0]*)\0", said))
        else:
            return self._run(block)
        return ""

    def agents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._run("agenthub agents --here --json"))
        return found

    def _open_window(self, directory: Path) -> None:
        window = self._stack.enter_context(Window(self._opencode, directory))
        window.wait_for_text("Ask anything")
        window.type("hello")
        window.press("Enter")
        here = str(directory.resolve())
        (name,) = eventually(
            lambda: [each["id"] for each in self.agents() if each["projectPath"] == here]
        )
        self._names[ASKING if directory.name == "web" else ASKED] = name

    @contextlib.contextmanager
    def _daemon(self, block: str) -> Iterator[None]:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {block}"], cwd=CHECKOUT, env=self.env, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        with process, process.stderr:
            try:
                said = b""
                while b"watching" not in said:
                    line = process.stderr.readline()
                    assert line, said.decode()
                    said += line
                yield
            finally:
                process.terminate()
                process.communicate(timeout=STOP_SECONDS)

    def _run(self, script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=CHECKOUT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def test_the_readme_leads_to_two_agents_that_exchange_messages(opencode: OpenCode) -> None:
    with contextlib.ExitStack() as stack:
        reader = Reader(opencode, stack)
        said = {block: reader.follow(block) for block in BLOCKS}

    (setup,) = (told for block, told in said.items() if block.startswith("agenthub setup"))
    assert "✓ agent-hub connected" in setup
    (agents,) = (told for block, told in said.items() if block == "agenthub agents\n")
    assert agents.count("here") == 2
    (sent,) = (told for block, told in said.items() if block.startswith("agenthub send"))
    assert ANSWER in sent
    (listed,) = (told for block, told in said.items() if block.startswith("agenthub messages"))
    rows = listed.partition("THREAD")[0].splitlines()[1:]
    assert len(rows) == 4  # to the agent, on to the other, back, and to the person, who has read it
    assert sum(" delivered " in row for row in rows) >= 3
    (checked,) = (told for block, told in said.items() if block == "agenthub doctor\n")
    assert "✗" not in checked
