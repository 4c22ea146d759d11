"""A study file and a cohort → the cells to compute: arms × seeds × folds, each an ordinary training run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, Field, field_validator

from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError, did_you_mean
from crossbeat.methods import METHODS
from crossbeat.methods.recipe import Filter, Recipe, parse_changes, read_values, validated
from crossbeat.splits import folds
from crossbeat.study.published import Published
from crossbeat.synthetic import Annotated, Split

LOWER: Final = "source_only"
"""The arm that every other must beat: supervised training on the source alone."""
UPPER: Final = "target_supervised"
"""The arm that nobody can have in practice: supervised training on the target's own labels."""

_OF_THE_STUDY: Final = ("source", "target", "size")
"""What a recipe that an arm begins with does not decide."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class PhantomSpec(BaseModel, extra="forbid", frozen=True):
    """The synthetic cohort that a study runs on where the user points at none."""

    subjects: int = Field(45, ge=1, description="hearts; MS-CMRSeg has 45 patients")
    sequences: list[str] = Field(["bssfp", "lge"], description="of bssfp, t2, lge, tagged")
    vendors: list[str] = Field(
        ["a", "b"], description="of a, b, c, d; another after every round of the groups"
    )
    cine: bool = Field(False, description="bSSFP over the whole cycle")
    frames: int = Field(25, ge=2, description="of that cycle, and of tagged scans")
    slices: int = Field(
        0, ge=0, description="of each scan, about mid-ventricle; 0: all. At a site that tags always one"
    )
    site: int = Field(0, ge=0, description="the last of the subjects, boys at a site that tags: dhaene2023")
    fields: bool = Field(False, description="write the exact motion of each cine, for `crossbeat tag`")
    annotated: Annotated = Field(
        "all", description="frames of a cine whose labels are given; ed_es: those two only, as in M&Ms"
    )
    test: int = Field(10, ge=0, description="subjects held out, shared out over the groups")
    seed: int = Field(0, ge=0, description="of the hearts and of the split")
    split: Split = Field(
        "subjects",
        description="mscmrseg: by scan and number as in MS-CMRSeg, transductive; `test` is not read. mnms: vendors c "
        "and d whole, and `test` of the others. dhaene2023: `test` of the site, half of them controls",
    )


class ArmSpec(BaseModel, extra="forbid", frozen=True):
    """One way of getting a segmenter, as a study file says it."""

    method: str = Field("supervised", description="entry of METHODS")
    about: str = Field("", description="one line on what it is, for the tables")
    recipe: str = Field("", description="recipe file to begin with, relative to the study file")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the method that differ")
    folds: int | None = Field(
        None,
        ge=1,
        description="cross-validate by patient over those who are tested; the study's for the upper bound, else 1",
    )

    @field_validator("method")
    @classmethod
    def _refuse_unknown(cls, name: str) -> str:
        if name not in METHODS:  # as pydantic wants to hear it, which then says where it stands
            raise ValueError(f"this method does not exist; {did_you_mean(name, METHODS)}")
        return name


class Study(BaseModel, extra="forbid", frozen=True):
    """A study file: arms × seeds × folds on one cohort, and the printed values that stand beside them."""

    name: str = Field("study", description="of the evidence in docs/results; the file's own name")
    title: str = Field("", description="heading of the page")
    question: str = Field("", description="what the study is to answer, for the page")
    size: Literal["full", "bench", "demo"] = Field("bench", description="how much every arm computes")
    source: Filter = Field(default_factory=dict, description="cohort columns of the source")
    target: Filter = Field(min_length=1, description="cohort columns of the target, which is scored")
    beside: Filter = Field(
        default_factory=dict,
        description="cohort columns of further scans to score, without a rank; of the test split unless `split` is one",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="settings that all arms share")
    methods: Literal["all", ""] = Field(
        "", description="all: an arm for every method, under its own settings"
    )
    arms: dict[str, ArmSpec] = Field(default_factory=dict, description="arms by name; the bounds are added")
    seeds: list[int] = Field([0], min_length=1, description="each arm is trained once with each")
    folds: int = Field(5, ge=1, description="of the upper bound, and of all arms where no split is there")
    reference: str = Field(LOWER, description="arm that the others are tested against")
    equal_updates: bool = Field(True, description="refuse arms whose segmenters get unequally many updates")
    phantom: PhantomSpec = Field(default_factory=PhantomSpec, description="where no cohort is given")
    published: list[Published] = Field(default_factory=list, description="printed values, laid beside ours")

    @classmethod
    def load(cls, path: Path, changes: Sequence[str] = ()) -> Study:
        """A study file with `key=value` changes on top. `SettingsError` names what is wrong."""
        values = {"name": path.stem} | read_values(path, "study") | parse_changes(changes)
        return cls.of(values, path)

    @classmethod
    def of(cls, values: Mapping[str, Any], path: Path = Path("study")) -> Study:
        """A study from plain values; recipes are read from beside `path`, so that it stands on its own."""
        study = validated(cls, values, str(path))
        for name, arm in study.arms.items():
            if not _NAME.fullmatch(name):
                raise SettingsError(f"{path}: arm {name!r}: a name is letters, digits, '.', '-' and '_'")
            if arm.recipe:
                recipe = read_values(path.parent / arm.recipe, "recipe")
                own = {key: value for key, value in recipe.items() if key not in _OF_THE_STUDY}
                study.arms[name] = arm.model_copy(update={"recipe": "", "settings": own | arm.settings})
        study = study.model_copy(update={"arms": study._with_bounds()})
        for name in {study.reference} | {value.arm for value in study.published}:
            if name not in study.arms:
                raise SettingsError(f"{path}: there is no arm {name!r}; {did_you_mean(name, study.arms)}")
        if len(set(study.seeds)) < len(study.seeds):
            raise SettingsError(f"{path}: seeds: one stands there twice, got {study.seeds}")
        return study

    def recipe(self, name: str) -> Recipe:
        """The settings of an arm, whole: its own over the study's over its method's."""
        arm = self.arms[name]
        shared = {"source": self.source, "target": self.target, "size": self.size} | self.settings
        values = {**shared, **arm.settings}
        try:
            found = METHODS[arm.method].settings.of(values, f"arm {name}")
        except SettingsError as error:
            said = str(error)
            raise SettingsError(said if said.startswith(f"arm {name}: ") else f"arm {name}: {said}") from None
        if found.size != self.size:
            raise SettingsError(f"arm {name}: size is the study's, {self.size}, got {found.size!r}")
        if found.target != self.target:
            raise SettingsError(f"arm {name}: target is the study's, {self.target}, got {found.target}")
        return found

    def left_out(self, cohort: Cohort) -> dict[str, str]:
        """Methods that `methods: all` brought along and this cohort has nothing for, and why. Arms of the file stay."""
        brought = [name for name, arm in self.arms.items() if self.methods and arm == _arm_of(name)]
        why = {name: METHODS[name].unfit(cohort, self.recipe(name)) for name in brought}
        return {name: reason for name, reason in why.items() if reason}

    def _with_bounds(self) -> dict[str, ArmSpec]:
        """All arms: the bounds around those of the file and, under `methods: all`, one of every method."""
        lower = ArmSpec(about="lower bound: learns from the source alone")
        upper = ArmSpec(
            about="upper bound: learns from the target's own labels"
            + (", cross-validated by patient" if self.folds > 1 else ""),
            settings={"source": self.target, "target_labels": "train"},
            folds=self.folds,
        )
        every = {
            name: arm
            for name in METHODS
            if self.methods and name != "supervised" and (arm := _arm_of(name)) is not None
        }
        arms = {LOWER: lower, **every, **self.arms}
        arms[UPPER] = arms.pop(UPPER, upper)
        if arms[UPPER].folds is None:
            arms[UPPER] = arms[UPPER].model_copy(update={"folds": self.folds})
        return arms


@dataclass(frozen=True)
class Cell:
    """One training of a study: an arm with a seed, on a fold."""

    arm: str
    method: str
    settings: Recipe
    seed: int
    fold: int
    folds: int
    cohort: Cohort
    """With the splits of this fold."""
    beside_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The study's `beside`."""

    @property
    def name(self) -> str:
        """Where its run folder lies below `cells/`."""
        fold = f"-fold-{self.fold}-of-{self.folds}" if self.folds > 1 else ""
        return f"{self.arm}/seed-{self.seed}{fold}"

    @cached_property
    def tested(self) -> Cohort:
        """The target scans that it is scored on."""
        return self.cohort.where(**self.settings.target).where(split="test").labelled()

    @cached_property
    def beside(self) -> Cohort:
        """Scans beside the target that it is scored on, of the test split unless the study names another.

        Of k folds each takes those of its tested patients, and every k-th patient of the others.
        """
        if not self.beside_of:
            return self.cohort.only(lambda row: False)
        target = {row.scan for row in self.tested}
        found = _scored_beside(self.cohort, self.beside_of).only(lambda row: row.scan not in target)
        others = [subject for subject in found.subjects if subject not in self.tested.subjects]
        mine = {*self.tested.subjects, *others[self.fold :: self.folds]}
        return found.only(lambda row: row.subject in mine)

    @cached_property
    def scored(self) -> Cohort:
        """The scans to segment and to score."""
        return replace(self.tested, rows=self.tested.rows + self.beside.rows)


def _arm_of(method: str) -> ArmSpec | None:
    """The arm that a method has under `methods: all`; None for what is no method."""
    return ArmSpec(method=method, about=METHODS[method].summary) if method in METHODS else None


def plan(study: Study, cohort: Cohort) -> list[Cell]:
    """All cells, seed by seed, so that one seed of every arm is there before the second of any.

    Tested are the labelled target scans of the cohort's test split. An arm with `folds` is cross-validated over
    their subjects: each is tested once, by a network that learnt from the others too. Without a test split every
    arm is cross-validated over all subjects with labelled target scans. Raises `CohortError` where the cohort has no
    labelled target, `SettingsError` where arms are updated unequally often.
    """
    tested = _tested(study, cohort)
    _refuse_nobody_beside(study, cohort)
    splits: dict[int, list[Cohort]] = {}
    left_out = study.left_out(cohort)
    arms = {name: arm for name, arm in study.arms.items() if name not in left_out}
    recipes = {name: study.recipe(name) for name in arms}
    if study.equal_updates:
        _refuse_unequal_updates(study, recipes)
    _refuse_wrong_bounds(study, recipes)
    _refuse_twins(study, recipes)
    cells = []
    for seed in study.seeds:
        for name, arm in arms.items():
            count = (arm.folds or 1) if _has_test(tested) else max(arm.folds or study.folds, 2)
            if len(tested.subjects) < 2 <= count:
                raise CohortError(
                    f"{cohort.name}: the target has labels of {len(tested.subjects)} patient to be tested by, and arm "
                    f"{name} is cross-validated, which takes two; label another, or let more have split test"
                )
            if count > len(tested.subjects):
                raise SettingsError(
                    f"{count} folds of {len(tested.subjects)} tested patients ({cohort.name}) for arm {name}; "
                    f"--set folds={len(tested.subjects)}, or fewer"
                )
            if count not in splits:
                splits[count] = [cohort] if count == 1 else list(_fold(cohort, tested, count))
            cells += [
                Cell(name, arm.method, recipes[name], seed, fold, count, version, study.beside)
                for fold, version in enumerate(splits[count])
            ]
    return cells


def canonical(settings: Recipe) -> str:
    """Settings as one line of JSON, alike for alike settings."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def phantom_version(cohort: Cohort) -> str:
    """Version of the synthetic scans of a cohort, as `crossbeat phantom` notes it; '' for real ones."""
    found = {m.group(1) for row in cohort if (m := re.match(r"phantom (\S+),", row.source))}
    if len(found) > 1:
        raise CohortError(f"{cohort.name}: mixes phantom versions {', '.join(sorted(found))}; make it anew")
    return next(iter(found), "")


def _tested(study: Study, cohort: Cohort) -> Cohort:
    target = cohort.where(**study.target)
    if not len(target):
        columns = {c: sorted({row.value(c) for row in cohort}) for c in study.target}
        there = "; ".join(f"{c} is {', '.join(v) or 'empty'}" for c, v in columns.items())
        raise CohortError(
            f"{cohort.name}: no scan is the study's target {study.target}; {there}. "
            "Take another cohort, or --set target=…"
        )
    test = target.where(split="test").labelled()
    found = test if len(test) else target.labelled()
    if not len(found):
        raise CohortError(
            f"{cohort.name}: no target scan {study.target} has labels, so nothing could be scored"
        )
    if any(row.split == "test" for row in cohort) and not len(test):
        raise CohortError(
            f"{cohort.name}: its test split has no labelled target scan {study.target}; split it anew with "
            "`crossbeat index … --test`, or take the split column out for cross-validation"
        )
    return found


def _scored_beside(cohort: Cohort, wanted: Mapping[str, Sequence[str]]) -> Cohort:
    return cohort.where(**{"split": "test", **wanted}).labelled()


def _refuse_nobody_beside(study: Study, cohort: Cohort) -> None:
    if study.beside and not len(_scored_beside(cohort, study.beside)):
        wanted = {"split": ["test"]} | study.beside
        raise CohortError(
            f"{cohort.name}: no labelled scan is {wanted}, which the study scores beside its target; take `beside` "
            "out, or --set beside={}"
        )


def _has_test(tested: Cohort) -> bool:
    return all(row.split == "test" for row in tested)


def _fold(cohort: Cohort, tested: Cohort, count: int) -> Iterator[Cohort]:
    """Versions of a cohort: in the i-th the tested subjects of fold i are test, the other tested ones train."""
    groups = {row.group for row in tested}
    stratify = ["group"] if len(groups) > 1 else []
    everyone = set(tested.subjects)
    for version in folds(tested, count, stratify=stratify):
        now = {row.subject for row in version if row.split == "test"}

        def moved(row: Row, now: set[str] = now) -> Row:
            if row.subject not in everyone:
                return replace(row, split=row.split or "train")
            return replace(row, split="test" if row.subject in now else "train")

        yield replace(cohort, rows=tuple(map(moved, cohort)))


def _refuse_unequal_updates(study: Study, recipes: Mapping[str, Recipe]) -> None:
    updates = {name: recipe.segmenter_updates for name, recipe in recipes.items()}
    if len(set(updates.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in updates.items())
        methods = {study.arms[name].method: recipe for name, recipe in recipes.items()}
        counts = "; ".join(f"{name}: {_counts_of_updates(recipe)}" for name, recipe in methods.items())
        raise SettingsError(
            f"arms update their segmenters unequally often ({said}), which is no fair comparison. Give all the same "
            f"number, by the settings that make it up ({counts}): in the study's `settings` what the methods of all "
            "arms have, else in `arms: {NAME: {method: METHOD, settings: {…}}}`; or write `equal_updates: false`"
        )


def _counts_of_updates(recipe: Recipe) -> str:
    """The settings of a method that make up its segmenter's number of updates: changing one changes that number."""
    whole = [name for name, field in type(recipe).model_fields.items() if field.annotation is int]
    found = [
        name
        for name in whole
        if recipe.model_copy(update={name: getattr(recipe, name) + 1}).segmenter_updates
        != recipe.segmenter_updates
    ]
    return " + ".join(found)


def _refuse_wrong_bounds(study: Study, recipes: Mapping[str, Recipe]) -> None:
    """The bounds are what the share of the gap is counted by: they must be what they are called."""
    lower, upper = recipes[LOWER], recipes[UPPER]
    for name in (LOWER, UPPER):
        if study.arms[name].method != "supervised":
            raise SettingsError(f"arm {name}: is a bound, and its method must be supervised")
    if lower.target_labels != "none":
        raise SettingsError(
            f"arm {LOWER}: is the lower bound and sees no target label; target_labels must be none"
        )
    if lower.source != study.source:
        raise SettingsError(f"arm {LOWER}: source is the study's, {study.source}, got {lower.source}")
    if upper.target_labels != "train" or upper.target_labelled is not None:
        raise SettingsError(
            f"arm {UPPER}: is the upper bound and needs target_labels: train, of all target subjects"
        )


def _refuse_twins(study: Study, recipes: Mapping[str, Recipe]) -> None:
    """Two arms that are one training under two names would be compared with themselves."""
    seen: dict[tuple[object, ...], str] = {}
    for name in recipes:
        arm = study.arms[name]
        twin = seen.setdefault((arm.method, canonical(recipes[name]), arm.folds), name)
        if twin != name:
            raise SettingsError(
                f"arms {twin} and {name} have the same method and settings; take one out, or change it"
            )
