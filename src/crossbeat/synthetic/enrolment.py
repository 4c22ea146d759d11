"""Who is in a synthetic cohort: each person's group, scanner, centre and scans, before any heart is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from crossbeat.errors import SettingsError
from crossbeat.synthetic.anatomy import GROUPS

SITE: Final = "tagged"
"""The `centre` of those at the tagged site; of all others it is "phantom"."""

_SITE_GROUPS: Final = ("BOY", "DMD", "BOY", "DMD", "DMD")
"""In circles: 20 controls and 30 boys with dystrophy of 50, as in Dhaene 2023 (methods.md 4.6)."""


@dataclass(frozen=True)
class Person:
    """One subject to be drawn and scanned."""

    group: str
    vendor: str
    sequences: tuple[str, ...]
    slices: int
    """About the middle of the left ventricle; 0: the whole stack."""
    centre: str = "phantom"


def enrol(
    subjects: int,
    sequences: Sequence[str],
    vendors: Sequence[str],
    groups: Sequence[str] = GROUPS,
    *,
    slices: int = 0,
    site: int = 0,
) -> list[Person]:
    """So many persons: person i has group i, counted in circles, and another scanner after each round of the groups.

    The last `site` of them are boys at a site that tags (Dhaene 2023): one slice each, on the last of several
    scanners, which no other person sees; the others have no tagged scan. A site that leaves nobody else, or that takes
    no tagged scans, raises `SettingsError`.
    """
    if not site:
        return [
            Person(groups[i % len(groups)], vendor_of(i, vendors, groups), tuple(sequences), slices)
            for i in range(subjects)
        ]
    if "tagged" not in sequences or not 0 < site < subjects:
        raise SettingsError(
            f"phantom: a site that tags needs `tagged` among the sequences and others beside it, got {site} of "
            f"{subjects} subjects and {', '.join(sequences)}"
        )
    plain = [s for s in sequences if s != "tagged"]
    if not plain:
        raise SettingsError(
            "phantom: beside a site that tags others need scans too; add bssfp to the sequences"
        )
    others = enrol(subjects - site, plain, vendors[:-1] or vendors, groups, slices=slices)
    boys = [_SITE_GROUPS[i % len(_SITE_GROUPS)] for i in range(site)]
    return others + [Person(group, vendors[-1], tuple(sequences), 1, SITE) for group in boys]


def vendor_of(index: int, vendors: Sequence[str], groups: Sequence[str] = GROUPS) -> str:
    """Whose scanner person number `index` goes to: another one after each round of the groups."""
    return vendors[index // len(groups) % len(vendors)]
