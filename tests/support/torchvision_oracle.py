"""Runs in torchvision's own environment, which has nothing of ours: what its transforms and its nets give.

python torchvision_oracle.py pixels PHOTOS OUT.npz
python torchvision_oracle.py net NAME PHOTOS OUT       OUT.pth: its state dict, random; OUT.npz: its scores
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

try:
    torch.ops.load_library(Path(str(find_spec("torchvision").origin)).with_name("_C_stable.so"))
except OSError:
    # Its wheel is linked with CUDA, so beside torch for the CPU its operators do not load, and torchvision cannot be
    # imported unless somebody declares these two. Its classifiers and transforms use none.
    OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import models

DENSE_PX = (237, 341)


def presets() -> dict[str, Any]:
    """The transforms of every weights enum that we import."""
    names = [f"VGG{depth}{end}" for depth in (11, 13, 16, 19) for end in ("", "_BN")] + ["GoogLeNet"]
    return {name: getattr(models, f"{name}_Weights").IMAGENET1K_V1.transforms() for name in names}


def pixels(photos: list[Image.Image]) -> dict[str, Any]:
    """u8 crops, by undoing the normalisation, and how far that was from whole numbers."""
    transforms = presets()
    assert len({re.sub(r"\s", "", repr(preset)) for preset in transforms.values()}) == 1, transforms
    preset = transforms["GoogLeNet"]
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (preset.mean, preset.std))
    grey = [(preset(photo).double() * std + mean) * 255 for photo in photos]
    crops = [crop.round().to(torch.uint8).permute(1, 2, 0).numpy() for crop in grey]
    return {"crops": np.stack(crops), "residual": max(float((crop - crop.round()).abs().max()) for crop in grey)}


@torch.no_grad()
def randomise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.1, 2.0)


def fully_convolutional(net: Any) -> nn.Module:
    """torchvision's VGG with its linear layers as convolutions, and without the average to 7x7 in between."""
    layers: list[nn.Module] = [net.features]
    for layer in net.classifier:
        if not isinstance(layer, nn.Linear):
            layers.append(layer)
            continue
        side = 7 if layer.in_features == 512 * 49 else 1
        convolution = nn.Conv2d(layer.in_features // side**2, layer.out_features, side)
        convolution.weight = nn.Parameter(layer.weight.reshape(convolution.weight.shape))
        convolution.bias = layer.bias
        layers.append(convolution)
    return nn.Sequential(*layers).eval()


@torch.inference_mode()
def scores(name: str, photos: list[Image.Image], state_file: Path) -> dict[str, Any]:
    torch.manual_seed(len(name))
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    net = getattr(models, name)(weights=None, **options)
    randomise(net)
    net.eval()
    torch.save(net.state_dict(), state_file)
    preset = presets()["GoogLeNet"]
    found: dict[str, Any] = {"logits": net(torch.stack([preset(photo) for photo in photos])).numpy()}
    if name != "googlenet":
        image = photos[0].resize(DENSE_PX[::-1], Image.Resampling.BILINEAR)
        x = torch.tensor(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (preset.mean, preset.std))
        found |= {
            "dense_pixels": np.asarray(image),
            "dense": fully_convolutional(net)(((x - mean) / std)[None]).numpy(),
        }
    return found


def main(command: str, *arguments: str) -> None:
    photos = [Image.open(path).convert("RGB") for path in sorted(Path(arguments[-2]).glob("*.png"))]
    out = Path(arguments[-1])
    if command == "pixels":
        np.savez(out, **pixels(photos))
    else:
        np.savez(out.with_suffix(".npz"), **scores(arguments[0], photos[:2], out.with_suffix(".pth")))


if __name__ == "__main__":
    main(*sys.argv[1:])
