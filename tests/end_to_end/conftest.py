"""Fixtures of the stories on the real daemon and the real OpenCode."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.opencode import OpenCode


@pytest.fixture
def hub_env(opencode: OpenCode, tmp_path: Path) -> dict[str, str]:
    """The environment of a daemon with a hub directory of its own, on the shared OpenCode."""
    return opencode.env | {
        "AGENT_HUB_DIR": str(tmp_path / "hub"),
        "AGENT_HUB_COORDINATOR": "false",  # it asks every agent a question
        "AGENT_HUB_PREFLIGHT": "false",  # a second for what most stories are not about
        "OPENCODE_PORT": str(opencode.port),
    }
