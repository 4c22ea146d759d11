"""The sources that a number depends on → one short hash, blind to comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import crossbeat

_ROOMS: Final = (
    *(
        "labels.py",
        "geometry.py",
        "case.py",
        "cohort.py",
        "splits.py",
        "devices.py",
        "data",
        "prepare",
        "networks",
        "losses",
    ),
    *("training", "segmenter.py", "prediction.py", "metrics", "evaluation", "methods/recipe.py"),
    *("methods/validation.py", "methods/keeping.py", "methods/sharing.py", "synthetic/tagging.py"),
    *("study/cell.py", "study/plan.py"),
)
"""What a cell of any method runs through; the phantom itself has a version of its own."""


def code_hash(method: str, package: Path | None = None) -> str:
    """12 characters that change when code changes through which a cell of this method gets its numbers.

    `package` is the folder of the sources; of those that run, where none is given.
    """
    root = package or Path(crossbeat.__file__).parent
    digest = hashlib.sha256()
    for room in (*_ROOMS, f"methods/{method}"):
        for file in _sources(root / room):
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(_bare(file.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def _sources(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(place.rglob("*.py"))
    else:
        yield place.with_suffix(".py")


def _bare(text: str) -> str:
    """A module's statements alone."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [part for part in body if not _is_text(part)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)
