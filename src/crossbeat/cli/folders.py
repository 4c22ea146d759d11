"""A folder of a method's own command: made, or cleared of what that command left there; nothing else is touched."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CaseError, CrossbeatError, RunError

Made = TypeVar("Made")


@dataclass(frozen=True)
class Work:
    """What a command leaves in its folder beside a cohort.csv, and what messages call it."""

    name: str
    """As in 'a cohort.csv that no propagation left there'."""
    things: str
    """As in 'carried labels need a folder of their own'."""
    table: str
    """A csv whose column `scan` names what was written; by it a later command knows its own."""
    page: str
    files_of: Callable[[str, Path], Sequence[Path]]
    """Everything that is written of one name of that column alone, in a folder."""
    further: tuple[str, ...] = ()
    """Other files of its own."""


def open_folder(
    out: Path,
    cohort: Cohort,
    names: Iterable[str],
    work: Work,
    *,
    overwrite: bool,
    given: Sequence[Path] = (),
) -> None:
    """Make the folder; what an earlier command left there goes first, if `overwrite`, and else is in the way.

    `names` are those to be written now. With `overwrite` too `RunError` is raised where the folder is a run's or the
    cohort's own, holds a cohort.csv that this command did not leave there, or where a scan, its labels or one of the
    files that the user has `given` would be written over.
    """
    remedy = "choose another folder with -o"
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; {remedy}")
    if out.resolve() == cohort.folder.resolve() or (out / "run.json").exists():
        raise RunError(f"{out}: holds a run or the scans; {work.things} need a folder of their own, {remedy}")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out}: already holds files; {remedy}, or add --overwrite")
    if (out / "cohort.csv").exists() and not (out / work.table).exists():
        raise RunError(f"{out}: holds a cohort.csv that no {work.name} left there; {remedy}")
    named = list(dict.fromkeys([*names, *_earlier(out / work.table)]))
    stale = [path for name in named for path in work.files_of(name, out)]
    _refuse_loss(stale, cohort, given, remedy)
    for path in (*stale, *(out / name for name in ("cohort.csv", work.table, work.page, *work.further))):
        path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def each_scan(
    cohort: Cohort,
    out: Path,
    make: Callable[[Row, int], Made],
    files_of: Callable[[Row], Iterable[Path]],
    progress: Callable[[Row], None],
) -> tuple[list[Made], list[str]]:
    """What was made of every scan, and what went wrong: the others go on where one fails.

    `make` gets the number of scans made before. Of one that fails, or is stopped, no file stays; where none was made
    the folder itself goes, if nothing else lies in it.
    """
    made: list[Made] = []
    failures = []
    for row in cohort:
        try:
            made.append(make(row, len(made)))
        except BaseException as error:
            for path in files_of(row):
                path.unlink(missing_ok=True)
            if not isinstance(error, Exception):
                raise  # one scan must never cost the others theirs, but who stops us may
            ours = isinstance(error, CrossbeatError)
            failures.append(str(error) if ours else f"scan {row.scan!r}: {type(error).__name__}: {error}")
        progress(row)
    if not made and out.is_dir():
        _remove_empty(out)
    return made, failures


def as_file_name(scan: str) -> str:
    """The name, if it can be that of a file; else `CaseError`."""
    if "/" in scan or "\\" in scan or scan in (".", ".."):
        raise CaseError(scan, "a scan's name becomes a file name; it may hold no slash")
    return scan


def _refuse_loss(stale: Sequence[Path], cohort: Cohort, given: Sequence[Path], remedy: str) -> None:
    ours = {path.resolve() for path in stale}
    theirs = [cohort.folder / n for row in cohort for n in (*row.image_files, *row.label_files.values())]
    for path in theirs:
        if path.resolve() in ours:
            raise RunError(f"{path}: is a scan or its labels, and would be written over; {remedy}")
    for path in given:
        if path.resolve() in ours:
            raise RunError(f"{path}: was given, and would be written over; {remedy}")


def _remove_empty(folder: Path) -> None:
    for inner in [*(path for path in folder.iterdir() if path.is_dir()), folder]:
        if not any(inner.iterdir()):
            inner.rmdir()


def _earlier(table: Path) -> list[str]:
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as lines:
        return [line["scan"] for line in csv.DictReader(lines) if line.get("scan")]
