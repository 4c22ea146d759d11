"""Scans in, mixed batches out: images with true masks, and target images with the masks of another sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CohortError
from crossbeat.labels import UNKNOWN
from crossbeat.methods.recipe import Domains
from crossbeat.methods.weak_transfer.settings import Settings
from crossbeat.prepare.augment import Draw, apply, draw
from crossbeat.prepare.correspondence import fuse_labels, pair_scans, pseudo_case
from crossbeat.prepare.random_fields import normal
from crossbeat.prepare.slices import AT_ONCE, SliceBank, batch_generator, build_bank, global_batch, join_banks
from crossbeat.training import Run

_CROPS = 1
"""Purpose of the random numbers that choose a crop; 0 draws the other changes."""
_MASK_NOISE = 5
"""Stream of the noise on drawn masks, after those of prepare.augmentation_draw."""


@dataclass(frozen=True)
class MixedBatch:
    """Slices for one step, and whether an expert drew the mask on that very image."""

    image: Float[Tensor, "n 1 y x"]
    labels: UInt8[Tensor, "n y x"]
    drawn: Bool[Tensor, "n k"]
    is_true: Bool[Tensor, " n"]
    true_at: Int[Tensor, " m"]
    """Places of those that are true; how many they are is known without waiting for the device."""
    seed: Int[Tensor, " n"]
    """Of each sample, for what else is drawn at random."""

    @property
    def complete(self) -> Bool[Tensor, " n"]:
        """Samples in which every structure was drawn: only their masks show what a whole heart looks like."""
        looked = (self.labels != UNKNOWN).flatten(1).any(dim=1)
        return self.drawn.all(dim=1) & looked

    def only_true(self) -> MixedBatch:
        """The samples with a true mask alone, in their order; there may be none."""
        at = self.true_at
        alone = torch.arange(len(at), device=at.device)
        return MixedBatch(
            self.image[at], self.labels[at], self.drawn[at], self.is_true[at], alone, self.seed[at]
        )


@dataclass(frozen=True)
class Pairs:
    """All slices to learn from, those with true masks first."""

    bank: SliceBank
    true: Int[Tensor, " n"]
    """Indices of slices with a true mask."""
    pseudo: Int[Tensor, " m"]
    """Indices of slices with a pseudo mask; empty without transfer."""

    @property
    def masked(self) -> frozenset[str]:
        """Target scans of which at least one slice learns from a pseudo mask."""
        return frozenset(self.bank.table[i].scan for i in self.pseudo.tolist())

    def to(self, device: torch.device | str) -> Pairs:
        """The same slices on another device."""
        return replace(self, bank=self.bank.to(device))

    def batch(
        self, settings: Settings, *, seed: int, step: int, share: Callable[[Tensor], Tensor]
    ) -> MixedBatch:
        """This device's share of the step's global batch, changed at random and cropped.

        All is drawn on the CPU for the whole batch, by seed and step alone. Under `half` true and pseudo samples take
        turns, so that every device has as many of each where its share is even; `train` refuses an odd one.
        """
        n, size = settings.batch_size, settings.image_size
        changes = draw(settings.changes, n, batch_generator(seed, step))
        changes = shift_crops(changes, settings.crop_shift_px, batch_generator(seed, step, _CROPS))
        chosen = self.choose(settings, seed, step)
        mine = share(torch.arange(n))
        batch = self.bank.batch(chosen[mine])
        mine_changes = changes.take(mine).to(batch.image.device)
        image, labels = apply(mine_changes, batch.image, batch.labels, size=(size, size))
        is_true = chosen[mine] < len(self.true)
        true_at = torch.nonzero(is_true).flatten().to(image.device, non_blocking=True)
        is_true = is_true.to(image.device, non_blocking=True)
        return MixedBatch(image, labels, batch.drawn, is_true, true_at, mine_changes.seed)

    def choose(self, settings: Settings, seed: int, step: int) -> Int[Tensor, " n"]:
        """Indices of the step's global batch, the same for any number of devices."""
        n = settings.batch_size
        if not len(self.pseudo):
            return self.true[global_batch(seed, step, len(self.true), n)]
        if settings.mixing == "pooled":
            pool = torch.cat([self.true.repeat(settings.true_repeats), self.pseudo])
            return pool[global_batch(seed, step, len(pool), n)]
        halves = [part[global_batch(seed, step, len(part), n // 2)] for part in (self.true, self.pseudo)]
        return torch.stack(halves, dim=1).flatten()


def mask_noise(batch: MixedBatch, sd: float) -> Float[Tensor, "n k y x"]:
    """Gaussian noise of that SD for the masks of a batch, each by its own seed."""
    n, k = batch.drawn.shape
    y, x = batch.labels.shape[1:]
    return sd * normal(batch.seed, _MASK_NOISE, k * y * x).view(n, k, y, x)


def shift_crops(changes: Draw, shift_px: int, generator: torch.Generator) -> Draw:
    """Each sample cropped about the middle of its field, or about one of four places `shift_px` beside it.

    The five crops of the paper, up, down, left, right and middle alike likely, come on top of all other changes.
    """
    if not shift_px:
        return changes
    crops = torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=torch.float32)
    shift = shift_px * crops[torch.randint(len(crops), (len(changes),), generator=generator)]
    still = torch.eye(2, 3).expand(len(changes), 2, 3)
    backward = (still if changes.backward is None else changes.backward).clone()
    backward[:, :, 2] += shift
    moved = (shift != 0).any(dim=1)
    return replace(
        changes, backward=backward, moved=moved if changes.moved is None else moved | changes.moved
    )


def gather(domains: Domains, settings: Settings, run: Run) -> Pairs:
    """Read every scan to learn from, and carry the source's masks onto the target's images.

    Target scans whose own labels train take none. `CohortError` where no scan gets a mask; `CaseError` where one
    cannot be read. A pair of scans whose mask does not arrive is left out, noted, and named in log.jsonl.
    """
    labelled = replace(domains.source, rows=domains.source.rows + domains.target.rows)
    with run.bar("reading scans", len(labelled)) as step:
        true = build_bank(labelled, settings.preparation, annotated_only=True, progress=step)
    banks = [true if settings.keep_empty_slices else _with_hearts(true)]
    if settings.transfer:
        pseudo = build_pseudo_bank(domains, settings, run)
        banks.append(pseudo if settings.keep_empty_slices else _with_hearts(pseudo))
    count = len(banks[0])
    bank = join_banks(banks)
    return Pairs(bank, torch.arange(count), torch.arange(count, len(bank)))


def build_pseudo_bank(domains: Domains, settings: Settings, run: Run) -> SliceBank:
    """Slices of the target's images with the masks of the same subjects' source scans."""
    own = {row.scan for row in domains.target}
    open_to_masks = domains.unlabelled.only(lambda row: row.scan not in own)
    if not len(open_to_masks):
        raise CohortError(
            f"{domains.unlabelled.name}: no target scan that trains is without labels of its own, so there is none to "
            "carry masks to; set `split` of some to train, take fewer with `target_labelled: N`, say "
            "`transductive: true` to use the images of those who are tested, or `transfer: false`"
        )
    carried = _carry_all(pair_scans(domains.source, open_to_masks), domains, settings, run)
    cases = carried if settings.fuse_masks == "none" else _fuse(carried, settings.fuse_masks)
    rows = tuple(
        Row(case.subject, f"{case.id} {i}", case.domain.sequence, "-", labels="-")
        for i, case in enumerate(cases)
    )
    by_row = dict(zip([row.scan for row in rows], cases, strict=True))
    cohort = Cohort(rows, lambda row: by_row[row.scan], domains.unlabelled.name)
    return build_bank(cohort, settings.preparation, annotated_only=True)


def _carry_all(pairs: list[tuple[Row, Row]], domains: Domains, settings: Settings, run: Run) -> list[Case]:
    """The target scan of each pair with the source's mask, but for pairs whose mask does not arrive."""
    carried: list[Case] = []
    failed: list[tuple[Row, Row, CaseError]] = []
    with run.bar("carrying masks over", len(pairs)) as step:
        for source, target in pairs:
            # Outside the try: a scan that cannot be read is broken, whatever its partner.
            labelled, image = domains.source.read(source), domains.unlabelled.read(target)
            try:
                carried.append(_carry(labelled, image, source.ed_frame, settings))
            except CaseError as error:
                failed.append((source, target, error))
            step()
    if not carried:
        raise CohortError(
            f"{domains.unlabelled.name}: no target scan gets a pseudo mask, of {len(pairs)} pairs of scans; "
            f"first: {failed[0][2]}"
        )
    if failed:
        _tell(failed, len(pairs), run)
    return carried


def _carry(labelled: Case, image: Case, ed_frame: int | None, settings: Settings) -> Case:
    """The mask at rest, where that frame is labelled: LGE and T2 are taken then."""
    return pseudo_case(
        labelled,
        image,
        correspondence=settings.correspondence,
        rounding=settings.rounding,
        frame=ed_frame if ed_frame in labelled.labelled_frames else None,
    )


def _tell(failed: list[tuple[Row, Row, CaseError]], count: int, run: Run) -> None:
    """One note of all pairs that failed, and each of them in log.jsonl, which a dry run has not."""
    real = run.estimates is None
    where = " (each is in log.jsonl)" if real else ""
    run.note(f"{len(failed)} of {count} pairs of scans give no pseudo mask{where}; first: {failed[0][2]}")
    if real:
        for source, target, error in failed:
            run.record("no pseudo mask", source=source.scan, target=target.scan, problem=str(error))


def _fuse(cases: list[Case], how: Literal["majority", "intersection"]) -> list[Case]:
    """One case a target scan, with the label on which its sources agree and what any of them drew in common."""
    fused = []
    for scan in dict.fromkeys(case.id for case in cases):
        same = [case for case in cases if case.id == scan]
        maps = [case.labels for case in same if case.labels is not None]
        drawn = tuple(frozenset.intersection(*sets) for sets in zip(*(c.drawn for c in same), strict=True))
        fused.append(replace(same[0], labels=fuse_labels(maps, how), drawn=drawn))
    return fused


def _with_hearts(bank: SliceBank) -> SliceBank:
    parts = torch.split(bank.labels, AT_ONCE)
    heart = [((labels > 0) & (labels != UNKNOWN)).flatten(1).any(dim=1) for labels in parts]
    keep = torch.nonzero(torch.cat(heart)).flatten()
    if not len(keep):
        raise CohortError("no slice shows any heart; `keep_empty_slices: false` leaves nothing to train on")
    return bank.only(keep)
