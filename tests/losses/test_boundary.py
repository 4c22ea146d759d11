"""The shape-aware loss: distances against scipy, maps and sums on paper, a slow second implementation."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from crossbeat.labels import UNKNOWN
from crossbeat.losses import boundary
from crossbeat.losses.boundary import distance_transform, shape_loss, shape_map, squared_distance_transform
from crossbeat.losses.segmentation import cross_entropy, dice_loss

SPACINGS = [(1.0, 1.0), (1.25, 0.7), (3.0, 1.0)]


def by_scipy(masks: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Of a mask without outside scipy gives nonsense; ours is inf."""
    return np.stack(
        [np.full(m.shape, np.inf) if m.all() else distance_transform_edt(m, sampling=spacing) for m in masks]
    )


def disc(side: int, radius: float, row: float = 0.0) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    middle = (side - 1) / 2
    return (y - middle - row) ** 2 + (x - middle) ** 2 < radius**2


def sure(labels: Tensor, classes: int, sharpness: float = 4.0) -> Tensor:
    one_hot = torch.nn.functional.one_hot(labels.long(), classes).movedim(-1, 1)
    return sharpness * one_hot.float()


# --- distances ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97, 0.999])
def test_distances_are_scipys_on_random_masks(spacing: tuple[float, float], share: float) -> None:
    masks = np.random.default_rng(0).random((5, 23, 31)) < share
    masks[0] = True
    masks[1] = False
    found = distance_transform(torch.from_numpy(masks), spacing)
    np.testing.assert_allclose(found.numpy(), by_scipy(masks, spacing), rtol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_are_scipys_on_shapes_at_a_border_and_across_it(spacing: tuple[float, float]) -> None:
    masks = np.stack([disc(40, 13, row).numpy() for row in (-14.0, 0.0, 26.0)])
    masks[1, :, 17:25] = True  # columns without any outside
    masks[2, 3:9] = True  # rows without any
    found = distance_transform(torch.from_numpy(masks), spacing)
    np.testing.assert_allclose(found.numpy(), by_scipy(masks, spacing), rtol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_are_scipys_on_a_small_shape_in_a_large_image(spacing: tuple[float, float]) -> None:
    masks = np.stack([disc(60, radius, -9.0).numpy() for radius in (2.0, 7.0)])
    found = distance_transform(torch.from_numpy(masks), spacing)
    np.testing.assert_allclose(found.numpy(), by_scipy(masks, spacing), rtol=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_way_of_other_devices_gives_the_same(
    spacing: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows at a time, not a whole number of times."""
    masks = np.random.default_rng(1).random((4, 17, 21)) < 0.9
    masks[0] = True
    monkeypatch.setattr(boundary, "AT_ONCE", 5 * masks.size)
    along = boundary._along_rows(torch.from_numpy(masks), spacing[1]).square()
    found = boundary._down_all_rows(along, spacing[0])
    np.testing.assert_allclose(found.sqrt().numpy(), by_scipy(masks, spacing), rtol=1e-6)


def test_squares_of_whole_pixels_are_whole() -> None:
    masks = torch.from_numpy(np.random.default_rng(2).random((3, 60, 70)) < 0.99)
    found = squared_distance_transform(masks)
    assert torch.equal(found, found.round())
    assert found.amax() > 25


def test_no_slice_no_mask_and_no_outside() -> None:
    assert distance_transform(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4, 5)
    assert not distance_transform(torch.zeros(2, 4, 5, dtype=torch.bool)).any()
    assert distance_transform(torch.ones(2, 4, 5, dtype=torch.bool)).isinf().all()


def test_another_device_is_not_waited_for() -> None:
    """meta tensors have no values: whatever looked at one would fail."""
    with torch.device("meta"):
        logits = torch.zeros(2, 4, 16, 16, requires_grad=True)
        labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
        loss = shape_loss(logits, labels, torch.ones(2, 4, dtype=torch.bool))
        loss.backward()
    assert logits.grad is not None
    assert logits.grad.is_meta


# --- the shape map -----------------------------------------------------------------------------------


def test_a_wall_of_five_rows_on_paper() -> None:
    """Rows of 2 mm: depths 2, 4, 6, 4, 2 mm, so φ = 1/3, 2/3, 1; SI = 1 / (1 + exp(-(1 - φ) / 0.2))."""
    mask = torch.zeros(1, 1, 9, 6, dtype=torch.bool)
    mask[:, :, 2:7] = True
    found = shape_map(mask, spacing=(2.0, 1.0))[0, 0]
    rim, between = 1 / (1 + math.exp(-10 / 3)), 1 / (1 + math.exp(-5 / 3))
    expected = [0, 0, rim, between, 0.5, between, rim, 0, 0]
    for column in range(6):
        assert found[:, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_it_is_a_half_in_the_deepest_place_and_nears_0_9933_at_the_rim() -> None:
    mask = disc(401, 199.5)[None, None]
    found = shape_map(mask)[0, 0]
    assert found[200, 200].item() == 0.5
    assert found[mask[0, 0]].amin().item() == 0.5
    assert found[200, 1].item() == pytest.approx(0.9933, abs=3e-4)
    assert found.amax().item() < 1 / (1 + math.exp(-5))
    assert not found[~mask[0, 0]].any()


def test_only_the_ratio_of_spacings_counts() -> None:
    mask = disc(40, 12)[None, None]
    torch.testing.assert_close(shape_map(mask, spacing=(3.0, 1.5)), shape_map(mask, spacing=(2.0, 1.0)))
    assert not torch.allclose(shape_map(mask, spacing=(2.0, 1.0)), shape_map(mask))


def test_each_structure_has_its_own_depth() -> None:
    masks = torch.stack([disc(40, 12), disc(40, 5)])[None]
    together = shape_map(masks)
    for k in range(2):
        assert torch.equal(together[:, k : k + 1], shape_map(masks[:, k : k + 1]))
    assert together[0, 1, 20, 20] == 0.5


def test_a_mask_that_fills_the_image_is_equally_deep_and_an_empty_one_has_no_map() -> None:
    assert (shape_map(torch.ones(1, 1, 5, 5, dtype=torch.bool)) == 0.5).all()
    assert not shape_map(torch.zeros(1, 1, 5, 5, dtype=torch.bool)).any()


def test_where_nobody_looked_is_no_rim() -> None:
    """Rows 5 to 8 of a wall of rows 2 to 4 are unknown: depths 1, 2, 3, not 1, 2, 1."""
    mask = torch.zeros(1, 1, 9, 6, dtype=torch.bool)
    mask[:, :, 2:5] = True
    known = torch.ones(1, 9, 6, dtype=torch.bool)
    known[:, 5:] = False
    found = shape_map(mask, known)[0, 0, :, 0].tolist()
    expected = [1 / (1 + math.exp(-(1 - depth / 3) / 0.2)) for depth in (1, 2, 3)]
    assert found == pytest.approx([0, 0, *expected, 0, 0, 0, 0])


# --- the loss ----------------------------------------------------------------------------------------


def slow(
    logits: Tensor, labels: Tensor, drawn: Tensor, denominator: str, spacing: tuple[float, float]
) -> float:
    """Equations 1 to 3, a pixel at a time."""
    slices = []
    for scores, truth, told in zip(logits.double().numpy(), labels.numpy(), drawn.tolist(), strict=True):
        structures = [k for k in range(1, len(told)) if told[k]]
        p = np.exp(scores) / np.exp(scores).sum(axis=0)
        losses = []
        for k in structures:
            outside = [at for at, value in np.ndenumerate(truth) if value not in (k, UNKNOWN)]
            inside = [at for at, value in np.ndenumerate(truth) if value == k]
            depth = {
                at: min(math.hypot(spacing[0] * (at[0] - o[0]), spacing[1] * (at[1] - o[1])) for o in outside)
                for at in inside
            }
            wrong = 0.0
            for at, value in np.ndenumerate(truth):
                wanted = 0.0
                if value == k:
                    wanted = 1 / (1 + math.exp(-(1 - depth[at] / max(depth.values())) / 0.2))
                if value != UNKNOWN:
                    wrong += abs(p[(k, *at)] - wanted)
            size = len(inside) if denominator == "reference" else p[k][truth != UNKNOWN].sum()
            losses.append(wrong / size if inside else 0.0)
        if structures and (truth != UNKNOWN).any():
            slices.append(sum(losses) / len(structures))
    return float(np.mean(slices))


def patient(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A whole heart, one whose RV nobody drew, one with unknown columns and no RV, and one that nobody looked at."""
    generator = torch.Generator().manual_seed(seed)
    side = 20
    labels = torch.zeros(4, side, side, dtype=torch.uint8)
    for i in range(4):
        labels[i][disc(side, 8, i - 1.0)] = 2
        labels[i][disc(side, 4.5, i - 1.0)] = 1
    labels[:2, 2:7, :3] = 3
    labels[2, :, 13:] = UNKNOWN
    labels[3] = UNKNOWN
    drawn = torch.ones(4, 4, dtype=torch.bool)
    drawn[1, 3] = False
    drawn[3] = False
    return torch.randn(4, 4, side, side, generator=generator), labels, drawn


@pytest.mark.parametrize("denominator", ["reference", "predicted"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 1.3)])
def test_it_agrees_with_the_equations_a_pixel_at_a_time(
    denominator: boundary.Denominator, spacing: tuple[float, float]
) -> None:
    logits, labels, drawn = patient()
    found = shape_loss(logits, labels, drawn, denominator=denominator, spacing=spacing)
    assert found.item() == pytest.approx(slow(logits, labels, drawn, denominator, spacing), rel=1e-5)


def test_three_pixels_on_paper() -> None:
    """One pixel of structure 1 (SI 0.5) of three; p = 0.9, 0.2, 0.1: (0.4 + 0.2 + 0.1) / 1, or over 1.2."""
    p = torch.tensor([0.9, 0.2, 0.1])
    logits = torch.stack([(1 - p).log(), p.log()])[None, :, None, :]
    labels = torch.tensor([[[1, 0, 0]]], dtype=torch.uint8)
    drawn = torch.ones(1, 2, dtype=torch.bool)
    assert shape_loss(logits, labels, drawn).item() == pytest.approx(0.7)
    assert shape_loss(logits, labels, drawn, denominator="predicted").item() == pytest.approx(0.7 / 1.2)


def test_it_is_least_where_probabilities_are_the_shape_map() -> None:
    labels = disc(32, 10).to(torch.uint8)[None]
    drawn = torch.ones(1, 2, dtype=torch.bool)
    wanted = shape_map((labels == 1)[:, None])[:, 0]
    best = torch.stack([(1 - wanted).log(), wanted.clamp_min(1e-12).log()], dim=1)
    assert shape_loss(best, labels, drawn).item() == pytest.approx(0, abs=1e-5)
    for change in (0.1, -0.1):
        moved = best.clone()
        moved[:, 1, 10:20] += change
        assert shape_loss(moved, labels, drawn).item() > 1e-3


def test_it_is_in_conflict_with_dice_and_cross_entropy() -> None:
    """What it likes best, they do not, and the other way round: why γ must stay small."""
    labels = disc(32, 10).to(torch.uint8)[None]
    drawn = torch.ones(1, 2, dtype=torch.bool)
    wanted = shape_map((labels == 1)[:, None])[:, 0]
    best = torch.stack([(1 - wanted).log(), wanted.clamp_min(1e-12).log()], dim=1)
    mask = sure(labels, 2, 12.0)
    assert shape_loss(mask, labels, drawn) > shape_loss(best, labels, drawn) + 0.05
    assert cross_entropy(mask, labels, drawn) < cross_entropy(best, labels, drawn) - 0.02
    kinds = {"include_background": False, "smooth": 0.0}
    assert dice_loss(mask, labels, drawn, **kinds) < dice_loss(best, labels, drawn, **kinds) - 0.03  # type: ignore[arg-type]


def test_a_structure_that_nobody_drew_or_that_is_not_there_is_asked_for_nothing() -> None:
    logits, labels, drawn = patient()
    for i, k in ((1, 3), (2, 3)):  # undrawn; drawn and absent
        one = slice(i, i + 1)
        own = shape_loss(logits[one], labels[one], drawn[one])
        without = drawn[one].clone()
        without[:, k] = False
        alone = shape_loss(logits[one], labels[one], without)
        share = without[:, 1:].sum() / drawn[one, 1:].sum()
        torch.testing.assert_close(own, alone * share)


def test_labels_of_a_structure_that_nobody_drew_are_none_of_the_others() -> None:
    logits, labels, drawn = patient()
    drawn[:, 3] = False
    others = torch.where(labels == 3, 0, labels).to(torch.uint8)
    assert torch.equal(shape_loss(logits, labels, drawn), shape_loss(logits, others, drawn))


def test_slices_are_weighed_and_those_that_nobody_looked_at_left_out() -> None:
    logits, labels, drawn = patient()
    each = [shape_loss(logits[i : i + 1], labels[i : i + 1], drawn[i : i + 1]).item() for i in range(4)]
    assert each[3] == 0
    assert shape_loss(logits, labels, drawn).item() == pytest.approx(sum(each) / 3)
    weights = torch.tensor([2.0, 0.0, 1.0, 5.0])
    found = shape_loss(logits, labels, drawn, weights=weights).item()
    assert found == pytest.approx((2 * each[0] + each[2]) / 3)


def test_without_annotation_it_is_zero_and_a_strange_label_makes_it_nan() -> None:
    logits, labels, drawn = patient()
    logits.requires_grad_()
    nothing = shape_loss(logits, torch.full_like(labels, UNKNOWN), drawn)
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    labels[0, 0, 0] = 9
    assert shape_loss(logits, labels, drawn).isnan()


def test_an_empty_prediction_is_bounded_by_the_reference_and_not_by_the_prediction() -> None:
    labels = disc(32, 10).to(torch.uint8)[None]
    drawn = torch.ones(1, 2, dtype=torch.bool)
    nothing = sure(torch.zeros_like(labels), 2, 30.0)
    assert shape_loss(nothing, labels, drawn).item() < 1
    assert shape_loss(nothing, labels, drawn, denominator="predicted").item() > 1e5


@pytest.mark.slow
@pytest.mark.parametrize("denominator", ["reference", "predicted"])
def test_its_gradient_is_that_of_its_value(denominator: boundary.Denominator) -> None:
    logits, labels, drawn = patient(3)
    logits, labels, drawn = logits[1:3, :, ::4, ::4].double(), labels[1:3, ::4, ::4], drawn[1:3]
    assert torch.autograd.gradcheck(
        lambda scores: shape_loss(scores, labels, drawn, denominator=denominator),
        (logits.requires_grad_(),),
        atol=1e-6,
    )


def test_it_is_of_full_precision_whatever_the_logits_are() -> None:
    logits, labels, drawn = patient()
    half = logits.bfloat16()
    assert torch.equal(shape_loss(half, labels, drawn), shape_loss(half.float(), labels, drawn))
