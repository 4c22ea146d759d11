from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_stages import Adversarial, Falling, quiet_run, weight
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.training import fit


def test_descend_takes_one_plain_step(tmp_path: Path) -> None:
    stage = Falling(quiet_run(tmp_path))
    fit(stage, rounds=2, steps_per_round=2)
    assert stage.steps == [0, 1, 2, 3]
    assert weight(stage) == pytest.approx(-4 * 0.1 * 3.0)


def test_the_gradient_is_clipped_to_the_stage_s_length_or_the_step_s(tmp_path: Path) -> None:
    stage = Falling(quiet_run(tmp_path / "a"), clip_norm=0.5)
    fit(stage, rounds=1, steps_per_round=2)
    assert weight(stage) == pytest.approx(-2 * 0.1 * 0.5, rel=1e-5)
    for clip in ({"clip_norm": 2.0}, {"clip_value": 2.0}):
        stage = Falling(quiet_run(tmp_path / str(clip)), clip_norm=0.5)
        stage.clip = clip
        fit(stage, rounds=1, steps_per_round=2)
        assert weight(stage) == pytest.approx(-2 * 0.1 * 2.0, rel=1e-5)


def test_averaged_weights_follow_by_the_formula(tmp_path: Path) -> None:
    stage = Falling(quiet_run(tmp_path), slope=1.0, ema_decay=0.15)
    fit(stage, rounds=1, steps_per_round=3)
    average, value = 0.0, 0.0
    for step in range(3):
        value -= 0.1
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, then 0.15 (2/11 and 3/12 are above)
        average = decay * average + (1 - decay) * value
    assert weight(stage) == pytest.approx(average)
    assert weight(stage) != pytest.approx(value)


def test_each_optimizer_moves_its_own_network_only(tmp_path: Path) -> None:
    class OnlyGenerator(Adversarial):
        def update(self, step: int) -> dict[str, Tensor]:
            loss = self.critic(self.generator(torch.ones(2, 1, 6, 5))).mean()
            self.descend(loss, 0)
            assert all(p.grad is None for p in self.critic.parameters())
            return {"loss": loss.detach()}

    stage = OnlyGenerator(quiet_run(tmp_path))
    critic = [p.detach().clone() for p in stage.critic.parameters()]
    generator = [p.detach().clone() for p in stage.generator.parameters()]
    fit(stage, rounds=1, steps_per_round=3)
    assert all(torch.equal(a, b) for a, b in zip(critic, stage.critic.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(generator, stage.generator.parameters(), strict=True))


def test_an_optimizer_may_be_named_by_itself(tmp_path: Path) -> None:
    class ByItself(Falling):
        def configure_optimizers(self) -> Any:
            self.own = torch.optim.SGD(self.parameters(), lr=0.1)
            return self.own

        def update(self, step: int) -> dict[str, Tensor]:
            loss = self.line.weight.sum()
            self.descend(loss, self.own)
            self.descend(self.line.weight.sum(), self.optimizers())  # type: ignore[arg-type]
            return {"loss": loss.detach()}

    stage = ByItself(quiet_run(tmp_path))
    fit(stage, rounds=1, steps_per_round=1)
    assert weight(stage) == pytest.approx(-0.2)


def test_a_stranger_s_optimizer_is_refused(tmp_path: Path) -> None:
    class Stranger(Falling):
        def update(self, step: int) -> dict[str, Tensor]:
            self.descend(self.line.weight.sum(), torch.optim.SGD(self.parameters(), lr=1.0))
            return {}

    with pytest.raises(SettingsError, match="configure_optimizers did not return"):
        fit(Stranger(quiet_run(tmp_path)), rounds=1, steps_per_round=1)


def test_validation_sees_averaged_weights_in_eval_mode_and_leaves_no_trace(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Watched(Adversarial):
        def validate(self) -> dict[str, float]:
            seen.append(
                {
                    "modes": {m.training for m in self.modules()},
                    "weight": self.generator[0].weight.detach().clone(),
                    "mean": self.generator[1].running_mean.clone(),
                    "gradients": torch.is_grad_enabled(),
                }
            )
            return super().validate()

        def update(self, step: int) -> dict[str, Tensor]:
            if step == 5:  # the first after a validation
                assert self.generator.training
                assert not self.critic.training  # frozen by its owner before training
                assert torch.equal(self.generator[0].weight, before[0])
                assert torch.equal(self.generator[1].running_mean, before[1])
            out = super().update(step)
            before[:] = [self.generator[0].weight.detach().clone(), self.generator[1].running_mean.clone()]
            return out

    before: list[Tensor] = []
    stage = Watched(quiet_run(tmp_path))
    stage.critic.eval()
    fit(stage, rounds=2, steps_per_round=5)
    assert [s["modes"] for s in seen] == [{False}, {False}]
    assert not seen[0]["gradients"]
    assert torch.equal(stage.generator[0].weight, seen[-1]["weight"])  # `last` are the averaged weights
    assert torch.equal(stage.generator[1].running_mean, seen[-1]["mean"])
    assert not torch.equal(stage.generator[0].weight, before[0])


def test_a_batch_is_shared_in_equal_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, wanted in [(0, [10, 11, 12]), (1, [13, 14, 15])]:
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        stage = Falling(quiet_run(Path("run"), devices=2))
        assert stage.share(torch.arange(10, 16)).tolist() == wanted
    with pytest.raises(SettingsError, match="a batch of 7 cannot be shared by 2 devices"):
        stage.share(torch.arange(7))
    alone = Falling(quiet_run(Path("run")))
    assert alone.share(torch.arange(7)).tolist() == list(range(7))


def test_names_and_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="a stage's name is a folder"):
        Falling(quiet_run(tmp_path), name="../elsewhere")
    with pytest.raises(SettingsError, match=r"ema_decay must be in \[0, 1\), got 1"):
        Falling(quiet_run(tmp_path), ema_decay=1.0)


def test_networks_in_a_list_are_found_one_by_one(tmp_path: Path) -> None:
    stage = Falling(quiet_run(tmp_path))
    stage.pair = nn.ModuleList([nn.Linear(1, 2), nn.Linear(2, 1)])
    assert [type(n).__name__ for n in stage.networks()] == ["Linear"] * 3


def test_only_batch_norm_that_looks_at_the_batch_counts(tmp_path: Path) -> None:
    stage = Falling(quiet_run(tmp_path))
    assert not stage.has_batch_norm()
    stage.instance, stage.group = nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)
    stage.shared = nn.SyncBatchNorm(4)
    assert not stage.has_batch_norm()
    stage.network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ModuleList([nn.BatchNorm2d(4)]))
    assert stage.has_batch_norm()
    stage.network.eval()  # frozen: running means, the same on every device
    assert not stage.has_batch_norm()
    stage.network[1][0] = nn.BatchNorm2d(4, track_running_stats=False).eval()
    assert stage.has_batch_norm()
