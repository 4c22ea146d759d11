"""Every study file loads, begins with its command, and every arm of it takes a few real steps."""

import itertools
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from crossbeat.case import Case
from crossbeat.cli import app, method_command
from crossbeat.cohort import COLUMNS, Cohort, Row
from crossbeat.methods import METHODS
from crossbeat.methods.recipe import find_domains
from crossbeat.methods.tag_pretraining import Settings as TagSettings
from crossbeat.methods.tag_pretraining.disguises import _cine as cyclegan_cine
from crossbeat.networks import SEGMENTERS
from crossbeat.study.demo import demo_study
from crossbeat.study.plan import LOWER, UPPER, Study, plan
from crossbeat.synthetic import Hearts
from crossbeat.synthetic.enrolment import enrol
from crossbeat.synthetic.made import _split_as_dhaene2023 as split_as_dhaene2023
from crossbeat.training import Run

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "studies").glob("*"))
OTHERS = ("simulated", "pretrain_style", "translate_from")
SMALL = {"image_size": 32, "spacing_mm": 3.0, "batch_size": 2}

each = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)


@each
def test_its_first_line_is_the_command_that_runs_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    words = shlex.split(first.removeprefix("# "), comments=True)
    words = words[: words.index("-o") + 2]
    command = typer.main.get_command(app).commands["study"]  # type: ignore[attr-defined]
    given = command.make_context("study", words[2:]).params
    assert given["study_yaml"] == Path("studies") / path.name
    assert given["out"]


@each
def test_it_says_what_it_asks_and_what_each_arm_is(path: Path) -> None:
    study = Study.load(path)
    assert study.title
    assert study.question.endswith("?")
    assert all(arm.about for arm in study.arms.values())
    assert not re.search(r"dice|0\.\d\d", study.question, re.IGNORECASE)


def test_the_totals_of_paper_001_stand_beside_its_two_arms_with_what_they_run_over() -> None:
    printed = Study.load(ROOT / "studies" / "propagation2d.yaml").published
    assert [(value.arm, value.structure, value.value) for value in printed] == [
        ("baseline", "mean", 0.418),
        ("proposed", "mean", 0.444),
    ]
    for value in printed:
        assert value.over == "classes"
        assert "over all four vendors, ours over the two unseen ones" in value.note
        assert "other cells of Table 1 are not at hand" in value.note


def suited(study: Study, hearts: Callable[..., Cohort]) -> Cohort:
    """Small hearts that a study can be planned on: cines of two frames, of its source and of its target.

    Of eight patients both train, and scans that an arm says were simulated from the source; the target of four more is
    tested.
    """
    stills = hearts(1, 0)

    def read(row: Row) -> Case:
        case = stills.read(replace(row, sequence="lge" if row.split == "test" else "bssfp"))
        assert case.labels is not None
        labels = np.concatenate([case.labels] * 2)
        image = np.concatenate([case.image, np.roll(case.image, 1, axis=-1)])
        return replace(case, id=row.scan, image=image, labels=labels, drawn=case.drawn * 2)

    def rows_of(subject: str, part: str, wanted: dict[str, list[str]]) -> list[Row]:
        kinds = itertools.product(
            *([(column, value) for value in values] for column, values in wanted.items())
        )
        made = []
        for kind in kinds:
            columns: dict[str, Any] = {"sequence": "bssfp", **dict(kind)}
            own = {column: value for column, value in columns.items() if column not in COLUMNS}
            columns = {column: value for column, value in columns.items() if column in COLUMNS}
            columns["further"] = own
            scan = "_".join([subject, *dict(kind).values()])
            made.append(
                Row(subject, scan, image="-", split=part, labels="-", ed_frame=0, es_frame=1, **columns)
            )
        return made

    rows = [
        row
        for i in range(8)
        for side in (study.source, study.target, *simulated(study))
        for row in rows_of(f"s{i}", "train", side)
    ]
    rows += [row for i in range(90, 94) for row in rows_of(f"s{i}", "test", study.target)]
    return Cohort(tuple(rows), read, "hearts")


def simulated(study: Study) -> list[dict[str, list[str]]]:
    """What arms take for scans that `crossbeat tag` made, or learn styles or a CycleGAN from, each filter once."""
    recipes = [study.recipe(name) for name in study.arms]
    found = [getattr(recipe, of, {}) for recipe in recipes for of in OTHERS]
    return [wanted for i, wanted in enumerate(found) if wanted and wanted not in found[:i]]


@pytest.mark.slow
@each
def test_it_can_be_planned(path: Path, hearts: Callable[..., Cohort]) -> None:
    """With bounds that are what they are called, and nothing refused."""
    study = Study.load(path, ["folds=2", "beside={}"])
    assert {cell.arm for cell in plan(study, suited(study, hearts))} == set(study.arms)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dhaene2023", "moving_tags"])
def test_scans_that_were_tagged_by_formula_are_never_the_target(
    name: str, hearts: Callable[..., Cohort]
) -> None:
    """`crossbeat tag` makes sequence `tagged` of the source's cine, as labelled as it is, and in its split."""
    study = Study.load(ROOT / "studies" / f"{name}.yaml")
    cohort = suited(study, hearts)
    cine = Row("s99", "s99_bssfp", "bssfp", "-", centre="phantom", split="test", labels="-")
    tagged = replace(cine, scan="s99_bssfp_tagged", sequence="tagged")
    both = replace(cohort, rows=(*cohort.rows, cine, tagged))
    for cell in plan(study, both):
        assert {row.centre for row in cell.tested} == {"tagged"}
        assert cell.settings.source == {"sequence": ["bssfp"], "centre": ["phantom"]} or cell.arm == UPPER


def enrolled(study: Study) -> Cohort:
    """The rows that the study's phantom has, in their splits; nothing is painted."""
    hearts = Hearts(**study.phantom.model_dump(mode="json"))
    people = enrol(hearts.subjects, hearts.sequences, hearts.vendors, site=hearts.site, slices=hearts.slices)
    rows = [
        Row(f"p{i:03}", f"p{i:03}_{sequence}", sequence, "-", centre=one.centre, group=one.group, labels="-")
        for i, one in enumerate(people)
        for sequence in one.sequences
    ]
    return split_as_dhaene2023(Cohort(tuple(rows)), hearts)


def test_the_cyclegan_of_dhaene2023_sees_cine_of_nobody_who_is_labelled_or_looked_at(tmp_path: Path) -> None:
    """methods.md 4.5 and 4.6: 25 labelled sources; of the site's 50 boys 10 are tested, 10 validate, 30 are left."""
    study = Study.load(ROOT / "studies" / "dhaene2023.yaml")
    cohort = enrolled(study)
    arms = [name for name in study.arms if name.startswith("cyclegan")]
    assert len(arms) == 8
    for name in arms:
        settings = study.recipe(name)
        assert isinstance(settings, TagSettings)
        domains = find_domains(cohort, settings, seed=0)
        cine = cyclegan_cine(cohort, domains, settings, Run(tmp_path))
        assert len(domains.source.subjects) == 25
        assert len(cine.subjects) == 30
        looked_at = {row.subject for row in cohort if row.split in ("test", "validation")}
        assert len(looked_at) == 20
        assert not set(cine.subjects) & (set(domains.source.subjects) | looked_at)


def test_arms_of_dhaene2023_are_updated_alike_but_for_those_that_say_so() -> None:
    """The paper's chain: 500 updates a stage."""
    study = Study.load(ROOT / "studies" / "dhaene2023.yaml")
    own = {name: study.recipe(name).segmenter_updates for name in study.arms}
    longer = {"published": (500, 1500, 1500), "constant": (500, 1000, 1500, 1500)}
    for word, counts in longer.items():
        assert tuple(n for name, n in own.items() if name.endswith(word)) == counts
    assert {n for name, n in own.items() if not name.endswith(tuple(longer))} == {1000}


def test_lines_that_stand_fade_and_move_are_made_as_training_draws_them() -> None:
    """The commands in the head of moving_tags: the first against the simulator, the others by what they add."""
    path = ROOT / "studies" / "moving_tags.yaml"
    head = "\n".join(line.removeprefix("#") for line in path.read_text(encoding="utf-8").splitlines())
    lines = head.replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines if line.strip().startswith("crossbeat tag ")]
    command = typer.main.get_command(method_command(METHODS["tag_pretraining"], "tag"))
    given, *others = (command.make_context("tag", each[2:]).params for each in words)
    drawn = Study.load(ROOT / "studies" / "dhaene2023.yaml").recipe("physics").model_dump()
    pairs = {
        "spacing_mm": "tag_spacing_mm",
        "vary": "tag_spacing_range",
        "turn_deg": "tag_angle_range_deg",
        "phase": "tag_phase",
        "flip_deg": "tag_flip_deg",
        "contrast": "tag_contrast",
        "low_pass": "tag_low_pass",
        "noise_sd": "tag_noise_sd",
        "standardise": "tag_standardised",
    }
    assert {option: given[option] for option in pairs} == {o: drawn[s] for o, s in pairs.items()}
    assert given["with_originals"]
    assert (given["where"], given["fade"]) == ("sequence=bssfp,centre=phantom", False)
    differing = [{o: p[o] for o in p if p[o] != given[o]} for p in others]
    assert differing == [
        {"cohort_csv": Path("standing/cohort.csv"), "out": Path("fading"), "suffix": "fading", "fade": True},
        {
            "cohort_csv": Path("fading/cohort.csv"),
            "out": Path("moving_tags_cohort"),
            "suffix": "moving",
            "fade": True,
            "fields": Path("hearts/phantom"),
        },
    ]
    made = [params["suffix"] for params in (given, *others)]
    study = Study.load(path)
    assert [study.recipe(name).model_dump()["simulated"]["tag_set"] for name in made] == [
        [name] for name in made
    ]
    assert made == ["standing", "fading", "moving"]


@pytest.mark.slow
@each
def test_every_arm_takes_a_few_steps(path: Path, hearts: Callable[..., Cohort], tmp_path: Path) -> None:
    study = Study.load(path, ["size=demo", "folds=2", "seeds=[0]", "beside={}"])
    cells = plan(study, suited(study, hearts))
    assert {cell.arm for cell in cells} == set(study.arms)
    for cell in {cell.arm: cell for cell in cells}.values():
        run = Run(tmp_path / cell.arm, device="cpu", progress=False, estimates={})
        small = {key: value for key, value in SMALL.items() if key in type(cell.settings).model_fields}
        network = SEGMENTERS[cell.settings.model_dump()["network"]]
        small["image_size"] = max(SMALL["image_size"], network.minimum_side)
        settings = type(cell.settings).of(cell.settings.model_dump(mode="json") | small)
        METHODS[cell.method].train(cell.cohort, settings, run)
        assert run.estimates
        assert all(estimate.seconds > 0 for estimate in run.estimates.values())


def test_the_demonstration_has_every_method_and_both_bounds() -> None:
    study = demo_study()
    assert {arm.method for arm in study.arms.values()} == set(METHODS)
    assert next(iter(study.arms)) == LOWER
    assert list(study.arms)[-1] == UPPER
    assert study.size == "demo"
    assert {study.recipe(name).model_dump().get("network") for name in study.arms} == {"dilated_resunet"}
