"""MONAI's SegResNetVAE as Dhaene 2023 builds it: slices in, logits out, and the loss of its VAE on request.

Dhaene, Loecher, Wilson, Ennis 2023 (Bioengineering 10:166) call it ResNetVAE; the design is Myronenko's
(2018, arXiv 1810.11654). The released training drops the VAE loss, and then nine parameters in ten
learn nothing (`count_reached`): `forward` is that network, `forward_with_vae_loss` is Myronenko's, whose second
result a training adds to its loss times η, `vae_weight`: 0.1 as the design is described, 0 as it was run.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.sizes import require_sides

DIVISOR: Final = 16  # three halvings of the encoder and one of the VAE
MINIMUM_SIDE: Final = 16
NORM_GROUPS: Final = 8  # MONAI's default group normalisation
LATENTS: Final = 256  # numbers of the VAE's code, MONAI's default
LATENT_SD: Final = 0.3  # of the noise on them: MONAI's default, which estimates none


@dataclass(frozen=True)
class Reached:
    """How many parameters a network has, and how many of them a training's loss moves."""

    parameters: int
    reached: int

    @property
    def idle(self) -> int:
        """Those that stay as they were made."""
        return self.parameters - self.reached


class SegResNetVae(nn.Module):
    """A residual encoder and decoder, and a variational decoder that paints the input from the bottleneck.

    The VAE is bound to `size`, rows and columns in pixels: in training every image has that size; in
    evaluation the VAE rests and any size that fits is taken.
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 2, *, size: tuple[int, int], width: int = 8
    ) -> None:
        from monai.networks.nets.segresnet import SegResNetVAE  # 3 s to import

        super().__init__()
        require_sides("segresnet_vae", size, DIVISOR, MINIMUM_SIDE)
        if width % NORM_GROUPS:
            raise SettingsError(
                f"network 'segresnet_vae': width must be a multiple of {NORM_GROUPS}, the groups of its "
                f"normalisation, got {width}"
            )
        self.size = size
        self.body = SegResNetVAE(
            input_image_size=size,
            spatial_dims=2,
            init_filters=width,
            in_channels=in_channels,
            out_channels=classes,
        )

    def forward(self, image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k y x"]:
        """Logits of every class, of the image's size; the VAE is not run."""
        self._require_size(image)
        deepest, kept = self.body.encode(image)
        logits: Tensor = self.body.decode(deepest, kept[::-1])
        return logits

    def forward_with_vae_loss(
        self, image: Float[Tensor, "n c y x"], noise: Float[Tensor, "n 256"] | None = None
    ) -> tuple[Float[Tensor, "n k y x"], Float[Tensor, ""]]:
        """Logits, and the mean square of the latent mean plus that of the repainted image's error.

        `noise`, standard normal, makes each image's latent sample: drawn for the global batch, it is the same on
        any number of devices. Without it torch's random state gives it. In training only (`SettingsError`).
        """
        if not self.training:
            raise SettingsError(
                "network 'segresnet_vae': its VAE runs in training only; call train() first, or forward"
            )
        self._require_size(image)
        deepest, kept = self.body.encode(image)
        logits: Tensor = self.body.decode(deepest, kept[::-1])
        return logits, self._vae_loss(image, deepest, noise)

    def _vae_loss(self, image: Tensor, deepest: Tensor, noise: Tensor | None) -> Tensor:
        """As MONAI's, which draws the noise itself; float32 whatever autocast says, as a loss is."""
        vae: Any = self.body
        centre: Tensor = vae.vae_fc1(vae.vae_down(deepest).flatten(1))
        drawn = torch.randn_like(centre) if noise is None else noise.to(centre)
        code = vae.act_mod(vae.vae_fc3(centre + LATENT_SD * drawn))
        painted: Tensor = vae.vae_fc_up_sample(code.view(-1, vae.smallest_filters, *vae.fc_insize))
        for larger, block in zip(vae.up_samples, vae.up_layers, strict=True):
            painted = block(larger(painted))
        painted = vae.vae_conv_final(painted)
        return centre.float().square().mean() + F.mse_loss(painted.float(), image.float())

    def _require_size(self, image: Tensor) -> None:
        sides = (image.shape[-2], image.shape[-1])
        require_sides("segresnet_vae", sides, DIVISOR, MINIMUM_SIDE)
        if self.training and sides != self.size:
            raise SettingsError(
                f"network 'segresnet_vae': built for training on {self.size[0]} x {self.size[1]} pixels, "
                f"got {sides[0]} x {sides[1]}; crop to that size, or build it with size={list(sides)}"
            )


def count_reached(network: nn.Module, image: Float[Tensor, "n c y x"], *, vae_weight: float = 0.0) -> Reached:
    """How many parameters get a gradient from a loss of the logits, and of the VAE with that weight η.

    At 1 to 2 channels and 256 x 256 pixels, of 3,555,891: 394,986 at η = 0, 2,507,059 above. The other 1,048,832
    are a layer for the VAE's deviations, which are not estimated. Of any segmentation network at η = 0;
    `SettingsError` where η is above and it has no VAE. A copy is asked; the network stays as it is.
    """
    if vae_weight and not isinstance(network, SegResNetVae):
        raise SettingsError(
            f"vae_weight {vae_weight:g}: {type(network).__name__} has no VAE; say 0, or take segresnet_vae"
        )
    network = copy.deepcopy(network).train()
    network.zero_grad(set_to_none=True)
    if vae_weight and isinstance(network, SegResNetVae):
        logits, vae_loss = network.forward_with_vae_loss(image)
        loss = logits.square().mean() + vae_weight * vae_loss
    else:
        loss = network(image).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = list(network.parameters())
    reached = sum(p.numel() for p in parameters if p.grad is not None)
    return Reached(sum(p.numel() for p in parameters), reached)
