"""Prediction from disk to disk: a 4-D cine, and a cohort of stills beside MONAI's sliding windows, in one run.

    python benchmarks/prediction.py [--device cpu|cuda] [--threads N] [--json OUT]

Both sides read the same files, run the same network of random weights (the dilated residual U-Net, 0.16 M), and write
label maps as NIfTI. MONAI's side is what its users write: LoadImage, resampling to the training's spacing, slice-wise
SlidingWindowInferer at the training's size, argmax, back on the scan's grid, SaveImage. Its windows cover the image;
ours is laid about the heart, which the network looks for first, and the rest is background. MONAI has the network
once as it was built, as its users have it, and once laid out in memory as ours is. Memory is the process's largest.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from hearts import PIXEL_MM, SLICE_MM, heart
from monai.inferers.inferer import SlidingWindowInferer
from monai.transforms.intensity.array import NormalizeIntensity
from monai.transforms.io.array import LoadImage, SaveImage
from monai.transforms.spatial.array import ResampleToMatch, Spacing
from sides import Line, number, parser, take_turns, tell, wait
from torch import nn

from crossbeat.cohort import Cohort, read_cohort
from crossbeat.data import reader
from crossbeat.data.predictions import prediction_writer
from crossbeat.devices import multiplies_bfloat16
from crossbeat.prediction import predict_cohort
from crossbeat.prepare.volumes import Preparation
from crossbeat.segmenter import NetworkSpec, Segmenter

SIZE, SPACING_MM = 128, 1.5
CINE = (50, 10, 208, 192)
"""Frames, slices, rows and columns of the 4-D cine."""


def write_scans(folder: Path, count: int, shape: Sequence[int]) -> Cohort:
    """So many scans (t, z, y, x) as files, and their cohort.csv."""
    frames, slices, y, x = shape
    lines = ["subject,scan,sequence,image"]
    for k in range(count):
        image = heart(k % 3, side=max(x, y), slices=slices, frames=frames).image[..., :y, :x]
        voxels = np.moveaxis(image, (0, 1, 2, 3), (3, 2, 1, 0))
        voxels = np.round(1000 + 200 * voxels).clip(0).astype(np.int16)
        made = nib.Nifti1Image(voxels, np.diag([PIXEL_MM, PIXEL_MM, SLICE_MM, 1.0]))
        made.to_filename(folder / f"s{k}.nii.gz")
        lines.append(f"s{k},s{k},bssfp,s{k}.nii.gz")
    (folder / "cohort.csv").write_text("\n".join([*lines, ""]))
    return read_cohort(folder / "cohort.csv", reader)


def crossbeat_side(segmenter: Segmenter, scans: Cohort, out: Path) -> None:
    write = prediction_writer(out, scans, {"runs": [], "flips": False})
    failures = predict_cohort([segmenter], scans, write)
    assert not failures, failures[0].problem


def monai_side(network: nn.Module, scans: Cohort, out: Path, device: str) -> None:
    load, resample = LoadImage(ensure_channel_first=True), Spacing((SPACING_MM, SPACING_MM, SLICE_MM))
    scale, match = NormalizeIntensity(), ResampleToMatch(mode="nearest")
    save = SaveImage(
        out, output_postfix="labels", separate_folder=False, print_log=False, output_dtype=np.uint8
    )
    kind = torch.device(device).type
    infer = SlidingWindowInferer((SIZE, SIZE), sw_batch_size=16, overlap=0.25)
    for row in scans:
        image = load(scans.folder / row.image)
        slices = scale(resample(image))
        stack = slices.permute(3, 0, 1, 2).to(device)
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=multiplies_bfloat16(kind)):
            logits = infer(stack.as_tensor(), network)
        found = slices.clone()
        found.set_array(logits.argmax(dim=1).permute(1, 2, 0)[None].float().cpu())
        save(match(found, image))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--scans", type=int, default=100)
    made.add_argument("--rounds", type=int, default=1)
    options: argparse.Namespace = made.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    spec = NetworkSpec(name="dilated_resunet", size=SIZE)
    network = spec.build().eval().to(options.device)
    plain = copy.deepcopy(network)
    segmenter = Segmenter(network, spec, Preparation(size=SIZE, spacing_mm=SPACING_MM, centre="heart"))
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        for part in ("cine", "stills", "ours", "theirs"):
            (room / part).mkdir()
        cine = write_scans(room / "cine", 1, CINE)
        seconds = []
        for attempt in range(3):
            wait()
            start = time.perf_counter()
            crossbeat_side(segmenter, cine, room / f"cine{attempt}")
            seconds.append(time.perf_counter() - start)
        limit = 5.0 if options.device.startswith("cuda") else 60.0
        lines = [Line("a cine of 192×208×10×50", "the limit", "s", statistics.median(seconds), limit, 1.0)]
        before = peak_mb()
        stills = write_scans(room / "stills", options.scans, (1, 12, 256, 256))
        for name, rival, aim in (("MONAI", plain, 3.0), ("MONAI in our layout", segmenter.network, 3.0)):
            turns = take_turns(
                lambda turn: crossbeat_side(segmenter, stills, room / "ours" / f"{turn}"),
                lambda turn, rival=rival: monai_side(rival, stills, room / "theirs", options.device),  # type: ignore[misc]
                options.rounds,
                warm=0,
            )
            lines.append(turns.line(f"{options.scans} stills", name, "scan/s", options.scans, aim))
    print(
        f"largest memory of the process: {number(before)} MB after the cine, {number(peak_mb())} MB at the end"
    )
    tell("Prediction, disk to disk", lines, options)


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
