"""What `make bench` measured: the tables of docs/performance.md, and docs/figures/growth.png.

Reads performance/*.json beside this file, one for each script of benchmarks/, as `--json` wrote them. Run from the
repository root: `python docs/results/performance.py [FOLDER]`; of another FOLDER (build/benchmarks, say) the tables are
printed and nothing is drawn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from study_tables import head, line_of

from crossbeat.errors import FileError
from crossbeat.report.svg import SERIES

HERE: Final = Path(__file__).with_name("performance")
FIGURE: Final = Path(__file__).parents[1] / "figures" / "growth.png"
GROWTH: Final = "growth.json"


def read(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The records by file name; `FileError` where there are none, or one is of another form."""
    found = {
        path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    }
    if not found:
        raise FileError(folder, "has no record of a benchmark; `make bench` writes build/benchmarks/*.json")
    for name, record in found.items():
        if any("verdict" not in line for line in record["lines"]):
            raise FileError(folder / name, "was written by an earlier benchmark; run `make bench` again")
    return found


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(record: Mapping[str, Any]) -> Iterator[str]:
    """A line each: the ratio (quartiles over turns), and what was aimed at; of older records the medians' ratio."""
    yield f"{record['title']}. {record['machine']}"
    yield ""
    yield from head(("What", "Against", "Ours", "Theirs", "", "Ratio", "Aim"))
    for line in record["lines"]:
        spread = line.get("spread")
        ratio = f"{line['ratio']:.2f}" + ("" if spread is None else " ({:.2f} to {:.2f})".format(*spread))
        numbers = (number(line["ours"]), number(line["theirs"]), line["unit"], ratio)
        yield line_of(line["what"], line["against"], *numbers, line["verdict"] or "–")


def table_of_growth(cells: pd.DataFrame) -> Iterator[str]:
    """A row a command: seconds and largest memory by the number of scans."""
    counts = sorted(cells["scans"].unique())
    yield from head(("Command", *(f"{count:,} scans" for count in counts)))
    for command, rows in cells.groupby("command", sort=False):
        by = rows.set_index("scans")
        told = (f"{number(by.loc[n, 'seconds'])} s, {number(by.loc[n, 'memory_mb'])} MB" for n in counts)
        yield line_of(f"`{command}`", *told)


def draw(cells: pd.DataFrame, out: Path) -> None:
    """Time, by powers of ten, and memory of every command against the cohort's size."""
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), constrained_layout=True)
    for axes, column, title in (
        (panels[0], "seconds", "Seconds"),
        (panels[1], "memory_mb", "Largest memory, MB"),
    ):
        _panel(axes, cells, column, title)
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    for axes in panels:
        axes.yaxis.set_major_formatter("{x:g}")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=5, frameon=False, fontsize=12)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def _panel(axes: Axes, cells: pd.DataFrame, column: str, title: str) -> None:
    for (command, rows), colour in zip(cells.groupby("command", sort=False), SERIES, strict=False):
        axes.plot(rows["scans"], rows[column], "o-", color=colour, label=str(command), linewidth=2)
    axes.set(xscale="log", xlabel="scans in the cohort", xticks=sorted(cells["scans"].unique()))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(title, fontsize=13, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str]) -> None:
    """All tables; of the kept records the figure too."""
    folder = Path(arguments[0]) if arguments else HERE
    records = read(folder)
    print("\n\n".join("\n".join(table(record)) for record in records.values()))
    if GROWTH in records:
        cells = pd.DataFrame(records[GROWTH]["cells"])
        print("\n" + "\n".join(table_of_growth(cells)))
        if folder == HERE:
            draw(cells, FIGURE)


if __name__ == "__main__":
    main(sys.argv[1:])
