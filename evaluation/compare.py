"""Two score tables of the same images: which errs less, how often they agree, where they differ, and on what pixels.

The tables may be of different models, protocols and runtimes.

python -m evaluation.compare A.parquet B.parquet [--top N] [--changed] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from infer.command import Parser, exit_with, print_notes, run, whole_argument
from infer.errors import one_line

from .scores import table as tables
from .scores.comparison import Comparison, compare
from .scores.metrics import TOP5_CLASSES
from .scores.paired import say_verdict
from .scores.table import CPU_DECODER, WHY_UNROUNDED, Scores
from .text import cell

LAYERS = "python -m export.to_trt MODEL.onnx --verify DIR names the layers in which FP16 or INT8 differs from FP32"
DIFFERING = 20
"""Images on which the tables differ that are listed unless told otherwise."""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.compare", description="Compare two score tables of the same images.")
    add = parser.add_argument
    add("tables", nargs=2, type=Path, metavar="TABLE.parquet")
    add("--top", type=whole_argument, default=DIFFERING, metavar="N", help="differing images (default: %(default)s)")
    add("--changed", action="store_true", help="name every image that B gains or loses against A")
    add("--json", action="store_true", help="everything as one JSON object, all differing images too")
    args = parser.parse_args(argv)
    return run(parser, lambda: _compare(args))


def _compare(args: argparse.Namespace) -> int:
    found = compare(*map(tables.parts, args.tables))
    if args.json:
        print_notes([*_say_decoders(found), *_say_unrounded(found)])
        print(json.dumps(_finite(asdict(found)), allow_nan=False))
    else:
        one, other = map(tables.read_head, args.tables)
        print(format_comparison(found, one, other, args.top, changed=args.changed))
    return 0


def _finite(value: Any) -> Any:
    """What JSON can hold: null for a number that is not finite, as where an answer overflows."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_comparison(found: Comparison, one: Scores, other: Scores, count: int, *, changed: bool = False) -> str:
    """The comparison of tables A and B to read, with the first `count` differing images; all changed ones if asked."""
    lines = [f"A: {_describe_table(one)}", f"B: {_describe_table(other)}"]
    has_top5 = len(one.classes) >= TOP5_CLASSES
    same_top5 = f", same top-5 for {found.top5_agreement_percent:.2f} %" if has_top5 else ""
    lines.append(
        f"{found.images} images scored by both, {found.unreadable} not: same top-1 for "
        f"{found.top1_agreement_percent:.2f} %{same_top5}; "
        f"largest difference of a posterior {found.largest_posterior_difference:.2g}"
    )

    for k, percents, only, p in (
        (1, found.top1_error_percent, found.top1_only_wrong, found.top1_mcnemar_p),
        (5, found.top5_error_percent, found.top5_only_wrong, found.top5_mcnemar_p),
    ):
        if percents and found.top1_difference_percent is not None and (k == 1 or has_top5):
            lines.append(
                f"top-{k} error {percents[0]:.2f} % and {percents[1]:.2f} %: only A wrong on {only[0]}, only B on "
                f"{only[1]} images, McNemar's exact test p = {p:.2g}"
            )
    lines += [*_say_decoders(found), *_say_unrounded(found), *_verdicts(found, has_top5=has_top5)]
    if _is_of_lower_precision(one, other):
        lines.append(LAYERS)

    if found.same_pixels is None:
        lines.append("pixels: not comparable, since the views differ or a table is a fusion")
    else:
        lines.append(f"pixels: the same for {found.same_pixels} of {found.images} images")

    if found.differing:
        rows, words = [], _words(one)
        for each in found.differing[:count]:
            first, second = (f"{name}{words.get(name, '')}" for name in (each.first, each.second))
            answers = f"{first} {each.first_probability:.2f}", f"{second} {each.second_probability:.2f}"
            label = f"{each.label}{words.get(each.label, '')}" if each.label else ""
            rows.append([cell(text) for text in (each.image, label, *answers)])
        lines += ["", tabulate(rows, ["image", "true", "A", "B"], tablefmt="pipe", disable_numparse=True)]
        if len(found.differing) > count:
            lines.append(f"... and {len(found.differing) - count} more")

    if changed:
        for said, names in (("gained: A wrong, B right", found.gained), ("lost: A right, B wrong", found.lost)):
            lines += ["", f"{said} ({len(names)})", *(f"- {cell(name)}" for name in names)]
    return "\n".join(lines)


def _say_decoders(found: Comparison) -> list[str]:
    """What decoded each, where it was not the same."""
    one, other = found.decoders
    if one == other:
        return []
    return [f"A was decoded by {one}, B by {other}: their pixels may differ by a grey level (docs/gpu.md)"]


def _say_unrounded(found: Comparison) -> list[str]:
    return [f"{name} is {WHY_UNROUNDED}" for name, is_so in zip("AB", found.unrounded, strict=True) if is_so]


def _verdicts(found: Comparison, *, has_top5: bool) -> Iterator[str]:
    """Sentences on which of A and B errs less."""
    pairs = found.top1_pairs
    if not pairs.images:
        yield "no image has a label: which errs less is not known"
        return
    if found.top1_difference_percent is None:
        yield "which errs less is not known: one of them alone was not rounded"
        return

    yield f"top-1 verdict: {say_verdict(pairs, found.top1_mcnemar_p, 'A', 'B')}"
    if has_top5:
        yield f"top-5 verdict: {say_verdict(found.top5_pairs, found.top5_mcnemar_p, 'A', 'B')}"
    yield f"B - A over {pairs.images} labelled images, each with both answers; 95 % interval by Newcombe's method 10"

    # what a table could not score makes it look worse
    one, other = found.scored_by_one
    if one or other:
        yield f"only A could score {one} of them, only B {other}: what a table could not score counts as wrong for it"
    yield f"B gains {len(found.gained)} images and loses {len(found.lost)} (top-1)"


def _is_of_lower_precision(one: Scores, other: Scores) -> bool:
    """True for one net in FP32 and in FP16 or INT8, in either order."""
    specs = [json.loads(table.metadata["spec"]) for table in (one, other)]
    same_net = len({(table.model, spec.get("net")) for table, spec in zip((one, other), specs, strict=True)}) == 1
    precisions = {spec.get("precision") for spec in specs}
    return same_net and len(precisions) == 2 and "fp32" in precisions


def _words(table: Scores) -> dict[str, str]:
    """The first word of each class, to be put behind its WNID."""
    names = json.loads(table.metadata["spec"]).get("class_names") or ()
    pairs = zip(table.classes, names, strict=False)
    return {name: f" ({str(words).split(',')[0]})" for name, words in pairs if name != words}


def _describe_table(table: Scores) -> str:
    metadata = table.metadata
    decoder = "" if table.decoder == CPU_DECODER else f", decoded by {table.decoder}"
    return one_line(f"{table.model} ({metadata['runtime']}, {metadata['protocol']} at {metadata['scales']}{decoder})")


if __name__ == "__main__":
    exit_with(main)
