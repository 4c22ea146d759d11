"""What two painters of images and their two judges lose: images and scores go in, one number comes out.

Zhu 2017 (arXiv 1703.10593) with least squares (Mao 2017, arXiv 1611.04076), as Dhaene 2023 trains it (methods.md 4.5).
Scores may be a map of patches or one an image; each counts alike. Weights are the caller's.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from crossbeat.losses.precision import precise


def fooling_loss(fake: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """What a generator loses by images that do not pass for real ones, in [0, inf): the mean of (D - 1)²."""
    return _from(fake, 1.0)


def telling_loss(real: Float[Tensor, "n ..."], fake: Float[Tensor, "m ..."]) -> Float[Tensor, ""]:
    """What a discriminator loses by not telling real from painted, in [0, inf).

    Half the sum of the means of (D - 1)² over the real and of D² over the painted: a quarter for one that
    always says 0.5. The half, of the paper and its code, makes it learn more slowly than the generators.
    """
    return 0.5 * (_from(real, 1.0) + _from(fake, 0.0))


def image_loss(ours: Float[Tensor, "n c y x"], wanted: Float[Tensor, "n c y x"]) -> Float[Tensor, ""]:
    """Mean absolute difference of images, in grey values: of an image that came back from the other domain (cycle),
    or of one that was already of the domain it was painted as (identity). No gradient flows into `wanted`.
    """
    return (precise(ours) - precise(wanted).detach()).abs().mean()


def _from(scores: Tensor, wanted: float) -> Tensor:
    return (precise(scores) - wanted).square().mean()
