"""The segmentation loss, by arithmetic, by laws, and beside PyTorch's and MONAI's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossbeat import labels as ground
from crossbeat.losses import segmentation
from crossbeat.losses.segmentation import batch_jaccard_loss, cross_entropy, dice_loss, segmentation_loss

UNKNOWN = segmentation.UNKNOWN


def picture(seed: int, n: int = 3, k: int = 4, y: int = 6, x: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits in double precision, random labels, everything drawn."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, y, x, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, k, (n, y, x), generator=generator, dtype=torch.uint8)
    return logits, labels, torch.ones(n, k, dtype=torch.bool)


def row(*probabilities: tuple[float, ...]) -> Tensor:
    """Logits of one slice of one row, a tuple of class probabilities a voxel."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T[None, :, None, :]


def loss(logits: Tensor, labels: Tensor, drawn: Tensor, weights: Tensor | None = None) -> Tensor:
    return segmentation_loss(
        logits,
        labels,
        drawn,
        cross_entropy_weight=0.9,
        dice_weight=0.1,
        include_background=True,
        smooth=1e-5,
        weights=weights,
    )


def test_unknown_is_the_value_that_the_house_writes() -> None:
    assert UNKNOWN == ground.UNKNOWN


def test_cross_entropy_of_three_voxels_on_paper() -> None:
    logits = row((0.5, 0.25, 0.25), (0.1, 0.7, 0.2), (0.2, 0.2, 0.6))
    labels = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    expected = -(math.log(0.5) + math.log(0.7) + math.log(0.6)) / 3
    assert cross_entropy(logits, labels, torch.ones(1, 3, dtype=torch.bool)).item() == pytest.approx(expected)


def test_dice_of_two_voxels_on_paper() -> None:
    logits = row((0.5, 0.25, 0.25), (0.1, 0.7, 0.2))
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    drawn = torch.ones(1, 3, dtype=torch.bool)
    # class 1: p = 0.25, 0.7, mask = 0, 1; class 2: p = 0.25, 0.2, absent; background: p = 0.5, 0.1
    one = (2 * 0.7 + 0.5) / (0.95 + 1 + 0.5)
    two = 0.5 / (0.45 + 0.5)
    none = (2 * 0.5 + 0.5) / (0.6 + 1 + 0.5)
    without = dice_loss(logits, labels, drawn, include_background=False, smooth=0.5)
    with_background = dice_loss(logits, labels, drawn, include_background=True, smooth=0.5)
    assert without.item() == pytest.approx(1 - (one + two) / 2)
    assert with_background.item() == pytest.approx(1 - (none + one + two) / 3)


def test_undrawn_classes_on_paper() -> None:
    """RV (2) was not drawn: the first voxel is background or RV, 0.5 + 0.25."""
    logits = row((0.5, 0.25, 0.25), (0.1, 0.7, 0.2))
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    drawn = torch.tensor([[True, True, False]])
    assert cross_entropy(logits, labels, drawn).item() == pytest.approx(-(math.log(0.75) + math.log(0.7)) / 2)
    dice = dice_loss(logits, labels, drawn, include_background=False, smooth=0.0)
    assert dice.item() == pytest.approx(1 - 2 * 0.7 / (0.95 + 1))
    dice = dice_loss(logits, labels, drawn, include_background=True, smooth=0.0)
    assert dice.item() == pytest.approx(1 - (2 * 0.7 / 1.95 + 2 * 0.75 / (1.05 + 1)) / 2)


def test_the_sum_is_weighted_by_term_and_by_slice() -> None:
    logits, labels, drawn = picture(0)
    entropy = cross_entropy(logits, labels, drawn)
    dice = dice_loss(logits, labels, drawn, include_background=True, smooth=1e-5)
    weights = torch.tensor([0.9, 0.1, 0.9])  # true, pseudo, true: Chen 2020, eq. 4
    each = (0.9 * entropy + 0.1 * dice).tolist()
    expected = (0.9 * each[0] + 0.1 * each[1] + 0.9 * each[2]) / 1.9
    assert loss(logits, labels, drawn, weights).item() == pytest.approx(expected)
    assert loss(logits, labels, drawn).item() == pytest.approx(sum(each) / 3)


def test_all_known_and_drawn_is_pytorchs_cross_entropy() -> None:
    logits, labels, drawn = picture(1)
    ours = cross_entropy(logits, labels, drawn).mean()
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels.long()))


def test_unknown_voxels_are_pytorchs_ignored_index() -> None:
    logits, labels, drawn = picture(2, n=1)
    labels[:, ::2, 1:] = UNKNOWN
    theirs = F.cross_entropy(logits, labels.long(), ignore_index=UNKNOWN)
    torch.testing.assert_close(cross_entropy(logits, labels, drawn).mean(), theirs)


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_all_known_and_drawn_is_monais_dice(include_background: bool, smooth: float) -> None:
    from monai.losses.dice import DiceLoss

    logits, labels, drawn = picture(3)
    monai = DiceLoss(
        softmax=True,
        to_onehot_y=True,
        include_background=include_background,
        smooth_nr=smooth,
        smooth_dr=smooth,
    )
    ours = dice_loss(logits, labels, drawn, include_background=include_background, smooth=smooth)
    torch.testing.assert_close(ours.mean(), monai(logits, labels[:, None].long()))


@pytest.mark.parametrize("include_background", [True, False])
def test_merging_undrawn_classes_is_relabelling_the_smaller_problem(include_background: bool) -> None:
    """Classes 1 and 3 undrawn: the same as two classes, {0, 1, 3} and {2}, whose probabilities are sums."""
    logits, labels, _ = picture(4)
    drawn = torch.tensor([[False, False, True, False]]).expand(3, 4)
    p = logits.softmax(dim=1)
    smaller = torch.stack([p[:, 0] + p[:, 1] + p[:, 3], p[:, 2]], dim=1).log()
    relabelled = (labels == 2).to(torch.uint8)
    both = torch.ones(3, 2, dtype=torch.bool)
    torch.testing.assert_close(cross_entropy(logits, labels, drawn), cross_entropy(smaller, relabelled, both))
    torch.testing.assert_close(
        dice_loss(logits, labels, drawn, include_background=include_background, smooth=0.3),
        dice_loss(smaller, relabelled, both, include_background=include_background, smooth=0.3),
    )


def test_a_label_of_an_undrawn_structure_is_none_of_these() -> None:
    logits, labels, drawn = picture(5)
    drawn = drawn & torch.tensor([True, True, True, False])
    erased = torch.where(labels == 3, 0, labels)
    torch.testing.assert_close(loss(logits, labels, drawn), loss(logits, erased, drawn), rtol=0, atol=0)


def test_whether_background_counts_as_drawn_makes_no_difference() -> None:
    logits, labels, drawn = picture(6)
    without = drawn.clone()
    without[:, 0] = False
    assert loss(logits, labels, drawn).item() == loss(logits, labels, without).item()


def test_the_dice_of_only_the_known_voxels_is_that_of_the_cropped_slice() -> None:
    logits, labels, drawn = picture(7)
    labels[:, :, 3:] = UNKNOWN
    cropped = (logits[..., :3].contiguous(), labels[..., :3].contiguous(), drawn)
    torch.testing.assert_close(loss(logits, labels, drawn), loss(*cropped))


def test_unknown_voxels_have_exactly_no_gradient() -> None:
    logits, labels, drawn = picture(8)
    labels[0, 1:3, 2:] = UNKNOWN
    labels[2, 5] = UNKNOWN
    logits.requires_grad_()
    loss(logits, labels, drawn).backward()
    unknown = (labels == UNKNOWN)[:, None].expand_as(logits)
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()


def test_undrawn_classes_and_background_share_their_gradient_by_probability() -> None:
    """Where a voxel is none of these, nothing says which of background and RV it is: their ratio must stay."""
    logits = row((0.5, 0.2, 0.3)).requires_grad_()
    labels = torch.zeros(1, 1, 1, dtype=torch.uint8)
    cross_entropy(logits, labels, torch.tensor([[True, True, False]])).sum().backward()
    background, _, rv = logits.grad.flatten().tolist()
    # d(-log(p0 + p2)) / dz = p - (share of p within the sum): 0.5 - 0.5/0.8 and 0.3 - 0.3/0.8
    assert background == pytest.approx(0.5 - 0.5 / 0.8)
    assert rv == pytest.approx(0.3 - 0.3 / 0.8)


@pytest.mark.parametrize("smooth", [0.0, 1e-5])
@pytest.mark.parametrize("case", ["unknown", "undrawn", "unweighted"])
def test_a_batch_without_annotation_gives_zero_and_zero_gradients(case: str, smooth: float) -> None:
    logits, labels, drawn = picture(9)
    weights = torch.zeros(3) if case == "unweighted" else None
    if case == "unknown":
        labels.fill_(UNKNOWN)
    if case != "unweighted":
        drawn = torch.zeros_like(drawn)
    logits.requires_grad_()
    value = segmentation_loss(
        logits,
        labels,
        drawn,
        cross_entropy_weight=1.0,
        dice_weight=1.0,
        include_background=True,
        smooth=smooth,
        weights=weights,
    )
    value.backward()
    assert value.item() == 0.0
    assert (logits.grad == 0).all()


def test_an_unannotated_slice_leaves_the_mean_to_the_others() -> None:
    logits, labels, drawn = picture(10)
    labels[1] = UNKNOWN
    drawn[1] = False
    weights = torch.tensor([0.5, 7.0, 2.0])
    others = [0, 2]
    torch.testing.assert_close(
        loss(logits, labels, drawn, weights),
        loss(logits[others], labels[others], drawn[others], weights[others]),
    )


def test_the_order_of_slices_of_classes_and_of_voxels_is_free() -> None:
    logits, labels, drawn = picture(11)
    drawn[0, 3] = False
    labels[2, 0] = UNKNOWN
    slices, classes = torch.tensor([2, 0, 1]), torch.tensor([0, 3, 1, 2])
    place = torch.zeros(256, dtype=torch.uint8)
    place[classes] = torch.arange(4, dtype=torch.uint8)
    place[UNKNOWN] = UNKNOWN
    torch.testing.assert_close(
        loss(logits, labels, drawn), loss(logits[slices], labels[slices], drawn[slices])
    )
    torch.testing.assert_close(
        loss(logits, labels, drawn), loss(logits[:, classes], place[labels.long()], drawn[:, classes])
    )
    torch.testing.assert_close(loss(logits, labels, drawn), loss(logits.flip(-1), labels.flip(-1), drawn))


def test_each_slice_is_as_if_alone() -> None:
    logits, labels, drawn = picture(12)
    drawn[1, 2] = False
    labels[0, 3:] = UNKNOWN
    together = (
        cross_entropy(logits, labels, drawn),
        dice_loss(logits, labels, drawn, include_background=True, smooth=1e-5),
    )
    for i in range(3):
        alone = logits[i : i + 1], labels[i : i + 1], drawn[i : i + 1]
        torch.testing.assert_close(together[0][i], cross_entropy(*alone)[0])
        torch.testing.assert_close(together[1][i], dice_loss(*alone, include_background=True, smooth=1e-5)[0])


def test_a_perfect_answer_costs_nothing_and_a_wrong_one_the_most() -> None:
    _, labels, drawn = picture(13)
    sure = 60.0 * F.one_hot(labels.long(), 4).permute(0, 3, 1, 2).double()
    assert loss(sure, labels, drawn).item() < 1e-6
    wrong = dice_loss(-sure, labels, drawn, include_background=True, smooth=0.0)
    torch.testing.assert_close(wrong, torch.ones_like(wrong))


@pytest.mark.parametrize("partial", [False, True])
def test_gradients_are_those_of_finite_differences(partial: bool) -> None:
    logits, labels, drawn = picture(14, n=2, y=3, x=2)
    if partial:
        drawn[0, 1:3] = False
        labels[1, 0] = UNKNOWN
    torch.autograd.gradcheck(lambda z: loss(z, labels, drawn), logits.requires_grad_())


def test_half_precision_logits_are_reckoned_in_single_precision() -> None:
    logits, labels, drawn = picture(15, y=64, x=64)
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, labels, drawn)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.float(), labels, drawn), rtol=0, atol=0)


def test_hopeless_logits_stay_finite() -> None:
    logits, labels, drawn = picture(16)
    drawn[0, 2] = False
    extreme = (1e4 * logits).float().requires_grad_()
    value = loss(extreme, labels, drawn)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(extreme.grad).all()


def test_a_label_without_a_meaning_makes_the_loss_nan() -> None:
    logits, labels, drawn = picture(17)
    labels[1, 2, 3] = 4  # scar, in a network of four classes
    assert loss(logits, labels, drawn).isnan()
    assert cross_entropy(logits, labels, drawn).isnan().tolist() == [False, True, False]


def test_another_value_may_mean_unknown() -> None:
    logits, labels, drawn = picture(18)
    ours, theirs = labels.to(torch.int64), labels.to(torch.int64)
    ours[:, 2], theirs[:, 2] = UNKNOWN, -1
    torch.testing.assert_close(
        cross_entropy(logits, ours, drawn), cross_entropy(logits, theirs, drawn, unknown=-1)
    )


def test_nothing_waits_for_the_device() -> None:
    """A meta tensor has no values: whatever would have to read one on the host fails on it."""
    logits = torch.empty(2, 4, 8, 8, device="meta", requires_grad=True)
    labels = torch.empty(2, 8, 8, device="meta", dtype=torch.uint8)
    drawn = torch.empty(2, 4, device="meta", dtype=torch.bool)
    value = loss(logits, labels, drawn, torch.empty(2, device="meta"))
    value.backward()
    assert value.device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError)):
        value.item()


def test_the_jaccard_of_two_voxels_on_paper() -> None:
    """Background 0.5 of 1.1, class 1 0.7 of 1.25, class 2 (absent) 0 of 0.45."""
    logits = row((0.5, 0.25, 0.25), (0.1, 0.7, 0.2))
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    drawn = torch.ones(1, 3, dtype=torch.bool)
    expected = 1 - (0.5 / 1.1 + 0.7 / 1.25 + 0) / 3
    assert batch_jaccard_loss(logits, labels, drawn, smooth=0.0).item() == pytest.approx(expected)
    smoothed = 1 - (1.5 / 2.1 + 1.7 / 2.25 + 1 / 1.45) / 3
    assert batch_jaccard_loss(logits, labels, drawn, smooth=1.0).item() == pytest.approx(smoothed)
    # with class 2 undrawn the first voxel is background with 0.75, the second with 0.3 against 0.7
    merged = batch_jaccard_loss(logits, labels, drawn & torch.tensor([True, True, False]), smooth=0.0)
    assert merged.item() == pytest.approx(1 - (0.75 / 1.3 + 0.7 / 1.25) / 2)


def test_the_jaccard_sums_over_the_batch_before_it_divides() -> None:
    logits, labels, drawn = picture(3)
    p = logits.softmax(dim=1)
    ratios = []
    for k in range(4):
        shared = p[:, k][labels == k].sum()
        ratios.append(shared / (p[:, k].sum() + (labels == k).sum() - shared))
    expected = 1 - torch.stack(ratios).mean()
    torch.testing.assert_close(batch_jaccard_loss(logits, labels, drawn, smooth=0.0), expected)
    tall = logits.movedim(0, 1).flatten(1, 2)[None], labels.flatten(0, 1)[None]  # one slice of all rows
    torch.testing.assert_close(batch_jaccard_loss(*tall, drawn[:1], smooth=0.0), expected)


def test_the_jaccard_weighs_slices_and_leaves_out_what_nobody_annotated() -> None:
    logits, labels, drawn = picture(4)
    alone = batch_jaccard_loss(logits[:1], labels[:1], drawn[:1], smooth=0.0)
    weights = torch.tensor([2.0, 0.0, 0.0])
    torch.testing.assert_close(batch_jaccard_loss(logits, labels, drawn, smooth=0.0, weights=weights), alone)
    labels[1:] = UNKNOWN
    torch.testing.assert_close(batch_jaccard_loss(logits, labels, drawn, smooth=0.0), alone)
    nothing = torch.full_like(labels, UNKNOWN)
    assert batch_jaccard_loss(logits, nothing, drawn, smooth=0.0).item() == 0
    labels[0, 0, 0] = 9
    assert torch.isnan(batch_jaccard_loss(logits, labels, drawn, smooth=0.0))


def test_the_jaccard_of_an_absent_class_teaches_its_absence_only_when_smoothed() -> None:
    labels = torch.zeros(1, 1, 2, dtype=torch.uint8)
    for smooth, taught in ((0.0, False), (1.0, True)):
        logits = row((0.5, 0.25, 0.25), (0.5, 0.25, 0.25)).requires_grad_()
        drawn = torch.tensor([[True, True, True]])
        background = logits.softmax(dim=1)[:, 0].sum() / 2  # its own Jaccard, by hand, with s in both
        loss = batch_jaccard_loss(logits, labels, drawn, smooth=smooth)
        own = (2 * background + smooth) / (2 + smooth)
        (rest,) = torch.autograd.grad(3 * loss + own, logits)
        assert bool(rest.abs().max() > 1e-3) == taught


def test_the_jaccard_of_a_perfect_segmentation_is_complete() -> None:
    _, labels, drawn = picture(5)
    logits = 50 * torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1).double()
    assert batch_jaccard_loss(logits, labels, drawn, smooth=0.0).item() == pytest.approx(0, abs=1e-12)
