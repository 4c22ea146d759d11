"""What a label value means: our structures, and every public dataset's own numbers by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from crossbeat.errors import SettingsError, did_you_mean


class Structure(IntEnum):
    """Parts of the heart, with the values that crossbeat writes (M&Ms, UK Biobank and Chen 2020 agree)."""

    BACKGROUND = 0
    LV = 1
    """Cavity of the left ventricle, blood pool."""
    MYO = 2
    """Myocardium of the left ventricle."""
    RV = 3
    """Cavity of the right ventricle, blood pool."""
    SCAR = 4
    """Infarct, no-reflow included; a part of the myocardium."""
    EDEMA = 5
    """Oedema; a part of the myocardium."""


UNKNOWN: Final = 255
"""Label value of voxels that nobody looked at. Losses skip it, metrics leave it out and count it."""

TRAINED: Final = (Structure.LV, Structure.MYO, Structure.RV)
"""The structures that segmenters learn; scar and oedema fold into the myocardium."""


@dataclass(frozen=True)
class Convention:
    """The label values of one dataset, by structure.

    `papillary` says where the annotators put the papillary muscles; `source` is where that stands.
    """

    name: str
    values: Mapping[int, int]
    papillary: str
    source: str

    @property
    def structures(self) -> frozenset[Structure]:
        """What an annotator who used this convention drew, background left out."""
        return frozenset(Structure(v) for v in self.values.values() if v not in (0, UNKNOWN))


_LV, _MYO, _RV, _SCAR, _EDEMA = Structure.LV, Structure.MYO, Structure.RV, Structure.SCAR, Structure.EDEMA

CONVENTIONS: Final[Mapping[str, Convention]] = {
    c.name: c
    for c in (
        Convention(
            "crossbeat",
            {0: 0, 1: _LV, 2: _MYO, 3: _RV, 4: _SCAR, 5: _EDEMA, UNKNOWN: UNKNOWN},
            papillary="as in the scans it was learnt from",
            source="this file",
        ),
        Convention(
            "acdc",
            {0: 0, 1: _RV, 2: _MYO, 3: _LV},
            papillary="in the LV cavity",
            source="Bernard 2018, doi 10.1109/TMI.2018.2837502",
        ),
        Convention(
            "mnms",
            {0: 0, 1: _LV, 2: _MYO, 3: _RV},
            papillary="in the LV cavity",
            source="Campello 2021, doi 10.1109/TMI.2021.3090082",
        ),
        Convention(
            "mscmrseg",
            {0: 0, 200: _MYO, 500: _LV, 600: _RV},
            papillary="in the LV cavity",
            source="Zhuang 2022, arXiv 2006.12434",
        ),
        Convention(
            "myops",
            {0: 0, 200: _MYO, 500: _LV, 600: _RV, 1220: _EDEMA, 2221: _SCAR},
            papillary="in the LV cavity",
            source="MyoPS 2020, Zhuang 2019 doi 10.1109/TPAMI.2018.2869576",
        ),
        Convention(
            "emidec",
            {0: 0, 1: _LV, 2: _MYO, 3: _SCAR, 4: _SCAR},
            papillary="in the LV cavity",
            source="Lalande 2020, doi 10.3390/data5040089; 4 is no-reflow",
        ),
        Convention(
            "scd",
            {0: 0, 1: _LV, 2: _MYO, UNKNOWN: UNKNOWN},
            papillary="in the LV cavity",
            source="Radau 2009; values are ours, drawn from its contours",
        ),
    )
}


def convention_from_names(name: str, values: Mapping[int, str]) -> Convention:
    """A user's own convention, from value to structure name: `{0: background, 7: LV, 255: unknown}`.

    Background 0 is understood where nothing else is said of 0. An unknown name raises `SettingsError`.
    """
    known = {s.name.lower(): int(s) for s in Structure} | {"unknown": UNKNOWN}
    table = {0: 0}
    for value, structure in values.items():
        if str(structure).lower() not in known:
            hint = did_you_mean(str(structure).lower(), known)
            raise SettingsError(f"convention {name!r}: {structure!r} is no structure; {hint}")
        table[int(value)] = known[str(structure).lower()]
    return Convention(name, table, papillary="not stated", source="conventions.yaml")


def find_convention(name: str, own: Mapping[str, Convention] | None = None) -> Convention:
    """The convention of that name, a user's `own` first; else a `SettingsError` that lists the names."""
    table = {**CONVENTIONS, **(own or {})}
    if name not in table:
        raise SettingsError(f"label convention {name!r} does not exist; {did_you_mean(name, table)}")
    return table[name]


def translate(values: NDArray[np.generic], convention: Convention) -> NDArray[np.uint8]:
    """Foreign label values turned into ours, any shape; `ValueError` names values that have no meaning.

    Whole numbers stored as floats are accepted, fractions are not: they are the mark of a label map
    that was interpolated.
    """
    found = np.unique(values)
    strange = [v for v in found.tolist() if v not in convention.values]
    if strange:
        shown = ", ".join(f"{v:g}" for v in strange[:8]) + (" …" if len(strange) > 8 else "")
        expected = ", ".join(str(v) for v in sorted(convention.values))
        cause = (
            "the label map has been interpolated: export it again with nearest neighbour"
            if any(float(v) != int(v) for v in strange if np.isfinite(v))
            else "choose another `convention` in the cohort.csv, or name the values in a conventions.yaml beside it"
        )
        raise ValueError(
            f"label values {shown} mean nothing in convention {convention.name!r}, which has {expected}; {cause}"
        )
    out = np.zeros(values.shape, np.uint8)
    for value in found.tolist():
        out[values == value] = convention.values[int(value)]
    return out


def fold_into_myocardium(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scar and oedema counted as the myocardium that they are part of; a copy, any shape."""
    folded = labels.copy()
    folded[(labels == Structure.SCAR) | (labels == Structure.EDEMA)] = Structure.MYO
    return folded


def fold_drawn(structures: Iterable[Structure]) -> frozenset[Structure]:
    """The trained structures among those drawn; whoever drew only scar did not draw the myocardium."""
    return frozenset(structures) & frozenset(TRAINED)


def surrounded_fraction(labels: NDArray[np.uint8], structure: Structure) -> float:
    """Share of a structure's in-plane outer rim that is myocardium, in [0, 1]; nan where it is absent.

    `labels` is (z, y, x) or (t, z, y, x) in our values. The LV cavity scores near 1 and the RV cavity,
    which touches the myocardium at the septum only, well below: a swapped convention shows at once.
    """
    mask = labels == structure
    if not mask.any():
        return float("nan")
    cross = ndimage.generate_binary_structure(2, 1).reshape((1,) * (labels.ndim - 2) + (3, 3))
    rim = ndimage.binary_dilation(mask, cross) & ~mask
    wall = np.isin(labels, (Structure.MYO, Structure.SCAR, Structure.EDEMA))
    return float((rim & wall).sum() / max(int(rim.sum()), 1))


def looks_swapped(labels: NDArray[np.uint8]) -> bool:
    """True where the myocardium surrounds what is called RV rather than what is called LV."""
    lv, rv = surrounded_fraction(labels, Structure.LV), surrounded_fraction(labels, Structure.RV)
    return bool(lv < 0.5 and rv > max(lv, 0.5))
