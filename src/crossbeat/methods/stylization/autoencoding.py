"""The stage that learns an encoder from the cohort's own images, without labels: noisy slices in, clean slices out.

methods.md 3.7: VGG-19 to relu4_1 and a plain mirror decoder take noise and masked squares away, by L1 and the image's
gradients at three scales; a small head tells sequences and vendors apart, so that contrast stays in the features'
statistics. No change of contrast is drawn, for contrast is what a style is.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossbeat.cohort import Cohort
from crossbeat.errors import CohortError
from crossbeat.methods.stylization.settings import Settings
from crossbeat.methods.stylization.styles import CORRUPTION, PLACES
from crossbeat.networks.rain import style_of
from crossbeat.networks.vgg import WIDTHS, Decoder, Vgg
from crossbeat.prepare.slices import SliceBank, batch_generator, global_batch, training_batch
from crossbeat.prepare.volumes import crop
from crossbeat.training import Run, Stage, fit, one_cycle, seed_torch

SQUARE_PX: Final = 8  # side of what is masked: a pixel of relu4_1
SCALES: Final = 3  # of the gradients compared: whole, half and quarter size
AT_ONCE: Final = 8  # slices, where all are measured
TINIEST_ERROR: Final = 1e-10  # mean square: 100 dB stand for a perfect image


class EncoderStage(Stage):
    """Denoising and masked autoencoding through relu4_1, and telling domains apart by its statistics."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        bank: SliceBank,
        held_out: Int[Tensor, " m"],
        kinds: Int[Tensor, " n"],
    ) -> None:
        super().__init__(run, "encoder", clip_norm=1.0)
        self.settings = settings
        self.vgg = Vgg()
        self.decoder = Decoder()
        self.head = nn.Linear(2 * WIDTHS[-1], int(kinds.max()) + 1)
        self.bank = bank
        self.held_out = held_out
        kept = torch.ones(len(bank), dtype=torch.bool)
        kept[held_out] = False
        self.learnt = torch.nonzero(kept).flatten()
        self.kinds = (kinds,)  # read only: no checkpoint holds it

    def update(self, step: int) -> dict[str, Tensor]:
        s = self.settings
        batch = training_batch(
            self.bank,
            s.encoder_batch,
            s.turns,
            seed=self.run.seed,
            step=step,
            share=self.share,
            candidates=self.learnt,
        )
        images = self._cropped(batch.image, step)
        features = self.vgg(self._corrupted(images, step)).relu4_1
        loss_image, loss_gradient = image_losses(self.decoder(features, s.encoder_crop), images)
        loss = loss_image + s.encoder_gradient_weight * loss_gradient
        told = {"loss_image": loss_image.detach(), "loss_gradient": loss_gradient.detach()}
        if s.encoder_head_weight and self.head.out_features > 1:
            loss_kind = F.cross_entropy(
                self.head(style_of(features).vector()), self._kinds_of(step, features.device)
            )
            loss = loss + s.encoder_head_weight * loss_kind
            told["loss_kind"] = loss_kind.detach()
        self.descend(loss)
        return {"loss": loss.detach(), **told}

    def validate(self) -> dict[str, float]:
        return {"psnr_held_out_db": self.psnr_db()}

    def psnr_db(self) -> float:
        """Of the held-out slices as they are, given back from their relu4_1: the mean over slices, peak 1."""
        images = crop(self.bank.images[self.held_out], self.bank.preparation.size)
        return float(psnr_db(self.vgg, self.decoder, images.to(self.device)).mean())

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.Adam(self.parameters(), lr=s.encoder_learning_rate)
        return [optimizer], [one_cycle(optimizer, s.encoder_steps)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.bank = self.bank.to(self.device)

    def _cropped(self, images: Float[Tensor, "n 1 y x"], step: int) -> Float[Tensor, "n 1 v u"]:
        """Each cut to a square anywhere in it: drawn for the global batch, by seed and step alone."""
        side, _ = self.settings.encoder_crop
        room = images.shape[2] - side
        if not room:
            return images
        generator = batch_generator(self.run.seed, step, PLACES)
        corners = torch.randint(room + 1, (self.settings.encoder_batch, 2), generator=generator)
        mine = corners[self.share(torch.arange(len(corners)))].tolist()
        return torch.stack(
            [image[:, y : y + side, x : x + side] for image, (y, x) in zip(images, mine, strict=True)]
        )

    def _corrupted(self, images: Float[Tensor, "n 1 y x"], step: int) -> Float[Tensor, "n 1 y x"]:
        """With noise on them, and squares of the image's mean: drawn for the global batch, by seed and step alone."""
        s, n = self.settings, self.settings.encoder_batch
        size, _ = s.encoder_crop
        cells = -(-size // SQUARE_PX)
        generator = batch_generator(self.run.seed, step, CORRUPTION)
        noise = torch.randn(n, 1, size, size, generator=generator)
        masked = (torch.rand(n, 1, cells, cells, generator=generator) < s.encoder_mask_share).float()
        mine = self.share(torch.arange(n))
        noise, masked = (t[mine].to(images.device, non_blocking=True) for t in (noise, masked))
        hidden = F.interpolate(masked, scale_factor=SQUARE_PX, mode="nearest")[..., :size, :size] > 0
        filled = torch.where(hidden, images.mean(dim=(2, 3), keepdim=True), images)
        return filled + s.encoder_noise_sd * noise

    def _kinds_of(self, step: int, device: torch.device) -> Int[Tensor, " n"]:
        chosen = global_batch(self.run.seed, step, len(self.learnt), self.settings.encoder_batch)
        return self.kinds[0][self.learnt[self.share(chosen)]].to(device, non_blocking=True)


def learn_vgg(bank: SliceBank, cohort: Cohort, settings: Settings, run: Run) -> tuple[Vgg, Decoder, float]:
    """An encoder that learnt from all slices but those of the held-out subjects, its decoder, and their PSNR in dB."""
    held_out = hold_out(bank, settings.encoder_held_out, run.seed, cohort.name)
    seed_torch(run.seed, "encoder networks")
    stage = EncoderStage(run, settings, bank, held_out, kinds_of(bank, cohort))
    rounds, length = settings.auxiliary_rounds("encoder")
    fit(stage, rounds=rounds, steps_per_round=length)
    return stage.vgg, stage.decoder, stage.psnr_db()


def hold_out(bank: SliceBank, share: float, seed: int, name: str) -> Int[Tensor, " m"]:
    """Slices of that share of the subjects, drawn by seed; each sequence keeps subjects to be learnt from.

    `CohortError` where nobody can be spared.
    """
    subjects = sorted({place.subject for place in bank.table})
    wanted = max(1, round(share * len(subjects)))
    held: set[str] = set()
    for i in np.random.default_rng(seed).permutation(len(subjects)):
        left = {place.sequence for place in bank.table if place.subject not in held | {subjects[i]}}
        if len(held) < wanted and left == {place.sequence for place in bank.table}:
            held.add(subjects[i])
    if not held:
        raise CohortError(
            f"{name}: encoder cmr is measured on subjects that it has not seen, and of {len(subjects)} none can be "
            "spared, for each is the only one of its sequence; give more scans, or say encoder: random, or a file"
        )
    return bank.find(lambda place: place.subject in held)


def kinds_of(bank: SliceBank, cohort: Cohort) -> Int[Tensor, " n"]:
    """The number of each slice's sequence and vendor among those that there are."""
    of = {row.scan: (row.sequence, row.vendor) for row in cohort}
    numbers = {kind: i for i, kind in enumerate(sorted({of[place.scan] for place in bank.table}))}
    return torch.tensor([numbers[of[place.scan]] for place in bank.table], dtype=torch.long)


def image_losses(
    ours: Float[Tensor, "n c y x"], wanted: Float[Tensor, "n c y x"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean absolute difference of two images, and that of their gradients, summed over whole, half and quarter size."""
    difference = ours.float() - wanted.float()
    steps = []
    for scale in range(SCALES):
        coarse = F.avg_pool2d(difference, 2**scale) if scale else difference
        steps += [coarse.diff(dim=axis).abs().mean() for axis in (2, 3)]
    return difference.abs().mean(), torch.stack(steps).sum()


@torch.no_grad()
def psnr_db(vgg: Vgg, decoder: Decoder, images: Float[Tensor, "n 1 y x"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each image as it comes back from relu4_1, clipped to [0, 1], peak 1, in dB.

    float32 whatever autocast says. At most 100, for an image that comes back as it went in.
    """
    size = (images.shape[2], images.shape[3])
    errors = []
    with torch.autocast(images.device.type, enabled=False):
        for chunk in torch.split(images, AT_ONCE):
            back = decoder(vgg(chunk).relu4_1, size).clamp(0, 1)
            errors.append((back - chunk).square().mean(dim=(1, 2, 3)))
    return -10 * torch.cat(errors).clamp_min(TINIEST_ERROR).log10()
