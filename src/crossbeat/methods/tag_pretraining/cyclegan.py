"""The stage that learns to repaint images as those of another domain, from unpaired slices of both; and what it leaves.

Zhu 2017 with least squares, as Dhaene 2023 trains it (methods.md 4.5), but for its errors: one intensity scale from
training to use, which `Translator` holds to, and scores of patches unless `pooled`.

    symbol    here                            symbol    here
    G, F      onward, back                    A, B      source, target
    D_B, D_A  judge_target, judge_source
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from crossbeat.errors import SettingsError
from crossbeat.losses.translation import fooling_loss, image_loss, telling_loss
from crossbeat.methods.keeping import fetch, keep
from crossbeat.methods.recipe import whole_rounds
from crossbeat.methods.tag_pretraining.replay import Replay
from crossbeat.networks.cyclegan import DIVISOR, MINIMUM_JUDGED, Generator, PatchDiscriminator
from crossbeat.prepare.slices import SliceBank, batch_generator, global_batch
from crossbeat.prepare.volumes import Preparation
from crossbeat.training import Run, Stage, fit, seed_torch

CROPS: Final = 21
"""Purpose of the random numbers of a step that choose crops and mirrored images."""
AT_ONCE: Final = 8  # images, where a translator repaints many
BEYOND: Final = 1e-3  # of the scale's ends: rounding's
LOWEST: Final = {"unit": 0.0, "symmetric": -1.0}
"""Lowest intensity of the scales that are fixed; the highest is 1."""


@dataclass(frozen=True)
class CycleGan:
    """Numbers of the training, methods.md 4.5; the defaults are the paper's, except for patches."""

    steps: int
    """Updates of both generators together, and as many of both discriminators."""
    steps_per_round: int
    batch: int = 1
    """Images of each domain a step, over all devices."""
    side: int | None = None
    """Of the crops learnt from, in pixels; None: the preparation's `size`. They lie anywhere in the field."""
    width: int = 64
    blocks: int = 9
    pooled: bool = False
    """One score an image, as in the released code, in place of one a patch."""
    cycle_weight: float = 10.0
    identity_weight: float = 5.0
    learning_rate: float = 2e-4
    beta1: float = 0.5
    replay: int = 50
    """Painted images kept of each domain, for the discriminators."""


class CycleGanStage(Stage):
    """One update of both generators, then one of both discriminators, on a batch of each domain."""

    def __init__(self, run: Run, settings: CycleGan, source: SliceBank, target: SliceBank) -> None:
        super().__init__(run, "cyclegan")
        s = settings
        self.settings = s
        self.side = s.side or source.preparation.size
        _refuse_unlike(source, target, self.side)
        self.lowest = LOWEST[source.preparation.scale]
        self.source, self.target = source, target
        self.onward, self.back = (Generator(width=s.width, blocks=s.blocks) for _ in range(2))
        self.judge_source, self.judge_target = (
            PatchDiscriminator(width=s.width, pooled=s.pooled) for _ in range(2)
        )
        self.made_source, self.made_target = (Replay(s.replay, (1, self.side, self.side)) for _ in range(2))

    def update(self, step: int) -> dict[str, Tensor]:
        s = self.settings
        source, target = (self._images(bank, number, step) for number, bank in enumerate(self._banks()))
        made_target, same_target = self._paint(self.onward, source, target)
        made_source, same_source = self._paint(self.back, target, source)
        adversarial = fooling_loss(self.judge_target(made_target)) + fooling_loss(
            self.judge_source(made_source)
        )
        cycle = image_loss(self.back(made_target), source) + image_loss(self.onward(made_source), target)
        loss = adversarial + s.cycle_weight * cycle
        told = {"loss_adversarial": adversarial, "loss_cycle": cycle}
        if same_source is not None and same_target is not None:
            told["loss_identity"] = image_loss(same_source, source) + image_loss(same_target, target)
            loss = loss + s.identity_weight * told["loss_identity"]
        self.descend(loss, 0)
        told["loss_discriminator"] = self._judged(
            self.judge_source, source, self._replayed(self.made_source, made_source, 0, step)
        ) + self._judged(self.judge_target, target, self._replayed(self.made_target, made_target, 1, step))
        self.descend(told["loss_discriminator"], 1)
        return {"loss": loss.detach()} | {name: value.detach() for name, value in told.items()}

    def configure_optimizers(self) -> Any:
        s = self.settings
        pairs = ([self.onward, self.back], [self.judge_source, self.judge_target])
        optimizers = [
            torch.optim.Adam(
                [p for network in pair for p in network.parameters()],
                lr=s.learning_rate,
                betas=(s.beta1, 0.999),
            )
            for pair in pairs
        ]
        return optimizers, [
            LambdaLR(optimizer, lambda step: decay(step, s.steps)) for optimizer in optimizers
        ]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.source, self.target = self.source.to(self.device), self.target.to(self.device)

    def _banks(self) -> tuple[SliceBank, SliceBank]:
        return self.source, self.target

    def _images(self, bank: SliceBank, number: int, step: int) -> Float[Tensor, "n 1 y x"]:
        """This step's, in [-1, 1]."""
        s = self.settings
        images = draw_crops(
            bank,
            s.batch,
            self.side,
            seed=self._seed(number),
            step=step,
            share=self.share,
        )
        return _spread(images, self.lowest)

    def _seed(self, number: int) -> int:
        """Of a domain: were both drawn alike, the slices of one patient could meet in every step."""
        return 2 * self.run.seed + number

    def _paint(self, generator: nn.Module, images: Tensor, own: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images repainted, and images of the generator's own domain, which should stay; in one pass, each alone."""
        if not self.settings.identity_weight:
            return generator(images), None
        made, same = generator(torch.cat([images, own])).split(len(images))
        return made, same

    def _replayed(self, replay: Replay, made: Tensor, number: int, step: int) -> Tensor:
        return replay.exchange(made, seed=self._seed(number), step=step, share=self.share)

    def _judged(self, judge: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        on_real, on_fake = judge(torch.cat([real, fake])).split(len(real))
        return telling_loss(on_real, on_fake)


@dataclass
class Translator:
    """Repaints source images as the target's and back; frozen. Images are on the scale of `preparation`.

    That is [0, 1] for `unit` and [-1, 1] for `symmetric`, of any size from 16 pixels; another scale is refused
    at birth (`SettingsError`), and images that lie beyond it where they are given.
    """

    onward: Generator
    back: Generator
    preparation: Preparation
    """Of the slices it has learnt from, and of those it repaints."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_scale(self.preparation)
        for network in (self.onward, self.back):
            network.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> Translator:
        """The same translator, moved to another device."""
        self.onward.to(device)
        self.back.to(device)
        return self

    def translate(self, images: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n 1 y x"]:
        """Source images as they would look in the target's domain."""
        return self._repaint(self.onward, images)

    def translate_back(self, images: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n 1 y x"]:
        """Target images as they would look in the source's domain.

        What was translated comes back as the cycle gives it: where structures are kept, a segmenter of the source
        finds them there again.
        """
        return self._repaint(self.back, images)

    def describe(self) -> dict[str, Any]:
        """All but the weights, as plain JSON."""
        return {
            "onward": self.onward.arguments,
            "back": self.back.arguments,
            "preparation": self.preparation.model_dump(),
            "provenance": dict(self.provenance),
        }

    def save(self, folder: Path) -> None:
        """`weights.safetensors` and `translator.json` in a folder that appears whole or not at all."""
        weights = {
            f"{part}.{name}": tensor
            for part, network in (("onward", self.onward), ("back", self.back))
            for name, tensor in network.state_dict().items()
        }
        keep(folder, "translator", weights, self.describe())

    @torch.no_grad()
    def _repaint(self, generator: Generator, images: Tensor) -> Tensor:
        lowest = LOWEST[self.preparation.scale]
        _refuse_beyond(images, lowest)
        y, x = images.shape[2:]
        filled = F.pad(_spread(images, lowest), (0, -x % DIVISOR, 0, -y % DIVISOR), mode="replicate")
        with torch.autocast(images.device.type, enabled=False):
            made = torch.cat([generator(part) for part in torch.split(filled.float(), AT_ONCE)])
        return _gather_in(made[..., :y, :x], lowest)


def learn_translator(
    source: SliceBank,
    target: SliceBank,
    settings: CycleGan,
    run: Run,
    provenance: Mapping[str, Any] | None = None,
) -> Translator:
    """Train both generators on unpaired slices; labels are not looked at."""
    seed_torch(run.seed, "cyclegan networks")
    stage = CycleGanStage(run, settings, source, target)
    rounds, length = whole_rounds(
        "cyclegan_steps", settings.steps, settings.steps_per_round, "cyclegan_steps_per_round"
    )
    fit(stage, rounds=rounds, steps_per_round=length)
    return Translator(stage.onward, stage.back, source.preparation, dict(provenance or {}))


def load_translator(folder: Path, device: torch.device | str = "cpu") -> Translator:
    """Read what `Translator.save` wrote, in `models/translator`; `RunError` where a piece is missing or broken."""
    return fetch(folder, "translator", _as_translator).to(device)


def draw_crops(
    bank: SliceBank,
    count: int,
    side: int,
    *,
    seed: int,
    step: int,
    share: Callable[[Tensor], Tensor] = lambda indices: indices,
) -> Float[Tensor, "n 1 y x"]:
    """This device's share of that many slices, each cropped anywhere in its field and half of them mirrored.

    Anywhere, for the field is about the image's middle where labels are not looked at, and the heart is not. Drawn on
    the CPU for the whole global batch, by seed and step alone. Whole pixels: between them, lines of tags would be
    blurred.
    """
    room = bank.preparation.field - side
    chosen = global_batch(seed, step, len(bank), count)
    generator = batch_generator(seed, step, CROPS)
    corners = torch.randint(room + 1, (count, 2), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5
    mine = share(torch.arange(count))
    fields = bank.batch(chosen[mine]).image
    crops = []
    for image, (top, left), flip in zip(fields, corners[mine].tolist(), flips[mine].tolist(), strict=True):
        crop = image[:, top : top + side, left : left + side]
        crops.append(crop.flip(2) if flip else crop)
    return torch.stack(crops)


def refuse_side(side: int | None, preparation: Preparation) -> None:
    """`SettingsError` where crops of that side, in pixels, cannot be cut from the field, or not be judged."""
    side = side or preparation.size
    if side % DIVISOR or not MINIMUM_JUDGED <= side <= preparation.field:
        raise SettingsError(
            f"cyclegan: a crop's side must be a multiple of {DIVISOR}, from {MINIMUM_JUDGED} to the field's "
            f"{preparation.field} pixels, got {side}; choose another image_size or cyclegan_image_size"
        )


def decay(step: int, steps: int) -> float:
    """Factor on the learning rate: 1 over the first half, then in a straight line to 0 at the end."""
    return min(1.0, 2.0 * max(steps - step, 0) / steps)


def _as_translator(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Translator:
    networks = {}
    for part in ("onward", "back"):
        networks[part] = Generator(**described[part])
        own = {n.removeprefix(f"{part}."): t for n, t in weights.items() if n.startswith(f"{part}.")}
        networks[part].load_state_dict(own)
    return Translator(
        **networks, preparation=Preparation(**described["preparation"]), provenance=described["provenance"]
    )


def _spread(images: Tensor, lowest: float) -> Tensor:
    """From [lowest, 1] to the generators' [-1, 1]."""
    return (images - lowest) * (2 / (1 - lowest)) - 1


def _gather_in(images: Tensor, lowest: float) -> Tensor:
    return (images + 1) * ((1 - lowest) / 2) + lowest


def _refuse_unlike(source: SliceBank, target: SliceBank, side: int) -> None:
    _refuse_scale(source.preparation)
    if source.preparation != target.preparation:
        raise SettingsError(
            "cyclegan: source and target slices are prepared differently, and it would learn that difference; prepare "
            "both alike"
        )
    refuse_side(side, source.preparation)


def _refuse_scale(preparation: Preparation) -> None:
    if preparation.scale not in LOWEST:
        raise SettingsError(
            f"cyclegan: scale {preparation.scale!r} has no ends, and a generator paints between two; prepare slices "
            "with scale unit or symmetric"
        )


def _refuse_beyond(images: Tensor, lowest: float) -> None:
    if not images.numel():
        return
    low, high = (float(end) for end in images.aminmax())
    if not (lowest - BEYOND <= low and high <= 1 + BEYOND):
        raise SettingsError(
            f"translator: it has learnt from images in [{lowest:g}, 1], got some in [{low:g}, {high:g}]; prepare them "
            "as its preparation says"
        )
