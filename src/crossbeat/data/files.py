"""Any folder of NIfTI files becomes rows, by two patterns: one for images, one for their labels.

In a pattern `*` stands for a piece of a name, `**` for any folders, and `{subject}`, `{scan}`, `{vendor}` …
for a piece of a name that becomes that column. `{stem}` in the label pattern is the image's own name
without .nii.gz, `{parent}` its folder. What matches neither pattern is listed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from crossbeat.cohort import COLUMNS, SPLITS, Row
from crossbeat.data.listing import Layout, Listing, nifti_files, place, stem, unused
from crossbeat.errors import FileError, SettingsError, did_you_mean

_TOKENS: Final = re.compile(r"\*\*/|\*\*|\*|\?|\{[^{}]*\}")
_SHOWN: Final = 4
_NOT_TEXT: Final = ("image", "labels", "ed_frame", "es_frame", "frame_interval_ms", "structures")


def index_files(
    root: Path,
    folder: Path,
    images: str = "",
    labels: str = "",
    sequence: str = "bssfp",
    convention: str = "crossbeat",
) -> Listing:
    """One row an image; an image whose label file is not there is listed and stays unlabelled.

    Without `{subject}` each scan is a subject of its own. Raises `SettingsError` without an image pattern, for
    masks would then be taken for scans, and on a malformed one; `FileError` where no image matches or two
    images would get the same scan name.
    """
    files = nifti_files(root)
    if not files:
        raise FileError(root, "holds no .nii or .nii.gz file")
    if not images:
        raise SettingsError(_ask_for_pattern([path.relative_to(root) for path in files]))
    pattern = _compile(images)
    matched = {p: m.groupdict() for p in files if (m := pattern.fullmatch(p.relative_to(root).as_posix()))}
    masks = {p: _label_of(p, fields, labels, root) for p, fields in matched.items()} if labels else {}
    masked = set(masks.values())
    matched = {p: fields for p, fields in matched.items() if p not in masked}
    if not matched:
        raise FileError(
            root, f"no NIfTI file matches the image pattern {images!r}; {len(files)} files are there"
        )
    rows, remarks = [], []
    for image, fields in matched.items():
        mask = masks.get(image)
        if labels and not (mask and mask.exists()):
            wanted = mask.relative_to(root).as_posix() if mask else labels
            remarks.append(f"{image.relative_to(root).as_posix()}: no labels, {wanted} is not there")
            mask = None
        rows.append(_row(image, mask, fields, folder, sequence, convention))
    _refuse_twins(rows, root)
    used = [*matched, *(m for m in masks.values() if m)]
    return Listing(tuple(rows), (*remarks, *unused(files, used, root)))


def _ask_for_pattern(files: Sequence[Path]) -> str:
    """Which files are there, and patterns that would match one kind of them, or only show the form."""
    names = Counter(path.name for path in files)
    name, times = names.most_common(1)[0]
    deep = next(path for path in files if path.name == name)
    suffix = files[0].name.removeprefix(stem(files[0]))
    folders = sorted({path.parent for path in files})
    labels, warning = f"{{parent}}/seg{suffix}", ""
    # patients have folders of their own where the same few names come again in many of them
    if times > 1 and len(names) <= len({path.parts[0] for path in files}):
        images = "/".join(["{subject}", *["*"] * (len(deep.parts) - 2), name])
    elif len(folders) > 1:
        images = (folders[0] / f"*{suffix}").as_posix()
    else:
        images = (folders[0] / f"{{subject}}_image{suffix}").as_posix()
        labels = (folders[0] / f"{{subject}}_mask{suffix}").as_posix()
        warning = (
            f"; all lie in one folder, where '*{suffix}' would take masks too: name what only scans have"
        )
    shown = ", ".join(path.as_posix() for path in files[:_SHOWN]) + (", …" if len(files) > _SHOWN else "")
    return (
        f"layout 'files' needs --images, lest masks be taken for scans; {len(files)} NIfTI files are there "
        f"({shown}){warning}; say which are scans, as in --images '{images}', and which their labels, as in "
        f"--labels '{labels}'"
    )


def _row(
    image: Path, mask: Path | None, fields: Mapping[str, str], folder: Path, sequence: str, convention: str
) -> Row:
    named = dict(fields)
    scan = named.pop("scan", "") or stem(image)
    subject = named.pop("subject", "") or scan
    if named.get("split", "") not in SPLITS:
        named["split"] = {"training": "train", "testing": "test"}.get(named["split"].lower(), "")
    if scan == stem(image) and subject != scan and not scan.startswith(subject):
        scan = f"{subject}_{scan}"
    return Row(
        subject=subject,
        scan=scan,
        sequence=(named.pop("sequence", "") or sequence).lower(),
        image=place(image, folder),
        labels=place(mask, folder) if mask else "",
        convention=named.pop("convention", "") or convention,
        vendor=named.pop("vendor", ""),
        centre=named.pop("centre", ""),
        group=named.pop("group", ""),
        split=named.pop("split", ""),
        source=named.pop("source", ""),
        further=named,
    )


def _compile(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression on paths relative to the root."""
    out, seen, at = "", set[str](), 0
    for token in _TOKENS.finditer(pattern):
        out += re.escape(pattern[at : token.start()])
        out += _regex_of(token[0], pattern, seen)
        at = token.end()
    return re.compile(out + re.escape(pattern[at:]))


def _regex_of(token: str, pattern: str, seen: set[str]) -> str:
    plain = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if token in plain:
        return plain[token]
    name = token[1:-1]
    if not name.isidentifier() or name in _NOT_TEXT:
        usable = sorted(set(COLUMNS) - set(_NOT_TEXT))
        raise SettingsError(f"image pattern {pattern!r}: {token} is no column; {did_you_mean(name, usable)}")
    if name in seen:
        return f"(?P={name})"
    seen.add(name)
    return f"(?P<{name}>[^/]+?)"


def _label_of(image: Path, fields: Mapping[str, str], labels: str, root: Path) -> Path:
    known = {**fields, "stem": stem(image), "parent": image.parent.relative_to(root).as_posix()}
    try:
        return root / labels.format_map(known)
    except (KeyError, ValueError, IndexError) as error:
        raise SettingsError(
            f"label pattern {labels!r}: {error} is not known; use {', '.join('{' + k + '}' for k in known)}"
        ) from None


def _refuse_twins(rows: list[Row], root: Path) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        if row.scan in seen:
            raise FileError(
                root,
                f"{seen[row.scan].image} and {row.image} would both be scan {row.scan!r}; "
                "name a folder in the pattern, as in {subject}/*.nii.gz",
            )
        seen[row.scan] = row


FILES: Final = Layout(
    name="files",
    title="Any folder of NIfTI files, by patterns",
    licence="the owner's",
    source="yours",
    convention="",
    index=index_files,
    options=("images", "labels", "sequence", "convention"),
)
