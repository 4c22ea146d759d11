"""What commands show where no terminal is: lines that a log can hold."""

import pytest

from crossbeat import console


@pytest.mark.parametrize(("seconds", "said"), [(0.0, ["now: a (step 50)", "now: b (step 9)"]), (1e9, [])])
def test_a_log_is_told_now_and_then_what_is_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, said: list[str]
) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", seconds)
    with console.watch("training", 2) as (done, now):
        now("a (step 50)")
        now("a (step 50)")  # as before
        now("")
        now("b (step 9)")
        done("a: finished")
    assert capsys.readouterr().err.splitlines() == ["training: 2", *said, "a: finished"]


def test_of_failures_that_differ_in_the_scan_alone_three_are_shown_and_how_many_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    single = [f"scan {name!r}: has one frame" for name in ("a", "b's", "c", "d", "e")]
    other = ["scan 'f': has no lines", "x.nii.gz: is broken", "y.nii.gz: is broken"]
    console.complain_of([*single[:2], *other, *single[2:]])
    assert capsys.readouterr().err.splitlines() == [
        *(f"error: {text}" for text in single[:3]),
        "error: 2 more scans alike: d, e",
        *(f"error: {text}" for text in other),
    ]
    console.complain_of(single[:4])  # the fourth takes no more room than saying that there is one more
    assert len(capsys.readouterr().err.splitlines()) == 4
