"""Several cohorts → one, as source and target mostly come from different places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from crossbeat.cohort import Cohort, Row, read_conventions, seen_from
from crossbeat.data.listing import add_conventions
from crossbeat.data.reading import reader
from crossbeat.errors import CohortError
from crossbeat.labels import CONVENTIONS, UNKNOWN, Convention, Structure


def join(cohorts: Sequence[tuple[str, Cohort]], folder: Path) -> tuple[Cohort, tuple[str, ...]]:
    """The rows of all, one cohort after the other, in one whose csv will stand in `folder`; and remarks.

    A name beside a cohort goes before its subjects and scans, as in `site_patient001`; "" leaves them as they are. A
    subject of several cohorts is one person, and a remark says so. Label conventions that rows use, and that the
    folder lacks, are added to its `conventions.yaml`. `CohortError` for a scan that is in two of them, and for a
    convention that would mean something else to a row, or to what lies in the folder already; nothing is written then.
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
    conventions = _new_conventions([cohort for _, cohort in cohorts], folder)
    if conventions:
        add_conventions(folder, conventions)
    made = Cohort(tuple(rows), reader(folder, read_conventions(folder)), "joined", folder)
    return made, _remarks([subject for subject, places in of_subject.items() if len(places) > 1])


def _named(cohort: Cohort, name: str) -> Sequence[Row]:
    if not name:
        return cohort.rows
    return [replace(row, subject=f"{name}_{row.subject}", scan=f"{name}_{row.scan}") for row in cohort]


def _new_conventions(cohorts: Sequence[Cohort], folder: Path) -> Mapping[str, Mapping[int, str]]:
    """What the rows use and the folder does not know, as `conventions.yaml` has it; no name may change its meaning."""
    there = read_conventions(folder)
    found: dict[str, Convention] = {}
    of: dict[str, Cohort] = {}
    for cohort in cohorts:
        own = read_conventions(cohort.folder)
        for name in dict.fromkeys(row.convention for row in cohort):
            meant = own.get(name) or CONVENTIONS.get(name)
            if meant is None:
                continue  # nobody knows it; `check` says so
            if name in found and found[name].values != meant.values:
                raise CohortError(
                    f"convention {name!r} is one thing in {_told(of[name])} and another in {_told(cohort)}; give it "
                    "another name for one of them, in conventions.yaml and in the convention column"
                )
            found[name], of[name] = meant, cohort
    for name, meant in found.items():
        here = there.get(name) or CONVENTIONS.get(name)
        if here is not None and here.values != meant.values:
            where = (
                f"in {folder / 'conventions.yaml'}" if name in there else "to whatever lies in that folder"
            )
            raise CohortError(
                f"convention {name!r} of {_told(of[name])} is another thing {where}; correct one of them, give it "
                "another name, or choose another folder with -o"
            )
    return {
        name: {value: _structure(number) for value, number in meant.values.items()}
        for name, meant in found.items()
        if name not in there and name not in CONVENTIONS
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
