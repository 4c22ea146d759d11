"""Numbers are printed as a journal would: a true minus, no sign before nought, one rule for all pages."""

import pytest

from crossbeat.report.wording import count, duration, memory, number, p_value, percent, rounded, signed

NAN = float("nan")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (p_value(0.00042), "< 0.001"),
        (p_value(0.0461), "0.046"),
        (p_value(0.5), "0.500"),
        (p_value(1.0), "1.000"),
        (p_value(NAN), "–"),
        (number(0.5, ""), "0.500"),
        (number(NAN, "mm"), "–"),
        (rounded(2.345, "mm"), "2.3"),
        (signed(-0.0123), "−0.012"),
        (signed(2.345, "mm"), "+2.35"),
        (signed(0.0), "0.000"),
        (signed(0.0004), "0.000"),
        (signed(-0.0004), "0.000"),
        (signed(-0.004, "mm"), "0.00"),
        (signed(0.04, digits=1), "0.0"),
        (signed(-1.25, "mm", digits=1), "−1.2"),
        (signed(NAN), "–"),
        (percent(0.674), "67 %"),
        (percent(-0.2), "−20 %"),
        (percent(-0.004), "0 %"),
        (percent(NAN), "–"),
        (count(1, "scan"), "1 scan"),
        (count(0, "scan"), "0 scans"),
        (duration(8.13), "8.1 s"),
        (duration(252), "4 min 12 s"),
        (duration(7500), "2 h 05 min"),
        (duration(NAN), "–"),
        (memory(850), "850 MB"),
        (memory(6321), "6.2 GB"),
    ],
)
def test_numbers_are_printed_as_a_journal_would(said: str, expected: str) -> None:
    assert said == expected
