"""Who trains, who validates and who is tested: every subject whole, at random, by strata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crossbeat.cohort import COLUMNS, Cohort
from crossbeat.errors import CohortError, did_you_mean


def count_subjects(wanted: float, of: int, name: str) -> int:
    """How many subjects are meant of so many: a share below 1 is rounded, other numbers must be whole.

    `name` is what the number is called in the message (`CohortError`).
    """
    if 0 < wanted < 1:
        return round(wanted * of)
    if not float(wanted).is_integer() or wanted < 0:
        raise CohortError(f"{name} {wanted:g}: is neither a number of subjects nor a share of them, below 1")
    return int(wanted)


def assign_splits(
    cohort: Cohort,
    *,
    test: float | int = 0,
    validation: float | int = 0,
    stratify: Sequence[str] = (),
    seed: int = 0,
    again: bool = False,
) -> Cohort:
    """Give every subject, with all its scans, to train, validation or test at random.

    `test` and `validation` are numbers of subjects, or fractions below 1. With `stratify` (columns such as
    group or vendor) each stratum gives its proportional share. Subjects of a test split that is there already stay
    as they are, and no second one is drawn, unless `again`, which draws everything anew. Raises `CohortError`
    if nobody is left to train, and for 2.5 subjects.
    """
    settled = set() if again else {row.subject for row in cohort if row.split == "test"}
    if settled and test:
        raise CohortError(
            f"{cohort.name}: has a test split of {len(settled)} subjects already; keep it and leave `test` away, "
            "or draw all splits again"
        )
    order = _stratified_order(cohort.only(lambda row: row.subject not in settled), stratify, seed)
    n_test = count_subjects(test, len(order), "test")
    n_validation = count_subjects(validation, len(order), "validation")
    if n_test + n_validation >= len(order):
        raise CohortError(
            f"{cohort.name}: {n_test} test and {n_validation} validation subjects leave none of {len(order)} to train"
        )
    chosen = [order[i] for i in _spread(len(order), n_test + n_validation)]
    tests = {chosen[i] for i in _spread(len(chosen), n_test)}
    of = dict.fromkeys(order, "train")
    of |= {subject: "test" if subject in tests else "validation" for subject in chosen}
    rows = (replace(row, split=of.get(row.subject, row.split)) for row in cohort)
    return replace(cohort, rows=tuple(rows))


def folds(cohort: Cohort, k: int, *, stratify: Sequence[str] = (), seed: int = 0) -> list[Cohort]:
    """k versions of the cohort; in the i-th the subjects of fold i are `test`, all others `train`."""
    order = _stratified_order(cohort, stratify, seed)
    if not 2 <= k <= len(order):
        raise CohortError(f"{cohort.name}: {k} folds need 2 to {len(order)} (the number of subjects)")
    fold = {subject: i % k for i, subject in enumerate(order)}
    return [
        replace(
            cohort, rows=tuple(replace(r, split="test" if fold[r.subject] == i else "train") for r in cohort)
        )
        for i in range(k)
    ]


def subjects_across_splits(cohort: Cohort) -> dict[str, list[str]]:
    """Subjects with scans in more than one split, and which: leakage, unless the recipe is transductive."""
    seen: dict[str, list[str]] = {}
    for row in cohort:
        if row.split and row.split not in seen.setdefault(row.subject, []):
            seen[row.subject].append(row.split)
    return {subject: splits for subject, splits in seen.items() if len(splits) > 1}


def _stratified_order(cohort: Cohort, stratify: Sequence[str], seed: int) -> list[str]:
    """Subjects in strata, shuffled within each: taking them at even steps takes each stratum's share."""
    rng = np.random.default_rng(seed)
    subjects = sorted(cohort.subjects)
    subjects = [subjects[i] for i in rng.permutation(len(subjects))]
    first = {row.subject: row for row in reversed(cohort.rows)}
    unknown = [c for c in stratify for row in first.values() if c not in COLUMNS and c not in row.further]
    if unknown:
        raise CohortError(
            f"{cohort.name}: no column {unknown[0]!r} to stratify by; {did_you_mean(unknown[0], COLUMNS)}"
        )
    return sorted(subjects, key=lambda s: [first[s].value(column) for column in stratify])


def _spread(n: int, count: int) -> list[int]:
    """`count` of n places at even steps."""
    return [int((i + 0.5) * n / count) for i in range(count)]
