"""A classifier that is right by construction: class k is a level of grey, and the nearest level of K wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.from_onnx import main
from infer.spec import placeholder_classes

SIDE = 64
SHARP = 4000.0


def grey_level(number: int, count: int) -> int:
    return round(10 + 235 * number / max(count - 1, 1))


def write_grey(path: Path, number: int, count: int) -> None:
    """An image of class `number` of `count`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 72), (grey_level(number, count),) * 3).save(path)


def nearest_level(path: Path, classes: Sequence[str]) -> Path:
    """Writes the model of so many classes as one of ours, by the importer."""
    count = len(classes)
    levels = np.array([grey_level(number, count) / 255 for number in range(count)], np.float32)
    weights = np.zeros((count, 3), np.float32)
    weights[:, 0] = 2 * levels * SHARP  # of -(x - level)^2, what depends on the level

    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "nearest",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", count])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(-(levels**2) * np.float32(SHARP), "b")],
    )
    foreign = path.with_name(f"{path.stem}.foreign.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), foreign)

    argv = [str(foreign), "--mean", "0,0,0", "--std", "255,255,255", "--name", path.stem, "-o", str(path)]
    if tuple(classes) != placeholder_classes(count):
        names = path.with_name(f"{path.stem}.txt")
        names.write_text("\n".join(classes), encoding="utf-8")
        argv += ["--classes", str(names)]
    assert main(argv) == 0
    return path
