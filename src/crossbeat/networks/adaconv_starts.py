"""Where AdaConv's training begins: a fresh network and some styles go in, and the network draws what they suggest.

Its authors begin with random weights and train for 160,000 updates; a short training would spend itself on finding out
what an image is.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossbeat.networks.adaconv import AdaConv, KernelPredictor
from crossbeat.networks.rain import Style, style_of
from crossbeat.networks.vgg import Decoder, double, sizes_of_levels

FLAT: Final = 1e-3  # deviation of images in [0, 1] below which they show nothing to begin at
FAINT: Final = 0.1  # of its random weights: how loudly a style speaks when training begins; ours


@torch.no_grad()
def begin_as(network: AdaConv, decoder: Decoder, style: Float[Tensor, "n 512 q p"]) -> None:
    """Let training begin with what `decoder` draws of contents that have the styles' mean statistics at every level.

    In place; the layout is the decoder's own, "mirror", and `style` is relu4_1 of style images. Of every descriptor, of
    mean square about 1, channel 0 is a point in the middle, whatever the style. From it the spatial kernels take their
    middle, so that contents pass as they are; the biases of the pointwise kernels and of the last step are the
    deviation and the mean of each channel over the styles. All other weights that read the descriptor are `FAINT` times
    what they were.
    """
    _level_descriptors(network, style)
    mix, (channels, k, _) = network.style_encoder.mix, network.style_encoder.shape
    weight, bias = mix.weight.view(channels, k * k, -1), mix.bias.view(channels, k * k)
    weight[0], bias[0] = 0.0, 0.0
    bias[0, k * k // 2] = 1.0
    x, sizes = style, sizes_of_levels(style, None)
    for depth, (predict, mine, theirs) in enumerate(
        zip(network.decoder.predictors, network.decoder.levels, decoder.levels, strict=True)
    ):
        mine.load_state_dict(theirs.state_dict())
        x = double(F.relu(x), sizes[depth]) if depth else x
        assert isinstance(predict, KernelPredictor)
        _pass_on(predict, style_of(x))
        for i, convolution in enumerate(mine.children()):
            x = convolution(F.relu(x) if i else x)


def _pass_on(predict: KernelPredictor, styles: Style) -> None:
    """Kernels that give each channel the mean deviation and mean of the styles, and hardly anything else."""
    c, i = predict.channels, predict.group_width
    channel = torch.arange(c)
    own = channel % i
    for part in (predict.spatial, predict.pointwise, predict.bias):
        part.weight.mul_(FAINT)
    spatial = predict.spatial.weight.view(c, i, -1, 3, 3)
    spatial[:, :, 0] = 0.0
    spatial[channel, own, 0, 1, 1] = 1.0
    predict.pointwise.weight.view(c, i, -1)[:, :, 0] = 0.0
    predict.pointwise.bias.zero_().view(c, i)[channel, own] = styles.deviation.mean(dim=0)
    predict.bias.weight[:, 0] = 0.0
    predict.bias.bias.copy_(styles.mean.mean(dim=0))


@torch.no_grad()
def calibrate(
    network: AdaConv,
    content: Float[Tensor, "n 512 v u"],
    style: Float[Tensor, "n 512 q p"],
    images: Float[Tensor, "n c y x"],
) -> None:
    """Let training begin with descriptors of mean square 1, and images as bright and as full of contrast as `images`.

    In place, by the scale of what makes descriptors and by the last convolution; `content` and `style` are relu4_1 of
    both, `images` those of the style. Random weights draw noise of more contrast than any image, and an encoder that
    was levelled on images answers it far above what it answers them, so that most of a short training would go to
    turning it down. Of a layout that ends in a sigmoid the last convolution is let be. Images without contrast leave
    everything as it is.
    """
    deviation = images.float().std()
    if not deviation > FLAT:
        return
    _level_descriptors(network, style)
    if not isinstance(network.decoder.last, nn.Identity):
        return
    size = (images.shape[2], images.shape[3])
    last = next(reversed(list(network.decoder.levels.modules())))
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    factor = deviation / network(content, style, size).float().std()
    last.weight.mul_(factor)
    last.bias.mul_(factor)
    last.bias.add_(images.float().mean() - network(content, style, size).float().mean())


def _level_descriptors(network: AdaConv, style: Tensor) -> None:
    size = network.describe(style).float().square().mean().sqrt()
    if size > 0:  # an encoder that sees nothing in these styles leaves the descriptors as they are
        network.style_encoder.mix.weight.div_(size)
