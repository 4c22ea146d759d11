"""A cine with a labelled frame or two in, labels of every frame out, and how far each can be relied on.

One-hot labels of ED (and of ES) are warped linearly to each frame by the field registered with ED (ES) as moving
and that frame as fixed, averaged by their nearness in time, and the largest share wins (methods.md 2.4). All of it
on the scan's own grid: a field that is zero there leaves labels exactly as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cohort import Row
from crossbeat.errors import CaseError
from crossbeat.labels import TRAINED, UNKNOWN, Structure, fold_drawn
from crossbeat.losses.registration import TINIEST_VARIANCE, local_correlation, local_variance
from crossbeat.methods.propagation.frames import (
    Which,
    choose_frames,
    cine_images,
    refuse_empty,
    restrict,
    usable_frames,
)
from crossbeat.methods.propagation.registrar import Registrar
from crossbeat.methods.propagation.registration import one_hot
from crossbeat.networks.deformation import jacobian_determinant, warp
from crossbeat.prepare.volumes import Window, crop, label_slices_of, pad, window_of

_WINDOW = (1, 9, 9)
"""Of the local correlation, in pixels: that of the loss, within slices."""


@dataclass(frozen=True)
class FrameRecord:
    """How far the labels of one frame can be relied on."""

    frame: int
    labelled: bool
    """Whether labels were carried from here; they stand as they were drawn, confidence 1, the rest nan."""
    agreement: float
    """Mean Dice of the masks that came from either side, in [0, 1]; nan where they came from one frame."""
    similarity: float
    """Mean local correlation over the heart of this frame's image and those warped to it, in [0, 1]; nan where
    there is no pattern to compare."""
    regularity: float
    """Share of the heart's voxels where the field does not fold, in [0, 1]."""
    smallest_jacobian: float
    """Of the field over the heart; 1 at rest, negative where it folds."""
    coverage: float
    """Share of the sources' heart inside the registration's window, in [0, 1]: outside it nothing moves."""
    confidence: float
    """In [0, 1], `confidence_of` the four shares."""


@dataclass(frozen=True)
class Carried:
    """A cine whose labels were carried from `sources` to `frames`; elsewhere nobody looked."""

    case: Case
    """The scan with the carried labels, 0 to 3 and `UNKNOWN`, (t, z, y, x) on its own grid."""
    sources: tuple[int, ...]
    frames: tuple[FrameRecord, ...]
    """One a frame that was asked for, in order."""
    displacement: Float[Tensor, "f d z y x"] | None
    """On request, for each of `frames`, where its voxels lie in the first of the sources: voxels of the scan's
    own grid, (y, x) or (z, y, x), zero outside the registration's window."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(t, z, y, x) values of `Structure` and `UNKNOWN`."""
        assert self.case.labels is not None
        return self.case.labels


def find_sources(row: Row, case: Case, propagate_from: Which) -> list[int]:
    """Frames of a scan from which labels can be carried, ED first.

    One labelled frame is enough, whatever phase it is. `CaseError` where the scan has one frame, or no labels of
    LV, MYO or RV, or nothing in a mask that is to be carried; `CohortError` where it cannot be told which of the
    labelled frames is meant (`choose_frames`). A frame in which less or other was drawn than in the first (at ES
    often the cavity alone) is no source.
    """
    if case.frames < 2:
        raise CaseError(case.id, "has one frame, so there is nothing to carry labels to; give the whole cine")
    usable = usable_frames(case)
    if not usable:
        raise CaseError(
            case.id,
            "no frame has labels of LV, MYO or RV to carry; draw them in one frame, best at end diastole",
        )
    found = choose_frames(row, usable, propagate_from, case.frames)
    drawn = fold_drawn(case.drawn[found[0]])
    sources = [frame for frame in found if fold_drawn(case.drawn[frame]) == drawn]
    refuse_empty(case, sources)
    return sources


def carry(
    case: Case,
    sources: Sequence[int],
    registrar: Registrar,
    *,
    frames: Sequence[int] | None = None,
    keep_displacement: bool = False,
) -> Carried:
    """Labels of the sources, and of no other frame, carried to `frames` (all of the scan's).

    At a source its own labels stand. Outside the registration's window nothing moves. Where nobody looked in
    any source, nobody looked in the carried labels either. `CaseError` where sources or frames are none, or none
    of the scan's, and where a source has no labels.
    """
    wanted = sorted(range(case.frames) if frames is None else set(frames))
    _refuse_what_is_not_there(case, sources, wanted)
    known = restrict(case, sources)
    window = window_of(known, registrar.preparation)
    images = cine_images(known, registrar.preparation, window)
    structures = [s for s in TRAINED if s in fold_drawn(case.drawn[sources[0]])]
    places = _Places(known, window, registrar)
    labels = np.full(case.image.shape, UNKNOWN, np.uint8)
    records, fields = [], []
    for t in wanted:
        shares = temporal_weights(t, sources, case.frames)
        found = {s: registrar.displacement(images[s], images[t]) for s in shares if s != t}
        arrived = {s: places.warp_labels(s, field) for s, field in found.items()}
        merged = places.labels_of(t) if t in shares else blend(arrived, shares)
        labels[t] = places.whole(merged, max(shares, key=lambda s: shares[s])).numpy()
        heart = places.heart_on_registration_grid(merged)
        coverage = 1 - sum(share * (1 - places.coverage(s)) for s, share in shares.items())
        records.append(_record(t, images, structures, found, arrived, shares, heart, coverage))
        if keep_displacement:
            fields.append(_from_first(sources[0], t, images, found, registrar, places))
    drawn = frozenset(structures)
    carried = replace(
        case,
        labels=labels,
        drawn=tuple(drawn if t in wanted else frozenset() for t in range(case.frames)),
    )
    kept = torch.stack(fields).cpu() if keep_displacement else None
    return Carried(carried, tuple(sources), tuple(records), kept)


def temporal_weights(frame: int, sources: Sequence[int], frames: int) -> dict[int, float]:
    """How much the sources before and after a frame of the cycle count for it: linear in time, summing to 1.

    The cycle closes: after ES the next source is ED again. A source counts alone for itself, and a single one for
    every frame.
    """
    if frame in sources:
        return {frame: 1.0}
    since = {s: (frame - s) % frames for s in sources}
    before = min(sources, key=lambda s: since[s])
    after = max(sources, key=lambda s: since[s])
    if before == after:
        return {before: 1.0}
    to_come = frames - since[after]
    span = since[before] + to_come
    return {before: to_come / span, after: since[before] / span}


def blend(
    arrived: Mapping[int, Float[Tensor, "k z y x"]], shares: Mapping[int, float]
) -> UInt8[Tensor, "z y x"]:
    """The class with the largest share where at least one source was looked at; `UNKNOWN` elsewhere.

    Each source's warped masks count by its share; where it was not looked at (its masks sum to less than a half)
    it has no say.
    """
    seen = {s: masks.sum(dim=0) > 0.5 for s, masks in arrived.items()}
    total = torch.stack([shares[s] * masks * seen[s] for s, masks in arrived.items()]).sum(dim=0)
    anyone = torch.stack(list(seen.values())).any(dim=0)
    label = torch.full_like(total[0], UNKNOWN, dtype=torch.uint8)
    best = torch.zeros_like(total[0])
    for k, share in enumerate(total):  # torch's argmax along the first axis is several times as slow
        label, best = label.masked_fill(share > best, k), torch.maximum(share, best)
    return label.masked_fill(~anyone, UNKNOWN)


def agreement_of(
    ours: UInt8[Tensor, "z y x"], theirs: UInt8[Tensor, "z y x"], structures: Sequence[Structure]
) -> float:
    """Mean Dice of two label maps over those of the structures that are in either; nan where none is."""
    known = (ours != UNKNOWN) & (theirs != UNKNOWN)
    values = []
    for structure in structures:
        a, b = ((labels == structure) & known for labels in (ours, theirs))
        size = int(a.sum()) + int(b.sum())
        if size:
            values.append(2 * int((a & b).sum()) / size)
    return float(np.mean(values)) if values else math.nan


def confidence_of(agreement: float, similarity: float, regularity: float, coverage: float) -> float:
    """How far carried labels can be relied on, in [0, 1]: as far as the weakest of the four that are known.

    With ED alone nothing can agree, and the others decide. 0 where neither agreement nor similarity is known: that
    a field is smooth says nothing of where it leads. Ours: the paper leaves unreliable labels to future work.
    """
    if math.isnan(agreement) and math.isnan(similarity):
        return 0.0
    shares = (agreement, similarity, regularity, coverage)
    return min(share for share in shares if not math.isnan(share))


class _Places:
    """Between the scan's own grid and the registration's: one-hot labels of the sources, cut to where things move."""

    def __init__(self, case: Case, window: Window, registrar: Registrar) -> None:
        self.window = window
        self.side = registrar.preparation.size
        self.device = registrar.device
        t, z, y, x = case.image.shape
        self.shape = (z, y, x)
        self.labels = label_slices_of(case).reshape(t, z, y, x)
        covered = window.paste(pad(torch.ones(1, 1, self.side, self.side), window.size))[0, 0] > 0
        self.box = tuple(
            slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 0)
            for seen in (torch.nonzero(covered.any(dim=axis)).flatten() for axis in (1, 0))
        )

    def labels_of(self, source: int) -> UInt8[Tensor, "z h w"]:
        """The source's own labels, in the box (h, w)."""
        return self.labels[source][:, self.box[0], self.box[1]].to(self.device)

    def coverage(self, source: int) -> float:
        """Share of the source's heart that lies in the box, in [0, 1]; 1 where it has none."""
        heart = (self.labels[source] > 0) & (self.labels[source] != UNKNOWN)
        inside = heart[:, self.box[0], self.box[1]]
        return int(inside.sum()) / int(heart.sum()) if heart.any() else 1.0

    def warp_labels(self, source: int, field: Float[Tensor, "d z a b"]) -> Float[Tensor, "k z h w"]:
        """The source's one-hot labels where the field, of the registration's grid, carries them; in the box."""
        moved = self.on_scan_grid(field)[:, :, self.box[0], self.box[1]]
        return warp(one_hot(self.labels_of(source))[None], moved[None])[0]

    def on_scan_grid(self, field: Float[Tensor, "d z a b"]) -> Float[Tensor, "d z y x"]:
        """A field of the registration's grid on the scan's, in its voxels; zero outside the window."""
        per_slice = pad(field.transpose(0, 1), self.window.size)
        on_scan = self.window.paste(per_slice).transpose(0, 1)
        pixels = [self.window.spacing_mm / spacing for spacing in self.window.scan_spacing_mm]
        ratios = on_scan.new_tensor([1.0] * (len(field) - 2) + pixels)
        return on_scan * ratios[:, None, None, None]

    def heart_on_registration_grid(self, labels: UInt8[Tensor, "z h w"]) -> Bool[Tensor, "z a b"]:
        """Where on the registration's grid the labels of the box show any heart."""
        whole = torch.zeros(self.shape, device=labels.device)
        whole[:, self.box[0], self.box[1]] = ((labels > 0) & (labels != UNKNOWN)).float()
        return crop(self.window.cut(whole[:, None]), self.side)[:, 0] > 0.5

    def whole(self, labels: UInt8[Tensor, "z h w"], nearest: int) -> UInt8[Tensor, "z y x"]:
        """Labels of the box on the scan's whole grid; around it those of the nearest source, which do not move."""
        found = self.labels[nearest].clone()
        found[:, self.box[0], self.box[1]] = labels.to(found.device)
        return found


def _refuse_what_is_not_there(case: Case, sources: Sequence[int], wanted: Sequence[int]) -> None:
    usable = usable_frames(case)
    labelled = ", ".join(map(str, usable)) or "none"
    if not sources:
        raise CaseError(
            case.id, f"no frame is given to carry labels from; give some of those labelled: {labelled}"
        )
    for frame in sources:
        if frame not in usable:
            raise CaseError(
                case.id,
                f"frame {frame} has no labels of LV, MYO or RV to carry; those labelled are {labelled}",
            )
    if not wanted:
        raise CaseError(case.id, "no frame is given to carry labels to; leave `frames` out for all")
    for frame in wanted:
        if not 0 <= frame < case.frames:
            raise CaseError(
                case.id,
                f"labels cannot be carried to frame {frame}; the scan has frames 0 to {case.frames - 1}",
            )


def _from_first(
    first: int,
    frame: int,
    images: Float[Tensor, "t z a b"],
    found: Mapping[int, Float[Tensor, "d z a b"]],
    registrar: Registrar,
    places: _Places,
) -> Float[Tensor, "d z y x"]:
    """Where a frame's voxels lie in the first source, on the scan's own grid."""
    if frame != first:
        field = found.get(first)
        if field is None:
            field = registrar.displacement(images[first], images[frame])
        return places.on_scan_grid(field)
    channels = 3 if registrar.network.arguments["through_plane"] else 2
    return torch.zeros(channels, *places.shape, device=registrar.device)


def _record(
    frame: int,
    images: Float[Tensor, "t z a b"],
    structures: Sequence[Structure],
    found: Mapping[int, Float[Tensor, "d z a b"]],
    arrived: Mapping[int, Float[Tensor, "k z h w"]],
    shares: Mapping[int, float],
    heart: Bool[Tensor, "z a b"],
    coverage: float,
) -> FrameRecord:
    """Everything but agreement and coverage is taken on the registration's grid, over the carried heart."""
    if frame in shares:
        return FrameRecord(frame, True, math.nan, math.nan, math.nan, math.nan, math.nan, 1.0)
    similarity = regularity = smallest = math.nan
    if heart.any():
        fixed = images[frame].float().to(heart.device)[None, None]
        alike, folded = {}, []
        for source, field in found.items():
            moved = warp(images[source].float().to(heart.device)[None, None], field[None])
            alike[source] = _similarity(moved, fixed, heart)
            folded.append((shares[source], jacobian_determinant(field[None])[0][heart]))
        similarity = _weighted(alike, shares)
        regularity = min(sum(share * float((j > 0).float().mean()) for share, j in folded), 1.0)
        smallest = min(float(j.min()) for _, j in folded)
    agreement = math.nan
    if len(arrived) > 1:
        first, second = (blend({s: masks}, {s: 1.0}) for s, masks in arrived.items())
        agreement = agreement_of(first, second, structures)
    confidence = confidence_of(agreement, similarity, regularity, coverage)
    return FrameRecord(frame, False, agreement, similarity, regularity, smallest, coverage, confidence)


def _similarity(
    moved: Float[Tensor, "1 1 z a b"], fixed: Float[Tensor, "1 1 z a b"], heart: Bool[Tensor, "z a b"]
) -> float:
    """Mean local correlation over the heart, but where both images are flat: two constants correlate perfectly."""
    variance = torch.maximum(*(local_variance(image, _WINDOW)[0, 0] for image in (moved, fixed)))
    seen = heart & (variance >= TINIEST_VARIANCE)
    return float(local_correlation(moved, fixed, _WINDOW)[0, 0][seen].sqrt().mean())  # nan where none is seen


def _weighted(values: Mapping[int, float], shares: Mapping[int, float]) -> float:
    """Mean by share of those that are known; nan where none is."""
    known = {s: value for s, value in values.items() if not math.isnan(value)}
    total = sum(shares[s] for s in known)
    return min(sum(shares[s] * value for s, value in known.items()) / total, 1.0) if known else math.nan
