"""Images a second of the batched augmentation beside MONAI's dictionary transforms of the same kinds, in one run.

    python benchmarks/augmentation.py [--device cpu|cuda] [--threads 1] [--batch 16] [--size 224] [--json OUT]

Both change the same slices (field of 1.5 times the output) with the same ranges and probabilities, one process,
the same threads. MONAI works one sample at a time on the CPU, which is what a DataLoader's worker would do;
rounds of the two alternate, so that other work on the machine hits both, and the median of their ratios is printed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from sides import parser, take_turns, tell
from torch import Tensor

from crossbeat.prepare.augment import RANDOM_CONTRAST, STANDARD, Augmentation, apply, draw

KINDS: dict[str, Augmentation] = {
    "affine": Augmentation(rotation_deg=(-30, 30), shear_deg=(-6, 6), zoom=(0.7, 1.4), shift_px=(-16, 16)),
    "elastic": Augmentation(elastic_px=(4, 4)),
    "gamma": Augmentation(gamma=(0.7, 1.5)),
    "random contrast": Augmentation(random_contrast_probability=1),
    "bias field": Augmentation(bias_field=(0.3, 0.3)),
    "blur": Augmentation(blur_px=(0.5, 1)),
    "noise": Augmentation(noise_sd=(0.1, 0.1)),
    "STANDARD": STANDARD,
    "RANDOM_CONTRAST": RANDOM_CONTRAST,
}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--size", type=int, default=224)
    made.add_argument("--rounds", type=int, default=15)
    made.set_defaults(threads=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    image, labels = slices(options.batch, 2 * round(0.75 * options.size))
    lines = []
    for name, settings in KINDS.items():
        ours = batched(settings, image.to(options.device), labels.to(options.device), options.size)
        theirs = one_by_one(monai_transforms(name, settings, options.size), image, labels)
        turns = take_turns(ours, theirs, options.rounds)
        lines.append(turns.line(name, "MONAI's transforms", "im/s", options.batch))
    tell(f"Augmentation of {options.size}-pixel slices", lines, options)


def slices(n: int, side: int) -> tuple[Tensor, Tensor]:
    """Smooth slices, clipped and z-scored as `prepare` makes them, with rings for hearts."""
    noise = np.random.default_rng(0).standard_normal((n, side, side))
    image = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 3, 3))).float()[:, None]
    image = ((image - image.mean()) / image.std()).clamp(-2.6, 2.6)
    middle = torch.arange(side) - side / 2
    radius = (middle[:, None] ** 2 + middle**2).sqrt()
    labels = ((radius < 25).byte() + (radius < 40).byte()).expand(n, -1, -1).contiguous()
    return image, labels


def batched(settings: Augmentation, image: Tensor, labels: Tensor, size: int) -> Callable[[int], None]:
    def go(step: int) -> None:
        made = draw(settings, len(image), torch.Generator().manual_seed(step)).to(image.device)
        apply(made, image, labels, size=(size, size))

    return go


def one_by_one(transform: Callable[[Any], Any], image: Tensor, labels: Tensor) -> Callable[[int], None]:
    def go(step: int) -> None:
        for i in range(len(image)):
            transform({"image": image[i], "labels": labels[i][None]})

    return go


def monai_transforms(name: str, settings: Augmentation, size: int) -> Callable[[Any], Any]:
    """The same kinds of change, ranges and probabilities, as far as MONAI has them."""
    warnings.filterwarnings("ignore")
    from monai import transforms as m

    both, modes, s = ["image", "labels"], ("bilinear", "nearest"), settings
    made: list[Any] = []
    whole = {"spatial_size": (size, size), "mode": modes, "padding_mode": "zeros"}
    if name in ("affine", "STANDARD", "RANDOM_CONTRAST"):
        made.append(
            m.RandAffined(
                both,
                prob=1 if name == "affine" else 0.85,  # share of STANDARD's samples that turn, zoom or shift
                rotate_range=math.radians(s.rotation_deg[1]),
                shear_range=math.tan(math.radians(s.shear_deg[1])),
                scale_range=(s.zoom[0] - 1, s.zoom[1] - 1),
                translate_range=s.shift_px[1],
                **whole,
            )
        )
    made += [m.RandFlipd(both, prob=0.5, spatial_axis=a) for a in (0, 1) if s.flip_x_probability]
    if s.elastic_px[1]:
        spacing = (s.elastic_spacing_px, s.elastic_spacing_px)
        made.append(m.Rand2DElasticd(both, spacing, s.elastic_px, prob=s.elastic_probability, **whole))
    made.append(m.CenterSpatialCropd(both, (size, size)))
    if s.gamma != (1, 1):
        made.append(
            m.RandAdjustContrastd("image", prob=s.gamma_probability, gamma=s.gamma, retain_stats=True)
        )
    if s.random_contrast_probability:
        made.append(
            m.RandHistogramShiftd("image", s.random_contrast_knots, prob=s.random_contrast_probability)
        )
    if s.bias_field[1]:
        made.append(m.RandBiasFieldd("image", prob=s.bias_probability, coeff_range=(0.0, 0.1)))
    if s.contrast != (1, 1):
        made.append(m.RandScaleIntensityd("image", 0.25, prob=s.contrast_probability))
        made.append(m.RandShiftIntensityd("image", 0.3, prob=s.brightness_probability))
    if s.blur_px[1]:
        made.append(m.RandGaussianSmoothd("image", s.blur_px, s.blur_px, prob=s.blur_probability))
    if s.noise_sd[1]:
        made.append(m.RandGaussianNoised("image", prob=s.noise_probability, std=s.noise_sd[1]))
    return m.Compose(made).set_random_state(seed=0)


if __name__ == "__main__":
    main()
