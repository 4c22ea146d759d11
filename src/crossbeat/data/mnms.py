"""M&Ms 2020: a table of patients and `CODE/CODE_sa.nii.gz` with `CODE_sa_gt.nii.gz` become rows.

The 4-D label file holds zeros in frames that nobody labelled, so its ED and ES frames alone are named.
Labels in a folder called Unlabeled are not part of the challenge and are never used.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

from crossbeat.cohort import Row
from crossbeat.data.listing import Layout, Listing, by_stem, nifti_files, nothing_found, place, stem
from crossbeat.errors import FileError

_SPLITS: Final = {"training": "train", "validation": "validation", "testing": "test"}
_FURTHER: Final = {
    "Age": "age",
    "Sex": "sex",
    "Height": "height_cm",
    "Weight": "weight_kg",
    "Vendor": "vendor_letter",
}


def index_mnms(root: Path, folder: Path) -> Listing:
    """One row a patient with a short-axis cine, in order of their codes; ED and ES count from 0 already."""
    files = nifti_files(root)
    images = [p for p in files if stem(p).endswith("_sa")]
    if not images:
        raise nothing_found(root, "Training/Labeled/A0S9V9/A0S9V9_sa.nii.gz and the challenge's csv")
    table = _read_table(root)
    masks = by_stem(p for p in files if "unlabeled" not in str(p.relative_to(root)).lower())
    rows, remarks = [], []
    for image in sorted(images, key=stem):
        code = stem(image).removesuffix("_sa")
        if code not in table:
            remarks.append(f"{image.relative_to(root).as_posix()}: {code} is not in the csv, left out")
            continue
        facts = table.pop(code)
        mask = masks.get(f"{code}_sa_gt")
        rows.append(_row(code, image, mask, facts, root, folder))
        if mask and not rows[-1].labels:
            remarks.append(
                f"{code}: has labels, but the csv gives no ED or ES frame for them; left unlabelled"
            )
    remarks += [f"{code}: in the csv, but no {code}_sa.nii.gz was found" for code in sorted(table)]
    return Listing(tuple(rows), tuple(remarks))


def _read_table(root: Path) -> dict[str, dict[str, str]]:
    for path in sorted(root.rglob("*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
        if rows and "External code" in rows[0]:
            missing = [c for c in ("Vendor", "Centre", "ED", "ES") if c not in rows[0]]
            if missing:
                raise FileError(path, f"lacks the columns {', '.join(missing)}; use the csv of the challenge")
            return {(r["External code"] or "").strip(): r for r in rows}
    raise FileError(
        root, "has no csv with a column 'External code'; put the challenge's csv beside the folders"
    )


def _row(code: str, image: Path, mask: Path | None, facts: dict[str, str], root: Path, folder: Path) -> Row:
    ed, es = (_frame(facts.get(k, "")) for k in ("ED", "ES"))
    frames = [f for f in dict.fromkeys((ed, es)) if f is not None] if mask else []
    parts = [p.lower() for p in image.relative_to(root.parent).parts]
    return Row(
        subject=code,
        scan=code,
        sequence="bssfp",
        vendor=(facts.get("VendorName") or facts["Vendor"]).strip(),
        centre=facts["Centre"].strip(),
        group=(facts.get("Pathology") or "").strip(),
        split=next((s for part, s in _SPLITS.items() if part in parts), ""),
        image=place(image, folder),
        labels=";".join(f"{f}={place(mask, folder)}" for f in frames) if mask else "",
        convention="mnms",
        ed_frame=ed,
        es_frame=es,
        further={ours: (facts.get(theirs) or "").strip() for theirs, ours in _FURTHER.items()},
    )


def _frame(text: str | None) -> int | None:
    return int(float(text)) if text and text.strip() else None


MNMS: Final = Layout(
    name="mnms",
    title="Multi-Centre, Multi-Vendor and Multi-Disease Cardiac Image Segmentation Challenge 2020",
    licence="CC BY-NC-SA 4.0",
    source="https://www.ub.edu/mnms; Campello 2021, doi 10.1109/TMI.2021.3090082",
    convention="mnms",
    index=index_mnms,
)
