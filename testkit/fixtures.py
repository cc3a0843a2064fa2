"""The kit as pytest fixtures: `pytest_plugins = ["testkit.fixtures"]`.

Starting OpenCode costs 1.5 s and 300 MB, so the tests of one file share a server (and its model,
which each test finds empty), but no project and thus no session. A test that needs an OpenCode of
its own, with a password or settings, builds one from `opencode_binary` and `scripted_model.url`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from testkit.opencode import OpenCode, find_opencode, make_project
from testkit.scripted_model import ScriptedModel
from testkit.window import Window


def _missing(what: str) -> NoReturn:
    """On a laptop a test may be left out; in CI that would be a test nobody runs."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not leave its tests out")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def opencode_binary() -> Path:
    binary = find_opencode()
    if binary is None:
        _missing("opencode")
    return binary


@pytest.fixture(scope="module")
def _shared_model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture(scope="module")
def _shared_opencode(
    opencode_binary: Path, _shared_model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenCode]:
    home = tmp_path_factory.mktemp("home")
    with OpenCode(opencode_binary, home, _shared_model.url) as opencode:
        yield opencode


@pytest.fixture(scope="module")
def short_home() -> Iterator[Path]:
    """A HOME whose endpoints can listen: a socket's path may have no more than 103 bytes, which a
    test's own directory exceeds.
    """
    with tempfile.TemporaryDirectory(prefix="home-") as home:
        yield Path(home).resolve()


@pytest.fixture
def scripted_model(_shared_model: ScriptedModel) -> Iterator[ScriptedModel]:
    """The model of `opencode`, without rules: it answers "ok" until the test adds some."""
    yield _shared_model
    _shared_model.reset()


@pytest.fixture
def opencode(_shared_opencode: OpenCode, scripted_model: ScriptedModel) -> OpenCode:
    """A running server, shared by the tests of this file; a test may kill it."""
    del scripted_model  # requested so that what this test leaves behind is cleared away
    if not _shared_opencode.running:
        _shared_opencode.start()
    return _shared_opencode


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """Create a project of this name: `api = project("api")`."""
    return lambda name: make_project(tmp_path / name)


@pytest.fixture
def tmux() -> None:
    """There is a tmux, for windows."""
    if shutil.which("tmux") is None:
        _missing("tmux")


@pytest.fixture
def open_window(opencode: OpenCode, tmux: None) -> Iterator[Callable[..., Window]]:
    """Open a window in a directory, with arguments of `Window`; it closes with the test."""
    del tmux
    with contextlib.ExitStack() as stack:
        yield lambda directory, *arguments, **options: stack.enter_context(
            Window(opencode, directory, *arguments, **options)
        )
