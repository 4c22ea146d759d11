"""CycleGAN's networks: parameters to the unit, what a patch sees, and each image alone."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.cyclegan import Generator, PatchDiscriminator


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def images(n: int = 2, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_both_have_the_published_parameters() -> None:
    assert count(Generator()) == 11_365_633
    assert count(PatchDiscriminator()) == count(PatchDiscriminator(pooled=True)) == 2_762_689
    assert not list(Generator().buffers()), "instance normalisation keeps no statistics"


def test_the_generator_is_what_the_paper_says() -> None:
    """c7s1-k, d2k, d4k, R4k …, u2k, uk, c7s1-1 (Zhu 2017, appendix 7.2), from its own weights."""
    network = Generator(width=2, blocks=2)
    for p in network.parameters():
        nn.init.normal_(p, 0.0, 0.5)
    convs = iter([m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)])

    def conv(x: Tensor, border: int = 0, **how: int) -> Tensor:
        layer = next(convs)
        x = F.pad(x, [border] * 4, mode="reflect") if border else x
        apply = F.conv_transpose2d if isinstance(layer, nn.ConvTranspose2d) else F.conv2d
        return apply(x, layer.weight, layer.bias, **how)

    def norm(x: Tensor) -> Tensor:
        mean, variance = x.mean(dim=(2, 3), keepdim=True), x.var(dim=(2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()

    x = image = images(side=24)
    x = norm(conv(x, border=3)).relu()
    for _ in range(2):
        x = norm(conv(x, stride=2, padding=1)).relu()
    assert x.shape == (2, 8, 6, 6)
    for _ in range(2):
        x = x + norm(conv(norm(conv(x, border=1)).relu(), border=1))
    for _ in range(2):
        x = norm(conv(x, stride=2, padding=1, output_padding=1)).relu()
    torch.testing.assert_close(network(image), conv(x, border=3).tanh(), rtol=1e-4, atol=1e-5)


def test_painted_images_are_on_the_scale_of_real_ones() -> None:
    network = Generator(width=4, blocks=1)
    with torch.no_grad():
        network.layers[-2].bias.fill_(9.0)
        assert network(images() * 50).abs().max() <= 1


@pytest.mark.parametrize("make", [lambda: Generator(width=4, blocks=2), lambda: PatchDiscriminator(width=4)])
def test_every_image_is_treated_alone(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = make()
    batch = images(3)
    alone = torch.cat([network(image[None]) for image in batch])
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(batch), alone, rtol=1e-4, atol=1e-5)


def test_a_patch_is_70_pixels_wide() -> None:
    """Without normalisation, which lets every place see the whole image's mean and deviation."""
    network = PatchDiscriminator(width=2)
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(parent, name, nn.Identity())
    for p in network.parameters():
        nn.init.constant_(p, 0.1)
    image = images(1, 128).abs().requires_grad_()
    scores = network(image)
    assert scores.shape == (1, 14, 14)
    scores[0, 7, 7].backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad[0, 0])
    assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [70, 70]


def test_the_pooled_reading_is_the_mean_of_the_patches() -> None:
    torch.manual_seed(0)
    patches = PatchDiscriminator(width=4)
    pooled = PatchDiscriminator(width=4, pooled=True)
    pooled.load_state_dict(patches.state_dict())
    torch.testing.assert_close(pooled(images()), patches(images()).mean(dim=(1, 2)))


def test_weights_start_as_small_normal_numbers() -> None:
    torch.manual_seed(0)
    for network in (Generator(), PatchDiscriminator()):
        weights = torch.cat([p.flatten() for name, p in network.named_parameters() if "weight" in name])
        assert weights.mean().item() == pytest.approx(0, abs=1e-4)
        assert weights.std().item() == pytest.approx(0.02, rel=1e-3)


def test_deterministic_borders_are_the_same_and_need_no_refused_gradient(deterministic: None) -> None:
    torch.manual_seed(0)
    network = Generator(width=2, blocks=1)
    image = images().requires_grad_()

    def look() -> tuple[Tensor, Tensor, set[str]]:
        made = network(image)
        names, waiting = set(), [made.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None:
                names.add(node.name())
                waiting += [before for before, _ in node.next_functions]
        return made, torch.autograd.grad(made.square().sum(), image)[0], names

    made, gradient, steps = look()
    assert not any("ReflectionPad" in step for step in steps)
    torch.use_deterministic_algorithms(False)
    expected, expected_gradient, usual = look()
    assert any("ReflectionPad" in step for step in usual)
    assert torch.equal(made, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"generator.*multiple of 4 and at least 16 pixels, got 31 x 32; .*32 x 32"
    ):
        Generator(width=2, blocks=1)(torch.zeros(1, 1, 31, 32))
    with pytest.raises(SettingsError, match=r"discriminator.*at least 32 pixels, got 24 x 32"):
        PatchDiscriminator(width=2)(torch.zeros(1, 1, 24, 32))
    assert PatchDiscriminator(width=2)(torch.zeros(1, 1, 33, 47)).shape == (1, 2, 3)
