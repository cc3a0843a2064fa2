"""The composition root: the one place that puts adapters behind the core's ports.

Each function loads the adapters that it wires, and no other: `agenthub status` must not wait for an
HTTP library, nor every MCP client's server hold one in memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import string
import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from agenthub_adapters.clock import SystemClock
from agenthub_adapters.spool import FileSpool
from agenthub_cli import log
from agenthub_cli.settings import CONFIG_FILE, Settings
from agenthub_core import (
    Broker,
    Clock,
    Gateway,
    Hub,
    Outcome,
    Policy,
    Query,
    RequestRefused,
    ServerError,
    StoreUnwritable,
)
from agenthub_core.model import COORDINATOR

if TYPE_CHECKING:
    from agenthub_adapters.metrics import Prices

_log = logging.getLogger("agenthub")


class Stop:
    """A handler of signals that asks the hub to stop.

    It comes in the middle of anything, of writing a log line too: so it takes no lock and says
    nothing. An error in it would be swallowed by whatever it interrupts, and the signal with it.
    """

    def __init__(self) -> None:
        self.hub: Hub | None = None
        self._asked = False

    def __call__(self, _: int, __: FrameType | None = None) -> None:
        self._asked = True
        if self.hub is not None:
            self.hub.stop()

    def asked(self) -> bool:
        return self._asked


def gateway(settings: Settings, *, acting_as: Collection[str] = ()) -> Gateway:
    """The way in for agents and people, on the spool."""
    clock = SystemClock()
    spool = FileSpool(settings.directory, clock=clock)
    spool.prepare()
    return Gateway(
        spool,
        clock=clock,
        new_id=_new_message_id,
        acting_as=acting_as,
        policy=settings.policy(),
    )


@contextlib.contextmanager
def changes(settings: Settings) -> Iterator[Callable[[float], None]]:
    """What waits, until something changes in the spool, at most so many seconds."""
    from agenthub_adapters.watcher import Watcher

    changed = threading.Event()

    def change(seconds: float) -> None:
        changed.wait(seconds)
        changed.clear()

    spool = FileSpool(settings.directory, clock=SystemClock())
    with (
        Watcher(spool.messages, lambda _: changed.set()),
        Watcher(spool.archive, lambda _: changed.set()),
    ):
        yield change


def run_mcp(settings: Settings, version: str) -> None:
    """Serve the agents' tools until the client is done. Raises `AgentHubError`."""
    from agenthub_adapters.agent_tools import AgentTools
    from agenthub_adapters.caller import Caller
    from agenthub_adapters.mcp_server import McpServer

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a read that has begun hears of nothing else
    # where no plugin says which session calls; the coordinator's is the only one there
    is_its = settings.coordinator and _works_in(settings.coordinator_home)
    acting_as = {COORDINATOR} if is_its else ()
    clock = SystemClock()
    tools = AgentTools(
        gateway(settings, acting_as=acting_as),
        clock=clock,
        claim=Caller(settings.directory / "run", os.environ, clock=clock).claim,
        pause=lambda duration: time.sleep(duration.total_seconds()),
    )
    McpServer(tools, version=version).serve()


def _works_in(directory: Path) -> bool:
    try:
        return Path.cwd() == directory.resolve()
    except FileNotFoundError:  # where the client started it is gone
        return False


def _written(spool: FileSpool, policy: Policy, clock: Clock) -> Iterator[tuple[str, datetime]]:
    """Who wrote when before this run: a restart forgives nobody."""
    if policy.rate_limit is not None:
        for record in spool.history(Query(since=clock.now() - policy.rate_limit.horizon)):
            if record.outcome is not Outcome.RATE_LIMITED:
                yield record.message.sender, record.message.timestamp


def _new_message_id() -> str:
    """24 characters of a-z and 0-9, as agent-hub-mcp has it."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(24))


_ID_ALPHABET = string.ascii_lowercase + string.digits


def open_window(settings: Settings, directory: Path, agent: str | None) -> NoReturn:
    """Become an OpenCode window on the hub's server. Raises `AgentHubError`."""
    from agenthub_adapters.opencode_server import OpenCodeServer, attach

    session_id = None
    if agent is not None:
        known = gateway(settings).agent(agent)
        if known.session_id is None:
            raise RequestRefused(f"the agent {agent} has no session to open")
        session_id, directory = known.session_id, Path(known.directory)
    server = OpenCodeServer(
        settings.opencode_port, root=settings.directory, password=settings.opencode_password or None
    ).look()
    if server is None:
        raise ServerError(
            f"no OpenCode server answers on port {settings.opencode_port}: start the hub, which "
            "has one, with `agenthub daemon`"
        )
    attach(server, directory, session_id)


def _opencodes_home() -> Path:
    """Where OpenCode keeps what was said."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "opencode"


def _instruct_coordinator(settings: Settings) -> None:
    from agenthub_adapters import instructions

    home = settings.coordinator_home
    instructions.place(
        home,
        is_hubs=settings.directory in home.parents,
        wanted=settings.coordinator_instructions,
        user_directory=CONFIG_FILE.expanduser().parent,
    )


def _prices(settings: Settings) -> Prices:
    from agenthub_adapters.metrics import Prices

    return Prices(
        input=settings.price_input,
        output=settings.price_output,
        cache_read=settings.price_cache_read,
        cache_write=settings.price_cache_write,
    )


def run_daemon(settings: Settings, *, fresh: bool = False) -> None:
    """Deliver messages until SIGTERM or SIGINT. Raises `AgentHubError` where it cannot begin.

    `fresh` forgets the sessions of earlier runs.
    """
    from agenthub_adapters.endpoints import Endpoints
    from agenthub_adapters.metrics import Metrics
    from agenthub_adapters.opencode import OpenCodeRelay
    from agenthub_adapters.opencode_events import OpenCodeDatabase, OpenCodeEvents
    from agenthub_adapters.opencode_server import OpenCodeServer
    from agenthub_adapters.supervisor import Supervisor
    from agenthub_adapters.watcher import Watcher
    from agenthub_adapters.workers import Workers
    from agenthub_cli.setup import preflight

    if settings.preflight:
        preflight(settings)  # nothing is begun yet that a signal would have to end
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    clock = SystemClock()
    spool = FileSpool(settings.directory, clock=clock)
    spool.prepare()
    server = OpenCodeServer(
        settings.opencode_port, root=settings.directory, password=settings.opencode_password or None
    )
    metrics, policy = Metrics(_prices(settings)), settings.policy()
    with spool.claim():
        if settings.coordinator:
            _instruct_coordinator(settings)
        if fresh:
            spool.begin_anew(clock.now())
        began = spool.began(clock.now())  # before OpenCode is asked for its sessions
        try:
            try:
                found = server.ensure(stop.asked)
            except ServerError:
                if not stop.asked():
                    raise
                return
            _log.info("OpenCode is at %s%s", found.url, ", started by the hub" * bool(found.pid))
            run, timeout = settings.directory / "run", settings.injection_timeout
            endpoints = Endpoints(run, clock=clock, timeout=timeout)
            relay = OpenCodeRelay(
                found.url, clock=clock, password=found.password, timeout=timeout, owners=endpoints
            )
            stop.hub = hub = Hub(
                broker=Broker(
                    policy,
                    agents=spool.agents(),
                    written=_written(spool, policy, clock),
                    began=began,
                    oriented=spool.oriented(),
                    introduced=spool.introduced(),
                    spool=str(spool.messages),
                ),
                store=spool,
                relay=relay,
                clock=clock,
                executor=Workers(settings.injection_workers, "relay"),
                writer=Workers(1, "store"),
                observers=(log.observe, metrics),
            )
            if stop.asked():
                return
            with (
                Supervisor(server, backoff=policy.backoff),
                Watcher(spool.messages, hub.hint),
                Watcher(spool.registry, lambda name: hub.look_up(Path(name).stem)),
                Watcher(run, endpoints.found),
                OpenCodeEvents(found.url, hub.look, password=found.password),
                OpenCodeDatabase(_opencodes_home(), hub.look),
                endpoints.listening(hub.look, hub.tell),
            ):
                watching = {"topic": "daemon.watching"}
                _log.info("watching %s; Ctrl-C ends it", spool.messages, extra=watching)
                hub.run()
            relay.close()
            try:
                metrics.write(settings.directory / "metrics.prom")
            except StoreUnwritable as error:
                _log.warning("%s", error)  # it has delivered all the same
        finally:
            server.stop()
    _log.info("stopped; what was not delivered waits in %s", spool.messages)
