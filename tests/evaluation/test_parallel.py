"""Work on many scans at once: the same results, errors, warnings as one after the other."""

import os
import signal
import time
import warnings
from pathlib import Path

import pytest

from crossbeat.cohort import Row
from crossbeat.errors import CaseError, CrossbeatError, FileError, GeometryWarning, RunError
from crossbeat.evaluation import parallel
from crossbeat.evaluation.parallel import in_order

ROWS = [Row(f"p{k}", f"p{k}", "bssfp", "-") for k in range(8)]
forks = pytest.mark.skipif(not parallel.FORKS, reason="threads do the work here")


@pytest.mark.parametrize("jobs", [1, 3, 20])
def test_results_come_in_the_rows_order(jobs: int) -> None:
    def work(row: Row) -> str:
        time.sleep(0.05 if row.scan == "p0" else 0)
        return row.scan

    assert list(in_order(work, ROWS, jobs)) == [row.scan for row in ROWS]
    assert list(in_order(work, [], jobs)) == []


@forks
def test_the_work_is_shared_out_to_processes() -> None:
    found = set(in_order(lambda row: (time.sleep(0.05), os.getpid())[1], ROWS, 2))
    assert len(found) == 2
    assert os.getpid() not in found


@pytest.mark.parametrize("forked", [True, False])
def test_an_error_comes_out_as_it_was_raised(forked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "FORKS", forked and parallel.FORKS)

    def work(row: Row) -> None:
        raise CaseError(row.scan, "has no heart")

    with pytest.raises(CaseError, match=r"^scan 'p0': has no heart$") as caught:
        list(in_order(work, ROWS, 2))
    assert caught.value.case_id == "p0"


@forks
def test_warnings_come_out_here() -> None:
    def work(row: Row) -> None:
        warnings.warn(f"{row.scan}: repaired", GeometryWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        list(in_order(work, ROWS, 2))
    assert [str(one.message) for one in said] == [f"{row.scan}: repaired" for row in ROWS]


@forks
def test_what_cannot_be_sent_is_told_all_the_same(tmp_path: Path) -> None:
    """A warning that holds an open file, then an error: both come out."""

    def work(row: Row) -> None:
        file = (tmp_path / row.scan).open("w")
        warnings.warn(ResourceWarning(f"{row.scan}: unclosed"), stacklevel=1, source=file)
        raise CaseError(row.scan, "is cut off")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(CaseError, match="'p0': is cut off"):
            list(in_order(work, ROWS, 2))
    assert str(said[0].message) == "p0: unclosed"


@forks
def test_forks_beside_threads_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.12 warns of them; the test run makes errors of warnings."""
    fork = os.fork

    def warned() -> int:
        text = "This process (pid=1) is multi-threaded, use of fork() may lead to deadlocks in the child."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return fork()

    monkeypatch.setattr(os, "fork", warned)
    assert list(in_order(lambda row: row.scan, ROWS, 2)) == [row.scan for row in ROWS]


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert parallel.cores() == 1


@forks
def test_a_process_that_was_killed_is_no_endless_wait() -> None:
    with pytest.raises(RunError, match=r"was killed.*--jobs 1"):
        list(in_order(lambda row: os.kill(os.getpid(), signal.SIGKILL), ROWS, 2))


@pytest.mark.parametrize("error", [CaseError("p", "is cut off"), FileError(Path("a.nii"), "is empty")])
def test_errors_survive_the_way_between_processes(error: CrossbeatError) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
