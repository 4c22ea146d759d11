"""What torch computes on here, and how."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

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


def argmax_channels(values: Float[Tensor, "n k y x"]) -> UInt8[Tensor, "n y x"]:
    """Channel of the highest value, the first of equals, of at most 256: argmax, in a fifth of its time on a CPU.

    Torch's own walks the channels pixel by pixel there.
    """
    best, channels = values[:, 0], torch.zeros_like(values[:, 0], dtype=torch.uint8)
    for k in range(1, values.shape[1]):
        channels.masked_fill_(values[:, k] > best, k)
        best = torch.maximum(best, values[:, k])
    return channels


def keep_freed_memory() -> None:
    """Let the C library keep arrays that were freed for the next ones, instead of giving each back to the system.

    What computes on a CPU makes and drops the same arrays again and again, and fetching their pages anew each time
    takes up to three tenths of an update (benchmarks/pages.py). The process then holds on to what it needed at most. It
    is so of the whole process and for good, by `mallopt` of glibc; elsewhere nothing happens.
    """
    mallopt = _of_the_c_library("mallopt")
    # The trim alone would freeze the other at 128 KB, and every array would be mapped anew; glibc before 2.35 takes no
    # more than 32 MB of it.
    if mallopt is not None and (mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_THRESHOLD, 1 << 25)):
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def give_back_freed_memory() -> None:
    """Have the C library give pages back that hold nothing now: the counterpart, for once, of `keep_freed_memory`.

    Arrays of many sizes that come and go, as scans do, leave holes between those that stay, and glibc before 2.38
    seldom fills them again: a process that reads scans without end would grow without end.
    """
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_the_c_library(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


_M_TRIM_THRESHOLD: Final = -1  # malloc.h of glibc
_M_MMAP_THRESHOLD: Final = -3
