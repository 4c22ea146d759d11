"""The same work on many scans, on several cores, in their order.

Scoring is many small steps of Python, of which threads do one at a time. So it is shared out to processes, forked so
that they hold the cohort's readers already; where the system has no safe fork (macOS, Windows) to threads.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, TypeVar

from crossbeat.cohort import Row
from crossbeat.errors import RunError

Result = TypeVar("Result")
Said = list[warnings.WarningMessage]

FORKS: Final = sys.platform == "linux"


def in_order(work: Callable[[Row], Result], rows: Sequence[Row], jobs: int) -> Iterator[Result]:
    """What `work` makes of every row, in `jobs` processes; results and errors are pickled on their way back.

    Warnings come out here, as if the work had been done here. A process that the system killed, mostly for memory,
    raises `RunError`.
    """
    if jobs <= 1 or len(rows) < 2:
        yield from map(work, rows)
        return
    pool = _pool(work, min(jobs, len(rows)))
    try:
        for found, said in pool.map(_heard if FORKS else lambda row: (work(row), []), rows):
            for one in said:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            yield found
    except BrokenProcessPool:
        raise RunError(
            f"one of {jobs} processes that read and score was killed, perhaps for want of memory; take fewer: --jobs 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(work: Callable[[Row], Any], jobs: int) -> Executor:
    if not FORKS:
        return ThreadPoolExecutor(jobs)
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads: these children neither wait for one nor compute with torch.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        return ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _begin, (work,))


_work: Callable[[Row], Any]
"""Of a forked process."""


def _begin(work: Callable[[Row], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's


def _heard(row: Row) -> tuple[Any, Said]:
    with warnings.catch_warnings(record=True) as said:
        return _work(row), said
