"""Tables are written whole, read back equal, and refused by name where they are broken."""

from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from crossbeat.cohort import Cohort
from crossbeat.errors import FileError
from crossbeat.evaluation import (
    compare_indices,
    measure_cohort,
    read_agreement,
    read_indices,
    read_scores,
    read_volumes,
    score_cohort,
    write_agreement,
    write_indices,
    write_scores,
    write_volumes,
)
from evaluation.conftest import RV, ReadPrediction


def test_scores_come_back_as_they_were_written(
    cohort: Cohort, perfect: ReadPrediction, tmp_path: Path
) -> None:
    scores = score_cohort(cohort, lambda row: np.roll(perfect(row), 1, axis=2), units=("mm", "voxel"))
    write_scores(scores, cohort, tmp_path / "new" / "scores.csv")
    table = read_scores(tmp_path / "new" / "scores.csv")
    assert list(table.columns) == [
        *(
            [
                "scan",
                "subject",
                "frame",
                "phase",
                "slice",
                "level",
                "structure",
                "metric",
                "unit",
                "value",
                "status",
            ]
        ),
        *(["sequence", "vendor", "centre", "group", "split", "spacing_source", "field_t"]),
    ]
    assert len(table) == len(scores)
    for line, score in zip(table.itertuples(index=False), scores, strict=True):
        for mine, written in zip(astuple(score), line[:11], strict=True):
            if isinstance(mine, float):
                np.testing.assert_equal(written, mine)
            elif mine is None:
                assert str(written) == "<NA>"
            else:
                assert written == mine
    assert set(table.loc[table["scan"] == "p2-cine", "vendor"]) == {"NA"}  # a vendor's name, not a gap
    assert set(table["field_t"]) == {"1.5"}
    assert set(table["spacing_source"]) == {"nominal"}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["scores.csv"]


def test_a_cohort_column_of_one_of_our_names_is_kept_beside_ours(
    cohort: Cohort, perfect: ReadPrediction, tmp_path: Path
) -> None:
    own = Cohort(tuple(replace(row, further={"value": "7"}) for row in cohort), cohort.read)
    write_scores(score_cohort(own, perfect), own, tmp_path / "scores.csv")
    table = read_scores(tmp_path / "scores.csv")
    assert set(table["cohort_value"]) == {"7"}
    assert table["value"].max() <= 9600


def test_a_failed_write_leaves_the_old_file(
    cohort: Cohort, perfect: ReadPrediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")

    def full_disk(value: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("crossbeat.evaluation.tables._text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_scores(score_cohort(cohort, perfect), cohort, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_indices_stand_one_scan_a_line_with_units_in_their_names(
    cohort: Cohort, perfect: ReadPrediction, tmp_path: Path
) -> None:
    measured = measure_cohort(cohort, lambda row: np.where(perfect(row) == RV, 0, perfect(row)))
    write_indices(measured, cohort, tmp_path / "indices.csv")
    table = read_indices(tmp_path / "indices.csv")
    assert list(table["scan"]) == ["p1-cine", "p2-cine"]
    assert list(table.columns[:9]) == [
        *(["scan", "subject", "ed_frame", "es_frame", "ed_frame_from", "es_frame_from"]),
        *(["lv_edv_ml", "lv_esv_ml", "lv_sv_ml"]),
    ]
    assert table["lv_edv_ml"].tolist() == [m.indices.lv_edv_ml for m in measured]
    assert table["rv_edv_ml"].isna().all()
    assert table["es_frame"].tolist() == [1, 1]
    assert set(table["es_frame_from"]) == {"given"}
    assert set(table["papillary"]) == {"in the LV cavity"}
    assert set(table["spacing_source"]) == {"nominal"}


def test_volume_curves_stand_one_frame_a_line(
    cohort: Cohort, perfect: ReadPrediction, tmp_path: Path
) -> None:
    measured = measure_cohort(cohort, perfect)
    write_volumes(measured, cohort, tmp_path / "volumes.csv")
    table = read_volumes(tmp_path / "volumes.csv")
    assert list(table.columns) == [
        *("scan", "frame", "time_ms", "lv_ml", "myo_ml", "rv_ml"),
        *("sequence", "vendor", "centre", "group", "split", "spacing_source", "field_t"),
    ]
    assert set(table["spacing_source"]) == {"nominal"}
    of_first = table[table["scan"] == "p1-cine"]
    assert of_first["frame"].tolist() == [0, 1]
    assert of_first["time_ms"].tolist() == [0.0, 40.0]
    assert of_first["lv_ml"].tolist() == measured[0].lv_ml.tolist()


def test_agreement_comes_back_as_it_was_written(
    cohort: Cohort, perfect: ReadPrediction, tmp_path: Path
) -> None:
    found = compare_indices(cohort, perfect)
    write_agreement(found, cohort, tmp_path / "agreement.csv")
    table = read_agreement(tmp_path / "agreement.csv")
    assert [tuple(line[:5]) for line in table.itertuples(index=False)] == [astuple(c) for c in found]
    assert set(table["vendor"]) == {"A", "NA"}


def test_a_missing_table_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"scores\.csv: does not exist; `crossbeat evaluate` writes it"):
        read_scores(tmp_path / "scores.csv")
    with pytest.raises(FileError, match="`crossbeat measure` writes it"):
        read_indices(tmp_path / "indices.csv")


def test_a_broken_table_is_refused_with_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "volumes.csv"
    path.write_text("scan,frame,time_ms,lv_ml,myo_ml\np1,0,0,1,2\n")
    with pytest.raises(FileError, match="lacks the column 'rv_ml'"):
        read_volumes(path)
    path.write_text("scan,frame,time_ms,lv_ml,myo_ml,rv_ml\np1,0,0,1,2,three\n")
    with pytest.raises(FileError, match="column 'rv_ml' holds what is no number"):
        read_volumes(path)
    path.write_text("")
    with pytest.raises(FileError, match="is not a csv table"):
        read_volumes(path)
