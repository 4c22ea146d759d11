"""What is exported runs by itself and gives the segmenter's own probabilities; what does not is refused."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from crossbeat.cli import main
from crossbeat.errors import RunError, SettingsError
from crossbeat.export import FORMATS, Exported, export_segmenter, graphs
from crossbeat.export.probabilities import Probabilities
from crossbeat.labels import Structure
from crossbeat.networks import SEGMENTERS
from crossbeat.prepare.volumes import Preparation
from crossbeat.segmenter import WALK, NetworkSpec, Segmenter

NARROWEST = {"dynunet": 16}


def small(name: str = "dilated_resunet", in_channels: int = 1) -> Segmenter:
    """A network as narrow as it can be, with weights and running statistics that are not the initial ones."""
    entry = SEGMENTERS[name]
    offered = inspect.signature(entry.build).parameters
    arguments = {"width": NARROWEST.get(name, 8)} if "width" in offered else {}
    size = max(32, entry.minimum_side)
    spec = NetworkSpec(name=name, in_channels=in_channels, size=size, arguments=arguments)
    torch.manual_seed(0)
    network = spec.build().train()
    network(2 * torch.randn(2, in_channels, size, size) + 1)
    if entry.channels_last:
        network.to(memory_format=torch.channels_last)
    preparation = Preparation(size=size, spacing_mm=1.5)
    return Segmenter(network, spec, preparation, provenance={"method": "supervised", "seed": 7})


def expected(segmenter: Segmenter, image: Tensor) -> Tensor:
    """Probabilities by the plain route: channels repeated, softmax."""
    with torch.no_grad():
        logits = segmenter.network.eval()(image.repeat(1, segmenter.spec.in_channels, 1, 1))
    return logits.softmax(dim=1)


def unseen(segmenter: Segmenter) -> list[Tensor]:
    """Slices that the exporter did not try: one, five, and three of other, unequal sides."""
    size, step = segmenter.spec.size, SEGMENTERS[segmenter.spec.name].divisor
    shapes = [(1, size, size), (5, size, size), (3, size + 3 * step, size + step)]
    generator = torch.Generator().manual_seed(99)
    return [1.5 * torch.randn(n, 1, y, x, generator=generator) for n, y, x in shapes]


def run_onnx(path: Path, image: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def run_torchscript(path: Path, image: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        return torch.jit.load(path)(image)


def run_pt2(path: Path, image: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        return torch.export.load(path).module()(image)


RUN = {"onnx": run_onnx, "torchscript": run_torchscript, "pt2": run_pt2, "monai": run_torchscript}


def check(segmenter: Segmenter, exported: Exported, format_name: str) -> None:
    for image in unseen(segmenter):
        found = RUN[format_name](exported.file, image)
        torch.testing.assert_close(found, expected(segmenter, image), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.sum(dim=1), torch.ones_like(found[:, 0]))
    assert exported.largest_difference < 1e-4


def test_every_format_is_tried_here() -> None:
    assert RUN.keys() == FORMATS.keys()


@pytest.mark.parametrize("format_name", ["torchscript", "monai", pytest.param("pt2", marks=pytest.mark.slow)])
def test_a_small_network_gives_its_own_probabilities_in_the_formats_of_torch(
    format_name: str, tmp_path: Path
) -> None:
    segmenter = small()
    check(segmenter, export_segmenter(segmenter, format_name, tmp_path / "out"), format_name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_every_network_gives_its_own_probabilities_as_onnx(name: str, tmp_path: Path) -> None:
    segmenter = small(name)
    check(segmenter, export_segmenter(segmenter, "onnx", tmp_path / "out"), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "dynunet")) for n in sorted(SEGMENTERS)]
)
def test_every_network_gives_its_own_probabilities_as_torchscript(name: str, tmp_path: Path) -> None:
    segmenter = small(name)
    check(segmenter, export_segmenter(segmenter, "torchscript", tmp_path / "out"), "torchscript")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_every_network_gives_its_own_probabilities_as_pt2(name: str, tmp_path: Path) -> None:
    """In a bundle lies the TorchScript of the tests above."""
    segmenter = small(name)
    check(segmenter, export_segmenter(segmenter, "pt2", tmp_path / "out"), "pt2")


@pytest.mark.slow
def test_a_grey_slice_is_shown_to_all_input_channels(tmp_path: Path) -> None:
    segmenter = small("dr_unet", in_channels=3)
    check(segmenter, export_segmenter(segmenter, "torchscript", tmp_path / "out"), "torchscript")


def test_the_segmenter_stays_as_it_was(tmp_path: Path) -> None:
    segmenter = small("unet")
    weights = {k: v.clone() for k, v in segmenter.network.state_dict().items()}
    segmenter.network.train()
    export_segmenter(segmenter, "torchscript", tmp_path / "out")
    assert segmenter.network.training
    assert all(p.requires_grad for p in segmenter.network.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in segmenter.network.state_dict().items())


def test_the_folder_says_how_to_prepare_slices_and_what_comes_out(tmp_path: Path) -> None:
    segmenter = small()
    exported = export_segmenter(segmenter, "torchscript", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "segmenter.json").read_text())
    assert Preparation(**said["preparation"]) == segmenter.preparation
    assert said["provenance"] == {"method": "supervised", "seed": 7}
    assert said["export"]["model"] == "model.ts"
    assert said["export"]["input"]["side_multiple_of_px"] == 8
    assert said["export"]["output"]["classes"] == ["BACKGROUND", "LV", "MYO", "RV"]
    assert said["export"]["output"]["label_values"] == [0, 1, 2, 3]
    assert said["export"]["largest_difference"] == exported.largest_difference
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_the_guide_says_how_the_heart_is_found_and_whose_scans_are_named(tmp_path: Path) -> None:
    seen = {"source": ["p1_bssfp", "p2_bssfp"], "target": ["p3_lge"]}
    for name, guide in (("torchscript", "README.md"), ("monai", "docs/README.md")):
        segmenter = replace(small(), provenance={"method": "supervised", "trained_on": seen})
        exported = export_segmenter(segmenter, name, tmp_path / name)
        assert exported.guide == tmp_path / name / guide
        text = exported.guide.read_text(encoding="utf-8")
        assert "starts at the middle of the image and walks" in text
        assert f"after {WALK} steps" in text
        assert "- 3: RV" in text
        assert exported.privacy in text
    assert "lists the 3 scans seen in training by name, and so their subjects' ids" in exported.privacy
    assert "export again with `--anonymous`" in exported.privacy
    still = replace(small(), preparation=Preparation(size=32, spacing_mm=1.5, centre="image"))
    text = export_segmenter(still, "torchscript", tmp_path / "still").guide.read_text(encoding="utf-8")
    assert "centred on the middle of the image, as in training" in text
    assert "walks" not in text


@pytest.mark.slow
def test_an_anonymous_export_names_no_scan_and_leaves_the_segmenter_as_it_is(tmp_path: Path) -> None:
    asked = {"source": {"subject": ["p1"], "sequence": ["bssfp"]}, "target": {"scan": ["p3_lge"]}, "steps": 9}
    said = {"method": "supervised", "settings": asked, "trained_on": {"source": ["p1_bssfp", "p2_bssfp"]}}
    segmenter = replace(small(), provenance=said)
    for name in ("torchscript", "monai"):
        exported = export_segmenter(segmenter, name, tmp_path / name, anonymous=True)
        assert exported.privacy == "segmenter.json names no scan that the weights come from."
        texts = [path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert not any(
            word in text for text in texts for word in (b'"p1', b"p2_bssfp", b"p3_lge", b"p1_bssfp")
        )
    kept = json.loads((tmp_path / "monai" / "segmenter.json").read_text())["provenance"]
    assert kept == {
        "method": "supervised",
        "settings": {**asked, "source": {"sequence": ["bssfp"]}, "target": {}},
    }
    assert segmenter.provenance == said


@pytest.mark.slow
def test_fewer_structures_keep_their_own_label_values(tmp_path: Path) -> None:
    spec = NetworkSpec(name="dilated_resunet", size=32, arguments={"width": 4})
    structures = (Structure.MYO, Structure.SCAR)
    segmenter = Segmenter(spec.build(structures), spec, Preparation(size=32), structures)
    export_segmenter(segmenter, "torchscript", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "segmenter.json").read_text())["export"]["output"]
    assert dict(zip(said["classes"], said["label_values"], strict=True)) == {
        "BACKGROUND": 0,
        "MYO": 2,
        "SCAR": 4,
    }


@pytest.fixture(scope="module")
def as_onnx(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_segmenter(small(), "onnx", tmp_path_factory.mktemp("onnx") / "out")


@pytest.mark.slow
def test_the_onnx_file_gives_the_networks_own_probabilities(as_onnx: Exported) -> None:
    check(small(), as_onnx, "onnx")


@pytest.mark.slow
def test_the_onnx_file_carries_the_description_and_passes_onnx_own_check(as_onnx: Exported) -> None:
    exported = as_onnx
    onnx.checker.check_model(onnx.load(exported.file), full_check=True)
    session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
    carried = session.get_modelmeta().custom_metadata_map
    said = json.loads((exported.folder / "segmenter.json").read_text())
    for key in ("preparation", "structures", "provenance", "network"):
        assert json.loads(carried[key]) == said[key]
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert [o.name for o in session.get_outputs()] == ["probabilities"]


@pytest.mark.slow
def test_torchscript_and_pt2_carry_the_description(tmp_path: Path) -> None:
    segmenter = small()
    inside = {"segmenter.json": ""}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        torch.jit.load(export_segmenter(segmenter, "torchscript", tmp_path / "ts").file, _extra_files=inside)
    assert json.loads(inside["segmenter.json"])["structures"] == ["LV", "MYO", "RV"]
    inside = {"segmenter.json": ""}
    torch.export.load(export_segmenter(segmenter, "pt2", tmp_path / "pt2").file, extra_files=inside)
    assert json.loads(inside["segmenter.json"])["structures"] == ["LV", "MYO", "RV"]


@pytest.mark.slow
def test_an_onnx_file_needs_neither_torch_nor_crossbeat(as_onnx: Exported, tmp_path: Path) -> None:
    segmenter, exported = small(), as_onnx
    image = unseen(segmenter)[0]
    np.save(tmp_path / "image.npy", image.numpy())
    code = (
        "import sys, numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(exported.file)!r})\n"
        f"image = numpy.load({str(tmp_path / 'image.npy')!r})\n"
        f"numpy.save({str(tmp_path / 'found.npy')!r}, session.run(None, {{'image': image}})[0])\n"
        "sys.exit(bool({'torch', 'crossbeat'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    found = torch.from_numpy(np.load(tmp_path / "found.npy"))
    torch.testing.assert_close(found, expected(segmenter, image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("error", [2e-3, float("nan")])
def test_a_model_that_is_off_is_refused_and_nothing_is_left(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = graphs.write_torchscript

    def wrong(network: Probabilities, described: Mapping[str, object], folder: Path) -> graphs.Runner:
        run = right(network, described, folder)
        return lambda image: run(image) + error * (image.shape[0] == 3)

    monkeypatch.setitem(
        FORMATS, "torchscript", type(FORMATS["torchscript"])(wrong, "model.ts")  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(
        RunError, match=r"out: not exported: probabilities .* off by (0\.002|nan), 0\.001 is allowed"
    ):
        export_segmenter(small(), "torchscript", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_an_empty_one_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_segmenter(small(), "torchscript", tmp_path / "out")
    with pytest.raises(RunError, match="out: already holds files; choose another folder"):
        export_segmenter(small(), "torchscript", tmp_path / "out")
    assert (tmp_path / "out" / "model.ts").exists()


def test_an_unknown_format_is_refused_with_its_neighbours(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"export format 'onx' does not exist; did you mean 'onnx'"):
        export_segmenter(small(), "onx", tmp_path / "out")


def test_without_the_extra_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = graphs.importlib.util.find_spec
    monkeypatch.setattr(
        graphs.importlib.util, "find_spec", lambda n, *a: None if n == "onnxscript" else find(n, *a)
    )
    with pytest.raises(
        SettingsError, match=r"onnxscript not installed; run pip install 'crossbeat\[export\]'"
    ):
        export_segmenter(small(), "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_exports_a_run_and_says_how_far_off_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small().save(tmp_path / "run" / "segmenter")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "run"), "--format", "torchscript", "-o", str(tmp_path / "out")])
    assert not ended.value.code
    told = capsys.readouterr()
    said = told.out
    assert "largest difference of a probability: " in said
    assert "note: segmenter.json names no scan that the weights come from" in told.err
    assert f"model: {tmp_path / 'out' / 'model.ts'}" in said
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "run"), "--format", "tensorrt", "-o", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "known are monai, onnx, pt2, torchscript" in " ".join(capsys.readouterr().err.split())
