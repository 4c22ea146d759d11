"""What is left to compute of a study, on which engine, and what it would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from crossbeat.errors import SettingsError, did_you_mean
from crossbeat.evaluation import read_scores
from crossbeat.methods import METHODS
from crossbeat.report.wording import count, duration, number
from crossbeat.study.cell import state
from crossbeat.study.folder import Means, Precision, StudyFolder
from crossbeat.study.local import Outcome, Told, run_locally
from crossbeat.study.plan import Cell
from crossbeat.training import Estimate, Run

Engine = Literal["local", "ray"]


def pending(study: StudyFolder, arms: Sequence[str] = ()) -> list[Cell]:
    """Cells that have no scores yet, in the order of the plan; of some arms only where they are named."""
    return unfinished(study, of_arms(study.cells, arms))


def unfinished(study: StudyFolder, cells: Sequence[Cell]) -> list[Cell]:
    """Those of the cells that have no scores in the folder of a study, which may not be there yet."""
    return [cell for cell in cells if state(cell, study.cell(cell)) != "done"]


def of_arms(cells: Sequence[Cell], arms: Sequence[str]) -> list[Cell]:
    """The cells of these arms, of all where none is named. `SettingsError` for an arm that none of them has."""
    there = list(dict.fromkeys(cell.arm for cell in cells))
    for arm in arms:
        if arm not in there:
            raise SettingsError(f"the study has no cell of an arm {arm!r}; {did_you_mean(arm, there)}")
    return [cell for cell in cells if not arms or cell.arm in arms]


def compute(
    study: StudyFolder,
    cells: Sequence[Cell],
    *,
    engine: Engine = "local",
    address: str = "",
    jobs: int = 1,
    told: Told = lambda outcome: None,
    watch: Callable[[Sequence[Cell]], None] = lambda cells: None,
) -> list[Outcome]:
    """Compute cells on an engine; what became of each. A cell that fails costs the others nothing.

    A study that another engine computes now raises `RunError`.
    """
    with study.engaged():
        if engine == "ray":
            from crossbeat.study.on_ray import run_on_ray

            return run_on_ray(study, cells, address=address, told=told, watch=watch)
        return run_locally(study, cells, jobs=jobs, told=told, watch=watch)


def changed(study: StudyFolder) -> list[Cell]:
    """Cells in whose folder lies another training than the study asks for now; it will be put aside."""
    return [cell for cell in study.cells if state(cell, study.cell(cell)) == "changed"]


def position(study: StudyFolder, cell: Cell) -> str:
    """Where a cell is at work: its name, its stage and the last step that was logged."""
    files = sorted(study.cell(cell).glob("stages/*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    if not files:
        return cell.name
    step = _last_step(files[-1])
    return f"{cell.name} ({files[-1].parent.name}{f', step {step}' if step else ''})"


def told_end(study: StudyFolder, outcome: Outcome) -> str:
    """What became of a cell, in a line: its Dice over the structures and scans of the target, or its last words."""
    if outcome.problem:
        return f"{outcome.cell.name}: {outcome.problem}"
    scores = read_scores(study.cell(outcome.cell) / "scores.csv")
    tested = scores["scan"].isin([row.scan for row in outcome.cell.tested])
    whole = scores[tested & scores["slice"].isna() & (scores["metric"] == "dice")]
    dice = whole[~whole["structure"].str.startswith("mean")].groupby("structure", sort=False)["value"].mean()
    figures = ", ".join(f"{structure} {number(value, '')}" for structure, value in dice.items())
    return f"{outcome.cell.name}: finished; Dice {figures}"


def settled(means: Means) -> Means:
    """The same with the precision that `auto` means on this computer; what cannot be honoured is refused."""
    found = Run(Path(), device=means.device, precision=means.precision).lightning_precision
    return replace(means, precision=cast(Precision, found.partition("-")[0]))


@dataclass(frozen=True)
class Cost:
    """What one stage of an arm costs, and how many of the arm's cells are to be trained and are not yet finished."""

    arm: str
    stage: str
    trainings: int
    left: int
    found: Estimate

    def told(self) -> list[str]:
        """A line of the table of costs."""
        return [self.arm, self.stage, str(self.trainings), str(self.left), *self.found.told()]


def estimate(
    cells: Sequence[Cell],
    means: Means,
    left: Sequence[Cell] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[Cost]:
    """What each arm would cost, from a few real steps of its first cell: one a stage. Nothing is written.

    A stage that several arms share counts in the first of them that has a cell to train.
    `left` are the cells that are not finished; all, where it is not said.
    """
    costs = []
    learnt: set[tuple[str, str]] = set()
    waiting = [cell.arm for cell in (cells if left is None else left)]
    for name in dict.fromkeys(cell.arm for cell in cells):
        mine = [cell for cell in cells if cell.arm == name]
        run = Run(Path("estimate"), seed=mine[0].seed, device=means.device, estimates={}, progress=False)
        METHODS[mine[0].method].train(mine[0].cohort, mine[0].settings, run)
        shared = set(mine[0].settings.shared_stages.items())
        for stage, found in (run.estimates or {}).items():
            if stage not in dict(shared & learnt):
                costs.append(Cost(name, stage, len(mine), waiting.count(name), found))
        learnt |= shared
        progress()
    return costs


def told_total(costs: Sequence[Cost]) -> str:
    """All trainings of a study and those that are left, with the time that they take one after the other."""
    arms = {cost.arm: cost for cost in costs}.values()
    trainings, left = sum(cost.trainings for cost in arms), sum(cost.left for cost in arms)
    whole = duration(sum(cost.trainings * cost.found.seconds for cost in costs))
    rest = duration(sum(cost.left * cost.found.seconds for cost in costs))
    every = f"{count(trainings, 'training')}, one after the other about {whole}"
    return every if left == trainings else f"{every}; {trainings - left} finished, {left} left: about {rest}"


def _last_step(file: Path) -> str:
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 400))
        lines: list[Any] = log.read().decode("utf-8", errors="replace").splitlines()
    steps = [line.partition(",")[0] for line in lines[1:]]
    return next((step for step in reversed(steps) if step.isdigit()), "")
