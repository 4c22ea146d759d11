"""Cells on a Ray cluster: two real nodes, one of which dies, and every number as the local engine gives it."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from finished_cells import opened, problems, processes_of, same_results

from crossbeat.errors import RunError, SettingsError
from crossbeat.study.cell import state
from crossbeat.study.engine import pending
from crossbeat.study.folder import Means
from crossbeat.study.local import run_locally
from crossbeat.study.node import SAME, look, why_unfit
from crossbeat.study.on_ray import request, run_on_ray
from crossbeat.study.plan import Cell, Study
from crossbeat.study.process import start_cell

ray_cluster = pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.slow
Make = Callable[..., Study]
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 128 * 2**20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ray_cluster.Cluster]:
    """Two nodes with a core each, of which the head stays."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = ray_cluster.Cluster(initialize_head=True, head_node_args=NODE)
    made.add_node(**NODE)
    yield made
    made.shutdown()


def test_a_node_dies_in_the_middle_and_the_study_ends_whole_and_equal_to_the_local_one(
    tmp_path: Path, cohort_csv: Path, small_study: Make, cluster: ray_cluster.Cluster
) -> None:
    greedy = {"greedy": {"settings": {"target_labels": "train", "target_labelled": 99}}}
    asked = small_study(arms=greedy, seeds=[0, 1], folds=1)
    here, there = (opened(tmp_path / name, asked, cohort_csv) for name in ("local", "ray"))
    [doomed] = cluster.worker_nodes
    struck: list[str] = []

    def strike(working: Sequence[Cell]) -> None:
        """Take the second node away, with all that runs there, once a cell on it is training."""
        for cell in working if not struck else ():
            begun = doomed.node_id in there.log(cell).read_text().partition("\n")[0]
            if begun and (there.cell(cell) / "run.json").exists():
                cluster.remove_node(doomed, allow_graceful=False)
                struck.append(cell.name)

    told: list[str] = []
    outcomes = run_on_ray(
        there, there.cells, address=cluster.address, told=lambda one: told.append(one.cell.name), watch=strike
    )

    assert len(struck) == 1
    log = there.log(there.find_cell(struck[0])).read_text()
    assert cluster.head_node.node_id in log.splitlines()[0]
    assert doomed.node_id not in log
    assert sorted(told) == sorted(cell.name for cell in there.cells)
    found = problems(outcomes)
    assert found == problems(run_locally(here, here.cells, jobs=2))
    failed = [name for name, problem in found.items() if problem]
    assert sorted(failed) == ["greedy/seed-0", "greedy/seed-1"] == sorted(c.name for c in pending(there))
    assert "99 labelled target subjects wanted" in found["greedy/seed-0"]
    for cell in there.cells:
        if cell.name not in failed:
            same_results(there.cell(cell), here.cell(cell))
    assert processes_of(there) == []
    assert not list(there.path.glob(".nodes-*"))


def test_a_ray_started_here_is_gone_afterwards_and_a_process_that_was_killed_is_begun_again(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    import ray

    asked = small_study(settings={**small_study().settings, "steps": 2400})  # long enough to be met in it
    study = opened(tmp_path / "study", asked, cohort_csv)
    cell = study.cells[0]

    def interrupt(working: Sequence[Cell]) -> None:
        if working and list(study.cell(cell).glob("stages/*/checkpoints/*")):
            raise KeyboardInterrupt

    killed: list[int] = []

    def kill(working: Sequence[Cell]) -> None:
        for process in processes_of(study) if working and not killed else ():
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    with pytest.raises(KeyboardInterrupt):
        run_on_ray(study, [cell], watch=interrupt)
    assert state(cell, study.cell(cell)) == "begun", "stopped in its training"
    assert processes_of(study) == []
    assert not ray.is_initialized()
    assert problems(run_on_ray(study, [cell], watch=kill)) == {cell.name: ""}
    assert len(killed) == 1
    assert json.loads((study.cell(cell) / "run.json").read_text())["resumed"]
    assert cell not in pending(study)
    assert not ray.is_initialized()
    assert run_on_ray(study, []) == []


def test_a_node_without_the_files_of_the_study_is_named_before_anything_is_computed(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    image = cohort_csv.parent / study.cohort.rows[0].image
    image.rename(image.with_name("elsewhere.nii.gz"))
    with pytest.raises(
        RunError, match=rf"1 of 1 nodes .*: node {socket.gethostname()} \(.*does not see {image}"
    ):
        run_on_ray(study, study.cells)
    assert not (study.path / "cells").exists()


def test_what_a_node_sees_of_a_folder_is_told_apart(tmp_path: Path) -> None:
    def said(folder: Path, *files: str) -> str:
        return look(str(folder), "token", files, ["supervised"])["problem"]

    assert said(tmp_path / "none").startswith(f"has no folder {tmp_path / 'none'}; mount the same disk")
    assert "has another folder" in said(tmp_path)
    (tmp_path / ".token").touch()
    assert said(tmp_path) == ""
    assert f"does not see {tmp_path / 'scan.nii.gz'}" in said(tmp_path, str(tmp_path / "scan.nii.gz"))
    assert [path.name for path in tmp_path.iterdir()] == [".token"]


def test_a_node_with_another_torch_or_other_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".token").touch()
    here = look(str(tmp_path), "token", [], ["supervised"])
    assert set(SAME) <= here.keys()
    assert why_unfit(here, here) == ""
    older = here | {"torch": "2.8.0", "code": "0123456789ab"}
    assert why_unfit(older, here) == (
        f"has code 0123456789ab (here {here['code']}), torch 2.8.0 (here {here['torch']}); "
        "install the same on every node"
    )


@pytest.mark.parametrize(
    ("device", "nodes", "asked"),
    [
        ("cpu", [{"CPU": 4.0, "GPU": 8.0}], {"num_cpus": 2, "num_gpus": 0}),
        ("auto", [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}], {"num_cpus": 2, "num_gpus": 1}),
        ("auto", [{"CPU": 4.0}], {"num_cpus": 2, "num_gpus": 0}),
        ("cuda", [{"CPU": 4.0, "GPU": 1.0}], {"num_cpus": 2, "num_gpus": 1}),
    ],
)
def test_a_cell_asks_for_its_threads_and_for_a_gpu_where_there_is_one(
    device: str, nodes: list[dict[str, float]], asked: dict[str, float]
) -> None:
    assert request(Means(device, threads=2), nodes) == asked  # type: ignore[arg-type]


def test_what_no_node_has_is_refused_since_it_would_wait_for_ever() -> None:
    with pytest.raises(SettingsError, match="no node of the Ray cluster has a GPU"):
        request(Means("cuda"), [{"CPU": 4.0}])
    with pytest.raises(
        SettingsError, match=r"asks for 3 CPUs, and no node .* \(at most 2 CPUs\); lower --threads"
    ):
        request(Means("cpu", threads=3), [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}])
    with pytest.raises(SettingsError, match="asks for 2 CPUs and a GPU"):
        request(Means("auto", threads=2), [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}])


def test_an_address_where_nobody_listens_is_refused_in_seconds(
    tmp_path: Path, cohort_csv: Path, small_study: Make
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"no Ray cluster answers at {address}.*`ray start --head`"):
            run_on_ray(study, study.cells, address=address)
    for wrong in ("ray://head:10001", "head", "head:"):
        with pytest.raises(SettingsError, match="is not HOST:PORT of a Ray head"):
            run_on_ray(study, study.cells, address=wrong)


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, cohort_csv: Path, small_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'crossbeat\[ray\]'"):
        run_on_ray(study, study.cells)


def test_a_cell_within_a_slurm_job_is_no_rank_of_it_and_one_without_a_starter_stops(
    tmp_path: Path, cohort_csv: Path, small_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(tmp_path / "study", small_study(), cohort_csv)
    job = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "ray", "RANK": "1", "WORLD_SIZE": "2"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "log").open("wb") as log:
        assert start_cell(study.path, study.cells[0].name, 1, log).wait() == 0
        monkeypatch.setattr(os, "getpid", lambda: 1 << 22)  # nobody has this number
        assert start_cell(study.path, study.cells[0].name, 1, log).wait() in (-15, 143)
    assert pending(study) == study.cells[1:]
