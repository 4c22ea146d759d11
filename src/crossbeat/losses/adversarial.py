"""How well masks pass for drawn ones: a discriminator's logits go in, one number comes out.

Chen, Li, Zhang, Menze 2020, Eq. 2 to 6, with their errors mended:

- Eq. 2 and 3 add Dice to cross-entropy. Meant is 1 - Dice: `segmentation.dice_loss`, for each slice by itself.
- Eq. 4 adds a loss of true masks and a loss of pseudo masks, weighted λ and 1 - λ, as if each batch held one
  kind. In a mixed batch each sample has its own weight (`transfer_weights`) and L = sum(w_i l_i) / sum(w_i).
- Eq. 5 is a log-likelihood without its minus: what the discriminator maximises. Its negative is minimised here
  (`discriminator_loss`). G(x, y) there is G(x): the segmenter does not see the mask.
- Eq. 5 takes pseudo masks as real with weight 1, so that the weak weight is lost exactly there. Here each
  example has its weight, and 0 leaves it out.
- Eq. 6 lets the segmenter minimise log(1 - D), which is flat where D is sure. Here it minimises -log D
  (`adversarial_loss`; Goodfellow 2014), as the released code does, times a weight of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


def transfer_weights(is_true: Bool[Tensor, " n"], true_weight: float) -> Float[Tensor, " n"]:
    """λ (`true_weight`, in [0, 1]) for samples whose mask an expert drew, 1 - λ for those with a pseudo mask."""
    shares = is_true.float()
    return true_weight * shares + (1 - true_weight) * (1 - shares)


def discriminator_loss(
    real: Float[Tensor, " n"],
    fake: Float[Tensor, " m"],
    *,
    real_weights: Float[Tensor, " n"],
    fake_weights: Float[Tensor, " m"],
    real_label: float = 1.0,
) -> Float[Tensor, ""]:
    """What a discriminator loses by not telling drawn masks from made-up ones, in [0, inf): Eq. 5 with its minus.

    The weighted mean of -log D over the real pairs, plus that of -log(1 - D) over the fake ones: 2 log 2 for a
    discriminator that cannot tell. With `real_label` below 1 a real pair need not be surely real (one-sided
    smoothing, Salimans 2016): the loss of its logit is least where D is `real_label`. Pairs of weight 0
    count nowhere; a side without any weight adds 0.
    """
    certain = F.binary_cross_entropy_with_logits(
        real.float(), torch.full_like(real, real_label, dtype=torch.float32), reduction="none"
    )
    return _weighted_mean(certain, real_weights) + _weighted_mean(F.softplus(fake.float()), fake_weights)


def adversarial_loss(fake: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """What a segmenter loses by masks that do not pass for drawn ones, in (0, inf): the mean of -log D."""
    return F.softplus(-fake.float()).mean()


def drawn_mask(
    labels: UInt8[Tensor, "n y x"],
    predicted: Float[Tensor, "n k y x"],
    unknown: int = 255,
) -> Float[Tensor, "n k y x"]:
    """Labels as class probabilities of 0 and 1; where nobody looked, those that the segmenter predicts.

    So an unknown pixel looks alike in the real and in the fake mask, and gives neither away.
    """
    classes = torch.arange(predicted.shape[1], device=labels.device, dtype=labels.dtype)
    one_hot = (labels[:, None] == classes[:, None, None]).to(predicted.dtype)
    known = (labels != unknown).to(predicted.dtype)[:, None]
    return one_hot * known + predicted.detach() * (1 - known)


def _weighted_mean(values: Float[Tensor, " n"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    weights = weights.to(values.dtype)
    return (weights * values).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)
