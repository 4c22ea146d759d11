import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crossbeat.case import Case
from crossbeat.cohort import Cohort
from crossbeat.errors import RunError
from crossbeat.labels import Structure
from crossbeat.prepare.volumes import Preparation, crop, normalise, pad, slices_of
from crossbeat.segmenter import NetworkSpec, Segmenter, load_segmenter

SPEC = NetworkSpec(name="dilated_resunet", size=32, arguments={"width": 4})
PREPARATION = Preparation(size=32, spacing_mm=2.0)


class BrightIsBlood(nn.Module):
    """A network whose answer is known: LV where the z-score is above a threshold, background elsewhere."""

    def __init__(self, threshold: float = 0.8) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = 20 * (image - self.threshold)
        return torch.cat([-bright, bright, -50 + 0 * bright, -50 + 0 * bright], dim=1)


def replace_preparation(**changes: Any) -> Preparation:
    return PREPARATION.model_copy(update=changes)


def small() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(SPEC.build().eval(), SPEC, PREPARATION, provenance={"seed": 0})


@pytest.fixture
def heart(hearts: Callable[..., Cohort]) -> Case:
    cohort = hearts(1, 0)
    return cohort.read(cohort.rows[0])


def test_what_was_saved_predicts_the_same_after_loading(tmp_path: Path, heart: Case) -> None:
    segmenter = small()
    segmenter.save(tmp_path / "segmenter")
    loaded = load_segmenter(tmp_path / "segmenter")
    assert sorted(p.name for p in (tmp_path / "segmenter").iterdir()) == [
        "segmenter.json",
        "weights.safetensors",
    ]
    assert loaded.describe() == segmenter.describe()
    np.testing.assert_array_equal(loaded.predict(heart), segmenter.predict(heart))


def test_saving_again_replaces_the_folder_whole(tmp_path: Path) -> None:
    (tmp_path / "segmenter").mkdir()
    (tmp_path / "segmenter" / "old.txt").write_text("x")
    small().save(tmp_path / "segmenter")
    assert not (tmp_path / "segmenter" / "old.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["segmenter"]


def test_a_prediction_lies_on_the_scans_own_grid_where_the_blood_is(heart: Case) -> None:
    found = Segmenter(BrightIsBlood(), SPEC, Preparation(size=48, spacing_mm=2.0)).predict(heart)
    assert found.shape == heart.image.shape
    blood = np.isin(heart.labels, (Structure.LV, Structure.RV))
    overlap = 2 * (blood & (found == Structure.LV)).sum() / (blood.sum() + (found == Structure.LV).sum())
    assert overlap > 0.93


def test_finer_voxels_give_the_same_heart(heart: Case) -> None:
    fine_affine = heart.affine @ np.diag([0.5, 0.5, 1, 1])
    fine = replace(
        heart,
        image=heart.image.repeat(2, axis=2).repeat(2, axis=3),
        affine=fine_affine,
        labels=None,
        drawn=(),
    )
    segmenter = Segmenter(BrightIsBlood(), SPEC, Preparation(size=48, spacing_mm=2.0))
    coarse_ml = (segmenter.predict(heart) == 1).sum() * 2.5 * 2.0
    fine_ml = (segmenter.predict(fine) == 1).sum() * 1.25 * 1.0
    assert fine_ml == pytest.approx(coarse_ml, rel=0.05)


def test_the_heart_is_found_without_labels_and_wherever_it_lies(heart: Case) -> None:
    shifted = replace(heart, image=np.roll(heart.image, (8, -10), axis=(2, 3)), labels=None, drawn=())
    segmenter = Segmenter(BrightIsBlood(), SPEC, PREPARATION)
    here, there = segmenter.place(heart).centre, segmenter.place(shifted).centre
    assert np.subtract(there, here) == pytest.approx([8, -10], abs=1.5)


def test_an_empty_image_is_background_and_no_crash(heart: Case) -> None:
    empty = replace(heart, image=np.zeros_like(heart.image), labels=None, drawn=())
    assert not Segmenter(BrightIsBlood(), SPEC, PREPARATION).predict(empty).any()


def test_a_scans_own_labels_never_guide_its_prediction(heart: Case) -> None:
    aside = replace(heart, image=np.zeros_like(heart.image), labels=np.roll(heart.labels, 12, axis=3))
    segmenter = Segmenter(BrightIsBlood(), SPEC, PREPARATION)
    assert segmenter.place(aside).centre == segmenter.place(replace(aside, labels=None, drawn=())).centre


class Lopsided(nn.Module):
    """Its answer depends on where a pixel lies, so that each mirror image gets another one."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(3.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows, columns = (torch.linspace(-1, 1, n) for n in image.shape[2:])
        ramp = image * (1 + self.slope * (rows[:, None] + 2 * columns))
        return torch.cat([-ramp, ramp, 0.5 * ramp, 0 * ramp], dim=1)


def test_flips_average_the_four_mirror_images(heart: Case) -> None:
    segmenter = Segmenter(Lopsided(), SPEC, replace_preparation(centre="image"))
    window = segmenter.place(heart)
    fields = normalise(window.cut(slices_of(heart.image)), window, segmenter.preparation)
    images = crop(fields, 32)
    network = segmenter.network
    by_hand = sum(network(images.flip(a)).softmax(dim=1).flip(a) for a in [(), (2,), (3,), (2, 3)]) / 4
    found = torch.cat(list(segmenter.probabilities(heart, window, flips=True)))
    whole = window.paste(pad(by_hand[:, 1:].detach(), window.size))
    torch.testing.assert_close(found[:, 1:], whole)
    torch.testing.assert_close(found.sum(dim=1), torch.ones_like(found[:, 0]))
    assert (found - torch.cat(list(segmenter.probabilities(heart, window)))).abs().max() > 0.1


def test_a_cine_is_segmented_frame_by_frame(heart: Case) -> None:
    segmenter = Segmenter(BrightIsBlood(), SPEC, Preparation(size=48, spacing_mm=2.0))
    cine = replace(
        heart, image=heart.image.repeat(14, axis=0), labels=None, drawn=()
    )  # 42 slices: two chunks
    found = segmenter.predict(cine)
    assert all(np.array_equal(frame, segmenter.predict(heart)[0]) for frame in found)


def test_a_missing_or_broken_segmenter_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"segmenter\.json is missing; is this a finished run"):
        load_segmenter(tmp_path / "none")
    small().save(tmp_path / "s")
    (tmp_path / "s" / "weights.safetensors").unlink()
    with pytest.raises(RunError, match=r"s: weights\.safetensors is missing; is this a finished run"):
        load_segmenter(tmp_path / "s")
    (tmp_path / "s" / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="cannot be loaded"):
        load_segmenter(tmp_path / "s")
    described = json.loads((tmp_path / "s" / "segmenter.json").read_text()) | {"format": 99}
    (tmp_path / "s" / "segmenter.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="newer than this"):
        load_segmenter(tmp_path / "s")
    described |= {"format": 1, "network": described["network"] | {"name": "resnet99"}}
    for text in ("[]", json.dumps(described)):  # of another kind; of a network that there is not
        (tmp_path / "s" / "segmenter.json").write_text(text)
        with pytest.raises(RunError, match=r"s: cannot be loaded"):
            load_segmenter(tmp_path / "s")
