"""What is said of an exported network in words: how a scan is prepared for it, and whose scans it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossbeat.segmenter import WALK


def write_guide(described: Mapping[str, Any]) -> str:
    """README.md of an ONNX, TorchScript or torch.export model."""
    network, sizes, output = described["network"], described["export"]["input"], described["export"]["output"]
    side = sizes["side_px"]
    return f"""# Cardiac MR segmentation

`{described["export"]["model"]}` is the network {network["name"]!r}, trained with crossbeat {described["crossbeat"]}:
prepared one-channel slices in, class probabilities out. For research; it is no medical device.

## Use it

`{sizes["name"]}` is float32, (slice, channel, y, x), of any number of slices and of {side} x {side} pixels, as in
training (other sides: multiples of {sizes["side_multiple_of_px"]}, from {sizes["smallest_side_px"]}).
`{output["name"]}` is (slice, class, y, x) and sums to 1 over the classes.
Preparing the slices and putting the labels back on the scan's grid is yours; `segmenter.json` has the numbers
under `preparation`.

## How the heart is found

{heart(described)}

## Labels

{labels(described)}

## Whose scans are named

{privacy(described)}
"""


def heart(described: Mapping[str, Any]) -> str:
    """How the window is centred, in Markdown."""
    if described["preparation"]["centre"] != "heart":
        return "It is not looked for: the crop is centred on the middle of the image, as in training."
    return f"""The network was trained on crops around the heart and knows nothing else, so it is asked about such crops
only. The window starts at the middle of the image and walks:

1. cut a crop from the middle half of the first frame's slices, around the window's centre;
2. add up the probabilities of all structures and average them over these slices;
3. of what is above half of the largest value take the connected part with the largest sum, and move the window's
   centre to its centre of mass; where nothing reaches 0.1, go back to the middle of the image and stop;
4. stop when it moved by less than 2 pixels, or after {WALK} steps.

All slices and frames are then cut there. A heart wholly outside the first window is not found."""


def labels(described: Mapping[str, Any]) -> str:
    """The values in label maps and their names, as a list."""
    output = described["export"]["output"]
    pairs = zip(output["label_values"], output["classes"], strict=True)
    return "\n".join(f"- {value}: {name}" for value, name in pairs)


def privacy(described: Mapping[str, Any]) -> str:
    """Which patients the exported files name, in a sentence; that they name none where it is so."""
    trained = described["provenance"].get("trained_on", {})
    named = sum(len(scans) for scans in trained.values())
    if not named:
        return "segmenter.json names no scan that the weights come from."
    return (
        f"segmenter.json, and a copy within the model's files, lists the {named} scans seen in training by name, and "
        "so their subjects' ids. Where these could lead to a patient, export again with `--anonymous` before passing "
        "the model on."
    )
