"""Several cohorts → one, as source and target mostly come from different places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from crossbeat.cohort import Cohort, Row, read_conventions, seen_from
from crossbeat.data.listing import add_conventions
from crossbeat.data.reading import reader
from crossbeat.errors import CohortError
from crossbeat.labels import UNKNOWN, Convention, Structure


def join(cohorts: Sequence[tuple[str, Cohort]], folder: Path) -> tuple[Cohort, tuple[str, ...]]:
    """The rows of all, one cohort after the other, in one whose csv will stand in `folder`; and remarks.

    A name beside a cohort goes before its subjects and scans, as in `site_patient001`; "" leaves them as they are. A
    subject of several cohorts is one person, and a remark says so. Label conventions that the cohorts bring along are
    added to `folder/conventions.yaml`. `CohortError` for a scan that is in two of them, and for a convention that
    means one thing here and another there; nothing is written then.
    """
    rows: list[Row] = []
    of_scan: dict[str, Cohort] = {}
    of_subject: dict[str, set[Path]] = {}
    for name, cohort in cohorts:
        for row in _named(seen_from(cohort, folder), name):
            if row.scan in of_scan:
                raise CohortError(
                    f"scan {row.scan!r} is in {_told(of_scan[row.scan])} and in {_told(cohort)}; write "
                    f"NAME={_told(cohort)}, and its subjects and scans begin with NAME_"
                )
            of_scan[row.scan] = cohort
            of_subject.setdefault(row.subject, set()).add(cohort.folder / cohort.name)
            rows.append(row)
    conventions = _conventions([folder, *(cohort.folder for _, cohort in cohorts)])
    if conventions:
        add_conventions(folder, conventions)
    made = Cohort(tuple(rows), reader(folder, read_conventions(folder)), "joined", folder)
    return made, _remarks([subject for subject, places in of_subject.items() if len(places) > 1])


def _named(cohort: Cohort, name: str) -> Sequence[Row]:
    if not name:
        return cohort.rows
    return [replace(row, subject=f"{name}_{row.subject}", scan=f"{name}_{row.scan}") for row in cohort]


def _conventions(folders: Sequence[Path]) -> Mapping[str, Mapping[int, str]]:
    """All that the folders describe, as `conventions.yaml` has them."""
    found: dict[str, tuple[Convention, Path]] = {}
    for folder in folders:
        for name, convention in read_conventions(folder).items():
            if name in found and found[name][0].values != convention.values:
                raise CohortError(
                    f"convention {name!r} is one thing in {found[name][1] / 'conventions.yaml'} and another in "
                    f"{folder / 'conventions.yaml'}; rename one of them, there and in its cohort.csv"
                )
            found.setdefault(name, (convention, folder))
    return {
        name: {value: _structure(number) for value, number in convention.values.items()}
        for name, (convention, _) in found.items()
    }


def _structure(number: int) -> str:
    return "unknown" if number == UNKNOWN else Structure(number).name.lower()


def _remarks(shared: Sequence[str]) -> tuple[str, ...]:
    if not shared:
        return ()
    shown = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
    return (
        f"subjects in more than one of the cohorts: {len(shared)} ({shown}). They count as the same persons; if they "
        "are not, write NAME=COHORT.CSV for one of the cohorts",
    )


def _told(cohort: Cohort) -> str:
    return str(cohort.folder / f"{cohort.name}.csv")
