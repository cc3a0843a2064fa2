"""What `opencode_config` says of a configuration is what the real OpenCode makes of it, and what
it writes into its text is no more than it has to.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agenthub_adapters import jsonc
from agenthub_adapters.opencode_config import (
    ABSENT,
    DENIED,
    DISABLED,
    PERMISSION,
    SERVER,
    VANISHED,
    Connection,
    Lack,
    OpenCodeConfig,
    entry,
    gone,
    lack,
    permission,
    with_hub,
    without_hub,
    without_secrets,
)
from agenthub_core import Misconfigured
from testkit.opencode import OpenCode

TOOL = "agent-hub_send_message"
COMMAND = ["/bin/sh", "mcp"]  # a program that is there, on every machine
HUB = entry(COMMAND, {})


def lines(*each: str) -> str:
    return "".join(line + "\n" for line in each)


# ----------------------------------------------------------------------------- as OpenCode sees it

RULES: list[tuple[str, dict[str, Any], str]] = [
    ("nothing", {}, "allow"),
    ("ask for all", {"permission": "ask"}, "ask"),
    ("deny all", {"permission": "deny"}, "deny"),
    ("deny, then allow ours", {"permission": {"*": "deny", PERMISSION: "allow"}}, "allow"),
    ("allow ours, then deny", {"permission": {PERMISSION: "allow", "*": "deny"}}, "deny"),
    ("the rule for one tool", {"permission": {PERMISSION: "deny", TOOL: "allow"}}, "allow"),
    ("one character", {"permission": {"agent-hub_send?message": "ask"}}, "ask"),
    ("another server's", {"permission": {"agent-hubs_*": "deny"}}, "allow"),
    ("no regular expression", {"permission": {"agent.hub_.*": "deny"}}, "allow"),
    ("an object of rules", {"permission": {PERMISSION: {"*": "deny", "x": "allow"}}}, "deny"),
    ("rules for else only", {"permission": {PERMISSION: {"x": "deny"}}}, "allow"),
    ("the old key", {"tools": {"agent-hub*": False}}, "deny"),
    (
        "the old key, then ours",
        {"tools": {"agent-hub*": False}, "permission": {PERMISSION: "allow"}},
        "allow",
    ),
    (
        "all allowed after the old key",
        {"tools": {TOOL: False}, "permission": "allow"},
        "allow",
    ),
]


def decided(rules: list[dict[str, str]]) -> str:
    """What OpenCode's flattened rules say of the tool: the last one that fits decides."""
    fitting = [
        rule["action"]
        for rule in rules
        if fnmatch.fnmatchcase(TOOL, rule["permission"]) and rule["pattern"] == "*"
    ]
    return fitting[-1]


@pytest.fixture
def as_opencode_sees_it(
    opencode: OpenCode, project: Callable[[str], Path]
) -> Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[dict[str, str]]]]:
    """A project's configuration, merged, and the rules of the agent `build` that it leads to."""

    def ask(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, str]]]:
        directory = project("api")
        (directory / "opencode.json").write_text(json.dumps(document))
        where = {"params": {"directory": str(directory)}}
        merged: dict[str, Any] = opencode.request("GET", "/config", **where).json()
        agents = opencode.request("GET", "/agent", **where).json()
        (build,) = [agent for agent in agents if agent["name"] == "build"]
        return merged, build["permission"]

    return ask


@pytest.mark.parametrize(
    ("document", "expected"), [pytest.param(each, said, id=name) for name, each, said in RULES]
)
def test_what_is_permitted_is_what_opencode_permits(
    document: dict[str, Any],
    expected: str,
    as_opencode_sees_it: Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[dict[str, str]]]],
) -> None:
    merged, rules = as_opencode_sees_it(document | {"mcp": {SERVER: HUB}})

    assert decided(rules) == expected
    assert permission(merged) == expected
    assert lack(merged) == (DENIED if expected == "deny" else None)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"tools": {"agent-hub*": False}}, id="the old key"),
        pytest.param({"permission": "deny"}, id="a word"),
        pytest.param({"permission": {PERMISSION: "allow", "*": "deny"}}, id="ours is not last"),
        pytest.param({"permission": {"*": "ask", TOOL: "deny"}}, id="one tool denied"),
        pytest.param({"permission": {PERMISSION: {"*": "deny"}}}, id="an object of rules"),
    ],
)
def test_with_the_hub_opencode_permits_it_whatever_was_said_before(
    document: dict[str, Any],
    as_opencode_sees_it: Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[dict[str, str]]]],
) -> None:
    text = with_hub(json.dumps(document), COMMAND, {"AGENT_HUB_DIR": "/hub"})

    merged, rules = as_opencode_sees_it(json.loads(text))

    assert lack(merged) is None
    assert decided(rules) == "allow"
    assert merged["mcp"] == {SERVER: entry(COMMAND, {"AGENT_HUB_DIR": "/hub"})}


OLD = {"type": "local", "command": ["npx", "-y", "agent-hub-mcp@latest"]}


@pytest.mark.parametrize(
    ("merged", "expected"),
    [
        ({}, ABSENT),
        ({"mcp": {}}, ABSENT),
        ({"mcp": {"other": {"type": "local", "command": ["other"]}}}, ABSENT),
        ({"mcp": {SERVER: HUB | {"enabled": False}}}, DISABLED),
        ({"mcp": {SERVER: OLD}}, VANISHED),
        ({"mcp": {SERVER: OLD | {"enabled": False}}}, VANISHED),
        ({"mcp": {"agenthub": OLD}}, VANISHED),
        ({"mcp": {"agenthub": OLD, SERVER: HUB}}, None),
        ({"mcp": {SERVER: HUB}, "permission": {"*": "deny"}}, DENIED),
        ({"mcp": {SERVER: HUB}, "permission": {"*": "ask"}}, None),
        ({"mcp": {SERVER: HUB}}, None),
        ({"mcp": {SERVER: entry(["/nowhere/agenthub", "mcp"], {})}}, gone("/nowhere/agenthub")),
        ({"mcp": {SERVER: entry(["/etc/passwd", "mcp"], {})}}, gone("/etc/passwd")),
        ({"mcp": {SERVER: entry(["no-such-agenthub"], {})}}, gone("no-such-agenthub")),
        ({"mcp": {SERVER: entry(["/nowhere/agenthub"], {}) | {"enabled": False}}}, DISABLED),
        ({"mcp": {SERVER: entry(["sh"], {})}}, None),
        ({"mcp": {SERVER: entry(["sh"], {"PATH": "/nowhere"})}}, None),
        ({"mcp": {SERVER: entry(["venv/bin/agenthub"], {})}}, None),
        ({"mcp": {SERVER: {"type": "remote", "url": "http://127.0.0.1:1/"}}}, None),
    ],
)
def test_what_agents_lack_is_told_apart(merged: dict[str, Any], expected: Lack | None) -> None:
    assert lack(merged) == expected


def test_a_program_may_be_where_only_the_server_itself_looks(tmp_path: Path) -> None:
    program = tmp_path / "my-agenthub"
    program.touch(mode=0o755)
    found = {"mcp": {SERVER: entry([program.name], {"PATH": str(tmp_path)})}}
    assert lack(found) is None


# -------------------------------------------------------------------------------------- the program


@pytest.fixture
def home(opencode_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME of its own, with `opencode` on PATH: the adapter hands on the environment it is in."""
    for name in ("OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR", "OPENCODE_CONFIG_CONTENT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PATH", f"{opencode_binary.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "models.json").write_text("{}")
    monkeypatch.setenv("OPENCODE_MODELS_PATH", str(tmp_path / "models.json"))
    (tmp_path / ".config" / "opencode").mkdir(parents=True)
    return tmp_path


def test_the_merged_configuration_and_the_rules_are_those_of_opencodes_own_commands(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENCODE_MODELS_PATH")  # `debug agent` wants a model that could be used
    text = json.dumps({"permission": {"*": "deny", PERMISSION: "ask"}, "mcp": {SERVER: HUB}})
    (home / ".config" / "opencode" / "opencode.jsonc").write_text(f"// mine\n{text}")
    (home / "opencode.json").write_text(json.dumps({"tools": {"agent-hub*": False}}))

    config = OpenCodeConfig(home)
    merged = config.merged()

    said = subprocess.run(  # noqa: S603  # the program under test
        [config.binary, "debug", "agent", "build"],
        cwd=home,
        check=True,
        capture_output=True,
    )
    assert merged["mcp"] == {SERVER: HUB}
    assert permission(merged) == decided(json.loads(said.stdout)["permission"])


def test_where_there_is_no_file_yet_one_is_to_be_made_where_opencode_looks(home: Path) -> None:
    assert OpenCodeConfig(home).file() == home / ".config" / "opencode" / "opencode.json"


NAMED = "dotfiles/oc.json"  # in OPENCODE_CONFIG


@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("project/opencode.json", True),
        ("project/opencode.jsonc", True),
        ("project/.opencode/opencode.json", True),
        (".config/opencode/config.json", True),
        (NAMED, True),
        ("project/config.json", False),
        ("project/.opencode.json", False),
        ("project/.opencode/config.json", False),
        (".config/opencode/oc.json", False),
    ],
)
def test_a_file_that_opencode_does_not_read_is_told_by_its_name(
    name: str, is_read: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_CONFIG", str(home / NAMED))
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(with_hub("{}", COMMAND, {}))
    (home / "project").mkdir(exist_ok=True)
    config = OpenCodeConfig(home / "project")

    assert (SERVER in config.merged().get("mcp", {})) == is_read
    expected = contextlib.nullcontext() if is_read else pytest.raises(Misconfigured)
    with expected as raised:
        config.check_reads(path)
    if raised is not None:
        assert str(raised.value).startswith(
            f"OpenCode does not read {path}: it reads opencode.json"
        )


def test_a_file_that_opencode_cannot_read_is_told_in_its_own_words_without_the_keys_in_it(
    home: Path,
) -> None:
    path = home / ".config" / "opencode" / "opencode.json"
    path.write_text(lines("{", '  "share": "auto"', '  "username": "my-secret-key"', "}"))

    with pytest.raises(Misconfigured) as raised:
        OpenCodeConfig(home).merged()

    assert str(raised.value) == "`opencode debug config` failed"
    details = "\n".join(raised.value.details)
    assert str(path) in details
    assert "CommaExpected at line 3, column 3" in details
    assert "my-secret-key" not in details
    assert "\x1b" not in details


def test_a_server_that_does_not_start_is_told_with_the_reason(home: Path) -> None:
    path = home / ".config" / "opencode" / "opencode.json"
    path.write_text(with_hub("{}", ["/nowhere/agenthub", "mcp"], {}))

    said = OpenCodeConfig(home).connection()

    assert not said.connected
    assert said.text.startswith("failed ")
    assert "/nowhere/agenthub" in said.text


def test_without_opencode_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Misconfigured, match="npm install -g opencode-ai"):
        OpenCodeConfig(tmp_path)


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> OpenCodeConfig:
    """An `opencode` that says what the real one does not say at our bidding."""
    program = directory / "opencode"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return OpenCodeConfig(directory)


def test_the_file_that_speaks_of_the_hub_is_the_one_to_edit_and_else_the_one_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stand_in(tmp_path, monkeypatch, f"echo 'config     {tmp_path}'")

    (tmp_path / "config.json").write_text("{}")
    assert config.file() == tmp_path / "config.json"
    (tmp_path / "opencode.json").write_text("{}")
    assert config.file() == tmp_path / "opencode.json"
    (tmp_path / "opencode.jsonc").write_text("{ not even this")
    assert config.file() == tmp_path / "opencode.jsonc"
    (tmp_path / "opencode.json").write_text(with_hub("{}", COMMAND, {}))
    assert config.file() == tmp_path / "opencode.json"


@pytest.mark.parametrize("said", ["", "Warning: hello", "[]"])
def test_what_is_no_configuration_is_an_error_of_ours(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stand_in(tmp_path, monkeypatch, f"echo '{said}'")
    with pytest.raises(Misconfigured, match="opencode debug config"):
        config.merged()
    with pytest.raises(Misconfigured, match="opencode debug paths"):
        config.file()


def test_a_directory_that_is_gone_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(Misconfigured, match="opencode --version"):
        OpenCodeConfig(tmp_path / "gone").version()


def test_a_list_of_servers_without_the_hubs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stand_in(tmp_path, monkeypatch, "echo '●  ✓ other-agent-hub connected'")
    assert config.connection() == Connection(
        connected=False, text=f"no MCP server is named {SERVER}"
    )


# ----------------------------------------------------------------------------------------- the text

ADDED = (
    '  "mcp": {',
    '    "agent-hub": {',
    '      "type": "local",',
    '      "command": [',
    '        "/bin/sh",',
    '        "mcp"',
    "      ],",
    '      "enabled": true,',
    '      "timeout": 20000',
    "    }",
    "  },",
    '  "permission": {',
    '    "agent-hub_*": "allow"',
    "  }",
)

JSON = lines("{", '  "model": "fake/echo",', '  "share": "disabled"', "}")

JSONC = lines(
    "// mine",
    "{",
    '  "model": "fake/echo", // the cheap one',
    "  /* servers */",
    '  "mcp": {',
    '    "other": {"type": "remote", "url": "http://127.0.0.1:1/"}, // mine, too',
    "  },",
    '  "permission": {',
    '    "bash": "ask",',
    "  },",
    "}",
)

TEXTS = [
    pytest.param(JSON, id="json"),
    pytest.param(JSONC, id="jsonc"),
    pytest.param(JSON.replace("\n", "\r\n"), id="windows"),
    pytest.param("\ufeff" + JSON, id="byte order mark"),
    pytest.param(JSON.replace("  ", "\t"), id="tabs"),
    pytest.param(JSON.rstrip("\n"), id="no line break at the end"),
]


def test_what_is_added_is_the_server_and_the_permission() -> None:
    before, close = JSON.splitlines()[:-1], "}"
    assert with_hub(JSON, COMMAND, {}) == lines(*before[:-1], before[-1] + ",", *ADDED, close)


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_new_file_names_opencodes_schema(text: str) -> None:
    new = with_hub(text, COMMAND, {})
    assert json.loads(new) == {
        "$schema": "https://opencode.ai/config.json",
        "mcp": {SERVER: HUB},
        "permission": {PERMISSION: "allow"},
    }
    assert new.endswith("}\n")


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_there_already_is_not_added_again(text: str) -> None:
    once = with_hub(text, COMMAND, {})
    assert once != text
    assert with_hub(once, COMMAND, {}) == once


@pytest.mark.parametrize("text", TEXTS)
def test_what_was_added_is_taken_out_to_the_byte(text: str) -> None:
    assert without_hub(with_hub(text, COMMAND, {"AGENT_HUB_DIR": "/hub"})) == text


@pytest.mark.parametrize("text", [*TEXTS, "", "{}"])
def test_where_the_hub_is_not_nothing_is_taken_out(text: str) -> None:
    assert without_hub(text) == text


def test_a_word_for_all_permissions_still_means_the_same_after_the_hub_is_taken_out() -> None:
    without = without_hub(with_hub('{"permission": "ask"}', COMMAND, {}))
    assert json.loads(without) == {"permission": {"*": "ask"}}


@pytest.mark.parametrize("old", [OLD, HUB | {"enabled": False}, HUB | {"command": ["other"]}])
def test_another_entry_of_that_name_is_replaced_where_it_stands(old: dict[str, Any]) -> None:
    servers = {"first": {"type": "local", "command": ["first"]}, SERVER: old, "last": OLD}
    text = json.dumps({"mcp": servers}, indent=2)

    new = jsonc.loads(with_hub(text, COMMAND, {}))

    assert isinstance(new, dict)
    assert new["mcp"] == servers | {SERVER: HUB}
    assert list(new["mcp"]) == list(servers)


def test_the_environment_is_the_entrys_and_goes_when_it_is_no_longer_wanted() -> None:
    moved = with_hub("{}", COMMAND, {"AGENT_HUB_DIR": "/hub"})
    assert json.loads(moved)["mcp"][SERVER]["environment"] == {"AGENT_HUB_DIR": "/hub"}
    assert "environment" not in json.loads(with_hub(moved, COMMAND, {}))["mcp"][SERVER]


def test_a_word_for_all_permissions_becomes_a_rule_before_the_hubs() -> None:
    new = json.loads(with_hub('{"permission": "ask"}', COMMAND, {}))
    assert list(new["permission"].items()) == [("*", "ask"), (PERMISSION, "allow")]


@pytest.mark.parametrize(
    "rules",
    [
        {PERMISSION: "allow", "*": "deny"},
        {PERMISSION: "deny", "*": "deny"},
        {"*": "deny", PERMISSION: "ask"},
        {"*": "deny"},
    ],
)
def test_the_hubs_rule_comes_last_for_the_last_one_decides(rules: dict[str, str]) -> None:
    new = json.loads(with_hub(json.dumps({"permission": rules}), COMMAND, {}))
    assert list(new["permission"].items()) == [("*", "deny"), (PERMISSION, "allow")]


@pytest.mark.parametrize(
    "text", ["{", "[]", '"text"', '{"mcp": []}', '{"permission": 1}', '{"a": 1 "b": 2}']
)
def test_a_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"line \d, column"):
        with_hub(text, COMMAND, {})


def test_a_text_that_cannot_be_read_is_refused_when_the_hub_is_to_go_too() -> None:
    with pytest.raises(Misconfigured, match="line 1, column"):
        without_hub("{")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('"apiKey": "s3cret",', '"apiKey": "…",'),
        (r'"api_key" : "s3\"cret"', '"api_key" : "…"'),
        ('"env": {"GITHUB_TOKEN": "s3cret"}, "a": 1', '"env": {"GITHUB_TOKEN": "…"}, "a": 1'),
        ('"headers": {"Authorization": "Bearer s3cret"}', '"headers": {"Authorization": "…"}'),
        ('"clientSecret": "s3cret", "b": "c"', '"clientSecret": "…", "b": "c"'),
        ('"PASSWORD": "s3cret"', '"PASSWORD": "…"'),
        ('"apiKey":\n  "s3cret",\n"b": "c"', '"apiKey":\n  "…",\n"b": "c"'),
        ('["npx", "--api-key", "s3cret", "-y"]', '["npx", "--api-key", "…", "-y"]'),
        ('["npx", "--api-key=s3cret", "-y"]', '["npx", "--api-key=…", "-y"]'),
        ('["-H", "Authorization: Bearer s3cret"]', '["-H", "Authorization: Bearer …"]'),
        ('"url": "https://a.b/mcp?apiKey=s3cret&x=y"', '"url": "https://a.b/mcp?apiKey=…&x=y"'),
        ('"url": "https://me:s3cret@a.b/mcp"', '"url": "https://me:…@a.b/mcp"'),
        ('// "token": "s3cret"', '// "token": "…"'),
        ("// token: s3cret", "// token: …"),
        ('"a": "token", "b": "c"', '"a": "token", "b": "c"'),
        ('"maxTokens": 100, "keybinds": {"x": "y"}', '"maxTokens": 100, "keybinds": {"x": "y"}'),
    ],
)
def test_keys_and_passwords_are_not_shown(line: str, shown: str) -> None:
    assert without_secrets(line) == shown


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_key_is_shown_as_it_is(text: str) -> None:
    with_it = with_hub(text, COMMAND, {"AGENT_HUB_DIR": "/hub"})
    assert without_secrets(with_it) == with_it
