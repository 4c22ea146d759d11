"""Propagation: whose labels it sees, where carried ones arrive and how far they are trusted, both stages, refusals."""

import csv
import json
import math
import re
from contextlib import nullcontext
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
from crossbeat.errors import CaseError, CohortError, RunError, SettingsError
from crossbeat.labels import TRAINED, UNKNOWN, Structure
from crossbeat.methods.propagation import (
    Registrar,
    Settings,
    carry,
    find_sources,
    learn_registration,
    load_registrar,
    restrict,
    train,
)
from crossbeat.methods.propagation.carrying import (
    FrameRecord,
    agreement_of,
    blend,
    confidence_of,
    temporal_weights,
)
from crossbeat.methods.propagation.frames import (
    Cine,
    Pair,
    choose_frames,
    draw_pairs,
    make_cine,
    place,
    shut_labels,
)
from crossbeat.methods.propagation.registration import RegistrationStage, carried_dice, pair_losses
from crossbeat.methods.propagation.segmentation import Lesson, Segmentation, carried_frames, gather, weight_of
from crossbeat.methods.recipe import find_domains
from crossbeat.methods.validation import validation_banks
from crossbeat.metrics import dice
from crossbeat.networks.registration import VoxelMorph
from crossbeat.prepare.volumes import Preparation
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
    "registration_steps": 4,
    "registration_steps_per_round": 2,
    "registration_learning_rate": 1e-3,
    "registration_schedule": "constant",
    "registration_image_size": 32,
    "registration_spacing_mm": 3.0,
    "dimensions": 3,
    "label_weight": 0.1,
    "schedule": "one_cycle",
}
LEARNS: dict[str, Any] = {
    "network_arguments": {"width": 8},
    "image_size": 48,
    "spacing_mm": 2.5,
    "augmentation": "light",
    "batch_size": 8,
    "steps": 120,
    "steps_per_round": 40,
    "learning_rate": 5e-3,
    "ema_decay": 0.9,
    "schedule": "one_cycle",
    "registration_steps": 4,
    "registration_steps_per_round": 2,
    "without_cine": "real_labels",
}
"""For the contract suite, whose hearts stand still: learns them in seconds on one core, from real labels."""
ONCE: dict[str, Any] = {"steps": 2, "steps_per_round": 2, "registration_steps": 2}
"""For the contract suite: changes to those that make it do everything once, and learn nothing."""

FRAMES, ES = 6, 3
DRAWN = frozenset(TRAINED)
GREY = np.array([60, 250, 90, 240], np.float32)


def beating(row: Row, count: int = FRAMES, slices: int = 3) -> Case:
    """A ring that contracts and a crescent beside it over a cycle, labelled in every frame. Pixels are 2.5 x 2 mm."""
    rng = np.random.default_rng(int(row.subject[1:]))
    y, x = np.mgrid[:48, :56].astype(float)
    middle = np.array([24.0, 30.0]) + rng.uniform(-2, 2, 2)
    labels = np.zeros((count, slices, 48, 56), np.uint8)
    for t in range(count):
        size = 1 - 0.3 * math.sin(math.pi * t / count) ** 2
        for z in range(slices):
            from_lv = np.hypot((y - middle[0]) * 2.5, (x - middle[1]) * 2.0)
            from_rv = np.hypot((y - middle[0]) * 2.5, (x - middle[1] + 11) * 2.0)
            labels[t, z][from_rv < 20 * size] = Structure.RV
            labels[t, z][from_lv < (21 - z) * size] = Structure.MYO
            labels[t, z][from_lv < (13 - z) * size] = Structure.LV
    image = (GREY[labels] + rng.normal(0, 8, labels.shape)).astype(np.float32)
    affine = np.diag([2.0, 2.5, 8.0, 1.0])
    return Case(row.scan, row.subject, image, affine, Domain(row.sequence), labels, (DRAWN,) * count)


def row_of(subject: str, split: str = "train", **other: Any) -> Row:
    return Row(
        subject, f"{subject}_cine", "bssfp", "-", split=split, labels="-", ed_frame=0, es_frame=ES, **other
    )


@pytest.fixture
def cines() -> Cohort:
    """Three cines that train and one that validates."""
    rows = [*(row_of(f"s{i}") for i in range(3)), row_of("s3", "validation")]
    return Cohort(tuple(rows), beating, "cines")


def quiet_run(folder: Path, seed: int = 0, **other: Any) -> Run:
    run = Run(folder, seed=seed, device="cpu", precision="32", progress=False, **other)
    run.open({}, Cohort(()), "test")
    return run


def settings_of(**changes: Any) -> Settings:
    return Settings.of({**TINY, **changes})


def everything(tensor: Tensor) -> Tensor:
    return tensor


# --- whose labels are seen ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ed", "es", "labelled", "which", "expected"),
    [
        (0, 9, [0, 4, 9], "ed_es", [0, 9]),
        (12, 3, [3, 12], "ed_es", [12, 3]),
        (0, 9, [0, 4, 9], "ed", [0]),
        (0, 9, [0, 4, 9], "all", [0, 4, 9]),
        (0, 9, [9], "ed_es", [9]),
        (None, None, [5], "ed_es", [5]),
        (None, None, [2, 5], "ed_es", [2, 5]),
        (None, 9, [0, 9], "ed_es", [9]),
        (0, 9, [], "ed_es", []),
        (0, 9, [4], "all", [4]),
    ],
)
def test_ed_and_es_are_those_that_the_cohort_names(
    ed: int | None, es: int | None, labelled: list[int], which: Any, expected: list[int]
) -> None:
    row = Row("s0", "s0", "bssfp", "-", ed_frame=ed, es_frame=es)
    assert choose_frames(row, labelled, which, 20) == expected


def test_ed_is_never_guessed() -> None:
    row = Row("s0", "nameless", "bssfp", "-")
    with pytest.raises(
        CohortError, match=r"'nameless': has labels in 3 frames .* which is ED or ES; fill ed_frame"
    ):
        choose_frames(row, [0, 4, 9], "ed_es", 20)
    with pytest.raises(CohortError, match="which is ED; fill"):
        choose_frames(row, [0, 4], "ed", 20)


@pytest.mark.parametrize(
    ("ed", "es", "labelled", "which", "words"),
    [
        (
            0,
            3,
            [3],
            "ed",
            r"in frame 3, which by its row is not ED \(ed_frame is 0\); correct the row .* label ED",
        ),
        (None, 3, [3], "ed", r"in frame 3, which by its row is not ED \(ed_frame is empty\)"),
        (0, 9, [4], "ed_es", r"in frame 4, .* not ED or ES \(ed_frame is 0, es_frame is 9\)"),
        (0, None, [4, 7], "ed_es", r"in frame 4, 7, .* not ED or ES \(ed_frame is 0, es_frame is empty\)"),
        (
            99,
            3,
            [3],
            "ed_es",
            r"ed_frame is 99, but the image has frames 0 to 19; .* count from 1 need one less",
        ),
        (0, 20, [0], "all", r"es_frame is 20, but the image has frames 0 to 19"),
    ],
)
def test_labels_that_are_shut_are_never_opened_for_want_of_others(
    ed: int | None, es: int | None, labelled: list[int], which: Any, words: str
) -> None:
    row = Row("s0", "odd", "bssfp", "-", ed_frame=ed, es_frame=es)
    with pytest.raises(CohortError, match=r"scan 'odd': .*" + words):
        choose_frames(row, labelled, which, 20)


@pytest.mark.slow
def test_labels_of_other_frames_change_nothing(cines: Cohort, tmp_path: Path) -> None:
    """The phantom labels all frames; whatever stands in those between ED and ES, the same is learnt."""

    def scrambled(row: Row) -> Case:
        case = beating(row)
        assert case.labels is not None
        labels = case.labels.copy()
        for t in {*range(FRAMES)} - {0, ES}:
            labels[t] = np.roll(labels[t], 9, axis=2)
        return replace(case, labels=labels)

    found = [
        train(cohort, settings_of(), quiet_run(tmp_path / name)).network.state_dict()
        for name, cohort in (("true", cines), ("scrambled", replace(cines, read=scrambled)))
    ]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    metrics = [(tmp_path / n / "stages/segmentation/metrics.csv").read_text() for n in ("true", "scrambled")]
    assert metrics[0] == metrics[1]


def test_a_frame_that_is_shut_is_as_if_nobody_had_looked() -> None:
    case = restrict(beating(row_of("s0")), [0])
    assert case.labelled_frames == [0]
    assert case.labels is not None
    assert (case.labels[1:] == UNKNOWN).all()
    assert (case.labels[0] != UNKNOWN).all()


@pytest.mark.slow
def test_target_images_are_read_where_asked_and_their_labels_never(cines: Cohort, tmp_path: Path) -> None:
    opened: list[str] = []

    def read(row: Row) -> Case:
        opened.append(row.scan)
        assert not (row.labels and row.subject == "s9"), "these labels must never be asked for"
        return beating(row) if row.labels else replace(beating(row), labels=None, drawn=())

    cohort = replace(cines, rows=(*cines.rows[:2], replace(row_of("s9"), vendor="b")), read=read)
    across = {"source": {"vendor": ""}, "target": {"vendor": "b"}}
    told = train(cohort, settings_of(**across), quiet_run(tmp_path / "shut")).provenance
    assert "s9_cine" not in opened
    assert "target" not in told["trained_on"]
    told = train(cohort, settings_of(**across, register_target=True), quiet_run(tmp_path / "open")).provenance
    assert told["trained_on"]["target"] == ["s9_cine"]
    registered = json.loads((tmp_path / "open/models/registration/registrar.json").read_text())["provenance"]
    assert registered["trained_on"] == ["s0_cine", "s1_cine", "s9_cine"]


# --- cines and pairs ---------------------------------------------------------------------------------


def test_all_frames_of_a_scan_are_on_one_scale() -> None:
    """A frame at half the signal stays at half of it: what lies between frames is motion and signal, not scaling."""
    case = beating(row_of("s0"))
    image = case.image.copy()
    image[1] = image[0] / 2
    cine = make_cine(replace(case, image=image), settings_of().registration_preparation)
    assert cine.images.shape == (FRAMES, 3, 32, 32)
    assert (float(cine.images.min()), float(cine.images.max())) == (0.0, 1.0)
    bright = (cine.images[0] > 0.5) & (cine.images[0] < 0.9)
    low = np.percentile(image, 1)
    high = np.percentile(image, 99)
    expected = ((cine.images[0].float() * (high - low) + low) / 2 - low) / (high - low)
    assert torch.allclose(cine.images[1].float()[bright], expected[bright].float(), atol=0.02)


def test_labels_lie_on_the_images_grid() -> None:
    cine = make_cine(restrict(beating(row_of("s0")), [0, ES]), settings_of().registration_preparation)
    assert cine.labelled == (0, ES)
    for place_, frame in enumerate(cine.labelled):
        blood = (cine.labels[place_] == Structure.LV) | (cine.labels[place_] == Structure.RV)
        assert cine.images[frame][blood].float().mean() > 0.8
        assert cine.images[frame][cine.labels[place_] == Structure.MYO].float().mean() < 0.4
    assert cine.drawn.all()


def test_pairs_are_drawn_by_seed_and_step_and_every_cine_takes_its_turn(cines: Cohort) -> None:
    settings = settings_of(registration_batch=3)
    made = [make_cine(restrict(case, [0, ES]), settings.registration_preparation) for case in cines.cases()]
    assert draw_pairs(made, settings, seed=1, step=5) == draw_pairs(made, settings, seed=1, step=5)
    assert draw_pairs(made, settings, seed=1, step=5) != draw_pairs(made, settings, seed=2, step=5)
    pairs = [pair for step in range(400) for pair in draw_pairs(made, settings, seed=0, step=step)]
    assert [pair.cine for pair in pairs].count(0) == 300
    assert all(pair.moving != pair.fixed for pair in pairs)
    # A quarter ED and ES, half from one of them to any of five others, a quarter from any of six frames to any.
    ends = np.mean([{pair.moving, pair.fixed} == {0, ES} for pair in pairs])
    assert ends == pytest.approx(0.25 + 0.5 / 5 + 0.25 / 15, abs=0.04)
    assert np.mean([pair.moving in (0, ES) for pair in pairs]) == pytest.approx(0.75 + 0.25 / 3, abs=0.04)
    assert {pair.position for pair in pairs} == set(range(8))


def test_without_labels_any_two_frames_are_a_pair() -> None:
    settings = settings_of(mirrored_pairs=False)
    case = replace(beating(row_of("s0"), count=2), labels=None, drawn=())
    cine = make_cine(case, settings.registration_preparation)
    pairs = [draw_pairs([cine], settings, seed=0, step=step)[0] for step in range(40)]
    assert {(p.moving, p.fixed, p.position) for p in pairs} == {(0, 1, 0), (1, 0, 0)}


def test_the_eight_positions_of_a_square_are_all_different() -> None:
    corner = torch.arange(9).view(1, 3, 3)
    seen = {tuple(place(corner, position).flatten().tolist()) for position in range(8)}
    assert len(seen) == 8
    assert torch.equal(place(corner, 0), corner)
    assert all(place(corner, position)[0, 1, 1] == 4 for position in range(8))


# --- where carried labels arrive ---------------------------------------------------------------------


class Known(Registrar):
    """A registrar whose displacement is a formula, on the registration's grid of 64 pixels of 2.5 mm."""

    def __init__(self, formula: Any) -> None:
        super().__init__(VoxelMorph(), Preparation(size=64, spacing_mm=2.5, scale="unit", per="volume"))
        self.formula = formula

    def displacement(self, moving: Tensor, fixed: Tensor) -> Tensor:
        y, x = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
        field = self.formula(moving, fixed, y, x)
        return field[:, None].expand(2, len(moving), 64, 64)


def still(moving: Tensor, fixed: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return torch.zeros(2, *y.shape)


def labels_of(case: Case) -> np.ndarray:
    assert case.labels is not None
    return case.labels


def test_where_nothing_moves_labels_stay_exactly_as_they_were() -> None:
    case = beating(row_of("s1"))
    image = np.repeat(case.image[:1], FRAMES, axis=0)
    found = carry(replace(case, image=image), [0], Known(still), keep_displacement=True)
    for t in range(FRAMES):
        np.testing.assert_array_equal(found.labels[t], labels_of(case)[0])
    assert found.displacement is not None
    assert found.displacement.shape == (FRAMES, 2, 3, 48, 56)
    assert not found.displacement.any()
    assert [record.labelled for record in found.frames] == [True] + [False] * 5
    for record in found.frames[1:]:
        assert math.isnan(record.agreement)
        told = (record.similarity, record.regularity, record.smallest_jacobian, record.confidence)
        assert told == pytest.approx((1, 1, 1, 1), abs=1e-3)


def test_a_shift_arrives_in_the_scans_own_voxels() -> None:
    """4 pixels of 2.5 mm are 10 mm: 4 of the scan's rows, 5 of its columns. moved(p) = moving(p + u): up and left."""

    def shift(moving: Tensor, fixed: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return torch.full((2, *y.shape), 4.0)

    case = beating(row_of("s1"))
    found = carry(case, [0], Known(shift), frames=[2], keep_displacement=True)
    np.testing.assert_array_equal(found.labels[2][:, :-4, :-5], labels_of(case)[0][:, 4:, 5:])
    assert found.displacement is not None
    assert found.displacement[0, 0].unique().tolist() == pytest.approx([4.0])
    assert found.displacement[0, 1].unique().tolist() == pytest.approx([5.0])
    assert found.case.labelled_frames == [2]
    assert (found.labels[[0, 1, 3]] == UNKNOWN).all()


def test_outside_the_window_nothing_moves() -> None:
    def shift(moving: Tensor, fixed: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return torch.full((2, *y.shape), 4.0)

    case = beating(row_of("s1"))
    wide = [(0, 0), (0, 0), (60, 60), (60, 60)]
    labels = np.pad(labels_of(case), wide)
    labels[0, :, :5, :5] = Structure.RV
    large = replace(case, image=np.pad(case.image, wide, mode="edge"), labels=labels)
    registrar = Known(shift)
    registrar.preparation = registrar.preparation.model_copy(update={"centre": "image"})
    found = carry(large, [0], registrar, frames=[1], keep_displacement=True)
    assert (found.labels[1][:, :5, :5] == Structure.RV).all()
    assert found.displacement is not None
    assert not found.displacement[..., :5, :5].any()
    assert found.displacement[..., 84, 88].abs().min() > 3.9


def by_blood(moving: Tensor, fixed: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Contracts where the moving frame has more blood than the fixed one, and else expands."""
    factor = 1 / 0.7 if (moving > 0.7).sum() > (fixed > 0.7).sum() else 0.7
    return torch.stack([y * (factor - 1), x * (factor - 1)])


class ByBlood(VoxelMorph):
    """A registration of slices that contracts as `by_blood` does: everything but its velocity is the real one's."""

    def __init__(self) -> None:
        super().__init__(dimensions=2)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """A velocity that grows with the distance from the middle: its integral is a scaling."""
        n, _, *grid = moving.shape
        places = [(torch.arange(side // 2) - (side // 2 - 1) / 2) for side in grid]
        sign = 1 if (moving > 0.7).sum() > (fixed > 0.7).sum() else -1
        velocity = torch.stack(torch.meshgrid(*places, indexing="ij")) * sign * math.log(1 / 0.7)
        return velocity.expand(n, -1, -1, -1)


def contracting() -> Case:
    """Two frames of a ring about the middle of the image, the second at 0.7 of the first's size; without noise."""
    case = beating(row_of("s1"), count=2)
    y, x = np.mgrid[:48, :56].astype(float)
    labels = np.zeros((2, 3, 48, 56), np.uint8)
    for t, size in enumerate((1.0, 0.7)):
        distance = np.hypot((y - 24) * 2.5, (x - 28) * 2.0)
        labels[t, :, distance < 40 * size] = Structure.MYO
        labels[t, :, distance < 25 * size] = Structure.LV
    return replace(case, labels=labels, image=GREY[labels])


@pytest.mark.parametrize("learnt", [False, True], ids=["a registrar's field", "a network's field"])
def test_the_masks_own_frame_is_moving(learnt: bool) -> None:
    """The error of methods.md 2.1: with the field of the other direction a heart that contracts would grow."""
    case, registrar = contracting(), Known(by_blood)
    labels = labels_of(case)
    if learnt:
        registrar = Registrar(ByBlood(), registrar.preparation)
    found = carry(case, [0], registrar, frames=[1]).labels[1]
    for structure in (Structure.LV, Structure.MYO):
        area = (found == structure).sum() / (labels[0] == structure).sum()
        assert area == pytest.approx(0.49, abs=0.02)
        assert dice(found == structure, labels[1] == structure) > 0.95
    back = carry(case, [1], registrar, frames=[0]).labels[0]
    assert dice(back == Structure.LV, labels[0] == Structure.LV) > 0.95


def test_fields_into_the_first_source_look_out_where_the_heart_contracted() -> None:
    """At a second source too, where no label was carried and the field is found for its own sake."""
    found = carry(contracting(), [0, 1], Known(by_blood), keep_displacement=True)
    assert found.displacement is not None
    assert not found.displacement[0].any()
    y, x = found.displacement[1, :, 0, 34, 38]  # 10 voxels down and right of the middle
    assert (float(y), float(x)) == pytest.approx((10 * (1 / 0.7 - 1),) * 2, abs=0.1)


def test_labels_of_no_other_frame_move_the_window() -> None:
    """The crop is about the source's heart, wherever another frame's labels lie."""
    case = beating(row_of("s1"))
    elsewhere = labels_of(case).copy()
    elsewhere[ES] = 0
    elsewhere[ES, :, :4, :4] = Structure.RV

    def shift(moving: Tensor, fixed: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return 0.2 * torch.stack([y, x])

    registrar = Known(shift)
    fields = [
        carry(replace(case, labels=labels), [0], registrar, frames=[1], keep_displacement=True).displacement
        for labels in (labels_of(case), elsewhere)
    ]
    assert torch.equal(*fields)


def test_two_sources_count_by_their_nearness_round_the_cycle() -> None:
    assert temporal_weights(2, [0, 8], 20) == pytest.approx({0: 0.75, 8: 0.25})
    assert temporal_weights(18, [0, 8], 20) == pytest.approx({0: 10 / 12, 8: 2 / 12})
    assert temporal_weights(2, [12, 8], 20) == pytest.approx({12: 6 / 16, 8: 10 / 16})
    assert temporal_weights(8, [0, 8], 20) == {8: 1.0}
    assert temporal_weights(5, [0], 20) == {0: 1.0}
    for t in range(20):
        assert sum(temporal_weights(t, [1, 9, 14], 20).values()) == pytest.approx(1)


def test_the_largest_weighted_share_wins_and_the_unseen_has_no_say() -> None:
    """Three voxels: LV by weight, RV because only the weaker source was looked at there, and nobody looked."""
    lv, rv, nobody = torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 0, 0, 1]), torch.zeros(4)
    near = torch.stack([lv, nobody, nobody], dim=1).view(4, 1, 1, 3)
    far = torch.stack([rv, rv, nobody], dim=1).view(4, 1, 1, 3)
    assert blend({0: near, 5: far}, {0: 0.6, 5: 0.4}).flatten().tolist() == [1, 3, UNKNOWN]
    assert blend({0: near, 5: far}, {0: 0.3, 5: 0.7}).flatten().tolist() == [3, 3, UNKNOWN]


def test_what_nobody_drew_is_not_carried() -> None:
    """At ES often the cavity alone is drawn: such a frame is no source. Slices without a contour stay unknown."""
    row = row_of("s1")
    case = restrict(beating(row), [0, ES])
    labels = labels_of(case).copy()
    labels[0, 2] = UNKNOWN
    lv_and_wall = frozenset({Structure.LV, Structure.MYO})
    drawn = tuple({0: lv_and_wall, ES: frozenset({Structure.LV})}.get(t, frozenset()) for t in range(FRAMES))
    case = replace(case, labels=np.where(labels == Structure.RV, 0, labels).astype(np.uint8), drawn=drawn)
    sources = find_sources(row, case, "ed_es")
    assert sources == [0]
    found = carry(case, sources, Known(still))
    assert (found.labels[:, 2] == UNKNOWN).all()
    assert (found.labels[:, :2] != UNKNOWN).all()
    assert found.case.drawn == (lv_and_wall,) * FRAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"dimensions": 2}, {"through_plane": True}, {"integration_steps": 0}]
)
@pytest.mark.parametrize("slices", [1, 2])
def test_a_cine_of_one_or_two_slices_is_carried(slices: int, changes: dict[str, Any]) -> None:
    """By a network that has learnt nothing, so that hardly anything moves."""
    settings = settings_of(**changes)
    registrar = Registrar(settings.build_registration(), settings.registration_preparation)
    case = beating(row_of("s1"), slices=slices)
    found = carry(case, [0, ES], registrar, keep_displacement=True)
    assert found.displacement is not None
    assert found.displacement.shape == (FRAMES, 3 if settings.through_plane else 2, slices, 48, 56)
    assert 0 < float(found.displacement[1].abs().max()) < 0.05
    assert dice(found.labels[1] == Structure.LV, labels_of(case)[0] == Structure.LV) > 0.98
    np.testing.assert_array_equal(found.labels[ES], labels_of(case)[ES])


# --- how far they are trusted ------------------------------------------------------------------------


def test_a_field_that_folds_takes_the_confidence_away() -> None:
    def folding(moving: Tensor, fixed: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x), -1.5 * x])

    record = carry(beating(row_of("s1")), [0], Known(folding), frames=[1]).frames[0]
    assert record.smallest_jacobian == pytest.approx(-0.5, abs=1e-4)
    assert (record.regularity, record.confidence) == (0, 0)


def test_similarity_is_that_of_the_image_carried_here() -> None:
    carried, left = (carry(contracting(), [0], Known(how), frames=[1]).frames[0] for how in (by_blood, still))
    assert carried.similarity > 0.9
    assert left.similarity < 0.7


def test_agreement_is_the_mean_dice_of_what_is_in_either_mask() -> None:
    """LV: 2 of 4 + 2 voxels shared, Dice 4/6; RV in one only, 0; MYO in neither; a voxel unknown counts nowhere."""
    ours = torch.tensor([1, 1, 1, 1, 3, 1], dtype=torch.uint8).view(1, 2, 3)
    theirs = torch.tensor([1, 1, 0, 0, 0, UNKNOWN], dtype=torch.uint8).view(1, 2, 3)
    assert agreement_of(ours, theirs, TRAINED) == pytest.approx((4 / 6 + 0) / 2)
    assert agreement_of(ours, theirs, [Structure.LV]) == pytest.approx(4 / 6)
    assert math.isnan(agreement_of(ours, theirs, [Structure.MYO]))


def test_a_heart_beyond_the_window_is_not_relied_on() -> None:
    """Half of a heart lies outside, where nothing moves, and neither image nor mask is looked at."""
    case = beating(row_of("s1"))
    wide = [(0, 0), (0, 0), (60, 60), (60, 60)]
    large = replace(case, image=np.pad(case.image, wide, mode="edge"), labels=np.pad(labels_of(case), wide))
    registrar = Known(still)
    registrar.preparation = registrar.preparation.model_copy(update={"centre": "image"})
    inside = carry(large, [0], registrar, frames=[1]).frames[0]
    assert inside.coverage == 1.0
    labels = labels_of(large).copy()
    labels[:, :, :, :20] = labels[
        :, :, :, 70:90
    ]  # what lies left of the heart's middle once more, at the rim
    cut = carry(replace(large, labels=labels), [0], registrar, frames=[1]).frames[0]
    heart = labels[0] > 0
    assert cut.coverage == pytest.approx(heart[:, :, 20:].sum() / heart.sum())
    assert 0.5 < cut.coverage < 0.75
    assert cut.confidence == cut.coverage
    both = carry(replace(large, labels=labels), [0, ES], registrar, frames=[1]).frames[0]
    at_es = (labels[ES, :, :, 20:] > 0).sum() / (labels[ES] > 0).sum()
    assert both.coverage == pytest.approx(cut.coverage * 2 / 3 + at_es / 3)


def test_a_cine_that_shows_nothing_is_not_relied_on() -> None:
    """Two constants correlate perfectly; so does the inside of the cavity in images without noise."""
    case = beating(row_of("s1"))
    blank = replace(case, image=np.full_like(case.image, 100.0))
    record = carry(blank, [0], Known(still), frames=[1]).frames[0]
    assert math.isnan(record.similarity)
    assert record.confidence == 0
    both = carry(blank, [0, ES], Known(still), frames=[1]).frames[0]
    assert math.isnan(both.similarity)
    assert both.confidence == both.agreement > 0
    image = case.image.copy()
    image[0] = 100.0  # the nearer source alone shows nothing
    image[1:] = 10 * image[ES]
    half = carry(replace(case, image=image), [0, ES], Known(still), frames=[1]).frames[0]
    assert half.similarity == pytest.approx(1 / 3, abs=0.02)


def test_two_sources_that_disagree_are_noticed() -> None:
    case = beating(row_of("s1"))
    records = carry(case, [0, ES], Known(still), frames=[1, 2]).frames
    expected = np.mean([dice(labels_of(case)[0] == s, labels_of(case)[ES] == s) for s in TRAINED])
    assert [record.agreement for record in records] == pytest.approx([expected] * 2)
    assert all(record.confidence <= record.agreement for record in records)


def test_confidence_is_the_weakest_evidence() -> None:
    assert confidence_of(0.9, 0.8, 1.0, 1.0) == 0.8
    assert confidence_of(0.9, 0.8, 1.0, 0.7) == 0.7
    assert confidence_of(math.nan, 0.8, 1.0, 1.0) == 0.8
    assert confidence_of(0.9, math.nan, 1.0, 1.0) == 0.9
    assert confidence_of(math.nan, math.nan, 1.0, 1.0) == 0.0
    assert confidence_of(math.nan, math.nan, math.nan, math.nan) == 0.0


@pytest.mark.parametrize(
    ("how", "confidence", "expected"),
    [("none", 0.1, 2.0), ("drop", 0.79, 0.0), ("drop", 0.8, 2.0), ("weight", 0.4, 1.0), ("weight", 0.9, 2.0)],
)
def test_a_frame_below_the_threshold_is_dropped_or_weighs_less(
    how: str, confidence: float, expected: float
) -> None:
    settings = settings_of(confidence=how, confidence_threshold=0.8, carried_weight=2.0)
    record = FrameRecord(3, False, confidence, 1.0, 1.0, 1.0, 1.0, confidence)
    assert weight_of(record, settings) == pytest.approx(expected)


# --- the registration --------------------------------------------------------------------------------


def test_its_losses_are_those_of_the_frames_as_they_are_where_nothing_moves() -> None:
    settings = settings_of(image_loss="mse")
    cine = make_cine(restrict(beating(row_of("s0")), [0, ES]), settings.registration_preparation)
    network = settings.build_registration()
    torch.nn.init.zeros_(network.flow.weight)
    found = pair_losses(network, cine, Pair(0, 0, ES, position=5), settings)
    a, b = cine.images[0].float(), cine.images[ES].float()
    assert found["loss_image"].item() == pytest.approx(F.mse_loss(a, b).item(), rel=1e-5)
    assert found["loss_smoothness"].item() == 0
    masks = [cine.labels[i].numpy() for i in (0, 1)]
    expected = 1 - np.mean([dice(masks[0] == s, masks[1] == s) for s in TRAINED])
    assert found["loss_overlap"].item() == pytest.approx(expected, abs=1e-5)
    unlabelled = pair_losses(network, cine, Pair(0, 0, 1), settings)
    assert unlabelled["loss_overlap"].item() == 0


@pytest.mark.parametrize("through_plane", [False, True])
def test_half_of_the_labels_is_that_of_every_axis_that_the_network_halves(through_plane: bool) -> None:
    """As the stock code: every second pixel, and every second slice where slices are pooled too."""
    settings = settings_of(labels_at_half=True, through_plane=through_plane)
    case = restrict(beating(row_of("s0"), slices=4), [0, ES])
    labels = labels_of(case).copy()
    labels[ES, 3] = 0  # a slice that every second one leaves out
    cine = make_cine(replace(case, labels=labels), settings.registration_preparation)
    network = settings.build_registration()
    torch.nn.init.zeros_(network.flow.weight)
    half = pair_losses(network, cine, Pair(0, 0, ES), settings)
    masks = [mask[:: 1 + through_plane, ::2, ::2] for mask in cine.labels.numpy()]
    expected = 1 - np.mean([dice(masks[0] == s, masks[1] == s) for s in TRAINED])
    assert half["loss_overlap"].item() == pytest.approx(expected, abs=1e-5)


def contracting_cine() -> Cine:
    return make_cine(contracting(), Known(still).preparation)


def test_validation_carries_labels_from_their_own_frame() -> None:
    moved, unmoved = carried_dice(ByBlood(), contracting_cine())
    assert (moved[:2] > 0.95).all()
    assert (unmoved[:2] < 0.7).all()
    assert moved[2].isnan()


def test_its_losses_carry_moving_to_fixed_and_back_by_the_inverse() -> None:
    cine, settings = contracting_cine(), settings_of(dimensions=2, image_loss="mse", bidirectional=True)
    still_there = F.mse_loss(cine.images[0].float(), cine.images[1].float()).item()
    for pair in (Pair(0, 0, 1), Pair(0, 1, 0)):
        found = pair_losses(ByBlood(), cine, pair, settings)
        assert found["loss_overlap"].item() < 0.1
        assert found["loss_image"].item() < 0.2 * still_there


def test_two_devices_descend_as_one_does(cines: Cohort, tmp_path: Path) -> None:
    """Pairs differ in depth, so a batch is a list; the mean over devices of their means is the mean."""
    settings = settings_of(registration_batch=2)
    preparation = settings.registration_preparation
    made = [
        make_cine(restrict(beating(row, slices=2 + i), [0, ES]), preparation) for i, row in enumerate(cines)
    ]
    torch.manual_seed(0)
    stage = RegistrationStage(quiet_run(tmp_path), settings, settings.build_registration(), made, {})
    losses: list[Tensor] = []
    stage.descend = lambda loss, *args, **more: losses.append(loss.detach())  # type: ignore[method-assign]
    for mine in (everything, lambda i: i[:1], lambda i: i[1:]):
        stage.share = mine  # type: ignore[method-assign]
        stage.update(3)
    assert float(losses[0]) == pytest.approx(float(losses[1] + losses[2]) / 2, rel=1e-5)
    assert float(losses[1]) != float(losses[2])


@pytest.mark.slow
def test_a_registrar_is_the_same_after_saving(cines: Cohort, tmp_path: Path) -> None:
    registrar = learn_registration(cines, settings_of(), quiet_run(tmp_path))
    loaded = load_registrar(tmp_path / "models" / "registration")
    assert not registrar.bf16
    loaded.bf16 = False  # as the run, whatever this machine is quick at
    case = beating(row_of("s7"))
    first, second = (carry(case, [0, ES], r, keep_displacement=True) for r in (registrar, loaded))
    assert torch.equal(first.displacement, second.displacement)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert loaded.provenance["trained_on"] == ["s0_cine", "s1_cine", "s2_cine"]
    (tmp_path / "models/registration/weights.safetensors").unlink()
    with pytest.raises(RunError, match=r"is missing; is this the folder with the registrar in models"):
        load_registrar(tmp_path / "models" / "registration")
    registrar.save(tmp_path / "models" / "registration")
    (tmp_path / "models/registration/registrar.json").write_text('{"format": 1, "network": {"dimension": 3}}')
    with pytest.raises(RunError, match="cannot be loaded"):
        load_registrar(tmp_path / "models" / "registration")


@pytest.mark.slow
def test_validation_tells_what_carrying_gains_over_leaving(cines: Cohort, tmp_path: Path) -> None:
    learn_registration(cines, settings_of(), quiet_run(tmp_path))
    lines = (tmp_path / "stages" / "registration" / "metrics.csv").read_text().splitlines()
    last = {name: float(value) for name, value in list(csv.DictReader(lines))[-1].items() if value}
    preparation = settings_of().registration_preparation
    labels = make_cine(restrict(beating(cines.rows[3]), [0, ES]), preparation).labels.numpy()
    unmoved = [dice(labels[0] == s, labels[1] == s) for s in TRAINED]
    assert last["dice_source_unmoved"] == pytest.approx(np.mean(unmoved), abs=1e-5)
    assert last["dice_source"] == pytest.approx(
        np.mean([last[f"dice_source_{s}"] for s in ("lv", "myo", "rv")]), abs=1e-5
    )


@pytest.mark.slow
def test_it_learns_to_carry_labels_to_a_heart_it_never_saw(tmp_path: Path) -> None:
    cohort = Cohort(tuple(row_of(f"s{i}") for i in range(6)), beating, "six")
    changes = {"registration_steps": 150, "registration_steps_per_round": 150, "mirrored_pairs": False}
    registrar = learn_registration(cohort, settings_of(**changes), quiet_run(tmp_path))
    case = beating(row_of("s20"))
    found = carry(case, [0], registrar, frames=[ES])
    for structure in TRAINED:
        true = labels_of(case)[ES] == structure
        unmoved = dice(labels_of(case)[0] == structure, true)
        assert dice(found.labels[ES] == structure, true) > unmoved + 0.1
    assert found.frames[0].smallest_jacobian > 0
    registrar.bf16 = True
    exact, coarse = found.labels[ES], carry(case, [0], registrar, frames=[ES]).labels[ES]
    heart = (exact > 0) | (coarse > 0)
    assert (exact != coarse)[heart].mean() < 0.02


@pytest.mark.slow
def test_a_step_of_either_stage_never_waits_for_its_device(
    cines: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of the meta device have no values, and no autocast: whatever would have to look at one fails."""
    real = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **more: nullcontext() if kind == "meta" else real(kind, **more)
    )
    settings = settings_of(augmentation="standard", bidirectional=True, end_pairs=1.0, labelled_pairs=0.0)
    lesson, _ = lesson_of(cines, tmp_path / "lesson")
    made = [make_cine(restrict(beating(row), [0, ES]), settings.registration_preparation) for row in cines]
    with torch.device("meta"):
        networks = settings.build_registration(), settings.spec.build()
    run = quiet_run(tmp_path / "run")
    stages = [
        RegistrationStage(run, settings, networks[0], [cine.to("meta") for cine in made], {}),
        Segmentation(run, settings, networks[1], lesson.to("meta"), {}),
    ]
    for stage in stages:
        losses: list[Tensor] = []
        stage.descend = lambda loss, *args, kept=losses, **more: kept.append(loss)  # type: ignore[method-assign]
        told = stage.update(3)
        losses[0].backward()
        assert {scalar.device.type for scalar in told.values()} == {"meta"}


# --- the segmentation --------------------------------------------------------------------------------


def lesson_of(cohort: Cohort, folder: Path, **changes: Any) -> tuple[Lesson, Settings]:
    settings = settings_of(**changes)
    registrar = Known(still)
    domains = shut_labels(find_domains(cohort, settings, 0), settings.labelled_frames)
    return gather(domains, settings, registrar, quiet_run(folder)), settings


def test_real_slices_are_those_of_ed_and_es_and_the_rest_is_carried(cines: Cohort, tmp_path: Path) -> None:
    lesson, _ = lesson_of(cines, tmp_path)
    frames_of = [place_.frame for place_ in lesson.bank.table]
    assert lesson.real == 3 * 2 * 3
    assert set(frames_of[: lesson.real]) == {0, ES}
    assert sorted(set(frames_of[lesson.real :])) == [1, 2, 4, 5]
    assert len(lesson.bank) == 3 * FRAMES * 3
    assert lesson.bank.images.dtype == torch.float16


@pytest.mark.slow
def test_batches_have_their_share_of_carried_slices_on_every_device(cines: Cohort, tmp_path: Path) -> None:
    lesson, settings = lesson_of(cines, tmp_path / "half", batch_size=8, confidence="none")
    chosen = lesson.choose(settings, seed=0, step=3)
    assert (chosen >= lesson.real).tolist() == [False, True] * 4
    whole, weights = lesson.batch(settings, seed=0, step=3, share=everything)
    parts = [
        lesson.batch(settings, seed=0, step=3, share=lambda i, r=r: i[4 * r : 4 * r + 4]) for r in (0, 1)
    ]
    assert torch.equal(torch.cat([part.image for part, _ in parts]), whole.image)
    assert torch.equal(torch.cat([w for _, w in parts]), weights)
    pool = settings_of(batch_size=6, carried_share=None)
    passed = torch.cat([lesson.choose(pool, seed=1, step=step) for step in range(9)])
    assert sorted(passed.tolist()) == list(range(54))
    quarter = settings_of(batch_size=8, carried_share=0.25)
    assert int((lesson.choose(quarter, seed=0, step=0) >= lesson.real).sum()) == 2


@pytest.mark.slow
def test_weights_count_in_the_loss_as_on_one_device(cines: Cohort, tmp_path: Path) -> None:
    lesson, settings = lesson_of(cines, tmp_path, batch_size=8)
    lesson = replace(lesson, weights=torch.linspace(0.1, 1.0, len(lesson.bank)))
    torch.manual_seed(0)
    stage = Segmentation(quiet_run(tmp_path / "run"), settings, settings.spec.build(), lesson, {})
    losses: list[Tensor] = []
    stage.descend = lambda loss, *args, **more: losses.append(loss.detach())  # type: ignore[method-assign]
    for mine in (everything, lambda i: i[:4], lambda i: i[4:]):
        stage.share = mine  # type: ignore[method-assign]
        stage.update(2)
    assert float(losses[0]) == pytest.approx(float(losses[1] + losses[2]) / 2, rel=1e-5)
    batch, _ = lesson.batch(settings, seed=0, step=2, share=everything)
    given = lesson.weights[lesson.choose(settings, seed=0, step=2)]
    logits = stage.network(batch.image).detach()
    each = F.cross_entropy(logits, batch.labels.long(), reduction="none").mean(dim=(1, 2))
    assert float(losses[0]) == pytest.approx(float((given * each).sum() / given.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1, 2, 4, 5]),
        ({"carry_every": 2}, [2, 4]),
        ({"carry_to": "between"}, [1, 2]),
        ({"carry_to": "between", "carry_every": 2}, [1]),
    ],
)
def test_labels_go_to_the_whole_cycle_or_between_ed_and_es(
    changes: dict[str, Any], expected: list[int]
) -> None:
    row = row_of("s0")
    case = restrict(beating(row), [0, ES])
    assert carried_frames(row, case, settings_of(**changes)) == expected
    nameless = replace(row, ed_frame=None)
    assert carried_frames(nameless, case, settings_of(carry_to="between")) == []


def test_each_carried_frame_stands_in_a_table_with_its_weight(cines: Cohort, tmp_path: Path) -> None:
    """Labels that stay where they were agree too little here, and weigh less."""
    lesson, _ = lesson_of(cines, tmp_path, confidence_threshold=0.9)
    rows = list(csv.DictReader((tmp_path / "carried.csv").read_text().splitlines()))
    assert [(row["scan"], row["frame"]) for row in rows[:4]] == [("s0_cine", str(t)) for t in (1, 2, 4, 5)]
    assert len(rows) == 12
    for row in rows:
        weight, confidence = float(row["weight"]), float(row["confidence"])
        assert weight == pytest.approx(confidence / 0.9)
        assert weight < 1
        held = [
            float(w)
            for w, place_ in zip(lesson.weights, lesson.bank.table, strict=True)
            if (place_.scan, place_.frame) == (row["scan"], int(row["frame"]))
        ]
        assert held == pytest.approx([weight] * 3)
    assert lesson.weights[: lesson.real].unique().tolist() == [1.0]


def test_frames_below_the_threshold_can_all_be_left_out(
    cines: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson, _ = lesson_of(cines, tmp_path, confidence="drop", confidence_threshold=1.0)
    assert len(lesson.bank) == lesson.real
    assert (
        "12 of 12 frames with carried labels are left out: their confidence is below 1"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_the_baseline_differs_in_the_carried_slices_alone(cines: Cohort, tmp_path: Path) -> None:
    begun: list[dict[str, Tensor]] = []
    seen: list[int] = []

    class Watched(Segmentation):
        def __init__(
            self, run: Run, settings: Settings, network: Any, lesson: Lesson, validation: Any
        ) -> None:
            begun.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
            seen.append(len(lesson.bank))
            super().__init__(run, settings, network, lesson, validation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossbeat.methods.propagation.Segmentation", Watched)
        train(cines, settings_of(), quiet_run(tmp_path / "carried"))
        told = train(cines, settings_of(synthetic_labels=False), quiet_run(tmp_path / "real")).provenance
    assert all(torch.equal(begun[0][name], begun[1][name]) for name in begun[0])
    assert seen == [54, 18]
    assert told["carried_frames"] == 0
    assert not (tmp_path / "real" / "models").exists()
    assert not (tmp_path / "real" / "carried.csv").exists()


@pytest.mark.slow
def test_every_region_is_measured_on_validation_patients_in_every_round(
    cines: Cohort, tmp_path: Path
) -> None:
    train(cines, settings_of(schedule="plateau"), quiet_run(tmp_path))
    rows = list(csv.DictReader((tmp_path / "stages/segmentation/metrics.csv").read_text().splitlines()))
    last = [row for row in rows if row["dice_source"]]
    assert len(last) == 2
    regions = [float(last[-1][f"dice_source_{s}"]) for s in ("lv", "myo", "rv")]
    assert float(last[-1]["dice_source"]) == pytest.approx(np.mean(regions), abs=1e-6)
    assert float(last[-1]["loss_validation"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["none", "train"])
def test_the_targets_masks_steer_the_learning_rate_only_where_they_may_train(
    cines: Cohort, tmp_path: Path, labels: str
) -> None:
    other = [replace(row_of(f"s{i}", split), vendor="b") for i, split in ((4, "train"), (5, "validation"))]
    cohort = replace(cines, rows=(*cines.rows, *other))
    changes = {"source": {"vendor": ""}, "target": {"vendor": "b"}, "target_labels": labels}
    settings = settings_of(**changes, schedule="plateau")

    def scrambled(row: Row) -> Case:
        case, turned = beating(row), np.array([0, 3, 1, 2], np.uint8)
        return case if row.subject != "s5" else replace(case, labels=turned[labels_of(case)])

    found = []
    for name, one in (("true", cohort), ("scrambled", replace(cohort, read=scrambled))):
        domains = find_domains(one, settings, 0)
        lesson = gather(domains, settings, None, quiet_run(tmp_path / name))
        torch.manual_seed(0)
        network, banks = settings.spec.build(), validation_banks(domains, settings.preparation)
        stage = Segmentation(quiet_run(tmp_path / f"{name} stage"), settings, network, lesson, banks)
        with torch.no_grad():
            found.append(stage.validate())
    assert found[0]["dice_target"] != found[1]["dice_target"]
    assert (found[0]["loss_validation"] == found[1]["loss_validation"]) == (labels == "none")


def test_without_source_scans_that_validate_no_plateau_is_seen_in_the_targets_masks(
    cines: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (*cines.rows[:2], replace(cines.rows[3], vendor="b"))
    settings = settings_of(
        source={"vendor": ""}, target={"vendor": "b"}, schedule="plateau", synthetic_labels=False
    )
    train(replace(cines, rows=rows), settings, quiet_run(tmp_path))
    assert "no labelled scan of the source validates" in capsys.readouterr().err
    metrics = (tmp_path / "stages/segmentation/metrics.csv").read_text()
    assert "dice_target" in metrics
    assert "loss_validation" not in metrics


def test_a_plateau_needs_somebody_to_validate_and_says_so(
    cines: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = cines.where(split="train")
    train(alone, settings_of(schedule="plateau", synthetic_labels=False), quiet_run(tmp_path))
    assert re.search(
        "no labelled scan of the source validates.*the learning rate stays 0.001", capsys.readouterr().err
    )


# --- the whole ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"profile": "text"},
        {"profile": "code", "propagate_from": "ed_es"},
        {"dimensions": 2, "bidirectional": True, "confidence": "drop", "confidence_threshold": 0.1},
        {"labelled_frames": "all", "propagate_from": "ed", "registration_schedule": "one_cycle"},
        {"registration_batch": 2, "augmentation": "standard", "loss": "ce_dice", "select": "source"},
    ],
)
def test_every_profile_and_arm_takes_its_steps(
    cines: Cohort, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = settings_of(**ONCE, **changes)
    segmenter = train(cines, settings, quiet_run(tmp_path))
    case = replace(beating(row_of("s30")), labels=None, drawn=())
    assert segmenter.predict(case).shape == case.image.shape
    assert (tmp_path / "models" / "registration" / "weights.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stopped_in", ["registration", "segmentation"])
def test_stopped_in_either_stage_it_ends_as_if_it_had_not(
    cines: Cohort, tmp_path: Path, stopped_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(augmentation="light")
    whole = train(cines, settings, quiet_run(tmp_path / "whole")).network.state_dict()
    stage = RegistrationStage if stopped_in == "registration" else Segmentation
    original = stage.update

    def stop(self: Any, step: int) -> dict[str, Tensor]:
        if step == 3:
            raise KeyError("the power went off")
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "update", stop)
        with pytest.raises(KeyError):
            train(cines, settings, quiet_run(tmp_path / "cut"))
    resumed = train(cines, settings, quiet_run(tmp_path / "cut", resume=True)).network.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    first, second = (load_registrar(tmp_path / n / "models/registration").network for n in ("whole", "cut"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.slow
def test_a_dry_run_counts_frames_of_cines_alone(cines: Cohort, tmp_path: Path) -> None:
    def read(row: Row) -> Case:
        case = cines.read(row)
        return restrict_to_first(case) if row.scan == cines.rows[1].scan else case

    def restrict_to_first(case: Case) -> Case:
        assert case.labels is not None
        return replace(
            case, image=case.image[:1], labels=case.labels[:1], drawn=case.drawn[:1], frame_times_ms=None
        )

    still = replace(cines.rows[1], ed_frame=0, es_frame=None)
    mixed = replace(cines, rows=(cines.rows[0], still, *cines.rows[2:]), read=read)
    run = Run(tmp_path / "run", device="cpu", progress=False, estimates={})
    train(mixed, settings_of(), run)
    assert run.estimates is not None
    assert run.estimates["carrying labels"].updates == 2 * 4


@pytest.mark.slow
def test_a_run_says_where_few_carried_frames_can_be_trusted(cines: Cohort, tmp_path: Path) -> None:
    train(cines, settings_of(**ONCE, confidence_threshold=1.0), quiet_run(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    said = [line["text"] for line in lines if line["event"] == "note"]
    assert any(
        re.search(r"of 12 frames with carried labels 0 are trusted.*the mean is 0\.", text) for text in said
    )


@pytest.mark.slow
def test_a_dry_run_tells_the_cost_of_both_stages_and_writes_nothing(cines: Cohort, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", device="cpu", progress=False, estimates={})
    train(cines, settings_of(), run)
    assert run.estimates is not None
    assert set(run.estimates) == {"registration", "carrying labels", "segmentation"}
    assert run.estimates["carrying labels"].updates == 3 * 4
    assert run.estimates["registration"].parameters == 326_898
    assert not list(tmp_path.iterdir())


# --- what it refuses ---------------------------------------------------------------------------------


def stills() -> Cohort:
    rows = tuple(replace(row_of(f"s{i}"), es_frame=None) for i in range(3))
    return Cohort(rows, lambda row: beating(row, count=1), "stills")


def test_scans_of_one_frame_alone_are_refused(tmp_path: Path) -> None:
    words = r"stills: none of 3 labelled training scans has two frames.*index the whole cines, or say `synthetic_labels"
    for work in (train, learn_registration):
        with pytest.raises(CohortError, match=words):
            work(stills(), settings_of(), quiet_run(tmp_path / work.__name__))
        assert not (tmp_path / work.__name__ / "stages").exists()
    with pytest.raises(CohortError, match=words):
        learn_registration(stills(), settings_of(without_cine="real_labels"), quiet_run(tmp_path / "strict"))


def test_or_train_on_their_real_labels_and_say_that_this_is_not_propagation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = train(stills(), settings_of(without_cine="real_labels"), quiet_run(tmp_path)).provenance
    assert re.search("this run trains on real labels alone and is not propagation", capsys.readouterr().err)
    assert told["carried_frames"] == 0
    assert not (tmp_path / "models").exists()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["text"] for line in log if line["event"] == "note"]


@pytest.mark.slow
def test_scans_of_one_frame_beside_cines_are_segmented_only_and_counted(
    cines: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(row: Row) -> Case:
        return beating(row, count=1 if row.subject == "s1" else FRAMES)

    rows = tuple(replace(row, es_frame=None if row.subject == "s1" else ES) for row in cines)
    train(replace(cines, rows=rows, read=read), settings_of(), quiet_run(tmp_path))
    assert "1 of 3 training scans have one frame, 's1_cine' first" in capsys.readouterr().err
    registered = json.loads((tmp_path / "models/registration/registrar.json").read_text())["provenance"]
    assert registered["trained_on"] == ["s0_cine", "s2_cine"]


@pytest.mark.slow
def test_two_frames_are_a_cine_although_nothing_is_left_to_carry_to(cines: Cohort, tmp_path: Path) -> None:
    """ED and ES frames alone, as in many copies of ACDC."""
    rows = tuple(replace(row, es_frame=1) for row in cines)
    pairs = replace(cines, rows=rows, read=lambda row: beating(row, count=2))
    told = train(pairs, settings_of(), quiet_run(tmp_path)).provenance
    assert told["carried_frames"] == 0
    assert (tmp_path / "models" / "registration" / "registrar.json").exists()


def test_what_cannot_be_carried_is_named(tmp_path: Path) -> None:
    row = row_of("s0")
    with pytest.raises(
        CaseError, match=r"scan 's0_cine': has one frame, so there is nothing to carry labels to"
    ):
        find_sources(row, beating(row, count=1), "ed")
    bare = replace(beating(row), labels=None, drawn=())
    with pytest.raises(
        CaseError, match=r"no frame has labels of LV, MYO or RV to carry; draw them in one frame"
    ):
        find_sources(row, bare, "ed")
    with pytest.raises(CaseError, match=r"frame 2 has no labels .* those labelled are 0, 3"):
        carry(restrict(beating(row), [0, ES]), [2], Known(still))
    empty = labels_of(beating(row)).copy()
    empty[ES] = 0
    empty[ES, 0] = UNKNOWN
    with pytest.raises(
        CaseError, match=r"frame 3 should show LV, MYO, RV, and its mask is empty, .*; draw them there"
    ):
        find_sources(row, replace(beating(row), labels=empty), "ed_es")
    assert find_sources(row, replace(beating(row), labels=empty), "ed") == [0]
    alone = Cohort((row,), lambda row: replace(beating(row), labels=empty), "empty")
    with pytest.raises(CaseError, match="its mask is empty"):  # before anything is trained
        learn_registration(alone, settings_of(), quiet_run(tmp_path))
    assert not (tmp_path / "stages").exists()
    with pytest.raises(CaseError, match="labels have shape"):
        replace(beating(row), labels=labels_of(beating(row))[:-1])


@pytest.mark.parametrize("fields", [False, True])
@pytest.mark.parametrize(
    ("sources", "frames", "words"),
    [
        ([], None, r"no frame is given to carry labels from; give some of those labelled: 0, 3"),
        ([-6], None, r"frame -6 has no labels of LV, MYO or RV to carry; those labelled are 0, 3"),
        ([99], None, r"frame 99 has no labels"),
        ([0], [], r"no frame is given to carry labels to; leave `frames` out for all"),
        ([0], [2, 99], r"labels cannot be carried to frame 99; the scan has frames 0 to 5"),
        ([0], [-1], r"labels cannot be carried to frame -1; the scan has frames 0 to 5"),
    ],
)
def test_frames_that_a_scan_has_not_are_refused(
    sources: list[int], frames: list[int] | None, words: str, fields: bool
) -> None:
    case = restrict(beating(row_of("s0")), [0, ES])
    with pytest.raises(CaseError, match="scan 's0_cine': " + words):
        carry(case, sources, Known(still), frames=frames, keep_displacement=fields)


def test_labels_in_many_frames_of_which_none_is_named_are_refused(cines: Cohort, tmp_path: Path) -> None:
    rows = tuple(replace(row, ed_frame=None, es_frame=None) for row in cines)
    with pytest.raises(CohortError, match=r"'s0_cine': has labels in 6 frames .* fill ed_frame and es_frame"):
        train(replace(cines, rows=rows), settings_of(), quiet_run(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"labelled_frames": "ed"},
            r"carries the ES labels, which labelled_frames ed keeps shut; say propagate_from",
        ),
        ({"ncc_window": 8}, r"ncc_window 8 has no middle; take 9"),
        ({"end_pairs": 0.6, "labelled_pairs": 0.6}, r"shares of one whole, got 0.6 and 0.6"),
        (
            {"registration_steps": 5},
            r"registration_steps 5 are no whole number of rounds of 2; take 4 or 6, or another regis",
        ),
        ({"steps": 5}, r"steps 5 are no whole number of rounds of 2"),
        ({"dimensions": 2, "through_plane": True}, r"slices have no third axis"),
        ({"network": "dynnet"}, r"network 'dynnet' does not exist; did you mean 'dynunet'"),
        ({"augmentation_changes": {"gama": [1, 2]}}, r"there is no 'gama'; did you mean 'gamma'"),
        ({"propagate_from": "es"}, r"propagate_from: Input should be 'ed' or 'ed_es'"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_is_read(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        settings_of(**changes)


def test_the_published_networks_are_built() -> None:
    def parameters(network: torch.nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    assert parameters(Settings.of({"dimensions": 3}).build_registration()) == 326_898
    assert parameters(Settings.of({"profile": "text"}).build_registration()) == 327_331
    assert parameters(Settings.of({}).build_registration()) == 109_170
    assert parameters(Settings.of({}).spec.build()) == 7_762_564
