"""EMIDEC: `Case_N006/{Images,Contours}/Case_N006.nii.gz`, late enhancement, become rows.

N stands for a normal patient, P for one with an infarct. Nobody drew the right ventricle.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from crossbeat.cohort import Row
from crossbeat.data.listing import Layout, Listing, nifti_files, nothing_found, place, stem, unused

_CASE: Final = re.compile(r"Case_([NP]?)(\d+)")
_GROUPS: Final = {"N": "normal", "P": "infarct", "": ""}


def index_emidec(root: Path, folder: Path) -> Listing:
    """One row a case; the letterless cases are the challenge's test set, whose group is not told."""
    files = nifti_files(root)
    images = {p: m for p in files if p.parent.name == "Images" and (m := _CASE.fullmatch(stem(p)))}
    if not images:
        raise nothing_found(root, "Case_N006/Images/Case_N006.nii.gz and Case_N006/Contours/Case_N006.nii.gz")
    used, rows = set(images), []
    for image, match in sorted(images.items(), key=lambda item: stem(item[0])):
        mask = image.parent.parent / "Contours" / image.name
        used |= {mask}
        rows.append(
            Row(
                subject=stem(image),
                scan=stem(image),
                sequence="lge",
                vendor="Siemens",
                centre="Dijon",
                group=_GROUPS[match[1]],
                split="train" if match[1] else "test",
                image=place(image, folder),
                labels=place(mask, folder) if mask.exists() else "",
                convention="emidec",
                structures="LV,MYO,SCAR" if mask.exists() else "",
            )
        )
    return Listing(tuple(rows), tuple(unused(files, used, root)))


EMIDEC: Final = Layout(
    name="emidec",
    title="Automatic Evaluation of Myocardial Infarction from Delayed-Enhancement Cardiac MRI, 2020",
    licence="CC BY-NC-SA 4.0",
    source="https://emidec.com; Lalande 2020, doi 10.3390/data5040089",
    convention="emidec",
    index=index_emidec,
)
