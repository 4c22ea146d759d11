"""NIfTI in and out: files of any orientation become (t, z, y, x) arrays with one affine, and go back.

Only the three spatial axes are turned, by `geometry.find_turn`, so that the same scan gives the same array
however it was stored. Label maps are written on the input's own axes, with its own header.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from crossbeat import geometry
from crossbeat.errors import FileError, GeometryWarning
from crossbeat.labels import UNKNOWN, Structure

DESCRIPTION: Final = "crossbeat labels 1=LV 2=MYO 3=RV"
"""What stands in the header of every label map of ours (NIfTI allows 79 characters)."""

_ROUNDING: Final = 1e-4  # cosine between axes that float32 headers reach by rounding alone
_REPAIRABLE: Final = 0.05  # cosine, 2.9 degrees: the M&Ms headers that ITK refuses are below it
_INTENT_LABEL: Final = 1002  # NIFTI_INTENT_LABEL, nifti1.h
_INTENT_DISPLACEMENT: Final = 1006  # NIFTI_INTENT_DISPVECT, nifti1.h
_DISPLACEMENT: Final = b"crossbeat mm"  # intent_name of our displacements; other programs store other axes
_MM: Final = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}
_MS: Final = {"sec": 1e3, "msec": 1.0, "usec": 1e-3}
_BROKEN: Final = (ImageFileError, OSError, EOFError, zlib.error, ValueError, KeyError, OverflowError)


@dataclass(frozen=True)
class Info:
    """What a NIfTI file said of itself, needed to write back onto its grid and to compare it with another."""

    path: Path
    shape: tuple[int, ...]
    """As stored, (i, j, k) or (i, j, k, t)."""
    file_affine: geometry.Affine
    """(4, 4) of the stored axes, in mm, repaired where that was needed."""
    turn: geometry.Turn
    frame_interval_ms: float | None
    """From pixdim[4], where the header states its unit."""
    states_position: bool
    """False where qform and sform are both unset: the header then says nothing of where the patient lay."""

    @property
    def frames(self) -> int:
        """Number of frames; 1 for a 3-D file."""
        return self.shape[3] if len(self.shape) == 4 else 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """The stored (i, j, k)."""
        return self.shape[0], self.shape[1], self.shape[2]

    @property
    def affine(self) -> geometry.Affine:
        """(4, 4) of our axes: voxel (x, y, z, 1) to RAS+ mm."""
        return self.turn.affine(self.file_affine, self.grid)


class Volume(NamedTuple):
    """A file's voxels on our axes, and where they lie."""

    array: NDArray[np.float32]
    """(t, z, y, x)."""
    affine: geometry.Affine
    info: Info


class Displacement(NamedTuple):
    """Where each voxel of every frame of a scan lies in one of its frames."""

    array: NDArray[np.float32]
    """(t, 3, z, y, x): mm along z, y and x of our axes, from a voxel's place to that in `into_frame`."""
    affine: geometry.Affine
    into_frame: int


def read_volume(path: Path, *, warn: bool = True) -> Volume:
    """An image as (t, z, y, x) float32 with our affine; a 3-D file has t = 1.

    Slightly skewed axes are made right-angled, and an affine that lost its scale takes it from pixdim, both
    with a `GeometryWarning` (unless `warn` is off). Everything else that cannot be used raises `FileError`.
    """
    image, info = _open(path, warn)
    array = on_our_axes(_voxels(image, path), info.turn)
    return Volume(array, info.affine, info)


def read_info(path: Path, *, warn: bool = True) -> Info:
    """The header alone; refuses what `read_volume` refuses, but for damage in the voxels."""
    return _open(path, warn)[1]


def on_our_axes(stored: NDArray[np.float32], turn: geometry.Turn) -> NDArray[np.float32]:
    """Stored (i, j, k) or (i, j, k, t) voxels as (t, z, y, x), contiguous."""
    frames = stored[..., None] if stored.ndim == 3 else stored
    turned = [turn.apply(frames[..., t]) for t in range(frames.shape[3])]
    return np.stack(turned).astype(np.float32, copy=False)


def write_labels(
    path: Path,
    labels: NDArray[np.uint8],
    like: Path | Sequence[Path],
    provenance: Mapping[str, object] | None = None,
) -> None:
    """Write a label map (t, z, y, x) uint8, in our values, on the grid of the image it belongs to.

    Axis order, affine, qform and sform are the image's own, 3-D for 3-D and 4-D for 4-D; several 3-D files
    in `like` are the frames, and give one 4-D file. A JSON beside it names the labels and keeps `provenance`.
    """
    images = [like] if isinstance(like, Path) else list(like)
    image, info = _open(images[0], warn=False)
    frames = info.frames if len(images) == 1 else len(images)
    expected = (frames, *info.turn.apply(np.empty(info.grid, bool)).shape)
    if labels.dtype != np.uint8 or labels.shape != expected:
        raise ValueError(
            f"{path}: labels must be uint8 of shape {expected} (t, z, y, x) to lie on {images[0]}, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    back = np.stack([info.turn.undo(frame) for frame in labels], axis=-1)
    stored = back if len(info.shape) == 4 or len(images) > 1 else back[..., 0]
    _save(type(image)(np.ascontiguousarray(stored), None, _label_header(image.header, stored.shape)), path)
    _write_sidecar(path, images, provenance or {})


def write_displacement(
    path: Path,
    displacement_mm: NDArray[np.float32],
    into_frame: int,
    like: Path | Sequence[Path],
    provenance: Mapping[str, object] | None = None,
) -> None:
    """Write where each voxel of every frame lies in frame `into_frame`, on the grid of the image it belongs to.

    `displacement_mm` is (t, 3, z, y, x) float32, in mm along z, y and x of our axes. The file is (i, j, k, t, 3) on
    the image's own axes, its components mm along i, j and k; a JSON beside it says so and keeps `provenance`.
    """
    images = [like] if isinstance(like, Path) else list(like)
    image, info = _open(images[0], warn=False)
    frames = info.frames if len(images) == 1 else len(images)
    expected = (frames, 3, *info.turn.apply(np.empty(info.grid, bool)).shape)
    if displacement_mm.dtype != np.float32 or displacement_mm.shape != expected:
        raise ValueError(
            f"{path}: a displacement must be float32 of shape {expected} (t, 3, z, y, x) to lie on {images[0]}, "
            f"got {displacement_mm.dtype} of shape {displacement_mm.shape}"
        )
    stored = np.empty((*info.grid, frames, 3), np.float32)
    for ours, (axis, flip) in enumerate(zip(info.turn.axes, info.turn.flips, strict=True)):
        for t, component in enumerate(displacement_mm[:, ours]):
            stored[..., t, axis] = info.turn.undo(-component if flip else component)
    header = _displacement_header(image.header, stored.shape, into_frame)
    _save(type(image)(stored, None, header), path)
    about = {
        "quantity": "displacement: where each voxel of a frame lies in frame `into_frame`",
        "unit": "mm",
        "axes": "(i, j, k, frame, component); the components are along i, j and k of this file",
        "into_frame": into_frame,
        "image": [p.name for p in images],
    }
    _write_json(sidecar(path), about | dict(provenance or {}))


def read_displacement(path: Path) -> Displacement:
    """Read what `write_displacement` wrote, on our axes.

    Other files of vectors are refused (`FileError`): nobody knows the axes and the unit of theirs.
    """
    image, info = _open(path, warn=False, vectors=True)
    if bytes(image.header["intent_name"].item()) != _DISPLACEMENT:
        raise FileError(
            path, "is no displacement of ours, so its axes and unit are not known; give one of `propagate`"
        )
    stored = _voxels(image, path)
    parts = [
        on_our_axes(stored[..., axis], info.turn) * (-1 if flip else 1)
        for axis, flip in zip(info.turn.axes, info.turn.flips, strict=True)
    ]
    array = np.stack(parts, axis=1).astype(np.float32, copy=False)
    return Displacement(array, info.affine, int(image.header["intent_p1"]))


def write_volume(
    path: Path,
    array: NDArray[Any],
    affine: geometry.Affine,
    *,
    frame_interval_ms: float | None = None,
    description: str = "",
) -> None:
    """Write (t, z, y, x) voxels with an affine of ours; one frame gives a 3-D file, several a 4-D one.

    The type of the array is kept (float32, int16, uint8 …); the frame interval goes to pixdim[4] in ms.
    """
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(f"{path}: need voxels (t, z, y, x), got shape {array.shape}")
    stored = array.transpose(3, 2, 1, 0)
    make: Any = nib.Nifti1Image
    image = make(np.ascontiguousarray(stored[..., 0] if len(array) == 1 else stored), affine)
    image.header.set_xyzt_units("mm", "msec")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if len(array) > 1 and frame_interval_ms is not None:
        image.header["pixdim"][4] = frame_interval_ms
    image.header["descrip"] = description.encode()[:79]
    _save(image, path)


def sidecar(path: Path) -> Path:
    """Name of the JSON beside a NIfTI file."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _open(path: Path, warn: bool, *, vectors: bool = False) -> tuple[Any, Info]:
    if not path.is_file():
        raise FileError(
            path, "there is no such file; correct the path in the cohort.csv, or restore the file"
        )
    if path.stat().st_size == 0:
        raise FileError(path, "is an empty file; copy or export it again")
    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
    except _BROKEN as error:
        raise FileError(path, f"is no readable NIfTI file ({_first_line(error)}); export it again") from None
    if not isinstance(image, nib.Nifti1Pair):
        raise FileError(path, f"is {type(image).__name__}, not NIfTI; convert it to .nii.gz")
    if vectors:
        if len(shape) != 5 or shape[4] != 3:
            raise FileError(path, f"has shape {shape}, a displacement is (i, j, k, frames, 3)")
        shape = shape[:4]
    _check_kind(path, image, shape)
    affine = _usable_affine(path, image, warn)
    turn = geometry.find_turn(affine, (shape[0], shape[1], shape[2]))
    codes = int(image.header["qform_code"]), int(image.header["sform_code"])
    return image, Info(path, shape, affine, turn, _frame_interval_ms(image.header), max(codes) > 0)


def _check_kind(path: Path, image: Any, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4):
        remedy = "give a stack of slices" if len(shape) < 3 else "split it into files of x, y, z and time"
        raise FileError(path, f"has {len(shape)} dimensions {shape}, 3 or 4 are needed; {remedy}")
    if 0 in shape:
        raise FileError(path, f"has no voxels, its shape is {shape}; export it again")
    kind = image.get_data_dtype()
    if kind.fields or kind.kind not in "iufb":
        name = "colour (RGB)" if kind.fields else f"{kind} (complex)" if kind.kind == "c" else str(kind)
        raise FileError(path, f"holds {name} voxels; export grey values (the magnitude image)")


def _voxels(image: Any, path: Path) -> NDArray[np.float32]:
    try:
        with np.errstate(all="ignore"):
            return np.asarray(image.dataobj, dtype=np.float32)
    except (*_BROKEN, MemoryError) as error:
        raise FileError(
            path, f"is damaged or cut short ({_first_line(error)}); copy or export it again"
        ) from None


def _usable_affine(path: Path, image: Any, warn: bool) -> geometry.Affine:
    affine = np.array(image.affine, np.float64)
    affine[:3] *= _MM.get(image.header.get_xyzt_units()[0], 1.0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise FileError(
            path, f"has a singular affine {affine[:3].tolist()}; set sform and pixdim, or export again"
        )
    affine = _with_scale(path, affine, np.asarray(image.header.get_zooms()[:3], np.float64), warn)
    error = geometry.orthogonality_error(affine)
    if error > _REPAIRABLE:
        raise FileError(
            path,
            f"has skewed axes (cosine {error:.3f} between two of them, at most {_REPAIRABLE} can be repaired); "
            "resample the scan to a right-angled grid",
        )
    if error <= _ROUNDING:
        return affine
    if warn:
        message = f"{path}: axes are not at right angles (cosine {error:.4f}); the nearest rotation is used"
        warnings.warn(message, GeometryWarning, stacklevel=4)
    return geometry.nearest_rotation(affine)


def _with_scale(
    path: Path, affine: geometry.Affine, pixdim: NDArray[np.float64], warn: bool
) -> geometry.Affine:
    """ACDC wrote affines of unit columns beside a true pixdim (patient101): there, and only there, pixdim wins."""
    unit = np.allclose(geometry.column_lengths(affine), 1.0, atol=1e-3)
    if (
        not unit
        or not (np.isfinite(pixdim).all() and (pixdim > 0).all())
        or np.allclose(pixdim, 1.0, rtol=0.01)
    ):
        return affine
    if warn:
        said = " x ".join(f"{mm:g}" for mm in pixdim)
        message = f"{path}: its affine says 1 x 1 x 1 mm and its pixdim {said} mm; pixdim is used"
        warnings.warn(message, GeometryWarning, stacklevel=5)
    scaled = affine.copy()
    scaled[:3, :3] *= pixdim
    return scaled


def _frame_interval_ms(header: Any) -> float | None:
    unit = header.get_xyzt_units()[1]
    step = float(header["pixdim"][4])
    return step * _MS[unit] if unit in _MS and np.isfinite(step) and step > 0 else None


def _label_header(header: Any, shape: tuple[int, ...]) -> Any:
    ours = header.copy()
    ours.extensions.clear()
    ours.set_data_dtype(np.uint8)
    ours.set_data_shape(shape)
    ours["pixdim"] = header["pixdim"]
    ours.set_slope_inter(1, 0)
    ours["cal_min"] = ours["cal_max"] = 0
    ours["intent_code"] = _INTENT_LABEL
    ours["intent_name"] = b"crossbeat labels"
    ours["descrip"] = DESCRIPTION.encode()
    ours["aux_file"] = b""
    return ours


def _displacement_header(header: Any, shape: tuple[int, ...], into_frame: int) -> Any:
    """That of the image, but for what the voxels are."""
    ours = _label_header(header, shape)
    ours.set_data_dtype(np.float32)
    ours["intent_code"] = _INTENT_DISPLACEMENT
    ours["intent_p1"] = into_frame
    ours["intent_name"] = _DISPLACEMENT
    ours["descrip"] = f"where each voxel lies in frame {into_frame}, mm along i, j, k".encode()
    return ours


def _write_sidecar(path: Path, images: Sequence[Path], provenance: Mapping[str, object]) -> None:
    names = {str(int(s)): s.name for s in Structure} | {str(UNKNOWN): "UNKNOWN"}
    about = {"convention": "crossbeat", "labels": names, "image": [p.name for p in images]}
    _write_json(sidecar(path), about | dict(provenance))


def _write_json(path: Path, about: Mapping[str, object]) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _save(image: Any, path: Path) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise FileError(path, "is no NIfTI name; let it end in .nii.gz or .nii")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        nib.save(image, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
