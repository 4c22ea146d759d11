"""The stage that learns the registration: two frames of a scan in, a velocity that carries one to the other out.

Balakrishnan 2019 (VoxelMorph), intra-subject as label propagation has it: image similarity + λ · smoothness of
the velocity + γ · (1 - Dice) of carried labels, the last where both frames have labels (methods.md 2.1 and 2.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from crossbeat.errors import CohortError
from crossbeat.labels import TRAINED, UNKNOWN
from crossbeat.losses.registration import local_ncc_loss, mean_squared_error, overlap_loss, smoothness_loss
from crossbeat.methods.propagation.frames import Cine, Pair, draw_pairs, gather_cines, make_cine, place
from crossbeat.methods.propagation.registrar import Registrar, as_samples, as_volume, in_quick_layout
from crossbeat.methods.propagation.settings import Settings
from crossbeat.methods.recipe import Domains
from crossbeat.networks.deformation import warp
from crossbeat.networks.registration import VoxelMorph
from crossbeat.training import Run, Stage, constant, fit, one_cycle, seed_torch

CLASSES = len(TRAINED) + 1


class RegistrationStage(Stage):
    """Pairs of frames are registered one after another, because scans differ in depth; one update a step."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: VoxelMorph,
        cines: Sequence[Cine],
        validation: Mapping[str, Sequence[Cine]],
    ) -> None:
        super().__init__(run, "registration", clip_norm=settings.registration_clip_norm or None)
        self.settings = settings
        self.network = in_quick_layout(network)
        self.cines = tuple(cines)
        self.validation = {part: tuple(those) for part, those in validation.items()}

    def update(self, step: int) -> dict[str, Tensor]:
        pairs = draw_pairs(self.cines, self.settings, seed=self.run.seed, step=step)
        mine = self.share(torch.arange(len(pairs))).tolist()
        each = [
            pair_losses(self.network, self.cines[p.cine], p, self.settings) for p in (pairs[i] for i in mine)
        ]
        terms = {name: torch.stack([losses[name] for losses in each]).mean() for name in each[0]}
        s = self.settings
        loss = (
            terms["loss_image"]
            + s.smoothness_weight * terms["loss_smoothness"]
            + s.label_weight * terms["loss_overlap"]
        )
        self.descend(loss)
        return {"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}

    def validate(self) -> dict[str, float]:
        """Dice of labels carried between the two labelled frames, and of labels left where they were."""
        found: dict[str, float] = {}
        for part, cines in self.validation.items():
            scores = [carried_dice(self.network, cine) for cine in cines]
            if scores:
                moved, unmoved = (torch.stack(values).nanmean(dim=0) for values in zip(*scores, strict=True))
                found[f"dice_{part}"] = float(moved.nanmean())
                found[f"dice_{part}_unmoved"] = float(unmoved.nanmean())
                for structure, value in zip(TRAINED, moved.tolist(), strict=True):
                    found[f"dice_{part}_{structure.name.lower()}"] = value
        return found

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings.registration_learning_rate)
        if self.settings.registration_schedule == "one_cycle":
            return [optimizer], [one_cycle(optimizer, self.settings.registration_steps)]
        return [optimizer], [constant(optimizer)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.cines = tuple(cine.to(self.device) for cine in self.cines)
        self.validation = {
            part: tuple(cine.to(self.device) for cine in cines) for part, cines in self.validation.items()
        }


def learn(domains: Domains, settings: Settings, run: Run) -> Registrar | None:
    """Train the registration on the cines among the training scans, and leave it in `models/registration`.

    Where no labelled scan has two frames there is nothing to carry: `CohortError`, or under
    `without_cine: real_labels` a note and None.
    """
    cines = gather_cines(domains, settings, run)
    if not any(cine.labelled for cine in cines):
        _refuse_stills(domains, settings, run)
        return None
    seed_torch(run.seed, "registration network")
    stage = RegistrationStage(
        run, settings, settings.build_registration(), cines, _validation(domains, settings)
    )
    rounds, length = settings.registration_rounds
    fit(stage, rounds=rounds, steps_per_round=length)
    told = {"method": "propagation", "seed": run.seed, "cohort": domains.source.name}
    told |= {"settings": settings.model_dump(mode="json"), "trained_on": [cine.scan for cine in cines]}
    registrar = Registrar(
        stage.network.eval(),
        settings.registration_preparation,
        bf16=run.lightning_precision == "bf16-mixed",
        provenance=told | run.surroundings(),
    )
    if run.writes and run.estimates is None:
        registrar.save(run.folder / "models" / "registration")
    return registrar


def pair_losses(network: VoxelMorph, cine: Cine, pair: Pair, s: Settings) -> dict[str, Tensor]:
    """The three terms of one pair, each a scalar; `loss_overlap` is 0 where one of both frames has no labels."""
    moving, fixed = (
        as_samples(place(cine.images[frame], pair.position)[None].float(), network.dimensions)
        for frame in (pair.moving, pair.fixed)
    )
    found = network.register(moving, fixed)
    loss_image = _image_loss(warp(moving, found.displacement), fixed, s)
    if s.bidirectional:
        back = _image_loss(warp(fixed, found.inverse()), moving, s)
        loss_image = (loss_image + back) / 2
    axis_weights = None if network.dimensions == 2 else (s.slice_smoothness, 1.0, 1.0)
    losses = {
        "loss_image": loss_image,
        "loss_smoothness": smoothness_loss(found.velocity, axis_weights=axis_weights),
        "loss_overlap": loss_image.new_zeros(()),
    }
    if s.label_weight and pair.moving in cine.labelled and pair.fixed in cine.labelled:
        every = found.halving if s.labels_at_half else None
        losses["loss_overlap"] = _overlap(found.displacement, cine, pair, every)
    return losses


def one_hot(labels: UInt8[Tensor, " *grid"]) -> Float[Tensor, " k *grid"]:
    """Background, LV, MYO and RV as masks of 0 and 1; a voxel that nobody looked at is 0 in all four."""
    classes = torch.arange(CLASSES, device=labels.device, dtype=labels.dtype)
    return (labels[None] == classes.view(-1, *(1 for _ in labels.shape))).float()


@torch.no_grad()
def carried_dice(network: VoxelMorph, cine: Cine) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Dice of LV, MYO and RV carried between two labelled frames, and if nothing had moved.

    The first labelled frame and, of more than two, the middle one of the others; means over both directions on the
    registration's grid, after argmax. nan where a structure was not drawn in both, or is in neither mask.
    """
    other = len(cine.labelled) // 2
    moved, unmoved = [], []
    for a, b in ((0, other), (other, 0)):
        frames = (cine.labelled[a], cine.labelled[b])
        images = [as_samples(cine.images[f][None].float(), network.dimensions) for f in frames]
        masks = as_samples(one_hot(cine.labels[a]), network.dimensions)
        arrived = as_volume(warp(masks, network.register(*images).displacement), network.dimensions)
        known = (cine.labels[b] != UNKNOWN) & (arrived.sum(dim=0) > 0.5)
        drawn = (cine.drawn[a] & cine.drawn[b])[1:]
        moved.append(_dice(arrived.argmax(dim=0).to(torch.uint8), cine.labels[b], known, drawn))
        unmoved.append(_dice(cine.labels[a], cine.labels[b], known, drawn))
    return torch.stack(moved).nanmean(dim=0).cpu(), torch.stack(unmoved).nanmean(dim=0).cpu()


def _dice(
    ours: UInt8[Tensor, "z y x"],
    theirs: UInt8[Tensor, "z y x"],
    known: Bool[Tensor, "z y x"],
    drawn: Bool[Tensor, " s"],
) -> Float[Tensor, " s"]:
    a, b = (one_hot(labels)[1:] * known for labels in (ours, theirs))
    size = (a + b).flatten(1).sum(dim=1)
    score = 2 * (a * b).flatten(1).sum(dim=1) / size
    return torch.where(drawn & (size > 0), score, torch.nan)


def _image_loss(moved: Tensor, fixed: Tensor, s: Settings) -> Tensor:
    return (
        mean_squared_error(moved, fixed) if s.image_loss == "mse" else local_ncc_loss(moved, fixed, s.window)
    )


def _overlap(
    displacement: Tensor, cine: Cine, pair: Pair, every: tuple[int, ...] | None
) -> Float[Tensor, ""]:
    """1 - Dice of the moving frame's labels, carried, with the fixed frame's, over structures drawn in both.

    Of all voxels, or of `every` so many-th along each axis.
    """
    a, b = cine.labelled.index(pair.moving), cine.labelled.index(pair.fixed)
    dimensions = displacement.ndim - 2
    moving, fixed = (as_samples(one_hot(place(cine.labels[i], pair.position)), dimensions) for i in (a, b))
    moved = warp(moving, displacement)
    if every is not None:
        taken = (slice(None), slice(None), *(slice(None, None, step) for step in every))
        moved, fixed = moved[taken], fixed[taken]
    known = (moved.sum(dim=1) > 0.5) & (fixed.sum(dim=1) > 0.5)
    drawn = (cine.drawn[a] & cine.drawn[b]).expand(len(moved), -1)
    return overlap_loss(moved, fixed, drawn, known)


def _validation(domains: Domains, settings: Settings) -> dict[str, list[Cine]]:
    """Cines of the validation splits with two labelled frames, between which carrying can be scored."""
    parts = {"source": domains.source_validation, "target": domains.target_validation}
    found = {}
    for name, cohort in parts.items():
        cases = (case for case in cohort.cases() if case.frames > 1)
        cines = [make_cine(case, settings.registration_preparation) for case in cases]
        found[name] = [cine for cine in cines if len(cine.labelled) > 1]
    return found


def _refuse_stills(domains: Domains, settings: Settings, run: Run) -> None:
    scans = len(domains.source) + len(domains.target)
    name = domains.source.name
    problem = f"{name}: none of {scans} labelled training scans has two frames, so no label can be carried"
    if settings.without_cine == "refuse":
        raise CohortError(
            f"{problem}; index the whole cines, or say `synthetic_labels: false` to train on real labels alone, "
            "which is the paper's baseline (`without_cine: real_labels` does so only where there is no cine)"
        )
    run.note(
        f"{problem}: this run trains on real labels alone and is not propagation (without_cine: real_labels)"
    )
