"""A segmenter in, a MONAI bundle out: a folder that MONAI runs on NIfTI files without crossbeat.

The layout is that of the MONAI Bundle Specification: `configs/metadata.json`, `configs/inference.json`,
`models/model.pt` (weights) and `model.ts` (TorchScript, which is run), `docs/README.md`, `LICENSE`, and
`scripts/` with the steps that MONAI lacks.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

from crossbeat import geometry
from crossbeat.export import graphs, guide
from crossbeat.export.probabilities import Probabilities

SCHEMA: Final = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
SLICES_AT_ONCE: Final = 32

_Json = dict[str, Any]


def write_bundle(network: Probabilities, described: Mapping[str, Any], folder: Path) -> graphs.Runner:
    """Fill the folder; what runs is `models/model.ts`."""
    from crossbeat.export import bundle_steps  # imports MONAI, 3 s

    for part in ("configs", "docs", "models", "scripts"):
        (folder / part).mkdir()
    run = graphs.write_torchscript(network, described, folder / "models")
    torch.save(network.network.state_dict(), folder / "models" / "model.pt")
    texts = {
        "configs/metadata.json": json.dumps(_metadata(described), indent=2),
        "configs/inference.json": json.dumps(_inference(described), indent=2),
        "docs/README.md": _readme(described),
        "LICENSE": _LICENSE,
        "scripts/__init__.py": "",
        "scripts/geometry.py": inspect.getsource(geometry),
        "scripts/bundle_steps.py": _alone(bundle_steps),
    }
    for name, text in texts.items():
        (folder / name).write_text(text.rstrip("\n") + "\n" if text else "", encoding="utf-8")
    return run


def _alone(module: ModuleType) -> str:
    """A module's source, for a folder of scripts instead of crossbeat."""
    return inspect.getsource(module).replace("from crossbeat import", "from scripts import")


def _metadata(described: Mapping[str, Any]) -> _Json:
    output = described["export"]["output"]
    names = ", ".join(f"{v} {n}" for v, n in zip(output["label_values"], output["classes"], strict=True))
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by crossbeat {described['crossbeat']}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in ("nibabel", "scipy")},
        "name": "Cardiac MR segmentation",
        "task": "Segmentation of the heart in short-axis cardiac MR",
        "description": "A 2-D network that segments each slice of a short-axis stack; trained with crossbeat",
        "authors": "whoever trained the weights",
        "copyright": "see LICENSE",
        "data_source": f"cohort {described['provenance'].get('cohort_hash', 'unknown')}",
        "data_type": "nibabel",
        "image_classes": "single channel magnitude image, each slice on the scale that crossbeat.preparation says",
        "label_classes": names,
        "pred_classes": names,
        "intended_use": "research; no medical device",
        "network_data_format": {
            "inputs": {"image": _tensor(described, "magnitude", ["image"])},
            "outputs": {"pred": _tensor(described, "labels", output["classes"])},
        },
        "crossbeat": dict(described),
    }


def _tensor(described: Mapping[str, Any], kind: str, channels: list[str]) -> _Json:
    side = described["export"]["input"]["side_px"]
    return {
        "type": "image",
        "format": kind,
        "modality": "MR",
        "num_channels": len(channels),
        "spatial_shape": [side, side],
        "dtype": "float32",
        "value_range": [0, 1] if kind == "labels" else [],
        "is_patch_data": False,
        "channel_def": {str(i): name for i, name in enumerate(channels)},
    }


def _inference(described: Mapping[str, Any]) -> _Json:
    side = described["export"]["input"]["side_px"]
    return {
        "imports": ["$import glob", "$import scripts.bundle_steps as bundle_steps"],
        "bundle_root": ".",
        "dataset_dir": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$[{'image': f} for f in sorted(glob.glob(@dataset_dir + '/*.nii.gz'))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "network": "$@network_def.eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(described)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": {
            "_target_": "SliceInferer",
            "spatial_dim": 2,
            "roi_size": [side, side],
            "sw_batch_size": SLICES_AT_ONCE,
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(described)},
        "segment": "$lambda d: @postprocessing({**d, "
        "'pred': @inferer(d['image'][None].to(@device), @network)[0].cpu()})",
        "run": [
            "$torch.set_grad_enabled(False)",
            "$[@segment(scan)['pred'].meta['filename_or_obj'] for scan in @dataset]",
        ],
    }


def _preprocessing(described: Mapping[str, Any]) -> list[_Json]:
    """As `prepare.volumes` does it, by MONAI's resampling, which takes no mean where pixels grow."""
    preparation = described["preparation"]
    side, field = preparation["size"], _field(described)
    scale = {key: preparation[key] for key in ("low_percentile", "high_percentile", "scale", "per")}
    spacing, image = preparation["spacing_mm"], {"keys": "image"}
    centre = {"_target_": "scripts.bundle_steps.CentreHeartd", **image, "network": "@network"}
    steps: list[_Json] = [
        {"_target_": "LoadImaged", **image, "reader": "NibabelReader", "ensure_channel_first": True},
        {"_target_": "Lambdad", **image, "func": "$bundle_steps.turn"},
        {"_target_": "Spacingd", **image, "pixdim": [spacing, spacing, -1.0]},
        {**centre, "size": side, "field": field, "scale": scale},
        {"_target_": "ResizeWithPadOrCropd", **image, "spatial_size": [field, field, -1], "value": _NAN},
        {"_target_": "Lambdad", **image, "func": f"$lambda x: bundle_steps.normalise(x, **{scale!r})"},
        {"_target_": "ResizeWithPadOrCropd", **image, "spatial_size": [side, side, -1]},
    ]
    return [step for step in steps if preparation["centre"] == "heart" or "network" not in step]


def _postprocessing(described: Mapping[str, Any]) -> list[_Json]:
    values = described["export"]["output"]["label_values"]
    return [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        # Lambdad ignores its inv_func (MONAI 1.6), so the turn is undone here.
        {"_target_": "Lambdad", "keys": "pred", "func": "$bundle_steps.turn_back"},
        {"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: bundle_steps.name(x, {values})"},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$np.uint8",
            "separate_folder": False,
            "resample": False,
            "print_log": False,
        },
    ]


def _field(described: Mapping[str, Any]) -> int:
    from crossbeat.prepare.volumes import Preparation

    return Preparation(**described["preparation"]).field


def _readme(described: Mapping[str, Any]) -> str:
    network = described["network"]
    return f"""# Cardiac MR segmentation

The network {network["name"]!r}, trained with crossbeat {described["crossbeat"]}, as a MONAI bundle.
It segments each slice of a short-axis stack. For research; it is no medical device.

## Run it

    pip install 'monai[nibabel,fire]' scipy
    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir SCANS

segments every `*.nii.gz` of the folder SCANS (one 3-D frame a file) into `eval/`, on each scan's own grid.
Run it in this folder: `scripts/` is found from here.

## How the heart is found

{guide.heart(described)}

## Labels

{guide.labels(described)}

## What differs from `crossbeat predict`

- crossbeat averages where pixels grow; MONAI samples. Borders move by a fraction of a pixel.
- crossbeat keeps the largest part of each structure (`--no-largest-component` switches it off).

`configs/metadata.json` holds, under `crossbeat`, how slices are prepared and where the weights come from.
`models/model.pt` holds the weights by the names that crossbeat's network gives them.

## Whose scans are named

{guide.privacy(described)}
"""


_NAN: Final = "$float('nan')"

_LICENSE: Final = """The scripts and configurations of this bundle are part of crossbeat, under the Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

The weights belong to whoever trained them, and may be bound by the terms of the scans that they were trained on.
Nothing here grants a right to them: whoever passes this bundle on replaces this paragraph by their licence.
"""
