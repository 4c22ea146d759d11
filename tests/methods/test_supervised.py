"""Supervised training: what it learns from, that its settings arrive, and what it refuses."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError
from crossbeat.methods import supervised
from crossbeat.methods.supervised import Segmentation, Settings, train
from crossbeat.prepare.augment import PRESETS
from crossbeat.prepare.slices import build_bank
from crossbeat.training import Run

TINY: dict[str, Any] = {
    "network": "dilated_resunet",
    "network_arguments": {"width": 4},
    "image_size": 32,
    "spacing_mm": 3.0,
    "augmentation": "none",
    "batch_size": 4,
    "steps": 4,
    "steps_per_round": 2,
}
LEARNS: dict[str, Any] = {
    "network": "dilated_resunet",
    "network_arguments": {"width": 8},
    "image_size": 48,
    "spacing_mm": 2.5,
    "augmentation": "light",
    "batch_size": 8,
    "steps": 120,
    "steps_per_round": 40,
    "learning_rate": 5e-3,
    "ema_decay": 0.9,
}
"""For the contract suite: learns small hearts in seconds on one core."""
ONCE: dict[str, Any] = {"steps": 4, "steps_per_round": 2}
"""For the contract suite: changes to those that make it do everything once, and learn nothing."""
ACROSS = {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}}


def quiet_run(folder: Path, seed: int = 0) -> Run:
    run = Run(folder, seed=seed, device="cpu", precision="32", progress=False)
    run.open({}, Cohort(()), "test")
    return run


def watched(cohort: Cohort) -> tuple[Cohort, list[str]]:
    """The cohort, and the scans whose labels are read from it."""
    opened: list[str] = []

    def read(row: Row) -> Case:
        if row.labels:
            opened.append(row.scan)
        return cohort.read(row)

    return replace(cohort, read=read), opened


@pytest.fixture
def cohort(hearts: Callable[..., Cohort]) -> Cohort:
    """Two bSSFP and two LGE subjects to train on, one LGE subject to be tested on."""
    made = hearts(2, 3)
    return replace(
        made, rows=(*made.rows[:2], *(replace(r, split="train") for r in made.rows[2:4]), made.rows[4])
    )


def stage(cohort: Cohort, folder: Path, **changes: Any) -> Segmentation:
    settings = Settings.of({**TINY, **changes})
    return Segmentation(quiet_run(folder), settings, build_bank(cohort, settings.preparation), {})


@pytest.mark.slow
def test_it_reads_the_source_alone_and_the_targets_labels_where_they_are_granted(
    cohort: Cohort, tmp_path: Path
) -> None:
    both, opened = watched(cohort)
    train(both, Settings.of({**TINY, **ACROSS}), quiet_run(tmp_path / "lower"))
    assert sorted(opened) == ["s0_bssfp", "s1_bssfp"]
    opened.clear()
    granted = Settings.of({**TINY, **ACROSS, "target_labels": "train"})
    train(both, granted, quiet_run(tmp_path / "upper"))
    assert sorted(opened) == ["s0_bssfp", "s1_bssfp", "s90_lge", "s91_lge"]
    opened.clear()
    one = Settings.of({**TINY, **ACROSS, "target_labels": "train", "target_labelled": 1})
    train(both, one, quiet_run(tmp_path / "one"))
    assert len([scan for scan in opened if scan.endswith("lge")]) == 1


def test_without_domains_it_learns_from_all_training_scans(cohort: Cohort, tmp_path: Path) -> None:
    both, opened = watched(cohort)
    train(both, Settings.of(TINY), quiet_run(tmp_path))
    assert sorted(opened) == ["s0_bssfp", "s1_bssfp", "s90_lge", "s91_lge"]


def test_a_preset_and_changes_to_it_reach_the_training_images(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def spy(bank: Any, size: int, changes: Any, **more: Any) -> Any:
        used.append((size, changes))
        return original(bank, size, changes, **more)

    original = supervised.training_batch
    monkeypatch.setattr(supervised, "training_batch", spy)
    changed = {"augmentation": "random_contrast", "augmentation_changes": {"noise_probability": 0.25}}
    train(cohort, Settings.of({**TINY, **changed, "batch_size": 3}), quiet_run(tmp_path))
    expected = PRESETS["random_contrast"].model_copy(update={"noise_probability": 0.25})
    assert used == [(3, expected)] * 4
    assert expected.random_contrast_probability > 0
    assert PRESETS["standard"].random_contrast_probability == 0


@pytest.mark.slow
def test_the_loss_falls_from_that_of_a_guess(cohort: Cohort, tmp_path: Path) -> None:
    learning = stage(cohort, tmp_path, steps=40, steps_per_round=20, learning_rate=1e-2, ema_decay=0)
    losses = []
    original = learning.update
    learning.update = lambda step: losses.append(original(step)) or losses[-1]  # type: ignore[method-assign]
    supervised.fit(learning, rounds=2, steps_per_round=20)
    first, last = (
        torch.stack([entry["loss"] for entry in part]).mean() for part in (losses[:5], losses[-5:])
    )
    assert last < 0.7 * first


@pytest.mark.parametrize(
    ("weights", "share"), [({"cross_entropy_weight": 1.0}, 1.0), ({"cross_entropy_weight": 0.0}, 0.0)]
)
def test_the_weights_of_the_loss_are_the_settings(
    cohort: Cohort,
    tmp_path: Path,
    weights: dict[str, float],
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []

    def spy(*arguments: Any, **keywords: Any) -> Any:
        given.append((keywords["cross_entropy_weight"], keywords["dice_weight"]))
        return original(*arguments, **keywords)

    original = supervised.segmentation_loss
    monkeypatch.setattr(supervised, "segmentation_loss", spy)
    train(cohort, Settings.of({**TINY, **weights}), quiet_run(tmp_path))
    assert set(given) == {(share, 1 - share)}


@pytest.mark.slow
def test_the_averaged_weights_are_kept_and_none_without_averaging(cohort: Cohort, tmp_path: Path) -> None:
    settings = {**TINY, "learning_rate": 1e-2}
    plain = train(cohort, Settings.of({**settings, "ema_decay": 0}), quiet_run(tmp_path / "plain"))
    averaged = train(cohort, Settings.of({**settings, "ema_decay": 0.9}), quiet_run(tmp_path / "ema"))
    start = stage(cohort, tmp_path / "start").network.state_dict()
    name = next(iter(dict(plain.network.named_parameters())))
    moved = (plain.network.state_dict()[name] - start[name]).norm()
    lagged = (averaged.network.state_dict()[name] - start[name]).norm()
    assert 0 < lagged < moved


def test_the_schedule_ends_with_the_last_step(cohort: Cohort, tmp_path: Path) -> None:
    settings = Settings.of({**TINY, "steps": 4, "steps_per_round": 2, "learning_rate": 0.01})
    run = Run(tmp_path / "run", device="cpu", precision="32", progress=False)
    run.open({}, cohort, "test")
    train(cohort, settings, run)
    lines = (run.stage_folder("segmentation") / "metrics.csv").read_text().splitlines()
    rates = [float(line["learning_rate"]) for line in csv.DictReader(lines) if line["learning_rate"]]
    assert rates[-1] == pytest.approx(
        0.01 / 25 / 1e4, rel=1e-3
    )  # one_cycle: 1/25 of the highest, then 1/10,000


def test_steps_are_whole_rounds_or_refused() -> None:
    assert Settings.of({"steps": 100}).rounds == (1, 100)
    assert Settings.of({"steps": 1000, "steps_per_round": 250}).rounds == (4, 250)
    with pytest.raises(SettingsError, match="take 250 or 500, or another steps_per_round"):
        Settings.of({"steps": 370})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "u-net"}, r"network 'u-net' does not exist; did you mean .*'unet'"),
        ({"network_arguments": {"widht": 4}}, r"no argument 'widht'; did you mean 'width'"),
        ({"image_size": 100, "network": "unet"}, r"multiple of 16 .* got 100 x 100"),
        ({"augmentation_changes": {"gama": [1, 2]}}, r"there is no 'gama'; did you mean 'gamma'"),
        ({"augmentation_changes": {"gamma": [2, 1]}}, r"gamma: a range is \[low, high\]"),
        ({"augmentation": "strong"}, r"augmentation: Input should be 'none', 'light'"),
        ({"cross_entropy_weight": 1.5}, r"cross_entropy_weight: .* less than or equal to 1, got 1\.5"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_is_read(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings.of({**TINY, "network_arguments": {}, **changes})


def test_a_cohort_without_labels_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no labelled scan to train on; `crossbeat check` shows"):
        train(cohort.without_labels(), Settings.of(TINY), quiet_run(tmp_path))
