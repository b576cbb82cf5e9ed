"""ckpt.pt -> model.onnx: the view graph around the net, its spec and a self-test in the metadata.

python -m export.to_onnx ckpt.pt [-o model.onnx] [--precision fp32|fp16] [--interface views|images|nchw]
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import onnx
import torch
from onnxscript import opset20 as op

from infer import self_test
from infer.command import Parser
from infer.files import file_sha256, replacing
from infer.spec import Interface, ModelSpec, Precision
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint, CheckpointError
from trainer.torch_engine import TorchEngine

from .graph import ALWAYS, GRAPHS, ON_REQUEST

ONE_FILE_BYTES = 1_000_000_000
"""Weights beyond this lie in one .data file beside the model: protobuf ends at 2 GB."""

_DYNAMIC = torch.export.Dim.DYNAMIC
_INPUT_DIMS: dict[Interface, dict[str, tuple[int | str, ...]]] = {
    "views": {
        "image": ("source_height", "source_width", 3),
        "col_first": ("width",),
        "col_taps": ("col_taps", "width"),
        "row_first": ("height",),
        "row_taps": ("row_taps", "height"),
        "rows": ("views", "view_height"),
        "cols": ("views", "view_width"),
    },
    "images": {"images": ("views", "view_height", "view_width", 3)},
    "nchw": {"input": ("views", 3, "view_height", "view_width")},
}
"""Names of the dimensions of each input; the numbers are fixed."""


_LAYERS = ("Conv", "MaxPool", "AveragePool", "LRN", "Relu")
"""Operators that are a layer of the net by themselves and carry its name."""


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    *,
    interface: Interface = "views",
    precision: Precision = "fp32",
    outputs: Sequence[str] = (),
) -> ModelSpec:
    """Writes `path` and returns the spec in its metadata. `outputs` are those of ON_REQUEST, beside the usual ones."""
    spec = dataclasses.replace(
        checkpoint.spec, interface=interface, precision=precision, outputs=tuple(dict.fromkeys((*ALWAYS, *outputs)))
    )
    in_graph = [name for name in spec.outputs if interface != "nchw" or not name.startswith("pixel")]
    graph = GRAPHS[interface](checkpoint.build(), spec, in_graph).eval()
    inputs = _example(interface, spec)
    dynamic = {
        name: {axis: _DYNAMIC for axis, size in enumerate(dims) if isinstance(size, str)}
        for name, dims in _INPUT_DIMS[interface].items()
    }
    with _silence(), torch.inference_mode():
        program = torch.onnx.export(
            graph,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=in_graph,
            dynamic_shapes=tuple(dynamic.values()),
            custom_translation_table={
                torch.ops.verydeep.integer_divide.default: _integer_divide,
                torch.ops.verydeep.lrn.default: _lrn,
            },
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _name_everything(model, interface)
    expected = self_test.record(TorchEngine(checkpoint))
    onnx.helper.set_model_props(model, {"spec": spec.to_json(), "self_test": expected})
    model.producer_name = "verydeep"
    model.doc_string = f"{spec.name}: net {spec.net}, {len(spec.classes)} classes, {interface} interface, {precision}"
    _save(model, path)
    return spec


def _integer_divide(x: Any, divisor: int) -> Any:
    return op.Div(x, op.Constant(value=onnx.helper.make_tensor("divisor", onnx.TensorProto.INT32, [], [divisor])))


def _lrn(x: Any, n: int, alpha: float, beta: float, k: float) -> Any:
    return op.LRN(x, size=n, alpha=alpha, beta=beta, bias=k)


def _example(interface: Interface, spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Inputs of pairwise different sizes, so that the exporter takes no two dimensions for one."""
    crop = spec.crop_px
    if interface == "images":
        return {"images": torch.zeros(2, crop, crop + 32, 3, dtype=torch.uint8)}
    if interface == "nchw":
        return {"input": torch.zeros(2, 3, crop, crop + 32)}
    height, width = crop + 34, crop + 66

    def ints(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    return {
        "image": torch.zeros(crop + 7, crop + 11, 3, dtype=torch.uint8),
        "col_first": ints(width),
        "col_taps": ints(5, width),
        "row_first": ints(height),
        "row_taps": ints(7, height),
        "rows": ints(3, crop),
        "cols": ints(3, crop + 32),
    }


def _name_everything(model: onnx.ModelProto, interface: Interface) -> None:
    """Dimensions as in _INPUT_DIMS, nodes after the layers they come from; drops the exporter's stack traces."""
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, _INPUT_DIMS[interface][value.name], strict=True):
            if isinstance(size, str):
                dim.dim_param = size
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "views"
    used: dict[str, int] = {}
    for node in model.graph.node:
        scopes = {prop.key: prop.value for prop in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
        parts = [part.strip("' ") for part in scopes.strip("[]").split(",")]
        layers = [part.removeprefix("net.") for part in parts[1:-1] if part not in ("", "net")]
        kind = node.op_type.lower()
        base = (layers[-1] if node.op_type in _LAYERS else f"{layers[-1]}.{kind}") if layers else kind
        used[base] = used.get(base, 0) + 1
        node.name = base if used[base] == 1 else f"{base}_{used[base]}"
        del node.metadata_props[:]
    for proto in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del proto.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]  # the exporter's symbolic sizes; every reader infers its own


def _save(model: onnx.ModelProto, path: Path) -> None:
    with replacing(path) as unfinished:
        if model.ByteSize() > ONE_FILE_BYTES:
            data = path.name + ".data"
            (path.parent / data).unlink(missing_ok=True)  # onnx appends to a file that exists
            onnx.save_model(model, unfinished, save_as_external_data=True, location=data)
        else:
            onnx.save_model(model, unfinished)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps torch's exporter from printing: progress, warnings about itself, sympy tracebacks that end well."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m export.to_onnx", description="Turn a checkpoint into an ONNX model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--out", type=Path, help="default: the checkpoint's name with .onnx")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--interface", choices=get_args(Interface), default="views")
    parser.add_argument("--outputs", default="", help=f"more outputs, comma-separated: {', '.join(ON_REQUEST)}")
    args = parser.parse_args(argv)
    outputs = [name for name in args.outputs.split(",") if name and name not in ALWAYS]
    unknown = [name for name in outputs if name not in ON_REQUEST]
    if unknown:
        parser.error(f"--outputs: unknown output {unknown[0]!r}, expected {', '.join((*ALWAYS, *ON_REQUEST))}")
    path = args.out or args.checkpoint.with_suffix(".onnx")
    started = time.monotonic()
    try:
        checkpoint = checkpoints.load(args.checkpoint)
        source = {**checkpoint.spec.source, "checkpoint_sha256": file_sha256(args.checkpoint)}
        checkpoint = dataclasses.replace(checkpoint, spec=dataclasses.replace(checkpoint.spec, source=source))
        export_onnx(checkpoint, path, interface=args.interface, precision=args.precision, outputs=outputs)
    except (CheckpointError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    size = path.stat().st_size / 1e6
    print(f"{path}: {args.interface} interface, {args.precision}, {size:.1f} MB, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
