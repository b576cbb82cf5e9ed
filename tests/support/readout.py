"""A net that knows its images: random layers, and a classifier fitted to their features on labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from helpers import random_net

from export.to_onnx import export_onnx
from infer.data.dataset import open_dataset
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import read
from infer.spec import ModelSpec
from infer.views import plan_views
from trainer.checkpoint import Checkpoint, save

LAST = "fc8"


def readout_checkpoint(path: Path, spec: ModelSpec, data: Path, gain: float = 1.0) -> Path:
    """Writes a VGG net whose answers to the validation images of `data` are right, by their centre crops.

    gain: of one channel of relu3_1, taken back by the next layer's weights: the same answers in FP32, and in INT8 the
    other channels are lost beside it.
    """
    net = random_net(spec)
    layers = dict(net.named_modules())
    dataset = open_dataset(data)
    export_onnx(Checkpoint(spec, net.state_dict()), path.with_suffix(".features.onnx"), outputs=["features"])
    engine = OnnxEngine(path.with_suffix(".features.onnx"))
    features, labels = [], []
    for item in dataset.items:
        image = read(item.path)
        plan = plan_views(spec, "center", (image.shape[0], image.shape[1]))
        features.append(engine.run(engine.load([image]), [plan], ["features"])["features"][0])
        labels.append(spec.classes.index(dataset.classes[item.label]))

    # the classifier, by least squares with a constant
    known = np.stack(features).astype(np.float64)
    mean, spread = known.mean(0), known.std(0) + 1e-6
    inputs = np.c_[(known - mean) / spread, np.ones(len(known))]
    wanted = 8.0 * np.eye(len(spec.classes))[labels]
    fitted = np.linalg.solve(inputs.T @ inputs + 1.0 * np.eye(inputs.shape[1]), inputs.T @ wanted)
    weights = fitted[:-1].T / spread
    with torch.no_grad():
        layers[LAST].weight.copy_(torch.tensor(weights[:, :, None, None]))
        layers[LAST].bias.copy_(torch.tensor(fitted[-1] - weights @ mean))
        layers["conv3_1"].weight[0] *= gain
        layers["conv3_1"].bias[0] *= gain
        layers["conv3_2"].weight[:, 0] /= gain
    save(Checkpoint(spec, net.state_dict()), path)
    return path
