"""What is installed here: versions, devices, and what crossbeat offers. For `crossbeat info` and bug reports."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from crossbeat import __version__

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
