"""The synthetic cohort of a study: made once into its folder, and found there again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crossbeat.cohort import assign_splits, write_cohort
from crossbeat.data.nifti import write_volume
from crossbeat.study.plan import PhantomSpec
from crossbeat.synthetic import is_made, make_cohort, note_made


def make_phantom(
    spec: PhantomSpec, folder: Path, *, jobs: int = 2, progress: Callable[[], None] = lambda: None
) -> Path:
    """The cohort.csv of the hearts that a study file describes; what is there already stays as it is.

    A folder with other hearts, or with those of another `PHANTOM_VERSION`, is refused.
    """
    asked = spec.model_dump(mode="json")
    if is_made(folder, asked):
        return folder / "cohort.csv"
    made = make_cohort(
        folder,
        subjects=spec.subjects,
        sequences=spec.sequences,
        vendors=spec.vendors,
        cine=spec.cine,
        seed=spec.seed,
        jobs=jobs,
        write=write_volume,
        progress=lambda done, total: progress(),
    )
    if spec.test:
        made = assign_splits(made, test=spec.test, stratify=["group"], seed=spec.seed)
        write_cohort(made, folder / "cohort.csv")
    note_made(folder, asked)
    return folder / "cohort.csv"
