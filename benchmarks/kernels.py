"""Kernels that TensorRT-RTX's builder makes of other ways to write a net, and what each costs in accuracy.

    python benchmarks/kernels.py [--net googlenet ...]

Three tables: local response normalisation in four forms, as kernels and memory; the same forms' errors against FP64,
every half tensor rounded as in a check graph; GoogLeNet's three 1x1 convolutions of one input as one convolution whose
channels are split. Full-size nets with random weights, FP16, `views` interface, default profiles, for sm86. No GPU is
needed or used: kernels are counted in the builder's log, not timed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import tensorrt_rtx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.engines import write_checkpoint
from export.graph import view_graph
from export.graph.frame import declared
from export.graph.normalisation import Norm, write_lrn
from export.graph.writer import F16, F32, GraphWriter
from export.model.file import FLAT, copied, opened, save, set_values, with_flat_outputs
from export.model.precision import check_graph
from export.model.source import read_source
from export.tensorrt.build import build
from export.tensorrt.elements import fit_shapes
from export.tensorrt.profiles import shapes_from_options
from export.to_onnx import export_onnx, single_model
from infer.tensorrt.library import LIBRARIES
from infer.tensorrt.log import messages
from infer.views import plan_views
from trainer.checkpoint import load
from trainer.nets.googlenet import TABLE

NORMS = {"A-LRN": {"norm1": "relu1_1"}, "googlenet": {"norm1": "pool1", "norm2": "conv2.relu"}}
"""The normalisations of each net, and the tensor that each reads."""
SETTINGS = {"A-LRN": Norm(5, 5e-4, 0.75, 2.0), "googlenet": Norm(5, 1e-4, 0.75, 1.0)}
PRESCALE = 10
"""The smallest k for which five squares of 2^-k times the largest half are below the largest half."""
NO_KERNELS = ("signal", "wait", "shape_call", "ShapeHostToDevice")
Form = Callable[..., str]


# Forms of the normalisation. Each gets and returns FP32, between casts.


def as_node(w: GraphWriter, x: str, name: str, channels: int, norm: Norm) -> str:
    return w.op("LRN", [x], name, **norm._asdict())


def in_half(w: GraphWriter, x: str, name: str, channels: int, norm: Norm) -> str:
    """The same operators as ours, all in half, the squares prescaled."""
    own = GraphWriter()
    write_lrn(own, f"{name}.prescaled", f"{name}.in_half", channels, norm._replace(alpha=norm.alpha * 4.0**PRESCALE))
    for tensor in own.initializers.values():
        values = numpy_helper.to_array(tensor)
        w.constant(tensor.name, values.astype(np.float16) if values.dtype == np.float32 else values)
    for node in own.nodes:
        if node.name.endswith(".once"):
            node.input[0] = f"{name}.half"  # the numerator as it is

    half = w.op("Cast", [x], f"{name}.half", to=F16)
    w.op("Mul", [half, w.constant(f"{name}.2^-k", np.array(2.0**-PRESCALE, np.float16))], f"{name}.prescaled")
    w.nodes += own.nodes
    return w.op("Cast", [f"{name}.in_half"], name, to=F32)


def by_convolution(w: GraphWriter, x: str, name: str, channels: int, norm: Norm) -> str:
    """Prescaled squares in half, summed by a 1x1 convolution with a band of ones; the rest in FP32."""
    size, alpha, beta, bias = norm
    half = w.op("Cast", [x], f"{name}.half", to=F16)
    half = w.op("Mul", [half, w.constant(f"{name}.2^-k", np.array(2.0**-PRESCALE, np.float16))], f"{name}.prescaled")
    square = w.op("Mul", [half, half], f"{name}.square")
    distance = np.arange(channels) - np.arange(channels)[:, None]
    band = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    band_weights = w.constant(f"{name}.band", band.astype(np.float16)[:, :, None, None])
    total = w.op("Cast", [w.op("Conv", [square, band_weights], f"{name}.window")], f"{name}.total", to=F32)

    factor = w.constant(f"{name}.alpha", np.array(alpha / size * 4.0**PRESCALE, np.float32))
    scale = w.op("Mul", [total, factor], f"{name}.scaled")
    scale = w.op("Add", [scale, w.constant(f"{name}.bias", np.array(bias, np.float32))], f"{name}.scale")
    power = w.op("Pow", [scale, w.constant(f"{name}.beta", np.array(-beta, np.float32))], f"{name}.power")
    return w.op("Mul", [x, power], name)


FORMS: dict[str, Form] = {
    "an LRN node between casts": as_node,
    "written out, FP32 (ours)": write_lrn,
    f"written out, half, prescaled by 2^-{PRESCALE}": in_half,
    f"half squares by 2^-{PRESCALE}, a 1x1 convolution": by_convolution,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", nargs="+", choices=list(NORMS), default=list(NORMS))
    args = parser.parse_args()

    print(f"tensorrt-rtx {tensorrt_rtx.__version__} for sm86\n")
    kernel_rows: list[Any] = []
    error_rows: list[Any] = []
    merged_rows: list[Any] = []
    for net in args.net:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_checkpoint(net, folder / "model.pt")
            kernel_rows += forms_as_kernels(net, folder)
            error_rows += forms_as_errors(net, activations(net, folder))
            if net == "googlenet":
                merged_rows += merged_as_kernels(folder)
                same = same_bits_when_merged(folder)

    sides = ("crops, MB", "landscape, MB", "portrait, MB", "few crops, MB")
    show(kernel_rows, ("net", "form", "kernels of its normalisations", "all kernels", *sides))
    show(error_rows, ("settings", "form", *INPUTS))
    if merged_rows:
        show(merged_rows, ("three 1x1 convolutions of one input", "all kernels", "waits and signals", *sides))
        print(f"FP32 posteriors on a CPU, as one and apart: {'the same bits' if same else 'other bits'}")


def show(rows: list[Any], headers: tuple[str, ...]) -> None:
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True), end="\n\n")


class Built(NamedTuple):
    """Lines of the builder's log for the kernels of the first profile, and activations of each in MB."""

    lines: list[str]
    megabytes: list[str]

    def count(self, *types: str) -> int:
        """Lines that are of one of these types."""
        return sum(re.search(r"LayerType: (\w+)", line)[1] in types for line in self.lines)  # type: ignore[index]

    def kernels(self) -> int:
        return len(self.lines) - self.count(*NO_KERNELS)


def built(path: Path) -> Built:
    """Builds a model with its default profiles."""
    source = read_source(path)
    shapes, _ = fit_shapes(path, source.spec, shapes_from_options(source.spec))
    plan = build(LIBRARIES["tensorrt-rtx"], path, source.spec, shapes, ("sm86",))
    lines = [line for line in messages(tensorrt_rtx).lines if line.startswith("Name: ")]
    first = next(place for place, line in enumerate(lines) if "[profile 1]" in line)
    return Built(lines[:first], [f"{used / 1e6:.0f}" for used in plan.activation_bytes if used is not None])


def forms_as_kernels(net: str, folder: Path) -> Iterator[tuple[Any, ...]]:
    for name, form in FORMS.items():
        with mock.patch.object(view_graph, "write_lrn", form):
            path = folder / "half.onnx"
            export_onnx(load(folder / "model.pt"), path, precision="fp16")
        found = built(path)
        layers = tuple(f"[ONNX Layer: {norm}." for norm in NORMS[net])
        own = [line for line in found.lines if any(layer in line for layer in layers)]
        yield net, name, len(own), found.kernels(), *found.megabytes


# Errors


def activations(net: str, folder: Path) -> NDArray[np.float16]:
    """What the normalisations of the random net read on noise with the amplitudes of a photograph,
    [n, 8, 1, pixels]."""
    names = list(NORMS[net].values())
    model = with_flat_outputs(single_model(load(folder / "model.pt"), "views", []), names)
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (12, 16, 3)).repeat(32, 0).repeat(32, 1)
    image = (blocks + rng.normal(0, 12, blocks.shape)).clip(0, 255).astype(np.uint8)
    with opened(model, [FLAT + name for name in names]) as engine:
        plan = plan_views(engine.spec, "center", image.shape[:2])
        found = engine.run(engine.load([image]), [plan], [FLAT + name for name in names])
    maps = [values.reshape(-1, 8, 1, 56 * 56 if net == "googlenet" else 224 * 224) for values in found.values()]
    return np.concatenate(maps).astype(np.float16)


def every_half(rng: np.random.Generator) -> NDArray[np.float16]:
    """Each finite half but 0 among seven random neighbours of its own size."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves) & (halves != 0)]
    sizes = rng.uniform(-1, 1, (1, 8, 1, len(halves))) * halves.astype(np.float64)
    sizes[:, 4, 0] = halves
    return sizes.astype(np.float16)


INPUTS: dict[str, Callable[[NDArray[np.float16]], NDArray[np.float16]]] = {
    "net's own": lambda own: own,
    "sigma 1": lambda own: normal(1),
    "sigma 100": lambda own: normal(100),
    "sigma 1e4": lambda own: normal(1e4),
    "every half": lambda own: every_half(np.random.default_rng(2)),
}


def normal(sigma: float) -> NDArray[np.float16]:
    values = np.random.default_rng(1).normal(0, sigma, (1, 8, 1, 40_000))
    return values.clip(-65_504, 65_504).astype(np.float16)


def forms_as_errors(net: str, own: NDArray[np.float16]) -> Iterator[tuple[str, ...]]:
    """Largest error of each form, in units of the last place of the half that is right."""
    for name, form in FORMS.items():
        cells = []
        for make in INPUTS.values():
            x = make(own)
            found = rounded(form, net, x)
            exact = in_double(net, x)
            unit = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
            cells.append(f"{np.max(np.abs(found - exact) / unit):.2g}")
        yield net, name, *cells


def rounded(form: Form, net: str, x: NDArray[np.float16]) -> NDArray[np.float64]:
    """The form's answers with every half tensor rounded."""
    w = GraphWriter()
    half = w.op("Cast", ["x"], "half", to=F16)
    y = form(w, w.op("Cast", [half], "single", to=F32), "norm", x.shape[1], SETTINGS[net])
    w.op("Cast", [w.op("Cast", [y], "rounded", to=F16)], "y", to=F32)
    ends = [declared(one, "float32", tuple(map(str, x.shape))) for one in "xy"]
    graph = helper.make_graph(w.nodes, "norm", ends[:1], ends[1:], list(w.initializers.values()))
    for end in ends:
        for side, size in zip(end.type.tensor_type.shape.dim, x.shape, strict=True):
            side.dim_value = size
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(check_graph(model).SerializeToString(), providers=["CPUExecutionProvider"])
    answers: NDArray[np.float64] = session.run(None, {"x": x.astype(np.float32)})[0].astype(np.float64)
    return answers


def in_double(net: str, x: NDArray[np.float16]) -> NDArray[np.float64]:
    size, alpha, beta, bias = SETTINGS[net]
    wide = x.astype(np.float64)
    sums = [(wide[:, max(0, c - size // 2) : c + size // 2 + 1] ** 2).sum(1) for c in range(x.shape[1])]
    return np.asarray(wide / (bias + alpha / size * np.stack(sums, 1)) ** beta)


# GoogLeNet's 1x1 convolutions

BRANCHES = ("conv1x1", "conv3x3_reduce", "conv5x5_reduce")


def merged_as_kernels(folder: Path) -> Iterator[tuple[Any, ...]]:
    export_onnx(load(folder / "model.pt"), folder / "half.onnx", precision="fp16")
    branches = ("conv1x1", "conv3x3_reduce", "conv5x5_reduce")
    ways: dict[str, tuple[str, ...]] = {
        "apart (ours)": (),
        "as one": branches,
        "the two that reduce as one": branches[1:],
    }
    for name, together in ways.items():
        model = onnx.load(folder / "half.onnx")
        if together:
            merge(model, together)
        save(model, folder / "merged.onnx")
        found = built(folder / "merged.onnx")
        yield name, found.kernels(), found.count("signal", "wait"), *found.megabytes


def same_bits_when_merged(folder: Path) -> bool:
    """True where the FP32 posteriors of two images are the same bits on a CPU, as one convolution and apart."""
    single = single_model(load(folder / "model.pt"), "images", [])
    merged = copied(single)
    merge(merged, BRANCHES)
    images = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    answers = []
    for model in (single, merged):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["posterior"], {"images": images})[0])
    return np.array_equal(*answers)


def merge(model: onnx.ModelProto, together: tuple[str, ...]) -> None:
    """Makes one convolution of each inception's `together`, with one ReLU, whose channels are split."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.name: [node] for node in graph.node}  # what becomes of each, in their order
    for block in TABLE:
        parts = [nodes[f"inception.{block}.{part}"].pop() for part in together]
        ends = [nodes[f"inception.{block}.{part}.relu"].pop().output[0] for part in together]
        name = f"inception.{block}.merged"
        for place, kind in ((1, "weight"), (2, "bias")):
            values = [numpy_helper.to_array(weights.pop(part.input[place])) for part in parts]
            weights[f"{name}.{kind}"] = numpy_helper.from_array(np.concatenate(values), f"{name}.{kind}")
            sizes = np.array([len(one) for one in values], np.int64)
        weights[f"{name}.sizes"] = numpy_helper.from_array(sizes, f"{name}.sizes")

        conv = helper.make_node("Conv", [parts[0].input[0], f"{name}.weight", f"{name}.bias"], [name], name)
        conv.attribute.extend(parts[0].attribute)
        relu = helper.make_node("Relu", [name], [f"{name}.relu"], f"{name}.relu")
        split = helper.make_node("Split", [relu.output[0], f"{name}.sizes"], ends, f"{name}.split", axis=1)
        nodes[parts[0].name] += [conv, relu, split]
    set_values(graph.node, [node for made in nodes.values() for node in made])
    set_values(graph.initializer, list(weights.values()))


if __name__ == "__main__":
    main()
