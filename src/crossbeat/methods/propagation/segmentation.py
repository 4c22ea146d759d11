"""The stage that learns to segment: slices with real and with carried labels in, a segmentation network out."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.labels import TRAINED
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.methods.propagation.carrying import FrameRecord, carry, find_sources
from crossbeat.methods.propagation.frames import restrict
from crossbeat.methods.propagation.registrar import Registrar
from crossbeat.methods.propagation.settings import Settings
from crossbeat.methods.recipe import Domains
from crossbeat.methods.validation import SLICES_AT_ONCE, mean_dice, volume_dice
from crossbeat.networks import lay_out
from crossbeat.prepare.augment import apply, draw
from crossbeat.prepare.slices import Batch, SliceBank, batch_generator, build_bank, global_batch, join_banks
from crossbeat.prepare.volumes import crop
from crossbeat.training import Estimate, Run, Stage, constant, one_cycle, plateau
from crossbeat.training.run import peak_memory_mb


@dataclass(frozen=True)
class Lesson:
    """All slices to learn from, those with real labels first."""

    bank: SliceBank
    """Images in half precision: a cine fills memory quickly."""
    weights: Float[Tensor, " n"]
    """Of each slice in the loss."""
    real: int
    """How many of them have real labels."""
    records: Mapping[str, tuple[FrameRecord, ...]]
    """By scan, of the frames to which labels were carried, those left out included."""

    def to(self, device: torch.device | str) -> Lesson:
        """The same slices on another device; the weights stay, batches are drawn on the CPU."""
        return replace(self, bank=self.bank.to(device))

    def choose(self, settings: Settings, *, seed: int, step: int) -> Int[Tensor, " n"]:
        """Indices of the step's global batch: real and carried ones by their share, or from one pool."""
        n, total = settings.batch_size, len(self.bank)
        share = settings.carried_share
        if self.real == total or share is None:
            return global_batch(seed, step, total, n)
        is_carried = torch.tensor([int((i + 1) * share) > int(i * share) for i in range(n)])
        carried = int(is_carried.sum())
        chosen = torch.empty(n, dtype=torch.long)
        if carried < n:
            chosen[~is_carried] = global_batch(seed, step, self.real, n - carried)
        if carried:
            chosen[is_carried] = self.real + global_batch(seed, step, total - self.real, carried)
        return chosen

    def batch(
        self, settings: Settings, *, seed: int, step: int, share: Callable[[Tensor], Tensor]
    ) -> tuple[Batch, Float[Tensor, " n"]]:
        """This device's share of the step's global batch, changed at random and cropped, and its weights.

        The weights of the global batch have mean 1, so that the mean over devices of each one's mean of weighted
        losses is the one that a single device would have.
        """
        n, size = settings.batch_size, settings.image_size
        changes = draw(settings.changes, n, batch_generator(seed, step))
        chosen = self.choose(settings, seed=seed, step=step)
        weights = self.weights[chosen] / self.weights[chosen].mean()
        mine = share(torch.arange(n))
        batch = self.bank.batch(chosen[mine])
        here = batch.image.device
        image, labels = apply(
            changes.take(mine).to(here), batch.image.float(), batch.labels, size=(size, size)
        )
        return Batch(image, labels, batch.drawn), weights[mine].to(here, non_blocking=True)


class Segmentation(Stage):
    """Cross-entropy (and Dice, where asked) on randomly changed slices; carried ones weigh as they can be relied on."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: nn.Module,
        lesson: Lesson,
        validation: Mapping[str, SliceBank],
    ) -> None:
        super().__init__(
            run, "segmentation", clip_norm=settings.clip_norm or None, ema_decay=settings.ema_decay or None
        )
        self.settings = settings
        self.network = lay_out(network, settings.network)
        self.lesson = lesson
        self.validation = dict(validation)

    def update(self, step: int) -> dict[str, Tensor]:
        batch, weights = self.lesson.batch(self.settings, seed=self.run.seed, step=step, share=self.share)
        # The mean weight of this device's part: 1 on one device, and devices average to 1.
        loss = weights.mean() * self._loss(batch, weights)
        self.descend(loss)
        return {"loss": loss.detach()}

    def validate(self) -> dict[str, float]:
        """Dice of every region on each validation split, their mean, and the loss that a plateau is seen by.

        That loss is the source's; the target's masks count in it only where they may train (`target_labels: train`).
        """
        found: dict[str, float] = {}
        losses = []
        for part, bank in self.validation.items():
            dice = volume_dice(self.network, bank, self.settings.spec.in_channels)
            found[f"dice_{part}"] = mean_dice(dice)
            for structure, value in zip(TRAINED, dice.nanmean(dim=0).tolist(), strict=True):
                found[f"dice_{part}_{structure.name.lower()}"] = value
            if part in self.watched:
                losses.append(self._bank_loss(bank))
        return found | ({"loss_validation": sum(losses) / len(losses)} if losses else {})

    def must_learn(self) -> list[str]:
        return [f"dice_{part}_{s.name.lower()}" for part in self.watched for s in TRAINED]

    @property
    def watched(self) -> list[str]:
        """The validation splits whose masks may steer the learning rate."""
        shut = () if self.settings.target_labels == "train" else ("target",)
        return [part for part in self.validation if part not in shut]

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.Adam(self.network.parameters(), lr=s.learning_rate)
        if s.schedule == "one_cycle":
            return [optimizer], [one_cycle(optimizer, s.steps)]
        if s.schedule == "plateau" and self.watched:
            return [optimizer], [plateau(optimizer)]
        return [optimizer], [constant(optimizer)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.lesson = self.lesson.to(self.device)
        self.validation = {name: bank.to(self.device) for name, bank in self.validation.items()}

    def _loss(self, batch: Batch, weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        logits = self.network(batch.image.expand(-1, self.settings.spec.in_channels, -1, -1))
        both = self.settings.loss == "ce_dice"
        return segmentation_loss(
            logits,
            batch.labels,
            batch.drawn,
            cross_entropy_weight=0.5 if both else 1.0,
            dice_weight=0.5 if both else 0.0,
            include_background=False,
            smooth=1.0,  # pixel: a structure that is absent still says so; methods.md 1.3
            weights=weights,
        )

    def _bank_loss(self, bank: SliceBank) -> float:
        """Mean loss over a bank's slices as they are."""
        size, total = bank.preparation.size, 0.0
        for first in range(0, len(bank), SLICES_AT_ONCE):
            batch = bank.batch(torch.arange(first, min(first + SLICES_AT_ONCE, len(bank))))
            labels = crop(batch.labels[:, None], size)[:, 0]
            total += float(self._loss(Batch(crop(batch.image, size), labels, batch.drawn))) * len(labels)
        return total / len(bank)


def gather(domains: Domains, settings: Settings, registrar: Registrar | None, run: Run) -> Lesson:
    """Slices with real labels and, given a registrar, those to which it carries them; records in `carried.csv`.

    The domains are read with all labels shut but those that may be seen (`frames.shut_labels`). In a dry run one
    scan stands for all, and the time that carrying would take at most is told.
    """
    labelled = replace(domains.source, rows=domains.source.rows + domains.target.rows)
    with run.bar("reading scans", len(labelled)) as step:
        real = _halved(build_bank(labelled, settings.preparation, annotated_only=True, progress=step))
    banks, weights = [real], [torch.ones(len(real))]
    records: dict[str, tuple[FrameRecord, ...]] = {}
    rows = labelled.rows if registrar is not None else ()
    cines, took = 0, 0.0
    with run.bar("carrying labels", len(rows)) as step:
        for row in rows:
            case = labelled.read(row)
            cines += case.frames > 1
            if registrar is not None and case.frames > 1 and (run.estimates is None or not records):
                began = time.perf_counter()
                records[row.scan], kept = _carry(row, case, settings, registrar)
                took = time.perf_counter() - began
                if kept is not None:
                    banks.append(
                        _halved(build_bank(_alone(row, kept), settings.preparation, annotated_only=True))
                    )
                    weights.append(_weights(banks[-1], records[row.scan], settings))
            step()
    _estimate(len(next(iter(records.values()), ())), took, cines, run)
    if registrar is not None:
        _tell(records, settings, run)
    return Lesson(join_banks(banks), torch.cat(weights), len(real), records)


def carried_frames(row: Row, case: Case, settings: Settings) -> list[int]:
    """Frames that get labels: every so many-th of the cycle, or of those numbered between ED and ES.

    Labelled frames are none of them. Under `between` a scan without two known ends has none.
    """
    labelled = case.labelled_frames
    if settings.carry_to == "cycle":
        return [t for t in range(0, case.frames, settings.carry_every) if t not in labelled]
    if row.ed_frame is None or row.es_frame is None:
        return []
    first, last = sorted((row.ed_frame, row.es_frame))
    return [t for t in range(first + 1, last, settings.carry_every) if t not in labelled]


def weight_of(record: FrameRecord, settings: Settings) -> float:
    """What a carried frame counts in the loss; 0 leaves it out.

    Below the threshold a frame is left out (`drop`), or weighs confidence / threshold (`weight`).
    """
    trusted = min(record.confidence / settings.confidence_threshold, 1.0)
    if settings.confidence == "none":
        trusted = 1.0
    elif settings.confidence == "drop":
        trusted = float(trusted >= 1.0)
    return settings.carried_weight * trusted


def write_records(path: Path, records: Mapping[str, tuple[FrameRecord, ...]], settings: Settings) -> None:
    """`carried.csv`: a row a carried frame, with its scan, its record and its weight; whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        fields = [*FrameRecord.__dataclass_fields__, "weight"]
        table = csv.DictWriter(file, ["scan", *fields], lineterminator="\n")
        table.writeheader()
        for scan, frames in records.items():
            for record in frames:
                table.writerow({"scan": scan, **asdict(record), "weight": weight_of(record, settings)})
    temporary.replace(path)


def _carry(
    row: Row, case: Case, settings: Settings, registrar: Registrar
) -> tuple[tuple[FrameRecord, ...], Case | None]:
    """Records of the frames carried to, and the scan labelled in those that count; None where none does."""
    wanted = carried_frames(row, case, settings)
    if not wanted:
        return (), None
    found = carry(case, find_sources(row, case, settings.propagate_from), registrar, frames=wanted)
    keep = [record.frame for record in found.frames if weight_of(record, settings) > 0]
    return found.frames, restrict(found.case, keep) if keep else None


def _alone(row: Row, case: Case) -> Cohort:
    return Cohort((row,), lambda _: case, row.scan)


def _halved(bank: SliceBank) -> SliceBank:
    return bank.with_images(lambda images: images.half())


def _weights(bank: SliceBank, records: tuple[FrameRecord, ...], settings: Settings) -> Float[Tensor, " n"]:
    of = {record.frame: weight_of(record, settings) for record in records}
    return torch.tensor([of[place.frame] for place in bank.table])


def _estimate(frames: int, seconds: float, scans: int, run: Run) -> None:
    """In a dry run: what carrying costs if every scan is a cine like this one."""
    if run.estimates is not None and frames:
        peaks = peak_memory_mb(run.accelerator)
        memory_mb = peaks.get("peak_cuda_memory_mb", peaks["peak_memory_mb"])
        run.estimates["carrying labels"] = Estimate(frames * scans, 0, seconds * scans, memory_mb)


def _tell(records: Mapping[str, tuple[FrameRecord, ...]], settings: Settings, run: Run) -> None:
    """Leave the records in the run, and say what became of the frames."""
    if run.estimates is not None:
        return
    frames = [record for those in records.values() for record in those]
    trusted = [record for record in frames if record.confidence >= settings.confidence_threshold]
    mean = sum(record.confidence for record in frames) / len(frames) if frames else None
    if run.writes:
        write_records(run.folder / "carried.csv", records, settings)
    run.record(
        "labels carried", scans=len(records), frames=len(frames), trusted=len(trusted), confidence=mean
    )
    if 2 * len(trusted) < len(frames):
        run.note(
            f"of {len(frames)} frames with carried labels {len(trusted)} are trusted, a confidence of "
            f"{settings.confidence_threshold:g} or more; the mean is {mean:.2f}: look at carried.csv, and at what "
            "`crossbeat propagate` draws of it"
        )
    if settings.confidence == "drop" and len(trusted) < len(frames):
        run.note(
            f"{len(frames) - len(trusted)} of {len(frames)} frames with carried labels are left out: their "
            f"confidence is below {settings.confidence_threshold:g}; carried.csv has each"
        )
