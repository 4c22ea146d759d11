"""A run folder, what it missed and what it has seen → the warnings at the head of the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from crossbeat.report.run_folder import RunFolder
from crossbeat.report.tables import Failure
from crossbeat.report.trained import Overlap, Trained
from crossbeat.report.wording import count

SIZES: Final = {
    "demo": (
        "demonstration size",
        "Demonstration size, not a result.",
        "A training of a few minutes, which shows that every step runs; size: full is the published size.",
    ),
    "bench": (
        "bench size",
        "Bench size, not a result.",
        "Fewer updates on smaller images than published, alike for all arms that are compared; size: full is the "
        "published size.",
    ),
}

MOST_NAMED: Final = 8
"""Scans with missed structures that the head of the page names; the table of failures names them all."""


@dataclass(frozen=True)
class Banner:
    """A warning at the head of the page that nobody should overlook."""

    head: str
    text: str
    bad: bool = False
    anchor: str = ""
    """Its id, where something further down points to it."""


def banners(folder: RunFolder, overlap: Overlap, failed: Sequence[Failure]) -> Iterator[Banner]:
    """What a reader must know before the first number.

    `overlap` counts the scored scans that training has seen, `failed` are the structures missed in whole volumes.
    """
    if overlap.there:
        yield _not_a_test(overlap, folder.trained)
    if folder.size in SIZES:
        _, head, text = SIZES[folder.size]
        yield Banner(head, text)
    if folder.nominal:
        yield nominal_spacing(len(folder.nominal), len(folder.scans))
    if folder.settings.get("transductive"):
        yield transductive()
    if folder.run and "finished" in folder.run and not folder.run["finished"]:
        yield Banner("Training was not finished:", f"{_resume_command(folder)} goes on with it.")
    if failed:
        scans = list(dict.fromkeys(f.scan for f in failed))
        yield Banner(
            f"{count(len(failed), 'structure')} missed in {count(len(scans), 'scan')}:",
            f"{_failed_phrase(failed)}. In each of these volumes only one of the two masks has the structure; they "
            "are in every mean, with Dice 0.",
            bad=True,
        )


def nominal_spacing(nominal: int, scans: int) -> Banner:
    """Says that mm and ml are no measurements, since so many of the scans lack their true voxel spacing."""
    return Banner(
        "mm and ml are nominal:",
        f"the voxel spacing of {nominal} of {count(scans, 'scan')} is a stand-in, not the scanner's. "
        "Figures with a † are no measurements. Dice and ejection fraction are counted in voxels, but do depend on it "
        "too: scans are resampled from that spacing to the network's pixels, so a wrong one changes what it predicts.",
        anchor="nominal",
    )


def transductive(arms: Sequence[str] = ()) -> Banner:
    """Says that tested subjects were seen in training; `arms` names those of a study, none where all of them did."""
    named = f" ({', '.join(arms)})" if arms else ""
    return Banner(
        f"Transductive{named}:",
        "subjects of the test split were also seen in training (their source images, and target images "
        "without labels). Not comparable with a test on unseen patients.",
    )


def _not_a_test(overlap: Overlap, trained: Trained) -> Banner:
    head = f"{overlap.trained} of {overlap.scans} scored scans were trained on: not a test."
    text = "What stands below shows how well they were learnt, not how well others will be segmented."
    if overlap.of_known_patients:
        others = f"{count(overlap.of_known_patients, 'scored scan')} of patients of whom other scans were trained on"
        if overlap.trained:
            text += f" A further {others}."
        else:
            head = f"{others[0].upper()}{others[1:]}: not a test on unseen patients."
    if not trained.stated:
        text += " (By the splits of the run's cohort.csv; its run.json does not say.)"
    return Banner(head, f"{text} Intervals are left out.", bad=True)


def _failed_phrase(failed: Sequence[Failure]) -> str:
    """'patient103 (RV at ES)' of the first scans, and how many more there are."""
    by_scan: dict[str, list[str]] = {}
    for f in failed:
        by_scan.setdefault(f.scan, []).append(f"{f.structure} at {f.phase or f'frame {f.frame}'}")
    named = [f"{scan} ({', '.join(of)})" for scan, of in list(by_scan.items())[:MOST_NAMED]]
    more = len(by_scan) - len(named)
    return ", ".join(named) + (f" and {count(more, 'further scan')}, listed under Failures" if more else "")


def _resume_command(folder: RunFolder) -> str:
    """The command of run.json with --resume; runs of earlier versions did not write down its arguments."""
    command = str(folder.run.get("command") or "crossbeat train")
    words = shlex.split(command)
    if words[1:2] != ["train"] or "--resume" in words:
        return command
    return f"{command} --resume" if len(words) > 3 else f"{command} … --resume"
