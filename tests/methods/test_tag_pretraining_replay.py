"""The replay of painted images: what is shown, what is kept, and that any number of devices sees the same."""

import pytest
import torch
from torch import Tensor

from crossbeat.methods.tag_pretraining.replay import Replay

SHAPE = (1, 2, 3)


def numbered(step: int, count: int = 1) -> Tensor:
    """Images of that step, each filled with its number."""
    numbers = torch.arange(step * count, (step + 1) * count, dtype=torch.float32) + 1
    return numbers[:, None, None, None].expand(count, *SHAPE)


def show(replay: Replay, steps: range, count: int = 1, seed: int = 0) -> list[float]:
    """Numbers of the images shown in those steps, each image checked to be whole."""
    shown = []
    for step in steps:
        images = replay.exchange(numbered(step, count), seed=seed, step=step)
        assert images.shape == (count, *SHAPE)
        assert (images == images[:, :1, :1, :1]).all()
        shown += images[:, 0, 0, 0].tolist()
    return shown


def test_it_fills_first_and_shows_what_is_new() -> None:
    replay = Replay(6, SHAPE)
    assert show(replay, range(3), count=2) == [1, 2, 3, 4, 5, 6]
    assert replay.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_then_half_of_what_it_shows_is_old_and_leaves_its_place_to_the_new() -> None:
    replay = Replay(50, SHAPE)
    shown = show(replay, range(1050))
    new = [number == place + 1 for place, number in enumerate(shown)]
    assert all(new[:50])
    assert sum(new[50:]) == pytest.approx(500, abs=60)  # 1000 coins: 4 SD
    swapped = {number for number, fresh in zip(shown, new, strict=True) if not fresh}
    left = set(replay.images[:, 0, 0, 0].tolist())
    entered = {*range(1, 51), *(place + 1 for place, fresh in enumerate(new) if not fresh)}
    assert swapped | left == entered
    assert not swapped & left


def test_every_place_is_used() -> None:
    replay = Replay(8, SHAPE)
    show(replay, range(400))
    assert replay.images.amin() > 8


def test_it_goes_on_from_its_state_to_the_bit() -> None:
    whole, first, second = (Replay(5, SHAPE) for _ in range(3))
    expected = show(whole, range(40), count=2)
    shown = show(first, range(17), count=2)
    second.load_state_dict(first.state_dict())
    assert shown + show(second, range(17, 40), count=2) == expected
    assert torch.equal(second.images, whole.images)


def test_it_depends_on_the_seed() -> None:
    assert show(Replay(5, SHAPE), range(40)) != show(Replay(5, SHAPE), range(40), seed=1)


def test_without_a_place_everything_is_shown_as_it_comes() -> None:
    replay = Replay(0, SHAPE)
    assert show(replay, range(10), count=2) == list(range(1, 21))
    assert not replay.state_dict()["images"].numel()


def test_no_gradient_flows_and_precision_is_full() -> None:
    made = torch.ones(2, *SHAPE, dtype=torch.bfloat16, requires_grad=True)
    shown = Replay(1, SHAPE).exchange(made, seed=0, step=0)
    assert not shown.requires_grad
    assert shown.dtype == torch.float32


def test_devices_see_their_shares_of_what_one_would_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is given its half and, by the exchange between them, the other's."""
    alone = Replay(3, SHAPE)
    expected = [alone.exchange(numbered(step, 4), seed=0, step=step) for step in range(12)]
    for rank in (0, 1):
        replay = Replay(3, SHAPE)
        for step in range(12):
            whole = numbered(step, 4)
            monkeypatch.setattr(
                "crossbeat.methods.tag_pretraining.replay.of_all_devices", lambda images, w=whole: w
            )
            half = slice(2 * rank, 2 * rank + 2)
            shown = replay.exchange(whole[half], seed=0, step=step, share=lambda t, h=half: t[h])
            assert torch.equal(shown, expected[step][half])
        assert torch.equal(replay.images, alone.images)
