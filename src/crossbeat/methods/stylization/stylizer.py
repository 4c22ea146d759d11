"""Stylizer: a trained RAIN or AdaConv with its encoder, behind one door; used, saved and loaded.

Style images go in and a code comes out; content images and a code go in, and the contents in that style come out.
RAIN's code is ε, of 512 numbers. AdaConv's is its descriptor, or with a style autoencoder an ε as RAIN's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.methods.keeping import fetch, keep
from crossbeat.methods.stylization.encoder import Encoder, as_encoder
from crossbeat.networks.adaconv import AdaConv, DescriptorAutoencoder
from crossbeat.networks.rain import CHANNELS, Rain, StyleCode, style_of
from crossbeat.networks.vgg import Size


@dataclass
class Stylizer:
    """Gives images the style of others. All of it is frozen; images are grey, in [0, 1], of any size from 9 pixels.

    `encoder.preparation` says how slices are prepared for it.
    """

    encoder: Encoder
    network: Rain | AdaConv
    autoencoder: DescriptorAutoencoder | None = None
    """Of AdaConv's descriptors, where they have a code to search along."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self._networks().values():
            part.eval().requires_grad_(False)

    @property
    def kind(self) -> str:
        """`rain` or `adaconv`."""
        return "rain" if isinstance(self.network, Rain) else "adaconv"

    @property
    def has_code(self) -> bool:
        """Whether a style is a draw ε = ψ + ξ n, that can be searched along; else it is a descriptor."""
        return self.kind == "rain" or self.autoencoder is not None

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Of one style's code."""
        if self.has_code:
            return (CHANNELS,)
        assert isinstance(self.network, AdaConv)
        return tuple(self.network.decoder.shape)

    def to(self, device: torch.device | str) -> Stylizer:
        """The same stylizer, moved to another device."""
        for part in self._networks().values():
            part.to(device)
        return self

    @torch.no_grad()
    def read(self, images: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n 512 v u"]:
        """relu4_1 of images, for `render`; one reading serves any number of styles."""
        features: Tensor = self.encoder.vgg(images).relu4_1
        return features

    @torch.no_grad()
    def distribution(self, style_images: Float[Tensor, "m 1 y x"]) -> StyleCode:
        """ψ and ξ of each style; `SettingsError` where styles have no code."""
        features = self.read(style_images)
        if isinstance(self.network, Rain):
            return self.network.encode(style_of(features))
        if self.autoencoder is None:
            raise SettingsError("stylizer adaconv: its styles have no code ε; train it with style_vae: true")
        return self.autoencoder.encode(self.network.describe(features))

    @torch.no_grad()
    def code_of(
        self, style_images: Float[Tensor, "m 1 y x"], noise: Float[Tensor, "#m 512"] | None = None
    ) -> Float[Tensor, "m ..."]:
        """The code of each style: ε for standard normal `noise`, ψ without; or AdaConv's descriptor, which has none."""
        if not self.has_code:
            assert isinstance(self.network, AdaConv)
            return self.network.describe(self.read(style_images))
        found = self.distribution(style_images)
        return found.centre if noise is None else found.at(noise)

    def render(
        self, content: Float[Tensor, "n 512 v u"], code: Float[Tensor, "m ..."], size: Size
    ) -> Float[Tensor, "n 1 y x"]:
        """What was read of contents in the styles of the codes, as grey images of that size, clipped to [0, 1].

        One code serves all contents, or each has its own. Gradients reach the code where nothing is clipped.
        """
        if isinstance(self.network, Rain):
            images = self.network.stylise(content, code, size)
        else:
            descriptor = code if self.autoencoder is None else self.autoencoder.decode(code)
            images = self.network.stylise(content, descriptor, size)
        return images.float().mean(dim=1, keepdim=True).clamp(0, 1)

    def stylise(
        self, content_images: Float[Tensor, "n 1 y x"], code: Float[Tensor, "m ..."]
    ) -> Float[Tensor, "n 1 y x"]:
        """The contents in the styles of the codes, in [0, 1]; gradients reach the code."""
        size = (content_images.shape[2], content_images.shape[3])
        return self.render(self.read(content_images), code, size)

    def describe(self) -> dict[str, Any]:
        """All but the weights, as plain JSON."""
        return {
            "stylizer": self.kind,
            "network": self.network.arguments,
            "autoencoder": None if self.autoencoder is None else self.autoencoder.arguments,
            "encoder": self.encoder.describe(),
            "provenance": dict(self.provenance),
        }

    def save(self, folder: Path) -> None:
        """`weights.safetensors`, the encoder's among them, and `stylizer.json`, in a folder whole or not at all."""
        weights = {
            f"{part}.{name}": tensor
            for part, network in self._networks().items()
            for name, tensor in network.state_dict().items()
        }
        keep(folder, "stylizer", weights, self.describe())

    def _networks(self) -> dict[str, torch.nn.Module]:
        found: dict[str, torch.nn.Module] = {"encoder": self.encoder.vgg, "network": self.network}
        return found if self.autoencoder is None else found | {"autoencoder": self.autoencoder}


def load_stylizer(folder: Path, device: torch.device | str = "cpu") -> Stylizer:
    """Read what `Stylizer.save` wrote, in a run `models/stylizer`; `RunError` where a piece is missing or broken."""
    return fetch(folder, "stylizer", _as_stylizer).to(device)


def _as_stylizer(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Stylizer:
    encoder = as_encoder(described["encoder"], _of("encoder", weights))
    kinds: dict[str, type[Rain] | type[AdaConv]] = {"rain": Rain, "adaconv": AdaConv}
    network = kinds[described["stylizer"]](**described["network"])
    network.load_state_dict(_of("network", weights))
    autoencoder = None
    if described["autoencoder"] is not None:
        autoencoder = DescriptorAutoencoder(**described["autoencoder"])
        autoencoder.load_state_dict(_of("autoencoder", weights))
    return Stylizer(encoder, network, autoencoder, described["provenance"])


def _of(part: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): t for name, t in weights.items() if name.startswith(f"{part}.")}
