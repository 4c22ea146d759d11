"""What torch computes on here, and how."""

from __future__ import annotations

import torch

from crossbeat.errors import SettingsError


def find_device(word: str) -> torch.device:
    """The device meant by auto, cpu or cuda; auto is cuda where there is one. Else `SettingsError`."""
    if word not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"device {word!r} does not exist; it is auto, cpu or cuda")
    if word == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device cuda: torch finds no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if word != "cpu" and torch.cuda.is_available() else "cpu")


def multiplies_bfloat16(kind: str) -> bool:
    """Whether a cuda or cpu device multiplies bfloat16 by instructions of its own, not by emulation."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
