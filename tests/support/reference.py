"""Slow, obvious implementations of what the papers say: class scores by plain nets, posteriors by loops.

Nothing here uses infer.views, infer.render or trainer's layers; images are rescaled by one call of Pillow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import floor

import numpy as np
import torch
from helpers import network_input
from numpy.typing import NDArray
from PIL import Image
from plain_nets import PlainGoogLeNet, PlainVGG, give_weights
from torch import Tensor, nn

from infer.spec import ModelSpec

Pixels = NDArray[np.uint8]
Posterior = NDArray[np.float64]


def plain_net(spec: ModelSpec, *, heads: bool = False) -> nn.Module:
    """On the meta device: weights are given to it, never made."""
    size = {"classes": len(spec.classes), "width": spec.width, "fc_width": spec.fc_width, "crop_px": spec.crop_px}
    with torch.device("meta"):
        return PlainGoogLeNet(**size, heads=heads) if spec.net == "googlenet" else PlainVGG(spec.net, **size)


@torch.inference_mode()
def assert_equals_plain_net(net: nn.Module, spec: ModelSpec, x: Tensor, *, perturb: str | None = None) -> None:
    """Class scores of crops x [N, 3, crop, crop] equal the plain net's to 1e-4 of their standard deviation.

    `perturb`: a layer of our net whose weights grow by a hundredth for this comparison.
    """
    plain = plain_net(spec)
    give_weights(plain, net.parameters())
    expected = plain(x)
    weight = net.get_submodule(perturb).weight if perturb else torch.ones(())
    weight.mul_(1.01)
    got = net(x)
    weight.div_(1.01)
    assert_same_scores(got.flatten(1), expected[0] if isinstance(expected, list) else expected, spec)


def assert_same_scores(got: Tensor, expected: Tensor, spec: ModelSpec) -> None:
    assert got.shape == expected.shape == (len(got), len(spec.classes))
    deviation = expected.std().item()
    assert deviation > 1e-3, "the scores are all alike: this comparison shows nothing"
    difference = (got - expected).abs().max().item() / deviation
    assert difference < 1e-4, f"class scores differ by {difference:.1e} of their standard deviation"


def posterior(
    net: nn.Module, spec: ModelSpec, image: Pixels, protocol: str, scales: Sequence[int], pooling: str
) -> Posterior:
    """Class posteriors [classes] of an image, one view after the other.

    VGG 3.2: Q is the smallest side of the isotropically rescaled image; posteriors are averaged over the original and
    the flipped image and over the scales; 4.4: multi-crop and dense are averaged. GoogLeNet 7: 36 views a scale.
    """
    if protocol == "multicrop+dense":
        both = [posterior(net, spec, image, part, scales, pooling) for part in ("multicrop", "dense")]
        return (both[0] + both[1]) / 2
    views = [view for q in scales for view in VIEWS[protocol](rescale(image, q), spec.crop_px)]
    return np.mean([posterior_of_view(net, spec, view, pooling) for view in views], 0)


@torch.inference_mode()
def posterior_of_view(net: nn.Module, spec: ModelSpec, view: Pixels, pooling: str) -> Posterior:
    score_map = net(network_input(view, spec))[0].double()  # [classes, h', w']
    positions = [score_map[:, y, x] for y in range(score_map.shape[1]) for x in range(score_map.shape[2])]
    if pooling == "scores":
        return torch.softmax(torch.stack(positions).mean(0), 0).numpy()
    return torch.stack([torch.softmax(scores, 0) for scores in positions]).mean(0).numpy()


def rescale(image: Pixels, q: int) -> Pixels:
    height, width = image.shape[:2]
    scale = Fraction(q, min(height, width))
    new_height, new_width = floor(height * scale + Fraction(1, 2)), floor(width * scale + Fraction(1, 2))
    return np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC))


def centre_crop(image: Pixels, crop: int) -> Pixels:
    y, x = (image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2
    return image[y : y + crop, x : x + crop]


def corners_and_centre(image: Pixels, crop: int) -> list[Pixels]:
    return [
        image[:crop, :crop],
        image[:crop, -crop:],
        image[-crop:, :crop],
        image[-crop:, -crop:],
        centre_crop(image, crop),
    ]


def grid(image: Pixels, crop: int) -> list[Pixels]:
    rows = [i * (image.shape[0] - crop) // 4 for i in range(5)]
    columns = [i * (image.shape[1] - crop) // 4 for i in range(5)]
    return [image[y : y + crop, x : x + crop] for y in rows for x in columns]


def squares(image: Pixels, crop: int) -> list[Pixels]:
    """Left, centre and right (top, centre and bottom) squares; of each five crops and itself, resized."""
    side = min(image.shape[:2])
    views = []
    for start in (0, (max(image.shape[:2]) - side) // 2, max(image.shape[:2]) - side):
        square = image[start : start + side] if image.shape[0] > side else image[:, start : start + side]
        views += corners_and_centre(square, crop)
        views.append(np.asarray(Image.fromarray(square).resize((crop, crop), Image.Resampling.BICUBIC)))
    return views


def and_mirrors(views: Sequence[Pixels]) -> Iterator[Pixels]:
    for view in views:
        yield view
        yield np.fliplr(view)


VIEWS = {
    "center": lambda image, crop: [centre_crop(image, crop)],
    "ten-crop": lambda image, crop: and_mirrors(corners_and_centre(image, crop)),
    "dense": lambda image, crop: and_mirrors([image]),
    "multicrop": lambda image, crop: and_mirrors(grid(image, crop)),
    "googlenet-144": lambda image, crop: and_mirrors(squares(image, crop)),
}
