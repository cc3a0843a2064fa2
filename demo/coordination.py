"""Three agents, of whom nobody has told the others: a coordinator introduces them.

The coordination test of opencode-agent-hub, on the real OpenCode: a frontend agent and a backend
agent settle the contract of a login in three messages after one introduction; a QA agent that
comes later gets the port from the one and the credentials from the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from agenthub_core.coordinator import TITLE
from demo.stage import Heard, answers, archive, daemon, exported, hears, run_agenthub, tell, write
from testkit.opencode import OpenCode, make_project, said
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

FRONTEND, BACKEND, QA = "web", "api", "qa"
"""The agents' projects: their names are drawn by OpenCode."""

TASKS = {
    FRONTEND: "Build the login form. It calls POST /api/auth/login.",
    BACKEND: "Implement POST /api/auth/login. It answers with a JWT.",
    QA: "Test the login from end to end.",
}
WORKS = {
    FRONTEND: "The login form. I need the contract of POST /api/auth/login.",
    BACKEND: "POST /api/auth/login, which answers with a JWT.",
    QA: "A test of the login from end to end. I need a port and credentials.",
}
MESSAGES = {FRONTEND: 3, BACKEND: 3 + 1 + 3, QA: 3 + 1 + 4}
"""How many each of them brings about: the coordinator is told of it, asks and is answered; then an
introduction, and what the agents have to say to each other."""

QUESTION = "What does POST /api/auth/login take, and what does it answer?"
CONTRACT = "{email, password}; 200 {token, expiresAt}, 401 {code, message}. CORS is on."
CONFIRMED = "Thanks, the form is built on that."
PORT, CREDENTIALS = "http://localhost:5173/login", "qa@example.com / correct-horse"
ASK = "What are you working on, and what do you need from others or offer them?"


@frozen
class Count:
    """What the scene took."""

    contract: int
    """Messages until the contract was settled, after the introduction."""
    between_agents: int
    questions: int
    """Of the coordinator's, one to each agent."""
    introductions: int
    after_introductions: int
    """What the coordinator wrote after the last of them."""
    injections: int
    turns: int


class Coordinating:
    """The coordinator's model: it does what its instructions say, by what it has read."""

    def __init__(self) -> None:
        self._works: dict[str, str] = {}
        self.introduced: list[str] = []

    def __call__(self, request: Request) -> ToolCall | Text:
        heard = _heard(request)
        if heard.content.startswith("NEW_AGENT: "):
            newcomer = heard.content.split()[1]
            return write(heard.reader, newcomer, ASK, type="question")
        self._works[heard.writer] = heard.content
        return self._introduce(heard) or Text("Nobody else's work belongs to that yet.")

    def _introduce(self, heard: Heard) -> ToolCall | None:
        by_work = {work: name for name, work in self._works.items()}
        frontend, backend, qa = (by_work.get(WORKS[each]) for each in (FRONTEND, BACKEND, QA))
        if frontend and backend and not self.introduced:
            self.introduced.append(frontend)
            text = f"{backend} implements the login that your form calls. Write to it directly."
            return write(heard.reader, frontend, text)
        if qa and frontend and backend and qa not in self.introduced:
            self.introduced.append(qa)
            text = (
                f"{frontend} and {backend} build the login that you test. Write to them directly."
            )
            return write(heard.reader, qa, text)
        return None


def _heard(request: Request) -> Heard:
    heard = Heard.by(request)
    assert heard is not None, request
    return heard


def rules(folder: Path, home: Path, coordinator: Coordinating) -> list[Rule]:
    """How each agent's model answers."""
    frontend, backend, qa = (in_directory(folder / name) for name in (FRONTEND, BACKEND, QA))

    def asks(introduced: int, question: str) -> Callable[[Request], ToolCall]:
        """The agent that the introduction names there is asked."""

        def reply(request: Request) -> ToolCall:
            heard = _heard(request)
            return write(heard.reader, heard.content.split()[introduced], question, type="question")

        return reply

    asked, done = "working on", Text("Done.")
    return [
        Rule(
            in_directory(home / ".agent-hub" / "coordinator"), [coordinator, Text("I stand down.")]
        ),
        *(
            Rule(where & hears(asked, writer="coordinator"), [answers(WORKS[name]), done])
            for name, where in ((FRONTEND, frontend), (BACKEND, backend), (QA, qa))
        ),
        Rule(frontend & hears("implements", writer="coordinator"), [asks(0, QUESTION), done]),
        Rule(backend & hears("take, and what"), [answers(CONTRACT), done]),
        Rule(frontend & hears("200"), [answers(CONFIRMED), Text("The form is built.")]),
        Rule(
            qa & hears("build the login", writer="coordinator"),
            [asks(0, "At which port does the form run?"), asks(2, "Which user may I be?"), done],
        ),
        Rule(frontend & hears("port"), [answers(PORT), done]),
        Rule(backend & hears("Which user"), [answers(CREDENTIALS), done]),
        Rule(qa & hears("qa@"), Text("I can log in.")),
        Rule(last_user(""), Text("I have read that.")),
    ]


def play(binary: Path, folder: Path) -> Count:
    """The scene; what it took."""
    home, coordinator = folder / "home", Coordinating()
    with ScriptedModel() as model:
        opencode = OpenCode(binary, home, model.url, plugin=True)
        model.add(*rules(folder, home, coordinator))
        tell("agenthub", "setup gives the agents in OpenCode their tools")
        run_agenthub(opencode, "setup", "--yes")
        tell("OpenCode", "starting, with a scripted model")
        with opencode, daemon(opencode, AGENT_HUB_COORDINATOR_MODEL="fake/echo"):
            own = eventually(lambda: _coordinators_session(opencode))
            sessions: dict[str, str] = {}
            expected = 0
            for name in (FRONTEND, BACKEND, QA):
                session = opencode.create_session(make_project(folder / name))
                sessions[name] = session["slug"]
                tell("you", f"(to {session['slug']}, in {name}) {TASKS[name]}")
                opencode.prompt(session["id"], TASKS[name])
                expected += MESSAGES[name]
                eventually(lambda: len(_messages(opencode)), when=expected.__eq__)
                opencode.wait_for_idle(own)
            opencode.wait_for_idle(session["id"])
            tell(session["slug"], said(opencode.messages(session["id"])[-1]))
            for line in run_agenthub(opencode, "status").splitlines():
                tell("agenthub", line)
        return _count(opencode, model, sessions)


def _coordinators_session(opencode: OpenCode) -> str:
    return next((each["id"] for each in opencode.sessions() if each["title"] == TITLE), "")


def _messages(opencode: OpenCode) -> list[dict[str, str]]:
    """All that was delivered, in the order in which it was written."""
    files = [json.loads(path.read_text()) for path in archive(opencode).glob("*.json")]
    return sorted(files, key=lambda message: message["timestamp"])


def _count(opencode: OpenCode, model: ScriptedModel, names: dict[str, str]) -> Count:
    messages = _messages(opencode)
    own = [number for number, each in enumerate(messages) if each["from"] == "coordinator"]
    questions = [number for number in own if messages[number]["type"] == "question"]
    introductions = [number for number in own if number not in questions]
    pair = {names[FRONTEND], names[BACKEND]}
    return Count(
        contract=sum({each["from"], each["to"]} == pair for each in messages),
        between_agents=sum({each["from"], each["to"]} <= {*names.values()} for each in messages),
        questions=len(questions),
        introductions=len(introductions),
        after_introductions=sum(number > introductions[-1] for number in own),
        injections=int(exported(opencode)["agent_hub_injections_total"]),
        turns=sum(request.step == 0 for request in model.requests),
    )
