"""Training on more slices than memory should hold: speed and memory of a bank in a mapped file, in one run.

    python benchmarks/memory.py [--slices 50000] [--threads N] [--json OUT]

The same updates (dilated residual U-Net, 128 pixels, batch 16, the standard augmentation) take their slices in turns
from a bank of 2,000 that lies in memory and from one of 50,000 in a mapped file, which repeats four made scans but lies
there in full. Before that a process of its own trains on 2,000 slices of 224 pixels, for its largest memory. Run it
where there is less memory than the file is long (`docker run -m 3g --memory-swap 3g`), so that the system has to read
from disk; how much there was stands in the table.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from hearts import cohort
from sides import Line, number, parser, take_turns, tell

from crossbeat.methods import METHODS, supervised
from crossbeat.prepare import rows
from crossbeat.prepare.slices import SliceBank, build_bank, training_batch
from crossbeat.training import Run
from training import Loop

FEW = 2000
SLICES, VALIDATED = 10, 8
"""Of `hearts.cohort`: slices a scan has, and one scan in so many validates."""
LIMIT_MB = 3000.0


def trained_alone(slices: int) -> float:
    """Largest resident memory, in MB, of a process that reads so many slices and trains on them."""
    code = f"import memory; memory.train({slices})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def train(slices: int) -> None:
    """As `crossbeat train` does, for a few updates; prints the peak."""
    import tempfile

    given = {"network": "dilated_resunet", "image_size": 224, "spacing_mm": 1.25, "steps": 6}
    settings = supervised.Settings.of(given)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", device="cpu", progress=False)
        METHODS["supervised"].carry_out(cohort(scans_to_train(slices)), settings, run, "benchmark")
    print(peak_mb())


def scans_to_train(slices: int) -> int:
    """How many made scans leave so many slices, ten a scan, to train on."""
    return slices // SLICES * VALIDATED // (VALIDATED - 1)


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_mb() -> float:
    """What this process may use: the machine's memory, or less where its control group says so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *control_group_limits()]) / 1e6


def control_group_limits(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Limits in bytes of the process's control groups (cgroup v2 and v1), from its own upwards; none elsewhere."""
    if not groups.exists():
        return
    for line in groups.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        here = top / group.lstrip("/")
        for folder in (here, *here.parents):
            file = folder / name
            if file.exists() and (limit := file.read_text(encoding="utf-8").strip()).isdigit():
                yield int(limit)


def feeding(bank: SliceBank, settings: supervised.Settings, loop: Loop) -> object:
    def go(turn: int) -> None:
        for step in range(5):
            batch = training_batch(bank, settings.batch_size, settings.changes, seed=0, step=5 * turn + step)
            loop(batch)

    return go


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--slices", type=int, default=50_000)
    made.add_argument("--rounds", type=int, default=6)
    options: argparse.Namespace = made.parse_args()
    options.device, options.compile = "cpu", False
    torch.set_num_threads(options.threads)
    alone = trained_alone(FEW)
    settings = supervised.Settings.of({"network": "dilated_resunet", "size": "bench"})
    mapped = build_bank(cohort(options.slices // 10), settings.preparation)
    size = sum(part.numel() * part.element_size() for part in (mapped.images, mapped.labels))
    after_reading = peak_mb()
    rows.IN_MEMORY = 2**60
    held = build_bank(cohort(FEW // 10), settings.preparation)
    loop = Loop(settings, options)
    turns = take_turns(feeding(mapped, settings, loop), feeding(held, settings, loop), options.rounds)
    print(
        f"{len(mapped)} slices, {number(size / 1e6)} MB on disk; largest memory of the process {number(after_reading)} "
        f"MB after reading them, {number(peak_mb())} MB at the end, of which the system may take back what is mapped"
    )
    lines = [
        Line(f"training on {FEW} slices of 224", "3 GB", "MB", alone, LIMIT_MB, 1.0),
        turns.line(
            f"{len(mapped)} slices, {size / 1e9:.1f} GB in a file, {memory_mb() / 1e3:.1f} GB of memory",
            f"{len(held)} in memory",
            "im/s",
            5 * settings.batch_size,
            0.8,
        ),
    ]
    peaks = {"after_reading_mb": after_reading, "at_the_end_mb": peak_mb()}
    tell("Memory", lines, options, **peaks)


if __name__ == "__main__":
    main()
