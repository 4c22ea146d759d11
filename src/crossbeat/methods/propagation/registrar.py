"""Registrar: a trained registration network with all that is needed to use it on a cine; saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from crossbeat.devices import multiplies_bfloat16
from crossbeat.methods.keeping import fetch, keep
from crossbeat.networks.registration import VoxelMorph
from crossbeat.prepare.volumes import Preparation


@dataclass
class Registrar:
    """Finds how one frame of a scan is carried to another."""

    network: VoxelMorph
    preparation: Preparation
    """Of the cines that it learnt from; `frames.cine_images` does the same to others."""
    bf16: bool = False
    """Whether the network computes in bfloat16; fields and warps never do."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @torch.inference_mode()
    def displacement(
        self, moving: Float[Tensor, "z y x"], fixed: Float[Tensor, "z y x"]
    ) -> Float[Tensor, "d z y x"]:
        """Where each voxel of `fixed` lies in `moving`, in voxels: `warp(moving, displacement)` looks like fixed.

        On the preparation's grid, intensities in [0, 1]; d = 2, (y, x), where slices move in their planes only.
        """
        self.network.eval()
        images = [
            as_samples(v[None].float().to(self.device), self.network.dimensions) for v in (moving, fixed)
        ]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            found = self.network.register(*images)
        return as_volume(found.displacement, self.network.dimensions)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    def save(self, folder: Path) -> None:
        """`weights.safetensors` and `registrar.json` in a folder that appears whole or not at all."""
        keep(folder, "registrar", self.network.state_dict(), self.describe())

    def describe(self) -> dict[str, Any]:
        """All but the weights, as plain JSON."""
        return {
            "network": self.network.arguments,
            "preparation": self.preparation.model_dump(),
            "provenance": dict(self.provenance),
        }


def load_registrar(folder: Path, device: torch.device | str = "cpu") -> Registrar:
    """Read what `Registrar.save` wrote, in a run `models/registration`; nothing is unpickled.

    `RunError` where a piece is missing or broken.
    """
    device = torch.device(device)

    def make(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Registrar:
        network = VoxelMorph(**described["network"])
        network.load_state_dict(weights)
        network = in_quick_layout(network).to(device).eval()
        preparation = Preparation(**described["preparation"])
        return Registrar(network, preparation, multiplies_bfloat16(device.type), described["provenance"])

    return fetch(folder, "registrar", make)


def in_quick_layout(network: VoxelMorph) -> VoxelMorph:
    """The network with its weights as its convolutions take them quickest: in channels_last where it sees slices.

    For slices alone, where it pays on a CPU in bfloat16.
    """
    if network.dimensions == 2:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def as_samples(volume: Shaped[Tensor, "c z y x"], dimensions: int) -> Shaped[Tensor, "n c *grid"]:
    """A volume as one sample (1 c z y x) of a 3-D network, or its slices as samples (z c y x) of a 2-D one."""
    return volume[None] if dimensions == 3 else volume.transpose(0, 1)


def as_volume(samples: Shaped[Tensor, "n c *grid"], dimensions: int) -> Shaped[Tensor, "c z y x"]:
    """Inverse of `as_samples`."""
    return samples[0] if dimensions == 3 else samples.transpose(0, 1)
