"""What a layout gives: the rows of a cohort, and a remark for everything that it left out or assumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from crossbeat.cohort import Row
from crossbeat.errors import FileError


@dataclass(frozen=True)
class Listing:
    """The scans found under a folder."""

    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    """Sentences, each naming a file or scan: what was left out and why, what was assumed."""
    conventions: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Label conventions of this data that crossbeat does not know: name to value to structure name."""


Index = Callable[..., Listing]
"""`index(root, folder, **options)` lists the scans under `root`; paths in the rows are relative to `folder`, where
the csv will stand, and the options are text."""


@dataclass(frozen=True)
class Layout:
    """One way in which files lie in folders."""

    name: str
    title: str
    licence: str
    source: str
    """Where it comes from and what to cite."""
    convention: str
    """Its label convention, '' where the files or the user say it."""
    index: Index
    options: tuple[str, ...] = ()
    """Names of the text options that `index` takes."""


def place(path: Path, folder: Path) -> str:
    """A path as it stands in a cohort.csv: relative to its folder, with forward slashes.

    A path with `;` or `=` cannot stand there, and raises `FileError`.
    """
    relative = Path(os.path.relpath(path, folder)).as_posix()
    if ";" in relative or "=" in relative:
        raise FileError(path, "has a `;` or `=` in its name, which separate files in a cohort.csv; rename it")
    return relative


def add_conventions(folder: Path, new: Mapping[str, Mapping[int, str]]) -> None:
    """Put label conventions into the folder's `conventions.yaml`, in place of those of the same names."""
    path = folder / "conventions.yaml"
    table = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
    table |= {name: dict(values) for name, values in new.items()}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    temporary.replace(path)


def nifti_files(root: Path) -> list[Path]:
    """Every .nii and .nii.gz below a folder, sorted, hidden ones left out; `FileError` where there is no folder."""
    if not root.is_dir():
        raise FileError(root, "there is no such folder")
    found = (p for p in root.rglob("*.nii*") if p.name.endswith((".nii", ".nii.gz")))
    return sorted(p for p in found if not p.name.startswith("."))


def stem(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by their stem; of two with one name the first."""
    table: dict[str, Path] = {}
    for path in paths:
        table.setdefault(stem(path), path)
    return table


def nothing_found(root: Path, expected: str) -> FileError:
    """The refusal of a folder that does not hold the layout."""
    return FileError(root, f"holds nothing of this layout; expected {expected}")


def unused(files: Iterable[Path], used: Iterable[Path], root: Path) -> list[str]:
    """A remark for each file that no row uses."""
    taken = set(used)
    return [f"{p.relative_to(root).as_posix()}: matches nothing, left out" for p in files if p not in taken]
