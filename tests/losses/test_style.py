"""The losses of stylization, by arithmetic, by laws, and beside PyTorch's distributions and SciPy's Sobel filter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl_divergence

from crossbeat.losses import style as losses
from crossbeat.losses.style import (
    consistency_loss,
    content_loss,
    kl_divergence,
    published_kl_divergence,
    reconstruction_loss,
    structure_loss,
    style_loss,
)
from crossbeat.networks import rain


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(seed: int, n: int = 2, side: int = 8) -> list[Tensor]:
    """Four levels of features, halved and doubled in channels."""
    return [normal(n, 4 * 2**i, side // 2**i + 1, side // 2**i + 2, seed=seed + i) for i in range(4)]


def test_the_content_loss_on_paper() -> None:
    """(1 + 0 + 0 + 9) / 4."""
    ours, target = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[2.0, 2.0], [3.0, 1.0]]]])
    assert content_loss(ours, target).item() == pytest.approx(2.5)


def test_the_style_loss_of_one_layer_on_paper() -> None:
    """Places 1, 3 against 2, 6: means 2 and 4, deviations √2 and √8; each layer adds its own."""
    ours, theirs = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, 6.0]]]])
    one = 4 + (8**0.5 - 2**0.5) ** 2
    assert style_loss([ours], [theirs]).item() == pytest.approx(one, rel=1e-4)
    assert style_loss([ours] * 3, [theirs] * 3).item() == pytest.approx(3 * one, rel=1e-4)


def test_the_style_loss_averages_over_samples_and_channels() -> None:
    ours, theirs = layers(0), layers(10)
    expected = 0.0
    for a, b in zip(ours, theirs, strict=True):
        for n in range(2):
            for c in range(a.shape[1]):
                x, y = a[n, c].numpy(), b[n, c].numpy()
                deviations = [np.sqrt(v.var(ddof=1) + 1e-5) for v in (x, y)]
                squares = (x.mean() - y.mean()) ** 2 + (deviations[0] - deviations[1]) ** 2
                expected += squares / (2 * a.shape[1])
    assert style_loss(ours, theirs).item() == pytest.approx(expected)


def test_a_style_has_no_places() -> None:
    ours = layers(0)
    shuffled = [x.flip(2).roll(1, dims=3) for x in ours]
    assert style_loss(ours, shuffled).item() == pytest.approx(0, abs=1e-12)
    doubled = [torch.cat([x, x], dim=3) for x in ours]  # of another size; unbiased variances differ a little
    assert style_loss(ours, doubled).item() < 0.05 * style_loss(ours, layers(10)).item()


def test_one_style_image_serves_a_batch() -> None:
    ours, theirs = layers(0, n=3), layers(10, n=1)
    repeated = [x.expand(3, -1, -1, -1) for x in theirs]
    torch.testing.assert_close(style_loss(ours, theirs), style_loss(ours, repeated))


def test_layers_that_do_not_correspond_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        style_loss(layers(0), layers(0)[:3])


def test_the_statistics_are_those_that_rain_computes() -> None:
    features = layers(0)[0]
    for ours, theirs in zip(losses._moments(features), rain.style_of(features), strict=True):
        assert torch.equal(ours, theirs)
    assert losses.TINIEST_VARIANCE == rain.TINIEST_VARIANCE


def test_the_divergence_of_one_axis_on_paper() -> None:
    """ψ = 2, ξ² = 4: (4 + 4 - log 4 - 1) / 2."""
    expected = (7 - math.log(4)) / 2
    centre, log_variance = torch.tensor([[2.0]]), torch.tensor([[math.log(4)]])
    assert kl_divergence(centre, log_variance).item() == pytest.approx(expected)
    assert published_kl_divergence(centre, torch.tensor([[-2.0]])).item() == pytest.approx(expected, abs=1e-5)


def test_the_divergence_is_that_of_torchs_distributions() -> None:
    centre, log_variance = normal(3, 512), normal(3, 512, seed=1)
    learned = Normal(centre, (log_variance / 2).exp())
    expected = torch_kl_divergence(learned, Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(centre, log_variance), expected)
    spread = (log_variance / 2).exp()
    published = published_kl_divergence(centre, spread * normal(3, 512, seed=2).sign())
    torch.testing.assert_close(published, expected, rtol=0, atol=1e-4)


def test_the_divergence_is_least_for_a_standard_normal_code() -> None:
    zero = torch.zeros(1, 4, dtype=torch.float64)
    assert kl_divergence(zero, zero).item() == 0
    assert published_kl_divergence(zero, zero + 1).item() == pytest.approx(-5e-6, rel=1e-3)
    assert kl_divergence(zero + 0.1, zero).item() > 0
    assert kl_divergence(zero, zero + 0.1).item() > 0
    assert kl_divergence(zero, zero - 0.1).item() > 0


def test_a_vanishing_spread_keeps_its_gradient_in_the_sound_form_alone() -> None:
    """The published 1e-5 lets ξ come to rest at 0, where the divergence ought to be infinite."""
    centre = torch.zeros(1, 1, dtype=torch.float64)
    spread = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    published_kl_divergence(centre, spread).backward()
    assert spread.grad is not None
    assert spread.grad.item() == 0
    log_variance = torch.full((1, 1), -40.0, dtype=torch.float64, requires_grad=True)
    kl_divergence(centre, log_variance).backward()
    assert log_variance.grad is not None
    assert log_variance.grad.item() == pytest.approx(-0.5)


def test_the_reconstruction_of_a_style_on_paper() -> None:
    decoded = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
    assert reconstruction_loss(decoded, torch.tensor([[1.0, 4.0], [0.0, 0.0]])).item() == pytest.approx(5 / 4)
    assert reconstruction_loss(decoded, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(1.0)


def test_what_is_compared_with_gets_no_gradient() -> None:
    wanted = normal(2, 3, 4, 5).requires_grad_()
    for loss in (
        content_loss(normal(2, 3, 4, 5, seed=1).requires_grad_(), wanted),
        style_loss([normal(2, 3, 4, 5, seed=1).requires_grad_()], [wanted]),
        reconstruction_loss(normal(2, 60, seed=1).requires_grad_(), wanted.flatten(1)),
        structure_loss(normal(2, 3, 4, 5, seed=1).requires_grad_(), wanted),
    ):
        loss.backward()
        assert wanted.grad is None


def test_the_consistency_loss_on_paper() -> None:
    """One channel's differences 3, 4 in the first sample and 0 in the second: norms 5 and 0, (5 / 2)² = 6.25."""
    stylised = torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 0.0]]]])
    assert consistency_loss(stylised, torch.zeros_like(stylised)).item() == pytest.approx(6.25 / 2)


def test_the_consistency_loss_of_equal_features_is_zero_with_zero_gradients() -> None:
    features = normal(2, 8, 3, 3)
    stylised, original = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss = consistency_loss(stylised, original)
    loss.backward()
    assert loss.item() == 0
    for side in (stylised, original):
        assert side.grad is not None
        assert side.grad.abs().max() == 0
    consistency_loss(stylised, original + 1).backward()
    assert original.grad is not None
    assert original.grad.abs().min() > 0


def picture(seed: int = 0, n: int = 2, y: int = 12, x: int = 15) -> Tensor:
    return torch.rand(n, 1, y, x, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_structure_loss_is_one_minus_the_correlation_of_sobels_magnitudes() -> None:
    ours, theirs = picture(0), picture(1)
    each = []
    for a, b in zip(ours[:, 0].numpy(), theirs[:, 0].numpy(), strict=True):
        edges = [np.hypot(*(ndimage.sobel(v, axis) for axis in (0, 1)))[1:-1, 1:-1].ravel() for v in (a, b)]
        each.append(1 - np.corrcoef(*edges)[0, 1])
    assert structure_loss(ours, theirs).item() == pytest.approx(np.mean(each))


def test_the_same_image_has_the_same_structure_whatever_its_brightness_and_contrast() -> None:
    image = picture()
    for same in (image, 0.3 * image + 0.2, 40 * image - 7, 1 - image):
        assert structure_loss(same, image).item() == pytest.approx(0, abs=1e-9)
        assert structure_loss(image, same).item() == pytest.approx(0, abs=1e-9)
    assert structure_loss(0.3 * picture(1) + 2, image).item() == pytest.approx(
        structure_loss(picture(1), image).item()
    )


def test_a_moved_border_costs_structure() -> None:
    disc = torch.zeros(1, 1, 16, 16)
    disc[:, :, 5:11, 5:11] = 1.0
    moved, far = disc.roll(1, dims=3), disc.roll(3, dims=3)
    assert structure_loss(disc, disc).item() == pytest.approx(0, abs=1e-6)
    assert 0.1 < structure_loss(moved, disc).item() < structure_loss(far, disc).item() <= 2


def test_colours_are_made_grey_before_edges_are_looked_for() -> None:
    image, style = picture(), picture(1)
    torch.testing.assert_close(structure_loss(style.repeat(1, 3, 1, 1), image), structure_loss(style, image))
    colours = torch.cat([picture(1), picture(2), picture(3)], dim=1)
    torch.testing.assert_close(
        structure_loss(colours, image), structure_loss(colours.mean(1, keepdim=True), image)
    )


def test_an_original_without_edges_has_no_structure_to_keep() -> None:
    image = picture()
    flat = torch.full_like(image, 0.7)
    stylised = image.clone().requires_grad_()
    loss = structure_loss(stylised, flat)
    loss.backward()
    assert loss.item() == 0
    assert stylised.grad is not None
    assert stylised.grad.abs().max() == 0
    half = torch.cat([image[:1], flat[:1]])
    torch.testing.assert_close(structure_loss(picture(1), half), structure_loss(picture(1)[:1], image[:1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stylised_image_that_lost_its_edges_costs_one_and_breaks_no_gradient(dtype: torch.dtype) -> None:
    image = picture().to(dtype)
    flat = torch.full_like(image, 0.7).requires_grad_()
    loss = structure_loss(flat, image)
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_descending_the_structure_loss_brings_the_borders_back() -> None:
    original = picture(0, n=1)
    stylised = picture(1, n=1).requires_grad_()
    before = structure_loss(stylised, original).item()
    optimizer = torch.optim.Adam([stylised], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        structure_loss(stylised, original).backward()
        optimizer.step()
    assert structure_loss(stylised, original).item() < 0.3 * before


def test_the_losses_are_taken_in_single_precision() -> None:
    a, b = normal(2, 3, 8, 8).half(), normal(2, 3, 8, 8, seed=1).half()
    for loss in (content_loss, consistency_loss, structure_loss):
        found = loss(a, b)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(a.float(), b.float()))
