"""Masks in, numbers out: overlap, surface distances and clinical indices, in numpy and scipy only."""

from crossbeat.metrics.clinical import (
    Indices,
    WallThickness,
    ejection_fraction_percent,
    find_ed_es,
    indices,
    mass_g,
    slice_levels,
    stroke_volume_ml,
    volume_curve_ml,
    volume_ml,
    wall_thickness_mm,
)
from crossbeat.metrics.overlap import Mask, Status, dice, jaccard, status
from crossbeat.metrics.surface import (
    SurfaceDistances,
    assd,
    diagonal_mm,
    hausdorff,
    hausdorff95,
    hausdorff95_pooled,
    surface_distances,
)

__all__ = [
    "Indices",
    "Mask",
    "Status",
    "SurfaceDistances",
    "WallThickness",
    "assd",
    "diagonal_mm",
    "dice",
    "ejection_fraction_percent",
    "find_ed_es",
    "hausdorff",
    "hausdorff95",
    "hausdorff95_pooled",
    "indices",
    "jaccard",
    "mass_g",
    "slice_levels",
    "status",
    "stroke_volume_ml",
    "surface_distances",
    "volume_curve_ml",
    "volume_ml",
    "wall_thickness_mm",
]
