"""The stages that learn to stylise: contents and styles in, RAIN or AdaConv out, the encoder frozen throughout.

Rahman, Gu 2023, Eq. 2 to 6, with the weights of the cardiac code (methods.md 3.2) and AdaConv's (3.6).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from crossbeat.losses.style import (
    content_loss,
    kl_divergence,
    published_kl_divergence,
    reconstruction_loss,
    structure_loss,
    style_loss,
)
from crossbeat.methods.stylization.encoder import Encoder
from crossbeat.methods.stylization.settings import Settings
from crossbeat.methods.stylization.styles import Material, choose_styles, code_noise, style_images
from crossbeat.methods.stylization.stylizer import Stylizer
from crossbeat.networks.adaconv import AdaConv, DescriptorAutoencoder
from crossbeat.networks.adaconv_starts import begin_as, calibrate
from crossbeat.networks.rain import CHANNELS, Rain, StyleCode
from crossbeat.networks.vgg import Features
from crossbeat.prepare.slices import SliceBank, training_batch
from crossbeat.prepare.volumes import crop
from crossbeat.training import Run, Stage, fit, seed_torch

MEASURED_OVER: Final = 8
"""Batches of styles over which AdaConv's descriptors are standardised before their autoencoder learns."""


LOOKED_AT: Final = 16
"""Slices of which is told how they come out of a stylizer, and styles that AdaConv begins with."""


class StylizerStage(Stage):
    """One batch of contents in the styles of one batch of styles a step, and one update of the stylizer."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: Rain | AdaConv,
        encoder: Encoder,
        content: SliceBank,
        styles: SliceBank,
    ) -> None:
        super().__init__(run, "stylizer", clip_norm=settings.stylizer_clip_norm or None)
        self.settings = settings
        self.network = network
        self.encoder = encoder  # no module of the stage: frozen, and in no checkpoint
        self.content = content
        self.styles = styles

    def update(self, step: int) -> dict[str, Tensor]:
        s = self.settings
        images = training_batch(
            self.content, s.contents, s.turns, seed=self.run.seed, step=step, share=self.share
        ).image
        with torch.no_grad():
            content = self.encoder.vgg(images).relu4_1
            style: Features = self.encoder.vgg(self._styles(step))
        if isinstance(self.network, Rain):
            terms = self._rain(self.network, images, content, style, step)
        else:
            made = self.network(content, style.relu4_1, (images.shape[2], images.shape[3]))
            terms = self._compared(made, images, content, style)
        loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
        self.descend(loss)
        return {"loss": loss.detach()} | {name: term.detach() for name, (_, term) in terms.items()}

    def configure_optimizers(self) -> Any:
        s = self.settings
        optimizer = torch.optim.Adam(self.network.parameters(), lr=s.stylizer_learning_rate)
        # A lambda, which checkpoints leave out: a bound method they would keep, and the settings with it.
        return [optimizer], [LambdaLR(optimizer, lambda step: s.stylizer_rate(step))]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.content, self.styles = self.content.to(self.device), self.styles.to(self.device)
        self.encoder.to(self.device)

    def _styles(self, step: int) -> Float[Tensor, "n 1 y x"]:
        chosen = choose_styles(self.styles, self.settings.contents, seed=self.run.seed, step=step)
        return style_images(
            self.styles, chosen, self.settings.turns, seed=self.run.seed, step=step, share=self.share
        )

    def _rain(
        self, network: Rain, images: Tensor, content: Tensor, style: Features, step: int
    ) -> dict[str, tuple[float, Tensor]]:
        """Eq. 2: the content and style losses, and those of the style autoencoder."""
        s = self.settings
        noise = self.share(code_noise(s.contents, CHANNELS, seed=self.run.seed, step=step))
        noise = noise.to(content.device, non_blocking=True)
        size = (images.shape[2], images.shape[3])
        found = network(content, style.relu4_1, noise, size, joint=s.joint)
        rebuilt = reconstruction_loss(found.decoded.vector(), found.measured.vector())
        return self._compared(found.images, images, found.target, style) | {
            "loss_kl": (s.kl_weight, divergence(found.code)),
            "loss_reconstruction": (s.reconstruction_weight, rebuilt),
        }

    def _compared(
        self, made: Tensor, images: Tensor, wanted: Tensor, style: Features
    ) -> dict[str, tuple[float, Tensor]]:
        """Eq. 3 and 4 on what the encoder sees in the stylised images, and the structure that they keep."""
        seen: Features = self.encoder.vgg(made)
        content_weight, style_weight = self.settings.weights
        terms = {
            "loss_content": (content_weight, content_loss(seen.relu4_1, wanted)),
            "loss_style": (style_weight, style_loss(seen, style)),
        }
        if self.settings.structure_weight:
            terms["loss_structure"] = (self.settings.structure_weight, structure_loss(made, images))
        return terms


class StyleVaeStage(Stage):
    """Eq. 5 and 6 on the descriptors of a finished AdaConv: what styles there are, as codes (methods.md 3.6)."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        autoencoder: DescriptorAutoencoder,
        stylizer: Stylizer,
        styles: SliceBank,
    ) -> None:
        super().__init__(run, "style_vae", clip_norm=settings.stylizer_clip_norm or None)
        self.settings = settings
        self.autoencoder = autoencoder
        self.stylizer = stylizer
        self.styles = styles

    def update(self, step: int) -> dict[str, Tensor]:
        s, seed = self.settings, self.run.seed
        chosen = choose_styles(self.styles, s.contents, seed=seed, step=step)
        images = style_images(self.styles, chosen, s.turns, seed=seed, step=step, share=self.share)
        noise = self.share(code_noise(s.contents, CHANNELS, seed=seed, step=step))
        noise = noise.to(images.device, non_blocking=True)
        # In full precision, as RAIN's autoencoder: 8 bits of a descriptor move a whole image.
        with torch.autocast(images.device.type, enabled=False):
            descriptor = self.stylizer.code_of(images)
            code = self.autoencoder.encode(descriptor)
            decoded = self.autoencoder.decode(code.at(noise))
            rebuilt = reconstruction_loss(
                self.autoencoder.vector(decoded), self.autoencoder.vector(descriptor)
            )
            loss_kl = divergence(code)
            loss = s.kl_weight * loss_kl + s.reconstruction_weight * rebuilt
        self.descend(loss)
        told = {"loss_kl": loss_kl.detach(), "loss_reconstruction": rebuilt.detach()}
        return {"loss": loss.detach(), **told}

    def configure_optimizers(self) -> Any:
        rate = self.settings.stylizer_learning_rate
        optimizer = torch.optim.Adam(self.autoencoder.parameters(), lr=rate)
        decay = self.settings.decay
        return [optimizer], [LambdaLR(optimizer, lambda step: 1 / (1 + decay * step))]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.styles = self.styles.to(self.device)
        self.stylizer.to(self.device)


def divergence(code: StyleCode) -> Float[Tensor, ""]:
    """Eq. 5 of a style's distribution, in the form that belongs to its ξ."""
    if code.log_variance is None:
        return published_kl_divergence(code.centre, code.spread)
    return kl_divergence(code.centre, code.log_variance)


def learn_stylizer(material: Material, encoder: Encoder, settings: Settings, run: Run) -> Stylizer:
    """Train RAIN, or AdaConv without codes."""
    assert material.taught is not None
    seed_torch(run.seed, "stylizer network")
    network = settings.build_stylizer()
    if settings.decoder_start == "encoder":
        _begin(network, encoder, material, settings, run)
    stage = StylizerStage(run, settings, network, encoder, material.content, material.taught)
    rounds, length = settings.auxiliary_rounds("stylizer")
    fit(stage, rounds=rounds, steps_per_round=length)
    stylizer = Stylizer(encoder.to(run.torch_device), network, provenance=_told(material, settings, run))
    _tell_what_is_drawn(stylizer, material, settings, run)
    return stylizer


def _told(material: Material, settings: Settings, run: Run) -> dict[str, Any]:
    """Where a stylizer comes from, as plain JSON."""
    assert material.taught is not None
    told = {"method": "stylization", "seed": run.seed, "settings": settings.model_dump(mode="json")}
    return told | {"styles": sorted({place.scan for place in material.taught.table})} | run.surroundings()


@torch.no_grad()
def _begin(
    network: Rain | AdaConv, encoder: Encoder, material: Material, settings: Settings, run: Run
) -> None:
    """As the decoder that gave images back from the encoder; AdaConv with the mean statistics of some styles.

    Without such a decoder RAIN's begins with random weights, and AdaConv, as in the layout "late", with random ones at
    the scale of the styles.
    """
    assert material.taught is not None
    if isinstance(network, AdaConv):
        chosen = choose_styles(material.taught, LOOKED_AT, seed=run.seed, step=0)
        styles = style_images(material.taught, chosen, seed=run.seed).cpu()
        device = next(encoder.vgg.parameters()).device
        style = encoder.vgg(styles.to(device)).relu4_1.cpu()
        if encoder.decoder is not None and settings.layout == "mirror":
            begin_as(network, encoder.decoder.cpu(), style)
        else:
            calibrate(network, style, style, styles)
            run.note("stylizer adaconv: begins with random weights, at the scale of its styles")
    elif encoder.decoder is not None:
        network.decoder.load_state_dict(encoder.decoder.state_dict())
    else:
        run.note(
            f"stylizer rain: encoder {encoder.source} has no decoder, so RAIN's begins with random weights"
        )


@torch.no_grad()
def _tell_what_is_drawn(stylizer: Stylizer, material: Material, settings: Settings, run: Run) -> None:
    """Say of a batch in the styles of another how many pixels left [0, 1] and how far edges stay where they were.

    A picture that is mostly clipped, or whose edges are elsewhere, is no style; who trains on it should know.
    """
    if run.estimates is not None or material.taught is None:
        return
    count = min(LOOKED_AT, len(material.content))
    chosen = torch.linspace(0, len(material.content) - 1, count).round().long()
    contents = crop(material.content.images[chosen], settings.image_size).to(run.torch_device)
    styles = choose_styles(material.taught, count, seed=run.seed, step=0)
    of_styles = style_images(material.taught, styles, seed=run.seed).to(run.torch_device)
    made = stylizer.stylise(contents, stylizer.code_of(of_styles))
    clipped = float(((made <= 0) | (made >= 1)).float().mean())
    of_contents = float(((contents <= 0) | (contents >= 1)).float().mean())
    edges = 1 - float(structure_loss(made, contents))
    codes = ""
    if stylizer.has_code:
        nats = float(divergence(stylizer.distribution(of_styles)))
        codes = f"; codes of styles lie {nats:.2f} nats a dimension from a standard normal"
    run.note(
        f"stylizer {stylizer.kind}: of {count} stylised slices {clipped:.0%} of the pixels are clipped to [0, 1] "
        f"({of_contents:.0%} of the contents' lie there), edge correlation {edges:.2f}{codes}"
    )


def learn_codes(stylizer: Stylizer, material: Material, settings: Settings, run: Run) -> Stylizer:
    """A finished AdaConv with codes for its descriptors: train their autoencoder."""
    assert material.taught is not None
    seed_torch(run.seed, "style autoencoder")
    autoencoder = settings.build_style_vae().to(run.torch_device)
    styles = material.taught.to(run.torch_device)
    chosen = [choose_styles(styles, settings.contents, seed=run.seed, step=i) for i in range(MEASURED_OVER)]
    autoencoder.standardise(
        torch.cat(
            [
                stylizer.code_of(style_images(styles, which, settings.turns, seed=run.seed, step=i))
                for i, which in enumerate(chosen)
            ]
        )
    )
    stage = StyleVaeStage(run, settings, autoencoder, stylizer, styles)
    rounds, length = settings.auxiliary_rounds("style_vae")
    fit(stage, rounds=rounds, steps_per_round=length)
    coded = replace(stylizer, autoencoder=autoencoder, provenance=_told(material, settings, run))
    _tell_what_is_drawn(coded, material, settings, run)
    return coded
