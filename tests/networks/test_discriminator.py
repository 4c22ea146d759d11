"""The discriminators: parameters to the unit, what they compute from the description, and what they refuse."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.discriminator import Discriminator


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def pair(side: int = 32, n: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 1, side, side, generator=generator)
    return image, torch.randn(n, 4, side, side, generator=generator).softmax(dim=1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"head": "flatten", "side": 224}, 296_577),  # 271,040 + 448 + 25,089, as released
        ({"head": "pool"}, 271_617),  # 271,040 + 448 + 129
        ({"head": "pool", "norm": "none"}, 271_169),
        ({"head": "pool", "norm": "instance"}, 271_617),
        # 9·5·16+16 + 9·16·16+16 + 5·16+16 = 3,152, then 14,432, 57,536 and 229,760; 896 of norms; the head
        ({"body": "residual", "head": "pool"}, 304_880 + 896 + 129),
        ({"body": "residual", "head": "flatten", "side": 224}, 304_880 + 896 + 25_089),
    ],
)
def test_it_has_the_parameters_on_paper(arguments: dict[str, Any], expected: int) -> None:
    assert count(Discriminator(5, **arguments)) == expected
    assert count(Discriminator(5, **arguments, spectral=True)) == expected


def test_the_released_network_has_448_running_statistics() -> None:
    buffers = dict(Discriminator(5, head="flatten", side=224).named_buffers())
    assert sum(b.numel() for name, b in buffers.items() if "running" in name) == 448


@pytest.mark.parametrize("head", ["flatten", "pool"])
def test_the_plain_one_is_what_the_code_says(head: str) -> None:
    torch.manual_seed(1)
    network = Discriminator(5, head=head, side=48).eval()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    image, mask = pair(48)
    x = torch.cat([mask, image], dim=1)
    for number, layer in enumerate(convolutions):
        x = F.max_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=2), 2)
        if number:
            norm = next(norms)
            x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        x = torch.where(x > 0, x, 0.3 * x)
    assert x.shape == (2, 128, 3, 3)
    features = x.flatten(1) if head == "flatten" else x.mean(dim=(2, 3))
    expected = features @ network.head.weight[0] + network.head.bias
    torch.testing.assert_close(network(image, mask), expected)


def test_the_residual_one_adds_its_input_before_it_pools() -> None:
    network = Discriminator(5, body="residual", norm="none")
    image, mask = pair()
    stage = network.stages[0]
    with torch.no_grad():
        for layer in (stage.pair[0], stage.pair[2]):
            layer.weight.zero_()
            layer.bias.zero_()
    x = torch.cat([mask, image], dim=1)
    through = F.conv2d(x, stage.shortcut.weight, stage.shortcut.bias)
    torch.testing.assert_close(stage(x), F.max_pool2d(F.leaky_relu(through, 0.3), 2))


def test_pooling_takes_any_size_and_sees_a_shifted_pair_alike() -> None:
    network = Discriminator(5, norm="none")
    assert network(*pair(64)).shape == network(*pair(32)).shape == (2,)
    image, mask = torch.zeros(1, 1, 208, 208), torch.zeros(1, 4, 208, 208)
    image[..., 96:112, 96:112] = 1.0  # the last stage sees 76 px: the edges are far enough either way
    moved = image.roll((16, 16), dims=(2, 3))  # one place of the last stage
    torch.testing.assert_close(network(image, mask), network(moved, mask), rtol=1e-4, atol=1e-6)


def test_spectral_normalisation_bounds_every_layer() -> None:
    torch.manual_seed(0)
    network = Discriminator(5, spectral=True, norm="none")
    with torch.no_grad():
        for module in network.modules():
            if hasattr(module, "parametrizations"):
                module.parametrizations.weight.original.mul_(50.0)
    for _ in range(30):  # the power iteration goes on in training
        network(*pair(32))
    network.eval()
    layers = [m for m in network.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == 5
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=0.05)


def test_the_kernel_penalty_is_the_sum_of_squares_of_convolutions() -> None:
    network = Discriminator(5)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(0.1)
    kernels = 5 * 16 * 25 + 16 * 32 * 25 + 32 * 64 * 25 + 64 * 128 * 25
    assert network.kernel_penalty().item() == pytest.approx(0.01 * kernels, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"head": "flatten"}, r"head 'flatten' is built for one image size; give side"),
        ({"head": "flatten", "side": 100}, r"multiple of 16 .* got 100 x 100"),
        ({"side": 16}, r"at least 32 pixels, got 16 x 16"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Discriminator(5, **arguments)


def test_the_flat_head_refuses_another_size() -> None:
    with pytest.raises(SettingsError, match=r"built for 64 x 64 pixels, got 32 x 32; crop to that, or"):
        Discriminator(5, head="flatten", side=64)(*pair(32))
