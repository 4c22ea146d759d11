"""The stage that learns to segment, thrice at most: on cine, on cine that looks tagged, on tagged scans themselves.

Dhaene 2023, Eq. 4 as methods.md 4.3 mends it: Dice + cross-entropy + γ L_S, and η times the VAE's loss where the
network has one. One network goes from stage to stage; optimizer, schedule and averages begin anew in each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from crossbeat.labels import TRAINED, UNKNOWN, Structure
from crossbeat.losses.boundary import shape_loss
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.methods.tag_pretraining.settings import Part, Settings
from crossbeat.methods.validation import SLICES_AT_ONCE, mean_dice, volume_dice
from crossbeat.networks import lay_out
from crossbeat.networks.segresnet_vae import LATENTS
from crossbeat.prepare.augment import apply, draw
from crossbeat.prepare.slices import Batch, SliceBank, batch_generator, global_batch
from crossbeat.prepare.volumes import crop
from crossbeat.training import Run, Stage, constant, one_cycle, plateau

STAGES: Final[Mapping[Part, str]] = {"cine": "cine", "tags": "tags", "target": "finetuning"}
"""Names of the stages, as their folders are called."""

VAE_NOISE: Final = 12
"""Purpose of the random numbers of the VAE's sample (`prepare.slices.batch_generator`)."""


@runtime_checkable
class Disguise(Protocol):
    """Makes source images look like the target's: whole fields in, whole fields out, both in [0, 1]."""

    def __call__(
        self, batch: Batch, count: int, mine: Int[Tensor, " n"], *, seed: int, step: int
    ) -> Float[Tensor, "n 1 y x"]:
        """The images of this device's share `mine` of a global batch of `count`, by seed and step alone."""


@dataclass(frozen=True)
class Lesson:
    """Slices to learn from, and what is done to their images first."""

    bank: SliceBank
    disguise: Disguise | None = None
    learnt: tuple[Structure, ...] = field(default=TRAINED)

    def to(self, device: torch.device | str) -> Lesson:
        """The same slices on another device."""
        return replace(self, bank=self.bank.to(device))

    def batch(self, settings: Settings, *, seed: int, step: int, share: Callable[[Tensor], Tensor]) -> Batch:
        """This device's share of the step's global batch: disguised, changed at random, cropped."""
        n, size = settings.batch_size, settings.image_size
        chosen = global_batch(seed, step, len(self.bank), n)
        changes = draw(settings.changes, n, batch_generator(seed, step))
        mine = share(torch.arange(n))
        batch = self.bank.batch(chosen[mine])
        image = batch.image
        if self.disguise is not None:
            image = self.disguise(batch, n, mine, seed=seed, step=step)
        image, labels = apply(changes.take(mine).to(image.device), image, batch.labels, size=(size, size))
        return narrowed(Batch(image, labels, batch.drawn), self.learnt)


class Segmentation(Stage):
    """Dice, cross-entropy and the shape-aware loss on one part's slices; validated by every drawn structure."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: nn.Module,
        part: Part,
        lesson: Lesson,
        validation: Mapping[str, SliceBank],
    ) -> None:
        super().__init__(
            run, STAGES[part], clip_norm=settings.clip_norm or None, ema_decay=settings.ema_decay or None
        )
        self.settings = settings
        self.part = part
        self.network = lay_out(network, settings.network)
        self.lesson = lesson
        self.validation = {name: narrowed_bank(bank, settings.learnt) for name, bank in validation.items()}

    def update(self, step: int) -> dict[str, Tensor]:
        s = self.settings
        batch = self.lesson.batch(s, seed=self.run.seed, step=step, share=self.share)
        image = batch.image.expand(-1, s.spec.in_channels, -1, -1)
        told: dict[str, Tensor] = {}
        if s.vae_weight:
            show: Any = self.network.forward_with_vae_loss
            logits, told["loss_vae"] = show(image, self._vae_noise(step).to(image.device, non_blocking=True))
        else:
            logits = self.network(image)
        told["loss_overlap"] = loss_of(logits, batch, s)
        loss = told["loss_overlap"]
        if s.shape_weight:
            told["loss_shape"] = shape_loss_of(logits, batch, s)
            loss = loss + s.shape_weight * told["loss_shape"]
        if s.vae_weight:
            loss = loss + s.vae_weight * told["loss_vae"]
        self.descend(loss)
        return {"loss": loss.detach()} | {name: value.detach() for name, value in told.items()}

    def validate(self) -> dict[str, float]:
        """Dice of each structure on each validation split, their mean, and what a plateau is seen by."""
        found: dict[str, float] = {}
        for split, bank in self.validation.items():
            dice = volume_dice(self.network, bank, self.settings.spec.in_channels)
            found[f"dice_{split}"] = mean_dice(dice)
            for structure, value in zip(self.settings.learnt, dice.nanmean(dim=0).tolist(), strict=True):
                found[f"dice_{split}_{structure.name.lower()}"] = value
            if split == self.watched:
                found["loss_validation"] = self._bank_loss(bank)
                found["dice_validation"] = found[f"dice_{split}"]
        return found

    def must_learn(self) -> list[str]:
        split = self.watched
        return (
            [f"dice_{split}_{structure.name.lower()}" for structure in self.settings.learnt] if split else []
        )

    @property
    def watched(self) -> str:
        """The validation split whose masks may steer the learning rate; '' where there is none."""
        wanted = "target" if self.part == "target" else "source"
        return wanted if wanted in self.validation else ""

    def averaged(self) -> Sequence[nn.Module]:
        return [self.network]

    def configure_optimizers(self) -> Any:
        s = self.settings
        make = torch.optim.AdamW if s.optimizer == "adamw" else torch.optim.Adam
        optimizer = make(self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
        if s.schedule == "one_cycle":
            return [optimizer], [one_cycle(optimizer, s.parts[self.part])]
        if s.schedule == "plateau" and self.watched:
            return [optimizer], [plateau(optimizer, f"{s.plateau_watches}_validation")]
        if s.schedule == "plateau":
            self.run.note(
                f"stage {self.name}: no scan validates it, so no plateau is seen and the learning rate stays "
                f"{s.learning_rate:g}"
            )
        return [optimizer], [constant(optimizer)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.lesson = self.lesson.to(self.device)
        self.validation = {name: bank.to(self.device) for name, bank in self.validation.items()}

    def _vae_noise(self, step: int) -> Float[Tensor, "n d"]:
        """This device's share of the global batch's, by seed and step alone."""
        generator = batch_generator(self.run.seed, step, VAE_NOISE)
        return self.share(torch.randn(self.settings.batch_size, LATENTS, generator=generator))

    def _bank_loss(self, bank: SliceBank) -> float:
        """Mean loss over a bank's slices as they are."""
        size, total = bank.preparation.size, 0.0
        for first in range(0, len(bank), SLICES_AT_ONCE):
            batch = bank.batch(torch.arange(first, min(first + SLICES_AT_ONCE, len(bank))))
            labels = crop(batch.labels[:, None], size)[:, 0]
            seen = Batch(crop(batch.image, size), labels, batch.drawn)
            logits = self.network(seen.image.expand(-1, self.settings.spec.in_channels, -1, -1))
            total += float(loss_of(logits, seen, self.settings)) * len(labels)
        return total / len(bank)


def loss_of(logits: Float[Tensor, "n k y x"], batch: Batch, s: Settings) -> Float[Tensor, ""]:
    """Dice and cross-entropy in equal parts, over what was drawn (methods.md 4.3)."""
    return segmentation_loss(
        logits,
        batch.labels,
        batch.drawn,
        cross_entropy_weight=1.0,
        dice_weight=1.0,
        include_background=s.include_background,
        smooth=s.smooth,
    )


def shape_loss_of(logits: Float[Tensor, "n k y x"], batch: Batch, s: Settings) -> Float[Tensor, ""]:
    """Eq. 2 and 3, L_S: how far probabilities are from the shape's own map."""
    return shape_loss(logits, batch.labels, batch.drawn, denominator=s.shape_denominator)


def narrowed(batch: Batch, learnt: tuple[Structure, ...]) -> Batch:
    """The batch with classes 1 to k - 1 for those structures alone; the others become background.

    What is not learnt is "none of these", as an undrawn structure is.
    """
    if learnt == TRAINED:
        return batch
    labels, drawn = _fewer(batch.labels, batch.drawn, learnt)
    return Batch(batch.image, labels, drawn)


def narrowed_bank(bank: SliceBank, learnt: tuple[Structure, ...]) -> SliceBank:
    """A bank as `narrowed` a batch."""
    if learnt == TRAINED:
        return bank
    labels, drawn = _fewer(bank.labels, bank.drawn, learnt)
    return replace(bank, labels=labels, drawn=drawn)


def _fewer(
    labels: UInt8[Tensor, "n y x"], drawn: Bool[Tensor, "n k"], learnt: tuple[Structure, ...]
) -> tuple[UInt8[Tensor, "n y x"], Bool[Tensor, "n m"]]:
    found = torch.where(labels == UNKNOWN, labels, torch.zeros_like(labels))
    columns = [0]
    for number, structure in enumerate(learnt, start=1):
        column = TRAINED.index(structure) + 1
        found = torch.where(labels == column, torch.full_like(labels, number), found)
        columns.append(column)
    return found, drawn[:, columns]
