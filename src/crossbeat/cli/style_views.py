"""A scan before and after it was restyled → its pictures: side by side, with contours and predictions, and along ε."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cli.style_sources import Place, Styles, StylizerRun, with_frames
from crossbeat.cohort import Row
from crossbeat.labels import TRAINED, UNKNOWN, fold_into_myocardium
from crossbeat.methods.stylization.restyling import SPREADS, Content, along_spread, losses_of, uphill
from crossbeat.prepare.slices import Batch
from crossbeat.report.motion_page import Tile
from crossbeat.report.overlays import annotation_note, heart_window, three_levels
from crossbeat.report.style_page import Pictures, ScanStyles, name_stylizer
from crossbeat.report.styles import Cut, slice_svg
from crossbeat.report.wording import count, number
from crossbeat.segmenter import Segmenter

ASCENTS: Final = 6
"""Steps shown of a climb; by default training takes two."""


@dataclass(frozen=True, eq=False)
class Made:
    """What one run made of a scan."""

    run: StylizerRun
    content: Content
    image: NDArray[np.float32]
    """(t, z, y, x) in [0, 1], on the scan's own grid, in the chosen style itself."""


@dataclass(frozen=True, eq=False)
class _Column:
    """One slice of a scan, and the scan by that frame alone, for a prediction of it."""

    name: str
    note: str
    case: Case
    z: int
    mask: NDArray[np.bool_]
    """(z, y, x): the heart that decides what is cut out."""


def show_scan(row: Row, case: Case, styles: Styles, chosen: Place, made: Sequence[Made]) -> ScanStyles:
    """The pictures of the middle slice of the first labelled frame's heart; of the middle of the stack without one."""
    frame = (case.labelled_frames or [0])[0]
    z, heart = _middle(case, frame)
    shown = with_frames(case, [frame])
    columns = [
        _Column("Content", row.sequence, replace(shown, image=made[0].content.plain()[[frame]]), z, heart),
        _style_column(styles, chosen, made[0]),
        *(
            _Column(name_stylizer(m.run.name), "", replace(shown, image=m.image[[frame]]), z, heart)
            for m in made
        ),
    ]
    rows = [
        Pictures(
            "As they are.",
            "The content, the slice whose style it took on, and what became of it.",
            [_tile(row, c, "as it is") for c in columns],
        )
    ]
    if any(c.case.labelled_frames for c in columns):
        note = (
            "The content’s labels on what became of it: where a border left its line, the stylizer moved it."
        )
        rows.append(
            Pictures("Drawn contours.", note, [_tile(row, c, "drawn contours", drawn=True) for c in columns])
        )
    segmented = next((m for m in made if m.run.segmenter is not None), None)
    if segmented is not None:
        rows.append(_predictions(row, columns, segmented.run))
    strips = [strip for m in made for strip in _strips(row, m, styles, chosen, frame, z)]
    return ScanStyles(row, _sentence(case, frame, z, styles, chosen), rows, strips)


def _style_column(styles: Styles, chosen: Place, made: Made) -> _Column:
    scan = styles.scan(chosen.scan)
    one = with_frames(scan.case, [chosen.frame])
    plain = styles.content(chosen, made.run.preparation).plain()[[chosen.frame]]
    return _Column("Style", scan.row.sequence, replace(one, image=plain), chosen.z, _heart(one, 0))


def _predictions(row: Row, columns: Sequence[_Column], run: StylizerRun) -> Pictures:
    assert run.segmenter is not None
    tiles = []
    for c in columns:
        predicted = run.segmenter.predict(c.case)[0, c.z]
        tiles.append(_tile(row, c, "prediction and drawn contours", predicted=predicted))
    note = f"Coloured is what the segmenter of {run.path} sees, dashed what was drawn."
    return Pictures("Predictions.", note, tiles)


def _tile(
    row: Row, c: _Column, shows: str, *, drawn: bool = False, predicted: NDArray[np.uint8] | None = None
) -> Tile:
    """A column's slice; nothing where contours are asked for and nobody drew any."""
    note = annotation_note(c.case, 0, c.z) if drawn else "" if predicted is not None else c.note
    if drawn and note == "not annotated":
        return Tile("", c.name, "")
    window = heart_window(c.mask, c.case.spacing_mm[1:])
    labels = None if c.case.labels is None else c.case.labels[0, c.z][window.cut]
    cut = Cut(c.case.image[0, c.z][window.cut], c.case.spacing_mm[1:], labels)
    seen = None if predicted is None else predicted[window.cut]
    label = f"Scan {row.scan}, {c.name.lower()}: {shows}"
    return Tile(slice_svg(cut, label, drawn=drawn, predicted=seen), c.name, note)


def _strips(row: Row, made: Made, styles: Styles, chosen: Place, frame: int, z: int) -> list[Pictures]:
    """The slice along the code's spread, and up the loss where there is a segmenter and labels to lose; or nothing."""
    run = made.run
    if not run.stylizer.has_code:
        return []
    name = name_stylizer(run.name)
    style = run.stylizer.distribution(styles.image(run, chosen))
    batch = made.content.slice(frame, z)
    judged = run.segmenter if bool(batch.drawn.any()) else None
    codes = along_spread(style)
    named = [_spread_name(k) for k in SPREADS]
    note = "One content under ψ + k ξ: ψ is the style’s own code, ξ its spread in each of the 512 directions."
    if judged is not None:
        note += " Beneath each the loss of the run’s segmenter."
    strips = [Pictures(f"{name}, along ε.", note, _along(row, made, batch, codes, named, judged, frame, z))]
    if judged is None:
        return strips
    codes = uphill(run.stylizer, judged, run.settings, batch, style, ASCENTS)
    named = ["ψ", *(count(k, "step") for k in range(1, ASCENTS + 1))]
    trained = run.settings.uses - 1
    note = "Steps of ε from ψ up the segmentation loss of this slice, as long as those of training; "
    note += f"framed: as many as it takes ({count(trained, 'step')})." if trained else "training took none."
    tiles = _along(row, made, batch, codes, named, judged, frame, z)
    tiles = [replace(tile, drawn=0 < k <= trained) for k, tile in enumerate(tiles)]
    return [*strips, Pictures(f"{name}, uphill.", note, tiles)]


def _along(
    row: Row,
    made: Made,
    batch: Batch,
    codes: Tensor,
    names: Sequence[str],
    segmenter: Segmenter | None,
    frame: int,
    z: int,
) -> list[Tile]:
    run = made.run
    images = [run.stylizer.stylise(batch.image.to(run.device), code[None])[0, 0] for code in codes]
    losses = [math.nan] * len(images)
    if segmenter is not None:
        losses = losses_of(run.stylizer, segmenter, run.settings, batch, codes)
    labels = made.content.labels.reshape(*made.content.case.image.shape[:2], *batch.labels.shape[1:])[frame]
    spacing = (run.preparation.spacing_mm,) * 2
    heart = np.isin(fold_into_myocardium(labels.numpy()), TRAINED)
    window = heart_window(heart, spacing)
    tiles = []
    for name, image, loss in zip(names, images, losses, strict=True):
        cut = Cut(image.cpu().numpy()[window.cut], spacing)
        said = f"loss {number(loss, '')}" if math.isfinite(loss) else ""
        label = f"Scan {row.scan}, slice {z}, {name_stylizer(run.name)} under {name}{'; ' * bool(said)}{said}"
        tiles.append(Tile(slice_svg(cut, label), name, said))
    return tiles


def _spread_name(k: float) -> str:
    if not k:
        return "ψ"
    return f"ψ {'+' if k > 0 else '−'} {'' if abs(k) == 1 else f'{abs(k):g} '}ξ"


def _middle(case: Case, frame: int) -> tuple[int, NDArray[np.bool_]]:
    heart = _heart(case, frame)
    levels = three_levels(heart)
    return (levels[len(levels) // 2] if levels else case.image.shape[1] // 2), heart


def _heart(case: Case, frame: int) -> NDArray[np.bool_]:
    if case.labels is None:
        return np.zeros(case.image.shape[1:], bool)
    return np.isin(fold_into_myocardium(case.labels[frame]), TRAINED)


def _sentence(case: Case, frame: int, z: int, styles: Styles, chosen: Place) -> str:
    """Which slice is shown, in whose style, and what was not looked at."""
    said = f"Slice {z} of {case.image.shape[1]}"
    if case.frames > 1:
        said += f" in frame {frame} of {case.frames}"
    said += f", counted from 0, in the style of {chosen.scan}, slice {chosen.z}"
    if len(styles.scan(chosen.scan).frames) > 1:
        said += f" in frame {styles.frame(chosen)}"
    if case.labels is None:
        return said + ". Nobody labelled it: no contours, and no numbers of its myocardium and heart."
    if (case.labels[frame, z] == UNKNOWN).all():
        return said + ". Nobody looked at that slice: no contours."
    return said + "."
