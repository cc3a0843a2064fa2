"""The composition root: the one place that names every adapter."""

from __future__ import annotations

import logging
import signal
from types import FrameType

from agenthub_adapters.clock import SystemClock
from agenthub_adapters.metrics import Metrics
from agenthub_adapters.opencode import OpenCodeRelay
from agenthub_adapters.opencode_server import OpenCodeServer
from agenthub_adapters.spool import FileSpool
from agenthub_adapters.watcher import Watcher
from agenthub_adapters.workers import Workers
from agenthub_cli import log
from agenthub_cli.settings import Settings
from agenthub_core import Broker, Hub, ServerError, StoreUnwritable

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


def run_daemon(settings: Settings) -> None:
    """Deliver messages until SIGTERM or SIGINT. Raises `AgentHubError` where it cannot begin."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    clock = SystemClock()
    spool = FileSpool(settings.directory, clock=clock)
    spool.prepare()
    server = OpenCodeServer(
        settings.opencode_port, root=settings.directory, password=settings.opencode_password or None
    )
    metrics = Metrics()
    with spool.claim():
        try:
            try:
                found = server.ensure(stop.asked)
            except ServerError:
                if not stop.asked():
                    raise
                return
            _log.info("OpenCode is at %s%s", found.url, ", started by the hub" * bool(found.pid))
            relay = OpenCodeRelay(
                found.url,
                clock=clock,
                password=found.password,
                timeout=settings.injection_timeout,
            )
            stop.hub = hub = Hub(
                broker=Broker(settings.policy(), agents=spool.agents(), spool=str(spool.messages)),
                store=spool,
                relay=relay,
                clock=clock,
                executor=Workers(settings.injection_workers, "relay"),
                writer=Workers(1, "store"),
                observers=(log.observe, metrics),
            )
            if stop.asked():
                return
            with Watcher(spool.messages, hub.hint):
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
