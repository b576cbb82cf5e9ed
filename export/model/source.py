"""An ONNX model on its way to an engine: read, made half, and checked against what the command line asks for.

Precision, interface and outputs are properties of the graph, so what the graph lacks is refused here, with the command
that makes another.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infer.engine import check_graph
from infer.model_file import CHECK_OF, INT8
from infer.spec import Interface, ModelSpec, Precision, SpecError

from ..errors import ModelError, naming
from ..graph.interface import ANSWERS

if TYPE_CHECKING:  # onnx is imported by those who read or write a model
    import onnx


@dataclass(frozen=True, slots=True)
class GraphRequest:
    """The graph that is asked for; interface None: the ONNX model's own, `views` from a checkpoint."""

    precision: Precision = "fp16"
    interface: Interface | None = None
    outputs: tuple[str, ...] = ()
    keep_single: tuple[str, ...] = ()  # layers of an FP16 graph that compute in FP32
    keep_half: tuple[str, ...] = ()  # layers of an INT8 graph that compute in half


@dataclass(frozen=True, slots=True)
class Reading:
    """Options of the data set of --verify: see infer.data.dataset.open_dataset."""

    labels: Path | None = None
    columns: Mapping[str, str] | None = None
    only: Path | None = None
    classes_by_order: bool = False

    @property
    def of_dataset(self) -> dict[str, Any]:
        """Those of `open_dataset` itself."""
        return {"labels": self.labels, "columns": self.columns, "only": self.only}


@dataclass(frozen=True, slots=True)
class Proof:
    """Images on which a graph is to be proven before it is delivered: see export/proof/ and export/int8/."""

    calibrate: Path | None = None
    verify: Path | None = None
    protocol: str = "center"
    limit: int = 200  # images of either; 0: all
    tolerance: float = 0.02  # of FP16: largest difference of a posterior
    max_drop: float = 0.5  # of INT8: most points of top-1 error more than FP32, by the paired estimate
    max_drop_bound: float | None = None  # the same of its 95 % interval's upper limit
    reading: Reading = Reading()


class Graphs(NamedTuple):
    """The graph that is to be built and the same net in FP32, both with their weights in memory."""

    built: onnx.ModelProto
    single: onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Source:
    """An ONNX model on its way to an engine: its file, and what its metadata say.

    `graphs` are there where the model is to be proven; `notes` are entries for the engine's sidecar, by those who
    changed or judged the model on the way.
    """

    path: Path
    spec: ModelSpec
    self_test: Any = None  # None: it carries none
    kept: tuple[str, ...] = ()  # layers of an FP16 graph that compute in FP32
    half: tuple[str, ...] = ()  # convolutions of an INT8 graph that compute in half
    notes: Mapping[str, Any] = field(default_factory=dict)
    graphs: Graphs | None = field(default=None, repr=False, compare=False)

    @property
    def others(self) -> dict[str, Precision]:
        """The layers that have another precision than the graph, and it."""
        return {**dict.fromkeys(self.kept, "fp32"), **dict.fromkeys(self.half, "fp16")}


def read_source(path: Path, *, with_graphs: bool = False) -> Source:
    """The model with the spec and self-test of its metadata. Raises ModelError for a file that has no spec.

    The FP32 graph of an FP16 model is itself, without rounding but of its weights.
    """
    from . import file as model_file
    from .mixed import kept_layers, unquantised
    from .precision import half_tensors, single_graph

    model = model_file.read(path) if with_graphs else model_file.read_graph(path)
    said = model_file.metadata(model)
    if "spec" not in said:
        raise ModelError(f"{path}: an ONNX model without our spec: import it with python -m export.from_onnx")
    if CHECK_OF in said:
        raise ModelError(f"{path}: a check graph, which is for CPUs: use the FP16 model that it stands beside")
    try:
        spec, self_test = ModelSpec.from_json(said["spec"]), json.loads(said.get("self_test", "null"))
        kept = kept_layers(model)
        notes = {INT8: json.loads(said[INT8])} if INT8 in said and spec.precision == "int8" else {}
    except (SpecError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged metadata: {error}") from None
    shapes = {one.name: [side.dim_value for side in one.type.tensor_type.shape.dim] for one in model.graph.output}
    check_graph(path, spec, shapes)

    graphs = None
    if with_graphs:
        graphs = Graphs(model, single_graph(model) if half_tensors(model) else model)
    half = tuple(unquantised(model)) if notes else ()
    return Source(path, spec, self_test, kept, half, notes, graphs)


def is_to_be_made(source: Source, request: GraphRequest) -> bool:
    """True where a graph of another precision is to be made of this one.

    FP16 of a net that we cannot export again, and INT8, which is always made of an FP32 graph.
    """
    if source.spec.precision != "fp32":
        return False
    return request.precision == "int8" or (source.spec.net, request.precision) == ("foreign", "fp16")


def leaves_out(source: Source, request: GraphRequest) -> bool:
    """True where the answers alone are asked of a model that has more outputs."""
    return request.outputs == ANSWERS and source.spec.outputs != ANSWERS


def answers_alone(source: Source) -> Source:
    """The model in memory with the answers as its only outputs, for apps; its file is what it was."""
    assert source.graphs is not None
    single = _answers_alone(source.graphs.single)
    built = single if source.graphs.built is source.graphs.single else _answers_alone(source.graphs.built)
    spec = dataclasses.replace(source.spec, outputs=ANSWERS)
    return dataclasses.replace(source, spec=spec, graphs=Graphs(built, single))


def _answers_alone(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import helper

    from . import file as model_file

    changed, said = model_file.copied(model), model_file.metadata(model)
    model_file.set_values(changed.graph.output, (one for one in changed.graph.output if one.name in ANSWERS))
    model_file.prune(changed.graph)
    spec = dataclasses.replace(ModelSpec.from_json(said["spec"]), outputs=ANSWERS)
    helper.set_model_props(changed, {**said, "spec": spec.to_json()})
    return changed


def half_source(source: Source, path: Path) -> Source:
    """Writes the FP16 version of an FP32 model of another's making. Raises ModelError where there is none."""
    from . import file as model_file
    from .check import save_model
    from .precision import HalfError, half_model

    single = model_file.read(source.path) if source.graphs is None else source.graphs.built
    with naming(source.path, HalfError):
        half = half_model(single)
    save_model(half, path)

    spec = dataclasses.replace(source.spec, precision="fp16")
    graphs = None if source.graphs is None else Graphs(half, single)
    return dataclasses.replace(source, path=path, spec=spec, graphs=graphs)


def kept_source(source: Source, layers: tuple[str, ...], path: Path) -> Source:
    """Writes to `path` the FP16 model with `layers` in FP32. Raises MixedError for a layer that there is not."""
    from .check import save_model
    from .mixed import exact_weights, keep_single, kept_layers

    assert source.graphs is not None
    half, single = source.graphs
    mixed = keep_single(half, layers, exact_weights(single))
    save_model(mixed, path)
    return dataclasses.replace(source, path=path, kept=kept_layers(mixed), graphs=Graphs(mixed, single))


def check_request(source: Source, request: GraphRequest) -> None:
    """Raises ModelError where an ONNX model is another than what was asked for: its graph is what will be built."""
    path, spec = source.path, source.spec
    if spec.precision == "int8" and not source.notes:
        raise ModelError(
            f"{path}: an INT8 graph of another's making, of which no engine is built: run it as it is, by ONNX "
            "Runtime, or import the model that it was quantised from, and build with --precision int8"
        )
    if request.precision != spec.precision and not is_to_be_made(source, request):
        made_by = "export.to_onnx" if request.precision != "int8" else "export.to_onnx --calibrate DIR"
        raise ModelError(
            f"{path}: an {spec.precision.upper()} graph, got --precision {request.precision}: precision is a property "
            f"of the graph, so export it with python -m {made_by} --precision {request.precision}, or build with "
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
