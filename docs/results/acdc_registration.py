"""How well an expert's end-diastolic mask, carried to end systole, fits the expert's mask there, on real hearts.

On the ACDC patients of `../shared/data/acdc` (or `$CROSSBEAT_DATA/acdc`): no registration, SimpleITK's demons and
B-spline, and, with `--registrar FOLD=FOLDER`, our trained network on the patients that it has not seen. Run from the
repository root: `python docs/results/acdc_registration.py [--registrar 0=RUN/models/registration …]`; it writes
acdc_registration.csv, a line a patient, side and structure, and prints the table. `--train FOLDER` trains ours, a run
a fold, and goes on where it stopped; `--tune` measures how the baselines' settings were chosen; both then stop.

What all sides share: ED is the moving image and ES the fixed one, on the scan's own voxels; labels go as one-hot masks,
linearly, and the largest share wins. A side is timed from the two images and the ED labels in memory to the ES labels
in memory, in seconds of processor time on one thread (SimpleITK and torch are held to one), as other work on the
machine lengthens the time on the wall, which stands beside it.

Slices are five to ten times thicker than their pixels, so images are made coarser in their planes only, never along z.
Demons smooth the field by a width in voxels, smaller along z; the spline's control points lie farther apart along z.
"""
# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import csv
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray

from crossbeat import data
from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import GeometryWarning, RunError
from crossbeat.labels import TRAINED
from crossbeat.methods.propagation import Registrar, Settings, carry, learn_registration, load_registrar
from crossbeat.metrics import dice
from crossbeat.report.wording import p_value, signed
from crossbeat.splits import folds
from crossbeat.statistics import holm, mean_sd, wilcoxon
from crossbeat.training import Run

HERE: Final = Path(__file__).parent
FOLDS: Final = 4
SEED: Final = 0
NONE, DEMONS, SPLINE, OURS = ("no registration", "demons", "B-spline", "ours")
STAND_IN: Final = "1.5x1.5x10"
"""Voxels (x, y, z in mm) that 39 of these 41 scans say they have; their true ones were lost before we got them."""

GREYS: Final = 100.0
"""Grey value of an image's 99th percentile: L-BFGS-B stops by differences of the metric below 1."""
FAR_MM: Final = 1000.0
"""Distance of slices that is told to 3-D splines, so that none moves into another plane: see `Spline.by_slice`."""

LabelMap = NDArray[np.uint8]
Find = Callable[[sitk.Image, sitk.Image], sitk.Transform]
"""Moving and fixed image to the transform from fixed points to moving ones."""
Line = dict[str, str | int | float]


@dataclass(frozen=True)
class Pair:
    """The two labelled frames of a scan, (z, y, x)."""

    ed: NDArray[np.float32]
    es: NDArray[np.float32]
    ed_labels: LabelMap
    spacing_mm: tuple[float, float, float]
    """(z, y, x)"""


@dataclass(frozen=True)
class Demons:
    """Fast symmetric forces demons (Vercauteren 2007, doi 10.1007/978-3-540-75759-7_39), from coarse to fine."""

    margin_mm: float = 30.0
    """In-plane, about the ED mask: only this box is registered. inf: the whole image."""
    match_histograms: bool = False
    by_slice: bool = False
    """Each slice by itself, in 2-D; else the volume in 3-D."""
    shrink: tuple[int, ...] = (4, 2, 1)
    """In-plane: averages of shrink × shrink pixels, a level each."""
    iterations: int = 50
    """A level."""
    sigma_px: tuple[float, ...] = (1.5, 1.5, 0.5)
    """(x, y, z), in voxels of the level: of the Gaussian that smooths the field after each iteration."""
    step_px: float = 0.5
    """Longest update, in voxels."""


@dataclass(frozen=True)
class Spline:
    """Free-form deformation (Rueckert 1999, doi 10.1109/42.796284): cubic B-splines, each laid on those before."""

    margin_mm: float = 30.0
    match_histograms: bool = False
    by_slice: bool = True
    """Each slice by itself, in 2-D; else the volume by 3-D splines whose slices move in their planes only."""
    metric: str = "correlation"
    """Over the box, or `mean squares`."""
    shrink: tuple[int, ...] = (4, 2)
    knots_mm: tuple[float, ...] = (25.0, 16.0)
    """In-plane distance of control points, a level each; along z there is one every three slices."""
    sampled: tuple[float, ...] = (1.0, 1.0)
    """Share of voxels in the metric, drawn once a level by seed: ITK's time is voxels × all control points."""
    iterations: int = 50
    """Of L-BFGS-B, a level."""


LEARNT_WITH: Final = {
    "size": "bench",
    "registration_steps": 5000,
    "registration_steps_per_round": 500,
    "smoothness_weight": 0.3,
    "label_weight": 3.0,
}
"""Of ours, the same in all folds: the method's bench size with what is named here. With 4000 updates and the method's
own weights (1 and 1) it had reached 0.863, 0.817 and 0.737 (LV, MYO, RV) on the 41, and demons did better on the RV.
These weights were then taken from short trainings, see `LOOKED_AT`."""
LOOKED_AT: Final = tuple(f"patient{n:03}" for n in (1, 21, 45, 65, 81))
"""Patients by whom ours was calibrated. They are tested too, in fold 0, so the others are also told apart."""
CANDIDATES: Final[dict[str, tuple[Any, ...]]] = {
    DEMONS: (
        Demons(),
        Demons(match_histograms=True),
        Demons(margin_mm=50.0),
        Demons(margin_mm=np.inf),
        Demons(by_slice=True),
        Demons(sigma_px=(1.0, 1.0, 0.5)),
        Demons(sigma_px=(2.0, 2.0, 0.5)),
        Demons(step_px=1.0),
        Demons(margin_mm=50.0, step_px=1.0),
        Demons(iterations=100),
        Demons(shrink=(4, 2)),
    ),
    SPLINE: (
        Spline(),
        Spline(match_histograms=True),
        Spline(match_histograms=True, metric="mean squares"),
        Spline(margin_mm=50.0),
        Spline(knots_mm=(40.0, 25.0)),
        Spline(by_slice=False, knots_mm=(40.0, 25.0), sampled=(1.0, 0.2)),
    ),
}
"""What was tried; the first of each are the settings that a rough look at some of these patients had begun with."""
TUNED_ON: Final = (
    *("patient001", "patient082"),  # fold 0
    *("patient023", "patient062"),  # fold 1
    *("patient043", "patient084"),  # fold 2
    *("patient027", "patient066"),  # fold 3
)
CHOSEN: Final[dict[str, tuple[int, ...]]] = {DEMONS: (2, 9, 2, 2), SPLINE: (4, 3, 0, 1)}
"""For each fold the candidate that `--tune` found best on those patients that the fold does not test."""


def carried_by_demons(pair: Pair, chosen: Demons) -> LabelMap:
    """By dense displacement fields."""
    return carried_in_box(pair, chosen, lambda moving, fixed: find_demons(moving, fixed, chosen))


def carried_by_spline(pair: Pair, chosen: Spline) -> LabelMap:
    """By B-splines."""
    apart = replace(pair, spacing_mm=(FAR_MM, *pair.spacing_mm[1:]))
    return carried_in_box(apart, chosen, lambda moving, fixed: find_splines(moving, fixed, chosen))


def find_demons(moving: sitk.Image, fixed: sitk.Image, chosen: Demons) -> sitk.Transform:
    """A displacement field for a volume or a slice, each level's starting from that of the coarser one."""
    field = None
    for factor in chosen.shrink:
        coarse, onto = (shrunk(image, factor) for image in (moving, fixed))
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(chosen.iterations)
        demons.SetStandardDeviations(chosen.sigma_px[: fixed.GetDimension()])
        demons.SetMaximumUpdateStepLength(chosen.step_px)
        demons.SetIntensityDifferenceThreshold(1e-4 * GREYS)  # smaller ones do not pull
        demons.SetMaximumRMSError(0.0)  # never stop early
        started = () if field is None else (resampled(field, onto),)
        field = demons.Execute(onto, coarse, *started)
    return sitk.DisplacementFieldTransform(field)


def find_splines(moving: sitk.Image, fixed: sitk.Image, chosen: Spline) -> sitk.Transform:
    """Splines for a volume or a slice, each found on the image that those before have already moved."""
    found: list[sitk.Transform] = []
    for factor, knots_mm, share in zip(chosen.shrink, chosen.knots_mm, chosen.sampled, strict=True):
        moved = resampled(moving, fixed, sitk.CompositeTransform(found)) if found else moving
        distances = (knots_mm, knots_mm, 3 * FAR_MM)
        extents = (n * mm for n, mm in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True))
        mesh = [max(1, round(mm / distance)) for mm, distance in zip(extents, distances, strict=False)]
        spline = sitk.BSplineTransformInitializer(fixed, mesh, 3)
        method = spline_method(chosen, share)
        method.SetInitialTransform(spline, inPlace=True)
        method.Execute(shrunk(fixed, factor), shrunk(moved, factor))
        found.append(spline)
    return sitk.CompositeTransform(found)


def spline_method(chosen: Spline, share: float) -> sitk.ImageRegistrationMethod:
    """What is made small, where and how."""
    method = sitk.ImageRegistrationMethod()
    metrics = {"correlation": method.SetMetricAsCorrelation, "mean squares": method.SetMetricAsMeanSquares}
    metrics[chosen.metric]()
    # the filters would blur by the widest spacing, a slice's thickness in all directions; without, plain differences
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, 1)  # seed; 0 would take it from the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-6,
        numberOfIterations=chosen.iterations,
        maximumNumberOfCorrections=5,
        maximumNumberOfFunctionEvaluations=2 * chosen.iterations,
        costFunctionConvergenceFactor=1e7,
    )
    return method


def carried_by_ours(registrar_folder: Path, case: Case, row: Row) -> LabelMap:
    """By the trained network of a run's models/registration; `RunError` if it learnt from this patient."""
    registrar = open_registrar(registrar_folder)
    if row.scan in registrar.provenance["trained_on"]:
        raise RunError(
            f"{registrar_folder}: was trained on {row.scan}; give the registrar of the fold that tests it"
        )
    ed, es = frames_of(row)
    return np.asarray(carry(case, [ed], registrar, frames=[es]).labels[es], np.uint8)


@cache
def open_registrar(folder: Path) -> Registrar:
    """Loaded once: what is timed is carrying."""
    return load_registrar(folder)


def carried_in_box(pair: Pair, chosen: Demons | Spline, find: Find) -> LabelMap:
    """ED labels through what `find` says of a box about them, whole or slice by slice; around it background."""
    box = box_of(pair, chosen.margin_mm)
    ed, es = (np.clip(v[box] / np.percentile(v[box], 99), 0, 1) * GREYS for v in (pair.ed, pair.es))
    moving, fixed = as_image(ed, pair.spacing_mm), as_image(es, pair.spacing_mm)
    if chosen.match_histograms:
        moving = sitk.HistogramMatching(moving, fixed, 256, 15, thresholdAtMeanIntensity=False)
    labels = np.zeros_like(pair.ed_labels)
    inside, source = labels[box], pair.ed_labels[box]
    if chosen.by_slice:
        for z in range(len(inside)):
            inside[z] = warped(source[z], fixed[:, :, z], find(moving[:, :, z], fixed[:, :, z]))
    else:
        inside[:] = warped(source, fixed, find(moving, fixed))
    return labels


def warped(labels: LabelMap, grid: sitk.Image, found: sitk.Transform) -> LabelMap:
    """Labels through a transform: one-hot, linear, the largest share."""
    shares: list[NDArray[np.float32]] = []
    for k in (0, *TRAINED):
        mask = sitk.GetImageFromArray((labels == k).astype(np.float32))
        mask.CopyInformation(grid)
        moved = sitk.Resample(mask, grid, found, sitk.sitkLinear, float(k == 0))
        shares.append(sitk.GetArrayFromImage(moved))
    return np.asarray(np.argmax(np.stack(shares), axis=0), np.uint8)


def box_of(pair: Pair, margin_mm: float) -> tuple[slice, ...]:
    """All slices, and in plane what lies no farther from the ED mask than a margin."""
    box = [slice(None)]
    for axis in (1, 2):
        seen = np.flatnonzero((pair.ed_labels > 0).any(axis=(0, 3 - axis)))
        margin = round(min(margin_mm / pair.spacing_mm[axis], pair.ed.shape[axis]))
        box.append(slice(max(0, int(seen[0]) - margin), int(seen[-1]) + margin + 1))
    return tuple(box)


def as_image(volume: NDArray[Any], spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """A (z, y, x) volume as float32 with its spacing; the origin is its own first voxel."""
    image = sitk.GetImageFromArray(volume.astype(np.float32))
    image.SetSpacing(spacing_mm[::-1])
    return image


def shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    """Averages of factor × factor pixels, slice by slice."""
    found: sitk.Image = sitk.BinShrink(image, [factor, factor, 1][: image.GetDimension()])
    return found


def resampled(image: sitk.Image, onto: sitk.Image, through: sitk.Transform | None = None) -> sitk.Image:
    """An image or field on another's grid, linear; at the rim the nearest voxel goes on."""
    through = through or sitk.Transform(onto.GetDimension(), sitk.sitkIdentity)
    return sitk.Resample(image, onto, through, sitk.sitkLinear, 0.0, image.GetPixelID(), True)


def acdc(folder: Path) -> Cohort:
    """The patients with ED and ES labelled, paths relative to a folder in which a cohort.csv may stand."""
    root = Path(os.environ.get("CROSSBEAT_DATA", HERE.parents[2] / "shared" / "data")) / "acdc"
    return data.index("acdc", root, folder, nominal_spacing=STAND_IN)[0].labelled()


def dealt(cohort: Cohort) -> list[Cohort]:
    """The folds: each patient is tested in one and trains in the others, every group shared out evenly."""
    return folds(cohort, FOLDS, stratify=["group"], seed=SEED)


def pair_of(case: Case, row: Row) -> tuple[Pair, LabelMap]:
    """What is carried, and the expert's labels at ES."""
    assert case.labels is not None
    ed, es = frames_of(row)
    return Pair(case.image[ed], case.image[es], case.labels[ed], case.spacing_mm), case.labels[es]


def frames_of(row: Row) -> tuple[int, int]:
    """ED and ES."""
    assert row.ed_frame is not None
    assert row.es_frame is not None
    return row.ed_frame, row.es_frame


def lines_of(of: Line, carry_labels: Callable[[], LabelMap], truth: LabelMap) -> list[Line]:
    """Carry and score: a line a structure."""
    wall, processor = time.perf_counter(), time.process_time()
    found = carry_labels()
    seconds, wall_seconds = time.process_time() - processor, time.perf_counter() - wall
    timed: Line = {"seconds": round(seconds, 3), "wall_seconds": round(wall_seconds, 3)}
    return [
        {**of, "structure": s.name, "dice": round(dice(found == s, truth == s), 5), **timed} for s in TRAINED
    ]


def measure(cohort: Cohort, registrars: dict[int, Path]) -> Iterator[Line]:
    """All sides of one patient after another, so that they share the machine's load."""
    for fold, of_fold in enumerate(dealt(cohort)):
        for row in of_fold.where(split="test"):
            case = cohort.read(row)
            pair, truth = pair_of(case, row)
            for side, carry_labels in sides_of(fold, case, row, pair, registrars.get(fold)).items():
                yield from lines_of({"fold": fold, "patient": row.subject, "side": side}, carry_labels, truth)
            print(f"{row.subject} measured", flush=True)


def sides_of(
    fold: int, case: Case, row: Row, pair: Pair, registrar: Path | None
) -> dict[str, Callable[[], LabelMap]]:
    """How each side carries the labels of a patient."""
    demons, spline = (CANDIDATES[side][CHOSEN[side][fold]] for side in (DEMONS, SPLINE))
    sides: dict[str, Callable[[], LabelMap]] = {
        NONE: lambda: pair.ed_labels,
        DEMONS: lambda: carried_by_demons(pair, demons),
        SPLINE: lambda: carried_by_spline(pair, spline),
    }
    if registrar is not None:
        open_registrar(registrar)
        sides[OURS] = lambda: carried_by_ours(registrar, case, row)
    return sides


def tune(cohort: Cohort) -> Iterator[Line]:
    """Every candidate on two patients of each fold."""
    fold_of = {row.subject: fold for fold, of in enumerate(dealt(cohort)) for row in of.where(split="test")}
    for row in cohort.where(subject=TUNED_ON):
        pair, truth = pair_of(cohort.read(row), row)
        carriers: dict[str, Callable[[Pair, Any], LabelMap]]
        carriers = {DEMONS: carried_by_demons, SPLINE: carried_by_spline}
        for side, carrier in carriers.items():
            for number, candidate in enumerate(CANDIDATES[side]):
                of: Line = {"fold": fold_of[row.subject], "patient": row.subject, "side": side}
                of |= {"candidate": number, "changes": changes(candidate)}
                yield from lines_of(of, partial(carrier, pair, candidate), truth)
        print(f"{row.subject} tried", flush=True)


def changes(candidate: Demons | Spline) -> str:
    """In what a candidate differs from the first."""
    first = vars(type(candidate)())
    return "; ".join(f"{k} {v}" for k, v in vars(candidate).items() if v != first[k]) or "none"


def choices(lines: list[Line]) -> dict[str, tuple[int, ...]]:
    """For each side and fold the candidate of the best mean Dice on tuning patients of the other folds."""
    table = pd.DataFrame(lines)
    found = {}
    for side, of_side in table.groupby("side", sort=False):
        others = (of_side[of_side["fold"] != fold] for fold in range(FOLDS))
        means = (of.groupby("candidate")["dice"].mean().to_numpy() for of in others)
        found[str(side)] = tuple(int(np.argmax(of_candidate)) for of_candidate in means)
    return found


def table_of(lines: list[Line], by: Sequence[str]) -> str:
    """Mean ± SD over patients of Dice by structure, and of the seconds, in markdown."""
    scores = pd.DataFrame(lines)
    names = [s.name for s in TRAINED]
    text = [f"| {' | '.join([*by, 'patients', *names, 'mean', 'seconds', 'on the wall'])} |"]
    text.append(f"|{'---|' * len(by)}{'---:|' * 7}")
    for key, of in scores.groupby(list(by), sort=False):
        cells = [shown(of[of["structure"] == name], "dice", 3) for name in names]
        cells += [shown(of, "dice", 3), shown(of, "seconds", 1), shown(of, "wall_seconds", 1)]
        text.append(f"| {' | '.join([*map(str, key), str(of['patient'].nunique()), *cells])} |")
    return "\n".join(text)


def paired_table(lines: list[Line]) -> str:
    """Ours less each baseline in Dice, over patients: mean, in how many ours is higher, p by Wilcoxon with Holm."""
    scores = pd.DataFrame(lines)
    wide = scores.pivot_table(index=["patient", "structure"], columns="side", values="dice")
    asked = [(side, s.name) for side in (DEMONS, SPLINE) for s in TRAINED]
    told, p_values = [], []
    for side, structure in asked:
        both = wide.xs(structure, level="structure")
        more = both[OURS] - both[side]
        p_values.append(wilcoxon(both[OURS], both[side], list(both.index)).p)
        told.append(f"{side} | {structure} | {signed(more.mean())} | {(more > 0).sum()} of {len(more)}")
    text = ["| ours less | structure | mean | higher in | Holm's p |", "|---|---|---:|---:|---:|"]
    return "\n".join(text + [f"| {t} | {p_value(p)} |" for t, p in zip(told, holm(p_values), strict=True)])


def shown(scores: pd.DataFrame, column: str, digits: int) -> str:
    """Mean ± SD over patients."""
    mean, sd = mean_sd(scores[column].to_numpy(float), scores["patient"].tolist())
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def kept(path: Path, lines: Iterable[Line]) -> list[Line]:
    """The lines, each written to a csv as soon as it is there."""
    found: list[Line] = []
    with path.open("w", encoding="utf-8", newline="") as out:
        for line in lines:
            if not found:
                writer = csv.DictWriter(out, list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow(line)
            out.flush()
            found.append(line)
    return found


def train(folder: Path, of_folds: Sequence[int]) -> None:
    """fold-0 and so on, each an ordinary run whose registration has learnt from the patients not tested there."""
    for fold in of_folds:
        place = folder / f"fold-{fold}"
        place.mkdir(parents=True, exist_ok=True)
        settings = Settings.of(LEARNT_WITH)
        cohort = dealt(acdc(place))[fold]
        run = Run(place / "run", seed=SEED, device="cpu", resume=True)
        run.open(settings.model_dump(mode="json"), cohort, f"acdc_registration.py: fold {fold}")
        learn_registration(cohort, settings, run)
        print(f"{fold}={run.folder / 'models' / 'registration'}", flush=True)


def parse_registrar(text: str) -> tuple[int, Path]:
    """`2=runs/fold-2/models/registration`"""
    fold, _, folder = text.partition("=")
    if fold not in map(str, range(FOLDS)) or not (Path(folder) / "registrar.json").is_file():
        raise argparse.ArgumentTypeError(
            f"{text!r}: write FOLD=FOLDER, a fold of 0 to {FOLDS - 1} and the models/registration of its run"
        )
    return int(fold), Path(folder)


def main() -> None:
    """Carry, score, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--registrar", type=parse_registrar, action="append", default=[], metavar="FOLD=FOLDER"
    )
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument("--tune", action="store_true")
    given = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    torch.set_num_threads(1)
    # patient101 says two things about its spacing, of which the reader takes the right one
    warnings.filterwarnings("ignore", category=GeometryWarning)
    if given.train:
        train(given.train, given.folds)
    elif given.tune:
        lines = kept(HERE / "acdc_registration_tuning.csv", tune(acdc(HERE)))
        print(table_of(lines, ("side", "candidate", "changes")), choices(lines), sep="\n\n")
    else:
        lines = kept(HERE / "acdc_registration.csv", measure(acdc(HERE), dict(given.registrar)))
        others = [line for line in lines if line["patient"] not in LOOKED_AT]
        print(table_of(lines, ("side",)), "Without those by whom ours was calibrated:", sep="\n\n")
        print(table_of(others, ("side",)))
        if given.registrar:
            print(paired_table(lines), paired_table(others), sep="\n\n")


if __name__ == "__main__":
    main()
