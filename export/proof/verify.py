"""`--verify DIR`, the gate: what half precision or INT8 costs a net on real images, before an engine is delivered.

The FP32 graph and the one for CPUs (see export/model/check.py), or the FP32 graph and the engine itself where its GPU
is here, run the same views of the same images of a data set. Classifiers are compared by their posteriors, with the
evaluation's own metrics; box nets by the boxes of every position. FP16 must give the answers of FP32; INT8 may give
others, and is held to the top-1 error that it adds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from evaluation.errors import RunError
from evaluation.run.labels import match_classes
from evaluation.run.loop import DecodedImage, dataset_id, read_image
from evaluation.scores.metrics import TOP5_CLASSES, agreement_percent, top_errors
from evaluation.scores.paired import Paired, count_pairs, pair_scores
from evaluation.scores.table import OK, OUT_OF_RANGE, UNKNOWN_LABEL, Scores
from infer.command import print_notes
from infer.cuda.device import Device
from infer.cuda.driver import CudaError
from infer.data.dataset import Dataset, DatasetError, open_dataset
from infer.engine import Engine, EngineError, answer_of
from infer.errors import one_line
from infer.open import open_engine
from infer.pixels.decode import Pixels
from infer.spec import ModelSpec, Size
from infer.tensorrt.sidecar import SidecarContent
from infer.views import View, ViewPlan, default_scales, default_shapes, merge_plans, out_of_range, plan_views

from ..errors import ModelError
from ..model import file as model_file
from ..model.check import cpu_graph
from ..model.file import copied
from ..model.precision import PrecisionError
from ..model.source import Graphs, Proof, Reading, Source
from ..tensorrt.sidecar import write_engine
from . import layers
from .chart import draw_layers
from .verdict import BoxVerdict, Verdict, pass_or_refuse, refusal

CLASS_SCORES = "class_scores"
"""Output added to both graphs of a classifier: what goes into the softmax, f32 [views, classes]."""


class VerifyError(ModelError):
    """Images that nothing can be verified with; one line."""


# The gate


def prove_graph(source: Source, proof: Proof, chart: Path) -> Source:
    """The source with a note for its sidecar, where its FP16 graph answers as FP32 does; says on stdout what was found.

    chart: SVG to be written of the errors of all layers, whatever the verdict. Raises VerifyError, GateError.
    """
    assert proof.verify is not None and source.graphs is not None
    half, single = source.graphs
    verdict = verify_graph(single, half, proof)
    views = few_views(source.spec, proof.verify, proof.reading)
    found = _say_layers(source.graphs, views, source.notes)
    if found:
        draw_layers(found, f"{source.spec.name}: layers in half precision, {len(views)} images", chart)
        print(one_line(f"{chart}: the errors of all {len(found)} layers"), flush=True)
    if found and refusal(verdict, proof):
        print("looking for layers that pass if they are kept in FP32 ...", flush=True)
        proposal = layers.propose(source.graphs, found, views, proof.tolerance)
        if proposal:
            names, difference = proposal
            print(
                f"--keep-single {','.join(names)} passes on {len(views)} of the images, one view each: largest "
                f"difference {difference:.2g}",
                flush=True,
            )
    said = pass_or_refuse(verdict, source.path, proof)
    said["layers"] = [one._asdict() for one in layers.worst(found)]
    return dataclasses.replace(source, notes={**source.notes, "verify": said})


def few_views(spec: ModelSpec, data: Path, reading: Reading) -> layers.Views:
    """One centre crop of each of a few images of a data set; those that cannot be used are left out."""
    dataset = open_dataset(data, "named", limit=layers.IMAGES, **reading.of_dataset)
    found = []
    for item in dataset.items:
        for pixels in read_image(item, [spec.preprocessing.exif], strict=False).images.values():
            size = pixels.shape[0], pixels.shape[1]
            plan = plan_views(spec, "center", size, default_scales(spec, "center"))
            if out_of_range(plan, default_shapes(spec), spec) is None:
                found.append((pixels, plan))
    return found


def _say_layers(graphs: Graphs, views: layers.Views, notes: Mapping[str, Any]) -> list[layers.LayerError]:
    """The errors of the layers, the worst of which are printed; none, with a line, where they cannot be measured."""
    if not views:
        return []
    exponents = notes.get("ranges", {}).get("rescaled", {})
    try:
        found = layers.measure_layers(graphs, views, exponents)
    except (EngineError, PrecisionError) as error:
        print(one_line(f"the error of each layer was not measured: {error}"), flush=True)
        return []
    print(layers.table_of(found), flush=True)
    return found


def prove_engine(
    single: onnx.ModelProto, path: Path, plan: bytes, sidecar: SidecarContent, proof: Proof
) -> SidecarContent:
    """The sidecar of a plan that was built from `path` but not written, with the verdict on it where its GPU is here.

    Says on stdout what was found, or why nothing was. Raises VerifyError, GateError, EngineError.
    """
    assert proof.verify is not None
    reason = reason_not_here(sidecar)
    if reason is not None:
        print(f"the engine itself was not run on the images of --verify: {reason}", flush=True)
        return sidecar

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model.engine")
        write_engine(written, plan, msgspec.to_builtins(sidecar))
        with contextlib.closing(open_engine(written, self_test=True)) as engine:
            verdict = verify_engine(single, engine, proof)
    return msgspec.structs.replace(sidecar, verify_engine=pass_or_refuse(verdict, path, proof))


def reason_not_here(sidecar: SidecarContent) -> str | None:
    """Why the plan cannot run on this machine's first GPU; None where it can."""
    try:
        device = Device()
    except CudaError as error:
        return f"no GPU here ({error})"
    target = device.target
    device.close()
    if target in sidecar.targets or sidecar.options.get("hardware_compatible"):
        return None
    return f"it is for {', '.join(sidecar.targets)}, the GPU here is {target}"


# Two engines on the same images


def verify_graph(
    single: onnx.ModelProto, other: onnx.ModelProto, proof: Proof, *, say_notes: bool = True
) -> Verdict | BoxVerdict:
    """Runs an FP32 model and one of another precision of the same net on the images of --verify.

    Says on stderr what of the data set is left out, unless it was said before. Raises VerifyError for data that is
    none, is of other classes or cannot be read at all.
    """
    checked, more_outputs = cpu_graph(other), list[str]()
    if any(value.name == "posterior" for value in single.graph.output):
        single, checked, more_outputs = with_class_scores(single), with_class_scores(checked), [CLASS_SCORES]
    with model_file.opened(single, more_outputs) as one, model_file.opened(checked, more_outputs) as two:
        dataset, label_of, notes = _open_images(one, proof)
        print_notes(notes if say_notes else [])
        return _compare(two.spec.precision.upper(), one, two, dataset, label_of, proof.protocol)


def verify_engine(single: onnx.ModelProto, engine: Engine, proof: Proof) -> Verdict | BoxVerdict:
    """Runs an FP32 model and an engine made of it on the same images. Raises VerifyError, EngineError."""
    with model_file.opened(single) as one:
        dataset, label_of, _ = _open_images(one, proof)
        return _compare("the engine", one, engine, dataset, label_of, proof.protocol)


def _open_images(engine: Engine, proof: Proof) -> tuple[Dataset, NDArray[np.int32], list[str]]:
    """(the images, the engine's class of each of their classes, what is to be said). Raises VerifyError."""
    assert proof.verify is not None
    reading = proof.reading
    try:
        dataset = open_dataset(proof.verify, "named", limit=proof.limit or None, **reading.of_dataset)
        if engine.spec.task != "classify":
            return dataset, np.zeros(0, np.int32), dataset.notes
        match = match_classes(dataset, engine.spec, by_order=reading.classes_by_order)
    except (DatasetError, RunError) as error:
        raise VerifyError(f"--verify: {error}") from None
    return dataset, match.label_of, [*dataset.notes, *filter(None, [match.remark])]


def _compare(
    what: str, single: Engine, other: Engine, dataset: Dataset, label_of: NDArray[np.int32], protocol: str
) -> Verdict | BoxVerdict:
    """The verdict on two engines of one net. Raises VerifyError, EngineError."""
    scales = default_scales(single.spec, protocol)
    try:
        if single.spec.task == "classify":
            return _compare_posteriors(what, (single, other), dataset, label_of, protocol, scales)
        return _compare_boxes(what, (single, other), dataset, protocol, scales)
    except (DatasetError, RunError) as error:
        raise VerifyError(f"--verify: {error}") from None


class _Seen(NamedTuple):
    """An image of the data set, its views, and for each engine OK or why it cannot see the image."""

    image: DecodedImage
    statuses: tuple[str, str]
    pixels: Pixels
    plan: ViewPlan


Engines = tuple[Engine, Engine]
"""The FP32 graph, and the other."""
NOTHING: Pixels = np.zeros((0, 0, 3), np.uint8)


def _images(engines: Engines, dataset: Dataset, protocol: str, scales: tuple[int, ...]) -> Iterator[_Seen]:
    """Every image of the data set. Raises RunError where it is gone."""
    spec = engines[0].spec
    exif = spec.preprocessing.exif
    for item in dataset.items:
        read = read_image(item, [exif], strict=False)
        if not read.images:
            yield _Seen(read, (read.status, read.status), NOTHING, ViewPlan(protocol, (0, 0), ()))
            continue

        pixels = read.images[exif]  # [h, w, 3]
        plan = plan_views(spec, protocol, (pixels.shape[0], pixels.shape[1]), scales)
        reasons = [out_of_range(plan, engine.shapes, spec) for engine in engines]
        for reason in filter(None, reasons):
            print(one_line(f"{item.name}: {reason}"), file=sys.stderr)
        one, other = (OK if reason is None else OUT_OF_RANGE for reason in reasons)
        yield _Seen(read, (one, other), pixels, plan)


def _compare_posteriors(
    what: str,
    engines: Engines,
    dataset: Dataset,
    label_of: NDArray[np.int32],
    protocol: str,
    scales: tuple[int, ...],
) -> Verdict:
    failed = np.zeros(len(engines[0].spec.classes), np.float32)
    outputs = [name for name in ("posterior", CLASS_SCORES) if name in engines[0].spec.outputs]
    labels: list[int] = []
    posteriors: tuple[list[NDArray[Any]], ...] = ([], [])  # of each engine [images, classes]
    statuses: tuple[list[str], ...] = ([], [])  # of each engine
    content, largest_score_error = 0, 0.0

    for seen in _images(engines, dataset, protocol, scales):
        content += seen.image.digest
        label = seen.image.item.label
        labels.append(UNKNOWN_LABEL if label == UNKNOWN_LABEL else int(label_of[label]))
        merged = merge_plans(seen.plan.image_px, [seen.plan])  # as the evaluation runs it
        class_scores = []
        for number, engine in enumerate(engines):
            statuses[number].append(seen.statuses[number])
            if seen.statuses[number] != OK:
                posteriors[number].append(failed)
                continue
            results = engine.run(engine.load([seen.pixels]), [merged.plan], outputs)  # [views, classes] each
            (mean,) = merged.weights @ results["posterior"].astype(np.float64)
            posteriors[number].append(mean.astype(np.float32))
            class_scores += [results[name] for name in outputs if name == CLASS_SCORES]

        if len(class_scores) == 2:
            single_scores, other_scores = class_scores
            errors = np.abs(other_scores - single_scores).max(1) / single_scores.std(1)  # [views]
            largest_score_error = float(np.maximum(largest_score_error, errors.max()))  # NaN stays NaN

    names = tuple(item.name for item in dataset.items)
    digests = ("",) * len(names)  # of the pixels, which nobody asks for
    metadata = {
        "protocol": protocol,
        "scales": ",".join(map(str, scales)),
        "dataset_id": dataset_id(len(names), content),
    }
    single, other = (
        Scores(names, np.array(labels, np.int32), tuple(said), digests, np.stack(rows), metadata)
        for said, rows in zip(statuses, posteriors, strict=True)
    )
    error = largest_score_error if CLASS_SCORES in outputs else None
    return judge(what, engines[1].spec.precision, single, other, error)


def judge(what: str, precision: str, single: Scores, half: Scores, largest_score_error: float | None) -> Verdict:
    """The verdict on two score tables of the same images. Raises VerifyError where none could be read."""
    seen = single.readable & half.readable
    if not seen.any():
        raise VerifyError(f"--verify: none of {len(seen)} images can be used, first {single.statuses[0]}")

    percents = []  # top-1, top-5
    for one, other in zip(top_errors([single], (1, 5)), top_errors([half], (1, 5)), strict=True):
        percents.append((one.percent, other.percent) if one and other else None)
    has_top5 = single.posterior.shape[1] >= TOP5_CLASSES
    pairs = pair_scores(single, half, 1) if percents[0] else _as_pairs(single, half, seen)
    return Verdict(
        what,
        precision,
        int(seen.sum()),
        single.metadata["protocol"],
        single.scales,
        single.metadata["dataset_id"],
        float(np.abs(single.posterior[seen] - half.posterior[seen]).max()),
        largest_score_error,
        agreement_percent(single, half, 1),
        agreement_percent(single, half, 5) if has_top5 else None,
        percents[0],
        percents[1] if has_top5 else None,
        pairs.p if percents[0] else None,
        pairs,
    )


def _as_pairs(single: Scores, half: Scores, seen: NDArray[np.bool_]) -> Paired:
    """The counts where FP32's own answers are taken to be right."""
    differ = (single.posterior.argmax(1) != half.posterior.argmax(1))[seen]
    return count_pairs(np.zeros_like(differ), differ)


def _compare_boxes(what: str, engines: Engines, dataset: Dataset, protocol: str, scales: tuple[int, ...]) -> BoxVerdict:
    images, differences, name = 0, [np.zeros(0, np.float32)], answer_of(engines[0].spec)
    for seen in _images(engines, dataset, protocol, scales):
        if seen.statuses != (OK, OK):
            continue
        images += 1
        for plan in _by_size(seen.plan):
            one, other = (
                engine.run(engine.load([seen.pixels]), [plan], (name,))[name] for engine in engines
            )  # [views, channels, h', w']
            differences.append(np.abs(one - other).ravel())
    if not images:
        raise VerifyError(f"--verify: none of {len(dataset.items)} images can be used, first {dataset.items[0].name}")

    every = np.concatenate(differences)
    worst, mean = float(every.max()), float(every.mean())  # NaN stays NaN
    spec = engines[1].spec
    return BoxVerdict(what, spec.precision, images, protocol, scales, len(every) // 4, worst, mean, spec.crop_px)


def _by_size(plan: ViewPlan) -> list[ViewPlan]:
    """The views of a plan, those of one size together, since a map has one size."""
    sizes: dict[Size, list[View]] = {}
    for view in plan.views:
        sizes.setdefault(view.size_px, []).append(view)
    return [ViewPlan(plan.protocol, plan.image_px, tuple(views)) for views in sizes.values()]


def with_class_scores(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with CLASS_SCORES among its outputs: the input of the softmax that makes the posterior."""
    extended = copied(model)
    (softmax,) = (node for node in model.graph.node if "posterior" in node.output)
    extended.graph.node.append(helper.make_node("Identity", [softmax.input[0]], [CLASS_SCORES]))
    extended.graph.output.append(helper.make_tensor_value_info(CLASS_SCORES, TensorProto.FLOAT, ("views", "classes")))
    return extended
