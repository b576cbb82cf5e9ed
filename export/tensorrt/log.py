"""The builder's log: kept in memory, and read for what the library says nowhere else.

Needs no library to read: the lines are text, of the forms that TensorRT-RTX 1.7 writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_LOGGERS: dict[str, Any] = {}


def logger(trt: Any) -> Any:
    """The library keeps the logger of the first object that lives and ignores others: there is one, to be emptied."""
    if trt.__name__ not in _LOGGERS:

        def __init__(self: Any) -> None:
            trt.ILogger.__init__(self)
            self.messages = []

        def log(self: Any, severity: Any, message: str) -> None:
            self.messages.append((severity.name, message))

        _LOGGERS[trt.__name__] = type("Log", (trt.ILogger,), {"__init__": __init__, "log": log})()
    return _LOGGERS[trt.__name__]


def errors(log: Any) -> str:
    """The library's own words where it failed, as one line; "" where it says nothing."""
    return one_line("; ".join(message for severity, message in log.messages if severity.endswith("ERROR")))


def lines(log: Any) -> list[str]:
    return [line for _, message in log.messages for line in message.splitlines()]


def one_line(text: str) -> str:
    return " ".join(text.split())


def activation_bytes(lines: Sequence[str], profiles: int) -> tuple[int | None, ...]:
    """Bytes of activations of each profile.

    TensorRT-RTX 1.7 logs `Constructing optimization profile number 0 [1/3].`, then what it does for this profile, then
    `Total Activation Memory: 404702720 bytes`; once each, whatever the number of targets.
    """
    found: dict[int, int] = {}
    current = 0
    for line in lines:
        if match := re.search(r"Constructing optimization profile number (\d+)", line):
            current = int(match[1])
        elif match := re.search(r"Total Activation Memory: (\d+)", line):
            found[current] = int(match[1])
    return tuple(found.get(profile) for profile in range(profiles))


class Kernel(NamedTuple):
    """A kernel of the engine: the convolutions whose weights it holds, and their types, "Half" or "Float"."""

    layers: tuple[str, ...]
    weights: frozenset[str]


def convolution_kernels(lines: Sequence[str], convolutions: set[str]) -> list[Kernel]:
    """The kernels that the log's list of layers says hold weights of `convolutions`, once for each profile.

    With DETAILED verbosity a build ends with a line for each kernel: `Name: conv1_1_myl1_5, LayerType: correlation,
    Inputs: [...], Constants: [ { ..., Dimensions: [8,4,3,3], ..., Datatype: Half, ... }, ...], Outputs: [...], ...,
    Metadata: [ONNX Layer: conv1_1][ONNX Layer: relu1_1]`. Kernels that pad or shuffle a convolution's input name it
    too; what tells them apart are the weights, constants with two or more dimensions above 1. (A kernel's two scale
    factors are single Floats in FP16 as well.) Not tried: TensorRT's own kernels say `Weights: {"Type": "Half", ...}`
    in its guide to the engine inspector.
    """
    kernels = []
    for line in lines:
        if not line.startswith("Name: "):
            continue
        layers = tuple(name for name in re.findall(r"\[ONNX Layer: ([^\]]*)\]", line) if name in convolutions)
        constants = re.search(r"Constants: \[(.*?)\], Outputs: ", line)
        weights = set(re.findall(r'Weights: \{ ?"?Type"?: "?(\w+)', line))
        for dimensions, kind in re.findall(
            r"Dimensions: \[([\d,]*)\].*?Datatype: (\w+)", constants[1] if constants else ""
        ):
            if sum(size not in ("", "1") for size in dimensions.split(",")) > 1:
                weights.add(kind)
        if layers and weights:
            kernels.append(Kernel(layers, frozenset(weights)))
    return kernels
