"""Learned parts as folders: weights and plain facts go in whole or not at all, and come back without unpickling."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossbeat import __version__
from crossbeat.errors import RunError, SettingsError

FORMAT: Final = 1
Part = TypeVar("Part")


def keep(folder: Path, name: str, weights: Mapping[str, Tensor], described: Mapping[str, Any]) -> None:
    """`weights.safetensors` and `<name>.json` in a folder that appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary / "weights.safetensors"
    )
    facts = {"format": FORMAT, "crossbeat": __version__, **described}
    (temporary / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def fetch(folder: Path, name: str, make: Callable[[dict[str, Any], dict[str, Tensor]], Part]) -> Part:
    """What `keep` wrote, made from its facts and weights; `RunError` where a piece is missing or broken."""
    try:
        described = json.loads((folder / f"{name}.json").read_text())
        if described["format"] > FORMAT:
            raise RunError(
                f"{folder}: written by crossbeat {described['crossbeat']}, newer than this {__version__}; upgrade"
            )
        return make(described, load_file(folder / "weights.safetensors"))
    except FileNotFoundError as error:
        raise RunError(
            f"{folder}: {Path(error.filename or 'weights.safetensors').name} is missing; is this the folder "
            f"with the {name} in models of a finished run?"
        ) from None
    except (
        KeyError, TypeError, ValidationError, SettingsError, json.JSONDecodeError, SafetensorError, RuntimeError,
    ) as error:  # fmt: skip
        raise RunError(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from None
