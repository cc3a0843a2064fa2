"""What the user can set: defaults < config file < environment < flags, read once.

Every setting is one field of `Settings`: its variable, its place in the file, and what it may be
stand beside it. All faults are told at once, each with its source.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import field, frozen

from agenthub_core import (
    Backoff,
    Coordination,
    InvalidSettings,
    Orientation,
    Policy,
    RateLimit,
)
from agenthub_core.model import shown

CONFIG_FILE = Path("~/.config/agent-hub-daemon/config.json")

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_PORTS = range(1, 65536)

_ON, _OFF = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

_RESOLUTION = timedelta.resolution.total_seconds()
_CENTURY = timedelta(days=36525).total_seconds()  # a time that is added to now must remain a time

T = TypeVar("T")


def _port(value: object) -> int:
    number = _number(value)
    if number not in _PORTS:
        raise ValueError("a port, 1 to 65535")
    return int(number)


def _count(minimum: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = _number(value)
        if number < minimum or not number.is_integer():
            raise ValueError(f"a whole number of {minimum} or more")
        return int(number)

    return parse


def _seconds(value: object) -> timedelta:
    number = _number(value)
    if not _RESOLUTION <= number <= _CENTURY:
        raise ValueError("a number of seconds above 0, at most a century")
    return timedelta(seconds=number)


def _seconds_or_none(value: object) -> timedelta:
    return timedelta(0) if _number(value) == 0 else _seconds(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a number")  # noqa: TRY004  # one kind of fault, told with the others
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("a number") from None


def _level(value: object) -> str:
    level = str(value).upper()
    if level not in LOG_LEVELS:
        raise ValueError("one of " + ", ".join(LOG_LEVELS))
    return level


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    for word in _ON, _OFF:
        if str(value).lower() in word:
            return word is _ON
    raise ValueError("true or false")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def _directory(value: object) -> Path:
    try:
        return Path(_text(value)).expanduser().absolute()
    except RuntimeError:
        raise ValueError("a directory; this ~ stands for none") from None


def _directory_or_none(value: object) -> Path | None:
    return None if value == "" else _directory(value)


def _model(value: object) -> str:
    provider, _, name = _text(value).partition("/")
    if not provider or not name:
        raise ValueError("a provider's name, a slash, and its name of the model")
    return f"{provider}/{name}"


def _price(value: object) -> float:
    number = _number(value)
    if not 0 <= number < math.inf:
        raise ValueError("a number of 0 or more")
    return number


def _setting(
    default: object, parse: Callable[[object], T], variable: str, key: str | None, text: str
) -> T:
    """`default` is written as it would stand in the file."""
    made: T = field(
        factory=lambda: parse(default),
        metadata={
            "default": default,
            "parse": parse,
            "variable": variable,
            "key": key,
            "text": text,
        },
        repr="PASSWORD" not in variable,
    )
    return made


@frozen(kw_only=True)
class Settings:
    """What agenthub was told, complete and checked."""

    directory: Path = _setting(
        "~/.agent-hub",
        _directory,
        "AGENT_HUB_DIR",
        None,
        "Where messages, agents and the archive lie",
    )
    opencode_port: int = _setting(
        4096, _port, "OPENCODE_PORT", "opencode_port", "Port of the OpenCode server"
    )
    opencode_password: str = _setting(
        "",
        str,
        "OPENCODE_SERVER_PASSWORD",
        None,
        "Password of the OpenCode server; empty where it wants none",
    )
    preflight: bool = _setting(
        "true",
        _switch,
        "AGENT_HUB_PREFLIGHT",
        "preflight",
        "Begin only if OpenCode's configuration names the hub's tools",
    )
    log_level: str = _setting(
        "INFO", _level, "AGENT_HUB_DAEMON_LOG_LEVEL", "log_level", "Least important log line"
    )
    message_ttl: timedelta = _setting(
        3600,
        _seconds,
        "AGENT_HUB_MESSAGE_TTL",
        "gc.message_ttl_seconds",
        "Seconds that a message waits for its recipient",
    )
    agent_stale: timedelta = _setting(
        3600,
        _seconds,
        "AGENT_HUB_AGENT_STALE",
        "gc.agent_stale_seconds",
        "Seconds after its last activity that an agent still counts as here",
    )
    session_poll: timedelta = _setting(
        5,
        _seconds,
        "AGENT_HUB_SESSION_POLL",
        "session.poll_seconds",
        "Seconds between two looks for new sessions",
    )
    session_cache: timedelta = _setting(
        10,
        _seconds,
        "AGENT_HUB_SESSION_CACHE_TTL",
        "session.cache_ttl",
        "Seconds for which a look for sessions holds when a recipient is missing; of use where "
        "AGENT_HUB_SESSION_POLL is longer",
    )
    injection_workers: int = _setting(
        4,
        _count(1),
        "AGENT_HUB_INJECTION_WORKERS",
        "injection.workers",
        "Sessions that are given a message at the same time",
    )
    injection_retries: int = _setting(
        3,
        _count(0),
        "AGENT_HUB_INJECTION_RETRIES",
        "injection.retries",
        "Quick retries before a message waits for better times",
    )
    injection_timeout: timedelta = _setting(
        5,
        _seconds,
        "AGENT_HUB_INJECTION_TIMEOUT",
        "injection.timeout",
        "Seconds that OpenCode may take to answer",
    )

    orientation_retries: int = _setting(
        2,
        _count(0),
        "AGENT_HUB_ORIENTATION_RETRY_MAX",
        "orientation.retry_max",
        "Further tries to tell a new session who it is",
    )
    orientation_delay: timedelta = _setting(
        60,
        _seconds,
        "AGENT_HUB_ORIENTATION_RETRY_DELAY",
        "orientation.retry_delay",
        "Seconds before each of them",
    )
    orientation_wakes: bool = _setting(
        "false",
        _switch,
        "AGENT_HUB_ORIENTATION_WAKE",
        "orientation.wake",
        "Let the model answer it, which costs a turn in every session",
    )

    coordinator: bool = _setting(
        "true",
        _switch,
        "AGENT_HUB_COORDINATOR",
        "coordinator.enabled",
        "Have a coordinator, which introduces the agents to one another",
    )
    coordinator_model: str = _setting(
        "opencode/claude-opus-4-5",
        _model,
        "AGENT_HUB_COORDINATOR_MODEL",
        "coordinator.model",
        "Its model, one of those that `opencode models` lists",
    )
    coordinator_directory: Path | None = _setting(
        "",
        _directory_or_none,
        "AGENT_HUB_COORDINATOR_DIR",
        "coordinator.directory",
        "Where it works; if empty, in `coordinator` in AGENT_HUB_DIR",
    )
    coordinator_instructions: Path | None = _setting(
        "",
        _directory_or_none,
        "AGENT_HUB_COORDINATOR_AGENTS_MD",
        "coordinator.agents_md",
        "File with its instructions; if empty, AGENTS.md beside the config file, if there is one",
    )
    price_input: float = _setting(
        3.0,
        _price,
        "AGENT_HUB_PRICING_INPUT",
        "pricing.input_per_1m",
        "US dollars for a million tokens that it reads, where OpenCode knows no price",
    )
    price_output: float = _setting(
        15.0, _price, "AGENT_HUB_PRICING_OUTPUT", "pricing.output_per_1m", "The same that it writes"
    )
    price_cache_read: float = _setting(
        0.3,
        _price,
        "AGENT_HUB_PRICING_CACHE_READ",
        "pricing.cache_read_per_1m",
        "The same that it reads from its provider's cache",
    )
    price_cache_write: float = _setting(
        3.75,
        _price,
        "AGENT_HUB_PRICING_CACHE_WRITE",
        "pricing.cache_write_per_1m",
        "The same that it writes into it",
    )

    rate_limit: bool = _setting(
        "false",
        _switch,
        "AGENT_HUB_RATE_LIMIT",
        "rate_limit.enabled",
        "Limit how often an agent may write",
    )
    rate_limit_max: int = _setting(
        10,
        _count(1),
        "AGENT_HUB_RATE_LIMIT_MAX",
        "rate_limit.max_messages",
        "Messages that it may write within the window",
    )
    rate_limit_window: timedelta = _setting(
        300,
        _seconds,
        "AGENT_HUB_RATE_LIMIT_WINDOW",
        "rate_limit.window_seconds",
        "Seconds of that window",
    )
    rate_limit_cooldown: timedelta = _setting(
        0,
        _seconds_or_none,
        "AGENT_HUB_RATE_LIMIT_COOLDOWN",
        "rate_limit.cooldown_seconds",
        "Seconds between two of its messages",
    )

    require_verified: bool = _setting(
        "false",
        _switch,
        "AGENT_HUB_REQUIRE_VERIFIED",
        "identity.require_verified",
        "Deliver only messages whose sender the hub knows",
    )

    def policy(self) -> Policy:
        """The part of it that the broker obeys."""
        return Policy(
            message_ttl=self.message_ttl,
            agent_stale=self.agent_stale,
            session_poll=self.session_poll,
            session_cache=self.session_cache,
            workers=self.injection_workers,
            backoff=Backoff(quick=self.injection_retries),
            orientation=Orientation(
                retries=self.orientation_retries,
                delay=self.orientation_delay,
                wakes=self.orientation_wakes,
            ),
            coordination=Coordination(
                directory=str(self.coordinator_home), model=self.coordinator_model
            )
            if self.coordinator
            else None,
            rate_limit=RateLimit(
                maximum=self.rate_limit_max,
                window=self.rate_limit_window,
                cooldown=self.rate_limit_cooldown,
            )
            if self.rate_limit
            else None,
            require_verified=self.require_verified,
        )

    @property
    def coordinator_home(self) -> Path:
        """Where the coordinator works."""
        return self.coordinator_directory or self.directory / "coordinator"

    @property
    def level(self) -> int:
        """The log level as `logging` has it."""
        return logging.getLevelNamesMapping()[self.log_level]


def read_settings(
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    **flags: object,
) -> Settings:
    """The settings, from all their sources. Flags that are None were not given.

    Raises `InvalidSettings`, which names every fault.
    """
    environment = os.environ if environment is None else environment
    path = _config_file() if file is None else file
    document = _document(path)
    chosen: dict[str, Any] = {}
    faults = [
        f"{section} in {path}: found {shown(value)}, expected a JSON object"
        for section, value in _faulty_sections(document).items()
    ]
    for setting in attrs.fields(Settings):
        meta = setting.metadata
        flag = flags.get(setting.name)
        if flag is not None:
            source, value = "--" + setting.name.replace("_", "-"), flag
        elif meta["variable"] in environment:
            source, value = meta["variable"], environment[meta["variable"]]
        elif meta["key"] is not None and (found := _look_up(document, meta["key"])) is not None:
            source, value = f"{meta['key']} in {path}", found
        else:
            continue
        try:
            chosen[setting.name] = meta["parse"](value)
        except ValueError as error:
            faults.append(f"{source}: found {shown(value)}, expected {error}")
    if faults:
        raise InvalidSettings("; ".join(faults))
    return Settings(**chosen)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidSettings(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSettings(f"{path}: found {shown(document)}, expected a JSON object")
    return document


def _config_file() -> Path:
    try:
        return CONFIG_FILE.expanduser()
    except RuntimeError as error:
        raise InvalidSettings("HOME: found nothing, expected your home directory") from error


def _faulty_sections(document: dict[str, Any]) -> dict[str, object]:
    """What stands where settings are grouped, and is no group."""
    keys = [setting.metadata["key"] or "" for setting in attrs.fields(Settings)]
    sections = dict.fromkeys(key.partition(".")[0] for key in keys if "." in key)
    found = {name: document.get(name) for name in sections}
    return {name: value for name, value in found.items() if not isinstance(value, dict | None)}


def _look_up(document: dict[str, Any], key: str) -> object:
    value: object = document
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
