"""How far a stylised image is from its content, its style and its structure: features go in, one number comes out.

Rahman, Gu 2023, Eq. 2 to 6, with their errors mended (methods.md 3.5):

- Eq. 2 sums content, style, KL and reconstruction; the weights, which the paper leaves out, are the caller's.
- Eq. 3, 4 and 6 print norms, ‖·‖2. The code they rest on takes mean squares, and so do we: a norm would grow with
  the number of channels and places, so that no weight fits two image sizes.
- Eq. 5 is averaged over the code's axes, not summed: the weight of 1 belongs to that mean.
- Eq. 6 prints no difference. Meant is that of the decoded and the measured statistics (`reconstruction_loss`).

What is compared with is taken as it is: no gradient flows into the content, the style or the original,
except in `consistency_loss`, of which neither side is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from crossbeat.losses.precision import precise

TINIEST_VARIANCE: Final = 1e-5  # added to a channel's variance and to ξ² (methods.md 3.2)
TINIEST_CONTRAST: Final = 1e-4
"""Norm of an image's edges about their mean, in its grey values, up to which it counts as flat: rounding's."""


def content_loss(features: Float[Tensor, "n c y x"], target: Float[Tensor, "n c y x"]) -> Float[Tensor, ""]:
    """Mean squared difference of relu4_1 of the stylised image from what it should be, Eq. 3.

    The target is AdaIN's t for RAIN, and the content's own features for AdaConv.
    """
    return _mean_square(features, target)


def style_loss(
    features: Sequence[Float[Tensor, "_ _ _ _"]], style: Sequence[Float[Tensor, "_ _ _ _"]]
) -> Float[Tensor, ""]:
    """How far the statistics of the stylised image are from the style's, summed over the encoder's layers, Eq. 4.

    Of each layer the mean square difference of the channels' means, plus that of their deviations,
    sqrt(unbiased variance + 1e-5). The sizes of the images may differ; one style image serves a whole batch.
    """
    layers = []
    for ours, theirs in zip(features, style, strict=True):
        (mean, deviation), (wanted_mean, wanted_deviation) = _moments(ours), _moments(theirs)
        layers.append(_mean_square(mean, wanted_mean) + _mean_square(deviation, wanted_deviation))
    return torch.stack(layers).sum()


def kl_divergence(centre: Float[Tensor, "n d"], log_variance: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """KL divergence of N(centre, e^log_variance) from N(0, 1), the mean over axes and samples, in [0, inf): Eq. 5.

    0.5 mean(ψ² + ξ² - log ξ² - 1) with ξ² = e^log_variance, which nothing needs to keep from 0.
    """
    centre, log_variance = precise(centre), precise(log_variance)
    return 0.5 * (centre.square() + log_variance.exp() - log_variance - 1).mean()


def published_kl_divergence(centre: Float[Tensor, "n d"], spread: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The released code's Eq. 5, for a spread of either sign: 0.5 mean(ψ² + ξ² - log(ξ² + 1e-5) - 1).

    At ξ² = 1 - 1e-5, its least, it is 5e-6 below 0.
    """
    centre, variance = precise(centre), precise(spread).square()
    return 0.5 * (centre.square() + variance - (variance + TINIEST_VARIANCE).log() - 1).mean()


def reconstruction_loss(decoded: Float[Tensor, "n d"], measured: Float[Tensor, "#n d"]) -> Float[Tensor, ""]:
    """Mean squared difference of the decoded style [μ, σ] from the one that was measured, Eq. 6."""
    return _mean_square(decoded, measured.expand_as(decoded))


def consistency_loss(
    stylised: Float[Tensor, "n f v u"], original: Float[Tensor, "n f v u"]
) -> Float[Tensor, ""]:
    """How differently a segmenter sees an image and its stylised form at its bottleneck (ASM; methods.md 3.3).

    The L2 norm over places of each channel's difference, averaged over the batch, then squared, and averaged over
    the channels. Gradients flow into both.
    """
    norms = _length((precise(stylised) - precise(original)).flatten(2))
    return norms.mean(dim=0).square().mean()


def structure_loss(
    stylised: Float[Tensor, "n c y x"], original: Float[Tensor, "n d y x"]
) -> Float[Tensor, ""]:
    """One minus the correlation of both images' edges, in [0, 2]: 0 where borders lie alike and are alike in strength.

    Edges are the magnitudes of Sobel's gradient of the grey image (the mean of its channels), off the border; so
    neither brightness nor contrast counts, nor whether dark and bright change places. An original without edges has
    no structure to keep and is left out; the answer is the mean over the others, and 0 where there is none.
    The paper wishes for such a loss in its section 5.1 (methods.md 3.8).
    """
    ours, theirs = _edges(stylised), _edges(original).detach()
    contrast, wanted = _length(ours), _length(theirs)
    structured = (wanted > TINIEST_CONTRAST).to(ours.dtype)
    sizes = contrast.clamp_min(TINIEST_CONTRAST) * wanted.clamp_min(TINIEST_CONTRAST)
    losses = 1.0 - (ours * theirs).sum(dim=1) / sizes
    return (structured * losses).sum() / structured.sum().clamp_min(1)


def _edges(images: Tensor) -> Tensor:
    """(n, places) Sobel magnitudes less their mean.

    Neighbours are subtracted before anything is added, so that equal ones leave exactly 0.
    """
    grey = precise(images).mean(dim=1)
    across, down = grey[:, :, 2:] - grey[:, :, :-2], grey[:, 2:] - grey[:, :-2]
    slope_x = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    slope_y = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    magnitudes = _length(torch.stack([slope_x, slope_y], dim=-1)).flatten(1)
    return magnitudes - magnitudes.mean(dim=1, keepdim=True)


def _length(vectors: Tensor) -> Tensor:
    """Of the last axis; its gradient at 0 is 0, where that of a root of squares is infinite."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return lengths


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """As `networks.rain.style_of`, which a loss may not know; a test holds them alike."""
    places = precise(features).flatten(2)
    return places.mean(dim=2), (places.var(dim=2, correction=1) + TINIEST_VARIANCE).sqrt()


def _mean_square(ours: Tensor, wanted: Tensor) -> Tensor:
    return (precise(ours) - precise(wanted).detach()).square().mean()
