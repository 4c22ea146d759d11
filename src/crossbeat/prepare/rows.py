"""A tensor that grows row by row: in memory while it is small, in a file that the process maps when it is not.

A cohort's slices can be more than the machine has memory for. What lies in a mapped file is read as a tensor is; the
system keeps as much of it in memory as there is room for, and gives that back where something else needs it.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from crossbeat.errors import FileError

IN_MEMORY = 256 * 2**20
"""Bytes up to which all rows of one tensor stay in memory."""


class Rows:
    """Rows of one shape and type, appended some at a time; `finish` makes them one tensor.

    The file has no name and goes with the process. It lies where temporary files do: `TMPDIR` says where.
    """

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._count = 0

    def append(self, rows: Tensor) -> None:
        """Some more rows (n, ...), which may be none; on the CPU. `FileError` where the disk is full."""
        rows = rows.detach()
        first = self._waiting[0] if self._waiting else rows
        if (rows.dtype, rows.shape[1:]) != (first.dtype, first.shape[1:]):
            if self._file is not None:
                self._file.close()
            raise ValueError(
                f"rows of {first.dtype} {tuple(first.shape[1:])} cannot go on with {rows.dtype} {tuple(rows.shape[1:])}"
            )
        self._waiting.append(rows)
        self._bytes += rows.numel() * rows.element_size()
        self._count += len(rows)
        if self._bytes > IN_MEMORY:
            self._write()

    def finish(self) -> Tensor:
        """All rows in their order. Writing to a mapped one changes the file, which nobody else has."""
        if self._file is None:
            return torch.cat(self._waiting)
        like = self._waiting[0]
        self._write()
        # Shared: a private mapping counts as memory from the start, and could be no larger than that.
        mapped = np.memmap(self._file, like[:0].numpy().dtype, "r+", shape=(self._count, *like.shape[1:]))
        self._file.close()
        return torch.from_numpy(mapped)

    def _write(self) -> None:
        """Put what waits into the file; its first rows stay, without content, to tell shape and type."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="crossbeat-")  # noqa: SIM115, it outlives this
            for rows in self._waiting:
                self._file.write(rows.contiguous().numpy().data)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FileError(
                Path(tempfile.gettempdir()),
                f"is full after {self._count} slices; set TMPDIR to a folder with more room, on a local disk",
            ) from None
        self._waiting = [self._waiting[0][:0]]


def gathered(parts: Iterable[Tensor]) -> Tensor:
    """Rows from several tensors as one: on the device of the first where that is a GPU, else as `Rows` keeps them."""
    rows, waiting = Rows(), iter(parts)
    first = next(waiting)
    if first.device.type != "cpu":
        return torch.cat([first, *waiting])
    rows.append(first)
    for part in waiting:
        rows.append(part)
    return rows.finish()
