"""Measures the real daemon, on real files, against a stand-in for OpenCode that answers at once.

Prints each figure beside what we aim at. It judges nothing: these machines are noisy, so a figure
is read beside others of the same run. Three processes share the machine: the daemon, the stand-in,
and this one, which writes the messages. All of it is bounded, and gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SESSIONS = 20
SINGLES = 300
BURST = 2_000
ARCHIVED = 100_000
IDLE_SECONDS = 20
PATIENCE = 30  # seconds after which something hangs; a burst takes 5

_DAEMON = [sys.executable, "-m", "agenthub_cli", "daemon"]
_TICKS = os.sysconf("SC_CLK_TCK")


class Bench:
    """A daemon, its stand-in, and the arrivals that the stand-in reports."""

    def __init__(self, root: Path) -> None:
        self.messages = root / "messages"
        self.archive = self.messages / "archive"
        self._arrivals: dict[str, int] = {}
        self._changed = threading.Condition()
        port = _free_port()
        command = [sys.executable, "-m", "bench.stand_in", str(port), str(SESSIONS)]
        self._stand_in = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._stand_in.stdout is not None
        assert self._stand_in.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._daemon = subprocess.Popen(
            [*_DAEMON, "--log-level", "WARNING", "--no-preflight"],
            env=os.environ
            | {
                "AGENT_HUB_DIR": str(root),
                "AGENT_HUB_COORDINATOR": "false",
                "OPENCODE_PORT": str(port),
                "XDG_DATA_HOME": str(root),  # not where your own OpenCode is at work meanwhile
            },
        )
        self.write(0)
        self.await_arrivals(1)

    def close(self) -> None:
        for process in (self._daemon, self._stand_in):
            process.send_signal(signal.SIGTERM)
            process.wait(10)
        self._reader.join(10)
        assert self._stand_in.stdout is not None
        self._stand_in.stdout.close()

    def _read(self) -> None:
        assert self._stand_in.stdout is not None
        for line in self._stand_in.stdout:
            arrived, mark = line.split()
            with self._changed:
                self._arrivals[mark] = int(arrived)
                self._changed.notify_all()

    def write(self, number: int) -> int:
        """Write a message as agents do, in place; the nanosecond when it was complete."""
        message = {
            "from": "writer",
            "to": f"agent-{number % SESSIONS:04}",
            "type": "context",
            "content": f"bench-{number} " + "lorem ipsum " * 20,
        }
        (self.messages / f"bench-{number}.json").write_text(json.dumps(message))
        return time.monotonic_ns()

    def await_arrivals(self, count: int) -> dict[str, int]:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._arrivals) >= count, PATIENCE):
                raise TimeoutError(f"{len(self._arrivals)} of {count} messages arrived")
            return dict(self._arrivals)

    def await_settled(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while any(self.messages.glob("*.json")):
            if self._daemon.poll() is not None:
                raise RuntimeError(f"the daemon has ended with status {self._daemon.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError("messages are left in the spool")
            time.sleep(0.005)

    def forget(self) -> None:
        with self._changed:
            self._arrivals.clear()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_megabytes(self) -> float:
        status = Path(f"/proc/{self._daemon.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _bench(archived: int) -> Iterator[Bench]:
    root = Path(tempfile.mkdtemp(prefix="agenthub-bench-"))
    try:
        archive = root / "messages" / "archive"
        archive.mkdir(parents=True)
        for number in range(archived):
            (archive / f"old-{number}.json").write_text("{}")
        bench = Bench(root)
        try:
            bench.await_settled()
            bench.forget()
            yield bench
        finally:
            bench.close()
    finally:
        shutil.rmtree(root)


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _latency(bench: Bench) -> tuple[float, float]:
    """Milliseconds from a file's last byte to the relay's request: median and 99th percentile."""
    written = {}
    for number in range(SINGLES):
        written[f"bench-{number}"] = bench.write(number)
        bench.await_arrivals(number + 1)
        bench.await_settled()
    arrivals = bench.await_arrivals(SINGLES)
    bench.forget()
    times = [(arrivals[mark] - start) / 1e6 for mark, start in written.items()]
    return _percentile(times, 0.5), _percentile(times, 0.99)


def _throughput(bench: Bench) -> tuple[float, float]:
    """Messages a second, from the first one written to the last one archived; and what one of them
    costs the daemon, in milliseconds of a core, which a busy machine changes less."""
    started, spent = time.monotonic(), bench.cpu_seconds()
    for number in range(BURST):
        bench.write(number)
    bench.await_arrivals(BURST)
    bench.await_settled()
    bench.forget()
    rate = BURST / (time.monotonic() - started)
    return rate, (bench.cpu_seconds() - spent) / BURST * 1000


def _idle(bench: Bench) -> tuple[float, float]:
    """Per cent of a core, and megabytes."""
    before = bench.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    share = (bench.cpu_seconds() - before) / IDLE_SECONDS * 100
    return share, bench.memory_megabytes()


def _report(what: str, figure: str, aim: str) -> None:
    print(f"  {what:<46}{figure:>14}   {aim}", flush=True)


def main() -> None:
    print("The daemon against a stand-in that answers at once; figures, and what we aim at:\n")
    for archived in (0, ARCHIVED):
        print(f"with {archived:,} settled messages in the archive", flush=True)
        with _bench(archived) as bench:
            median, high = _latency(bench)
            _report("last byte to the relay's request, p50", f"{median:.2f} ms", "3 ms")
            _report("                                  p99", f"{high:.2f} ms", "20 ms")
            rate, cost = _throughput(bench)
            _report(f"a burst of {BURST:,} messages", f"{rate:.0f} /s", "400 /s")
            _report("one of its messages, of a core", f"{cost:.2f} ms", "2.5 ms")
            share, memory = _idle(bench)
            _report("idle, of a core", f"{share:.2f} %", "0.5 %")
            _report("idle, resident", f"{memory:.0f} MB", "60 MB")


if __name__ == "__main__":
    main()
