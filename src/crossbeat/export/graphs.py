"""A network in, one file of its graph and weights out: ONNX, TorchScript or torch.export."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from crossbeat.errors import SettingsError
from crossbeat.export.probabilities import INPUT, OUTPUT, Probabilities

Runner = Callable[[Tensor], Tensor]
"""Slices in, probabilities out, by the file that was written."""

Writer = Callable[[Probabilities, Mapping[str, Any], Path], Runner]
"""A network and its description in, a filled folder out."""

_ONNX_EXTRA: Final = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(network: Probabilities, described: Mapping[str, Any], folder: Path) -> Runner:
    """`model.onnx`, for any number of slices of any fitting size; its metadata are `described`, as JSON."""
    _require_onnx()
    path = folder / "model.onnx"
    with _quiet():
        program = torch.onnx.export(
            _exported(network), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
        )
    assert program is not None
    program.model.metadata_props.update({key: json.dumps(value) for key, value in described.items()})
    program.save(path)
    return _onnx_runner(path)


def write_torchscript(network: Probabilities, described: Mapping[str, Any], folder: Path) -> Runner:
    """`model.ts`, traced, for `torch.jit.load` in Python or C++; it holds `described` as `segmenter.json`."""
    path = folder / "model.ts"
    with _deprecated_torchscript():
        traced: Any = torch.jit.trace(network, network.example(), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path, {"segmenter.json": json.dumps(described)})
    return load_torchscript(path)


def load_torchscript(path: Path) -> Runner:
    """What `write_torchscript` wrote, on the CPU."""
    with _deprecated_torchscript():
        loaded: Runner = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return loaded


def write_pt2(network: Probabilities, described: Mapping[str, Any], folder: Path) -> Runner:
    """`model.pt2`, for `torch.export.load`; it holds `described` as `segmenter.json`."""
    path = folder / "model.pt2"
    with _quiet():
        torch.export.save(_exported(network), path, extra_files={"segmenter.json": json.dumps(described)})
        loaded: Runner = torch.export.load(path).module()
    return loaded


def _exported(network: Probabilities) -> torch.export.ExportedProgram:
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        return torch.export.export(
            network, (network.example(),), dynamic_shapes={INPUT: {0: free, 2: free, 3: free}}
        )


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])

    return run


def _require_onnx() -> None:
    missing = [name for name in _ONNX_EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"export format 'onnx': {', '.join(missing)} not installed; run pip install 'crossbeat[export]'"
        )


@contextmanager
def _deprecated_torchscript() -> Iterator[None]:
    with warnings.catch_warnings():
        # Deprecated in torch 2.13, and still what C++ programs and MONAI Deploy load.
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        # The only branches are checks of the size, which the example passes.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's talk of torchvision, which nobody asked for, to itself."""
    talker = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch 2.13's exporter uses a LeafSpec, which torch 2.13 has deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        talker.setLevel(level)
