"""What commands show while they work: a progress bar, a table, the next command."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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

_WIDTH_OF_A_FILE = 120  # characters, where output goes to no terminal
_NAMED = re.compile(r"^scan (['\"])(.*?)\1: ")
_ALIKE = 3  # errors that are shown whole, of those that differ in the scan's name alone
_SECONDS_BETWEEN_LINES = 60.0  # of what is at work, in a log


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH_OF_A_FILE
    return Console(stderr=stderr, highlight=False, soft_wrap=False, width=width)


out = _console(stderr=False)
err = _console(stderr=True)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar with the time left; call what it gives once a piece is done. A line a minute where no terminal is."""
    if not sys.stderr.isatty():
        err.print(f"{title}: {total}")
        yield _counted_now_and_then(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task(title, total=total)
        yield lambda *piece: progress.advance(task)


@contextmanager
def watch(title: str, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """A bar over long pieces that are at work side by side: (a piece is done, and how; what is at work now).

    A plain line a piece where no terminal is, and one a minute of what is at work.
    """
    if not sys.stderr.isatty():
        err.print(f"{title}: {total}")
        yield (lambda text: err.print(Text(text), soft_wrap=True)), _now_and_then()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}", markup=False), console=err) as progress:
        task = progress.add_task(title, total=total, now="")

        def done(text: str) -> None:
            progress.console.print(Text(text), soft_wrap=True)
            progress.advance(task)

        yield done, lambda text: progress.update(task, now=text)


def _counted_now_and_then(title: str, total: int) -> Callable[..., None]:
    """Says how many pieces are done, in a line a minute."""
    done, now = 0, _now_and_then()

    def step(*piece: object) -> None:
        nonlocal done
        done += 1
        now(f"{title}: {done} of {total}")

    return step


def _now_and_then() -> Callable[[str], None]:
    """Says what is at work in a line, if that has changed and the last one is a minute old."""
    said, when = "", time.monotonic()

    def now(text: str) -> None:
        nonlocal said, when
        if text and text != said and time.monotonic() - when >= _SECONDS_BETWEEN_LINES:
            said, when = text, time.monotonic()
            err.print(Text(f"now: {text}"), soft_wrap=True)

    return now


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str = "",
    texts: Collection[str] = (),
) -> None:
    """A table; the first column and those of `texts` to the left, numbers to the right. Empty columns are left out."""
    kept = [i for i, column in enumerate(columns) if column or any(row[i] for row in rows)]
    shown = Table(title=title or None, caption=caption or None, title_justify="left", caption_justify="left")
    for i in kept:
        left = i == kept[0] or columns[i] in texts
        shown.add_column(columns[i], justify="left" if left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(row[i] for i in kept))
    out.print(shown)


def facts(title: str, pairs: Mapping[str, str]) -> None:
    """Names and what they stand for, in two columns; long texts go on in the next line, words stay whole."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True)
    shown.add_column()
    for name, text in pairs.items():
        shown.add_row(Text(f"  {name}"), Text(text))
    out.print(Text(title, "bold"))
    out.print(shown)


def say(text: str) -> None:
    """A line, exactly as it stands."""
    out.print(Text(text), soft_wrap=True)


def then(*words: object) -> None:
    """The last line of a command: what to run next, quoted for a shell; a single text stands as it is."""
    command = shlex.join(map(str, words)) if len(words) > 1 else str(words[0])
    out.print(Text.assemble(("next: ", "dim"), (command, "bold")), soft_wrap=True)


def complain(text: str) -> None:
    """An error, on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def complain_of(failures: Iterable[str]) -> None:
    """Errors of many scans, on stderr: of those that differ in the scan's name alone three whole, then the names."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for failure in failures:
        named = _NAMED.match(failure)
        key, name = (failure[named.end() :], named[2]) if named else (failure, "")
        alike.setdefault(key, []).append((failure, name))
    for group in alike.values():
        names = [name for _, name in group[_ALIKE:] if name]
        whole = group if len(names) < 2 else group[:_ALIKE]
        for failure, _ in whole:
            complain(failure)
        if len(names) > 1:
            complain(f"{len(names)} more scans alike: {', '.join(names)}")


def warn(text: str) -> None:
    """Something to know, on stderr."""
    err.print(Text.assemble(("note: ", "yellow"), text), soft_wrap=True)
