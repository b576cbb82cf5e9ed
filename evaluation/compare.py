"""Two score tables of the same images: how often they agree, which errs more, where they differ, and on what pixels.

python -m evaluation.compare A.parquet B.parquet [--top N] [--json]
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from infer.command import Parser, run

from . import scores as tables
from .metrics import agreement_percent, mcnemar, top_errors
from .scores import Scores, ScoresError, check_same_images

DIFFERING = 20
"""How many images on which the tables differ are listed unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An image whose first answers differ: what each says and how sure it is."""

    image: str
    label: str | None
    first: str
    first_probability: float
    second: str
    second_probability: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """`images` counts those that both could score; errors are of all labelled ones, None without labels."""

    images: int
    unreadable: int
    top1_agreement_percent: float
    top5_agreement_percent: float
    largest_posterior_difference: float
    top1_error_percent: tuple[float, float] | None
    top5_error_percent: tuple[float, float] | None
    top1_only_wrong: tuple[int, int]
    top1_mcnemar_p: float
    top5_only_wrong: tuple[int, int]
    top5_mcnemar_p: float
    same_pixels: int | None  # images whose pixels gave the same digest; None: the views differ, or a table is a fusion
    differing: tuple[Difference, ...]  # the largest differences of confidence first


def compare(one: Scores, other: Scores) -> Comparison:
    """Raises ScoresError unless the tables have the same images and classes, and one that both could score."""
    check_same_images(one, other)
    seen = one.readable & other.readable
    if not seen.any():
        raise ScoresError(f"none of {len(seen)} images was scored by both {one.model} and {other.model}")
    errors = list(zip(top_errors([one], (1, 5)), top_errors([other], (1, 5)), strict=True))
    percents = [(a.percent, b.percent) if a and b else None for a, b in errors]
    tests = [mcnemar(one, other, k) for k in (1, 5)]
    same_views = all(one.metadata[key] == other.metadata[key] for key in ("protocol", "scales"))
    comparable = same_views and all(digest for scores in (one, other) for digest in np.array(scores.pixels)[seen])
    return Comparison(
        int(seen.sum()),
        int((~seen).sum()),
        agreement_percent(one, other, 1),
        agreement_percent(one, other, 5),
        float(np.abs(one.posterior[seen] - other.posterior[seen]).max()),
        percents[0],
        percents[1],
        (tests[0].only_first_wrong, tests[0].only_second_wrong),
        tests[0].p,
        (tests[1].only_first_wrong, tests[1].only_second_wrong),
        tests[1].p,
        int((np.array(one.pixels) == np.array(other.pixels))[seen].sum()) if comparable else None,
        _differing(one, other, np.flatnonzero(seen)),
    )


def _differing(one: Scores, other: Scores, places: np.ndarray) -> tuple[Difference, ...]:
    classes = one.classes
    found = []
    for place in places:
        a, b = (int(scores.posterior[place].argmax()) for scores in (one, other))
        if a != b:
            label = int(one.labels[place])
            known = classes[label] if label >= 0 else None
            sure = float(one.posterior[place, a]), float(other.posterior[place, b])
            found.append(Difference(one.images[place], known, classes[a], sure[0], classes[b], sure[1]))
    return tuple(sorted(found, key=lambda each: -(each.first_probability + each.second_probability)))


def describe(found: Comparison, one: Scores, other: Scores, count: int) -> str:
    """The comparison to read, with the first `count` differing images."""
    names = [
        f"{s.model} ({s.metadata['runtime']}, {s.metadata['protocol']} at {s.metadata['scales']})" for s in (one, other)
    ]
    lines = [
        f"A: {names[0]}",
        f"B: {names[1]}",
        f"{found.images} images scored by both, {found.unreadable} not: same top-1 for "
        f"{found.top1_agreement_percent:.2f} %, same top-5 for {found.top5_agreement_percent:.2f} %; "
        f"largest difference of a posterior {found.largest_posterior_difference:.2g}",
    ]
    for k, percents, only, p in (
        (1, found.top1_error_percent, found.top1_only_wrong, found.top1_mcnemar_p),
        (5, found.top5_error_percent, found.top5_only_wrong, found.top5_mcnemar_p),
    ):
        if percents is not None:
            lines.append(
                f"top-{k} error {percents[0]:.2f} % and {percents[1]:.2f} %: only A wrong on {only[0]}, only B on "
                f"{only[1]} images, McNemar's exact test p = {p:.2g}"
            )
    if found.same_pixels is None:
        lines.append("pixels: not comparable, since the views differ or a table is a fusion")
    else:
        lines.append(f"pixels: the same for {found.same_pixels} of {found.images} images")
    if found.differing:
        rows = [
            (
                each.image,
                each.label,
                f"{each.first} {each.first_probability:.2f}",
                f"{each.second} {each.second_probability:.2f}",
            )
            for each in found.differing[:count]
        ]
        lines += ["", tabulate(rows, headers=["image", "true", "A", "B"], tablefmt="pipe")]
        if len(found.differing) > count:
            lines.append(f"... and {len(found.differing) - count} more")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m evaluation.compare", description="Compare two score tables of the same images.")
    parser.add_argument("tables", nargs=2, type=Path, metavar="TABLE.parquet")
    parser.add_argument(
        "--top", type=int, default=DIFFERING, metavar="N", help="differing images (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object, all differing images too")
    args = parser.parse_args(argv)
    try:
        one, other = (tables.read(path) for path in args.tables)
        found = compare(one, other)
    except (ScoresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(found)) if args.json else describe(found, one, other, args.top))
    return 0


if __name__ == "__main__":
    run(main)
