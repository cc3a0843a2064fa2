"""What the user can set, by which names, which source wins, and how a mistake is told.

The settings file is in memory here; what a disk can do to it is in `tests/contract`.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path, PosixPath
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenthub_cli.settings import Settings, read_settings
from agenthub_core import (
    AgentHubError,
    Backoff,
    Coordination,
    InvalidSettings,
    Orientation,
    Policy,
)

DEFAULTS = {
    "directory": Path("~/.agent-hub").expanduser(),
    "opencode_port": 4096,
    "opencode_password": "",
    "preflight": True,
    "log_level": "INFO",
    "message_ttl": timedelta(hours=1),
    "agent_stale": timedelta(hours=1),
    "session_poll": timedelta(seconds=5),
    "session_cache": timedelta(seconds=10),
    "injection_workers": 4,
    "injection_retries": 3,
    "injection_timeout": timedelta(seconds=5),
    "orientation_retries": 2,
    "orientation_delay": timedelta(seconds=60),
    "orientation_wakes": False,
    "coordinator": True,
    "coordinator_model": "opencode/claude-opus-4-5",
    "coordinator_directory": None,
    "coordinator_instructions": None,
    "price_input": 3.0,
    "price_output": 15.0,
    "price_cache_read": 0.3,
    "price_cache_write": 3.75,
    "rate_limit": False,
    "rate_limit_max": 10,
    "rate_limit_window": timedelta(seconds=300),
    "rate_limit_cooldown": timedelta(0),
    "require_verified": False,
}
"""Those of opencode-agent-hub."""

VARIABLES = {
    "directory": "AGENT_HUB_DIR",
    "opencode_port": "OPENCODE_PORT",
    "opencode_password": "OPENCODE_SERVER_PASSWORD",
    "preflight": "AGENT_HUB_PREFLIGHT",
    "log_level": "AGENT_HUB_DAEMON_LOG_LEVEL",
    "message_ttl": "AGENT_HUB_MESSAGE_TTL",
    "agent_stale": "AGENT_HUB_AGENT_STALE",
    "session_poll": "AGENT_HUB_SESSION_POLL",
    "session_cache": "AGENT_HUB_SESSION_CACHE_TTL",
    "injection_workers": "AGENT_HUB_INJECTION_WORKERS",
    "injection_retries": "AGENT_HUB_INJECTION_RETRIES",
    "injection_timeout": "AGENT_HUB_INJECTION_TIMEOUT",
    "orientation_retries": "AGENT_HUB_ORIENTATION_RETRY_MAX",
    "orientation_delay": "AGENT_HUB_ORIENTATION_RETRY_DELAY",
    "orientation_wakes": "AGENT_HUB_ORIENTATION_WAKE",
    "coordinator": "AGENT_HUB_COORDINATOR",
    "coordinator_model": "AGENT_HUB_COORDINATOR_MODEL",
    "coordinator_directory": "AGENT_HUB_COORDINATOR_DIR",
    "coordinator_instructions": "AGENT_HUB_COORDINATOR_AGENTS_MD",
    "price_input": "AGENT_HUB_PRICING_INPUT",
    "price_output": "AGENT_HUB_PRICING_OUTPUT",
    "price_cache_read": "AGENT_HUB_PRICING_CACHE_READ",
    "price_cache_write": "AGENT_HUB_PRICING_CACHE_WRITE",
    "rate_limit": "AGENT_HUB_RATE_LIMIT",
    "rate_limit_max": "AGENT_HUB_RATE_LIMIT_MAX",
    "rate_limit_window": "AGENT_HUB_RATE_LIMIT_WINDOW",
    "rate_limit_cooldown": "AGENT_HUB_RATE_LIMIT_COOLDOWN",
    "require_verified": "AGENT_HUB_REQUIRE_VERIFIED",
}

KEYS = {
    "opencode_port": "opencode_port",
    "preflight": "preflight",
    "log_level": "log_level",
    "message_ttl": "gc.message_ttl_seconds",
    "agent_stale": "gc.agent_stale_seconds",
    "session_poll": "session.poll_seconds",
    "session_cache": "session.cache_ttl",
    "injection_workers": "injection.workers",
    "injection_retries": "injection.retries",
    "injection_timeout": "injection.timeout",
    "orientation_retries": "orientation.retry_max",
    "orientation_delay": "orientation.retry_delay",
    "orientation_wakes": "orientation.wake",
    "coordinator": "coordinator.enabled",
    "coordinator_model": "coordinator.model",
    "coordinator_directory": "coordinator.directory",
    "coordinator_instructions": "coordinator.agents_md",
    "price_input": "pricing.input_per_1m",
    "price_output": "pricing.output_per_1m",
    "price_cache_read": "pricing.cache_read_per_1m",
    "price_cache_write": "pricing.cache_write_per_1m",
    "rate_limit": "rate_limit.enabled",
    "rate_limit_max": "rate_limit.max_messages",
    "rate_limit_window": "rate_limit.window_seconds",
    "rate_limit_cooldown": "rate_limit.cooldown_seconds",
    "require_verified": "identity.require_verified",
}

SWITCHES = {"preflight", "orientation_wakes", "coordinator", "rate_limit", "require_verified"}

CHOICES: dict[str, list[tuple[Any, Any]]] = {
    "directory": [("/a", Path("/a")), ("/b", Path("/b")), ("/c", Path("/c"))],
    "opencode_port": [(1, 1), (5000, 5000), (65535, 65535)],
    "opencode_password": [("a", "a"), ("b", "b"), ("c", "c")],
    "preflight": [("false", False), ("yes", True), ("0", False)],
    "log_level": [("DEBUG", "DEBUG"), ("warning", "WARNING"), ("Error", "ERROR")],
    "message_ttl": [(1, timedelta(seconds=1)), (0.5, timedelta(seconds=0.5)), (9, timedelta(0, 9))],
    "agent_stale": [(1, timedelta(seconds=1)), (2, timedelta(seconds=2)), (3, timedelta(0, 3))],
    "session_poll": [(1, timedelta(seconds=1)), (2, timedelta(seconds=2)), (3, timedelta(0, 3))],
    "session_cache": [(1, timedelta(0, 1)), (2, timedelta(0, 2)), (3, timedelta(0, 3))],
    "injection_workers": [(1, 1), (2, 2), (3, 3)],
    "injection_retries": [(0, 0), (1, 1), (2, 2)],
    "injection_timeout": [
        (1, timedelta(seconds=1)),
        (2, timedelta(seconds=2)),
        (3, timedelta(0, 3)),
    ],
    "orientation_retries": [(0, 0), (1, 1), (3, 3)],
    "orientation_delay": [(1, timedelta(0, 1)), (2, timedelta(0, 2)), (3, timedelta(0, 3))],
    "orientation_wakes": [("true", True), ("no", False), (1, True)],
    "coordinator": [("false", False), ("yes", True), (0, False)],
    "coordinator_model": [("a/b", "a/b"), ("c/d/e", "c/d/e"), ("f/g", "f/g")],
    "coordinator_directory": [("/a", Path("/a")), ("", None), ("/c", Path("/c"))],
    "coordinator_instructions": [("/a", Path("/a")), ("", None), ("/c", Path("/c"))],
    **{
        f"price_{kind}": [(0, 0.0), ("2.5", 2.5), (7, 7.0)]
        for kind in ("input", "output", "cache_read", "cache_write")
    },
    "rate_limit": [("true", True), ("no", False), (1, True)],
    "rate_limit_max": [(1, 1), (2, 2), (3, 3)],
    "rate_limit_window": [(1, timedelta(0, 1)), (2, timedelta(0, 2)), (3, timedelta(0, 3))],
    "rate_limit_cooldown": [(1, timedelta(0, 1)), (0, timedelta(0)), (3, timedelta(0, 3))],
    "require_verified": [("true", True), ("no", False), (1, True)],
}
"""For each setting three values: as they are written, and what they mean."""


class Written(PosixPath):
    """A file without a disk."""

    content: bytes | None = None

    def read_bytes(self) -> bytes:
        if self.content is None:
            raise FileNotFoundError
        return self.content


def file(document: object = None) -> Path:
    path = Written("/config.json")
    path.content = None if document is None else json.dumps(document).encode()
    return path


def under(key: str, value: object) -> dict[str, Any]:
    """A document with one value, under a dotted key."""
    document: Any = value
    for name in reversed(key.split(".")):
        document = {name: document}
    return dict(document)


def read(
    document: object = None, /, environment: dict[str, str] | None = None, **flags: object
) -> Settings:
    return read_settings(environment=environment or {}, file=file(document), **flags)


def faults(document: object = None, /, **environment: str) -> str:
    with pytest.raises(InvalidSettings) as told:
        read(document, environment)
    return str(told.value)


# ----------------------------------------------------------------------------------- sources


def test_nothing_needs_to_be_set() -> None:
    assert attrs.asdict(read()) == DEFAULTS
    assert read() == Settings()


@pytest.mark.parametrize("name", DEFAULTS)
def test_flags_win_over_the_environment_and_that_over_the_file(name: str) -> None:
    (in_file, first), (in_environment, second), (as_flag, third) = CHOICES[name]
    document = under(KEYS[name], in_file) if name in KEYS else {}
    environment = {VARIABLES[name]: str(in_environment)}

    assert getattr(read(document), name) == (first if name in KEYS else DEFAULTS[name])
    assert getattr(read(document, environment), name) == second
    assert getattr(read(document, environment, **{name: as_flag}), name) == third
    assert getattr(read(None, environment), name) == second
    assert getattr(read(None, **{name: as_flag}), name) == third


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_set_changes_nothing_else(name: str) -> None:
    value, meant = CHOICES[name][0]
    changed = read(None, {VARIABLES[name]: str(value)})
    assert attrs.asdict(changed) == DEFAULTS | {name: meant}


@pytest.mark.parametrize("name", KEYS)
def test_a_value_in_the_file_may_be_a_number_or_its_text(name: str) -> None:
    value, meant = CHOICES[name][1]
    assert getattr(read(under(KEYS[name], str(value))), name) == meant


def test_a_flag_that_is_not_given_hides_nothing() -> None:
    settings = read(
        {"opencode_port": 5000}, {"AGENT_HUB_DIR": "/a"}, opencode_port=None, directory=None
    )
    assert (settings.opencode_port, settings.directory) == (5000, Path("/a"))


def test_null_in_the_file_means_not_set() -> None:
    assert read({"opencode_port": None, "gc": None, "injection": {"workers": None}}) == Settings()


def test_a_faulty_value_does_no_harm_where_another_source_wins() -> None:
    settings = read({"opencode_port": "none"}, {"OPENCODE_PORT": "5000"})
    assert settings.opencode_port == 5000


def test_what_agenthub_does_not_know_is_somebody_elses() -> None:
    document = {"metrics_interval": 30, "coordinator": {"enabled": True}, "gc": {"interval": "?"}}
    assert read(document, {"AGENT_HUB_UNKNOWN": "x"}) == Settings()


def test_the_password_cannot_be_read_from_the_file() -> None:
    """The file is often shared; the environment is where OpenCode itself looks for it."""
    assert read({"opencode_password": "x", "opencode_server_password": "x"}) == Settings()


def test_the_hubs_directory_is_absolute() -> None:
    assert read(None, directory="~/hub").directory == Path("~/hub").expanduser()
    assert read(None, directory="hub").directory == Path.cwd() / "hub"


# ------------------------------------------------------------------------------------ faults

WRONG: list[tuple[str, str, str]] = [
    ("directory", "", "a text that is not empty"),
    ("directory", "~no-such-user/hub", "a directory"),
    ("opencode_port", "many", "a number"),
    ("opencode_port", "0", "a port, 1 to 65535"),
    ("opencode_port", "65536", "a port, 1 to 65535"),
    ("opencode_port", "40.5", "a port, 1 to 65535"),
    ("opencode_port", "nan", "a port, 1 to 65535"),
    ("opencode_port", "inf", "a port, 1 to 65535"),
    ("opencode_port", "", "a number"),
    ("preflight", "maybe", "true or false"),
    ("log_level", "LOUD", "one of DEBUG, INFO, WARNING, ERROR"),
    ("log_level", "10", "one of DEBUG, INFO, WARNING, ERROR"),
    ("message_ttl", "0", "a number of seconds above 0"),
    ("message_ttl", "-1", "a number of seconds above 0"),
    ("message_ttl", "1e-9", "a number of seconds above 0"),
    ("message_ttl", "1e12", "at most a century"),
    ("message_ttl", "nan", "a number of seconds above 0"),
    ("message_ttl", "1 h", "a number"),
    ("agent_stale", "0", "a number of seconds above 0"),
    ("session_poll", "inf", "at most a century"),
    ("injection_workers", "0", "a whole number of 1 or more"),
    ("injection_workers", "1.5", "a whole number of 1 or more"),
    ("injection_retries", "-1", "a whole number of 0 or more"),
    ("injection_retries", "nan", "a whole number of 0 or more"),
    ("injection_retries", "inf", "a whole number of 0 or more"),
    ("injection_timeout", "0", "a number of seconds above 0"),
    ("rate_limit", "5", "true or false"),
    ("rate_limit_max", "0", "a whole number of 1 or more"),
    ("rate_limit_window", "0", "a number of seconds above 0"),
    ("rate_limit_cooldown", "-1", "a number of seconds above 0"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_wrong_variable_is_named_with_what_was_found_and_expected(
    name: str, value: str, expected: str
) -> None:
    told = faults(None, **{VARIABLES[name]: value})
    assert told.startswith(f"{VARIABLES[name]}: found {value!r}, expected ")
    assert expected in told


@pytest.mark.parametrize(
    ("name", "value", "expected"), [wrong for wrong in WRONG if wrong[0] in KEYS]
)
def test_a_wrong_value_in_the_file_is_named_with_its_key_and_the_file(
    name: str, value: str, expected: str
) -> None:
    told = faults(under(KEYS[name], value))
    assert told.startswith(f"{KEYS[name]} in /config.json: found {value!r}, expected ")
    assert expected in told


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_wrong_flag_is_named_as_it_is_typed(name: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidSettings) as told:
        read_settings(environment={}, file=file(), **{name: value})
    flag = "--" + name.replace("_", "-")
    assert str(told.value).startswith(f"{flag}: found {value!r}, expected ")
    assert expected in str(told.value)


@pytest.mark.parametrize(
    "value",
    [True, [], {}, 10**400, float("inf"), float("nan"), -1],
    ids=lambda value: repr(value)[:9],
)
@pytest.mark.parametrize("name", sorted(KEYS.keys() - SWITCHES))
def test_json_may_hold_what_a_variable_cannot(name: str, value: object) -> None:
    told = faults(under(KEYS[name], value))
    assert f"{KEYS[name]} in /config.json: found {str(value)[:9]}" in told
    assert len(told) < 300


@pytest.mark.parametrize("word", [True, "TRUE", "on", 1, "1", "Yes"])
def test_a_switch_may_be_written_as_people_do(word: object) -> None:
    assert read({"preflight": word}).preflight is True


@pytest.mark.parametrize("section", ["gc", "session", "injection", "rate_limit"])
@pytest.mark.parametrize("value", [5, "60", [], False])
def test_a_section_that_is_none_is_told_once(section: str, value: object) -> None:
    told = faults({section: value})
    assert told == f"{section} in /config.json: found {value!r}, expected a JSON object"


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = faults(
        {"log_level": "LOUD", "gc": 5, "injection": {"workers": 0, "retries": -1}},
        OPENCODE_PORT="many",
        AGENT_HUB_DIR="",
    )
    assert [fault.split(":")[0] for fault in told.split("; ")] == [
        "gc in /config.json",
        "AGENT_HUB_DIR",
        "OPENCODE_PORT",
        "log_level in /config.json",
        "injection.workers in /config.json",
        "injection.retries in /config.json",
    ]


def test_a_fault_is_one_line_of_plain_characters() -> None:
    told = faults(None, OPENCODE_PORT="1\n\x1b[31m2\udce9" + "x" * 10_000)
    assert told.isprintable()
    assert told.isascii() or "…" in told
    assert len(told) < 300


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"5", b"\xff", b"{'a': 1}", b"[" * 100_000, b'{"a":1}x']
)
def test_a_file_that_is_no_json_object_is_told(content: bytes) -> None:
    path = Written("/config.json")
    path.content = content
    with pytest.raises(InvalidSettings, match=r"^/config.json( is not JSON: |: found ).+"):
        read_settings(environment={}, file=path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["workers", "x", "retries"]), inner, max_size=3)
    ),
    max_leaves=5,
)
documents = st.dictionaries(
    st.sampled_from(["opencode_port", "log_level", "gc", "session", "injection", "other"]),
    json_values
    | st.dictionaries(
        st.sampled_from([key.rpartition(".")[2] for key in KEYS.values()]), json_values
    ),
)
environments = st.dictionaries(
    st.sampled_from(list(VARIABLES.values())),
    st.text(st.characters(exclude_characters="\0")) | st.floats().map(str) | st.integers().map(str),
)


@given(documents, environments)
def test_whatever_is_set_is_obeyed_or_told(
    document: dict[str, Any], environment: dict[str, str]
) -> None:
    try:
        settings = read(document, environment)
    except InvalidSettings as told:
        assert "expected" in str(told)  # noqa: PT017  # either will do
    else:
        assert isinstance(settings.policy(), Policy)
        assert isinstance(settings.level, int)


# --------------------------------------------------------------------------- what comes of it


def test_the_broker_is_told_what_the_user_has_set() -> None:
    settings = read(
        {
            "gc": {"message_ttl_seconds": 60, "agent_stale_seconds": 120},
            "session": {"poll_seconds": 2, "cache_ttl": 4},
            "injection": {"workers": 8, "retries": 1},
            "coordinator": {"model": "fake/echo", "directory": "/coordinator"},
            "orientation": {"retry_max": 4, "retry_delay": 30, "wake": True},
            "identity": {"require_verified": True},
        }
    )
    assert settings.policy() == Policy(
        message_ttl=timedelta(seconds=60),
        agent_stale=timedelta(seconds=120),
        session_poll=timedelta(seconds=2),
        session_cache=timedelta(seconds=4),
        workers=8,
        backoff=Backoff(quick=1),
        orientation=Orientation(retries=4, delay=timedelta(seconds=30), wakes=True),
        coordination=Coordination(directory="/coordinator", model="fake/echo"),
        require_verified=True,
    )


def test_the_broker_is_told_nothing_else_than_the_defaults_of_its_own() -> None:
    assert read(None, {"AGENT_HUB_COORDINATOR": "false"}).policy() == Policy(
        orientation=Orientation()
    )


def test_the_coordinator_works_in_the_hubs_directory() -> None:
    settings = read(None, {"AGENT_HUB_DIR": "/hub"})
    assert settings.coordinator_home == Path("/hub/coordinator")


@pytest.mark.parametrize(
    ("name", "level"), [("DEBUG", 10), ("INFO", 20), ("WARNING", 30), ("ERROR", 40)]
)
def test_the_log_level_is_the_one_of_logging(name: str, level: int) -> None:
    assert read(None, log_level=name).level == level


def test_a_password_is_never_shown() -> None:
    settings = read(None, {"OPENCODE_SERVER_PASSWORD": "s3cret"})
    assert settings.opencode_password == "s3cret"  # noqa: S105
    assert "s3cret" not in f"{settings} {settings!r}"
    environment = {"OPENCODE_SERVER_PASSWORD": "s3cret", "OPENCODE_PORT": "x"}
    assert "s3cret" not in faults(None, **environment)


def test_wrong_settings_are_an_error_of_agenthub() -> None:
    assert issubclass(InvalidSettings, AgentHubError)
