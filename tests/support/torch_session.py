"""An ONNX model of ours computed by torch, operator by operator, on the device on which its weights lie. For tests.

It takes the place of onnxruntime.InferenceSession in the double of TensorRT where a real GPU is (torch_tensorrt.py).
Only the operators that our exporter writes are known; another one raises AttributeError with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

TYPES = {
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.FLOAT: torch.float32,
}
NAMES = {
    TensorProto.UINT8: "tensor(uint8)",
    TensorProto.INT32: "tensor(int32)",
    TensorProto.FLOAT16: "tensor(float16)",
    TensorProto.FLOAT: "tensor(float)",
}


class Value(NamedTuple):
    """An input or output as ONNX Runtime describes it."""

    name: str
    type: str
    shape: list[int | str]


class TorchSession:
    """The calls of onnxruntime.InferenceSession that fake_tensorrt.py makes; answers are tensors on `device`."""

    def __init__(self, path: str, device: str) -> None:
        graph = onnx.load(path).graph
        self.device = torch.device(device)
        self._inputs, self._outputs = ([_value(one) for one in values] for values in (graph.input, graph.output))
        self._weights = {tensor.name: self._weight(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
        self._nodes = [
            (
                node.op_type,
                [name for name in node.input if name],
                node.output[0],
                {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute},
            )
            for node in graph.node
        ]

    def get_inputs(self) -> list[Value]:
        return self._inputs

    def get_outputs(self) -> list[Value]:
        return self._outputs

    @torch.inference_mode()
    def run(self, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[Tensor]:
        values: dict[str, Tensor] = dict(self._weights)
        for name, given in feed.items():
            values[name] = torch.as_tensor(np.array(given) if isinstance(given, np.ndarray) else given).to(self.device)
        for kind, inputs, output, attributes in self._nodes:
            values[output] = getattr(self, f"_{kind}")(*(values[name] for name in inputs), **attributes)
        return [values[name] for name in outputs]

    def _weight(self, array: np.ndarray[Any, Any]) -> Tensor:
        """Shapes, axes and scalars stay on the host."""
        tensor = torch.from_numpy(array.copy())
        if tensor.dtype == torch.int64 or tensor.ndim == 0:
            return tensor
        return tensor.to(
            self.device, memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        )

    # operators, by their names

    def _Cast(self, x: Tensor, to: int) -> Tensor:
        return x.to(TYPES[to])

    def _Identity(self, x: Tensor) -> Tensor:
        return x

    def _Shape(self, x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        return torch.tensor(tuple(x.shape)[start:end])

    def _Reshape(self, x: Tensor, shape: Tensor) -> Tensor:
        return x.reshape([x.shape[place] if size == 0 else size for place, size in enumerate(shape.tolist())])

    def _Transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        return x.permute(*perm)

    def _Squeeze(self, x: Tensor, axes: Tensor) -> Tensor:
        return x.squeeze(int(axes))

    def _Unsqueeze(self, x: Tensor, axes: Tensor) -> Tensor:
        for axis in sorted(axes.reshape(-1).tolist()):
            x = x.unsqueeze(axis)
        return x

    def _Concat(self, *xs: Tensor, axis: int) -> Tensor:
        return torch.cat(xs, axis)

    def _Range(self, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        return torch.arange(int(start), int(limit), int(delta), dtype=start.dtype, device=self.device)

    def _Gather(self, x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
        found = torch.index_select(x, axis, indices.reshape(-1).to(x.device))
        return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])

    def _Add(self, x: Tensor, y: Tensor) -> Tensor:
        return self._together(torch.add, x, y)

    def _Sub(self, x: Tensor, y: Tensor) -> Tensor:
        return self._together(torch.sub, x, y)

    def _Mul(self, x: Tensor, y: Tensor) -> Tensor:
        return self._together(torch.mul, x, y)

    def _Max(self, x: Tensor, y: Tensor) -> Tensor:
        return self._together(torch.maximum, x, y)

    def _Min(self, x: Tensor, y: Tensor) -> Tensor:
        return self._together(torch.minimum, x, y)

    def _Mod(self, x: Tensor, y: Tensor) -> Tensor:
        return self._together(torch.remainder, x, y)

    def _Div(self, x: Tensor, y: Tensor) -> Tensor:
        """Of whole numbers as ONNX and C do, towards zero."""
        rounding = None if x.is_floating_point() else "trunc"
        return self._together(lambda a, b: torch.div(a, b, rounding_mode=rounding), x, y)

    def _ReduceSum(self, x: Tensor, axes: Tensor, keepdims: int = 1) -> Tensor:
        return x.sum(axes.tolist(), keepdim=bool(keepdims), dtype=x.dtype)

    def _ReduceMean(self, x: Tensor, axes: Tensor, keepdims: int = 1) -> Tensor:
        return x.mean(axes.tolist(), keepdim=bool(keepdims))

    def _Sqrt(self, x: Tensor) -> Tensor:
        return x.sqrt()

    def _Reciprocal(self, x: Tensor) -> Tensor:
        return x.reciprocal()

    def _Relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def _Softmax(self, x: Tensor, axis: int) -> Tensor:
        return F.softmax(x, axis)

    def _Conv(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, **how: Any) -> Tensor:
        return F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, bias, how["strides"], how["pads"][:2])

    def _MaxPool(self, x: Tensor, **how: Any) -> Tensor:
        kernel, ceil = how["kernel_shape"], bool(how.get("ceil_mode", 0))
        return F.max_pool2d(x, kernel, how["strides"], how["pads"][:2], ceil_mode=ceil)

    def _AveragePool(self, x: Tensor, **how: Any) -> Tensor:
        kernel, ceil = how["kernel_shape"], bool(how.get("ceil_mode", 0))
        return F.avg_pool2d(x, kernel, how["strides"], how["pads"][:2], ceil_mode=ceil, count_include_pad=False)

    def _LRN(self, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
        return F.local_response_norm(x, size, alpha, beta, bias)

    def _together(self, operation: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        if x.device != y.device:  # one is a shape or a scalar, of the host
            x, y = x.to(self.device), y.to(self.device)
        return operation(x, y)


def _value(described: onnx.ValueInfoProto) -> Value:
    tensor = described.type.tensor_type
    return Value(described.name, NAMES[tensor.elem_type], [dim.dim_param or dim.dim_value for dim in tensor.shape.dim])
