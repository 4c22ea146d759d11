"""AdaConv: its parameters on paper, its layout by a slow second forward, its convolution by arithmetic and a loop."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.losses.style import kl_divergence, reconstruction_loss
from crossbeat.networks import adaconv_starts
from crossbeat.networks.adaconv import (
    AdaConv,
    AdaConvDecoder,
    DescriptorAutoencoder,
    KernelPredictor,
    Kernels,
    StyleEncoder,
    adaconv,
)
from crossbeat.networks.adaconv_starts import begin_as, calibrate
from crossbeat.networks.vgg import Decoder, Vgg, normalise_activations

LEVELS = [(512, 1), (256, 2), (128, 4), (64, 8)]  # channels, and those that a kernel sees


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_paper(**arguments: Any) -> AdaConv:
    """Without values, for counting."""
    with torch.device("meta"):
        return AdaConv(**arguments)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_alike(found: Tensor, expected: Tensor, share: float = 1e-3) -> None:
    """Up to that share of the deviation. Channels that are nearly flat are normalised, too: rounding grows."""
    assert (found - expected).square().mean().sqrt() < share * expected.std()


def features(n: int = 2, y: int = 3, x: int = 2, seed: int = 0) -> Tensor:
    return normal(n, 512, y, x, seed=seed).clamp_min(0)


def kernels(m: int, c: int, i: int, k: int = 3) -> Kernels:
    return Kernels(normal(m, c, i, k, k, seed=1), normal(m, c, i, seed=2), normal(m, c, seed=3))


def built(**arguments: Any) -> AdaConv:
    """With biases away from 0, so that none can be left out unseen."""
    torch.manual_seed(0)
    network = AdaConv(**arguments)
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim == 1:
                p.uniform_(-0.5, 0.5)
    return network


@pytest.fixture(scope="module")
def small() -> AdaConv:
    return built().requires_grad_(False)


def test_the_published_form_has_the_parameters_that_were_counted() -> None:
    network = on_paper(out_channels=3, style_channels=512)
    assert parameters(network.style_encoder) == 44_832_768
    assert parameters(network.style_encoder.mix) == 37_753_344  # 8192 · 4608 + 4608
    predictors = [parameters(predictor) for predictor in network.decoder.predictors]
    assert predictors == [2_885_120, 2_753_792, 2_688_128, 2_655_296]
    assert sum(predictors) == 10_982_336
    assert parameters(network.decoder.levels) == 3_505_219
    assert parameters(network) == 59_320_323


def test_the_small_form_has_the_parameters_on_paper() -> None:
    """3 (512² · 9 + 512), 512 · 128 + 128 and 2048 · 1152 + 1152 describe; predictors read 128 channels."""
    network = on_paper()
    assert parameters(network.style_encoder) == 7_079_424 + 65_664 + 2_360_448 == 9_505_536
    predictors = [parameters(predictor) for predictor in network.decoder.predictors]
    assert predictors == [128 * 9 * 512 + 512 + (128 * 512 + 512) + (128 * c + c) for c, _ in LEVELS]
    assert predictors == [722_432, 689_408, 672_896, 664_640]
    assert parameters(network.decoder.levels) == 3_504_065
    assert parameters(network) == 15_758_977
    assert parameters(on_paper(out_channels=3)) == 15_760_131


def test_a_larger_kernel_is_a_larger_descriptor_and_nothing_else() -> None:
    network = on_paper(kernel_size=5)
    assert parameters(network.decoder) == parameters(on_paper().decoder)
    assert parameters(network.style_encoder) == 7_079_424 + 65_664 + 2048 * 3200 + 3200


def test_the_late_layout_has_its_convolutions_where_the_image_is_large() -> None:
    network = on_paper(out_channels=3, layout="late")
    widths = [[(m.in_channels, m.out_channels) for m in level.children()] for level in network.decoder.levels]
    assert widths == [
        [(512, 256)],
        [(256, 256), (256, 128)],
        [(128, 128), (128, 64)],
        [(64, 64), (64, 64), (64, 64), (64, 3)],
    ]
    assert parameters(network.decoder.levels) == 2_398_915


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, [1] * 4, mode="reflect"), weight, bias)


def averaged(x: Tensor, size: Sequence[int]) -> Tensor:
    """Of side a to b: the i-th mean runs from floor(i a / b) to ceil((i + 1) a / b)."""
    for axis, b in enumerate(size, start=2):
        a = x.shape[axis]
        windows = [x.narrow(axis, i * a // b, -(-(i + 1) * a // b) - i * a // b) for i in range(b)]
        x = torch.stack([window.mean(dim=axis) for window in windows], dim=axis)
    return x


def described(style: Tensor, weights: dict[str, Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor:
    """The style encoder of methods.md 3.6, from the weights alone."""
    for i, size in enumerate(sizes):
        style = convolved(style, weights[f"convolutions.{i}.weight"], weights[f"convolutions.{i}.bias"])
        style = averaged(torch.where(style > 0, style, 0.01 * style), size)
    if "narrow.weight" in weights:
        style = torch.einsum("ncyx,sc->nsyx", style, weights["narrow.weight"][:, :, 0, 0])
        style = style + weights["narrow.bias"][:, None, None]
    return style.flatten(1) @ weights["mix.weight"].T + weights["mix.bias"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        ((16, 16), [(8, 8), (4, 4), (4, 4)]),  # even: plain halving
        ((32, 4), [(16, 4), (8, 4), (4, 4)]),  # a style image of 256 pixels a side, as published
        ((13, 6), [(7, 4), (4, 4), (4, 4)]),
        ((2, 17), [(4, 9), (4, 5), (4, 4)]),
    ],
)
def test_a_style_of_any_size_is_averaged_to_four_by_four(
    small: AdaConv, side: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    style = features(1, *side)
    expected = described(style, small.style_encoder.state_dict(), sizes).reshape(1, 128, 3, 3)
    torch.testing.assert_close(small.describe(style), expected, rtol=1e-4, atol=1e-4)


def test_averaging_of_even_sides_is_the_published_pooling() -> None:
    x = normal(1, 3, 8, 12)
    torch.testing.assert_close(averaged(x, (4, 6)), F.avg_pool2d(x, 2))


def test_the_published_form_mixes_all_channels_of_four_by_four() -> None:
    torch.manual_seed(0)
    encoder = StyleEncoder(style_channels=512).requires_grad_(False)
    style = features(1, 4, 4)
    expected = described(style, encoder.state_dict(), [(4, 4)] * 3).reshape(1, 512, 3, 3)
    torch.testing.assert_close(encoder(style), expected, rtol=1e-4, atol=1e-4)


def predicted(descriptor: Tensor, weights: dict[str, Tensor], level: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spatial kernel, pointwise kernel and bias of one level for one descriptor (s k k)."""
    c, i = LEVELS[level]
    part = {name: weights[f"predictors.{level}.{name}"] for name in ("spatial.weight", "spatial.bias")}
    spatial = convolved(descriptor[None], part["spatial.weight"], part["spatial.bias"])[0]
    mean = descriptor.mean(dim=(1, 2))
    pointwise, bias = (
        weights[f"predictors.{level}.{name}.weight"] @ mean + weights[f"predictors.{level}.{name}.bias"]
        for name in ("pointwise", "bias")
    )
    return spatial.reshape(c, i, *descriptor.shape[1:]), pointwise.reshape(c, i), bias


def one_by_one(content: Tensor, each: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The loop over samples that AdaConv is defined by, group by group."""
    images = []
    for x, (spatial, pointwise, bias) in zip(content, each, strict=True):
        mean, variance = x.mean(dim=(1, 2)), x.var(dim=(1, 2), correction=0)
        x = (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
        c, i, k, _ = spatial.shape
        x = F.pad(x[None], [k // 2] * 4, mode="reflect")[0]
        groups = []
        for g in range(0, c, i):
            filtered = F.conv2d(x[None, g : g + i], spatial[g : g + i])[0]
            groups.append(torch.einsum("oi,iyx->oyx", pointwise[g : g + i], filtered))
        images.append(torch.cat(groups) + bias[:, None, None])
    return torch.stack(images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "side", "size", "kernel_size"),
    [("mirror", (3, 2), None, 3), ("mirror", (3, 2), (19, 10), 3), ("late", (3, 4), (17, 31), 5)],
)
def test_the_decoder_is_that_of_the_page(
    layout: Any, side: tuple[int, int], size: tuple[int, int] | None, kernel_size: int
) -> None:
    """methods.md 3.6, from the weights alone; where pooling rounded an odd side up, doubling is cropped."""
    network = built(layout=layout, kernel_size=kernel_size).requires_grad_(False)
    weights = network.decoder.state_dict()
    depths = [1, 4, 2, 2] if layout == "mirror" else [1, 2, 2, 4]
    content, descriptor = features(2, *side), normal(2, 128, kernel_size, kernel_size)
    x = content
    for level, depth in enumerate(depths):
        if level:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            y, w = size or (8 * side[0], 8 * side[1])
            x = x[:, :, : -(-y // 2 ** (3 - level)), : -(-w // 2 ** (3 - level))]
        x = one_by_one(x, [predicted(each, weights, level) for each in descriptor])
        for i in range(depth):
            x = convolved(x, weights[f"levels.{level}.{i}.weight"], weights[f"levels.{level}.{i}.bias"])
            x = x if (level, i) == (3, depth - 1) else x.clamp_min(0)
    x = 1 / (1 + (-x).exp()) if layout == "late" else x
    assert x.shape == (2, 1, *(size or (8 * side[0], 8 * side[1])))
    torch.testing.assert_close(network.stylise(content, descriptor, size), x, rtol=1e-3, atol=1e-3)


def test_adaconv_on_paper() -> None:
    """Columns 1, 3 become -1, 1; each takes its right neighbour, mirrored at the border, times 3, plus 10."""
    right = torch.zeros(1, 1, 1, 3, 3)
    right[..., 1, 2] = 1
    found = adaconv(
        torch.tensor([[[[1.0, 3], [1, 3]]]]),
        Kernels(right, torch.full((1, 1, 1), 3.0), torch.tensor([[10.0]])),
    )
    torch.testing.assert_close(found, torch.tensor([[[[13.0, 7], [13, 7]]]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("c", "i"), [*LEVELS, (6, 3)])
@pytest.mark.parametrize("k", [3, 5])
def test_all_images_at_once_are_each_by_its_own_loop(c: int, i: int, k: int) -> None:
    content, given = 3 * normal(3, c, 5, 4) + 2, kernels(3, c, i, k)
    torch.testing.assert_close(
        adaconv(content, given), one_by_one(content, list(zip(*given, strict=True))), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("c", "i"), LEVELS)
def test_gradients_are_those_of_the_loop(c: int, i: int) -> None:
    content, given = normal(2, c, 4, 3).requires_grad_(), kernels(2, c, i)
    leaves = [content, *(t.requires_grad_() for t in given)]
    towards = normal(2, c, 4, 3, seed=5)
    found = torch.autograd.grad((adaconv(content, given) * towards).sum(), leaves)
    looped = one_by_one(content, list(zip(*given, strict=True)))
    expected = torch.autograd.grad((looped * towards).sum(), leaves)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("c", "i"), LEVELS)
def test_kernels_that_look_only_at_their_own_pixel_normalise_the_content(c: int, i: int) -> None:
    own = torch.eye(i).repeat(c // i, 1)[None]  # channel j of its group reads channel j
    delta = F.pad(own[..., None, None], [1] * 4)
    content = 4 * normal(2, c, 5, 3) - 7
    found = adaconv(content, Kernels(delta, own, torch.zeros(1, c)))
    mean, variance = (
        content.mean(dim=(2, 3), keepdim=True),
        content.var(dim=(2, 3), keepdim=True, correction=0),
    )
    torch.testing.assert_close(found, (content - mean) / (variance + 1e-5).sqrt(), rtol=1e-4, atol=1e-5)


def test_a_flat_channel_stays_flat() -> None:
    given = kernels(1, 8, 1)
    found = adaconv(torch.full((2, 8, 4, 4), 5.0), given)
    torch.testing.assert_close(found, given.bias[:, :, None, None].expand(2, -1, 4, 4), rtol=0, atol=1e-2)


def test_training_begins_with_images_as_bright_and_as_contrasted_as_the_styles() -> None:
    """Descriptors have mean square 1; what a sigmoid ends is let be, and so is everything where images are constant."""
    network, content, style = AdaConv(style_channels=16), features(3), features(3, seed=1)
    images = 0.3 + 0.1 * normal(3, 1, 24, 16, seed=2)
    drawn = network(content, style, (24, 16))
    calibrate(network, content, style, torch.full_like(images, 0.3))
    assert torch.equal(network(content, style, (24, 16)), drawn)
    calibrate(network, content, style, images)
    begun = network(content, style, (24, 16)).detach()
    assert float(network.describe(style).detach().square().mean()) == pytest.approx(1, rel=1e-4)
    assert float(begun.std()) == pytest.approx(float(images.std()), rel=1e-3)
    assert float(begun.mean()) == pytest.approx(float(images.mean()), abs=1e-4)
    late = AdaConv(style_channels=16, layout="late")
    before = late.decoder.levels[-1][-1].weight.clone()
    calibrate(late, content, style, images)
    assert torch.equal(late.decoder.levels[-1][-1].weight, before)
    assert float(late.describe(style).detach().square().mean()) == pytest.approx(1, rel=1e-4)


def test_it_can_begin_as_a_decoder_behind_the_styles_mean_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level by level: contents normalised, given mean deviation and mean of the styles, and decoded."""
    torch.manual_seed(0)
    network, decoder = AdaConv(style_channels=16), Decoder()
    content, style = features(2, 4, 5), features(3, 6, 5, seed=1)
    monkeypatch.setattr(adaconv_starts, "FAINT", 0.0)
    begin_as(network, decoder, style)
    x, told = content, style
    with torch.no_grad():
        for depth, level in enumerate(decoder.levels):
            if depth:
                x, told = (F.relu(f).repeat_interleave(2, 2).repeat_interleave(2, 3) for f in (x, told))
            deviation = (told.var(dim=(2, 3)) + 1e-5).sqrt().mean(dim=0)[:, None, None]
            x = F.instance_norm(x) * deviation + told.mean(dim=(0, 2, 3))[:, None, None]
            for i, convolution in enumerate(level.children()):
                x, told = (convolution(F.relu(f) if i else f) for f in (x, told))
        assert_alike(network.stylise(content, network.describe(style)[:1], (32, 40)), x, share=0.02)
    monkeypatch.setattr(adaconv_starts, "FAINT", 0.1)
    torch.manual_seed(0)
    faint = AdaConv(style_channels=16, kernel_size=5)
    begin_as(faint, decoder, style)
    descriptors = faint.describe(style)
    point = torch.zeros(5, 5)
    point[2, 2] = 1
    assert torch.equal(descriptors[:, 0], point.expand(3, 5, 5)), "whatever the style"
    assert (descriptors[0, 1:] - descriptors[1, 1:]).abs().max() > 0.1
    faint.stylise(content, descriptors[:2], (32, 40)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in faint.parameters())


def test_neither_scale_nor_offset_of_a_channel_is_content() -> None:
    content, given = normal(2, 16, 6, 5), kernels(2, 16, 2)
    factors = torch.linspace(1, 9, 16)[:, None, None]
    torch.testing.assert_close(
        adaconv(factors * content - 3 * factors, given), adaconv(content, given), rtol=1e-3, atol=1e-3
    )


def test_a_style_touches_no_image_but_its_own(small: AdaConv) -> None:
    content, descriptors = features(3), normal(3, 128, 3, 3)
    other = descriptors.clone()
    other[1] += 1
    before, after = small.stylise(content, descriptors), small.stylise(content, other)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert (before[1] - after[1]).abs().max() > 0.1
    searched = descriptors.clone().requires_grad_()
    small.stylise(content, searched)[1].square().sum().backward()
    assert searched.grad is not None
    assert [float(g.abs().max()) > 0 for g in searched.grad] == [False, True, False]


def test_images_are_stylised_each_alone(small: AdaConv) -> None:
    content, style = features(3), features(3, 4, 5, seed=1)
    together = small(content, style)
    for i in range(3):
        assert_alike(together[i : i + 1], small(content[i : i + 1], style[i : i + 1]))


def test_one_style_serves_all_images(small: AdaConv) -> None:
    content, descriptor = features(3), normal(1, 128, 3, 3)
    expected = small.stylise(content, descriptor.expand(3, -1, -1, -1))
    assert_alike(small.stylise(content, descriptor), expected)


@pytest.mark.parametrize("size", [(9, 9), (9, 13), (24, 17)])
def test_an_image_comes_back_in_its_own_size(small: AdaConv, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    vgg = Vgg().requires_grad_(False)
    content, style = torch.rand(2, 1, *size), torch.rand(2, 1, 21, 33)
    images = small(vgg(content).relu4_1, vgg(style).relu4_1, size)
    assert images.shape == content.shape
    assert torch.isfinite(images).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [{}, {"layout": "late"}, {"out_channels": 3, "kernel_size": 5, "style_channels": 16}]
)
def test_every_weight_learns(arguments: dict[str, Any]) -> None:
    network = built(**arguments)
    network(features(2, 3, 4), features(2, 4, 4, seed=1)).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not silent


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(("c", "i"), LEVELS)
def test_predicted_kernels_begin_at_the_scale_of_their_content(c: int, i: int, kernel_size: int) -> None:
    """Of white descriptors: the squares that make one output sum to 1, and to 1 / k² behind a mean of k² places."""
    torch.manual_seed(0)
    begun: Kernels = KernelPredictor(c, i, kernel_size=kernel_size)(normal(8, 128, kernel_size, kernel_size))
    k = kernel_size
    assert begun.spatial.square().sum(dim=(2, 3, 4)).mean().item() == pytest.approx(1, rel=0.2)
    assert begun.pointwise.square().sum(dim=2).mean().item() == pytest.approx(1 / k**2, rel=0.2)
    assert begun.bias.square().mean().item() == pytest.approx(1 / k**2, rel=0.3)


@pytest.fixture(scope="module")
def seen() -> Tensor:
    """relu4_1 of smooth images of 64 pixels, by an encoder that is levelled on them."""
    torch.manual_seed(0)
    vgg = Vgg().requires_grad_(False)
    images = F.interpolate(torch.rand(2, 1, 6, 6), (64, 64), mode="bicubic", align_corners=False).clamp(0, 1)
    normalise_activations(vgg, images)
    return vgg(images).relu4_1


def test_training_begins_with_images_of_the_scale_of_images(seen: Tensor) -> None:
    torch.manual_seed(0)
    begun = AdaConv().requires_grad_(False)(seen, seen.flip(0))
    assert 0.1 < begun.std().item() < 10


def test_autocast_gives_nearly_the_same_images(seen: Tensor) -> None:
    torch.manual_seed(0)
    network = AdaConv().requires_grad_(False)
    expected = network(seen, seen.flip(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = network(seen, seen.flip(0))
    assert found.dtype == torch.bfloat16
    assert_alike(found.float(), expected, share=0.15)


@pytest.mark.slow
def test_a_few_steps_of_the_predictors_tell_two_styles_apart() -> None:
    """One content is to look dim in one style, and bright and turned over in the other."""
    torch.manual_seed(0)
    network = AdaConv(style_channels=16)
    content, descriptors = features(1, 2, 2).expand(2, -1, -1, -1), normal(2, 16, 3, 3)
    pattern = F.interpolate(torch.rand(1, 1, 4, 4), (16, 16))
    wanted = torch.cat([0.2 * pattern, 1 - 0.5 * pattern])
    optimizer = torch.optim.Adam(network.decoder.predictors.parameters(), lr=1e-3)
    for _ in range(9):
        optimizer.zero_grad()
        (network.stylise(content, descriptors) - wanted).square().mean().backward()
        optimizer.step()
    found = network.stylise(content, descriptors)
    right, swapped = ((found - w).square().mean().item() for w in (wanted, wanted.flip(0)))
    assert right < 0.5 * swapped


def test_channels_last_gives_the_same_images() -> None:
    network = built().requires_grad_(False)
    content, style = features(), features(2, 4, 4, seed=1)
    expected = network(content, style)
    network.to(memory_format=torch.channels_last)
    found = network(
        content.to(memory_format=torch.channels_last), style.to(memory_format=torch.channels_last)
    )
    assert_alike(found, expected)


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no values: whatever looks at one, or mixes the CPU in, fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    seen = torch.empty(2, 512, 3, 5, device="meta")
    with torch.device("meta"):
        network, autoencoder = AdaConv(), DescriptorAutoencoder()
        code = autoencoder.encode(network.describe(seen))
    images = network.stylise(seen, autoencoder.decode(code.at(code.spread)), (20, 40))
    images.mean().backward()
    assert images.shape == (2, 1, 20, 40)


def test_arguments_and_weights_make_the_network_anew() -> None:
    network = built(out_channels=3, style_channels=16, kernel_size=5, layout="late").requires_grad_(False)
    again = AdaConv(**network.arguments).requires_grad_(False)
    again.load_state_dict(load(save(network.state_dict())))
    content, style = features(2, 3, 3), features(2, 4, 4, seed=1)
    assert torch.equal(again(content, style), network(content, style))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"style_channels": 0}, "style_channels must lie between 1 and 512, which relu4_1 has, got 0"),
        ({"style_channels": 513}, "between 1 and 512, which relu4_1 has, got 513"),
        ({"kernel_size": 4}, "kernel_size must be odd, for a kernel's centre, and 3 or more, got 4"),
        ({"kernel_size": 1}, "3 or more, got 1"),
        ({"out_channels": 0}, "needs at least 1 output channel, got 0"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        AdaConv(**arguments)


def test_what_cannot_be_stylised_is_refused(small: AdaConv) -> None:
    with pytest.raises(SettingsError, match="3 images take 3 descriptors, or 1 for all of them, got 2"):
        small.stylise(features(3), normal(2, 128, 3, 3))
    with pytest.raises(
        SettingsError, match=r"descriptors of shape \(128, 3, 3\), got \(128, 5, 5\); describe the style with"
    ):
        small.stylise(features(), normal(2, 128, 5, 5))
    with pytest.raises(SettingsError, match=r"5 x 5 need features with sides of at least 3, got 4 x 2; give"):
        adaconv(normal(1, 8, 4, 2), kernels(1, 8, 1, 5))
    with pytest.raises(
        SettingsError, match="style features need sides of at least 2, got 1 x 7; give larger"
    ):
        small.describe(features(1, 1, 7))
    with pytest.raises(SettingsError, match="an image of 40 x 16 pixels has features of 5 x 2, got 3 x 2"):
        small.stylise(features(), normal(2, 128, 3, 3), (40, 16))


# --- the autoencoder of descriptors --------------------------------------------------------------------


def autoencoder(**arguments: Any) -> DescriptorAutoencoder:
    torch.manual_seed(0)
    return DescriptorAutoencoder(**arguments)


def test_the_autoencoder_has_the_parameters_on_paper() -> None:
    """RAIN's layers of 1024 and code of 512; the ends are as wide as the descriptor."""
    for arguments, length, encodes, decodes in (
        ({}, 1152, 3_279_872, 2_755_712),
        ({"style_channels": 512}, 4608, 6_818_816, 6_298_112),
        ({"kernel_size": 5}, 3200, 5_377_024, 4_854_912),
    ):
        with torch.device("meta"):
            network = DescriptorAutoencoder(**arguments)
        assert parameters(network.style_encoder) == (length + 1) * 1024 + 2 * 1025 * 1024 == encodes
        assert parameters(network.style_decoder) == 513 * 1024 + 1025 * 1024 + 1025 * length == decodes


def test_a_code_is_the_distribution_that_the_encoder_says() -> None:
    network, descriptors = autoencoder(), normal(3, 128, 3, 3)
    code = network.encode(descriptors)
    said = network.style_encoder(descriptors.flatten(1))
    assert torch.equal(code.centre, said[:, :512])
    assert code.log_variance is not None
    torch.testing.assert_close(code.spread.square().log(), said[:, 512:], rtol=1e-4, atol=1e-5)
    assert code.spread.min() > 0
    torch.testing.assert_close(code.log_variance, said[:, 512:])


def test_the_autoencoder_reads_a_descriptor_and_does_not_move_it() -> None:
    network, descriptors = autoencoder(), normal(2, 128, 3, 3).requires_grad_()
    code = network.encode(descriptors)
    network.decode(code.at(normal(2, 512))).square().mean().backward()
    assert descriptors.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_standardised_descriptors_have_mean_zero_and_deviation_one() -> None:
    network, descriptors = autoencoder(), 0.03 * normal(9, 128, 3, 3) + normal(128, 3, 3, seed=1)
    network.standardise(descriptors)
    vectors = network.vector(descriptors)
    torch.testing.assert_close(vectors.mean(dim=0), torch.zeros(1152), rtol=0, atol=1e-4)
    assert vectors.var(dim=0).mean().item() == pytest.approx(1, rel=1e-4)
    assert vectors.var(dim=0).std() > 0.1  # each keeps its own share


def test_the_scale_of_descriptors_does_not_count_once_standardised() -> None:
    """A thousandth of the descriptors about another mean: the same codes, and what they decode to follows."""
    one, other, descriptors = autoencoder(), autoencoder(), normal(5, 128, 3, 3)
    one.standardise(descriptors)
    other.standardise(1e-3 * descriptors + 2)
    code, same = one.encode(descriptors), other.encode(1e-3 * descriptors + 2)
    torch.testing.assert_close(same.centre, code.centre, rtol=1e-2, atol=1e-2)
    epsilon = normal(2, 512)
    torch.testing.assert_close(other.decode(epsilon), 1e-3 * one.decode(epsilon) + 2, rtol=1e-5, atol=1e-5)
    again = autoencoder()
    again.load_state_dict(load(save(other.state_dict())))
    assert torch.equal(again.decode(epsilon), other.decode(epsilon))


@pytest.mark.slow
def test_a_few_steps_on_small_descriptors_reconstruct_them() -> None:
    """Better than the mean of the four, which is (4 - 1) / 4 of their variance away."""
    network, descriptors = autoencoder(style_channels=4), 0.01 * normal(4, 4, 3, 3)
    network.standardise(descriptors)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for step in range(25):
        code = network.encode(descriptors)
        assert code.log_variance is not None
        decoded = network.vector(network.decode(code.at(normal(4, 512, seed=step))))
        rebuilt = reconstruction_loss(decoded, network.vector(descriptors))
        optimizer.zero_grad()
        (kl_divergence(code.centre, code.log_variance) + 5 * rebuilt).backward()
        optimizer.step()
        losses.append(rebuilt.item())
    assert losses[-1] < 0.5 < 0.75 < losses[0]


def test_one_descriptor_or_equal_ones_have_no_scale() -> None:
    one = normal(1, 128, 3, 3)
    for descriptors in (one, one.expand(3, -1, -1, -1), one + 1e-6 * normal(3, 128, 3, 3, seed=1)):
        with pytest.raises(
            SettingsError, match=rf"got {len(descriptors)} descriptors .* deviation of .*; give more"
        ):
            autoencoder().standardise(descriptors)


def test_autocast_keeps_a_code_and_its_descriptor_exact() -> None:
    network, descriptors = autoencoder(), normal(3, 128, 3, 3)
    code = network.encode(descriptors)
    epsilon = code.at(normal(3, 512))
    with torch.autocast("cpu", torch.bfloat16):
        same = network.encode(descriptors)
        decoded = network.decode(epsilon)
    assert torch.equal(same.centre, code.centre)
    assert torch.equal(same.spread, code.spread)
    assert torch.equal(decoded, network.decode(epsilon))


def test_a_style_can_be_searched_along_its_code() -> None:
    """The image changes along ε as its gradient says."""
    stylizer = built(style_channels=16).double().requires_grad_(False)
    network = autoencoder(style_channels=16).double().requires_grad_(False)
    content, epsilon = features(1).double(), normal(1, 512).double().requires_grad_()
    brightness = stylizer.stylise(content, network.decode(epsilon)).mean()
    (slope,) = torch.autograd.grad(brightness, epsilon)
    step = 1e-6 * slope / slope.norm()
    risen = stylizer.stylise(content, network.decode(epsilon + step)).mean() - brightness
    assert risen.item() == pytest.approx(1e-6 * slope.norm().item(), rel=1e-2)


def test_the_decoder_alone_says_what_it_cannot_be() -> None:
    with pytest.raises(SettingsError, match="kernel_size must be odd"):
        AdaConvDecoder(kernel_size=2)
