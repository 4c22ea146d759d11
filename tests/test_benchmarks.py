"""What benchmarks share: ratios point the right way, sides take turns. How quick anything is, no test says."""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sides as module

    found: ModuleType = module
    return found


@pytest.mark.parametrize(
    ("unit", "ratio"), [("im/s", 2.0), ("scan/s", 2.0), ("s", 0.5), ("ms", 0.5), ("MB", 0.5)]
)
def test_a_ratio_above_one_is_in_our_favour(sides: ModuleType, unit: str, ratio: float) -> None:
    line = sides.Line("this", "that", unit, 10.0, 5.0, aim=1.0)
    assert line.ratio == ratio
    assert line.verdict == f"≥ 1: {'reached' if ratio >= 1 else 'missed'}"
    assert sides.Line("this", "that", unit, 10.0, 5.0).verdict == ""


def test_sides_take_turns_and_the_first_ones_do_not_count(sides: ModuleType) -> None:
    turns: list[str] = []
    found = sides.take_turns(lambda k: turns.append(f"a{k}"), lambda k: turns.append(f"b{k}"), 3, warm=1)
    assert turns == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]
    assert len(found.ours) == len(found.theirs) == 3


def test_turns_tell_medians_and_the_median_and_quartiles_of_their_ratio(sides: ModuleType) -> None:
    """Ours 1, 2 and 5 s, theirs 2, 8 and 5 s: medians 2 and 5, ratios by turn 2, 4 and 1, quartiles 1.5 and 3."""
    turns = sides.Turns([1.0, 2.0, 5.0], [2.0, 8.0, 5.0])
    rate = turns.line("this", "that", "im/s", 10, 2.0)
    assert (rate.ours, rate.theirs, rate.ratio, rate.spread) == (5.0, 2.0, 2.0, (1.5, 3.0))
    assert rate.verdict == "≥ 2: reached", "of the ratio over turns, where that of the medians is 2.5"
    time = turns.line("this", "that", "ms", 1000)
    assert (time.ours, time.theirs, time.ratio, time.spread) == (2000.0, 5000.0, 2.0, (1.5, 3.0))
    assert sides.Turns([1.0], [2.0]).line("this", "that", "s", 1).spread is None


def test_what_was_measured_is_written_and_read_back_as_a_table(
    sides: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(device="cpu", threads=2, json=tmp_path / "found.json")
    sides.tell("A title", [sides.Line("this", "that", "im/s", 123.4, 61.7, 1.5, (1.8, 2.0, 2.2))], options)
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["lines"][0]["ratio"] == 2.0
    assert record["lines"][0]["turns"] == [1.8, 2.0, 2.2]
    assert record["lines"][0]["spread"] == [1.9, 2.1]
    assert record["lines"][0]["verdict"] == "≥ 1.5: reached"
    told = capsys.readouterr().out
    assert "A title" in told
    assert "this, against that" in told
    assert "2.00  1.90 to 2.10  ≥ 1.5: reached" in told


def test_a_benchmark_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), "trainig"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no benchmark trainig; there are augmentation, pages" in done.stderr
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - {"run", "sides", "hearts"}
    assert all(f" {script}" in done.stderr for script in scripts), "run.py runs every benchmark"


def test_a_command_is_measured_without_the_memory_of_who_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 MB in the command, 300 MB here."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import growth

    here = bytearray(300 * 2**20)
    seconds, memory = growth.measured([sys.executable, "-c", "b = bytearray(b'1' * 50 * 2**20)"], Path.cwd())
    assert len(here) > 0
    assert seconds > 0
    assert 50 < memory < 200
    with pytest.raises(SystemExit, match="ended with 3: out of ink"):
        growth.measured(
            [sys.executable, "-c", "import sys; sys.stderr.write('out of ink'); sys.exit(3)"], Path.cwd()
        )


def test_growth_is_of_one_scan_more_and_the_square_misses_its_aim(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 s to start and 20 ms a scan; or 0.2 ms by the square; memory stays, and what is nothing counts as little."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import growth

    counts = (10, 100, 1000)
    cells = {
        "linear": [(3 + 0.02 * n, 100.0) for n in counts],
        "square": [(3 + 0.0002 * n**2, 100.0 + n) for n in counts],
    }
    linear, kept, square, grown = growth.growth_of(cells, counts)
    assert (linear.ours, linear.theirs) == pytest.approx((20, 20))
    assert (kept.ours, kept.theirs) == (0.1, 0.1)
    assert (square.ours, square.theirs) == pytest.approx((220, 22))
    assert (grown.ours, grown.theirs) == pytest.approx((1, 1))
    assert [line.verdict.endswith("reached") for line in (linear, kept, square, grown)] == [
        True,
        True,
        False,
        True,
    ]


def test_an_update_is_what_longer_training_takes_beyond_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 updates more in 4 s beside 2 s: 20 ms an update among many scans, 10 among few."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import growth

    line = growth.update_of([(8.0, 1.0), (9.0, 1.0)], [(10.0, 1.0), (13.0, 1.0)], (10, 1000))
    assert (line.ours, line.theirs, line.ratio) == pytest.approx((4, 2, 0.5))
    assert line.verdict.endswith("missed")


def test_training_for_the_largest_memory_trains_on_as_many_slices_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One scan in eight validates: the others alone are the slices that train."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hearts
    import memory

    trained = hearts.cohort(memory.scans_to_train(2000)).where(split="train")
    assert 10 * len(trained) == 2000


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/a/b\n", {"a/memory.max": "3221225472\n", "a/b/memory.max": "max\n"}, [3221225472]),
        (
            "5:cpu:/x\n4:memory:/y\n",
            {"memory/y/memory.limit_in_bytes": "7", "x/memory.max": "1"},
            [7],
        ),
        ("0::/\n", {}, []),
        (None, {}, []),
    ],
)
def test_a_control_groups_limit_is_found_where_it_is_set(
    groups: str | None,
    files: dict[str, str],
    limits: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Version 2 with a limit on the group above, version 1, none, and a system without groups."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import memory

    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    assert list(memory.control_group_limits(tmp_path / "groups", tmp_path / "root")) == limits


@pytest.mark.parametrize(
    "script", sorted({path.stem for path in BENCHMARKS.glob("*.py")} - {"sides", "hearts"})
)
def test_every_benchmark_explains_itself(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert f"python benchmarks/{script}.py" in capsys.readouterr().out
