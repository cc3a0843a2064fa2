"""The settings file on a disk: where it is looked for, and what may lie there instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import evolve

from agenthub_cli.settings import Settings, read_settings
from agenthub_core import InvalidSettings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".config" / "agent-hub-daemon" / "config.json"
    path.parent.mkdir(parents=True)
    return path


def test_it_is_read_where_the_reference_has_it(config: Path) -> None:
    config.write_text(json.dumps({"opencode_port": 5000}))
    assert read_settings(environment={}).opencode_port == 5000


def test_all_of_the_references_example_is_understood(config: Path) -> None:
    example = {
        "opencode_port": 4096,
        "log_level": "INFO",
        "rate_limit": {
            "enabled": False,
            "max_messages": 10,
            "window_seconds": 300,
            "cooldown_seconds": 0,
        },
        "coordinator": {
            "enabled": True,
            "model": "opencode/claude-opus-4-5",
            "directory": "~/.agent-hub/coordinator",
            "agents_md": "",
        },
        "gc": {"message_ttl_seconds": 3600, "agent_stale_seconds": 3600, "interval_seconds": 60},
        "session": {"poll_seconds": 5, "cache_ttl": 10},
        "injection": {"workers": 4, "retries": 3, "timeout": 5},
        "metrics_interval": 30,
    }
    config.write_text(json.dumps(example))
    settings = read_settings(environment={})
    assert settings.coordinator_home == Settings().coordinator_home
    assert evolve(settings, coordinator_directory=None) == Settings()


def test_it_may_be_missing(home: Path) -> None:
    assert read_settings(environment={}).directory == home / ".agent-hub"


def test_another_may_be_named(config: Path, tmp_path: Path) -> None:
    config.write_text(json.dumps({"opencode_port": 5000}))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"opencode_port": 6000}))
    assert read_settings(environment={}, file=other).opencode_port == 6000


def test_a_directory_in_its_place_is_told_by_its_path(config: Path) -> None:
    config.mkdir()
    with pytest.raises(InvalidSettings, match=f"^{config} cannot be read: Is a directory$"):
        read_settings(environment={})


def test_a_link_to_itself_is_told_by_its_path(config: Path) -> None:
    config.symlink_to(config)
    with pytest.raises(InvalidSettings, match=f"^{config} cannot be read: "):
        read_settings(environment={})


def test_what_is_wrong_in_it_is_told_with_its_path(config: Path) -> None:
    config.write_text('{"opencode_port": 4096,}')
    with pytest.raises(InvalidSettings, match=f"^{config} is not JSON: .*line 1 column 2[34]"):
        read_settings(environment={})


def test_whose_home_is_unknown_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number without a name."""

    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(InvalidSettings, match="HOME"):
        read_settings(environment={"AGENT_HUB_DIR": "/hub"})
