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
