"""Tag pretraining: which part is learnt when and how long, what a source image becomes, whose images are seen."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, RunError, SettingsError
from crossbeat.labels import TRAINED, UNKNOWN, Structure
from crossbeat.methods.tag_pretraining import Settings, disguises, train
from crossbeat.methods.tag_pretraining.cyclegan import Translator
from crossbeat.methods.tag_pretraining.disguises import FRAMES, TAGS, Material, Tagged, gather
from crossbeat.methods.tag_pretraining.segmentation import Lesson, Segmentation, narrowed
from crossbeat.methods.tag_pretraining.settings import SEGMENTING
from crossbeat.prepare.slices import Batch, batch_generator, build_bank
from crossbeat.prepare.volumes import stretch
from crossbeat.synthetic.tagging import Simulation, draw, tag
from crossbeat.training import Run

TINY: dict[str, Any] = {
    "source": {"sequence": "bssfp"},
    "target": {"sequence": "tagged"},
    "network": "dilated_resunet",
    "network_arguments": {"width": 4},
    "cyclegan_width": 4,
    "cyclegan_steps": 2,
    "cyclegan_steps_per_round": 2,
    "image_size": 32,
    "spacing_mm": 3.0,
    "tag_spacing_mm": 9.0,
    "augmentation": "none",
    "batch_size": 2,
    "pretraining_steps": 4,
    "steps": 2,
    "steps_per_round": 1,
}
LEARNS: dict[str, Any] = {
    "network": "dilated_resunet",
    "network_arguments": {"width": 8},
    "cyclegan_width": 4,
    "cyclegan_steps": 4,
    "cyclegan_steps_per_round": 2,
    "image_size": 48,
    "spacing_mm": 2.5,
    "augmentation": "light",
    "batch_size": 8,
    "cine_first": False,
    "strategy": "physics",
    "tag_spacing_mm": 12.0,
    "pretraining_steps": 80,
    "steps": 40,
    "steps_per_round": 40,
    "learning_rate": 5e-3,
    "ema_decay": 0.9,
}
"""For the contract suite: learns small hearts in seconds on one core."""
ONCE: dict[str, Any] = {"strategy": "cyclegan", "pretraining_steps": 2, "steps": 2, "steps_per_round": 2}
"""For the contract suite: changes to those that make it do everything once, and learn nothing."""

GREY = {"bssfp": [60, 250, 90, 240], "tagged": [50, 120, 160, 110]}


def heart(row: Row, slices: int = 2, shape: tuple[int, int] = (40, 44)) -> Case:
    """A ring with a cavity and a crescent beside it; pixels are 3 mm."""
    rng = np.random.default_rng([int(row.subject[1:]), *map(ord, row.sequence)])
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = 3 * (y - shape[0] / 2), 3 * (x - shape[1] / 2)
    labels = np.zeros((1, slices, *shape), np.uint8)
    for z in range(slices):
        labels[0, z][np.hypot(y, x + 22) < 21] = Structure.RV
        labels[0, z][np.hypot(y, x) < 22 - z] = Structure.MYO
        labels[0, z][np.hypot(y, x) < 13 - z] = Structure.LV
    image = np.asarray(GREY[row.sequence], np.float32)[labels]
    image += rng.normal(0, 8, labels.shape).astype(np.float32)
    affine = np.diag([3.0, 3.0, 8.0, 1.0])
    if not row.labels:
        return Case(row.scan, row.subject, image, affine, Domain(row.sequence, row.vendor))
    drawn = (frozenset(TRAINED),)
    return Case(row.scan, row.subject, image, affine, Domain(row.sequence, row.vendor), labels, drawn)


def row_of(subject: int, sequence: str, split: str = "train", labels: str = "-", **other: Any) -> Row:
    return Row(f"s{subject}", f"s{subject}_{sequence}", sequence, "-", split=split, labels=labels, **other)


@pytest.fixture
def cohort() -> Cohort:
    """Labelled cine of three; unlabelled cine and labelled tagged scans of three others; one tagged for the test."""
    rows = [row_of(i, "bssfp") for i in range(3)] + [row_of(i, "bssfp", labels="") for i in (3, 4, 5)]
    rows += [row_of(i, "tagged") for i in (3, 4, 5)]
    return Cohort((*rows, row_of(9, "tagged", "test"), row_of(9, "bssfp", labels="")), heart, "hearts")


def quiet_run(folder: Path, seed: int = 0, **other: Any) -> Run:
    run = Run(folder, seed=seed, device="cpu", precision="32", progress=False, **other)
    run.open({}, Cohort(()), "test")
    return run


def settings_of(**changes: Any) -> Settings:
    return Settings.of({**TINY, **changes})


def material_of(cohort: Cohort, folder: Path, **changes: Any) -> Material:
    return gather(cohort, settings_of(**changes), quiet_run(folder))


def notes_in(folder: Path) -> str:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return "\n".join(line["text"] for line in lines if line["event"] == "note")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"strategy": "scratch"}, {"target": 60}),
        ({"strategy": "cine"}, {"cine": 40, "target": 20}),
        ({"strategy": "physics"}, {"cine": 20, "tags": 20, "target": 20}),
        ({"strategy": "cyclegan", "cine_first": False}, {"tags": 40, "target": 20}),
        ({"strategy": "physics", "target_labels": "none"}, {"cine": 30, "tags": 30}),
    ],
)
def test_with_matched_updates_every_strategy_makes_as_many(
    changes: dict[str, Any], parts: dict[str, int]
) -> None:
    found = settings_of(**{"target_labels": "train", "pretraining_steps": 40, "steps": 20, **changes})
    assert found.parts == parts
    assert list(found.parts) == list(parts)
    assert found.segmenter_updates == 60


@pytest.mark.parametrize(
    ("strategy", "parts"),
    [
        ("scratch", {"target": 20}),
        ("cine", {"cine": 40, "target": 20}),
        ("physics", {"cine": 40, "tags": 40, "target": 20}),
        ("cyclegan", {"cine": 40, "tags": 40, "target": 20}),
    ],
)
def test_as_published_tags_are_an_extra_stage(strategy: str, parts: dict[str, int]) -> None:
    found = settings_of(
        strategy=strategy, match_updates=False, target_labels="train", pretraining_steps=40, steps=20
    )
    assert found.parts == parts


def test_an_odd_update_is_cine_s_and_a_share_must_be_whole_rounds() -> None:
    odd = settings_of(strategy="physics", target_labels="train", pretraining_steps=5)
    assert odd.parts == {"cine": 3, "tags": 2, "target": 2}
    with pytest.raises(
        SettingsError,
        match=r"updates on cine \(of pretraining_steps and steps\): 15 are no whole number",
    ):
        settings_of(strategy="physics", target_labels="train", pretraining_steps=30, steps_per_round=10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "scratch"}, "strategy scratch learns from the target's labels alone"),
        ({"vae_weight": 0.1}, "network 'dilated_resunet' has no VAE"),
        ({"simulated": {"source": "x"}, "strategy": "cine"}, "simulated scans are tagged by formula"),
        ({"tag_spacing_mm": 5.0, "strategy": "physics"}, "lines closer than two pixels"),
        (
            {"pretraining_steps": 1, "target_labels": "train"},
            "pretraining_steps 1 leaves tags no update; take 2",
        ),
        ({"cyclegan_image_size": 1000}, "a crop's side must be a multiple of 4, from 32 to the field's"),
        ({"translator": "a/b", "strategy": "physics"}, "translator is for strategy cyclegan, not physics"),
        (
            {"translate_from": {"centre": "A"}, "strategy": "cine"},
            "translate_from is for strategy cyclegan, not cine",
        ),
        ({"structures": ["MYO", "MYO"]}, "each once"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_of(**changes)


@pytest.mark.parametrize(
    ("target", "strategy"), [({"sequence": "tagged"}, "physics"), ({"sequence": "lge"}, "cyclegan")]
)
def test_without_a_strategy_tags_come_by_formula_where_the_target_is_tagged(
    cohort: Cohort, tmp_path: Path, target: dict[str, str], strategy: str
) -> None:
    rows = tuple(replace(r, sequence=target["sequence"]) if r.sequence == "tagged" else r for r in cohort)

    def read(row: Row) -> Case:
        return heart(replace(row, sequence="tagged" if row.sequence == "lge" else row.sequence))

    assert material_of(Cohort(rows, read, "hearts"), tmp_path, target=target).strategy == strategy


@pytest.mark.parametrize("kept", [1.0, 0.9])
def test_a_disguised_batch_is_tagged_as_the_formula_says_and_keeps_its_labels(
    cohort: Cohort, kept: float
) -> None:
    settings = settings_of(tag_noise_sd=0.1, tag_low_pass=kept)
    bank = build_bank(cohort.where(sequence="bssfp").labelled(), settings.preparation)
    simulation = settings.simulation
    assert simulation.resolved == kept
    batch = bank.batch(torch.tensor([0, 3, 5]))
    seen = Tagged(simulation, settings.preparation)(batch, 3, torch.arange(3), seed=2, step=7)
    generator = batch_generator(2, 7, TAGS)
    tags = draw(simulation, 3, generator)
    pulses = torch.randint(FRAMES, (3,), generator=generator).float()
    noise = torch.randn(3, 2, *batch.image.shape[2:], generator=generator)
    for i in range(3):
        alone = tag(
            batch.image[i],
            tags.take([i]),
            simulation,
            pixel=(3.0, 3.0),
            labels=batch.labels[i : i + 1],
            pulses=pulses[i : i + 1],
            noise=noise[i : i + 1],
        )
        low, high = np.percentile(alone.numpy(), (0.5, 99.5))  # as the target's own images are stretched
        torch.testing.assert_close(seen[i], ((alone - low) / (high - low)).clamp(0, 1).float())
    assert (float(seen.min()), float(seen.max())) == (0, 1)
    assert (seen - batch.image).abs().mean() > 0.05


def test_source_scans_validate_as_they_look_in_each_stage(cohort: Cohort, tmp_path: Path) -> None:
    """Plain in cine, tagged in tags, where plain ones would only show that cine is left; the same every time."""
    both = replace(cohort, rows=(*cohort.rows, row_of(6, "bssfp", "validation")))
    changes = {"strategy": "physics", "cine_first": True, "tag_noise_sd": 0.1}
    first, again = (material_of(both, tmp_path / name, **changes).validation for name in ("one", "two"))
    plain, tagged = first["cine"]["source"].images, first["tags"]["source"].images
    assert (plain - tagged).abs().mean() > 0.05
    assert torch.equal(tagged, again["tags"]["source"].images)
    assert torch.equal(plain, build_bank(both.where(subject="s6"), settings_of().preparation).images)


def test_lines_too_close_are_refused_before_anything_is_learnt_where_the_target_decides(
    cohort: Cohort, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="lines closer than two pixels"):
        material_of(cohort, tmp_path, strategy=None, tag_spacing_mm=5.0)
    rows = tuple(replace(r, sequence="lge") if r.sequence == "tagged" else r for r in cohort)
    other = Cohort(rows, lambda r: heart(replace(r, sequence="bssfp")), "hearts")
    material_of(other, tmp_path / "lge", strategy=None, tag_spacing_mm=5.0, target={"sequence": "lge"})


def test_a_plateau_that_nobody_can_see_is_told(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, device="cpu", precision="32")
    run.open({}, Cohort(()), "test")
    train(cohort, settings_of(schedule="plateau", strategy="cine"), run)
    told = " ".join(capsys.readouterr().err.split())
    assert "stage cine: no scan validates it, so no plateau is seen and the learning rate stays" in told


def test_two_devices_see_the_tags_that_one_sees(cohort: Cohort) -> None:
    settings = settings_of(batch_size=4, augmentation="light")
    bank = build_bank(cohort.where(sequence="bssfp").labelled(), settings.preparation)
    lesson = Lesson(bank, Tagged(settings.simulation, settings.preparation))

    def seen(share: slice) -> Tensor:
        return lesson.batch(settings, seed=1, step=3, share=lambda t: t[share]).image

    torch.testing.assert_close(seen(slice(None)), torch.cat([seen(slice(2)), seen(slice(2, 4))]))
    assert not torch.equal(seen(slice(None)), lesson.batch(settings, seed=1, step=4, share=lambda t: t).image)


def test_without_chance_every_step_has_the_same_lines(cohort: Cohort) -> None:
    fixed = settings_of(
        tag_phase="fixed", tag_spacing_range=0, tag_angle_range_deg=0, tag_fading=False, tag_noise_sd=0
    )
    bank = build_bank(cohort.where(sequence="bssfp").labelled(), fixed.preparation)
    batch = bank.batch(torch.arange(2))
    disguise = Tagged(fixed.simulation, fixed.preparation)
    first, later = (disguise(batch, 2, torch.arange(2), seed=0, step=step) for step in (0, 9))
    assert torch.equal(first, later)
    lines = tag(batch.image[:, 0], draw(Simulation(spacing=(9.0, 9.0)), 2, torch.Generator()), fixed.simulation,
                pixel=(3.0, 3.0))  # fmt: skip
    torch.testing.assert_close(first, stretch(lines[:, None], fixed.preparation))


def test_a_spacing_in_pixels_is_taken_where_none_is_said_in_mm() -> None:
    assert Settings.of({"tag_spacing_px": 6, "tag_spacing_range": 0}).simulation.spacing == (7.5, 7.5)
    both = Settings.of({"tag_spacing_px": 6, "tag_spacing_mm": 8.0, "tag_spacing_range": 0})
    assert both.simulation.spacing == (8.0, 8.0)


def test_lines_fade_by_the_settings_and_blood_by_inflow() -> None:
    fading = Settings.of({}).simulation.fading
    assert fading is not None
    assert fading.blood_t1_ms is not None
    still = Settings.of({"tag_inflow": False}).simulation.fading
    assert still == replace(fading, blood_t1_ms=None)
    assert Settings.of({"tag_fading": False}).simulation.fading is None


def test_structures_that_are_not_learnt_become_background() -> None:
    labels = torch.tensor([[[0, 1, 2, 3, UNKNOWN]]], dtype=torch.uint8)
    drawn = torch.tensor([[True, True, False, True]])
    batch = Batch(torch.zeros(1, 1, 1, 5), labels, drawn)
    alone = narrowed(batch, (Structure.MYO,))
    assert alone.labels.tolist() == [[[0, 0, 1, 0, UNKNOWN]]]
    assert alone.drawn.tolist() == [[True, False]]
    two = narrowed(batch, (Structure.LV, Structure.RV))
    assert two.labels.tolist() == [[[0, 1, 0, 2, UNKNOWN]]]
    assert two.drawn.tolist() == [[True, True, True]]
    assert narrowed(batch, TRAINED) is batch


def test_a_segmenter_of_the_myocardium_names_it_alone(cohort: Cohort, tmp_path: Path) -> None:
    settings = settings_of(structures=["MYO"], strategy="cine", target_labels="train")
    segmenter = train(cohort, settings, quiet_run(tmp_path))
    assert segmenter.structures == (Structure.MYO,)
    found = segmenter.predict(heart(row_of(20, "tagged", labels="")))
    assert set(np.unique(found)) <= {0, Structure.MYO}


@pytest.mark.slow
def test_the_paper_s_start_is_xavier_s(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spreads = []

    def keep(self: Segmentation, step: int) -> dict[str, Tensor]:
        weights = [m.weight for m in self.network.modules() if isinstance(m, torch.nn.Conv2d)]
        wide = max(weights, key=lambda w: w.numel())
        receptive = wide.shape[2] * wide.shape[3]
        expected = (2 / (receptive * (wide.shape[0] + wide.shape[1]))) ** 0.5
        spreads.append(float(wide.detach().std()) / expected)
        return original(self, step)

    original = Segmentation.update
    monkeypatch.setattr(Segmentation, "update", keep)
    for number, start in enumerate(("xavier", "default")):
        settings = settings_of(
            initialisation=start, strategy="cine", cine_first=False, network_arguments={"width": 16}
        )
        train(cohort, settings, quiet_run(tmp_path / str(number)))
    half = len(spreads) // 2
    assert spreads[0] == pytest.approx(1, abs=0.1)
    assert spreads[half] != pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_the_vae_learns_only_where_its_loss_counts(cohort: Cohort, tmp_path: Path) -> None:
    moved = {}
    for weight in (0.0, 0.1):
        settings = settings_of(
            network="segresnet_vae",
            network_arguments={},
            vae_weight=weight,
            strategy="cine",
            weight_decay=0.0,
        )
        run = quiet_run(tmp_path / f"{weight}")
        torch.manual_seed(0)
        before = settings.spec.build().state_dict()
        torch.manual_seed(0)
        after = train(cohort, settings, run).network.state_dict()
        moved[weight] = {n for n in before if "vae" in n and not torch.equal(before[n], after[n])}
    assert not moved[0.0]
    assert any("vae_fc_up_sample" in name for name in moved[0.1])


def test_the_cyclegan_sees_unlabelled_cine_and_nobody_who_is_tested(cohort: Cohort, tmp_path: Path) -> None:
    material = material_of(cohort, tmp_path, strategy="cyclegan")
    assert [row.scan for row in material.seen["translated_from"]] == ["s3_bssfp", "s4_bssfp", "s5_bssfp"]
    assert [row.scan for row in material.seen["target"]] == ["s3_tagged", "s4_tagged", "s5_tagged"]
    assert (tmp_path / "models" / "translator" / "weights.safetensors").exists()
    plain, painted = material.lessons["cine"].bank, material.lessons["tags"].bank
    assert painted.table == plain.table
    assert torch.equal(painted.labels, plain.labels)
    assert not torch.equal(painted.images, plain.images)
    assert painted.images.min() >= 0
    assert painted.images.max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"translator": "nowhere"},
            "translator is for strategy cyclegan, and the target is tagged, so it would be physics",
        ),
        (
            {"translate_from": {"sequence": "bssfp"}},
            "translate_from is for strategy cyclegan, and the target",
        ),
        (
            {"translator": "nowhere", "simulated": {"scan": "s2_bssfp"}},
            "so it would be physics; say strategy: cyclegan and leave simulated out, or leave translator out",
        ),
    ],
)
def test_what_a_cyclegan_alone_uses_is_refused_where_nobody_asks_for_one(
    cohort: Cohort, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        material_of(cohort, tmp_path, **({"strategy": None} | changes))


@pytest.mark.slow
def test_where_all_cine_is_labelled_the_cyclegan_learns_from_its_images_and_says_so(
    cohort: Cohort, tmp_path: Path
) -> None:
    few = cohort.only(lambda row: bool(row.labels))
    material = material_of(few, tmp_path, strategy="cyclegan")
    assert [row.scan for row in material.seen["translated_from"]] == ["s0_bssfp", "s1_bssfp", "s2_bssfp"]
    assert "no unlabelled source scan trains" in notes_in(tmp_path)


def test_a_translator_of_another_run_paints_as_it_did_there_and_learns_nothing(
    cohort: Cohort, tmp_path: Path
) -> None:
    first = material_of(cohort, tmp_path / "first", strategy="cyclegan")
    kept = str(tmp_path / "first" / "models" / "translator")
    again = material_of(cohort, tmp_path / "again", strategy="cyclegan", translator=kept)
    assert torch.equal(again.lessons["tags"].bank.images, first.lessons["tags"].bank.images)
    assert "translated_from" not in again.seen
    assert not (tmp_path / "again" / "stages").exists()
    assert (tmp_path / "again" / "models" / "translator" / "translator.json").exists()
    with pytest.raises(SettingsError, match="learnt from slices prepared otherwise"):
        material_of(cohort, tmp_path / "other", strategy="cyclegan", translator=kept, spacing_mm=3.5)
    tested = replace(cohort, rows=(*cohort.rows, replace(row_of(4, "tagged", "test"), scan="s4_late")))
    others = tested.only(lambda row: row.subject != "s4" or row.split == "test")
    with pytest.raises(
        CohortError, match=r"1 subjects are tested and the translator .* has seen their images, 's4'"
    ):
        material_of(others, tmp_path / "tested", strategy="cyclegan", translator=kept)
    with pytest.raises(RunError, match="is missing"):
        material_of(cohort, tmp_path / "none", strategy="cyclegan", translator=str(tmp_path / "nowhere"))


def test_arms_of_a_study_that_agree_on_it_learn_one_cyclegan_and_repaint_once(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = material_of(cohort, tmp_path / "alone", strategy="cyclegan")
    shared = tmp_path / "shared"
    first = gather(cohort, settings_of(strategy="cyclegan"), quiet_run(tmp_path / "first", shared=shared))
    monkeypatch.setattr(Translator, "translate", lambda *_: pytest.fail("repainted once more"))
    monkeypatch.setattr(disguises, "there_and_back", lambda *_: None)  # a few slices, in each arm anew
    fewer = settings_of(strategy="cyclegan", target_labelled=1, shape_weight=0.0)
    again = gather(cohort, fewer, quiet_run(tmp_path / "again", shared=shared))
    assert not (tmp_path / "again" / "stages").exists()
    assert (tmp_path / "again" / "models" / "translator" / "translator.json").exists()
    for material in (first, again):
        assert torch.equal(material.lessons["tags"].bank.images, alone.lessons["tags"].bank.images)


@pytest.mark.slow
@pytest.mark.parametrize("structures", [("LV", "MYO", "RV"), ("MYO",)])
def test_a_network_of_cine_is_asked_whether_the_cycle_keeps_the_heart(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, structures: tuple[str, ...]
) -> None:
    """A cycle that moves the heart costs Dice, and one that gives images back as they were costs none."""
    rows = tuple(replace(row, split="validation") if row.scan == "s2_bssfp" else row for row in cohort)
    monkeypatch.setattr(Translator, "translate", lambda self, images: images)
    settings = settings_of(
        **{**LEARNS, "strategy": "cyclegan", "cine_first": True, "structures": structures, "steps": 80}
    )
    told = {}
    for name, back in (("kept", lambda images: images), ("moved", lambda images: images.roll(12, 3))):
        monkeypatch.setattr(Translator, "translate_back", lambda self, images, back=back: back(images))
        train(replace(cohort, rows=rows), settings, quiet_run(tmp_path / name))
        found = re.search(r"of \d+ validation slices the network of cine has Dice (\S+) as they are and (\S+) there",
                          notes_in(tmp_path / name))  # fmt: skip
        assert found is not None
        told[name] = [float(value) for value in found.groups()]
    assert told["kept"][0] == told["kept"][1] == told["moved"][0] > 0.2
    assert told["moved"][1] < told["moved"][0] - 0.2
    train(cohort, settings, quiet_run(tmp_path / "none"))
    assert re.search(r"of \d+ training slices the network of cine has Dice", notes_in(tmp_path / "none"))


def test_a_cyclegan_is_known_by_all_settings_but_those_that_it_knows_nothing_of() -> None:
    assert not SEGMENTING - set(Settings.model_fields)
    assert all(not name.startswith(("cyclegan", "trans", "sim")) for name in SEGMENTING)
    plain = settings_of(strategy="cyclegan").shared_stages
    assert set(plain) == {"cyclegan", "repainting the source", "repainting validation"}
    for strategy in ("scratch", "cine", "physics"):
        assert settings_of(strategy=strategy, target_labels="train").shared_stages == {}
    for same in ({"target_labelled": 1}, {"shape_weight": 0.0}, {"batch_size": 3}, {"match_updates": False}):
        assert settings_of(strategy="cyclegan", **same).shared_stages == plain
    for other in ({"cyclegan_steps": 4}, {"source": {"subject": "s1"}}, {"spacing_mm": 3.5}):
        found = settings_of(strategy="cyclegan", **other).shared_stages
        assert all(found[stage] != plain[stage] for stage in plain)


def test_a_dry_run_repaints_a_few_slices_and_tells_what_all_cost(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[int] = []
    original = Translator.translate

    def count(self: Translator, images: Tensor) -> Tensor:
        painted.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Translator, "translate", count)
    monkeypatch.setattr(disguises, "AT_ONCE", 2)
    run = Run(tmp_path / "run", device="cpu", progress=False, estimates={})
    train(cohort, settings_of(strategy="cyclegan"), run)
    assert run.estimates is not None
    assert painted == [2]
    assert run.estimates["repainting the source"].updates == 6


def test_few_labels_of_the_target_are_remarked_on(cohort: Cohort, tmp_path: Path) -> None:
    """One patient trains, or nobody validates: training goes on, and says so."""
    few = cohort.only(lambda row: row.sequence != "tagged" or row.subject in ("s3", "s9"))
    both = replace(cohort, rows=(*cohort.rows, row_of(7, "tagged", "validation")))
    start = "of the target's labelled patients "
    nothing = "nothing says how fine-tuning goes before it is tested; give some the split validation, or say"
    few_of_both = replace(both, rows=(*few.rows, both.rows[-1]))
    for name, rows, told in (
        ("few", few, "1 train and 0 validate: one patient is little to learn from; label more; " + nothing),
        ("none", cohort, "3 train and 0 validate: " + nothing),
        ("one", few_of_both, "1 train and 1 validate: one patient is little to learn from; label more"),
    ):
        material_of(rows, tmp_path / name, strategy="scratch", target_labels="train")
        assert start + told in notes_in(tmp_path / name)
    material_of(both, tmp_path / "both", strategy="scratch", target_labels="train")
    assert start not in notes_in(tmp_path / "both")


def test_a_share_of_less_than_one_patient_is_remarked_on(cohort: Cohort, tmp_path: Path) -> None:
    """Of three, 5 and 30 % are the same one patient; from 34 % on it is what was asked for."""
    for share, said in ((0.05, True), (0.3, True), (0.34, False), (0.67, False)):
        name = tmp_path / f"{share}"
        material_of(cohort, name, strategy="scratch", target_labels="train", target_labelled=share)
        told = f"target_labelled {share:g} of 3 patients is less than one; one trains, as under every share below 0.5"
        assert (told in notes_in(name)) == said


@pytest.mark.parametrize(
    ("rows", "changes", "devices", "error", "message"),
    [
        (
            "no target trains",
            {"strategy": "cyclegan"},
            1,
            CohortError,
            "no target scan trains; name a `target`",
        ),
        ("all", {"tag_spacing_mm": 4.0}, 1, SettingsError, "lines closer than two pixels"),
        (
            "all",
            {"tag_spacing_mm": None, "tag_spacing_px": 1.5},
            1,
            SettingsError,
            "lines closer than two pixels",
        ),
        ("all", {"strategy": "cyclegan"}, 2, SettingsError, "2 devices cannot share a CycleGAN's step"),
    ],
)
def test_what_rows_and_settings_tell_is_refused_before_a_scan_is_read(
    cohort: Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: str,
    changes: dict[str, Any],
    devices: int,
    error: type[Exception],
    message: str,
) -> None:
    def read(row: Row) -> Case:
        raise AssertionError(f"{row.scan} was read")

    left = (
        cohort.rows
        if rows == "all"
        else tuple(r for r in cohort if (r.sequence, r.split) != ("tagged", "train"))
    )
    monkeypatch.setattr(Run, "world_size", devices)
    with pytest.raises(error, match=message):
        material_of(Cohort(left, read, "hearts"), tmp_path, **changes)


def test_cine_of_a_tested_patient_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="also show cine to the CycleGAN, 's9' first"):
        material_of(cohort, tmp_path, strategy="cyclegan", translate_from={"subject": ["s3", "s9"]})


def test_scans_tagged_beforehand_take_the_place_of_tags_drawn_here(cohort: Cohort, tmp_path: Path) -> None:
    made = [
        replace(row_of(i, "tagged", further={"tagged_from": "cine"}), scan=f"s{i}_made") for i in range(3)
    ]
    both = replace(cohort, rows=(*cohort.rows, *made))
    material = material_of(both, tmp_path, simulated={"tagged_from": "cine"}, target_labels="train")
    assert material.strategy == "physics"
    assert {place.scan for place in material.lessons["tags"].bank.table} == {"s0_made", "s1_made", "s2_made"}
    assert {place.scan for place in material.lessons["target"].bank.table} == {
        "s3_tagged", "s4_tagged", "s5_tagged"
    }  # fmt: skip
    validating = replace(made[0], subject="s7", scan="s7_made", split="validation")
    unlabelled = replace(made[0], subject="s8", scan="s8_made", labels="")
    material = material_of(
        replace(both, rows=(*both.rows, validating, unlabelled)),
        tmp_path / "more",
        simulated={"tagged_from": "cine"},
    )
    target = (material.domains.target_validation, material.domains.unlabelled)
    assert not {row.scan for part in target for row in part} & {"s7_made", "s8_made"}
    with pytest.raises(
        CohortError, match=r"no column 'tag_set'; .*that `crossbeat tag --with-originals --suffix"
    ):
        material_of(both, tmp_path / "unmade", simulated={"tag_set": "moving"})
    with pytest.raises(CohortError, match="no labelled training scan is simulated"):
        material_of(both, tmp_path / "none", simulated={"tagged_from": "lge"})
    tested = replace(both, rows=(*both.rows, replace(made[0], subject="s9", scan="s9_made")))
    with pytest.raises(CohortError, match="1 subjects are tested and also are simulated"):
        material_of(tested, tmp_path / "tested", simulated={"tagged_from": "cine"})


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", ["cyclegan", "cine", "tags", "finetuning"])
def test_stopped_in_any_stage_it_ends_as_if_it_had_not(
    cohort: Cohort, tmp_path: Path, stopped_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossbeat.methods.tag_pretraining.cyclegan import CycleGanStage

    settings = settings_of(
        strategy="cyclegan", target_labels="train", cyclegan_steps_per_round=1, augmentation="light"
    )
    whole = train(cohort, settings, quiet_run(tmp_path / "whole")).network.state_dict()
    stage: Any = CycleGanStage if stopped_in == "cyclegan" else Segmentation
    original = stage.update

    def stop(self: Any, step: int) -> dict[str, Tensor]:
        if self.name == stopped_in and step == 1:
            raise KeyError("the power went off")
        told: dict[str, Tensor] = original(self, step)
        return told

    with monkeypatch.context() as patch:
        patch.setattr(stage, "update", stop)
        with pytest.raises(KeyError):
            train(cohort, settings, quiet_run(tmp_path / "cut"))
    resumed = train(cohort, settings, quiet_run(tmp_path / "cut", resume=True)).network.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
