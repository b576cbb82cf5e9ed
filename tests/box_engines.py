"""Box nets for tests: a slim classifier whose class scores go through one more 1x1 convolution, to `box_map`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from infer.spec import ModelSpec


def make_box_engine(
    classifier: Path,
    path: Path,
    biases: Any,
    *,
    weights: Any = None,
    outputs: tuple[str, ...] = ("pixel_sums", "box_map"),
    **changes: Any,
) -> Path:
    """biases [channels]: the box of every position; with weights [channels, classes] plus these times the scores.

    `classifier` is an ONNX model with score_map; `changes` are of its spec.
    """
    model = onnx.load(classifier)
    bias = np.array(biases, np.float32)
    (scores,) = (o for o in model.graph.output if o.name == "score_map")
    classes = scores.type.tensor_type.shape.dim[1].dim_value
    kernel = np.zeros((len(bias), classes), np.float32) if weights is None else np.array(weights, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel[:, :, None, None], "box.weight"))
    model.graph.initializer.append(numpy_helper.from_array(bias, "box.bias"))
    model.graph.node.append(helper.make_node("Conv", ["score_map", "box.weight", "box.bias"], ["box_map"], "box_map"))
    shape = ("views", len(bias), "map_height", "map_width")
    kept = [o for o in model.graph.output if o.name in outputs]
    del model.graph.output[:]
    model.graph.output.extend([*kept, helper.make_tensor_value_info("box_map", TensorProto.FLOAT, shape)])
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    spec = dataclasses.replace(
        ModelSpec.from_json(metadata["spec"]), **{"name": path.stem, "outputs": outputs, **changes}
    )
    helper.set_model_props(model, {"spec": spec.to_json(), "self_test": json.dumps(None)})
    onnx.save(model, path)
    return path
