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
def test_a_process_that_was_killed_is_no_endless_wait() -> None:
    with pytest.raises(RunError, match=r"was killed.*--jobs 1"):
        list(in_order(lambda row: os.kill(os.getpid(), signal.SIGKILL), ROWS, 2))


@pytest.mark.parametrize("error", [CaseError("p", "is cut off"), FileError(Path("a.nii"), "is empty")])
def test_errors_survive_the_way_between_processes(error: CrossbeatError) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
