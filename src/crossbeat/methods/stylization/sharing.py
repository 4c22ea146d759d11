"""What decides the encoder and the stylizer, so that arms of a study that agree on it learn them once.

An encoder is the same for all arms that differ in stylizer or segmentation, a stylizer for all that differ in the
segmentation or in codes that AdaConv may be given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from crossbeat.methods.sharing import fingerprint

SEGMENTING: Final = frozenset(
    ("profile", "size", "select", "style", "encoder_gate", "encoder_psnr_db", "epsilon_rounds", "match_updates",
     "shared_epsilon", "ascent", "ascent_step", "ascent_rate", "ascent_pass", "trust_region", "network",
     "network_arguments", "augmentation", "augmentation_changes", "cross_entropy_weight", "overlap_weight", "overlap",
     "smooth", "consistency_weight", "batch_size", "steps", "steps_per_round", "optimizer", "learning_rate",
     "weight_decay", "schedule", "clip_norm", "ema_decay")
)  # fmt: skip
"""Settings that neither encoder nor stylizer knows of. One that is not named here is taken to matter."""
STYLIZING: Final = frozenset(
    ("stylizer", "stylizer_steps", "stylizer_batch", "stylizer_learning_rate", "stylizer_decay", "stylizer_warm_up",
     "stylizer_clip_norm", "content_weight", "style_weight", "kl_weight", "reconstruction_weight",
     "structure_weight", "joint", "decoder_start", "pretrain_style", "spread", "deviation", "style_channels",
     "kernel_size", "layout")
)  # fmt: skip
"""Further ones that the encoder does not know of."""
CODING: Final = frozenset(("style_vae", "style_vae_steps"))
"""Further ones that a stylizer does not know of until it has codes."""


def decided_by(part: str, settings: Mapping[str, Any]) -> str:
    """Fingerprint of the settings, as plain JSON, that decide a part: `encoder`, `stylizer`, or `style_vae`, its codes.

    An encoder that is a file or a folder counts by its bytes: one that was replaced is another one.
    """
    apart = {
        "encoder": SEGMENTING | CODING | STYLIZING,
        "stylizer": SEGMENTING | CODING,
        "style_vae": SEGMENTING,
    }[part]
    known = {name: value for name, value in settings.items() if name not in apart}
    return fingerprint([known, _bytes_of(settings["encoder"])])


def _bytes_of(encoder: str) -> str:
    path = Path(encoder)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""
