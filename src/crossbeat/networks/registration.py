"""VoxelMorph: a moving and a fixed image go in, the velocity that carries one to the other comes out.

Balakrishnan 2019 (TMI, doi 10.1109/TMI.2019.2897538) in the layout of its released semi-supervised
configuration, with the stationary velocities of Dalca 2019 (doi 10.1016/j.media.2019.07.006); the exact
layout and parameter counts stand in methods.md 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.deformation import integrate, resize_field

ENCODER: Final = (16, 32, 32, 32)  # each kept, then pooled (methods.md 2.1)
DECODER: Final = (32, 32, 32, 32)  # from 1/16 up, each enlarged and laid beside what was kept
FINAL: Final = (32, 16, 16)  # at full resolution
SLOPE: Final = 0.2  # LeakyReLU
FLOW_DEVIATION: Final = 1e-5  # of the last convolution's weights: training begins with hardly any motion
INTEGRATION_STEPS: Final = 7


@dataclass(frozen=True)
class Registration:
    """How a moving image is carried to a fixed one, and back."""

    displacement: Float[Tensor, "n d *grid"]
    """On the fixed grid, in its voxels: `warp(moving, displacement)` looks like fixed."""
    velocity: Float[Tensor, "n d *half"]
    """Stationary, at half resolution, in voxels of that grid a unit of time; smoothness is asked of it."""
    halving: tuple[int, ...]
    """Voxels of the grid to one of the velocity's, by axis."""
    integration_steps: int

    def inverse(self) -> Float[Tensor, "n d *grid"]:
        """The displacement that carries fixed to moving, on the moving grid: the integral of -velocity."""
        size = tuple(self.displacement.shape[2:])
        return _full_displacement(-self.velocity, size, self.halving, self.integration_steps)


class VoxelMorph(nn.Module):
    """A U-Net over both images whose flow is averaged to half resolution and integrated there.

    `dimensions` 3 takes volumes (z, y, x), 2 single slices (y, x). Volumes move in plane only unless
    `through_plane`; thick slices are then neither pooled nor halved along z (`pool_through_plane`, by default
    as `through_plane`). Grids of any size are taken: the end of each axis is padded inside by its last voxel
    to what four poolings need. What contradicts itself raises `SettingsError`.
    """

    def __init__(
        self,
        dimensions: int = 3,
        through_plane: bool = False,
        integration_steps: int = INTEGRATION_STEPS,
        pool_through_plane: bool | None = None,
    ) -> None:
        super().__init__()
        _require_consistent(dimensions, through_plane, integration_steps, pool_through_plane)
        pools_z = through_plane if pool_through_plane is None else pool_through_plane
        self.dimensions = dimensions
        self.integration_steps = integration_steps
        self.halving = (2, 2) if dimensions == 2 else (2 if pools_z else 1, 2, 2)
        self.arguments: dict[str, Any] = {
            "dimensions": dimensions,
            "through_plane": through_plane,
            "integration_steps": integration_steps,
            "pool_through_plane": pool_through_plane,
        }
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        kept = tuple(reversed(ENCODER))
        entering = (kept[0], *(a + b for a, b in zip(DECODER, kept, strict=True)))
        self.down = nn.ModuleList(map(_layer(convolution), (2, *ENCODER[:-1]), ENCODER))
        self.up = nn.ModuleList(map(_layer(convolution), entering[:-1], DECODER))
        self.final = nn.Sequential(*map(_layer(convolution), (entering[-1], *FINAL[:-1]), FINAL))
        components = 3 if through_plane else 2
        self.flow = convolution(FINAL[-1], components, kernel_size=3, padding=1)
        _initialise(self)
        nn.init.normal_(self.flow.weight, std=FLOW_DEVIATION)

    def forward(
        self, moving: Float[Tensor, "n 1 *grid"], fixed: Float[Tensor, "n 1 *grid"]
    ) -> Float[Tensor, "n d *half"]:
        """The velocity at half resolution, float32, in voxels of that grid; odd sides are rounded up."""
        size = tuple(moving.shape[2:])
        if len(size) != self.dimensions:
            raise SettingsError(
                f"VoxelMorph: was built for grids of {self.dimensions} axes, got images of shape "
                f"{tuple(moving.shape)}; give (n, 1, {'y, x' if self.dimensions == 2 else 'z, y, x'})"
            )
        features = self._features(_padded(torch.cat([moving, fixed], dim=1), self.halving))
        with torch.autocast(features.device.type, enabled=False):
            flow: Tensor = self.flow(features.to(self.flow.weight.dtype))
        halves = [side // h for side, h in zip(flow.shape[2:], self.halving, strict=True)]
        return _cropped(
            resize_field(flow, halves), [-(-s // h) for s, h in zip(size, self.halving, strict=True)]
        )

    def register(self, moving: Float[Tensor, "n 1 *grid"], fixed: Float[Tensor, "n 1 *grid"]) -> Registration:
        """The displacement that carries moving to fixed, with the velocity it was integrated from."""
        velocity = self(moving, fixed)
        size = tuple(moving.shape[2:])
        displacement = _full_displacement(velocity, size, self.halving, self.integration_steps)
        return Registration(displacement, velocity, self.halving, self.integration_steps)

    def _features(self, x: Tensor) -> Tensor:
        pool = F.max_pool2d if self.dimensions == 2 else F.max_pool3d
        kept = []
        for layer in self.down:
            kept.append(layer(x))
            x = pool(kept[-1], self.halving)
        for layer in self.up:
            enlarged = F.interpolate(layer(x), kept[-1].shape[2:], mode="nearest")
            x = torch.cat([enlarged, kept.pop()], dim=1)
        features: Tensor = self.final(x)
        return features


def _full_displacement(
    velocity: Tensor, size: tuple[int, ...], halving: tuple[int, ...], steps: int
) -> Tensor:
    """Integrated at half resolution, enlarged with its values, and cropped where a side was odd."""
    whole = [side * h for side, h in zip(velocity.shape[2:], halving, strict=True)]
    return _cropped(resize_field(integrate(velocity, steps), whole), size)


def _require_consistent(
    dimensions: int, through_plane: bool, integration_steps: int, pool_through_plane: bool | None
) -> None:
    if dimensions not in (2, 3):
        raise SettingsError(
            f"VoxelMorph: registers slices (dimensions 2) or volumes (3), got {dimensions}; take one of them"
        )
    if dimensions == 2 and (through_plane or pool_through_plane):
        raise SettingsError(
            "VoxelMorph: slices have no third axis to move or pool along; leave through_plane and "
            "pool_through_plane out, or take dimensions 3"
        )
    if integration_steps < 0:
        raise SettingsError(
            f"VoxelMorph: integration_steps must be 0 (a plain displacement) or more, got {integration_steps}"
        )


def _layer(convolution: type[nn.Conv2d] | type[nn.Conv3d]) -> Callable[[int, int], nn.Module]:
    return lambda entering, width: nn.Sequential(
        convolution(entering, width, kernel_size=3, padding=1), nn.LeakyReLU(SLOPE)
    )


def _initialise(network: nn.Module) -> None:
    """He 2015 for this slope, biases 0; PyTorch's own smaller start took several times the steps on one pair."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _padded(images: Tensor, halving: tuple[int, ...]) -> Tensor:
    """With sides that can be pooled as often as the encoder does, their last voxels repeated."""
    pooled = [h ** len(ENCODER) for h in halving]
    missing = [-side % divisor for side, divisor in zip(images.shape[2:], pooled, strict=True)]
    if not any(missing):
        return images
    return F.pad(images, [end for m in reversed(missing) for end in (0, m)], mode="replicate")


def _cropped(field: Tensor, size: Sequence[int]) -> Tensor:
    for axis, side in enumerate(size, start=2):
        field = field.narrow(axis, 0, side)
    return field
