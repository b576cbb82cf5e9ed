"""What the tests of TensorRT engines share: building by the command, and a graph that is not what it says."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.to_trt import main

Checkpoints = Callable[..., Path]
OneLine = Callable[[], str]


class Built(NamedTuple):
    engine: Path
    sidecar: dict[str, Any]
    printed: list[str]


def build_engine(*argv: object) -> Built:
    """Runs the command, which must succeed."""
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        assert main([str(value) for value in argv]) == 0
    lines = stdout.getvalue().splitlines()
    engine = Path(lines[-2].split(": ")[0])
    return Built(engine, json.loads(engine.with_name(engine.name + ".json").read_text()), lines)


def with_one_single_convolution(model: onnx.ModelProto) -> onnx.ModelProto:
    """conv3_2 computed in FP32 between casts, with weights that are no halves."""
    graph = model.graph
    place, node = next((i, node) for i, node in enumerate(graph.node) if node.name == "conv3_2")
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for i, name in enumerate(node.input[1:], 1):
        values = numpy_helper.to_array(weights[name]).astype(np.float32) * np.float32(1.0001)
        node.input[i] = f"{name}.single"
        graph.initializer.append(numpy_helper.from_array(values, node.input[i]))
    before = helper.make_node("Cast", [node.input[0]], ["before"], "before", to=TensorProto.FLOAT)
    after = helper.make_node("Cast", ["after"], [node.output[0]], "after", to=TensorProto.FLOAT16)
    node.input[0], node.output[0] = "before", "after"
    graph.node.insert(place, before)
    graph.node.insert(place + 2, after)
    return model
