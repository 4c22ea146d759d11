"""Draw docs/figures/phantom.png: the phantom's sequences, groups, phases and scanners. No patient is in it.

Run from the repository root: `python docs/figures/make_phantom_figure.py [out.png]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageColor

from crossbeat.labels import Structure
from crossbeat.synthetic.anatomy import GROUPS, Heart
from crossbeat.synthetic.cohort import draw_subject, scan_slice
from crossbeat.synthetic.imaging import draw_lattice, draw_session
from crossbeat.synthetic.sampling import Slice
from crossbeat.synthetic.scanners import SCANNERS

COLOURS = {
    Structure.LV: "#e4572e",
    Structure.MYO: "#f2c14e",
    Structure.RV: "#3fb8d4",
    Structure.SCAR: "#d65db1",
}
COLOURS[Structure.EDEMA] = "#7bd389"


def take(
    heart: Heart, sequence: str, vendor: str, phase: float, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels (y, x) of the slice at a share of the ventricle's length from the base."""
    scanner, rng = SCANNERS[vendor], np.random.default_rng(7)
    session = draw_session(rng, heart, scanner, sequence, draw_lattice(np.random.default_rng(1)))
    protocol, axes = scanner.protocols[sequence], heart.axes_matrix
    right, down = -axes[0] * protocol.pixel_mm, axes[1] * protocol.pixel_mm
    (ny, nx), middle = protocol.matrix, heart.heart_to_mm(np.array([0, 0, share * heart.shape.length_mm]))
    origin = middle - right * 0.36 * nx - down * 0.55 * ny
    cut = Slice(origin, right, down, -axes[2], protocol.matrix, protocol.thickness_mm)
    image, labels = scan_slice(rng, session, cut, np.array([phase]))
    return image[0], labels[0]


def show(axes: Axes, image: np.ndarray, labels: np.ndarray, title: str, outline: bool, crop: bool) -> None:
    """One picture, round the heart or whole, with or without its labels as contours."""
    if crop:
        y, x = (int(v.mean()) for v in np.nonzero(labels))
        half = image.shape[0] // 5
        window = slice(max(y - half, 0), y + half), slice(max(x - half, 0), x + half)
        image, labels = image[window], labels[window]
    axes.imshow(image, cmap="gray", vmin=0, vmax=np.percentile(image, 99.6))
    for structure, colour in COLOURS.items():
        if outline and (labels == structure).any():
            axes.contour(labels == structure, [0.5], colors=colour, linewidths=0.8)
    axes.set_title(title, fontsize=8, pad=2)
    axes.axis("off")


def main(out: Path) -> None:
    """Four rows: sequences, groups, the beat, and scanners."""
    figure, grid = plt.subplots(4, 6, figsize=(9.6, 6.9))
    infarct = draw_subject(1, 1, "MINF")
    for k, sequence in enumerate(("bssfp", "t2", "lge")):
        phase = 0.0 if sequence == "bssfp" else 0.75
        picture = take(infarct, sequence, "a", phase, 0.5)
        show(grid[0, 2 * k], *picture, f"{sequence}, infarct", outline=False, crop=False)
        show(grid[0, 2 * k + 1], *picture, "its labels", outline=True, crop=True)
    for k, group in enumerate(GROUPS):
        heart = draw_subject(0, k, group)
        title = f"{group}: EDV {heart.edv_ml:.0f} ml, EF {heart.ef_percent:.0f} %"
        show(grid[1, k], *take(heart, "bssfp", "a", 0.0, 0.45), title, outline=False, crop=True)
    show(
        grid[1, 5],
        *take(draw_subject(0, 0, "NOR"), "bssfp", "a", 0, 0.05),
        "NOR, base",
        outline=False,
        crop=True,
    )
    for k, phase in enumerate((0.0, 0.15, 0.35, 0.5, 0.7, 0.9)):
        picture = take(draw_subject(0, 0, "NOR"), "bssfp", "b", phase, 0.5)
        show(grid[2, k], *picture, f"phase {phase:g}", outline=True, crop=True)
    for k, vendor in enumerate("abcd"):
        show(
            grid[3, k],
            *take(infarct, "bssfp", vendor, 0.0, 0.35),
            f"scanner {vendor}",
            outline=False,
            crop=False,
        )
    for k, vendor in enumerate("bd"):
        show(
            grid[3, 4 + k],
            *take(infarct, "lge", vendor, 0.75, 0.5),
            f"lge, {vendor}",
            outline=False,
            crop=True,
        )
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.97, 0.03, 0.12)
    figure.savefig(out, dpi=100)
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE).save(out, optimize=True)


def _palette() -> Image.Image:
    """Greys, and the contours' colours mixed with them: a third of the size of a picture in full colour."""
    greys = [(v, v, v) for v in np.linspace(0, 255, 96).round().astype(int).tolist()]
    colours = [ImageColor.getrgb(colour) for colour in COLOURS.values()]
    mixed = [
        tuple(round(share * c + (1 - share) * grey) for c in colour)
        for colour in colours for share in (1.0, 0.8, 0.6, 0.4) for grey in (20, 80, 140, 200)
    ]  # fmt: skip
    palette = Image.new("P", (1, 1))
    palette.putpalette([v for colour in greys + mixed for v in colour])
    return palette


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("phantom.png"))
