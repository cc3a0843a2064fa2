"""The composition root: the one place that names every adapter."""

from __future__ import annotations

import logging
import signal
import threading
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
from agenthub_core import Broker, Hub

_log = logging.getLogger("agenthub")


def run_daemon(settings: Settings) -> None:
    """Deliver messages until SIGTERM or SIGINT. Raises `AgentHubError` where it cannot begin."""
    stopped = threading.Event()
    hub: Hub | None = None

    def stop(number: int, _: FrameType | None) -> None:
        _log.info("%s: stopping", signal.Signals(number).name)
        stopped.set()
        if hub is not None:
            hub.stop()

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
            found = server.ensure(stopped.is_set)
            _log.info("OpenCode is at %s%s", found.url, ", started by the hub" * bool(found.pid))
            relay = OpenCodeRelay(
                found.url,
                clock=clock,
                password=found.password,
                timeout=settings.injection_timeout,
            )
            hub = Hub(
                broker=Broker(settings.policy(), agents=spool.agents(), spool=str(spool.messages)),
                store=spool,
                relay=relay,
                clock=clock,
                executor=Workers(settings.injection_workers, "relay"),
                writer=Workers(1, "store"),
                observers=(log.observe, metrics),
            )
            if stopped.is_set():
                return
            with Watcher(spool.messages, hub.hint):
                watching = {"topic": "daemon.watching"}
                _log.info("watching %s; Ctrl-C ends it", spool.messages, extra=watching)
                hub.run()
            relay.close()
            metrics.write(settings.directory / "metrics.prom")
        finally:
            server.stop()
    _log.info("stopped; what was not delivered waits in %s", spool.messages)
