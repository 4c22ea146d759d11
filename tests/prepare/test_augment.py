"""Augmentation: geometry equals numpy's, labels follow the image, and a sample's changes are its own."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage, stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossbeat.labels import UNKNOWN
from crossbeat.prepare.augment import (
    CHEN2020,
    LIGHT,
    NONE,
    PRESETS,
    RANDOM_CONTRAST,
    STANDARD,
    Augmentation,
    Draw,
    apply,
    draw,
    draw_from_seeds,
)

EVERYTHING = Augmentation(
    rotation_deg=(-40, 40),
    shear_deg=(-10, 10),
    zoom=(0.7, 1.4),
    anisotropic_zoom=(0.8, 1.2),
    shift_px=(-9, 9),
    flip_x_probability=0.5,
    flip_y_probability=0.5,
    elastic_px=(1, 3),
    elastic_spacing_px=16,
    random_contrast_probability=0.5,
    gamma=(0.7, 1.5),
    gamma_probability=0.5,
    gamma_inverted_probability=0.5,
    bias_field=(0, 0.3),
    contrast=(0.75, 1.25),
    contrast_probability=0.5,
    brightness=(-0.3, 0.3),
    brightness_probability=0.5,
    blur_px=(0.5, 1),
    blur_probability=0.5,
    noise_sd=(0.1, 0.3),
    noise_probability=0.5,
)


COMPILED = """
import torch
from crossbeat.prepare.augment import Augmentation, apply, draw
settings = Augmentation(rotation_deg=(-20, 20), elastic_px=(1, 2), random_contrast_probability=0.5, blur_px=(0, 1),
                        bias_field=(0.1, 0.2), noise_sd=(0.1, 0.2), noise_probability=0.5, contrast=(0.8, 1.2))
image, labels = torch.randn(4, 1, 40, 40), torch.randint(0, 4, (4, 40, 40)).to(torch.uint8)
made = draw(settings, 4, torch.Generator().manual_seed(0))
plain = apply(made, image, labels, size=(32, 32))
compiled = torch.compile(lambda d, i, k: apply(d, i, k, size=(32, 32)), fullgraph=True)(made, image, labels)
torch.testing.assert_close(compiled[0], plain[0], atol=1e-3, rtol=1e-3)
assert (compiled[1] != plain[1]).float().mean() < 1e-3
"""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(n: int, y: int, x: int, c: int = 1) -> tuple[Tensor, Tensor]:
    image = torch.randn(n, c, y, x, generator=generator(1))
    labels = torch.randint(0, 4, (n, y, x), generator=generator(2)).to(torch.uint8)
    return image, labels


def smooth_batch(n: int, size: int) -> tuple[Tensor, Tensor]:
    """Smooth images, and as labels the pixels above zero."""
    noise = np.random.default_rng(3).standard_normal((n, size, size))
    image = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 5, 5))).float()[:, None]
    image = image / image.std()
    return image, (image[:, 0] > 0).to(torch.uint8)


def changed(
    settings: Augmentation, field: tuple[int, int], size: tuple[int, int]
) -> tuple[Any, Any, Any, Any]:
    """A random field before, and image and labels after one forced change, as arrays."""
    image, labels = random_batch(2, *field)
    after, labels_after = apply(draw(settings, 2, generator()), image, labels, size=size)
    return image.numpy(), labels.numpy(), after.numpy(), labels_after.numpy()


def centre(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    top, left = ((long - short) // 2 for long, short in zip(array.shape[-2:], size, strict=True))
    return array[..., top : top + size[0], left : left + size[1]]


# geometry by numpy


@pytest.mark.parametrize("field", [(24, 30), (27, 31), (20, 20)])
def test_no_change_is_the_middle_bit_by_bit(field: tuple[int, int]) -> None:
    image, labels, after, labels_after = changed(NONE, field, (20, 20))
    assert np.array_equal(after, centre(image, (20, 20)))
    assert np.array_equal(labels_after, centre(labels, (20, 20)))


def test_samples_without_a_change_are_untouched_among_changed_ones() -> None:
    settings = EVERYTHING.model_copy(
        update={
            name: 0.3
            for name in Augmentation.model_fields
            if name.endswith("_probability") and name != "gamma_inverted_probability"
        }
        | {f"{name}_probability": 0.1 for name in ("rotation", "shear", "zoom", "anisotropic_zoom", "shift")}
        | {"flip_x_probability": 0.1, "flip_y_probability": 0.1, "elastic_probability": 0.1}
    )
    made = draw(settings, 200, generator(4))
    flags = [getattr(made, name) for name in ("moved", "relit", "windowed", "blurred", "noisy")]
    still = ~torch.stack(flags).any(0)
    assert 5 < still.sum() < 100
    image, labels = random_batch(200, 26, 26)
    after, labels_after = apply(made, image, labels, size=(20, 20))
    assert np.array_equal(after[still], centre(image[still].numpy(), (20, 20)))
    assert np.array_equal(labels_after[still], centre(labels[still].numpy(), (20, 20)))
    same = (after == image[:, :, 3:23, 3:23]).flatten(1).all(1)
    assert torch.equal(same, still)


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (-90, -1), (180, 2)])
@pytest.mark.parametrize("side", [20, 21])
def test_quarter_turns_equal_numpy(degrees: int, quarters: int, side: int) -> None:
    settings = Augmentation(rotation_deg=(degrees, degrees))
    image, labels, after, labels_after = changed(settings, (side, side), (side, side))
    assert np.array_equal(labels_after, np.rot90(labels, quarters, axes=(1, 2)))
    np.testing.assert_allclose(after, np.rot90(image, quarters, axes=(2, 3)), atol=1e-4)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_flips_equal_numpy(axis: str) -> None:
    settings = Augmentation(**{f"flip_{axis}_probability": 1})
    image, labels, after, labels_after = changed(settings, (24, 31), (24, 31))
    along = {"y": -2, "x": -1}[axis]
    assert np.array_equal(labels_after, np.flip(labels, along))
    np.testing.assert_allclose(after, np.flip(image, along), atol=1e-4)


def test_whole_pixel_shift_moves_down_and_right_and_pads_with_background_and_minimum() -> None:
    image, labels, after, labels_after = changed(Augmentation(shift_px=(3, 3)), (24, 31), (24, 31))
    assert np.array_equal(labels_after[:, 3:, 3:], labels[:, :-3, :-3])
    np.testing.assert_allclose(after[:, :, 3:, 3:], image[:, :, :-3, :-3], atol=1e-4)
    assert (labels_after[:, :3] == 0).all()
    for n in range(2):
        np.testing.assert_allclose(after[n, 0, :, :2], image[n].min(), atol=1e-5)


def test_shift_brings_in_what_lies_in_the_margin() -> None:
    _, labels, _, labels_after = changed(Augmentation(shift_px=(-2, -2)), (24, 31), (20, 20))
    assert np.array_equal(labels_after, labels[:, 4:24, 7:27])


def test_zoom_by_two_repeats_each_pixel() -> None:
    image, labels, after, labels_after = changed(Augmentation(zoom=(2, 2)), (24, 32), (24, 32))
    expected = labels[:, 6:18, 8:24].repeat(2, axis=1).repeat(2, axis=2)
    assert np.array_equal(labels_after, expected)
    # linear: a quarter pixel from each centre, so 9/16 of the pixel, 3/16 of two neighbours, 1/16 of the third
    pixel = image[0, 0, 6:8, 8:10]
    mixed = (9 * pixel[0, 0] + 3 * pixel[0, 1] + 3 * pixel[1, 0] + pixel[1, 1]) / 16
    assert after[0, 0, 1, 1] == pytest.approx(mixed, abs=1e-4)


def test_shear_slides_each_row_by_the_tangent() -> None:
    _, labels, _, labels_after = changed(Augmentation(shear_deg=(45, 45)), (41, 41), (21, 21))
    for row in range(21):
        slide = row - 10  # px right, at 45 degrees one a row
        assert np.array_equal(labels_after[:, row], labels[:, row + 10, 10 - slide : 31 - slide])


def test_rotation_and_zoom_compose_as_scipy_does() -> None:
    image, _ = smooth_batch(1, 64)
    settings = Augmentation(
        rotation_deg=(25, 25), shear_deg=(8, 8), zoom=(1.2, 1.2), shift_px=(4, 4), flip_x_probability=1
    )
    after, _ = apply(
        draw(settings, 1, generator()), image, torch.zeros(1, 64, 64, dtype=torch.uint8), size=(40, 40)
    )
    # forward, on (row, column): flip, zoom, shear, rotate counter-clockwise as displayed, shift
    turn, slope = math.radians(25), math.tan(math.radians(8))
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    shear = np.array([[1, 0], [slope, 1]])
    forward = rotate @ shear @ np.diag([1.2, 1.2]) @ np.diag([1, -1])
    backward = np.linalg.inv(forward)
    offset = np.full(2, 31.5) - backward @ (np.full(2, 19.5) + 4)
    expected = ndimage.affine_transform(
        image[0, 0].double().numpy(), backward, offset, output_shape=(40, 40), order=1
    )
    inner = np.s_[8:32, 8:32]
    np.testing.assert_allclose(after[0, 0].numpy()[inner], expected[inner], atol=1e-3)


def test_elastic_displacement_has_the_asked_size_and_never_folds() -> None:
    # A ramp along rows, displaced, shows the row displacement itself; likewise along columns.
    rows, columns = torch.meshgrid(torch.arange(288.0), torch.arange(288.0), indexing="ij")
    image = torch.stack((rows, columns))[None].expand(20, -1, -1, -1)
    labels = torch.zeros(20, 288, 288, dtype=torch.uint8)
    settings = Augmentation(elastic_px=(4, 4), elastic_spacing_px=24)
    after, _ = apply(draw(settings, 20, generator(5)), image, labels, size=(192, 192))
    displacement = after - image[:, :, 48:240, 48:240]
    assert displacement.square().mean().sqrt().item() == pytest.approx(4, rel=0.05)
    assert displacement.mean().abs().item() < 0.8  # 5 SD
    dy, dx = after.diff(dim=2)[..., :-1], after.diff(dim=3)[:, :, :-1]
    determinant = dy[:, 0] * dx[:, 1] - dy[:, 1] * dx[:, 0]
    assert determinant.min() > 0
    assert determinant.mean().item() == pytest.approx(1, abs=0.05)


# labels


def test_labels_move_with_the_image() -> None:
    image, labels = smooth_batch(12, 256)  # so large that nothing comes from beyond it
    geometry_only = EVERYTHING.model_copy(
        update={
            f"{name}_probability": 0.0
            for name in ("random_contrast", "gamma", "bias", "contrast", "brightness", "blur", "noise")
        }
    )
    after, labels_after = apply(draw(geometry_only, 12, generator(6)), image, labels, size=(64, 64))
    clear = after[:, 0].abs() > 0.5  # away from the contour, where half a pixel decides
    assert clear.float().mean() > 0.4
    assert torch.equal(labels_after[clear] == 1, after[:, 0][clear] > 0)


def test_labels_keep_their_values_and_unknown_stays_unknown() -> None:
    image, labels = random_batch(8, 64, 64)
    labels[labels == 3] = UNKNOWN
    labels[:4] = UNKNOWN
    _, after = apply(draw(EVERYTHING, 8, generator(7)), image, labels, size=(64, 64))
    assert set(after.unique().tolist()) == {0, 1, 2, UNKNOWN}
    assert set(after[:4].unique().tolist()) == {0, UNKNOWN}


@pytest.mark.parametrize("settings", [NONE, STANDARD, RANDOM_CONTRAST, Augmentation(noise_sd=(1, 1))])
def test_what_comes_in_is_never_overwritten(settings: Augmentation) -> None:
    image, labels = random_batch(8, 32, 32)
    kept, kept_labels = image.clone(), labels.clone()
    after, labels_after = apply(draw(settings, 8, generator()), image, labels, size=(32, 32))
    after.zero_()
    labels_after.zero_()
    assert torch.equal(image, kept)
    assert torch.equal(labels, kept_labels)


def test_intensity_changes_leave_labels_alone() -> None:
    image, labels = random_batch(4, 32, 32)
    settings = Augmentation(
        random_contrast_probability=1, noise_sd=(1, 1), blur_px=(1, 1), bias_field=(1, 1), gamma=(2, 2)
    )
    after, labels_after = apply(draw(settings, 4, generator()), image, labels, size=(24, 24))
    assert torch.equal(labels_after, labels[:, 4:28, 4:28])
    assert not torch.allclose(after, image[:, :, 4:28, 4:28], atol=0.5)


# laws of the draw


@pytest.mark.parametrize("channels", [1, 2])
def test_each_sample_alone_equals_the_batch(channels: int) -> None:
    image, labels = random_batch(10, 48, 52, channels)
    made = draw(EVERYTHING, 10, generator(8))
    after, labels_after = apply(made, image, labels, size=(32, 40))
    for i in range(10):
        alone, labels_alone = apply(made.take([i]), image[[i]], labels[[i]], size=(32, 40))
        torch.testing.assert_close(alone, after[[i]], atol=1e-5, rtol=1e-5)
        assert (labels_alone != labels_after[[i]]).float().mean() < 1e-3


def test_shares_of_two_devices_make_up_the_whole_batch() -> None:
    image, labels = random_batch(9, 40, 40)
    made = draw(EVERYTHING, 9, generator(9))
    whole, _ = apply(made, image, labels, size=(32, 32))
    for share in (torch.arange(0, 9, 2), torch.arange(1, 9, 2)):
        part, _ = apply(made.take(share), image[share], labels[share], size=(32, 32))
        torch.testing.assert_close(part, whole[share], atol=1e-5, rtol=1e-5)


def test_computing_all_samples_as_a_device_does_equals_computing_the_drawn_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, labels = random_batch(16, 40, 40)
    made = draw(STANDARD, 16, generator(10))
    chosen, labels_chosen = apply(made, image, labels, size=(32, 32))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    everywhere, labels_everywhere = apply(made, image, labels, size=(32, 32))
    torch.testing.assert_close(chosen, everywhere, atol=1e-5, rtol=1e-5)
    assert torch.equal(labels_chosen, labels_everywhere)


def test_nothing_waits_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "_unique2"}

    class Watch(TorchDispatchMode):
        seen: ClassVar[set[str]] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    image, labels = random_batch(6, 40, 40)
    made = draw(EVERYTHING, 6, generator())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # the way a device goes
    with Watch() as watch:
        apply(made, image, labels, size=(32, 32))
    assert "grid_sampler_2d" in watch.seen
    assert not watch.seen & waiting


@pytest.mark.slow
def test_compiles_as_one_graph_and_gives_the_same() -> None:
    # In a process of its own: the shape checks of the test run do not go with torch.compile.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    first, second, other = (draw(EVERYTHING, 5, generator(seed)) for seed in (3, 3, 4))
    for field in fields(Draw):
        mine, same = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(mine, same) if isinstance(mine, Tensor) else mine == same
    assert first.backward is not None
    assert other.backward is not None
    assert not torch.equal(first.backward, other.backward)


def test_first_samples_do_not_depend_on_the_batch_size() -> None:
    small, large = draw(EVERYTHING, 3, generator(1)), draw(EVERYTHING, 50, generator(1)).take(slice(3))
    for field in fields(Draw):
        mine, same = getattr(small, field.name), getattr(large, field.name)
        if isinstance(mine, Tensor):
            torch.testing.assert_close(mine, same, atol=1e-6, rtol=1e-6)


def test_switching_one_change_on_leaves_the_others() -> None:
    without = draw(LIGHT, 6, generator(2))
    with_contrast = draw(LIGHT.model_copy(update={"random_contrast_probability": 1.0}), 6, generator(2))
    assert without.backward is not None
    assert with_contrast.backward is not None
    assert torch.equal(without.backward, with_contrast.backward)


def test_what_is_never_asked_for_is_not_drawn() -> None:
    parts = {f.name: getattr(draw(NONE, 4, generator()), f.name) for f in fields(Draw)}
    assert {name for name, part in parts.items() if isinstance(part, Tensor)} == {"seed"}


def test_changes_happen_as_often_as_asked_and_apart_from_each_other() -> None:
    settings = Augmentation(
        flip_x_probability=0.5, noise_sd=(1, 1), noise_probability=0.1, blur_px=(1, 1), blur_probability=0.2
    )
    made = draw(settings, 4000, generator(11))
    for flag, probability in ((made.moved, 0.5), (made.noisy, 0.1), (made.blurred, 0.2)):
        assert flag is not None
        assert flag.float().mean().item() == pytest.approx(
            probability, abs=5 * math.sqrt(probability * (1 - probability) / 4000)
        )
    assert made.moved is not None
    assert made.noisy is not None
    assert made.blurred is not None
    table = torch.stack((made.moved, made.noisy, made.blurred)).float()
    assert (torch.corrcoef(table) - torch.eye(3)).abs().max() < 5 / math.sqrt(4000)


def test_angles_fill_their_range_evenly() -> None:
    made = draw(Augmentation(rotation_deg=(-30, 50)), 4000, generator(12))
    assert made.backward is not None
    degrees = torch.rad2deg(torch.atan2(made.backward[:, 0, 1], made.backward[:, 0, 0])).numpy()
    assert stats.kstest(degrees, stats.uniform(-30, 80).cdf).pvalue > 1e-3


def test_gamma_is_as_often_below_one_as_its_inverse_is_above() -> None:
    made = draw(Augmentation(gamma=(0.5, 2)), 4000, generator(13))
    assert made.gamma is not None
    assert (made.gamma < 1).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert made.gamma.min().item() == pytest.approx(0.5, abs=0.01)
    assert made.gamma.max().item() == pytest.approx(2, abs=0.01)


def test_empty_batch_stays_empty() -> None:
    image, labels = random_batch(2, 30, 30)
    after, labels_after = apply(
        draw(EVERYTHING, 2, generator()).take([]), image[:0], labels[:0], size=(20, 24)
    )
    assert after.shape == (0, 1, 20, 24)
    assert labels_after.shape == (0, 20, 24)


# intensities


def test_noise_has_the_asked_strength_in_units_of_the_slice() -> None:
    image, labels = random_batch(6, 96, 96)
    image = 5 * image
    after, _ = apply(draw(Augmentation(noise_sd=(0.2, 0.2)), 6, generator()), image, labels, size=(96, 96))
    noise = (after - image).flatten(1)
    torch.testing.assert_close(noise.std(1), 0.2 * image.flatten(1).std(1), rtol=0.04, atol=0)
    assert (torch.corrcoef(noise) - torch.eye(6)).abs().max() < 5 / 96


def test_contrast_and_brightness_by_arithmetic() -> None:
    image = torch.tensor([[0.0, 2.0], [4.0, 6.0]]).view(1, 1, 2, 2)  # mean 3, SD sqrt(5)
    settings = Augmentation(contrast=(1.5, 1.5), brightness=(-1, -1))
    after, _ = apply(
        draw(settings, 1, generator()), image, torch.zeros(1, 2, 2, dtype=torch.uint8), size=(2, 2)
    )
    expected = [3 + 1.5 * (v - 3) - math.sqrt(5) for v in (0, 2, 4, 6)]
    assert after.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_random_contrast_reorders_tissues_about_as_often_as_not() -> None:
    # air 0, muscle 0.25, blood 0.65, fat 1, in the proportions of a cine slice
    tissue = torch.tensor([0.0, 0.25, 0.65, 1.0]).repeat_interleave(torch.tensor([500, 250, 200, 50]))
    image = tissue.view(1, 1, 25, 40).expand(600, -1, -1, -1)
    settings = Augmentation(random_contrast_probability=1)
    labels = torch.zeros(600, 25, 40, dtype=torch.uint8)
    after = apply(draw(settings, 600, generator(14)), image, labels, size=(25, 40))[0].flatten(1)
    muscle, blood = after[:, 600], after[:, 800]
    assert (blood < muscle).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert ((blood - muscle).abs() > 0.3).float().mean() > 0.7  # and can still be told apart
    assert after.mean(1).sub(image[0].mean()).abs().max() < 1e-4


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_constant_images_stay_finite(name: str) -> None:
    image = torch.stack([torch.zeros(1, 40, 40), torch.full((1, 40, 40), -2.5)]).repeat(20, 1, 1, 1)
    labels = torch.zeros(40, 40, 40, dtype=torch.uint8)
    after, _ = apply(draw(PRESETS[name], 40, generator(15)), image, labels, size=(32, 32))
    torch.testing.assert_close(after, image[:, :, :32, :32])


def test_autocast_does_not_reach_the_geometry() -> None:
    image, labels = random_batch(4, 40, 40)
    made = draw(EVERYTHING, 4, generator(16))
    outside, _ = apply(made, image, labels, size=(32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = apply(made, image, labels, size=(32, 32))
    assert torch.equal(inside, outside)


# settings and refusals


def test_presets_do_what_their_sources_say() -> None:
    assert CHEN2020.shear_deg[1] == pytest.approx(5.7296, abs=1e-3)  # 0.1 rad
    assert (CHEN2020.rotation_deg, CHEN2020.anisotropic_zoom) == ((-15, 15), (0.8, 1.2))
    assert RANDOM_CONTRAST.model_copy(update={"random_contrast_probability": 0.0}) == STANDARD
    for preset in PRESETS.values():
        assert Augmentation.model_validate(preset.model_dump()) == preset


def test_every_setting_is_described() -> None:
    for name, field in Augmentation.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rotation_deg": [30, -30]}, "smaller number first"),
        ({"rotation_deg": [-200, 30]}, "within -180 to 180"),
        ({"zoom": [0, 1]}, "within 0.2 to 5"),
        ({"gamma": [1, float("nan")]}, "smaller number first"),
        ({"blur_probability": 1.5}, "less than or equal to 1"),
        ({"elastic_px": [0, 9], "elastic_spacing_px": 32}, "folds tissue"),
        ({"rotation": [0, 1]}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Augmentation.model_validate(settings)


def test_field_smaller_than_the_output_is_refused() -> None:
    image, labels = random_batch(2, 30, 40)
    with pytest.raises(ValueError, match="30 x 40 px, smaller than the output of 32 x 32"):
        apply(draw(NONE, 2, generator()), image, labels, size=(32, 32))


def test_draw_for_another_number_of_samples_is_refused() -> None:
    image, labels = random_batch(2, 30, 40)
    with pytest.raises(ValueError, match="drawn for 3 samples, got 2 images"):
        apply(draw_from_seeds(NONE, torch.arange(3)), image, labels, size=(30, 40))
