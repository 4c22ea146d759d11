"""Cells as tasks of a Ray cluster, started here or running already; results come through the study's folder."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from crossbeat.errors import RunError, SettingsError
from crossbeat.study.folder import Means, StudyFolder
from crossbeat.study.local import Outcome, Told
from crossbeat.study.node import StoppedError, look, why_unfit, work
from crossbeat.study.plan import Cell

_RETRIES: Final = 3
"""Of a cell whose worker or node died; each begins where the last round of the one before ended."""
_STORE_BYTES: Final = 128 * 2**20  # of a Ray started here: only words go through it
_CONNECT_SECONDS: Final = 5.0
_HEALTH_SECONDS: Final = 90.0  # Ray itself gives up after about 40
_LOOK_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 60.0


def run_on_ray(
    study: StudyFolder,
    cells: Sequence[Cell],
    *,
    address: str = "",
    told: Told = lambda outcome: None,
    watch: Callable[[Sequence[Cell]], None] = lambda cells: None,
) -> list[Outcome]:
    """Compute cells on the Ray cluster at an address, else on one started here for the time being.

    Each is a task that asks for the study's threads as CPUs, and for a GPU where cells train on one. A task whose
    worker or node dies begins again elsewhere; a cell that fails by itself is named in the answer, and the rest go
    on. `told` and `watch` are as in `run_locally`. A cluster that cannot be reached or has no node for a cell raises
    `SettingsError`; nodes that do not see the study's folder, or have another crossbeat or torch, `RunError`.
    """
    if not cells:
        return []
    with _connected(address) as ray:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = request(study.means, [node["Resources"] for node in nodes])
        able = [node for node in nodes if _has(node["Resources"], asked)]
        _refuse_unfit(ray, study, cells, able)
        task = ray.remote(work).options(
            **asked, max_retries=_RETRIES, retry_exceptions=[StoppedError], name="crossbeat cell"
        )
        return _work_through(ray, task, study, cells, told, watch)


def request(means: Means, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a cell asks of Ray, given the resources of the nodes; `SettingsError` where none has that much.

    Without this a task that fits nowhere would wait for ever.
    """
    has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
    if means.device == "cuda" and not has_gpu:
        raise SettingsError(
            "device cuda: no node of the Ray cluster has a GPU; start nodes with one, or use --device cpu"
        )
    asked = {"num_cpus": float(means.threads), "num_gpus": float(means.device != "cpu" and has_gpu)}
    if not any(_has(node, asked) for node in nodes):
        most = max((node.get("CPU", 0) for node in nodes), default=0)
        gpu = " and a GPU" if asked["num_gpus"] else ""
        raise SettingsError(
            f"a cell asks for {means.threads} CPUs{gpu}, and no node of the Ray cluster has that "
            f"(at most {most:g} CPUs); lower --threads"
        )
    return asked


def _work_through(
    ray: Any,
    task: Any,
    study: StudyFolder,
    cells: Sequence[Cell],
    told: Told,
    watch: Callable[[Sequence[Cell]], None],
) -> list[Outcome]:
    (study.path / "logs").mkdir(exist_ok=True)
    before = {cell.name: _stamp(study.log(cell)) for cell in cells}
    folder, threads = study.path.resolve(), study.means.threads
    waiting = {
        task.remote(str(folder), cell.name, str(study.log(cell).resolve()), threads): cell for cell in cells
    }
    done = list[Outcome]()
    try:
        while waiting:
            for reference in ray.wait(list(waiting), timeout=0.5)[0]:
                done.append(_outcome(ray, reference, waiting.pop(reference)))
                told(done[-1])
            # A task says that it has begun by beginning its log; Ray itself would tell its dashboard alone.
            watch([cell for cell in waiting.values() if _stamp(study.log(cell)) != before[cell.name]])
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=_STOP_SECONDS)
    return done


def _outcome(ray: Any, reference: Any, cell: Cell) -> Outcome:
    try:
        return Outcome(cell, ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        return Outcome(cell, str(error.cause))
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines()[0]
        return Outcome(cell, f"its worker died {_RETRIES + 1} times, now so: {words}")


def _refuse_unfit(
    ray: Any, study: StudyFolder, cells: Sequence[Cell], nodes: Sequence[Mapping[str, Any]]
) -> None:
    """Ask each node that could take a cell whether it sees the study's files and has the same code as we."""
    token = f"nodes-{secrets.token_hex(8)}"
    asked = (str(study.path.resolve()), token, _files(study), sorted({cell.method for cell in cells}))
    mark = study.path / f".{token}"
    mark.touch()
    try:
        here = look(*asked)
        answers = [
            (node, ray.remote(look).options(**_only_on(node["NodeID"])).remote(*asked)) for node in nodes
        ]
        said = [(node, _unfitness(ray, answer, here)) for node, answer in answers]
    finally:
        mark.unlink()
    problems = [
        f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) {problem}"
        for node, problem in said
        if problem
    ]
    if problems:
        raise RunError(
            f"{len(problems)} of {len(nodes)} nodes of the Ray cluster cannot take part: "
            + "; ".join(problems)
        )


def _unfitness(ray: Any, answer: Any, here: Mapping[str, str]) -> str:
    try:
        return why_unfit(ray.get(answer, timeout=_LOOK_SECONDS), here)
    except ray.exceptions.GetTimeoutError:
        return f"did not answer within {_LOOK_SECONDS:.0f} s"
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines()[-1]
        return f"cannot run crossbeat ({words}); install the same version on every node"


def _files(study: StudyFolder) -> list[str]:
    """The first files that a cell opens: the cohort's csv and one scan of it."""
    place = study.cohort.folder.resolve()
    return [str(place / name) for name in study.cohort.rows[0].image_files[:1]]


def _only_on(node: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _has(node: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return node.get("CPU", 0) >= asked["num_cpus"] and node.get("GPU", 0) >= asked["num_gpus"]


def _stamp(log: Path) -> tuple[int, int]:
    """Changes when a log is begun anew, by whatever clock."""
    try:
        found = log.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected; at the end a cluster that was there goes on, one that was started here is gone."""
    try:
        import ray
    except ImportError as error:
        raise SettingsError("the ray engine needs Ray: pip install 'crossbeat[ray]'") from error
    started: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    if address:
        _refuse_silence(address)
        started = {}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else a Ray started here would report to its makers
    logging.getLogger("ray").setLevel(logging.ERROR)  # its notices would break into the progress line
    try:
        ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **started)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        words = str(error).strip().partition("\n")[0]
        where = f"Ray at {address} cannot be used from here" if address else "no Ray can be started here"
        raise SettingsError(f"{where}: {words}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _refuse_silence(address: str) -> None:
    """Refuse an address without a Ray head; Ray itself would knock there for many minutes."""
    if address == "auto":  # the cluster that this computer belongs to
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise SettingsError(
            f"address {address!r} is not HOST:PORT of a Ray head (nor auto); `ray start --head` prints it, "
            "mostly with port 6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise SettingsError(
            f"no Ray cluster answers at {address} ({error}); begin one with `ray start --head`"
        ) from error
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=_HEALTH_SECONDS, stdin=subprocess.DEVNULL
        )
        words = "" if found.returncode == 0 else f"{found.stdout}\n{found.stderr}".strip().splitlines()[-1]
    except subprocess.TimeoutExpired:
        words = f"no answer within {_HEALTH_SECONDS:.0f} s"
    if words:
        raise SettingsError(f"what listens at {address} is no head of a Ray cluster for us: {words}")
