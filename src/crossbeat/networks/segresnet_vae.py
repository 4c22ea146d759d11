"""MONAI's SegResNetVAE as paper 003 builds it: slices in, logits out, and the loss of its VAE on request.

Dhaene, Loecher, Wilson, Ennis 2023 (Bioengineering 10:166) call it ResNetVAE; the design is Myronenko's
(2018, arXiv 1810.11654). The released training drops the VAE loss, and then nine parameters in ten
learn nothing: `forward` is that network, `forward_with_vae_loss` is Myronenko's.
"""

from __future__ import annotations

from typing import Final

from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks.sizes import require_sides

DIVISOR: Final = 16  # three halvings of the encoder and one of the VAE
MINIMUM_SIDE: Final = 16
NORM_GROUPS: Final = 8  # MONAI's default group normalisation


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
        self, image: Float[Tensor, "n c y x"]
    ) -> tuple[Float[Tensor, "n k y x"], Float[Tensor, ""]]:
        """Logits, and the mean square of the latent mean plus that of the repainted image's error.

        The latent sample is drawn from torch's random state; in training only (`SettingsError`).
        """
        if not self.training:
            raise SettingsError(
                "network 'segresnet_vae': its VAE runs in training only; call train() first, or forward"
            )
        self._require_size(image)
        logits, vae_loss = self.body(image)
        return logits, vae_loss

    def _require_size(self, image: Tensor) -> None:
        sides = (image.shape[-2], image.shape[-1])
        require_sides("segresnet_vae", sides, DIVISOR, MINIMUM_SIDE)
        if self.training and sides != self.size:
            raise SettingsError(
                f"network 'segresnet_vae': built for training on {self.size[0]} x {self.size[1]} pixels, "
                f"got {sides[0]} x {sides[1]}; crop to that size, or build it with size={list(sides)}"
            )
