"""A run folder as the commands leave it, made by a formula: beating round hearts, and predictions that err.

Masks, images and errors come from a seeded generator; the scores are computed from those masks here, by the
plainest means, so that the page can be checked against them.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort, Row, write_cohort
from crossbeat.labels import Structure

SPACING_MM = (9.0, 1.6, 1.4)
SHAPE = (8, 84, 96)
GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")
DRAWN = (Structure.LV, Structure.MYO, Structure.RV)
LOST = ("patient103", 5)
"""Scan and frame in which the prediction has no RV."""


@dataclass(frozen=True)
class FakeRun:
    """The folder, the cohort that reads its scans, and the reader of predictions."""

    path: Path
    cohort: Cohort
    lost: tuple[str, int] = LOST

    def read_prediction(self, row: Row) -> NDArray[np.uint8] | None:
        return _predicted_labels(row.scan)

    def lv_volumes_ml(self, scan: str) -> tuple[float, float]:
        """Of the predicted cavity, at ED and ES."""
        labels = _predicted_labels(scan)
        return _volume_of(labels[0], Structure.LV), _volume_of(labels[5], Structure.LV)

    def scores(self) -> list[dict[str, str]]:
        """scores.csv, as text."""
        return list(csv.DictReader((self.path / "scores.csv").read_text().splitlines()))


def make_run(
    path: Path, *, subjects: int = 10, size: str = "demo", nominal: bool = True, frames: int = 12
) -> FakeRun:
    """Write a complete run folder; the first scan has its own spacing even where the others are nominal."""
    rows = [
        Row(
            subject=f"patient{101 + i}", scan=f"patient{101 + i}", sequence="bssfp", image=f"{i}.nii.gz",
            vendor="Siemens" if i % 3 else "Philips", centre="Dijon", group=GROUPS[i % 5], split="test",
            labels=f"{i}_gt.nii.gz", convention="acdc", ed_frame=0, es_frame=5,
            spacing_source="nominal" if nominal and i else "header",
        )
        for i in range(subjects)
    ]  # fmt: skip
    trained = [
        replace(
            r, subject=f"patient{i:03d}", scan=f"patient{i:03d}", split="train" if i % 6 else "validation"
        )
        for i, r in enumerate(rows * 3, start=1)
    ]
    cohort = Cohort(tuple(rows), _reader(frames), "acdc")
    path.mkdir(parents=True)
    write_cohort(replace(cohort, rows=tuple(trained + rows)), path / "cohort.csv")
    _write_csv(path / "scores.csv", list(_scores(cohort)))
    _write_csv(path / "indices.csv", [_indices(row) for row in rows])
    _write_csv(path / "agreement.csv", list(_agreement(rows)))
    _write_csv(path / "volumes.csv", [v for row in rows for v in _volumes(row, frames)])
    _write_csv(path / "stages" / "segmentation" / "metrics.csv", list(_log()))
    (path / "settings.yaml").write_text(
        yaml.safe_dump({"source": {"sequence": ["bssfp"]}, "size": size, "profile": "ours", "select": "last",
                        "steps": 1500, "learning_rate": 1e-3, "transductive": False})
    )  # fmt: skip
    (path / "run.json").write_text(json.dumps(RUN))
    (path / "segmenter").mkdir()
    (path / "segmenter" / "segmenter.json").write_text(
        json.dumps(
            {"network": {"name": "unet", "width": 32}, "preparation": {"spacing_mm": 1.5, "size": 128}}
        )
    )
    (path / "predictions").mkdir()
    for row in rows:
        (path / "predictions" / f"{row.scan}.nii.gz").write_bytes(b"not read by the report")
    return FakeRun(path, cohort)


RUN: dict[str, Any] = {
    "method": "supervised", "select": "last", "seed": 7, "device": "NVIDIA H200", "git_commit": "52b42da",
    "wall_seconds": 287.4, "peak_memory_mb": 6321, "finished": "2026-11-20T16:27:00+00:00",
    "command": "crossbeat train supervised acdc.csv -o runs/acdc",
    "started": "2026-11-20T16:22:00+00:00", "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
}  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A complete run; not to be spoilt."""
    return make_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture
def whole_run(made: FakeRun, tmp_path: Path) -> FakeRun:
    """A copy that a test may spoil."""
    shutil.copytree(made.path, tmp_path / "run")
    return replace(made, path=tmp_path / "run")


@pytest.fixture
def run(whole_run: FakeRun) -> FakeRun:
    """A copy without curves and agreement, whose charts take most of the time."""
    for file in ("volumes.csv", "agreement.csv", "stages/segmentation/metrics.csv"):
        (whole_run.path / file).unlink()
    return whole_run


@pytest.fixture
def measured_run(tmp_path: Path) -> FakeRun:
    """A small run whose spacings are all true."""
    return make_run(tmp_path / "measured", subjects=2, nominal=False)


@cache
def _reference_labels(scan: str, frames: int = 12) -> NDArray[np.uint8]:
    """(t, z, y, x): a round LV with its wall and a round RV beside it, contracting until frame 5."""
    return np.stack([_heart(_rng(scan), t, frames, 0.0) for t in range(frames)])


@cache
def _predicted_labels(scan: str, frames: int = 12) -> NDArray[np.uint8]:
    """The reference drawn too far to one side and too large, more so in some subjects; one RV is lost."""
    rng = _rng(scan + "error")
    error = 0.9 + float(rng.gamma(1.6, 0.7))
    labels = np.stack([_heart(_rng(scan), t, frames, error) for t in range(frames)])
    labels[:, 0][labels[:, 0] == Structure.RV] = 0 if error > 2.6 else Structure.RV
    if scan == LOST[0]:
        labels[LOST[1]][labels[LOST[1]] == Structure.RV] = 0
    return labels


def _rng(text: str) -> np.random.Generator:
    return np.random.default_rng([ord(c) for c in text])


def _heart(rng: np.random.Generator, t: int, frames: int, error: float) -> NDArray[np.uint8]:
    radius_mm, wall_mm = rng.uniform(21, 29), rng.uniform(8, 12)
    beat = 1 - 0.28 * np.sin(np.pi * min(t / 5, (frames - t) / (frames - 5)) / 2)
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    taper = np.sqrt(np.clip(1 - (z / (SHAPE[0] + 0.3)) ** 2, 0, 1))
    dy = (y - 0.5 * SHAPE[1]) * SPACING_MM[1] - 0.8 * error * np.cos(z)
    dx = (x - 0.56 * SHAPE[2]) * SPACING_MM[2] - 0.9 * error
    distance = np.hypot(dy, dx)
    inner = radius_mm * beat * taper + 0.7 * error * np.sin(2 * np.arctan2(dy, dx) + z)
    outer = inner + wall_mm * (1.25 - 0.25 * beat) * (0.6 + 0.4 * taper)
    rv = (np.hypot(dy * 0.8, dx + radius_mm * 1.5) < 31 * (0.3 + 0.7 * beat) * taper + error) & (z < 7)
    labels = np.where(rv, Structure.RV, 0).astype(np.uint8)
    labels[distance < outer] = Structure.MYO
    labels[distance < inner] = Structure.LV
    return labels


def _reader(frames: int) -> Any:
    def read(row: Row) -> Case:
        labels = _reference_labels(row.scan, frames).copy()
        labels[[t for t in range(frames) if t not in (0, 5)]] = 255
        drawn = tuple(frozenset(DRAWN) if t in (0, 5) else frozenset() for t in range(frames))
        affine = np.diag([*SPACING_MM[::-1], 1.0])
        domain = Domain("bssfp", row.vendor, row.centre, row.group)
        return Case(row.scan, row.subject, _image(row.scan, frames), affine, domain, labels, drawn)

    return read


def _image(scan: str, frames: int) -> NDArray[np.float32]:
    """Blood bright, muscle dark, lungs darker, with a chest around and noise."""
    rng, labels = _rng(scan + "image"), _reference_labels(scan, frames)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    chest = np.hypot((y - 42) / 40, (x - 48) / 47) < 1
    fat = chest & (np.hypot((y - 42) / 37, (x - 48) / 44) > 1)
    lung = chest & (np.hypot((y - 38) / 30, (x - 78) / 22) < 1)
    tissue = np.where(fat, 230.0, np.where(lung, 25.0, np.where(chest, 95.0, 4.0)))
    image = np.broadcast_to(tissue, labels.shape).copy()
    for structure, level in ((Structure.RV, 190.0), (Structure.MYO, 62.0), (Structure.LV, 205.0)):
        image[labels == structure] = level
    image = ndimage.gaussian_filter(image, (0, 0, 0.8, 0.8)) + rng.normal(0, 9, image.shape)
    return np.clip(image, 0, None).astype(np.float32)


def _scores(cohort: Cohort) -> Iterator[dict[str, Any]]:
    for row in cohort:
        reference, predicted = _reference_labels(row.scan), _predicted_labels(row.scan)
        for frame, phase in ((0, "ED"), (5, "ES")):
            head = {"scan": row.scan, "subject": row.subject, "frame": frame, "phase": phase}
            tail = {
                c: row.value(c) for c in ("sequence", "vendor", "centre", "group", "split", "spacing_source")
            }
            yield from _volume_scores(predicted[frame], reference[frame], head, tail)
            for z in range(SHAPE[0]):
                where = {"slice": z, "level": ("base", "mid", "apex")[min(2, z * 3 // SHAPE[0])]}
                for s in DRAWN:
                    found = _measure(predicted[frame, z] == s, reference[frame, z] == s, SPACING_MM[1:])
                    for metric in ("dice", "hd95"):
                        yield {**head, **where, **_line(s.name, metric, found), **tail}


def _volume_scores(
    predicted: NDArray[np.uint8], reference: NDArray[np.uint8], head: dict[str, Any], tail: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    where = {"slice": "", "level": ""}
    found = {s.name: _measure(predicted == s, reference == s, SPACING_MM) for s in DRAWN}
    for metric in ("dice", "hd95", "assd"):
        for structure, values in found.items():
            yield {**head, **where, **_line(structure, metric, values), **tail}
        mean = float(np.mean([values[metric] for values in found.values()]))
        missed = any(v["status"] == "missed" for v in found.values())
        yield {
            **head,
            **where,
            **_line("mean", metric, {metric: mean, "status": "missed" if missed else "ok"}),
            **tail,
        }


def _line(structure: str, metric: str, found: dict[str, Any]) -> dict[str, Any]:
    value = found[metric]
    return {
        "structure": structure, "metric": metric, "unit": "" if metric == "dice" else "mm",
        "value": repr(float(value)), "status": found["status"],
    }  # fmt: skip


def _measure(p: NDArray[np.bool_], r: NDArray[np.bool_], spacing: tuple[float, ...]) -> dict[str, Any]:
    """Dice, HD95 and ASSD by distances from every surface voxel, with the rule for empty masks."""
    if not p.any() and not r.any():
        return {"dice": np.nan, "hd95": np.nan, "assd": np.nan, "status": "undefined"}
    if not p.any() or not r.any():
        diagonal = float(np.linalg.norm(np.multiply(p.shape, spacing)))
        return {"dice": 0.0, "hd95": diagonal, "assd": diagonal, "status": "missed"}
    rims = [m & ~ndimage.binary_erosion(m) for m in (p, r)]
    to = [ndimage.distance_transform_edt(~rim, spacing) for rim in rims]
    one, other = to[1][rims[0]], to[0][rims[1]]
    return {
        "dice": 2 * (p & r).sum() / (p.sum() + r.sum()),
        "hd95": max(np.percentile(one, 95), np.percentile(other, 95)),
        "assd": np.concatenate([one, other]).mean(),
        "status": "ok",
    }


def _volume_of(labels: NDArray[np.uint8], structure: Structure) -> float:
    return float((labels == structure).sum() * np.prod(SPACING_MM) / 1000)


def _index_values(labels: NDArray[np.uint8]) -> dict[str, float]:
    edv, esv = _volume_of(labels[0], Structure.LV), _volume_of(labels[5], Structure.LV)
    rv_edv, rv_esv = _volume_of(labels[0], Structure.RV), _volume_of(labels[5], Structure.RV)
    return {
        "lv_edv_ml": edv, "lv_esv_ml": esv, "lv_sv_ml": edv - esv, "lv_ef_percent": 100 * (edv - esv) / edv,
        "lv_mass_g": 1.05 * _volume_of(labels[0], Structure.MYO), "rv_edv_ml": rv_edv,
        "rv_esv_ml": rv_esv if rv_esv else np.nan,
        "rv_sv_ml": rv_edv - rv_esv if rv_esv else np.nan,
        "rv_ef_percent": 100 * (rv_edv - rv_esv) / rv_edv if rv_esv else np.nan,
    }  # fmt: skip


def _indices(row: Row) -> dict[str, Any]:
    values = _index_values(_predicted_labels(row.scan))
    return {
        "scan": row.scan, "subject": row.subject, "ed_frame": 0, "es_frame": 5,
        "ed_frame_from": "given", "es_frame_from": "given",
        **{k: "nan" if np.isnan(v) else v for k, v in values.items()}, "wall_thickness_ed_mm": 9.3,
        "wall_thickness_ed_max_mm": 11.0, "wall_thickness_es_mm": 12.1, "wall_thickness_es_max_mm": 14.9,
        "scar_mass_g": "nan", "spacing_source": row.spacing_source,
        "sequence": row.sequence, "split": row.split, "papillary": "in the LV cavity",
    }  # fmt: skip


def _agreement(rows: list[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        found, truth = (_index_values(f(row.scan)) for f in (_predicted_labels, _reference_labels))
        for index in ("lv_edv_ml", "lv_ef_percent", "rv_esv_ml"):
            yield {"scan": row.scan, "subject": row.subject, "index": index,
                   "predicted": found[index], "reference": truth[index],
                   "sequence": row.sequence, "split": row.split, "spacing_source": row.spacing_source}  # fmt: skip


def _volumes(row: Row, frames: int) -> Iterator[dict[str, Any]]:
    labels = _predicted_labels(row.scan, frames)
    for t in range(frames):
        lv, myo, rv = (_volume_of(labels[t], s) for s in DRAWN)
        yield {"scan": row.scan, "frame": t, "time_ms": 42.0 * t, "lv_ml": lv, "myo_ml": myo, "rv_ml": rv,
               "spacing_source": row.spacing_source}  # fmt: skip


def _log() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(3)
    for step in range(20, 1501, 20):
        fall = float(np.exp(-step / 350) + 0.06 + rng.normal(0, 0.008))
        yield {"step": step, "round": step // 100, "loss": 1.6 * fall, "cross_entropy": fall, "dice_loss": 0.6 * fall,
               "lr": 1e-3, "dice_source": 0.92 - 0.7 * fall if step % 100 == 0 else ""}  # fmt: skip


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
