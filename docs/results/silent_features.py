"""Where a segmenter's last layer hears nothing: the share of each structure's pixels at which all its features are 0.

For networks whose last layer takes rectified features, as SegResNetVAE. One that gives up a structure early may be left
without any feature there: what it says is then the last layer's bias, and those pixels teach the layers below nothing.
Of every finished cell of the arms named this segments the tested target scans, in the window about the true heart, and
prints a row: Dice of each structure, and those shares. Run from the repository root:
`python docs/results/silent_features.py OUT ARM ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from placed import heart_of, segmented
from study_tables import head, line_of
from torch import Tensor, nn
from training_scores import cells_of

from crossbeat.cohort import read_cohort
from crossbeat.data import reader
from crossbeat.errors import FileError
from crossbeat.labels import TRAINED
from crossbeat.prepare.volumes import crop, label_slices_of, window_of
from crossbeat.segmenter import Segmenter, load_segmenter


class Heard:
    """Whether any feature that goes into a segmenter's last layer is above 0, pixel by pixel."""

    def __init__(self, segmenter: Segmenter) -> None:
        layers = [layer for layer in segmenter.network.modules() if isinstance(layer, nn.Conv2d)]
        classes = len(segmenter.structures) + 1
        last = [layer for layer in layers if layer.out_channels == classes][-1]
        self.chunks: list[Tensor] = []
        self._hook = last.register_forward_pre_hook(self._take)

    def _take(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.chunks.append((given[0] > 0).any(dim=1).cpu())


def silent(cell: Path) -> dict[str, list[float]]:
    """By patient: `dice <structure>` in the window about the heart, and `silent <structure>`."""
    segmenter = load_segmenter(cell / "segmenter")
    heard = Heard(segmenter)
    cohort = read_cohort(cell / "cohort.csv", reader).where(split="test", sequence="tagged", centre="tagged")
    found: dict[str, list[float]] = {}
    for row in cohort:
        case = cohort.read(row)
        assert case.labels is not None
        heart = heart_of(case)
        heard.chunks.clear()
        predicted = segmented(segmenter, case, heart)
        window = window_of(case, segmenter.preparation, centre=heart)
        cut = crop(window.cut_labels(label_slices_of(case))[:, None].float(), segmenter.preparation.size)[
            :, 0
        ]
        quiet = ~torch.cat(heard.chunks)
        for structure in TRAINED:
            ours, theirs = predicted == structure, case.labels == structure
            size = ours.sum() + theirs.sum()
            dice = 2 * (ours & theirs).sum() / size if size else np.nan
            found.setdefault(f"dice {structure.name}", []).append(float(dice))
            share = quiet[cut == structure].float().mean()
            found.setdefault(f"silent {structure.name}", []).append(float(share))
    return found


def main(words: Sequence[str]) -> None:
    """A row a cell."""
    if len(words) < 2:
        raise SystemExit(
            "say which study's folder and arms: python docs/results/silent_features.py OUT ARM ..."
        )
    out, arms = Path(words[0]), words[1:]
    cells = sorted(cells_of(out, arms), key=lambda cell: (arms.index(cell[0]), cell[1]))
    if not cells:
        raise FileError(out, "has no finished cell of these arms (cells/ARM/seed-N/scores.csv)")
    names = [f"{what} {s.name}" for what in ("dice", "silent") for s in TRAINED]
    lines = head(("Arm", "Seed", *names))
    for arm, seed, cell in cells:
        found = silent(cell)
        lines.append(line_of(f"`{arm}`", f"{seed}", *(f"{np.nanmean(found[name]):.3f}" for name in names)))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
