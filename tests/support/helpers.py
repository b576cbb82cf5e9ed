"""What several test files need: slim specs, random nets, encoded images, score tables, commands."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.report.results import TableSummary
from evaluation.scores.table import OK, Scores
from infer.spec import ModelSpec, Preprocessing, Size
from trainer.checkpoint import Checkpoint, load, save
from trainer.loop.start import start_weights
from trainer.miniature import WNIDS
from trainer.nets.zoo import Net, build_net

Checkpoints = Callable[..., Path]
"""The fixture `slim_checkpoint`."""
Exported = Callable[..., Path]
"""The fixture `exported`."""

VGG_NETS = ("A", "A-LRN", "B", "C", "D", "E")
NETS = (*VGG_NETS, "googlenet")
FULL_SIZE = [net if net == "googlenet" else pytest.param(net, marks=pytest.mark.full) for net in NETS]
"""The nets as parameters of slow tests: one with `make test-slow`, the others, of minutes, with `make test-full`."""
MEAN_RGB = (123.68, 116.779, 103.939)


def slim_spec(net: str = "A", **changes: Any) -> ModelSpec:
    """A net an eighth as wide, for crops of 64 px (GoogLeNet 96), trained at S in [72, 120] (GoogLeNet [108, 180])."""
    googlenet = net == "googlenet"
    values: dict[str, Any] = {
        "name": f"slim-{net.lower()}",
        "net": net,
        "classes": WNIDS,
        "preprocessing": Preprocessing(MEAN_RGB, std_rgb=(64.0, 64.0, 64.0)),
        "train_short_px": (108, 180) if googlenet else (72, 120),
        "crop_px": 96 if googlenet else 64,
        "width": 1 / 8,
        "fc_width": 32,
    }
    return ModelSpec(**{**values, **changes})


def full_spec(net: str, **changes: Any) -> ModelSpec:
    """The paper's own net: 224 px, 1000 classes."""
    values: dict[str, Any] = {
        "name": f"full-{net.lower()}",
        "net": net,
        "classes": tuple(f"n{i:08d}" for i in range(1000)),
        "preprocessing": Preprocessing(MEAN_RGB),
        "train_short_px": 256,
        "fc_width": 1024 if net == "googlenet" else 4096,
    }
    return ModelSpec(**{**values, **changes})


def random_net(spec: ModelSpec, seed: int = 0) -> Net:
    """An untrained net whose every weight matters: He's start, biases random instead of zero; in eval mode."""
    torch.manual_seed(seed)
    net = build_net(spec)
    start_weights(net, "he")
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(0, 0.1)
    return net.eval()


def write_checkpoint(path: Path, spec: ModelSpec, seed: int = 0) -> Path:
    save(Checkpoint(spec, random_net(spec, seed).state_dict()), path)
    return path


def loud_checkpoint(path: Path, out: Path) -> Checkpoint:
    """Writes the same function with two layers whose gains cancel: what lies between them is beyond half's range."""
    checkpoint = load(path)
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    gain = 2.0**14
    for name in ("conv3_1.weight", "conv3_1.bias"):
        weights[name] *= gain
    weights["conv3_2.weight"] /= gain
    loud = dataclasses.replace(checkpoint, weights=weights)
    save(loud, out)
    return loud


def network_input(image: NDArray[np.uint8], spec: ModelSpec) -> torch.Tensor:
    """f32 [1, 3, h, w] of u8 [h, w, 3], mean subtracted."""
    mean, std = (torch.tensor(v) for v in (spec.preprocessing.mean_rgb, spec.preprocessing.std_rgb))
    return ((torch.tensor(image.copy()) - mean) / std).permute(2, 0, 1)[None]


def noise(size_px: Size, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size_px, 3), np.uint8)


def encode(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def summary_of(parts: Iterable[Scores]) -> TableSummary:
    summary = TableSummary()
    for part in parts:
        summary.add(part)
    return summary


def make_scores(posterior: Any, labels: Any, statuses: tuple[str, ...] | None = None, **metadata: str) -> Scores:
    """A score table typed by hand, of classes a, b, c ..."""
    rows = np.array(posterior, np.float32)
    names = tuple(f"{i}.jpg" for i in range(len(rows)))
    name = metadata.pop("model", "hand")
    spec = slim_spec("A", name=name, classes=tuple("abcdefghij"[: rows.shape[1]]))
    values = {
        "spec": spec.to_json(),
        "runtime": "torch-fp32",
        "protocol": "center",
        "scales": "88",
        "pooling": "scores",
        "dataset_id": "0123456789abcdef",
        "engine_sha256": "00",
        "commit": "abc",
        **metadata,
    }
    return Scores(names, np.array(labels, np.int32), statuses or (OK,) * len(rows), ("",) * len(rows), rows, values)
