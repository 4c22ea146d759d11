"""Parts that several arms of a study learn alike: learnt by the first that comes, found again by the others.

An encoder is the same for all arms that differ in stylizer or segmentation, a stylizer for all that differ in the
segmentation: both are functions of settings, seed and cohort. So what is found is, to the bit, what would be learnt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from crossbeat.cohort import Cohort
from crossbeat.training import Run

SEGMENTING: Final = frozenset(
    ("profile", "size", "select", "style", "encoder_gate", "encoder_psnr_db", "epsilon_rounds", "match_updates",
     "shared_epsilon", "ascent", "ascent_step", "ascent_rate", "ascent_pass", "trust_region", "network",
     "network_arguments", "augmentation", "augmentation_changes", "cross_entropy_weight", "overlap_weight", "overlap",
     "smooth", "consistency_weight", "batch_size", "steps", "steps_per_round", "optimizer", "learning_rate",
     "weight_decay", "schedule", "clip_norm", "ema_decay")
)  # fmt: skip
"""Settings that neither encoder nor stylizer knows of. One that is not named here is taken to matter."""
STYLIZING: Final = frozenset(
    ("stylizer", "stylizer_steps", "stylizer_batch", "stylizer_learning_rate", "stylizer_decay",
     "stylizer_clip_norm", "content_weight", "style_weight", "kl_weight", "reconstruction_weight",
     "structure_weight", "joint", "decoder_start", "pretrain_style", "spread", "deviation", "style_channels",
     "kernel_size", "layout", "style_vae", "style_vae_steps")
)  # fmt: skip
"""Further ones that the encoder does not know of."""


Part = TypeVar("Part")


def decided_by(part: str, settings: Mapping[str, Any]) -> str:
    """Fingerprint of the settings, as plain JSON, that decide a part: `encoder`, or `stylizer` with its codes."""
    apart = SEGMENTING | STYLIZING if part == "encoder" else SEGMENTING
    return _digest({name: value for name, value in settings.items() if name not in apart})


def learn_once(
    part: str,
    cohort: Cohort,
    settings: Mapping[str, Any],
    run: Run,
    learn: Callable[[], Part],
    load: Callable[[Path], Part],
    save: Callable[[Part, Path], None],
) -> Part:
    """A part that another run of the study has learnt from the same, or else learnt here and left for the others.

    Two that begin at the same moment both learn it. A run by itself, on several devices, or that is only
    estimated, learns its own.
    """
    if run.shared is None or run.world_size > 1 or run.estimates is not None:
        return learn()
    numerics = [run.accelerator, run.lightning_precision, run.deterministic, torch.get_num_threads()]
    key = _digest(
        [decided_by(part, settings), run.seed, cohort.hash(), numerics, _bytes_of(settings["encoder"])]
    )
    folder = run.shared / f"{part}-{key}"
    if folder.exists():
        run.note(f"{part}: learnt by another run of this study, and found in {folder}")
        return load(folder)
    found = learn()
    if not folder.exists():
        save(found, folder)
    return found


def _bytes_of(encoder: str) -> str:
    """Digest of a user's weights, or of another run's encoder: a file that was replaced is another one."""
    path = Path(encoder)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""


def _digest(of: object) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
