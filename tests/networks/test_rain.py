"""RAIN: statistics and AdaIN by arithmetic, codes by their distribution, and where gradients may go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.losses.style import content_loss, kl_divergence, reconstruction_loss, style_loss
from crossbeat.networks.rain import Rain, Style, StyleCode, adain, style_of
from crossbeat.networks.vgg import Vgg


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def rain(**arguments: Any) -> Rain:
    torch.manual_seed(0)
    return Rain(**arguments)


def features(n: int = 2, y: int = 4, x: int = 3, seed: int = 0, channels: int = 512) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, y, x, generator=generator).clamp_min(0)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grey(n: int, seed: int) -> Tensor:
    control = torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(control, (32, 32), mode="bilinear", align_corners=True)


def test_it_has_the_parameters_that_were_counted() -> None:
    network = rain(out_channels=3)
    assert parameters(network.style_encoder) == 3_148_800  # 3 (1024² + 1024)
    assert parameters(network.style_decoder) == 2_624_512  # 512 · 1024 + 1024 + 2 (1024² + 1024)
    assert parameters(network.decoder) == 3_505_219
    assert parameters(rain().decoder) == 3_504_065


def test_the_style_of_two_channels_on_paper() -> None:
    """1, 3, 5, 7: mean 4, unbiased variance (9 + 1 + 1 + 9) / 3; the flat channel has only the added 1e-5."""
    style = style_of(torch.tensor([[[[1.0, 3], [5, 7]], [[2, 2], [2, 2]]]]))
    assert style.mean.tolist() == [[4, 2]]
    assert style.deviation[0].tolist() == pytest.approx([(20 / 3 + 1e-5) ** 0.5, 1e-5**0.5])
    assert style.vector()[0].tolist() == [4, 2, *style.deviation[0].tolist()]


def test_a_single_place_has_no_style() -> None:
    with pytest.raises(SettingsError, match=r"at least 2 places, got features of shape \(1, 8, 1, 1\); give"):
        style_of(torch.zeros(1, 8, 1, 1))


def test_adain_of_two_places_on_paper() -> None:
    """1 and 3 have mean 2 and deviation √2: one deviation of √8 below and above 10 they are 8 and 12."""
    content = torch.tensor([[[[1.0, 3.0]]]])
    found = adain(content, torch.tensor([[10.0]]), torch.tensor([[8**0.5]]))
    assert found.flatten().tolist() == pytest.approx([8, 12], rel=1e-5)


def test_after_adain_the_statistics_are_the_asked_ones() -> None:
    content, asked = features(3, 5, 4), style_of(features(3, 6, 7, seed=1))
    found = style_of(adain(content, *asked))
    torch.testing.assert_close(found.mean, asked.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.deviation, asked.deviation, rtol=1e-3, atol=1e-4)


def test_adain_with_its_own_style_changes_nothing() -> None:
    content = features()
    torch.testing.assert_close(adain(content, *style_of(content)), content)


def test_one_style_serves_a_whole_batch() -> None:
    content, style = features(3), style_of(features(1, seed=1))
    alone = [adain(content[i : i + 1], *style) for i in range(3)]
    torch.testing.assert_close(adain(content, *style), torch.cat(alone))


def test_a_channel_without_contrast_takes_the_mean_and_stays_flat() -> None:
    flat = torch.full((1, 1, 3, 3), 0.7, requires_grad=True)
    found = adain(flat, torch.tensor([[5.0]]), torch.tensor([[2.0]]))
    torch.testing.assert_close(found, torch.full_like(flat, 5.0), rtol=1e-4, atol=0)
    found.square().sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_statistics_are_taken_in_single_precision() -> None:
    content = 100 + features(channels=8)
    found = adain(content.half(), torch.zeros(1, 8), torch.ones(1, 8))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, adain(content.half().float(), torch.zeros(1, 8), torch.ones(1, 8)))


def test_the_sound_code_has_positive_spreads() -> None:
    code = rain().encode(style_of(features(4)))
    assert code.log_variance is not None
    assert code.spread.min() > 0
    torch.testing.assert_close(code.spread.square().log(), code.log_variance, rtol=1e-4, atol=1e-5)


def test_the_published_code_takes_what_the_network_says_as_spread() -> None:
    style = style_of(features(4))
    sound, published = rain().encode(style), rain(spread="direct").encode(style)
    assert published.log_variance is None
    assert sound.log_variance is not None
    assert published.spread.min() < 0
    assert torch.equal(published.spread, sound.log_variance)  # of the same weights
    assert torch.equal(published.centre, sound.centre)


def test_a_sound_deviation_is_positive_and_a_published_one_need_not_be() -> None:
    epsilon = normal(4, 512)
    sound, published = rain().decode(epsilon), rain(deviation="free").decode(epsilon)
    assert sound.deviation.min() > 0
    assert published.deviation.min() < 0
    torch.testing.assert_close(sound.deviation, F.softplus(published.deviation))
    assert torch.equal(sound.mean, published.mean)


def test_codes_at_normal_numbers_have_their_distribution() -> None:
    code = StyleCode(
        torch.tensor([[3.0, -1.0]]).expand(4000, 2), torch.tensor([[0.5, -2.0]]).expand(4000, 2), None
    )
    drawn = code.at(normal(4000, 2, seed=7))
    torch.testing.assert_close(drawn.mean(dim=0), torch.tensor([3.0, -1.0]), rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.std(dim=0), torch.tensor([0.5, 2.0]), rtol=0.05, atol=0)


def test_a_code_without_noise_is_its_centre() -> None:
    code = rain().encode(style_of(features()))
    assert torch.equal(code.at(torch.zeros(1, 512)), code.centre)


def test_stylising_is_adain_with_the_decoded_style_and_the_decoder() -> None:
    network, content, epsilon = rain().requires_grad_(False), features(2, 3, 6), normal(2, 512)
    style = network.decode(epsilon)
    moments = style_of(content)
    t = (content - moments.mean[..., None, None]) / moments.deviation[..., None, None]
    t = t * style.deviation[..., None, None] + style.mean[..., None, None]
    found = network.stylise(content, epsilon, (21, 43))
    assert found.shape == (2, 1, 21, 43)
    torch.testing.assert_close(found, network.decoder(t, (21, 43)), rtol=1e-3, atol=1e-4)


def test_one_code_for_the_batch_is_the_same_code_for_each() -> None:
    network, content, epsilon = rain().requires_grad_(False), features(3), normal(1, 512)
    shared = network.stylise(content, epsilon)
    torch.testing.assert_close(shared, network.stylise(content, epsilon.expand(3, 512)))
    own = network.stylise(content, normal(3, 512))
    for i in range(3):
        alone = network.stylise(content[i : i + 1], normal(3, 512)[i : i + 1])
        torch.testing.assert_close(own[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_code_that_is_searched() -> None:
    network = rain().requires_grad_(False)
    epsilon = normal(1, 512).requires_grad_()
    (gradient,) = torch.autograd.grad(network.stylise(features(), epsilon).square().mean(), epsilon)
    assert gradient.abs().max() > 0


def test_a_pass_of_training_agrees_with_its_parts() -> None:
    network, content, style, noise = rain(), features(3), features(1, 5, 4, seed=1), normal(3, 512)
    found = network(content, style, noise, (30, 24))
    code = network.encode(style_of(style))
    torch.testing.assert_close(found.epsilon, code.at(noise))
    torch.testing.assert_close(found.images, network.stylise(content, code.at(noise), (30, 24)))
    torch.testing.assert_close(found.target, adain(content, *network.decode(code.at(noise))))
    torch.testing.assert_close(found.measured.vector(), style_of(style).vector())


def test_what_the_images_should_be_carries_no_gradient() -> None:
    found = rain()(features(), features(seed=1), normal(2, 512), joint=True)
    assert found.images.requires_grad
    assert not found.target.requires_grad


def test_a_style_keeps_its_precision_under_autocast() -> None:
    network, style, epsilon = rain().requires_grad_(False), style_of(features()), normal(2, 512)
    code, decoded = network.encode(style), network.decode(epsilon)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.encode(style).spread, code.spread)
        assert torch.equal(network.decode(epsilon).vector(), decoded.vector())
        images = network.stylise(features(), epsilon)
    torch.testing.assert_close(
        images.float(), network.stylise(features(), epsilon), rtol=0.1, atol=0.1 * images.std().item()
    )


def moved(network: Rain) -> set[str]:
    """The parts that a gradient reached."""
    parts = network.named_children()
    return {
        name for name, part in parts if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }


@pytest.mark.parametrize(
    ("joint", "reached"), [(False, {"decoder"}), (True, {"decoder", "style_encoder", "style_decoder"})]
)
def test_the_images_loss_reaches_the_autoencoder_only_where_all_are_trained_jointly(
    joint: bool, reached: set[str]
) -> None:
    network = rain()
    found = network(features(), features(seed=1), normal(2, 512), joint=joint)
    (found.images.square().mean() + content_loss(found.target, features())).backward()
    assert moved(network) == reached


def test_the_autoencoders_loss_reaches_the_autoencoder_alone() -> None:
    network, style = rain(), features(seed=1).requires_grad_()
    found = network(features(), style, normal(2, 512))
    assert found.code.log_variance is not None
    loss = kl_divergence(found.code.centre, found.code.log_variance)
    (loss + reconstruction_loss(found.decoded.vector(), found.measured.vector())).backward()
    assert moved(network) == {"style_encoder", "style_decoder"}
    assert style.grad is None


def test_one_backward_of_the_sum_gives_each_part_its_own_gradient() -> None:
    """What the released code does with two passes and frozen parts (methods.md 3.2)."""
    both, apart = rain(), rain()
    for network, joined in ((both, True), (apart, False)):
        found = network(features(), features(seed=1), normal(2, 512))
        images = found.images.square().mean()
        style = reconstruction_loss(found.decoded.vector(), found.measured.vector())
        if joined:
            (images + style).backward()
        else:
            style.backward(retain_graph=True)
            images.backward(inputs=list(network.decoder.parameters()))
    for ours, theirs in zip(both.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"spread": "direct", "deviation": "free"}])
def test_a_few_steps_bring_the_images_nearer_to_their_style(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder, network = Vgg().requires_grad_(False), rain(**arguments)
    content, style = encoder(grey(2, 0)), encoder(0.3 * grey(2, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for step in range(15):
        found = network(content.relu4_1, style.relu4_1, normal(2, 512, seed=step))
        seen = encoder(found.images)
        image = content_loss(seen.relu4_1, found.target) + style_loss(seen, style)
        code = reconstruction_loss(found.decoded.vector(), found.measured.vector())
        losses.append((image.item(), code.item()))
        optimizer.zero_grad()
        (image + 5 * code).backward()
        optimizer.step()
    assert losses[-1][0] < 0.5 * losses[0][0]
    assert losses[-1][1] < 0.5 * losses[0][1]


def test_styles_are_detached_with_their_numbers() -> None:
    style = Style(torch.ones(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True))
    assert not style.detach().vector().requires_grad
    assert torch.equal(style.detach().vector(), style.vector())
