"""Splits: whole subjects, each stratum's share, and none that leaves nobody to train."""

import math
from collections import Counter
from collections.abc import Callable

import pytest

from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError
from crossbeat.splits import assign_splits, count_subjects, folds, subjects_across_splits


def test_splits_keep_all_scans_of_a_subject_together_and_each_group_its_share(
    many: Callable[..., Cohort],
) -> None:
    split = assign_splits(many(), test=8, validation=0.2, stratify=["group"], seed=3)
    assert not subjects_across_splits(split)
    of = {row.subject: (row.split, row.group) for row in split}
    assert Counter(s for s, _ in of.values()) == {"train": 8, "test": 8, "validation": 4}
    assert Counter(g for s, g in of.values() if s == "test") == {"HCM": 2, "NOR": 6}
    assert split.rows == assign_splits(many(), test=8, validation=0.2, stratify=["group"], seed=3).rows
    assert split.rows != assign_splits(many(), test=8, validation=0.2, stratify=["group"], seed=4).rows


def test_folds_test_every_subject_once_and_share_out_the_groups(many: Callable[..., Cohort]) -> None:
    tested = [
        {row.subject for row in fold if row.split == "test"} for fold in folds(many(), 5, stratify=["group"])
    ]
    assert sorted(s for fold in tested for s in fold) == many().subjects
    assert all(sum(int(s[1:]) % 4 == 0 for s in fold) == 1 for fold in tested)


def test_a_split_that_leaves_nobody_to_train_is_refused(many: Callable[..., Cohort]) -> None:
    with pytest.raises(CohortError, match="leave none of 20 to train"):
        assign_splits(many(), test=20)
    with pytest.raises(CohortError, match="21 folds need 2 to 20"):
        folds(many(), 21)


@pytest.mark.parametrize("wanted", [2.5, -1, 1.01, math.nan, math.inf])
def test_parts_of_subjects_are_refused(wanted: float, many: Callable[..., Cohort]) -> None:
    with pytest.raises(
        CohortError, match=rf"validation {wanted:g}: is neither a number of subjects nor a share"
    ):
        assign_splits(many(), validation=wanted)
    assert [count_subjects(x, 20, "test") for x in (0, 0.24, 0.99, 1.0, 3)] == [0, 5, 20, 1, 3]


def test_leakage_is_seen() -> None:
    rows = (Row("p", "p_c", "bssfp", "c", split="train"), Row("p", "p_l", "lge", "l", split="test"))
    assert subjects_across_splits(Cohort(rows)) == {"p": ["train", "test"]}


def test_an_official_test_split_is_kept_and_not_drawn_twice() -> None:
    rows = tuple(Row(f"p{i}", f"p{i}", "bssfp", "i", split="test" if i < 4 else "train") for i in range(12))
    official = Cohort(rows, name="official")
    split = assign_splits(official, validation=3)
    assert [r.subject for r in split if r.split == "test"] == ["p0", "p1", "p2", "p3"]
    assert Counter(r.split for r in split) == {"test": 4, "validation": 3, "train": 5}
    with pytest.raises(CohortError, match="has a test split of 4 subjects already"):
        assign_splits(official, test=2)
    assert Counter(r.split for r in assign_splits(official, test=2, again=True)) == {"test": 2, "train": 10}
