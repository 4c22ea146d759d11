"""Time and memory of every command as cohorts grow: 10, 100 and 1,000 scans, each command a process of its own.

    python benchmarks/growth.py [--counts 10 100 1000] [--json OUT]

Scans are small (4 slices of 64 × 64) so that what grows with their number shows. `train` makes the same 40 updates
whatever the cohort, so its time beyond reading is a constant's; trained once more with 1000 further updates, it shows
what one update costs. The table has what one more scan costs between the two largest cohorts, beside between the two
smaller ones, without what a command costs at all: 1 is linear growth, 0.1 by the square. What is too little to tell
counts as 3 ms, or 0.1 MB. Its last line has an update among the most scans beside one among the fewest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from hearts import PIXEL_MM, SLICE_MM, heart
from sides import Line, number, parser, tell

SLICES, SIDE = 4, 64
LEAST = {"ms": 3.0, "MB": 0.1}
"""Of one more scan: starting a command twice differs by as much as less than this would, over 90 scans."""
LINEAR = 0.3
"""Time by the square of the number of scans would have a ratio of 0.1."""
TINY = ("size=demo", "source={sequence: bssfp}", "steps_per_round=20", "image_size=32", "spacing_mm=2.5")
UPDATES, FURTHER = 40, 1000
LONGER = "train longer"
CONSTANT = 0.8
"""Of an update among many scans, beside one among few, which should cost as much: what is less is more than noise."""


def commands(room: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of a user's way through the house, in order."""
    program = str(Path(sys.executable).with_name("crossbeat"))
    table = str(room / "cohort.csv")
    yield "index", [program, "index", str(room / "scans"), "--layout", "nnunet", "-o", table]
    yield "check", [program, "check", table]
    sets = [word for setting in TINY for word in ("--set", setting)]
    for name, updates, out in (("train", UPDATES, "run"), (LONGER, UPDATES + FURTHER, "longer")):
        steps = ("--set", f"steps={updates}")
        yield name, [program, "train", "supervised", table, "-o", str(room / out), *sets, *steps]
    yield "predict", [program, "predict", str(room / "run"), table]
    yield "evaluate", [program, "evaluate", str(room / "run"), table]


def write_scans(room: Path, count: int) -> None:
    """An nnU-Net folder of so many scans with their labels."""
    for part in ("imagesTr", "labelsTr"):
        (room / "scans" / part).mkdir(parents=True)
    case = heart(0, side=SIDE * 2, slices=SLICES)
    cut = slice(SIDE // 2, SIDE // 2 + SIDE)
    affine = np.diag([PIXEL_MM, PIXEL_MM, SLICE_MM, 1.0])
    image = np.moveaxis(case.image[0, :, cut, cut], 0, -1)
    labels = np.moveaxis(case.labels[0, :, cut, cut], 0, -1)
    for k in range(count):
        stem = f"p{k:04d}"
        nib.Nifti1Image((1000 + 100 * image + k % 50).astype(np.int16), affine).to_filename(
            room / "scans" / "imagesTr" / f"{stem}_0000.nii.gz"
        )
        nib.Nifti1Image(labels, affine).to_filename(room / "scans" / "labelsTr" / f"{stem}.nii.gz")
    (room / "scans" / "dataset.json").write_text(
        '{"channel_names": {"0": "bssfp"}, "labels": {"background": 0, "LV": 1, "MYO": 2, "RV": 3}, '
        f'"numTraining": {count}, "file_ending": ".nii.gz"}}'
    )


MEASURE = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, time.perf_counter() - start, used.ru_maxrss / 1024, done.stderr.decode()[-600:]]))
"""
"""Runs a command from a process that holds nothing itself: what a child holds at most counts from its parent's size."""


def measured(words: list[str], room: Path) -> tuple[float, float]:
    """Seconds, and the largest resident memory in MB of the command, or of one of its processes."""
    code = [sys.executable, "-S", "-c", MEASURE]
    done = subprocess.run([*code, *words], cwd=room, stdout=subprocess.PIPE, text=True, check=True)
    status, seconds, memory, said = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {status}: {said}")
    return float(seconds), float(memory)


def growth_of(found: Mapping[str, Sequence[tuple[float, float]]], counts: Sequence[int]) -> list[Line]:
    """What one more scan costs each command between the two largest cohorts, beside between the two before."""
    few, some, many = counts[-3:]
    lines = []
    for name, cells in found.items():
        for unit, factor, column in (("ms", 1000.0, 0), ("MB", 1.0, 1)):
            first, middle, last = (factor * cell[column] for cell in cells[-3:])
            each, before = (last - middle) / (many - some), (middle - first) / (some - few)
            sides = max(each, LEAST[unit]), max(before, LEAST[unit])
            lines.append(Line(f"{name}, a scan more, to {many}", f"to {some}", unit, *sides, LINEAR))
    return lines


def update_of(
    shorter: Sequence[tuple[float, float]], longer: Sequence[tuple[float, float]], counts: Sequence[int]
) -> Line:
    """What one update costs among the most scans, beside among the fewest."""
    few, many = (1000 * (longer[i][0] - shorter[i][0]) / FURTHER for i in (0, -1))
    return Line(f"train, an update among {counts[-1]} scans", f"among {counts[0]}", "ms", many, few, CONSTANT)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1000])
    options: argparse.Namespace = made.parse_args()
    options.device = "cpu"
    found: dict[str, list[tuple[float, float]]] = {}
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            write_scans(Path(folder), count)
            for name, words in commands(Path(folder)):
                found.setdefault(name, []).append(measured(words, Path(folder)))
    update = update_of(found["train"], found.pop(LONGER), options.counts)
    print(f"{'scans':10}" + "".join(f"{count:>20}" for count in options.counts))
    for name, cells in found.items():
        told = (f"{number(seconds)} s {number(memory)} MB" for seconds, memory in cells)
        print(f"{name:10}" + "".join(f"{text:>20}" for text in told))
    lines = [*growth_of(found, options.counts), update]
    sizes = [
        dict(zip(("seconds", "memory_mb"), cell, strict=True)) for cells in found.values() for cell in cells
    ]
    of = [{"command": name, "scans": count} for name in found for count in options.counts]
    tell("Growth", lines, options, cells=[a | b for a, b in zip(of, sizes, strict=True)])


if __name__ == "__main__":
    main()
