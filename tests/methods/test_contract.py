"""What every method must do, whatever its paper: one suite over METHODS."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossbeat.case import Case
from crossbeat.cohort import Cohort, Row
from crossbeat.errors import CohortError, SettingsError
from crossbeat.labels import TRAINED
from crossbeat.methods import METHODS
from crossbeat.metrics import dice
from crossbeat.segmenter import Segmenter, load_segmenter
from crossbeat.training import Run

ROOT = Path(__file__).parents[2]
HEADINGS = ["Idea", "Run it", "What is logged", "Where we differ from the paper", "Results"]
DOMAINS = {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}}


def tables(name: str) -> dict[str, dict[str, Any]]:
    """A table that every `tests/methods/test_<method>.py` has: its LEARNS or ONCE settings, by method."""
    found = {}
    for method in METHODS:
        path = Path(__file__).with_name(f"test_{method}.py")
        spec = importlib.util.spec_from_file_location(f"tests_of_{method}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[method] = getattr(module, name)
    return found


TINY = tables("LEARNS")
"""Settings under which a method learns small hearts in seconds on one core."""
FEW = tables("ONCE")
"""Changes to those that make it do everything once, and learn nothing."""

Hearts = Callable[..., Cohort]
every_method = pytest.mark.parametrize("method", sorted(METHODS))


def two_domains(hearts: Hearts) -> Cohort:
    """bSSFP to train on and to choose weights by; LGE to adapt to and to be tested on, whose labels stay shut.

    The LGE to adapt to is of two patients whose bSSFP trains, as in MS-CMRSeg.
    """
    made = hearts(6, 4)
    parts = ["train"] * 4 + ["validation"] * 2 + ["train"] * 2 + ["test"] * 2
    subjects = [f"s{i}" for i in (*range(6), 0, 1, 92, 93)]
    rows = tuple(
        replace(row, split=part, subject=subject)
        for row, part, subject in zip(made.rows, parts, subjects, strict=True)
    )

    def read(row: Row) -> Case:
        assert not (row.labels and row.sequence == "lge"), f"{row.scan}: these labels must never be asked for"
        case = made.read(row)
        return case if row.labels else replace(case, labels=None, drawn=())

    return Cohort(rows, read, "two domains")


def train(method: str, cohort: Cohort, folder: Path, seed: int = 0, **changes: Any) -> Segmenter:
    """Train into a run folder as `crossbeat train` does."""
    settings = METHODS[method].settings.of({**DOMAINS, **TINY[method], **changes})
    run = Run(folder, seed=seed, device="cpu", precision="32", progress=False)
    run.open(settings.model_dump(mode="json"), cohort, f"crossbeat train {method}")
    return METHODS[method].train(cohort, settings, run)


def mean_dice(segmenter: Segmenter, cases: list[Case]) -> float:
    """Over structures and cases, of scans whose labels the test may see."""
    found = [(segmenter.predict(replace(case, labels=None, drawn=())), case.labels) for case in cases]
    return float(np.mean([dice(ours == s, theirs == s) for ours, theirs in found for s in TRAINED]))


@pytest.fixture(scope="module")
def kept() -> dict[str, Segmenter]:
    return {}


@pytest.fixture
def trained(
    method: str, hearts: Hearts, kept: dict[str, Segmenter], tmp_path_factory: pytest.TempPathFactory
) -> Segmenter:
    """The method's segmenter, trained once for all tests."""
    if method not in kept:
        kept[method] = train(method, two_domains(hearts), tmp_path_factory.mktemp(method) / "run")
    return kept[method]


@every_method
def test_a_method_has_its_module_recipe_page_and_tests(method: str) -> None:
    module = ROOT / "src" / "crossbeat" / "methods"
    assert (module / f"{method}.py").exists() or (module / method / "__init__.py").exists()
    for file in (f"recipes/{method}.yaml", f"docs/methods/{method}.md", f"tests/methods/test_{method}.py"):
        assert (ROOT / file).exists(), f"{method} needs {file}"


@every_method
def test_its_page_has_the_same_headings_as_the_others(method: str) -> None:
    page = (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("## ").strip() for line in page.splitlines() if line.startswith("## ")]
    assert [h for h in headings if h in HEADINGS] == HEADINGS


@every_method
def test_every_setting_is_described(method: str) -> None:
    fields = METHODS[method].settings.model_fields
    assert not [name for name, field in fields.items() if not field.description]


@every_method
def test_every_profile_and_size_loads_and_an_unknown_one_is_refused(method: str) -> None:
    settings = METHODS[method].settings
    for profile in settings.PROFILES:
        for size in settings.SIZES:
            found = settings.of({"profile": profile, "size": size})
            preset = {**settings.PROFILES[profile], **settings.SIZES[size]}
            assert {name: getattr(found, name) for name in preset} == preset
            assert settings.of(found.model_dump(mode="json")) == found
    with pytest.raises(SettingsError, match="size 'huge' does not exist"):
        settings.of({"size": "huge"})


@pytest.mark.slow
@every_method
def test_a_dry_run_tells_the_cost_and_writes_nothing(
    method: str, hearts: Hearts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = METHODS[method].settings.of({**DOMAINS, **TINY[method]})
    run = Run(tmp_path / "run", device="cpu", progress=False, estimates={})
    METHODS[method].train(two_domains(hearts), settings, run)
    assert run.estimates
    for estimate in run.estimates.values():
        assert estimate.updates > 1
        assert estimate.seconds > 0
    assert not list(tmp_path.iterdir())


@every_method
def test_without_labels_to_learn_from_it_says_so(method: str, hearts: Hearts, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no labelled scan to train on"):
        train(method, two_domains(hearts).without_labels(), tmp_path / "run")


@pytest.mark.slow
@every_method
def test_training_helps_and_touches_no_label_that_it_must_not_see(
    method: str, trained: Segmenter, hearts: Hearts
) -> None:
    cases = list(hearts(6, 0).cases())[4:]
    torch.manual_seed(0)
    untrained = Segmenter(trained.spec.build().eval(), trained.spec, trained.preparation)
    assert mean_dice(trained, cases) > mean_dice(untrained, cases) + 0.3


@pytest.mark.slow
@every_method
def test_prediction_is_the_same_twice_and_after_saving(
    method: str, trained: Segmenter, hearts: Hearts, tmp_path: Path
) -> None:
    case = replace(next(hearts(0, 1).cases()), labels=None, drawn=())
    first = trained.predict(case)
    assert len(np.unique(first)) > 1
    np.testing.assert_array_equal(trained.predict(case), first)
    trained.save(tmp_path / "segmenter")
    np.testing.assert_array_equal(load_segmenter(tmp_path / "segmenter").predict(case), first)


@every_method
def test_a_segmenter_knows_where_it_comes_from(method: str, hearts: Hearts, tmp_path: Path) -> None:
    cohort = two_domains(hearts)
    told = train(method, cohort, tmp_path / "run", seed=7, **FEW[method]).provenance
    assert (told["method"], told["seed"], told["cohort_hash"]) == (method, 7, cohort.hash())
    assert METHODS[method].settings.of(told["settings"]).target == {"sequence": ["lge"]}


@pytest.mark.slow
@every_method
def test_the_same_seed_gives_the_same_weights_and_another_others(
    method: str, hearts: Hearts, tmp_path: Path
) -> None:
    cohort = two_domains(hearts)
    weights = [
        train(method, cohort, tmp_path / f"{number}", seed, **FEW[method]).network.state_dict()
        for number, seed in enumerate((3, 3, 4))
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.slow
@every_method
def test_weights_are_chosen_on_the_source_where_asked(method: str, hearts: Hearts, tmp_path: Path) -> None:
    train(method, two_domains(hearts), tmp_path, select="source", **FEW[method])
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    chosen = [line for line in log if line["event"] == "stage finished"][-1]
    assert chosen["select"] == "source"
    assert 0 <= chosen["value"] <= 1
