"""Scans in, label maps out: ensembles, flips and post-processing; reading, inference and writing overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.devices import argmax_channels, keep_freed_memory
from crossbeat.errors import CrossbeatError, SettingsError
from crossbeat.labels import UNKNOWN, Structure
from crossbeat.segmenter import Segmenter

Writer = Callable[[Row, NDArray[np.uint8]], None]

READ_AHEAD = 2
"""Scans read before they are needed: memory stays bounded whatever the cohort's size."""


@dataclass(frozen=True)
class Failure:
    """A scan that got no label map, and why."""

    scan: str
    problem: str


def predict_case(
    segmenters: Sequence[Segmenter],
    case: Case,
    *,
    flips: bool = False,
    largest_component: bool = True,
    frames: Sequence[int] | None = None,
) -> NDArray[np.uint8]:
    """(t, z, y, x) values of `Structure` on the case's own grid; `UNKNOWN` in frames that are not in `frames`.

    Several segmenters are averaged as probabilities on that grid; they must know the same structures
    (`SettingsError`). With `largest_component` only the largest part of each structure stays, frame by frame.
    """
    _refuse_unlike(segmenters)
    first = segmenters[0]
    wanted = list(range(case.frames)) if frames is None else sorted(set(frames))
    whole = np.full(case.image.shape, UNKNOWN, np.uint8)
    if wanted:
        chunks = [argmax_channels(p).cpu() for p in _mean(segmenters, case, flips, wanted)]
        labels = first.name_classes(torch.cat(chunks).reshape(len(wanted), *case.image.shape[1:]).numpy())
        whole[wanted] = keep_largest_components(labels) if largest_component else labels
    return whole


def keep_largest_components(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Only the largest connected part of each structure in each frame; a copy.

    `labels` is (t, z, y, x); parts touch by faces, within a slice or across two. A structure that is absent
    stays absent.
    """
    kept = np.zeros_like(labels)
    for frame, cleaned in zip(labels, kept, strict=True):
        for value, box in enumerate(ndimage.find_objects(frame, max(Structure)), start=1):
            if box is not None:
                parts, _ = ndimage.label(frame[box] == value)
                sizes = np.bincount(parts.ravel())
                sizes[0] = 0
                cleaned[box][parts == sizes.argmax()] = value
    return kept


def predict_cohort(
    segmenters: Sequence[Segmenter],
    cohort: Cohort,
    write: Writer,
    *,
    flips: bool = False,
    largest_component: bool = True,
    frames: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[Row], None] = lambda row: None,
) -> list[Failure]:
    """Predict every scan and hand it to `write`; a scan that fails is named in the answer, the rest go on.

    `frames` says by scan which of its frames are wanted; of scans that are not in it all are.

    Files are read and written in threads of their own, a few scans ahead of the network and behind it. Label
    files are never opened. Segmenters that do not go together raise `SettingsError` at once.
    """
    _refuse_unlike(segmenters)
    keep_freed_memory()
    failures: list[Failure] = []
    with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(1) as writers:
        written: list[tuple[Row, Future[None]]] = []
        for row, reading in _read_ahead(cohort.without_labels(), readers):
            try:
                labels = predict_case(
                    segmenters,
                    reading.result(),
                    flips=flips,
                    largest_component=largest_component,
                    frames=(frames or {}).get(row.scan),
                )
                written.append((row, writers.submit(write, row, labels)))
            except Exception as error:  # one scan must never cost the others theirs
                failures.append(_failure(row, error))
            failures += _finished(written, leave=READ_AHEAD)
            progress(row)
        failures += _finished(written, leave=0)
    return failures


def _refuse_unlike(segmenters: Sequence[Segmenter]) -> None:
    if any(s.structures != segmenters[0].structures for s in segmenters):
        raise SettingsError("an ensemble needs segmenters of the same structures; these differ")


def _failure(row: Row, error: Exception) -> Failure:
    """In our own words where they are ours, else with the kind of error and the scan."""
    ours = isinstance(error, CrossbeatError)
    return Failure(row.scan, str(error) if ours else f"scan {row.scan!r}: {type(error).__name__}: {error}")


def _mean(
    segmenters: Sequence[Segmenter], case: Case, flips: bool, frames: Sequence[int]
) -> Iterator[Float[Tensor, "n k y x"]]:
    streams = [s.probabilities(case, s.place(case), flips=flips, frames=frames) for s in segmenters]
    for parts in zip(*streams, strict=True):
        yield torch.stack([p.to(parts[0].device) for p in parts]).mean(dim=0)


def _read_ahead(cohort: Cohort, readers: ThreadPoolExecutor) -> Iterator[tuple[Row, Future[Case]]]:
    waiting: list[tuple[Row, Future[Case]]] = []
    for row in cohort:
        waiting.append((row, readers.submit(cohort.read, row)))
        if len(waiting) > READ_AHEAD:
            yield waiting.pop(0)
    yield from waiting


def _finished(written: list[tuple[Row, Future[None]]], leave: int) -> list[Failure]:
    failures = []
    while len(written) > leave:
        row, future = written.pop(0)
        try:
            future.result()
        except Exception as error:  # as above
            failures.append(_failure(row, error))
    return failures
