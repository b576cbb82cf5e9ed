"""A foreign model's behaviour: how many views a call takes, sides of any size, logits or probabilities.

A file's declarations are hints at best, so it is run on noise, by ONNX Runtime.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto

from infer.spec import Preprocessing, Size

from ..model import file as model_file
from .fixed import EVAL, normalises_batch
from .sides import squeezed, unseen, window_that_skips
from .surgery import TINY, ForeignError, ImageInput, OutputKind, set_input, upgraded, with_any_views, with_floats

THREADS = 2
"""Threads of ONNX Runtime: each reserves memory, which is bounded here, and a machine may have hundreds of CPUs."""
OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "Available memory of", "pthread_create")
"""Words of its errors where memory, or a thread's stack, was refused."""
FAILED = re.compile(r".*returned while running (\w+) node\. Name:'(?:net/)?([^']*)' Status Message: ")
"""How it says where that was."""
MOST_LETTERS = 160
"""Of an error of ONNX Runtime within a reason of ours."""


class Trial(NamedTuple):
    """A model with our input as it can be called, and what it returned for single views: f64 [3, classes, ...].

    `few_views` and `fixed_sides` say why it takes one view a call, or crops alone; "": it does not. `tried` are the
    sides of larger views that it was run on.
    """

    model: onnx.ModelProto
    outputs: NDArray[np.float64]
    few_views: str
    fixed_sides: str
    tried: tuple[Size, ...]


def try_out(model: onnx.ModelProto, image: ImageInput, crop_px: int, preprocessing: Preprocessing) -> Trial:
    """Finds out which calls the model takes: of several views, of other sides. Raises ForeignError if it takes none."""
    views = _noise(preprocessing, crop_px, crop_px)  # [3, 3, crop, crop]
    batch = image.views or 1
    calls = _outputs(model, *(np.repeat(view[None], batch, 0) for view in (*views, views[0])))
    outputs = np.concatenate([output[:1] for output in calls[:-1]])
    if outputs.ndim not in (2, 4):
        raise ForeignError(f"returns {list(outputs.shape)} for three views, expected [3, classes] or a map of scores")
    if not np.isfinite(outputs).all():
        raise ForeignError("returns values that are not finite for noise: are --mean and --std right?")
    if not _close(calls[-1][:1], outputs[:1]):
        raise ForeignError(f"answers differ from call to call for the same image: {EVAL}")

    if image.kind == TensorProto.UINT8:
        model = _without_bytes(model, batch, views, outputs)
    model, few_views = _free_views(model, image, views, outputs)
    tried = larger_sides(crop_px)
    set_input(model.graph, 1 if few_views else 0, 0)
    fixed_sides = _fixed_sides(model, outputs, image.class_axis(outputs.ndim), preprocessing, tried)
    return Trial(model, outputs, few_views, fixed_sides, tried)


def _without_bytes(
    model: onnx.ModelProto, batch: int, views: NDArray[np.float32], outputs: NDArray[np.float64]
) -> onnx.ModelProto:
    """The model with floats in place of bytes where it answers the same: TensorRT has bytes at its inputs alone."""
    floats = with_floats(model)
    try:
        answers = _outputs(floats, *(np.repeat(view[None], batch, 0) for view in views))
    except ForeignError:
        return model
    same = _close(np.concatenate([answer[:1] for answer in answers]), outputs)
    return floats if same else model


def _free_views(
    model: onnx.ModelProto, image: ImageInput, views: NDArray[np.float32], outputs: NDArray[np.float64]
) -> tuple[onnx.ModelProto, str]:
    """The model for any number of views in a call, or as it is, and why it takes one alone. Raises ForeignError."""
    batch = image.views or 1
    any_views, mixes = with_any_views(model, batch), False
    try:
        together, alone = _outputs(any_views, views, views[:1])
        fits = together.shape == outputs.shape and alone.shape == outputs[:1].shape
        mixes = fits and not (_close(together, outputs) and _close(alone, outputs[:1]))
        if mixes or not fits:
            raise ForeignError("it mixes the views of a call")
        return any_views, ""
    except ForeignError as error:
        statistics = normalises_batch(model.graph)
        if mixes and (image.views == 0 or statistics):
            why = f" ({statistics})" if statistics else ""
            raise ForeignError(
                f"the answer for an image depends on the other images of its batch{why}: {EVAL}"
            ) from None
        if batch > 1:
            raise ForeignError(
                f"takes {batch} views in every call and cannot be freed of that ({error}): export it again with a "
                "dynamic batch or a batch of 1"
            ) from None
        return model, f"takes one view a call ({str(error)[:MOST_LETTERS]}): export it again with a dynamic batch"


def larger_sides(crop_px: int) -> tuple[Size, ...]:
    """Sides of views to try: of half as much again and of twice as much, in steps of 32, and of no steps at all."""
    half, twice = (step - step % 32 for step in (crop_px // 2, crop_px))
    return (
        (crop_px + max(half, 32), crop_px + half + 64),
        (crop_px + 85, crop_px + 33),
        (crop_px + twice + 64, crop_px + max(twice, 32)),
    )


def _fixed_sides(
    model: onnx.ModelProto,
    outputs: NDArray[np.float64],
    class_axis: int,
    preprocessing: Preprocessing,
    sides: tuple[Size, ...],
) -> str:
    """The reason why larger views would be refused, or answered by a part of them; "": they are seen whole."""
    for height, width in sides:
        view = _noise(preprocessing, height, width)[-1:]
        try:
            (larger,) = _outputs(model, view)
        except ForeignError as error:
            return f"it cannot be run on {height}x{width} px ({str(error)[:MOST_LETTERS]})"
        expected = outputs[:1].shape
        same = larger.ndim == len(expected) and larger.shape[class_axis] == expected[class_axis]
        if not same or (larger.shape != expected and larger.ndim == 2) or len(larger) != 1:
            return f"it returns {list(larger.shape)} for {height}x{width} px, {list(expected)} for a crop"

    partly = window_that_skips(model, sides[0]) or squeezed(model, *sides[:2])
    if partly:
        return partly

    # scores of the whole view, for which a probability near one leaves as much to say as another
    positions = tuple({1, 2, 3} - {class_axis})
    in_logarithms = _are_probabilities(outputs, class_axis)

    def scores(view: NDArray[np.float32]) -> NDArray[np.float64]:
        (found,) = _outputs(model, view)
        found = np.log(np.maximum(found, TINY)) if in_logarithms else found
        return np.asarray((found.mean(positions) if found.ndim == 4 else found)[0])

    return unseen(scores, _noise(preprocessing, *sides[0])[-1:], _black(preprocessing))


def in_opset(trial: Trial, opset: int, preprocessing: Preprocessing, crop_px: int) -> onnx.ModelProto:
    """The trial's model in a later opset, where it answers as before. Raises ForeignError."""
    changed = upgraded(trial.model, opset)
    sides = [(crop_px, crop_px), *([] if trial.fixed_sides else trial.tried[:2])]
    calls = [_noise(preprocessing, *side)[: 1 if trial.few_views else None] for side in sides]
    for old, new in zip(_outputs(trial.model, *calls), _outputs(changed, *calls), strict=True):
        if not _close(new, old):
            raise ForeignError("onnx.version_converter makes another net of it")
    return changed


def _noise(preprocessing: Preprocessing, height_px: int, width_px: int) -> NDArray[np.float32]:
    """Noise of three brightnesses, as a model takes it: f32 [3, 3, h, w]."""
    brightness = np.array([85, 170, 255])[:, None, None, None]
    pixels = np.random.default_rng(0).random((3, height_px, width_px, 3)) * brightness
    normalised = (pixels.round() - preprocessing.mean_rgb) / preprocessing.std_rgb
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)


def _black(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """A black pixel, as a model takes it: f32 [3, 1, 1]."""
    values = -np.array(preprocessing.mean_rgb) / preprocessing.std_rgb
    return np.asarray(values[:, None, None], np.float32)


def _close(found: NDArray[np.float64], expected: NDArray[np.float64]) -> bool:
    """True where they are equal up to rounding, of half graphs too."""
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max())


def kind_of(outputs: NDArray[np.float64], class_axis: int, last_operator: str, asked: OutputKind | None) -> OutputKind:
    """Probabilities are positive and sum to one; logits are anything else. Raises ForeignError where neither fits."""
    sums = outputs.sum(class_axis)
    probabilities = _are_probabilities(outputs, class_axis)

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


def _are_probabilities(outputs: NDArray[np.float64], class_axis: int) -> bool:
    return bool((outputs >= 0).all() and np.abs(outputs.sum(class_axis) - 1).max() < 1e-2)


def _outputs(model: onnx.ModelProto, *inputs: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The model's one output for each of `inputs`, on ONNX Runtime. Raises ForeignError where that cannot."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = THREADS
    with model_file.saved(model) as path:
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            outputs = [session.run(None, {"input": values})[0] for values in inputs]
        except Exception as error:  # onnxruntime has a class of its own for each failure
            said = FAILED.sub(r"\1 \2: ", " ".join(str(error).split()))
            wanted = any(words in said for words in OUT_OF_MEMORY)
            more = ": it needs more memory than an import may take" if wanted else ""
            raise ForeignError(f"ONNX Runtime cannot run it ({said[:300]}){more}") from None

    for output in outputs:
        kind = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        if not kind.startswith("float"):
            raise ForeignError(f"returns {kind}, expected floats: choose the class scores with --output")
    return [np.asarray(output, np.float64) for output in outputs]
