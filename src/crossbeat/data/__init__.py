"""Files on disk become Cases and back; nobody else opens a medical file.

`index` lists a folder in one of the `LAYOUTS` as a cohort, `join` makes one of several, `reader` reads its rows,
`check` reports every problem, `write_labels` puts predictions on the grid of their image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from crossbeat import geometry
from crossbeat.cohort import Cohort, Row, read_conventions
from crossbeat.data.acdc import ACDC
from crossbeat.data.checking import Problem, check, told
from crossbeat.data.emidec import EMIDEC
from crossbeat.data.files import FILES
from crossbeat.data.joining import join
from crossbeat.data.listing import Layout, Listing, add_conventions
from crossbeat.data.mnms import MNMS
from crossbeat.data.mscmrseg import MSCMRSEG
from crossbeat.data.myops import MYOPS
from crossbeat.data.nifti import read_info, read_volume, sidecar, write_labels, write_volume
from crossbeat.data.nnunet import NNUNET, write_nnunet
from crossbeat.data.reading import read_labels, reader
from crossbeat.data.scd import SCD
from crossbeat.data.studies import DICOM
from crossbeat.errors import FileError, SettingsError, did_you_mean

LAYOUTS: Final[Mapping[str, Layout]] = {
    layout.name: layout for layout in (ACDC, MNMS, MSCMRSEG, MYOPS, EMIDEC, SCD, NNUNET, DICOM, FILES)
}

__all__ = [
    "LAYOUTS",
    "Layout",
    "Listing",
    "Problem",
    "check",
    "index",
    "join",
    "read_labels",
    "read_volume",
    "reader",
    "sidecar",
    "told",
    "write_labels",
    "write_nnunet",
    "write_volume",
]


def index(
    layout: str, root: Path, folder: Path, *, nominal_spacing: str = "", **options: str
) -> tuple[Cohort, tuple[str, ...]]:
    """The scans under `root` as a cohort whose csv will stand in `folder`, and remarks on what was left out.

    `options` are those of the layout (`LAYOUTS[layout].options`). `nominal_spacing`, such as "1.5x1.5x10" (x, y, z
    in mm), names a stand-in: scans whose header says exactly that are marked nominal. Conventions that the data
    brings along are added to `folder/conventions.yaml`. Unknown layouts and options raise `SettingsError`, and
    a `root` that is no folder `FileError`.
    """
    if layout not in LAYOUTS:
        raise SettingsError(f"layout {layout!r} does not exist; {did_you_mean(layout, LAYOUTS)}")
    found = LAYOUTS[layout]
    given = {name: text for name, text in options.items() if text}
    for name in given:
        if name not in found.options:
            takes = ", ".join(found.options) or "none"
            raise SettingsError(f"layout {layout!r} has no option {name!r}; it takes {takes}")
    if not root.is_dir():
        raise FileError(root, "is a file, not a folder" if root.exists() else "there is no such folder")
    stand_in = _parse_spacing(nominal_spacing) if nominal_spacing else None
    listing = found.index(root.resolve(), folder.resolve(), **given)
    if listing.conventions:
        add_conventions(folder, listing.conventions)
    rows = [_marked(row, folder, stand_in) for row in listing.rows] if stand_in else listing.rows
    nominal = sum(row.spacing_source == "nominal" for row in rows)
    remarks = listing.remarks
    if stand_in:
        remarks = (
            *remarks,
            f"{nominal} of {len(rows)} scans have the stand-in spacing and are marked nominal",
        )
    return Cohort(tuple(rows), reader(folder, read_conventions(folder)), layout, folder), remarks


def _parse_spacing(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.lower().replace("mm", "").split("x"))
    except ValueError:
        raise SettingsError(f"nominal spacing {text!r}: write x, y and z in mm, as in 1.5x1.5x10") from None
    return z, y, x


def _marked(row: Row, folder: Path, stand_in: tuple[float, float, float]) -> Row:
    """The row marked nominal where its first file says the stand-in; an unreadable file is left to `check`."""
    try:
        info = read_info(folder / row.image_files[0], warn=False)
    except FileError:
        return row
    same = np.allclose(geometry.spacing_mm(info.affine), stand_in, rtol=1e-5)
    return replace(row, spacing_source="nominal") if same else row
