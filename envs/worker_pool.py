"""Tasks shared out among worker processes, each of which owns an engine."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from ..errors import EngineError, WorldloopError

_PATIENCE = 10.0
"""Seconds that a worker may take to close its engine before it is killed."""

Results = Generator[tuple[int, Any], None, None]
"""(task, result) of each finished task."""


class Stopped(Exception):
    """Raised by a task that noticed it should stop."""


class Worker(Protocol):
    """What runs in a worker process. Made there, once, by the factory given to `run_tasks`."""

    def run(self, task: int, stopping: Callable[[], bool]) -> Any:
        """Do one task; raise `Stopped` soon after ``stopping()`` turns true."""

    def close(self) -> None:
        """Release everything."""


@dataclass
class _Process:
    process: SpawnProcess
    connection: Connection
    task: int | None = None


def run_tasks(factory: Callable[[], Worker], tasks: Sequence[int], workers: int) -> Results:
    """Do every task in one of ``workers`` spawned processes; yield (task, result) as they finish.

    However the iteration ends, no worker outlives it; and a worker whose parent was killed stops by itself.

    Args:
        factory: makes a `Worker`; must be picklable.
        tasks: numbers that say what to do.
        workers: how many processes.

    Raises:
        EngineError: a worker process died; the message names its task.
        WorldloopError: what a task raised.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(tasks))
    pool: list[_Process] = []
    try:
        with _interrupts_ignored():
            for _ in range(min(workers, len(tasks))):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, factory))
                process.start()
                there.close()
                pool.append(_Process(process, here))
        for member in pool:
            _assign(member, waiting)
        while busy := {member.connection: member for member in pool if member.task is not None}:
            wait([*busy, *(member.process.sentinel for member in busy.values())])
            for member in busy.values():
                if member.connection.poll() or not member.process.is_alive():
                    task, result = member.task, _receive(member)
                    _assign(member, waiting)
                    assert task is not None
                    yield task, result
    finally:
        _stop(pool)


def _assign(member: _Process, waiting: list[int]) -> None:
    member.task = waiting.pop() if waiting else None
    if member.task is not None:
        try:
            member.connection.send(member.task)
        except OSError:
            _receive(member)


def _receive(member: _Process) -> Any:
    try:
        if not member.connection.poll():
            raise EOFError
        result = member.connection.recv()
    except (EOFError, OSError) as error:
        member.process.join(_PATIENCE)
        raise EngineError(
            f"A worker process died (exit code {member.process.exitcode}) at map seed {member.task}. "
            "What was finished before is kept; run the same command again."
        ) from error
    if isinstance(result, WorldloopError):
        raise result
    return result


def _stop(pool: Sequence[_Process]) -> None:
    for member in pool:
        try:
            member.connection.send(None)
        except OSError:
            continue
    for member in pool:
        member.process.join(_PATIENCE)
        if member.process.is_alive():
            member.process.terminate()
            member.process.join(_PATIENCE)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()
        member.connection.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    # Ctrl-C reaches every process of the terminal. Workers inherit "ignore" from here on, engines included, and are
    # told by their parent when to stop; otherwise they would die in the middle of starting an engine.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _work(connection: Connection, factory: Callable[[], Worker]) -> None:
    """Body of a worker process: tasks come through ``connection``; None, or a dead parent, ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker: Worker | None = None
    try:
        while (task := connection.recv()) is not None:
            try:
                worker = worker or factory()
                # Nothing is sent to a working process but the order to stop, and a dead parent reads the same.
                connection.send(worker.run(task, connection.poll))
            except Stopped:
                return
            except Exception as error:
                connection.send(_portable(error, task))
    except (EOFError, OSError):
        return
    finally:
        if worker is not None:
            worker.close()


def _portable(error: Exception, task: int) -> WorldloopError:
    """``error`` as something that another process can raise."""
    if isinstance(error, WorldloopError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return WorldloopError(str(error))
        return error
    message = f"Map seed {task} failed: {type(error).__name__}: {error}"
    carrier = WorldloopError(message)
    carrier.add_note("".join(traceback.format_exception(error)))
    return carrier
