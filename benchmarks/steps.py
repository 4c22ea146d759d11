"""The steps of all four methods beside bare loops of the same networks and losses on data that never change.

    python benchmarks/steps.py [--device cpu|cuda] [--threads N] [--steps …] [--json OUT]

Ours is the stage as `crossbeat train` carries it out. After every few updates a twin with copies of its networks and
optimizers makes as many: the same update, without Lightning, log, averages and gradient clipping, on one batch that
was cut and changed once. The ratio says what all that costs. `size=bench` of each recipe, on made scans.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hearts import cohort
from sides import Line, Turns, parser, tell, wait

from crossbeat.methods import METHODS
from crossbeat.methods.propagation import registration
from crossbeat.methods.stylization import segmentation
from crossbeat.methods.tag_pretraining import cyclegan
from crossbeat.methods.weak_transfer import stages
from crossbeat.training import Run, Stage

GROUP = 6
"""Updates in a turn."""


@dataclass(frozen=True)
class Step:
    """One method's stage, how to come to it quickly, and what fetches its data."""

    method: str
    stage: type[Stage]
    steps: str
    """The setting that says how many updates it has."""
    changes: Mapping[str, Any]
    sequences: tuple[str, ...]
    frozen: tuple[tuple[Any, str], ...] = ()
    """Functions, by owner and name, that give the twin the same again and again."""
    frames: int = 1
    cycle: int = 1
    """Updates that share one batch."""


STEPS = {
    "adversarial step": Step(
        "weak_transfer",
        stages.Adversarial,
        "adversarial_steps",
        {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}, "warmup_steps": 4},
        ("bssfp", "lge"),
        ((stages.Adversarial, "_batch"),),
    ),
    "registration step": Step(
        "propagation",
        registration.RegistrationStage,
        "registration_steps",
        {"source": {"sequence": "bssfp"}, "steps": 2},
        ("bssfp",),
        ((registration, "place"),),
        frames=6,
    ),
    "ε-search step": Step(
        "stylization",
        segmentation.Segmentation,
        "steps",
        {"source": {"sequence": "bssfp"}, "target": {"sequence": "lge"}, "encoder": "random",
         "encoder_steps": 2, "stylizer_steps": 2, "auxiliary_steps_per_round": 2},
        ("bssfp", "lge"),
        ((segmentation, "training_batch"), (segmentation, "style_images")),
        cycle=3,
    ),
    "CycleGAN step": Step(
        "tag_pretraining",
        cyclegan.CycleGanStage,
        "cyclegan_steps",
        {"source": {"sequence": "bssfp"}, "target": {"sequence": "tagged"}, "strategy": "cyclegan",
         "pretraining_steps": 2, "steps": 2, "steps_per_round": 1, "network": "dilated_resunet"},
        ("bssfp", "tagged"),
        ((cyclegan, "draw_crops"),),
    ),
}  # fmt: skip


class Timed:
    """Stands in for a stage's `update`: counts our time, and lets the twin have its turns."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.update: Callable[..., Any] = step.stage.update
        self.twin: Callable[[int], None] | None = None
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.began = 0.0

    def __call__(self, stage: Stage, number: int) -> Any:
        if number % GROUP == 0:
            wait()
            if self.twin is None:
                self.twin = twin_of(stage, self.step, self.update)
            else:
                self.ours.append(time.perf_counter() - self.began)
            start = time.perf_counter()
            for k in range(GROUP):
                self.twin(k)
            wait()
            self.theirs.append(time.perf_counter() - start)
            self.began = time.perf_counter()
        return self.update(stage, number)


def twin_of(stage: Stage, step: Step, update: Callable[..., Any]) -> Callable[[int], None]:
    """One bare update of a copy of the stage, on the data of its first."""
    twin = copy.copy(stage)
    twin.__dict__ = dict(stage.__dict__)
    twin._modules = {name: copy.deepcopy(module) for name, module in stage._modules.items()}
    twin._buffers = {name: None if b is None else b.clone() for name, b in stage._buffers.items()}
    optimizers, _ = twin.configure_optimizers()

    def descend(loss: torch.Tensor, optimizer: int = 0, **_: object) -> None:
        chosen = optimizers[optimizer]
        chosen.zero_grad()
        loss.backward(inputs=[p for group in chosen.param_groups for p in group["params"]])
        chosen.step()

    twin.__dict__["descend"] = descend
    before = dict(twin.__dict__)
    kept: dict[tuple[str, int], Any] = {}
    calls: Counter[str] = Counter()

    def frozen(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """What the original gave where the first update called it."""

        def again(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            place = (name, calls[name])
            if place not in kept:
                kept[place] = original(*given, **named)
            return kept[place]

        return again

    def go(number: int) -> None:
        originals = [(owner, name, getattr(owner, name)) for owner, name in step.frozen]
        for owner, name, original in originals:
            setattr(owner, name, frozen(name, original))
        if number % step.cycle == 0:
            calls.clear()
            twin.__dict__.update(before)
        torch.clear_autocast_cache()  # of Lightning's step, inside which turns are taken
        try:
            update(twin, number % step.cycle)
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    return go


def measure(name: str, options: argparse.Namespace) -> Line:
    """Updates a second of both sides; the first two turns warm up and are not counted."""
    step = STEPS[name]
    count = GROUP * (options.turns + 3)
    method = METHODS[step.method]
    changes = {"size": "bench", step.steps: count, **step.changes}
    for setting in method.settings.model_fields:
        if setting.endswith("steps_per_round") and setting not in changes:
            changes[setting] = count
    timed = Timed(step)
    scans = cohort(8, frames=step.frames, slices=6, sequences=step.sequences)
    step.stage.update = lambda stage, number: timed(stage, number)  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder) / "run", device=options.device, progress=False, compile=options.compile)
            method.carry_out(scans, method.settings.of(changes), run, "benchmark")
    finally:
        step.stage.update = timed.update  # type: ignore[method-assign]
    return Turns(timed.ours[2:], timed.theirs[2 : len(timed.ours)]).line(
        name, "its bare loop", "/s", GROUP, 0.9
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    made.add_argument("--turns", type=int, default=8)
    made.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    tell("Steps of the methods", [measure(name, options) for name in options.steps], options)


if __name__ == "__main__":
    main()
