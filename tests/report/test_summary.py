from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossbeat.report.summary import ALL, summarise_scores, write_summary


def scores() -> pd.DataFrame:
    """Dice of the LV in both phases of four patients, of two vendors; one phase is undefined, one missed."""
    lines = []
    for i, (ed, es) in enumerate([(0.9, 0.8), (0.7, 0.5), (0.6, np.nan), (0.8, 0.0)]):
        for phase, value in (("ED", ed), ("ES", es)):
            status = "undefined" if np.isnan(value) else "missed" if value == 0 else "ok"
            lines.append(
                {
                    "scan": f"s{i}", "subject": f"s{i}", "frame": 0, "phase": phase, "slice": pd.NA, "level": "",
                    "structure": "LV", "metric": "dice", "unit": "", "value": value, "status": status,
                    "spacing_source": "nominal" if i < 3 else "header",
                    "sequence": "lge", "split": "test", "vendor": "AB"[i % 2], "group": "NOR",
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def row(table: pd.DataFrame, **wanted: str) -> pd.Series:
    everything = {
        "sequence": "lge",
        "split": "test",
        "phase": ALL,
        "vendor": ALL,
        "group": ALL,
        "level": ALL,
    } | wanted
    found = table[np.logical_and.reduce([table[c] == v for c, v in everything.items()])]
    assert len(found) == 1
    return found.iloc[0]


def test_patients_are_averaged_first_and_failures_counted() -> None:
    total = row(summarise_scores(scores()))
    assert total["mean"] == pytest.approx(np.mean([0.85, 0.6, 0.6, 0.4]))
    assert (total["n_patients"], total["undefined"], total["missed"]) == (4, 1, 1)


def test_each_part_and_their_crossing_have_rows_of_their_own() -> None:
    table = summarise_scores(scores())
    assert row(table, phase="ED")["mean"] == pytest.approx(0.75)
    assert row(table, vendor="A")["mean"] == pytest.approx(np.mean([0.85, 0.6]))
    assert row(table, vendor="B", phase="ES")["mean"] == pytest.approx(0.25)
    assert not (table["group"] != ALL).any()  # one group parts nothing
    assert len(table) == 1 + 2 + 2 + 4


def test_splits_and_sequences_are_never_pooled() -> None:
    """Training scans of Dice 1, and cine scans of Dice 0.5, beside those of the LGE test."""
    others = [scores().assign(split="train", value=1.0), scores().assign(sequence="bssfp", value=0.5)]
    table = summarise_scores(pd.concat([scores(), *others]))
    assert set(table["sequence"]) == {"lge", "bssfp"}
    assert set(table["split"]) == {"test", "train"}
    assert row(table)["mean"] == row(summarise_scores(scores()))["mean"]
    assert row(table, split="train")["mean"] == 1.0
    assert row(table, sequence="bssfp", vendor="A")["mean"] == 0.5
    assert len(table) == 3 * 9


def test_scans_without_their_true_spacing_are_counted_in_every_row() -> None:
    table = summarise_scores(scores())
    assert (row(table)["nominal_scans"], row(table, vendor="B")["nominal_scans"]) == (3, 1)
    assert set(summarise_scores(scores().drop(columns="spacing_source"))["nominal_scans"]) == {0}


def test_it_is_written_whole(tmp_path: Path) -> None:
    write_summary(scores(), tmp_path / "summary.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.csv"]
    assert len(pd.read_csv(tmp_path / "summary.csv")) == 9
