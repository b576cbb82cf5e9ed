"""A net that knows nothing of this project, for docs/your-model.md: plain torch, trained for a minute.

python examples/my_net.py FOLDER_OF_CLASS_FOLDERS weights.pth
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

CROP_PX, SHORT_PX = 64, 73
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPOCHS, BATCH, EACH = 4, 32, 80


class Block(nn.Module):
    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(before, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.SiLU())
        self.two = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return F.silu(x + self.two(x))


class MyNet(nn.Module):
    """Residual blocks, an average over whatever positions there are, a linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 16), Block(16, 32), Block(32, 64), Block(64, 96))
        self.head = nn.Linear(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


def load(path: str) -> MyNet:
    """The trained net: what `export.from_torch "my_net:load('weights.pth')"` calls."""
    state = torch.load(path, weights_only=True)
    net = MyNet(len(state["head.bias"]))
    net.load_state_dict(state)
    return net


def read(path: Path) -> np.ndarray:
    """u8 RGB, its shorter side SHORT_PX."""
    image = Image.open(path).convert("RGB")
    scale = SHORT_PX / min(image.size)
    size = tuple(max(SHORT_PX, int(side * scale)) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = (rng.integers(0, side - CROP_PX + 1) for side in image.shape[:2])
    cut = image[top : top + CROP_PX, left : left + CROP_PX]
    return cut[:, ::-1] if rng.random() < 0.5 else cut


def train(folder: Path) -> MyNet:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    images, labels = [], []
    for label, path in enumerate(classes):
        found = [read(file) for file in sorted(path.iterdir())[:EACH]]
        images += found
        labels += [label] * len(found)

    net, targets = MyNet(len(classes)), np.array(labels)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(EPOCHS):
        for few in np.array_split(rng.permutation(len(images)), -(-len(images) // BATCH)):
            pixels = torch.tensor(np.stack([crop(images[n], rng) for n in few])) / 255
            x = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
            loss = F.cross_entropy(net(x), torch.tensor(targets[few]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


if __name__ == "__main__":
    torch.save(train(Path(sys.argv[1])).state_dict(), sys.argv[2])
