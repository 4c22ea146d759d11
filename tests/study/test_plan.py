"""From a study file and a cohort to cells: the bounds, the folds, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError
from crossbeat.methods import METHODS
from crossbeat.study.plan import LOWER, UPPER, Study, canonical, phantom_version, plan

ACROSS: dict[str, Any] = {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}}


def study(**changes: Any) -> Study:
    return Study.of({**ACROSS, "size": "demo", "folds": 2, **changes})


def cohort(train: int = 6, test: int = 4, split: bool = True) -> Cohort:
    """Each subject has a bSSFP and an LGE scan, both labelled."""
    names = [(f"s{i}", "train") for i in range(train)] + [(f"t{i}", "test") for i in range(test)]
    rows = [
        Row(name, f"{name}_{sequence}", sequence, "i", labels="l", split=part if split else "", group="NOR")
        for name, part in names
        for sequence in ("bssfp", "lge")
    ]
    return Cohort(tuple(rows))


def trained_on(found: Cohort, sequence: str) -> list[str]:
    return [row.subject for row in found.where(sequence=sequence, split="train")]


def test_both_bounds_are_always_there_the_lower_first_and_the_upper_last() -> None:
    found = study(arms={"contrast": {"settings": {"augmentation": "random_contrast"}}})
    assert list(found.arms) == [LOWER, "contrast", UPPER]
    assert found.recipe(LOWER).target_labels == "none"
    assert found.recipe(UPPER).target_labels == "train"
    assert found.recipe(UPPER).source == found.recipe(UPPER).target == {"sequence": ["lge"]}


def test_an_arm_may_say_the_studys_target_again() -> None:
    found = study(arms={"a": {"settings": {"target": {"sequence": "lge"}, "batch_size": 3}}})
    assert found.recipe("a").target == {"sequence": ["lge"]}


def test_a_target_may_name_a_split() -> None:
    [cell, *_] = plan(study(target={"sequence": "lge", "split": "test"}, folds=4), cohort())
    assert cell.tested.subjects == ["t0", "t1", "t2", "t3"]


def test_scans_beside_the_target_are_scored_once_each_and_nobody_beside_is_refused() -> None:
    beside = {"sequence": ["lge", "bssfp"]}
    lower, *upper = plan(study(beside=beside), cohort())
    assert [row.scan for row in lower.tested] == [f"t{i}_lge" for i in range(4)]
    assert [row.scan for row in lower.beside] == [f"t{i}_bssfp" for i in range(4)], (
        "the target is not beside itself"
    )
    assert len(lower.scored) == 8
    assert [cell.arm for cell in upper] == [UPPER, UPPER]
    scored = [row.scan for cell in upper for row in cell.scored]
    assert sorted(scored) == sorted(row.scan for row in lower.scored), "each by one of the folds"
    training = study(beside={"sequence": "bssfp", "split": "train"})
    assert len(plan(training, cohort())[0].beside) == 6, "another split, if it is named"
    with pytest.raises(CohortError, match=r"no labelled scan is .*tagged.*--set beside"):
        plan(study(beside={"sequence": "tagged"}), cohort())


def test_under_methods_all_every_method_has_an_arm() -> None:
    found = study(methods="all")
    assert {arm.method for arm in found.arms.values()} == set(METHODS)
    assert set(METHODS) - {"supervised"} <= set(found.arms)


@pytest.mark.slow
def test_a_method_that_has_nothing_to_learn_from_is_left_out_and_said() -> None:
    stills = cohort()
    found = study(methods="all", equal_updates=False)
    assert (
        set(found.left_out(stills))
        == {name for name, method in METHODS.items() if method.needs_cine}
        != set()
    )
    assert "names two frames, ED and ES" in found.left_out(stills)["propagation"]
    assert "propagation" not in {cell.arm for cell in plan(found, stills)}
    cine = replace(stills, rows=tuple(replace(row, ed_frame=0, es_frame=9) for row in stills))
    assert "propagation" in {cell.arm for cell in plan(found, cine)}
    asked = study(arms={"mine": {"method": "propagation"}}, equal_updates=False)
    assert "mine" in {cell.arm for cell in plan(asked, stills)}, (
        "what the file names is tried, and fails by name"
    )


def test_cells_go_seed_by_seed_and_only_the_upper_bound_is_cross_validated() -> None:
    cells = plan(study(seeds=[0, 7], folds=2), cohort())
    assert [cell.name for cell in cells] == [
        "source_only/seed-0", "target_supervised/seed-0-fold-0-of-2", "target_supervised/seed-0-fold-1-of-2",
        "source_only/seed-7", "target_supervised/seed-7-fold-0-of-2", "target_supervised/seed-7-fold-1-of-2",
    ]  # fmt: skip


def test_each_tested_patient_is_tested_once_by_a_fold_that_did_not_train_on_it() -> None:
    cells = [cell for cell in plan(study(folds=2), cohort()) if cell.arm == UPPER]
    tested = [row.subject for cell in cells for row in cell.tested]
    assert sorted(tested) == ["t0", "t1", "t2", "t3"]
    for cell in cells:
        own = set(cell.tested.subjects)
        everyone = {f"s{i}" for i in range(6)} | {f"t{i}" for i in range(4)}
        assert set(trained_on(cell.cohort, "lge")) == everyone - own
        assert set(trained_on(cell.cohort, "bssfp")) == everyone - own


def test_the_other_arms_are_tested_on_the_same_patients_and_train_on_the_split_as_it_is() -> None:
    [cell] = [cell for cell in plan(study(folds=2), cohort()) if cell.arm == LOWER]
    assert cell.tested.subjects == ["t0", "t1", "t2", "t3"]
    assert trained_on(cell.cohort, "bssfp") == [f"s{i}" for i in range(6)]


def test_without_a_test_split_every_arm_is_cross_validated_over_all_patients() -> None:
    cells = plan(study(folds=5), cohort(split=False))
    for arm in (LOWER, UPPER):
        own = [cell for cell in cells if cell.arm == arm]
        assert len(own) == 5
        assert sorted(row.subject for cell in own for row in cell.tested) == sorted(cohort().subjects)
        for cell in own:
            assert not set(trained_on(cell.cohort, "bssfp")) & set(cell.tested.subjects)


def test_a_study_written_down_and_read_again_is_the_same(tmp_path: Path) -> None:
    found = study(methods="all", seeds=[3], published=[
        {"where": "Table 1", "arm": LOWER, "structure": "LV", "metric": "dice", "value": 0.5}
    ])  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(found.model_dump(mode="json")))
    assert Study.load(path) == found


def test_an_arm_may_begin_with_a_recipe_beside_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "size: full\nsource: {}\ntarget: {}\nbatch_size: 3\nlearning_rate: 0.002\n"
    )
    values = {**ACROSS, "arms": {"mine": {"recipe": "mine.yaml", "settings": {"batch_size": 4}}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
    recipe = Study.load(tmp_path / "s.yaml").recipe("mine").model_dump()
    assert (recipe["batch_size"], recipe["learning_rate"]) == (4, 0.002)
    assert (recipe["size"], recipe["source"]) == ("bench", {"sequence": ["bssfp"]})


def test_settings_of_the_study_reach_every_arm_and_an_arm_has_the_last_word() -> None:
    found = study(settings={"batch_size": 5}, arms={"six": {"settings": {"batch_size": 6}}})
    sizes = {name: found.recipe(name).model_dump()["batch_size"] for name in found.arms}
    assert sizes == {LOWER: 5, "six": 6, UPPER: 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arms": {"a": {"method": "supervized"}}},
            "study: arms.a.method: this method does not exist; did you mean 'supervised'",
        ),
        ({"seads": [1]}, "no setting 'seads'; did you mean 'seeds'"),
        ({"arms": {"a": {"setings": {}}}}, "arms.a.setings"),
        ({"arms": {"a/b": {}}}, "arm 'a/b': a name is letters"),
        ({"seeds": [1, 1]}, "seeds: one stands there twice"),
        ({"reference": "source_onyl"}, "no arm 'source_onyl'; did you mean 'source_only'"),
        ({"target": {}}, "target"),
    ],
)
def test_a_study_file_with_a_mistake_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        study(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arms": {"a": {"settings": {"augmentatoin": "none"}}}},
            "arm a: no setting 'augmentatoin'; did you mean",
        ),
        ({"arms": {"a": {"settings": {"profile": "cod"}}}}, "arm a: profile 'cod' does not exist"),
        ({"arms": {"a": {"settings": {"size": "full"}}}}, "arm a: size is the study's, demo"),
        ({"arms": {"a": {"settings": {"target": {"sequence": "t2"}}}}}, "arm a: target is the study's"),
        ({"arms": {"a": {"settings": {"steps": 200}}}}, "unequally often .*a 200.*equal_updates: false"),
        ({"arms": {LOWER: {"settings": {"target_labels": "train"}}}}, "sees no target label"),
        ({"arms": {UPPER: {}}}, "needs target_labels: train"),
        (
            {"arms": {LOWER: {"settings": {"source": {"vendor": "a"}}}}},
            "arm source_only: source is the study's",
        ),
        ({"arms": {"a": {}}}, "arms source_only and a have the same method and settings"),
        ({"folds": 5}, "5 folds of 4 tested patients .*--set folds=4"),
    ],
)
def test_an_arm_with_a_mistake_is_refused_before_anything_is_trained(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        plan(study(**changes), cohort())


@pytest.mark.parametrize(("folds", "split"), [(2, True), (1, False), (2, False)])
def test_a_target_of_one_patient_cannot_be_cross_validated(folds: int, split: bool) -> None:
    """Whatever --set folds says: the message does not send round in circles."""
    alone = cohort(train=6, test=1).only(lambda row: row.sequence == "bssfp" or row.subject == "t0")
    if not split:
        alone = replace(alone, rows=tuple(replace(row, split="") for row in alone))
    with pytest.raises(CohortError, match=r"labels of 1 patient to be tested by, .* which takes two; label"):
        plan(study(folds=folds), alone)


def test_unequal_updates_are_refused_with_what_makes_them_up() -> None:
    small = {"source_only": {"settings": {"steps": 6}}}
    unequal = study(methods="all", arms=small)
    with pytest.raises(SettingsError, match=r"often \(source_only 6, weak_transfer 600, ") as refused:
        plan(unequal, cohort())
    said = str(refused.value)
    assert "(supervised: steps; weak_transfer: warmup_steps + adversarial_steps; " in said
    assert "tag_pretraining: pretraining_steps + steps)" in said
    own = {"warmup_steps": 4, "adversarial_steps": 2, "steps_per_round": 2}
    upper = {"source": ACROSS["target"], "target_labels": "train", "steps": 6}
    arms = {
        **small,
        "weak_transfer": {"method": "weak_transfer", "settings": own},
        "stylization": {"method": "stylization", "settings": {"steps": 6}},
        "tag_pretraining": {"method": "tag_pretraining", "settings": {"pretraining_steps": 4, "steps": 2}},
        UPPER: {"settings": upper},
    }
    assert plan(study(methods="all", arms=arms), cohort())


def test_unequal_updates_are_allowed_where_the_study_says_so() -> None:
    assert plan(study(arms={"a": {"settings": {"steps": 200}}}, equal_updates=False), cohort())


def test_a_cohort_without_the_studys_target_is_refused() -> None:
    with pytest.raises(CohortError, match=r"no scan is the study's target .*sequence is bssfp"):
        plan(study(), cohort().where(sequence="bssfp"))
    with pytest.raises(CohortError, match="has labels, so nothing could be scored"):
        plan(study(), cohort().without_labels())
    sources_tested = cohort().only(lambda row: row.sequence == "bssfp" or row.split == "train")
    with pytest.raises(CohortError, match="test split has no labelled target scan"):
        plan(study(), sources_tested)


def test_settings_are_told_apart_by_their_text_alone() -> None:
    found = study()
    assert canonical(found.recipe(LOWER)) == canonical(study().recipe(LOWER))
    assert canonical(found.recipe(LOWER)) != canonical(found.recipe(UPPER))


def test_the_phantoms_version_is_read_off_its_rows_and_never_mixed() -> None:
    def of(*sources: str) -> Cohort:
        return Cohort(tuple(Row(f"s{i}", f"s{i}", "lge", "i", source=s) for i, s in enumerate(sources)))

    assert phantom_version(of("phantom 1, seed 0", "phantom 1, seed 0")) == "1"
    assert phantom_version(of("")) == ""
    with pytest.raises(CohortError, match="mixes phantom versions 1, 2"):
        phantom_version(of("phantom 1, seed 0", "phantom 2, seed 0"))
