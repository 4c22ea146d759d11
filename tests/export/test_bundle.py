"""MONAI reads the bundle, runs it on files, and finds the hearts that crossbeat finds."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import verify_net_in_out
from monai.data import MetaTensor

from crossbeat.case import Case, Domain
from crossbeat.cohort import Cohort
from crossbeat.data.nifti import read_volume
from crossbeat.export import bundle_steps, export_segmenter
from crossbeat.labels import Structure
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.prepare.slices import build_bank
from crossbeat.prepare.volumes import Preparation, covered_pixels, crop, normalise, slices_of, window_of
from crossbeat.segmenter import NetworkSpec, Segmenter

PREPARATION = Preparation(size=48, spacing_mm=2.2)
SPEC = NetworkSpec(name="dilated_resunet", size=48, arguments={"width": 8})


def learn(cohort: Cohort) -> Segmenter:
    """A network that knows hearts in memory after some steps on whole fields."""
    torch.manual_seed(0)
    network = SPEC.build()
    bank = build_bank(cohort, PREPARATION)
    image, labels = crop(bank.images, 48), crop(bank.labels[:, None], 48)[:, 0]
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = segmentation_loss(
            network(image), labels, bank.drawn,
            cross_entropy_weight=0.5, dice_weight=0.5, include_background=False, smooth=1.0,
        )  # fmt: skip
        loss.backward()
        optimizer.step()
    return Segmenter(network, SPEC, PREPARATION)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """MONAI puts the bundle's folder on the path; here it leaves it again, and nothing of it stays loaded."""
    path = sys.path.copy()
    sys.path.insert(0, str(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            # MONAI 1.6 makes every reader, also that of DICOM, before it takes the one that is asked for.
            warnings.filterwarnings("ignore", message="NvImgCodec", category=UserWarning)
            yield
    finally:
        sys.path[:] = path
        for name in [n for n in sys.modules if n.split(".")[0] == "scripts"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def untrained() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(SPEC.build().eval(), SPEC, PREPARATION, provenance={"cohort_hash": "abc"})


@pytest.fixture(scope="module")
def bundle(untrained: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_segmenter(untrained, "monai", tmp_path_factory.mktemp("bundle") / "heart").folder


def test_holds_the_files_that_the_specification_names(bundle: Path) -> None:
    for name in ("configs/metadata.json", "configs/inference.json", "models/model.pt", "models/model.ts",
                 "docs/README.md", "LICENSE", "scripts/geometry.py"):  # fmt: skip
        assert (bundle / name).stat().st_size > 100, name
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    mandatory = ("version monai_version pytorch_version numpy_version required_packages_version task "
                 "description authors copyright network_data_format")  # fmt: skip
    assert set(mandatory.split()) <= metadata.keys()
    for tensor in [metadata["network_data_format"][k] for k in ("inputs", "outputs")]:
        (said,) = tensor.values()
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data",
                "channel_def"} <= said.keys()  # fmt: skip
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["3"] == "RV"
    assert metadata["crossbeat"]["provenance"] == {"cohort_hash": "abc"}


def test_its_weights_are_the_networks_own(bundle: Path, untrained: Segmenter) -> None:
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert weights.keys() == untrained.network.state_dict().keys()
    assert all(torch.equal(v, weights[k]) for k, v in untrained.network.state_dict().items())


def test_monai_accepts_network_and_metadata_and_gets_our_probabilities(
    bundle: Path, untrained: Segmenter
) -> None:
    configs = bundle / "configs"
    with importable(bundle):
        check_network(bundle, configs, untrained)


def check_network(bundle: Path, configs: Path, untrained: Segmenter) -> None:
    verify_net_in_out(
        "network_def",
        str(configs / "metadata.json"),
        str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(bundle),
    )
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    parser.update({"bundle_root": str(bundle)})
    image = torch.randn(3, 1, 48, 48)
    with torch.no_grad():
        found = parser.get_parsed_content("network")(image)
        ours = untrained.network(image).softmax(dim=1)
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-5)


def write_oblique(case: Case, path: Path) -> None:
    """Store the scan tilted, slices first and rows upside down, as a careless converter might."""
    tilt = np.eye(4)
    a, b = np.deg2rad(25), np.deg2rad(-15)
    tilt[:3, :3] = (
        np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        @ np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        @ np.diag([-1.0, -1.0, 1.0])
    )
    affine = tilt @ case.affine  # of (x, y, z)
    stored = case.image[0][:, ::-1]  # (z, -y, x)
    columns = affine @ np.array(
        [[0, 0, 1, 0], [0, -1, 0, case.image.shape[2] - 1], [1, 0, 0, 0], [0, 0, 0, 1]], float
    )
    nib.save(nib.Nifti1Image(np.ascontiguousarray(stored), columns), path)


def off_centre(case: Case) -> Case:
    """The scan with 30 rows and 14 columns of nothing on one side: the heart is no longer in the middle."""
    wider = np.pad(case.image, ((0, 0), (0, 0), (30, 0), (0, 14)), mode="edge")
    return Case(case.id, case.subject, wider, case.affine, case.domain)


@pytest.mark.slow
def test_finds_in_stored_scans_the_hearts_that_crossbeat_finds(
    hearts: Callable[..., Cohort], tmp_path: Path
) -> None:
    cohort = hearts(6, 0)
    segmenter = learn(Cohort(cohort.rows[:4], cohort.read))
    exported = export_segmenter(segmenter, "monai", tmp_path / "bundle")
    (tmp_path / "scans").mkdir()
    for row in cohort.rows[4:]:
        write_oblique(off_centre(cohort.read(row)), tmp_path / "scans" / f"{row.scan}.nii.gz")
    with importable(exported.folder):
        run_bundle(exported.folder, tmp_path / "scans")
    written = sorted((exported.folder / "eval").iterdir())
    assert [p.name for p in written] == ["s4_bssfp_seg.nii.gz", "s5_bssfp_seg.nii.gz"]
    for path in written:
        scan = tmp_path / "scans" / path.name.replace("_seg", "")
        np.testing.assert_allclose(nib.load(path).affine, nib.load(scan).affine, atol=1e-4)
        volume = read_volume(scan)
        ours = segmenter.predict(Case("scan", "s", volume.array, volume.affine, Domain("bssfp")))
        theirs = read_volume(path).array
        assert theirs.shape == ours.shape
        for structure in (Structure.LV, Structure.MYO, Structure.RV):
            a, b = ours == structure, theirs == structure
            assert a.sum() > 50
            # The smallest cavity has 140 voxels; MONAI samples where crossbeat averages.
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9, structure.name


def run_bundle(folder: Path, scans: Path) -> None:
    workflow = ConfigWorkflow(
        str(folder / "configs" / "inference.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(folder),
        dataset_dir=str(scans),
        device="cpu",
    )
    workflow.initialize()
    with torch.enable_grad():  # the bundle switches gradients off, for its process
        workflow.run()


@pytest.mark.parametrize("place", [(40, 40), (25, 52), (60, 30)])
def test_centring_moves_the_heart_to_the_middle_and_is_undone(place: tuple[int, int]) -> None:
    """A bright square of 8 x 8 pixels, which the network takes for a heart, in an image of 81 x 83."""

    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.threshold = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.cat([image < self.threshold, image >= self.threshold], dim=1).float()

    image = torch.zeros(1, 81, 83, 4)
    image[:, place[0] - 4 : place[0] + 4, place[1] - 4 : place[1] + 4] = 1
    scale = {"low_percentile": 0.0, "high_percentile": 100.0, "scale": "unit", "per": "slice"}
    step = bundle_steps.CentreHeartd("image", Bright(), 48, 72, scale)
    centred = step({"image": MetaTensor(image)})
    middle = [(n - 1) / 2 for n in centred["image"].shape[1:3]]
    bright = torch.nonzero(centred["image"][0, :, :, 0] == 1).float().mean(dim=0)
    assert bright.tolist() == pytest.approx(middle, abs=1)
    assert torch.equal(step.inverse(centred)["image"].as_tensor(), image)


@pytest.mark.parametrize("scale", ["zscore", "unit", "symmetric"])
@pytest.mark.parametrize("per", ["slice", "volume"])
def test_its_intensities_are_those_of_prepare(scale: str, per: str, hearts: Callable[..., Cohort]) -> None:
    """The field is larger than the scan, so that a part of it is not covered."""
    cohort = hearts(1, 0)
    case = cohort.read(cohort.rows[0])
    preparation = Preparation(size=48, spacing_mm=2.0, centre="image", scale=scale, per=per)  # type: ignore[arg-type]
    window = window_of(case, preparation)
    cut = window.cut(slices_of(case.image))
    covered = covered_pixels(window)
    assert 0.2 < covered.float().mean() < 0.8
    marked = torch.where(covered, cut, torch.nan).permute(1, 2, 3, 0)  # (1, y, x, z)
    found = bundle_steps.normalise(marked, 0.5, 99.5, scale, per)
    torch.testing.assert_close(
        found.permute(3, 0, 1, 2), normalise(cut, window, preparation), rtol=1e-4, atol=1e-4
    )


def test_a_cine_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="one 3-D frame, got shape \\(2, 5, 5, 3, 1\\); split the cine"):
        bundle_steps.turn(torch.zeros(2, 5, 5, 3, 1))


@pytest.mark.slow
def test_its_scripts_run_without_crossbeat(bundle: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['crossbeat'] = None  # any import of it fails\n"
        "from scripts import bundle_steps\n"
        "assert bundle_steps.geometry.__name__ == 'scripts.geometry'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=bundle, check=True)
