"""A torch net's layers as ONNX nodes, from torch.fx's record of its forward.

Just the layers that our nets are made of; another one is an error, not an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, fx, nn
from torch.nn import functional as F

from trainer.nets.lrn import LRN
from trainer.nets.zoo import Net

from .writer import GraphWriter


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, LRN) or super().is_leaf_module(module, qualified_name)


def write_net(w: GraphWriter, net: Net, x: str, *, half: bool) -> tuple[str, str]:
    """Writes the net's layers on input `x` [N, 3, h, w]; returns (penultimate activations, class score map).

    Raises NotImplementedError for a layer that has no ONNX form here.
    """
    net = net.eval()
    graph = _Tracer().trace(net)
    modules = dict(net.named_modules())
    values: dict[fx.Node, str] = {}
    penultimate = scores = x

    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "call_module":
            source = values[node.args[0]]
            layer = modules[str(node.target)]
            values[node] = _module(w, layer, source, str(node.target), half)
            if isinstance(layer, nn.Conv2d):
                penultimate, scores = source, values[node]
        elif node.op == "call_function":
            values[node] = _function(w, node, values)
        elif node.op == "output":
            assert values[node.args[0]] == scores, "a net ends with its classifier"
    return penultimate, scores


def _module(w: GraphWriter, layer: nn.Module, x: str, name: str, half: bool) -> str:
    match layer:
        case nn.Conv2d():
            assert layer.groups == 1 and not isinstance(layer.padding, str)
            weights = [_weights(w, layer.weight, f"{name}.weight", half)]
            if layer.bias is not None:
                weights.append(_weights(w, layer.bias, f"{name}.bias", half))
            return w.op(
                "Conv",
                [x, *weights],
                name,
                kernel_shape=_pair(layer.kernel_size),
                strides=_pair(layer.stride),
                pads=_pair(layer.padding) * 2,
                dilations=_pair(layer.dilation),
            )
        case nn.ReLU():
            return w.op("Relu", [x], name)
        case nn.MaxPool2d():
            return _pool(w, "MaxPool", x, name, layer)
        case nn.AvgPool2d():
            return _pool(w, "AveragePool", x, name, layer)
        case LRN():
            # in FP32: squares leave half's range
            if half:
                x = w.op("Cast", [x], f"{name}.single", to=TensorProto.FLOAT)
            settings = {"size": layer.n, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
            x = w.op("LRN", [x], f"{name}.lrn" if half else name, **settings)
            return w.op("Cast", [x], name, to=TensorProto.FLOAT16) if half else x
        case nn.Dropout():
            return x
    raise NotImplementedError(f"{name}: no ONNX form for {type(layer).__name__}")


def _function(w: GraphWriter, node: fx.Node, values: dict[fx.Node, str]) -> str:
    if node.target is F.relu:
        source = values[node.args[0]]  # type: ignore[index]
        return w.op("Relu", [source], f"{source}.relu")
    if node.target is torch.cat:
        sources = [values[part] for part in node.args[0]]  # type: ignore[index, union-attr]
        return w.op("Concat", sources, f"{sources[0].rsplit('.', 2)[0]}.concat", axis=1)
    raise NotImplementedError(f"{node.name}: no ONNX form for {node.target}")


def _pool(w: GraphWriter, kind: str, x: str, name: str, layer: nn.MaxPool2d | nn.AvgPool2d) -> str:
    return w.op(
        kind,
        [x],
        name,
        kernel_shape=_pair(layer.kernel_size),
        strides=_pair(layer.stride),
        pads=_pair(layer.padding) * 2,
        ceil_mode=int(layer.ceil_mode),
    )


def _weights(w: GraphWriter, tensor: Tensor, name: str, half: bool) -> str:
    with np.errstate(over="ignore"):  # infinite weights are found in the finished graph, where they may be rescaled
        return w.constant(name, tensor.detach().cpu().numpy().astype(np.float16 if half else np.float32))


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
