"""A segmenter in, files out that run without crossbeat: ONNX, TorchScript, torch.export or a MONAI bundle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from crossbeat.errors import RunError, SettingsError, did_you_mean
from crossbeat.export import bundle, graphs
from crossbeat.export.guide import privacy, write_guide
from crossbeat.export.probabilities import Probabilities, describe, largest_difference
from crossbeat.segmenter import Segmenter

__all__ = ["FORMATS", "LARGEST_DIFFERENCE", "Exported", "export_segmenter"]

LARGEST_DIFFERENCE: Final = 1e-3  # of a probability: no more than rounding in another order makes


@dataclass(frozen=True)
class Format:
    """A way to write a network: `write` fills a folder and gives back how to run what it wrote."""

    write: graphs.Writer
    file: str
    """The model's path in the folder."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its probabilities are from the segmenter's own, at most."""

    folder: Path
    file: Path
    largest_difference: float
    privacy: str
    """Which patients the files name."""

    @property
    def guide(self) -> Path:
        """The file that says how to use the model."""
        readme = self.folder / "docs" / "README.md"
        return readme if readme.exists() else self.folder / "README.md"


FORMATS: Final[Mapping[str, Format]] = {
    "onnx": Format(graphs.write_onnx, "model.onnx"),
    "torchscript": Format(graphs.write_torchscript, "model.ts"),
    "pt2": Format(graphs.write_pt2, "model.pt2"),
    "monai": Format(bundle.write_bundle, "models/model.ts"),
}


def export_segmenter(
    segmenter: Segmenter, format_name: str, folder: Path, *, anonymous: bool = False
) -> Exported:
    """Write the segmenter's network, from prepared slices to probabilities, and prove the files on random slices.

    The folder gets the model, `segmenter.json` with the numbers to prepare slices for it, and a README that says
    how, and whose scans the files name; it appears whole or not at all, and one that already holds files is
    refused (`RunError`). What was written is read back and run: a probability that is off by more than
    `LARGEST_DIFFERENCE` refuses the export (`RunError`). `anonymous` leaves out which scans it was trained on.
    """
    if format_name not in FORMATS:
        raise SettingsError(
            f"export format {format_name!r} does not exist; {did_you_mean(format_name, FORMATS)}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: already holds files; choose another folder, or remove it first")
    chosen = FORMATS[format_name]
    segmenter = _without_names(segmenter) if anonymous else segmenter
    network = Probabilities.of(segmenter)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        described = describe(segmenter, chosen.file)
        run = chosen.write(network, described, temporary)
        difference = largest_difference(network, run)
        if not difference <= LARGEST_DIFFERENCE:
            raise RunError(
                f"{folder}: not exported: probabilities of the {format_name} model are off by {difference:.2g}, "
                f"{LARGEST_DIFFERENCE:g} is allowed; use another --format, or report this with `crossbeat info`"
            )
        described["export"]["largest_difference"] = difference
        (temporary / "segmenter.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        if not (temporary / "docs").exists():
            (temporary / "README.md").write_text(write_guide(described), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Exported(folder, folder / chosen.file, difference, privacy(described))


def _without_names(segmenter: Segmenter) -> Segmenter:
    """The segmenter without the scans seen in training, nor the subjects and scans that its settings ask for."""
    provenance = {key: value for key, value in segmenter.provenance.items() if key != "trained_on"}
    if "settings" in provenance:
        provenance["settings"] = {
            name: {column: asked for column, asked in value.items() if column not in ("subject", "scan")}
            if isinstance(value, Mapping)
            else value
            for name, value in provenance["settings"].items()
        }
    return replace(segmenter, provenance=provenance)
