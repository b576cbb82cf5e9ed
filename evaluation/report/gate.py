"""--fail-above: whether errors, and what was lost against a baseline, are within limits, as an exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from infer.command import Parser
from infer.errors import one_line

from .pairs import Pair
from .results import Result
from .write import say_result

FAILED = 3
"""The exit status where something is above its limit; nothing else ends with it."""
TOP1, TOP5, DROP = "top1", "top5", "drop"
LIMITS = (TOP1, TOP5, DROP)
NAMED = 3
"""Results above a limit that the line names."""

Limits = Mapping[str, float]
"""The highest top-1 and top-5 error in percent, and the largest drop against the baseline in points of top-1 error."""


def add_gate_options(parser: argparse.ArgumentParser, baseline_help: str) -> None:
    """Adds --fail-above and --baseline."""
    limits = (
        "end with status 3 where an error (percent), or the drop against the --baseline (points), is above its limit"
    )
    parser.add_argument("--fail-above", type=limits_argument, metavar="top1=25.0,top5=8.0,drop=0.5", help=limits)
    parser.add_argument("--baseline", metavar="MODEL|OUT", help=baseline_help)


def check_gate(parser: Parser, limits: Limits | None, baseline: str | None) -> None:
    """Ends with a usage error where a drop has nothing to be measured from."""
    if limits and DROP in limits and baseline is None:
        parser.error("--fail-above drop needs --baseline MODEL or OUT, what the drop is measured from")


def limits_argument(text: str) -> dict[str, float]:
    """`top1=25.0,drop=0.5` as numbers, for argparse."""
    found: dict[str, float] = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if name not in LIMITS or name in found or not 0 <= limit <= 100:
            raise argparse.ArgumentTypeError(
                f"expected each of {', '.join(LIMITS)} at most once with a number from 0 to 100, like "
                f"top1=25.0,drop=0.5, got {word[:80]!r}"
            )
        found[name] = limit
    return found


class Measured(NamedTuple):
    """A number that has a limit. value: None where it is not known, which is above every limit."""

    name: str
    value: float | None
    words: str


class Verdict(NamedTuple):
    """Whether all is within its limits, and one line that says so."""

    failed: bool
    line: str


def judge(
    limits: Limits,
    results: Sequence[Result],
    pairs: Sequence[Pair],
    baseline: Collection[int] = (),
    unrounded: Collection[int] = (),
) -> Verdict:
    """Holds every result but the baseline's to the limits. pairs: with the baseline; baseline: places of its results.

    unrounded: places of FP16 that was not rounded, whose errors are not known. A drop is the paired estimate on the
    same images; its interval is said, and decides nothing. What is not known is above every limit, but for the drop of
    a fusion that has no score table (of an earlier version), which is said.
    """
    judged = {*baseline, *(pair.second for pair in pairs)}
    unpaired = [place for place in range(len(results)) if place not in judged]
    unknown = [results[place] for place in unpaired if results[place].has_table]
    measured = [*_errors(limits, results, baseline, unrounded), *_drops(limits, results, pairs, unknown)]
    above = [one for one in measured if one.value is None or one.value > limits[one.name]]
    if above:
        more = f", and {len(above) - NAMED} more" if len(above) > NAMED else ""
        said = "; ".join(f"{one.words} (limit {limits[one.name]:g})" for one in above[:NAMED])
        return Verdict(True, f"--fail-above: above the limit: {said}{more}")

    # the highest of each kind says how near it was
    nearest = []
    for name in limits:
        most = max((one for one in measured if one.name == name), key=lambda one: one.value or 0, default=None)
        nearest.append(f"{most.words} (limit {limits[name]:g})" if most else f"no result for {name}")
    line = f"--fail-above: all within the limits, at most {'; '.join(nearest)}"
    fusions = len(unpaired) - len(unknown)
    if DROP in limits and fusions:
        line += f"; {fusions} fusions have no score table and are not held to {DROP}"
    return Verdict(False, line)


def tell(verdict: Verdict, *, quiet: bool = False) -> int:
    """Prints the line, on stderr where a limit was passed or where stdout must be `quiet`; returns the exit status."""
    print(one_line(verdict.line), file=sys.stderr if verdict.failed or quiet else sys.stdout)
    return FAILED if verdict.failed else 0


def _errors(
    limits: Limits, results: Sequence[Result], baseline: Collection[int], unrounded: Collection[int]
) -> list[Measured]:
    found = []
    for place, result in enumerate(results):
        for name, said, value, interval in (
            (TOP1, "top-1", result.top1_error_percent, result.top1_interval95_percent),
            (TOP5, "top-5", result.top5_error_percent, result.top5_interval95_percent),
        ):
            if name in limits and place not in baseline:
                of = f"{said} error of {_say(result)}"
                if place in unrounded:
                    found.append(Measured(name, None, f"{of} is not known: FP16 that was not rounded on a CPU"))
                elif value is None or interval is None:
                    found.append(Measured(name, None, f"{of} is not known"))
                else:
                    words = f"{of} {value:.3f} % [{interval[0]:.2f}, {interval[1]:.2f}]"
                    found.append(Measured(name, value, words))
    return found


def _drops(
    limits: Limits, results: Sequence[Result], pairs: Sequence[Pair], unknown: Sequence[Result]
) -> list[Measured]:
    if DROP not in limits:
        return []

    why = "no pair with the baseline (of other images, or of FP16 that was not rounded)"
    found = [Measured(DROP, None, f"drop of {_say(one)} is not known: {why}") for one in unknown]
    for pair in pairs:
        low, high = pair.top1_interval95_percent
        words = (
            f"drop of {_say(results[pair.second])} against {_say(results[pair.first])} "
            f"{pair.top1_difference_percent:+.3f} points [{low:+.2f}, {high:+.2f}]"
        )
        found.append(Measured(DROP, pair.top1_difference_percent, words))
    return found


def _say(result: Result) -> str:
    return f"{say_result(result)} on {result.runtime}"
