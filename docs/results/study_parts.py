"""Where the time of a study's cells goes: a table for docs/performance.md, from the logs of its run folders.

Every finished cell (OUT/cells/ARM/seed-N/log.jsonl) wrote when it began, when each stage began and ended, and when it
predicted and scored. `before` is reading scans and whatever is made of them before the first stage, `between` what a
method makes between two; the last column is all but the stages, as a share of those. Run from the repository root:
`python docs/results/study_parts.py OUT [OUT ...]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from study_tables import head, line_of

from crossbeat.errors import FileError
from crossbeat.training.events import read_events

PARTS: Final = ("before", "training", "between", "predicting", "scoring")
NEXT: Final = {
    "started": "before",
    "resumed": "before",
    "stage started": "training",
    "stage resumed": "training",
    "stage finished": "between",
    "finished": "",
    "predicting": "predicting",
    "scoring": "scoring",
    "scored": "",
    "stopped": "",
}
"""What a cell does after each event; events that are not named here change nothing."""


def seconds_of(cell: Path) -> dict[str, float]:
    """Seconds that a cell spent in each part; what it did before it was killed counts up to its last event."""
    spent = dict.fromkeys(PARTS, 0.0)
    doing, since = "", None
    for event in read_events(cell):
        now = datetime.fromisoformat(event["time"])
        if event["event"] in ("started", "resumed"):
            doing = ""  # what it was doing when it was killed ended with its last event
        if doing and since is not None:
            spent[doing] += (now - since).total_seconds()
        doing, since = NEXT.get(event["event"], doing), now
    return spent


def cells_of(out: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of the finished cells of a study."""
    for scores in sorted(out.glob("cells/*/seed-*/scores.csv")):
        yield f"{scores.parent.parent.name}/{scores.parent.name}", scores.parent


def table(outs: Sequence[Path]) -> list[str]:
    """A row a cell: seconds of each part, and how much all but training adds to training."""
    lines = head(("Cell", *(f"{part}, s" for part in PARTS), "beside training"))
    for out in outs:
        for name, cell in cells_of(out):
            spent = seconds_of(cell)
            rest = sum(spent.values()) - spent["training"]
            share = f"{rest / spent['training']:.0%}" if spent["training"] else "–"
            lines.append(line_of(f"`{name}`", *(f"{spent[part]:.0f}" for part in PARTS), share))
    return lines


def main(words: Sequence[str]) -> None:
    """Print the table of the studies named."""
    outs = [Path(word) for word in words]
    if not outs:
        raise SystemExit("say which study: python docs/results/study_parts.py OUT [OUT ...]")
    for out in outs:
        if not any(cells_of(out)):
            raise FileError(out, "has no finished cell (cells/ARM/seed-N/scores.csv)")
    print("\n".join(table(outs)))


if __name__ == "__main__":
    main(sys.argv[1:])
