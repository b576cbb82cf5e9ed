"""Nets built to leave half's range, and their graphs in both precisions."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx
from helpers import random_net, slim_spec
from onnx import helper

from export.graph.view_graph import write_graph
from infer.spec import ModelSpec
from trainer.nets.zoo import Net

OUTPUTS = ("posterior", "posterior_positions", "pixel_sums", "score_map", "features")
LOUD = {
    "A": ("conv3_1", "conv3_2", 2.0**17),
    "A-LRN": ("conv1_1", "conv2_1", 2.0**14),  # the normalisation stands between; ONNX Runtime's is NaN above 1e7
    "googlenet": ("inception.3a.conv5x5", "classifier", 2.0**17),  # one branch of the first of nine concatenations
}
"""A layer that is made loud, a later one that takes the gain back, and the gain."""


def loud_net(net: str, **changes: Any) -> tuple[Net, ModelSpec]:
    spec = slim_spec(net, interface="images", outputs=OUTPUTS, **changes)
    built = random_net(spec)
    layers: Any = dict(built.named_modules())
    loud, quiet, gain = LOUD[net]
    for parameter in layers[loud].parameters():
        parameter.data *= gain
    layers[quiet].weight.data /= gain
    return built, spec


def graphs(net: Net, spec: ModelSpec) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(FP32, FP16), each with its spec."""
    made = []
    for precision in ("fp32", "fp16"):
        own = dataclasses.replace(spec, precision=precision)
        made.append(write_graph(net, own))
        helper.set_model_props(made[-1], {"spec": own.to_json()})
    return made[0], made[1]
