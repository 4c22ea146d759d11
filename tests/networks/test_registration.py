"""VoxelMorph: its parameters and layout on paper, its laws on any grid, and that it learns the phantom's motion."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.labels import Structure
from crossbeat.losses.registration import local_ncc_loss, overlap_loss, smoothness_loss
from crossbeat.networks.deformation import compose, integrate, jacobian_determinant, resize_field, warp
from crossbeat.networks.registration import Registration, VoxelMorph
from crossbeat.synthetic import Heart
from crossbeat.synthetic.anatomy import LABEL_OF_TISSUE
from crossbeat.synthetic.signal import bssfp_table

KINDS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"dimensions": 2}, (32, 48)),
    ({}, (5, 32, 48)),
    ({"pool_through_plane": True}, (16, 32, 48)),
    ({"through_plane": True}, (16, 32, 48)),
]


def lively(size: tuple[int, ...], **arguments: Any) -> VoxelMorph:
    """A network whose flow is scaled until its velocity reaches 1.5 voxels on the blobs of that size."""
    torch.manual_seed(0)
    network = VoxelMorph(**arguments)
    with torch.no_grad():
        network.flow.weight.mul_(1.5 / network(*blobs(size)).abs().max())
    return network


def blobs(size: tuple[int, ...], n: int = 2) -> tuple[Tensor, Tensor]:
    """Two smooth random images."""
    generator = torch.Generator().manual_seed(1)
    control = torch.rand(2, n, *(max(2, side // 8) for side in size), generator=generator)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    moving, fixed = F.interpolate(control, size, mode=mode, align_corners=True)[:, :, None]
    return moving, fixed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dimensions": 2}, 109_170),
        ({"through_plane": True}, 327_331),
        ({}, 326_898),  # 16 · 27 + 1 = 433 fewer
        ({"pool_through_plane": True}, 326_898),
    ],
)
def test_it_has_the_parameters_that_were_counted(arguments: dict[str, Any], expected: int) -> None:
    assert sum(p.numel() for p in VoxelMorph(**arguments).parameters()) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "size"), KINDS)
def test_the_layout_is_that_of_the_page(arguments: dict[str, Any], size: tuple[int, ...]) -> None:
    """methods.md 2.1, from the weights alone."""
    network = lively(size, **arguments)
    weights, halved = network.state_dict(), network.halving
    convolve, pool, average = (
        (F.conv2d, F.max_pool2d, F.avg_pool2d) if len(size) == 2 else (F.conv3d, F.max_pool3d, F.avg_pool3d)
    )

    def layer(x: Tensor, name: str) -> Tensor:
        x = convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        return torch.where(x > 0, x, 0.2 * x)

    moving, fixed = blobs(size)
    x, kept = torch.cat([moving, fixed], dim=1), []
    for i in range(4):
        kept.append(layer(x, f"down.{i}.0"))
        x = pool(kept[-1], halved)
    for i in range(4):
        x = layer(x, f"up.{i}.0")
        for axis, times in enumerate(halved, start=2):
            x = x.repeat_interleave(times, dim=axis)
        x = torch.cat([x, kept[3 - i]], dim=1)
    for i in range(3):
        x = layer(x, f"final.{i}.0")
    flow = convolve(x, weights["flow.weight"], weights["flow.bias"], padding=1)
    factors = torch.tensor(halved[-flow.shape[1] :]).view(-1, *(1 for _ in size))
    torch.testing.assert_close(network(moving, fixed), average(flow, halved) / factors, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "size"), KINDS)
def test_the_displacement_is_the_enlarged_integral_of_the_velocity(
    arguments: dict[str, Any], size: tuple[int, ...]
) -> None:
    network = lively(size, integration_steps=5, **arguments)
    moving, fixed = blobs(size)
    found = network.register(moving, fixed)
    velocity = network(moving, fixed)
    torch.testing.assert_close(found.velocity, velocity)
    torch.testing.assert_close(found.displacement, resize_field(integrate(velocity, 5), size))
    assert found.velocity.shape[2:] == tuple(s // h for s, h in zip(size, network.halving, strict=True))
    assert found.displacement.abs().amax() > 1
    torch.testing.assert_close(found.inverse(), resize_field(integrate(-velocity, 5), size))


@pytest.mark.parametrize(("arguments", "size"), KINDS)
def test_training_begins_with_hardly_any_motion(arguments: dict[str, Any], size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = VoxelMorph(**arguments)
    moving, fixed = blobs(size)
    displacement = network.register(moving, fixed).displacement
    assert 0 < displacement.abs().max() < 1e-3
    assert network.flow.weight.std().item() == pytest.approx(1e-5, rel=0.1)
    torch.testing.assert_close(warp(moving, displacement), moving, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("arguments", "size"), KINDS)
def test_the_inverse_undoes_it_and_nothing_folds(arguments: dict[str, Any], size: tuple[int, ...]) -> None:
    found = lively(size, **arguments).register(*blobs(size))
    inner = (..., *(slice(3, -3) if side > 5 else slice(None) for side in size))  # where none looks outside
    moved = found.displacement[inner].abs().mean()
    for round_trip in (
        compose(found.displacement, found.inverse()),
        compose(found.inverse(), found.displacement),
    ):
        assert round_trip[inner].abs().mean() < 0.1 * moved
    assert jacobian_determinant(found.displacement).min() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "size", "half", "padded"),
    [
        ({"dimensions": 2}, (37, 50), (19, 25), (48, 64)),
        ({"dimensions": 2}, (9, 3), (5, 2), (16, 16)),
        ({}, (3, 37, 50), (3, 19, 25), (3, 48, 64)),
        ({}, (1, 20, 31), (1, 10, 16), (1, 32, 32)),
        ({"pool_through_plane": True}, (7, 20, 31), (4, 10, 16), (16, 32, 32)),
        ({"through_plane": True}, (11, 20, 31), (6, 10, 16), (16, 32, 32)),
    ],
)
def test_any_grid_is_padded_by_its_last_voxels_and_cropped_back(
    arguments: dict[str, Any], size: tuple[int, ...], half: tuple[int, ...], padded: tuple[int, ...]
) -> None:
    network = lively(size, **arguments)
    images = blobs(size)
    found = network.register(*images)
    assert found.velocity.shape[2:] == half
    assert found.displacement.shape[2:] == found.inverse().shape[2:] == size

    def grown(image: Tensor) -> Tensor:
        for axis, side in enumerate(padded, start=2):
            last = image.narrow(axis, image.shape[axis] - 1, 1)
            image = torch.cat([image, *[last] * (side - image.shape[axis])], dim=axis)
        return image

    whole = network(*map(grown, images))
    torch.testing.assert_close(found.velocity, whole[(..., *map(slice, half))])


def test_pairs_are_registered_each_alone() -> None:
    network = lively((3, 20, 31))
    moving, fixed = blobs((3, 20, 31), n=3)
    together = network.register(moving, fixed).displacement
    for i in range(3):
        alone = network.register(moving[i : i + 1], fixed[i : i + 1]).displacement
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "size"), KINDS)
def test_every_weight_learns(arguments: dict[str, Any], size: tuple[int, ...]) -> None:
    network = lively(size, **arguments)
    moving, fixed = blobs(size)
    found = network.register(moving, fixed)
    (warp(moving, found.displacement) - fixed).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_autocast_keeps_the_field_in_single_precision() -> None:
    size = (3, 32, 48)
    network = lively(size)
    moving, fixed = blobs(size)
    expected = network.register(moving, fixed)
    flows: list[torch.dtype] = []
    network.flow.register_forward_hook(lambda module, entering, flow: flows.append(flow.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = network.register(moving, fixed)
        inverse = found.inverse()
    assert flows == [torch.float32]
    assert found.velocity.dtype == found.displacement.dtype == inverse.dtype == torch.float32
    moved = expected.displacement.abs().mean()
    assert (found.displacement - expected.displacement).abs().mean() < 0.05 * moved
    exact = resize_field(integrate(found.velocity), size)
    torch.testing.assert_close(found.displacement, exact, rtol=0, atol=0)


def test_channels_last_gives_the_same_field() -> None:
    network = lively((37, 50), dimensions=2)
    moving, fixed = blobs((37, 50))
    expected = network(moving, fixed)
    network.to(memory_format=torch.channels_last)
    found = network(moving.to(memory_format=torch.channels_last), fixed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no values: whatever looks at one, or mixes the CPU in, fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    moving = torch.empty(2, 1, 5, 37, 50, device="meta")
    found = VoxelMorph().to("meta").register(moving, moving)
    labels = torch.empty(2, 4, 5, 37, 50, device="meta")
    drawn = torch.empty(2, 4, dtype=torch.bool, device="meta")
    known = torch.empty(2, 5, 37, 50, dtype=torch.bool, device="meta")
    loss = (
        local_ncc_loss(warp(moving, found.displacement), moving, (1, 9, 9))
        + smoothness_loss(found.velocity)
        + overlap_loss(warp(labels, found.inverse()), labels, drawn, known)
        + jacobian_determinant(found.displacement).mean()
    )
    loss.backward()
    assert loss.device.type == "meta"


def test_arguments_and_weights_make_the_network_anew() -> None:
    network = lively((16, 20, 31), through_plane=True, integration_steps=3)
    again = VoxelMorph(**network.arguments)
    again.load_state_dict(load(save(network.state_dict())))
    images = blobs((16, 20, 31))
    found, expected = again.register(*images), network.register(*images)
    assert torch.equal(found.displacement, expected.displacement)
    assert torch.equal(found.inverse(), expected.inverse())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dimensions": 4}, r"slices \(dimensions 2\) or volumes \(3\), got 4"),
        ({"dimensions": 2, "through_plane": True}, "no third axis to move or pool along"),
        ({"dimensions": 2, "pool_through_plane": True}, "no third axis to move or pool along"),
        ({"integration_steps": -1}, r"must be 0 \(a plain displacement\) or more, got -1"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        VoxelMorph(**arguments)


def test_images_of_other_axes_are_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"grids of 3 axes, got images of shape \(1, 1, 16, 16\); give \(n, 1, z"
    ):
        VoxelMorph()(*blobs((16, 16), n=1))


class Beat(NamedTuple):
    """One mid-ventricular slice of a dilated heart that moves in plane only, on pixels of 2 x 1.6 mm."""

    images: tuple[Tensor, Tensor]  # ED and ES, (1 1 y x) in [0, 1]
    walls: tuple[Tensor, Tensor]  # (y x) bool
    ventricle: tuple[Tensor, Tensor]  # (y x) bool; cavity and wall
    heart: Tensor  # (y x) bool, at ES
    exact: Tensor  # (1 2 y x) displacement of moving = ED, fixed = ES, voxels

    def endpoint_error_mm(self, displacement: Tensor) -> float:
        away_mm = (displacement - self.exact) * torch.tensor([2.0, 1.6]).view(1, 2, 1, 1)
        return away_mm.norm(dim=1)[0][self.heart].mean().item()

    def wall_dice(self, displacement: Tensor) -> float:
        moved = warp(self.walls[0][None, None].float(), displacement)[0, 0] > 0.5
        return (2 * (moved & self.walls[1]).sum() / (moved.sum() + self.walls[1].sum())).item()


@pytest.fixture(scope="module")
def beat() -> Beat:
    drawn = Heart.draw(np.random.default_rng(5), "DCM")
    flat = replace(drawn.motion, shortening=0.0, twist_apex_rad=0.0, twist_base_rad=0.0)
    heart, spacing_mm, size = replace(drawn, motion=flat), np.array([2.0, 1.6]), (52, 66)

    def points(finer: int) -> np.ndarray:
        axes = (
            ((np.arange(n * finer) + 0.5) / finer - n / 2) * s for n, s in zip(size, spacing_mm, strict=True)
        )
        y, x = np.meshgrid(*axes, indexing="ij")
        return heart.heart_to_mm(np.stack([x, y, np.full_like(x, 0.45 * heart.shape.length_mm)], axis=-1))

    def image(phase: float) -> Tensor:
        signal = np.abs(bssfp_table(1.5, 3.0, 55, np.zeros(1))[:, 0])
        fine = (signal / signal.max())[heart.classify(points(3), phase)].astype(np.float32)
        return F.avg_pool2d(torch.from_numpy(fine)[None, None], 3)

    def labels(phase: float) -> Tensor:
        return torch.from_numpy(LABEL_OF_TISSUE[heart.classify(points(1), phase)])

    es = heart.motion.es_phase
    moved = (heart.origin_mm(points(1), es) - points(1)) @ heart.axes_matrix.T
    assert np.abs(moved[..., 2]).max() < 1e-6
    exact = torch.from_numpy((moved[..., 1::-1] / spacing_mm).astype(np.float32)).movedim(-1, 0)[None]
    ed_labels, es_labels = labels(0.0), labels(es)
    left = torch.tensor([Structure.LV, Structure.MYO])
    return Beat(
        (image(0.0), image(es)),
        (ed_labels == Structure.MYO, es_labels == Structure.MYO),
        (torch.isin(ed_labels, left), torch.isin(es_labels, left)),
        es_labels > 0,
        exact,
    )


@pytest.fixture(scope="module")
def learned(beat: Beat) -> Registration:
    """Fifty steps on this one pair."""
    torch.manual_seed(0)
    network = VoxelMorph(dimensions=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    ed, es = beat.images
    for _ in range(50):
        found = network.register(ed, es)
        loss = local_ncc_loss(warp(ed, found.displacement), es) + smoothness_loss(found.velocity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return network.register(ed, es)


@pytest.mark.slow
def test_a_few_steps_beat_no_registration(beat: Beat, learned: Registration) -> None:
    still = torch.zeros_like(learned.displacement)
    ed, es = beat.images
    assert local_ncc_loss(warp(ed, learned.displacement), es) < 0.5 * local_ncc_loss(ed, es)
    assert beat.wall_dice(still) < 0.6
    assert beat.wall_dice(learned.displacement) > 0.85
    assert jacobian_determinant(learned.displacement).min() > 0


@pytest.mark.slow
def test_what_was_learned_lies_near_the_phantoms_exact_displacement(
    beat: Beat, learned: Registration
) -> None:
    still = beat.endpoint_error_mm(torch.zeros_like(beat.exact))
    assert still > 3.5
    assert beat.endpoint_error_mm(learned.displacement) < 0.4 * still
    assert beat.endpoint_error_mm(learned.inverse()) > still  # the reversed field points away


@pytest.mark.slow
def test_the_learned_inverse_carries_the_wall_back(beat: Beat, learned: Registration) -> None:
    back = beat._replace(walls=(beat.walls[1], beat.walls[0]))
    assert back.wall_dice(learned.inverse()) > 0.85
    assert back.wall_dice(learned.displacement) < 0.5


def test_the_learned_field_shrinks_the_ventricle_and_the_reversed_one_makes_it_grow(
    beat: Beat, learned: Registration
) -> None:
    """The direction error of methods.md 2.1: moving = ES, fixed = ED, laid on the ED mask."""
    ed, es = beat.ventricle

    def area(displacement: Tensor) -> float:
        return warp(ed[None, None].float(), displacement).sum().item() / ed.sum().item()

    shrunk = (es.sum() / ed.sum()).item()
    assert shrunk < 0.9
    assert area(learned.displacement) == pytest.approx(shrunk, rel=0.05)
    assert area(learned.inverse()) > 1.1


def test_layers_start_as_he_says() -> None:
    torch.manual_seed(0)
    for name, module in VoxelMorph().named_modules():
        if isinstance(module, nn.Conv3d):
            assert module.bias is not None
            assert module.bias.abs().max() == 0
            if name != "flow":
                gain = 2 / (1 + 0.2**2)  # He 2015, eq. 15
                variance = gain / (27 * module.in_channels)
                assert module.weight.var().item() == pytest.approx(variance, rel=0.15)
