"""Tiny folders in the exact layout of each public data set, and DICOM series as the vendors write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from crossbeat.labels import CONVENTIONS, Structure

AFFINE = np.array([[-1.3, 0, 0, 30], [0, -1.5, 0, -20], [0, 0, 8.0, 10], [0, 0, 0, 1]])
SIZE = (24, 22, 4)
"""Stored (i, j, k) of every tiny scan."""


def heart(
    frame: int = 0, structures: Sequence[Structure] = (Structure.RV, Structure.MYO, Structure.LV)
) -> np.ndarray:
    """Our labels (i, j, k): an LV disc in a ring of myocardium, an RV to the left; the LV shrinks with the frame."""
    i, j, _ = np.indices(SIZE)
    out = np.zeros(SIZE, np.int16)
    radius = np.hypot(i - 13, j - 11)
    shapes = {
        Structure.RV: np.hypot(i - 6, j - 11) < 4.5,
        Structure.MYO: radius < 7,
        Structure.LV: radius < 4 - frame,
        Structure.SCAR: (radius < 7) & (radius >= 4) & (i > 17),
        Structure.EDEMA: (radius < 7) & (radius >= 4) & (j > 15),
    }
    for structure in structures:
        out[shapes[structure]] = structure
    return out


def grey(labels: np.ndarray, seed: int) -> np.ndarray:
    """An image whose blood is bright, with noise, so that no two scans are alike."""
    noise = np.random.default_rng(seed).normal(0, 20, labels.shape)
    return (np.isin(labels, (1, 3)) * 500 + 100 + noise).astype(np.int16)


def foreign(labels: np.ndarray, convention: str) -> np.ndarray:
    """Our labels in a data set's own values."""
    values = {ours: theirs for theirs, ours in reversed(CONVENTIONS[convention].values.items())}
    return np.vectorize(lambda v: values[int(v)])(labels).astype(np.int16)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def acdc(root: Path) -> None:
    """patient001 with its 4-D cine, frames 1 and 3; patient101, for testing, with single frames 1 and 14."""
    one = root / "training" / "patient001"
    frames = [heart(0), heart(1), heart(1)]
    save(one / "patient001_4d.nii.gz", np.stack([grey(f, t) for t, f in enumerate(frames)], -1))
    for number, frame in ((1, 0), (3, 1)):
        save(one / f"patient001_frame{number:02d}.nii.gz", grey(heart(frame), number))
        save(one / f"patient001_frame{number:02d}_gt.nii.gz", foreign(heart(frame), "acdc"))
    text = "ED: 1\nES: 3\nGroup: DCM\nHeight: 184.0\nNbFrame: 3\nWeight: 95.0\n"
    (one / "Info.cfg").write_text(text)
    two = root / "testing" / "patient101"
    for number, frame in ((1, 0), (14, 1)):
        save(two / f"patient101_frame{number:02d}.nii.gz", grey(heart(frame), 10 + number))
        save(two / f"patient101_frame{number:02d}_gt.nii.gz", foreign(heart(frame), "acdc"))
    (two / "Info.cfg").write_text("ED: 1\nES: 14\nGroup: NOR\nHeight: 169.0\nNbFrame: 30\nWeight: 79.0\n")


def mnms(root: Path) -> None:
    """One labelled patient for training, one in Unlabeled whose labels must not be used, one for testing."""
    lines = [",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight"]
    places = {"A0S9V9": "Training/Labeled", "B1C2D3": "Training/Unlabeled", "G7H8I9": "Testing"}
    for n, (code, part) in enumerate(places.items()):
        frames = [heart(0), heart(1), heart(2)]
        save(
            root / part / code / f"{code}_sa.nii.gz",
            np.stack([grey(f, 9 * n + t) for t, f in enumerate(frames)], -1),
        )
        labels = np.stack(
            [foreign(heart(0), "mnms"), np.zeros(SIZE, np.int16), foreign(heart(2), "mnms")], -1
        )
        save(root / part / code / f"{code}_sa_gt.nii.gz", labels)
        lines.append(f"{n},{code},Siemens,A,{n + 1},0,2,55,HCM,M,170,80.0")
    (root / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").write_text("\n".join(lines) + "\n")


def mscmrseg(root: Path) -> None:
    """Patients 1 (labelled LGE, for validation) and 6 (LGE for testing)."""
    for number in (1, 6):
        for n, name in enumerate(("C0", "T2", "LGE")):
            base = f"patient{number}_{name}"
            save(root / "c0t2lge" / f"{base}.nii.gz", grey(heart(), 10 * number + n))
            if name != "LGE" or number == 1:
                save(root / f"{name.lower()}gt" / f"{base}_manual.nii.gz", foreign(heart(), "mscmrseg"))


def myops(root: Path) -> None:
    """Patient 101 with one label file for three sequences, patient 201 for testing without."""
    drawn = [Structure.RV, Structure.MYO, Structure.LV, Structure.EDEMA, Structure.SCAR]
    for n, name in enumerate(("C0", "DE", "T2")):
        save(root / "train25" / f"myops_training_101_{name}.nii.gz", grey(heart(), n))
        save(root / "test20" / f"myops_test_201_{name}.nii.gz", grey(heart(), 10 + n))
    labels = foreign(heart(structures=drawn), "myops")
    save(root / "train25_myops_gd" / "myops_training_101_gd.nii.gz", labels)


def emidec(root: Path) -> None:
    """A normal case, one with an infarct, and one of the test set without contours."""
    for n, case in enumerate(("Case_N006", "Case_P012", "Case_020")):
        drawn = [Structure.MYO, Structure.LV] + ([Structure.SCAR] if n == 1 else [])
        save(root / case / "Images" / f"{case}.nii.gz", grey(heart(), n))
        if n < 2:
            labels = foreign(heart(structures=drawn), "emidec").astype(np.float64)
            save(root / case / "Contours" / f"{case}.nii.gz", labels)


def nnunet(root: Path) -> None:
    """A set of two frames of one patient for training and one of another for testing, in ACDC's values."""
    for part, case, frame in (
        ("Tr", "patient001_frame01", 0),
        ("Tr", "patient001_frame12", 1),
        ("Ts", "patient101_frame01", 0),
    ):
        save(root / f"images{part}" / f"{case}_0000.nii.gz", grey(heart(frame), 5 * frame + len(part + case)))
        if part == "Tr":
            save(root / f"labels{part}" / f"{case}.nii.gz", foreign(heart(frame), "acdc"))
    # two images of one content would be reported as twins
    save(root / "imagesTs" / "patient101_frame01_0000.nii.gz", grey(heart(), 77))
    about = {
        "channel_names": {"0": "bssfp"},
        "labels": {"background": 0, "RV": 1, "MLV": 2, "LVC": 3},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(about))


def files(root: Path) -> None:
    """Two subjects in folders of their own, one of them labelled, in our values."""
    for n, subject in enumerate(("anna", "bert")):
        save(root / subject / "sax.nii.gz", grey(heart(), n))
    save(root / "anna" / "sax_mask.nii.gz", heart())


def scd(root: Path) -> None:
    """SC-HF-I-1: 3 slices of 4 frames; ED is frame 3 with both walls in two slices, ES frame 1 with one."""
    cine(root / "images" / "SC-HF-I-1" / "CINESAX", slices=3, frames=4, name="IM-0001-{:04d}.dcm")
    contours = root / "contours" / "SC-HF-I-1" / "contours-manual" / "IRCCI-expert"
    contours.mkdir(parents=True)
    for number, walls in ((4, "io"), (8, "io"), (2, "i"), (6, "i")):
        for wall in walls:
            circle(
                contours / f"IM-0001-{number:04d}-{wall}contour-manual.txt", 12, 10, 4 if wall == "i" else 7
            )


def circle(path: Path, x: float, y: float, radius: float) -> None:
    """A contour in the challenge's pixel coordinates, rounded to half pixels."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
    path.write_text("".join(f"{a:.2f} {b:.2f}\n" for a, b in np.round(points * 2) / 2))


def dicom(root: Path) -> None:
    """One patient with a cine in one series and an LGE stack, another with one series a slice."""
    cine(root / "p1" / "cine", description="cine_sax", uid="1.2.3.1")
    cine(root / "p1" / "lge", description="PSIR LGE sax", frames=1, uid="1.2.3.2", seed=50)
    for z in range(3):
        cine(
            root / "p2" / f"s{z}",
            description=f"tfi2d cine SA {z}",
            uid=f"1.2.4.{z}",
            only=[z],
            number=z,
            seed=90,
            change=of_patient("Q", "1.2.4"),
        )


def of_patient(patient: str, study: str) -> Callable[[Dataset, int, int], None]:
    """A change of `cine` that gives the images to another patient and study."""

    def change(dataset: Dataset, z: int, t: int) -> None:
        dataset.PatientID, dataset.StudyInstanceUID = patient, study

    return change


LAYOUTS: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (acdc, mnms, mscmrseg, myops, emidec, scd, nnunet, files, dicom)
}

# Directions of a short-axis stack in DICOM's LPS: row, column, and the normal between slices.
ROW = np.array([0.6, 0.8, 0.0])
COLUMN = np.array([0.48, -0.36, -0.8])
NORMAL = np.cross(ROW, COLUMN)
CORNER = np.array([-80.0, -60.0, 70.0])


def pixels(z: int, t: int, seed: int = 0, rows: int = 20, columns: int = 24) -> np.ndarray:
    """The picture of slice z and frame t: noise from 0 to 99, and one bright pixel that tells z and t."""
    picture = np.random.default_rng((seed, z, t)).integers(0, 100, (rows, columns)).astype(np.uint16)
    picture[2 + z, 3 + t] = 1000 + 100 * z + t
    return picture


def cine(
    folder: Path,
    slices: int = 3,
    frames: int = 4,
    *,
    description: str = "cine",
    uid: str = "2.16.124.113543.6006.99.08975550791105350405",
    name: str = "img{:04d}.dcm",
    only: Sequence[int] | None = None,
    number: int = 300,
    seed: int = 0,
    gap_mm: float = 8.0,
    change: Callable[[Dataset, int, int], bool | None] = lambda dataset, z, t: None,
) -> None:
    """Write a SAX cine, slice-major as GE does; `change` edits each header, and drops the image by returning False."""
    folder.mkdir(parents=True, exist_ok=True)
    instance = 0
    for z in range(slices):
        for t in range(frames):
            instance += 1
            if only is not None and z not in only:
                continue
            dataset = _image(z, t, frames, instance, seed, gap_mm)
            dataset.SeriesDescription, dataset.SeriesNumber = description, number
            with pydicom.config.disable_value_validation():
                dataset.SeriesInstanceUID = uid
                if change(dataset, z, t) is not False:
                    dataset.save_as(folder / name.format(instance), enforce_file_format=True)


def _image(z: int, t: int, frames: int, instance: int, seed: int, gap_mm: float) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{seed}.{instance}"
    d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    d.Modality, d.Manufacturer, d.PatientID = "MR", "GE MEDICAL SYSTEMS", "P"
    d.StudyInstanceUID = "1.2.3"
    d.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    d.SequenceVariant = "SS"
    d.InstanceNumber, d.AcquisitionNumber = instance, 1
    d.ImagePositionPatient = [round(float(v), 5) for v in CORNER + z * gap_mm * NORMAL]
    d.ImageOrientationPatient = [float(v) for v in (*ROW, *COLUMN)]
    d.PixelSpacing = [1.5, 1.25]
    d.SliceThickness = 6
    if frames > 1:
        d.TriggerTime = 20.0 + 40.0 * t
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    picture = pixels(z, t, seed)
    d.Rows, d.Columns = picture.shape
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation = 15, 0
    d.PixelData = picture.tobytes()
    return d
