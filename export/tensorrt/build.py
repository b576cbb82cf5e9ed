"""One builder for TensorRT and TensorRT-RTX: an ONNX graph and its profiles in, a plan and what its log says out.

FP16 is a property of the graph: builders of either kind take it as it is (strongly typed), and one that is given a
single-precision graph builds a single-precision engine without a word. So the precisions are counted, and compared
with the kernels that the builder's log lists. TensorRT is imported inside functions; what differs from one library to
the other is in trt_library.LIBRARIES.

The TensorRT-RTX branch is tested. TensorRT itself cannot be installed where this was written: its branch makes the same
calls, whose names were checked against the bindings of 10.9 and 11.4, and has not run.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infer.shapes import ShapeRange
from infer.spec import ModelSpec, Precision

from . import log as trt_log
from . import options as trt_options
from . import progress as trt_progress
from .library import BuildError, Library
from .options import BuildOptions
from .profiles import profile_entries


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
    timing_cache: bytes | None = None


def build(
    library: Library,
    path: Path,
    spec: ModelSpec,
    shapes: Sequence[ShapeRange],
    targets: Sequence[str],
    options: BuildOptions = BuildOptions(),  # noqa: B008, it is frozen
) -> Plan:
    """Builds the ONNX model `path`, one optimisation profile for each of `shapes`; a bar on a terminal, Ctrl-C ends it.

    Raises BuildError with the library's own words where it refuses, and for a convolution of another precision than
    the spec's, in the network or among the kernels of the log.
    """
    return trt_progress.interruptible(lambda stop: _build(library, path, spec, shapes, targets, options, stop))


def _build(
    library: Library,
    path: Path,
    spec: ModelSpec,
    shapes: Sequence[ShapeRange],
    targets: Sequence[str],
    options: BuildOptions,
    stop: threading.Event,
) -> Plan:
    trt = importlib.import_module(library.module)
    log = trt_log.logger(trt)
    log.messages.clear()
    try:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
    except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
        raise BuildError(f"{library.name} cannot start: {trt_log.errors(log) or error}") from None
    if not parser.parse_from_file(str(path)):
        errors = (parser.get_error(i) for i in range(parser.num_errors))
        said = "; ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors)
        raise BuildError(f"{path}: {library.name} cannot read it: {trt_log.one_line(said) or trt_log.errors(log)}")
    outputs, convolutions = _types(trt, network)
    _check(path, "convolutions", list(convolutions.items()), spec.precision)
    if spec.precision == "fp16" and "Half" not in outputs:
        raise BuildError(f"{path}: no half tensor in the network, although its spec says fp16: export it again")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # types of kernels in the log, names for profilers
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: FP32 would be 10 bits of mantissa
    timing_cache = trt_options.apply(trt, config, options)
    for shape in shapes:
        profile = builder.create_optimization_profile()
        for name, entry in profile_entries(shape, spec.interface).items():
            profile.set_shape(name, *entry)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"{path}: {library.name} refused profile {shape.explain()}: {trt_log.errors(log)}")
    if library.builds_for_other_gpus:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
    with trt_progress.progress_bar() as bar:
        monitor = trt_progress.monitor(trt, bar, stop)  # lives as long as the config, which does not own it
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        limit = f" within --workspace {options.workspace_mb}" if options.workspace_mb is not None else ""
        said = trt_log.errors(log) or "it does not say why"
        raise BuildError(f"{path}: {library.name} could not build it{limit}: {said}")
    lines = trt_log.lines(log)
    kernels = trt_log.convolution_kernels(lines, set(convolutions))
    found = [(", ".join(kernel.layers), "/".join(sorted(kernel.weights))) for kernel in kernels]
    _check(path, "kernels of convolutions in the builder's log", found, spec.precision)
    return Plan(
        bytes(plan),
        f"{library.name} {trt.__version__}",
        outputs.count("Half"),
        outputs.count("Float"),
        len(convolutions),
        len(kernels),
        trt_log.activation_bytes(lines, len(shapes)),
        None if timing_cache is None else bytes(timing_cache.serialize()),
    )


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
