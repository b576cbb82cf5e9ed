"""Bytes become int32 by way of FP32, as TensorRT's DataType page wants UINT8: the same bits, no more kernels."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Exported, noise
from onnx import TensorProto

from export.model.source import read_source
from export.tensorrt.build import LIBRARIES, build
from export.tensorrt.profiles import shapes_from_options
from infer.onnx_engine import OnnxEngine
from infer.tensorrt.log import messages
from infer.views import PROTOCOLS, plan_views


def directly(path: Path, target: Path) -> Path:
    """The model with the cast from bytes to int32 in one step."""
    model = onnx.load(path)
    (name,) = (value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8)
    (first,) = (node for node in model.graph.node if name in node.input)
    (second,) = (node for node in model.graph.node if first.output[0] in node.input)
    assert (first.op_type, first.attribute[0].i) == ("Cast", TensorProto.FLOAT)
    assert (second.op_type, second.attribute[0].i) == ("Cast", TensorProto.INT32)
    second.input[0] = name
    model.graph.node.remove(first)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("interface", ["views", "images"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_computes_the_same_bits(
    interface: str, precision: str, exported: Exported, tmp_path: Path
) -> None:
    path = exported("A", interface=interface, precision=precision)
    rescale: Any = "graph" if interface == "views" else None
    alone = Path(shutil.copyfile(path, tmp_path / "alone.onnx"))  # without a check graph beside it
    engines = [OnnxEngine(one, rescale=rescale) for one in (alone, directly(path, tmp_path / "direct.onnx"))]
    image = noise((90, 130))
    image[:16, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)  # every byte there is
    for protocol in PROTOCOLS:
        plan = plan_views(engines[0].spec, protocol, (90, 130))
        outputs = ("posterior", "posterior_positions", "pixel_sums", "features")
        one, other = (engine.run(engine.load([image]), [plan], outputs) for engine in engines)
        for name in outputs:
            assert one[name].tobytes() == other[name].tobytes(), (protocol, name)


@pytest.mark.parametrize("interface", ["views", "images"])
def test_the_real_builder_makes_no_kernel_more_of_it(interface: str, exported: Exported, tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    path = exported("A", interface=interface, precision="fp16")
    kernels = []
    for model in (path, directly(path, tmp_path / "direct.onnx")):
        source = dataclasses.replace(read_source(path), path=model)
        shapes = shapes_from_options(source.spec)
        build(LIBRARIES["tensorrt-rtx"], model, source.spec, shapes, ("sm86",))
        kernels.append(sum(line.startswith("Name: ") for line in messages(rtx).lines))
    assert kernels[0] == kernels[1] > 0
