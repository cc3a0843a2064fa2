"""An MCP server that claims each call made of it, and answers with what the endpoint said.

Run by OpenCode as a program of its own (`python claiming.py SOCKETS`), so it needs nothing but
Python. A call that says "fail" fails, after it was claimed or, if it says "unclaimed", before.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

TOOLS = ("send_message", "list_agents")
SCHEMA = {
    "type": "object",
    "properties": {"from": {"type": "string"}, "content": {"type": "string"}},
}


class Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(Path(sys.argv[1]) / f"{os.environ['OPENCODE_PID']}.sock"))


def claim(tool: str, name: str) -> str:
    connection = Connection("endpoint")
    connection.request("POST", "/claim", json.dumps({"tool": tool, "name": name}))
    response = connection.getresponse()
    return f"{response.status} {response.read().decode()}"


def called(params: dict[str, Any]) -> dict[str, Any]:
    given = params["arguments"]
    said = given.get("content", "")
    answer = "" if "unclaimed" in said else claim(params["name"], given.get("from", "nobody"))
    text = json.dumps({"given": given, "claim": answer})
    return {"content": [{"type": "text", "text": text}], "isError": "fail" in said}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "claiming", "version": "1"},
        }
    if method == "tools/list":
        listed = [{"name": name, "description": name, "inputSchema": SCHEMA} for name in TOOLS]
        return {"tools": listed}
    if method == "tools/call":
        return called(params)
    return {}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            result = answer(request["method"], request.get("params", {}))
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
