"""The settings of propagation: what the paper says, what its code does, and what we hold to be sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field, model_validator

from crossbeat.errors import SettingsError
from crossbeat.methods.recipe import DEMO, Recipe, whole_rounds
from crossbeat.networks.registration import VoxelMorph
from crossbeat.prepare.volumes import Preparation

PAPER: Final[Mapping[str, Any]] = {
    "propagate_from": "ed",
    "carry_to": "between",
    "confidence": "none",
    "dimensions": 3,
    "through_plane": True,
    "image_loss": "mse",
    "smoothness_weight": 0.01,
    "slice_smoothness": 1.0,
    "label_weight": 0.01,
    "registration_learning_rate": 1e-4,
    "registration_schedule": "constant",
    "labels_at_half": True,
    "end_pairs": 0.0,
    "labelled_pairs": 0.0,
    "mirrored_pairs": False,
    "carried_share": None,
    "augmentation": "none",
    "ema_decay": 0.0,
    "clip_norm": 0.0,
    "registration_clip_norm": 0.0,
}
"""What the text and the code share, or what the stock registration of methods.md 2.1 has where both are silent."""


class Settings(Recipe):
    """Settings of propagation."""

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ours": {},
        "text": {**PAPER},
        "code": {**PAPER, "loss": "ce_dice"},
    }
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {},
        "bench": {
            "image_size": 128,
            "spacing_mm": 1.5,
            "registration_image_size": 64,
            "registration_spacing_mm": 2.5,
            "registration_steps": 1000,
            "registration_steps_per_round": 250,
            "carry_every": 2,
            "steps": 1000,
            "schedule": "one_cycle",
        },
        "demo": {
            **DEMO,
            "registration_image_size": 64,
            "registration_spacing_mm": 2.5,
            "registration_steps": 400,
            "registration_steps_per_round": 200,
            "steps": 600,
            "steps_per_round": 200,
            "learning_rate": 4e-3,
            "schedule": "one_cycle",
        },
    }

    synthetic_labels: bool = Field(
        True, description="carry labels and learn from them; false: the paper's baseline, real labels alone"
    )
    labelled_frames: Literal["ed_es", "ed", "all"] = Field(
        "ed_es", description="whose labels may be looked at at all, where more frames have some"
    )
    propagate_from: Literal["ed", "ed_es"] = Field(
        "ed_es", description="frames whose labels are carried; the paper ED"
    )
    without_cine: Literal["refuse", "real_labels"] = Field(
        "refuse",
        description="where no labelled training scan has two frames: stop, or say so and train on real labels "
        "alone, which is not propagation",
    )
    register_target: bool = Field(
        False, description="the registration also learns from the target's training images; never labels"
    )

    registration_image_size: int = Field(
        192,
        ge=32,
        le=1024,
        description="side of the registration's crop in pixels; ours, the code resizes to 384",
    )
    registration_spacing_mm: float = Field(1.25, gt=0.2, le=5, description="of those pixels, in-plane")
    dimensions: Literal[2, 3] = Field(
        2,
        description="register slices, or volumes; 2 measured quicker and better: docs/methods/propagation.md, Where we "
        "differ",
    )
    through_plane: bool = Field(False, description="volumes move along z too; false suits thick slices")
    integration_steps: int = Field(7, ge=0, le=12, description="squarings of the velocity, as stock")
    image_loss: Literal["ncc", "mse"] = Field(
        "ncc", description="local correlation, or squared difference; stock mse"
    )
    ncc_window: int = Field(9, ge=3, le=31, description="side of its window in pixels, odd, as stock")
    smoothness_weight: float = Field(
        1.0, ge=0, description="of the velocity's squared gradient; 1 beside ncc, stock 0.01 beside mse"
    )
    slice_smoothness: float = Field(
        0.06,
        ge=0,
        description="what a difference between slices counts beside one in plane: (2.5 mm / 10 mm)²; stock 1",
    )
    label_weight: float = Field(
        1.0, ge=0, description="of 1 - Dice where both frames have labels; ours; stock 0.01"
    )
    labels_at_half: bool = Field(
        False,
        description="Dice of every second voxel along the axes that the network halves, as the stock code",
    )
    bidirectional: bool = Field(False, description="the image loss also of fixed carried to moving")
    end_pairs: float = Field(
        0.25, ge=0, le=1, description="share of pairs of two labelled frames, where a scan has them; ours"
    )
    labelled_pairs: float = Field(
        0.5, ge=0, le=1, description="share of pairs from a labelled to any frame; the rest: any two; ours"
    )
    mirrored_pairs: bool = Field(
        True, description="each pair in one of the eight positions of a square, drawn at random; ours"
    )
    registration_batch: int = Field(1, ge=1, description="pairs a step, over all devices, as stock")
    registration_steps: int = Field(
        10_000, ge=1, description="updates of the registration; ours, stock 150,000"
    )
    registration_steps_per_round: int = Field(500, ge=1, description="between two of its checkpoints")
    registration_learning_rate: float = Field(
        2e-3, gt=0, description="Adam; the highest of one_cycle; ours, stock 1e-4"
    )
    registration_schedule: Literal["constant", "one_cycle"] = Field(
        "one_cycle", description="of that learning rate; ours, stock constant"
    )
    registration_clip_norm: float = Field(
        1.0, ge=0, description="largest norm of the registration's gradient; 0: any, as in the stock code"
    )

    carry_to: Literal["cycle", "between"] = Field(
        "cycle", description="frames that get labels: all, or those numbered between ED and ES"
    )
    carry_every: int = Field(
        1, ge=1, description="of those every so many-th is learnt from: neighbours are nearly alike; ours"
    )
    confidence: Literal["none", "drop", "weight"] = Field(
        "weight", description="what becomes of frames below the threshold: nothing, left out, weigh less"
    )
    confidence_threshold: float = Field(
        0.75, gt=0, le=1, description="of a carried frame's confidence, `carrying.confidence_of`; ours"
    )

    network: str = Field("unet", description="entry of networks.SEGMENTERS")
    image_size: int = Field(192, ge=32, le=1024, description="side of the segmentation's crop in pixels")
    spacing_mm: float = Field(1.25, gt=0.2, le=5, description="of those pixels, in-plane")
    augmentation: Literal["none", "light", "standard", "random_contrast", "chen2020"] = Field(
        "standard", description="preset of prepare.augment for the segmentation; the paper has none"
    )
    loss: Literal["ce", "ce_dice"] = Field(
        "ce", description="cross-entropy (the paper), or in equal parts with soft Dice (its code)"
    )
    carried_share: float | None = Field(
        0.5, gt=0, lt=1, description="of a batch's slices; null: as they come from one pool, as in the paper"
    )
    carried_weight: float = Field(
        1.0, gt=0, le=10, description="of a slice with carried labels in the loss; a real one has 1; ours"
    )
    batch_size: int = Field(16, ge=2, description="slices a step, over all devices; as the code")
    steps: int = Field(6000, ge=1, description="updates of the segmentation network")
    steps_per_round: int = Field(250, ge=1, description="between two validations and checkpoints")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam, as the code; the highest of one_cycle")
    schedule: Literal["plateau", "one_cycle", "constant"] = Field(
        "plateau",
        description="of the learning rate; plateau: a tenth of it when the validation loss rests 10 rounds",
    )
    clip_norm: float = Field(
        1.0, ge=0, description="largest norm of the segmenter's gradient; 0: any, as in the paper"
    )
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the averaged weights, a step; 0 switches them off, as in the paper"
    )

    @property
    def segmenter_updates(self) -> int:
        return self.steps

    @property
    def rounds(self) -> tuple[int, int]:
        """Number of rounds of the segmentation, and updates in each."""
        return whole_rounds("steps", self.steps, self.steps_per_round)

    @property
    def registration_rounds(self) -> tuple[int, int]:
        """As `rounds`, of the registration."""
        steps, longest = self.registration_steps, self.registration_steps_per_round
        return whole_rounds("registration_steps", steps, longest, "registration_steps_per_round")

    @property
    def preparation(self) -> Preparation:
        """Of slices for the segmentation."""
        return Preparation(size=self.image_size, spacing_mm=self.spacing_mm, centre=self.centre)

    @property
    def registration_preparation(self) -> Preparation:
        """Of cines for the registration: all frames of a scan on one scale, 0 to 1 (methods.md 2.4)."""
        return Preparation(
            size=self.registration_image_size,
            spacing_mm=self.registration_spacing_mm,
            centre=self.centre,
            scale="unit",
            per="volume",
            low_percentile=1,
            high_percentile=99,
        )

    @property
    def window(self) -> tuple[int, ...]:
        """Sides of the local correlation's window, by axis; slices that do not move along z are not mixed."""
        flat = (self.ncc_window, self.ncc_window)
        return flat if self.dimensions == 2 else (self.ncc_window if self.through_plane else 1, *flat)

    def build_registration(self) -> VoxelMorph:
        """A registration network with fresh weights."""
        return VoxelMorph(self.dimensions, self.through_plane, self.integration_steps)

    @model_validator(mode="after")
    def _refuse_what_cannot_be_made(self) -> Settings:
        assert self.rounds
        assert self.registration_rounds
        if self.labelled_frames == "ed" and self.propagate_from == "ed_es" and self.synthetic_labels:
            raise SettingsError(
                "propagate_from ed_es carries the ES labels, which labelled_frames ed keeps shut; "
                "say propagate_from: ed too"
            )
        if self.ncc_window % 2 == 0:
            raise SettingsError(
                f"ncc_window {self.ncc_window} has no middle; take {self.ncc_window + 1}, an odd number"
            )
        if self.end_pairs + self.labelled_pairs > 1:
            raise SettingsError(
                f"end_pairs and labelled_pairs are shares of one whole, got {self.end_pairs:g} and "
                f"{self.labelled_pairs:g}; lower one of them"
            )
        assert self.changes
        with torch.device("meta"):  # no memory, no random numbers
            self.spec.build()
            self.build_registration()
        return self
