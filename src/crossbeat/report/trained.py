"""run.json and the run's cohort.csv → which scans a run learnt from, and how many of a table are among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from crossbeat.cohort import Cohort, Row
from crossbeat.report.domains import role_of

LABELLED: Final = ("source", "labelled_target")
"""Parts of `trained_on` in run.json whose labels were seen; of `target` only the images were."""


@dataclass(frozen=True)
class Overlap:
    """How many of the scans that were scored a run has seen before."""

    scans: int = 0
    """Scored scans."""
    trained: int = 0
    """Of these, scans that were trained on."""
    of_known_patients: int = 0
    """Of the others, scans of a patient of whom another scan was trained on."""

    @property
    def there(self) -> bool:
        """Whether scores of these scans are no test on unseen patients."""
        return bool(self.trained or self.of_known_patients)

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.scans + other.scans,
            self.trained + other.trained,
            self.of_known_patients + other.of_known_patients,
        )


@dataclass(frozen=True)
class Trained:
    """The scans that a run learnt from: names by part (`source`, `labelled_target`, `target` without labels)."""

    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rows: Mapping[str, Row] = field(default_factory=dict)
    """Rows of the run's cohort by scan; empty where it has none."""
    stated: bool = False
    """Whether run.json says so; else it was read off the splits of the cohort.csv."""
    transductive: bool = False
    """Whether the recipe allows unlabelled images of those who are tested: then only labels seen count."""

    def overlap(self, table: pd.DataFrame) -> Overlap:
        """How many scans of a table (`scan`, `subject`) were trained on, or are of a patient who was."""
        parts = LABELLED if self.transductive else tuple(self.parts)
        seen = {scan for part in parts for scan in self.parts.get(part, ())}
        known = set() if self.transductive else {self.rows[s].subject for s in seen if s in self.rows}
        scored = table[["scan", "subject"]].drop_duplicates()
        trained = scored["scan"].isin(seen)
        return Overlap(len(scored), int(trained.sum()), int((scored["subject"].isin(known) & ~trained).sum()))


def find_trained(run: Mapping[str, Any], settings: Mapping[str, Any], cohort: Cohort | None) -> Trained:
    """What run.json states under `trained_on`; else the cohort's rows whose split is train or empty.

    Rows that are neither source nor target, and sources without labels, train nothing. Without a run.json
    nothing was: a cohort.csv also lies in folders of label maps, where it lists what was predicted.
    """
    if not run:
        return Trained()
    rows = {row.scan: row for row in cohort or ()}
    stated = run.get("trained_on")
    if isinstance(stated, Mapping):
        lists = {str(k): [str(s) for s in v] for k, v in stated.items() if isinstance(v, list)}
        hidden = set(lists.get("target", ())) - set(lists.get("labelled_target", ()))
        lists["target"] = [scan for scan in lists.get("target", ()) if scan in hidden]
    else:
        lists = {"source": [], "target": []}
        for row in rows.values():
            role = role_of(row, settings) or "source"
            if row.split in ("train", "") and role in lists and (role == "target" or row.labels):
                lists[role].append(row.scan)
    return Trained(
        {part: scans for part, scans in lists.items() if scans},
        rows,
        isinstance(stated, Mapping),
        bool(settings.get("transductive")),
    )
