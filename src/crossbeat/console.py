"""What commands show while they work: a progress bar, a table, the next command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar with the time left; call what it gives once a piece is done. A plain line where no terminal is."""
    if not sys.stderr.isatty():
        err.print(f"{title}: {total}")
        yield lambda *piece: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task(title, total=total)
        yield lambda *piece: progress.advance(task)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """A table; the first column to the left, numbers to the right."""
    shown = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)


def say(text: str) -> None:
    """A line, exactly as it stands."""
    out.print(Text(text))


def then(command: str) -> None:
    """The last line of a command: what to run next."""
    out.print(Text.assemble(("next: ", "dim"), (command, "bold")))


def complain(text: str) -> None:
    """An error, on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), text))


def warn(text: str) -> None:
    """Something to know, on stderr."""
    err.print(Text.assemble(("note: ", "yellow"), text))
