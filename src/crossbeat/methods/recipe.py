"""What every method's recipe says: which scans are source and target, which labels it may see, how much it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError, did_you_mean
from crossbeat.prepare.augment import Augmentation, preset_with
from crossbeat.segmenter import NetworkSpec
from crossbeat.splits import count_subjects
from crossbeat.training import Chosen, Run


def _as_lists(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    return {k: [str(x) for x in v] if isinstance(v, list) else [str(v)] for k, v in given.items()}


Filter = Annotated[dict[str, list[str]], BeforeValidator(_as_lists)]
"""Cohort columns and their values; one value may stand without a list."""
AnyRecipe = TypeVar("AnyRecipe", bound="Recipe")
AnyModel = TypeVar("AnyModel", bound=BaseModel)

DEMO: Final[Mapping[str, Any]] = {
    "image_size": 64,
    "spacing_mm": 3.0,
    "network": "dilated_resunet",
    "network_arguments": {"norm": "instance"},
    "batch_size": 4,
}
"""What every method's `demo` size shares: the 0.16 M segmenter, which without normalisation learns nothing so soon."""


class Recipe(BaseModel, extra="forbid", frozen=True):
    """Settings that all methods share. A method's own settings extend it.

    What is not given comes from the recipe's `profile`, then from its `size`, then from the field's default.
    """

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ours": {}}
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"full": {}}

    source: Filter = Field(
        default_factory=dict,
        description="cohort columns of the source; empty: all but the target; the target's own: no source",
    )
    target: Filter = Field(
        default_factory=dict, description="cohort columns of the target; empty: there is none"
    )
    target_labels: Literal["none", "train"] = Field(
        "none",
        description="whether labels of the target's train split are seen; those of its test split never are",
    )
    target_labelled: int | float | None = Field(
        None,
        gt=0,
        description="how many target subjects (a fraction below 1) are labelled, drawn by seed; all",
    )
    transductive: bool = Field(
        False, description="a subject may train in the source and be tested in the target"
    )
    profile: Literal["ours", "text", "code"] = Field(
        "ours",
        description="who decides where we, the paper's text and its code differ",
    )
    size: Literal["full", "bench", "demo"] = Field(
        "full",
        description="how much is computed: all; the same networks on small images, for less long; a demonstration",
    )
    select: Literal["last", "source", "target"] = Field(
        "last",
        description="weights that become the segmenter: the last, or the best Dice on a validation split",
    )

    network: str = Field("unet", description="entry of networks.SEGMENTERS")
    network_arguments: dict[str, Any] = Field(
        default_factory=dict, description="passed to the network's builder"
    )
    image_size: int = Field(192, ge=32, le=1024, description="side of the crop in pixels")
    spacing_mm: float = Field(1.25, gt=0.2, le=5, description="of those pixels, in-plane")
    centre: Literal["heart", "image"] = Field("heart", description="what the crop is centred on")
    augmentation: Literal["none", "light", "standard", "random_contrast", "chen2020"] = Field(
        "standard", description="preset of prepare.augment; random_contrast is standard and transfer curves"
    )
    augmentation_changes: dict[str, Any] = Field(
        default_factory=dict, description="fields of prepare.augment.Augmentation that differ from the preset"
    )

    @field_validator("target_labelled")
    @classmethod
    def _refuse_parts_of_subjects(cls, given: int | float | None) -> int | float | None:
        if isinstance(given, float) and given > 1 and given.is_integer():
            return int(given)
        if isinstance(given, float) and given >= 1:
            raise ValueError(
                f"{given} is no number of subjects, as 1 or 5 is, and no share below 1; null is all"
            )
        return given

    @model_validator(mode="before")
    @classmethod
    def _take_presets(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        profile, size = given.get("profile", "ours"), given.get("size", "full")
        preset = {**_preset(cls.PROFILES, profile, "profile"), **_preset(cls.SIZES, size, "size")}
        if given.get("network", preset.get("network")) != preset.get("network"):
            preset.pop("network_arguments", None)  # they are those of the preset's own network
        return {**preset, **given}

    @property
    def spec(self) -> NetworkSpec:
        """The network that becomes the segmenter."""
        return NetworkSpec(name=self.network, size=self.image_size, arguments=self.network_arguments)

    @property
    def changes(self) -> Augmentation:
        """The random changes that each training image goes through."""
        return preset_with(self.augmentation, self.augmentation_changes)

    @property
    def segmenter_updates(self) -> int:
        """Updates of the network that becomes the segmenter; a study holds its arms to the same number."""
        raise NotImplementedError(f"{type(self).__module__} does not say how often its segmenter is updated")

    @property
    def shared_stages(self) -> Mapping[str, str]:
        """Stages that a study trains once for arms that agree on them: a fingerprint of what decides each, by stage."""
        return {}

    @classmethod
    def load(cls: type[AnyRecipe], path: Path | None = None, changes: Sequence[str] = ()) -> AnyRecipe:
        """A recipe file with `key=value` changes on top; neither is needed. `SettingsError` names what is wrong."""
        values = read_values(path, "recipe") if path is not None else {}
        return cls.of(values | parse_changes(changes), str(path) if path else "settings")

    @classmethod
    def of(cls: type[AnyRecipe], values: Mapping[str, Any], name: str = "settings") -> AnyRecipe:
        """Settings from plain values, refused in words."""
        return validated(cls, values, name)


def read_values(path: Path, kind: str) -> dict[str, Any]:
    """The table of a YAML file; `kind` (recipe, study) names it in the `SettingsError` where it is none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (IsADirectoryError, UnicodeDecodeError):
        raise SettingsError(f"{path}: is no {kind} file; a {kind} is a YAML text") from None
    except FileNotFoundError:
        raise SettingsError(f"{path}: there is no such {kind}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: is not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a {kind} is a table of `key: value`")
    return {str(key): value for key, value in values.items()}


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts of `--set` as a table; values are YAML."""
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change}: write key=value")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            problem = str(error).splitlines()[0]
            raise SettingsError(f"--set {change}: {text!r} is not YAML ({problem})") from None
    return values


def validated(model: type[AnyModel], values: Mapping[str, Any], name: str) -> AnyModel:
    """Plain values as a pydantic model; `SettingsError` names an unknown key (did you mean) or a wrong value."""
    for key in values:
        if key not in model.model_fields:
            raise SettingsError(f"{name}: no setting {key!r}; {did_you_mean(key, model.model_fields)}")
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        problem = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name}: {where}: {problem}, got {first.get('input')!r}") from None


def whole_rounds(name: str, steps: int, longest: int, per_round: str = "steps_per_round") -> tuple[int, int]:
    """Rounds of a stage and the steps of each: `longest`, or all in one round where there are fewer.

    `SettingsError` where the steps, which the setting `name` gives, are no whole number of rounds; `per_round`
    is the setting that gives `longest`.
    """
    length = min(steps, longest)
    rounds = steps // length
    if steps % length:
        raise SettingsError(
            f"{name} {steps} are no whole number of rounds of {length}; take {rounds * length} or "
            f"{(rounds + 1) * length}, or another {per_round}"
        )
    return rounds, length


@dataclass(frozen=True)
class Domains:
    """The scans of a cohort by the part they play. Labels that a method must not see are taken away."""

    source: Cohort
    """Labelled source scans to train on."""
    target: Cohort
    """Labelled target scans to train on; empty under `target_labels: none`."""
    unlabelled: Cohort
    """All target scans whose images may be seen in training, without labels."""
    source_validation: Cohort
    target_validation: Cohort


def find_domains(cohort: Cohort, recipe: Recipe, seed: int) -> Domains:
    """Who is source, who is target, who validates; scans without a split train.

    A source that is the target itself, under `target_labels: train`, is none: the target's labels train alone.
    Raises `CohortError` where a filter finds nobody, where nothing labelled is left to train on, and where a
    subject both trains and is tested without the recipe's leave.
    """
    target = cohort.where(**recipe.target) if recipe.target else cohort.only(lambda row: False)
    taken = {row.scan for row in target}
    source = cohort.where(**recipe.source) if recipe.source else cohort
    source = source.only(lambda row: row.scan not in taken)
    alone = recipe.source == recipe.target and recipe.target_labels == "train"
    for rows, wanted, name in ((source, recipe.source, "source"), (target, recipe.target, "target")):
        if wanted and not len(rows) and not (alone and name == "source"):
            raise CohortError(f"{cohort.name}: no scan is {name} {wanted}; {what_there_is(cohort, wanted)}")
    found = Domains(
        source=source.only(_trains).labelled(),
        target=_labelled_target(target, recipe, seed),
        unlabelled=target.only(
            lambda row: _trains(row) or (recipe.transductive and row.split == "test")
        ).without_labels(),
        source_validation=source.where(split="validation").labelled() if len(source) else source,
        target_validation=target.where(split="validation").labelled() if len(target) else target,
    )
    if not len(found.source) and not len(found.target):
        raise CohortError(
            f"{cohort.name}: no labelled scan to train on; `crossbeat check` shows what there is"
        )
    _refuse_leakage(cohort, found, recipe)
    for name, scans in (("source", found.source_validation), ("target", found.target_validation)):
        if recipe.select == name and not len(scans):
            raise CohortError(
                f"{cohort.name}: `select: {name}` needs labelled {name} scans in the validation split; there are none"
            )
    return found


def provenance(
    method: str, settings: Recipe, cohort: Cohort, run: Run, seen: Mapping[str, Cohort], chosen: Chosen
) -> dict[str, Any]:
    """Where a segmenter comes from, for its `segmenter.json`.

    `seen` are the scans that training looked at, by part: `source` and `labelled_target` with their labels,
    `target` without. `chosen` says which weights the last stage ended with.
    """
    return {
        "method": method,
        "seed": run.seed,
        "settings": settings.model_dump(mode="json"),
        "cohort": cohort.name,
        "cohort_hash": cohort.hash(),
        "trained_on": {part: [row.scan for row in scans] for part, scans in seen.items()},
        "chosen": asdict(chosen),
        **run.surroundings(),
    }


def _trains(row: Row) -> bool:
    return row.split in ("train", "")


def _labelled_target(target: Cohort, recipe: Recipe, seed: int) -> Cohort:
    if recipe.target_labels == "none":
        return target.only(lambda row: False)
    labelled = target.only(_trains).labelled()
    if recipe.target and not len(labelled):
        raise CohortError(
            f"{target.name}: `target_labels: train`, but no training scan of the target has labels; label "
            "some, set `split` of labelled ones to train, or say target_labels: none"
        )
    if recipe.target_labelled is None:
        return labelled
    subjects = sorted(labelled.subjects)
    count = max(1, count_subjects(recipe.target_labelled, len(subjects), "target_labelled"))
    if count > len(subjects):
        raise CohortError(
            f"{target.name}: {count} labelled target subjects wanted, there are {len(subjects)}; lower "
            "target_labelled, or say null for all"
        )
    chosen = {subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))[:count]}
    return labelled.only(lambda row: row.subject in chosen)


def _refuse_leakage(cohort: Cohort, found: Domains, recipe: Recipe) -> None:
    """Whoever is tested may neither train, nor show its images, nor choose weights, but under `transductive`."""
    parts = {"train in the source": found.source, "train in the target": found.target}
    parts |= {"show unlabelled images in training": found.unlabelled}
    if recipe.select != "last":
        parts |= {"choose the weights": replace(found.source_validation, rows=_validating(found))}
    tested = {row.subject for row in cohort if row.split == "test"}
    for part, scans in parts.items():
        both = sorted({row.subject for row in scans} & tested)
        if both and not recipe.transductive:
            raise CohortError(
                f"{cohort.name}: {len(both)} subjects are tested and also {part}, {both[0]!r} first; "
                "split by subject, or say `transductive: true` if that is meant"
            )


def _validating(found: Domains) -> tuple[Row, ...]:
    return found.source_validation.rows + found.target_validation.rows


def what_there_is(cohort: Cohort, wanted: Filter) -> str:
    """What the columns of a filter that found nothing hold, for a message."""
    columns = {
        c: sorted({row.value(c) for row in cohort if c not in row.further or row.further[c]}) for c in wanted
    }
    return "; ".join(f"{column} is {', '.join(values) or 'empty'}" for column, values in columns.items())


def _preset(table: Mapping[str, Mapping[str, Any]], name: object, kind: str) -> Mapping[str, Any]:
    if name not in table:
        raise SettingsError(
            f"{kind} {name!r} does not exist for this method; {did_you_mean(str(name), table)}"
        )
    return table[str(name)]
