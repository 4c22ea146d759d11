"""A law: what makes a training quicker or smaller never changes which batches it sees, nor what comes out."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_contract import DOMAINS, FEW, TINY, Hearts, every_method, train, two_domains
from torch import Tensor, nn

from crossbeat.methods import METHODS, supervised
from crossbeat.prepare import rows
from crossbeat.prepare.slices import Batch, SliceBank, training_batch
from crossbeat.training import Run

COMPILED = """
import sys
from pathlib import Path
import torch
from torch import nn
from torch._dynamo.utils import counters
sys.path.append(sys.argv[1])
from hearts import cohort
from crossbeat.methods import METHODS, supervised
from crossbeat.training import Run
SETTINGS = supervised.Settings.of({
    "source": {"sequence": "bssfp"}, "network": "dilated_resunet", "network_arguments": {"width": 8},
    "image_size": 64, "spacing_mm": 2.5, "batch_size": 4, "steps": 6, "steps_per_round": 3,
})
STILL = SETTINGS.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0})
made = []
compile = nn.Module.compile
nn.Module.compile = lambda self: made.append(self) or compile(self)
def trained(name, settings=SETTINGS, **how):
    run = Run(Path(sys.argv[2]) / name, device="cpu", progress=False, **how)
    METHODS["supervised"].carry_out(cohort(6, side=96, slices=3), settings, run, "test")
    from crossbeat.segmenter import load_segmenter
    return load_segmenter(run.folder / "segmenter").network.state_dict()
def apart(one, other):
    return sum(float(((v - other[k]).float() ** 2).sum()) for k, v in one.items()) ** 0.5
for precision, tolerance in (("32", 1e-3), ("bf16", 0.2)):
    start = trained(f"start-{precision}", settings=STILL, precision=precision, compile=False)
    plain = trained(f"plain-{precision}", precision=precision, compile=False)
    assert not made and not counters["frames"]["ok"]
    compiled = trained(f"compiled-{precision}", precision=precision, compile=True)
    assert len(made) == 1 and made.pop()._compiled_call_impl is None
    assert counters["frames"]["ok"] > 0
    counters.clear()
    way = apart(plain, start)
    assert way > 0
    assert apart(plain, compiled) < tolerance * way, (precision, apart(plain, compiled), way)
"""
"""Trains with compiled networks, in a process of its own: shape checks of the test run do not go with torch.compile."""

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@every_method
def test_speed_options_never_change_the_batch_sequence(
    method: str, hearts: Hearts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    take = SliceBank.batch
    compiled: list[nn.Module] = []

    def watched(bank: SliceBank, indices: Tensor) -> Batch:
        found = take(bank, indices)
        whole = [str(indices.tolist()).encode(), found.labels.numpy().tobytes()]
        seen.append(hashlib.sha256(b"".join(whole)).hexdigest())
        return found

    def batches(name: str, run: Run) -> list[str]:
        seen.clear()
        settings = METHODS[method].settings.of({**DOMAINS, **TINY[method], **FEW[method]})
        METHODS[method].carry_out(two_domains(hearts), settings, run, name)
        return list(seen)

    monkeypatch.setattr(SliceBank, "batch", watched)
    monkeypatch.setattr(nn.Module, "compile", lambda network: compiled.append(network))
    monkeypatch.setattr(torch, "compile", lambda further: further)
    plain = batches(
        "plain", Run(tmp_path / "plain", device="cpu", precision="32", progress=False, compile=False)
    )
    assert len(set(plain)) > 1
    assert not compiled
    monkeypatch.setattr(rows, "IN_MEMORY", 0)  # every bank lies in a mapped file
    quick = Run(
        tmp_path / "quick", device="cpu", precision="bf16", progress=False, log_every=1000, compile=True
    )
    assert batches("quick", quick) == plain
    assert compiled


def test_a_mapped_bank_trains_to_the_same_weights(
    hearts: Hearts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[Tensor] = []

    def watched(*given: object, **named: object) -> Batch:
        changed.append((found := training_batch(*given, **named)).image)  # type: ignore[arg-type]
        return found

    def weights(name: str) -> dict[str, Tensor]:
        found = train("supervised", two_domains(hearts), tmp_path / name, **FEW["supervised"])
        return dict(found.network.state_dict())

    monkeypatch.setattr(supervised, "training_batch", watched)
    in_memory, images = weights("memory"), changed.copy()
    changed.clear()
    monkeypatch.setattr(rows, "IN_MEMORY", 0)
    mapped = weights("mapped")
    assert len(images) == len(changed) > 0
    assert all(torch.equal(one, other) for one, other in zip(images, changed, strict=True))
    assert all(torch.equal(in_memory[name], mapped[name]) for name in in_memory)


@pytest.mark.slow
def test_compiled_and_eager_training_agree(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(BENCHMARKS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("asked", "cuda", "updates", "expected"),
    [
        (None, False, 10**6, False),
        (None, True, 10**6, True),
        (None, True, 100, False),
        (True, False, 1, True),
        (False, True, 10**6, False),
    ],
)
def test_networks_are_compiled_as_asked_or_where_it_pays(
    asked: bool | None, cuda: bool, updates: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    available: Callable[[], bool] = lambda: cuda  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Run(Path("none"), compile=asked).compiles(updates) is expected
