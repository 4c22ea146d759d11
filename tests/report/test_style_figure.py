"""The picture of stylizers: the first scans, their middle slices, the style that was given, the right images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from crossbeat.cohort import Cohort, Row, read_cohort, write_cohort
from crossbeat.data.reading import reader
from crossbeat.errors import RunError

FIGURES = Path(__file__).parents[2] / "docs" / "figures"


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch, load_script: Callable[[str], ModuleType]) -> ModuleType:
    monkeypatch.syspath_prepend(str(FIGURES))
    return load_script("figures/make_style_figure")


def put(folder: Path, name: str, array: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([1.5, 2.0, 8.0, 1.0])), folder / name)
    return name


@pytest.fixture
def styled(tmp_path: Path) -> tuple[Path, Cohort]:
    """Two scans of three slices, grey by number and slice, and what two stylizers and a drawn code made of them."""
    labels = np.zeros((3, 40, 50), np.uint8)
    labels[:2, 10:22, 12:26], labels[:2, 13:19, 16:22] = 2, 1
    grey = np.broadcast_to(np.arange(3, dtype=np.float32)[:, None, None], labels.shape)
    rows, made = [], []
    for k, sequence in enumerate(("bssfp", "bssfp", "lge")):
        name, gt = put(tmp_path, f"{k}.nii.gz", grey + 100 * k), put(tmp_path, f"{k}_gt.nii.gz", labels)
        rows.append(Row(f"s{k}", f"s{k}_{sequence}", sequence, name, labels=gt))
    (out := tmp_path / "styled").mkdir()
    for row in rows[:2]:
        for i, stylizer in enumerate(("rain drawn 1", "rain centre", "adaconv descriptor")):
            name = f"{row.scan}_{i}"
            further = {
                "stylised_from": row.scan,
                "stylised_as": "s2_lge frame 0 slice 2",
                "stylizer": stylizer,
            }
            image = put(out, f"{name}.nii.gz", grey + 1000 * (i + 1))
            made.append(replace(row, scan=name, image=image, labels="", further=further))
    write_cohort(Cohort(tuple(made), folder=out), out / "cohort.csv")
    write_cohort(Cohort(tuple(rows), folder=tmp_path), tmp_path / "cohort.csv")
    return out, read_cohort(tmp_path / "cohort.csv", reader)


def test_a_row_is_a_scan_its_style_and_what_each_stylizer_made(
    figure: ModuleType, styled: tuple[Path, Cohort]
) -> None:
    rows = figure.read_panels(*styled, {"AdaIN": "rain", "Kernels": "adaconv"}, 2)
    assert [[panel.title for panel in row] for row in rows] == [
        [f"cine bSSFP of\ns{k}", "style: LGE of\ns2", "AdaIN", "Kernels"] for k in range(2)
    ]
    assert [float(panel.image[0, 0]) for panel in rows[1]] == [101, 202, 2001, 3001]
    contents = [rows[0][i] for i in (0, 2, 3)]
    assert len({panel.image.shape for panel in contents}) == 1, "cut alike"
    assert all(panel.labels is not None and (panel.labels == 1).sum() == 36 for panel in contents)
    assert rows[0][1].labels is None, "a style is shown without contours"
    assert len(figure.draw(rows, "").axes) == 8


@pytest.mark.parametrize(
    ("labels", "words"), [(None, "nobody drew"), (np.zeros((3, 40, 50), np.uint8), "no myocardium")]
)
def test_a_scan_without_contours_is_refused(
    figure: ModuleType, styled: tuple[Path, Cohort], labels: np.ndarray | None, words: str
) -> None:
    out, cohort = styled
    if labels is None:
        cohort = replace(cohort, rows=tuple(replace(row, labels="") for row in cohort.rows))
    else:
        put(out.parent, "0_gt.nii.gz", labels)
    with pytest.raises(RunError, match=words):
        figure.read_panels(out, cohort, {"RAIN": "rain"}, 1)


def test_a_stylizer_that_is_not_there_is_refused(figure: ModuleType, styled: tuple[Path, Cohort]) -> None:
    with pytest.raises(RunError, match="no image of 's0_bssfp' by 'rain-2'"):
        figure.read_panels(*styled, {"RAIN": "rain-2"}, 1)
