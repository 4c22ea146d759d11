"""Everything crossbeat raises on purpose.

CrossbeatError
├── CaseError       one scan is broken (names the scan)
├── FileError       one file cannot be used (names the file)
├── CohortError     a cohort.csv, its rows or its splits are broken (names the csv or the filter)
├── SettingsError   a recipe, study or option asks for something that does not exist
└── RunError        a run folder is missing a piece, or is in the way
GeometryWarning     one file's header was repaired, or disagrees harmlessly (names the file)

Each message reads *which thing: what is wrong, what came, what to do*. The command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class CrossbeatError(Exception):
    """Base of all errors that crossbeat raises on purpose."""


class CaseError(CrossbeatError):
    """A scan is broken."""

    def __init__(self, case_id: str, problem: str) -> None:
        super().__init__(f"scan {case_id!r}: {problem}")
        self.case_id = case_id
        self.problem = problem

    def __reduce__(self) -> tuple[type[CaseError], tuple[str, str]]:
        return type(self), (self.case_id, self.problem)  # as another process raises it


class FileError(CrossbeatError):
    """A file cannot be used."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)
        self.problem = problem

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str]]:
        return type(self), (self.path, self.problem)


class CohortError(CrossbeatError):
    """A cohort, its rows or its splits are broken."""


class SettingsError(CrossbeatError):
    """A recipe, study or option asks for something that does not exist."""


class RunError(CrossbeatError):
    """A run folder is missing a piece, or is in the way."""


class GeometryWarning(UserWarning):
    """A file's header was repaired or overruled, and the scan is used."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known ones, else all of them."""
    names = sorted(known)
    near = get_close_matches(word, names, n=3)
    if near:
        return f"did you mean {' or '.join(repr(name) for name in near)}?"
    return f"known are {', '.join(names)}"
