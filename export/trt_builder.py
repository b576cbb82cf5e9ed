"""One builder for TensorRT and TensorRT-RTX: an ONNX graph and its profiles in, a plan and what its log says out.

FP16 is a property of the graph: builders of either kind take it as it is (strongly typed), and one that is given a
single-precision graph builds a single-precision engine without a word. So the precisions are counted, and compared
with the kernels that the builder's log lists. Nothing here prints, and TensorRT is imported inside functions.

The TensorRT-RTX branch is tested. TensorRT itself cannot be installed where this was written: its branch makes the same
calls, whose names were checked against the bindings of 11.4, and has not run.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from infer.spec import ModelSpec, Precision, ShapeRange

from .profiles import profile_entries

BuilderName = Literal["tensorrt", "tensorrt-rtx"]


class BuildError(RuntimeError):
    """An engine that cannot be built; one line: got, expected, do this."""


class TargetError(ValueError):
    """A --target that this builder cannot build for; one line."""


@dataclass(frozen=True, slots=True)
class Library:
    """All in which the two differ. Both get the strongly typed flag: TensorRT 10 needs it, 11 and RTX take it."""

    name: BuilderName
    module: str
    oldest: tuple[int, int]
    install: str
    tool: str  # runs a plan; comes with the SDK, not with the wheel
    builds_for_other_gpus: bool  # config.set_compute_capability; otherwise the plan is for the GPU present


LIBRARIES: dict[BuilderName, Library] = {
    "tensorrt": Library("tensorrt", "tensorrt", (10, 9), "pip install tensorrt", "trtexec", False),
    "tensorrt-rtx": Library("tensorrt-rtx", "tensorrt_rtx", (1, 7), "pip install tensorrt-rtx", "tensorrt_rtx", True),
}
"""In the order of preference of `auto`."""

DEFAULT_TARGETS = range(75, 121)
"""Compute capabilities that an engine is built for where there is no GPU, as far as the library knows them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A serialised engine, with what the parsed network and the builder's log say of it.

    Tensors are the outputs of the network's layers. The log lists `kernels` that hold weights of convolutions, all of
    the right precision; `activation_bytes` has a number for each profile, None where the log does not say it.
    """

    data: bytes
    builder: str
    half_tensors: int
    float_tensors: int
    convolutions: int
    kernels: int
    activation_bytes: tuple[int | None, ...]


def choose_library(choice: Literal["auto", "tensorrt", "tensorrt-rtx"]) -> Library:
    """The library asked for, or the first that is installed. Raises BuildError naming the installs."""
    candidates = [library for name, library in LIBRARIES.items() if choice in ("auto", name)]
    for library in candidates:
        try:
            version = str(importlib.import_module(library.module).__version__)
        except ImportError:
            continue
        if tuple(int(part) for part in version.split(".")[:2]) < library.oldest:
            oldest = ".".join(map(str, library.oldest))
            raise BuildError(f"{library.name} {version} is too old, expected {oldest} or newer: {library.install} -U")
        return library
    installs = "  or  ".join(library.install for library in candidates)
    raise BuildError(f"{' and '.join(library.name for library in candidates)} cannot be imported: {installs}")


def choose_targets(library: Library, asked: Sequence[str]) -> tuple[str, ...]:
    """What to build for: the targets asked for, or the GPU present, or (TensorRT-RTX) all of DEFAULT_TARGETS.

    Raises TargetError for a target that is none or that this library cannot build for, BuildError where TensorRT finds
    no GPU or TensorRT-RTX does not know the GPU.
    """
    present = gpu_present()
    if not library.builds_for_other_gpus and asked:
        raise TargetError(
            f"--target: {library.name} tunes kernels on the GPU it builds for and cannot build for another: "
            "leave it out, or use --builder tensorrt-rtx"
        )
    if not library.builds_for_other_gpus:
        if present is None:
            raise BuildError(
                f"{library.name} builds on the GPU that the engine is for, and there is none here: run it there, or "
                "use --builder tensorrt-rtx --target ..."
            )
        return (present,)
    members = importlib.import_module(library.module).ComputeCapability.__members__
    known = sorted((name.lower() for name in members if re.fullmatch(r"SM\d+", name)), key=_capability)
    for target in asked:
        if target not in known:
            raise TargetError(f"--target: {library.name} does not know {target!r}, only {', '.join(known)}")
    if asked or present is None:
        return tuple(t for t in known if (t in asked if asked else _capability(t) in DEFAULT_TARGETS))
    if present not in known:
        raise BuildError(
            f"{library.name} does not run on the {present} GPU here, only on {', '.join(known)}: "
            "use --builder tensorrt, or name other GPUs with --target"
        )
    return (present,)


def gpu_present() -> str | None:
    """Compute capability of the first GPU as `sm86`, None without a GPU or a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # cuda.h: ..._COMPUTE_CAPABILITY_MAJOR
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    )
    return None if failed else f"sm{major.value}{minor.value}"


def build(library: Library, path: Path, spec: ModelSpec, shapes: Sequence[ShapeRange], targets: Sequence[str]) -> Plan:
    """Builds the ONNX model `path`, one optimisation profile for each of `shapes`.

    Raises BuildError with the library's own words where it refuses, and for a convolution of another precision than
    the spec's, in the network or among the kernels of the log.
    """
    trt = importlib.import_module(library.module)
    log = _logger(trt)
    log.messages.clear()
    try:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
    except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
        raise BuildError(f"{library.name} cannot start: {_errors(log) or error}") from None
    if not parser.parse_from_file(str(path)):
        errors = (parser.get_error(i) for i in range(parser.num_errors))
        said = "; ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors)
        raise BuildError(f"{path}: {library.name} cannot read it: {_one_line(said) or _errors(log)}")
    outputs, convolutions = _types(trt, network)
    _check(path, "convolutions", list(convolutions.items()), spec.precision)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # types of kernels in the log, names for profilers
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: FP32 would be 10 bits of mantissa
    for shape in shapes:
        profile = builder.create_optimization_profile()
        for name, entry in profile_entries(shape, spec.interface).items():
            profile.set_shape(name, *entry)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"{path}: {library.name} refused profile {shape.explain()}: {_errors(log)}")
    if library.builds_for_other_gpus:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{path}: {library.name} could not build it: {_errors(log) or 'it does not say why'}")
    lines = [line for _, message in log.messages for line in message.splitlines()]
    kernels = convolution_kernels(lines, set(convolutions))
    found = [(", ".join(kernel.layers), "/".join(sorted(kernel.weights))) for kernel in kernels]
    _check(path, "kernels of convolutions in the builder's log", found, spec.precision)
    return Plan(
        bytes(plan),
        f"{library.name} {trt.__version__}",
        outputs.count("Half"),
        outputs.count("Float"),
        len(convolutions),
        len(kernels),
        activation_bytes(lines, len(shapes)),
    )


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


_KINDS: dict[Precision, str] = {"fp16": "Half", "fp32": "Float"}
"""What the log calls each precision."""


def _types(trt: Any, network: Any) -> tuple[list[str], dict[str, str]]:
    """Types of all layers' outputs; the one type of all that a convolution reads and writes, or "mixed"."""
    names = {trt.DataType.HALF: "Half", trt.DataType.FLOAT: "Float"}
    outputs: list[str] = []
    convolutions: dict[str, str] = {}
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        own = [names.get(layer.get_output(i).dtype, "") for i in range(layer.num_outputs)]
        outputs += own
        if layer.type == trt.LayerType.CONVOLUTION:
            # weights are an input, or a constant of the input's type: strongly typed networks allow no other
            inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
            own += [names.get(tensor.dtype, "") for tensor in inputs if tensor is not None]
            convolutions[layer.name] = own[0] if len(set(own)) == 1 else "mixed"
    return outputs, convolutions


def _check(path: Path, what: str, found: Sequence[tuple[str, str]], precision: Precision) -> None:
    wrong = [(name, kind) for name, kind in found if kind != _KINDS[precision]]
    if wrong:
        raise BuildError(
            f"{path}: {len(wrong)} of {len(found)} {what} are not {precision}, first {wrong[0][0]} ({wrong[0][1]}): "
            f"precision is a property of the graph, so export it again with --precision {precision}"
        )


_LOGGERS: dict[str, Any] = {}


def _logger(trt: Any) -> Any:
    """The library keeps the logger of the first object that lives and ignores others: there is one, to be emptied."""
    if trt.__name__ not in _LOGGERS:

        def __init__(self: Any) -> None:
            trt.ILogger.__init__(self)
            self.messages = []

        def log(self: Any, severity: Any, message: str) -> None:
            self.messages.append((severity.name, message))

        _LOGGERS[trt.__name__] = type("Log", (trt.ILogger,), {"__init__": __init__, "log": log})()
    return _LOGGERS[trt.__name__]


def _errors(log: Any) -> str:
    return _one_line("; ".join(message for severity, message in log.messages if severity.endswith("ERROR")))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _capability(target: str) -> int:
    return int(target.removeprefix("sm"))
