"""The adversarial losses, by arithmetic: Eq. 2 to 6 of Chen 2020 with their errors mended."""

import math

import pytest
import torch
from torch import Tensor

from crossbeat import labels as ground
from crossbeat.losses.adversarial import adversarial_loss, discriminator_loss, drawn_mask, transfer_weights
from crossbeat.losses.segmentation import cross_entropy, dice_loss, flat_dice_loss, segmentation_loss


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([logit(p) for p in probabilities])


def batch(seed: int = 0, n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, 4, 6, 5, generator=generator)
    labels = torch.randint(0, 4, (n, 6, 5), generator=generator, dtype=torch.uint8)
    return scores, labels, torch.ones(n, 4, dtype=torch.bool)


def test_a_true_mask_weighs_lambda_and_a_pseudo_mask_the_rest() -> None:
    weights = transfer_weights(torch.tensor([True, False, True]), 0.9)
    assert weights.tolist() == pytest.approx([0.9, 0.1, 0.9])


def test_equation_4_in_a_mixed_batch_is_the_weighted_mean_of_the_samples() -> None:
    """Two true and two pseudo slices: (λ l1 + λ l2 + (1-λ) l3 + (1-λ) l4) / 2, l = β CE + (1-β) (1 - Dice)."""
    scores, labels, drawn = batch()
    entropy = cross_entropy(scores, labels, drawn).tolist()
    dice = dice_loss(scores, labels, drawn, include_background=False, smooth=1e-5).tolist()
    each = [0.9 * e + 0.1 * d for e, d in zip(entropy, dice, strict=True)]
    found = segmentation_loss(
        scores,
        labels,
        drawn,
        cross_entropy_weight=0.9,
        dice_weight=0.1,
        include_background=False,
        smooth=1e-5,
        weights=transfer_weights(torch.tensor([True, True, False, False]), 0.8),
    )
    expected = (0.8 * (each[0] + each[1]) + 0.2 * (each[2] + each[3])) / 2
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_discriminator_that_cannot_tell_loses_two_logarithms_of_two() -> None:
    even = torch.zeros(3)
    loss = discriminator_loss(even, even, real_weights=torch.ones(3), fake_weights=torch.ones(3))
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_the_discriminators_loss_on_paper() -> None:
    """Real pairs with D = 0.8 and 0.6 of weight 0.9 and 0.1, a fake one with D = 0.3."""
    loss = discriminator_loss(
        logits(0.8, 0.6),
        logits(0.3),
        real_weights=torch.tensor([0.9, 0.1]),
        fake_weights=torch.tensor([0.9]),
    )
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.8) + 0.1 * math.log(0.6)) - math.log(0.7))


def test_equation_5_falls_as_the_discriminator_gets_better() -> None:
    """It is minimised: the printed sum without a minus would rise."""
    losses = [
        discriminator_loss(
            logits(p), logits(1 - p), real_weights=torch.ones(1), fake_weights=torch.ones(1)
        ).item()
        for p in (0.5, 0.7, 0.9)
    ]
    assert losses[0] > losses[1] > losses[2] > 0


def test_a_smoothed_label_is_met_where_the_discriminator_says_just_that() -> None:
    def loss(p: float) -> float:
        none = torch.zeros(0)
        return discriminator_loss(
            logits(p), none, real_weights=torch.ones(1), fake_weights=none, real_label=0.9
        ).item()

    assert loss(0.9) == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))
    assert loss(0.9) < min(loss(0.88), loss(0.92))


def test_smoothing_is_one_sided() -> None:
    none = torch.zeros(0)
    loss = discriminator_loss(
        none, logits(0.3), real_weights=none, fake_weights=torch.ones(1), real_label=0.9
    )
    assert loss.item() == pytest.approx(-math.log(0.7))


def test_an_excluded_pair_has_no_say_and_no_gradient() -> None:
    real = logits(0.8, 0.1).requires_grad_()
    weights = torch.tensor([0.9, 0.0])
    loss = discriminator_loss(real, logits(0.5), real_weights=weights, fake_weights=torch.ones(1))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.8) + math.log(2))
    assert real.grad is not None
    assert real.grad[1] == 0


def test_without_any_real_pair_only_the_fake_ones_count() -> None:
    loss = discriminator_loss(
        logits(0.2), logits(0.5), real_weights=torch.zeros(1), fake_weights=torch.ones(1)
    )
    assert loss.item() == pytest.approx(math.log(2))


def test_the_adversarial_term_is_the_mean_surprise_and_does_not_saturate() -> None:
    assert adversarial_loss(logits(0.5, 0.25)).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    sure = torch.tensor([-8.0], requires_grad=True)  # D is sure that it is made up
    adversarial_loss(sure).backward()
    assert sure.grad is not None
    assert sure.grad.item() == pytest.approx(-1, abs=1e-3)  # of log(1 - D) it would be -0.0003


def test_a_drawn_mask_is_one_hot_and_borrows_where_nobody_looked() -> None:
    labels = torch.tensor([[[0, 2, 255]]], dtype=torch.uint8)
    predicted = torch.tensor([0.1, 0.2, 0.7]).reshape(1, 3, 1, 1).expand(1, 3, 1, 3).clone().requires_grad_()
    mask = drawn_mask(labels, predicted, ground.UNKNOWN)
    assert mask[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1], pytest.approx([0.1, 0.2, 0.7])]
    assert not mask.requires_grad


def test_the_flat_dice_of_two_voxels_on_paper() -> None:
    """One numerator, one denominator: (2 (0.5 + 0.7) + 1) / (2 + 2 + 1), over every class and voxel."""
    scores = torch.tensor([(0.5, 0.25, 0.25), (0.1, 0.7, 0.2)]).log().T[None, :, None, :]
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    drawn = torch.ones(1, 3, dtype=torch.bool)
    assert flat_dice_loss(scores, labels, drawn, smooth=1.0).item() == pytest.approx(1 - 3.4 / 5)
    # with class 2 undrawn the first voxel is background or that class, 0.75, the second 0.3 against 0.7
    merged = flat_dice_loss(scores, labels, drawn & torch.tensor([True, True, False]), smooth=1.0)
    assert merged.item() == pytest.approx(1 - (2 * (0.75 + 0.7) + 1) / 5)


def test_the_flat_dice_weighs_slices_and_leaves_out_what_nobody_annotated() -> None:
    scores, labels, drawn = batch(1)
    alone = flat_dice_loss(scores[:1], labels[:1], drawn[:1], smooth=0.0)
    weights = torch.tensor([2.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(flat_dice_loss(scores, labels, drawn, smooth=0.0, weights=weights), alone)
    labels[1:] = ground.UNKNOWN
    torch.testing.assert_close(flat_dice_loss(scores, labels, drawn, smooth=0.0), alone)
    nothing = torch.full_like(labels, ground.UNKNOWN)
    assert flat_dice_loss(scores, nothing, drawn, smooth=0.0).item() == 0
    labels[0, 0, 0] = 9
    assert torch.isnan(flat_dice_loss(scores, labels, drawn, smooth=0.0))


def test_class_weights_multiply_the_cross_entropy_of_their_label_only() -> None:
    scores = torch.tensor([(0.5, 0.25, 0.25), (0.1, 0.7, 0.2)]).log().T[None, :, None, :]
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    found = segmentation_loss(
        scores,
        labels,
        torch.ones(1, 3, dtype=torch.bool),
        cross_entropy_weight=1.0,
        dice_weight=0.0,
        include_background=False,
        smooth=1.0,
        class_weights=torch.tensor([0.5, 5.0, 3.0]),
    )
    assert found.item() == pytest.approx(-(0.5 * math.log(0.5) + 5 * math.log(0.7)) / 2)
