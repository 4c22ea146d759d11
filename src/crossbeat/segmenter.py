"""Segmenter: what every method ends in. A network, how to prepare for it, what it knows, and where it comes from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from crossbeat import __version__
from crossbeat.case import Case
from crossbeat.devices import argmax_channels, multiplies_bfloat16
from crossbeat.errors import RunError, SettingsError
from crossbeat.labels import TRAINED, Structure
from crossbeat.networks import SEGMENTERS, build, lay_out
from crossbeat.prepare.volumes import Preparation, Window, crop, normalise, pad, slices_of, window_of

SLICES_AT_ONCE = 32
WALK = 6
"""Steps at most in which the window finds the heart."""
FORMAT = 1


class NetworkSpec(BaseModel, extra="forbid", frozen=True):
    """A segmentation network by name, with what is needed to build it again."""

    name: str = Field(description="entry of networks.SEGMENTERS")
    in_channels: int = Field(1, ge=1)
    size: int = Field(description="side in pixels that it trained at")
    arguments: dict[str, Any] = Field(default_factory=dict)

    def build(self, structures: tuple[Structure, ...] = TRAINED) -> nn.Module:
        """The network with fresh weights, background and one class a structure."""
        return build(self.name, self.in_channels, len(structures) + 1, (self.size, self.size), self.arguments)


@dataclass
class Segmenter:
    """A trained network and all that is needed to use it on a scan."""

    network: nn.Module
    spec: NetworkSpec
    preparation: Preparation
    structures: tuple[Structure, ...] = TRAINED
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Method, seed, versions, cohort hash, which weights were selected."""

    def __post_init__(self) -> None:
        """Lay the weights as training does, whoever made them: in another layout sums come in another order."""
        lay_out(self.network, self.spec.name)

    def predict(self, case: Case) -> NDArray[np.uint8]:
        """(t, z, y, x) values of `Structure` on the case's own grid; the plain network, no post-processing."""
        window = self.place(case)
        chunks = [argmax_channels(p).cpu() for p in self.probabilities(case, window)]
        return self.name_classes(torch.cat(chunks).reshape(case.image.shape).numpy())

    def name_classes(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Network classes 0 to k-1 turned into values of `Structure`, any shape."""
        return np.array([0, *self.structures], np.uint8)[classes]

    @torch.inference_mode()
    def probabilities(
        self, case: Case, window: Window, *, flips: bool = False, frames: Sequence[int] | None = None
    ) -> Iterator[Float[Tensor, "n k y x"]]:
        """Class probabilities of the slices on the scan's own grid, frame by frame, in chunks.

        Outside the window all is background. With `flips` the four mirror images are averaged. `frames` are those
        that are asked for; None: all.
        """
        self.network.eval()
        fields = self._normalised(slices_of(case.image), window)
        if frames is not None:
            fields = fields.reshape(*case.image.shape[:2], *fields.shape[1:])[list(frames)].flatten(0, 1)
        for first in range(0, len(fields), SLICES_AT_ONCE):
            images = crop(fields[first : first + SLICES_AT_ONCE], self.preparation.size).to(self.device)
            found = self._foreground(images, flips)
            whole = window.paste(pad(found, window.size))
            yield torch.cat([1 - whole.sum(dim=1, keepdim=True), whole], dim=1)

    def place(self, case: Case) -> Window:
        """The window about the heart, which the network itself finds in the whole image; or about the image."""
        preparation = self.preparation
        y, x = case.image.shape[2:]
        middle = ((y - 1) / 2, (x - 1) / 2)
        centre = self._locate(case, middle) if preparation.centre == "heart" else middle
        return window_of(case, preparation, centre=centre)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    def save(self, folder: Path) -> None:
        """`weights.safetensors` and `segmenter.json` in a folder that appears whole or not at all."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        save_file(weights, temporary / "weights.safetensors")
        (temporary / "segmenter.json").write_text(json.dumps(self.describe(), indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)

    def describe(self) -> dict[str, Any]:
        """All but the weights, as plain JSON."""
        return {
            "format": FORMAT,
            "crossbeat": __version__,
            "network": self.spec.model_dump(),
            "preparation": self.preparation.model_dump(),
            "structures": [s.name for s in self.structures],
            "provenance": dict(self.provenance),
        }

    def _locate(self, case: Case, start: tuple[float, float]) -> tuple[float, float]:
        """Middle (y, x) in voxels of the heart, `start` where none is seen; the case's labels are not looked at.

        From the start, the middle of the image, where scans are planned, the window walks to the heart that the
        network sees in it, until it stands still: what lies farther out than training showed is never asked about.
        """
        here = start
        for _ in range(WALK):
            window = window_of(case, self.preparation, centre=here)
            seen = self._heart_in(case, window)
            if seen is None:
                return start
            still = max(abs(a - b) * s for a, b, s in zip(seen, here, window.scan_spacing_mm, strict=True))
            here = seen
            if still < 2 * window.spacing_mm:
                break
        return here

    @torch.inference_mode()
    def _heart_in(self, case: Case, window: Window) -> tuple[float, float] | None:
        """Middle (y, x) in voxels of the largest heart that the window's crop shows in the stack's middle half."""
        self.network.eval()
        z = case.image.shape[1]
        middle = slices_of(case.image[:1, z // 4 : max(z - z // 4, z // 4 + 1)])
        crops = crop(self._normalised(middle, window), self.preparation.size).to(self.device)
        shares = self._foreground(crops, flips=False).sum(dim=1).mean(dim=0).cpu().numpy()
        parts, count = ndimage.label(shares > 0.5 * float(shares.max()))
        if not count or shares.max() < 0.1:
            return None
        masses = ndimage.sum_labels(shares, parts, range(1, count + 1))
        row, column = ndimage.center_of_mass(shares, parts, int(np.argmax(masses)) + 1)
        offset = (self.preparation.size - 1) / 2
        steps = [window.spacing_mm / s for s in window.scan_spacing_mm]
        return window.centre[0] + (row - offset) * steps[0], window.centre[1] + (column - offset) * steps[1]

    def _normalised(self, slices: Tensor, window: Window) -> Tensor:
        return normalise(window.cut(slices), window, self.preparation)

    def _foreground(self, images: Tensor, flips: bool) -> Float[Tensor, "n c y x"]:
        views: list[tuple[int, ...]] = [(), (2,), (3,), (2, 3)] if flips else [()]
        total = sum(self._softmax(images.flip(v)).flip(v) for v in views)
        assert isinstance(total, Tensor)
        return total[:, 1:] / len(views)

    def _softmax(self, images: Tensor) -> Tensor:
        images = images.expand(-1, self.spec.in_channels, -1, -1)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._may_autocast(images.device)):
            logits: Tensor = self.network(images)
        return logits.float().softmax(dim=1)

    def _may_autocast(self, device: torch.device) -> bool:
        return SEGMENTERS[self.spec.name].bf16 and multiplies_bfloat16(device.type)


def load_segmenter(folder: Path, device: torch.device | str = "cpu") -> Segmenter:
    """Read what `Segmenter.save` wrote; nothing is unpickled. `RunError` where a piece is missing or broken."""
    try:
        described = json.loads((folder / "segmenter.json").read_text())
        if described["format"] > FORMAT:
            raise RunError(
                f"{folder}: written by crossbeat {described['crossbeat']}, newer than this {__version__}; upgrade"
            )
        spec = NetworkSpec(**described["network"])
        structures = tuple(Structure[name] for name in described["structures"])
        network = spec.build(structures)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        preparation = Preparation(**described["preparation"])
    except FileNotFoundError as error:
        missing = Path(error.filename or "weights.safetensors").name  # safetensors does not say which
        raise RunError(f"{folder}: {missing} is missing; is this a finished run?") from None
    except (
        KeyError, TypeError, ValidationError, SettingsError, json.JSONDecodeError, SafetensorError, RuntimeError,
    ) as error:  # fmt: skip
        raise RunError(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from None
    network.to(device).eval()
    return Segmenter(network, spec, preparation, structures, described["provenance"])
