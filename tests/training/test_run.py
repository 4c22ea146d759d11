from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    LSFEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.utilities.rank_zero import rank_zero_only
from small_stages import COHORT

import crossbeat
from crossbeat.cohort import Cohort, Row, read_cohort, write_cohort
from crossbeat.errors import RunError, SettingsError
from crossbeat.training import Run, seed_torch
from crossbeat.training.launcher import find_local_rank
from crossbeat.training.run import peak_memory_mb

SETTINGS = {"steps": 5, "optimizer": {"learning_rate": 1e-5, "betas": (0.9, 0.999)}, "folder": Path("a/b")}


def facts(run: Run) -> dict[str, object]:
    found: dict[str, object] = json.loads((run.folder / "run.json").read_text())
    return found


def test_a_run_writes_down_what_it_starts_with_and_what_became_of_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "new" / "run", seed=7, device="cpu", precision="32")
    run.open(SETTINGS, COHORT, "crossbeat train supervised")
    begun = facts(run)
    assert begun["finished"] is None
    assert begun["seed"] == 7
    assert begun["cohort_hash"] == COHORT.hash()
    assert begun["versions"]["torch"] == torch.__version__  # type: ignore[index]
    assert (run.folder / "cohort.csv").read_text().splitlines()[1].startswith("p1,p1_bssfp,bssfp")
    settings = yaml.safe_load((run.folder / "settings.yaml").read_text())
    assert settings == {
        "steps": 5,
        "optimizer": {"learning_rate": 1e-5, "betas": [0.9, 0.999]},
        "folder": "a/b",
    }
    run.close(select="last", subjects=2)
    ended = facts(run)
    assert ended["finished"] is not None
    assert ended["select"] == "last"
    assert ended["subjects"] == 2
    assert ended["peak_memory_mb"] > 50  # type: ignore[operator]  # torch alone takes more
    events = [json.loads(line)["event"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert events == ["started", "finished"]


def test_a_run_says_what_computes_and_with_which_sources() -> None:
    told = Run(Path("run"), device="cpu", precision="bf16", deterministic=True).surroundings()
    assert json.loads(json.dumps(told)) == told  # as it stands in a segmenter.json
    assert (told["devices"], told["nodes"]) == (1, 1)
    assert (told["precision"], told["deterministic"]) == ("bf16-mixed", True)
    assert told["versions"]["torch"] == torch.__version__
    assert told["versions"]["python"] == platform.python_version()
    words = ["git", "-C", str(Path(crossbeat.__file__).parent), "rev-parse", "HEAD"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert told["git_commit"] == (said.stdout.strip() or None)


def test_wall_time_adds_up_over_resumes(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", device="cpu")
    run.open({}, COHORT, "c")
    run._clock.began -= 100  # as if it had begun 100 s ago
    run.note_progress()  # and was killed here
    again = replace(run, resume=True)
    again.open({}, COHORT, "c")
    again._clock.began -= 50
    again.close()
    assert 150 <= facts(run)["wall_seconds"] < 160  # type: ignore[operator]
    assert len(facts(run)["resumed"]) == 1  # type: ignore[arg-type]


def test_a_run_that_was_killed_while_it_began_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("settings.yaml", ".cohort.csv.17"):
        (folder / name).write_text("half")
    run = Run(folder, device="cpu", progress=False, resume=True)
    run.open({"steps": 3}, Cohort(()), "again")
    assert json.loads((folder / "run.json").read_text())["command"] == "again"
    (folder / "run.json").unlink()
    (folder / "thesis.docx").touch()
    with pytest.raises(RunError, match=r"holds files but no run\.json"):
        run.open({"steps": 3}, Cohort(()), "again")


def test_a_folder_in_use_is_refused_unless_resumed(tmp_path: Path) -> None:
    Run(tmp_path / "run", device="cpu").open({}, COHORT, "c")
    with pytest.raises(RunError, match="already holds files; add --resume"):
        Run(tmp_path / "run", device="cpu").open({}, COHORT, "c")
    Run(tmp_path / "run", device="cpu", resume=True).open({}, COHORT, "c")


def test_a_folder_that_is_no_run_is_never_resumed(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("do not touch")
    with pytest.raises(RunError, match=r"no run\.json"):
        Run(tmp_path, device="cpu", resume=True).open({}, COHORT, "c")


def test_resuming_what_was_never_started_starts_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", device="cpu", resume=True)
    run.open({}, COHORT, "c")
    assert facts(run)["resumed"] == []


def test_a_run_that_trained_nothing_can_be_taken_back_and_one_that_did_cannot(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", device="cpu")
    run.withdraw()
    run.open({}, COHORT, "c")
    run.withdraw()
    assert not (tmp_path / "run").exists()
    run.open({}, COHORT, "c")
    run.stage_folder("segmentation").mkdir(parents=True)
    run.withdraw()
    assert facts(run)["command"] == "c"


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    Run(tmp_path, device="cpu").open(SETTINGS, COHORT, "c")
    other = SETTINGS | {
        "steps": 6,
        "optimizer": {"learning_rate": 0.1, "betas": (0.9, 0.999)},
        "size": "demo",
    }
    with pytest.raises(RunError) as refusal:
        Run(tmp_path, device="cpu", resume=True).open(other, COHORT, "c")
    for words in ("steps (5, now 6)", "optimizer.learning_rate (1e-05, now 0.1)", "size (None, now demo)"):
        assert words in str(refusal.value)
    assert "betas" not in str(refusal.value)


def test_resuming_with_another_seed_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, device="cpu").open({}, COHORT, "c")
    with pytest.raises(RunError, match=r"seed \(0, now 1\)"):
        Run(tmp_path, device="cpu", resume=True, seed=1).open({}, COHORT, "c")


def test_resuming_with_another_cohort_names_the_scans(tmp_path: Path) -> None:
    Run(tmp_path, device="cpu").open({}, COHORT, "c")
    changed = Cohort((COHORT.rows[0], replace(COHORT.rows[1], split="test")))
    with pytest.raises(RunError, match="p2,p2_lge") as refusal:
        Run(tmp_path, device="cpu", resume=True).open({}, changed, "c")
    assert "p1_bssfp" not in str(refusal.value)
    with pytest.raises(RunError, match="another order"):
        Run(tmp_path, device="cpu", resume=True).open({}, Cohort(COHORT.rows[::-1]), "c")


@pytest.fixture
def listed(tmp_path: Path) -> Cohort:
    """Scans in a folder of their own: frames in several files, labels of one frame, a column of the user's."""
    rows = (
        Row("p1", "p1_bssfp", "bssfp", "p1/a.nii.gz;p1/b.nii.gz", labels="1=p1/b_gt.nii.gz", further={"bmi": "24"}),
        Row("p2", "p2_lge", "lge", "p2.nii.gz", labels="p2_gt.nii.gz", frame_interval_ms=31.25),
    )  # fmt: skip
    return Cohort(rows, folder=tmp_path / "data")


def test_the_copy_in_the_run_folder_resumes_the_run(tmp_path: Path, listed: Cohort) -> None:
    run = Run(tmp_path / "runs" / "run", device="cpu")
    run.open({}, listed, "c")
    copy = read_cohort(run.folder / "cohort.csv")
    assert copy.rows[1].image == "../../data/p2.nii.gz"
    assert copy.hash() != listed.hash()
    replace(run, resume=True).open({}, copy, "c")
    elsewhere = tmp_path / "desk" / "cohort.csv"
    write_cohort(listed, elsewhere)
    replace(run, resume=True).open({}, read_cohort(elsewhere), "c")
    assert len(facts(run)["resumed"]) == 2  # type: ignore[arg-type]
    assert facts(run)["cohort_hash"] == listed.hash()


def test_other_files_of_the_same_name_do_not_resume_the_copy(tmp_path: Path, listed: Cohort) -> None:
    run = Run(tmp_path / "runs" / "run", device="cpu")
    run.open({}, listed, "c")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "conventions.yaml").write_text("site: {0: background, 1: LV}")
    copy = read_cohort(run.folder / "cohort.csv")
    moved = replace(copy, rows=(copy.rows[0], listed.rows[1]), folder=tmp_path / "other")
    with pytest.raises(RunError, match="p2,p2_lge"):
        replace(run, resume=True).open({}, moved, "c")
    assert not (run.folder / "conventions.yaml").exists()  # a refusal leaves the folder as it was


def test_resuming_under_other_numerics_names_them(tmp_path: Path) -> None:
    Run(tmp_path, device="cpu", precision="32").open({}, COHORT, "c")
    with pytest.raises(RunError, match=r"precision \(32, now bf16\); deterministic \(False, now True\)"):
        Run(tmp_path, device="cpu", precision="bf16", deterministic=True, resume=True).open({}, COHORT, "c")
    Run(tmp_path, device="cpu", precision="32", resume=True).open({}, COHORT, "c")


def test_a_resume_elsewhere_is_written_beside_the_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossbeat.training.run._git", lambda: ("aaaa", False))
    run = Run(tmp_path, device="cpu", precision="32")
    run.open({}, COHORT, "first")
    begun = facts(run)
    monkeypatch.setattr("crossbeat.training.run._git", lambda: ("bbbb", True))
    monkeypatch.setattr("crossbeat.training.run._device_name", lambda accelerator: "another machine")
    Run(tmp_path, device="cpu", precision="32", devices=2, resume=True).open({}, COHORT, "second")
    assert facts(run) | {"resumed": []} == begun
    (resumed,) = facts(run)["resumed"]  # type: ignore[misc]
    assert (resumed["command"], resumed["devices"], resumed["device"]) == ("second", 2, "another machine")
    assert (resumed["git_commit"], resumed["git_changed"]) == ("bbbb", True)
    assert resumed["versions"] == begun["versions"]
    assert resumed["time"] >= begun["started"]


def test_a_note_is_said_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, device="cpu")
    run.open({}, COHORT, "c")
    for text in ("mind this", "mind this", "and that"):
        run.note(text)
    assert capsys.readouterr().err == "note: mind this\nnote: and that\n"
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [e["text"] for e in events if e["event"] == "note"] == ["mind this", "and that"]
    plan = replace(run, folder=tmp_path / "plan", estimates={})
    for text in ("mind this", "mind this"):
        plan.note(text)
    replace(plan, progress=False).note("one of many")
    assert capsys.readouterr().err == "note: mind this\n"
    assert not (tmp_path / "plan").exists()


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = Run(tmp_path / "run", device="cpu", devices=2)
    second.open({}, COHORT, "c")
    second.record("event")
    second.close()
    assert not (tmp_path / "run").exists()


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none"}
SRUN = {"SLURM_NTASKS": "6", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "1", "SLURM_JOB_NAME": "train"}
JSRUN = {"LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "hosts", "JSM_NAMESPACE_SIZE": "6"}


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"LOCAL_RANK": "1", "NODE_RANK": "2"}, 5),  # two devices on each of nodes 0 and 1 come before
        ({"LOCAL_RANK": "1", "GROUP_RANK": "1"}, 3),
        (TORCHRUN | {"LOCAL_RANK": "0", "RANK": "4"}, 4),
        (SRUN | {"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, 3),
        (SRUN | TORCHRUN | {"SLURM_PROCID": "1", "RANK": "3", "LOCAL_RANK": "1"}, 3),
        # `srun --pty bash`: Lightning starts the second process, which inherits SLURM_PROCID
        (SRUN | {"SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0", "NODE_RANK": "0", "LOCAL_RANK": "1"}, 1),
        (SRUN | {"SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "0"}, 0),
        # left over in a shell, without the launcher they belong to
        ({"RANK": "0", "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),
        (JSRUN | {"JSM_NAMESPACE_RANK": "5", "JSM_NAMESPACE_LOCAL_RANK": "1"}, 5),
    ],
)
def test_a_process_knows_its_rank_as_lightning_does(
    variables: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in os.environ if "RANK" in n or n.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run = Run(Path("run"), device="cpu", devices=2, nodes=3)
    assert run.rank == rank
    assert Run(Path("run"), device="cpu").rank == 0  # one process is the first, whoever launched it
    environment = next(
        kind for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, LightningEnvironment)
        if kind.detect()
    )  # fmt: skip
    if environment is not LSFEnvironment:  # which reads a file of hosts when it is made
        monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # which Lightning sets for the process
        made = environment()
        made.set_global_rank(made.node_rank() * 2 + made.local_rank())  # as DDPStrategy does
        assert (made.global_rank(), made.local_rank()) == (rank, find_local_rank())


def test_wishes_that_this_machine_cannot_honour_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="no CUDA device here; use --device cpu"):
        Run(Path("run"), device="cuda")
    with pytest.raises(SettingsError, match="precision 16 needs a CUDA device"):
        Run(Path("run"), precision="16")
    with pytest.raises(SettingsError, match="devices must be 1 or more, got 0"):
        Run(Path("run"), devices=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="2 devices asked for, this machine has 1"):
        Run(Path("run"), devices=2)


def test_auto_precision_is_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert Run(Path("run"), device="cpu").lightning_precision == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert Run(Path("run"), device="cpu").lightning_precision == "bf16-mixed"
    assert Run(Path("run"), device="cpu", precision="32").lightning_precision == "32-true"


def test_the_same_words_seed_alike_and_others_do_not() -> None:
    def draw(*of: int | str) -> float:
        seed_torch(*of)
        return float(torch.rand(()))

    assert draw(0, "stage", 3) == draw(0, "stage", 3)
    assert len({draw(0, "stage", 3), draw(1, "stage", 3), draw(0, "other", 3), draw(0, "stage", 4)}) == 4
    # SHA-256 of "0/stage/3" (sha256sum) begins so; Python's own hash would differ in every process.
    digest = subprocess.run(["sha256sum"], input=b"0/stage/3", capture_output=True, check=True).stdout
    seed_torch(0, "stage", 3)
    assert torch.initial_seed() == int(digest[:16], 16) // 2


@pytest.mark.slow
def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory_mb("cpu")["peak_memory_mb"]
    held = torch.ones(int(before) * 2**18 + 2**24)  # float32: at least 64 MiB beyond the peak so far
    assert peak_memory_mb("cpu")["peak_memory_mb"] > before + 50
    del held


def test_a_bar_counts_pieces_and_stays_silent_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run(tmp_path, device="cpu").bar("reading scans", 2) as step:
        step("one")
        step()
    assert capsys.readouterr() == ("", "")
