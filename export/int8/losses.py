"""What quantising loses: the error of the class scores on a few images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from infer.engine import answer_of
from infer.spec import ModelSpec

from ..model import file as model_file
from ..model.file import metadata
from ..proof.verify import CLASS_SCORES, with_class_scores
from .calibration import TRIED, Images


class LayerLoss(NamedTuple):
    """What is lost where this layer alone is quantised: the error of the class scores, in their standard deviations."""

    layer: str
    loss: float


def loss_of(found: Sequence[NDArray[np.float64]], expected: Sequence[NDArray[np.float64]]) -> float:
    """The root mean square of the differences, in standard deviations of what is expected over all."""
    differences = np.concatenate([(one - other).ravel() for one, other in zip(found, expected, strict=True)])
    spread = np.concatenate([one.ravel() - one.mean() for one in expected])
    return float(np.sqrt((differences**2).mean() / max((spread**2).mean(), 1e-300)))


def scores_of(model: onnx.ModelProto, images: Images, count: int = TRIED) -> list[NDArray[np.float64]]:
    """The class scores, or the map of boxes, of one view of each of a few images."""
    spec = ModelSpec.from_json(metadata(model)["spec"])
    is_classifier = spec.task == "classify"
    name = CLASS_SCORES if is_classifier else answer_of(spec)
    opened = model_file.opened(with_class_scores(model), [name]) if is_classifier else model_file.opened(model)
    del model
    with opened as engine:
        return [
            engine.run(engine.load([pixels]), [plan], [name])[name].astype(np.float64)
            for pixels, plan in images.few(count)
        ]
