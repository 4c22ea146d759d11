"""The settings of stylization: what Rahman, Gu 2023 say, what the code it rests on does, what we hold to be sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field, model_validator

from crossbeat.errors import SettingsError
from crossbeat.methods.recipe import DEMO, Filter, Recipe, whole_rounds
from crossbeat.methods.stylization.sharing import decided_by
from crossbeat.networks.adaconv import AdaConv, DescriptorAutoencoder, Layout
from crossbeat.networks.rain import Deviation, Rain, Spread
from crossbeat.prepare.augment import Augmentation, preset_with
from crossbeat.prepare.volumes import Preparation

AFFINE: Final[Mapping[str, Any]] = {
    "rotation_deg": [-10, 10],
    "rotation_probability": 0.5,
    "shear_deg": [-12, 12],
    "shear_probability": 0.5,
    "anisotropic_zoom": [0.8, 1.2],
    "anisotropic_zoom_probability": 0.5,
    "shift_px": [-22, 22],
    "shift_probability": 0.5,
    "flip_x_probability": 0.5,
    "flip_y_probability": 0.5,
}
"""Random changes of Few-shot-UDA (methods.md 3.4), each drawn by itself; beyond the image lies its minimum."""

PAPER: Final[Mapping[str, Any]] = {
    "image_size": 224,
    "spacing_mm": 1.0,
    "centre": "image",
    "normalise_per": "volume",
    "low_percentile": 0.0,
    "high_percentile": 100.0,
    "spread": "direct",
    "deviation": "free",
    "style_channels": 512,
    "stylizer_batch": None,
    "turn_styles": False,
    "stylizer_decay": None,
    "stylizer_warm_up": 0,
    "decoder_start": "random",
    "stylizer_clip_norm": 0.0,
    "match_updates": False,
    "shared_epsilon": True,
    "ascent": "asm",
    "ascent_pass": "shared",
    "trust_region": 0.0,
    "smooth": 0.0,
    "batch_size": 4,
    "augmentation": "none",
    "augmentation_changes": dict(AFFINE),
    "optimizer": "sgd",
    "learning_rate": 3.5e-4,  # of the run with N = 3 and the falling rate; 2.5e-4 was the warm-up's
    "weight_decay": 5e-4,
    "schedule": "polynomial",
    "clip_norm": 0.0,
    "ema_decay": 0.0,
}
"""What the text and the code share; where the text says nothing, it is read as the code (methods.md 3.2 to 3.4)."""

CONTENT_WEIGHT: Final = {"rain": 5.0, "adaconv": 1.0}
STYLE_WEIGHT: Final = {"rain": 5.0, "adaconv": 10.0}
"""Few-shot-UDA; RElbers/ada-conv-pytorch (methods.md 3.2, 3.6)."""
WARM_UP: Final = {"adaconv": 100}
"""Of two fifths of its updates at most. Its layers are so wide that full first steps undo where it begins; the rate of
BUVANEASH/AdaConv rises, too (methods.md 3.6)."""
PUBLISHED_DECAY: Final = {"rain": 0.0, "adaconv": 2e-4}
"""Few-shot-UDA's falls by the epoch, next to nothing; RElbers/ada-conv-pytorch (methods.md 3.2, 3.6)."""
PUBLISHED_BATCH: Final = {"rain": 16, "adaconv": 8}
"""Of the stylizer: Few-shot-UDA; RElbers/ada-conv-pytorch (methods.md 3.2, 3.6)."""
USES: Final = {"ours": 3, "text": 5, "code": 3}
"""N by profile, of styles that have codes: Table 2 of the paper has 5 (methods.md 3.5), the code's example 3."""


class Settings(Recipe):
    """Settings of stylization."""

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ours": {},
        "text": {**PAPER, "network": "dru_net", "joint": True},
        "code": {**PAPER, "select": "target"},
    }
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {},
        "bench": {
            "image_size": 128,
            "spacing_mm": 1.5,
            "encoder_gate": False,  # 3000 steps on two cores do not pass it; every result says the PSNR
            "encoder_image_size": 64,
            "encoder_batch": 4,
            "encoder_steps": 3000,
            "stylizer_batch": 4,
            "stylizer_steps": 250,
            "style_vae_steps": 250,
            "batch_size": 4,
            "steps": 1000,
        },
        "demo": {
            **DEMO,
            "encoder": "random",
            "stylizer_batch": 2,
            "stylizer_steps": 60,
            "style_vae_steps": 60,
            "consistency_weight": 0.0,
            "batch_size": 2,
            "steps": 600,
            "steps_per_round": 200,
            "learning_rate": 4e-3,
        },
    }

    stylizer: Literal["rain", "adaconv", "none"] = Field(
        "rain", description="how content takes on a style; none: setting 0 of Table 1, originals alone"
    )
    style: Literal["random", "same_patient"] = Field(
        "random",
        description="style images drawn at random, or the same patient's nearest slice (setting 3 of Table 1)",
    )
    style_scans: Literal["all", "patient", "slice"] = Field(
        "all",
        description="of the target: all that train, one patient (few-shot), its middle slice (one-shot)",
    )
    pretrain_style: Filter = Field(
        default_factory=dict,
        description="cohort columns of the images whose styles the stylizer learns, as {sequence: t2} in setting "
        "1; empty: the target's",
    )

    encoder: str = Field(
        "cmr",
        description="VGG-19 to relu4_1: cmr (learnt here without labels), random, a user's weight file, or the "
        "models/encoder of another run",
    )
    encoder_channels: Literal[1, 3] = Field(
        1, description="colours of a user's weight file: summed, or grey given three times"
    )
    encoder_gate: bool = Field(
        True, description="stop where a cmr encoder loses too much of held-out images; off: only say so"
    )
    encoder_psnr_db: float = Field(28.0, gt=0, description="that it must reach there, peak 1; ours")
    encoder_held_out: float = Field(
        0.1, gt=0, lt=1, description="share of the subjects, by seed; at least one; ours"
    )
    encoder_steps: int = Field(4000, ge=1, description="updates of a cmr encoder; ours")
    encoder_image_size: int | None = Field(
        None,
        ge=32,
        description="side in pixels of the crops that a cmr encoder learns from, at most image_size; null: that; ours",
    )
    encoder_batch: int = Field(16, ge=1, description="slices a step, over all devices; ours")
    encoder_learning_rate: float = Field(
        2e-4,
        gt=0,
        description="Adam, the highest of one_cycle; at 5e-4 layers of 512 stay flat for longer; ours",
    )
    encoder_noise_sd: float = Field(
        0.05, ge=0, le=1, description="of the noise to be taken away, peak 1; ours"
    )
    encoder_mask_share: float = Field(
        0.1, ge=0, lt=1, description="of squares of 8 pixels to be filled in; ours"
    )
    encoder_gradient_weight: float = Field(
        1.0, ge=0, description="of the gradients at three scales beside L1; ours"
    )
    encoder_head_weight: float = Field(
        0.05, ge=0, description="of telling sequences and vendors apart, where there are several; ours"
    )

    stylizer_steps: int = Field(
        8000,
        ge=1,
        description="updates of the stylizer; Few-shot-UDA 200 epochs of 700 pairs, AdaConv 160,000",
    )
    stylizer_batch: int | None = Field(
        16, ge=1, description="contents and styles a step; null: as published, RAIN 16, AdaConv 8"
    )
    stylizer_learning_rate: float = Field(1e-4, gt=0, description="of Adam, as published for both")
    stylizer_decay: float | None = Field(
        5e-5,
        ge=0,
        description="d in rate / (1 + d · step); null: as published, RAIN 0, AdaConv 2e-4",
    )
    stylizer_warm_up: int | None = Field(
        None,
        ge=0,
        description="updates in which the rate rises; null: 100 for AdaConv (ours), none for RAIN; published none",
    )
    decoder_start: Literal["encoder", "random"] = Field(
        "encoder",
        description="where the stylizer's decoder begins: as the one that gave images back from a cmr encoder, or with "
        "random weights (the paper); ours",
    )
    stylizer_clip_norm: float = Field(
        10.0, ge=0, description="largest norm of its gradient, as BUVANEASH/AdaConv; 0: any"
    )
    turn_styles: bool = Field(
        True,
        description="encoder and stylizer learn from slices turned, zoomed and shifted by a little; ours",
    )
    content_weight: float | None = Field(
        None, ge=0, description="λ of Eq. 3; null: 5 for RAIN, 1 for AdaConv"
    )
    style_weight: float | None = Field(None, ge=0, description="λ of Eq. 4; null: 5 for RAIN, 10 for AdaConv")
    kl_weight: float = Field(1.0, ge=0, description="λ of Eq. 5, a mean over the code's axes")
    reconstruction_weight: float = Field(5.0, ge=0, description="λ of Eq. 6")
    structure_weight: float = Field(
        0.0,
        ge=0,
        description="of edges that lie as the content's, which section 5.1 of the paper asks for",
    )
    joint: bool = Field(False, description="style and content losses reach RAIN's autoencoder, as Eq. 2 says")
    spread: Spread = Field("log_variance", description="what RAIN says of ξ; published direct")
    deviation: Deviation = Field("softplus", description="of RAIN's decoded styles; published free")
    style_channels: int = Field(128, ge=1, le=512, description="of AdaConv's descriptor; paper 512")
    kernel_size: int = Field(3, ge=3, le=9, description="side of AdaConv's predicted kernels, odd")
    layout: Layout = Field(
        "mirror", description="of AdaConv's decoder: 1, 4, 2, 2 convolutions, or 1, 2, 2, 4"
    )
    style_vae: bool = Field(
        False,
        description="AdaConv's styles get a code to search along, as RAIN's have; the paper's later work",
    )
    style_vae_steps: int = Field(2000, ge=1, description="updates of that autoencoder; ours")
    auxiliary_steps_per_round: int = Field(
        250, ge=1, description="between two checkpoints of encoder, stylizer and style autoencoder"
    )

    epsilon_rounds: int | None = Field(
        None,
        ge=1,
        le=100,
        description="N, uses of a source batch: N - 1 ascents; null: with a code 3, in text 5, else 1",
    )
    match_updates: bool = Field(
        True, description="`steps` updates for every N; false: N times `steps`, as the code"
    )
    shared_epsilon: bool = Field(False, description="one style and ε a batch, as the code, not a slice")
    ascent: Literal["normalised", "asm"] = Field(
        "normalised", description="steps along ε of one length, or η / L times the gradient"
    )
    ascent_step: float = Field(0.1, gt=0, description="r / √512, of a normalised step; ours")
    ascent_rate: float = Field(20.0, gt=0, description="η of asm; 20 by default, 120 in an example")
    ascent_pass: Literal["own", "shared"] = Field(
        "own",
        description="the gradient of ε from stylised images under BatchNorm's running means, or the update's",
    )
    trust_region: float = Field(
        3.0, ge=0, description="farthest that ε goes from ψ, in norms of ξ; ours; 0: anywhere, as the code"
    )

    network: str = Field("dr_unet", description="entry of networks.SEGMENTERS; text dru_net")
    image_size: int = Field(192, ge=32, le=1024, description="side of the crop in pixels; paper 224")
    spacing_mm: float = Field(1.25, gt=0.2, le=5, description="of those pixels, in-plane; paper 1")
    centre: Literal["heart", "image"] = Field("heart", description="what the crop is centred on; paper image")
    normalise_per: Literal["slice", "volume"] = Field("slice", description="to [0, 1]; paper volume")
    low_percentile: float = Field(0.5, ge=0, lt=50, description="clipped below; the paper does not")
    high_percentile: float = Field(99.5, gt=50, le=100, description="clipped above; the paper does not")
    augmentation: Literal["none", "light", "standard", "random_contrast", "chen2020"] = Field(
        "standard", description="preset of prepare.augment for the contents, before they are stylised"
    )
    cross_entropy_weight: float = Field(1.0, ge=0, description="in the segmentation loss; Few-shot-UDA 1")
    overlap_weight: float = Field(1.0, ge=0, description="of the overlap in that loss; Few-shot-UDA 1")
    overlap: Literal["jaccard", "dice"] = Field("jaccard", description="soft, of the batch, or of each slice")
    smooth: float = Field(1.0, ge=0, description="pixels added to both parts of the overlap; code 0")
    consistency_weight: float = Field(
        2e-3, ge=0, description="of bottleneck features alike for image and stylised image; ASM 2e-4"
    )
    batch_size: int = Field(8, ge=1, description="contents a step, seen plain and stylised; paper 4")
    steps: int = Field(6000, ge=1, description="updates of the segmenter, or a part of them: match_updates")
    steps_per_round: int = Field(
        250, ge=1, description="between two validations and checkpoints of the segmenter"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd with momentum 0.9 in the paper")
    learning_rate: float = Field(1e-3, gt=0, description="the highest of the schedule; Few-shot-UDA 3.5e-4")
    weight_decay: float = Field(1e-2, ge=0, description="of the optimizer; paper 5e-4")
    schedule: Literal["one_cycle", "polynomial", "constant"] = Field(
        "one_cycle", description="of the learning rate; polynomial: to the power 0.5"
    )
    clip_norm: float = Field(1.0, ge=0, description="largest norm of the segmenter's gradient; 0: any")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the averaged weights, a step; 0 switches them off, as in the paper"
    )

    @property
    def has_code(self) -> bool:
        """Whether styles have a code ε that can be searched along."""
        return self.stylizer == "rain" or (self.stylizer == "adaconv" and self.style_vae)

    @property
    def uses(self) -> int:
        """N: how often a source batch is used, each time for one update."""
        if self.epsilon_rounds is not None:
            return self.epsilon_rounds
        return USES[self.profile] if self.has_code else 1

    @property
    def segmenter_updates(self) -> int:
        return self.steps if self.match_updates else self.steps * self.uses

    @property
    def rounds(self) -> tuple[int, int]:
        """Number of rounds of the segmentation, and updates in each: as many for every N under `match_updates`."""
        rounds, length = whole_rounds("steps", self.steps, self.steps_per_round)
        return rounds, length if self.match_updates else length * self.uses

    @property
    def shared_stages(self) -> Mapping[str, str]:
        if self.stylizer == "none":
            return {}
        given = self.model_dump(mode="json")
        stages = ("encoder", "stylizer", "style_vae") if self.style_vae else ("encoder", "stylizer")
        return {stage: decided_by(stage, given) for stage in stages}

    @property
    def contents(self) -> int:
        """How many contents, and as many styles, a step of the stylizer sees over all devices."""
        return self.stylizer_batch or PUBLISHED_BATCH[self.stylizer]

    @property
    def decay(self) -> float:
        """d in rate / (1 + d · step) of the stylizer, 0 where there is none."""
        return PUBLISHED_DECAY.get(self.stylizer, 0.0) if self.stylizer_decay is None else self.stylizer_decay

    def stylizer_rate(self, step: int) -> float:
        """The share of `stylizer_learning_rate` that a step has: a rise, and a slow fall beside it."""
        rise = self.stylizer_warm_up
        if rise is None:
            rise = min(WARM_UP.get(self.stylizer, 0), 2 * self.stylizer_steps // 5)
        return min(1.0, (step + 1) / rise if rise else 1.0) / (1 + self.decay * step)

    def auxiliary_rounds(self, name: Literal["encoder", "stylizer", "style_vae"]) -> tuple[int, int]:
        """As `rounds`, of another stage, whose updates are the setting `<name>_steps`."""
        steps, longest = getattr(self, f"{name}_steps"), self.auxiliary_steps_per_round
        return whole_rounds(f"{name}_steps", steps, longest, "auxiliary_steps_per_round")

    @property
    def preparation(self) -> Preparation:
        """One intensity scale, [0, 1], for encoder, stylizer and segmenter (methods.md 3.8)."""
        return Preparation(
            size=self.image_size,
            spacing_mm=self.spacing_mm,
            centre=self.centre,
            scale="unit",
            per=self.normalise_per,
            low_percentile=self.low_percentile,
            high_percentile=self.high_percentile,
        )

    @property
    def turns(self) -> Augmentation:
        """The random changes under which encoder and stylizer learn: of geometry alone, for contrast is the style."""
        if not self.turn_styles:
            return preset_with("none", {})
        return preset_with("light", {"gamma_probability": 0.0, "noise_probability": 0.0})

    @property
    def encoder_crop(self) -> tuple[int, int]:
        """Rows and columns of the crops that an encoder learns from."""
        side = min(self.encoder_image_size or self.image_size, self.image_size)
        return side, side

    @property
    def weights(self) -> tuple[float, float]:
        """Of content and style in the stylizer's loss."""
        content, style = self.content_weight, self.style_weight
        return (
            CONTENT_WEIGHT.get(self.stylizer, 0.0) if content is None else content,
            STYLE_WEIGHT.get(self.stylizer, 0.0) if style is None else style,
        )

    def build_stylizer(self) -> Rain | AdaConv:
        """RAIN or AdaConv with fresh weights, for images of the encoder's channels."""
        if self.stylizer == "adaconv":
            return AdaConv(
                self.encoder_channels,
                style_channels=self.style_channels,
                kernel_size=self.kernel_size,
                layout=self.layout,
            )
        return Rain(self.encoder_channels, spread=self.spread, deviation=self.deviation)

    def build_style_vae(self) -> DescriptorAutoencoder:
        """The autoencoder of AdaConv's descriptors, with fresh weights."""
        return DescriptorAutoencoder(self.style_channels, self.kernel_size)

    @model_validator(mode="after")
    def _refuse_what_cannot_be_made(self) -> Settings:
        _ = self.rounds, self.changes  # refuse steps that do not divide, and what augmentation does not know
        if self.stylizer != "none":
            for name in ("encoder", "stylizer", "style_vae"):
                self.auxiliary_rounds(name)
        self._refuse_contradictions()
        with torch.device("meta"):  # no memory, no random numbers
            network = self.spec.build()
            if self.stylizer != "none":
                self.build_stylizer()
            if self.style_vae:
                self.build_style_vae()
        if (
            self.consistency_weight
            and self.stylizer != "none"
            and not hasattr(network, "forward_with_bottleneck")
        ):
            raise SettingsError(
                f"consistency_weight {self.consistency_weight:g}: network {self.network!r} does not show the features "
                "of its bottleneck; say consistency_weight: 0, or take network: dr_unet or dru_net"
            )
        return self

    def _refuse_contradictions(self) -> None:
        if self.stylizer == "adaconv" and not self.style_vae and self.uses > 1:
            raise SettingsError(
                f"epsilon_rounds {self.uses}: AdaConv's styles have no code to search along; say style_vae: true, "
                "or epsilon_rounds: 1"
            )
        if self.style == "same_patient" and self.shared_epsilon and self.stylizer != "none":
            raise SettingsError(
                "style same_patient gives each slice its own style, and shared_epsilon one to the whole batch; "
                "say shared_epsilon: false"
            )
        if self.style == "same_patient" and self.style_scans != "all":
            raise SettingsError(
                f"style same_patient needs the target scans of all patients, and style_scans is {self.style_scans}; "
                "say style_scans: all, or style: random"
            )
        if self.style_vae and self.stylizer != "adaconv":
            raise SettingsError(
                f"style_vae gives AdaConv's styles a code, and the stylizer is {self.stylizer}; say style_vae: false, "
                "or stylizer: adaconv"
            )
        if self.style_vae and self.style_scans == "slice" and not self.turn_styles:
            raise SettingsError(
                "style_vae learns what styles there are, and style_scans: slice shows one; say turn_styles: true, "
                "or style_scans: patient"
            )
        if self.encoder_channels == 3 and self.encoder in ("cmr", "random"):
            raise SettingsError(
                f"encoder_channels 3 is for the weights of a file; encoder {self.encoder} is grey: say 1"
            )
        if not self.cross_entropy_weight and not self.overlap_weight:
            raise SettingsError(
                "cross_entropy_weight and overlap_weight are both 0, so the segmenter learns nothing; raise one"
            )
