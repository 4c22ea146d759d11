"""A scan restyled on its own grid: what stands inside the crop and around it, and codes along a spread and uphill."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.methods.stylization import Encoder, Settings, Stylizer
from crossbeat.methods.stylization.restyling import along_spread, losses_of, prepare, restyle, uphill
from crossbeat.methods.stylization.styles import read_styles
from crossbeat.networks.rain import Rain, StyleCode
from crossbeat.networks.vgg import Vgg, normalise_activations
from crossbeat.prepare.volumes import Preparation, normalise, slices_of
from crossbeat.segmenter import Segmenter

DRAWN = frozenset({Structure.LV, Structure.MYO, Structure.RV})
TINY: dict[str, Any] = {
    "network_arguments": {"width": 2},
    "image_size": 32,
    "spacing_mm": 4.0,
    "augmentation": "none",
}


def settings_of(**changes: Any) -> Settings:
    return Settings.of({**TINY, **changes})


def scan(frames: int = 1, spacing_mm: float = 4.0, shape: tuple[int, int] = (60, 70), **other: Any) -> Case:
    """A ring with noise, in the upper left; slices 8 mm apart."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]] * spacing_mm
    distance = np.hypot(y - 100, x - 120)
    labels = np.zeros((frames, 2, *shape), np.uint8)
    labels[:, :, distance < 32] = Structure.MYO
    labels[:, :, distance < 20] = Structure.LV
    image = np.asarray([300, 900, 200], np.float32)[labels] + rng.normal(0, 40, labels.shape)
    affine = np.diag([spacing_mm, spacing_mm, 8.0, 1.0])
    drawn = (DRAWN,) * frames
    case = Case("s", "s", image.astype(np.float32), affine, Domain("bssfp"), labels, drawn)
    return replace(case, **other)


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    """Untrained; its greys lie between 0 and 1, where nothing is clipped and gradients flow."""
    torch.manual_seed(0)
    vgg = Vgg()
    normalise_activations(vgg, torch.rand(4, 1, 32, 32))
    rain = Rain()
    last = rain.decoder.levels[-1]
    assert isinstance(last, torch.nn.ModuleList)
    torch.nn.init.constant_(last[-1].bias, 0.5)  # type: ignore[arg-type]
    torch.nn.init.normal_(last[-1].weight, std=0.02)  # type: ignore[arg-type]
    return Stylizer(Encoder(vgg, "random", settings_of().preparation), rain)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(3)
    s = settings_of()
    return Segmenter(s.spec.build(), s.spec, s.preparation)


@pytest.mark.parametrize("per", ["slice", "volume"])
@pytest.mark.parametrize("spacing_mm", [4.0, 1.7])
def test_what_is_given_to_the_stylizer_is_what_training_gives_it_and_its_ends_are_told(
    per: Any, spacing_mm: float
) -> None:
    """The scale that is told again for the whole scan is the one on which its field was put."""
    preparation = settings_of(normalise_per=per, low_percentile=2.0, high_percentile=90.0).preparation
    content = prepare(scan(spacing_mm=spacing_mm), preparation)
    cut = content.window.cut(slices_of(content.case.image))
    told = ((cut - content.low) / (content.high - content.low)).clamp(0, 1)
    rows, columns = content.window.inside
    made = normalise(cut, content.window, preparation)
    torch.testing.assert_close(told[..., rows, columns], made[..., rows, columns])
    torch.testing.assert_close(content.bank.images, made)


def test_crops_put_back_as_they_are_give_the_scan_as_it_is() -> None:
    """The crop's pixels are the scan's: 4 mm both, the heart's middle on a voxel, the crop's an odd half beside it."""
    case = scan()
    content = prepare(case, settings_of().preparation)
    middle = content.window.centre
    assert (middle[0] % 1, middle[1] % 1) == (0, 0)
    shifted = replace(content.window, centre=(middle[0] + 0.5, middle[1] + 0.5))
    content = replace(content, window=shifted)
    crops = shifted.cut(torch.from_numpy(content.plain()).reshape(2, 1, 60, 70))[..., 8:40, 8:40]
    np.testing.assert_allclose(content.on_grid(crops), content.plain(), atol=1e-6)


def test_inside_the_crop_stands_the_style_and_around_it_the_scan_as_it_was() -> None:
    case = scan(frames=2, spacing_mm=2.0, shape=(120, 140))
    content = prepare(case, settings_of().preparation)
    made = content.on_grid(torch.full((4, 1, 32, 32), 0.25))
    plain = content.plain()
    assert made.shape == case.image.shape
    assert (float(plain.min()), float(plain.max())) == (0.0, 1.0)
    y, x = (round(c) for c in content.window.centre)  # the crop is 128 mm wide, 64 voxels of 2 mm
    np.testing.assert_allclose(made[..., y - 30 : y + 31, x - 30 : x + 31], 0.25, atol=1e-6)
    around = np.ones(case.image.shape[2:], bool)
    around[max(y - 34, 0) : y + 35, max(x - 34, 0) : x + 35] = False
    assert around.any()
    np.testing.assert_array_equal(made[..., around], plain[..., around])


def test_a_scan_can_be_cut_to_what_is_restyled() -> None:
    """What stands around would enter the grey scale of whoever judges the rest."""
    case = scan(spacing_mm=1.7, shape=(120, 140))
    content = prepare(case, settings_of().preparation)
    made = content.on_grid(torch.full_like(content.images, 0.25))
    part = content.within(made)
    np.testing.assert_allclose(part.image, 0.25, atol=1e-3)
    assert [side * 1.7 for side in part.image.shape[2:]] == pytest.approx([32 * 4.0] * 2, abs=4 * 1.7)
    assert part.labels is not None
    assert case.labels is not None
    assert (part.labels == Structure.LV).sum() == (case.labels == Structure.LV).sum()
    for structure in (Structure.LV, Structure.MYO):
        places = [
            (c.affine @ np.append(np.argwhere(c.labels[0] == structure).mean(axis=0)[::-1], 1))[:3]
            for c in (case, part)
        ]
        np.testing.assert_allclose(places[0], places[1], atol=1e-6)


@pytest.mark.slow
def test_a_scan_is_restyled_slice_by_slice_in_one_style(stylizer: Stylizer) -> None:
    """As `Stylizer.stylise` does one slice; however many there are."""
    content = prepare(scan(frames=9), settings_of().preparation)
    code = stylizer.code_of(torch.rand(1, 1, 32, 32))
    made = restyle(content, stylizer, code)
    assert len(made) == 18
    torch.testing.assert_close(made[17:], stylizer.stylise(content.images[17:], code), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made[:1], made[17:])


def test_a_scan_without_labels_is_cropped_about_its_middle_and_so_is_a_style_with_labels() -> None:
    preparation = settings_of().preparation
    case = scan()
    bare = prepare(replace(case, labels=None, drawn=()), preparation)
    assert bare.window.centre == (29.5, 34.5)
    assert (bare.labels == UNKNOWN).all()
    style = prepare(case, preparation, about_heart=False)
    assert style.window == bare.window
    assert torch.equal(style.images, bare.images)
    assert (style.labels == Structure.LV).any()
    assert prepare(case, preparation).window.centre == (25.0, 30.0)


def test_one_slice_comes_with_its_own_labels_and_what_was_drawn() -> None:
    case = scan(frames=2)
    assert case.labels is not None
    labels = case.labels.copy()
    labels[1, 0], labels[1, 1] = 0, UNKNOWN
    content = prepare(replace(case, labels=labels), settings_of().preparation)
    first, empty, unseen = content.slice(0, 1), content.slice(1, 0), content.slice(1, 1)
    assert torch.equal(first.image, content.images[1:2])
    assert (first.labels == Structure.LV).any()
    assert not empty.labels.any()
    assert (unseen.labels == UNKNOWN).all()
    assert [batch.drawn[0].tolist() for batch in (first, empty, unseen)] == [[True] * 4] * 2 + [[False] * 4]


def test_codes_along_a_spread_by_arithmetic() -> None:
    style = StyleCode(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]]), None)
    assert along_spread(style, [-2.0, 0.0, 1.0]).tolist() == [[0.0, 4.0], [1.0, 2.0], [1.5, 1.0]]


@pytest.mark.slow
@pytest.mark.parametrize("ascent", ["normalised", "asm"])
def test_every_step_uphill_raises_the_loss_and_moves_no_weight(
    stylizer: Stylizer, segmenter: Segmenter, ascent: Any
) -> None:
    settings = settings_of(ascent=ascent, ascent_step=0.02, ascent_rate=5e3, trust_region=0.0)
    batch = prepare(scan(), settings.preparation).slice(0, 0)
    style = stylizer.distribution(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)))
    before = {k: v.clone() for k, v in segmenter.network.state_dict().items()}
    codes = uphill(stylizer, segmenter, settings, batch, style, 4)
    losses = losses_of(stylizer, segmenter, settings, batch, codes)
    assert torch.equal(codes[0], style.centre[0])
    assert len(losses) == 5
    assert losses == sorted(losses)
    assert losses[0] < losses[4]
    assert all(torch.equal(v, before[k]) for k, v in segmenter.network.state_dict().items())
    assert all(p.grad is None for p in segmenter.network.parameters())
    if ascent == "normalised":
        lengths = (codes[1:] - codes[:-1]).norm(dim=1)
        assert lengths.tolist() == pytest.approx([0.02 * 512**0.5] * 4, rel=1e-4)


def test_the_climb_stays_within_reach_of_its_style(stylizer: Stylizer, segmenter: Segmenter) -> None:
    settings = settings_of(trust_region=0.5, ascent_step=10.0)
    batch = prepare(scan(), settings.preparation).slice(0, 0)
    style = stylizer.distribution(torch.rand(1, 1, 32, 32))
    codes = uphill(stylizer, segmenter, settings, batch, style, 3)
    reach = 0.5 * float(style.spread.norm())
    assert ((codes - style.centre).norm(dim=1) <= reach * 1.0001).all()
    assert float((codes[1] - codes[0]).norm()) == pytest.approx(reach, rel=1e-4)


def test_styles_to_look_at_are_those_that_training_would_see() -> None:
    row = Row("s", "s", "lge", "-", labels="-", ed_frame=1, es_frame=2)

    def read(row: Row) -> Case:
        assert not row.labels
        case = scan(frames=4, labels=None, drawn=())
        image = case.image.copy()
        image[1, 0] = 7.0
        return replace(case, image=image)

    preparation: Preparation = settings_of().preparation
    bank = read_styles(Cohort((row,), read, "hearts"), preparation)
    assert [(place.frame, place.z) for place in bank.table] == [(0, 1), (1, 0), (1, 1)]
    assert not bank.drawn.any()


@pytest.mark.parametrize("spacing_mm", [4.0, 1.7])
def test_one_grey_is_no_style_though_resampling_rounds_it(spacing_mm: float) -> None:
    image = np.full((1, 2, 60, 70), 7.3, np.float32)
    case = scan(spacing_mm=spacing_mm, image=image, labels=None, drawn=())
    flat = Cohort((Row("s", "s", "lge", "-"),), lambda row: case)
    with pytest.raises(CohortError, match="none of 2 style slices shows anything but one grey"):
        read_styles(flat, settings_of().preparation)
