"""Runs and a word for styles in, trained stylizers and the slices whose styles they give out."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cli.options import pick
from crossbeat.cohort import Cohort, Row, parse_filter
from crossbeat.data.reading import reader
from crossbeat.errors import CohortError, RunError, SettingsError
from crossbeat.methods.recipe import what_there_is
from crossbeat.methods.stylization import Settings, Stylizer, load_stylizer
from crossbeat.methods.stylization.restyling import Content, prepare
from crossbeat.methods.stylization.styles import read_styles, still_frames
from crossbeat.prepare.slices import SliceBank
from crossbeat.prepare.volumes import Preparation, crop
from crossbeat.report.wording import count
from crossbeat.segmenter import Segmenter, load_segmenter

TARGET: Final = "target"
"""Of `--style`: the styles that the run itself saw."""


@dataclass(frozen=True)
class StylizerRun:
    """A run with its stylizer, and its segmenter where it has one."""

    path: Path
    name: str
    """`rain` or `adaconv`; the second of a kind is `rain-2`."""
    stylizer: Stylizer
    settings: Settings
    segmenter: Segmenter | None
    device: torch.device

    @property
    def preparation(self) -> Preparation:
        """Of contents and styles."""
        return self.stylizer.encoder.preparation


class Place(NamedTuple):
    """A slice of a style scan; its frame is counted among those that show the style."""

    scan: str
    frame: int
    z: int


class StyleScan(NamedTuple):
    """A scan that gives styles, by those frames alone that show it, with labels where it has any."""

    row: Row
    case: Case
    frames: Sequence[int]
    """Of the whole scan."""


@dataclass(frozen=True)
class Styles:
    """Slices whose styles can be given, as each run sees them."""

    cohort: Cohort
    banks: Mapping[str, SliceBank]
    """By a run's name."""
    places: Sequence[Place]
    """Those that show something to every run."""
    told: str
    """Which they are, in words."""
    files: Sequence[Path] = ()
    """That the user named."""
    _scans: dict[str, StyleScan] = field(default_factory=dict, repr=False)

    def choose(self, scan: str, seed: int) -> Place:
        """The style of a scan, drawn by seed and the scan's name alone: the same for every run."""
        draw = np.random.default_rng([seed, zlib.crc32(scan.encode())])
        return self.places[int(draw.integers(len(self.places)))]

    def image(self, run: StylizerRun, place: Place) -> Float[Tensor, "1 1 s s"]:
        """The slice as that run is given it, on its device."""
        bank = self.banks[run.name]
        index = bank.find(lambda p: Place(p.scan, p.frame, p.z) == place)
        return crop(bank.images[index], bank.preparation.size).to(run.device)

    def scan(self, name: str) -> StyleScan:
        """A style scan; once read it is kept."""
        if name not in self._scans:
            row = self.cohort.row(name)
            case = self.cohort.read(row)
            frames = still_frames(row, case)
            self._scans[name] = StyleScan(row, with_frames(case, frames), frames)
        return self._scans[name]

    def frame(self, place: Place) -> int:
        """The slice's frame in the scan's own counting."""
        return self.scan(place.scan).frames[place.frame]

    def content(self, place: Place, preparation: Preparation) -> Content:
        """The whole style scan as a stylizer is given it."""
        return prepare(self.scan(place.scan).case, preparation, about_heart=False)


def with_frames(case: Case, frames: Sequence[int]) -> Case:
    """The scan by some of its frames alone, with their labels."""
    chosen = list(frames)
    return replace(
        case,
        image=case.image[chosen],
        labels=None if case.labels is None else case.labels[chosen],
        drawn=() if case.labels is None else tuple(case.drawn[t] for t in chosen),
        frame_times_ms=None,
    )


def load_stylizers(paths: Sequence[Path], device: torch.device) -> list[StylizerRun]:
    """The stylizers of runs, in order; `RunError` where one has none."""
    found: list[StylizerRun] = []
    for path in paths:
        folder = path / "models" / "stylizer"
        if not folder.is_dir():
            raise RunError(f"{path}: {_why_no_stylizer(path)}")
        stylizer = load_stylizer(folder, device)
        if (path / "settings.yaml").exists():  # an arm of a study may have another arm's stylizer
            settings = Settings.load(path / "settings.yaml")
        elif "settings" in stylizer.provenance:
            settings = Settings.of(stylizer.provenance["settings"], f"{folder}/stylizer.json")
        else:
            raise RunError(f"{folder}: stylizer.json does not say how it was trained; train it again")
        alike = sum(run.stylizer.kind == stylizer.kind for run in found)
        name = stylizer.kind + (f"-{alike + 1}" if alike else "")
        segmenter = load_segmenter(path / "segmenter", device) if (path / "segmenter").is_dir() else None
        found.append(StylizerRun(path, name, stylizer, settings, segmenter, device))
    return found


def _why_no_stylizer(path: Path) -> str:
    wanted = "give a run of `crossbeat train stylization` whose stylizer is rain or adaconv"
    if path.is_file():
        return f"is a file; the folder of a run comes first, the cohort second: {wanted}"
    if not (path / "run.json").is_file():
        return f"is no folder of a run; {wanted}" if path.is_dir() else f"there is no such folder; {wanted}"
    if (path / "stages" / "encoder").is_dir() or (path / "stages" / "stylizer").is_dir():
        again = f"`crossbeat train stylization COHORT.CSV … -o {path} --resume`"
        return f"stopped before it had its stylizer; go on with the same {again}, or {wanted}"
    try:
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return f"its run.json is broken ({error}); {wanted}"
    if facts.get("method") == "stylization":
        return f"has no stylizer: it was trained with stylizer: none, or stopped before it had one; {wanted}"
    return f"has no stylizer, as a run of {facts.get('method', 'another method')}; {wanted}"


def find_contents(cohort: Cohort, run: StylizerRun, where: str, everything: bool) -> Cohort:
    """The scans to restyle: those asked for, or the run's source; of these the test split where there is one."""
    if where:
        return pick(cohort, where, everything)
    settings = run.settings
    target = {row.scan for row in cohort.where(**settings.target)} if settings.target else set()
    source = cohort.where(**settings.source) if settings.source else cohort
    source = source.only(lambda row: row.scan not in target)
    if not len(source):
        raise CohortError(
            f"{cohort.name}: no scan is of the run's source {settings.source or 'domain'}; name the scans to restyle "
            "with --where"
        )
    return pick(source, "", everything)


def find_styles(style: str, cohort: Cohort, runs: Sequence[StylizerRun]) -> Styles:
    """Read the style slices: `target`, a filter of the cohort's columns, or a NIfTI file.

    `SettingsError`, `CohortError` or `RunError` where the word means nothing, finds nobody, or shows one grey alone.
    """
    scans, told, files = _style_scans(style, cohort, runs[0])
    banks = {run.name: read_styles(scans, run.preparation) for run in runs}
    shared = [[Place(p.scan, p.frame, p.z) for p in bank.table] for bank in banks.values()]
    places = [place for place in shared[0] if all(place in other for other in shared[1:])]
    if not places:
        raise CohortError(
            f"{scans.name}: no style slice shows anything to every run; choose others by --style"
        )
    return Styles(scans, banks, places, told, files)


def _style_scans(style: str, cohort: Cohort, run: StylizerRun) -> tuple[Cohort, str, list[Path]]:
    if style == TARGET:
        return *_own_styles(cohort, run), []
    path = Path(style)
    if path.exists() or "=" not in style:
        return *_single_style(path), [path]
    found = cohort.where(**parse_filter(style))
    if not len(found):
        there = what_there_is(cohort, parse_filter(style))
        raise CohortError(
            f"{cohort.name}: no scan is {style}; --style needs scans whose styles to give, and {there}"
        )
    return found, f"the styles of {count(len(found), 'scan')} with {style}", []


def _own_styles(cohort: Cohort, run: StylizerRun) -> tuple[Cohort, str]:
    names = set(run.stylizer.provenance.get("styles", ()))
    if run.segmenter is not None:
        names = set(run.segmenter.provenance.get("trained_on", {}).get("target", ())) or names
    found = cohort.only(lambda row: row.scan in names)
    if not len(found):
        kept = f"none of its {len(names)} style scans, {min(names)!r} first, is in {cohort.name}; give the cohort.csv"
        lacking = (
            f"{kept} that it was trained on, or" if names else "it does not say which scans gave it styles;"
        )
        raise RunError(f"{run.path}: {lacking} name styles, as in --style sequence=lge")
    return found, f"the styles of {count(len(found), 'scan')} that the run took its styles from"


def _single_style(path: Path) -> tuple[Cohort, str]:
    if not path.is_file():
        raise SettingsError(
            f"--style {path}: is no file; say target, a filter such as sequence=lge, or the path of one NIfTI file"
        )
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    row = Row(stem, stem, stem.lower(), path.name)
    cohort = Cohort((row,), reader(path.parent, {}), str(path), path.parent)
    return cohort, f"the style of {path.name}"
