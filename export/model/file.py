"""ONNX models: small edits in memory, files written whole, and files read as a stranger's.

A file may lie about its weights: sizes that it does not hold, or external data outside its folder. So sizes are
compared before anything is allocated, and external data is read here, not by the onnx library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

from infer.files import POINTER, files_sha256, is_pointer, refuse_pointer, replacing, sync

from ..errors import ModelError

if TYPE_CHECKING:  # a model is written without ONNX Runtime
    from infer.onnx_engine import OnnxEngine

ONE_FILE_BYTES = 1_000_000_000
"""Weights beyond this lie in one .data file beside the model: protobuf ends at 2 GB."""
PROTOBUF_BYTES = 2**31 - 1
"""The largest message of protobuf."""

SMALL_ELEMENTS = 1024
"""The largest initialiser whose values a shape may depend on."""

RepeatedValues = Any  # protobuf's list of messages, which has no name to import

ELEMENT_BYTES: dict[int, int] = {
    **dict.fromkeys((TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL), 1),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT16, TensorProto.INT16), 2),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 4),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64), 8),
}
"""Bytes of an element of each type of weights that is read."""


class ModelFileError(ModelError):
    """A file that is no ONNX model or lies about its weights; one line."""


# In memory


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with large initialisers left empty: enough to infer types and shapes, without gigabytes of copies.

    Small ones stay, since shapes depend on the values of some.
    """
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    light.graph.MergeFrom(
        onnx.GraphProto(
            name=graph.name, node=graph.node, input=graph.input, output=graph.output, value_info=graph.value_info
        )
    )
    for tensor in graph.initializer:
        if _elements(tensor) <= SMALL_ELEMENTS:
            light.graph.initializer.append(tensor)
            continue
        empty = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        empty.data_location = TensorProto.EXTERNAL
        empty.external_data.add(key="location", value="left-out")
    return light


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {prop.key: prop.value for prop in model.metadata_props}


def names_read(node: onnx.NodeProto) -> set[str]:
    """Every tensor that a node reads, in its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names.update(value.name for value in graph.output)
            names.update(*(names_read(inner) for inner in graph.node))
    return names


def set_values(values: RepeatedValues, new: Iterable[Message]) -> None:
    """Replaces the messages of a list, by some of its own too."""
    kept = list(new)
    del values[:]
    values.extend(kept)


def keep_initializers(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Removes the initialisers that are not among `names`."""
    set_values(graph.initializer, (initializer for initializer in graph.initializer if initializer.name in names))


def prune(graph: onnx.GraphProto) -> None:
    """Removes everything that the outputs do not need: ONNX Runtime would warn of each weight that nobody reads."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read |= names_read(node)
    set_values(graph.node, kept[::-1])
    keep_initializers(graph, read)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Puts each node behind those that it reads from, as ONNX has it and some converters do not.

    Types are inferred in the order of the nodes. Those of a circle, which no runtime takes, stay where they are.
    """
    nodes = list(graph.node)
    made_by = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    before = {
        place: {made_by[name] for name in names_read(node) if name in made_by} - {place}
        for place, node in enumerate(nodes)
    }
    if any(max(places, default=-1) > place for place, places in before.items()):
        with contextlib.suppress(CycleError):
            set_values(graph.node, [nodes[place] for place in TopologicalSorter(before).static_order()])


def add_maximum(model: onnx.ModelProto, source: str, axes: Sequence[int], target: str, *, keepdims: bool) -> None:
    """Adds ReduceMax over `axes`, which are an attribute before opset 18 and an input from then on."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 18:
        node = helper.make_node("ReduceMax", [source], [target], axes=list(axes), keepdims=int(keepdims))
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{target}.axes"))
        node = helper.make_node("ReduceMax", [source, f"{target}.axes"], [target], keepdims=int(keepdims))
    model.graph.node.append(node)


FLAT = "flat:"


def with_flat_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy with FP32 tensors as outputs, FLAT + name [1, elements] each, for calls of one view.

    Flat, since not every tensor of another's net begins with the views: a transformer's may begin with the tokens.
    """
    changed = copied(model)
    graph = changed.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), f"{FLAT}shape"))
    for name in dict.fromkeys(names):
        graph.node.append(helper.make_node("Reshape", [name, f"{FLAT}shape"], [FLAT + name]))
        graph.output.append(helper.make_tensor_value_info(FLAT + name, TensorProto.FLOAT, ("views", "elements")))
    return changed


# Written and read


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes `path`, and `path`.data where the weights are too large for one file.

    A model never stands beside weights of another: the old one goes before its data does, and the new one comes last.
    So a crash between leaves no model, which every runtime refuses, and none that answers wrongly.
    """
    if model.ByteSize() <= ONE_FILE_BYTES:
        with replacing(path) as unfinished:
            onnx.save_model(model, unfinished)
        return

    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.name + ".data"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        onnx.save_model(model, Path(folder, path.name), save_as_external_data=True, location=data)
        onnx.load_external_data_for_model(model, folder)  # gives `model` its weights back
        os.chmod(Path(folder, data), Path(folder, path.name).stat().st_mode)  # onnx makes it as a private file
        for name in (data, path.name):
            sync(Path(folder, name))

        path.unlink(missing_ok=True)
        sync(path.parent)
        for name in (data, path.name):
            os.replace(Path(folder, name), path.with_name(name))
            sync(path.parent)


@contextlib.contextmanager
def saved(model: onnx.ModelProto) -> Iterator[Path]:
    """A file of the model in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        save(model, path)
        del model  # it may be gigabytes, and nobody else's
        yield path


@contextlib.contextmanager
def opened(model: onnx.ModelProto, more_outputs: Sequence[str] = (), *, threads: int = 0) -> Iterator[OnnxEngine]:
    """The model as an engine on the CPU, from a temporary file; `more_outputs` are added to the model's own spec."""
    from infer.onnx_engine import OnnxEngine

    with contextlib.ExitStack() as stack:
        path = stack.enter_context(saved(model))
        del model
        engine = stack.enter_context(contextlib.closing(OnnxEngine(path, threads=threads)))
        engine.spec = dataclasses.replace(engine.spec, outputs=(*engine.spec.outputs, *more_outputs))
        yield engine


def read(path: Path) -> onnx.ModelProto:
    """The model with all its weights in memory. Raises ModelFileError."""
    model = read_graph(path)
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            file, offset, length = _external(path, tensor)
            with file.open("rb") as data:
                data.seek(offset)
                tensor.raw_data = data.read(length)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def read_graph(path: Path) -> onnx.ModelProto:
    """The model, its external data checked but left where it is. Raises ModelFileError."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file, expected an ONNX model")
    refuse_pointer(path, ModelFileError)

    size = path.stat().st_size
    if size > PROTOBUF_BYTES:
        raise ModelFileError(f"{path}: {size} bytes, an ONNX model has at most {PROTOBUF_BYTES} beside external data")
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise ModelFileError(f"{path}: not an ONNX model, or a truncated one (its protobuf cannot be read)") from None
    if not model.graph.node:
        raise ModelFileError(f"{path}: not an ONNX model (no graph in it)")

    # what it declares is compared before anything is allocated
    for tensor in tensors(model):
        try:
            _check_size(tensor)
            if tensor.data_location == TensorProto.EXTERNAL:
                _external(path, tensor)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: tensor {tensor.name!r}: {error}") from None
    return model


def external_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """The files that hold external data of `model`, read from `path`."""
    external = (tensor for tensor in tensors(model) if tensor.data_location == TensorProto.EXTERNAL)
    return sorted({_external(path, tensor)[0] for tensor in external})


def model_sha256(path: Path) -> str:
    """Identifies a model with all its weights, as an engine of it does. Raises ModelFileError."""
    return files_sha256([path, *external_files(path, read_graph(path))])


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model carries: initialisers and attributes, in subgraphs and functions too.

    Raises ModelFileError for sparse ones, which nobody checks.
    """
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    if graph.sparse_initializer:
        raise ModelFileError("sparse initialisers are not read: store the weights densely")
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise ModelFileError(f"node {node.name!r}: sparse tensors are not read: store the weights densely")
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graph_tensors(graph)


def _check_size(tensor: TensorProto) -> None:
    """Raises ModelFileError unless the tensor holds (or refers to) just the elements that it declares."""
    if tensor.data_type == TensorProto.STRING:
        held = len(tensor.string_data)
    elif tensor.data_type not in ELEMENT_BYTES:
        kinds = TensorProto.DataType.items()
        kind = next((name for name, value in kinds if value == tensor.data_type), str(tensor.data_type))
        raise ModelFileError(f"elements of type {kind}, which this version does not read")
    elif tensor.data_location == TensorProto.EXTERNAL:
        return
    elif tensor.HasField("raw_data"):
        held = len(tensor.raw_data) // ELEMENT_BYTES[tensor.data_type]
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        held = sum(len(field) for field in fields)

    declared = _elements(tensor)
    if declared != held:
        raise ModelFileError(f"declares {declared} elements {list(tensor.dims)} but holds {held}: a damaged file")


def _elements(tensor: TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise ModelFileError(f"a negative size in {list(tensor.dims)}: a damaged file")
    return math.prod(tensor.dims)


def _external(path: Path, tensor: TensorProto) -> tuple[Path, int, int]:
    """(file, offset, length) of external data. Raises ModelFileError unless it is there, in the model's folder.

    A link may lead out of it to where the model itself lies behind its own link, as in a hub's cache, whose snapshots
    are links to files of one folder: so does ONNX Runtime (ValidateExternalDataPath, from 1.24.2 on).
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    named = Path(location)

    try:
        file = (path.parent / named).resolve()
        homes = (path.parent.resolve(), path.resolve().parent)
        plain = location != "" and not named.is_absolute() and ".." not in named.parts
        if not plain or not any(file.is_relative_to(home) for home in homes):
            raise ModelFileError(
                f"external data in {location!r}, outside the model's folder or through a link: expected a plain file "
                "beside the model"
            )
        size = file.stat().st_size if file.is_file() else -1
        offset, length = int(entries.get("offset", 0)), _elements(tensor) * ELEMENT_BYTES[tensor.data_type]
        declared = int(entries.get("length", length))
    except (ValueError, OSError) as error:
        raise ModelFileError(f"external data that cannot be found: {error}") from None

    if size < 0:
        raise ModelFileError(f"external data in {location!r}, which is not there: keep it beside the model")
    if offset < 0 or length != declared or offset + length > size:
        with file.open("rb") as data:
            if is_pointer(data.read(64)):
                raise ModelFileError(f"external data in {location!r}: {POINTER}")
        raise ModelFileError(
            f"external data of {declared} bytes from {offset} on in {location!r} of {size} bytes, expected {length}: "
            "a damaged file"
        )
    return file, offset, length
