"""Slices in, slices of another look out: random transfer curves, gamma, bias fields, blur.

Of the labels nothing here knows; each function changes intensities only, one set of parameters a sample.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

CURVE_NODES = 1025
"""Samples of a tabulated transfer curve over [0, 1]: linear between them, off by under 1e-3 even for gamma 0.7."""

_TINY = 1e-6


def transfer_curve(
    heights: Float[Tensor, "n k"],
    gamma: Float[Tensor, " n"] | None = None,
    inverted: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, "n m"]:
    """The curve that takes an image's intensities, scaled to [0, 1], to new ones: its `CURVE_NODES` values.

    It passes smoothly (Catmull & Rom 1974) through `heights`, at equally spaced intensities from 0 to 1; two
    knots at 0 and 1 make a straight line. Before, intensities are raised to the power `gamma`, where
    `inverted` counted from the bright end: 1 - (1 - x)^gamma.
    """
    nodes = torch.linspace(0, 1, CURVE_NODES, dtype=heights.dtype, device=heights.device)
    x = nodes.expand(len(heights), -1)
    if gamma is not None:
        x = x.pow(gamma[:, None])
        if inverted is not None:
            x = torch.where(inverted[:, None], 1 - (1 - nodes).pow(gamma[:, None]), x)
    return _catmull_rom(heights, x)


def random_heights(draws: Float[Tensor, "n k"], strength: Float[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """Knots of a random contrast: uniform `draws` at strength 1, the straight line at 0, mixed between."""
    line = torch.linspace(0, 1, draws.shape[1], dtype=draws.dtype, device=draws.device)
    return line + strength[:, None] * (draws - line)


def change_signal(
    image: Float[Tensor, "n c y x"],
    curve: Float[Tensor, "n m"] | None,
    log_bias: Float[Tensor, "n 1 y x"] | None,
) -> Float[Tensor, "n c y x"]:
    """The image as another contrast, gamma or coil would show it, on the intensity scale that it came in.

    Each channel's own range is taken for [0, 1], which assumes what `prepare` does: outliers clipped
    (0.5 to 99.5 %). Then curve, then multiplication by exp(`log_bias`), then back to the mean and standard
    deviation that the channel had. A constant channel stays as it is.
    """
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    signal = (image - low).div_((high - low).clamp_min_(_TINY))
    if curve is not None:
        signal = look_up(signal, curve)
    if log_bias is not None:
        signal = signal * log_bias.exp()
    return standardise_like(signal, image)


def look_up(signal: Float[Tensor, "n c y x"], curve: Float[Tensor, "n m"]) -> Float[Tensor, "n c y x"]:
    """A tabulated curve over [0, 1] applied to intensities in [0, 1], linear between its nodes."""
    place = signal.flatten(1) * (curve.shape[1] - 1)
    node = place.to(torch.int64).clamp_(0, curve.shape[1] - 2)
    beyond = place.sub_(node)
    return curve.gather(1, node).addcmul_(curve.diff(dim=1).gather(1, node), beyond).view_as(signal)


def standardise_like(
    image: Float[Tensor, "n c y x"], reference: Float[Tensor, "n c y x"]
) -> Float[Tensor, "n c y x"]:
    """The image scaled and shifted to the mean and standard deviation of the reference, channel by channel."""
    centred = image - image.mean((2, 3), keepdim=True)
    mean, sd = mean_and_sd(reference)
    return centred.mul_(sd / _root_mean_square(centred).clamp_min_(_TINY)).add_(mean)


def mean_and_sd(image: Float[Tensor, "n c y x"]) -> tuple[Float[Tensor, "n c 1 1"], Float[Tensor, "n c 1 1"]]:
    """Mean and standard deviation of each channel; without losing a small deviation on a large mean."""
    mean = image.mean((2, 3), keepdim=True)
    return mean, _root_mean_square(image - mean)


def blur(image: Float[Tensor, "n c y x"], taps: Float[Tensor, "n w"]) -> Float[Tensor, "n c y x"]:
    """Each sample filtered along rows and columns with its own `taps`; edges continue with their last pixel."""
    n, c, y, x = image.shape
    reach = taps.shape[1] // 2
    weights = taps.repeat_interleave(c, dim=0)
    padded = F.pad(image, (reach, reach, reach, reach), mode="replicate").view(1, n * c, y + 2 * reach, -1)
    along_rows = F.conv2d(padded, weights[:, None, None, :], groups=n * c)
    return F.conv2d(along_rows, weights[:, None, :, None], groups=n * c).view(n, c, y, x)


def gaussian_taps(sigma_px: Float[Tensor, " n"], reach: int) -> Float[Tensor, "n w"]:
    """A sampled Gaussian of 2 `reach` + 1 taps that sum to one; a sigma of 0 leaves the image as it is."""
    offsets = torch.arange(-reach, reach + 1, dtype=sigma_px.dtype, device=sigma_px.device)
    taps = torch.exp(-0.5 * (offsets / sigma_px.clamp_min(_TINY)[:, None]) ** 2)
    return taps / taps.sum(1, keepdim=True)


def _catmull_rom(heights: Float[Tensor, "n k"], x: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    k = heights.shape[1]
    slopes = torch.cat(
        (
            heights[:, 1:2] - heights[:, :1],
            (heights[:, 2:] - heights[:, :-2]) / 2,
            heights[:, -1:] - heights[:, -2:-1],
        ),
        dim=1,
    )
    place = x * (k - 1)
    left = place.to(torch.int64).clamp(0, k - 2)
    t = place - left
    start, end = heights.gather(1, left), heights.gather(1, left + 1)
    out, into = slopes.gather(1, left), slopes.gather(1, left + 1)
    rise = t * t * (3 - 2 * t)
    return start + (end - start) * rise + t * (1 - t) * (out * (1 - t) - into * t)


def _root_mean_square(image: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c 1 1"]:
    length: Tensor = torch.linalg.vector_norm(image, dim=(2, 3), keepdim=True)
    return length / math.sqrt(image.shape[2] * image.shape[3])
