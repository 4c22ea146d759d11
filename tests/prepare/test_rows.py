"""Rows of a tensor, in memory or in a mapped file: the same rows, and a file that nobody has to tidy up."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch

from crossbeat.errors import FileError
from crossbeat.prepare import rows
from crossbeat.prepare.rows import Rows, gathered


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.bool])
def test_rows_in_a_file_are_the_rows_in_memory(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randint(2, (n, 3, 5), generator=generator).to(dtype).transpose(1, 2) for n in (2, 0, 1, 7, 4)
    ]
    kept = []
    for in_memory in (10**9, 40, 0):
        monkeypatch.setattr(rows, "IN_MEMORY", in_memory)
        grown = Rows()
        for part in parts:
            grown.append(part)
        kept.append(grown.finish())
    for found in kept:
        assert found.dtype == dtype
        assert torch.equal(found, torch.cat(parts))
    chosen = torch.tensor([13, 0, 5, 5])
    assert torch.equal(kept[-1][chosen], torch.cat(parts)[chosen])


def test_the_file_is_gone_from_its_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    found = gathered(torch.full((2, 4), float(k)) for k in range(3))
    mapped = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else str(tmp_path)
    assert str(tmp_path) in mapped
    assert not os.listdir(tmp_path)
    found[0] = 9.0  # in the file, which nobody else has
    assert found[:, 0].tolist() == [9, 0, 1, 1, 2, 2]


def test_rows_with_room_in_memory_touch_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: pytest.fail("a file was opened"))
    assert len(gathered([torch.zeros(1000, 100)])) == 1000


def test_a_full_disk_is_said_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    with pytest.raises(FileError, match="is full after 2 slices; set TMPDIR"):
        Rows().append(torch.zeros(2, 3))


def test_rows_of_another_type_or_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    for other in (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 4)):
        grown = Rows()
        grown.append(torch.zeros(2, 3))
        with pytest.raises(ValueError, match=r"rows of torch.float32 \(3,\) cannot go on with"):
            grown.append(other)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux says how much memory there is")
def test_a_file_larger_than_memory_can_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice memory and swap, as a hole in the file: a private mapping of as much is refused."""
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    pages = 2 * sum(int(told[name].split()[0]) for name in ("MemTotal", "SwapTotal")) // 4
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    grown = Rows()
    grown.append(torch.full((1, 4096), 7, dtype=torch.uint8))
    assert grown._file is not None
    grown._file.truncate(4096 * pages)
    grown._count = pages
    grown._waiting = [torch.zeros(0, 4096, dtype=torch.uint8)]
    found = grown.finish()
    assert found.shape == (pages, 4096)
    assert (int(found[0, 0]), int(found[-1, -1])) == (7, 0)
