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
from paths import GOLDEN

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


TENSORRT_LISTS = ("tensorrt_10_3_api.txt", "tensorrt_11_4_api.txt")


def frozen_api(name: str) -> set[str]:
    """`Class.attribute` and `module.attribute` for every public name of a release of TensorRT."""
    lines = (line for line in (GOLDEN / name).read_text().splitlines() if not line.startswith(("#", ">")))
    return {
        f"{owner}.{attribute}"
        for owner, _, rest in (line.partition(":") for line in lines)
        for attribute in rest.split()
    }


def frozen_parameters(name: str) -> dict[str, list[list[str]]]:
    """By `Class.method` the parameters of each overload, a ? behind one with a default, of a release of TensorRT."""
    found: dict[str, list[list[str]]] = {}
    for line in (GOLDEN / name).read_text().splitlines():
        if line.startswith("> "):
            method, *parameters = line[2:].split()
            found.setdefault(method, []).append(parameters)
    return found


class Watched:
    """A TensorRT module, class or object that records what is touched of it, as `Class.attribute`.

    With `allowed` it has nothing else, whatever the real one has. `instead` replaces methods: it gets the real object
    and the arguments.
    """

    def __init__(self, real: Any, owner: str, touched: set[str], allowed: set[str] | None, instead: Any) -> None:
        self.__dict__.update(_real=real, _owner=owner, _rest=(touched, allowed, instead), _set={})

    def _touch(self, name: str) -> str:
        touched, allowed, _ = self._rest
        path = f"{self._owner}.{name}"
        if allowed is not None and path not in allowed:
            raise AttributeError(f"{path}: this TensorRT has no such name")
        touched.add(path)
        return path

    def __getattr__(self, name: str) -> Any:
        if name in self._set:
            return self._set[name]
        if name in ("__spec__", "__members__"):
            return getattr(self._real, name)
        path = self._touch(name)
        _, _, instead = self._rest
        if path in instead:
            return lambda *arguments: self._wrap(instead[path](self._real, *map(_real_of, arguments)))
        value = getattr(self._real, name)
        if isinstance(value, type):
            return value if name in ("ILogger", "IProgressMonitor") else Watched(value, name, *self._rest)
        if callable(value) and not _is_trt(value):
            return lambda *arguments: self._wrap(value(*map(_real_of, arguments)))
        return self._wrap(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            self._set[name] = value
            return
        path = self._touch(name)
        _, _, instead = self._rest
        (instead[path] if path in instead else lambda real, new: setattr(real, name, new))(self._real, _real_of(value))

    def __call__(self, *arguments: Any) -> Any:
        self._touch("__init__")
        return self._wrap(self._real(*map(_real_of, arguments)))

    def __bytes__(self) -> bytes:
        return bytes(self._real)

    def _wrap(self, value: Any) -> Any:
        return Watched(value, type(value).__name__, *self._rest) if _is_trt(value) else value


def _is_trt(value: Any) -> bool:
    """Whether it is an object of the library's own classes; enumerations are plain values."""
    return type(value).__module__.startswith("tensorrt") and not hasattr(type(value), "__members__")


def _real_of(value: Any) -> Any:
    return value._real if isinstance(value, Watched) else value


def tensorrt_double(rtx: Any, touched: set[str], allowed: set[str]) -> Watched:
    """TensorRT as seen through the names that a release of it has: behind them is TensorRT-RTX, which builds for sm89,
    "the GPU present", and is spared what only TensorRT can do."""

    class Cache:
        """A timing cache that has one more kernel after a build."""

        __module__ = "tensorrt_double"

        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> bytes:
            return self.data + b"+1"

    Cache.__name__ = "ITimingCache"

    def create_builder_config(builder: Any) -> Any:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        return config

    def set_flag(config: Any, flag: Any) -> None:
        if flag != rtx.BuilderFlag.VERSION_COMPATIBLE:
            config.set_flag(flag)

    instead = {
        "Builder.create_builder_config": create_builder_config,
        "IBuilderConfig.set_flag": set_flag,
        "IBuilderConfig.hardware_compatibility_level": lambda config, level: None,
        "IBuilderConfig.create_timing_cache": lambda config, data: Cache(data),
        "IBuilderConfig.set_timing_cache": lambda config, cache, ignore: cache.data != b"of another GPU",
    }
    double = Watched(rtx, "module", touched, allowed, instead)
    double.__name__, double.__version__ = "tensorrt", "11.4.0.106"
    return double
