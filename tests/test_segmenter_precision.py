"""In which precision a segmenter computes: the device and the network's entry say so."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from crossbeat.devices import multiplies_bfloat16
from crossbeat.networks import SEGMENTERS
from crossbeat.prepare.volumes import Preparation
from crossbeat.segmenter import NetworkSpec, Segmenter

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=[True, False], ids=["bf16", "float32 only"])
def allowed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    entry = replace(SEGMENTERS["dilated_resunet"], bf16=request.param)
    monkeypatch.setitem(cast(MutableMapping[str, Any], SEGMENTERS), "dilated_resunet", entry)
    return bool(request.param)


def segmenter() -> Segmenter:
    spec = NetworkSpec(name="dilated_resunet", size=32, arguments={"width": 4})
    return Segmenter(spec.build().eval(), spec, Preparation(size=32, spacing_mm=2.0))


def logits_seen(device: str) -> torch.dtype:
    made, seen = segmenter(), []
    made.network.to(device).register_forward_hook(lambda network, images, logits: seen.append(logits.dtype))
    found = made._softmax(torch.zeros(1, 1, 32, 32, device=device))
    assert found.dtype == torch.float32
    return seen[0]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_needs_a_device_that_multiplies_it_and_a_network_that_may(
    allowed: bool, native: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def multiplies(device: str) -> bool:
        asked.append(device)
        return native

    monkeypatch.setattr("crossbeat.segmenter.multiplies_bfloat16", multiplies)
    assert segmenter()._may_autocast(torch.device(kind)) is (allowed and native)
    assert asked == [kind] * allowed


def test_the_network_computes_on_a_cpu_as_device_and_entry_allow(allowed: bool) -> None:
    computes = allowed and multiplies_bfloat16("cpu")
    assert logits_seen("cpu") == (torch.bfloat16 if computes else torch.float32)


@CUDA
def test_the_network_computes_on_cuda_as_its_entry_allows(allowed: bool) -> None:
    assert logits_seen("cuda") == (torch.bfloat16 if allowed else torch.float32)
