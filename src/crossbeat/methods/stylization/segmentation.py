"""The stage that learns to segment: labelled contents, plain and stylised, and styles searched for that are harder.

methods.md 3.3, after Luo 2020 (ASM) and Few-shot-UDA. A source batch is used N times. First its style is drawn; every
time the segmenter is updated on [stylised; original] with the labels twice; and but for the last time the code ε
takes a step up the segmentation loss, so that N uses make N - 1 ascents. The stylizer is frozen throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.losses.segmentation import batch_jaccard_loss, segmentation_loss
from crossbeat.losses.style import consistency_loss
from crossbeat.methods.stylization.settings import Settings
from crossbeat.methods.stylization.styles import Material, choose_styles, code_noise, style_images
from crossbeat.methods.stylization.stylizer import Stylizer
from crossbeat.methods.validation import bank_dice
from crossbeat.networks import lay_out
from crossbeat.networks.rain import CHANNELS, StyleCode
from crossbeat.prepare.slices import Batch, SliceBank, global_batch, training_batch
from crossbeat.training import Run, Stage, average, constant, one_cycle, polynomial


class Segmentation(Stage):
    """One update of the segmenter a step; steps of one source batch follow each other and share their ε.

    ε, ψ and ξ are those of the whole global batch and are kept as buffers, the same on every device: a run that is
    stopped between two uses of a batch goes on with the style it had reached.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: nn.Module,
        stylizer: Stylizer | None,
        material: Material,
        validation: Mapping[str, SliceBank],
    ) -> None:
        super().__init__(
            run, "segmentation", clip_norm=settings.clip_norm or None, ema_decay=settings.ema_decay or None
        )
        self.settings = settings
        self.network = lay_out(network, settings.network)
        self.stylizer = stylizer  # no module of the stage: frozen, and in no checkpoint
        self.content = material.content
        self.styles = material.styles
        self.partners = (material.partners,)  # read only: no checkpoint holds it
        self.validation = dict(validation)
        self.epsilon: Tensor
        """`(styles, *code_shape)`: the codes ε, or, where styles have none, AdaConv's descriptors."""
        self.centre: Tensor
        self.spread: Tensor
        codes = 1 if settings.shared_epsilon else settings.batch_size
        shape = (0,) if stylizer is None else (codes, *stylizer.code_shape)
        for name in ("epsilon", "centre", "spread"):
            self.register_buffer(name, torch.zeros(shape))
        self._source: tuple[int, Batch, Tensor | None] | None = None

    def update(self, step: int) -> dict[str, Tensor]:
        number, use = divmod(step, self.settings.uses)
        batch, content = self._source_batch(number)
        if self.stylizer is None or content is None:
            loss = loss_of(self._segment(batch.image), batch, self.settings)
            self.descend(loss)
            return {"loss": loss.detach()}
        if use == 0:
            self._draw_styles(number)
        ascends = use < self.settings.uses - 1
        own_pass = self.settings.ascent_pass == "own"
        code = self.epsilon.clone().requires_grad_(ascends)
        with torch.set_grad_enabled(ascends):
            stylised = self._stylise(self.stylizer, content, code)
        uphill = self._uphill(stylised, batch, code) if ascends and own_pass else None
        both = torch.cat([stylised.detach() if own_pass else stylised, batch.image])
        logits, features = self._segment_and_show(both)
        loss_segmentation = loss_of(logits, _twice(batch), self.settings)
        if ascends and not own_pass:
            found = torch.autograd.grad(loss_segmentation, code, retain_graph=True)
            uphill = found[0], loss_segmentation.detach()
        loss = loss_segmentation
        told = {f"loss_use_{use + 1}": loss_segmentation.detach()}
        if features is not None:
            told["loss_consistency"] = consistency_loss(*features.chunk(2))
            loss = loss + self.settings.consistency_weight * told["loss_consistency"]
        self.descend(loss)
        if uphill is not None:
            self._ascend(*uphill)
        return {"loss": loss.detach()} | {name: value.detach() for name, value in told.items()}

    def validate(self) -> dict[str, float]:
        channels = self.settings.spec.in_channels
        return {f"dice_{name}": bank_dice(self.network, b, channels) for name, b in self.validation.items()}

    def averaged(self) -> Sequence[nn.Module]:
        return [self.network]

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer: torch.optim.Optimizer
        if s.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                self.network.parameters(), lr=s.learning_rate, momentum=0.9, weight_decay=s.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(
                self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay
            )
        if s.schedule == "polynomial":
            return [optimizer], [polynomial(optimizer, s.segmenter_updates, power=0.5)]
        if s.schedule == "one_cycle":
            return [optimizer], [one_cycle(optimizer, s.segmenter_updates)]
        return [optimizer], [constant(optimizer)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.content = self.content.to(self.device)
        self.styles = None if self.styles is None else self.styles.to(self.device)
        self.validation = {name: bank.to(self.device) for name, bank in self.validation.items()}
        if self.stylizer is not None:
            self.stylizer.to(self.device)
        self._source = None

    def _source_batch(self, number: int) -> tuple[Batch, Tensor | None]:
        """The source batch of that number, and what the encoder reads in it: made once for all of its uses."""
        if self._source is None or self._source[0] != number:
            s = self.settings
            batch = training_batch(
                self.content, s.batch_size, s.changes, seed=self.run.seed, step=number, share=self.share
            )
            read = None if self.stylizer is None else self.stylizer.read(batch.image)
            self._source = (number, batch, read)
        return self._source[1:]

    @torch.no_grad()
    def _draw_styles(self, number: int) -> None:
        """Styles of the global batch, drawn by seed and number alone; every device draws all of them."""
        assert self.stylizer is not None
        assert self.styles is not None
        images = style_images(self.styles, self._chosen_styles(number))
        if not self.stylizer.has_code:
            self.epsilon.copy_(self.stylizer.code_of(images))
            return
        found = self.stylizer.distribution(images)
        noise = code_noise(len(images), CHANNELS, seed=self.run.seed, step=number)
        self.centre.copy_(found.centre)
        self.spread.copy_(found.spread)
        self.epsilon.copy_(found.at(noise.to(found.centre.device, non_blocking=True)))

    def _chosen_styles(self, number: int) -> Tensor:
        """Indices of style slices: at random, or each content's partner where it has one."""
        assert self.styles is not None
        chosen = choose_styles(self.styles, len(self.epsilon), seed=self.run.seed, step=number)
        partners = self.partners[0]
        if partners is None:
            return chosen
        count, n = len(self.content), self.settings.batch_size
        own = partners[global_batch(self.run.seed, number, count, n)]
        return torch.where(own < 0, chosen, own)

    def _stylise(self, stylizer: Stylizer, content: Tensor, code: Tensor) -> Tensor:
        """This device's contents in the styles of their codes."""
        size = self.settings.image_size
        mine = code
        if not self.settings.shared_epsilon:
            mine = code[self.share(torch.arange(len(code))).to(code.device, non_blocking=True)]
        return stylizer.render(content, mine, (size, size))

    def _uphill(self, stylised: Tensor, batch: Batch, code: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the stylised images' loss with respect to ε, and that loss.

        BatchNorm takes its running means and is not moved: in training mode one slice's style would reach the
        others' losses, and the originals would reach it.
        """
        self.network.eval()
        try:
            loss = loss_of(self._segment(stylised), batch, self.settings)
            (gradient,) = torch.autograd.grad(loss, code)
        finally:
            self.network.train()
        return gradient, loss.detach()

    @torch.no_grad()
    def _ascend(self, gradient: Tensor, loss: Tensor) -> None:
        """One step of ε up the loss, the devices' mean: each has the gradient of its own part, 0 for others' codes."""
        gradient, loss = average(gradient, loss)
        style = StyleCode(self.centre, self.spread, None)
        self.epsilon.copy_(climbed(self.epsilon, gradient, loss, style, self.settings))

    def _segment(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(self._as_input(image))
        return logits

    def _segment_and_show(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and the bottleneck's features where they are to be alike."""
        if not self.settings.consistency_weight:
            return self._segment(image), None
        show: Any = self.network.forward_with_bottleneck
        logits, features = show(self._as_input(image))
        return logits, features

    def _as_input(self, image: Tensor) -> Tensor:
        return image.expand(-1, self.settings.spec.in_channels, -1, -1)


def loss_of(logits: Float[Tensor, "n k y x"], batch: Batch, s: Settings) -> Float[Tensor, ""]:
    """L_seg: cross-entropy plus the soft Jaccard of the whole batch, or the soft Dice of each slice."""
    dice = s.overlap == "dice"
    loss = segmentation_loss(
        logits,
        batch.labels,
        batch.drawn,
        cross_entropy_weight=s.cross_entropy_weight,
        dice_weight=s.overlap_weight if dice else 0.0,
        include_background=False,
        smooth=s.smooth,
    )
    if dice or not s.overlap_weight:
        return loss
    return loss + s.overlap_weight * batch_jaccard_loss(logits, batch.labels, batch.drawn, smooth=s.smooth)


def climbed(
    epsilon: Float[Tensor, "m d"],
    gradient: Float[Tensor, "m d"],
    loss: Float[Tensor, ""],
    style: StyleCode,
    s: Settings,
) -> Float[Tensor, "m d"]:
    """Codes one step up their loss, by the settings' rule, and brought back where that leads too far from the style."""
    if s.ascent == "asm":
        moved = epsilon + asm_step(gradient, loss, s.ascent_rate)
    else:
        moved = epsilon + normalised_step(gradient, s.ascent_step)
    return within_reach(moved, style.centre, style.spread, s.trust_region) if s.trust_region else moved


def normalised_step(gradient: Float[Tensor, "m d"], step: float) -> Float[Tensor, "m d"]:
    """r g / ‖g‖ for each code, r = step · √d; nowhere where there is no gradient (methods.md 3.8)."""
    norms: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    length = step * math.sqrt(gradient.shape[1])
    return length * gradient / norms.clamp_min(torch.finfo(gradient.dtype).tiny)


def asm_step(gradient: Float[Tensor, "m d"], loss: Float[Tensor, ""], rate: float) -> Float[Tensor, "m d"]:
    """(η / L) g, the released code's step: longer where the loss is small."""
    return rate * gradient / loss.clamp_min(torch.finfo(loss.dtype).tiny)


def within_reach(
    epsilon: Float[Tensor, "m d"], centre: Float[Tensor, "m d"], spread: Float[Tensor, "m d"], reach: float
) -> Float[Tensor, "m d"]:
    """Each code no farther from its ψ than `reach` norms of its ξ, brought back along a straight line."""
    away = epsilon - centre
    distance = torch.linalg.vector_norm(away, dim=1, keepdim=True)
    farthest = reach * torch.linalg.vector_norm(spread, dim=1, keepdim=True)
    tiny = torch.finfo(distance.dtype).tiny
    return torch.where(distance > farthest, centre + away * (farthest / distance.clamp_min(tiny)), epsilon)


def _twice(batch: Batch) -> Batch:
    return Batch(*(torch.cat([part, part]) for part in (batch.image, batch.labels, batch.drawn)))
