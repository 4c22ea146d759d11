"""What commands share: the app, options that several take, and how they find their scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from crossbeat.errors import CohortError, SettingsError

if TYPE_CHECKING:
    from crossbeat.cohort import Cohort

FLOW = (
    "demo",
    "phantom",
    "index",
    "join",
    "check",
    "settings",
    "train",
    "predict",
    "evaluate",
    "measure",
    "study",
    "report",
    "view",
    "export",
)


class InFlowOrder(TyperGroup):
    """Lists the commands in the order in which data flows; a method's own after them, `info` last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(
            super().list_commands(ctx), key=lambda n: (n == "info", FLOW.index(n) if n in FLOW else len(FLOW))
        )


app = typer.Typer(
    name="crossbeat",
    cls=InFlowOrder,
    help="Segment the heart in cardiac MR where labels are scarce, by borrowing them from where they are plenty.",
    epilog="--debug, anywhere on the line, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Csv = Annotated[
    Path, typer.Argument(metavar="COHORT.CSV", help="the cohort, one row a scan; `index` makes it")
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="of everything drawn at random")]
Where = Annotated[
    str, typer.Option("--where", metavar="FILTER", help="rows by column, as in sequence=lge,vendor=A|B")
]
Everything = Annotated[bool, typer.Option("--all", help="every scan, also where the cohort has a test split")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is there already")]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="compile networks; unsaid, in long stages on a GPU"),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]


def cohort_at(path: Path) -> Cohort:
    """The cohort of a csv, with the reader of its files."""
    from crossbeat.cohort import read_cohort
    from crossbeat.data import reader

    return read_cohort(path, reader)


def pick(cohort: Cohort, where: str, everything: bool) -> Cohort:
    """The rows asked for; without a word about it, the test split where there is one."""
    from crossbeat import console
    from crossbeat.cohort import parse_filter

    wanted = parse_filter(where)
    named = "split" in wanted
    if not everything and "split" not in wanted and any(row.split == "test" for row in cohort):
        wanted["split"] = ["test"]
    picked = cohort.where(**wanted) if wanted else cohort
    told = ",".join(f"{column}={'|'.join(values)}" for column, values in wanted.items())
    if not len(picked):
        from crossbeat.methods.recipe import what_there_is  # only here: it brings torch along

        elsewhere = "split" in wanted and len(
            cohort.where(**{k: v for k, v in wanted.items() if k != "split"})
        )
        remedy = "leave `split` away, and --all takes every one" if named else "--all takes every split"
        remedy = f"{remedy} ({elsewhere})" if elsewhere else what_there_is(cohort, wanted)
        raise SettingsError(f"no scan of {cohort.name} matches {told}; {remedy}")
    if len(picked) < len(cohort):
        console.say(f"{len(picked)} of {len(cohort)} scans: {told} (--all takes every split)")
    return picked


def split_sizes(cohort: Cohort, remedy: str = "see --test") -> str:
    """How many scans each split has, in words; what to do where there is no test split."""
    sizes = [(name, sum(row.split == name for row in cohort)) for name in ("train", "validation", "test", "")]
    told = ", ".join(f"{count} {name or 'without a split'}" for name, count in sizes if count)
    return (
        told
        if dict(sizes)["test"]
        else f"{told}; no test split, so scores would be of scans trained on: {remedy}"
    )


def new_file(path: Path, overwrite: bool) -> None:
    """Refuses a cohort.csv that is there already, before anything is written beside it."""
    if path.exists() and not overwrite:
        raise CohortError(
            f"{path}: is there already, perhaps with splits and columns of yours; choose another file with -o, "
            "or add --overwrite"
        )


def words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def undotted(changes: list[str]) -> list[str]:
    """The `key=value` texts of `--set`; one that reaches into a setting by a dot is refused with what to write."""
    for change in changes:
        key, equals, value = change.partition("=")
        first, dot, inner = key.strip().partition(".")
        if equals and dot:
            nested = "".join(f"{{{part}: " for part in inner.split("."))
            whole = f"{first}={nested}{value}{'}' * nested.count('{')}"
            raise SettingsError(
                f"--set {change}: no dots; write --set '{whole}', which replaces all of {first}, or change the file"
            )
    return changes


def refuse_unused(beside: str, **given: object) -> None:
    """Refuse options and arguments that would do nothing beside another one: the first that was given."""
    for name, value in given.items():
        if value:
            word = name.replace("_", ".") if name.isupper() else f"--{name}"
            raise SettingsError(f"{word} does nothing beside {beside}; leave it away")


def choice(option: str, word: str, *allowed: str) -> Any:
    """The word given to an option, if it is one of those allowed; else `SettingsError`."""
    if word not in allowed:
        raise SettingsError(f"--{option} {word}: must be one of {', '.join(allowed)}")
    return word
