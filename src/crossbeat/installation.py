"""What is installed here: versions, devices, and what crossbeat offers. For `crossbeat info` and bug reports."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal, get_args, get_origin

import yaml

from crossbeat import __version__

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from crossbeat.methods import Method

_PACKAGES = ("torch", "lightning", "monai", "numpy", "scipy", "nibabel", "pydicom", "ray", "onnx")


def describe() -> dict[str, dict[str, object]]:
    """Facts by heading, as plain JSON; no host or user name is among them."""
    import torch

    from crossbeat.data import LAYOUTS
    from crossbeat.labels import CONVENTIONS
    from crossbeat.methods import METHODS
    from crossbeat.networks import SEGMENTERS

    cuda = {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return {
        "versions": {"crossbeat": __version__, "python": platform.python_version(), **_versions()},
        "devices": {"cpu": f"{os.cpu_count()} cores, {platform.machine()}", **cuda},
        "methods": {name: method.summary for name, method in METHODS.items()},
        "segmenters": {name: entry.source for name, entry in SEGMENTERS.items()},
        "layouts": {name: layout.title for name, layout in LAYOUTS.items()},
        "label conventions": {
            name: ", ".join(f"{v}={s}" for v, s in _named(convention.values))
            for name, convention in CONVENTIONS.items()
        },
    }


def settings_table(method: Method, profile: str = "ours") -> tuple[list[str], list[list[str]]]:
    """Head and lines of a table of a method's settings: name, value by size, what it is and may be.

    A size's value is left out where it is the first size's. A profile that the method does not have raises
    `SettingsError`.
    """
    sizes = list(method.settings.SIZES)
    values = {size: method.settings.of({"profile": profile, "size": size}).model_dump() for size in sizes}
    rows = []
    for name, field in method.settings.model_fields.items():
        first, *others = (_written(values[size][name]) for size in sizes)
        allowed = _allowed(field)
        about = (field.description or "") + (f" ({allowed})" if allowed else "")
        rows.append([name, first, *(other if other != first else "" for other in others), about])
    return ["Setting", *sizes, "What it is"], rows


def _written(value: object) -> str:
    """A value as a recipe has it."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()


def _allowed(field: FieldInfo) -> str:
    """The words or the range that a setting may have; '' where its type says it all."""
    if get_origin(field.annotation) is Literal:
        return " | ".join(map(str, get_args(field.annotation)))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = ((sign, getattr(rule, name, None)) for rule in field.metadata for name, sign in signs.items())
    return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def _named(values: object) -> list[tuple[int, str]]:
    from crossbeat.labels import UNKNOWN, Structure

    assert isinstance(values, dict)
    return [(value, "unknown" if s == UNKNOWN else Structure(s).name) for value, s in values.items()]


def _versions() -> dict[str, object]:
    found: dict[str, object] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
