"""The agents' tools as an MCP server on standard input and output, with the official SDK.

What the tools are, and what they answer, is in `agent_tools`.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from agenthub_adapters.agent_tools import TOOLS, AgentTools
from agenthub_core import HUMAN, AgentHubError

NAME = "agent-hub"
"""What the server is called in an MCP client's configuration, and so the prefix of its tools."""

INSTRUCTIONS = f"""\
agent-hub carries messages between the AI coding agents at work on this machine, each in its own
session. Use it to ask another agent about its part of the work, to tell others what you changed
that concerns them, and to answer what you are asked. Your id is the one the hub told you; without
one, call register_agent once. Messages to you are put into your session by themselves, so you need
not poll; if your program cannot be woken, read them with get_messages. "{HUMAN}" is the person who
runs the hub."""


class McpServer:
    """Hands an MCP client's calls to the tools."""

    def __init__(self, tools: AgentTools, *, version: str) -> None:
        self._tools = tools
        self._version = version

    def serve(self) -> None:
        """Answer on standard input and output until the client closes them."""
        anyio.run(self._serve)

    async def _serve(self) -> None:
        server: Server[Any] = Server(
            NAME,
            version=self._version,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._called,
        )
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    async def _list(self, _: object, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.schema,
                    annotations=ToolAnnotations(
                        read_only_hint=tool.reads, destructive_hint=False, open_world_hint=False
                    ),
                )
                for tool in TOOLS.values()
            ]
        )

    async def _called(
        self, context: ServerRequestContext[Any], request: CallToolRequestParams
    ) -> CallToolResult:
        client = context.session.client_params
        if client is not None:
            self._tools.program = client.client_info.name
        try:
            answer = self._tools.call(request.name, request.arguments or {})
        except AgentHubError as error:
            return _result(str(error), is_error=True)
        return _result(json.dumps(answer, ensure_ascii=False))


def _result(text: str, *, is_error: bool = False) -> CallToolResult:
    """Half a surrogate pair, which a file may hold and UTF-8 may not, becomes a question mark."""
    sayable = text.encode(errors="replace").decode()
    return CallToolResult(content=[TextContent(text=sayable)], is_error=is_error)
