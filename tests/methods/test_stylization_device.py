"""What the stages of stylization do on a device: nothing of the CPU gets mixed in, and nothing waits.

As tests/test_device_safety.py: tensors of torch's `meta` device stand in for one, for they have no values to look at.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossbeat.cohort import Cohort
from crossbeat.errors import SettingsError
from crossbeat.methods.stylization import Encoder, Settings, Stylizer, train
from crossbeat.methods.stylization.autoencoding import EncoderStage
from crossbeat.methods.stylization.learning import StyleVaeStage, StylizerStage
from crossbeat.methods.stylization.segmentation import Segmentation
from crossbeat.methods.stylization.styles import Material
from crossbeat.networks.vgg import Vgg
from crossbeat.prepare.slices import Slice, SliceBank
from crossbeat.training import Run, Stage

COUNT, CLASSES = 6, 4
SMALL: dict[str, Any] = {
    "image_size": 32,
    "spacing_mm": 4.0,
    "batch_size": 2,
    "encoder_batch": 2,
    "stylizer_batch": 2,
    "style_channels": 8,
    "network_arguments": {"width": 2},
}


class Copies(TorchDispatchMode):
    """Notes every copy from one device to another that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        moved = func is torch.ops.aten._to_copy.default and kwargs.get("device") not in (None, args[0].device)
        copied = func is torch.ops.aten.copy_.default and args[0].device != args[1].device
        if copied or (moved and not kwargs.get("non_blocking")):
            self.waited.append(f"{tuple(args[0].shape)} {args[0].dtype}")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def autocast_of_a_device_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else real(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast)


def bank() -> SliceBank:
    preparation = Settings.of(SMALL).preparation
    field = preparation.field
    return SliceBank(
        torch.zeros(COUNT, 1, field, field, device="meta"),
        torch.zeros(COUNT, field, field, dtype=torch.uint8, device="meta"),
        torch.ones(COUNT, CLASSES, dtype=torch.bool, device="meta"),
        tuple(Slice("s", "s", "bssfp", 0, z, 8.0 * z) for z in range(COUNT)),
        preparation,
    )


def run_of(folder: Path, **other: Any) -> Run:
    run = Run(folder / "run", device="cpu", precision="32", progress=False, **other)
    run.open({}, Cohort(()), "test")
    return run


def steps_without_waiting(stage: Stage, steps: int = 1) -> Iterator[dict[str, Tensor]]:
    losses: list[Tensor] = []
    stage.descend = lambda loss, *args, **more: losses.append(loss)  # type: ignore[method-assign]
    for step in range(steps):
        with Copies() as copies:
            told = stage.update(step)
            losses[-1].backward()
        assert not copies.waited
        assert {t.device.type for t in told.values()} == {"meta"}
        yield told


def test_the_encoder_learns_without_waiting(tmp_path: Path) -> None:
    settings = Settings.of(SMALL)
    held_out, kinds = torch.tensor([0]), torch.arange(COUNT) % 2
    stage = EncoderStage(run_of(tmp_path), settings, bank(), held_out, kinds).to("meta")
    (told,) = steps_without_waiting(stage)
    assert "loss_kind" in told


ARMS: dict[str, dict[str, Any]] = {
    "ours": {"augmentation": "standard"},
    "text": {"profile": "text"},
    "code": {"profile": "code"},
    "adaconv": {"stylizer": "adaconv", "structure_weight": 1.0},
    "adaconv with codes": {"stylizer": "adaconv", "style_vae": True},
}


@pytest.mark.parametrize(
    "arm",
    [pytest.param(a, marks=pytest.mark.slow) if a in ("text", "adaconv with codes") else a for a in ARMS],
)
def test_stylizers_learn_and_styles_are_searched_without_waiting(tmp_path: Path, arm: str) -> None:
    settings, run = Settings.of({**SMALL, **ARMS[arm]}), run_of(tmp_path)
    with torch.device("meta"):
        encoder = Encoder(Vgg(), "random", settings.preparation)
        network = settings.build_stylizer()
        stage = StylizerStage(run, settings, network, encoder, bank(), bank())
        assert len(list(steps_without_waiting(stage))) == 1
        stylizer = Stylizer(encoder, network)
        if settings.style_vae:
            vae = StyleVaeStage(run, settings, settings.build_style_vae(), stylizer, bank())
            assert len(list(steps_without_waiting(vae))) == 1
            stylizer = replace(stylizer, autoencoder=vae.autoencoder)
        material = Material(bank(), bank(), bank(), None)
        search = Segmentation(run, settings, settings.spec.build(), stylizer, material, {})
    uses = settings.uses
    assert len(list(steps_without_waiting(search, uses))) == uses


def test_a_deterministic_run_on_cuda_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run", device="cpu", deterministic=True, progress=False)
    monkeypatch.setattr(Run, "accelerator", "cuda")
    with pytest.raises(
        SettingsError, match="no deterministic gradient of mirrored borders on CUDA, and stylizer rain"
    ):
        train(Cohort(()), Settings.of(SMALL), run)
