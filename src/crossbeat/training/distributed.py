"""Processes that train one network together: what they exchange, and when.

We average gradients ourselves, in `Stage.descend`, instead of wrapping the stage in
`DistributedDataParallel`. Its reducer expects one forward pass, one backward pass and every parameter in it;
a stage with two optimizers has several of each, reaches a part of the parameters at a time, and takes some
gradients by itself (the ascent of an adversarial style). One flat all-reduce an update is right for all
of them, and exact: every rank then takes the same step with the same numbers. It gives up hiding the
exchange behind the backward pass, which for networks of at most some tens of millions of weights is little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn


def together() -> bool:
    """Whether this process trains with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def wait() -> None:
    """Return when every process has come here."""
    if together():
        dist.barrier()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange.

    A parameter that the loss of some ranks did not reach counts as zero there; one that no rank
    reached keeps no gradient, so that its optimizer leaves it alone as it would on one device. Only a rank
    that misses a gradient has to look at what the others had, and so waits for the device.
    """
    reached = [p.grad is not None for p in parameters]
    pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
    flags = torch.tensor(reached, dtype=pieces[0].dtype).to(pieces[0].device, non_blocking=True)
    flat = torch.cat([*pieces, flags])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    anywhere = reached if all(reached) else [flag > 0 for flag in flat[-len(reached) :].tolist()]
    means = torch.split(flat[: -len(reached)], [p.numel() for p in parameters])
    for parameter, mean, wanted in zip(parameters, means, anywhere, strict=True):
        if not wanted:
            continue
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(mean.view(parameter.shape))


def average(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Means of tensors over the processes, in one exchange; on one device the tensors themselves."""
    if not together():
        return tensors
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    means = torch.split(flat, [tensor.numel() for tensor in tensors])
    return tuple(mean.view(tensor.shape) for mean, tensor in zip(means, tensors, strict=True))


def share_state(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process; BatchNorm statistics and replay buffers differ by rank."""
    if not together():
        return
    for tensor in tensors:
        whole = tensor.detach().contiguous()  # gloo refuses channels_last
        dist.broadcast(whole, src=0)
        tensor.detach().copy_(whole)


def share_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """The first process's numbers, everywhere."""
    if not together():
        return numbers
    box = [numbers]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class SameStepStrategy(DDPStrategy):
    """Lightning's launching, ranks and process groups, without its gradient reducer (see the module)."""

    def configure_ddp(self) -> None:
        """Start all ranks from the weights of the first."""
        assert self.model is not None
        share_state(self.model.state_dict().values())
