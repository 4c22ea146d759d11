"""MS-CMRSeg 2019: `patient1_{C0,T2,LGE}.nii.gz` and their `_manual` or `_gd` files become rows.

The challenge adapts from C0 (cine bSSFP) and T2 to LGE of the same patients: LGE of patients 1 to 5 is for
validation, of 6 to 45 for testing, everything else for training.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from crossbeat.cohort import Row
from crossbeat.data.listing import Layout, Listing, by_stem, nifti_files, nothing_found, place, stem, unused

_SEQUENCES: Final = {"C0": "bssfp", "T2": "t2", "LGE": "lge", "DE": "lge"}
_IMAGE: Final = re.compile(r"(?i)patient_?(\d+)_(C0|T2|LGE|DE)")
_LABELS: Final = ("_manual", "_gd", "_gt")
_VALIDATION: Final = 5  # LGE of the first five patients is given with labels (Zhuang 2022, section 2.2)


def index_mscmrseg(root: Path, folder: Path) -> Listing:
    """One row a patient and sequence, by patient number; labels may lie in another folder than their image."""
    files = nifti_files(root)
    images = {p: m for p in files if (m := _IMAGE.fullmatch(stem(p)))}
    if not images:
        raise nothing_found(root, "patient1_C0.nii.gz, patient1_LGE.nii.gz, patient1_T2.nii.gz and so on")
    table = by_stem(files)
    used, rows = set(images), []
    for image, match in sorted(images.items(), key=lambda item: (int(item[1][1]), item[1][2])):
        number, sequence = int(match[1]), _SEQUENCES[match[2].upper()]
        mask = next((table[stem(image) + end] for end in _LABELS if stem(image) + end in table), None)
        used |= {mask} if mask else set()
        rows.append(
            Row(
                subject=f"patient{number}",
                scan=f"patient{number}_{match[2].upper()}",
                sequence=sequence,
                vendor="Philips",
                centre="Shanghai",
                group="cardiomyopathy",
                split=_split(sequence, number),
                image=place(image, folder),
                labels=place(mask, folder) if mask else "",
                convention="mscmrseg",
            )
        )
    return Listing(tuple(rows), tuple(unused(files, used, root)))


def _split(sequence: str, number: int) -> str:
    if sequence != "lge":
        return "train"
    return "validation" if number <= _VALIDATION else "test"


MSCMRSEG: Final = Layout(
    name="mscmrseg",
    title="Multi-sequence Cardiac MR Segmentation Challenge 2019",
    licence="on registration, research only",
    source="https://zmiclab.github.io/zxh/0/mscmrseg19; Zhuang 2022, arXiv 2006.12434",
    convention="mscmrseg",
    index=index_mscmrseg,
)
