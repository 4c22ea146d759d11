"""How far a segmentation is from what was annotated: logits and labels go in, one number comes out.

Annotations may be partial. Voxels that nobody looked at carry the value `unknown` and count nowhere.
In an annotated slice a voxel outside every drawn structure is "none of these": it may be background or
any structure that the annotators did not draw, so the probabilities of all those are added up before
they are compared with the label.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

UNKNOWN: Final = 255  # labels.UNKNOWN, the house's value of a voxel that nobody looked at
TINIEST_SIZE: Final = 1e-7  # voxels; keeps Dice finite where a structure is neither there nor predicted


def segmentation_loss(
    logits: Float[Tensor, "n k y x"],
    labels: Integer[Tensor, "n y x"],
    drawn: Bool[Tensor, "n k"],
    *,
    cross_entropy_weight: float,
    dice_weight: float,
    include_background: bool,
    smooth: float,
    weights: Float[Tensor, " n"] | None = None,
    class_weights: Float[Tensor, " k"] | None = None,
    unknown: int = UNKNOWN,
) -> Float[Tensor, ""]:
    """Weighted sum of cross-entropy and Dice loss, averaged over the annotated slices of the batch.

    A slice is annotated where a structure was drawn in it (`drawn`, by class; column 0, the background,
    is not read) and at least one of its voxels is known. With l_i the loss of slice i, the answer is
    sum(w_i l_i) / sum(w_i) over the annotated slices (`weights`, else all 1), and 0 with zero gradients
    where there is none. A label that is neither a class nor `unknown` makes the answer nan. `class_weights`
    multiply each voxel's cross-entropy by that of its label; the mean over voxels stays one over their number.

    Computed in float32 whatever the logits are; nothing waits for the device.
    """
    partial = _read_annotation(logits, labels, drawn, unknown)
    losses = cross_entropy_weight * _cross_entropy(partial, class_weights)
    losses = losses + dice_weight * _dice_loss(partial, include_background, smooth)
    shares = partial.annotated.to(losses.dtype)
    if weights is not None:
        shares = shares * weights.to(losses.dtype)
    return (shares * losses).sum() / shares.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def cross_entropy(
    logits: Float[Tensor, "n k y x"],
    labels: Integer[Tensor, "n y x"],
    drawn: Bool[Tensor, "n k"],
    *,
    unknown: int = UNKNOWN,
) -> Float[Tensor, " n"]:
    """Mean of -log(probability of the label) over each slice's known voxels, in [0, inf); 0 if there is none.

    Background and undrawn structures are one class whose probability is their sum.
    """
    return _cross_entropy(_read_annotation(logits, labels, drawn, unknown))


def dice_loss(
    logits: Float[Tensor, "n k y x"],
    labels: Integer[Tensor, "n y x"],
    drawn: Bool[Tensor, "n k"],
    *,
    include_background: bool,
    smooth: float,
    unknown: int = UNKNOWN,
) -> Float[Tensor, " n"]:
    """One minus each slice's mean soft Dice over its drawn structures, in [0, 1]; 0 if nothing is annotated.

    Dice of a structure with probabilities p and mask m is (2 sum(pm) + s) / (sum(p) + sum(m) + s) over
    the known voxels, s being `smooth` in voxels (Milletari 2016, without its squares). With
    `include_background`, background and undrawn structures together are one structure more. A drawn
    structure that is absent from the slice scores s / (sum(p) + s).
    """
    return _dice_loss(_read_annotation(logits, labels, drawn, unknown), include_background, smooth)


def flat_dice_loss(
    logits: Float[Tensor, "n k y x"],
    labels: Integer[Tensor, "n y x"],
    drawn: Bool[Tensor, "n k"],
    *,
    smooth: float,
    weights: Float[Tensor, " n"] | None = None,
    unknown: int = UNKNOWN,
) -> Float[Tensor, ""]:
    """One minus one soft Dice of all classes and slices at once, background included, in [0, 1].

    The released code of Chen 2020 counts so: numerator and denominator are sums over every known voxel of the
    batch, in which the background outweighs the heart. `weights` multiply the voxels of a slice; slices that
    nobody annotated count nowhere, and the answer is 0 where there is no other.
    """
    partial = _read_annotation(logits, labels, drawn, unknown)
    shares = partial.annotated.to(partial.known.dtype)
    if weights is not None:
        shares = shares * weights.to(shares.dtype)
    p = partial.log_probabilities.exp() * partial.known[:, None]
    shared = (shares * (p * partial.truth * _counted(partial)).sum(dim=(1, 2, 3))).sum()
    size = (shares * ((p + partial.truth) * _counted(partial)).sum(dim=(1, 2, 3))).sum()
    loss = 1.0 - (2.0 * shared + smooth) / (size + smooth).clamp_min(TINIEST_SIZE)
    return torch.where(partial.strange.any(), torch.nan, torch.where(shares.sum() > 0, loss, 0.0))


def batch_jaccard_loss(
    logits: Float[Tensor, "n k y x"],
    labels: Integer[Tensor, "n y x"],
    drawn: Bool[Tensor, "n k"],
    *,
    smooth: float,
    weights: Float[Tensor, " n"] | None = None,
    unknown: int = UNKNOWN,
) -> Float[Tensor, ""]:
    """One minus the mean over the classes of one soft Jaccard each for the whole batch, background included, in [0, 1].

    As the released code of Few-shot-UDA counts (methods.md 3.3): with probabilities p and mask m of a class, over
    every known voxel of the batch, (sum(pm) + s) / (sum(p) + sum(m) - sum(pm) + s), s being `smooth` in voxels. That
    code has s = 0, so that a class nobody sees in this batch costs its whole share and teaches nothing; with
    s it asks for its absence. Undrawn structures count as background. `weights` multiply the voxels of a slice; a
    class that is drawn in no annotated slice is left out, and the answer is 0 where no slice is annotated.
    """
    partial = _read_annotation(logits, labels, drawn, unknown)
    shares = partial.annotated.to(partial.known.dtype)
    if weights is not None:
        shares = shares * weights.to(shares.dtype)
    p = partial.log_probabilities.exp() * partial.known[:, None]
    counted = _counted(partial) * shares[:, None, None, None]
    shared = (counted * p * partial.truth).sum(dim=(0, 2, 3))
    size = (counted * (p + partial.truth)).sum(dim=(0, 2, 3))
    scored = (counted.amax(dim=(0, 2, 3)) > 0).to(size.dtype)
    jaccard = (shared + smooth) / (size - shared + smooth).clamp_min(TINIEST_SIZE)
    loss = 1.0 - (scored * jaccard).sum() / scored.sum().clamp_min(1)
    return torch.where(partial.strange.any(), torch.nan, torch.where(shares.sum() > 0, loss, 0.0))


class _PartialAnnotation(NamedTuple):
    """The problem that is left when all that nobody drew has become one class, at place 0."""

    log_probabilities: Tensor  # (n, k, y, x); of undrawn structures as if they had been drawn
    truth: Tensor  # (n, k, y, x) 0 or 1; 0 everywhere for unknown voxels
    known: Tensor  # (n, y, x) 0 or 1
    drawn: Tensor  # (n, k) 0 or 1, background 0
    annotated: Tensor  # (n,) bool
    strange: Tensor  # (n,) bool; a label is neither a class nor unknown


def _read_annotation(logits: Tensor, labels: Tensor, drawn: Tensor, unknown: int) -> _PartialAnnotation:
    """Everything stays on the device: classes are compared, not indexed, which is also deterministic on a GPU.

    Masks are zeros and ones to multiply by: with `torch.where` the loss took 1.7 times as long on a CPU.
    """
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=logits.device)
    drawn = drawn & (classes > 0)
    none_of_these = log_p.masked_fill(drawn[:, :, None, None], -torch.inf).logsumexp(dim=1, keepdim=True)
    labelled = (labels[:, None] == classes.to(labels.dtype)[:, None, None]).to(log_p.dtype)
    known = (labels != unknown).to(log_p.dtype)
    structures = labelled[:, 1:] * drawn[:, 1:, None, None]
    return _PartialAnnotation(
        log_probabilities=torch.cat([none_of_these, log_p[:, 1:]], dim=1),
        truth=torch.cat([known[:, None] - structures.sum(dim=1, keepdim=True), structures], dim=1),
        known=known,
        drawn=drawn.to(log_p.dtype),
        annotated=drawn.any(dim=1) & (known.amax(dim=(1, 2)) > 0),
        strange=(known - labelled.sum(dim=1)).amax(dim=(1, 2)) > 0,
    )


def _counted(partial: _PartialAnnotation) -> Tensor:
    """(n, k, 1, 1) 1 for the merged background and for structures that were drawn, 0 for those merged into it."""
    return torch.cat([torch.ones_like(partial.drawn[:, :1]), partial.drawn[:, 1:]], dim=1)[:, :, None, None]


def _cross_entropy(partial: _PartialAnnotation, class_weights: Tensor | None = None) -> Tensor:
    truth = partial.truth
    if class_weights is not None:
        truth = truth * class_weights.to(truth.dtype)[:, None, None]
    surprise = -(truth * partial.log_probabilities).sum(dim=(1, 2, 3))
    return _of_annotated(partial, surprise / partial.known.sum(dim=(1, 2)).clamp_min(1))


def _dice_loss(partial: _PartialAnnotation, include_background: bool, smooth: float) -> Tensor:
    p = partial.log_probabilities.exp() * partial.known[:, None]
    shared = (p * partial.truth).sum(dim=(2, 3))
    size = p.sum(dim=(2, 3)) + partial.truth.sum(dim=(2, 3))
    dice = (2.0 * shared + smooth) / (size + smooth).clamp_min(TINIEST_SIZE)
    scored = partial.drawn.clone()
    scored[:, 0] = float(include_background)
    return _of_annotated(partial, 1.0 - (scored * dice).sum(dim=1) / scored.sum(dim=1).clamp_min(1))


def _of_annotated(partial: _PartialAnnotation, losses: Tensor) -> Tensor:
    """The loss of each annotated slice, 0 for the others, nan where a label has no meaning."""
    return torch.where(partial.strange, torch.nan, torch.where(partial.annotated, losses, 0.0))
