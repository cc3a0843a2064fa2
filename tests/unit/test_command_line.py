"""The commands: what they say, what they hand on, and with which status they end.

Nothing is run behind them here; the daemon as a program is in `tests/end_to_end`.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agenthub_cli import log
from agenthub_cli.compose import Stop
from agenthub_cli.main import app
from agenthub_cli.settings import Settings
from agenthub_core import (
    AgentHubError,
    Broker,
    Hub,
    InvalidSettings,
    Misconfigured,
    Notify,
    Policy,
    RelayRefused,
    ServerError,
    Severity,
    StoreClaimed,
    StoreUnwritable,
)
from agenthub_core.protocol import Tick
from agenthub_core.testing import ManualClock, MemoryRelay, MemoryStore

VARIABLES = ("AGENT_HUB_DIR", "OPENCODE_PORT", "AGENT_HUB_DAEMON_LOG_LEVEL")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    others = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "watchdog")}
    level, handlers = root.level, root.handlers[:]
    root.handlers.clear()  # so that they are not closed by who configures logging anew
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in others.items():
        logging.getLogger(name).setLevel(before)


class Runs:
    """What the daemon was run with, and how it ends."""

    def __init__(self) -> None:
        self.settings: list[Settings] = []
        self.fresh = False
        self.error: BaseException | None = None

    def __call__(self, settings: Settings, *, fresh: bool) -> None:
        self.settings.append(settings)
        self.fresh = fresh
        if self.error is not None:
            raise self.error


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The daemon is not run, and the machine's own settings are out of reach."""
    runs = Runs()
    monkeypatch.setattr("agenthub_cli.compose.run_daemon", runs)
    monkeypatch.setattr("agenthub_cli.settings._document", lambda _: {})
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return runs


@pytest.mark.parametrize("arguments", [(), ("--fresh",)])
def test_only_who_asks_for_it_begins_anew(runs: Runs, arguments: tuple[str, ...]) -> None:
    assert agenthub("daemon", *arguments).exit_code == 0
    assert runs.fresh == bool(arguments)


def agenthub(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


# ------------------------------------------------------------------------------ saying


def test_the_version_is_the_packages() -> None:
    told = agenthub("--version")
    assert (told.exit_code, told.output) == (
        0,
        f"agenthub {importlib.metadata.version('agenthub')}\n",
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_names_the_commands_and_how_to_begin(flag: str) -> None:
    told = agenthub(flag)
    assert told.exit_code == 0
    assert "Start with: agenthub setup, then agenthub daemon" in told.output


def test_who_types_nothing_is_helped() -> None:
    assert "Start with: agenthub setup, then agenthub daemon" in agenthub().output


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_a_command_shows_examples(flag: str) -> None:
    told = agenthub("daemon", flag)
    assert told.exit_code == 0
    for example in (
        "agenthub daemon --opencode-port 5000",
        "agenthub daemon --log-level DEBUG",
        "agenthub daemon --json-logs",
    ):
        assert example in told.output


@pytest.mark.parametrize(
    "default",
    [
        "AGENT_HUB_DIR",
        "OPENCODE_PORT",
        "4096",
        "~/.agent-hub",
        "AGENT_HUB_DAEMON_LOG_LEVEL",
        "on standard error",
    ],
)
def test_the_help_tells_variables_and_defaults(default: str) -> None:
    told = agenthub("daemon", "--help").output
    assert default in " ".join(told.replace("│", " ").split())


def test_the_examples_can_be_typed_as_they_stand(runs: Runs) -> None:
    lines = [line.strip() for line in agenthub("daemon", "--help").output.splitlines()]
    examples = [line.split("  ")[0].split() for line in lines if line.startswith("agenthub ")]
    assert len(examples) >= 4
    for _, *arguments in examples:
        assert agenthub(*arguments).exit_code == 0
    assert len(runs.settings) == len(examples)


# --------------------------------------------------------------------------- handing on


def test_flags_become_settings(runs: Runs) -> None:
    done = agenthub(
        "daemon", "--directory", "/hub", "--opencode-port", "5000", "--log-level", "debug"
    )
    assert (done.exit_code, done.stdout) == (0, "")
    assert runs.settings == [
        Settings(directory=Path("/hub"), opencode_port=5000, log_level="DEBUG")
    ]


@pytest.mark.parametrize("elsewhere", [None, "/other", ""])
def test_a_directory_of_the_daemons_alone_is_warned_of(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, elsewhere: str | None
) -> None:
    if elsewhere is not None:
        monkeypatch.setenv("AGENT_HUB_DIR", elsewhere)
    done = agenthub("daemon", "--directory", "/hub")
    assert (done.exit_code, runs.settings) == (0, [Settings(directory=Path("/hub"))])
    assert "WARNING only this daemon works in /hub: " in done.stderr
    assert "AGENT_HUB_DIR" in done.stderr


@pytest.mark.parametrize(
    ("elsewhere", "directory"),
    [("/hub", "/hub"), (None, str(Settings().directory)), ("/hub", None)],
)
def test_where_all_work_in_one_directory_there_is_nothing_to_warn_of(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, elsewhere: str | None, directory: str | None
) -> None:
    if elsewhere is not None:
        monkeypatch.setenv("AGENT_HUB_DIR", elsewhere)
    done = agenthub("daemon", *(["--directory", directory] if directory else []))
    assert (done.exit_code, done.output, len(runs.settings)) == (0, "", 1)


def test_without_flags_the_environment_is_asked(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_HUB_DIR", "/hub")
    monkeypatch.setenv("OPENCODE_PORT", "5000")
    assert agenthub("daemon").exit_code == 0
    assert runs.settings == [Settings(directory=Path("/hub"), opencode_port=5000)]


@pytest.mark.parametrize(
    ("arguments", "level", "machines"),
    [
        ((), logging.INFO, False),
        (("--log-level", "ERROR"), logging.ERROR, False),
        (("--log-level", "DEBUG", "--json-logs"), logging.DEBUG, True),
    ],
)
def test_the_log_is_as_it_was_asked_for(
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    level: int,
    machines: bool,
) -> None:
    asked: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        log, "configure", lambda level, *, machines: asked.append((level, machines))
    )
    agenthub("daemon", *arguments)
    assert asked == [(level, machines)]
    assert len(runs.settings) == 1


# ------------------------------------------------------------------------------- ending


@pytest.mark.parametrize(
    "arguments", [("--opencode-port", "0"), ("--log-level", "LOUD"), ("--directory", "")]
)
def test_a_wrong_setting_is_one_line_and_status_2(runs: Runs, arguments: tuple[str, str]) -> None:
    done = agenthub("daemon", *arguments)

    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"agenthub: {arguments[0]}: found ")
    assert runs.settings == []


@pytest.mark.parametrize(
    "arguments",
    [("daemon", "--opencode-port", "many"), ("daemon", "--no-such-flag"), ("no-such-command",)],
)
def test_a_command_that_is_typed_wrongly_is_status_2_too(
    runs: Runs, arguments: tuple[str, ...]
) -> None:
    done = agenthub(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr
    assert runs.settings == []


@pytest.mark.parametrize(
    "error",
    [
        StoreClaimed("another daemon works here"),
        StoreUnwritable("no space left"),
        ServerError("no opencode on PATH"),
        RelayRefused("wrong password"),
        AgentHubError("anything else"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_is_one_line_and_status_1(runs: Runs, error: AgentHubError) -> None:
    runs.error = error
    done = agenthub("daemon")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"agenthub: {error}\n"


def test_settings_that_prove_wrong_later_are_status_2(runs: Runs) -> None:
    runs.error = InvalidSettings("the port is not yours")
    assert agenthub("daemon").exit_code == 2


def test_a_failure_is_one_line_whatever_others_have_said(runs: Runs) -> None:
    runs.error = ServerError("it said: \x1b[31mno\x1b[0m\r\nway")
    assert agenthub("daemon").stderr == r"agenthub: it said: \x1b[31mno\x1b[0m\r\nway" + "\n"


def test_what_belongs_to_a_failure_is_told_in_lines_below_it(runs: Runs) -> None:
    runs.error = Misconfigured("opencode does not know the hub", '"mcp": {', "\x1b[31m}")
    done = agenthub("daemon")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "agenthub: opencode does not know the hub",
        '"mcp": {',
        r"\x1b[31m}",
    ]


def test_a_bug_is_not_hidden(runs: Runs) -> None:
    runs.error = ZeroDivisionError()
    done = agenthub("daemon")
    assert done.exit_code == 1
    assert done.exception is runs.error


def test_a_daemon_that_was_stopped_is_status_0_and_says_nothing_more(runs: Runs) -> None:
    done = agenthub("daemon")
    assert (done.exit_code, done.output) == (0, "")
    assert len(runs.settings) == 1


class Interrupted(io.StringIO):
    """A terminal at which a signal comes just when a line is written.

    As the real one it cannot be written to in the middle of a write.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        super().__init__()
        self._interrupt = interrupt
        self._writing = False

    def write(self, text: str) -> int:
        if self._writing:
            raise RuntimeError("reentrant call")
        self._writing = True
        try:
            self._interrupt()
        finally:
            self._writing = False
        return super().write(text)


def test_a_signal_that_comes_while_a_line_is_written_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = Stop()
    stop.hub = Hub(
        broker=Broker(Policy()), store=MemoryStore(), relay=MemoryRelay(), clock=ManualClock()
    )
    terminal = Interrupted(lambda: stop(signal.SIGTERM))
    monkeypatch.setattr("sys.stderr", terminal)
    log.configure(logging.INFO, machines=False)

    logging.getLogger("agenthub").info("delivered")

    assert stop.asked()
    assert terminal.getvalue().count("\n") == 1
    stop.hub.run()  # returns at once


def test_a_signal_may_come_before_there_is_a_hub() -> None:
    stop = Stop()
    assert not stop.asked()
    stop(signal.SIGINT)
    assert stop.asked()


# ------------------------------------------------------------------------------- the log


def written(*notices: Notify, machines: bool, level: int = logging.DEBUG) -> list[str]:
    """The lines of the log for these notices."""
    stream = io.StringIO()
    log.configure(level, machines=machines, stream=stream)
    log.observe(Tick(), notices)
    return stream.getvalue().splitlines()


def notice(severity: Severity = Severity.INFO, text: str = "bob holds it", **fields: Any) -> Notify:
    return Notify(severity=severity, topic="message.delivered", text=text, fields=fields)


def test_people_read_time_level_and_text() -> None:
    (line,) = written(notice(), machines=False)
    time, level, text = line.split(maxsplit=2)
    datetime.strptime(time, "%H:%M:%S")  # noqa: DTZ007  # raises where it is no time of day
    assert (level, text) == ("INFO", "bob holds it")


def test_machines_read_an_object_a_line() -> None:
    (line,) = written(notice(key="m1", attempts=2), machines=True)
    told = json.loads(line)
    assert list(told) == ["time", "level", "topic", "text", "key", "attempts"]
    assert told | {"time": ""} == {
        "time": "",
        "level": "info",
        "topic": "message.delivered",
        "text": "bob holds it",
        "key": "m1",
        "attempts": 2,
    }
    assert datetime.fromisoformat(told["time"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize("severity", Severity)
def test_a_notice_is_as_severe_in_the_log(severity: Severity) -> None:
    (line,) = written(notice(severity), machines=True)
    assert json.loads(line)["level"] == severity.value


def test_what_matters_less_than_was_asked_for_is_not_written() -> None:
    notices = map(notice, Severity)
    lines = written(*notices, machines=True, level=logging.WARNING)
    assert [json.loads(line)["level"] for line in lines] == ["warning", "error"]


@pytest.mark.parametrize("machines", [False, True])
def test_a_notice_is_one_line_whatever_others_have_said(machines: bool) -> None:
    text = "OpenCode: \x1b[2J\nbad\r\n\u2028\u202egnirts \udce9"
    (line,) = written(notice(text=text), machines=machines)
    assert line.isprintable()


def test_people_read_any_language() -> None:
    (line,) = written(notice(text="Grüße, 你好 🐼"), machines=False)
    assert line.endswith("Grüße, 你好 🐼")


def test_other_lines_are_objects_too_with_the_logger_for_a_topic() -> None:
    stream = io.StringIO()
    log.configure(logging.INFO, machines=True, stream=stream)
    logging.getLogger("agenthub_adapters.spool").warning("%s is not used", "x.json")
    told = json.loads(stream.getvalue())
    assert told["topic"] == "agenthub_adapters.spool"
    assert told["text"] == "x.json is not used"


@pytest.mark.parametrize("machines", [False, True])
def test_a_bug_is_written_with_its_traceback(machines: bool) -> None:
    stream = io.StringIO()
    log.configure(logging.INFO, machines=machines, stream=stream)
    try:
        raise ZeroDivisionError  # noqa: TRY301  # to have one
    except ZeroDivisionError:
        logging.getLogger("agenthub").exception("a bug")
    said = json.loads(stream.getvalue())["exception"] if machines else stream.getvalue()
    assert "Traceback (most recent call last):\n" in said


@pytest.mark.parametrize("name", ["httpx", "httpcore", "watchdog"])
@pytest.mark.parametrize(
    ("level", "least"), [(logging.DEBUG, logging.WARNING), (logging.ERROR, logging.ERROR)]
)
def test_libraries_that_chatter_are_heard_when_something_is_wrong(
    name: str, level: int, least: int
) -> None:
    log.configure(level, machines=False, stream=io.StringIO())
    assert logging.getLogger(name).level == least


def test_the_log_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(logging.INFO, machines=False)
    logging.getLogger("agenthub").info("hello")
    said = capsys.readouterr()
    assert (said.out, said.err[-6:]) == ("", "hello\n")
