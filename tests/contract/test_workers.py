"""What every `Executor` promises (`agenthub_core.hub`), shown on each of them.

An executor of your own runs this too: subclass `ExecutorContract` and override `executor`.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections import Counter

import pytest

from agenthub_adapters.workers import Workers
from agenthub_core import Executor, Inline
from testkit.waiting import PATIENCE


class ExecutorContract:
    @pytest.fixture
    def executor(self) -> Executor:
        raise NotImplementedError

    def test_each_task_is_run_exactly_once(self, executor: Executor) -> None:
        done: queue.SimpleQueue[int] = queue.SimpleQueue()

        for number in range(1000):
            executor.submit(lambda number=number: done.put(number))  # type: ignore[misc]

        seen = Counter(done.get(timeout=PATIENCE) for _ in range(1000))
        assert seen == Counter(range(1000))
        assert done.empty()

    def test_a_task_may_be_submitted_by_a_task(self, executor: Executor) -> None:
        done: queue.SimpleQueue[str] = queue.SimpleQueue()

        executor.submit(lambda: executor.submit(lambda: done.put("inner")))

        assert done.get(timeout=PATIENCE) == "inner"


class TestInline(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return Inline()

    def test_a_task_has_been_run_when_it_is_submitted(self, executor: Executor) -> None:
        threads = []
        executor.submit(lambda: threads.append(threading.current_thread()))
        assert threads == [threading.current_thread()]


class TestOneWorker(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return Workers(1, "one")

    def test_tasks_are_run_in_order(self, executor: Executor) -> None:
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(1000):
            executor.submit(lambda number=number: done.put(number))  # type: ignore[misc]
        assert [done.get(timeout=PATIENCE) for _ in range(1000)] == list(range(1000))

    def test_they_are_run_on_a_thread_that_has_its_name(self, executor: Executor) -> None:
        names: queue.SimpleQueue[str] = queue.SimpleQueue()
        executor.submit(lambda: names.put(threading.current_thread().name))
        assert names.get(timeout=PATIENCE) == "one-0"


class TestSeveralWorkers(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Executor:
        return Workers(4, "several")

    def test_as_many_tasks_as_there_are_workers_run_at_the_same_time(
        self, executor: Executor
    ) -> None:
        """Each waits for all the others: with fewer threads none would ever pass."""
        meeting = threading.Barrier(5)

        def meet() -> None:
            meeting.wait(PATIENCE)

        for _ in range(4):
            executor.submit(meet)
        meet()

    def test_but_no_more_of_them(self, executor: Executor) -> None:
        threads: queue.SimpleQueue[str] = queue.SimpleQueue()
        for _ in range(100):
            executor.submit(lambda: threads.put(threading.current_thread().name))
        names = {threads.get(timeout=PATIENCE) for _ in range(100)}
        assert names <= {f"several-{number}" for number in range(4)}

    def test_a_task_that_hangs_holds_up_no_other(self, executor: Executor) -> None:
        released = threading.Event()
        done: queue.SimpleQueue[int] = queue.SimpleQueue()

        def hang() -> None:
            released.wait(PATIENCE)

        executor.submit(hang)
        for number in range(10):
            executor.submit(lambda number=number: done.put(number))  # type: ignore[misc]

        assert {done.get(timeout=PATIENCE) for _ in range(10)} == set(range(10))
        released.set()

    def test_there_are_no_threads_before_the_first_task(self) -> None:
        before = set(threading.enumerate())
        workers = Workers(4, "lazy")
        assert set(threading.enumerate()) == before

        workers.submit(lambda: None)

        started = set(threading.enumerate()) - before
        assert {thread.name for thread in started} == {f"lazy-{number}" for number in range(4)}
        assert all(thread.daemon for thread in started)


def test_a_task_that_hangs_does_not_keep_the_process_from_ending() -> None:
    script = """
import threading
from agenthub_adapters.workers import Workers

began = threading.Event()
workers = Workers(2, "hanging")
for _ in range(3):
    workers.submit(lambda: (began.set(), threading.Event().wait()))
began.wait()
"""
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script],
        timeout=PATIENCE,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
