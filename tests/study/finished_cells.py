"""What the tests of all engines ask of a study: open it, what became of its cells, whether two ended alike."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from crossbeat.data.nifti import read_volume
from crossbeat.study.folder import Means, StudyFolder
from crossbeat.study.local import Outcome
from crossbeat.study.plan import Study


def opened(folder: Path, study: Study, cohort_csv: Path) -> StudyFolder:
    return StudyFolder(folder).open(study, cohort_csv, Means("cpu", "32"))


def problems(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.cell.name: outcome.problem for outcome in outcomes}


def same_results(one: Path, other: Path) -> None:
    """Weights, label maps and scores of two run folders are equal to the last bit."""
    ours, theirs = (load_file(run / "segmenter" / "weights.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    maps = sorted(path.name for path in (one / "predictions").glob("*.nii.gz"))
    assert maps
    for name in maps:
        a, b = (read_volume(run / "predictions" / name)[0] for run in (one, other))
        assert np.array_equal(a, b)
    assert (one / "scores.csv").read_bytes() == (other / "scores.csv").read_bytes()


def processes_of(study: StudyFolder) -> list[int]:
    """Numbers of the processes of a study's cells that are alive on this computer."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            words = path.read_bytes().split(b"\0")
            if b"crossbeat.study.cell" in words and bytes(study.path.resolve()) in words:
                found.append(int(path.parent.name))
    return found
