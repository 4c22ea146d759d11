"""How well a registration fits: warped and fixed images, fields or masks go in, one number comes out.

The terms of VoxelMorph (Balakrishnan 2019, doi 10.1109/TMI.2019.2897538), with the released code's weights and
clamps where methods.md 2.1 and 2.2 name them. All are computed in float32 at least, also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.losses.precision import precise

NCC_WINDOW: Final = 9  # voxels (methods.md 2.1)
TINIEST_VARIANCE: Final = 1e-5
"""Of a window: a deviation of 0.3 % of images in [0, 1], a hundred times what float32 loses in mean squares."""
SMOOTHNESS_MULTIPLIER: Final = 2.0  # the released code's loss_mult: the factor of the integration's grid
TINIEST_SIZE: Final = 1e-7  # voxels; keeps Dice finite where a structure is in neither mask


def mean_squared_error(
    moved: Float[Tensor, "n c *grid"], fixed: Float[Tensor, "n c *grid"]
) -> Float[Tensor, ""]:
    """Mean of (moved - fixed)² over all voxels, in [0, 1] for images in [0, 1]."""
    return (precise(moved) - precise(fixed)).square().mean()


def local_ncc_loss(
    moved: Float[Tensor, "n 1 *grid"],
    fixed: Float[Tensor, "n 1 *grid"],
    window: int | Sequence[int] = NCC_WINDOW,
) -> Float[Tensor, ""]:
    """One minus the mean squared local correlation, in [0, 1]: 0 where images differ by local gain and offset.

    (1, 9, 9) is the window of volumes whose slices are too thick to be compared across.
    """
    return 1.0 - local_correlation(moved, fixed, window).mean()


def local_correlation(
    moved: Float[Tensor, "n 1 *grid"],
    fixed: Float[Tensor, "n 1 *grid"],
    window: int | Sequence[int] = NCC_WINDOW,
) -> Float[Tensor, "n 1 *grid"]:
    """Squared correlation of both images in the window around each voxel, in [0, 1] (Balakrishnan 2019, eq. 6).

    cov² / (var var), where covariance and variances below `TINIEST_VARIANCE` are raised to it: two constant
    windows agree (1), a constant and a patterned one do not (about 0), and opposite patterns count as unrelated.
    At the border the window is what of it lies in the image. Windows are odd (`SettingsError`).
    """
    sides = _window(window, moved.ndim - 2)
    a, b = precise(moved), precise(fixed)
    moments = _window_means(torch.cat([a, b, a * a, b * b, a * b], dim=1), sides)
    mean_a, mean_b, square_a, square_b, product = (moments[:, i : i + 1] for i in range(5))
    covariance = (product - mean_a * mean_b).clamp_min(TINIEST_VARIANCE)
    variance_a = (square_a - mean_a.square()).clamp_min(TINIEST_VARIANCE)
    variance_b = (square_b - mean_b.square()).clamp_min(TINIEST_VARIANCE)
    return (covariance / variance_a) * (covariance / variance_b)


def local_variance(
    images: Float[Tensor, "n 1 *grid"], window: int | Sequence[int] = NCC_WINDOW
) -> Float[Tensor, "n 1 *grid"]:
    """Variance of an image in the window around each voxel, as `local_correlation` takes it; 0 or more.

    Below `TINIEST_VARIANCE` there is no pattern that could be compared.
    """
    values = precise(images)
    moments = _window_means(torch.cat([values, values * values], dim=1), _window(window, values.ndim - 2))
    return (moments[:, 1:] - moments[:, :1].square()).clamp_min(0)


def smoothness_loss(
    field: Float[Tensor, "n d *grid"],
    *,
    multiplier: float = SMOOTHNESS_MULTIPLIER,
    axis_weights: Sequence[float] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared difference of neighbours in the field before integration, averaged over the axes, times 2.

    A field's slope is the same in the voxels of any grid, for values and distances shrink alike; so the
    released code's `multiplier` of 2 for a field at half resolution mends nothing and is a plain weight, kept
    that published weights mean here what they meant there. `axis_weights`, one an axis, say how much each counts
    ((0, 1, 1) leaves slices alone); an axis of one voxel has no neighbours and is left out, and the answer is 0
    where no axis is left.
    """
    field = precise(field)
    weights = [1.0] * (field.ndim - 2) if axis_weights is None else list(axis_weights)
    if len(weights) != field.ndim - 2 or min(weights) < 0:
        raise SettingsError(
            f"smoothness: needs one weight of 0 or more for each of {field.ndim - 2} axes, got {weights}"
        )
    terms = [(w, axis) for axis, w in enumerate(weights, start=2) if w and field.shape[axis] > 1]
    roughness = [w * field.diff(dim=axis).square().mean() for w, axis in terms]
    if not terms:
        return field.sum() * 0
    return multiplier * torch.stack(roughness).sum() / sum(w for w, _ in terms)


def overlap_loss(
    moved: Float[Tensor, "n k *grid"],
    fixed: Float[Tensor, "n k *grid"],
    drawn: Bool[Tensor, "n k"],
    known: Bool[Tensor, " n *grid"] | None = None,
) -> Float[Tensor, ""]:
    """One minus the mean soft Dice of warped one-hot labels with those of the fixed frame, in [0, 1].

    Channel 0, the background, is not read. A structure counts where it was drawn in both frames (`drawn`) and is
    in either mask; the answer is the mean over samples with such structures of the mean over those, and 0 with
    zero gradients where there is none. Voxels that are not `known` in both frames count nowhere. Any grid
    serves: at half resolution, as the released code has it, give every second voxel of both masks.
    """
    moved, fixed = precise(moved)[:, 1:], precise(fixed)[:, 1:]
    if known is not None:
        moved, fixed = moved * known[:, None], fixed * known[:, None]
    shared = (moved * fixed).flatten(2).sum(dim=2)
    size = (moved + fixed).flatten(2).sum(dim=2)
    scored = (drawn[:, 1:] & (size > 0)).to(size.dtype)
    losses = 1.0 - 2.0 * shared / size.clamp_min(TINIEST_SIZE)
    each = (scored * losses).sum(dim=1) / scored.sum(dim=1).clamp_min(1)
    return each.sum() / scored.amax(dim=1).sum().clamp_min(1)


def _window(window: int | Sequence[int], axes: int) -> tuple[int, ...]:
    sides = (window,) * axes if isinstance(window, int) else tuple(window)
    if len(sides) != axes or any(side < 1 or side % 2 == 0 for side in sides):
        raise SettingsError(
            f"local correlation: the window needs one odd side of voxels for each of {axes} axes, got {window}; "
            f"take 9, or (1, 9, 9) for volumes of thick slices"
        )
    return sides


def _window_means(images: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Mean over the part of the window that lies in the image, one axis after the other."""
    for axis, side in enumerate(sides, start=2):
        if side > 1:
            ends = [0, 0] * (images.ndim - 1 - axis) + [side // 2, side // 2]
            ones = images.new_ones([n if a == axis else 1 for a, n in enumerate(images.shape)])
            sums, counts = (_run_sums(F.pad(values, ends), axis, side) for values in (images, ones))
            images = sums / counts
    return images


def _run_sums(values: Tensor, axis: int, length: int) -> Tensor:
    """Sum of each run of so many neighbours along the axis, from the sums of runs half as long.

    Four additions for nine voxels, on any side; pooling took about twice as long on a CPU, refuses a window longer than
    the image, and its 3-D gradient differs from run to run on a GPU.
    """
    if length == 1:
        return values
    half = length // 2
    halves = _run_sums(values, axis, half)
    n = halves.shape[axis] - half
    sums = halves.narrow(axis, 0, n) + halves.narrow(axis, half, n)
    if length % 2:
        sums = sums.narrow(axis, 0, n - 1) + values.narrow(axis, length - 1, n - 1)
    return sums
