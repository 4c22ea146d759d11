"""Draw docs/figures/tags.png: tagged scans of the phantom, and its cine tagged by formula. No patient is in it.

Run from the repository root: `python docs/figures/make_tag_figure.py [out.png]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from crossbeat.synthetic.cohort import Scan, Twins, draw_subject, scan_heart, scan_twins
from crossbeat.synthetic.tagging import Fading, Simulation, draw, tag

FRAMES = 25
LATE = 22
ROWS = (
    ("a boy, scanner a", "BOY", "a"),
    ("dystrophy, c", "DMD", "c"),
    ("hypertrophic, b", "HCM", "b"),
    ("infarct, d", "MINF", "d"),
)
MODELS = {
    "as in the paper": (Simulation(spacing=(7.14, 7.14)), False),
    "moving and fading": (
        Simulation(spacing=(7.14, 7.14), fading=Fading(), resolved=0.8, noise_sd=(0.02, 0.02)),
        True,
    ),
}


def around(scan: Scan) -> tuple[slice, slice]:
    """A window around the heart of the first frame, half of it 48 voxels."""
    y, x = (int(v.mean()) for v in np.nonzero(scan.labels[0, 0]))
    return slice(max(y - 48, 0), y + 48), slice(max(x - 48, 0), x + 48)


def simulated(twins: Twins, simulation: Simulation, moves: bool) -> np.ndarray:
    """The frames (t, y, x) of the cine with tags on."""
    cine, moved = twins.cine, twins.cine.displacement_mm
    assert moved is not None
    pixel = float(np.linalg.norm(cine.affine[:3, 0]))
    image = torch.from_numpy(cine.image[:, 0].astype(np.float32))
    generator = torch.Generator().manual_seed(4)
    return np.asarray(
        tag(
            image,
            draw(simulation, 1, generator).take([0] * len(image)),
            simulation,
            pixel=(pixel, pixel),
            peak=torch.full((len(image),), float(np.percentile(cine.image, 99.8))),
            labels=torch.from_numpy(cine.labels[:, 0]),
            displacement=torch.from_numpy(moved[:, 1:, 0]) if moves else None,
            pulses=torch.arange(len(image)).float(),
            noise=torch.randn((len(image), 2, *image.shape[1:]), generator=generator),
        ).numpy()
    )


def show(row: np.ndarray, images: list[np.ndarray], titles: list[str]) -> None:
    """Pictures beside each other, on one scale of grey."""
    top = np.percentile(np.stack(images), 99.6)
    for axes, image, title in zip(row, images, titles, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=top)
        axes.set_title(title, fontsize=8, pad=2)


def main(out: Path) -> None:
    """Rows of four: two columns of tagged phantoms, then one heart's truth beside two models of it."""
    figure, grid = plt.subplots(4, 8, figsize=(12.8, 6.75))
    for axes in grid.ravel():
        axes.axis("off")
    for k, (name, group, vendor) in enumerate(ROWS):
        scan = scan_heart(draw_subject(0, k, group), "tagged", vendor, frames=FRAMES, slices=1, subject=k)
        frames = [0, 4, int(scan.es_frame or 0), LATE]
        cut = around(scan)
        titles = [f"{name}: ED", "ejection", "ES", "late diastole"]
        show(grid[k, :4], [scan.image[t, 0][cut] for t in frames], titles)
    twins = scan_twins(draw_subject(0, 0, "BOY"), "a", "a", frames=FRAMES, slices=1)
    frames, cut = [0, 4, int(twins.cine.es_frame or 0), LATE], around(twins.cine)
    show(
        grid[0, 4:],
        [twins.cine.image[t, 0][cut] for t in frames],
        ["a cine: ED", "ejection", "ES", "late diastole"],
    )
    show(grid[1, 4:], [twins.tagged.image[t, 0][cut] for t in frames], ["the same heart tagged", "", "", ""])
    for k, (name, (simulation, moves)) in enumerate(MODELS.items()):
        found = simulated(twins, simulation, moves)
        show(grid[2 + k, 4:], [found[t][cut] for t in frames], [f"by formula, {name}", "", "", ""])
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.97, 0.03, 0.12)
    figure.savefig(out, dpi=100)
    with Image.open(out) as picture:
        picture.convert("L").quantize(64, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("tags.png"))
