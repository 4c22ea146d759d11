"""The synthetic cohort of a study: made once into its folder, and found there again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from crossbeat.data.nifti import write_displacement, write_volume
from crossbeat.study.plan import PhantomSpec
from crossbeat.synthetic import Hearts, is_whole, make_once

REMEDY: Final = "choose another folder with -o"


def is_made(spec: PhantomSpec, folder: Path) -> bool:
    """Whether these hearts lie there, whole. Others raise `RunError`."""
    return is_whole(folder, _hearts(spec), REMEDY)


def make_phantom(
    spec: PhantomSpec, folder: Path, *, jobs: int = 2, progress: Callable[[], None] = lambda: None
) -> Path:
    """The cohort.csv of the hearts that a study file describes; what is there already stays as it is.

    A folder with other hearts, or with those of another `PHANTOM_VERSION`, is refused.
    """
    make_once(
        folder,
        _hearts(spec),
        write=write_volume,
        write_field=write_displacement,
        remedy=REMEDY,
        jobs=jobs,
        progress=progress,
    )
    return folder / "cohort.csv"


def _hearts(spec: PhantomSpec) -> Hearts:
    return Hearts(**spec.model_dump(mode="json"))
