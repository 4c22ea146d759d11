"""SliceBank: every slice of a cohort as tensors, and the order in which they train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from crossbeat import geometry
from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.devices import give_back_freed_memory
from crossbeat.errors import CohortError
from crossbeat.labels import TRAINED, UNKNOWN, fold_drawn
from crossbeat.prepare.augment import Augmentation, apply, draw
from crossbeat.prepare.rows import Rows, gathered
from crossbeat.prepare.volumes import Preparation, Window, label_slices_of, normalise, slices_of, window_of

AT_ONCE: Final = 64
"""Slices that are copied or changed together, where all are."""
GIVE_BACK_EVERY: Final = 20
"""Scans read between two times that freed memory goes back to the system."""


@dataclass(frozen=True)
class Slice:
    """Where a slice of the bank comes from."""

    subject: str
    scan: str
    sequence: str
    frame: int
    z: int
    z_mm: float
    """Position along the scan's normal, in the patient: comparable between scans cut alike."""


@dataclass(frozen=True)
class Batch:
    """Slices for one step. `labels` hold 0 to k-1 and `UNKNOWN`; `drawn` says which of the k classes were drawn."""

    image: Float[Tensor, "n c y x"]
    labels: UInt8[Tensor, "n y x"]
    drawn: Bool[Tensor, "n k"]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; the CPU does not wait until it is there."""
        if self.image.device == device:
            return self
        image, labels, drawn = (
            (part.pin_memory() if device.type == "cuda" and not part.is_cuda else part).to(
                device, non_blocking=True
            )
            for part in (self.image, self.labels, self.drawn)
        )
        return Batch(image, labels, drawn)


@dataclass(frozen=True)
class SliceBank:
    """The slices of a cohort, each in its field (`Preparation.field` pixels wide), in the cohort's order.

    They lie on the device that trains; where that has not the room for them, in memory; and where they are many, in a
    mapped file (`prepare.rows`). Batches come on the device in any case, and hold the same slices.
    """

    images: Float[Tensor, "n 1 y x"]
    labels: UInt8[Tensor, "n y x"]
    drawn: Bool[Tensor, "n k"]
    """k = 4: background (always true where annotated), LV, MYO, RV; all false where nobody looked."""
    table: tuple[Slice, ...]
    preparation: Preparation
    device: torch.device | None = None
    """Where batches are wanted; None: where the slices are."""

    def __len__(self) -> int:
        return len(self.table)

    def to(self, device: torch.device | str) -> SliceBank:
        """The same bank with its batches on another device; all of it, where it takes half the free memory at most."""
        device = torch.device(device)
        if not _has_room(device, self.images, self.labels, self.drawn):
            return replace(self, device=device)
        images, labels, drawn = (part.to(device) for part in (self.images, self.labels, self.drawn))
        return replace(self, images=images, labels=labels, drawn=drawn, device=None)

    def batch(self, indices: Int[Tensor, " n"]) -> Batch:
        """The slices of these indices, whole fields; nothing waits for the device."""
        where = indices.to(self.images.device, non_blocking=True)
        found = Batch(self.images[where], self.labels[where], self.drawn[where])
        return found if self.device is None else found.to(self.device)

    def with_images(
        self, change: Callable[[Float[Tensor, "n 1 y x"]], Tensor], at_once: int = AT_ONCE
    ) -> SliceBank:
        """The same slices with other images, made some at a time; they lie where the bank's own would."""
        here = self.images.device
        made = gathered(change(images).to(here) for images in torch.split(self.images, at_once))
        return replace(self, images=made)

    def only(self, indices: Int[Tensor, " n"]) -> SliceBank:
        """The slices of these indices alone, in their order."""
        parts = (self.images, self.labels, self.drawn)
        images, labels, drawn = (_gathered(part, indices.to(part.device)) for part in parts)
        table = tuple(self.table[i] for i in indices.tolist())
        return replace(self, images=images, labels=labels, drawn=drawn, table=table)

    def find(self, keep: Callable[[Slice], bool]) -> Int[Tensor, " n"]:
        """Indices of the slices for which `keep` is true, in order; empty where there are none."""
        return torch.tensor([i for i, s in enumerate(self.table) if keep(s)], dtype=torch.long)

    def annotated(self) -> Int[Tensor, " n"]:
        """Indices of the slices that somebody annotated, hearts or not."""
        return torch.nonzero(self.drawn[:, 0].cpu()).flatten()

    def volumes(self) -> dict[tuple[str, int], Int[Tensor, " z"]]:
        """By (scan, frame) the indices of its slices, in the bank's order."""
        found: dict[tuple[str, int], list[int]] = {}
        for i, s in enumerate(self.table):
            found.setdefault((s.scan, s.frame), []).append(i)
        return {volume: torch.tensor(indices) for volume, indices in found.items()}

    def nearest(self, z_mm: float, within_mm: float, keep: Callable[[Slice], bool]) -> int | None:
        """The slice nearest to a position, among those kept; None if none lies within the distance."""
        candidates = [(abs(s.z_mm - z_mm), i) for i, s in enumerate(self.table) if keep(s)]
        distance, index = min(candidates, default=(float("inf"), -1))
        return index if distance <= within_mm else None

    def pairs(self, frames: Iterable[tuple[str, int, int]]) -> Int[Tensor, "n 2"]:
        """Indices of the same slice in two frames, for each (scan, frame, other frame)."""
        at = {(s.scan, s.frame, s.z): i for i, s in enumerate(self.table)}
        found = [
            (i, at[scan, second, z])
            for scan, first, second in frames
            for (name, frame, z), i in at.items()
            if name == scan and frame == first and (scan, second, z) in at
        ]
        return torch.tensor(found, dtype=torch.long).reshape(-1, 2)


def build_bank(
    cohort: Cohort,
    preparation: Preparation,
    *,
    annotated_only: bool = False,
    progress: Callable[[Row], None] = lambda row: None,
) -> SliceBank:
    """Read a cohort's scans, one after another, into a bank; `CohortError` where it holds no slice.

    With `annotated_only` the slices that nobody looked at are left out.
    """
    images, labels, drawn = Rows(), Rows(), Rows()
    table: list[Slice] = []
    for number, row in enumerate(cohort, start=1):
        case = cohort.read(row)
        annotation = label_slices_of(case)
        looked_at = (annotation != UNKNOWN).flatten(1).any(dim=1)
        keep = torch.nonzero(looked_at).flatten() if annotated_only else torch.arange(len(looked_at))
        window = window_of(case, preparation)
        images.append(_images(case, window, preparation, keep))
        labels.append(window.cut_labels(annotation[keep]))
        drawn.append((_drawn(case) & looked_at[:, None])[keep])
        origins = _origins(case)
        table += [origins[i] for i in keep.tolist()]
        progress(row)
        if number % GIVE_BACK_EVERY == 0:
            give_back_freed_memory()
    if not table:
        kind = "annotated slice" if annotated_only else "slice"
        raise CohortError(f"{cohort.name}: no {kind} among {len(cohort)} scans; nothing to train on")
    return SliceBank(images.finish(), labels.finish(), drawn.finish(), tuple(table), preparation)


def join_banks(banks: Sequence[SliceBank]) -> SliceBank:
    """Several banks of one preparation as one, in their order."""
    return replace(
        banks[0],
        images=gathered(bank.images for bank in banks),
        labels=gathered(bank.labels for bank in banks),
        drawn=gathered(bank.drawn for bank in banks),
        table=tuple(place for bank in banks for place in bank.table),
    )


def _gathered(rows: Tensor, indices: Int[Tensor, " n"]) -> Tensor:
    return gathered(rows[some] for some in torch.split(indices, AT_ONCE))


def _has_room(device: torch.device, *tensors: Tensor) -> bool:
    """Whether they would take no more than half of the memory that is free on a GPU."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= free


def global_batch(seed: int, step: int, count: int, batch_size: int) -> Int[Tensor, " n"]:
    """Indices below `count` of the step's global batch: a function of seed and step, and of nothing else.

    Each pass over the slices has an order of its own; a batch may end one pass and begin the next.
    """
    if count < 1:
        raise CohortError("a batch needs at least one slice to draw from")
    places = range(step * batch_size, (step + 1) * batch_size)
    return torch.stack([_order(seed, place // count, count)[place % count] for place in places])


def training_batch(
    bank: SliceBank,
    batch_size: int,
    augmentation: Augmentation,
    *,
    seed: int,
    step: int,
    share: Callable[[Tensor], Tensor] = lambda indices: indices,
    candidates: Int[Tensor, " m"] | None = None,
) -> Batch:
    """This device's `share` of the step's global batch, changed at random and cropped.

    Slices and random changes are drawn on the CPU for the whole global batch, by seed and step alone: any
    number of devices sees the same images. `candidates` restricts the draw to some slices of the bank.
    """
    pool = torch.arange(len(bank)) if candidates is None else candidates
    chosen = pool[global_batch(seed, step, len(pool), batch_size)]
    changes = draw(augmentation, batch_size, batch_generator(seed, step))
    mine = share(torch.arange(batch_size))
    batch = bank.batch(chosen[mine])
    size = bank.preparation.size
    image, labels = apply(
        changes.take(mine).to(batch.image.device), batch.image, batch.labels, size=(size, size)
    )
    return Batch(image, labels, batch.drawn)


def batch_generator(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """A CPU generator for what a step draws at random, by seed, step and purpose alone."""
    generator = torch.Generator()
    generator.manual_seed((seed * 1_000_003 + step) * 101 + purpose)
    return generator


@lru_cache(maxsize=64)
def _order(seed: int, epoch: int, count: int) -> Int[Tensor, " n"]:
    # On the CPU by name: under another default device it would stay kept there, for whoever asks next.
    return torch.randperm(count, generator=batch_generator(seed, epoch, purpose=100), device="cpu")


def _images(
    case: Case, window: Window, preparation: Preparation, keep: Int[Tensor, " m"]
) -> Float[Tensor, "m 1 y x"]:
    """The slices to keep, prepared; all slices of the scan take part where the scale is the volume's."""
    slices = slices_of(case.image)
    if preparation.per == "slice":
        return normalise(window.cut(slices[keep]), window, preparation)
    return normalise(window.cut(slices), window, preparation)[keep]


def _drawn(case: Case) -> Bool[Tensor, "n k"]:
    """For each slice whether background, LV, MYO and RV were drawn in its frame."""
    frames = [[True, *(s in fold_drawn(drawn) for s in TRAINED)] for drawn in case.drawn]
    return torch.tensor(frames).repeat_interleave(case.image.shape[1], dim=0)


def _origins(case: Case) -> Sequence[Slice]:
    positions = geometry.slice_positions_mm(case.affine, case.image.shape[1])
    return [
        Slice(case.subject, case.id, case.domain.sequence, t, z, float(positions[z]))
        for t in range(case.frames)
        for z in range(case.image.shape[1])
    ]
