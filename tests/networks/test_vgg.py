"""VGG-19 and its mirror: parameters on paper, the layout by hand, levelled activations, and users' weight files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from crossbeat.errors import FileError, SettingsError
from crossbeat.networks.vgg import (
    BATCH,
    Decoder,
    Features,
    Vgg,
    decoder_levels,
    double,
    load_vgg,
    normalise_activations,
    read_levelled,
)

POOLED = (2, 4, 8)  # convolutions before which the image is halved, by hand
TAPPED = (0, 2, 4, 8)
CHANNELS = ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 3, (256, 512))
PLACES = {
    "torchvision": [f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 16, 19)],
    "adain": [str(n) for n in (2, 5, 9, 12, 16, 19, 22, 25, 29)],
}
Weights = dict[str, Tensor]


def grey(n: int = 2, y: int = 32, x: int = 48, seed: int = 0) -> Tensor:
    """Smooth images of different brightness with some noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    control = torch.rand(n, 1, 5, 6, generator=generator) * torch.rand(n, 1, 1, 1, generator=generator)
    smooth = F.interpolate(control, (y, x), mode="bilinear", align_corners=True)
    return (smooth + 0.05 * torch.randn(n, 1, y, x, generator=generator)).clamp(0, 1)


def random_vgg(in_channels: int = 1, seed: int = 0) -> Vgg:
    torch.manual_seed(seed)
    return Vgg(in_channels).requires_grad_(False)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def by_hand(x: Tensor, convolutions: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The four taps of the nine convolutions, from methods.md 3.2."""
    taps = []
    for i, (weight, bias) in enumerate(convolutions):
        if i in POOLED:
            x = F.max_pool2d(x, 2, stride=2, ceil_mode=True)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias).clamp_min(0)
        if i in TAPPED:
            taps.append(x)
    return taps


def assert_alike(found: Features, expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: Vgg(1), 3_504_576),
        (lambda: Vgg(3), 3_505_740),  # 2 · 576 for the colours of the first layer, and 12 for the 1x1
        (lambda: Decoder(3), 3_505_219),
        (lambda: Decoder(1), 3_504_065),  # 2 · 577 fewer
    ],
)
def test_it_has_the_parameters_that_were_counted(network: Callable[[], nn.Module], expected: int) -> None:
    assert parameters(network()) == expected


@pytest.mark.parametrize("size", [(32, 48), (45, 33), (9, 10)])
def test_the_encoders_layout_is_that_of_the_page(size: tuple[int, int]) -> None:
    vgg, images = random_vgg(), grey(2, *size)
    pairs = [(c.weight, c.bias) for c in vgg.convolutions() if c.bias is not None]
    assert [tuple(weight.shape[1::-1]) for weight, _ in pairs] == [(1, 64), *CHANNELS[1:]]
    found = vgg(images)
    assert_alike(found, by_hand(images, pairs))
    y, x = size
    for level, features in enumerate(found):
        assert features.shape == (2, 64 * 2**level, -(-y // 2**level), -(-x // 2**level))


def test_the_published_form_begins_with_a_colour_convolution() -> None:
    vgg = random_vgg(3)
    images = torch.rand(1, 3, 16, 16)
    assert isinstance(vgg.colour, nn.Conv2d)
    pairs = [(c.weight, c.bias) for c in vgg.convolutions() if c.bias is not None]
    assert_alike(vgg(images), by_hand(images, pairs))  # it begins as the identity
    vgg.colour.weight.copy_(torch.tensor([[0, 0, 2.0], [0, 3, 0], [1, 0, 0]])[:, :, None, None])
    assert_alike(vgg(images), by_hand(images[:, [2, 1, 0]] * torch.tensor([2.0, 3, 1])[:, None, None], pairs))


def test_a_grey_image_is_three_alike_colours() -> None:
    vgg, images = random_vgg(3), grey(1, 16, 16)
    assert_alike(vgg(images), list(vgg(images.repeat(1, 3, 1, 1))))


@pytest.mark.parametrize(("channels", "built"), [(2, 3), (3, 1), (2, 1)])
def test_another_number_of_channels_is_refused(channels: int, built: int) -> None:
    with pytest.raises(SettingsError, match=rf"images of {built} channels, got {channels}"):
        random_vgg(built)(torch.zeros(1, channels, 16, 16))


def test_a_network_of_other_channels_is_not_built() -> None:
    with pytest.raises(SettingsError, match=r"1 \(grey\) or 3 \(colour\) input channels, got 2"):
        Vgg(2)
    with pytest.raises(SettingsError, match="at least 1 output channel, got 0"):
        Decoder(0)


@pytest.mark.parametrize("size", [(8, 40), (40, 1)])
def test_an_image_that_leaves_nothing_to_reflect_at_relu4_1_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=rf"at least 9 pixels.*got {size[0]} x {size[1]}; crop less"):
        random_vgg()(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 48)), (1, (21, 43))])
def test_the_decoder_mirrors_the_encoder(channels: int, size: tuple[int, int]) -> None:
    """Nine convolutions, 512 to 64; doubled after the first, the fifth and the seventh, the ends cropped."""
    torch.manual_seed(0)
    decoder = Decoder(channels).requires_grad_(False)
    convolutions = [m for m in decoder.modules() if isinstance(m, nn.Conv2d)]
    mirrored = [(b, a) for a, b in reversed(CHANNELS[1:])] + [(64, channels)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == mirrored
    assert [pair for level in decoder_levels(channels) for pair in level] == mirrored
    sides = [tuple(-(-side // 2**level) for side in size) for level in (2, 1, 0)]
    features = torch.rand(2, 512, *(-(-side // 8) for side in size))
    x = features
    for i, convolution in enumerate(convolutions):
        if i in (1, 5, 7):
            y_side, x_side = sides.pop(0)
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[:, :, :y_side, :x_side]
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), convolution.weight, convolution.bias)
        x = x.clamp_min(0) if i < 8 else x
    found = decoder(features, size)
    assert found.shape == (2, channels, *size)
    assert found.min() < 0  # the last one is linear
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_a_pixel_stays_above_its_feature_where_sides_are_odd() -> None:
    """With convolutions that do nothing, pixel (y, x) is feature (y // 8, x // 8), as pooling had it."""
    decoder = Decoder(1).requires_grad_(False)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
    features = torch.rand(1, 512, 3, 6)
    image = decoder(features, (21, 43))
    y, x = torch.meshgrid(torch.arange(21) // 8, torch.arange(43) // 8, indexing="ij")
    torch.testing.assert_close(image[0, 0], features[0, 0][y, x])
    torch.testing.assert_close(decoder(features), decoder(features, (24, 48)))


def test_what_was_encoded_is_decoded_to_its_own_size() -> None:
    for size in ((9, 17), (37, 30), (40, 33)):
        assert Decoder(1)(random_vgg()(grey(1, *size)).relu4_1, size).shape == (1, 1, *size)


def test_a_size_that_was_not_encoded_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"of 64 x 48 pixels has features of 8 x 6, got 5 x 6; give the size"
    ):
        Decoder(1)(torch.zeros(1, 512, 5, 6), (64, 48))


def test_doubling_repeats_and_crops() -> None:
    x = torch.tensor([[[[1.0, 2.0]]]])
    assert double(x, (2, 3)).tolist() == [[[[1, 1, 2], [1, 1, 2]]]]


def test_layers_start_as_he_says() -> None:
    torch.manual_seed(0)
    for network in (Vgg(1), Decoder(1)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                assert module.bias.abs().max() == 0
                assert module.weight.var().item() == pytest.approx(2 / (9 * module.in_channels), rel=0.3)


def means(vgg: Vgg, images: Tensor) -> list[Tensor]:
    return [x.mean(dim=(0, 2, 3)) for x in vgg.activations(images)]


def test_normalising_makes_every_filter_one_on_the_mean_but_for_those_that_seldom_fire() -> None:
    vgg, images = random_vgg(), grey(BATCH + 3)
    before = means(vgg, images)
    silent = normalise_activations(vgg, images).silent
    for ours, theirs, count in zip(means(vgg, images), before, silent, strict=True):
        assert count == (theirs < 1e-3 * theirs.mean()).sum()
        fires = theirs >= theirs.mean() / 4
        torch.testing.assert_close(ours[fires], torch.ones_like(ours[fires]), rtol=1e-3, atol=1e-3)
        seldom = (
            4 * theirs[~fires] / theirs.mean()
        )  # in the proportion that they had to a quarter of their layer
        torch.testing.assert_close(ours[~fires], seldom, rtol=1e-3, atol=1e-3)
    # He-random weights without biases leave filters dark on images that are nowhere negative, more with depth
    assert max(silent[:4]) < 64
    for features, least in zip(vgg(images), (0.5, 0.5, 0.4, 0.3), strict=True):
        assert least < features.mean() <= 1 + 1e-3


def test_a_filter_that_hardly_fires_does_not_explode_on_another_image() -> None:
    """Levelled by its own mean, a filter at 1/900 of its layer's answers 900 times as loud where it does fire."""
    vgg, images = random_vgg(), grey(BATCH)
    first = vgg.convolutions()[0]
    assert first.bias is not None
    with torch.no_grad():
        loudest = int(means(vgg, images)[0].argmax())
        first.weight[loudest] /= 900 * means(vgg, images)[0][loudest] / means(vgg, images)[0].mean()
        normalise_activations(vgg, images)
        first.weight[loudest] *= (
            900  # as an image shows it on which the filter fires as loudly as its neighbours
        )
    assert float(means(vgg, images)[0][loudest]) < 5


def test_normalising_leaves_what_later_layers_see_but_for_each_channels_scale() -> None:
    vgg, images, others = random_vgg(3), grey(4), grey(2, 24, 40, seed=1)
    before, scales = list(vgg.activations(others)), means(vgg, images)
    told = normalise_activations(vgg, images)
    for ours, theirs, mean in zip(vgg.activations(others), before, scales, strict=True):
        scale = mean.clamp_min(mean.mean() / 4)
        torch.testing.assert_close(ours, theirs / scale[:, None, None], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(told.scale, scale, rtol=1e-3, atol=1e-3)


def test_a_decoder_draws_the_same_from_what_was_levelled() -> None:
    vgg, images = random_vgg(), grey(4)
    torch.manual_seed(1)
    decoder = Decoder()
    before = decoder(vgg(images).relu4_1)
    read_levelled(decoder, normalise_activations(vgg, images).scale)
    torch.testing.assert_close(decoder(vgg(images).relu4_1), before, rtol=1e-3, atol=1e-4)


def test_a_filter_that_never_fires_is_counted_and_breaks_nothing() -> None:
    vgg, images = random_vgg(), grey(2)
    reference = normalise_activations(random_vgg(), images).silent
    fired = int(means(vgg, images)[1].argmax())
    bias = vgg.convolutions()[1].bias
    assert bias is not None
    bias[fired] = -1e3
    counted = normalise_activations(vgg, images).silent
    assert counted[:2] == (reference[0], reference[1] + 1)
    assert all(torch.isfinite(p).all() for p in vgg.parameters())
    assert means(vgg, images)[1][fired] == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 1, 16, 16), "layer 1 of 9 answers the images with nothing"),
        (torch.full((1, 1, 16, 16), torch.nan), "layer 1 of 9 .* give images that are finite and not empty"),
        (torch.zeros(0, 1, 16, 16), "normalised over images, got none; give some"),
    ],
)
def test_images_that_tell_nothing_are_refused(images: Tensor, words: str) -> None:
    vgg = random_vgg()
    before = [p.clone() for p in vgg.parameters()]
    with pytest.raises(SettingsError, match=words):
        normalise_activations(vgg, images)
    assert all(torch.equal(a, b) for a, b in zip(vgg.parameters(), before, strict=True))


def user_weights(kind: str) -> Weights:
    """A state dict with the places of its kind and weights of no meaning, deeper layers and a head among them."""
    generator = torch.Generator().manual_seed(3)
    weights: Weights = {}
    for place, (entering, width) in zip(PLACES[kind], CHANNELS, strict=True):
        deviation = (2 / (9 * entering)) ** 0.5
        weights[f"{place}.weight"] = deviation * torch.randn(width, entering, 3, 3, generator=generator)
        weights[f"{place}.bias"] = 0.1 * torch.randn(width, generator=generator)
    if kind == "adain":
        weights["0.weight"] = torch.randn(3, 3, 1, 1, generator=generator)
        weights["0.bias"] = torch.randn(3, generator=generator)
        weights["32.weight"] = torch.zeros(1)
    else:
        weights |= {"features.21.weight": torch.zeros(1), "classifier.0.weight": torch.zeros(1)}
    return weights


def written(weights: object, path: Path) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(weights, dict)
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchvision", "adain"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_users_weights_give_what_their_own_network_gives(
    kind: str, suffix: str, in_channels: int, tmp_path: Path
) -> None:
    """Torchvision's on (x - mean) / std, AdaIN's after its own 1x1; the grey image is taken three times."""
    weights = user_weights(kind)
    vgg = load_vgg(written(weights, tmp_path / f"vgg{suffix}"), in_channels)
    assert parameters(vgg) == {1: 3_504_576, 3: 3_505_740}[in_channels]
    assert not vgg.training
    assert not any(p.requires_grad for p in vgg.parameters())
    images = grey(2, 21, 18)
    colours = images.repeat(1, 3, 1, 1)
    if kind == "torchvision":
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        x = (colours - mean) / std
    else:
        x = F.conv2d(colours, weights["0.weight"], weights["0.bias"])
    pairs = [(weights[f"{place}.weight"], weights[f"{place}.bias"]) for place in PLACES[kind]]
    assert_alike(vgg(images), by_hand(x, pairs))


def test_weights_of_half_precision_are_read_as_single(tmp_path: Path) -> None:
    weights = {name: value.half() for name, value in user_weights("adain").items()}
    vgg = load_vgg(written(weights, tmp_path / "vgg.pth"), 3)
    assert torch.equal(vgg.convolutions()[8].weight, weights["29.weight"].float())


def changed(kind: str, without: str = "", **others: Tensor) -> Weights:
    """Others are named with _ for the point."""
    weights = user_weights(kind) | {name.replace("_", "."): value for name, value in others.items()}
    return {name: value for name, value in weights.items() if name != without}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            lambda: changed("torchvision", "features.16.weight", features_17_weight=torch.zeros(1)),
            r"torchvision's VGG-19 but has no 'features.16.weight' \(VGG-16 and.*; give the whole",
        ),
        (
            lambda: changed("adain", without="0.bias"),
            r"AdaIN's normalised VGG but has no '0.bias'; give the whole",
        ),
        (
            lambda: user_weights("adain") | {"2.weight": torch.zeros(64, 1, 3, 3)},
            r"2.weight must have shape \(64, 3, 3, 3\) in a VGG-19, got \(64, 1, 3, 3\); is this another",
        ),
        (
            lambda: changed("torchvision", features_0_bias=torch.full((64,), torch.inf)),
            r"features.0.bias has values that are not finite; save the weights again",
        ),
        (
            lambda: {"encoder.weight": torch.zeros(1)},
            r"no VGG-19: its names begin 'encoder.weight'; give torchvision's",
        ),
        (dict, r"its names begin nowhere, it is empty; give"),
        (
            lambda: {"state_dict": {"a": torch.zeros(1)}},
            r"holds a dict that is no state dict; save network.state_dict\(\)",
        ),
        (lambda: [torch.zeros(1)], r"holds a list that is no state dict"),
        (lambda: nn.Linear(2, 2), r"holds more than tensors .*; save the state dict of a VGG-19"),
    ],
)
def test_a_file_of_another_content_is_refused(
    content: Callable[[], object], words: str, tmp_path: Path
) -> None:
    path = written(content(), tmp_path / "mine.pth")
    with pytest.raises(FileError, match=rf"mine.pth: .*{words}"):
        load_vgg(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_broken_or_missing_file_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"mine.*: there is no such file; give the weights of a VGG-19 as .pth"
    ):
        load_vgg(tmp_path / f"mine{suffix}")
    for content in (b"", b"not weights at all"):
        (tmp_path / f"mine{suffix}").write_bytes(content)
        with pytest.raises(FileError, match=r"mine.*: (is no safetensors file|is broken).*; save the state"):
            load_vgg(tmp_path / f"mine{suffix}")
