"""Small bright hearts in memory, for tests that need a cohort but no files."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import numpy as np
import pytest

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row
from crossbeat.labels import Structure

DRAWN = frozenset({Structure.LV, Structure.MYO, Structure.RV})


DOCS = Path(__file__).parents[1] / "docs"

hypothesis.settings.register_profile("untimed", deadline=None)  # machines are shared: no test is timed
hypothesis.settings.load_profile("untimed")


def small_heart(row: Row) -> Case:
    """A ring with a cavity and a crescent beside it, 3 slices of 48 x 56; each subject's own size and place.

    On LGE blood is dimmer and the wall darker than on bSSFP; T2 lies between. Pixels are 2.5 x 2 mm.
    """
    rng = np.random.default_rng(int(row.subject[1:]))
    y, x = np.mgrid[:48, :56].astype(float)
    middle = np.array([24.0, 30.0]) + rng.uniform(-3, 3, 2)
    outer = rng.uniform(19, 23)
    labels = np.zeros((1, 3, 48, 56), np.uint8)
    for z in range(3):
        distance_mm = np.hypot((y - middle[0]) * 2.5, (x - middle[1]) * 2.0)
        beside_mm = np.hypot((y - middle[0]) * 2.5, (x - middle[1] + 11) * 2.0)
        labels[0, z][beside_mm < outer] = Structure.RV
        labels[0, z][distance_mm < outer - z] = Structure.MYO
        labels[0, z][distance_mm < outer - 8 - z] = Structure.LV
    grey = {"bssfp": [60, 250, 90, 240], "lge": [50, 160, 20, 150], "t2": [70, 200, 40, 210]}[row.sequence]
    image = np.asarray(grey, np.float32)[labels] + rng.normal(0, 8, labels.shape).astype(np.float32)
    affine = np.diag([2.0, 2.5, 8.0, 1.0])
    return Case(
        row.scan, row.subject, image.astype(np.float32), affine, Domain(row.sequence), labels, (DRAWN,)
    )


@pytest.fixture
def hearts() -> Callable[..., Cohort]:
    """Makes a cohort of so many subjects, each with a bSSFP scan to train on or an LGE scan to be tested on."""

    def make(bssfp: int = 4, lge: int = 2) -> Cohort:
        sources = [Row(f"s{i}", f"s{i}_bssfp", "bssfp", "-", split="train", labels="-") for i in range(bssfp)]
        targets = [
            Row(f"s{i}", f"s{i}_lge", "lge", "-", split="test", labels="-") for i in range(90, 90 + lge)
        ]
        return Cohort((*sources, *targets), small_heart, "hearts")

    return make


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """A script of docs as a module, by its path there without the ending, as in `figures/rings`."""

    def load(path: str) -> ModuleType:
        name = Path(path).name
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{path}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def many() -> Callable[..., Cohort]:
    """Makes a cohort of rows alone, of so many subjects, with groups and vendors to split by."""

    def make(subjects: int = 20) -> Cohort:
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

    return make
