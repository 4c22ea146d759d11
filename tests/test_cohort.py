from collections import Counter
from pathlib import Path

import pytest

from crossbeat.cohort import (
    Cohort,
    Row,
    assign_splits,
    folds,
    parse_filter,
    read_cohort,
    read_conventions,
    subjects_across_splits,
    to_csv,
    write_cohort,
)
from crossbeat.errors import CohortError, SettingsError
from crossbeat.labels import Structure

HEAD = "subject,scan,sequence,image\n"
LV, MYO = Structure.LV, Structure.MYO


def many(subjects: int = 20) -> Cohort:
    """Every subject has a cine and an LGE scan; one in four is of group HCM."""
    rows = [
        Row(
            f"s{i:02}",
            f"s{i:02}_{seq}",
            seq,
            f"{seq}/s{i:02}.nii.gz",
            vendor="AB"[i % 2],
            group="HCM" if i % 4 == 0 else "NOR",
        )
        for i in range(subjects)
        for seq in ("bssfp", "lge")
    ]
    return Cohort(tuple(rows), name="many")


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


def test_filters_combine_and_accept_lists() -> None:
    cohort = many()
    assert len(cohort.where(sequence="lge")) == 20
    assert len(cohort.where(sequence="lge", vendor=["A", "B"], group="HCM")) == 5
    assert len(cohort.where(**parse_filter("sequence=lge, vendor=A|B, group=HCM"))) == 5
    assert len(cohort.where(sequence="t2")) == 0


def test_a_filter_on_a_column_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CohortError, match="no column 'vendr'; did you mean 'vendor'"):
        many().where(vendr="A")
    with pytest.raises(CohortError, match="write column=value"):
        parse_filter("lge")


def test_splits_keep_all_scans_of_a_subject_together_and_each_group_its_share() -> None:
    split = assign_splits(many(), test=8, validation=0.2, stratify=["group"], seed=3)
    assert not subjects_across_splits(split)
    of = {row.subject: (row.split, row.group) for row in split}
    assert Counter(s for s, _ in of.values()) == {"train": 8, "test": 8, "validation": 4}
    assert Counter(g for s, g in of.values() if s == "test") == {"HCM": 2, "NOR": 6}
    assert split.rows == assign_splits(many(), test=8, validation=0.2, stratify=["group"], seed=3).rows
    assert split.rows != assign_splits(many(), test=8, validation=0.2, stratify=["group"], seed=4).rows


def test_folds_test_every_subject_once_and_share_out_the_groups() -> None:
    tested = [
        {row.subject for row in fold if row.split == "test"} for fold in folds(many(), 5, stratify=["group"])
    ]
    assert sorted(s for fold in tested for s in fold) == many().subjects
    assert all(sum(int(s[1:]) % 4 == 0 for s in fold) == 1 for fold in tested)


def test_a_split_that_leaves_nobody_to_train_is_refused() -> None:
    with pytest.raises(CohortError, match="leave none of 20 to train"):
        assign_splits(many(), test=20)
    with pytest.raises(CohortError, match="21 folds need 2 to 20"):
        folds(many(), 21)


def test_leakage_is_seen() -> None:
    rows = (Row("p", "p_c", "bssfp", "c", split="train"), Row("p", "p_l", "lge", "l", split="test"))
    assert subjects_across_splits(Cohort(rows)) == {"p": ["train", "test"]}


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


def test_the_fingerprint_changes_with_the_rows_only() -> None:
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


def test_an_official_test_split_is_kept_and_not_drawn_twice() -> None:
    rows = tuple(Row(f"p{i}", f"p{i}", "bssfp", "i", split="test" if i < 4 else "train") for i in range(12))
    official = Cohort(rows, name="official")
    split = assign_splits(official, validation=3)
    assert [r.subject for r in split if r.split == "test"] == ["p0", "p1", "p2", "p3"]
    assert Counter(r.split for r in split) == {"test": 4, "validation": 3, "train": 5}
    with pytest.raises(CohortError, match="has a test split of 4 subjects already"):
        assign_splits(official, test=2)
    assert Counter(r.split for r in assign_splits(official, test=2, again=True)) == {"test": 2, "train": 10}


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
