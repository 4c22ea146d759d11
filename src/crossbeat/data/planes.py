"""One DICOM file becomes image planes: where each lies, when it was taken, and its pixels on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray

_ENHANCED_MR: Final = "1.2.840.10008.5.1.4.1.1.4.1"  # SOP class, DICOM PS3.4 B.5


class CannotStackError(Exception):
    """Why some planes are no stack."""


@dataclass(frozen=True)
class Plane:
    """One image: where it lies, when it was taken, where its pixels are."""

    path: Path
    index: int | None
    """Frame within a multi-frame file; None for a file of one image."""
    corner: NDArray[np.float64]
    """LPS mm of the centre of the first pixel."""
    row: NDArray[np.float64]
    """Direction of growing column index, LPS."""
    column: NDArray[np.float64]
    spacing: tuple[float, float]
    """mm between rows, between columns."""
    size: tuple[int, int]
    """Rows, columns."""
    time_ms: float | None
    order: tuple[float, ...]
    """Temporal position, acquisition and instance number, for want of a time."""
    slope: float
    intercept: float
    kind: str
    """Third and fourth value of ImageType where they say magnitude or phase."""

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.asarray(np.cross(self.row, self.column), np.float64)


def planes_of(dataset: pydicom.Dataset, path: Path) -> list[Plane]:
    """The planes of a file, one or (Enhanced MR) many; `CannotStackError` says why it has none that could be used."""
    if dataset.get("Modality", "MR") != "MR":
        raise CannotStackError(f"modality {dataset.Modality} is not MR; give cardiac MR")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise CannotStackError("holds no images (a report or presentation state); leave it out")
    if int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise CannotStackError("colour (RGB) images, such as screenshots or maps; give the grey series")
    try:
        if str(dataset.get("SOPClassUID", "")) == _ENHANCED_MR:
            return _enhanced_planes(dataset, path)
        if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
            raise CannotStackError("multi-frame images that are not Enhanced MR; export single images")
        return [_plane([dataset], dataset, path, None)]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, CannotStackError):
            raise
        raise CannotStackError(f"{path.name} has no usable position ({error}); export it again") from None


def _enhanced_planes(dataset: pydicom.Dataset, path: Path) -> list[Plane]:
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence", None) or [pydicom.Dataset()]))
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    return [
        _plane([*_macros(frame), *_macros(shared), dataset], dataset, path, index)
        for index, frame in enumerate(frames)
    ]


def _macros(group: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The items of a functional group, each holding a few plain attributes."""
    return [item for element in group if element.VR == "SQ" for item in element.value]


def _plane(
    places: Sequence[pydicom.Dataset], dataset: pydicom.Dataset, path: Path, index: int | None
) -> Plane:
    def get(name: str, default: Any = None) -> Any:
        found = (p.get(name) for p in places)
        return next((v for v in found if v not in (None, "")), default)

    position, orientation, spacing = (
        get(k) for k in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    for name, value in (("position", position), ("orientation", orientation), ("pixel spacing", spacing)):
        if value is None:
            raise CannotStackError(f"{path.name} says no {name}; export the original images")
    directions = np.asarray(orientation, np.float64).reshape(2, 3)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    time = get("TriggerTime", get("NominalCardiacTriggerDelayTime"))
    order = [get("TemporalPositionIndex", get("TemporalPositionIdentifier", 0))]
    order += [get("AcquisitionNumber", 0), get("InstanceNumber", 0), 0 if index is None else index]
    image_type = [str(v).upper() for v in get("FrameType", get("ImageType", ())) or ()]
    return Plane(
        path=path,
        index=index,
        corner=np.asarray(position, np.float64),
        row=directions[0],
        column=directions[1],
        spacing=(float(spacing[0]), float(spacing[1])),
        size=(int(dataset.Rows), int(dataset.Columns)),
        time_ms=None if time is None else float(time),
        order=tuple(float(v) for v in order),
        slope=float(get("RescaleSlope", 1)),
        intercept=float(get("RescaleIntercept", 0)),
        kind=next((v for v in image_type[2:] if v in ("P", "PHASE MAP", "VELOCITY", "R", "I")), "M"),
    )


def pixels_of(plane: Plane, opened: dict[Path, NDArray[Any]]) -> NDArray[np.float32]:
    """A plane's stored values (row, column), not yet rescaled; `opened` keeps multi-frame files between calls."""
    try:
        if plane.index is None:
            return np.asarray(pydicom.dcmread(plane.path).pixel_array, np.float32)
        if plane.path not in opened:
            opened[plane.path] = pydicom.dcmread(plane.path).pixel_array
        return np.asarray(opened[plane.path].reshape(-1, *plane.size)[plane.index], np.float32)
    except (AttributeError, ValueError, RuntimeError, OSError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CannotStackError(
            f"pixels of {plane.path.name} cannot be decoded ({reason}); export it uncompressed"
        ) from None
