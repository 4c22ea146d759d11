"""The settings of weak transfer: what Chen 2020 prints, what its code does, and what we hold to be sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import torch
from pydantic import Field, model_validator

from crossbeat.errors import SettingsError
from crossbeat.labels import TRAINED
from crossbeat.methods.recipe import DEMO, Recipe, whole_rounds
from crossbeat.networks.discriminator import Discriminator
from crossbeat.prepare.volumes import Preparation

PAPER: Final[Mapping[str, Any]] = {
    "correspondence": "index",
    "augmentation": "chen2020",
    "centre": "image",
    "low_percentile": 0.0,
    "high_percentile": 100.0,
    "include_background": True,
    "smooth": 1.0,
    "adversarial_weight": 1.0,
    "pseudo_pairs": "full",
    "real_label": 1.0,
    "beta1": 0.9,
    "discriminator_head": "flatten",
    "warmup_learning_rate": 2e-4,
    "warmup_schedule": "constant",
    "clip_norm": 0.0,
    "ema_decay": 0.0,
}
"""What the text and the code share; where the text says nothing, it is read as the code."""

Positive = Annotated[float, Field(gt=0)]


class Settings(Recipe):
    """Settings of weak transfer."""

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ours": {},
        "text": {**PAPER, "discriminator": "residual", "normalise_per": "slice"},
        "code": {
            **PAPER,
            "rounding": "code",
            "normalise_per": "volume",
            "keep_empty_slices": False,
            "mixing": "pooled",
            "true_repeats": 4,
            "true_weight": 0.5,
            "dice_over": "batch",
            "kernel_penalty": 0.01,
            "separate_discriminator_updates": True,
            "adversarial_optimizer": "rmsprop",
            "clip_value": 1.0,
        },
    }
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {},
        "bench": {
            "image_size": 128,
            "spacing_mm": 1.5,
            "warmup_steps": 600,
            "adversarial_steps": 400,
            "steps_per_round": 100,
        },
        "demo": {
            **DEMO,
            "warmup_steps": 480,
            "adversarial_steps": 120,
            "steps_per_round": 120,
            "warmup_learning_rate": 4e-3,
        },
    }

    transfer: bool = Field(
        True, description="T: also learn from pseudo masks on target images; false in the arms U+D and U+A+D"
    )
    adversarial: bool = Field(
        True,
        description="A: a discriminator judges the masks; false in the arm U+D, whose second stage has none",
    )

    correspondence: Literal["index", "physical", "registered"] = Field(
        "physical", description="how source masks reach target slices; prepare.correspondence"
    )
    rounding: Literal["paper", "code"] = Field(
        "paper",
        description="of slice numbers under `index`: Eq. 1 as printed, or as released",
    )
    fuse_masks: Literal["none", "majority", "intersection"] = Field(
        "none",
        description="one mask from all source scans of a subject; none: each is a pair of its own",
    )

    network: str = Field("dilated_resunet", description="entry of networks.SEGMENTERS")
    network_arguments: dict[str, Any] = Field(
        default_factory=dict, description="passed to the network's builder: width, norm, dilations"
    )
    discriminator: Literal["plain", "residual"] = Field(
        "plain", description="convolutions of the released code, or the text's residual blocks"
    )
    discriminator_head: Literal["flatten", "pool"] = Field(
        "pool", description="flatten weighs every place, for one image size; pool averages them"
    )
    discriminator_norm: Literal["batch", "instance", "none"] = Field(
        "batch", description="in its stages 2 to 4; code batch"
    )
    spectral_norm: bool = Field(False, description="of the discriminator's weights, Miyato 2018")
    kernel_penalty: float = Field(
        0.0, ge=0, description="times the discriminator's squared kernels, added to its loss; code 0.01"
    )

    image_size: int = Field(224, ge=32, le=1024, description="side of the crop in pixels, as the paper")
    spacing_mm: float = Field(1.25, gt=0.2, le=5, description="of those pixels, in-plane")
    centre: Literal["heart", "image"] = Field(
        "heart", description="of the crop: the labelled heart, or the image as the paper's fixed windows"
    )
    normalise_per: Literal["slice", "volume"] = Field(
        "slice", description="mean 0 and SD 1 over what; text slice, code volume"
    )
    low_percentile: float = Field(0.5, ge=0, lt=50, description="clipped below; the paper does not")
    high_percentile: float = Field(99.5, gt=50, le=100, description="clipped above; the paper does not")
    keep_empty_slices: bool = Field(
        True, description="train on annotated slices without any heart; the code deletes them"
    )
    augmentation: Literal["none", "light", "standard", "random_contrast", "chen2020"] = Field(
        "standard", description="preset of prepare.augment; chen2020 is the code's"
    )
    shifted_crops: bool = Field(
        True, description="crop about the middle or one of four places beside it: the code's five groups"
    )
    crop_shift_mm: float = Field(
        20.0,
        ge=0,
        le=100,
        description="to those places; ours, 16 px of 1.25 mm; the paper's are not published",
    )

    batch_size: int = Field(16, ge=2, description="slices a step, over all devices; as the code")
    mixing: Literal["half", "pooled"] = Field(
        "half",
        description="half true and half pseudo masks a batch (ours), or as they come from one pool (code)",
    )
    true_repeats: int = Field(
        1,
        ge=1,
        description="times that a true mask stands in the pool, under `pooled`; code 4",
    )
    true_weight: float = Field(
        0.9, ge=0, le=1, description="λ of Eq. 4, of samples with a true mask; pseudo masks have 1 - λ"
    )
    cross_entropy_weight: float = Field(
        0.9, ge=0, le=1, description="β of Eq. 2 and 3; the rest is soft Dice; U+D by its name: 0"
    )
    dice_over: Literal["slice", "batch"] = Field(
        "slice", description="a Dice a slice and structure (ours), or one of all voxels of the batch (code)"
    )
    include_background: bool = Field(
        False, description="background counts in the Dice of a slice (that of a batch always has it)"
    )
    smooth: float = Field(1e-5, ge=0, description="voxels added to both parts of Dice; code 1")
    class_weights: tuple[Positive, Positive, Positive, Positive] | None = Field(
        None, description="of cross-entropy: background, LV, MYO, RV; 0.5, 5, 3, 5 in the code, unused"
    )

    adversarial_weight: float = Field(
        0.05, ge=0, description="of -log D beside the segmentation loss; text and code 1"
    )
    pseudo_pairs: Literal["excluded", "weighted", "full"] = Field(
        "weighted",
        description="target images with pseudo masks as pairs that teach D: none, weight 1 - λ, or 1",
    )
    real_label: float = Field(
        0.9, gt=0.5, le=1, description="D wanted for real pairs: one-sided smoothing below 1"
    )
    mask_noise_sd: float = Field(0.0, ge=0, le=1, description="Gaussian noise on the drawn masks that D sees")
    separate_discriminator_updates: bool = Field(
        False, description="an update for real and one for fake pairs, as the code; or one for both"
    )

    warmup_steps: int = Field(
        3600, ge=1, description="updates without a discriminator; the paper's 30 of 50 epochs"
    )
    adversarial_steps: int = Field(
        2400, ge=1, description="updates of either network after that; the paper's 20 of 50 epochs"
    )
    steps_per_round: int = Field(200, ge=1, description="between two validations and checkpoints")
    warmup_learning_rate: float = Field(
        1e-3, gt=0, description="Adam; the highest of one_cycle; text and code 2e-4"
    )
    warmup_schedule: Literal["constant", "one_cycle"] = Field(
        "one_cycle", description="of the learning rate in the warm-up; the paper's is constant"
    )
    learning_rate: float = Field(2e-4, gt=0, description="of the segmenter beside D; text and code alike")
    discriminator_learning_rate: float = Field(2e-4, gt=0, description="of Adam; text and code alike")
    adversarial_optimizer: Literal["adam", "rmsprop"] = Field(
        "adam", description="of the segmenter beside D; text adam, code rmsprop"
    )
    beta1: float = Field(
        0.5, ge=0, lt=1, description="of Adam beside D, for both networks; ours, text and code 0.9"
    )
    clip_norm: float = Field(1.0, ge=0, description="largest norm of the segmenter's gradient; 0: any")
    clip_value: float = Field(
        0.0, ge=0, description="largest entry of the segmenter's gradient beside D; code 1; 0: any"
    )
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the averaged weights, a step; 0 switches them off, as in the paper"
    )
    collapse_rounds: int = Field(2, ge=1, description="rounds in a row after which a collapse is said; ours")

    @property
    def segmenter_updates(self) -> int:
        return self.warmup_steps + self.adversarial_steps

    @property
    def preparation(self) -> Preparation:
        return Preparation(
            size=self.image_size,
            spacing_mm=self.spacing_mm,
            centre=self.centre,
            per=self.normalise_per,
            low_percentile=self.low_percentile,
            high_percentile=self.high_percentile,
        )

    @property
    def crop_shift_px(self) -> int:
        """How far the four outer crops lie from the middle one."""
        return round(self.crop_shift_mm / self.spacing_mm) if self.shifted_crops else 0

    def build_discriminator(self) -> Discriminator:
        """A discriminator with fresh weights."""
        return Discriminator(
            self.spec.in_channels + len(TRAINED) + 1,
            body=self.discriminator,
            head=self.discriminator_head,
            norm=self.discriminator_norm,
            spectral=self.spectral_norm,
            side=self.image_size,
        )

    @property
    def warmup_rounds(self) -> tuple[int, int]:
        """Number of rounds, and updates in each; one where there are fewer than `steps_per_round`."""
        return whole_rounds("warmup_steps", self.warmup_steps, self.steps_per_round)

    @property
    def adversarial_rounds(self) -> tuple[int, int]:
        """As `warmup_rounds`, of the second stage."""
        return whole_rounds("adversarial_steps", self.adversarial_steps, self.steps_per_round)

    @model_validator(mode="after")
    def _refuse_what_cannot_be_made(self) -> Settings:
        assert self.warmup_rounds
        assert self.adversarial_rounds
        if self.transfer and self.mixing == "half" and self.batch_size % 2:
            raise SettingsError(
                f"batch_size {self.batch_size} has no half for pseudo masks; take {self.batch_size + 1}, "
                "or mixing: pooled"
            )
        assert self.changes
        with torch.device("meta"):  # no memory, no random numbers
            self.spec.build()
            if self.adversarial:
                self.build_discriminator()
        return self
