"""What the log of a cell says: a line a round while it trains, and why it ended where it did not finish."""

from collections.abc import Callable
from pathlib import Path

import pytest
from finished_cells import opened, problems

from crossbeat.study.engine import compute
from crossbeat.study.plan import Study
from crossbeat.study.process import last_words, problem_of
from crossbeat.training.logs import Bar


@pytest.mark.slow
def test_the_log_of_a_cell_has_a_line_a_round(
    tmp_path: Path, cohort_csv: Path, small_study: Callable[..., Study]
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    cell = study.find_cell("source_only/seed-0")
    assert problems(compute(study, [cell])) == {cell.name: ""}
    lines = study.log(cell).read_text().splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        f"segmentation: step {step} of 6" for step in (2, 4, 6)
    ]
    assert all("loss 0." in line or "loss 1." in line for line in lines)
    assert lines[-1].endswith("  done")


def test_how_far_a_cell_had_come_is_no_reason_for_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bar, log = Bar("warm-up", 0, 20, shown=True), tmp_path / "cell.log"
    bar.end_round(10, "loss 0.500")
    bar.close()
    round_told = capsys.readouterr().err
    assert round_told.startswith("warm-up: step 10 of 20  loss 0.500  ")
    log.write_text(round_told)
    assert last_words(log) == f"ended without a word; see {log}"
    assert problem_of(-9, log) == f"ended without a word; see {log} (its process ended with -9)"
    log.write_text(f"error: disk full\n{round_told}")
    assert problem_of(2, log) == "disk full"
