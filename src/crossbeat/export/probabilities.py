"""A segmenter's network as a module of its own: prepared one-channel slices in, class probabilities out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.networks import SEGMENTERS, SegmenterEntry
from crossbeat.segmenter import Segmenter

INPUT: Final = "image"
OUTPUT: Final = "probabilities"


class Probabilities(nn.Module):
    """The network in evaluation, in float32, with its softmax; a grey slice is shown to every input channel."""

    def __init__(self, network: nn.Module, in_channels: int, size: int, entry: SegmenterEntry) -> None:
        super().__init__()
        self.network = network
        self.in_channels = in_channels
        self.size = size
        self.entry = entry

    @classmethod
    def of(cls, segmenter: Segmenter) -> Probabilities:
        """A copy on the CPU; the segmenter stays as it is."""
        network = copy.deepcopy(segmenter.network).to("cpu", torch.float32).eval().requires_grad_(False)
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        spec = segmenter.spec
        return cls(network, spec.in_channels, spec.size, SEGMENTERS[spec.name]).eval()

    def forward(self, image: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n k y x"]:
        """Probabilities of background and each structure; they sum to 1 in every pixel."""
        found: Tensor = self.network(image.expand(-1, self.in_channels, -1, -1)).softmax(dim=1)
        return found

    def example(self, n: int = 2, larger: int = 0) -> Float[Tensor, "n 1 y x"]:
        """Random slices on the z-score scale, `larger` steps above the training size; always the same."""
        rows, columns = self.size + larger * self.entry.divisor, self.size + 2 * larger * self.entry.divisor
        return torch.randn(n, 1, rows, columns, generator=torch.Generator().manual_seed(n + larger))


@torch.inference_mode()
def largest_difference(network: Probabilities, run: Callable[[Tensor], Tensor]) -> float:
    """How far `run` is from the network at most, on one slice, on several, and on larger ones of unequal sides."""
    inputs = (network.example(1), network.example(3), network.example(2, larger=1))
    differences = [(run(image) - network(image)).abs().max() for image in inputs]
    return float(torch.stack(differences).max())  # nan stays nan, and is refused


def describe(segmenter: Segmenter, file: str) -> dict[str, Any]:
    """What `segmenter.json` says, and how the exported model wants its input."""
    entry = SEGMENTERS[segmenter.spec.name]
    classes = ["BACKGROUND", *(s.name for s in segmenter.structures)]
    return segmenter.describe() | {
        "export": {
            "model": file,
            "input": {
                "name": INPUT,
                "dtype": "float32",
                "axes": ["slice", "channel", "y", "x"],
                "channels": 1,
                "side_px": segmenter.spec.size,
                "side_multiple_of_px": entry.divisor,
                "smallest_side_px": entry.minimum_side,
            },
            "output": {
                "name": OUTPUT,
                "dtype": "float32",
                "axes": ["slice", "class", "y", "x"],
                "classes": classes,
                "label_values": [0, *(int(s) for s in segmenter.structures)],
            },
        }
    }
