"""Checkpoints as files of plain tensors: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO


class TensorFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, by the two functions below."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Tensors on the CPU; Lightning moves them on."""
        return load(Path(path))


def save(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain numbers; a process killed meanwhile leaves the earlier file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # the name must not reach the disk before the content does
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, on the CPU; anything but tensors and plain values is refused by torch."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def rounds_done(path: Path) -> int:
    """How many rounds a stage's last checkpoint holds; 0 where there is none. Reads no tensor."""
    if not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["rounds_done"])
