"""Runs in torchvision's own environment: five of its nets with random weights that tell photographs apart.

python torchvision_five.py make NAME PHOTOS STATE.pth
python torchvision_five.py answer NAME STATE.pth PHOTO SPEC.json OUT.npz     log posteriors of every protocol
python -m export.from_torch "torchvision_five:load('NAME', 'STATE.pth')" ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_families as families
from PIL import Image
from planned import plan_of
from torch import nn
from torchvision_oracle import models

from infer.spec import ModelSpec

FIVE = ("resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16", "mobilenet_v3_large")
CROP_PX, LAYER_SCALE = 224, 0.1
QUIET = ("bn3", "block.2.1", "block.3.1")
"""Batch norms that end a block of ResNet's, and of EfficientNet's and MobileNet's."""


def build(name: str) -> nn.Module:
    net: nn.Module = getattr(models, name)(weights=None)
    return net


def make(name: str, photos: list[Any]) -> nn.Module:
    """A seeded net; ConvNeXt's blocks weigh 1e-6 at its start, and ViT's head nothing."""
    torch.manual_seed(0)
    net = build(name)
    for key, parameter in net.named_parameters():
        if key.endswith("layer_scale"):
            nn.init.constant_(parameter, LAYER_SCALE)
    families.settle(net, families.cuts(photos, CROP_PX), quiet=QUIET)
    return net


def load(name: str, state: str) -> nn.Module:
    net = build(name)
    net.load_state_dict(torch.load(state, weights_only=True))
    return net.eval()


def answer(net: nn.Module, photo: Any, spec: ModelSpec) -> dict[str, Any]:
    """Log posteriors of the views of every protocol that the net admits, and of planted faults of the first."""
    cut = [families.cut_by_pillow(photo, view, spec) for view in plan_of(spec, photo).plan.views]
    expected, deviation = families.log_posteriors(net, [families.network_input(pixels) for pixels in cut])
    faults = {
        "mean": families.network_input(cut[0], families.MEAN[::-1]),
        "channels": families.network_input(cut[0][:, :, ::-1]),
        "mirror": families.network_input(cut[0][:, ::-1]),
    }
    wrong = {fault: families.log_posteriors(net, [x])[0] for fault, x in faults.items()}
    return {"expected": expected, "deviation": deviation, **wrong}


def main(command: str, name: str, *arguments: str) -> None:
    if command == "make":
        photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(Path(arguments[0]).glob("*.png"))]
        torch.save(make(name, photos).state_dict(), arguments[1])
    else:
        state, photo, spec, out = arguments
        pixels = np.asarray(Image.open(photo).convert("RGB"))
        np.savez(out, **answer(load(name, state), pixels, ModelSpec.from_json(Path(spec).read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
