"""Scans, references and predictions, by name, to a browser on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray
from starlette.middleware.trustedhost import TrustedHostMiddleware

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row, read_cohort
from crossbeat.data.predictions import prediction_path, prediction_reader
from crossbeat.data.reading import reader
from crossbeat.data.stack import as_nifti
from crossbeat.errors import CrossbeatError, RunError
from crossbeat.evaluation import read_scores
from crossbeat.labels import TRAINED, UNKNOWN, fold_into_myocardium

Kind = Literal["image", "reference", "prediction"]

LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")
"""Host names answered to: a web page elsewhere cannot read the scans through the user's browser."""

NIFTI: Final = "application/octet-stream"


def open_app(path: Path) -> FastAPI:
    """The viewer of a run folder, of a folder of label maps, or of a cohort.csv alone.

    Of a run the scans that were predicted are listed, else all that its cohort.csv names. `RunError` where
    the path is none of these.
    """
    if path.suffix == ".csv":
        return make_app(read_cohort(path, reader))
    folder = path / "predictions" if (path / "predictions" / "cohort.csv").exists() else path
    if not (folder / "cohort.csv").exists():
        raise RunError(f"{path}: neither a run folder, a folder of label maps nor a cohort.csv")
    cohort = read_cohort(folder / "cohort.csv", reader)
    scores = next((s for s in (path / "scores.csv", folder / "scores.csv") if s.exists()), None)
    return make_app(cohort, folder, scores)


def make_app(cohort: Cohort, predictions: Path | None = None, scores: Path | None = None) -> FastAPI:
    """The viewer of a cohort, with the label maps of a folder and the Dice of a scores.csv where there are any.

    A scan is asked for by its name, which must stand in the cohort; no path comes from outside.
    """
    app = FastAPI(title="crossbeat", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))
    rows = {row.scan: row for row in cohort}
    dice = _mean_dice(scores) if scores else {}
    read_case: Callable[[str], Case] = lru_cache(maxsize=2)(lambda scan: cohort.read(rows[scan]))
    read_prediction = prediction_reader(predictions, cohort) if predictions else None

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return _resource("page.html").decode()

    @app.get("/niivue.js")
    def niivue() -> Response:
        headers = {"Content-Encoding": "gzip", "Cache-Control": "max-age=86400"}
        return Response(_resource("niivue.umd.js.gz"), media_type="text/javascript", headers=headers)

    @app.get("/scans")
    def scans() -> list[dict[str, Any]]:
        listed = [_describe(row, dice.get(row.scan), predictions) for row in cohort]
        return sorted(listed, key=lambda scan: (scan["dice"] is None, scan["dice"] or 0.0))

    @app.get("/annotated")
    def annotated(scan: str) -> list[list[float]]:
        if scan not in rows:
            raise HTTPException(404, f"no scan {scan!r} in this cohort")
        try:
            return annotated_share(read_case(scan))
        except (CrossbeatError, OSError) as error:
            raise HTTPException(500, str(error)) from None

    @app.get("/volume/{kind}")
    def volume(kind: Kind, scan: str, outline: bool = False) -> Response:
        if scan not in rows:
            raise HTTPException(404, f"no scan {scan!r} in this cohort")
        try:
            case = read_case(scan)
            labels = None
            if kind == "reference":
                labels = case.labels
            elif kind == "prediction" and read_prediction:
                labels = read_prediction(rows[scan])
        except (CrossbeatError, OSError) as error:
            raise HTTPException(500, str(error)) from None
        if kind == "image":
            return Response(as_nifti(case.image, case.spacing_mm), media_type=NIFTI)
        if labels is None:
            raise HTTPException(404, f"scan {scan!r} has no {kind}")
        shown = np.where(labels == UNKNOWN, 0, fold_into_myocardium(labels)).astype(np.uint8)
        return Response(as_nifti(in_outline(shown) if outline else shown, case.spacing_mm), media_type=NIFTI)

    return app


def serve(app: FastAPI, port: int = 8111) -> None:
    """Show what `open_app` opened at http://127.0.0.1:port until interrupted."""
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def annotated_share(case: Case) -> list[list[float]]:
    """For each frame and each slice of it the share of its voxels that annotators looked at, in [0, 1]."""
    if case.labels is None:
        return [[0.0] * case.image.shape[1]] * case.frames
    looked_at = (case.labels != UNKNOWN).mean(axis=(2, 3))
    looked_at[[t for t in range(case.frames) if not case.drawn[t]]] = 0
    return [[float(share) for share in of_frame] for of_frame in looked_at]


def in_outline(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(…, y, x) labels of which each structure keeps the voxels with another label beside them in the slice."""
    beyond = np.pad(labels, [(0, 0)] * (labels.ndim - 2) + [(1, 1), (1, 1)])
    inside = np.ones(labels.shape, bool)
    for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inside &= beyond[..., y : y + labels.shape[-2], x : x + labels.shape[-1]] == labels
    return np.where(inside, 0, labels).astype(np.uint8)


def _describe(row: Row, dice: float | None, predictions: Path | None) -> dict[str, Any]:
    predicted = predictions is not None and prediction_path(predictions, row).exists()
    about = [row.sequence, row.group, row.vendor, row.split]
    return {
        "scan": row.scan,
        "about": ", ".join(word for word in about if word),
        "dice": dice,
        "reference": bool(row.labels),
        "prediction": predicted,
        "ed_frame": row.ed_frame,
        "es_frame": row.es_frame,
        "nominal": row.spacing_source == "nominal",
    }


def _mean_dice(path: Path) -> Mapping[str, float]:
    """Mean Dice of each scan over its frames and the structures drawn in them."""
    drawn = [s.name for s in TRAINED]
    table = read_scores(path)
    rows = table[table["slice"].isna() & (table["metric"] == "dice") & table["structure"].isin(drawn)]
    found = rows.groupby("scan")["value"].mean().dropna()
    return {str(scan): float(value) for scan, value in found.items()}


def _resource(name: str) -> bytes:
    return resources.files("crossbeat.viewer").joinpath(name).read_bytes()
