"""`agenthub mcp` as an agent's program meets it: a process of its own, and the SDK's own client.

The stories share one process, which costs 0.7 s to start; each finds its hub directory empty. How a
process begins and ends is shown on one that is spoken to line by line.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, TextContent
from mcp_types import Tool as Described

from agenthub_adapters.clock import SystemClock
from agenthub_adapters.spool import FileSpool
from agenthub_core import Agent, Message, Outcome, Settlement
from testkit.stub_endpoint import StubEndpoint
from testkit.waiting import eventually

COMMAND = [sys.executable, "-m", "agenthub_cli", "mcp"]

AT_ONCE = 5.0  # seconds; generous, for a loaded machine: it takes 0.2

START = 1.5  # seconds from the process's start to the answer of `initialize`
MEMORY = 80 * 1024  # kilobytes, at its largest

REFERENCE: dict[str, tuple[set[str], set[str]]] = {
    "register_agent": ({"projectPath", "role"}, {"id", "capabilities", "collaboratesWith"}),
    "send_message": ({"from", "to", "type", "content"}, {"metadata", "priority", "threadId"}),
    "get_messages": ({"agent"}, {"markAsRead", "type", "since"}),
    "get_hub_status": (set(), set()),
    "sync": (set(), set()),
}
"""The tools that agent-hub-mcp 0.3.0 had, too: what they need, and what they take besides."""

OURS: dict[str, tuple[set[str], set[str]]] = {
    "list_agents": (set(), {"includeAway"}),
    "get_thread": ({"threadId"}, {"limit"}),
    "resolve_thread": ({"threadId", "from"}, {"note"}),
    "search_messages": (set(), {"text", "agent", "threadId", "type", "since", "limit"}),
}

LOOKING = {"get_hub_status", "sync", "list_agents", "get_thread", "search_messages"}
"""The tools that change nothing."""

QUESTION = {"from": "alice", "to": "bob", "type": "question", "content": "Which port?"}

ODD = 'Voilà 🎉👩\u200d💻\r\n\ttabs, "quotes", \\n, \u2028 and \x00\n\n  end '
"""What a line-based protocol could stumble over."""

NOBODY = "No agenthub daemon is running; ask your user to start one with `agenthub daemon`"


class Tools:
    """What a model can do with the server. An argument called `from_` is `from` to it."""

    def __init__(self, portal: BlockingPortal, session: ClientSession) -> None:
        self._portal = portal
        self.session = session

    def described(self) -> dict[str, Described]:
        listed = self._portal.call(self.session.list_tools)
        return {tool.name: tool for tool in listed.tools}

    def ask(self, name: str, arguments: dict[str, Any] | None) -> CallToolResult:
        async def ask() -> CallToolResult:
            return await self.session.call_tool(name, arguments, AT_ONCE)

        return self._portal.call(ask)

    def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """A tool's answer."""
        result = self.ask(name, _named(arguments))
        assert not result.is_error, _text(result)
        answer: dict[str, Any] = json.loads(_text(result))
        return answer

    def refused(self, name: str, /, **arguments: Any) -> str:
        """The sentence with which a tool refuses."""
        result = self.ask(name, _named(arguments))
        assert result.is_error, _text(result)
        return _text(result)

    def register(self, *names: str) -> None:
        for name in names:
            self.call("register_agent", id=name, projectPath=f"/projects/{name}", role="")

    def send(self, sender: str, to: str, content: str = "Hello", **more: Any) -> dict[str, Any]:
        arguments = {"from": sender, "to": to, "type": "context", "content": content}
        return self.call("send_message", **(arguments | more))

    def found(self, **arguments: Any) -> list[str]:
        """What the messages say that `search_messages` finds."""
        return contents(self.call("search_messages", **arguments))

    def fetched(self, agent: str, **arguments: Any) -> list[str]:
        """What the messages say that `get_messages` shows."""
        return contents(self.call("get_messages", agent=agent, **arguments))


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key.rstrip("_"): value for key, value in arguments.items()}


def _text(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def contents(answer: dict[str, Any]) -> list[str]:
    assert answer.get("count", answer.get("total")) == len(answer["messages"])
    return [message["content"] for message in answer["messages"]]


@asynccontextmanager
async def initialised(parameters: StdioServerParameters, log: Path) -> AsyncIterator[ClientSession]:
    with log.open("a") as errors:
        async with stdio_client(parameters, errors) as streams, ClientSession(*streams) as session:
            await session.initialize()
            yield session


@contextmanager
def opened(
    portal: BlockingPortal,
    home: Path,
    *,
    command: Sequence[str] = COMMAND,
    cwd: Path | None = None,
    **env: str,
) -> Iterator[Tools]:
    """A process of its own; whatever it is asked, it writes to standard error only warnings."""
    parameters = StdioServerParameters(
        command=command[0],
        args=[*command[1:]],
        env={"PATH": os.environ["PATH"], "HOME": str(home)} | env,
        cwd=cwd,
    )
    log = home / "stderr"
    with portal.wrap_async_context_manager(initialised(parameters, log)) as session:
        yield Tools(portal, session)
    assert [line for line in log.read_text().splitlines() if " WARNING " not in line] == []


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def _shared(portal: BlockingPortal, home: Path) -> Iterator[Tools]:
    with opened(portal, home) as tools:
        yield tools


@pytest.fixture
def root(home: Path) -> Path:
    """The hub's directory, with nothing in it."""
    root = home / ".agent-hub"
    if root.exists():
        shutil.rmtree(root)
    FileSpool(root, clock=SystemClock()).prepare()
    return root


@pytest.fixture
def spool(root: Path) -> FileSpool:
    return FileSpool(root, clock=SystemClock())


@pytest.fixture
def tools(_shared: Tools, root: Path) -> Tools:
    del root  # requested so that each story begins with an empty hub
    return _shared


@pytest.fixture
def another(portal: BlockingPortal, home: Path, root: Path) -> Iterator[Callable[..., Tools]]:
    """Starts one more process on the same hub."""
    del root
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(opened(portal, home, **options))


@pytest.fixture
def at_work(spool: FileSpool) -> Iterator[None]:
    """A hub works on the directory: what shows that is its lock."""
    with spool.claim():
        yield


def now() -> datetime:
    return datetime.now(UTC)


def milliseconds(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def in_session(spool: FileSpool, *names: str, seen: timedelta = timedelta(0)) -> None:
    """Agents whose sessions the hub knows; they were active so long ago."""
    for name in names:
        spool.save_agent(
            Agent(
                id=name,
                session_id=f"ses_{name}",
                directory=f"/projects/{name}",
                slug=name,
                last_seen=now() - seen,
            )
        )


def settle(spool: FileSpool, message_id: str, outcome: Outcome = Outcome.DELIVERED) -> None:
    """What the hub does with a message in the end."""
    key = f"{message_id}.json"
    message = spool.read(key)
    assert isinstance(message, Message)
    spool.settle([Settlement(key=key, message=message, outcome=outcome, at=now())])


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def pending(root: Path) -> list[str]:
    return [path.name for path in (root / "messages").glob("*.json")]


# ----------------------------------------------------------------------------------- the outside


def test_the_server_says_who_it_is_and_what_it_is_for(tools: Tools) -> None:
    told = tools.session.initialize_result
    assert told is not None
    assert (told.server_info.name, bool(told.server_info.version)) == ("agent-hub", True)
    assert told.capabilities.tools is not None
    assert told.instructions is not None
    for word in ("register_agent", "get_messages", '"human"'):
        assert word in told.instructions


def test_there_are_these_tools_and_no_other(tools: Tools) -> None:
    assert tools.described().keys() == REFERENCE.keys() | OURS.keys()


@pytest.mark.parametrize("name", REFERENCE | OURS)
def test_a_tool_needs_and_takes_what_it_always_did(tools: Tools, name: str) -> None:
    schema = tools.described()[name].input_schema
    required, optional = (REFERENCE | OURS)[name]
    assert set(schema["required"]) == required
    assert schema["properties"].keys() == required | optional
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)


@pytest.mark.parametrize("name", REFERENCE | OURS)
def test_a_tool_and_each_of_its_arguments_are_described(tools: Tools, name: str) -> None:
    tool = tools.described()[name]
    sentences = [argument["description"] for argument in tool.input_schema["properties"].values()]
    for sentence in (tool.description, *sentences):
        assert sentence is not None
        assert re.fullmatch(r".{10,}[.]", sentence, re.DOTALL), sentence


def test_wherever_a_model_names_itself_it_is_told_where_its_name_comes_from(tools: Tools) -> None:
    for name, argument in (
        ("send_message", "from"),
        ("get_messages", "agent"),
        ("resolve_thread", "from"),
    ):
        description = tools.described()[name].input_schema["properties"][argument]["description"]
        assert "as the hub told you or register_agent answered" in description


@pytest.mark.parametrize("name", ["get_thread", "search_messages"])
def test_a_limit_says_what_it_counts_and_how_far_it_goes(tools: Tools, name: str) -> None:
    limit = tools.described()[name].input_schema["properties"]["limit"]
    assert limit["description"].startswith("How many messages at most")
    assert (limit["minimum"], limit["default"], limit["maximum"]) == (1, 20, 100)


def test_only_what_changes_nothing_may_be_called_without_asking(tools: Tools) -> None:
    hints = {name: tool.annotations for name, tool in tools.described().items()}
    assert {name for name, hint in hints.items() if hint and hint.read_only_hint} == LOOKING
    assert not any(hint is None or hint.destructive_hint for hint in hints.values())


def test_what_the_schema_offers_is_what_the_tool_takes(tools: Tools) -> None:
    properties = tools.described()["send_message"].input_schema["properties"]
    tools.register("alice")
    for kind in properties["type"]["enum"]:
        assert tools.send("alice", "bob", type=kind)["success"]
    for priority in properties["priority"]["enum"]:
        assert tools.send("alice", "bob", priority=priority)["success"]


# -------------------------------------------------------------------------------- register_agent


def test_an_agent_registers_and_is_told_its_name(tools: Tools) -> None:
    answer = tools.call("register_agent", id="alice", projectPath="/projects/shop", role="tests")
    assert (answer["success"], answer["agentId"]) == (True, "alice")
    assert '"alice"' in answer["note"]


def test_an_agents_file_is_that_of_the_reference(tools: Tools, root: Path) -> None:
    before = milliseconds(now())
    tools.call(
        "register_agent",
        id="alice",
        projectPath="/projects/shop",
        role="backend",
        capabilities=["sql"],
        collaboratesWith=["bob"],
    )
    written = document(root / "agents" / "alice.json")
    assert before <= written.pop("lastSeen") <= milliseconds(now())
    assert written == {
        "id": "alice",
        "projectPath": "/projects/shop",
        "role": "backend",
        "capabilities": ["sql"],
        "status": "active",
        "collaboratesWith": ["bob"],
        "program": "mcp",  # this client's name of itself
    }


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/home/me/shop", "shop"),
        ("/home/me/shop/", "shop"),
        ("/home/me/My Shop (v2).old", "My-Shop-v2-old"),
        ("/home/me/café", "caf"),
        ("/home/me/日本", "agent"),
        ("/", "agent"),
        ("", "agent"),
        ("/home/me/" + "x" * 200, "x" * 100),
    ],
)
def test_an_agent_without_a_name_is_named_after_its_project(
    tools: Tools, root: Path, directory: str, name: str
) -> None:
    answer = tools.call("register_agent", projectPath=directory, role="")
    assert answer["agentId"] == name
    assert document(root / "agents" / f"{name}.json")["projectPath"] == directory


def test_an_agent_without_a_name_is_the_one_whose_session_is_at_work_there(
    tools: Tools, spool: FileSpool
) -> None:
    in_session(spool, "cosmic-panda")
    answer = tools.call("register_agent", projectPath="/projects/cosmic-panda", role="")
    assert answer["agentId"] == "cosmic-panda"


def test_of_several_sessions_in_a_directory_an_agent_must_say_which_it_is(
    tools: Tools, spool: FileSpool
) -> None:
    in_session(spool, "bob", "carol")
    for name in ("bob", "carol"):
        tools.call("register_agent", id=name, projectPath="/projects/shop", role="")
    for name in ("bob", "carol"):
        spool.save_agent(
            Agent(id=name, session_id=f"ses_{name}", directory="/shop", last_seen=now())
        )
    sentence = tools.refused("register_agent", projectPath="/shop", role="")
    assert "several agents work in /shop: bob, carol" in sentence
    assert "id" in sentence


@pytest.mark.parametrize("name", ["hub", "human", "all", "coordinator"])
def test_the_hubs_own_names_are_not_given_away(tools: Tools, root: Path, name: str) -> None:
    for arguments in ({"id": name, "projectPath": "/x"}, {"projectPath": f"/home/me/{name}"}):
        sentence = tools.refused("register_agent", role="", **arguments)
        assert f'"{name}"' in sentence
        assert "choose another id" in sentence
    assert [*(root / "agents").iterdir()] == []


def test_who_registers_again_says_everything_anew(tools: Tools, root: Path) -> None:
    first = {"id": "alice", "projectPath": "/old", "role": "old"}
    tools.call("register_agent", **first, capabilities=["old"], collaboratesWith=["old"])
    tools.call("register_agent", id="alice", projectPath="/new", role="new")
    written = document(root / "agents" / "alice.json")
    assert (written["projectPath"], written["role"]) == ("/new", "new")
    assert (written["capabilities"], written["collaboratesWith"]) == ([], [])


def test_a_sessions_agent_keeps_its_session_when_it_registers(
    tools: Tools, spool: FileSpool
) -> None:
    in_session(spool, "bob")
    tools.call("register_agent", id="bob", projectPath="/elsewhere", role="reviews")
    (bob,) = spool.agents()
    assert (bob.session_id, bob.slug, bob.role) == ("ses_bob", "bob", "reviews")
    (here,) = tools.call("list_agents")["agents"]
    assert here["presence"] == "here"


# ---------------------------------------------------------------------------------- send_message


def test_a_message_is_complete_on_disk_when_the_tool_answers(tools: Tools, root: Path) -> None:
    tools.register("alice")
    before = milliseconds(now())
    answer = tools.call("send_message", **QUESTION)
    after = milliseconds(now())

    identity = answer["messageId"]
    assert pending(root) == [f"{identity}.json"]
    written = document(root / "messages" / f"{identity}.json")
    assert re.fullmatch("[a-z0-9]{24}", identity)
    assert before <= written["timestamp"] <= after
    assert written == QUESTION | {
        "id": identity,
        "timestamp": written["timestamp"],
        "read": False,
        "threadId": identity,
        "priority": "normal",
    }
    assert (answer["success"], answer["threadId"]) == (True, identity)


def test_a_message_carries_all_that_was_given(tools: Tools, root: Path) -> None:
    tools.register("alice")
    metadata = {"ticket": 7, "files": ["a.py"], "nested": {"deep": None}}
    more = {"metadata": metadata, "priority": "urgent", "threadId": "t-1"}
    identity = tools.call("send_message", **QUESTION, **more)["messageId"]
    written = document(root / "messages" / f"{identity}.json")
    assert QUESTION.items() <= written.items()
    assert more.items() <= written.items()


def test_a_message_is_written_for_people_to_read(tools: Tools, root: Path) -> None:
    tools.register("alice")
    identity = tools.send("alice", "bob", "Grüße")["messageId"]
    lines = (root / "messages" / f"{identity}.json").read_text().splitlines()
    assert '  "content": "Grüße",' in lines


def test_no_two_messages_are_called_the_same(tools: Tools) -> None:
    tools.register("alice")
    assert len({tools.send("alice", "bob")["messageId"] for _ in range(20)}) == 20


def test_null_is_the_same_as_nothing(tools: Tools, root: Path) -> None:
    nothing = {"metadata": None, "priority": None, "threadId": None}
    tools.call("register_agent", id=None, projectPath="/projects/alice", role="", capabilities=None)
    answer = tools.call("send_message", **QUESTION, **nothing)
    written = document(root / "messages" / f"{answer['messageId']}.json")
    assert "metadata" not in written
    assert (written["priority"], written["threadId"]) == ("normal", answer["messageId"])


@pytest.mark.parametrize(
    ("to", "fate"),
    [
        ("bob", "bob is known; the message waits for a hub."),
        ("carol", "carol cannot be woken now: it reads the message when it is back"),
        ("carl", "carl is not known yet: the message waits for it."),
        ("all", "It is for 1 agent: bob."),
    ],
)
def test_without_a_hub_the_model_is_told_how_there_could_be_one(
    tools: Tools, spool: FileSpool, to: str, fate: str
) -> None:
    tools.register("alice", "carol")
    in_session(spool, "bob")
    note = tools.send("alice", to)["note"]
    assert note.startswith(fate)
    assert note.endswith(f" {NOBODY}.")
    assert ("Did you mean carol?" in note) is (to == "carl")


def test_a_person_reads_what_is_written_to_them_without_a_hub(tools: Tools) -> None:
    tools.register("alice")
    assert NOBODY not in tools.send("alice", "human")["note"]


@pytest.mark.usefixtures("at_work")
class TestWithAHubAtWork:
    """What the model is told of a message's prospects."""

    def test_who_is_here_is_woken(self, tools: Tools, spool: FileSpool) -> None:
        tools.register("alice")
        in_session(spool, "bob")
        answer = tools.send("alice", "bob")
        assert answer["recipient"] == "here"
        assert answer["note"] == "bob is here and is woken. An answer is in get_messages."

    def test_into_a_session_the_answer_comes_by_itself(
        self, tools: Tools, spool: FileSpool
    ) -> None:
        in_session(spool, "alice", "bob")
        note = tools.send("alice", "bob")["note"]
        assert note.endswith("An answer comes into your session by itself.")

    def test_for_who_is_away_it_waits(self, tools: Tools, spool: FileSpool) -> None:
        tools.register("alice", "carol")
        in_session(spool, "bob", seen=timedelta(hours=2))
        for away in ("bob", "carol"):
            answer = tools.send("alice", away)
            assert answer["recipient"] == "away"
            assert answer["note"].startswith(f"{away} cannot be woken now: it reads the message")
            assert "An answer" not in answer["note"]

    def test_for_who_is_unknown_it_waits_and_similar_names_are_offered(
        self, tools: Tools, spool: FileSpool
    ) -> None:
        tools.register("alice")
        in_session(spool, "cosmic-panda", "bob")
        answer = tools.send("alice", "cosmic-pando")
        assert answer["recipient"] == "unknown"
        assert answer["note"].startswith("cosmic-pando is not known yet: the message waits")
        assert answer["note"].endswith("Did you mean cosmic-panda?")

    def test_nothing_is_offered_where_nothing_is_similar(self, tools: Tools) -> None:
        tools.register("alice")
        answer = tools.send("alice", "zebra")
        assert "list_agents" in answer["note"]
        assert "Did you mean" not in answer["note"]

    def test_a_broadcast_names_those_whom_it_wakes(self, tools: Tools, spool: FileSpool) -> None:
        tools.register("carol")
        in_session(spool, "alice", "bob", "dave")
        answer = tools.send("alice", "all")
        assert answer["recipient"] == "here"
        assert answer["note"].startswith("It is for 2 agents: bob, dave. An answer comes ")

    def test_a_broadcast_to_one_is_for_one_agent(self, tools: Tools, spool: FileSpool) -> None:
        tools.register("alice", "carol")
        in_session(spool, "bob")
        note = tools.send("alice", "all")["note"]
        assert note == "It is for 1 agent: bob. An answer is in get_messages."

    def test_a_broadcast_waits_where_nobody_is(self, tools: Tools) -> None:
        tools.register("alice")
        answer = tools.send("alice", "all")
        assert answer["recipient"] == "away"
        assert "it waits for the first who comes" in answer["note"]

    def test_nobody_waits_for_the_person(self, tools: Tools) -> None:
        tools.register("alice")
        assert "go on without an answer" in tools.send("alice", "human")["note"]

    def test_the_status_says_that_it_runs(self, tools: Tools) -> None:
        assert tools.call("get_hub_status")["hub"] == "running"


def test_who_is_not_registered_is_told_how_and_which_name_is_meant(
    tools: Tools, root: Path
) -> None:
    tools.register("alice")
    sentence = tools.refused("send_message", **QUESTION | {"from": "alise"})
    assert "no agent is registered as 'alise' (did you mean alice?)" in sentence
    assert "register_agent" in sentence
    assert pending(root) == []


@pytest.mark.parametrize("name", ["hub", "human", "all", "coordinator"])
def test_nobody_speaks_under_the_hubs_own_names(tools: Tools, root: Path, name: str) -> None:
    sentence = tools.refused("send_message", **QUESTION | {"from": name})
    assert sentence == f'"{name}" is not yours to speak as: use the id of your agent'
    assert pending(root) == []


def test_the_coordinator_speaks_from_its_own_directory(
    another: Callable[..., Tools], root: Path
) -> None:
    place = root / "coordinator"
    place.mkdir()
    coordinator = another(cwd=place)
    assert coordinator.send("coordinator", "bob")["success"]
    assert "not yours to speak as" in coordinator.refused(
        "send_message", **QUESTION | {"from": "human"}
    )


def test_a_server_whose_directory_is_gone_serves_who_is_no_coordinator(
    another: Callable[..., Tools], tmp_path: Path
) -> None:
    place = tmp_path / "worktree"
    place.mkdir()
    begin = ["sh", "-c", 'rmdir "$0" && exec "$@"', str(place), *COMMAND]
    orphan = another(command=begin, cwd=place)
    assert not place.exists()
    orphan.register("alice")
    assert orphan.send("alice", "bob")["success"]
    sentence = orphan.refused("send_message", **QUESTION | {"from": "coordinator"})
    assert "not yours to speak as" in sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": "alice"}, ['"alice" is the sender itself', "another agent"]),
        ({"to": "hub"}, ['"hub" reads no messages', '"human"']),
        ({"content": "x" * 10_001}, ["10001 characters, 10000 are the most", "a file"]),
        ({"content": ""}, ['"content"', "non-empty"]),
        ({"content": " \n\t "}, ["content", "not blank"]),
        ({"content": ["a"]}, ['"content"', "'string'"]),
        ({"to": "bob smith"}, ["\"to\": 'bob smith'", "A-Za-z0-9_-", '"human"']),
        ({"to": "../bob"}, ["\"to\": '../bob'", "A-Za-z0-9_-"]),
        ({"to": "x" * 101}, ['"to"', "(103 characters)"]),
        ({"to": ["bob", "carol"]}, ["\"to\": ['bob', 'carol']", "'string'", '"all"']),
        ({"type": "request"}, ["\"type\": 'request'", "'question'", "asks for an answer"]),
        ({"priority": "critical"}, ["\"priority\": 'critical'", "'urgent'"]),
        ({"threadId": "a thread"}, ["\"threadId\": 'a thread'", "begin a new one"]),
        ({"metadata": "{}"}, ["\"metadata\": '{}'", "'object'"]),
        ({"subject": "Hi"}, ['takes no "subject"', '"content"', '"priority"']),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_right(
    tools: Tools, root: Path, change: dict[str, Any], words: Sequence[str]
) -> None:
    tools.register("alice")
    sentence = tools.refused("send_message", **QUESTION | change)
    for word in words:
        assert word in sentence
    assert pending(root) == []


def test_as_much_as_the_reference_allows_is_taken(tools: Tools) -> None:
    name = "x" * 100
    tools.register(name)
    assert tools.send(name, "y" * 100, "ü" * 10_000, threadId="z" * 100)["success"]


@pytest.mark.parametrize("missing", ["from", "to", "type", "content"])
def test_a_missing_argument_is_named_and_explained(tools: Tools, missing: str) -> None:
    given = {name: value for name, value in QUESTION.items() if name != missing}
    about = tools.described()["send_message"].input_schema["properties"][missing]["description"]
    for arguments in (given, given | {missing: None}):
        sentence = tools.refused("send_message", **arguments)
        assert sentence == f'send_message needs "{missing}". About "{missing}": {about}'


def test_all_that_is_missing_is_named_at_once(tools: Tools) -> None:
    assert 'needs "from", "to", "type", "content"' in tools.refused("send_message")


def test_a_misnamed_argument_shows_in_what_is_missing(tools: Tools) -> None:
    misnamed = {"to": "bob", "type": "task", "message": "Hi", "from": "alice"}
    assert '"content"' in tools.refused("send_message", **misnamed)


@pytest.mark.parametrize("change", [{"content": ["x" * 9000]}, {"type": "x" * 9000}])
def test_a_refusal_does_not_repeat_pages(tools: Tools, change: dict[str, Any]) -> None:
    assert len(tools.refused("send_message", **QUESTION | change)) < 500


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels > 1 else {}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (nested(64), "at most 64 levels"),
        ({"page": "x" * 100_000}, "100000 are the most"),
    ],
)
def test_metadata_that_no_reader_would_take_is_refused(
    tools: Tools, root: Path, metadata: dict[str, Any], words: str
) -> None:
    tools.register("alice")
    sentence = tools.refused("send_message", **QUESTION, metadata=metadata)
    assert '"metadata"' in sentence
    assert words in sentence
    assert pending(root) == []


def test_metadata_that_readers_take_arrives(tools: Tools) -> None:
    tools.register("alice", "bob")
    metadata = nested(62) | {"page": "ü" * 40_000}
    tools.send("alice", "bob", metadata=metadata)
    (message,) = tools.call("get_messages", agent="bob")["messages"]
    assert message["metadata"] == metadata


def test_who_writes_too_often_is_told_to_wait(
    tools: Tools, another: Callable[..., Tools], root: Path
) -> None:
    tools.register("alice")
    limited = another(AGENT_HUB_RATE_LIMIT="true", AGENT_HUB_RATE_LIMIT_MAX="2")
    assert limited.send("alice", "bob")["messagesLeft"] == 1
    assert limited.send("alice", "bob")["messagesLeft"] == 0
    sentence = limited.refused("send_message", **QUESTION)
    assert re.match(r'"alice" has written too often: it may write again in \d+ s\.', sentence)
    assert len(pending(root)) == 2


def test_near_its_limit_a_model_is_told_how_much_is_left(
    tools: Tools, another: Callable[..., Tools]
) -> None:
    tools.register("alice")
    limited = another(AGENT_HUB_RATE_LIMIT="true", AGENT_HUB_RATE_LIMIT_MAX="4")
    notes = [limited.send("alice", "bob")["note"] for _ in range(4)]
    assert [note.partition("You are near your limit: ")[2] for note in notes] == [
        "",
        "2 messages left for now.",
        "1 message left for now.",
        "0 messages left for now.",
    ]


# ---------------------------------------------------------------------------------- get_messages


def test_messages_are_read_oldest_first_and_once(tools: Tools, root: Path) -> None:
    tools.register("alice", "bob")
    first, second = (tools.send("alice", "bob", text)["messageId"] for text in ("one", "two"))
    tools.send("alice", "carol", "not for bob")

    answer = tools.call("get_messages", agent="bob")
    assert contents(answer) == ["one", "two"]
    assert [message["id"] for message in answer["messages"]] == [first, second]
    assert document(root / "messages" / f"{first}.json")["read"] is True
    assert tools.call("get_messages", agent="bob") == {"count": 0, "messages": []}


def test_a_message_is_shown_as_its_file_has_it(tools: Tools, root: Path) -> None:
    tools.register("alice", "bob")
    sent = tools.send("alice", "bob", metadata={"ticket": 7})
    written = document(root / "messages" / f"{sent['messageId']}.json")
    (message,) = tools.call("get_messages", agent="bob")["messages"]
    assert message == written | {"verified": False}


def test_who_wants_to_read_again_leaves_them_unread(tools: Tools, root: Path) -> None:
    tools.register("alice", "bob")
    sent = tools.send("alice", "bob", "one")
    assert tools.fetched("bob", markAsRead=False) == ["one"]
    assert document(root / "messages" / f"{sent['messageId']}.json")["read"] is False
    assert tools.fetched("bob") == ["one"]


def test_messages_are_chosen_by_type_and_the_others_stay_unread(tools: Tools) -> None:
    tools.register("alice", "bob")
    tools.send("alice", "bob", "do", type="task")
    tools.send("alice", "bob", "why", type="question")
    assert tools.fetched("bob", type="question") == ["why"]
    assert tools.fetched("bob") == ["do"]


def written_at(spool: FileSpool, root: Path, message_id: str, when: datetime) -> None:
    """As if it had been written then."""
    path = root / "messages" / f"{message_id}.json"
    path.write_text(json.dumps(document(path) | {"timestamp": milliseconds(when)}))
    assert isinstance(spool.read(path.name), Message)


def test_messages_are_chosen_by_time(tools: Tools, spool: FileSpool, root: Path) -> None:
    tools.register("alice", "bob")
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for minutes in (0, 1, 2):
        sent = tools.send("alice", "bob", f"{minutes}")
        written_at(spool, root, sent["messageId"], noon + timedelta(minutes=minutes))
    since = milliseconds(noon + timedelta(minutes=1))
    assert tools.found(since=since) == ["2", "1"]
    assert tools.fetched("bob", since=since) == ["1", "2"]
    assert tools.fetched("bob") == ["0"]


@pytest.mark.parametrize(
    ("since", "words"),
    [
        (1_767_225_600, "are these seconds?"),
        (1e300, "milliseconds since 1970"),
        ("2026-01-01", "'number'"),
        (True, "'number'"),
    ],
)
def test_a_time_that_is_none_is_refused(tools: Tools, since: object, words: str) -> None:
    tools.register("bob")
    for name, arguments in (("get_messages", {"agent": "bob"}), ("search_messages", {})):
        sentence = tools.refused(name, **arguments, since=since)
        assert "since" in sentence
        assert "milliseconds since 1970" in sentence
        assert words in sentence


def test_an_agent_without_a_session_reads_broadcasts_once(tools: Tools, spool: FileSpool) -> None:
    tools.register("alice", "polly", "quentin")
    waiting = tools.send("alice", "all", "waits")["messageId"]
    settled = tools.send("alice", "all", "was delivered to others")["messageId"]
    settle(spool, settled)

    assert tools.fetched("polly", markAsRead=False) == ["waits", "was delivered to others"]
    assert tools.fetched("polly") == ["waits", "was delivered to others"]
    assert tools.fetched("polly") == []
    assert tools.fetched("quentin") == ["waits", "was delivered to others"]
    assert tools.fetched("alice") == []  # it was its own
    assert isinstance(spool.read(f"{waiting}.json"), Message)  # for those whom the hub wakes


def test_an_agent_in_a_session_is_given_broadcasts_by_the_hub(
    tools: Tools, spool: FileSpool
) -> None:
    tools.register("alice")
    in_session(spool, "bob")
    tools.send("alice", "all")
    assert tools.fetched("bob") == []


def test_who_is_not_registered_has_no_mail(tools: Tools) -> None:
    tools.register("bob")
    sentence = tools.refused("get_messages", agent="bobb")
    assert "no agent is registered as 'bobb' (did you mean bob?)" in sentence
    assert "register_agent" in sentence


@pytest.mark.parametrize("name", ["hub", "human", "all", "coordinator"])
def test_nobody_reads_the_hubs_own_mail(tools: Tools, name: str) -> None:
    assert "not yours" in tools.refused("get_messages", agent=name)


# ------------------------------------------------------------------------------------ who is here


@pytest.mark.parametrize("name", ["get_hub_status", "sync"])
def test_the_hub_at_a_glance_under_both_its_names(
    tools: Tools, spool: FileSpool, name: str
) -> None:
    stopped = f"not running. {NOBODY}"
    assert tools.call(name) == {"hub": stopped, "messagesWaiting": 0, "agents": []}
    tools.register("alice")
    in_session(spool, "bob")
    settle(spool, tools.send("alice", "bob")["messageId"])
    tools.send("alice", "bob")
    status = tools.call(name)
    assert status["messagesWaiting"] == 1
    assert [agent["id"] for agent in status["agents"]] == ["bob"]
    assert f"{name} takes no" in tools.refused(name, agent="bob")


def test_agents_are_listed_with_what_they_do_and_where(tools: Tools, spool: FileSpool) -> None:
    in_session(spool, "bob", seen=timedelta(seconds=90))
    path = spool.root / "agents" / "bob.json"
    said = {"role": "backend", "capabilities": ["sql"]}
    path.write_text(json.dumps(document(path) | said))
    answer = tools.call("list_agents")
    assert 90 <= answer["agents"][0].pop("secondsSinceSeen") <= 90 + AT_ONCE
    assert answer == {
        "count": 1,
        "agents": [
            {
                "id": "bob",
                "presence": "here",
                "role": "backend",
                "capabilities": ["sql"],
                "projectPath": "/projects/bob",
            }
        ],
    }


def test_those_who_are_away_are_listed_on_request(tools: Tools, spool: FileSpool) -> None:
    tools.register("polly")
    in_session(spool, "gone", seen=timedelta(hours=2))
    in_session(spool, "zoe")

    def listed(**arguments: bool) -> dict[str, str]:
        agents = tools.call("list_agents", **arguments)["agents"]
        return {agent["id"]: agent["presence"] for agent in agents}

    assert listed() == listed(includeAway=False) == {"zoe": "here"}
    everybody = listed(includeAway=True)
    assert everybody == {"zoe": "here", "gone": "away", "polly": "away"}
    assert [*everybody] == ["zoe", "gone", "polly"]
    assert "\"includeAway\": 'yes'" in tools.refused("list_agents", includeAway="yes")


# --------------------------------------------------------------------------------------- threads


def conversation(tools: Tools, *names: str) -> str:
    """The names write to each other in turn; the thread's id."""
    tools.register(*names)
    thread: str | None = None
    for number, (sender, to) in enumerate(zip(names, names[1:] + names[:1], strict=True)):
        thread = tools.send(sender, to, f"{number}", threadId=thread)["threadId"]
    assert thread is not None
    return thread


def test_a_conversation_is_read_from_its_beginning(tools: Tools, spool: FileSpool) -> None:
    thread = conversation(tools, "alice", "bob")
    settle(spool, thread)  # the first message's id is the thread's
    tools.send("alice", "bob", "something else")
    answer = tools.call("get_thread", threadId=thread)
    assert contents(answer) == ["0", "1"]
    assert [message["state"] for message in answer["messages"]] == ["delivered", "waiting"]
    assert (answer["threadId"], answer["status"], answer["creator"]) == (thread, "open", "alice")
    assert answer["participants"] == ["alice", "bob"]


def test_of_a_long_conversation_the_newest_are_shown(tools: Tools) -> None:
    thread = conversation(tools, "alice", "bob")
    for number in range(2, 25):
        tools.send("alice", "bob", f"{number}", threadId=thread)

    def shown(**arguments: float) -> list[str]:
        answer = tools.call("get_thread", threadId=thread, **arguments)
        assert answer["total"] == 25
        return [message["content"] for message in answer["messages"]]

    assert shown() == [f"{number}" for number in range(5, 25)]
    assert shown(limit=2) == shown(limit=2.0) == ["23", "24"]
    assert len(shown(limit=100)) == 25


def test_a_thread_that_is_not_there_is_refused(tools: Tools) -> None:
    tools.register("alice")
    sentence = "there is no thread 'nowhere': look for its messages"
    assert tools.refused("get_thread", threadId="nowhere") == sentence
    assert tools.refused("resolve_thread", threadId="nowhere", from_="alice") == sentence


def test_who_began_a_thread_closes_it_and_the_others_are_told(tools: Tools, root: Path) -> None:
    thread = conversation(tools, "alice", "bob", "carol")
    answer = tools.call("resolve_thread", threadId=thread, from_="alice", note="Port 8080.")
    assert answer == {
        "success": True,
        "threadId": thread,
        "status": "resolved",
        "told": ["bob", "carol"],
    }
    closing = [document(root / "messages" / name) for name in pending(root)]
    closing = [message for message in closing if message["content"].startswith("RESOLVED")]
    assert sorted(message["to"] for message in closing) == ["bob", "carol"]
    for message in closing:
        assert message["content"] == "RESOLVED: Port 8080."
        assert (message["from"], message["type"]) == ("alice", "completion")
        assert (message["threadId"], message["priority"]) == (thread, "low")
    assert tools.call("get_thread", threadId=thread)["status"] == "resolved"


def test_a_thread_may_be_closed_without_a_word(tools: Tools) -> None:
    thread = conversation(tools, "alice", "bob")
    tools.call("resolve_thread", threadId=thread, from_="alice")
    assert tools.fetched("bob")[-1] == "RESOLVED"


def test_a_thread_is_not_closed_by_another(tools: Tools) -> None:
    thread = conversation(tools, "alice", "bob")
    sentence = tools.refused("resolve_thread", threadId=thread, from_="bob")
    assert 'belongs to "alice"' in sentence
    assert "completion" in sentence
    assert "register_agent" in tools.refused("resolve_thread", threadId=thread, from_="nobody")
    assert tools.call("get_thread", threadId=thread)["status"] == "open"


def test_a_thread_is_closed_once(tools: Tools) -> None:
    thread = conversation(tools, "alice", "bob")
    tools.call("resolve_thread", threadId=thread, from_="alice")
    sentence = tools.refused("resolve_thread", threadId=thread, from_="alice")
    assert sentence == f"the thread {thread} is resolved already"
    assert tools.call("get_thread", threadId=thread)["total"] == 3


# --------------------------------------------------------------------------------------- looking


@pytest.fixture
def history(tools: Tools, spool: FileSpool) -> dict[str, str]:
    """Five messages, oldest first, and their ids; the first two were settled."""
    tools.register("alice", "bob", "carol")
    ids = {
        text: tools.send(sender, to, text, type=kind, threadId=thread)["messageId"]
        for text, sender, to, kind, thread in (
            ("Which PORT is it?", "alice", "bob", "question", "ports"),
            ("port 8080", "bob", "alice", "context", "ports"),
            ("Please test", "carol", "bob", "task", "tests"),
            ("The tests fail", "bob", "carol", "error", "tests"),
            ("Lunch", "carol", "all", "context", "lunch"),
        )
    }
    settle(spool, ids["Which PORT is it?"])
    settle(spool, ids["port 8080"], Outcome.EXPIRED)
    return ids


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["Lunch", "The tests fail", "Please test", "port 8080", "Which PORT is it?"]),
        ({"text": "Port"}, ["port 8080", "Which PORT is it?"]),
        ({"text": "TEST"}, ["The tests fail", "Please test"]),
        ({"text": "x"}, []),
        ({"agent": "alice"}, ["Lunch", "port 8080", "Which PORT is it?"]),
        ({"agent": "carol"}, ["Lunch", "The tests fail", "Please test"]),
        ({"threadId": "ports"}, ["port 8080", "Which PORT is it?"]),
        ({"type": "context"}, ["Lunch", "port 8080"]),
        ({"type": "error", "agent": "bob"}, ["The tests fail"]),
        ({"text": "test", "agent": "bob", "threadId": "tests", "type": "task"}, ["Please test"]),
        ({"since": 1_767_225_600_000, "text": "lunch"}, ["Lunch"]),
        ({"since": 32_503_680_000_000}, []),
        ({"limit": 1}, ["Lunch"]),
        ({"limit": 3.0}, ["Lunch", "The tests fail", "Please test"]),
        ({"limit": 100, "text": "8080"}, ["port 8080"]),
    ],
)
@pytest.mark.usefixtures("history")
def test_messages_are_found_newest_first_by(
    tools: Tools, query: dict[str, Any], found: list[str]
) -> None:
    assert tools.found(**query) == found


def test_what_is_found_says_what_became_of_it(tools: Tools, history: dict[str, str]) -> None:
    messages = tools.call("search_messages")["messages"]
    states = {message["content"]: message["state"] for message in messages}
    assert states == dict.fromkeys(history, "waiting") | {
        "Which PORT is it?": "delivered",
        "port 8080": "expired",
    }
    assert {message["content"]: message["id"] for message in messages} == history


def test_twenty_are_shown_where_nobody_says_how_many(tools: Tools) -> None:
    tools.register("alice")
    for number in range(22):
        tools.send("alice", "bob", f"{number}")
    assert tools.found() == [f"{number}" for number in range(21, 1, -1)]


@pytest.mark.parametrize("name", ["search_messages", "get_thread"])
@pytest.mark.parametrize("limit", [0, -1, 101, 1.5, "5", True])
def test_a_limit_is_a_number_from_1_to_100(tools: Tools, name: str, limit: object) -> None:
    thread = {"threadId": "t"} if name == "get_thread" else {}
    sentence = tools.refused(name, **thread, limit=limit)
    assert sentence.startswith(f'"limit": {limit!r} is ')


def test_looking_changes_nothing(tools: Tools, root: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    thread = conversation(tools, "alice", "bob")
    before = files()
    for name in LOOKING:
        tools.call(name, **({"threadId": thread} if name == "get_thread" else {}))
    assert files() == before


# ----------------------------------------------------------------------------------- who and where


def test_two_programs_on_one_hub_reach_each_other(
    tools: Tools, another: Callable[..., Tools]
) -> None:
    other = another()
    tools.register("alice")
    other.register("bob")
    thread = tools.send("alice", "bob", "ping")["threadId"]
    assert other.fetched("bob") == ["ping"]
    other.send("bob", "alice", "pong", threadId=thread)
    assert tools.fetched("alice") == ["pong"]
    assert other.fetched("alice") == []
    assert contents(other.call("get_thread", threadId=thread)) == ["ping", "pong"]


def test_two_agents_share_one_program(tools: Tools) -> None:
    tools.register("alice", "bob")
    tools.send("alice", "bob", "ping")
    tools.send("bob", "alice", "pong")
    assert (tools.fetched("alice"), tools.fetched("bob")) == (["pong"], ["ping"])


def test_the_hub_may_be_somewhere_else(
    another: Callable[..., Tools], root: Path, tmp_path: Path
) -> None:
    elsewhere = another(AGENT_HUB_DIR=str(tmp_path / "hub"))
    elsewhere.register("alice")
    elsewhere.send("alice", "bob")
    assert len(pending(tmp_path / "hub")) == 1
    assert (tmp_path / "hub").stat().st_mode & 0o077 == 0
    assert pending(root) == []


# ----------------------------------------------------------------------------------- odd and broken


def test_odd_words_arrive_as_they_were_written(tools: Tools, root: Path) -> None:
    tools.register("alice", "bob")
    sent = tools.send("alice", "bob", ODD, metadata={ODD: ODD})
    written = document(root / "messages" / f"{sent['messageId']}.json")
    (read,) = tools.call("get_messages", agent="bob")["messages"]
    for message in (written, read):
        assert (message["content"], message["metadata"]) == (ODD, {ODD: ODD})
    assert tools.found(text="👩\u200d💻\r\n\tTABS") == [ODD]


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_arguments_may_be_said_in_two_ways(tools: Tools, nothing: dict[str, Any] | None) -> None:
    assert not tools.ask("get_hub_status", nothing).is_error
    refused = tools.ask("get_thread", nothing)
    assert refused.is_error
    assert 'get_thread needs "threadId"' in _text(refused)


def test_a_tool_that_is_not_there_is_answered_with_those_that_are(tools: Tools) -> None:
    sentence = tools.refused("create_feature", name="x")
    assert "'create_feature'" in sentence
    for name in REFERENCE | OURS:
        assert name in sentence


def test_half_a_character_in_a_file_hides_nothing_else(tools: Tools, root: Path) -> None:
    tools.register("alice", "bob")
    path = root / "agents" / "bob.json"
    path.write_text(json.dumps(document(path) | {"role": "half \ud83d"}))
    agents = tools.call("list_agents", includeAway=True)["agents"]
    assert [(agent["id"], agent["role"]) for agent in agents] == [("alice", ""), ("bob", "half ?")]


def test_a_file_that_is_no_message_hides_nothing_else(tools: Tools, root: Path) -> None:
    tools.register("alice", "bob")
    (root / "messages" / "broken.json").write_text('{"from": "al')
    (root / "agents" / "broken.json").write_text("[]")
    tools.send("alice", "bob", "one")
    assert tools.call("get_hub_status")["messagesWaiting"] == 1
    assert tools.found() == tools.fetched("bob") == ["one"]
    assert tools.call("get_hub_status")["messagesWaiting"] == 0, "it was read"


def test_a_broken_hub_is_told_and_works_again_once_it_is_mended(tools: Tools, root: Path) -> None:
    tools.register("alice", "bob")
    messages = root / "messages"
    shutil.rmtree(messages)
    messages.write_text("in the way")
    sentence = tools.refused("send_message", **QUESTION)
    assert re.fullmatch(rf"{root}\S* cannot be written: Not a directory", sentence)
    for name, arguments in (
        ("get_messages", {"agent": "bob"}),
        ("get_hub_status", {}),
        ("search_messages", {}),
        ("get_thread", {"threadId": "t"}),
    ):
        sentence = tools.refused(name, **arguments)
        assert re.fullmatch(rf"{messages}.* cannot be read: Not a directory", sentence)
    assert tools.call("list_agents", includeAway=True)["count"] == 2

    messages.unlink()
    FileSpool(root, clock=SystemClock()).prepare()
    tools.send("alice", "bob", "one")
    assert tools.fetched("bob") == ["one"]


# ------------------------------------------------------------------------------------ the process


class Spoken:
    """The process itself, spoken to line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._id = 0

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        request = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        self.say(json.dumps(request))
        answer = self.heard()
        assert answer["id"] == self._id
        result: dict[str, Any] = answer["result"]
        return result

    def initialise(self, version: str = "2025-06-18") -> dict[str, Any]:
        client = {"name": "a test", "version": "1"}
        told = self.ask("initialize", protocolVersion=version, capabilities={}, clientInfo=client)
        self.say('{"jsonrpc": "2.0", "method": "notifications/initialized"}')
        return told

    def ended(self) -> tuple[int, str, str]:
        """Its status once it has ended, and what else it has said on both streams."""
        status = self.process.wait(AT_ONCE)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return status, self.process.stdout.read(), self.process.stderr.read()


@contextmanager
def started(home: Path) -> Iterator[Spoken]:
    with subprocess.Popen(  # noqa: S603
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        text=True,
    ) as process:
        try:
            yield Spoken(process)
        finally:
            process.kill()


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Spoken]:
    with started(tmp_path) as spoken:
        yield spoken


def test_it_ends_by_itself_when_its_client_is_gone(spoken: Spoken) -> None:
    spoken.initialise()
    spoken.ask("tools/call", name="sync")
    assert spoken.process.stdin is not None
    spoken.process.stdin.close()
    assert spoken.ended() == (0, "", "")


def test_it_ends_by_itself_when_its_client_never_spoke(spoken: Spoken) -> None:
    assert spoken.process.stdin is not None
    spoken.process.stdin.close()
    assert spoken.ended() == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(spoken: Spoken, number: signal.Signals) -> None:
    spoken.initialise()
    spoken.process.send_signal(number)
    assert spoken.ended() == (-number, "", "")


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_clients_of_every_age_are_understood(spoken: Spoken, version: str) -> None:
    assert spoken.initialise(version)["protocolVersion"] == version
    assert len(spoken.ask("tools/list")["tools"]) == 9
    (content,) = spoken.ask("tools/call", name="sync")["content"]
    assert json.loads(content["text"])["agents"] == []


def test_a_line_that_is_no_request_stops_nothing(spoken: Spoken) -> None:
    spoken.initialise()
    spoken.say("no JSON")
    assert len(spoken.ask("tools/list")["tools"]) == 9


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_json_does_not_have_is_refused(spoken: Spoken, number: float) -> None:
    spoken.initialise()
    alice = {"id": "alice", "projectPath": "/x", "role": ""}
    spoken.ask("tools/call", name="register_agent", arguments=alice)
    result = spoken.ask(
        "tools/call", name="send_message", arguments=QUESTION | {"metadata": {"n": number}}
    )
    assert result["isError"]
    assert result["content"][0]["text"].startswith('"metadata": ')


def test_it_is_there_before_its_client_waits(tmp_path: Path) -> None:
    def seconds() -> float:
        begin = time.monotonic()
        with started(tmp_path) as spoken:
            spoken.initialise()
            return time.monotonic() - begin

    best = min(seconds() for _ in range(3))
    print(f"from start to initialised: {best:.2f} s")
    assert best < START


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_it_stays_small_after_all_tools_were_called(spoken: Spoken) -> None:
    spoken.initialise()
    alice = {"id": "alice", "projectPath": "/x", "role": ""}
    for name, arguments in (
        ("register_agent", alice),
        ("send_message", QUESTION | {"threadId": "t"}),
        ("get_messages", {"agent": "alice"}),
        ("get_hub_status", {}),
        ("sync", {}),
        ("list_agents", {}),
        ("get_thread", {"threadId": "t"}),
        ("search_messages", {}),
        ("resolve_thread", {"threadId": "t", "from": "alice"}),
    ):
        assert not spoken.ask("tools/call", name=name, arguments=arguments).get("isError")
    status = Path(f"/proc/{spoken.process.pid}/status").read_text()
    (largest,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    print(f"at its largest: {int(largest) / 1024:.1f} MB")
    assert int(largest) < MEMORY


@pytest.mark.parametrize("command", ["--help", "status", "agents", "messages", "inbox"])
def test_no_other_command_waits_for_the_tools_library(command: str, tmp_path: Path) -> None:
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-X", "importtime", *COMMAND[1:-1], command],
        check=True,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        text=True,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.splitlines()}
    assert "agenthub_core" in loaded
    assert loaded.isdisjoint({"mcp", "mcp_types", "jsonschema", "anyio", "httpx"})


# ------------------------------------------------------------------------- who calls, in OpenCode


class InOpenCode:
    """A server in an OpenCode with the hub's plugin, and the hub that it belongs to."""

    def __init__(self, tools: Tools, spool: FileSpool, endpoint: StubEndpoint) -> None:
        self.tools = tools
        self.spool = spool
        self._endpoint = endpoint

    @property
    def calls(self) -> Mapping[tuple[str, str], Any]:
        """Those that nobody has claimed yet."""
        return self._endpoint.calls

    def called_by(self, slug: str, tool: str, name: str) -> None:
        """A session is about to call; the plugin has put this name into its call."""
        self._endpoint.calls[tool, name] = {
            "session": f"ses_{slug}",
            "slug": slug,
            "directory": f"/projects/{slug}",
        }

    def send(self, slug: str, name: str, to: str = "bob", **more: Any) -> dict[str, Any]:
        self.called_by(slug, "send_message", name)
        return self.tools.send(name, to, **more)

    def waiting(self) -> list[tuple[str, bool]]:
        """The senders of what waits, and whether they are verified."""
        readings = map(self.spool.read, self.spool.keys())
        return [(each.sender, each.verified) for each in readings if isinstance(each, Message)]


@pytest.fixture
def short() -> Iterator[Path]:
    """A hub's directory with a short name, for there are sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="ah-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def in_opencode(another: Callable[..., Tools], short: Path) -> Iterator[InOpenCode]:
    spool = FileSpool(short / "hub", clock=SystemClock())
    spool.prepare()
    tools = another(AGENT_HUB_DIR=str(spool.root), OPENCODE_PID="4711")
    with StubEndpoint(spool.root / "run" / "4711.sock") as endpoint:
        yield InOpenCode(tools, spool, endpoint)


def test_a_message_is_from_the_session_that_calls_whatever_it_says(
    in_opencode: InOpenCode,
) -> None:
    in_session(in_opencode.spool, "alice", "bob")
    assert in_opencode.send("alice", "alice")["from"] == "alice"
    assert in_opencode.send("alice", "human", to="human")["from"] == "alice"
    assert in_opencode.send("alice", "ses_alice")["from"] == "alice"
    assert in_opencode.waiting() == [("alice", True)] * 3


def test_who_calls_outside_of_opencode_is_not_verified(
    in_opencode: InOpenCode, another: Callable[..., Tools]
) -> None:
    in_session(in_opencode.spool, "alice")
    for environment in ({}, {"OPENCODE_PID": "4712"}):
        elsewhere = another(AGENT_HUB_DIR=str(in_opencode.spool.root), **environment)
        assert elsewhere.send("alice", "bob")["from"] == "alice"
    assert in_opencode.tools.send("alice", "bob")["from"] == "alice", "nobody has this call"
    assert in_opencode.waiting() == [("alice", False)] * 3


def test_a_session_that_no_hub_has_seen_is_named_and_keeps_its_name(
    in_opencode: InOpenCode,
) -> None:
    assert in_opencode.send("carol", "ses_carol")["from"] == "carol"
    assert in_opencode.waiting() == [("carol", True)]
    carol = in_opencode.spool.agent("carol")
    assert carol is not None
    assert (carol.session_id, carol.directory) == ("ses_carol", "/projects/carol")


def test_a_session_that_the_hub_is_about_to_see_is_waited_for(in_opencode: InOpenCode) -> None:
    in_opencode.called_by("carol", "send_message", "ses_carol")

    def see() -> None:
        eventually(lambda: not in_opencode.calls)  # by then it is asked for
        agent = Agent(id="carol-2", session_id="ses_carol", last_seen=now())
        in_opencode.spool.save_agent(agent)

    with in_opencode.spool.claim():
        seeing = threading.Thread(target=see)
        seeing.start()
        assert in_opencode.tools.send("ses_carol", "bob")["from"] == "carol-2"
        seeing.join()


def test_a_session_registers_itself_and_nobody_else(in_opencode: InOpenCode) -> None:
    in_session(in_opencode.spool, "alice", "bob")
    in_opencode.called_by("alice", "register_agent", "bob")
    answer = in_opencode.tools.call(
        "register_agent", id="bob", projectPath="/elsewhere", role="Tests"
    )
    assert answer["agentId"] == "alice"
    roles = {agent.id: agent.role for agent in in_opencode.spool.agents()}
    assert roles == {"alice": "Tests", "bob": ""}


def test_a_session_reads_its_own_mail_and_nobody_elses(in_opencode: InOpenCode) -> None:
    in_session(in_opencode.spool, "alice", "bob", "carol")
    in_opencode.send("carol", "carol", to="bob", content="for bob")
    in_opencode.send("carol", "carol", to="alice", content="for alice")
    in_opencode.called_by("alice", "get_messages", "bob")
    answer = in_opencode.tools.call("get_messages", agent="bob")
    assert contents(answer) == ["for alice"]
    assert answer["messages"][0]["verified"] is True


def test_a_session_closes_its_own_conversation_and_nobody_elses(in_opencode: InOpenCode) -> None:
    in_session(in_opencode.spool, "alice", "bob")
    thread = in_opencode.send("alice", "alice")["threadId"]
    in_opencode.called_by("bob", "resolve_thread", "alice")
    sentence = in_opencode.tools.refused("resolve_thread", threadId=thread, from_="alice")
    assert f'the thread {thread} belongs to "alice"' in sentence
    in_opencode.called_by("alice", "resolve_thread", "alice")
    assert in_opencode.tools.call("resolve_thread", threadId=thread, from_="alice")["success"]
    assert in_opencode.waiting() == [("alice", True)] * 2


def test_the_coordinators_session_speaks_as_the_coordinator(in_opencode: InOpenCode) -> None:
    in_session(in_opencode.spool, "coordinator")
    assert in_opencode.send("coordinator", "coordinator")["from"] == "coordinator"
    assert in_opencode.waiting() == [("coordinator", True)]


def test_every_tool_that_shows_messages_says_whether_they_are_verified_and_shows_no_mark(
    in_opencode: InOpenCode,
) -> None:
    in_session(in_opencode.spool, "alice", "bob")
    sent = in_opencode.send("alice", "alice", threadId="t1")
    settle(in_opencode.spool, sent["messageId"])
    in_opencode.tools.send("alice", "bob", threadId="t1", metadata={"verified": True})
    for tool, arguments in (
        ("get_thread", {"threadId": "t1"}),
        ("search_messages", {}),
    ):
        answer = in_opencode.tools.call(tool, **arguments)
        assert sorted(each["verified"] for each in answer["messages"]) == [False, True]
        assert re.search("[0-9a-f]{64}", json.dumps(answer)) is None


def test_where_only_the_verified_are_heard_a_model_is_told_why_it_is_not(
    in_opencode: InOpenCode, another: Callable[..., Tools]
) -> None:
    in_session(in_opencode.spool, "alice")
    directory = str(in_opencode.spool.root)
    elsewhere = another(AGENT_HUB_DIR=directory, AGENT_HUB_REQUIRE_VERIFIED="true")
    sentence = elsewhere.refused("send_message", **QUESTION)
    assert "AGENT_HUB_REQUIRE_VERIFIED" in sentence
    assert "agenthub setup" in sentence
    assert in_opencode.waiting() == []
