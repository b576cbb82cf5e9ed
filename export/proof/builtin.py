"""A look at half's range on a few built-in images, where nobody gave real ones: what is plainly wrong is seen.

It proves nothing about the images that a net is for: `--calibrate DIR` and `--verify DIR` do. But a net that leaves
half's range on any image at all is often one that leaves it on every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infer import self_test
from infer.engine import EngineError, answer_of
from infer.errors import one_line
from infer.pixels.decode import Pixels
from infer.spec import ModelSpec
from infer.views import View, ViewPlan

from ..errors import ModelError
from ..model import file as model_file
from ..model.mixed import half_layers
from ..model.precision import HALF_MAX, PrecisionError, check_graph
from ..model.source import Source

LARGEST = "largest_of_layers"
"""Output added to the check graph: the largest magnitude of each layer before it is rounded, f32 [1, layers]."""


class RangeError(ModelError):
    """A net that has no answer in half precision; one line."""


@dataclass(frozen=True, slots=True)
class BuiltinRange:
    """Largest magnitudes of the layers in half precision, on the built-in images."""

    names: tuple[str, ...]
    largest: NDArray[np.float32]  # [images, layers]
    answers_nothing: tuple[bool, ...]  # of each image: the answer is NaN or infinite

    @property
    def overflow(self) -> str | None:
        """The first layer beyond half's range, in words; None where none is."""
        beyond = ~(self.largest <= HALF_MAX).all(0)  # NaN too
        if not beyond.any():
            return None
        place = int(beyond.argmax())
        value = float(self.largest[:, place].max())
        reached = f"reaches {value:.3g}" if np.isfinite(value) else "gives no finite number"
        return f"layer {self.names[place]} {reached}, half precision ends at {HALF_MAX:.0f}"

    def line(self) -> str:
        """What was seen, to be printed."""
        images = len(self.largest)
        unchecked = "the range of half precision was not checked on real images"
        if self.overflow is not None:
            return (
                f"{unchecked}; warning: on {images} built-in ones {self.overflow}: build with --calibrate DIR, which "
                "rescales the net, or --precision fp32"
            )
        place = int(self.largest.max(0).argmax())
        share = 100 * float(self.largest[:, place].max()) / HALF_MAX
        return (
            f"{unchecked}: on {images} built-in ones the net uses {share:.2g} % of it ({self.names[place]}); "
            "--calibrate DIR and --verify DIR check it on yours"
        )


def check_builtin(source: Source) -> None:
    """Says on stdout what half precision does to the built-in images.

    Raises RangeError where it leaves one of them without an answer that is a number.
    """
    try:
        found = measure_builtin(model_file.read(source.path))
    except (EngineError, PrecisionError) as error:  # an operator of another's FP16 model that cannot be rounded here
        print(one_line(f"the range of half precision was not checked: {error}"), flush=True)
        return
    lost = sum(found.answers_nothing)
    if lost:
        why = found.overflow or "no layer leaves half's range, so the net itself has no answer"
        raise RangeError(
            f"{source.path}: in half precision {lost} of {len(found.largest)} built-in images have no answer that is a "
            f"number ({why}), so there is no engine: build with --calibrate DIR, which rescales the net, "
            "--keep-single LAYER,... for the layers between which it is too large, or --precision fp32"
        )
    print(one_line(found.line()), flush=True)


def measure_builtin(model: onnx.ModelProto) -> BuiltinRange:
    """Runs the check graph of an FP16 model on the built-in images, one view of crop_px each."""
    names, measured = _with_largest(model)
    rows, answers_nothing = [], []
    with model_file.opened(measured, [LARGEST]) as engine:
        answer = answer_of(engine.spec)
        for image in builtin_images(engine.spec):
            crop = engine.spec.crop_px
            plan = ViewPlan("built-in", (crop, crop), (View(crop, (0, 0, crop, crop)),))
            results = engine.run(engine.load([image]), [plan], [answer, LARGEST])
            rows.append(results[LARGEST][0])
            answers_nothing.append(not bool(np.isfinite(results[answer]).all()))
    return BuiltinRange(tuple(names), np.stack(rows), tuple(answers_nothing))


def builtin_images(spec: ModelSpec) -> list[Pixels]:
    """Images of crop_px x crop_px, always the same: as bright and as contrasted as any, and like photographs.

    A photograph's amplitudes fall as 1/f (Field, "Relations between the statistics of natural images and the response
    properties of cortical cells", 1987).
    """
    crop, rng = spec.crop_px, np.random.default_rng(20)
    made = self_test.make_image(0, spec)[:crop, :crop]
    ramp = np.linspace(0, 255, crop)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp, ramp[::-1]), 2)  # [h, w, 3]

    # noise of equal amplitude, and of amplitude 1/f
    white = rng.integers(0, 256, (crop, crop, 3))
    frequencies = np.hypot(np.fft.fftfreq(crop)[:, None], np.fft.fftfreq(crop))
    amplitudes = 1 / np.maximum(frequencies, 1 / crop)
    waves = np.fft.fft2(rng.standard_normal((crop, crop, 3)), axes=(0, 1)) * amplitudes[:, :, None]
    natural = np.fft.ifft2(waves, axes=(0, 1)).real
    natural = 128 + 60 * natural / natural.std()

    images: Sequence[NDArray[np.generic]] = (made, np.full((crop, crop, 3), 255), gradient, white, natural)
    return [np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8)) for image in images]


def _with_largest(model: onnx.ModelProto) -> tuple[list[str], onnx.ModelProto]:
    """The layers' names and a check graph with LARGEST among its outputs; one view in a call."""
    layers, measured = half_layers(model), check_graph(model)
    graph = measured.graph
    sources = {node.output[0]: node.input[0] for node in graph.node if node.name.endswith(".round")}
    graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), f"{LARGEST}.shape"))

    parts = []
    for layer in layers:
        part = f"{LARGEST}:{layer.tensor}"
        exact = sources[f"{layer.tensor}.half"]  # what is rounded to it
        graph.node.append(helper.make_node("Reshape", [exact, f"{LARGEST}.shape"], [f"{part}.flat"]))
        graph.node.append(helper.make_node("Abs", [f"{part}.flat"], [f"{part}.abs"]))
        model_file.add_maximum(measured, f"{part}.abs", [1], part, keepdims=True)
        parts.append(part)
    graph.node.append(helper.make_node("Concat", parts, [LARGEST], axis=1))
    graph.output.append(helper.make_tensor_value_info(LARGEST, TensorProto.FLOAT, ("views", len(parts))))
    return [layer.name for layer in layers], measured
