"""What the page says first: the answer to what was asked, of results that are chosen by rule and not for their luck.

The protocol is the most thorough one: the last in the order of infer.views.PROTOCOLS, and the one with the most scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from infer.views import PROTOCOLS

from ..scores.paired import Paired, say_difference
from .pairs import Pair
from .results import Result

ORDER = list(PROTOCOLS)


class Headline(NamedTuple):
    """A sentence, the place of the result that it is about, and of the one it is compared with."""

    sentence: str
    place: int
    other: int | None = None


def headline(results: Sequence[Result], pairs: Sequence[Pair], *, baseline: str | None) -> Headline | None:
    """The answer of a page; None where nothing has labels. pairs: with the baseline, or all on one runtime.

    With a baseline: its difference to another model. Else, where there are FP32 and FP16 or INT8 of one model on one
    runtime: what the lower precision costs. Else the error of the fusion, or of the first model.
    """
    if baseline is not None and pairs:
        pair = max(pairs, key=lambda one: (thorough(results[one.second]), -one.second, -one.first))
        one, other = results[pair.first], results[pair.second]
        of = f", adjusted for {len(pairs)} pairs" if len(pairs) > 1 else ""
        return Headline(_difference(one, other, pair, of), pair.second, pair.first)

    labelled = [place for place, one in enumerate(results) if one.top1_error_percent is not None]
    if not labelled:
        return None
    fusions = [place for place in labelled if results[place].engine_seconds is None]
    models = fusions or [place for place in labelled if results[place].model == results[labelled[0]].model]
    place = max(models, key=lambda place: (thorough(results[place]), -place))
    own = results[place]
    low, high = own.top1_interval95_percent or (0.0, 100.0)
    sentence = (
        f"{own.model} errs on {own.top1_error_percent:.2f} % [{low:.1f}, {high:.1f}] of {own.images} images "
        f"(top-1, {own.protocol} on {own.runtime})"
    )
    if pairs:
        differing = sum(pair.differs for pair in pairs)
        sentence += f"; {differing or 'none'} of {len(pairs)} pairs of results differ{'s' if differing == 1 else ''}"
    return Headline(f"{sentence}.", place)


def say_precision(single: Result, lower: Result, counts: Paired) -> str:
    """What a lower precision costs one model by one protocol, in one sentence."""
    name = precision_name(lower)
    said = say_difference(counts.images, counts.difference_percent, counts.interval95_percent, counts.p, "FP32", name)
    return f"{name} against FP32, {single.model} by {single.protocol}: {said}."


def precision_name(result: Result) -> str:
    """The precision of a result's runtime, as people write it: of `tensorrt-int8` INT8."""
    return result.runtime.rpartition("-")[2].upper()


def thorough(result: Result) -> tuple[int, int]:
    """How thorough a result's protocol is, to be compared."""
    place = ORDER.index(result.protocol) if result.protocol in ORDER else len(ORDER)  # of a submission: several
    return place, len(result.scales)


def _difference(one: Result, other: Result, pair: Pair, of: str) -> str:
    """The sentence on a pair with the baseline; its words name what tells the two apart."""
    names = [one.model, other.model]
    if one.model == other.model:
        names = [f"{result.model} on {result.runtime}" for result in (one, other)]
    if one.model == other.model and one.runtime == other.runtime:
        names = [f"{result.model} by {result.protocol}" for result in (one, other)]
    said = say_difference(
        pair.images, pair.top1_difference_percent, pair.top1_interval95_percent, pair.top1_holm_p, *names
    )
    views = one.protocol if one.views[1:] == other.views[1:] else f"{one.protocol} and {other.protocol}"
    return f"{names[1]} against {names[0]} by {views}: {said}{of}."
