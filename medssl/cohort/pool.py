"""Many tasks over processes or a Dask cluster, with bounded memory and no task lost when a process dies."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from medssl.errors import ConfigError

__all__ = [
    "Done",
    "NotSentError",
    "WorkerDiedError",
    "dask_client",
    "default_workers",
    "fan_out",
    "memory_limit_bytes",
]

T = TypeVar("T")


class WorkerDiedError(Exception):
    """The process that worked on a task was killed, most often for want of memory."""


class NotSentError(Exception):
    """The arguments of a task cannot be taken to another process."""

    @classmethod
    def because(cls, error: BaseException) -> NotSentError:
        """With the reason in one sentence."""
        first = (str(error).splitlines() or [""])[0][:200]
        return cls(f"it cannot be sent to another process ({type(error).__name__}: {first}); try --workers 0")


class Done(NamedTuple):
    """A finished task: its result, or the exception it ended in."""

    task: Any
    result: Any
    error: BaseException | None


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit_bytes(share: float = 0.6) -> int:
    """A share of the memory of this machine or container."""
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if file.is_file() and (text := file.read_text().strip()).isdecimal():
            limits.append(int(text))
    return int(share * min(limits)) if limits else 4 << 30


def fan_out(
    function: Callable[..., Any],
    tasks: Iterable[T],
    *,
    arguments: Callable[[T], tuple[Any, ...]],
    cost: Callable[[T], int] = lambda _: 0,
    workers: int = 1,
    scheduler: str | None = None,
    memory_bytes: int | None = None,
) -> Iterator[Done]:
    """Run ``function(*arguments(task))`` for every task; yields each as it is done, in any order.

    Only a few tasks are under way at a time, so ``tasks`` may be an endless generator.

    Args:
        function: importable by name (it is sent to other processes).
        tasks: what to do, drawn as there is room.
        arguments: picklable arguments of a task.
        cost: bytes of memory that a task is expected to need.
        workers: processes; 0 runs everything in this one.
        scheduler: None, ``"local"`` (a Dask cluster on this machine) or the address of a Dask scheduler.
        memory_bytes: tasks under way together stay below it; one task alone always runs.
    """
    if scheduler is not None:
        with _dask(scheduler, workers) as (executor, width):
            yield from _slide(executor, function, iter(tasks), arguments, cost, 2 * width, memory_bytes)
    elif workers == 0:
        yield from _serial(function, tasks, arguments)
    else:
        yield from _processes(function, iter(tasks), arguments, cost, workers, memory_bytes)


def _serial(
    function: Callable[..., Any], tasks: Iterable[T], arguments: Callable[[T], tuple[Any, ...]]
) -> Iterator[Done]:
    for task in tasks:
        try:
            result, error = function(*arguments(task)), None
        except Exception as caught:
            result, error = None, caught
        yield Done(task, result, error)


def _processes(
    function: Callable[..., Any],
    tasks: Iterator[T],
    arguments: Callable[[T], tuple[Any, ...]],
    cost: Callable[[T], int],
    workers: int,
    memory_bytes: int | None,
) -> Iterator[Done]:
    """A pool that is built anew when one of its processes is killed; whoever was under way then runs again, alone."""
    more = True
    while more:
        suspects: list[T] = []
        with _pool(workers) as executor:
            for done in _slide(executor, function, tasks, arguments, cost, workers + 1, memory_bytes):
                if isinstance(done.error, BrokenProcessPool):
                    suspects.append(done.task)
                else:
                    yield done
        for suspect in suspects:
            with _pool(1) as executor:
                (done,) = _slide(executor, function, iter([suspect]), arguments, cost, 1, None)
            if isinstance(done.error, BrokenProcessPool):
                reason = "the process working on it was killed, most often for want of memory"
                done = Done(done.task, None, WorkerDiedError(reason))
            yield done
        more = bool(suspects)


def _slide(
    executor: Executor,
    function: Callable[..., Any],
    tasks: Iterator[T],
    arguments: Callable[[T], tuple[Any, ...]],
    cost: Callable[[T], int],
    width: int,
    memory_bytes: int | None,
) -> Iterator[Done]:
    """A window of tasks under way; it stops drawing when the pool breaks, so that the caller can build another."""
    pending: dict[Future[Any], tuple[T, int]] = {}
    held: list[T] = []
    broken = False
    while True:
        while len(pending) < width and not (broken and not held):
            task = held.pop() if held else next(tasks, None)
            if task is None:
                break
            bytes_needed = cost(task)
            under_way = sum(b for _, b in pending.values())
            if pending and memory_bytes is not None and under_way + bytes_needed > memory_bytes:
                held.append(task)
                break
            try:
                packed = pickle.dumps(arguments(task))
            except Exception as error:  # whatever an argument's own methods raise
                yield Done(task, None, NotSentError.because(error))
                continue
            try:
                pending[executor.submit(_call, function, packed)] = (task, bytes_needed)
            except BrokenProcessPool as error:
                broken = True
                yield Done(task, None, error)
        if not pending:
            return
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            task, _ = pending.pop(future)
            failure = future.exception()
            broken = broken or isinstance(failure, BrokenProcessPool)
            yield Done(task, None if failure else future.result(), failure)


def _call(function: Callable[..., Any], packed: bytes) -> Any:
    """In a worker: arguments that cannot be unpacked are an error of their task; the pool's own way kills the worker.

    They were packed by the process that started this one.
    """
    try:
        arguments = pickle.loads(packed)
    except Exception as error:  # whatever a missing class or its own methods raise
        raise NotSentError.because(error) from None
    return function(*arguments)


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    # spawn: a fork of a process with running threads (torch, tensorstore) may hang or abort
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """In a worker: leave Ctrl-C to the parent, and end at once when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


@contextmanager
def dask_client(scheduler: str, workers: int) -> Iterator[Any]:
    """A Dask client of a scheduler that runs elsewhere, or of ``workers`` one-threaded processes here.

    Args:
        scheduler: ``local``, or the address of a scheduler (``tcp://host:8786``).
        workers: processes of ``local``.

    Raises:
        ConfigError: Dask is not installed, or no scheduler answers there.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise ConfigError("--scheduler needs Dask; install it with: pip install 'medssl[cluster]'") from error
    if scheduler == "local":
        # one task a process at a time: output and thread counts belong to the whole process
        cluster = distributed.LocalCluster(max(workers, 1), threads_per_worker=1, dashboard_address=None)
        with cluster, distributed.Client(cluster) as client:
            yield client
        return
    try:
        client = distributed.Client(scheduler, timeout="20s")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at '{scheduler}' ({error}); give tcp://HOST:PORT or local"
        ) from error
    with client:
        yield client


@contextmanager
def _dask(scheduler: str, workers: int) -> Iterator[tuple[Executor, int]]:
    with dask_client(scheduler, workers) as client:
        slots = workers if scheduler == "local" else len(client.scheduler_info()["workers"])
        yield client.get_executor(pure=False), max(slots, 1)
