"""Each published network against the paper's facts: hand arithmetic, and a second forward written from the text."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossbeat.errors import SettingsError
from crossbeat.networks import build
from crossbeat.networks.dilated_resunet import DILATIONS, LOW_DILATIONS, DilatedResUNet
from crossbeat.networks.dr_unet import DrUNet
from crossbeat.networks.dru_net import DruNet
from crossbeat.networks.dynunet import DynUNet2d
from crossbeat.networks.segresnet_vae import Reached, SegResNetVae, count_reached
from crossbeat.networks.unet import UNet


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def unsettle(network: nn.Module) -> nn.Module:
    """Every parameter and running statistic away from its initial value, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                drawn = torch.rand(value.shape, generator=generator)
                scale = 1.0 if "running_var" in key or value.ndim == 1 else 3.0 / value[0].numel() ** 0.5
                value.copy_(0.5 + drawn if "running_var" in key else scale * (drawn - 0.4))
    return network.eval()


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


def in_order(network: nn.Module, kind: type[nn.Module]) -> list[list[Tensor]]:
    """Parameters and statistics of the layers of one kind, in the order in which the paper lists them."""
    return [list(m.parameters()) for m in network.modules() if isinstance(m, kind)]


# --- Chen 2020 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "expected"),
    [(16, 39_172), (24, 87_748), (30, 136_864), (32, 155_652), (48, 349_444), (64, 620_548)],
)
def test_dilated_resunet_has_the_published_size_at_every_width(width: int, expected: int) -> None:
    assert count(DilatedResUNet(1, 4, width=width)) == expected
    assert count(DilatedResUNet(1, 4, width=width, dilations=LOW_DILATIONS)) == expected


def test_dilated_resunet_of_three_channels_has_the_published_size() -> None:
    assert count(DilatedResUNet(3, 4)) == 156_228


@pytest.mark.parametrize("dilations", [DILATIONS, LOW_DILATIONS])
def test_dilated_resunet_dilates_both_convolutions_of_each_stage(dilations: tuple[int, ...]) -> None:
    found = [m.dilation for m in convolutions(DilatedResUNet(dilations=dilations)) if m.kernel_size == (3, 3)]
    assert found == [(d, d) for d in dilations for _ in range(2)]


def centred(weight: float, shortcut: float) -> DilatedResUNet:
    """One channel; 3x3 kernels that only look at their centre, 1x1 shortcuts, no bias."""
    network = DilatedResUNet(1, 2, width=1)
    with torch.no_grad():
        for m in convolutions(network):
            assert m.bias is not None
            m.bias.zero_()
            m.weight.zero_()
            m.weight[:, :, m.kernel_size[0] // 2, m.kernel_size[1] // 2] = (
                weight if m.kernel_size == (3, 3) else shortcut
            )
    return network


def test_dilated_resunet_of_ones_gives_the_number_on_paper() -> None:
    """Inner stages double: 1, 2, 4, 8 down; (8+4)·2 = 24, (24+2)·2 = 52, 52+1 = 53 up."""
    image = torch.full((1, 1, 16, 24), 3.0)
    torch.testing.assert_close(centred(1.0, 1.0)(image), torch.full((1, 2, 16, 24), 3.0 * 53))


def test_dilated_resunet_rectifies_both_branches_before_their_sum() -> None:
    """Shortcuts of -1 vanish if rectified first: 1, 1, 1, 1 down; 1+1 = 2, 2+1 = 3, 3+1 = 4 up, and the head -4."""
    image = torch.full((1, 1, 16, 16), 3.0)
    torch.testing.assert_close(centred(1.0, -1.0)(image), torch.full((1, 2, 16, 16), -3.0 * 4))
    torch.testing.assert_close(centred(-1.0, -1.0)(image), torch.zeros(1, 2, 16, 16))


def field_of(pixel: int, dilations: tuple[int, ...]) -> tuple[int, int]:
    """First and last input row that the longest path lets an output row see, walked back layer by layer."""
    low = high = pixel
    for stage, dilation in enumerate(reversed(dilations)):
        low, high = low - 2 * dilation, high + 2 * dilation  # two convolutions
        if stage < 3:  # nearest upsampling
            low, high = low // 2, high // 2
        elif stage < 6:  # pooling
            low, high = 2 * low, 2 * high + 1
    return low, high


@pytest.mark.parametrize("dilations", [DILATIONS, LOW_DILATIONS])
def test_dilated_resunet_sees_as_far_as_its_dilations_reach(dilations: tuple[int, ...]) -> None:
    network = DilatedResUNet(1, 2, width=1, dilations=dilations).double()
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(0.1)
    height = 480
    rising = torch.arange(float(height * 16), dtype=torch.float64).reshape(1, 1, height, 16)
    seen = torch.zeros(height, dtype=torch.bool)
    for image in (
        rising,
        rising.flip(2),
    ):  # max-pooling hands the gradient to the lower row, then to the upper
        image.requires_grad_()
        network(image)[0, 0, 243, 5].backward()
        seen |= (image.grad != 0).any(dim=-1).flatten()
    rows = seen.nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == field_of(243, dilations)


def test_dilated_resunet_reaches_further_than_a_slice_of_224_pixels() -> None:
    low, high = field_of(112, DILATIONS)
    assert low < 0
    assert high > 223
    assert high - low + 1 == 436


def test_dilated_resunet_is_what_the_table_of_the_paper_says() -> None:
    network = unsettle(DilatedResUNet(2, 4, width=5))
    image = torch.randn(2, 2, 24, 16, generator=torch.Generator().manual_seed(6))
    layers = iter(in_order(network, nn.Conv2d))

    def conv(x: Tensor, dilation: int) -> Tensor:
        weight, bias = next(layers)
        return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation).relu()

    def residual(x: Tensor, dilation: int) -> Tensor:
        main = conv(conv(x, dilation), dilation)
        return main + conv(x, 1)

    def larger(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    s1 = conv(conv(image, 1), 1)
    s2 = residual(F.max_pool2d(s1, 2), 2)
    s3 = residual(F.max_pool2d(s2, 2), 4)
    s4 = residual(F.max_pool2d(s3, 2), 8)
    s5 = residual(torch.cat([larger(s4), s3], 1), 4)
    s6 = residual(torch.cat([larger(s5), s2], 1), 2)
    s7 = conv(conv(torch.cat([larger(s6), s1], 1), 1), 1)
    weight, bias = next(layers)
    expected = F.conv2d(s7, weight, bias)
    assert next(layers, None) is None
    torch.testing.assert_close(network(image), expected)


def test_dilated_resunet_normalises_each_slice_and_channel_before_its_relu() -> None:
    network = unsettle(DilatedResUNet(1, 4, width=3, norm="instance"))
    convolution, norm, _ = network.enter[0]
    image = 40 + 7 * torch.randn(2, 1, 16, 24)
    x = F.conv2d(image, convolution.weight, convolution.bias, padding=1)
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    x = (x - mean) / (variance + norm.eps).sqrt()
    expected = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
    torch.testing.assert_close(network.enter[0](image), expected)
    assert sum(isinstance(m, nn.InstanceNorm2d) for m in network.modules()) == 2 * 7 + 5  # and the shortcuts


def test_dilated_resunet_refuses_other_dilations_and_norms() -> None:
    with pytest.raises(
        SettingsError, match=r"dilations must be 7 .* got \[1, 2, 4\]; the paper has \[1, 2, 4, 8"
    ):
        build("dilated_resunet", 1, 4, None, {"dilations": [1, 2, 4]})
    with pytest.raises(SettingsError, match=r"dilations must be 7 .* got \[1, 2, 0, 8, 4, 2, 1\]"):
        build("dilated_resunet", 1, 4, None, {"dilations": [1, 2, 0, 8, 4, 2, 1]})
    with pytest.raises(SettingsError, match=r"dilations must be like .*, got \[1.5\]"):
        build("dilated_resunet", 1, 4, None, {"dilations": [1.5]})
    with pytest.raises(SettingsError, match="norm must be null or 'instance', got 'batch'"):
        build("dilated_resunet", 1, 4, None, {"norm": "batch"})
    assert (
        count(build("dilated_resunet", 1, 4, None, {"dilations": list(LOW_DILATIONS), "norm": None}))
        == 155_652
    )


# --- VoxelMorph label propagation ------------------------------------------------------------


def test_unet_of_half_width_has_a_quarter_of_the_parameters() -> None:
    assert count(UNet(1, 4)) == 7_762_564
    assert count(UNet(1, 4, width=16)) == 1_942_340  # "U-Net 16×5 (1.9 M)"


def normalised(x: Tensor, layer: nn.Module) -> Tensor:
    """Batch normalisation in evaluation, from its definition."""
    assert isinstance(layer, nn.BatchNorm2d)
    mean, variance, weight, bias = (
        v[:, None, None]
        for v in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        if v is not None
    )
    return (x - mean) / (variance + layer.eps).sqrt() * weight + bias


def test_unet_is_what_the_text_says() -> None:
    network = unsettle(UNet(1, 3, width=2))
    image = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(7))
    convs, norms, doubles = (
        iter([m for m in network.modules() if isinstance(m, kind)])
        for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ConvTranspose2d)
    )

    def block(x: Tensor) -> Tensor:
        for _ in range(2):
            layer = next(convs)
            assert layer.bias is None
            x = normalised(F.conv2d(x, layer.weight, padding=1), next(norms)).relu()
        return x

    kept = [block(image)]
    for _ in range(4):
        kept.append(block(F.max_pool2d(kept[-1], 2)))
    x = kept.pop()
    assert x.shape == (2, 32, 2, 3)
    while kept:
        layer = next(doubles)
        larger = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
        x = block(torch.cat([larger, kept.pop()], 1))
    head = next(convs)
    torch.testing.assert_close(network(image), F.conv2d(x, head.weight, head.bias))


# --- DR-UNet -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_channels", "width", "released"),
    [(3, 32, 13_483_844), (1, 32, 13_483_076), (3, 16, 3_373_476), (3, 8, 844_628)],
)
def test_dr_unet_is_the_released_one_less_its_dead_layer(in_channels: int, width: int, released: int) -> None:
    dead = 3 * in_channels * width + width  # a 1x1 convolution in block 1 that no data passes
    assert count(DrUNet(in_channels, 4, width=width)) == released - dead


def test_dr_unet_is_what_the_text_says() -> None:
    network = unsettle(DrUNet(3, 4, width=2))
    assert isinstance(network, DrUNet)
    image = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(8))
    merges, bottleneck, doubles = (
        iter(convolutions(m)) for m in (network.merge, network.bottleneck, network.enlarge)
    )
    blocks = iter([*convolutions(network.down), *convolutions(network.up)])
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)])

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    def apply(x: Tensor, layer: nn.Conv2d, dilation: int = 1) -> Tensor:
        padding = dilation * (layer.kernel_size[0] // 2)
        return F.conv2d(x, layer.weight, layer.bias, padding=padding, dilation=dilation)

    def block(x: Tensor) -> Tensor:
        for _ in range(2):
            x = normalised(leaky(apply(x, next(blocks))), next(norms))
        return x

    kept = [block(image)]
    x = F.max_pool2d(kept[0], 2)
    for _ in range(3):
        kept.append(block(x))
        x = F.max_pool2d(leaky(apply(torch.cat([kept[-1], x], 1), next(merges))), 2)
    features = torch.zeros(2, 32, 2, 1)
    for dilation in (1, 2, 4, 8):
        x = leaky(apply(x, next(bottleneck), dilation))
        features = features + x
    x = features
    while kept:
        larger = apply(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), next(doubles))
        x = block(torch.cat([larger, kept.pop()], 1))
    logits, found = network.forward_with_bottleneck(image)
    torch.testing.assert_close(found, features)
    torch.testing.assert_close(logits, F.conv2d(x, network.head.weight, network.head.bias))
    assert torch.equal(network(image), logits)


# --- Jafari ------------------------------------------------------------------------------------------


def test_dru_net_is_what_the_text_says() -> None:
    network = unsettle(DruNet(1, 4, width=2))
    assert isinstance(network, DruNet)
    with torch.no_grad():
        network.head.weight.neg_()  # a ReLU on the logits would show
    image = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(9))
    convs = iter([m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))])
    norms = iter([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)])

    def conv_bn(x: Tensor) -> Tensor:
        layer = next(convs)
        return normalised(
            F.conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2), next(norms)
        )

    def dense(x: Tensor) -> Tensor:
        x1 = conv_bn(x)
        x2 = conv_bn(x1.relu())
        return torch.cat([(x2 + x1 + x).relu(), x], 1)

    stem = next(convs)
    assert stem.kernel_size == (7, 7)
    kept = [dense(F.conv2d(image, stem.weight, stem.bias, padding=3))]
    for _ in range(4):
        kept.append(dense(F.max_pool2d(kept[-1], 2)))
    assert [k.shape[1] for k in kept] == [4, 8, 16, 32, 64]  # at width 16: 32, 64, 128, 256, 512
    features = x = kept.pop()
    for width in (16, 8, 4, 2):  # at width 16: 128, 64, 32, 16
        layer = next(convs)
        larger = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1, output_padding=1)
        both = torch.cat([normalised(larger, next(norms)).relu(), kept.pop()], 1)
        x1 = conv_bn(both)
        x2 = conv_bn(x1.relu())
        x = (x1 + x2 + conv_bn(both)).relu()
        assert x.shape[1] == width
    head = next(convs)
    assert head.bias is None
    logits = F.conv2d(x, head.weight)
    torch.testing.assert_close(network(image), logits)
    shown, found = network.forward_with_bottleneck(image)
    torch.testing.assert_close((shown, found), (logits, features))
    assert (logits < 0).any(), "no ReLU on the logits"


# --- Dhaene 2023 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "expected"), [(128, 1_193_523), (224, 2_817_651), (384, 7_493_171)])
def test_segresnet_vae_grows_with_the_image(side: int, expected: int) -> None:
    assert count(SegResNetVae(1, 2, size=(side, side))) == expected


@pytest.mark.slow
def test_segresnet_vae_leaves_its_vae_untrained_by_the_logits() -> None:
    with torch.device("meta"):
        network, image = SegResNetVae(1, 2, size=(256, 256)), torch.zeros(2, 1, 256, 256)
        assert count_reached(network, image) == Reached(3_555_891, 394_986)
        assert count_reached(network, image, vae_weight=0.1) == Reached(3_555_891, 2_507_059)
    assert (3_555_891 - 394_986, 3_555_891 - 2_507_059) == (3_160_905, 1_048_832)
    assert count(network.body.vae_fc2) == 1_048_832
    assert all(p.grad is None for p in network.parameters())


def test_parameters_are_counted_of_networks_without_a_vae_too() -> None:
    network = DynUNet2d(1, 2, width=16).eval()
    found = count_reached(network, torch.zeros(1, 1, 128, 128))
    assert (found.parameters, found.idle) == (count(network), 0)
    assert not network.training
    with pytest.raises(SettingsError, match=r"vae_weight 0.1: DynUNet2d has no VAE; say 0"):
        count_reached(network, torch.zeros(1, 1, 128, 128), vae_weight=0.1)


def test_segresnet_vae_gives_monais_logits_and_loss() -> None:
    network = SegResNetVae(1, 2, size=(32, 48)).train()
    image = torch.randn(3, 1, 32, 48)
    torch.manual_seed(10)
    logits, vae_loss = network.forward_with_vae_loss(image)
    torch.manual_seed(10)
    expected, expected_loss = network.body(image)
    assert torch.equal(logits, expected)
    assert torch.equal(network(image), expected)
    assert torch.equal(network.eval()(image), expected)  # group normalisation knows no mode
    assert vae_loss.item() == pytest.approx(expected_loss.item())
    assert vae_loss.item() > 0


def test_segresnet_vae_takes_each_images_own_noise() -> None:
    """Of equally large parts of a batch the losses are those of the whole, whoever computes them."""
    torch.manual_seed(0)
    network = SegResNetVae(1, 2, size=(32, 32)).train()
    image, noise = torch.randn(4, 1, 32, 32), torch.randn(4, 256)
    whole = network.forward_with_vae_loss(image, noise)[1]
    parts = [network.forward_with_vae_loss(image[i : i + 2], noise[i : i + 2])[1] for i in (0, 2)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    assert whole != network.forward_with_vae_loss(image, noise.flip(0))[1]


def test_the_vaes_loss_reaches_the_encoder() -> None:
    network = SegResNetVae(1, 2, size=(32, 32)).train()
    network.forward_with_vae_loss(torch.randn(2, 1, 32, 32))[1].backward()
    first = network.body.convInit.conv.weight.grad
    assert first is not None
    assert first.any()


def test_segresnet_vae_repaints_in_training_only_and_at_its_size_only() -> None:
    network = SegResNetVae(1, 2, size=(32, 48))
    with pytest.raises(SettingsError, match="built for training on 32 x 48 pixels, got 32 x 32; crop"):
        network.train().forward_with_vae_loss(torch.zeros(3, 1, 32, 32))
    with pytest.raises(SettingsError, match="its VAE runs in training only"):
        network.eval().forward_with_vae_loss(torch.zeros(3, 1, 32, 48))
    with pytest.raises(SettingsError, match=r"width must be a multiple of 8, .* got 12"):
        build("segresnet_vae", 1, 2, (32, 32), {"width": 12})


@pytest.mark.slow
def test_dynunet_is_monais_with_the_papers_arguments() -> None:
    from monai.networks.nets.dynunet import DynUNet

    network = DynUNet2d(1, 2)
    whole = DynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        kernel_size=[[3, 3]] * 7,
        strides=[[1, 1]] + [[2, 2]] * 6,
        upsample_kernel_size=[[2, 2]] * 6,
        res_block=True,
        trans_bias=True,
        dropout=0.1,
    )
    weights = {k: v for k, v in whole.state_dict().items() if not k.startswith("skip_layers.")}
    network.load_state_dict(weights)
    image = torch.randn(1, 1, 128, 128)
    for mode in (True, False):
        torch.manual_seed(11)  # of the dropout
        expected = whole.train(mode)(image)
        torch.manual_seed(11)
        assert torch.equal(network.train(mode)(image), expected)


def test_dynunet_widths_stop_growing_at_sixteen_times_the_first() -> None:
    network = DynUNet2d(1, 4, width=16)
    blocks = [network.input_block, *network.downsamples, network.bottleneck]
    assert [block.conv1.conv.out_channels for block in blocks] == [16, 32, 64, 128, 256, 256, 256]


def test_dynunet_refuses_widths_that_crash_the_process() -> None:
    with pytest.raises(SettingsError, match="width must be a multiple of 16, got 8; smaller ones crash"):
        build("dynunet", 1, 4, None, {"width": 8})
