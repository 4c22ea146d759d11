"""Run: the folder of one training, what it was started with, and what became of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import torch
import yaml

from crossbeat.cohort import COLUMNS, Cohort, Row, read_cohort, write_cohort
from crossbeat.devices import multiplies_bfloat16
from crossbeat.errors import RunError, SettingsError
from crossbeat.training.distributed import wait
from crossbeat.training.events import EVENTS, append_event, utc_now
from crossbeat.training.launcher import find_local_rank, find_rank
from crossbeat.training.logs import Bar

_LIBRARIES: Final = ("crossbeat", "torch", "lightning", "monai", "numpy", "scipy", "nibabel", "pydicom")
_WRITTEN_AT_START: Final = {"settings.yaml", "cohort.csv", "conventions.yaml", "run.json", EVENTS}
_LightningPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]


def seed_torch(*of: int | str) -> None:
    """Seed torch, on the CPU and every device, by the given words and numbers: the same ones give the same draws.

    The seed is the first 63 bits of their SHA-256, so it is the same in every process and on every machine.
    """
    digest = hashlib.sha256("/".join(map(str, of)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


WORTH_COMPILING: Final = 20_000
"""Updates of a stage on CUDA that earn back what compiling takes: 8.4 against 10.1 ms on an H200 (dilated residual
U-Net, 16 images of 224 pixels), and about half a minute of compiling."""


@dataclass(frozen=True)
class Estimate:
    """What a stage will cost, from a few timed steps."""

    updates: int
    parameters: int
    seconds: float
    peak_memory_mb: float

    def told(self) -> list[str]:
        """Updates, parameters, memory and time, as a person reads them."""
        time = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        return [f"{self.updates}", f"{self.parameters:,}", f"{self.peak_memory_mb:.0f} MiB", time]


@dataclass
class _Clock:
    """What an open run remembers between `open` and `close`; it is nobody's setting."""

    began: float = field(default_factory=time.monotonic)
    before_seconds: float = 0.0
    stages: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Run:
    """Where and how a training runs. The folder is described in house.md, section 4.

    `precision` auto means bfloat16 where the device is quick at it (CUDA, or a CPU with such instructions),
    else float32; 16 needs CUDA. `devices` are counted on each of the `nodes`. Values that this machine
    cannot honour raise `SettingsError` here, before anything is read.
    """

    folder: Path
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    deterministic: bool = False
    resume: bool = False
    progress: bool = True
    log_every: int = 20
    compile: bool | None = None
    """Whether stages compile their networks; None: where that earns its time back (`compiles`)."""
    estimates: dict[str, Estimate] | None = None
    """A dictionary here makes it a dry run: `fit` puts in what each stage would cost, and trains nothing."""
    shared: Path | None = None
    """A study's folder for parts that several of its runs learn alike: a method may look there before it learns one."""
    _clock: _Clock = field(default_factory=_Clock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("devices", "nodes", "log_every"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SettingsError("device cuda: torch finds no CUDA device here; use --device cpu or auto")
        if self.accelerator == "cpu" and self.precision == "16":
            raise SettingsError("precision 16 needs a CUDA device; on a CPU use bf16 or 32")
        if self.accelerator == "cuda" and self.devices > torch.cuda.device_count():
            raise SettingsError(
                f"{self.devices} devices asked for, this machine has {torch.cuda.device_count()}; lower --devices"
            )

    @property
    def accelerator(self) -> Literal["cpu", "cuda"]:
        """What computes: cuda where asked for, or where auto finds it."""
        wants_cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return "cuda" if wants_cuda else "cpu"

    @property
    def torch_device(self) -> torch.device:
        """The device of this process, where its slices and networks belong."""
        if self.accelerator == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", find_local_rank() if self.world_size > 1 else 0)

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.nodes

    @property
    def rank(self) -> int:
        """Number of this process among them, 0 to world_size - 1; known before they have found each other."""
        if self.world_size == 1:
            return 0
        return find_rank(self.devices)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes: the first."""
        return self.rank == 0

    @property
    def lightning_precision(self) -> _LightningPrecision:
        """Precision in Lightning's words; auto is decided here."""
        if self.precision == "auto":
            return "bf16-mixed" if multiplies_bfloat16(self.accelerator) else "32-true"
        table: dict[str, _LightningPrecision] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
        return table[self.precision]

    def compiles(self, updates: int) -> bool:
        """Whether the networks of a stage of so many updates are compiled: as asked for, else where it pays.

        On a CPU it does not: it costs a minute, and updates then take as long as before, or a third longer
        (docs/performance.md). On CUDA it should from `WORTH_COMPILING` updates on. Compiled are `network(images)`
        and what is called `forward_with_…`; what a stage calls otherwise stays as it is.
        """
        if self.compile is not None:
            return self.compile
        return self.accelerator == "cuda" and updates >= WORTH_COMPILING

    def surroundings(self) -> dict[str, Any]:
        """What computes, and with which sources: device, precision, git commit, versions; plain values for JSON.

        `run.json` begins with these, and a segmenter's provenance may say them too. The commit is None outside git.
        """
        commit, changed = _git()
        return {
            "device": _device_name(self.accelerator),
            "devices": self.devices,
            "nodes": self.nodes,
            "precision": self.lightning_precision,
            "deterministic": self.deterministic,
            "git_commit": commit,
            "git_changed": changed,
            "versions": {"python": platform.python_version()} | {n: _version(n) for n in _LIBRARIES},
        }

    def stage_folder(self, name: str) -> Path:
        """Folder of a stage: checkpoints, metrics.csv, tensorboard."""
        return self.folder / "stages" / name

    def claim_stage(self, name: str) -> None:
        """Take a stage's folder; `RunError` where an earlier stage of this run has it.

        A stage that is resumed is found by its name: of two with one name the second would be read as finished.
        """
        if name in self._clock.stages:
            raise RunError(
                f"{self.stage_folder(name)}: two stages of this run are named {name!r}, and would share their "
                "checkpoints; give each a name of its own"
            )
        self._clock.stages.add(name)

    def note(self, text: str) -> None:
        """Say once in a run what its reader must know: on stderr, and in log.jsonl. A dry run has no log."""
        if self.writes and text not in self._clock.told:
            self._clock.told.add(text)
            if self.estimates is None:
                self.record("note", text=text)
            if self.estimates is None or self.progress:  # not in each of a study's dry runs
                print(f"note: {text}", file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Return when every process has come here: call it before reading what the first one wrote."""
        wait()

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """A progress bar for a part of a method that is no stage; call what it gives once a piece is done.

        Shown, like those of stages, on a terminal by the first process, and not under `progress=False`.
        """
        shown = Bar(title, 0, total, shown=self.progress and self.writes)
        done = itertools.count(1)
        try:
            yield lambda *piece: shown.show(next(done))
            shown.show(total, note="")
        finally:
            shown.close()

    def open(self, settings: Mapping[str, Any], cohort: Cohort, command: str, **facts: Any) -> None:
        """Make the folder and write down what the run starts with: settings.yaml, cohort.csv, run.json and its `facts`.

        A folder in use is refused (`RunError`) unless `resume`; on resuming, other settings, another cohort,
        seed, precision or determinism are refused by name, and an empty folder is a fresh start. The same files
        listed from elsewhere are the same cohort; other devices or versions go on, and stand in `resumed`. Only
        the first process writes; the others meet it at the start of the first stage. Afterwards torch is seeded,
        so that networks made now begin with weights that depend on the seed alone.
        """
        self._clock.began = time.monotonic()
        self._clock.stages.clear()
        self._clock.told.clear()
        if self.writes:
            plain = json.loads(json.dumps(dict(settings), default=str))
            if self._in_use():
                self._reopen(plain, cohort, command)
            else:
                self._begin(plain, cohort, command, facts)
        seed_torch(self.seed, "open")

    def record(self, event: str, **facts: Any) -> None:
        """Append an event, with the time, to log.jsonl (`append_event`)."""
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            append_event(self.folder, event, **facts)

    def note_progress(self) -> None:
        """Bring wall time and peak memory in run.json up to date; `fit` does so after every round."""
        if self.writes and (self.folder / "run.json").exists():
            self._update({})

    def close(self, **facts: Any) -> None:
        """Complete run.json: wall time over all resumes, peak memory, the end, and any `facts`."""
        if self.writes:
            self._update({**facts, "finished": utc_now()})
            self.record("finished")

    def withdraw(self) -> None:
        """Take back what `open` wrote if nothing was trained since, so that the folder is free for another try."""
        if not self.writes or not self.folder.exists():
            return
        names = {path.name for path in self.folder.iterdir()}
        if names <= _WRITTEN_AT_START:
            for name in names:
                (self.folder / name).unlink()
            self.folder.rmdir()

    def _in_use(self) -> bool:
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return False
        if not self.resume:
            raise RunError(
                f"{self.folder}: already holds files; add --resume to go on with that run, or choose another folder"
            )
        if not (self.folder / "run.json").exists():
            names = {path.name for path in self.folder.iterdir()}
            if names <= _WRITTEN_AT_START | {name for name in names if name.startswith(".")}:
                return False  # killed while it began: nothing is lost
            raise RunError(
                f"{self.folder}: holds files but no run.json, so it is no run that could be resumed; "
                "choose another folder"
            )
        return True

    def _begin(
        self, settings: Mapping[str, Any], cohort: Cohort, command: str, further: Mapping[str, Any]
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "settings.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        write_cohort(cohort, self.folder / "cohort.csv")
        facts = {
            **further,
            "command": command,
            "seed": self.seed,
            "cohort_hash": cohort.hash(),
            "started": utc_now(),
            "resumed": [],
            "finished": None,
            "wall_seconds": 0.0,
        }
        _write_json(self.folder / "run.json", facts | self.surroundings())
        self.record("started", command=command)

    def _reopen(self, settings: Mapping[str, Any], cohort: Cohort, command: str) -> None:
        facts = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        earlier = yaml.safe_load((self.folder / "settings.yaml").read_text(encoding="utf-8")) or {}
        here = self.surroundings()
        differing = _differences(earlier, settings) + _differences(_numerics(facts), _numerics(here))
        if self.seed != facts["seed"]:
            differing.append(f"seed ({facts['seed']}, now {self.seed})")
        if differing:
            raise RunError(
                f"{self.folder}: cannot be resumed with other settings; {'; '.join(differing)}. "
                "Use the earlier ones, or train into another folder"
            )
        if cohort.hash() != facts["cohort_hash"]:
            self._refuse_other_rows(cohort)
        self._clock.before_seconds = facts["wall_seconds"]
        resumed = {"time": utc_now(), "command": command} | here
        _write_json(
            self.folder / "run.json", facts | {"resumed": [*facts["resumed"], resumed], "finished": None}
        )
        self.record("resumed", command=command)

    def _refuse_other_rows(self, cohort: Cohort) -> None:
        """Unless the rows name the same files from another place: naming by subject and scan the first three."""
        before, after = _rows(read_cohort(self.folder / "cohort.csv")), _rows(cohort)
        if before == after:
            return
        changed = [r for r in after if r not in before] + [r for r in before if r not in after]
        scans = list(dict.fromkeys(f"{row['subject']},{row['scan']}" for row in changed))
        said = f"rows that differ (subject,scan): {'; '.join(scans[:3])}{' …' * (len(scans) > 3)}"
        raise RunError(
            f"{self.folder}: cannot be resumed with another cohort; "
            f"{said if scans else 'the same rows in another order'}. "
            "Use the earlier cohort.csv (a copy is in the run folder), or train into another folder"
        )

    def _update(self, facts: Mapping[str, Any]) -> None:
        path = self.folder / "run.json"
        earlier = json.loads(path.read_text(encoding="utf-8"))
        now = {"wall_seconds": round(self._clock.before_seconds + time.monotonic() - self._clock.began, 3)}
        peaks = {
            key: max(mb, earlier.get(key) or 0.0) for key, mb in peak_memory_mb(self.accelerator).items()
        }
        _write_json(path, earlier | now | peaks | dict(facts))


def peak_memory_mb(accelerator: str) -> dict[str, float]:
    """Most memory this process has held so far, in MiB: resident on the CPU and, with CUDA, allocated there."""
    kilo = 1024**2 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    peaks = {"peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kilo, 1)}
    if accelerator == "cuda":
        peaks["peak_cuda_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1024**2, 1)
    return peaks


def _device_name(accelerator: str) -> str:
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _git() -> tuple[str | None, bool | None]:
    """Commit of crossbeat's own sources and whether they were changed since; (None, None) outside git."""
    folder = Path(__file__).parent
    if _git_says(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    changes = _git_says(folder, "status", "--porcelain", "--untracked-files=no")
    return _git_says(folder, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git_says(folder: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _numerics(surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """What changes the numbers that a step computes, in the words of the command line."""
    return {
        "precision": str(surroundings["precision"]).partition("-")[0],
        "deterministic": surroundings["deterministic"],
    }


def _rows(cohort: Cohort) -> list[dict[str, str]]:
    """Each row's values by column, empty ones left out, its paths whole: alike from wherever it is listed."""

    def whole(file: str) -> str:
        return str((cohort.folder / file).resolve())

    def values(row: Row) -> dict[str, str]:
        found = {column: row.value(column) for column in [*COLUMNS, *row.further]}
        found["image"] = ";".join(map(whole, row.image_files))
        found["labels"] = ";".join(f"{frame}={whole(file)}" for frame, file in row.label_files.items())
        return {column: value for column, value in found.items() if value}

    return [values(row) for row in cohort]


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys, dotted, whose values differ, with both values."""
    found: list[str] = []
    for key in dict.fromkeys([*earlier, *now]):
        before, after = earlier.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after or (key in earlier) != (key in now):
            found.append(f"{prefix}{key} ({before}, now {after})")
    return found


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    _write(path, json.dumps(facts, indent=2, default=str) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a run may be killed at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
