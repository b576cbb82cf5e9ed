"""An ONNX graph in the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

I32, F16, F32 = TensorProto.INT32, TensorProto.FLOAT16, TensorProto.FLOAT


class GraphWriter:
    """Nodes and initialisers as they are added. A tensor has the name of the node that it comes from."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output, called `name` like the node."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """An initialiser; the same name is the same values."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def i32(self, value: int) -> str:
        return self.constant(f"i32.{value}", np.array(value, np.int32))

    def axes(self, *values: int) -> str:
        return self.constant(f"axes.{','.join(map(str, values))}", np.array(values, np.int64))

    def size(self, x: str, axis: int, name: str) -> str:
        """Length of one axis, i32 scalar."""
        shape = self.op("Shape", [x], f"{name}.shape", start=axis, end=axis + 1)
        scalar = self.op("Squeeze", [shape, self.axes(0)], f"{name}.squeeze")
        return self.op("Cast", [scalar], name, to=I32)

    def clip(self, x: str, low: str | None, high: str | None, name: str) -> str:
        """i32 between two scalars, either of which may be absent."""
        if low is not None:
            x = self.op("Max", [x, low], name if high is None else f"{name}.max")
        return x if high is None else self.op("Min", [x, high], name)
