"""Box nets for tests: a slim classifier whose class scores go through one more 1x1 convolution, to `box_map`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from helpers import slim_spec, write_checkpoint
from onnx import TensorProto, helper, numpy_helper

from export.to_onnx import export_onnx
from infer.spec import ModelSpec
from trainer.checkpoint import load, save


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


MAPS = ("posterior", "score_map", "pixel_sums")


def classifier(tmp_path: Path, **more: Any) -> Path:
    checkpoint = load(write_checkpoint(tmp_path / "c.pt", slim_spec("A", **more)))
    export_onnx(checkpoint, tmp_path / "c.onnx", outputs=MAPS)
    return tmp_path / "c.onnx"


def box_net(tmp_path: Path, name: str, spec: ModelSpec, *, seed: int, bias: Sequence[float] = ()) -> Path:
    """An untrained net whose boxes are some 0.6 of a crop, here and there."""
    checkpoint = load(write_checkpoint(tmp_path / f"{name}.pt", dataclasses.replace(spec, name=name), seed=seed))
    weights = dict(checkpoint.weights)
    count = len(weights["fc8.bias"]) // 4
    rng = np.random.default_rng(seed)
    base = np.tile([0.0, 0.0, 0.6, 0.5], count) + rng.normal(0, 0.05, 4 * count)
    weights["fc8.bias"] = torch.from_numpy((base if not bias else np.tile(bias, count)).astype(np.float32))
    weights["fc8.weight"] = weights["fc8.weight"] * 0.2
    save(dataclasses.replace(checkpoint, weights=weights), tmp_path / f"{name}.pt")
    export_onnx(load(tmp_path / f"{name}.pt"), tmp_path / f"{name}.onnx", infinite_weights="keep")
    return tmp_path / f"{name}.onnx"
