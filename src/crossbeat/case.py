"""Case: one scan in memory, checked when made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbeat import geometry
from crossbeat.errors import CaseError
from crossbeat.labels import UNKNOWN, Structure


@dataclass(frozen=True)
class Domain:
    """Where a scan comes from: what adaptation has to bridge. Lower-case sequence; empty where not known."""

    sequence: str
    vendor: str = ""
    centre: str = ""
    group: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """One scan. Axes are always (t, z, y, x); a still volume has t = 1.

    Refused at birth, by `CaseError` with the scan's name: wrong shapes or types, non-finite voxels, a
    singular affine, label values outside `Structure` and `UNKNOWN`.
    """

    id: str
    subject: str
    image: NDArray[np.float32]
    """(t, z, y, x), arbitrary MR units."""
    affine: geometry.Affine
    """(4, 4): voxel (x, y, z, 1) to RAS+ mm."""
    domain: Domain
    labels: NDArray[np.uint8] | None = None
    """(t, z, y, x), values of `Structure` or `UNKNOWN`; None where nobody drew anything."""
    drawn: tuple[frozenset[Structure], ...] = ()
    """For each frame what its annotator drew; empty for a frame that nobody labelled."""
    frame_times_ms: NDArray[np.float64] | None = None
    """(t,) time after the R wave, where known."""

    def __post_init__(self) -> None:
        self._check_image()
        self._check_affine()
        self._check_labels()
        if self.frame_times_ms is not None and self.frame_times_ms.shape != (self.frames,):
            raise CaseError(
                self.id,
                f"needs one time a frame, got {self.frame_times_ms.size} times for {self.frames} frames",
            )

    @property
    def frames(self) -> int:
        """Number of frames t."""
        return int(self.image.shape[0])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(z, y, x); along z the distance between slice centres, gap included."""
        return geometry.spacing_mm(self.affine)

    @property
    def labelled_frames(self) -> list[int]:
        """Frames of which at least one voxel was looked at."""
        if self.labels is None:
            return []
        return [t for t in range(self.frames) if self.drawn[t]]

    def _check_image(self) -> None:
        if self.image.ndim != 4 or 0 in self.image.shape:
            raise CaseError(
                self.id, f"the image must be (t, z, y, x) and not empty, got shape {self.image.shape}"
            )
        if self.image.dtype != np.float32:
            raise CaseError(self.id, f"the image must be float32, got {self.image.dtype}")
        if not np.isfinite(self.image).all():
            count = int((~np.isfinite(self.image)).sum())
            raise CaseError(
                self.id, f"{count} voxels are NaN or infinite; export the scan again or fill them"
            )

    def _check_affine(self) -> None:
        good = self.affine.shape == (4, 4) and np.isfinite(self.affine).all()
        if not good or abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise CaseError(self.id, f"the affine is singular or not 4 x 4: {self.affine.tolist()}")

    def _check_labels(self) -> None:
        if self.labels is None:
            if any(self.drawn):
                raise CaseError(self.id, "says what was drawn, but has no labels")
            object.__setattr__(self, "drawn", (frozenset(),) * self.frames)
            return
        if self.labels.shape != self.image.shape:
            raise CaseError(
                self.id,
                f"labels have shape {self.labels.shape}, the image has {self.image.shape} (t, z, y, x)",
            )
        if self.labels.dtype != np.uint8:
            raise CaseError(self.id, f"labels must be uint8, got {self.labels.dtype}")
        strange = set(np.unique(self.labels).tolist()) - {int(s) for s in Structure} - {UNKNOWN}
        if strange:
            raise CaseError(self.id, f"labels hold values {sorted(strange)} that are no structure")
        if len(self.drawn) != self.frames:
            raise CaseError(
                self.id, f"`drawn` needs one set a frame, got {len(self.drawn)} for {self.frames} frames"
            )
