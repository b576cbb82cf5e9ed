"""What the real builder of TensorRT-RTX makes of the view graph: inputs on the GPU, one kernel a rescaling pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import Exported

from export.model.precision import half_model
from export.model.source import read_source
from export.tensorrt.build import LIBRARIES, build
from export.tensorrt.profiles import shapes_from_options
from infer.tensorrt.log import messages

rtx = pytest.importorskip("tensorrt_rtx")


def parsed(path: Path) -> tuple[Any, ...]:
    """(network, and what must outlive it)."""
    builder = rtx.Builder(messages(rtx).logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, messages(rtx).logger)
    assert parser.parse_from_file(str(path))
    return network, parser, builder


@pytest.mark.parametrize("interface", ["views", "images", "nchw"])
@pytest.mark.parametrize("net", ["A", "googlenet"])
def test_no_input_or_output_is_wanted_on_the_host(net: str, interface: str, exported: Exported) -> None:
    """A shape tensor would have to lie there, and stop every call for its value."""
    network, *kept = parsed(exported(net, interface=interface))
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    assert len(inputs) == (7 if interface == "views" else 1) and len(outputs) >= 2
    for tensor in inputs + outputs:
        assert not tensor.is_shape_tensor and tensor.is_execution_tensor, tensor.name
    del inputs, outputs, network, kept


@pytest.mark.parametrize("net", ["A", "googlenet"])
def test_each_rescaling_pass_is_one_kernel(net: str, exported: Exported) -> None:
    """Gathered lines, their products and the sum: K times the image, which no memory ever holds."""
    source = read_source(exported(net, precision="fp16"))
    shapes = shapes_from_options(source.spec)
    build(LIBRARIES["tensorrt-rtx"], source.path, source.spec, shapes, ("sm86",))
    kernels = [
        set(re.findall(r"\[ONNX Layer: ([^\]]*)\]", line)) for line in messages(rtx).lines if line.startswith("Name: ")
    ]
    for axis in ("columns", "rows"):
        steps = {f"rescale.{axis}.{step}" for step in ("gather", "mul", "sum")}
        together = [kernel for kernel in kernels if steps <= kernel]
        gathering = [kernel for kernel in kernels if f"rescale.{axis}.gather" in kernel]
        assert len(together) == len(gathering) == len(shapes)  # one for each profile


@pytest.mark.parametrize(("net", "norms"), [("A-LRN", ["norm1"]), ("googlenet", ["norm1", "norm2"])])
@pytest.mark.parametrize("of", ["checkpoint", "model"])
def test_each_normalisation_is_one_kernel_from_half_to_half(
    net: str, norms: list[str], of: str, exported: Exported, tmp_path: Path
) -> None:
    """Its FP32 numbers, five squares for each value, stay in the kernel; also in the half version of an FP32 model."""
    path = exported(net, precision="fp16")
    if of == "model":
        path = tmp_path / "half.onnx"
        onnx.save(half_model(onnx.load(exported(net))), path)
    source = read_source(path)
    shapes = shapes_from_options(source.spec)
    build(LIBRARIES["tensorrt-rtx"], path, source.spec, shapes, ("sm86",))
    for norm in norms:
        kernels = [
            line for line in messages(rtx).lines if line.startswith("Name: ") and f"[ONNX Layer: {norm}." in line
        ]
        assert len(kernels) == len(shapes)  # one for each profile
        for line in kernels:
            tensors = re.sub(r"Constants: \[.*?\], Outputs", "Outputs", line)
            assert set(re.findall(r"Datatype: (\w+)", tensors)) == {"Half"}
