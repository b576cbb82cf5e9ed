"""An FP32 model becomes an INT8 one: calibrated, judged on real images, and mended until it passes.

If the gate (export/proof/verify.py) refuses, layers go back to half: the one whose quantisation alone loses most of the
class scores first, then the next ones, one, one, two, four and so on at a time, each step judged on all images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import helper
from tabulate import tabulate
from tqdm import tqdm

from infer import self_test
from infer.command import print_notes
from infer.errors import one_line
from infer.model_file import INT8
from infer.spec import ModelSpec

from ..errors import ModelError
from ..model import file as model_file
from ..model.check import cpu_graph, save_model
from ..model.file import metadata
from ..model.integers import integer_graph
from ..model.mixed import unquantised
from ..model.source import Graphs, Proof, Source
from ..proof.images import CalibrationError
from ..proof.verdict import BoxVerdict, Verdict, is_beyond_mending, pass_or_refuse, refusal
from ..proof.verify import verify_graph
from . import graph
from .calibration import IMAGES, Images, calibrate
from .chart import draw_mending
from .losses import LayerLoss, loss_of, scores_of

SHOWN = 10
ALONE = 8
"""Images on which each layer is measured alone."""


class KeptError(ModelError):
    """Layers that cannot be kept in half; one line."""


@dataclass(frozen=True, slots=True)
class Step:
    """An INT8 model on the way to one that passes: which layers are back in half, its size, and the verdict."""

    half: tuple[str, ...]
    size_bytes: int
    verdict: Verdict | BoxVerdict

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"half": list(self.half), "bytes": self.size_bytes}
        if isinstance(self.verdict, Verdict):
            pairs = self.verdict.pairs
            return {**said, "top1_difference_percent": pairs.difference_percent, "interval95": pairs.interval95_percent}
        return {**said, "largest_box_difference": self.verdict.largest_box_difference}


@dataclass(frozen=True, slots=True)
class Quantised:
    """A quantised FP32 graph, the graph it was made of, and how."""

    model: onnx.ModelProto
    single: onnx.ModelProto
    layers: tuple[str, ...]
    images: Images
    said: Mapping[str, Any]

    def built(self, half: Iterable[str]) -> onnx.ModelProto:
        """The INT8 model with these layers back in half."""
        half = tuple(half)
        model = graph.put_back(self.model, self.single, half) if half else self.model
        return graph.rest_in_half(model, {**self.said, "half": list(half)})


def int8_source(single: onnx.ModelProto, path: Path, proof: Proof, kept: Sequence[str], chart: Path) -> Source:
    """Writes the INT8 version of an FP32 model of ours, where it passes; says on stdout what was found.

    `single` is taken over, since a full-size net is too large for one copy more. kept: layers that stay in half. chart:
    SVG, written with --verify, of the layers and the steps. Raises CalibrationError, QuantisingError, KeptError,
    VerifyError, GateError.
    """
    made = quantise(single, proof, kept)
    half, found, notes = tuple(kept), dict[str, Any](), dict[str, Any]()
    if proof.verify is None:
        print_notes([f"{path}: what INT8 costs was not measured: --verify DIR does, and puts layers back where needed"])
    else:
        losses = measure_losses(made)
        steps = mend(made, losses, proof, kept)
        half = steps[-1].half
        found = {"losses": [one._asdict() for one in losses], "steps": [step.as_json() for step in steps]}
        draw_mending(losses, found["steps"], single.ByteSize(), made.said["name"], chart)
        print(one_line(f"{chart}: the loss of each layer alone, and each step"), flush=True)
        notes["verify"] = pass_or_refuse(steps[-1].verdict, path, proof)

    built = made.built(half)
    notes["int8"] = {**made.said, "half": list(half), **found}
    helper.set_model_props(built, {**metadata(built), INT8: json.dumps(notes["int8"])})
    with model_file.opened(cpu_graph(built)) as engine:
        expected = self_test.record(engine)
    helper.set_model_props(built, {**metadata(built), "self_test": expected})
    save_model(built, path)
    spec = ModelSpec.from_json(metadata(built)["spec"])
    return Source(path, spec, json.loads(expected), (), tuple(unquantised(built)), notes, Graphs(built, single))


def quantise(model: onnx.ModelProto, proof: Proof, kept: Sequence[str]) -> Quantised:
    """The model quantised with the ends of scales that lose least of the class scores on images of --calibrate."""
    assert proof.calibrate is not None
    graph.prepare(model)
    layers = _without(graph.layers_to_quantise(model), kept)
    activations = set(graph.activations_of(model, layers).values())
    roots = graph.tied(model, activations)
    limit = min(proof.limit, IMAGES) if proof.limit else IMAGES
    found = calibrate(model, set(roots.values()), proof.calibrate, proof.protocol, limit)

    # the method, by what it loses
    expected = scores_of(model, found.images)
    quantised, losses = None, dict[str, float]()
    for method, ends in found.largest.items():
        largest = {name: ends[root] for name, root in roots.items()}
        if quantised is None:
            quantised = graph.quantised(model, layers, largest)
        changed = graph.with_largest(quantised, largest)
        losses[method] = loss_of(scores_of(integer_graph(changed), found.images), expected)
    best = min(losses, key=lambda method: losses[method] if math.isfinite(losses[method]) else math.inf)
    if not math.isfinite(losses[best]):
        raise CalibrationError(
            f"{proof.calibrate}: class scores of FP32 or INT8 are no numbers on these images, expected finite ones: "
            "use --precision fp32"
        )
    assert quantised is not None
    quantised = graph.with_largest(quantised, {name: found.largest[best][root] for name, root in roots.items()})

    tried = ", ".join(f"{method} {loss:.3g}" for method, loss in losses.items())
    print(
        one_line(
            f"INT8: {len(layers)} layers, calibrated on {len(found.images)} images; loss of class scores by the end of "
            f"the scales, in standard deviations: {tried}: {best}"
        ),
        flush=True,
    )
    said = {
        "name": ModelSpec.from_json(metadata(model)["spec"]).name,
        "tool": f"onnxruntime.quantization {onnxruntime.__version__}",
        "method": best,
        "images": len(found.images),
        "layers": len(layers),
    }
    return Quantised(quantised, model, tuple(layers), found.images, said)


def _without(layers: Sequence[str], kept: Sequence[str]) -> list[str]:
    unknown = [name for name in kept if name not in layers]
    if unknown:
        raise KeptError(
            f"--keep-half {unknown[0][:80]}: no such layer to be quantised, expected names like {', '.join(layers[:3])}"
        )
    rest = [name for name in layers if name not in kept]
    if not rest:
        raise KeptError("--keep-half: all layers would stay in half: build with --precision fp16")
    return rest


# What is lost, and what is put back


def measure_losses(made: Quantised) -> list[LayerLoss]:
    """The loss of each layer alone, the largest first; the worst are printed."""
    expected = scores_of(made.single, made.images, ALONE)
    found = []
    for layer in tqdm(made.layers, desc="layers", unit="layer", disable=None):
        others = [name for name in made.layers if name != layer]
        scores = scores_of(graph.put_back(made.model, made.single, others), made.images, ALONE)
        found.append(LayerLoss(layer, loss_of(scores, expected)))
    found.sort(key=lambda one: -one.loss if math.isfinite(one.loss) else -math.inf)

    rows = [(one_line(one.layer), f"{one.loss:.2g}") for one in found[:SHOWN]]
    headers = [f"worst of {len(found)} layers", "loss alone, in standard deviations of the class scores"]
    print(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True), flush=True)
    return found


def mend(made: Quantised, losses: Sequence[LayerLoss], proof: Proof, kept: Sequence[str]) -> list[Step]:
    """The steps from all layers in INT8 to a model that passes, or that has none left; says each on stdout."""
    half, waiting, steps = list(kept), [one.layer for one in losses], list[Step]()
    count = 1
    while True:
        built = made.built(half)
        verdict = verify_graph(made.single, built, proof, say_notes=not steps)
        step = Step(tuple(half), built.ByteSize(), verdict)
        steps.append(step)
        why = refusal(step.verdict, proof)
        if why is None or len(waiting) <= 1 or is_beyond_mending(step.verdict, proof):
            return steps

        back = waiting[: min(count, len(waiting) - 1)]
        print(one_line(f"{why}: back to half go {', '.join(back)}"), flush=True)
        half += back
        waiting = waiting[len(back) :]
        count = 1 if len(steps) < 2 else 2 * count
