from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_stages import COHORT, ROUNDS, STEPS, Adversarial, Falling, batch, quiet_run, weight, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from crossbeat.errors import RunError, SettingsError
from crossbeat.training import Run, dry_run, fit, seed_torch

SCRIPT = Path(__file__).with_name("small_stages.py")


def start_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def train(run: Run, **own: Any) -> dict[str, Tensor]:
    """The adversarial stage from open to close, as a method would."""
    run.open({"steps": STEPS}, COHORT, "toy")
    stage = Adversarial(run, **own)
    fit(stage, rounds=ROUNDS, steps_per_round=STEPS)
    run.close()
    return weights(stage)


def rows(run: Run, stage: str = "adversarial") -> list[dict[str, str]]:
    with (run.stage_folder(stage) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert one.keys() == other.keys()
    assert not differing


def logged(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def uninterrupted(tmp_path: Path) -> tuple[Run, dict[str, Tensor]]:
    run = quiet_run(tmp_path / "uninterrupted", log_every=2)
    return run, train(run)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    tmp_path: Path, uninterrupted: tuple[Run, dict[str, Tensor]]
) -> None:
    run, once = uninterrupted
    torch.rand(17)  # what was drawn before does not matter
    assert_equal(train(replace(run, folder=tmp_path / "again")), once)
    other = train(replace(run, folder=tmp_path / "other", seed=1))
    assert not torch.equal(other["generator.0.weight"], once["generator.0.weight"])


@pytest.mark.slow
def test_a_run_killed_within_a_round_ends_bit_equal(
    tmp_path: Path, uninterrupted: tuple[Run, dict[str, Tensor]]
) -> None:
    whole, wanted = uninterrupted
    killed = start_script(
        tmp_path / "killed", 1, "kill", STEPS + 3
    )  # in the second round, after it has logged
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = quiet_run(tmp_path / "killed", log_every=2, resume=True)
    assert [row["step"] for row in rows(run)] == ["2", "4", "5", "7"]
    assert_equal(train(run), wanted)
    for name in ("metrics.csv",):
        resumed, once = (r.stage_folder("adversarial") / name for r in (run, whole))
        assert resumed.read_text() == once.read_text()
    last = [torch.load(r.stage_folder("adversarial") / "checkpoints" / "last.ckpt") for r in (run, whole)]
    assert_equal(*(checkpoint["averages"] for checkpoint in last))
    for state in ("optimizer_states", "lr_schedulers"):
        assert str(last[0][state]) == str(last[1][state])


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_how_to_go_on_and_does(
    tmp_path: Path,
    uninterrupted: tuple[Run, dict[str, Tensor]],
    asked: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = quiet_run(tmp_path / "stopped", log_every=2)
    run.open({"steps": STEPS}, COHORT, "toy")
    stage = Adversarial(run, kill_at=STEPS + 1)
    stage.signal = asked
    handler = signal.getsignal(asked)
    with pytest.raises(SystemExit) as stop:
        fit(stage, rounds=ROUNDS, steps_per_round=STEPS)
    assert stop.value.code == 128 + asked  # 143, 130
    assert signal.getsignal(asked) is handler
    assert "add --resume to go on" in capsys.readouterr().err
    assert logged(run)[-1] | {"time": ""} == {"time": "", "event": "stopped", "signal": asked.name}
    assert rows(run)[-1]["step"] == str(STEPS + 2)  # the step at hand was ended, then no other
    assert_equal(train(replace(run, resume=True)), uninterrupted[1])


def test_a_stop_in_the_last_step_of_a_round_keeps_the_round(tmp_path: Path) -> None:
    run = quiet_run(tmp_path)
    stage = Adversarial(run, kill_at=STEPS - 1)
    stage.signal = signal.SIGTERM
    run.open({}, COHORT, "toy")
    with pytest.raises(SystemExit):
        fit(stage, rounds=ROUNDS, steps_per_round=STEPS)
    checkpoint = torch.load(run.stage_folder("adversarial") / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["rounds_done"] == 1


def test_a_stop_after_the_last_step_of_a_stage_stops_before_the_next(tmp_path: Path) -> None:
    class Late(Falling):
        def on_train_end(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")
    with pytest.raises(SystemExit) as left:
        fit(Late(run, name="first"), rounds=1, steps_per_round=1)
    assert left.value.code == 128 + signal.SIGTERM
    assert logged(run)[-1]["event"] == "stopped"
    again = replace(run, resume=True)
    again.open({}, COHORT, "toy")
    finished = Falling(again, name="first")
    fit(finished, rounds=1, steps_per_round=1)
    assert not finished.steps, "nothing was lost"


def test_a_finished_stage_is_read_and_not_trained_again(
    uninterrupted: tuple[Run, dict[str, Tensor]],
) -> None:
    run, wanted = uninterrupted

    class MustNotTrain(Adversarial):
        def update(self, step: int) -> dict[str, Tensor]:
            raise AssertionError("trained again")

    again = MustNotTrain(replace(run, resume=True))
    chosen = fit(again, rounds=ROUNDS, steps_per_round=STEPS)
    afterwards = float(torch.rand(()))
    assert_equal(weights(again), wanted)
    assert (chosen.rule, chosen.round, chosen.value) == ("last", ROUNDS, None)
    seed_torch(run.seed, "adversarial", "afterwards")  # so the next stage begins alike
    assert afterwards == float(torch.rand(()))


def test_more_rounds_than_asked_for_are_refused(uninterrupted: tuple[Run, dict[str, Tensor]]) -> None:
    run = replace(uninterrupted[0], resume=True)
    with pytest.raises(RunError, match="has 3 rounds already, 2 are asked for"):
        fit(Adversarial(run), rounds=2, steps_per_round=STEPS)


def test_a_checkpoint_holds_tensors_and_plain_values_only(
    uninterrupted: tuple[Run, dict[str, Tensor]],
) -> None:
    path = uninterrupted[0].stage_folder("adversarial") / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)  # refuses anything that would run code
    assert checkpoint["rounds_done"] == ROUNDS
    assert checkpoint["state_dict"]["replay"].abs().sum() > 0
    assert set(checkpoint["averages"]) == {
        *(f"generator.{i}.{n}" for i in (0, 1, 4) for n in ("weight", "bias")),
        "generator.1.running_mean",
        "generator.1.running_var",
    }
    assert len(checkpoint["optimizer_states"]) == 2


def test_metrics_are_means_since_the_last_row(tmp_path: Path) -> None:
    run = quiet_run(tmp_path, log_every=2)
    run.open({}, COHORT, "toy")
    fit(Falling(run, slope=1.0), rounds=2, steps_per_round=5)
    # The weight falls by 0.1 a step from 0, and the loss is the weight: 0, -0.1 | -0.2, -0.3 | -0.4 || …
    assert [(r["step"], r["round"]) for r in rows(run, "falling")] == [
        ("2", "1"), ("4", "1"), ("5", "1"), ("7", "2"), ("9", "2"), ("10", "2"),
    ]  # fmt: skip
    losses = [float(row["loss"]) for row in rows(run, "falling")]
    assert losses == pytest.approx([-0.05, -0.25, -0.4, -0.55, -0.75, -0.9])
    assert [row["learning_rate"] for row in rows(run, "falling")] == ["", "", "0.1", "", "", "0.1"]


def test_tensorboard_shows_what_the_csv_says(uninterrupted: tuple[Run, dict[str, Tensor]]) -> None:
    run, _ = uninterrupted
    board = EventAccumulator(str(run.stage_folder("adversarial") / "tensorboard")).Reload()
    shown = [(str(e.step), e.value) for e in board.Scalars("loss_critic")]
    written = [(row["step"], float(row["loss_critic"])) for row in rows(run)]
    assert [s for s, _ in shown] == [s for s, _ in written]
    assert [v for _, v in shown] == pytest.approx([v for _, v in written])


def test_plateau_watches_what_validate_gives(tmp_path: Path) -> None:
    class Stuck(Adversarial):
        def validate(self) -> dict[str, float]:
            return {"loss_validation": 1.0}

    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")
    fit(Stuck(run), rounds=4, steps_per_round=2)
    # patience 0: the first round is the best, each later one lowers the rate for the next
    assert [float(row["learning_rate_1"]) for row in rows(run)] == pytest.approx([0.01, 0.01, 0.001, 0.0001])


def test_a_plateau_without_its_number_is_refused(tmp_path: Path) -> None:
    class Silent(Adversarial):
        def validate(self) -> dict[str, float]:
            return {"dice_source": 0.5}

    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")
    with pytest.raises(SettingsError, match="looks at loss_validation, but validate gives dice_source"):
        fit(Silent(run), rounds=1, steps_per_round=2)


class Scored(Falling):
    """Dice by round as given; the weight tells which round it is from: -0.1 * round."""

    def __init__(self, run: Run, source: list[float], target: list[float], **own: Any) -> None:
        super().__init__(run, slope=1.0, name="scored", **own)
        self.scores = list(zip(source, target, strict=True))

    def validate(self) -> dict[str, float]:
        source, target = self.scores[self.current_epoch]
        return {"dice_source": source, "dice_target": target}


@pytest.mark.parametrize(
    ("select", "best", "value"), [("target", 2, 0.6), ("source", 4, 0.9), ("last", 4, None)]
)
def test_select_takes_the_round_it_names(tmp_path: Path, select: Any, best: int, value: float | None) -> None:
    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")
    stage = Scored(run, [0.5, 0.6, math.nan, 0.9], [math.nan, 0.6, 0.6, 0.5])  # equals: the earlier
    chosen = fit(stage, rounds=4, steps_per_round=1, select=select)
    assert (chosen.round, chosen.value) == (best, value)
    assert weight(stage) == pytest.approx(-0.1 * best)
    files = sorted(p.name for p in (run.stage_folder("scored") / "checkpoints").iterdir())
    assert files == ["last.ckpt"] + ([f"round-{best:05d}.ckpt"] if select != "last" else [])
    assert logged(run)[-1]["round"] == best


def test_what_a_stage_has_not_learnt_in_the_end_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Parted(Scored):
        def validate(self) -> dict[str, float]:
            source, target = self.scores[self.current_epoch]
            found = {"dice_source": source, "dice_source_rv": 0.0}  # of labels that are not learnt here
            return found | {"dice_target": source, "dice_target_myo": target, "dice_target_rv": math.nan}

        def must_learn(self) -> list[str]:
            return ["dice_target_myo", "dice_target_rv", "dice_target_lv"]

    cases: list[tuple[list[float], Any, bool]] = [
        ([0.0, 0.2], "last", False), ([0.2, 0.009], "last", True), ([0.2, 0.009], "target", False),
    ]  # fmt: skip
    for number, (target, select, told) in enumerate(cases):
        run = quiet_run(tmp_path / f"{number}")
        run.open({}, COHORT, "toy")
        fit(Parted(run, [0.6, 0.5], target), rounds=2, steps_per_round=1, select=select)
        notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
        lost = "note: stage scored: ends with dice_target_myo below 0.01 on validation scans: not learnt; "
        assert [note.startswith(lost) for note in notes] == [True] * told


def test_the_best_round_survives_a_stop(tmp_path: Path) -> None:
    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")

    class Stopped(Scored):
        def update(self, step: int) -> dict[str, Tensor]:
            if step == 2 and not self.run.resume:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().update(step)

    arguments: Any = ([0.1] * 4, [0.9, 0.5, 0.6, 0.7])
    with pytest.raises(SystemExit):
        fit(Stopped(run, *arguments), rounds=4, steps_per_round=1, select="target")
    stage = Stopped(replace(run, resume=True), *arguments)
    assert fit(stage, rounds=4, steps_per_round=1, select="target").round == 1
    assert weight(stage) == pytest.approx(-0.1)


def test_choosing_without_anything_to_choose_by_is_refused(tmp_path: Path) -> None:
    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")
    with pytest.raises(SettingsError, match="select: target needs validation scans"):
        fit(Falling(run), rounds=1, steps_per_round=1, select="target")
    with pytest.raises(
        SettingsError, match="select looks at dice_target, but validate gives loss_validation"
    ):
        fit(Adversarial(run), rounds=1, steps_per_round=1, select="target")
    with pytest.raises(RunError, match="dice_target was not a number in any round"):
        fit(Scored(run, [0.1], [math.nan]), rounds=1, steps_per_round=1, select="target")


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    class Exploding(Falling):
        def update(self, step: int) -> dict[str, Tensor]:
            return {"loss": super().update(step)["loss"] * (math.nan if step == 3 else 1.0)}

    run = quiet_run(tmp_path, log_every=2)
    run.open({}, COHORT, "toy")
    with pytest.raises(RunError, match="loss is nan after 4 steps; lower the learning rate"):
        fit(Exploding(run), rounds=2, steps_per_round=10)


def test_the_same_name_from_update_and_validate_is_refused(tmp_path: Path) -> None:
    class Twice(Falling):
        def validate(self) -> dict[str, float]:
            return {"loss": 1.0}

    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")
    with pytest.raises(SettingsError, match="update and validate both give 'loss'"):
        fit(Twice(run), rounds=1, steps_per_round=1)


def test_a_process_that_lightning_numbers_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quiet_run(tmp_path)
    stage = Falling(run)
    monkeypatch.setattr(Run, "rank", 1)  # as under a launcher that we do not know
    with pytest.raises(RunError, match="is number 1 of 1 by --devices and --nodes, but number 0 of 1 by its"):
        fit(stage, rounds=1, steps_per_round=1)
    assert not stage.steps


def test_two_stages_of_one_name_are_refused_and_a_resumed_one_is_not(tmp_path: Path) -> None:
    run = quiet_run(tmp_path)
    run.open({}, COHORT, "toy")
    fit(Falling(run, name="pretraining"), rounds=1, steps_per_round=1)
    again = Falling(run, name="pretraining")
    with pytest.raises(RunError, match=r"two stages of this run are named 'pretraining'.*a name of its own"):
        fit(again, rounds=2, steps_per_round=1)
    assert not again.steps
    resumed = replace(run, resume=True)
    resumed.open({}, COHORT, "toy")
    fit(Falling(resumed, name="pretraining"), rounds=1, steps_per_round=1)
    with pytest.raises(RunError, match="two stages of this run"):  # it would be read as finished
        fit(Falling(resumed, name="pretraining"), rounds=1, steps_per_round=1)
    fit(Falling(resumed, name="training"), rounds=1, steps_per_round=1)
    planned = quiet_run(tmp_path / "plan", estimates={})
    fit(Falling(planned), rounds=1, steps_per_round=1)
    with pytest.raises(RunError, match="two stages of this run"):
        fit(Falling(planned), rounds=1, steps_per_round=1)


def test_no_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least one round of one step, got 0 of 5"):
        fit(Falling(quiet_run(tmp_path)), rounds=0, steps_per_round=5)


def test_bfloat16_reaches_the_networks_in_training_and_validation(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    class Seen(Adversarial):
        def share(self, global_indices: Tensor) -> Tensor:
            seen.add(self.generator(global_indices).dtype)
            return super().share(global_indices)

        def validate(self) -> dict[str, float]:
            seen.add(self.generator(torch.ones(1, 1, 6, 5)).dtype)
            return super().validate()

    run = Run(tmp_path, device="cpu", precision="bf16")
    run.open({}, COHORT, "toy")
    stage = Seen(run)
    fit(stage, rounds=1, steps_per_round=2)
    assert seen == {torch.bfloat16}
    assert stage.generator[0].weight.dtype == torch.float32


def test_every_way_through_a_network_is_compiled_within_the_training_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages may call `forward_with_…` in place of the network; what is compiled of them is left at the end."""

    class Shown(nn.Sequential):
        def forward_with_sum(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return self(image), image.sum()

    class Both(Adversarial):
        def __init__(self, run: Run) -> None:
            super().__init__(run)
            self.generator = Shown(*self.generator)

        def update(self, step: int) -> dict[str, Tensor]:
            self.generator.forward_with_sum(batch(0, step))
            return super().update(step)

    compiled: list[str] = []

    def compiles(given: Any) -> Any:
        def called(*images: Tensor) -> Any:
            compiled.append(given.__name__)
            return given(*images)

        return called

    monkeypatch.setattr(torch, "compile", compiles)
    monkeypatch.setattr(nn.Module, "compile", lambda network: None)
    for wanted in (True, False):
        run = quiet_run(tmp_path / str(wanted), compile=wanted)
        run.open({}, COHORT, "toy")
        stage = Both(run)
        fit(stage, rounds=1, steps_per_round=2)
        assert compiled == ["forward_with_sum"] * 2
        assert "forward_with_sum" not in vars(stage.generator)


@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False), (True, True), (False, False)])
def test_a_stage_that_goes_on_compiled_otherwise_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first: bool,
    then: bool,
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda network: None)
    for resume, compile_ in ((False, first), (True, then)):
        run = quiet_run(tmp_path / "run", compile=compile_, resume=resume)
        if resume:
            with (run.folder / "log.jsonl").open("a") as log:
                log.write('{"time": "2026-11-2')  # killed while it wrote
        run.open({}, COHORT, "toy")
        fit(Adversarial(run), rounds=2 if resume else 1, steps_per_round=2)
    said = capsys.readouterr().err
    assert ("was not so before" in said) == (first != then)
    assert ("goes on not compiled" in said) == (first and not then)
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    assert [line for line in lines if not line.endswith("}")] == ['{"time": "2026-11-2']


def test_deterministic_holds_within_the_training_only(tmp_path: Path) -> None:
    during: list[bool] = []

    class Asked(Falling):
        def update(self, step: int) -> dict[str, Tensor]:
            during.append(torch.are_deterministic_algorithms_enabled())
            return super().update(step)

    for deterministic in (True, False):
        run = quiet_run(tmp_path / str(deterministic), deterministic=deterministic)
        run.open({}, COHORT, "toy")
        fit(Asked(run), rounds=1, steps_per_round=1)
    assert during == [True, False]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_dry_run_counts_times_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    run = quiet_run(tmp_path / "run")
    stage = Adversarial(run)
    before, drawn = weights(stage), torch.random.get_rng_state()
    estimate = dry_run(stage, rounds=30, steps_per_round=20, steps=4)
    assert estimate.updates == 600
    # generator: 1*4*9+4 + 4+4 + 4*1*9+1; critic: 1*4*9+4 + 16+1
    assert estimate.parameters == (40 + 8 + 37) + (40 + 17)
    assert 0 < estimate.seconds < 600
    assert estimate.peak_memory_mb > 50
    assert_equal(weights(stage), before)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not (tmp_path / "run").exists()
    run.open({"steps": STEPS}, COHORT, "toy")
    torch.random.set_rng_state(drawn)
    untouched = Adversarial(replace(run, folder=tmp_path / "other"))
    for name, tensor in untouched.state_dict().items():
        tensor.copy_(before[name])
    fit(stage, rounds=1, steps_per_round=2)
    untouched.run.open({"steps": STEPS}, COHORT, "toy")
    fit(untouched, rounds=1, steps_per_round=2)
    assert_equal(weights(stage), weights(untouched))


def test_training_says_nothing_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        train(quiet_run(tmp_path, progress=False))
    assert [str(w.message) for w in given] == []
    assert capsys.readouterr() == ("", "")
    assert caplog.text == ""


def test_where_no_terminal_is_every_round_is_a_line_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(quiet_run(tmp_path))
    told = capsys.readouterr()
    *before, last = told.err.splitlines()
    assert (told.out, len(before)) == ("", ROUNDS - 1)
    for i, line in enumerate(before):
        done, numbers = f"adversarial: step {STEPS * (i + 1)} of {STEPS * ROUNDS}", r"(  \w+ \d\.\d{3})*"
        assert re.fullmatch(rf"{done}  loss \d\.\d{{3}}{numbers}  \d+ s left", line)
    assert re.fullmatch(rf"adversarial: step {STEPS * ROUNDS} of {STEPS * ROUNDS}  loss.*  done", last)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    outcome = start_script(tmp_path / "two", 2)
    assert outcome.returncode == 0, outcome.stderr
    alone = start_script(tmp_path / "one", 1)
    assert alone.returncode == 0, alone.stderr
    one = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    first, second = (torch.load(tmp_path / "two" / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    for part in ("between", "two"):
        assert_equal(first[part], second[part])
        for name, tensor in one[part].items():
            torch.testing.assert_close(first[part][name], tensor, rtol=1e-5, atol=1e-6)
    both, single = (quiet_run(tmp_path / f) for f in ("two", "one"))
    for stage in ("one", "two"):
        for mine, wanted in zip(rows(both, stage), rows(single, stage), strict=True):
            assert {k: float(v or 0) for k, v in mine.items()} == pytest.approx(
                {k: float(v or 0) for k, v in wanted.items()}, rel=1e-5, abs=1e-6
            )
    assert [e["event"] for e in logged(both)] == [e["event"] for e in logged(single)]  # written once
    assert "rank" not in outcome.stdout + outcome.stderr.lower()


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_as_if_they_had_not(tmp_path: Path) -> None:
    stopped = start_script(tmp_path / "run", 2, "stop", 25)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert stopped.stderr.count("add --resume to go on") == 1
    resumed = start_script(tmp_path / "run", 2, "resume")
    assert resumed.returncode == 0, resumed.stderr
    alone = start_script(tmp_path / "one", 1)
    assert alone.returncode == 0, alone.stderr
    one, two = (torch.load(tmp_path / f / "rank0.pt", weights_only=True) for f in ("one", "run"))
    for name, tensor in one["two"].items():
        torch.testing.assert_close(two["two"][name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_say_once_that_batch_norm_sees_half(tmp_path: Path) -> None:
    outcome = start_script(tmp_path / "two", 2, "kill", -1)  # the stage with BatchNorm, to its end
    assert outcome.returncode == 0, outcome.stderr
    note = "stage adversarial: BatchNorm sees 1/2 of each batch: results differ from one device"
    assert outcome.stderr.count(note) == 1
    told = [e["text"] for e in logged(quiet_run(tmp_path / "two")) if e["event"] == "note"]
    assert told == [note]
