"""Weak transfer: what it learns from, its batches and weights, both stages, what it notices, what it refuses."""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError, SettingsError
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.losses.adversarial import discriminator_loss
from crossbeat.losses.segmentation import cross_entropy, dice_loss
from crossbeat.methods.recipe import find_domains
from crossbeat.methods.weak_transfer import Settings, stages, train, watch
from crossbeat.methods.weak_transfer.pairs import MixedBatch, Pairs, gather, mask_noise, shift_crops
from crossbeat.methods.weak_transfer.stages import Adversarial, Warmup, pair_weights, transfer_loss
from crossbeat.prepare.augment import Augmentation, apply, draw
from crossbeat.segmenter import Segmenter
from crossbeat.training import Run, fit

ACROSS: dict[str, Any] = {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}}
TINY: dict[str, Any] = {
    "network_arguments": {"width": 4},
    "image_size": 32,
    "spacing_mm": 3.0,
    "augmentation": "none",
    "crop_shift_mm": 6.0,
    "batch_size": 4,
    "warmup_steps": 4,
    "adversarial_steps": 4,
    "steps_per_round": 2,
}
LEARNS: dict[str, Any] = {
    "network_arguments": {"width": 8},
    "image_size": 48,
    "spacing_mm": 2.5,
    "augmentation": "light",
    "crop_shift_mm": 5.0,
    "batch_size": 8,
    "warmup_steps": 120,
    "adversarial_steps": 40,
    "steps_per_round": 40,
    "warmup_learning_rate": 5e-3,
    "learning_rate": 1e-3,
    "cross_entropy_weight": 0.5,
    "ema_decay": 0.9,
}
"""For the contract suite: learns small hearts in seconds on one core."""
ONCE: dict[str, Any] = {"warmup_steps": 2, "adversarial_steps": 2, "steps_per_round": 2}
"""For the contract suite: changes to those that make it do everything once, and learn nothing."""


def quiet_run(folder: Path, seed: int = 0, **other: Any) -> Run:
    run = Run(folder, seed=seed, device="cpu", precision="32", progress=False, **other)
    run.open({}, Cohort(()), "test")
    return run


def cohort_of(hearts: Callable[..., Cohort], *, t2: bool = False) -> tuple[Cohort, list[str]]:
    """Patients s0 to s3 with labelled bSSFP (and T2); LGE of all, s3's tested; and whose labels were opened."""
    small_heart = hearts(1, 0).read
    opened: list[str] = []

    def read(row: Row) -> Case:
        if row.labels:
            opened.append(row.scan)
            return small_heart(row)
        return replace(small_heart(row), labels=None, drawn=())

    rows = [
        Row(f"s{i}", f"s{i}_{sequence}", sequence, "-", split="train", labels="-")
        for sequence in (("bssfp", "t2") if t2 else ("bssfp",))
        for i in range(3)
    ]
    rows += [Row(f"s{i}", f"s{i}_lge", "lge", "-", split="train", labels="-") for i in range(3)]
    rows += [Row("s3", "s3_lge", "lge", "-", split="test", labels="-")]
    return Cohort(tuple(rows), read, "patients"), opened


def settings_of(**changes: Any) -> Settings:
    return Settings.of({**TINY, **ACROSS, **changes})


def pairs_of(cohort: Cohort, settings: Settings, folder: Path) -> Pairs:
    return gather(find_domains(cohort, settings, 0), settings, quiet_run(folder))


def everything(tensor: Tensor) -> Tensor:
    return tensor


def logged(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def metrics(folder: Path, stage: str = "adversarial") -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "stages" / stage / "metrics.csv").read_text().splitlines()))


@pytest.fixture
def patients(hearts: Callable[..., Cohort]) -> tuple[Cohort, list[str]]:
    return cohort_of(hearts)


# --- what it learns from -----------------------------------------------------------------------------


@pytest.mark.slow
def test_it_never_opens_a_target_label_but_those_that_are_granted(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    cohort, opened = patients
    told = train(cohort, settings_of(**ONCE), quiet_run(tmp_path / "none")).provenance["trained_on"]
    assert {scan for scan in opened if scan.endswith("lge")} == set()
    assert told["target"] == ["s0_lge", "s1_lge", "s2_lge"]
    opened.clear()
    granted = settings_of(target_labels="train", target_labelled=1, **ONCE)
    told = train(cohort, granted, quiet_run(tmp_path / "one")).provenance["trained_on"]
    assert [scan for scan in opened if scan.endswith("lge")] == told["labelled_target"]
    assert len(told["labelled_target"]) == 1


def test_a_pseudo_mask_is_the_source_mask_on_the_targets_image(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    """Both scans have one grid here, so that the true LGE mask, which is the same, must arrive whole."""
    cohort, _ = patients
    settings = settings_of()
    pairs = pairs_of(cohort, settings, tmp_path)
    assert len(pairs.true) == len(pairs.pseudo) == 9
    places = [pairs.bank.table[i] for i in pairs.pseudo.tolist()]
    assert {(p.subject, p.sequence) for p in places} == {(f"s{i}", "lge") for i in range(3)}
    assert torch.equal(pairs.bank.labels[pairs.pseudo], pairs.bank.labels[pairs.true])
    assert not torch.equal(pairs.bank.images[pairs.pseudo], pairs.bank.images[pairs.true])


def test_a_target_with_its_own_labels_takes_no_pseudo_mask(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    cohort, _ = patients
    settings = settings_of(target_labels="train", target_labelled=1)
    pairs = pairs_of(cohort, settings, tmp_path)
    true = {pairs.bank.table[i].subject for i in pairs.true if pairs.bank.table[i].sequence == "lge"}
    pseudo = {pairs.bank.table[i].subject for i in pairs.pseudo}
    assert len(true) == 1
    assert pseudo == {"s0", "s1", "s2"} - true


def test_masks_of_two_sequences_are_both_kept_or_fused(hearts: Callable[..., Cohort], tmp_path: Path) -> None:
    cohort, _ = cohort_of(hearts, t2=True)
    both = {"source": {"sequence": ["bssfp", "t2"]}}
    kept = pairs_of(cohort, settings_of(**both), tmp_path / "kept")
    fused = pairs_of(cohort, settings_of(**both, fuse_masks="majority"), tmp_path / "fused")
    assert (len(kept.true), len(kept.pseudo)) == (18, 18)
    assert (len(fused.true), len(fused.pseudo)) == (18, 9)
    at = {
        kept.bank.table[i].z: kept.bank.labels[i] for i in kept.pseudo if kept.bank.table[i].subject == "s0"
    }
    for i in fused.pseudo.tolist():
        if fused.bank.table[i].subject == "s0":
            assert torch.equal(fused.bank.labels[i], at[fused.bank.table[i].z])  # they agree here


@pytest.mark.parametrize(
    ("correspondence", "carried"), [("physical", {0: 1, 1: 2}), ("index", {0: 0, 1: 1, 2: 2})]
)
def test_masks_reach_the_target_by_the_correspondence_of_the_settings(
    patients: tuple[Cohort, list[str]], tmp_path: Path, correspondence: str, carried: dict[int, int]
) -> None:
    """LGE headers that lie one slice higher: by position slice 0 has the source's slice 1, by number its slice 0."""

    def read(row: Row) -> Case:
        case = patients[0].read(row)
        higher = case.affine + np.outer([0, 0, 1, 0], [0, 0, 0, 8.0])
        return replace(case, affine=higher) if row.sequence == "lge" else case

    settings = settings_of(correspondence=correspondence, centre="image")
    pairs = pairs_of(replace(patients[0], read=read), settings, tmp_path)
    drawn = {(pairs.bank.table[i].subject, pairs.bank.table[i].z): i for i in pairs.true.tolist()}
    places = [(pairs.bank.table[i], i) for i in pairs.pseudo.tolist()]
    assert {place.z for place, _ in places} == set(carried)
    for place, i in places:
        source = drawn[place.subject, carried[place.z]]
        assert torch.equal(pairs.bank.labels[i], pairs.bank.labels[source])


@pytest.mark.parametrize(("rounding", "reached"), [("paper", {0, 1, 3}), ("code", {1, 2, 4})])
def test_slice_numbers_are_rounded_as_the_settings_say(
    patients: tuple[Cohort, list[str]], tmp_path: Path, rounding: str, reached: set[int]
) -> None:
    """Three slices onto five: floor(5 i / 3) is 0, 1, 3; round(5 (i + 1) / 3) - 1 is 1, 2, 4."""

    def read(row: Row) -> Case:
        case = patients[0].read(row)
        return case if row.labels else replace(case, image=case.image[:, [0, 0, 1, 1, 2]])

    settings = settings_of(correspondence="index", rounding=rounding)
    pairs = pairs_of(replace(patients[0], read=read), settings, tmp_path)
    assert {pairs.bank.table[i].z for i in pairs.pseudo} == reached


@pytest.mark.parametrize(("labelled", "taken"), [((0, 1), 1), ((0,), 0)])
def test_the_mask_of_a_cine_is_that_at_end_diastole_where_it_is_labelled(
    patients: tuple[Cohort, list[str]], tmp_path: Path, labelled: tuple[int, ...], taken: int
) -> None:
    """The cine begins at end-systole, as a smaller heart that lies elsewhere; its frame 1 is end-diastole."""
    cohort, _ = patients
    rows = tuple(replace(r, ed_frame=1, es_frame=0) if r.sequence == "bssfp" else r for r in cohort)

    def read(row: Row) -> Case:
        case = cohort.read(row)
        if case.labels is None:
            return case
        beside = np.roll(case.labels, (2, 3), axis=(2, 3))
        beside[beside == Structure.RV] = Structure.BACKGROUND
        labels = np.concatenate([beside, case.labels])
        labels[[t for t in (0, 1) if t not in labelled]] = UNKNOWN
        drawn = tuple(case.drawn[0] if t in labelled else frozenset[Structure]() for t in (0, 1))
        return replace(case, image=case.image.repeat(2, axis=0), labels=labels, drawn=drawn)

    pairs = pairs_of(Cohort(rows, read, "cines"), settings_of(centre="image"), tmp_path)
    frame = {
        (place.subject, place.z): pairs.bank.labels[i]
        for i, place in enumerate(pairs.bank.table)
        if i < len(pairs.true) and place.frame == taken
    }
    assert len(pairs.pseudo) == 9
    for i in pairs.pseudo.tolist():
        place = pairs.bank.table[i]
        assert torch.equal(pairs.bank.labels[i], frame[place.subject, place.z])


def test_without_transfer_no_target_image_is_read(patients: tuple[Cohort, list[str]], tmp_path: Path) -> None:
    cohort, _ = patients
    pairs = pairs_of(cohort, settings_of(transfer=False), tmp_path)
    assert len(pairs.pseudo) == 0
    assert {place.sequence for place in pairs.bank.table} == {"bssfp"}
    told = train(cohort, settings_of(transfer=False, **ONCE), quiet_run(tmp_path / "run")).provenance
    assert "target" not in told["trained_on"]


def test_slices_without_a_heart_are_left_out_where_asked(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    cohort, _ = patients

    def read(row: Row) -> Case:
        case = cohort.read(row)
        if case.labels is None:
            return case
        labels = case.labels.copy()
        labels[:, 0] = 0  # looked at, and nothing there
        return replace(case, labels=labels)

    bare = replace(cohort, read=read)
    assert len(pairs_of(bare, settings_of(), tmp_path / "kept").bank) == 18
    pairs = pairs_of(bare, settings_of(keep_empty_slices=False), tmp_path / "dropped")
    assert (len(pairs.true), len(pairs.pseudo)) == (6, 6)


# --- batches -----------------------------------------------------------------------------------------


def test_half_of_every_batch_is_true_and_every_devices_share_too(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    settings = settings_of(batch_size=8)
    pairs = pairs_of(patients[0], settings, tmp_path)
    for step in range(5):
        whole = pairs.batch(settings, seed=0, step=step, share=everything)
        assert whole.is_true.tolist() == [True, False] * 4
        parts = [
            pairs.batch(settings, seed=0, step=step, share=lambda i, r=r: i[4 * r : 4 * r + 4])
            for r in (0, 1)
        ]
        assert all(part.is_true.sum() == 2 for part in parts)
        assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_the_true_samples_of_a_batch_can_be_taken_alone(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    settings = settings_of(mixing="pooled", batch_size=6)
    pairs = pairs_of(patients[0], settings, tmp_path)
    for step in range(4):
        whole = pairs.batch(settings, seed=0, step=step, share=everything)
        alone = whole.only_true()
        assert alone.is_true.all()
        assert alone.true_at.tolist() == list(range(int(whole.is_true.sum())))
        for name in ("image", "labels", "drawn", "seed"):
            assert torch.equal(getattr(alone, name), getattr(whole, name)[whole.is_true])


def test_a_pool_holds_true_masks_as_often_as_asked(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    """Nine true slices four times and nine pseudo ones: over one pass of 45, four in five are true."""
    settings = settings_of(mixing="pooled", true_repeats=4, batch_size=5)
    pairs = pairs_of(patients[0], settings, tmp_path)
    chosen = torch.cat([pairs.choose(settings, seed=1, step=step) for step in range(9)])
    assert torch.bincount(chosen, minlength=18).tolist() == [4] * 9 + [1] * 9


def test_five_crops_lie_in_the_middle_and_beside_it() -> None:
    """A field that says its own place: each crop shows the middle moved by 0 or 3 px along one axis."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    image = torch.stack([rows, columns]).expand(60, 2, 24, 24)
    labels = torch.zeros(60, 24, 24, dtype=torch.uint8)
    plain = draw(Augmentation(), 60, torch.Generator().manual_seed(0))
    shifted = shift_crops(plain, 3, torch.Generator().manual_seed(1))
    cut, _ = apply(shifted, image, labels, size=(8, 8))
    middles = cut[:, :, 3:5, 3:5].mean(dim=(2, 3)) - 11.5
    found = {tuple(round(v) for v in pair) for pair in middles.tolist()}
    assert found == {(0, 0), (-3, 0), (3, 0), (0, -3), (0, 3)}
    assert shift_crops(plain, 0, torch.Generator()) is plain


def test_the_noise_on_masks_is_each_samples_own() -> None:
    batch = MixedBatch(
        torch.zeros(3, 1, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.ones(3, 4, dtype=torch.bool),
        torch.ones(3, dtype=torch.bool),
        torch.arange(3),
        torch.tensor([5, 6, 5]),
    )
    noise = mask_noise(batch, 0.2)
    assert noise.std().item() == pytest.approx(0.2, rel=0.1)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])


# --- losses ------------------------------------------------------------------------------------------


def mixed(n: int = 4) -> tuple[Tensor, MixedBatch]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (n, 6, 6), generator=generator, dtype=torch.uint8)
    batch = MixedBatch(
        torch.randn(n, 1, 6, 6, generator=generator),
        labels,
        torch.ones(n, 4, dtype=torch.bool),
        torch.tensor([True, False] * (n // 2)),
        torch.arange(0, n, 2),
        torch.arange(n),
    )
    return torch.randn(n, 4, 6, 6, generator=generator), batch


def test_the_loss_is_lambda_of_true_and_the_rest_of_pseudo_samples() -> None:
    logits, batch = mixed()
    entropy = cross_entropy(logits, batch.labels, batch.drawn)
    dice = dice_loss(logits, batch.labels, batch.drawn, include_background=False, smooth=1e-5)
    each = (0.7 * entropy + 0.3 * dice).tolist()
    found = transfer_loss(logits, batch, settings_of(true_weight=0.8, cross_entropy_weight=0.7))
    expected = (0.8 * (each[0] + each[2]) + 0.2 * (each[1] + each[3])) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)
    alike = transfer_loss(logits, batch, settings_of(transfer=False, cross_entropy_weight=0.7))
    assert alike.item() == pytest.approx(sum(each) / 4, rel=1e-5)


def test_pure_dice_is_the_other_reading_of_the_baseline() -> None:
    logits, batch = mixed()
    found = transfer_loss(logits, batch, settings_of(transfer=False, cross_entropy_weight=0.0, smooth=0.5))
    dice = dice_loss(logits, batch.labels, batch.drawn, include_background=False, smooth=0.5)
    assert found.item() == pytest.approx(dice.mean().item(), rel=1e-6)


def test_the_codes_dice_is_one_number_of_the_whole_batch() -> None:
    logits, batch = mixed()
    settings = settings_of(dice_over="batch", true_weight=0.5, smooth=1.0)
    p = logits.softmax(dim=1)
    truth = F.one_hot(batch.labels.long(), 4).permute(0, 3, 1, 2)
    dice = (2 * (p * truth).sum() * 0.5 + 1) / ((p + truth).sum() * 0.5 + 1)
    expected = 0.9 * F.cross_entropy(logits, batch.labels.long()) + 0.1 * (1 - dice)
    assert transfer_loss(logits, batch, settings).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("excluded", [1, 0, 1, 0]), ("weighted", [0.9, 0.1, 0.9, 0.1]), ("full", [1, 1, 1, 1])],
)
def test_pseudo_pairs_are_real_ones_of_weight_none_less_or_one(choice: str, expected: list[float]) -> None:
    _, batch = mixed()
    assert pair_weights(batch, settings_of(pseudo_pairs=choice)).tolist() == pytest.approx(expected)


def test_only_whole_hearts_are_shown_as_drawn() -> None:
    _, batch = mixed()
    drawn, labels = batch.drawn.clone(), batch.labels.clone()
    drawn[1, Structure.RV] = False
    labels[2] = UNKNOWN
    assert replace(batch, drawn=drawn, labels=labels).complete.tolist() == [True, False, False, True]


# --- the two stages ----------------------------------------------------------------------------------


def adversarial(cohort: Cohort, folder: Path, **changes: Any) -> Adversarial:
    settings = settings_of(**changes)
    run = quiet_run(folder)
    pairs = gather(find_domains(cohort, settings, 0), settings, run)
    return Adversarial(run, settings, settings.spec.build(), pairs, {})


def test_both_networks_learn_and_both_losses_are_logged(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    stage = adversarial(patients[0], tmp_path, ema_decay=0, adversarial_weight=0.3)
    before = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    fit(stage, rounds=2, steps_per_round=2)
    moved = {name.split(".")[0] for name, t in stage.state_dict().items() if not torch.equal(t, before[name])}
    assert {"network", "discriminator"} <= moved
    last = metrics(tmp_path)[-1]
    told = {name: float(last[name]) for name in last if name.startswith(("loss", "d_on"))}
    total = told["loss_segmentation"] + 0.3 * told["loss_adversarial"]
    assert told["loss"] == pytest.approx(total, rel=1e-5)
    assert 0 < told["loss_discriminator"] < 4 * math.log(2)
    assert 0 < told["d_on_drawn"] < 1


def no_segmentation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever then moves the segmenter comes through the discriminator."""
    monkeypatch.setattr(stages, "transfer_loss", lambda logits, batch, s: 0 * logits.sum())


@pytest.mark.slow
def test_the_discriminator_learns_to_tell(patients: tuple[Cohort, list[str]], tmp_path: Path) -> None:
    """The segmenter is held still."""
    still = {"learning_rate": 1e-12, "discriminator_learning_rate": 2e-3}
    fit(adversarial(patients[0], tmp_path, **still), rounds=1, steps_per_round=20)
    last = metrics(tmp_path)[-1]
    assert float(last["d_on_drawn"]) > float(last["d_on_made_up"]) + 0.1


@pytest.mark.slow
def test_the_segmenter_learns_to_pass(
    patients: tuple[Cohort, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D is held still, no mask is taught, and one batch comes again and again: the same masks would lose the same."""
    no_segmentation_loss(monkeypatch)
    still = {"learning_rate": 3e-2, "discriminator_learning_rate": 1e-12, "adversarial_weight": 1.0}
    passing = adversarial(patients[0], tmp_path, ema_decay=0, **still)
    passing.run = replace(passing.run, log_every=1)
    one = passing._batch(0)
    monkeypatch.setattr(passing, "_batch", lambda step: one)
    fit(passing, rounds=1, steps_per_round=12)
    lost = [float(row["loss_adversarial"]) for row in metrics(tmp_path)]
    assert lost[-1] < lost[0] - 1e-3


@pytest.mark.parametrize(("weight", "moves"), [(0.3, True), (0.0, False)])
def test_the_segmenter_is_moved_through_the_discriminator_alone(
    patients: tuple[Cohort, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weight: float,
    moves: bool,
) -> None:
    no_segmentation_loss(monkeypatch)
    stage = adversarial(patients[0], tmp_path, ema_decay=0, adversarial_weight=weight)
    before = [p.detach().clone() for p in stage.network.parameters()]
    fit(stage, rounds=1, steps_per_round=1)
    moved = [not torch.equal(p, b) for p, b in zip(stage.network.parameters(), before, strict=True)]
    assert any(moved) is moves


@dataclass
class Step:
    """What one update of the second stage did."""

    batch: MixedBatch
    losses: list[dict[str, Any]] = field(default_factory=list)
    """Arguments of each `discriminator_loss` by name, and its `value`."""
    shown: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Images and masks of each forward pass of D."""
    descents: list[tuple[int, float, float]] = field(default_factory=list)
    """Number of the optimizer, the loss, and D's squared kernels at the time."""


def take_one_step(
    cohort: Cohort,
    folder: Path,
    change: Callable[[MixedBatch], MixedBatch] = lambda batch: batch,
    **changes: Any,
) -> tuple[Adversarial, Step]:
    """One update, watched; `change` may alter its batch."""
    stage = adversarial(cohort, folder, **changes)
    d = stage.discriminator
    assert d is not None
    step = Step(change(stage._batch(0)))

    def lose(real: Tensor, fake: Tensor, **further: Any) -> Tensor:
        value = discriminator_loss(real, fake, **further)
        step.losses.append({"real": real, "fake": fake, **further, "value": float(value.detach())})
        return value

    original = stage.descend

    def descend(loss: Tensor, optimizer: int, **clipping: Any) -> None:
        step.descents.append((optimizer, float(loss.detach()), float(d.kernel_penalty().detach())))
        original(loss, optimizer, **clipping)

    d.register_forward_pre_hook(lambda _, shown: step.shown.append((shown[0], shown[1].detach())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "discriminator_loss", lose)
        patch.setattr(stage, "descend", descend)
        patch.setattr(stage, "_batch", lambda _: step.batch)
        fit(stage, rounds=1, steps_per_round=1)
    return stage, step


def without_an_rv(batch: MixedBatch) -> MixedBatch:
    """Nobody drew the RV of the first sample."""
    drawn = batch.drawn.clone()
    drawn[0, Structure.RV] = False
    return replace(batch, drawn=drawn)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"pseudo_pairs": "weighted"}, [0.9, 0.1, 0.9, 0.1]),
        ({"pseudo_pairs": "weighted", "true_weight": 0.7}, [0.7, 0.3, 0.7, 0.3]),
        ({"pseudo_pairs": "full"}, [1, 1, 1, 1]),
        ({"pseudo_pairs": "excluded"}, [1, 1]),
        ({"transfer": False}, [1, 1, 1, 1]),
    ],
)
def test_the_discriminator_weighs_a_pair_alike_as_drawn_and_as_made_up(
    patients: tuple[Cohort, list[str]], tmp_path: Path, changes: dict[str, Any], weights: list[float]
) -> None:
    """But for the first image, no whole heart: as a drawn pair it counts nowhere."""
    _, step = take_one_step(patients[0], tmp_path, without_an_rv, **changes)
    of_real, of_fake = step.losses
    assert of_real["real_weights"].tolist() == pytest.approx([0, *weights[1:]])
    assert of_fake["fake_weights"].tolist() == pytest.approx(weights)
    assert (len(of_real["real"]), len(of_fake["fake"])) == (len(weights), len(weights))
    assert (len(of_real["fake"]), len(of_fake["real"])) == (0, 0)


def test_excluded_pairs_are_in_neither_pass_that_teaches_the_discriminator(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    """Its BatchNorm would see them, whatever their weight. The segmenter's masks are judged on all images."""
    _, step = take_one_step(patients[0], tmp_path, pseudo_pairs="excluded")
    (drawn_on, _), (made_up_on, _), (judged_on, _) = step.shown
    assert torch.equal(drawn_on, step.batch.image[[0, 2]])
    assert torch.equal(made_up_on, step.batch.image[[0, 2]])
    assert torch.equal(judged_on, step.batch.image)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_step_without_any_true_pair_teaches_an_excluding_discriminator_nothing(
    patients: tuple[Cohort, list[str]], tmp_path: Path, norm: str
) -> None:
    def only_pseudo(batch: MixedBatch) -> MixedBatch:
        return replace(batch, is_true=torch.zeros(4, dtype=torch.bool), true_at=torch.arange(0))

    own = {"pseudo_pairs": "excluded", "mixing": "pooled", "discriminator_norm": norm}
    before = adversarial(patients[0], tmp_path / "before", **own)
    stage, step = take_one_step(patients[0], tmp_path / "after", only_pseudo, **own)
    assert len(step.shown) == 1  # the segmenter's
    assert [loss["value"] for loss in step.losses] == [0, 0]
    assert stage.discriminator is not None
    assert before.discriminator is not None
    for now, then in zip(stage.discriminator.parameters(), before.discriminator.parameters(), strict=True):
        assert torch.equal(now, then)
    assert metrics(tmp_path / "after")[-1]["d_on_drawn"] == "nan"


def test_the_label_of_real_pairs_is_the_settings(patients: tuple[Cohort, list[str]], tmp_path: Path) -> None:
    _, step = take_one_step(patients[0], tmp_path, real_label=0.8)
    assert step.losses[0]["real_label"] == 0.8


@pytest.mark.parametrize("sd", [0.0, 0.2])
def test_drawn_masks_are_shown_with_as_much_noise_as_asked(
    patients: tuple[Cohort, list[str]], tmp_path: Path, sd: float
) -> None:
    _, step = take_one_step(patients[0], tmp_path, mask_noise_sd=sd, transfer=False)
    assert (step.batch.labels != UNKNOWN).all()
    drawn = F.one_hot(step.batch.labels.long(), 4).permute(0, 3, 1, 2).float()
    assert torch.equal(step.shown[0][1], drawn + (mask_noise(step.batch, sd) if sd else 0))
    sums = step.shown[1][1].sum(dim=1)  # made-up masks have none
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0, 0.01])
def test_the_discriminator_is_updated_once_for_both_sides_or_once_for_each(
    patients: tuple[Cohort, list[str]], tmp_path: Path, penalty: float
) -> None:
    _, once = take_one_step(patients[0], tmp_path / "once", kernel_penalty=penalty)
    assert [number for number, _, _ in once.descents] == [1, 0]
    _, loss, kernels = once.descents[0]
    real, fake = (given["value"] for given in once.losses)
    assert loss == pytest.approx(real + fake + penalty * kernels, rel=1e-5)
    own = {"kernel_penalty": penalty, "separate_discriminator_updates": True}
    _, twice = take_one_step(patients[0], tmp_path / "twice", **own)
    assert [number for number, _, _ in twice.descents] == [1, 1, 0]
    for given, (_, loss, kernels) in zip(twice.losses, twice.descents[:2], strict=True):
        assert loss == pytest.approx(given["value"] + penalty * kernels, rel=1e-5)
    assert twice.descents[0][2] != twice.descents[1][2]  # between them it has moved


@pytest.mark.parametrize("clipping", [{"clip_value": 1e-4, "clip_norm": 0.0}, {"clip_norm": 1e-3}])
def test_the_segmenters_gradient_is_clipped_and_the_discriminators_is_not(
    patients: tuple[Cohort, list[str]], tmp_path: Path, clipping: dict[str, float]
) -> None:
    stage, _ = take_one_step(patients[0], tmp_path, **clipping)
    assert stage.discriminator is not None
    ours, theirs = (
        torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        for network in (stage.network, stage.discriminator)
    )
    if "clip_value" in clipping:
        assert ours.abs().max().item() == pytest.approx(1e-4)
        assert theirs.abs().max().item() > 1e-2
    else:
        assert ours.norm().item() == pytest.approx(1e-3, rel=1e-3)
        assert theirs.norm().item() > 1e-1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"profile": "text", "crop_shift_mm": 0},
        {"profile": "code"},
        {
            "correspondence": "registered",
            "spectral_norm": True,
            "mask_noise_sd": 0.1,
            "discriminator_norm": "none",
        },
        {"pseudo_pairs": "excluded", "mixing": "pooled"},
        {"adversarial": False, "image_size": 40, "discriminator_head": "flatten"},  # no multiple of 16
        {"adversarial": False, "transfer": False},
    ],
)
def test_every_profile_and_arm_takes_its_steps(
    patients: tuple[Cohort, list[str]], tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert isinstance(train(patients[0], settings_of(**ONCE, **changes), quiet_run(tmp_path)), Segmenter)
    assert ("loss_discriminator" in metrics(tmp_path)[0]) is changes.get("adversarial", True)


def test_the_second_stage_goes_on_with_other_batches_than_the_first(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    stage = adversarial(patients[0], tmp_path, warmup_steps=6)
    seen = []
    original = Pairs.batch
    stage._batch = lambda step: (  # type: ignore[method-assign]
        seen.append(step) or original(stage.pairs, stage.settings, seed=0, step=step, share=stage.share)
    )
    fit(stage, rounds=1, steps_per_round=2)
    assert seen == [6, 7]


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", ["warmup", "adversarial"])
def test_stopped_in_either_stage_it_ends_as_if_it_had_not(
    patients: tuple[Cohort, list[str]],
    tmp_path: Path,
    stopped_in: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohort, settings = patients[0], settings_of(augmentation="light")
    whole = train(cohort, settings, quiet_run(tmp_path / "whole")).network.state_dict()
    stage = Warmup if stopped_in == "warmup" else Adversarial
    original = stage.update

    def stop(self: Any, step: int) -> dict[str, Tensor]:
        if step == 3 and type(self) is stage:
            raise KeyError("the power went off")
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "update", stop)
        with pytest.raises(KeyError):
            train(cohort, settings, quiet_run(tmp_path / "cut"))
    resumed = train(cohort, settings, quiet_run(tmp_path / "cut", resume=True)).network.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    state = torch.load(tmp_path / "cut/stages/adversarial/checkpoints/last.ckpt", weights_only=True)
    assert len(state["optimizer_states"]) == 2


# --- collapse ----------------------------------------------------------------------------------------


def tallies(on_drawn: float, on_made_up: float, predicted: tuple[float, ...] = (90, 90, 90)) -> Tensor:
    return torch.tensor([*predicted, 100.0, 100.0, 100.0, 4 * on_drawn, 4 * on_made_up, 4.0])


@pytest.mark.parametrize(
    ("found", "kinds"),
    [
        (tallies(0.7, 0.3), set()),
        (tallies(0.89, 0.01), {"won"}),
        (tallies(0.5, 0.49), {"chance"}),
        (tallies(0.7, 0.3, (90, 90, 0.5)), {"vanished"}),
        (tallies(0.9, 0.0, (0, 0, 0)), {"won", "vanished"}),
    ],
)
def test_a_collapsed_game_is_known_by_its_symptoms(found: Tensor, kinds: set[str]) -> None:
    assert set(watch.find_symptoms(found, real_label=0.9)) == kinds


def test_a_structure_that_nobody_drew_has_not_vanished() -> None:
    found = tallies(0.7, 0.3, (90, 90, 0))
    found[5] = 0
    assert not watch.find_symptoms(found, real_label=1.0)


def test_masks_are_counted_where_somebody_looked() -> None:
    logits = torch.zeros(1, 4, 1, 4)
    logits[0, 1, 0, :3] = 5
    labels = torch.tensor([[[1, UNKNOWN, 0, 3]]], dtype=torch.uint8)
    assert watch.tally_masks(logits, labels).tolist() == [2, 0, 0, 1, 0, 1, 0, 0, 0]


def test_a_step_in_which_nothing_was_drawn_whole_counts_for_no_opinion() -> None:
    nobody, found = torch.tensor(math.nan), torch.zeros(watch.TALLIES)
    for real, fake in (
        (torch.tensor(0.75), torch.tensor(0.25)),
        (nobody, torch.tensor(0.5)),
        (nobody, nobody),
    ):
        found += watch.tally_opinions(real, fake)
    assert found.tolist() == [0, 0, 0, 0, 0, 0, 0.75, 0.25, 1]


def test_steps_without_a_whole_heart_are_no_sign_of_a_collapse(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    """As 0 on drawn masks they would look like a discriminator at chance."""
    stage = adversarial(patients[0], tmp_path, collapse_rounds=1)
    original = stage._batch

    def partial(step: int) -> MixedBatch:
        batch = original(step)
        return replace(batch, drawn=batch.drawn & torch.tensor([True, True, True, False]))

    stage._batch = partial  # type: ignore[method-assign]
    fit(stage, rounds=2, steps_per_round=2)
    assert not [note for note in logged(tmp_path, "note") if "discriminator" in note["text"]]
    assert [row["d_on_drawn"] for row in metrics(tmp_path)] == ["nan", "nan"]
    assert all(0 < float(row["d_on_made_up"]) < 1 for row in metrics(tmp_path))


def test_it_takes_several_rounds_in_a_row() -> None:
    rounds = torch.zeros(3)
    for symptoms in ({"won": ""}, {"won": ""}, {}, {"won": ""}):
        rounds = watch.count_in_a_row(rounds, symptoms)
    assert rounds.tolist() == [0, 1, 0]


@pytest.mark.slow
def test_a_collapse_is_said_once_with_the_remedy(
    patients: tuple[Cohort, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = adversarial(patients[0], tmp_path, collapse_rounds=2, discriminator_learning_rate=1e-12)
    with torch.no_grad():  # all background, whatever the image
        stage.network.head.bias[0] = 50.0  # type: ignore[index, union-attr]
    fit(stage, rounds=4, steps_per_round=2)
    notes = [note["text"] for note in logged(tmp_path, "note")]
    assert len([note for note in notes if "masks have vanished" in note]) == 1
    assert any("LV, MYO, RV" in note and "lower adversarial_weight" in note for note in notes)
    assert "for 2 rounds in a row" in capsys.readouterr().err


# --- settings and refusals ---------------------------------------------------------------------------


def test_sizes_update_the_segmenter_as_often_as_supervised_training_does() -> None:
    from crossbeat.methods import METHODS

    for size in ("full", "bench", "demo"):
        ours, theirs = (METHODS[m].settings.of({"size": size}) for m in ("weak_transfer", "supervised"))
        assert ours.segmenter_updates == theirs.segmenter_updates


def test_the_released_discriminator_is_that_of_the_code_profile() -> None:
    found = Settings.of({"profile": "code"}).build_discriminator()
    assert sum(p.numel() for p in found.parameters()) == 296_577
    ours = Settings.of({}).build_discriminator()
    assert sum(p.numel() for p in ours.parameters()) == 271_617
    assert sum(p.numel() for p in Settings.of({}).spec.build().parameters()) == 155_652


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 5}, r"batch_size 5 has no half for pseudo masks; take 6, or mixing: pooled"),
        ({"adversarial_steps": 5}, r"adversarial_steps 5 are no whole number of rounds of 2; take 4 or 6"),
        ({"augmentation_changes": {"gama": [1, 2]}}, r"there is no 'gama'; did you mean 'gamma'"),
        ({"network": "dilated_unet"}, r"network 'dilated_unet' does not exist; did you mean"),
        ({"discriminator_head": "flatten", "image_size": 40}, r"'discriminator'.* multiple of 16"),
        ({"correspondence": "nearest"}, r"correspondence: Input should be 'index', 'physical'"),
        ({"class_weights": [1, 2, 0, 1]}, r"class_weights.*greater than 0"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_is_read(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        settings_of(**changes)


def test_a_size_that_no_discriminator_takes_is_none_of_its_business_where_there_is_none() -> None:
    for head in ("flatten", "pool"):
        with pytest.raises(SettingsError, match=r"'discriminator'.* multiple of 16"):
            settings_of(image_size=40, discriminator_head=head)
        assert settings_of(image_size=40, discriminator_head=head, adversarial=False).image_size == 40


def test_devices_that_cannot_take_equal_halves_are_refused_before_anything_is_read(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    """Six on two devices: three each, one with two true masks and one with one."""
    run = Run(tmp_path, device="cpu", devices=2, precision="32", progress=False)
    nothing = Cohort((), patients[0].read, "nothing")
    words = r"batch_size 6: 2 devices cannot each take as many true as pseudo masks of it; take 8, or another --dev"
    with pytest.raises(SettingsError, match=words):
        train(nothing, settings_of(batch_size=6), run)
    for taken in (
        {"batch_size": 8},
        {"batch_size": 6, "mixing": "pooled"},
        {"batch_size": 6, "transfer": False},
    ):
        with pytest.raises(CohortError):  # it goes on to read
            train(nothing, settings_of(**taken), run)


def refuse(cohort: Cohort, folder: Path, words: str, **changes: Any) -> None:
    with pytest.raises(CohortError, match=words):
        train(cohort, settings_of(**changes), quiet_run(folder))
    assert not (folder / "stages").exists()


def test_no_shared_subject_is_said(patients: tuple[Cohort, list[str]], tmp_path: Path) -> None:
    rows = tuple(
        replace(r, subject=f"{r.subject}7" if r.sequence == "lge" else r.subject) for r in patients[0]
    )
    refuse(
        replace(patients[0], rows=rows),
        tmp_path,
        "none of 3 subjects with a target scan has a labelled source",
    )


def test_no_target_left_to_carry_masks_to_is_said(patients: tuple[Cohort, list[str]], tmp_path: Path) -> None:
    words = r"no target scan that trains is without labels of its own.*transductive: true"
    refuse(patients[0], tmp_path / "all", words, target_labels="train")
    rows = tuple(replace(r, split="test") if r.sequence == "lge" else r for r in patients[0])
    rows = tuple(r for r in rows if r.sequence != "lge" or r.subject == "s3")
    refuse(replace(patients[0], rows=rows), tmp_path / "none", words)


def test_images_of_the_tested_take_masks_where_it_is_transductive(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    """As in MS-CMRSeg: the bSSFP of a patient trains, the LGE is tested and its own labels stay shut."""
    cohort, opened = patients
    rows = tuple(replace(r, split="test") if r.sequence == "lge" else r for r in cohort)
    pairs = pairs_of(replace(cohort, rows=rows), settings_of(transductive=True), tmp_path)
    assert {pairs.bank.table[i].scan for i in pairs.pseudo} == {"s0_lge", "s1_lge", "s2_lge"}
    assert not [scan for scan in opened if scan.endswith("lge")]
    with pytest.raises(CohortError, match="transductive: true"):
        pairs_of(replace(cohort, rows=rows), settings_of(), tmp_path / "refused")


def test_no_overlap_in_position_is_said(patients: tuple[Cohort, list[str]], tmp_path: Path) -> None:
    def read(row: Row) -> Case:
        case = patients[0].read(row)
        if row.sequence == "bssfp":
            return case
        affine = case.affine.copy()
        affine[2, 3] += 500.0
        return replace(case, affine=affine)

    apart = replace(patients[0], read=read)
    refuse(apart, tmp_path / "physical", r"no target scan gets a pseudo mask, of 3 pairs .* 500 to 516 mm")


def with_two_apart(cohort: Cohort) -> Cohort:
    """The LGE of s1 and s2 lies half a metre from their bSSFP."""

    def read(row: Row) -> Case:
        case = cohort.read(row)
        moved = case.affine + np.outer([0, 0, 1, 0], [0, 0, 0, 500.0])
        return replace(case, affine=moved) if row.scan in ("s1_lge", "s2_lge") else case

    return replace(cohort, read=read)


def test_scans_that_get_no_mask_are_named_and_the_rest_go_on(
    patients: tuple[Cohort, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter = train(with_two_apart(patients[0]), settings_of(**ONCE), quiet_run(tmp_path))
    assert segmenter.provenance["trained_on"]["target"] == ["s0_lge"]
    said = capsys.readouterr().err
    assert "2 of 3 pairs of scans give no pseudo mask (each is in log.jsonl); first: scan 's1_lge'" in said
    assert "s2_lge" not in said
    told = logged(tmp_path, "no pseudo mask")
    assert [(e["source"], e["target"]) for e in told] == [("s1_bssfp", "s1_lge"), ("s2_bssfp", "s2_lge")]
    assert all("500 to 516 mm" in entry["problem"] for entry in told)


def test_a_dry_run_leaves_no_log_of_scans_without_a_mask(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", device="cpu", progress=False, estimates={})
    settings = settings_of()
    gather(find_domains(with_two_apart(patients[0]), settings, 0), settings, run)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["s1_lge", "s1_bssfp"])
def test_a_broken_scan_is_refused_and_not_taken_for_one_without_a_mask(
    patients: tuple[Cohort, list[str]], tmp_path: Path, broken: str
) -> None:
    """A source breaks only when it is read for the second time, to be carried."""
    read_before: list[str] = []

    def read(row: Row) -> Case:
        case = patients[0].read(row)
        read_before.append(row.scan)
        if row.scan != broken or (row.labels and read_before.count(broken) < 2):
            return case
        return replace(case, image=np.full_like(case.image, np.nan))

    with pytest.raises(CaseError, match=f"scan '{broken}': .* voxels are NaN"):
        pairs_of(replace(patients[0], read=read), settings_of(), tmp_path)


def test_a_missing_sequence_is_said(patients: tuple[Cohort, list[str]], tmp_path: Path) -> None:
    words = r"patients: no scan is source sequence 't2'; there are bssfp, lge; index the missing scans, or"
    refuse(patients[0], tmp_path, words, source={"sequence": ["bssfp", "t2"]})


def test_no_target_is_said_unless_nothing_is_transferred(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    refuse(patients[0], tmp_path / "with", "carries masks to a target, and the recipe names none", target={})
    train(patients[0], settings_of(target={}, transfer=False, **ONCE), quiet_run(tmp_path / "without"))


def test_target_labels_that_are_not_there_are_said(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    rows = tuple(replace(r, labels="" if r.sequence == "lge" else r.labels) for r in patients[0])
    words = "`target_labels: train`, but no training scan of the target has labels"
    refuse(replace(patients[0], rows=rows), tmp_path, words, target_labels="train")


def test_hearts_without_an_rv_cannot_teach_a_discriminator(
    patients: tuple[Cohort, list[str]], tmp_path: Path
) -> None:
    def read(row: Row) -> Case:
        case = patients[0].read(row)
        if case.labels is None:
            return case
        labels = np.where(case.labels == Structure.RV, 0, case.labels).astype(np.uint8)
        return replace(case, labels=labels, drawn=(frozenset({Structure.LV, Structure.MYO}),))

    partial = replace(patients[0], read=read)
    refuse(partial, tmp_path / "refused", "no slice to learn from has all of LV, MYO and RV drawn")
    train(partial, settings_of(adversarial=False, **ONCE), quiet_run(tmp_path / "alone"))


# --- two processes -----------------------------------------------------------------------------------


def train_in(folder: Path, devices: int) -> None:
    """What this file does as a script, once in each process: both stages, without BatchNorm, to the end."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # before the conftest beside this file
    from conftest import small_heart  # that of all tests

    torch.set_num_threads(1)
    cohort, _ = cohort_of(lambda *_: Cohort((), small_heart))
    settings = settings_of(batch_size=8, discriminator_norm="none", crop_shift_mm=0)
    run = Run(folder, device="cpu", devices=devices, precision="32", progress=False)
    run.open({}, cohort, "test")
    seen: list[Adversarial] = []
    built = Adversarial.__init__

    def keep(self: Adversarial, *arguments: Any) -> None:
        built(self, *arguments)
        seen.append(self)

    Adversarial.__init__ = keep  # type: ignore[method-assign]
    train(cohort, settings, run)
    torch.save(seen[0].state_dict(), folder / f"rank{run.rank}.pt")


@pytest.mark.slow
def test_two_processes_train_both_stages_as_one(tmp_path: Path) -> None:
    for devices in (1, 2):
        environment = {
            k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")
        }
        outcome = subprocess.run(
            [sys.executable, __file__, str(tmp_path / str(devices)), str(devices)],
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert outcome.returncode == 0, outcome.stderr
    one, first, second = (
        torch.load(tmp_path / file, weights_only=True) for file in ("1/rank0.pt", "2/rank0.pt", "2/rank1.pt")
    )
    assert {name.partition(".")[0] for name in one} == {"network", "discriminator", "tallies", "in_a_row"}
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], rtol=1e-4, atol=1e-5, msg=name)
    for stage in ("warmup", "adversarial"):
        for ours, alone in zip(metrics(tmp_path / "2", stage), metrics(tmp_path / "1", stage), strict=True):
            assert {k: float(v) for k, v in ours.items()} == pytest.approx(
                {k: float(v) for k, v in alone.items()}, rel=1e-4
            )


if __name__ == "__main__":
    train_in(Path(sys.argv[1]), int(sys.argv[2]))
