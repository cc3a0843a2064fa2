"""What the core is made of: all that it offers can be had, and it touches nothing of the world."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources

import pytest

import agenthub_core

FORBIDDEN = {
    "asyncio",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}
ALLOWED = {
    "testing.py": {"threading"},  # a lock: a port may be called from any thread, so its fake too
}
CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}
IO = {"open", "print", "input", "exec", "eval", "__import__"}

MODULES = {
    source.name: ast.parse(source.read_text(encoding="utf-8"))
    for source in resources.files(agenthub_core).iterdir()
    if source.name.endswith(".py")
}


def imported(tree: ast.Module) -> Iterator[str]:
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed here"
            yield str(node.module).partition(".")[0]


def clock_readings(tree: ast.Module) -> Iterator[str]:
    """Calls of a clock that is no port: `datetime.now()`, `date.today()`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            clock = ast.unparse(node.func)
            if node.func.attr in CLOCKS and clock != "self._clock.now":
                yield clock


def io_calls(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IO:
            yield node.func.id


@pytest.mark.parametrize("name", agenthub_core.__all__)
def test_everything_that_is_offered_can_be_had(name: str) -> None:
    assert getattr(agenthub_core, name) is not None


def test_what_is_offered_is_named_once() -> None:
    assert len(set(agenthub_core.__all__)) == len(agenthub_core.__all__)


def test_all_modules_are_looked_at() -> None:
    assert {"__init__.py", "broker.py", "hub.py", "testing.py"} <= MODULES.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_core_imports_nothing_that_touches_the_world(name: str) -> None:
    found = set(imported(MODULES[name])) & FORBIDDEN
    assert found == ALLOWED.get(name, set())


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_core_reads_no_clock_but_the_port(name: str) -> None:
    assert list(clock_readings(MODULES[name])) == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_core_opens_and_prints_nothing(name: str) -> None:
    assert list(io_calls(MODULES[name])) == []


@pytest.mark.parametrize(
    "source",
    ["datetime.now(UTC)", "datetime.datetime.utcnow()", "date.today()", "self._now.today()"],
)
def test_a_reading_of_a_clock_would_be_found(source: str) -> None:
    assert list(clock_readings(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["import time", "import os.path as p", "def f():\n from time import sleep"]
)
def test_a_forbidden_import_would_be_found(source: str) -> None:
    assert set(imported(ast.parse(source))) & FORBIDDEN
