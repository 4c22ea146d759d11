"""A small adversarial stage with everything that must survive a kill, and a script that trains it.

As a script, `FOLDER DEVICES [stop STEP] [resume]` trains two plain stages and `FOLDER 1 kill STEP` the
adversarial one; `kill` ends the process by SIGKILL in that step, `stop` sends SIGTERM to the first process in
that step of the second stage. Lightning starts the script again for the second of two devices.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbeat.cohort import Cohort, Row
from crossbeat.training import Run, Stage, constant, cosine, fit, plateau, seed_torch

ROUNDS, STEPS = 3, 5
COHORT = Cohort((Row("p1", "p1_bssfp", "bssfp", "p1.nii.gz"), Row("p2", "p2_lge", "lge", "p2.nii.gz")))


def batch(seed: int, step: int, count: int = 8) -> Tensor:
    """The global batch of a step: images (n, c, y, x) that depend on seed and step only."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return torch.randn(count, 1, 6, 5, generator=generator)


class Adversarial(Stage):
    """A generator with BatchNorm and dropout, a critic, a replay buffer, EMA, two optimizers, two schedules."""

    def __init__(
        self, run: Run, *, name: str = "adversarial", kill_at: int = -1, steps: int = ROUNDS * STEPS
    ):
        super().__init__(run, name, clip_norm=1.0, ema_decay=0.9)
        self.generator = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv2d(4, 1, 3, padding=1),
        )
        self.critic = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 1)
        )
        self.register_buffer("replay", torch.zeros(4, 1, 6, 5))
        self.steps = steps
        self.kill_at = kill_at
        self.signal = signal.SIGKILL

    def averaged(self) -> list[nn.Module]:
        return [self.generator]

    def configure_optimizers(self) -> Any:
        one = torch.optim.AdamW(self.generator.parameters(), lr=1e-2)
        two = torch.optim.SGD(self.critic.parameters(), lr=1e-2, momentum=0.9)
        return [one, two], [cosine(one, self.steps), plateau(two, patience=0)]

    def update(self, step: int) -> dict[str, Tensor]:
        if step == self.kill_at:
            os.kill(os.getpid(), self.signal)
        images = self.share(batch(self.run.seed, step)).to(self.device)
        made = self.generator(images)
        loss = F.mse_loss(made, images.flip(-1)) - 0.1 * self.critic(made).mean()
        self.descend(loss, 0)
        self.replay[step % 4] = made[0].detach()
        loss_critic = (self.critic(self.replay) ** 2).mean() + F.softplus(-self.critic(images)).mean()
        self.descend(loss_critic, 1)
        return {"loss": loss.detach(), "loss_critic": loss_critic.detach()}

    def validate(self) -> dict[str, float]:
        images = batch(99, 0)
        loss = F.mse_loss(self.generator(images.to(self.device)), images.flip(-1).to(self.device))
        return {"loss_validation": float(loss), "noise": float(torch.rand(()))}


class Plain(Stage):
    """Two optimizers without BatchNorm or dropout: N devices must agree with one. One layer is never reached."""

    def __init__(self, run: Run, name: str, *, stop_at: int = -1) -> None:
        super().__init__(run, name, clip_norm=5.0, ema_decay=0.9)
        self.stop_at = stop_at
        seed_torch(run.seed, name, "networks", run.rank)  # unequal on purpose: the first rank's must win
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 1, 3, padding=1)
        self.idle = nn.Linear(2, 2)

    def configure_optimizers(self) -> Any:
        one = torch.optim.SGD([*self.first.parameters(), *self.idle.parameters()], lr=0.05, momentum=0.9)
        two = torch.optim.Adam(self.second.parameters(), lr=1e-2)
        return [one, two], [cosine(one, 40)]

    def update(self, step: int) -> dict[str, Tensor]:
        if step == self.stop_at and self.run.writes:
            os.kill(os.getpid(), signal.SIGTERM)
        images = self.share(batch(self.run.seed, step)).to(self.device)
        self.descend(F.mse_loss(self.second(self.first(images).tanh()), images.flip(-1)), 0)
        loss = F.l1_loss(self.second(self.first(images).tanh()), images.flip(-2))
        self.descend(loss, 1, clip_value=0.5)
        return {"loss": loss.detach()}

    def validate(self) -> dict[str, float]:
        return {"dice_source": self.run.rank + self.current_epoch}


def quiet_run(folder: Path, **other: Any) -> Run:
    return Run(folder, device="cpu", precision="32", **other)


class Falling(Stage):
    """One weight w, loss slope * w: each step of SGD subtracts rate times slope, all on paper."""

    def __init__(self, run: Run, *, slope: float = 3.0, name: str = "falling", **own: Any) -> None:
        super().__init__(run, name, **own)
        self.line = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.line.weight)
        self.slope = slope
        self.clip: dict[str, float] = {}
        self.steps: list[int] = []

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [constant(optimizer)]

    def update(self, step: int) -> dict[str, Tensor]:
        self.steps.append(step)
        loss = self.slope * self.line.weight.sum()
        self.descend(loss, **self.clip)
        return {"loss": loss.detach()}


def weight(stage: Falling) -> float:
    return float(stage.line.weight.detach())


def weights(stage: Stage) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in stage.state_dict().items()}


def main() -> None:
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    run = Run(folder, device="cpu", devices=devices, precision="32", log_every=2, resume="resume" in sys.argv)
    if "kill" in sys.argv:
        run.open({"steps": STEPS}, COHORT, "toy")
        fit(Adversarial(run, kill_at=int(sys.argv[4])), rounds=ROUNDS, steps_per_round=STEPS)
        return
    run.open({"steps": STEPS}, COHORT, "toy")
    one = Plain(run, "one")
    fit(one, rounds=2, steps_per_round=20, select="source")
    if run.writes:
        torch.save(weights(one), folder / "between.pt")
    run.wait()
    between = torch.load(folder / "between.pt", weights_only=True)
    two = Plain(run, "two", stop_at=int(sys.argv[4]) if "stop" in sys.argv else -1)
    fit(two, rounds=2, steps_per_round=20)
    torch.save({"between": between, "two": weights(two)}, folder / f"rank{run.rank}.pt")
    run.close()


if __name__ == "__main__":
    main()
