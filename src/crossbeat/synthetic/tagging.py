"""Cine images in, tagged ones out: two sets of lines by the Bloch equations, which may move, fade and be drawn anew.

The physics-driven transform of Dhaene 2023 (doi 10.3390/bioengineering10020166; methods.md 4.4) is `Simulation()`; what
goes beyond it is off until asked for. The phantom's own tagged scans come from `spamm`, which shares no code with this.

| Here | In the paper |
|---|---|
| `modulation` of an angle | F(θ), the longitudinal magnetisation that a train of pulses leaves |
| `train`, `flip_deg` | 1-3-3-1, 70° together |
| `spacing` | 5 pixels, across the lines |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.labels import Structure

Contrast = Literal["sqrt", "power0.4_myo", "none"]
"""What the grey values of cine go through first: a square root (text), or the power 0.4 above a threshold (code)."""

Range = tuple[float, float]

AUTHORS_MEAN: Final = 0.7507453  # of the authors' CycleGAN's output, as their code standardises to; 4.4
AUTHORS_SD: Final = 0.18098551
_POWER: Final = 0.4  # the code's; the text has a square root; 4.4
_LEAST_THRESHOLD: Final = 1 / 255  # the authors' grey values run to 255
_ACROSS_DEG: Final = (45.0, -45.0)  # two diagonals, 4.4


@dataclass(frozen=True)
class Fading:
    """How lines fade while a cine is taken: by T1, and by the pulses that take it.

    The ranges are those of the simulator of the same laboratory (methods.md 4.4): blood's short T1 stands for inflow.
    """

    t1_ms: Range = (900.0, 1200.0)
    blood_t1_ms: Range | None = (30.0, 60.0)
    """Of what is labelled a cavity; None: as if nothing flowed in. Without labels all has `t1_ms`."""
    flip_deg: Range = (14.0, 20.0)
    """Of the imaging pulse, one a frame."""
    tr_ms: float = 40.0
    """Between two of them: the time of a frame, where the scan's own is not known."""


@dataclass(frozen=True)
class Simulation:
    """How scans are tagged; a range whose ends are equal is one value. The defaults are the paper's.

    Lengths are in the unit of the pixel size that comes with the images: mm, or pixels where that is 1.
    """

    spacing: Range = (5.0, 5.0)
    """Between two lines, measured across them."""
    turn_deg: Range = (0.0, 0.0)
    """Of both sets together, from the diagonals."""
    phase: Literal["fixed", "random"] = "fixed"
    """fixed: a line of each set runs through the first voxel."""
    flip_deg: Range = (70.0, 70.0)
    """Of a whole train; (0, 180]."""
    train: tuple[int, ...] = (1, 3, 3, 1)
    """Shares of the flip angle: a row of Pascal's triangle; more pulses make thinner lines."""
    contrast: Contrast = "sqrt"
    quantile: Range = (0.0, 0.5)
    """Of the myocardium's grey values: the threshold of `power0.4_myo`."""
    fading: Fading | None = None
    resolved: float = 1.0
    """Share of k-space that is kept, (0, 1]; 1: all, unfiltered."""
    kaiser_beta: float = 4.0
    """Of the Kaiser window over what is kept; 0: none. Ours."""
    noise_sd: Range = (0.0, 0.0)
    """Of each channel of Rician noise, in units of the image's peak."""
    standardised: bool = False
    """Whether each image gets the mean and SD of the authors' CycleGAN, as their code does."""

    def __post_init__(self) -> None:
        for name in ("spacing", "turn_deg", "flip_deg", "quantile", "noise_sd"):
            low, high = getattr(self, name)
            if not low <= high:
                raise SettingsError(f"tags: {name} must be a range from low to high, got {low:g} to {high:g}")
        if self.quantile[0] < 0 or self.quantile[1] > 1 or self.noise_sd[0] < 0 or self.kaiser_beta < 0:
            raise SettingsError(
                f"tags: need quantiles within [0, 1], noise and a Kaiser window of 0 or more, got "
                f"{self.quantile[0]:g} to {self.quantile[1]:g}, {self.noise_sd[0]:g} to {self.noise_sd[1]:g} and "
                f"{self.kaiser_beta:g}"
            )
        if self.spacing[0] <= 0 or not 0 < self.flip_deg[0] <= self.flip_deg[1] <= 180:
            raise SettingsError(
                f"tags: need a spacing above 0 and a flip angle within (0, 180] degrees, got {self.spacing[0]:g} and "
                f"{self.flip_deg[0]:g} to {self.flip_deg[1]:g}"
            )
        if len(self.train) < 2 or min(self.train) <= 0 or not 0 < self.resolved <= 1:
            raise SettingsError(
                f"tags: need a train of two pulses or more and a share of k-space within (0, 1], got "
                f"{'-'.join(map(str, self.train))} and {self.resolved:g}"
            )

    def check_spacing(self, pixel: tuple[float, float]) -> None:
        """Refuse lines closer than `least_spacing` (`SettingsError`)."""
        least = least_spacing(max(pixel), self.resolved)
        low, high = self.spacing
        if low < least * (1 - 1e-6):
            varied = "" if low == high else f" ({low:g} to {high:g}, as it is varied)"
            blurred = (
                ""
                if self.resolved == 1
                else f" ({max(pixel) / self.resolved:.3g} as the low pass leaves them)"
            )
            raise SettingsError(
                f"tags {low:g} apart{varied} on pixels of {max(pixel):g}{blurred}: lines closer than two pixels cannot "
                f"be told apart; keep the closest {math.ceil(least * 1000) / 1000:g} apart or more"
            )


@dataclass(frozen=True, eq=False)
class Tags:
    """How each of n images is tagged: what chance has decided. All frames of a scan share one entry."""

    spacing: Float[Tensor, " n"]
    across_deg: Float[Tensor, "n 2"]
    """Direction across each set's lines, from along the rows towards down the columns."""
    phase_rad: Float[Tensor, "n 2"]
    """Angle θ at the first voxel; a line's middle is where θ is a whole turn."""
    flip_deg: Float[Tensor, " n"]
    quantile: Float[Tensor, " n"]
    t1_ms: Float[Tensor, " n"]
    blood_t1_ms: Float[Tensor, " n"]
    imaging_flip_deg: Float[Tensor, " n"]
    noise_sd: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.spacing)

    def take(self, indices: Int[Tensor, " m"] | slice | list[int]) -> Tags:
        """Those of some images, in that order, or one entry for all frames of a scan."""
        return self._each(lambda part: part[indices])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Tags:
        """The same on another device, or in another precision."""
        return self._each(lambda part: part.to(device, dtype, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Tags:
        parts: dict[str, Any] = {f.name: change(getattr(self, f.name)) for f in fields(self)}
        return replace(self, **parts)


_NUMBERS: Final = 10
"""Random numbers of one sample; new ones go to the end, so that old draws stay."""


def least_spacing(pixel: float, resolved: float = 1.0) -> float:
    """Of lines that are allowed: two pixels (Nyquist), as large as the share `resolved` of k-space leaves them.

    Closer ones show as others, further apart, or are filtered away; at the limit the Kaiser window leaves of diagonal
    lines about an eighth of their contrast.
    """
    return 2 * pixel / resolved


def fading_of(fade: bool, inflow: bool) -> Fading | None:
    """How lines fade, if they do: with fresh blood flowing in, or in blood as in tissue."""
    if not fade:
        return None
    return Fading() if inflow else Fading(blood_t1_ms=None)


def draw(simulation: Simulation, n: int, generator: torch.Generator) -> Tags:
    """Draw the tags of n scans, on the CPU, in float64.

    The first scans of a larger batch get the same as those of a smaller one, and a range that opens changes no other.
    """
    numbers = torch.rand((n, _NUMBERS), generator=generator, dtype=torch.float64)
    fading = simulation.fading or Fading()

    def within(number: int, ends: Range) -> Float[Tensor, " n"]:
        return ends[0] + (ends[1] - ends[0]) * numbers[:, number]

    t1_ms = within(6, fading.t1_ms)
    across = within(1, simulation.turn_deg)[:, None] + torch.tensor(_ACROSS_DEG, dtype=torch.float64)
    return Tags(
        spacing=within(0, simulation.spacing),
        across_deg=across,
        phase_rad=numbers[:, 2:4] * (2 * math.pi if simulation.phase == "random" else 0.0),
        flip_deg=within(4, simulation.flip_deg),
        quantile=within(5, simulation.quantile),
        t1_ms=t1_ms,
        blood_t1_ms=t1_ms if fading.blood_t1_ms is None else within(9, fading.blood_t1_ms),
        imaging_flip_deg=within(7, fading.flip_deg),
        noise_sd=within(8, simulation.noise_sd),
    )


def tag(
    image: Float[Tensor, "n y x"],
    tags: Tags,
    simulation: Simulation,
    *,
    pixel: tuple[float, float] = (1.0, 1.0),
    peak: Float[Tensor, " n"] | None = None,
    labels: UInt8[Tensor, "n y x"] | None = None,
    displacement: Float[Tensor, "n 2 y x"] | None = None,
    pulses: Float[Tensor, " n"] | None = None,
    tr_ms: Float[Tensor, " n"] | None = None,
    noise: Float[Tensor, "n 2 y x"] | None = None,
) -> Float[Tensor, "n y x"]:
    """Cine images as they would look tagged, in units of `peak` (each image's largest value where none is given).

    `pixel` is the size of a pixel along (rows' distance, columns' distance). Of the other arguments each is needed for
    one thing: `labels` for the code's contrast (without myocardium the whole image gets it) and for the blood's T1;
    `displacement`, from each pixel along (row, column) to where its tissue lay when the lines were laid, in the unit of
    `pixel`, for lines that move; `pulses`, how many frames ago they were laid (any number from 0), `tr_ms` apart, for
    lines that fade; `noise`, normal numbers of two channels, where the simulation has some. Values below 0 count as 0.
    Each image is as it would be alone. Lines closer than two pixels raise `SettingsError`, fading without `pulses` and
    noise without `noise` `ValueError`.
    """
    simulation.check_spacing(pixel)
    if (simulation.fading is not None and pulses is None) or (simulation.noise_sd[1] > 0 and noise is None):
        raise ValueError("tag: fading lines need `pulses`, and a simulation with noise needs `noise`")
    tags = tags.to(image.device, image.dtype)
    light = image.clamp_min(0) / _wide(image.amax((1, 2)) if peak is None else peak).clamp_min(1e-12)
    myocardium = None if labels is None else labels == Structure.MYO
    seen = change_contrast(light, simulation.contrast, tags.quantile, myocardium)
    lines = tag_lines(tags, simulation.train, (image.shape[1], image.shape[2]), pixel, displacement)
    if simulation.fading is not None:
        assert pulses is not None
        lines = _faded(lines, tags, simulation.fading, labels, pulses, tr_ms)
    seen = low_pass(seen * lines, simulation.resolved, simulation.kaiser_beta)
    seen = seen.abs() if noise is None else add_rician_noise(seen, tags.noise_sd, noise)
    return standardise(seen) if simulation.standardised else seen


def modulation(
    theta: Float[Tensor, "n y x"], flip_deg: Float[Tensor, " n"], train: tuple[int, ...] = (1, 3, 3, 1)
) -> Float[Tensor, "n y x"]:
    """Longitudinal magnetisation Mz that a train of pulses leaves of 1, where spins turn by θ between two; signed.

    The Bloch equations without relaxation: from (0, 0, 1), rotations about x by the train's shares of the flip angle,
    and between them about z by θ. Least, cos of the flip angle, where θ is a whole turn: below 0 above 90°. The paper
    keeps |Mz|, as an image taken at once would (methods.md 4.4); what is upside down recovers through 0.
    """
    c, s = theta.cos(), theta.sin()
    mx, my, mz = torch.zeros_like(theta), torch.zeros_like(theta), torch.ones_like(theta)
    for k, share in enumerate(train):
        if k:
            mx, my = c * mx - s * my, s * mx + c * my
        angle = _wide(torch.deg2rad(flip_deg * (share / sum(train))))
        my, mz = angle.cos() * my - angle.sin() * mz, angle.sin() * my + angle.cos() * mz
    return mz


def tag_lines(
    tags: Tags,
    train: tuple[int, ...],
    size: tuple[int, int],
    pixel: tuple[float, float] = (1.0, 1.0),
    displacement: Float[Tensor, "n 2 y x"] | None = None,
) -> Float[Tensor, "n y x"]:
    """Both sets of lines on a grid of `size` (rows, columns): the product of two modulations, [-1, 1].

    With a `displacement` the lines are where the tissue has carried them.
    """
    own = {"dtype": tags.spacing.dtype, "device": tags.spacing.device}
    rows = torch.arange(size[0], **own)[:, None] * pixel[0]  # type: ignore[call-overload]
    columns = torch.arange(size[1], **own)[None, :] * pixel[1]  # type: ignore[call-overload]
    if displacement is not None:
        moved = displacement.to(tags.spacing.dtype)
        rows, columns = rows + moved[:, 0], columns + moved[:, 1]
    lines: Tensor = torch.ones((len(tags), *size), **own)  # type: ignore[call-overload]
    for each in range(2):
        across = torch.deg2rad(tags.across_deg[:, each])
        along = _wide(across.cos()) * columns + _wide(across.sin()) * rows
        theta = 2 * math.pi * along / _wide(tags.spacing) + _wide(tags.phase_rad[:, each])
        lines = lines * modulation(theta, tags.flip_deg, train)
    return lines


def fade(
    lines: Float[Tensor, "n y x"],
    pulses: Float[Tensor, " n"],
    t1_ms: Float[Tensor, "n y x"],
    tr_ms: Float[Tensor, " n"],
    flip_deg: Float[Tensor, " n"],
) -> Float[Tensor, "n y x"]:
    """What is left of the lines after so many imaging pulses, in units of the relaxed magnetisation S0.

    S_n = S_ss + (F S0 - S_ss) (cos α e^(-TR/T1))^n, with the steady state S_ss = S0 (1 - e^(-TR/T1)) /
    (1 - cos α e^(-TR/T1)); methods.md 4.4. At n = 0 the lines as they were laid.
    """
    recovery = (-_wide(tr_ms) / t1_ms).exp()
    kept = _wide(torch.deg2rad(flip_deg).cos()) * recovery
    steady = (1 - recovery) / (1 - kept)
    return steady + (lines - steady) * kept ** _wide(pulses)


def change_contrast(
    image: Float[Tensor, "n y x"],
    contrast: Contrast,
    quantile: Float[Tensor, " n"] | None = None,
    myocardium: Bool[Tensor, "n y x"] | None = None,
) -> Float[Tensor, "n y x"]:
    """Grey values from 0 up with the contrast of a tagged scan; 1 stays 1. methods.md 4.4, step 2.

    `power0.4_myo`: x^0.4 from a threshold T on, a straight line below it; T is the `quantile` of the myocardium's
    values, and at least 1/255. (The code has T (x / T)^0.4 and x, which is T^0.6 of this.) An image without
    myocardium, and all where no mask is given, becomes x^0.4. Brighter stays brighter.
    """
    if contrast == "none":
        return image
    if contrast == "sqrt":
        return image.sqrt()
    if myocardium is None or quantile is None:
        return image**_POWER
    threshold = _wide(_masked_quantile(image, myocardium, quantile)).clamp_min(_LEAST_THRESHOLD)
    bent = torch.where(image >= threshold, image**_POWER, image * threshold ** (_POWER - 1))
    return torch.where(_wide(myocardium.flatten(1).any(1)), bent, image**_POWER)


def low_pass(image: Float[Tensor, "n y x"], resolved: float, beta: float) -> Float[Tensor, "n y x"]:
    """Magnitude of the images with k-space cut to the share `resolved` along both axes, under a Kaiser window.

    At 1 they come back as they are.
    """
    if resolved >= 1:
        return image
    rows, columns = (_kaiser(length, resolved, beta, image) for length in image.shape[1:])
    seen: Tensor = torch.fft.ifft2(torch.fft.fft2(image) * (rows[:, None] * columns)).abs()
    return seen


def add_rician_noise(
    image: Float[Tensor, "n y x"], sd: Float[Tensor, " n"], noise: Float[Tensor, "n 2 y x"]
) -> Float[Tensor, "n y x"]:
    """Magnitude of an image with noise of this SD in both channels, made of normal numbers (Rice 1944)."""
    real, imaginary = (_wide(sd) * noise[:, k] for k in range(2))
    return torch.hypot(image + real, imaginary)


def standardise(image: Float[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
    """Each image with the mean and SD of the authors' CycleGAN; an even image gets their mean."""
    mean = image.mean((1, 2), keepdim=True)
    sd = (image - mean).square().mean((1, 2), keepdim=True).sqrt()
    return (image - mean) / sd.clamp_min(1e-12) * AUTHORS_SD + AUTHORS_MEAN


def _faded(
    lines: Float[Tensor, "n y x"],
    tags: Tags,
    fading: Fading,
    labels: UInt8[Tensor, "n y x"] | None,
    pulses: Float[Tensor, " n"],
    tr_ms: Float[Tensor, " n"] | None,
) -> Float[Tensor, "n y x"]:
    between = torch.full_like(tags.t1_ms, fading.tr_ms) if tr_ms is None else tr_ms.to(lines)

    def faded(t1_ms: Float[Tensor, " n"]) -> Float[Tensor, "n y x"]:
        return fade(lines, pulses.to(lines), _wide(t1_ms).expand_as(lines), between, tags.imaging_flip_deg)

    tissue = faded(tags.t1_ms)
    if labels is None:
        return tissue
    share = _soft(((labels == Structure.LV) | (labels == Structure.RV)).to(lines))
    return tissue + share * (faded(tags.blood_t1_ms) - tissue)


def _soft(mask: Float[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
    """A mask whose edge is two pixels wide: were blood to stop sharper than images show, a net would see the label."""
    return F.avg_pool2d(mask[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]


def _masked_quantile(
    image: Float[Tensor, "n y x"], mask: Bool[Tensor, "n y x"], quantile: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Quantile of each image's values under its mask, linear between two; 0 where the mask is empty."""
    inside = mask.flatten(1)
    ordered = image.flatten(1).masked_fill(~inside, torch.inf).sort(dim=1).values
    last = (inside.sum(1) - 1).clamp_min(0)
    place = quantile * last
    low = place.floor().long()
    ends = torch.stack((low, torch.minimum(low + 1, last)), dim=1)
    low_value, high_value = ordered.gather(1, ends).unbind(1)
    found = low_value + (place - low) * (high_value - low_value)
    return torch.where(inside.any(1), found, torch.zeros_like(found))


def _kaiser(length: int, resolved: float, beta: float, like: Tensor) -> Float[Tensor, " length"]:
    """Weights of k-space in the order of the FFT: I0(β √(1 - (k/k_c)²)) / I0(β) up to the cut k_c, 0 beyond."""
    k = torch.fft.fftfreq(length, dtype=like.dtype, device=like.device).abs() * 2 / resolved
    highest = float(
        torch.special.i0(torch.tensor(beta, dtype=torch.float64))
    )  # on the CPU: no device is waited for
    window = torch.special.i0(beta * (1 - k * k).clamp_min(0).sqrt()) / highest
    return torch.where(k <= 1 + 1e-4, window, torch.zeros_like(window))  # k_c itself, however it is rounded


def _wide(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1)."""
    return values[:, None, None]
