"""Every recipe loads through its method, and its head is a command that runs it."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from crossbeat.cli import app
from crossbeat.methods import METHODS

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*"))


def test_each_recipe_is_of_a_method() -> None:
    assert {path.name for path in RECIPES} == {f"{name}.yaml" for name in METHODS}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_loads_and_names_only_settings_that_there_are(path: Path) -> None:
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = METHODS[path.stem].settings.load(path)
    assert written
    assert set(written) <= found.model_fields_set
    assert METHODS[path.stem].settings.of(found.model_dump(mode="json")) == found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_its_first_line_is_the_command_that_runs_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    words = shlex.split(first.removeprefix("# "))
    assert first.startswith("# crossbeat train ")
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    given = command.make_context("train", words[2:]).params
    assert given["method"] == path.stem
    assert given["recipe"] == Path("recipes") / path.name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_its_head_tells_no_score_without_a_date(path: Path) -> None:
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for line in head:
        if re.search(r"dice|0\.\d\d", line, re.IGNORECASE):
            assert re.search(r"20\d\d-\d\d-\d\d", line), f"{path.name}: {line}"
