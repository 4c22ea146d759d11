"""Stylization: whose styles are seen, the encoder's gate and reuse, one door for both stylizers, refusals.

The search along ε has a file of its own, test_stylization_search.py.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, FileError, RunError, SettingsError
from crossbeat.labels import Structure
from crossbeat.methods import METHODS
from crossbeat.methods.recipe import find_domains
from crossbeat.methods.stylization import Encoder, Settings, Stylizer, load_encoder, load_stylizer, train
from crossbeat.methods.stylization.autoencoding import hold_out, image_losses, kinds_of, psnr_db
from crossbeat.methods.stylization.encoder import find_encoder
from crossbeat.methods.stylization.learning import StyleVaeStage, StylizerStage, learn_stylizer
from crossbeat.methods.stylization.segmentation import Segmentation
from crossbeat.methods.stylization.sharing import CODING, SEGMENTING, STYLIZING, decided_by
from crossbeat.methods.stylization.styles import Material, choose_styles, code_noise, gather, style_images
from crossbeat.networks.adaconv import AdaConv, DescriptorAutoencoder
from crossbeat.networks.rain import Rain, Style
from crossbeat.networks.vgg import Decoder, Features, Vgg, normalise_activations
from crossbeat.prepare.slices import training_batch
from crossbeat.prepare.volumes import crop
from crossbeat.training import Run, Stage, seed_torch

TINY: dict[str, Any] = {
    "source": {"sequence": "bssfp"},
    "target": {"sequence": "lge"},
    "encoder": "random",
    "encoder_steps": 2,
    "encoder_batch": 2,
    "stylizer_steps": 1,
    "stylizer_batch": 2,
    "style_channels": 16,
    "style_vae_steps": 1,
    "auxiliary_steps_per_round": 3,
    "network_arguments": {"width": 2},
    "image_size": 32,
    "spacing_mm": 4.0,
    "augmentation": "none",
    "batch_size": 2,
    "steps": 3,
    "steps_per_round": 3,
}
LEARNS: dict[str, Any] = {
    "encoder": "random",
    "stylizer_steps": 10,
    "stylizer_batch": 2,
    "stylizer_learning_rate": 1e-3,
    "network_arguments": {"width": 8},
    "epsilon_rounds": 2,
    "overlap": "dice",
    "image_size": 32,
    "spacing_mm": 3.75,
    "augmentation": "none",
    "batch_size": 3,
    "steps": 120,
    "steps_per_round": 40,
    "auxiliary_steps_per_round": 10,
    "encoder_steps": 10,
    "style_vae_steps": 10,
    "learning_rate": 5e-3,
    "ema_decay": 0.9,
}
"""For the contract suite: learns small hearts in seconds on one core, beside images from a stylizer of ten steps."""
ONCE: dict[str, Any] = {"stylizer_steps": 1, "steps": 2, "steps_per_round": 2}
"""For the contract suite: changes to those that make it do everything once, and learn nothing."""

DRAWN = frozenset({Structure.LV, Structure.MYO, Structure.RV})
GREY = {"bssfp": [60, 250, 90, 240], "lge": [50, 160, 20, 150], "t2": [70, 200, 40, 210]}


def heart(row: Row, slices: int = 3, shape: tuple[int, int] = (30, 36), z_mm: float = 8.0) -> Case:
    """A ring with a cavity and a crescent beside it; pixels are 4 x 3.5 mm."""
    rng = np.random.default_rng([int(row.subject[1:]), *map(ord, row.sequence)])
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2
    labels = np.zeros((1, slices, *shape), np.uint8)
    for z in range(slices):
        distance_mm, beside_mm = np.hypot(y * 4, x * 3.5), np.hypot(y * 4, x * 3.5 + 22)
        labels[0, z][beside_mm < 21] = Structure.RV
        labels[0, z][distance_mm < 22 - z] = Structure.MYO
        labels[0, z][distance_mm < 13 - z] = Structure.LV
    image = np.asarray(GREY[row.sequence], np.float32)[labels]
    image += rng.normal(0, 8, labels.shape).astype(np.float32)
    affine = np.diag([3.5, 4.0, z_mm, 1.0])
    if not row.labels:
        return Case(row.scan, row.subject, image, affine, Domain(row.sequence, row.vendor))
    return Case(row.scan, row.subject, image, affine, Domain(row.sequence, row.vendor), labels, (DRAWN,))


def row_of(subject: str, sequence: str, split: str = "train", **other: Any) -> Row:
    labels = "" if sequence != "bssfp" else "-"
    return Row(subject, f"{subject}_{sequence}", sequence, "-", split=split, labels=labels, **other)


@pytest.fixture
def cohort() -> Cohort:
    """Three bSSFP scans that train, LGE of two of those patients, and T2 of one."""
    rows = [row_of(f"s{i}", "bssfp") for i in range(3)] + [row_of(f"s{i}", "lge") for i in range(2)]
    return Cohort((*rows, row_of("s2", "t2")), heart, "hearts")


def quiet_run(folder: Path, seed: int = 0, **other: Any) -> Run:
    run = Run(folder, seed=seed, device="cpu", precision="32", progress=False, **other)
    run.open({}, Cohort(()), "test")
    return run


def settings_of(**changes: Any) -> Settings:
    return Settings.of({**TINY, **changes})


def material_of(cohort: Cohort, folder: Path, seed: int = 0, **changes: Any) -> Material:
    settings = settings_of(**changes)
    return gather(find_domains(cohort, settings, seed), cohort, settings, quiet_run(folder, seed))


def state_of(*networks: torch.nn.Module | None) -> list[Tensor]:
    return [t.clone() for network in networks if network is not None for t in network.state_dict().values()]


def alike(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """With random weights, levelled over random images."""
    torch.manual_seed(0)
    vgg = Vgg()
    normalise_activations(vgg, torch.rand(4, 1, 32, 32))
    return Encoder(vgg, "random", settings_of().preparation)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of these networks are large, and a test need not survive a power cut."""
    monkeypatch.setattr("os.fsync", lambda file: None)


# --- whose styles are seen ---------------------------------------------------------------------------


def test_contents_have_labels_and_styles_have_none(cohort: Cohort, tmp_path: Path) -> None:
    found = material_of(cohort, tmp_path)
    assert {place.scan for place in found.content.table} == {"s0_bssfp", "s1_bssfp", "s2_bssfp"}
    assert found.styles is not None
    assert {place.scan for place in found.styles.table} == {"s0_lge", "s1_lge"}
    assert not found.styles.drawn.any()
    assert found.taught is found.styles
    assert found.partners is None
    assert len(found.every_slice()) == 9 + 6 + 3  # and T2, that nobody is styled as
    for bank in (found.content, found.styles):
        assert (float(bank.images.min()), float(bank.images.max())) == (0.0, 1.0)


def test_without_stylizer_no_style_is_read(cohort: Cohort, tmp_path: Path) -> None:
    def read(row: Row) -> Case:
        assert row.sequence == "bssfp"
        return heart(row)

    found = material_of(replace(cohort, read=read), tmp_path, stylizer="none")
    assert (found.styles, found.taught) == (None, None)


@pytest.mark.slow
def test_few_shots_are_one_patient_drawn_by_seed(cohort: Cohort, tmp_path: Path) -> None:
    chosen = {}
    for seed in range(6):
        found = material_of(cohort, tmp_path / f"{seed}", seed, style_scans="patient")
        assert found.styles is not None
        (chosen[seed],) = {place.scan for place in found.styles.table}
        assert len(found.styles) == 3
    assert set(chosen.values()) == {"s0_lge", "s1_lge"}
    again = material_of(cohort, tmp_path / "again", 0, style_scans="patient").styles
    assert again is not None
    assert again.table[0].scan == chosen[0]


def test_one_shot_is_the_middle_slice_of_one_patient(cohort: Cohort, tmp_path: Path) -> None:
    styles = material_of(cohort, tmp_path, style_scans="slice").styles
    assert styles is not None
    assert [place.z for place in styles.table] == [1]


def test_codes_of_styles_need_more_than_one_slice_or_turned_ones(cohort: Cohort, tmp_path: Path) -> None:
    """A target of one slice is known once it is read, and before anything is trained."""

    def read(row: Row) -> Case:
        case = heart(row)
        return replace(case, image=case.image[:, :1]) if row.sequence == "lge" else case

    one = replace(cohort, rows=tuple(r for r in cohort if r.scan != "s1_lge"), read=read)
    coded = {"stylizer": "adaconv", "style_vae": True}
    with pytest.raises(SettingsError, match="hearts shows one slice of them; say turn_styles: true, or give"):
        material_of(one, tmp_path, turn_styles=False, **coded)
    found = material_of(one, tmp_path / "turned", **coded)
    assert found.taught is not None
    assert len(found.taught) == 1


def test_other_styles_may_be_learnt_than_those_given(cohort: Cohort, tmp_path: Path) -> None:
    found = material_of(cohort, tmp_path, pretrain_style={"sequence": "t2"}, style_scans="slice")
    assert found.styles is not None
    assert found.taught is not None
    assert {place.scan for place in found.taught.table} == {"s2_t2"}
    assert (len(found.taught), len(found.styles)) == (3, 1)
    assert len(found.every_slice()) == 9 + 3 + 1


def test_same_patients_are_paired_by_where_their_slices_lie(cohort: Cohort, tmp_path: Path) -> None:
    """LGE slices 12 mm apart under bSSFP slices 8 mm apart, both from 0: at 0, 8 and 16 mm lie 0, 12 and 12."""

    def read(row: Row) -> Case:
        return heart(row, z_mm=12.0) if row.sequence == "lge" else heart(row)

    with pytest.MonkeyPatch.context() as patch:
        notes: list[str] = []
        patch.setattr(Run, "note", lambda self, text: notes.append(text))
        found = material_of(replace(cohort, read=read), tmp_path, style="same_patient")
    assert found.partners is not None
    assert found.styles is not None
    pairs = [
        (place.scan, place.z, found.styles.table[i].scan if i >= 0 else "", found.styles.table[i].z)
        for place, i in zip(found.content.table, found.partners.tolist(), strict=True)
    ]
    assert pairs[:6] == [
        (f"{subject}_bssfp", z, f"{subject}_lge", near)
        for subject in ("s0", "s1")
        for z, near in ((0, 0), (1, 1), (2, 1))
    ]
    assert found.partners[6:].tolist() == [-1, -1, -1]
    assert re.search("1 subjects have no target scan that trains, 's2' first.*at random", notes[0])
    assert "lie 4.0 mm apart on the median, 4.0 mm at most" in notes[1]


def test_patients_who_share_nothing_cannot_be_paired(cohort: Cohort, tmp_path: Path) -> None:
    strangers = tuple(
        r if r.sequence == "bssfp" else replace(r, subject=f"s9{i}") for i, r in enumerate(cohort)
    )
    with pytest.raises(CohortError, match=r"no subject has both .* or style: random"):
        material_of(replace(cohort, rows=strangers), tmp_path, style="same_patient")


def test_style_scans_of_another_size_come_on_the_same_pixels(cohort: Cohort, tmp_path: Path) -> None:
    """The same LGE on twice as many pixels of half the size is the same style; else it is a heart twice as large."""

    def finer(millimetres: float) -> Callable[[Row], Case]:
        def read(row: Row) -> Case:
            case = heart(row)
            if row.sequence != "lge":
                return case
            affine = case.affine @ np.diag([millimetres, millimetres, 1.0, 1.0])
            return replace(case, image=case.image.repeat(2, axis=2).repeat(2, axis=3), affine=affine)

        return read

    def styles(read: Callable[[Row], Case], name: str) -> Tensor:
        found = material_of(replace(cohort, read=read), tmp_path / name)
        assert found.styles is not None
        assert found.styles.images.shape[1:] == found.content.images.shape[1:]
        return found.styles.images

    as_it_is = styles(heart, "as_it_is")
    same, larger = (
        (styles(finer(size), str(size)) - as_it_is).abs().mean(dim=(1, 2, 3)) for size in (0.5, 1.0)
    )
    assert same.max() < 0.06
    assert larger.min() > 2 * same.max()


def test_slices_that_show_nothing_are_no_styles(cohort: Cohort, tmp_path: Path) -> None:
    def read(row: Row) -> Case:
        case = heart(row)
        image = case.image.copy()
        image[:, : 3 if row.subject == "s1" else 2] = 0.0
        return case if row.sequence == "bssfp" else replace(case, image=image)

    styles = material_of(replace(cohort, read=read), tmp_path / "some").styles
    assert styles is not None
    assert [(place.scan, place.z) for place in styles.table] == [("s0_lge", 2)]
    alone = cohort.only(lambda row: row.scan != "s0_lge")
    with pytest.raises(CohortError, match="none of 3 style slices shows anything"):
        material_of(replace(alone, read=read), tmp_path / "none")


def test_of_a_cine_two_frames_show_its_style(cohort: Cohort, tmp_path: Path) -> None:
    def read(row: Row) -> Case:
        case = heart(row)
        if row.sequence == "bssfp":
            return case
        return replace(case, image=np.concatenate([case.image * (t + 1) for t in range(5)]), drawn=())

    rows = tuple(replace(r, ed_frame=1, es_frame=3) if r.scan == "s0_lge" else r for r in cohort)
    styles = material_of(replace(cohort, rows=rows, read=read), tmp_path).styles
    assert styles is not None
    assert [place.scan for place in styles.table] == ["s0_lge"] * 6 + ["s1_lge"] * 3


def test_styles_are_drawn_by_seed_and_step_and_turned_alike_on_any_number_of_devices(
    cohort: Cohort, tmp_path: Path
) -> None:
    styles = material_of(cohort, tmp_path).styles
    assert styles is not None
    chosen = choose_styles(styles, 4, seed=1, step=5)
    assert torch.equal(chosen, choose_styles(styles, 4, seed=1, step=5))
    assert not torch.equal(chosen, choose_styles(styles, 4, seed=1, step=6))
    turns = settings_of().turns
    whole = style_images(styles, chosen, turns, seed=1, step=5)
    halves = [
        style_images(styles, chosen, turns, seed=1, step=5, share=lambda i, h=h: i[2 * h : 2 * h + 2])  # type: ignore[misc]
        for h in (0, 1)
    ]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, style_images(styles, chosen))
    assert turns.gamma_probability == turns.noise_probability == 0


# --- the encoder -------------------------------------------------------------------------------------


def test_subjects_are_held_out_by_seed_and_no_sequence_is_lost(cohort: Cohort, tmp_path: Path) -> None:
    bank = material_of(cohort, tmp_path, pretrain_style={"sequence": "t2"}).every_slice()
    for seed in range(8):
        held = {bank.table[i].subject for i in hold_out(bank, 0.1, seed, "hearts").tolist()}
        assert len(held) == 1
        assert held != {"s2"}, "nobody else has T2"
    alone = bank.find(lambda place: place.subject == "s2")
    few = replace(
        bank,
        images=bank.images[alone],
        labels=bank.labels[alone],
        drawn=bank.drawn[alone],
        table=tuple(bank.table[i] for i in alone.tolist()),
    )
    with pytest.raises(CohortError, match=r"of 1 none can be spared.*encoder: random, or a file"):
        hold_out(few, 0.1, 0, "hearts")


def test_domains_are_sequences_and_vendors(cohort: Cohort, tmp_path: Path) -> None:
    rows = tuple(replace(row, vendor="b") if row.scan == "s1_bssfp" else row for row in cohort)
    other = replace(cohort, rows=rows)
    bank = material_of(other, tmp_path).every_slice()
    assert kinds_of(bank, other).tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [2] * 6 + [3] * 3


def test_psnr_by_arithmetic() -> None:
    """A decoder that gives grey 0.5 whatever it is shown: an error of 0.5 is 6 dB, one of 0.1 is 20 dB."""
    vgg, decoder = Vgg(), Decoder()
    last = decoder.levels[-1]
    assert isinstance(last, torch.nn.ModuleList)
    torch.nn.init.zeros_(last[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.constant_(last[-1].bias, 0.5)  # type: ignore[arg-type]
    images = torch.tensor([1.0, 0.6, 0.5])[:, None, None, None].expand(3, 1, 16, 16)
    found = psnr_db(vgg, decoder, images)
    assert found.tolist() == pytest.approx([6.0206, 20.0, 100.0], abs=1e-3)


def test_image_losses_by_arithmetic() -> None:
    """A ramp of 1 a column against black: its gradients are 1, 2 and 4 at the three sizes, and 0 down the rows."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    loss_image, loss_gradient = image_losses(ramp, torch.zeros_like(ramp))
    assert loss_image.item() == pytest.approx(3.5)
    assert loss_gradient.item() == pytest.approx(1 + 2 + 4)


@pytest.mark.slow
def test_a_learnt_encoder_is_kept_with_what_it_reached_and_levelled(cohort: Cohort, tmp_path: Path) -> None:
    settings = settings_of(encoder="cmr", encoder_gate=False, encoder_batch=4)
    run = quiet_run(tmp_path)
    material = gather(find_domains(cohort, settings, 0), cohort, settings, run)
    found = find_encoder(material, cohort, settings, run)
    kept = load_encoder(tmp_path / "models" / "encoder")
    assert alike(state_of(found.vgg), state_of(kept.vgg))
    assert (kept.source, kept.psnr_db, kept.silent) == ("cmr", found.psnr_db, found.silent)
    assert kept.preparation == settings.preparation
    assert kept.subjects == ("s0", "s1", "s2")
    assert not any(p.requires_grad for p in kept.vgg.parameters())
    images = material.every_slice().images[:, :, 8:40, 8:40]
    assert found.vgg(images).relu1_1.mean(dim=(0, 2, 3)).median().item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_an_encoder_that_loses_the_image_stops_the_run_and_says_what_to_do(
    cohort: Cohort, tmp_path: Path
) -> None:
    settings = settings_of(encoder="cmr")
    words = r"PSNR of -?[\d.]+ dB, below 28: .*raise encoder_steps \(2\), or go on as it is with encoder_gate: off"
    with pytest.raises(RunError, match=words):
        train(cohort, settings, quiet_run(tmp_path))
    assert not (tmp_path / "stages" / "stylizer").exists()
    assert (tmp_path / "models" / "encoder" / "encoder.json").exists()
    again = settings_of(encoder=str(tmp_path / "models" / "encoder"))
    with pytest.raises(RunError, match="below 28"):
        train(cohort, again, quiet_run(tmp_path / "again"))


def test_rains_decoder_begins_where_the_encoders_ended(cohort: Cohort, tmp_path: Path) -> None:
    """A learning rate of nought leaves both as they begin; the paper's is drawn anew."""
    still = {"encoder": "cmr", "encoder_gate": False, "stylizer_learning_rate": 1e-30}
    decoders = {}
    for start in ("encoder", "random"):
        settings, run = settings_of(**still, decoder_start=start), quiet_run(tmp_path / start)
        material = gather(find_domains(cohort, settings, 0), cohort, settings, run)
        encoder = find_encoder(material, cohort, settings, run)
        assert encoder.decoder is not None
        kept = load_encoder(tmp_path / start / "models" / "encoder").decoder
        assert alike(state_of(kept), state_of(encoder.decoder))
        network = learn_stylizer(material, encoder, settings, run).network
        assert isinstance(network, Rain)
        pairs = zip(state_of(network.decoder), state_of(encoder.decoder), strict=True)
        decoders[start] = all(torch.allclose(ours, theirs, atol=1e-12) for ours, theirs in pairs)
    assert decoders == {"encoder": True, "random": False}
    assert Settings.of({"profile": "code"}).decoder_start == "random"


def test_adaconv_begins_at_the_scale_of_the_styles(cohort: Cohort, tmp_path: Path, encoder: Encoder) -> None:
    """With a learning rate of nought: the styles' contrast; the paper's is as it is drawn."""
    spreads = {}
    for start in ("encoder", "random"):
        given = {"stylizer": "adaconv", "epsilon_rounds": 1, "stylizer_learning_rate": 1e-30}
        settings = settings_of(**given, decoder_start=start)
        material = material_of(cohort, tmp_path / f"{start}_read", **given)
        assert material.taught is not None
        stylizer = learn_stylizer(material, encoder, settings, quiet_run(tmp_path / start))
        assert isinstance(stylizer.network, AdaConv)
        images = crop(material.taught.images.float(), 32)
        read = stylizer.read(images)
        made = stylizer.network(read, read, (32, 32))
        spreads[start] = float(made.std() / images.std())
    assert 0.5 < spreads["encoder"] < 2
    assert not 0.5 < spreads["random"] < 2


def test_an_encoder_learns_from_all_that_may_be_seen_whatever_shows_the_styles(
    cohort: Cohort, tmp_path: Path
) -> None:
    rows = (*cohort.rows, row_of("s8", "lge", "test"), row_of("s9", "t2", "validation"), row_of("s1", "t2"))
    seen = [
        {place.scan for place in material_of(
            replace(cohort, rows=rows), tmp_path / f"{i}", encoder="cmr", **changes
        ).every_slice().table}
        for i, changes in enumerate(({}, {"pretrain_style": {"sequence": "t2"}}, {"style_scans": "slice"}))
    ]  # fmt: skip
    few = seen.pop()
    assert len(few & {"s0_lge", "s1_lge"}) == 1, "one shot is one also for the encoder"
    everyone = {"s0_bssfp", "s1_bssfp", "s2_bssfp", "s0_lge", "s1_lge", "s2_t2", "s1_t2"}
    assert seen == [everyone] * 2
    assert few | {"s0_lge", "s1_lge"} == everyone


def test_a_stylizer_says_how_its_slices_come_out(
    cohort: Cohort, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of()
    learn_stylizer(material_of(cohort, tmp_path / "a"), encoder, settings, quiet_run(tmp_path / "b"))
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(
        r"of 9 stylised slices \d+% of the pixels are clipped .* edge correlation -?\d\.\d\d; codes of styles lie "
        r"\d+\.\d\d nats a dimension from a standard normal",
        said,
    )


def test_adaconv_begins_as_the_decoder_that_gave_images_back(
    cohort: Cohort, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    still = {"stylizer": "adaconv", "stylizer_learning_rate": 1e-30}
    decoded = replace(encoder, decoder=Decoder())
    assert decoded.decoder is not None
    material = material_of(cohort, tmp_path / "read", **still)
    found = {}
    for name, changes in {
        "begun": {},
        "late": {"layout": "late"},
        "random": {"decoder_start": "random"},
    }.items():
        settings = settings_of(**still, **changes)
        network = learn_stylizer(material, decoded, settings, quiet_run(tmp_path / name)).network
        assert isinstance(network, AdaConv)
        found[name] = state_of(network.decoder.levels)
    theirs = state_of(decoded.decoder.levels)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found["begun"], theirs, strict=True))
    for start in ("late", "random"):
        pairs = [(a, b) for a, b in zip(found[start], theirs, strict=True) if a.ndim == 4]
        assert not any(a.shape == b.shape and torch.allclose(a, b) for a, b in pairs)
    assert "begins with random weights, at the scale of its styles" in capsys.readouterr().err


def test_adaconvs_rate_rises_at_first_and_rains_does_not() -> None:
    given = {"stylizer_decay": 0.5, "size": "bench"}
    rates = {name: Settings.of({"stylizer": name, **given}) for name in ("rain", "adaconv")}
    assert [rates["rain"].stylizer_rate(step) for step in (0, 2)] == [1, 0.5]
    found = [rates["adaconv"].stylizer_rate(step) for step in (0, 49, 99, 198)]
    assert found == pytest.approx([0.01, 0.5 / 25.5, 1 / 50.5, 1 / 100])
    assert settings_of(stylizer="adaconv", profile="code", stylizer_decay=0.0).stylizer_rate(0) == 1
    assert settings_of(stylizer_warm_up=4, stylizer_decay=0.0).stylizer_rate(1) == 0.5
    demonstration = Settings.of({"stylizer": "adaconv", "size": "demo"})
    assert demonstration.stylizer_rate(23) == pytest.approx(1, rel=0.01), "two fifths of 60 updates at most"


@pytest.mark.slow
@pytest.mark.parametrize("stylizer", ["rain", "adaconv"])
def test_what_is_stylised_still_shows_the_heart(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str], stylizer: str
) -> None:
    """From random weights, or with filters that explode, it is a plaid, or white all over."""
    learns = {
        "encoder": "cmr", "encoder_gate": False, "encoder_steps": 160, "encoder_batch": 4,
        "encoder_learning_rate": 5e-4, "stylizer_steps": 40, "stylizer_batch": 4, "auxiliary_steps_per_round": 40,
    }  # fmt: skip
    material = material_of(cohort, tmp_path / "read", encoder="cmr")
    encoder = find_encoder(material, cohort, settings_of(**learns), quiet_run(tmp_path / "learnt"))
    found = {}
    for start in ("encoder", "random"):
        settings = settings_of(**learns, stylizer=stylizer, decoder_start=start)
        learn_stylizer(material, encoder, settings, quiet_run(tmp_path / start))
        told = re.search(r"edge correlation (-?\d\.\d\d)", " ".join(capsys.readouterr().err.split()))
        assert told
        found[start] = float(told[1])
    assert found["encoder"] > 0.4
    assert found["encoder"] > found["random"] + 0.2


@pytest.mark.slow
def test_the_encoder_of_another_run_serves_and_is_not_learnt_again(
    cohort: Cohort, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(encoder, psnr_db=20.0, subjects=("s7",)).save(tmp_path / "kept")
    settings = settings_of(encoder=str(tmp_path / "kept"), encoder_gate=False, spacing_mm=3.9)
    told = train(cohort, settings, quiet_run(tmp_path / "run")).provenance
    assert told["encoder"] == {"source": "random", "psnr_db": 20.0, "silent": []}
    assert not (tmp_path / "run" / "stages" / "encoder").exists()
    assert alike(state_of(load_encoder(tmp_path / "run/models/encoder").vgg), state_of(encoder.vgg))
    said = capsys.readouterr().err
    assert "PSNR of 20.0 dB, below 28 (encoder_gate: off)" in said
    assert "prepared otherwise (spacing_mm 4.0, here 3.9)" in said
    tested = replace(cohort, rows=(*cohort.rows, row_of("s7", "lge", "test")))
    with pytest.raises(CohortError, match=r"1 subjects are tested and the encoder .* 's7' first"):
        train(tested, settings, quiet_run(tmp_path / "leak"))
    train(tested, settings.model_copy(update={"transductive": True}), quiet_run(tmp_path / "meant"))


@pytest.mark.slow
def test_a_user_may_bring_weights(cohort: Cohort, tmp_path: Path) -> None:
    places = dict(zip(("features.0", "features.2", "features.5", "features.7", "features.10", "features.12",
                       "features.14", "features.16", "features.19"), Vgg(3).convolutions(), strict=True))  # fmt: skip
    weights = {f"{n}.{part}": t for n, c in places.items() for part, t in c.state_dict().items()}
    torch.save(weights, tmp_path / "vgg.pth")
    for channels in (1, 3):
        settings = settings_of(encoder=str(tmp_path / "vgg.pth"), encoder_channels=channels)
        run = quiet_run(tmp_path / f"{channels}")
        material = gather(find_domains(cohort, settings, 0), cohort, settings, run)
        found = find_encoder(material, cohort, settings, run)
        assert (found.source, found.vgg.in_channels, found.psnr_db) == ("file", channels, None)


def test_an_encoder_of_other_colours_is_refused(cohort: Cohort, tmp_path: Path, encoder: Encoder) -> None:
    encoder.save(tmp_path / "grey")
    settings = settings_of(encoder=str(tmp_path / "grey"), encoder_channels=3)
    with pytest.raises(
        SettingsError, match="takes 1 colours, and encoder_channels is 3; say encoder_channels: 1"
    ):
        train(cohort, settings, quiet_run(tmp_path / "run"))


def test_a_random_encoder_says_how_many_channels_are_silent(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, run = settings_of(), quiet_run(tmp_path)
    material = gather(find_domains(cohort, settings, 0), cohort, settings, run)
    found = find_encoder(material, cohort, settings, run)
    assert f"{found.silent[-1]} of 512 channels of relu4_1 stay silent" in capsys.readouterr().err


def test_an_encoder_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    unread = Cohort((row_of("s0", "bssfp"),))
    with pytest.raises(
        SettingsError, match=r"encoder cmrr: there is no such file or folder; say cmr, random"
    ):
        train(unread, settings_of(encoder="cmrr"), quiet_run(tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        RunError, match=r"encoder.json is missing; is this the folder with the encoder in models"
    ):
        train(unread, settings_of(encoder=str(tmp_path / "empty")), quiet_run(tmp_path / "second"))
    (tmp_path / "vgg.pth").write_text("no weights")
    with pytest.raises(FileError, match=r"vgg\.pth"):
        train(unread, settings_of(encoder=str(tmp_path / "vgg.pth")), quiet_run(tmp_path / "third"))


# --- the stylizer ------------------------------------------------------------------------------------


def make_stylizer(encoder: Encoder, kind: str) -> Stylizer:
    torch.manual_seed(1)
    if kind == "rain":
        return Stylizer(encoder, Rain())
    return Stylizer(
        encoder,
        AdaConv(style_channels=16),
        DescriptorAutoencoder(16) if kind == "adaconv and codes" else None,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rain", "adaconv", "adaconv and codes"])
def test_one_door_for_all_stylizers_and_back_from_disk(encoder: Encoder, tmp_path: Path, kind: str) -> None:
    stylizer = make_stylizer(encoder, kind)
    contents, styles = torch.rand(2, 1, 33, 40), torch.rand(2, 1, 21, 50)
    code = stylizer.code_of(styles)
    assert code.shape == (2, *stylizer.code_shape)
    each = stylizer.stylise(contents, code)
    assert each.shape == contents.shape
    assert 0 <= float(each.min()) < float(each.max()) <= 1
    torch.testing.assert_close(stylizer.stylise(contents, code[:1])[0], each[0], atol=1e-4, rtol=1e-4)
    stylizer.save(tmp_path / "stylizer")
    loaded = load_stylizer(tmp_path / "stylizer")
    assert (loaded.kind, loaded.has_code) == (kind.split()[0], kind != "adaconv")
    assert torch.equal(loaded.stylise(contents, loaded.code_of(styles)), each)
    if stylizer.has_code:
        noise = torch.randn(2, 512)
        found = stylizer.distribution(styles)
        torch.testing.assert_close(stylizer.code_of(styles, noise), found.centre + found.spread * noise)
    else:
        with pytest.raises(SettingsError, match="its styles have no code ε; train it with style_vae: true"):
            stylizer.distribution(styles)


def test_colours_of_an_encoder_are_averaged_to_grey() -> None:
    torch.manual_seed(2)
    stylizer = Stylizer(Encoder(Vgg(3), "file", settings_of().preparation), Rain(3))
    contents = torch.rand(1, 1, 16, 16)
    code = stylizer.code_of(contents)
    assert isinstance(stylizer.network, Rain)
    colours = stylizer.network.stylise(stylizer.read(contents), code, (16, 16))
    expected = colours.mean(dim=1, keepdim=True).clamp(0, 1)
    torch.testing.assert_close(stylizer.stylise(contents, code), expected)


def test_a_broken_stylizer_is_named(encoder: Encoder, tmp_path: Path) -> None:
    make_stylizer(encoder, "adaconv").save(tmp_path / "stylizer")
    path = tmp_path / "stylizer" / "stylizer.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"stylizer": "rain"}))
    with pytest.raises(RunError, match="cannot be loaded"):
        load_stylizer(tmp_path / "stylizer")
    path.write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(RunError, match="newer than this"):
        load_stylizer(tmp_path / "stylizer")


class Still(StylizerStage):
    """Takes no step: its losses are those of the weights it began with."""

    def descend(self, loss: Tensor, *other: Any, **others: Any) -> None:
        loss.backward()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({}, {"content": 5, "style": 5, "kl": 1, "reconstruction": 5}),
        ({"stylizer": "adaconv"}, {"content": 1, "style": 10}),
        (
            {"structure_weight": 3.0, "content_weight": 2.0, "kl_weight": 0.5, "spread": "direct"},
            {"content": 2, "style": 5, "kl": 0.5, "reconstruction": 5, "structure": 3},
        ),
    ],
)
def test_the_stylizers_loss_is_the_weighted_sum_of_its_terms(
    cohort: Cohort, tmp_path: Path, encoder: Encoder, changes: dict[str, Any], weights: dict[str, float]
) -> None:
    settings, run = settings_of(**changes), quiet_run(tmp_path / "run")
    found = material_of(cohort, tmp_path / "material", **changes)
    assert found.taught is not None
    torch.manual_seed(3)
    network = settings.build_stylizer()
    told = Still(run, settings, network, encoder, found.content, found.taught).update(0)
    assert {name.removeprefix("loss_") for name in told} == {"loss", *weights}
    expected = sum(weight * told[f"loss_{name}"] for name, weight in weights.items())
    torch.testing.assert_close(told["loss"], expected)
    assert all(p.grad is None for p in encoder.vgg.parameters())
    assert all(p.grad is not None for p in network.parameters())


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, (n, c, 1, 1) each; methods.md 3.2."""
    flat = features.flatten(2)
    spread = (flat.var(dim=2, unbiased=True) + 1e-5).sqrt()
    return flat.mean(dim=2)[..., None, None], spread[..., None, None]


def difference_of_styles(seen: Features, style: Features) -> Tensor:
    """Eq. 4: squared differences of means and of deviations, over four levels."""
    pairs = [(moments(a), moments(b)) for a, b in zip(seen, style, strict=True)]
    return sum((F.mse_loss(a[0], b[0]) + F.mse_loss(a[1], b[1]) for a, b in pairs), torch.zeros(()))


@pytest.mark.slow
@pytest.mark.parametrize("stylizer", ["rain", "adaconv"])
def test_each_term_compares_what_its_equation_says(
    cohort: Cohort, tmp_path: Path, encoder: Encoder, stylizer: str
) -> None:
    """RAIN's content is held to AdaIN's t, in the decoded style, AdaConv's to the content's own features."""
    settings, run = settings_of(stylizer=stylizer), quiet_run(tmp_path / "run")
    found = material_of(cohort, tmp_path / "material", stylizer=stylizer)
    assert found.taught is not None
    torch.manual_seed(3)
    network = settings.build_stylizer()
    told = Still(run, settings, network, encoder, found.content, found.taught).update(0)
    images = training_batch(found.content, 2, settings.turns, seed=0, step=0).image
    chosen = choose_styles(found.taught, 2, seed=0, step=0)
    style = encoder.vgg(style_images(found.taught, chosen, settings.turns, seed=0, step=0))
    content = encoder.vgg(images).relu4_1
    if isinstance(network, Rain):
        mean, spread = moments(style.relu4_1)
        code = network.encode(Style(mean[..., 0, 0], spread[..., 0, 0]))
        assert code.log_variance is not None
        decoded = network.decode(code.at(code_noise(2, 512, seed=0, step=0)))
        own_mean, own_spread = moments(content)
        wanted = decoded.deviation[..., None, None] * (content - own_mean) / own_spread
        wanted = wanted + decoded.mean[..., None, None]
        seen = encoder.vgg(network.decoder(wanted, (32, 32)))
        log_variance = code.log_variance
        expected = {
            "loss_kl": 0.5 * (code.centre**2 + log_variance.exp() - 1 - log_variance).mean(),
            "loss_reconstruction": F.mse_loss(
                torch.cat([decoded.mean, decoded.deviation], 1), torch.cat([mean, spread], 1)[..., 0, 0]
            ),
        }
    else:
        wanted, expected = content, {}
        seen = encoder.vgg(network(content, style.relu4_1, (32, 32)))
    expected |= {
        "loss_content": F.mse_loss(seen.relu4_1, wanted),
        "loss_style": difference_of_styles(seen, style),
    }
    torch.testing.assert_close({name: told[name] for name in expected}, expected)


class StillCodes(StyleVaeStage):
    """As `Still`, of the codes of a finished AdaConv."""

    def descend(self, loss: Tensor, *other: Any, **others: Any) -> None:
        loss.backward()


def test_codes_learn_what_descriptors_there_are_and_move_nothing_else(
    cohort: Cohort, tmp_path: Path, encoder: Encoder
) -> None:
    changes = {"stylizer": "adaconv", "style_vae": True, "kl_weight": 2.0, "reconstruction_weight": 3.0}
    settings = settings_of(**changes)
    taught = material_of(cohort, tmp_path / "material", **changes).taught
    assert taught is not None
    torch.manual_seed(3)
    network, autoencoder = settings.build_stylizer(), settings.build_style_vae()
    stylizer = Stylizer(encoder, network)
    stage = StillCodes(quiet_run(tmp_path / "run"), settings, autoencoder, stylizer, taught)
    told = stage.update(0)
    chosen = choose_styles(taught, 2, seed=0, step=0)
    descriptor = stylizer.code_of(style_images(taught, chosen, settings.turns, seed=0, step=0))
    code = autoencoder.encode(descriptor)
    rebuilt = autoencoder.decode(code.at(code_noise(2, 512, seed=0, step=0)))
    torch.testing.assert_close(
        told["loss_reconstruction"], F.mse_loss(*map(autoencoder.vector, (rebuilt, descriptor)))
    )
    torch.testing.assert_close(told["loss"], 2 * told["loss_kl"] + 3 * told["loss_reconstruction"])
    assert all(p.grad is not None for p in autoencoder.parameters())
    assert all(p.grad is None for p in [*network.parameters(), *encoder.vgg.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize(("joint", "reached"), [(False, False), (True, True)])
def test_content_and_style_reach_rains_autoencoder_where_joint(
    cohort: Cohort, tmp_path: Path, encoder: Encoder, joint: bool, reached: bool
) -> None:
    changes = {"joint": joint, "kl_weight": 0.0, "reconstruction_weight": 0.0}
    found = material_of(cohort, tmp_path / "material", **changes)
    assert found.taught is not None
    network = settings_of().build_stylizer()
    run = quiet_run(tmp_path / "run")
    Still(run, settings_of(**changes), network, encoder, found.content, found.taught).update(0)
    assert isinstance(network, Rain)
    gradients = [p.grad for p in network.style_decoder.parameters()]
    assert any(g is not None and g.any() for g in gradients) == reached


# --- the whole ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"stylizer": "none"},
        {"pretrain_style": {"sequence": "t2"}},
        {"style": "same_patient", "overlap": "dice", "select": "last"},
        {"stylizer": "adaconv", "augmentation": "standard"},
        {"stylizer": "adaconv", "style_vae": True, "layout": "late", "kernel_size": 5},
        {"profile": "text", "style_scans": "patient"},
        {"profile": "code", "style_scans": "slice", "select": "last"},
        {"network": "dilated_resunet", "consistency_weight": 0.0, "turn_styles": False},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_profile_and_arm_takes_its_steps(
    cohort: Cohort, tmp_path: Path, changes: dict[str, Any]
) -> None:
    segmenter = train(cohort, settings_of(**changes), quiet_run(tmp_path))
    case = heart(row_of("s30", "lge"))
    assert segmenter.predict(case).shape == case.image.shape
    assert (tmp_path / "models" / "stylizer" / "weights.safetensors").exists() == (
        changes.get("stylizer") != "none"
    )
    told = segmenter.provenance
    assert ("encoder" in told) == (changes.get("stylizer") != "none")
    assert told["trained_on"].get("styles", []) == (
        ["s2_t2"] if "pretrain_style" in changes else told["trained_on"].get("target", [])
    )


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", [StylizerStage, Segmentation])
def test_stopped_in_either_stage_it_ends_as_if_it_had_not(
    cohort: Cohort, tmp_path: Path, stopped_in: type[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds end between two uses of a source batch: ε must come back with them."""
    settings = settings_of(
        stylizer_steps=2, steps=6, steps_per_round=2, augmentation="light", epsilon_rounds=3
    )
    whole = train(cohort, settings, quiet_run(tmp_path / "whole")).network
    original = stopped_in.update

    def stop(self: Any, step: int) -> dict[str, Tensor]:
        if step == (5 if stopped_in is Segmentation else 1):
            raise KeyError("the power went off")
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(stopped_in, "update", stop)
        with pytest.raises(KeyError):
            train(cohort, settings, quiet_run(tmp_path / "cut"))
    resumed = train(cohort, settings, quiet_run(tmp_path / "cut", resume=True)).network
    assert alike(state_of(whole), state_of(resumed))
    kept = [load_stylizer(tmp_path / name / "models" / "stylizer") for name in ("whole", "cut")]
    assert alike(state_of(kept[0].network), state_of(kept[1].network))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_encoder_stylizer_and_segmenter(cohort: Cohort, tmp_path: Path) -> None:
    settings = settings_of(encoder="cmr", encoder_gate=False)
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        network = train(cohort, settings, quiet_run(tmp_path / name, seed)).network
        kept = load_stylizer(tmp_path / name / "models" / "stylizer")
        found.append([state_of(part) for part in (network, kept.network, kept.encoder.vgg)])
    for one, same, other in zip(*found, strict=True):
        assert alike(one, same)
        assert not alike(one, other)


@pytest.mark.slow
def test_segmenters_begin_alike_with_and_without_a_stylizer(cohort: Cohort, tmp_path: Path) -> None:
    begun = []

    class Watched(Segmentation):
        def __init__(self, run: Run, settings: Settings, network: torch.nn.Module, *other: Any) -> None:
            begun.append(state_of(network))
            raise KeyError("seen enough")

    for stylizer in ("none", "rain"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("crossbeat.methods.stylization.Segmentation", Watched)
            with pytest.raises(KeyError):
                train(cohort, settings_of(stylizer=stylizer), quiet_run(tmp_path / stylizer))
    assert alike(begun[0], begun[1])


@pytest.mark.slow
def test_a_dry_run_tells_the_cost_of_every_stage_and_writes_nothing(cohort: Cohort, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", device="cpu", progress=False, estimates={})
    train(cohort, settings_of(encoder="cmr", stylizer="adaconv", style_vae=True), run)
    assert run.estimates is not None
    assert set(run.estimates) == {"encoder", "stylizer", "style_vae", "segmentation"}
    assert run.estimates["segmentation"].updates == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_run_json_says_what_encoder_a_score_rests_on(cohort: Cohort, tmp_path: Path) -> None:
    few = {"epsilon_rounds": 1, "steps": 1, "steps_per_round": 1}
    for stylizer in ("rain", "none"):
        run = Run(tmp_path / stylizer, device="cpu", precision="32", progress=False)
        METHODS["stylization"].carry_out(cohort, settings_of(stylizer=stylizer, **few), run, "test")
        told = json.loads((tmp_path / stylizer / "run.json").read_text())
        assert told["chosen"]["rule"] == "last"
        assert ("encoder" in told) == (stylizer == "rain")
    kept = load_encoder(tmp_path / "rain" / "models" / "encoder")
    told = json.loads((tmp_path / "rain" / "run.json").read_text())
    assert told["encoder"] == {"source": "random", "psnr_db": None, "silent": list(kept.silent)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"encoder": "cmr", "encoder_gate": False}, {"stylizer": "adaconv", "style_vae": True}]
)
def test_a_target_of_one_slice_is_enough(cohort: Cohort, tmp_path: Path, changes: dict[str, Any]) -> None:
    def read(row: Row) -> Case:
        return heart(row, slices=1 if row.sequence == "lge" else 3)

    rows = (*(row_of(f"s{i}", "bssfp") for i in range(3)), row_of("s0", "lge"))
    found = train(Cohort(rows, read, "one"), settings_of(**changes), quiet_run(tmp_path))
    case = heart(row_of("s30", "lge"))
    assert found.predict(case).shape == case.image.shape
    assert found.provenance["trained_on"]["target"] == ["s0_lge"]


# --- what arms of a study share ----------------------------------------------------------------------


@pytest.mark.slow
def test_arms_that_differ_in_segmentation_find_encoder_and_stylizer_as_they_would_have_learnt_them(
    cohort: Cohort, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    first = settings_of(encoder="cmr", encoder_gate=False)
    second = settings_of(encoder="cmr", encoder_gate=False, overlap="dice", epsilon_rounds=1)
    train(cohort, first, quiet_run(tmp_path / "first", shared=shared))
    found = train(cohort, second, quiet_run(tmp_path / "second", shared=shared))
    alone = train(cohort, second, quiet_run(tmp_path / "alone"))
    assert {path.name for path in (tmp_path / "second" / "stages").iterdir()} == {"segmentation"}
    assert len(list(shared.iterdir())) == 2
    assert alike(state_of(found.network), state_of(alone.network))
    assert found.provenance["encoder"] == alone.provenance["encoder"]
    for name in ("encoder", "stylizer"):
        files = [tmp_path / run / "models" / name / "weights.safetensors" for run in ("second", "alone")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_an_adaconv_with_codes_finds_the_one_without(cohort: Cohort, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    plain, coded = settings_of(stylizer="adaconv"), settings_of(stylizer="adaconv", style_vae=True)
    train(cohort, plain, quiet_run(tmp_path / "plain", shared=shared))
    found = train(cohort, coded, quiet_run(tmp_path / "coded", shared=shared))
    alone = train(cohort, coded, quiet_run(tmp_path / "alone"))
    assert {path.name for path in (tmp_path / "coded" / "stages").iterdir()} == {"style_vae", "segmentation"}
    assert alike(state_of(found.network), state_of(alone.network))
    assert load_stylizer(tmp_path / "coded" / "models" / "stylizer").has_code
    assert not load_stylizer(tmp_path / "plain" / "models" / "stylizer").has_code


def test_a_shared_part_is_known_by_all_settings_but_those_that_it_knows_nothing_of() -> None:
    named = [*SEGMENTING, *STYLIZING, *CODING]
    assert set(named) <= set(Settings.model_fields)
    assert len(named) == len(set(named))
    assert settings_of(stylizer="none").shared_stages == {}
    assert set(settings_of().shared_stages) == {"encoder", "stylizer"}
    adaconv = settings_of(stylizer="adaconv").shared_stages
    coded = {"stylizer": "adaconv", "style_vae": True}
    plain = settings_of(**coded).shared_stages
    assert {stage for stage in plain if adaconv.get(stage) != plain[stage]} == {"style_vae"}
    for changes, changed in (
        ({"network": "unet", "consistency_weight": 0, "style": "same_patient", "epsilon_rounds": 5}, set()),
        ({"structure_weight": 1.0}, {"stylizer", "style_vae"}),
        ({"style_vae_steps": 3}, {"style_vae"}),
        ({"encoder_steps": 3}, {"encoder", "stylizer", "style_vae"}),
        ({"pretrain_style": {"sequence": "t2"}}, {"stylizer", "style_vae"}),
        ({"image_size": 48}, {"encoder", "stylizer", "style_vae"}),
    ):
        found = settings_of(**coded, **changes).shared_stages
        assert {name for name in plain if found[name] != plain[name]} == changed


def test_a_stylizer_slows_down_as_its_own_authors_had_it() -> None:
    """RElbers' AdaConv by 2e-4 a step, the cardiac RAIN by next to nothing; ours both alike."""
    found = {
        (profile, stylizer): settings_of(profile=profile, stylizer=stylizer, size="full").decay
        for profile in ("ours", "code")
        for stylizer in ("rain", "adaconv")
    }
    assert list(found.values()) == [5e-5, 5e-5, 0.0, 2e-4]
    assert settings_of(profile="code", stylizer="adaconv", stylizer_decay=1e-3).decay == 1e-3


def test_an_encoder_counts_by_its_bytes(tmp_path: Path) -> None:
    weights = tmp_path / "vgg.pth"
    told = settings_of(encoder=str(weights)).model_dump(mode="json")
    found = []
    for text in ("a", "b", "a"):
        weights.write_text(text)
        found.append(decided_by("encoder", told))
    assert found[0] == found[2] != found[1]


# --- what it refuses ---------------------------------------------------------------------------------


def test_without_target_images_there_are_no_styles(cohort: Cohort, tmp_path: Path) -> None:
    tested = tuple(replace(r, split="test", subject="s9") if r.sequence == "lge" else r for r in cohort)
    for rows, target, words in (
        (tested, {"sequence": "lge"}, r"no target scan trains \(sequence is bssfp, lge, t2\); name"),
        (cohort.rows, {}, r"no `target` is named \(sequence is bssfp, lge, t2\); name"),
    ):
        changes = {"target": target, "source": {"sequence": "bssfp"}}
        with pytest.raises(CohortError, match=rf"takes its styles from target images, and {words}"):
            train(replace(cohort, rows=rows), settings_of(**changes), quiet_run(tmp_path / str(len(target))))
    found = material_of(replace(cohort, rows=tested), tmp_path / "seen", transductive=True)
    assert found.styles is not None


def test_styles_of_tested_patients_are_not_shown(cohort: Cohort, tmp_path: Path) -> None:
    rows = (*cohort.rows, row_of("s2", "t2", "test", vendor="b"))
    source = {"source": {"sequence": "bssfp", "subject": ["s0", "s1"]}}
    learns = {**source, "pretrain_style": {"sequence": "t2"}}
    with pytest.raises(
        CohortError, match=r"1 subjects are tested and also show styles in training, 's2' first"
    ):
        material_of(replace(cohort, rows=rows), tmp_path / "a", **learns)
    with pytest.raises(
        CohortError, match=r"pretrain_style \(sequence t9\): sequence is bssfp, lge, t2; or take"
    ):
        material_of(cohort, tmp_path / "b", pretrain_style={"sequence": "t9"})
    with pytest.raises(
        CohortError, match=r"\(vendor b\): 1 are tested or validate; set `split` of some to train"
    ):
        material_of(
            replace(cohort, rows=rows),
            tmp_path / "c",
            source={"subject": ["s0"]},
            pretrain_style={"vendor": "b"},
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"stylizer": "adaconv", "epsilon_rounds": 3},
            r"epsilon_rounds 3: AdaConv's styles have no code .* style_vae: true, or epsilon_rounds: 1",
        ),
        (
            {"network": "unet"},
            r"network 'unet' does not show the features of its bottleneck; say consist",
        ),
        ({"style": "same_patient", "shared_epsilon": True}, r"say shared_epsilon: false"),
        ({"style": "same_patient", "style_scans": "patient"}, r"say style_scans: all, or style: random"),
        (
            {"stylizer": "adaconv", "style_vae": True, "style_scans": "slice", "turn_styles": False},
            r"style_scans: slice shows one; say turn_styles: true, or style_scans: patient",
        ),
        ({"encoder_channels": 3}, r"encoder_channels 3 is for the weights of a file; encoder random is grey"),
        ({"stylizer": "adaconv", "kernel_size": 4}, r"kernel_size must be odd"),
        ({"cross_entropy_weight": 0, "overlap_weight": 0}, r"the segmenter learns nothing; raise one"),
        (
            {"style_vae": True},
            r"style_vae gives AdaConv's styles a code, and the stylizer is rain; say style_vae",
        ),
        ({"steps": 5}, r"steps 5 are no whole number of rounds of 3; take 3 or 6"),
        (
            {"stylizer_steps": 5},
            r"stylizer_steps 5 are no whole number of rounds of 3; take 3 or 6, or another auxiliary_steps",
        ),
        ({"encoder_steps": 5}, r"encoder_steps 5 are no whole number of rounds of 3"),
        ({"stylizer": "adain"}, r"stylizer: Input should be 'rain', 'adaconv' or 'none'"),
        ({"augmentation_changes": {"gama": [1, 2]}}, r"there is no 'gama'; did you mean 'gamma'"),
        ({"epsilon_round": 3}, r"no setting 'epsilon_round'; did you mean 'epsilon_rounds'"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_is_read(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        settings_of(**changes)


def test_setting_0_needs_no_bottleneck_and_no_styles_of_its_own() -> None:
    settings = settings_of(stylizer="none", network="unet", style="same_patient", shared_epsilon=True)
    assert settings.spec.name == "unet"


def test_yamls_off_switches_the_gate_off(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("encoder_gate: off\npretrain_style: {sequence: t2}\n")
    found = Settings.load(tmp_path / "recipe.yaml")
    assert not found.encoder_gate
    assert found.pretrain_style == {"sequence": ["t2"]}


@pytest.mark.slow
@pytest.mark.parametrize("profile", sorted(Settings.PROFILES))
@pytest.mark.parametrize("size", sorted(Settings.SIZES))
def test_every_profile_and_size_loads(profile: str, size: str) -> None:
    found = Settings.of({"profile": profile, "size": size})
    assert Settings.of(found.model_dump(mode="json")) == found
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.slow
def test_sizes_update_the_segmenter_as_often_as_supervised_training_does() -> None:
    for size in Settings.SIZES:
        for stylizer in ("rain", "adaconv", "none"):
            ours = Settings.of({"size": size, "stylizer": stylizer})
            assert (
                ours.segmenter_updates == METHODS["supervised"].settings.of({"size": size}).segmenter_updates
            )


@pytest.mark.slow
def test_the_published_numbers() -> None:
    code, text = Settings.of({"profile": "code"}), Settings.of({"profile": "text"})
    assert (code.uses, code.segmenter_updates, code.rounds) == (3, 18_000, (24, 750))
    assert (code.ascent, code.ascent_rate, code.shared_epsilon, code.ascent_pass) == (
        "asm",
        20,
        True,
        "shared",
    )
    assert (code.spread, code.deviation, code.joint, text.joint) == ("direct", "free", False, True)
    assert (text.network, text.consistency_weight, code.network) == ("dru_net", 2e-3, "dr_unet")
    assert (text.uses, text.contents, text.turn_styles, text.select) == (5, 16, False, "last")
    assert (code.contents, code.turn_styles, code.select) == (16, False, "target")
    assert code.weights == (5, 5)
    assert Settings.of({"stylizer": "adaconv"}).weights == (1, 10)
    seed_torch(0)
    published = Settings.of({"profile": "text", "stylizer": "adaconv"})
    assert (published.uses, published.contents) == (1, 8)
    count = sum(p.numel() for p in published.build_stylizer().parameters())
    assert count == 59_320_323 - 2 * (64 * 9 + 1)  # one grey channel where the paper has three colours
