"""The CycleGAN of tag pretraining: what a step does, whose weights it moves, what it leaves, on one scale."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cyclegan_on_devices import SIDE, SMALL, bank_of, dimmed, discs, domains, quiet_run
from torch import Tensor, nn

from crossbeat.errors import RunError, SettingsError
from crossbeat.losses.translation import fooling_loss, image_loss, telling_loss
from crossbeat.methods.tag_pretraining.cyclegan import (
    CycleGan,
    CycleGanStage,
    Translator,
    decay,
    draw_crops,
    learn_translator,
    load_translator,
)
from crossbeat.methods.tag_pretraining.replay import Replay
from crossbeat.networks.cyclegan import Generator
from crossbeat.prepare.slices import SliceBank
from crossbeat.prepare.volumes import Preparation, crop
from crossbeat.training import fit, seed_torch

Descend = Callable[..., None]
GENERATORS, JUDGES = ("onward", "back"), ("judge_source", "judge_target")


def settings_of(**changes: Any) -> CycleGan:
    return CycleGan(**{**SMALL, **changes})


def stage_of(folder: Path, banks: tuple[SliceBank, SliceBank] | None = None, **changes: Any) -> CycleGanStage:
    run = quiet_run(folder)
    seed_torch(run.seed, "networks")
    return CycleGanStage(run, settings_of(**changes), *(banks or domains()))


def state_of(stage: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in stage.state_dict().items()}


def translator_of(**prepared: Any) -> Translator:
    torch.manual_seed(0)
    onward, back = (Generator(width=4, blocks=1) for _ in range(2))
    for network in (onward, back):
        nn.init.normal_(network.layers[-2].weight, 0.0, 0.2)
    return Translator(onward, back, Preparation(size=SIDE, **{"scale": "symmetric", **prepared}), {"seed": 3})


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


# --- which images ------------------------------------------------------------------------------------


def test_crops_are_whole_pixels_from_anywhere_in_the_field_and_half_are_mirrored() -> None:
    """Anywhere: the field of an image that nobody labelled is about its middle, and the heart is not."""
    field = Preparation(size=SIDE).field
    images = torch.arange(field * field, dtype=torch.float32).reshape(1, 1, field, field)
    bank = bank_of(images)
    crops = draw_crops(bank, 400, SIDE, seed=0, step=0)
    mirrored = crops[:, 0, 0, 0] > crops[:, 0, 0, 1]
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)
    found = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
    top, left = (found[:, 0, 0, 0] // field).int(), (found[:, 0, 0, 0] % field).int()
    assert {*top.tolist()} == {*left.tolist()} == set(range(field - SIDE + 1))
    for i in range(20):
        y, x = int(top[i]), int(left[i])
        assert torch.equal(found[i], images[0, :, y : y + SIDE, x : x + SIDE])


def test_a_crop_may_be_the_whole_field() -> None:
    bank = bank_of(discs(3, 0))
    field = bank.preparation.field
    whole = draw_crops(bank, 3, field, seed=0, step=0)
    assert sorted(float(i.sum()) for i in whole) == pytest.approx(sorted(float(i.sum()) for i in bank.images))
    assert draw_crops(bank, 30, field - 4, seed=0, step=0).shape == (30, 1, field - 4, field - 4)


def test_every_slice_comes_once_before_one_comes_again_and_devices_share_a_batch() -> None:
    bank = bank_of(discs(6, 0))
    sums = {round(float(image.sum()), 2) for image in bank.images}
    field = bank.preparation.field
    seen = [draw_crops(bank, 2, field, seed=4, step=step) for step in range(3)]
    assert {round(float(image.sum()), 2) for batch in seen for image in batch} == sums
    whole = draw_crops(bank, 4, SIDE, seed=4, step=9)
    halves = [
        draw_crops(bank, 4, SIDE, seed=4, step=9, share=lambda t, r=r: t[2 * r : 2 * r + 2]) for r in (0, 1)
    ]
    assert torch.equal(torch.cat(halves), whole)


def test_the_slices_of_both_domains_meet_in_no_order(tmp_path: Path) -> None:
    """The same slices on both sides would be pairs, were they drawn alike."""
    images = discs(8, 0)
    stage = stage_of(tmp_path, (bank_of(images), bank_of(images)), batch=8, side=48)
    source, target = (stage._images(bank, number, 0) for number, bank in enumerate(stage._banks()))
    assert not torch.equal(source.amax(dim=3), target.amax(dim=3))
    assert sorted(i.sum().item() for i in source) == pytest.approx(sorted(i.sum().item() for i in target))


# --- a step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({}, {"adversarial": 1, "cycle": 10, "identity": 5}),
        ({"pooled": True, "cycle_weight": 3.0}, {"adversarial": 1, "cycle": 3, "identity": 5}),
        ({"identity_weight": 0.0}, {"adversarial": 1, "cycle": 10}),
    ],
)
def test_the_generators_loss_is_the_weighted_sum_of_its_terms(
    tmp_path: Path, changes: dict[str, Any], weights: dict[str, float]
) -> None:
    stage = stage_of(tmp_path, **changes)
    stage.descend = lambda *given, **more: None  # type: ignore[method-assign]
    told = stage.update(0)
    assert told.keys() == {"loss", "loss_discriminator", *(f"loss_{name}" for name in weights)}
    expected = sum(weight * told[f"loss_{name}"] for name, weight in weights.items())
    torch.testing.assert_close(told["loss"], expected)


def test_each_term_is_what_the_paper_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the networks themselves, an image at a time; the discriminators see what the replay gives."""
    stage = stage_of(tmp_path)
    stage.descend = lambda *given, **more: None  # type: ignore[method-assign]
    old = torch.linspace(-1, 1, SIDE).expand(2, 1, SIDE, SIDE)
    monkeypatch.setattr(Replay, "exchange", lambda self, made, **more: old)
    told = stage.update(1)
    x, y = (stage._images(bank, number, 1) for number, bank in enumerate(stage._banks()))
    to_y, to_x, is_x, is_y = stage.onward, stage.back, stage.judge_source, stage.judge_target
    expected = {
        "adversarial": fooling_loss(is_y(to_y(x))) + fooling_loss(is_x(to_x(y))),
        "cycle": image_loss(to_x(to_y(x)), x) + image_loss(to_y(to_x(y)), y),
        "identity": image_loss(to_y(y), y) + image_loss(to_x(x), x),
        "discriminator": telling_loss(is_x(x), is_x(old)) + telling_loss(is_y(y), is_y(old)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(told[f"loss_{name}"], value.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("skipped", "still"), [(0, GENERATORS), (1, JUDGES)])
def test_each_side_moves_by_its_own_optimizer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: int, still: tuple[str, str]
) -> None:
    stage = stage_of(tmp_path)
    before = state_of(stage)
    real = CycleGanStage.descend
    monkeypatch.setattr(
        CycleGanStage,
        "descend",
        lambda self, loss, which: None if which == skipped else real(self, loss, which),
    )
    fit(stage, rounds=1, steps_per_round=1)
    for name, tensor in stage.state_dict().items():
        if name.split(".")[0] in GENERATORS + JUDGES and "weight" in name:
            assert torch.equal(tensor, before[name]) == name.startswith(still), name


def test_the_learning_rate_rests_and_then_falls_to_nothing() -> None:
    assert [decay(step, 200) for step in (0, 99, 100, 150, 199, 200)] == [1, 1, 1, 0.5, 0.01, 0]
    assert decay(1, 1) == 0


# --- the whole ---------------------------------------------------------------------------------------


def test_it_trains_in_bfloat16_and_keeps_images_and_losses_in_full(tmp_path: Path) -> None:
    stage = CycleGanStage(quiet_run(tmp_path, precision="bf16"), settings_of(steps=1), *domains())
    fit(stage, rounds=1, steps_per_round=1)
    assert stage.made_source.images.dtype == torch.float32
    assert all(p.isfinite().all() for p in stage.parameters())


@pytest.mark.slow
def test_it_learns_what_tells_the_domains_apart_and_leaves_the_rest(tmp_path: Path) -> None:
    source, target = domains()
    run = quiet_run(tmp_path, log_every=20)
    settings = settings_of(steps=120, steps_per_round=20, batch=4, width=8, learning_rate=2e-3, replay=50)
    translator = learn_translator(source, target, settings, run)
    images = crop(discs(6, 7), SIDE)  # not seen in training
    made = translator.translate(images)
    assert image_loss(made, dimmed(images)) < image_loss(images, dimmed(images)) / 4
    assert image_loss(translator.translate_back(made), images) < 0.1
    own = dimmed(images)
    assert image_loss(translator.translate(own), own) < 0.05
    rows = (run.stage_folder("cyclegan") / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("loss")]) for row in rows[1:]]
    assert losses[-1] < losses[0] / 3


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_bit_with_the_images_that_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(steps=8, steps_per_round=2)  # 16 images of each domain, three places
    whole = learn_translator(*domains(), settings, quiet_run(tmp_path / "whole"))
    original = CycleGanStage.update

    def stop(self: CycleGanStage, step: int) -> dict[str, Tensor]:
        if step == 5:
            raise KeyError("the power went off")
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(CycleGanStage, "update", stop)
        with pytest.raises(KeyError):
            learn_translator(*domains(), settings, quiet_run(tmp_path / "cut"))
    resumed = learn_translator(*domains(), settings, quiet_run(tmp_path / "cut", resume=True))
    for ours, theirs in ((whole.onward, resumed.onward), (whole.back, resumed.back)):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Each paints half of a batch; both keep the same images for their discriminators."""
    script = Path(__file__).with_name("cyclegan_on_devices.py")
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    for name, devices in (("one", 1), ("two", 2)):
        outcome = subprocess.run(
            [sys.executable, str(script), str(tmp_path / name), str(devices)],
            env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert outcome.returncode == 0, outcome.stderr
    one, first, second = (
        torch.load(tmp_path / file, weights_only=True)
        for file in ("one/rank0.pt", "two/rank0.pt", "two/rank1.pt")
    )
    assert one.keys() == first.keys()
    assert first["made_target.images"].any()
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        if not name.endswith("bias"):  # before a normalisation: rounding alone moves them
            torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path: Path) -> None:
    run = quiet_run(tmp_path / "run", estimates={})
    before = sorted(tmp_path.rglob("*"))
    learn_translator(*domains(), settings_of(), run)
    assert run.estimates is not None
    assert run.estimates["cyclegan"].updates == 4
    assert sorted(tmp_path.rglob("*")) == before


def test_a_translator_is_left_in_the_run_and_comes_back_from_disk(tmp_path: Path) -> None:
    settings = settings_of(steps=1, steps_per_round=5)
    made = learn_translator(*domains(), settings, quiet_run(tmp_path), {"cine": ["s1"]})
    made.save(tmp_path / "models" / "translator")
    back = load_translator(tmp_path / "models" / "translator")
    images = crop(discs(2, 5), SIDE)
    assert torch.equal(back.translate(images), made.translate(images))
    assert torch.equal(back.translate_back(images), made.translate_back(images))
    assert back.describe() == made.describe()
    assert (back.preparation.scale, back.provenance) == ("symmetric", {"cine": ["s1"]})
    (tmp_path / "models" / "translator" / "weights.safetensors").unlink()
    with pytest.raises(
        RunError, match=r"weights.safetensors is missing; is this the folder with the translator in models"
    ):
        load_translator(tmp_path / "models" / "translator")


# --- use ---------------------------------------------------------------------------------------------


def test_a_translator_is_frozen_and_treats_each_image_alone() -> None:
    translator = translator_of()
    networks = (translator.onward, translator.back)
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    assert not any(network.training for network in networks)
    images = crop(discs(11, 0), SIDE)  # more than are repainted at once
    made = translator.translate(images)
    assert not made.requires_grad
    alone = torch.cat([translator.translate(image[None]) for image in images])
    torch.testing.assert_close(made, alone, rtol=1e-4, atol=1e-5)


def test_images_are_on_the_scale_of_the_preparation() -> None:
    symmetric, unit = translator_of(), translator_of(scale="unit")
    images = crop(discs(2, 0), SIDE)
    torch.testing.assert_close(unit.translate((images + 1) / 2), (symmetric.translate(images) + 1) / 2)
    made = unit.translate((images + 1) / 2)
    assert 0 <= made.min() < made.max() <= 1


def test_sides_that_cannot_be_halved_twice_are_filled_up_and_cut_again() -> None:
    translator = translator_of()
    images = crop(discs(1, 0), 48)[..., :45, :39]
    filled = torch.nn.functional.pad(images, (0, 1, 0, 3), mode="replicate")
    assert torch.equal(translator.translate(images), translator.translate(filled)[..., :45, :39])


def test_images_of_another_scale_are_refused() -> None:
    """The released code trains on [-1, 1] and is used on others (methods.md 4.5)."""
    standardised = crop(discs(2, 0), SIDE) * 2.4
    with pytest.raises(
        SettingsError, match=r"learnt from images in \[-1, 1\], got some in \[-2.4, 2.4\]; prepare"
    ):
        translator_of().translate(standardised)
    with pytest.raises(SettingsError, match=r"in \[0, 1\], got some in \[-1, 1\]"):
        translator_of(scale="unit").translate(crop(discs(1, 0), SIDE))
    with pytest.raises(SettingsError, match=r"got some in \[nan, nan\]"):
        translator_of().translate(torch.full((1, 1, 32, 32), torch.nan))
    with pytest.raises(SettingsError, match=r"scale 'zscore' has no ends"):
        translator_of(scale="zscore")
    assert translator_of().translate(torch.zeros(0, 1, 32, 32)).shape == (0, 1, 32, 32)


@pytest.mark.parametrize(
    ("banks", "changes", "words"),
    [
        (({}, {"low_percentile": 1.0}), {}, "prepared differently, and it would learn that difference"),
        (({"scale": "zscore"}, {"scale": "zscore"}), {}, "scale 'zscore' has no ends"),
        (({}, {}), {"side": 30}, r"multiple of 4, from 32 to the field's 48 pixels, got 30"),
        (({}, {}), {"side": 52}, r"from 32 to the field's 48 pixels, got 52"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    tmp_path: Path, banks: tuple[dict[str, Any], dict[str, Any]], changes: dict[str, Any], words: str
) -> None:
    source, target = (bank_of(discs(2, i), **prepared) for i, prepared in enumerate(banks))
    with pytest.raises(SettingsError, match=words):
        stage_of(tmp_path, (source, target), **changes)


def test_steps_that_are_no_whole_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError,
        match="cyclegan_steps 5 are no whole number of rounds of 2; take 4 or 6, or another cyclegan_steps",
    ):
        learn_translator(*domains(), settings_of(steps=5), quiet_run(tmp_path))


@pytest.mark.slow
def test_nothing_waits_for_the_device(tmp_path: Path) -> None:
    """meta tensors have no values to look at, and do not mix with those of the CPU."""
    source, target = (bank.to("meta") for bank in domains(3))
    with torch.device("meta"):
        stage = stage_of(tmp_path, (source, target))
    losses: list[Tensor] = []
    stage.descend = lambda loss, *given, **more: losses.append(loss)  # type: ignore[method-assign]
    for step in range(4):  # the places are full after two
        told = stage.update(step)
        assert {value.device.type for value in told.values()} == {"meta"}
    for loss in losses:
        loss.backward()
