"""A scan in, the same scan in another style out, on its own grid; and how one slice looks along a style's code.

For looking at what a stylizer does and for using its images elsewhere. Training does not pass here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.methods.stylization.segmentation import climbed, loss_of
from crossbeat.methods.stylization.settings import Settings
from crossbeat.methods.stylization.stylizer import Stylizer
from crossbeat.networks.rain import StyleCode
from crossbeat.prepare.slices import Batch, SliceBank, build_bank
from crossbeat.prepare.volumes import Preparation, Window, covered_pixels, crop, pad, slices_of, window_of
from crossbeat.segmenter import Segmenter

SLICES_AT_ONCE: Final = 16
SPREADS: Final = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""k in ψ + k ξ. A draw ψ + ξ n lies about as far from ψ as k = 1, and training searches as far as k = 3."""


@dataclass(frozen=True, eq=False)
class Content:
    """A scan as a stylizer is given it, slice by slice, frame by frame."""

    case: Case
    window: Window
    bank: SliceBank
    """Its n slices, in their fields."""
    low: Float[Tensor, "n 1 1 1"]
    """Intensity of each slice that is 0 for the stylizer; all below is cut off."""
    high: Float[Tensor, "n 1 1 1"]

    @property
    def images(self) -> Float[Tensor, "n 1 s s"]:
        """The crops, in [0, 1]."""
        return crop(self.bank.images, self.bank.preparation.size)

    @property
    def labels(self) -> UInt8[Tensor, "n s s"]:
        """Those of the crops; `UNKNOWN` where nobody looked."""
        return crop(self.bank.labels[:, None], self.bank.preparation.size)[:, 0]

    @property
    def covered(self) -> Bool[Tensor, "s s"]:
        """The pixels of a crop that the scan covers."""
        return crop(covered_pixels(self.window)[None, None], self.bank.preparation.size)[0, 0]

    def plain(self) -> NDArray[np.float32]:
        """The scan as it is on the stylizer's scale: (t, z, y, x), each slice cut off at its percentiles, in [0, 1]."""
        whole = ((slices_of(self.case.image) - self.low) / (self.high - self.low)).clamp(0, 1)
        return np.asarray(whole.reshape(self.case.image.shape).numpy(), np.float32)

    def on_grid(self, crops: Float[Tensor, "n 1 s s"]) -> NDArray[np.float32]:
        """Crops on the scan's own grid (t, z, y, x), in [0, 1]; around them stands the scan as it is, `plain`."""
        shape = self.case.image.shape
        ours = self.window.paste(pad(crops, self.window.size))
        share = self.window.paste(pad(torch.ones_like(crops[:1]), self.window.size))
        around = torch.from_numpy(self.plain()).reshape(ours.shape)
        return np.asarray((ours + (1 - share) * around).clamp(0, 1).reshape(shape).numpy(), np.float32)

    def within(self, image: NDArray[np.float32]) -> Case:
        """The scan with another image, cut to what is restyled: a rectangle of its slices without the rest around."""
        field = torch.ones(1, 1, self.window.size, self.window.size)
        share = self.window.paste(pad(crop(field, self.bank.preparation.size), self.window.size))[0, 0] > 0.99
        rows, columns = (torch.nonzero(share.any(dim=axis)).flatten().tolist() for axis in (1, 0))
        y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        affine = self.case.affine.copy()
        affine[:3, 3] += x.start * affine[:3, 0] + y.start * affine[:3, 1]
        labels = None if self.case.labels is None else self.case.labels[:, :, y, x]
        return replace(self.case, image=np.ascontiguousarray(image[:, :, y, x]), labels=labels, affine=affine)

    def slice(self, frame: int, z: int) -> Batch:
        """One slice with its labels, as a segmenter trains on it."""
        size = self.bank.preparation.size
        batch = self.bank.batch(torch.tensor([frame * self.case.image.shape[1] + z]))
        return Batch(crop(batch.image, size), crop(batch.labels[:, None], size)[:, 0], batch.drawn)


def prepare(case: Case, preparation: Preparation, *, about_heart: bool = True) -> Content:
    """A scan's slices for a stylizer, cropped about its labelled heart, where the preparation says so and it has one.

    Not `about_heart` crops about the image's centre, as styles are, whose labels nobody sees in training.
    """
    given = preparation if about_heart else preparation.model_copy(update={"centre": "image"})
    row = Row(case.subject, case.id, case.domain.sequence, "-")
    bank = build_bank(Cohort((row,), lambda row: case, case.id), given)
    window = window_of(case, given)
    return Content(case, window, bank, *_ends(case, window, given))


@torch.no_grad()
def restyle(content: Content, stylizer: Stylizer, code: Float[Tensor, "1 ..."]) -> Float[Tensor, "n 1 s s"]:
    """Every slice in the style of one code, as crops in [0, 1] on the CPU."""
    images = content.images
    made = [
        stylizer.stylise(images[first : first + SLICES_AT_ONCE].to(code.device), code).cpu()
        for first in range(0, len(images), SLICES_AT_ONCE)
    ]
    return torch.cat(made)


def along_spread(style: StyleCode, steps: Sequence[float] = SPREADS) -> Float[Tensor, "k d"]:
    """The codes ψ + k ξ of one style, k by k."""
    return torch.cat([style.centre + k * style.spread for k in steps])


def uphill(
    stylizer: Stylizer, segmenter: Segmenter, settings: Settings, batch: Batch, style: StyleCode, ascents: int
) -> Float[Tensor, "k d"]:
    """ψ, and where each of so many steps up the segmentation loss of a batch leads from it.

    Rule, length and reach of a step are those of the settings, and so is the loss. Unlike in training they begin at ψ
    itself and follow this batch alone, under BatchNorm's running means. All weights stay as they are.
    """
    codes = [style.centre]
    batch = _beside(codes[0], batch)
    content = stylizer.read(batch.image)
    for _ in range(ascents):
        code = codes[-1].clone().requires_grad_()
        loss = _loss(stylizer, segmenter, settings, batch, content, code)
        (gradient,) = torch.autograd.grad(loss, code)
        codes.append(climbed(codes[-1], gradient, loss.detach(), style, settings))
    return torch.cat(codes)


@torch.no_grad()
def losses_of(
    stylizer: Stylizer, segmenter: Segmenter, settings: Settings, batch: Batch, codes: Float[Tensor, "k d"]
) -> list[float]:
    """The segmentation loss of a batch in the style of each code, as `uphill` climbs it."""
    batch = _beside(codes, batch)
    content = stylizer.read(batch.image)
    return [float(_loss(stylizer, segmenter, settings, batch, content, code[None])) for code in codes]


def _loss(
    stylizer: Stylizer, segmenter: Segmenter, settings: Settings, batch: Batch, content: Tensor, code: Tensor
) -> Tensor:
    segmenter.network.eval()
    size = (batch.image.shape[2], batch.image.shape[3])
    image = stylizer.render(content, code, size).expand(-1, segmenter.spec.in_channels, -1, -1)
    loss: Tensor = loss_of(segmenter.network(image), batch, settings)
    return loss


def _beside(code: Tensor, batch: Batch) -> Batch:
    return Batch(*(part.to(code.device) for part in (batch.image, batch.labels, batch.drawn)))


def _ends(case: Case, window: Window, preparation: Preparation) -> tuple[Tensor, Tensor]:
    """What `prepare.volumes.normalise` makes 0 and 1, which it does not tell; a test holds them alike."""
    rows, columns = window.inside
    seen = window.cut(slices_of(case.image))[:, :, rows, columns].flatten(1)
    n = len(seen)
    if preparation.per == "volume":
        seen = seen.reshape(1, -1)
    at = torch.tensor([preparation.low_percentile, preparation.high_percentile], dtype=seen.dtype) / 100
    stride = max(1, seen.shape[1] // 1_000_000)
    low, high = torch.quantile(seen[:, ::stride], at, dim=1)
    high = torch.where(high - low > 1e-8, high, low + 1)
    return low.expand(n).reshape(-1, 1, 1, 1), high.expand(n).reshape(-1, 1, 1, 1)
