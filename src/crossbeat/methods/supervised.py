"""Plain supervised training: labelled scans in, a segmenter out. The baseline and both bounds of every study.

On the source alone it is the lower bound, on the target's own labels the upper one. Under `augmentation:
random_contrast` most images pass through a random smooth transfer curve, so that the network cannot rely on
which tissue is bright: the baseline that an adaptation method must beat (issue 2, point 5). The loss is
cross-entropy plus soft Dice over what the annotators drew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from crossbeat.cohort import Cohort
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.methods.recipe import DEMO, Domains, Recipe, find_domains, provenance, whole_rounds
from crossbeat.methods.validation import bank_dice, validation_banks
from crossbeat.networks import lay_out
from crossbeat.prepare.slices import SliceBank, build_bank, training_batch
from crossbeat.prepare.volumes import Preparation
from crossbeat.segmenter import Segmenter
from crossbeat.training import Run, Stage, fit, one_cycle


class Settings(Recipe):
    """Settings of supervised training."""

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {},
        "bench": {"image_size": 128, "spacing_mm": 1.5, "steps": 1000},
        "demo": {**DEMO, "steps": 600, "steps_per_round": 200, "learning_rate": 4e-3},
    }

    network: str = Field("unet", description="entry of networks.SEGMENTERS")
    image_size: int = Field(192, ge=32, le=1024, description="side of the crop in pixels")
    batch_size: int = Field(16, ge=1, description="slices a step, over all devices")
    steps: int = Field(6000, ge=1, description="updates of the network")
    steps_per_round: int = Field(250, ge=1, description="between two validations and checkpoints")
    learning_rate: float = Field(1e-3, gt=0, description="highest of the one-cycle schedule, AdamW")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW")
    cross_entropy_weight: float = Field(0.5, ge=0, le=1, description="the rest is soft Dice")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the averaged weights, a step; 0 switches them off"
    )

    @property
    def segmenter_updates(self) -> int:
        return self.steps

    @property
    def rounds(self) -> tuple[int, int]:
        """Number of rounds, and updates in each; one where there are fewer than `steps_per_round`."""
        return whole_rounds("steps", self.steps, self.steps_per_round)

    @property
    def preparation(self) -> Preparation:
        return Preparation(size=self.image_size, spacing_mm=self.spacing_mm, centre=self.centre)

    @model_validator(mode="after")
    def _refuse_what_cannot_be_made(self) -> Settings:
        assert self.rounds
        assert self.changes
        with torch.device("meta"):  # no memory, no random numbers
            self.spec.build()
        return self


class Segmentation(Stage):
    """Supervised stage: cross-entropy and Dice on randomly changed slices, one optimizer, one-cycle schedule."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        bank: SliceBank,
        validation: Mapping[str, SliceBank],
    ) -> None:
        super().__init__(
            run, "segmentation", clip_norm=settings.clip_norm, ema_decay=settings.ema_decay or None
        )
        self.settings = settings
        self.network = lay_out(settings.spec.build(), settings.network)
        self.in_channels = settings.spec.in_channels
        self.bank = bank
        self.validation = dict(validation)

    def update(self, step: int) -> dict[str, Tensor]:
        batch = training_batch(
            self.bank,
            self.settings.batch_size,
            self.settings.changes,
            seed=self.run.seed,
            step=step,
            share=self.share,
        )
        logits = self.network(batch.image.expand(-1, self.in_channels, -1, -1))
        loss = segmentation_loss(
            logits,
            batch.labels,
            batch.drawn,
            cross_entropy_weight=self.settings.cross_entropy_weight,
            dice_weight=1 - self.settings.cross_entropy_weight,
            include_background=False,
            smooth=1.0,  # pixel: a structure that is absent still says so; methods.md 1.3
        )
        self.descend(loss)
        return {"loss": loss.detach()}

    def validate(self) -> dict[str, float]:
        return {
            f"dice_{name}": bank_dice(self.network, bank, self.in_channels)
            for name, bank in self.validation.items()
        }

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay
        )
        return [optimizer], [one_cycle(optimizer, s.steps)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.bank = self.bank.to(self.device)
        self.validation = {name: bank.to(self.device) for name, bank in self.validation.items()}


def train(cohort: Cohort, settings: Settings, run: Run) -> Segmenter:
    """Train on the labelled source scans, and on the target's under `target_labels: train`."""
    domains = find_domains(cohort, settings, run.seed)
    labelled = _both(domains)
    with run.bar("reading scans", len(labelled)) as step:
        bank = build_bank(labelled, settings.preparation, annotated_only=True, progress=step)
    stage = Segmentation(run, settings, bank, validation_banks(domains, settings.preparation))
    rounds, length = settings.rounds
    chosen = fit(stage, rounds=rounds, steps_per_round=length, select=settings.select)
    seen = {"source": domains.source, "labelled_target": domains.target}
    origin = provenance("supervised", settings, cohort, run, seen, chosen)
    return Segmenter(stage.network, settings.spec, settings.preparation, provenance=origin)


def _both(domains: Domains) -> Cohort:
    return Cohort(domains.source.rows + domains.target.rows, domains.source.read, domains.source.name)
