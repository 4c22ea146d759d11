"""What a node of a cluster does for a study: shows that it fits, and works on cells.

Only light imports: this is what the engine's own process on each node loads, next to the process of the cell.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from crossbeat.study.code import code_hash
from crossbeat.study.process import note_stop, problem_of, start_cell, was_stopped

SAME: Final = ("crossbeat", "code", "torch", "lightning", "monai", "numpy", "scipy")
"""What must be the same on all nodes, since the numbers of a cell come out of it."""


class StoppedError(Exception):
    """The process of a cell was ended from outside; the cell can go on elsewhere."""


def look(folder: str, token: str, files: Sequence[str], methods: Sequence[str]) -> dict[str, str]:
    """What a node has and sees: versions, and under 'problem' what of the study's files it cannot reach.

    The engine has put the token into the folder; a file of the node's own, named by `token`, answers it.
    """
    found = {name: _version(name) for name in SAME if name != "code"}
    found["code"] = " ".join(_code(method) for method in methods)
    return found | {"host": socket.gethostname(), "problem": _problem(Path(folder), token, files)}


def why_unfit(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Why a node cannot take part, from what `look` found there and here; '' where it can."""
    if there["problem"]:
        return there["problem"]
    differing = [name for name in SAME if there[name] != here[name]]
    said = ", ".join(f"{name} {there[name]} (here {here[name]})" for name in differing)
    return f"has {said}; install the same on every node" if differing else ""


def work(folder: str, name: str, log: str, threads: int) -> str:
    """Bring a cell to its scores in a process of its own, as the local engine does; '' or its last words.

    The log begins with where that is. A process that was ended from outside raises `StoppedError`; when this task is
    cancelled the process is asked to stop, and loses a round at most.
    """
    Path(log).unlink(missing_ok=True)  # a process on a node that is dying may still write to the one before
    with Path(log).open("wb") as file:
        file.write(f"on {socket.gethostname()}, Ray node {_node()}\n".encode())
        file.flush()
        process = start_cell(Path(folder), name, threads, file)
        try:
            while process.poll() is None:  # `wait()` would not hear of a cancellation
                time.sleep(0.2)
        finally:
            ended_itself = process.poll() is not None
            process.terminate()
            process.wait()
            if not ended_itself:
                note_stop(file)
    words = problem_of(process.returncode, Path(log))
    if was_stopped(process.returncode):
        raise StoppedError(words)
    return words


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _problem(folder: Path, token: str, files: Sequence[str]) -> str:
    mount = "mount the same disk at the same path on every node"
    try:
        if not folder.is_dir():
            return f"has no folder {folder}; {mount}"
        if not (folder / f".{token}").exists():
            return f"has another folder {folder} than this computer; {mount}"
        answer = folder / f".{token}-answer"
        answer.touch()
        answer.unlink()
    except OSError as error:
        return f"cannot use the folder {folder} ({error.strerror}); {mount}"
    missing = [file for file in files if not Path(file).exists()]
    return f"does not see {missing[0]}, which the cohort needs; {mount}" if missing else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _code(method: str) -> str:
    try:
        return code_hash(method)
    except OSError:  # an older crossbeat has no such method
        return f"without {method}"
