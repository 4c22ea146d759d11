"""How far a segmentation is from the shapes that were drawn: logits and labels go in, one number comes out.

Dhaene 2023 (Bioengineering 10:166), Eq. 1 to 3, with softmax probabilities and for several structures (methods.md
4.3). A structure's shape map is 0.5 where it is deepest, nears 1 at its rim, and is 0 outside; the loss is how far the
probabilities are from that map. It is least where they equal it, so that it pulls the middle of a wall towards 0.5,
against Dice and cross-entropy, which want 1 there: it is made to be a small part of a loss (γ = 0.05).

    symbol    here                                symbol    here
    φ         depth / greatest depth              SI        shape_map
    k         steepness                           g, p      the mask, the probabilities
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from crossbeat.losses.segmentation import TINIEST_SIZE, UNKNOWN

STEEPNESS: Final = 0.2  # k of Eq. 1
AT_ONCE: Final = 2**25
"""Numbers held at once where all pairs of rows are compared: 128 MiB, of any batch."""

Denominator = Literal["reference", "predicted"]


def shape_loss(
    logits: Float[Tensor, "n k y x"],
    labels: Integer[Tensor, "n y x"],
    drawn: Bool[Tensor, "n k"],
    *,
    denominator: Denominator = "reference",
    steepness: float = STEEPNESS,
    spacing: tuple[float, float] = (1.0, 1.0),
    weights: Float[Tensor, " n"] | None = None,
    unknown: int = UNKNOWN,
) -> Float[Tensor, ""]:
    """The shape-aware loss, averaged over the annotated slices of the batch: Eq. 3, in [0, inf).

    Of each structure that was drawn and is there, the sum over known pixels of |p - SI|, divided by the pixels
    of its mask (`reference`, the paper) or by the sum of p (`predicted`, the released code, which can be lowered by
    predicting too much and has no bound where nothing is predicted). A slice's loss is the sum of these over the
    number of structures drawn in it: one that is absent has no shape and adds 0 (the paper leaves such slices out).
    `weights`, `unknown`, labels without a meaning and a batch without annotation are as in `segmentation_loss`.

    `spacing` is of rows and columns; only their ratio counts. float32 at least; on CUDA nothing waits for the device.
    """
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)[:, 1:]
    classes = torch.arange(logits.shape[1], device=labels.device)
    labelled = labels[:, None] == classes.to(labels.dtype)[:, None, None]
    known = labels != unknown
    structures = labelled[:, 1:] & drawn[:, 1:, None, None]
    wanted = shape_map(structures, known, steepness=steepness, spacing=spacing).to(p.dtype)
    wrong = ((p - wanted).abs() * known[:, None]).sum(dim=(2, 3))
    pixels = structures.sum(dim=(2, 3)).to(p.dtype)
    size = pixels.clamp_min(1.0)
    if denominator == "predicted":
        size = (p * known[:, None]).sum(dim=(2, 3)).clamp_min(TINIEST_SIZE)
    losses = (wrong / size * (pixels > 0)).sum(dim=1) / drawn[:, 1:].sum(dim=1).clamp_min(1)
    strange = (known & ~labelled.any(dim=1)).flatten(1).any(dim=1)
    annotated = drawn[:, 1:].any(dim=1) & known.flatten(1).any(dim=1)
    losses = torch.where(strange, torch.nan, torch.where(annotated, losses, 0.0))
    shares = annotated.to(losses.dtype)
    if weights is not None:
        shares = shares * weights.to(losses.dtype)
    return (shares * losses).sum() / shares.sum().clamp_min(torch.finfo(losses.dtype).tiny)


@torch.no_grad()
def shape_map(
    structures: Bool[Tensor, "n k y x"],
    known: Bool[Tensor, "n y x"] | None = None,
    *,
    steepness: float = STEEPNESS,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Float[Tensor, "n k y x"]:
    """SI of each mask, Eq. 1 and 2: 1 / (1 + exp(-(1 - φ) / k)) inside, 0 outside; φ is the depth over the greatest.

    The deepest pixel has 0.5; a rim far shallower than it nears 1 / (1 + exp(-1 / k)), 0.9933. A mask that fills
    the image is equally deep everywhere: 0.5. Where nobody looked (`known`) is neither inside nor a rim: as beyond
    the image's border, no depth is counted from there. Parts of a mask that do not touch share the greatest depth.
    """
    n, k, y, x = structures.shape
    inside = structures
    if known is not None:
        looked = known.flatten(1).any(dim=1)[:, None, None]  # a slice without any has no depth to be found
        inside = structures | (~known & looked)[:, None]
    depth = distance_transform(inside.reshape(n * k, y, x), spacing).reshape(n, k, y, x)
    depth = torch.where(structures, depth, 0.0)
    share = depth / depth.amax(dim=(2, 3), keepdim=True)
    share = torch.where(depth.isinf(), 1.0, share)
    return torch.where(structures, ((1 - share) / steepness).sigmoid(), 0.0)


@torch.no_grad()
def distance_transform(
    masks: Bool[Tensor, "n y x"], spacing: tuple[float, float] = (1.0, 1.0)
) -> Float[Tensor, "n y x"]:
    """Distance of each pixel of a mask to the nearest one outside it, centre to centre; 0 outside.

    Exact (Euclidean), in the unit of `spacing`, of rows and columns. As `scipy.ndimage.distance_transform_edt`, but
    that a mask without any outside has inf everywhere.
    """
    return squared_distance_transform(masks, spacing).sqrt()


@torch.no_grad()
def squared_distance_transform(
    masks: Bool[Tensor, "n y x"], spacing: tuple[float, float] = (1.0, 1.0)
) -> Float[Tensor, "n y x"]:
    """The square of `distance_transform`, where whole spacings give whole numbers.

    Separable (Saito 1994): first along the row; then, of all rows of a column, the least sum of squares.
    """
    if masks.device.type != "cpu":  # where looking at a number would wait
        return _down_all_rows(_along_rows(masks, spacing[1]).square(), spacing[0])
    found = torch.zeros(masks.shape, dtype=torch.float32)
    box = _box(masks)
    found[box] = _down_near_rows(_along_rows(masks[box], spacing[1]).square(), spacing[0])
    return found


def _box(masks: Tensor) -> tuple[slice, slice, slice]:
    """Where all the masks lie, and a pixel around: no inside pixel's nearest outside one is farther off."""
    if not masks.any():
        return slice(None), slice(0), slice(0)
    sides = []
    for axis in (1, 2):
        places = torch.nonzero(masks.any(dim=0).any(dim=2 - axis)).flatten()
        sides.append(slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2))
    return slice(None), sides[0], sides[1]


def _along_rows(masks: Tensor, step: float) -> Tensor:
    """Distance to the nearest outside pixel of the same row; inf where it has none."""
    columns = torch.arange(masks.shape[2], dtype=torch.float32, device=masks.device)
    left = torch.where(masks, -torch.inf, columns).cummax(dim=2).values
    right = torch.where(masks, torch.inf, columns).flip(2).cummin(dim=2).values.flip(2)
    return torch.minimum(columns - left, right - columns) * step


def _down_all_rows(along: Tensor, step: float) -> Tensor:
    """min over rows r of (step (y - r))² + along[r], some rows y at a time; nothing is looked at on the way."""
    n, y, x = along.shape
    rows = torch.arange(y, dtype=along.dtype, device=along.device) * step
    apart = (rows[:, None] - rows).square()[None, :, :, None]
    found = torch.empty_like(along)
    together = max(1, AT_ONCE // max(n * y * x, 1))
    for first in range(0, y, together):
        some = slice(first, first + together)
        torch.amin(apart[:, some] + along[:, None], dim=2, out=found[:, some])
    return found


def _down_near_rows(along: Tensor, step: float) -> Tensor:
    """The same for a CPU, which may look: no row farther off than the deepest pixel is needed, some ten for a heart."""
    found = along.clone()
    for offset in range(1, _reach(along, step) + 1):
        apart = (step * offset) ** 2
        upper, lower = slice(None, -offset), slice(offset, None)
        torch.minimum(found[:, upper], along[:, lower] + apart, out=found[:, upper])
        torch.minimum(found[:, lower], along[:, upper] + apart, out=found[:, lower])
    return found


def _reach(along: Tensor, step: float) -> int:
    """Rows that may hold the nearest outside pixel of another row: all, where a row has none of its own."""
    y = along.shape[1]
    if not along.numel():
        return 0
    whole = along[:, :, 0].isinf()
    if (whole & ~whole.all(dim=1, keepdim=True)).any():
        return y - 1
    deepest = torch.where(along.isinf(), 0.0, along).amax().sqrt().item()
    return min(y - 1, int(deepest / step))
