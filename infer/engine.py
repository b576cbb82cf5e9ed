"""The interface of every runtime: an engine loads decoded images once and runs plans of views on them.

Rescaling, cropping, mirroring and averaging over positions are the engine's business. Averaging over views is its
caller's. An engine on the host computes in `run`. A GPU's engine also has `start`: its work goes on while the host
makes the next image ready.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import Refused
from .pixels.decode import Pixels
from .pixels.render import Cache, render, source_of
from .spec import ModelSpec, Precision
from .views import NumberedView, ShapeRange, View, ViewPlan

Provider = Literal["cpu", "cuda", "tensorrt"]
"""Execution providers of ONNX Runtime."""

HOST = "host"
"""Engine.device of an engine that runs on the CPU, and cuts its views from images that Pillow rescaled."""

UNROUNDED = "fp16 weights, fp32 arithmetic"
"""Engine.arithmetic of an FP16 model whose runtime keeps activations in FP32: no cost of half precision shows there."""


INT8_IN_FP32 = "int8 + fp32"
"""Engine.arithmetic of an INT8 model of ours on a CPU, without its check graph: what stays in half is not rounded."""

ROUNDED = "fp16, rounded by"
"""How Engine.arithmetic begins where a check graph was opened in an FP16 model's place."""


def rounded_by(file: str, precision: Precision = "fp16") -> str:
    """Engine.arithmetic of an FP16 or INT8 model whose check graph was opened in its place."""
    return f"int8 + {ROUNDED} {file}" if precision == "int8" else f"{ROUNDED} {file}"


def is_stand_in(arithmetic: str | None) -> bool:
    """True where FP16 or INT8 was computed in FP32, rounded or not: its time says nothing of that precision.

    By its check graph INT8 is computed as such on a CPU too; the few layers that stay in half matter little.
    """
    return arithmetic is not None and (arithmetic.startswith(ROUNDED) or arithmetic in (UNROUNDED, INT8_IN_FP32))


Outputs = dict[str, NDArray[Any]]
"""Arrays by the names of the outputs (see Engine); the first axis is the view."""


class EngineError(Refused):
    """An engine that cannot be opened or run; one line: got, expected, what to do."""


NOT_FINITE = "the model's answer is not finite (NaN or infinite): it is damaged, or overflows in half precision"
"""Status of an image to which a model has no answer."""


class AnswerError(EngineError):
    """An engine's answer to one image that is none (NOT_FINITE); others may have one."""


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """Decoded images as an engine holds them, with their rescaled versions; engines of one process share it.

    `uploads` holds what lies on devices already, by whatever key an engine gives it. It goes with the image. An image
    may be u8 [h, w, 0] where all that is needed of it has been rescaled (pixels/render.py, shrink).
    """

    images: tuple[Pixels, ...]
    rescaled: tuple[Cache, ...]
    uploads: dict[Any, Any] = field(default_factory=dict)

    def source(self, number: int, view: View, spec: ModelSpec) -> Pixels:
        """The pixels that a view of image `number` is cut from, at `view.cut`."""
        return source_of(self.images[number], view, spec, self.rescaled[number])

    def render(self, views: Sequence[NumberedView], spec: ModelSpec) -> Pixels:
        """The pixels of views of one size, u8 [views, h, w, 3]."""
        return np.stack([render(self.images[n], [view], spec, self.rescaled[n])[0] for n, view in views])


def load_on_host(images: Sequence[Pixels]) -> DeviceImage:
    """Images that nothing is uploaded of yet."""
    return DeviceImage(tuple(images), tuple({} for _ in images))


class Engine(Protocol):
    """A compiled network.

    Outputs: `posterior` and `posterior_positions` f32 [views, classes]; `pixel_sums` i32 [views, 6] (pixels/render.py).
    Where exported: `score_map` f32 [views, classes, h', w'], which takes plans of one size of views at a time, and
    `features` f32 [views, width of the last hidden layer]. A box net has `box_map` in place of posteriors
    (boxes/finding.py), a MultiBox net `boxes` (boxes/multibox.py).
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def shapes(self) -> tuple[ShapeRange, ...]: ...

    @property
    def runtime(self) -> str:
        """Runtime and precision, as in the names of score files: `torch-fp32`."""
        ...

    @property
    def arithmetic(self) -> str:
        """What it computes in, for score tables: its precision, rounded_by(FILE), UNROUNDED, or INT8_IN_FP32."""
        ...

    @property
    def device(self) -> str:
        """The place where `load` puts images; engines of one device share what either has loaded."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of all that was opened: of one file its SHA-256, of several one of theirs (files.files_sha256)."""
        ...

    @property
    def seconds(self) -> float:
        """Time spent inside the runtime's own run calls so far."""
        ...

    def load(self, images: Sequence[Pixels]) -> DeviceImage:
        """Takes decoded images, u8 RGB [h, w, 3] each."""
        ...

    def run(self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)) -> Outputs:
        """Each output of all views, those of the first image's plan first. One plan for each loaded image."""
        ...

    def close(self) -> None: ...


class Started(Protocol):
    """Work that an engine was given."""

    def result(self) -> Outputs:
        """Waits for the work, once; returns what Engine.run does."""
        ...


@runtime_checkable
class Starting(Protocol):
    """An engine on a GPU, which computes while the host does something else."""

    def start(self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)) -> Started:
        """Gives the GPU the work of Engine.run and comes back."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """Work of an engine on the host, which was done when it was given."""

    outputs: Outputs

    def result(self) -> Outputs:
        return self.outputs


def start(engine: Engine, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str]) -> Started:
    """Gives an engine work: a GPU begins with it, the host does it now. Raises EngineError."""
    if isinstance(engine, Starting):
        return engine.start(image, plans, outputs)
    return Done(engine.run(image, plans, outputs))


def in_order(parts: Sequence[tuple[Sequence[int], Outputs]], names: Sequence[str]) -> Outputs:
    """Outputs of parts of the views, each with the places of its views in the plans, as arrays of all views: copies."""
    views = sum(len(places) for places, _ in parts)
    found: Outputs = {}
    for name in names:
        first = parts[0][1][name]
        found[name] = np.empty((views, *first.shape[1:]), first.dtype)
        for places, outputs in parts:
            found[name][_as_slice(places)] = outputs[name]
    return found


def _as_slice(places: Sequence[int]) -> slice | NDArray[np.intp]:
    """Places, as a slice where they follow each other."""
    numbers = np.asarray(places)
    if (np.diff(numbers) == 1).all():
        return slice(places[0], places[0] + len(places))
    return numbers


def answer_of(spec: ModelSpec) -> str:
    """The output that is a net's answer."""
    return {"classify": "posterior", "multibox": "boxes"}.get(spec.task, "box_map")


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers that a library's version begins with, by which versions are compared.

    Python's package says `10.14.1.48.post1` of TensorRT, which C++ calls 10.14.1.48.
    """
    found = re.match(r"\d{1,9}(\.\d{1,9})*", version, re.ASCII)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def check_graph(where: object, spec: ModelSpec, shapes: Mapping[str, Sequence[object]]) -> None:
    """Compares the outputs of a graph, each with its shape, with the spec. Raises EngineError.

    A dimension that is no number above 0 is not fixed: the first answer tells it (see check_answers).
    """
    expected = [name for name in spec.outputs if name != "pixel_sums" or spec.interface != "nchw"]
    if not set(expected) <= shapes.keys():
        raise EngineError(
            f"{where}: has outputs {', '.join(sorted(shapes))}, but its spec says {', '.join(sorted(expected))}: the "
            "spec is of another model, export or import it again"
        )
    for name in expected:
        _check_channels(where, spec, name, shapes[name])


def check_answers(spec: ModelSpec, outputs: Outputs, views: int) -> None:
    """Compares what a graph answered to some views with the spec. Raises EngineError."""
    for name, values in outputs.items():
        _check_channels(spec.name, spec, name, values.shape)
        if len(values) != views:
            raise EngineError(f"{spec.name}: answered {len(values)} times to {views} views in its {name}")


def _check_channels(where: object, spec: ModelSpec, name: str, shape: Sequence[object]) -> None:
    task_map = "score_map" if spec.task == "classify" else "box_map"
    per_class = name in ("posterior", "posterior_positions", task_map)
    if not per_class and name != "boxes":
        return
    found, expected = shape[1] if len(shape) > 1 else 0, spec.boxes if name == "boxes" else spec.channels
    if isinstance(found, int) and found > 0 and found != expected:
        known = f"{expected} boxes" if name == "boxes" else f"{expected} for the {len(spec.classes)} classes"
        raise EngineError(
            f"{where}: its {name} has {found} values, expected {known} "
            "that its spec names: the spec is of another model, export or import it again"
        )


def check_outputs(spec: ModelSpec, outputs: Sequence[str]) -> None:
    """Raises EngineError for an output that the engine was not exported with."""
    has = ", ".join(spec.outputs)

    for name in outputs:
        if name in spec.outputs:
            continue
        if spec.task == "multibox" and name != "features":
            raise EngineError(
                f"{spec.name} is a MultiBox net, which has no {name}, only {has}: it is for --multibox of "
                "evaluation.proposals"
            )
        if name == "boxes":
            raise EngineError(
                f"{spec.name} is no MultiBox net, it has no boxes: expected one of a recipe like googlenet-multibox"
            )
        if spec.task != "classify" and name != "features":
            raise EngineError(
                f"{spec.name} is a box net, which has no {name}, only {has}: it is for --boxes of "
                "evaluation.localization and infer"
            )
        if name == "box_map":
            raise EngineError(
                f"{spec.name} is a classifier, which has no box_map: expected a box net, of a recipe like vgg-d-loc-pcr"
            )
        raise EngineError(
            f"{spec.name} has no output {name!r}, only {has}: export it again, python -m "
            f"export.to_onnx ckpt.pt --outputs {name}"
        )
