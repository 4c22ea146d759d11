"""Parts that several arms of a study would make alike: made by the first that comes, found again by the others.

What decides a part (settings, seed, cohort, the numerics of the machine) is its name there. So what is found is, to
the bit, what would be made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from crossbeat.training import Run

Part = TypeVar("Part")


def find_or_make(
    part: str,
    decided_by: object,
    run: Run,
    make: Callable[[], Part],
    load: Callable[[Path], Part],
    save: Callable[[Part, Path], None],
) -> Part:
    """A part that another run of the study has made from the same, or else made here and left for the others.

    `decided_by` is plain JSON, all that decides the part but the run's seed and numerics. `save` leaves a folder that
    appears whole or not at all, which `load` reads. Two that begin at the same moment both make it. A run by itself, on
    several devices, or that is only estimated, makes its own.
    """
    if run.shared is None or run.world_size > 1 or run.estimates is not None:
        return make()
    numerics = [run.accelerator, run.lightning_precision, run.deterministic, torch.get_num_threads()]
    folder = run.shared / f"{part}-{fingerprint([decided_by, run.seed, numerics])}"
    if folder.exists():
        run.note(f"{part}: made by another run of this study, and found in {folder}")
        return load(folder)
    made = make()
    _leave(made, folder, save, run)
    return made


def _leave(made: Part, folder: Path, save: Callable[[Part, Path], None], run: Run) -> None:
    """Put a part where the others look, whole or not at all; who comes second leaves the first one's there."""
    temporary = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        save(made, temporary)
        temporary.rename(folder)
    except OSError as error:
        if not folder.exists():  # a full disk, perhaps: the run itself has what it needs
            run.note(f"{folder.name}: not left for other runs of this study ({error.strerror or error})")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fingerprint(of: object) -> str:
    """Sixteen characters that stand for plain JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_of_tensors(*tensors: Tensor) -> str:
    """Sixteen characters that stand for the bytes, shapes and types of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
