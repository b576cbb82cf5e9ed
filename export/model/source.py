"""The ONNX model that an engine is built from: exported from a checkpoint or read, and checked against what was asked.

Precision, interface and outputs are properties of the graph, so what the graph lacks is refused here, with the command
that makes another.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infer.spec import ModelSpec, SpecError

from ..errors import ModelError
from .request import Request


@dataclass(frozen=True, slots=True)
class Source:
    """An ONNX model on its way to an engine: its file, and what its metadata say.

    `notes` are entries for the engine's sidecar by those who changed or judged the model on the way.
    """

    path: Path
    spec: ModelSpec
    self_test: Any = None  # None: it carries none
    notes: Mapping[str, Any] = field(default_factory=dict)


def export_checkpoint(
    path: Path,
    onnx_path: Path,
    request: Request,
    check: Callable[[ModelSpec], object] = lambda spec: None,
    infinite_weights: Literal["refuse", "keep"] = "refuse",
) -> Source:
    """Writes the ONNX model of a checkpoint. `check` may refuse its spec before that: exporting takes longest.

    Raises ModelError for a file that is no checkpoint, or for weights beyond half unless they are to be rescaled.
    """
    from trainer.checkpoint import CheckpointError

    from ..graph.outputs import ON_REQUEST
    from .from_checkpoint import export_onnx, load_with_source

    try:
        checkpoint = load_with_source(path, request.outputs)
    except CheckpointError as error:
        raise ModelError(str(error)) from None
    interface = request.interface or "views"
    check(dataclasses.replace(checkpoint.spec, interface=interface))
    outputs = [name for name in request.outputs if name in ON_REQUEST]
    export_onnx(
        checkpoint,
        onnx_path,
        interface=interface,
        precision=request.precision,
        outputs=outputs,
        infinite_weights=infinite_weights,
    )
    return read_source(onnx_path)


def read_source(path: Path) -> Source:
    """The model with the spec and self-test of its metadata. Raises ModelError for a file that has no spec."""
    from . import file as model_file

    try:
        model = model_file.read_graph(path)
    except model_file.ModelFileError as error:
        raise ModelError(str(error)) from None
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    if "spec" not in metadata:
        raise ModelError(f"{path}: an ONNX model without our spec: import it with python -m export.from_onnx")
    try:
        return Source(path, ModelSpec.from_json(metadata["spec"]), json.loads(metadata.get("self_test", "null")))
    except (SpecError, ValueError) as error:
        raise ModelError(f"{path}: damaged metadata: {error}") from None


def is_to_be_halved(source: Source, request: Request) -> bool:
    """Whether FP16 is asked of a net that we cannot export again: its graph is converted instead."""
    return (source.spec.net, source.spec.precision, request.precision) == ("foreign", "fp32", "fp16")


def half_source(source: Source, path: Path) -> Source:
    """Writes the FP16 version of an FP32 model of another's making. Raises ModelError where there is none."""
    from . import file as model_file
    from .to_half import HalfError, half_model

    try:
        model_file.save(half_model(model_file.read(source.path)), path)
    except (HalfError, model_file.ModelFileError) as error:
        raise ModelError(f"{source.path}: {error}" if isinstance(error, HalfError) else str(error)) from None
    return read_source(path)


def check_request(source: Source, request: Request) -> None:
    """Raises ModelError where an ONNX model is another than what was asked for: its graph is what will be built."""
    path, spec = source.path, source.spec
    if request.precision != spec.precision and not is_to_be_halved(source, request):
        raise ModelError(
            f"{path}: an {spec.precision.upper()} graph, got --precision {request.precision}: precision is a property "
            f"of the graph, so export it with python -m export.to_onnx --precision {request.precision}, or build with "
            f"--precision {spec.precision}"
        )
    if request.interface not in (None, spec.interface):
        raise ModelError(
            f"{path}: a graph with the {spec.interface} interface, got --interface {request.interface}: export it with "
            f"python -m export.to_onnx --interface {request.interface}"
        )
    missing = [name for name in request.outputs if name not in spec.outputs]
    if missing:
        raise ModelError(
            f"{path}: no output {missing[0]!r}, only {', '.join(spec.outputs)}: export it with "
            f"python -m export.to_onnx --outputs {','.join(missing)}"
        )
