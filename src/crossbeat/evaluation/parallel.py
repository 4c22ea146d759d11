"""The same work on many scans, on several cores, in their order.

Scoring is many small steps of Python, of which threads do one at a time. So it is shared out to processes, forked so
that they hold the cohort's readers already; where the system has no safe fork (macOS, Windows) to threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from crossbeat.cohort import Row
from crossbeat.errors import RunError

Result = TypeVar("Result")

FORKS: Final = sys.platform == "linux"


@dataclass(frozen=True)
class _Answer:
    """What came of a row in another process: its result or error, and the warnings on the way."""

    result: Any
    error: Exception | None = None
    said: tuple[tuple[str, type[Warning], str, int], ...] = ()
    """Text, kind, file and line: a warning as it is may hold what cannot be sent."""


def cores() -> int:
    """Cores that this process may use, which a cluster or a container may have fewer of than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def in_order(work: Callable[[Row], Result], rows: Sequence[Row], jobs: int) -> Iterator[Result]:
    """What `work` makes of every row, in `jobs` processes; results are pickled on their way back.

    Errors and warnings come out here, as if the work had been done here. A process that the system killed, mostly for
    memory, raises `RunError`.
    """
    if jobs <= 1 or len(rows) < 2:
        yield from map(work, rows)
        return
    pool = _pool(work, min(jobs, len(rows)))
    once: dict[Any, Any] = {}
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads: these children neither wait for one nor compute with torch.
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            answers = pool.map(_answer if FORKS else lambda row: _Answer(work(row)), rows)
        for answer in answers:
            for text, kind, file, line in answer.said:
                warnings.warn_explicit(text, kind, file, line, registry=once)
            if answer.error is not None:
                raise answer.error
            yield answer.result
    except BrokenProcessPool:
        raise RunError(
            f"one of {jobs} processes that read and score was killed, perhaps for want of memory; take fewer: --jobs 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(work: Callable[[Row], Any], jobs: int) -> Executor:
    if not FORKS:
        return ThreadPoolExecutor(jobs)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _begin, (work,))


_work: Callable[[Row], Any]
"""Of a forked process."""


def _begin(work: Callable[[Row], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's


def _answer(row: Row) -> _Answer:
    result, error = None, None
    with warnings.catch_warnings(record=True) as heard:
        try:
            result = _work(row)
        except Exception as caught:  # raised again where it is heard
            error = caught
    said = tuple((str(one.message), one.category, one.filename, one.lineno) for one in heard)
    return _Answer(result, error, said)
