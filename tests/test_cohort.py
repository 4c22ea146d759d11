from collections.abc import Callable
from pathlib import Path

import pytest

from crossbeat.cohort import (
    Cohort,
    Row,
    parse_filter,
    read_cohort,
    read_conventions,
    to_csv,
    write_cohort,
)
from crossbeat.errors import CohortError, SettingsError
from crossbeat.labels import Structure

HEAD = "subject,scan,sequence,image\n"
LV, MYO = Structure.LV, Structure.MYO


def written(folder: Path, text: str) -> Path:
    (folder / "cohort.csv").write_text(text, encoding="utf-8")
    return folder / "cohort.csv"


def test_a_csv_comes_back_as_it_was_written_with_further_columns(tmp_path: Path) -> None:
    row = Row(
        "p1", "p1_cine", "bssfp", "a.nii.gz;b.nii.gz", labels="0=c.nii.gz", structures="0=LV", ed_frame=0, es_frame=1,
        frame_interval_ms=33.5, spacing_source="nominal", further={"scanner age": "7"},
    )  # fmt: skip
    write_cohort(Cohort((row,), folder=tmp_path), tmp_path / "cohort.csv")
    assert read_cohort(tmp_path / "cohort.csv").rows == (row,)


def test_a_cohort_written_elsewhere_still_finds_its_files_and_conventions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "conventions.yaml").write_text("mine: {1: LV}")
    row = Row("p", "p", "lge", "x.nii;y.nii", labels="1=z.nii")
    write_cohort(Cohort((row,), folder=tmp_path / "a"), tmp_path / "b" / "run" / "cohort.csv")
    moved = read_cohort(tmp_path / "b" / "run" / "cohort.csv")
    assert moved.rows[0].image == "../../a/x.nii;../../a/y.nii"
    assert moved.rows[0].label_files == {1: "../../a/z.nii"}
    assert read_conventions(moved.folder)["mine"].structures == {LV}


def test_filters_combine_and_accept_lists(many: Callable[..., Cohort]) -> None:
    cohort = many()
    assert len(cohort.where(sequence="lge")) == 20
    assert len(cohort.where(sequence="lge", vendor=["A", "B"], group="HCM")) == 5
    assert len(cohort.where(**parse_filter("sequence=lge, vendor=A|B, group=HCM"))) == 5
    assert len(cohort.where(sequence="t2")) == 0


def test_a_filter_on_a_column_that_does_not_exist_is_refused(many: Callable[..., Cohort]) -> None:
    with pytest.raises(CohortError, match="no column 'vendr'; did you mean 'vendor'"):
        many().where(vendr="A")
    with pytest.raises(CohortError, match="write column=value"):
        parse_filter("lge")
    with pytest.raises(CohortError, match=r"sequence is there twice; write its values as lge\|t2"):
        parse_filter("sequence=lge,vendor=A,sequence=t2")


def test_what_was_drawn_comes_from_the_column_by_frame_or_from_the_convention() -> None:
    assert Row("p", "p", "bssfp", "i", convention="emidec").drawn(0) == {LV, MYO, Structure.SCAR}
    assert Row("p", "p", "bssfp", "i", structures="LV, MYO").drawn(5) == {LV, MYO}
    by_frame = Row("p", "p", "bssfp", "i", structures="0=LV,MYO;8=LV")
    assert [by_frame.drawn(t) for t in (0, 8, 3)] == [{LV, MYO}, {LV}, frozenset()]
    with pytest.raises(CohortError, match="structure 'LVV' is unknown; did you mean 'LV'"):
        Row("p", "p", "bssfp", "i", structures="LVV").drawn(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,scan\n", "needs a column for each of sequence, image"),
        ("subject;scan;sequence;image\n", "its cells are separated by semicolons; save it with commas"),
        ("", "needs a column for each of subject, scan, sequence, image; it is empty"),
        (
            "subject,scan,sequence,image,split\np,a,lge,a.nii,train\np,b,lge,b.n",
            "line 3: has fewer cells than columns; was the file",
        ),
        (HEAD + "p,,lge,a.nii\n", "line 2: scan is empty"),
        (HEAD + "p,a,lge,a.nii\np,a,lge,b.nii\n", "'a' stands there more than once"),
        ("subject,scan,sequence,image,split\np,a,lge,a.nii,tests\n", "line 2: split 'tests' is none of"),
        ("subject,scan,sequence,image,ed_frame\np,a,lge,a.nii,1.5\n", "frames are whole and count from 0"),
        ("subject,scan,sequence,image,ed_frame\np,a,lge,a.nii,inf\n", "line 2: ed_frame 'inf' is no number"),
        (
            "subject,scan,sequence,image,frame_interval_ms\np,a,lge,a.nii,NA\n",
            "frame_interval_ms 'NA' is no number",
        ),
        (
            "subject,scan,sequence,image,frame_interval_ms\np,a,lge,a.nii,nan\n",
            "'nan' is no number; leave it empty",
        ),
        (
            "subject,scan,sequence,image,frame_interval_ms\np,a,lge,a.nii,0\n",
            "line 2: frame_interval_ms 0 is no time",
        ),
        ("subject,scan,sequence,image,spacing_source\np,a,lge,a.nii,guess\n", "neither header nor nominal"),
    ],
)
def test_a_broken_csv_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        read_cohort(written(tmp_path, text))


def test_a_missing_csv_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="crossbeat index"):
        read_cohort(tmp_path / "none.csv")


def test_a_cohort_without_labels_never_opens_them() -> None:
    row = Row("p", "p", "lge", "i.nii", labels="l.nii", structures="LV")
    hidden = Cohort((row,)).without_labels().rows[0]
    assert hidden.label_files == {}
    assert hidden.structures == ""


def test_the_fingerprint_changes_with_the_rows_only(many: Callable[..., Cohort]) -> None:
    assert many().hash() == many().hash()
    assert many().hash() != many(19).hash()
    assert len(to_csv(many()).splitlines()) == 41


def test_users_conventions_are_read_and_their_errors_named(tmp_path: Path) -> None:
    assert read_conventions(tmp_path) == {}
    (tmp_path / "conventions.yaml").write_text("mysite: [1, 2]")
    with pytest.raises(CohortError, match=r"conventions.yaml: not a table"):
        read_conventions(tmp_path)
    (tmp_path / "conventions.yaml").write_text("mysite: {1: heart}")
    with pytest.raises(SettingsError, match="'heart' is no structure"):
        read_conventions(tmp_path)


def test_cells_left_out_at_the_end_of_a_line_are_empty_and_lines_are_counted_as_an_editor_does(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, "subject,scan,sequence,image,split\np,a,lge,a.nii\np,b,lge,b.nii,train\n")
    assert [row.split for row in read_cohort(path)] == ["", "train"]
    path = written(tmp_path, "subject,scan,sequence,image\n\n\np,,lge,a.nii\n")
    with pytest.raises(CohortError, match="line 4: scan is empty"):
        read_cohort(path)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("l.nii,LV,MYO,RV", "line 2: has more cells than columns; quote cells that hold commas"),
        ("0=a;0=b,", "frame 0 stands twice"),
        ("-1=b,", "frame '-1', which is no number from 0 up"),
    ],
)
def test_cells_that_would_be_misread_are_refused(tmp_path: Path, cells: str, message: str) -> None:
    path = written(tmp_path, f"subject,scan,sequence,image,labels,structures\np,a,lge,i.nii,{cells}\n")
    with pytest.raises(CohortError, match=message):
        print([row.label_files for row in read_cohort(path)])
