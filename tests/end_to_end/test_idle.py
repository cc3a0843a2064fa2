"""What a hub costs that has many sessions and nothing to do."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.daemon import LONG_AGO, Daemon
from testkit.opencode import OpenCode
from testkit.outage import Door
from testkit.waiting import eventually

SESSIONS = 200
POLLS = 3
SHARE = 0.02
"""Of a core. It is measured as CPU time, which others on the machine hardly change."""

LISTING = "GET /experimental/session"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU times are read from /proc")
def test_two_hundred_idle_sessions_cost_one_request_a_poll_and_next_to_no_cpu(
    opencode: OpenCode,
    hub_env: dict[str, str],
    project: Callable[[str], Path],
    record_property: Callable[[str, object], None],
) -> None:
    directory = project("api")
    sessions = [opencode.create_session(directory)["id"] for _ in range(SESSIONS)]
    hub = Daemon(hub_env)
    known = {session: {"orientedAt": LONG_AGO} for session in sessions}
    (hub.directory / "oriented_sessions.json").write_text(json.dumps(known))
    with Door(opencode.url) as door:
        hub.env["OPENCODE_PORT"] = str(door.port)
        with hub:
            hub.wait_for("agent.registered", SESSIONS)
            # at first it looks into each, once: an earlier run may have left a turn unanswered
            eventually(lambda: looked_into(door) == SESSIONS)
            look_after(door, looks=1)

            before, spent, began = door.asked, cpu_seconds(hub.pid), time.monotonic()
            look_after(door, looks=POLLS)
            share = (cpu_seconds(hub.pid) - spent) / (time.monotonic() - began)

            assert door.asked - before == Counter({LISTING: POLLS})
            record_property("share of a core", f"{share:.2%}")
            assert share < SHARE


def looked_into(door: Door) -> int:
    return sum(path.endswith("/message") for path in door.asked.elements())


def look_after(door: Door, *, looks: int) -> None:
    """Wait until the hub has listed the sessions so many times more."""
    wanted = door.asked[LISTING] + looks
    eventually(lambda: door.asked[LISTING] >= wanted)


def cpu_seconds(pid: int) -> float:
    """What a process has used of a core so far, in user and in kernel mode; see proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
