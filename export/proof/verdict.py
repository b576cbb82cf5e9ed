"""What another precision costs a net, in numbers and in words, and whether that passes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.scores.paired import Paired

from ..errors import ModelError
from ..model.source import Proof


class GateError(ModelError):
    """A graph or an engine that does not pass; one line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Another precision against FP32 on the same images. Errors are None for images without labels."""

    what: str  # "FP16" or "INT8" for the graph without a GPU, "the engine"
    precision: str
    images: int
    protocol: str
    scales: tuple[int, ...]
    dataset_id: str
    largest_posterior_difference: float
    largest_score_error: float | None  # in standard deviations of the FP32 class scores, which an engine does not give
    top1_agreement_percent: float
    top5_agreement_percent: float | None  # None, as the errors, for a net of few classes
    top1_error_percent: tuple[float, float] | None  # FP32, the other
    top5_error_percent: tuple[float, float] | None
    mcnemar_p: float | None  # of the top-1 errors
    pairs: Paired  # top-1 errors of FP32 and the other; of images without labels, those where FP32 answers otherwise

    @property
    def worst(self) -> str:
        return f"a posterior of {self.what} differs from FP32's by {self.largest_posterior_difference:.2g}"

    @property
    def drop(self) -> str:
        """What is lost, in words, with its interval."""
        low, high = self.pairs.interval95_percent
        interval = f"{self.pairs.difference_percent:+.2f} points [{low:+.2f}, {high:+.2f}]"
        if self.top1_error_percent is None:
            return f"{self.what} answers otherwise than FP32, which may all be errors: {interval}"
        return f"top-1 error of {self.what} less that of FP32: {interval}"

    def lines(self) -> list[str]:
        """The verdict in words, to be printed."""
        scales = ",".join(map(str, self.scales))
        error = self.largest_score_error
        of_scores = "" if error is None else f", of a class score {error:.2g} standard deviations"
        same_top5 = self.top5_agreement_percent
        of_top5 = "" if same_top5 is None else f", same top-5 for {same_top5:.2f} %"
        said = [
            f"{self.what} against FP32 on {self.images} images of {self.dataset_id}, {self.protocol} at {scales}: "
            f"largest difference of a posterior {self.largest_posterior_difference:.2g}{of_scores}; same top-1 for "
            f"{self.top1_agreement_percent:.2f} % of the images{of_top5}"
        ]
        if self.top1_error_percent:
            (one, other), fives = self.top1_error_percent, self.top5_error_percent
            of_five = "" if fives is None else f"; top-5 error {fives[0]:.2f} % and {fives[1]:.2f} %"
            said.append(
                f"top-1 error {one:.2f} % in FP32, {other:.2f} % in {self.precision.upper()} (McNemar's exact test: "
                f"p = {self.mcnemar_p:.2g}){of_five}"
            )
        return said if self.precision == "fp16" else [*said, self.drop]


@dataclass(frozen=True, slots=True)
class BoxVerdict:
    """Another precision against FP32 of a box net. Boxes are in units of crop_px (infer/boxes/finding.py)."""

    what: str  # "FP16" or "INT8" for the graph without a GPU, "the engine"
    precision: str
    images: int
    protocol: str
    scales: tuple[int, ...]
    boxes: int
    largest_box_difference: float
    mean_box_difference: float
    crop_px: int

    @property
    def worst(self) -> str:
        return f"a box of {self.what} differs from FP32's by {self.largest_box_difference:.2g} of the crop"

    def lines(self) -> list[str]:
        """The verdict in words, to be printed."""
        largest, mean = self.largest_box_difference, self.mean_box_difference
        return [
            f"{self.what} against FP32 on {self.images} images, {self.protocol} at {','.join(map(str, self.scales))}: "
            f"{self.boxes} boxes; largest difference of a centre or side {largest:.2g} of the crop "
            f"({largest * self.crop_px:.2g} px), mean {mean:.2g}"
        ]


def refusal(verdict: Verdict | BoxVerdict, proof: Proof) -> str | None:
    """Why a verdict does not pass, None where it does. No number is within any tolerance if an answer is NaN."""
    if isinstance(verdict, BoxVerdict) or verdict.precision == "fp16":
        largest = (
            verdict.largest_box_difference if isinstance(verdict, BoxVerdict) else verdict.largest_posterior_difference
        )
        return None if largest <= proof.tolerance else f"{verdict.worst}, --tolerance is {proof.tolerance:g}"

    if not math.isfinite(verdict.largest_posterior_difference):
        return f"{verdict.what} has answers that are no numbers"
    pairs, bound = verdict.pairs, proof.max_drop_bound
    if pairs.difference_percent > proof.max_drop:
        return f"{verdict.drop}, --max-drop is {proof.max_drop:g}"
    if bound is not None and pairs.interval95_percent[1] > bound:
        needed = _say_needed(pairs, bound)
        return f"{verdict.drop}, of which the upper limit counts, --max-drop-bound is {bound:g}: {needed}"
    return None


def is_beyond_mending(verdict: Verdict | BoxVerdict, proof: Proof) -> bool:
    """True where the images are so few that not even FP32's own answers would be within --max-drop-bound."""
    if isinstance(verdict, BoxVerdict) or proof.max_drop_bound is None:
        return False
    pairs = verdict.pairs
    wrong = pairs.both_wrong + pairs.only_first_wrong
    same = Paired(wrong, 0, 0, pairs.images - wrong)
    return same.interval95_percent[1] > proof.max_drop_bound


def _say_needed(pairs: Paired, bound: float) -> str:
    """How many images like these would bring the upper limit of a difference down to `bound`."""
    if pairs.difference_percent >= bound:
        return "no number of such images brings it down to that"
    times = 2
    while _scaled(pairs, times).interval95_percent[1] > bound:
        times += 1 + times // 20
    return f"where as many of them are lost, about {times * pairs.images} images are needed"


def _scaled(pairs: Paired, times: int) -> Paired:
    both, one, other, right = (times * count for count in dataclasses.astuple(pairs))
    return Paired(both, one, other, right)


def pass_or_refuse(verdict: Verdict | BoxVerdict, path: Path, proof: Proof) -> dict[str, Any]:
    """Says the verdict and returns it for the sidecar. Raises GateError where it does not pass."""
    print("\n".join(verdict.lines()), flush=True)
    why = refusal(verdict, proof)
    if why is not None:
        advice = "build with --keep-single LAYER,... or --precision fp32"
        if proof.calibrate is None:
            advice = "try --calibrate DIR, which rescales a net that leaves half's range, or --precision fp32"
        nothing = "there is no engine"
        if verdict.precision == "int8":
            option = "--tolerance" if isinstance(verdict, BoxVerdict) else "--max-drop"
            nothing, advice = "nothing is written", f"allow more with {option}, or use --precision fp16"
        raise GateError(f"{path}: {why}, so {nothing}: {advice}")
    return said_of(verdict, proof)


def said_of(verdict: Verdict | BoxVerdict, proof: Proof) -> dict[str, Any]:
    """A verdict, and what it was held to, for a sidecar."""
    said = dataclasses.asdict(verdict)
    if isinstance(verdict, BoxVerdict) or verdict.precision == "fp16":
        return {**said, "tolerance": proof.tolerance}
    bound = {} if proof.max_drop_bound is None else {"max_drop_bound": proof.max_drop_bound}
    low, high = verdict.pairs.interval95_percent
    drop = {"top1_difference_percent": verdict.pairs.difference_percent, "interval95_percent": (low, high)}
    return {**said, **drop, "max_drop": proof.max_drop, **bound}
