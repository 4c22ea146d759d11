"""Pictures of scans, made small enough to be kept."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def in_few_greys(path: Path, greys: int = 32) -> None:
    """Write a png again in so few greys; a scan shows no difference, and the file is a third as large."""
    with Image.open(path) as picture:
        picture.convert("L").quantize(greys, dither=Image.Dither.NONE).save(path, optimize=True)
