"""Results of runs paired with each other, or with a baseline: a model's name, or the OUT folder of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infer.errors import UsageError

from ..errors import ReportError
from ..scores.paired import WrongAnswers
from ..scores.table import read_head
from .pairs import Pair, pairs_by_runtime, pairs_with_baseline
from .results import ReportedRun, Result

Tables = Sequence[WrongAnswers | None]
"""The wrong answers of every result of several runs, in their order; None for one that has no table."""


def wrong_answers(
    run: ReportedRun, result: Result, known: Sequence[tuple[Result, WrongAnswers]] = ()
) -> WrongAnswers | None:
    """The wrong answers of a labelled result's table, read unless they are known; None where it has none."""
    for other, wrong in known:
        if other is result:
            return wrong
    path = run.table(result)
    if path is None or result.top1_error_percent is None:
        return None
    wrong = WrongAnswers()
    for part in run.parts(result, path):
        wrong.add(part)
    run.check_errors(wrong, result, path)
    return wrong


def unrounded_places(runs: Sequence[ReportedRun]) -> list[int]:
    """The places of the results, among those of all runs, whose tables are `unrounded`."""
    found = []
    every = [(run, result) for run in runs for result in run.report.results]
    for place, (run, result) in enumerate(every):
        path = run.table(result) if "fp16" in result.runtime else None
        if path is not None and read_head(path).unrounded:
            found.append(place)
    return found


def places_of(runs: Sequence[ReportedRun], baseline: str) -> list[int]:
    """The places of a baseline's results among those of all runs, at least one.

    Raises UsageError for what is none, and for a model of several runs: a new one of its name would be held to nothing.
    """
    # the name of a model goes before that of a folder, which may be written as ./NAME
    every = [(run, result) for run in runs for result in run.report.results]
    chosen = [place for place, (_, result) in enumerate(every) if result.model == baseline]
    outs = dict.fromkeys(str(every[place][0].out) for place in chosen)
    if len(outs) > 1:
        raise UsageError(
            f"--baseline {baseline}: a model of {' and of '.join(outs)}, expected one of these OUT folders"
        )
    if not chosen:
        folder = Path(baseline).resolve()
        chosen = [place for place, (run, _) in enumerate(every) if run.out.resolve() == folder]
    if not chosen:
        models = ", ".join(dict.fromkeys(result.model for _, result in every))
        raise UsageError(f"--baseline {baseline}: expected one of the models {models}, or one of the OUT folders")
    return chosen


def pair_up(runs: Sequence[ReportedRun], tables: Tables, baseline: str | None) -> list[Pair]:
    """The pairs on one runtime, or those with the baseline. Raises UsageError and ReportError for what is none."""
    if baseline is None:
        return pairs_by_runtime(tables)

    found = pairs_with_baseline(tables, places_of(runs, baseline))
    if not found:
        raise ReportError(
            f"--baseline {baseline}: nothing can be paired with it, expected another score table of the same labelled "
            "images (one of FP16 that was not rounded is paired only with such)"
        )
    return found
