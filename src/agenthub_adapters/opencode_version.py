"""What an OpenCode cannot do for the hub, told by its version.

By the version, since nothing else tells: an unknown path is answered with a page of the web UI, and
the list of paths at `/doc` says neither what they do (up to 1.15.3 a prompt to the same path worked
in the server's own directory) nor all that there are (1.14.34 names two). Of a version that lies
between those that were looked at, of a build without one, and of later ones nothing is known: what
they lack the relay finds out.
"""

from __future__ import annotations

import re

UPGRADE = "opencode upgrade"
"""The command that brings a newer one, however it was installed."""

_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")

_LACKS = (
    ((1, 2, 6), "list the sessions of all projects"),  # 1.2.11 can
    ((1, 3, 2), "tell a session's own agent and model"),  # 1.14.34 can
    ((1, 15, 3), "work in a session's own directory"),  # 1.15.13 can
)
"""The latest version that was seen to lack it."""


def lack(version: str) -> str | None:
    """What the hub needs and this OpenCode cannot do, as it follows "it cannot", if anything."""
    release = _RELEASE.fullmatch(version)
    if release is None:
        return None
    numbers = tuple(map(int, release.groups()))
    return next((lacking for latest, lacking in _LACKS if numbers <= latest), None)
