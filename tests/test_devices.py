"""The channel of the highest value; and how the C library is asked to keep memory, whatever its version says to it.

How much either helps, no test says.
"""

import numpy as np
import pytest
import torch

from crossbeat import devices


@pytest.mark.parametrize(
    ("largest", "asked"),
    [
        (1 << 40, [(-3, 1 << 30), (-1, 1 << 30)]),
        (1 << 25, [(-3, 1 << 30), (-3, 1 << 25), (-1, 1 << 30)]),
        (0, [(-3, 1 << 30), (-3, 1 << 25)]),
    ],
)
def test_trimming_is_set_only_where_the_threshold_was_taken(
    largest: int, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """mallopt answers 0 where it refuses; the trim alone would make large arrays slower."""
    heard: list[tuple[int, int]] = []

    def mallopt(option: int, value: int) -> int:
        heard.append((option, value))
        return int(option == -1 or value <= largest)

    monkeypatch.setattr(devices, "_of_the_c_library", lambda name: mallopt)
    devices.keep_freed_memory()
    assert heard == asked


def test_without_such_a_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_of_the_c_library", lambda name: None)
    devices.keep_freed_memory()
    devices.give_back_freed_memory()


def test_the_library_has_what_is_asked_of_it() -> None:
    for name in ("mallopt", "malloc_trim"):
        found = devices._of_the_c_library(name)
        assert found is None or callable(found)
    devices.give_back_freed_memory()


def test_the_channel_of_the_highest_value_is_the_first_of_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.randint(4, (5, 4, 7, 6), generator=generator).float()  # many ties
    expected = np.argmax(shares.numpy(), axis=1)
    found = devices.argmax_channels(shares)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), expected)
    assert not devices.argmax_channels(torch.zeros(1, 1, 2, 2)).any()
