"""The phantom as frozen: hearts, stacks, labels and grey values of `PHANTOM_VERSION` must not change unnoticed.

`python tests/synthetic/test_frozen_phantom.py` records them anew, for a new version only.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossbeat.labels import Structure
from crossbeat.synthetic import CHILDREN, GROUPS, PHANTOM_VERSION
from crossbeat.synthetic.cohort import draw_subject, scan_slice
from crossbeat.synthetic.imaging import draw_lattice, draw_session
from crossbeat.synthetic.planning import plan_stack
from crossbeat.synthetic.scanners import SCANNERS, SEQUENCES

RECORD = Path(__file__).with_name("frozen_phantom.json")
REMEDY = (
    "the phantom has changed: if it should, bump PHANTOM_VERSION, in a commit of its own, record it with "
    "`python tests/synthetic/test_frozen_phantom.py`, and re-run the tables that were measured on it"
)
PICTURES = [f"{sequence}-{vendor}" for sequence in SEQUENCES for vendor in SCANNERS]
PEOPLE = (*GROUPS, *CHILDREN)


def describe_heart(group: str) -> dict[str, float]:
    """Volumes, mass and strains of one heart of a group."""
    heart = draw_subject(0, PEOPLE.index(group), group)
    end, strains = heart.volumes_ml(heart.motion.es_phase), heart.strains(heart.motion.es_phase)
    numbers = {
        "edv_ml": heart.edv_ml, "esv_ml": end.lv_ml, "rv_edv_ml": heart.volumes_ml(0).rv_ml,
        "rv_esv_ml": end.rv_ml, "mass_g": heart.mass_g, "scar_g": heart.scar_g, "beat_ms": heart.beat_ms,
        "longitudinal": strains.longitudinal, "circumferential": strains.circumferential,
        "radial": strains.radial, "chest_width_mm": heart.chest.half_width_mm,
    }  # fmt: skip
    return {name: round(value, 4) for name, value in numbers.items()}


def describe_picture(name: str) -> dict[str, Any]:
    """Place of the stack, hash of the labels and grey values of the middle slice of an infarcted heart."""
    sequence, vendor = name.split("-")
    rng, heart = np.random.default_rng(PICTURES.index(name)), draw_subject(0, 3, "MINF")
    lattice = draw_lattice(np.random.default_rng(99))
    session = draw_session(rng, heart, SCANNERS[vendor], sequence, lattice)
    cuts, affine = plan_stack(rng, session)
    phase = 0.3 if sequence == "bssfp" else 0.75
    image, labels = scan_slice(rng, session, cuts[len(cuts) // 2], np.array([phase]))
    grey = {s.name: float(image[labels == s].mean()) for s in Structure if (labels == s).any()}
    grey |= {f"percentile {p}": float(np.percentile(image, p)) for p in (5, 50, 95, 99)}
    return {
        "slices": len(cuts),
        "affine": [round(float(v), 3) for v in affine[:3].ravel()],
        "voxels": np.bincount(labels.ravel(), minlength=6).tolist(),
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "grey": {k: round(v, 2) for k, v in grey.items()},
    }


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    assert found["version"] == PHANTOM_VERSION, REMEDY
    return found


@pytest.mark.parametrize("group", PEOPLE)
def test_hearts_are_those_of_the_version(group: str) -> None:
    assert describe_heart(group) == pytest.approx(recorded()["hearts"][group], rel=1e-4, abs=1e-4), REMEDY


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_those_of_the_version(name: str) -> None:
    found, kept = describe_picture(name), recorded()["pictures"][name]
    assert found["slices"] == kept["slices"], REMEDY
    assert found["affine"] == pytest.approx(kept["affine"], abs=2e-3), REMEDY
    assert found["voxels"] == kept["voxels"], REMEDY
    assert found["labels"] == kept["labels"], REMEDY
    # Libraries round Fourier transforms and logarithms differently, by far less than this.
    assert found["grey"] == pytest.approx(kept["grey"], rel=2e-3, abs=0.05), REMEDY


def record() -> None:
    """Keep what the phantom gives now as that of its version."""
    hearts = {group: describe_heart(group) for group in PEOPLE}
    pictures = {name: describe_picture(name) for name in PICTURES}
    kept = {"version": PHANTOM_VERSION, "hearts": hearts, "pictures": pictures}
    RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
