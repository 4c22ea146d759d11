"""Tag physics against closed forms, a spinor calculation, and lines that one can count."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.labels import Structure
from crossbeat.synthetic.tagging import (
    AUTHORS_MEAN,
    AUTHORS_SD,
    Fading,
    Simulation,
    add_rician_noise,
    change_contrast,
    draw,
    fade,
    low_pass,
    modulation,
    standardise,
    tag,
    tag_lines,
)

PIXEL = (1.5, 1.25)
OPEN = Simulation(
    spacing=(6.0, 9.0),
    turn_deg=(-20.0, 20.0),
    phase="random",
    flip_deg=(60.0, 90.0),
    contrast="power0.4_myo",
    fading=Fading(),
    resolved=0.7,
    noise_sd=(0.01, 0.05),
)


def wave(theta: Tensor, flip_deg: float = 70.0, train: tuple[int, ...] = (1, 3, 3, 1)) -> Tensor:
    """`modulation` of angles of any shape."""
    flip = torch.tensor([flip_deg], dtype=theta.dtype)
    return modulation(theta.reshape(1, 1, -1), flip, train).view(theta.shape)


def turns(count: int = 1000) -> Tensor:
    return torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)


def scans(n: int = 4, size: tuple[int, int] = (40, 44)) -> dict[str, Any]:
    """Images, labels, displacements, pulses and noise of n samples."""
    generator = torch.Generator().manual_seed(5)
    image = torch.rand((n, *size), generator=generator, dtype=torch.float64) * 300
    labels = torch.randint(0, 4, (n, *size), generator=generator, dtype=torch.uint8)
    return {
        "image": image,
        "labels": labels,
        "displacement": torch.randn((n, 2, *size), generator=generator, dtype=torch.float64),
        "pulses": torch.arange(n, dtype=torch.float64) * 3,
        "noise": torch.randn((n, 2, *size), generator=generator, dtype=torch.float64),
    }


def test_the_train_of_the_paper_is_its_fourier_series() -> None:
    """methods.md 4.4: exact for 1-3-3-1 at 70°."""
    theta = torch.linspace(-7, 7, 4001, dtype=torch.float64)
    series = (
        0.794887482129
        - 0.308173396835 * theta.cos()
        - 0.123877410466 * (2 * theta).cos()
        - 0.020816531502 * (3 * theta).cos()
    )
    torch.testing.assert_close(wave(theta), series, rtol=0, atol=1e-9)


@pytest.mark.parametrize("flip_deg", [20.0, 70.0, 90.0, 140.0])
@pytest.mark.parametrize("train", [(1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1)])
def test_the_bloch_product_is_that_of_spinors(train: tuple[int, ...], flip_deg: float) -> None:
    """Pulse and precession as unitary 2 x 2 matrices: Mz is |a|² - |b|² of the first column (a, b)."""
    theta = turns(97).numpy()
    a, b = np.ones_like(theta, complex), np.zeros_like(theta, complex)
    for k, share in enumerate(train):
        if k:
            a, b = a * np.exp(-0.5j * theta), b * np.exp(0.5j * theta)
        half = math.radians(flip_deg) * share / sum(train) / 2
        a, b = a * math.cos(half) - 1j * b * math.sin(half), b * math.cos(half) - 1j * a * math.sin(half)
    expected = np.abs(a) ** 2 - np.abs(b) ** 2
    np.testing.assert_allclose(wave(turns(97), flip_deg, train).numpy(), expected, atol=1e-12)


def test_least_most_and_mean_of_lines_and_grid_are_those_stated() -> None:
    line = wave(turns())
    assert float(line[0]) == pytest.approx(math.cos(math.radians(70)), abs=1e-12)
    assert float(line.min()) == float(line[0])
    assert float(line[500]) == pytest.approx(1.0, abs=1e-12)
    assert float(line.max()) == pytest.approx(1.0, abs=1e-12)
    grid = line[:, None] * line[None, :]
    assert float(grid.min()) == pytest.approx(0.117, abs=5e-4)
    assert float(grid.mean()) == pytest.approx(0.632, abs=5e-4)


@pytest.mark.parametrize(
    ("train", "dark"), [((1, 1), 0.50), ((1, 2, 1), 0.365), ((1, 3, 3, 1), 0.30), ((1, 4, 6, 4, 1), 0.26)]
)
def test_more_pulses_make_thinner_lines(train: tuple[int, ...], dark: float) -> None:
    """Dark is what lies below the middle between least and most."""
    line = wave(turns(100_000), train=train)
    middle = (line.max() + line.min()) / 2
    assert float((line < middle).double().mean()) == pytest.approx(dark, abs=0.006)


def test_five_pixels_lie_between_two_lines_across_them() -> None:
    """θ = 2π (X ± Y) / (5 √2): 5 √2 pixels along a row, 5 across; and 7 mm are 7 mm whatever the pixels."""
    lines = tag_lines(draw(Simulation(), 1, torch.Generator()), (1, 3, 3, 1), (60, 60))[0]
    x, y = torch.meshgrid(*[torch.arange(60, dtype=torch.float64)] * 2, indexing="xy")
    first, second = (wave(2 * math.pi * v / (5 * math.sqrt(2))) for v in (x + y, x - y))
    torch.testing.assert_close(lines, first * second, rtol=0, atol=1e-12)
    for pixel in ((1.0, 1.0), PIXEL):
        tags = draw(Simulation(spacing=(7.0, 7.0)), 1, torch.Generator())
        fine = tag_lines(tags, (1, 3, 3, 1), (4001, 1), (pixel[0] / 100, pixel[1]))[0, :, 0]
        darkest = [k for k in range(1, 4000) if fine[k] < min(fine[k - 1], fine[k + 1]) and fine[k] < 0.2]
        apart = np.diff(darkest).mean() * pixel[0] / 100
        assert apart / math.sqrt(2) == pytest.approx(7.0, abs=0.05)  # both sets cross a column at 45°


def test_lines_are_where_the_tissue_has_carried_them() -> None:
    """Tissue that lay 2 rows up and 3 columns right when tagged shows what was tagged there."""
    tags = draw(replace(OPEN, fading=None), 2, torch.Generator().manual_seed(0))
    still = tag_lines(tags, (1, 3, 3, 1), (30, 34), PIXEL)
    displacement = torch.zeros((2, 2, 30, 34), dtype=torch.float64)
    displacement[:, 0], displacement[:, 1] = -2 * PIXEL[0], 3 * PIXEL[1]
    moved = tag_lines(tags, (1, 3, 3, 1), (30, 34), PIXEL, displacement)
    torch.testing.assert_close(moved[:, 2:, :-3], still[:, :-2, 3:], rtol=0, atol=1e-10)


def test_lines_fade_from_how_they_were_laid_to_the_steady_state() -> None:
    lines = wave(turns(50)).view(1, 1, 50)
    t1 = torch.full_like(lines, 1000.0)
    tr, flip, start, end = (torch.tensor([v], dtype=torch.float64) for v in (40.0, 17.0, 0.0, 1e6))
    now, late = (fade(lines, n, t1, tr, flip) for n in (start, end))
    torch.testing.assert_close(now, lines, rtol=0, atol=1e-14)
    # by hand: E = e^-0.04 = 0.960789, cos 17° = 0.956305; (1 - E) / (1 - 0.918807) = 0.482932
    torch.testing.assert_close(late, torch.full_like(lines, 0.482932), rtol=0, atol=1e-5)


def test_fading_is_what_pulse_by_pulse_recovery_gives() -> None:
    m = wave(turns(20)).view(1, 1, 20)
    tr, flip, count = (torch.tensor([v], dtype=torch.float64) for v in (35.0, 15.0, 7.0))
    seven = fade(m, count, torch.full_like(m, 950.0), tr, flip)
    for _ in range(7):
        m = 1 + (m * math.cos(math.radians(15)) - 1) * math.exp(-35 / 950)
    torch.testing.assert_close(seven, m, rtol=0, atol=1e-12)


def test_lines_are_gone_from_blood_while_they_stay_in_the_wall() -> None:
    simulation = Simulation(fading=Fading(), contrast="none")
    labels = torch.full((1, 40, 40), int(Structure.MYO), dtype=torch.uint8)
    labels[:, :, 20:] = Structure.LV
    tags = draw(simulation, 1, torch.Generator().manual_seed(1))
    image = torch.ones((1, 40, 40), dtype=torch.float64)
    seen = tag(image, tags, simulation, labels=labels, pulses=torch.tensor([4.0]))[0]
    assert float(seen[:, 21:].std()) < 0.05 * float(seen[:, :19].std())
    assert float(seen[:, 21:].mean()) > 0.9  # fresh blood


def test_without_inflow_blood_keeps_its_lines_as_tissue_does() -> None:
    still = Simulation(fading=Fading(blood_t1_ms=None))
    labels = torch.full((2, 24, 24), int(Structure.MYO), dtype=torch.uint8)
    labels[:, :, 12:] = Structure.LV
    tags = draw(still, 2, torch.Generator().manual_seed(1))
    flowing = draw(Simulation(fading=Fading()), 2, torch.Generator().manual_seed(1))
    assert torch.equal(tags.blood_t1_ms, tags.t1_ms)
    assert torch.equal(tags.t1_ms, flowing.t1_ms)
    image, pulses = torch.ones((2, 24, 24), dtype=torch.float64), torch.tensor([0.0, 4.0])
    seen = tag(image, tags, still, labels=labels, pulses=pulses)
    assert torch.equal(seen, tag(image, tags, still, pulses=pulses))
    washed = tag(image, flowing, Simulation(fading=Fading()), labels=labels, pulses=pulses)
    assert torch.equal(seen[:, :, :11], washed[:, :, :11])
    assert float((seen - washed)[1, :, 13:].abs().max()) > 0.1


def test_blood_stops_no_sharper_than_an_image_shows_it() -> None:
    """Were lines to end where the label does, a network would learn to see the label."""
    simulation = Simulation(fading=Fading(), contrast="none")
    wall = torch.full((1, 40, 40), int(Structure.MYO), dtype=torch.uint8)
    half, blood = wall.clone(), torch.full_like(wall, int(Structure.LV))
    half[:, :, 20:] = Structure.LV
    tags = draw(simulation, 1, torch.Generator().manual_seed(1))
    image = torch.ones((1, 40, 40), dtype=torch.float64)
    seen, of_wall, of_blood = (
        tag(image, tags, simulation, labels=labels, pulses=torch.tensor([4.0]))[0]
        for labels in (half, wall, blood)
    )
    for column, share in ((18, 0.0), (19, 1 / 3), (20, 2 / 3), (21, 1.0)):
        mixed = (1 - share) * of_wall[:, column] + share * of_blood[:, column]
        torch.testing.assert_close(seen[:, column], mixed)


def test_what_is_turned_over_recovers_through_nothing() -> None:
    """Laid at 140°, a line along which only the first set runs starts at cos 140° = -0.766 of a pixel of 1."""
    simulation = Simulation(fading=Fading(), contrast="none", flip_deg=(140.0, 140.0))
    tags = draw(simulation, 1, torch.Generator().manual_seed(1))
    tags = replace(tags, phase_rad=torch.tensor([[0.0, math.pi]], dtype=torch.float64))
    image = torch.ones((1, 8, 8), dtype=torch.float64)

    def first(pulses: int) -> float:
        return float(tag(image, tags, simulation, pulses=torch.tensor([float(pulses)]))[0, 0, 0])

    laid = math.cos(math.radians(140)) * float(wave(torch.tensor([math.pi], dtype=torch.float64), 140.0))
    m, kept = laid, math.cos(math.radians(float(tags.imaging_flip_deg)))
    recovery = math.exp(-40 / float(tags.t1_ms))
    for pulses in range(12):
        assert first(pulses) == pytest.approx(abs(m), abs=1e-9)
        m = 1 + (m * kept - 1) * recovery
    assert laid < 0 < m


def test_the_contrast_of_the_text_and_of_the_code() -> None:
    image = torch.tensor([[[0.04, 0.16, 0.25, 0.36, 1.0]]], dtype=torch.float64)
    myocardium = torch.tensor([[[False, True, True, True, False]]])
    root = change_contrast(image, "sqrt")
    torch.testing.assert_close(root, torch.tensor([[[0.2, 0.4, 0.5, 0.6, 1.0]]], dtype=torch.float64))
    # the median of .16, .25 and .36 is T = .25; the code's x below it and T (x / T)^0.4 from it on, over T^0.6
    half = change_contrast(image, "power0.4_myo", torch.tensor([0.5], dtype=torch.float64), myocardium)
    of_the_code = np.array([0.04, 0.16, 0.25, 0.25 * 1.44**0.4, 0.25 * 4**0.4])
    np.testing.assert_allclose(half[0, 0].numpy(), of_the_code / 0.25**0.6)
    assert float(half[0, 0, 4]) == 1
    quarter = change_contrast(image, "power0.4_myo", torch.tensor([0.25], dtype=torch.float64), myocardium)
    t = (0.16 + 0.25) / 2
    assert float(quarter[0, 0, 1] / quarter[0, 0, 4]) == pytest.approx(0.16 / (t * (1 / t) ** 0.4))
    for mask in (None, torch.zeros_like(myocardium)):
        whole = change_contrast(image, "power0.4_myo", torch.tensor([0.5], dtype=torch.float64), mask)
        torch.testing.assert_close(whole, image**0.4)


def test_a_black_wall_does_not_blacken_the_image() -> None:
    image = torch.tensor([[[0.0, 0.5, 1.0]]], dtype=torch.float64)
    mask = torch.tensor([[[True, False, False]]])
    seen = change_contrast(image, "power0.4_myo", torch.tensor([0.0], dtype=torch.float64), mask)
    torch.testing.assert_close(seen, image**0.4)


def test_each_image_of_a_batch_is_as_it_would_be_alone() -> None:
    given = scans()
    tags = draw(OPEN, 4, torch.Generator().manual_seed(2))
    together = tag(tags=tags, simulation=OPEN, pixel=PIXEL, **given)
    for k in range(4):
        alone = tag(
            tags=tags.take([k]), simulation=OPEN, pixel=PIXEL, **{n: v[k : k + 1] for n, v in given.items()}
        )
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=1e-12)


def test_the_first_draws_of_a_larger_batch_are_those_of_a_smaller_one_and_ranges_do_not_meddle() -> None:
    few, many = (draw(OPEN, n, torch.Generator().manual_seed(3)) for n in (3, 20))
    closed = draw(replace(OPEN, flip_deg=(70.0, 70.0), phase="fixed"), 20, torch.Generator().manual_seed(3))
    for name, values in vars(many).items():
        assert torch.equal(getattr(few, name), values[:3])
        if name not in ("flip_deg", "phase_rad"):
            assert torch.equal(getattr(closed, name), values)
    assert (closed.flip_deg == 70).all()
    assert not closed.phase_rad.any()
    for values, (low, high) in ((many.spacing, OPEN.spacing), (many.noise_sd, OPEN.noise_sd)):
        assert low <= float(values.min()) < float(values.max()) <= high
    assert torch.equal(
        many.across_deg[:, 0] - many.across_deg[:, 1], torch.full((20,), 90.0, dtype=torch.float64)
    )


def test_all_frames_of_a_scan_can_share_one_draw() -> None:
    tags = draw(OPEN, 2, torch.Generator().manual_seed(4)).take(torch.tensor([1, 1, 1]))
    lines = tag_lines(tags, (1, 3, 3, 1), (20, 20), PIXEL)
    assert torch.equal(lines[0], lines[1])
    assert torch.equal(lines[0], lines[2])


def test_nothing_beyond_the_paper_happens_unasked() -> None:
    image = scans(1)["image"]
    seen = tag(image, draw(Simulation(), 1, torch.Generator().manual_seed(9)), Simulation())
    x, y = torch.meshgrid(torch.arange(44.0), torch.arange(40.0), indexing="xy")
    lines = [wave(2 * math.pi * v.double() / (5 * math.sqrt(2))) for v in (x + y, x - y)]
    torch.testing.assert_close(
        seen[0], (image[0] / image.max()).sqrt() * lines[0] * lines[1], rtol=0, atol=1e-6
    )


def test_single_precision_is_near_double() -> None:
    given, tags = scans(), draw(OPEN, 4, torch.Generator().manual_seed(2))
    double = tag(tags=tags, simulation=OPEN, pixel=PIXEL, **given)
    single = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    found = tag(tags=tags, simulation=OPEN, pixel=PIXEL, **single)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), double, rtol=0, atol=2e-5)


def test_a_low_pass_keeps_what_is_slow_and_takes_away_what_is_fast() -> None:
    x = torch.arange(64, dtype=torch.float64)
    slow, fast = (1 + 0.5 * (2 * math.pi * k * x / 64).cos() for k in (4, 24))
    image = torch.stack([slow, fast])[:, None].expand(2, 64, 64)
    seen = low_pass(image, 0.5, 0.0)  # k_c at 16 of 32
    torch.testing.assert_close(seen[0], image[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[1], torch.ones_like(seen[1]), rtol=0, atol=1e-12)
    weighed = low_pass(image, 0.5, 4.0)[0]
    weight = np.kaiser(65, 4.0)[32 + 8]  # 4 of 16: a quarter of the way to the window's end
    assert float(weighed.max() - weighed.min()) == pytest.approx(weight, rel=1e-9)


def test_noise_is_rician() -> None:
    noise = torch.randn((2, 2, 300, 300), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None].expand(2, 300, 300)
    air, body = add_rician_noise(image, torch.tensor([0.05, 0.05], dtype=torch.float64), noise)
    assert float(air.mean()) == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.01)
    assert float(body.mean()) == pytest.approx(1 + 0.05**2 / 2, rel=1e-3)
    assert float(body.std()) == pytest.approx(0.05, rel=0.01)


def test_the_authors_standard_is_met_by_each_image() -> None:
    seen = standardise(scans()["image"])
    for image in seen:
        assert float(image.mean()) == pytest.approx(AUTHORS_MEAN)
        assert float(image.std(correction=0)) == pytest.approx(AUTHORS_SD)
    even = standardise(torch.ones((1, 5, 5)))
    torch.testing.assert_close(even, torch.full((1, 5, 5), AUTHORS_MEAN))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"spacing": (0.0, 5.0)}, "need a spacing above 0"),
        ({"spacing": (6.0, 5.0)}, "spacing must be a range from low to high, got 6 to 5"),
        ({"flip_deg": (0.0, 70.0)}, r"flip angle within \(0, 180\] degrees"),
        ({"flip_deg": (70.0, 200.0)}, "got 5 and 70 to 200"),
        ({"train": (1,)}, "a train of two pulses or more"),
        ({"quantile": (0.0, 3.0)}, r"quantiles within \[0, 1\]"),
        (
            {"noise_sd": (-0.2, -0.1)},
            "noise and a Kaiser window of 0 or more, got 0 to 0.5, -0.2 to -0.1 and 4",
        ),
        ({"kaiser_beta": -4.0}, "a Kaiser window of 0 or more"),
        ({"resolved": 0.0}, "a share of k-space within"),
    ],
)
def test_tags_that_nobody_can_lay_are_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Simulation(**asked)


@pytest.mark.parametrize(
    ("spacing", "resolved", "pixel", "words"),
    [
        (
            (2.4, 6.0),
            1.0,
            1.25,
            r"tags 2.4 apart \(2.4 to 6, as it is varied\) on pixels of 1.25: .* closest 2.5 apart",
        ),
        (
            (4.0, 4.0),
            0.4,
            1.0,
            r"tags 4 apart on pixels of 1 \(2.5 as the low pass leaves them\): .* closest 5 apart",
        ),
        ((2.0, 3.0), 1.0, 1.42857, r"keep the closest 2.858 apart or more"),
    ],
)
def test_lines_closer_than_two_pixels_are_refused_and_those_that_the_remedy_names_are_not(
    spacing: tuple[float, float], resolved: float, pixel: float, words: str
) -> None:
    simulation = Simulation(spacing=spacing, resolved=resolved)
    with pytest.raises(SettingsError, match=words) as told:
        simulation.check_spacing((1.0, pixel))
    least = float(re.search(r"closest (\S+) apart", str(told.value))[1])  # type: ignore[index]
    replace(simulation, spacing=(least, least)).check_spacing((1.0, pixel))
    with pytest.raises(SettingsError, match="closer than two pixels"):
        tag(torch.ones((1, 8, 8)), draw(simulation, 1, torch.Generator()), simulation, pixel=(pixel, pixel))


def test_at_the_least_spacing_a_low_pass_leaves_an_eighth_of_the_lines() -> None:
    """SD over a flat image; 0.27 of lines that pixels show well."""
    for share, spacing, left in ((1.0, 5.0, 0.269), (0.5, 4.0, 0.035), (0.4, 5.0, 0.035)):
        simulation = Simulation(spacing=(spacing, spacing), contrast="none", resolved=share)
        seen = tag(torch.ones((1, 120, 120)), draw(simulation, 1, torch.Generator()), simulation)
        assert float(seen.std()) == pytest.approx(left, abs=0.004)


def test_what_a_simulation_needs_is_asked_for() -> None:
    for simulation in (Simulation(fading=Fading()), Simulation(noise_sd=(0.0, 0.1))):
        with pytest.raises(ValueError, match="fading lines need `pulses`, and a simulation with noise"):
            tag(torch.ones((1, 8, 8)), draw(simulation, 1, torch.Generator()), simulation)


def test_nothing_waits_for_a_device() -> None:
    """On the meta device whatever had to look at a value would fail."""
    given = {k: v.to("meta") for k, v in scans().items()}
    tags = draw(replace(OPEN, standardised=True), 4, torch.Generator().manual_seed(2))
    seen = tag(tags=tags, simulation=replace(OPEN, standardised=True), pixel=PIXEL, **given)
    assert seen.device.type == "meta"
    assert seen.shape == given["image"].shape
