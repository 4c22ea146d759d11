"""The methods, each from a cohort to a segmenter. A fifth one adds a line here and four files (CONTRIBUTING)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from crossbeat.errors import CrossbeatError

if TYPE_CHECKING:
    from crossbeat.cohort import Cohort, Row
    from crossbeat.methods.recipe import Recipe
    from crossbeat.segmenter import Segmenter
    from crossbeat.training import Run


FACTS: Final = ("trained_on", "chosen", "encoder")
"""What run.json repeats of a segmenter's provenance, where it has it: without these no score can be read."""


@dataclass(frozen=True)
class Method:
    """A method as the rest of the house sees it. Its module is imported on first use: it brings torch along."""

    name: str
    summary: str
    commands: Mapping[str, str] = field(default_factory=dict)
    """Commands of its own, and what each does in a line: functions of those names in `crossbeat.cli.<name>`."""
    needs_cine: bool = False
    """Whether it has nothing to learn from stills."""

    @property
    def module(self) -> ModuleType:
        return import_module(f"crossbeat.methods.{self.name}")

    @property
    def settings(self) -> type[Recipe]:
        found: type[Recipe] = self.module.Settings
        return found

    @property
    def train(self) -> Callable[[Cohort, Any, Run], Segmenter]:
        found: Callable[[Cohort, Any, Run], Segmenter] = self.module.train
        return found

    def unfit(self, cohort: Cohort, settings: Recipe) -> str:
        """Why this method cannot learn from a cohort at all, as far as its rows tell; '' where it can."""
        if not self.needs_cine or any(_is_cine(row) for row in cohort.where(**settings.source).labelled()):
            return ""
        return "no labelled source scan names two frames, ED and ES, and it learns from the frames of a cine"

    def carry_out(
        self, cohort: Cohort, settings: Recipe, run: Run, command: str, **further: object
    ) -> Segmenter:
        """Open the run's folder, train, leave the segmenter and the facts of its training there.

        Settings or a cohort that cannot be trained on leave no folder behind. `further` facts stand in run.json from
        the start, and those of the first start stay on resuming.
        """
        run.open(settings.model_dump(mode="json"), cohort, command, method=self.name, **further)
        try:
            segmenter = self.train(cohort, settings, run)
        except CrossbeatError:
            run.withdraw()
            raise
        if run.writes:
            segmenter.save(run.folder / "segmenter")
            facts = {key: segmenter.provenance[key] for key in FACTS if key in segmenter.provenance}
            run.close(method=self.name, size=settings.size, select=settings.select, **facts)
        return segmenter


METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        Method("supervised", "learns from the labelled scans alone: the baseline and both bounds"),
        Method(
            "weak_transfer", "learns from the source's masks carried onto the target, beside a discriminator"
        ),
        Method(
            "propagation",
            "carries ED and ES labels through the cycle by registration, learns from all frames",
            commands={
                "propagate": "Carry the labels of one or two frames of each cine to all of its frames."
            },
            needs_cine=True,
        ),
        Method(
            "stylization",
            "restyles the labelled source as the target (RAIN or AdaConv), and searches for styles that are harder",
            commands={
                "stylize": "Draw scans in the styles of others, with pictures of what it does to them."
            },
        ),
        Method(
            "tag_pretraining",
            "learns from cine made to look like the target, by tag physics or a CycleGAN, then from few labels",
            commands={"tag": "Make tagged scans of cines, by the Bloch equations."},
        ),
    )
}


def _is_cine(row: Row) -> bool:
    return len(row.image_files) > 1 or len({row.ed_frame, row.es_frame} - {None}) > 1
