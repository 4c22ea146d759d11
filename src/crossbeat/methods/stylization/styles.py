"""Scans in, the slices that stylization learns from out: labelled contents, and styles that nobody labelled."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError
from crossbeat.methods.recipe import Domains, what_there_is
from crossbeat.methods.stylization.settings import Settings
from crossbeat.prepare.augment import Augmentation, apply, draw
from crossbeat.prepare.slices import AT_ONCE, SliceBank, batch_generator, build_bank, join_banks
from crossbeat.prepare.volumes import Preparation, crop
from crossbeat.training import Run

CHOICE, TURNS, NOISE, CORRUPTION, PLACES = 11, 12, 13, 14, 15
"""Purposes of the random numbers of a step beside those of prepare: which styles, how turned, the code's noise, what
an encoder has to mend, and where in an image it looks."""
FLAT = 1e-3
"""Standard deviation of a slice, in [0, 1], up to which it shows nothing and is no style."""


@dataclass(frozen=True)
class Material:
    """All slices to learn from, on one intensity scale."""

    content: SliceBank
    """Annotated slices of the source, and of the target where its labels are seen."""
    styles: SliceBank | None
    """Slices whose style the contents are given; None where nothing is stylised."""
    taught: SliceBank | None
    """Slices whose styles the stylizer learns: the same, unless `pretrain_style` names others."""
    partners: Int[Tensor, " n"] | None
    """For each content the same patient's nearest style slice, -1 for a patient without; under `same_patient`."""
    tested: frozenset[str] = frozenset()
    """Subjects that no training may have seen; empty under `transductive`."""
    further: Callable[[], SliceBank | None] = lambda: None
    """Reads the slices of all other scans whose images may be seen, by one or two frames; None where there are none."""

    def every_slice(self) -> SliceBank:
        """What an encoder learns from: all that may be seen, the same whichever scans show styles (methods.md 3.7)."""
        others = [bank for bank in (self.styles, self.further()) if bank is not None]
        return join_banks([self.content, *others])


def gather(domains: Domains, cohort: Cohort, settings: Settings, run: Run) -> Material:
    """Read contents and styles. `CohortError` where the recipe wants styles and no scan gives any."""
    labelled = replace(domains.source, rows=domains.source.rows + domains.target.rows)
    tested = (
        frozenset() if settings.transductive else frozenset(r.subject for r in cohort if r.split == "test")
    )
    if settings.stylizer == "none":
        return Material(_read(labelled, settings, run, "reading scans"), None, None, None, tested)
    wanted = _narrowed(_with_images(domains, cohort, settings), settings, run.seed)
    other = _pretraining(cohort, settings, tested)
    content = _read(labelled, settings, run, "reading scans")
    styles = _shown(_read(wanted, settings, run, "reading styles"), cohort.name)
    if settings.style_scans == "slice":
        styles = _middle_slice(styles)
    taught = styles
    if other is not None:
        taught = _shown(_read(other, settings, run, "reading styles to learn"), cohort.name)
    if settings.style_vae and not settings.turn_styles and len(taught.table) == 1:
        raise SettingsError(
            f"style_vae learns what styles there are, and {cohort.name} shows one slice of them; say "
            "turn_styles: true, or give more target images"
        )
    partners = find_partners(content, styles, cohort.name, run) if settings.style == "same_patient" else None
    scans = {place.scan for bank in (content, styles) for place in bank.table}
    further = _further(cohort, settings, tested, scans)

    def read_further() -> SliceBank | None:
        return _read(further, settings, run, "reading further images") if len(further) else None

    return Material(content, styles, taught, partners, tested, read_further)


def read_styles(
    cohort: Cohort, preparation: Preparation, progress: Callable[[Row], None] = lambda row: None
) -> SliceBank:
    """Slices of those scans that show something, as styles are seen in training: without labels, of a cine two frames.

    `CohortError` where every slice is of one grey.
    """
    bank = build_bank(_stills(cohort), preparation, progress=progress)
    return _shown(bank, cohort.name)


def still_frames(row: Row, case: Case) -> list[int]:
    """The frames that show a scan's style: ED and ES of a cine, or its first; more show the same contrast again."""
    named = [f for f in dict.fromkeys((row.ed_frame, row.es_frame)) if f is not None and f < case.frames]
    return list(range(case.frames)) if case.frames <= 2 else named or [0]


def find_partners(content: SliceBank, styles: SliceBank, name: str, run: Run) -> Int[Tensor, " n"]:
    """For each content the nearest style slice of the same patient by z in mm, -1 where that patient has none.

    `CohortError` where no patient has both; how many contents stay without, and how far the farthest partner lies, is
    noted.
    """
    of: dict[str, list[tuple[float, int]]] = {}
    for i, place in enumerate(styles.table):
        of.setdefault(place.subject, []).append((place.z_mm, i))
    found = [_nearest(of.get(place.subject, []), place.z_mm) for place in content.table]
    alone = {place.subject for place in content.table} - of.keys()
    if all(i < 0 for i in found):
        raise CohortError(
            f"{name}: style same_patient, but no subject has both a labelled source scan and a target scan that "
            "trains; give both the same `subject`, say `transductive: true` if their target scans are tested, or "
            "style: random"
        )
    if alone:
        run.note(
            f"{name}: {len(alone)} subjects have no target scan that trains, {min(alone)!r} first; their slices get "
            "styles drawn at random (style: same_patient)"
        )
    apart = [
        abs(place.z_mm - styles.table[i].z_mm)
        for place, i in zip(content.table, found, strict=True)
        if i >= 0
    ]
    run.note(
        f"style same_patient: slice and style lie {statistics.median(apart):.1f} mm apart on the median, "
        f"{max(apart):.1f} mm at most"
    )
    return torch.tensor(found, dtype=torch.long)


def choose_styles(bank: SliceBank, count: int, *, seed: int, step: int) -> Int[Tensor, " n"]:
    """Indices of that many styles, drawn with replacement by seed and step alone: no order ties them to contents."""
    return torch.randint(len(bank), (count,), generator=batch_generator(seed, step, CHOICE))


def style_images(
    bank: SliceBank,
    indices: Int[Tensor, " n"],
    turns: Augmentation | None = None,
    *,
    seed: int = 0,
    step: int = 0,
    share: Callable[[Tensor], Tensor] = lambda indices: indices,
) -> Float[Tensor, "m 1 y x"]:
    """This device's share of the images of those slices, cropped; turned at random by seed and step where asked."""
    size = bank.preparation.size
    mine = share(torch.arange(len(indices)))
    batch = bank.batch(indices[mine])
    if turns is None:
        return crop(batch.image, size)
    changes = draw(turns, len(indices), batch_generator(seed, step, TURNS)).take(mine)
    return apply(changes.to(batch.image.device), batch.image, batch.labels, size=(size, size))[0]


def code_noise(count: int, length: int, *, seed: int, step: int) -> Float[Tensor, "n d"]:
    """Standard normal numbers for that many codes, by seed and step alone, on the CPU."""
    return torch.randn(count, length, generator=batch_generator(seed, step, NOISE))


def _read(cohort: Cohort, settings: Settings, run: Run, title: str) -> SliceBank:
    annotated = title == "reading scans"
    with run.bar(title, len(cohort)) as step:
        return build_bank(cohort, settings.preparation, annotated_only=annotated, progress=step)


def _with_images(domains: Domains, cohort: Cohort, settings: Settings) -> Cohort:
    """The target's scans whose images may be seen, by one or two of their frames."""
    if not len(domains.unlabelled):
        lacking = "no target scan trains" if settings.target else "no `target` is named"
        raise CohortError(
            f"{cohort.name}: stylization takes its styles from target images, and "
            f"{lacking} ({what_there_is(cohort, settings.target or {'sequence': []})}); name a `target` of which "
            "some have split train, say `transductive: true` to use the images of those who are tested, or "
            "`stylizer: none`"
        )
    return _stills(domains.unlabelled)


def _stills(cohort: Cohort) -> Cohort:
    """Without labels, and by those frames alone that show the style.

    A slice of one grey becomes 0: resampled, any other grey differs by rounding, which [0, 1] would make a pattern of.
    """

    def read(row: Row) -> Case:
        case = cohort.read(row)
        frames = still_frames(row, case)
        times = None if case.frame_times_ms is None else case.frame_times_ms[frames]
        image = case.image[frames]
        flat = image.max(axis=(2, 3), keepdims=True) == image.min(axis=(2, 3), keepdims=True)
        image = np.where(flat, np.float32(0), image)
        return replace(case, image=image, labels=None, drawn=(), frame_times_ms=times)

    return replace(cohort.without_labels(), read=read)


def _narrowed(styles: Cohort, settings: Settings, seed: int) -> Cohort:
    """The scans of one subject, drawn by seed, for few shots; the first of them for a single one."""
    if settings.style_scans == "all":
        return styles
    subjects = sorted(styles.subjects)
    chosen = subjects[int(np.random.default_rng(seed).integers(len(subjects)))]
    few = styles.only(lambda row: row.subject == chosen)
    return few if settings.style_scans == "patient" else replace(few, rows=few.rows[:1])


def _pretraining(cohort: Cohort, settings: Settings, tested: frozenset[str]) -> Cohort | None:
    """Scans whose styles the stylizer learns in place of the target's; None where the recipe names none."""
    if not settings.pretrain_style:
        return None
    splits = {"train", "", "test"} if settings.transductive else {"train", ""}
    found = cohort.where(**settings.pretrain_style).only(lambda row: row.split in splits)
    if not len(found):
        wanted = ", ".join(
            f"{column} {'/'.join(values)}" for column, values in settings.pretrain_style.items()
        )
        there = len(cohort.where(**settings.pretrain_style))
        remedy = (
            f"{there} are tested or validate; set `split` of some to train"
            if there
            else what_there_is(cohort, settings.pretrain_style)
        )
        raise CohortError(
            f"{cohort.name}: no scan that trains is of pretrain_style ({wanted}): {remedy}; or take pretrain_style out "
            "to learn the target's styles"
        )
    both = sorted(set(found.subjects) & tested)
    if both:
        raise CohortError(
            f"{cohort.name}: {len(both)} subjects are tested and also show styles in training, {both[0]!r} first; "
            "split by subject, or say `transductive: true` if that is meant"
        )
    return _stills(found)


def _further(cohort: Cohort, settings: Settings, tested: frozenset[str], read: set[str]) -> Cohort:
    """Scans whose images training may see, whatever their sequence, beside those that are `read`.

    Labels are not looked at. Where few target scans are to give styles, the encoder sees no other either.
    """
    splits = {"train", "", "test"} if settings.transductive else {"train", ""}
    target = set() if settings.style_scans == "all" else {row.scan for row in cohort.where(**settings.target)}
    return _stills(
        cohort.only(
            lambda row: row.split in splits and row.subject not in tested and row.scan not in read | target
        )
    )


def _shown(bank: SliceBank, name: str) -> SliceBank:
    """The slices that show something."""
    parts = torch.split(bank.images, AT_ONCE)
    contrast = torch.cat([crop(images, bank.preparation.size).flatten(1).std(dim=1) for images in parts])
    keep = torch.nonzero(contrast > FLAT).flatten()
    if not len(keep):
        raise CohortError(
            f"{name}: none of {len(bank)} style slices shows anything but one grey; check the scans"
        )
    return bank.only(keep)


def _middle_slice(bank: SliceBank) -> SliceBank:
    """The middle slice of the first frame, which shows the heart where any does."""
    first = bank.find(lambda place: place.frame == bank.table[0].frame)
    return bank.only(first[len(first) // 2 :][:1])


def _nearest(places: list[tuple[float, int]], z_mm: float) -> int:
    return min(((abs(z - z_mm), i) for z, i in places), default=(0.0, -1))[1]
