from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError
from crossbeat.methods import METHODS
from crossbeat.methods.recipe import Recipe, find_domains


class Numbers(Recipe):
    """Settings of a method that does not exist."""

    PROFILES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ours": {}, "code": {"rate": 0.5, "steps": 7}}
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"full": {}, "demo": {"steps": 3}}

    rate: float = Field(0.1, gt=0, le=1)
    steps: int = 100


def cohort(**changes: str) -> Cohort:
    rows = [
        Row("a", "a_c", "bssfp", "i", split="train", labels="l"),
        Row("b", "b_c", "bssfp", "i", labels="l"),
        Row("c", "c_c", "bssfp", "i", split="validation", labels="l"),
        Row("d", "d_l", "lge", "i", split="train", labels="l"),
        Row("e", "e_l", "lge", "i", split="train"),
        Row("f", "f_l", "lge", "i", split="test", labels="l"),
    ]
    return Cohort(tuple(rows), name="six")


ACROSS = {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}}


def scans(part: Cohort) -> list[str]:
    return [row.scan for row in part]


def test_explicit_settings_win_over_size_over_profile_over_default() -> None:
    assert (Numbers.of({}).rate, Numbers.of({}).steps) == (0.1, 100)
    assert (Numbers.of({"profile": "code"}).rate, Numbers.of({"profile": "code"}).steps) == (0.5, 7)
    assert Numbers.of({"profile": "code", "size": "demo"}).steps == 3
    assert Numbers.of({"profile": "code", "size": "demo", "steps": 9}).steps == 9


def test_another_network_does_not_get_the_arguments_of_the_size_s_own() -> None:
    own = METHODS["supervised"].settings.of({"size": "demo"})
    assert (own.network, own.network_arguments) == ("dilated_resunet", {"norm": "instance"})
    assert METHODS["supervised"].settings.of({"size": "demo", "network": "unet"}).network_arguments == {}
    named = {"size": "demo", "network": "dilated_resunet"}
    assert METHODS["supervised"].settings.of(named).network_arguments == {"norm": "instance"}


def test_a_file_is_read_and_changed_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("rate: 0.2\nsource: {sequence: [bssfp, t2]}\n")
    found = Numbers.load(tmp_path / "r.yaml", ["steps=12", "target={sequence: lge}"])
    assert (found.rate, found.steps) == (0.2, 12)
    assert (found.source, found.target) == ({"sequence": ["bssfp", "t2"]}, {"sequence": ["lge"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["step=3"], r"no setting 'step'; did you mean 'steps'"),
        (["rate=2"], r"rate: Input should be less than or equal to 1, got 2"),
        (["steps"], "write key=value"),
        (["target={sequence: lge"], r"--set target=\{sequence: lge: .* is not YAML"),
        (["size=bench"], "size 'bench' does not exist for this method"),
    ],
)
def test_wrong_settings_are_refused_in_words(changes: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Numbers.load(None, changes)


def test_a_missing_or_broken_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"x\.yaml: there is no such recipe"):
        Numbers.load(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match="is not YAML"):
        Numbers.load(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("- a\n- b\n")
    with pytest.raises(SettingsError, match="a table of"):
        Numbers.load(tmp_path / "x.yaml")


def test_target_labels_are_hidden_unless_asked_for_and_test_labels_always() -> None:
    found = find_domains(cohort(), Recipe.of(ACROSS), seed=0)
    assert scans(found.source) == ["a_c", "b_c"]
    assert scans(found.target) == []
    assert scans(found.unlabelled) == ["d_l", "e_l"]
    assert scans(found.source_validation) == ["c_c"]
    assert all(not row.labels for row in found.unlabelled)
    seen = find_domains(cohort(), Recipe.of({**ACROSS, "target_labels": "train"}), seed=0)
    assert scans(seen.target) == ["d_l"]
    transductive = find_domains(cohort(), Recipe.of({**ACROSS, "transductive": True}), seed=0)
    assert scans(transductive.unlabelled) == ["d_l", "e_l", "f_l"]
    assert not transductive.unlabelled.rows[2].labels


def test_without_domains_every_labelled_training_scan_is_source() -> None:
    assert scans(find_domains(cohort(), Recipe.of({}), seed=0).source) == ["a_c", "b_c", "d_l"]


def test_some_target_subjects_are_labelled_by_seed() -> None:
    rows = tuple(Row(f"t{i}", f"t{i}", "lge", "i", split="train", labels="l") for i in range(10))
    many = Cohort((*cohort().rows, *rows))
    recipe = Recipe.of({**ACROSS, "target_labels": "train", "target_labelled": 4})
    chosen = [scans(find_domains(many, recipe, seed=s).target) for s in (0, 0, 1)]
    assert [len(c) for c in chosen] == [4, 4, 4]
    assert chosen[0] == chosen[1] != chosen[2]
    half = Recipe.of({**ACROSS, "target_labels": "train", "target_labelled": 0.5})
    assert len(find_domains(many, half, seed=0).target) == round(0.5 * 11)
    with pytest.raises(CohortError, match="12 labelled target subjects wanted, there are 11"):
        find_domains(many, Recipe.of({**ACROSS, "target_labels": "train", "target_labelled": 12}), seed=0)
    for neither in (1.0, 2.5):
        with pytest.raises(SettingsError, match=rf"{neither} is no number of subjects, as 1 or 5 is"):
            Recipe.of({**ACROSS, "target_labels": "train", "target_labelled": neither})
    assert Recipe.of({"target_labelled": 5.0}).target_labelled == 5


def test_the_target_may_train_alone_on_its_own_labels() -> None:
    recipe = Recipe.of(
        {"source": {"sequence": "lge"}, "target": {"sequence": "lge"}, "target_labels": "train"}
    )
    found = find_domains(cohort(), recipe, seed=0)
    assert scans(found.source) == []
    assert scans(found.target) == ["d_l"]


def test_a_subject_in_training_and_test_needs_leave() -> None:
    leaking = Cohort((*cohort().rows, Row("a", "a_l", "lge", "i", split="test", labels="l")))
    with pytest.raises(CohortError, match="1 subjects are tested and also train in the source, 'a' first"):
        find_domains(leaking, Recipe.of(ACROSS), seed=0)
    assert find_domains(leaking, Recipe.of({**ACROSS, "transductive": True}), seed=0)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"target": {"sequence": "t2"}}, r"no scan is target .*; sequence is bssfp, lge"),
        ({"source": {"vendor": "Z"}}, "no scan is source"),
        ({"source": {"sequence": "lge"}, "target": {"sequence": "lge"}}, "no scan is source"),
    ],
)
def test_domains_that_nobody_belongs_to_are_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(CohortError, match=message):
        find_domains(cohort(), Recipe.of(recipe), seed=0)


def test_asking_for_target_labels_where_there_are_none_is_refused() -> None:
    without = cohort().only(lambda row: row.scan != "d_l")
    with pytest.raises(CohortError, match="no training scan of the target has labels"):
        find_domains(without, Recipe.of({**ACROSS, "target_labels": "train"}), seed=0)


def test_choosing_weights_by_validation_needs_validation_scans() -> None:
    assert find_domains(cohort(), Recipe.of({**ACROSS, "select": "source"}), seed=0)
    with pytest.raises(
        CohortError, match="`select: target` needs labelled target scans in the validation split"
    ):
        find_domains(cohort(), Recipe.of({**ACROSS, "select": "target"}), seed=0)


def test_who_is_tested_shows_no_images_and_chooses_no_weights_without_leave() -> None:
    seen = Cohort((*cohort().rows, Row("e", "e_t", "lge", "i", split="test", labels="l")))
    with pytest.raises(CohortError, match="also show unlabelled images in training, 'e' first"):
        find_domains(seen, Recipe.of(ACROSS), seed=0)
    chosen = Cohort((*cohort().rows, Row("c", "c_t", "lge", "i", split="test", labels="l")))
    assert find_domains(chosen, Recipe.of(ACROSS), seed=0)
    with pytest.raises(CohortError, match="also choose the weights, 'c' first"):
        find_domains(chosen, Recipe.of({**ACROSS, "select": "source"}), seed=0)
