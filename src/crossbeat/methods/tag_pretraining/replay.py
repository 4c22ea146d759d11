"""Replay: painted images of earlier steps, mixed with those of this one before a discriminator sees them.

Shrivastava 2017 (arXiv 1612.07828), as in CycleGAN: 50 images of each domain, half of the shown ones old. It keeps
a discriminator from judging by the generator's latest habit alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.prepare.slices import batch_generator
from crossbeat.training.distributed import together

SWAPPED: Final = 0.5  # share of shown images that are old ones, once the places are filled; methods.md 4.5
REPLAY: Final = 22
"""Purpose of the random numbers of a step that choose which images are swapped."""


class Replay(nn.Module):
    """Places for images, which a checkpoint keeps. All else is known from seed, step and batch size.

    With several devices each has the same places, and swaps the images of the whole global batch: so it shows what
    one device would. `capacity` 0 keeps none and shows every image as it comes.
    """

    def __init__(self, capacity: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.images: Tensor
        self.register_buffer("images", torch.zeros(capacity, *shape))

    @torch.no_grad()
    def exchange(
        self,
        made: Float[Tensor, "n c y x"],
        *,
        seed: int,
        step: int,
        share: Callable[[Tensor], Tensor] = lambda indices: indices,
    ) -> Float[Tensor, "n c y x"]:
        """As many images as came: the new ones, or in place of about half of them old ones, whose places they take.

        First the places are filled, and everything new is shown. `made` is this device's share of the global batch,
        as is the answer; every device must call. No gradient flows; nothing waits for the device.
        """
        everyone = of_all_devices(made.detach().to(self.images.dtype))
        count, capacity = len(everyone), len(self.images)
        generator = batch_generator(seed, step, REPLAY)
        swapped = (torch.rand(count, generator=generator) < SWAPPED).tolist()
        places = torch.randint(max(capacity, 1), (count,), generator=generator).tolist()
        shown = []
        for i, image in enumerate(everyone):
            before = step * count + i  # images that came before this one
            if before < capacity:
                self.images[before] = image
            elif capacity and swapped[i]:
                old = self.images[places[i]].clone()
                self.images[places[i]] = image
                image = old
            shown.append(image)
        return torch.stack([shown[i] for i in share(torch.arange(count)).tolist()])


def of_all_devices(images: Float[Tensor, "n c y x"]) -> Float[Tensor, "m c y x"]:
    """The global batch, of which every process has an equal run (`Stage.share`); one alone has all of it."""
    if not together():
        return images
    parts = [torch.empty_like(images) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, images.contiguous())
    return torch.cat(parts)
