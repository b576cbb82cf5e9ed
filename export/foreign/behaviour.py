"""The behaviour of a foreign model: how many views a call takes, sides of any size, logits or probabilities.

A file's declarations are hints at best, so the model is run on noise, by ONNX Runtime.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from infer.spec import Preprocessing

from ..model import file as model_file
from .surgery import ForeignError, ImageInput, OutputKind, with_any_views


class Trial(NamedTuple):
    """A model with our input as it can be called, and what it returned for single views: f64 [3, classes, ...]."""

    model: onnx.ModelProto
    outputs: NDArray[np.float64]
    max_views: int
    fixed_size: bool


def try_out(model: onnx.ModelProto, image: ImageInput, crop_px: int, preprocessing: Preprocessing) -> Trial:
    """Finds out which calls the model takes: of several views, of other sides. Raises ForeignError if it takes none."""
    views = _noise(preprocessing, crop_px, crop_px)  # [3, 3, crop, crop]
    batch = image.views or 1
    calls = _outputs(model, *(np.repeat(view[None], batch, 0) for view in views))
    outputs = np.concatenate([output[:1] for output in calls])
    if outputs.ndim not in (2, 4):
        raise ForeignError(f"returns {list(outputs.shape)} for three views, expected [3, classes] or a map of scores")
    if not np.isfinite(outputs).all():
        raise ForeignError("returns values that are not finite for noise: are --mean and --std right?")

    # several views in a call, or one
    max_views, any_views = 0, with_any_views(model, batch)
    try:
        together, alone = _outputs(any_views, views, views[:1])
        if not _close(together, outputs) or not _close(alone, outputs[:1]):
            raise ForeignError("it mixes the views of a call")
        model = any_views
    except ForeignError as error:
        if batch > 1:
            raise ForeignError(
                f"takes {batch} views in every call and cannot be freed of that ({error}): export it again with a "
                "dynamic batch or a batch of 1"
            ) from None
        max_views = 1

    # a larger view
    fixed_size = image.side_px > 0
    if not fixed_size:
        try:
            (larger,) = _outputs(model, _noise(preprocessing, crop_px + 32, crop_px + 96)[:1])
            fixed_size = larger.ndim != outputs.ndim
        except ForeignError:
            fixed_size = True
    return Trial(model, outputs, max_views, fixed_size)


def _noise(preprocessing: Preprocessing, height_px: int, width_px: int) -> NDArray[np.float32]:
    """Noise of three brightnesses, as a model takes it: f32 [3, 3, h, w]."""
    brightness = np.array([85, 170, 255])[:, None, None, None]
    pixels = np.random.default_rng(0).random((3, height_px, width_px, 3)) * brightness
    normalised = (pixels.round() - preprocessing.mean_rgb) / preprocessing.std_rgb
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)


def _close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    """True where they are equal up to rounding, of half graphs too."""
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max())


def kind_of(outputs: NDArray[np.float64], class_axis: int, last_operator: str, asked: OutputKind | None) -> OutputKind:
    """Probabilities are positive and sum to one; logits are anything else. Raises ForeignError where neither fits."""
    sums = outputs.sum(class_axis)
    probabilities = bool((outputs >= 0).all() and np.abs(sums - 1).max() < 1e-2)

    if asked == "probabilities" and not probabilities:
        raise ForeignError(
            f"--output-kind probabilities: its outputs go from {outputs.min():.3g} to {outputs.max():.3g} and their "
            f"sums from {sums.min():.3g} to {sums.max():.3g}, expected positive ones that sum to 1"
        )

    if asked is None and not probabilities and last_operator in ("Sigmoid", "HardSigmoid"):
        raise ForeignError(
            "ends in a sigmoid, so that several classes may be right at once, which no protocol knows: choose what "
            "comes before with --output, or say --output-kind logits"
        )
    return asked or ("probabilities" if probabilities else "logits")


def _outputs(model: onnx.ModelProto, *inputs: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The model's one output for each of `inputs`, on ONNX Runtime. Raises ForeignError where that cannot."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with model_file.saved(model) as path, _runtime_errors():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs = [session.run(None, {"input": values})[0] for values in inputs]
    for output in outputs:
        kind = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        if not kind.startswith("float"):
            raise ForeignError(f"returns {kind}, expected floats: choose the class scores with --output")
    return [np.asarray(output, np.float64) for output in outputs]


@contextlib.contextmanager
def _runtime_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime has a class of its own for each failure
        raise ForeignError(f"ONNX Runtime cannot run it ({' '.join(str(error).split())[:300]})") from None
