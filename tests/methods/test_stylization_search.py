"""The search along ε: its steps go up, nothing else moves, and the segmenter is updated as often as is said."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossbeat.cohort import Cohort
from crossbeat.losses.segmentation import batch_jaccard_loss, segmentation_loss
from crossbeat.losses.style import consistency_loss
from crossbeat.methods.stylization import Encoder, Settings, Stylizer
from crossbeat.methods.stylization.segmentation import (
    Segmentation,
    asm_step,
    loss_of,
    normalised_step,
    within_reach,
)
from crossbeat.methods.stylization.styles import Material
from crossbeat.networks.adaconv import AdaConv, DescriptorAutoencoder
from crossbeat.networks.adaconv_starts import calibrate
from crossbeat.networks.rain import Rain
from crossbeat.networks.vgg import Vgg, normalise_activations
from crossbeat.prepare.slices import Batch, Slice, SliceBank
from crossbeat.training import Run, fit

TINY: dict[str, Any] = {
    "network_arguments": {"width": 2},
    "image_size": 32,
    "spacing_mm": 4.0,
    "augmentation": "none",
    "batch_size": 2,
    "steps": 6,
    "steps_per_round": 6,
    "ema_decay": 0.0,
    "schedule": "constant",
}
CONTENTS, STYLES = 6, 3


def settings_of(**changes: Any) -> Settings:
    return Settings.of({**TINY, **changes})


def bank_of(count: int, seed: int) -> SliceBank:
    """Rings of random brightness on a random ground, 48 pixels wide, each of a subject of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] - 23.5
    distance = np.hypot(y, x)
    labels = np.stack([np.select([distance < 5, distance < 9, distance < 12], [1, 2, 3], 0)] * count)
    grey = rng.uniform(0, 1, (count, 4)).astype(np.float32)
    images = np.take_along_axis(grey[:, None, :].repeat(48, 1), labels.astype(int), 2)
    images += rng.normal(0, 0.03, images.shape).astype(np.float32)
    return SliceBank(
        torch.from_numpy(images.clip(0, 1).astype(np.float32))[:, None],
        torch.from_numpy(labels.astype(np.uint8)),
        torch.ones(count, 4, dtype=torch.bool),
        tuple(Slice(f"s{i}", f"s{i}_{seed}", "bssfp", 0, 0, 0.0) for i in range(count)),
        settings_of().preparation,
    )


@pytest.fixture(scope="module")
def material() -> Material:
    styles = bank_of(STYLES, 1)
    return Material(bank_of(CONTENTS, 0), styles, styles, None)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    vgg = Vgg()
    normalise_activations(vgg, bank_of(4, 2).images)
    return Encoder(vgg, "random", settings_of().preparation)


@pytest.fixture(scope="module")
def rain(encoder: Encoder) -> Stylizer:
    torch.manual_seed(1)
    return Stylizer(encoder, Rain())


@pytest.fixture(scope="module")
def coded(encoder: Encoder) -> Stylizer:
    """AdaConv, at the scale of its styles, whose descriptors have codes."""
    torch.manual_seed(2)
    images = bank_of(4, 2).images[:, :, :32, :32]
    network, autoencoder = AdaConv(style_channels=16), DescriptorAutoencoder(16)
    features = encoder.vgg(images).relu4_1
    calibrate(network, features, features, images)
    autoencoder.standardise(network.describe(features).detach())
    return Stylizer(encoder, network, autoencoder)


CODED: dict[str, Any] = {"stylizer": "adaconv", "style_vae": True, "style_channels": 16}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


def quiet_run(folder: Path, seed: int = 0, **other: Any) -> Run:
    run = Run(folder, seed=seed, device="cpu", precision="32", progress=False, **other)
    run.open({}, Cohort(()), "test")
    return run


class Standing(Segmentation):
    """Takes no step with the segmenter, so that what the search does to ε can be seen by itself."""

    def descend(self, loss: Tensor, *other: Any, **others: Any) -> None:
        assert loss.isfinite()


def stage_of(
    kind: type[Segmentation],
    folder: Path,
    material: Material,
    model: Stylizer | None,
    seed: int = 0,
    **changes: Any,
) -> Segmentation:
    settings = settings_of(**changes)
    torch.manual_seed(5)
    network = settings.spec.build()
    return kind(quiet_run(folder, seed), settings, network, model, material, {}).train()


def state_of(network: nn.Module) -> list[Tensor]:
    return [t.clone() for t in network.state_dict().values()]


def alike(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def loss_at(stage: Segmentation, epsilon: Tensor) -> float:
    """Of the first source batch in the styles of these codes, under BatchNorm's running means."""
    batch, content = stage._source_batch(0)
    assert stage.stylizer is not None
    assert content is not None
    stage.network.eval()
    with torch.no_grad():
        images = stage.stylizer.render(content, epsilon, (32, 32))
        loss = loss_of(stage.network(images), batch, stage.settings)
    stage.network.train()
    return float(loss)


# --- one step ----------------------------------------------------------------------------------------


def test_a_normalised_step_has_one_length_whatever_the_gradient() -> None:
    gradient = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1e-12, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = normalised_step(gradient, 0.1)
    expected = torch.tensor([[0.12, 0.16, 0, 0], [0, 0, 0.2, 0], [0, 0, 0, 0]])  # 0.1 · √4
    torch.testing.assert_close(found, expected)
    assert normalised_step(torch.ones(1, 512), 0.1).norm().item() == pytest.approx(0.1 * math.sqrt(512))


def test_the_released_step_is_longer_where_the_loss_is_small() -> None:
    gradient = torch.tensor([[1.0, -2.0]])
    assert asm_step(gradient, torch.tensor(4.0), 20).tolist() == [[5.0, -10.0]]
    assert asm_step(gradient, torch.tensor(0.5), 20).tolist() == [[40.0, -80.0]]


def test_a_code_that_went_too_far_comes_back_along_a_straight_line() -> None:
    centre, spread = torch.tensor([[1.0, 1.0]] * 3), torch.tensor([[0.0, -1.0]] * 3)
    epsilon = torch.tensor([[1.0, 11.0], [1.0, 3.5], [1.0, 1.0]])
    found = within_reach(epsilon, centre, spread, 3)
    assert found.tolist() == [[1.0, 4.0], [1.0, 3.5], [1.0, 1.0]]


# --- the search --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ascent", ["normalised", "asm"])
def test_every_ascent_raises_the_segmentation_loss(
    material: Material, rain: Stylizer, tmp_path: Path, shared: bool, ascent: str
) -> None:
    """On a fixed batch and a fixed segmenter, by short steps, under BatchNorm's running means."""
    changes = {"shared_epsilon": shared, "ascent": ascent, "ascent_step": 0.01, "ascent_rate": 5e3}
    stage = stage_of(Standing, tmp_path, material, rain, epsilon_rounds=5, **changes)
    for norm in (m for m in stage.network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0  # its running means would move on with every use
    losses = []
    for step in range(5):
        stage.update(step)
        losses.append(loss_at(stage, stage.epsilon))
    assert losses[0] < losses[1] < losses[2] < losses[3]
    assert losses[4] == losses[3], "the last use makes no ascent"


@pytest.mark.slow
def test_ascents_as_long_as_the_settings_have_them_raise_the_loss(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    """Both of the two that N = 3 makes. (The published steps of asm are too short here for float32 to show.)"""
    stage = stage_of(Standing, tmp_path, material, rain)
    assert stage.settings.uses == 3
    for norm in (m for m in stage.network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0
    stage._draw_styles(0)
    losses = [loss_at(stage, stage.epsilon)]
    for step in range(2):
        stage.update(step)
        losses.append(loss_at(stage, stage.epsilon))
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.slow
def test_codes_of_adaconv_go_up_the_loss_too(material: Material, coded: Stylizer, tmp_path: Path) -> None:
    stage = stage_of(Standing, tmp_path, material, coded, epsilon_rounds=4, ascent_step=0.01, **CODED)
    for norm in (m for m in stage.network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0
    losses = []
    for step in range(4):
        stage.update(step)
        losses.append(loss_at(stage, stage.epsilon))
    assert losses[0] < losses[1] < losses[2] == losses[3]


@pytest.mark.slow
def test_the_released_ascent_follows_the_segmentation_loss_of_both_alone(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    """One pass for both gradients; consistency is descended, and does not lead ε."""
    changes = {"ascent_pass": "shared", "ascent": "asm", "trust_region": 0.0, "consistency_weight": 50.0}
    stage = stage_of(Standing, tmp_path, material, rain, epsilon_rounds=2, **changes)
    batch, content = stage._source_batch(0)
    assert content is not None
    stage._draw_styles(0)
    begun = stage.epsilon.clone()
    code = begun.clone().requires_grad_()
    logits = stage.network(torch.cat([rain.render(content, code, (32, 32)), batch.image]))
    labels, drawn = batch.labels.repeat(2, 1, 1), batch.drawn.repeat(2, 1)
    loss = loss_of(logits, Batch(batch.image.repeat(2, 1, 1, 1), labels, drawn), stage.settings)
    (gradient,) = torch.autograd.grad(loss, code)
    stage.update(0)
    moved = stage.epsilon - begun
    assert moved.abs().max() > 0
    torch.testing.assert_close(moved, (20 / loss * gradient).detach(), rtol=1e-3, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("uses", [1, 2, 5])
def test_n_uses_of_a_batch_make_one_ascent_fewer(
    material: Material, rain: Stylizer, tmp_path: Path, uses: int
) -> None:
    stage = stage_of(Standing, tmp_path, material, rain, epsilon_rounds=uses)
    codes = []
    for step in range(2 * uses):
        stage.update(step)
        codes.append(stage.epsilon.clone())
    first = codes[:uses]
    assert len({tuple(code.flatten().tolist()) for code in first}) == max(uses - 1, 1)
    assert not torch.equal(codes[uses - 1], codes[uses]), "the next batch draws styles of its own"


@pytest.mark.slow
@pytest.mark.parametrize("ascent_pass", ["own", "shared"])
@pytest.mark.parametrize("kind", ["rain", "coded"])
def test_what_is_frozen_does_not_move_and_the_segmenter_does(
    material: Material, request: pytest.FixtureRequest, tmp_path: Path, ascent_pass: str, kind: str
) -> None:
    model: Stylizer = request.getfixturevalue(kind)
    frozen = [part for part in (model.encoder.vgg, model.network, model.autoencoder) if part is not None]
    before = [state_of(part) for part in frozen]
    changes = CODED if kind == "coded" else {}
    stage = stage_of(Segmentation, tmp_path, material, model, ascent_pass=ascent_pass, **changes)
    begun = state_of(stage.network)
    fit(stage, rounds=1, steps_per_round=6)
    assert all(alike(then, state_of(part)) for then, part in zip(before, frozen, strict=True))
    assert all(p.grad is None for part in frozen for p in part.parameters())
    assert not alike(begun, state_of(stage.network))
    held = set(
        torch.load(tmp_path / "stages/segmentation/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    )
    assert {"epsilon", "centre", "spread"} < held
    assert not [name for name in held if "stylizer" in name or "vgg" in name]


@pytest.mark.slow
def test_the_ascents_own_pass_moves_no_running_mean_and_leaves_no_gradient(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    stage = stage_of(Standing, tmp_path, material, rain)
    batch, content = stage._source_batch(0)
    stage._draw_styles(0)
    before = state_of(stage.network)
    code = stage.epsilon.clone().requires_grad_()
    assert content is not None
    gradient, loss = stage._uphill(rain.render(content, code, (32, 32)), batch, code)
    assert alike(before, state_of(stage.network))
    assert stage.network.training
    assert all(p.grad is None for p in stage.network.parameters())
    assert float(loss) == pytest.approx(loss_at(stage, stage.epsilon), rel=1e-5)
    assert (gradient.norm(dim=1) > 0).all()


def test_by_default_each_slice_has_its_own_code_and_it_reaches_no_other(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    stage = stage_of(Standing, tmp_path, material, rain, overlap="dice")
    assert stage.epsilon.shape == (2, 512)
    batch, content = stage._source_batch(0)
    stage._draw_styles(0)
    assert content is not None
    code = stage.epsilon.clone().requires_grad_()
    stage.network.eval()
    first = loss_of(
        stage.network(rain.render(content, code, (32, 32)))[:1],
        Batch(batch.image[:1], batch.labels[:1], batch.drawn[:1]),
        stage.settings,
    )
    (gradient,) = torch.autograd.grad(first, code)
    assert gradient[0].any()
    assert not gradient[1].any()


def test_a_shared_code_is_one_style_for_the_whole_batch(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    stage = stage_of(Standing, tmp_path, material, rain, shared_epsilon=True, batch_size=3)
    stage.update(0)
    assert stage.epsilon.shape == (1, 512)
    seen: list[Tensor] = []
    original = rain.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rain, "render", lambda c, e, size: seen.append(e) or original(c, e, size))
        stage.update(1)
    assert [e.shape for e in seen] == [(1, 512)]


def test_the_first_code_is_a_draw_from_its_styles_distribution(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    stage = stage_of(Standing, tmp_path, material, rain)
    stage._draw_styles(0)
    first = stage.epsilon.clone()
    noise = (stage.epsilon - stage.centre) / stage.spread
    assert abs(float(noise.mean())) < 0.15
    assert float(noise.std()) == pytest.approx(1.0, abs=0.15)
    stage._draw_styles(1)
    assert not torch.equal(first, stage.epsilon)
    stage._draw_styles(0)
    assert torch.equal(first, stage.epsilon)
    other = stage_of(Standing, tmp_path / "other", material, rain, seed=1)
    other._draw_styles(0)
    assert not torch.equal(first, other.epsilon)


def test_the_trust_region_holds_a_code_near_its_style(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    stage = stage_of(Standing, tmp_path, material, rain, ascent_step=10.0, trust_region=1.5)
    stage.update(0)
    away = (stage.epsilon - stage.centre).norm(dim=1) / stage.spread.norm(dim=1)
    assert away.tolist() == pytest.approx([1.5, 1.5], rel=1e-4)


def test_a_pair_of_one_patient_gives_its_own_style(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    partners = torch.tensor([2, -1, 0, 1, 2, 0])
    stage = stage_of(Standing, tmp_path, replace(material, partners=partners), rain, style="same_patient")
    for number in range(6):
        batch, _ = stage._source_batch(number)
        which = [
            int((stage.content.images[:, :, 8:40, 8:40] - i).abs().flatten(1).sum(1).argmin())
            for i in batch.image
        ]
        chosen = stage._chosen_styles(number).tolist()
        assert [c for c, w in zip(chosen, which, strict=True) if partners[w] >= 0] == [
            int(partners[w]) for w in which if partners[w] >= 0
        ]
        assert all(0 <= c < STYLES for c in chosen)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ascent", ["normalised", "asm"])
def test_codes_go_up_on_two_devices_as_they_do_on_one(
    material: Material,
    rain: Stylizer,
    tmp_path: Path,
    ascent: str,
    shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has half of the slices; what they exchange is written down first, and then added as the other's."""
    changes = {"ascent": ascent, "ascent_rate": 5e3, "shared_epsilon": shared, "overlap": "dice"}
    changes |= {"batch_size": 4, "epsilon_rounds": 2}
    alone = stage_of(Standing, tmp_path / "alone", material, rain, **changes)
    alone.update(0)
    module = "crossbeat.training.distributed.together"
    monkeypatch.setattr(module, lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)

    def half(rank: int, folder: str, other: Tensor | None) -> tuple[Tensor, Tensor]:
        sent: list[Tensor] = []

        def exchange(flat: Tensor) -> None:
            sent.append(flat.clone())
            flat += 0 if other is None else other

        monkeypatch.setattr("torch.distributed.all_reduce", exchange)
        stage = stage_of(Standing, tmp_path / folder, material, rain, **changes)
        monkeypatch.setattr(stage, "share", lambda whole: whole[2 * rank : 2 * rank + 2])
        stage.update(0)
        return sent[0], stage.epsilon.clone()

    sent = [half(rank, f"first {rank}", None)[0] for rank in (0, 1)]
    found = [half(rank, f"then {rank}", sent[1 - rank])[1] for rank in (0, 1)]
    assert torch.equal(*found), "all devices hold the same codes"
    torch.testing.assert_close(found[0], alone.epsilon, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(alone.epsilon, half(0, "by itself", sent[0])[1], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_run_stopped_between_two_uses_goes_on_with_the_style_it_had_reached(
    material: Material, rain: Stylizer, tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three uses a batch and rounds of two steps: rounds end between uses."""
    changes = {"steps_per_round": 2, "epsilon_rounds": 3, "augmentation": "light", "shared_epsilon": shared}
    whole = stage_of(Segmentation, tmp_path / "whole", material, rain, **changes)
    fit(whole, rounds=3, steps_per_round=2)
    cut = stage_of(Segmentation, tmp_path / "cut", material, rain, **changes)
    original = Segmentation.update

    def stop(self: Any, step: int) -> dict[str, Tensor]:
        if step == 5:
            raise KeyError("the power went off")
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "update", stop)
        with pytest.raises(KeyError):
            fit(cut, rounds=3, steps_per_round=2)
    settings = settings_of(**changes)
    torch.manual_seed(99)  # other weights to begin with, and no ε: all must come from the checkpoint
    again = Segmentation(
        quiet_run(tmp_path / "cut", resume=True), settings, settings.spec.build(), rain, material, {}
    )
    fit(again, rounds=3, steps_per_round=2)
    assert alike(state_of(whole), state_of(again))
    assert whole.epsilon.any()


# --- the update --------------------------------------------------------------------------------------


class Seen(Standing):
    """Remembers what was descended, and what the segmenter was shown."""

    losses: list[Tensor]

    def descend(self, loss: Tensor, *other: Any, **others: Any) -> None:
        self.losses.append(loss.detach())

    def _as_input(self, image: Tensor) -> Tensor:
        self.shown = image.detach()
        return image


def test_the_loss_is_of_stylised_and_original_with_the_labels_twice(
    material: Material, rain: Stylizer, tmp_path: Path
) -> None:
    stage = stage_of(Seen, tmp_path, material, rain, epsilon_rounds=1, consistency_weight=0.7, smooth=2.0)
    assert isinstance(stage, Seen)
    stage.losses = []
    before = stage.network.state_dict()
    told = stage.update(0)
    batch, content = stage._source_batch(0)
    assert content is not None
    stylised = rain.render(content, stage.epsilon, (32, 32))
    torch.testing.assert_close(stage.shown, torch.cat([stylised, batch.image]))
    stage.network.load_state_dict(before)
    show: Any = stage.network.forward_with_bottleneck
    logits, features = show(stage.shown)
    labels, drawn = batch.labels.repeat(2, 1, 1), batch.drawn.repeat(2, 1)
    expected = segmentation_loss(
        logits, labels, drawn, cross_entropy_weight=1, dice_weight=0, include_background=False, smooth=0
    )
    expected = expected + batch_jaccard_loss(logits, labels, drawn, smooth=2.0)
    consistency = consistency_loss(features[:2], features[2:])
    torch.testing.assert_close(stage.losses[0], (expected + 0.7 * consistency).detach())
    assert set(told) == {"loss", "loss_use_1", "loss_consistency"}


def test_originals_alone_are_setting_0(material: Material, tmp_path: Path) -> None:
    stage = stage_of(Seen, tmp_path, replace(material, styles=None, taught=None), None, stylizer="none")
    assert isinstance(stage, Seen)
    stage.losses = []
    stage.update(0)
    assert torch.equal(stage.shown, stage._source_batch(0)[0].image)


@pytest.mark.parametrize(
    ("stylizer", "changes", "uses"),
    [
        ("rain", {}, 3),
        ("adaconv", {}, 1),
        ("adaconv", {"style_vae": True}, 3),
        ("none", {}, 1),
        ("none", {"epsilon_rounds": 5}, 5),
        ("rain", {"epsilon_rounds": 5}, 5),
    ],
)
def test_a_batch_is_used_as_often_as_asked_and_steps_are_updates_for_every_n(
    stylizer: str, changes: dict[str, Any], uses: int
) -> None:
    matched = settings_of(stylizer=stylizer, **changes)
    assert (matched.uses, matched.segmenter_updates, matched.rounds) == (uses, 6, (1, 6))
    unmatched = settings_of(stylizer=stylizer, match_updates=False, **changes)
    assert (unmatched.segmenter_updates, unmatched.rounds) == (6 * uses, (1, 6 * uses))


@pytest.mark.parametrize(("match", "updates"), [(True, 6), pytest.param(False, 18, marks=pytest.mark.slow)])
def test_the_segmenter_is_updated_as_often_as_said(
    material: Material, rain: Stylizer, tmp_path: Path, match: bool, updates: int
) -> None:
    stage = stage_of(
        Segmentation, tmp_path, material, rain, match_updates=match, schedule="one_cycle", steps_per_round=3
    )
    rounds, length = stage.settings.rounds
    fit(stage, rounds=rounds, steps_per_round=length)
    counts = [n for name, n in stage.network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert {int(n) for n in counts} == {updates}
    assert stage.settings.segmenter_updates == updates
    rows = list(csv.DictReader((tmp_path / "stages/segmentation/metrics.csv").read_text().splitlines()))
    assert {f"loss_use_{i}" for i in (1, 2, 3)} < set(rows[-1])


@pytest.mark.slow
@pytest.mark.parametrize("codes", [False, True])
def test_adaconv_gives_styles_by_the_same_stage(
    material: Material, encoder: Encoder, tmp_path: Path, codes: bool
) -> None:
    torch.manual_seed(2)
    stylizer = Stylizer(encoder, AdaConv(style_channels=16), DescriptorAutoencoder(16) if codes else None)
    changes = {"stylizer": "adaconv", "style_vae": codes, "style_channels": 16}
    stage = stage_of(Standing, tmp_path, material, stylizer, **changes)
    for step in range(3):
        stage.update(step)
    assert stage.epsilon.shape == ((2, 512) if codes else (2, 16, 3, 3))
    assert stage.spread.any() == codes
