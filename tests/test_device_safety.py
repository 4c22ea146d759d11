"""What a training step does on a device: nothing of the CPU gets mixed in, and nothing waits.

There may be no such device where the tests run. Tensors of torch's `meta` device stand in for it: they have no
values, so that whatever would have to look at one (`.item()`, `nonzero`, a branch, a copy back) fails, as does
any operation on tensors of two devices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from crossbeat.cohort import Cohort
from crossbeat.losses.segmentation import segmentation_loss
from crossbeat.methods import METHODS, validation
from crossbeat.methods.weak_transfer.pairs import Pairs
from crossbeat.methods.weak_transfer.stages import Adversarial
from crossbeat.networks import SEGMENTERS, build
from crossbeat.prepare.augment import PRESETS
from crossbeat.prepare.slices import Batch, Slice, SliceBank, training_batch
from crossbeat.prepare.volumes import Preparation, Window
from crossbeat.training import Run

COUNT, CLASSES = 6, 4
PREPARATION = Preparation(size=64, spacing_mm=2.0)


class Copies(TorchDispatchMode):
    """Notes every copy from one device to another that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []
        self.free = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") not in (None, args[0].device):
            if kwargs.get("non_blocking"):
                self.free += 1
            else:
                self.waited.append(f"{tuple(args[0].shape)} {args[0].dtype} to {kwargs['device']}")
        if func is torch.ops.aten.copy_.default and args[0].device != args[1].device:
            self.waited.append(f"copy_ of {tuple(args[1].shape)}")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _autocast_of_a_device_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else real(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast)


def bank(device: str) -> SliceBank:
    field = PREPARATION.field
    return SliceBank(
        torch.zeros(COUNT, 1, field, field, device=device),
        torch.zeros(COUNT, field, field, dtype=torch.uint8, device=device),
        torch.ones(COUNT, CLASSES, dtype=torch.bool, device=device),
        tuple(Slice("s", "s", "bssfp", 0, z, 8.0 * z) for z in range(COUNT)),
        PREPARATION,
    )


def batch_of(preset: str, device: str = "meta", step: int = 3) -> Batch:
    return training_batch(bank(device), 4, PRESETS[preset], seed=1, step=step)


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    return segmentation_loss(
        logits,
        batch.labels,
        batch.drawn,
        cross_entropy_weight=0.5,
        dice_weight=0.5,
        include_background=False,
        smooth=1.0,
    )


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_batch_is_made_on_the_device_without_waiting(preset: str) -> None:
    with Copies() as copies:
        batch = batch_of(preset)
    assert {t.device.type for t in (batch.image, batch.labels, batch.drawn)} == {"meta"}
    assert not copies.waited
    assert copies.free >= 1  # the indices; and the draw, where there is one


def test_a_batch_of_the_cpu_would_be_noticed() -> None:
    with Copies() as copies, pytest.raises(NotImplementedError, match="no data"):
        batch_of("standard").image.cpu()
    assert copies.waited
    with pytest.raises(RuntimeError, match=r"meta|device"):
        _ = batch_of("none").image + torch.zeros(4, 1, 64, 64)
    with pytest.raises(RuntimeError, match="meta"):
        batch_of("none").image.sum().item()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_a_step_runs_on_the_device_without_waiting(name: str) -> None:
    side = max(64, SEGMENTERS[name].minimum_side)
    with torch.device("meta"):
        network = build(name, 1, CLASSES, (side, side), {"width": 16})
        batch = Batch(
            torch.empty(4, 1, side, side),
            torch.empty(4, side, side, dtype=torch.uint8),
            torch.empty(4, CLASSES, dtype=torch.bool),
        )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    with Copies() as copies:
        loss = loss_of(network.train()(batch.image), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert loss.device.type == "meta"
    assert not copies.waited


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["ours", "text", "code"])
def test_an_adversarial_step_runs_on_the_device_without_waiting(profile: str, tmp_path: Path) -> None:
    own = {"profile": profile, "batch_size": 4, "mask_noise_sd": 0.1, "class_weights": [0.5, 5, 3, 5]}
    settings = METHODS["weak_transfer"].settings.of({**own, "image_size": 64, "spacing_mm": 2.0})
    run = Run(tmp_path / "run", device="cpu", progress=False)
    run.open({}, Cohort(()), "test")
    pairs = Pairs(bank("meta"), torch.arange(3), torch.arange(3, 6))
    with torch.device("meta"):
        stage = Adversarial(run, settings, settings.spec.build(), pairs, {})
    losses = []
    stage.descend = lambda loss, *args, **more: losses.append(loss)  # type: ignore[method-assign]
    with Copies() as copies:
        told = stage.update(3)
        for loss in losses:
            loss.backward(retain_graph=True)
    assert {t.device.type for t in told.values()} == {"meta"}
    assert len(losses) == (3 if profile == "code" else 2)
    assert not copies.waited


def test_validation_waits_once_a_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        network = build("dilated_resunet", 1, CLASSES, (64, 64), {"width": 4})
    copied: list[tuple[int, ...]] = []
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: copied.append(tuple(tensor.shape)) or tensor)
    monkeypatch.setattr(validation, "SLICES_AT_ONCE", 2)
    with Copies() as copies, torch.inference_mode():
        validation._count_pixels(network.eval(), bank("meta"), 1)
    assert copied == [(COUNT, CLASSES - 1)] * 2
    assert not copies.waited


@pytest.mark.parametrize("way", ["cut", "paste"])
def test_a_window_that_prediction_used_first_can_be_trained_through(way: str) -> None:
    """Its matrices are kept; made in inference mode they would be refused by autograd."""

    def through(side: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        window = Window((37, 41), (1.3, 1.7), (17.0, 21.5), 32, 1.9)
        return (
            (window.cut, torch.ones(1, 1, 37, 41))
            if way == "cut"
            else (window.paste, torch.ones(1, 1, 32, 32))
        )

    with torch.inference_mode():
        move, image = through(32)
        expected = move(image).sum()
    move, image = through(32)
    image.requires_grad_()
    total = move(image).sum()
    total.backward()
    assert image.grad is not None
    assert float((image.grad * image.detach()).sum()) == pytest.approx(float(expected), rel=1e-4)


REFUSED = {
    "AdaptiveAvgPool2DBackward0", "AdaptiveMaxPool2DBackward0", "CumsumBackward0", "GridSampler2DBackward0",
    "NllLoss2DBackward0", "NllLossBackward0", "ReflectionPad2DBackward0", "UpsampleBicubic2DBackward0",
    "UpsampleLinear1DBackward0",
}  # fmt: skip
"""Of those that torch.use_deterministic_algorithms refuses to differentiate on CUDA, the 2-D ones.

UpsampleBilinear2D is not here: `F.interpolate`, the one door to it, takes another way on CUDA under that switch.
"""


def steps_back(loss: Tensor) -> set[str]:
    """Names of all that autograd would run."""
    found, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    return {node.name() for node in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_deterministic_training_meets_no_operation_that_torch_refuses(name: str) -> None:
    side = max(64, SEGMENTERS[name].minimum_side)
    network = build(name, 1, CLASSES, (side, side), {"width": 16})
    labels = torch.zeros(2, side, side, dtype=torch.uint8)
    batch = Batch(torch.randn(2, 1, side, side), labels, torch.ones(2, CLASSES, dtype=torch.bool))
    taken = steps_back(loss_of(network(batch.image), batch))
    assert any(step.startswith("Convolution") for step in taken)
    assert not taken & REFUSED


def test_an_operation_that_torch_refuses_would_be_noticed() -> None:
    image = torch.randn(1, 1, 8, 8, requires_grad=True)
    warped = nn.functional.grid_sample(image, torch.zeros(1, 4, 4, 2), align_corners=False)
    padded = nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
    assert len(steps_back(warped.sum() + padded.sum()) & REFUSED) == 2
