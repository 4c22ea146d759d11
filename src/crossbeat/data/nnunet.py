"""nnU-Net raw data sets, read and written: `DatasetXXX_Name/{dataset.json, imagesTr, labelsTr, imagesTs}`.

Each image of the data set is a scan of one frame. What crossbeat writes carries a `crossbeat.json`, by which
it finds subject, scan, frame and sequence again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.data.listing import Layout, Listing, nothing_found, place, unused
from crossbeat.data.nifti import write_volume
from crossbeat.errors import CohortError, FileError, did_you_mean
from crossbeat.labels import CONVENTIONS, TRAINED, UNKNOWN, Structure, fold_drawn, fold_into_myocardium

_MEMORY: Final = "crossbeat.json"
_FRAME_SUFFIX: Final = re.compile(r"(?i)[_-]((frame|f|t)\d+|ed|es)$")
_NAMES: Final = {
    Structure.LV: ("lv", "lvc", "lvcavity", "leftventricle", "lvbp", "leftventricularcavity", "lvbloodpool"),
    Structure.MYO: ("myo", "lvm", "lvmyo", "mlv", "myocardium", "leftventricularmyocardium", "lvmyocardium"),
    Structure.RV: ("rv", "rvc", "rvcavity", "rightventricle", "rvbp", "rightventricularcavity"),
    Structure.SCAR: ("scar", "infarct", "infarction", "noreflow", "mvo", "lge"),
    Structure.EDEMA: ("edema", "oedema"),
}
_OF_NAME: Final = {word: s.name for s, words in _NAMES.items() for word in words} | {
    "background": "BACKGROUND",
    "ignore": "UNKNOWN",
}


def index_nnunet(root: Path, folder: Path, sequence: str = "", convention: str = "") -> Listing:
    """One row an image and channel; imagesTs are the test split.

    Labels are understood by the names in dataset.json. Unless crossbeat wrote the data set, the subject is the
    case's name without a trailing frame, and a `sequence` may be given in place of the channel's name.
    """
    about = _read_json(root / "dataset.json", root)
    endings = str(about.get("file_ending", ".nii.gz"))
    memory: Mapping[str, Mapping[str, str]] = (
        _read_json(root / _MEMORY, root) if (root / _MEMORY).exists() else {}
    )
    name, own = (convention, {}) if convention else _convention(about, root)
    rows, used, guessed = [], set[Path](), False
    for part, split in (("imagesTr", "train"), ("imagesTs", "test")):
        for image in sorted((root / part).glob(f"*_[0-9][0-9][0-9][0-9]{endings}")):
            case, _, channel = image.name.removesuffix(endings).rpartition("_")
            mask = root / part.replace("images", "labels") / f"{case}{endings}"
            known = memory.get(case, {})
            guessed |= not known
            used |= {image, mask}
            rows.append(_row(case, channel, image, mask, split, known, about, sequence, name, folder))
    if not rows:
        raise nothing_found(root, f"imagesTr/case_0000{endings}")
    remarks = unused((p for p in sorted(root.rglob(f"*{endings}"))), used, root)
    if guessed:
        remarks.append(
            "subjects are the case names without a trailing frame (patient001_frame01 → patient001); "
            "check the subject column before splitting"
        )
    return Listing(tuple(rows), tuple(remarks), own)


def write_nnunet(cohort: Cohort, folder: Path) -> list[str]:
    """Write the labelled frames of a cohort as a raw data set; gives the names of the cases.

    Rows of the test split go to imagesTs and labelsTs, the others to imagesTr and labelsTr. Labels are
    1=LV 2=MYO 3=RV, scar and oedema counted as myocardium; what nobody looked at becomes nnU-Net's `ignore` label,
    and so does the background of a frame in which some of the three were not drawn. `folder` must be named
    DatasetXXX_Name and not exist yet. A cohort without labels raises `CohortError`.
    """
    if not re.fullmatch(r"Dataset\d{3}_\w+", folder.name):
        raise FileError(folder, "nnU-Net asks for a folder named like Dataset501_Heart")
    if folder.exists() and any(folder.iterdir()):
        raise FileError(folder, "is there already and not empty; choose another name")
    memory: dict[str, dict[str, str]] = {}
    counts = {"Tr": 0, "Ts": 0}
    for row in cohort:
        if not row.labels:
            continue
        case = cohort.read(row)
        part = "Ts" if row.split == "test" else "Tr"
        for frame in case.labelled_frames:
            name = f"{row.scan}_f{frame:03d}"
            _write_frame(folder, part, name, case, frame)
            memory[name] = _remember(row, frame)
            counts[part] += 1
    if not memory:
        raise CohortError(f"{cohort.name}: no scan has labels, so there is nothing for nnU-Net to learn from")
    names = {"background": 0, **{s.name: int(s) for s in TRAINED}, "ignore": _IGNORE}
    about = {
        "channel_names": {"0": "MR"},
        "labels": names,
        "numTraining": counts["Tr"],
        "file_ending": ".nii.gz",
        "description": "written by crossbeat",
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (folder / _MEMORY).write_text(json.dumps(memory, indent=2) + "\n", encoding="utf-8")
    return list(memory)


_IGNORE: Final = len(TRAINED) + 1  # nnU-Net: the ignore label must be the highest value


def _remember(row: Row, frame: int) -> dict[str, str]:
    kept = {
        k: row.value(k)
        for k in ("subject", "sequence", "vendor", "centre", "group", "split", "spacing_source")
    }
    return {**kept, "scan": row.scan, "frame": str(frame), "phase": row.phase(frame)}


def _write_frame(folder: Path, part: str, name: str, case: Case, frame: int) -> None:
    assert case.labels is not None
    labels = nnunet_labels(case.labels[frame], case.drawn[frame])
    image = case.image[frame : frame + 1]
    write_volume(folder / f"images{part}" / f"{name}_0000.nii.gz", image, case.affine)
    write_volume(folder / f"labels{part}" / f"{name}.nii.gz", labels[None], case.affine)


def nnunet_labels(labels: NDArray[np.uint8], drawn: frozenset[Structure]) -> NDArray[np.uint8]:
    """Our labels of one frame (z, y, x) as nnU-Net's, with `ignore` wherever the annotation does not decide."""
    folded = fold_into_myocardium(labels)
    out = folded.copy()
    out[folded == UNKNOWN] = _IGNORE
    if fold_drawn(drawn) != frozenset(TRAINED):
        out[folded == Structure.BACKGROUND] = _IGNORE
    return out


def _row(
    case: str,
    channel: str,
    image: Path,
    mask: Path,
    split: str,
    known: Mapping[str, str],
    about: Mapping[str, Any],
    sequence: str,
    convention: str,
    folder: Path,
) -> Row:
    channels = about.get("channel_names") or about.get("modality") or {}
    word = str(channels.get(str(int(channel)), "unknown")).lower()
    several = len(channels) > 1
    further = {"frame_of": known["scan"], "frame": known["frame"], "phase": known["phase"]} if known else {}
    return Row(
        subject=known.get("subject", "") or _FRAME_SUFFIX.sub("", case),
        scan=f"{case}_{channel}" if several else case,
        sequence=sequence or known.get("sequence", "") or word,
        vendor=known.get("vendor", ""),
        centre=known.get("centre", ""),
        group=known.get("group", ""),
        split=known.get("split", split),
        image=place(image, folder),
        labels=place(mask, folder) if mask.exists() else "",
        convention=convention,
        spacing_source="nominal" if known.get("spacing_source") == "nominal" else "header",
        further=further,
    )


def _convention(about: Mapping[str, Any], root: Path) -> tuple[str, dict[str, dict[int, str]]]:
    """The known convention with these values, else one of the data set's own."""
    values: dict[int, str] = {}
    for word, value in dict(about.get("labels") or {}).items():
        if not isinstance(value, int):
            raise FileError(
                root / "dataset.json",
                f"label {word!r} is the region {value}; regions are not read, give plain labels",
            )
        plain = re.sub(r"[^a-z]", "", word.lower())
        if plain not in _OF_NAME:
            hint = did_you_mean(plain, _OF_NAME)
            raise FileError(
                root / "dataset.json",
                f"label {word!r} = {value} is no structure known here; {hint} "
                "Rename it, or give the convention's name and describe it in a conventions.yaml",
            )
        values[value] = _OF_NAME[plain]
    ours = {v: UNKNOWN if n == "UNKNOWN" else int(Structure[n]) for v, n in values.items()}
    for known in ("mnms", "acdc", "emidec"):
        if dict(CONVENTIONS[known].values) == ours:
            return known, {}
    return root.name, {root.name: values}


def _read_json(path: Path, root: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise nothing_found(root, f"a {path.name}; `root` is the DatasetXXX_Name folder itself") from None
    except ValueError as error:
        raise FileError(path, f"is no valid JSON ({error}); repair it") from None
    if not isinstance(table, dict):
        raise FileError(path, "is no JSON object; repair it")
    return table


NNUNET: Final = Layout(
    name="nnunet",
    title="nnU-Net raw data set",
    licence="the owner's",
    source="https://github.com/MIC-DKFZ/nnUNet, documentation/reference/dataset-format.md",
    convention="",
    index=index_nnunet,
    options=("sequence", "convention"),
)
