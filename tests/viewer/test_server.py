"""The viewer in process: what it lists, what it serves by name, and what it refuses."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from crossbeat import evaluation
from crossbeat.cohort import Cohort, Row, read_cohort, write_cohort
from crossbeat.data.predictions import prediction_writer
from crossbeat.data.reading import reader
from crossbeat.errors import RunError
from crossbeat.viewer import make_app, open_app
from crossbeat.viewer.server import annotated_share, in_outline


class Client:
    """Asks the app in process, without a port."""

    def __init__(self, app: FastAPI) -> None:
        self.transport = httpx.ASGITransport(app)

    def get(self, path: str, **options: object) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://localhost") as client:
                return await client.get(path, **options)

        return asyncio.run(ask())


SHAPE = (2, 3, 6, 5)  # t, z, y, x
NAMES = ("a & b", "../../etc/passwd", "third")


def labels_of(number: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 1, 1:4, 1:4] = 2
    labels[:, 1, 2, 2] = 1
    labels[0, 0, 0, number] = 3
    return labels


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of three scans; the first has no prediction, the third no reference and no score."""
    affine = np.diag([1.5, 2.0, 8.0, 1.0])
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(NAMES):
        for kind, array in (
            ("image", rng.normal(100, 20, SHAPE).astype(np.float32)),
            ("gt", labels_of(number)),
        ):
            nib.save(
                nib.Nifti1Image(array.transpose(3, 2, 1, 0), affine), tmp_path / f"{number}_{kind}.nii.gz"
            )
        rows.append(
            Row(subject=str(number), scan=name, sequence="bssfp", image=f"{number}_image.nii.gz", ed_frame=0,
                labels=f"{number}_gt.nii.gz" if number < 2 else "", spacing_source="nominal" if number else "header")
        )  # fmt: skip
    rows[1] = replace(rows[1], scan="second")
    csv = tmp_path / "cohort.csv"
    write_cohort(Cohort(tuple(rows), folder=tmp_path), csv)
    cohort = read_cohort(csv, reader)
    folder = tmp_path / "run" / "predictions"
    write = prediction_writer(folder, cohort, {})
    for number in (1, 2):
        write(cohort.rows[number], np.roll(cohort.read(cohort.rows[number]).labels, 1, 3) if number == 1
              else np.zeros(cohort.read(cohort.rows[2]).image.shape, np.uint8))  # fmt: skip
    scored = replace(cohort, rows=cohort.rows[:2])
    scores = evaluation.score_cohort(scored, lambda row: cohort.read(row).labels if row.scan == NAMES[0] else
                                     np.roll(cohort.read(row).labels, 1, 3), per_slice=False)  # fmt: skip
    evaluation.write_scores(scores, scored, tmp_path / "run" / "scores.csv")
    return tmp_path / "run"


@pytest.fixture
def client(run: Path) -> Client:
    return Client(open_app(run))


def served(client: Client, kind: str, scan: str) -> np.ndarray:
    answer = client.get(f"/volume/{kind}", params={"scan": scan})
    assert answer.status_code == 200, answer.text
    return np.asarray(nib.Nifti1Image.from_bytes(answer.content).dataobj)


def test_scans_are_listed_worst_dice_first_and_unscored_ones_last(client: Client) -> None:
    listed = client.get("/scans").json()
    assert [scan["scan"] for scan in listed] == ["second", "a & b", "third"]
    assert listed[1]["dice"] == pytest.approx(1.0)
    assert listed[0]["dice"] < 0.8
    assert listed[2]["dice"] is None
    assert [(scan["reference"], scan["prediction"]) for scan in listed] == [
        (True, True),
        (True, False),
        (False, True),
    ]
    assert [scan["nominal"] for scan in listed] == [True, False, True]


def test_image_reference_and_prediction_come_on_one_grid(run: Path, client: Client) -> None:
    case = read_cohort(run / "predictions" / "cohort.csv", reader).cases().__next__()
    image = served(client, "image", "a & b").transpose(3, 2, 1, 0)
    assert np.abs(image - case.image).max() < np.ptp(case.image) / 2**15
    np.testing.assert_array_equal(served(client, "reference", "a & b").transpose(3, 2, 1, 0), case.labels)
    predicted, reference = served(client, "prediction", "second"), served(client, "reference", "second")
    np.testing.assert_array_equal(predicted, np.roll(reference, 1, 0))


def test_what_is_not_there_is_said(client: Client) -> None:
    for kind, scan, words in (
        ("prediction", "a & b", "'a & b' has no prediction"),
        ("reference", "third", "'third' has no reference"),
    ):
        answer = client.get(f"/volume/{kind}", params={"scan": scan})
        assert answer.status_code == 404
        assert words in answer.json()["detail"]


@pytest.mark.parametrize("scan", ["../../etc/passwd", "/etc/passwd", "..%2fscores", "", "second/../third"])
def test_only_names_of_the_cohort_are_served(client: Client, scan: str) -> None:
    for kind in ("image", "reference", "prediction"):
        answer = client.get(f"/volume/{kind}", params={"scan": scan})
        assert answer.status_code == 404
        assert "no scan" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/volume/scores", "/scores.csv", "/../cohort.csv", "/volume/image/../../cohort.csv"]
)
def test_there_is_no_other_door(client: Client, path: str) -> None:
    assert client.get(path, params={"scan": "second"}).status_code in (404, 422)


def test_other_hosts_are_refused(client: Client) -> None:
    assert client.get("/scans", headers={"Host": "evil.test"}).status_code == 400


def test_a_broken_image_is_named(run: Path, client: Client) -> None:
    (run.parent / "2_image.nii.gz").unlink()
    answer = client.get("/volume/image", params={"scan": "third"})
    assert answer.status_code == 500
    assert "2_image.nii.gz: there is no such file" in answer.json()["detail"]


def test_the_page_loads_only_what_the_viewer_serves(client: Client) -> None:
    page = client.get("/").text
    assert "http" not in page.replace("<!doctype html>", "")
    script = client.get("/niivue.js")
    assert script.headers["content-encoding"] == "gzip"
    assert "niivue" in script.text[:400]


def test_a_cohort_alone_has_images_and_references(run: Path) -> None:
    client = Client(open_app(run.parent / "cohort.csv"))
    assert not any(scan["prediction"] for scan in client.get("/scans").json())
    assert served(client, "reference", "second").max() == 3


def test_an_empty_cohort_lists_nothing_and_a_wrong_path_is_refused(tmp_path: Path) -> None:
    assert Client(make_app(Cohort(()))).get("/scans").json() == []
    with pytest.raises(RunError, match="neither a run folder"):
        open_app(tmp_path)


def test_an_outline_keeps_the_rim_of_every_structure_in_its_slice() -> None:
    labels = np.zeros((2, 7, 7), np.uint8)
    labels[0, 1:6, 1:6] = 2
    labels[0, 2:5, 2:5] = 1
    labels[1] = 3
    expected = labels.copy()
    expected[0, 3, 3] = 0  # the middle of the cavity; the wall, one voxel wide, is all rim
    expected[1, 1:6, 1:6] = 0  # the image ends where the structure does
    np.testing.assert_array_equal(in_outline(labels), expected)


def test_the_reference_can_be_asked_for_in_outline(client: Client) -> None:
    answer = client.get("/volume/reference", params={"scan": "second", "outline": "true"})
    found = np.asarray(nib.Nifti1Image.from_bytes(answer.content).dataobj).transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(
        found, in_outline(served(client, "reference", "second").transpose(3, 2, 1, 0))
    )


def test_slices_that_nobody_looked_at_are_not_taken_for_empty_ones(run: Path, client: Client) -> None:
    case = next(read_cohort(run / "predictions" / "cohort.csv", reader).cases())
    labels = case.labels.copy()
    labels[0, 0] = 255
    labels[1, 2, :3] = 255
    half = replace(case, labels=labels)
    assert annotated_share(half) == [[0.0, 1.0, 1.0], [1.0, 1.0, 0.5]]
    still = replace(half, drawn=(case.drawn[0], frozenset()))
    assert annotated_share(still)[1] == [0.0] * 3, "a frame that nobody labelled"
    assert annotated_share(replace(case, labels=None, drawn=())) == [[0.0] * 3] * 2
    assert client.get("/annotated", params={"scan": "second"}).json() == [[1.0] * 3] * 2
    assert client.get("/annotated", params={"scan": "elsewhere"}).status_code == 404
    assert "not annotated" in client.get("/").text


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    """Where the viewer of the run can be opened in a browser."""
    server = uvicorn.Server(uvicorn.Config(open_app(run), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def in_browser(address: str, folder: Path, *flags: str) -> str:
    """The page's elements a while after it was opened."""
    fixed = (
        "--headless",
        "--no-sandbox",
        f"--user-data-dir={folder}",
        "--virtual-time-budget=8000",
        "--dump-dom",
    )
    return subprocess.run(
        [str(CHROMIUM), *fixed, *flags, address], capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
def test_a_browser_shows_the_scan_and_one_that_cannot_says_why(address: str, tmp_path: Path) -> None:
    shown = in_browser(address, tmp_path / "with", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    assert '<output id="slice-said">2 of 3</output>' in shown
    assert '<output id="frame-said">0 ED</output>' in shown
    assert ">loading<" not in shown
    blind = in_browser(address, tmp_path / "without", "--disable-gpu", "--disable-3d-apis")
    assert "nothing can be shown: this browser has no WebGL 2" in blind
    assert all(f"<span>{name}</span>" in blind for name in ("a &amp; b", "second", "third")), "still listed"
