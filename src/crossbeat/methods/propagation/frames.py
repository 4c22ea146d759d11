"""Scans in, cines on the registration's grid out: whose labels may be seen, and which two frames make a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError
from crossbeat.labels import TRAINED, UNKNOWN, fold_drawn
from crossbeat.methods.propagation.settings import Settings
from crossbeat.methods.recipe import Domains
from crossbeat.prepare.slices import batch_generator, global_batch
from crossbeat.prepare.volumes import (
    Preparation,
    Window,
    crop,
    label_slices_of,
    normalise,
    slices_of,
    window_of,
)
from crossbeat.training import Run

Which = Literal["ed", "ed_es", "all"]

_FRAMES: Final = 2
"""Purpose of the random numbers that choose frames; 0 draws the changes of slices."""
_POSITIONS: Final = 8
"""Of a square: turned by a quarter, mirrored."""


@dataclass(frozen=True)
class Cine:
    """A scan as the registration sees it: all frames cropped about the heart, on one intensity scale."""

    scan: str
    images: Float[Tensor, "t z y x"]
    """In [0, 1], half precision: 11 bits are more than the scanner's noise leaves."""
    labelled: tuple[int, ...]
    """Frames whose labels may be seen, in order; none in an unlabelled scan."""
    labels: UInt8[Tensor, "f z y x"]
    """Of those frames: 0 to 3 and `UNKNOWN`."""
    drawn: Bool[Tensor, "f k"]
    """Of those frames: background (true), LV, MYO, RV."""

    def to(self, device: torch.device | str) -> Cine:
        """The same cine on another device."""
        return replace(
            self, images=self.images.to(device), labels=self.labels.to(device), drawn=self.drawn.to(device)
        )

    @property
    def frames(self) -> int:
        """Number of frames t."""
        return len(self.images)


@dataclass(frozen=True)
class Pair:
    """Two frames of a cine, to be registered: `moving` is carried to `fixed`."""

    cine: int
    """Its place in the list of cines."""
    moving: int
    fixed: int
    position: int = 0
    """0 to 7: the pair as it is, or in another position of a square."""


def choose_frames(row: Row, labelled: Sequence[int], which: Which, frames: int) -> list[int]:
    """Which of the labelled ones of a scan's frames are meant by `ed`, `ed_es` or `all`, ED first.

    ED and ES are those that the cohort names. Where it names neither, the labelled frames themselves are meant if
    there are no more than asked for. ED is never guessed: `CohortError` where more are labelled, where some are but
    none of those that are named and asked for, and where a name lies beyond the scan's frames.
    """
    _refuse_beyond(row, frames)
    if which == "all" or not labelled:
        return list(labelled)
    named = {"ed_frame": row.ed_frame} | ({"es_frame": row.es_frame} if which == "ed_es" else {})
    found = [frame for frame in dict.fromkeys(named.values()) if frame is not None and frame in labelled]
    nameless = row.ed_frame is None and row.es_frame is None
    if found or (nameless and len(labelled) <= len(named)):
        return found or list(labelled)
    wanted = "ED" if which == "ed" else "ED or ES"
    if nameless:
        raise CohortError(
            f"scan {row.scan!r}: has labels in {len(labelled)} frames ({_few(labelled)}), and its row does not say "
            f"which is {wanted}; fill ed_frame and es_frame in the cohort.csv"
        )
    said = ", ".join(f"{column} is {'empty' if t is None else t}" for column, t in named.items())
    raise CohortError(
        f"scan {row.scan!r}: has labels in frame {_few(labelled)}, which by its row is not {wanted} ({said}); correct "
        f"the row in the cohort.csv, label {wanted}, ask for other frames, or leave the scan out"
    )


def usable_frames(case: Case) -> list[int]:
    """Frames in which LV, MYO or RV was drawn; a frame with scar alone is none."""
    return [t for t in case.labelled_frames if fold_drawn(case.drawn[t])]


def refuse_empty(case: Case, frames: Sequence[int]) -> None:
    """`CaseError` where one of these labelled frames shows nothing of what was drawn in it."""
    for frame in frames:
        assert case.labels is not None
        if not ((case.labels[frame] > 0) & (case.labels[frame] != UNKNOWN)).any():
            names = ", ".join(s.name for s in TRAINED if s in fold_drawn(case.drawn[frame]))
            raise CaseError(
                case.id,
                f"frame {frame} should show {names}, and its mask is empty, so background alone would be carried; "
                "draw them there, or name in the cohort.csv the frames that somebody drew: labels as `0=ed.nii.gz`, or "
                "no es_frame",
            )


def restrict(case: Case, frames: Sequence[int]) -> Case:
    """The scan as if only these frames had been labelled."""
    if case.labels is None:
        return case
    labels = np.full_like(case.labels, UNKNOWN)
    kept = list(frames)
    labels[kept] = case.labels[kept]
    return replace(
        case, labels=labels, drawn=tuple(d if t in kept else frozenset() for t, d in enumerate(case.drawn))
    )


def shut_labels(domains: Domains, which: Which) -> Domains:
    """The same scans, read without the labels of all frames but those meant: nothing later can look at them."""

    def shut(cohort: Cohort) -> Cohort:
        def read(row: Row) -> Case:
            case = cohort.read(row)
            return (
                restrict(case, choose_frames(row, usable_frames(case), which, case.frames))
                if row.labels
                else case
            )

        return replace(cohort, read=read)

    return Domains(**{part: shut(cohort) for part, cohort in vars(domains).items()})


def make_cine(case: Case, preparation: Preparation) -> Cine:
    """A scan's frames and labels on the registration's grid, about its heart, or its image where nobody drew one."""
    t, z, y, x = case.image.shape
    window = window_of(case, preparation)
    labelled = tuple(usable_frames(case))
    labels = label_slices_of(case).reshape(t, z, y, x)[list(labelled)]
    fields = crop(window.cut_labels(labels.flatten(0, 1))[:, None], preparation.size)
    return Cine(
        scan=case.id,
        images=cine_images(case, preparation, window),
        labelled=labelled,
        labels=fields.reshape(len(labelled), z, preparation.size, preparation.size),
        drawn=drawn_table([case.drawn[t] for t in labelled]),
    )


def cine_images(case: Case, preparation: Preparation, window: Window) -> Float[Tensor, "t z y x"]:
    """A scan's frames on the registration's grid, all on one scale from 0 to 1, in half precision; blank ones are 0."""
    fields = crop(normalise(window.cut(slices_of(case.image)), window, preparation), preparation.size)
    if case.image.min() == case.image.max():
        fields.zero_()  # else the rounding of the resampling would have been stretched to the whole scale
    return fields.reshape(*case.image.shape[:2], preparation.size, preparation.size).half()


def drawn_table(drawn: Sequence[frozenset[int]]) -> Bool[Tensor, "f k"]:
    """For each frame whether background (always), LV, MYO and RV were drawn."""
    rows = [[True, *(s in drawn_here for s in TRAINED)] for drawn_here in drawn]
    return torch.tensor(rows, dtype=torch.bool).reshape(-1, len(TRAINED) + 1)


def gather_cines(domains: Domains, settings: Settings, run: Run) -> list[Cine]:
    """All scans with two frames or more that the registration may learn from; the others are counted in a note.

    `CaseError` where a labelled frame of theirs shows nothing of what was drawn in it.
    """
    own = {row.scan for row in domains.target}
    parts = [domains.source, domains.target]
    if settings.register_target:
        parts.append(domains.unlabelled.only(lambda row: row.scan not in own))
    cines, stills = [], []
    with run.bar("reading cines", sum(map(len, parts))) as step:
        for part in parts:
            for row in part:
                case = part.read(row)
                if case.frames > 1:
                    refuse_empty(case, usable_frames(case))
                    cines.append(make_cine(case, settings.registration_preparation))
                else:
                    stills.append(case.id)
                step()
    if cines and stills:
        run.note(
            f"{len(stills)} of {len(stills) + len(cines)} training scans have one frame, {stills[0]!r} first: "
            "nothing can be carried in them, and they take part in the segmentation only"
        )
    return cines


def draw_pairs(cines: Sequence[Cine], settings: Settings, *, seed: int, step: int) -> list[Pair]:
    """The step's global batch of pairs: a function of seed and step alone.

    Every cine comes once before any comes again; its two frames are drawn as the settings' shares say.
    """
    chosen = global_batch(seed, step, len(cines), settings.registration_batch).tolist()
    generator = batch_generator(seed, step, _FRAMES)
    return [_draw_pair(cines[i], i, settings, generator) for i in chosen]


def place(fields: Shaped[Tensor, "*n a b"], position: int) -> Shaped[Tensor, "*n c d"]:
    """Images or labels in one of the eight positions of a square; 0 leaves them."""
    flips = [axis for bit, axis in ((1, -1), (2, -2)) if position & bit]
    turned = fields.flip(flips) if flips else fields
    return turned.transpose(-1, -2) if position & 4 else turned


def _refuse_beyond(row: Row, frames: int) -> None:
    for column, frame in (("ed_frame", row.ed_frame), ("es_frame", row.es_frame)):
        if frame is not None and not 0 <= frame < frames:
            raise CohortError(
                f"scan {row.scan!r}: {column} is {frame}, but the image has frames 0 to {frames - 1}; correct the "
                "column in the cohort.csv; data sets that count from 1 need one less"
            )


def _few(frames: Sequence[int]) -> str:
    return ", ".join(map(str, frames[:3])) + " …" * (len(frames) > 3)


def _draw_pair(cine: Cine, number: int, settings: Settings, generator: torch.Generator) -> Pair:
    kind, first, second = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    position = int(torch.randint(_POSITIONS, (), generator=generator)) if settings.mirrored_pairs else 0
    ends, everyone = list(cine.labelled), list(range(cine.frames))
    moving_from, fixed_from = everyone, everyone
    if len(ends) > 1 and kind < settings.end_pairs:
        moving_from, fixed_from = ends, ends
    elif ends and kind < settings.end_pairs + settings.labelled_pairs:
        moving_from = ends
    moving = moving_from[int(first * len(moving_from))]
    others = [frame for frame in fixed_from if frame != moving]
    return Pair(number, moving, others[int(second * len(others))], position)
