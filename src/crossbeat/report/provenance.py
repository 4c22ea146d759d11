"""run.json, settings, segmenter and cohorts → where the numbers come from, as names and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from crossbeat.cohort import Cohort
from crossbeat.labels import CONVENTIONS
from crossbeat.report.run_folder import RunFolder


def provenance(folder: RunFolder, cohort: Cohort | None) -> list[tuple[str, str]]:
    """Where the numbers come from, in the order of run.json, with what the segmenter says of itself."""
    run, about = dict(folder.run), folder.segmenter
    known = [
        ("Method", folder.method),
        ("Size and profile", ", ".join(str(folder.settings[k]) for k in ("size", "profile") if k in folder.settings)),
        ("Weights chosen", run.pop("chosen", "") or run.get("select", folder.settings.get("select", ""))),
        ("Seed", run.pop("seed", "")),
        ("Command", run.pop("command", "")),
        ("Started", run.pop("started", "")),
        ("Wall time", _duration(run.pop("wall_seconds", None))),
        ("Peak memory", _memory(run.pop("peak_memory_mb", None))),
        ("Peak memory on the GPU", _memory(run.pop("peak_cuda_memory_mb", None))),
        ("Device", run.pop("device", "")),
        ("Git commit", _commit(run.pop("git_commit", ""), run.pop("git_changed", False))),
        ("Versions", run.pop("versions", "")),
        ("Network", about.get("network", "")),
        ("Preparation", about.get("preparation", "")),
        ("Cohort of the run", _fingerprint(folder.cohort)),
        ("Cohort predicted" if folder.has_predictions else "Cohort given, not predicted yet", _fingerprint(cohort)),
        ("Label conventions", _conventions(cohort or folder.cohort)),
    ]  # fmt: skip
    for shown in ("method", "size", "select", "cohort_hash", "trained_on"):
        run.pop(shown, None)
    further = [(key.replace("_", " ").capitalize(), value) for key, value in run.items()]
    return [(name, text) for name, value in known + further if (text := _flat(value))]


def settings_text(folder: RunFolder) -> str:
    """All settings as YAML."""
    if not folder.settings:
        return ""
    return yaml.safe_dump(dict(folder.settings), sort_keys=False, allow_unicode=True).strip()


def _fingerprint(cohort: Cohort | None) -> str:
    return f"{cohort.name}, {len(cohort)} scans, hash {cohort.hash()}" if cohort is not None else ""


def _conventions(cohort: Cohort | None) -> str:
    names = sorted({row.convention for row in cohort}) if cohort is not None else []
    said = (
        f"{name} (papillary muscles {CONVENTIONS[name].papillary}; {CONVENTIONS[name].source})".replace(
            "; this file)", "; our own)"
        )
        if name in CONVENTIONS
        else f"{name} (a user's own)"
        for name in names
    )
    return "; ".join(said)


def _commit(commit: Any, changed: Any) -> str:
    return f"{commit} with uncommitted changes" if commit and changed else str(commit or "")


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    )


def _memory(megabytes: Any) -> str:
    if not isinstance(megabytes, (int, float)):
        return ""
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {said}" for key, v in value.items() if (said := _flat(v)))
    if isinstance(value, (list, tuple)):
        return ", ".join(_flat(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
