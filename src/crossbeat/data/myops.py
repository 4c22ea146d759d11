"""MyoPS 2020: `myops_training_101_{C0,DE,T2}.nii.gz` and `myops_training_101_gd.nii.gz` become rows.

The three sequences of a patient are registered to one grid and share one label file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from crossbeat.cohort import Row
from crossbeat.data.listing import Layout, Listing, by_stem, nifti_files, nothing_found, place, stem, unused

_SEQUENCES: Final = {"C0": "bssfp", "DE": "lge", "T2": "t2"}
_IMAGE: Final = re.compile(r"(?i)(myops_(training|test)_(\d+))_(C0|DE|T2)")
_SPLITS: Final = {"training": "train", "test": "test"}


def index_myops(root: Path, folder: Path) -> Listing:
    """One row a patient and sequence; test patients have no labels unless their files are there."""
    files = nifti_files(root)
    images = {p: m for p in files if (m := _IMAGE.fullmatch(stem(p)))}
    if not images:
        raise nothing_found(root, "myops_training_101_C0.nii.gz, _DE, _T2 and _gd")
    table = by_stem(files)
    used, rows = set(images), []
    for image, match in sorted(images.items(), key=lambda item: stem(item[0])):
        mask = table.get(f"{match[1]}_gd")
        used |= {mask} if mask else set()
        rows.append(
            Row(
                subject=f"myops_{match[3]}",
                scan=stem(image),
                sequence=_SEQUENCES[match[4].upper()],
                centre="Shanghai",
                group="infarct",
                split=_SPLITS[match[2].lower()],
                image=place(image, folder),
                labels=place(mask, folder) if mask else "",
                convention="myops",
            )
        )
    return Listing(tuple(rows), tuple(unused(files, used, root)))


MYOPS: Final = Layout(
    name="myops",
    title="Myocardial Pathology Segmentation combining multi-sequence CMR, 2020",
    licence="on registration, research only",
    source="https://zmiclab.github.io/zxh/0/myops20; Li 2023, doi 10.1016/j.media.2023.102808",
    convention="myops",
    index=index_myops,
)
