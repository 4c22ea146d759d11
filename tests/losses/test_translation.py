"""The losses of CycleGAN, by arithmetic."""

import pytest
import torch

from crossbeat.losses.translation import fooling_loss, image_loss, telling_loss


def test_a_generator_fools_where_scores_are_one() -> None:
    assert fooling_loss(torch.tensor([1.0, 1.0])).item() == 0
    assert fooling_loss(torch.tensor([0.0, 0.5, 3.0])).item() == pytest.approx((1 + 0.25 + 4) / 3)


def test_a_discriminator_tells_where_real_is_one_and_painted_zero() -> None:
    real, fake = torch.tensor([0.8, 1.2]), torch.tensor([0.4])
    assert telling_loss(torch.ones(3), torch.zeros(2)).item() == 0
    assert telling_loss(real, fake).item() == pytest.approx(0.5 * (0.04 + 0.16))
    undecided = torch.full((4,), 0.5)
    assert telling_loss(undecided, undecided).item() == pytest.approx(0.25)


def test_every_patch_counts_alike_and_gradients_pull_towards_what_is_wanted() -> None:
    patches = torch.tensor([[[0.0, 2.0], [1.0, 1.0]]], requires_grad=True)
    loss = fooling_loss(patches)
    assert loss.item() == pytest.approx(0.5)
    loss.backward()
    assert patches.grad is not None
    assert patches.grad.tolist() == [[[-0.5, 0.5], [0.0, 0.0]]]  # 2 (D - 1) / 4


def test_an_image_loss_is_the_mean_absolute_difference_and_moves_ours_only() -> None:
    ours = torch.tensor([0.0, -1.0, 0.5, 1.0]).reshape(1, 1, 2, 2).requires_grad_()
    wanted = torch.tensor([0.0, 1.0, 1.0, 0.0]).reshape(1, 1, 2, 2).requires_grad_()
    loss = image_loss(ours, wanted)
    assert loss.item() == pytest.approx((0 + 2 + 0.5 + 1) / 4)
    loss.backward()
    assert wanted.grad is None
    assert ours.grad is not None
    assert ours.grad.flatten().tolist() == [0.0, -0.25, -0.25, 0.25]


def test_losses_are_of_full_precision_whatever_came() -> None:
    scores = torch.full((300,), 1.01, dtype=torch.bfloat16)
    expected = (float(scores[0]) - 1) ** 2
    assert fooling_loss(scores).item() == pytest.approx(expected, rel=1e-6)
    assert telling_loss(scores, scores).dtype == torch.float32
    image = torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)
    assert image_loss(image, image + 1).dtype == torch.float32
