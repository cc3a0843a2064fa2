"""The agents' tools: what each is called, takes, and answers.

Names, arguments and answers are those of agent-hub-mcp 0.3.0 where it had the tool. What a model
reads here, descriptions, answers and errors, is all that it knows of the hub, so each sentence is
to be understood at first reading, and each error says how to do better. What a request does, and
who may ask, is the core's business (`agenthub_core.gateway`); how calls travel, the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from attrs import frozen
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from agenthub_adapters import codec
from agenthub_core import (
    EVERYONE,
    HUMAN,
    Clock,
    Entry,
    Fault,
    Gateway,
    MessageType,
    Presence,
    Present,
    Priority,
    Query,
    RequestRefused,
    Sent,
    Session,
)
from agenthub_core.model import CONTENT_LENGTH, IDENTIFIER_LENGTH, shown

_NEAR = 2  # messages left: time to put what is to be said into one
_PAGE = 20
_MOST = 100  # messages in one answer: more would fill a model's context
_METADATA_SIZE = 100_000  # bytes: it must fit into a message (codec.MESSAGE_SIZE) with the content

Arguments = Mapping[str, Any]
Answer = Mapping[str, Any]

_TYPES = [kind.value for kind in MessageType]
_AGENT: Arguments = {"type": "string", "pattern": f"^[A-Za-z0-9_-]{{1,{IDENTIFIER_LENGTH}}}$"}


def _text(description: str, **more: Any) -> Arguments:
    return {"type": "string", "description": description, **more}


def _name(description: str) -> Arguments:
    return {**_AGENT, "description": description}


def _words(description: str) -> Arguments:
    return {"type": "array", "items": {"type": "string"}, "description": description}


def _limit(description: str) -> Arguments:
    bounds = {"minimum": 1, "maximum": _MOST, "default": _PAGE}
    return {"type": "integer", "description": description, **bounds}


_FROM = _name(
    "Your own agent id, as the hub told you or register_agent answered. Where the hub knows which "
    "session calls, it sets this by itself."
)
_SINCE: Arguments = {
    "type": "number",
    "description": "Only messages written then or later, in milliseconds since 1970.",
}
_TYPE = _text("Only messages of this type.", enum=_TYPES)


@frozen(kw_only=True)
class AgentTool:
    """A tool as the model sees it, and what answers it."""

    name: str
    description: str
    properties: Mapping[str, Arguments]
    required: Sequence[str] = ()
    reads: bool = False
    """It changes nothing."""
    caller: str = ""
    """The argument that says who calls."""
    answer: Callable[[AgentTools, Arguments, bool], Answer]
    """Told whether the caller is verified."""

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }


class AgentTools:
    """The tools over a gateway.

    `claim` tells which session calls a tool under a name, or that nobody knows; `pause` waits.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        clock: Clock,
        claim: Callable[[str, str], Session | None],
        pause: Callable[[timedelta], None],
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._claim = claim
        self._pause = pause
        self.program = ""
        """The one that calls, as it says of itself."""

    def call(self, name: str, arguments: Arguments) -> Answer:
        """What a tool answers, as a JSON object.

        Raises `AgentHubError` with a sentence that lets the model correct itself.
        """
        tool = TOOLS.get(name)
        if tool is None:
            raise RequestRefused(f"there is no tool {shown(name)}; there are: {', '.join(TOOLS)}")
        given = {key: value for key, value in arguments.items() if value is not None}
        fault = best_match(Draft202012Validator(tool.schema).iter_errors(given))
        if fault is not None:
            raise RequestRefused(_explained(tool, given, fault))
        session = self._claim(name, given[tool.caller]) if tool.caller in given else None
        if session is None:
            return tool.answer(self, given, False)
        agent = self._gateway.identify(session, pause=self._pause)
        return tool.answer(self, given | {tool.caller: agent.id}, True)

    # --------------------------------------------------------------------------- the tools

    def register_agent(self, given: Arguments, verified: bool) -> Answer:
        agent = self._gateway.register(
            given.get("id"),
            directory=given["projectPath"],
            role=given["role"],
            capabilities=given.get("capabilities", ()),
            collaborates_with=given.get("collaboratesWith", ()),
            program=self.program,
            verified=verified,
        )
        return {
            "success": True,
            "agentId": agent.id,
            "note": f'You are "{agent.id}": use it as from in send_message, as agent in '
            "get_messages. Others reach you under this name.",
        }

    def send_message(self, given: Arguments, verified: bool) -> Answer:
        sent = self._gateway.send(
            sender=given["from"],
            recipient=given["to"],
            type=MessageType(given["type"]),
            content=given["content"],
            priority=Priority(given.get("priority", Priority.NORMAL.value)),
            thread_id=given.get("threadId"),
            extra=_metadata(given),
            verified=verified,
        )
        return {
            "success": True,
            "from": sent.message.sender,
            "messageId": sent.message.id,
            "threadId": sent.message.thread_id,
            "recipient": sent.presence.value,
            "note": prospect(sent),
        } | ({} if sent.left is None else {"messagesLeft": sent.left})

    def get_messages(self, given: Arguments, verified: bool) -> Answer:
        messages = self._gateway.mail(
            given["agent"],
            mark_read=given.get("markAsRead", True),
            type=_type(given),
            since=_since(given),
            verified=verified,
        )
        return {"count": len(messages), "messages": [*map(codec.message_object, messages)]}

    def get_hub_status(self, given: Arguments, verified: bool) -> Answer:
        status = self._gateway.status()
        return {
            "hub": "running" if status.attended else f"not running. {_NOBODY}",
            "messagesWaiting": status.waiting,
            "agents": self._described(status.agents, away=False),
        }

    def list_agents(self, given: Arguments, verified: bool) -> Answer:
        agents = self._described(self._gateway.agents(), away=given.get("includeAway", False))
        return {"count": len(agents), "agents": agents}

    def get_thread(self, given: Arguments, verified: bool) -> Answer:
        thread, entries = self._gateway.records.thread(given["threadId"])
        shown_ones = entries[-_limited(given) :]
        return {
            "threadId": thread.id,
            "status": thread.status.value,
            "creator": thread.creator,
            "participants": thread.participants,
            "total": thread.messages,
            "messages": [*map(_entry_object, shown_ones)],
        }

    def resolve_thread(self, given: Arguments, verified: bool) -> Answer:
        thread, sent = self._gateway.resolve(
            given["threadId"],
            sender=given["from"],
            note=given.get("note", ""),
            verified=verified,
        )
        told = [each.message.recipient for each in sent]
        return {"success": True, "threadId": thread.id, "status": thread.status.value, "told": told}

    def search_messages(self, given: Arguments, verified: bool) -> Answer:
        query = Query(
            text=given.get("text", ""),
            agent=given.get("agent"),
            thread_id=given.get("threadId"),
            type=_type(given),
            since=_since(given),
        )
        entries = [*islice(self._gateway.records.find(query), _limited(given))]
        return {"count": len(entries), "messages": [*map(_entry_object, entries)]}

    def _described(self, agents: Sequence[Present], *, away: bool) -> list[Answer]:
        now = self._clock.now()
        return [
            {
                "id": each.agent.id,
                "presence": each.presence.value,
                "role": each.agent.role,
                "capabilities": each.agent.capabilities,
                "projectPath": each.agent.directory,
                "secondsSinceSeen": round((now - each.agent.last_seen).total_seconds()),
            }
            for each in agents
            if away or each.presence is Presence.HERE
        ]


def prospect(sent: Sent) -> str:
    """What will happen to a message, in words."""
    said = [_fate(sent)]
    if sent.nearest:
        said.append(f"Did you mean {' or '.join(sent.nearest)}?")
    if not sent.attended and sent.message.recipient != HUMAN:
        said.append(f"{_NOBODY}.")
    elif sent.presence is Presence.HERE:
        by_itself = "comes into your session by itself" if sent.woken else "is in get_messages"
        said.append(f"An answer {by_itself}.")
    if sent.left is not None and sent.left <= _NEAR:
        said.append(f"You are near your limit: {_counted(sent.left, 'message')} left for now.")
    return " ".join(said)


def _fate(sent: Sent) -> str:
    recipient = sent.message.recipient
    if recipient == HUMAN:
        return "The person who runs the hub reads it when they look: go on without an answer."
    if recipient == EVERYONE and sent.reached:
        return f"It is for {_counted(len(sent.reached), 'agent')}: {', '.join(sent.reached)}."
    if recipient == EVERYONE:
        return "No other agent is here now: it waits for the first who comes."
    if sent.presence is Presence.HERE and not sent.attended:
        return f"{recipient} is known; the message waits for a hub."
    return f"{recipient} {_FATES[sent.presence]}"


_FATES = {
    Presence.HERE: "is here and is woken.",
    Presence.AWAY: "cannot be woken now: it reads the message when it is back, or asks for its "
    "messages.",
    Presence.UNKNOWN: "is not known yet: the message waits for it. list_agents tells who is here.",
}


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


_NOBODY = "No agenthub daemon is running; ask your user to start one with `agenthub daemon`"


def _metadata(given: Arguments) -> Arguments:
    """What goes into the message as it is. Raises `RequestRefused` where none could read it."""
    if "metadata" not in given:
        return {}
    metadata = {"metadata": given["metadata"]}
    try:
        data = codec.encode_object(metadata)
    except ValueError as error:  # a number that JSON has no word for
        raise RequestRefused(f'"metadata": {error}') from error
    if len(data) > _METADATA_SIZE:
        raise RequestRefused(
            f'"metadata" takes {len(data)} bytes, {_METADATA_SIZE} are the most: put the long part '
            "into a file and send its path"
        )
    fault = codec.decode_object(data)
    if isinstance(fault, Fault):
        raise RequestRefused(f'"metadata": found {fault.found}, expected {fault.expected}')
    return metadata


def _limited(given: Arguments) -> int:
    return int(given.get("limit", _PAGE))  # 5.0 is an integer, too, in JSON


def _type(given: Arguments) -> MessageType | None:
    return MessageType(given["type"]) if "type" in given else None


def _since(given: Arguments) -> datetime | None:
    if "since" not in given:
        return None
    try:
        return codec.time_given(given["since"])
    except ValueError as error:
        raise RequestRefused(f"since: {error}") from error


def _entry_object(entry: Entry) -> Answer:
    return codec.message_object(entry.message) | {"state": entry.state}


def _explained(tool: AgentTool, given: Arguments, fault: ValidationError) -> str:
    """What is wrong with a call, and what would be right."""
    if fault.validator == "required":
        missing = [name for name in tool.required if name not in given]
        return f"{tool.name} needs {_listed(missing)}. {_about(tool, missing[0])}"
    if fault.validator == "additionalProperties":
        unknown = sorted(set(given) - set(tool.properties))
        return f"{tool.name} takes no {_listed(unknown)}; it takes {_listed(tool.properties)}"
    name = str(fault.path[0])
    wrong = fault.message.replace(repr(fault.instance), shown(fault.instance))
    return f'"{name}": {wrong}. {_about(tool, name)}'


def _about(tool: AgentTool, name: str) -> str:
    return f'About "{name}": {tool.properties[name]["description"]}'


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "no arguments"


TOOLS: Mapping[str, AgentTool] = {
    tool.name: tool
    for tool in (
        AgentTool(
            name="register_agent",
            description="Say who you are, so that other agents can find and reach you. Once is "
            "enough. Needed only if the hub has not told you your id; if it has, pass that id to "
            "add your role.",
            properties={
                "projectPath": _text("The directory that you work in, an absolute path."),
                "role": _text('What you do, in a few words: "backend, owns the login API".'),
                "id": _name("Your id, if the hub told you one; else the hub finds it."),
                "capabilities": _words("What others may ask you for."),
                "collaboratesWith": _words("Ids of agents that you work with."),
            },
            required=("projectPath", "role"),
            caller="id",
            answer=AgentTools.register_agent,
        ),
        AgentTool(
            name="send_message",
            description="Write to another agent. Its session is woken and it reads your words with "
            "nothing else, so say all that it needs to know. An answer comes into your session by "
            "itself, if your program can be woken. Every message costs its reader a turn: do not "
            "write only to thank or confirm.",
            properties={
                "from": _FROM,
                "to": _name(
                    f'The id of the agent that reads it, "{EVERYONE}" for every agent that is '
                    f'here, or "{HUMAN}" for the person who runs the hub.'
                ),
                "type": _text(
                    "task: asks for work; question: asks for an answer; context: tells something; "
                    "completion: tells that work is done; error: tells that it failed.",
                    enum=_TYPES,
                ),
                "content": _text(
                    f"What you have to say, at most {CONTENT_LENGTH} characters.", minLength=1
                ),
                "threadId": _name(
                    "The thread of the message that you answer. Leave it out to begin a new one."
                ),
                "priority": _text(
                    "urgent goes before all else that waits for this agent.",
                    enum=[priority.value for priority in Priority],
                    default=Priority.NORMAL.value,
                ),
                "metadata": {
                    "type": "object",
                    "description": "Anything that programs should find with the message.",
                },
            },
            required=("from", "to", "type", "content"),
            caller="from",
            answer=AgentTools.send_message,
        ),
        AgentTool(
            name="get_messages",
            description="Read the messages to you that you have not read yet, oldest first. Only "
            "needed if your program cannot be woken; an OpenCode session is given its messages by "
            "the hub.",
            properties={
                "agent": _FROM,
                "markAsRead": {
                    "type": "boolean",
                    "description": "Do not show them again.",
                    "default": True,
                },
                "type": _TYPE,
                "since": _SINCE,
            },
            required=("agent",),
            caller="agent",
            answer=AgentTools.get_messages,
        ),
        *(
            AgentTool(
                name=name,
                description="See whether the hub is running, which agents are here, what they do, "
                "and how many messages wait.",
                properties={},
                reads=True,
                answer=AgentTools.get_hub_status,
            )
            for name in ("get_hub_status", "sync")
        ),
        AgentTool(
            name="list_agents",
            description="See who is here: ids, what they do, and where they work.",
            properties={
                "includeAway": {
                    "type": "boolean",
                    "description": "Also those that cannot be woken now.",
                    "default": False,
                }
            },
            reads=True,
            answer=AgentTools.list_agents,
        ),
        AgentTool(
            name="get_thread",
            description="Read a conversation, oldest message first.",
            properties={
                "threadId": _name("The thread's id, as it stands in each of its messages."),
                "limit": _limit("How many messages at most; the newest are kept."),
            },
            required=("threadId",),
            reads=True,
            answer=AgentTools.get_thread,
        ),
        AgentTool(
            name="resolve_thread",
            description="Close a conversation that you began, when it has come to its end. The "
            "others in it are told.",
            properties={
                "threadId": _name("The thread's id."),
                "from": _FROM,
                "note": _text("What came of it, in a sentence."),
            },
            required=("threadId", "from"),
            caller="from",
            answer=AgentTools.resolve_thread,
        ),
        AgentTool(
            name="search_messages",
            description="Find messages among all that were ever sent, newest first: what was "
            "agreed, who asked for what.",
            properties={
                "text": _text("Stands in the content, in small letters or capitals."),
                "agent": _name("Wrote it or was written to."),
                "threadId": _name("Belongs to this thread."),
                "type": _TYPE,
                "since": _SINCE,
                "limit": _limit("How many messages at most."),
            },
            reads=True,
            answer=AgentTools.search_messages,
        ),
    )
}
