"""Puts the plugin into OpenCode's configuration, with what its first start would wait for.

What the plugin does is in `plugin/agenthub.js`, and what it says to the hub in docs/endpoint.md.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SOURCE = Path(__file__).with_name("plugin") / "agenthub.js"


def install(directory: Path) -> None:
    """Put it into one configuration directory of OpenCode's."""
    for copy in (directory / "plugin" / "agenthub.js", directory / "agenthub" / "window.js"):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE, copy)
    (directory / "tui.json").write_text(json.dumps({"plugin": ["./agenthub/window.js"]}))
    if not (directory / "node_modules").exists():
        (directory / "node_modules").mkdir()
        lock = {
            "name": "opencode",
            "lockfileVersion": 3,
            "packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}},
        }
        (directory / "package-lock.json").write_text(json.dumps(lock))
