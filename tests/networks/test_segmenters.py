"""One contract for every network of `SEGMENTERS`: what an entry declares is what its network does."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.networks import SEGMENTERS, build, lay_out

NAMES = sorted(SEGMENTERS)
CLASSES = 4
NARROW = {"width": 8, "dropout": 0.0}
NARROWEST = {"dynunet": 16}  # of those that refuse a width of 8


def smallest(name: str) -> tuple[int, int]:
    """The smallest legal size with unequal sides, but 32 pixels at least, in which a heart can be seen."""
    entry = SEGMENTERS[name]
    side = max(32, entry.minimum_side)
    return side, side + entry.divisor


def small(name: str, in_channels: int = 1, **arguments: object) -> nn.Module:
    """The network as narrow as it can be, and without dropout."""
    offered = inspect.signature(SEGMENTERS[name].build).parameters
    narrow = {**NARROW, "width": NARROWEST.get(name, NARROW["width"])}
    reduced = {key: value for key, value in narrow.items() if key in offered}
    torch.manual_seed(0)
    return build(name, in_channels, CLASSES, smallest(name), {**reduced, **arguments})


def noise(name: str, n: int = 2) -> Tensor:
    return torch.randn(n, 1, *smallest(name), generator=torch.Generator().manual_seed(1))


def hearts(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two noisy slices of a bright LV in a dark ring beside an RV crescent, and their labels."""
    row, column = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    labels = torch.zeros(2, *size, dtype=torch.uint8)
    for slice_labels, shift in zip(labels, (-0.15, 0.1), strict=True):
        radius = ((row - shift) ** 2 + (column - 0.2) ** 2).sqrt()
        slice_labels[((row - shift) ** 2 + (column + 0.2) ** 2).sqrt() < 0.6] = 3
        slice_labels[radius < 0.5] = 2
        slice_labels[radius < 0.3] = 1
    brightness = torch.tensor([0.3, 1.0, 0.1, 0.9])[labels.long()]
    image = brightness + 0.05 * torch.randn(labels.shape, generator=torch.Generator().manual_seed(2))
    return ((image - image.mean()) / image.std())[:, None], labels


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    return segmentation_loss(
        logits,
        labels,
        torch.ones(labels.shape[0], CLASSES, dtype=torch.bool),
        cross_entropy_weight=0.5,
        dice_weight=0.5,
        include_background=False,
        smooth=1e-5,
    )


def train(network: nn.Module, image: Tensor, labels: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(network(image), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_has_exactly_the_published_number_of_parameters(name: str) -> None:
    published = SEGMENTERS[name].parameters
    network = build(name, published.in_channels, published.classes, published.size, published.arguments)
    assert sum(p.numel() for p in network.parameters()) == published.count


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_gives_one_logit_a_class_and_pixel_in_training_and_in_evaluation(name: str, in_channels: int) -> None:
    network = small(name, in_channels)
    image = torch.randn(2, in_channels, *smallest(name))
    for mode in (True, False):
        logits = network.train(mode)(image)
        assert logits.shape == (2, CLASSES, *smallest(name))
        assert (logits < 0).any(), "logits, not probabilities"
        assert (logits.softmax(dim=1).std(dim=(2, 3)) > 0).all(), "every class depends on the image"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_takes_a_single_slice_of_its_minimum_side(name: str) -> None:
    entry = SEGMENTERS[name]
    side = entry.minimum_side
    network = build(name, 1, CLASSES, (side, side))
    for mode in (True, False):
        assert network.train(mode)(torch.randn(1, 1, side, side)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_refuses_other_sizes_and_says_which_fit(name: str, training: bool) -> None:
    entry = SEGMENTERS[name]
    side, longer = smallest(name)
    network = small(name).train(training)
    said = (
        rf"'{name}'.*multiple of {entry.divisor} .*at least {entry.minimum_side} .*got {side} x {longer - 1}"
    )
    with pytest.raises(SettingsError, match=rf"{said}.* to {side} x {longer}$"):
        network(torch.zeros(1, 1, side, longer - 1))
    with pytest.raises(SettingsError, match=rf"got {side // 2 + 1} x {side}"):
        network(torch.zeros(1, 1, side // 2 + 1, side))
    with pytest.raises(SettingsError, match=said):
        build(name, 1, CLASSES, (side, longer - 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_trains_on_one_size_only_where_declared(name: str) -> None:
    side, longer = smallest(name)
    network = small(name)
    other = torch.zeros(2, 1, longer, longer)
    assert network.eval()(other).shape[-2:] == (longer, longer)
    if not SEGMENTERS[name].fixed_training_size:
        assert network.train()(other).shape[-2:] == (longer, longer)
        build(name, 1, CLASSES)
        return
    with pytest.raises(
        SettingsError, match=rf"built for training on {side} x {longer} .*got {longer} x {longer}"
    ):
        network.train()(other)
    with pytest.raises(SettingsError, match=rf"'{name}': is built for one training size; give size"):
        build(name, 1, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_unused_parameters_and_batch_normalisation_are_declared(name: str) -> None:
    network = small(name).train()
    network(noise(name)).square().mean().backward()
    unused = any(p.grad is None for p in network.parameters())
    batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    assert unused == SEGMENTERS[name].unused_parameters
    assert batch_norm == SEGMENTERS[name].batch_norm


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learns_one_batch_by_heart(name: str) -> None:
    """Within 150 steps every structure is found again, by the network in evaluation."""
    image, labels = hearts(smallest(name))
    network = small(name)
    assert min(dice_by_structure(network, image, labels)) < 0.5
    for _ in range(6):
        train(network, image, labels, steps=25)
        reached = dice_by_structure(network, image, labels)
        if min(reached) > 0.95:
            return
    pytest.fail(f"Dice of LV, MYO, RV after 150 steps: {reached}")


def dice_by_structure(network: nn.Module, image: Tensor, labels: Tensor) -> list[float]:
    with torch.no_grad():
        found = network.eval()(image).argmax(dim=1)
    masks = [(found == structure, labels == structure) for structure in (1, 2, 3)]
    return [float(2 * (p & r).sum() / (p.sum() + r.sum())) for p, r in masks]


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_laid_out_in_channels_last_but_for_those_that_it_slows_down(name: str) -> None:
    weights = [p for p in lay_out(small(name), name).parameters() if p.ndim == 4 and min(p.shape) > 1]
    moved = {w.is_contiguous(memory_format=torch.channels_last) for w in weights}
    assert moved == {SEGMENTERS[name].channels_last}
    if name == "dilated_resunet":
        normed = lay_out(small(name, norm="instance"), name)
        assert all(weight.is_contiguous() for weight in normed.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_channels_last_is_the_same_network_where_declared(name: str) -> None:
    if not SEGMENTERS[name].channels_last:
        pytest.skip(f"{name} declares that it cannot")
    plain, moved = outcome(name), outcome(name, memory_format=torch.channels_last)
    torch.testing.assert_close(moved[0], plain[0], rtol=1e-3, atol=1e-4)
    assert similarity(moved[1], plain[1]) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_nearly_the_same_network_where_declared(name: str) -> None:
    if not SEGMENTERS[name].bf16:
        pytest.skip(f"{name} declares that it cannot")
    memory_format = torch.channels_last if SEGMENTERS[name].channels_last else torch.contiguous_format
    full, half = outcome(name), outcome(name, memory_format=memory_format, bf16=True)
    error = (half[0] - full[0]).norm() / full[0].norm()
    assert error < 0.05, f"{error:.3f}; bfloat16 has 8 bits, 0.4 % a rounding"
    assert similarity(half[1], full[1]) > 0.9


def outcome(
    name: str, memory_format: torch.memory_format = torch.contiguous_format, bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits and gradients of one training step."""
    image, labels = hearts(smallest(name))
    network = small(name).train().to(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(image.to(memory_format=memory_format))
        loss = loss_of(logits, labels)
    loss.backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return logits.detach().float(), torch.cat(gradients)


def similarity(one: Tensor, other: Tensor) -> float:
    """Cosine of the angle between two gradients."""
    return torch.cosine_similarity(one, other, dim=0).item()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_comes_back_from_disk_as_it_was(name: str, tmp_path: Path) -> None:
    image, labels = hearts(smallest(name))
    network = small(name)
    train(network, image, labels, steps=1)
    if SEGMENTERS[name].channels_last:
        network.to(memory_format=torch.channels_last)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "weights.safetensors")
    again = small(name)
    with torch.no_grad():
        before, fresh = network.eval()(image), again.eval()(image)
        again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        after = again(image)
    assert not torch.equal(fresh, before)
    torch.testing.assert_close(
        after, before, rtol=1e-4, atol=1e-4
    )  # the memory format may change a sum's order
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_neither_reads_nor_leaves_a_state(name: str) -> None:
    network = small(name).eval()
    image = noise(name)
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        torch.manual_seed(3)
        first = network(image)
        network(5 * image.flip(0) + 1)
        torch.manual_seed(4)
        random_state = torch.get_rng_state()
        second = network(image)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_slice_is_segmented_as_if_alone(name: str) -> None:
    network = small(name).eval()
    image = noise(name, n=3)
    with torch.no_grad():
        together = network(image)
        for i in range(3):
            torch.testing.assert_close(network(image[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_what_it_does_not_know(name: str) -> None:
    size = smallest(name)
    with pytest.raises(SettingsError, match=rf"'{name}': has no argument 'widht'; did you mean 'width'"):
        build(name, 1, CLASSES, size, {"widht": 8})
    with pytest.raises(SettingsError, match=r"width must be like \d+, got '8'"):
        build(name, 1, CLASSES, size, {"width": "8"})
    with pytest.raises(SettingsError, match=r"width must be like \d+, got True"):
        build(name, 1, CLASSES, size, {"width": True})
    with pytest.raises(SettingsError, match="width must be at least 1, got 0"):
        build(name, 1, CLASSES, size, {"width": 0})
    with pytest.raises(SettingsError, match=r"at least 1 input channel and 2 classes.*got 1 and 1"):
        build(name, 1, 1, size)


def test_an_unknown_network_is_refused_with_its_neighbours() -> None:
    with pytest.raises(SettingsError, match=r"network 'drunet' does not exist; did you mean .*'dru_net'"):
        build("drunet", 1, CLASSES)
    with pytest.raises(SettingsError, match="known are dilated_resunet, dr_unet"):
        build("transformer9000", 1, CLASSES)


@pytest.mark.slow
def test_the_table_answers_without_importing_monai() -> None:
    """`import monai` takes three seconds, which no command should pay for a table of names."""
    command = "import sys, crossbeat.networks; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
