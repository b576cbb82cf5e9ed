"""The gate: what half precision costs a net on real images, before an engine is made of it, and what the engine does.

The FP32 graph and the check graph (see precision.py) or the engine run the same views of the same images through the
evaluation's own protocols, so the differences are those that the engine's scores will have, image by image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from evaluation.errors import RunError
from evaluation.run.protocol import Protocol
from evaluation.run.score import evaluate
from evaluation.scores.metrics import agreement_percent, mcnemar, top_errors
from evaluation.scores.table import Scores
from infer.data.dataset import DatasetError, open_dataset
from infer.engine import DeviceImage, Engine
from infer.onnx_engine import OnnxEngine
from infer.spec import ModelSpec
from infer.views import ViewPlan, default_scales

from ..errors import ModelError
from ..model import file as model_file
from ..model.precision import check_graph

SCORES = "class_scores"
"""Output added to both graphs: what goes into the softmax, f32 [views, classes]."""


class VerifyError(ModelError):
    """Images that nothing can be verified with; one line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Half against single precision on the same images. Errors are None for images without labels."""

    what: str  # "FP16" for the graph without a GPU, "the engine"
    images: int
    protocol: str
    scales: tuple[int, ...]
    dataset_id: str
    largest_posterior_difference: float
    largest_score_error: float | None  # in standard deviations of the FP32 class scores, which an engine does not give
    top1_agreement_percent: float
    top5_agreement_percent: float
    top1_error_percent: tuple[float, float] | None  # FP32, half
    top5_error_percent: tuple[float, float] | None
    mcnemar_p: float | None  # of the top-1 errors

    def passes(self, tolerance: float) -> bool:
        """False for NaN too, which is how an overflow shows."""
        return self.largest_posterior_difference <= tolerance

    @property
    def worst(self) -> str:
        return f"a posterior of {self.what} differs from FP32's by {self.largest_posterior_difference:.2g}"

    def lines(self) -> list[str]:
        """What to print."""
        scales = ",".join(map(str, self.scales))
        error = self.largest_score_error
        of_scores = "" if error is None else f", of a class score {error:.2g} standard deviations"
        said = [
            f"{self.what} against FP32 on {self.images} images of {self.dataset_id}, {self.protocol} at {scales}: "
            f"largest difference of a posterior {self.largest_posterior_difference:.2g}{of_scores}; same top-1 for "
            f"{self.top1_agreement_percent:.2f} % of the images, same top-5 for {self.top5_agreement_percent:.2f} %"
        ]
        if self.top1_error_percent and self.top5_error_percent:
            (one, one_half), (five, five_half) = self.top1_error_percent, self.top5_error_percent
            said.append(
                f"top-1 error {one:.2f} % in FP32, {one_half:.2f} % in FP16 (McNemar's exact test: p = "
                f"{self.mcnemar_p:.2g}); top-5 error {five:.2f} % and {five_half:.2f} %"
            )
        return said


def verify(
    reference: onnx.ModelProto, half: onnx.ModelProto, data: Path, protocol: str, limit: int, scales: Sequence[int] = ()
) -> Verdict:
    """Runs an FP32 and an FP16 model of one net on the first `limit` images of a data set (0: all).

    Raises VerifyError for data that is none, is of other classes or cannot be read at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        single = _Engine(_with_scores(reference, Path(folder) / "single.onnx"))
        checked = _Checked(_with_scores(check_graph(half), Path(folder) / "check.onnx"))
        checked.single = single
        try:
            one, other = _run(single, checked, data, protocol, limit, scales)
        finally:
            single.close()
            checked.close()
    return judge("FP16", one, other, checked.largest_score_error)


def verify_engine(reference: onnx.ModelProto, engine: Engine, data: Path, protocol: str, limit: int) -> Verdict:
    """The same of an FP32 model and an engine made of it, where that runs. Raises VerifyError, EngineError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "single.onnx"
        model_file.save(reference, path)
        single = OnnxEngine(path)
        try:
            return judge("the engine", *_run(single, engine, data, protocol, limit, ()), None)
        finally:
            single.close()


def _run(
    single: Engine, other: Engine, data: Path, protocol: str, limit: int, scales: Sequence[int]
) -> tuple[Scores, Scores]:
    """Scores of both on the same images."""
    own = Protocol(protocol, tuple(scales) or default_scales(single.spec, protocol))
    try:
        run = evaluate([single, other], [[own], [own]], open_dataset(data, limit=limit or None))
    except (DatasetError, RunError) as error:
        raise VerifyError(f"--verify: {error}") from None
    (one,), (two,) = run.scores
    return one, two


def judge(what: str, single: Scores, half: Scores, largest_score_error: float | None) -> Verdict:
    """The verdict on two score tables of the same images. Raises VerifyError where none could be read."""
    seen = single.readable & half.readable
    if not seen.any():
        raise VerifyError(f"--verify: none of {len(seen)} images can be used, first {single.statuses[0]}")
    errors = zip(top_errors([single], (1, 5)), top_errors([half], (1, 5)), strict=True)
    percents = [(one.percent, other.percent) if one and other else None for one, other in errors]
    return Verdict(
        what,
        int(seen.sum()),
        single.metadata["protocol"],
        single.scales,
        single.metadata["dataset_id"],
        float(np.abs(single.posterior[seen] - half.posterior[seen]).max()),
        largest_score_error,
        agreement_percent(single, half, 1),
        agreement_percent(single, half, 5),
        percents[0],
        percents[1],
        mcnemar(single, half, 1).p if percents[0] else None,
    )


class _Engine(OnnxEngine):
    """An engine that keeps the class scores of its last call."""

    scores: NDArray[np.float32]

    def run(
        self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)
    ) -> dict[str, NDArray[Any]]:
        results = super().run(image, plans, (*outputs, SCORES))
        self.scores = results.pop(SCORES)
        return results


class _Checked(_Engine):
    """The check graph, each call of which follows the same call of `single`."""

    single: _Engine
    largest_score_error = 0.0

    def run(
        self, image: DeviceImage, plans: Sequence[ViewPlan], outputs: Sequence[str] = ("posterior",)
    ) -> dict[str, NDArray[Any]]:
        results = super().run(image, plans, outputs)
        errors = np.abs(self.scores - self.single.scores).max(1) / self.single.scores.std(1)
        self.largest_score_error = float(np.maximum(self.largest_score_error, errors.max()))  # NaN stays NaN
        return results


def _with_scores(model: onnx.ModelProto, path: Path) -> Path:
    """Writes the model with SCORES among its outputs: the input of the softmax that makes the posterior."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    (softmax,) = (node for node in model.graph.node if "posterior" in node.output)
    extended.graph.node.append(helper.make_node("Identity", [softmax.input[0]], [SCORES]))
    extended.graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ("views", "classes")))
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    spec = ModelSpec.from_json(metadata["spec"])
    spec = replace(spec, outputs=(*spec.outputs, SCORES))
    del extended.metadata_props[:]
    helper.set_model_props(extended, {"spec": spec.to_json()})
    model_file.save(extended, path)
    return path
