"""The settings of tag pretraining: what Dhaene 2023 says, what its code does, and what we hold to be sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field, model_validator

from crossbeat.errors import SettingsError
from crossbeat.labels import TRAINED, Structure
from crossbeat.methods.recipe import DEMO, Filter, Recipe, whole_rounds
from crossbeat.methods.sharing import fingerprint
from crossbeat.methods.tag_pretraining.cyclegan import CycleGan, refuse_side
from crossbeat.networks.cyclegan import DIVISOR
from crossbeat.prepare.volumes import Preparation
from crossbeat.synthetic.tagging import Simulation, fading_of, least_spacing

Part = Literal["cine", "tags", "target"]
"""What a stage of the segmenter learns from: plain source, source made to look like the target, labelled target."""
REPAINTED: Final = ("the source", "validation")
"""What a CycleGAN makes look like the target."""

SEGMENTING: Final = frozenset(
    ("target_labels", "target_labelled", "profile", "size", "select", "network", "network_arguments", "augmentation",
     "augmentation_changes", "strategy", "cine_first", "match_updates", "tag_spacing_mm", "tag_spacing_px",
     "tag_spacing_range", "tag_angle_range_deg", "tag_phase", "tag_flip_deg", "tag_contrast", "tag_fading",
     "tag_inflow", "tag_standardised", "tag_low_pass", "tag_noise_sd", "structures", "vae_weight", "shape_weight",
     "shape_denominator", "smooth", "include_background", "initialisation", "batch_size", "pretraining_steps", "steps",
     "steps_per_round", "optimizer", "learning_rate", "weight_decay", "schedule", "plateau_watches", "clip_norm",
     "ema_decay")
)  # fmt: skip
"""Settings that a CycleGAN knows nothing of. One that is not named here is taken to matter to it."""

PAPER: Final[Mapping[str, Any]] = {
    "structures": ("MYO",),
    "image_size": 256,
    "spacing_mm": 1.42857,
    "centre": "image",
    "low_percentile": 0.0,
    "high_percentile": 100.0,
    "match_updates": False,
    "smooth": 0.0,
    "include_background": True,
    "optimizer": "adam",
    "schedule": "plateau",
    "batch_size": 100,
    "clip_norm": 0.0,
    "ema_decay": 0.0,
    "tag_spacing_mm": None,
    "tag_spacing_range": 0.0,
    "tag_angle_range_deg": 0.0,
    "tag_phase": "fixed",
    "tag_fading": False,
    "tag_noise_sd": 0.0,
}
"""What the text and the code share (methods.md 4.2 and 4.4)."""


class Settings(Recipe):
    """Settings of tag pretraining."""

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ours": {},
        "text": {
            **PAPER,
            "cine_first": False,
            "initialisation": "xavier",
            "learning_rate": 0.01,
            "plateau_watches": "loss",
            "shape_denominator": "reference",
        },
        "code": {
            **PAPER,
            "cine_first": True,
            "learning_rate": 0.005,
            "plateau_watches": "dice",
            "shape_denominator": "predicted",
            "tag_contrast": "power0.4_myo",
            "tag_standardised": True,
            "cyclegan_pooled": True,
        },
    }
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {},
        "bench": {
            "image_size": 128,
            "spacing_mm": 1.5,
            "cyclegan_steps": 400,
            "cyclegan_steps_per_round": 100,
            "cyclegan_image_size": 96,
            "pretraining_steps": 500,
            "steps": 500,
            "steps_per_round": 50,
        },
        "demo": {
            **DEMO,
            "cyclegan_width": 16,
            "cyclegan_image_size": 48,
            "cyclegan_steps": 60,
            "cyclegan_steps_per_round": 60,
            "pretraining_steps": 400,
            "steps": 200,
            "steps_per_round": 100,
            "learning_rate": 4e-3,
        },
    }

    strategy: Literal["scratch", "cine", "physics", "cyclegan"] | None = Field(
        None,
        description="what the segmenter learns before the target's labels: nothing, the source as it is, with "
        "tags by formula, or as a CycleGAN repaints it; null: physics for a tagged target, else cyclegan",
    )
    cine_first: bool = Field(
        True,
        description="the plain source comes before its tagged likeness, as in the code; in the text beside it",
    )
    match_updates: bool = Field(
        True,
        description="every strategy makes pretraining_steps + steps updates; false: as published, an extra stage "
        "for tags after cine, and none before scratch",
    )
    translate_from: Filter = Field(
        default_factory=dict,
        description="cohort columns of the unlabelled cine that the CycleGAN learns from, as {centre: tagged}; "
        "empty: every scan of the source's kind that trains without labels, or the labelled ones "
        "where there is none",
    )
    simulated: Filter = Field(
        default_factory=dict,
        description="cohort columns of scans that `crossbeat tag` made, in place of tags drawn here",
    )

    tag_spacing_mm: float | None = Field(
        7.0, gt=0, le=30, description="between two lines, across them; null: tag_spacing_px counts"
    )
    tag_spacing_px: float = Field(
        5.0, gt=0, le=40, description="the same in pixels, the paper's; said alone it counts"
    )
    tag_spacing_range: float = Field(
        0.25, ge=0, lt=1, description="drawn at random up to this share below and above; paper 0"
    )
    tag_angle_range_deg: float = Field(
        10.0, ge=0, le=45, description="lines turned at random by up to it; paper 0"
    )
    tag_phase: Literal["random", "fixed"] = Field(
        "random", description="where the first line lies; paper fixed"
    )
    tag_flip_deg: float = Field(70.0, gt=0, le=180, description="of the 1-3-3-1 train together")
    tag_contrast: Literal["sqrt", "power0.4_myo", "none"] = Field(
        "sqrt", description="of the cine before it is tagged: square root (text), or the code's"
    )
    tag_fading: bool = Field(
        True, description="lines fade by T1 and imaging flip, each scan at a random time after them"
    )
    tag_inflow: bool = Field(
        True, description="labelled blood loses fading lines within a frame or two, as fresh blood flows in"
    )
    tag_standardised: bool = Field(
        False, description="each image gets the mean and SD of the authors' CycleGAN, as in the code"
    )
    tag_low_pass: float = Field(
        1.0,
        ge=0.05,
        le=1,
        description="share of k-space that is kept, under a Kaiser window, which takes lines away too; 1 all",
    )
    tag_noise_sd: float = Field(0.02, ge=0, le=0.5, description="Rician, peak 1, at random up to it; paper 0")

    translator: str = Field(
        "", description="models/translator of another run, in place of a CycleGAN that learns here"
    )
    cyclegan_steps: int = Field(40_000, ge=1, description="updates of both generators, one image each a step")
    cyclegan_width: int = Field(64, ge=4, le=256, description="channels of its first layer, ngf and ndf")
    cyclegan_image_size: int | None = Field(
        None,
        ge=32,
        le=1536,
        description="side in pixels of the crops that it learns from, a multiple of 4; null: the paper's 256 of "
        "286 of the field, half as much again as image_size, which it will repaint",
    )
    cyclegan_pooled: bool = Field(
        False, description="one score an image, as in the authors' fork, not a map of patches"
    )
    cyclegan_steps_per_round: int = Field(250, ge=1, description="between two of its checkpoints")

    network: str = Field("dynunet", description="entry of networks.SEGMENTERS: dynunet, segresnet_vae")
    structures: tuple[Literal["LV", "MYO", "RV"], ...] = Field(
        ("LV", "MYO", "RV"), min_length=1, description="to be learnt; the paper MYO alone"
    )
    vae_weight: float = Field(
        0.0, ge=0, description="η of segresnet_vae's VAE loss: 0.1 as described, 0 as it was run"
    )
    shape_weight: float = Field(
        0.05, ge=0, description="γ of the shape-aware loss; 0: Dice and cross-entropy alone"
    )
    shape_denominator: Literal["reference", "predicted"] = Field(
        "reference", description="what that loss is divided by: Σ g (paper), or Σ p (code)"
    )
    smooth: float = Field(1.0, ge=0, description="pixels added to both parts of Dice; ours")
    include_background: bool = Field(False, description="Dice counts the background as a structure")
    initialisation: Literal["default", "xavier"] = Field(
        "default", description="of the network's weights: MONAI's own, or Xavier normal"
    )

    image_size: int = Field(192, ge=32, le=1024, description="side of the crop in pixels; paper 256")
    spacing_mm: float = Field(1.25, gt=0.2, le=5, description="of those pixels, in-plane")
    centre: Literal["heart", "image"] = Field("heart", description="what the crop is centred on; paper image")
    low_percentile: float = Field(0.5, ge=0, lt=50, description="clipped below; the paper does not")
    high_percentile: float = Field(99.5, gt=50, le=100, description="clipped above; the paper does not")
    augmentation: Literal["none", "light", "standard", "random_contrast", "chen2020"] = Field(
        "standard", description="preset of prepare.augment, after the tags"
    )
    batch_size: int = Field(16, ge=1, description="slices a step, over all devices; paper 80 to 128")
    pretraining_steps: int = Field(
        6000, ge=1, description="updates before the target's labels; a stage's where stages are not matched"
    )
    steps: int = Field(2000, ge=1, description="updates on the target's labels")
    steps_per_round: int = Field(100, ge=1, description="between two validations and checkpoints")
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="the paper adam")
    learning_rate: float = Field(1e-3, gt=0, description="highest of the schedule; text 0.01, code 0.005")
    weight_decay: float = Field(1e-4, ge=0, description="of the optimizer, as the code")
    schedule: Literal["one_cycle", "plateau", "constant"] = Field(
        "one_cycle", description="of each stage's learning rate; plateau: a tenth after 10 rounds"
    )
    plateau_watches: Literal["loss", "dice"] = Field(
        "loss", description="what rests there, on validation scans: text loss, code Dice"
    )
    clip_norm: float = Field(1.0, ge=0, description="largest norm of the segmenter's gradient; 0: any")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the averaged weights, a step; 0 switches them off, as in the paper"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_pixels_where_they_are_said(cls, given: Any) -> Any:
        if isinstance(given, dict) and "tag_spacing_px" in given and "tag_spacing_mm" not in given:
            return {**given, "tag_spacing_mm": None}
        return given

    @property
    def parts(self) -> dict[Part, int]:
        """Updates of the segmenter on each part, in order; parts without any are left out (methods.md 4.2)."""
        first, last = self.pretraining_steps, self.steps
        before: list[Part] = ["cine", "tags"] if self.cine_first else ["tags"]
        if self.strategy in ("scratch", "cine"):
            before = ["cine"] if self.strategy == "cine" else []
        tuned = self.target_labels == "train"
        if not self.match_updates:
            return dict.fromkeys(before, first) | ({"target": last} if tuned else {})
        if not before:
            return {"target": first + last}
        total, count = first if tuned else first + last, len(before)
        shared = {part: total // count + (i < total % count) for i, part in enumerate(before)}
        return shared | ({"target": last} if tuned else {})

    @property
    def segmenter_updates(self) -> int:
        return sum(self.parts.values())

    @property
    def cyclegan_decided_by(self) -> str:
        """Fingerprint of the settings that decide the CycleGAN and what it makes of the source."""
        given = self.model_dump(mode="json")
        return fingerprint({name: value for name, value in given.items() if name not in SEGMENTING})

    @property
    def shared_stages(self) -> Mapping[str, str]:
        if "tags" not in self.parts or self.strategy == "physics":
            return {}
        stages = ("cyclegan", *(f"repainting {what}" for what in REPAINTED))
        return dict.fromkeys(stages, self.cyclegan_decided_by)

    def rounds(self, part: Part) -> tuple[int, int]:
        """Number of rounds of the stage that learns from a part, and updates in each."""
        if not self.parts[part]:
            raise SettingsError(
                f"pretraining_steps {self.pretraining_steps} leaves {part} no update; take 2 or more"
            )
        name = f"updates on {part} (of pretraining_steps and steps):"
        return whole_rounds(name, self.parts[part], self.steps_per_round)

    @property
    def cyclegan(self) -> CycleGan:
        """The CycleGAN's own numbers, those that are not settings as in methods.md 4.5."""
        return CycleGan(
            steps=self.cyclegan_steps,
            steps_per_round=self.cyclegan_steps_per_round,
            width=self.cyclegan_width,
            pooled=self.cyclegan_pooled,
            side=self.cyclegan_image_size or self.preparation.field * 256 // 286 // DIVISOR * DIVISOR,
        )

    @property
    def simulation(self) -> Simulation:
        """How cine is tagged here, in mm (methods.md 4.4)."""
        wide, turn = self.tag_spacing_range, self.tag_angle_range_deg
        spacing = self.tag_spacing_mm or self.tag_spacing_px * self.spacing_mm
        # Chance stops at what the pixels can show; a spacing that they cannot is refused where lines are laid.
        least = min(spacing, least_spacing(self.spacing_mm, self.tag_low_pass))
        return Simulation(
            spacing=(max(spacing * (1 - wide), least), spacing * (1 + wide)),
            turn_deg=(-turn, turn),
            phase=self.tag_phase,
            flip_deg=(self.tag_flip_deg, self.tag_flip_deg),
            contrast=self.tag_contrast,
            fading=fading_of(self.tag_fading, self.tag_inflow),
            resolved=self.tag_low_pass,
            noise_sd=(0.0, self.tag_noise_sd),
            standardised=self.tag_standardised,
        )

    @property
    def preparation(self) -> Preparation:
        """One intensity scale, [0, 1], for the source, what is made of it, and the target (methods.md 4.5)."""
        return Preparation(
            size=self.image_size,
            spacing_mm=self.spacing_mm,
            centre=self.centre,
            scale="unit",
            low_percentile=self.low_percentile,
            high_percentile=self.high_percentile,
        )

    @property
    def learnt(self) -> tuple[Structure, ...]:
        """The structures to be learnt, in the house's order."""
        return tuple(s for s in TRAINED if s.name in self.structures)

    @model_validator(mode="after")
    def _refuse_what_cannot_be_made(self) -> Settings:
        self._refuse_contradictions()
        for part in self.parts:
            self.rounds(part)
        whole_rounds(
            "cyclegan_steps",
            self.cyclegan_steps,
            self.cyclegan_steps_per_round,
            "cyclegan_steps_per_round",
        )
        if self.strategy in ("cyclegan", None) and not self.translator:
            refuse_side(self.cyclegan.side, self.preparation)
        if self.strategy == "physics" and not self.simulated:
            self.simulation.check_spacing((self.spacing_mm, self.spacing_mm))
        _ = self.changes  # refuses what augmentation does not know
        with torch.device("meta"):  # no memory, no random numbers
            network = self.spec.build(self.learnt)
        if self.vae_weight and not hasattr(network, "forward_with_vae_loss"):
            raise SettingsError(
                f"vae_weight {self.vae_weight:g}: network {self.network!r} has no VAE; say vae_weight: 0, or take "
                "network: segresnet_vae"
            )
        return self

    def _refuse_contradictions(self) -> None:
        if self.strategy == "scratch" and self.target_labels == "none":
            raise SettingsError(
                "strategy scratch learns from the target's labels alone, and target_labels is none; say "
                "target_labels: train, or another strategy"
            )
        if self.simulated and self.strategy not in (None, "physics"):
            raise SettingsError(
                f"simulated scans are tagged by formula, and the strategy is {self.strategy}; say strategy: physics"
            )
        if self.strategy not in (None, "cyclegan") and (self.translator or self.translate_from):
            name = "translator" if self.translator else "translate_from"
            raise SettingsError(f"{name} is for strategy cyclegan, not {self.strategy}; leave it out")
        if len(set(self.structures)) < len(self.structures):
            raise SettingsError(f"structures {', '.join(self.structures)}: each once")
