"""A phantom that was made remembers what was asked for: made again it is found, and no other is put over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from crossbeat.errors import RunError
from crossbeat.synthetic.signal import PHANTOM_VERSION

NOTE: Final = "phantom.json"
"""Written last: where it lies, the phantom is whole."""


def is_made(folder: Path, asked: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Whether the folder holds this very phantom, made by this `PHANTOM_VERSION`.

    Another phantom or another cohort raises `RunError`, unless `overwrite`, which forgets what is there.
    """
    note, wanted = folder / NOTE, _note(asked)
    if overwrite:
        note.unlink(missing_ok=True)
        return False
    found = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    if found == wanted and (folder / "cohort.csv").exists():
        return True
    remedy = "choose another folder, or add --overwrite"
    if found is not None and found != wanted:
        keys = [key for key in wanted if found.get(key) != wanted[key]]
        differing = ", ".join(f"{key} {_text(found.get(key))}, now {_text(wanted[key])}" for key in keys)
        raise RunError(f"{folder}: holds another phantom ({differing}); {remedy}")
    if found is None and (folder / "cohort.csv").exists():
        raise RunError(f"{folder}: holds a cohort.csv that no phantom of ours left there; {remedy}")
    return False


def note_made(folder: Path, asked: Mapping[str, Any]) -> None:
    """Leave the note that the phantom is whole, and what it is."""
    (folder / NOTE).write_text(json.dumps(_note(asked), indent=2) + "\n", encoding="utf-8")


def _note(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {**asked, "version": PHANTOM_VERSION}


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
