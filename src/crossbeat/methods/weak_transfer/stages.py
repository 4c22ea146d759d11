"""Algorithm 1 of Chen 2020 in two stages: a segmenter learns alone, then against a discriminator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.losses.adversarial import (
    adversarial_loss,
    discriminator_loss,
    drawn_mask,
    transfer_weights,
)
from crossbeat.losses.segmentation import flat_dice_loss, segmentation_loss
from crossbeat.methods.validation import bank_dice
from crossbeat.methods.weak_transfer import watch
from crossbeat.methods.weak_transfer.pairs import MixedBatch, Pairs, mask_noise
from crossbeat.methods.weak_transfer.settings import Settings
from crossbeat.networks import lay_out
from crossbeat.networks.discriminator import Discriminator
from crossbeat.prepare.slices import SliceBank
from crossbeat.training import Run, Stage, constant, one_cycle


class Warmup(Stage):
    """First stage: λ L_ID + (1 - λ) L_DT on mixed batches, no discriminator (Algorithm 1, first loop)."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: nn.Module,
        pairs: Pairs,
        validation: Mapping[str, SliceBank],
        name: str = "warmup",
    ) -> None:
        super().__init__(
            run, name, clip_norm=settings.clip_norm or None, ema_decay=settings.ema_decay or None
        )
        self.settings = settings
        self.network = lay_out(network, settings.network)
        self.pairs = pairs
        self.validation = dict(validation)

    def update(self, step: int) -> dict[str, Tensor]:
        batch = self._batch(step)
        logits = self._segment(batch)
        loss = transfer_loss(logits, batch, self.settings)
        self.descend(loss)
        return {"loss": loss.detach()}

    def validate(self) -> dict[str, float]:
        channels = self.settings.spec.in_channels
        return {f"dice_{name}": bank_dice(self.network, b, channels) for name, b in self.validation.items()}

    def averaged(self) -> Sequence[nn.Module]:
        return [self.network]

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.Adam(self.network.parameters(), lr=s.warmup_learning_rate)
        if s.warmup_schedule == "one_cycle":
            return [optimizer], [one_cycle(optimizer, s.warmup_steps)]
        return [optimizer], [constant(optimizer)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.pairs = self.pairs.to(self.device)
        self.validation = {name: bank.to(self.device) for name, bank in self.validation.items()}

    def _batch(self, step: int) -> MixedBatch:
        return self.pairs.batch(self.settings, seed=self.run.seed, step=step, share=self.share)

    def _segment(self, batch: MixedBatch) -> Tensor:
        logits: Tensor = self.network(batch.image.expand(-1, self.settings.spec.in_channels, -1, -1))
        return logits


class Adversarial(Warmup):
    """Second stage: the discriminator learns to tell drawn masks from made-up ones, the segmenter to pass.

    Algorithm 1, second loop: one update of D, then one of G, on the same batch. Without `adversarial` it goes on
    as the warm-up does, with this stage's learning rate, so that the arms of an ablation differ in nothing else.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: nn.Module,
        pairs: Pairs,
        validation: Mapping[str, SliceBank],
    ) -> None:
        super().__init__(run, settings, network, pairs, validation, name="adversarial")
        self.discriminator: Discriminator | None = None
        if settings.adversarial:
            discriminator = settings.build_discriminator()
            # A third less time in its convolutions, on a CPU in bfloat16.
            self.discriminator = discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.tallies: Tensor
        self.in_a_row: Tensor
        self.register_buffer("tallies", torch.zeros(watch.TALLIES))
        self.register_buffer("in_a_row", torch.zeros(len(watch.KINDS)))

    def update(self, step: int) -> dict[str, Tensor]:
        # The order of batches goes on where the warm-up left it.
        batch = self._batch(self.settings.warmup_steps + step)
        logits = self._segment(batch)
        self.tallies += watch.tally_masks(logits, batch.labels)
        loss = loss_segmentation = transfer_loss(logits, batch, self.settings)
        told = {"loss_segmentation": loss_segmentation.detach()}
        if self.discriminator is not None:
            made_up = logits.float().softmax(dim=1)
            told |= self._teach_discriminator(self.discriminator, batch, made_up.detach())
            loss_adversarial = adversarial_loss(self.discriminator(batch.image, made_up))
            loss = loss_segmentation + self.settings.adversarial_weight * loss_adversarial
            told["loss_adversarial"] = loss_adversarial.detach()
        self.descend(loss, 0, clip_value=self.settings.clip_value or None)
        return {"loss": loss.detach(), **told}

    def validate(self) -> dict[str, float]:
        self._look_for_collapse()
        return super().validate()

    def configure_optimizers(self) -> Any:
        s = self.settings
        betas = (s.beta1, 0.999)
        segmenter: torch.optim.Optimizer = (
            torch.optim.Adam(self.network.parameters(), lr=s.learning_rate, betas=betas)
            if s.adversarial_optimizer == "adam"
            else torch.optim.RMSprop(self.network.parameters(), lr=s.learning_rate, alpha=0.9)  # as in Keras
        )
        optimizers = [segmenter]
        if self.discriminator is not None:
            rate = s.discriminator_learning_rate
            optimizers.append(torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=betas))
        return optimizers, [constant(optimizer) for optimizer in optimizers]

    def _teach_discriminator(
        self, discriminator: Discriminator, batch: MixedBatch, made_up: Float[Tensor, "n k y x"]
    ) -> dict[str, Tensor]:
        """The update of D, which is not clipped: drawn masks are real, the segmenter's are not."""
        s = self.settings
        if s.pseudo_pairs == "excluded" and s.transfer:  # of weight 0, but its BatchNorm would see them
            batch, made_up = batch.only_true(), made_up[batch.true_at]
        weights = pair_weights(batch, s)
        drawn = drawn_mask(batch.labels, made_up)
        if s.mask_noise_sd:
            drawn = drawn + mask_noise(batch, s.mask_noise_sd)
        none = weights[:0]
        real_weights = weights * batch.complete.float()
        real = _judge(discriminator, batch.image, drawn)
        loss_real = discriminator_loss(
            real, none, real_weights=real_weights, fake_weights=none, real_label=s.real_label
        )
        if s.separate_discriminator_updates:
            self.descend(loss_real + self._penalty(discriminator), 1, clip_norm=math.inf)
        fake = _judge(discriminator, batch.image, made_up)
        loss_fake = discriminator_loss(none, fake, real_weights=none, fake_weights=weights)
        own = loss_fake if s.separate_discriminator_updates else loss_real + loss_fake
        self.descend(own + self._penalty(discriminator), 1, clip_norm=math.inf)
        on_drawn, on_made_up = _opinion(real, real_weights), _opinion(fake, weights)
        self.tallies += watch.tally_opinions(on_drawn, on_made_up)
        return {
            "loss_discriminator": (loss_real + loss_fake).detach(),
            "d_on_drawn": on_drawn,
            "d_on_made_up": on_made_up,
        }

    def _look_for_collapse(self) -> None:
        """Say once when what a round saw has been wrong for `collapse_rounds` rounds in a row."""
        symptoms = watch.find_symptoms(self.tallies, self.settings.real_label)
        self.in_a_row.copy_(watch.count_in_a_row(self.in_a_row, symptoms))
        self.tallies.zero_()
        for kind, rounds in zip(watch.KINDS, self.in_a_row.tolist(), strict=True):
            if rounds == self.settings.collapse_rounds:
                self.run.note(f"stage {self.name}: {symptoms[kind]} (for {rounds:.0f} rounds in a row)")

    def _penalty(self, discriminator: Discriminator) -> Tensor | float:
        factor = self.settings.kernel_penalty
        return factor * discriminator.kernel_penalty() if factor else 0.0


def transfer_loss(logits: Float[Tensor, "n k y x"], batch: MixedBatch, s: Settings) -> Float[Tensor, ""]:
    """Eq. 2 to 4 on a mixed batch: β CE + (1 - β) (1 - Dice) of each sample, weighted λ or 1 - λ."""
    weights = transfer_weights(batch.is_true, s.true_weight) if s.transfer else None
    flat = s.dice_over == "batch"
    dice_weight = 1 - s.cross_entropy_weight
    classes = (
        None
        if s.class_weights is None
        else torch.tensor(s.class_weights).to(logits.device, non_blocking=True)
    )
    loss = segmentation_loss(
        logits,
        batch.labels,
        batch.drawn,
        cross_entropy_weight=s.cross_entropy_weight,
        dice_weight=0.0 if flat else dice_weight,
        include_background=s.include_background,
        smooth=s.smooth,
        weights=weights,
        class_weights=classes,
    )
    if not flat:
        return loss
    return loss + dice_weight * flat_dice_loss(
        logits, batch.labels, batch.drawn, smooth=s.smooth, weights=weights
    )


def pair_weights(batch: MixedBatch, s: Settings) -> Float[Tensor, " n"]:
    """What each sample's image counts for D, as a drawn and as a made-up pair alike.

    Were only the drawn pairs of target images weaker or left out, their look alone would give made-up masks away.
    """
    if s.pseudo_pairs == "full" or not s.transfer:
        return torch.ones_like(batch.is_true, dtype=torch.float32)
    return transfer_weights(batch.is_true, s.true_weight if s.pseudo_pairs == "weighted" else 1.0)


def _judge(
    discriminator: Discriminator, image: Float[Tensor, "n c y x"], mask: Float[Tensor, "n k y x"]
) -> Float[Tensor, " n"]:
    """D's logits; of no pair none, but made of D's weights, so that a loss of them can be descended."""
    if not len(image):
        return next(discriminator.parameters()).flatten()[:0]
    logits: Tensor = discriminator(image, mask)
    return logits


def _opinion(logits: Float[Tensor, " n"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """D's mean probability; nan where no pair has any weight."""
    return (weights * logits.detach().float().sigmoid()).sum() / weights.sum()
