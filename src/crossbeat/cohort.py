"""Cohort: the rows of a cohort.csv, one for each scan; filters, reading and writing."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, Literal

import yaml

from crossbeat.case import Case, Domain
from crossbeat.errors import CohortError, did_you_mean
from crossbeat.labels import Convention, Structure, convention_from_names, find_convention

SPLITS: Final = ("train", "validation", "test", "")


@dataclass(frozen=True)
class Row:
    """One scan of a cohort.csv; paths are relative to that csv, frames are 0-based."""

    subject: str
    scan: str
    sequence: str
    image: str
    vendor: str = ""
    centre: str = ""
    group: str = ""
    split: str = ""
    labels: str = ""
    convention: str = "crossbeat"
    structures: str = ""
    ed_frame: int | None = None
    es_frame: int | None = None
    frame_interval_ms: float | None = None
    spacing_source: Literal["header", "nominal"] = "header"
    source: str = ""
    further: Mapping[str, str] = field(default_factory=dict)
    """Columns that crossbeat does not know: kept, filtered on, carried into the scores."""

    @property
    def domain(self) -> Domain:
        return Domain(self.sequence, self.vendor, self.centre, self.group)

    @property
    def image_files(self) -> list[str]:
        """One 3-D or 4-D file, or the 3-D files that are the frames."""
        return [part.strip() for part in self.image.split(";") if part.strip()]

    @property
    def label_files(self) -> dict[int | None, str]:
        """Label file by frame; the key None stands for one file of the image's own shape."""
        if not self.labels:
            return {}
        if "=" not in self.labels:
            return {None: self.labels.strip()}
        return {self._frame(k, "labels"): v for k, v in self._pairs(self.labels)}

    def drawn(self, frame: int, own: Mapping[str, Convention] | None = None) -> frozenset[Structure]:
        """What the annotators drew in a frame: the `structures` column, else all of the convention's."""
        if not self.structures:
            return find_convention(self.convention, own).structures
        if "=" not in self.structures:
            return self._names(self.structures)
        by_frame = {self._frame(k, "structures"): v for k, v in self._pairs(self.structures)}
        return self._names(by_frame.get(frame, ""))

    def value(self, column: str) -> str:
        """A column as text, known or further; '' where empty. `KeyError` where there is none of that name."""
        if column in self.further:
            return self.further[column]
        if column not in COLUMNS:
            raise KeyError(column)
        found = getattr(self, column)
        return "" if found is None else f"{found:g}" if isinstance(found, float) else str(found)

    def phase(self, frame: int) -> str:
        """'ED', 'ES' or '' for a frame."""
        return "ED" if frame == self.ed_frame else "ES" if frame == self.es_frame else ""

    def _pairs(self, text: str) -> list[tuple[str, str]]:
        parts = [part.partition("=") for part in text.split(";") if part.strip()]
        pairs = [(key.strip(), value.strip()) for key, _, value in parts]
        twice = [key for key, count in _count(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise CohortError(f"scan {self.scan!r}: frame {twice[0]} stands twice in {text!r}")
        return pairs

    def _frame(self, key: str, column: str) -> int:
        if not key.isdecimal():
            raise CohortError(
                f"scan {self.scan!r}: {column} names frame {key!r}, which is no number from 0 up; write `0=…;8=…`"
            )
        return int(key)

    def _names(self, text: str) -> frozenset[Structure]:
        known = {s.name for s in Structure if s}
        names = {name.strip().upper() for name in text.split(",") if name.strip()}
        if names - known:
            word = sorted(names - known)[0]
            raise CohortError(
                f"scan {self.scan!r}: structure {word!r} is unknown; {did_you_mean(word, known)}"
            )
        return frozenset(Structure[name] for name in names)


COLUMNS: Final = (
    *("subject", "scan", "sequence", "vendor", "centre", "group", "split", "image", "labels", "convention"),
    *("structures", "ed_frame", "es_frame", "frame_interval_ms", "spacing_source", "source"),
)
_NEEDED: Final = ("subject", "scan", "sequence", "image")
assert set(COLUMNS) == {f.name for f in fields(Row)} - {"further"}

Reader = Callable[[Row], Case]


def no_reader(row: Row) -> Case:
    """The reader of a cohort that was only listed; `data.reader` gives the real one."""
    raise CohortError(f"scan {row.scan!r}: this cohort was made without a reader for its files")


@dataclass(frozen=True)
class Cohort:
    """Scans, in the order of their csv, and the function that reads one of them."""

    rows: tuple[Row, ...]
    read: Reader = no_reader
    name: str = "cohort"
    folder: Path = Path()
    """What the paths of the rows are relative to."""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def subjects(self) -> list[str]:
        """Subjects in order of first appearance."""
        return list(dict.fromkeys(row.subject for row in self.rows))

    def cases(self) -> Iterator[Case]:
        """Read the scans one after another."""
        return (self.read(row) for row in self.rows)

    def row(self, scan: str) -> Row:
        """The row of a scan, else a `CohortError`."""
        for row in self.rows:
            if row.scan == scan:
                return row
        raise CohortError(f"{self.name}: no scan {scan!r}; {did_you_mean(scan, [r.scan for r in self.rows])}")

    def where(self, **wanted: str | Iterable[str]) -> Cohort:
        """Rows whose columns have the wanted values: `where(sequence="lge", vendor=["A", "B"])`.

        No match gives an empty cohort; an unknown column raises `CohortError`.
        """
        columns = set(COLUMNS).union(*(row.further for row in self.rows))
        for column in wanted:
            if column not in columns:
                raise CohortError(f"{self.name}: no column {column!r}; {did_you_mean(column, columns)}")
        allowed = {k: {str(v) for v in ([w] if isinstance(w, str) else w)} for k, w in wanted.items()}
        rows = (r for r in self.rows if all(_value(r, k) in values for k, values in allowed.items()))
        return replace(self, rows=tuple(rows))

    def only(self, keep: Callable[[Row], bool]) -> Cohort:
        """Rows for which `keep` is true."""
        return replace(self, rows=tuple(row for row in self.rows if keep(row)))

    def labelled(self) -> Cohort:
        """Rows with labels."""
        return self.only(lambda row: bool(row.labels))

    def without_labels(self) -> Cohort:
        """The same scans as if nobody had labelled them; their label files are never opened."""
        return replace(self, rows=tuple(replace(r, labels="", structures="") for r in self.rows))

    def hash(self) -> str:
        """Short fingerprint of the rows: the same text gives the same 12 characters."""
        return hashlib.sha256(to_csv(self).encode()).hexdigest()[:12]


def parse_filter(text: str) -> dict[str, list[str]]:
    """`sequence=lge,vendor=A|B` as the arguments of `Cohort.where`."""
    wanted: dict[str, list[str]] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        column, equals, values = part.partition("=")
        if not equals:
            raise CohortError(f"filter {part!r}: write column=value, as in sequence=lge,vendor=A|B")
        if column.strip() in wanted:
            raise CohortError(f"filter {text!r}: {column.strip()} is there twice; write its values as lge|t2")
        wanted[column.strip()] = [v.strip() for v in values.split("|")]
    return wanted


def read_cohort(
    path: Path, reader: Callable[[Path, Mapping[str, Convention]], Reader] | None = None
) -> Cohort:
    """A cohort.csv (UTF-8). `reader` makes the function that reads a row, from the csv's folder and own conventions.

    Missing columns, an unknown split, a scan listed twice and numbers that are none raise `CohortError`
    with line and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        inside = path / "cohort.csv"
        remedy = f"give {inside}" if inside.is_file() else "`crossbeat index` makes a cohort.csv"
        raise CohortError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        remedy = "give a cohort.csv" if path.suffix.lower() != ".csv" else "save it again as 'CSV UTF-8'"
        raise CohortError(f"{path}: is not UTF-8 text; {remedy}") from None
    own = read_conventions(path.parent)
    rows = tuple(_parse(path, text))
    repeated = [scan for scan, count in _count(row.scan for row in rows).items() if count > 1]
    if repeated:
        raise CohortError(
            f"{path}: scan {repeated[0]!r} stands there more than once; scan names must be unique"
        )
    return Cohort(rows, reader(path.parent, own) if reader else no_reader, path.stem, path.parent)


def read_conventions(folder: Path) -> dict[str, Convention]:
    """A user's own conventions from `conventions.yaml` in that folder; none where there is no such file.

    The file maps a name to its values: `mysite: {0: background, 10: LV, 20: MYO, 30: RV}`.
    """
    path = folder / "conventions.yaml"
    if not path.exists():
        return {}
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {
            str(n): convention_from_names(str(n), {int(v): str(s) for v, s in t.items()})
            for n, t in table.items()
        }
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise CohortError(f"{path}: not a table of name: {{value: structure}} ({error})") from None


def write_cohort(cohort: Cohort, path: Path) -> None:
    """Write a cohort.csv, whole or not at all; its paths are rewritten to hold from where it lies.

    A `conventions.yaml` that the rows depend on goes along.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    moved = seen_from(cohort, path.parent)
    own = cohort.folder / "conventions.yaml"
    if own.exists() and cohort.folder.resolve() != path.parent.resolve():
        shutil.copyfile(own, path.parent / "conventions.yaml")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(to_csv(moved), encoding="utf-8")
    temporary.replace(path)


def seen_from(cohort: Cohort, folder: Path) -> Cohort:
    """The same scans, their paths relative to another folder."""
    rows = tuple(_moved(row, cohort.folder, folder) for row in cohort)
    return replace(cohort, rows=rows, folder=folder)


def to_csv(cohort: Cohort) -> str:
    """The text of a cohort.csv: known columns in their order, then further ones."""
    further = list(dict.fromkeys(column for row in cohort for column in row.further))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *further])
    for row in cohort:
        writer.writerow([_value(row, column) for column in [*COLUMNS, *further]])
    return out.getvalue()


def _parse(path: Path, text: str) -> Iterator[Row]:
    lines = csv.DictReader(io.StringIO(text))
    columns = [(c or "").strip() for c in lines.fieldnames or []]
    lines.fieldnames = columns
    missing = [c for c in _NEEDED if c not in columns]
    if missing:
        said = f"it has {', '.join(columns)}" if any(columns) else "it is empty"
        if len(columns) == 1 and columns[0].count(";") > 1:
            said = "its cells are separated by semicolons; save it with commas"
        raise CohortError(f"{path}: needs a column for each of {', '.join(missing)}; {said}")
    for line in lines:
        number = lines.line_num
        if None in line:
            raise CohortError(
                f"{path} line {number}: has more cells than columns; quote cells that hold commas"
            )
        if None in line.values() and number == text.count("\n") + 1:  # the last, without an end
            raise CohortError(f"{path} line {number}: has fewer cells than columns; was the file cut off?")
        values = {k: (v or "").strip() for k, v in line.items() if k}
        for column in _NEEDED:
            if not values[column]:
                raise CohortError(f"{path} line {number}: {column} is empty")
        try:
            yield _row(values)
        except ValueError as error:
            raise CohortError(f"{path} line {number}: {error}") from None


def _row(values: Mapping[str, str]) -> Row:
    split = values.get("split", "")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of train, validation, test or empty")
    spacing_source = values.get("spacing_source", "") or "header"
    if spacing_source not in ("header", "nominal"):
        raise ValueError(f"spacing_source {spacing_source!r} is neither header nor nominal")
    interval = _number(values.get("frame_interval_ms", ""), "frame_interval_ms")
    if interval is not None and interval <= 0:
        raise ValueError(
            f"frame_interval_ms {interval:g} is no time between two frames; write milliseconds above 0"
        )
    return Row(
        subject=values["subject"],
        scan=values["scan"],
        sequence=values["sequence"].lower(),
        image=values["image"],
        split=split,
        convention=values.get("convention", "") or "crossbeat",
        ed_frame=_whole(values.get("ed_frame", ""), "ed_frame"),
        es_frame=_whole(values.get("es_frame", ""), "es_frame"),
        frame_interval_ms=interval,
        spacing_source="nominal" if spacing_source == "nominal" else "header",
        further={k: v for k, v in values.items() if k not in COLUMNS},
        **{k: values.get(k, "") for k in ("vendor", "centre", "group", "labels", "structures", "source")},
    )


def _moved(row: Row, old: Path, new: Path) -> Row:
    if old.resolve() == new.resolve():
        return row

    def path(text: str, separators: str = ";") -> str:
        file = old / text  # its folder is resolved, but not what the file itself may be a link to
        found = Path(os.path.relpath(file.parent.resolve() / file.name, new.resolve())).as_posix()
        if found != found.strip() or any(mark in found for mark in separators):
            raise CohortError(
                f"scan {row.scan!r}: {found!r} cannot stand in a cohort.csv, where `;` and `=` separate files and "
                "spaces at the ends are nothing; rename that folder or file"
            )
        return found

    images = ";".join(path(file) for file in row.image_files)
    labels = ";".join(path(f, ";=") if t is None else f"{t}={path(f)}" for t, f in row.label_files.items())
    return replace(row, image=images, labels=labels)


def _number(text: str, column: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{column} {text!r} is no number; leave it empty where it is not known")
    return number


def _whole(text: str, column: str) -> int | None:
    number = _number(text, column)
    if number is not None and (number != int(number) or number < 0):
        raise ValueError(f"{column} {text!r} is no frame number; frames are whole and count from 0")
    return None if number is None else int(number)


def _value(row: Row, column: str) -> str:
    return row.value(column) if column in COLUMNS else row.further.get(column, "")


def _count(items: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts
